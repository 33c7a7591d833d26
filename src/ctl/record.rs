//! What the controller log holds. One log entry = one `Batch`, JSON, applied whole. (contract stub)
use crate::segment::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Payload of a Metadata entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Format version, 1.
    pub v: u8,
    /// In order, applied together.
    pub records: Vec<Record>,
}

/// Where a broker can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// One change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t")]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Record {
    /// Entry 1: the cluster is born.
    Cluster { id: String },
    /// A broker registered. The number of this record is its incarnation (safety.md F6).
    Broker { node: NodeId, directory: Uuid, kafka: Endpoint, peer: Endpoint, rack: Option<String> },
    /// The broker's session lapsed, or it left in order; clients are steered away.
    Fence { node: NodeId, incarnation: u64 },
    /// Its session is alive again (without a new registration).
    Unfence { node: NodeId, incarnation: u64 },
    /// A topic with its first partitions. `replicas[p]` = nodes of partition p, preferred leader first.
    Topic { name: String, id: Uuid, replicas: Vec<Vec<NodeId>>, configs: BTreeMap<String, String> },
    /// More partitions of a topic.
    Partitions { id: Uuid, replicas: Vec<Vec<NodeId>> },
    /// The committed tombstone: replicas may be deleted.
    DeleteTopic { id: Uuid },
    /// Topic configuration: set (Some) or back to default (None).
    TopicConfig { id: Uuid, changes: BTreeMap<String, Option<String>> },
    /// Cluster-wide dynamic broker configuration.
    ClusterConfig { changes: BTreeMap<String, Option<String>> },
    /// A block of producer ids was handed to a broker.
    ProducerIds { node: NodeId, first: i64, count: i32 },
    /// Reserved: a later version's record, kept by old readers only as an error.
    Group { group: GroupId },
}
