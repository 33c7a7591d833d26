import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Kafka's Java clients: KafkaProducer (idempotent) under each codec, KafkaConsumer.assign, everything compared. */
public final class Check {
    static final int PARTITIONS = 3;
    static final int COUNT = 120;
    static final long BASE = 1_700_000_000_000L;

    static String bootstrap;

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** The i-th record: null and empty parts, binary, large, repeated headers. */
    static ProducerRecord<byte[], byte[]> record(String topic, String codec, int i) {
        byte[] key = i % 10 == 9 ? null : bytes("key-" + i);
        byte[] value = switch (i % 10) {
            case 3 -> null;
            case 4 -> new byte[0];
            case 5 -> bytes("compressible ".repeat(1600));
            case 6 -> {
                byte[] all = new byte[256];
                for (int b = 0; b < 256; b++) all[b] = (byte) b;
                yield all;
            }
            default -> bytes("value " + i + " " + codec);
        };
        List<Header> headers = List.of(
            new RecordHeader("n", bytes("" + i)),
            new RecordHeader("bin", new byte[] {0, -1, -2}),
            new RecordHeader("n", bytes("again")),
            new RecordHeader("null", (byte[]) null),
            new RecordHeader("empty", new byte[0]));
        return new ProducerRecord<>(topic, i % PARTITIONS, BASE + i * 1000L, key, value, headers);
    }

    static void require(boolean held, String text) {
        if (!held) throw new AssertionError(text);
    }

    static List<RecordMetadata> produce(String topic, String codec, Map<String, Object> extra) throws Exception {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "compression.type", codec));
        config.putAll(extra);
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> pending = new ArrayList<>();
            for (int i = 0; i < COUNT; i++) pending.add(producer.send(record(topic, codec, i)));
            producer.flush();
            List<RecordMetadata> acked = new ArrayList<>();
            for (var future : pending) acked.add(future.get(60, TimeUnit.SECONDS));
            return acked;
        }
    }

    static Map<TopicPartition, Map<Long, ConsumerRecord<byte[], byte[]>>> consume(String topic) throws InterruptedException {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "auto.offset.reset", "earliest");
        Map<TopicPartition, Map<Long, ConsumerRecord<byte[], byte[]>>> got = new HashMap<>();
        List<TopicPartition> parts = new ArrayList<>();
        for (int p = 0; p < PARTITIONS; p++) parts.add(new TopicPartition(topic, p));
        parts.forEach(p -> got.put(p, new HashMap<>()));
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(parts);
            consumer.seekToBeginning(parts);
            var ends = consumer.endOffsets(parts);
            // With acks=1 the last records may not be committed yet.
            for (int tries = 0; tries < 50 && ends.values().stream().mapToLong(end -> end).sum() < COUNT; tries++) {
                Thread.sleep(100);
                ends = consumer.endOffsets(parts);
            }
            ends.forEach((p, end) -> require(end == COUNT / PARTITIONS, "end of " + p + " is " + end));
            consumer.beginningOffsets(parts).forEach((p, start) -> require(start == 0, "start of " + p + " is " + start));
            var timed = consumer.offsetsForTimes(Map.of(parts.get(0), BASE + 60_000 - 500)).get(parts.get(0));
            require(timed != null && timed.offset() == 20, "offset by time is " + timed);
            long deadline = System.currentTimeMillis() + 60_000;
            for (int n = 0; n < COUNT; ) {
                require(System.currentTimeMillis() < deadline, n + " of " + COUNT + " records within 60 s");
                for (var one : consumer.poll(Duration.ofSeconds(1))) {
                    var place = new TopicPartition(one.topic(), one.partition());
                    require(got.get(place).put(one.offset(), one) == null, "offset " + one.offset() + " of " + place + " came twice");
                    n++;
                }
            }
        }
        return got;
    }

    static void compare(String topic, String codec, List<RecordMetadata> acked) throws InterruptedException {
        var got = consume(topic);
        for (int i = 0; i < COUNT; i++) {
            var want = record(topic, codec, i);
            var ack = acked.get(i);
            var have = got.get(new TopicPartition(ack.topic(), ack.partition())).get(ack.offset());
            require(have != null, codec + ": record " + i + " acknowledged at " + ack + " is not there");
            boolean equal = Arrays.equals(want.key(), have.key()) && Arrays.equals(want.value(), have.value())
                && want.timestamp() == have.timestamp()
                && Objects.equals(List.of(want.headers().toArray()), List.of(have.headers().toArray()));
            require(equal, codec + ": record " + i + " came back as " + have);
        }
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args.length > 0 ? args[0] : System.getenv("BOOTSTRAP");
        short replicas = Short.parseShort(System.getenv().getOrDefault("FOREIGN_RF", "3"));
        String run = Long.toString(System.nanoTime(), 36);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            for (String codec : System.getenv().getOrDefault("CODECS", "none gzip snappy lz4 zstd").split(" ")) {
                String topic = "foreign-java-" + codec + "-" + run;
                admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, replicas))).all().get(30, TimeUnit.SECONDS);
                compare(topic, codec, produce(topic, codec, Map.of("enable.idempotence", true)));
                System.out.println("ok " + codec + ": " + COUNT + " records, idempotent");
            }
            String topic = "foreign-java-acks1-" + run;
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, replicas))).all().get(30, TimeUnit.SECONDS);
            compare(topic, "none", produce(topic, "none", Map.of("enable.idempotence", false, "acks", "1")));
            admin.deleteTopics(List.of(topic)).all().get(30, TimeUnit.SECONDS);
            System.out.println("ok acks=1, delete topic");
        }
    }
}
