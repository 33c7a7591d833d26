//! Coordinators of consumer groups: one for each partition of `__consumer_offsets` that this node leads.
//!
//! A coordinator (`broker::groups`, pure) begins when its partition's leadership does: it reads the log up to where it stood then, a
//! part in each turn, and serves once all of that is committed, this leader's own first entry included. Its appends are ordinary
//! acks=all writes. It ends with the leadership, and also when an append fails that had entered the log: whether that will be committed
//! is for the log to say, and it is read anew. Not here: what groups do (`broker::groups`), Kafka's messages (`handlers`).
//! Invariants: a coordinator serves in one epoch of one leadership; offsets are told only after a confirmed round (safety.md F17), since they
//! are a negative answer too; every request is answered once.

use super::{Now, Shard, produce, reads};
use crate::broker::api::{PartitionError, Produced};
use crate::broker::groups::records::Record;
use crate::broker::groups::{
    AppendId, Ask, Coordinator, Effect, GroupError, Listed, Reply, Settings, TOPIC, Time, Token,
};
use crate::broker::partition::Ticket;
use crate::ctl::command::Defaults;
use crate::ctl::configs::broker_number;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Millis, Role};
use crate::raftlog::engine::Proposal;
use crate::segment::{Entry, EntryKind, Epoch, GroupId, Index};
use crate::wire::compression::Compression;
use crate::wire::record::{self, RecordBatchBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use tokio::sync::oneshot;

/// Log read in one turn by one coordinator that loads; in each turn another one goes on.
pub(super) const LOAD_BYTES: usize = 1 << 20;
/// Most memory of all groups that a node coordinates, as `groups::memory` counts it: over two million committed offsets.
const GROUPS_BYTES: usize = 512 << 20;
/// Between two looks at what is due.
const TICK_MS: Millis = 10;
/// A coordinator that may not serve just now is looked at again after this.
const WITHHELD_MS: Millis = 100;
/// A log that cannot be read is read again after this.
const RETRY_MS: Millis = 1_000;
/// A batch is decompressed to at most this; ours are not compressed.
const BATCH_BYTES: usize = 256 << 20;

/// A coordinator and the epoch it serves in.
struct Hosted {
    epoch: Epoch,
    /// Of this coordinator: another one in the same epoch counts its appends anew.
    number: u64,
    machine: Coordinator,
    loading: Option<Loading>,
}

/// How far its log is read.
struct Loading {
    next: Index,
    /// The log's end when the leadership began.
    target: Index,
    retry_at: Millis,
}

/// All coordinators of a shard, and who waits for them.
pub struct Groups {
    settings: Settings,
    hosted: BTreeMap<GroupId, Hosted>,
    answers: super::Map<Token, oneshot::Sender<Reply>>,
    appends: super::Map<u64, (GroupId, u64, AppendId)>,
    /// Appends that were decided in this turn.
    decided: Vec<(u64, bool)>,
    next: Millis,
    /// The partition that was loaded on last.
    loaded_last: Option<GroupId>,
}

impl Groups {
    pub(super) fn new(defaults: &Defaults) -> Self {
        Self {
            settings: settings(defaults),
            hosted: BTreeMap::new(),
            answers: super::Map::default(),
            appends: super::Map::default(),
            decided: Vec::new(),
            next: Millis::MAX,
            loaded_last: None,
        }
    }

    pub(super) fn deadline(&self) -> Millis {
        self.next
    }

    /// By how much groups may grow.
    fn room(&self) -> usize {
        let all = self.hosted.values().map(|hosted| hosted.machine.bytes()).sum();
        GROUPS_BYTES.saturating_sub(all)
    }

    /// Takes the outcome of an append if it was one of a coordinator.
    pub(super) fn take_outcome(&mut self, request: u64, result: &Result<Produced, PartitionError>) -> bool {
        let is_ours = self.appends.contains_key(&request);
        if is_ours {
            self.decided.push((request, result.is_ok()));
        }
        is_ours
    }
}

/// Kafka's broker keys, as the node was started with.
fn settings(defaults: &Defaults) -> Settings {
    let number =
        |name, default: i64| broker_number(name, None, &BTreeMap::new(), defaults).unwrap_or(default);
    let millis = |name, default| number(name, default).max(0) as u64;
    Settings {
        initial_delay_ms: millis("group.initial.rebalance.delay.ms", 3_000),
        min_session_ms: millis("group.min.session.timeout.ms", 6_000),
        max_session_ms: millis("group.max.session.timeout.ms", 1_800_000),
        max_size: millis("group.max.size", i64::from(i32::MAX)) as usize,
        metadata_bytes: millis("offset.metadata.max.bytes", 4_096) as usize,
        retention_ms: number("offsets.retention.minutes", 10_080).saturating_mul(60_000),
        check_ms: millis("offsets.retention.check.interval.ms", 600_000),
        commit_timeout_ms: millis("offsets.commit.timeout.ms", 5_000),
    }
}

fn time(now: Now) -> Time {
    Time { mono: now.mono, wall_ms: now.wall_ms }
}

impl Shard {
    /// Leadership of a partition began, went on in another epoch, or ended.
    pub(super) fn coordinate(&mut self, now: Now, group: GroupId) {
        let leads = self.partitions.get(&group).filter(|p| p.role == Role::Leader).map(|p| p.epoch);
        let is_hosted = self.groups.hosted.get(&group).map(|hosted| hosted.epoch);
        if is_hosted.is_some() && is_hosted == leads {
            return;
        }
        self.end_coordinator(group);
        let topic = self.image.groups.get(&group).and_then(|(topic, _)| self.image.topic_by_id(*topic));
        if let Some(epoch) = leads.filter(|_| topic.is_some_and(|topic| topic.name == TOPIC)) {
            self.begin_coordinator(now, group, epoch);
        }
    }

    fn begin_coordinator(&mut self, now: Now, group: GroupId, epoch: Epoch) {
        let Ok((last, _)) = self.engine.store().last(group) else { return };
        let first = self.engine.store().log_start(group).map(|start| start.prev.index.next());
        let loading = Loading { next: first.unwrap_or(Index(1)), target: last.index, retry_at: 0 };
        tracing::debug!(%group, from = %loading.next, to = %loading.target, "coordinator loads");
        let machine = Coordinator::new(self.groups.settings.clone());
        let number = self.next_id();
        self.groups.hosted.insert(group, Hosted { epoch, number, machine, loading: Some(loading) });
        self.groups.next = self.groups.next.min(now.mono);
    }

    /// Whoever waits is told to look for the coordinator again.
    pub(super) fn end_coordinator(&mut self, group: GroupId) {
        let Some(hosted) = self.groups.hosted.remove(&group) else { return };
        let mut effects = Vec::new();
        hosted.machine.end(&mut effects);
        self.answer_groups(effects);
    }

    /// Whoever waits for an append for too long need not wait for the right to serve too.
    fn tell_late(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.groups.hosted.get_mut(&group) else { return };
        let mut effects = Vec::new();
        hosted.machine.tell_late(time(now), &mut effects);
        self.answer_groups(effects);
    }

    fn answer_groups(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Answer { token, reply } = effect {
                self.answer_group(token, reply);
            }
        }
    }

    fn answer_group(&mut self, token: Token, reply: Reply) {
        if let Some(waiting) = self.groups.answers.remove(&token) {
            let _gone_client = waiting.send(reply);
        }
    }

    /// More of the partition is committed: that may be what a load waits for.
    pub(super) fn wake_coordinator(&mut self, group: GroupId) {
        let hosted = self.groups.hosted.get_mut(&group);
        let loading = hosted.and_then(|hosted| hosted.loading.as_mut());
        // One that could not be read waits for its time.
        if let Some(loading) = loading.filter(|loading| loading.retry_at == Millis::MAX) {
            loading.retry_at = 0;
            self.groups.next = 0;
        }
    }

    /// Whether this node may coordinate the partition's groups now.
    fn check_coordinator(&self, partition: GroupId) -> Result<(), GroupError> {
        let allowed = self.check_leader(partition).and_then(|()| self.check_lease_to_write(partition));
        let is_settled = self.partitions.get(&partition).is_some_and(|p| p.unsettled.is_none());
        if allowed.is_err() || !is_settled {
            return Err(GroupError::NotCoordinator);
        }
        match self.groups.hosted.get(&partition) {
            Some(hosted) if hosted.loading.is_none() || on(Mutation::ServeWhileLoading) => Ok(()),
            Some(_) => Err(GroupError::Loading),
            None => Err(GroupError::NotCoordinator),
        }
    }

    /// A request about a group of this partition.
    pub(super) fn on_group(
        &mut self,
        now: Now,
        partition: GroupId,
        name: String,
        ask: Ask,
        reply: oneshot::Sender<Reply>,
    ) {
        if let Err(error) = self.check_coordinator(partition) {
            return drop(reply.send(Reply::Refused(error)));
        }
        // A leader that was deposed without noticing would tell old offsets.
        match ask {
            Ask::Offsets(keys) => {
                self.on_read(now, partition, -1, reads::Ask::Group { name, keys, reply });
            }
            ask => self.ask_group(now, partition, &name, ask, reply),
        }
    }

    /// Asks the coordinator, if it still is one.
    pub(super) fn ask_group(
        &mut self,
        now: Now,
        partition: GroupId,
        name: &str,
        ask: Ask,
        reply: oneshot::Sender<Reply>,
    ) {
        if let Err(error) = self.check_coordinator(partition) {
            return drop(reply.send(Reply::Refused(error)));
        }
        let token = self.next_id();
        self.groups.answers.insert(token, reply);
        let grows = matches!(ask, Ask::Join(_) | Ask::Commit { .. });
        let room = if grows { self.groups.room() } else { 0 };
        self.with_coordinator(now, partition, |machine, effects| {
            machine.allow(room);
            machine.request(time(now), token, name, ask, effects)
        });
    }

    /// All groups that are coordinated here, and whether some of them are still being loaded.
    pub(super) fn list_groups(&self) -> (Vec<Listed>, bool) {
        let mut is_loading = false;
        let mut listed = Vec::new();
        for (partition, hosted) in &self.groups.hosted {
            is_loading |= hosted.loading.is_some();
            if self.check_coordinator(*partition).is_ok() {
                listed.extend(hosted.machine.list());
            }
        }
        (listed, is_loading)
    }

    /// Lets the coordinator do something and does what follows from it.
    fn with_coordinator(
        &mut self,
        now: Now,
        partition: GroupId,
        work: impl FnOnce(&mut Coordinator, &mut Vec<Effect>),
    ) {
        let mut effects = Vec::new();
        let Some(hosted) = self.groups.hosted.get_mut(&partition) else { return };
        work(&mut hosted.machine, &mut effects);
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Answer { token, reply } => self.answer_group(token, reply),
                    Effect::Append { id, records } => {
                        if let Err(error) = self.append_for_group(now, partition, id, &records)
                            && let Some(hosted) = self.groups.hosted.get_mut(&partition)
                        {
                            hosted.machine.refused(time(now), id, error, &mut effects);
                        }
                    }
                }
            }
        }
        if let Some(hosted) = self.groups.hosted.get(&partition) {
            self.groups.next = self.groups.next.min(hosted.machine.deadline());
        }
    }

    /// Appends a coordinator's records as one batch. An error means that nothing of it is in the log.
    fn append_for_group(
        &mut self,
        now: Now,
        partition: GroupId,
        id: AppendId,
        records: &[Record],
    ) -> Result<(), GroupError> {
        self.check_coordinator(partition)?;
        let Some(p) = self.partitions.get(&partition) else { return Err(GroupError::NotCoordinator) };
        let min_insync = p.config.min_insync_replicas;
        if p.in_sync.len() < min_insync.max(1) as usize {
            return Err(GroupError::NotAvailable);
        }
        let mut batch = RecordBatchBuilder::new(Compression::None);
        for record in records {
            batch.append(now.wall_ms, Some(&record.key), record.value.as_deref(), &[]);
        }
        let Ok(payload) = batch.build() else { return Err(GroupError::TooLarge) };
        if payload.len() > p.config.max_message_bytes {
            return Err(GroupError::TooLarge);
        }
        let number = self.groups.hosted.get(&partition).map_or(0, |hosted| hosted.number);
        let offset_span = u32::try_from(records.len()).map_err(|_| GroupError::TooLarge)?;
        let proposal = Proposal { kind: EntryKind::Records, offset_span, payload };
        let proposed = self.engine.propose(now.mono, partition, vec![proposal], &mut produce::assign);
        let metas = proposed.map_err(|error| match produce::produce_error(error, None) {
            PartitionError::NotLeader { .. } | PartitionError::Storage(_) => GroupError::NotCoordinator,
            _ => GroupError::NotAvailable,
        })?;
        let meta = metas.last().expect("an accepted proposal has its header");
        let request = self.next_id();
        self.groups.appends.insert(request, (partition, number, id));
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.wait(meta.id.index, meta.base_offset, Ticket { request, item: 0 }, -1, min_insync);
        }
        Ok(())
    }

    /// Tells coordinators what came of their appends; true if there was anything.
    pub(super) fn settle_groups(&mut self, now: Now) -> bool {
        let decided = std::mem::take(&mut self.groups.decided);
        for (request, is_stored) in &decided {
            let Some((partition, number, id)) = self.groups.appends.remove(request) else { continue };
            if self.groups.hosted.get(&partition).is_none_or(|hosted| hosted.number != number) {
                continue;
            }
            // It may have waited for others of this turn, and the lease be over (safety.md: nothing is told then).
            if *is_stored && self.check_lease_to_write(partition).is_ok() {
                self.with_coordinator(now, partition, |m, effects| m.stored(time(now), id, effects));
            } else {
                self.end_coordinator(partition);
                self.coordinate(now, partition);
            }
        }
        !decided.is_empty()
    }

    /// A topic was deleted.
    pub(super) fn forget_committed(&mut self, now: Now, topics: &BTreeSet<String>) {
        for partition in self.groups.hosted.keys().copied().collect::<Vec<_>>() {
            if self.check_coordinator(partition).is_ok() {
                self.with_coordinator(now, partition, |machine, effects| {
                    topics.iter().for_each(|topic| machine.forget_topic(time(now), topic, effects));
                });
            }
        }
    }

    /// Loads a part, looks at what is due.
    pub(super) fn tick_groups(&mut self, now: Now) {
        if now.mono < self.groups.next {
            return;
        }
        self.groups.next = Millis::MAX;
        let loads = self.next_to_load(now);
        for partition in self.groups.hosted.keys().copied().collect::<Vec<_>>() {
            let epoch = self.partitions.get(&partition).filter(|p| p.role == Role::Leader).map(|p| p.epoch);
            let Some(hosted) = self.groups.hosted.get(&partition) else { continue };
            if epoch != Some(hosted.epoch) {
                self.coordinate(now, partition);
            } else if hosted.loading.is_some() {
                if loads == Some(partition) {
                    self.load_some(now, partition);
                }
            } else if hosted.machine.deadline() <= now.mono {
                if self.check_coordinator(partition).is_err() {
                    self.tell_late(now, partition);
                    self.groups.next = self.groups.next.min(now.mono + WITHHELD_MS);
                    continue;
                }
                self.with_coordinator(now, partition, |machine, effects| machine.tick(time(now), effects));
            }
            if let Some(hosted) = self.groups.hosted.get(&partition) {
                let next = match &hosted.loading {
                    // Committed later than the log's end was looked at: it is woken.
                    Some(loading) => loading.retry_at,
                    None => hosted.machine.deadline().max(now.mono + TICK_MS),
                };
                self.groups.next = self.groups.next.min(next);
            }
        }
    }

    /// One coordinator is loaded on in a turn, each in its turn: a node that begins to lead all partitions must not stand still for it.
    fn next_to_load(&mut self, now: Now) -> Option<GroupId> {
        let is_due = |(_, hosted): &(&GroupId, &Hosted)| {
            hosted.loading.as_ref().is_some_and(|loading| loading.retry_at <= now.mono)
        };
        let after = self.groups.loaded_last.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.groups.hosted.range((after, Bound::Unbounded)).find(is_due);
        let next = behind.or_else(|| self.groups.hosted.iter().find(is_due)).map(|(partition, _)| *partition);
        self.groups.loaded_last = next.or(self.groups.loaded_last);
        next
    }

    /// Reads on in the log.
    fn load_some(&mut self, now: Now, partition: GroupId) {
        let commit = self.engine.core(partition).map_or(Index(0), |core| core.commit());
        let start = self.engine.store().log_start(partition).map(|start| start.prev.index.next());
        let Some(hosted) = self.groups.hosted.get_mut(&partition) else { return };
        let Some(loading) = hosted.loading.as_mut() else { return };
        // The log may have been cut off at its start meanwhile.
        loading.next = loading.next.max(start.unwrap_or(loading.next));
        let to = loading.target.min(commit);
        if loading.next <= to && loading.retry_at <= now.mono {
            let read = self.engine.store().read(partition, loading.next, LOAD_BYTES);
            let taken = read.map_err(|error| error.to_string()).and_then(|entries| {
                for entry in entries.iter().take_while(|entry| entry.meta.id.index <= to) {
                    take_entry(&mut hosted.machine, entry)?;
                    loading.next = entry.meta.id.index.next();
                }
                Ok(())
            });
            loading.retry_at = now.mono;
            if let Err(error) = taken {
                tracing::error!(%partition, at = %loading.next, error, "groups cannot be loaded; trying again");
                loading.retry_at = now.mono + RETRY_MS;
            }
        }
        if loading.next > loading.target {
            hosted.loading = None;
            hosted.machine.loaded(time(now));
            tracing::debug!(%partition, groups = hosted.machine.list().len(), "coordinator serves");
        } else if loading.next > to {
            loading.retry_at = Millis::MAX;
        }
    }
}

fn take_entry(machine: &mut Coordinator, entry: &Entry) -> Result<(), String> {
    // Of a payload that is empty compaction has left nothing.
    if entry.meta.kind != EntryKind::Records || entry.payload.is_empty() {
        return Ok(());
    }
    let batch = record::Batch::open(&entry.payload, BATCH_BYTES).map_err(|error| error.to_string())?;
    for record in batch.records() {
        let record = record.map_err(|error| error.to_string())?;
        let loaded = machine.load(record.key, record.value);
        loaded.map_err(|error| format!("record at offset {}: {error}", record.offset))?;
    }
    Ok(())
}
