//! Record batch v2 (KIP-98): header view, validation, patching.
//!
//! Not the records inside (`record`) and no compression. Called by the Produce handler ([`validate`]), by the engine that
//! owns a partition ([`assign`]), and by `segment` and `client` on what they read ([`BatchHeader::read`], [`crc_ok`]).
//!
//! ```text
//! base offset 8 | length 4 | leader epoch 4 | magic 1 | CRC 4 | attributes 2 | last offset delta 4 | base timestamp 8 |
//! max timestamp 8 | producer id 8 | producer epoch 2 | base sequence 4 | record count 4 | records
//! ```
//! Invariants:
//! - The CRC-32C covers byte 21 (attributes) to the end. Base offset and leader epoch lie outside it and are patched
//!   freely; timestamp type and max timestamp lie inside it.
//! - A batch that [`validate`] passes is consistent with itself and goes into the log byte for byte, except those fields.
//! - Nothing is written to the batch unless every check has passed.
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 61;
/// Base offset and length: the bytes that the length field does not count.
pub const LOG_OVERHEAD: usize = 12;
/// Highest codec id in use (zstd).
const LAST_CODEC: u8 = 4;
/// First Produce version whose clients and brokers agree on zstd (KIP-110).
const ZSTD_PRODUCE_VERSION: i16 = 7;
/// Smallest record: length, attributes, two deltas, null key, null value, no headers, one byte each.
const MIN_RECORD_LEN: usize = 7;
/// A timestamp the client did not set.
const NO_TIMESTAMP: i64 = -1;

const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
/// Where the part of the CRC ends that LogAppendTime rewrites.
const AFTER_MAX_TIMESTAMP: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
pub(super) const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// Fields of a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BatchHeader {
    /// Offset of the first record; 0 as produced.
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    /// Raft term of the entry that holds the batch.
    pub partition_leader_epoch: i32,
    /// Format version, 2.
    pub magic: i8,
    /// CRC-32C of what follows it.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Offset of the last record less the base offset; never changed by compaction.
    pub last_offset_delta: i32,
    /// What the records' timestamps are relative to, ms: that of the first record, or the delete horizon.
    pub base_timestamp: i64,
    /// Largest timestamp of any record, ms.
    pub max_timestamp: i64,
    /// -1 = none.
    pub producer_id: i64,
    /// -1 = none.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 = none.
    pub base_sequence: i32,
    /// Records inside.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header; None if shorter than 61 bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        Some(Self {
            base_offset: i64::from_be_bytes(field(head, 0)),
            batch_length: i32::from_be_bytes(field(head, 8)),
            partition_leader_epoch: i32::from_be_bytes(field(head, LEADER_EPOCH_AT)),
            magic: head[MAGIC_AT] as i8,
            crc: u32::from_be_bytes(field(head, CRC_AT)),
            attributes: i16::from_be_bytes(field(head, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(head, 23)),
            base_timestamp: i64::from_be_bytes(field(head, 27)),
            max_timestamp: i64::from_be_bytes(field(head, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(head, AFTER_MAX_TIMESTAMP)),
            producer_epoch: i16::from_be_bytes(field(head, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(field(head, BASE_SEQUENCE_AT)),
            record_count: i32::from_be_bytes(field(head, RECORD_COUNT_AT)),
        })
    }

    /// Writes the header over the first 61 bytes, CRC included as it stands in `self`.
    ///
    /// # Panics
    /// If `bytes` is shorter than a header.
    pub fn write(&self, bytes: &mut [u8]) {
        let head: &mut [u8; HEADER_LEN] = bytes.first_chunk_mut().expect("callers reserve a whole header");
        head[..8].copy_from_slice(&self.base_offset.to_be_bytes());
        head[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        head[12..16].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        head[16] = self.magic as u8;
        head[17..21].copy_from_slice(&self.crc.to_be_bytes());
        head[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        head[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        head[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        head[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        head[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        head[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        head[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        head[57..61].copy_from_slice(&self.record_count.to_be_bytes());
    }

    /// Compression codec id (bits 0-2 of attributes): 0..=4, or 5..=7 which nobody uses.
    pub fn codec(&self) -> u8 {
        (self.attributes & 0x07) as u8
    }

    /// Whether this is a control batch (transaction markers).
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether every record bears `max_timestamp`, the time of the append.
    pub fn log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME_BIT != 0
    }

    /// When its tombstones may go (ms): written by the compaction that first kept them (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Whether an idempotent producer wrote it.
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Bytes of the whole batch (12 + batch_length); 12 if the length is negative, which no valid batch has.
    pub fn total_len(&self) -> usize {
        LOG_OVERHEAD + usize::try_from(self.batch_length).unwrap_or(0)
    }
}

fn field<const N: usize>(head: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    *head[at..].first_chunk().expect("every field lies inside the header")
}

/// Why a produced batch is refused; each maps to one Kafka error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// CORRUPT_MESSAGE, retriable: lengths or CRC do not fit the bytes.
    #[error("corrupt batch: {0}")]
    Corrupt(&'static str),
    /// INVALID_RECORD: the client built something that no log may hold.
    #[error("invalid record batch: {0}")]
    Invalid(&'static str),
    /// INVALID_RECORD: magic 0 or 1.
    #[error("message format v{0} is not supported, only v2")]
    OldFormat(i8),
    /// UNSUPPORTED_COMPRESSION_TYPE.
    #[error("compression codec {0} is not supported in this version")]
    Codec(u8),
    /// MESSAGE_TOO_LARGE.
    #[error("batch of {size} bytes exceeds max.message.bytes {limit}")]
    TooLarge {
        /// Bytes of the whole batch.
        size: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// INVALID_TIMESTAMP.
    #[error("timestamp out of range: {0}")]
    Timestamp(i64),
}

/// What a topic allows.
#[derive(Clone, Copy, Debug)]
pub struct BatchRules {
    /// `max.message.bytes`, against the whole compressed batch.
    pub max_message_bytes: usize,
    /// Produce request version (zstd needs 7).
    pub produce_version: i16,
    /// `message.timestamp.before.max.ms` against `now_ms`; i64::MAX = no limit.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms` against `now_ms`; i64::MAX = no limit.
    pub after_max_ms: i64,
    /// The broker's clock.
    pub now_ms: i64,
    /// `message.timestamp.type` = LogAppendTime: set bit 3 and max_timestamp to now, recompute the CRC.
    pub log_append_time: bool,
}

/// Checks one produced partition payload (exactly one batch) in place, CRC-32C once; applies LogAppendTime.
/// No decompression, no per-record work.
///
/// # Errors
/// See [`BatchError`]; the batch is unchanged then.
pub fn validate(batch: &mut [u8], rules: &BatchRules) -> Result<BatchHeader, BatchError> {
    let mut header = frame_of(batch, rules.max_message_bytes)?;
    // Under LogAppendTime the CRC is taken in two parts, so that the first can be replaced without a second pass.
    let records_crc = rules.log_append_time.then(|| crc32c(&batch[AFTER_MAX_TIMESTAMP..]));
    let crc = match records_crc {
        Some(records_crc) => joined_crc(batch, records_crc),
        None => crc32c(&batch[ATTRIBUTES_AT..]),
    };
    if crc != header.crc {
        return Err(BatchError::Corrupt("CRC-32C does not match"));
    }
    content(&header, rules.produce_version)?;
    if header.log_append_time() {
        // The type is the topic's to choose, never the producer's (Kafka LogValidator).
        return Err(BatchError::Timestamp(header.max_timestamp));
    }
    match records_crc {
        Some(records_crc) => stamp(batch, &mut header, rules.now_ms, records_crc),
        None => timestamps(&header, rules)?,
    }
    Ok(header)
}

/// That the payload is exactly one batch of the right format and size.
fn frame_of(batch: &[u8], limit: usize) -> Result<BatchHeader, BatchError> {
    if batch.is_empty() {
        return Err(BatchError::Invalid("a partition must hold exactly one batch, not none"));
    }
    // The magic stands at the same place in every format; older ones have shorter headers.
    match batch.get(MAGIC_AT).map(|&magic| magic as i8) {
        None => return Err(BatchError::Corrupt("shorter than a header")),
        Some(2) => {}
        Some(magic @ 0..=1) => return Err(BatchError::OldFormat(magic)),
        Some(_) => return Err(BatchError::Invalid("unknown magic")),
    }
    let header = BatchHeader::read(batch).ok_or(BatchError::Corrupt("shorter than a header"))?;
    let size = header.total_len();
    if size < HEADER_LEN {
        return Err(BatchError::Corrupt("length is below that of a header"));
    }
    if size > batch.len() {
        return Err(BatchError::Corrupt("length is beyond the records of the request"));
    }
    if size < batch.len() {
        return Err(BatchError::Invalid("a partition must hold exactly one batch, not more"));
    }
    if size > limit {
        return Err(BatchError::TooLarge { size, limit });
    }
    Ok(header)
}

/// What the header says of itself (Kafka `LogValidator`, `UnifiedLog.analyzeAndValidateRecords`).
fn content(header: &BatchHeader, produce_version: i16) -> Result<(), BatchError> {
    if header.codec() > LAST_CODEC || (header.codec() == LAST_CODEC && produce_version < ZSTD_PRODUCE_VERSION)
    {
        return Err(BatchError::Codec(header.codec()));
    }
    if header.is_control() {
        return Err(BatchError::Invalid("a client may not write control batches"));
    }
    if header.base_offset != 0 {
        return Err(BatchError::Invalid("base offset of a produced batch must be 0"));
    }
    if header.record_count <= 0 {
        return Err(BatchError::Invalid("no records"));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        return Err(BatchError::Invalid("last offset delta does not match the record count"));
    }
    let payload = header.total_len() - HEADER_LEN;
    if payload == 0 || (header.codec() == 0 && header.record_count as usize > payload / MIN_RECORD_LEN) {
        return Err(BatchError::Invalid("more records than its bytes can hold"));
    }
    if header.has_producer() && header.base_sequence < 0 {
        return Err(BatchError::Invalid("producer id without a sequence"));
    }
    if header.has_producer() && header.producer_epoch < 0 {
        return Err(BatchError::Invalid("producer id without an epoch"));
    }
    if header.is_transactional() && !header.has_producer() {
        return Err(BatchError::Invalid("transactional batch without a producer id"));
    }
    Ok(())
}

/// CreateTime: first and largest timestamp against the topic's window; records in between are not looked at.
fn timestamps(header: &BatchHeader, rules: &BatchRules) -> Result<(), BatchError> {
    for timestamp in [header.base_timestamp, header.max_timestamp] {
        if timestamp == NO_TIMESTAMP {
            continue;
        }
        let behind = rules.now_ms.saturating_sub(timestamp);
        let ahead = timestamp.saturating_sub(rules.now_ms);
        if timestamp < 0 || behind > rules.before_max_ms || ahead > rules.after_max_ms {
            return Err(BatchError::Timestamp(timestamp));
        }
    }
    Ok(())
}

/// LogAppendTime: the type, the time, and the CRC that follows from them.
fn stamp(batch: &mut [u8], header: &mut BatchHeader, now_ms: i64, records_crc: u32) {
    header.attributes |= LOG_APPEND_TIME_BIT;
    header.max_timestamp = now_ms;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&header.attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..AFTER_MAX_TIMESTAMP].copy_from_slice(&now_ms.to_be_bytes());
    header.crc = joined_crc(batch, records_crc);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&header.crc.to_be_bytes());
}

/// Writes base offset and partition leader epoch (outside the CRC).
///
/// # Panics
/// If the batch is shorter than a header; [`validate`] has passed before.
pub fn assign(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH_AT..MAGIC_AT].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Stamps a finished batch with a producer id, epoch and sequence, and renews its CRC: a producer builds batches before it
/// knows in which order they go.
///
/// # Panics
/// If the batch is shorter than a header.
pub fn set_producer(batch: &mut [u8], id: i64, epoch: i16, base_sequence: i32) {
    batch[AFTER_MAX_TIMESTAMP..PRODUCER_EPOCH_AT].copy_from_slice(&id.to_be_bytes());
    batch[PRODUCER_EPOCH_AT..BASE_SEQUENCE_AT].copy_from_slice(&epoch.to_be_bytes());
    batch[BASE_SEQUENCE_AT..RECORD_COUNT_AT].copy_from_slice(&base_sequence.to_be_bytes());
    seal(batch);
}

/// Checks the CRC-32C and lengths of a stored batch (one batch, nothing after it).
pub fn crc_ok(batch: &[u8]) -> bool {
    BatchHeader::read(batch).is_some_and(|header| {
        header.magic == 2
            && header.total_len() == batch.len()
            && header.crc == crc32c(&batch[ATTRIBUTES_AT..])
    })
}

/// Takes the next whole batch off the front of fetched records. `None` at the end, or before a batch that is cut short
/// (a broker may return one). No copy.
///
/// # Errors
/// `Corrupt` or `OldFormat` if what is there is no v2 batch: nothing after it can be read either.
pub fn next_batch(records: &mut Bytes) -> Result<Option<Bytes>, BatchError> {
    if let Some(&magic) = records.get(MAGIC_AT)
        && magic != 2
    {
        return Err(BatchError::OldFormat(magic as i8));
    }
    let Some(header) = BatchHeader::read(records) else { return Ok(None) };
    match header.total_len() {
        length if length < HEADER_LEN => Err(BatchError::Corrupt("length is below that of a header")),
        length if length > records.len() => Ok(None),
        length => Ok(Some(records.split_to(length))),
    }
}

/// Writes the CRC of a batch whose other fields are complete.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC of the batch, given that of everything after max timestamp.
fn joined_crc(batch: &[u8], records_crc: u32) -> u32 {
    let first = crc32c(&batch[ATTRIBUTES_AT..AFTER_MAX_TIMESTAMP]);
    let rest_len = (batch.len() - AFTER_MAX_TIMESTAMP) as u64;
    checksum_combine(CrcAlgorithm::Crc32Iscsi, u64::from(first), u64::from(records_crc), rest_len) as u32
}

#[cfg(test)]
mod tests;
