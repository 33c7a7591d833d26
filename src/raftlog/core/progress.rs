//! What a leader knows of one peer, and what to send it next: probe, replicate or install.
//!
//! Not here: counting (`quorum`) and what replies mean for the group (`leader`). Invariants:
//! `matched < next`; `matched` never falls within one incarnation of the peer; at most one `Effect::Replicate` with a
//! budget is unanswered by `Event::Sent`; `inflight_bytes` is the sum of `inflight`.

use super::log::LogView;
use super::{CoreConfig, Effect, Millis};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::Body;
use crate::segment::{Index, LogId, ReplicaId};
use std::collections::VecDeque;

/// How to send to a peer (Raft §5.3 with etcd's three states).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Where its log joins ours is not known: one append at a time, repeated with the beat.
    Probe {
        /// An append is unanswered.
        waiting: bool,
        /// Without entries: what comes after `prev` is likely to be wasted.
        bare: bool,
    },
    /// Its log joins ours at `next - 1`: send optimistically, up to the window.
    Replicate,
    /// It is behind our log start, which was sent.
    Install {
        /// When.
        since: Millis,
    },
}

/// Progress of one peer.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Whose.
    pub replica: ReplicaId,
    /// How to send.
    pub sending: Sending,
    /// Last entry known to be there, at least written.
    pub matched: Index,
    /// Last entry known durable there.
    pub durable: Index,
    /// Next entry to send.
    pub next: Index,
    /// `next - 1` when an append was asked for that `Event::Sent` has not confirmed.
    asked: Option<Index>,
    /// That request was already there at the last beat.
    asked_before_beat: bool,
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
    /// Highest commit index sent.
    commit_sent: Index,
    /// When it was last heard in this epoch.
    pub heard: Millis,
    /// When it last held everything.
    pub caught_up: Millis,
    /// Our last entry at some moment: reaching it means "had caught up at that moment".
    lag: Option<(Index, Millis)>,
    /// Highest beat sequence sent and answered.
    pub sequence_sent: u64,
    /// Highest beat sequence answered.
    pub sequence_heard: u64,
    /// Its term or vote may be lost (safety.md F11).
    is_doubtful: bool,
    /// It granted the election that every voter granted: its word counts all the same, in this life of its.
    is_trusted: bool,
    /// The beat of this sequence went out after entries up to this index.
    mark: Option<(u64, Index)>,
}

impl Progress {
    /// A peer of a leader whose last entry is `last`.
    pub fn new(replica: ReplicaId, last: Index, now: Millis) -> Self {
        Self {
            replica,
            sending: Sending::Probe { waiting: false, bare: false },
            matched: Index(0),
            durable: Index(0),
            next: last.next(),
            asked: None,
            asked_before_beat: false,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            commit_sent: Index(0),
            heard: now,
            caught_up: now,
            lag: None,
            sequence_sent: 0,
            sequence_heard: 0,
            is_doubtful: false,
            is_trusted: false,
            mark: None,
        }
    }

    /// A peer that joins while its leader leads: it holds nothing as far as anyone knows.
    pub fn joining(replica: ReplicaId, last: Index, now: Millis) -> Self {
        Self { caught_up: 0, ..Self::new(replica, last, now) }
    }

    /// Whether it holds, durably and in this leader's term (`first_own`), what the leader held at most `window` before it
    /// was last heard: then it may become a voter without anyone waiting for it (thesis §4.2.1).
    pub fn is_caught_up(&self, first_own: Index, window: Millis) -> bool {
        self.matched >= first_own && self.caught_up > 0 && self.heard.saturating_sub(self.caught_up) <= window
    }

    /// The peer's process is another one: nothing it ever said counts (safety.md F6).
    pub fn reset(&mut self, last: Index) {
        if !on(Mutation::KeepMatchOfOldProcess) {
            (self.matched, self.durable) = (Index(0), Index(0));
        }
        self.sequence_heard = 0;
        self.is_trusted = false;
        // In sync only once it has caught up in this life.
        self.caught_up = 0;
        self.lag = None;
        self.probe(last.next(), false);
    }

    /// The same, its word counting in any case if `yes`.
    pub fn trusted(mut self, yes: bool) -> Self {
        self.is_trusted = yes;
        self
    }

    /// Whether its answers count for commit, check-quorum and reads.
    pub fn counts(&self) -> bool {
        !self.is_doubtful || self.is_trusted
    }

    /// Last entry that counts as stored there; what is merely written does if the group is `is_async`.
    pub fn counted(&self, is_async: bool) -> Index {
        match (self.counts() || on(Mutation::CountLostVotes), is_async) {
            (false, _) => Index(0),
            (true, true) => self.matched,
            (true, false) => self.durable,
        }
    }

    /// Entries up to `last` are durable there. True if that is news.
    pub fn note_durable(&mut self, last: Index) -> bool {
        let moved = last > self.durable;
        self.durable = self.durable.max(last);
        moved
    }

    /// Highest beat sequence whose answer counts.
    pub fn counted_sequence(&self) -> u64 {
        if self.counts() || on(Mutation::CountLostVotes) { self.sequence_heard } else { 0 }
    }

    /// Takes note of how sure the peer is of its vote: plain acknowledgements say that it is.
    pub fn note_word(&mut self, body: &Body) {
        match body {
            Body::InDoubt { .. } => self.is_doubtful = true,
            Body::AppendAccepted { .. }
            | Body::Written { .. }
            | Body::BeatReply { .. }
            | Body::LogStartInstalled { .. } => {
                if self.is_doubtful && !self.is_trusted {
                    // What it answered before proves nothing.
                    self.sequence_heard = 0;
                }
                self.is_doubtful = false;
            }
            _ => {}
        }
    }

    /// Back to probing with `next` as the first entry the peer may lack.
    pub fn probe(&mut self, next: Index, bare: bool) {
        self.sending = Sending::Probe { waiting: false, bare };
        self.next = next.max(self.matched.next());
        self.forget_inflight();
    }

    /// What was on its way is lost with the connection; the next beat probes.
    pub fn connection_lost(&mut self) {
        if self.sending == Sending::Replicate {
            self.probe(self.matched.next(), true);
            self.sending = Sending::Probe { waiting: true, bare: true };
        }
    }

    fn replicate(&mut self, next: Index) {
        self.sending = Sending::Replicate;
        self.next = next.max(self.matched.next());
        self.forget_inflight();
    }

    fn forget_inflight(&mut self) {
        self.asked = None;
        self.asked_before_beat = false;
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.mark = None;
    }

    /// Entries up to `last` are there. True if `matched` moved.
    pub fn accepted(&mut self, last: Index, log: &LogView) -> bool {
        let moved = last > self.matched;
        self.matched = self.matched.max(last);
        match self.sending {
            // An acknowledgement below the probed entry is an older one, or the peer has yet to sync up to it.
            Sending::Probe { .. } if last >= self.next.prev() => self.replicate(last.next()),
            // Any answer that joins our log again ends the install (etcd#10308), whatever was asked for.
            Sending::Install { .. } if last >= log.start().index => self.replicate(last.next()),
            Sending::Replicate => {
                while let Some(&(index, bytes)) = self.inflight.front()
                    && index <= last
                {
                    self.inflight.pop_front();
                    self.inflight_bytes -= bytes;
                }
                if last >= self.next {
                    // Accepted beyond what we think was sent: whatever `Sent` is still due is superseded.
                    self.next = last.next();
                    self.asked = None;
                }
            }
            Sending::Probe { .. } | Sending::Install { .. } => {}
        }
        moved
    }

    /// The append after `probed` did not fit; `hint` is the peer's guess of the last common entry.
    /// False if the answer is stale.
    pub fn rejected(&mut self, probed: Index, hint: LogId, log: &LogView) -> bool {
        let stale = match self.sending {
            Sending::Probe { .. } => probed != self.next.prev(),
            Sending::Replicate => probed <= self.matched,
            Sending::Install { .. } => true,
        };
        if stale || probed.0 == 0 {
            return false;
        }
        // Conflict-term backtracking, leader's half (Raft §5.3, last paragraphs): one round per conflicting epoch.
        match log.guess(hint.index.min(probed.prev()), hint.epoch) {
            // Exactly the entry the peer named: log matching makes it certain, so entries may follow at once.
            Some(id) => self.probe(id.index.next(), id != hint),
            None => self.probe(log.start().index, true),
        }
        true
    }

    /// The beat of `sequence` was answered when the peer's last entry was `last`.
    pub fn beat_answered(&mut self, sequence: u64, last: LogId, log: &LogView) {
        self.sequence_heard = self.sequence_heard.max(sequence);
        let Some((marked, sent)) = self.mark else { return };
        if sequence < marked {
            return;
        }
        self.mark = None;
        // The beat left after entries up to `sent`, on the same connection: if they are not there now, they are lost.
        let arrived = self.matched >= sent || (last.index >= sent && log.contains(last));
        if !arrived && self.sending == Sending::Replicate {
            self.probe(last.index.next().min(self.next), false);
        }
    }

    /// The engine sent entries up to `last` for our latest request.
    pub fn sent(&mut self, last: Index, bytes: usize) {
        let expected = self.asked == Some(self.next.prev()) && last >= self.next;
        if expected && self.sending == Sending::Replicate {
            self.asked = None;
            self.asked_before_beat = false;
            self.next = last.next();
            self.inflight.push_back((last, bytes));
            self.inflight_bytes += bytes;
        }
    }

    /// When it last held everything, as Kafka's `lastCaughtUpTimeMs`: steady writes do not make a follower lag that
    /// always reaches where we were a moment ago.
    pub fn note_lag(&mut self, now: Millis, last: Index) {
        self.heard = self.heard.max(now);
        if self.matched >= last {
            self.caught_up = now;
            self.lag = None;
        } else if self.lag.is_none_or(|(index, _)| self.matched >= index) {
            if let Some((_, at)) = self.lag {
                self.caught_up = self.caught_up.max(at);
            }
            self.lag = Some((last, now));
        }
    }

    /// Asks for the next append, if one may go.
    pub fn pump(&mut self, now: Millis, log: &LogView, config: &CoreConfig, out: &mut Vec<Effect>) {
        let to = self.replica;
        let commit = log.commit();
        let (bare, probing) = match self.sending {
            Sending::Install { .. } | Sending::Probe { waiting: true, .. } => return,
            Sending::Replicate if self.asked.is_some() => return,
            Sending::Probe { bare, .. } => (bare, true),
            Sending::Replicate => (false, false),
        };
        let Some(prev) = log.id_at(self.next.prev()).filter(|_| self.next > log.start().index) else {
            self.forget_inflight();
            self.sending = Sending::Install { since: now };
            out.push(Effect::SendLogStart { to });
            return;
        };
        if probing {
            let max_bytes = if bare { 0 } else { config.append_bytes };
            self.sending = Sending::Probe { waiting: true, bare };
            self.commit_sent = self.commit_sent.max(commit);
            out.push(Effect::Replicate { to, prev, max_bytes, commit });
        } else if self.next <= log.last().index {
            let max_bytes = config.append_bytes.min(config.window_bytes.saturating_sub(self.inflight_bytes));
            // With the window full, commit travels in the beats (etcd#14633).
            if max_bytes > 0 {
                self.asked = Some(prev.index);
                self.commit_sent = self.commit_sent.max(commit);
                out.push(Effect::Replicate { to, prev, max_bytes, commit });
            }
        } else if self.inflight.is_empty() && self.commit_sent < commit {
            // Nothing else will carry the commit index before the next beat.
            self.commit_sent = commit;
            out.push(Effect::Replicate { to, prev, max_bytes: 0, commit });
        }
    }

    /// Repairs with the beat: a probe is repeated (bare), an append the engine never sent is asked for again, an
    /// install that was not answered within `patience` is sent again.
    pub fn repair(&mut self, now: Millis, patience: Millis, out: &mut Vec<Effect>) {
        match &mut self.sending {
            Sending::Probe { waiting, bare } => {
                *bare = *bare || *waiting;
                *waiting = false;
            }
            Sending::Replicate => {
                if self.asked.is_some() && self.asked_before_beat {
                    self.asked = None;
                }
                self.asked_before_beat = self.asked.is_some();
            }
            Sending::Install { since } => {
                if since.saturating_add(patience) <= now {
                    *since = now;
                    out.push(Effect::SendLogStart { to: self.replica });
                }
            }
        }
    }

    /// Nothing is on its way, and nothing is to be sent after `last`.
    pub fn is_idle_at(&self, last: Index) -> bool {
        self.next == last.next() && self.asked.is_none() && self.inflight.is_empty() && self.mark.is_none()
    }

    /// Whether the next beat should carry a sequence of its own, to tell lost appends from slow ones.
    pub fn wants_mark(&self) -> bool {
        self.mark.is_none() && !self.inflight.is_empty()
    }

    /// A beat of this sequence goes out.
    pub fn beat_sent(&mut self, sequence: u64, mark: bool, commit: Index) {
        self.sequence_sent = sequence;
        self.commit_sent = self.commit_sent.max(commit);
        if mark {
            self.mark = Some((sequence, self.next.prev()));
        }
    }
}
