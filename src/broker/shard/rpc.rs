//! Questions nodes ask each other outside Raft, as JSON on the peer protocol.
//! New variants and fields may be added; an unknown question is answered `Unknown`.

use super::anew::Plea;
use crate::broker::api::Quorum;
use crate::ctl::command::{Command, Error, Reply};
use crate::ctl::lease::Lease;
use crate::ctl::recovery::{Holding, PartitionReport};
use crate::raftlog::generation::{Decision, SealReport};
use crate::segment::{Epoch, GroupId, NodeId, Offset, ReplicaId};
use serde::{Deserialize, Serialize};

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// A node that knows no cluster yet introduces its directory.
    WhoAreYou {
        /// The asker's directory uuid, hexadecimal.
        directory: String,
    },
    /// A request to the controller leader.
    Command {
        /// Which.
        command: Command,
        /// How long the asker waits.
        timeout_ms: u64,
    },
    /// A broker renews its session.
    Heartbeat {
        /// Its registration number.
        incarnation: u64,
        /// It is about to stop in order.
        stopping: bool,
        /// It asks for a lease.
        #[serde(default)]
        lease: bool,
        /// How far it has applied the controller log.
        #[serde(default)]
        applied: u64,
    },
    /// Replicas here are sealed, all of their logs durable. Repeated until the decisions are in the log.
    Sealed {
        /// What each is.
        reports: Vec<(GroupId, SealReport)>,
    },
    /// Replicas of these groups here, which the asked one leads, are damaged or may have lost something, and do not get better
    /// soon: they are no voters to count on. Repeated while it is so.
    Unfit {
        /// Which.
        groups: Vec<GroupId>,
    },
    /// Replicas here of groups that the asked one leads cannot go on, and ask to be placed anew. Repeated while it is so.
    Anew {
        /// Registration number of this broker.
        incarnation: u64,
        /// Which.
        pleas: Vec<Plea>,
    },
    /// Replicas here of groups that the asked one leads say in its epoch to where they are clean; answered with the least of all members.
    Clean {
        /// Registration number of this broker.
        incarnation: u64,
        /// What each says.
        words: Vec<(GroupId, ReplicaId, Epoch, Offset)>,
    },
    /// What do your replicas of these groups hold? Nothing is sealed by it.
    Holdings {
        /// Which.
        groups: Vec<GroupId>,
    },
    /// How do these partitions stand, and how could they go on? Put to the controller leader. None named: all without a leader.
    Report {
        /// Which.
        groups: Vec<GroupId>,
    },
    /// A decommissioned broker holds no replica any longer. Repeated until it is unregistered.
    Emptied {
        /// Its registration number.
        incarnation: u64,
    },
    /// What the leader of the controllers' group knows of its replicas.
    Quorum,
    /// Which generation is the controllers' group in, and how did that begin? A node asks that hears of a later one than its own.
    ControllerGeneration,
    /// The controller asks a leader to hand a group to a preferred replica.
    Transfer {
        /// Which group.
        group: GroupId,
        /// To which node.
        to: NodeId,
    },
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Neither do I know a cluster; this is my directory uuid, hexadecimal.
    Empty {
        /// Directory.
        directory: String,
    },
    /// I belong to this cluster, whose controller group began with these voters.
    Member {
        /// Cluster id.
        cluster: String,
        /// Initial voters of group 0.
        voters: Vec<ReplicaId>,
    },
    /// Outcome of a command: reply and entry number.
    Outcome(Result<(Reply, u64), Error>),
    /// Ask that node instead.
    NotLeader {
        /// If known.
        leader: Option<NodeId>,
    },
    /// The session is renewed; false: register again.
    Session {
        /// Whether the incarnation is the registered one.
        known: bool,
        /// If it asked for one and gets it.
        #[serde(default)]
        lease: Option<Lease>,
    },
    /// What replicas here hold.
    Holdings {
        /// Of those that are here.
        holdings: Vec<(GroupId, Holding)>,
    },
    /// How partitions stand.
    Report {
        /// Each.
        partitions: Vec<PartitionReport>,
    },
    /// What is known of the replicas of the controllers' group; none if another node leads it.
    Quorum {
        /// Known.
        quorum: Option<Quorum>,
    },
    /// How the generation of the controllers' group began that the asked node is in; none if it is the first.
    ControllerGeneration {
        /// As its survivor decided.
        decision: Option<Decision>,
    },
    /// To these it is granted to be placed anew, if they say that they take nothing any more.
    Granted {
        /// Which.
        replicas: Vec<(GroupId, ReplicaId)>,
    },
    /// To where all members of groups are clean, in the epoch of the leader that says so.
    Clean {
        /// Of those that are led here.
        floors: Vec<(GroupId, Epoch, Offset)>,
    },
    /// Done.
    Ok,
    /// The question is not understood.
    Unknown,
}
