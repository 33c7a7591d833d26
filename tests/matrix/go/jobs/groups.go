package jobs

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// State is what a member was told of its partitions.
type State struct {
	mutex   sync.Mutex
	held    map[int32]bool
	revoked map[int32]bool
	changes int
}

// Assign adds partitions.
func (s *State) Assign(partitions ...int32) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.held == nil {
		s.held, s.revoked = map[int32]bool{}, map[int32]bool{}
	}
	for _, p := range partitions {
		s.held[p] = true
	}
	s.changes++
}

// Revoke takes partitions away.
func (s *State) Revoke(partitions ...int32) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, p := range partitions {
		delete(s.held, p)
		if s.revoked != nil {
			s.revoked[p] = true
		}
	}
	s.changes++
}

// Held partitions, sorted.
func (s *State) Held() []int32 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Sorted(maps.Keys(s.held))
}

// WasRevoked says whether a partition was ever taken away.
func (s *State) WasRevoked(partition int32) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.revoked[partition]
}

// Changes is how often it was told anything.
func (s *State) Changes() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.changes
}

type next interface {
	Next(ctx context.Context) (Record, error)
}

type result struct {
	record Record
	err    error
}

// collect reads on in the background, until the context or the source ends.
func collect(ctx context.Context, source next) <-chan result {
	results := make(chan result)
	go func() {
		for {
			record, err := source.Next(ctx)
			select {
			case results <- result{record, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return results
}

// player is a member that reads in the background and remembers what.
type player struct {
	Member
	name  string
	mutex sync.Mutex
	reads []Record
	err   error
	done  chan struct{}
	stop  context.CancelFunc
}

func (r run) play(ctx context.Context, name string, options MemberOptions) (*player, error) {
	options.Group = r.group
	options.Heartbeat = 500 * time.Millisecond
	member, err := r.client.Join(ctx, r.topic, options)
	if err != nil {
		return nil, err
	}
	reading, stop := context.WithCancel(ctx)
	p := &player{Member: member, name: name, done: make(chan struct{}), stop: stop}
	go func() {
		defer close(p.done)
		for {
			record, err := member.Next(reading)
			p.mutex.Lock()
			if err != nil {
				p.err = err
				p.mutex.Unlock()
				return
			}
			p.reads = append(p.reads, record)
			p.mutex.Unlock()
		}
	}()
	return p, nil
}

// end stops reading and closes the member.
func (p *player) end() {
	p.stop()
	<-p.done
	p.Close()
}

func (p *player) records() ([]Record, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return slices.Clone(p.reads), p.err
}

// await polls a condition until the job's time is over.
func await(ctx context.Context, what string, condition func() (bool, error)) error {
	for {
		done, err := condition()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within the job's time", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shared waits until the players hold all partitions, each once, and each player as many as it should.
func (r run) shared(ctx context.Context, players ...*player) error {
	var held []string
	err := await(ctx, "sharing the partitions", func() (bool, error) {
		held = held[:0]
		all := []int32{}
		even := true
		for _, p := range players {
			if _, err := p.records(); err != nil {
				return false, fmt.Errorf("%s: %w", p.name, err)
			}
			mine := p.State().Held()
			held = append(held, fmt.Sprint(p.name, " ", mine))
			all = append(all, mine...)
			even = even && len(mine) == r.partitions/len(players)
		}
		slices.Sort(all)
		return even && len(slices.Compact(all)) == r.partitions, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %v", err, held)
	}
	return nil
}

// whole waits until the players have read the records from..to, each once.
func (r run) whole(ctx context.Context, from, to int, players ...*player) error {
	missing := 0
	err := await(ctx, "reading", func() (bool, error) {
		seen := map[int]string{}
		for _, p := range players {
			records, err := p.records()
			if err != nil {
				return false, fmt.Errorf("%s: %w", p.name, err)
			}
			for _, record := range records {
				i, err := r.number(record.Value)
				if err != nil {
					return false, err
				}
				if other, twice := seen[i]; twice {
					return false, fmt.Errorf("record %d was read by %s and by %s", i, other, p.name)
				}
				seen[i] = p.name
			}
		}
		missing = to - from
		for i := from; i < to; i++ {
			if seen[i] != "" {
				missing--
			}
		}
		return missing == 0, nil
	})
	if err != nil && missing > 0 {
		return fmt.Errorf("%w: %d of %d records missing", err, missing, to-from)
	}
	return err
}

// sharedGroup: two members share, one leaves, the other gets all; every record is read once.
func (r run) sharedGroup(ctx context.Context) error {
	a, err := r.play(ctx, "a", MemberOptions{})
	if err != nil {
		return err
	}
	defer a.end()
	if err := r.shared(ctx, a); err != nil {
		return err
	}
	b, err := r.play(ctx, "b", MemberOptions{})
	if err != nil {
		return err
	}
	if err := r.shared(ctx, a, b); err != nil {
		return err
	}
	half := r.n / 2
	if err := r.client.Produce(ctx, r.topic, "none", false, r.records(0, half)); err != nil {
		return err
	}
	if err := r.whole(ctx, 0, half, a, b); err != nil {
		return err
	}
	for _, p := range []*player{a, b} {
		if records, _ := p.records(); len(records) == 0 {
			return fmt.Errorf("%s read nothing", p.name)
		}
		if _, err := p.Commit(ctx); err != nil {
			return fmt.Errorf("commit of %s: %w", p.name, err)
		}
	}
	gone := &player{name: "b"}
	b.end()
	gone.reads, _ = b.records()
	if err := r.shared(ctx, a); err != nil {
		return err
	}
	if err := r.client.Produce(ctx, r.topic, "none", false, r.records(half, r.n)); err != nil {
		return err
	}
	return r.whole(ctx, 0, r.n, a, gone)
}

// static: a member with an instance id stops and comes back; it has the same partitions, and the other one was told nothing.
func (r run) static(ctx context.Context) error {
	a, err := r.play(ctx, "a", MemberOptions{Instance: "a"})
	if err != nil {
		return err
	}
	defer a.end()
	b, err := r.play(ctx, "b", MemberOptions{Instance: "b"})
	if err != nil {
		return err
	}
	if err := r.shared(ctx, a, b); err != nil {
		return err
	}
	changes, generation, held := a.State().Changes(), a.Generation(), b.State().Held()
	b.end()
	again, err := r.play(ctx, "b again", MemberOptions{Instance: "b"})
	if err != nil {
		return err
	}
	defer again.end()
	if err := r.shared(ctx, a, again); err != nil {
		return err
	}
	if got := again.State().Held(); !slices.Equal(got, held) {
		return fmt.Errorf("b had the partitions %v and came back to %v", held, got)
	}
	if err := r.client.Produce(ctx, r.topic, "none", false, r.records(0, r.n)); err != nil {
		return err
	}
	if err := r.whole(ctx, 0, r.n, a, again); err != nil {
		return err
	}
	if a.State().Changes() != changes || a.Generation() != generation {
		return fmt.Errorf("a saw a rebalance: generation %d, then %d", generation, a.Generation())
	}
	return nil
}

// cooperative: a second member joins while the first reads; what the first keeps is never taken from it, and it reads on
// while the group rebalances.
func (r run) cooperative(ctx context.Context) error {
	a, err := r.play(ctx, "a", MemberOptions{Cooperative: true})
	if err != nil {
		return err
	}
	defer a.end()
	if err := r.shared(ctx, a); err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	wrote := make(chan result)
	written := 0
	go func() {
		var err error
		for err == nil && writing.Err() == nil {
			if err = r.client.Produce(ctx, r.topic, "none", false, r.records(written, written+50)); err == nil {
				written += 50
				time.Sleep(50 * time.Millisecond)
			}
		}
		wrote <- result{err: err}
	}()
	defer stop()
	if err := await(ctx, "reading", func() (bool, error) { reads, err := a.records(); return len(reads) > 0, err }); err != nil {
		return err
	}
	before, _ := a.records()
	b, err := r.play(ctx, "b", MemberOptions{Cooperative: true})
	if err != nil {
		return err
	}
	defer b.end()
	if err := await(ctx, "b's partitions", func() (bool, error) { return len(b.State().Held()) > 0, nil }); err != nil {
		return err
	}
	during, _ := a.records()
	if err := r.shared(ctx, a, b); err != nil {
		return err
	}
	stop()
	if ended := <-wrote; ended.err != nil {
		return ended.err
	}
	kept := a.State().Held()
	for _, p := range kept {
		if a.State().WasRevoked(p) {
			return fmt.Errorf("a keeps partition %d, but it was taken away meanwhile", p)
		}
	}
	if !slices.ContainsFunc(during[len(before):], func(record Record) bool { return slices.Contains(kept, record.Partition) }) {
		return fmt.Errorf("a read nothing of %v while b joined", kept)
	}
	if err := r.kept(ctx, written, a, b); err != nil {
		return err
	}
	for _, p := range []*player{a, b} {
		if _, err := p.Commit(ctx); err != nil {
			return fmt.Errorf("commit of %s: %w", p.name, err)
		}
	}
	return nil
}

// kept waits until everything was read; of partitions that moved, without a commit, both may have read it.
func (r run) kept(ctx context.Context, written int, a, b *player) error {
	return await(ctx, "reading what was written meanwhile", func() (bool, error) {
		seen := map[int]bool{}
		for _, p := range []*player{a, b} {
			records, err := p.records()
			if err != nil {
				return false, fmt.Errorf("%s: %w", p.name, err)
			}
			for _, record := range records {
				if i, err := r.number(record.Value); err == nil {
					seen[i] = true
				}
			}
		}
		return len(seen) == written, nil
	})
}

// commitResume: half is read and committed; a new member gets exactly the other half.
func (r run) commitResume(ctx context.Context) error {
	if err := r.client.Produce(ctx, r.topic, "none", false, r.records(0, r.n)); err != nil {
		return err
	}
	seen := map[int]bool{}
	for _, until := range []int{r.n / 2, r.n} {
		member, err := r.client.Join(ctx, r.topic, MemberOptions{Group: r.group, Heartbeat: 500 * time.Millisecond})
		if err != nil {
			return err
		}
		for len(seen) < until {
			record, err := member.Next(ctx)
			if err != nil {
				return fmt.Errorf("after %d records: %w", len(seen), err)
			}
			i, err := r.number(record.Value)
			if err != nil {
				return err
			}
			if seen[i] {
				return fmt.Errorf("record %d was read before the commit and again", i)
			}
			seen[i] = true
		}
		if _, err := member.Commit(ctx); err != nil {
			return fmt.Errorf("commit at %d: %w", until, err)
		}
		member.Close()
	}
	return nil
}

// coordinatorKilled reads while the driver kills the coordinator; in the end everything that was read must be committed.
func (r run) coordinatorKilled(ctx context.Context) error {
	member, err := r.client.Join(ctx, r.topic, MemberOptions{Group: r.group, Heartbeat: 500 * time.Millisecond})
	if err != nil {
		return err
	}
	defer member.Close()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	read := collect(reading, member)
	seen, ends, committed := map[string]bool{}, map[int32]int64{}, map[int32]int64{}
	ready := false
	every := time.NewTicker(200 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d records, read up to %v, committed %v", len(seen), r.n, ends, committed)
		case got := <-read:
			if got.err != nil {
				return fmt.Errorf("after %d of %d records: %w", len(seen), r.n, got.err)
			}
			seen[string(got.record.Value)] = true
			ends[got.record.Partition] = max(ends[got.record.Partition], got.record.Offset+1)
		case <-every.C:
			// May fail while the coordinator moves; and after a rebalance it is less again, until that was read again.
			now, err := member.Commit(ctx)
			if err != nil {
				fmt.Fprintln(os.Stderr, "commit:", err)
				continue
			}
			maps.Copy(committed, now)
			if !ready && len(seen) > 0 {
				ready = true
				fmt.Println("ready")
			}
			if len(seen) >= r.n && maps.Equal(committed, ends) {
				return nil
			}
		}
	}
}

// admin does everything the contract names to a topic of its own, and describes a group that it is in.
func (r run) admin(ctx context.Context) error {
	admin, err := r.client.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.Create(ctx, r.topic, r.partitions, map[string]string{"retention.ms": "3600000"}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := r.hasPartitions(ctx, admin, r.partitions); err != nil {
		return err
	}
	if err := r.hasConfig(ctx, admin, "3600000"); err != nil {
		return err
	}
	if topics, err := admin.Topics(ctx); err != nil || !slices.Contains(topics, r.topic) {
		return fmt.Errorf("list topics: %v %w", topics, err)
	}
	if err := admin.Alter(ctx, r.topic, "retention.ms", "7200000"); err != nil {
		return fmt.Errorf("alter: %w", err)
	}
	if err := r.hasConfig(ctx, admin, "7200000"); err != nil {
		return err
	}
	if err := admin.Grow(ctx, r.topic, r.partitions+2); err != nil {
		return fmt.Errorf("create partitions: %w", err)
	}
	if err := r.hasPartitions(ctx, admin, r.partitions+2); err != nil {
		return err
	}
	if err := r.adminOfGroup(ctx, admin); err != nil {
		return err
	}
	if err := admin.Delete(ctx, r.topic); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return await(ctx, "the topic goes", func() (bool, error) {
		topics, err := admin.Topics(ctx)
		return !slices.Contains(topics, r.topic), err
	})
}

func (r run) hasPartitions(ctx context.Context, admin Admin, want int) error {
	return await(ctx, fmt.Sprintf("a topic of %d partitions", want), func() (bool, error) {
		got, err := admin.Partitions(ctx, r.topic)
		return got == want, err
	})
}

func (r run) hasConfig(ctx context.Context, admin Admin, want string) error {
	return await(ctx, "retention.ms="+want, func() (bool, error) {
		got, err := admin.Config(ctx, r.topic, "retention.ms")
		return got == want, err
	})
}

func (r run) adminOfGroup(ctx context.Context, admin Admin) error {
	member, err := r.play(ctx, "member", MemberOptions{})
	if err != nil {
		return err
	}
	defer member.end()
	if err := await(ctx, "a member", func() (bool, error) { return len(member.State().Held()) > 0, nil }); err != nil {
		return err
	}
	if groups, err := admin.Groups(ctx); err != nil || !slices.Contains(groups, r.group) {
		return fmt.Errorf("list groups: %v %w", groups, err)
	}
	return await(ctx, "a stable group of one", func() (bool, error) {
		state, members, err := admin.Group(ctx, r.group)
		return state == "Stable" && members == 1, err
	})
}
