#!/usr/bin/env bash
# Is speed kept? Builds an older commit and this tree, and measures the main figures of docs/benchmarks.md with both in turn on this machine:
#   ratio.sh OLD_COMMIT          for example: ratio.sh v0.1.0, ratio.sh HEAD~20
# Produce over 12 partitions, one request outstanding, fetch of one cached partition; each version with its own brokers and its own bench.
# ROUNDS=5 alternating rounds (the order turns round each time), SECONDS_EACH=6 per produce, DIR holds the data (use the disk you mean).
# Prints every run, then old, new and the ratio of medians (above 1 is better); exit 1 if a ratio is below LEAST=0.95.
. "$(dirname "$0")/../foreign/lib.sh"
LONG=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { sed -n 2,6p "$0" >&2; exit 2; }
ROUNDS=${ROUNDS:-5} SECONDS_EACH=${SECONDS_EACH:-6} LEAST=${LEAST:-0.95} DIR=${DIR:-$ROOT/target/ratio} BASE=${BASE:-29092}
need "$FOREIGN/venv/bin/python"
old=$(git -C "$ROOT" rev-parse --verify "$1^{commit}")
mkdir -p "$DIR"
tree=$DIR/tree

cleanup() {
  "$LONG/kontiki-cluster.sh" stop "$DIR/run" >/dev/null 2>&1 || true
  git -C "$ROOT" worktree remove --force "$tree" 2>/dev/null || true
}
trap cleanup EXIT
cleanup
echo "building $1 (${old:0:12}) and this tree" >&2
git -C "$ROOT" worktree add --quiet --detach "$tree" "$old"
(cd "$tree" && CARGO_TARGET_DIR="$DIR/build" cargo build --quiet --release --locked)
cp "$DIR/build/release/kontiki" "$DIR/kontiki-old"
(cd "$ROOT" && cargo build --quiet --release --locked)
cp "$ROOT/target/release/kontiki" "$DIR/kontiki-new"

# The figure of a bench result line: $1 is a sed expression that leaves it.
figure() {
  local line found
  line=$(cat)
  found=$(sed -nE "s/$1/\1/p" <<<"$line" | tail -1)
  [ -n "$found" ] || { echo "no figure in: $line" >&2; return 1; }
  echo "$found"
}

measure() { # VERSION
  local bin=$DIR/kontiki-$1 bootstrap
  rm -rf "$DIR/run"
  bootstrap=$(KONTIKI=$bin "$LONG/kontiki-cluster.sh" start "$DIR/run" "$BASE" | sed -n s/^bootstrap=//p)
  "$bin" topic create b12 -p 12 -r 3 -c min.insync.replicas=2 -B "$bootstrap" >/dev/null
  "$bin" topic create b1 -p 1 -r 3 -c min.insync.replicas=2 -B "$bootstrap" >/dev/null
  "$bin" bench produce -B "$bootstrap" -t b12 --prebuilt --duration 2s >/dev/null 2>&1
  local produce one fetch
  produce=$("$bin" bench produce -B "$bootstrap" -t b12 --prebuilt --duration "${SECONDS_EACH}s" 2>/dev/null | figure '.*\(([0-9.]+) MB\/sec\).*')
  one=$("$bin" bench produce -B "$bootstrap" -t b1 --prebuilt --outstanding 1 --batch-size 1k --num-records 4000 2>/dev/null | figure '.* ([0-9.]+) ms 50th.*')
  # The same volume from both, whatever they can produce in a time; the first read warms up, the figure is the median of 15 more: each takes a tenth of a second.
  "$bin" bench produce -B "$bootstrap" -t b1 --prebuilt --num-records 400000 >/dev/null 2>&1
  "$bin" bench consume -B "$bootstrap" -t b1 >/dev/null 2>&1
  fetch=$(for _ in {1..15}; do
    "$bin" bench consume -B "$bootstrap" -t b1 2>/dev/null | figure '.*\(([0-9.]+) MB\/sec\).*'
  done | sort -n | sed -n 8p)
  "$LONG/kontiki-cluster.sh" stop "$DIR/run"
  printf '%s\t%s\t%s\t%s\n' "$1" "$produce" "$one" "$fetch" | tee -a "$DIR/results"
}


: >"$DIR/results"
printf 'version\tproduce MB/s\tone outstanding ms\tfetch MB/s\n'
for round in $(seq "$ROUNDS"); do
  if [ $((round % 2)) = 1 ]; then measure old; measure new; else measure new; measure old; fi
done
LEAST=$LEAST "$FOREIGN/venv/bin/python" - "$DIR/results" <<'PY'
import os, statistics, sys
rows = [line.split() for line in open(sys.argv[1])]
least, worst = float(os.environ["LEAST"]), None
print(f"{'':24}{'old':>12}{'new':>12}{'ratio':>8}   (medians; above 1: the new one is better)")
for at, (name, more_is_better) in enumerate([("produce MB/s", True), ("one outstanding ms", False), ("fetch MB/s", True)], 1):
    old, new = (statistics.median(float(r[at]) for r in rows if r[0] == v) for v in ("old", "new"))
    ratio = new / old if more_is_better else old / new
    worst = ratio if worst is None else min(worst, ratio)
    print(f"{name:24}{old:12.3f}{new:12.3f}{ratio:8.3f}")
if worst < least:
    sys.exit(f"slower than before: ratio {worst:.3f} is below {least}")
PY
