#!/usr/bin/env bash
# Runs every foreign client check against a running cluster: tests/foreign/run.sh HOST:PORT,... [NAME...]
# One line per check on stdout, the output of each in target/foreign/log; exit code 1 if any failed.
# Every check creates (or finds) a topic, produces keyed records with headers under each codec, idempotence on
# where the client has it, reads them back from assigned partitions, and compares everything it wrote.
. "$(dirname "$0")/lib.sh"
[ $# -ge 1 ] || { echo "usage: run.sh BOOTSTRAP [kcat|confluent|confluent-groups|kafka-python|franz-go|java|kafka-tools|kafka-admin|example-...]" >&2; exit 2; }
BOOTSTRAP=$1
shift
LOG=$FOREIGN/log
mkdir -p "$LOG"
need "$FOREIGN/venv"; need "$FOREIGN/franz-check"; need "$FOREIGN/node"; need "$FOREIGN/java/lib"; need "$FOREIGN/kafka/lib"
py=$FOREIGN/venv/bin/python
quiet=-Dorg.slf4j.simpleLogger.defaultLogLevel=warn

check() {
  case $1 in
    kcat) bash "$HERE/kcat/check.sh" "$BOOTSTRAP" ;;
    confluent) "$py" "$HERE/confluent/check.py" "$BOOTSTRAP" ;;
    confluent-groups) "$py" "$HERE/confluent/groups.py" "$BOOTSTRAP" ;;
    kafka-python) "$py" "$HERE/kafka_python/check.py" "$BOOTSTRAP" ;;
    franz-go) "$FOREIGN/franz-check" "$BOOTSTRAP" ;;
    java) java $quiet -XX:TieredStopAtLevel=1 -cp "$FOREIGN/java/classes:$FOREIGN/java/lib/*" Check "$BOOTSTRAP" ;;
    kafka-tools) bash "$HERE/kafka/check.sh" "$BOOTSTRAP" ;;
    kafka-admin) bash "$HERE/kafka/admin.sh" "$BOOTSTRAP" ;;
    example-kcat) bash "$ROOT/examples/kcat/hello.sh" "$BOOTSTRAP" ;;
    example-python) "$py" "$ROOT/examples/python/hello.py" "$BOOTSTRAP" ;;
    example-go) "$FOREIGN/example-go" "$BOOTSTRAP" ;;
    example-node) PATH=$PATH:$FOREIGN/venv/bin node "$FOREIGN/node/hello.js" "$BOOTSTRAP" ;;
    example-rust) "$FOREIGN/example-rust/debug/kontiki-example" "$BOOTSTRAP" ;;
    example-java) java $quiet -XX:TieredStopAtLevel=1 -cp "$FOREIGN/java/example:$FOREIGN/java/lib/*" Hello "$BOOTSTRAP" ;;
    *) die "unknown check $1" ;;
  esac
}

[ $# -gt 0 ] || set -- kcat confluent confluent-groups kafka-python franz-go java kafka-tools kafka-admin example-kcat example-python example-go example-node example-rust example-java
export BOOTSTRAP HERE ROOT FOREIGN LOG py quiet
export -f check die
passed=0 failed=0
for name in "$@"; do
  start=$(date +%s%N)
  if timeout "${CHECK_TIMEOUT:-180}" bash -euo pipefail -c 'check "$1"' check "$name" >"$LOG/$name.log" 2>&1 </dev/null; then
    verdict=PASS passed=$((passed + 1))
  else
    verdict=FAIL failed=$((failed + 1))
  fi
  took=$(( ($(date +%s%N) - start) / 1000000 ))
  echo "$verdict $name ($took ms)"
  [ $verdict = PASS ] || tail -n 25 "$LOG/$name.log" | sed 's/^/    /'
done
echo "foreign clients: $passed passed, $failed failed"
[ $failed = 0 ]
