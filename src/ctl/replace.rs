//! Replicas that are to be elsewhere by themselves: those of brokers that stay dead, and of those that are decommissioned.
//!
//! The controller leader names the dead brokers that nobody waits for any longer; what is planned for them (`relocate`) is written like
//! any other reassignment, and goes on by itself, whoever leads the controllers. Pure. Not here: who is dead (`liveness`), where
//! replicas go (`relocate`), the moving (`members`). Invariants:
//! - a partition on its way elsewhere is given another target only if a broker of that is lost; one whose generation is about to end
//!   is left for later;
//! - an apparent mass death moves nothing: then rather a network failed than disks, and copies would have to come from few. What an
//!   operator decommissioned is no part of that;
//! - so many partitions at a time; the rest follows when these have arrived. Those whose majority is away have a limit of their own: some of
//!   them can do nothing before brokers return or an operator recovers them, and no other is to wait for that. What moves for other reasons
//!   is not counted;
//! - a partition of which no live broker holds anything stays where it is: there is nothing to copy, and nobody who would lead the move.

use super::image::{Drain, Image, Partition};
use super::reassign::GroupMove;
use super::relocate::{self, Row, Site};
use crate::segment::{GroupId, NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// Of the brokers that are to hold replicas, more than one in so many that are fenced or dead are an apparent mass death.
const MASS: usize = 3;

/// Most partitions that are moved by themselves at a time.
const AT_ONCE: usize = 100;

/// Whether so many brokers are away at once that nothing should be moved for it.
pub fn is_mass_death(image: &Image) -> bool {
    let partitions = image.topics.values().flat_map(|topic| &topic.partitions);
    let mut counted: BTreeSet<NodeId> =
        partitions.flat_map(|partition| partition.target()).map(|replica| replica.node).collect();
    counted.extend(image.live_brokers().map(|broker| broker.node));
    counted.retain(|node| image.drain(*node) != Drain::Replicas);
    let is_away = |node: &&NodeId| image.brokers.get(node).is_none_or(|broker| broker.fenced);
    counted.iter().filter(is_away).count() * MASS > counted.len()
}

/// What is to be moved now: off the decommissioned brokers, and off these, as far as they are dead.
pub fn due(image: &Image, nodes: &BTreeSet<NodeId>) -> Vec<GroupMove> {
    let is_dead = |node: &&NodeId| image.brokers.get(node).is_some_and(|broker| broker.dead);
    let mut lost: BTreeSet<NodeId> = decommissioned(image).collect();
    if !is_mass_death(image) {
        lost.extend(nodes.iter().filter(is_dead));
    }
    let is_held = |p: &&Partition| p.target().iter().any(|replica| lost.contains(&replica.node));
    let partitions = image.topics.values().flat_map(|topic| &topic.partitions);
    if lost.is_empty() || !partitions.clone().any(|p| is_held(&p)) {
        return Vec::new();
    }
    let leaves = |p: &&Partition| p.removing().iter().any(|replica| lost.contains(&replica.node));
    let under_way = partitions.filter(|p| leaves(p) && !is_held(p) && has_source(image, p));
    let (strong, weak): (Vec<&Partition>, Vec<&Partition>) = under_way.partition(|p| is_strong(image, p));
    let left = |under_way: &[&Partition]| AT_ONCE.saturating_sub(under_way.len());
    match [left(&strong), left(&weak)] {
        [0, 0] => Vec::new(),
        limits => plan(image, &lost, limits),
    }
}

fn holds(image: &Image, partition: &Partition, node: NodeId) -> bool {
    let is_live = image.brokers.get(&node).is_some_and(|broker| !broker.fenced);
    is_live && partition.replicas.iter().any(|replica| replica.node == node && image.holds(replica))
}

/// Somebody holds it who is there and did not begin to copy it for this move, or has led it since.
fn has_source(image: &Image, partition: &Partition) -> bool {
    let adding = partition.adding();
    let survived = |replica: &ReplicaId| {
        partition.opening.as_ref().is_some_and(|decision| decision.opening.survivor == *replica)
    };
    let mut old = partition.replicas.iter().filter(|r| !adding.contains(&r.node) || survived(r));
    old.any(|replica| holds(image, partition, replica.node))
}

/// It has a leader, or is about to: most of those that hold it are there, by any reckoning.
fn is_strong(image: &Image, partition: &Partition) -> bool {
    partition.most(|node| holds(image, partition, node)) == [true, true]
}

/// Brokers that are to have no replicas.
pub fn decommissioned(image: &Image) -> impl Iterator<Item = NodeId> + '_ {
    image.broker_configs.keys().copied().filter(|node| image.drain(*node) == Drain::Replicas)
}

/// Moves that replace the replicas on these brokers, those with the fewest others first: at most so many partitions most of whose replicas
/// are there, and so many others.
pub fn plan(image: &Image, lost: &BTreeSet<NodeId>, limits: [usize; 2]) -> Vec<GroupMove> {
    let takers: BTreeSet<NodeId> = image
        .live_brokers()
        .filter(|b| image.is_open(b) && !lost.contains(&b.node))
        .map(|b| b.node)
        .collect();
    let mut due: [Vec<(usize, GroupId)>; 2] = Default::default();
    for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
        let target = partition.target();
        let others = target.iter().filter(|replica| !lost.contains(&replica.node)).count();
        let is_helped = takers.iter().any(|node| target.iter().all(|replica| replica.node != *node));
        if others < target.len() && is_helped && partition.sealing.is_none() && has_source(image, partition) {
            due[usize::from(!is_strong(image, partition))].push((others, partition.group));
        }
    }
    let mut chosen: BTreeSet<GroupId> = BTreeSet::new();
    for (mut due, limit) in due.into_iter().zip(limits) {
        due.sort_unstable();
        chosen.extend(due.into_iter().take(limit).map(|(_, group)| group));
    }
    if chosen.is_empty() {
        return Vec::new();
    }
    let site =
        |broker: &super::image::Broker| Site { rack: broker.rack.clone(), takes: image.is_open(broker) };
    let sites: BTreeMap<NodeId, Site> = image.brokers.values().map(|b| (b.node, site(b))).collect();
    let mut groups: Vec<GroupId> = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    for (topic, partition) in image
        .topics
        .values()
        .enumerate()
        .flat_map(|(at, topic)| topic.partitions.iter().map(move |p| (at, p)))
    {
        let nodes = partition.target().iter().map(|replica| replica.node).collect();
        groups.push(partition.group);
        rows.push(Row { topic, nodes, stays: !chosen.contains(&partition.group) });
    }
    let plan = relocate::vacate(&sites, &rows, lost, usize::MAX);
    plan.into_iter().map(|(at, target)| GroupMove { group: groups[at], target }).collect()
}
