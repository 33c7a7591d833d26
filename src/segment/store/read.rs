//! Reads of the front half: entries for followers, batches for consumers, lookups by offset and time.
//! Not here: how an entry is found (`cursor`), what is committed (the caller bounds every read).
//!
//! * `read` answers checked entries. `fetch` answers batches with a deferred check where the bytes come from
//!   a map: whoever sends them makes it first, off the executor if the pages are not in memory.
//! * Entries of which compaction left nothing are read as any other; a consumer gets the next batch behind them. How many of them one
//!   turn walks over is bounded: where it ends is kept, so that the next one goes on there.

use super::Store;
use crate::mutation::{Mutation, on};
use crate::segment::map::SegmentMap;
use crate::segment::segment_file::SEGMENT_HEADER;
use crate::segment::types::*;
use crate::segment::{Error, Result, frame};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Hollow entries that one fetch walks over, and how many of them a gap counts for, whatever is in it.
const PATIENCE: i64 = 32 << 10;
const GAP_COST: i64 = 64;

/// One committed batch handed to a consumer.
pub struct FetchedBatch {
    /// Header content.
    pub meta: EntryMeta,
    /// The record batch bytes as stored.
    pub payload: Bytes,
    /// Present if the bytes come from a map and have not been checked: call before sending.
    pub check: Option<FrameCheck>,
}

/// A deferred check of bytes that come from a segment map.
pub struct FrameCheck {
    frame: Bytes,
    byte: u64,
    map: SegmentMap,
    group: GroupId,
    index: Index,
    log: Option<Arc<DamageLog>>,
}

impl FrameCheck {
    pub(super) fn new(frame: Bytes, byte: u64, map: SegmentMap, group: GroupId, index: Index) -> Self {
        Self { frame, byte, map, group, index, log: None }
    }

    pub(super) fn reporting_to(mut self, log: Arc<DamageLog>) -> Self {
        self.log = Some(log);
        self
    }

    /// Whether all pages are in memory (so `verify` will not block on the disk).
    pub fn is_resident(&self) -> bool {
        let from = self.byte as usize;
        self.map.is_resident(from..from + self.frame.len())
    }

    /// Checks the frame's CRC; marks the group damaged on failure.
    pub fn verify(&self) -> Result<()> {
        if frame::check(&self.frame) || on(Mutation::SkipReadCheck) {
            return Ok(());
        }
        if let Some(log) = &self.log {
            log.note(self.group, self.index, self.index);
        }
        let why = if self.map.has_failed() { "unreadable page" } else { "frame CRC does not match" };
        Err(Error::Damaged(format!("entry {} of group {}: {why}", self.index, self.group)))
    }
}

/// Damage met by readers on any thread, until the store takes note of it.
#[derive(Default)]
pub(super) struct DamageLog {
    is_pending: AtomicBool,
    ranges: Mutex<Vec<(GroupId, Index, Index)>>,
    has_news: AtomicBool,
    told: Mutex<Told>,
}

/// Which groups the engine has been told of.
#[derive(Default)]
struct Told {
    known: HashSet<GroupId>,
    news: Vec<GroupId>,
}

/// A range that damage may have widened.
pub(super) struct Widened(Option<(Index, Index)>);

impl Widened {
    pub(super) fn fold(self, known: Option<(Index, Index)>) -> Option<(Index, Index)> {
        match (self.0, known) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        }
    }
}

impl DamageLog {
    /// A log whose owner knows of some damaged groups already.
    pub(super) fn knowing(groups: impl Iterator<Item = GroupId>) -> Self {
        let told = Told { known: groups.collect(), news: Vec::new() };
        Self { told: Mutex::new(told), ..Self::default() }
    }
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Groups nobody was told of yet.
    pub(super) fn take_news(&self) -> Vec<GroupId> {
        if !self.has_news.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.told().news)
    }
    /// The group is gone or has a new log: damage found from now on is news.
    pub(super) fn forget(&self, group: GroupId) {
        let mut told = self.told();
        told.known.remove(&group);
        told.news.retain(|g| *g != group);
    }
    pub(super) fn note(&self, group: GroupId, first: Index, last: Index) {
        let mut told = self.told();
        if told.known.insert(group) {
            told.news.push(group);
            self.has_news.store(true, Ordering::Release);
        }
        drop(told);
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if !ranges.contains(&(group, first, last)) {
            ranges.push((group, first, last));
        }
        self.is_pending.store(true, Ordering::Release);
    }
    pub(super) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }
    pub(super) fn take(&self) -> Vec<(GroupId, Index, Index)> {
        if !self.is_pending.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.ranges.lock().unwrap_or_else(PoisonError::into_inner))
    }
    pub(super) fn of(&self, group: GroupId) -> Widened {
        if !self.is_pending() {
            return Widened(None);
        }
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let of_group = ranges.iter().filter(|r| r.0 == group);
        Widened(of_group.map(|r| (r.1, r.2)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
    }
}

impl Store {
    /// Entries from `from` on, at most `max_bytes` of payload but at least one entry. From the tail or a checked map.
    /// Errors: OutOfRange if `from` is before the log start or after the end; Damaged.
    pub fn read(&mut self, group: GroupId, from: Index, max_bytes: usize) -> Result<Vec<Entry>> {
        if from > self.group(group)?.image.last().index {
            return Err(Error::OutOfRange);
        }
        let mut cursor = self.seek_index(group, from)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        loop {
            let entry = match self.step(&mut cursor) {
                Ok(Some(item)) if !entries.is_empty() && bytes + weight(item.payload.len()) > max_bytes => {
                    break;
                }
                Ok(Some(item)) => item.into_entry(),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            match entry {
                Ok(entry) => {
                    bytes += entry.weight();
                    entries.push(entry);
                }
                // What is sound before the damage is still of use.
                Err(error) if entries.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(entries)
    }

    /// Record batches for a consumer: from the batch containing `from` up to (not including) offset `below`,
    /// at most `max_bytes` of payload; the first batch is returned even if larger when `at_least_one`.
    /// Skips control entries and those of which nothing is left. A batch that reaches over `below` is not returned.
    /// Nothing is answered, too, after so many of the latter that the rest is for another turn: [`Store::has_more_to_skip`].
    pub fn fetch(
        &mut self,
        group: GroupId,
        from: Offset,
        below: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Vec<FetchedBatch>> {
        let image = &self.group(group)?.image;
        if from < image.log_start.base_offset || from > image.next_offset() {
            return Err(Error::OutOfRange);
        }
        let mut batches = Vec::new();
        if from >= below || from == image.next_offset() {
            return Ok(batches);
        }
        let mut reached = self.group(group)?.skips.behind(from);
        let mut cursor = self.seek_offset(group, reached)?;
        let (mut bytes, mut patience) = (0, PATIENCE);
        loop {
            let item = match self.step(&mut cursor) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) if batches.is_empty() => return Err(error),
                Err(_) => break,
            };
            if item.payload.is_empty() && item.meta.next_offset() <= below {
                let behind = cursor.leave_gap();
                reached = reached.max(behind.unwrap_or(item.meta.next_offset()));
                patience -= if item.is_in_gap { GAP_COST } else { 1 };
                if patience <= 0 {
                    break;
                }
                continue;
            }
            if item.meta.next_offset() <= from || item.meta.kind != EntryKind::Records {
                continue;
            }
            if item.meta.next_offset() > below {
                break;
            }
            let is_granted = batches.is_empty() && at_least_one;
            if bytes + item.payload.len() > max_bytes && !is_granted {
                break;
            }
            bytes += item.payload.len();
            batches.push(FetchedBatch { meta: item.meta, payload: item.payload, check: item.check });
            if bytes >= max_bytes {
                break;
            }
        }
        if batches.is_empty() && reached > from {
            self.group_mut(group)?.skips.note(from, reached);
        }
        Ok(batches)
    }

    /// Whether a fetch at `from` that answered nothing has more to look at below `below`: it goes on where it ended.
    pub fn has_more_to_skip(&self, group: GroupId, from: Offset, below: Offset) -> bool {
        self.groups.get(&group).is_some_and(|g| {
            let behind = g.skips.behind(from);
            from < behind && behind < below
        })
    }

    /// Header content of the entry at `index`.
    pub fn meta_at(&mut self, group: GroupId, index: Index) -> Result<EntryMeta> {
        if let Some(tail) = self.group(group)?.tail.get(index) {
            return Ok(tail.entry.meta);
        }
        let mut cursor = self.seek_index(group, index)?;
        let item = self.step(&mut cursor)?.ok_or(Error::OutOfRange)?;
        Ok(item.into_entry()?.meta)
    }

    /// The largest epoch whose term is <= `term` that has Records entries, and the offset after its last record
    /// (OffsetForLeaderEpoch, KIP-101). None if no such epoch is in the log.
    pub fn epoch_end(&mut self, group: GroupId, term: Term) -> Result<Option<(Epoch, Offset)>> {
        Ok(self.group(group)?.image.terms.end_of(term))
    }

    /// First Records entry that ends behind offset `from` and at or below `below` whose batch's max timestamp
    /// is >= `timestamp`, with its payload.
    pub fn find_timestamp(
        &mut self,
        group: GroupId,
        timestamp: i64,
        from: Offset,
        below: Offset,
    ) -> Result<Option<Entry>> {
        let files = self.group(group)?.image.files.len();
        for at in 0..files {
            let image = &self.group(group)?.image;
            let (file, first) = (&image.files[at], image.first());
            if file.base_offset >= below {
                return Ok(None);
            }
            if file.max_timestamp < timestamp || file.last.index < first || file.next_offset <= from {
                continue;
            }
            let last = file.last.index;
            // Nothing before either slot can be the answer.
            let mut cursor = self.seek_in(group, at, |index| {
                let slots = [index.by_timestamp(timestamp), index.by_offset(from)];
                slots.into_iter().flatten().max_by_key(|slot| slot.byte)
            })?;
            while cursor.next() <= last {
                let Some(item) = self.step(&mut cursor)? else { break };
                if item.meta.next_offset() > below {
                    return Ok(None);
                }
                let is_record = !item.payload.is_empty()
                    && item.meta.kind == EntryKind::Records
                    && item.meta.next_offset() > from;
                if is_record && item.max_timestamp >= timestamp && item.meta.id.index >= first {
                    return item.into_entry().map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Records entry that ends behind `from` and at or below `below` with the largest max timestamp (the
    /// first of several).
    pub fn find_max_timestamp(
        &mut self,
        group: GroupId,
        from: Offset,
        below: Offset,
    ) -> Result<Option<Entry>> {
        let image = &self.group(group)?.image;
        let first = image.first();
        let mut max = None;
        for file in image.files.clone() {
            let is_outside = file.base_offset >= below || file.next_offset <= from;
            if is_outside || file.is_empty() || file.last.index < first {
                continue;
            }
            let is_whole = file.next_offset <= below && file.first() >= first && file.base_offset >= from;
            let of_file = if is_whole {
                Some(file.max_timestamp)
            } else {
                self.max_timestamp_in(group, file.number, from, below)?
            };
            max = max.max(of_file);
        }
        // -1: no record, or none with a time.
        match max.filter(|timestamp| *timestamp >= 0) {
            Some(timestamp) => self.find_timestamp(group, timestamp, from, below),
            None => Ok(None),
        }
    }

    /// Largest timestamp of the entries of a file that lie within the log, end behind `from` and at or below
    /// `below`.
    fn max_timestamp_in(
        &mut self,
        group: GroupId,
        number: u64,
        from: Offset,
        below: Offset,
    ) -> Result<Option<i64>> {
        let g = self.group(group)?;
        let (first, at) = (g.image.first(), position(g, number));
        let is_cut = g.image.files[at].first() < first || g.image.files[at].base_offset < from;
        let last = g.image.files[at].last.index;
        // A file that begins before the log start or `from` is walked from there: what an index says of the
        // largest timestamp before a slot would include what does not count.
        let mut max = None;
        let mut cursor = if is_cut {
            self.seek_in(group, at, |index| index.by_offset(from))?
        } else {
            let offset = Offset(below.0 - 1);
            let cursor = self.seek_in(group, at, |index| index.by_offset(offset))?;
            max = self.slot_max(group, at, cursor.next());
            cursor
        };
        while cursor.next() <= last {
            let Some(item) = self.step(&mut cursor)? else { break };
            if item.meta.next_offset() > below {
                break;
            }
            if item.meta.kind == EntryKind::Records && item.meta.next_offset() > from {
                max = max.max(Some(item.max_timestamp));
            }
        }
        Ok(max)
    }

    /// Largest timestamp of the entries of a file before `from`.
    pub(super) fn max_timestamp_before(&mut self, group: GroupId, number: u64, from: Index) -> Result<i64> {
        let at = position(self.group(group)?, number);
        let mut cursor = self.seek_in(group, at, |index| index.by_index(from))?;
        let mut max = self.slot_max(group, at, cursor.next()).unwrap_or(-1);
        while cursor.next() < from {
            let Some(item) = self.step(&mut cursor)? else { break };
            if let Some(check) = &item.check {
                check.verify()?;
            }
            max = max.max(item.max_timestamp);
        }
        Ok(max)
    }

    /// What the index knows of timestamps before the slot at `index`.
    fn slot_max(&self, group: GroupId, at: usize, index: Index) -> Option<i64> {
        let segment = &self.groups.get(&group)?.segments[at];
        let slot = segment.index.by_index(index).filter(|s| s.index == index && s.byte > SEGMENT_HEADER)?;
        (slot.max_before >= 0).then_some(slot.max_before)
    }
}

fn position(group: &super::Group, number: u64) -> usize {
    let found = group.segments.iter().position(|s| s.number == number);
    found.expect("the caller took the number from the same group")
}
