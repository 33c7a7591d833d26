//! Entries that are acknowledged once they are written (`flush.mode=async`, docs/decisions/0008): whose they are, and the `dirty` bit that
//! keeps idle groups out of doubt. Not here: when to flush (`raftlog::engine`), the syncs themselves (`writer::syncing`).
//!
//! * Only record batches are loose; an append that holds anything else is as strict as that.
//! * A group is durably dirty before the first loose entry of its counts: the record that says so stands before the entry in the
//!   same round, which counts for the group only when it is synced.
//! * It is clean again only after a flush that left nothing of it unsynced, and a while without loose entries.

use super::Store;
use crate::mutation::{Mutation, on};
use crate::segment::record::Record;
use crate::segment::round::{Change, RoundDone};
use crate::segment::types::*;
use std::collections::BTreeSet;

/// What a store knows of its loose entries.
#[derive(Debug, Default)]
pub(super) struct LooseState {
    /// The next round shall begin a flush.
    pub wants_flush: bool,
    /// Groups whose state says that they are dirty.
    dirty: BTreeSet<GroupId>,
    /// Every loose entry in rounds up to this one is on the disk.
    flushed_round: u64,
    /// Round being gathered when the idle ones were last looked for.
    looked_at: u64,
    /// Bytes written and not synced, as of the last completion.
    unsynced: u64,
}

impl LooseState {
    pub(super) fn note(&mut self, done: &RoundDone) {
        self.flushed_round = self.flushed_round.max(done.flushed_round);
        self.unsynced = done.unsynced;
    }

    pub(super) fn forget(&mut self, group: GroupId) {
        self.dirty.remove(&group);
    }
}

impl Store {
    /// Whether the records of a group are acknowledged once they are written. False for every group at the start.
    pub fn set_async(&mut self, group: GroupId, is_async: bool) {
        if let Some(g) = self.groups.get_mut(&group) {
            g.is_async = is_async;
        }
    }

    pub(super) fn is_loose(&self, group: GroupId, entries: &[Entry]) -> bool {
        self.groups.get(&group).is_some_and(|g| g.is_async)
            && entries.iter().all(|entry| !entry.meta.kind.is_control())
    }

    /// Loose entries are about to be queued: their group is dirty from before them on.
    pub(super) fn note_loose(&mut self, group: GroupId) {
        let round = self.round;
        let Some(g) = self.groups.get_mut(&group) else { return };
        g.loose_round = round;
        if !g.image.hard_state.dirty && !on(Mutation::NeverDirty) {
            self.set_dirty(group, true);
        }
    }

    fn set_dirty(&mut self, group: GroupId, dirty: bool) {
        let Some(g) = self.groups.get_mut(&group) else { return };
        g.image.hard_state.dirty = dirty;
        let state = g.image.hard_state;
        self.queue(group, Change::plain(Record::HardState(group, state)));
        match dirty {
            true => self.loose.dirty.insert(group),
            false => self.loose.dirty.remove(&group),
        };
    }

    /// The next round begins to sync what is written and not synced.
    pub fn flush(&mut self) {
        self.loose.wants_flush = true;
    }

    /// Bytes of entries that are written and not synced, as of the last completion.
    pub fn unsynced_bytes(&self) -> u64 {
        self.loose.unsynced
    }

    /// Groups that have had no loose entry since the last call, and of which nothing is left to sync, are clean again. Whether there
    /// are others, that may be next time.
    pub fn settle_dirty(&mut self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let (flushed, looked_at) = (self.loose.flushed_round, self.loose.looked_at);
        self.loose.looked_at = self.round;
        let is_idle = |group: &&GroupId| {
            self.groups.get(group).is_some_and(|g| g.loose_round <= flushed && g.loose_round < looked_at)
        };
        let idle: Vec<GroupId> = self.loose.dirty.iter().filter(is_idle).copied().collect();
        idle.into_iter().for_each(|group| self.set_dirty(group, false));
        !self.loose.dirty.is_empty()
    }
}
