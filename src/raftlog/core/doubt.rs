//! In doubt (safety.md F11): what a replica that may have lost acknowledged bytes may still do, and its way out.
//!
//! Not here: who is in doubt at a start (`segment` recovery), repair of damaged entries (`engine`). Called by the dispatch in
//! `mod` (bodies of its own, the end of every step) and by `election`, `leader` and `follower` where a word counts less. Invariants:
//! - a replica in doubt grants votes, and stands, only for an election in which *every* voter of both halves grants;
//! - if only entries may be lost it counts by what it holds now; if its term or vote may be lost it is replicated to and
//!   not counted, unless it granted the very election that every voter granted;
//! - it leaves doubt only by holding a leader's end sampled after its doubt began, that leader having committed in its own term;
//!   if the vote may be lost, the leader also heard a quorum after the sample, and beyond three voters was elected after the restart.
//!
//! Why "beyond three voters": a candidate that counted our lost vote before the restart may win later, by the late vote of one who
//! answered the leader's round first. With up to three voters that candidate alone is missing from every quorum of others; with more it is
//! not, so there the election itself must be younger: then the late voter holds an entry the candidate cannot have.

use super::election::Answer;
use super::{Core, Effect, Millis, Role, quorum};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::{Body, Configuration};
use crate::segment::{Doubt, EntryMeta, Epoch, Index, LogId, ReplicaId, Term};

/// Voters up to which an older election may clear a lost vote.
const FEW: usize = 3;
/// Terms skipped by an election that needs those whose term may be lost: a term that nobody remembers must not come again.
const LOST_TERMS: u64 = 1_000;

/// The way out of doubt, and what a leader owes those on it.
#[derive(Debug, Default)]
pub(super) struct Doubting {
    /// Number of the question that is open, and the epoch whose leader it was put to first.
    nonce: u64,
    asked_in: Option<Epoch>,
    /// When it is asked again.
    again: Option<Millis>,
    /// The end of the leader of this epoch, sampled after we asked.
    goal: Option<Box<(Epoch, LogId)>>,
    /// Epoch of the last vote given since the start: that candidate asked after our restart.
    granted: Option<Epoch>,
    /// Ends asked of us as leader that wait for a quorum's answers.
    ends: Vec<PendingEnd>,
    /// An election that may lose entries goes on without asking anybody.
    unclean_allowed: bool,
    /// First damaged entry, if that is why it is held out.
    pub damaged_from: Option<Index>,
    /// It was told that one waits.
    told: bool,
}

#[derive(Debug)]
struct PendingEnd {
    epoch: Epoch,
    to: ReplicaId,
    nonce: u64,
    sequence: u64,
    last: LogId,
}

impl Core {
    /// Nothing of what was durable, but where a switch says so.
    pub(super) fn forget_with_the_process(&mut self) {
        if on(Mutation::ForgetVoteOnRestart) {
            self.hard.vote = None;
        }
        if on(Mutation::ForgetDoubtOnRestart) {
            self.hard.doubt = Doubt::None;
        }
    }

    /// How far this replica's word can be trusted now.
    pub fn doubt(&self) -> Doubt {
        self.hard.doubt
    }

    /// Whether an election that every voter granted may go on although entries may be lost with it (recovery.policy; the
    /// default of `flush.mode=async`). False at the start.
    pub fn allow_unclean(&mut self, allowed: bool) {
        self.doubting.unclean_allowed = allowed;
    }

    /// As leader: somebody waits for an end that a quorum must confirm first.
    pub(super) fn owes_an_end(&self) -> bool {
        !self.doubting.ends.is_empty()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.hard.doubt != Doubt::None
    }

    pub(super) fn is_vote_lost(&self) -> bool {
        self.hard.doubt == Doubt::Vote
    }

    /// Entries were found damaged while running: neither leads nor takes entries until they are repaired.
    pub(super) fn note_damage(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if !self.is_in_doubt() && !on(Mutation::DamageWithoutDoubt) {
            self.hard.doubt = Doubt::Entries;
            self.hard_dirty = true;
        }
        // What replaces the damage may come from anybody.
        self.note_mixed();
        // A sample taken before the damage was known says nothing of what was lost by it.
        self.doubting.goal = None;
        self.doubting.asked_in = None;
        self.doubting.again = None;
        self.hold_out(now, out);
    }

    /// The epoch to campaign in after the pre-votes that were granted, and whether it skips the terms that may be forgotten.
    pub(super) fn campaign_epoch(&self) -> (Epoch, bool) {
        let next = self.next_epoch();
        match self.votes.has_lost_terms() && !self.has_sound_votes() {
            true => (Epoch { term: Term(next.term.0 + LOST_TERMS), ..next }, true),
            false => (next, false),
        }
    }

    /// The first damaged entry, if that is why it is held out.
    pub(super) fn damaged_from(&self) -> Option<Index> {
        self.doubting.damaged_from.filter(|_| self.held_out)
    }

    /// Which entry is the first damaged one: a leader may still cut it away.
    pub fn set_damaged_from(&mut self, first: Index) {
        self.note_mixed();
        if self.held_out {
            self.doubting.damaged_from = Some(first);
        }
    }

    pub(super) fn note_repaired(&mut self, now: Millis) {
        if self.doubting.damaged_from.take().is_none() {
            return;
        }
        self.held_out = false;
        if self.leading.is_none() && self.timer.is_none() {
            self.restart_timer(now);
        }
    }

    /// Whether the append replaces everything that is damaged: then it is taken, and nothing is damaged any more.
    pub(super) fn cuts_damage(&mut self, prev: LogId, entries: &[EntryMeta]) -> bool {
        let Some(damaged) = self.doubting.damaged_from else { return false };
        let start = self.log.start().index;
        let joins = prev.index < start || self.log.contains(prev);
        let new = entries.iter().find(|meta| meta.id.index > start && !self.log.contains(meta.id));
        let cuts =
            joins && new.is_some_and(|meta| meta.id.index <= damaged && meta.id.index > self.log.commit());
        if cuts {
            self.doubting.damaged_from = None;
            self.held_out = false;
        }
        cuts
    }

    /// Damaged entries lie before a log start beyond which nothing is known to be committed here: no peer has them any more.
    pub(super) fn must_start_over(&self, start: Index) -> bool {
        self.doubting.damaged_from.is_some_and(|first| first <= start) && start > self.log.commit()
    }

    /// A log start is about to replace a log that is damaged.
    pub(super) fn drops_damage(&mut self) -> bool {
        let damaged = self.doubting.damaged_from.take().is_some();
        self.held_out &= !damaged;
        damaged
    }

    pub(super) fn note_granted(&mut self) {
        self.doubting.granted = Some(self.hard.epoch);
    }

    /// Whether the grants of the present round win it.
    pub(super) fn have_votes(&self) -> bool {
        self.has_sound_votes()
            || (self.has_all_votes() && (self.doubting.unclean_allowed || !self.is_unclean()))
    }

    /// A quorum granted that is not in doubt, nor are we.
    pub(super) fn has_sound_votes(&self) -> bool {
        let (configuration, _) = self.log.configuration();
        !self.is_in_doubt() && quorum::is_quorum(configuration, |replica| self.votes.is_sound(replica))
    }

    fn has_all_votes(&self) -> bool {
        let (configuration, _) = self.log.configuration();
        if on(Mutation::UnanimityOfSome) {
            return quorum::is_quorum(configuration, |replica| self.votes.has_granted(replica));
        }
        !configuration.voters.is_empty() && voters(configuration).all(|r| self.votes.has_granted_knowing(r))
    }

    /// Neither a sound quorum nor every voter can grant any more.
    pub(super) fn votes_lost(&self) -> bool {
        let (configuration, _) = self.log.configuration();
        let refused = |replica| self.votes.has_refused(replica);
        let unsound =
            |replica| refused(replica) || (self.votes.has_granted(replica) && !self.votes.is_sound(replica));
        voters(configuration).any(refused) && quorum::is_lost(configuration, unsound)
    }

    /// Some majority is all in doubt: it may have committed what none of it holds any more.
    fn is_unclean(&self) -> bool {
        let (configuration, _) = self.log.configuration();
        let doubtful = |r: &&ReplicaId| self.votes.has_granted(**r) && !self.votes.is_sound(**r);
        [&configuration.voters, &configuration.old_voters].into_iter().any(|half| {
            !half.is_empty() && half.iter().filter(doubtful).count() >= quorum::majority(half.len())
        })
    }

    /// We were elected: if by unanimity, everyone's word counts again, and what may be lost is told.
    /// Answers whether it was by unanimity.
    pub(super) fn note_election(&mut self, out: &mut Vec<Effect>) -> bool {
        let unanimous = !self.has_sound_votes();
        if unanimous && self.is_unclean() {
            out.push(Effect::Unclean { from: self.first_at_risk(), waits: false });
        }
        unanimous
    }

    /// What an unclean election may lose begins behind what its winner knows to be committed, not at the end of its log: what lies between
    /// may be what was never committed, in the place of entries of a later leader that nobody holds any more. A restart forgets the
    /// commit index, so after one that is the log start.
    fn first_at_risk(&self) -> Index {
        self.log.commit().next()
    }

    /// `flush.mode=async`: an election that every voter granted may have lost what a replica without a vote was told is committed, and
    /// nobody tells it so. What it holds is the leader's only as far as that one has shown it.
    pub(super) fn may_lag_behind_a_loss(&self) -> bool {
        self.may_be_async && !self.is_voter()
    }

    /// A leader is to come whose log may be without what we hold.
    pub(super) fn doubt_leader(&mut self) {
        if !self.may_lag_behind_a_loss() {
            return;
        }
        self.note_mixed();
        self.verified = self.log.start().index;
        let fixed = self.log.fixed();
        // What is kept with the start may be ahead of a log that is on its way; that of itself proves nothing.
        self.start_unproven |= fixed.0 > 0 && fixed <= self.log.last().index;
    }

    /// The leader lacks, at this index, what was committed here. True if that is what an unclean election may do to a replica without a
    /// vote: from there on nothing is known to be committed.
    pub(super) fn take_back(&mut self, from: Index, out: &mut Vec<Effect>) -> bool {
        let allowed = self.may_lag_behind_a_loss() && from > self.verified && from > self.log.fixed();
        if allowed {
            self.log.take_back_commit(from.prev());
            self.note_mixed();
            self.reopened(out);
        }
        allowed
    }

    pub(super) fn receive_doubt(
        &mut self,
        now: Millis,
        from: ReplicaId,
        epoch: Epoch,
        body: Body,
        out: &mut Vec<Effect>,
    ) {
        match body {
            Body::PreVoteIfAll { round, vote } => {
                self.on_pre_vote_reply(now, from, epoch, Answer::if_all(vote), round, out);
            }
            Body::VoteIfAll { vote } => self.on_vote_reply(now, from, epoch, Answer::if_all(vote), out),
            Body::InDoubt { .. } if self.is_current(now, epoch, out) => self.on_answer(now, from, body, out),
            Body::AskEnd { nonce, vote } if self.is_current(now, epoch, out) => {
                self.on_ask_end(from, nonce, vote, out);
            }
            Body::End { nonce, last } if self.follow(now, from, epoch, out) && self.is_open(nonce) => {
                self.doubting.goal = Some(Box::new((self.hard.epoch, last)));
            }
            _ => {}
        }
    }

    /// Whether this question was put in the present epoch.
    fn is_open(&self, nonce: u64) -> bool {
        nonce == self.doubting.nonce && self.doubting.asked_in == Some(self.hard.epoch)
    }

    /// What a replica whose vote may be lost says instead of an acknowledgement.
    pub(super) fn in_doubt_answer(&self, matched: LogId, sequence: u64) -> Body {
        Body::InDoubt { matched, last: self.log.last(), sequence }
    }

    /// A replica in doubt asks for our end as of now.
    fn on_ask_end(&mut self, from: ReplicaId, nonce: u64, vote: bool, out: &mut Vec<Effect>) {
        if !(self.is_established() || on(Mutation::EndBeforeOwnCommit)) || self.held_out {
            return;
        }
        let last = self.log.last();
        let Some(leading) = &mut self.leading else { return };
        if leading.peer(from).is_none() {
            return;
        }
        if !vote || on(Mutation::LeaveDoubtUnconfirmed) {
            return self.send(from, Body::End { nonce, last }, false, out);
        }
        let is_known = |end: &PendingEnd| (end.epoch, end.to, end.nonce) == (self.hard.epoch, from, nonce);
        if self.doubting.ends.iter().any(is_known) {
            return;
        }
        if leading.sequence_used {
            // Answers to beats that are already on their way prove nothing of the time after now.
            leading.sequence += 1;
            leading.sequence_used = false;
        }
        let sequence = leading.sequence;
        let epoch = self.hard.epoch;
        self.doubting.ends.retain(|end| end.to != from);
        self.doubting.ends.push(PendingEnd { epoch, to: from, nonce, sequence, last });
    }

    /// Answers those whose sample a quorum has confirmed since.
    fn confirm_ends(&mut self, out: &mut Vec<Effect>) {
        let epoch = self.hard.epoch;
        self.doubting.ends.retain(|end| end.epoch == epoch);
        let Some(leading) = &self.leading else { return };
        let answered = |replica| match replica == self.replica {
            true => u64::MAX,
            false => leading.peer(replica).map_or(0, |peer| peer.counted_sequence()),
        };
        let confirmed = quorum::reached(self.log.configuration().0, answered).unwrap_or(0);
        let (ready, waiting): (Vec<_>, _) =
            std::mem::take(&mut self.doubting.ends).into_iter().partition(|end| end.sequence <= confirmed);
        self.doubting.ends = waiting;
        for PendingEnd { to, nonce, last, .. } in ready {
            self.send(to, Body::End { nonce, last }, false, out);
        }
    }

    /// The end of every step: ask, leave, tell.
    pub(super) fn mind_doubt(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if !self.doubting.ends.is_empty() {
            self.confirm_ends(out);
        }
        if matches!(self.role, Role::PreCandidate | Role::Candidate)
            && !self.doubting.told
            && self.has_all_votes()
            && !self.have_votes()
        {
            self.doubting.told = true;
            out.push(Effect::Unclean { from: self.first_at_risk(), waits: true });
        }
        if !self.is_in_doubt() || self.held_out || self.hard.sealed.is_some() {
            return;
        }
        if self.leading.is_some() {
            // Every voter granted, so its log is the best there is; its own commit makes it everyone's.
            if self.is_established() {
                self.leave_doubt();
            }
            return;
        }
        let Some(leader) = self.leader else { return };
        if self.goal().is_some_and(|last| self.holds(last)) {
            if !self.is_vote_lost() || self.is_election_young_enough(leader) {
                self.leave_doubt();
            }
        } else if self.goal().is_none() && self.doubting.again.is_none_or(|at| at <= now) {
            // Asked again under the same number, or the leader's sample would be a new one each time, never confirmed.
            if self.doubting.asked_in != Some(self.hard.epoch) {
                self.doubting.asked_in = Some(self.hard.epoch);
                self.doubting.nonce = self.draw(u64::MAX);
            }
            self.doubting.again = Some(now + self.config.beat_ms.max(1));
            let body = Body::AskEnd { nonce: self.doubting.nonce, vote: self.is_vote_lost() };
            self.send(leader, body, false, out);
        }
    }

    /// When a replica in doubt asks again.
    pub(super) fn doubt_deadline(&self) -> Option<Millis> {
        let asks =
            self.is_in_doubt() && !self.held_out && self.hard.sealed.is_none() && self.leader.is_some();
        self.doubting.again.filter(|_| asks && self.goal().is_none())
    }

    fn goal(&self) -> Option<LogId> {
        self.doubting.goal.as_deref().filter(|(epoch, _)| *epoch == self.hard.epoch).map(|(_, last)| *last)
    }

    /// Holds it, and it is the present leader's. What is merely written is synced with the hard state that says that the doubt is over.
    fn holds(&self, last: LogId) -> bool {
        let least: Index = self.verified.min(self.log.written());
        last.index <= self.log.start().index || (least >= last.index && self.log.contains(last))
    }

    fn is_election_young_enough(&self, leader: ReplicaId) -> bool {
        let (configuration, _) = self.log.configuration();
        let is_few = configuration.old_voters.is_empty() && configuration.voters.len() <= FEW;
        is_few
            || on(Mutation::ClearByOldElection)
            || (self.doubting.granted == Some(self.hard.epoch) && self.hard.vote == Some(leader))
    }

    fn leave_doubt(&mut self) {
        self.hard.doubt = Doubt::None;
        self.hard_dirty = true;
        self.doubting.goal = None;
        self.doubting.asked_in = None;
        self.doubting.again = None;
    }
}

fn voters(configuration: &Configuration) -> impl Iterator<Item = ReplicaId> + '_ {
    configuration.voters.iter().chain(&configuration.old_voters).copied()
}
