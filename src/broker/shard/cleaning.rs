//! The cleaner of compacted topics: which partition is compacted next, and how far along that is (Kafka's `LogCleaner`).
//!
//! One partition at a time, one step at a time. A [`CleanerStep`] is a few mebibytes of reading or writing, which whoever drives the shard
//! runs on a thread of its own and gives back; in between the shard decides everything. What stays of a log is `compaction`'s to say, how
//! files are replaced `segment`'s. Every replica compacts its own copy.
//! - A replica that is damaged, under repair or in doubt is left alone, and so is a full disk.
//! - Files are replaced oldest first, each before the next one is begun.
//! - A tombstone goes in a later pass than what it deleted, when its time is over and no copy of the partition holds that any more
//!   (`tombstones`, decision 0022). That it may be missing is recorded with the file that leaves it out; how clean the copy is, too.
//! - What was learned of a log counts for that log alone: a new generation, or a commit index that went back, ends the compaction.
//! - What fails makes the partition uncleanable for a while, longer each time; the log and /metrics say why.

use super::{Now, Shard};
use crate::broker::compaction::plan::{self, File, Look, Policy};
use crate::broker::compaction::{Pass, Terms};
use crate::broker::config::NodeConfig;
use crate::ctl::command::TopicConfig;
use crate::ctl::configs;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::segment::{
    ClosedFile, ClosedReader, Doubt, Ended, EntryKind, Error, Generation, GroupId, Index, Keep, Offset,
    ReplicaId, Rewrite, SegmentInfo, Step,
};
use crate::wire::batch::BatchHeader;
use crate::wire::record::retain::Retained;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of log in one step: what may be under way when the node stops.
const STEP_BYTES: u64 = 4 << 20;
/// A start has better to do.
const FIRST_LOOK_MS: Millis = 10_000;
/// Until it is asked again whether files can be replaced, and how often it is.
const BUSY_MS: Millis = 500;
const BUSY_TRIES: u32 = 120;
/// How long a partition is left alone after a compaction that came to an early end without anybody's fault.
pub(super) const RESTS_MS: Millis = 30_000;
/// Whoever waits for a partition to be clean says so again and again; this long after the last time nobody does any more.
const WANTED_MS: Millis = 300_000;
/// Files looked into in one turn, to find their first record.
const FIRST_LOOKS: usize = 16;
/// How long a partition is left alone after its first failure; twice as long after each further one, up to an hour.
const FAILED_MS: Millis = 60_000;
const FAILED_MAX_MS: Millis = 3_600_000;
/// Longest wait between two steps, whatever the rate.
const STEP_WAIT_MS: Millis = 60_000;
/// Read of a file to find its first record.
const FIRST_BYTES: usize = 64 << 10;

const RATE: &str = "log.cleaner.io.max.bytes.per.second";

/// One step of a compaction, to be run where it may block, and given back as [`super::Input::Cleaned`].
pub struct CleanerStep {
    job: Job,
    pass: Box<Pass>,
    outcome: Option<Result<Progress, Error>>,
}

enum Job {
    Learn(Box<ClosedReader>),
    Rewrite(Box<Rewrite>),
}

pub(super) enum Progress {
    /// There is more of these files; bytes read.
    More(u64),
    Done,
}

impl CleanerStep {
    fn new(job: Job, pass: Box<Pass>) -> Self {
        Self { job, pass, outcome: None }
    }

    /// Reads and writes. Blocks on the disk.
    pub fn run(&mut self) {
        self.guard(Self::work);
    }

    /// A step that panics (a batch that the code does not expect, say) is a failure like any other: its partition is left alone for a while,
    /// and everybody is told.
    pub(super) fn guard(&mut self, work: impl FnOnce(&mut Self) -> Result<Progress, Error>) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(self)));
        self.outcome = Some(result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Error::Failed(format!("a step of the compaction panicked: {text}")))
        }));
    }

    fn work(&mut self) -> Result<Progress, Error> {
        let pass = &mut self.pass;
        match &mut self.job {
            Job::Learn(reader) => {
                let mut goes_on = true;
                let more = reader.step(STEP_BYTES, &mut |meta, payload| {
                    goes_on = goes_on && pass.learn(meta, payload);
                });
                more.map(|more| if more && goes_on { Progress::More(STEP_BYTES) } else { Progress::Done })
            }
            Job::Rewrite(rewrite) => {
                let step = rewrite.step(STEP_BYTES, &mut |meta, payload| match pass.retain(meta, payload) {
                    Retained::Whole => Keep::Whole,
                    Retained::Nothing => Keep::Nothing,
                    Retained::Rewritten(bytes) => Keep::Batch(bytes),
                });
                step.map(|step| match step {
                    Step::More(bytes) => Progress::More(bytes),
                    Step::Done => Progress::Done,
                })
            }
        }
    }
}

/// Closed files that become one.
#[derive(Default)]
struct Chunk {
    /// Their numbers, and where each ends.
    files: Vec<(u64, Offset)>,
    bytes: u64,
}

impl Chunk {
    fn numbers(&self) -> Vec<u64> {
        self.files.iter().map(|(number, _)| *number).collect()
    }

    fn end(&self) -> Offset {
        self.files.last().map_or(Offset(0), |(_, end)| *end)
    }
}

/// The compaction under way.
pub(super) struct Running {
    group: GroupId,
    replica: ReplicaId,
    /// Generation, commit index and [`Store::changes`](crate::segment::Store::changes) when it began: what was learned counts for that log.
    pub(super) log: (Generation, Index, u64),
    look: Look,
    /// Files to be replaced together and their bytes, oldest first; none before all is learned.
    chunks: VecDeque<Chunk>,
    /// What is being rewritten.
    current: Chunk,
    /// What was learned, while nothing is given out.
    pass: Option<Box<Pass>>,
    /// Given out as soon as it is time.
    next: Option<CleanerStep>,
    busy: u32,
    bytes_read: u64,
    /// Bytes of the present job that are not read yet.
    bytes_left: u64,
}

/// What is remembered of a partition.
struct Known {
    replica: ReplicaId,
    /// Time of the first batch of each of its files.
    first_times: BTreeMap<u64, i64>,
    /// Since when its active file was seen with records.
    active: Option<(Index, i64)>,
    failed: Option<Failure>,
    /// Not chosen before: its last compaction came to an early end, and others have their turn.
    rests_until: Millis,
}

struct Failure {
    why: String,
    until: Millis,
    wait: Millis,
}

/// The cleaner of a shard.
pub(super) struct Cleaning {
    is_enabled: bool,
    backoff: Millis,
    buffer_bytes: usize,
    next: Millis,
    passes: u64,
    /// Files that may still be looked into in this turn.
    first_looks: usize,
    known: BTreeMap<GroupId, Known>,
    /// Up to where others wait for a group to be clean, and until when that counts (none: it has just been said).
    wanted: BTreeMap<GroupId, (Offset, Option<Millis>)>,
    pub(super) running: Option<Running>,
    is_out: bool,
}

impl Cleaning {
    pub(super) fn new(now: Millis, node: &NodeConfig) -> Self {
        let configured = |key: &str| node.defaults.broker.get(key).map(|value| value.trim());
        let number = |key, default| configured(key).and_then(|value| value.parse().ok()).unwrap_or(default);
        let backoff = number("log.cleaner.backoff.ms", 15_000u64).max(100);
        Self {
            is_enabled: configured("log.cleaner.enable")
                .is_none_or(|value| !value.eq_ignore_ascii_case("false")),
            backoff,
            buffer_bytes: number("log.cleaner.dedupe.buffer.size", 128 << 20) as usize,
            next: now + backoff.min(FIRST_LOOK_MS),
            passes: 0,
            first_looks: 0,
            known: BTreeMap::new(),
            wanted: BTreeMap::new(),
            running: None,
            is_out: false,
        }
    }

    /// How often partitions are looked at, milliseconds.
    pub(super) fn backoff(&self) -> Millis {
        self.backoff
    }

    pub(super) fn deadline(&self) -> Millis {
        if self.is_out || !self.is_enabled { Millis::MAX } else { self.next }
    }

    /// A group is to be clean up to here, or further.
    pub(super) fn want(&mut self, group: GroupId, until: Offset) {
        let wanted = self.wanted.entry(group).or_insert((until, None));
        *wanted = (until.max(wanted.0), None);
    }
}

impl Shard {
    pub(super) fn tick_cleaning(&mut self, now: Now) {
        if now.mono < self.cleaning.deadline() {
            return;
        }
        if self.is_leaving() {
            self.cleaning.next = now.mono + self.cleaning.backoff;
            return;
        }
        match self.cleaning.running.take() {
            None => {
                self.cleaning.next = now.mono + self.cleaning.backoff;
                self.look_for_dirt(now);
            }
            Some(running) if !self.may_go_on(&running) => {
                self.abandon(now, running.group, running.next);
            }
            Some(mut running) => {
                if running.next.is_none() {
                    self.begin_chunk(now, &mut running);
                }
                if running.next.is_none() && running.chunks.is_empty() {
                    return self.end_pass(running);
                }
                self.cleaning.running = (running.pass.is_some() || running.next.is_some()).then_some(running);
            }
        }
    }

    fn is_leaving(&self) -> bool {
        self.drain.is_some() || self.status.storage_failure.is_some()
    }

    /// A step to be run elsewhere, if one is due.
    pub fn take_cleaning(&mut self, now: Now) -> Option<CleanerStep> {
        if self.cleaning.is_out || now.mono < self.cleaning.next || self.is_leaving() {
            return None;
        }
        let step = self.cleaning.running.as_mut()?.next.take();
        self.cleaning.is_out = step.is_some();
        step
    }

    /// A step was run.
    pub(super) fn on_cleaned(&mut self, now: Now, mut step: CleanerStep) {
        self.cleaning.is_out = false;
        let Some(mut running) = self.cleaning.running.take() else { return };
        let group = running.group;
        match step.outcome.take() {
            // Damage it met holds the replica out by now, and is why.
            Some(Err(error)) => {
                let is_same = matches!(error, Error::OutOfRange) && self.may_go_on(&running);
                match step.job {
                    Job::Rewrite(_) if is_same && self.leaves_out_what_is_gone(&mut running) => {
                        self.engine.store().cancel_rewrite(group);
                        self.cleaning.next = now.mono;
                        running.pass = Some(step.pass);
                        self.cleaning.running = Some(running);
                    }
                    _ => self.note_failure(now, group, Some(step), &error),
                }
            }
            _ if !self.may_go_on(&running) => self.abandon(now, group, Some(step)),
            None => self.abandon(now, group, Some(step)),
            Some(Ok(Progress::More(bytes))) => {
                running.bytes_read += bytes;
                running.bytes_left = running.bytes_left.saturating_sub(bytes);
                self.cleaning.next = now.mono + self.pause(bytes);
                running.next = Some(step);
                self.cleaning.running = Some(running);
            }
            Some(Ok(Progress::Done)) => {
                let bytes = std::mem::take(&mut running.bytes_left);
                running.bytes_read += bytes;
                self.cleaning.next = now.mono + self.pause(bytes);
                self.end_job(now, running, step);
            }
        }
    }

    /// How long so many bytes are to take.
    fn pause(&self, bytes: u64) -> Millis {
        let own = self.image.broker_configs.get(&self.node());
        let rate = configs::broker_number(RATE, own, &self.image.configs, &self.config.node.defaults);
        let rate = rate.and_then(|rate| u64::try_from(rate).ok()).unwrap_or(u64::MAX);
        (bytes.saturating_mul(1_000) / rate.max(1)).min(STEP_WAIT_MS)
    }

    /// Whether the replica may be compacted as things are.
    fn may_clean(&self, group: GroupId, replica: ReplicaId) -> bool {
        let fits = |p: &crate::broker::partition::Partition| {
            p.replica == replica && p.config.compacts && p.out_of_service.is_none() && p.unsettled.is_none()
        };
        let store = self.engine.store_ref();
        self.partitions.get(&group).is_some_and(fits)
            && self.engine.core(group).is_some_and(|core| core.doubt() == Doubt::None)
            && !self.engine.is_repairing(group)
            && store.needs_repair(group).is_none()
    }

    fn may_go_on(&self, running: &Running) -> bool {
        let (generation, commit, changes) = running.log;
        let fits = |log: (Generation, Index, u64)| {
            let is_same = log.2 == changes || on(Mutation::PassOutlivesItsLog);
            log.0 == generation && is_same && log.1 >= commit
        };
        self.may_clean(running.group, running.replica) && self.log_of(running.group).is_some_and(fits)
    }

    fn log_of(&self, group: GroupId) -> Option<(Generation, Index, u64)> {
        let core = self.engine.core(group)?;
        let changes = self.engine.store_ref().changes(group);
        Some((core.epoch().generation, self.partitions.get(&group)?.commit, changes))
    }

    /// An early end costs a partition its turn, so that it keeps none from others.
    fn rest(&mut self, now: Now, group: GroupId, ms: Millis) {
        if let Some(known) = self.cleaning.known.get_mut(&group) {
            known.rests_until = now.mono + ms;
        }
    }

    /// Looks at every compacted partition, and begins with the dirtiest.
    fn look_for_dirt(&mut self, now: Now) {
        let compacted: BTreeSet<(GroupId, ReplicaId)> =
            self.partitions.values().filter(|p| p.config.compacts).map(|p| (p.group, p.replica)).collect();
        self.cleaning.known.retain(|group, known| compacted.contains(&(*group, known.replica)));
        let compacts = |group: &GroupId| self.partitions.get(group).is_some_and(|p| p.config.compacts);
        self.cleaning.wanted.retain(|group, _| compacts(group));
        let mut looks = Vec::new();
        self.cleaning.first_looks = FIRST_LOOKS;
        for (group, replica) in compacted {
            if self.may_clean(group, replica)
                && let Some((look, policy)) = self.look_at_dirt(now, group, replica)
            {
                looks.push((group, look, policy));
            }
        }
        let ratios = looks.iter().map(|(_, look, _)| look.dirty_ratio());
        self.status.cleaner.dirty_ratio = ratios.fold(0.0, f64::max);
        let waits = |group: &GroupId| {
            let known = self.cleaning.known.get(group);
            let failed = known.and_then(|known| known.failed.as_ref());
            known.is_some_and(|known| known.rests_until > now.mono)
                || failed.is_some_and(|failed| failed.until > now.mono)
        };
        looks.retain(|(group, ..)| !waits(group));
        for (group, ..) in looks.iter().filter(|(_, look, policy)| !look.is_due(policy)) {
            // There is nothing to fail any more.
            if let Some(known) = self.cleaning.known.get_mut(group) {
                known.failed = None;
            }
        }
        self.tell_uncleanable();
        if let Some((group, look)) = plan::choose(looks.into_iter())
            && !self.waits_for_floor(now, group)
            && let Err(error) = self.begin_pass(now, group, look)
        {
            self.note_failure(now, group, None, &error);
        }
    }

    /// How one partition stands.
    fn look_at_dirt(&mut self, now: Now, group: GroupId, replica: ReplicaId) -> Option<(Look, Policy)> {
        let first_dirty = self.engine.store_ref().cleaned(group).ok()?.clean;
        let is_wanted = self.is_wanted(now, group, first_dirty);
        let p = self.partitions.get(&group)?;
        let (policy, committed) = (policy_of(&p.config), p.high_watermark);
        let closed = self.engine.store_ref().closed_files(group).ok()?;
        self.cleaning.known.entry(group).or_insert_with(|| Known {
            replica,
            first_times: BTreeMap::new(),
            active: None,
            failed: None,
            rests_until: 0,
        });
        let mut files: Vec<File> = closed.iter().map(file_of).collect();
        if policy.max_lag_ms != i64::MAX {
            self.close_old(now, group, policy.max_lag_ms);
            self.note_first_times(group, first_dirty, &closed, &mut files);
        }
        let look = plan::look(&files, first_dirty, committed, &policy, now.wall_ms);
        Some((Look { is_wanted, ..look }, policy))
    }

    /// Whether another replica waits for this one to be clean to where it is not. What is appended to is closed for that.
    fn is_wanted(&mut self, now: Now, group: GroupId, clean: Offset) -> bool {
        let Some((until, counts)) = self.cleaning.wanted.get_mut(&group) else { return false };
        let (until, counts) = (*until, *counts.get_or_insert(now.mono + WANTED_MS));
        if clean >= until || now.mono >= counts {
            self.cleaning.wanted.remove(&group);
            return false;
        }
        let segments = self.engine.store_ref().segments(group).unwrap_or_default();
        let holds = |file: &&SegmentInfo| file.base_offset < until && until <= file.next_offset;
        if segments.last().filter(holds).is_some()
            && let Err(error) = self.engine.store().roll(group)
        {
            tracing::warn!(%group, %error, "active segment could not be rolled");
        }
        true
    }

    /// `max.compaction.lag.ms`: what is written to for that long is closed, however little it is.
    fn close_old(&mut self, now: Now, group: GroupId, max_lag_ms: i64) {
        let Ok(segments) = self.engine.store_ref().segments(group) else { return };
        let active = segments.last().filter(|s| s.active && s.next_offset > s.base_offset).map(|s| s.first);
        let Some(known) = self.cleaning.known.get_mut(&group) else { return };
        known.active = match (known.active, active) {
            (Some((seen, since)), Some(first)) if seen == first => Some((seen, since)),
            (_, first) => first.map(|first| (first, now.wall_ms)),
        };
        if known.active.is_some_and(|(_, since)| now.wall_ms.saturating_sub(since) >= max_lag_ms)
            && let Err(error) = self.engine.store().roll(group)
        {
            tracing::warn!(%group, %error, "active segment could not be rolled");
        }
    }

    /// Fills in when the dirty files begin; each is read for that once, a few in a turn. The others have their turn at the next look.
    fn note_first_times(&mut self, group: GroupId, dirty: Offset, closed: &[ClosedFile], files: &mut [File]) {
        let Some(known) = self.cleaning.known.get_mut(&group) else { return };
        known.first_times.retain(|number, _| closed.iter().any(|file| file.number == *number));
        for (closed, file) in closed.iter().zip(files).filter(|(closed, _)| closed.next_offset > dirty) {
            if let Some(time) = known.first_times.get(&closed.number) {
                file.first_timestamp = Some(*time);
            } else if self.cleaning.first_looks > 0 {
                self.cleaning.first_looks -= 1;
                let read = self.engine.store().read(group, closed.first, FIRST_BYTES).unwrap_or_default();
                let first = read.iter().find(|entry| entry.meta.kind == EntryKind::Records);
                let header = first.and_then(|entry| BatchHeader::read(&entry.payload));
                let time = header.map_or(closed.max_timestamp, |header| header.max_timestamp);
                known.first_times.insert(closed.number, time);
                file.first_timestamp = Some(time);
            }
        }
    }

    /// The leader is asked first how clean the others are.
    fn waits_for_floor(&mut self, now: Now, group: GroupId) -> bool {
        let waits = self.asks_for_floor(now, group);
        if waits {
            self.cleaning.next = now.mono + BUSY_MS.min(self.cleaning.backoff);
        }
        waits
    }

    /// Begins to read what is dirty.
    fn begin_pass(&mut self, now: Now, group: GroupId, look: Look) -> Result<(), Error> {
        self.rest(now, group, BUSY_MS * 4);
        let (Some(p), Some(log)) = (self.partitions.get(&group), self.log_of(group)) else { return Ok(()) };
        // None: the producers' state is ahead of what is committed; it soon is not.
        let Some(producers) = p.remembered_producers() else { return Ok(()) };
        let replica = p.replica;
        let (delete_retention_ms, floor) = (p.config.delete_retention_ms, self.floor_of(group));
        let closed = self.engine.store_ref().closed_files(group)?;
        let is_dirty =
            |file: &&ClosedFile| file.next_offset > look.first_dirty && file.next_offset <= look.until;
        let dirty: Vec<u64> = closed.iter().filter(is_dirty).map(|file| file.number).collect();
        let Some(reader) = self.engine.store().read_closed(group, &dirty)? else {
            // Not everything has reached its file.
            self.cleaning.next = now.mono + BUSY_MS.min(self.cleaning.backoff);
            return Ok(());
        };
        let passes = self.cleaning.passes;
        let terms = Terms {
            first_dirty: look.first_dirty,
            until: look.until,
            now_ms: now.wall_ms,
            delete_retention_ms,
            floor,
            producers,
            buffer_bytes: self.cleaning.buffer_bytes,
            // The boot id is random, and no client knows it.
            salt: [self.config.boot as u64 ^ passes, (self.config.boot >> 64) as u64 ^ passes],
        };
        tracing::debug!(%group, from = %look.first_dirty, to = %look.until, dirty = look.dirty_bytes, "compaction begins");
        self.cleaning.passes += 1;
        self.cleaning.next = now.mono;
        self.status.cleaner.running = Some(group);
        self.cleaning.running = Some(Running {
            group,
            replica,
            log,
            look,
            chunks: VecDeque::new(),
            pass: None,
            next: Some(CleanerStep::new(Job::Learn(Box::new(reader)), Box::new(Pass::new(terms)))),
            current: Chunk::default(),
            busy: 0,
            bytes_read: 0,
            bytes_left: closed.iter().filter(is_dirty).map(|file| file.bytes).sum(),
        });
        Ok(())
    }

    /// A file was read to its end, or its successor is complete.
    fn end_job(&mut self, now: Now, mut running: Running, step: CleanerStep) {
        let (group, mut pass) = (running.group, step.pass);
        match step.job {
            Job::Learn(_) => match self.engine.store_ref().closed_files(group) {
                Ok(closed) => {
                    let ends = closed.iter().map(|file| file.next_offset);
                    let learned = |end: &Offset| *end > running.look.first_dirty && *end <= pass.end();
                    if let Some(end) = ends.filter(learned).max() {
                        pass.stop_at(end);
                    }
                    running.chunks = self.chunks(group, &closed, &running.look, pass.end());
                }
                Err(error) => return self.note_failure(now, group, None, &error),
            },
            Job::Rewrite(rewrite) => match self.swap(&running, &pass, *rewrite) {
                Ok(Ended::Replaced | Ended::Unchanged) => {}
                Ok(Ended::Void) if self.leaves_out_what_is_gone(&mut running) => {}
                Ok(Ended::Void) => return self.abandon(now, group, None),
                Err(error) => return self.note_failure(now, group, None, &error),
            },
        }
        running.busy = 0;
        running.pass = Some(pass);
        if running.chunks.is_empty() {
            self.end_pass(running);
        } else {
            self.cleaning.running = Some(running);
        }
    }

    /// Puts a new file in its place; what may be missing from now on, and that the copy is clean up to its end, as far as the pass has learned,
    /// is recorded in the same round.
    fn swap(&mut self, running: &Running, pass: &Pass, rewrite: Rewrite) -> Result<Ended, Error> {
        let group = running.group;
        let store = self.engine.store();
        if !on(Mutation::DropUnrecorded) {
            store.note_dropped(group, pass.dropped())?;
        }
        let ended = store.end_rewrite(rewrite)?;
        if matches!(ended, Ended::Replaced | Ended::Unchanged) {
            store.note_cleaned(group, running.current.end().min(pass.end()))?;
        }
        Ok(ended)
    }

    /// What is being rewritten is put back, but for the files that the log start has passed meanwhile; false: there are none. Their successors
    /// know as much of the log as before.
    fn leaves_out_what_is_gone(&self, running: &mut Running) -> bool {
        let closed = self.engine.store_ref().closed_files(running.group).unwrap_or_default();
        let is_here = |number: u64| closed.iter().any(|file| file.number == number);
        let Chunk { mut files, bytes } = std::mem::take(&mut running.current);
        let before = files.len();
        files.retain(|(number, _)| is_here(*number));
        let is_less = files.len() < before && !closed.is_empty();
        if is_less && !files.is_empty() {
            running.chunks.push_front(Chunk { files, bytes });
        }
        is_less
    }

    /// Files that become one: as many neighbours as make up one segment.
    fn chunks(&self, group: GroupId, closed: &[ClosedFile], look: &Look, end: Offset) -> VecDeque<Chunk> {
        let most = self.partitions.get(&group).map_or(0, |p| p.config.segment_bytes);
        let mut chunks = VecDeque::<Chunk>::new();
        for file in closed.iter().filter(|file| file.base_offset < end && file.next_offset <= look.until) {
            match chunks.back_mut() {
                Some(chunk) if chunk.bytes + file.bytes <= most => {
                    chunk.files.push((file.number, file.next_offset));
                    chunk.bytes += file.bytes;
                }
                _ => chunks
                    .push_back(Chunk { files: vec![(file.number, file.next_offset)], bytes: file.bytes }),
            }
        }
        chunks
    }

    /// Begins to write the successor of the next files.
    fn begin_chunk(&mut self, now: Now, running: &mut Running) {
        let (group, committed) = (running.group, self.partitions.get(&running.group).map(|p| p.commit));
        let (Some(chunk), Some(committed)) = (running.chunks.front(), committed) else { return };
        self.cleaning.next = now.mono;
        match self.engine.store().begin_rewrite(group, &chunk.numbers(), committed) {
            Ok(Some(rewrite)) => {
                running.bytes_left = chunk.bytes;
                running.current = running.chunks.pop_front().unwrap_or_default();
                running.next =
                    running.pass.take().map(|pass| CleanerStep::new(Job::Rewrite(Box::new(rewrite)), pass));
            }
            Ok(None) if running.busy < BUSY_TRIES => {
                running.busy += 1;
                self.cleaning.next = now.mono + BUSY_MS;
            }
            Ok(None) => {
                running.pass = None;
                self.abandon(now, group, None);
            }
            // The log start has passed them.
            Err(Error::OutOfRange) if chunk.files.len() == 1 && self.is_gone(group, chunk) => {
                running.chunks.pop_front();
            }
            // Something without entries lies between them.
            Err(Error::OutOfRange) if chunk.files.len() > 1 => {
                let Chunk { files, bytes } = running.chunks.pop_front().unwrap_or_default();
                let bytes = bytes / files.len().max(1) as u64;
                let apart = |file| Chunk { files: vec![file], bytes };
                files.into_iter().rev().for_each(|file| running.chunks.push_front(apart(file)));
            }
            Err(error) => {
                running.pass = None;
                self.note_failure(now, group, None, &error);
            }
        }
    }

    fn is_gone(&self, group: GroupId, chunk: &Chunk) -> bool {
        let closed = self.engine.store_ref().closed_files(group).unwrap_or_default();
        !closed.is_empty()
            && chunk.files.iter().all(|(number, _)| closed.iter().all(|file| file.number != *number))
    }

    fn end_pass(&mut self, running: Running) {
        let Some(pass) = running.pass else { return };
        let (group, figures) = (running.group, pass.figures());
        let closed = self.engine.store_ref().closed_files(group).unwrap_or_default();
        let left: u64 =
            closed.iter().filter(|file| file.next_offset <= running.look.until).map(|file| file.bytes).sum();
        if let Some(known) = self.cleaning.known.get_mut(&group) {
            (known.failed, known.rests_until) = (None, 0);
        }
        tracing::info!(
            %group, to = %pass.end(), before = running.look.bytes, after = left, records = figures.read,
            superseded = figures.superseded, tombstones = figures.tombstones, keys = figures.keys, full = figures.is_full, "compacted"
        );
        if figures.unreadable > 0 {
            tracing::warn!(%group, batches = figures.unreadable, "batches that cannot be read were kept as they are");
        }
        let status = &mut self.status.cleaner;
        status.passes += 1;
        status.bytes_read += running.bytes_read;
        status.bytes_freed += running.look.bytes.saturating_sub(left);
        status.records_superseded += figures.superseded;
        status.tombstones_removed += figures.tombstones;
        status.running = None;
        self.tell_uncleanable();
    }

    /// Gives a compaction up, without blame. What it has replaced so far stays replaced.
    pub(super) fn abandon(&mut self, now: Now, group: GroupId, step: Option<CleanerStep>) {
        self.cleaning.next = now.mono + self.cleaning.backoff;
        if let Some(CleanerStep { job: Job::Rewrite(_), .. }) = step {
            // Whole or not: nothing has been recorded of what it leaves out.
            self.engine.store().cancel_rewrite(group);
        }
        self.rest(now, group, RESTS_MS);
        self.status.cleaner.running = None;
        self.cleaning.running = None;
    }

    /// A compaction failed: the partition is left alone for a while.
    fn note_failure(&mut self, now: Now, group: GroupId, step: Option<CleanerStep>, error: &Error) {
        self.abandon(now, group, step);
        // These pass, and are nothing of the partition's.
        if matches!(error, Error::DiskFull | Error::Busy(_) | Error::OutOfRange | Error::UnknownGroup(_)) {
            tracing::debug!(%group, %error, "compaction given up for now");
            return;
        }
        let Some(known) = self.cleaning.known.get_mut(&group) else { return };
        let wait = known.failed.as_ref().map_or(FAILED_MS, |failed| (failed.wait * 2).min(FAILED_MAX_MS));
        tracing::error!(%group, %error, "compaction failed; the partition is not compacted for now");
        known.failed = Some(Failure { why: error.to_string(), until: now.mono + wait, wait });
        self.tell_uncleanable();
    }

    fn tell_uncleanable(&mut self) {
        let failed = |(group, known): (&GroupId, &Known)| Some((*group, known.failed.as_ref()?.why.clone()));
        self.status.cleaner.uncleanable = self.cleaning.known.iter().filter_map(failed).collect();
    }
}

fn policy_of(config: &TopicConfig) -> Policy {
    Policy {
        min_dirty_ratio: config.min_dirty_ratio,
        min_lag_ms: config.min_compaction_lag_ms,
        max_lag_ms: config.max_compaction_lag_ms,
    }
}

fn file_of(file: &ClosedFile) -> File {
    File {
        base_offset: file.base_offset,
        next_offset: file.next_offset,
        bytes: file.bytes,
        first_timestamp: None,
        max_timestamp: file.max_timestamp,
        is_active: false,
    }
}
