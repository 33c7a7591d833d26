//! What may be seen of a core from outside: small answers that change nothing. Called by the engine and the layers above.

use super::{Configuration, Core, Role};
use crate::segment::{Epoch, HardState, Index, LogId, ReplicaId};

impl Core {
    /// This replica.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }
    /// Role now.
    pub fn role(&self) -> Role {
        self.role
    }
    /// Epoch now.
    pub fn epoch(&self) -> Epoch {
        self.hard.epoch
    }
    /// Leader, if known.
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }
    /// Whether it was told of a committed configuration without it, not older than the one it knows.
    pub fn is_removed(&self) -> bool {
        self.removed.is_some()
    }
    /// Commit index.
    pub fn commit(&self) -> Index {
        self.log.commit()
    }
    /// Leader with an entry of its own term committed (may answer end-of-log questions after a read index).
    pub fn is_established(&self) -> bool {
        self.leading.as_ref().is_some_and(|leading| self.log.commit() >= leading.first_own)
    }
    /// Last entry.
    pub fn last(&self) -> LogId {
        self.log.last()
    }
    /// Last locally durable entry.
    pub fn durable(&self) -> Index {
        self.log.durable()
    }
    /// Whether an entry of the present generation is durable here: then so is how it began.
    pub fn has_begun(&self) -> bool {
        let epoch = self.log.epoch_at(self.log.durable());
        epoch.is_some_and(|epoch| epoch.generation == self.hard.epoch.generation)
    }
    /// Configuration in force and its id.
    pub fn configuration(&self) -> (&Configuration, LogId) {
        self.log.configuration()
    }
    /// Whether it knows of something committed in the present epoch: then it is not behind whatever was shown in an earlier one.
    pub fn is_level(&self) -> bool {
        self.log.epoch_at(self.log.commit()) == Some(self.hard.epoch)
    }
    /// Configuration as of `index`, which is not before the log start, and its id: for a log that is to begin behind it.
    pub fn configuration_at(&self, index: Index) -> (&Configuration, LogId) {
        self.log.configuration_at(index)
    }
    /// Persisted state.
    pub fn hard_state(&self) -> HardState {
        self.hard
    }
}
