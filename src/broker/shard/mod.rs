//! One shard: the single owner of a node's groups, partitions and waiting requests.
//!
//! A poll-driven state machine: `handle` takes one [`Input`], `finish_turn` ends a turn (one message per peer, one
//! storage round, answers to whoever waited). No locks, no tasks, no clock of its own: `node` drives it with tokio, a simulator
//! could drive the same code. Requests come as [`Command`]s with a oneshot to answer; nothing here awaits.
//! - `produce`, `fetch`, `reads`: what clients ask of partitions.
//! - `metadata`: the controller log applied; replicas created and deleted; registration. `placing`: many of them, little by little.
//! - `snapshot`: the controller log cut behind snapshots of the image.
//! - `members`: who votes in the groups here, and generation changes. `leaving`: replicas that moved away.
//! - `controllers`: who votes in the controllers' own group, and its generations.
//! - `groups`: coordinators of consumer groups. `cleaning`: compacted topics, one partition after the other.
//! - `lease`: when partitions with `recovery.policy=auto` may be answered for.
//! - `recovery`: how partitions without a majority stand. `control`: the controller leader's duties and the way to it. `upkeep`: retention, in-sync sets, leadership news.

#[cfg(test)]
pub(crate) mod alone_tests;
pub(crate) mod anew;
mod cleaning;
mod control;
mod controllers;
mod fetch;
mod groups;
mod lease;
mod leaving;
mod members;
mod metadata;
mod orders;
mod placing;
mod produce;
mod quorum;
mod reads;
mod recovery;
pub mod rpc;

mod snapshot;
mod tending;
mod tombstones;
mod upkeep;

use super::api::{
    FetchItem, FetchLimits, Fetched, LeaderHint, ListedOffset, NodeStatus, OffsetSpec, PartitionError,
    PartitionState, ProduceItem, Produced, Quorum, SetAside,
};
use super::config::NodeConfig;
use super::groups::{Ask, Listed, Reply};
use super::partition::{Done, Partition};
use crate::ctl::command::{Command as CtlCommand, Error as CtlError, Reply as CtlReply};
use crate::ctl::image::Image;
use crate::ctl::record::Endpoint;
use crate::ctl::recovery::PartitionReport;
use crate::raftlog::codec::{self, BeatAnswer, Beats, Envelope, Hello, Hint};
use crate::raftlog::core::{Core, Millis, Role};
use crate::raftlog::engine::{Disk, Engine, GroupEvent, Net};
use crate::segment::{Generation, GroupId, Index, NodeId, RecoveredGroup, ReplicaId, RoundDone};
pub use cleaning::CleanerStep;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A hash map whose order depends on its history alone, so that a shard fed the same inputs does the same things. Only for keys
/// that clients cannot choose.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// The controller group.
pub const CONTROLLER: GroupId = GroupId(0);

/// An election after a process ended takes a fraction of this.
const ELECTION_MS: Millis = 1_000;
/// Questions and answers are kept for peers that are being dialled: how long, and bytes of all of them.
const UNSENT_MS: Millis = 1_000;
const UNSENT_BYTES: usize = 16 << 20;

/// Ranges set aside that are remembered for /health; the log names them all.
const SET_ASIDE: usize = 1_000;

/// A controller request's answer: the reply and the number of the entry that must be applied to see it.
pub type CtlAnswer = Result<(CtlReply, u64), CtlError>;

/// What handles ask.
pub enum Command {
    /// Append batches.
    Produce {
        /// One per partition.
        items: Vec<ProduceItem>,
        /// 0, 1 or -1.
        acks: i16,
        /// How long to wait.
        timeout_ms: u64,
        /// Bytes admitted; returned when the request is answered.
        permit: Option<OwnedSemaphorePermit>,
        /// One result per item.
        reply: oneshot::Sender<Vec<Result<Produced, PartitionError>>>,
    },
    /// Read batches.
    Fetch {
        /// One per partition.
        items: Vec<FetchItem>,
        /// Of the whole request.
        limits: FetchLimits,
        /// One result per item.
        reply: oneshot::Sender<Vec<Fetched>>,
    },
    /// ListOffsets of one partition.
    ListOffset {
        /// Group.
        group: GroupId,
        /// Which offset.
        spec: OffsetSpec,
        /// Epoch the client knows, -1 for none.
        epoch: i32,
        /// Answer.
        reply: oneshot::Sender<Result<ListedOffset, PartitionError>>,
    },
    /// OffsetForLeaderEpoch.
    EpochEnd {
        /// Group.
        group: GroupId,
        /// Asked epoch.
        asked: i32,
        /// Epoch the client knows, -1 for none.
        epoch: i32,
        /// Answer.
        reply: oneshot::Sender<Result<(i32, i64), PartitionError>>,
    },
    /// DeleteRecords.
    DeleteRecords {
        /// Group.
        group: GroupId,
        /// New start, -1 for the high watermark.
        offset: i64,
        /// How long to wait.
        timeout_ms: u64,
        /// Answer: the log start.
        reply: oneshot::Sender<Result<i64, PartitionError>>,
    },
    /// DescribeQuorum.
    Quorum {
        /// Group.
        group: GroupId,
        /// Answer.
        reply: oneshot::Sender<Result<Quorum, PartitionError>>,
    },
    /// Leadership and sizes as known here.
    States {
        /// Which groups.
        groups: Vec<GroupId>,
        /// In the same order.
        reply: oneshot::Sender<Vec<PartitionState>>,
    },
    /// Ask the leaders of groups to hand them to other nodes.
    HandOver {
        /// Which, and to whom.
        moves: Vec<(GroupId, NodeId)>,
        /// They were asked.
        reply: oneshot::Sender<()>,
    },
    /// A request about a consumer group.
    Group {
        /// Its partition of `__consumer_offsets`.
        partition: GroupId,
        /// Its id.
        name: String,
        /// What.
        ask: Ask,
        /// Answer.
        reply: oneshot::Sender<Reply>,
    },
    /// ListGroups: those coordinated here, and whether some are still being loaded.
    Groups {
        /// Answer.
        reply: oneshot::Sender<(Vec<Listed>, bool)>,
    },
    /// Ask the controller leader.
    Controller {
        /// What.
        command: CtlCommand,
        /// How long to try.
        timeout_ms: u64,
        /// Answer.
        reply: oneshot::Sender<CtlAnswer>,
    },
    /// How partitions stand and could go on, as the controller leader sees it; none if it could not be asked.
    Report {
        /// Which; none: all without a leader.
        groups: Vec<GroupId>,
        /// Each.
        reply: oneshot::Sender<Option<Vec<PartitionReport>>>,
    },
    /// Orderly stop: hand leadership over; answered when nothing is led any more.
    Drain {
        /// Done.
        reply: oneshot::Sender<()>,
    },
}

/// What a shard is fed.
pub enum Input {
    /// A request.
    Command(Command),
    /// A peer connected to us.
    Hello(Hello),
    /// Raft messages.
    Raft {
        /// Sender.
        from: NodeId,
        /// Messages.
        envelopes: Vec<Envelope>,
    },
    /// Beats of quiet groups.
    Beats {
        /// Sender.
        from: NodeId,
        /// Who leads, by bits.
        beats: Beats,
    },
    /// What came of ours.
    BeatAnswer {
        /// Sender.
        from: NodeId,
        /// Which were not for anybody.
        answer: BeatAnswer,
    },
    /// Leadership news.
    Hints(Vec<Hint>),
    /// A node asks.
    Request {
        /// Sender.
        from: NodeId,
        /// Its number.
        id: u64,
        /// JSON.
        body: bytes::Bytes,
    },
    /// A node answers.
    Response {
        /// Sender.
        from: NodeId,
        /// Number of our question.
        id: u64,
        /// JSON.
        body: bytes::Bytes,
    },
    /// The connection we dialled is up (or down).
    Dialled {
        /// Peer.
        node: NodeId,
        /// Up or down.
        up: bool,
    },
    /// The last connection from this peer was reset or closed: its process died.
    PeerReset {
        /// Peer.
        node: NodeId,
    },
    /// A storage round ended.
    RoundDone(RoundDone),
    /// A step of a compaction was run.
    Cleaned(Box<CleanerStep>),
}

/// The time, both ways.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic milliseconds: timers.
    pub mono: Millis,
    /// Wall clock milliseconds: record timestamps, retention.
    pub wall_ms: i64,
}

/// How a shard starts.
pub struct ShardConfig {
    /// The node's configuration.
    pub node: Arc<NodeConfig>,
    /// The data directory's uuid.
    pub directory: u128,
    /// Random id of this process start.
    pub boot: u128,
    /// What its listeners advertise to clients, by their names; none if it is no broker.
    pub kafka: Vec<(String, Endpoint)>,
    /// Advertised peer address.
    pub peer: Endpoint,
    /// Cluster id stored in the directory.
    pub cluster: Option<String>,
    /// Seed of placement and jitter.
    pub seed: u64,
}

struct PendingProduce {
    results: Vec<Option<Result<Produced, PartitionError>>>,
    groups: Vec<GroupId>,
    missing: usize,
    deadline: Millis,
    _permit: Option<OwnedSemaphorePermit>,
    reply: oneshot::Sender<Vec<Result<Produced, PartitionError>>>,
}

/// The owner of everything a node keeps.
pub struct Shard {
    config: ShardConfig,
    engine: Engine,
    partitions: Map<GroupId, Partition>,
    image: Arc<Image>,
    image_changed: bool,
    hints: Map<GroupId, Hint>,
    /// Nodes whose process was seen to end and that have not been heard since; until when elections in their stead are expected
    /// to be under way.
    gone: BTreeMap<NodeId, Millis>,
    /// Replicas that are to take the place of older ones of this node.
    superseded: BTreeMap<GroupId, (ReplicaId, Generation)>,
    next_id: u64,
    produces: Map<u64, PendingProduce>,
    produce_deadlines: BTreeSet<(Millis, u64)>,
    fetches: Map<u64, fetch::PendingFetch>,
    fetch_deadlines: BTreeSet<(Millis, u64)>,
    reads: Map<u64, reads::PendingRead>,
    quorums: quorum::Quorums,
    groups: groups::Groups,
    control: control::Control,
    controllers: controllers::Controllers,
    leases: lease::Leases,
    membership: metadata::Membership,
    upkeep: upkeep::Upkeep,
    cleaning: cleaning::Cleaning,
    floors: tombstones::Floors,
    members: members::Members,
    recovery: recovery::Reports,
    orphans: Map<GroupId, RecoveredGroup>,
    placing: placing::Placing,
    /// Replicas that have moved to other brokers and are to be deleted.
    leaving: BTreeMap<GroupId, ReplicaId>,
    /// Partitions led here.
    led: usize,
    /// Somebody began or ceased to lead since the last look.
    leadership_news: bool,
    /// Groups whose leadership began in this turn.
    newly_led: Vec<GroupId>,
    /// Partitions with a DeleteRecords that waits.
    deleting: BTreeSet<GroupId>,
    status: NodeStatus,
    done: Vec<Done>,
    dials: Vec<(NodeId, String)>,
    outgoing: Vec<(NodeId, Vec<bytes::Bytes>)>,
    /// Questions and answers on their way out.
    asking: VecDeque<(Millis, NodeId, Vec<bytes::Bytes>)>,
    drain: Option<oneshot::Sender<()>>,
    /// When this process last ran: a long gap means that it was stopped.
    ran: Millis,
}

impl Shard {
    /// A shard over an engine that holds no group yet; takes up the recovered ones.
    pub fn new(config: ShardConfig, engine: Engine, recovered: Vec<RecoveredGroup>, now: Now) -> Self {
        let node = config.node.clone();
        let mut shard = Self {
            control: control::Control::new(now.mono),
            controllers: controllers::Controllers::new(now.mono),
            leases: lease::Leases::default(),
            membership: metadata::Membership::new(&config),
            upkeep: upkeep::Upkeep::new(now.mono, &node),
            cleaning: cleaning::Cleaning::new(now.mono, &node),
            floors: tombstones::Floors::default(),
            members: members::Members::new(now.mono),
            recovery: recovery::Reports::default(),
            config,
            engine,
            partitions: Map::default(),
            image: Arc::new(Image::default()),
            image_changed: true,
            hints: Map::default(),
            gone: BTreeMap::new(),
            superseded: BTreeMap::new(),
            next_id: 1,
            produces: Map::default(),
            produce_deadlines: BTreeSet::new(),
            fetches: Map::default(),
            fetch_deadlines: BTreeSet::new(),
            reads: Map::default(),
            quorums: quorum::Quorums::default(),
            groups: groups::Groups::new(&node.defaults),
            orphans: Map::default(),
            placing: placing::Placing::default(),
            leaving: BTreeMap::new(),
            led: 0,
            leadership_news: true,
            newly_led: Vec::new(),
            deleting: BTreeSet::new(),
            status: NodeStatus::default(),
            done: Vec::new(),
            dials: Vec::new(),
            outgoing: Vec::new(),
            asking: VecDeque::new(),
            drain: None,
            ran: now.mono,
        };
        for (id, address) in &node.controllers {
            if *id != node.node_id {
                shard.dials.push((*id, address.clone()));
            }
        }
        shard.set_throttle();
        shard.start_membership(now, recovered);
        shard
    }

    fn node(&self) -> NodeId {
        self.config.node.node_id
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Feeds one input. Call `finish_turn` when no more is at hand.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.notice_stop(now);
        self.look_at_lease(now);
        if let Input::Raft { from, .. }
        | Input::Beats { from, .. }
        | Input::BeatAnswer { from, .. }
        | Input::Request { from, .. }
        | Input::Response { from, .. } = &input
        {
            // The end of an old connection may be noticed after the new one said hello (a process that was stopped, wires that
            // were cut): whoever is heard is there. What an old connection brought comes before the news of its end.
            self.gone.remove(from);
        }
        match input {
            Input::Command(command) => self.on_command(now, command),
            Input::Raft { from, envelopes } => self.engine.receive(now.mono, from, envelopes),
            Input::Beats { from, beats } => self.engine.receive_beats(now.mono, from, beats),
            Input::BeatAnswer { from, answer } => self.engine.receive_answer(now.mono, from, answer),
            Input::RoundDone(done) => self.engine.on_round_done(now.mono, done),
            Input::Cleaned(step) => self.on_cleaned(now, *step),
            Input::Hints(hints) => self.on_hints(hints),
            Input::Hello(hello) => self.on_hello(now, hello),
            Input::Request { from, id, body } => self.on_request(now, from, id, &body),
            Input::Response { from, id, body } => self.on_response(now, from, id, &body),
            Input::Dialled { node, up } => {
                self.engine.set_connected(now.mono, node, up);
                if up {
                    self.note_connection(now, node, true);
                    self.send_all_hints(node);
                } else {
                    self.controller_gone(now, node);
                }
            }
            Input::PeerReset { node } => {
                self.gone.insert(node, now.mono + ELECTION_MS);
                self.engine.peer_reset(now.mono, node);
                self.controller_gone(now, node);
                self.note_connection(now, node, false);
            }
        }
        self.process_events(now);
    }

    /// Something is due several times a second; a gap of a whole broker session means that this process was stopped (SIGSTOP, a
    /// paused machine). Its groups may have been re-formed without it meanwhile (safety.md F16).
    fn notice_stop(&mut self, now: Now) {
        let gap = now.mono.saturating_sub(std::mem::replace(&mut self.ran, now.mono));
        if gap >= self.config.node.broker_session_timeout.as_millis() as u64 {
            self.on_stopped(now, gap);
        }
    }

    fn on_command(&mut self, now: Now, command: Command) {
        match command {
            Command::Produce { items, acks, timeout_ms, permit, reply } => {
                self.on_produce(now, items, acks, timeout_ms, permit, reply)
            }
            Command::Fetch { items, limits, reply } => self.on_fetch(now, items, limits, reply),
            Command::ListOffset { group, spec, epoch, reply } => {
                self.on_read(now, group, epoch, reads::Ask::Offset { spec, reply })
            }
            Command::EpochEnd { group, asked, epoch, reply } => {
                self.on_read(now, group, epoch, reads::Ask::EpochEnd { asked, reply })
            }
            Command::DeleteRecords { group, offset, timeout_ms, reply } => {
                self.on_delete_records(now, group, offset, timeout_ms, reply)
            }
            Command::Quorum { group, reply } => self.on_describe_quorum(now, group, reply),
            Command::States { groups, reply } => {
                let states = groups.iter().map(|group| self.partition_state(now, *group)).collect();
                let _gone_client = reply.send(states);
            }
            Command::HandOver { moves, reply } => {
                for (group, to) in moves {
                    if let Some(leader) = self.leader_of(group) {
                        self.ask_to_hand_over(now, group, leader.node, to);
                    }
                }
                let _gone_client = reply.send(());
            }
            Command::Group { partition, name, ask, reply } => self.on_group(now, partition, name, ask, reply),
            Command::Groups { reply } => {
                let _gone_client = reply.send(self.list_groups());
            }
            Command::Controller { command, timeout_ms, reply } => {
                self.ask_controller(now, command, timeout_ms, reply)
            }
            Command::Report { groups, reply } => self.ask_report(now, groups, reply),
            Command::Drain { reply } => self.start_drain(now, reply),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.notice_stop(now);
        self.look_at_lease(now);
        self.tick_lease(now);
        self.engine.tick(now.mono);
        self.process_events(now);
        self.expire_requests(now);
        self.tick_control(now);
        self.tick_reports(now);
        self.tick_membership(now);
        self.place_some(now);
        self.tick_upkeep(now);
        self.tick_cleaning(now);
        self.tick_groups(now);
        self.tick_members(now);
        self.tick_controllers(now);
        self.process_events(now);
        // Not within the events: some may still speak of the replica that goes.
        if !self.superseded.is_empty() {
            self.replace_superseded(now);
        }
    }

    /// When `tick` is due next.
    pub fn deadline(&self) -> Millis {
        if !self.placing.is_done() || !self.superseded.is_empty() {
            return 0;
        }
        let mut next = self.engine.deadline().min(self.upkeep.deadline()).min(self.membership.deadline());
        next = next.min(self.control.deadline()).min(self.members_deadline()).min(self.recovery.deadline());
        next = next.min(self.controllers.deadline()).min(self.leases.deadline()).min(self.groups.deadline());
        next = next.min(self.cleaning.deadline());
        for queue in [&self.produce_deadlines, &self.fetch_deadlines] {
            if let Some((at, _)) = queue.first() {
                next = next.min(*at);
            }
        }
        next
    }

    /// Ends a turn: frames to peers, a storage round.
    pub fn finish_turn(&mut self, now: Now, net: &mut dyn Net, disk: &mut dyn Disk) {
        self.tell_newly_led();
        self.send_reports(now);
        self.send_outgoing(now, net);
        self.engine.flush(now.mono, net, disk);
        self.check_drain(now);
    }

    /// Hints are repeated anyway; a question or an answer is kept for a moment if its peer is just being dialled.
    fn send_outgoing(&mut self, now: Now, net: &mut dyn Net) {
        for (node, frame) in std::mem::take(&mut self.outgoing) {
            net.send(node, frame);
        }
        let mut kept = 0;
        for _ in 0..self.asking.len() {
            let Some((until, node, frame)) = self.asking.pop_front() else { break };
            if !net.send(node, frame.clone()) && until > now.mono {
                kept += frame.iter().map(bytes::Bytes::len).sum::<usize>();
                if kept <= UNSENT_BYTES {
                    self.asking.push_back((until, node, frame));
                }
            }
        }
    }

    fn process_events(&mut self, now: Now) {
        let mut events = Vec::new();
        loop {
            self.engine.take_events(&mut events);
            if events.is_empty() {
                self.answer_produces();
                // What coordinators make of it may be more to append.
                if self.settle_groups(now) {
                    continue;
                }
                break;
            }
            for event in events.drain(..) {
                self.on_event(now, event);
            }
        }
    }

    fn on_event(&mut self, now: Now, event: GroupEvent) {
        match event {
            GroupEvent::Appended { group, entries } => {
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.on_appended(&entries);
                }
            }
            GroupEvent::Truncated { group, from } => {
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.on_truncated(from, self.engine.store(), now.mono, &mut self.done);
                }
            }
            GroupEvent::Installed { group, start } => {
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.on_installed(&start, &mut self.done);
                }
            }
            GroupEvent::Committed { group: CONTROLLER, index } => self.apply_metadata(now, index),
            GroupEvent::Committed { group, index } => self.on_committed(now, group, index),
            GroupEvent::Stored { group } => {
                self.release_stored(group);
                // The leader is one of the voters that min.insync.replicas counts.
                self.on_progress(group);
            }
            GroupEvent::Progress { group } => self.on_progress(group),
            GroupEvent::Role { group: CONTROLLER, role, leader, .. } => {
                self.on_controller_role(now, role, leader)
            }
            GroupEvent::Role { group, epoch, role, leader } => {
                self.on_partition_role(now, group, (role, epoch, leader))
            }
            GroupEvent::Configured { group: CONTROLLER, .. } => self.controllers.look_now(),
            // Who is in sync is looked at anew; placement follows the controller log.
            GroupEvent::Configured { .. } => self.upkeep.in_sync_now(),
            GroupEvent::Removed { group, configuration } => {
                self.note_removed(group, configuration.epoch.generation);
                self.let_go(group);
            }
            GroupEvent::Superseded { group, by, generation } => self.note_superseded(group, by, generation),
            GroupEvent::Generation { group, what } => self.on_generation(now, group, what),
            GroupEvent::SetAside { group, entries, offsets } => {
                if self.status.set_aside.len() < SET_ASIDE {
                    self.status.set_aside.push(SetAside { group, entries, offsets });
                }
            }
            GroupEvent::Read { group: CONTROLLER, token, ok } => self.on_leader_confirmed(now, token, ok),
            GroupEvent::Read { group, token, ok } => self.on_read_confirmed(now, group, token, ok),
            GroupEvent::UncleanRecovery { waits, .. } => self.status.unclean_recoveries += u64::from(!waits),
            GroupEvent::WantsClean { group, until } => self.want_clean(group, until),
            GroupEvent::Repaired { group: CONTROLLER } => {
                let commit = self.engine.core(CONTROLLER).map(|core| core.commit());
                self.apply_metadata(now, commit.unwrap_or_default());
            }
            GroupEvent::Repaired { group } => {
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.on_repaired(self.engine.store());
                }
                self.upkeep.in_sync_now();
            }
            GroupEvent::Poisoned { group, reason } => {
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.out_of_service = Some(reason);
                }
            }
            GroupEvent::StorageFailed { reason } => {
                tracing::error!(reason, "data directory failed; it is offline, leadership goes to others");
                self.status.storage_failure = Some(reason);
            }
        }
    }

    fn on_committed(&mut self, now: Now, group: GroupId, index: crate::segment::Index) {
        let Some(p) = self.partitions.get_mut(&group) else { return };
        let before = p.high_watermark;
        let moved = p.on_committed(index, self.engine.store());
        let advanced = p.high_watermark > before;
        let waiting = if advanced { std::mem::take(&mut p.fetch_waiters) } else { BTreeSet::new() };
        self.on_progress(group);
        self.wake_coordinator(group);
        self.answer_deletes(group);
        if let Some(offset) = moved {
            self.move_start(now, group, offset);
        }
        for id in waiting {
            self.retry_fetch(now, id, false);
        }
    }

    fn on_progress(&mut self, group: GroupId) {
        if !self.may_acknowledge(group) {
            return;
        }
        let Some(p) = self.partitions.get_mut(&group) else { return };
        if p.role == Role::Leader && p.waits_for_holders() {
            let core = self.engine.core(group);
            p.release_committed(&|index| core.map_or(0, |c| c.holders(index)), &mut self.done);
        }
    }

    /// The leader's own copy is stored further than before.
    fn release_stored(&mut self, group: GroupId) {
        let stored = self.engine.core(group).map_or(Index(0), Core::stored);
        if self.may_acknowledge(group)
            && let Some(p) = self.partitions.get_mut(&group)
        {
            p.on_stored(stored, &mut self.done);
        }
    }

    fn answer_deletes(&mut self, group: GroupId) {
        if self.deleting.contains(&group)
            && self.may_acknowledge(group)
            && let Some(p) = self.partitions.get_mut(&group)
        {
            p.answer_deletes();
        }
    }

    /// Who leads the group as known here: the local replica's word, else the news.
    pub(super) fn leader_of(&self, group: GroupId) -> Option<LeaderHint> {
        let replica = self.partitions.get(&group);
        let local = replica.and_then(|p| Some((p.epoch, p.leader?.node)));
        // News of an epoch that the local replica has seen the end of says nothing any more.
        let current = |epoch| replica.is_none_or(|p| epoch >= p.epoch);
        let heard = self.hints.get(&group).filter(|h| current(h.epoch)).map(|h| (h.epoch, h.leader));
        let (epoch, node) = match (local, heard) {
            (Some(local), Some(heard)) => local.max(heard),
            (local, heard) => local.or(heard)?,
        };
        Some(LeaderHint { node, epoch: leader_epoch(epoch) })
    }

    /// The leader to send a client to: not a process that is gone, nor a broker that the controllers hold for dead.
    pub(super) fn hint_of(&self, group: GroupId) -> Option<LeaderHint> {
        let live = |node| self.image.brokers.get(&node).is_some_and(|b| !b.fenced);
        self.leader_of(group).filter(|hint| live(hint.node) && !self.gone.contains_key(&hint.node))
    }

    /// The image as of the last applied entry, if it changed since the last call.
    pub fn take_image(&mut self) -> Option<Arc<Image>> {
        std::mem::take(&mut self.image_changed).then(|| self.image.clone())
    }

    /// Peers to dial that were not known before.
    pub fn take_dials(&mut self) -> Vec<(NodeId, String)> {
        std::mem::take(&mut self.dials)
    }

    /// Health of the node.
    pub fn status(&self) -> &NodeStatus {
        &self.status
    }

    /// The engine and its groups, to look at: the simulator's checks.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Leader of the controller group, if known.
    pub fn controller_leader(&self) -> Option<NodeId> {
        self.engine.core(CONTROLLER).and_then(|c| c.leader()).map(|r| r.node)
    }

    /// Whether storage still works on something (an orderly stop waits for it).
    pub fn is_writing(&self) -> bool {
        self.engine.is_writing()
    }

    /// Our introduction on every connection we dial.
    pub fn hello(&self) -> Hello {
        Hello {
            cluster: self.membership.cluster().unwrap_or_default().to_owned(),
            node: self.node(),
            directory: self.config.directory,
            boot: self.config.boot,
            address: format!("{}:{}", self.config.peer.host, self.config.peer.port),
        }
    }

    fn on_hello(&mut self, now: Now, hello: Hello) {
        self.gone.remove(&hello.node);
        self.controllers.is_back(hello.node, now.mono);
        self.note_connection(now, hello.node, true);
        self.engine.set_peer_boot(now.mono, hello.node, hello.boot);
        self.dials.push((hello.node, hello.address));
    }

    fn send_rpc(&mut self, now: Now, to: NodeId, id: u64, body: &rpc::Ask) {
        let json = serde_json::to_vec(body).expect("plain data serialises");
        self.asking.push_back((now.mono + UNSENT_MS, to, codec::encode_request(id, &json)));
    }

    fn answer_rpc(&mut self, now: Now, to: NodeId, id: u64, body: &rpc::Answer) {
        let json = serde_json::to_vec(body).expect("plain data serialises");
        self.asking.push_back((now.mono + UNSENT_MS, to, codec::encode_response(id, &json)));
    }
}

/// Kafka's leader epoch of a Raft epoch: the term (safety.md F4). The only place that converts.
pub fn leader_epoch(epoch: crate::segment::Epoch) -> i32 {
    i32::try_from(epoch.term.0).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raftlog::engine::EngineConfig;
    use crate::segment::{self, Identity, StoreOptions};

    /// A broker's shard that knows nobody yet.
    fn shard(dir: &std::path::Path) -> Shard {
        let node = NodeConfig::new(NodeId(2), dir);
        let options = StoreOptions::new(dir.to_path_buf(), Identity { node: NodeId(2), cluster: None });
        let opened = segment::open(options).unwrap();
        let core = crate::broker::server::core_config(&node);
        let engine = Engine::new(EngineConfig { node: NodeId(2), boot: 1, core, seed: 1 }, opened.store, 0);
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: 1 };
        let config = ShardConfig {
            node: Arc::new(NodeConfig { is_controller: false, ..node }),
            directory: opened.directory,
            boot: 1,
            kafka: vec![(crate::ctl::listeners::PLAINTEXT.to_owned(), endpoint.clone())],
            peer: endpoint,
            cluster: None,
            seed: 1,
        };
        Shard::new(config, engine, opened.groups, Now { mono: 1_000, wall_ms: 0 })
    }

    /// Found by the chaos tests: a broker that had been stopped named no leader for what node 1 led, for good.
    #[test]
    fn end_of_an_old_connection_noticed_after_the_new_hello_node_is_there_once_heard() {
        let dir = tempfile::tempdir().unwrap();
        let mut shard = shard(dir.path());
        let (now, node) = (Now { mono: 2_000, wall_ms: 0 }, NodeId(1));
        let hello =
            Hello { cluster: String::new(), node, directory: 1, boot: 7, address: "127.0.0.1:1".into() };
        shard.handle(now, Input::Hello(hello));
        shard.handle(now, Input::PeerReset { node });
        assert!(shard.gone.contains_key(&node));
        shard.handle(now, Input::Raft { from: node, envelopes: Vec::new() });
        assert!(!shard.gone.contains_key(&node), "a node that is heard is not gone");
        // Where all groups are quiet, beats are all that is heard.
        for input in [
            Input::Beats { from: node, beats: codec::Beats::default() },
            Input::BeatAnswer { from: node, answer: codec::BeatAnswer::default() },
        ] {
            shard.handle(now, Input::PeerReset { node });
            assert!(shard.gone.contains_key(&node));
            shard.handle(now, input);
            assert!(!shard.gone.contains_key(&node), "a node whose beats are heard is not gone");
        }
    }
}
