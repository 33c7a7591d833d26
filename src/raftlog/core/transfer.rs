//! Handing leadership over (thesis §3.10): stop proposals, bring the target to the end, `TimeoutNow`.
//!
//! Not here: the target's side (`election::on_timeout_now`). Called by the dispatch (`Event::Transfer`, failed storage),
//! by a leader that its committed configuration is without (`membership`), by acknowledgements and by the leader's tick.
//! Invariants: only a voter (of the new half) is a target, and it is told only when it holds the whole log durably; a
//! transfer ends after an election timeout at the latest, in taking proposals again, or in stepping down where this
//! replica must not lead any more.

use super::{Core, Effect, Millis};
use crate::raftlog::message::Body;
use crate::segment::ReplicaId;

/// A transfer under way.
pub(super) struct Transfer {
    to: ReplicaId,
    /// When it is given up.
    pub deadline: Millis,
}

impl Core {
    pub(super) fn start_transfer(&mut self, now: Millis, to: Option<ReplicaId>, out: &mut Vec<Effect>) {
        let Some(leading) = &mut self.leading else { return };
        let (configuration, _) = self.log.configuration();
        let voters = || {
            let peers = leading.peers().iter();
            peers.filter(|peer| configuration.voters.contains(&peer.replica) && peer.counts())
        };
        let target = match to {
            Some(to) => voters().find(|peer| peer.replica == to),
            // The fullest log needs the least waiting; among equals the one heard last is likeliest alive.
            None => voters().max_by_key(|peer| (peer.matched, peer.heard, peer.replica)),
        };
        let Some(to) = target.map(|peer| peer.replica) else {
            if self.must_not_lead() {
                self.become_follower(now, self.hard.epoch, None, out);
            }
            return;
        };
        if leading.transfer.as_ref().is_some_and(|transfer| transfer.to == to) {
            return;
        }
        leading.transfer = Some(Transfer { to, deadline: now + self.config.election_max_ms });
        self.continue_transfer(now, out);
    }

    /// Damaged, or no voter of a committed configuration: leads only until somebody else can.
    fn must_not_lead(&self) -> bool {
        let (configuration, _) = self.log.committed_configuration();
        self.held_out || !configuration.is_voter(self.replica)
    }

    /// Tells the target as soon as it holds everything.
    pub(super) fn continue_transfer(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(leading) = &self.leading else { return };
        let Some(transfer) = &leading.transfer else { return };
        let to = transfer.to;
        if leading.peer(to).is_some_and(|peer| peer.matched >= self.log.last().index) {
            self.send(to, Body::TimeoutNow, false, out);
            if !self.held_out && self.must_not_lead() {
                // No member hears of the next leader later than we do, and we hear nothing of it at all.
                self.become_follower(now, self.hard.epoch, None, out);
            }
        }
    }

    /// With the target's beat, in case the first one was lost: a target that has campaigned is in a later epoch and
    /// ignores it.
    pub(super) fn repeat_timeout_now(&mut self, now: Millis, to: ReplicaId, out: &mut Vec<Effect>) {
        let transfer = self.leading.as_ref().and_then(|leading| leading.transfer.as_ref());
        if transfer.is_some_and(|transfer| transfer.to == to) {
            self.continue_transfer(now, out);
        }
    }

    pub(super) fn expire_transfer(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(leading) = &mut self.leading else { return };
        if leading.transfer.as_ref().is_some_and(|transfer| transfer.deadline <= now) {
            leading.transfer = None;
            if self.must_not_lead() {
                return self.become_follower(now, self.hard.epoch, None, out);
            }
            self.settle_membership(now, out);
        }
    }
}
