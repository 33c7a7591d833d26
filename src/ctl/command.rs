//! What may be asked of the controller leader, and the pure decision: request -> records or refusal. (contract stub)
use super::image::Image;
use super::record::{Batch, Endpoint};
use crate::segment::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Cluster defaults that placement and configuration need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Defaults {
    pub num_partitions: i32,
    /// None: min(3, brokers).
    pub replication_factor: Option<i16>,
    /// Static broker configuration by Kafka key (values as text), e.g. log.retention.ms.
    pub broker: BTreeMap<String, String>,
}
/// A topic's effective configuration, typed.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct TopicConfig {
    pub min_insync_replicas: i32,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub index_interval_bytes: u32,
    pub max_message_bytes: usize,
    pub log_append_time: bool,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
}
/// A request to the controller; JSON on the peer protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Command {
    RegisterBroker {
        node: NodeId,
        directory: Uuid,
        kafka: Endpoint,
        peer: Endpoint,
        rack: Option<String>,
        cluster: Option<String>,
    },
    Fence {
        node: NodeId,
        incarnation: u64,
    },
    Unfence {
        node: NodeId,
        incarnation: u64,
    },
    CreateTopic(CreateTopic),
    DeleteTopic {
        name: Option<String>,
        id: Option<Uuid>,
    },
    CreatePartitions {
        topic: String,
        count: i32,
        assignments: Option<Vec<Vec<NodeId>>>,
        validate_only: bool,
    },
    /// IncrementalAlterConfigs of one resource; `topic` None = cluster-wide broker configs.
    AlterConfigs {
        topic: Option<String>,
        changes: Vec<ConfigChange>,
        validate_only: bool,
    },
    AllocateProducerIds {
        node: NodeId,
    },
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CreateTopic {
    pub name: String,
    /// -1 = default.
    pub partitions: i32,
    /// -1 = default.
    pub replication_factor: i16,
    pub assignments: Option<Vec<Vec<NodeId>>>,
    pub configs: BTreeMap<String, Option<String>>,
    pub validate_only: bool,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ConfigChange {
    pub name: String,
    pub op: ConfigOp,
    pub value: Option<String>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ConfigOp {
    Set,
    Delete,
    Append,
    Subtract,
}
/// What a command led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Reply {
    Done,
    Registered { incarnation: u64 },
    TopicCreated { id: Uuid, partitions: i32, replication_factor: i16 },
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
    #[error("{0}")]
    Refused(String),
    #[error("no controller leads at the moment")]
    NotController,
    #[error("timed out waiting for the controller")]
    TimedOut,
}
/// Decides a command on the image. `number` = number the entry will get; `seed` = randomness for placement's start and topic ids.
/// An empty batch = nothing to write, answer at once.
pub fn decide(
    _image: &Image,
    _defaults: &Defaults,
    _command: &Command,
    _number: u64,
    _seed: u64,
) -> Result<(Batch, Reply), Error> {
    unimplemented!()
}
