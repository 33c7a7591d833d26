# Shared by the scripts of this folder: where installed clients live, how a failure is reported.
# Sourced, never run. Installed things live under target/foreign so that a clean checkout has none of them.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
FOREIGN=${FOREIGN_DIR:-$ROOT/target/foreign}
export CODECS=${CODECS:-none gzip snappy lz4 zstd}
# Replicas of the topics the checks create; 1 suits a single broker.
export FOREIGN_RF=${FOREIGN_RF:-3}

die() { echo "error: $*" >&2; exit 1; }
need() { [ -e "$1" ] || die "$1 is missing; run tests/foreign/install.sh first"; }
