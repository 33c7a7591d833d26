//! How clean a copy is, and what is missing in it (docs/decisions/0022): the store's side of the rules in `tombstones`.
//! Not here: the rules; what a pass learns and drops (`broker::compaction`); who may append (`raftlog`).
//!
//! * The numbers change in the round of what they change for: what is queued before the next [`Store::take_round`] is one batch of the
//!   journal, which is whole after a crash or not there at all.
//! * Such a record asks for a sync of all that stands before it in its group, loose entries too: the copy is never called clean beyond what
//!   is durable.
//! * Cuts, an emptied log and repairs change them in `image`, where a replay does the same.

use super::Store;
use crate::segment::record::Record;
use crate::segment::round::Change;
use crate::segment::tombstones::Cleaned;
use crate::segment::types::*;
use crate::segment::{Error, Result};

impl Store {
    /// The numbers of the copy: of what is read from it now.
    ///
    /// # Errors
    /// `UnknownGroup`.
    pub fn cleaned(&self, group: GroupId) -> Result<Cleaned> {
        Ok(self.group(group)?.image.cleaned)
    }

    /// After an append, in the same round: what all of the log came from is as clean as this, and what is missing in that is missing here.
    ///
    /// # Errors
    /// `UnknownGroup`; `Failed` if latched.
    pub fn appended_from(&mut self, group: GroupId, from: Cleaned) -> Result<()> {
        let image = &self.group(group)?.image;
        let (mut cleaned, end) = (image.cleaned, image.next_offset());
        cleaned.appended(from, end);
        if cleaned.dropped == image.cleaned.dropped && from.clean >= end {
            // It rises with the log: a record for each append would be a sync for each where entries are loose. So file by file.
            cleaned.clean = image.cleaned.clean.max(image.active().base_offset);
        }
        self.keep(group, cleaned)
    }

    /// A pass has learned everything up to `m`, and no file before it holds more than that leaves: called once the last of them is in
    /// its place ([`Store::end_rewrite`]), in the same round.
    ///
    /// # Errors
    /// `UnknownGroup`; `Failed` if latched.
    pub fn note_cleaned(&mut self, group: GroupId, m: Offset) -> Result<()> {
        let image = &self.group(group)?.image;
        let (mut cleaned, end) = (image.cleaned, image.next_offset());
        cleaned.cleaned_to(m.min(end));
        self.keep(group, cleaned)
    }

    /// Tombstones below `d` may be missing here from now on. Before [`Store::end_rewrite`] of the file that leaves them out, in the same round.
    ///
    /// # Errors
    /// `UnknownGroup`; `Failed` if latched.
    pub fn note_dropped(&mut self, group: GroupId, d: Offset) -> Result<()> {
        let image = &self.group(group)?.image;
        let (mut cleaned, end) = (image.cleaned, image.next_offset());
        cleaned.drops_to(d.min(end));
        self.keep(group, cleaned)
    }

    /// Whether this very entry is part of the log, or the one before its first, be it damaged or not.
    pub fn holds(&self, group: GroupId, id: LogId) -> bool {
        let Ok(g) = self.group(group) else { return false };
        let (start, last) = (g.image.log_start.prev, g.image.last());
        match id.index {
            index if index == start.index => id == start,
            index if index < start.index || index > last.index => false,
            index => g.image.terms.epoch_at(index) == Some(id.epoch),
        }
    }

    /// Goes up with everything that a pass of the cleaner must not outlive: entries were cut off, a repair was put in place, the log was
    /// replaced. Not with a roll or a move of the log start. In memory only: a start ends every pass. 0: no such group.
    pub fn changes(&self, group: GroupId) -> u64 {
        self.group(group).map_or(0, |g| g.changes)
    }

    /// Makes these the numbers.
    pub(super) fn keep(&mut self, group: GroupId, cleaned: Cleaned) -> Result<()> {
        self.ready()?;
        let known = &mut self.group_mut(group)?.image.cleaned;
        if *known != cleaned {
            *known = cleaned;
            self.queue(group, Change::plain(Record::Cleaned(group, cleaned)));
        }
        Ok(())
    }

    /// The last entry that begins below an offset. Where damage hides it, one behind it that is known: who holds that holds this one too.
    ///
    /// # Errors
    /// As [`Store::read`], damage aside.
    pub fn last_below(&mut self, group: GroupId, offset: Offset) -> Result<LogId> {
        let image = &self.group(group)?.image;
        let at = image.files.partition_point(|file| file.base_offset < offset).saturating_sub(1);
        let file = &image.files[at];
        let last = file.last;
        if file.next_offset <= offset {
            return Ok(last);
        }
        match self.walk_below(group, at, offset) {
            Err(Error::Damaged(_)) => Ok(last),
            other => other,
        }
    }

    fn walk_below(&mut self, group: GroupId, at: usize, offset: Offset) -> Result<LogId> {
        let before = Offset(offset.0 - 1);
        let mut cursor = self.seek_in(group, at, |index| index.by_offset(before))?;
        let mut last = None;
        while let Some(item) = self.step(&mut cursor)? {
            if item.meta.base_offset >= offset {
                return Ok(last.unwrap_or(item.meta.predecessor()));
            }
            last = Some(item.meta.id);
            item.into_entry()?;
        }
        Ok(last.unwrap_or(self.group(group)?.image.last()))
    }
}
