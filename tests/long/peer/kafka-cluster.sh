#!/usr/bin/env bash
# Apache Kafka 4.x as a peer on this machine: three KRaft nodes, replication factor 3, from Maven artifacts.
# For comparisons (docs/benchmarks.md) and for proving the foreign clients and the cluster harness themselves.
#   kafka-cluster.sh start DIR [BASE_PORT]     prepare, run, wait until ready, print bootstrap=...
#   kafka-cluster.sh stop DIR                  SIGTERM to all, wait
#   kafka-cluster.sh prepare DIR BASE_PORT     configuration and formatted directories only
#   kafka-cluster.sh run DIR N                 one node in the foreground (exec: its pid is the JVM)
# Client ports are BASE..BASE+2 (default 19092), controller ports BASE+10... Environment:
#   KAFKA_LAYOUT=combined|separate   three combined nodes (default), or brokers 1-3 and controller 4
#   KAFKA_EXTRA="key=value ..."      more broker settings, such as log.flush.interval.messages=1
#   KAFKA_HEAP=-Xmx1g                JVM options
. "$(dirname "$0")/../../foreign/lib.sh"
need "$FOREIGN/kafka/lib"
LAYOUT=${KAFKA_LAYOUT:-combined}
kafka() { exec java ${KAFKA_HEAP:--Xms512m -Xmx1g} -XX:+UseG1GC -Dorg.slf4j.simpleLogger.defaultLogLevel="${KAFKA_LOG:-warn}" -cp "$FOREIGN/kafka/lib/*" "$@"; }

settings() { # N BASE
  local n=$1 base=$2 roles=broker,controller voters=1@127.0.0.1:$((base + 11)),2@127.0.0.1:$((base + 12)),3@127.0.0.1:$((base + 13))
  if [ "$LAYOUT" = separate ]; then
    voters=4@127.0.0.1:$((base + 14))
    if [ "$n" = 4 ]; then roles=controller; else roles=broker; fi
  fi
  echo "node.id=$n"
  echo "process.roles=$roles"
  echo "controller.quorum.voters=$voters"
  echo "controller.listener.names=CONTROLLER"
  echo "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
  case $roles in
    broker,controller) echo "listeners=PLAINTEXT://127.0.0.1:$((base + n - 1)),CONTROLLER://127.0.0.1:$((base + 10 + n))" ;;
    broker) echo "listeners=PLAINTEXT://127.0.0.1:$((base + n - 1))" ;;
    controller) echo "listeners=CONTROLLER://127.0.0.1:$((base + 10 + n))" ;;
  esac
  if [ "$roles" != controller ]; then echo "advertised.listeners=PLAINTEXT://127.0.0.1:$((base + n - 1))"; fi
  echo "log.dirs=$DIR/node-$n/data"
  echo "default.replication.factor=3"
  echo "min.insync.replicas=2"
  echo "offsets.topic.replication.factor=3"
  echo "transaction.state.log.replication.factor=3"
  echo "transaction.state.log.min.isr=2"
  echo "auto.create.topics.enable=true"
  for one in ${KAFKA_EXTRA:-}; do echo "$one"; done
}

nodes() { if [ "$LAYOUT" = separate ]; then echo 4 1 2 3; else echo 1 2 3; fi; }

prepare() {
  local base=$1 cluster=AAAAAAAAAAAAAAAAAAAAAQ n
  mkdir -p "$DIR"
  for n in $(nodes); do
    mkdir -p "$DIR/node-$n"
    settings "$n" "$base" >"$DIR/node-$n/server.properties"
    (kafka kafka.tools.StorageTool format -t "$cluster" -c "$DIR/node-$n/server.properties") >"$DIR/node-$n/format.log" 2>&1 \
      || { cat "$DIR/node-$n/format.log" >&2; die "kafka storage format of node $n failed"; }
  done
}

alive() { [ -e "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

start() {
  local base=$1 n
  prepare "$base"
  for n in $(nodes); do
    setsid nohup "$0" run "$DIR" "$n" >"$DIR/node-$n/log" 2>&1 </dev/null &
    echo $! >"$DIR/node-$n/pid"
  done
  for _ in $(seq 120); do
    for n in $(nodes); do alive "$DIR/node-$n/pid" || { tail -20 "$DIR/node-$n/log" >&2; die "kafka node $n died"; }; done
    "$FOREIGN/venv/bin/python" "$HERE/confluent/ready.py" "127.0.0.1:$base" 3 2>/dev/null && break
    sleep 0.5
  done
  "$FOREIGN/venv/bin/python" "$HERE/confluent/ready.py" "127.0.0.1:$base" 3 || die "kafka is not ready"
  echo "bootstrap=127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))"
}

stop() {
  local pids=() f
  for f in "$DIR"/node-*/pid; do if alive "$f"; then pids+=("$(cat "$f")"); fi; done
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}"
  for _ in $(seq 100); do
    [ ${#pids[@]} = 0 ] || kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.2
  done
  for f in "$DIR"/node-*/pid; do if alive "$f"; then kill -9 "$(cat "$f")"; fi; rm -f "$f"; done
}

[ $# -ge 2 ] || { sed -n 2,12p "$0" >&2; exit 2; }
DIR=$(mkdir -p "$2" && cd "$2" && pwd)
case $1 in
  start) start "${3:-19092}" ;;
  stop) stop ;;
  prepare) prepare "${3:-19092}" ;;
  run) kafka kafka.Kafka "$DIR/node-$3/server.properties" ;;
  *) sed -n 2,12p "$0" >&2; exit 2 ;;
esac
