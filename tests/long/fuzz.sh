#!/usr/bin/env bash
# libFuzzer over the targets of tests/fuzz, each for a bounded time, beginning with the corpus in fuzz/corpus:
#   fuzz.sh [SECONDS] [TARGET]         60 seconds of each target by default; targets: fuzz/fuzz_targets
# What it finds is left in target/fuzz/artifacts, new inputs in target/fuzz/corpus; neither in the tree. Exit 1 if a target fails.
# A failure is replayed with KONTIKI_INPUT=FILE cargo test --release --test fuzz TARGET; fixed, its input goes to fuzz/corpus/TARGET.
# cargo-fuzz is installed if it is missing. It needs a nightly compiler, or the stable one with RUSTC_BOOTSTRAP=1, and a C++ compiler;
# where it cannot be installed or built, the same targets run for as long with the plain mutator. SANITIZER=address needs nightly.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -le 2 ] || { sed -n 2,8p "$0" >&2; exit 2; }
SECONDS_EACH=${1:-60} SANITIZER=${SANITIZER:-none} WORK=$PWD/target/fuzz
[[ $SECONDS_EACH =~ ^[1-9][0-9]*$ ]] || { echo "seconds: '$SECONDS_EACH' is no number" >&2; exit 2; }
mapfile -t all < <(basename -s .rs -a fuzz/fuzz_targets/*.rs)
targets=("${all[@]}")
if [ $# = 2 ]; then
  [ -f "fuzz/fuzz_targets/$2.rs" ] || { echo "no target '$2'; there are: ${all[*]}" >&2; exit 2; }
  targets=("$2")
fi
mkdir -p "$WORK/log"

cargo_fuzz() {
  if [ -n "${nightly:-}" ]; then cargo +nightly fuzz "$@"; else RUSTC_BOOTSTRAP=1 cargo fuzz "$@"; fi
}
build() {
  export PATH=$WORK/cargo/bin:$PATH
  command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --root "$WORK/cargo" || return 1
  if rustup run nightly rustc --version >/dev/null 2>&1; then nightly=1; fi
  cargo_fuzz build --sanitizer "$SANITIZER" --target-dir "$WORK/build"
}
plainly() {
  for target in "${targets[@]}"; do
    KONTIKI_FUZZ=$SECONDS_EACH KONTIKI_SEED=$((1 << 32)) \
      cargo test --release --locked --test fuzz -- --exact "${target}_corpus_and_mutations_keep_the_invariants" --nocapture
  done
}

build >"$WORK/log/build" 2>&1 || {
  tail -5 "$WORK/log/build" >&2
  echo "cargo-fuzz cannot be built here (needed: cargo install cargo-fuzz, a C++ compiler, nightly or RUSTC_BOOTSTRAP=1;" \
    "$WORK/log/build): the plain mutator instead" >&2
  plainly
  exit
}
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$WORK/corpus/$target" "$WORK/artifacts/$target"
  # libFuzzer counts allocations through the sanitizers alone; without one the whole process is held to a size.
  if cargo_fuzz run --sanitizer "$SANITIZER" --target-dir "$WORK/build" "$target" "$WORK/corpus/$target" "fuzz/corpus/$target" -- \
    -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$WORK/artifacts/$target/" >"$WORK/log/$target" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$WORK/log/$target")
    echo "$target: $runs inputs in $SECONDS_EACH s, nothing found"
  else
    failed+=("$target")
    echo "$target failed, $WORK/log/$target:"
    grep -E 'panicked|ERROR|SUMMARY|Test unit written' -A1 "$WORK/log/$target" | head -12 || tail -12 "$WORK/log/$target"
  fi
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
