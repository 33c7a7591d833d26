// Does the jobs of the matrix with kafkajs, and the codec packages that its documentation names or asks for.
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import kafkajs from 'kafkajs';
import snappy from 'kafkajs-snappy';
import lz4 from 'lz4js';
import { main, Queue, State, Unsupported } from './jobs.js';

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.Snappy] = snappy;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => zstdCompressSync(encoder.buffer),
  decompress: async (buffer) => zstdDecompressSync(buffer),
});
const CODECS = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' };

const recordOf = ({ partition, message }) => ({
  partition,
  offset: Number(message.offset),
  key: message.key,
  value: message.value,
  time: Number(message.timestamp),
  headers: Object.entries(message.headers ?? {}),
});

class Client {
  constructor(bootstrap) {
    this.kafka = new Kafka({ brokers: bootstrap, logLevel: logLevel.ERROR });
  }

  async produce(topic, codec, idempotent, records) {
    const producer = this.kafka.producer({ idempotent, allowAutoTopicCreation: false });
    await producer.connect();
    const messages = records.map(({ key, value, time, headers }) => ({
      key, value, timestamp: time?.toString(), headers: headers && Object.fromEntries(headers),
    }));
    await producer.send({ topic, acks: -1, compression: CompressionTypes[CODECS[codec]], messages });
    await producer.disconnect();
  }

  /** It has consumers in groups alone: a reader is the one member of a group of its own. */
  async read(topic, partitions, start) {
    let offsets = [];
    if (typeof start === 'number') {
      const admin = await this.connected();
      offsets = await admin.fetchTopicOffsetsByTimestamp(topic, start);
      await admin.disconnect();
    }
    return this.member(topic, `reader-${randomUUID()}`, start === 'start', offsets);
  }

  join(topic, { group, instance, cooperative }) {
    if (instance) throw new Unsupported('kafkajs has no static membership (group.instance.id)');
    if (cooperative) throw new Unsupported('kafkajs rebalances eagerly alone');
    return this.member(topic, group, true, []);
  }

  async member(topic, groupId, fromBeginning, offsets) {
    const consumer = this.kafka.consumer({ groupId, sessionTimeout: 30_000, heartbeatInterval: 500, maxWaitTimeInMs: 500, allowAutoTopicCreation: false });
    const [queue, state, given] = [new Queue(), new State(), new Map()];
    const revoke = () => {
      queue.rows.length = 0;
      given.clear();
      if (state.held.size > 0) state.revoke(state.list());
    };
    consumer.on(consumer.events.REBALANCING, revoke);
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      revoke();
      state.assign(payload.memberAssignment[topic] ?? []);
    });
    // A crash that it restarts after by itself is no end.
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      revoke();
      if (!payload.restart) queue.fail(payload.error);
    });
    await consumer.connect();
    await consumer.subscribe({ topics: [topic], fromBeginning });
    await consumer.run({ autoCommit: false, eachMessage: async (payload) => queue.push(recordOf(payload)) });
    for (const { partition, offset } of offsets) consumer.seek({ topic, partition, offset });
    const take = queue.take.bind(queue);
    queue.take = () => {
      const row = take();
      if (row) given.set(row.partition, row.offset + 1);
      return row;
    };
    return {
      queue,
      state,
      generation: () => -1,
      commit: async () => {
        const committed = new Map(given);
        if (committed.size === 0) throw new Error('nothing to commit');
        await consumer.commitOffsets([...committed].map(([partition, offset]) => ({ topic, partition, offset: `${offset}` })));
        return committed;
      },
      close: () => consumer.disconnect(),
    };
  }

  async connected() {
    const admin = this.kafka.admin();
    await admin.connect();
    return admin;
  }

  async admin() {
    const admin = await this.connected();
    const type = ConfigResourceTypes.TOPIC;
    return {
      create: (topic, numPartitions, config) => {
        const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }));
        return admin.createTopics({ topics: [{ topic, numPartitions, configEntries }] });
      },
      partitions: async (topic) => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length,
      config: async (name, key) => {
        const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type, name, configNames: [key] }] });
        return resources[0].configEntries[0]?.configValue;
      },
      topics: () => admin.listTopics(),
      alter: (topic, name, value) => admin.alterConfigs({ validateOnly: false, resources: [{ type, name: topic, configEntries: [{ name, value }] }] }),
      grow: (topic, count) => admin.createPartitions({ topicPartitions: [{ topic, count }] }),
      groups: async () => (await admin.listGroups()).groups.map((group) => group.groupId),
      group: async (id) => {
        const { groups } = await admin.describeGroups([id]);
        return [groups[0].state, groups[0].members.length];
      },
      remove: (topic) => admin.deleteTopics({ topics: [topic] }),
      close: () => admin.disconnect(),
    };
  }
}

process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1';
const { version } = createRequire(import.meta.url)('kafkajs/package.json');
await main(`kafkajs ${version}`, (bootstrap) => new Client(bootstrap));
