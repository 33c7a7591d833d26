#!/usr/bin/env bash
# Many groups: three `kontiki start` brokers and a controller, one topic of so many partitions with three replicas each, nothing
# produced. Prints, one figure a line: seconds to create and to elect, idle CPU of the three brokers, bytes per beat and broker pair,
# RSS and disk per replica, descriptors, seconds until every group of a killed broker is led again, seconds until it is back.
#   many-groups.sh [GROUPS] [DIR]      default 10000, target/long/many-groups; KONTIKI names the binary, PORT the first of 20 ports
#   many-groups.sh --check [GROUPS]    default 300: asserts what does not depend on the machine; for CI
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KONTIKI=${KONTIKI:-$ROOT/target/release/kontiki}
PORT=${PORT:-31092}
CHECK=
GROUPS_WANTED=10000
if [ "${1:-}" = --check ]; then CHECK=1 GROUPS_WANTED=300; shift; fi
COUNT=${1:-$GROUPS_WANTED}
DIR=${2:-$ROOT/target/long/many-groups}
TICKS=$(getconf CLK_TCK)
REPLICA_FACTOR=3

die() { echo "error: $*" >&2; tail -n 3 "$DIR"/node-*/log >&2 || true; exit 1; }
[ -x "$KONTIKI" ] || { echo "error: $KONTIKI is missing; cargo build --release" >&2; exit 1; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
pid() { cat "$DIR/node-$1/pid"; }

run_node() { # N
  local n=$1
  local roles=(--roles broker --listen "127.0.0.1:$((PORT + n - 1))")
  [ "$n" != 4 ] || roles=(--roles controller)
  mkdir -p "$DIR/node-$n"
  setsid nohup "$KONTIKI" start --node-id "$n" "${roles[@]}" --controllers "4@127.0.0.1:$((PORT + 14))" \
    --peer-listen "127.0.0.1:$((PORT + 10 + n))" --admin-listen "127.0.0.1:$((PORT + 4 + n))" --data-dir "$DIR/node-$n/data" \
    >>"$DIR/node-$n/log" 2>&1 </dev/null &
  echo $! >"$DIR/node-$n/pid"
}

stop_all() {
  local f
  for f in "$DIR"/node-*/pid; do [ ! -e "$f" ] || kill -9 "$(cat "$f")" 2>/dev/null || true; done
  wait 2>/dev/null || true
}

# What a node answers on its admin address; nothing if it does not.
get() { # N PATH
  { exec 3<>"/dev/tcp/127.0.0.1/$((PORT + 4 + $1))"; } 2>/dev/null || return 0
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3
  timeout 20 cat <&3 || true
  exec 3<&-
}
health() { # N KEY
  get "$1" /health | grep -o "\"$2\":[0-9]*" | cut -d: -f2 || true
}
sum() { # KEY NODE...
  local key=$1 total=0 value; shift
  for n in "$@"; do value=$(health "$n" "$key"); total=$((total + ${value:-0})); done
  echo "$total"
}
wait_for() { # SECONDS WHAT KEY VALUE NODE...
  local limit=$1 what=$2 key=$3 value=$4 start; shift 4
  start=$(now)
  until [ "$(sum "$key" "$@")" -ge "$value" ]; do
    [ "$(since "$start" | cut -d. -f1)" -lt "$limit" ] || die "$what: $key is $(sum "$key" "$@") of $value after $limit s"
    sleep 0.1
  done
}
cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$(pid "$1")/stat"; }
rss_kb() { awk '/^VmRSS/ { print $2 }' "/proc/$(pid "$1")/status"; }
to_brokers() { # bytes that broker N has written to the other two
  get "$1" /metrics | awk '/^kontiki_peer_bytes_out_total\{peer="[123]"\}/ { total += $2 } END { printf "%d", total }'
}
total() { local all=0 n; for n in 1 2 3; do all=$((all + $("$1" "$n"))); done; echo "$all"; }

mkdir -p "$DIR"; stop_all; rm -rf "$DIR"/node-*
trap stop_all EXIT
for n in 4 1 2 3; do run_node "$n"; done
"$KONTIKI" ready -B "127.0.0.1:$PORT" --brokers 3 --timeout 60s >"$DIR/ready.log" 2>&1 || die "not ready: $(cat "$DIR/ready.log")"
empty=$(total rss_kb)

start=$(now)
"$KONTIKI" topic create many -B "127.0.0.1:$PORT" -p "$COUNT" -r "$REPLICA_FACTOR" >"$DIR/create.log" 2>&1 || die "topic not created"
echo "created_s $(since "$start")"
wait_for 120 "replicas placed" replicas $((COUNT * REPLICA_FACTOR)) 1 2 3
echo "placed_s $(since "$start")"
wait_for 120 "leaders elected" led "$COUNT" 1 2 3
echo "elected_s $(since "$start")"

# Let preferred leaders take over, hints go round, the first checkpoint pass.
sleep "${SETTLE:-$([ -n "$CHECK" ] && echo 5 || echo 60)}"
idle=${IDLE:-$([ -n "$CHECK" ] && echo 10 || echo 30)}
ticks=$(total cpu_ticks) bytes=$(total to_brokers) at=$(now)
sleep "$idle"
ticks=$(($(total cpu_ticks) - ticks)) took=$(since "$at") bytes=$(($(total to_brokers) - bytes))
awk -v t="$ticks" -v hz="$TICKS" -v s="$took" 'BEGIN { printf "idle_cpu_percent_of_a_core %.1f\n", 100 * t / hz / s }'
# Both directions of three pairs, ten beats a second; answers, hints and sessions are in it.
per_beat=$(awk -v b="$bytes" -v s="$took" 'BEGIN { printf "%d", b / 3 / (s * 10) }')
echo "bytes_per_beat_and_pair $per_beat"
rss=$(total rss_kb)
awk -v a="$empty" -v b="$rss" -v n=$((COUNT * REPLICA_FACTOR)) 'BEGIN { printf "rss_kib_per_replica %.2f\n", (b - a) / n }'
echo "rss_mib_per_broker $((rss / 3 / 1024))"
echo "disk_kib_per_replica $(($(du -sk "$DIR"/node-[123]/data/groups | awk '{ s += $1 } END { print s }') / COUNT / REPLICA_FACTOR))"
echo "descriptors_of_a_broker $(ls "/proc/$(pid 1)/fd" | wc -l)"

victim=1
mine=$(health "$victim" led)
kill -9 "$(pid "$victim")"
start=$(now)
wait_for 60 "groups led again" led "$COUNT" 2 3
echo "led_again_s $(since "$start") (of $mine groups)"

run_node "$victim"
start=$(now)
wait_for 300 "replicas back" replicas "$COUNT" "$victim"
echo "restarted_s $(since "$start")"
wait_for 60 "groups led after the restart" led "$COUNT" 1 2 3

if [ -n "$CHECK" ]; then
  # A full message takes more than 250 bytes with its answer. Headers, hints and sessions are up to 600 bytes a beat in all.
  limit=$((600 + COUNT * 3))
  [ "$per_beat" -le "$limit" ] || die "$per_beat bytes per beat and pair for $COUNT groups, at most $limit expected"
  "$KONTIKI" ready -B "127.0.0.1:$((PORT + 1))" --brokers 3 --topic many --timeout 60s >"$DIR/ready.log" 2>&1 || die "not ready: $(cat "$DIR/ready.log")"
  echo "many groups: all led again, $per_beat bytes per beat and pair"
fi
