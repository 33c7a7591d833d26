"""A member of a consumer group that never stops: processes records in order, commits as it goes, and logs what it sees.

member.py BOOTSTRAP TOPIC GROUP LOG [-X property=value]...

LOG gets one JSON object a line, with the time in microseconds as "at":
  {"t":"assigned","p":0,"o":7}    a partition is its own; the group says it goes on at offset 7 (-1001: nothing is committed)
  {"t":"revoked","p":0}           it is its own no longer
  {"t":"read","p":0,"o":7}        a record was processed
  {"t":"committed","p":0,"o":8}   a commit was acknowledged
When its standard input closes it commits what it has processed, leaves and ends.
"""

import argparse
import json
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

COMMIT_EVERY = 25


def main():
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "group", "log"):
        parser.add_argument(name)
    parser.add_argument("-X", action="append", default=[])
    args = parser.parse_args()
    config = {"bootstrap.servers": args.bootstrap, "group.id": args.group, "enable.auto.commit": False,
              "enable.auto.offset.store": False, "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
              "heartbeat.interval.ms": 500, "fetch.wait.max.ms": 50,
              "error_cb": lambda error: print(error, file=sys.stderr)}
    config.update(pair.split("=", 1) for pair in args.X)
    consumer = Consumer(config)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    log = open(args.log, "w", buffering=1)
    done = {}

    def write(kind, partition, offset=None):
        line = {"t": kind, "p": partition, "at": time.time_ns() // 1000}
        log.write(json.dumps(line if offset is None else {**line, "o": offset}, separators=(",", ":")) + "\n")

    def commit(partitions):
        wanted = [TopicPartition(args.topic, p, done[p]) for p in partitions if p in done]
        if not wanted:
            return
        try:
            for row in consumer.commit(offsets=wanted, asynchronous=False):
                if row.error:
                    print(f"commit of {row.partition}: {row.error}", file=sys.stderr)
                else:
                    write("committed", row.partition, row.offset)
        except KafkaException as error:
            print(f"commit: {error}", file=sys.stderr)

    def assigned(consumer, partitions):
        for row in partitions:
            done.pop(row.partition, None)
        # Asked for as often as it takes: where to go on is the group's to say, not a default's.
        while True:
            try:
                rows = consumer.committed(partitions, timeout=10)
                break
            except KafkaException as error:
                print(f"committed: {error}", file=sys.stderr)
        for row in rows:
            write("assigned", row.partition, row.offset)

    def revoked(consumer, partitions):
        commit([row.partition for row in partitions])
        for row in partitions:
            done.pop(row.partition, None)
            write("revoked", row.partition)

    def lost(consumer, partitions):
        for row in partitions:
            done.pop(row.partition, None)
            write("revoked", row.partition)

    consumer.subscribe([args.topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
    since = 0
    while not stop.is_set():
        for message in consumer.consume(COMMIT_EVERY, 0.1):
            if message.error():
                print(message.error(), file=sys.stderr)
                continue
            write("read", message.partition(), message.offset())
            done[message.partition()] = message.offset() + 1
            since += 1
        if since >= COMMIT_EVERY:
            commit(list(done))
            since = 0
    commit(list(done))
    consumer.close()
    log.close()


if __name__ == "__main__":
    main()
