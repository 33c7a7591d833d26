"""confluent-kafka: writes one record with a key and a header, reads it back. Usage: hello.py HOST:PORT,..."""

import sys
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
topic = f"hello-python-{uuid.uuid4().hex[:8]}"

admin = AdminClient({"bootstrap.servers": bootstrap})
admin.create_topics([NewTopic(topic, num_partitions=1)])[topic].result(30)

producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
producer.produce(topic, "hello raft", key="greeting", headers={"from": "python"}, partition=0)
assert producer.flush(30) == 0, "not acknowledged within 30 s"

consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "hello", "enable.auto.commit": False})
consumer.assign([TopicPartition(topic, 0, 0)])
message = consumer.poll(30)
assert message is not None and not message.error(), f"nothing read: {message and message.error()}"
print(f"{topic}[0]@{message.offset()} {message.key().decode()} -> {message.value().decode()} {message.headers()}")
consumer.close()
