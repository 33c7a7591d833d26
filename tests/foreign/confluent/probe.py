"""How long a record takes: probe.py BOOTSTRAP TOPIC SECONDS [RATE]. librdkafka, idempotent, acks=all, one record awaited at a time.

Prints percentiles in ms of the acknowledgement (from produce) and of the arrival (from produce to a consumer of its own that polls all
the while), and the records that were not acknowledged within 60 s: "produce P50 P99 MAX fetch P50 P99 MAX records N failed N".
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

bootstrap, topic, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
interval = 1 / float(sys.argv[4] if len(sys.argv) > 4 else 50)
quiet = {"bootstrap.servers": bootstrap, "error_cb": lambda error: print(error, file=sys.stderr)}
partitions = len(AdminClient(quiet).list_topics(topic, timeout=30).topics[topic].partitions)
sent, acked, arrived, failed = {}, {}, {}, []
ended = threading.Event()


def read():
    consumer = Consumer({**quiet, "group.id": "probe", "enable.auto.commit": False, "fetch.wait.max.ms": 500})
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in range(partitions)]
    consumer.assign([TopicPartition(topic, p, end) for p, end in enumerate(ends)])
    ready.set()
    while not (ended.is_set() and len(arrived) >= len(acked)):
        message = consumer.poll(0.5)
        if message is None:
            if ended.is_set() and time.monotonic() > last + 60:
                break
        elif not message.error():
            arrived[int(message.key())] = time.perf_counter()
    consumer.close()


ready = threading.Event()
last = time.monotonic()
reader = threading.Thread(target=read)
reader.start()
ready.wait()
producer = Producer({**quiet, "acks": "all", "enable.idempotence": True, "linger.ms": 0, "message.timeout.ms": 60000})


def delivered(error, message):
    if error:
        failed.append(str(error))
    else:
        acked[int(message.key())] = time.perf_counter()


# The first ones find leaders and get a producer id.
for n in range(-partitions, 0):
    producer.produce(topic, b"x" * 1024, key=str(n), partition=n % partitions, on_delivery=delivered)
producer.flush()
until, n = time.monotonic() + seconds, 0
while time.monotonic() < until:
    due = time.monotonic() + interval
    sent[n] = time.perf_counter()
    producer.produce(topic, b"x" * 1024, key=str(n), partition=n % partitions, on_delivery=delivered)
    producer.flush()
    n += 1
    time.sleep(max(0, due - time.monotonic()))
last = time.monotonic()
ended.set()
reader.join()


def row(at):
    took = sorted((at[n] - sent[n]) * 1000 for n in sent if n in at)
    if not took:
        sys.exit(f"nothing came: {failed[:3]}")
    return " ".join(f"{took[min(len(took) - 1, int(len(took) * q))]:.1f}" for q in (0.5, 0.99, 1))


print(f"produce {row(acked)} fetch {row(arrived)} records {n} failed {len(failed)}")
