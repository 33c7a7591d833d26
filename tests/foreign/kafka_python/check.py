"""kafka-python 3 (pure Python, its own protocol code): creates topics, produces under each codec, reads back exactly."""

import os
import sys
import time
import uuid

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

BOOTSTRAP = (sys.argv[1] if len(sys.argv) > 1 else os.environ["BOOTSTRAP"]).split(",")
CODECS = os.environ.get("CODECS", "none gzip snappy lz4 zstd").split()
RF = int(os.environ.get("FOREIGN_RF", "3"))
PARTITIONS, COUNT, BASE_TS = 3, 120, 1_700_000_000_000


def record(i, codec):
    """The i-th record: every shape a record may have. A null key needs a value in this client, so they never meet."""
    key = None if i % 10 == 9 else f"key-{i}".encode()
    value = {3: None, 4: b"", 5: b"compressible " * 1600, 6: bytes(range(256))}.get(i % 10, f"value {i} {codec}".encode())
    headers = [("n", str(i).encode()), ("bin", b"\x00\xff\xfe"), ("n", b"again"), ("empty", b"")]
    return key, value, headers, BASE_TS + i * 1000


def produce(topic, codec, **extra):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, compression_type=None if codec == "none" else codec, linger_ms=5, **extra)
    pending = []
    for i in range(COUNT):
        key, value, headers, ts = record(i, codec)
        pending.append(producer.send(topic, value, key, headers, i % PARTITIONS, ts))
    producer.flush(60)
    acked = {i: (f.get(10).partition, f.get(10).offset) for i, f in enumerate(pending)}
    producer.close()
    return acked


def consume(topic):
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest")
    parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    consumer.assign(parts)
    consumer.seek_to_beginning(*parts)
    # With acks=1 the last records may not be committed yet.
    for _ in range(50):
        begin, end = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
        if sum(end.values()) == COUNT:
            break
        time.sleep(0.1)
    assert all(begin[p] == 0 and end[p] == COUNT // PARTITIONS for p in parts), f"offsets {begin} {end}"
    found = consumer.offsets_for_times({parts[0]: BASE_TS + 60_000 - 500})[parts[0]]
    assert found.offset == 20, f"offset by time is {found.offset}, not 20"
    got, deadline = [], time.time() + 60
    while len(got) < COUNT:
        assert time.time() < deadline, f"{len(got)} of {COUNT} records of {topic} within 60 s"
        for batch in consumer.poll(timeout_ms=1000).values():
            got.extend(batch)
    assert not consumer.poll(timeout_ms=300), "records behind the end"
    consumer.close()
    return got


def compare(codec, acked, got):
    by_place = {(m.partition, m.offset): m for m in got}
    assert len(by_place) == len(got) == COUNT, f"{codec}: {len(got)} records at {len(by_place)} offsets, {COUNT} written"
    for i in range(COUNT):
        msg = by_place[acked[i]]
        have = (msg.key, msg.value, [(k, v) for k, v in msg.headers], msg.timestamp)
        assert have == record(i, codec), f"{codec}: record {i} came back as {have}"


def main():
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    run = uuid.uuid4().hex[:8]
    for codec in CODECS:
        topic = f"foreign-kafka-python-{codec}-{run}"
        admin.create_topics([NewTopic(topic, PARTITIONS, RF)])
        acked = produce(topic, codec, acks="all", enable_idempotence=True)
        compare(codec, acked, consume(topic))
        print(f"ok {codec}: {COUNT} records, idempotent")
    topic = f"foreign-kafka-python-acks1-{run}"
    admin.create_topics([NewTopic(topic, PARTITIONS, RF)])
    compare("none", produce(topic, "none", acks=1, enable_idempotence=False), consume(topic))
    print("ok acks=1")
    admin.delete_topics([topic])
    admin.close()


if __name__ == "__main__":
    main()
