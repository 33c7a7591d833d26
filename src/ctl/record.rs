//! What the controller log holds. One log entry = one [`Batch`], JSON, applied whole.
//!
//! Not here: what the records mean for the state (`image`), or who may write them (`decide`).
//! Written by the controller leader, read by every node. Invariants:
//! - a record names *what was decided*, never how: placement is in the record, so that no node ever places again;
//! - numbers (incarnations, group ids, assignments) are not in the records: they follow from the entry's own number;
//! - `v` is 1; a reader refuses any other version and any record it does not know.
use super::anew::Forsaken;
use super::lease::Told;
use super::offline::ControllerRecovery;
use super::reassign::{Arrival, GroupMove};
use super::recovery::{GroupPlan, Progress};
use super::snapshot::Piece;
use crate::segment::{GroupId, LogId, NodeId, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The only format version there is.
pub const VERSION: u8 = 1;

/// Payload of a Metadata entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Format version, 1.
    pub v: u8,
    /// In order, applied together.
    pub records: Vec<Record>,
}

impl Batch {
    /// A batch of these records in the current format.
    pub fn new(records: Vec<Record>) -> Self {
        Self { v: VERSION, records }
    }

    /// A batch without records: a decision that needs nothing written.
    pub fn empty() -> Self {
        Self::new(Vec::new())
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The entry's payload.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self)
            .expect("maps have string keys and nothing in a record can refuse to serialise")
    }

    /// Reads an entry's payload.
    ///
    /// # Errors
    /// The payload is not JSON of this shape, of another version, or holds a record this version does not know.
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            v: u8,
        }
        // The version comes first: a later one may hold anything.
        let version: Version =
            serde_json::from_slice(payload).map_err(|e| format!("controller entry is not a batch: {e}"))?;
        if version.v != VERSION {
            return Err(format!(
                "controller entry has format version {}, this node reads {VERSION}",
                version.v
            ));
        }
        serde_json::from_slice(payload).map_err(|e| format!("controller entry does not decode: {e}"))
    }
}

/// Where a broker can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How a new generation of a group begins (safety.md F2, F4). Its replicas are named by their brokers: which ids these have
/// is in the image when it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOpening {
    /// Whose.
    pub group: GroupId,
    /// The new generation: the one after the group's present one.
    pub generation: u64,
    /// Broker of the only voter it begins with.
    pub survivor: NodeId,
    /// Where the survivor's log ends.
    pub base: LogId,
    /// Above every term of the generations before.
    pub first_term: Term,
    /// Whether the sealed replicas prove that nothing committed is lost.
    pub lossless: bool,
    /// Brokers of the other sealed replicas.
    pub learners: Vec<NodeId>,
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
    /// `kafka` is what its first listener advertises; `listeners` is empty where that one is `PLAINTEXT` and the only one (`listeners`).
    Broker {
        node: NodeId,
        directory: Uuid,
        kafka: Endpoint,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        listeners: BTreeMap<String, Endpoint>,
        peer: Endpoint,
        rack: Option<String>,
    },
    /// The broker's session lapsed, or it left in order; clients are steered away.
    Fence { node: NodeId, incarnation: u64 },
    /// The broker announced that it stops in order: fenced, and not taken for dead before `shrink.grace.ms` is over.
    Stopping { node: NodeId, incarnation: u64 },
    /// The broker is dead as far as anyone can tell: fenced, and its replicas are not to be voters any more.
    Dead { node: NodeId, incarnation: u64 },
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
    /// Dynamic configuration of one broker.
    BrokerConfig { node: NodeId, changes: BTreeMap<String, Option<String>> },
    /// A block of producer ids was handed to a broker.
    ProducerIds { node: NodeId, first: i64, count: i32 },
    /// The intent of a generation change (safety.md F2): every replica of these groups that applies it ends its generation
    /// there. The number of this record is the plan's.
    Seal { groups: Vec<GroupId> },
    /// New generations were decided, one per group and generation.
    Generation { openings: Vec<GroupOpening> },
    /// An operator approved a plan for partitions that lost their majority: the intent of generation changes that may lose records, and
    /// what is kept of it for ever. The number of this record is the recovery's.
    Recover {
        id: String,
        reason: String,
        at_ms: i64,
        plans: Vec<GroupPlan>,
        /// The controllers did, by the topics' `recovery.policy`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        auto: bool,
    },
    /// What came of approvals.
    RecoveryProgress { steps: Vec<Progress> },
    /// The broker's disk is another one: its replicas of these groups are placed anew. The number of this record is their
    /// assignment.
    Place { node: NodeId, groups: Vec<GroupId> },
    /// These replicas cannot go on: each is placed anew on the disk that it is on. The number of this record is their assignment.
    Anew { replicas: Vec<Forsaken> },
    /// A part of the image as of an entry before this one: changes nothing.
    Snapshot(Piece),
    /// Replicas of these groups are to be elsewhere. The number of this record is the assignment of those that are new, and names
    /// the reassignment. `by_controllers`: nobody asked for it, but for what is lost on brokers that are dead or decommissioned.
    Reassign {
        moves: Vec<GroupMove>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_controllers: bool,
    },
    /// The broker is forgotten: it holds nothing.
    Unregister { node: NodeId },
    /// These groups are where they were to be: the committed tombstone of the replicas that left, which may be deleted.
    Reassigned { arrivals: Vec<Arrival> },
    /// Whoever runs a replica of these groups knows by now that it needs leases (`recovery.policy=auto`), from this committed configuration
    /// of each on.
    Leased { groups: Vec<Told> },
    /// The generation in which this stands was opened offline: the controllers had lost their quorum. Written by the survivor behind the
    /// entry that opens it, with it.
    ControllersRecovered(Box<ControllerRecovery>),
    /// Behind a recovery of the controllers that may have lost something: leaders of these groups were seen to commit.
    Confirmed { groups: Vec<GroupId> },
    /// Reserved: a later version's record, kept by old readers only as an error.
    Group { group: GroupId },
}
