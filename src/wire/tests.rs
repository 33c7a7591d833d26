//! Random request bodies of every API and version, encoded by the codec crate, and mutations of them; and the test that
//! sends frames all the way from split to decode.
//!
//! Not a client. Its samples serve the tests of `bounds` and `produce` too. Everything comes from the caller's seed.
mod admin;
mod groups;

use super::bounds;
use super::frame::{self, FrameError};
use super::versions::{self, supported};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

fn text(rng: &mut StdRng) -> StrBytes {
    let length = if rng.random_bool(0.05) { 200 } else { rng.random_range(0..12) };
    StrBytes::from_string((0..length).map(|_| *['a', 'z', '-', 'ä', '9'].choose(rng).unwrap()).collect())
}

fn maybe<T>(rng: &mut StdRng, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    rng.random_bool(0.7).then(|| make(rng))
}

fn several<T>(rng: &mut StdRng, mut make: impl FnMut(&mut StdRng) -> T) -> Vec<T> {
    (0..rng.random_range(0..5)).map(|_| make(rng)).collect()
}

fn topic(rng: &mut StdRng) -> TopicName {
    TopicName(text(rng))
}

fn id(rng: &mut StdRng) -> Uuid {
    Uuid::from_u128(rng.random())
}

fn brokers(rng: &mut StdRng) -> Vec<BrokerId> {
    several(rng, |rng| BrokerId(rng.random()))
}

/// A random body of this API and version.
pub(super) fn body(key: i16, version: i16, rng: &mut StdRng) -> Bytes {
    let mut out = BytesMut::new();
    let result = match key {
        versions::PRODUCE => produce(version, rng).encode(&mut out, version),
        versions::FETCH => fetch(version, rng).encode(&mut out, version),
        versions::LIST_OFFSETS => list_offsets(version, rng).encode(&mut out, version),
        versions::METADATA => metadata(version, rng).encode(&mut out, version),
        versions::OFFSET_COMMIT => groups::commit(version, rng).encode(&mut out, version),
        versions::OFFSET_FETCH => groups::fetch(version, rng).encode(&mut out, version),
        versions::FIND_COORDINATOR => groups::find(version, rng).encode(&mut out, version),
        versions::JOIN_GROUP => groups::join(version, rng).encode(&mut out, version),
        versions::HEARTBEAT => groups::heartbeat(version, rng).encode(&mut out, version),
        versions::LEAVE_GROUP => groups::leave(version, rng).encode(&mut out, version),
        versions::SYNC_GROUP => groups::sync(version, rng).encode(&mut out, version),
        versions::DESCRIBE_GROUPS => groups::describe(version, rng).encode(&mut out, version),
        versions::LIST_GROUPS => groups::list(version, rng).encode(&mut out, version),
        versions::DELETE_GROUPS => groups::delete(rng).encode(&mut out, version),
        versions::OFFSET_DELETE => groups::delete_offsets(rng).encode(&mut out, version),
        versions::API_VERSIONS => api_versions(version, rng).encode(&mut out, version),
        versions::CREATE_TOPICS => create_topics(rng).encode(&mut out, version),
        versions::DELETE_TOPICS => delete_topics(version, rng).encode(&mut out, version),
        versions::DELETE_RECORDS => delete_records(rng).encode(&mut out, version),
        versions::INIT_PRODUCER_ID => init_producer_id(version, rng).encode(&mut out, version),
        versions::OFFSET_FOR_LEADER_EPOCH => epochs(version, rng).encode(&mut out, version),
        versions::DESCRIBE_CONFIGS => describe_configs(version, rng).encode(&mut out, version),
        versions::DESCRIBE_LOG_DIRS => describe_log_dirs(rng).encode(&mut out, version),
        versions::CREATE_PARTITIONS => create_partitions(rng).encode(&mut out, version),
        versions::INCREMENTAL_ALTER_CONFIGS => alter_configs(rng).encode(&mut out, version),
        versions::ELECT_LEADERS => elect_leaders(version, rng).encode(&mut out, version),
        versions::ALTER_PARTITION_REASSIGNMENTS => reassign(version, rng).encode(&mut out, version),
        versions::LIST_PARTITION_REASSIGNMENTS => list_reassignments(rng).encode(&mut out, version),
        versions::DESCRIBE_QUORUM => describe_quorum(rng).encode(&mut out, version),
        versions::DESCRIBE_CLUSTER => describe_cluster(version, rng).encode(&mut out, version),
        versions::ALTER_CONFIGS => admin::alter_configs(rng).encode(&mut out, version),
        versions::DESCRIBE_CLIENT_QUOTAS => admin::describe_quotas(rng).encode(&mut out, version),
        versions::UPDATE_FEATURES => admin::update_features(version, rng).encode(&mut out, version),
        versions::LIST_CONFIG_RESOURCES => admin::list_resources(version, rng).encode(&mut out, version),
        versions::DESCRIBE_TOPIC_PARTITIONS => admin::describe_partitions(rng).encode(&mut out, version),
        versions::UNREGISTER_BROKER => {
            let broker = kafka_protocol::messages::BrokerId(rng.random());
            UnregisterBrokerRequest::default().with_broker_id(broker).encode(&mut out, version)
        }
        _ => panic!("no sample of key {key}"),
    };
    result.unwrap_or_else(|error| panic!("key {key} v{version}: {error}"));
    out.freeze()
}

fn produce(version: i16, rng: &mut StdRng) -> ProduceRequest {
    let partition = |rng: &mut StdRng| {
        let length = rng.random_range(0..300);
        PartitionProduceData::default()
            .with_index(rng.random())
            .with_records(maybe(rng, |rng| (0..length).map(|_| rng.random::<u8>()).collect()))
    };
    let topics = several(rng, |rng| {
        let data = TopicProduceData::default().with_partition_data(several(rng, partition));
        if version >= 13 { data.with_topic_id(id(rng)) } else { data.with_name(topic(rng)) }
    });
    ProduceRequest::default()
        .with_transactional_id(maybe(rng, |rng| TransactionalId(text(rng))))
        .with_acks(rng.random())
        .with_timeout_ms(rng.random())
        .with_topic_data(topics)
}

fn fetch(version: i16, rng: &mut StdRng) -> FetchRequest {
    let partition = |rng: &mut StdRng| {
        let mut p = FetchPartition::default()
            .with_partition(rng.random())
            .with_fetch_offset(rng.random())
            .with_partition_max_bytes(rng.random());
        p.current_leader_epoch = if version >= 9 { rng.random() } else { -1 };
        p.last_fetched_epoch = if version >= 12 { rng.random() } else { -1 };
        p.log_start_offset = if version >= 5 { rng.random() } else { -1 };
        if version >= 17 && rng.random() {
            p.replica_directory_id = id(rng);
        }
        if version >= 18 && rng.random() {
            p.high_watermark = rng.random();
        }
        p
    };
    let topics = several(rng, |rng| {
        let t = FetchTopic::default().with_partitions(several(rng, partition));
        if version >= 13 { t.with_topic_id(id(rng)) } else { t.with_topic(topic(rng)) }
    });
    let mut request = FetchRequest::default()
        .with_max_wait_ms(rng.random())
        .with_min_bytes(rng.random())
        .with_max_bytes(rng.random())
        .with_isolation_level(rng.random())
        .with_topics(topics);
    if version <= 14 {
        request.replica_id = BrokerId(rng.random());
    } else if rng.random() {
        request.replica_state =
            ReplicaState::default().with_replica_id(BrokerId(rng.random())).with_replica_epoch(rng.random());
    }
    if version >= 7 {
        (request.session_id, request.session_epoch) = (rng.random(), rng.random());
        request.forgotten_topics_data = several(rng, |rng| {
            let t = ForgottenTopic::default().with_partitions(several(rng, |rng| rng.random()));
            if version >= 13 { t.with_topic_id(id(rng)) } else { t.with_topic(topic(rng)) }
        });
    }
    if version >= 11 {
        request.rack_id = text(rng);
    }
    if version >= 12 {
        request.cluster_id = maybe(rng, text);
    }
    request
}

fn list_offsets(version: i16, rng: &mut StdRng) -> ListOffsetsRequest {
    let partition = |rng: &mut StdRng| {
        let mut p =
            ListOffsetsPartition::default().with_partition_index(rng.random()).with_timestamp(rng.random());
        p.current_leader_epoch = if version >= 4 { rng.random() } else { -1 };
        p
    };
    let mut request =
        ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(several(rng, |rng| {
            ListOffsetsTopic::default().with_name(topic(rng)).with_partitions(several(rng, partition))
        }));
    request.isolation_level = if version >= 2 { rng.random() } else { 0 };
    request.timeout_ms = if version >= 10 { rng.random() } else { 0 };
    request
}

fn metadata(version: i16, rng: &mut StdRng) -> MetadataRequest {
    let row = |rng: &mut StdRng| {
        let name = if version >= 10 { maybe(rng, topic) } else { Some(topic(rng)) };
        let row = MetadataRequestTopic::default().with_name(name);
        if version >= 10 { row.with_topic_id(id(rng)) } else { row }
    };
    let rows = several(rng, row);
    let mut request = MetadataRequest::default();
    request.topics = if version >= 1 { maybe(rng, |_| rows) } else { Some(rows) };
    request.allow_auto_topic_creation = version < 4 || rng.random();
    request.include_topic_authorized_operations = version >= 8 && rng.random();
    request.include_cluster_authorized_operations = (8..=10).contains(&version) && rng.random();
    request
}

fn api_versions(version: i16, rng: &mut StdRng) -> ApiVersionsRequest {
    let request = ApiVersionsRequest::default();
    if version < 3 {
        return request;
    }
    request.with_client_software_name(text(rng)).with_client_software_version(text(rng))
}

fn create_topics(rng: &mut StdRng) -> CreateTopicsRequest {
    let row = |rng: &mut StdRng| {
        let assignment = |rng: &mut StdRng| {
            CreatableReplicaAssignment::default()
                .with_partition_index(rng.random())
                .with_broker_ids(brokers(rng))
        };
        let config = |rng: &mut StdRng| {
            CreatableTopicConfig::default().with_name(text(rng)).with_value(maybe(rng, text))
        };
        CreatableTopic::default()
            .with_name(topic(rng))
            .with_num_partitions(rng.random())
            .with_replication_factor(rng.random())
            .with_assignments(several(rng, assignment))
            .with_configs(several(rng, config))
    };
    CreateTopicsRequest::default()
        .with_topics(several(rng, row))
        .with_timeout_ms(rng.random())
        .with_validate_only(rng.random())
}

fn delete_topics(version: i16, rng: &mut StdRng) -> DeleteTopicsRequest {
    let request = DeleteTopicsRequest::default().with_timeout_ms(rng.random());
    if version < 6 {
        return request.with_topic_names(several(rng, topic));
    }
    let row =
        |rng: &mut StdRng| DeleteTopicState::default().with_name(maybe(rng, topic)).with_topic_id(id(rng));
    request.with_topics(several(rng, row))
}

fn delete_records(rng: &mut StdRng) -> DeleteRecordsRequest {
    let partition = |rng: &mut StdRng| {
        DeleteRecordsPartition::default().with_partition_index(rng.random()).with_offset(rng.random())
    };
    let row = |rng: &mut StdRng| {
        DeleteRecordsTopic::default().with_name(topic(rng)).with_partitions(several(rng, partition))
    };
    DeleteRecordsRequest::default().with_topics(several(rng, row)).with_timeout_ms(rng.random())
}

fn init_producer_id(version: i16, rng: &mut StdRng) -> InitProducerIdRequest {
    let mut request = InitProducerIdRequest::default()
        .with_transactional_id(maybe(rng, |rng| TransactionalId(text(rng))))
        .with_transaction_timeout_ms(rng.random());
    if version >= 3 {
        (request.producer_id, request.producer_epoch) = (ProducerId(rng.random()), rng.random());
    }
    request
}

fn epochs(version: i16, rng: &mut StdRng) -> OffsetForLeaderEpochRequest {
    let partition = |rng: &mut StdRng| {
        OffsetForLeaderPartition::default()
            .with_partition(rng.random())
            .with_current_leader_epoch(rng.random())
            .with_leader_epoch(rng.random())
    };
    let row = |rng: &mut StdRng| {
        OffsetForLeaderTopic::default().with_topic(topic(rng)).with_partitions(several(rng, partition))
    };
    let replica_id = BrokerId(if version >= 3 { rng.random() } else { -2 });
    OffsetForLeaderEpochRequest::default().with_replica_id(replica_id).with_topics(several(rng, row))
}

fn describe_configs(version: i16, rng: &mut StdRng) -> DescribeConfigsRequest {
    let row = |rng: &mut StdRng| {
        DescribeConfigsResource::default()
            .with_resource_type(rng.random())
            .with_resource_name(text(rng))
            .with_configuration_keys(maybe(rng, |rng| several(rng, text)))
    };
    DescribeConfigsRequest::default()
        .with_resources(several(rng, row))
        .with_include_synonyms(rng.random())
        .with_include_documentation(version >= 3 && rng.random())
}

fn create_partitions(rng: &mut StdRng) -> CreatePartitionsRequest {
    let assignment = |rng: &mut StdRng| CreatePartitionsAssignment::default().with_broker_ids(brokers(rng));
    let row = |rng: &mut StdRng| {
        CreatePartitionsTopic::default()
            .with_name(topic(rng))
            .with_count(rng.random())
            .with_assignments(maybe(rng, |rng| several(rng, assignment)))
    };
    CreatePartitionsRequest::default()
        .with_topics(several(rng, row))
        .with_timeout_ms(rng.random())
        .with_validate_only(rng.random())
}

fn alter_configs(rng: &mut StdRng) -> IncrementalAlterConfigsRequest {
    let config = |rng: &mut StdRng| {
        AlterableConfig::default()
            .with_name(text(rng))
            .with_config_operation(rng.random())
            .with_value(maybe(rng, text))
    };
    let row = |rng: &mut StdRng| {
        AlterConfigsResource::default()
            .with_resource_type(rng.random())
            .with_resource_name(text(rng))
            .with_configs(several(rng, config))
    };
    IncrementalAlterConfigsRequest::default()
        .with_resources(several(rng, row))
        .with_validate_only(rng.random())
}

fn numbers(rng: &mut StdRng) -> Vec<i32> {
    several(rng, |rng| rng.random())
}

fn describe_log_dirs(rng: &mut StdRng) -> DescribeLogDirsRequest {
    let row = |rng: &mut StdRng| {
        describe_log_dirs_request::DescribableLogDirTopic::default()
            .with_topic(topic(rng))
            .with_partitions(numbers(rng))
    };
    DescribeLogDirsRequest::default().with_topics(maybe(rng, |rng| several(rng, row)))
}

fn elect_leaders(version: i16, rng: &mut StdRng) -> ElectLeadersRequest {
    let row = |rng: &mut StdRng| {
        elect_leaders_request::TopicPartitions::default().with_topic(topic(rng)).with_partitions(numbers(rng))
    };
    ElectLeadersRequest::default()
        .with_election_type(if version >= 1 { rng.random() } else { 0 })
        .with_topic_partitions(maybe(rng, |rng| several(rng, row)))
        .with_timeout_ms(rng.random())
}

fn reassign(version: i16, rng: &mut StdRng) -> AlterPartitionReassignmentsRequest {
    let partition = |rng: &mut StdRng| {
        alter_partition_reassignments_request::ReassignablePartition::default()
            .with_partition_index(rng.random())
            .with_replicas(maybe(rng, brokers))
    };
    let row = |rng: &mut StdRng| {
        alter_partition_reassignments_request::ReassignableTopic::default()
            .with_name(topic(rng))
            .with_partitions(several(rng, partition))
    };
    AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(rng.random())
        .with_allow_replication_factor_change(version < 1 || rng.random())
        .with_topics(several(rng, row))
}

fn list_reassignments(rng: &mut StdRng) -> ListPartitionReassignmentsRequest {
    let row = |rng: &mut StdRng| {
        list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
            .with_name(topic(rng))
            .with_partition_indexes(numbers(rng))
    };
    ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(rng.random())
        .with_topics(maybe(rng, |rng| several(rng, row)))
}

fn describe_quorum(rng: &mut StdRng) -> DescribeQuorumRequest {
    let partition = |rng: &mut StdRng| {
        describe_quorum_request::PartitionData::default().with_partition_index(rng.random())
    };
    let topic = |rng: &mut StdRng| {
        describe_quorum_request::TopicData::default()
            .with_topic_name(TopicName(text(rng)))
            .with_partitions(several(rng, partition))
    };
    DescribeQuorumRequest::default().with_topics(several(rng, topic))
}

fn describe_cluster(version: i16, rng: &mut StdRng) -> DescribeClusterRequest {
    let mut request =
        DescribeClusterRequest::default().with_include_cluster_authorized_operations(rng.random());
    request.endpoint_type = if version >= 1 { rng.random() } else { 1 };
    request.include_fenced_brokers = version >= 2 && rng.random();
    request
}

/// Decodes with the codec crate; an error if it fails. What stands after the body is nobody's business.
pub(super) fn decode_all(key: i16, version: i16, body: Bytes) -> Result<(), String> {
    fn one<T: Decodable>(version: i16, mut body: Bytes) -> Result<(), String> {
        T::decode(&mut body, version).map(drop).map_err(|error| error.to_string())
    }
    let decode = match key {
        versions::PRODUCE => one::<ProduceRequest>,
        versions::FETCH => one::<FetchRequest>,
        versions::LIST_OFFSETS => one::<ListOffsetsRequest>,
        versions::METADATA => one::<MetadataRequest>,
        versions::API_VERSIONS => one::<ApiVersionsRequest>,
        versions::CREATE_TOPICS => one::<CreateTopicsRequest>,
        versions::DELETE_TOPICS => one::<DeleteTopicsRequest>,
        versions::DELETE_RECORDS => one::<DeleteRecordsRequest>,
        versions::INIT_PRODUCER_ID => one::<InitProducerIdRequest>,
        versions::OFFSET_FOR_LEADER_EPOCH => one::<OffsetForLeaderEpochRequest>,
        versions::DESCRIBE_CONFIGS => one::<DescribeConfigsRequest>,
        versions::DESCRIBE_LOG_DIRS => one::<DescribeLogDirsRequest>,
        versions::CREATE_PARTITIONS => one::<CreatePartitionsRequest>,
        versions::INCREMENTAL_ALTER_CONFIGS => one::<IncrementalAlterConfigsRequest>,
        versions::ELECT_LEADERS => one::<ElectLeadersRequest>,
        versions::ALTER_PARTITION_REASSIGNMENTS => one::<AlterPartitionReassignmentsRequest>,
        versions::LIST_PARTITION_REASSIGNMENTS => one::<ListPartitionReassignmentsRequest>,
        versions::DESCRIBE_QUORUM => one::<DescribeQuorumRequest>,
        versions::DESCRIBE_CLUSTER => one::<DescribeClusterRequest>,
        versions::UNREGISTER_BROKER => one::<UnregisterBrokerRequest>,
        versions::ALTER_CONFIGS => one::<AlterConfigsRequest>,
        versions::DESCRIBE_CLIENT_QUOTAS => one::<DescribeClientQuotasRequest>,
        versions::UPDATE_FEATURES => one::<UpdateFeaturesRequest>,
        versions::LIST_CONFIG_RESOURCES => one::<ListConfigResourcesRequest>,
        versions::DESCRIBE_TOPIC_PARTITIONS => one::<DescribeTopicPartitionsRequest>,
        versions::OFFSET_COMMIT => one::<OffsetCommitRequest>,
        versions::OFFSET_FETCH => one::<OffsetFetchRequest>,
        versions::FIND_COORDINATOR => one::<FindCoordinatorRequest>,
        versions::JOIN_GROUP => one::<JoinGroupRequest>,
        versions::HEARTBEAT => one::<HeartbeatRequest>,
        versions::LEAVE_GROUP => one::<LeaveGroupRequest>,
        versions::SYNC_GROUP => one::<SyncGroupRequest>,
        versions::DESCRIBE_GROUPS => one::<DescribeGroupsRequest>,
        versions::LIST_GROUPS => one::<ListGroupsRequest>,
        versions::DELETE_GROUPS => one::<DeleteGroupsRequest>,
        versions::OFFSET_DELETE => one::<OffsetDeleteRequest>,
        _ => panic!("no decoder of key {key}"),
    };
    decode(version, body)
}

/// A byte that tends to be a length, a null or a continuation.
pub(super) fn nasty_byte(rng: &mut StdRng) -> u8 {
    match rng.random_range(0..4) {
        0 => *[0, 1, 2, 0x7f, 0x80, 0xff].choose(rng).unwrap(),
        1 => 0,
        2 => rng.random_range(0..16),
        _ => rng.random(),
    }
}

/// Changes a few bytes, and sometimes drops or adds some.
pub(super) fn mutate(bytes: &mut BytesMut, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => {
                let tail = bytes.split_off(at);
                bytes.put_u8(nasty_byte(rng));
                bytes.put_slice(&tail);
            }
            2 => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes[at] = nasty_byte(rng),
        }
    }
}

/// The whole way of a frame as the connection goes it: split, walk, decode.
fn receive(frame: BytesMut) -> Result<(), FrameError> {
    let request = frame::split(frame)?;
    if request.is_unknown_api_versions() {
        return Ok(());
    }
    bounds::check(request.api_key, request.api_version, &request.body)?;
    let (key, version) = (request.api_key, request.api_version);
    if key == versions::PRODUCE {
        super::produce::decode(request.body.clone(), version)
            .unwrap_or_else(|error| panic!("produce v{version} passed the walk but: {error}"));
    }
    decode_all(key, version, request.body.freeze())
        .unwrap_or_else(|error| panic!("key {key} v{version} passed the walk but: {error}"));
    Ok(())
}

#[test]
fn random_and_mutated_frames_never_panic_from_split_to_decode() {
    let mut rng = StdRng::seed_from_u64(51);
    let rows = supported();
    let (mut passed, mut refused) = (0, 0);
    for round in 0..60_000 {
        let mut frame = BytesMut::new();
        if round % 4 == 0 {
            frame.extend((0..rng.random_range(0..80)).map(|_| nasty_byte(&mut rng)));
        } else {
            let row = rows.choose(&mut rng).unwrap();
            let version = rng.random_range(row.served_min..=row.max);
            frame.put_i16(row.key);
            frame.put_i16(version);
            frame.put_i32(rng.random());
            frame.put_slice(&[0, 2, b'i', b'd']);
            if versions::is_flexible(row.key, version) {
                frame.put_u8(0);
            }
            frame.put_slice(&body(row.key, version, &mut rng));
            if round % 4 > 1 {
                mutate(&mut frame, &mut rng);
            }
        }
        match receive(frame) {
            Ok(()) => passed += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(passed > 10_000 && refused > 10_000, "{passed} passed, {refused} refused");
}

/// The corpus of the fuzz target `request`: a body of every version, after the two bytes that choose it. `UPDATE_GOLDEN=1` writes it.
#[test]
fn corpus_of_requests_is_what_the_codec_writes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let mut rng = StdRng::seed_from_u64(6);
    for (at, row) in supported().iter().enumerate() {
        for version in row.served_min..=row.max {
            // Long enough to have elements in its arrays, short enough to look at.
            let bodies = std::iter::repeat_with(|| body(row.key, version, &mut rng)).take(12);
            let longest = bodies.filter(|body| body.len() <= 200).max_by_key(|body| body.len());
            let longest = longest.expect("one of twelve is short");
            let selector = [at as u8, (version - row.served_min) as u8];
            let path = folder.join(format!("{}-v{version}", row.name));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, [&selector[..], &longest].concat()).unwrap();
            }
            let input = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(input[..2], selector, "{}", path.display());
            decode_all(row.key, version, Bytes::from(input[2..].to_vec())).unwrap();
        }
    }
}
