// Command sarama does the jobs of the matrix with IBM/sarama.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	kafka "github.com/IBM/sarama"
	"kontiki.test/matrix/jobs"
)

func main() {
	jobs.Main("sarama", "github.com/IBM/sarama", func(bootstrap []string) (jobs.Client, error) {
		return client{bootstrap}, nil
	})
}

type client struct{ bootstrap []string }

func config() *kafka.Config {
	config := kafka.NewConfig()
	config.Version = kafka.MaxVersion
	return config
}

func (c client) Produce(ctx context.Context, topic, codec string, idempotent bool, records []jobs.Record) error {
	config := config()
	config.Producer.RequiredAcks = kafka.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Compression = map[string]kafka.CompressionCodec{
		"none": kafka.CompressionNone, "gzip": kafka.CompressionGZIP, "snappy": kafka.CompressionSnappy,
		"lz4": kafka.CompressionLZ4, "zstd": kafka.CompressionZSTD,
	}[codec]
	// As its documentation asks for where order matters, and for idempotence.
	config.Net.MaxOpenRequests = 1
	config.Producer.Idempotent = idempotent
	producer, err := kafka.NewSyncProducer(c.bootstrap, config)
	if err != nil {
		return err
	}
	messages := make([]*kafka.ProducerMessage, 0, len(records))
	for _, record := range records {
		message := &kafka.ProducerMessage{
			Topic: topic, Key: kafka.ByteEncoder(record.Key), Value: kafka.ByteEncoder(record.Value), Timestamp: record.Time,
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, kafka.RecordHeader{Key: []byte(header.Key), Value: header.Value})
		}
		messages = append(messages, message)
	}
	return errors.Join(producer.SendMessages(messages), producer.Close())
}

func recordOf(message *kafka.ConsumerMessage) jobs.Record {
	record := jobs.Record{
		Partition: message.Partition, Offset: message.Offset, Key: message.Key, Value: message.Value, Time: message.Timestamp,
	}
	for _, header := range message.Headers {
		record.Headers = append(record.Headers, jobs.Header{Key: string(header.Key), Value: header.Value})
	}
	return record
}

// reader of all partitions, each of which it feeds into one channel.
type reader struct {
	client     kafka.Client
	consumer   kafka.Consumer
	partitions []kafka.PartitionConsumer
	read       chan *kafka.ConsumerMessage
	closed     chan struct{}
}

func (c client) Read(_ context.Context, topic string, partitions int, start jobs.Start) (jobs.Reader, error) {
	open, err := kafka.NewClient(c.bootstrap, config())
	if err != nil {
		return nil, err
	}
	consumer, err := kafka.NewConsumerFromClient(open)
	if err != nil {
		return nil, err
	}
	r := &reader{client: open, consumer: consumer, read: make(chan *kafka.ConsumerMessage), closed: make(chan struct{})}
	for p := range int32(partitions) {
		offset := map[string]int64{"start": kafka.OffsetOldest, "end": kafka.OffsetNewest}[start.At]
		if start.At == "time" {
			if offset, err = open.GetOffset(topic, p, start.Time.UnixMilli()); err != nil {
				return nil, err
			}
		}
		one, err := consumer.ConsumePartition(topic, p, offset)
		if err != nil {
			return nil, err
		}
		r.partitions = append(r.partitions, one)
		go func() {
			for message := range one.Messages() {
				select {
				case r.read <- message:
				case <-r.closed:
				}
			}
		}()
	}
	return r, nil
}

func (r *reader) Next(ctx context.Context) (jobs.Record, error) {
	select {
	case message := <-r.read:
		return recordOf(message), nil
	case <-ctx.Done():
		return jobs.Record{}, ctx.Err()
	}
}

func (r *reader) Close() {
	close(r.closed)
	for _, one := range r.partitions {
		_ = one.Close()
	}
	_ = r.consumer.Close()
	_ = r.client.Close()
}

type claimed struct {
	session kafka.ConsumerGroupSession
	message *kafka.ConsumerMessage
}

// member is the handler of its own sessions.
type member struct {
	client  kafka.Client
	group   kafka.ConsumerGroup
	name    string
	topic   string
	state   jobs.State
	read    chan claimed
	stop    context.CancelFunc
	done    chan struct{}
	mutex   sync.Mutex
	session kafka.ConsumerGroupSession
	given   map[int32]int64
}

func (c client) Join(_ context.Context, topic string, options jobs.MemberOptions) (jobs.Member, error) {
	config := config()
	config.Consumer.Offsets.Initial = kafka.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Heartbeat.Interval = options.Heartbeat
	config.Consumer.Group.Session.Timeout = 30 * time.Second
	config.Consumer.Group.InstanceId = options.Instance
	strategy := kafka.NewBalanceStrategyRange()
	switch {
	case options.Cooperative:
		strategy = kafka.NewBalanceStrategyCooperativeSticky()
	case options.Instance != "":
		strategy = kafka.NewBalanceStrategySticky()
	}
	config.Consumer.Group.Rebalance.GroupStrategies = []kafka.BalanceStrategy{strategy}
	open, err := kafka.NewClient(c.bootstrap, config)
	if err != nil {
		return nil, err
	}
	group, err := kafka.NewConsumerGroupFromClient(options.Group, open)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &member{
		client: open, group: group, name: options.Group, topic: topic, stop: stop,
		read: make(chan claimed), done: make(chan struct{}), given: map[int32]int64{},
	}
	go m.consume(ctx)
	return m, nil
}

// consume joins again whenever a session ends, as the library wants it; what a coordinator's death makes of it is tried again.
func (m *member) consume(ctx context.Context) {
	defer close(m.done)
	for ctx.Err() == nil {
		err := m.group.Consume(ctx, []string{m.topic}, m)
		if errors.Is(err, kafka.ErrClosedConsumerGroup) {
			return
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "consume:", err)
			time.Sleep(200 * time.Millisecond)
		}
	}
}

func (m *member) Setup(session kafka.ConsumerGroupSession) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.session = session
	m.given = map[int32]int64{}
	return nil
}

func (m *member) Cleanup(kafka.ConsumerGroupSession) error { return nil }

func (m *member) ConsumeClaim(session kafka.ConsumerGroupSession, claim kafka.ConsumerGroupClaim) error {
	m.state.Assign(claim.Partition())
	defer func() {
		m.mutex.Lock()
		delete(m.given, claim.Partition())
		m.mutex.Unlock()
		m.state.Revoke(claim.Partition())
	}()
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			select {
			case m.read <- claimed{session, message}:
			case <-session.Context().Done():
				return nil
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *member) Next(ctx context.Context) (jobs.Record, error) {
	select {
	case got := <-m.read:
		m.mutex.Lock()
		defer m.mutex.Unlock()
		if got.session == m.session {
			got.session.MarkMessage(got.message, "")
			m.given[got.message.Partition] = got.message.Offset + 1
		}
		return recordOf(got.message), nil
	case <-ctx.Done():
		return jobs.Record{}, ctx.Err()
	}
}

func (m *member) State() *jobs.State { return &m.state }

// Commit asks the coordinator afterwards: the library's own only logs what was refused.
func (m *member) Commit(context.Context) (map[int32]int64, error) {
	m.mutex.Lock()
	session, given := m.session, map[int32]int64{}
	partitions := map[string][]int32{}
	for p, offset := range m.given {
		given[p] = offset
		partitions[m.topic] = append(partitions[m.topic], p)
	}
	m.mutex.Unlock()
	if session == nil || len(given) == 0 {
		return nil, errors.New("nothing to commit")
	}
	session.Commit()
	admin, err := kafka.NewClusterAdminFromClient(m.client)
	if err != nil {
		return nil, err
	}
	answer, err := admin.ListConsumerGroupOffsets(m.name, partitions)
	if err != nil {
		return nil, err
	}
	for p, offset := range given {
		block := answer.GetBlock(m.topic, p)
		if block == nil || block.Err != kafka.ErrNoError || block.Offset < offset {
			return nil, fmt.Errorf("partition %d is not committed up to %d", p, offset)
		}
		given[p] = block.Offset
	}
	return given, nil
}

func (m *member) Generation() int32 {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.session.GenerationID()
}

func (m *member) Close() {
	m.stop()
	_ = m.group.Close()
	<-m.done
	_ = m.client.Close()
}

type admin struct{ kafka.ClusterAdmin }

func (c client) Admin() (jobs.Admin, error) {
	open, err := kafka.NewClusterAdmin(c.bootstrap, config())
	return admin{open}, err
}

func (a admin) Create(_ context.Context, topic string, partitions int, config map[string]string) error {
	values := map[string]*string{}
	for key, value := range config {
		values[key] = &value
	}
	return a.CreateTopic(topic, &kafka.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: -1, ConfigEntries: values}, false)
}

func (a admin) Partitions(_ context.Context, topic string) (int, error) {
	topics, err := a.DescribeTopics([]string{topic})
	if err != nil {
		return 0, err
	}
	return len(topics[0].Partitions), nil
}

func (a admin) Config(_ context.Context, topic, key string) (string, error) {
	entries, err := a.DescribeConfig(kafka.ConfigResource{Type: kafka.TopicResource, Name: topic, ConfigNames: []string{key}})
	for _, entry := range entries {
		if entry.Name == key {
			return entry.Value, nil
		}
	}
	return "", err
}

func (a admin) Topics(context.Context) ([]string, error) {
	topics, err := a.ListTopics()
	names := []string{}
	for name := range topics {
		names = append(names, name)
	}
	return names, err
}

func (a admin) Alter(_ context.Context, topic, key, value string) error {
	set := map[string]kafka.IncrementalAlterConfigsEntry{key: {Operation: kafka.IncrementalAlterConfigsOperationSet, Value: &value}}
	return a.IncrementalAlterConfig(kafka.TopicResource, topic, set, false)
}

func (a admin) Grow(_ context.Context, topic string, partitions int) error {
	return a.CreatePartitions(topic, int32(partitions), nil, false)
}

func (a admin) Groups(context.Context) ([]string, error) {
	groups, err := a.ListConsumerGroups()
	names := []string{}
	for name := range groups {
		names = append(names, name)
	}
	return names, err
}

func (a admin) Group(_ context.Context, group string) (string, int, error) {
	groups, err := a.DescribeConsumerGroups([]string{group})
	if err != nil {
		return "", 0, err
	}
	return groups[0].State, len(groups[0].Members), nil
}

func (a admin) Delete(_ context.Context, topic string) error { return a.DeleteTopic(topic) }

func (a admin) Close() { _ = a.ClusterAdmin.Close() }
