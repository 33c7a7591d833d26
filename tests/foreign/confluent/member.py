"""A member of a consumer group that never stops: processes records in order, commits as it goes, and logs what it sees.

member.py BOOTSTRAP TOPIC GROUP LOG [-X property=value]...

The members in tests/foreign/franz/member and tests/foreign/java (Member.java) take the same first arguments and log the same.
LOG gets one JSON object a line; "at" is when it was over and "s" when it began (microseconds of the system clock), "g" the generation:
  {"t":"assigned","p":0,"o":7,"g":3,"s":..,"at":..}    a partition is its own; the group says it goes on at offset 7 (-1001: nothing is committed)
  {"t":"revoked","p":0,"g":3,"at":..}                  it is its own no longer
  {"t":"read","p":0,"o":7,"at":..}                     a record was processed
  {"t":"committing","p":0,"o":8,"g":3,"at":..}         a commit is about to be sent
  {"t":"committed","p":0,"o":8,"g":3,"s":..,"at":..}   it was acknowledged
When its standard input closes it commits what it has processed, leaves and ends.
"""

import argparse
import json
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

COMMIT_EVERY = 25
COMMIT_AFTER = 0.5


def now_us():
    return time.time_ns() // 1000


def generation(consumer):
    """As librdkafka packs it: a mark of seven bytes, then the generation."""
    packed = consumer.consumer_group_metadata()
    return int.from_bytes(packed[7:11], "little", signed=True) if packed[:7] == b"CGMDv2:" else -1


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
    is_cooperative = config.get("partition.assignment.strategy") == "cooperative-sticky"
    consumer = Consumer(config)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    log = open(args.log, "w", buffering=1)
    # Partitions that are its own, and the offset behind what was processed of each; None until something was.
    done = {}

    def write(kind, partition, **rest):
        line = {"t": kind, "p": partition, **rest, "at": now_us()}
        log.write(json.dumps(line, separators=(",", ":")) + "\n")

    def commit(partitions):
        wanted = [TopicPartition(args.topic, p, done[p]) for p in partitions if done.get(p) is not None]
        if not wanted:
            return
        began, of = now_us(), generation(consumer)
        for row in wanted:
            write("committing", row.partition, o=row.offset, g=of)
        try:
            for row in consumer.commit(offsets=wanted, asynchronous=False):
                if row.error:
                    print(f"commit of {row.partition}: {row.error}", file=sys.stderr)
                else:
                    write("committed", row.partition, o=row.offset, g=of, s=began)
        except KafkaException as error:
            print(f"commit: {error}", file=sys.stderr)

    def assigned(consumer, partitions):
        began = now_us()
        # Asked for as often as it takes: where to go on is the group's to say, not a default's.
        while partitions:
            try:
                rows = consumer.committed(partitions, timeout=10)
                if any(row.error for row in rows):
                    raise KafkaException(next(row.error for row in rows if row.error))
                break
            except KafkaException as error:
                print(f"committed: {error}", file=sys.stderr)
                if stop.is_set():
                    return
        else:
            rows = []
        for row in rows:
            done[row.partition] = None
            write("assigned", row.partition, o=row.offset, g=generation(consumer), s=began)
        if is_cooperative:
            consumer.incremental_assign(rows)
        else:
            consumer.assign(rows)

    def forget(partitions):
        of = generation(consumer)
        for row in partitions:
            done.pop(row.partition, None)
            write("revoked", row.partition, g=of)
        if is_cooperative:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def revoked(consumer, partitions):
        commit([row.partition for row in partitions])
        forget(partitions)

    consumer.subscribe([args.topic], on_assign=assigned, on_revoke=revoked, on_lost=lambda _, partitions: forget(partitions))
    since, due = 0, time.monotonic() + COMMIT_AFTER
    while not stop.is_set():
        # One at a time: a batch may hold records from before a rebalance that happens while it is collected.
        message = consumer.poll(0.1)
        if message is not None and message.error():
            print(message.error(), file=sys.stderr)
        elif message is not None and message.partition() in done:
            write("read", message.partition(), o=message.offset())
            done[message.partition()] = message.offset() + 1
            since += 1
        if since >= COMMIT_EVERY or (since and time.monotonic() >= due):
            commit(list(done))
            since, due = 0, time.monotonic() + COMMIT_AFTER
    commit(list(done))
    consumer.close()
    log.close()


if __name__ == "__main__":
    main()
