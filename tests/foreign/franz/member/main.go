// franz-go as a member of a consumer group that never stops; logs as tests/foreign/confluent/member.py does.
//
//	member BOOTSTRAP TOPIC GROUP LOG range|cooperative-sticky [INSTANCE]
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	commitEvery = 25
	commitAfter = 500 * time.Millisecond
	noOffset    = -1001
)

type member struct {
	topic string
	log   *os.File
	// Callbacks of the group come from the client's own goroutines.
	lock sync.Mutex
	// Partitions that are its own, and the offset behind what was processed of each.
	done map[int32]int64
	// When each was assigned.
	since map[int32]int64
	cl    *kgo.Client
}

func nowMicros() int64 { return time.Now().UnixMicro() }

func generation(cl *kgo.Client) int32 { _, g := cl.GroupMetadata(); return g }

func (m *member) write(format string, args ...any) {
	if _, err := fmt.Fprintf(m.log, format+"\n", args...); err != nil {
		fmt.Fprintln(os.Stderr, "log:", err)
		os.Exit(1)
	}
}

// commit sends what was processed of these partitions and waits for the answer.
func (m *member) commit(cl *kgo.Client, partitions []int32) {
	m.lock.Lock()
	offsets := map[int32]kgo.EpochOffset{}
	began, of := nowMicros(), generation(cl)
	for _, p := range partitions {
		if o, ok := m.done[p]; ok && o >= 0 {
			offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: o}
			m.write(`{"t":"committing","p":%d,"o":%d,"g":%d,"at":%d}`, p, o, of, nowMicros())
		}
	}
	m.lock.Unlock()
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{m.topic: offsets},
		func(_ *kgo.Client, asked *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				fmt.Fprintln(os.Stderr, "commit:", err)
				return
			}
			m.lock.Lock()
			defer m.lock.Unlock()
			for _, topic := range answer.Topics {
				for _, row := range topic.Partitions {
					if err := kerr.ErrorForCode(row.ErrorCode); err != nil {
						fmt.Fprintf(os.Stderr, "commit of %d: %v\n", row.Partition, err)
						continue
					}
					m.write(`{"t":"committed","p":%d,"o":%d,"g":%d,"s":%d,"at":%d}`,
						row.Partition, offsets[row.Partition].Offset, asked.Generation, began, nowMicros())
				}
			}
		})
}

func (m *member) assigned(_ context.Context, cl *kgo.Client, given map[string][]int32) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.cl = cl
	for _, p := range given[m.topic] {
		m.done[p], m.since[p] = noOffset, nowMicros()
	}
}

// fetched is told where the client is about to begin, after assigned.
func (m *member) fetched(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for p, offset := range offsets[m.topic] {
		at := offset.EpochOffset().Offset
		if at < 0 {
			at = noOffset
		}
		m.write(`{"t":"assigned","p":%d,"o":%d,"g":%d,"s":%d,"at":%d}`, p, at, generation(m.cl), m.since[p], nowMicros())
	}
	return offsets, nil
}

func (m *member) forget(cl *kgo.Client, partitions []int32) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for _, p := range partitions {
		delete(m.done, p)
		m.write(`{"t":"revoked","p":%d,"g":%d,"at":%d}`, p, generation(cl), nowMicros())
	}
}

func (m *member) owned() []int32 {
	m.lock.Lock()
	defer m.lock.Unlock()
	var all []int32
	for p := range m.done {
		all = append(all, p)
	}
	return all
}

func (m *member) process(fetches kgo.Fetches) (read int) {
	fetches.EachError(func(topic string, p int32, err error) {
		if err != context.DeadlineExceeded && err != context.Canceled {
			fmt.Fprintf(os.Stderr, "fetch of %s/%d: %v\n", topic, p, err)
		}
	})
	m.lock.Lock()
	defer m.lock.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		if _, mine := m.done[r.Partition]; mine {
			m.write(`{"t":"read","p":%d,"o":%d,"at":%d}`, r.Partition, r.Offset, nowMicros())
			m.done[r.Partition] = r.Offset + 1
			read++
		}
	})
	return read
}

func main() {
	if len(os.Args) < 6 {
		fmt.Fprintln(os.Stderr, "usage: member BOOTSTRAP TOPIC GROUP LOG range|cooperative-sticky [INSTANCE]")
		os.Exit(2)
	}
	log, err := os.Create(os.Args[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m := &member{topic: os.Args[2], log: log, done: map[int32]int64{}, since: map[int32]int64{}}
	balancer := kgo.RangeBalancer()
	if os.Args[5] == "cooperative-sticky" {
		balancer = kgo.CooperativeStickyBalancer()
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(os.Args[1], ",")...), kgo.ConsumerGroup(os.Args[3]), kgo.ConsumeTopics(m.topic),
		kgo.Balancers(balancer), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(6 * time.Second),
		kgo.HeartbeatInterval(500 * time.Millisecond), kgo.FetchMaxWait(50 * time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.OnPartitionsAssigned(m.assigned),
		kgo.AdjustFetchOffsetsFn(m.fetched),
		kgo.OnPartitionsRevoked(func(_ context.Context, cl *kgo.Client, gone map[string][]int32) {
			m.commit(cl, gone[m.topic])
			m.forget(cl, gone[m.topic])
		}),
		kgo.OnPartitionsLost(func(_ context.Context, cl *kgo.Client, gone map[string][]int32) { m.forget(cl, gone[m.topic]) }),
	}
	if len(os.Args) > 6 {
		options = append(options, kgo.InstanceID(os.Args[6]))
	}
	cl, err := kgo.NewClient(options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(stop) }()
	since, due := 0, time.Now().Add(commitAfter)
	for running := true; running; {
		select {
		case <-stop:
			running = false
			continue
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		since += m.process(cl.PollRecords(ctx, commitEvery))
		cancel()
		if since >= commitEvery || since > 0 && time.Now().After(due) {
			m.commit(cl, m.owned())
			since, due = 0, time.Now().Add(commitAfter)
		}
		cl.AllowRebalance()
	}
	m.commit(cl, m.owned())
	cl.CloseAllowingRebalance()
}
