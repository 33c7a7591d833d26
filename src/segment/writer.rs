//! The back half of a data directory: makes rounds durable, writes lagging entries to their segments,
//! takes checkpoints. Owned by one IO thread. Not here: admission, reads (`store`), threads (`io_thread`).
//!
//! * A round is complete when its journal batch and all extents it refers to are synced, loose ones
//!   (`flush.mode=async`) aside: those are answered once written. A batch says which one was the last complete one before it; rounds
//!   are strictly one after another.
//! * One small inline batch costs exactly one pwrite and one fdatasync. Only where loose entries are about (`syncing`) are syncs left
//!   to threads beside the rounds.
//! * The first failed write or sync is final: nothing is retried, every later round answers the failure.
//! * No clock: `idle` called twice without a round between means that its delay has passed.

mod removing;
mod syncing;

use self::syncing::{Gone, Syncing};
use super::checkpoint::{BESIDE_ROUNDS, Job, Running};
use super::fs::{File, Fs, OpenMode, sync_names};
use super::image::Image;
use super::index::{self, SlotRun};
use super::journal::{self, Journal, Position};
use super::lane::Waker;
use super::manifest::{self, Manifest};
use super::record::{self, Record};
use super::round::{Change, Entries, FileRef, Op, Remains, Round, RoundDone, Written};
use super::sync::SyncPool;
use super::types::*;
use super::{Error, Result, StoreOptions, error, frame, identity, segment_file};
use crate::mutation::{Mutation, on};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When idle this long, the writer says that the last batch is complete (design section 4).
const QUIET: Duration = Duration::from_millis(5);
/// Above this much in a round, entries go by reference from [`REFERENCE_MIN`] on: the batch is built in
/// memory. Below it the copy is cheaper than one more sync per file (measured: 12 groups of 64 KiB take
/// 0.6 ms by value and 1.5 ms by reference on a disk with 13,000 syncs a second).
const BIG_ROUND: u64 = 8 << 20;
const REFERENCE_MIN: u64 = 16 << 10;
/// Loose entries go by reference from here on: no sync per file and round is to be weighed against the copies, only against the
/// number of files that the next flush has to sync.
const LOOSE_REFERENCE_MIN: u64 = 4 << 10;
/// Bytes of inline entries that may wait for their segment.
const LAG_MAX: usize = 8 << 20;
/// When so many files wait for their sync and nobody writes, a checkpoint makes it instead of the next open (a large topic was created,
/// many groups elected), and the memory that remembers them goes.
const MANY_DIRTY: usize = 1024;

/// So many names of files that others took the place of are not kept for longer: their space is wanted.
const MANY_SUPERSEDED: usize = 32;

/// Inline entries of one file that are durable in the journal and not yet in the file.
struct Lag {
    group: GroupId,
    file: FileRef,
    byte: u64,
    bytes: Vec<u8>,
}

/// Back half, owned by the IO thread.
pub struct Writer {
    fs: Arc<dyn Fs>,
    options: StoreOptions,
    /// The directory as of the last round.
    image: Image,
    journal: Journal,
    pool: SyncPool,
    /// By file.
    lag: BTreeMap<u64, Lag>,
    lag_bytes: usize,
    /// Files with bytes that no sync has covered, and when they were written last.
    dirty: BTreeMap<u64, (Arc<dyn File>, u64)>,
    syncing: Syncing,
    /// Files whose names are not durable yet, with their directories.
    unnamed: BTreeMap<u64, PathBuf>,
    written: Vec<Written>,
    unlink: Vec<PathBuf>,
    /// To be unlinked when a manifest names the file that took their place: until then one bad sector of the journal may be all that does.
    superseded: Vec<PathBuf>,
    /// To be renamed.
    aside: Vec<PathBuf>,
    remove_dirs: Vec<(PathBuf, Remains)>,
    trims: Vec<(FileRef, u64)>,
    /// Index slots that are in no index file yet, by file.
    slots: BTreeMap<u64, (GroupId, SlotRun)>,
    referenced: u64,
    journaled: u64,
    /// Calls of `idle` since the last round.
    quiet: u32,
    is_marked: bool,
    failure: Option<String>,
    checkpoint: Option<UnderWay>,
    manifest_sequence: u64,
    batch: Vec<u8>,
    /// What the journal has yet to take from the disk; the front half keeps it free.
    journal_need: Arc<AtomicU64>,
    /// Run of the machine.
    boot: u128,
    _lock: Arc<Box<dyn Send + Sync>>,
}

/// A checkpoint on its way.
struct UnderWay {
    running: Running,
    position: Position,
    /// Files whose names it makes durable. Until it has, they count as unnamed: a round must not rely on a
    /// sync that another thread has yet to make.
    names: Vec<u64>,
    /// Files that nobody needs once it is done.
    superseded: Vec<PathBuf>,
    /// Files that it syncs.
    files: BTreeMap<u64, Arc<dyn File>>,
}

/// What recovery hands to the back half.
pub(crate) struct Parts {
    pub fs: Arc<dyn Fs>,
    pub options: StoreOptions,
    pub image: Image,
    pub journal: Journal,
    pub manifest_sequence: u64,
    pub journal_need: Arc<AtomicU64>,
    pub lock: Arc<Box<dyn Send + Sync>>,
}

/// One round on its way.
#[derive(Default)]
struct Progress {
    /// Segments to sync, by number.
    touched: BTreeMap<u64, Arc<dyn File>>,
    /// Loose entries: whose, in which segment unless by value, bytes.
    loose: Vec<(GroupId, Option<FileRef>, u64)>,
    lag: Vec<Lag>,
    written: Vec<Written>,
    referenced: u64,
}

impl Writer {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            boot: parts.fs.boot_id(),
            syncing: Syncing::new(),
            fs: parts.fs,
            options: parts.options,
            image: parts.image,
            journal: parts.journal,
            pool: SyncPool::default(),
            lag: BTreeMap::new(),
            lag_bytes: 0,
            dirty: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            written: Vec::new(),
            unlink: Vec::new(),
            superseded: Vec::new(),
            aside: Vec::new(),
            remove_dirs: Vec::new(),
            trims: Vec::new(),
            slots: BTreeMap::new(),
            referenced: 0,
            journaled: 0,
            quiet: 0,
            is_marked: true,
            failure: None,
            checkpoint: None,
            manifest_sequence: parts.manifest_sequence,
            batch: Vec::new(),
            journal_need: parts.journal_need,
            _lock: parts.lock,
        }
    }

    /// Makes a round durable: extents, journal batch, fdatasync. Blocking; IO thread only. Answers as soon as it is; where loose
    /// entries are about, as soon as it is written: then `take_news` tells the rest. A round without anything writes what lags to
    /// its files and tells.
    pub fn commit(&mut self, round: Round) -> RoundDone {
        self.quiet = 0;
        let result = match &self.failure {
            Some(why) => Err(Error::Failed(why.clone())),
            None if round.ops.is_empty() => self.rest(&round),
            None => self.try_commit(&round),
        };
        match result {
            Ok(()) => self.tell(round.number, true),
            Err(error) => RoundDone::failed(round.number, self.latch(&error)),
        }
    }

    /// A round that stores nothing.
    fn rest(&mut self, round: &Round) -> Result<()> {
        if !round.flush {
            self.flush_lag()?;
        }
        self.image.next_file = self.image.next_file.max(round.next_file);
        self.finish_round(round)
    }

    /// A round that the program before this one would take for damage: first the manifest tells it not to open the directory.
    fn raise_format(&mut self, round: &Round) -> Result<()> {
        if self.image.format >= manifest::FORMAT_VERSION || !round.ops.iter().any(Op::needs_format) {
            return Ok(());
        }
        self.finish_checkpoint()?;
        self.image.format = manifest::FORMAT_VERSION;
        self.start_checkpoint(false)?;
        self.finish_checkpoint()
    }

    fn latch(&mut self, error: &Error) -> String {
        if self.failure.is_none() {
            let why = match error {
                Error::Failed(why) => why.clone(),
                other => other.to_string(),
            };
            self.failure = Some(why);
            // What the cache still shows need not be on the disk any more, in this run of the machine too.
            let _ = self.fs.open(&self.options.dir.join(identity::FAILED), OpenMode::CreateNew);
        }
        self.failure.clone().unwrap_or_default()
    }

    fn io(&self, what: &str, e: &io::Error) -> Error {
        // A full disk in the back half is a failure: space was reserved before anything was taken.
        Error::Failed(format!("cannot {what} in {}: {e}", self.options.dir.display()))
    }

    fn try_commit(&mut self, round: &Round) -> Result<()> {
        self.settle_aside()?;
        let mut progress = Progress::default();
        let mut batch = std::mem::take(&mut self.batch);
        let strict: BTreeSet<GroupId> = round.ops.iter().filter(|op| !op.is_loose()).map(group_of).collect();
        if !strict.is_empty() && self.syncing.may_rest(round) {
            self.finish_syncs()?;
        }
        self.syncing.begin(round);
        if round.ops.iter().any(|op| op.keeps_log() || op.keeps_files()) {
            // Once the group, or the file, is forgotten nobody writes again what a crash leaves out of it.
            // A checkpoint under way holds files that are not listed as dirty until it has ended.
            self.finish_checkpoint()?;
            self.flush_lag()?;
            self.sync_dirty()?;
        }
        self.raise_format(round)?;
        self.encode(round, &mut batch, &mut progress)?;
        self.find_journal_space(batch.len())?;
        let is_inline = !strict.is_empty() && self.syncing.is_idle();
        if is_inline {
            progress.touched.append(&mut self.syncing.files_of(&strict));
            self.make_durable(&mut batch, progress.touched.values().cloned().collect())?;
            self.journal.note_complete(self.journal.last());
            for number in progress.touched.keys() {
                self.dirty.remove(number);
            }
        } else {
            write_batch(&mut self.journal, &mut batch).map_err(|e| self.io("write the journal", &e))?;
        }
        self.journal_need.store(self.journal.need(), Ordering::Relaxed);
        self.journaled += batch.len() as u64;
        if batch.capacity() > 4 << 20 {
            batch = Vec::new();
        }
        self.batch = batch;
        self.is_marked &= strict.is_empty();
        self.referenced += progress.referenced;
        for lag in progress.lag {
            self.add_lag(lag);
        }
        self.written.append(&mut progress.written);
        self.fill_files_set_aside(round)?;
        round.ops.iter().for_each(|op| self.apply(op));
        // Only now: a manifest that knows of a number knows of what was said of it in the journal.
        self.image.next_file = self.image.next_file.max(round.next_file);
        self.syncing.add_loose(progress.loose);
        if is_inline {
            self.note_durable(round, &strict);
        } else if !strict.is_empty() {
            self.want_sync(&strict, progress.touched);
        }
        self.finish_round(round)
    }

    /// What this very round has of files that it sets aside: what is kept of them is kept whole.
    fn fill_files_set_aside(&mut self, round: &Round) -> Result<()> {
        for op in round.ops.iter().filter(|op| op.keeps_files()) {
            let Op::Change(change) = op else { continue };
            for number in change.unlink.iter().filter_map(|path| number_of_segment(path)) {
                let Some(lag) = self.lag.get(&number) else { continue };
                let file = lag.file.handle.clone();
                self.flush_file(number)?;
                file.fdatasync().map_err(|e| self.io("sync a segment", &e))?;
            }
        }
        Ok(())
    }

    /// Writes extents and fills the batch.
    fn encode(&mut self, round: &Round, batch: &mut Vec<u8>, progress: &mut Progress) -> Result<()> {
        let bytes = |op: &Op| if let Op::Entries(e) = op { e.bytes } else { 0 };
        let total: u64 = round.ops.iter().map(bytes).sum();
        let limit = self.options.reference_bytes as u64;
        let limit = if total > BIG_ROUND { limit.min(REFERENCE_MIN) } else { limit };
        let limit_of = |e: &Entries| if e.loose { limit.min(LOOSE_REFERENCE_MIN) } else { limit };
        let marks = std::mem::take(&mut self.syncing.marks);
        let groups: BTreeSet<GroupId> = round.ops.iter().map(group_of).collect();
        let groups: Vec<GroupId> = groups.into_iter().collect();
        // Marks name no group: a batch that is damaged puts nobody in doubt for them.
        journal::begin_batch(batch, (round.ops.len() + marks.len()) as u32, &groups);
        marks.into_iter().for_each(|(group, last)| Record::Synced { group, last }.encode(batch));
        for op in &round.ops {
            match op {
                Op::Entries(entries) if entries.bytes >= limit_of(entries) && !entries.is_configuration() => {
                    self.write_extent(entries, batch, progress)?;
                }
                Op::Entries(entries) => encode_inline(entries, batch, progress),
                Op::Change(change) => {
                    change.record.encode(batch);
                    self.note_new_file(change);
                }
            }
        }
        Ok(())
    }

    /// A file that begins in this round: its header waits for a sync, its name for one of its directory.
    fn note_new_file(&mut self, change: &Change) {
        let Some((new, dir)) = &change.new else { return };
        self.soil(new);
        self.unnamed.insert(new.number, dir.clone());
    }

    /// A file is written to. One handle per file, the first that wrote, for all that sync it: it is the one that learns of failed
    /// write-backs, and tells each of them (`fs::latch`).
    fn soil(&mut self, file: &FileRef) -> Arc<dyn File> {
        let stamp = self.syncing.stamp;
        let beside = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.files.get(&file.number));
        let first = beside.unwrap_or(&file.handle);
        let known = self.dirty.entry(file.number).or_insert_with(|| (first.clone(), stamp));
        known.1 = stamp;
        known.0.clone()
    }

    /// Writes frames straight to their place and refers to them.
    fn write_extent(&mut self, op: &Entries, batch: &mut Vec<u8>, progress: &mut Progress) -> Result<()> {
        // Bytes of the file before these may still wait in this very round or an earlier one.
        while let Some(at) = progress.lag.iter().position(|lag| lag.file.number == op.file.number) {
            let lag = progress.lag.remove(at);
            self.add_lag(lag);
        }
        self.flush_file(op.file.number)?;
        let mut headers = Vec::with_capacity(op.entries.len() * frame::FRAME_HEADER);
        let mut max_timestamp = -1;
        let mut terms: Vec<(Epoch, Index)> = Vec::new();
        for Entry { meta, payload } in &op.entries {
            headers.extend_from_slice(&frame::encode_header(op.group, meta, payload));
            max_timestamp = frame::max_timestamp(meta.kind, payload).max(max_timestamp);
            if terms.last().is_none_or(|(epoch, _)| *epoch != meta.id.epoch) {
                terms.push((meta.id.epoch, meta.id.index));
            }
        }
        let parts = headers.chunks(frame::FRAME_HEADER).zip(&op.entries);
        let slices: Vec<IoSlice<'_>> =
            parts.flat_map(|(h, entry)| [IoSlice::new(h), IoSlice::new(&entry.payload)]).collect();
        op.file.handle.pwritev(&slices, op.byte).map_err(|e| self.io("write a segment", &e))?;
        if let Some(dir) = self.unnamed.get(&op.file.number).cloned() {
            self.name_durably(&dir)?;
        }
        let header_crc = crc32fast::hash(&headers);
        let count = op.entries.len() as u32;
        let extent = op.extent(max_timestamp);
        let loose = op.loose;
        Record::Reference { group: op.group, extent, count, header_crc, terms, loose }.encode(batch);
        let handle = self.soil(&op.file);
        if loose {
            let file = FileRef { number: op.file.number, handle };
            progress.loose.push((op.group, Some(file), op.bytes));
        } else {
            progress.touched.insert(op.file.number, handle);
        }
        progress.referenced += op.bytes;
        progress.written.push(Written { group: op.group, file: op.file.number, end: op.byte + op.bytes });
        Ok(())
    }

    /// Makes the names in a group's directory, and its own, durable.
    fn name_durably(&mut self, dir: &PathBuf) -> Result<()> {
        let named = error::patiently(|| sync_names(&*self.fs, dir));
        named.map_err(|e| self.io("sync a directory", &e))?;
        self.unnamed.retain(|_, d| d != dir);
        Ok(())
    }

    /// Journal write and sync, beside the syncs of the segments referred to.
    fn make_durable(&mut self, batch: &mut [u8], mut files: Vec<Arc<dyn File>>) -> Result<()> {
        files.retain(|_| !on(Mutation::SkipExtentSync));
        let is_threaded = self.fs.is_threaded();
        let journal = &mut self.journal;
        let done = self.pool.sync(files, is_threaded, || {
            write_batch(journal, batch)?;
            if on(Mutation::SkipJournalSync) {
                return Ok(());
            }
            let synced = journal.handle().fdatasync();
            if on(Mutation::RetryFailedSync) && synced.is_err() {
                journal.handle().fdatasync()
            } else {
                synced
            }
        });
        done.map_err(|e| self.io("make a round durable", &e))
    }

    fn add_lag(&mut self, lag: Lag) {
        if on(Mutation::CutInPlace) && self.flush_file(lag.file.number).is_err() {
            return;
        }
        self.lag_bytes += lag.bytes.len();
        match self.lag.get_mut(&lag.file.number) {
            Some(known) => {
                debug_assert_eq!(known.byte + known.bytes.len() as u64, lag.byte);
                known.bytes.extend_from_slice(&lag.bytes);
            }
            None => {
                self.lag.insert(lag.file.number, lag);
            }
        }
    }

    /// Writes what lags of one file.
    fn flush_file(&mut self, number: u64) -> Result<()> {
        let Some(lag) = self.lag.remove(&number) else {
            return Ok(());
        };
        self.lag_bytes -= lag.bytes.len();
        lag.file.handle.pwrite(&lag.bytes, lag.byte).map_err(|e| self.io("write a segment", &e))?;
        self.soil(&lag.file);
        let end = lag.byte + lag.bytes.len() as u64;
        self.written.push(Written { group: lag.group, file: number, end });
        Ok(())
    }

    fn flush_lag(&mut self) -> Result<()> {
        while let Some(number) = self.lag.keys().next().copied() {
            self.flush_file(number)?;
        }
        // Files that were closed have all their bytes now: their unused space goes back.
        for (file, len) in std::mem::take(&mut self.trims) {
            file.handle.set_len(len).map_err(|e| self.io("trim a segment", &e))?;
        }
        Ok(())
    }

    /// What an op does to the image and, once it is durable, to files.
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Entries(op) => {
                if let Some(group) = self.image.groups.get_mut(&op.group) {
                    for Entry { meta, payload } in &op.entries {
                        let max_timestamp = frame::max_timestamp(meta.kind, payload);
                        group.push(meta, frame::frame_len(meta.payload_len), max_timestamp, payload);
                    }
                }
                self.note_slots(op);
            }
            Op::Change(change) => {
                let is_segment = |p: &&PathBuf| p.extension().is_some_and(|e| e == "segment");
                let is_kept = |p: &&PathBuf| change.is_aside && is_segment(p);
                let is_rewrite = matches!(change.record, Record::Rewrite(..));
                let unlink = change.unlink.iter().filter(|p| !is_kept(p)).cloned();
                let unlink = match is_rewrite {
                    true => {
                        self.superseded.extend(unlink);
                        Vec::new()
                    }
                    false => unlink.collect(),
                };
                let gone = Gone {
                    aside: change.unlink.iter().filter(is_kept).cloned().collect(),
                    unlink,
                    remove_dir: change.remove_dir.clone(),
                    trim: change.trim.clone(),
                };
                self.syncing.stage(gone);
                for number in change.unlink.iter().filter_map(|path| number_of_segment(path)) {
                    self.forget_file(number);
                }
                if matches!(change.record, Record::Cut { .. } | Record::Install { .. } | Record::Remove(_)) {
                    self.syncing.forget_marks(change.record.group());
                }
                // What the front half did to its image fits ours: the same methods, the same order.
                if let Err(why) = self.image.apply(&change.record) {
                    self.failure.get_or_insert(format!("round does not fit the directory: {why}"));
                }
            }
        }
    }

    /// A file that is about to be unlinked needs no more work.
    fn forget_file(&mut self, number: u64) {
        if let Some(lag) = self.lag.remove(&number) {
            self.lag_bytes -= lag.bytes.len();
            let end = lag.byte + lag.bytes.len() as u64;
            self.written.push(Written { group: lag.group, file: number, end });
        }
        self.dirty.remove(&number);
        self.syncing.forget_file(number);
        self.unnamed.remove(&number);
        self.slots.remove(&number);
        self.trims.retain(|(file, _)| file.number != number);
    }

    /// Whom to wake when a sync beside the rounds has ended; `poll` and `take_news` then tell of it.
    pub fn set_waker(&mut self, waker: Waker) {
        self.syncing.waker = Some(waker);
    }

    fn note_slots(&mut self, op: &Entries) {
        let (_, run) = self.slots.entry(op.file.number).or_insert((op.group, SlotRun::default()));
        if run.to == 0 {
            run.from = op.byte;
        }
        run.to = op.byte + op.bytes;
        run.slots.extend_from_slice(&op.slots);
    }

    /// Called after `commit` was answered and when idle: writes lagging inline entries to their segments, the idle
    /// durable-through mark, checkpoints. Returns how long it may be left alone (None: until the next round).
    pub fn idle(&mut self) -> Option<Duration> {
        if self.failure.is_some() {
            return None;
        }
        self.quiet = self.quiet.saturating_add(1);
        let result = self.try_idle();
        self.journal_need.store(self.journal.need(), Ordering::Relaxed);
        match result {
            Ok(delay) => delay,
            Err(error) => {
                self.latch(&error);
                // Somebody may wait for a sync beside the rounds, and there is no answer due that would tell.
                self.syncing.tell_failure();
                None
            }
        }
    }

    fn try_idle(&mut self) -> Result<Option<Duration>> {
        self.poll_syncs()?;
        self.settle_aside()?;
        if self.checkpoint.as_ref().is_some_and(|c| c.running.is_finished()) {
            self.finish_checkpoint()?;
        }
        self.remove_files()?;
        let handles = self.fs.limits().open_files;
        if self.lag_bytes >= LAG_MAX.min(self.options.tail_bytes / 4) || self.lag.len() > handles {
            self.flush_lag()?;
        }
        if self.dirty.len() > handles {
            self.sync_dirty()?;
        }
        if self.is_checkpoint_due() {
            self.start_checkpoint(false)?;
        }
        if self.quiet == 1 {
            return Ok(Some(QUIET));
        }
        self.flush_lag()?;
        if !self.superseded.is_empty() && self.checkpoint.is_none() {
            self.start_checkpoint(false)?;
        }
        if !self.is_marked {
            if self.syncing.is_settled() {
                self.mark()?;
            }
            return Ok(Some(QUIET));
        }
        if self.dirty.len() >= MANY_DIRTY && self.checkpoint.is_none() {
            self.start_checkpoint(false)?;
        }
        match self.journal.prepare() {
            Ok(true) => return Ok(Some(QUIET)),
            Ok(false) => {}
            // Only the spare file did not fit; nothing needs it yet. No checkpoint here: its manifest might
            // not fit either.
            Err(e) if error::is_full(&e) || error::is_busy(&e) => return Ok(Some(QUIET * 40)),
            Err(e) => return Err(self.io("prepare the journal", &e)),
        }
        Ok(self.checkpoint.is_some().then_some(QUIET * 4))
    }

    /// Makes written files durable before the next checkpoint would, to let their handles go.
    fn sync_dirty(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.dirty).into_values().map(|(handle, _)| handle).collect();
        let is_threaded = self.fs.is_threaded();
        self.pool.sync(files, is_threaded, || Ok(())).map_err(|e| self.io("sync segments", &e))
    }

    /// An empty batch says that the one before it is complete.
    fn mark(&mut self) -> Result<()> {
        let mut batch = Vec::new();
        journal::begin_batch(&mut batch, 0, &[]);
        self.make_durable(&mut batch, Vec::new())?;
        self.journal.note_complete(self.journal.last());
        self.is_marked = true;
        Ok(())
    }

    fn is_checkpoint_due(&self) -> bool {
        let journal_limit = (4 * self.journal.file_bytes()).min(self.options.checkpoint_bytes);
        self.checkpoint.is_none()
            && (self.referenced >= self.options.checkpoint_bytes
                || self.journaled >= journal_limit
                || self.superseded.len() >= MANY_SUPERSEDED)
    }

    /// Begins a checkpoint of everything completed so far.
    fn start_checkpoint(&mut self, clean: bool) -> Result<()> {
        self.flush_lag()?;
        self.write_indexes();
        self.manifest_sequence += 1;
        let position = self.journal.position();
        let mut image = self.image.clone();
        if on(Mutation::DropIdleVotes) {
            image.groups.values_mut().for_each(|group| group.hard_state.vote = None);
        }
        if on(Mutation::FreeJournalEarly) {
            self.journal.free_before(position.file).map_err(|e| self.io("free journal files", &e))?;
        }
        let manifest = Manifest {
            sequence: self.manifest_sequence,
            era: self.journal.era(),
            position,
            journal_file_bytes: self.journal.file_bytes(),
            clean,
            boot: self.boot,
            image,
        };
        let names = self.unnamed.keys().copied().collect();
        let mut dirs: BTreeSet<PathBuf> = self.unnamed.values().cloned().collect();
        if !dirs.is_empty() {
            dirs.insert(segment_file::groups_dir(&self.options.dir));
        }
        let dirty = std::mem::take(&mut self.dirty).into_iter();
        let files: BTreeMap<u64, Arc<dyn File>> =
            dirty.map(|(number, (handle, _))| (number, handle)).collect();
        let job = Job {
            fs: self.fs.clone(),
            dir: self.options.dir.clone(),
            files: files.values().cloned().collect(),
            dirs,
            sequence: self.manifest_sequence,
            manifest: manifest.encode(),
            side_by_side: BESIDE_ROUNDS,
        };
        self.referenced = 0;
        self.journaled = 0;
        let superseded = std::mem::take(&mut self.superseded);
        self.checkpoint = Some(UnderWay { running: Running::start(job), position, names, superseded, files });
        Ok(())
    }

    /// When the journal needs a new file and has no spare while space is low, a checkpoint frees old ones first.
    fn find_journal_space(&mut self, batch: usize) -> Result<()> {
        let is_short = |journal: &Journal| journal.needs_new(batch) && journal.has_kept();
        if !is_short(&self.journal) {
            return Ok(());
        }
        let space = self.fs.space(&self.options.dir).map_err(|e| self.io("ask the space", &e))?;
        if space.free >= self.options.reserve_bytes.saturating_add(self.journal.file_bytes()) {
            return Ok(());
        }
        self.finish_checkpoint()?;
        if is_short(&self.journal) {
            self.start_checkpoint(false)?;
            self.finish_checkpoint()?;
        }
        Ok(())
    }

    fn finish_checkpoint(&mut self) -> Result<()> {
        let Some(UnderWay { running, position, names, superseded, .. }) = self.checkpoint.take() else {
            return Ok(());
        };
        running.finish()?;
        self.unlink.extend(superseded);
        for number in names {
            self.unnamed.remove(&number);
        }
        self.journal.free_before(position.file).map_err(|e| self.io("free journal files", &e))
    }

    /// Appends new slots to the index files. They are caches: a failure costs a scan later, nothing else.
    fn write_indexes(&mut self) {
        for (number, (group, run)) in std::mem::take(&mut self.slots) {
            let Some(g) = self.image.groups.get(&group) else { continue };
            if run.to > run.from {
                let path = segment_file::index_path(&self.options.dir, &g.dir, number);
                let _ = index::append_chunk(&*self.fs, &path, number, &run);
            }
        }
    }

    /// Orderly end: writes everything, checkpoints, marks clean.
    pub fn close(mut self) -> Result<()> {
        if let Some(why) = &self.failure {
            return Err(Error::Failed(why.clone()));
        }
        let closed = self.try_close();
        if let Err(error) = &closed {
            // The next start in this run of the machine has to know.
            self.latch(error);
        }
        closed
    }

    fn try_close(&mut self) -> Result<()> {
        self.finish_syncs()?;
        self.finish_checkpoint()?;
        self.remove_files()?;
        // The checkpoint syncs all there is: nobody has anything left to lose.
        self.image.groups.values_mut().for_each(|group| group.hard_state.dirty = false);
        self.start_checkpoint(true)?;
        self.finish_checkpoint()?;
        self.remove_files()
    }
}

/// Appends a batch to the journal, unsynced.
fn write_batch(journal: &mut Journal, batch: &mut [u8]) -> io::Result<()> {
    let file_bytes = journal.reserve(batch.len())?;
    journal::finish_batch(batch, file_bytes);
    journal.append(batch).map(|_| ())
}

fn group_of(op: &Op) -> GroupId {
    match op {
        Op::Entries(entries) => entries.group,
        Op::Change(change) => change.record.group(),
    }
}

fn number_of_segment(path: &Path) -> Option<u64> {
    segment_file::number_of(path.file_name()?.to_str()?)
}

fn encode_inline(op: &Entries, batch: &mut Vec<u8>, progress: &mut Progress) {
    let start = record::begin_inline(batch, op.group, op.file.number, op.byte, op.loose);
    let frames = batch.len();
    for Entry { meta, payload } in &op.entries {
        batch.extend_from_slice(&frame::encode_header(op.group, meta, payload));
        batch.extend_from_slice(payload);
    }
    let bytes = batch[frames..].to_vec();
    record::finish_inline(batch, start);
    if op.loose {
        progress.loose.push((op.group, None, op.bytes));
    }
    progress.lag.push(Lag { group: op.group, file: op.file.clone(), byte: op.byte, bytes });
}
