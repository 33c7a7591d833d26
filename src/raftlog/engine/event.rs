//! What the engine tells the layer above of its groups, as plain data. Not here: when (`mod`, `effects`, `repair`).

use crate::raftlog::core::{GenerationEffect, Role};
use crate::raftlog::message::Configuration;
use crate::segment::{Entry, Epoch, Generation, GroupId, Index, LogId, LogStart, Offset, ReplicaId};

/// What happened to a group, for the layer above, in order.
#[derive(Debug)]
pub enum GroupEvent {
    /// Entries were appended (own or received), not yet durable.
    Appended {
        /// Group.
        group: GroupId,
        /// Entries in order.
        entries: Vec<Entry>,
    },
    /// Entries at or above `from` are gone.
    Truncated {
        /// Group.
        group: GroupId,
        /// First removed.
        from: Index,
    },
    /// The log was replaced by an empty one.
    Installed {
        /// Group.
        group: GroupId,
        /// Where it starts.
        start: LogStart,
    },
    /// Entries up to `index` are committed.
    Committed {
        /// Group.
        group: GroupId,
        /// Commit index.
        index: Index,
    },
    /// More entries are stored here, as safely as the topic asks (`Core::stored`).
    Stored {
        /// Group.
        group: GroupId,
    },
    /// Some follower now holds more (leader only).
    Progress {
        /// Group.
        group: GroupId,
    },
    /// Role, leader or epoch changed.
    Role {
        /// Group.
        group: GroupId,
        /// Epoch.
        epoch: Epoch,
        /// Role.
        role: Role,
        /// Leader if known.
        leader: Option<ReplicaId>,
    },
    /// The configuration in force changed (at every append of one, and back when that is truncated).
    Configured {
        /// Group.
        group: GroupId,
        /// Its entry.
        id: LogId,
        /// It.
        configuration: Configuration,
    },
    /// This replica is not in that committed configuration any more; it is quiet, its data may go.
    Removed {
        /// Group.
        group: GroupId,
        /// Entry of the configuration.
        configuration: LogId,
    },
    /// A peer whose incarnation fits speaks to another, later replica of this node: it knows a configuration with that one in it.
    Superseded {
        /// Group.
        group: GroupId,
        /// Whom it speaks to.
        by: ReplicaId,
        /// The generation in which it does.
        generation: Generation,
    },
    /// What became of an order about the group's generation, or of a message from another one. A seal is reported when it
    /// and the whole log are durable; take-overs and copies set aside are carried out by the engine and not told.
    Generation {
        /// Group.
        group: GroupId,
        /// What.
        what: GenerationEffect,
    },
    /// Entries that this generation's leader does not have are kept in files of their own, which nothing reads.
    SetAside {
        /// Group.
        group: GroupId,
        /// First and last of them.
        entries: (LogId, LogId),
        /// First offset, and the one after the last.
        offsets: (Offset, Offset),
    },
    /// A read index is confirmed (`ok`), or leadership is gone.
    Read {
        /// Group.
        group: GroupId,
        /// Token given to `read_index`.
        token: u64,
        /// Whether it may be served.
        ok: bool,
    },
    /// Every voter granted an election, and some majority of them may have lost what it acknowledged (safety.md F11).
    UncleanRecovery {
        /// Group.
        group: GroupId,
        /// Epoch of the election.
        epoch: Epoch,
        /// First entry that may be lost.
        from: Index,
        /// First offset that may be lost; the end is open.
        offset: Offset,
        /// It was not held: approval is missing.
        waits: bool,
    },
    /// Another replica cannot be made whole from this one before it is clean to here (decisions/0022).
    WantsClean {
        /// Group.
        group: GroupId,
        /// To where.
        until: Offset,
    },
    /// Damaged entries are whole again.
    Repaired {
        /// Group.
        group: GroupId,
    },
    /// The group fenced itself off.
    Poisoned {
        /// Group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The data directory failed for good.
    StorageFailed {
        /// Why.
        reason: String,
    },
}
