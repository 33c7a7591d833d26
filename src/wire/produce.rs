//! Produce without copies: the request is taken apart in place. (contract stub)
use super::frame::FrameError;
use bytes::{Bytes, BytesMut};
/// A decoded Produce request (v3-13).
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ProduceRequest {
    pub transactional_id: Option<String>,
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<ProduceTopic>,
}
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ProduceTopic {
    /// Empty from v13 on.
    pub name: String,
    /// Zero before v13.
    pub topic_id: uuid::Uuid,
    pub partitions: Vec<ProducePartition>,
}
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ProducePartition {
    pub index: i32,
    /// The records: disjoint mutable piece of the frame's buffer.
    pub records: Option<BytesMut>,
}
/// Takes a request body apart.
pub fn decode(_body: BytesMut, _version: i16) -> Result<ProduceRequest, FrameError> {
    unimplemented!()
}

/// A Produce response.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ProduceResponse {
    pub topics: Vec<ProduceTopicResponse>,
    pub throttle_ms: i32,
    /// KIP-951 (v10+): (node id, host, port, rack) of leaders named in the partitions.
    pub endpoints: Vec<(i32, String, i32, Option<String>)>,
}
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ProduceTopicResponse {
    pub name: String,
    pub topic_id: uuid::Uuid,
    pub partitions: Vec<ProducePartitionResponse>,
}
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)]
pub struct ProducePartitionResponse {
    pub index: i32,
    pub error_code: i16,
    pub base_offset: i64,
    pub log_append_time: i64,
    pub log_start_offset: i64,
    pub error_message: Option<String>,
    /// KIP-951 (v10+): (leader id, epoch).
    pub current_leader: Option<(i32, i32)>,
}
/// Whole response frame with length prefix and header.
pub fn encode(_response: &ProduceResponse, _version: i16, _correlation_id: i32) -> Bytes {
    unimplemented!()
}
