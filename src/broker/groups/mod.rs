//! Consumer groups (classic protocol): the coordinator of one partition of `__consumer_offsets`, a pure state machine.
//!
//! Events in ([`Coordinator::request`], `stored`, `refused`, `tick`, and records while it loads), effects out: answer this request, append these
//! records. It owns every group whose id hashes to its partition. Not here: sockets and Kafka's messages (`handlers`), the log, leadership
//! and who waits for which answer (`shard::groups`, the only caller). No IO, clock, randomness or async: time and fresh ids are arguments.
//! - `coordinator`: all groups of the partition, what is being appended, timers, loading.
//! - `group`: one group, its members and generations. `sessions`: who is there. `offsets`: what was committed, and when it expires.
//! - `memory`: what all of it takes, in bytes. `stored`: a group and its record. `records`: Kafka's own record formats. `subscription`: the topics in a consumer's metadata.
//!
//! Invariants (tests hold them for random sequences):
//! - every request is answered exactly once;
//! - no commit, assignment, leave, deletion or static member's return is answered as done before its record is committed. Two things show
//!   before: the others of a group that is left rebalance at once, and the id that a static member's return replaces is fenced at once;
//! - what is in memory is what the log says: loading the committed records gives the same offsets, generation, members and assignments;
//! - a generation gets one assignment; only its members commit in it, and once the next has begun none of them does any more.

mod coordinator;
mod group;
mod memory;
mod offsets;
pub mod records;
mod sessions;
mod stored;
mod subscription;
#[cfg(test)]
pub(crate) mod tests;

pub use coordinator::Coordinator;

use crate::raftlog::core::Millis;
use bytes::Bytes;
use records::Record;
use std::collections::BTreeMap;

/// The topic that holds the groups.
pub const TOPIC: &str = crate::ctl::names::OFFSETS;

/// Number of a request that waits for its answer.
pub type Token = u64;
/// Number of an append that waits to be committed.
pub type AppendId = u64;
/// A partition of a topic, by name.
pub type OffsetKey = (String, i32);

/// Limits and times, under Kafka's broker keys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub min_session_ms: u64,
    /// `group.max.session.timeout.ms`.
    pub max_session_ms: u64,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub metadata_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub check_ms: u64,
    /// `offsets.commit.timeout.ms`.
    pub commit_timeout_ms: u64,
}

/// The time, both ways.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Monotonic: sessions and rebalances.
    pub mono: Millis,
    /// Wall clock: what stands in records.
    pub wall_ms: i64,
}

/// Why a request, or one row of it, is refused; `broker::error` maps each to a Kafka code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GroupError {
    #[error("another broker coordinates the group")]
    NotCoordinator,
    #[error("the group is being loaded")]
    Loading,
    #[error("the group cannot be served at the moment")]
    NotAvailable,
    #[error("the group id is not valid")]
    InvalidGroup,
    #[error("unknown member")]
    UnknownMember,
    #[error("another member has this group instance id now")]
    FencedInstance,
    /// The id to come again with.
    #[error("a member id is required: {0}")]
    MemberIdRequired(String),
    #[error("not the current generation")]
    IllegalGeneration,
    #[error("no protocol in common with the group")]
    InconsistentProtocol,
    #[error("the session timeout is out of bounds")]
    InvalidSessionTimeout,
    #[error("the group is rebalancing")]
    Rebalancing,
    #[error("the group is full")]
    Full,
    #[error("unknown group")]
    UnknownGroup,
    #[error("the group has members")]
    NotEmpty,
    #[error("the group is subscribed to the topic")]
    Subscribed,
    #[error("the metadata of the offset is too long")]
    MetadataTooLarge,
    #[error("the record is larger than max.message.bytes of the topic")]
    TooLarge,
    #[error("the consumer groups of this broker take as much memory as they may")]
    NoRoom,
    #[error("unknown topic or partition")]
    UnknownPartition,
    #[error(
        "the member brings more than {} bytes, or more than 100 protocols, or one twice",
        group::METADATA_BYTES
    )]
    InvalidMetadata,
}

/// Who sends a request of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its member id; empty: none.
    pub member: String,
    /// `group.instance.id` (KIP-345).
    pub instance: Option<String>,
    /// The generation it is in; -1: none.
    pub generation: i32,
}

/// JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Join {
    /// Member id as sent; empty: none yet.
    pub member: String,
    pub instance: Option<String>,
    /// The id to give to a member without one.
    pub fresh_id: String,
    pub client_id: String,
    pub client_host: String,
    pub session_ms: u64,
    pub rebalance_ms: u64,
    pub protocol_type: String,
    /// Name and metadata, the preferred one first.
    pub protocols: Vec<(String, Bytes)>,
    /// A member without id is told one and has to come again (KIP-394).
    pub needs_id: bool,
    /// The client knows `skip_assignment` (KIP-814).
    pub may_skip: bool,
}

/// What a request asks of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ask {
    Join(Join),
    Sync {
        caller: Caller,
        protocol_type: Option<String>,
        protocol: Option<String>,
        assignments: BTreeMap<String, Bytes>,
    },
    Heartbeat(Caller),
    /// Member id and instance of each.
    Leave(Vec<(String, Option<String>)>),
    /// Offsets to keep, each for the time given (of old versions), else as long as the broker keeps them.
    Commit {
        caller: Caller,
        offsets: Vec<(OffsetKey, Offset)>,
        retention_ms: Option<i64>,
    },
    /// None: all that there are.
    Offsets(Option<Vec<OffsetKey>>),
    DeleteOffsets(Vec<OffsetKey>),
    Describe,
    Delete,
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Offset {
    pub offset: i64,
    /// -1: not told.
    pub leader_epoch: i32,
    pub metadata: String,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    /// When it was committed.
    pub at_ms: i64,
    /// When it ends, if the client said so.
    pub until_ms: Option<i64>,
}

/// Answer to a JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Joined {
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    pub member: String,
    pub skip_assignment: bool,
    /// Of the leader alone: everybody, with instance and metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// A group as DescribeGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Description {
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<DescribedMember>,
}
/// One of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DescribedMember {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

/// A group as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Listed {
    pub group: String,
    pub protocol_type: String,
    pub state: &'static str,
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reply {
    Refused(GroupError),
    Joined(Joined),
    Synced {
        protocol_type: String,
        protocol: String,
        assignment: Bytes,
    },
    Done,
    /// One for each row.
    Rows(Vec<Option<GroupError>>),
    Offsets(Vec<(OffsetKey, Option<Committed>)>),
    Described(Description),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Effect {
    /// Answer this request, and never again.
    Answer { token: Token, reply: Reply },
    /// Append these as one batch; say what came of it with `stored` or `refused`.
    Append { id: AppendId, records: Vec<Record> },
}

/// The partition of `__consumer_offsets` that a group belongs to: Java's `String.hashCode`, its absolute value, modulo the count.
pub fn partition_of(group: &str, partitions: usize) -> usize {
    let hash = group.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // As Kafka's `Utils.abs`: the one number without a counterpart is 0.
    hash.checked_abs().unwrap_or(0) as usize % partitions.max(1)
}
