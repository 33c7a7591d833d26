#!/usr/bin/env bash
# A crowd: three `kontiki start` brokers and a controller, and step by step 1,000 partitions with three replicas, 2,000 connections,
# 200 consumer groups of three members each, a load of records, the death of one broker and its return. After each step, as rows of
# a table: memory and CPU of a broker, and what a stock client that sends and reads one record at a time sees meanwhile.
#   load.sh [DIR]      default target/long/load; KONTIKI names the binary, PORT the first of 20 ports (default 33092), and
#                      CONNECTIONS (2000), GROUPS_WANTED (200), MEMBERS (3), PARTITIONS (5, of each group's topic), RATE (1000 records
#                      of 1 KiB a second), SECONDS_EACH (15, for which each step is watched)
. "$(dirname "$0")/../foreign/lib.sh"
KONTIKI=${KONTIKI:-$ROOT/target/release/kontiki}
PORT=${PORT:-33092}
CONNECTIONS=${CONNECTIONS:-2000} GROUPS_WANTED=${GROUPS_WANTED:-200} MEMBERS=${MEMBERS:-3} PARTITIONS=${PARTITIONS:-5}
RATE=${RATE:-1000} SECONDS_EACH=${SECONDS_EACH:-15}
DIR=${1:-$ROOT/target/long/load}
TICKS=$(getconf CLK_TCK)
CLUSTER=$ROOT/tests/long/kontiki-cluster.sh
export KONTIKI KONTIKI_KAFKA_MAX_CONNECTIONS_PER_IP=20000
[ -x "$KONTIKI" ] || die "$KONTIKI is missing; cargo build --release"
need "$FOREIGN/franz-load"
# Every process of the load has as many as its clients have connections; a broker has those of all clients, and its files.
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" -ge 10000 ] || die "ulimit -n is $(ulimit -n); 10000 are needed (ulimit -Hn)"

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
pid() { cat "$DIR/node-$1/pid"; }
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
  local key=$1 total=0 value n; shift
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
descriptors() { ls "/proc/$(pid "$1")/fd" | wc -l; }
open_connections() { get "$1" /metrics | awk '/^kontiki_connections / { print int($2) }'; }
most() { local high=0 n value f=$1; shift; for n in "$@"; do value=$($f "$n"); [ "${value:-0}" -le "$high" ] || high=$value; done; echo "$high"; }
total() { local all=0 n value f=$1; shift; for n in "$@"; do value=$($f "$n"); all=$((all + ${value:-0})); done; echo "$all"; }

probe() { "$FOREIGN/venv/bin/python" "$HERE/confluent/probe.py" "$(bootstrap)" probed "$1" 2>>"$DIR/probe.log"; }
bootstrap() { echo "127.0.0.1:$PORT,127.0.0.1:$((PORT + 1)),127.0.0.1:$((PORT + 2))"; }
tell() { # COMMAND: says it to the load and reads its answer
  local answer
  echo "$*" >&7
  read -r -t 600 answer <&8 || die "the load does not answer to: $*"
  echo "$answer"
}

row() { # STEP NODE...: watches for a while
  local step=$1 ticks own at took said; shift
  ticks=$(total cpu_ticks "$@") own=$(awk '{ print $14 + $15 }' "/proc/$LOAD_PID/stat") at=$(now)
  said=$(probe "$SECONDS_EACH")
  took=$(since "$at")
  ticks=$(($(total cpu_ticks "$@") - ticks)) own=$(($(awk '{ print $14 + $15 }' "/proc/$LOAD_PID/stat") - own))
  awk -v step="$step" -v n="$#" -v rss="$(most rss_kb "$@")" -v open="$(total open_connections "$@")" -v fds="$(most descriptors "$@")" \
    -v cpu="$ticks" -v own="$own" -v hz="$TICKS" -v s="$took" -v said="$said" 'BEGIN {
      split(said, p, " ")
      printf "| %s | %d | %d | %d | %.1f | %.1f | %s, %s, %s | %s, %s, %s |\n", step, rss / 1024, open, fds,
        100 * cpu / hz / s / n, 100 * own / hz / s, p[2], p[3], p[4], p[6], p[7], p[8]
      if (p[12] > 0) printf "%s: %s of %s records of the probe were not acknowledged\n", step, p[12], p[10] }' | tee -a "$DIR/table"
}
note() { echo "$*" | tee -a "$DIR/notes"; }

finish() {
  # By its own id: nothing else is ended.
  [ -z "${LOAD_PID:-}" ] || kill "$LOAD_PID" 2>/dev/null || true
  "$CLUSTER" stop "$DIR" || true
}
mkdir -p "$DIR"
"$CLUSTER" stop "$DIR"
rm -rf "$DIR"/node-* "$DIR"/table "$DIR"/notes "$DIR"/*.log
trap finish EXIT
"$CLUSTER" start "$DIR" "$PORT" >"$DIR/start.log"
"$KONTIKI" topic create probed -B "$(bootstrap)" -p 3 -r 3 >"$DIR/create.log"
coproc LOAD { exec "$FOREIGN/franz-load" "$(bootstrap)" crowd "$GROUPS_WANTED" "$MEMBERS" "$PARTITIONS" 2>"$DIR/load.log"; }
exec 7>&"${LOAD[1]}" 8<&"${LOAD[0]}"
echo "| step | RSS of the largest broker, MiB | client connections | descriptors of a broker | CPU of a broker, % of a core | CPU of the load | produce 50th, 99th, max ms | produce to fetch |" | tee "$DIR/table"
echo "|---|---|---|---|---|---|---|---|" | tee -a "$DIR/table"
row "empty" 1 2 3
empty=$(total rss_kb 1 2 3)

start=$(now)
all=$((GROUPS_WANTED * PARTITIONS))
others=$(sum led 1 2 3)
for ((i = 0; i < GROUPS_WANTED; i++)); do
  "$KONTIKI" topic create "crowd-$i" -B "$(bootstrap)" -p "$PARTITIONS" -r 3 >>"$DIR/create.log"
done
wait_for 120 "leaders" led $((others + all)) 1 2 3
note "$all partitions created by $GROUPS_WANTED commands and led after $(since "$start") s"
row "+ $all partitions" 1 2 3
placed=$(total rss_kb 1 2 3)
note "memory per replica: $(((placed - empty) / (all * 3))) KiB"

note "$CONNECTIONS connections: $(tell connect "$CONNECTIONS")"
row "+ $CONNECTIONS connections" 1 2 3
connected=$(total rss_kb 1 2 3)
note "memory per connection: $(awk -v a="$placed" -v b="$connected" -v n="$CONNECTIONS" 'BEGIN { printf "%.1f KiB", (b - a) / n }')"

tell groups >/dev/null
note "$GROUPS_WANTED groups of $MEMBERS: all partitions given out and all members committed after $(tell whole | cut -d' ' -f2) s"
row "+ $GROUPS_WANTED groups of $MEMBERS" 1 2 3
note "client connections of the groups: $(($(total open_connections 1 2 3) - CONNECTIONS)), memory per group member: $((($(total rss_kb 1 2 3) - connected) / (GROUPS_WANTED * MEMBERS))) KiB"

tell produce "$RATE" >/dev/null
tell report >/dev/null
row "+ $RATE records/s" 1 2 3
note "$(tell report)"

every=$(sum led 1 2 3) held=$(health 1 replicas)
start=$(now)
kill -9 "$(pid 1)"
(row "broker 1 killed" 2 3) &
watching=$!
wait_for 60 "groups led again" led "$every" 2 3
note "broker 1 killed: every partition led again after $(since "$start") s"
note "... every group whole, and every member has committed, after $(tell whole | cut -d' ' -f2) s more"
wait "$watching"
note "$(tell report)"
start=$(now)
"$CLUSTER" run "$DIR" 1 "$PORT"
wait_for 300 "replicas back" replicas "$held" 1
note "broker 1 started: its replicas are back after $(since "$start") s"
note "... every group whole, and every member has committed, after $(tell whole | cut -d' ' -f2) s more"
row "broker 1 back" 1 2 3
note "$(tell report)"
tell produce 0 >/dev/null
row "no records" 1 2 3
echo
cat "$DIR/notes"
