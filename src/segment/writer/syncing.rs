//! Syncs of the back half: what waits for one, what one makes durable, and who is told. Driven by `writer`.
//!
//! A round without loose entries, on a directory where there have been none for a while, never comes here but to be told: it is
//! synced on the spot. Otherwise two lanes work beside the rounds: one syncs what somebody waits for (votes, control entries, records
//! of `flush.mode=sync`), the other flushes loose entries when the front half says that it is time. Not here: when that is.
//!
//! * What somebody waits for of a group includes every loose entry of the group before it (safety.md F10): control entries never
//!   stand on less than they are themselves.
//! * Syncs that somebody waits for end in the order of their rounds; a batch is complete when the last one that it needs has ended.
//! * Files are unlinked, trimmed and set aside only once the record that says so is durable.

use super::super::fs::File;
use super::super::lane::{Job, Lane, Waker};
use super::super::round::{Durable, FileRef, Op, Remains, Round, RoundDone};
use super::super::types::*;
use super::super::{Error, Result};
use super::{Writer, group_of};
use crate::mutation::{Mutation, on};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// So many rounds after the last one with loose entries, syncs are made on the spot again.
const PATIENCE: u32 = 256;

type Files = BTreeMap<u64, Arc<dyn File>>;

/// Loose entries of a group that no sync has covered; those by value are in the journal alone.
#[derive(Default)]
struct Loose {
    files: Files,
    bytes: u64,
    /// Round of the first of them.
    since: u64,
}

/// What somebody waits for, of rounds for which no sync has begun.
#[derive(Default)]
struct Wanted {
    files: Files,
    /// Last entry of each group in them.
    ends: BTreeMap<GroupId, LogId>,
    /// Round of the first loose entry that goes along.
    since: Option<u64>,
    is_any: bool,
}

/// A sync that somebody waits for.
struct Sync {
    files: Vec<u64>,
    ends: BTreeMap<GroupId, LogId>,
    since: Option<u64>,
    stamp: u64,
    /// Last batch and round it covers.
    sequence: u64,
    round: u64,
}

/// A flush of loose entries.
struct Flush {
    loose: BTreeMap<GroupId, Loose>,
    ends: BTreeMap<GroupId, LogId>,
    stamp: u64,
    /// Last batch it completes, if it does.
    complete: Option<u64>,
}

/// Work on files that waits for its record.
#[derive(Default)]
pub(super) struct Gone {
    pub aside: Vec<PathBuf>,
    pub unlink: Vec<PathBuf>,
    pub remove_dir: Option<(PathBuf, Remains)>,
    pub trim: Option<(FileRef, u64)>,
}

/// Who waits for what.
pub(super) struct Syncing {
    loose: BTreeMap<GroupId, Loose>,
    wanted: Wanted,
    sync_lane: Lane,
    flush_lane: Lane,
    sync: Option<Sync>,
    flush: Option<Flush>,
    wants_flush: bool,
    /// Counts what may come between a sync and a write.
    pub stamp: u64,
    patience: u32,
    /// Last round written; last one of which everything but loose entries is durable; last one of which every loose entry is.
    round: u64,
    durable_round: u64,
    flushed_round: u64,
    /// Flushed entries, for the next batch to say so.
    pub marks: BTreeMap<GroupId, LogId>,
    gone: VecDeque<(u64, Gone)>,
    progress: Vec<Durable>,
    /// Rounds as last told.
    told: (u64, u64),
    /// A sync beside the rounds failed, and nobody knows yet.
    tells_failure: bool,
    pub waker: Option<Waker>,
}

impl Syncing {
    pub fn new() -> Self {
        Self {
            loose: BTreeMap::new(),
            wanted: Wanted::default(),
            sync_lane: Lane::new("segment-sync-round"),
            flush_lane: Lane::new("segment-flush"),
            sync: None,
            flush: None,
            wants_flush: false,
            stamp: 1,
            patience: 0,
            round: 0,
            durable_round: 0,
            flushed_round: 0,
            marks: BTreeMap::new(),
            gone: VecDeque::new(),
            progress: Vec::new(),
            told: (0, 0),
            tells_failure: false,
            waker: None,
        }
    }

    /// Storage failed outside of a round.
    pub fn tell_failure(&mut self) {
        self.tells_failure = true;
    }

    /// A round is about to be written.
    pub fn begin(&mut self, round: &Round) {
        self.round = round.number;
        self.patience = match round.ops.iter().any(Op::is_loose) {
            true => PATIENCE,
            false => self.patience.saturating_sub(1),
        };
    }

    /// Nothing is under way, and nobody with loose entries would wait for a sync made on the spot.
    pub fn is_idle(&self) -> bool {
        self.patience == 0 && self.is_settled() && self.flush.is_none()
    }

    /// Nobody waits for a sync.
    pub fn is_settled(&self) -> bool {
        !self.wanted.is_any && self.sync.is_none()
    }

    /// Whether something of the group waits that is not loose.
    fn is_waiting(&self, group: &GroupId) -> bool {
        self.wanted.ends.contains_key(group) || self.sync.as_ref().is_some_and(|s| s.ends.contains_key(group))
    }

    /// Nothing but a sync under way keeps that of this round from being made on the spot: under a steady load there is always one.
    pub fn may_rest(&self, round: &Round) -> bool {
        self.patience <= 1 && self.flush.is_none() && !round.ops.iter().any(Op::is_loose)
    }

    /// Loose entries of these groups, and of those that a flush is busy with their files: whoever waits for the groups waits for them.
    /// The flush may not have come to them yet.
    fn take_along(&mut self, groups: &BTreeSet<GroupId>) -> (Files, Option<u64>) {
        let (mut files, mut since) = (Files::new(), None);
        if on(Mutation::LeaveLooseBehind) {
            return (files, since);
        }
        for group in groups {
            let flushing = self.flush.as_ref().and_then(|flush| flush.loose.get(group));
            files.extend(flushing.into_iter().flat_map(|l| l.files.iter().map(|(n, f)| (*n, f.clone()))));
            if let Some(loose) = self.loose.remove(group) {
                since = earlier(since, Some(loose.since));
                for (number, file) in loose.files {
                    files.entry(number).or_insert(file);
                }
            }
        }
        (files, since)
    }

    /// The files alone, for a sync on the spot.
    pub fn files_of(&mut self, groups: &BTreeSet<GroupId>) -> Files {
        self.take_along(groups).0
    }

    pub fn add_loose(&mut self, entries: Vec<(GroupId, Option<FileRef>, u64)>) {
        let since = self.round;
        for (group, file, bytes) in entries {
            let loose = self.loose.entry(group).or_insert_with(|| Loose { since, ..Loose::default() });
            loose.bytes += bytes;
            if let Some(file) = file {
                // The first that wrote (`Writer::soil`).
                loose.files.entry(file.number).or_insert(file.handle);
            }
        }
    }

    /// A file that is dropped needs no sync.
    pub fn forget_file(&mut self, number: u64) {
        for loose in self.loose.values_mut() {
            loose.files.remove(&number);
        }
    }

    /// A log was cut: what is synced of it is not what stands at those places from now on, even where it is the same entries again.
    pub fn forget_marks(&mut self, group: GroupId) {
        self.marks.remove(&group);
        self.progress.retain(|told| told.group != group);
        if let Some(flush) = &mut self.flush {
            flush.ends.remove(&group);
        }
        if let Some(sync) = self.sync.as_mut().filter(|_| !on(Mutation::BelieveSyncBeforeCut)) {
            sync.ends.remove(&group);
        }
    }

    /// Work on files, for when the present round is durable.
    pub fn stage(&mut self, gone: Gone) {
        self.gone.push_back((self.round, gone));
    }

    /// Whether something waits that is to be kept under another name.
    pub fn has_aside(&self) -> bool {
        let keeps = |gone: &Gone| {
            let remains = gone.remove_dir.as_ref().map(|(_, remains)| *remains);
            !gone.aside.is_empty() || remains.is_some_and(|remains| remains != Remains::Nothing)
        };
        self.gone.iter().any(|(_, gone)| keeps(gone))
    }

    fn unsynced(&self) -> u64 {
        let flushing = self.flush.iter().flat_map(|flush| flush.loose.values());
        self.loose.values().chain(flushing).map(|loose| loose.bytes).sum()
    }

    /// Last round with which, and before which, there is no loose entry that no sync has covered.
    fn flushed(&self) -> u64 {
        let flushing = self.flush.iter().flat_map(|flush| flush.loose.values());
        let loose = self.loose.values().chain(flushing).map(|loose| loose.since).min();
        let taken = earlier(self.wanted.since, self.sync.as_ref().and_then(|sync| sync.since));
        earlier(loose, taken).map_or(self.round, |since| since - 1)
    }
}

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

impl Writer {
    /// A round that was synced on the spot.
    pub(super) fn note_durable(&mut self, round: &Round, strict: &BTreeSet<GroupId>) {
        self.syncing.durable_round = round.number;
        for group in strict {
            self.note_progress(*group, None, true);
        }
    }

    /// `last`: what it was when the sync began; None: what it is now.
    fn note_progress(&mut self, group: GroupId, last: Option<LogId>, is_synced: bool) {
        if let Some(image) = self.image.groups.get(&group) {
            let last = last.unwrap_or(image.last());
            self.syncing.progress.push(Durable { group, last, is_synced });
        }
    }

    /// These groups wait for a sync of the round just written.
    pub(super) fn want_sync(&mut self, strict: &BTreeSet<GroupId>, touched: Files) {
        let (mut files, since) = self.syncing.take_along(strict);
        files.extend(touched);
        let wanted = &mut self.syncing.wanted;
        wanted.is_any = true;
        wanted.since = earlier(wanted.since, since);
        wanted.files.append(&mut files);
        for group in strict {
            let last = self.image.groups.get(group).map(|image| image.last());
            wanted.ends.insert(*group, last.unwrap_or_default());
        }
    }

    /// The round is written: whoever waits for no more is told, syncs that may begin do.
    pub(super) fn finish_round(&mut self, round: &Round) -> Result<()> {
        self.syncing.round = round.number;
        let loose: BTreeSet<GroupId> = round.ops.iter().filter(|op| op.is_loose()).map(group_of).collect();
        for group in loose {
            if !self.syncing.is_waiting(&group) {
                self.note_progress(group, None, on(Mutation::CallWrittenDurable));
            }
        }
        self.syncing.wants_flush |= round.flush;
        self.start_syncs()?;
        self.note_rounds();
        Ok(())
    }

    /// How far everything is durable, and the work on files that waited for it.
    fn note_rounds(&mut self) {
        let syncing = &mut self.syncing;
        if syncing.is_settled() {
            syncing.durable_round = syncing.round;
        }
        syncing.flushed_round = syncing.flushed_round.max(syncing.flushed());
        while syncing.gone.front().is_some_and(|(round, _)| *round <= syncing.durable_round) {
            let Some((_, gone)) = syncing.gone.pop_front() else { break };
            self.aside.extend(gone.aside);
            self.unlink.extend(gone.unlink);
            self.remove_dirs.extend(gone.remove_dir);
            self.trims.extend(gone.trim);
        }
    }

    /// Begins what can begin.
    fn start_syncs(&mut self) -> Result<()> {
        if self.syncing.wanted.is_any && !self.syncing.sync_lane.is_busy() {
            self.start_sync()?;
        }
        if std::mem::take(&mut self.syncing.wants_flush) {
            match self.syncing.flush_lane.is_busy() {
                true => self.syncing.wants_flush = true,
                false => self.start_flush()?,
            }
        }
        Ok(())
    }

    fn start_sync(&mut self) -> Result<()> {
        let Wanted { files, ends, since, .. } = std::mem::take(&mut self.syncing.wanted);
        let (stamp, sequence, round) = (self.syncing.stamp, self.journal.last(), self.syncing.round);
        self.syncing.stamp += 1;
        self.syncing.sync =
            Some(Sync { files: files.keys().copied().collect(), ends, since, stamp, sequence, round });
        let job = Job { journal: self.journal.handle(), files: files.into_values().collect() };
        let (is_threaded, waker) = (self.fs.is_threaded(), self.syncing.waker.clone());
        let started = self.syncing.sync_lane.start(job, is_threaded, waker.as_ref());
        started.map_err(|e| self.io("begin to sync a round", &e))
    }

    /// Flushes all loose entries but those of groups that somebody waits for: their end is not to be told before that sync has ended.
    /// They may have come after it began, so their flush is still owed then.
    fn start_flush(&mut self) -> Result<()> {
        let all = std::mem::take(&mut self.syncing.loose);
        let (kept, loose) = all.into_iter().partition(|(group, _)| self.syncing.is_waiting(group));
        self.syncing.loose = kept;
        self.syncing.wants_flush = !self.syncing.loose.is_empty();
        let loose: BTreeMap<GroupId, Loose> = loose;
        if loose.is_empty() {
            return Ok(());
        }
        let last = |group: &GroupId| Some((*group, self.image.groups.get(group)?.last()));
        let ends = loose.keys().filter_map(last).collect();
        let files: Files =
            loose.values().flat_map(|l| l.files.iter().map(|(n, file)| (*n, file.clone()))).collect();
        let complete = self.syncing.is_settled().then_some(self.journal.last());
        let stamp = self.syncing.stamp;
        self.syncing.stamp += 1;
        self.syncing.flush = Some(Flush { loose, ends, stamp, complete });
        let job = Job { journal: self.journal.second_handle(), files: files.into_values().collect() };
        let (is_threaded, waker) = (self.fs.is_threaded(), self.syncing.waker.clone());
        let started = self.syncing.flush_lane.start(job, is_threaded, waker.as_ref());
        started.map_err(|e| self.io("begin to flush", &e))
    }

    /// Takes note of syncs that have ended. IO thread, whenever the waker has called.
    pub fn poll(&mut self) {
        if self.failure.is_none()
            && let Err(error) = self.poll_syncs()
        {
            self.latch(&error);
        }
    }

    pub(super) fn poll_syncs(&mut self) -> Result<()> {
        let ended = (self.syncing.sync_lane.poll(), self.syncing.flush_lane.poll());
        self.take_ends(ended)
    }

    fn take_ends(&mut self, ended: (Option<std::io::Result<()>>, Option<std::io::Result<()>>)) -> Result<()> {
        let (sync, flush) = ended;
        if sync.is_none() && flush.is_none() {
            return Ok(());
        }
        for result in [&sync, &flush] {
            if let Some(Err(e)) = result {
                self.syncing.tells_failure = true;
                return Err(Error::Failed(format!(
                    "cannot sync what was written in {}: {e}",
                    self.options.dir.display()
                )));
            }
        }
        if flush.is_some() {
            self.finish_flush();
        }
        if sync.is_some() {
            self.finish_sync();
        }
        self.start_syncs()?;
        self.note_rounds();
        Ok(())
    }

    fn finish_sync(&mut self) {
        let Some(Sync { files, ends, stamp, sequence, round, .. }) = self.syncing.sync.take() else { return };
        self.journal.note_complete(sequence);
        self.syncing.durable_round = self.syncing.durable_round.max(round);
        self.cleanse(files, stamp);
        for (group, last) in ends {
            if self.syncing.wanted.ends.contains_key(&group) {
                self.note_progress(group, Some(last), true);
                continue;
            }
            self.note_progress(group, Some(last), true);
            // Whatever came after it is loose.
            if self.image.groups.get(&group).is_some_and(|image| image.last() != last) {
                self.note_progress(group, None, false);
            }
        }
    }

    fn finish_flush(&mut self) {
        let Some(Flush { loose, ends, stamp, complete }) = self.syncing.flush.take() else { return };
        if let Some(sequence) = complete {
            self.journal.note_complete(sequence);
        }
        self.cleanse(loose.into_values().flat_map(|l| l.files.into_keys()), stamp);
        for (group, last) in ends {
            self.note_progress(group, Some(last), true);
            if self.image.groups.contains_key(&group) {
                self.syncing.marks.insert(group, last);
            }
        }
    }

    /// Files that were synced, unless they have been written to since.
    fn cleanse(&mut self, files: impl IntoIterator<Item = u64>, stamp: u64) {
        for number in files {
            if self.dirty.get(&number).is_some_and(|(_, written)| *written <= stamp) {
                self.dirty.remove(&number);
            }
        }
    }

    /// Waits for all that is under way, and for what waits for it.
    pub(super) fn finish_syncs(&mut self) -> Result<()> {
        while self.syncing.sync_lane.is_busy() || self.syncing.flush_lane.is_busy() {
            let ended = (self.syncing.sync_lane.finish(), self.syncing.flush_lane.finish());
            self.take_ends(ended)?;
        }
        Ok(())
    }

    /// What became of rounds that were answered before their syncs had ended.
    pub fn take_news(&mut self) -> Option<RoundDone> {
        let syncing = &mut self.syncing;
        if std::mem::take(&mut syncing.tells_failure) {
            let why = self.failure.clone().unwrap_or_default();
            return Some(RoundDone { is_answer: false, ..RoundDone::failed(syncing.round, why) });
        }
        let is_news =
            !syncing.progress.is_empty() || syncing.told != (syncing.durable_round, syncing.flushed_round);
        let round = syncing.round;
        (self.failure.is_none() && is_news).then(|| self.tell(round, false))
    }

    pub(super) fn tell(&mut self, number: u64, is_answer: bool) -> RoundDone {
        let syncing = &mut self.syncing;
        syncing.told = (syncing.durable_round, syncing.flushed_round);
        RoundDone {
            number,
            is_answer,
            durable_round: syncing.durable_round,
            flushed_round: syncing.flushed_round,
            unsynced: syncing.unsynced(),
            failure: None,
            progress: std::mem::take(&mut syncing.progress),
            written: std::mem::take(&mut self.written),
        }
    }
}
