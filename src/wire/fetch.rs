//! Fetch responses without copies: header bytes and record slices, for vectored writes. (contract stub)
use bytes::Bytes;
use uuid::Uuid;
/// A Fetch response (v4-18; session id always 0).
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct FetchResponse {
    pub error_code: i16,
    pub throttle_ms: i32,
    pub topics: Vec<FetchTopic>,
    /// KIP-951 (v16+).
    pub endpoints: Vec<(i32, String, i32, Option<String>)>,
}
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct FetchTopic {
    pub name: String,
    pub topic_id: Uuid,
    pub partitions: Vec<FetchPartition>,
}
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct FetchPartition {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// None for read_uncommitted.
    pub aborted: Option<Vec<(i64, i64)>>,
    pub preferred_read_replica: i32,
    /// v12+: (epoch, end offset).
    pub diverging_epoch: Option<(i32, i64)>,
    /// v12+: (leader id, epoch).
    pub current_leader: Option<(i32, i32)>,
    /// Whole batches, in order. Empty = length 0, never null.
    pub records: Vec<Bytes>,
}
/// The frame (length prefix, header, body) as slices to write in order; batches are not copied (tiny ones may be).
pub fn encode(_response: FetchResponse, _version: i16, _correlation_id: i32) -> Vec<Bytes> {
    unimplemented!()
}
