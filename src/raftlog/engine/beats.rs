//! Beats of quiet groups: one bit per group in one frame per broker pair and beat.
//!
//! A group is *settled* with a peer when a full beat would tell the peer nothing and its answer would tell the leader nothing
//! (`core::quiet`). Its leader then gives it a slot: one definition with the full beat, and from the next beat on a bit. The
//! receiver answers every frame as a whole and names the slots that stand for nothing there; those fall back to full beats.
//!
//! What the bits say reaches a core when something else happens to it, or when its timer fires: until then it is in the two
//! times of the pair (when the leader was last heard, when the peer last answered). So an idle group costs a bit, and a timer
//! entry now and then, on either side. Not here: bytes (`codec::beats`), what settled means (`core::quiet`). Invariants:
//! - a slot stands for one group, one leader, one epoch and one end of the log; whatever changes on either side ends it;
//! - a bit counts as heard only for groups it was valid for when the frame came; a group that is fenced, damaged, deposed or
//!   wedged is not named, or named as an exception, and times out as it would with full beats;
//! - tables live as long as their connection: a session number changes with it, and with every frame that was dropped.

use super::{Engine, Payloads};
use crate::mutation::{Mutation, on};
use crate::raftlog::codec::{self, BeatAnswer, Beats, Envelope};
use crate::raftlog::core::{Millis, Role};
use crate::raftlog::message::{Body, Message};
use crate::segment::{Epoch, GroupId, Index, NodeId, ReplicaId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A group that was an exception gets full beats for so many intervals before it is given a slot again.
const AFTER_EXCEPTION: u64 = 10;

/// Stands for no group.
const NOBODY: u32 = u32::MAX;

/// A set of slots.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    fn clear(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    fn has(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

/// The slots of one word.
fn slots_of(word: usize, mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(word as u32 * 64 + bit)
    })
}

/// As leader: what one peer is told by bits.
#[derive(Debug, Default)]
struct Sending {
    session: u64,
    /// Number of the last frame sent.
    number: u64,
    /// Group (in the slab) and first frame that names it.
    slots: Vec<(u32, u64)>,
    free: Vec<u32>,
    named: Bits,
    /// Definitions for the next frame.
    defined: Vec<(u32, Envelope)>,
    /// Last frame answered, and when.
    answered: u64,
    answered_at: Millis,
}

/// As follower: what a slot of one leader's node stands for.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// In the slab.
    group: u32,
    leader: ReplicaId,
    epoch: Epoch,
    last: Index,
}

const EMPTY: Slot = Slot {
    group: NOBODY,
    leader: ReplicaId { node: NodeId(0), assignment: 0, directory: 0 },
    epoch: Epoch { generation: crate::segment::Generation(0), term: crate::segment::Term(0) },
    last: Index(0),
};

/// As follower: what one leader's node says by bits.
#[derive(Debug, Default)]
struct Hearing {
    session: u64,
    slots: Vec<Slot>,
    /// Slots that stand for something.
    valid: Bits,
    /// Valid slots that the last frame named.
    current: Bits,
    /// When it came.
    at: Millis,
}

/// Tables towards and from all peers.
#[derive(Debug, Default)]
pub(super) struct Tables {
    sending: BTreeMap<NodeId, Sending>,
    hearing: BTreeMap<NodeId, Hearing>,
    sessions: u64,
    /// Groups (in the slab) led here of which some peer wants full beats.
    pub busy: Vec<usize>,
}

/// What a group of the slab has to do with the tables.
#[derive(Debug, Default)]
pub(super) struct Ties {
    /// As leader: slots held, with whom.
    sent: Vec<(ReplicaId, u32)>,
    /// As follower: the slot its leader's bit is.
    heard: Option<(NodeId, u32)>,
    /// No slot before this.
    not_before: Millis,
    /// In `Tables::busy`.
    pub is_busy: bool,
}

impl Ties {
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.heard.is_none()
    }

    pub fn is_quiet_with(&self, peer: ReplicaId) -> bool {
        self.sent.iter().any(|(replica, _)| *replica == peer)
    }
}

impl Engine {
    /// Tells the core what bits said since it was last asked. Before every step of a group that has a tie.
    pub(super) fn catch_up(&mut self, at: usize) {
        let Some(g) = self.groups.get_mut(at) else { return };
        if let Some((node, slot)) = g.ties.heard
            && let Some(hearing) = self.tables.hearing.get(&node)
            && hearing.current.has(slot)
        {
            g.core.note_beat(hearing.at);
        }
        for (replica, slot) in &g.ties.sent {
            if let Some(sending) = self.tables.sending.get(&replica.node)
                && sending.answered >= sending.slots[*slot as usize].1
            {
                g.core.note_answer(*replica, sending.answered_at);
            }
        }
    }

    /// Ends the slots of a group that are true no more. After every step of a group that has a tie.
    pub(super) fn review(&mut self, at: usize) {
        let g = &self.groups[at];
        if let Some((node, slot)) = g.ties.heard {
            let stands = self.tables.hearing.get(&node).and_then(|h| h.slots.get(slot as usize));
            if !stands.is_some_and(|s| g.core.is_settled_under(s.leader, s.epoch, s.last)) {
                self.unhear(at);
            }
        }
        let mut i = 0;
        while let Some((replica, slot)) = self.groups[at].ties.sent.get(i).copied() {
            if self.groups[at].core.is_settled(replica) {
                i += 1;
            } else {
                self.drop_slot(at, replica.node, slot);
            }
        }
    }

    /// A replica leads: it beats, in full until its peers are settled.
    pub(super) fn beat_in_full(&mut self, at: usize) {
        let g = &mut self.groups[at];
        if !g.ties.is_busy {
            g.ties.is_busy = true;
            self.tables.busy.push(at);
        }
    }

    fn drop_slot(&mut self, at: usize, node: NodeId, slot: u32) {
        self.groups[at].ties.sent.retain(|(replica, s)| replica.node != node || *s != slot);
        if let Some(sending) = self.tables.sending.get_mut(&node) {
            sending.named.clear(slot);
            sending.slots[slot as usize] = (NOBODY, 0);
            sending.defined.retain(|(defined, _)| *defined != slot);
            sending.free.push(slot);
        }
        self.beat_in_full(at);
    }

    fn unhear(&mut self, at: usize) {
        let Some((node, slot)) = self.groups[at].ties.heard.take() else { return };
        if let Some(hearing) = self.tables.hearing.get_mut(&node) {
            hearing.valid.clear(slot);
            hearing.current.clear(slot);
            if let Some(stands) = hearing.slots.get_mut(slot as usize) {
                *stands = EMPTY;
            }
        }
    }

    /// All slots towards a peer end: its connection, its process or ours is another one, or a frame was dropped.
    pub(super) fn reset_sending(&mut self, node: NodeId) {
        let Some(slots) = self.tables.sending.get(&node).map(|sending| sending.slots.len()) else { return };
        for slot in 0..slots as u32 {
            let group = self.tables.sending.get(&node).map_or(NOBODY, |s| s.slots[slot as usize].0);
            if group != NOBODY {
                self.catch_up(group as usize);
                self.drop_slot(group as usize, node, slot);
            }
        }
        self.tables.sending.remove(&node);
    }

    /// All slots from a peer end.
    pub(super) fn reset_hearing(&mut self, node: NodeId) {
        let Some(hearing) = self.tables.hearing.get(&node) else { return };
        let groups: Vec<u32> = hearing.slots.iter().map(|s| s.group).filter(|g| *g != NOBODY).collect();
        for group in groups {
            self.catch_up(group as usize);
            self.unhear(group as usize);
        }
        self.tables.hearing.remove(&node);
    }

    /// Both.
    pub(super) fn reset_tables(&mut self) {
        for node in self.tables.sending.keys().copied().collect::<Vec<_>>() {
            self.reset_sending(node);
        }
        for node in self.tables.hearing.keys().copied().collect::<Vec<_>>() {
            self.reset_hearing(node);
        }
    }

    /// A group goes: so do its ties.
    pub(super) fn untie(&mut self, at: usize) {
        self.unhear(at);
        while let Some((replica, slot)) = self.groups[at].ties.sent.first().copied() {
            self.drop_slot(at, replica.node, slot);
        }
        self.tables.busy.retain(|busy| *busy != at);
    }

    /// A peer can be reached again: whoever is led here has something to tell it.
    pub(super) fn greet(&mut self, node: NodeId) {
        for at in self.slots() {
            let g = &self.groups[at];
            if g.core.role() == Role::Leader && g.peers.iter().any(|peer| peer.node == node) {
                self.beat_in_full(at);
            }
        }
    }

    /// The beat of this node: full ones for whoever needs them, then a frame of bits per peer.
    pub(super) fn beat_all(&mut self, now: Millis) {
        let busy = std::mem::take(&mut self.tables.busy);
        for at in busy {
            let Some(g) = self.groups.get_mut(at) else { continue };
            g.ties.is_busy = false;
            self.beat(now, at, true);
            let g = &self.groups[at];
            let wants =
                |peer: &ReplicaId| self.connected.contains(&peer.node) && !g.ties.is_quiet_with(*peer);
            if g.core.role() == Role::Leader && (g.id == GroupId(0) || g.peers.iter().any(wants)) {
                self.beat_in_full(at);
            }
        }
        for (node, sending) in &mut self.tables.sending {
            if sending.defined.is_empty() && sending.named.0.iter().all(|word| *word == 0) {
                continue;
            }
            sending.number += 1;
            let defined = std::mem::take(&mut sending.defined);
            let beats = Beats {
                session: sending.session,
                number: sending.number,
                defined,
                named: sending.named.0.clone(),
            };
            for (slot, _) in &beats.defined {
                sending.named.set(*slot);
                sending.slots[*slot as usize].1 = sending.number + 1;
            }
            self.ready.push_back((*node, codec::encode_beats(&beats)));
        }
    }

    /// Beats in full to every peer that is not reached by a bit; in the regular beat (`may_settle`) settled ones get their bit.
    pub(super) fn beat(&mut self, now: Millis, slot: usize, may_settle: bool) {
        let g = &mut self.groups[slot];
        if g.core.role() != Role::Leader || g.poisoned {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        let mut beats = std::mem::take(&mut self.full);
        let observers = g.observers.iter().filter(|observer| !g.peers.contains(observer));
        for peer in g.peers.iter().chain(observers) {
            if self.connected.contains(&peer.node)
                && !g.ties.is_quiet_with(*peer)
                && let Some(message) = g.core.beat(now, *peer, &mut effects)
            {
                beats.push((*peer, message));
            }
        }
        self.effects = effects;
        for (to, message) in beats.drain(..) {
            if !(may_settle && self.settle(now, slot, to, &message)) {
                self.send(slot, to, message, Vec::new(), false);
            }
        }
        self.full = beats;
        self.run_effects(now, slot, Payloads::None);
        self.review(slot);
    }

    /// Gives the group a slot if it is settled with this peer; the full beat then travels as its definition.
    pub(super) fn settle(&mut self, now: Millis, at: usize, peer: ReplicaId, message: &Message) -> bool {
        let g = &self.groups[at];
        let full = matches!(message.body, Body::Beat { commit, .. } if commit == g.core.last().index);
        if g.id == GroupId(0) || !full || now < g.ties.not_before || !g.core.is_settled(peer) {
            return false;
        }
        let Some(envelope) = self.envelope(at, peer, message.clone(), Vec::new()) else { return false };
        let boot = self.config.boot as u64;
        let sessions = &mut self.tables.sessions;
        let sending = self.tables.sending.entry(peer.node).or_insert_with(|| {
            *sessions += 1;
            Sending { session: boot.wrapping_add(*sessions), ..Sending::default() }
        });
        if sending.free.is_empty() && sending.slots.len() == codec::SLOTS_MAX {
            return false;
        }
        let slot = sending.free.pop().unwrap_or_else(|| {
            sending.slots.push((NOBODY, 0));
            sending.slots.len() as u32 - 1
        });
        // Until its frame goes out no answer can speak of it.
        sending.slots[slot as usize] = (at as u32, u64::MAX);
        sending.defined.push((slot, envelope));
        self.groups[at].ties.sent.push((peer, slot));
        true
    }

    /// A frame of bits from a peer.
    pub fn receive_beats(&mut self, now: Millis, from: NodeId, beats: Beats) {
        let Beats { session, number, defined, named } = beats;
        if self.tables.hearing.get(&from).is_none_or(|hearing| hearing.session != session) {
            self.reset_hearing(from);
            self.tables.hearing.insert(from, Hearing { session, ..Hearing::default() });
        }
        let mut exceptions = self.hear(now, from, &named);
        if on(Mutation::ForgetBeatExceptions) {
            exceptions.clear();
        }
        for (slot, envelope) in defined {
            self.define(now, from, slot, envelope);
        }
        self.ready.push_back((from, codec::encode_answer(&BeatAnswer { session, number, exceptions })));
    }

    /// Takes note of who was named; answers the slots that stand for nothing here.
    fn hear(&mut self, now: Millis, from: NodeId, named: &[u64]) -> Vec<u32> {
        let mut exceptions = Vec::new();
        let mut silent = Vec::new();
        let Some(hearing) = self.tables.hearing.get_mut(&from) else { return exceptions };
        for at in 0..hearing.current.0.len().max(named.len()) {
            let word = named.get(at).copied().unwrap_or(0);
            let (valid, before) = (hearing.valid.word(at), hearing.current.word(at));
            exceptions.extend(slots_of(at, word & !valid));
            silent.extend(slots_of(at, before & !word).map(|slot| hearing.slots[slot as usize].group));
        }
        // Who is named no longer was last heard with the frame before.
        for group in silent {
            self.catch_up(group as usize);
        }
        let Some(hearing) = self.tables.hearing.get_mut(&from) else { return exceptions };
        hearing.at = now;
        hearing.current.0.clear();
        hearing.current.0.extend(named.iter().enumerate().map(|(at, word)| word & hearing.valid.word(at)));
        exceptions
    }

    /// A full beat that also says what a slot stands for from now on.
    fn define(&mut self, now: Millis, from: NodeId, slot: u32, envelope: Envelope) {
        let (group, leader, epoch) = (envelope.group, envelope.from, envelope.message.epoch);
        let Body::Beat { commit, .. } = envelope.message.body else { return };
        let stands = self.tables.hearing.get(&from).and_then(|h| h.slots.get(slot as usize));
        if let Some(former) = stands.map(|s| s.group).filter(|former| *former != NOBODY) {
            self.catch_up(former as usize);
            self.unhear(former as usize);
        }
        if !self.receive_one(now, from, envelope) {
            return;
        }
        let Some(at) = self.by_id.get(&group).copied() else { return };
        if slot as usize >= codec::SLOTS_MAX || !self.groups[at].core.is_settled_under(leader, epoch, commit)
        {
            return;
        }
        self.unhear(at);
        let Some(hearing) = self.tables.hearing.get_mut(&from) else { return };
        if hearing.slots.len() <= slot as usize {
            hearing.slots.resize(slot as usize + 1, EMPTY);
        }
        hearing.slots[slot as usize] = Slot { group: at as u32, leader, epoch, last: commit };
        hearing.valid.set(slot);
        self.groups[at].ties.heard = Some((from, slot));
    }

    /// A peer answered one of our frames of bits.
    pub fn receive_answer(&mut self, now: Millis, from: NodeId, answer: BeatAnswer) {
        let Some(sending) = self.tables.sending.get(&from) else { return };
        if sending.session != answer.session
            || answer.number > sending.number
            || answer.number <= sending.answered
        {
            return;
        }
        for slot in answer.exceptions {
            let Some(sending) = self.tables.sending.get(&from) else { return };
            let named = sending.slots.get(slot as usize).filter(|(group, since)| {
                // A slot that was given anew since then is not the one meant.
                *group != NOBODY && *since <= answer.number
            });
            if let Some(group) = named.map(|(group, _)| *group as usize) {
                self.catch_up(group);
                self.drop_slot(group, from, slot);
                self.groups[group].ties.not_before = now + AFTER_EXCEPTION * self.config.core.beat_ms;
            }
        }
        if let Some(sending) = self.tables.sending.get_mut(&from) {
            sending.answered = answer.number;
            sending.answered_at = now;
        }
    }

    /// Groups led here that one peer hears by a bit.
    pub fn quiet_groups(&self, node: NodeId) -> usize {
        let sending = self.tables.sending.get(&node);
        sending.map_or(0, |s| s.named.0.iter().map(|word| word.count_ones() as usize).sum())
    }

    /// Sends what is ready; a peer whose frame was dropped starts its table over.
    pub(super) fn send_ready(&mut self, net: &mut dyn super::Net) {
        let ready: Vec<(NodeId, Vec<Bytes>)> = self.ready.drain(..).collect();
        for (node, frame) in ready {
            if !net.send(node, frame) {
                self.reset_sending(node);
            }
        }
    }
}
