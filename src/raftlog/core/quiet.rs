//! When a group has nothing to say but that its leader lives: what lets the engine beat it by one bit.
//!
//! Not here: the tables of a broker pair and their frames (`engine::beats`). The engine asks after every step whether a peer
//! is still settled, and before every step tells the core when it was last heard by such a beat. Invariants:
//! - a settled peer answers a full beat with exactly what its leader already knows, so not asking loses nothing;
//! - being heard by a bit counts as the full message does, on both sides: the election timer, check-quorum, lag.

use super::progress::Sending;
use super::{Core, Millis, Role};
use crate::segment::{Epoch, Index, ReplicaId};

impl Core {
    /// As leader: this peer holds all we have, all of it is committed, and nobody waits for an answer of it.
    pub fn is_settled(&self, peer: ReplicaId) -> bool {
        let Some(leading) = &self.leading else { return false };
        let last = self.log.last().index;
        !self.is_held_back()
            && !self.held_out
            && leading.transfer.is_none()
            && leading.reads.is_empty()
            && !self.owes_an_end()
            && self.log.commit() == last
            && leading.peer(peer).is_some_and(|progress| {
                progress.sending == Sending::Replicate
                    && progress.counts()
                    && progress.is_idle_at(last)
                    && progress.matched == last
                    && progress.durable == last
            })
    }

    /// As follower: a full beat of this leader, with commit at its last entry `last`, would change nothing here and be answered
    /// with `last`.
    pub fn is_settled_under(&self, leader: ReplicaId, epoch: Epoch, last: Index) -> bool {
        matches!(self.role, Role::Follower | Role::Learner)
            && !self.poisoned
            && !self.is_in_doubt()
            && self.leader == Some(leader)
            && self.hard.epoch == epoch
            && self.log.last().index == last
            && self.log.commit() == last
            && self.matched().index == last
    }

    /// As settled follower: the leader was heard at `at`.
    pub fn note_beat(&mut self, at: Millis) {
        if self.leader.is_some() && self.leading.is_none() && self.heard.is_none_or(|heard| heard < at) {
            self.heard = Some(at);
            self.restart_timer(at);
        }
    }

    /// As leader: the settled peer was heard at `at`.
    pub fn note_answer(&mut self, peer: ReplicaId, at: Millis) {
        let last = self.log.last().index;
        let progress = self.leading.as_mut().and_then(|leading| leading.peer_mut(peer));
        if let Some(progress) = progress.filter(|progress| progress.heard < at) {
            progress.note_lag(at, last);
        }
    }

    /// Whether a `Tick` at `now` begins a round of votes that others must answer.
    pub fn begins_round(&self, now: Millis) -> bool {
        let is_due = self.leading.is_none() && self.timer.is_some_and(|at| at <= now);
        is_due && self.may_campaign() && self.log.configuration().0.voters.len() > 1
    }
}
