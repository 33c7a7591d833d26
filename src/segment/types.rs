//! The numbers and small records every layer shares: ids of nodes, groups and replicas, Raft's
//! term and index, Kafka's offset, and what is known of one log entry.
//!
//! An [`Index`] counts entries of one Raft group; an [`Offset`] counts Kafka records. Both stand in
//! every entry header, so nothing ever translates one into the other by arithmetic.
//! Not here: bytes on disk (`frame`), roles and messages (`raftlog`), topics (`ctl`).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl $name {
            /// The number after this one.
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A node of the cluster (Kafka's broker id).
    NodeId(i32)
);
number!(
    /// A Raft group. 0 is the controller group; every partition ever created has its own.
    GroupId(u64)
);
number!(
    /// Position of an entry in its group's Raft log. The first entry has index 1; 0 is "before the log".
    Index(u64)
);
number!(
    /// Raft term; Kafka's leader epoch is the same number.
    Term(u64)
);
number!(
    /// Recovery generation of a group: the higher half of the fence.
    Generation(u64)
);
number!(
    /// Kafka offset of a record within its partition, from 0.
    Offset(i64)
);

impl Index {
    /// The index before this one; 0 stays 0.
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The fence: generations order before terms (safety.md F4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Recovery generation.
    pub generation: Generation,
    /// Term within it.
    pub term: Term,
}

impl Epoch {
    /// An epoch from plain numbers.
    pub const fn new(generation: u64, term: u64) -> Self {
        Self { generation: Generation(generation), term: Term(term) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.term)
    }
}

/// Identity of one entry. Orders as Raft compares logs: epoch first, then index (Raft §5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogId {
    /// Epoch of the leader that appended it.
    pub epoch: Epoch,
    /// Its place in the log.
    pub index: Index,
}

impl LogId {
    /// A log id from plain numbers.
    pub const fn new(generation: u64, term: u64, index: u64) -> Self {
        Self { epoch: Epoch::new(generation, term), index: Index(index) }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.epoch)
    }
}

/// Identity of one voter or learner, never reused (safety.md F6): a wiped disk or a new assignment
/// makes a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaId {
    /// The node it lives on.
    pub node: NodeId,
    /// Number of the controller record that placed it (0 for replicas of the controller group).
    pub assignment: u64,
    /// The data directory's uuid, made when the directory was formatted.
    pub directory: u128,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{:08x}", self.node, self.assignment, self.directory >> 96)
    }
}

/// What an entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum EntryKind {
    /// One Kafka record batch (magic 2) of the partition.
    Records = 1,
    /// A new leader's first entry (Raft §8); no payload, no offset.
    Noop = 2,
    /// A configuration of the group (`raftlog::Configuration`); no offset.
    Configuration = 3,
    /// The partition's log start moves to the offset in the payload (i64, big-endian); no offset.
    LogStart = 4,
    /// Records of the controller group (`ctl::Record`s as JSON); no offset.
    Metadata = 5,
    /// Idempotent producers that wrote nothing for long are forgotten (payload: a version byte and their ids); no offset.
    ForgetProducers = 6,
    /// The first part of a snapshot of the controller group, else like Metadata. A segment begins with it on every replica, so that all can
    /// drop what lies before, and none is left with a file that is needed in part; no offset.
    Snapshot = 7,
}

impl EntryKind {
    /// The kind with this code, if there is one.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Records),
            2 => Some(Self::Noop),
            3 => Some(Self::Configuration),
            4 => Some(Self::LogStart),
            5 => Some(Self::Metadata),
            6 => Some(Self::ForgetProducers),
            7 => Some(Self::Snapshot),
            _ => None,
        }
    }

    /// Control entries are always synced, whatever the group's flush mode.
    pub const fn is_control(self) -> bool {
        !matches!(self, Self::Records)
    }
}

/// Everything a header says of an entry, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryMeta {
    /// Its identity.
    pub id: LogId,
    /// Epoch of the entry before it.
    pub prev: Epoch,
    /// What it carries.
    pub kind: EntryKind,
    /// Kafka offset of its first record; for kinds without offset, the offset the next record gets.
    pub base_offset: Offset,
    /// Offsets it occupies (last offset delta + 1), never changed by compaction; 0 for control kinds.
    pub offset_span: u32,
    /// Payload bytes.
    pub payload_len: u32,
}

impl EntryMeta {
    /// Offset of the first record after this entry.
    pub const fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0 + self.offset_span as i64)
    }

    /// The entry before it.
    pub const fn predecessor(&self) -> LogId {
        LogId { epoch: self.prev, index: self.id.index.prev() }
    }
}

/// One entry with its payload (the record batch or control bytes, without our frame header).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The header's content.
    pub meta: EntryMeta,
    /// The payload; shares memory with whatever it was read from.
    pub payload: Bytes,
}

impl Entry {
    /// What it counts for, in bytes, where many entries are bounded together: its payload, and something if it has none. Compaction leaves
    /// any number of entries without one, and each takes time and memory all the same.
    pub fn weight(&self) -> usize {
        weight(self.payload.len())
    }
}

/// As [`Entry::weight`], of so many payload bytes.
pub const fn weight(payload_bytes: usize) -> usize {
    const HOLLOW: usize = 64;
    if payload_bytes == 0 { HOLLOW } else { payload_bytes }
}

/// How far a replica's word can be trusted (safety.md F11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// It holds all it ever acknowledged.
    #[default]
    None,
    /// It may have lost entries it acknowledged.
    Entries,
    /// It may also have lost its term or vote.
    Vote,
}

/// How a generation began: what the controllers decided of it (safety.md F2 to F4). Generation 0 has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The only voter it began with.
    pub survivor: ReplicaId,
    /// Where the survivor's log ended: what counts of the generations before.
    pub base: LogId,
    /// Above every term of the generations before.
    pub first_term: Term,
    /// Whether everything ever committed is at or below `base`. In a replica's hard state false also if it was in none of
    /// the generations right before: it cannot tell.
    pub lossless: bool,
}

/// What must survive a crash besides the log (Raft figure 2, persistent state).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// Generation and term.
    pub epoch: Epoch,
    /// Vote given in that epoch.
    pub vote: Option<ReplicaId>,
    /// Plan id under which this generation was sealed: it never appends, acks, votes or campaigns in it again.
    pub sealed: Option<u64>,
    /// Unsynced acks may be outstanding (flush.mode=async).
    pub dirty: bool,
    /// What this replica may have lost.
    pub doubt: Doubt,
    /// How the generation of `epoch` began.
    pub opening: Option<Opening>,
}

/// Where a log begins and everything that must be known of what lies before (the group's "snapshot").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStart {
    /// Identity of the entry before the first kept one (index 0, epoch 0.0 for a new log).
    pub prev: LogId,
    /// Base offset of the first kept entry.
    pub base_offset: Offset,
    /// First offset consumers may read; at or above `base_offset` (DeleteRecords may fall inside a batch).
    pub start_offset: Offset,
    /// The configuration in force at `prev`, as a Configuration entry's payload.
    pub configuration: Bytes,
    /// Identity of the entry that configuration came from.
    pub configuration_id: LogId,
    /// Producer state of the partition as of `producers_at`, opaque here.
    pub producers: Bytes,
    /// Index of the last entry that `producers` reflects; at or above `prev.index`.
    pub producers_at: Index,
}
