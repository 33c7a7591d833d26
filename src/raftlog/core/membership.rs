//! Changes of membership by joint consensus (Raft §6; thesis §4.3, safety.md F2, F6).
//!
//! Not here: majorities (`quorum`), the stack of configurations (`log`), handing leadership over (`transfer`). Called by
//! the dispatch, by commit and by (pre-)vote requests of former members. Invariants:
//! - a configuration is in force from its append on, at every replica, until truncated;
//! - one change at a time, and none before an entry of the leader's own term is committed;
//! - voters change only through C_old,new, and C_new is proposed only when C_old,new is committed, by whichever leader
//!   finds it so: the proof that a lost majority may be replaced rests on it (safety.md F2);
//! - who becomes a voter holds the log durably, and its id was never used by a former member;
//! - a leader that C_new is without leads, uncounted, until C_new is committed, then hands over.

use super::progress::Progress;
use super::{Core, Effect, Millis, Role, quorum};
use crate::mutation::{Mutation, on};
use crate::raftlog::heir;
use crate::raftlog::message::{Body, Configuration};
use crate::segment::{EntryKind, Index, LogId, ReplicaId};

/// Why the members stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// Another replica leads, or nobody does.
    #[error("not the leader")]
    NotLeader,
    /// Leadership is being handed over.
    #[error("leadership is being handed over")]
    Transferring,
    /// The configuration in force is another one.
    #[error("the configuration in force is that of entry {current}")]
    Stale {
        /// Its entry.
        current: LogId,
    },
    /// An earlier change, or this leader's first entry, is not committed yet.
    #[error("an earlier change is not finished")]
    Pending,
    /// No group can have such members.
    #[error("{0}")]
    Invalid(&'static str),
    /// The id was used before and never comes back (safety.md F6).
    #[error("replica {replica} was a member before: it needs a new assignment")]
    Retired {
        /// Whose.
        replica: ReplicaId,
    },
    /// It does not hold the log durably yet; add it as a learner and ask again.
    #[error("replica {replica} is not caught up: it holds entries up to {matched} of {last}")]
    NotCaughtUp {
        /// Who.
        replica: ReplicaId,
        /// What it is known to hold.
        matched: Index,
        /// The leader's last entry.
        last: Index,
    },
}

impl Core {
    /// This is the group of the controllers: above it is nobody who could decide on its next generation (safety.md F1).
    pub fn become_controllers(&mut self) {
        self.has_heirs = true;
    }

    /// Whether the configuration in force is a joint one that this process appended as leader, and nobody else can have led since: then
    /// nothing followed it (`heir`).
    pub fn is_sole_author(&self) -> bool {
        self.sole && self.log.configuration().0.is_joint()
    }

    pub(super) fn change_membership(
        &mut self,
        now: Millis,
        expected: LogId,
        voters: Vec<ReplicaId>,
        learners: Vec<ReplicaId>,
        out: &mut Vec<Effect>,
    ) {
        if let Err(reason) = self.check_change(now, expected, &voters, &learners) {
            return out.push(Effect::ChangeRefused { reason });
        }
        let current = self.log.configuration().0;
        let mut next = current.towards(voters, learners);
        if self.has_heirs {
            next = heir::name(next, current, self.replica, self.is_sound());
        }
        let last = next.is_joint().then(|| next.without_old()).filter(|_| on(Mutation::LeaveJointEarly));
        self.append_configuration(now, next, out);
        if let Some(last) = last {
            self.append_configuration(now, last, out);
        }
    }

    fn check_change(
        &self,
        now: Millis,
        expected: LogId,
        voters: &[ReplicaId],
        learners: &[ReplicaId],
    ) -> Result<(), ChangeRefusal> {
        let Some(leading) = &self.leading else { return Err(ChangeRefusal::NotLeader) };
        if self.held_out || leading.transfer.is_some() {
            return Err(ChangeRefusal::Transferring);
        }
        let (current, id) = self.log.configuration();
        if id != expected {
            return Err(ChangeRefusal::Stale { current: id });
        }
        // Own-term commit first (Ongaro, raft-dev 2015), which also commits the configuration in force.
        let is_established = self.is_established() || on(Mutation::ChangeBeforeOwnCommit);
        let is_under_way = id.index > self.log.commit() || current.is_joint();
        if !is_established || (is_under_way && !on(Mutation::OverlapChanges)) {
            return Err(ChangeRefusal::Pending);
        }
        check_shape(current, voters, learners)?;
        for &replica in voters.iter().filter(|r| !current.voters.contains(r)) {
            let peer = leading.peer(replica);
            let window = self.config.check_quorum_ms;
            let ready = |peer: &Progress| {
                peer.is_caught_up(leading.first_own, window) && now.saturating_sub(peer.heard) <= window
            };
            if !peer.is_some_and(ready) && !on(Mutation::PromoteLagging) {
                let matched = peer.map_or(Index(0), |peer| peer.matched);
                return Err(ChangeRefusal::NotCaughtUp { replica, matched, last: self.log.last().index });
            }
        }
        Ok(())
    }

    /// Appends an own configuration entry and puts it in force (thesis §4.1).
    pub(super) fn append_configuration(
        &mut self,
        now: Millis,
        configuration: Configuration,
        out: &mut Vec<Effect>,
    ) {
        let bytes = configuration.encode().len();
        let meta = self.add_own(EntryKind::Configuration, 0, bytes as u32);
        self.log.activate(meta.id, configuration.clone());
        self.sole = configuration.is_joint();
        self.note_uncommitted(bytes);
        self.persist(out);
        out.push(Effect::AppendConfiguration { meta, configuration });
        self.announce_configuration(out);
        self.track_members(now);
        self.pump_all(now, out);
    }

    /// Makes the leader's peers those of the configuration in force (no transfer is under way: none is changed then).
    fn track_members(&mut self, now: Millis) {
        let (configuration, _) = self.log.configuration();
        let last = self.log.last().index.prev();
        let Some(leading) = &mut self.leading else { return };
        let observers = &self.observers;
        let stays = |replica: ReplicaId| configuration.is_member(replica) || observers.contains(&replica);
        let gone = leading.peers.iter().map(|peer| peer.replica).filter(|replica| !stays(*replica));
        leading.departed.extend(gone);
        leading.peers.retain(|peer| stays(peer.replica));
        for replica in configuration.members().filter(|replica| *replica != self.replica) {
            if leading.peer(replica).is_none() {
                leading.peers.push(Progress::joining(replica, last, now));
            }
        }
        let alone = quorum::is_quorum(configuration, |replica| replica == self.replica);
        leading.quorum_due = match leading.quorum_due {
            _ if alone => None,
            Some(due) => Some(due),
            None => Some(now + self.config.check_quorum_ms),
        };
    }

    /// The commit index has moved: what a committed configuration entails.
    pub(super) fn settle_membership(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(leading) = &mut self.leading else { return };
        let (configuration, id) = self.log.configuration();
        if id.index > self.log.commit() || self.log.commit() < leading.first_own {
            return;
        }
        if configuration.is_joint() {
            // While leadership is handed over, the next leader does it.
            if leading.transfer.is_none() {
                let next = configuration.without_old();
                self.append_configuration(now, next, out);
            }
            return;
        }
        let is_voter = configuration.is_voter(self.replica);
        for to in std::mem::take(&mut leading.departed) {
            self.send(to, Body::Removed { configuration: id }, false, out);
        }
        let Some(leading) = &self.leading else { return };
        if !is_voter && leading.transfer.is_none() {
            // Its last duty is done (Raft §6): the fullest log goes on at once.
            if !self.log.configuration().0.is_member(self.replica) {
                out.push(Effect::Removed { configuration: id });
            }
            self.start_transfer(now, None, out);
        }
    }

    /// Tells a former member that asks for votes what nobody replicated to it. True if it can never lead: its log lacks
    /// the committed configuration that is without it.
    pub(super) fn tell_removed(
        &mut self,
        now: Millis,
        to: ReplicaId,
        last: LogId,
        out: &mut Vec<Effect>,
    ) -> bool {
        let (configuration, id) = self.log.committed_configuration();
        let former = !configuration.voters.is_empty() && !configuration.is_member(to);
        // Whose log reaches as far may be a member of a later configuration, which we lack; it will know.
        let lacks = last < id;
        if former && (lacks || self.hears_leader(now)) {
            self.send(to, Body::Removed { configuration: id }, false, out);
        }
        former && lacks
    }

    /// A committed configuration is without us: if it is not older than the one we know, go quiet.
    pub(super) fn on_removed(&mut self, now: Millis, configuration: LogId, out: &mut Vec<Effect>) {
        let (current, own) = self.log.configuration();
        let member = configuration == own && current.is_member(self.replica);
        if configuration < own || member || self.removed.is_some_and(|known| known >= configuration) {
            return;
        }
        self.removed = Some(configuration);
        if !matches!(self.role, Role::Follower | Role::Learner) {
            self.become_follower(now, self.hard.epoch, None, out);
        }
        out.push(Effect::Removed { configuration });
    }
}

/// Whether these can be the members of a group at all, and follow those of `current`.
fn check_shape(
    current: &Configuration,
    voters: &[ReplicaId],
    learners: &[ReplicaId],
) -> Result<(), ChangeRefusal> {
    if voters.is_empty() {
        return Err(ChangeRefusal::Invalid("a group needs a voter"));
    }
    let members = || voters.iter().chain(learners);
    if members().enumerate().any(|(at, r)| members().skip(at + 1).any(|other| other.node == r.node)) {
        return Err(ChangeRefusal::Invalid("a node holds one replica of a group"));
    }
    if let Some(replica) = members().find(|r| current.is_retired(**r) && !on(Mutation::ReuseReplicaId)) {
        return Err(ChangeRefusal::Retired { replica: *replica });
    }
    if members().any(|r| current.members().any(|known| known.node == r.node && known != *r)) {
        return Err(ChangeRefusal::Invalid("the node's present replica must leave first"));
    }
    let same = |a: &[ReplicaId], b: &[ReplicaId]| a.len() == b.len() && a.iter().all(|r| b.contains(r));
    if same(voters, &current.voters) && same(learners, &current.learners) {
        return Err(ChangeRefusal::Invalid("these are the members already"));
    }
    Ok(())
}
