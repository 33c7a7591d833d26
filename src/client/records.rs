//! Records as our commands hold them, over `wire`'s record batches v2 (KIP-98).
//!
//! Headers keep their order and duplicates, keys and values may be null. Not here: any byte of the format (`wire::record`,
//! `wire::batch`, `wire::compression`). Called by `producer`, `consumer` and the bench. Invariants: what is decoded has
//! passed its CRC-32C; a decoded record shares memory with the response it came in, or with its decompressed batch.

use super::error::{Error, Result};
use crate::wire::batch::{self, BatchError, BatchHeader};
use crate::wire::compression::{Compression, CompressionError};
use crate::wire::record::{self, RecordBatchBuilder, RecordError};
use bytes::{Bytes, BytesMut};

/// Most bytes the records of one batch may decompress to.
const MAX_PLAIN: usize = 256 << 20;

/// One header of a record. Keys may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name; UTF-8 by convention.
    pub key: Bytes,
    /// Its value; null is not empty.
    pub value: Option<Bytes>,
}

/// A record to produce, or the content of one that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Milliseconds since 1970; None when producing: now.
    pub timestamp: Option<i64>,
    /// Key; decides the partition.
    pub key: Option<Bytes>,
    /// Value; null is a tombstone on compacted topics.
    pub value: Option<Bytes>,
    /// In order.
    pub headers: Vec<Header>,
}

impl Record {
    /// Upper bound of its encoded size.
    pub fn size_hint(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|h| 10 + h.key.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        36 + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Who produced a batch, for deduplication (KIP-98). The default is "nobody".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Producer id.
    pub id: i64,
    /// Producer epoch.
    pub epoch: i16,
    /// Sequence of the batch's first record within its partition.
    pub sequence: i32,
}

impl Default for ProducerStamp {
    fn default() -> Self {
        Self { id: -1, epoch: -1, sequence: -1 }
    }
}

/// Collects records into one batch.
#[derive(Debug)]
pub struct BatchBuilder(RecordBatchBuilder);

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::with_capacity(1024)
    }
}

impl BatchBuilder {
    /// A builder that expects about this many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(RecordBatchBuilder::with_capacity(Compression::None, bytes))
    }

    /// Adds a record; `now` is its timestamp if it has none. Returns its place in the batch.
    pub fn push(&mut self, record: &Record, now: i64) -> i32 {
        let headers: Vec<record::Header<'_>> =
            record.headers.iter().map(|h| (&h.key[..], h.value.as_deref())).collect();
        let timestamp = record.timestamp.unwrap_or(now);
        self.0.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        self.0.count() - 1
    }

    /// Bytes of the batch so far, uncompressed.
    pub fn len(&self) -> usize {
        self.0.size_bytes()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records in it.
    pub fn count(&self) -> i32 {
        self.0.count()
    }

    /// The finished batch.
    pub fn finish(mut self, codec: Compression, stamp: ProducerStamp) -> Result<BytesMut> {
        self.0.compression(codec).producer(stamp.id, stamp.epoch, stamp.sequence);
        self.0.build().map_err(|e| Error::Invalid(e.to_string()))
    }
}

/// Writes producer id, epoch and sequence into a finished batch and renews its CRC-32C.
pub fn set_producer(batch: &mut [u8], stamp: ProducerStamp) {
    batch::set_producer(batch, stamp.id, stamp.epoch, stamp.sequence);
}

/// One decoded record with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positioned {
    /// Absolute offset.
    pub offset: i64,
    /// Timestamp as a consumer sees it.
    pub timestamp: i64,
    /// Key, value and headers.
    pub record: Record,
}

/// Splits the first whole batch off `bytes`, checks it, and decodes its records; a control batch has none to show. None
/// when no whole batch is left.
pub fn next_batch(bytes: &mut Bytes) -> Result<Option<(BatchHeader, Vec<Positioned>)>> {
    let Some(batch) = batch::next_batch(bytes)? else { return Ok(None) };
    let batch = record::Batch::open(&batch, MAX_PLAIN)?;
    let header = *batch.header();
    if header.is_control() {
        return Ok(Some((header, Vec::new())));
    }
    let payload = batch.payload();
    let owned = |part: &[u8]| payload.slice_ref(part);
    let records = batch.records().map(|read| {
        let read = read?;
        let headers = read.headers.map(|(key, value)| Header { key: owned(key), value: value.map(owned) });
        let record = Record {
            timestamp: Some(read.timestamp),
            key: read.key.map(owned),
            value: read.value.map(owned),
            headers: headers.collect(),
        };
        Ok(Positioned { offset: read.offset, timestamp: read.timestamp, record })
    });
    Ok(Some((header, records.collect::<Result<_>>()?)))
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Records(error.to_string())
    }
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        Self::Records(error.to_string())
    }
}

impl From<CompressionError> for Error {
    fn from(error: CompressionError) -> Self {
        Self::Records(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(key: &'static str, value: Option<&'static [u8]>) -> Header {
        Header { key: Bytes::from_static(key.as_bytes()), value: value.map(Bytes::from_static) }
    }

    fn sample() -> Vec<Record> {
        vec![
            Record {
                timestamp: Some(1_700_000_000_000),
                key: Some(Bytes::from_static(b"k")),
                value: Some(Bytes::from_static(b"v")),
                headers: vec![header("h", Some(b"1")), header("h", Some(b"")), header("n", None)],
            },
            Record { timestamp: Some(1_699_999_999_000), ..Record::default() },
            Record { value: Some(Bytes::from(vec![0xff; 3000])), ..Record::default() },
        ]
    }

    fn stamp_of(header: &BatchHeader) -> ProducerStamp {
        ProducerStamp { id: header.producer_id, epoch: header.producer_epoch, sequence: header.base_sequence }
    }

    fn build(records: &[Record], codec: Compression, stamp: ProducerStamp) -> BytesMut {
        let mut builder = BatchBuilder::default();
        for record in records {
            builder.push(record, 42);
        }
        builder.finish(codec, stamp).unwrap()
    }

    #[test]
    fn batch_every_codec_round_trips_headers_nulls_and_timestamps() {
        for codec in Compression::ALL {
            let stamp = ProducerStamp { id: 9, epoch: 1, sequence: 77 };
            let mut bytes = build(&sample(), codec, stamp).freeze();
            let (info, records) = next_batch(&mut bytes).unwrap().unwrap();
            assert!(bytes.is_empty());
            assert_eq!((info.record_count, info.last_offset_delta, info.last_offset()), (3, 2, 2));
            assert_eq!(stamp_of(&info), stamp);
            assert_eq!(info.max_timestamp, 1_700_000_000_000);
            let mut expected = sample();
            expected[2].timestamp = Some(42);
            assert_eq!(records.into_iter().map(|r| r.record).collect::<Vec<_>>(), expected, "{codec}");
        }
    }

    /// The same bytes must be readable by the codec crate's decoder, which other people's brokers resemble.
    #[test]
    fn batch_foreign_decoder_reads_it() {
        let mut bytes = build(&sample(), Compression::None, ProducerStamp::default()).freeze();
        let set = kafka_protocol::records::RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert_eq!(set.records.len(), 3);
        assert_eq!(set.records[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(set.records[1].value, None);
        assert_eq!(set.records[1].timestamp, 1_699_999_999_000);
    }

    #[test]
    fn batch_flipped_byte_is_detected() {
        let good = build(&sample(), Compression::None, ProducerStamp::default());
        for at in 21..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(next_batch(&mut bytes.freeze()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn batch_cut_short_is_no_batch_yet() {
        let good = build(&sample(), Compression::None, ProducerStamp::default()).freeze();
        for len in [0, 5, 60, good.len() - 1] {
            assert!(next_batch(&mut good.slice(..len)).unwrap().is_none());
        }
    }

    #[test]
    fn set_producer_changes_stamp_and_keeps_crc_valid() {
        let mut batch = build(&sample(), Compression::Lz4, ProducerStamp::default());
        let stamp = ProducerStamp { id: 1 << 40, epoch: 3, sequence: i32::MAX };
        set_producer(&mut batch, stamp);
        let (info, _) = next_batch(&mut batch.freeze()).unwrap().unwrap();
        assert_eq!(stamp_of(&info), stamp);
    }
}
