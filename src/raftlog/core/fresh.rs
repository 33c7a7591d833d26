//! What a replica may take of a leader that misses tombstones (docs/decisions/0022, rule A).
//!
//! Whoever holds the value that a tombstone deleted must not take the log behind it from a copy without that tombstone. So entries below a
//! leader's `dropped` are taken only where that cannot be: by an empty log, by one that came from copies that were clean to there, or by one
//! that came from this leader alone. Who may not take them stands *apart*: takes nothing, acknowledges nothing, and waits to be
//! placed anew (`broker::shard::anew`), unless the leader's log start passes it, or another one leads.
//! Not here: what is missing where (`segment::tombstones`). Called for every append that says something of it, and where entries come from
//! elsewhere. Invariant: where the log came from is known in memory alone; a start forgets it.

use super::{Core, Effect};
use crate::mutation::{Mutation, on};
use crate::segment::{Brought, Cleaned, EntryMeta, Epoch, LogId, Offset, may_append};

/// Why a replica may not follow its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The first offset that it does not hold.
    pub from: Offset,
    /// Tombstones below may be missing in the leader's log.
    pub dropped: Offset,
}

/// Where the log came from.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// None: not from leaders alone, or nothing is known.
    brought: Option<Box<Brought>>,
    /// The leader of this epoch has what may not be taken.
    apart: Option<Box<(Epoch, Apart)>>,
    /// It has asked to be placed anew.
    is_forsaken: bool,
}

impl Core {
    /// This replica is to be placed anew, and from now on takes nothing, whoever leads.
    pub fn forsake(&mut self) {
        self.fresh.is_forsaken = true;
    }

    /// Whether it is.
    pub fn is_forsaken(&self) -> bool {
        self.fresh.is_forsaken
    }

    /// Whether it takes nothing of its present leader.
    pub(super) fn stands_apart(&self) -> bool {
        self.is_forsaken() || self.apart().is_some()
    }

    /// Why this replica may take nothing of its present leader.
    pub fn apart(&self) -> Option<Apart> {
        self.fresh.apart.as_deref().filter(|(epoch, _)| *epoch == self.hard.epoch).map(|(_, apart)| *apart)
    }

    /// Whether what is new of these entries may be taken from a leader that is `cleaned`.
    pub(super) fn may_take(
        &mut self,
        prev: LogId,
        entries: &[EntryMeta],
        cleaned: Option<Cleaned>,
        out: &mut Vec<Effect>,
    ) -> bool {
        if self.is_forsaken() && !entries.is_empty() {
            return false;
        }
        let Some(Cleaned { dropped, .. }) = cleaned else { return true };
        let start = self.log.start().index;
        let joins = prev.index < start || self.log.contains(prev);
        let is_known = |meta: &&EntryMeta| meta.id.index <= start || self.log.contains(meta.id);
        let Some(first) = entries.iter().find(|meta| !is_known(meta)).filter(|_| joins) else { return true };
        let (from, epoch) = (first.base_offset, self.hard.epoch);
        let brought = self.fresh.brought.as_deref().copied();
        if may_append(from, epoch, dropped, self.is_empty(), brought)
            || on(Mutation::TakeWhatMissesTombstones)
        {
            return true;
        }
        if self.apart().is_none() {
            let apart = Apart { from, dropped };
            self.fresh.apart = Some(Box::new((epoch, apart)));
            out.push(Effect::Apart(apart));
        }
        false
    }

    /// Entries of the present leader are about to be appended, from `at` on, of which the last ends at `end`. What the replica's numbers
    /// become with them at least, if the leader said something of its own.
    pub(super) fn note_brought(
        &mut self,
        (at, end): (Offset, Offset),
        leader: Option<Cleaned>,
    ) -> Option<Cleaned> {
        let before = self.fresh.brought.take();
        if self.is_empty() || before.is_some() {
            let before = before.filter(|_| !self.is_empty()).map(|known| *known);
            self.fresh.brought = Some(Box::new(Brought::after(before, self.hard.epoch, at, leader)));
        }
        self.fresh.apart = None;
        let missing = leader?.dropped;
        let clean = self.fresh.brought.as_deref().map_or(Offset(0), |brought| brought.clean_to(end));
        let least = Cleaned { clean, dropped: if at < missing { missing } else { Offset(0) } };
        (least != Cleaned::default()).then_some(least)
    }

    /// Entries come from elsewhere: from here, or from whoever helps with a repair; or what came may be of another history.
    pub(super) fn note_mixed(&mut self) {
        if self.leading.is_none() && on(Mutation::RepairKeepsFresh) {
            return;
        }
        self.fresh.brought = None;
    }

    /// The log was replaced by an empty one.
    pub(super) fn begin_afresh(&mut self) {
        self.fresh = Fresh { is_forsaken: self.fresh.is_forsaken, ..Fresh::default() };
    }

    fn is_empty(&self) -> bool {
        self.log.last() == self.log.start()
    }
}
