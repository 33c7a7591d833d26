// Records of __consumer_offsets by Kafka's own generated classes, as lines "KIND VERSION HEX JSON" (kinds: offset-key, offset, group-key, group).
// What is "-" in a line is filled in from the other of the two: HEX is written from JSON, or JSON read from HEX. Ends with an error if bytes are
// left over. Run by tests/cluster/groups.rs with target/foreign/kafka/lib on the class path.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.HexFormat;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.coordinator.group.generated.*;

public class Records {
    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        ObjectMapper json = new ObjectMapper();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split(" ", 4);
            short version = Short.parseShort(parts[1]);
            String hex = parts[2];
            String text = parts[3];
            if (hex.equals("-")) {
                hex = write(version, prefix(parts[0], version), fromJson(parts[0], json.readTree(text), version));
            } else {
                text = read(parts[0], version, hex).toString();
            }
            System.out.println(parts[0] + " " + version + " " + hex + " " + text);
        }
    }

    // Keys begin with the kind of record, values with their version.
    static short prefix(String kind, short version) {
        return switch (kind) {
            case "offset-key" -> new OffsetCommitKey().apiKey();
            case "group-key" -> new GroupMetadataKey().apiKey();
            default -> version;
        };
    }

    static Message fromJson(String kind, JsonNode node, short version) {
        return switch (kind) {
            case "offset-key" -> OffsetCommitKeyJsonConverter.read(node, version);
            case "offset" -> OffsetCommitValueJsonConverter.read(node, version);
            case "group-key" -> GroupMetadataKeyJsonConverter.read(node, version);
            case "group" -> GroupMetadataValueJsonConverter.read(node, version);
            default -> throw new IllegalArgumentException(kind);
        };
    }

    static String write(short version, short prefix, Message message) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer out = ByteBuffer.allocate(2 + message.size(cache, version));
        out.putShort(prefix);
        message.write(new ByteBufferAccessor(out), cache, version);
        return HexFormat.of().formatHex(out.array());
    }

    static JsonNode read(String kind, short version, String hex) {
        ByteBuffer bytes = ByteBuffer.wrap(HexFormat.of().parseHex(hex));
        short found = bytes.getShort();
        if (found != prefix(kind, version)) throw new IllegalStateException(kind + " begins with " + found);
        ByteBufferAccessor in = new ByteBufferAccessor(bytes);
        JsonNode node = switch (kind) {
            case "offset-key" -> OffsetCommitKeyJsonConverter.write(new OffsetCommitKey(in, version), version);
            case "offset" -> OffsetCommitValueJsonConverter.write(new OffsetCommitValue(in, version), version);
            case "group-key" -> GroupMetadataKeyJsonConverter.write(new GroupMetadataKey(in, version), version);
            case "group" -> GroupMetadataValueJsonConverter.write(new GroupMetadataValue(in, version), version);
            default -> throw new IllegalArgumentException(kind);
        };
        if (bytes.hasRemaining()) throw new IllegalStateException(bytes.remaining() + " bytes left of " + hex);
        return node;
    }
}
