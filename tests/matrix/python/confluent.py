"""confluent-kafka (librdkafka) behind the calls of `jobs.py`."""

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   ResourceType)
from jobs import Record, require, until


def version():
    return f"confluent-kafka {confluent_kafka.__version__} (librdkafka {confluent_kafka.libversion()[0]})"


class Sender:
    def __init__(self, bootstrap, codec, idempotent):
        self.failed = []
        self.producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "compression.type": codec, "enable.idempotence": idempotent})

    def send(self, topic, key, value, headers=None, timestamp=None):
        extra = {} if timestamp is None else {"timestamp": timestamp}
        self.producer.produce(topic, value, key, headers=headers, on_delivery=lambda e, _: e and self.failed.append(e), **extra)

    def flush(self):
        require(self.producer.flush(60) == 0 and not self.failed, f"not delivered: {self.failed[:1]}")


class Reader:
    def __init__(self, bootstrap, topic, group=None, instance=None, cooperative=False):
        self.topic, self.own, self.assigned, self.revoked, self.next = topic, set(), [], [], {}
        config = {"bootstrap.servers": bootstrap, "group.id": group or "unused", "enable.auto.commit": False, "auto.offset.reset": "earliest",
                  "heartbeat.interval.ms": 500, "check.crcs": True}
        if instance:
            config["group.instance.id"] = instance
        if cooperative:
            config["partition.assignment.strategy"] = "cooperative-sticky"
        self.consumer = Consumer(config)
        if group:
            self.consumer.subscribe([topic], on_assign=self.on_assign, on_revoke=self.on_revoke)

    def on_assign(self, _, rows):
        self.assigned.append({row.partition for row in rows})
        self.own |= self.assigned[-1]

    def on_revoke(self, _, rows):
        self.revoked.append({row.partition for row in rows})
        self.own -= self.revoked[-1]
        for p in self.revoked[-1]:
            self.next.pop(p, None)

    def poll(self, seconds):
        records = []
        for message in self.consumer.consume(500, seconds):
            if error := message.error():
                if error.fatal() or error.code() in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART):
                    raise KafkaException(error)
                continue
            self.next[message.partition()] = message.offset() + 1
            records.append(Record(message.partition(), message.offset(), message.key(), message.value(), message.headers() or [],
                                  message.timestamp()[1]))
        return records

    def partitions(self):
        return list(self.consumer.list_topics(self.topic, 30).topics[self.topic].partitions)

    def place(self, offsets):
        self.consumer.assign([TopicPartition(self.topic, p, offset) for p, offset in offsets.items()])

    def starts(self):
        return {p: self.consumer.get_watermark_offsets(TopicPartition(self.topic, p), 30)[0] for p in self.partitions()}

    def ends(self):
        return {p: self.consumer.get_watermark_offsets(TopicPartition(self.topic, p), 30)[1] for p in self.partitions()}

    def at(self, timestamp):
        rows = self.consumer.offsets_for_times([TopicPartition(self.topic, p, timestamp) for p in self.partitions()], 30)
        return {row.partition: row.offset for row in rows}

    def commit(self):
        rows = [TopicPartition(self.topic, p, offset) for p, offset in self.next.items()]
        if rows:
            for row in self.consumer.commit(offsets=rows, asynchronous=False):
                require(not row.error, f"commit: {row.error}")

    def close(self):
        self.consumer.close()


def administer(bootstrap, topic, group):
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def config_of(name):
        resource = ConfigResource(ResourceType.TOPIC, topic)
        return admin.describe_configs([resource])[resource].result(30)[name].value

    def partitions():
        return len(admin.list_topics(timeout=30).topics[topic].partitions)

    admin.create_topics([NewTopic(topic, 4, 3, config={"retention.ms": "7200000"})])[topic].result(30)
    until(lambda: topic in admin.list_topics(timeout=30).topics, "the topic is listed")
    require(partitions() == 4, "four partitions")
    require(config_of("retention.ms") == "7200000", "the configuration it was created with")
    change = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    admin.incremental_alter_configs([resource])[resource].result(30)
    until(lambda: config_of("retention.ms") == "3600000", "the new configuration")
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result(30)
    until(lambda: partitions() == 6, "six partitions")
    member = Reader(bootstrap, topic, group=group)
    until(lambda: member.poll(0.1) or member.own, "a member of the group")
    require(group in {row.group_id for row in admin.list_consumer_groups().result(30).valid}, "the group is listed")
    described = admin.describe_consumer_groups([group])[group].result(30)
    require(described.state.name == "STABLE" and len(described.members) == 1, f"the group is {described.state}")
    member.close()
    admin.delete_topics([topic])[topic].result(30)
    until(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic is gone")
