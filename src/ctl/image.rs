//! The metadata image: `apply` is pure; same log, same image on every node. (contract stub)
use super::record::{Batch, Endpoint};
use crate::segment::{GroupId, NodeId, ReplicaId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Everything the controller log says.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Image {
    pub cluster_id: String,
    /// Number (generation * 2^40 + index) of the last applied entry.
    pub applied: u64,
    pub brokers: BTreeMap<NodeId, Broker>,
    pub topics: BTreeMap<String, Topic>,
    pub topic_names: BTreeMap<Uuid, String>,
    /// Which topic and partition a group is.
    pub groups: BTreeMap<GroupId, (Uuid, i32)>,
    pub configs: BTreeMap<String, String>,
    pub next_group: u64,
    pub next_producer_id: i64,
}
/// A registered broker.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Broker {
    pub node: NodeId,
    pub incarnation: u64,
    pub directory: Uuid,
    pub kafka: Endpoint,
    pub peer: Endpoint,
    pub rack: Option<String>,
    pub fenced: bool,
}
/// A topic.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub partitions: Vec<Partition>,
    pub configs: BTreeMap<String, String>,
    pub internal: bool,
}
/// A partition.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Partition {
    pub group: GroupId,
    pub replicas: Vec<ReplicaId>,
    pub generation: u64,
}

impl Image {
    /// Number of an entry of the controller log: generation * 2^40 + index.
    pub fn number(_generation: u64, _index: u64) -> u64 {
        unimplemented!()
    }
    /// Applies the entry with this number. Pure; records that do not fit are errors in the log, never silently skipped.
    pub fn apply(&mut self, _number: u64, _batch: &Batch) -> Result<(), String> {
        unimplemented!()
    }
    /// Topic by id.
    pub fn topic_by_id(&self, _id: Uuid) -> Option<&Topic> {
        unimplemented!()
    }
    /// Partition of a topic.
    pub fn partition(&self, _topic: &str, _partition: i32) -> Option<&Partition> {
        unimplemented!()
    }
    /// Effective topic configuration: topic, else cluster-wide dynamic, else `defaults`.
    pub fn topic_config(
        &self,
        _topic: &Topic,
        _defaults: &super::command::Defaults,
    ) -> super::command::TopicConfig {
        unimplemented!()
    }
}
