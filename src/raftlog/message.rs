//! What replicas of one group say to each other, and the configuration they agree on.
//! Payload bytes are not here: an append names its entries by header content; the engine puts the bytes beside it.

use super::core::quorum;
use crate::segment::{Cleaned, EntryMeta, Epoch, Index, LogId, LogStart, Offset, ReplicaId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Members of a group, derived from the log alone (design section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Voters (of the new half while joint). Of two controllers the first is the heir (`heir`).
    pub voters: Vec<ReplicaId>,
    /// Voters of the old half while joint; empty otherwise (Raft §6).
    pub old_voters: Vec<ReplicaId>,
    /// Non-voting members; while joint, of the new half (so a voter that becomes a learner is also in the old half).
    pub learners: Vec<ReplicaId>,
    /// Former members, per node those with the highest assignment: their ids are never taken again (safety.md F6).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<ReplicaId>,
}

impl Configuration {
    /// Bytes of a Configuration entry (version byte + JSON).
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![1u8];
        serde_json::to_writer(&mut bytes, self).expect("plain data serialises");
        Bytes::from(bytes)
    }
    /// Reads what [`Configuration::encode`] wrote; None if it is not that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, body) = bytes.split_first()?;
        if *version != 1 {
            return None;
        }
        serde_json::from_slice(body).ok()
    }
    /// Whether `replica` votes in either half.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.old_voters.contains(&replica)
    }
    /// Everyone the leader replicates to, once.
    pub fn members(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let old = self.old_voters.iter().filter(|r| !self.voters.contains(r));
        let learners = self.learners.iter().filter(|r| !self.old_voters.contains(r));
        self.voters.iter().chain(old).chain(learners).copied()
    }
    /// Whether `replica` is replicated to.
    pub fn is_member(&self, replica: ReplicaId) -> bool {
        self.is_voter(replica) || self.learners.contains(&replica)
    }
    /// Whether those for which `yes` holds can elect and commit: a majority, of both halves while joint.
    pub fn is_quorum(&self, yes: impl Fn(ReplicaId) -> bool) -> bool {
        !self.voters.is_empty() && quorum::is_quorum(self, yes)
    }
    /// Whether two halves decide (Raft §6).
    pub fn is_joint(&self) -> bool {
        !self.old_voters.is_empty()
    }
    /// What takes its place next: C_old,new, or the target itself where the voters stay the same.
    pub fn towards(&self, voters: Vec<ReplicaId>, learners: Vec<ReplicaId>) -> Self {
        let same = voters.len() == self.voters.len() && voters.iter().all(|r| self.voters.contains(r));
        let old_voters = if same { Vec::new() } else { self.voters.clone() };
        let mut next = Self { voters, old_voters, learners, retired: self.retired.clone() };
        for gone in self.members().filter(|r| !next.voters.contains(r) && !next.learners.contains(r)) {
            next.retired.retain(|r| r.node != gone.node || r.assignment >= gone.assignment);
            if next.retired.iter().all(|r| r.node != gone.node || r.assignment == gone.assignment) {
                next.retired.push(gone);
            }
        }
        next
    }
    /// C_new of a joint configuration.
    pub fn without_old(&self) -> Self {
        Self { old_voters: Vec::new(), ..self.clone() }
    }
    /// Whether this id, or one placed later on its node, has been a member and left.
    pub fn is_retired(&self, replica: ReplicaId) -> bool {
        let same = |r: &&ReplicaId| r.node == replica.node;
        self.retired.iter().filter(same).any(|r| *r == replica || r.assignment > replica.assignment)
    }
}

/// One message between two replicas. The engine adds group, both replica ids and both incarnations,
/// and drops what does not match (safety.md F6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Sender's epoch; for pre-votes the epoch asked for.
    pub epoch: Epoch,
    /// What is said.
    pub body: Body,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you vote for me? (thesis §9.6)
    PreVote {
        /// Last entry of the asker.
        last: LogId,
        /// Number of this round, echoed in the answer.
        round: u64,
    },
    /// Answer to a pre-vote.
    PreVoteReply {
        /// Yes or no.
        granted: bool,
        /// Echo.
        round: u64,
    },
    /// Vote for me (Raft §5.2).
    Vote {
        /// Last entry of the candidate.
        last: LogId,
        /// Leadership transfer: ignore stickiness (thesis §4.2.3).
        transfer: bool,
    },
    /// Answer to a vote.
    VoteReply {
        /// Yes or no.
        granted: bool,
    },
    /// Entries after `prev` (may be none).
    Append {
        /// The entry before the first one.
        prev: LogId,
        /// Header content of each.
        entries: Vec<EntryMeta>,
        /// Leader's commit index.
        commit: Index,
        /// How clean the leader's log is, as of when the entries were read, where they begin below either number (decisions/0022, rule A).
        cleaned: Option<Cleaned>,
    },
    /// Entries up to `last` are durable here and match the leader's log.
    AppendAccepted {
        /// The last durable entry verified against this leader's log.
        last: LogId,
    },
    /// Entries up to `last` are written here and match the leader's log, control entries durably (`flush.mode=async`): they outlive the
    /// process, not the machine. Counts only for a leader whose topic asks for no more.
    Written {
        /// The last such entry.
        last: LogId,
    },
    /// The append did not fit.
    AppendRejected {
        /// The `prev` index that was refused.
        probed: Index,
        /// Where the follower suggests to go on: its best guess of the last common entry (conflict-term backtracking).
        hint: LogId,
        /// The follower's last entry.
        last: LogId,
    },
    /// Leader's beat, carried in the coalesced message of a broker pair.
    Beat {
        /// Leader's commit index, capped at what the follower is known to hold.
        commit: Index,
        /// Read/quorum sequence, echoed by the answer.
        sequence: u64,
    },
    /// Answer to a beat.
    BeatReply {
        /// Echo.
        sequence: u64,
        /// Follower's last durable entry that matches this leader's log, as last acknowledged (0 if none).
        matched: LogId,
        /// Follower's last entry of any kind (lets the leader see a follower that lost its tail or lags).
        last: LogId,
    },
    /// Replace your log by one that starts here (the leader no longer has the entries before).
    InstallLogStart {
        /// The leader's log start state.
        start: LogStart,
    },
    /// The log start is installed and durable; its `prev` is the match.
    LogStartInstalled {
        /// Identity of the entry before the log start.
        prev: LogId,
    },
    /// Start an election at once (thesis §3.10).
    TimeoutNow,
    /// Sealed in this generation: step down (safety.md F2).
    Sealed,
    /// A higher epoch exists; carries it in `Message::epoch`.
    Fenced,
    /// You are not a member of this committed configuration, which your log lacks (thesis §4.2.3: nobody else tells it).
    Removed {
        /// Its entry.
        configuration: LogId,
    },
    /// Yes to a pre-vote, by one in doubt: it counts only if every voter grants (safety.md F11).
    PreVoteIfAll {
        /// Echo.
        round: u64,
        /// Its term or vote may be lost too.
        vote: bool,
    },
    /// Yes to a vote, by one in doubt, likewise.
    VoteIfAll {
        /// Its term or vote may be lost too: in a term that it may have forgotten it does not count.
        vote: bool,
    },
    /// The acknowledgement, or answer to a beat, of one whose term or vote may be lost: it is not counted.
    InDoubt {
        /// Last durable entry that matches this leader's log (0 if none).
        matched: LogId,
        /// Its last entry of any kind.
        last: LogId,
        /// Of the beat answered; 0 if none is.
        sequence: u64,
    },
    /// A damaged replica asks any other for entries. Answered by the engine, not by the core.
    Fetch {
        /// First.
        from: Index,
        /// Last.
        to: Index,
        /// Tombstones may be missing here behind what is asked for: only a copy helps that is clean to this offset (decisions/0022, rule B).
        needs: Option<Offset>,
        /// The last entry of the asker's log.
        end: LogId,
    },
    /// Some of them, from the first on; none if they are not here. Taken only if they are the very entries that were lost.
    Fetched {
        /// Header content of each.
        entries: Vec<EntryMeta>,
        /// How clean the copy is that they come from, as of when they were read.
        cleaned: Cleaned,
        /// An entry of its log behind all that it is clean to, or the asker's last if it holds that: to whose log this entry does not belong,
        /// `cleaned` speaks of another one.
        of: LogId,
    },
    /// A replica in doubt asks for the leader's end as of now.
    AskEnd {
        /// Echoed by the answer.
        nonce: u64,
        /// Term or vote may be lost: a quorum must confirm the leader after the sample.
        vote: bool,
    },
    /// The leader's end when it was asked.
    End {
        /// Echo.
        nonce: u64,
        /// Its last entry then.
        last: LogId,
    },
}
