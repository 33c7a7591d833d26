#!/usr/bin/env bash
# kcat: writes one record with a key and a header, reads it back. Usage: hello.sh HOST:PORT,...
set -euo pipefail
bootstrap=${1:-127.0.0.1:9092}
topic=hello-kcat-$RANDOM$RANDOM

echo 'greeting:hello raft' | kcat -b "$bootstrap" -P -t "$topic" -p 0 -K : -H from=kcat
kcat -b "$bootstrap" -C -t "$topic" -p 0 -o beginning -c 1 -q -f '%t[%p]@%o %k -> %s (%h)\n' | tee /dev/stderr | grep -q 'hello raft (from=kcat)'
