//! What a replica does with its leader's messages: appends, beats and log starts.
//!
//! Not here: elections, and anything a leader does. Called by the dispatch in `mod`. Invariants:
//! - every message of the present leader, answered with a rejection or not, counts as hearing it;
//! - entries are cut only at a real conflict, never at or below commit (that is poison);
//! - commit goes up to what *this* leader has shown to be its own, never to whatever the log happens to end with;
//! - only durable entries, verified against this leader's log, are acknowledged (what is merely written is told apart, `flush`).

use super::{Core, Effect, Millis, Role, decode};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::Body;
use crate::segment::{Cleaned, EntryKind, EntryMeta, Epoch, Index, LogId, LogStart, ReplicaId};

impl Core {
    /// Takes note of a leader's message; false if it is not one of our leader's.
    pub(super) fn follow(
        &mut self,
        now: Millis,
        from: ReplicaId,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) -> bool {
        if epoch < self.hard.epoch {
            // The stray leader learns the epoch, steps down once, and the group moves on; if it is we who stray with a
            // high term, the group takes it up likewise.
            self.send(from, Body::Fenced, false, out);
            return false;
        }
        if epoch == self.hard.epoch {
            let other = if self.role == Role::Leader { Some(self.replica) } else { self.leader };
            if let Some(other) = other.filter(|other| *other != from) {
                self.poison(format!("two leaders in epoch {epoch}: {other} and {from}"), out);
                return false;
            }
        }
        if epoch > self.hard.epoch || self.leader != Some(from) {
            self.become_follower(now, epoch, Some(from), out);
        }
        self.heard = Some(now);
        self.restart_timer(now);
        true
    }

    pub(super) fn on_append(
        &mut self,
        from: ReplicaId,
        (prev, entries): (LogId, Vec<EntryMeta>),
        commit: Index,
        cleaned: Option<Cleaned>,
        out: &mut Vec<Effect>,
    ) {
        if !is_chain(self.hard.epoch, prev, &entries) {
            return;
        }
        if self.start_unproven && self.contradicts_start(prev, &entries) {
            if self.held_out && !self.drops_damage() {
                return;
            }
            self.start_over(out);
        }
        if self.held_out && !self.cuts_damage(prev, &entries) {
            return self.guide_past_damage(from, prev, out);
        }
        // Entries before the log start are committed, so they are the leader's too.
        let joins = self.log.contains(prev) || on(Mutation::SkipLogMatching);
        if prev.index >= self.log.start().index && !joins {
            if prev.index <= self.log.commit() && !self.take_back(prev.index, out) {
                return self.poison(format!("leader {from} lacks a committed entry: it has {prev}"), out);
            }
            return self.reject(from, prev, out);
        }
        self.start_unproven = false;
        let last = entries.last().map_or(prev.index, |meta| meta.id.index);
        if !self.take(entries, cleaned, out) {
            return;
        }
        self.verified = self.verified.max(last);
        self.follow_commit(commit, out);
        if self.stands_apart() {
            // An answer would only bring the same entries again.
            return;
        }
        let last = last.max(self.log.start().index);
        if self.log.durable() >= last || on(Mutation::AcknowledgeUnsynced) {
            self.acknowledge(from, true, out);
        } else if self.log.written() >= last {
            self.tell_written_again(true, out);
        }
    }

    /// Damaged, it takes no entries, but it tells the leader where their logs join: else that one never offers what replaces the damage,
    /// entries that no peer may have any more. What lies before the damage is sound and durable, and so said to be held.
    fn guide_past_damage(&mut self, from: ReplicaId, prev: LogId, out: &mut Vec<Effect>) {
        let Some(first) = self.damaged_from() else { return };
        let joins = self.log.contains(prev);
        if !joins && prev.index > self.log.commit() {
            self.reject(from, prev, out);
        } else if joins && prev.index < first && prev.index <= self.log.durable() {
            let body = match self.is_vote_lost() {
                true => self.in_doubt_answer(prev, 0),
                false => Body::AppendAccepted { last: prev },
            };
            self.send(from, body, true, out);
        }
    }

    /// Names the last entry that may be common: conflict-term backtracking, follower's half (Raft §5.3).
    fn reject(&mut self, from: ReplicaId, prev: LogId, out: &mut Vec<Effect>) {
        let commit = self.log.id_at(self.log.commit()).unwrap_or(self.log.start());
        let hint = match self.log.guess(prev.index, prev.epoch) {
            Some(id) if id.index > commit.index => id,
            _ => commit,
        };
        let body = Body::AppendRejected { probed: prev.index, hint, last: self.log.last() };
        self.send(from, body, false, out);
    }

    /// Appends those entries that are new, cutting the log where it says otherwise. False if poisoned.
    fn take(&mut self, mut entries: Vec<EntryMeta>, cleaned: Option<Cleaned>, out: &mut Vec<Effect>) -> bool {
        let start = self.log.start().index;
        let known = |meta: &EntryMeta| meta.id.index <= start || self.log.contains(meta.id);
        let skip = entries.iter().position(|meta| !known(meta)).unwrap_or(entries.len());
        let skipped = entries[..skip].iter().filter(|meta| meta.kind == EntryKind::Configuration).count();
        entries.drain(..skip);
        let Some(first) = entries.first().copied() else { return true };
        let wanted = entries.iter().filter(|meta| meta.kind == EntryKind::Configuration).count();
        if self.decoded.len() < skipped + wanted {
            self.poison(format!("a configuration entry from {} on came without its content", first.id), out);
            return false;
        }
        if first.id.index <= self.log.last().index {
            let is_committed = first.id.index <= self.log.commit() && !on(Mutation::TruncateCommitted);
            if is_committed && !self.take_back(first.id.index, out) {
                let reason =
                    format!("{} would replace a committed entry (commit {})", first.id, self.log.commit());
                self.poison(reason, out);
                return false;
            }
            self.persist(out);
            match is_committed {
                true => self.keep(first.id.index, out),
                false => self.set_aside(first.id.index, out),
            }
            out.push(Effect::Truncate { from: first.id.index });
            let rolled_back = self.log.truncate(first.id.index, first.base_offset);
            self.verified = self.verified.min(self.log.last().index);
            if rolled_back {
                self.configuration_changed(out);
            }
        } else if first.base_offset != self.log.next_offset() {
            let reason = format!(
                "{} has base offset {}, the log goes on at {}",
                first.id,
                first.base_offset,
                self.log.next_offset()
            );
            self.poison(reason, out);
            return false;
        }
        let end = entries.last().map_or(first.base_offset, EntryMeta::next_offset);
        let cleaned = self.note_brought((first.base_offset, end), cleaned);
        for meta in &entries {
            self.log.append(meta);
        }
        let mut decoded = std::mem::take(&mut self.decoded).into_iter().skip(skipped);
        for meta in entries.iter().filter(|meta| meta.kind == EntryKind::Configuration) {
            let configuration = decoded.next().expect("counted above");
            self.log.activate(meta.id, configuration);
        }
        self.persist(out);
        out.push(Effect::Append { metas: entries, own: false, cleaned });
        if wanted > 0 {
            self.configuration_changed(out);
        }
        true
    }

    fn configuration_changed(&mut self, out: &mut Vec<Effect>) {
        self.announce_configuration(out);
        let (_, id) = self.log.configuration();
        self.removed = self.removed.filter(|removed| *removed >= id);
        self.role = self.resting_role();
        self.announce(out);
    }

    fn follow_commit(&mut self, commit: Index, out: &mut Vec<Effect>) {
        let verified = if on(Mutation::CommitUnverified) { self.log.last().index } else { self.verified };
        let index = commit.min(verified);
        if self.log.set_commit(index) {
            out.push(Effect::Committed { index });
        }
    }

    /// The last durable entry known to be this leader's too; index 0 if there is none to speak of.
    pub(super) fn matched(&self) -> LogId {
        self.matched_within(self.log.durable())
    }

    /// The last entry up to `stored` known to be this leader's too.
    pub(super) fn matched_within(&self, stored: Index) -> LogId {
        if self.held_out || self.hard.sealed.is_some() || self.start_unproven || self.stands_apart() {
            return LogId::default();
        }
        let sure = if self.may_lag_behind_a_loss() { Index(0) } else { self.log.commit() };
        let index = self.verified.max(sure).min(stored);
        self.log.id_at(index).unwrap_or_default()
    }

    /// The last entry that this leader has shown to be its own, durable here or not: never to be told to anybody.
    fn shown(&self) -> LogId {
        self.log.id_at(self.verified).unwrap_or_default()
    }

    /// Acknowledges what is durable. `wait` where the caller cannot tell that the present epoch is durable as well.
    fn acknowledge(&mut self, to: ReplicaId, wait: bool, out: &mut Vec<Effect>) {
        let is_early = on(Mutation::AcknowledgeUnsynced);
        let last = if is_early { self.shown() } else { self.matched() };
        if last.index >= self.log.start().index {
            self.acked = last.index;
            let body = match self.is_vote_lost() {
                true => self.in_doubt_answer(last, 0),
                false => Body::AppendAccepted { last },
            };
            self.send(to, body, wait && !is_early, out);
        }
    }

    /// A round is durable: acknowledge what it brought, once, to the leader of the present epoch.
    pub(super) fn acknowledge_durable(&mut self, out: &mut Vec<Effect>) {
        let Some(leader) = self.leader else { return };
        let matched = self.matched().index;
        if matched > self.acked {
            // The round may be older than our last change of epoch: an acknowledgement in an epoch that a crash undoes
            // would let the former leader cut what was counted.
            self.acknowledge(leader, self.unproven.is_some(), out);
        }
    }

    pub(super) fn on_beat(&mut self, from: ReplicaId, commit: Index, sequence: u64, out: &mut Vec<Effect>) {
        self.follow_commit(commit, out);
        let matched = if on(Mutation::BeatUnsynced) { self.shown() } else { self.matched() };
        let body = match self.is_vote_lost() {
            true => self.in_doubt_answer(matched, sequence),
            false => Body::BeatReply { sequence, matched, last: self.log.last() },
        };
        self.send(from, body, false, out);
        self.tell_written_again(self.unproven.is_some(), out);
    }

    pub(super) fn on_install(&mut self, from: ReplicaId, start: LogStart, out: &mut Vec<Effect>) {
        if start.prev.epoch > self.hard.epoch || self.is_forsaken() {
            return;
        }
        let prev = start.prev;
        if self.start_unproven && !self.held_out {
            if self.contradicts_start(prev, &[]) || !self.log.contains(prev) {
                self.start_over(out);
            }
            self.start_unproven = false;
        }
        let is_here = prev.index <= self.log.start().index || self.log.contains(prev);
        if is_here && !self.must_start_over(prev.index) {
            if self.held_out {
                return;
            }
            // We have all that lies before; entries can follow. `after_storage` makes them durable before we say so.
            self.verified = self.verified.max(prev.index);
            if !self.may_lag_behind_a_loss() {
                self.verified = self.verified.max(self.log.commit());
            }
            let prev = self.log.id_at(self.verified).unwrap_or(self.log.start());
            return self.tell_installed(from, prev, out);
        }
        let is_contradiction = prev.index <= self.log.commit() && !is_here;
        if is_contradiction && !self.take_back(prev.index, out) {
            return self.poison(format!("log start {prev} of {from} contradicts a committed entry"), out);
        }
        let Some(base) = decode(&start) else { return };
        if self.held_out && !self.drops_damage() {
            return;
        }
        self.start_unproven = false;
        match is_contradiction {
            true => self.keep(self.log.start().index.next(), out),
            false => self.set_aside(self.log.start().index.next(), out),
        }
        self.log.install(prev, start.base_offset, (start.configuration_id, base));
        self.begin_afresh();
        self.log.reflect(start.producers_at);
        self.verified = prev.index;
        self.acked = prev.index;
        self.persist(out);
        out.push(Effect::Install { start });
        self.configuration_changed(out);
        out.push(Effect::Committed { index: prev.index });
        self.tell_installed(from, prev, out);
    }

    fn tell_installed(&mut self, to: ReplicaId, prev: LogId, out: &mut Vec<Effect>) {
        let body = match self.is_vote_lost() {
            true => self.in_doubt_answer(prev, 0),
            false => Body::LogStartInstalled { prev },
        };
        self.send(to, body, true, out);
    }
}

/// Whether `entries` are a chain that goes on from `prev` and could come from a leader of `epoch`. What is not was
/// damaged on its way past every checksum; it is not worth an answer.
fn is_chain(epoch: Epoch, prev: LogId, entries: &[EntryMeta]) -> bool {
    let mut before = prev;
    let mut offset = None;
    for meta in entries {
        let follows =
            meta.predecessor() == before && meta.id.index > before.index && meta.id.epoch >= before.epoch;
        if !follows || offset.is_some_and(|next| next != meta.base_offset) {
            return false;
        }
        before = meta.id;
        offset = Some(meta.next_offset());
    }
    before.epoch <= epoch
}
