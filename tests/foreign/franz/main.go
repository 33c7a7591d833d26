// franz-go: creates topics, produces under each codec with idempotence, reads assigned partitions back exactly.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions = 3
	count      = 120
	baseMillis = 1_700_000_000_000
)

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "error: "+format+"\n", args...)
	os.Exit(1)
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// record is the i-th record: null and empty parts, binary, large, repeated headers.
func record(topic, codec string, i int) *kgo.Record {
	r := &kgo.Record{
		Topic:     topic,
		Partition: int32(i % partitions),
		Timestamp: time.UnixMilli(baseMillis + int64(i)*1000),
		Headers: []kgo.RecordHeader{
			{Key: "n", Value: []byte(strconv.Itoa(i))}, {Key: "bin", Value: []byte{0, 0xff, 0xfe}},
			{Key: "n", Value: []byte("again")}, {Key: "null"}, {Key: "empty", Value: []byte{}},
		},
	}
	if i%10 != 9 {
		r.Key = []byte("key-" + strconv.Itoa(i))
	}
	switch i % 10 {
	case 3:
	case 4:
		r.Value = []byte{}
	case 5:
		r.Value = bytes.Repeat([]byte("compressible "), 1600)
	case 6:
		for b := range 256 {
			r.Value = append(r.Value, byte(b))
		}
	default:
		r.Value = []byte(fmt.Sprintf("value %d %s", i, codec))
	}
	return r
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func compare(codec string, i int, want, got *kgo.Record) {
	if !same(want.Key, got.Key) || !same(want.Value, got.Value) || !want.Timestamp.Equal(got.Timestamp) {
		fail("%s: record %d came back as key %q value %q at %v", codec, i, got.Key, got.Value, got.Timestamp)
	}
	if len(want.Headers) != len(got.Headers) {
		fail("%s: record %d has %d headers, not %d", codec, i, len(got.Headers), len(want.Headers))
	}
	for h := range want.Headers {
		if want.Headers[h].Key != got.Headers[h].Key || !same(want.Headers[h].Value, got.Headers[h].Value) {
			fail("%s: record %d header %d came back as %v", codec, i, h, got.Headers[h])
		}
	}
}

func produce(ctx context.Context, seeds []string, topic, codec string, options ...kgo.Opt) []*kgo.Record {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(seeds...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[codec]))...)
	if err != nil {
		fail("producer: %v", err)
	}
	defer client.Close()
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = record(topic, codec, i)
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		fail("%s: produce: %v", codec, err)
	}
	return records // franz-go fills in the acknowledged offsets
}

func consume(ctx context.Context, seeds []string, topic string) map[int32]map[int64]*kgo.Record {
	assigned := map[int32]kgo.Offset{}
	got := map[int32]map[int64]*kgo.Record{}
	for p := int32(0); p < partitions; p++ {
		assigned[p] = kgo.NewOffset().AtStart()
		got[p] = map[int64]*kgo.Record{}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}))
	if err != nil {
		fail("consumer: %v", err)
	}
	defer client.Close()
	for n := 0; n < count; {
		fetches := client.PollFetches(ctx)
		if errs := fetches.Errors(); len(errs) > 0 {
			fail("fetch of %s/%d: %v", errs[0].Topic, errs[0].Partition, errs[0].Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if got[r.Partition][r.Offset] != nil {
				fail("offset %d of partition %d came twice", r.Offset, r.Partition)
			}
			got[r.Partition][r.Offset] = r
			n++
		})
	}
	return got
}

func offsets(ctx context.Context, admin *kadm.Client, topic string) {
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		fail("end offsets: %v", err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err != nil || o.Offset != count/partitions {
			fail("end of partition %d is %d (%v)", o.Partition, o.Offset, o.Err)
		}
	})
	timed, err := admin.ListOffsetsAfterMilli(ctx, baseMillis+60_000-500, topic)
	if err != nil {
		fail("offsets by time: %v", err)
	}
	if o, ok := timed.Lookup(topic, 0); !ok || o.Offset != 20 {
		fail("offset by time is %d, not 20", o.Offset)
	}
}

func main() {
	bootstrap := environment("BOOTSTRAP", "")
	if len(os.Args) > 1 {
		bootstrap = os.Args[1]
	}
	seeds := strings.Split(bootstrap, ",")
	rf, _ := strconv.Atoi(environment("FOREIGN_RF", "3"))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		fail("client: %v", err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	for _, codec := range strings.Fields(environment("CODECS", "none gzip snappy lz4 zstd")) {
		topic := "foreign-franz-" + codec + "-" + run
		if _, err := admin.CreateTopic(ctx, partitions, int16(rf), nil, topic); err != nil {
			fail("create %s: %v", topic, err)
		}
		sent := produce(ctx, seeds, topic, codec)
		got := consume(ctx, seeds, topic)
		for i, want := range sent {
			have := got[want.Partition][want.Offset]
			if have == nil {
				fail("%s: record %d acknowledged at %d/%d is not there", codec, i, want.Partition, want.Offset)
			}
			compare(codec, i, record(topic, codec, i), have)
		}
		offsets(ctx, admin, topic)
		fmt.Printf("ok %s: %d records, idempotent\n", codec, count)
	}
	topic := "foreign-franz-acks1-" + run
	if _, err := admin.CreateTopic(ctx, partitions, int16(rf), nil, topic); err != nil {
		fail("create %s: %v", topic, err)
	}
	produce(ctx, seeds, topic, "none", kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	consume(ctx, seeds, topic)
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		fail("delete %s: %v", topic, err)
	}
	fmt.Println("ok acks=1, delete topic")
}
