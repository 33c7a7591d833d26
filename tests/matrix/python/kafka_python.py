"""kafka-python behind the calls of `jobs.py`."""

import kafka
from jobs import Record, require, until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor


def version():
    return f"kafka-python {kafka.__version__}"


class Sender:
    def __init__(self, bootstrap, codec, idempotent):
        self.sent = []
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type=None if codec == "none" else codec,
                                      enable_idempotence=idempotent)

    def send(self, topic, key, value, headers=None, timestamp=None):
        self.sent.append(self.producer.send(topic, value, key, headers=headers, timestamp_ms=timestamp))

    def flush(self):
        self.producer.flush(60)
        for future in self.sent:
            future.get(60)
        self.producer.close()


class Reader(kafka.ConsumerRebalanceListener):
    def __init__(self, bootstrap, topic, group=None, instance=None, cooperative=False):
        self.topic, self.own, self.assigned, self.revoked, self.next = topic, set(), [], [], {}
        extra = {"partition_assignment_strategy": [CooperativeStickyAssignor]} if cooperative else {}
        self.consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, group_instance_id=instance, enable_auto_commit=False,
                                      auto_offset_reset="earliest", heartbeat_interval_ms=500, session_timeout_ms=30_000, **extra)
        if group:
            self.consumer.subscribe([topic], listener=self)

    def on_partitions_assigned(self, assigned):
        self.assigned.append({row.partition for row in assigned})
        self.own |= self.assigned[-1]

    def on_partitions_revoked(self, revoked):
        self.revoked.append({row.partition for row in revoked})
        self.own -= self.revoked[-1]
        for p in self.revoked[-1]:
            self.next.pop(p, None)

    on_partitions_lost = on_partitions_revoked

    def poll(self, seconds):
        records = []
        for row, messages in self.consumer.poll(int(seconds * 1000)).items():
            self.next[row.partition] = messages[-1].offset + 1
            records += [Record(m.partition, m.offset, m.key, m.value, list(m.headers), m.timestamp) for m in messages]
        return records

    def rows(self):
        return [TopicPartition(self.topic, p) for p in self.consumer.partitions_for_topic(self.topic)]

    def place(self, offsets):
        self.consumer.assign([TopicPartition(self.topic, p) for p in offsets])
        for p, offset in offsets.items():
            self.consumer.seek(TopicPartition(self.topic, p), offset)

    def starts(self):
        return {row.partition: offset for row, offset in self.consumer.beginning_offsets(self.rows()).items()}

    def ends(self):
        return {row.partition: offset for row, offset in self.consumer.end_offsets(self.rows()).items()}

    def at(self, timestamp):
        found = self.consumer.offsets_for_times({row: timestamp for row in self.rows()})
        return {row.partition: place.offset for row, place in found.items()}

    def commit(self):
        rows = {TopicPartition(self.topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in self.next.items()}
        if rows:
            self.consumer.commit(rows, timeout_ms=20_000)

    def close(self):
        self.consumer.close()


def administer(bootstrap, topic, group):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def config_of(name):
        told = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return told["topic"][topic][name]["value"]

    def partitions():
        return len(admin.describe_topics([topic])[0]["partitions"])

    admin.create_topics({topic: {"num_partitions": 4, "replication_factor": 3, "configs": {"retention.ms": "7200000"}}})
    until(lambda: topic in admin.list_topics(), "the topic is listed")
    require(partitions() == 4, "four partitions")
    require(config_of("retention.ms") == "7200000", "the configuration it was created with")
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "3600000"})])
    until(lambda: config_of("retention.ms") == "3600000", "the new configuration")
    admin.create_partitions({topic: 6})
    until(lambda: partitions() == 6, "six partitions")
    member = Reader(bootstrap, topic, group=group)
    until(lambda: member.poll(0.1) or member.own, "a member of the group")
    require(group in {row["group_id"] for row in admin.list_groups()}, "the group is listed")
    described = admin.describe_groups([group])[group]
    require(described["group_state"] == "Stable" and len(described["members"]) == 1, f"the group is {described}")
    member.close()
    admin.delete_topics([topic])
    until(lambda: topic not in admin.list_topics(), "the topic is gone")
    admin.close()
