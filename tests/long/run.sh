#!/usr/bin/env bash
# The long forms of the cluster tests: every kill 20 times, fail-over 30 times; logs in target/long. About an hour.
. "$(dirname "$0")/../foreign/lib.sh"
cd "$ROOT"
tests/foreign/install.sh
mkdir -p target/long
run() { # ROUNDS NAME FILTER
  echo "== $2 ($1 rounds)"
  KONTIKI_ROUNDS=$1 cargo test --release --test cluster -- --nocapture --test-threads 1 "$3" 2>&1 | tee "target/long/$2.log"
}
run 20 kills killed_acked
run 20 everything everything_killed
run 20 damage disk_damaged
run 30 failover produce_resumes
