//! Places and space: where entries go, and the disk space reserved before they are taken (safety.md F13).
//! Not here: the entries themselves.
//!
//! * A new file takes a block, which holds the control entries of an idle group; from the first records on space is reserved in
//!   steps from 64 KiB doubling to 32 MiB; free space is asked for once per step.
//! * The reserve is kept from records; control entries, cuts and rolls may use it, so that elections,
//!   deletes and metadata go on when the disk is full.

use super::Store;
use crate::mutation::{Mutation, on};
use crate::segment::fs::OpenMode;
use crate::segment::group::Segment;
use crate::segment::image::FileImage;
use crate::segment::index::SparseIndex;
use crate::segment::round::FileRef;
use crate::segment::segment_file::{self, SEGMENT_HEADER};
use crate::segment::types::*;
use crate::segment::{Error, Result, error, frame};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// What a new file takes: most groups of a large cluster are idle and never need more.
const FIRST_STEP: u64 = 4 << 10;
const STEP_MIN: u64 = 64 << 10;
const STEP_MAX: u64 = 32 << 20;
/// Bytes of the smallest record batch: its header (magic 2).
const RECORDS_MIN: u64 = 61;

/// A file just made, and its directory.
pub(super) type NewFile = (FileRef, PathBuf);

/// Entries that go to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How many.
    pub count: usize,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Whether a new file is begun for them.
    pub rolls: bool,
}

/// Spreads entries over files: one rolls before it would grow beyond `segment_bytes`, unless it is empty.
pub(super) fn split(end: u64, segment_bytes: u64, entries: &[Entry]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = Run { count: 0, bytes: 0, rolls: false };
    let mut at = end;
    for entry in entries {
        let len = frame::frame_len(entry.meta.payload_len);
        let begins = entry.meta.kind == EntryKind::Snapshot;
        if at > SEGMENT_HEADER && (begins || at + len > segment_bytes) {
            if run.count > 0 {
                runs.push(run);
            }
            run = Run { count: 0, bytes: 0, rolls: true };
            at = SEGMENT_HEADER;
        }
        run.count += 1;
        run.bytes += len;
        at += len;
    }
    runs.push(run);
    runs
}

/// Bytes of frames that entries with so many payload bytes in all take at most: no record batch is smaller
/// than its header.
fn frames_at_most(payload_bytes: u64) -> u64 {
    let entries = payload_bytes / RECORDS_MIN + 1;
    payload_bytes.saturating_add(entries.saturating_mul(frame::FRAME_HEADER as u64))
}

impl Store {
    /// Whether the next `append` will take Records entries of so many payload bytes in all. Makes the room
    /// for them now (a new file, if they do not fit into the active one), so that it cannot meet a full disk.
    ///
    /// # Errors
    /// `DiskFull` leaves everything as it was and makes [`Store::is_full`] true; `Failed` if latched; `Busy`.
    pub fn can_append(&mut self, group: GroupId, payload_bytes: u64) -> Result<()> {
        self.ready()?;
        let bytes = frames_at_most(payload_bytes);
        let image = &self.group(group)?.image;
        let at_least = image.active().end + frame::FRAME_HEADER as u64 + payload_bytes;
        if !image.active().is_empty() && at_least > image.options.segment_bytes {
            let file = FileImage::new(self.next_file, image.last(), image.next_offset());
            let dir = image.dir.clone();
            let (segment, new) = self.create_segment(group, &dir, &file, bytes, false)?;
            self.open_segment(group, segment, new);
        } else {
            self.extend_active(group, bytes, false)?;
        }
        self.group_mut(group)?.is_granted = true;
        Ok(())
    }

    /// How entries are spread over files: into the room they were granted, else as [`split`] says.
    pub(super) fn runs(&mut self, group: GroupId, entries: &[Entry]) -> Result<Vec<Run>> {
        let g = self.group_mut(group)?;
        let is_granted = std::mem::take(&mut g.is_granted);
        let bytes = entries.iter().map(|e| frame::frame_len(e.meta.payload_len)).sum();
        let (end, allocated) = (g.image.active().end, g.active().allocated);
        if is_granted && end + bytes <= allocated {
            return Ok(vec![Run { count: entries.len(), bytes, rolls: false }]);
        }
        Ok(split(end, g.image.options.segment_bytes, entries))
    }

    /// Reserves space and makes the files for `runs`; on failure nothing is left behind.
    pub(super) fn prepare_runs(
        &mut self,
        group: GroupId,
        runs: &[Run],
        entries: &[Entry],
    ) -> Result<Vec<(Segment, NewFile)>> {
        let is_control = entries.iter().all(|e| e.meta.kind.is_control());
        let mut made: Vec<(Segment, NewFile)> = Vec::new();
        let dir = self.group(group)?.image.dir.clone();
        let (mut last, mut next_offset) = {
            let image = &self.group(group)?.image;
            (image.last(), image.next_offset())
        };
        let mut at = 0;
        for run in runs {
            let done = if run.rolls {
                let file = FileImage::new(self.next_file, last, next_offset);
                self.create_segment(group, &dir, &file, run.bytes, is_control).map(|new| made.push(new))
            } else {
                self.extend_active(group, run.bytes, is_control)
            };
            if let Err(error) = done {
                for (segment, _) in made {
                    self.lru.forget(std::slice::from_ref(&segment));
                    // Nobody knows of it; recovery would remove it too.
                    let _ = self.fs.unlink(&segment_file::path(&self.options.dir, &dir, segment.number));
                }
                return Err(error);
            }
            at += run.count;
            let meta = &entries[at - 1].meta;
            (last, next_offset) = (meta.id, meta.next_offset());
        }
        Ok(made)
    }

    /// Makes sure that `bytes` more fit into the active file.
    fn extend_active(&mut self, group: GroupId, bytes: u64, is_control: bool) -> Result<()> {
        let handle = self.active_handle(group)?;
        let g = self.group(group)?;
        let needed = g.image.active().end + bytes;
        let segment = g.segments.last().expect("a group has an active file");
        let (allocated, step) = (segment.allocated, segment.step.max(STEP_MIN));
        if needed <= allocated || on(Mutation::SpaceAfterAppend) {
            return Ok(());
        }
        let mut goal = (allocated + step).min(g.image.options.segment_bytes).max(needed);
        let path = segment_file::path(&self.options.dir, &g.image.dir, segment.number);
        if self.check_space(goal - allocated, false).is_err() {
            // Near the end of the disk the step shrinks to what is needed.
            goal = needed;
            self.check_space(goal - allocated, is_control)?;
        }
        let done = handle.preallocate(allocated, goal - allocated);
        done.map_err(|e| self.no_space(goal - allocated, error::failed("reserve space in", &path, &e)))?;
        let segment = self.group_mut(group)?.active();
        segment.allocated = goal;
        segment.step = (step * 2).min(STEP_MAX);
        Ok(())
    }

    /// Makes a file with its header and at least `bytes` reserved behind it.
    pub(super) fn create_segment(
        &mut self,
        group: GroupId,
        dir: &str,
        file: &FileImage,
        bytes: u64,
        is_control: bool,
    ) -> Result<(Segment, NewFile)> {
        debug_assert_eq!(file.number, self.next_file);
        let bytes = if on(Mutation::SpaceAfterAppend) { 0 } else { bytes };
        let allocated = (SEGMENT_HEADER + bytes).max(FIRST_STEP);
        self.check_space(allocated, is_control)?;
        let path = segment_file::path(&self.options.dir, dir, file.number);
        self.close_idle(file.number);
        self.next_file += 1;
        let make = || {
            let handle = self.fs.open(&path, OpenMode::CreateNew)?;
            handle.preallocate(0, allocated)?;
            handle.pwrite(&segment_file::encode_header(group, file), 0)?;
            Ok(handle)
        };
        let handle = match make() {
            Ok(handle) => handle,
            Err(e) => {
                // It may not have been created at all.
                let _ = self.fs.unlink(&path);
                return Err(self.no_space(allocated, error::failed("create", &path, &e)));
            }
        };
        let mut segment = Segment {
            number: file.number,
            written: SEGMENT_HEADER,
            allocated,
            step: STEP_MIN,
            index: SparseIndex::starting_at(SEGMENT_HEADER),
            handle: Some(handle.clone()),
            map: None,
            used_at: 0,
        };
        self.lru.opened(group, &mut segment);
        let group_dir = segment_file::groups_dir(&self.options.dir).join(dir);
        Ok((segment, (FileRef { number: file.number, handle }, group_dir)))
    }

    /// Free space that must be there to take so many bytes more: the reserve is not for the journal's growth.
    pub(super) fn needed(&self, bytes: u64) -> u64 {
        let kept = self.options.reserve_bytes.saturating_add(self.journal_need.load(Ordering::Relaxed));
        kept.saturating_add(bytes)
    }

    /// Latches a failure; a full disk is remembered with what did not fit.
    fn no_space(&mut self, bytes: u64, error: Error) -> Error {
        let error = self.latch(error);
        if matches!(error, Error::DiskFull) {
            self.refused_bytes = Some(bytes);
        }
        error
    }

    /// Refuses what would eat into the reserve.
    pub(super) fn check_space(&mut self, bytes: u64, is_control: bool) -> Result<()> {
        if is_control {
            return Ok(());
        }
        let space = self.fs.space(&self.options.dir);
        let space =
            space.map_err(|e| self.latch(error::failed("ask the space of", &self.options.dir, &e)))?;
        let is_full = space.free < self.needed(bytes);
        self.refused_bytes = is_full.then_some(bytes);
        if is_full { Err(Error::DiskFull) } else { Ok(()) }
    }

    /// Whether appends are refused for lack of space. Asks again while they were, so that it ends.
    pub fn is_full(&self) -> bool {
        self.refused_bytes.is_some_and(|bytes| {
            let needed = self.needed(bytes);
            self.fs.space(&self.options.dir).map_or(true, |space| space.free < needed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(len: u32) -> Entry {
        let meta = EntryMeta {
            id: LogId::default(),
            prev: Epoch::default(),
            kind: EntryKind::Records,
            base_offset: Offset(0),
            offset_span: 1,
            payload_len: len,
        };
        Entry { meta, payload: Bytes::from(vec![0; len as usize]) }
    }

    #[test]
    fn entries_roll_before_the_file_is_too_large_and_a_giant_gets_its_own() {
        let entries = [entry(20), entry(20), entry(5000), entry(20)];
        let runs = split(SEGMENT_HEADER, 264, &entries);
        let want = [(2, 200, false), (1, 5080, true), (1, 100, true)];
        let got: Vec<_> = runs.iter().map(|r| (r.count, r.bytes, r.rolls)).collect();
        assert_eq!(got, want);
        assert!(split(200, 264, &entries[..1])[0].rolls);
    }
}
