"""A consumer that never stops: reads whole partitions from the start while brokers fail, and logs what it sees.

poller.py BOOTSTRAP TOPIC PARTITIONS LOG [-X property=value]...

LOG gets one JSON object a line:
  {"t":"poll","p":0,"o":7,"c":CRC32_OF_THE_VALUE}    a record, in the order of the polls
  {"t":"reset","p":0,"e":"..."}                      told that its offset does not exist (nothing is ever deleted)
  {"t":"unseen","p":0,"e":"..."}                     not read to the end
When its standard input closes it reads on to the ends as they are then, for at most 60 s, and ends.
"""

import argparse
import json
import sys
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition


def main():
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic"):
        parser.add_argument(name)
    parser.add_argument("partitions", type=int)
    parser.add_argument("log")
    parser.add_argument("-X", action="append", default=[])
    args = parser.parse_args()
    config = {"bootstrap.servers": args.bootstrap, "group.id": "unused", "enable.auto.commit": False, "check.crcs": True,
              "auto.offset.reset": "error", "fetch.wait.max.ms": 100,
              "error_cb": lambda error: print(error, file=sys.stderr)}
    config.update(pair.split("=", 1) for pair in args.X)
    consumer = Consumer(config)
    consumer.assign([TopicPartition(args.topic, p, 0) for p in range(args.partitions)])
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    at, ends, deadline = [0] * args.partitions, None, None

    def end_of(p):
        while True:
            try:
                return consumer.get_watermark_offsets(TopicPartition(args.topic, p), 5)[1]
            except KafkaException as error:
                if time.monotonic() > deadline:
                    sys.exit(f"no end offset of {args.topic}/{p}: {error}")
                time.sleep(0.2)

    with open(args.log, "w", buffering=1 << 16) as log:
        def write(line):
            log.write(json.dumps(line, separators=(",", ":")) + "\n")

        while ends is None or any(a < e for a, e in zip(at, ends)):
            if ends is None and stop.is_set():
                deadline = time.monotonic() + 60
                ends = [end_of(p) for p in range(args.partitions)]
            if deadline and time.monotonic() > deadline:
                break
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error:
                    print(error, file=sys.stderr)
                    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                        write({"t": "reset", "p": message.partition(), "e": str(error)})
                        # On from where it was: whether that place is still what it was shows in the end.
                        consumer.seek(TopicPartition(args.topic, message.partition(), at[message.partition()]))
                    continue
                p, o = message.partition(), message.offset()
                write({"t": "poll", "p": p, "o": o, "c": zlib.crc32(message.value())})
                at[p] = max(at[p], o + 1)
        for p, (a, e) in enumerate(zip(at, ends)):
            if a < e:
                write({"t": "unseen", "p": p, "e": f"at {a} of {e}"})


if __name__ == "__main__":
    main()
