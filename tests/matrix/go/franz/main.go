// Command franz does the jobs of the matrix with franz-go (kgo, kadm).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"kontiki.test/matrix/jobs"
)

func main() {
	jobs.Main("franz-go", "github.com/twmb/franz-go", func(bootstrap []string) (jobs.Client, error) {
		return client{bootstrap}, nil
	})
}

type client struct{ bootstrap []string }

func (c client) open(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(c.bootstrap...))...)
}

func (c client) Produce(ctx context.Context, topic, codec string, idempotent bool, records []jobs.Record) error {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	options := []kgo.Opt{kgo.ProducerBatchCompression(codecs[codec]), kgo.RequiredAcks(kgo.AllISRAcks())}
	if !idempotent {
		options = append(options, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	producer, err := c.open(options...)
	if err != nil {
		return err
	}
	defer producer.Close()
	out := make([]*kgo.Record, 0, len(records))
	for _, record := range records {
		row := &kgo.Record{Topic: topic, Key: record.Key, Value: record.Value, Timestamp: record.Time}
		for _, header := range record.Headers {
			row.Headers = append(row.Headers, kgo.RecordHeader{Key: header.Key, Value: header.Value})
		}
		out = append(out, row)
	}
	return producer.ProduceSync(ctx, out...).FirstErr()
}

func recordOf(row *kgo.Record) jobs.Record {
	record := jobs.Record{Partition: row.Partition, Offset: row.Offset, Key: row.Key, Value: row.Value, Time: row.Timestamp}
	for _, header := range row.Headers {
		record.Headers = append(record.Headers, jobs.Header{Key: header.Key, Value: header.Value})
	}
	return record
}

// source hands out one record at a time.
type source struct {
	client *kgo.Client
	rows   []*kgo.Record
}

func (s *source) next(ctx context.Context) (*kgo.Record, error) {
	for len(s.rows) == 0 {
		fetches := s.client.PollRecords(ctx, 100)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for _, failed := range fetches.Errors() {
			// The client tells of it and joins again by itself.
			var session *kgo.ErrGroupSession
			if !errors.As(failed.Err, &session) {
				return nil, failed.Err
			}
			fmt.Fprintln(os.Stderr, "group session:", failed.Err)
		}
		s.rows = fetches.Records()
	}
	row := s.rows[0]
	s.rows = s.rows[1:]
	return row, nil
}

func (s *source) Next(ctx context.Context) (jobs.Record, error) {
	row, err := s.next(ctx)
	if err != nil {
		return jobs.Record{}, err
	}
	return recordOf(row), nil
}

func (s *source) Close() { s.client.Close() }

func (c client) Read(_ context.Context, topic string, partitions int, start jobs.Start) (jobs.Reader, error) {
	offset := kgo.NewOffset().AtStart()
	switch start.At {
	case "end":
		offset = kgo.NewOffset().AtEnd()
	case "time":
		offset = kgo.NewOffset().AfterMilli(start.Time.UnixMilli())
	}
	assigned := map[int32]kgo.Offset{}
	for p := range partitions {
		assigned[int32(p)] = offset
	}
	reader, err := c.open(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}))
	return &source{client: reader}, err
}

type member struct {
	source
	topic string
	state jobs.State
	mutex sync.Mutex
	given map[int32]*kgo.Record
}

func (c client) Join(_ context.Context, topic string, options jobs.MemberOptions) (jobs.Member, error) {
	m := &member{topic: topic, given: map[int32]*kgo.Record{}}
	balancer := kgo.RangeBalancer()
	switch {
	case options.Cooperative:
		balancer = kgo.CooperativeStickyBalancer()
	case options.Instance != "":
		balancer = kgo.StickyBalancer()
	}
	lost := func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		for _, p := range gone[topic] {
			delete(m.given, p)
		}
		if len(gone[topic]) > 0 {
			m.state.Revoke(gone[topic]...)
		}
	}
	settings := []kgo.Opt{
		kgo.ConsumerGroup(options.Group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.Balancers(balancer),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(options.Heartbeat),
		kgo.SessionTimeout(30 * time.Second), kgo.OnPartitionsRevoked(lost), kgo.OnPartitionsLost(lost),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, now map[string][]int32) {
			if len(now[topic]) > 0 {
				m.state.Assign(now[topic]...)
			}
		}),
	}
	if options.Instance != "" {
		settings = append(settings, kgo.InstanceID(options.Instance))
	}
	var err error
	m.client, err = c.open(settings...)
	return m, err
}

func (m *member) Next(ctx context.Context) (jobs.Record, error) {
	for {
		row, err := m.next(ctx)
		if err != nil {
			return jobs.Record{}, err
		}
		m.mutex.Lock()
		held := slices.Contains(m.state.Held(), row.Partition)
		if held {
			m.given[row.Partition] = row
		}
		m.mutex.Unlock()
		// What was polled of a partition before it was taken away belongs to its next owner.
		if held {
			return recordOf(row), nil
		}
	}
}

func (m *member) State() *jobs.State { return &m.state }

func (m *member) Commit(ctx context.Context) (map[int32]int64, error) {
	m.mutex.Lock()
	rows, committed := []*kgo.Record{}, map[int32]int64{}
	for p, row := range m.given {
		rows = append(rows, row)
		committed[p] = row.Offset + 1
	}
	m.mutex.Unlock()
	if len(rows) == 0 {
		return nil, errors.New("nothing to commit")
	}
	return committed, m.client.CommitRecords(ctx, rows...)
}

func (m *member) Generation() int32 {
	_, generation := m.client.GroupMetadata()
	return generation
}

type admin struct{ *kadm.Client }

func (c client) Admin() (jobs.Admin, error) {
	open, err := c.open()
	if err != nil {
		return nil, err
	}
	return admin{kadm.NewClient(open)}, nil
}

func (a admin) Create(ctx context.Context, topic string, partitions int, config map[string]string) error {
	values := map[string]*string{}
	for key, value := range config {
		values[key] = &value
	}
	_, err := a.CreateTopic(ctx, int32(partitions), -1, values, topic)
	return err
}

func (a admin) Partitions(ctx context.Context, topic string) (int, error) {
	topics, err := a.ListTopics(ctx, topic)
	return len(topics[topic].Partitions), err
}

func (a admin) Config(ctx context.Context, topic, key string) (string, error) {
	described, err := a.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return "", err
	}
	resource, err := described.On(topic, nil)
	if err != nil {
		return "", err
	}
	for _, config := range resource.Configs {
		if config.Key == key {
			return config.MaybeValue(), nil
		}
	}
	return "", resource.Err
}

func (a admin) Topics(ctx context.Context) ([]string, error) {
	topics, err := a.ListTopics(ctx)
	return topics.Names(), err
}

func (a admin) Alter(ctx context.Context, topic, key, value string) error {
	altered, err := a.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, topic)
	if err != nil {
		return err
	}
	one, err := altered.On(topic, nil)
	return errors.Join(err, one.Err)
}

func (a admin) Grow(ctx context.Context, topic string, partitions int) error {
	grown, err := a.UpdatePartitions(ctx, partitions, topic)
	if err != nil {
		return err
	}
	return grown.Error()
}

func (a admin) Groups(ctx context.Context) ([]string, error) {
	groups, err := a.ListGroups(ctx)
	return groups.Groups(), err
}

func (a admin) Group(ctx context.Context, group string) (string, int, error) {
	groups, err := a.DescribeGroups(ctx, group)
	if err != nil {
		return "", 0, err
	}
	return groups[group].State, len(groups[group].Members), groups[group].Err
}

func (a admin) Delete(ctx context.Context, topic string) error {
	_, err := a.DeleteTopic(ctx, topic)
	return err
}
