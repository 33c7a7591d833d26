//! Replicas that have moved to other brokers: deleted here, when the controller log says that their groups have arrived without them.
//!
//! That record is the tombstone, and names the replica by its id (`ctl::reassign`). By itself it is not enough in one case: a leader
//! whose copy of the controller log is behind may have made a voter of the replica again. So one that is a voter by its own log
//! stays until that ends, by the leader's next change or by a word of the others that it is a member no more. Whoever is no voter by
//! its own log never acknowledged anything that counted as one's. Not here: topics that were deleted (`metadata`), disks that were
//! replaced. Invariant: what is remembered here follows from the log and the replicas' own files: a restart meets it again.

use super::Shard;
use crate::raftlog::core::Core;
use crate::raftlog::message::Configuration;
use crate::segment::{GroupId, RecoveredGroup, Remains, ReplicaId};

impl Shard {
    /// The log says that this replica, if it is the one here, is to go.
    pub(super) fn remove_moved(&mut self, group: GroupId, replica: ReplicaId) {
        let is_here = self.partitions.get(&group).is_some_and(|p| p.replica == replica)
            || self.placing.is_replaying(group, replica)
            || self.orphans.get(&group).is_some_and(|found| found.replica == replica);
        if replica.node == self.node() && is_here {
            self.leaving.insert(group, replica);
            self.let_go(group);
        }
    }

    /// Looks again at those that could not go yet.
    pub(super) fn tend_leaving(&mut self) {
        let groups: Vec<GroupId> = self.leaving.keys().copied().collect();
        groups.into_iter().for_each(|group| self.let_go(group));
    }

    /// Deletes it, unless it may be a voter.
    pub(super) fn let_go(&mut self, group: GroupId) {
        let Some(replica) = self.leaving.get(&group).copied() else { return };
        if self.orphans.get(&group).is_some_and(votes_by_files) {
            // It is taken up, to hear from the others that it does not.
            return self.place_again(group);
        }
        if self.placing.is_replaying(group, replica) {
            return;
        }
        if self.orphans.remove(&group).is_some() {
            self.drop_stored(group, Remains::Aside);
        } else {
            let votes = |core: &Core| !core.is_removed() && core.configuration().0.is_voter(replica);
            if self.engine.core(group).is_some_and(votes) {
                return;
            }
            self.drop_replica(group, Remains::Aside);
        }
        self.leaving.remove(&group);
        tracing::info!(%group, %replica, "replica deleted: it has moved to another broker");
        // Perhaps it has come back meanwhile, under another id.
        self.place_again(group);
    }

    fn place_again(&mut self, group: GroupId) {
        if !self.placing.is_waiting(group)
            && let Some((topic, partition)) = self.image.groups.get(&group).copied()
        {
            self.placing.push(group, topic, partition);
        }
    }
}

/// Whether the newest configuration in a recovered replica's log has it as a voter; one that cannot be read may.
fn votes_by_files(found: &RecoveredGroup) -> bool {
    let newest = found.configurations.last().map_or(&found.log_start.configuration, |(_, bytes)| bytes);
    Configuration::decode(newest).is_none_or(|configuration| configuration.is_voter(found.replica))
}
