//! The engine: owns the groups of one node outright and drives their cores.
//!
//! A poll-driven state machine over [`Net`], [`Disk`] and a passed-in clock: no tasks, no threads, no locks, so that a simulator
//! drives this very code. Everything emitted in one turn is batched: one message per peer, one storage round.
//! Called by: `broker::shard`, which feeds it events and takes its [`GroupEvent`]s. Not here: what entries mean.
//! Invariants:
//! - a message marked `after_storage` leaves only when every storage change its group made before it is durable (Raft §5.1, §5.3:
//!   persist before you answer);
//! - a message whose replica ids or incarnations do not match is dropped (safety.md F6);
//! - one storage round is in flight at most; what gathers meanwhile is the next one (group commit, no timer).

mod beats;
mod campaigns;
mod effects;
mod event;
mod flush;
mod membership;
mod recovery;
mod repair;
mod takeover;
#[cfg(test)]
pub(crate) mod tests;

pub use event::GroupEvent;
pub use flush::Flush;
pub use membership::ChangeError;

use super::codec::{Envelope, RaftFrame};
use super::core::{
    ChangeRefusal, Core, CoreConfig, Effect, Event, Millis, PeerProgress, Refusal, Restored, Role,
};
use super::message::{Body, Configuration, Message};
use super::offline;
use super::wheel::Wheel;
use crate::mutation::{Mutation, on};
use crate::segment::{
    Durable, EntryKind, EntryMeta, Error as StoreError, GroupId, GroupSpec, Index, LogStart, NodeId,
    RecoveredGroup, Remains, ReplicaId, Round, RoundDone, Store, weight,
};
use bytes::{Bytes, BytesMut};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Sends frames to peers. Never blocks; a frame that does not fit is dropped (Raft repairs it).
pub trait Net {
    /// Queues the slices of one frame; false if it was dropped.
    fn send(&mut self, to: NodeId, frame: Vec<Bytes>) -> bool;
    /// Bytes queued for this peer and not yet written to its socket.
    fn queued_bytes(&self, to: NodeId) -> usize;
}

/// Takes storage rounds to the IO thread; completions come back as `Engine::on_round_done`.
pub trait Disk {
    /// Starts a round; at most one is in flight.
    fn submit(&mut self, round: Round);
}

/// Frames are cut at this size so that a beat never waits behind much data.
const FRAME_BYTES: usize = 1 << 20;
/// Beyond this backlog towards one peer no more entries are read for it.
const BACKLOG_BYTES: usize = 32 << 20;
/// Bytes of entries that may wait for storage, all groups together; beyond it proposals are refused and what leaders send is not taken.
const UNSTORED_BYTES: u64 = 256 << 20;
/// Messages for groups that are not here yet (their creation is on the way), kept for a moment.
const EARLY_MESSAGES: usize = 4096;
const EARLY_MS: u64 = 500;

/// Something to append, in order.
#[derive(Debug)]
pub struct Proposal {
    /// What it is.
    pub kind: EntryKind,
    /// Offsets it occupies.
    pub offset_span: u32,
    /// Its bytes; base offset and epoch are patched in by the caller's `assign` before it is frozen.
    pub payload: BytesMut,
}

/// Why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The core refused.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// Below the disk reserve.
    #[error("data directory is full")]
    DiskFull,
    /// Storage has failed for good.
    #[error("storage failed: {0}")]
    Failed(String),
    /// No such group here.
    #[error("unknown group")]
    Unknown,
}

struct Group {
    id: GroupId,
    core: Core,
    /// Everyone the leader talks to, without this replica.
    peers: Vec<ReplicaId>,
    observers: Vec<ReplicaId>,
    /// Round that makes the last storage change of this group durable.
    stored_round: u64,
    /// When the wheel fires for it next. Older keys, whose deadline was moved forward, are still in there and mean nothing.
    armed: Millis,
    poisoned: bool,
    /// Slots of the beats of quiet groups.
    ties: beats::Ties,
    /// It is one of the candidates that `campaigns` counts, or waits to be.
    campaign: campaigns::State,
    flush: flush::GroupFlush,
}

/// What a step carries beside the event: payload bytes never enter the core.
enum Payloads<'a> {
    None,
    Own { proposals: Vec<Proposal>, assign: &'a mut dyn FnMut(&EntryMeta, &mut BytesMut) },
    Received { first: Index, payloads: Vec<Bytes> },
}

/// How an engine starts.
pub struct EngineConfig {
    /// This node.
    pub node: NodeId,
    /// Random id of this process start.
    pub boot: u128,
    /// Raft timing.
    pub core: CoreConfig,
    /// Seed of all election jitter.
    pub seed: u64,
}

/// All groups of one node.
pub struct Engine {
    config: EngineConfig,
    store: Store,
    groups: Slab<Group>,
    by_id: HashMap<GroupId, usize>,
    incarnation: u64,
    incarnations: BTreeMap<NodeId, u64>,
    boots: BTreeMap<NodeId, u128>,
    connected: BTreeSet<NodeId>,
    saturated: BTreeSet<NodeId>,
    recovery: recovery::Recovery,
    gate_open: bool,
    outboxes: BTreeMap<NodeId, RaftFrame>,
    ready: VecDeque<(NodeId, Vec<Bytes>)>,
    held: BTreeMap<u64, Vec<(NodeId, Envelope)>>,
    /// Events that wait for a round.
    held_events: BTreeMap<u64, Vec<GroupEvent>>,
    completed_round: u64,
    io_busy: bool,
    wheel: Wheel,
    next_beat: Millis,
    urgent: Vec<usize>,
    tables: beats::Tables,
    campaigns: campaigns::Campaigns,
    early: VecDeque<(Millis, NodeId, Envelope)>,
    events: Vec<GroupEvent>,
    refusal: Option<Refusal>,
    change_refusal: Option<ChangeRefusal>,
    appended: Vec<EntryMeta>,
    effects: Vec<Effect>,
    full: Vec<(ReplicaId, Message)>,
    failed: bool,
    repairs: repair::Repairs,
    flushing: flush::Flushing,
}

impl Engine {
    /// An engine over an opened store; groups are adopted or created afterwards.
    pub fn new(config: EngineConfig, store: Store, now: Millis) -> Self {
        Self {
            config,
            store,
            groups: Slab::new(),
            by_id: HashMap::new(),
            incarnation: 0,
            incarnations: BTreeMap::new(),
            boots: BTreeMap::new(),
            connected: BTreeSet::new(),
            saturated: BTreeSet::new(),
            recovery: recovery::Recovery::default(),
            gate_open: false,
            outboxes: BTreeMap::new(),
            ready: VecDeque::new(),
            held: BTreeMap::new(),
            held_events: BTreeMap::new(),
            completed_round: 0,
            io_busy: false,
            wheel: Wheel::new(now),
            next_beat: now,
            urgent: Vec::new(),
            tables: beats::Tables::default(),
            campaigns: campaigns::Campaigns::default(),
            early: VecDeque::new(),
            events: Vec::new(),
            refusal: None,
            change_refusal: None,
            appended: Vec::new(),
            effects: Vec::new(),
            full: Vec::new(),
            failed: false,
            repairs: repair::Repairs::default(),
            flushing: flush::Flushing::default(),
        }
    }

    /// Takes up a group that recovery found.
    pub fn adopt(&mut self, now: Millis, found: RecoveredGroup) {
        let (group, gate_open) = (found.group, self.gate_open || found.group == GroupId(0));
        let restored = offline::restored(found, gate_open, self.seed_of(group));
        // All of it is durable: what waits for that does not wait for whatever is stored next, perhaps never.
        self.start(now, group, restored, self.completed_round);
        self.begin_repair(group);
    }

    /// Creates a group. `campaign`: it is the first replica of a brand-new partition.
    pub fn create(&mut self, now: Millis, spec: GroupSpec, campaign: bool) -> Result<(), StoreError> {
        let (id, replica, log_start) = (spec.group, spec.replica, spec.log_start.clone());
        // Storage may know better: a creation that damage swallowed leaves the vote in doubt (safety.md F8).
        let hard_state = self.store.create_group(spec)?;
        let restored = Restored {
            replica,
            hard_state,
            log_start: log_start.clone(),
            epochs: Vec::new(),
            last: log_start.prev,
            next_offset: log_start.base_offset,
            configurations: Vec::new(),
            gate_open: self.gate_open || id == GroupId(0),
            needs_repair: false,
            campaign_at_once: campaign,
            seed: self.seed_of(id),
        };
        let group = id;
        self.start(now, group, restored, self.store.next_round());
        let (early, rest): (Vec<_>, Vec<_>) = self.early.drain(..).partition(|(_, _, e)| e.group == group);
        self.early = rest.into();
        for (at, node, envelope) in early {
            if now < at + EARLY_MS {
                self.receive_one(now, node, envelope);
            }
        }
        Ok(())
    }

    fn seed_of(&self, group: GroupId) -> u64 {
        let mixed = group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (self.config.node.0 as u64) << 48;
        self.config.seed ^ mixed
    }

    fn start(&mut self, now: Millis, id: GroupId, restored: Restored, stored_round: u64) {
        let mut effects = std::mem::take(&mut self.effects);
        let mut core = Core::new(self.config.core.clone(), restored, now, &mut effects);
        if id == GroupId(0) {
            core.become_controllers();
        }
        let group = Group {
            id,
            core,
            peers: Vec::new(),
            observers: Vec::new(),
            stored_round,
            armed: Millis::MAX,
            poisoned: false,
            ties: beats::Ties::default(),
            campaign: campaigns::State::None,
            flush: flush::GroupFlush::default(),
        };
        let slot = self.groups.insert(group);
        self.by_id.insert(id, slot);
        self.effects = effects;
        self.run_effects(now, slot, Payloads::None);
        if self.failed {
            self.step(now, slot, Event::StorageFailed, Payloads::None);
        }
    }

    /// Forgets a group and its data.
    pub fn remove(&mut self, group: GroupId) {
        self.remove_but(group, Remains::Nothing);
    }

    /// Forgets a group, and its data but for what remains.
    pub fn remove_but(&mut self, group: GroupId, remains: Remains) {
        if let Some(slot) = self.by_id.remove(&group) {
            self.untie(slot);
            self.end_campaign(slot);
            self.groups.remove(slot);
            self.urgent.retain(|s| *s != slot);
            if let Err(error) = self.store.remove_group_but(group, remains) {
                tracing::warn!(%group, %error, "replica could not be removed");
            }
        }
    }

    /// Appends as leader. `assign` sees each complete header and patches the payload (base offset, epoch).
    pub fn propose(
        &mut self,
        now: Millis,
        group: GroupId,
        proposals: Vec<Proposal>,
        assign: &mut dyn FnMut(&EntryMeta, &mut BytesMut),
    ) -> Result<Vec<EntryMeta>, ProposeError> {
        let slot = *self.by_id.get(&group).ok_or(ProposeError::Unknown)?;
        if let Some(reason) = self.store.failure() {
            return Err(ProposeError::Failed(reason.to_owned()));
        }
        // Space is taken before the core knows of the entry. Control entries (log start, metadata) may use the reserve:
        // they are what frees space.
        if proposals.iter().any(|p| p.kind == EntryKind::Records) {
            if self.is_behind() {
                return Err(ProposeError::Refused(Refusal::Busy));
            }
            let bytes = proposals.iter().map(|p| p.payload.len() as u64).sum();
            match self.store.can_append(group, bytes) {
                Ok(()) => {}
                Err(StoreError::Failed(reason)) => return Err(ProposeError::Failed(reason)),
                Err(StoreError::DiskFull) => return Err(ProposeError::DiskFull),
                Err(error) => {
                    tracing::debug!(%group, %error, "append not possible now");
                    return Err(ProposeError::Refused(Refusal::Busy));
                }
            }
        }
        let entries = proposals.iter().map(|p| (p.kind, p.offset_span, p.payload.len() as u32)).collect();
        self.refusal = None;
        self.appended.clear();
        self.step(now, slot, Event::Propose { entries }, Payloads::Own { proposals, assign });
        match self.refusal.take() {
            Some(reason) => Err(ProposeError::Refused(reason)),
            None if self.appended.is_empty() => Err(ProposeError::Refused(Refusal::NotLeader)),
            None => Ok(std::mem::take(&mut self.appended)),
        }
    }

    /// Asks for a confirmed read; answered by `GroupEvent::Read` with the token. False: no such group.
    pub fn read_index(&mut self, now: Millis, group: GroupId, token: u64) -> bool {
        self.step_group(now, group, Event::ReadIndex { token })
    }

    /// Hands leadership over.
    pub fn transfer(&mut self, now: Millis, group: GroupId, to: Option<ReplicaId>) -> bool {
        self.step_group(now, group, Event::Transfer { to })
    }

    /// Replicates group 0 to a broker that is not in its configuration.
    pub fn add_observer(&mut self, now: Millis, group: GroupId, replica: ReplicaId) {
        if let Some(slot) = self.by_id.get(&group).copied() {
            let g = &mut self.groups[slot];
            if g.observers.contains(&replica) {
                return;
            }
            g.observers.retain(|r| r.node != replica.node);
            g.observers.push(replica);
            self.step(now, slot, Event::AddObserver { replica }, Payloads::None);
        }
    }

    /// What else its node observed with is not replicated to any more.
    pub fn remove_observer_but(&mut self, now: Millis, group: GroupId, replica: ReplicaId) {
        let Some(slot) = self.by_id.get(&group).copied() else { return };
        let (observers, node) = (&mut self.groups[slot].observers, replica.node);
        if observers.iter().any(|r| r.node == node && *r != replica) {
            observers.retain(|r| r.node != node);
            self.step(now, slot, Event::RemoveObserver { node }, Payloads::None);
        }
    }

    /// Nobody observes any more (leadership of group 0 was lost).
    pub fn clear_observers(&mut self, now: Millis, group: GroupId) {
        let Some(slot) = self.by_id.get(&group).copied() else { return };
        for observer in std::mem::take(&mut self.groups[slot].observers) {
            self.step(now, slot, Event::RemoveObserver { node: observer.node }, Payloads::None);
        }
    }

    /// Moves a group's log start forward after the committed control entry.
    pub fn move_log_start(&mut self, now: Millis, group: GroupId, start: LogStart) -> Result<(), StoreError> {
        self.store.set_log_start(group, start.clone())?;
        if let Some(slot) = self.by_id.get(&group).copied() {
            self.groups[slot].stored_round = self.store.next_round();
            self.step(now, slot, Event::LogStartMoved { start }, Payloads::None);
        }
        Ok(())
    }

    /// This node is registered: its incarnation in every message from now on.
    pub fn set_incarnation(&mut self, incarnation: u64) {
        if self.incarnation != incarnation {
            self.incarnation = incarnation;
            self.reset_tables();
        }
    }

    /// Opens the boot gate of all groups (safety.md F16).
    pub fn open_gate(&mut self, now: Millis) {
        self.gate_open = true;
        for slot in self.slots() {
            self.step(now, slot, Event::OpenGate, Payloads::None);
        }
    }

    /// Closes it again: this process was stopped for so long that its groups may have gone on without it (F16).
    pub fn close_gate(&mut self, now: Millis) {
        self.gate_open = false;
        for slot in self.slots() {
            if self.groups[slot].id != GroupId(0) {
                self.step(now, slot, Event::CloseGate, Payloads::None);
            }
        }
    }

    /// Bytes a second that replicas far behind get from this node, in committed entries; 0: no limit.
    pub fn set_recovery_rate(&mut self, bytes_per_second: u64) {
        self.recovery.set_rate(bytes_per_second);
    }

    /// A peer's registration number, from the controller log.
    pub fn set_peer_incarnation(&mut self, now: Millis, node: NodeId, incarnation: u64) {
        let known = self.incarnations.entry(node).or_default();
        if incarnation <= *known {
            return;
        }
        *known = incarnation;
        self.reset_sending(node);
        self.reset_hearing(node);
        for slot in self.slots() {
            if self.groups[slot].id != GroupId(0) {
                self.step(now, slot, Event::PeerIncarnation { node }, Payloads::None);
            }
        }
    }

    /// A peer said hello: its boot id fences group 0.
    pub fn set_peer_boot(&mut self, now: Millis, node: NodeId, boot: u128) {
        if self.boots.insert(node, boot) != Some(boot) {
            self.step_group(now, GroupId(0), Event::PeerIncarnation { node });
        }
    }

    /// The outgoing connection to a peer is up or down.
    pub fn set_connected(&mut self, now: Millis, node: NodeId, up: bool) {
        if !up {
            self.connected.remove(&node);
            self.reset_sending(node);
            return;
        }
        if self.connected.insert(node) {
            self.greet(node);
            // Do not wait for the next beat: a peer that came back should hear its leaders at once.
            self.next_beat = now;
        }
    }

    /// The peer's process died (its connection was reset): its followers look for another leader (safety.md F22).
    pub fn peer_reset(&mut self, now: Millis, node: NodeId) {
        self.reset_hearing(node);
        for slot in self.slots() {
            self.step(now, slot, Event::PeerReset { node }, Payloads::None);
        }
    }

    /// Messages from one peer.
    pub fn receive(&mut self, now: Millis, from: NodeId, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            self.receive_one(now, from, envelope);
        }
    }

    /// False if it is not for a replica here, as far as ids and incarnations tell.
    fn receive_one(&mut self, now: Millis, from: NodeId, envelope: Envelope) -> bool {
        let Some(slot) = self.by_id.get(&envelope.group).copied() else {
            if !envelope.payloads.is_empty() {
                // Entries come again; only what is small is kept for a group on its way.
                return false;
            }
            if self.early.len() == EARLY_MESSAGES {
                self.early.pop_front();
            }
            self.early.push_back((now, from, envelope));
            return false;
        };
        if !self.is_for_us(now, slot, from, &envelope) {
            return false;
        }
        if self.is_repair_message(&envelope) {
            self.on_repair_message(now, slot, envelope);
            return true;
        }
        let Envelope { group, from, message, payloads, .. } = envelope;
        let mut received = Payloads::None;
        let accepted = matches!(
            message.body,
            Body::AppendAccepted { .. }
                | Body::Written { .. }
                | Body::BeatReply { .. }
                | Body::InDoubt { .. }
        );
        if let Body::Append { prev, entries, .. } = &message.body {
            let records = entries.iter().any(|meta| meta.kind == EntryKind::Records);
            let bytes = payloads.iter().map(|p| weight(p.len()) as u64).sum();
            if records && (self.is_behind() || self.store.can_append(group, bytes).is_err()) {
                // As if lost on the way: beats keep the leader known, entries come again when there is space, on disk or
                // in memory. Control entries pass: they are what frees it.
                return true;
            }
            let decoded: Vec<_> = entries
                .iter()
                .zip(&payloads)
                .filter(|(meta, _)| meta.kind == EntryKind::Configuration)
                .filter_map(|(_, payload)| Configuration::decode(payload))
                .collect();
            if !decoded.is_empty() {
                self.step(now, slot, Event::Configurations { decoded }, Payloads::None);
            }
            received = Payloads::Received { first: prev.index.next(), payloads };
        }
        self.step(now, slot, Event::Receive { from, message }, received);
        if accepted && self.groups.get(slot).is_some_and(|g| g.core.role() == Role::Leader) {
            self.events.push(GroupEvent::Progress { group });
        }
        true
    }

    /// Whether the disk does not keep up with what was taken.
    fn is_behind(&self) -> bool {
        self.store.unstored_bytes() > UNSTORED_BYTES || self.store.unsynced_bytes() > flush::UNSYNCED_BYTES
    }

    /// Whether ids and incarnations fit (safety.md F6).
    fn is_for_us(&mut self, now: Millis, slot: usize, from: NodeId, e: &Envelope) -> bool {
        let g = &self.groups[slot];
        let own = g.core.replica();
        if (e.to != own && !on(Mutation::IgnoreReplicaIds)) || e.from.node != from {
            let is_later = e.to.node == own.node && e.to.assignment > own.assignment;
            let is_now = self.incarnation != 0 && e.to_incarnation == self.incarnation as u128;
            if is_later && is_now && e.from.node == from {
                let generation = e.message.epoch.generation;
                self.events.push(GroupEvent::Superseded { group: e.group, by: e.to, generation });
            }
            return false;
        }
        if g.id == GroupId(0) {
            return e.to_incarnation == self.config.boot
                && self.boots.get(&from) == Some(&e.from_incarnation);
        }
        if on(Mutation::IgnoreIncarnations) {
            return true;
        }
        if self.incarnation == 0 || e.to_incarnation != self.incarnation as u128 {
            return false;
        }
        let Ok(theirs) = u64::try_from(e.from_incarnation) else { return false };
        let known = self.incarnations.get(&from).copied().unwrap_or(0);
        if theirs > known {
            self.set_peer_incarnation(now, from, theirs);
        }
        theirs >= known && theirs != 0
    }

    /// A storage round is complete (or has failed), or there is news of an earlier one.
    pub fn on_round_done(&mut self, now: Millis, done: RoundDone) {
        self.io_busy &= !done.is_answer();
        let mut durables: Vec<Durable> = Vec::new();
        match self.store.complete(done, &mut durables) {
            Ok(round) => self.completed_round = self.completed_round.max(round),
            Err(error) => return self.fail(now, error.to_string()),
        }
        // Durable or not: a group that said its storage failed has given up its part, and says nothing more in it.
        if self.failed {
            return;
        }
        let waiting = self.held.split_off(&(self.completed_round + 1));
        for (node, envelope) in std::mem::replace(&mut self.held, waiting).into_values().flatten() {
            self.push(node, envelope);
        }
        self.release_events();
        for Durable { group, last, is_synced } in durables {
            let event = if is_synced { Event::Durable { last } } else { Event::Written { last } };
            self.step_group(now, group, event);
            if !is_synced {
                self.note_unsynced(now, group);
            }
            self.events.push(GroupEvent::Stored { group });
        }
    }

    /// A failed write or fsync is final: nothing that waits for it is ever sent.
    fn fail(&mut self, now: Millis, reason: String) {
        if self.failed {
            return;
        }
        self.failed = true;
        self.held.clear();
        self.held_events.clear();
        self.events.push(GroupEvent::StorageFailed { reason });
        for slot in self.slots() {
            self.step(now, slot, Event::StorageFailed, Payloads::None);
        }
    }

    /// Time has passed: timers and beats.
    pub fn tick(&mut self, now: Millis) {
        let mut due = Vec::new();
        self.wheel.fire(now, &mut due);
        for slot in due {
            let slot = slot as usize;
            let Some(g) = self.groups.get_mut(slot) else { continue };
            if g.armed > now {
                // Its deadline was moved forward since, under a key that is still to fire: this one ends here, or they would
                // multiply.
                continue;
            }
            g.armed = Millis::MAX;
            self.time_out(now, slot);
        }
        self.tick_repairs(now);
        self.start_campaigns(now);
        self.flush_if_due(now);
        if now >= self.next_beat {
            self.next_beat = now + self.config.core.beat_ms;
            self.beat_all(now);
            self.early.retain(|(at, ..)| now < at + EARLY_MS);
        }
    }

    /// When `tick` has something to do next.
    pub fn deadline(&self) -> Millis {
        let next = self.next_beat.min(self.campaigns_due());
        let due = self.wheel.deadline().into_iter().chain(self.repairs.deadline());
        let due = due.chain(self.flushing.deadline());
        due.min().map_or(next, |d| d.min(next))
    }

    fn step_group(&mut self, now: Millis, group: GroupId, event: Event) -> bool {
        match self.by_id.get(&group).copied() {
            Some(slot) => {
                self.step(now, slot, event, Payloads::None);
                true
            }
            None => false,
        }
    }

    fn step(&mut self, now: Millis, slot: usize, event: Event, payloads: Payloads<'_>) {
        if !self.groups[slot].ties.is_empty() {
            self.catch_up(slot);
        }
        let mut effects = std::mem::take(&mut self.effects);
        self.groups[slot].core.step(now, event, &mut effects);
        self.effects = effects;
        self.run_effects(now, slot, payloads);
        if !self.groups[slot].ties.is_empty() {
            self.review(slot);
        }
    }

    /// The group's log was found damaged: it hands over and stays out (safety.md F11).
    pub fn damaged(&mut self, now: Millis, group: GroupId) {
        self.step_group(now, group, Event::Damaged);
        self.begin_repair(group);
    }

    /// Whether frames for this peer find a connection.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.connected.contains(&node)
    }

    /// Ends a turn: urgent beats, one frame per peer, one storage round.
    pub fn flush(&mut self, now: Millis, net: &mut dyn Net, disk: &mut dyn Disk) {
        if !self.failed
            && let Some(reason) = self.store.failure().map(str::to_owned)
        {
            // Failed in the front half (a file that could not be made): no round will tell.
            self.fail(now, reason);
        }
        self.flush_if_due(now);
        let urgent = std::mem::take(&mut self.urgent);
        for slot in urgent {
            if self.groups.contains(slot) {
                self.beat(now, slot, false);
            }
        }
        self.start_campaigns(now);
        self.send_ready(net);
        for (node, outbox) in &mut self.outboxes {
            if !outbox.is_empty() {
                net.send(*node, outbox.take());
            }
        }
        self.saturated.clear();
        for node in &self.connected {
            if net.queued_bytes(*node) > BACKLOG_BYTES {
                self.saturated.insert(*node);
            }
        }
        if !self.io_busy
            && !self.failed
            && self.store.has_work()
            && let Some(round) = self.store.take_round()
        {
            self.io_busy = true;
            disk.submit(round);
        }
    }

    /// Takes what happened since the last call.
    pub fn take_events(&mut self, into: &mut Vec<GroupEvent>) {
        into.append(&mut self.events);
    }

    /// Whether a storage round is under way or waits to be taken.
    pub fn is_writing(&self) -> bool {
        self.io_busy || self.store.has_work()
    }

    fn slots(&self) -> Vec<usize> {
        self.groups.iter().map(|(slot, _)| slot).collect()
    }

    /// The storage of all groups (reads, retention, sizes).
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The storage, to look at.
    pub fn store_ref(&self) -> &Store {
        &self.store
    }

    /// A group's core, to look at.
    pub fn core(&self, group: GroupId) -> Option<&Core> {
        self.by_id.get(&group).map(|slot| &self.groups[*slot].core)
    }

    /// What the leader of this group knows of its peers.
    pub fn progress(&mut self, group: GroupId) -> Vec<PeerProgress> {
        if let Some(slot) = self.by_id.get(&group).copied() {
            self.catch_up(slot);
        }
        self.core(group).map(|core| core.progress()).unwrap_or_default()
    }

    /// Hands over what the leader of this group knows of each peer.
    pub fn each_peer(&mut self, group: GroupId, tell: &mut dyn FnMut(PeerProgress)) {
        if let Some(slot) = self.by_id.get(&group).copied() {
            self.catch_up(slot);
            self.groups[slot].core.each_peer(tell);
        }
    }

    /// Ids of all groups here.
    pub fn group_ids(&self) -> Vec<GroupId> {
        self.groups.iter().map(|(_, g)| g.id).collect()
    }

    /// Whether storage refused a change of this group: its core went on without it, and nothing of that is shown any more.
    pub fn has_stood_down(&self, group: GroupId) -> bool {
        self.by_id.get(&group).is_some_and(|slot| self.groups[*slot].stored_round == u64::MAX)
    }

    /// Whether the group fenced itself off.
    pub fn is_poisoned(&self, group: GroupId) -> bool {
        self.by_id.get(&group).is_some_and(|slot| self.groups[*slot].poisoned)
    }
}
