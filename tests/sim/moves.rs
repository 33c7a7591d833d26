//! An administrator has partitions moved to other brokers, some of them at once, changes his mind, and cancels, while everything else
//! happens: by the product's own controllers, leaders and brokers (docs/decisions/0010).

use crate::client::Ask;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::run::whole;
use crate::seeds::{Budget, over_seeds};
use crate::world::World;
use kontiki::ctl::command::Command as CtlCommand;
use kontiki::ctl::reassign::Reassignment;
use kontiki::segment::{GroupId, NodeId};

impl World {
    /// What is asked for now, through any broker.
    pub fn ask_for_moves(&mut self, admin: usize, rng: &mut Rng) {
        let brokers = self.plan.brokers();
        let Some(node) = rng.pick(&brokers) else { return };
        let image = self.check.metadata_now();
        let Some(topic) = image.topics.get("t") else { return };
        let all = rng.chance(200);
        let one = rng.below(topic.partitions.len() as u64) as i32;
        let mut rows = Vec::new();
        let (mut is_cancelled, mut is_dead) = (false, false);
        for (partition, placed) in (0..).zip(&topic.partitions).filter(|(number, _)| all || *number == one) {
            let target = match placed.moving.is_some() && rng.chance(250) {
                true => None,
                false => Some(self.some_target(rng)),
            };
            is_cancelled |= target.is_none();
            is_dead |= placed.replicas.iter().any(|r| image.brokers.get(&r.node).is_some_and(|b| b.dead));
            rows.push(Reassignment { topic: "t".to_owned(), partition, target });
        }
        if is_cancelled {
            self.marks.hit("move cancelled");
        }
        if is_dead {
            self.marks.hit("move while a voter was dead");
        }
        let command = CtlCommand::Reassign { rows, allow_factor_change: true };
        self.ask(admin, node, Ask::Controller(command));
    }

    /// Mostly as many as there were, never fewer than have to acknowledge.
    fn some_target(&self, rng: &mut Rng) -> Vec<NodeId> {
        let mut brokers = self.plan.brokers();
        let least = u64::try_from(self.plan.min_insync).unwrap_or(1).max(1);
        let count = match rng.chance(700) {
            true => self.plan.replication as u64,
            false => rng.range(least, brokers.len() as u64 + 1),
        };
        let count = (count as usize).min(brokers.len());
        let mut target = Vec::new();
        while target.len() < count {
            let at = rng.below(brokers.len() as u64) as usize;
            target.push(NodeId(brokers.swap_remove(at) as i32 + 1));
        }
        target
    }

    /// Whether no partition moves any more, and nobody holds a replica that has moved away.
    pub fn moves_are_over(&mut self) -> bool {
        let arrived = std::mem::take(&mut self.check.moves.arrived);
        (0..arrived).for_each(|_| self.marks.hit("partition moved"));
        let image = self.check.metadata_now().clone();
        let is_moving = image.topics.values().flat_map(|topic| &topic.partitions).any(|p| p.moving.is_some());
        !is_moving
            && self.nodes.iter_mut().all(|node| {
                let Some(p) = node.process.as_mut() else { return false };
                let engine = p.shard.engine();
                let groups: Vec<GroupId> = engine.group_ids();
                groups.into_iter().filter(|group| group.0 > 0).all(|group| {
                    let replica = engine.core(group).map(|core| core.replica());
                    let placed = image.group(group).map(|(_, _, placed)| &placed.replicas);
                    placed.is_none_or(|placed| replica.is_some_and(|replica| placed.contains(&replica)))
                })
            })
    }
}

/// Seeds of the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 3 } else { 200 };

/// A random run in which partitions move, whatever else its seed holds.
pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0x0ca7_0000);
    let mut plan = Plan::random(seed);
    let menu = &mut plan.menu;
    (menu.damage, menu.io_errors, menu.full_disks) = (false, false, false);
    (menu.members, menu.generations, menu.moves) = (false, false, true);
    (plan.unclean, plan.shrink) = (false, true);
    if plan.brokers_count == 3 && rng.chance(800) {
        plan.combined = false;
        plan.brokers_count = rng.range(4, 8) as usize;
    }
    plan
}

#[test]
fn partitions_move_while_everything_else_happens() {
    let name = "moves::partitions_move_while_everything_else_happens";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, whole);
    println!("{}", report.text());
    let is_short = report.runs < SEEDS;
    for mark in ["partition moved", "moved replica deleted", "move cancelled", "move while a voter was dead"]
    {
        assert!(is_short || report.marks.0.contains_key(mark), "never met: {mark}");
    }
}
