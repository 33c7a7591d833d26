//! What the core knows of its log without holding it: epoch runs, the ends, what is durable and committed, and the
//! stack of configurations.
//!
//! Not here: payloads and positions (`segment`). Only `Core` calls this. Invariants, asserted by the tests against a
//! naive model:
//! - `start.index <= commit <= last.index`, `durable <= written <= last.index` (right after an install, before it is durable,
//!   both are 0 and so below `start.index`);
//! - `runs` is ascending in epoch and index, and its first run begins at the first entry;
//! - `configurations` is never empty: its bottom is the configuration in force at `start`, the rest are entries of
//!   the log, each in force from its append on (thesis §4.1) until truncated.

use crate::mutation::{Mutation, on};
use crate::raftlog::message::Configuration;
use crate::segment::{EntryMeta, Epoch, Generation, Index, LogId, Offset, ReplicaId};

/// The index-to-epoch view of one log.
#[derive(Clone, Debug)]
pub struct LogView {
    start: LogId,
    runs: Vec<(Epoch, Index)>,
    last: LogId,
    next_offset: Offset,
    durable: Index,
    /// Stored as far as `flush.mode=async` asks; the same as `durable` where nothing else is asked.
    written: Index,
    commit: Index,
    /// Last entry that what is kept with the start reflects (the producers' state); it may lie beyond the end.
    reflected: Index,
    configurations: Vec<(LogId, Configuration)>,
    /// Configurations of earlier generations are void (safety.md F3).
    generation: Generation,
}

/// A void configuration: nobody's voter, counted by no one.
static NOBODY: Configuration =
    Configuration { voters: Vec::new(), old_voters: Vec::new(), learners: Vec::new(), retired: Vec::new() };

impl LogView {
    /// An empty log that begins after `start`, all of it durable.
    pub fn new(start: LogId, next_offset: Offset, base: (LogId, Configuration)) -> Self {
        Self {
            start,
            runs: Vec::new(),
            last: start,
            next_offset,
            durable: start.index,
            written: start.index,
            commit: start.index,
            reflected: start.index,
            configurations: vec![base],
            generation: Generation(0),
        }
    }

    /// What is kept with the start reflects entries up to here: once one of them goes, it is of no use any more.
    pub fn reflect(&mut self, index: Index) {
        self.reflected = index;
    }

    /// Nothing up to here can be taken back on its own: it is gone, or reflected in what is kept with the start.
    pub fn fixed(&self) -> Index {
        if on(Mutation::KeepStateOfLostEntries) {
            self.start.index
        } else {
            self.start.index.max(self.reflected)
        }
    }

    /// Configurations of generations before this one never count again.
    pub fn void_before(&mut self, generation: Generation) {
        self.generation = generation;
    }

    fn unless_void<'a>(&self, (id, configuration): &'a (LogId, Configuration)) -> (&'a Configuration, LogId) {
        let void = id.epoch.generation < self.generation;
        (if void { &NOBODY } else { configuration }, *id)
    }

    /// Takes over what recovery found after the start. False if it contradicts itself.
    pub fn restore(
        &mut self,
        epochs: Vec<(Epoch, Index)>,
        last: LogId,
        next_offset: Offset,
        configurations: Vec<(LogId, Configuration)>,
    ) -> bool {
        if last.index > self.start.index {
            let ascending = epochs.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1);
            let begins = epochs.first().is_some_and(|(epoch, first)| {
                *first == self.start.index.next() && *epoch >= self.start.epoch
            });
            let ends =
                epochs.last().is_some_and(|(epoch, first)| *epoch == last.epoch && *first <= last.index);
            if !(ascending && begins && ends) {
                return false;
            }
            self.runs = epochs;
            self.last = last;
            (self.durable, self.written) = (last.index, last.index);
        } else if last != self.start || !epochs.is_empty() {
            return false;
        }
        self.next_offset = next_offset;
        for (id, configuration) in configurations {
            if id.index <= self.start.index {
                continue;
            }
            if !self.contains(id) || self.configurations.last().is_some_and(|(top, _)| top.index >= id.index)
            {
                return false;
            }
            self.configurations.push((id, configuration));
        }
        true
    }

    /// Identity of the entry before the first one.
    pub fn start(&self) -> LogId {
        self.start
    }
    /// Last entry.
    pub fn last(&self) -> LogId {
        self.last
    }
    /// Offset of the next record.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }
    /// Last locally durable entry.
    pub fn durable(&self) -> Index {
        self.durable
    }
    /// Last entry that is written, and durable if it is a control entry, like all before it.
    pub fn written(&self) -> Index {
        self.written
    }
    /// Commit index.
    pub fn commit(&self) -> Index {
        self.commit
    }
    /// The configuration in force and the entry it came from.
    pub fn configuration(&self) -> (&Configuration, LogId) {
        self.unless_void(self.configurations.last().expect("the bottom is never popped"))
    }

    /// Former members as the newest configuration names them, void or not: ids never come back.
    pub fn retired(&self) -> &[ReplicaId] {
        self.configurations.last().map_or(&[], |(_, configuration)| &configuration.retired)
    }

    /// The newest configuration known to be committed.
    pub fn committed_configuration(&self) -> (&Configuration, LogId) {
        let committed = |(id, _): &&(LogId, Configuration)| id.index <= self.commit;
        let newest = self.configurations.iter().rev().find(committed);
        self.unless_void(newest.unwrap_or(&self.configurations[0]))
    }

    /// The newest configuration at or below `index`, which is not before the log start, void or not: what a log that begins
    /// behind `index` has to carry.
    pub fn configuration_at(&self, index: Index) -> (&Configuration, LogId) {
        let known = |(id, _): &&(LogId, Configuration)| id.index <= index;
        let (id, configuration) =
            self.configurations.iter().rev().find(known).unwrap_or(&self.configurations[0]);
        (configuration, *id)
    }

    /// Whether `replica` votes in any configuration that may yet decide: the newest committed one and those after it.
    pub fn may_be_voter(&self, replica: ReplicaId) -> bool {
        let (_, committed) = self.committed_configuration();
        let mut open = self.configurations.iter().rev().take_while(|(id, _)| *id >= committed);
        open.any(|known| self.unless_void(known).0.is_voter(replica))
    }

    /// Epoch of the entry at `index`; known for `start` too, None elsewhere.
    pub fn epoch_at(&self, index: Index) -> Option<Epoch> {
        if index == self.start.index {
            return Some(self.start.epoch);
        }
        if index < self.start.index || index > self.last.index {
            return None;
        }
        let after = self.runs.partition_point(|(_, first)| *first <= index);
        self.runs.get(after.checked_sub(1)?).map(|(epoch, _)| *epoch)
    }

    /// Identity of the entry at `index`, where known.
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        self.epoch_at(index).map(|epoch| LogId { epoch, index })
    }

    /// Whether exactly this entry is in the log (or is `start`).
    pub fn contains(&self, id: LogId) -> bool {
        self.epoch_at(id.index) == Some(id.epoch)
    }

    /// The largest entry at or below `index` whose epoch is at most `epoch`: the best guess of a common entry, since
    /// epochs ascend in every log. None if even `start` is of a later epoch, or `index` lies before it.
    pub fn guess(&self, index: Index, epoch: Epoch) -> Option<LogId> {
        if index < self.start.index {
            return None;
        }
        let mut end = index.min(self.last.index);
        for (run, first) in self.runs.iter().rev() {
            if *first > end {
                continue;
            }
            if *run <= epoch {
                return Some(LogId { epoch: *run, index: end });
            }
            end = first.prev();
        }
        (self.start.epoch <= epoch).then_some(self.start)
    }

    /// Adds one entry, which must continue the log.
    pub fn append(&mut self, meta: &EntryMeta) {
        debug_assert_eq!(meta.id.index, self.last.index.next());
        debug_assert!(meta.id.epoch >= self.last.epoch);
        if self.runs.last().is_none_or(|(epoch, _)| *epoch != meta.id.epoch) {
            self.runs.push((meta.id.epoch, meta.id.index));
        }
        self.last = meta.id;
        self.next_offset = meta.next_offset();
    }

    /// Puts the configuration of the entry just appended in force.
    pub fn activate(&mut self, id: LogId, configuration: Configuration) {
        self.configurations.push((id, configuration));
    }

    /// Removes every entry at or above `from`; true if that rolled a configuration back. The offset of the next record
    /// is that of the entry that takes the place of the first removed one (truncation happens for no other reason).
    pub fn truncate(&mut self, from: Index, next_offset: Offset) -> bool {
        debug_assert!(from > self.commit && from <= self.last.index);
        while self.runs.last().is_some_and(|(_, first)| *first >= from) {
            self.runs.pop();
        }
        let epoch = self.runs.last().map_or(self.start.epoch, |(epoch, _)| *epoch);
        self.last = LogId { epoch, index: from.prev() };
        self.next_offset = next_offset;
        self.durable = self.durable.min(self.last.index);
        self.written = self.written.min(self.last.index);
        let before = self.configurations.len();
        while self.configurations.len() > 1
            && self.configurations.last().is_some_and(|(id, _)| id.index >= from)
            && !on(Mutation::KeepTruncatedConfiguration)
        {
            self.configurations.pop();
        }
        self.configurations.len() != before
    }

    /// Everything up to `last` is durable. An entry that is no longer in the log says nothing (it was cut while the
    /// write was on its way, etcd's ABA race). True if the mark moved.
    pub fn set_durable(&mut self, last: LogId) -> bool {
        let moved = last.index > self.durable && self.contains(last);
        if moved {
            self.durable = last.index;
            self.written = self.written.max(last.index);
        }
        moved
    }

    /// Everything up to `last` is written, control entries durably; likewise.
    pub fn set_written(&mut self, last: LogId) -> bool {
        let moved = last.index > self.written && self.contains(last);
        if moved {
            self.written = last.index;
        }
        moved
    }

    /// Moves the commit index forward; true if it moved.
    pub fn set_commit(&mut self, index: Index) -> bool {
        debug_assert!(index <= self.last.index);
        let moved = index > self.commit;
        if moved {
            self.commit = index;
        }
        moved
    }

    /// The log may differ from that of an unclean generation's survivor, which ended at `base`: what is committed has
    /// to be learnt again, save for what lies below an entry they share.
    pub fn doubt_commit(&mut self, base: LogId) {
        let common = if self.contains(base) { base.index } else { self.start.index };
        self.commit = self.commit.min(common).max(self.start.index);
    }

    /// An election lost what was committed above `index`.
    pub fn take_back_commit(&mut self, index: Index) {
        debug_assert!(index >= self.fixed());
        self.commit = self.commit.min(index);
    }

    /// Forgets everything at or below `start`, which must be a committed entry of this log.
    pub fn advance_start(&mut self, start: LogId, base: (LogId, Configuration)) {
        debug_assert!(start.index >= self.start.index && start.index <= self.commit);
        let first = start.index.next();
        let keep = self.runs.partition_point(|(_, begins)| *begins <= first).saturating_sub(1);
        self.runs.drain(..keep);
        if start.index == self.last.index {
            self.runs.clear();
        } else if let Some(run) = self.runs.first_mut() {
            run.1 = run.1.max(first);
        }
        self.start = start;
        let gone = self.configurations.iter().take_while(|(id, _)| id.index <= start.index).count();
        self.configurations.splice(..gone.max(1), [base]);
    }

    /// Replaces the whole log by an empty one after `start`. It is committed by definition, but not durable yet.
    pub fn install(&mut self, start: LogId, next_offset: Offset, base: (LogId, Configuration)) {
        self.start = start;
        self.runs.clear();
        self.last = start;
        self.next_offset = next_offset;
        (self.durable, self.written) = (Index(0), Index(0));
        self.commit = start.index;
        self.reflected = start.index;
        self.configurations.clear();
        self.configurations.push(base);
    }
}
