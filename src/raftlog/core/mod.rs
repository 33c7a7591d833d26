//! The pure state machine of one Raft group: `step(now, event, &mut effects)`.
//!
//! No IO, no clock, no randomness of its own (jitter comes from `Restored::seed`), no async, no payload bytes, no maps:
//! the same events give the same effects. The engine (`raftlog::engine`) feeds it and carries its effects out *in
//! order*; storage completions come back as `Event::Durable`, any number in flight.
//!
//! Where to read: `election` (pre-vote, vote, timers), `leader` (propose, replicate, commit, beat), `follower`
//! (append, install, beat), `progress` (one peer as its leader sees it), `log` (epoch runs, ends, configurations),
//! `membership` (joint consensus), `takeover` (generations), `quorum` (majorities), `doubt` (who may have lost what),
//! `flush` (what counts unsynced), `fresh` (what may miss tombstones), `read_index`, `transfer`, `quiet` (beats by one bit). Here: types and dispatch.
//!
//! Invariants:
//! - term and vote go to storage before anything that depends on them (Raft figure 2): `SaveHardState` precedes it, and
//!   what promises something (vote, acknowledgement) is `after_storage`;
//! - nothing is acknowledged or counted that is not durable (`flush.mode=async`: written), the leader's own copy included;
//! - epochs compare generation first (safety.md F4); a message of a higher generation changes nothing here;
//! - a broken invariant yields `Effect::Poisoned` and a deaf group, never a panic.

mod doubt;
mod election;
mod flush;
mod follower;
mod fresh;
mod leader;
mod log;
mod look;
mod membership;
mod progress;
mod quiet;
pub(in crate::raftlog) mod quorum;
mod read_index;
mod takeover;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;

use self::doubt::Doubting;
use self::election::Votes;
pub use self::fresh::Apart;
use self::leader::Leading;
use self::log::LogView;
pub use self::membership::ChangeRefusal;
use self::takeover::is_answer;
pub use self::takeover::{GenerationEffect, Order};
use super::message::{Body, Configuration, Message};
use crate::mutation::{Mutation, on};
use crate::segment::{
    Cleaned, EntryKind, EntryMeta, Epoch, Generation, HardState, Index, LogId, LogStart, NodeId, Offset,
    ReplicaId,
};
use election::Answer;

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
    /// Everything up to this entry is written locally, and durable as far as it is control entries (`flush.mode=async`).
    Written {
        /// Last such entry.
        last: LogId,
    },
    /// The topic's `flush.mode`, as far as this node knows. Sync at the start.
    FlushMode {
        /// Records may count once they are written.
        is_async: bool,
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
    /// Make these the members (Raft §6), if the configuration in force is still the one of entry `expected`. Answered by
    /// `Effect::AppendConfiguration` or `Effect::ChangeRefused`.
    ChangeMembership {
        /// Entry of the configuration the caller knows (compare and set).
        expected: LogId,
        /// Voters to be.
        voters: Vec<ReplicaId>,
        /// Learners to be.
        learners: Vec<ReplicaId>,
    },
    /// From this node's copy of the controller log: the group's generation ends, or a new one was decided.
    Generation(Order),
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
    /// The process was stopped beyond its broker session: no vote and no campaign before it is registered anew.
    CloseGate,
    /// Local storage has failed: hand over and stay out.
    StorageFailed,
    /// Local log found damaged while running.
    Damaged,
    /// The damage is gone: the log is what it was.
    Repaired,
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
    /// What the Configuration entries of the next event say, in order: step it right before the `Receive` of an append
    /// that holds such entries (payloads never enter the core, but a configuration is in force from its append on).
    Configurations {
        /// One for each Configuration entry of the append.
        decoded: Vec<Configuration>,
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
        /// What the replica's numbers become at least, durable with them (decisions/0022).
        cleaned: Option<Cleaned>,
    },
    /// Append this entry of ours, whose payload is `configuration.encode()`.
    AppendConfiguration {
        /// Complete header.
        meta: EntryMeta,
        /// In force from now on.
        configuration: Configuration,
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
    /// The change of membership was refused. Nothing was appended.
    ChangeRefused {
        /// Why.
        reason: ChangeRefusal,
    },
    /// This replica is no member any more: this committed configuration is without it. It goes quiet.
    Removed {
        /// Entry of that configuration.
        configuration: LogId,
    },
    /// Every voter granted this election, and some majority of them may have lost what it committed (safety.md F11).
    Unclean {
        /// First entry that may be lost.
        from: Index,
        /// Not elected: somebody must allow it first (`Core::allow_unclean`).
        waits: bool,
    },
    /// The group's generation ends or begins.
    Generation(Box<GenerationEffect>),
    /// The leader's entries may not be taken: this replica begins anew (decisions/0022, rule A). Once in an epoch.
    Apart(Apart),
    /// An invariant broke: this group is fenced off, the process lives.
    Poisoned {
        /// What.
        reason: String,
    },
}

impl Effect {
    /// Boxed: these are rare and large, and effects are moved about on every append.
    fn generation(what: GenerationEffect) -> Self {
        Self::Generation(Box::new(what))
    }
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
    /// Last entry known to be stored there: durable, or written with `flush.mode=async`.
    pub matched: Index,
    /// When it was last heard.
    pub heard_ms: Millis,
    /// When it last held everything the leader had (for in-sync: replica.lag.time.max.ms); 0: not since its process started.
    pub caught_up_ms: Millis,
    /// Voter of the current configuration.
    pub voter: bool,
    /// Durably caught up in this term: a learner that may become a voter.
    pub is_caught_up: bool,
    /// Its answers count for commit: it is sure of its vote.
    pub counts: bool,
}

/// One replica of one group.
pub struct Core {
    config: CoreConfig,
    replica: ReplicaId,
    hard: HardState,
    /// `hard` differs from what was last emitted.
    hard_dirty: bool,
    /// `SaveHardState` was emitted in this step: even answers that promise nothing wait for it.
    saved_in_step: bool,
    /// Hard state was emitted when the log ended before this index and no entry from there on is known durable yet: so
    /// neither is that hard state (storage is one ordered stream; openraft's io_ordering page).
    unproven: Option<Index>,
    log: LogView,
    role: Role,
    leader: Option<ReplicaId>,
    announced: Option<(Epoch, Role, Option<ReplicaId>)>,
    /// When a message of `leader` last came.
    heard: Option<Millis>,
    /// When to give up on the leader, or on the present round of votes.
    timer: Option<Millis>,
    random: u64,
    gate_open: bool,
    /// Damaged, or storage failed: takes no entries, acknowledges nothing, never leads.
    held_out: bool,
    poisoned: bool,
    /// Pre-vote rounds still to come in quick succession (a leader known dead, a brand-new group).
    hurry: u8,
    round: u64,
    votes: Votes,
    /// Last entry that the leader of the present epoch has shown to be its own.
    verified: Index,
    /// Last entry acknowledged to the leader of the present epoch.
    acked: Index,
    /// Last entry told to be written to the leader of the present epoch.
    told: Index,
    /// The topic says so.
    may_be_async: bool,
    /// As leader it calls nothing committed from then on (`recovery.policy=auto`: its lease is over).
    commit_until: Millis,
    leading: Option<Box<Leading>>,
    observers: Vec<ReplicaId>,
    decoded: Vec<Configuration>,
    /// Nobody has shown yet that our log start, and what is kept with it, is of this generation's log.
    start_unproven: bool,
    /// Highest generation a message came from.
    seen: Generation,
    /// The committed configuration that this replica was told it is not in.
    removed: Option<LogId>,
    doubting: Doubting,
    /// Two voters name an heir: the controllers' group.
    has_heirs: bool,
    /// This process appended the newest configuration in its log, a joint one, and has let nobody else lead since.
    sole: bool,
    fresh: fresh::Fresh,
}

/// Quick pre-vote rounds in a brand-new group.
const HURRY_NEW: u8 = 20;

impl Core {
    /// Starts from what storage recovered; emits initial Role/Configured.
    pub fn new(config: CoreConfig, restored: Restored, now: Millis, out: &mut Vec<Effect>) -> Self {
        let Restored { hard_state, log_start, epochs, last, next_offset, configurations, .. } = restored;
        let base = decode(&log_start);
        let undecodable = base.is_none();
        let in_force = (log_start.configuration_id, base.unwrap_or_default());
        let mut log = LogView::new(log_start.prev, log_start.base_offset, in_force);
        log.reflect(log_start.producers_at);
        let consistent = log.restore(epochs, last, next_offset, configurations);
        let mut core = Self {
            replica: restored.replica,
            hard: hard_state,
            hard_dirty: false,
            saved_in_step: false,
            unproven: None,
            verified: log.commit(),
            acked: Index(0),
            told: Index(0),
            may_be_async: false,
            commit_until: Millis::MAX,
            log,
            role: Role::Follower,
            leader: None,
            announced: None,
            heard: None,
            timer: None,
            random: restored.seed,
            gate_open: restored.gate_open,
            held_out: restored.needs_repair,
            poisoned: false,
            hurry: if restored.campaign_at_once { HURRY_NEW } else { 0 },
            round: 0,
            votes: Votes::default(),
            leading: None,
            observers: Vec::new(),
            decoded: Vec::new(),
            start_unproven: false,
            seen: Generation(0),
            removed: None,
            doubting: Doubting::default(),
            has_heirs: false,
            sole: false,
            fresh: fresh::Fresh::default(),
            config,
        };
        core.heed_log();
        core.forget_with_the_process();
        core.log.void_before(core.hard.epoch.generation);
        core.doubt_start();
        core.role = core.resting_role();
        core.arm_first_timer(now);
        core.persist(out);
        core.announce(out);
        core.announce_configuration(out);
        if undecodable {
            core.poison("log start holds no readable configuration".into(), out);
        } else if !consistent {
            core.poison("recovered epochs, last entry and configurations contradict each other".into(), out);
        }
        core
    }

    /// At a start: whether hard state or log is newer.
    fn heed_log(&mut self) {
        if self.log.last().epoch > self.hard.epoch {
            // An entry of a newer epoch is durable but the hard state before it is not: the log wins and the vote given
            // in the older term means nothing any more.
            let epoch = self.log.last().epoch;
            if epoch.generation != self.hard.epoch.generation {
                self.hard.opening = None;
                self.hard.sealed = None;
            }
            self.hard.epoch = epoch;
            self.hard.vote = None;
            self.hard_dirty = true;
        }
    }

    /// Feeds one event.
    pub fn step(&mut self, now: Millis, event: Event, out: &mut Vec<Effect>) {
        if self.poisoned {
            return self.refuse(now, event, out);
        }
        self.saved_in_step = false;
        let decoded = !matches!(event, Event::Configurations { .. });
        match event {
            Event::Tick => self.tick(now, out),
            Event::Receive { from, message } => self.receive(now, from, message, out),
            Event::Propose { entries } => self.propose(now, &entries, out),
            Event::Durable { last } => self.note_durable(now, last, out),
            Event::Written { last } => self.note_written(now, last, out),
            Event::FlushMode { is_async } => self.set_async(now, is_async, out),
            Event::Sent { to, last, bytes } => self.note_sent(now, to, last, bytes, out),
            Event::ReadIndex { token } => self.read_index(token, out),
            Event::Transfer { to } => self.start_transfer(now, to, out),
            Event::ChangeMembership { expected, voters, learners } => {
                self.change_membership(now, expected, voters, learners, out);
            }
            Event::PeerReset { node } => self.note_reset(now, node, false, out),
            Event::PeerIncarnation { node } => self.note_reset(now, node, true, out),
            Event::OpenGate => {
                self.gate_open = true;
                self.arm_first_timer(now);
            }
            Event::CloseGate => self.close_gate(now, out),
            Event::StorageFailed => {
                self.doubting.damaged_from = None;
                self.hold_out(now, out);
            }
            Event::Damaged => self.note_damage(now, out),
            Event::Repaired => self.note_repaired(now),
            Event::Generation(order) => self.obey(now, order, out),
            Event::AddObserver { replica } => self.add_observer(now, replica, out),
            Event::RemoveObserver { node } => self.remove_observer(node),
            Event::LogStartMoved { start } => self.move_log_start(&start, out),
            Event::Configurations { decoded } => self.decoded = decoded,
        }
        if decoded && !self.decoded.is_empty() {
            self.decoded.clear();
        }
        self.mind_doubt(now, out);
        self.persist(out);
        self.announce(out);
    }

    /// When `Event::Tick` is due next (election timeout, check-quorum, transfer abort...). Beats are not included: the engine calls `beat`.
    pub fn deadline(&self) -> Option<Millis> {
        match &self.leading {
            Some(leading) => leading.deadline(),
            None => [self.timer, self.asks_again(), self.doubt_deadline()].into_iter().flatten().min(),
        }
    }

    fn receive(&mut self, now: Millis, from: ReplicaId, message: Message, out: &mut Vec<Effect>) {
        let Message { epoch, body } = message;
        if from == self.replica {
            return;
        }
        if epoch.generation > self.hard.epoch.generation && !on(Mutation::IgnoreGeneration) {
            // A higher generation reaches a replica through its own copy of the controller log, never by message (F2):
            // the survivor has to be what it was sealed as when the decision comes.
            return self.note_generation(now, epoch.generation, out);
        }
        let is_sealed = self.hard.sealed.is_some() && !on(Mutation::IgnoreSeal);
        if is_sealed && epoch.generation == self.hard.epoch.generation {
            if !is_answer(&body) {
                self.send(from, Body::Sealed, false, out);
            }
            return;
        }
        match body {
            Body::PreVote { last, round } => self.on_pre_vote(now, from, epoch, last, round, out),
            Body::PreVoteReply { granted, round } => {
                self.on_pre_vote_reply(now, from, epoch, Answer::sound(granted), round, out);
            }
            Body::Vote { last, transfer } => self.on_vote(now, from, epoch, last, transfer, out),
            Body::VoteReply { granted } => self.on_vote_reply(now, from, epoch, Answer::sound(granted), out),
            Body::Append { prev, entries, commit, cleaned } => {
                if self.follow(now, from, epoch, out) && self.may_take(prev, &entries, cleaned, out) {
                    self.on_append(from, (prev, entries), commit, cleaned, out);
                }
            }
            Body::Beat { commit, sequence } => {
                if self.follow(now, from, epoch, out) {
                    self.on_beat(from, commit, sequence, out);
                }
            }
            Body::InstallLogStart { start } => {
                if self.follow(now, from, epoch, out) {
                    self.on_install(from, start, out);
                }
            }
            Body::TimeoutNow => {
                if self.follow(now, from, epoch, out) {
                    self.on_timeout_now(now, out);
                }
            }
            Body::AppendAccepted { .. }
            | Body::Written { .. }
            | Body::AppendRejected { .. }
            | Body::BeatReply { .. }
            | Body::LogStartInstalled { .. } => {
                if self.is_current(now, epoch, out) {
                    self.on_answer(now, from, body, out);
                }
            }
            Body::Sealed => {
                if self.is_current(now, epoch, out) {
                    self.on_sealed(now, from, out);
                }
            }
            Body::Fenced => {
                self.is_current(now, epoch, out);
            }
            Body::Removed { configuration } => self.on_removed(now, configuration, out),
            body => self.receive_doubt(now, from, epoch, body, out),
        }
    }

    /// Whether an answer belongs to the present epoch; a higher term makes us follow it, a lower one is left over.
    fn is_current(&mut self, now: Millis, epoch: Epoch, out: &mut Vec<Effect>) -> bool {
        if epoch > self.hard.epoch {
            self.become_follower(now, epoch, None, out);
        }
        epoch == self.hard.epoch
    }

    fn note_durable(&mut self, now: Millis, last: LogId, out: &mut Vec<Effect>) {
        let was_held_back = self.is_held_back();
        if !self.log.set_durable(last) {
            return;
        }
        if self.unproven.is_some_and(|first| self.log.durable() >= first) {
            self.unproven = None;
        }
        if was_held_back {
            self.pump_all(now, out);
        }
        if self.leading.is_some() {
            self.advance_commit(now, out);
        } else {
            self.acknowledge_durable(out);
        }
    }

    /// A leader goes on: its next check-quorum tells it soon enough whether it still leads anybody (safety.md F16, F19).
    fn close_gate(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.gate_open = false;
        if matches!(self.role, Role::PreCandidate | Role::Candidate) {
            self.become_follower(now, self.hard.epoch, None, out);
        }
    }

    fn hold_out(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.held_out = true;
        if self.leading.is_some() {
            self.start_transfer(now, None, out);
        } else if self.role == Role::PreCandidate || self.role == Role::Candidate {
            self.become_follower(now, self.hard.epoch, None, out);
        }
    }

    fn move_log_start(&mut self, start: &LogStart, out: &mut Vec<Effect>) {
        self.log.reflect(start.producers_at);
        if start.prev.index <= self.log.start().index {
            return;
        }
        if start.prev.index > self.log.commit() || !self.log.contains(start.prev) {
            return self
                .poison(format!("log start moved to {}, which is not committed here", start.prev), out);
        }
        match decode(start) {
            Some(base) => self.log.advance_start(start.prev, (start.configuration_id, base)),
            None => self.poison("log start holds no readable configuration".into(), out),
        }
    }

    /// What a poisoned group still owes its callers.
    fn refuse(&mut self, now: Millis, event: Event, out: &mut Vec<Effect>) {
        match event {
            // It ends its generation like any other, and says that it is not sound.
            Event::Generation(Order::Seal { generation, plan }) => self.seal(now, generation, plan, out),
            Event::Propose { .. } => out.push(Effect::Refused { reason: Refusal::NotLeader }),
            Event::ReadIndex { token } => out.push(Effect::ReadFailed { token }),
            Event::ChangeMembership { .. } => {
                out.push(Effect::ChangeRefused { reason: ChangeRefusal::NotLeader });
            }
            _ => {}
        }
    }

    fn poison(&mut self, reason: String, out: &mut Vec<Effect>) {
        self.stop_leading(out);
        self.poisoned = true;
        self.role = self.resting_role();
        self.leader = None;
        self.timer = None;
        self.persist(out);
        self.announce(out);
        out.push(Effect::Poisoned { reason });
    }

    fn persist(&mut self, out: &mut Vec<Effect>) {
        if self.hard_dirty {
            self.hard_dirty = false;
            self.saved_in_step = true;
            self.unproven = Some(self.log.last().index.next());
            out.push(Effect::SaveHardState(self.hard));
        }
    }

    fn announce(&mut self, out: &mut Vec<Effect>) {
        let now = (self.hard.epoch, self.role, self.leader);
        if self.announced != Some(now) {
            self.announced = Some(now);
            out.push(Effect::Role { epoch: now.0, role: now.1, leader: now.2 });
        }
    }

    fn announce_configuration(&self, out: &mut Vec<Effect>) {
        let (configuration, id) = self.log.configuration();
        out.push(Effect::Configured { id, configuration: configuration.clone() });
    }

    /// Sends in the present epoch. Whatever was saved in this step must be durable before anything is said of it.
    fn send(&mut self, to: ReplicaId, body: Body, after_storage: bool, out: &mut Vec<Effect>) {
        self.persist(out);
        let message = Message { epoch: self.hard.epoch, body };
        let waits = (after_storage || self.saved_in_step) && !on(Mutation::SpeakBeforeStored);
        out.push(Effect::Send { to, message, after_storage: waits });
    }

    fn is_voter(&self) -> bool {
        self.log.configuration().0.is_voter(self.replica)
    }

    fn resting_role(&self) -> Role {
        if self.is_voter() { Role::Follower } else { Role::Learner }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014), scaled to `0..bound` by the high half of the product.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(bound)) >> 64) as u64
    }
}

/// The configuration a log start carries; none yet is an empty one.
fn decode(start: &LogStart) -> Option<Configuration> {
    if start.configuration.is_empty() {
        return Some(Configuration::default());
    }
    Configuration::decode(&start.configuration)
}
