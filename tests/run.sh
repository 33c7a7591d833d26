#!/usr/bin/env bash
# Every test there is: installs the foreign Kafka clients (target/foreign) and the tools of the chaos tests, then runs cargo
# test in the release profile, so that one build serves the unit tests, the cluster tests and the binary they start. Arguments go to cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/foreign/install.sh
tests/cluster/chaos/install.sh
exec cargo test --release "$@"
