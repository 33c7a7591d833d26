#!/usr/bin/env bash
# Consumer groups under faults for as long as one likes: groups.sh [MINUTES] [SEED]. Log in target/long/groups.log.
# Two groups, one with eager and one with cooperative members, whose members are confluent-kafka, franz-go, Kafka's Java client and
# `kontiki consume -g`, one of them static, read what a stock producer writes to eight partitions on four brokers, while leaders,
# coordinators, the controller and members are killed, stopped and stand still, and partitions move. What is checked: tests/cluster/group_history.rs.
# A violation names its place and leaves logs and files; without SEED a random one, which is printed.
. "$(dirname "$0")/../foreign/lib.sh"
cd "$ROOT"
minutes=${1:-15}
seed=${2:-$RANDOM$RANDOM}
[[ $minutes =~ ^[1-9][0-9]*$ && $seed =~ ^[0-9]+$ ]] || die "groups.sh [MINUTES] [SEED]"
tests/foreign/install.sh
mkdir -p target/long
echo "== groups under faults for $minutes minutes from seed $seed"
KONTIKI_GROUP_SECONDS=$((minutes * 60)) KONTIKI_SEED=$seed \
  cargo test --release --test cluster -- --ignored --nocapture --test-threads 1 groups_of_all_clients 2>&1 | tee target/long/groups.log
