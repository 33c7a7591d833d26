//! What is kept for ever of a generation of the controllers' own group that an operator had opened over stopped nodes' directories
//! (decision 0018), and what follows for the metadata if something may be lost by it (decision 0021).
//!
//! Pure. Not here: who goes on and why (`raftlog::offline`), writing directories (`broker::offline`). Invariants:
//! - the record stands in the very generation that it tells of, right behind the entry that opens it;
//! - it never goes: snapshots carry it on;
//! - a disk that was given up never registers again: it may have acted on records that are lost;
//! - behind such a loss no generation of a partition is decided without an operator's approval before a leader of the generation that the
//!   metadata says was seen to commit in its term ([`Image::confirmable`]).

use super::image::{Change, INDEX_BITS, Image, Partition};
use super::record::Batch;
use super::recovery::{Holding, Outcome};
use super::snapshot::Pieces;
use super::{record::Record, snapshot};
use crate::mutation::{Mutation, on};
use crate::raftlog::generation::{self, Decision, SealReport, Undecidable};
use crate::segment::{Entry, EntryKind, Generation, GroupId, Index, LogId, NodeId, ReplicaId, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Why an approval from before ends.
const VOID: &str = "approved before the controllers were recovered with a loss: ask for a new plan";

/// One such recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerRecovery {
    /// Number of the plan that was approved.
    pub id: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// When, by the clock of the machine that did it.
    pub at_ms: i64,
    /// The generation that ended.
    pub from: u64,
    /// The one that began.
    pub generation: u64,
    /// Node of the copy that went on.
    pub survivor: NodeId,
    /// Where it ended. All of it counts.
    pub base: LogId,
    /// The copies that proved it: node and last entry of each.
    pub copies: Vec<(NodeId, LogId)>,
    /// Voters whose copies were not at hand.
    pub missing: Vec<NodeId>,
    /// Of those: heirs that, on the operator's word, never went on alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heirs_gone: Vec<NodeId>,
    /// Disks that were given up: they may have acted on records that the base lacks. None if nothing is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
}

/// A disk that an operator gave up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// Whose it was.
    pub node: NodeId,
    /// Uuid of the data directory.
    pub directory: Uuid,
}

/// Whether a disk may register. `oldest`: the earliest assignment of a replica on it.
///
/// # Errors
/// Why not.
pub(super) fn check_registration(
    image: &Image,
    node: NodeId,
    directory: Uuid,
    oldest: Option<u64>,
) -> Result<(), String> {
    if on(Mutation::RegisterTheLost) {
        return Ok(());
    }
    let then = "keep it to be read (`kontiki dump`), and start the node with an empty one";
    if image.is_lost(directory) {
        return Err(format!(
            "data directory {directory} of node {node} was given up when the controllers were recovered: it may hold what they do not know; {then}"
        ));
    }
    // Whoever registered by a record that was lost holds replicas that were placed by such records too, if any.
    let is_known = image.brokers.get(&node).is_some_and(|broker| broker.directory == directory);
    match oldest.filter(|oldest| !is_known && image.lost_at().is_some_and(|at| *oldest < at)) {
        Some(_) => Err(format!(
            "data directory {directory} of node {node} holds replicas from before the controllers were recovered with a loss, and is none that they \
             knew: what it did nobody knows; {then}"
        )),
        None => Ok(()),
    }
}

/// What must not be forgotten when controllers go on with a loss: a broker of this metadata that is neither `given` (node and directory of
/// every copy at hand) nor `gone`; or that is given by another directory than the one it registered with.
///
/// # Errors
/// Says who.
pub fn check_named(image: &Image, given: &[Lost], gone: &[NodeId]) -> Result<(), String> {
    for broker in image.brokers.values() {
        let mine: Vec<&Lost> = given.iter().filter(|copy| copy.node == broker.node).collect();
        match (mine.iter().any(|copy| copy.directory == broker.directory), gone.contains(&broker.node)) {
            (true, false) | (false, true) => {}
            (true, true) => return Err(format!("broker {} is given, and said to be gone", broker.node)),
            (false, false) if mine.is_empty() => {
                return Err(format!(
                    "broker {} is neither given (--with) nor said to be gone for good (--gone)",
                    broker.node
                ));
            }
            (false, false) => {
                return Err(format!(
                    "broker {} registered with directory {}, which is not the one given: bring that one, or say that it is gone (--gone)",
                    broker.node, broker.directory
                ));
            }
        }
    }
    Ok(())
}

/// The metadata that a whole log of the controllers says; `start`: the entry before its first, `last`: its last.
///
/// # Errors
/// Entries are missing; the log begins behind the cluster's birth and holds no whole snapshot; or an entry does not fit.
pub fn image_of(start: LogId, last: LogId, entries: &[Entry]) -> Result<Image, String> {
    let ids = std::iter::once(start).chain(entries.iter().map(|entry| entry.meta.id));
    let is_whole = ids.clone().zip(ids.clone().skip(1)).all(|(a, b)| b.index == a.index.next());
    if !is_whole || ids.last() != Some(last) {
        return Err(format!("entries between {start} and {last} are missing"));
    }
    let (mut image, mut pieces) = (Image::default(), Pieces::default());
    let mut is_known = start.index == Index(0);
    let said = entries.iter().filter(|e| matches!(e.meta.kind, EntryKind::Metadata | EntryKind::Snapshot));
    let mut before: Vec<&Entry> = Vec::new();
    for entry in said {
        let batch = Batch::decode(&entry.payload).map_err(|why| format!("entry {}: {why}", entry.meta.id))?;
        if is_known {
            apply(&mut image, entry, &batch)?;
            continue;
        }
        before.push(entry);
        let [Record::Snapshot(piece)] = &batch.records[..] else { continue };
        // One that reflects less lacks what was between it and the start.
        let Some(whole) = (piece.at.index >= start.index).then(|| pieces.take(piece)).flatten() else {
            continue;
        };
        let at = whole.at;
        image = snapshot::Whole::read(&whole).map_err(|why| format!("snapshot at {at}: {why}"))?;
        is_known = true;
        for entry in before.drain(..).filter(|entry| entry.meta.id.index > at.index) {
            apply(&mut image, entry, &Batch::decode(&entry.payload)?)?;
        }
    }
    match is_known {
        true => Ok(image),
        false => {
            Err(format!("the log begins behind {start} and holds no whole snapshot of what came before"))
        }
    }
}

fn apply(image: &mut Image, entry: &Entry, batch: &Batch) -> Result<(), String> {
    let LogId { epoch, index } = entry.meta.id;
    image
        .apply(Image::number(epoch.generation.0, index.0), batch)
        .map_err(|why| format!("entry {}: {why}", entry.meta.id))
}

impl Partition {
    /// Whether seals may prove anything about it. Behind a loss the metadata may not know its newest generation.
    pub fn is_confirmed(&self) -> bool {
        !self.unconfirmed || on(Mutation::DecideUnconfirmed)
    }

    /// What follows from these reports of its generation, as far as the metadata can tell.
    pub(super) fn decide(&self, reports: &[SealReport]) -> Result<Decision, Undecidable> {
        let from = Generation(self.generation);
        match self.is_confirmed() {
            true => generation::decide(from, reports, Term(0)),
            false => generation::decide_unproven(from, reports, Term(0)),
        }
    }
}

impl Image {
    /// Whether this disk was given up by a recovery of the controllers.
    pub fn is_lost(&self, directory: Uuid) -> bool {
        self.lost.contains_key(&directory)
    }

    /// Number of the record by which something was lost last.
    fn lost_at(&self) -> Option<u64> {
        let last = self.controller_recoveries.iter().rev().find(|recovery| !recovery.lost.is_empty())?;
        Some(last.generation << INDEX_BITS)
    }

    /// Whether this replica is on such a disk: whatever it says is of another history.
    pub fn is_given_up(&self, replica: &ReplicaId) -> bool {
        !self.lost.is_empty() && self.is_lost(Uuid::from_u128(replica.directory))
    }

    /// Groups about which nothing may be decided without an operator until their leaders were seen to commit.
    pub fn unconfirmed(&self) -> impl Iterator<Item = GroupId> + '_ {
        let partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        partitions.filter(|partition| partition.unconfirmed).map(|partition| partition.group)
    }

    /// Of these groups, those that one of their replicas leads and has committed in its term, in the generation that the metadata says:
    /// whoever reports was started after the loss, so no seal had ended that generation, and none has since (safety.md F2).
    pub fn confirmable(&self, holdings: &BTreeMap<GroupId, Vec<Holding>>) -> Vec<GroupId> {
        let is_led = |group: &GroupId, all: &[Holding]| {
            let Some((_, _, placed)) = self.group(*group).filter(|(_, _, placed)| placed.unconfirmed) else {
                return false;
            };
            let leads = |h: &Holding| {
                h.leads
                    && h.report.generation == Generation(placed.generation)
                    && placed.replicas.contains(&h.report.replica)
                    && !self.is_given_up(&h.report.replica)
            };
            all.iter().any(leads)
        };
        holdings.iter().filter(|(group, all)| is_led(group, all)).map(|(group, _)| *group).collect()
    }

    pub(super) fn apply_confirmed(
        &mut self,
        groups: &[GroupId],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(groups.iter().copied())?;
        for group in groups {
            if !self.partition_mut(*group)?.unconfirmed {
                return Err(format!("group {group} is confirmed already"));
            }
        }
        for &group in groups {
            self.partition_mut(group)?.unconfirmed = false;
            changes.push(Change::GroupChanged { group });
        }
        Ok(())
    }

    /// What older metadata must not do to disks that may have gone further (decision 0021).
    fn lose(&mut self, number: u64, recovery: &ControllerRecovery, changes: &mut Vec<Change>) {
        for Lost { node, directory } in &recovery.lost {
            self.lost.insert(*directory, *node);
            if let Some(broker) = self.brokers.get_mut(node).filter(|b| b.directory == *directory) {
                // Its registration is void: nobody takes a message of that process any more (F6).
                (broker.incarnation, broker.fenced, broker.stopping, broker.dead) =
                    (number, true, false, true);
                changes.push(Change::BrokerChanged { node: *node });
            }
        }
        let mut void = Vec::new();
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            partition.unconfirmed = true;
            void.extend(partition.recovery.take().map(|approval| (partition.group, approval.recovery)));
            changes.push(Change::GroupChanged { group: partition.group });
        }
        for (group, approval) in void {
            let (reason, at_ms) = (VOID.to_owned(), recovery.at_ms);
            self.note_outcome(group, approval, Outcome::Refused { reason, at_ms });
        }
    }

    pub(super) fn apply_controller_recovery(
        &mut self,
        number: u64,
        recovery: &ControllerRecovery,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        let generation = number >> INDEX_BITS;
        if recovery.generation != generation || recovery.from >= generation {
            return Err(format!(
                "recovery of the controllers from generation {} to {} stands in generation {generation}",
                recovery.from, recovery.generation
            ));
        }
        if !recovery.lost.is_empty() {
            self.lose(number, recovery, changes);
        }
        self.controller_recoveries.push(recovery.clone());
        Ok(())
    }
}
