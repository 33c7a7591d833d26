//! ReadIndex: a leader confirms that it still is one before it answers negative and end-of-log questions
//! (thesis §6.4, safety.md F17).
//!
//! Not here: positive reads, which need no confirmation. Called by the dispatch, by beat answers and by commit.
//! Invariants: a read is confirmed only by a quorum's answers to beats sent after it was asked, and not before an entry
//! of the leader's own epoch is committed; with the leader's role every waiting read fails.

use super::leader::PendingRead;
use super::{Core, Effect, quorum};
use crate::mutation::{Mutation, on};

impl Core {
    pub(super) fn read_index(&mut self, token: u64, out: &mut Vec<Effect>) {
        let Some(leading) = &mut self.leading else {
            return out.push(Effect::ReadFailed { token });
        };
        if leading.sequence_used && !on(Mutation::ReadByOldBeat) {
            // Answers to beats that are already on their way prove nothing of the time after now.
            leading.sequence += 1;
            leading.sequence_used = false;
        }
        leading.reads.push_back(PendingRead { token, sequence: leading.sequence });
        self.confirm_reads(out);
    }

    pub(super) fn confirm_reads(&mut self, out: &mut Vec<Effect>) {
        if !self.is_established() && !on(Mutation::ReadWithoutOwnCommit) {
            return;
        }
        let Some(leading) = &mut self.leading else { return };
        if leading.reads.is_empty() {
            return;
        }
        let answered = |replica| match replica == self.replica {
            true => u64::MAX,
            false => leading.peer(replica).map_or(0, |peer| peer.counted_sequence()),
        };
        let confirmed = quorum::reached(self.log.configuration().0, answered).unwrap_or(0);
        let confirmed = if on(Mutation::ReadWithoutRound) { u64::MAX } else { confirmed };
        while let Some(read) = leading.reads.front()
            && read.sequence <= confirmed
        {
            out.push(Effect::ReadReady { token: read.token, index: self.log.commit() });
            leading.reads.pop_front();
        }
    }

    /// As leader with pending reads: a beat should go out now rather than at the next interval.
    pub fn wants_beat(&self) -> bool {
        let Some(leading) = &self.leading else { return false };
        let Some(newest) = leading.reads.back() else { return false };
        let (configuration, _) = self.log.configuration();
        leading
            .peers()
            .iter()
            .any(|peer| peer.sequence_sent < newest.sequence && configuration.is_voter(peer.replica))
    }
}
