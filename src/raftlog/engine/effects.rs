//! What the engine does for a core: storage changes, messages with their payloads, events for the layer above.
//! Not here: what goes into a core (`mod`). Invariant: effects are carried out in the order the core gave them.

use super::{Engine, FRAME_BYTES, GroupEvent, Payloads};
use crate::mutation::{Mutation, on};
use crate::raftlog::codec::Envelope;
use crate::raftlog::core::{Effect, Event, GenerationEffect, Millis, Role};
use crate::raftlog::message::{Body, Message};
use crate::segment::{
    Cleaned, Entry, EntryMeta, Error as StoreError, GroupId, Index, LogId, NodeId, Offset, ReplicaId,
};
use bytes::Bytes;

impl Engine {
    /// Carries out effects in order; what they lead to is appended and carried out too.
    pub(super) fn run_effects(&mut self, now: Millis, slot: usize, mut payloads: Payloads<'_>) {
        let mut effects = std::mem::take(&mut self.effects);
        let mut more = Vec::new();
        while !effects.is_empty() {
            for effect in effects.drain(..) {
                self.run_effect(now, slot, effect, &mut payloads, &mut more);
            }
            std::mem::swap(&mut effects, &mut more);
        }
        self.effects = effects;
        self.match_flush_mode(slot);
        self.arm(slot);
        if self.groups[slot].core.wants_beat() && !self.urgent.contains(&slot) {
            self.urgent.push(slot);
        }
    }

    fn run_effect(
        &mut self,
        now: Millis,
        slot: usize,
        effect: Effect,
        payloads: &mut Payloads<'_>,
        more: &mut Vec<Effect>,
    ) {
        let group = self.groups[slot].id;
        let stores = matches!(
            effect,
            Effect::Append { .. }
                | Effect::AppendConfiguration { .. }
                | Effect::Truncate { .. }
                | Effect::SaveHardState(_)
                | Effect::Install { .. }
        );
        let takes_over = matches!(&effect, Effect::Generation(what) if matches!(**what, GenerationEffect::TakeOver { .. }));
        if (stores || takes_over) && self.groups[slot].stored_round == u64::MAX {
            // A change before this one could not be stored: nothing may be built on it.
            return;
        }
        match effect {
            Effect::Append { metas, own, cleaned } => {
                self.append(now, slot, metas, own, payloads, more);
                if let Some(cleaned) = cleaned.filter(|_| self.groups[slot].stored_round != u64::MAX) {
                    let result = self.store.appended_from(group, cleaned);
                    self.stored(now, slot, result, more);
                }
            }
            Effect::AppendConfiguration { meta, configuration } => {
                self.append_own(now, slot, Entry { meta, payload: configuration.encode() }, more);
            }
            Effect::Truncate { from } => {
                let result = self.store.truncate(group, from);
                if result.is_ok() {
                    self.events.push(GroupEvent::Truncated { group, from });
                }
                self.stored(now, slot, result, more);
            }
            Effect::SaveHardState(state) => {
                let result = self.store.save_hard_state(group, state);
                self.stored(now, slot, result, more);
            }
            Effect::Install { start } => {
                let result = self.store.install_log_start(group, start.clone());
                if result.is_ok() {
                    self.events.push(GroupEvent::Installed { group, start });
                }
                self.stored(now, slot, result, more);
            }
            Effect::Send { to, message, after_storage } => {
                self.send(slot, to, message, Vec::new(), after_storage)
            }
            Effect::Replicate { to, prev, max_bytes, commit } => {
                self.replicate(now, slot, to, prev, max_bytes, commit, more)
            }
            Effect::SendLogStart { to } => {
                let epoch = self.groups[slot].core.epoch();
                if let Ok(start) = self.store.log_start(group) {
                    let body = Body::InstallLogStart { start: start.clone() };
                    self.send(slot, to, Message { epoch, body }, Vec::new(), false);
                }
            }
            // What could not be stored is not what is stored at this index: readers would be shown another entry.
            Effect::Committed { .. } if self.groups[slot].stored_round == u64::MAX => {}
            Effect::Committed { index } => {
                self.events.push(GroupEvent::Committed { group, index });
                if group == GroupId(0) && self.groups[slot].core.role() == Role::Leader {
                    // Brokers act on metadata: they should not learn of it a beat later.
                    self.urgent.push(slot);
                }
            }
            Effect::Role { epoch, role, leader } => {
                self.note_role(slot, role);
                self.events.push(GroupEvent::Role { group, epoch, role, leader })
            }
            Effect::Configured { id, configuration } => {
                let g = &mut self.groups[slot];
                let me = g.core.replica();
                g.peers = configuration.members().filter(|r| *r != me).collect();
                if g.core.role() == Role::Leader {
                    self.beat_in_full(slot);
                }
                self.events.push(GroupEvent::Configured { group, id, configuration });
            }
            Effect::Removed { configuration } => {
                tracing::info!(%group, %configuration, "this replica is no member any more");
                self.events.push(GroupEvent::Removed { group, configuration });
            }
            Effect::Generation(what) => self.run_generation(now, slot, *what, more),
            Effect::ChangeRefused { reason } => self.change_refusal = Some(reason),
            Effect::ReadReady { token, .. } => self.events.push(GroupEvent::Read { group, token, ok: true }),
            Effect::ReadFailed { token } => self.events.push(GroupEvent::Read { group, token, ok: false }),
            Effect::Refused { reason } => self.refusal = Some(reason),
            Effect::Unclean { from, waits } => self.report_unclean(slot, from, waits),
            Effect::Apart(apart) => {
                let (from, dropped) = (apart.from, apart.dropped);
                tracing::warn!(%group, %from, "the leader may lack tombstones below {dropped}, and what they deleted may be here: this \
                    replica takes nothing of it, and begins anew");
            }
            Effect::Poisoned { reason } => {
                tracing::error!(%group, reason, "group fences itself off");
                self.groups[slot].poisoned = true;
                self.events.push(GroupEvent::Poisoned { group, reason });
            }
        }
    }

    /// An election that may lose entries: audited, whether it went on or waits (safety.md F11).
    fn report_unclean(&mut self, slot: usize, from: Index, waits: bool) {
        let (group, epoch) = (self.groups[slot].id, self.groups[slot].core.epoch());
        let end = self.store.last(group).map_or(Offset(0), |(_, next)| next);
        let offset = self.store.meta_at(group, from).map_or(end, |meta| meta.base_offset);
        if waits {
            tracing::error!(%group, %epoch, %from, %offset, %end, "every voter answered, but a majority may have lost what it \
                acknowledged: no leader without approval");
        } else {
            tracing::error!(%group, %epoch, %from, %offset, %end, "unclean recovery: acknowledged records may be lost from here on; \
                the best log that is left ends before {end}");
        }
        self.events.push(GroupEvent::UncleanRecovery { group, epoch, from, offset, waits });
    }

    /// Notes that the group's storage changed, or that it could not.
    pub(super) fn stored(
        &mut self,
        now: Millis,
        slot: usize,
        result: Result<(), StoreError>,
        more: &mut Vec<Effect>,
    ) {
        if result.is_ok() {
            self.groups[slot].stored_round = self.store.next_round();
        }
        if let Err(error) = result {
            let g = &mut self.groups[slot];
            tracing::error!(group = %g.id, %error, "storage refused a change; the replica stands down");
            // What could not be stored never becomes durable: nothing that waits for it may leave.
            g.stored_round = u64::MAX;
            g.core.step(now, Event::StorageFailed, more);
        }
    }

    fn append(
        &mut self,
        now: Millis,
        slot: usize,
        metas: Vec<EntryMeta>,
        own: bool,
        payloads: &mut Payloads<'_>,
        more: &mut Vec<Effect>,
    ) {
        let group = self.groups[slot].id;
        let mut entries = Vec::with_capacity(metas.len());
        match payloads {
            Payloads::Own { proposals, assign } if own && !proposals.is_empty() => {
                for (meta, proposal) in metas.iter().zip(proposals.drain(..)) {
                    let mut payload = proposal.payload;
                    assign(meta, &mut payload);
                    entries.push(Entry { meta: *meta, payload: payload.freeze() });
                }
            }
            Payloads::Received { first, payloads } if !own => {
                for meta in &metas {
                    let at = (meta.id.index.0 - first.0) as usize;
                    entries.push(Entry { meta: *meta, payload: payloads[at].clone() });
                }
            }
            _ => {
                entries.extend(metas.iter().map(|meta| Entry { meta: *meta, payload: Bytes::new() }));
            }
        }
        assert_eq!(entries.len(), metas.len(), "every appended header has its payload");
        let result = self.store.append(group, entries.clone());
        self.note_unflushed(now, slot, &metas);
        if result.is_ok() {
            if own {
                self.appended.extend_from_slice(&metas);
            }
            self.events.push(GroupEvent::Appended { group, entries });
        }
        self.stored(now, slot, result, more);
    }

    /// Appends one entry that the core made itself, payload included.
    fn append_own(&mut self, now: Millis, slot: usize, entry: Entry, more: &mut Vec<Effect>) {
        let group = self.groups[slot].id;
        let result = self.store.append(group, vec![entry.clone()]);
        if result.is_ok() {
            self.appended.push(entry.meta);
            self.events.push(GroupEvent::Appended { group, entries: vec![entry] });
        }
        self.stored(now, slot, result, more);
    }

    #[allow(clippy::too_many_arguments)]
    fn replicate(
        &mut self,
        now: Millis,
        slot: usize,
        to: ReplicaId,
        prev: LogId,
        mut max_bytes: usize,
        commit: Index,
        more: &mut Vec<Effect>,
    ) {
        let group = self.groups[slot].id;
        if !self.connected.contains(&to.node) || (max_bytes > 0 && self.saturated.contains(&to.node)) {
            return;
        }
        let is_recovery = self.recovery.is_limited()
            && max_bytes > 0
            && self.groups[slot].core.is_recovering(to, prev.index.next());
        if is_recovery {
            max_bytes = max_bytes.min(self.recovery.allowed(now));
            if max_bytes == 0 {
                return;
            }
        }
        let mut entries = Vec::new();
        if max_bytes > 0 && prev.index < self.groups[slot].core.last().index {
            match self.store.read(group, prev.index.next(), max_bytes) {
                Ok(read) => entries = read,
                Err(StoreError::OutOfRange) => {}
                Err(error) => {
                    // A read error must never look like the end of the log.
                    tracing::error!(%group, %error, "entries cannot be read for replication");
                    if matches!(error, StoreError::Damaged(_)) {
                        self.groups[slot].core.step(now, Event::Damaged, more);
                        self.begin_repair(group);
                    }
                    return;
                }
            }
        }
        let cleaned = self.says(group, &entries);
        let epoch = self.groups[slot].core.epoch();
        let last = entries.last().map(|e| e.meta.id.index);
        let bytes = entries.iter().map(Entry::weight).sum();
        if is_recovery {
            self.recovery.spend(bytes);
        }
        let (metas, payloads) = entries.into_iter().map(|e| (e.meta, e.payload)).unzip();
        let body = Body::Append { prev, entries: metas, commit, cleaned };
        self.send(slot, to, Message { epoch, body }, payloads, false);
        if let Some(last) = last {
            self.groups[slot].core.step(now, Event::Sent { to, last, bytes }, more);
        }
    }

    /// How clean the log is that these entries were just read of, where that matters to whoever takes them (decisions/0022).
    fn says(&self, group: GroupId, entries: &[Entry]) -> Option<Cleaned> {
        let cleaned = self.store.cleaned(group).ok()?;
        entries
            .first()
            .filter(|first| first.meta.base_offset < cleaned.clean.max(cleaned.dropped))
            .map(|_| cleaned)
    }

    pub(super) fn send(
        &mut self,
        slot: usize,
        to: ReplicaId,
        message: Message,
        payloads: Vec<Bytes>,
        after_storage: bool,
    ) {
        let node = to.node;
        let Some(envelope) = self.envelope(slot, to, message, payloads) else { return };
        let g = &self.groups[slot];
        if after_storage && g.stored_round > self.completed_round && !on(Mutation::SendBeforeStored) {
            if g.stored_round != u64::MAX {
                self.held.entry(g.stored_round).or_default().push((node, envelope));
            }
        } else {
            self.push(node, envelope);
        }
    }

    /// Addresses a message; None if the receiver's process is not known yet.
    pub(super) fn envelope(
        &self,
        slot: usize,
        to: ReplicaId,
        message: Message,
        payloads: Vec<Bytes>,
    ) -> Option<Envelope> {
        let g = &self.groups[slot];
        let (from_incarnation, to_incarnation) = if g.id == GroupId(0) {
            (self.config.boot, *self.boots.get(&to.node)?)
        } else {
            let theirs = self.incarnations.get(&to.node).copied().unwrap_or(0);
            (self.incarnation as u128, theirs as u128)
        };
        let from = g.core.replica();
        Some(Envelope { group: g.id, from, to, from_incarnation, to_incarnation, message, payloads })
    }

    pub(super) fn push(&mut self, node: NodeId, envelope: Envelope) {
        let outbox = self.outboxes.entry(node).or_default();
        outbox.push(envelope);
        if outbox.len() >= FRAME_BYTES {
            let frame = outbox.take();
            self.ready.push_back((node, frame));
        }
    }

    pub(super) fn arm(&mut self, slot: usize) {
        let g = &mut self.groups[slot];
        if let Some(deadline) = g.core.deadline()
            && !g.poisoned
        {
            let at = self.wheel.fires_at(deadline);
            if at < g.armed {
                g.armed = at;
                self.wheel.insert(slot as u64, at);
            }
        }
    }
}
