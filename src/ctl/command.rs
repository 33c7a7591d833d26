//! What may be asked of the controller leader, and what it answers: the vocabulary of [`decide`].
//!
//! Not here: the deciding itself (`decide`), Kafka's requests and error codes (`broker` maps both ways). Commands and
//! answers travel as JSON between brokers and the controller leader, so fields are only ever added.
use super::anew::Forsaken;
use super::lease::Told;
use super::reassign::{Arrival, Reassignment};
use super::record::{Endpoint, GroupOpening};
use super::recovery::{GroupPlan, Progress};
use crate::segment::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub use super::decide::decide;

/// Cluster defaults that placement and configuration need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// `num.partitions`: for topics that name no count.
    pub num_partitions: i32,
    /// `default.replication.factor`. None: min(3, registered brokers).
    pub replication_factor: Option<i16>,
    /// Static broker configuration by Kafka key (values as text), e.g. log.retention.ms.
    pub broker: BTreeMap<String, String>,
}
/// A topic's effective configuration, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `retention.ms`; -1 = no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; -1 = no limit.
    pub retention_bytes: i64,
    /// `segment.bytes` (or the hidden `internal.segment.bytes`).
    pub segment_bytes: u64,
    /// `segment.ms`; with `compact` no more than `max.compaction.lag.ms`.
    pub segment_ms: i64,
    /// `cleanup.policy` names `delete`.
    pub deletes: bool,
    /// `cleanup.policy` names `compact`.
    pub compacts: bool,
    /// `min.cleanable.dirty.ratio`.
    pub min_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `flush.mode` is `async`.
    pub flush_async: bool,
    /// `flush.ms`, with `flush.mode=async`.
    pub flush_ms: u64,
    /// `flush.messages`, likewise.
    pub flush_messages: u64,
    /// `recovery.policy` is `auto`.
    pub recovery_auto: bool,
    /// `recovery.auto.delay.ms`.
    pub recovery_auto_delay_ms: u64,
}
/// A request to the controller; JSON on the peer protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Command {
    /// A broker process has started, or lost its registration. Always makes a record: its number is the incarnation.
    RegisterBroker {
        node: NodeId,
        directory: Uuid,
        kafka: Endpoint,
        /// As in the record that comes of it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        listeners: BTreeMap<String, Endpoint>,
        peer: Endpoint,
        rack: Option<String>,
        cluster: Option<String>,
        /// The earliest assignment of a replica on its disk.
        #[serde(default)]
        oldest: Option<u64>,
    },
    /// Its session lapsed.
    Fence { node: NodeId, incarnation: u64 },
    /// It is stopping in order.
    Stopping { node: NodeId, incarnation: u64 },
    /// Nobody waits for it any longer: the groups shrink.
    Dead { node: NodeId, incarnation: u64 },
    /// Its session is alive again.
    Unfence { node: NodeId, incarnation: u64 },
    /// CreateTopics, one topic.
    CreateTopic(CreateTopic),
    /// DeleteTopics, one topic, by name or by id.
    DeleteTopic { name: Option<String>, id: Option<Uuid> },
    /// CreatePartitions, one topic. `count` is the new total; `assignments` are those of the new partitions.
    CreatePartitions { topic: String, count: i32, assignments: Option<Vec<Vec<NodeId>>>, validate_only: bool },
    /// IncrementalAlterConfigs of one resource; `topic` None = cluster-wide broker configs.
    AlterConfigs { topic: Option<String>, changes: Vec<ConfigChange>, validate_only: bool },
    /// IncrementalAlterConfigs of one broker.
    AlterBroker { node: NodeId, changes: Vec<ConfigChange>, validate_only: bool },
    /// A broker holds replicas of groups that cannot go on: their dead voters leave no quorum, and the others prove that nothing
    /// can be lost. With the generation each is in.
    Seal { node: NodeId, groups: Vec<(GroupId, u64)> },
    /// What follows from the seals that were reported.
    OpenGenerations { openings: Vec<GroupOpening> },
    /// Partitions that lost their majority go on as this plan says (`kontiki partition recover`). `id`: the plan's number as it was
    /// approved; it has to be that of `plans`.
    Recover {
        id: String,
        reason: String,
        at_ms: i64,
        plans: Vec<GroupPlan>,
        /// The controllers approve it, for topics with `recovery.policy=auto`.
        #[serde(default)]
        auto: bool,
    },
    /// What came of approved plans.
    RecoveryProgress { steps: Vec<Progress> },
    /// Place anew what a broker's present disk does not hold.
    Place { node: NodeId },
    /// Leaders say that these replicas cannot go on, and that their groups do without.
    Anew { replicas: Vec<Forsaken> },
    /// AlterPartitionReassignments; each row is taken or refused by itself.
    Reassign { rows: Vec<Reassignment>, allow_factor_change: bool },
    /// Nobody waits for these dead brokers any longer: their replicas go elsewhere.
    Replace { nodes: BTreeSet<NodeId> },
    /// UnregisterBroker: it is forgotten, if it holds nothing. The controllers' own is for a decommissioned one with this registration
    /// and no other: repeated, or too late, it does nothing.
    Unregister {
        node: NodeId,
        #[serde(default)]
        incarnation: Option<u64>,
    },
    /// Leaders say that their groups are where they were to be.
    Arrived { arrivals: Vec<Arrival> },
    /// Whoever runs a replica of these groups knows that it needs leases, from this committed configuration of each on.
    Leased { groups: Vec<Told> },
    /// Leaders of these groups, about which the controllers may have lost something, were seen to commit.
    Confirm { groups: Vec<GroupId> },
    /// A block of producer ids for this broker to give out.
    AllocateProducerIds { node: NodeId },
}

impl Command {
    /// It follows from what one leader of the controllers granted, heard or counted, and says nothing under the next one.
    pub fn is_of_one_leader(&self) -> bool {
        matches!(
            self,
            Self::OpenGenerations { .. }
                | Self::Leased { .. }
                | Self::Confirm { .. }
                | Self::Recover { auto: true, .. }
        )
    }
}
/// One topic to create.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// Its name.
    pub name: String,
    /// -1 = default.
    pub partitions: i32,
    /// -1 = default.
    pub replication_factor: i16,
    /// Brokers of each partition, preferred leader first; None or empty: placed by the controller.
    pub assignments: Option<Vec<Vec<NodeId>>>,
    /// Configuration of the topic; a null value is refused, as Kafka does.
    pub configs: BTreeMap<String, Option<String>>,
    /// Check only.
    pub validate_only: bool,
}
/// One step of IncrementalAlterConfigs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Configuration key.
    pub name: String,
    /// What to do with it.
    pub op: ConfigOp,
    /// The value; none for `Delete`.
    pub value: Option<String>,
}
/// What IncrementalAlterConfigs does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigOp {
    /// Replace.
    Set,
    /// Back to the default.
    Delete,
    /// Add items to a list.
    Append,
    /// Take items out of a list.
    Subtract,
}
/// What a command led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Reply {
    /// Nothing to add.
    Done,
    /// The registration's number.
    Registered { incarnation: u64 },
    /// The id is nil when the request was only to be checked.
    TopicCreated { id: Uuid, partitions: i32, replication_factor: i16 },
    /// Why a row was refused, one for each.
    Reassigned { refusals: Vec<Option<Error>> },
    /// `count` ids from `first` on.
    ProducerIds { first: i64, count: i32 },
}
/// Why a command was refused; `broker::error` maps each to a Kafka code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Error {
    #[error("topic `{0}` already exists")]
    TopicExists(String),
    #[error("unknown topic `{0}`")]
    UnknownTopic(String),
    #[error("unknown partition {1} of topic `{0}`")]
    UnknownPartition(String, i32),
    #[error("no reassignment is in progress")]
    NoReassignment,
    #[error("unknown topic id {0}")]
    UnknownTopicId(Uuid),
    #[error("invalid topic name: {0}")]
    InvalidTopic(String),
    #[error("invalid partitions: {0}")]
    InvalidPartitions(String),
    #[error("invalid replication factor: {0}")]
    InvalidReplicationFactor(String),
    #[error("invalid replica assignment: {0}")]
    InvalidAssignment(String),
    #[error("invalid configuration: {0}")]
    InvalidConfig(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("broker {0} is not registered with that incarnation")]
    StaleBroker(NodeId),
    #[error("broker {0} is not registered")]
    UnknownBroker(NodeId),
    #[error("{0}")]
    Refused(String),
    #[error("no controller leads at the moment")]
    NotController,
    #[error("timed out waiting for the controller")]
    TimedOut,
}
