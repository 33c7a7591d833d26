//! Reassignment: partitions whose replicas move to other brokers (Kafka's AlterPartitionReassignments).
//!
//! The controllers write where replicas are to be; each group's own leader brings that about, as it shrinks and grows its group
//! (`members`, decision 0010), and says when its committed configuration is the target; then the controllers write that down. Here:
//! what a request sets or cancels, which reports of arrival count, what both records do to the image. Pure. Not here: the changes of
//! members, copying, deleting what moved away (`broker::shard`). Invariants:
//! - while a partition moves, `replicas` = target, then those that are to leave, each with the id it has: a replica on its way out is
//!   a member of its group still, and one that is wanted back has lost nothing;
//! - replicas leave `replicas` only by a record of arrival, which is the tombstone that lets brokers delete them (reliability.md I13);
//! - a report of arrival counts only for the target and the generation it was made for, and not while the group is sealed;
//! - a record of arrival names the committed configuration that it rests on: by it alone a replica that left knows whether its own log
//!   says anything newer, however many of those that it could ask have moved on (`is_superseded`).

use super::command::Error;
use super::generations::GROUPS_PER_RECORD;
use super::image::{Change, Drain, Image, Partition, Topic};
use crate::mutation::{Mutation, on};
use crate::raftlog::message::Configuration;
use crate::segment::{GroupId, LogId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where a partition is on its way to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moving {
    /// Number of the record that set the target.
    pub since: u64,
    /// Brokers of the replicas to be, preferred leader first.
    pub target: Vec<NodeId>,
    /// Brokers of the replicas before: where a cancelled reassignment goes back to.
    pub origin: Vec<NodeId>,
    /// The controllers have it go there by themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_controllers: bool,
}

/// Where a group's replicas are to be, preferred leader first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMove {
    /// Whose.
    pub group: GroupId,
    /// Brokers.
    pub target: Vec<NodeId>,
}

/// A leader's word that its group is where it was to be: nobody who is to leave votes in the committed configuration ([`Partition::is_at`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Whose.
    pub group: GroupId,
    /// Number of the record that set the target.
    pub since: u64,
    /// Generation of the group.
    pub generation: u64,
    /// Entry of that configuration. Records of before say nothing: then it is older than any.
    #[serde(default)]
    pub configuration: LogId,
}

/// One partition of an AlterPartitionReassignments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassignment {
    /// Topic.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Brokers of the replicas to be; None cancels what is under way.
    pub target: Option<Vec<NodeId>>,
}

impl Partition {
    /// The replicas there are to be, preferred leader first: all, unless the partition moves.
    pub fn target(&self) -> &[ReplicaId] {
        let count = self.moving.as_ref().map_or(self.replicas.len(), |moving| moving.target.len());
        &self.replicas[..count]
    }

    /// Replicas that are to leave.
    pub fn removing(&self) -> &[ReplicaId] {
        &self.replicas[self.target().len()..]
    }

    /// Whether most of the brokers are so: of those that are to hold it, and of those that held it before it began to move. The same,
    /// unless it moves; then either may be those that vote.
    pub fn most(&self, are: impl Fn(NodeId) -> bool) -> [bool; 2] {
        let most = |nodes: Vec<NodeId>| 2 * nodes.iter().filter(|node| are(**node)).count() > nodes.len();
        [most(self.target().iter().map(|replica| replica.node).collect()), most(self.origin())]
    }

    /// Brokers that had no replica before it began to move, and are to have one.
    pub fn adding(&self) -> Vec<NodeId> {
        let Some(moving) = &self.moving else { return Vec::new() };
        moving.target.iter().copied().filter(|node| !moving.origin.contains(node)).collect()
    }

    /// Whether it moves back to where it came from.
    pub fn is_cancelled(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| {
            moving.target.len() == moving.origin.len()
                && moving.target.iter().all(|node| moving.origin.contains(node))
        })
    }

    /// Whether this replica is to leave, and was where the partition was before it began to move.
    pub fn was_there(&self, replica: ReplicaId) -> bool {
        let leaves = self.replicas.contains(&replica) && !self.target().contains(&replica);
        let from =
            |moving: &Moving| replica.assignment < moving.since && moving.origin.contains(&replica.node);
        leaves && self.moving.as_deref().is_some_and(from)
    }

    /// Whether a group with these members, once that is committed, has nothing more to do for its reassignment: the voters are the
    /// target. Where it is cancelled, nobody waits for a dead broker of the origin: it is enough that no other votes, so that none of
    /// those that leave is a copy that counts.
    pub fn is_at(&self, configuration: &Configuration) -> bool {
        let (voters, target) = (&configuration.voters, self.target());
        let is_there = match self.is_cancelled() {
            true => !voters.is_empty(),
            false => voters.len() == target.len(),
        };
        self.moving.is_some()
            && !configuration.is_joint()
            && is_there
            && voters.iter().all(|replica| target.contains(replica))
    }

    /// Whether a replica that is to be here no more may go: its own newest configuration gives it no vote, or is not newer than the
    /// committed one by which the group let it go. Any other may be one that a leader made with an old copy of the controller log.
    pub fn is_superseded(&self, replica: ReplicaId, configuration: &Configuration, id: LogId) -> bool {
        !configuration.is_voter(replica) || id <= self.configured
    }

    /// Who votes by the log that a replica begins with which is made now: the founders, if it is one of them and the controllers know of no
    /// configuration and no generation that came after; else nobody, and its leader's log will tell it.
    pub fn voters_at_creation(&self, replica: ReplicaId) -> &[ReplicaId] {
        let has_gone_on = self.generation > 0 || self.configured > LogId::default();
        let is_founder = self.founders().contains(&replica);
        if is_founder && !has_gone_on { self.founders() } else { &[] }
    }

    /// Brokers of the replicas before it began to move.
    fn origin(&self) -> Vec<NodeId> {
        match &self.moving {
            Some(moving) => moving.origin.clone(),
            None => self.replicas.iter().map(|replica| replica.node).collect(),
        }
    }

    fn has_arrived(&self, arrival: &Arrival) -> Result<(), String> {
        let is_over = self.sealing.is_some() || self.generation != arrival.generation;
        match &self.moving {
            None => Err("it does not move".to_owned()),
            Some(moving) if moving.since != arrival.since => {
                Err(format!("it moves by record {}, not {}", moving.since, arrival.since))
            }
            // Whoever survived may be one of those that were to leave.
            Some(_) if is_over && !on(Mutation::StaleArrival) => {
                Err(format!("generation {} is over", arrival.generation))
            }
            Some(_) => Ok(()),
        }
    }
}

/// What a request sets, and for each of its rows the refusal, if any.
pub fn to_reassign(
    image: &Image,
    rows: &[Reassignment],
    allow_factor_change: bool,
) -> (Vec<GroupMove>, Vec<Option<Error>>) {
    let mut moves: Vec<GroupMove> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut row = |row: &Reassignment| -> Result<(), Error> {
        let unknown = || Error::UnknownPartition(row.topic.clone(), row.partition);
        let partition = image.partition(&row.topic, row.partition).ok_or_else(unknown)?;
        if !seen.insert(partition.group) {
            return Err(Error::InvalidRequest("named more than once in the request".to_owned()));
        }
        let target = match (&row.target, &partition.moving) {
            (None, None) => return Err(Error::NoReassignment),
            (None, Some(moving)) => moving.origin.clone(),
            (Some(target), _) => target.clone(),
        };
        check_target(image, &target)?;
        let is_new = |node: &&NodeId| !partition.replicas.iter().any(|replica| replica.node == **node);
        if let Some(node) = target.iter().filter(is_new).find(|node| image.drain(**node) != Drain::None) {
            return Err(Error::InvalidAssignment(format!("broker {node} is drained")));
        }
        // Of where it is on its way to, as in Kafka (KIP-860); a cancel asks for no factor.
        let before = partition.target().len();
        if !allow_factor_change && row.target.is_some() && before != target.len() {
            return Err(Error::InvalidReplicationFactor(format!(
                "the replication factor is changed from {before} to {}",
                target.len()
            )));
        }
        if moves.len() == GROUPS_PER_RECORD {
            return Err(Error::InvalidRequest(format!("more than {GROUPS_PER_RECORD} partitions at once")));
        }
        if !partition.target().iter().map(|replica| replica.node).eq(target.iter().copied()) {
            moves.push(GroupMove { group: partition.group, target });
        }
        Ok(())
    };
    let refusals = rows.iter().map(|r| row(r).err()).collect();
    (moves, refusals)
}

/// Checks a target as Kafka does: its brokers are known, each named once.
fn check_target(image: &Image, target: &[NodeId]) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::InvalidAssignment(why));
    if target.is_empty() {
        return refuse("the replica list is empty".to_owned());
    }
    let mut seen = BTreeSet::new();
    for node in target {
        if !seen.insert(node) {
            return refuse(format!("broker {node} twice"));
        }
        if !image.brokers.contains_key(node) {
            return refuse(format!("broker {node} is not registered"));
        }
    }
    Ok(())
}

/// Of these reports those that count.
pub fn arrived(image: &Image, reports: &[Arrival]) -> Vec<Arrival> {
    let mut seen = BTreeSet::new();
    let counts = |report: &&Arrival| {
        image.group(report.group).is_some_and(|(_, _, partition)| partition.has_arrived(report).is_ok())
    };
    let reports = reports.iter().filter(counts).filter(|report| seen.insert(report.group));
    reports.take(GROUPS_PER_RECORD).cloned().collect()
}

/// Partitions that move, with their numbers, topic by topic.
pub fn moving(topic: &Topic) -> impl Iterator<Item = (i32, &Partition)> {
    (0..).zip(&topic.partitions).filter(|(_, partition)| partition.moving.is_some())
}

impl Image {
    pub(super) fn apply_reassign(
        &mut self,
        number: u64,
        moves: &[GroupMove],
        by_controllers: bool,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(moves.iter().map(|one| one.group))?;
        for one in moves {
            let refuse = |why: String| format!("group {}: {why}", one.group);
            check_target(self, &one.target).map_err(|why| refuse(why.to_string()))?;
            let partition = self.partition_mut(one.group)?;
            if partition.target().iter().map(|replica| replica.node).eq(one.target.iter().copied()) {
                return Err(refuse("it is there, or on its way there".to_owned()));
            }
        }
        for one in moves {
            let fresh: Vec<ReplicaId> = one
                .target
                .iter()
                .map(|node| {
                    let directory = self.brokers[node].directory.as_u128();
                    ReplicaId { node: *node, assignment: number, directory }
                })
                .collect();
            self.partition_mut(one.group)?.reassign(number, fresh, by_controllers);
            changes.push(Change::GroupChanged { group: one.group });
        }
        Ok(())
    }

    pub(super) fn apply_reassigned(
        &mut self,
        arrivals: &[Arrival],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(arrivals.iter().map(|arrival| arrival.group))?;
        for arrival in arrivals {
            let partition = self.partition_mut(arrival.group)?;
            partition.has_arrived(arrival).map_err(|why| format!("group {}: {why}", arrival.group))?;
        }
        for arrival in arrivals {
            let group = arrival.group;
            let partition = self.partition_mut(group)?;
            let count = partition.target().len();
            let left = partition.replicas.split_off(count);
            left.iter().for_each(|replica| partition.note_left(*replica));
            partition.moving = None;
            partition.configured = partition.configured.max(arrival.configuration);
            changes.extend(left.into_iter().map(|replica| Change::ReplicaRemoved { group, replica }));
            changes.push(Change::GroupChanged { group });
        }
        Ok(())
    }
}

impl Partition {
    fn note_left(&mut self, replica: ReplicaId) {
        self.left.retain(|other| other.node != replica.node);
        self.left.push(replica);
        self.left.sort_unstable();
    }

    /// `fresh`: the target, with the ids that those get which have none here.
    fn reassign(&mut self, number: u64, fresh: Vec<ReplicaId>, by_controllers: bool) {
        let origin = self.origin();
        if self.founders.is_empty() {
            self.founders = self.replicas.clone();
        }
        let known = |node: NodeId| self.replicas.iter().find(|replica| replica.node == node).copied();
        let mut replicas: Vec<ReplicaId> =
            fresh.iter().map(|replica| known(replica.node).unwrap_or(*replica)).collect();
        let stays = |replica: &ReplicaId| fresh.iter().any(|other| other.node == replica.node);
        replicas.extend(self.replicas.iter().copied().filter(|replica| !stays(replica)));
        // Another order of the same replicas moves nothing.
        let same = replicas.len() == self.replicas.len() && replicas.len() == fresh.len();
        if self.moving.is_some() || !same {
            let target = fresh.iter().map(|replica| replica.node).collect();
            self.moving = Some(Box::new(Moving { since: number, target, origin, by_controllers }));
        }
        self.replicas = replicas;
    }
}
