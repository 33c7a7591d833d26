//! What the front half keeps open: handles and maps of segment files, least recently used first out, and
//! the indexes that go with them. Not here: what is read through them (`cursor`).
//!
//! * Closing our handle of a file that is being written is safe: the writer holds its own until the file
//!   is synced, so no error report of the kernel is lost.

use super::Store;
use crate::segment::fs::{File, Limits, OpenMode};
use crate::segment::group::Segment;
use crate::segment::image::FileImage;
use crate::segment::index::{self, Slot, SlotRun, SparseIndex};
use crate::segment::map::SegmentMap;
use crate::segment::segment_file::{self, Expect, SEGMENT_HEADER};
use crate::segment::types::*;
use crate::segment::{Error, Result, error, frame};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

/// Order of use of what is open.
pub(super) struct Lru {
    queue: VecDeque<(GroupId, u64, u64)>,
    tick: u64,
    handles: usize,
    maps: usize,
    limits: Limits,
}

impl Lru {
    pub(super) fn new(limits: Limits) -> Self {
        Self { queue: VecDeque::new(), tick: 0, handles: 0, maps: 0, limits }
    }

    fn touch(&mut self, group: GroupId, segment: &mut Segment) {
        // Uses close together need no new place in the queue.
        if segment.used_at + 64 > self.tick && segment.used_at > 0 {
            return;
        }
        self.tick += 1;
        segment.used_at = self.tick;
        self.queue.push_back((group, segment.number, self.tick));
    }

    pub(super) fn opened(&mut self, group: GroupId, segment: &mut Segment) {
        self.handles += 1;
        segment.used_at = 0;
        self.touch(group, segment);
    }

    pub(super) fn forget(&mut self, segments: &[Segment]) {
        self.handles -= segments.iter().filter(|s| s.handle.is_some()).count();
        self.maps -= segments.iter().filter(|s| s.map.is_some()).count();
    }

    pub(super) fn forget_some(&mut self, segments: &[Segment], dropped: &[u64]) {
        for segment in segments.iter().filter(|s| dropped.contains(&s.number)) {
            self.forget(std::slice::from_ref(segment));
        }
    }

    fn is_over(&self) -> bool {
        self.handles > self.limits.open_files || self.maps > self.limits.maps
    }
}

impl Store {
    /// Closes the least recently used files until the limits hold; never the one just asked for.
    pub(super) fn close_idle(&mut self, keep: u64) {
        let mut looked = self.lru.queue.len();
        while self.lru.is_over() && looked > 0 {
            looked -= 1;
            let Some((group, number, tick)) = self.lru.queue.pop_front() else { return };
            let Some(g) = self.groups.get_mut(&group) else { continue };
            let active = g.image.active().number;
            let Some(at) = g.segments.iter().position(|s| s.number == number) else { continue };
            let segment = &mut g.segments[at];
            if segment.used_at != tick {
                continue;
            }
            if number == keep {
                self.lru.queue.push_back((group, number, tick));
                continue;
            }
            self.lru.handles -= usize::from(segment.handle.take().is_some());
            self.lru.maps -= usize::from(segment.map.take().is_some());
            if number != active {
                segment.index = SparseIndex::starting_at(g.image.files[at].end);
            }
        }
        let groups = &self.groups;
        if self.lru.queue.len() > 4 * (self.lru.limits.open_files + self.lru.limits.maps) {
            self.lru.queue.retain(|(group, number, tick)| {
                let segment =
                    |g: &super::Group| g.segments.iter().any(|s| s.number == *number && s.used_at == *tick);
                groups.get(group).is_some_and(segment)
            });
        }
    }

    /// Handle of a segment, opened if need be.
    pub(super) fn handle(&mut self, group: GroupId, at: usize) -> Result<Arc<dyn File>> {
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let segment = &mut g.segments[at];
        if let Some(handle) = &segment.handle {
            return Ok(handle.clone());
        }
        let path = segment_file::path(&self.options.dir, &g.image.dir, segment.number);
        let opened = self.fs.open(&path, OpenMode::Write);
        let opened = opened.and_then(|handle| handle.len().map(|len| (handle, len)));
        let (handle, len) = match opened {
            Ok(opened) => opened,
            Err(e) => return Err(self.unreadable(group, at, &e)),
        };
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let segment = &mut g.segments[at];
        segment.handle = Some(handle.clone());
        if segment.allocated == 0 {
            segment.allocated = len;
        }
        let number = segment.number;
        self.lru.opened(group, segment);
        self.close_idle(number);
        Ok(handle)
    }

    /// Handle of the file appended to.
    pub(super) fn active_handle(&mut self, group: GroupId) -> Result<Arc<dyn File>> {
        let at = self.group(group)?.segments.len() - 1;
        self.handle(group, at)
    }

    /// A map of a segment that covers its valid and written part.
    pub(super) fn map(&mut self, group: GroupId, at: usize) -> Result<SegmentMap> {
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let needed = g.image.files[at].end.min(g.segments[at].written) as usize;
        self.lru.touch(group, &mut g.segments[at]);
        if let Some(map) = g.segments[at].map.as_ref().filter(|map| map.len() >= needed) {
            return Ok(map.clone());
        }
        let handle = self.handle(group, at)?;
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let segment = &mut g.segments[at];
        // All that is written, so that the next reader of a growing file finds it covered.
        let len = segment.written as usize;
        let map = match handle.map(len.max(needed)) {
            Ok(map) => map,
            Err(e) => return Err(self.unreadable(group, at, &e)),
        };
        let number = segment.number;
        if segment.map.replace(map.clone()).is_none() {
            self.lru.maps += 1;
        }
        self.close_idle(number);
        Ok(map)
    }

    /// A file that cannot be read. One that is gone, or shorter than it was: its entries are damaged.
    fn unreadable(&mut self, group: GroupId, at: usize, e: &std::io::Error) -> Error {
        let Ok(g) = self.group(group) else {
            return Error::UnknownGroup(group);
        };
        let file = &g.image.files[at];
        let path = segment_file::path(&self.options.dir, &g.image.dir, file.number);
        if error::is_busy(e) {
            return error::failed("read", &path, e);
        }
        let is_gone = matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::NotFound);
        if is_gone && !file.is_empty() {
            self.damage.note(group, file.first(), file.last.index);
        }
        Error::Damaged(format!("cannot read {}: {e}", path.display()))
    }

    /// Completes the index of a segment: from its index file as far as that is sound, then from the segment.
    pub(super) fn ensure_index(&mut self, group: GroupId, at: usize, trust_file: bool) -> Result<()> {
        let g = self.group(group)?;
        let (file, from) = (g.image.files[at].clone(), g.segments[at].index.from);
        if from <= SEGMENT_HEADER {
            return Ok(());
        }
        let interval = g.image.options.index_interval_bytes;
        let path = segment_file::index_path(&self.options.dir, &g.image.dir, file.number);
        let mut found = SparseIndex::starting_at(SEGMENT_HEADER);
        let mut covered = SEGMENT_HEADER;
        if trust_file {
            let run = index::load(&*self.fs, &path, file.number, SEGMENT_HEADER);
            found.slots = run.slots;
            found.slots.retain(|s| s.byte < from && s.index >= file.first());
            covered = run.to;
        }
        if covered < from {
            let handle = self.handle(group, at)?;
            let is_whole = scan_slots(&*handle, group, &file, from, interval, &mut found)
                .map_err(|e| error::failed("read", &path, &e))?;
            if is_whole {
                // What a crash left out of the index is not looked for again. It is a cache: if it cannot
                // be written, the next reader scans once more.
                let run = SlotRun { from: SEGMENT_HEADER, to: from, slots: found.slots.clone() };
                let _ = index::rewrite(&*self.fs, &path, file.number, &run);
            }
        }
        let g = self.group_mut(group)?;
        g.segments[at].index.prepend(found.slots, SEGMENT_HEADER);
        Ok(())
    }
}

/// Adds the slots of a file up to `end`, starting where `found` ends. Stops at a bad frame: what is behind
/// it is found by its reader, who then reports it. Answers whether it came to `end`.
fn scan_slots(
    handle: &dyn File,
    group: GroupId,
    file: &FileImage,
    end: u64,
    interval: u32,
    found: &mut SparseIndex,
) -> std::io::Result<bool> {
    let (from, expect, mut max) = match found.slots.pop() {
        Some(slot) => (slot.byte, Expect::Index(slot.index), slot.max_before),
        None => (SEGMENT_HEADER, Expect::After(file.prev, file.base_offset), -1),
    };
    let mut last_byte = None;
    let (_, why) =
        segment_file::read_frames(handle, group, (from, end), expect, false, |meta, byte, payload| {
            // The first entry of a frame: a slot names where one begins.
            if last_byte != Some(byte) {
                let slot =
                    Slot { index: meta.id.index, base_offset: meta.base_offset, byte, max_before: max };
                found.offer(interval, slot);
            }
            last_byte = Some(byte);
            max = max.max(frame::max_timestamp(meta.kind, payload));
        })?;
    Ok(why.is_none())
}
