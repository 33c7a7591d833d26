//! Cuts: the log ends early and goes on in a new file (safety.md F7). Not here: when (`raftlog`), what is set aside before (`aside`).
//!
//! * A cut ends a file at the end of a frame. One within a gap ends it before the gap, and the entries of the gap that stay are written
//!   again, as entries without payload, in the same round.
//! * Only what has been checked decides what the log ends with.

use super::Store;
use crate::segment::image::{CutPoint, FileImage};
use crate::segment::record::Record;
use crate::segment::round::{Change, FileRef, Op};
use crate::segment::types::*;
use crate::segment::{Error, Result, frame};
use bytes::Bytes;

impl Store {
    /// Removes every entry at or above `from` (`Cut`: the log goes on in a new file).
    ///
    /// # Panics
    /// If `from` is before the log start or behind the end.
    pub fn truncate(&mut self, group: GroupId, from: Index) -> Result<()> {
        self.ready()?;
        let g = self.group(group)?;
        let (first, last) = (g.image.first(), g.image.last());
        assert!(from >= first && from <= last.index, "truncate from {from} of {first}..={}", last.index);
        let (cut, rest) = self.cut_point(group, from)?;
        self.abandon_repair(group);
        self.cancel_rewrite(group);
        let number = self.next_file;
        let file = FileImage::new(number, cut.last, cut.next_offset);
        let dir = self.group(group)?.image.dir.clone();
        let (segment, new) = self.create_segment(group, &dir, &file, bytes_of(&rest), true)?;
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let (old, old_end) = (g.image.active().number, g.image.active().end);
        g.is_granted = false;
        let is_aside = std::mem::take(&mut g.is_aside);
        let is_in_place = g.image.is_cut_in_place(&cut);
        let mut cleaned = g.image.cleaned;
        cleaned.cut(rest.last().map_or(cut.next_offset, EntryMeta::next_offset));
        let dropped = g.image.cut(&cut, number);
        g.changes += 1;
        let trim = g.segments.last().and_then(|s| {
            let is_kept = !dropped.contains(&old) && !is_in_place;
            Some((FileRef { number: old, handle: s.handle.clone()? }, old_end)).filter(|_| is_kept)
        });
        self.lru.forget_some(&g.segments, &dropped);
        g.drop_files(&dropped);
        if let Some(cut_segment) = g.segments.last_mut().filter(|s| s.number == cut.file) {
            cut_segment.index.cut(cut.end);
            if is_in_place {
                cut_segment.written = cut_segment.written.min(cut.end);
            }
        }
        if is_in_place {
            self.lru.forget(std::slice::from_ref(&segment));
        } else {
            g.segments.push(segment);
        }
        g.recut(self.round, cut.last);
        self.tail_bytes -= g.tail.truncate(from);
        let unlink = self.paths(&dir, &dropped);
        let record = Record::Cut { group, cut, new_file: number };
        let op = Change { record, new: Some(new), trim, unlink, is_aside, remove_dir: None };
        self.queue(group, Op::Change(Box::new(op)));
        if rest.is_empty() {
            return Ok(());
        }
        // In the same round: whole after a crash, or not there. They were durable before, and are strict here.
        let bytes = bytes_of(&rest);
        let entries = rest.into_iter().map(|meta| Entry { meta, payload: Bytes::new() }).collect();
        self.push_run(group, entries, bytes, false)?;
        // What a compaction took of them it may have taken because of what is cut now: no matter where the cut of the file is.
        self.keep(group, cleaned)
    }

    /// Where the log ends if entries from `from` on go, and the entries that are to be written again behind it: a gap is cut before its first
    /// entry, since no byte of it may change.
    fn cut_point(&mut self, group: GroupId, from: Index) -> Result<(CutPoint, Vec<EntryMeta>)> {
        let g = self.group(group)?;
        let file = &g.image.files[g.file_of(from)];
        if from == file.first() {
            // The whole file goes; what is before it is known without a look.
            return Ok((CutPoint::at_start_of(file), Vec::new()));
        }
        let (number, known) = (file.number, g.image.log_start.prev);
        if g.is_damaged(from) {
            return self.cut_point_behind(group, from.prev());
        }
        let mut cursor = self.seek_index(group, from)?;
        let removed = self.step(&mut cursor)?.ok_or(Error::OutOfRange)?;
        if removed.is_in_gap {
            return self.cut_point_in_gap(group, from, removed.byte);
        }
        // Its header decides what the log ends with: believed only once its check has been made.
        if let Some(check) = &removed.check {
            check.verify()?;
        }
        let last = removed.meta.predecessor();
        debug_assert!(last.index >= known.index);
        let max_timestamp = self.max_timestamp_before(group, number, from)?;
        let (next_offset, end) = (removed.meta.base_offset, removed.byte);
        Ok((CutPoint { last, next_offset, file: number, end, max_timestamp }, Vec::new()))
    }

    /// Where the log ends behind an entry when the one after it is damaged.
    pub(in crate::segment) fn cut_point_behind(
        &mut self,
        group: GroupId,
        last: Index,
    ) -> Result<(CutPoint, Vec<EntryMeta>)> {
        let at = self.group(group)?.file_of(last);
        let number = self.group(group)?.image.files[at].number;
        let max_timestamp = self.max_timestamp_before(group, number, last.next())?;
        if let Some((mut walk, _)) = self.open_walk(group, at, |index| index.by_index(last))? {
            while let Some(Ok(met)) = walk.next() {
                if met.meta.id.index != last || !frame::check(&met.frame) {
                    continue;
                }
                if met.gap == Some(false) {
                    return self.cut_point_in_gap(group, last.next(), met.byte);
                }
                let end = met.byte + met.frame.len() as u64;
                let (last, next_offset) = (met.meta.id, met.meta.next_offset());
                return Ok((CutPoint { last, next_offset, file: number, end, max_timestamp }, Vec::new()));
            }
        }
        Err(Error::Damaged(format!("entry {last} of group {group}, which a cut must end with")))
    }

    /// As [`Self::cut_point`], where `from` is an entry of the gap at `byte`.
    fn cut_point_in_gap(
        &mut self,
        group: GroupId,
        from: Index,
        byte: u64,
    ) -> Result<(CutPoint, Vec<EntryMeta>)> {
        let at = self.group(group)?.file_of(from);
        let mut rest = Vec::new();
        let mut first = None;
        if let Some((mut walk, _)) = self.open_walk(group, at, |index| index.by_index(from))? {
            while let Some(Ok(met)) = walk.next() {
                if met.meta.id.index >= from {
                    break;
                }
                if met.byte == byte {
                    first = first.or(Some(met.meta));
                    rest.push(met.meta);
                }
            }
        }
        let g = self.group(group)?;
        let (file, start) = (g.image.files[at].clone(), g.image.log_start.clone());
        rest.retain(|meta| meta.id.index > start.prev.index);
        let (last, next_offset) = match first {
            // The cut is right before the gap.
            None => return self.cut_point_before(group, from, byte),
            Some(_) if rest.is_empty() => (start.prev, start.base_offset),
            Some(_) => (rest[0].predecessor(), rest[0].base_offset),
        };
        if last == file.prev {
            return Ok((CutPoint::at_start_of(&file), rest));
        }
        let max_timestamp = self.max_timestamp_before(group, file.number, last.index.next())?;
        Ok((CutPoint { last, next_offset, file: file.number, end: byte, max_timestamp }, rest))
    }

    /// A cut between the frame at `byte`, which begins with `from`, and the one before it.
    fn cut_point_before(
        &mut self,
        group: GroupId,
        from: Index,
        byte: u64,
    ) -> Result<(CutPoint, Vec<EntryMeta>)> {
        let g = self.group(group)?;
        let number = g.image.files[g.file_of(from)].number;
        let meta = self.meta_at(group, from)?;
        let max_timestamp = self.max_timestamp_before(group, number, from)?;
        let (last, next_offset) = (meta.predecessor(), meta.base_offset);
        Ok((CutPoint { last, next_offset, file: number, end: byte, max_timestamp }, Vec::new()))
    }
}

/// Bytes of the frames of entries without payload.
fn bytes_of(hollow: &[EntryMeta]) -> u64 {
    (hollow.len() * frame::FRAME_HEADER) as u64
}
