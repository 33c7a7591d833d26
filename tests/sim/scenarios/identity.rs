//! Who may count: old majorities in a new generation, or behind a closed gate, wiped disks, replicas in doubt (safety.md F3, F6, F11, F16).

use super::{LONG, met, plan, scenario};
use crate::plan::Plan;
use crate::world::{MS, SECOND, Time, World};
use kontiki::segment::{Doubt, GroupId, NodeId};

impl World {
    /// Two of three are lost at once, and an operator has the third go on: it, and the two.
    fn recovered_alone(&mut self, group: GroupId) -> (usize, [usize; 2]) {
        let brokers = self.plan.brokers();
        let a = self.rng.pick(&brokers).expect("three");
        let gone = self.other_brokers(&[a]);
        gone.iter().for_each(|n| self.end_somehow(*n));
        self.recover_until(a, |world| world.leads_alone(a, group, 1));
        self.new_writer();
        self.writes_go_on();
        (a, [gone[0], gone[1]])
    }

    fn is_registered(&self, n: usize) -> bool {
        self.nodes[n].process.as_ref().is_some_and(|p| p.shard.status().registered)
    }
}

/// {A} goes on in a new generation by an operator's word; B and C come back, hear of that generation and each other, and not of A: the
/// configuration {A,B,C} that both have in their logs is nobody's any more (F3).
fn majority_learns_the_generation(world: &mut World) -> Time {
    let group = world.begin();
    let (a, back) = world.recovered_alone(group);
    world.cut_off(a, &back);
    back.iter().for_each(|n| world.start_later(*n, MS));
    world.run_until("both know the generation", LONG, |world| {
        back.iter().all(|n| world.view(*n, group).is_some_and(|view| view.generation() == 1))
    });
    world.nobody_goes_on(group, &back, 1);
    for n in back {
        let view = world.sees(n, group);
        assert!(world.is_registered(n) && view.last.epoch.generation.0 == 0, "no danger: {view:?}");
    }
    assert!(world.leads_alone(a, group, 1), "{:?}", world.view(a, group));
    world.writes_go_on();
    world.finish()
}

#[test]
fn f3_old_majority_that_learns_the_generation_elects_nobody() {
    let name = "identity::f3_old_majority_that_learns_the_generation_elects_nobody";
    scenario(name, plan, majority_learns_the_generation);
}

/// The same, and B and C hear of nobody but each other: they were restarted, so they neither vote nor stand before they are registered
/// (F16).
fn majority_behind_the_gate(world: &mut World) -> Time {
    let group = world.begin();
    let (a, back) = world.recovered_alone(group);
    for n in back {
        let others: Vec<usize> = world.other_nodes(n).into_iter().filter(|n| !back.contains(n)).collect();
        world.cut_off(n, &others);
        world.start_later(n, MS);
    }
    world.run_until("both are up", LONG, |world| back.iter().all(|n| world.nodes[*n].is_up()));
    world.nobody_goes_on(group, &back, 1);
    for n in back {
        let view = world.view(n, group);
        // The log it comes with says that the two are a majority.
        let is_majority = view.as_ref().is_none_or(|view| view.generation() == 0 && view.voters.len() == 3);
        assert!(is_majority && !world.is_registered(n), "no danger: {view:?}");
    }
    world.writes_go_on();
    assert!(world.leads_alone(a, group, 1), "{:?}", world.view(a, group));
    world.finish()
}

#[test]
fn f16_old_majority_cut_off_from_the_controllers_stays_behind_the_gate() {
    let name = "identity::f16_old_majority_cut_off_from_the_controllers_stays_behind_the_gate";
    scenario(name, plan, majority_behind_the_gate);
}

/// A and B acknowledge without C; B's disk is lost, and A dies: C and what came in the place of B are two of three, and hold less (F6).
fn wiped_disk(world: &mut World) -> Time {
    let group = world.begin();
    let a = world.leader_of(group).expect("it is led");
    let others = world.other_brokers(&[a]);
    let b = world.rng.pick(&others).expect("two");
    let c = *others.iter().find(|n| **n != b).expect("two");
    world.cut_off(c, &[a, b]);
    let known = world.sees(c, group).last.index.0;
    world.run_until("two of three go on", LONG, |world| world.committed(group) > known + 10);
    let number = NodeId(b as i32 + 1);
    let directory = |world: &World| world.newest_image().brokers.get(&number).map(|broker| broker.directory);
    let before = directory(world);
    world.end(b, true);
    world.wipe(b);
    world.end_somehow(a);
    world.net.blocked.clear();
    let wait = world.rng.range(MS, 2 * SECOND);
    world.start_later(b, wait);
    world.run_until("the new disk is registered", LONG, |world| {
        world.is_registered(b) && directory(world) != before && directory(world).is_some()
    });
    assert!(world.sees(c, group).last.index.0 < world.committed(group), "no danger");
    world.nobody_goes_on(group, &[b, c], 0);
    world.start_later(a, MS);
    world.run_until("with the one that holds it the group goes on", LONG, |world| {
        world.leader_of(group) == Some(a)
    });
    world.writes_go_on();
    world.finish()
}

#[test]
fn f6_wiped_disk_makes_no_majority() {
    scenario("identity::f6_wiped_disk_makes_no_majority", plan, wiped_disk);
}

/// Of {A,B} A is sealed, or decided on already, when its disk is lost: what comes in its place is not the survivor, and nobody goes on
/// before B is back, which by then may need an operator's word (section 2).
fn survivor_loses_its_disk(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, _) = world.left_as_two(group);
    let step = 1 + (world.plan.seed % 2) as usize;
    world.end_somehow(b);
    world.catch("the survivor is about to go on", |world| world.is_between(step, a, group));
    world.end(a, true);
    world.wipe(a);
    world.start_later(a, MS);
    world.run_until("its new disk is registered", LONG, |world| world.is_registered(a));
    world.nobody_goes_on(group, &[a], 1);
    world.marks.hit(match world.decided(group) {
        0 => "disk lost before the decision",
        _ => "disk lost after the decision",
    });
    world.start_later(b, MS);
    world.recover_until(b, |world| world.view(b, group).is_some_and(|view| view.leads));
    world.new_writer();
    world.writes_go_on();
    world.finish()
}

#[test]
fn section2_survivor_that_loses_its_disk_goes_on_nowhere() {
    let name = "identity::section2_survivor_that_loses_its_disk_goes_on_nowhere";
    let report = scenario(name, plan, survivor_loses_its_disk);
    met(&report, &["disk lost after the decision"]);
}

fn unsynced(seed: u64) -> Plan {
    let mut plan = plan(seed);
    plan.topic_configs.insert("flush.mode".to_owned(), Some("async".to_owned()));
    plan
}

/// A and B of three lose their machines while entries are not synced, C its process: two that may both have lost something prove nothing
/// and elect nobody, until C is there and all three vote (F11).
fn survivors_in_doubt(world: &mut World) -> Time {
    let group = world.begin();
    let brokers = world.plan.brokers();
    let c = world.rng.pick(&brokers).expect("three");
    let doubtful = world.other_brokers(&[c]);
    brokers.iter().for_each(|n| world.end(*n, false));
    for n in &doubtful {
        world.nodes[*n].fs.reboot();
        world.start_later(*n, MS);
    }
    world.run_until("both are in doubt", LONG, |world| {
        doubtful.iter().all(|n| {
            world.is_registered(*n) && world.view(*n, group).is_some_and(|view| view.doubt != Doubt::None)
        })
    });
    world.nobody_goes_on(group, &doubtful, 0);
    world.start_later(c, MS);
    world.run_until("all three elect somebody", LONG, |world| world.leader_of(group).is_some());
    assert_eq!(world.decided(group), 0);
    world.writes_go_on();
    world.finish()
}

#[test]
fn f11_survivors_all_in_doubt_wait_for_everyone() {
    scenario("identity::f11_survivors_all_in_doubt_wait_for_everyone", unsynced, survivors_in_doubt);
}

/// {A,B} without syncs: A's machine starts anew, and B dies and comes back. Neither can do without the other, and both together can
/// (F11, wedge 1).
fn pair_in_doubt(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, _) = world.left_as_two(group);
    world.end(a, false);
    world.end(b, false);
    world.nodes[a].fs.reboot();
    world.start_later(a, MS);
    world.run_until("it is in doubt", LONG, |world| {
        world.is_registered(a) && world.view(a, group).is_some_and(|view| view.doubt != Doubt::None)
    });
    world.nobody_goes_on(group, &[a], 0);
    world.start_later(b, MS);
    world.run_until("both together go on", LONG, |world| world.leader_of(group).is_some());
    world.writes_go_on();
    world.finish()
}

#[test]
fn f11_pair_with_one_in_doubt_goes_on_together_and_not_alone() {
    scenario("identity::f11_pair_with_one_in_doubt_goes_on_together_and_not_alone", unsynced, pair_in_doubt);
}
