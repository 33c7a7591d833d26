"""confluent-kafka (librdkafka) in consumer groups: two members share, one leaves, progress is kept, static members, administration."""

import os
import sys
import time
import uuid

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP = sys.argv[1] if len(sys.argv) > 1 else os.environ["BOOTSTRAP"]
RF = int(os.environ.get("FOREIGN_RF", "3"))
PARTITIONS, COUNT = 4, 400


class Member:
    """A consumer that notes what it is assigned and what it reads."""

    def __init__(self, group, topic, **extra):
        self.own, self.assignments, self.got = set(), 0, []
        self.consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, "enable.auto.commit": False,
                                  "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
                                  "heartbeat.interval.ms": 500, **extra})
        self.consumer.subscribe([topic], on_assign=self.assigned, on_revoke=self.revoked)

    def assigned(self, consumer, partitions):
        self.assignments += 1
        self.own |= {row.partition for row in partitions}

    def revoked(self, consumer, partitions):
        self.own -= {row.partition for row in partitions}

    def poll(self):
        message = self.consumer.poll(0.1)
        if message is not None:
            if message.error():
                raise KafkaException(message.error())
            self.got.append((message.partition(), message.offset()))


def until(condition, members, what, limit=60):
    deadline = time.time() + limit
    while not condition():
        assert time.time() < deadline, f"not within {limit} s: {what}; {[(m.own, len(m.got)) for m in members]}"
        for member in members:
            member.poll()


def produce(topic, count):
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "acks": "all"})
    for i in range(count):
        producer.produce(topic, f"value {i}".encode(), None, i % PARTITIONS)
    assert producer.flush(60) == 0


def share_and_resume(strategy, run):
    topic, group = f"foreign-groups-{strategy}-{run}", f"group-{strategy}-{run}"
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    admin.create_topics([NewTopic(topic, PARTITIONS, RF)])[topic].result(30)
    produce(topic, COUNT)
    extra = {"partition.assignment.strategy": strategy}
    a = Member(group, topic, **extra)
    until(lambda: len(a.own) == PARTITIONS and len(a.got) == COUNT, [a], "one member owns and reads everything")
    a.consumer.commit(asynchronous=False)
    b = Member(group, topic, **extra)
    until(lambda: len(a.own) == len(b.own) == 2 and not a.own & b.own, [a, b], "two members share")
    described = admin.describe_consumer_groups([group])[group].result(30)
    assert described.state.name == "STABLE" and len(described.members) == 2, described
    assert group in {g.group_id for g in admin.list_consumer_groups().result(30).valid}, "the group is listed"
    produce(topic, COUNT)
    until(lambda: len(a.got) + len(b.got) == 2 * COUNT, [a, b], "both read the rest")
    for member in (a, b):
        member.consumer.commit(asynchronous=False)
    a.consumer.close()
    until(lambda: len(b.own) == PARTITIONS, [b], "the one that is left owns everything")
    produce(topic, PARTITIONS)
    until(lambda: len(a.got) + len(b.got) == 2 * COUNT + PARTITIONS, [b], "it reads on")
    assert len(set(a.got + b.got)) == 2 * COUNT + PARTITIONS, "a record came twice although everything was committed"
    b.consumer.commit(asynchronous=False)
    b.consumer.close()
    c = Member(group, topic, **extra)
    produce(topic, PARTITIONS)
    until(lambda: len(c.got) == PARTITIONS, [c], "the group goes on where it was")
    assert min(offset for _, offset in c.got) == (2 * COUNT + PARTITIONS) // PARTITIONS, c.got
    c.consumer.close()
    administer(admin, group, topic)
    print(f"ok {strategy}: shared by two, one left, resumed, administered")


def administer(admin, group, topic):
    end = (2 * COUNT + PARTITIONS) // PARTITIONS
    offsets = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
    told = {row.partition: row.offset for row in offsets.topic_partitions}
    assert told == {p: end for p in range(PARTITIONS)}, told
    # Another place to begin: possible while nobody is there.
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p, 7) for p in range(PARTITIONS)])
    admin.alter_consumer_group_offsets([wanted])[group].result(30)
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group})
    rows = consumer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=30)
    assert [row.offset for row in rows] == [7] * PARTITIONS, rows
    # What is stored beside an offset comes back.
    consumer.commit(offsets=[TopicPartition(topic, 0, 8, "a note")], asynchronous=False)
    row = consumer.committed([TopicPartition(topic, 0)], timeout=30)[0]
    assert (row.offset, row.metadata) == (8, "a note"), row
    consumer.close()
    admin.delete_consumer_groups([group])[group].result(30)
    assert group not in {g.group_id for g in admin.list_consumer_groups().result(30).valid}, "a deleted group is listed"


def static(run):
    topic, group = f"foreign-groups-static-{run}", f"group-static-{run}"
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    admin.create_topics([NewTopic(topic, PARTITIONS, RF)])[topic].result(30)
    produce(topic, PARTITIONS)
    one = Member(group, topic, **{"group.instance.id": "one", "session.timeout.ms": 20000})
    two = Member(group, topic, **{"group.instance.id": "two", "session.timeout.ms": 20000})
    until(lambda: len(one.own) == len(two.own) == 2, [one, two], "two static members share")
    before, own = one.assignments, set(two.own)
    two.consumer.close()
    back = Member(group, topic, **{"group.instance.id": "two", "session.timeout.ms": 20000})
    until(lambda: len(back.own) == 2, [one, back], "a static member is back", 15)
    assert back.own == own, f"it had {own} and has {back.own}"
    assert one.assignments == before, "the other one was rebalanced"
    one.consumer.close()
    back.consumer.close()
    print("ok static membership: back with the same partitions, nobody rebalanced")


def main():
    run = uuid.uuid4().hex[:8]
    for strategy in ("range", "cooperative-sticky"):
        share_and_resume(strategy, run)
    static(run)


if __name__ == "__main__":
    main()
