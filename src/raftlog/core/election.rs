//! Elections: timers, pre-votes, votes, stickiness, check-quorum's follower side, and who may take part.
//!
//! Not here: what a leader does once elected (`leader`). Called by the dispatch in `mod`. Invariants:
//! - a pre-vote changes nothing at its receiver: no term, no vote, no timer (thesis §9.6);
//! - no real vote without the pre-votes of those who could elect it, except on `TimeoutNow` and in a group of one voter;
//! - while the leader is heard nobody helps to replace it, unless it asked for that itself (thesis §4.2.3);
//! - one vote per epoch, durable before it is told; every candidacy is in a new term (also alone, also after a restart);
//! - who has not answered is asked again while the round lasts (Raft §5.1).

use super::{Core, Effect, GenerationEffect, Millis, Role, quorum};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::{Body, Message};
use crate::segment::{Doubt, Epoch, LogId, NodeId, ReplicaId};

/// What a voter answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// In which doubt the replica is.
    Granted(Doubt),
    Refused,
}

impl Answer {
    /// Of one that is not in doubt.
    pub fn sound(granted: bool) -> Self {
        if granted { Self::Granted(Doubt::None) } else { Self::Refused }
    }

    /// Yes, by one in doubt; `vote`: its term or vote may be lost too.
    pub fn if_all(vote: bool) -> Self {
        Self::Granted(if vote { Doubt::Vote } else { Doubt::Entries })
    }
}

/// The present round.
#[derive(Debug, Default)]
pub(super) struct Votes {
    answers: Vec<(ReplicaId, Answer)>,
    /// When those who have not answered are asked again.
    again: Option<Millis>,
    /// The term asked for is, or will be, beyond all that somebody may have forgotten.
    skips_terms: bool,
}

impl Votes {
    /// A new round, or none.
    fn begin(&mut self, skips_terms: bool) {
        self.answers.clear();
        self.again = None;
        self.skips_terms = skips_terms;
    }
    fn note(&mut self, from: ReplicaId, answer: Answer) {
        if self.answer(from).is_none() {
            self.answers.push((from, answer));
        }
    }
    fn answer(&self, replica: ReplicaId) -> Option<Answer> {
        self.answers.iter().find(|(from, _)| *from == replica).map(|(_, answer)| *answer)
    }
    pub fn has_granted(&self, replica: ReplicaId) -> bool {
        matches!(self.answer(replica), Some(Answer::Granted(_)))
    }
    pub fn has_refused(&self, replica: ReplicaId) -> bool {
        self.answer(replica) == Some(Answer::Refused)
    }
    /// Granted, and not in doubt.
    pub fn is_sound(&self, replica: ReplicaId) -> bool {
        match self.answer(replica) {
            Some(Answer::Granted(doubt)) => doubt == Doubt::None || on(Mutation::CountDoubtfulVotes),
            Some(Answer::Refused) | None => false,
        }
    }
    /// Somebody who granted may have lost its term.
    pub fn has_lost_terms(&self) -> bool {
        self.answers.iter().any(|(_, answer)| *answer == Answer::Granted(Doubt::Vote))
    }
    /// Granted, as far as it can know: who may have forgotten this very term, and a vote in it, cannot.
    pub fn has_granted_knowing(&self, replica: ReplicaId) -> bool {
        match self.answer(replica) {
            Some(Answer::Granted(Doubt::Vote)) => self.skips_terms || on(Mutation::CountForgottenTerms),
            Some(Answer::Granted(_)) => true,
            Some(Answer::Refused) | None => false,
        }
    }
}

/// Quick pre-vote rounds after a reset.
const HURRY_RESET: u8 = 4;

impl Core {
    /// The process on `node` is gone (`anew`: and another one has taken its place): if the leader lived there, forget
    /// it, and ask for pre-votes soon; others still refuse while they hear it (safety.md F22).
    pub(super) fn note_reset(&mut self, now: Millis, node: NodeId, anew: bool, out: &mut Vec<Effect>) {
        self.reset_progress(now, node, anew, out);
        if self.leading.is_none() && self.leader.is_some_and(|leader| leader.node == node) {
            self.leader = None;
            self.heard = None;
            if self.may_campaign() {
                self.hurry = HURRY_RESET;
                let jitter = self.config.reset_jitter_ms;
                self.timer = Some(now + self.rank_behind(node) * jitter + self.draw(jitter / 2 + 1));
            }
        }
    }

    /// How many voters come before us in the order of the configuration, begun behind `node`. Survivors of a leader do not ask for
    /// the same votes at once, and who goes first differs from group to group as the placement does.
    fn rank_behind(&self, node: NodeId) -> u64 {
        let voters = &self.log.configuration().0.voters;
        let at = |wanted: &dyn Fn(&ReplicaId) -> bool| voters.iter().position(wanted);
        let (Some(gone), Some(own)) = (at(&|r| r.node == node), at(&|r| *r == self.replica)) else {
            return 0;
        };
        ((own + voters.len() - gone - 1) % voters.len()) as u64
    }

    /// Whether its word counts in elections: not before the boot gate (safety.md F16), nor damaged or sealed. In doubt it
    /// counts only if everyone's does (F11, see `doubt`).
    fn may_vote(&self) -> bool {
        let is_admitted = self.gate_open || on(Mutation::NoBootGate);
        is_admitted && !self.held_out && !self.poisoned && self.hard.sealed.is_none()
    }

    /// Who is no voter of its own newest configuration may still be needed until that is committed, say as the only one
    /// that has it; its own vote does not count (thesis §4.2.2).
    pub(super) fn may_campaign(&self) -> bool {
        self.may_vote() && self.log.may_be_voter(self.replica) && self.removed.is_none()
    }

    /// The leader lives, as far as we know: it is ourselves, or was heard within the window.
    pub(super) fn hears_leader(&self, now: Millis) -> bool {
        match self.role {
            Role::Leader => true,
            _ if on(Mutation::DisturbLiveLeader) => false,
            _ => {
                let window = self.config.stickiness_ms;
                self.leader.is_some() && self.heard.is_some_and(|at| now.saturating_sub(at) < window)
            }
        }
    }

    pub(super) fn restart_timer(&mut self, now: Millis) {
        let spread = self.config.election_max_ms.saturating_sub(self.config.election_min_ms).max(1);
        self.timer = Some(now + self.config.election_min_ms + self.draw(spread));
    }

    /// At start and when the gate opens: a group of one, or the first replica of a brand-new one, need not wait.
    pub(super) fn arm_first_timer(&mut self, now: Millis) {
        if self.leading.is_some() || !matches!(self.role, Role::Follower | Role::Learner) {
            return;
        }
        let alone = quorum::is_quorum(self.log.configuration().0, |replica| replica == self.replica);
        if self.may_campaign() && self.leader.is_none() && (alone || self.hurry > 0) {
            self.timer = Some(now);
        } else if self.timer.is_none() {
            self.restart_timer(now);
        }
    }

    /// The timer of a replica that does not lead has fired.
    pub(super) fn on_election_timeout(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.may_campaign() {
            self.pre_campaign(now, out);
        } else {
            // Nothing to do but to stop naming a leader that is silent; any leader's message arms the timer again.
            self.leader = None;
            self.timer = None;
        }
    }

    fn pre_campaign(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if !self.has_terms_left() {
            self.rest(out);
            self.leader = None;
            self.restart_timer(now);
            return out.push(Effect::generation(GenerationEffect::TermsUsedUp));
        }
        self.round += 1;
        self.votes.begin(true);
        self.votes.note(self.replica, Answer::Granted(self.hard.doubt));
        self.leader = None;
        if self.have_votes() || on(Mutation::SkipPreVote) {
            return self.campaign(now, false, out);
        }
        self.role = Role::PreCandidate;
        if self.hurry > 0 {
            self.hurry -= 1;
            let pause = self.config.reset_jitter_ms + 1;
            self.timer = Some(now + pause + self.draw(pause));
        } else {
            self.restart_timer(now);
        }
        self.announce(out);
        self.ask_voters(now, false, out);
    }

    pub(super) fn campaign(&mut self, now: Millis, transfer: bool, out: &mut Vec<Effect>) {
        let (epoch, skips_terms) = self.campaign_epoch();
        self.enter_epoch(epoch, Some(self.replica));
        self.role = Role::Candidate;
        self.leader = None;
        self.votes.begin(skips_terms);
        self.votes.note(self.replica, Answer::Granted(self.hard.doubt));
        self.restart_timer(now);
        self.persist(out);
        self.announce(out);
        if self.have_votes() {
            return self.become_leader(now, out);
        }
        self.ask_voters(now, transfer, out);
    }

    pub(super) fn next_epoch(&self) -> Epoch {
        Epoch { term: self.hard.epoch.term.next(), ..self.hard.epoch }
    }

    /// Asks the voters that have not answered in this round. `transfer`: the leader wants it, now.
    fn ask_voters(&mut self, now: Millis, transfer: bool, out: &mut Vec<Effect>) {
        let last = self.log.last();
        let is_vote = self.role == Role::Candidate;
        let (epoch, body) = match is_vote {
            true => (self.hard.epoch, Body::Vote { last, transfer }),
            false => (self.next_epoch(), Body::PreVote { last, round: self.round }),
        };
        let (configuration, _) = self.log.configuration();
        let is_asked = |r: &ReplicaId| {
            *r != self.replica && configuration.is_voter(*r) && self.votes.answer(*r).is_none()
        };
        let before = out.len();
        for to in configuration.members().filter(is_asked) {
            let message = Message { epoch, body: body.clone() };
            out.push(Effect::Send { to, message, after_storage: is_vote });
        }
        // Not with every beat: one lost message does not cost the round, and a crowd of candidates stays bearable.
        self.votes.again = (out.len() > before).then_some(now + self.config.election_min_ms / 2);
    }

    /// When the voters that are silent are asked again.
    pub(super) fn asks_again(&self) -> Option<Millis> {
        self.votes.again.filter(|_| matches!(self.role, Role::PreCandidate | Role::Candidate))
    }

    pub(super) fn on_pre_vote(
        &mut self,
        now: Millis,
        from: ReplicaId,
        asked: Epoch,
        last: LogId,
        round: u64,
        out: &mut Vec<Effect>,
    ) {
        self.tell_removed(now, from, last, out);
        let is_good = last >= self.log.last() || on(Mutation::VoteForShorterLog);
        let granted = self.may_vote() && asked > self.hard.epoch && !self.hears_leader(now) && is_good;
        // A grant speaks of the epoch asked for, a refusal of our own, so that a stray asker learns it.
        let epoch = if granted { asked } else { self.hard.epoch };
        let body = match granted && self.is_in_doubt() {
            true => Body::PreVoteIfAll { round, vote: self.is_vote_lost() },
            false => Body::PreVoteReply { granted, round },
        };
        let message = Message { epoch, body };
        out.push(Effect::Send { to: from, message, after_storage: false });
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        now: Millis,
        from: ReplicaId,
        epoch: Epoch,
        answer: Answer,
        round: u64,
        out: &mut Vec<Effect>,
    ) {
        let granted = answer != Answer::Refused;
        if !granted && epoch > self.hard.epoch {
            return self.become_follower(now, epoch, None, out);
        }
        let asked = if granted { self.next_epoch() } else { epoch };
        if self.role != Role::PreCandidate || round != self.round || epoch != asked {
            return;
        }
        self.votes.note(from, answer);
        if self.have_votes() {
            self.campaign(now, false, out);
        } else if self.votes_lost() {
            self.rest(out);
        }
    }

    pub(super) fn on_vote(
        &mut self,
        now: Millis,
        from: ReplicaId,
        epoch: Epoch,
        last: LogId,
        transfer: bool,
        out: &mut Vec<Effect>,
    ) {
        if self.tell_removed(now, from, last, out) {
            // It lacks a committed entry, so it can never lead: its term is no concern of ours.
            return;
        }
        if epoch > self.hard.epoch {
            if self.hears_leader(now) && !transfer {
                // Not even its term is taken (thesis §4.2.3): a removed or cut-off server disturbs nobody.
                return;
            }
            self.become_follower(now, epoch, None, out);
        }
        let free = match self.hard.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none() && !matches!(self.role, Role::Leader | Role::Candidate),
        };
        let is_good = last >= self.log.last() || on(Mutation::VoteForShorterLog);
        let granted = epoch == self.hard.epoch && self.may_vote() && free && is_good;
        if granted {
            if self.hard.vote != Some(from) {
                self.hard.vote = Some(from);
                self.hard_dirty = true;
                self.restart_timer(now);
            }
            self.sole = false;
            self.hurry = 0;
            if self.role == Role::PreCandidate {
                self.rest(out);
            }
            self.note_granted();
        }
        let body = match granted && self.is_in_doubt() {
            true => Body::VoteIfAll { vote: self.is_vote_lost() },
            false => Body::VoteReply { granted },
        };
        self.send(from, body, true, out);
    }

    pub(super) fn on_vote_reply(
        &mut self,
        now: Millis,
        from: ReplicaId,
        epoch: Epoch,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        if self.is_current(now, epoch, out) && self.role == Role::Candidate {
            self.votes.note(from, answer);
            if self.have_votes() {
                self.become_leader(now, out);
            } else if self.votes_lost() {
                self.rest(out);
            }
        }
    }

    /// A sealed replica answered: this generation ends (safety.md F2). A leader steps down at once.
    pub(super) fn on_sealed(&mut self, now: Millis, from: ReplicaId, out: &mut Vec<Effect>) {
        match self.role {
            Role::Leader => self.become_follower(now, self.hard.epoch, None, out),
            Role::Candidate | Role::PreCandidate => {
                self.votes.note(from, Answer::Refused);
                if self.votes_lost() {
                    self.rest(out);
                }
            }
            Role::Follower | Role::Learner => {}
        }
    }

    /// The leader hands over to us: a real election at once (thesis §3.10).
    pub(super) fn on_timeout_now(&mut self, now: Millis, out: &mut Vec<Effect>) {
        // In doubt it would need every voter, and the leader steps down for nothing.
        if self.may_campaign() && !self.is_in_doubt() && self.has_terms_left() {
            self.campaign(now, true, out);
        }
    }

    /// Ends a round of votes; the timer keeps running towards the next.
    fn rest(&mut self, out: &mut Vec<Effect>) {
        self.votes.begin(false);
        self.role = self.resting_role();
        self.announce(out);
    }

    fn enter_epoch(&mut self, epoch: Epoch, vote: Option<ReplicaId>) {
        self.hard.epoch = epoch;
        self.hard.vote = vote;
        self.hard_dirty = true;
        // Whatever is committed is in the log of every later leader (Raft §5.4.3); more must be shown.
        self.verified = self.log.commit();
        self.acked = crate::segment::Index(0);
        self.told = self.acked;
        self.doubt_leader();
    }

    /// Follows `epoch`, and `leader` in it if it is known. The vote of an epoch is kept when stepping down within it.
    pub(super) fn become_follower(
        &mut self,
        now: Millis,
        epoch: Epoch,
        leader: Option<ReplicaId>,
        out: &mut Vec<Effect>,
    ) {
        let rested = matches!(self.role, Role::Follower | Role::Learner);
        if epoch != self.hard.epoch || (!rested && on(Mutation::ForgetVoteOnStepDown)) {
            self.enter_epoch(epoch, None);
        }
        self.stop_leading(out);
        self.votes.begin(false);
        self.role = self.resting_role();
        self.leader = leader;
        if leader.is_some() {
            self.hurry = 0;
            self.sole = false;
        }
        // Only a leader's message or a vote given puts a follower's own candidacy off.
        if !rested || self.timer.is_none() {
            self.restart_timer(now);
        }
        // Not persisted yet: a vote given in the same step goes into the same record. Whatever depends on it persists
        // first, and so does the end of the step.
        self.announce(out);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.leading.is_some() {
            self.tick_leader(now, out);
        } else if self.timer.is_some_and(|at| at <= now) {
            self.on_election_timeout(now, out);
        } else if self.asks_again().is_some_and(|at| at <= now) {
            self.ask_voters(now, false, out);
        }
    }
}
