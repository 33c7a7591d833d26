//! One replica of one Kafka partition: what the Raft log means to clients.
//!
//! Keeps the high watermark, the log start, the producer state and everyone who waits for a commit. A plain state machine
//! fed by `broker::shard` in log order; it owns no storage and reads no clock.
//! Invariants: within a generation, and into a lossless one, the high watermark never goes back; it always stands at a batch
//! boundary; a waiter is answered exactly once.

pub mod producer_state;

use super::api::{PartitionError, Produced};
use crate::ctl::command::TopicConfig;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Millis, Role};
use crate::segment::{
    Entry, EntryKind, EntryMeta, Epoch, GroupId, Index, LogStart, NodeId, Offset, RecoveredGroup, ReplicaId,
    Result as StoreResult, Store,
};
use crate::wire::batch::BatchHeader;
use producer_state::ProducerState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::sync::oneshot;

/// Bytes read per step while the producer state is rebuilt.
const REPLAY_BYTES: usize = 4 << 20;
/// A new producer snapshot is stored after this much log, so that a restart replays at most that.
pub const SNAPSHOT_BYTES: u64 = 64 << 20;

/// Producers forgotten by one control entry.
const FORGOTTEN: usize = 1_000;

/// How long the batches behind a refused one are sent back rather than called out of order, and of how many producers.
const SENT_BACK_MS: Millis = 5_000;
const SENT_BACK: usize = 10_000;
/// How long after it began to lead a leader takes a gap for batches that are still unanswered at the one before: a client may wait that
/// long for an answer of a leader that is frozen or cut off, and sends what comes next here meanwhile (librdkafka's socket.timeout.ms).
const MOVED_MS: Millis = 60_000;

#[derive(Clone, Copy, Debug)]
struct SentBack {
    epoch: i16,
    sequence: i32,
    until: Millis,
}

/// Where the answer of a produced batch goes.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The pending request.
    pub request: u64,
    /// Its item.
    pub item: usize,
}

/// A produced batch that waits.
#[derive(Debug)]
struct Waiter {
    index: Index,
    ticket: Ticket,
    produced: Produced,
    /// Voters that must hold it durably besides the commit (safety.md F15); 0: the leader's own sync is enough.
    min_insync: usize,
}

/// A DeleteRecords that waits for its control entry.
struct DeleteWaiter {
    index: Index,
    deadline: Millis,
    reply: oneshot::Sender<Result<i64, PartitionError>>,
}

/// An answered item.
pub type Done = (Ticket, Result<Produced, PartitionError>);

/// The replica.
pub struct Partition {
    /// Its group.
    pub group: GroupId,
    /// Its identity.
    pub replica: ReplicaId,
    /// Effective topic configuration.
    pub config: TopicConfig,
    /// Raft role.
    pub role: Role,
    /// Raft epoch.
    pub epoch: Epoch,
    /// Known leader.
    pub leader: Option<ReplicaId>,
    /// Commit index.
    pub commit: Index,
    /// Offset after the last committed record.
    pub high_watermark: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// First offset consumers may read.
    pub start: Offset,
    /// In-sync replicas as the leader sees them, itself included.
    pub in_sync: Vec<NodeId>,
    /// Long polls to look at when the high watermark moves.
    pub fetch_waiters: BTreeSet<u64>,
    /// Fenced off or damaged: serves nothing.
    pub out_of_service: Option<String>,
    /// As leader: the producers' state is of a log that is lost, and could not be made, or stored, anew. Nothing is written until it was.
    pub unsettled: Option<String>,
    /// Bytes appended since the last producer snapshot.
    pub since_snapshot: u64,
    producers: ProducerState,
    uncommitted: VecDeque<(Index, Offset)>,
    starts: VecDeque<(Index, Offset)>,
    commit_waiters: VecDeque<Waiter>,
    stored_waiters: VecDeque<Waiter>,
    delete_waiters: Vec<DeleteWaiter>,
    /// Producers whose batch was refused for a reason that passes: which one, and until when the ones behind it are sent back too.
    sent_back: BTreeMap<i64, SentBack>,
    /// When the present leadership of this replica began.
    led_since: Millis,
    /// Epoch and last entry when producers were last looked through for expiry.
    checked: (Epoch, Index),
}

impl Partition {
    /// A brand-new, empty replica.
    pub fn new(group: GroupId, replica: ReplicaId, config: TopicConfig) -> Self {
        Self {
            group,
            replica,
            config,
            role: Role::Follower,
            epoch: Epoch::default(),
            leader: None,
            commit: Index(0),
            high_watermark: Offset(0),
            end: Offset(0),
            start: Offset(0),
            in_sync: vec![replica.node],
            fetch_waiters: BTreeSet::new(),
            out_of_service: None,
            unsettled: None,
            since_snapshot: 0,
            producers: ProducerState::default(),
            uncommitted: VecDeque::new(),
            starts: VecDeque::new(),
            commit_waiters: VecDeque::new(),
            stored_waiters: VecDeque::new(),
            delete_waiters: Vec::new(),
            sent_back: BTreeMap::new(),
            led_since: 0,
            checked: (Epoch::default(), Index(0)),
        }
    }

    /// Rebuilds a replica from what recovery found: producer state from its snapshot, and from the log after it, which is to be
    /// read from the given index on ([`Partition::replay_step`]).
    pub fn recover(found: &RecoveredGroup, config: TopicConfig) -> (Self, Index) {
        let mut partition = Self::new(found.group, found.replica, config);
        partition.adopt_start(&found.log_start);
        partition.end = found.next_offset;
        if let Some((from, to)) = found.needs_repair {
            partition.out_of_service = Some(format!("entries {from} to {to} are damaged"));
        }
        (partition, found.log_start.producers_at.next())
    }

    fn adopt_start(&mut self, start: &LogStart) {
        self.start = start.start_offset;
        self.high_watermark = self.high_watermark.max(start.base_offset);
        self.commit = self.commit.max(start.prev.index);
        self.end = start.base_offset;
        match ProducerState::decode(&start.producers, start.producers_at) {
            Ok(producers) => self.producers = producers,
            Err(error) => self.out_of_service = Some(format!("producer snapshot: {error}")),
        }
    }

    /// Applies the log from `from` on.
    fn replay(&mut self, from: Index, store: &mut Store) -> StoreResult<()> {
        let mut next = Some(from);
        while let Some(from) = next {
            next = self.replay_step(from, store)?;
        }
        Ok(())
    }

    /// Applies the next few mebibytes of the log, from `from` on; answers where to go on, if there is more.
    ///
    /// # Errors
    /// As reading the log.
    pub fn replay_step(&mut self, from: Index, store: &mut Store) -> StoreResult<Option<Index>> {
        let (last, _) = store.last(self.group)?;
        let mut next = from.max(store.log_start(self.group)?.prev.index.next());
        if next <= last.index {
            for entry in store.read(self.group, next, REPLAY_BYTES)? {
                self.since_snapshot += entry.payload.len() as u64;
                next = entry.meta.id.index.next();
                self.apply(&entry);
            }
        }
        Ok((next <= last.index).then_some(next))
    }

    fn apply(&mut self, entry: &Entry) {
        match entry.meta.kind {
            EntryKind::Records => {
                if let Some(header) = BatchHeader::read(&entry.payload) {
                    self.producers.apply(entry.meta.id.index, entry.meta.base_offset, &header);
                }
            }
            EntryKind::LogStart => {
                if let Some(offset) = decode_log_start(&entry.payload) {
                    self.starts.push_back((entry.meta.id.index, offset));
                }
            }
            EntryKind::ForgetProducers => match decode_forgotten(&entry.payload) {
                Some(ids) => self.producers.forget(entry.meta.id.index, &ids),
                // The state is a function of the log: one that cannot be read leaves none (a newer version's, or damage).
                None => self.out_of_service = Some(format!("entry {} forgets nobody legible", entry.meta.id)),
            },
            EntryKind::Noop | EntryKind::Configuration | EntryKind::Metadata | EntryKind::Snapshot => {}
        }
    }

    /// Entries that compaction has to leave the headers of, none of them uncommitted. None: it cannot be told just now.
    pub fn remembered_producers(&self) -> Option<BTreeSet<Index>> {
        self.producers.remembered(self.commit)
    }

    /// Entries were appended, own or received.
    pub fn on_appended(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.apply(entry);
            self.uncommitted.push_back((entry.meta.id.index, entry.meta.next_offset()));
            self.end = entry.meta.next_offset();
            self.since_snapshot += entry.payload.len() as u64;
        }
        if on(Mutation::ServeUncommitted) {
            self.high_watermark = self.high_watermark.max(self.end);
        }
    }

    /// Entries at or above `from` are gone: whoever waited for them hears it, and what their producers have in flight behind them is
    /// no more out of order than behind a batch that was refused at once.
    pub fn on_truncated(&mut self, from: Index, store: &mut Store, now: Millis, done: &mut Vec<Done>) {
        assert!(from > self.commit, "truncation at {from} below commit {}", self.commit);
        self.uncommitted.retain(|(index, _)| *index < from);
        self.starts.retain(|(index, _)| *index < from);
        self.fail_waiters(from, done);
        for (producer, epoch, sequence) in self.producers.taken_by(from) {
            self.send_back(producer, epoch, sequence, now);
        }
        if let Ok((_, end)) = store.last(self.group) {
            self.end = end;
        }
        if !on(Mutation::KeepProducersOfCutBatches)
            && !self.producers.truncate(from)
            && let Err(error) = self.rebuild(store)
        {
            self.out_of_service = Some(error);
        }
    }

    /// Nothing of the log is damaged any more.
    pub fn on_repaired(&mut self, store: &mut Store) {
        let rebuilt = match self.unsettled {
            Some(_) => self.rebuild_from_start(store),
            None => self.rebuild(store),
        };
        self.out_of_service = rebuilt.err().map(|error| {
            tracing::warn!(group = %self.group, error, "repaired replica is not in service yet");
            error
        });
    }

    /// Starts the producer state over from the snapshot and the log.
    fn rebuild(&mut self, store: &mut Store) -> Result<(), String> {
        let start = store.log_start(self.group).map_err(|error| error.to_string())?.clone();
        self.producers = ProducerState::decode(&start.producers, start.producers_at)
            .map_err(|error| format!("producer snapshot: {error}"))?;
        self.starts.clear();
        self.since_snapshot = 0;
        self.replay(start.producers_at.next(), store).map_err(|error| error.to_string())
    }

    /// This replica leads anew, with a log that ended with `last` when it was elected. What is kept with the log start may reflect entries
    /// behind that: it came with a log start of another leader, and the entries never did, or were lost unsynced. A leader without them
    /// says that they are gone (an unclean generation, an election in doubt), and retries of them are new (safety.md F21). True if so: the
    /// state is to be stored before anything is appended.
    ///
    /// # Errors
    /// It could not be made.
    pub fn forget_lost(&mut self, last: Index, store: &mut Store) -> Result<bool, String> {
        if self.unsettled.is_none() {
            if self.producers.applied() <= last || on(Mutation::RememberLostBatches) {
                return Ok(false);
            }
            tracing::warn!(group = %self.group, %last, "what was known of producers' lost batches is forgotten");
        }
        self.rebuild_from_start(store).map(|()| true)
    }

    /// Somebody else leads: what this replica knows of producers is what it has stored, as with any other that follows.
    pub fn leave_unsettled(&mut self, store: &mut Store) {
        if self.unsettled.take().is_some()
            && let Err(error) = self.rebuild(store)
        {
            self.out_of_service = Some(error);
        }
    }

    /// The producer state is what is kept of entries that the log start has passed, and the log.
    fn rebuild_from_start(&mut self, store: &mut Store) -> Result<(), String> {
        let start = store.log_start(self.group).map_err(|error| error.to_string())?.clone();
        self.producers = ProducerState::decode(&start.producers, start.producers_at)
            .map_err(|error| format!("producer snapshot: {error}"))?;
        self.producers.forget_behind(start.prev.index);
        self.starts.clear();
        self.replay(start.prev.index.next(), store).map_err(|error| error.to_string())
    }

    /// A new generation: what lies above `commit` is not known to be committed any more. Lower than before only where the generation
    /// may have lost something, or this replica cannot tell (safety.md F24): then it must not serve what its leader may not have.
    pub fn on_reopened(&mut self, commit: Index, store: &mut Store) {
        if commit >= self.commit {
            return;
        }
        self.commit = commit;
        let start = store.log_start(self.group).map(|start| (start.prev.index, start.base_offset));
        let offset = match start {
            Ok((index, offset)) if index == commit => Ok(offset),
            _ => store.meta_at(self.group, commit).map(|meta| meta.next_offset()),
        };
        match offset {
            Ok(offset) => self.high_watermark = offset,
            Err(error) => self.out_of_service = Some(error.to_string()),
        }
    }

    /// The log was replaced by an empty one.
    pub fn on_installed(&mut self, start: &LogStart, done: &mut Vec<Done>) {
        self.uncommitted.clear();
        self.starts.clear();
        self.fail_waiters(Index(0), done);
        if start.prev.index < self.commit {
            // Not a later part of the same log but another one.
            (self.commit, self.high_watermark) = (start.prev.index, start.base_offset);
        }
        self.adopt_start(start);
    }

    /// Entries up to `index` are committed; who waits for that is released by [`Partition::release_committed`].
    /// Returns the new log start if a committed control entry moved it.
    pub fn on_committed(&mut self, index: Index, store: &mut Store) -> Option<Offset> {
        assert!(index >= self.commit, "commit went back from {} to {index}", self.commit);
        self.commit = index;
        let mut reached = None;
        while self.uncommitted.front().is_some_and(|(at, _)| *at <= index) {
            reached = self.uncommitted.pop_front();
        }
        let offset = match reached {
            Some((at, offset)) if at == index => Some(offset),
            // Recovered entries are not in the queue: their header says it.
            _ => store.meta_at(self.group, index).ok().map(|meta| meta.next_offset()),
        };
        if let Some(offset) = offset {
            self.high_watermark = self.high_watermark.max(offset);
        }
        self.producers.committed(index);
        let mut moved = None;
        while self.starts.front().is_some_and(|(at, _)| *at <= index) {
            if let Some((_, offset)) = self.starts.pop_front()
                && offset > self.start
            {
                self.start = offset;
                moved = Some(offset);
            }
        }
        moved
    }

    /// Answers every committed batch that enough voters hold. `holders` counts the voters that hold an index durably, of a joint
    /// configuration those of the half with fewer (safety.md F15).
    pub fn release_committed(&mut self, holders: &dyn Fn(Index) -> usize, done: &mut Vec<Done>) {
        while let Some(front) = self.commit_waiters.front() {
            let is_held = front.min_insync <= 1 || holders(front.index) >= front.min_insync;
            if front.index > self.commit || !(is_held || on(Mutation::IgnoreMinInsync)) {
                break;
            }
            if let Some(w) = self.commit_waiters.pop_front() {
                done.push((w.ticket, Ok(self.produced(w.produced))));
            }
        }
    }

    /// Whether a committed batch still waits for more voters.
    pub fn waits_for_holders(&self) -> bool {
        self.commit_waiters.front().is_some_and(|w| w.index <= self.commit)
    }

    /// The leader's own copy is stored up to `index`, as safely as the topic asks: acks=1.
    pub fn on_stored(&mut self, index: Index, done: &mut Vec<Done>) {
        while self.stored_waiters.front().is_some_and(|w| w.index <= index) {
            if let Some(w) = self.stored_waiters.pop_front() {
                done.push((w.ticket, Ok(self.produced(w.produced))));
            }
        }
    }

    fn produced(&self, produced: Produced) -> Produced {
        Produced { log_start_offset: self.start.0, ..produced }
    }

    /// Registers an appended (or duplicate) batch that is answered later. acks as in Produce.
    pub fn wait(&mut self, index: Index, base_offset: Offset, ticket: Ticket, acks: i16, min_insync: i32) {
        let produced = Produced { base_offset: base_offset.0, log_start_offset: self.start.0 };
        let min_insync = if acks == -1 { min_insync.max(1) as usize } else { 0 };
        let waiter = Waiter { index, ticket, produced, min_insync };
        let queue = if acks == -1 { &mut self.commit_waiters } else { &mut self.stored_waiters };
        // Duplicates of older batches come out of order; the queue stays sorted by index.
        let at = queue.partition_point(|w| w.index <= index);
        queue.insert(at, waiter);
    }

    /// The request of this ticket timed out: forget it. Tells whether the batch was committed all the same.
    pub fn forget(&mut self, ticket: Ticket) -> Option<PartitionError> {
        let same = |w: &Waiter| w.ticket.request == ticket.request && w.ticket.item == ticket.item;
        if let Some(at) = self.commit_waiters.iter().position(same) {
            let waiter = self.commit_waiters.remove(at)?;
            return Some(if waiter.index <= self.commit {
                PartitionError::NotEnoughReplicasAfterAppend
            } else {
                PartitionError::TimedOut
            });
        }
        let at = self.stored_waiters.iter().position(same)?;
        self.stored_waiters.remove(at)?;
        Some(PartitionError::TimedOut)
    }

    fn fail_waiters(&mut self, from: Index, done: &mut Vec<Done>) {
        for queue in [&mut self.commit_waiters, &mut self.stored_waiters] {
            let keep = queue.partition_point(|w| w.index < from);
            for w in queue.drain(keep..) {
                done.push((w.ticket, Err(PartitionError::NotLeader { leader: None })));
            }
        }
    }

    /// Role, leader or epoch changed; a deposed leader's waiters get a retriable error.
    pub fn on_role(
        &mut self,
        role: Role,
        epoch: Epoch,
        leader: Option<ReplicaId>,
        now: Millis,
        done: &mut Vec<Done>,
    ) {
        if role == Role::Leader && (self.role, self.epoch) != (role, epoch) {
            self.led_since = now;
        }
        (self.role, self.epoch, self.leader) = (role, epoch, leader);
        if role != Role::Leader {
            self.fail_waiters(Index(0), done);
            self.expire_deletes(now, true);
        }
    }

    /// Its broker may not answer for it any more, for now: whoever waits is to look for another leader.
    pub fn on_lease_over(&mut self, now: Millis, done: &mut Vec<Done>) {
        self.fail_waiters(Index(0), done);
        self.expire_deletes(now, true);
    }

    /// Checks a batch against the producer state.
    pub fn check_producer(
        &self,
        header: &BatchHeader,
        now_ms: i64,
        expiration_ms: i64,
    ) -> Result<producer_state::Verdict, PartitionError> {
        self.producers.check(header, now_ms, expiration_ms)
    }

    /// Notes how a batch of this producer fared. A client has five batches in flight: when one is refused for a reason that
    /// passes (leadership on its way, too few replicas, a full disk), the next must not be told that it is out of order. Clients
    /// take that for a loss, renumber, and write again what may be in the log.
    pub fn note_attempt(&mut self, header: &BatchHeader, refused: Option<&PartitionError>, now: Millis) {
        match refused {
            _ if header.producer_id < 0 => {}
            None => {
                self.sent_back.remove(&header.producer_id);
            }
            Some(
                PartitionError::OutOfOrderSequence(_)
                | PartitionError::InvalidProducerEpoch { .. }
                | PartitionError::Unknown,
            ) => {}
            Some(_) => self.send_back(header.producer_id, header.producer_epoch, header.base_sequence, now),
        }
    }

    fn send_back(&mut self, producer: i64, epoch: i16, sequence: i32, now: Millis) {
        if self.sent_back.len() == SENT_BACK {
            self.sent_back.retain(|_, mark| mark.until > now);
        }
        if self.sent_back.len() == SENT_BACK {
            return;
        }
        let mark = SentBack { epoch, sequence, until: now + SENT_BACK_MS };
        let known = self.sent_back.entry(producer).or_insert(mark);
        // The front of what has to come again: as long as it is refused, and however late it is refused first, what is behind it
        // is sent back too. Batches behind it change nothing.
        if known.until <= now || known.epoch != epoch || !is_behind(sequence, known.sequence) {
            *known = mark;
        }
    }

    /// Producers to forget now; call it every check interval as leader: only who wrote nothing since the last call is named.
    pub fn expired_producers(&mut self, now_ms: i64, expiration_ms: i64) -> Vec<i64> {
        let quiet_since = std::mem::replace(&mut self.checked, (self.epoch, self.producers.applied()));
        if quiet_since.0 != self.epoch {
            return Vec::new();
        }
        self.producers.expired(now_ms, expiration_ms, quiet_since.1, FORGOTTEN)
    }

    /// Whether a gap in front of this batch may be no fault of the producer: an earlier one was refused here just now, or may still be
    /// on its way back from the leader before.
    pub fn may_be_missing_earlier(&self, header: &BatchHeader, now: Millis) -> bool {
        self.sent_back(header, now) || now.saturating_sub(self.led_since) < MOVED_MS
    }

    fn sent_back(&self, header: &BatchHeader, now: Millis) -> bool {
        let mark = self.sent_back.get(&header.producer_id).filter(|mark| mark.until > now);
        mark.is_some_and(|mark| mark.epoch == header.producer_epoch && mark.sequence != header.base_sequence)
    }

    /// Whether a batch that looks right has to wait for an earlier one all the same: a producer of which nothing is known yet has no
    /// sequence to be checked against. Of a known one it is in order: an old mark, from when this was no leader, says nothing.
    pub fn is_early(&self, header: &BatchHeader, now: Millis) -> bool {
        let moved = header.base_sequence > 0 && now.saturating_sub(self.led_since) < SENT_BACK_MS;
        header.producer_id >= 0
            && !self.producers.knows(header.producer_id)
            && (moved || self.sent_back(header, now))
    }

    /// Producer snapshot as of the commit index, if it can be told.
    pub fn producer_snapshot(&self) -> Option<(Vec<u8>, Index)> {
        Some((self.producers.encode(self.commit)?, self.commit))
    }

    /// Waits for the control entry at `meta` to commit, then answers the log start.
    pub fn wait_delete(
        &mut self,
        meta: &EntryMeta,
        deadline: Millis,
        reply: oneshot::Sender<Result<i64, PartitionError>>,
    ) {
        self.delete_waiters.push(DeleteWaiter { index: meta.id.index, deadline, reply });
    }

    /// Whether somebody waits for a log start to move.
    pub fn waits_for_delete(&self) -> bool {
        !self.delete_waiters.is_empty()
    }

    /// Answers every DeleteRecords whose control entry is committed.
    pub fn answer_deletes(&mut self) {
        let commit = self.commit;
        for w in self.delete_waiters.extract_if(.., |w| w.index <= commit) {
            let _gone_client = w.reply.send(Ok(self.start.0));
        }
    }

    /// Answers DeleteRecords that waited too long, or all of them when leadership is lost.
    pub fn expire_deletes(&mut self, now: Millis, all: bool) {
        for w in self.delete_waiters.extract_if(.., |w| all || w.deadline <= now) {
            let error =
                if all { PartitionError::NotLeader { leader: None } } else { PartitionError::TimedOut };
            let _gone_client = w.reply.send(Err(error));
        }
    }
}

/// Payload of a LogStart entry.
pub fn encode_log_start(offset: Offset) -> [u8; 8] {
    offset.0.to_be_bytes()
}

/// Payload of a ForgetProducers entry.
pub fn encode_forgotten(ids: &[i64]) -> Vec<u8> {
    let mut payload = vec![1u8];
    payload.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
    payload
}

fn decode_forgotten(payload: &[u8]) -> Option<Vec<i64>> {
    let (version, ids) = payload.split_first()?;
    let (ids, rest) = ids.as_chunks::<8>();
    (*version == 1 && rest.is_empty()).then(|| ids.iter().map(|id| i64::from_be_bytes(*id)).collect())
}

fn decode_log_start(payload: &[u8]) -> Option<Offset> {
    Some(Offset(i64::from_be_bytes(payload.try_into().ok()?)))
}

/// Whether a sequence comes after another; they wrap after 2^31 - 1 to 0, and what is in flight is near.
fn is_behind(sequence: i32, other: i32) -> bool {
    let ahead = sequence.wrapping_sub(other) & i32::MAX;
    ahead != 0 && ahead < i32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        let image = crate::ctl::image::Image::default();
        let defaults = crate::broker::config::NodeConfig::new(NodeId(1), "unused").defaults;
        let topic = crate::ctl::image::Topic {
            name: "t".to_owned(),
            id: uuid::Uuid::nil(),
            partitions: Vec::new(),
            configs: BTreeMap::new(),
            internal: false,
            auto_since: None,
        };
        Partition::new(GroupId(1), ReplicaId::default(), image.topic_config(&topic, &defaults))
    }

    fn header(producer_id: i64, base_sequence: i32) -> BatchHeader {
        BatchHeader { producer_id, base_sequence, ..BatchHeader::default() }
    }

    #[test]
    fn batches_behind_a_refused_one_are_sent_back_until_it_is_taken_or_time_is_over() {
        let mut p = partition();
        let (refused, behind) = (header(7, 10), header(7, 15));
        assert!(!p.sent_back(&behind, 100));
        p.note_attempt(&refused, Some(&PartitionError::NotLeader { leader: None }), 100);
        assert!(p.sent_back(&behind, 100 + SENT_BACK_MS - 1));
        assert!(!p.sent_back(&refused, 101), "the refused one itself may come again");
        assert!(!p.sent_back(&header(8, 15), 101), "other producers are judged by their own batches");
        let renumbered = BatchHeader { producer_epoch: 1, ..header(7, 0) };
        assert!(!p.sent_back(&renumbered, 101), "a new epoch starts afresh");
        // The batch behind it is refused in its turn; that prolongs nothing and does not take its place.
        p.note_attempt(&behind, Some(&PartitionError::NotLeader { leader: None }), 4_000);
        assert!(p.sent_back(&behind, 4_001) && !p.sent_back(&refused, 4_001));
        assert!(!p.sent_back(&behind, 100 + SENT_BACK_MS));
        p.note_attempt(&refused, Some(&PartitionError::NotEnoughReplicas), 9_000);
        p.note_attempt(&refused, None, 9_001);
        assert!(!p.sent_back(&behind, 9_002), "the producer is in order again");
    }

    /// Found by the chaos tests (a leader cut off and back): record 1047 of a producer had been appended and was then refused because the
    /// leader stepped down, 1048 was refused at once; when both came again 1047 met no leader yet and 1048 did.
    #[test]
    fn earlier_batch_refused_after_a_later_one_takes_its_place_and_is_renewed() {
        let mut p = partition();
        let not_leader = PartitionError::NotLeader { leader: None };
        let (front, behind) = (header(7, 1047), header(7, 1048));
        p.note_attempt(&behind, Some(&not_leader), 100);
        p.note_attempt(&front, Some(&not_leader), 3_000);
        assert!(p.sent_back(&behind, 3_000), "its predecessor is still missing");
        assert!(!p.sent_back(&front, 3_000));
        // Refused once more: the time counts from then.
        p.note_attempt(&front, Some(&not_leader), 7_000);
        assert!(p.sent_back(&behind, 7_000 + SENT_BACK_MS - 1));
        assert!(!p.sent_back(&behind, 7_000 + SENT_BACK_MS));
        // Over the end of the sequence numbers, too.
        p.note_attempt(&header(8, 3), Some(&not_leader), 100);
        p.note_attempt(&header(8, i32::MAX - 1), Some(&not_leader), 101);
        assert!(p.sent_back(&header(8, 3), 102) && !p.sent_back(&header(8, i32::MAX - 1), 102));
    }

    /// Found by the chaos tests: a leader refused a batch while it was none, and a second later refused the producer's next ones too.
    #[test]
    fn mark_from_before_leadership_does_not_hold_up_a_known_producer() {
        let mut p = partition();
        p.note_attempt(&header(7, 0), Some(&PartitionError::NotLeader { leader: None }), 100);
        assert!(p.is_early(&header(7, 5), 101), "nothing is known of it: 0 has to come first");
        p.producers.apply(Index(1), Offset(0), &header(7, 0));
        assert!(!p.is_early(&header(7, 1), 101), "0 came by way of another leader");
        assert!(p.sent_back(&header(7, 5), 101), "a gap is still no fault of its own");
    }

    #[test]
    fn batches_behind_a_truncated_one_are_sent_back_like_those_behind_a_refused_one() {
        let mut p = partition();
        for (index, sequence) in [(1, 10), (2, 11), (3, 12)] {
            p.producers.apply(Index(index), Offset(0), &header(7, sequence));
        }
        p.producers.apply(Index(4), Offset(0), &header(8, 0));
        assert_eq!(p.producers.taken_by(Index(2)), [(7, 0, 11), (8, 0, 0)]);
        assert_eq!(p.producers.taken_by(Index(5)), []);
        for (producer, epoch, sequence) in p.producers.taken_by(Index(2)) {
            p.send_back(producer, epoch, sequence, 100);
        }
        assert!(p.producers.truncate(Index(2)));
        assert!(p.sent_back(&header(7, 13), 101) && !p.sent_back(&header(7, 11), 101));
    }

    #[test]
    fn gap_soon_after_leadership_began_is_taken_for_batches_still_at_the_old_leader() {
        let mut p = partition();
        let mut done = Vec::new();
        p.on_role(Role::Leader, Epoch::new(0, 2), None, 1_000_000, &mut done);
        let gap = header(7, 15);
        assert!(p.may_be_missing_earlier(&gap, 1_000_000 + MOVED_MS - 1));
        assert!(!p.may_be_missing_earlier(&gap, 1_000_000 + MOVED_MS), "a real gap is told in the end");
        // Of an unknown producer nothing but the first batch is taken meanwhile, for a shorter time: it may be one that was forgotten.
        assert!(p.is_early(&gap, 1_000_000 + SENT_BACK_MS - 1));
        assert!(!p.is_early(&gap, 1_000_000 + SENT_BACK_MS));
        assert!(!p.is_early(&header(7, 0), 1_000_001) && !p.is_early(&header(-1, -1), 1_000_001));
        // The same leadership announced again begins nothing.
        p.on_role(Role::Leader, Epoch::new(0, 2), None, 1_050_000, &mut done);
        assert!(!p.may_be_missing_earlier(&gap, 1_000_000 + MOVED_MS));
    }

    #[test]
    fn a_producers_own_fault_sends_nothing_back() {
        let mut p = partition();
        p.note_attempt(&header(7, 0), Some(&PartitionError::OutOfOrderSequence("gap".to_owned())), 100);
        p.note_attempt(&header(-1, 0), Some(&PartitionError::DiskFull), 100);
        assert!(!p.sent_back(&header(7, 1), 101) && !p.sent_back(&header(-1, 1), 101));
    }

    #[test]
    fn forgotten_producers_are_read_back_and_anything_else_is_refused() {
        for ids in [vec![], vec![7], vec![i64::MAX, 0, 12]] {
            assert_eq!(decode_forgotten(&encode_forgotten(&ids)), Some(ids));
        }
        assert_eq!(decode_forgotten(&[]), None);
        assert_eq!(decode_forgotten(&[2]), None);
        assert_eq!(decode_forgotten(&[1, 0]), None);
    }

    #[test]
    fn producers_are_forgotten_only_after_a_whole_quiet_interval_of_one_leadership() {
        let mut p = partition();
        p.epoch = Epoch::new(0, 3);
        let mut header = BatchHeader { producer_id: 7, max_timestamp: 100, ..BatchHeader::default() };
        p.producers.apply(Index(5), Offset(0), &header);
        assert_eq!(p.expired_producers(10_000, 1_000), Vec::<i64>::new(), "first look of this leadership");
        header.base_sequence = 1;
        p.producers.apply(Index(6), Offset(1), &header);
        assert_eq!(p.expired_producers(10_000, 1_000), Vec::<i64>::new(), "it wrote since");
        p.epoch = Epoch::new(0, 4);
        assert_eq!(p.expired_producers(10_000, 1_000), Vec::<i64>::new(), "another leadership");
        assert_eq!(p.expired_producers(10_000, 1_000), vec![7]);
    }
}
