//! Two of three brokers are lost at once, and an operator recovers by plan, while controllers, the survivor and the lost ones themselves
//! die and come back at any moment between report, approval, seals, decision and take-over (safety.md P4, F2; decision 0011).
//!
//! The operator is a client: it makes plans by the product's own rule of what replicas hold, and approves them through any broker. What a
//! decision loses is noted when the controllers have it, before its survivor can; everything else is held to what every run is held to.

use crate::client::{Ask, Reply, Work};
use crate::plan::Plan;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use kontiki::ctl::command::Command as CtlCommand;
use kontiki::ctl::image::Image;
use kontiki::ctl::recovery::{self, GroupPlan, Holding, Outcome, Standing, plan_id};
use kontiki::raftlog::core::Role;
use kontiki::segment::{GroupId, NodeId, Offset};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Seeds of the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 3 } else { 150 };

pub fn plan(seed: u64) -> Plan {
    Plan { controllers_count: 3, shrink: true, recovers: true, ..Plan::calm(seed) }
}

impl World {
    /// Notes what decisions lose, as soon as anybody has them.
    pub fn book_generations(&mut self) {
        let images = self.nodes.iter().filter_map(|node| node.process.as_ref()).map(|p| p.image.clone());
        let Some(image) = images.max_by_key(|image| image.applied) else { return };
        for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
            if let Some(decision) = &partition.opening
                && decision.generation.0 > self.check.generations_decided(partition.group)
            {
                self.unbooked.insert((partition.group, decision.generation.0), (**decision).clone());
            }
        }
        for ((group, generation), decision) in std::mem::take(&mut self.unbooked) {
            let survivor = crate::net::index_of(decision.opening.survivor.node);
            let is_newest = image.group(group).is_some_and(|(_, _, p)| p.generation == generation);
            if is_newest && self.nodes[survivor].process.is_none() {
                // When it is back, before it hears of anything. If the group goes on without it before that, nothing began with it.
                self.unbooked.insert((group, generation), decision);
                continue;
            }
            self.marks.hit(match decision.opening.lossless {
                true => "generation decided without loss",
                false => "generation decided that may lose something",
            });
            let losses = self.check.losses(group);
            self.check.decided(group, &decision, &mut self.nodes, &mut self.marks);
            if self.check.losses(group) > losses {
                self.forget_lost(group);
            }
        }
    }

    pub fn newest_image(&self) -> Arc<Image> {
        let images = self.nodes.iter().filter_map(|node| node.process.as_ref()).map(|p| p.image.clone());
        images.max_by_key(|image| image.applied).unwrap_or_default()
    }

    /// What the replicas of a group hold on brokers that run.
    fn holdings(&mut self, group: GroupId) -> Vec<Holding> {
        let mut all = Vec::new();
        for node in &mut self.nodes {
            let Some(p) = node.process.as_mut() else { continue };
            let engine = p.shard.engine();
            let Some(core) = engine.core(group) else { continue };
            let report = core.report(core.hard_state().sealed.unwrap_or(0));
            let leads = core.role() == Role::Leader && core.is_established();
            let end = engine.store_ref().last(group).map_or(Offset(0), |(_, end)| end).0;
            let unsound = (!report.sound).then(|| "in doubt".to_owned());
            let follows = core.leader().filter(|l| *l != core.replica()).map(|l| l.node);
            all.push(Holding { report, unsound, leads, follows, offsets: (0, 0, end) });
        }
        all
    }

    /// Plans for what has no leader; how many partitions are led.
    pub fn plans(&mut self, image: &Image) -> (Vec<GroupPlan>, usize) {
        let (mut plans, mut served) = (Vec::new(), 0);
        for group in image.groups.keys() {
            let holdings = self.holdings(*group);
            match recovery::plan(image, *group, &holdings, &|_| None).map(|report| report.standing) {
                Some(Standing::Recoverable { plan }) => plans.push(*plan),
                Some(Standing::Served { .. }) => served += 1,
                _ => {}
            }
        }
        (plans, served)
    }

    /// Somebody dies in the middle of it.
    fn mishap(&mut self, survivor: usize, gone: &[usize]) {
        let controllers: Vec<usize> =
            (0..self.nodes.len()).filter(|n| !self.plan.brokers().contains(n)).collect();
        match self.rng.below(6) {
            0 | 1 => {
                let leads = |n: &usize| {
                    let p = self.nodes[*n].process.as_ref();
                    p.is_some_and(|p| p.shard.controller_leader() == Some(NodeId(*n as i32 + 1)))
                };
                let leader = controllers.iter().copied().find(leads);
                if let Some(n) = leader {
                    self.marks.hit("controller died in the middle of a recovery");
                    self.kill(n, true);
                }
            }
            2 => {
                self.marks.hit("survivor died in the middle of its recovery");
                self.kill(survivor, true);
            }
            3 if self.rng.chance(300) => {
                let n = self.rng.pick(gone).expect("two");
                self.start_later(n, MS);
            }
            _ => {}
        }
    }
}

pub fn story(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    let wait = world.rng.range(500 * MS, 3 * SECOND);
    world.run_for(wait);
    let brokers = world.plan.brokers();
    let survivor = world.rng.pick(&brokers).expect("three");
    let gone: Vec<usize> = brokers.iter().copied().filter(|n| *n != survivor).collect();
    if world.rng.chance(400) {
        // It lacks what the others do without it.
        world.end(survivor, true);
        let wait = world.rng.range(MS, 2 * SECOND);
        world.run_for(wait);
    }
    gone.iter().for_each(|n| world.end(*n, true));
    world.start_later(survivor, MS);
    let operator = world.add_client(Work::Manual(BTreeMap::new()));
    let partitions = world.plan.partitions as usize;
    let deadline = world.time + 60 * SECOND;
    loop {
        assert!(world.time < deadline, "liveness: not recovered within 60 s\n{}", world.describe());
        let wait = world.rng.range(5 * MS, 700 * MS);
        world.run_for(wait);
        let image = world.newest_image();
        let (plans, served) = world.plans(&image);
        if served == partitions && world.rng.chance(300) {
            break;
        }
        if !plans.is_empty() {
            let (id, node) = (plan_id(&plans), world.rng.pick(&brokers).expect("three"));
            let command = CtlCommand::Recover { id, reason: String::new(), at_ms: 0, plans, auto: false };
            let wait = world.rng.range(MS, 3 * SECOND);
            if let Some(Reply::Controller(Ok(_))) = world.call(operator, node, Ask::Controller(command), wait)
            {
                world.marks.hit("plan approved");
            }
        }
        if world.rng.chance(400) {
            let wait = world.rng.below(60 * MS);
            world.run_for(wait);
            world.mishap(survivor, &gone);
        }
    }
    world.heal();
    (0..world.nodes.len()).for_each(|n| world.start_later(n, MS));
    world.stop_producers();
    let healed = world.verdict();
    // Every approval has come to something, and is on record with every node.
    let image = world.newest_image();
    for known in &image.recoveries {
        let is_over = !matches!(known.outcome, Outcome::Approved {});
        assert!(is_over || image.sealing.is_empty(), "open for ever: {known:?}");
        world.marks.hit(match known.outcome {
            Outcome::Verified { lossless: false, .. } => "recovery verified",
            Outcome::Verified { .. } => "recovery without loss after all",
            Outcome::Refused { .. } => "plan refused for its seals",
            Outcome::Replaced { .. } => "plan replaced",
            _ => "recovery decided",
        });
    }
    healed
}

#[test]
fn two_of_three_lost_at_once_are_recovered_by_plan_whoever_dies_meanwhile() {
    let name = "lost::two_of_three_lost_at_once_are_recovered_by_plan_whoever_dies_meanwhile";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, story);
    println!("{}", report.text());
}
