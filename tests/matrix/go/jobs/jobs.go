// Package jobs is what every Go client of the matrix has to do, said once: the jobs, what counts as done, and how it
// ends. It knows no client library; each command beside it puts one behind the interface Client.
//
// Usage of each command: JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...], or `version`. The last line of stdout is `ok` or
// `unsupported: WHY`; anything else is a failure, said on stderr.
package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const (
	valueBytes = 200
	// First timestamp of jobs that write or read by time, in ms.
	baseMillis = 1_700_000_000_000
)

// limit is when a job ends by itself, before the driver ends it: at MATRIX_LIMIT (90) seconds, or a minute later where a coordinator is killed.
func limit() time.Duration {
	seconds, err := strconv.Atoi(os.Getenv("MATRIX_LIMIT"))
	if err != nil {
		seconds = 90
	}
	return time.Duration(seconds-5) * time.Second
}

// Header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record as written (without place) or read.
type Record struct {
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	// Zero: the client's own.
	Time    time.Time
	Headers []Header
}

// Start is where a reader begins: "start", "end", or "time" with the time.
type Start struct {
	At   string
	Time time.Time
}

// Reader gives records of all partitions of a topic, without a group.
type Reader interface {
	Next(ctx context.Context) (Record, error)
	Close()
}

// MemberOptions of a consumer in a group. It begins at the start of a partition that has no commit, and commits when told.
type MemberOptions struct {
	Group string
	// group.instance.id; empty for a dynamic member.
	Instance string
	// cooperative-sticky instead of an eager assignor.
	Cooperative bool
	// How often it beats; the session lasts 30 s.
	Heartbeat time.Duration
}

// Member of a consumer group.
type Member interface {
	Next(ctx context.Context) (Record, error)
	// State is what it was told of its partitions.
	State() *State
	// Commit what Next has given out of partitions still held: the next offset of each. No error only if the coordinator took it.
	Commit(ctx context.Context) (map[int32]int64, error)
	// Generation it is in.
	Generation() int32
	// Close leaves the group, a static member only stops.
	Close()
}

// Admin is a client's administration.
type Admin interface {
	Create(ctx context.Context, topic string, partitions int, config map[string]string) error
	// Partitions of a topic.
	Partitions(ctx context.Context, topic string) (int, error)
	Config(ctx context.Context, topic, key string) (string, error)
	Topics(ctx context.Context) ([]string, error)
	Alter(ctx context.Context, topic, key, value string) error
	Grow(ctx context.Context, topic string, partitions int) error
	Groups(ctx context.Context) ([]string, error)
	// Group's state and number of members.
	Group(ctx context.Context, group string) (string, int, error)
	Delete(ctx context.Context, topic string) error
	Close()
}

// Client is one library.
type Client interface {
	// Produce with acks=all by the default partitioner for keys, and wait for every acknowledgement.
	Produce(ctx context.Context, topic, codec string, idempotent bool, records []Record) error
	Read(ctx context.Context, topic string, partitions int, start Start) (Reader, error)
	Join(ctx context.Context, topic string, options MemberOptions) (Member, error)
	Admin() (Admin, error)
}

// Unsupported says what the library has not.
type Unsupported string

func (u Unsupported) Error() string { return "unsupported: " + string(u) }

// Run of one job.
type run struct {
	client     Client
	job        string
	topic      string
	group      string
	n          int
	partitions int
}

// Main runs the job of the command line. module is the library's path, whose version is in the binary.
func Main(name, module string, open func(bootstrap []string) (Client, error)) {
	arguments := os.Args[1:]
	if len(arguments) == 1 && arguments[0] == "version" {
		fmt.Println(name, versionOf(module))
		return
	}
	if len(arguments) < 4 {
		fmt.Fprintln(os.Stderr, "usage: JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...]")
		os.Exit(2)
	}
	r := run{job: arguments[0], topic: arguments[2], group: arguments[3], n: 1000, partitions: 4}
	for _, pair := range arguments[4:] {
		key, value, _ := strings.Cut(pair, "=")
		number, err := strconv.Atoi(value)
		switch {
		case key == "n" && err == nil:
			r.n = number
		case key == "partitions" && err == nil:
			r.partitions = number
		}
	}
	within := limit()
	if r.job == "coordinator-killed" {
		within += time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	client, err := open(strings.Split(arguments[1], ","))
	if err == nil {
		r.client = client
		err = r.do(ctx)
	}
	var unsupported Unsupported
	switch {
	case err == nil:
		fmt.Println("ok")
	case errors.As(err, &unsupported):
		fmt.Println(unsupported.Error())
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", r.job, err)
		os.Exit(1)
	}
}

func versionOf(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == module {
				return strings.TrimPrefix(dependency.Version, "v")
			}
		}
	}
	return "unknown"
}

func (r run) do(ctx context.Context) error {
	if codec, ok := strings.CutPrefix(r.job, "produce-"); ok {
		return r.client.Produce(ctx, r.topic, codec, false, r.records(0, r.n))
	}
	switch r.job {
	case "idempotent":
		return r.client.Produce(ctx, r.topic, "none", true, r.records(0, r.n))
	case "keyed-order":
		return r.keyedOrder(ctx)
	case "headers":
		return r.headers(ctx)
	case "timestamps":
		return r.timestamps(ctx)
	case "from-start":
		return r.fromStart(ctx)
	case "from-end":
		return r.fromEnd(ctx)
	case "from-time":
		return r.fromTime(ctx)
	case "group":
		return r.sharedGroup(ctx)
	case "static":
		return r.static(ctx)
	case "cooperative":
		return r.cooperative(ctx)
	case "commit-resume":
		return r.commitResume(ctx)
	case "coordinator-killed":
		return r.coordinatorKilled(ctx)
	case "admin":
		return r.admin(ctx)
	}
	return fmt.Errorf("unknown job")
}

// value of record i of a job, padded with something that compresses.
func (r run) value(i int) []byte {
	value := fmt.Appendf(make([]byte, 0, valueBytes), "%s-%d ", r.job, i)
	for len(value) < valueBytes {
		value = append(value, "kontiki "[:min(8, valueBytes-len(value))]...)
	}
	return value
}

// number of the record in which this value came, or why it is none of the job's.
func (r run) number(value []byte) (int, error) {
	rest, ours := bytes.CutPrefix(value, []byte(r.job+"-"))
	digits := len(rest) - len(bytes.TrimLeft(rest, "0123456789"))
	i, err := strconv.Atoi(string(rest[:digits]))
	if !ours || err != nil {
		return 0, fmt.Errorf("a foreign value %.40q", value)
	}
	return i, nil
}

func (r run) records(from, to int) []Record {
	records := make([]Record, 0, to-from)
	for i := from; i < to; i++ {
		records = append(records, Record{Key: fmt.Appendf(nil, "k%d", i%50), Value: r.value(i)})
	}
	return records
}

func (r run) keyedOrder(ctx context.Context) error {
	if err := r.client.Produce(ctx, r.topic, "none", false, r.records(0, r.n)); err != nil {
		return err
	}
	last := map[string]int{}
	home := map[string]int32{}
	return r.readAll(ctx, 0, r.n, Start{At: "start"}, func(i int, record Record) error {
		key := string(record.Key)
		if key != fmt.Sprintf("k%d", i%50) {
			return fmt.Errorf("record %d has the key %q", i, key)
		}
		if before, ok := last[key]; ok && i <= before {
			return fmt.Errorf("record %d of key %s came after %d", i, key, before)
		}
		if at, ok := home[key]; ok && at != record.Partition {
			return fmt.Errorf("key %s is in partitions %d and %d", key, at, record.Partition)
		}
		last[key], home[key] = i, record.Partition
		return nil
	})
}

// readAll reads the records from..to, each exactly once and no other, and shows each.
func (r run) readAll(ctx context.Context, from, to int, start Start, look func(i int, record Record) error) error {
	reader, err := r.client.Read(ctx, r.topic, r.partitions, start)
	if err != nil {
		return err
	}
	defer reader.Close()
	seen := map[int]bool{}
	for len(seen) < to-from {
		record, err := reader.Next(ctx)
		if err != nil {
			return fmt.Errorf("after %d of %d records: %w", len(seen), to-from, err)
		}
		i, err := r.number(record.Value)
		if err != nil {
			return err
		}
		if i < from || i >= to || seen[i] {
			return fmt.Errorf("record %d came, twice or not to be read (of %d to %d)", i, from, to)
		}
		seen[i] = true
		if err := look(i, record); err != nil {
			return err
		}
	}
	return nil
}

func headersOf(i int) []Header {
	return []Header{
		{"n", fmt.Appendf(nil, "%d", i)}, {"empty", []byte{}}, {"binary", []byte{0, 0xff, 0xfe, byte(i), '\n'}},
	}
}

func (r run) headers(ctx context.Context) error {
	records := r.records(0, r.n)
	for i := range records {
		records[i].Headers = headersOf(i)
	}
	if err := r.client.Produce(ctx, r.topic, "none", false, records); err != nil {
		return err
	}
	return r.readAll(ctx, 0, r.n, Start{At: "start"}, func(i int, record Record) error {
		want := headersOf(i)
		same := len(want) == len(record.Headers)
		for h := 0; same && h < len(want); h++ {
			got := record.Headers[h]
			same = got.Key == want[h].Key && bytes.Equal(got.Value, want[h].Value)
		}
		if !same {
			return fmt.Errorf("record %d came with the headers %v", i, record.Headers)
		}
		return nil
	})
}

func (r run) timestamps(ctx context.Context) error {
	at := func(i int) time.Time { return time.UnixMilli(baseMillis + int64(i)) }
	records := r.records(0, r.n)
	for i := range records {
		records[i].Time = at(i)
	}
	if err := r.client.Produce(ctx, r.topic, "none", false, records); err != nil {
		return err
	}
	return r.readAll(ctx, 0, r.n, Start{At: "start"}, func(i int, record Record) error {
		if !record.Time.Equal(at(i)) {
			return fmt.Errorf("record %d came with the time %d, not %d", i, record.Time.UnixMilli(), at(i).UnixMilli())
		}
		return nil
	})
}

func (r run) fromStart(ctx context.Context) error {
	return r.readAll(ctx, 0, r.n, Start{At: "start"}, func(int, Record) error { return nil })
}

func (r run) fromTime(ctx context.Context) error {
	start := Start{At: "time", Time: time.UnixMilli(baseMillis + 500)}
	return r.readAll(ctx, 500, r.n, start, func(i int, record Record) error {
		if record.Time.UnixMilli() != baseMillis+int64(i) {
			return fmt.Errorf("record %d has the time %d", i, record.Time.UnixMilli())
		}
		return nil
	})
}

// A reader may learn where the end is only some time after it was made: single records are written until one of each
// partition was read, and from then on not one may be missing.
func (r run) fromEnd(ctx context.Context) error {
	reader, err := r.client.Read(ctx, r.topic, r.partitions, Start{At: "end"})
	if err != nil {
		return err
	}
	defer reader.Close()
	read := collect(ctx, reader)
	seen := map[int]bool{}
	begun := map[int32]bool{}
	next := r.n
	take := func(wait time.Duration) error {
		until := time.After(wait)
		for {
			select {
			case <-until:
				return nil
			case got := <-read:
				if got.err != nil {
					return fmt.Errorf("after %d records: %w", len(seen), got.err)
				}
				i, err := r.number(got.record.Value)
				if err != nil {
					return err
				}
				if i < r.n || seen[i] {
					return fmt.Errorf("record %d came, twice or from before the end", i)
				}
				seen[i] = true
				begun[got.record.Partition] = true
			}
		}
	}
	for len(begun) < r.partitions {
		if err := r.client.Produce(ctx, r.topic, "none", false, r.records(next, next+50)); err != nil {
			return err
		}
		next += 50
		if err := take(500 * time.Millisecond); err != nil {
			return err
		}
	}
	if err := r.client.Produce(ctx, r.topic, "none", false, r.records(next, next+100)); err != nil {
		return err
	}
	for i := next; i < next+100; {
		if seen[i] {
			i++
		} else if err := take(50 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
