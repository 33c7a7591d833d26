// Many connections and many groups at once, in one process, for tests/long/load.sh.
//
//	load BOOTSTRAP PREFIX GROUPS MEMBERS PARTITIONS
//
// Group i has so many members, franz-go clients, that read the topic PREFIX-i, which has so many partitions. Commands on standard input,
// one a line, each answered by one line; the end of the input ends it:
//
//	connect N      opens N connections, each asked for ApiVersions, and again every ten seconds; another one comes for one that broke
//	groups         starts all members
//	whole          waits until every group has given out all of its partitions and every member has committed since the command came
//	produce RATE   writes so many records of 1 KiB a second to all partitions, acks=all; 0 stops it
//	report         records written, refused and read, and connections that broke, since the last report
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	askEvery    = 10 * time.Second
	commitEvery = time.Second
	valueBytes  = 1024
)

var seeds []string
var read, written, refused, broken atomic.Int64

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// ask sends ApiVersions v0 and reads the answer.
func ask(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	request := []byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(length[:])))
	return err
}

// hold keeps one connection for ever.
func hold(i int, ready *sync.WaitGroup) {
	first := true
	for {
		conn, err := net.DialTimeout("tcp", seeds[i%len(seeds)], 10*time.Second)
		for err == nil {
			if err = ask(conn); err == nil {
				if first {
					first = false
					ready.Done()
				}
				time.Sleep(askEvery)
			}
		}
		if conn != nil {
			_ = conn.Close()
		}
		if !first {
			broken.Add(1)
		}
		i++
		time.Sleep(time.Second)
	}
}

// member is one consumer of a group.
type member struct {
	lock      sync.Mutex
	has       map[int32]bool
	committed time.Time // when the last acknowledged commit began
}

func (m *member) change(partitions []int32, has bool) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for _, p := range partitions {
		if has {
			m.has[p] = true
		} else {
			delete(m.has, p)
		}
	}
}

// run reads, and commits where it is every second, whether it has moved or not.
func (m *member) run(topic, group string) {
	gone := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { m.change(lost[topic], false) }
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.Balancers(kgo.RangeBalancer()), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(5*time.Second), kgo.SessionTimeout(30*time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) { m.change(got[topic], true) }),
		kgo.OnPartitionsRevoked(gone), kgo.OnPartitionsLost(gone))
	fail(err)
	go func() {
		for {
			fetches := cl.PollFetches(context.Background())
			read.Add(int64(fetches.NumRecords()))
		}
	}()
	for time.Sleep(rand.N(commitEvery)); ; time.Sleep(commitEvery) {
		began := time.Now()
		marked := cl.CommittedOffsets()[topic]
		offsets := map[int32]kgo.EpochOffset{}
		m.lock.Lock()
		for p := range m.has {
			offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: marked[p].Offset}
		}
		m.lock.Unlock()
		for p, offset := range cl.UncommittedOffsets()[topic] {
			if _, mine := offsets[p]; mine {
				offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: offset.Offset}
			}
		}
		if len(offsets) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{topic: offsets},
			func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
				if err != nil {
					return
				}
				for _, topic := range answer.Topics {
					for _, row := range topic.Partitions {
						if row.ErrorCode != 0 {
							return
						}
					}
				}
				m.lock.Lock()
				m.committed = began
				m.lock.Unlock()
			})
		cancel()
	}
}

// isWhole says whether the members have all partitions between them and have committed since then.
func isWhole(group []*member, partitions int, since time.Time) bool {
	total := 0
	for _, m := range group {
		m.lock.Lock()
		total += len(m.has)
		late := m.committed.Before(since)
		m.lock.Unlock()
		if late {
			return false
		}
	}
	return total == partitions
}

// write sends at the rate it is told, to any partition of any topic.
func write(rate *atomic.Int64, prefix string, groups int) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ProducerLinger(5*time.Millisecond))
	fail(err)
	value := make([]byte, valueBytes)
	const turn = 20 * time.Millisecond
	for owed := 0.0; ; time.Sleep(turn) {
		for owed += float64(rate.Load()) * turn.Seconds(); owed >= 1; owed-- {
			record := &kgo.Record{Topic: prefix + "-" + strconv.Itoa(rand.IntN(groups)), Value: value}
			cl.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
				if err != nil {
					refused.Add(1)
				} else {
					written.Add(1)
				}
			})
		}
	}
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: load BOOTSTRAP PREFIX GROUPS MEMBERS PARTITIONS")
		os.Exit(2)
	}
	seeds = strings.Split(os.Args[1], ",")
	prefix := os.Args[2]
	var counts [3]int
	for i, text := range os.Args[3:] {
		n, err := strconv.Atoi(text)
		fail(err)
		counts[i] = n
	}
	groups := make([][]*member, counts[0])
	var rate atomic.Int64
	go write(&rate, prefix, len(groups))
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := append(strings.Fields(lines.Text()), "", "")
		n, _ := strconv.Atoi(words[1])
		began := time.Now()
		switch words[0] {
		case "connect":
			var ready sync.WaitGroup
			ready.Add(n)
			for i := range n {
				go hold(i, &ready)
			}
			ready.Wait()
		case "groups":
			for g := range groups {
				name := prefix + "-" + strconv.Itoa(g)
				for range counts[1] {
					m := &member{has: map[int32]bool{}}
					groups[g] = append(groups[g], m)
					go m.run(name, name)
				}
			}
		case "whole":
			for _, group := range groups {
				for !isWhole(group, counts[2], began) {
					time.Sleep(20 * time.Millisecond)
				}
			}
		case "produce":
			rate.Store(int64(n))
		case "report":
			fmt.Printf("written %d refused %d read %d broken %d\n", written.Swap(0), refused.Swap(0), read.Swap(0), broken.Swap(0))
			continue
		default:
			fail(fmt.Errorf("unknown command %q", words[0]))
		}
		fmt.Printf("%s %.2f s\n", words[0], time.Since(began).Seconds())
	}
}
