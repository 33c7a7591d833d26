#!/usr/bin/env bash
# Kontiki beside Apache Kafka on this machine, the two in turn, driven by the same foreign clients:
#   compare.sh [SYSTEM...]      kontiki, kontiki-async (flush.mode=async: what Kafka promises without fsync, and more), kafka (no fsync),
#                               kafka-fsync (log.flush.interval.messages=1), null (acks, stores nothing)
# kafka-producer-perf-test with RF 3, acks=all, min.insync 2, 12 partitions, 1 KiB records, with the client's default
# batches (linger 5 ms) and with 1 MiB batches; then one produce awaited at a time through librdkafka.
# ROUNDS=3 repeats everything, RECORDS=1000000 is the length of one run, DIR holds the data (use the disk you mean).
# One tab-separated line per run on stdout: system, what, result. Paste them into docs/benchmarks.md with machine and date.
. "$(dirname "$0")/../foreign/lib.sh"
LONG=$(cd "$(dirname "$0")" && pwd)
ROUNDS=${ROUNDS:-3} RECORDS=${RECORDS:-1000000} DIR=${DIR:-$ROOT/target/compare} BASE=${BASE:-29092}
need "$FOREIGN/kafka/lib"
[ $# -gt 0 ] || set -- kontiki kafka kafka-fsync null
py=$FOREIGN/venv/bin/python
tool() { java -Xmx1g -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$FOREIGN/kafka/lib/*" "$@"; }

null_pid=
up() {
  rm -rf "$DIR/$1"
  case $1 in
    kontiki | kontiki-async) bootstrap=$("$LONG/kontiki-cluster.sh" start "$DIR/$1" "$BASE" | sed -n s/^bootstrap=//p) ;;
    kafka) bootstrap=$("$LONG/peer/kafka-cluster.sh" start "$DIR/$1" "$BASE" | sed s/^bootstrap=//) ;;
    kafka-fsync) bootstrap=$(KAFKA_EXTRA=log.flush.interval.messages=1 "$LONG/peer/kafka-cluster.sh" start "$DIR/$1" "$BASE" | sed s/^bootstrap=//) ;;
    null)
      "${KONTIKI:-$ROOT/target/release/kontiki}" bench null --port "$BASE" --brokers 3 --partitions 12 >/dev/null 2>&1 </dev/null &
      null_pid=$! bootstrap=127.0.0.1:$BASE
      "$py" "$HERE/confluent/ready.py" "$bootstrap" 3 10
      ;;
    *) die "unknown system $1" ;;
  esac
  [ -n "$bootstrap" ] || die "$1 did not start"
}
down() {
  case $1 in
    kontiki*) "$LONG/kontiki-cluster.sh" stop "$DIR/$1" ;;
    kafka*) "$LONG/peer/kafka-cluster.sh" stop "$DIR/$1" ;;
    null) kill "$null_pid"; wait "$null_pid" 2>/dev/null || true ;;
  esac
  rm -rf "${DIR:?}/$1"
}
trap '[ -z "${system:-}" ] || down "$system"' EXIT

topic() {
  case $system in
    null) return ;;
    kontiki-async)
      # Kafka's tool refuses a configuration that Kafka does not have.
      "${KONTIKI:-$ROOT/target/release/kontiki}" topic create "$1" -p "$2" -r 3 -c min.insync.replicas=2 -c flush.mode=async -B "$bootstrap" >/dev/null
      return ;;
  esac
  tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" --create --topic "$1" --partitions "$2" \
    --replication-factor 3 --config min.insync.replicas=2 >/dev/null
}
perf() { # TOPIC RECORDS property...
  local topic=$1 records=$2 properties=() p
  shift 2
  for p in acks=all linger.ms=5 "$@"; do properties+=(--command-property "$p"); done
  tool org.apache.kafka.tools.ProducerPerformance --bootstrap-server "$bootstrap" --topic "$topic" --num-records "$records" \
    --record-size 1024 --throughput -1 "${properties[@]}" | tail -1
}

mkdir -p "$DIR"
for round in $(seq "$ROUNDS"); do
  for name in "$@"; do
    up "$name"
    system=$name
    topic perf 12
    perf perf $((RECORDS / 5)) >/dev/null
    printf '%s\tdefault batches\t%s\n' "$system" "$(perf perf "$RECORDS")"
    printf '%s\t1 MiB batches\t%s\n' "$system" "$(perf perf "$RECORDS" batch.size=1048576 max.request.size=8388608 buffer.memory=134217728)"
    topic single 1
    printf '%s\tone at a time\t%s\n' "$system" "$("$py" "$HERE/confluent/latency.py" "$bootstrap" single)"
    system=
    down "$name"
  done
done
