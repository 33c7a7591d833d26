#!/usr/bin/env bash
# Kafka's own command line tools: kafka-topics, kafka-console-producer, kafka-console-consumer --partition,
# kafka-get-offsets, kafka-configs, kafka-delete-records, kafka-reassign-partitions, kafka-leader-election, kafka-producer-perf-test.
. "$(dirname "$0")/../lib.sh"
B=$1
run=$(date +%s)-$$
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
need "$FOREIGN/kafka/lib"
# The second tier of the JIT costs more than it brings in programs that live a second.
tool() { java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$FOREIGN/kafka/lib/*" "$@"; }
topics() { tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$B" "$@"; }

topic=foreign-tools-$run
topics --create --topic "$topic" --partitions 2 --replication-factor "$FOREIGN_RF" --config retention.ms=86400000 | grep -q "Created topic" || die "kafka-topics --create"
topics --list | grep -qx "$topic" || die "kafka-topics --list"
topics --describe --topic "$topic" >"$T/describe"
grep -q "PartitionCount: 2.*ReplicationFactor: $FOREIGN_RF.*retention.ms=86400000" "$T/describe" || { cat "$T/describe"; die "kafka-topics --describe"; }
topics --alter --topic "$topic" --partitions 3
topics --describe --topic "$topic" | grep -q "PartitionCount: 3" || die "kafka-topics --alter"
echo "ok kafka-topics: create, list, describe, alter"

for codec in $CODECS; do
  topic=foreign-tools-$codec-$run
  topics --create --topic "$topic" --partitions 1 --replication-factor "$FOREIGN_RF" >/dev/null
  for i in $(seq 0 99); do
    if [ $((i % 10)) = 3 ]; then printf 'n:%s,name:two words\tkey-%s\tNULL\n' "$i" "$i"
    else printf 'n:%s,name:two words\tkey-%s\tvalue %s under %s\n' "$i" "$i" "$i" "$codec"; fi
  done >"$T/in"
  tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$B" --topic "$topic" --compression-codec "$codec" \
    --reader-property parse.key=true --reader-property parse.headers=true --reader-property null.marker=NULL \
    --command-property enable.idempotence=true --command-property acks=all <"$T/in" || die "kafka-console-producer under $codec"
  tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$B" --topic "$topic" --partition 0 --offset earliest \
    --max-messages 100 --timeout-ms 30000 --formatter-property print.key=true --formatter-property print.headers=true \
    --formatter-property null.literal=NULL >"$T/got" || die "kafka-console-consumer under $codec"
  cmp "$T/in" "$T/got" || { diff "$T/in" "$T/got" | head -5; die "$codec: what came back differs"; }
  echo "ok $codec: 100 records through console producer and consumer"
done

topic=foreign-tools-${CODECS%% *}-$run
tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$B" --topic "$topic" | grep -qx "$topic:0:100" || die "kafka-get-offsets"
tool kafka.admin.ConfigCommand --bootstrap-server "$B" --alter --entity-type topics --entity-name "$topic" --add-config max.message.bytes=2000000 >/dev/null
tool kafka.admin.ConfigCommand --bootstrap-server "$B" --describe --entity-type topics --entity-name "$topic" | grep -q max.message.bytes=2000000 || die "kafka-configs"
echo "{\"partitions\":[{\"topic\":\"$topic\",\"partition\":0,\"offset\":40}],\"version\":1}" >"$T/delete.json"
tool org.apache.kafka.tools.DeleteRecordsCommand --bootstrap-server "$B" --offset-json-file "$T/delete.json" | grep -q "low_watermark: 40" || die "kafka-delete-records"
tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$B" --topic "$topic" --time earliest | grep -qx "$topic:0:40" || die "log start after kafka-delete-records"
echo "ok kafka-get-offsets, kafka-configs, kafka-delete-records"

topic=foreign-tools-move-$run
reassign() { tool org.apache.kafka.tools.reassign.ReassignPartitionsCommand --bootstrap-server "$B" "$@"; }
topics --create --topic "$topic" --partitions 1 --replication-factor "$FOREIGN_RF" >/dev/null
replicas=$(topics --describe --topic "$topic" | sed -n 's/.*Replicas: \([0-9,]*\).*/\1/p')
turned=$(tr , '\n' <<<"$replicas" | tac | paste -sd,)
echo "{\"version\":1,\"partitions\":[{\"topic\":\"$topic\",\"partition\":0,\"replicas\":[$turned]}]}" >"$T/plan.json"
reassign --reassignment-json-file "$T/plan.json" --execute --throttle 50000000 >"$T/execute" || { cat "$T/execute"; die "kafka-reassign-partitions --execute"; }
for _ in $(seq 20); do reassign --reassignment-json-file "$T/plan.json" --verify >"$T/verify"; grep -q "is completed" "$T/verify" && break; done
grep -q "Reassignment of partition $topic-0 is completed" "$T/verify" || { cat "$T/verify"; die "kafka-reassign-partitions --verify"; }
reassign --list | grep -q "No partition reassignments found" || die "kafka-reassign-partitions --list"
topics --describe --topic "$topic" | grep -q "Replicas: $turned" || die "replicas after kafka-reassign-partitions"
tool org.apache.kafka.tools.LeaderElectionCommand --bootstrap-server "$B" --election-type preferred --topic "$topic" --partition 0 >"$T/elect" || { cat "$T/elect"; die "kafka-leader-election"; }
topics --describe --topic "$topic" | grep -q "Leader: ${turned%%,*}" || die "leader after kafka-leader-election"
topics --delete --topic "$topic"
echo "ok kafka-reassign-partitions, kafka-leader-election"

topic=foreign-tools-perf-$run
topics --create --topic "$topic" --partitions 3 --replication-factor "$FOREIGN_RF" >/dev/null
tool org.apache.kafka.tools.ProducerPerformance --bootstrap-server "$B" --topic "$topic" --num-records 20000 --record-size 500 --throughput -1 \
  --command-property acks=all --command-property compression.type=lz4 >"$T/perf" || { cat "$T/perf"; die "kafka-producer-perf-test"; }
grep -q '^20000 records sent' "$T/perf" || { cat "$T/perf"; die "kafka-producer-perf-test did not send all"; }
total=$(tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$B" --topic "$topic" | awk -F: '{n += $3} END {print n}')
[ "$total" = 20000 ] || die "kafka-producer-perf-test: $total records are there"
tail -1 "$T/perf"
topics --delete --topic "$topic"
topics --list | grep -qx "$topic" && die "kafka-topics --delete left the topic"
echo "ok kafka-producer-perf-test, kafka-topics --delete"
