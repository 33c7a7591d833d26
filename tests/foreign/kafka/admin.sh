#!/usr/bin/env bash
# Kafka's own administration tools, command by command, as the table of docs/compatibility.md lists them: what works is looked at, what is
# refused says why. kafka-topics and others in everyday use: check.sh.
. "$(dirname "$0")/../lib.sh"
B=$1
run=$(date +%s)-$$
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
need "$FOREIGN/kafka/lib"
TOOLS=org.apache.kafka.tools
GROUPS_TOOL=$TOOLS.consumer.group.ConsumerGroupCommand
CONFIGS=kafka.admin.ConfigCommand
tool() {
  java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$FOREIGN/kafka/lib/*" \
    "$1" --bootstrap-server "$B" "${@:2}" >"$T/said" 2>&1 </dev/null
}
# works TOOL ARGUMENTS: it succeeds. says PATTERN TOOL ARGUMENTS: it succeeds and says that. refused PATTERN TOOL ARGUMENTS: it fails and says that.
works() { tool "$@" || { head -20 "$T/said"; die "$* failed"; }; }
says() { tool "${@:2}" && grep -qE -- "$1" "$T/said" || { head -20 "$T/said"; die "${*:2}: no '$1'"; }; }
refused() { ! tool "${@:2}" && grep -qE -- "$1" "$T/said" || { head -20 "$T/said"; die "${*:2}: not refused with '$1'"; }; }

topic=foreign-admin-$run
says "Created topic" $TOOLS.TopicCommand --create --topic "$topic" --partitions 5 --replication-factor "$FOREIGN_RF"
says "Partition: 4.*Leader: [0-9]" $TOOLS.TopicCommand --describe --topic "$topic" --partition-size-limit-per-response 2
[ "$(grep -c "Partition: " "$T/said")" = 5 ] || die "pages of DescribeTopicPartitions"
id=$(sed -n 's/.*TopicId: \([^[:space:]]*\).*/\1/p' "$T/said")
says "Topic: $topic" $TOOLS.TopicCommand --describe --topic-id "$id"
says "^$topic$" $TOOLS.TopicCommand --list --exclude-internal
refused "does not exist" $TOOLS.TopicCommand --describe --topic "$topic-not"
echo "ok kafka-topics: pages, ids"

seq 60 | kcat -P -b "$B" -t "$topic" -p 0
seq 20 | kcat -P -b "$B" -t "$topic" -p 1
says "^$topic:0:60$" $TOOLS.GetOffsetShell --topic "$topic" --time latest
says "^$topic:1:0$" $TOOLS.GetOffsetShell --topic "$topic" --time earliest-local
says "^$topic:0:[0-9]+$" $TOOLS.GetOffsetShell --topic "$topic" --time max-timestamp
tool $TOOLS.GetOffsetShell --topic "$topic" --time latest-tiered && [ ! -s "$T/said" ] || die "latest-tiered is nowhere"
echo "ok kafka-get-offsets: every kind of time"

says "min.insync.replicas=1.*DEFAULT_CONFIG" $CONFIGS --describe --entity-type topics --entity-name "$topic" --all
says "num.partitions=" $CONFIGS --describe --entity-type brokers --entity-name 1 --all
says "Default configs" $CONFIGS --describe --entity-type brokers --entity-default
works $CONFIGS --describe --entity-type client-metrics
says "doesn't have dynamic config" $CONFIGS --describe --entity-type groups --entity-name g
works $CONFIGS --describe --entity-type clients
works $CONFIGS --describe --entity-type ips
refused "log levels are set when a broker starts" $CONFIGS --describe --entity-type broker-loggers --entity-name 1
refused "KIP-714" $CONFIGS --alter --entity-type client-metrics --entity-name m --add-config interval.ms=10000
refused "groups have no configuration" $CONFIGS --alter --entity-type groups --entity-name g --add-config consumer.session.timeout.ms=50000
refused "does not support ALTER_CLIENT_QUOTAS" $CONFIGS --alter --entity-type clients --entity-name c --add-config producer_byte_rate=1024
works $TOOLS.ClientMetricsCommand --list
echo "ok kafka-configs, kafka-client-metrics: every kind of entity"

group=foreign-admin-$run
reset() { says "$1" $GROUPS_TOOL --group "$group" --reset-offsets "${@:2}"; }
reset "$group +$topic +0 +60" --to-latest --topic "$topic" --execute
reset "$topic +0 +0" --to-earliest --topic "$topic:0" --dry-run
reset "$topic +0 +55" --shift-by -5 --topic "$topic:0" --execute
reset "$topic +1 +0" --to-datetime 2020-01-01T00:00:00.000 --topic "$topic:1" --execute
reset "^\"?$topic\"?,0,55" --to-current --topic "$topic" --export --dry-run
says "$group +$topic +0 +55 +60 +5" $GROUPS_TOOL --describe --group "$group"
says "$group .*Empty +0" $GROUPS_TOOL --describe --group "$group" --state
says "^$group +Classic +Empty" $GROUPS_TOOL --list --state --type
says "$topic +1 +Successful" $GROUPS_TOOL --group "$group" --delete-offsets --topic "$topic:1"
says "successful" $GROUPS_TOOL --delete --group "$group"
echo "ok kafka-consumer-groups: offsets set, exported, deleted"

says "DescribeTopicPartitions\(75\): 0" $TOOLS.BrokerApiVersionsCommand
says "\"partition\":\"$topic-0\"" $TOOLS.LogDirsCommand --describe --topic-list "$topic"
says "LeaderId: +[0-9]" $TOOLS.MetadataQuorumCommand describe --status
says "Leader" $TOOLS.MetadataQuorumCommand describe --replication
says "Feature: metadata.version.*FinalizedVersionLevel: 4.1-IV1" $TOOLS.FeatureCommand describe
says "metadata.version was upgraded to 27" $TOOLS.FeatureCommand upgrade --feature metadata.version=27
refused "metadata.version is 27 and cannot be 25" $TOOLS.FeatureCommand downgrade --feature metadata.version=25
refused "there is no feature .group.version." $TOOLS.FeatureCommand upgrade --feature group.version=1
says "No partition reassignments found" $TOOLS.reassign.ReassignPartitionsCommand --list
says "already elected" $TOOLS.LeaderElectionCommand --election-type preferred --topic "$topic" --partition 0
java -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$FOREIGN/kafka/lib/*" $TOOLS.ClusterTool cluster-id --bootstrap-server "$B" | grep -q "Cluster ID" || die "kafka-cluster cluster-id"
works $TOOLS.TopicCommand --delete --topic "$topic"
echo "ok kafka-broker-api-versions, kafka-log-dirs, kafka-metadata-quorum, kafka-features, kafka-leader-election, kafka-cluster"
