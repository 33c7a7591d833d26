"""The jobs of the matrix for the clients of Python, each behind the same few calls (`confluent.py`, `kafka_python.py`, `aio.py`).

jobs.py LIBRARY version | jobs.py LIBRARY JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...]: the contract of driver.py. A library's module has:

- `version()`;
- `Sender(bootstrap, codec=, idempotent=)`: `send(topic, key, value, headers=, timestamp=)`, `flush()`, which fails if a record did;
- `Reader(bootstrap, topic, group=, instance=, cooperative=)`: subscribed if it has a group; `own` (partitions it has), `revoked` and
  `assigned` (lists of sets, as it was told), `poll(seconds)` -> [Record], `place({partition: offset})`, `starts()`, `ends()`,
  `at(timestamp)`, `commit()` of what was polled, `close()`;
- `administer(bootstrap, topic, group)`: the job `admin`, with a member of the group there.
"""

import importlib
import os
import sys
import time
from collections import namedtuple
from pathlib import Path

Record = namedtuple("Record", "partition offset key value headers timestamp")
BASE_TIME = 1_700_000_000_000
PAD = "-kontiki matrix " * 14
# A little before the driver ends it, for the sake of words.
LIMIT = float(os.environ.get("MATRIX_LIMIT", "90")) - 5


class Unsupported(Exception):
    """What the library cannot do, in one line."""


def require(held, words):
    if not held:
        raise AssertionError(words)


class Work:
    """One job's library, place and sizes, and what jobs have in common."""

    def __init__(self, library, job, bootstrap, topic, group, n=1000, partitions=4):
        self.library, self.job, self.bootstrap, self.topic, self.group = library, job, bootstrap, topic, group
        self.n, self.all, self.deadline, self.sent = int(n), set(range(int(partitions))), time.time() + LIMIT, 0

    def value(self, i):
        return f"{self.job}-{i}{PAD}"[:200].encode()

    def send(self, count, codec="none", idempotent=True, headers=None, timestamps=False):
        """The next `count` records."""
        sender = self.library.Sender(self.bootstrap, codec=codec, idempotent=idempotent)
        for i in range(self.sent, self.sent + count):
            stamp = BASE_TIME + i if timestamps else None
            sender.send(self.topic, b"k%d" % (i % 50), self.value(i), headers=headers, timestamp=stamp)
        sender.flush()
        self.sent += count

    def reader(self, **extra):
        return self.library.Reader(self.bootstrap, self.topic, **extra)

    def member(self, **extra):
        return self.reader(group=self.group, **extra)

    def poll(self, readers, condition, what, got=None):
        """Polls them in turn until it holds; what they read goes to `got`."""
        while not condition():
            states = [(sorted(r.own), len(r.assigned)) for r in readers]
            require(time.time() < self.deadline, f"not in time: {what}; members' partitions and assignments: {states}, read {len(got or [])}")
            for reader in readers:
                records = reader.poll(0.1)
                if got is not None:
                    got.extend(records)

    def assigned(self, places):
        """A reader of every partition from these places, and all that is there now."""
        reader, got = self.reader(), []
        reader.place(places(reader))
        wanted = sum(reader.ends().values()) - sum(places(reader).values())
        self.poll([reader], lambda: len(got) >= wanted, f"{wanted} records", got)
        return reader, got

    def everything(self):
        reader, got = self.assigned(lambda r: r.starts())
        reader.close()
        return sorted(got, key=lambda record: number_in(record.value, self.job))


def number_in(value, job):
    rest, digits = value.decode().removeprefix(job + "-"), ""
    for letter in rest:
        if not letter.isdigit():
            break
        digits += letter
    return int(digits)


def numbers(work, records):
    return [number_in(record.value, work.job) for record in records]


def produce(work):
    work.send(work.n, codec=work.job.removeprefix("produce-"), idempotent=False)


def idempotent(work):
    work.send(work.n)


def keyed_order(work):
    work.send(work.n)
    reader, got = work.assigned(lambda r: r.starts())
    reader.close()
    last, place = {}, {}
    for record in got:
        i = number_in(record.value, work.job)
        require(record.key == b"k%d" % (i % 50), f"record {i} has the key {record.key}")
        require(last.get(record.key, -1) < i, f"{record.key}: {i} after {last.get(record.key)}")
        require(place.setdefault(record.key, record.partition) == record.partition, f"{record.key} is in two partitions")
        last[record.key] = i
    require(sorted(numbers(work, got)) == list(range(work.n)), "records are missing or came twice")


def headers(work):
    wanted = [("n", b"1"), ("empty", b""), ("binary", bytes(range(256))), ("n", b"again")]
    work.send(10, headers=wanted)
    for record in work.everything():
        require(list(record.headers) == wanted, f"headers came back as {record.headers}")


def timestamps(work):
    work.send(work.n, timestamps=True)
    for i, record in enumerate(work.everything()):
        require(record.timestamp == BASE_TIME + i, f"record {i} came back with {record.timestamp}")


def from_start(work):
    require(numbers(work, work.everything()) == list(range(work.n)), "not every record from the start")


def from_end(work):
    reader, got = work.reader(), []
    reader.place(reader.ends())
    # Where a client asks for the end only with its first poll.
    got += reader.poll(1)
    work.sent = work.n
    work.send(20)
    work.poll([reader], lambda: len(got) >= 20, "20 records behind the end", got)
    got += reader.poll(0.5)
    reader.close()
    require(sorted(numbers(work, got)) == list(range(work.n, work.n + 20)), f"from the end came {numbers(work, got)}")


def from_time(work):
    reader, got = work.assigned(lambda r: r.at(BASE_TIME + 500))
    reader.close()
    require(sorted(numbers(work, got)) == list(range(500, work.n)), f"from that time came {len(got)} records")


def shared(work, members):
    """Whether they have all partitions, each of one member, and nobody none."""
    return sorted(p for member in members for p in member.own) == sorted(work.all) and all(member.own for member in members)


def group(work):
    got = []
    work.send(work.n)
    a = work.member()
    work.poll([a], lambda: len(set(numbers(work, got))) == work.n, "one member reads everything", got)
    a.commit()
    b = work.member()
    work.poll([a, b], lambda: shared(work, [a, b]), "two members share", got)
    work.send(work.n)
    work.poll([a, b], lambda: len(set(numbers(work, got))) == work.sent, "both read the rest", got)
    a.commit()
    b.commit()
    a.close()
    work.poll([b], lambda: b.own == work.all, "the one that is left has everything", got)
    work.send(200)
    work.poll([b], lambda: len(set(numbers(work, got))) == work.sent, "it reads on", got)
    b.close()


def static(work):
    work.send(work.n)
    one, two = work.member(instance="one"), work.member(instance="two")
    work.poll([one, two], lambda: shared(work, [one, two]), "two static members share")
    before, own = (len(one.assigned), len(one.revoked)), set(two.own)
    two.close()
    back = work.member(instance="two")
    work.poll([one, back], lambda: len(back.own) == len(own), "a static member is back")
    require(back.own == own, f"it had {own} and has {back.own}")
    # A rebalance would be heard of with one of the next heartbeats.
    heard = time.time() + 2
    work.poll([one, back], lambda: time.time() > heard, "some heartbeats")
    require((len(one.assigned), len(one.revoked)) == before and back.own == own, "the other one was rebalanced")
    one.close()
    back.close()


def cooperative(work):
    a, got = work.member(cooperative=True), []
    work.send(work.n)
    work.poll([a], lambda: len(got) == work.n, "one member reads everything", got)
    told = len(a.revoked)
    b = work.member(cooperative=True)
    while not shared(work, [a, b]):
        work.send(50)
        before = len(got)
        kept = {p for p in a.own}
        work.poll([a, b], lambda: len(got) > before or shared(work, [a, b]), "the first one keeps reading", got)
        require(len(a.own & kept) >= 2, f"it had {kept} and has {a.own} in the middle of the rebalance")
    work.poll([a, b], lambda: len(set(numbers(work, got))) == work.sent, "both read everything", got)
    gone = set().union(*a.revoked[told:])
    require(gone == b.own, f"{gone} were taken from the first, {b.own} went to the second")
    rows = [row for row in got if row.partition in a.own]
    require(len({(row.partition, row.offset) for row in rows}) == len(rows), "a record of a kept partition came twice")
    a.close()
    b.close()


def commit_resume(work):
    work.send(work.n)
    first, got = work.member(), []
    work.poll([first], lambda: len(got) >= work.n // 2, "half of the records", got)
    first.commit()
    first.close()
    later, rest = work.member(), []
    work.poll([later], lambda: len(got) + len(rest) >= work.n, "the other half", rest)
    rest += later.poll(0.5)
    later.close()
    require(sorted(numbers(work, got + rest)) == list(range(work.n)), "records came twice or not at all")


def coordinator_killed(work):
    work.deadline += 60
    member, got, said, last = work.member(), set(), False, time.time()

    def committed():
        try:
            member.commit()
            return True
        except Exception as error:  # noqa: BLE001 every library has errors of its own for it
            print(f"commit: {error!r}", file=sys.stderr)
            return False

    done = False
    while not done:
        require(time.time() < work.deadline, f"{len(got)} of {work.n} records, last commit {said}")
        got.update(numbers(work, member.poll(0.1)))
        if len(got) >= work.n or time.time() - last > 0.3:
            last = time.time()
            is_committed = bool(got) and committed()
            if is_committed and not said:
                said = True
                print("ready", flush=True)
            done = is_committed and len(got) >= work.n
    member.close()


def admin(work):
    work.library.administer(work.bootstrap, work.topic, work.group)


JOBS = {"idempotent": idempotent, "keyed-order": keyed_order, "headers": headers, "timestamps": timestamps, "from-start": from_start,
        "from-end": from_end, "from-time": from_time, "group": group, "static": static, "cooperative": cooperative,
        "commit-resume": commit_resume, "coordinator-killed": coordinator_killed, "admin": admin,
        **{f"produce-{codec}": produce for codec in ("none", "gzip", "snappy", "lz4", "zstd")}}


def until(condition, what, limit=30):
    """For `administer`: what was changed may be seen a moment later elsewhere."""
    deadline = time.time() + limit
    while not (result := condition()):
        require(time.time() < deadline, f"not within {limit} s: {what}")
        time.sleep(0.1)
    return result


def main():
    sys.path.insert(0, str(Path(__file__).parent))
    library = importlib.import_module(sys.argv[1])
    if sys.argv[2] == "version":
        print(library.version())
        return
    job, bootstrap, topic, group_id, *more = sys.argv[2:]
    try:
        JOBS[job](Work(library, job, bootstrap, topic, group_id, **dict(pair.split("=", 1) for pair in more)))
        print("ok")
    except Unsupported as reason:
        print(f"unsupported: {reason}")


if __name__ == "__main__":
    # One module for those that import it back.
    sys.modules["jobs"] = sys.modules["__main__"]
    main()
