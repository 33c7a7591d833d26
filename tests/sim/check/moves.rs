//! Replicas that move: who may be deleted, who may be there again, and that an id that has spoken is never made anew.
//!
//! Who was let go is taken from the committed controller log, through an image of its own; everything else from what nodes hold.
//! Names: I of the project's list of invariants, F of docs/safety.md.

use super::Check;
use crate::marks::Marks;
use kontiki::ctl::image::{Change, Image};
use kontiki::ctl::record::{Batch, Record};
use kontiki::raftlog::core::Core;
use kontiki::segment::{Entry, GroupId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of moves.
#[derive(Default)]
pub struct Moves {
    image: Image,
    /// Replicas that a committed record let go.
    left: BTreeSet<(GroupId, ReplicaId)>,
    /// Those of them that their nodes were seen to have deleted.
    deleted: BTreeSet<(GroupId, ReplicaId)>,
    /// The replica that each node was last seen with, and in which life.
    bore: BTreeMap<(usize, GroupId), (u64, ReplicaId)>,
    /// Partitions whose move ended, not noted yet.
    pub arrived: u64,
}

impl Check {
    /// An entry of the controller log is committed.
    pub(super) fn follow_moves(&mut self, entry: &Entry, batch: &Batch) {
        let id = entry.meta.id;
        let number = Image::number(id.epoch.generation.0, id.index.0);
        let changes = self.moves.image.apply_with_changes(number, batch).expect("the product applies it");
        for change in changes {
            if let Change::ReplicaRemoved { group, replica } = change {
                self.moves.left.insert((group, replica));
            }
        }
        let arrived = batch.records.iter().map(|record| match record {
            Record::Reassigned { arrivals } => arrivals.len() as u64,
            _ => 0,
        });
        self.moves.arrived += arrived.sum::<u64>();
    }

    /// Whether a committed record let this very replica go.
    pub fn has_moved(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.moves.left.contains(&(group, replica))
    }

    /// The metadata as far as anybody knows it to be committed.
    pub fn metadata_now(&self) -> &Image {
        &self.moves.image
    }

    /// A node is seen with this replica.
    pub(super) fn bears(
        &mut self,
        (n, life): (usize, u64),
        group: GroupId,
        core: &Core,
        damaged: bool,
        marks: &mut Marks,
    ) {
        let replica = core.replica();
        let before = self.moves.bore.insert((n, group), (life, replica));
        if before == Some((life, replica)) {
            return;
        }
        assert!(
            !self.moves.deleted.contains(&(group, replica)),
            "F6: node {} deleted {replica} of group {group} and has it again",
            n + 1
        );
        if let Some(told) = self.told.get(&(group, replica)).filter(|_| !damaged) {
            assert!(
                core.epoch() >= told.epoch || core.last().epoch >= told.epoch,
                "F6: node {} makes {replica} of group {group} anew, which spoke in {}",
                n + 1,
                told.epoch
            );
        }
        if let Some((_, old)) = before.filter(|(_, old)| *old != replica) {
            if self.has_moved(group, old) {
                marks.hit("moved replica back under another id");
                self.moves.deleted.insert((group, old));
            }
            self.placed(group, n, replica);
        }
    }

    /// A node has its replica of a group no more: whether that one moved away.
    pub(super) fn has_let_go(&mut self, n: usize, group: GroupId, marks: &mut Marks) -> bool {
        let Some((_, replica)) = self.moves.bore.get(&(n, group)).copied() else { return false };
        if !self.has_moved(group, replica) {
            return false;
        }
        marks.hit("moved replica deleted");
        self.moves.deleted.insert((group, replica));
        self.moves.bore.remove(&(n, group));
        self.tails.remove(&(n, group));
        self.in_force.remove(&(n, group));
        self.aside.retain(|a| !a.is_of(n, group));
        true
    }
}
