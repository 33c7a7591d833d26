//! The cleaner of compacted topics, as a pure decision: which records of a log stay (Kafka's `Cleaner`).
//!
//! A [`Pass`] is fed the closed files of one replica twice, oldest entry first. The first time it learns the last offset of each key in what
//! was not cleaned before ([`Pass::learn`]); the second time it says of every entry what stays ([`Pass::retain`]). `plan` says
//! which partition is worth a pass and how far it may go; `keys` is the map. Not here: files (`segment`), when and where it
//! runs (`shard`), bytes of batches (`wire::record::retain`). No clock, randomness or IO.
//! Invariants:
//! - The last record of a key stays, unless it is a tombstone whose delete horizon has passed. What lies behind the end of what was
//!   learned stays as it is.
//! - A pass goes from the oldest file to the newest. A tombstone goes only below what was clean when the pass began, here and in every other
//!   copy, and not behind a batch that could not be looked into: what it deleted may be in there (decision 0022).
//! - The five last batches of every producer the partition knows keep their headers, so that a replica that reads the compacted log
//!   knows the same sequences.
//! - A batch that cannot be read stays as it is, and so do records without a key.

mod keys;
pub mod plan;

use crate::mutation::{Mutation, on};
use crate::segment::{EntryKind, EntryMeta, Index, Offset, may_drop};
use crate::wire::batch::BatchHeader;
use crate::wire::record::retain::{Retained, Rules, open, retain};
use crate::wire::record::{RecordError, Records};
use keys::Keys;
use std::collections::BTreeSet;

/// Bytes of a batch's records when decompressed. The producer's side refuses larger ones to compacted topics; one that was there before
/// stays as it is.
pub const RECORDS_LIMIT: usize = 128 << 20;

/// What a pass is given.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Everything before is clean: of no key whose last record there is a tombstone is an earlier record left.
    pub first_dirty: Offset,
    /// Where the files end that may be cleaned.
    pub until: Offset,
    /// Wall clock, ms.
    pub now_ms: i64,
    /// Batches with tombstones that the pass learns get a delete horizon so many ms from now.
    pub delete_retention_ms: i64,
    /// Up to where every copy of the partition is clean.
    pub floor: Offset,
    /// Entries whose header stays: the batches producers are known by.
    pub producers: BTreeSet<Index>,
    /// Bytes for the map of keys (`log.cleaner.dedupe.buffer.size`).
    pub buffer_bytes: usize,
    /// Random.
    pub salt: [u64; 2],
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Keys in the map.
    pub keys: usize,
    /// Records seen in the second reading.
    pub read: u64,
    /// Of these, records with a later one of the same key.
    pub superseded: u64,
    /// Tombstones whose time was over: they went.
    pub tombstones: u64,
    /// Records without a key, which stay.
    pub keyless: u64,
    /// Batches that could not be read, which stay.
    pub unreadable: u64,
    /// The map was full before all was learned: the next pass goes on from [`Pass::end`].
    pub is_full: bool,
}

/// One pass over one replica's log.
#[derive(Debug)]
pub struct Pass {
    terms: Terms,
    keys: Keys,
    end: Offset,
    /// Offset after the last batch of which a tombstone was left out.
    dropped: Offset,
    /// The second reading has met a batch that it could not look into.
    is_behind_unread: bool,
    figures: Figures,
}

impl Pass {
    /// A pass that has seen nothing.
    pub fn new(terms: Terms) -> Self {
        let keys = Keys::new(terms.buffer_bytes, terms.salt);
        let (end, dropped) = (terms.first_dirty, Offset(0));
        Self { keys, end, dropped, is_behind_unread: false, terms, figures: Figures::default() }
    }

    /// First reading: the entries from the one that holds the first dirty offset on, in order. False: it has learned what it can; there is
    /// nothing more to read.
    pub fn learn(&mut self, meta: &EntryMeta, payload: &[u8]) -> bool {
        if meta.base_offset >= self.terms.until || self.figures.is_full {
            return false;
        }
        if is_data(meta, payload) && !self.learn_batch(payload).unwrap_or(true) {
            self.figures.is_full = true;
            return false;
        }
        self.end = self.end.max(meta.next_offset());
        true
    }

    /// False: no room for another key. An error stands for a batch that nobody can read: it stays, and hides nothing.
    fn learn_batch(&mut self, payload: &[u8]) -> Result<bool, RecordError> {
        let (header, plain) = open(payload, RECORDS_LIMIT)?;
        // All of it first: what clients may not be able to read replaces nothing.
        Records::new(&header, &plain).try_for_each(|record| record.map(drop))?;
        for record in Records::new(&header, &plain) {
            let record = record?;
            if record.offset < self.terms.first_dirty.0 {
                continue;
            }
            if let Some(key) = record.key
                && !self.keys.put(key, record.offset)
            {
                return Ok(false);
            }
            self.end = Offset(record.offset + 1);
        }
        Ok(true)
    }

    /// Gives up what was learned from this offset on: where the map was full in the middle of a file, that file is better left to the next
    /// pass. The keys stay known: they were seen.
    pub fn stop_at(&mut self, end: Offset) {
        self.end = self.end.min(end).max(self.terms.first_dirty);
    }

    /// Where what was learned ends: after the pass, everything before is clean.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Every tombstone that was left out so far lies below. One that a later record of its key replaces does not count.
    pub fn dropped(&self) -> Offset {
        self.dropped
    }

    /// Second reading: what stays of an entry.
    pub fn retain(&mut self, meta: &EntryMeta, payload: &[u8]) -> Retained {
        if meta.base_offset >= self.end {
            return Retained::Whole;
        }
        match meta.kind {
            EntryKind::Noop => return Retained::Nothing,
            EntryKind::Records if payload.is_empty() => return Retained::Nothing,
            EntryKind::Records => {}
            _ => return Retained::Whole,
        }
        let is_producers =
            self.terms.producers.contains(&meta.id.index) && !on(Mutation::ForgetCompactedProducers);
        let now_ms = if on(Mutation::DropTombstonesEarly) { i64::MAX } else { self.terms.now_ms };
        let next = meta.next_offset();
        // A tombstone's time begins with the pass that learned it, and so removed what it deleted: not before (a batch that reaches behind
        // the end).
        let is_learned = next <= self.end && next > self.terms.first_dirty;
        let delete_retention_ms = is_learned.then_some(self.terms.delete_retention_ms);
        let (clean, floor) = (self.terms.first_dirty, self.terms.floor);
        let rules = Rules {
            limit: RECORDS_LIMIT,
            now_ms,
            delete_retention_ms,
            drops_tombstones: may_drop(next, clean, floor, self.is_behind_unread),
            // The last batch too, as Kafka does: a consumer that has read all stands at the end.
            keeps_header: is_producers || next == self.terms.until,
        };
        self.is_behind_unread |=
            BatchHeader::read(payload).is_none_or(|h| h.is_transactional() && !h.is_control());
        let before = (self.figures, self.dropped);
        let (keys, end, figures, dropped) = (&self.keys, self.end, &mut self.figures, &mut self.dropped);
        let retained = retain(payload, &rules, &mut |record, may_go| {
            figures.read += 1;
            let Some(key) = record.key else {
                figures.keyless += 1;
                return true;
            };
            let stays = record.offset >= end.0 || keys.get(key).is_none_or(|last| record.offset >= last);
            figures.superseded += u64::from(!stays);
            if stays && may_go {
                figures.tombstones += 1;
                *dropped = (*dropped).max(next);
            }
            stays && !may_go
        });
        retained.unwrap_or_else(|_| {
            (self.figures, self.dropped) = before;
            self.figures.unreadable += 1;
            self.is_behind_unread = true;
            Retained::Whole
        })
    }

    /// What it did so far.
    pub fn figures(&self) -> Figures {
        Figures { keys: self.keys.len(), ..self.figures }
    }
}

/// A batch whose keys count.
fn is_data(meta: &EntryMeta, payload: &[u8]) -> bool {
    let is_plain = |header: BatchHeader| !header.is_control() && !header.is_transactional();
    meta.kind == EntryKind::Records && BatchHeader::read(payload).is_some_and(is_plain)
}

#[cfg(test)]
pub(crate) mod tests;
