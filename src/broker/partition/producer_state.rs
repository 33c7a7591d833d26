//! Idempotence (KIP-98, KIP-360): what each producer last wrote to one partition.
//!
//! A pure function of the appended log (uncommitted included): every appended batch is applied, every truncation rolls
//! back (safety.md F21). Expiry is decided by the leader, when a new batch is checked and when it names producers to forget in a
//! control entry; never while applying.
//! Called by `partition` alone. Not here: handing out producer ids (`ctl`), transactions.

use crate::broker::api::PartitionError;
use crate::mutation::{Mutation, on};
use crate::segment::{Index, Offset};
use crate::wire::batch::BatchHeader;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Batches remembered per producer: a client has at most five requests in flight.
const REMEMBERED: usize = 5;
/// Changes that can be undone; a longer truncation rebuilds the state from the log.
const UNDO_LIMIT: usize = 10_000;

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Batch {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    index: u64,
}

/// One producer's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    /// Largest record timestamp (ms) it wrote: decides expiry.
    timestamp: i64,
    batches: VecDeque<Batch>,
}

/// What a batch is to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New: append it.
    Append,
    /// Already in the log: answer this offset once that entry is committed.
    Duplicate {
        /// Offset it got then.
        base_offset: Offset,
        /// Its entry.
        index: Index,
    },
}

/// All producers of one partition.
#[derive(Clone, Debug, Default)]
pub struct ProducerState {
    producers: BTreeMap<i64, Producer>,
    /// What each applied entry replaced, oldest first.
    undo: VecDeque<(Index, i64, Option<Producer>)>,
    /// Entries at or below this can no longer be undone.
    undo_floor: Index,
    /// Last entry taken note of: a snapshot may be ahead of the log that is replayed on top of it.
    applied: Index,
}

impl ProducerState {
    /// State as a snapshot describes it (see [`Self::encode`]) as of entry `at`; empty bytes are an empty state.
    pub fn decode(bytes: &[u8], at: Index) -> Result<Self, serde_json::Error> {
        let producers = if bytes.is_empty() { BTreeMap::new() } else { serde_json::from_slice(bytes)? };
        Ok(Self { producers, undo: VecDeque::new(), undo_floor: at, applied: at })
    }

    /// Snapshot bytes of the state as of entry `at`, which must be the last applied or one whose successors can be undone.
    pub fn encode(&self, at: Index) -> Option<Vec<u8>> {
        let mut copy = self.clone();
        copy.truncate(at.next()).then(|| serde_json::to_vec(&copy.producers).expect("plain data serialises"))
    }

    /// Checks a batch that is about to be appended; `now_ms` and `expiration_ms` decide whether old state still counts.
    pub fn check(
        &self,
        header: &BatchHeader,
        now_ms: i64,
        expiration_ms: i64,
    ) -> Result<Verdict, PartitionError> {
        if header.producer_id < 0 || on(Mutation::SkipSequenceCheck) {
            return Ok(Verdict::Append);
        }
        let Some(producer) = self.producers.get(&header.producer_id) else {
            return Ok(Verdict::Append);
        };
        // Expiry only forgives: records with old timestamps (a mirror, a backfill) are checked like any others.
        let expired = now_ms.saturating_sub(producer.timestamp) > expiration_ms;
        match Self::check_against(producer, header) {
            Err(_) if expired => Ok(Verdict::Append),
            verdict => verdict,
        }
    }

    fn check_against(producer: &Producer, header: &BatchHeader) -> Result<Verdict, PartitionError> {
        if header.producer_epoch < producer.epoch {
            return Err(PartitionError::InvalidProducerEpoch {
                given: header.producer_epoch,
                current: producer.epoch,
            });
        }
        let first = header.base_sequence;
        if header.producer_epoch > producer.epoch {
            return if first == 0 {
                Ok(Verdict::Append)
            } else {
                let text = format!("a new epoch must start at sequence 0, got {first}");
                Err(PartitionError::OutOfOrderSequence(text))
            };
        }
        let last = last_sequence(header);
        if let Some(same) =
            producer.batches.iter().find(|b| b.first_sequence == first && b.last_sequence == last)
        {
            return Ok(Verdict::Duplicate {
                base_offset: Offset(same.base_offset),
                index: Index(same.index),
            });
        }
        match producer.batches.back() {
            Some(previous) if first != next_sequence(previous.last_sequence) => {
                let expected = next_sequence(previous.last_sequence);
                let text = format!("expected sequence {expected}, got {first}");
                Err(PartitionError::OutOfOrderSequence(text))
            }
            _ => Ok(Verdict::Append),
        }
    }

    /// Producers whose newest record is older than `expiration_ms` and that wrote nothing after entry `quiet_since`, at most
    /// `limit`. The latter keeps those that write old timestamps right now (a mirror, a backfill).
    pub fn expired(&self, now_ms: i64, expiration_ms: i64, quiet_since: Index, limit: usize) -> Vec<i64> {
        let is_expired = |producer: &Producer| {
            let last = producer.batches.back().map_or(0, |batch| batch.index);
            now_ms.saturating_sub(producer.timestamp) > expiration_ms && last <= quiet_since.0
        };
        let expired = self.producers.iter().filter(|(_, producer)| is_expired(producer));
        expired.map(|(id, _)| *id).take(limit).collect()
    }

    /// A control entry says that these are forgotten.
    pub fn forget(&mut self, index: Index, ids: &[i64]) {
        if index <= self.applied {
            return;
        }
        self.applied = index;
        for id in ids {
            if let Some(old) = self.producers.remove(id) {
                self.remember_undo(index, *id, Some(old));
            }
        }
    }

    fn remember_undo(&mut self, index: Index, id: i64, old: Option<Producer>) {
        self.undo.push_back((index, id, old));
        if self.undo.len() > UNDO_LIMIT
            && let Some((dropped, ..)) = self.undo.pop_front()
        {
            self.undo_floor = dropped;
        }
    }

    /// Takes note of an appended batch.
    pub fn apply(&mut self, index: Index, base_offset: Offset, header: &BatchHeader) {
        if index <= self.applied {
            return;
        }
        self.applied = index;
        if header.producer_id < 0 {
            return;
        }
        let old = self.producers.get(&header.producer_id).cloned();
        let producer = self.producers.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            timestamp: i64::MIN,
            batches: VecDeque::with_capacity(REMEMBERED),
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.timestamp = producer.timestamp.max(header.max_timestamp);
        if producer.batches.len() == REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Batch {
            first_sequence: header.base_sequence,
            last_sequence: last_sequence(header),
            base_offset: base_offset.0,
            index: index.0,
        });
        self.remember_undo(index, header.producer_id, old);
    }

    /// Entries up to here are committed and can never be truncated.
    pub fn committed(&mut self, index: Index) {
        while self.undo.front().is_some_and(|(at, ..)| *at <= index) {
            self.undo.pop_front();
        }
        self.undo_floor = self.undo_floor.max(index);
    }

    /// Rolls back every entry at or above `from`. False: too far back, rebuild from the log.
    #[must_use]
    pub fn truncate(&mut self, from: Index) -> bool {
        if from <= self.undo_floor {
            return false;
        }
        self.applied = self.applied.min(from.prev());
        while self.undo.back().is_some_and(|(at, ..)| *at >= from) {
            if let Some((_, id, old)) = self.undo.pop_back() {
                match old {
                    Some(producer) => self.producers.insert(id, producer),
                    None => self.producers.remove(&id),
                };
            }
        }
        true
    }

    /// Entries behind `last` are lost: what is known of them is forgotten. A producer of which nothing else is known is unknown then,
    /// and may go on with any sequence, as one whose state has expired.
    pub fn forget_behind(&mut self, last: Index) {
        for producer in self.producers.values_mut() {
            producer.batches.retain(|batch| batch.index <= last.0);
        }
        self.producers.retain(|_, producer| !producer.batches.is_empty());
        self.undo.clear();
        (self.undo_floor, self.applied) = (last, last);
    }

    /// Entries up to `committed` that the state would be rebuilt from: those of the batches it remembers, or remembers again should everything
    /// behind be cut. None: too much lies behind to tell.
    pub fn remembered(&self, committed: Index) -> Option<BTreeSet<Index>> {
        let mut copy = self.clone();
        let batches = |p: Self| {
            let batches = p.producers.into_values().flat_map(|producer| producer.batches);
            batches.map(|batch| Index(batch.index)).collect()
        };
        copy.truncate(committed.next()).then(|| batches(copy))
    }

    /// Last entry taken note of.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// First batch of each producer that a truncation from `from` on takes away: producer id, epoch, first sequence. Ask before it.
    pub fn taken_by(&self, from: Index) -> Vec<(i64, i16, i32)> {
        let ids: BTreeSet<i64> =
            self.undo.iter().rev().take_while(|(at, ..)| *at >= from).map(|(_, id, _)| *id).collect();
        let first = |id: i64| {
            let producer = self.producers.get(&id)?;
            let batch = producer.batches.iter().find(|b| b.index >= from.0)?;
            Some((id, producer.epoch, batch.first_sequence))
        };
        ids.into_iter().filter_map(first).collect()
    }

    /// Whether a producer's next sequence is known.
    pub fn knows(&self, producer_id: i64) -> bool {
        self.producers.contains_key(&producer_id)
    }

    /// Producers known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }
}

/// Sequence of the last record of a batch; sequences wrap after 2^31 - 1 to 0.
fn last_sequence(header: &BatchHeader) -> i32 {
    let last = i64::from(header.base_sequence) + i64::from(header.last_offset_delta);
    (last % (1 << 31)) as i32
}

fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(epoch: i16, sequence: i32, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 100,
            max_timestamp: 100,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: count,
        }
    }

    fn applied(batches: &[(i16, i32, i32)]) -> ProducerState {
        let mut state = ProducerState::default();
        let mut offset = 0;
        for (i, (epoch, sequence, count)) in batches.iter().enumerate() {
            state.apply(Index(i as u64 + 1), Offset(offset), &header(*epoch, *sequence, *count));
            offset += i64::from(*count);
        }
        state
    }

    fn check(
        state: &ProducerState,
        epoch: i16,
        sequence: i32,
        count: i32,
    ) -> Result<Verdict, PartitionError> {
        state.check(&header(epoch, sequence, count), 100, 1000)
    }

    #[test]
    fn the_next_sequence_is_appended_and_a_gap_is_refused() {
        let state = applied(&[(0, 0, 3)]);
        assert_eq!(check(&state, 0, 3, 2), Ok(Verdict::Append));
        assert!(matches!(check(&state, 0, 4, 1), Err(PartitionError::OutOfOrderSequence(_))));
        assert!(matches!(check(&state, 0, 1, 1), Err(PartitionError::OutOfOrderSequence(_))));
    }

    #[test]
    fn any_of_the_last_five_batches_is_a_duplicate_at_its_original_offset() {
        let state = applied(&[(0, 0, 2), (0, 2, 2), (0, 4, 2), (0, 6, 2), (0, 8, 2), (0, 10, 2)]);
        let second = Verdict::Duplicate { base_offset: Offset(2), index: Index(2) };
        assert_eq!(check(&state, 0, 2, 2), Ok(second));
        assert!(check(&state, 0, 0, 2).is_err(), "the sixth last is forgotten");
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
        let state = applied(&[(1, 0, 5)]);
        assert_eq!(check(&state, 2, 0, 1), Ok(Verdict::Append));
        assert!(matches!(check(&state, 2, 5, 1), Err(PartitionError::OutOfOrderSequence(_))));
        assert_eq!(
            check(&state, 0, 5, 1),
            Err(PartitionError::InvalidProducerEpoch { given: 0, current: 1 })
        );
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let state = applied(&[(0, i32::MAX - 1, 2)]);
        assert_eq!(check(&state, 0, 0, 1), Ok(Verdict::Append));
        let state = applied(&[(0, i32::MAX, 2)]);
        assert_eq!(check(&state, 0, 1, 1), Ok(Verdict::Append));
    }

    #[test]
    fn expired_state_and_unknown_producers_accept_any_sequence() {
        let state = applied(&[(3, 0, 1)]);
        assert_eq!(state.check(&header(3, 99, 1), 100 + 1001, 1000), Ok(Verdict::Append));
        assert_eq!(check(&ProducerState::default(), 3, 99, 1), Ok(Verdict::Append));
    }

    #[test]
    fn truncation_restores_exactly_the_earlier_state() {
        let batches = [(0, 0, 1), (0, 1, 1), (1, 0, 4), (1, 4, 1)];
        for cut in 1..=4u64 {
            let mut state = applied(&batches);
            assert!(state.truncate(Index(cut)));
            let expected = applied(&batches[..cut as usize - 1]);
            assert_eq!(state.producers, expected.producers, "cut at {cut}");
        }
        let mut state = applied(&batches);
        state.committed(Index(2));
        assert!(!state.truncate(Index(2)), "committed entries are never rolled back");
    }

    #[test]
    fn only_producers_that_are_old_and_quiet_expire_and_a_cut_brings_them_back() {
        let mut state = applied(&[(0, 0, 1)]);
        let other = BatchHeader { producer_id: 8, max_timestamp: 5_000, ..header(0, 0, 1) };
        state.apply(Index(2), Offset(1), &other);
        let backfill = BatchHeader { producer_id: 9, ..header(0, 0, 1) };
        state.apply(Index(3), Offset(2), &backfill);
        assert_eq!(
            state.expired(1_100, 1_000, Index(2), 10),
            Vec::<i64>::new(),
            "exactly old enough is not older"
        );
        assert_eq!(state.expired(1_101, 1_000, Index(2), 10), vec![7], "8 is young, 9 wrote a moment ago");
        assert_eq!(state.expired(9_999, 1_000, Index(3), 2), vec![7, 8], "not more than asked for");
        let before = state.producers.clone();
        state.forget(Index(4), &[7, 8, 99]);
        assert_eq!(state.producers.keys().copied().collect::<Vec<_>>(), vec![9]);
        assert_eq!(
            check(&state, 0, 55, 1),
            Ok(Verdict::Append),
            "a forgotten producer goes on with any sequence"
        );
        state.forget(Index(4), &[9]);
        assert_eq!(state.len(), 1, "an entry counts once");
        assert!(state.truncate(Index(4)));
        assert_eq!(state.producers, before);
    }

    #[test]
    fn a_snapshot_reflects_exactly_the_entries_up_to_its_index() {
        let batches = [(0, 0, 1), (0, 1, 1), (0, 2, 1)];
        let state = applied(&batches);
        let bytes = state.encode(Index(2)).expect("can be undone");
        let restored = ProducerState::decode(&bytes, Index(2)).expect("own bytes");
        assert_eq!(restored.producers, applied(&batches[..2]).producers);
        assert_eq!(restored.len(), 1);
        assert!(!restored.is_empty());
    }
}
