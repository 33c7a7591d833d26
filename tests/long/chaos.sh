#!/usr/bin/env bash
# Chaos on real processes for as long as one likes: chaos.sh [MINUTES] [SEED]. Needs root. Log in target/long/chaos.log.
# Clusters one after another, each with a dozen random faults (kill, freeze, partitions of every shape, power cuts, full disks,
# failing and slow fsync, flipped bits; one node, several, all), clients that never stop, and all checks at the end of each.
# Ends with what was injected and checked; a violation ends it at once, with the command for that episode and the
# directory of its logs and files. Without SEED a random one, which is printed.
. "$(dirname "$0")/../foreign/lib.sh"
cd "$ROOT"
minutes=${1:-30}
seed=${2:-$RANDOM$RANDOM}
[[ $minutes =~ ^[1-9][0-9]*$ && $seed =~ ^[0-9]+$ ]] || die "chaos.sh [MINUTES] [SEED]"
tests/foreign/install.sh
tests/cluster/chaos/install.sh
mkdir -p target/long
echo "== chaos for $minutes minutes from seed $seed"
KONTIKI_CHAOS_MINUTES=$minutes KONTIKI_SEED=$seed \
  cargo test --release --test cluster -- --nocapture --test-threads 1 mixed_faults 2>&1 | tee target/long/chaos.log
