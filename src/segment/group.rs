//! One group in the front half: its image, its in-memory tail, and what is open of its files.
//! Driven by `store`. Not here: rounds, reading across files.
//!
//! * `segments` runs parallel to `image.files`, same order.
//! * The tail is contiguous and ends with the last entry of the log; an entry leaves it only when it has
//!   been written to its file, so every entry is in the tail, in its file, or both.

use super::fs::File;
use super::image::GroupImage;
use super::index::SparseIndex;
use super::map::SegmentMap;
use super::types::*;
use crate::mutation::{Mutation, on};
use std::collections::VecDeque;
use std::sync::Arc;

/// Memory an entry of the tail takes beside its payload.
pub(crate) const TAIL_OVERHEAD: usize = 160;

/// One file of a group.
pub(crate) struct Segment {
    pub number: u64,
    /// Everything before this byte is in the file.
    pub written: u64,
    /// Bytes reserved on the disk (0: look when it is opened).
    pub allocated: u64,
    /// Next step of reservation.
    pub step: u64,
    pub index: SparseIndex,
    pub handle: Option<Arc<dyn File>>,
    pub map: Option<SegmentMap>,
    /// Tick of the last use, for the LRU.
    pub used_at: u64,
}

impl Segment {
    /// A file found at open: everything valid is in it, nothing is indexed yet.
    pub(crate) fn found(number: u64, end: u64) -> Self {
        Self {
            number,
            written: end,
            allocated: 0,
            step: 0,
            index: SparseIndex::starting_at(end),
            handle: None,
            map: None,
            used_at: 0,
        }
    }
}

/// An entry in memory, and its place.
pub(crate) struct TailEntry {
    pub entry: Entry,
    pub file: u64,
    pub byte: u64,
    pub max_timestamp: i64,
}

/// The most recent entries of a group.
#[derive(Default)]
pub(crate) struct Tail(VecDeque<TailEntry>);

impl Tail {
    pub(crate) fn first(&self) -> Option<Index> {
        self.0.front().map(|t| t.entry.meta.id.index)
    }
    pub(crate) fn get(&self, index: Index) -> Option<&TailEntry> {
        let at = index.0.checked_sub(self.first()?.0)?;
        self.0.get(usize::try_from(at).ok()?)
    }
    /// First entry that ends behind an offset, if the tail reaches back to it.
    pub(crate) fn by_offset(&self, offset: Offset) -> Option<Index> {
        let front = &self.0.front()?.entry.meta;
        if offset < front.base_offset {
            return None;
        }
        let at = self.0.partition_point(|t| t.entry.meta.next_offset() <= offset);
        Some(Index(front.id.index.0 + at as u64))
    }
    pub(crate) fn push(&mut self, entry: TailEntry) {
        self.0.push_back(entry);
    }
    pub(crate) fn cost(entry: &Entry) -> usize {
        entry.payload.len() + TAIL_OVERHEAD
    }
    /// Drops entries at or above `from`; answers the bytes freed.
    pub(crate) fn truncate(&mut self, from: Index) -> usize {
        let mut freed = 0;
        while self.0.back().is_some_and(|t| t.entry.meta.id.index >= from) {
            freed += self.0.pop_back().map_or(0, |t| Self::cost(&t.entry));
        }
        freed
    }
    /// Drops entries at or below `last` that are in their file; answers the bytes freed.
    pub(crate) fn evict(&mut self, last: Index, is_written: impl Fn(u64, u64) -> bool) -> usize {
        let mut freed = 0;
        while let Some(front) = self.0.front() {
            let end = front.byte + super::frame::frame_len(front.entry.meta.payload_len);
            if front.entry.meta.id.index > last || !is_written(front.file, end) {
                break;
            }
            freed += self.0.pop_front().map_or(0, |t| Self::cost(&t.entry));
        }
        freed
    }
    /// Drops everything; answers the bytes freed.
    pub(crate) fn clear(&mut self) -> usize {
        let freed = self.0.iter().map(|t| Self::cost(&t.entry)).sum();
        self.0.clear();
        freed
    }
}

/// Offsets at which nothing is left, as consumers have found out: what lies between the two of a pair. A hint that saves a walk; that
/// nothing is left of an entry stays so as long as it is in the log. Pairs that meet become one, so none is needed twice; where there are
/// too many the shortest goes, for it is found again soonest.
#[derive(Default)]
pub(crate) struct Skips(Vec<(Offset, Offset)>);

impl Skips {
    /// Stretches that are remembered.
    const MOST: usize = 64;

    /// Where a reader at this offset may begin to look.
    pub(crate) fn behind(&self, from: Offset) -> Offset {
        let known = self.0.iter().filter(|(a, b)| *a <= from && from < *b).map(|(_, b)| *b);
        known.max().unwrap_or(from)
    }
    pub(crate) fn note(&mut self, from: Offset, to: Offset) {
        let (mut first, mut end) = (from, to);
        self.0.retain(|(a, b)| {
            let meets = *a <= to && from <= *b;
            if meets {
                (first, end) = (first.min(*a), end.max(*b));
            }
            !meets
        });
        self.0.push((first, end));
        if self.0.len() > Self::MOST {
            // Not the one that somebody is on the way through: he would never get to its end.
            let shortest = (0..self.0.len() - 1).min_by_key(|at| self.0[*at].1.0 - self.0[*at].0.0);
            shortest.map(|at| self.0.swap_remove(at));
        }
    }
}

/// One group.
pub(crate) struct Group {
    pub image: GroupImage,
    pub segments: Vec<Segment>,
    pub tail: Tail,
    /// Its last op of the round being gathered: (round, position).
    pub last_op: Option<(u64, usize)>,
    /// The active file has been given room for the next append (`can_append`), which does not roll then.
    pub is_granted: bool,
    /// What the next cut or install drops is kept under another name.
    pub is_aside: bool,
    /// The directory is marked: the log stays when the group is removed.
    pub is_kept: bool,
    /// Its records are acknowledged once they are written (`flush.mode=async`).
    pub is_async: bool,
    /// Round of its last loose entries.
    pub loose_round: u64,
    /// Where consumers find nothing.
    pub skips: Skips,
    /// Goes up with everything that a pass of the cleaner must not outlive ([`Store::changes`](super::Store::changes)).
    pub changes: u64,
    /// Rounds in which the log was cut, and behind what, as far as earlier ones may still be answered.
    cuts: Vec<(u64, LogId)>,
}

impl Group {
    /// The log is cut behind this entry in the round that is being gathered, or begins anew (`LogId::default()`).
    pub(crate) fn recut(&mut self, round: u64, kept: LogId) {
        self.skips = Skips::default();
        // Rounds before the last one taken are answered.
        self.cuts.retain(|(cut, _)| cut + 1 >= round);
        self.cuts.push((round, kept));
    }

    /// How much of the present log is durable where rounds up to this one made it so up to `last`: not what was cut since, even if the same
    /// entries are here again.
    pub(crate) fn vouched(&mut self, round: u64, last: LogId) -> LogId {
        self.cuts.retain(|(cut, _)| *cut > round);
        let kept = self.cuts.iter().map(|(_, kept)| *kept).min_by_key(|kept| kept.index);
        match kept.filter(|_| !on(Mutation::BelieveRoundBeforeCut)) {
            Some(kept) if kept.index < last.index => kept,
            _ => last,
        }
    }

    pub(crate) fn new(image: GroupImage, segments: Vec<Segment>) -> Self {
        debug_assert_eq!(image.files.len(), segments.len());
        Self {
            image,
            segments,
            tail: Tail::default(),
            last_op: None,
            is_granted: false,
            is_aside: false,
            is_kept: false,
            is_async: false,
            loose_round: 0,
            skips: Skips::default(),
            changes: 0,
            cuts: Vec::new(),
        }
    }
    pub(crate) fn active(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a group has an active file")
    }
    /// Position of the file that holds an index.
    pub(crate) fn file_of(&self, index: Index) -> usize {
        self.image.files.partition_point(|f| f.first() <= index).saturating_sub(1)
    }
    /// Whether an entry lies in the damaged range.
    pub(crate) fn is_damaged(&self, index: Index) -> bool {
        self.image.needs_repair.is_some_and(|(first, last)| first <= index && index <= last)
    }
    pub(crate) fn drop_files(&mut self, dropped: &[u64]) {
        self.segments.retain(|s| !dropped.contains(&s.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nine readers each forgot what the others had found, and none of them ever reached the end.
    #[test]
    fn readers_far_apart_in_one_stretch_all_get_behind_it() {
        for readers in [9, 60] {
            let mut skips = Skips::default();
            let end = 1_000_000;
            let starts: Vec<i64> = (0..readers).map(|reader| reader * end / readers).collect();
            // Each turn walks over so many.
            for _ in 0..end / readers / 1_000 + 2 {
                for start in &starts {
                    let from = skips.behind(Offset(*start));
                    if from < Offset(end) {
                        skips.note(Offset(*start), Offset((from.0 + 1_000).min(end)));
                    }
                }
            }
            assert!(starts.iter().all(|start| skips.behind(Offset(*start)) == Offset(end)), "{readers}");
            assert_eq!(skips.0, [(Offset(0), Offset(end))]);
        }
    }

    #[test]
    fn stretches_are_remembered_within_bounds_and_the_longest_stay() {
        let mut skips = Skips::default();
        for at in 0..1_000 {
            skips.note(Offset(at * 1_000), Offset(at * 1_000 + 1 + at % 500));
        }
        assert_eq!(skips.0.len(), Skips::MOST);
        assert_eq!(skips.behind(Offset(499_000)), Offset(499_500));
        assert_eq!(skips.behind(Offset(499_500)), Offset(499_500), "what lies between is not skipped");
    }

    #[test]
    fn reader_in_a_stretch_shorter_than_all_that_are_remembered_gets_behind_it() {
        let mut skips = Skips::default();
        (0..64).for_each(|n| skips.note(Offset(n * 10_000), Offset(n * 10_000 + 5_000)));
        let (mut at, end) = (Offset(1_000_000), Offset(1_000_090));
        for _ in 0..10 {
            skips.note(at, Offset(end.0.min(at.0 + 10)));
            at = skips.behind(Offset(1_000_000));
        }
        assert_eq!(at, end);
    }
}
