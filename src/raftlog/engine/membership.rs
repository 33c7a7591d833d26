//! Changes of a group's membership as the layer above asks for them, and what it is told.
//!
//! Not here: the rules (`core::membership`), who should be a member (`ctl`). Called by whoever leads the group and carries
//! out what the controllers want. Invariant: a change that is answered with an entry's identity was appended, not yet
//! committed; the layer above learns the rest from `GroupEvent::Configured` and `GroupEvent::Committed`.

use super::{Engine, Payloads};
use crate::raftlog::core::{ChangeRefusal, Event, Millis};
use crate::segment::{GroupId, LogId, ReplicaId};

/// Why a membership stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The core refused.
    #[error("refused: {0}")]
    Refused(ChangeRefusal),
    /// Storage has failed for good.
    #[error("storage failed: {0}")]
    Failed(String),
    /// No such group here.
    #[error("unknown group")]
    Unknown,
}

impl Engine {
    /// As leader, makes these the group's members if the configuration in force is still that of entry `expected`
    /// (compare and set on generation, term and index). Voters change through a joint configuration, which the leader
    /// finishes by itself; who is to vote must be a member that is caught up durably (`PeerProgress::is_caught_up`).
    /// Answers the entry that was appended.
    ///
    /// # Errors
    /// `Refused` with the rule that stands against it; nothing was appended then.
    pub fn change_membership(
        &mut self,
        now: Millis,
        group: GroupId,
        expected: LogId,
        voters: Vec<ReplicaId>,
        learners: Vec<ReplicaId>,
    ) -> Result<LogId, ChangeError> {
        let slot = *self.by_id.get(&group).ok_or(ChangeError::Unknown)?;
        if let Some(reason) = self.store.failure() {
            return Err(ChangeError::Failed(reason.to_owned()));
        }
        self.change_refusal = None;
        self.appended.clear();
        self.step(now, slot, Event::ChangeMembership { expected, voters, learners }, Payloads::None);
        match (self.change_refusal.take(), self.appended.first()) {
            (Some(reason), _) => Err(ChangeError::Refused(reason)),
            (None, Some(meta)) => Ok(meta.id),
            (None, None) => Err(ChangeError::Failed("the entry could not be stored".to_owned())),
        }
    }
}
