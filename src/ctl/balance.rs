//! Which leaderships should be elsewhere: back at the first replica, the preferred leader, or away from a drained broker.
//!
//! Not here: handing leadership over (`raftlog`), choosing preferred leaders (`placement`). Called by the controller
//! leader now and then with what the brokers last reported. A plan is advice on soft state: a transfer that fails or
//! comes too late does no harm and is planned again.
use super::image::{Drain, Image};
use crate::segment::{GroupId, NodeId, ReplicaId};
use std::collections::BTreeMap;

/// Most moves in one plan: a broker that returns takes its partitions back over a few rounds, not in one stampede.
pub const MOVES_MAX: usize = 64;

/// Most moves to one broker in one plan, so that one whose transfers keep failing does not use up every plan.
pub const MOVES_PER_BROKER_MAX: usize = 16;

/// With many groups more are moved at once, or a broker's return would take hours: this part of all.
pub const MOVES_PART: usize = 32;

/// Leaderships to move as (group, from, to): the preferred replica is the first; it must be unfenced, on the disk it
/// was placed on, and in sync. Groups whose leader is unknown are left to elect one.
pub fn plan_preferred(
    image: &Image,
    leaders: &BTreeMap<GroupId, NodeId>,
    in_sync: &dyn Fn(GroupId) -> Vec<NodeId>,
) -> Vec<(GroupId, NodeId, NodeId)> {
    let moves_max = MOVES_MAX.max(leaders.len() / MOVES_PART * 4);
    let broker_max = MOVES_PER_BROKER_MAX.max(leaders.len() / MOVES_PART);
    let mut moves = Vec::new();
    let mut to_broker: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (&group, &leader) in leaders {
        if moves.len() == moves_max {
            break;
        }
        let Some((_, _, partition)) = image.group(group) else { continue };
        let Some(preferred) = partition.replicas.first() else { continue };
        let live = image.brokers.get(&preferred.node).is_some_and(|b| !b.fenced);
        if preferred.node == leader || !live || !image.holds(preferred) || is_drained(image, preferred.node) {
            continue;
        }
        let taken = to_broker.entry(preferred.node).or_default();
        if *taken == broker_max || !in_sync(group).contains(&preferred.node) {
            continue;
        }
        *taken += 1;
        moves.push((group, leader, preferred.node));
    }
    moves
}

fn is_drained(image: &Image, node: NodeId) -> bool {
    image.drain(node) != Drain::None
}

/// Leaderships to move off drained brokers, as (group, from, to): each to the preferred replica if that may lead, else to the one in sync
/// whose broker leads least. So many to one broker in a plan: those that it does not take keep no others waiting.
pub fn plan_drained(
    image: &Image,
    leaders: &BTreeMap<GroupId, NodeId>,
    in_sync: &dyn Fn(GroupId) -> Vec<NodeId>,
) -> Vec<(GroupId, NodeId, NodeId)> {
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    leaders.values().for_each(|node| *led.entry(*node).or_default() += 1);
    let moves_max = MOVES_MAX.max(leaders.len() / MOVES_PART * 4);
    let broker_max = MOVES_PER_BROKER_MAX.max(leaders.len() / MOVES_PART);
    let mut to_broker: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut moves = Vec::new();
    for (&group, &leader) in leaders.iter().filter(|(_, leader)| is_drained(image, **leader)) {
        let Some((_, _, partition)) = image.group(group) else { continue };
        let synced = in_sync(group);
        let may_lead = |replica: &&ReplicaId| {
            let live = image.brokers.get(&replica.node).is_some_and(|broker| image.is_open(broker));
            live && image.holds(replica) && synced.contains(&replica.node)
        };
        // The preferred one first: it would be handed to that next (`plan_preferred`).
        let preferred = partition.target().first().map(|replica| replica.node);
        let is_full = |node: NodeId| to_broker.get(&node).is_some_and(|taken| *taken >= broker_max);
        let key = |r: &&ReplicaId| {
            let is_preferred = Some(r.node) == preferred;
            // One that has its share waits for the next plan, unless another is as good.
            (!is_preferred, is_full(r.node), led.get(&r.node).copied())
        };
        let least = partition.target().iter().filter(may_lead).min_by_key(key);
        let Some(to) = least.map(|replica| replica.node).filter(|node| !is_full(*node)) else { continue };
        *to_broker.entry(to).or_default() += 1;
        *led.entry(to).or_default() += 1;
        moves.push((group, leader, to));
        if moves.len() == moves_max {
            break;
        }
    }
    moves
}
