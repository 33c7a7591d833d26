"""A producer that never stops: idempotent, acks=all, every acknowledgement logged. Drives the kill tests.

writer.py BOOTSTRAP TOPIC PARTITIONS LOG [--run ID] [--rate RECORDS_PER_SECOND] [--refuse-every SECONDS]
          [--config topic_property=value]... [-X property=value]...

Record n of partition p is the text RUN:p:n: and a filler that follows from p and n (tests/cluster/history.rs makes the
same), so a reader can tell damage. LOG gets one JSON object a line, times in microseconds of the system clock:
  {"t":"ack","p":0,"n":7,"o":7,"s":SENT,"a":ACKED}   acknowledged at offset o
  {"t":"info","p":0,"n":8,"e":"..."}                 not acknowledged: may or may not be in the log
  {"t":"refused","n":3}                              record RUN:refused:3 was larger than the topic allows, and refused
  {"t":"accepted","n":3}                             ... or was not
  {"t":"end","sent":[1200,1201]}                     numbers below these were handed to the client
It ends, with what is in flight delivered, when its standard input closes.
"""

import argparse
import json
import sys
import threading
import time

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic


def now_us():
    return time.time_ns() // 1000


def content(run, p, n):
    return f"{run}:{p}:{n}:" + chr(97 + n % 26) * ((n * 7919 + p * 104729) % 900)


# Kafka's default, which also lets a whole batch of the client's default size pass.
MAX_MESSAGE_BYTES = 1_048_588


def create(bootstrap, topic, partitions, rf, min_insync, config):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for attempt in range(30):
        try:
            new = NewTopic(topic, partitions, rf, config={
                "min.insync.replicas": str(min_insync), "max.message.bytes": str(MAX_MESSAGE_BYTES), **config})
            admin.create_topics([new])[topic].result(30)
            return
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return
            if attempt == 29:
                raise
            time.sleep(1)


class Writer:
    def __init__(self, args, log):
        self.args, self.log = args, log
        self.sent = [0] * args.partitions
        self.producer, self.refused = self.connect(), None

    def config(self):
        config = {"bootstrap.servers": self.args.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 1,
                  "message.timeout.ms": 120000, "error_cb": lambda error: print(error, file=sys.stderr)}
        config.update(pair.split("=", 1) for pair in self.args.X)
        return config

    def connect(self):
        return Producer(self.config())

    def write(self, line):
        self.log.write(json.dumps(line, separators=(",", ":")) + "\n")

    def send(self, p):
        n, started = self.sent[p], now_us()

        def delivered(err, msg):
            if err:
                self.write({"t": "info", "p": p, "n": n, "e": str(err)})
            else:
                self.write({"t": "ack", "p": p, "n": n, "o": msg.offset(), "s": started, "a": now_us()})

        try:
            self.producer.produce(self.args.topic, content(self.args.run, p, n), f"key-{n % 100}", p,
                                  on_delivery=delivered, headers=[("n", str(n))])
        except BufferError:
            self.producer.poll(0.05)
            return
        except KafkaException as error:
            # A fatal error ends this producer; what it had in flight is reported as info. A new one goes on.
            print(f"producer replaced: {error}", file=sys.stderr)
            self.producer.purge()
            self.producer.flush(5)
            self.producer = self.connect()
            return
        self.sent[p] = n + 1

    def refuse(self):
        """Sends a record that no broker may take. Without idempotence: its loss must not be a gap in the sequence."""
        n, self.refusals = self.refusals, self.refusals + 1

        def delivered(err, _):
            # Any other failure says nothing for certain.
            if err is None or err.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self.write({"t": "refused" if err else "accepted", "n": n})

        try:
            self.refused.produce(self.args.topic, f"{self.args.run}:refused:{n}:" + "x" * MAX_MESSAGE_BYTES,
                                 partition=n % self.args.partitions, on_delivery=delivered)
        except (BufferError, KafkaException) as error:
            print(f"not sent: {error}", file=sys.stderr)

    def run(self, stop):
        if self.args.refuse_every:
            self.refused = Producer({**self.config(), "enable.idempotence": False, "message.timeout.ms": 20000,
                                     "message.max.bytes": 2 * MAX_MESSAGE_BYTES})
        self.refusals, refuse_at = 0, time.monotonic()
        interval, due = 1 / self.args.rate, time.monotonic()
        p = 0
        while not stop.is_set():
            self.send(p)
            p = (p + 1) % self.args.partitions
            self.producer.poll(0)
            if self.refused:
                self.refused.poll(0)
                if time.monotonic() >= refuse_at:
                    refuse_at = time.monotonic() + self.args.refuse_every
                    self.refuse()
            due = max(due + interval, time.monotonic() - 0.1)
            while (left := due - time.monotonic()) > 0 and not stop.is_set():
                self.producer.poll(left)
        if self.refused:
            self.refused.flush(30)
        left = self.producer.flush(120)
        self.producer.purge()
        self.producer.flush(5)
        self.write({"t": "end", "sent": self.sent})
        return left


def main():
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic"):
        parser.add_argument(name)
    parser.add_argument("partitions", type=int)
    parser.add_argument("log")
    parser.add_argument("--run", default="w")
    parser.add_argument("--rate", type=float, default=1500)
    parser.add_argument("--refuse-every", type=float, default=0)
    parser.add_argument("--rf", type=int, default=3)
    parser.add_argument("--min-insync", type=int, default=2)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("-X", action="append", default=[])
    args = parser.parse_args()
    create(args.bootstrap, args.topic, args.partitions, args.rf, args.min_insync,
           dict(pair.split("=", 1) for pair in args.config))
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    with open(args.log, "w", buffering=1) as log:
        left = Writer(args, log).run(stop)
    if left:
        sys.exit(f"{left} records still in flight after 120 s")


if __name__ == "__main__":
    main()
