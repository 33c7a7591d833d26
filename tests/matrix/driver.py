"""The client matrix: runs stock clients x jobs against three Kontiki processes and says for each pair: works, unsupported or FAILED.

A client is a directory `clients/NAME` with an executable `run`:

    run version                                     prints the library's name and version, one line
    run JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...]    does one job

It ends with code 0 and the last line `ok`, or `unsupported: WHY` where the library cannot do it; any other end is a failure, with the
reason on stderr. TOPIC is there (`partitions=4`), but for the job `admin`. Record i of a job has the value `JOB-i`, a character that is no
digit and a repeated pattern, 200 bytes in all, and the key `k(i mod 50)`; there are `n=1000`. Times are 1700000000000 + i. The client asserts
what it read; the driver looks at what it left behind (CHECKS).

- `produce-CODEC` (acks=all), `idempotent`: n records. `keyed-order`: and read back, each key in order.
- `headers`: written and read back, one of them empty, one binary. `timestamps`: n records with times of their own, read back.
- `from-start`, `from-end`, `from-time`: the driver has written n records with times. All; only what the client writes itself then; those of
  1700000000500 and later.
- `group`: two members share the partitions, one leaves, the other has all; every record is read.
- `static` (group.instance.id): a member restarts and has the same partitions; the other is not rebalanced.
- `cooperative` (cooperative-sticky): a second member joins, the first keeps reading what it keeps.
- `commit-resume`: half is read and committed; a new consumer goes on exactly there.
- `coordinator-killed`: prints `ready` once it reads in the group and has committed. The driver kills the group's coordinator, writes on,
  restarts it. The client is done when it has seen n different records and its last commit succeeded.
- `admin`: creates TOPIC with 4 partitions and a configuration, describes both, lists, alters, adds partitions, lists and describes GROUP, deletes TOPIC.
"""

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import page
import wire
from cluster import IDS, Cluster
from confluent_kafka import TIMESTAMP_CREATE_TIME, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../../target/matrix")
PARTITIONS, COUNT, BASE_TIME = 4, 1000, 1_700_000_000_000
# Seconds a job may take.
LIMIT = float(os.environ.get("MATRIX_LIMIT", "90"))

CODECS = [f"produce-{codec}" for codec in wire.CODECS]
FILLED = ["from-start", "from-end", "from-time"]
KILLED = "coordinator-killed"
JOBS = [*CODECS, "idempotent", "keyed-order", "headers", "timestamps", *FILLED, "group", "static", "cooperative", "commit-resume", KILLED, "admin"]


def value_of(job, i):
    return (f"{job}-{i} " + "kontiki matrix " * 14)[:200].encode()


def require(held, words):
    if not held:
        raise AssertionError(words)


def until(condition, what, limit=60):
    deadline = time.time() + limit
    while not (result := condition()):
        require(time.time() < deadline, f"not within {limit} s: {what}")
        time.sleep(0.1)
    return result


class Driver:
    """What the driver itself does to the cluster, with confluent-kafka."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def metadata(self, topic=None):
        return self.admin.list_topics(topic, timeout=30)

    def await_brokers(self):
        until(lambda: self.brokers() == len(IDS), "three brokers answer")

    def brokers(self):
        try:
            return len(self.admin.list_topics(timeout=5).brokers)
        except KafkaException:
            return 0

    def create(self, topic):
        # Records have times long gone: none of them may be dropped for its age.
        made = NewTopic(topic, PARTITIONS, len(IDS), config={"retention.ms": "-1", "min.insync.replicas": "2"})
        self.admin.create_topics([made])[topic].result(60)
        # By its preferred leaders: clients that write without idempotence would write twice where leaders move, and aiokafka asks a former
        # leader where a partition begins until its metadata is five minutes old.
        def is_settled():
            rows = self.metadata(topic).topics[topic].partitions
            return len(rows) == PARTITIONS and all(row.leader == row.replicas[0] for row in rows.values())

        until(is_settled, f"{topic} is led by its preferred leaders")

    def fill(self, topic, job, first, end, times=False):
        failed = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0})
        for i in range(first, end):
            extra = {"timestamp": BASE_TIME + i} if times else {}
            producer.produce(topic, value_of(job, i), f"k{i % 50}", on_delivery=lambda e, _: e and failed.append(e), **extra)
        require(producer.flush(60) == 0 and not failed, f"the driver could not fill {topic}: {failed[:1]}")

    def read(self, topic):
        """Every message of the topic."""
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "unused", "enable.auto.commit": False, "check.crcs": True,
                           "auto.offset.reset": "error", "log_level": 0})
        try:
            ends = [reader.get_watermark_offsets(TopicPartition(topic, p), 30)[1] for p in range(PARTITIONS)]
            reader.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS) if ends[p]])
            found, deadline = [], time.time() + 60
            while len(found) < sum(ends):
                require(time.time() < deadline, f"{len(found)} of {sum(ends)} records of {topic} read within 60 s")
                for message in reader.consume(1000, 1):
                    require(not message.error(), f"reading {topic}: {message.error()}")
                    found.append(message)
            return ends, found
        finally:
            reader.close()

    def batches(self, topic, ends):
        told = self.metadata(topic)
        for p, end in enumerate(ends):
            leader = told.brokers[told.topics[topic].partitions[p].leader]
            yield from wire.batches(leader.host, leader.port, topic, p, 0, end)

    def committed(self, topic, group):
        # Asked as a consumer does: librdkafka 2.16's AdminClient crashes when the coordinator it asks has just handed its group over.
        asking = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0})

        def asked():
            try:
                return asking.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=20)
            except KafkaException:
                return None

        try:
            return sum(max(row.offset, 0) for row in until(asked, f"what {group} committed"))
        finally:
            asking.close()

    def coordinator(self, group):
        broker = next(iter(self.metadata().brokers.values()))
        return wire.coordinator(broker.host, broker.port, group)


def number_of(job, value):
    matched = re.fullmatch(re.escape(job).encode() + rb"-(\d+)([^\d].*)?", value or b"", re.DOTALL)
    require(matched and len(value) == 200, f"a value no record has: {value!r}")
    return int(matched[1])


def check_records(driver, job, topic, once=False):
    """Each record, the key beside it, each key in one partition; once, if the producer promises that much."""
    ends, found = driver.read(topic)
    numbers, places = {}, {}
    for message in found:
        i = number_of(job, message.value())
        require(message.key() == b"k%d" % (i % 50), f"record {i} has the key {message.key()}")
        require(not once or i not in numbers, f"record {i} is there twice")
        numbers[i] = message
        require(places.setdefault(message.key(), message.partition()) == message.partition(), f"{message.key()} is in two partitions")
    require(set(numbers) == set(range(COUNT)), f"{len(numbers)} of {COUNT} records are there")
    return ends


def check_codec(driver, job, topic, group):
    ends, wanted = check_records(driver, job, topic), job.removeprefix("produce-")
    stored = {codec for codec, _, _, _ in driver.batches(topic, ends)}
    require(stored == {wanted}, f"batches are stored as {stored}")


def check_idempotent(driver, job, topic, group):
    ends = check_records(driver, job, topic, once=True)
    without = [row for row in driver.batches(topic, ends) if row[1] < 0 or row[2] < 0]
    require(not without, f"{len(without)} batches without a producer id")


def check_order(driver, job, topic, group):
    check_records(driver, job, topic)


def check_headers(driver, job, topic, group):
    found = {data for message in driver.read(topic)[1] for _, data in message.headers() or []}
    require(b"" in found and any(data and not data.isascii() for data in found), f"no empty header or no binary one: {found}")


def check_times(driver, job, topic, group):
    check_records(driver, job, topic)
    wrong = [m.timestamp() for m in driver.read(topic)[1] if m.timestamp() != (TIMESTAMP_CREATE_TIME, BASE_TIME + number_of(job, m.value()))]
    require(not wrong, f"{len(wrong)} records have other times, such as {wrong[:1]}")


def check_written(driver, job, topic, group):
    require(driver.read(topic)[1], "nothing was written")


def check_behind(driver, job, topic, group):
    require(len(driver.read(topic)[1]) > COUNT, "nothing was written behind the end")


def check_group(driver, job, topic, group):
    check_written(driver, job, topic, group)
    require(group in {row.group_id for row in driver.admin.list_consumer_groups().result(60).valid}, "there was no such group")


def check_half(driver, job, topic, group):
    require(driver.committed(topic, group) >= COUNT // 2, "half of the records are not committed")


def check_gone(driver, job, topic, group):
    until(lambda: topic not in driver.metadata().topics, f"{topic} is deleted")


def check_committed(driver, job, topic, group):
    total = driver.committed(topic, group)
    require(total == COUNT, f"{total} of {COUNT} records are committed")


CHECKS = {**dict.fromkeys(CODECS, check_codec), "idempotent": check_idempotent, "keyed-order": check_order, "headers": check_headers,
          "timestamps": check_times, "from-end": check_behind, **dict.fromkeys(["group", "static", "cooperative"], check_group),
          "commit-resume": check_half, KILLED: check_committed, "admin": check_gone}


class Run:
    """One client at one job, in a process group of its own; stdout and stderr are kept in target/matrix/log."""

    def __init__(self, client, job, bootstrap, topic, group):
        self.client, self.job, self.topic, self.group = client, job, topic, group
        os.makedirs(os.path.join(OUT, "log"), exist_ok=True)
        self.log = os.path.join(OUT, "log", f"{client}.{job}")
        self.started, self.lines, self.told = time.time(), [], queue.Queue()
        command = [os.path.join(HERE, "clients", client, "run"), job, bootstrap, topic, group, f"n={COUNT}", f"partitions={PARTITIONS}"]
        with open(self.log + ".err", "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, start_new_session=True)
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()

    def follow(self):
        with open(self.log + ".out", "w", encoding="utf-8") as out:
            for line in self.process.stdout:
                line = line.decode("utf-8", "replace").rstrip("\n")
                out.write(line + "\n")
                out.flush()
                self.lines.append(line)
                self.told.put(line)
        self.told.put(None)

    def wait_for(self, line):
        """Whether it said so before it ended, or the limit."""
        while (left := self.started + LIMIT - time.time()) > 0:
            try:
                said = self.told.get(timeout=left)
            except queue.Empty:
                break
            if said == line or said is None:
                return said == line
        return False

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def finish(self, limit=LIMIT):
        """(state, note): `works` where it ended well."""
        late = ""
        try:
            code = self.process.wait(max(self.started + limit - time.time(), 0.1))
        except subprocess.TimeoutExpired:
            late = f"not done within {limit:.0f} s; "
        self.end()
        self.process.wait()
        self.reader.join(10)
        last = self.lines[-1] if self.lines else ""
        if not late and code == 0 and last == "ok":
            return page.WORKS, ""
        if not late and code == 0 and last.startswith("unsupported: "):
            return page.UNSUPPORTED, last.removeprefix("unsupported: ")
        with open(self.log + ".err", encoding="utf-8", errors="replace") as err:
            words = [line.strip() for line in err if line.strip()] or [last or "it said nothing"]
        return page.FAILED, late + words[-1][:200]


class Matrix:
    """The cells, and how they are run: jobs side by side, those that kill a broker at the end and by themselves."""

    def __init__(self, driver, cluster, parallel):
        self.driver, self.cluster, self.parallel = driver, cluster, parallel
        self.cells, self.run, self.lock = {}, f"{os.getpid():x}", threading.Lock()

    def note(self, client, job, verdict, took):
        with self.lock:
            self.cells[client, job] = verdict
            print(f"{client} {job}: {verdict[0]} ({took:.1f} s){': ' if verdict[1] else ''}{verdict[1]}", flush=True)

    def checked(self, job, topic, group, verdict):
        """The verdict after the driver's own look."""
        if verdict[0] == page.WORKS and job in CHECKS:
            try:
                CHECKS[job](self.driver, job, topic, group)
            except Exception as error:  # noqa: BLE001 whatever the look ends with is the cell's failure
                return page.FAILED, f"the driver's look: {error}"
        return verdict

    def cell(self, client, job):
        started, topic, group = time.time(), f"{client}.{job}.{self.run}", f"{client}.{job}.{self.run}.group"
        try:
            if job != "admin":
                self.driver.create(topic)
            if job in FILLED:
                self.driver.fill(topic, job, 0, COUNT, times=True)
            verdict = Run(client, job, self.driver.bootstrap, topic, group).finish()
            verdict = self.checked(job, topic, group, verdict)
        except Exception as error:  # noqa: BLE001
            verdict = page.FAILED, f"the driver: {error!r}"
        self.note(client, job, verdict, time.time() - started)

    def group_at(self, client, broker):
        """A group's name whose coordinator is this broker."""
        names = (f"{client}.{KILLED}.{self.run}.{i}" for i in range(200))
        return next(name for name in names if until(lambda: self.driver.coordinator(name), f"a coordinator of {name}") == broker)

    def killing(self, clients):
        """All these clients read in groups of one coordinator, which is killed under them and comes back."""
        runs = []
        try:
            victim = until(lambda: self.driver.coordinator("any"), "a coordinator")
            topics = {client: f"{client}.{KILLED}.{self.run}" for client in clients}
            for topic in topics.values():
                self.driver.create(topic)
                self.driver.fill(topic, KILLED, 0, 400)
            # Their clocks run from here.
            for client, topic in topics.items():
                runs.append(Run(client, KILLED, self.driver.bootstrap, topic, self.group_at(client, victim)))
            self.kill_under(runs)
        except Exception as error:  # noqa: BLE001
            for client in clients:
                self.note(client, KILLED, (page.FAILED, f"the driver: {error!r}"), 0)
        finally:
            for run in runs:
                run.end()

    def kill_under(self, runs):
        reading = [run for run in runs if run.wait_for("ready")]
        # One, unless leaders moved meanwhile.
        for i, broker in enumerate({until(lambda: self.driver.coordinator(run.group), "a coordinator") for run in reading}):
            self.cluster.kill(broker)
            if i == 0:
                with ThreadPoolExecutor(self.parallel) as pool:
                    list(pool.map(lambda run: self.driver.fill(run.topic, KILLED, 400, 700), reading))
            self.cluster.restart(broker)
            self.cluster.await_listening(broker)
        for run in reading:
            self.driver.fill(run.topic, KILLED, 700, COUNT)
        for run in runs:
            # What the driver itself took is not the client's.
            verdict = self.checked(KILLED, run.topic, run.group, run.finish(LIMIT + 60))
            self.note(run.client, KILLED, verdict, time.time() - run.started)

    def all(self, pairs):
        with ThreadPoolExecutor(self.parallel) as pool:
            list(pool.map(lambda pair: self.cell(*pair), [(client, job) for client, job in pairs if job != KILLED]))
        if killed := [client for client, job in pairs if job == KILLED]:
            require(self.cluster, f"{KILLED} needs a cluster of the driver's own")
            for i in range(0, len(killed), self.parallel):
                self.killing(killed[i:i + self.parallel])

    def failed(self):
        return [key for key, (state, _) in self.cells.items() if state == page.FAILED]

    def again(self):
        """What failed once more, by itself, in topics and groups of other names."""
        first, self.run = self.failed(), self.run + "-again"
        for pair in first:
            print(f"{' '.join(pair)}: once more", flush=True)
            self.all([pair])


def version_of(client):
    run = os.path.join(HERE, "clients", client, "run")
    done = subprocess.run([run, "version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False)
    words = done.stdout.strip().splitlines()
    if done.returncode or not words:
        raise SystemExit(f"{client} does not run; tests/foreign/install.sh and tests/matrix/install.sh install it: {done.stderr.strip()[-500:]}")
    return words[-1]


def known_clients():
    below = os.path.join(HERE, "clients")
    return sorted(name for name in os.listdir(below) if os.access(os.path.join(below, name, "run"), os.X_OK))


def arguments():
    known = known_clients()
    parser = argparse.ArgumentParser(prog="tests/matrix/run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default=",".join(known), help="comma separated; all without")
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma separated; all without")
    parser.add_argument("--write", action="store_true", help="put the results into docs/compatibility.md")
    parser.add_argument("--check", action="store_true", help="fail where docs/compatibility.md says otherwise")
    parser.add_argument("--again", action="store_true", help="try once more, alone, what failed, and count that")
    parser.add_argument("--parallel", type=int, default=4, help="jobs at a time (4)")
    parser.add_argument("--bootstrap", help="a cluster that runs, instead of one of its own; nothing is killed there")
    chosen = parser.parse_args()
    clients, jobs = chosen.clients.split(","), chosen.jobs.split(",")
    if unknown := set(clients) - set(known) | set(jobs) - set(JOBS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; clients are {', '.join(known)}, jobs {', '.join(JOBS)}")
    return chosen, clients, [job for job in JOBS if job in jobs]


def main():
    chosen, clients, jobs = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    versions = {client: version_of(client) for client in clients}
    directory = os.path.join(OUT, f"cluster-{os.getpid()}")
    cluster = None if chosen.bootstrap else Cluster(directory)
    try:
        driver = Driver(chosen.bootstrap or cluster.bootstrap)
        driver.await_brokers()
        matrix = Matrix(driver, cluster, chosen.parallel)
        # The longest, of groups, stand at the end of the list: they begin, and the short ones fill up.
        matrix.all([(client, job) for job in reversed(jobs) for client in clients])
        if chosen.again:
            matrix.again()
        if cluster and (gone := cluster.ended()):
            raise SystemExit(f"nodes {gone} ended by themselves; {directory}/node-*/log")
    finally:
        if cluster:
            cluster.stop()
    failed = matrix.failed()
    wrong = page.differences(matrix.cells, known_clients(), JOBS) if chosen.check else []
    if chosen.write:
        page.write(versions, matrix.cells, JOBS)
    print("\n".join(wrong + [f"{len(matrix.cells)} cells, {len(failed)} failed; output of each client: target/matrix/log"]))
    if failed:
        sys.exit(f"failed, the cluster's files are in {os.path.normpath(directory)}: {failed}")
    shutil.rmtree(directory, ignore_errors=True)
    if wrong:
        sys.exit("docs/compatibility.md says otherwise: tests/matrix/run.sh --write")


if __name__ == "__main__":
    main()
