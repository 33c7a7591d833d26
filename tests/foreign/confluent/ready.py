"""Exit code 0 when a cluster answers metadata with that many brokers: ready.py BOOTSTRAP BROKERS [TIMEOUT_SECONDS]."""

import sys
import time

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

bootstrap, brokers, limit = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 5
deadline, seen = time.time() + limit, 0
admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
while time.time() < deadline:
    try:
        seen = len(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        seen = 0
    if seen >= brokers:
        sys.exit(0)
    time.sleep(0.1)
print(f"{seen} of {brokers} brokers answer at {bootstrap}", file=sys.stderr)
sys.exit(1)
