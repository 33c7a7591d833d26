import java.util.Arrays;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Repartitioned;

/**
 * A stateless job, at least once: {@code Job BOOTSTRAP APPLICATION STATE_DIR IN EVEN ODD}.
 * Lines {@code line N} of topic IN without those where N ends in 4 or 9, in capitals, by the key N mod 16 over a repartition topic of four
 * partitions, to the topics EVEN and ODD. Says {@code state S} at every change of state, and {@code tasks N} whenever the number of its
 * tasks has changed. Ends in order at SIGTERM.
 */
public final class Job {
    private static long number(String line) {
        return Long.parseLong(line.substring(line.indexOf(' ') + 1));
    }

    private static int tasks(KafkaStreams streams) {
        return streams.metadataForLocalThreads().stream().mapToInt(thread -> thread.activeTasks().size()).sum();
    }

    private static Properties properties(String[] args) {
        Properties properties = new Properties();
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, args[1]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, args[2]);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 500);
        properties.put(StreamsConfig.REPARTITION_PURGE_INTERVAL_MS_CONFIG, 1000);
        properties.put("auto.offset.reset", "earliest");
        properties.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        properties.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        return properties;
    }

    public static void main(String[] args) throws InterruptedException {
        if (args.length != 6) {
            System.err.println("usage: Job BOOTSTRAP APPLICATION STATE_DIR IN EVEN ODD, not " + Arrays.toString(args));
            System.exit(2);
        }
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, String> lines = builder.stream(args[3]);
        lines.filter((key, line) -> number(line) % 5 != 4)
                .map((key, line) -> KeyValue.pair(Long.toString(number(line) % 16), line.toUpperCase()))
                .repartition(Repartitioned.<String, String>as("by-key").withNumberOfPartitions(4))
                .split()
                .branch((key, line) -> number(line) % 2 == 0, Branched.withConsumer(even -> even.to(args[4])))
                .defaultBranch(Branched.withConsumer(odd -> odd.to(args[5])));
        KafkaStreams streams = new KafkaStreams(builder.build(), properties(args));
        streams.setStateListener((now, before) -> System.out.println("state " + now));
        // Leaves its group: else the others wait for its session to end before they take its tasks.
        CloseOptions leave = CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(leave)));
        streams.start();
        int last = 0;
        while (streams.state() != KafkaStreams.State.ERROR) {
            int now = tasks(streams);
            if (now != last) {
                System.out.println("tasks " + now);
                last = now;
            }
            Thread.sleep(50);
        }
        System.exit(1);
    }
}
