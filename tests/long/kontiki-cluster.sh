#!/usr/bin/env bash
# Three `kontiki start` brokers and a separate controller on this machine, for long measurements. Not `dev`: one process each.
#   kontiki-cluster.sh start DIR [BASE_PORT]   run, wait until ready, print bootstrap=... and pids=...
#   kontiki-cluster.sh run DIR NODE [BASE_PORT]   one of them again (1 to 3, the controller is 4)
#   kontiki-cluster.sh stop DIR                SIGTERM to all, wait
# Client ports are BASE..BASE+2 (default 29092), admin ports BASE+5.., peer ports BASE+11... KONTIKI names the binary.
. "$(dirname "$0")/../foreign/lib.sh"
KONTIKI=${KONTIKI:-$ROOT/target/release/kontiki}

alive() { [ -e "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

run_node() { # N BASE
  local n=$1 base=$2
  local roles=(--roles broker --listen "127.0.0.1:$((base + n - 1))")
  [ "$n" != 4 ] || roles=(--roles controller)
  mkdir -p "$DIR/node-$n"
  setsid nohup "$KONTIKI" start --node-id "$n" "${roles[@]}" --controllers "4@127.0.0.1:$((base + 14))" \
    --peer-listen "127.0.0.1:$((base + 10 + n))" --admin-listen "127.0.0.1:$((base + 4 + n))" --data-dir "$DIR/node-$n/data" \
    >>"$DIR/node-$n/log" 2>&1 </dev/null &
  echo $! >"$DIR/node-$n/pid"
}

start() {
  local base=$1 n
  need "$KONTIKI"
  for n in 4 1 2 3; do run_node "$n" "$base"; done
  "$FOREIGN/venv/bin/python" "$HERE/confluent/ready.py" "127.0.0.1:$base" 3 60 || { tail -n 5 "$DIR"/node-*/log >&2; die "kontiki is not ready"; }
  echo "bootstrap=127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))"
  echo "pids=$(cat "$DIR"/node-*/pid | paste -sd,)"
}

stop() {
  local pids=() f
  for f in "$DIR"/node-*/pid; do if alive "$f"; then pids+=("$(cat "$f")"); fi; done
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}"
  for _ in $(seq 150); do
    [ ${#pids[@]} = 0 ] || kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.2
  done
  for f in "$DIR"/node-*/pid; do if alive "$f"; then kill -9 "$(cat "$f")"; fi; rm -f "$f"; done
}

[ $# -ge 2 ] || { sed -n 2,6p "$0" >&2; exit 2; }
DIR=$(mkdir -p "$2" && cd "$2" && pwd)
case $1 in
  start) start "${3:-29092}" ;;
  run) run_node "$3" "${4:-29092}" ;;
  stop) stop ;;
  *) sed -n 2,6p "$0" >&2; exit 2 ;;
esac
