//! Record batches v2 (KIP-98) from the client's side: building them from records, taking them apart.
//!
//! Headers keep their order and duplicates, keys and values may be null. Not here: the broker's checks
//! (`wire::batch`). Called by `producer`, `consumer` and the bench. Invariants: what is decoded has passed its
//! CRC-32C; a decoded uncompressed record shares memory with the response it came in.

use super::compression::{self, Codec};
use super::error::{Error, Result};
use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

/// Bytes of the fixed batch header.
pub const HEADER_LEN: usize = 61;
/// Most bytes the records of one batch may decompress to.
const MAX_PLAIN: usize = 256 << 20;
/// Header bytes before what `batch_length` counts.
const PREFIX: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const PRODUCER_AT: usize = 43;

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
pub struct BatchBuilder {
    /// Room for the header, then the encoded records.
    buffer: BytesMut,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::with_capacity(1024)
    }
}

impl BatchBuilder {
    /// A builder that expects about this many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(HEADER_LEN + bytes);
        buffer.put_bytes(0, HEADER_LEN);
        Self { buffer, count: 0, base_timestamp: 0, max_timestamp: 0 }
    }

    /// Adds a record; `now` is its timestamp if it has none. Returns its place in the batch.
    pub fn push(&mut self, record: &Record, now: i64) -> i32 {
        let timestamp = record.timestamp.unwrap_or(now);
        if self.count == 0 {
            (self.base_timestamp, self.max_timestamp) = (timestamp, timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let delta = timestamp.wrapping_sub(self.base_timestamp);
        let place = self.count;
        let body = 1 + varint_len(delta) + varint_len(place.into()) + record_payload_len(record);
        self.buffer.reserve(body + 10);
        let out = &mut self.buffer;
        put_varint(out, body as i64);
        out.put_i8(0);
        put_varint(out, delta);
        put_varint(out, place.into());
        put_bytes(out, record.key.as_deref());
        put_bytes(out, record.value.as_deref());
        put_varint(out, record.headers.len() as i64);
        for header in &record.headers {
            put_bytes(out, Some(&header.key));
            put_bytes(out, header.value.as_deref());
        }
        self.count += 1;
        place
    }

    /// Bytes of the batch so far, uncompressed.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records in it.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The finished batch.
    pub fn finish(self, codec: Codec, stamp: ProducerStamp) -> Result<BytesMut> {
        let mut batch = if codec == Codec::None {
            self.buffer
        } else {
            let mut packed = Vec::with_capacity(HEADER_LEN + self.buffer.len() / 2);
            packed.resize(HEADER_LEN, 0);
            compression::compress(codec, &self.buffer[HEADER_LEN..], &mut packed)?;
            BytesMut::from(Bytes::from(packed))
        };
        let length = i32::try_from(batch.len() - PREFIX)
            .map_err(|_| Error::Invalid(format!("a batch of {} bytes is too large", batch.len())))?;
        let mut header = &mut batch[..HEADER_LEN];
        header.put_i64(0);
        header.put_i32(length);
        header.put_i32(-1);
        header.put_i8(2);
        header.put_u32(0);
        header.put_i16(codec as i16);
        header.put_i32(self.count - 1);
        header.put_i64(self.base_timestamp);
        header.put_i64(self.max_timestamp);
        header.put_bytes(0, 14);
        header.put_i32(self.count);
        set_producer(&mut batch, stamp);
        Ok(batch)
    }
}

/// Writes producer id, epoch and sequence into a finished batch and renews its CRC-32C.
pub fn set_producer(batch: &mut [u8], stamp: ProducerStamp) {
    let mut at = &mut batch[PRODUCER_AT..];
    at.put_i64(stamp.id);
    at.put_i16(stamp.epoch);
    at.put_i32(stamp.sequence);
    let crc = crc32c(&batch[CRC_FROM..]);
    batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

fn crc32c(data: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// Header of a batch, as far as a reader needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes of the whole batch.
    pub total_len: usize,
    /// Leader epoch it was written in.
    pub leader_epoch: i32,
    /// Codec, timestamp type, control and transaction bits.
    pub attributes: i16,
    /// Offset of the last record, relative.
    pub last_offset_delta: i32,
    /// Timestamp the deltas count from.
    pub base_timestamp: i64,
    /// Largest timestamp; that of every record under LogAppendTime.
    pub max_timestamp: i64,
    /// Producer of the batch.
    pub producer: ProducerStamp,
    /// Records in it.
    pub count: i32,
}

impl BatchInfo {
    /// Offset after the batch.
    pub fn next_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    /// Transaction markers and the like; never shown to users.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Whether the broker's clock made the timestamps.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 8 != 0
    }

    /// Reads the header at the start of `bytes`. None if the batch is not there in full: brokers may cut the
    /// last batch of an answer short.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes.len() < HEADER_LEN {
            return Ok(None);
        }
        let length = i32_at(bytes, 8);
        let magic = bytes[16];
        if magic != 2 || (length as usize) < HEADER_LEN - PREFIX || length < 0 {
            return Err(Error::Records(format!("magic {magic}, length {length}")));
        }
        let total_len = PREFIX + length as usize;
        if bytes.len() < total_len {
            return Ok(None);
        }
        Ok(Some(Self {
            base_offset: i64_at(bytes, 0),
            total_len,
            leader_epoch: i32_at(bytes, 12),
            attributes: i16_at(bytes, 21),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: i64_at(bytes, 27),
            max_timestamp: i64_at(bytes, 35),
            producer: ProducerStamp {
                id: i64_at(bytes, 43),
                epoch: i16_at(bytes, 51),
                sequence: i32_at(bytes, 53),
            },
            count: i32_at(bytes, 57),
        }))
    }
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

/// Splits the first whole batch off `bytes`, checks it, and decodes its records. None when no whole batch is left.
pub fn next_batch(bytes: &mut Bytes) -> Result<Option<(BatchInfo, Vec<Positioned>)>> {
    let Some(info) = BatchInfo::read(bytes)? else { return Ok(None) };
    let batch = bytes.split_to(info.total_len);
    let stored = u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]]);
    if crc32c(&batch[CRC_FROM..]) != stored {
        return Err(Error::Records(format!(
            "CRC-32C of the batch at offset {} does not match",
            info.base_offset
        )));
    }
    if info.is_control() {
        return Ok(Some((info, Vec::new())));
    }
    let body = batch.slice(HEADER_LEN..);
    let codec = Codec::from_attributes(info.attributes)?;
    let body = match codec {
        Codec::None => body,
        codec => Bytes::from(compression::decompress(codec, &body, MAX_PLAIN)?),
    };
    Ok(Some((info, decode_records(&info, &body)?)))
}

fn decode_records(info: &BatchInfo, body: &Bytes) -> Result<Vec<Positioned>> {
    // A record takes at least 7 bytes: the count is not trusted beyond what can be there.
    let mut records = Vec::with_capacity((info.count.max(0) as usize).min(body.len() / 7 + 1));
    let mut reader = Reader { bytes: body, at: 0 };
    for _ in 0..info.count {
        let length = reader.length()?.ok_or_else(|| bad("null record"))?;
        let end = reader.at + length;
        reader.skip(1)?;
        let timestamp_delta = reader.varint()?;
        let offset_delta = reader.varint()?;
        let key = reader.bytes()?;
        let value = reader.bytes()?;
        let count = reader.varint()?;
        if count < 0 || count as u64 > (body.len() - reader.at) as u64 {
            return Err(bad("header count"));
        }
        let mut headers = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let key = reader.bytes()?.ok_or_else(|| bad("null header key"))?;
            headers.push(Header { key, value: reader.bytes()? });
        }
        if reader.at != end {
            return Err(bad("record length does not match its fields"));
        }
        let timestamp = match info.is_log_append_time() {
            true => info.max_timestamp,
            false => info.base_timestamp.wrapping_add(timestamp_delta),
        };
        records.push(Positioned {
            offset: info.base_offset.wrapping_add(offset_delta),
            timestamp,
            record: Record { timestamp: Some(timestamp), key, value, headers },
        });
    }
    if reader.at == body.len() { Ok(records) } else { Err(bad("bytes after the last record")) }
}

fn bad(what: &str) -> Error {
    Error::Records(what.into())
}

/// Cursor over the records; slices share the buffer.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, n: usize) -> Result<()> {
        if self.bytes.len() - self.at < n {
            return Err(bad("short record"));
        }
        self.at += n;
        Ok(())
    }

    fn varint(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| bad("short varint"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(bad("varint of more than ten bytes"))
    }

    /// A length that fits in what is left; None for -1.
    fn length(&mut self) -> Result<Option<usize>> {
        match self.varint()? {
            -1 => Ok(None),
            n if n >= 0 && n as u64 <= (self.bytes.len() - self.at) as u64 => Ok(Some(n as usize)),
            _ => Err(bad("length beyond the batch")),
        }
    }

    fn bytes(&mut self) -> Result<Option<Bytes>> {
        let Some(length) = self.length()? else { return Ok(None) };
        let slice = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(Some(slice))
    }
}

fn i16_at(b: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([b[at], b[at + 1]])
}
fn i32_at(b: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
fn i64_at(b: &[u8], at: usize) -> i64 {
    (i64::from(i32_at(b, at)) << 32) | i64::from(i32_at(b, at + 4) as u32)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}
fn varint_len(value: i64) -> usize {
    (70 - (zigzag(value) | 1).leading_zeros() as usize) / 7
}
fn put_varint(out: &mut BytesMut, value: i64) {
    let mut v = zigzag(value);
    while v >= 0x80 {
        out.put_u8(v as u8 | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
}
fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}
fn bytes_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |b| varint_len(b.len() as i64) + b.len())
}
fn record_payload_len(record: &Record) -> usize {
    let headers: usize =
        record.headers.iter().map(|h| bytes_len(Some(&h.key)) + bytes_len(h.value.as_deref())).sum();
    bytes_len(record.key.as_deref())
        + bytes_len(record.value.as_deref())
        + varint_len(record.headers.len() as i64)
        + headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn build(records: &[Record], codec: Codec, stamp: ProducerStamp) -> BytesMut {
        let mut builder = BatchBuilder::default();
        for record in records {
            builder.push(record, 42);
        }
        builder.finish(codec, stamp).unwrap()
    }

    #[test]
    fn batch_every_codec_round_trips_headers_nulls_and_timestamps() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let stamp = ProducerStamp { id: 9, epoch: 1, sequence: 77 };
            let mut bytes = build(&sample(), codec, stamp).freeze();
            let (info, records) = next_batch(&mut bytes).unwrap().unwrap();
            assert!(bytes.is_empty());
            assert_eq!((info.count, info.last_offset_delta, info.next_offset()), (3, 2, 3));
            assert_eq!(info.producer, stamp);
            assert_eq!(info.max_timestamp, 1_700_000_000_000);
            let mut expected = sample();
            expected[2].timestamp = Some(42);
            assert_eq!(records.into_iter().map(|r| r.record).collect::<Vec<_>>(), expected, "{codec}");
        }
    }

    /// The same bytes must be readable by the codec crate's decoder, which other people's brokers resemble.
    #[test]
    fn batch_foreign_decoder_reads_it() {
        let mut bytes = build(&sample(), Codec::None, ProducerStamp::default()).freeze();
        let set = kafka_protocol::records::RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert_eq!(set.records.len(), 3);
        assert_eq!(set.records[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(set.records[1].value, None);
        assert_eq!(set.records[1].timestamp, 1_699_999_999_000);
    }

    #[test]
    fn batch_flipped_byte_is_detected() {
        let good = build(&sample(), Codec::None, ProducerStamp::default());
        for at in CRC_FROM..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(next_batch(&mut bytes.freeze()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn batch_cut_short_is_no_batch_yet() {
        let good = build(&sample(), Codec::None, ProducerStamp::default()).freeze();
        for len in [0, 5, 60, good.len() - 1] {
            assert_eq!(next_batch(&mut good.slice(..len)).unwrap(), None);
        }
    }

    #[test]
    fn set_producer_changes_stamp_and_keeps_crc_valid() {
        let mut batch = build(&sample(), Codec::Lz4, ProducerStamp::default());
        let stamp = ProducerStamp { id: 1 << 40, epoch: 3, sequence: i32::MAX };
        set_producer(&mut batch, stamp);
        let (info, _) = next_batch(&mut batch.freeze()).unwrap().unwrap();
        assert_eq!(info.producer, stamp);
    }

    proptest! {
        #[test]
        fn varint_any_value_round_trips(value: i64) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let bytes = out.freeze();
            prop_assert_eq!(Reader { bytes: &bytes, at: 0 }.varint().unwrap(), value);
        }

        #[test]
        fn decode_random_bytes_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 61..300), count in -3i32..2000) {
            let length = (bytes.len() - PREFIX) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[16] = 2;
            bytes[21..23].copy_from_slice(&0i16.to_be_bytes());
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            set_producer(&mut bytes, ProducerStamp::default());
            let _ = next_batch(&mut Bytes::from(bytes));
        }
    }
}
