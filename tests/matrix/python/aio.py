"""aiokafka behind the calls of `jobs.py`: its loop runs in a thread of its own."""

import asyncio
import threading

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code
from jobs import Record, Unsupported, require, until

LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(work, limit=90):
    return asyncio.run_coroutine_threadsafe(work, LOOP).result(limit)


async def made(kind, **options):
    """They want to be made where the loop runs."""
    return kind(**options)


def version():
    return f"aiokafka {aiokafka.__version__}"


class Sender:
    def __init__(self, bootstrap, codec, idempotent):
        self.sent = []
        self.producer = wait(made(AIOKafkaProducer, bootstrap_servers=bootstrap, acks="all", enable_idempotence=idempotent,
                                  compression_type=None if codec == "none" else codec))
        wait(self.producer.start())

    def send(self, topic, key, value, headers=None, timestamp=None):
        self.sent.append(wait(self.producer.send(topic, value, key, timestamp_ms=timestamp, headers=headers)))

    def flush(self):
        async def all_sent():
            await asyncio.gather(*self.sent)

        wait(all_sent())
        wait(self.producer.stop())


class Reader(ConsumerRebalanceListener):
    def __init__(self, bootstrap, topic, group=None, instance=None, cooperative=False):
        if cooperative:
            raise Unsupported("aiokafka has no cooperative assignor (KIP-429)")
        self.topic, self.own, self.assigned, self.revoked, self.next = topic, set(), [], [], {}
        self.consumer = wait(made(AIOKafkaConsumer, bootstrap_servers=bootstrap, group_id=group, group_instance_id=instance,
                                  enable_auto_commit=False, auto_offset_reset="earliest", heartbeat_interval_ms=500, session_timeout_ms=30_000))
        if group:
            self.consumer.subscribe([topic], listener=self)
        # A member's start is over when it has joined, which may take another one's polling: the loop does both.
        self.starting = asyncio.run_coroutine_threadsafe(self.consumer.start(), LOOP)
        if not group:
            self.starting.result(60)

    def on_partitions_assigned(self, assigned):
        self.assigned.append({row.partition for row in assigned})
        self.own = self.assigned[-1]

    def on_partitions_revoked(self, revoked):
        self.revoked.append({row.partition for row in revoked})
        self.own, self.next = set(), {}

    def poll(self, seconds):
        if not self.starting.done():
            wait(asyncio.sleep(seconds))
            return []
        self.starting.result()
        records = []
        for row, messages in wait(self.consumer.getmany(timeout_ms=int(seconds * 1000), max_records=500)).items():
            self.next[row.partition] = messages[-1].offset + 1
            records += [Record(m.partition, m.offset, m.key, m.value, list(m.headers), m.timestamp) for m in messages]
        return records

    def rows(self):
        async def partitions():
            # Asked anew: a consumer without a subscription knows of no topic.
            await self.consumer._client.add_topic(self.topic)
            return self.consumer.partitions_for_topic(self.topic)

        return [TopicPartition(self.topic, p) for p in wait(partitions())]

    def place(self, offsets):
        async def placed():
            self.consumer.assign([TopicPartition(self.topic, p) for p in offsets])
            for p, offset in offsets.items():
                self.consumer.seek(TopicPartition(self.topic, p), offset)

        wait(placed())

    def starts(self):
        return {row.partition: offset for row, offset in wait(self.consumer.beginning_offsets(self.rows())).items()}

    def ends(self):
        return {row.partition: offset for row, offset in wait(self.consumer.end_offsets(self.rows())).items()}

    def at(self, timestamp):
        found = wait(self.consumer.offsets_for_times({row: timestamp for row in self.rows()}))
        return {row.partition: place.offset for row, place in found.items()}

    def commit(self):
        if rows := {TopicPartition(self.topic, p): offset for p, offset in self.next.items()}:
            wait(self.consumer.commit(rows), 20)

    def close(self):
        wait(self.consumer.stop())


def administer(bootstrap, topic, group):
    admin = wait(made(AIOKafkaAdminClient, bootstrap_servers=bootstrap))
    wait(admin.start())

    def done(response):
        """It leaves the errors of most answers to the caller."""
        for name, code, *words in response.topic_errors if hasattr(response, "topic_errors") else response.topic_error_codes:
            require(code == 0, f"{name}: {for_code(code).__name__} {words}")

    def config_of(name):
        (answer,) = wait(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))
        (resource,) = answer.to_object()["resources"]
        require(resource["error_code"] == 0, f"describing {topic}: {resource}")
        return next(row["config_value"] for row in resource["config_entries"] if row["config_names"] == name)

    def partitions():
        return len(wait(admin.describe_topics([topic]))[0]["partitions"])

    done(wait(admin.create_topics([NewTopic(topic, 4, 3, topic_configs={"retention.ms": "7200000"})])))
    until(lambda: topic in wait(admin.list_topics()), "the topic is listed")
    require(partitions() == 4, "four partitions")
    require(config_of("retention.ms") == "7200000", "the configuration it was created with")
    (altered,) = wait(admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "3600000"})]))
    require(all(row["error_code"] == 0 for row in altered.to_object()["resources"]), f"altering: {altered}")
    until(lambda: config_of("retention.ms") == "3600000", "the new configuration")
    wait(admin.create_partitions({topic: NewPartitions(6)}))
    until(lambda: partitions() == 6, "six partitions")
    member = Reader(bootstrap, topic, group=group)
    until(lambda: member.poll(0.1) or member.own, "a member of the group")
    require(group in {row[0] for row in wait(admin.list_consumer_groups())}, "the group is listed")
    (answer,) = wait(admin.describe_consumer_groups([group]))
    (described,) = answer.to_object()["groups"]
    require(described["state"] == "Stable" and len(described["members"]) == 1, f"the group is {described}")
    member.close()
    done(wait(admin.delete_topics([topic])))
    until(lambda: topic not in wait(admin.list_topics()), "the topic is gone")
    wait(admin.close())
