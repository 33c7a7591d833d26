//! Walking a group's log from any index, over files and the in-memory tail, one entry at a time.
//! Everything that reads goes through here. Not here: what the walk is for (`read`).
//!
//! * What comes from the tail is what was appended; what comes from a map carries a [`FrameCheck`] and is
//!   only believed as far as its header chains until that check has been made.
//! * A frame that is not where it must be is reported as damage of its index, never skipped.
//! * Entries of a gap come one by one, without payload and without a check to be made: the gap was checked when it was met.

use super::Store;
use super::read::FrameCheck;
use crate::segment::index::{Slot, SparseIndex};
use crate::segment::map::SegmentMap;
use crate::segment::segment_file::{Expect, SEGMENT_HEADER, Walk};
use crate::segment::types::*;
use crate::segment::{Error, Result, frame};
use bytes::Bytes;

/// A place in a log.
pub(super) struct Cursor {
    group: GroupId,
    next: Index,
    walk: Option<(Walk, SegmentMap)>,
}

/// An entry met on the way.
pub(super) struct Item {
    pub meta: EntryMeta,
    pub payload: Bytes,
    /// Its place in the file.
    pub byte: u64,
    pub max_timestamp: i64,
    /// To be made before the payload is used, if it came from a map.
    pub check: Option<FrameCheck>,
    /// Whether it is one of a gap, which begins at `byte`.
    pub is_in_gap: bool,
}

impl Item {
    /// The entry, checked.
    pub(super) fn into_entry(self) -> Result<Entry> {
        if let Some(check) = &self.check {
            check.verify()?;
        }
        Ok(Entry { meta: self.meta, payload: self.payload })
    }
}

impl Cursor {
    /// Index of the next entry.
    pub(super) fn next(&self) -> Index {
        self.next
    }

    /// Goes on behind the gap it stands in; answers the offset there.
    pub(super) fn leave_gap(&mut self) -> Option<Offset> {
        let (last, next_offset) = self.walk.as_mut()?.0.leave_gap()?;
        self.next = last.index.next();
        Some(next_offset)
    }
}

impl Store {
    /// A cursor at an index of the log (or right behind its end).
    pub(super) fn seek_index(&mut self, group: GroupId, index: Index) -> Result<Cursor> {
        let image = &self.group(group)?.image;
        if index < image.first() || index > image.last().index.next() {
            return Err(Error::OutOfRange);
        }
        Ok(Cursor { group, next: index, walk: None })
    }

    /// A cursor at or shortly before the entry that holds an offset of the log.
    pub(super) fn seek_offset(&mut self, group: GroupId, offset: Offset) -> Result<Cursor> {
        let g = self.group(group)?;
        if let Some(index) = g.tail.by_offset(offset) {
            return self.seek_index(group, index.max(self.group(group)?.image.first()));
        }
        let at = g.image.files.partition_point(|f| f.base_offset <= offset).saturating_sub(1);
        self.seek_in(group, at, |index| index.by_offset(offset))
    }

    /// A cursor at the slot `find` chooses in a file, or at the file's start.
    pub(super) fn seek_in(
        &mut self,
        group: GroupId,
        at: usize,
        find: impl Fn(&SparseIndex) -> Option<Slot>,
    ) -> Result<Cursor> {
        let g = self.group(group)?;
        let first = g.image.first();
        if g.tail.first().is_some_and(|tail| tail <= g.image.files[at].first()) {
            let next = g.image.files[at].first().max(first);
            return Ok(Cursor { group, next, walk: None });
        }
        let walk = self.open_walk(group, at, find)?;
        let next = walk.as_ref().map_or(self.group(group)?.image.files[at].first(), |(w, _)| w.index());
        // Entries before the log start in its first file are walked over, not served.
        Ok(Cursor { group, next: next.max(first), walk })
    }

    /// A walk in a file from a slot; None if nothing of the file is readable through a map (yet).
    pub(super) fn open_walk(
        &mut self,
        group: GroupId,
        at: usize,
        find: impl Fn(&SparseIndex) -> Option<Slot>,
    ) -> Result<Option<(Walk, SegmentMap)>> {
        let g = self.group(group)?;
        let end = g.image.files[at].end.min(g.segments[at].written);
        if end <= SEGMENT_HEADER {
            return Ok(None);
        }
        self.ensure_index(group, at, true)?;
        let map = self.map(group, at)?;
        let g = self.group(group)?;
        let mut slot = find(&g.segments[at].index).filter(|s| s.byte < end);
        if slot.is_some_and(|slot| !is_at(&map, slot, group, end)) {
            // The index misleads: it is only a cache, so it is made again from the segment.
            self.group_mut(group)?.segments[at].index = SparseIndex::starting_at(end);
            self.ensure_index(group, at, false)?;
            slot = find(&self.group(group)?.segments[at].index).filter(|s| s.byte < end);
        }
        let file = &self.group(group)?.image.files[at];
        let (from, expect) = match slot {
            Some(slot) => (slot.byte, Expect::Index(slot.index)),
            None => (SEGMENT_HEADER, Expect::After(file.prev, file.base_offset)),
        };
        let view = map.slice(from as usize..end as usize);
        Ok(Some((Walk::new(group, view, from, expect), map)))
    }

    /// The next entry; None at the end of the log.
    pub(super) fn step(&mut self, cursor: &mut Cursor) -> Result<Option<Item>> {
        loop {
            let g = self.group(cursor.group)?;
            if cursor.next > g.image.last().index {
                return Ok(None);
            }
            if let Some(tail) = g.tail.get(cursor.next) {
                let (entry, byte, max_timestamp) = (tail.entry.clone(), tail.byte, tail.max_timestamp);
                cursor.next = cursor.next.next();
                let Entry { meta, payload } = entry;
                let item = Item { meta, payload, byte, max_timestamp, check: None, is_in_gap: false };
                return Ok(Some(item));
            }
            if g.is_damaged(cursor.next) {
                return Err(Error::Damaged(format!("entry {} of group {}", cursor.next, cursor.group)));
            }
            let Some((walk, map)) = &mut cursor.walk else {
                self.enter(cursor)?;
                continue;
            };
            match walk.next() {
                None => {
                    cursor.walk = None;
                    let g = self.group(cursor.group)?;
                    let file = &g.image.files[g.file_of(cursor.next)];
                    if file.first() != cursor.next {
                        // The file ended before its entries did.
                        return Err(self.hole(cursor.group, cursor.next));
                    }
                }
                Some(Ok(met)) if met.meta.id.index < cursor.next => {}
                Some(Ok(met)) => {
                    let max_timestamp = met.max_timestamp();
                    let payload = met.payload();
                    cursor.next = met.meta.id.index.next();
                    let (meta, byte, is_in_gap) = (met.meta, met.byte, met.gap.is_some());
                    let check = (!is_in_gap).then(|| {
                        let check =
                            FrameCheck::new(met.frame, byte, map.clone(), cursor.group, meta.id.index);
                        check.reporting_to(self.damage.clone())
                    });
                    return Ok(Some(Item { meta, payload, byte, max_timestamp, check, is_in_gap }));
                }
                Some(Err(why)) => {
                    // What lies between the bad frame and the entry wanted cannot be reached either.
                    let index = walk.index().min(cursor.next);
                    self.damage.note(cursor.group, index, cursor.next);
                    return Err(Error::Damaged(format!("entry {index} of group {}: {why}", cursor.group)));
                }
            }
        }
    }

    /// Opens a walk at the cursor's index.
    fn enter(&mut self, cursor: &mut Cursor) -> Result<()> {
        let (group, next) = (cursor.group, cursor.next);
        let g = self.group(group)?;
        let at = g.file_of(next);
        cursor.walk = self.open_walk(group, at, |index| index.by_index(next))?;
        if cursor.walk.is_none() {
            // An entry is in the tail until it is written, so one of the two always has it.
            return Err(self.hole(group, next));
        }
        Ok(())
    }

    fn hole(&self, group: GroupId, index: Index) -> Error {
        self.damage.note(group, index, index);
        Error::Damaged(format!("entry {index} of group {group} is in no file"))
    }
}

/// Whether the frame a slot names is where it says.
fn is_at(map: &SegmentMap, slot: Slot, group: GroupId, end: u64) -> bool {
    let bytes = map.slice(slot.byte as usize..end as usize);
    frame::decode_head(&bytes, group)
        .is_ok_and(|head| head.first() == slot.index && head.meta.base_offset == slot.base_offset)
}
