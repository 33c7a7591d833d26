// What every Node client of the matrix has to do, said once: the jobs, what counts as done, and how it ends. It knows no client library;
// kafkajs.js and platformatic.js each put one behind the same few calls:
//
//   produce(topic, codec, idempotent, records)   acks=all, the default partitioner for keys, every acknowledgement waited for
//   read(topic, partitions, start)               all partitions from `start`, `end` or a time in ms: {queue, close()}
//   join(topic, {group, instance, cooperative})  a member of a group: {queue, state, generation(), commit(), close()}; it commits what was
//                                                taken from the queue of partitions that it still has, and resolves to the next offset of each
//   admin()                                      create, partitions, config, topics, alter, grow, groups, group, remove, close
//
// Usage of each: JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...], or `version`. The last line of stdout is `ok` or `unsupported: WHY`.

const BASE_MILLIS = 1_700_000_000_000;
const LIMIT_MS = Number(process.env.MATRIX_LIMIT ?? 90) * 1000 - 5_000; // a little before the driver ends it

/** What the library has not. */
export class Unsupported extends Error {}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Records of one reader, in the order in which they came; fails when its source did. */
export class Queue {
  rows = [];
  failure = null;
  push(row) { this.rows.push(row); }
  fail(error) { this.failure ??= error; }
  /** Those of partitions that were taken away belong to their next owner. */
  drop(partitions) { this.rows = this.rows.filter((row) => !partitions.includes(row.partition)); }
  /** The next record, or null if there is none now. */
  take() {
    if (this.rows.length === 0 && this.failure) throw this.failure;
    return this.rows.shift() ?? null;
  }
}

/** What a member was told of its partitions. */
export class State {
  held = new Set();
  revoked = new Set();
  changes = 0;
  assign(partitions) {
    for (const p of partitions) this.held.add(p);
    this.changes += 1;
  }
  revoke(partitions) {
    for (const p of partitions) {
      this.held.delete(p);
      this.revoked.add(p);
    }
    this.changes += 1;
  }
  list() { return [...this.held].sort(); }
}

class Run {
  constructor(client, job, topic, group, pairs) {
    Object.assign(this, { client, job, topic, group });
    const values = Object.fromEntries(pairs.map((pair) => pair.split('=')));
    this.n = Number(values.n ?? 1000);
    this.partitions = Number(values.partitions ?? 4);
    this.until = Date.now() + LIMIT_MS + (job === 'coordinator-killed' ? 60_000 : 0);
  }

  value(i) { return Buffer.from(`${this.job}-${i} `.padEnd(200, 'kontiki ')); }

  number(value) {
    const found = value.toString().match(/^([a-z0-9-]+)-(\d+) /);
    if (found?.[1] !== this.job) throw new Error(`a foreign value ${value.subarray(0, 40)}`);
    return Number(found[2]);
  }

  records(from, to, more = () => ({})) {
    return Array.from({ length: to - from }, (_, at) => {
      const i = from + at;
      return { key: Buffer.from(`k${i % 50}`), value: this.value(i), ...more(i) };
    });
  }

  write(from, to, { codec = 'none', idempotent = true, more } = {}) {
    return this.client.produce(this.topic, codec, idempotent, this.records(from, to, more));
  }

  async await(what, condition) {
    while (!(await condition())) {
      if (Date.now() > this.until) throw new Error(`${what}: not within the job's time`);
      await sleep(10);
    }
  }

  /** The next record that comes. */
  async next(source, what) {
    let row = source.queue.take();
    await this.await(what, () => (row ??= source.queue.take()) !== null);
    return row;
  }

  /** Reads the records from..to, each exactly once and no other, and shows each. */
  async readAll(from, to, start, look = () => {}) {
    const reader = await this.client.read(this.topic, this.partitions, start);
    const seen = new Set();
    while (seen.size < to - from) {
      const row = await this.next(reader, `record ${seen.size + 1} of ${to - from}`);
      const i = this.number(row.value);
      if (i < from || i >= to || seen.has(i)) throw new Error(`record ${i} came, twice or not to be read (of ${from} to ${to})`);
      seen.add(i);
      look(i, row);
    }
    await reader.close();
  }

  async keyedOrder() {
    await this.write(0, this.n);
    const last = new Map();
    const home = new Map();
    await this.readAll(0, this.n, 'start', (i, row) => {
      const key = row.key.toString();
      if (key !== `k${i % 50}`) throw new Error(`record ${i} has the key ${key}`);
      if (last.get(key) >= i) throw new Error(`record ${i} of key ${key} came after ${last.get(key)}`);
      if ((home.get(key) ?? row.partition) !== row.partition) throw new Error(`key ${key} is in two partitions`);
      last.set(key, i);
      home.set(key, row.partition);
    });
  }

  async headers() {
    const wanted = (i) => [['n', Buffer.from(`${i}`)], ['empty', Buffer.alloc(0)], ['binary', Buffer.from([0, 255, 254, i % 256, 10])]];
    await this.write(0, this.n, { more: (i) => ({ headers: wanted(i) }) });
    await this.readAll(0, this.n, 'start', (i, row) => {
      const same = row.headers.length === 3 && wanted(i).every(([key, value], h) => row.headers[h][0] === key && value.equals(row.headers[h][1]));
      if (!same) throw new Error(`record ${i} came with the headers ${row.headers}`);
    });
  }

  async timestamps() {
    await this.write(0, this.n, { more: (i) => ({ time: BASE_MILLIS + i }) });
    await this.readAll(0, this.n, 'start', (i, row) => {
      if (row.time !== BASE_MILLIS + i) throw new Error(`record ${i} came with the time ${row.time}`);
    });
  }

  fromStart() { return this.readAll(0, this.n, 'start'); }

  fromTime() {
    return this.readAll(500, this.n, BASE_MILLIS + 500, (i, row) => {
      if (row.time !== BASE_MILLIS + i) throw new Error(`record ${i} has the time ${row.time}`);
    });
  }

  /** A reader may learn where the end is only some time after it was made: see jobs.go. */
  async fromEnd() {
    const reader = await this.client.read(this.topic, this.partitions, 'end');
    const seen = new Set();
    const begun = new Set();
    const take = () => {
      for (let row = reader.queue.take(); row; row = reader.queue.take()) {
        const i = this.number(row.value);
        if (i < this.n || seen.has(i)) throw new Error(`record ${i} came, twice or from before the end`);
        seen.add(i);
        begun.add(row.partition);
      }
    };
    let next = this.n;
    await this.await('one record of each partition', async () => {
      await this.write(next, next + 50);
      next += 50;
      await sleep(500);
      take();
      return begun.size === this.partitions;
    });
    await this.write(next, next + 100);
    await this.await('the last records', () => {
      take();
      return Array.from({ length: 100 }, (_, at) => next + at).every((i) => seen.has(i));
    });
    await reader.close();
  }

  /** A member that reads in the background and remembers what. */
  async play(name, options = {}) {
    const player = { name, reads: [], ...(await this.client.join(this.topic, { ...options, group: this.group })) };
    player.poll = () => {
      for (let row = player.queue.take(); row; row = player.queue.take()) player.reads.push(row);
    };
    return player;
  }

  /** Waits until the players hold all partitions, each once, and each player as many as it should. */
  shared(...players) {
    const held = () => players.map((p) => p.state.list());
    return this.await(`sharing the partitions (${players.map((p) => p.name)})`, () => {
      players.forEach((p) => p.poll());
      const even = held().every((mine) => mine.length === this.partitions / players.length);
      return even && new Set(held().flat()).size === this.partitions;
    });
  }

  /** Waits until the players have read the records from..to, each once. */
  whole(from, to, ...players) {
    return this.await(`records ${from} to ${to}`, () => {
      const seen = new Map();
      for (const player of players) {
        player.poll?.();
        for (const row of player.reads) {
          const i = this.number(row.value);
          if (seen.has(i) && !this.client.readsTwice) throw new Error(`record ${i} was read by ${seen.get(i)} and by ${player.name}`);
          seen.set(i, player.name);
        }
      }
      for (let i = from; i < to; i += 1) if (!seen.has(i)) return false;
      return true;
    });
  }

  /** Two members share, one leaves, the other gets all; every record is read once. */
  async sharedGroup() {
    const a = await this.play('a');
    await this.shared(a);
    const b = await this.play('b');
    await this.shared(a, b);
    const half = this.n / 2;
    await this.write(0, half);
    await this.whole(0, half, a, b);
    for (const player of [a, b]) {
      if (player.reads.length === 0) throw new Error(`${player.name} read nothing`);
      await player.commit();
    }
    await b.close();
    await this.shared(a);
    await this.write(half, this.n);
    await this.whole(0, this.n, a, { name: 'b', reads: b.reads });
    await a.close();
  }

  /** A member with an instance id stops and comes back; it has the same partitions, and the other one was told nothing. */
  async static() {
    const a = await this.play('a', { instance: 'a' });
    const b = await this.play('b', { instance: 'b' });
    await this.shared(a, b);
    const [changes, generation, held] = [a.state.changes, a.generation(), b.state.list()];
    await b.close();
    const again = await this.play('b again', { instance: 'b' });
    await this.shared(a, again);
    if (`${again.state.list()}` !== `${held}`) throw new Error(`b had the partitions ${held} and came back to ${again.state.list()}`);
    await this.write(0, this.n);
    await this.whole(0, this.n, a, again);
    if (a.state.changes !== changes || a.generation() !== generation) throw new Error(`a saw a rebalance: generation ${generation}, then ${a.generation()}`);
    await again.close();
    await a.close();
  }

  /** A second member joins while the first reads; what the first keeps is never taken from it, and it reads on meanwhile. */
  async cooperative() {
    const a = await this.play('a', { cooperative: true });
    await this.shared(a);
    let written = 0;
    let stopped = false;
    const writing = (async () => {
      while (!stopped) {
        await this.write(written, written + 50);
        written += 50;
        await sleep(50);
      }
    })();
    await this.await('the first record', () => (a.poll(), a.reads.length > 0));
    const before = a.reads.length;
    // Its join may take as long as the rebalance.
    const joining = this.play('b', { cooperative: true });
    let b;
    joining.then((player) => { b = player; }, () => {});
    await this.await("b's partitions", () => (a.poll(), b?.state.list().length > 0));
    const during = a.reads.slice(before);
    await this.shared(a, await joining);
    stopped = true;
    await writing;
    const kept = a.state.list();
    const gone = kept.filter((p) => a.state.revoked.has(p));
    if (gone.length > 0) throw new Error(`a keeps the partitions ${kept}, but ${gone} were taken away meanwhile`);
    if (!during.some((row) => kept.includes(row.partition))) throw new Error(`a read nothing of ${kept} while b joined`);
    // Of partitions that moved without a commit both may have read something.
    await this.await('reading what was written meanwhile', () => {
      a.poll();
      b.poll();
      return new Set([...a.reads, ...b.reads].map((row) => this.number(row.value))).size === written;
    });
    for (const player of [a, b]) {
      await player.commit();
      await player.close();
    }
  }

  /** Half is read and committed; a new member gets exactly the other half. */
  async commitResume() {
    await this.write(0, this.n);
    const seen = new Set();
    for (const until of [this.n / 2, this.n]) {
      const member = await this.client.join(this.topic, { group: this.group });
      while (seen.size < until) {
        const i = this.number((await this.next(member, `record ${seen.size + 1}`)).value);
        if (seen.has(i)) throw new Error(`record ${i} was read before the commit and again`);
        seen.add(i);
      }
      await member.commit();
      await member.close();
    }
  }

  /** Reads while the driver kills the coordinator; in the end everything that was read must be committed. */
  async coordinatorKilled() {
    const member = await this.client.join(this.topic, { group: this.group });
    const [seen, ends, committed] = [new Set(), new Map(), new Map()];
    let ready = false;
    await this.await('everything read and committed', async () => {
      for (let row = member.queue.take(); row; row = member.queue.take()) {
        seen.add(row.value.toString());
        ends.set(row.partition, Math.max(ends.get(row.partition) ?? 0, row.offset + 1));
      }
      try {
        // May fail while the coordinator moves; and after a rebalance it is less again, until that was read again.
        for (const [partition, offset] of await member.commit()) committed.set(partition, offset);
      } catch (error) {
        console.error('commit:', error.message);
        await sleep(200);
        return false;
      }
      if (!ready && seen.size > 0) {
        ready = true;
        console.log('ready');
      }
      await sleep(200);
      return seen.size >= this.n && [...ends].every(([partition, end]) => committed.get(partition) === end);
    });
    await member.close();
  }

  /** Everything the contract names, to a topic of its own and a group that it is in. */
  async admin() {
    const admin = await this.client.admin();
    const partitions = (wanted) => this.await(`a topic of ${wanted} partitions`, async () => (await admin.partitions(this.topic)) === wanted);
    const retention = (wanted) => this.await(`retention.ms=${wanted}`, async () => (await admin.config(this.topic, 'retention.ms')) === wanted);
    await admin.create(this.topic, this.partitions, { 'retention.ms': '3600000' });
    await partitions(this.partitions);
    await retention('3600000');
    if (!(await admin.topics()).includes(this.topic)) throw new Error('the topic is not listed');
    await admin.alter(this.topic, 'retention.ms', '7200000');
    await retention('7200000');
    await admin.grow(this.topic, this.partitions + 2);
    await partitions(this.partitions + 2);
    const member = await this.play('member');
    await this.await('a member', () => member.state.list().length > 0);
    if (!(await admin.groups()).includes(this.group)) throw new Error('the group is not listed');
    await this.await('a stable group of one', async () => `${await admin.group(this.group)}` === 'Stable,1');
    await member.close();
    await admin.remove(this.topic);
    await this.await('the topic goes', async () => !(await admin.topics()).includes(this.topic));
    await admin.close();
  }
}

const JOBS = {
  idempotent: (run) => run.write(0, run.n),
  'keyed-order': (run) => run.keyedOrder(),
  headers: (run) => run.headers(),
  timestamps: (run) => run.timestamps(),
  'from-start': (run) => run.fromStart(),
  'from-end': (run) => run.fromEnd(),
  'from-time': (run) => run.fromTime(),
  group: (run) => run.sharedGroup(),
  static: (run) => run.static(),
  cooperative: (run) => run.cooperative(),
  'commit-resume': (run) => run.commitResume(),
  'coordinator-killed': (run) => run.coordinatorKilled(),
  admin: (run) => run.admin(),
};
for (const codec of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) JOBS[`produce-${codec}`] = (run) => run.write(0, run.n, { codec, idempotent: false });

/** Runs the job of the command line. */
export async function main(version, open) {
  const [job, bootstrap, topic, group, ...pairs] = process.argv.slice(2);
  if (job === 'version') {
    console.log(version);
    return;
  }
  try {
    if (!JOBS[job] || !group) throw new Error('usage: JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...]');
    await JOBS[job](new Run(open(bootstrap.split(',')), job, topic, group, pairs));
    console.log('ok');
    process.exit(0);
  } catch (error) {
    if (error instanceof Unsupported) {
      console.log(`unsupported: ${error.message}`);
      process.exit(0);
    }
    console.error(error);
    console.error(`${job}: ${error.message}`);
    process.exit(1);
  }
}
