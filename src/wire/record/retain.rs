//! What compaction leaves of one record batch: Kafka's `MemoryRecords.filterTo`, delete horizons included (KIP-534).
//!
//! Not which record of a key is the last one: the caller says so. Called by `broker::compaction` alone. Pure.
//! Invariants:
//! - Base offset, last offset delta, leader epoch and the producer's fields never change: no offset moves, no sequence is lost.
//! - What keeps all its records keeps its bytes. What is written anew is compressed with the codec it had.
//! - A batch that keeps a tombstone gets the time from which on that may go, as base timestamp, from the pass that learned it.
use super::{Header, Record, RecordError, Records, put_record};
use crate::wire::batch::{self, BatchHeader, DELETE_HORIZON_BIT, HEADER_LEN, LOG_OVERHEAD};
use crate::wire::compression::Compression;
use bytes::{BufMut, Bytes, BytesMut};
use std::borrow::Cow;

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retained {
    /// It stays as it is.
    Whole,
    /// It keeps nothing.
    Nothing,
    /// These bytes take its place: some of its records, or the header alone.
    Rewritten(Bytes),
}

/// How a batch is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bytes of a batch's records when decompressed; beyond it is an error.
    pub limit: usize,
    /// Wall clock, ms.
    pub now_ms: i64,
    /// A batch that keeps tombstones gets a delete horizon so many ms from now, if it has none or an earlier one; none: it keeps what it has.
    pub delete_retention_ms: Option<i64>,
    /// Tombstones whose horizon has passed go.
    pub drops_tombstones: bool,
    /// The header stays although every record goes: a producer's sequence, or the end of what was cleaned, stands in it.
    pub keeps_header: bool,
}

/// Header and plain records of one whole batch, at most `limit` bytes of them where it is compressed; for [`Records::new`].
///
/// # Errors
/// `Batch` if length or CRC is wrong, `Compression` for an unknown codec, damaged or too much data.
pub fn open(bytes: &[u8], limit: usize) -> Result<(BatchHeader, Cow<'_, [u8]>), RecordError> {
    let Some(header) = BatchHeader::read(bytes) else { return Err(RecordError::Batch(-1)) };
    if !batch::crc_ok(bytes) {
        return Err(RecordError::Batch(header.base_offset));
    }
    let packed = &bytes[HEADER_LEN..];
    let plain = match Compression::from_id(header.codec())? {
        // Nothing is packed in a header alone.
        codec if codec != Compression::None && header.record_count > 0 => {
            codec.decompress(packed, limit)?.into()
        }
        _ => packed.into(),
    };
    Ok((header, plain))
}

/// Looks at one whole batch. `is_kept` says whether a record stays; it is told whether that is a tombstone which may go. Control batches and
/// those of transactions are not looked into: they stay.
///
/// # Errors
/// As [`open`] and its records: the batch cannot be read, or is too large when decompressed.
pub fn retain(
    bytes: &[u8],
    rules: &Rules,
    is_kept: &mut dyn FnMut(&Record<'_>, bool) -> bool,
) -> Result<Retained, RecordError> {
    let Some(header) = BatchHeader::read(bytes) else { return Err(RecordError::Batch(-1)) };
    if header.is_control() || header.is_transactional() {
        return Ok(Retained::Whole);
    }
    let (header, plain) = open(bytes, rules.limit)?;
    let horizon = header.delete_horizon_ms();
    let is_due = rules.drops_tombstones && horizon.is_some_and(|at| rules.now_ms >= at);
    let (mut kept, mut dropped, mut tombstones) = (Vec::new(), false, false);
    for record in Records::new(&header, &plain) {
        let record = record?;
        let is_tombstone = record.key.is_some() && record.value.is_none();
        if is_kept(&record, is_due && is_tombstone) {
            tombstones |= is_tombstone;
            kept.push(record);
        } else {
            dropped = true;
        }
    }
    if kept.is_empty() {
        return Ok(match (rules.keeps_header, dropped) {
            (false, _) => Retained::Nothing,
            (true, false) => Retained::Whole,
            (true, true) => Retained::Rewritten(header_alone(&header)),
        });
    }
    // What a copy shows for a while after it came here late is deleted no sooner than what it shows itself.
    let begins = rules.delete_retention_ms.map(|ms| rules.now_ms.saturating_add(ms));
    let begins = begins.filter(|at| tombstones && horizon.is_none_or(|known| known < *at));
    if !dropped && begins.is_none() {
        return Ok(Retained::Whole);
    }
    let horizon = begins.or(horizon);
    rewrite(&header, &kept, horizon).map(Retained::Rewritten)
}

/// The batch without records, as Kafka writes it (`DefaultRecordBatch.writeEmptyHeader`).
fn header_alone(header: &BatchHeader) -> Bytes {
    let codec = i16::from(header.codec());
    let empty = BatchHeader {
        batch_length: (HEADER_LEN - LOG_OVERHEAD) as i32,
        attributes: header.attributes & !DELETE_HORIZON_BIT & !codec,
        base_timestamp: -1,
        record_count: 0,
        ..*header
    };
    let mut bytes = BytesMut::zeroed(HEADER_LEN);
    empty.write(&mut bytes);
    batch::seal(&mut bytes);
    bytes.freeze()
}

/// The batch with these of its records.
fn rewrite(header: &BatchHeader, kept: &[Record<'_>], horizon: Option<i64>) -> Result<Bytes, RecordError> {
    let base_timestamp = horizon.unwrap_or_else(|| kept.first().map_or(-1, |record| record.timestamp));
    let plain_len =
        kept.iter().map(|r| 32 + r.key.map_or(0, <[u8]>::len) + r.value.map_or(0, <[u8]>::len)).sum();
    let mut plain = BytesMut::with_capacity(HEADER_LEN.saturating_add(plain_len));
    plain.put_bytes(0, HEADER_LEN);
    let mut headers: Vec<Header<'_>> = Vec::new();
    for record in kept {
        headers.clear();
        headers.extend(record.headers);
        let delta = record.timestamp.wrapping_sub(base_timestamp);
        let offset_delta = (record.offset - header.base_offset) as i32;
        put_record(&mut plain, delta, offset_delta, record.key, record.value, &headers);
    }
    let mut bytes = match Compression::from_id(header.codec())? {
        Compression::None => plain,
        codec => {
            let mut packed = vec![0; HEADER_LEN];
            codec.compress(&plain[HEADER_LEN..], &mut packed)?;
            BytesMut::from(Bytes::from(packed))
        }
    };
    let length = bytes.len() - LOG_OVERHEAD;
    let max_timestamp = match header.log_append_time() {
        true => header.max_timestamp,
        false => kept.iter().map(|record| record.timestamp).max().unwrap_or(header.max_timestamp),
    };
    let rewritten = BatchHeader {
        batch_length: i32::try_from(length).map_err(|_| RecordError::TooLarge(length))?,
        attributes: match horizon {
            Some(_) => header.attributes | DELETE_HORIZON_BIT,
            None => header.attributes,
        },
        base_timestamp,
        max_timestamp,
        record_count: kept.len() as i32,
        ..*header
    };
    rewritten.write(&mut bytes);
    batch::seal(&mut bytes);
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::{Batch, RecordBatchBuilder};

    const RULES: Rules = Rules {
        limit: 1 << 20,
        now_ms: 5_000,
        delete_retention_ms: Some(1_000),
        drops_tombstones: true,
        keeps_header: false,
    };

    /// Five records: a=1, b=2, c deleted, d=4, e=5, with times 100 to 500, at offsets 70 to 74 of epoch 3.
    fn batch(codec: Compression) -> Bytes {
        let mut builder = RecordBatchBuilder::new(codec);
        builder.producer(9, 2, 40);
        for (at, (key, value)) in
            [("a", Some("1")), ("b", Some("2")), ("c", None), ("d", Some("4")), ("e", Some("5"))]
                .into_iter()
                .enumerate()
        {
            let headers: [Header<'_>; 2] = [(b"h", Some(b"x")), (b"h", None)];
            let time = 100 * (at as i64 + 1);
            builder.append(time, Some(key.as_bytes()), value.map(str::as_bytes), &headers);
        }
        let mut bytes = builder.build().unwrap();
        batch::assign(&mut bytes, 70, 3);
        bytes.freeze()
    }

    fn keys(bytes: &Bytes) -> Vec<(i64, i64, String, Option<String>, usize)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let batch = Batch::open(bytes, 1 << 20).unwrap();
        batch
            .records()
            .map(|record| record.unwrap())
            .map(|r| (r.offset, r.timestamp, text(r.key.unwrap()), r.value.map(text), r.headers.len()))
            .collect()
    }

    fn run(bytes: &Bytes, rules: &Rules, kept: &str) -> Retained {
        let stays = |record: &Record<'_>| kept.as_bytes().contains(&record.key.unwrap()[0]);
        retain(bytes, rules, &mut |record, may_go| stays(record) && !may_go).unwrap()
    }

    fn rewritten(retained: Retained) -> Bytes {
        match retained {
            Retained::Rewritten(bytes) => bytes,
            other => panic!("expected a rewritten batch, got {other:?}"),
        }
    }

    #[test]
    fn kept_records_keep_offset_time_and_headers_and_the_batch_its_fields_in_every_codec() {
        for codec in Compression::ALL {
            let old = batch(codec);
            let new = rewritten(run(&old, &RULES, "bd"));
            let expected = [
                (71, 200, "b".to_owned(), Some("2".to_owned()), 2),
                (73, 400, "d".to_owned(), Some("4".to_owned()), 2),
            ];
            assert_eq!(keys(&new), expected, "{codec}");
            let (was, is) = (BatchHeader::read(&old).unwrap(), BatchHeader::read(&new).unwrap());
            let same = BatchHeader {
                batch_length: is.batch_length,
                crc: is.crc,
                base_timestamp: 200,
                max_timestamp: 400,
                record_count: 2,
                ..was
            };
            assert_eq!(is, same, "{codec}");
            assert!(batch::crc_ok(&new));
            assert_eq!(run(&new, &RULES, "bd"), Retained::Whole, "a second time changes nothing");
        }
    }

    #[test]
    fn first_kept_tombstone_sets_the_horizon_and_goes_when_it_has_passed() {
        for codec in Compression::ALL {
            let old = batch(codec);
            assert_eq!(run(&old, &Rules { delete_retention_ms: None, ..RULES }, "abcde"), Retained::Whole);
            // Nothing goes, and yet the batch is written anew.
            let first = rewritten(run(&old, &RULES, "abcde"));
            assert_eq!(keys(&first), keys(&old), "{codec}: timestamps stand relative to the horizon");
            let header = BatchHeader::read(&first).unwrap();
            assert_eq!((header.delete_horizon_ms(), header.max_timestamp), (Some(6_000), 500));
            // A pass that has not learned it leaves the horizon, and one that has raises it.
            let before = Rules { now_ms: 5_999, delete_retention_ms: None, ..RULES };
            assert_eq!(run(&first, &before, "abcde"), Retained::Whole);
            let again = rewritten(run(&first, &Rules { now_ms: 5_500, ..RULES }, "abcde"));
            assert_eq!(
                (BatchHeader::read(&again).unwrap().delete_horizon_ms(), keys(&again)),
                (Some(6_500), keys(&old))
            );
            assert_eq!(run(&again, &RULES, "abcde"), Retained::Whole, "never lowers it");
            let due = Rules { now_ms: 6_000, delete_retention_ms: None, ..RULES };
            assert_eq!(run(&first, &Rules { drops_tombstones: false, ..due }, "abcde"), Retained::Whole);
            let second = rewritten(run(&first, &due, "abcde"));
            assert_eq!(keys(&second).iter().map(|k| &k.2[..]).collect::<String>(), "abde");
            assert_eq!(BatchHeader::read(&second).unwrap().delete_horizon_ms(), Some(6_000));
            assert_eq!(run(&first, &due, "c"), Retained::Nothing);
        }
    }

    #[test]
    fn header_alone_keeps_what_the_producer_is_known_by() {
        let old = batch(Compression::Zstd);
        assert_eq!(run(&old, &RULES, ""), Retained::Nothing);
        let rules = Rules { keeps_header: true, ..RULES };
        let empty = rewritten(run(&old, &rules, ""));
        assert_eq!((empty.len(), keys(&empty)), (HEADER_LEN, Vec::new()));
        assert!(batch::crc_ok(&empty));
        let (was, is) = (BatchHeader::read(&old).unwrap(), BatchHeader::read(&empty).unwrap());
        let same = BatchHeader {
            batch_length: 49,
            crc: is.crc,
            base_timestamp: -1,
            record_count: 0,
            attributes: 0,
            ..was
        };
        assert_eq!(is, same);
        assert_eq!(run(&empty, &rules, ""), Retained::Whole);
        assert_eq!(run(&empty, &RULES, ""), Retained::Nothing, "the producer has gone on, or is forgotten");
    }

    #[test]
    fn log_append_time_stays_that_of_the_append() {
        let mut old = BytesMut::from(&batch(Compression::Gzip)[..]);
        let mut header = BatchHeader::read(&old).unwrap();
        header.attributes |= 1 << 3;
        header.max_timestamp = 777;
        header.write(&mut old);
        batch::seal(&mut old);
        let new = rewritten(run(&old.freeze(), &RULES, "ac"));
        assert_eq!(keys(&new).iter().map(|k| k.1).collect::<Vec<_>>(), [777, 777]);
        let header = BatchHeader::read(&new).unwrap();
        assert_eq!((header.max_timestamp, header.base_timestamp), (777, 6_000));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_control_batches_stay() {
        let mut bytes = BytesMut::from(&batch(Compression::None)[..]);
        assert!(retain(&bytes.clone().split_to(60).freeze(), &RULES, &mut |_, _| true).is_err());
        bytes[HEADER_LEN] ^= 0x40;
        assert!(retain(&bytes.clone().freeze(), &RULES, &mut |_, _| true).is_err(), "its CRC is wrong");
        batch::seal(&mut bytes);
        assert!(
            retain(&bytes.clone().freeze(), &RULES, &mut |_, _| true).is_err(),
            "its records are no records"
        );
        let small = Rules { limit: 10, ..RULES };
        assert!(
            retain(&batch(Compression::Lz4), &small, &mut |_, _| true).is_err(),
            "more than may be unpacked"
        );
        for bit in [1 << 4, 1 << 5] {
            let mut header = BatchHeader::read(&bytes).unwrap();
            header.attributes |= bit;
            header.write(&mut bytes);
            batch::seal(&mut bytes);
            assert_eq!(retain(&bytes.clone().freeze(), &RULES, &mut |_, _| false).unwrap(), Retained::Whole);
        }
    }
}
