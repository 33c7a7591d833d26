// Command kafkago does the jobs of the matrix with segmentio/kafka-go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"kontiki.test/matrix/jobs"
)

func main() {
	jobs.Main("kafka-go", "github.com/segmentio/kafka-go", func(bootstrap []string) (jobs.Client, error) {
		return client{bootstrap}, nil
	})
}

type client struct{ bootstrap []string }

func (c client) Produce(ctx context.Context, topic, codec string, idempotent bool, records []jobs.Record) error {
	if idempotent {
		return jobs.Unsupported("kafka-go has no idempotent producer")
	}
	writer := &kafka.Writer{
		Addr: kafka.TCP(c.bootstrap...), Topic: topic, Balancer: &kafka.Hash{}, RequiredAcks: kafka.RequireAll,
		BatchTimeout: 10 * time.Millisecond,
		Compression: map[string]kafka.Compression{
			"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
		}[codec],
	}
	messages := make([]kafka.Message, 0, len(records))
	for _, record := range records {
		message := kafka.Message{Key: record.Key, Value: record.Value, Time: record.Time}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, kafka.Header{Key: header.Key, Value: header.Value})
		}
		messages = append(messages, message)
	}
	return errors.Join(writer.WriteMessages(ctx, messages...), writer.Close())
}

func recordOf(message kafka.Message) jobs.Record {
	record := jobs.Record{
		Partition: int32(message.Partition), Offset: message.Offset, Key: message.Key, Value: message.Value, Time: message.Time,
	}
	for _, header := range message.Headers {
		record.Headers = append(record.Headers, jobs.Header{Key: header.Key, Value: header.Value})
	}
	return record
}

func (c client) partition(topic string, partition int) *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{
		Brokers: c.bootstrap, Topic: topic, Partition: partition, MinBytes: 1, MaxBytes: 10 << 20, MaxWait: 500 * time.Millisecond,
	})
}

type result struct {
	message kafka.Message
	err     error
}

// reader of all partitions, each of which has a Reader of the library.
type reader struct {
	stop    context.CancelFunc
	read    chan result
	readers []*kafka.Reader
}

func (c client) Read(ctx context.Context, topic string, partitions int, start jobs.Start) (jobs.Reader, error) {
	reading, stop := context.WithCancel(ctx)
	r := &reader{stop: stop, read: make(chan result)}
	for p := range partitions {
		one := c.partition(topic, p)
		r.readers = append(r.readers, one)
		var err error
		switch start.At {
		case "start":
			err = one.SetOffset(kafka.FirstOffset)
		case "end":
			err = one.SetOffset(kafka.LastOffset)
		case "time":
			err = one.SetOffsetAt(ctx, start.Time)
		}
		if err != nil {
			return nil, err
		}
		go func() {
			for {
				message, err := one.ReadMessage(reading)
				select {
				case r.read <- result{message, err}:
				case <-reading.Done():
				}
				if err != nil {
					return
				}
			}
		}()
	}
	return r, nil
}

func (r *reader) Next(ctx context.Context) (jobs.Record, error) {
	select {
	case got := <-r.read:
		return recordOf(got.message), got.err
	case <-ctx.Done():
		return jobs.Record{}, ctx.Err()
	}
}

func (r *reader) Close() {
	r.stop()
	for _, one := range r.readers {
		_ = one.Close()
	}
}

type claimed struct {
	generation *kafka.Generation
	message    kafka.Message
}

// member by the library's ConsumerGroup, which shows generations and their partitions; its Reader hides them.
type member struct {
	client     client
	group      *kafka.ConsumerGroup
	topic      string
	state      jobs.State
	read       chan claimed
	stop       context.CancelFunc
	done       chan struct{}
	mutex      sync.Mutex
	generation *kafka.Generation
	given      map[int32]int64
}

func (c client) Join(_ context.Context, topic string, options jobs.MemberOptions) (jobs.Member, error) {
	if options.Instance != "" {
		return nil, jobs.Unsupported("kafka-go has no static membership (group.instance.id)")
	}
	if options.Cooperative {
		return nil, jobs.Unsupported("kafka-go has eager group balancers alone")
	}
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: options.Group, Brokers: c.bootstrap, Topics: []string{topic}, HeartbeatInterval: options.Heartbeat,
		SessionTimeout: 30 * time.Second, RebalanceTimeout: 30 * time.Second, StartOffset: kafka.FirstOffset,
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &member{
		client: c, group: group, topic: topic, stop: stop, read: make(chan claimed), done: make(chan struct{}),
	}
	go m.consume(ctx)
	return m, nil
}

// consume takes one generation after the other; what a coordinator's death makes of it is tried again.
func (m *member) consume(ctx context.Context) {
	defer close(m.done)
	for ctx.Err() == nil {
		generation, err := m.group.Next(ctx)
		if errors.Is(err, kafka.ErrGroupClosed) {
			return
		}
		if err != nil {
			if ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "next generation:", err)
				time.Sleep(200 * time.Millisecond)
			}
			continue
		}
		m.mutex.Lock()
		m.generation, m.given = generation, map[int32]int64{}
		m.mutex.Unlock()
		for _, assigned := range generation.Assignments[m.topic] {
			m.state.Assign(int32(assigned.ID))
			generation.Start(func(ctx context.Context) { m.partition(ctx, generation, assigned) })
		}
	}
}

// partition reads until the generation ends.
func (m *member) partition(ctx context.Context, generation *kafka.Generation, assigned kafka.PartitionAssignment) {
	one := m.client.partition(m.topic, assigned.ID)
	defer one.Close()
	defer m.state.Revoke(int32(assigned.ID))
	if err := one.SetOffset(assigned.Offset); err != nil {
		return
	}
	for {
		message, err := one.ReadMessage(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "read:", err)
			continue
		}
		select {
		case m.read <- claimed{generation, message}:
		case <-ctx.Done():
			return
		}
	}
}

func (m *member) Next(ctx context.Context) (jobs.Record, error) {
	select {
	case got := <-m.read:
		m.mutex.Lock()
		defer m.mutex.Unlock()
		if got.generation == m.generation {
			m.given[int32(got.message.Partition)] = got.message.Offset + 1
		}
		return recordOf(got.message), nil
	case <-ctx.Done():
		return jobs.Record{}, ctx.Err()
	}
}

func (m *member) State() *jobs.State { return &m.state }

func (m *member) Commit(context.Context) (map[int32]int64, error) {
	m.mutex.Lock()
	generation, committed, offsets := m.generation, map[int32]int64{}, map[int]int64{}
	for p, offset := range m.given {
		committed[p], offsets[int(p)] = offset, offset
	}
	m.mutex.Unlock()
	if len(offsets) == 0 {
		return nil, errors.New("nothing to commit")
	}
	return committed, generation.CommitOffsets(map[string]map[int]int64{m.topic: offsets})
}

func (m *member) Generation() int32 {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.generation.ID
}

func (m *member) Close() {
	m.stop()
	_ = m.group.Close()
	<-m.done
}

type admin struct{ *kafka.Client }

func (c client) Admin() (jobs.Admin, error) {
	return admin{&kafka.Client{Addr: kafka.TCP(c.bootstrap...), Timeout: 10 * time.Second}}, nil
}

func (a admin) Create(ctx context.Context, topic string, partitions int, config map[string]string) error {
	entries := []kafka.ConfigEntry{}
	for key, value := range config {
		entries = append(entries, kafka.ConfigEntry{ConfigName: key, ConfigValue: value})
	}
	answer, err := a.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: topic, NumPartitions: partitions, ReplicationFactor: -1, ConfigEntries: entries,
	}}})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (a admin) topics(ctx context.Context, topics ...string) ([]kafka.Topic, error) {
	answer, err := a.Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
	if err != nil {
		return nil, err
	}
	return answer.Topics, nil
}

func (a admin) Partitions(ctx context.Context, topic string) (int, error) {
	topics, err := a.topics(ctx, topic)
	if err != nil || len(topics) == 0 {
		return 0, err
	}
	return len(topics[0].Partitions), nil
}

func (a admin) Config(ctx context.Context, topic, key string) (string, error) {
	answer, err := a.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{key},
	}}})
	if err != nil {
		return "", err
	}
	for _, resource := range answer.Resources {
		if resource.Error != nil {
			return "", resource.Error
		}
		for _, entry := range resource.ConfigEntries {
			if entry.ConfigName == key {
				return entry.ConfigValue, nil
			}
		}
	}
	return "", nil
}

func (a admin) Topics(ctx context.Context) ([]string, error) {
	topics, err := a.topics(ctx)
	names := []string{}
	for _, topic := range topics {
		names = append(names, topic.Name)
	}
	return names, err
}

func (a admin) Alter(ctx context.Context, topic, key, value string) error {
	answer, err := a.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: key, Value: value, ConfigOperation: kafka.ConfigOperationSet}},
		}},
	})
	if err != nil {
		return err
	}
	return answer.Resources[0].Error
}

func (a admin) Grow(ctx context.Context, topic string, partitions int) error {
	answer, err := a.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{
		Topics: []kafka.TopicPartitionsConfig{{Name: topic, Count: int32(partitions)}},
	})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (a admin) Groups(ctx context.Context) ([]string, error) {
	answer, err := a.ListGroups(ctx, &kafka.ListGroupsRequest{})
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, group := range answer.Groups {
		names = append(names, group.GroupID)
	}
	return names, answer.Error
}

func (a admin) Group(ctx context.Context, group string) (string, int, error) {
	answer, err := a.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{group}})
	if err != nil {
		return "", 0, err
	}
	one := answer.Groups[0]
	return one.GroupState, len(one.Members), one.Error
}

func (a admin) Delete(ctx context.Context, topic string) error {
	answer, err := a.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (a admin) Close() {}
