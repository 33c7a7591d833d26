//! The shape of every request body, all versions: a compact table for the walk in `bounds`.
//!
//! Not a codec: field names appear only in comments, values are never kept. Called by `bounds` alone. The order and the
//! version ranges are those of Kafka's message schemas; tests encode every API x version with the codec crate and walk it.
//!
//! Invariants:
//! - `memory` of a struct is the size of the Rust value the codec makes of it, so the walk can bound memory, not counts only.
//! - Nesting is as deep as this table, never as deep as the input says.
mod admin;
mod groups;

use super::versions;
use kafka_protocol::messages as m;
use std::mem::size_of;

/// From this version on a field may be null; this one: never.
pub(super) const NEVER: i16 = i16::MAX;
/// Null in every version.
const ALWAYS: i16 = 0;
/// To the newest version.
const ON: i16 = i16::MAX;

/// What a field is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// That many bytes.
    Fixed(usize),
    /// A string; null from this version.
    Str(i16),
    /// A byte string; null from this version.
    Bytes(i16),
    /// An array of plain elements of so many bytes; null from this version.
    Plain(usize, i16),
    /// An array of strings; null from this version.
    Strs(i16),
    /// An array of structs; null from this version.
    Structs(&'static Shape, i16),
    /// One struct (only as a tagged field).
    Struct(&'static Shape),
    /// A struct or null, in versions that are flexible (KIP-893).
    MaybeStruct(&'static Shape),
}

/// One field and the versions that have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) from: i16,
    pub(super) to: i16,
    pub(super) kind: Kind,
}

/// One tagged field known to us and the first version that has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tagged {
    pub(super) tag: u32,
    pub(super) from: i16,
    pub(super) kind: Kind,
}

/// One struct.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) fields: &'static [Field],
    pub(super) tagged: &'static [Tagged],
    /// Bytes of the decoded value.
    pub(super) memory: usize,
}

const fn all(kind: Kind) -> Field {
    Field { from: 0, to: ON, kind }
}
const fn from(from: i16, kind: Kind) -> Field {
    Field { from, to: ON, kind }
}
const fn within(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, kind }
}
const fn shape(fields: &'static [Field], memory: usize) -> Shape {
    Shape { fields, tagged: &[], memory }
}

const BOOL: Kind = Kind::Fixed(1);
const INT8: Kind = Kind::Fixed(1);
const INT16: Kind = Kind::Fixed(2);
const INT32: Kind = Kind::Fixed(4);
const INT64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const STR: Kind = Kind::Str(NEVER);

/// Body of a request of this key.
pub(super) fn of(api_key: i16) -> Option<&'static Shape> {
    Some(match api_key {
        versions::PRODUCE => &PRODUCE,
        versions::FETCH => &FETCH,
        versions::LIST_OFFSETS => &LIST_OFFSETS,
        versions::METADATA => &METADATA,
        versions::API_VERSIONS => &API_VERSIONS,
        versions::CREATE_TOPICS => &CREATE_TOPICS,
        versions::DELETE_TOPICS => &DELETE_TOPICS,
        versions::DELETE_RECORDS => &DELETE_RECORDS,
        versions::INIT_PRODUCER_ID => &INIT_PRODUCER_ID,
        versions::OFFSET_FOR_LEADER_EPOCH => &OFFSET_FOR_LEADER_EPOCH,
        versions::DESCRIBE_CONFIGS => &DESCRIBE_CONFIGS,
        versions::DESCRIBE_LOG_DIRS => &DESCRIBE_LOG_DIRS,
        versions::CREATE_PARTITIONS => &CREATE_PARTITIONS,
        versions::ELECT_LEADERS => &ELECT_LEADERS,
        versions::INCREMENTAL_ALTER_CONFIGS => &INCREMENTAL_ALTER_CONFIGS,
        versions::ALTER_PARTITION_REASSIGNMENTS => &ALTER_PARTITION_REASSIGNMENTS,
        versions::LIST_PARTITION_REASSIGNMENTS => &LIST_PARTITION_REASSIGNMENTS,
        versions::DESCRIBE_QUORUM => &DESCRIBE_QUORUM,
        versions::DESCRIBE_CLUSTER => &DESCRIBE_CLUSTER,
        versions::UNREGISTER_BROKER => &UNREGISTER_BROKER,
        versions::ALTER_CONFIGS => &admin::ALTER_CONFIGS,
        versions::DESCRIBE_CLIENT_QUOTAS => &admin::DESCRIBE_CLIENT_QUOTAS,
        versions::UPDATE_FEATURES => &admin::UPDATE_FEATURES,
        versions::LIST_CONFIG_RESOURCES => &admin::LIST_CONFIG_RESOURCES,
        versions::DESCRIBE_TOPIC_PARTITIONS => &admin::DESCRIBE_TOPIC_PARTITIONS,
        versions::OFFSET_COMMIT => &groups::OFFSET_COMMIT,
        versions::OFFSET_FETCH => &groups::OFFSET_FETCH,
        versions::FIND_COORDINATOR => &groups::FIND_COORDINATOR,
        versions::JOIN_GROUP => &groups::JOIN_GROUP,
        versions::HEARTBEAT => &groups::HEARTBEAT,
        versions::LEAVE_GROUP => &groups::LEAVE_GROUP,
        versions::SYNC_GROUP => &groups::SYNC_GROUP,
        versions::DESCRIBE_GROUPS => &groups::DESCRIBE_GROUPS,
        versions::LIST_GROUPS => &groups::LIST_GROUPS,
        versions::DELETE_GROUPS => &groups::DELETE_GROUPS,
        versions::OFFSET_DELETE => &groups::OFFSET_DELETE,
        _ => return None,
    })
}

// Produce: transactional id, acks, timeout, topics {name or id, partitions {index, records}}.
// Memory is that of the codec's values; ours in `produce` are smaller.
static PRODUCE: Shape = shape(
    &[all(Kind::Str(3)), all(INT16), all(INT32), all(Kind::Structs(&PRODUCE_TOPIC, NEVER))],
    size_of::<m::produce_request::ProduceRequest>(),
);
static PRODUCE_TOPIC: Shape = shape(
    &[within(0, 12, STR), from(13, UUID), all(Kind::Structs(&PRODUCE_PARTITION, NEVER))],
    size_of::<m::produce_request::TopicProduceData>(),
);
static PRODUCE_PARTITION: Shape =
    shape(&[all(INT32), all(Kind::Bytes(ALWAYS))], size_of::<m::produce_request::PartitionProduceData>());

// Fetch: replica id (-14), max wait, min bytes, max bytes, isolation, session id and epoch (7+), topics, forgotten topics
// (7+), rack (11+); tagged: cluster id (12+), replica state (15+).
static FETCH: Shape = Shape {
    fields: &[
        within(0, 14, INT32),
        all(INT32),
        all(INT32),
        all(INT32),
        all(INT8),
        from(7, INT32),
        from(7, INT32),
        all(Kind::Structs(&FETCH_TOPIC, NEVER)),
        from(7, Kind::Structs(&FORGOTTEN_TOPIC, NEVER)),
        from(11, STR),
    ],
    tagged: &[
        Tagged { tag: 0, from: 12, kind: Kind::Str(ALWAYS) },
        Tagged { tag: 1, from: 15, kind: Kind::Struct(&REPLICA_STATE) },
    ],
    memory: size_of::<m::fetch_request::FetchRequest>(),
};
static FETCH_TOPIC: Shape = shape(
    &[within(0, 12, STR), from(13, UUID), all(Kind::Structs(&FETCH_PARTITION, NEVER))],
    size_of::<m::fetch_request::FetchTopic>(),
);
// Index, current leader epoch (9+), fetch offset, last fetched epoch (12+), log start (5+), max bytes; tagged: replica
// directory id (17+), high watermark (18+).
static FETCH_PARTITION: Shape = Shape {
    fields: &[all(INT32), from(9, INT32), all(INT64), from(12, INT32), from(5, INT64), all(INT32)],
    tagged: &[Tagged { tag: 0, from: 17, kind: UUID }, Tagged { tag: 1, from: 18, kind: INT64 }],
    memory: size_of::<m::fetch_request::FetchPartition>(),
};
static FORGOTTEN_TOPIC: Shape = shape(
    &[within(0, 12, STR), from(13, UUID), all(Kind::Plain(4, NEVER))],
    size_of::<m::fetch_request::ForgottenTopic>(),
);
static REPLICA_STATE: Shape = shape(&[all(INT32), all(INT64)], size_of::<m::fetch_request::ReplicaState>());

// ListOffsets: replica id, isolation (2+), topics {name, partitions {index, leader epoch (4+), timestamp}}, timeout (10+).
static LIST_OFFSETS: Shape = shape(
    &[all(INT32), from(2, INT8), all(Kind::Structs(&LIST_OFFSETS_TOPIC, NEVER)), from(10, INT32)],
    size_of::<m::list_offsets_request::ListOffsetsRequest>(),
);
static LIST_OFFSETS_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&LIST_OFFSETS_PARTITION, NEVER))],
    size_of::<m::list_offsets_request::ListOffsetsTopic>(),
);
static LIST_OFFSETS_PARTITION: Shape = shape(
    &[all(INT32), from(4, INT32), all(INT64)],
    size_of::<m::list_offsets_request::ListOffsetsPartition>(),
);

// Metadata: topics {id (10+), name}, auto-create (4+), cluster operations (8-10), topic operations (8+).
static METADATA: Shape = shape(
    &[all(Kind::Structs(&METADATA_TOPIC, 1)), from(4, BOOL), within(8, 10, BOOL), from(8, BOOL)],
    size_of::<m::metadata_request::MetadataRequest>(),
);
static METADATA_TOPIC: Shape =
    shape(&[from(10, UUID), all(Kind::Str(10))], size_of::<m::metadata_request::MetadataRequestTopic>());

// ApiVersions: client software name and version (3+).
static API_VERSIONS: Shape =
    shape(&[from(3, STR), from(3, STR)], size_of::<m::api_versions_request::ApiVersionsRequest>());

// CreateTopics: topics {name, partitions, replication factor, assignments {index, brokers}, configs {name, value}},
// timeout, validate only.
static CREATE_TOPICS: Shape = shape(
    &[all(Kind::Structs(&CREATABLE_TOPIC, NEVER)), all(INT32), all(BOOL)],
    size_of::<m::create_topics_request::CreateTopicsRequest>(),
);
static CREATABLE_TOPIC: Shape = shape(
    &[
        all(STR),
        all(INT32),
        all(INT16),
        all(Kind::Structs(&CREATABLE_ASSIGNMENT, NEVER)),
        all(Kind::Structs(&CREATABLE_CONFIG, NEVER)),
    ],
    size_of::<m::create_topics_request::CreatableTopic>(),
);
static CREATABLE_ASSIGNMENT: Shape = shape(
    &[all(INT32), all(Kind::Plain(4, NEVER))],
    size_of::<m::create_topics_request::CreatableReplicaAssignment>(),
);
static CREATABLE_CONFIG: Shape =
    shape(&[all(STR), all(Kind::Str(ALWAYS))], size_of::<m::create_topics_request::CreatableTopicConfig>());

// DeleteTopics: topics {name, id} (6+), names (-5), timeout.
static DELETE_TOPICS: Shape = shape(
    &[from(6, Kind::Structs(&DELETE_TOPIC_STATE, NEVER)), within(0, 5, Kind::Strs(NEVER)), all(INT32)],
    size_of::<m::delete_topics_request::DeleteTopicsRequest>(),
);
static DELETE_TOPIC_STATE: Shape =
    shape(&[all(Kind::Str(6)), all(UUID)], size_of::<m::delete_topics_request::DeleteTopicState>());

// DeleteRecords: topics {name, partitions {index, offset}}, timeout.
static DELETE_RECORDS: Shape = shape(
    &[all(Kind::Structs(&DELETE_RECORDS_TOPIC, NEVER)), all(INT32)],
    size_of::<m::delete_records_request::DeleteRecordsRequest>(),
);
static DELETE_RECORDS_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&DELETE_RECORDS_PARTITION, NEVER))],
    size_of::<m::delete_records_request::DeleteRecordsTopic>(),
);
static DELETE_RECORDS_PARTITION: Shape =
    shape(&[all(INT32), all(INT64)], size_of::<m::delete_records_request::DeleteRecordsPartition>());

// InitProducerId: transactional id, timeout, producer id and epoch (3+).
static INIT_PRODUCER_ID: Shape = shape(
    &[all(Kind::Str(ALWAYS)), all(INT32), from(3, INT64), from(3, INT16)],
    size_of::<m::init_producer_id_request::InitProducerIdRequest>(),
);

// OffsetForLeaderEpoch: replica id (3+), topics {name, partitions {index, current epoch, epoch}}.
static OFFSET_FOR_LEADER_EPOCH: Shape = shape(
    &[from(3, INT32), all(Kind::Structs(&EPOCH_TOPIC, NEVER))],
    size_of::<m::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest>(),
);
static EPOCH_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&EPOCH_PARTITION, NEVER))],
    size_of::<m::offset_for_leader_epoch_request::OffsetForLeaderTopic>(),
);
static EPOCH_PARTITION: Shape = shape(
    &[all(INT32), all(INT32), all(INT32)],
    size_of::<m::offset_for_leader_epoch_request::OffsetForLeaderPartition>(),
);

// DescribeConfigs: resources {type, name, keys}, synonyms, documentation (3+).
static DESCRIBE_CONFIGS: Shape = shape(
    &[all(Kind::Structs(&DESCRIBE_RESOURCE, NEVER)), all(BOOL), from(3, BOOL)],
    size_of::<m::describe_configs_request::DescribeConfigsRequest>(),
);
static DESCRIBE_RESOURCE: Shape = shape(
    &[all(INT8), all(STR), all(Kind::Strs(ALWAYS))],
    size_of::<m::describe_configs_request::DescribeConfigsResource>(),
);

// DescribeLogDirs: topics {name, partitions} or null for all.
static DESCRIBE_LOG_DIRS: Shape = shape(
    &[all(Kind::Structs(&LOG_DIR_TOPIC, ALWAYS))],
    size_of::<m::describe_log_dirs_request::DescribeLogDirsRequest>(),
);
static LOG_DIR_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Plain(4, NEVER))],
    size_of::<m::describe_log_dirs_request::DescribableLogDirTopic>(),
);

// CreatePartitions: topics {name, count, assignments {brokers}}, timeout, validate only.
static CREATE_PARTITIONS: Shape = shape(
    &[all(Kind::Structs(&CREATE_PARTITIONS_TOPIC, NEVER)), all(INT32), all(BOOL)],
    size_of::<m::create_partitions_request::CreatePartitionsRequest>(),
);
static CREATE_PARTITIONS_TOPIC: Shape = shape(
    &[all(STR), all(INT32), all(Kind::Structs(&CREATE_PARTITIONS_ASSIGNMENT, ALWAYS))],
    size_of::<m::create_partitions_request::CreatePartitionsTopic>(),
);
static CREATE_PARTITIONS_ASSIGNMENT: Shape = shape(
    &[all(Kind::Plain(4, NEVER))],
    size_of::<m::create_partitions_request::CreatePartitionsAssignment>(),
);

// ElectLeaders: election type (1+), topics {name, partitions} or null for all, timeout.
static ELECT_LEADERS: Shape = shape(
    &[from(1, INT8), all(Kind::Structs(&ELECT_TOPIC, ALWAYS)), all(INT32)],
    size_of::<m::elect_leaders_request::ElectLeadersRequest>(),
);
static ELECT_TOPIC: Shape =
    shape(&[all(STR), all(Kind::Plain(4, NEVER))], size_of::<m::elect_leaders_request::TopicPartitions>());

// IncrementalAlterConfigs: resources {type, name, configs {name, operation, value}}, validate only.
static INCREMENTAL_ALTER_CONFIGS: Shape = shape(
    &[all(Kind::Structs(&ALTER_RESOURCE, NEVER)), all(BOOL)],
    size_of::<m::incremental_alter_configs_request::IncrementalAlterConfigsRequest>(),
);
static ALTER_RESOURCE: Shape = shape(
    &[all(INT8), all(STR), all(Kind::Structs(&ALTERABLE_CONFIG, NEVER))],
    size_of::<m::incremental_alter_configs_request::AlterConfigsResource>(),
);
static ALTERABLE_CONFIG: Shape = shape(
    &[all(STR), all(INT8), all(Kind::Str(ALWAYS))],
    size_of::<m::incremental_alter_configs_request::AlterableConfig>(),
);

// AlterPartitionReassignments: timeout, whether the factor may change (1+), topics {name, partitions {index, brokers or null}}.
static ALTER_PARTITION_REASSIGNMENTS: Shape = shape(
    &[all(INT32), from(1, BOOL), all(Kind::Structs(&REASSIGNABLE_TOPIC, NEVER))],
    size_of::<m::alter_partition_reassignments_request::AlterPartitionReassignmentsRequest>(),
);
static REASSIGNABLE_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&REASSIGNABLE_PARTITION, NEVER))],
    size_of::<m::alter_partition_reassignments_request::ReassignableTopic>(),
);
static REASSIGNABLE_PARTITION: Shape = shape(
    &[all(INT32), all(Kind::Plain(4, ALWAYS))],
    size_of::<m::alter_partition_reassignments_request::ReassignablePartition>(),
);

// ListPartitionReassignments: timeout, topics {name, partitions} or null for all.
static LIST_PARTITION_REASSIGNMENTS: Shape = shape(
    &[all(INT32), all(Kind::Structs(&REASSIGNED_TOPIC, ALWAYS))],
    size_of::<m::list_partition_reassignments_request::ListPartitionReassignmentsRequest>(),
);
static REASSIGNED_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Plain(4, NEVER))],
    size_of::<m::list_partition_reassignments_request::ListPartitionReassignmentsTopics>(),
);

// DescribeQuorum: topics {name, partitions {index}}.
static DESCRIBE_QUORUM: Shape = shape(
    &[all(Kind::Structs(&QUORUM_TOPIC, NEVER))],
    size_of::<m::describe_quorum_request::DescribeQuorumRequest>(),
);
static QUORUM_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&QUORUM_PARTITION, NEVER))],
    size_of::<m::describe_quorum_request::TopicData>(),
);
static QUORUM_PARTITION: Shape = shape(&[all(INT32)], size_of::<m::describe_quorum_request::PartitionData>());

// DescribeCluster: authorized operations, endpoint type (1+), fenced brokers (2+).
static DESCRIBE_CLUSTER: Shape = shape(
    &[all(BOOL), from(1, INT8), from(2, BOOL)],
    size_of::<m::describe_cluster_request::DescribeClusterRequest>(),
);

// UnregisterBroker: broker.
static UNREGISTER_BROKER: Shape =
    shape(&[all(INT32)], size_of::<m::unregister_broker_request::UnregisterBrokerRequest>());
