#!/usr/bin/env bash
# Every test there is: installs the foreign Kafka clients (target/foreign) and the tools of the chaos tests, then runs cargo
# test in the release profile, so that one build serves the unit tests, the cluster tests and the binary they start. Arguments go to cargo test.
# Without any, the suite is then held against a product that breaks one rule at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/foreign/install.sh
tests/cluster/chaos/install.sh
cargo test --release "$@"
[ $# -gt 0 ] || tests/mutations.sh
