//! Repair of damaged entries from peers (docs/decisions/0007): which group, whom to ask, when again.
//!
//! Not here: what is taken and how it is written (`segment::store::repair`), what damage means for votes (`core::doubt`). Called by the
//! engine's tick and for `Fetch` and `Fetched` messages. Invariants:
//! - entries are asked for and given by identity: whoever holds an entry of the same epoch and index holds the same bytes (Raft §5.3,
//!   log matching), so any replica may answer, committed or not, leader or not;
//! - what tombstones may be missing in is taken only where nothing needs them (docs/decisions/0022, rule B, judged by the store): a peer says
//!   how clean its copy is, and of which log that is said;
//! - one question is open per group; an answer that brings nothing makes the next peer the one to ask;
//! - the group takes part again only when storage says that nothing is damaged any more.

use super::{Engine, GroupEvent};
use crate::raftlog::codec::Envelope;
use crate::raftlog::core::{Event, Millis, Role};
use crate::raftlog::message::{Body, Message};
use crate::segment::{
    Cleaned, Entry, Epoch, Error as StoreError, GroupId, Index, LogId, LogStart, Mended, Offset, Repair,
    ReplicaId,
};
use std::collections::BTreeMap;

/// How often a repair that works is looked at.
const PACE_MS: Millis = 10;
/// Beyond this an answer is not waited for, and a full disk or a lonely replica is tried again.
const PATIENCE_MS: Millis = 1_000;
/// Refused by that rule for so long, and by everybody, a replica does not expect to be made whole any more. A peer's pass takes minutes.
const REFUSED_MS: Millis = 300_000;
/// And how long it waits between two questions from then on: every answer is read and sent to be thrown away.
const RESIGNED_MS: Millis = 30_000;
/// Payload bytes in one answer.
const ANSWER_BYTES: usize = 1 << 20;

/// All repairs of a node.
#[derive(Default)]
pub(super) struct Repairs {
    groups: BTreeMap<GroupId, Repairing>,
    next: Millis,
}

#[derive(Default)]
struct Repairing {
    /// Whom the open question was put to, and until when it is waited for.
    asked: Option<(ReplicaId, Millis)>,
    /// Counts peers asked in vain.
    turn: usize,
    /// Not to be looked at before.
    not_before: Millis,
    /// What was asked for first, and to where the source has to be clean.
    wants: (Index, Option<Offset>),
    /// Since when peers may not give what is wanted, and from where on that was.
    refused: Option<(Index, Millis)>,
    /// First entry of the last answer that held any: if it is needed still, that peer has another one.
    given: Option<Index>,
}

impl Repairs {
    pub(super) fn deadline(&self) -> Option<Millis> {
        (!self.groups.is_empty()).then_some(self.next)
    }
}

impl Engine {
    /// A group was found damaged: it is repaired, if storage knows what is damaged.
    pub(super) fn begin_repair(&mut self, group: GroupId) {
        let Some((first, last)) = self.store.needs_repair(group) else { return };
        let Some(slot) = self.by_id.get(&group) else { return };
        self.groups[*slot].core.set_damaged_from(first);
        self.repairs.groups.entry(group).or_insert_with(|| {
            tracing::warn!(%group, %first, %last, "entries are damaged; they are fetched from peers");
            Repairing::default()
        });
        self.repairs.next = 0;
    }

    /// Whether a group is under repair.
    pub fn is_repairing(&self, group: GroupId) -> bool {
        self.repairs.groups.contains_key(&group)
    }

    pub(super) fn tick_repairs(&mut self, now: Millis) {
        if self.failed || self.repairs.groups.is_empty() || now < self.repairs.next {
            return;
        }
        self.repairs.next = now + PACE_MS;
        let groups: Vec<GroupId> = self.repairs.groups.keys().copied().collect();
        for group in groups {
            self.go_on(now, group);
        }
    }

    fn go_on(&mut self, now: Millis, group: GroupId) {
        let Some(state) = self.repairs.groups.get(&group) else { return };
        if now < state.not_before {
            return;
        }
        if self.core(group).is_some_and(|core| core.is_forsaken()) {
            return self.store.yield_repair(group);
        }
        match self.store.repair(group) {
            Ok(Repair::Working) => {}
            Ok(Repair::Whole) => self.finish_repair(now, group),
            Ok(Repair::Needs(from, to, needs)) => self.ask(now, group, (from, to), needs),
            Err(StoreError::UnknownGroup(_)) => {
                self.repairs.groups.remove(&group);
            }
            Err(error) => {
                tracing::warn!(%group, %error, "repair waits");
                if let Some(state) = self.repairs.groups.get_mut(&group) {
                    state.not_before = now + PATIENCE_MS;
                }
            }
        }
    }

    fn finish_repair(&mut self, now: Millis, group: GroupId) {
        self.repairs.groups.remove(&group);
        tracing::info!(%group, "nothing is damaged any more; the replica takes part again");
        self.step_group(now, group, Event::Repaired);
        self.events.push(GroupEvent::Repaired { group });
    }

    fn ask(&mut self, now: Millis, group: GroupId, (from, to): (Index, Index), needs: Option<Offset>) {
        let Some(slot) = self.by_id.get(&group).copied() else { return };
        let mut peers = self.groups[slot].peers.clone();
        if peers.is_empty() {
            // In a new generation it has no configuration before its log is whole enough to take one: the leader found it all the same.
            peers.extend(self.groups[slot].core.leader());
        }
        let Some(state) = self.repairs.groups.get_mut(&group) else { return };
        if state.asked.is_some_and(|(_, until)| now < until) {
            return;
        }
        if state.given.take() == Some(from) {
            state.turn += 1;
            state.not_before = now + PACE_MS;
            return;
        }
        if state.asked.is_some() {
            state.turn += 1;
        }
        let live: Vec<_> = peers.iter().filter(|peer| self.connected.contains(&peer.node)).collect();
        let Some(peer) = live.get(state.turn % live.len().max(1)).map(|peer| **peer) else {
            state.not_before = now + PATIENCE_MS;
            return self.store.yield_repair(group);
        };
        state.asked = Some((peer, now + PATIENCE_MS));
        state.wants = (from, needs);
        let epoch = self.groups[slot].core.epoch();
        let end = self.groups[slot].core.last();
        let body = Body::Fetch { from, to, needs, end };
        self.send(slot, peer, Message { epoch, body }, Vec::new(), false);
    }

    /// A question or an answer of a peer.
    pub(super) fn on_repair_message(&mut self, now: Millis, slot: usize, envelope: Envelope) {
        let Envelope { group, from: peer, message, payloads, .. } = envelope;
        match message.body {
            Body::Fetch { from, to, needs, end } => self.answer_fetch(slot, peer, (from, to), needs, end),
            Body::InstallLogStart { start } => self.follow_start(now, group, message.epoch, start),
            Body::Fetched { entries: metas, cleaned, of } => {
                let entries = metas.into_iter().zip(payloads);
                let entries = entries.map(|(meta, payload)| Entry { meta, payload }).collect();
                let is_ours = cleaned.clean == Offset(0) || self.store.holds(group, of);
                let source = if is_ours { self.known_part(group, cleaned) } else { cleaned.of_another_log() };
                self.on_fetched(now, group, peer, entries, source);
            }
            _ => {}
        }
    }

    /// Whether a message is for the repair of its group rather than for its core.
    pub(super) fn is_repair_message(&self, envelope: &Envelope) -> bool {
        match envelope.message.body {
            Body::Fetch { .. } | Body::Fetched { .. } => true,
            Body::InstallLogStart { ref start } => {
                let core = self.core(envelope.group);
                self.repairs.groups.contains_key(&envelope.group)
                    && core.is_some_and(|core| start.prev.index <= core.commit())
            }
            _ => false,
        }
    }

    /// The leader's log starts behind what is damaged here, and what lies before is committed here too: it goes here as well.
    fn follow_start(&mut self, now: Millis, group: GroupId, epoch: Epoch, start: LogStart) {
        let Some(core) = self.core(group) else { return };
        let is_ahead = self.store.log_start(group).is_ok_and(|known| known.prev.index < start.prev.index);
        if epoch < core.epoch() || !is_ahead {
            return;
        }
        if let Err(error) = self.move_log_start(now, group, start) {
            tracing::warn!(%group, %error, "log start of the leader not taken");
        }
    }

    fn answer_fetch(
        &mut self,
        slot: usize,
        to: ReplicaId,
        (from, last): (Index, Index),
        needs: Option<Offset>,
        end: LogId,
    ) {
        let group = self.groups[slot].id;
        if self.groups[slot].core.role() == Role::Leader
            && let Ok(start) = self.store.log_start(group)
            && from <= start.prev.index
        {
            // Nobody has them any more, nor needs them.
            let body = Body::InstallLogStart { start: start.clone() };
            let epoch = self.groups[slot].core.epoch();
            return self.send(slot, to, Message { epoch, body }, Vec::new(), false);
        }
        let mut entries = match self.groups[slot].core.is_forsaken() {
            true => Vec::new(),
            false => self.store.read(group, from, ANSWER_BYTES).unwrap_or_else(|error| {
                tracing::debug!(%group, %from, %error, "entries asked for are not to be had here");
                Vec::new()
            }),
        };
        entries.retain(|entry| entry.meta.id.index <= last);
        let cleaned = self.store.cleaned(group).unwrap_or_default();
        if let Some(until) = needs.filter(|until| cleaned.clean < *until) {
            entries.clear();
            self.events.push(GroupEvent::WantsClean { group, until });
        }
        let (cleaned, of) = match cleaned.clean {
            Offset(0) => (cleaned, LogId::default()),
            // Where it cannot be found, the numbers are another log's to whoever reads them.
            clean => match self.store.last_below(group, clean) {
                Ok(of) => (cleaned, of),
                Err(_) => (cleaned.of_another_log(), LogId::default()),
            },
        };
        // Who is behind has the same log, as far as it goes.
        let of = if end.index < of.index && self.store.holds(group, end) { end } else { of };
        let epoch = self.groups[slot].core.epoch();
        let (metas, payloads) = entries.into_iter().map(|e| (e.meta, e.payload)).unzip();
        let message = Message { epoch, body: Body::Fetched { entries: metas, cleaned, of } };
        self.send(slot, to, message, payloads, false);
    }

    fn on_fetched(
        &mut self,
        now: Millis,
        group: GroupId,
        from: ReplicaId,
        entries: Vec<Entry>,
        source: Cleaned,
    ) {
        if self.core(group).is_some_and(|core| core.is_forsaken()) {
            return;
        }
        let resigned = self.is_refused(now, group);
        let Some(state) = self.repairs.groups.get_mut(&group) else { return };
        if state.asked.is_none_or(|(peer, _)| peer != from) {
            return;
        }
        state.asked = None;
        let first = entries.first().map(|entry| entry.meta.id.index);
        let mended = match first {
            None if state.wants.1.is_none_or(|needed| source.clean >= needed) => None,
            None => Some(Mended::Refused),
            Some(_) => Some(self.store.mend(group, entries, source)),
        };
        if matches!(mended, Some(Mended::Refused | Mended::Again)) {
            // What was taken before may be asked for again: only what comes after that is news.
            let (at, since) = state.refused.unwrap_or((state.wants.0, now));
            state.refused = Some((at.max(state.wants.0), since));
        }
        match mended {
            Some(Mended::Taken) => {
                state.given = first;
                state.refused = state.refused.filter(|(at, _)| first.is_none_or(|first| first < *at));
                return self.go_on(now, group);
            }
            // It is asked again, from the first on.
            Some(Mended::Again) => {}
            Some(Mended::Refused) | None => state.turn += 1,
        }
        if mended.is_some() && first.is_some() {
            state.not_before = now + if resigned { RESIGNED_MS } else { PATIENCE_MS };
        } else if state.turn % 3 == 0 {
            // After a round of all of them, with patience.
            state.not_before = now + PATIENCE_MS;
            self.store.yield_repair(group);
        }
    }

    /// What another replica's numbers say of the log that this one holds.
    fn known_part(&self, group: GroupId, cleaned: Cleaned) -> Cleaned {
        let end = self.store.last(group).map_or(Offset(0), |(_, end)| end);
        cleaned.known_to(end)
    }

    /// Whether peers have long been there that may not give what the group needs: they would bring what is deleted back.
    pub fn is_refused(&self, now: Millis, group: GroupId) -> bool {
        let refused = self.repairs.groups.get(&group).and_then(|state| state.refused);
        refused.is_some_and(|(_, since)| now >= since + REFUSED_MS)
    }

    /// This replica of the group is to be placed anew, and takes and gives nothing; or not any more.
    pub fn forsake(&mut self, group: GroupId, is_so: bool) {
        if let Some(slot) = self.by_id.get(&group) {
            self.groups[*slot].core.forsake(is_so);
        }
    }
}
