// Asks the coordinators all the while what their groups have committed and who is in them. (librdkafka 2.16's AdminClient, in its stead, ends with
// a segmentation fault now and then when a coordinator dies.)
//
//	watch BOOTSTRAP TOPIC LOG GROUP...
//
// LOG gets one JSON object a line; a question began at "s" and its answer was there at "at" (microseconds of the system clock):
//
//	{"t":"polled","group":"a","p":0,"o":7,"s":..,"at":..}    committed in partition 0; -1: nothing
//	{"t":"described","group":"a","members":[{"id":"m","partitions":[0,1]}],"s":..,"at":..}
//
// Who does not answer is asked again. Ends when its standard input closes.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	pause = 300 * time.Millisecond
	limit = 10 * time.Second
)

type member struct {
	ID         string  `json:"id"`
	Partitions []int32 `json:"partitions"`
}

type line struct {
	Kind      string    `json:"t"`
	Group     string    `json:"group"`
	Partition *int32    `json:"p,omitempty"`
	Offset    *int64    `json:"o,omitempty"`
	Members   *[]member `json:"members,omitempty"`
	Began     int64     `json:"s"`
	At        int64     `json:"at"`
}

type watcher struct {
	admin *kadm.Client
	topic string
	lock  sync.Mutex
	log   *json.Encoder
}

func (w *watcher) write(l line) {
	w.lock.Lock()
	defer w.lock.Unlock()
	if err := w.log.Encode(l); err != nil {
		fmt.Fprintln(os.Stderr, "log:", err)
		os.Exit(1)
	}
}

func (w *watcher) offsets(ctx context.Context, group string) error {
	began := time.Now().UnixMicro()
	told, err := w.admin.FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	at := time.Now().UnixMicro()
	for p, row := range told[w.topic] {
		if row.Err == nil {
			w.write(line{Kind: "polled", Group: group, Partition: &p, Offset: &row.At, Began: began, At: at})
		}
	}
	return nil
}

func (w *watcher) members(ctx context.Context, group string) error {
	began := time.Now().UnixMicro()
	told, err := w.admin.DescribeGroups(ctx, group)
	if err != nil {
		return err
	}
	if told[group].Err != nil {
		return told[group].Err
	}
	members := []member{}
	for _, m := range told[group].Members {
		has := member{ID: m.MemberID, Partitions: []int32{}}
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			for _, topic := range assigned.Topics {
				has.Partitions = append(has.Partitions, topic.Partitions...)
			}
		}
		members = append(members, has)
	}
	w.write(line{Kind: "described", Group: group, Members: &members, Began: began, At: time.Now().UnixMicro()})
	return nil
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: watch BOOTSTRAP TOPIC LOG GROUP...")
		os.Exit(2)
	}
	log, err := os.Create(os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Args[1], ",")...))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	w := &watcher{admin: kadm.NewClient(client), topic: os.Args[2], log: json.NewEncoder(log)}
	stop := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(stop) }()
	var all sync.WaitGroup
	for _, group := range os.Args[4:] {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				for _, ask := range []func(context.Context, string) error{w.offsets, w.members} {
					ctx, cancel := context.WithTimeout(context.Background(), limit)
					if err := ask(ctx, group); err != nil {
						fmt.Fprintf(os.Stderr, "%s: %v\n", group, err)
					}
					cancel()
				}
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
			}
		}()
	}
	all.Wait()
}
