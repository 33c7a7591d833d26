// Does the jobs of the matrix with @platformatic/kafka.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Admin, Consumer, MessagesStreamFallbackModes, MessagesStreamModes, Producer } from '@platformatic/kafka';
import { main, Queue, State, Unsupported } from './jobs.js';

const TOPIC = 2; // config resource type

const recordOf = (message) => ({
  partition: message.partition,
  offset: Number(message.offset),
  key: message.key,
  value: message.value,
  time: Number(message.timestamp),
  headers: [...message.headers].map(([key, value]) => [key.toString(), value]),
});

class Client {
  constructor(bootstrap) {
    // A fetch that was under way when a partition moved still brings what comes to it then (2.12.1).
    this.readsTwice = true;
    // Where partitions of one fetch got leaders apart from each other, it asks their former one again and again (2.12.1), until that leads
    // them once more or no retry is left.
    this.base = { clientId: 'matrix', bootstrapBrokers: bootstrap, retries: 120, retryDelay: 250 };
  }

  async produce(topic, codec, idempotent, records) {
    const producer = new Producer({ ...this.base, idempotent, acks: -1, compression: codec });
    const messages = records.map(({ key, value, time, headers }) => ({
      topic, key, value, timestamp: time && BigInt(time), headers: new Map(headers?.map(([name, data]) => [Buffer.from(name), data])),
    }));
    await producer.send({ messages });
    await producer.close();
  }

  /** It has consumers in groups alone: a reader is the one member of a group of its own. */
  async read(topic, partitions, start) {
    const modes = { start: MessagesStreamModes.EARLIEST, end: MessagesStreamModes.LATEST };
    let place = { mode: modes[start] };
    const consumer = this.consumer(`reader-${randomUUID()}`);
    if (typeof start === 'number') {
      const offsets = (await consumer.listOffsets({ topics: [topic], timestamp: BigInt(start) })).get(topic);
      place = { mode: MessagesStreamModes.MANUAL, offsets: offsets.map((offset, partition) => ({ topic, partition, offset })) };
    }
    return this.member(consumer, topic, place);
  }

  consumer(groupId, more = {}) {
    return new Consumer({ ...this.base, groupId, sessionTimeout: 30_000, rebalanceTimeout: 30_000, heartbeatInterval: 500, maxWaitTime: 500, ...more });
  }

  join(topic, { group, instance, cooperative }) {
    // With groupInstanceId it joins as a static member, but LeaveGroup with its member id, which it cannot be kept from, ends the membership.
    if (instance) throw new Unsupported('@platformatic/kafka leaves the group whenever a consumer is closed, a static member too');
    const more = cooperative ? { protocols: [{ name: 'cooperative-sticky', version: 1 }] } : {};
    const place = { mode: MessagesStreamModes.COMMITTED, fallbackMode: MessagesStreamFallbackModes.EARLIEST };
    return this.member(this.consumer(group, more), topic, place, cooperative);
  }

  async member(consumer, topic, place, cooperative = false) {
    const [queue, state, given] = [new Queue(), new State(), new Map()];
    const revoke = (partitions) => {
      queue.drop(partitions);
      for (const p of partitions) given.delete(p);
      if (partitions.length > 0) state.revoke(partitions);
    };
    // An eager member gives up everything when a rebalance begins, a cooperative one what the next assignment leaves out.
    consumer.on('consumer:group:rebalance', () => cooperative || revoke(state.list()));
    consumer.on('consumer:group:join', ({ assignments }) => {
      const now = assignments.find((one) => one.topic === topic)?.partitions ?? [];
      revoke(state.list().filter((p) => !now.includes(p)));
      const fresh = now.filter((p) => !state.held.has(p));
      if (fresh.length > 0) state.assign(fresh);
    });
    const open = async () => {
      const stream = await consumer.consume({ topics: [topic], autocommit: false, ...place });
      stream.on('data', (message) => queue.push(recordOf(message)));
      // Where partitions of one fetch got leaders apart from each other, it asks their former one again and again (2.12.1), until that leads
      // them once more, no retry is left, or that broker is no longer listed. The stream ends by it; a member goes on with another, from
      // what was committed.
      stream.on('error', (error) => {
        if (place.mode !== MessagesStreamModes.COMMITTED) return queue.fail(error);
        console.error('stream:', error.message);
        queue.rows.length = 0;
        given.clear();
        return open().catch((again) => queue.fail(again));
      });
    };
    await open();
    const take = queue.take.bind(queue);
    queue.take = () => {
      const row = take();
      if (row) given.set(row.partition, row);
      return row;
    };
    return {
      queue,
      state,
      generation: () => consumer.generationId,
      commit: async () => {
        const committed = new Map([...given].map(([partition, row]) => [partition, row.offset + 1]));
        if (committed.size === 0) throw new Error('nothing to commit');
        const offsets = [...committed].map(([partition, offset]) => ({ topic, partition, offset: BigInt(offset), leaderEpoch: -1 }));
        await consumer.commit({ offsets });
        return committed;
      },
      close: () => consumer.close(true),
    };
  }

  async admin() {
    const admin = new Admin(this.base);
    return {
      create: (topic, partitions, config) => {
        const configs = Object.entries(config).map(([name, value]) => ({ name, value }));
        return admin.createTopics({ topics: [topic], partitions, replicas: -1, configs });
      },
      partitions: async (topic) => (await admin.metadata({ topics: [topic], forceUpdate: true })).topics.get(topic).partitionsCount,
      config: async (resourceName, key) => {
        const resources = [{ resourceType: TOPIC, resourceName, configurationKeys: [key] }];
        const [described] = await admin.describeConfigs({ resources });
        return described.configs.find((config) => config.name === key)?.value;
      },
      topics: () => admin.listTopics(),
      alter: (resourceName, name, value) => {
        const configs = [{ name, configOperation: 0, value }];
        return admin.incrementalAlterConfigs({ resources: [{ resourceType: TOPIC, resourceName, configs }] });
      },
      grow: (name, count) => admin.createPartitions({ topics: [{ name, count, assignments: [] }] }),
      groups: async () => [...(await admin.listGroups()).keys()],
      group: async (id) => {
        const group = (await admin.describeGroups({ groups: [id] })).get(id);
        return [group.state, group.members.size];
      },
      remove: (topic) => admin.deleteTopics({ topics: [topic] }),
      close: () => admin.close(),
    };
  }
}

const { version } = JSON.parse(readFileSync(new URL('./node_modules/@platformatic/kafka/package.json', import.meta.url)));
await main(`@platformatic/kafka ${version}`, (bootstrap) => new Client(bootstrap));
