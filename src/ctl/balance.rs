//! Preferred leaders: which leaderships should go back to the first replica.
//!
//! Not here: handing leadership over (`raftlog`), choosing preferred leaders (`placement`). Called by the controller
//! leader now and then with what the brokers last reported. A plan is advice on soft state: a transfer that fails or
//! comes too late does no harm and is planned again.
use super::image::Image;
use crate::segment::{GroupId, NodeId};
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
        if preferred.node == leader || !live || !image.holds(preferred) {
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
