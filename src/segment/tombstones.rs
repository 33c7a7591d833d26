//! Which copies of a compacted log may be put together, now that tombstones go (docs/decisions/0022): two numbers of a replica, what changes
//! them, and what may be taken on their word.
//!
//! Not here: where the numbers are kept and written (`image`, `store`), what compaction removes (`broker::compaction`), what a replica does
//! that may take nothing (it begins anew: `raftlog`, `broker::shard`). Called by the store, by the core for what is appended, and by the
//! cleaner. No IO, clock or randomness.
//!
//! `v` is a record of a key, `t` the tombstone that is its last record, `v < t`. Whoever holds `v` has to hold `t`. One copy is never wrong
//! by itself: its cleaner takes `v` first, and `t` in a later pass. Wrong is what is put together of two.
//!
//! * `clean` is never too high: a pass alone raises it, by what it has put in place.
//! * `dropped` is never too low. Too high is safe, and costs copies.
//! * All numbers of another replica are those of when its entries were read; those of this one are of when they are taken.

use super::types::{Epoch, Offset};
use crate::mutation::{Mutation, on};
use std::ops::Range;

/// The two numbers of a replica. Of a log that was never compacted both are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Of no key whose last record below this offset is a tombstone is an earlier record here.
    pub clean: Offset,
    /// Every tombstone that is missing here lies below this offset: it was left out here, or in a copy that something here came from.
    pub dropped: Offset,
}

impl Cleaned {
    /// Of a log that was replaced by an empty one which goes on at `start` (InstallLogStart, a new replica): nothing is there, and nothing
    /// is missing of what is to come.
    pub fn starting_at(start: Offset) -> Self {
        Self { clean: start, dropped: Offset(0) }
    }

    /// The entries from `end` on are gone: cut, or lost. What was removed because of something behind is missing now, tombstones too that
    /// a later record had replaced; what was missing behind is no matter of this log any more.
    pub fn cut(&mut self, end: Offset) {
        if end < self.clean {
            if !on(Mutation::ForgetWhatACutTookAlong) {
                self.dropped = self.dropped.max(end);
            }
            self.clean = end;
        }
        self.dropped = self.dropped.min(end);
    }

    /// What two copies are together, if something is made of both: as clean as the less clean one, and all is missing that is in either.
    pub fn joined(self, other: Self) -> Self {
        Self { clean: self.clean.min(other.clean), dropped: self.dropped.max(other.dropped) }
    }

    /// What the numbers of a copy are worth to a replica that does not know the entries they speak of, as its log is another one or ends
    /// before: nothing counts as clean, and whatever was cleaned may be missing.
    pub fn of_another_log(self) -> Self {
        Self { clean: Offset(0), dropped: self.dropped.max(self.clean) }
    }

    /// What they are worth to one whose log is the same up to `end`, as far as is known: not clean beyond. What was removed because of entries
    /// behind, that one is still to get.
    pub fn known_to(self, end: Offset) -> Self {
        Self { clean: self.clean.min(end), ..self }
    }

    /// Rule B: whether entries of `source` may go into a damaged file with the offsets `file` here. If several copies have given entries of
    /// this file, `source` is all of them [joined](Self::joined), the one in question included.
    pub fn may_mend(&self, file: Range<Offset>, source: Self) -> bool {
        let missing = source.dropped.min(file.end);
        let is_nothing_missing = file.start >= source.dropped;
        // 1: a tombstone that is missing there deletes nothing that is here.
        let is_clean_here = is_nothing_missing || self.clean >= missing || on(Mutation::MendWhatIsNotClean);
        // 2: what comes from there is nothing whose tombstone is missing here.
        let needed = self.needs_of_source(file).filter(|_| !on(Mutation::MendFromLessClean));
        let is_clean_there = needed.is_none_or(|needed| source.clean >= needed);
        // 3: nor is it in another piece from there.
        let is_clean_among_them =
            is_nothing_missing || source.clean >= missing || on(Mutation::MendFromSeveral);
        is_clean_here && is_clean_there && is_clean_among_them
    }

    /// Up to where a copy has to be clean to give entries of this file, if that matters.
    pub fn needs_of_source(&self, file: Range<Offset>) -> Option<Offset> {
        (file.start < self.dropped).then_some(self.dropped)
    }

    /// A file with the offsets `file` was made whole with entries of `source`: of all copies that gave any, [joined](Self::joined).
    pub fn mended(&mut self, file: Range<Offset>, source: Self) {
        if !on(Mutation::StayCleanWhenMended) {
            self.clean = self.clean.min(source.clean.max(file.start));
        }
        if !on(Mutation::ForgetWhatMendingMisses) {
            self.dropped = self.dropped.max(source.dropped.min(file.end));
        }
    }

    /// Entries of a leader are appended, and the log ends at `end`. `least`: to where it is clean with them ([`Brought::clean_to`]), and below
    /// where tombstones may be missing in what that leader sends. Of what it has not sent yet none is missing.
    pub fn appended(&mut self, least: Self, end: Offset) {
        self.clean = self.clean.max(least.clean.min(end));
        self.dropped = self.dropped.max(least.dropped.min(end));
    }

    /// A pass has put all files up to `m` in place.
    pub fn cleaned_to(&mut self, m: Offset) {
        self.clean = self.clean.max(m);
    }

    /// A file is to take another's place in which tombstones below `d` are left out.
    pub fn drops_to(&mut self, d: Offset) {
        self.dropped = self.dropped.max(d);
    }
}

/// What a replica knows, in memory alone, of the leaders that all of its log came from since that was empty. Nothing is known after a
/// start, after damage (a repair brings entries of others), and in a generation that begins with loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// The least that any of them had cleaned to, or the offset from which on it gave, if that is more: of no key whose last record
    /// below is a tombstone an earlier one has come.
    clean: Offset,
    /// The first one's epoch, and to where it had dropped.
    first: (Epoch, Offset),
    /// All of it came in that epoch.
    is_one: bool,
}

impl Brought {
    /// Entries from `at` on are appended, the first that are new here, from the leader of `epoch` that says this of its copy (nothing: it
    /// has removed nothing from there on). `before`: what was known, none of an empty log.
    pub fn after(before: Option<Self>, epoch: Epoch, at: Offset, leader: Option<Cleaned>) -> Self {
        let Cleaned { clean, dropped } = leader.unwrap_or_default();
        let clean = clean.max(at);
        match before {
            None => Self { clean, first: (epoch, dropped), is_one: true },
            Some(known) => Self {
                clean: known.clean.min(clean),
                is_one: known.is_one && known.first.0 == epoch,
                ..known
            },
        }
    }

    /// To where the log is clean at least, if it ends at `end`.
    pub fn clean_to(&self, end: Offset) -> Offset {
        self.clean.min(end)
    }

    /// Whether more may come from the leader of `epoch`, which had dropped to `dropped`. Either no copy brought what was deleted by a
    /// tombstone that is missing in this one; or it is the only one, and misses no more than it did.
    fn may_go_on(&self, epoch: Epoch, dropped: Offset) -> bool {
        let is_the_one = self.is_one && self.first.0 == epoch || on(Mutation::AppendOfAnyLeader);
        let is_as_it_was = self.first.1 == dropped || on(Mutation::AppendOfLeaderThatDrops);
        self.clean >= dropped || is_the_one && is_as_it_was
    }
}

/// Rule A: whether entries that are new here may be appended from offset `at` on, from the leader of `epoch`, which had dropped to `dropped`.
/// `brought`: what is known of the log, if it is not empty.
pub fn may_append(
    at: Offset,
    epoch: Epoch,
    dropped: Offset,
    is_empty: bool,
    brought: Option<Brought>,
) -> bool {
    let is_brought = is_empty || brought.is_some_and(|brought| brought.may_go_on(epoch, dropped));
    at >= dropped || is_brought || on(Mutation::AppendWhateverIsMissing)
}

/// Whether a pass may leave out tombstones, their time being over, of a batch that ends at `end`. `clean` is the replica's when the pass
/// began, `floor` the least of all members; `is_behind_unread`: this reading has met a batch that it could not look into.
pub fn may_drop(end: Offset, clean: Offset, floor: Offset, is_behind_unread: bool) -> bool {
    end <= clean && end <= floor && !is_behind_unread
}

#[cfg(test)]
pub(crate) mod tests;
