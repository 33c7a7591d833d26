// kafkajs: writes one record with a key and a header, reads it back as a member of a group. Usage: node hello.js HOST:PORT,...
import { randomUUID } from 'node:crypto';
import kafkajs from 'kafkajs';

const brokers = (process.argv[2] ?? '127.0.0.1:9092').split(',');
const topic = `hello-node-${randomUUID()}`;
const kafka = new kafkajs.Kafka({ brokers, logLevel: kafkajs.logLevel.ERROR });

const admin = kafka.admin();
await admin.connect();
await admin.createTopics({ topics: [{ topic, numPartitions: 1 }], waitForLeaders: true });
await admin.disconnect();

const producer = kafka.producer({ idempotent: true });
await producer.connect();
const message = { key: 'greeting', value: 'hello raft', headers: { from: 'node' } };
await producer.send({ topic, acks: -1, messages: [message] });
await producer.disconnect();

const consumer = kafka.consumer({ groupId: topic });
await consumer.connect();
await consumer.subscribe({ topics: [topic], fromBeginning: true });
const read = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('nothing read within 30 s')), 30_000).unref();
  consumer.run({ eachMessage: async (payload) => resolve(payload) });
});
const { partition, message: got } = await read;
console.log(`${topic}[${partition}]@${got.offset} ${got.key} -> ${got.value} (from=${got.headers.from})`);
await consumer.disconnect();
