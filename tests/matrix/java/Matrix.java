import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** Kafka's Java clients at the jobs of the matrix: the contract is in tests/matrix/driver.py. */
public final class Matrix {
    static final long BASE = 1_700_000_000_000L;
    static final String PAD = "-kontiki matrix ".repeat(14);

    static String job, bootstrap, topic, group;
    static int n = 1000, partitions = 4, sent = 0;
    static final long START = System.currentTimeMillis();
    /** Milliseconds after which it gives up: the driver's limit, and a minute more where that kills a broker. */
    static final long LIMIT = Long.parseLong(System.getenv().getOrDefault("MATRIX_LIMIT", "90")) * 1000 + 55_000;

    static void require(boolean held, String text) {
        if (!held) throw new AssertionError(text);
    }

    static byte[] value(int i) {
        return (job + "-" + i + PAD).substring(0, 200).getBytes(StandardCharsets.UTF_8);
    }

    static String key(int i) {
        return "k" + i % 50;
    }

    static int number(ConsumerRecord<byte[], byte[]> record) {
        String text = new String(record.value(), StandardCharsets.UTF_8);
        require(text.startsWith(job + "-"), "a value no record has: " + text);
        int from = job.length() + 1, to = from;
        while (to < text.length() && Character.isDigit(text.charAt(to))) to++;
        int i = Integer.parseInt(text.substring(from, to));
        require(text.length() == 200 && new String(record.key(), StandardCharsets.UTF_8).equals(key(i)), "record " + i + " came back as " + record);
        return i;
    }

    static List<Integer> numbers(Collection<ConsumerRecord<byte[], byte[]>> records) {
        return records.stream().map(Matrix::number).sorted().toList();
    }

    static void same(int from, int to, Collection<ConsumerRecord<byte[], byte[]>> records) {
        var got = numbers(records);
        var want = java.util.stream.IntStream.range(from, to).boxed().toList();
        require(got.equals(want), "not the records " + from + " to " + to + " but " + got.size() + ", " + new HashSet<>(got).size() + " different");
    }

    /** The next `count` records. */
    static void send(int count, String codec, boolean idempotent, List<Header> headers, boolean timed) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "acks", "all", "compression.type", codec, "enable.idempotence", idempotent);
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> pending = new ArrayList<>();
            for (int i = sent; i < sent + count; i++) {
                Long time = timed ? BASE + i : null;
                pending.add(producer.send(new ProducerRecord<>(topic, null, time, key(i).getBytes(StandardCharsets.UTF_8), value(i), headers)));
            }
            producer.flush();
            for (var future : pending) future.get(60, TimeUnit.SECONDS);
        }
        sent += count;
    }

    static void send(int count) throws Exception {
        send(count, "none", true, List.of(), false);
    }

    /** A consumer that notes what it has and what it is told. */
    static final class Reader implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<byte[], byte[]> consumer;
        final Set<Integer> own = new TreeSet<>(), revoked = new TreeSet<>();
        final Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
        int assignments = 0, revocations = 0;

        Reader(boolean isMember, String... extra) {
            Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", false,
                "auto.offset.reset", "earliest", "heartbeat.interval.ms", 500));
            if (isMember) config.put("group.id", group);
            for (int i = 0; i < extra.length; i += 2) config.put(extra[i], extra[i + 1]);
            consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            if (isMember) consumer.subscribe(List.of(topic), this);
        }

        public void onPartitionsAssigned(Collection<TopicPartition> rows) {
            assignments++;
            rows.forEach(row -> own.add(row.partition()));
        }

        public void onPartitionsRevoked(Collection<TopicPartition> rows) {
            revocations++;
            rows.forEach(row -> {
                own.remove(row.partition());
                revoked.add(row.partition());
                next.remove(row);
            });
        }

        List<ConsumerRecord<byte[], byte[]>> poll(int millis) {
            List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
            for (var record : consumer.poll(Duration.ofMillis(millis))) {
                records.add(record);
                next.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
            }
            return records;
        }

        List<TopicPartition> rows() {
            List<TopicPartition> rows = new ArrayList<>();
            for (int p = 0; p < partitions; p++) rows.add(new TopicPartition(topic, p));
            return rows;
        }

        void commit() {
            if (!next.isEmpty()) consumer.commitSync(next, Duration.ofSeconds(20));
        }

        public void close() {
            consumer.close();
        }
    }

    /** Polls them in turn until it holds; what they read goes to `got`. */
    static void poll(List<Reader> readers, List<ConsumerRecord<byte[], byte[]>> got, String what, BooleanSupplier condition) {
        while (!condition.getAsBoolean()) {
            require(System.currentTimeMillis() - START < LIMIT, "not in time: " + what + "; members have " + readers.stream().map(r -> r.own).toList() + ", read " + got.size());
            for (var reader : readers) got.addAll(reader.poll(100));
        }
    }

    static int distinct(List<ConsumerRecord<byte[], byte[]>> got) {
        return new HashSet<>(numbers(got)).size();
    }

    /** Whether they have all partitions, each of one member, and nobody none. */
    static boolean shared(Reader a, Reader b) {
        return !a.own.isEmpty() && !b.own.isEmpty() && a.own.size() + b.own.size() == partitions && a.own.stream().noneMatch(b.own::contains);
    }

    /** All that is there now, from a time or from the start. */
    static List<ConsumerRecord<byte[], byte[]>> everything(long time) {
        List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
        try (var reader = new Reader(false)) {
            var rows = reader.rows();
            reader.consumer.assign(rows);
            var starts = reader.consumer.beginningOffsets(rows);
            if (time > 0) {
                reader.consumer.offsetsForTimes(rows.stream().collect(Collectors.toMap(row -> row, row -> time)))
                    .forEach((row, found) -> starts.put(row, found.offset()));
            }
            starts.forEach(reader.consumer::seek);
            long wanted = 0;
            for (var end : reader.consumer.endOffsets(rows).entrySet()) wanted += end.getValue() - starts.get(end.getKey());
            long count = wanted;
            poll(List.of(reader), got, count + " records", () -> got.size() >= count);
        }
        return got;
    }

    static void keyedOrder() throws Exception {
        send(n);
        var got = everything(0);
        Map<String, Integer> last = new HashMap<>(), place = new HashMap<>();
        for (var record : got) {
            String key = new String(record.key(), StandardCharsets.UTF_8);
            int i = number(record);
            Integer before = last.put(key, i);
            require(before == null || before < i, key + ": " + i + " after " + before);
            Integer where = place.put(key, record.partition());
            require(where == null || where == record.partition(), key + " is in two partitions");
        }
        same(0, n, got);
    }

    static void headers() throws Exception {
        byte[] binary = new byte[256];
        for (int b = 0; b < 256; b++) binary[b] = (byte) b;
        List<Header> wanted = List.of(new RecordHeader("n", new byte[] {49}), new RecordHeader("empty", new byte[0]), new RecordHeader("binary", binary),
            new RecordHeader("null", (byte[]) null), new RecordHeader("n", new byte[] {50}));
        send(10, "none", true, wanted, false);
        for (var record : everything(0)) require(wanted.equals(List.of(record.headers().toArray())), "headers came back as " + record.headers());
    }

    static void timestamps() throws Exception {
        send(n, "none", true, List.of(), true);
        var got = everything(0);
        for (var record : got) require(record.timestamp() == BASE + number(record), "a time came back as " + record.timestamp());
        same(0, n, got);
    }

    static void fromEnd() throws Exception {
        List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
        try (var reader = new Reader(false)) {
            var rows = reader.rows();
            reader.consumer.assign(rows);
            reader.consumer.seekToEnd(rows);
            rows.forEach(reader.consumer::position);
            sent = n;
            send(20);
            poll(List.of(reader), got, "20 records behind the end", () -> got.size() >= 20);
            got.addAll(reader.poll(500));
        }
        same(n, n + 20, got);
    }

    static void group() throws Exception {
        List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
        send(n);
        var a = new Reader(true);
        poll(List.of(a), got, "one member reads everything", () -> distinct(got) == n);
        a.commit();
        try (var b = new Reader(true)) {
            poll(List.of(a, b), got, "two members share", () -> shared(a, b));
            send(n);
            poll(List.of(a, b), got, "both read the rest", () -> distinct(got) == sent);
            a.commit();
            b.commit();
            a.close();
            poll(List.of(b), got, "the one that is left has everything", () -> b.own.size() == partitions);
            send(200);
            poll(List.of(b), got, "it reads on", () -> distinct(got) == sent);
        }
    }

    static void fixed() throws Exception {
        send(n);
        List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
        var two = new Reader(true, "group.instance.id", "two");
        try (var one = new Reader(true, "group.instance.id", "one")) {
            poll(List.of(one, two), got, "two static members share", () -> shared(one, two));
            int before = one.assignments + one.revocations;
            var own = new TreeSet<>(two.own);
            two.close();
            try (var back = new Reader(true, "group.instance.id", "two")) {
                poll(List.of(one, back), got, "a static member is back", () -> back.own.size() == own.size());
                require(back.own.equals(own), "it had " + own + " and has " + back.own);
                // A rebalance would be heard of with one of the next heartbeats.
                long heard = System.currentTimeMillis() + 2000;
                poll(List.of(one, back), got, "some heartbeats", () -> System.currentTimeMillis() > heard);
                require(one.assignments + one.revocations == before && back.own.equals(own), "the other one was rebalanced");
            }
        }
    }

    static void cooperative() throws Exception {
        List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
        String[] strategy = {"partition.assignment.strategy", CooperativeStickyAssignor.class.getName()};
        send(n);
        try (var a = new Reader(true, strategy)) {
            poll(List.of(a), got, "one member reads everything", () -> got.size() == n);
            try (var b = new Reader(true, strategy)) {
                while (!shared(a, b)) {
                    send(50);
                    int before = got.size();
                    poll(List.of(a, b), got, "the first one keeps reading", () -> got.size() > before || shared(a, b));
                    require(a.own.size() >= partitions / 2, "it has " + a.own + " in the middle of the rebalance");
                }
                poll(List.of(a, b), got, "both read everything", () -> distinct(got) == sent);
                require(a.revoked.equals(b.own), a.revoked + " were taken from the first, " + b.own + " went to the second");
                var kept = got.stream().filter(record -> a.own.contains(record.partition())).toList();
                require(distinct(kept) == kept.size(), "a record of a kept partition came twice");
            }
        }
    }

    static void commitResume() throws Exception {
        List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
        send(n);
        try (var first = new Reader(true, "max.poll.records", "100")) {
            poll(List.of(first), got, "half of the records", () -> got.size() >= n / 2);
            first.commit();
        }
        require(got.size() < n, "more than half was read");
        try (var later = new Reader(true)) {
            poll(List.of(later), got, "the other half", () -> got.size() >= n);
            got.addAll(later.poll(500));
        }
        same(0, n, got);
    }

    static void coordinatorKilled() {
        Set<Integer> got = new HashSet<>();
        boolean isReady = false, isDone = false;
        long last = 0;
        try (var member = new Reader(true)) {
            while (!isDone) {
                require(System.currentTimeMillis() - START < LIMIT, got.size() + " of " + n + " records");
                got.addAll(numbers(member.poll(100)));
                if (got.isEmpty() || got.size() < n && System.currentTimeMillis() - last < 300) continue;
                last = System.currentTimeMillis();
                try {
                    member.commit();
                } catch (KafkaException e) {
                    System.err.println("commit: " + e);
                    continue;
                }
                if (!isReady) System.out.println("ready");
                isReady = true;
                isDone = got.size() >= n;
            }
        }
    }

    static void until(String what, Callable<Boolean> condition) throws Exception {
        for (long end = System.currentTimeMillis() + 30_000; !condition.call(); Thread.sleep(100)) require(System.currentTimeMillis() < end, "not within 30 s: " + what);
    }

    static void admin() throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap)); var member = new Reader(true)) {
            Callable<Set<String>> listed = () -> admin.listTopics().names().get(30, TimeUnit.SECONDS);
            Callable<Integer> count = () -> admin.describeTopics(List.of(topic)).allTopicNames().get(30, TimeUnit.SECONDS).get(topic).partitions().size();
            Callable<String> retention = () -> admin.describeConfigs(List.of(resource)).all().get(30, TimeUnit.SECONDS).get(resource).get("retention.ms").value();
            admin.createTopics(List.of(new NewTopic(topic, 4, (short) 3).configs(Map.of("retention.ms", "7200000")))).all().get(30, TimeUnit.SECONDS);
            until("the topic is listed", () -> listed.call().contains(topic));
            require(count.call() == 4, "four partitions");
            require(retention.call().equals("7200000"), "the configuration it was created with");
            var change = new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all().get(30, TimeUnit.SECONDS);
            until("the new configuration", () -> retention.call().equals("3600000"));
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(6))).all().get(30, TimeUnit.SECONDS);
            until("six partitions", () -> count.call() == 6);
            until("a member of the group", () -> !member.poll(100).isEmpty() || !member.own.isEmpty());
            require(admin.listGroups().all().get(30, TimeUnit.SECONDS).stream().anyMatch(row -> row.groupId().equals(group)), "the group is listed");
            var described = admin.describeConsumerGroups(List.of(group)).all().get(30, TimeUnit.SECONDS).get(group);
            require(described.groupState() == GroupState.STABLE && described.members().size() == 1, "the group is " + described);
            member.close();
            admin.deleteTopics(List.of(topic)).all().get(30, TimeUnit.SECONDS);
            until("the topic is gone", () -> !listed.call().contains(topic));
        }
    }

    static void work() throws Exception {
        switch (job) {
            case "produce-none", "produce-gzip", "produce-snappy", "produce-lz4", "produce-zstd" ->
                send(n, job.substring("produce-".length()), false, List.of(), false);
            case "idempotent" -> send(n);
            case "keyed-order" -> keyedOrder();
            case "headers" -> headers();
            case "timestamps" -> timestamps();
            case "from-start" -> same(0, n, everything(0));
            case "from-time" -> same(500, n, everything(BASE + 500));
            case "from-end" -> fromEnd();
            case "group" -> group();
            case "static" -> fixed();
            case "cooperative" -> cooperative();
            case "commit-resume" -> commitResume();
            case "coordinator-killed" -> coordinatorKilled();
            case "admin" -> admin();
            default -> throw new AssertionError("unknown job " + job);
        }
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("version")) {
            System.out.println("kafka-clients " + AppInfoParser.getVersion());
            return;
        }
        job = args[0];
        bootstrap = args[1];
        topic = args[2];
        group = args[3];
        for (String pair : Arrays.asList(args).subList(4, args.length)) {
            if (pair.startsWith("n=")) n = Integer.parseInt(pair.substring(2));
            if (pair.startsWith("partitions=")) partitions = Integer.parseInt(pair.substring(11));
        }
        work();
        System.out.println("ok");
    }
}
