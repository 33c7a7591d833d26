"""One record, sent once: once.py BOOTSTRAP TOPIC PARTITION VALUE. Prints `ok OFFSET`, or `ERROR_NAME retriable|final`.

A client that retries hides what a broker answers; this one shows it. Exit status 0 either way, 1 if there was no answer.
"""

import sys

from confluent_kafka import Producer

bootstrap, topic, partition, value = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
# librdkafka retries by its own judgement; 0 leaves the broker's word.
producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "retries": 0, "linger.ms": 0, "message.timeout.ms": 4000})
said = []
# What the broker may be asked again, by Kafka's own table of errors.
RETRIABLE = {"COORDINATOR_NOT_AVAILABLE", "KAFKA_STORAGE_ERROR", "LEADER_NOT_AVAILABLE", "NETWORK_EXCEPTION",
             "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT",
             "UNKNOWN_TOPIC_OR_PART"}


def delivered(error, message):
    if error is None:
        said.append(f"ok {message.offset()}")
    else:
        said.append(f"{error.name()} {'retriable' if error.name() in RETRIABLE else 'final'}")


producer.produce(topic, value, partition=partition, on_delivery=delivered)
producer.flush(15)
if not said:
    sys.exit("no answer")
print(said[0])
