//! Replicas that begin anew: the same broker and disk, another id and an empty log, as after the loss of a disk (docs/decisions/0022).
//!
//! Their copy holds what tombstones deleted that are gone elsewhere, so it cannot be brought up to date by what the others have. Leaders ask
//! for them, whose groups do without. Pure. Not here: who begins anew and what its leader looks at first (`broker::shard::anew`); replicas
//! whose disk is another one (`generations`). Invariants:
//! - exactly the replica that was named gets another id, in the generation that was spoken of and not while that ends: who is sealed is
//!   counted by its id;
//! - no whole copy of a partition is given up beside which one alone is left.

use super::image::{Change, Image, Partition};
use crate::segment::{GroupId, LogId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Replicas in one record: some hundred bytes each.
const REPLICAS_PER_RECORD: usize = 1_000;
/// Copies that are left meanwhile where a whole one is given up.
pub const LEFT: usize = 2;

/// A leader's word that a replica of its group has no vote and is to begin anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forsaken {
    /// Whose.
    pub group: GroupId,
    /// Its broker.
    pub node: NodeId,
    /// Its assignment: exactly this one.
    pub assignment: u64,
    /// Generation of the group.
    pub generation: u64,
    /// Entry of the committed configuration in which it has no vote.
    pub configuration: LogId,
    /// Its copy is whole but for what is damaged; else it ends before what it lacks.
    pub is_whole: bool,
}

/// Of these, those that may be placed anew.
pub fn due(image: &Image, asked: &[Forsaken]) -> Vec<Forsaken> {
    let mut seen = BTreeSet::new();
    let due = |one: &&Forsaken| {
        image.group(one.group).is_some_and(|(_, _, partition)| {
            let is_here = check(partition, one).is_ok_and(|replica| image.holds(&replica));
            is_here && partition.is_confirmed()
        })
    };
    let first = |one: &&Forsaken| seen.insert(one.group);
    asked.iter().filter(due).filter(first).take(REPLICAS_PER_RECORD).cloned().collect()
}

/// The replica that is spoken of, if it may begin anew.
fn check(partition: &Partition, one: &Forsaken) -> Result<ReplicaId, &'static str> {
    let is_it = |replica: &&ReplicaId| (replica.node, replica.assignment) == (one.node, one.assignment);
    let Some(replica) = partition.target().iter().find(is_it) else {
        return Err("it is not one of the replicas that are to be there");
    };
    let checks = [
        (partition.can_spare_one(one.is_whole), "it is one of too few"),
        (partition.sealing.is_none(), "the generation is to end"),
        (partition.generation == one.generation, "it is said of another generation"),
        (one.configuration >= partition.configured, "it is said of an older configuration"),
    ];
    checks.iter().find(|(holds, _)| !holds).map_or(Ok(*replica), |(_, why)| Err(*why))
}

impl Image {
    pub(super) fn apply_anew(
        &mut self,
        number: u64,
        replicas: &[Forsaken],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(replicas.iter().map(|one| one.group))?;
        let mut named = Vec::new();
        for one in replicas {
            let replica = check(self.partition_mut(one.group)?, one)
                .map_err(|why| format!("replica of broker {} of group {}: {why}", one.node, one.group))?;
            named.push((one.group, replica));
        }
        for (group, replica) in named {
            let anew = ReplicaId { assignment: number, ..replica };
            self.partition_mut(group)?.change_id(replica, anew, number);
            changes.push(Change::GroupChanged { group });
        }
        Ok(())
    }
}

impl Partition {
    /// Whether enough copies are left without one of them, which is whole or was on its way.
    pub fn can_spare_one(&self, is_whole: bool) -> bool {
        self.replicas.len() > if is_whole { LEFT } else { 1 }
    }

    /// One replica has another id from the record of this number on.
    pub(super) fn change_id(&mut self, from: ReplicaId, to: ReplicaId, number: u64) {
        if self.founders.is_empty() {
            self.founders = self.replicas.clone();
        }
        self.replicas.iter_mut().filter(|r| **r == from).for_each(|r| *r = to);
        if let Some(moving) = &mut self.moving {
            // Whoever says that the group has arrived speaks of the replica that was lost.
            moving.since = number;
        }
    }
}
