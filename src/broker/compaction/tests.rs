//! The cleaner against a naive model: random logs in every codec, pass after pass.
use super::*;
use crate::broker::partition::producer_state::ProducerState;
use crate::segment::{Epoch, LogId};
use crate::wire::batch;
use crate::wire::compression::Compression;
use crate::wire::record::{Batch, RecordBatchBuilder};
use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    meta: EntryMeta,
    payload: Bytes,
}

/// A record as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn records(payload: &Bytes) -> Vec<Known> {
    if payload.is_empty() {
        return Vec::new();
    }
    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let known = |r: crate::wire::record::Record<'_>| Known {
        offset: r.offset,
        timestamp: r.timestamp,
        key: own(r.key),
        value: own(r.value),
    };
    Batch::open(payload, RECORDS_LIMIT).unwrap().records().map(|record| known(record.unwrap())).collect()
}

struct Log {
    entries: Vec<Entry>,
    next: i64,
    sequences: BTreeMap<i64, i32>,
}

impl Log {
    fn push(&mut self, kind: EntryKind, span: u32, mut payload: BytesMut) {
        let index = self.entries.len() as u64 + 1;
        if kind == EntryKind::Records {
            batch::assign(&mut payload, self.next, 1);
        }
        let meta = EntryMeta {
            id: LogId::new(0, 1, index),
            prev: Epoch::new(0, 1),
            kind,
            base_offset: Offset(self.next),
            offset_span: span,
            payload_len: payload.len() as u32,
        };
        self.next += i64::from(span);
        self.entries.push(Entry { meta, payload: payload.freeze() });
    }

    fn random(rng: &mut StdRng) -> Self {
        let mut log = Self { entries: Vec::new(), next: 0, sequences: BTreeMap::new() };
        let keys = rng.random_range(1..30u32);
        let keyless = if rng.random_bool(0.2) { 0.1 } else { 0.0 };
        for _ in 0..rng.random_range(1..80) {
            match rng.random_range(0..20) {
                0 => log.push(EntryKind::Noop, 0, BytesMut::new()),
                1 => log.push(EntryKind::ForgetProducers, 0, BytesMut::from(&b"whatever"[..])),
                _ => log.batch(rng, keys, keyless),
            }
        }
        log
    }

    fn batch(&mut self, rng: &mut StdRng, keys: u32, keyless: f64) {
        let codec = *Compression::ALL.choose(rng).unwrap();
        let mut builder = RecordBatchBuilder::new(codec);
        let producer = rng.random_range(-1..4i64);
        let count = rng.random_range(1..9);
        if producer >= 0 {
            let sequence = self.sequences.entry(producer).or_default();
            builder.producer(producer, 0, *sequence);
            *sequence += count;
        }
        for _ in 0..count {
            let key = (!rng.random_bool(keyless)).then(|| rng.random_range(0..keys).to_be_bytes());
            let value = (!rng.random_bool(0.15)).then(|| vec![rng.random::<u8>(); rng.random_range(0..40)]);
            let time = rng.random_range(1..1_000);
            builder.append(time, key.as_ref().map(|key| &key[..]), value.as_deref(), &[]);
        }
        self.push(EntryKind::Records, count as u32, builder.build().unwrap());
    }

    fn producers(&self) -> ProducerState {
        let mut state = ProducerState::default();
        for entry in &self.entries {
            if let Some(header) = BatchHeader::read(&entry.payload) {
                state.apply(entry.meta.id.index, entry.meta.base_offset, &header);
            }
        }
        state
    }

    fn known(&self) -> Vec<Known> {
        let batches = self.entries.iter().filter(|e| e.meta.kind == EntryKind::Records);
        batches.flat_map(|entry| records(&entry.payload)).collect()
    }

    /// One pass over all of it.
    fn clean(&self, terms: &Terms) -> (Self, Pass) {
        let mut pass = Pass::new(terms.clone());
        for entry in self.entries.iter().filter(|e| e.meta.next_offset() > terms.first_dirty) {
            if !pass.learn(&entry.meta, &entry.payload) {
                break;
            }
        }
        let until = |entry: &&Entry| entry.meta.next_offset() <= terms.until;
        let closed = self.entries.iter().take_while(until).count();
        let mut entries = self.entries.clone();
        for entry in &mut entries[..closed] {
            match pass.retain(&entry.meta, &entry.payload) {
                Retained::Whole => {}
                Retained::Nothing => entry.payload = Bytes::new(),
                Retained::Rewritten(bytes) => entry.payload = bytes,
            }
        }
        (Self { entries, next: self.next, sequences: self.sequences.clone() }, pass)
    }
}

/// What the rules say, from the log as it was written.
#[derive(Default)]
struct Model {
    /// Delete horizon of the batch at an index.
    horizons: BTreeMap<u64, i64>,
    /// Tombstones that went, and where the last of them ended in the last pass.
    gone: BTreeSet<i64>,
    dropped: i64,
}

impl Model {
    fn pass(&mut self, original: &Log, terms: &Terms, end: i64) -> Vec<Known> {
        let begins = terms.now_ms + terms.delete_retention_ms;
        let all = original.known();
        let last: BTreeMap<_, _> = all
            .iter()
            .filter(|r| r.key.is_some() && r.offset < end)
            .map(|r| (r.key.clone(), r.offset))
            .collect();
        let is_last = |r: &Known| r.offset >= end || r.key.is_none() || last[&r.key] == r.offset;
        for entry in original
            .entries
            .iter()
            .filter(|e| e.meta.kind == EntryKind::Records && e.meta.base_offset.0 < end)
        {
            let tombstones: Vec<i64> = records(&entry.payload)
                .iter()
                .filter(|r| {
                    r.key.is_some() && r.value.is_none() && is_last(r) && !self.gone.contains(&r.offset)
                })
                .map(|r| r.offset)
                .collect();
            let (index, next) = (entry.meta.id.index.0, entry.meta.next_offset());
            let horizon = self.horizons.get(&index).copied();
            if next <= terms.first_dirty.min(terms.floor) && horizon.is_some_and(|at| terms.now_ms >= at) {
                self.dropped = self.dropped.max(tombstones.first().map_or(0, |_| next.0));
                self.gone.extend(tombstones);
            } else if !tombstones.is_empty() && next > terms.first_dirty && next.0 <= end {
                self.horizons.insert(index, horizon.map_or(begins, |at| at.max(begins)));
            }
        }
        all.into_iter().filter(|r| is_last(r) && !self.gone.contains(&r.offset)).collect()
    }
}

fn assert_frames_unchanged(was: &Log, is: &Log) {
    for (was, is) in was.entries.iter().zip(&is.entries) {
        assert_eq!(was.meta, is.meta);
        if let (Some(old), Some(new)) = (BatchHeader::read(&was.payload), BatchHeader::read(&is.payload)) {
            assert!(batch::crc_ok(&is.payload) || was.meta.kind != EntryKind::Records);
            assert_eq!(
                (old.base_offset, old.last_offset_delta, old.partition_leader_epoch, old.producer_id),
                (new.base_offset, new.last_offset_delta, new.partition_leader_epoch, new.producer_id)
            );
            assert_eq!((old.producer_epoch, old.base_sequence), (new.producer_epoch, new.base_sequence));
            assert!(new.codec() == old.codec() || new.record_count == 0);
        }
    }
}

#[test]
pub(crate) fn random_logs_keep_what_a_naive_model_keeps_pass_after_pass() {
    let mut dropped = 0;
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let original = Log::random(&mut rng);
        let mut log =
            Log { entries: original.entries.clone(), next: original.next, sequences: BTreeMap::new() };
        let (mut model, mut first_dirty, mut until, mut now_ms) = (Model::default(), Offset(0), 0, 10_000);
        let committed = Index(original.entries.len() as u64);
        let producers = original.producers().remembered(committed).unwrap();
        for pass in 0..6 {
            let boundaries: Vec<Offset> = original.entries.iter().map(|e| e.meta.next_offset()).collect();
            until = until.max(boundaries.choose(&mut rng).unwrap().0);
            now_ms += rng.random_range(0..400);
            let terms = Terms {
                first_dirty,
                until: Offset(until),
                now_ms,
                delete_retention_ms: 300,
                // Some other copy is not as clean.
                floor: if rng.random_bool(0.7) {
                    Offset(i64::MAX)
                } else {
                    *boundaries.choose(&mut rng).unwrap()
                },
                producers: producers.clone(),
                // Room for 48 keys, or for more.
                buffer_bytes: if rng.random_bool(0.5) { 0 } else { 1 << 20 },
                salt: rng.random(),
            };
            let (cleaned, done) = log.clean(&terms);
            let end = done.end();
            assert!(end >= first_dirty && end.0 <= until.max(first_dirty.0), "seed {seed}, pass {pass}");
            assert_eq!(end.0 == until, !done.figures().is_full, "seed {seed}, pass {pass}: {done:?}");
            model.dropped = 0;
            let expected = model.pass(&original, &terms, end.0);
            assert_eq!(cleaned.known(), expected, "seed {seed}, pass {pass}: what stays");
            assert_eq!(done.dropped(), Offset(model.dropped), "seed {seed}, pass {pass}: what is missing");
            dropped += done.figures().tombstones;
            assert_frames_unchanged(&original, &cleaned);
            let state = cleaned.producers();
            assert_eq!(
                state.remembered(committed),
                Some(producers.clone()),
                "seed {seed}, pass {pass}: what producers are known by"
            );
            // At once again: nothing is left to do, but for tombstones that have no time to wait.
            let (again, _) = cleaned.clean(&Terms { first_dirty: end, salt: rng.random(), ..terms });
            assert_eq!(
                again.entries, cleaned.entries,
                "seed {seed}, pass {pass}: what stays the second time"
            );
            (log, first_dirty) = (cleaned, end);
        }
    }
    assert!(dropped > 100, "only {dropped} tombstones went");
}

fn one_batch(records: &[(&str, Option<&str>)]) -> BytesMut {
    let mut builder = RecordBatchBuilder::new(Compression::Lz4);
    for (key, value) in records {
        builder.append(100, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    builder.build().unwrap()
}

fn log(batches: &[&[(&str, Option<&str>)]]) -> Log {
    let mut log = Log { entries: Vec::new(), next: 0, sequences: BTreeMap::new() };
    for records in batches {
        log.push(EntryKind::Records, records.len() as u32, one_batch(records));
    }
    log
}

fn terms(until: i64) -> Terms {
    Terms {
        first_dirty: Offset(0),
        until: Offset(until),
        now_ms: 1_000,
        delete_retention_ms: 500,
        floor: Offset(i64::MAX),
        producers: BTreeSet::new(),
        buffer_bytes: 1 << 20,
        salt: [3, 4],
    }
}

#[test]
fn last_batch_of_a_pass_keeps_its_header_so_that_a_reader_reaches_the_end() {
    let log = log(&[&[("a", Some("1"))], &[("a", None)], &[("b", Some("1"))]]);
    let (first, _) = log.clean(&terms(2));
    assert!(first.entries[0].payload.is_empty());
    let due = Terms { first_dirty: Offset(2), now_ms: 2_000, ..terms(2) };
    let (second, _) = first.clean(&due);
    assert_eq!(BatchHeader::read(&second.entries[1].payload).unwrap().record_count, 0);
    // The next pass ends elsewhere.
    let (third, _) = second.clean(&Terms { until: Offset(3), ..due });
    assert!(third.entries[1].payload.is_empty() && third.entries[2] == log.entries[2]);
}

/// A tombstone behind the end of what was learned deletes values that are still there: its time has not begun.
#[test]
fn horizon_is_not_set_on_a_batch_that_was_learned_in_part() {
    let keys: Vec<String> = (0..60).map(|key| format!("{key:02}")).collect();
    let batch: Vec<(&str, Option<&str>)> = keys.iter().map(|key| (&key[..], None)).collect();
    let log = log(&[&batch]);
    let (cleaned, pass) = log.clean(&Terms { buffer_bytes: 0, ..terms(60) });
    assert_eq!((pass.end(), pass.figures().is_full, pass.figures().keys), (Offset(48), true, 48));
    assert_eq!(cleaned.entries, log.entries);
    let (cleaned, pass) = log.clean(&Terms { buffer_bytes: 0, first_dirty: Offset(48), ..terms(60) });
    assert_eq!(pass.end(), Offset(60));
    assert_eq!(BatchHeader::read(&cleaned.entries[0].payload).unwrap().delete_horizon_ms(), Some(1_500));
}

/// What was clean when the pass began has its horizons from the passes before.
#[test]
fn tombstone_that_no_pass_has_learned_gets_no_horizon() {
    let log = log(&[&[("a", Some("1"))], &[("a", None)], &[("b", Some("1"))]]);
    let clean = Terms { first_dirty: Offset(2), ..terms(3) };
    assert_eq!(log.clean(&clean).0.entries, log.entries);
    let (honest, _) = log.clean(&terms(3));
    assert!(honest.entries[0].payload.is_empty());
    assert_eq!(BatchHeader::read(&honest.entries[1].payload).unwrap().delete_horizon_ms(), Some(1_500));
}

#[test]
fn pass_that_is_stopped_at_a_file_leaves_what_lies_behind_and_knows_its_keys() {
    let log = log(&[&[("a", Some("1"))], &[("b", Some("1"))], &[("a", Some("2"))], &[("b", None)]]);
    let mut pass = Pass::new(terms(4));
    assert!(log.entries.iter().all(|entry| pass.learn(&entry.meta, &entry.payload)));
    pass.stop_at(Offset(2));
    let kept: Vec<Retained> =
        log.entries.iter().map(|entry| pass.retain(&entry.meta, &entry.payload)).collect();
    assert_eq!(kept, [Retained::Nothing, Retained::Nothing, Retained::Whole, Retained::Whole]);
}

/// It goes below what was clean when the pass began, here and everywhere; what it deleted may be in a batch before it that nobody can read.
#[test]
fn tombstone_stays_while_a_copy_may_hold_what_it_deleted() {
    let log = log(&[&[("a", None)], &[("x", Some("1"))], &[("b", None)], &[("c", Some("1"))]]);
    let (log, _) = log.clean(&terms(4));
    let due = Terms { first_dirty: Offset(4), now_ms: 1_500, ..terms(4) };
    let left = |log: &Log, terms: Terms| {
        let (cleaned, pass) = log.clean(&terms);
        let left: Vec<i64> = cleaned.known().iter().filter(|r| r.value.is_none()).map(|r| r.offset).collect();
        (left, pass.dropped().0, pass.figures().tombstones)
    };
    assert_eq!(left(&log, due.clone()), (vec![], 3, 2));
    assert_eq!(left(&log, Terms { now_ms: 1_499, ..due.clone() }), (vec![0, 2], 0, 0));
    assert_eq!(left(&log, Terms { first_dirty: Offset(2), ..due.clone() }), (vec![2], 1, 1));
    assert_eq!(left(&log, Terms { floor: Offset(2), ..due.clone() }), (vec![2], 1, 1));
    assert_eq!(left(&log, Terms { floor: Offset(0), ..due.clone() }), (vec![0, 2], 0, 0));
    for is_transactional in [false, true] {
        let mut veiled = Log { entries: log.entries.clone(), next: log.next, sequences: BTreeMap::new() };
        let mut bytes = BytesMut::from(&veiled.entries[1].payload[..]);
        if is_transactional {
            let mut header = BatchHeader::read(&bytes).unwrap();
            header.attributes |= 1 << 4;
            header.write(&mut bytes);
            batch::seal(&mut bytes);
        } else {
            *bytes.last_mut().unwrap() ^= 1;
        }
        veiled.entries[1].payload = bytes.freeze();
        let (cleaned, pass) = veiled.clean(&due);
        assert_eq!((pass.dropped(), pass.figures().tombstones), (Offset(1), 1), "{is_transactional}");
        assert_eq!(cleaned.entries[1..], veiled.entries[1..]);
    }
}

#[test]
fn batch_that_cannot_be_read_stays_and_hides_nothing() {
    let mut log = log(&[&[("a", Some("1"))], &[("a", Some("2"))], &[("b", Some("1"))]]);
    let mut bytes = BytesMut::from(&log.entries[1].payload[..]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    log.entries[1].payload = bytes.freeze();
    let (cleaned, pass) = log.clean(&terms(3));
    assert_eq!(cleaned.entries, log.entries);
    assert_eq!((pass.figures().unreadable, pass.figures().read), (1, 2));
}

#[test]
fn batch_whose_end_cannot_be_read_replaces_nothing() {
    let mut log = log(&[&[("a", Some("1"))], &[("b", Some("1"))]]);
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(100, Some(b"a"), Some(b"2"), &[]).append(100, Some(b"c"), Some(b"3"), &[]);
    log.push(EntryKind::Records, 2, builder.build().unwrap());
    let mut bytes = BytesMut::from(&log.entries[2].payload[..]);
    // The header count of the last record.
    *bytes.last_mut().unwrap() = 2;
    batch::seal(&mut bytes);
    log.entries[2].payload = bytes.freeze();
    let (cleaned, pass) = log.clean(&terms(4));
    assert_eq!(cleaned.entries, log.entries);
    assert_eq!(pass.figures().unreadable, 1);
}
