#!/usr/bin/env bash
# A broker of four dies for good and its replicas are made anew: four `kontiki start` brokers and a controller, one topic of so many
# partitions with three replicas and some data each, a producer that goes on. Prints, one figure a line: replicas and bytes to copy, seconds
# until every partition has three replicas again, the least that the throttle allows and the ratio, CPU and memory of the controller.
#   replace.sh [PARTITIONS] [KIB_EACH] [DIR]   default 1000, 2048, target/long/replace; needs three times that on disk, and a half
# KONTIKI names the binary, PORT the first of 20 ports, THROTTLE the bytes a second that a broker gives to replicas far behind (20 MB).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KONTIKI=${KONTIKI:-$ROOT/target/release/kontiki}
PORT=${PORT:-31192} THROTTLE=${THROTTLE:-20000000} GRACE_MS=3000
COUNT=${1:-1000} KIB=${2:-2048} DIR=${3:-$ROOT/target/long/replace}
TICKS=$(getconf CLK_TCK)
DEAD=2

die() { echo "error: $*" >&2; tail -n 3 "$DIR"/node-*/log >&2 || true; exit 1; }
[ -x "$KONTIKI" ] || { echo "error: $KONTIKI is missing; cargo build --release" >&2; exit 1; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
pid() { cat "$DIR/node-$1/pid"; }

run_node() { # N
  local n=$1
  local roles=(--roles broker --listen "127.0.0.1:$((PORT + n - 1))")
  [ "$n" != 5 ] || roles=(--roles controller)
  mkdir -p "$DIR/node-$n"
  setsid nohup "$KONTIKI" start --node-id "$n" "${roles[@]}" --controllers "5@127.0.0.1:$((PORT + 15))" \
    -c "replace.grace.ms=$GRACE_MS" -c "leader.replication.throttled.rate=$THROTTLE" \
    --peer-listen "127.0.0.1:$((PORT + 10 + n))" --admin-listen "127.0.0.1:$((PORT + 4 + n))" --data-dir "$DIR/node-$n/data" \
    >>"$DIR/node-$n/log" 2>&1 </dev/null &
  echo $! >"$DIR/node-$n/pid"
}

stop_all() {
  local f
  for f in "$DIR"/node-*/pid "$DIR"/producer.pid; do [ ! -e "$f" ] || kill -9 "$(cat "$f")" 2>/dev/null || true; done
  wait 2>/dev/null || true
}

# What a node answers on its admin address; nothing if it does not.
get() { # N PATH
  { exec 3<>"/dev/tcp/127.0.0.1/$((PORT + 4 + $1))"; } 2>/dev/null || return 0
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3
  timeout 20 cat <&3 || true
  exec 3<&-
}
# Replicas that a broker holds, and their bytes.
held() { get "$1" /metrics | awk '/^kontiki_partition_size_bytes\{topic="moved"/ { n++; b += $2 } END { printf "%d %d", n, b }'; }
# Partitions with a leader and three in sync, none of them on the dead broker.
whole() {
  "$KONTIKI" topic describe moved -B "$SERVERS" --section partitions --output json 2>/dev/null | python3 -c '
import json, sys
dead = int(sys.argv[1])
topic = json.load(sys.stdin)["items"][0]
print(sum(p["leader"] > 0 and len(p["in_sync"]) >= 3 and dead not in p["replicas"] for p in topic["partitions"]))' "$DEAD" || echo 0
}
cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$(pid "$1")/stat"; }
rss_mib() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$(pid "$1")/status"; }

mkdir -p "$DIR"; stop_all; rm -rf "$DIR"/node-*
trap stop_all EXIT
for n in 5 1 2 3 4; do run_node "$n"; done
SERVERS="127.0.0.1:$PORT,127.0.0.1:$((PORT + 2)),127.0.0.1:$((PORT + 3))"
"$KONTIKI" ready -B "$SERVERS" --brokers 4 --timeout 60s >"$DIR/ready.log" 2>&1 || die "not ready: $(cat "$DIR/ready.log")"
"$KONTIKI" topic create moved -B "$SERVERS" -p "$COUNT" -r 3 >"$DIR/create.log" 2>&1 || die "topic not created"
start=$(now)
"$KONTIKI" bench produce -B "$SERVERS" -t moved --prebuilt --record-size 16384 --num-records $((COUNT * KIB / 16)) >"$DIR/fill.log" 2>&1 \
  || die "not filled: $(cat "$DIR/fill.log")"
echo "filled_s $(since "$start")"
# The copies of what was just written are level, and preferred leaders lead.
sleep 15
read -r replicas bytes <<<"$(held "$DEAD")"
echo "replicas_to_copy $replicas"
echo "mib_to_copy $((bytes >> 20))"
"$KONTIKI" bench produce -B "$SERVERS" -t moved --rate 2000 --record-size 200 --duration 1h >"$DIR/load.log" 2>&1 &
echo $! >"$DIR/producer.pid"
sleep 2

ticks=$(cpu_ticks 5)
kill -9 "$(pid "$DEAD")"
start=$(now)
peak=0
until [ "$(whole)" = "$COUNT" ]; do
  [ "$(since "$start" | cut -d. -f1)" -lt 1800 ] || die "$(whole) of $COUNT partitions are whole after 1800 s"
  kill -0 "$(cat "$DIR/producer.pid")" || die "the producer ended: $(cat "$DIR/load.log")"
  rss=$(rss_mib 5)
  [ "$rss" -le "$peak" ] || peak=$rss
  sleep 0.5
done
took=$(since "$start")
ticks=$(($(cpu_ticks 5) - ticks))
echo "whole_again_s $took (of them $((GRACE_MS / 1000)) s of grace)"
# Three brokers are left to give.
awk -v b="$bytes" -v t="$THROTTLE" -v s="$took" 'BEGIN {
  least = b / t / 3; printf "least_by_throttle_s %.1f\nratio %.2f\n", least, s / least }'
awk -v t="$ticks" -v hz="$TICKS" -v s="$took" 'BEGIN { printf "controller_cpu_percent_of_a_core %.1f\n", 100 * t / hz / s }'
echo "controller_rss_mib $peak"
