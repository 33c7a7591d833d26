//! `flush.mode=async` (P7, docs/decisions/0008): what counts before it is synced.
//!
//! Not here: what is in doubt after the machine went down (`doubt`), when anything is synced (`engine`, `segment`). Invariants:
//! - every voter tells what it has written and what is durable apart; which of the two counts its leader alone decides, by
//!   the topic's configuration as it knows it;
//! - control entries, terms and votes count only when they are durable, and so does whatever stands before them;
//! - a voter that is alone in its half of the configuration counts what is durable, whatever the topic says.

use super::{Core, Effect, Millis};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::{Body, Configuration};
use crate::segment::{Index, LogId};

impl Core {
    /// Whether records count once they are written, by the topic and by the configuration in force.
    pub fn is_async(&self) -> bool {
        self.is_async_with(self.log.configuration().0)
    }

    /// The same with these voters.
    pub fn is_async_with(&self, configuration: &Configuration) -> bool {
        let is_alone = configuration.voters.len() <= 1 || configuration.old_voters.len() == 1;
        self.may_be_async && (!is_alone || on(Mutation::CountWrittenAlone))
    }

    /// Last entry here that counts as stored.
    pub fn stored(&self) -> Index {
        self.stored_if(self.is_async())
    }

    /// Last entry here that is written, or else durable.
    pub fn stored_if(&self, is_async: bool) -> Index {
        if is_async { self.log.written() } else { self.log.durable() }
    }

    pub(super) fn set_async(&mut self, now: Millis, may_be: bool, out: &mut Vec<Effect>) {
        let is_news = std::mem::replace(&mut self.may_be_async, may_be) != may_be;
        if is_news && self.leader.is_none() {
            self.doubt_leader();
        }
        // An election that every voter granted has the best log that there is: nothing can be brought back by waiting (F11).
        self.allow_unclean(may_be);
        self.advance_commit(now, out);
    }

    pub(super) fn note_written(&mut self, now: Millis, last: LogId, out: &mut Vec<Effect>) {
        if !self.log.set_written(last) {
            return;
        }
        if self.leading.is_some() {
            self.advance_commit(now, out);
        } else {
            self.tell_written(self.unproven.is_some(), out);
        }
    }

    /// Tells the leader of the present epoch what is written beyond what is durable, once. One whose vote may be lost does not count.
    fn tell_written(&mut self, wait: bool, out: &mut Vec<Effect>) {
        let Some(leader) = self.leader else { return };
        let last = self.matched_within(self.log.written());
        if last.index > self.told.max(self.matched().index) && !self.is_vote_lost() {
            self.told = last.index;
            self.send(leader, Body::Written { last }, wait, out);
        }
    }

    /// The same, although it may have been told before: the leader asks.
    pub(super) fn tell_written_again(&mut self, wait: bool, out: &mut Vec<Effect>) {
        self.told = Index(0);
        self.tell_written(wait, out);
    }
}
