//! The invariants, checked while a run goes on, by looking at the product's own state and at what leaves a node.
//!
//! The committed log of every group is written down the first time any replica calls an entry committed; from then on every
//! replica, every reader and every acknowledgement must agree with it, for ever (one value per offset, I2; acked is durable, I1).
//! Names in panics are those of the rules: I1 to I15 of the project's list of invariants, Raft's own, F of docs/safety.md.

mod admission;
mod compacted;
pub mod members;
pub mod moves;
mod promises;

use crate::client::FetchedReply;
use crate::marks::Marks;
use crate::node::{Node, Process};
use crate::trace::Trace;
use crate::world::{MS, Time};
use bytes::Bytes;
use kontiki::broker::api::{FetchItem, PartitionError};
use kontiki::ctl::image::Image;
use kontiki::ctl::record::{Batch, Record};
use kontiki::raftlog::core::Role;
use kontiki::segment::fs::sim::SimFs;
use kontiki::segment::{
    Entry, EntryKind, Epoch, Error as StoreError, Generation, GroupId, Index, LogId, ReplicaId, Store,
};
use kontiki::wire::batch::{self, BatchHeader};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The controller group.
pub const CONTROLLER: GroupId = GroupId(0);

/// A node, and one connection of a client to it.
type Link = (usize, (usize, u64));

/// A committed entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    pub id: LogId,
    pub kind: EntryKind,
    pub base: i64,
    pub next: i64,
    /// CRC of the whole payload.
    pub crc: u32,
    /// CRC inside a record batch: what the producer wrote, whatever offset it got.
    pub batch: Option<u32>,
    /// Whether compaction has left it as it was: a producer's batch has a record at every offset.
    pub is_whole: bool,
}

impl Committed {
    /// Whether this is the same entry: the same place, and the same payload unless compaction has taken something of either.
    pub fn agrees(&self, other: &Self) -> bool {
        let place = |e: &Self| (e.id, e.kind, e.base, e.next);
        place(self) == place(other) && (self == other || !self.is_whole || !other.is_whole)
    }
}

/// What is known of a group's committed log.
#[derive(Default)]
pub struct Log {
    pub entries: BTreeMap<u64, Committed>,
    by_offset: BTreeMap<i64, u64>,
    /// Sequence each producer comes to next.
    sequences: BTreeMap<i64, i32>,
    /// Offset and records of every batch of an idempotent producer, by its id and sequence.
    batches: BTreeMap<(i64, i32), (i64, i32)>,
    /// Lowest epoch of a replica that knew an entry to be committed.
    known_in: BTreeMap<u64, Epoch>,
    /// End of what was acknowledged with acks=-1, at what time.
    acked: Vec<(Time, i64)>,
    acked_end: i64,
    leaders: BTreeMap<Epoch, ReplicaId>,
}

impl Log {
    pub fn last(&self) -> Option<&Committed> {
        self.entries.values().next_back()
    }

    /// The entry that holds this offset.
    pub fn at(&self, offset: i64) -> Option<&Committed> {
        let (_, index) = self.by_offset.range(..=offset).next_back()?;
        self.entries.get(index).filter(|e| e.next > offset)
    }
}

/// A replica whose answer leaves its node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answering {
    pub replica: ReplicaId,
    pub generation: Generation,
    /// Its log has not joined that of its generation yet: after a loss it may have to start over.
    pub is_apart: bool,
}

/// What was last seen of a replica in one process.
#[derive(Clone, Copy, Debug)]
struct Seen {
    epoch: Epoch,
    role: Role,
    commit: Index,
    checked: Index,
    last: LogId,
    voters: usize,
}

/// What a replica has told others.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Highest epoch it spoke in.
    epoch: Epoch,
    /// Last entry it said was durable, and the epoch in which it said so.
    accepted: (Epoch, LogId),
}

/// All that is remembered of a run.
pub struct Check {
    pub logs: BTreeMap<GroupId, Log>,
    seen: BTreeMap<(usize, GroupId), (u64, Seen)>,
    told: BTreeMap<(GroupId, ReplicaId), Told>,
    votes: BTreeMap<(GroupId, ReplicaId, Epoch), ReplicaId>,
    attempted: BTreeSet<u32>,
    images: BTreeMap<u64, u64>,
    /// Pieces to come of the snapshot of the controller log that was begun last.
    snapshot_left: u32,
    /// Topic of every group there ever was, and the topics that a committed record deleted.
    topics: BTreeMap<GroupId, Uuid>,
    tombstones: BTreeSet<Uuid>,
    /// Durable ends when storage failed, by node: nothing beyond may be acknowledged by that process.
    failed: BTreeMap<usize, (u64, BTreeMap<GroupId, LogId>)>,
    /// By node and connection: answers of different connections may leave in another order than they were made.
    high_watermarks: BTreeMap<(Link, GroupId), (Answering, i64)>,
    pub acks: u64,
    messages: BTreeMap<GroupId, u64>,
    /// Topics are compacted: what their records are, and how many batches had less in them at the end of the run.
    pub compacts: bool,
    keyed: BTreeMap<GroupId, compacted::Keyed>,
    pub compacted: u64,
    /// Tombstones that were their keys' last records, and were gone at the end of the run.
    pub dropped: u64,
    /// The node that answers has a disk that may not be readable: the committed log may not know yet what it says.
    pub excused: bool,
    /// Acknowledgements of such nodes, to be found in the committed log at the end.
    owed: Vec<(GroupId, i64, u32)>,
    /// Entries of each replica that are not committed yet: a log start may move over them in the turn that commits them.
    tails: BTreeMap<(usize, GroupId), (u64, BTreeMap<u64, Entry>)>,
    /// Seals that were reported, and where the log ended.
    sealed: BTreeMap<(GroupId, ReplicaId, Generation), LogId>,
    generations: BTreeMap<GroupId, members::Generations>,
    repairing: BTreeSet<(usize, u64, GroupId)>,
    in_force: BTreeMap<(usize, GroupId), members::InForce>,
    /// Highest entry that a replica told a leader it holds.
    said: BTreeMap<(GroupId, ReplicaId), Index>,
    /// Likewise what it said is at least written.
    wrote: BTreeMap<(GroupId, ReplicaId), Index>,
    granted_all: BTreeSet<(GroupId, ReplicaId, Epoch)>,
    homes: BTreeMap<(GroupId, ReplicaId), usize>,
    pub moves: moves::Moves,
    aside: Vec<members::Aside>,
    /// The replica that answers.
    pub answering: Answering,
    /// Disk of the node that is looked at: a reader may write an index, and so meet the end of its process.
    disk: SimFs,
    admission: admission::Admission,
    trace: Trace,
}

impl Check {
    pub fn new(trace: Trace) -> Self {
        Self {
            logs: BTreeMap::new(),
            seen: BTreeMap::new(),
            told: BTreeMap::new(),
            votes: BTreeMap::new(),
            attempted: BTreeSet::new(),
            images: BTreeMap::new(),
            snapshot_left: 0,
            topics: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            failed: BTreeMap::new(),
            high_watermarks: BTreeMap::new(),
            acks: 0,
            messages: BTreeMap::new(),
            compacts: false,
            keyed: BTreeMap::new(),
            compacted: 0,
            dropped: 0,
            excused: false,
            owed: Vec::new(),
            tails: BTreeMap::new(),
            sealed: BTreeMap::new(),
            generations: BTreeMap::new(),
            repairing: BTreeSet::new(),
            in_force: BTreeMap::new(),
            said: BTreeMap::new(),
            wrote: BTreeMap::new(),
            granted_all: BTreeSet::new(),
            homes: BTreeMap::new(),
            moves: moves::Moves::default(),
            aside: Vec::new(),
            answering: Answering::default(),
            disk: SimFs::new(0),
            admission: admission::Admission::default(),
            trace,
        }
    }

    /// A client makes a batch. Batches are told apart by their checksums, so one that happens to have another's is made anew, a
    /// millisecond later.
    pub fn attempt(&mut self, now: Time, make: impl Fn(i64) -> Bytes) -> Bytes {
        let mut timestamp = 1_700_000_000_000 + (now / MS) as i64;
        loop {
            let batch = make(timestamp);
            let header = BatchHeader::read(&batch).expect("a batch has its header");
            if self.attempted.insert(header.crc) {
                return batch;
            }
            timestamp += 1;
        }
    }

    /// After a turn: every replica of the process against what was seen of it before and against the committed log.
    pub fn look(&mut self, node: &mut Node, marks: &mut Marks) {
        let (n, damaged) = (node.index, node.damaged || node.starved);
        let Some(p) = &mut node.process else { return };
        let life = p.life;
        self.disk = node.fs.clone();
        let mut groups = p.shard.engine().group_ids();
        groups.sort_unstable();
        for group in &groups {
            self.look_at(n, life, damaged, *group, p, marks);
        }
        self.removed(n, life, &groups, marks);
    }

    fn look_at(
        &mut self,
        n: usize,
        life: u64,
        damaged: bool,
        group: GroupId,
        p: &mut Process,
        marks: &mut Marks,
    ) {
        let engine = p.shard.engine();
        self.look_at_repair(n, life, group, engine, marks);
        assert!(!engine.is_poisoned(group), "a replica of group {group} on node {} fenced itself off", n + 1);
        if engine.has_stood_down(group) {
            // Its core is ahead of what is stored; what clients are shown is checked where they are answered.
            return marks.hit("replica stood down");
        }
        let Some(core) = engine.core(group) else { return };
        let now = Seen {
            epoch: core.epoch(),
            role: core.role(),
            commit: core.commit(),
            checked: Index(0),
            last: core.last(),
            voters: core.configuration().0.voters.len(),
        };
        let replica = core.replica();
        self.bears((n, life), group, core, damaged, marks);
        self.look_at_members(n, group, p.directory, core, marks);
        let before = self.seen.get(&(n, group)).filter(|(l, _)| *l == life).map(|(_, seen)| *seen);
        if before.is_none_or(|b| b.commit < now.commit) {
            self.counted(n, group, core);
        }
        let unclean = core.hard_state().opening.is_some_and(|opening| !opening.lossless);
        let starts_over = now.commit == Index(0)
            && p.shard.engine().store().log_start(group).is_ok_and(|start| start.prev.index == Index(0));
        let lost =
            self.generations.get(&group).is_some_and(|known| known.may_have_lost(now.epoch.generation));
        let may_go_back = (unclean && is_reopened(before, now)) || (lost && starts_over);
        let before = before.map(|b| match may_go_back {
            // What lies above is not known to be committed any more, or not even the log start is the survivor's (F24).
            true if now.commit < b.commit => {
                marks.hit(match is_reopened(before, now) {
                    true => "commit index taken back by an unclean generation",
                    false => "log started over in an unclean generation",
                });
                self.tail_again(n, life, group, now.commit, p);
                Seen { commit: now.commit, checked: b.checked.min(now.commit), ..b }
            }
            _ => b,
        });
        if before.is_none_or(|b| b.last != now.last) {
            self.follow_tail((n, life), group, before.map(|b| b.checked), now.last.index, p, marks);
        }
        if let Some(before) = before {
            assert!(
                now.epoch >= before.epoch,
                "I6: node {} group {group}: epoch went back from {} to {}",
                n + 1,
                before.epoch,
                now.epoch
            );
            // A replica that was away for a whole generation cannot tell what of its log is in the next one.
            assert!(
                now.commit >= before.commit || now.epoch.generation > before.epoch.generation,
                "I6: node {} group {group}: commit went back from {} to {}",
                n + 1,
                before.commit,
                now.commit
            );
            if now.epoch == before.epoch && now.role == Role::Leader && now.voters != before.voters {
                let fewer = now.voters < before.voters;
                marks.hit(if fewer { "group went on with fewer voters" } else { "group took a voter back" });
            }
            if before.role == now.role && before.epoch == now.epoch && before.commit == now.commit {
                if before.last != now.last {
                    self.cut_mark(n, group, before, now, p, marks);
                    let seen = Seen { checked: before.checked, ..now };
                    self.seen.insert((n, group), (life, seen));
                }
                return;
            }
            role_marks(before, now, marks);
            if before.last != now.last {
                self.cut_mark(n, group, before, now, p, marks);
            }
        }
        if now.role == Role::Leader && before.is_none_or(|b| b.role != Role::Leader || b.epoch != now.epoch) {
            self.elected((n, damaged), group, replica, now, p, marks);
        }
        let engine = p.shard.engine();
        let start = engine.store().log_start(group).map_or(Index(0), |s| s.prev.index);
        let mut checked = before.map_or(start, |b| b.checked);
        if now.commit > checked {
            checked = self.compare((n, damaged), group, checked, now.commit, p, marks);
        }
        self.seen.insert((n, group), (life, Seen { checked, ..now }));
    }

    /// A tail that was there is gone: was it cut for another leader's entries?
    fn cut_mark(
        &mut self,
        n: usize,
        group: GroupId,
        before: Seen,
        now: Seen,
        p: &mut Process,
        marks: &mut Marks,
    ) {
        let store = p.shard.engine().store();
        let gone = before.last.index > now.last.index
            || (before.last.epoch != now.last.epoch
                && store.meta_at(group, before.last.index).is_ok_and(|m| m.id != before.last));
        if gone && before.last.index > before.commit {
            marks.hit("uncommitted tail truncated");
            self.trace.note("truncated", n as u64, group.0, || {
                format!("node {} group {group}: {} gone, now {}", n + 1, before.last, now.last)
            });
        }
    }

    /// A new leader: alone in its epoch, and with everything committed (Raft §5.2, §5.4).
    fn elected(
        &mut self,
        (n, damaged): (usize, bool),
        group: GroupId,
        replica: ReplicaId,
        now: Seen,
        p: &mut Process,
        marks: &mut Marks,
    ) {
        self.trace.note("leader", n as u64, group.0, || {
            format!("node {} leads group {group} in {} with last {}", n + 1, now.epoch, now.last)
        });
        self.leads_in(group, replica, now.epoch);
        let log = self.logs.entry(group).or_default();
        let other = *log.leaders.entry(now.epoch).or_insert(replica);
        assert!(
            other == replica,
            "Election safety: group {group} has leaders {other} and {replica} in {}",
            now.epoch
        );
        if log.leaders.len() > 1 {
            marks.hit(if group == CONTROLLER {
                "controller leader changed"
            } else {
                "partition leader changed"
            });
        }
        let store = p.shard.engine().store();
        let start = store.log_start(group).map_or(LogId::default(), |s| s.prev);
        // One elected late lacks what was committed in later epochs than its own (Raft §5.4.3).
        let mut earlier = log.known_in.iter().rev().filter(|(_, epoch)| **epoch < now.epoch);
        let last = earlier.next().and_then(|(index, _)| log.entries.get(index));
        if let Some(last) = last
            && last.id.index > start.index
        {
            // Log matching makes the last one stand for all before it.
            let found = store.meta_at(group, last.id.index).map(|m| m.id);
            // Damage that nobody has read yet: it hands over once it meets it.
            let unreadable = self.disk.is_off()
                || (damaged && matches!(found, Err(StoreError::Damaged(_) | StoreError::Failed(_))));
            assert!(
                found.as_ref().is_ok_and(|id| *id == last.id) || unreadable,
                "Leader completeness: node {} leads group {group} in {} and lacks committed {}: {found:?}, last {}",
                n + 1,
                now.epoch,
                last.id,
                now.last
            );
        }
    }

    /// Entries that a replica calls committed, against the committed log.
    fn compare(
        &mut self,
        (n, damaged): (usize, bool),
        group: GroupId,
        after: Index,
        commit: Index,
        p: &mut Process,
        marks: &mut Marks,
    ) -> Index {
        let tail = self.tails.get_mut(&(n, group)).map(|(_, tail)| std::mem::take(tail)).unwrap_or_default();
        let start = p.shard.engine().store().log_start(group).map_or(Index(0), |s| s.prev.index);
        let epoch = p.shard.engine().core(group).map_or(Epoch::default(), |core| core.epoch());
        let mut checked = after;
        while checked < commit {
            if let Some(entry) = tail.get(&checked.next().0) {
                self.committed(n, group, epoch, entry, marks);
                checked = checked.next();
                continue;
            }
            if checked < start {
                // Installed, or recovered: this replica never showed what lies before.
                checked = start;
                continue;
            }
            let read = p.shard.engine().store().read(group, checked.next(), 1 << 20);
            let entries = match read {
                Ok(entries) if !entries.is_empty() => entries,
                other => {
                    let failed = self.disk.is_off() || p.shard.engine().store_ref().failure().is_some();
                    let end = p.shard.engine().core(group).map(|c| (c.last(), c.durable()));
                    assert!(
                        damaged || failed,
                        "node {} cannot read group {group} after {checked} of {commit}, end {end:?}: {other:?}",
                        n + 1
                    );
                    return checked;
                }
            };
            for entry in entries.into_iter().take_while(|e| e.meta.id.index <= commit) {
                self.committed(n, group, epoch, &entry, marks);
                checked = entry.meta.id.index;
            }
        }
        if let Some((_, kept)) = self.tails.get_mut(&(n, group)) {
            *kept = tail.into_iter().filter(|(index, _)| *index > commit.0).collect();
        }
        checked
    }

    /// Remembers what a replica appended since it was last looked at.
    fn follow_tail(
        &mut self,
        (n, life): (usize, u64),
        group: GroupId,
        checked: Option<Index>,
        last: Index,
        p: &mut Process,
        marks: &mut Marks,
    ) {
        let store = p.shard.engine().store();
        let start_id = store.log_start(group).map_or(LogId::default(), |s| s.prev);
        let start = start_id.index;
        let (of, tail) = self.tails.entry((n, group)).or_default();
        if *of != life {
            (*of, *tail) = (life, BTreeMap::new());
        }
        let end = tail.values().next_back().map(|e| e.meta.id);
        // A log start that moved keeps what was there (it names its last entry); one that was installed replaces it.
        let goes_on = end.is_some_and(|id| {
            let same = |meta: kontiki::segment::EntryMeta| meta.id == id;
            if id.index <= start { id == start_id } else { store.meta_at(group, id.index).is_ok_and(same) }
        });
        let mut cut = Vec::new();
        if !goes_on {
            if tail.values().any(|e| e.meta.id.index <= start) {
                marks.hit("log start installed over an uncommitted tail");
            }
            let gone = std::mem::take(tail).into_values();
            let is_cut = |e: &Entry| {
                let id = e.meta.id;
                id.index > start && store.meta_at(group, id.index).map_or(true, |meta| meta.id != id)
            };
            cut = gone.filter(is_cut).collect();
        }
        let known = if goes_on { end.map_or(start, |id| id.index) } else { checked.unwrap_or(start) };
        let mut next = known.max(start).next();
        while next <= last {
            let Ok(entries) = store.read(group, next, 1 << 20) else { break };
            let Some(end) = entries.last().map(|e| e.meta.id.index) else { break };
            tail.extend(entries.into_iter().map(|e| (e.meta.id.index.0, e)));
            next = end.next();
        }
        if !cut.is_empty()
            && let Some(core) = p.shard.engine().core(group)
        {
            self.note_cut((n, p.directory), group, (core.replica(), core.epoch()), cut, marks);
        }
    }

    fn committed(&mut self, n: usize, group: GroupId, epoch: Epoch, entry: &Entry, marks: &mut Marks) {
        if self.is_lost(group, epoch.generation, entry) {
            return;
        }
        let seen = describe(entry);
        let log = self.logs.entry(group).or_default();
        let index = entry.meta.id.index.0;
        log.known_in.entry(index).and_modify(|known| *known = (*known).min(epoch)).or_insert(epoch);
        if let Some(known) = log.entries.get(&index) {
            assert!(
                known.agrees(&seen),
                "I2: group {group} has two committed entries at {index}: {known:?}, and on node {} {seen:?}",
                n + 1
            );
            return;
        }
        self.belongs(n, group, entry, marks);
        let log = self.logs.entry(group).or_default();
        if let Some(before) = log.entries.get(&(index - 1)) {
            assert!(
                before.next == seen.base,
                "offsets of group {group} have a gap at entry {index}: {seen:?}"
            );
            assert!(before.id.epoch <= seen.id.epoch, "epochs of group {group} go back at entry {index}");
        }
        if seen.next > seen.base {
            log.by_offset.insert(seen.base, index);
        }
        if entry.meta.kind == EntryKind::Records && seen.is_whole {
            let header = BatchHeader::read(&entry.payload).expect("a committed batch has its header");
            assert!(batch::crc_ok(&entry.payload), "I10: group {group} committed a damaged batch at {index}");
            assert!(
                header.base_offset == seen.base,
                "a batch names another base offset than its entry: {header:?}"
            );
            assert!(
                self.attempted.contains(&header.crc),
                "I3: group {group} holds a batch nobody made: {header:?}"
            );
            if header.producer_id >= 0 {
                let place = (seen.base, header.record_count);
                let other = log.batches.insert((header.producer_id, header.base_sequence), place);
                if let Some((other, _)) = other {
                    panic!("I5: a batch stands in group {group} at {other} and at {}: {header:?}", seen.base);
                }
                let next = log.sequences.entry(header.producer_id).or_insert(0);
                assert!(
                    header.base_sequence == *next,
                    "I4: group {group} holds sequence {} of producer {} where {next} was next",
                    header.base_sequence,
                    header.producer_id
                );
                *next += header.record_count;
            }
        }
        if entry.meta.kind == EntryKind::LogStart {
            marks.hit("log start moved");
        }
        let is_batch = entry.meta.kind == EntryKind::Records && seen.is_whole;
        log.entries.insert(index, seen);
        if is_batch {
            self.note_keyed(group, entry);
        }
        if group == CONTROLLER && matches!(entry.meta.kind, EntryKind::Metadata | EntryKind::Snapshot) {
            if entry.meta.kind == EntryKind::Snapshot {
                marks.hit("controller snapshot written");
            }
            self.metadata(entry, marks);
        }
    }

    /// Tombstones, from the committed controller log alone.
    fn metadata(&mut self, entry: &Entry, marks: &mut Marks) {
        let batch = Batch::decode(&entry.payload).expect("a committed controller entry is readable");
        if let [Record::Snapshot(piece)] = &batch.records[..] {
            if piece.piece == 0 && self.snapshot_left > 0 {
                marks.hit("controller snapshot left half written");
            }
            self.snapshot_left = piece.of - piece.piece - 1;
        }
        let text = format!("{batch:?}");
        self.trace.note("metadata", entry.meta.id.index.0, 0, || text.chars().take(300).collect());
        self.follow_moves(entry, &batch);
        for record in batch.records {
            if let Record::DeleteTopic { id } = record {
                self.tombstones.insert(id);
            }
        }
    }

    /// Whether the group's topic has its tombstone.
    pub fn is_deleted(&self, group: GroupId) -> bool {
        self.topics.get(&group).is_some_and(|topic| self.tombstones.contains(topic))
    }

    /// Metadata is a function of the controller log: the same on every node.
    pub fn image(&mut self, image: &Image) {
        let text = format!("{image:?}");
        let hash = u64::from(crc32fast::hash(text.as_bytes()));
        let known = *self.images.entry(image.applied).or_insert(hash);
        assert!(known == hash, "two nodes have different metadata at entry {}: {text}", image.applied);
        self.trace.note("image", image.applied, hash, || format!("{} groups", image.groups.len()));
        self.topics.extend(image.groups.iter().map(|(group, (topic, _))| (*group, *topic)));
    }

    /// Replicas that are no longer there: only a tombstone may have done that (I13).
    fn removed(&mut self, n: usize, life: u64, groups: &[GroupId], marks: &mut Marks) {
        let had: Vec<GroupId> = self
            .seen
            .range((n, GroupId(0))..(n + 1, GroupId(0)))
            .filter(|(_, (l, _))| *l == life)
            .map(|((_, g), _)| *g)
            .collect();
        for group in had {
            if groups.binary_search(&group).is_err() {
                assert!(
                    self.has_let_go(n, group, marks) || self.is_deleted(group),
                    "I13: node {} deleted its replica of group {group} without a tombstone",
                    n + 1
                );
                self.seen.remove(&(n, group));
            }
        }
    }

    /// A produce was answered.
    pub fn acked(
        &mut self,
        group: GroupId,
        offset: i64,
        bytes: &Bytes,
        acks: i16,
        marks: &mut Marks,
    ) -> bool {
        let header = BatchHeader::read(bytes).expect("a batch has its header");
        let Some(log) = self.logs.get_mut(&group) else {
            assert!(acks != -1, "I1: group {group} acknowledged {offset} before anything was committed");
            return false;
        };
        if acks != -1 {
            return false;
        }
        self.acks += 1;
        let found = log.at(offset);
        let holds = found.is_some_and(|e| e.base == offset && e.batch == Some(header.crc));
        if !holds && found.is_none() && self.excused {
            // A leader whose disk cannot be read: what it committed is seen on the others.
            self.owed.push((group, offset, header.crc));
            return false;
        }
        assert!(
            holds,
            "I1: group {group} acknowledged {header:?} at {offset}, where the committed log has {found:?}"
        );
        if offset < log.acked_end {
            marks.hit("duplicate answered with its first offset");
            return false;
        }
        log.acked_end = offset + i64::from(header.record_count);
        let end = log.acked_end;
        log.acked.push((self.trace.time(), end));
        true
    }

    /// A fetch was answered.
    pub fn fetched(&mut self, n: usize, link: (usize, u64), item: &FetchItem, fetched: &FetchedReply) {
        let group = item.group;
        let Answering { replica, generation, .. } = self.answering;
        let end = self.end_for(group, generation);
        let losses = self.losses(group) > 0;
        if let Some(PartitionError::OutOfRange { start, .. }) = &fetched.error {
            // A reader may stand beyond the end only where an unclean generation has taken something from before it.
            assert!(
                item.offset < *start || losses,
                "F17: offset {} of group {group} is called out of range, end {end}",
                item.offset
            );
        }
        assert!(
            fetched.diverging.is_none() || losses,
            "I7: a reader of committed records of group {group} is told to go back: {:?}",
            fetched.diverging
        );
        if fetched.error.is_none() && fetched.high_watermark >= 0 {
            let known = self.generations.entry(group).or_default();
            let now = (self.answering, fetched.high_watermark);
            let before = self.high_watermarks.insert(((n, link), group), now);
            let apart = self.answering.is_apart;
            let goes_on = |of: &Answering| {
                let apart = (of.is_apart || apart) && known.may_have_lost(generation);
                let same = of.replica == replica && !apart;
                same && known.is_lossless(of.generation, generation)
            };
            assert!(
                before.is_none_or(|(of, high)| high <= now.1 || !goes_on(&of)),
                "I6: node {} high watermark of group {group} went back from {before:?} to {now:?}",
                n + 1
            );
            let beyond = fetched.log_start > end && !self.excused;
            assert!(!beyond, "F23: node {} log start of group {group} is beyond what is committed", n + 1);
            assert!(
                self.excused || fetched.high_watermark <= end,
                "I7: node {} high watermark {} is beyond {end}",
                n + 1,
                fetched.high_watermark
            );
        }
        for batch in &fetched.batches {
            let header = BatchHeader::read(batch).expect("a fetched batch has its header");
            assert!(
                batch::crc_ok(batch),
                "I10: a damaged batch of group {group} left node {}: {header:?}",
                n + 1
            );
            let shown = self.shown(group, generation, header.base_offset, crc32fast::hash(batch));
            let compacted = self.is_compaction(group, &header, batch);
            let known = self.logs.entry(group).or_default().at(header.base_offset);
            let same = (self.excused && known.is_none()) || shown || compacted;
            assert!(same, "I7: node {} served {header:?} of group {group}, committed is {known:?}", n + 1);
        }
    }

    /// DeleteRecords was answered: the log start is never beyond the committed end.
    pub fn deleted(&mut self, group: GroupId, start: i64) {
        let end = self.logs.entry(group).or_default().last().map_or(0, |e| e.next);
        let beyond = start > end && !self.excused;
        assert!(!beyond, "F23: the log start of group {group} is said to be {start}, committed end is {end}");
    }

    /// The end was asked for at `asked` and answered: nothing acknowledged before may be beyond it.
    pub fn latest(&mut self, group: GroupId, asked: Time, offset: i64) {
        let log = self.logs.entry(group).or_default();
        let before = log.acked.partition_point(|(at, _)| *at <= asked);
        let acked = log.acked[..before].last().map_or(0, |(_, end)| *end);
        assert!(
            offset >= acked,
            "F17: the end of group {group} is said to be {offset}, {acked} was acknowledged before"
        );
        let end = log.last().map_or(0, |e| e.next);
        assert!(
            self.excused || offset <= end,
            "I7: the end of group {group} is said to be {offset}, committed is {end}"
        );
    }

    /// Requests between replicas of a group so far.
    pub fn messages(&self, group: GroupId) -> u64 {
        self.messages.get(&group).copied().unwrap_or(0)
    }

    /// What was acknowledged while nobody could look is there.
    pub fn settle_owed(&self) {
        for (group, offset, crc) in &self.owed {
            let found = self.logs.get(group).and_then(|log| log.at(*offset));
            let holds = found.is_some_and(|e| e.base == *offset && e.batch == Some(*crc));
            assert!(holds, "I1: group {group} acknowledged {offset}, where the committed log has {found:?}");
        }
    }

    /// A replica's whole log against the committed one: the same bytes at every index both have, and nothing missing.
    pub fn compare_all(&mut self, n: usize, group: GroupId, limit: Option<Index>, store: &mut Store) {
        let Ok((last, _)) = store.last(group) else { return };
        let start = store.log_start(group).map_or(Index(0), |s| s.prev.index);
        let log = self.logs.entry(group).or_default();
        if let Some(end) = log.last() {
            assert!(
                limit.is_some() || last.index >= end.id.index,
                "I15: node {} group {group} ends at {last} before {}",
                n + 1,
                end.id
            );
        }
        let mut next = start.next();
        let end = limit.unwrap_or(last.index);
        while next <= end {
            let entries = match store.read(group, next, 1 << 20) {
                Ok(entries) if !entries.is_empty() => entries,
                other => {
                    assert!(limit.is_some(), "node {} cannot read group {group} at {next}: {other:?}", n + 1);
                    return;
                }
            };
            for entry in entries {
                next = entry.meta.id.index.next();
                if entry.meta.id.index > end {
                    return;
                }
                let seen = describe(&entry);
                if let Some(known) = log.entries.get(&entry.meta.id.index.0) {
                    assert!(
                        known.agrees(&seen),
                        "I2: node {} group {group} holds {seen:?}, committed is {known:?}",
                        n + 1
                    );
                }
            }
        }
    }
}

/// What is remembered of an entry.
pub fn describe(entry: &Entry) -> Committed {
    let header = (entry.meta.kind == EntryKind::Records).then(|| BatchHeader::read(&entry.payload)).flatten();
    let is_whole = match entry.meta.kind {
        // One with a delete horizon has other bytes, whatever is left of it.
        EntryKind::Records => header.is_some_and(|h| {
            h.record_count as u32 == entry.meta.offset_span && h.delete_horizon_ms().is_none()
        }),
        _ => true,
    };
    Committed {
        id: entry.meta.id,
        kind: entry.meta.kind,
        base: entry.meta.base_offset.0,
        next: entry.meta.next_offset().0,
        crc: crc32fast::hash(&entry.payload),
        batch: header.map(|h| h.crc),
        is_whole,
    }
}

fn is_reopened(before: Option<Seen>, now: Seen) -> bool {
    before.is_some_and(|b| b.epoch.generation < now.epoch.generation)
}

fn role_marks(before: Seen, now: Seen, marks: &mut Marks) {
    if now.epoch.generation > before.epoch.generation && now.role == Role::Leader {
        marks.hit("group went on in a new generation");
    }
    match (before.role, now.role) {
        (Role::Candidate, Role::Follower | Role::PreCandidate) => marks.hit("election lost"),
        (Role::Leader, Role::Follower) if before.epoch == now.epoch => {
            marks.hit("leader stepped down by itself")
        }
        (Role::Leader, Role::Follower) => marks.hit("leader deposed"),
        (Role::PreCandidate, Role::Follower) => marks.hit("pre-vote given up"),
        _ => {}
    }
}
