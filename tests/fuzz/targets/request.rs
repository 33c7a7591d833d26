//! Bodies of every request in every version: the walk over the shape table, then the decoders. What the walk lets pass has to decode, to
//! encode again, and to decode equal.

use super::Input;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};
use kontiki::wire::{bounds, produce, versions};
use std::fmt::{Debug, Write};

pub fn memory(length: usize) -> usize {
    // Decoded twice and Produce once more by hand; the encoded body's buffer, which grows by doubling; copies of the input.
    3 * bounds::memory_limit(length) + 8 * length + (64 << 10)
}

/// The API by its place in the table, the version by its distance from the lowest, the body.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (Some(row), Some(step)) = (input.byte(), input.byte()) else { return };
    let rows = versions::supported();
    let row = rows[usize::from(row) % rows.len()];
    let count = i32::from(row.max) - i32::from(row.served_min) + 1;
    let version = row.served_min + (i32::from(step) % count) as i16;
    if bounds::check(row.key, version, input.0).is_ok() {
        decode(row.key, version, BytesMut::from(input.0));
    }
}

/// Decodes a body that the walk let pass.
pub fn decode(key: i16, version: i16, body: BytesMut) {
    if key == versions::PRODUCE {
        by_hand(version, body.clone());
    }
    let body = body.freeze();
    match key {
        versions::PRODUCE => one::<ProduceRequest>(version, body),
        versions::FETCH => one::<FetchRequest>(version, body),
        versions::LIST_OFFSETS => one::<ListOffsetsRequest>(version, body),
        versions::METADATA => one::<MetadataRequest>(version, body),
        versions::OFFSET_COMMIT => one::<OffsetCommitRequest>(version, body),
        versions::OFFSET_FETCH => one::<OffsetFetchRequest>(version, body),
        versions::FIND_COORDINATOR => one::<FindCoordinatorRequest>(version, body),
        versions::JOIN_GROUP => one::<JoinGroupRequest>(version, body),
        versions::HEARTBEAT => one::<HeartbeatRequest>(version, body),
        versions::LEAVE_GROUP => one::<LeaveGroupRequest>(version, body),
        versions::SYNC_GROUP => one::<SyncGroupRequest>(version, body),
        versions::DESCRIBE_GROUPS => one::<DescribeGroupsRequest>(version, body),
        versions::LIST_GROUPS => one::<ListGroupsRequest>(version, body),
        versions::API_VERSIONS => one::<ApiVersionsRequest>(version, body),
        versions::CREATE_TOPICS => one::<CreateTopicsRequest>(version, body),
        versions::DELETE_TOPICS => one::<DeleteTopicsRequest>(version, body),
        versions::DELETE_RECORDS => one::<DeleteRecordsRequest>(version, body),
        versions::INIT_PRODUCER_ID => one::<InitProducerIdRequest>(version, body),
        versions::OFFSET_FOR_LEADER_EPOCH => one::<OffsetForLeaderEpochRequest>(version, body),
        versions::DESCRIBE_CONFIGS => one::<DescribeConfigsRequest>(version, body),
        versions::DESCRIBE_LOG_DIRS => one::<DescribeLogDirsRequest>(version, body),
        versions::CREATE_PARTITIONS => one::<CreatePartitionsRequest>(version, body),
        versions::DELETE_GROUPS => one::<DeleteGroupsRequest>(version, body),
        versions::ELECT_LEADERS => one::<ElectLeadersRequest>(version, body),
        versions::INCREMENTAL_ALTER_CONFIGS => one::<IncrementalAlterConfigsRequest>(version, body),
        versions::ALTER_PARTITION_REASSIGNMENTS => one::<AlterPartitionReassignmentsRequest>(version, body),
        versions::LIST_PARTITION_REASSIGNMENTS => one::<ListPartitionReassignmentsRequest>(version, body),
        versions::OFFSET_DELETE => one::<OffsetDeleteRequest>(version, body),
        versions::DESCRIBE_QUORUM => one::<DescribeQuorumRequest>(version, body),
        versions::DESCRIBE_CLUSTER => one::<DescribeClusterRequest>(version, body),
        versions::UNREGISTER_BROKER => one::<UnregisterBrokerRequest>(version, body),
        versions::ALTER_CONFIGS => one::<AlterConfigsRequest>(version, body),
        versions::DESCRIBE_CLIENT_QUOTAS => one::<DescribeClientQuotasRequest>(version, body),
        versions::UPDATE_FEATURES => one::<UpdateFeaturesRequest>(version, body),
        versions::LIST_CONFIG_RESOURCES => one::<ListConfigResourcesRequest>(version, body),
        versions::DESCRIBE_TOPIC_PARTITIONS => one::<DescribeTopicPartitionsRequest>(version, body),
        _ => panic!("key {key} is served, but this target does not know it"),
    }
}

fn one<T: Decodable + Encodable + PartialEq + Debug>(version: i16, mut body: Bytes) {
    let request = T::decode(&mut body, version).unwrap_or_else(|e| panic!("passed the walk, but: {e}"));
    let mut again = BytesMut::new();
    request
        .encode(&mut again, version)
        .unwrap_or_else(|e| panic!("decoded, but does not encode: {e}: {request:?}"));
    let mut again = again.freeze();
    let second = T::decode(&mut again, version);
    let is_same = second.as_ref().is_ok_and(|second| *second == request && again.is_empty());
    assert!(
        is_same || has_negative_tag(&request),
        "encoded again it decodes otherwise: {request:?}, {second:?}"
    );
}

/// Whether an unknown tag is beyond 2^31. The codec reads it as a negative number and, on writing, counts it but leaves it out. Requests are
/// only read by the product, so that is no matter to it.
fn has_negative_tag(request: &impl Debug) -> bool {
    let mut found = Search { last: [0; NEGATIVE_TAG.len()], is_found: false };
    write!(found, "{request:?}").is_ok() && found.is_found
}

/// As maps of unknown tagged fields are shown, the smallest tag first.
const NEGATIVE_TAG: &[u8] = b"unknown_tagged_fields: {-";

/// Looks for it in text as it is written, without keeping the text.
struct Search {
    last: [u8; NEGATIVE_TAG.len()],
    is_found: bool,
}

impl Write for Search {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for &byte in text.as_bytes() {
            self.last.rotate_left(1);
            self.last[NEGATIVE_TAG.len() - 1] = byte;
            self.is_found |= self.last == NEGATIVE_TAG;
        }
        Ok(())
    }
}

/// The hand-written decoder of Produce says what the codec says.
fn by_hand(version: i16, body: BytesMut) {
    let expected = ProduceRequest::decode(&mut body.clone().freeze(), version).expect("passed the walk");
    let request = produce::decode(body, version).unwrap_or_else(|e| panic!("passed the walk, but: {e}"));
    let transactional_id = expected.transactional_id.as_ref().map(|id| id.as_str());
    assert_eq!(request.transactional_id.as_deref(), transactional_id);
    assert_eq!((request.acks, request.timeout_ms), (expected.acks, expected.timeout_ms));
    assert_eq!(request.topics.len(), expected.topic_data.len());
    for (topic, expected) in request.topics.iter().zip(&expected.topic_data) {
        assert_eq!((topic.name.as_str(), topic.topic_id), (expected.name.as_str(), expected.topic_id));
        assert_eq!(topic.partitions.len(), expected.partition_data.len());
        for (partition, expected) in topic.partitions.iter().zip(&expected.partition_data) {
            assert_eq!(partition.index, expected.index);
            assert_eq!(partition.records.as_deref(), expected.records.as_deref());
        }
    }
}
