//! Replicas that have moved to other brokers: deleted here, when the controller log says that their groups have arrived without them.
//!
//! That record is the tombstone, and names the replica by its id, and the committed configuration by which the group let it go
//! (`ctl::reassign`). In one case that is not enough: a leader whose copy of the controller log is behind may have made a voter of the
//! replica again. So one that votes by a *newer* configuration of its own log stays until that ends: by a later record, by the leader's
//! next change, or by a word of the others that it is a member no more. Nobody else is waited for: those that could say it may all have
//! moved on. Whoever has no vote by its own log, or by one older than the record's, has acknowledged nothing that counted since.
//! Not here: topics that were deleted (`metadata`), disks that were replaced. Invariant: what is remembered here follows from the log (or
//! from a snapshot, which keeps what the records said) and the replicas' own files: a restart meets it again.

use super::Shard;
use crate::ctl::image::Partition as Placed;
use crate::raftlog::core::Core;
use crate::raftlog::message::Configuration;
use crate::segment::{Generation, GroupId, RecoveredGroup, ReplicaId};

impl Shard {
    /// The log says that this replica, if it is here, or one that was here before it, is to go.
    pub(super) fn remove_moved(&mut self, group: GroupId, replica: ReplicaId) {
        let running = self.partitions.get(&group).map(|p| p.replica);
        let stored = self.orphans.get(&group).map(|found| found.replica);
        let Some(here) = running.or_else(|| self.placing.replaying(group)).or(stored) else { return };
        // On another disk too: what was placed here before had given way to the one that left.
        if replica.node == self.node() && here.node == replica.node && here.assignment <= replica.assignment {
            self.leaving.insert(group, here);
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
        let image = self.image.clone();
        let Some((_, _, placed)) = image.group(group) else { return };
        let stored = self.orphans.get(&group).map(|found| found.replica);
        if self.partitions.get(&group).map(|p| p.replica).or(stored).is_some_and(|here| here != replica) {
            // Another one has taken its place meanwhile: the record does not speak of that.
            self.leaving.remove(&group);
            return;
        }
        if self.orphans.get(&group).is_some_and(|found| !is_superseded(placed, found)) {
            // It is taken up, to hear from the others that it does not.
            return self.place_again(group);
        }
        if self.placing.replaying(group) == Some(replica) {
            return;
        }
        if self.orphans.contains_key(&group) {
            // The group may have gone on without what only this log holds.
            let Some(remains) = self.remains_of(group, Generation(placed.generation)) else { return };
            self.orphans.remove(&group);
            self.drop_stored(group, remains);
        } else {
            let stays = |core: &Core| {
                let (configuration, id) = core.configuration();
                !core.is_removed() && !placed.is_superseded(replica, configuration, id)
            };
            if self.engine.core(group).is_some_and(stays) {
                return;
            }
            let Some(remains) = self.remains_of(group, Generation(placed.generation)) else { return };
            self.drop_replica(group, remains);
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

/// Whether a recovered replica may go by the newest configuration in its log; one that cannot be read may give it a vote.
fn is_superseded(placed: &Placed, found: &RecoveredGroup) -> bool {
    let start = (found.log_start.prev, &found.log_start.configuration);
    let (id, newest) = found.configurations.last().map_or(start, |(id, bytes)| (*id, bytes));
    match Configuration::decode(newest) {
        Some(configuration) => placed.is_superseded(found.replica, &configuration, id),
        None => id <= placed.configured,
    }
}
