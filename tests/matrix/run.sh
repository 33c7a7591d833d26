#!/usr/bin/env bash
# The client matrix: stock clients x jobs against three Kontiki processes. tests/matrix/run.sh --help
#   tests/matrix/run.sh                                every client, every job
#   tests/matrix/run.sh --clients java,kcat --jobs group,admin
#   tests/matrix/run.sh --write                        and into docs/compatibility.md
# Needs tests/foreign/install.sh and tests/matrix/install.sh to have run; KONTIKI names the binary.
. "$(dirname "$0")/../foreign/lib.sh"
MATRIX=$(cd "$(dirname "$0")" && pwd)
export PYTHONDONTWRITEBYTECODE=1 FOREIGN KONTIKI=${KONTIKI:-$ROOT/target/release/kontiki}
need "$FOREIGN/venv"
[ -e "$KONTIKI" ] || die "$KONTIKI is missing; cargo build --release builds it"
exec "$FOREIGN/venv/bin/python" "$MATRIX/driver.py" "$@"
