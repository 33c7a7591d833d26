//! The front half of a data directory: takes changes, keeps recent entries in memory, gathers rounds,
//! answers reads. Owned by one engine thread; talks to the writer only by [`Round`] and [`RoundDone`].
//! Not here: anything that makes data durable (`writer`), clocks, randomness.
//!
//! * An entry gets its place (file, byte) and its disk space before it is taken; it never moves.
//! * Nothing is taken when an error is returned.
//! * After a failed round the store is latched shut: every mutation answers `Failed`, reads go on.

mod aside;
mod cache;
mod cleaned;
mod cursor;
mod cutting;
mod loose;
mod place;
mod read;
mod repair;
mod rewriting;
mod scrubbing;

pub use read::{FetchedBatch, FrameCheck};
pub use repair::{Mended, Repair};

use super::fs::{Fs, OpenMode, sync_names};
use super::group::{Group, Segment, Tail, TailEntry};
use super::image::{FileImage, GroupImage};
use super::index::{Slot, TermIndex};
use super::record::{Creation, Record};
use super::round::{Change, Durable, Entries, FileRef, Op, Remains, Round, RoundDone, is_configuration};
use super::tombstones::Cleaned;
use super::types::*;
use super::{Error, GroupOptions, GroupSpec, Result, StoreOptions, frame, segment_file};
use crate::mutation::{Mutation, on};
use cache::Lru;
use read::DamageLog;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Front half of a data directory, owned by one engine thread. Never blocks on the disk except for
/// rolls, preallocation and cold reads. Everything queued since the last `take_round` becomes one round.
pub struct Store {
    fs: Arc<dyn Fs>,
    options: StoreOptions,
    groups: HashMap<GroupId, Group>,
    cluster: Option<String>,
    suspects: HashSet<String>,
    /// Directory names in use, or not certainly gone.
    dirs: HashSet<String>,
    next_file: u64,
    ops: Vec<Op>,
    /// Number of the round being gathered.
    round: u64,
    is_in_flight: bool,
    failure: Option<String>,
    /// Bytes that were refused for lack of space, until something was granted.
    refused_bytes: Option<u64>,
    tail_bytes: usize,
    /// Bytes of entries that wait for the next round, and of those in the present one.
    queued_bytes: u64,
    flying_bytes: u64,
    /// Somebody waits for entries to reach their files: a round must come, with or without something to store.
    wants_written: bool,
    loose: loose::LooseState,
    /// Entries in the tails, oldest first.
    tail_order: VecDeque<(GroupId, Index)>,
    lru: Lru,
    damage: Arc<DamageLog>,
    repairs: BTreeMap<GroupId, repair::Session>,
    rewriting: rewriting::Rewriting,
    scrub: scrubbing::Scrubbing,
    /// Bytes the journal has yet to take from the disk.
    journal_need: Arc<AtomicU64>,
    _lock: Arc<Box<dyn Send + Sync>>,
}

/// What recovery hands to the front half.
pub(crate) struct Parts {
    pub fs: Arc<dyn Fs>,
    pub options: StoreOptions,
    pub groups: Vec<GroupImage>,
    pub cluster: Option<String>,
    pub suspects: HashSet<String>,
    pub dirs: HashSet<String>,
    pub next_file: u64,
    pub journal_need: Arc<AtomicU64>,
    pub lock: Arc<Box<dyn Send + Sync>>,
}

impl Store {
    pub(crate) fn new(parts: Parts) -> Self {
        let lru = Lru::new(parts.fs.limits());
        let damaged = parts.groups.iter().filter(|g| g.needs_repair.is_some()).map(|g| g.group);
        let damage = Arc::new(DamageLog::knowing(damaged));
        let groups = parts.groups.into_iter().map(|image| {
            let segments = image.files.iter().map(|f| Segment::found(f.number, f.end)).collect();
            (image.group, Group::new(image, segments))
        });
        Self {
            groups: groups.collect(),
            fs: parts.fs,
            options: parts.options,
            cluster: parts.cluster,
            suspects: parts.suspects,
            dirs: parts.dirs,
            next_file: parts.next_file,
            ops: Vec::new(),
            round: 1,
            is_in_flight: false,
            failure: None,
            refused_bytes: None,
            tail_bytes: 0,
            queued_bytes: 0,
            flying_bytes: 0,
            wants_written: false,
            loose: loose::LooseState::default(),
            tail_order: VecDeque::new(),
            lru,
            damage,
            repairs: BTreeMap::new(),
            rewriting: rewriting::Rewriting::default(),
            scrub: scrubbing::Scrubbing::default(),
            journal_need: parts.journal_need,
            _lock: parts.lock,
        }
    }

    fn ready(&self) -> Result<()> {
        match &self.failure {
            Some(why) => Err(Error::Failed(why.clone())),
            None => Ok(()),
        }
    }

    fn group(&self, group: GroupId) -> Result<&Group> {
        self.groups.get(&group).ok_or(Error::UnknownGroup(group))
    }

    fn group_mut(&mut self, group: GroupId) -> Result<&mut Group> {
        self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))
    }

    /// Queues an op of a group and remembers that it was the group's last.
    fn queue(&mut self, group: GroupId, op: Op) {
        let (round, at) = (self.round, self.ops.len());
        self.ops.push(op);
        if let Some(group) = self.groups.get_mut(&group) {
            group.last_op = Some((round, at));
        }
    }

    /// A disk error in the front half: full is an answer, anything else shuts the store.
    fn latch(&mut self, error: Error) -> Error {
        match &error {
            Error::DiskFull => self.refused_bytes = Some(0),
            Error::Failed(why) => self.failure = Some(why.clone()),
            _ => {}
        }
        error
    }

    /// Records the cluster id (once; refused if another is stored). Durable with the returned round.
    pub fn set_cluster(&mut self, cluster: &str) -> Result<()> {
        self.ready()?;
        match &self.cluster {
            Some(known) if known == cluster => return Ok(()),
            Some(known) => {
                return Err(Error::Refused(format!(
                    "data directory {} belongs to cluster {known}, not to {cluster}: start this node with \
                     another directory",
                    self.options.dir.display()
                )));
            }
            None => {}
        }
        self.cluster = Some(cluster.to_owned());
        self.ops.push(Change::plain(Record::Cluster(cluster.to_owned())));
        Ok(())
    }

    /// Creates a group; durable with the next round.
    ///
    /// Answers the hard state it really begins with: a group that may have been here before and was lost to
    /// damage begins in doubt of its votes (safety.md F8, F11).
    ///
    /// # Panics
    /// If the group exists or its name is no plain directory name.
    pub fn create_group(&mut self, spec: GroupSpec) -> Result<HardState> {
        self.ready()?;
        assert!(!self.groups.contains_key(&spec.group), "group {} exists", spec.group);
        let is_plain =
            !spec.name.is_empty() && !spec.name.starts_with('.') && !spec.name.contains(['/', '\0']);
        assert!(is_plain, "group name {:?} is no plain directory name", spec.name);
        let number = self.next_file;
        let dir = if self.dirs.contains(&spec.name) {
            format!("{}.{number:x}", spec.name)
        } else {
            spec.name.clone()
        };
        let mut hard_state = spec.hard_state;
        if self.suspects.contains(&spec.name) {
            hard_state.doubt = Doubt::Vote;
        }
        let image = GroupImage {
            group: spec.group,
            name: spec.name.clone(),
            dir: dir.clone(),
            replica: spec.replica,
            options: spec.options.clone(),
            hard_state,
            log_start: spec.log_start.clone(),
            files: vec![FileImage::new(number, spec.log_start.prev, spec.log_start.base_offset)],
            terms: TermIndex::default(),
            configurations: Vec::new(),
            needs_repair: None,
            cleaned: Cleaned::starting_at(spec.log_start.base_offset),
        };
        let path = segment_file::groups_dir(&self.options.dir).join(&dir);
        let made = self.fs.create_dir(&path).map_err(|e| super::error::failed("create", &path, &e));
        made.map_err(|e| self.latch(e))?;
        let (segment, new) = self.create_segment(spec.group, &dir, &image.files[0], 0, true)?;
        // Only now: a creation that failed leaves the suspicion to the next one.
        self.suspects.remove(&spec.name);
        self.dirs.insert(dir.clone());
        let mut group = Group::new(image, vec![segment]);
        // Rounds that are out speak of a replica that was here before.
        group.recut(self.round, LogId::default());
        self.groups.insert(spec.group, group);
        let creation = Creation {
            name: spec.name,
            dir,
            replica: spec.replica,
            options: spec.options,
            hard_state,
            log_start: spec.log_start,
            file: number,
        };
        let record = Record::Create(spec.group, Box::new(creation));
        let op = Change {
            record,
            new: Some(new),
            trim: None,
            unlink: Vec::new(),
            is_aside: false,
            remove_dir: None,
        };
        self.queue(spec.group, Op::Change(Box::new(op)));
        Ok(hard_state)
    }

    /// Forgets a group: its directory goes once the removal is durable.
    pub fn remove_group(&mut self, group: GroupId) -> Result<()> {
        self.remove_group_but(group, Remains::Nothing)
    }

    /// Forgets a group, and leaves something of it on the disk: its log only after [`Store::keep_log`]. Fails only if the store has.
    ///
    /// # Panics
    /// If the log is to remain and was not marked so.
    pub fn remove_group_but(&mut self, group: GroupId, remains: Remains) -> Result<()> {
        self.ready()?;
        let dir = segment_file::groups_dir(&self.options.dir).join(&self.group(group)?.image.dir);
        assert!(remains != Remains::Log || self.group(group)?.is_kept, "the log of {group} is marked first");
        self.abandon_repair(group);
        self.cancel_rewrite(group);
        let mut gone = self.groups.remove(&group).ok_or(Error::UnknownGroup(group))?;
        self.loose.forget(group);
        self.tail_bytes -= gone.tail.clear();
        self.lru.forget(&gone.segments);
        self.damage.forget(group);
        let op = Change {
            record: Record::Remove(group),
            new: None,
            trim: None,
            unlink: Vec::new(),
            is_aside: false,
            remove_dir: Some((dir, remains)),
        };
        self.ops.push(Op::Change(Box::new(op)));
        Ok(())
    }

    /// The group's log is to stay when the group is removed, also if a crash comes in between. Blocks for a sync.
    pub fn keep_log(&mut self, group: GroupId) -> Result<()> {
        self.ready()?;
        let dir = segment_file::groups_dir(&self.options.dir).join(&self.group(group)?.image.dir);
        let mark = match self.fs.open(&dir.join(segment_file::KEPT), OpenMode::CreateNew) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
            _ => sync_names(&*self.fs, &dir),
        };
        mark.map_err(|e| super::error::failed("mark", &dir, &e)).map_err(|e| self.latch(e))?;
        self.group_mut(group)?.is_kept = true;
        Ok(())
    }

    /// Changes a group's knobs.
    pub fn set_options(&mut self, group: GroupId, options: GroupOptions) -> Result<()> {
        self.ready()?;
        let g = self.group_mut(group)?;
        if g.image.options != options {
            g.image.options = options.clone();
            self.queue(group, Change::plain(Record::Options(group, options)));
        }
        Ok(())
    }

    /// Appends entries that continue the group's log. All-or-nothing: on DiskFull nothing is taken.
    ///
    /// # Panics
    /// If index, predecessor and base offset do not continue the log.
    pub fn append(&mut self, group: GroupId, entries: Vec<Entry>) -> Result<()> {
        self.ready()?;
        let g = self.group(group)?;
        let Some(first) = entries.first() else {
            return Ok(());
        };
        assert!(g.image.fits(&first.meta), "{:?} does not continue {:?}", first.meta, g.image.last());
        for pair in entries.windows(2) {
            let (a, b) = (&pair[0].meta, &pair[1].meta);
            let fits =
                b.predecessor() == a.id && b.id.epoch >= a.id.epoch && b.base_offset == a.next_offset();
            assert!(fits, "{b:?} does not continue {a:?}");
        }
        let runs = self.runs(group, &entries)?;
        let mut prepared = self.prepare_runs(group, &runs, &entries)?.into_iter();
        let mut rest = entries;
        for run in runs {
            if run.rolls {
                let (segment, new) = prepared.next().expect("one segment was made per roll");
                self.open_segment(group, segment, new);
            }
            let after = if run.count == rest.len() { Vec::new() } else { rest.split_off(run.count) };
            self.push_entries(group, std::mem::replace(&mut rest, after), run.bytes)?;
        }
        self.evict();
        Ok(())
    }

    /// Takes entries into the active file, which has room for them.
    fn push_entries(&mut self, group: GroupId, mut entries: Vec<Entry>, bytes: u64) -> Result<()> {
        let loose = self.is_loose(group, &entries);
        let begins_run = |pair: &[Entry]| {
            pair.iter().any(is_configuration) || pair[0].meta.id.epoch != pair[1].meta.id.epoch
        };
        if !entries.windows(2).any(begins_run) {
            return self.push_run(group, entries, bytes, loose);
        }
        while !entries.is_empty() {
            let run = entries.windows(2).position(begins_run).map_or(entries.len(), |at| at + 1);
            let rest = entries.split_off(run);
            let bytes = entries.iter().map(|entry| frame::frame_len(entry.meta.payload_len)).sum();
            self.push_run(group, std::mem::replace(&mut entries, rest), bytes, loose)?;
        }
        Ok(())
    }

    /// A configuration is an op of its own, and goes by value: recovery takes it from the journal, whatever has become of the file. So are
    /// entries of another epoch: what a record says of an extent is then all that the term index has to know of it.
    fn push_run(&mut self, group: GroupId, entries: Vec<Entry>, bytes: u64, loose: bool) -> Result<()> {
        let handle = self.active_handle(group)?;
        if loose {
            self.note_loose(group);
        }
        self.queued_bytes += bytes;
        let (round, order, cost) = (self.round, &mut self.tail_order, &mut self.tail_bytes);
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let (byte, number) = (g.image.active().end, g.image.active().number);
        let interval = g.image.options.index_interval_bytes;
        let mut slots = Vec::new();
        for entry in &entries {
            let active = g.image.active();
            let slot = Slot {
                index: entry.meta.id.index,
                base_offset: entry.meta.base_offset,
                byte: active.end,
                max_before: active.max_timestamp,
            };
            let place = active.end;
            slots.extend(g.segments.last_mut().and_then(|s| s.index.offer(interval, slot)));
            let max_timestamp = frame::max_timestamp(entry.meta.kind, &entry.payload);
            let len = frame::frame_len(entry.meta.payload_len);
            g.image.push(&entry.meta, len, max_timestamp, &entry.payload);
            *cost += Tail::cost(entry);
            order.push_back((group, entry.meta.id.index));
            g.tail.push(TailEntry { entry: entry.clone(), file: number, byte: place, max_timestamp });
        }
        // One op per group and round where nothing stands between: it decides by value or reference.
        if let Some((_, at)) = g.last_op.filter(|(r, _)| *r == round)
            && let Some(Op::Entries(op)) = self.ops.get_mut(at)
            && op.file.number == number
            && op.byte + op.bytes == byte
            && op.entries.last().map(|e| e.meta.id.epoch) == entries.first().map(|e| e.meta.id.epoch)
        {
            op.loose &= loose;
            if !op.is_configuration() && !entries.first().is_some_and(is_configuration) {
                op.bytes += bytes;
                op.entries.extend(entries);
                op.slots.extend(slots);
                return Ok(());
            }
        }
        let file = FileRef { number, handle };
        let op = Entries { group, file, byte, bytes, entries, slots, loose };
        self.queue(group, Op::Entries(Box::new(op)));
        Ok(())
    }

    /// Hard state, durable with the next round, ordered with the appends.
    pub fn save_hard_state(&mut self, group: GroupId, mut state: HardState) -> Result<()> {
        self.ready()?;
        let g = self.group_mut(group)?;
        if g.image.needs_repair.is_some() && state.doubt == Doubt::None {
            state.doubt = Doubt::Entries;
        }
        // Storage alone knows what is synced.
        state.dirty = g.image.hard_state.dirty;
        g.image.hard_state = state;
        self.queue(group, Change::plain(Record::HardState(group, state)));
        Ok(())
    }

    /// A new generation begins with this entry: hard state and entry in one round, so in one batch of the journal,
    /// which is whole after a crash or not there at all (safety.md F2). On an error nothing is taken.
    pub fn take_over(&mut self, group: GroupId, state: HardState, entry: Entry) -> Result<()> {
        self.append(group, vec![entry])?;
        if on(Mutation::TakeOverWithoutState) {
            return Ok(());
        }
        self.save_hard_state(group, state)
    }

    /// Moves the log start forward within the log (frees whole segments before it once durable).
    ///
    /// # Panics
    /// If it moves back or beyond the end of the log.
    pub fn set_log_start(&mut self, group: GroupId, start: LogStart) -> Result<()> {
        self.ready()?;
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let (now, last) = (g.image.log_start.prev.index, g.image.last().index);
        let index = start.prev.index;
        assert!(now <= index && index <= last, "log start {index} outside {now}..={last}");
        let dropped = g.image.set_log_start(&start);
        self.lru.forget_some(&g.segments, &dropped);
        g.drop_files(&dropped);
        self.tail_bytes -= g.tail.evict(index, |_, _| true);
        let dir = g.image.dir.clone();
        let unlink = self.paths(&dir, &dropped);
        let record = Record::LogStart(group, Box::new(start));
        let op = Change { record, new: None, trim: None, unlink, is_aside: false, remove_dir: None };
        self.queue(group, Op::Change(Box::new(op)));
        Ok(())
    }

    /// Replaces the whole log by an empty one that starts at `start` (a follower behind the leader's start).
    pub fn install_log_start(&mut self, group: GroupId, start: LogStart) -> Result<()> {
        self.ready()?;
        let dir = self.group(group)?.image.dir.clone();
        let number = self.next_file;
        let file = FileImage::new(number, start.prev, start.base_offset);
        let (segment, new) = self.create_segment(group, &dir, &file, 0, true)?;
        self.absorb_damage();
        self.abandon_repair(group);
        self.cancel_rewrite(group);
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        g.is_granted = false;
        let is_aside = std::mem::take(&mut g.is_aside);
        let dropped = g.image.install(&start, number);
        g.changes += 1;
        self.lru.forget(&g.segments);
        self.damage.forget(group);
        g.segments = vec![segment];
        g.recut(self.round, LogId::default());
        self.tail_bytes -= g.tail.clear();
        let unlink = self.paths(&dir, &dropped);
        let record = Record::Install { group, start: Box::new(start), file: number };
        let op = Change { record, new: Some(new), trim: None, unlink, is_aside, remove_dir: None };
        self.queue(group, Op::Change(Box::new(op)));
        Ok(())
    }

    /// Closes the active segment (segment.ms). Does nothing while it is empty.
    pub fn roll(&mut self, group: GroupId) -> Result<()> {
        self.ready()?;
        let g = self.group(group)?;
        if g.image.active().is_empty() {
            return Ok(());
        }
        let file = FileImage::new(self.next_file, g.image.last(), g.image.next_offset());
        let dir = g.image.dir.clone();
        let (segment, new) = self.create_segment(group, &dir, &file, 0, true)?;
        self.open_segment(group, segment, new);
        Ok(())
    }

    /// The log goes on in a new file.
    fn open_segment(&mut self, group: GroupId, segment: Segment, new: place::NewFile) {
        let Some(g) = self.groups.get_mut(&group) else {
            return;
        };
        let (prev, base_offset, end) = (g.image.last(), g.image.next_offset(), g.image.active().end);
        let old = g.active();
        let trim = old.handle.clone().map(|handle| (FileRef { number: old.number, handle }, end));
        let file = new.0.number;
        g.is_granted = false;
        g.image.open(file);
        g.segments.push(segment);
        let record = Record::Open { group, file, prev, base_offset };
        let op =
            Change { record, new: Some(new), trim, unlink: Vec::new(), is_aside: false, remove_dir: None };
        self.queue(group, Op::Change(Box::new(op)));
    }

    /// Paths of segments and their indexes.
    fn paths(&self, dir: &str, files: &[u64]) -> Vec<PathBuf> {
        let both = |number: &u64| {
            [
                segment_file::path(&self.options.dir, dir, *number),
                segment_file::index_path(&self.options.dir, dir, *number),
            ]
        };
        files.iter().flat_map(both).collect()
    }

    /// Whether anything waits for a round.
    pub fn has_work(&self) -> bool {
        self.failure.is_none()
            && (!self.ops.is_empty()
                || self.damage.is_pending()
                || self.wants_written
                || self.loose.wants_flush)
    }

    /// Takes everything queued. Call only when the previous round has completed. The number orders rounds.
    ///
    /// # Panics
    /// If the previous round is still out.
    pub fn take_round(&mut self) -> Option<Round> {
        assert!(!self.is_in_flight, "round {} is still in flight", self.round - 1);
        self.absorb_damage();
        let flush = self.failure.is_none() && std::mem::take(&mut self.loose.wants_flush);
        if self.failure.is_some() || (self.ops.is_empty() && !self.wants_written && !flush) {
            return None;
        }
        // One that stores something tells only what reached its file before it; one without follows.
        self.wants_written &= !self.ops.is_empty();
        let number = self.round;
        self.round += 1;
        self.is_in_flight = true;
        self.flying_bytes = std::mem::take(&mut self.queued_bytes);
        let capacity = self.ops.len();
        let ops = std::mem::replace(&mut self.ops, Vec::with_capacity(capacity));
        Some(Round { number, ops, flush, next_file: self.next_file })
    }

    /// Bytes of entries that are not written yet: memory that only the disk frees.
    pub fn unstored_bytes(&self) -> u64 {
        self.queued_bytes + self.flying_bytes
    }

    /// Number the next taken round will have: what is queued now is durable once that round completes.
    pub fn next_round(&self) -> u64 {
        self.round
    }

    /// Takes note of a completed round, or of news of earlier ones: returns the round up to which everything but loose entries is
    /// durable; pushes the progress of each touched group.
    /// After a failure the store is latched: every later mutation answers `Failed`.
    pub fn complete(&mut self, done: RoundDone, out: &mut Vec<Durable>) -> Result<u64> {
        if done.is_answer {
            self.is_in_flight = false;
            self.flying_bytes = 0;
        }
        if let Some(why) = done.failure {
            self.failure = Some(why.clone());
            return Err(Error::Failed(why));
        }
        assert!(!done.is_answer || done.number + 1 == self.round, "rounds complete in order");
        self.loose.note(&done);
        for written in &done.written {
            let Some(g) = self.groups.get_mut(&written.group) else { continue };
            if let Some(s) = g.segments.iter_mut().rev().find(|s| s.number == written.file) {
                s.written = s.written.max(written.end);
            }
        }
        for mut durable in done.progress {
            let Some(g) = self.groups.get_mut(&durable.group) else { continue };
            durable.last = g.vouched(done.number, durable.last);
            out.push(durable);
        }
        self.evict();
        Ok(done.durable_round)
    }

    /// Lets the oldest entries go from memory until the budget holds, as far as they are in their files.
    fn evict(&mut self) {
        while let Some((group, index)) = self.tail_order.front().copied() {
            let g = self.groups.get_mut(&group);
            if let Some(g) = g.filter(|g| g.tail.first().is_some_and(|first| first <= index)) {
                if self.tail_bytes <= self.options.tail_bytes {
                    return;
                }
                let (tail, segments) = (&mut g.tail, &g.segments);
                // Files that are gone hold nothing anybody needs.
                let is_written = |file: u64, end: u64| {
                    segments.iter().rev().find(|s| s.number == file).is_none_or(|s| s.written >= end)
                };
                self.tail_bytes -= tail.evict(index, is_written);
                if tail.first().is_some_and(|first| first <= index) {
                    // The oldest is not written yet; a completion will come back to it.
                    return;
                }
            }
            self.tail_order.pop_front();
        }
    }

    /// Damage that readers met becomes part of the group's state, and a record.
    fn absorb_damage(&mut self) {
        for (group, first, last) in self.damage.take() {
            let Some(g) = self.groups.get_mut(&group) else { continue };
            // Nobody needs what the log start has passed.
            let first = first.max(g.image.first());
            if last < first {
                continue;
            }
            if g.is_damaged(first) && g.is_damaged(last) {
                continue;
            }
            g.image.damage(first, last);
            g.image.doubt(Doubt::Entries);
            self.queue(group, Change::plain(Record::Damage { group, first, last }));
        }
    }

    /// The segments, oldest first.
    pub fn segments(&self, group: GroupId) -> Result<Vec<super::SegmentInfo>> {
        let image = &self.group(group)?.image;
        let active = image.active().number;
        // Something later took the place of all that was in a file of hollow entries: it is no younger than that.
        let mut later = -1;
        let mut infos: Vec<super::SegmentInfo> = Vec::with_capacity(image.files.len());
        for f in image.files.iter().rev() {
            later = if f.newest() < 0 { later } else { f.newest() };
            let is_active = f.number == active;
            infos.push(super::SegmentInfo {
                first: f.first(),
                base_offset: f.base_offset,
                next_offset: f.next_offset,
                bytes: f.end - segment_file::SEGMENT_HEADER,
                max_timestamp: if is_active { f.newest() } else { later },
                active: is_active,
            });
        }
        infos.reverse();
        Ok(infos)
    }

    /// Bytes of frames in the group's log.
    pub fn size_bytes(&self, group: GroupId) -> Result<u64> {
        let files = &self.group(group)?.image.files;
        Ok(files.iter().map(|f| f.end - segment_file::SEGMENT_HEADER).sum())
    }

    /// Where the log starts.
    pub fn log_start(&self, group: GroupId) -> Result<&LogStart> {
        Ok(&self.group(group)?.image.log_start)
    }

    /// Last entry and the offset after it.
    pub fn last(&self, group: GroupId) -> Result<(LogId, Offset)> {
        let image = &self.group(group)?.image;
        Ok((image.last(), image.next_offset()))
    }

    /// Damaged range, if known.
    pub fn needs_repair(&self, group: GroupId) -> Option<(Index, Index)> {
        let known = self.groups.get(&group).and_then(|g| g.image.needs_repair);
        self.damage.of(group).fold(known)
    }

    /// Groups newly found damaged since the last call, by whatever read them on whatever thread; not those
    /// found at open. Each is told once, until its log is replaced. Costs one load when there are none.
    pub fn take_damaged(&mut self) -> Vec<GroupId> {
        let mut groups = self.damage.take_news();
        groups.retain(|group| self.groups.contains_key(group));
        groups
    }

    /// Why the store is latched shut, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}
