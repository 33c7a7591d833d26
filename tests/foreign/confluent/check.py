"""confluent-kafka (librdkafka): creates a topic, produces under each codec with idempotence, reads back exactly."""

import os
import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

BOOTSTRAP = sys.argv[1] if len(sys.argv) > 1 else os.environ["BOOTSTRAP"]
CODECS = os.environ.get("CODECS", "none gzip snappy lz4 zstd").split()
RF = int(os.environ.get("FOREIGN_RF", "3"))
PARTITIONS, COUNT, BASE_TS = 3, 120, 1_700_000_000_000


def record(i, codec):
    """The i-th record: every shape a record may have (null and empty parts, binary, large, repeated headers)."""
    key = None if i % 10 == 9 else f"key-{i}".encode()
    value = {3: None, 4: b"", 5: b"compressible " * 1600, 6: bytes(range(256))}.get(i % 10, f"value {i} {codec}".encode())
    headers = [("n", str(i).encode()), ("bin", b"\x00\xff\xfe"), ("n", b"again"), ("null", None), ("empty", b"")]
    return key, value, headers, BASE_TS + i * 1000


def settle(futures):
    for future in futures.values():
        future.result(30)


def produce(topic, codec, extra):
    acked, failed = {}, []
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "compression.type": codec, "linger.ms": 5, **extra})

    def delivered(i):
        def report(err, msg):
            if err:
                failed.append(str(err))
            else:
                acked[i] = (msg.partition(), msg.offset())
        return report

    for i in range(COUNT):
        key, value, headers, ts = record(i, codec)
        producer.produce(topic, value, key, i % PARTITIONS, on_delivery=delivered(i), timestamp=ts, headers=headers)
        producer.poll(0)
    left = producer.flush(60)
    assert not failed and left == 0, f"{codec}: {left} not delivered, errors {failed[:3]}"
    return acked


def consume(topic):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    got, ended, deadline = [], set(), time.time() + 60
    # With acks=1 the end of a partition may be met before its last records are committed; the end is then met again.
    while len(got) < COUNT or len(ended) < PARTITIONS:
        assert time.time() < deadline, f"no end of {topic} within 60 s, {len(got)} records read"
        msg = consumer.poll(1)
        if msg is None:
            continue
        if msg.error():
            if msg.error().code() != KafkaError._PARTITION_EOF:
                raise KafkaException(msg.error())
            ended.add(msg.partition())
        else:
            got.append(msg)
    for p in range(PARTITIONS):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), 10)
        assert (low, high) == (0, COUNT // PARTITIONS), f"watermarks of {topic}/{p}: {low}, {high}"
    # Record 60 is the first of partition 0 at or after its own timestamp.
    found = consumer.offsets_for_times([TopicPartition(topic, 0, BASE_TS + 60_000 - 500)], 10)[0]
    assert found.offset == 20, f"offset by time is {found.offset}, not 20"
    consumer.close()
    return got


def compare(codec, acked, got):
    assert len(got) == COUNT, f"{codec}: {len(got)} records read, {COUNT} written"
    by_place = {(m.partition(), m.offset()): m for m in got}
    assert len(by_place) == COUNT, f"{codec}: an offset came twice"
    for i in range(COUNT):
        want_key, want_value, want_headers, want_ts = record(i, codec)
        msg = by_place[acked[i]] if acked[i][1] is not None and acked[i][1] >= 0 else by_place[(i % PARTITIONS, i // PARTITIONS)]
        have = (msg.key(), msg.value(), msg.headers(), msg.timestamp()[1])
        assert have == (want_key, want_value, want_headers, want_ts), f"{codec}: record {i} came back as {have}"


def main():
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    run = uuid.uuid4().hex[:8]
    for codec in CODECS:
        topic = f"foreign-confluent-{codec}-{run}"
        settle(admin.create_topics([NewTopic(topic, PARTITIONS, RF)]))
        acked = produce(topic, codec, {"enable.idempotence": True})
        compare(codec, acked, consume(topic))
        print(f"ok {codec}: {COUNT} records, idempotent")
    for acks in ("1", "0"):
        topic = f"foreign-confluent-acks{acks}-{run}"
        settle(admin.create_topics([NewTopic(topic, PARTITIONS, RF)]))
        acked = produce(topic, "none", {"acks": acks})
        compare("none", acked, consume(topic))
        print(f"ok acks={acks}")
    topic = f"foreign-confluent-admin-{run}"
    settle(admin.create_topics([NewTopic(topic, 1, RF, config={"retention.ms": "86400000"})]))
    described = list(admin.describe_configs([ConfigResource("topic", topic)]).values())[0].result(30)
    assert described["retention.ms"].value == "86400000", described["retention.ms"]
    settle(admin.create_partitions([NewPartitions(topic, 4)]))
    settle(admin.delete_records([TopicPartition(f"foreign-confluent-{CODECS[0]}-{run}", 0, 5)]))
    settle(admin.delete_topics([topic]))
    print("ok admin: topic configuration, more partitions, delete records, delete topic")


if __name__ == "__main__":
    main()
