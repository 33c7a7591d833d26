//! Records inside a batch: an iterator over them, reads by timestamp, and a builder of batches.
//!
//! Not the batch header's rules (`batch`). Called by `client` (both ways), by the broker and `segment` for the one record a
//! timestamp asks for, by `dump`, and where topics are compacted (`retain`). The fetch path never looks at records, and the produce path only
//! for the keys of compacted topics.
//!
//! ```text
//! record:  length varint | attributes 1 | timestamp delta varlong | offset delta varint | key | value | header count | headers
//! key, value:  length varint (-1 = null) | bytes        header:  key length varint | key | value as above
//! ```
//! Invariants:
//! - Order and duplicates of headers are kept; null and empty are different things everywhere.
//! - Reading copies nothing (compressed batches are decompressed once, up to the caller's limit).
use super::batch::{self, BatchHeader, HEADER_LEN};
use super::compression::{Compression, CompressionError};
use super::primitives::{
    put_unsigned_varlong, unsigned_varint, unsigned_varlong, unsigned_varlong_size, unzigzag, zigzag,
};
use bytes::{BufMut, Bytes, BytesMut};

pub mod retain;

/// Why a batch's records could not be read or built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Lengths or CRC of the batch are wrong.
    #[error("corrupt batch at offset {0}")]
    Batch(i64),
    /// The bytes of a record are not what they should be.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// The payload could not be (de)compressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A batch being built has passed 2 GiB.
    #[error("batch of {0} bytes exceeds 2147483647")]
    TooLarge(usize),
}

/// A batch whose records can be read.
#[derive(Clone, Debug)]
pub struct Batch {
    header: BatchHeader,
    payload: Bytes,
}

impl Batch {
    /// Checks length and CRC of one whole batch and decompresses it into at most `limit` bytes. A plain batch is not copied.
    ///
    /// # Errors
    /// `Batch` if length or CRC is wrong, `Compression` for an unknown codec, damaged or too much data.
    pub fn open(batch: &Bytes, limit: usize) -> Result<Self, RecordError> {
        let Some(header) = BatchHeader::read(batch) else { return Err(RecordError::Batch(-1)) };
        if !batch::crc_ok(batch) {
            return Err(RecordError::Batch(header.base_offset));
        }
        let packed = batch.slice(HEADER_LEN..);
        let payload = match Compression::from_id(header.codec())? {
            Compression::None => packed,
            codec => codec.decompress(&packed, limit)?.into(),
        };
        Ok(Self { header, payload })
    }

    /// Its header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The plain records; `Bytes::slice_ref` turns what [`Records`] lends into owned slices of it.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its records, in order.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.header, &self.payload)
    }

    /// Offset and timestamp of the first record at or after `timestamp` (ListOffsets by time).
    ///
    /// # Errors
    /// `Malformed` if a record before it cannot be read.
    pub fn first_at_or_after(&self, timestamp: i64) -> Result<Option<(i64, i64)>, RecordError> {
        for record in self.records() {
            let record = record?;
            if record.timestamp >= timestamp {
                return Ok(Some((record.offset, record.timestamp)));
            }
        }
        Ok(None)
    }

    /// Offset and timestamp of the first record with the largest timestamp (ListOffsets -3).
    ///
    /// # Errors
    /// `Malformed` if a record cannot be read.
    pub fn max_timestamp(&self) -> Result<Option<(i64, i64)>, RecordError> {
        let mut best: Option<(i64, i64)> = None;
        for record in self.records() {
            let record = record?;
            if best.is_none_or(|(_, timestamp)| record.timestamp > timestamp) {
                best = Some((record.offset, record.timestamp));
            }
        }
        Ok(best)
    }
}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Absolute offset.
    pub offset: i64,
    /// Absolute timestamp, ms; the batch's max timestamp under LogAppendTime.
    pub timestamp: i64,
    /// Null and empty differ.
    pub key: Option<&'a [u8]>,
    /// Null is a tombstone in compacted topics.
    pub value: Option<&'a [u8]>,
    /// In order, duplicates kept.
    pub headers: Headers<'a>,
}

/// The headers of a record: iterate for (key, value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        // Every header was read once when the record was, so none fails here.
        header(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Iterator over the records of a plain payload; ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: i32,
    header: BatchHeader,
}

impl<'a> Records<'a> {
    /// Records of a plain (decompressed) payload under this header.
    pub fn new(header: &BatchHeader, payload: &'a [u8]) -> Self {
        Self { rest: payload, left: header.record_count, header: *header }
    }

    fn read(&mut self) -> Result<Record<'a>, RecordError> {
        let length = length(&mut self.rest)?.ok_or(RecordError::Malformed("negative length"))?;
        let mut body = take(&mut self.rest, length)?;
        let rest = &mut body;
        take(rest, 1)?;
        let timestamp_delta = varlong(rest)?;
        let offset_delta = varint(rest)?;
        if !(0..=self.header.last_offset_delta).contains(&offset_delta) {
            return Err(RecordError::Malformed("offset delta is outside the batch"));
        }
        let key = nullable(rest)?;
        let value = nullable(rest)?;
        let count =
            usize::try_from(varint(rest)?).map_err(|_| RecordError::Malformed("negative header count"))?;
        let headers = Headers { rest, count };
        for _ in 0..count {
            header(rest)?;
        }
        if !rest.is_empty() {
            return Err(RecordError::Malformed("bytes after the last header"));
        }
        let timestamp = if self.header.log_append_time() {
            self.header.max_timestamp
        } else {
            self.header.base_timestamp.wrapping_add(timestamp_delta)
        };
        let offset = self.header.base_offset.wrapping_add(i64::from(offset_delta));
        Ok(Record { offset, timestamp, key, value, headers })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            let trailing = !std::mem::take(&mut self.rest).is_empty();
            return trailing.then_some(Err(RecordError::Malformed("bytes after the last record")));
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(record)
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], RecordError> {
    let (taken, after) = rest.split_at_checked(count).ok_or(RecordError::Malformed("ends too early"))?;
    *rest = after;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<i32, RecordError> {
    let (value, used) = unsigned_varint(rest).ok_or(RecordError::Malformed("bad varint"))?;
    *rest = &rest[used..];
    // A zigzag of 32 bits always fits.
    Ok(unzigzag(u64::from(value)) as i32)
}

fn varlong(rest: &mut &[u8]) -> Result<i64, RecordError> {
    let (value, used) = unsigned_varlong(rest).ok_or(RecordError::Malformed("bad varlong"))?;
    *rest = &rest[used..];
    Ok(unzigzag(value))
}

/// A length; `None` = -1.
fn length(rest: &mut &[u8]) -> Result<Option<usize>, RecordError> {
    match varint(rest)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| RecordError::Malformed("negative length")),
    }
}

fn nullable<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    length(rest)?.map(|length| take(rest, length)).transpose()
}

fn header<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), RecordError> {
    let key = nullable(rest)?.ok_or(RecordError::Malformed("header key is null"))?;
    Ok((key, nullable(rest)?))
}

/// A header to be written: key and value.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// Builds one batch: append records, then build.
#[derive(Clone, Debug)]
pub struct RecordBatchBuilder {
    /// Room for the header, then the plain records.
    bytes: BytesMut,
    compression: Compression,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    transactional: bool,
}

impl RecordBatchBuilder {
    /// An empty batch without a producer id.
    pub fn new(compression: Compression) -> Self {
        Self::with_capacity(compression, 1024)
    }

    /// An empty batch with room for so many bytes.
    pub fn with_capacity(compression: Compression, bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(bytes.max(HEADER_LEN));
        buffer.put_bytes(0, HEADER_LEN);
        Self {
            bytes: buffer,
            compression,
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
        }
    }

    /// Chooses the codec at the end, once it is known what is to be sent.
    pub fn compression(&mut self, compression: Compression) -> &mut Self {
        self.compression = compression;
        self
    }

    /// Sets what an idempotent producer stamps on its batches (KIP-98).
    pub fn producer(&mut self, id: i64, epoch: i16, base_sequence: i32) -> &mut Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, base_sequence);
        self
    }

    /// Marks the batch as part of a transaction.
    pub fn transactional(&mut self, transactional: bool) -> &mut Self {
        self.transactional = transactional;
        self
    }

    /// Appends a record. `timestamp` in ms.
    ///
    /// # Panics
    /// If a key, value or header exceeds 2 GiB, or the batch 2^31 records.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> &mut Self {
        if self.count == 0 {
            (self.base_timestamp, self.max_timestamp) = (timestamp, timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        put_record(&mut self.bytes, timestamp_delta, self.count, key, value, headers);
        self.count = self.count.checked_add(1).expect("a batch within 2 GiB holds fewer than 2^31 records");
        self
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes the batch would have with this record, before compression.
    pub fn size_with(
        &self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> usize {
        let base = if self.count == 0 { timestamp } else { self.base_timestamp };
        let size = record_size(timestamp.wrapping_sub(base), self.count, key, value, headers);
        self.bytes.len() + size + varlong_size(size as i64)
    }

    /// The finished batch: base offset 0, leader epoch -1, CRC set. A plain batch is not copied.
    ///
    /// # Errors
    /// `Malformed` if it is empty, `TooLarge` above 2 GiB, `Compression` if the codec fails.
    pub fn build(self) -> Result<BytesMut, RecordError> {
        if self.count == 0 {
            return Err(RecordError::Malformed("no records"));
        }
        let mut batch = match self.compression {
            Compression::None => self.bytes,
            codec => {
                let mut packed = Vec::with_capacity(HEADER_LEN + self.bytes.len() / 2);
                packed.resize(HEADER_LEN, 0);
                codec.compress(&self.bytes[HEADER_LEN..], &mut packed)?;
                // `BytesMut` takes a `Vec` over only by way of `Bytes`, which is unique here and so not copied.
                BytesMut::from(Bytes::from(packed))
            }
        };
        let length = batch.len() - batch::LOG_OVERHEAD;
        let batch_length = i32::try_from(length).map_err(|_| RecordError::TooLarge(length))?;
        let header = BatchHeader {
            base_offset: 0,
            batch_length,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: i16::from(self.compression.id()) | i16::from(self.transactional) << 4,
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        header.write(&mut batch);
        batch::seal(&mut batch);
        Ok(batch)
    }
}

fn put_record(
    out: &mut BytesMut,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) {
    let size = record_size(timestamp_delta, offset_delta, key, value, headers);
    out.reserve(size + 5);
    put_varlong(out, size as i64);
    out.put_u8(0);
    put_varlong(out, timestamp_delta);
    put_varlong(out, i64::from(offset_delta));
    put_nullable(out, key);
    put_nullable(out, value);
    put_varlong(out, headers.len() as i64);
    for (key, value) in headers {
        put_nullable(out, Some(key));
        put_nullable(out, *value);
    }
}

/// Bytes of a record after its own length.
fn record_size(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) -> usize {
    let headers_size: usize =
        headers.iter().map(|(key, value)| nullable_size(Some(key)) + nullable_size(*value)).sum();
    1 + varlong_size(timestamp_delta)
        + varlong_size(i64::from(offset_delta))
        + nullable_size(key)
        + nullable_size(value)
        + varlong_size(headers.len() as i64)
        + headers_size
}

fn varlong_size(value: i64) -> usize {
    unsigned_varlong_size(zigzag(value))
}

fn nullable_size(value: Option<&[u8]>) -> usize {
    value.map_or(1, |bytes| varlong_size(bytes.len() as i64) + bytes.len())
}

fn put_varlong(out: &mut BytesMut, value: i64) {
    put_unsigned_varlong(out, zigzag(value));
}

fn put_nullable(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            let length = i32::try_from(bytes.len()).expect("keys, values and headers are below 2 GiB");
            put_varlong(out, i64::from(length));
            out.put_slice(bytes);
        }
        None => put_varlong(out, -1),
    }
}

#[cfg(test)]
mod tests;
