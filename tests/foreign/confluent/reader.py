"""Reads whole partitions, assigned, CRCs checked: reader.py BOOTSTRAP TOPIC PARTITIONS OUT [TIMEOUT_SECONDS].

OUT gets one JSON object a line: {"p":0,"o":12,"v":"text","k":"key"}, then {"end":[END_OFFSET_OF_EACH_PARTITION]}.
"""

import json
import sys
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

bootstrap, topic, partitions, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
deadline = time.time() + (float(sys.argv[5]) if len(sys.argv) > 5 else 120)
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "check.crcs": True,
                     "auto.offset.reset": "error", "error_cb": lambda error: print(error, file=sys.stderr)})


def end_of(p):
    while True:
        try:
            return consumer.get_watermark_offsets(TopicPartition(topic, p), 5)[1]
        except KafkaException as error:
            if time.time() > deadline:
                sys.exit(f"no end offset of {topic}/{p}: {error}")
            time.sleep(0.2)


ends = [end_of(p) for p in range(partitions)]
consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions) if ends[p]])
missing = {p for p in range(partitions) if ends[p]}
with open(out, "w") as log:
    while missing:
        if time.time() > deadline:
            sys.exit(f"partitions {sorted(missing)} of {topic} not read to their ends {ends} in time")
        for message in consumer.consume(1000, 0.5):
            if message.error():
                if not message.error().retriable():
                    sys.exit(f"consumer: {message.error()}")
                continue
            key, value = message.key(), message.value()
            log.write(json.dumps({"p": message.partition(), "o": message.offset(), "v": value.decode("latin-1") if value is not None else None,
                                  "k": key.decode("latin-1") if key is not None else None}) + "\n")
            if message.offset() + 1 >= ends[message.partition()]:
                missing.discard(message.partition())
    log.write(json.dumps({"end": ends}) + "\n")
