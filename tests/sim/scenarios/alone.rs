//! Groups that go on with what proves that it holds everything: shrink, generations without loss, and what must not pass for one
//! (safety.md F2, F4, F5, F15, F19, section 2).

use super::{GLANCE, LONG, STEPS, WATCH, met, plan, scenario};
use crate::client::Work;
use crate::plan::Plan;
use crate::world::{MS, SECOND, Time, World};
use kontiki::ctl::command::Command as CtlCommand;
use kontiki::ctl::reassign::Reassignment;
use kontiki::segment::NodeId;

fn target(nodes: &[usize]) -> CtlCommand {
    let target = nodes.iter().map(|n| NodeId(*n as i32 + 1)).collect();
    let row = Reassignment { topic: "t".to_owned(), partition: 0, target: Some(target) };
    CtlCommand::Reassign { rows: vec![row], allow_factor_change: true }
}

/// {A,B}, B dies, and A between each two of the four steps: it goes on where it was, with a new term where it has to (F2, "A restarts").
fn survivor_dies_between_steps(world: &mut World) -> Time {
    let group = world.begin();
    let (leader, survivor, _) = world.left_as_two(group);
    let step = (world.plan.seed % 4) as usize;
    world.end_somehow(leader);
    world.catch(STEPS[step], |world| world.is_between(step, survivor, group));
    world.marks.hit(STEPS[step]);
    world.end_somehow(survivor);
    let wait = world.rng.range(MS, 3 * SECOND);
    world.start_later(survivor, wait);
    world.run_until("the survivor goes on alone", LONG, |world| world.leads_alone(survivor, group, 1));
    world.writes_go_on();
    world.finish()
}

#[test]
fn f2_survivor_dies_between_any_two_steps() {
    let report = scenario("alone::f2_survivor_dies_between_any_two_steps", plan, survivor_dies_between_steps);
    met(&report, &STEPS);
}

/// The same, and it is the leader of the controllers that dies: intent and decision are records, seals are reported again.
fn controllers_change_between_steps(world: &mut World) -> Time {
    let group = world.begin();
    let (leader, survivor, _) = world.left_as_two(group);
    let step = (world.plan.seed % 4) as usize;
    world.end_somehow(leader);
    world.catch(STEPS[step], |world| world.is_between(step, survivor, group));
    let controllers = world.plan.controllers();
    let leads = |n: &usize| {
        let p = world.nodes[*n].process.as_ref();
        p.is_some_and(|p| p.shard.controller_leader() == Some(NodeId(*n as i32 + 1)))
    };
    let first = controllers.iter().copied().find(leads).expect("they decided something");
    world.marks.hit(STEPS[step]);
    world.end_somehow(first);
    world.run_until("the survivor goes on alone", LONG, |world| world.leads_alone(survivor, group, 1));
    assert!(world.nodes[first].process.is_none(), "without the controller that began it");
    world.writes_go_on();
    world.finish()
}

#[test]
fn f2_controllers_change_between_any_two_steps() {
    let name = "alone::f2_controllers_change_between_any_two_steps";
    met(&scenario(name, plan, controllers_change_between_steps), &STEPS);
}

/// {A} has grown to {A,B,C} again when A comes back alone, and reads once more that it was to be a group of one (F2 schedule 5).
fn old_order_is_read_again(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, c) = world.left_as_two(group);
    world.end_somehow(b);
    world.run_until("the survivor goes on alone", LONG, |world| world.leads_alone(a, group, 1));
    world.start_later(b, MS);
    world.start_later(c, MS);
    world.run_until("the group is three again", LONG, |world| {
        [a, b, c].iter().all(|n| {
            world.view(*n, group).is_some_and(|view| {
                view.voters.len() == 3 && view.old.is_empty() && view.commit >= view.configured.index.0
            })
        })
    });
    world.end(a, true);
    world.cut_off(a, &[b, c]);
    world.run_until("the others go on", LONG, |world| world.leader_of(group).is_some_and(|n| n != a));
    world.start_later(a, MS);
    world.run_until("it has read of its order again", LONG, |world| {
        let Some(p) = world.nodes[a].process.as_ref() else { return false };
        let opening = p.image.group(group).and_then(|(_, _, placed)| placed.opening.clone());
        let is_for_it = opening.is_some_and(|opening| opening.opening.survivor.node == NodeId(a as i32 + 1));
        p.shard.status().registered && is_for_it
    });
    let until = world.time + WATCH;
    while world.time < until {
        world.run_for(20 * MS);
        let view = world.sees(a, group);
        let is_as_it_was = !view.leads && view.generation() == 1 && view.voters.len() == 3;
        assert!(is_as_it_was, "F2: an order of before is carried out again: {view:?}");
    }
    world.writes_go_on();
    world.finish()
}

#[test]
fn f2_old_order_is_read_again_after_regrowth() {
    scenario("alone::f2_old_order_is_read_again_after_regrowth", plan, old_order_is_read_again);
}

/// {A,B} grows to {A,B,C}: A saw it begin, B and C have ended it and go on without A. A alone proves nothing, whatever anybody orders
/// (F2 schedule 1).
fn growth_that_the_survivor_saw_begin(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, c) = world.left_as_two(group);
    world.start_later(c, MS);
    world.catch("the leader is past the joint configuration, the other one is not", |world| {
        let (Some(on_b), Some(on_a)) = (world.view(b, group), world.view(a, group)) else { return false };
        on_b.leads && on_b.voters.len() == 3 && on_b.old.is_empty() && on_a.old.len() == 2
    });
    world.cut_off(a, &world.other_nodes(a));
    let known = world.sees(a, group).last.index.0;
    world.run_until("the two others commit more", LONG, |world| world.committed(group) > known + 10);
    let wait = world.rng.below(4 * SECOND);
    world.run_for(wait);
    world.end_somehow(b);
    world.end_somehow(c);
    world.net.blocked.clear();
    world.run_until("the controllers see it again", LONG, |world| {
        let image = world.newest_image();
        image.brokers.get(&NodeId(a as i32 + 1)).is_some_and(|broker| !broker.fenced)
    });
    world.order_seal(a, group);
    world.run_until("it is sealed", LONG, |world| world.sees(a, group).sealed);
    let view = world.sees(a, group);
    assert!(view.old.len() == 2 && view.last.index.0 < world.committed(group), "no danger: {view:?}");
    world.nobody_goes_on(group, &[a], 0);
    world.start_later(b, MS);
    world.run_until("with the other one sealed it is proven", LONG, |world| {
        world.view(b, group).is_some_and(|view| view.leads && view.generation() == 1)
    });
    world.writes_go_on();
    world.finish()
}

#[test]
fn f2_growth_that_the_survivor_saw_begin_proves_nothing() {
    let name = "alone::f2_growth_that_the_survivor_saw_begin_proves_nothing";
    scenario(name, plan, growth_that_the_survivor_saw_begin);
}

fn four_brokers(seed: u64) -> Plan {
    Plan { brokers_count: 4, ..plan(seed) }
}

/// A partition on {A,B} moves to {A,D}, and B and D die in the joint configuration: A is in every majority of both halves, and is enough.
fn move_to_another_peer(world: &mut World) -> Time {
    let group = world.begin();
    let leader = world.leader_of(group).expect("it is led");
    let voters = world.sees(leader, group).voters;
    let a = world.rng.pick(&voters).expect("two");
    let b = *voters.iter().find(|n| **n != a).expect("two");
    let d = world.other_brokers(&voters)[0];
    world.order(a, &target(&[a, d]));
    world.catch("the joint configuration is in the log of whoever stays", |world| {
        world.view(a, group).is_some_and(|view| view.old.len() == 2 && view.voters == [a, d])
    });
    world.end_somehow(b);
    world.end_somehow(d);
    world.run_until("it goes on alone", LONG, |world| world.leads_alone(a, group, 1));
    let image = world.newest_image();
    let (_, _, placed) = image.group(group).expect("it is there");
    assert!(placed.opening.as_ref().is_some_and(|decision| decision.opening.lossless), "{placed:?}");
    assert!(placed.moving.is_some(), "the move is still wanted: {placed:?}");
    world.writes_go_on();
    world.finish()
}

#[test]
fn section2_peers_of_a_move_die_and_whoever_stays_is_enough() {
    let name = "alone::section2_peers_of_a_move_die_and_whoever_stays_is_enough";
    scenario(name, |seed| Plan { replication: 2, ..four_brokers(seed) }, move_to_another_peer);
}

/// {A,B,C}, C dies, a spare begins to copy, B dies meanwhile: the group shrank first, so A goes on alone (F5).
fn dies_while_the_spare_copies(world: &mut World) -> Time {
    let group = world.begin();
    let leader = world.leader_of(group).expect("it is led");
    let voters = world.sees(leader, group).voters;
    let spare = world.other_brokers(&voters)[0];
    let c = world.rng.pick(&voters).expect("three");
    let left: Vec<usize> = voters.iter().copied().filter(|n| *n != c).collect();
    world.cut_off(spare, &left);
    world.end_somehow(c);
    world.order(left[0], &target(&[left[0], left[1], spare]));
    world.run_until("the group goes on as two, and the spare is to copy", LONG, |world| {
        left.iter().all(|n| {
            let placed = world.nodes[spare].process.as_ref().and_then(|p| p.image.group(group));
            placed.is_some_and(|(_, _, placed)| placed.moving.is_some())
                && world.view(*n, group).is_some_and(|view| {
                    view.voters.len() == 2 && view.old.is_empty() && view.commit >= view.configured.index.0
                })
        })
    });
    let wait = world.rng.below(2 * SECOND);
    world.run_for(wait);
    let b = world.rng.pick(&left).expect("two");
    let a = *left.iter().find(|n| **n != b).expect("two");
    let copied = world.view(spare, group).map_or(0, |view| view.last.index.0);
    assert!(copied < world.committed(group), "the spare has it all: no danger");
    world.end_somehow(b);
    world.run_until("the last one goes on alone", LONG, |world| world.leads_alone(a, group, 1));
    world.writes_go_on();
    world.finish()
}

#[test]
fn f5_broker_dies_while_the_spare_copies() {
    scenario("alone::f5_broker_dies_while_the_spare_copies", four_brokers, dies_while_the_spare_copies);
}

/// B of {A,B} is only cut off, and has all the clients: it can commit nothing, and what it took goes when it hears of the new generation.
fn other_side_has_the_clients(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, _) = world.left_as_two(group);
    world.cut_off(b, &world.other_nodes(b));
    let clients = world.places_of_clients();
    for n in world.other_nodes(b) {
        world.cut_off(n, &clients);
    }
    // What had arrived is taken first.
    world.run_for(5 * MS);
    world.catch("it takes records that nobody else will have", |world| {
        let known = world.sees(a, group).last.index;
        world.view(b, group).is_some_and(|view| view.leads && view.last.index > known)
    });
    let tail = world.sees(b, group).last;
    // What was answered before may still be on its way.
    world.run_for(50 * MS);
    let acks = world.check.acks;
    let mut both = false;
    world.run_until("the other one goes on alone", LONG, |world| {
        let leads = world.leads_alone(a, group, 1);
        both |= leads && world.sees(b, group).leads;
        leads
    });
    assert_eq!(world.check.acks, acks, "F2: the side that lost its quorum acknowledges");
    if both {
        world.marks.hit("two leaders, of two generations");
    }
    let base = world.newest_image().group(group).and_then(|(_, _, placed)| placed.opening.clone());
    let base = base.expect("decided").opening.base;
    assert!(tail.index > base.index, "no danger: {tail} is not beyond {base}");
    for n in world.other_nodes(b) {
        world
            .net
            .blocked
            .retain(|(from, to)| !(clients.contains(from) && *to == n || clients.contains(to) && *from == n));
    }
    world.writes_go_on();
    let took = world.finish();
    assert!(
        world.marks.0.contains_key("entries of an earlier generation set aside"),
        "its tail is kept aside"
    );
    took
}

#[test]
fn section2_other_side_lives_and_has_the_clients() {
    scenario("alone::section2_other_side_lives_and_has_the_clients", plan, other_side_has_the_clients);
}

/// B dies with the word that something is committed still on its way to A: A holds it, and the high watermark does not go back.
fn commit_is_learnt_late(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, _) = world.left_as_two(group);
    world.catch("the leader knows more to be committed", |world| {
        world.sees(b, group).commit > world.sees(a, group).commit
    });
    let (commit, acks) = (world.sees(b, group).commit, world.check.acks);
    world.end_somehow(b);
    world.run_until("the survivor goes on alone", LONG, |world| world.leads_alone(a, group, 1));
    world.run_until("it knows what was committed", LONG, |world| world.sees(a, group).commit > commit);
    assert!(world.check.acks >= acks);
    world.writes_go_on();
    world.finish()
}

#[test]
fn section2_commit_that_the_survivor_has_not_heard_of_stays() {
    scenario("alone::section2_commit_that_the_survivor_has_not_heard_of_stays", plan, commit_is_learnt_late);
}

/// The leader takes records alone; the two others are sealed with a lower term of their own and go on at the very same indexes (F4 a).
fn tail_of_the_old_leader(world: &mut World) -> Time {
    let group = world.begin();
    let a = world.leader_of(group).expect("it is led");
    world.cut_off(a, &world.other_nodes(a));
    world.catch("it takes records that nobody else has", |world| {
        let others = world.other_brokers(&[a]);
        let known = others.iter().filter_map(|n| world.view(*n, group)).map(|view| view.last.index.0).max();
        world.sees(a, group).last.index.0 > known.unwrap_or(0) + 1
    });
    let b = world.other_brokers(&[a])[world.rng.below(2) as usize];
    world.order_seal(b, group);
    world
        .run_until("the two others prove that they hold everything", LONG, |world| world.decided(group) == 1);
    let opening = world.newest_image().group(group).and_then(|(_, _, placed)| placed.opening.clone());
    let opening = opening.expect("decided").opening;
    let old = world.sees(a, group);
    assert!(opening.lossless && opening.survivor.node != NodeId(a as i32 + 1));
    assert!(old.generation() == 0 && old.last.index > opening.base.index, "no danger: {old:?} {opening:?}");
    assert!(
        opening.first_term > old.last.epoch.term,
        "F4: terms of two generations meet: {old:?} {opening:?}"
    );
    world.writes_go_on();
    assert!(world.committed(group) > opening.base.index.0 + 1, "two values could stand at one index");
    let took = world.finish();
    assert!(
        world.marks.0.contains_key("entries of an earlier generation set aside"),
        "its tail is kept aside"
    );
    took
}

#[test]
fn f4_tail_of_the_old_leader_is_not_the_new_ones() {
    scenario("alone::f4_tail_of_the_old_leader_is_not_the_new_ones", plan, tail_of_the_old_leader);
}

/// With `min.insync.replicas=2` a group of one is read and not written (F15).
fn too_few_in_sync(world: &mut World) -> Time {
    let group = world.begin();
    let (b, a, _) = world.left_as_two(group);
    world.end_somehow(b);
    world.run_until("the survivor goes on alone", LONG, |world| world.leads_alone(a, group, 1));
    world.run_for(50 * MS);
    let refused = |world: &World| world.marks.0.get("too few replicas in sync").copied().unwrap_or(0);
    let (acks, before) = (world.check.acks, refused(world));
    let until = world.time + WATCH;
    while world.time < until {
        world.run_for(20 * MS);
        assert_eq!(world.check.acks, acks, "F15: a group of one acknowledges for two");
    }
    assert!(refused(world) > before, "nobody wanted to write: no danger");
    world.run_until("everything committed is read", LONG, |world| {
        let end = world.check.logs.get(&group).and_then(|log| log.last()).map_or(0, |entry| entry.next);
        world.clients.iter().all(|client| match &client.work {
            Work::Reader(reader) => reader.place().is_some_and(|(_, position)| position >= end),
            _ => true,
        })
    });
    world.start_later(b, MS);
    world.writes_go_on();
    world.finish()
}

#[test]
fn f15_min_insync_of_two_leaves_one_survivor_that_is_only_read() {
    let plan = |seed| Plan { min_insync: 2, ..plan(seed) };
    scenario("alone::f15_min_insync_of_two_leaves_one_survivor_that_is_only_read", plan, too_few_in_sync);
}

/// All controllers are away, and a leader dies meanwhile: groups go on by themselves, and when the controllers are back nobody is taken
/// for dead for not having been heard (F19).
fn controllers_away(world: &mut World) -> Time {
    let group = world.begin();
    let controllers = world.plan.controllers();
    controllers.iter().for_each(|n| world.end_somehow(*n));
    for round in 0..5 {
        if round == 2 {
            let leader = world.leader_of(group).expect("it is led");
            world.end_somehow(leader);
            world.start_later(leader, SECOND);
        }
        // Longer than a session, all in all.
        world.run_for(SECOND);
        world.writes_go_on();
    }
    controllers.iter().for_each(|n| world.start_later(*n, MS));
    world.run_until("somebody leads the controllers", LONG, |world| {
        world.leader_of(crate::check::CONTROLLER).is_some()
    });
    let until = world.time + WATCH;
    while world.time < until {
        world.run_for(20 * MS);
        let image = world.newest_image();
        assert!(image.brokers.values().all(|broker| !broker.dead), "F19: {:?}", image.brokers);
        // Leadership goes back to the preferred one meanwhile.
        if let Some(leader) = world.leader_of(group) {
            assert_eq!(world.sees(leader, group).voters.len(), 3, "F19: somebody lost its vote");
        }
    }
    world.finish()
}

#[test]
fn f19_controllers_away_nothing_stops_and_nobody_is_called_dead() {
    scenario("alone::f19_controllers_away_nothing_stops_and_nobody_is_called_dead", plan, controllers_away);
}

#[test]
fn moments_are_looked_for_often_enough() {
    // A frame takes 100 us at the least, a sync as long.
    assert!(GLANCE * 5 <= plan(1).weather.delay.0);
}
