import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** KafkaConsumer as a member of a group that never stops: Member BOOTSTRAP TOPIC GROUP LOG [property=value]...; logs as confluent/member.py does. */
public final class Member implements ConsumerRebalanceListener {
    static final int COMMIT_EVERY = 25;
    static final long COMMIT_AFTER_MS = 500;

    final OutputStream log;
    final String topic;
    KafkaConsumer<byte[], byte[]> consumer;
    /** Partitions that are its own, and the offset behind what was processed of each; -1 until something was. */
    final Map<Integer, Long> done = new HashMap<>();
    volatile boolean stop;

    Member(String topic, String path) throws IOException {
        this.topic = topic;
        log = new FileOutputStream(path);
    }

    static long micros() {
        return ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
    }

    int generation() {
        return consumer.groupMetadata().generationId();
    }

    void write(String format, Object... args) {
        try {
            log.write((String.format(format, args) + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            throw new KafkaException(error);
        }
    }

    void commit(Set<Integer> partitions) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        long began = micros();
        int of = generation();
        for (int p : partitions) {
            long o = done.getOrDefault(p, -1L);
            if (o < 0) continue;
            offsets.put(new TopicPartition(topic, p), new OffsetAndMetadata(o));
            write("{\"t\":\"committing\",\"p\":%d,\"o\":%d,\"g\":%d,\"at\":%d}", p, o, of, micros());
        }
        if (offsets.isEmpty()) return;
        try {
            consumer.commitSync(offsets);
            offsets.forEach((place, offset) -> write("{\"t\":\"committed\",\"p\":%d,\"o\":%d,\"g\":%d,\"s\":%d,\"at\":%d}",
                place.partition(), offset.offset(), of, began, micros()));
        } catch (KafkaException error) {
            System.err.println("commit: " + error);
        }
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        long began = micros();
        Map<TopicPartition, OffsetAndMetadata> offsets;
        // Asked for as often as it takes: where to go on is the group's to say, not a default's.
        for (;;) {
            try {
                offsets = consumer.committed(Set.copyOf(partitions), Duration.ofSeconds(10));
                break;
            } catch (org.apache.kafka.common.errors.TimeoutException error) {
                System.err.println("committed: " + error);
                if (stop) return;
            }
        }
        for (var place : partitions) {
            var offset = offsets.get(place);
            done.put(place.partition(), -1L);
            write("{\"t\":\"assigned\",\"p\":%d,\"o\":%d,\"g\":%d,\"s\":%d,\"at\":%d}",
                place.partition(), offset == null ? -1001 : offset.offset(), generation(), began, micros());
        }
    }

    void forget(Collection<TopicPartition> partitions) {
        for (var place : partitions) {
            done.remove(place.partition());
            write("{\"t\":\"revoked\",\"p\":%d,\"g\":%d,\"at\":%d}", place.partition(), generation(), micros());
        }
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        commit(Set.copyOf(partitions.stream().map(TopicPartition::partition).toList()));
        forget(partitions);
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        forget(partitions);
    }

    void run() {
        consumer.subscribe(List.of(topic), this);
        int since = 0;
        long due = System.currentTimeMillis() + COMMIT_AFTER_MS;
        while (!stop) {
            for (var one : consumer.poll(Duration.ofMillis(100))) {
                write("{\"t\":\"read\",\"p\":%d,\"o\":%d,\"at\":%d}", one.partition(), one.offset(), micros());
                done.put(one.partition(), one.offset() + 1);
                since++;
            }
            if (since >= COMMIT_EVERY || (since > 0 && System.currentTimeMillis() >= due)) {
                commit(Set.copyOf(done.keySet()));
                since = 0;
                due = System.currentTimeMillis() + COMMIT_AFTER_MS;
            }
        }
        commit(Set.copyOf(done.keySet()));
    }

    public static void main(String[] args) throws Exception {
        var member = new Member(args[1], args[3]);
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", args[0], "group.id", args[2],
            "enable.auto.commit", false, "auto.offset.reset", "earliest", "session.timeout.ms", 6000,
            "heartbeat.interval.ms", 500, "fetch.max.wait.ms", 50, "max.poll.records", COMMIT_EVERY));
        for (int i = 4; i < args.length; i++) {
            int at = args[i].indexOf('=');
            config.put(args[i].substring(0, at), args[i].substring(at + 1));
        }
        var end = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (IOException error) {
                System.err.println("stdin: " + error);
            }
            member.stop = true;
        });
        end.setDaemon(true);
        end.start();
        member.consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        try (var consumer = member.consumer) {
            member.run();
        }
    }
}
