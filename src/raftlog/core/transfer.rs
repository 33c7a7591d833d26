//! Handing leadership over (thesis §3.10): stop proposals, bring the target to the end, `TimeoutNow`.
//!
//! Not here: the target's side (`election::on_timeout_now`). Called by the dispatch (`Event::Transfer`, failed storage),
//! by acknowledgements and by the leader's tick. Invariants: only a voter is a target, and it is told only when it holds
//! the whole log durably; a transfer ends after an election timeout at the latest, in taking proposals again, or in
//! stepping down where this replica must not lead any more.

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
            peers.filter(|peer| configuration.is_voter(peer.replica) && peer.counts())
        };
        let target = match to {
            Some(to) => voters().find(|peer| peer.replica == to),
            // The fullest log needs the least waiting; among equals the one heard last is likeliest alive.
            None => voters().max_by_key(|peer| (peer.matched, peer.heard, peer.replica)),
        };
        let Some(to) = target.map(|peer| peer.replica) else {
            if self.held_out {
                self.become_follower(now, self.hard.epoch, None, out);
            }
            return;
        };
        if leading.transfer.as_ref().is_some_and(|transfer| transfer.to == to) {
            return;
        }
        leading.transfer = Some(Transfer { to, deadline: now + self.config.election_max_ms });
        self.continue_transfer(out);
    }

    /// Tells the target as soon as it holds everything.
    pub(super) fn continue_transfer(&mut self, out: &mut Vec<Effect>) {
        let Some(leading) = &self.leading else { return };
        let Some(transfer) = &leading.transfer else { return };
        let to = transfer.to;
        if leading.peer(to).is_some_and(|peer| peer.matched >= self.log.last().index) {
            self.send(to, Body::TimeoutNow, false, out);
        }
    }

    /// With the target's beat, in case the first one was lost: a target that has campaigned is in a later epoch and
    /// ignores it.
    pub(super) fn repeat_timeout_now(&mut self, to: ReplicaId, out: &mut Vec<Effect>) {
        let transfer = self.leading.as_ref().and_then(|leading| leading.transfer.as_ref());
        if transfer.is_some_and(|transfer| transfer.to == to) {
            self.continue_transfer(out);
        }
    }

    pub(super) fn expire_transfer(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(leading) = &mut self.leading else { return };
        if leading.transfer.as_ref().is_some_and(|transfer| transfer.deadline <= now) {
            leading.transfer = None;
            if self.held_out {
                self.become_follower(now, self.hard.epoch, None, out);
            }
        }
    }
}
