//! Admission of elections: how many groups of a node ask for votes at once.
//!
//! When a broker dies, thousands of groups lose their leader in the same moment. All of them asking at once would fill the
//! queues of every node, and rounds would time out before they are answered: a storm that feeds itself. So at most
//! [`CONCURRENT`] groups of a node are candidates; the others wait in line, and most of them hear a new leader meanwhile.
//! Not here: when a replica wants to stand (`core::election`). Called by the engine's tick, flush and effects. Invariants:
//! - a lone failed-over group never waits: the line is empty then;
//! - a candidate that gets no answer gives its place up after [`HOLD_MS`], so that groups that cannot win do not starve those
//!   that can: a line of n groups moves on within `n / CONCURRENT * HOLD_MS`.

use super::{Engine, Payloads};
use crate::raftlog::core::{Event, Millis, Role};
use crate::segment::GroupId;
use std::collections::VecDeque;

/// Candidates at once: enough to fill a storage round and a frame, few enough to be answered within tens of milliseconds.
const CONCURRENT: usize = 256;
/// How long an unanswered candidate keeps its place.
const HOLD_MS: Millis = 100;

/// How a group stands to the admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    None,
    Waiting,
    Admitted,
}

/// The line, and who was let in.
#[derive(Debug, Default)]
pub(super) struct Campaigns {
    waiting: VecDeque<(GroupId, usize)>,
    /// In order of admission, with the end of each place.
    admitted: VecDeque<(Millis, GroupId, usize)>,
    places: usize,
}

impl Campaigns {
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places
    }
}

impl Engine {
    /// The timer of a group fired.
    pub(super) fn time_out(&mut self, now: Millis, at: usize) {
        self.catch_up(at);
        let g = &mut self.groups[at];
        if g.core.deadline().is_none_or(|deadline| deadline > now) {
            return self.arm(at);
        }
        if g.core.begins_round(now) && g.id != GroupId(0) {
            match g.campaign {
                State::Waiting => return,
                State::None if self.campaigns.places == CONCURRENT || !self.campaigns.waiting.is_empty() => {
                    g.campaign = State::Waiting;
                    self.campaigns.waiting.push_back((g.id, at));
                    return;
                }
                State::None => self.admit(now, at),
                State::Admitted => {}
            }
        }
        self.step(now, at, Event::Tick, Payloads::None);
        self.note_role(at, self.groups[at].core.role());
    }

    fn admit(&mut self, now: Millis, at: usize) {
        let g = &mut self.groups[at];
        g.campaign = State::Admitted;
        self.campaigns.places += 1;
        self.campaigns.admitted.push_back((now + HOLD_MS, g.id, at));
    }

    /// A group that is no candidate any more frees its place.
    pub(super) fn note_role(&mut self, at: usize, role: Role) {
        if self.groups[at].campaign == State::Admitted
            && !matches!(role, Role::PreCandidate | Role::Candidate)
        {
            self.end_campaign(at);
        }
        if role == Role::Leader {
            self.beat_in_full(at);
        }
    }

    pub(super) fn end_campaign(&mut self, at: usize) {
        let g = &mut self.groups[at];
        if g.campaign == State::Admitted {
            self.campaigns.places -= 1;
        }
        g.campaign = State::None;
    }

    /// Lets the next ones in, as far as there are places.
    pub(super) fn start_campaigns(&mut self, now: Millis) {
        while let Some((until, group, at)) = self.campaigns.admitted.front().copied() {
            let is_there =
                self.groups.get(at).is_some_and(|g| g.id == group && g.campaign == State::Admitted);
            if is_there && until > now {
                break;
            }
            if is_there {
                self.end_campaign(at);
            }
            self.campaigns.admitted.pop_front();
        }
        while self.campaigns.places < CONCURRENT
            && let Some((group, at)) = self.campaigns.waiting.pop_front()
        {
            if !self.groups.get(at).is_some_and(|g| g.id == group && g.campaign == State::Waiting) {
                continue;
            }
            self.groups[at].campaign = State::None;
            self.catch_up(at);
            let core = &self.groups[at].core;
            if core.deadline().is_some_and(|deadline| deadline <= now) {
                if core.begins_round(now) {
                    self.admit(now, at);
                }
                self.step(now, at, Event::Tick, Payloads::None);
                self.note_role(at, self.groups[at].core.role());
            } else {
                self.arm(at);
            }
        }
    }

    /// When somebody in the line may get a place that nobody gives back.
    pub(super) fn campaigns_due(&self) -> Millis {
        match self.campaigns.admitted.front() {
            Some((until, ..)) if !self.campaigns.waiting.is_empty() => *until,
            _ => Millis::MAX,
        }
    }
}
