#!/usr/bin/env bash
# What does compaction cost who produces? Three brokers; twelve partitions of keyed records that wait to be compacted; produce to another topic is measured
# while every broker's cleaner works on them, and while none does, in turn:
#   cleaner.sh
# ROUNDS=5 (the order turns round each time), SECONDS_EACH=6 per measurement, MB=600 to be compacted in each round, DIR holds the data (use the disk you
# mean). Prints every run, then the medians and their ratio (below 1: produce is slower beside the cleaner); exit 1 if it is below LEAST=0, or if the cleaners
# did not work when they should, or did when they should not.
. "$(dirname "$0")/../foreign/lib.sh"
LONG=$(cd "$(dirname "$0")" && pwd)
[ $# = 0 ] || { sed -n 2,8p "$0" >&2; exit 2; }
ROUNDS=${ROUNDS:-5} SECONDS_EACH=${SECONDS_EACH:-6} MB=${MB:-600} LEAST=${LEAST:-0} DIR=${DIR:-$ROOT/target/cleaner} BASE=${BASE:-29192}
KONTIKI=${KONTIKI:-$ROOT/target/release/kontiki}
need "$FOREIGN/venv/bin/python"
need "$KONTIKI"
mkdir -p "$DIR"
trap '"$LONG/kontiki-cluster.sh" stop "$DIR/run" >/dev/null 2>&1 || true' EXIT
rm -rf "$DIR/run" "$DIR/results"
# Cleaners look around often, so that they begin with the measurement.
export KONTIKI_KAFKA_LOG_CLEANER_BACKOFF_MS=100
bootstrap=$(KONTIKI=$KONTIKI "$LONG/kontiki-cluster.sh" start "$DIR/run" "$BASE" | sed -n s/^bootstrap=//p)
"$FOREIGN/venv/bin/python" - "$MB" >"$DIR/lines" <<'PY'
import random, sys
seed = random.Random(7)
noise = [f"{seed.getrandbits(4000):01000x}"[:1000] for _ in range(64)]
for n in range(int(sys.argv[1]) * 1000):
    print(f"key-{n % 20_000}:{n}-{noise[n % 64]}")
PY

passes() { # of all brokers
  local n
  for n in 1 2 3; do curl -fsS "http://127.0.0.1:$((BASE + 4 + n))/metrics"; done | awk '$1 == "kontiki_cleaner_passes_total" { all += $2 } END { print all + 0 }'
}

measure() { # with|without: MB/s, passes of the cleaners meanwhile
  local before line
  before=$(passes)
  line=$("$KONTIKI" bench produce -B "$bootstrap" -t plain --prebuilt --duration "${SECONDS_EACH}s" 2>/dev/null | sed -nE 's/.*\(([0-9.]+) MB\/sec\).*/\1/p' | tail -1)
  [ -n "$line" ] || die "no figure from bench"
  printf '%s\t%s\t%s\n' "$1" "$line" "$(($(passes) - before))" | tee -a "$DIR/results"
}

policy() { "$KONTIKI" topic alter "$1" --set "cleanup.policy=$2" -B "$bootstrap" >/dev/null; }

"$KONTIKI" topic create plain -p 12 -r 3 -c min.insync.replicas=2 -B "$bootstrap" >/dev/null
"$KONTIKI" bench produce -B "$bootstrap" -t plain --prebuilt --duration 2s >/dev/null 2>&1
printf 'cleaner\tproduce MB/s\tpasses\n'
for round in $(seq "$ROUNDS"); do
  topic=keyed-$round
  "$KONTIKI" topic create "$topic" -p 12 -r 3 -c segment.bytes=1048576 -c min.cleanable.dirty.ratio=0.01 -B "$bootstrap" >/dev/null
  kcat -P -q -t "$topic" -K : -b "$bootstrap" -X queue.buffering.max.messages=100000 -l "$DIR/lines"
  [ $((round % 2)) = 0 ] || measure without
  policy "$topic" compact
  measure with
  policy "$topic" delete
  # One that has begun ends its step.
  sleep 3
  [ $((round % 2)) = 1 ] || measure without
  "$KONTIKI" topic delete "$topic" -B "$bootstrap" >/dev/null
done
LEAST=$LEAST "$FOREIGN/venv/bin/python" - "$DIR/results" <<'PY'
import os, statistics, sys
rows = [line.split() for line in open(sys.argv[1])]
of = lambda kind, at: [float(row[at]) for row in rows if row[0] == kind]
if not all(of("with", 2)) or any(of("without", 2)):
    sys.exit("the cleaners did not work when they should, or did when they should not: no figure")
alone, beside = statistics.median(of("without", 1)), statistics.median(of("with", 1))
print(f"produce: {alone:.1f} MB/s without the cleaner, {beside:.1f} MB/s beside it, ratio {beside / alone:.3f}")
if beside / alone < float(os.environ["LEAST"]):
    sys.exit(f"the ratio is below {os.environ['LEAST']}")
PY
