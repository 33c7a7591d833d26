#!/usr/bin/env bash
# kcat (librdkafka as Debian ships it): the topic comes from auto-creation, records go out with headers and null keys
# under each codec, idempotence on, and come back from the assigned partition exactly.
. "$(dirname "$0")/../lib.sh"
B=$1
run=$(date +%s)-$$
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT

for codec in $CODECS; do
  topic=foreign-kcat-$codec-$run
  # The first metadata request creates the topic; its leader may take a moment.
  for _ in $(seq 50); do kcat -b "$B" -L -t "$topic" 2>/dev/null | grep -qE 'partition 0, leader [0-9]+' && break; sleep 0.2; done
  for i in $(seq 0 199); do
    case $((i % 10)) in
      3) echo "key-$i:" ;; # empty value: -Z makes it a tombstone
      5) printf 'key-%s:%s\n' "$i" "$(printf 'x%.0s' $(seq 2000))" ;;
      *) echo "key-$i:value $i under $codec äöü" ;;
    esac
  done >"$T/in"
  kcat -b "$B" -P -t "$topic" -p 0 -K : -Z -z "$codec" -H n=1 -H 'name=two words' -H n=2 -X enable.idempotence=true \
    -X acks=all "$T/in" -l </dev/null || die "kcat could not produce under $codec"
  n=0
  while IFS= read -r line; do
    value=${line#*:}
    echo "0|$n|${line%%:*}|${#value}|$value|n=1,name=two words,n=2"
    n=$((n + 1))
  done <"$T/in" | LC_ALL=C awk -F'|' 'BEGIN{OFS="|"}{ $4=length($5); if ($4==0) $4=-1; print }' >"$T/want"
  kcat -b "$B" -C -t "$topic" -p 0 -o beginning -e -q -f '%p|%o|%k|%S|%s|%h\n' >"$T/got" || die "kcat could not consume under $codec"
  cmp "$T/want" "$T/got" || { diff "$T/want" "$T/got" | head -5; die "$codec: what came back differs"; }
  echo "ok $codec: 200 records"
done

topic=foreign-kcat-none-$run
[ "$(kcat -b "$B" -C -t "$topic" -p 0 -o 42 -c 1 -q -f '%o %k')" = "42 key-42" ] || die "reading from an offset"
[ "$(kcat -b "$B" -C -t "$topic" -p 0 -o -5 -e -q -f '%o ')" = "195 196 197 198 199 " ] || die "reading the last five"
kcat -b "$B" -Q -t "$topic:0:-1" | grep -q 'offset 200' || die "query of the latest offset"
kcat -b "$B" -Q -t "$topic:0:-2" | grep -q 'offset 0' || die "query of the earliest offset"
ts=$(kcat -b "$B" -C -t "$topic" -p 0 -o 100 -c 1 -q -f '%T')
[ "$ts" -gt 1500000000000 ] || die "timestamp of a record: $ts"
kcat -b "$B" -Q -t "$topic:0:$ts" | grep -qE 'offset [0-9]+' || die "query by timestamp"
echo "ok queries by offset and time"

# A group of one: it reads everything, commits when it ends, and goes on from there.
group=foreign-kcat-$run
read_group() { kcat -b "$B" -G "$group" -X auto.offset.reset=earliest -c "$1" -q -f '%o\n' "$topic" 2>/dev/null; }
[ "$(read_group 150 | sort -n | tail -1)" = 149 ] || die "a group reads the first 150"
[ "$(read_group 50 | sort -n | head -1)" = 150 ] || die "the group goes on where it was"
echo "ok a group goes on where it was"
