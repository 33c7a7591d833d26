//! The pure state machine of one Raft group. (contract stub)
//! No IO, no clock, no randomness of its own, no async, no payload bytes.

use super::message::{Configuration, Message};
use crate::segment::{
    EntryKind, EntryMeta, Epoch, HardState, Index, LogId, LogStart, NodeId, Offset, ReplicaId,
};

/// Milliseconds of a monotonic clock.
pub type Millis = u64;

/// Timing and windows (design section 5 defaults).
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Beat interval. 100 ms.
    pub beat_ms: u64,
    /// Lower bound of the election timeout. 600 ms.
    pub election_min_ms: u64,
    /// Upper bound (exclusive). 1,200 ms.
    pub election_max_ms: u64,
    /// Check-quorum window. 1,200 ms.
    pub check_quorum_ms: u64,
    /// Stickiness window: (pre-)votes are refused while the leader was heard within it. = election_min_ms by default.
    pub stickiness_ms: u64,
    /// Payload bytes in flight to one follower. 8 MiB.
    pub window_bytes: usize,
    /// Payload bytes in one append. 1 MiB.
    pub append_bytes: usize,
    /// Payload bytes appended but not committed at the leader, beyond which proposals are refused. 64 MiB.
    pub uncommitted_bytes: usize,
    /// Jitter bound of the early pre-vote after a connection reset. 50 ms.
    pub reset_jitter_ms: u64,
}

/// What the core starts from (a new group: everything zero but replica, configuration).
#[derive(Clone, Debug)]
pub struct Restored {
    /// This replica.
    pub replica: ReplicaId,
    /// Persisted state.
    pub hard_state: HardState,
    /// Log start (position and configuration).
    pub log_start: LogStart,
    /// First index of every epoch in the log, ascending.
    pub epochs: Vec<(Epoch, Index)>,
    /// Last entry (= log_start.prev if the log is empty). All of it is durable.
    pub last: LogId,
    /// Offset the next record gets.
    pub next_offset: Offset,
    /// Configuration entries in the log, ascending, decoded.
    pub configurations: Vec<(LogId, Configuration)>,
    /// May it vote and campaign yet? (boot gate, safety.md F16; see `Event::OpenGate`)
    pub gate_open: bool,
    /// Held out: damaged. Never votes, leads or truncates.
    pub needs_repair: bool,
    /// First replica of a brand-new group campaigns at once.
    pub campaign_at_once: bool,
    /// Seed of its election jitter.
    pub seed: u64,
}

/// What happens to a group.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed; step with it at or after `Core::deadline()`.
    Tick,
    /// A message of a peer replica.
    Receive {
        /// Who sent it.
        from: ReplicaId,
        /// What.
        message: Message,
    },
    /// Append these as leader. The core fills in index, epoch, prev and base offset (see `Effect::Append`).
    Propose {
        /// Kind, offset span, payload length of each, in order.
        entries: Vec<(EntryKind, u32, u32)>,
    },
    /// Everything up to this entry is durable locally (tag: an entry that is no longer in the log is ignored).
    Durable {
        /// Last durable entry.
        last: LogId,
    },
    /// The engine sent an append for `Effect::Replicate`: entries up to `last`, `bytes` of payload.
    Sent {
        /// To whom.
        to: ReplicaId,
        /// Last entry sent.
        last: Index,
        /// Payload bytes.
        bytes: usize,
    },
    /// Confirm leadership; answered by `Effect::ReadReady` or `Effect::ReadFailed`.
    ReadIndex {
        /// Engine's token.
        token: u64,
    },
    /// Hand leadership to this voter (or the best one).
    Transfer {
        /// Target.
        to: Option<ReplicaId>,
    },
    /// The connection to the process of this node was reset (safety.md F22).
    PeerReset {
        /// Which node.
        node: NodeId,
    },
    /// A peer re-registered: its progress is reset to probe and its match may regress (safety.md F6).
    PeerIncarnation {
        /// Which node.
        node: NodeId,
    },
    /// Registered and caught up with the controller log: may vote and campaign.
    OpenGate,
    /// Local storage has failed: hand over and stay out.
    StorageFailed,
    /// Local log found damaged while running.
    Damaged,
    /// Replicate to an observer: a non-member (group 0's brokers), never counted.
    AddObserver {
        /// Which replica.
        replica: ReplicaId,
    },
    /// Stop replicating to it.
    RemoveObserver {
        /// Which node.
        node: NodeId,
    },
    /// The local log start moved (retention): entries at or below `start.prev` are gone.
    LogStartMoved {
        /// New start.
        start: LogStart,
    },
}

/// What the engine must do. In order. `after_storage`: not before everything this group emitted earlier
/// (Append, Truncate, SaveHardState, Install) is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Remove entries at or above this index. Never at or below commit.
    Truncate {
        /// First removed.
        from: Index,
    },
    /// Append these. For proposals (`own`) in the order proposed; for received entries the suffix of the
    /// message's entries that was new: `metas` are equal to the message's.
    Append {
        /// Complete headers.
        metas: Vec<EntryMeta>,
        /// Proposed here (payloads come from the proposal; Noop has none) rather than received.
        own: bool,
    },
    /// Persist this.
    SaveHardState(HardState),
    /// Send this.
    Send {
        /// To whom.
        to: ReplicaId,
        /// What.
        message: Message,
        /// Wait for storage first.
        after_storage: bool,
    },
    /// Read entries from `prev.index + 1` on, up to `max_bytes` (0: an empty probe), and send them as an Append with `prev` and
    /// `commit`; then step `Event::Sent` (not for probes with nothing sent). Never waits for storage: the leader replicates in
    /// parallel with its own fsync.
    Replicate {
        /// To whom.
        to: ReplicaId,
        /// Entry before the first.
        prev: LogId,
        /// Budget.
        max_bytes: usize,
        /// Commit index to carry.
        commit: Index,
    },
    /// Send your log start state (Body::InstallLogStart) to a follower that is behind it.
    SendLogStart {
        /// To whom.
        to: ReplicaId,
    },
    /// Replace the local log by an empty one that starts here.
    Install {
        /// The received state.
        start: LogStart,
    },
    /// Entries up to here are committed.
    Committed {
        /// New commit index.
        index: Index,
    },
    /// Role or leader or epoch changed.
    Role {
        /// Current epoch.
        epoch: Epoch,
        /// What it is now.
        role: Role,
        /// Known leader.
        leader: Option<ReplicaId>,
    },
    /// The configuration in force changed.
    Configured {
        /// Its entry.
        id: LogId,
        /// It.
        configuration: Configuration,
    },
    /// The read is confirmed: serve once applied to `index`.
    ReadReady {
        /// Token of the request.
        token: u64,
        /// Commit index at confirmation.
        index: Index,
    },
    /// Not leader (any more): ask elsewhere.
    ReadFailed {
        /// Token of the request.
        token: u64,
    },
    /// The proposal was refused: not leader, transferring, sealed, or too much uncommitted. Nothing was appended.
    Refused {
        /// Why.
        reason: Refusal,
    },
    /// An invariant broke: this group is fenced off, the process lives.
    Poisoned {
        /// What.
        reason: String,
    },
}

/// Why a proposal was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another replica leads, or nobody does.
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// More than `uncommitted_bytes` wait for commit.
    Busy,
}

/// Role of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows (or waits for) a leader.
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Non-voting member or observer.
    Learner,
}

/// What a leader knows of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Which replica.
    pub replica: ReplicaId,
    /// Last entry known durable there.
    pub matched: Index,
    /// When it was last heard.
    pub heard_ms: Millis,
    /// When it last held everything the leader had (for in-sync: replica.lag.time.max.ms).
    pub caught_up_ms: Millis,
    /// Voter of the current configuration.
    pub voter: bool,
}

/// One replica of one group.
pub struct Core {}
impl Core {
    /// Starts from what storage recovered; emits initial Role/Configured.
    pub fn new(_config: CoreConfig, _restored: Restored, _now: Millis, _out: &mut Vec<Effect>) -> Self {
        unimplemented!()
    }
    /// Feeds one event.
    pub fn step(&mut self, _now: Millis, _event: Event, _out: &mut Vec<Effect>) {
        unimplemented!()
    }
    /// When `Event::Tick` is due next (election timeout, check-quorum, transfer abort...). Beats are not included: the engine calls `beat`.
    pub fn deadline(&self) -> Option<Millis> {
        unimplemented!()
    }
    /// As leader: the beat for this peer, every `beat_ms` for all peers. May also push repair work (Replicate) into `out`.
    pub fn beat(&mut self, _now: Millis, _to: ReplicaId, _out: &mut Vec<Effect>) -> Option<Message> {
        unimplemented!()
    }
    /// As leader with pending reads: a beat should go out now rather than at the next interval.
    pub fn wants_beat(&self) -> bool {
        unimplemented!()
    }
    /// This replica.
    pub fn replica(&self) -> ReplicaId {
        unimplemented!()
    }
    /// Role now.
    pub fn role(&self) -> Role {
        unimplemented!()
    }
    /// Epoch now.
    pub fn epoch(&self) -> Epoch {
        unimplemented!()
    }
    /// Leader, if known.
    pub fn leader(&self) -> Option<ReplicaId> {
        unimplemented!()
    }
    /// Commit index.
    pub fn commit(&self) -> Index {
        unimplemented!()
    }
    /// Leader with an entry of its own term committed (may answer end-of-log questions after a read index).
    pub fn is_established(&self) -> bool {
        unimplemented!()
    }
    /// Last entry.
    pub fn last(&self) -> LogId {
        unimplemented!()
    }
    /// Last locally durable entry.
    pub fn durable(&self) -> Index {
        unimplemented!()
    }
    /// Configuration in force and its id.
    pub fn configuration(&self) -> (&Configuration, LogId) {
        unimplemented!()
    }
    /// As leader: every voter holding `index` durably, itself included (acks=all with min.insync.replicas, safety.md F15).
    pub fn holders(&self, _index: Index) -> usize {
        unimplemented!()
    }
    /// As leader: what is known of the peers.
    pub fn progress(&self) -> Vec<PeerProgress> {
        unimplemented!()
    }
    /// Persisted state.
    pub fn hard_state(&self) -> HardState {
        unimplemented!()
    }
}
