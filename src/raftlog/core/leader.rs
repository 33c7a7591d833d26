//! What a leader does: no-op, proposals, replication, commit, beats, check-quorum.
//!
//! Not here: how it was elected (`election`), what to send one peer (`progress`), changes of its peers (`membership`),
//! reads (`read_index`), handing over (`transfer`). Called by the dispatch in `mod` and by the engine (`beat`). Invariants:
//! - its first entry is a no-op of its own epoch, and only entries of its own epoch are committed by counting
//!   (Raft §5.4.2, §8);
//! - its own copy counts from its own `Durable` on, not from the append;
//! - learners and observers are replicated to but never counted;
//! - it steps down when it has not heard a quorum for the check-quorum window.

use super::progress::Progress;
use super::transfer::Transfer;
use super::{Core, Effect, Millis, PeerProgress, Refusal, Role, quorum};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::{Body, Message};
use crate::segment::{EntryKind, EntryMeta, Index, LogId, NodeId, ReplicaId};
use std::collections::VecDeque;

/// State of a leader, gone when it steps down.
pub(super) struct Leading {
    pub peers: Vec<Progress>,
    /// Former members that have not been told yet (the configuration without them is not committed).
    pub departed: Vec<ReplicaId>,
    /// The no-op: once committed, so is everything before.
    pub first_own: Index,
    /// Sequence of the next beat, and whether one has gone out under it.
    pub sequence: u64,
    pub sequence_used: bool,
    pub reads: VecDeque<PendingRead>,
    /// Proposals that wait for commit: last index and payload bytes of each.
    uncommitted: VecDeque<(Index, usize)>,
    uncommitted_bytes: usize,
    pub transfer: Option<Transfer>,
    /// When a quorum must have been heard again; None in a group of one.
    pub quorum_due: Option<Millis>,
}

/// A read that waits for a quorum to answer a beat of its sequence or a later one.
pub(super) struct PendingRead {
    pub token: u64,
    pub sequence: u64,
}

impl Leading {
    pub fn deadline(&self) -> Option<Millis> {
        let transfer = self.transfer.as_ref().map(|transfer| transfer.deadline);
        match (self.quorum_due, transfer) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub fn peer(&self, replica: ReplicaId) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.replica == replica)
    }

    pub fn peer_mut(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.replica == replica)
    }

    pub fn peers(&self) -> &[Progress] {
        &self.peers
    }

    fn settle(&mut self, commit: Index) {
        while let Some(&(index, bytes)) = self.uncommitted.front()
            && index <= commit
        {
            self.uncommitted.pop_front();
            self.uncommitted_bytes -= bytes;
        }
    }
}

impl Core {
    pub(super) fn become_leader(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let unanimous = self.note_election(out);
        self.start_leading(now, self.log.last().index.next(), unanimous, out);
        self.append_own(&[(EntryKind::Noop, 0, 0)], out);
        self.pump_all(now, out);
    }

    /// Leads; `first_own` is (or will be) the first entry of this epoch.
    pub(super) fn start_leading(
        &mut self,
        now: Millis,
        first_own: Index,
        unanimous: bool,
        out: &mut Vec<Effect>,
    ) {
        let (configuration, _) = self.log.configuration();
        let members = configuration.members();
        let observers = self.observers.iter().copied().filter(|r| configuration.members().all(|m| m != *r));
        let last = first_own.prev();
        let peers: Vec<_> = members
            .chain(observers)
            .filter(|replica| *replica != self.replica)
            .map(|replica| Progress::new(replica, last, now).trusted(unanimous))
            .collect();
        let alone = quorum::is_quorum(configuration, |replica| replica == self.replica);
        self.leading = Some(Box::new(Leading {
            peers,
            departed: Vec::new(),
            first_own,
            sequence: 1,
            sequence_used: false,
            reads: VecDeque::new(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            transfer: None,
            quorum_due: (!alone).then_some(now + self.config.check_quorum_ms),
        }));
        if !alone {
            // Votes were asked for `after_storage`, so whoever answered one saw the new term durable here.
            self.unproven = None;
        }
        self.role = Role::Leader;
        self.leader = Some(self.replica);
        self.timer = None;
        self.hurry = 0;
        self.announce(out);
    }

    /// Leaves the leader's role, if it is held: whoever waits must ask elsewhere.
    pub(super) fn stop_leading(&mut self, out: &mut Vec<Effect>) {
        if let Some(leading) = self.leading.take() {
            out.extend(leading.reads.into_iter().map(|read| Effect::ReadFailed { token: read.token }));
        }
    }

    pub(super) fn propose(&mut self, now: Millis, entries: &[(EntryKind, u32, u32)], out: &mut Vec<Effect>) {
        let bytes: usize = entries.iter().map(|(_, _, payload)| *payload as usize).sum();
        let refusal = match &self.leading {
            None => Some(Refusal::NotLeader),
            Some(leading) if self.held_out || leading.transfer.is_some() => Some(Refusal::Transferring),
            // One proposal is always let through, whatever its size (etcd's rule), or it could never be made.
            Some(leading) => (leading.uncommitted_bytes > 0
                && leading.uncommitted_bytes + bytes > self.config.uncommitted_bytes)
                .then_some(Refusal::Busy),
        };
        // A change of configuration has rules of its own (Raft §6) and does not come as a plain proposal.
        let changes = entries.iter().any(|(kind, _, _)| *kind == EntryKind::Configuration);
        if let Some(reason) = refusal.or(changes.then_some(Refusal::Busy)) {
            return out.push(Effect::Refused { reason });
        }
        if entries.is_empty() {
            return;
        }
        self.append_own(entries, out);
        self.pump_all(now, out);
    }

    fn append_own(&mut self, entries: &[(EntryKind, u32, u32)], out: &mut Vec<Effect>) {
        let metas = entries.iter().map(|(kind, span, bytes)| self.add_own(*kind, *span, *bytes)).collect();
        self.note_uncommitted(entries.iter().map(|(_, _, bytes)| *bytes as usize).sum());
        self.persist(out);
        out.push(Effect::Append { metas, own: true, cleaned: None });
    }

    /// Adds one entry of this epoch to the log; the caller emits it.
    pub(super) fn add_own(&mut self, kind: EntryKind, offset_span: u32, payload_len: u32) -> EntryMeta {
        let before = self.log.last();
        let meta = EntryMeta {
            id: LogId { epoch: self.hard.epoch, index: before.index.next() },
            prev: before.epoch,
            kind,
            base_offset: self.log.next_offset(),
            offset_span,
            payload_len,
        };
        self.log.append(&meta);
        self.note_mixed();
        meta
    }

    /// So many payload bytes up to the last entry wait for commit.
    pub(super) fn note_uncommitted(&mut self, bytes: usize) {
        if let Some(leading) = &mut self.leading
            && bytes > 0
        {
            leading.uncommitted.push_back((self.log.last().index, bytes));
            leading.uncommitted_bytes += bytes;
        }
    }

    /// A leader without other voters asked nobody, so its term may not be durable yet: were its entries seen by a
    /// learner and the term then lost in a crash, the next leader could give the same identities to other entries.
    /// Its first entry went to storage behind that term. What is saved later (that it left doubt) promises nothing to
    /// its followers, and an idle leader may append nothing behind it for long: it must not wait for that.
    pub(super) fn is_held_back(&self) -> bool {
        let first_own = self.leading.as_ref().map_or(Index(0), |leading| leading.first_own);
        self.unproven.is_some() && self.log.durable() < first_own
    }

    pub(super) fn pump_all(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if !self.is_held_back()
            && let Some(leading) = &mut self.leading
        {
            for peer in &mut leading.peers {
                peer.pump(now, &self.log, &self.config, out);
            }
        }
    }

    pub(super) fn note_sent(
        &mut self,
        now: Millis,
        to: ReplicaId,
        last: Index,
        bytes: usize,
        out: &mut Vec<Effect>,
    ) {
        let Some(leading) = &mut self.leading else { return };
        if let Some(peer) = leading.peer_mut(to) {
            peer.sent(last.min(self.log.last().index), bytes);
            peer.pump(now, &self.log, &self.config, out);
        }
    }

    /// A follower's answer in the present epoch.
    pub(super) fn on_answer(&mut self, now: Millis, from: ReplicaId, body: Body, out: &mut Vec<Effect>) {
        let accepted = match &body {
            Body::AppendAccepted { last } | Body::Written { last } => *last,
            Body::LogStartInstalled { prev } => *prev,
            Body::BeatReply { matched, .. } | Body::InDoubt { matched, .. } => *matched,
            _ => LogId::default(),
        };
        let Some(leading) = &mut self.leading else { return };
        let Some(peer) = leading.peer_mut(from) else { return };
        let counted = peer.counts();
        peer.note_word(&body);
        // What it held all the while may be what a commit waits for.
        let counts_anew = !counted && peer.counts();
        // Entries before our start are committed, so the same everywhere; all others must be ours.
        if accepted.index >= self.log.start().index && !self.log.contains(accepted) && accepted.index.0 > 0 {
            return self
                .poison(format!("{from} acknowledged {accepted}, which is not in its leader's log"), out);
        }
        let mut moved = counts_anew;
        let mut answers_read = false;
        // A log start that was here already is told as soon as what stands behind it is written: durable is what the next answer says.
        if !matches!(body, Body::Written { .. } | Body::LogStartInstalled { .. }) {
            moved |= peer.note_durable(accepted.index);
        }
        match body {
            Body::AppendRejected { probed, hint, .. } => {
                peer.rejected(probed, hint, &self.log);
            }
            Body::BeatReply { sequence, last, .. } | Body::InDoubt { sequence, last, .. } if sequence > 0 => {
                if accepted.index.0 > 0 {
                    moved |= peer.accepted(accepted.index, &self.log);
                }
                peer.beat_answered(sequence, last, &self.log);
                answers_read = !leading.reads.is_empty();
            }
            _ => moved |= peer.accepted(accepted.index, &self.log),
        }
        if let Some(peer) = leading.peer_mut(from) {
            peer.note_lag(now, self.log.last().index);
            peer.pump(now, &self.log, &self.config, out);
        }
        if answers_read {
            self.confirm_reads(out);
        }
        if moved {
            self.advance_commit(now, out);
            self.continue_transfer(now, out);
        }
    }

    /// Commits what a quorum holds, durably unless the topic asks for less, if it is of our own epoch (Raft §5.4.2).
    pub(super) fn advance_commit(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let stored = if on(Mutation::CountUnsyncedOwn) { self.log.last().index } else { self.stored() };
        let is_async = self.is_async() || on(Mutation::CountWritten);
        let Some(leading) = &mut self.leading else { return };
        let (configuration, _) = self.log.configuration();
        let matched = |replica: ReplicaId| match replica == self.replica {
            true => stored,
            false => leading.peer(replica).map_or(Index(0), |peer| peer.counted(is_async)),
        };
        let Some(index) = quorum::reached(configuration, matched) else { return };
        let is_own = index >= leading.first_own || on(Mutation::CommitOldTerm);
        if index <= self.log.commit() || !is_own {
            return;
        }
        if now >= self.commit_until && !on(Mutation::CommitWithoutLease) {
            return;
        }
        self.log.set_commit(index);
        leading.settle(index);
        out.push(Effect::Committed { index });
        self.confirm_reads(out);
        self.pump_all(now, out);
        self.settle_membership(now, out);
    }

    /// From then on a leader here calls nothing committed, until it is told another time; `Event::FlushMode` makes up for it. Whoever holds
    /// entries goes on holding them: this takes nothing back.
    pub fn set_commit_until(&mut self, until: Millis) {
        self.commit_until = until;
    }

    /// As leader: the beat for this peer, every `beat_ms` for all peers. May also push repair work (Replicate) into `out`.
    pub fn beat(&mut self, now: Millis, to: ReplicaId, out: &mut Vec<Effect>) -> Option<Message> {
        if self.is_held_back() {
            return None;
        }
        let leading = self.leading.as_mut()?;
        let peer = leading.peers.iter_mut().find(|peer| peer.replica == to)?;
        peer.repair(now, self.config.election_min_ms, out);
        peer.pump(now, &self.log, &self.config, out);
        let mark = peer.wants_mark();
        if mark && leading.sequence_used {
            leading.sequence += 1;
        }
        leading.sequence_used = true;
        let (commit, sequence) = (self.log.commit().min(peer.matched), leading.sequence);
        peer.beat_sent(sequence, mark, commit);
        self.repeat_timeout_now(now, to, out);
        Some(Message { epoch: self.hard.epoch, body: Body::Beat { commit, sequence } })
    }

    pub(super) fn tick_leader(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.expire_transfer(now, out);
        let Some(leading) = &mut self.leading else { return };
        if leading.quorum_due.is_none_or(|due| due > now) || on(Mutation::SkipCheckQuorum) {
            return;
        }
        let heard = |replica: ReplicaId| match replica == self.replica {
            true => now,
            false => leading.peer(replica).filter(|peer| peer.counts()).map_or(0, |peer| peer.heard),
        };
        let heard = quorum::reached(self.log.configuration().0, heard).unwrap_or(0);
        let due = heard + self.config.check_quorum_ms;
        if due > now {
            leading.quorum_due = Some(due);
        } else {
            // Deaf or cut off: nobody must take us for the leader any longer (Raft §6.2 of the thesis).
            self.become_follower(now, self.hard.epoch, None, out);
        }
    }

    pub(super) fn reset_progress(&mut self, now: Millis, node: NodeId, anew: bool, out: &mut Vec<Effect>) {
        let Some(leading) = &mut self.leading else { return };
        for peer in leading.peers.iter_mut().filter(|peer| peer.replica.node == node) {
            if anew {
                peer.reset(self.log.last().index);
            } else {
                peer.connection_lost();
            }
        }
        self.pump_all(now, out);
    }

    pub(super) fn add_observer(&mut self, now: Millis, replica: ReplicaId, out: &mut Vec<Effect>) {
        if replica == self.replica || self.observers.contains(&replica) {
            return;
        }
        self.remove_observer(replica.node);
        self.observers.push(replica);
        if let Some(leading) = &mut self.leading
            && leading.peer(replica).is_none()
        {
            leading.peers.push(Progress::new(replica, self.log.last().index, now));
            self.pump_all(now, out);
        }
    }

    pub(super) fn remove_observer(&mut self, node: NodeId) {
        self.observers.retain(|observer| observer.node != node);
        let (configuration, _) = self.log.configuration();
        if let Some(leading) = &mut self.leading {
            let member = |replica: ReplicaId| configuration.members().any(|m| m == replica);
            leading.peers.retain(|peer| peer.replica.node != node || member(peer.replica));
        }
    }

    /// As leader: how many voters hold `index` as safely as the topic asks, itself included; of a joint configuration the half with fewer
    /// (acks=all with min.insync.replicas, safety.md F15).
    pub fn holders(&self, index: Index) -> usize {
        let Some(leading) = &self.leading else { return 0 };
        let (stored, is_async) = (self.stored(), self.is_async());
        let holds = |replica: &&ReplicaId| match **replica == self.replica {
            true => stored >= index,
            false => leading.peer(**replica).is_some_and(|peer| peer.counted(is_async) >= index),
        };
        let (configuration, _) = self.log.configuration();
        let half = |voters: &[ReplicaId]| voters.iter().filter(holds).count();
        match configuration.is_joint() {
            true => half(&configuration.voters).min(half(&configuration.old_voters)),
            false => half(&configuration.voters),
        }
    }

    /// As leader: whether `next` would only bring a replica nearer that is far behind, and no commit waits for that.
    pub fn is_recovering(&self, replica: ReplicaId, next: Index) -> bool {
        let Some(leading) = &self.leading else { return false };
        let window = self.config.check_quorum_ms;
        let behind = |peer: &Progress| !peer.is_caught_up(leading.first_own, window);
        next <= self.log.commit() && leading.peer(replica).is_some_and(behind)
    }

    /// As leader: what is known of the peers.
    pub fn progress(&self) -> Vec<PeerProgress> {
        let mut peers = Vec::new();
        self.each_peer(&mut |peer| peers.push(peer));
        peers
    }

    /// The same without a list.
    pub fn each_peer(&self, tell: &mut dyn FnMut(PeerProgress)) {
        let (configuration, _) = self.log.configuration();
        let Some(leading) = &self.leading else { return };
        for peer in &leading.peers {
            tell(PeerProgress {
                replica: peer.replica,
                matched: peer.matched,
                heard_ms: peer.heard,
                caught_up_ms: peer.caught_up,
                voter: configuration.is_voter(peer.replica),
                is_caught_up: peer.is_caught_up(leading.first_own, self.config.check_quorum_ms),
                counts: peer.counts(),
            });
        }
    }
}
