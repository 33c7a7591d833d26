#!/usr/bin/env bash
# The suite against a product that breaks one rule at a time (src/mutation): whatever is not noticed is a hole. Names of switches as
# arguments run those alone. Built with less optimisation than a release, and without the binary: it is built for this and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=(--config 'profile.release.package.kontiki.opt-level=1' --config 'profile.release.package.kontiki.debug=false')
for only in "${@:-}"; do
  for part in "--lib mutation::" "--test sim mutations::"; do
    read -r -a part <<<"$part"
    KONTIKI_ONLY=$only cargo test "${quick[@]}" --release --locked --no-default-features --features mutations "${part[@]}" -- --nocapture
  done
done
