"""One produce awaited at a time through librdkafka: latency.py BOOTSTRAP TOPIC [COUNT] [BYTES]. Prints percentiles in ms."""

import sys
import time

from confluent_kafka import Producer

bootstrap, topic = sys.argv[1], sys.argv[2]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
value = b"x" * (int(sys.argv[4]) if len(sys.argv) > 4 else 1024)
producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 0})
errors = []


def once():
    started = time.perf_counter()
    producer.produce(topic, value, partition=0, on_delivery=lambda err, _: errors.append(str(err)) if err else None)
    left = producer.flush(30)
    if left or errors:
        sys.exit(f"not acknowledged: {errors or 'timed out'}")
    return (time.perf_counter() - started) * 1000


for _ in range(min(200, count)):
    once()
took = sorted(once() for _ in range(count))
at = lambda q: took[min(len(took) - 1, int(len(took) * q))]
print(f"{count} awaited produces of {len(value)} B: {at(.5):.2f} ms 50th, {at(.95):.2f} ms 95th, {at(.99):.2f} ms 99th, {took[-1]:.2f} ms max")
