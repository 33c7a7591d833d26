//! Record batch v2 (KIP-98): header view, validation, patching. (contract stub)
/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 61;

/// Fields of a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BatchHeader {
    pub base_offset: i64,
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}
impl BatchHeader {
    /// Reads the header; None if shorter than 61 bytes.
    pub fn read(_bytes: &[u8]) -> Option<Self> {
        unimplemented!()
    }
    /// Compression codec id 0..=4 (bits 0-2 of attributes).
    pub fn codec(&self) -> u8 {
        unimplemented!()
    }
    pub fn is_control(&self) -> bool {
        unimplemented!()
    }
    pub fn is_transactional(&self) -> bool {
        unimplemented!()
    }
    pub fn log_append_time(&self) -> bool {
        unimplemented!()
    }
    /// Bytes of the whole batch (12 + batch_length).
    pub fn total_len(&self) -> usize {
        unimplemented!()
    }
}

/// Why a produced batch is refused; each maps to one Kafka error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum BatchError {
    #[error("corrupt batch: {0}")]
    Corrupt(&'static str),
    #[error("invalid record batch: {0}")]
    Invalid(&'static str),
    #[error("message format v{0} is not supported, only v2")]
    OldFormat(i8),
    #[error("compression codec {0} is not supported in this version")]
    Codec(u8),
    #[error("batch of {size} bytes exceeds max.message.bytes {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("timestamp out of range: {0}")]
    Timestamp(i64),
}

/// What a topic allows.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct BatchRules {
    pub max_message_bytes: usize,
    /// Produce request version (zstd needs 7).
    pub produce_version: i16,
    /// message.timestamp.before.max.ms / after.max.ms against `now_ms`; i64::MAX = no limit.
    pub before_max_ms: i64,
    pub after_max_ms: i64,
    pub now_ms: i64,
    /// message.timestamp.type = LogAppendTime: set bit 3 and max_timestamp to now, recompute the CRC.
    pub log_append_time: bool,
}
/// Checks one produced partition payload (exactly one batch) in place, CRC-32C once; applies LogAppendTime.
/// No decompression, no per-record work.
pub fn validate(_batch: &mut [u8], _rules: &BatchRules) -> Result<BatchHeader, BatchError> {
    unimplemented!()
}
/// Writes base offset and partition leader epoch (outside the CRC).
pub fn assign(_batch: &mut [u8], _base_offset: i64, _leader_epoch: i32) {
    unimplemented!()
}
/// Checks the CRC-32C and lengths of a stored batch.
pub fn crc_ok(_batch: &[u8]) -> bool {
    unimplemented!()
}
