#!/usr/bin/env bash
# Every test there is: installs the foreign Kafka clients (target/foreign) and the tools of the chaos tests, then runs whatever tests the
# product itself in the release profile, so that one build serves these tests and the binary that they start; then the library's unit tests,
# in the build in which the product can be made to break one rule at a time, and the suite against each such product.
# Arguments go to one `cargo test --release` instead.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/foreign/install.sh
tests/matrix/install.sh go node
tests/cluster/chaos/install.sh
[ $# = 0 ] || exec cargo test --release "$@"
cargo test --release --locked --bin kontiki --test '*'
tests/mutations.sh
