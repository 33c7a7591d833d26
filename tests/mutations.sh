#!/usr/bin/env bash
# The library's unit tests, and the suite against a product that breaks one rule at a time (src/mutation): whatever is not noticed is a hole.
# Names of switches as arguments run those alone. Built with less optimisation than a release, and without the binary: it is built for
# this and nothing else, and the optimised build of the unit tests took longer than all of it.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=(--config 'profile.release.package.kontiki.opt-level=1' --config 'profile.release.package.kontiki.debug=false')
for only in "${@:-}"; do
  # A switch alone says which seed noticed it.
  units=() && [ -z "$only" ] || units=(mutation:: --nocapture)
  KONTIKI_ONLY=$only cargo test "${quick[@]}" --release --locked --no-default-features --features mutations --lib -- "${units[@]}"
  KONTIKI_ONLY=$only cargo test "${quick[@]}" --release --locked --no-default-features --features mutations --test sim -- mutations:: --nocapture
done
