//! Planned restarts of controllers, combined with brokers or apart, one after another, their leader first and again: each hands over,
//! says to whoever leads next that it stops, and is waited for. None of them costs a vote (design section 6, `shrink.grace.ms`).

use crate::check::CONTROLLER;
use crate::plan::{Plan, style};
use crate::rng::Rng;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use kontiki::raftlog::heir;
use kontiki::segment::{NodeId, ReplicaId};

/// Seeds of the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 3 } else { 60 };
/// An orderly stop takes no longer: handing over, and telling the next leader.
const STOP: Time = 10 * SECOND;

pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0x4e14_0003);
    let mut plan = Plan { controllers_count: 3, combined: rng.chance(300), shrink: true, ..Plan::calm(seed) };
    if !plan.combined && rng.chance(300) {
        plan.controllers_count = 2;
        // An heir waits for nobody, announced or not; that is another story.
        plan.heir_timeout_ms = 30_000;
    }
    if rng.chance(500) {
        plan.weather.delay = (100, 100 + rng.range(200, 20 * MS));
    }
    plan.producers = vec![style(u64::MAX)];
    plan
}

impl World {
    /// Stops a node in order and waits for that; how long it took.
    fn stop_in_order(&mut self, n: usize) -> Time {
        let from = self.time;
        self.ask_to_stop(n);
        self.run_until("a node stops in order", STOP, |world| {
            let drain = world.nodes[n].process.as_mut().and_then(|p| p.drain.as_mut());
            drain.is_none_or(|drain| drain.try_recv().is_ok())
        });
        let took = self.time - from;
        if let Some(writer) = self.nodes[n].process.as_mut().and_then(|p| p.writer.take()) {
            assert!(writer.close().is_ok(), "its files end in order");
        }
        self.end(n, false);
        took
    }

    /// Lets time pass; by the log of no controller that runs does anybody cease to vote.
    fn watch_votes(&mut self, wait: Time) {
        let until = self.time + wait;
        let voters = self.plan.controllers_count;
        while self.time < until {
            self.run_for(50 * MS);
            for n in self.plan.controllers() {
                let Some(p) = self.nodes[n].process.as_mut() else { continue };
                let Some(core) = p.shard.core_of_controllers() else { continue };
                let (configuration, id) = core.configuration();
                let is_whole = configuration.voters.len() == voters && !configuration.is_joint();
                assert!(
                    is_whole,
                    "a planned restart costs no vote: node {} has {id} {configuration:?}",
                    n + 1
                );
            }
        }
    }
}

pub fn story(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    let wait = world.rng.range(300 * MS, 2 * SECOND);
    world.run_for(wait);
    let controllers = world.plan.controllers();
    for _ in 0..3 {
        let mut leader = None;
        world.run_until("somebody leads the controllers", 20 * SECOND, |world| {
            leader = world.leader_of(CONTROLLER);
            leader.is_some()
        });
        let n = match world.rng.chance(800) {
            true => leader.expect("found"),
            false => world.rng.pick(&controllers).expect("three"),
        };
        let took = world.stop_in_order(n);
        let is_alone = controllers.len() == 2;
        assert!(took <= 4 * SECOND || is_alone, "the stop of node {} took {} ms", n + 1, took / MS);
        world.marks.hit("controller restarted in order");
        // Longer than a dead one would be waited for, by silence too.
        let away = world.rng.range(2 * SECOND, 6 * SECOND);
        world.watch_votes(away);
        world.start_later(n, MS);
        world.watch_votes(3 * SECOND);
    }
    // One that dies now is not waited for as one that stopped.
    if world.plan.controllers_count == 3 {
        let n = world.rng.pick(&controllers).expect("three");
        world.end(n, true);
        world.run_until("a dead one has no vote", 20 * SECOND, |world| {
            let configuration = world.configuration_of(CONTROLLER);
            configuration.is_some_and(|c| c.voters.len() == 2 && !c.is_joint())
        });
        world.start_later(n, MS);
    }
    world.stop_producers();
    world.verdict()
}

#[test]
fn planned_restarts_of_controllers_cost_no_vote() {
    let name = "restarts::planned_restarts_of_controllers_cost_no_vote";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, story);
    println!("{}", report.text());
}

/// A controller is back at once, on an empty disk: or another process runs under its number by mistake, which nobody can tell.
fn comes_with_another_disk(world: &mut World) -> Time {
    world.set_up();
    let controllers = world.plan.controllers();
    let leader = world.leader_of(CONTROLLER).expect("they serve");
    let others: Vec<usize> = controllers.into_iter().filter(|n| *n != leader).collect();
    let n = world.rng.pick(&others).expect("two");
    let number = NodeId(n as i32 + 1);
    let find = |world: &mut World| {
        let configuration = world.configuration_of(CONTROLLER)?;
        configuration.members().find(|member| member.node == number)
    };
    let old = find(world).expect("a member");
    let ended = world.time;
    world.end(n, true);
    world.wipe(n);
    world.start_later(n, 100 * MS);
    // The others heard it until it ended.
    while world.time < ended + 2_500 * MS {
        world.run_for(50 * MS);
        let is_there = find(world).is_none_or(|member| member == old);
        assert!(is_there, "the id on the disk before is given up after {} ms", (world.time - ended) / MS);
    }
    world.run_until("it votes, on its new disk", 30 * SECOND, |world| {
        let configuration = world.configuration_of(CONTROLLER);
        let votes = |voter: &ReplicaId| voter.node == number && *voter != old;
        configuration.is_some_and(|c| !c.is_joint() && c.voters.len() == 3 && c.voters.iter().any(votes))
    });
    world.verdict()
}

#[test]
fn disk_of_a_controller_is_not_given_up_before_its_session_is_over() {
    let name = "restarts::disk_of_a_controller_is_not_given_up_before_its_session_is_over";
    let plan = |seed| Plan { controllers_count: 3, shrink: true, ..Plan::calm(seed) };
    let report = over_seeds(name, Budget::Seeds(20), plan, comes_with_another_disk);
    println!("{}", report.text());
}

/// The third controller comes back, and the heir of the two others, whoever leads them, stops in order before that one votes.
fn heir_stops_while_the_third_comes_back(world: &mut World) -> Time {
    world.set_up();
    let controllers = world.plan.controllers();
    let n = world.rng.pick(&controllers).expect("three");
    world.end(n, true);
    let mut pair = Vec::new();
    world.run_until("two vote", 30 * SECOND, |world| {
        let configuration = world.configuration_of(CONTROLLER);
        pair = configuration.filter(|c| !c.is_joint()).map(|c| c.voters).unwrap_or_default();
        pair.len() == 2
    });
    let heir = heir::of(&pair).expect("two have one").node;
    world.start_later(n, MS);
    let wait = world.rng.range(0, 1_500 * MS);
    world.run_for(wait);
    let heir = crate::net::index_of(heir);
    let took = world.stop_in_order(heir);
    assert!(took <= 4 * SECOND, "the stop of node {} took {} ms", heir + 1, took / MS);
    let away = world.rng.range(0, 3 * SECOND);
    world.run_for(away);
    world.start_later(heir, MS);
    world.run_until("three vote", 60 * SECOND, |world| {
        world.configuration_of(CONTROLLER).is_some_and(|c| !c.is_joint() && c.voters.len() == 3)
    });
    world.verdict()
}

#[test]
fn heir_that_stops_is_not_made_to_lead_the_growth() {
    let name = "restarts::heir_that_stops_is_not_made_to_lead_the_growth";
    let plan =
        |seed| Plan { controllers_count: 3, shrink: true, heir_timeout_ms: 30_000, ..Plan::calm(seed) };
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, heir_stops_while_the_third_comes_back);
    println!("{}", report.text());
}
