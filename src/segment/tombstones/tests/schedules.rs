//! The schedules of decision 0022, and one for each rule that random worlds would take long to miss: with the rule nothing is wrong, without it
//! something is.

use super::of;
use super::world::{Rule, World, offset};

/// A letter is a record of that key, `-a` its tombstone. Each on its own goes to the leader's log.
fn put(world: &mut World, records: &str) {
    for record in records.split_whitespace() {
        let key = record.bytes().last().expect("a record has a key");
        world.produce(key, record.starts_with('-'), false);
    }
}

/// Brings so many entries to a member.
fn bring(world: &mut World, member: usize, count: usize) {
    let leader = world.leader().expect("somebody leads");
    let before = world.messages.len();
    world.send(leader, member, 0, count);
    if world.messages.len() > before {
        world.deliver_newest();
    }
}

/// Brings everything to these, and says twice that it is committed.
fn settle(world: &mut World, members: &[usize]) {
    for _ in 0..2 {
        members.iter().for_each(|member| bring(world, *member, usize::MAX));
        world.commit();
    }
    members.iter().for_each(|member| bring(world, *member, usize::MAX));
}

/// Closes the file that is appended to, and makes a pass.
fn clean(world: &mut World, id: usize) {
    world.roll(id);
    world.clean(id);
}

/// Two passes: what is deleted is learned and dropped, whatever others have cleaned. Each needs something new, in files of its own.
fn drop_tombstones(world: &mut World, id: usize, others: &[usize]) {
    world.floor_lies = true;
    world.ask_floor(id);
    clean(world, id);
    put(world, "z");
    settle(world, others);
    clean(world, id);
    world.floor_lies = false;
}

/// Takes what another copy gives of a damaged file.
fn mend(world: &mut World, id: usize, source: usize, count: usize) {
    world.ask(id, source, count);
    world.deliver_newest();
}

/// With the rule it holds; without, it is noticed.
fn needs(rule: Rule, schedule: fn(&mut World), says: &str) {
    let run = |left_out| {
        let mut world = World::of(3);
        world.left_out = left_out;
        schedule(&mut world);
        world
    };
    run(None).check();
    let wrong = run(Some(rule)).violation();
    assert!(wrong.as_ref().is_some_and(|wrong| wrong.contains(says)), "without {rule:?}: {wrong:?}");
}

/// Schedule 1.
#[test]
fn power_cut_at_any_step_of_a_pass_leaves_numbers_that_are_true() {
    for steps in 0..30 {
        let mut world = World::of(2);
        put(&mut world, "a b -a c");
        settle(&mut world, &[1]);
        world.floor_lies = true;
        clean(&mut world, 0);
        put(&mut world, "d");
        settle(&mut world, &[1]);
        world.roll(0);
        world.begin_pass(0);
        for _ in 0..steps {
            world.step_pass(0, 1);
            world.check();
        }
        let len = world.replicas[0].len();
        world.restart(0, len);
        world.check();
        world.elect(0);
        world.clean(0);
        world.check();
        assert_eq!(world.replicas[0].numbers, of(5, 3), "after {steps} steps");
    }
}

/// Schedule 2.
#[test]
pub fn repair_from_a_less_clean_copy_lowers_clean_and_is_refused_where_tombstones_are_missing() {
    let mut world = World::of(3);
    put(&mut world, "a b -a c");
    settle(&mut world, &[1, 2]);
    clean(&mut world, 0);
    assert_eq!(world.replicas[0].numbers, of(4, 0));
    world.damage(0, 0..1);
    mend(&mut world, 0, 1, 9);
    world.finish(0, false);
    world.check();
    assert_eq!(world.replicas[0].numbers, of(0, 0), "the value is back, and so is its tombstone");
    world.elect(0);
    drop_tombstones(&mut world, 0, &[1, 2]);
    world.check();
    assert_eq!(world.replicas[0].numbers, of(5, 3));
    world.damage(0, 0..1);
    mend(&mut world, 0, 1, 9);
    world.finish(0, false);
    world.check();
    assert!(!world.replicas[0].is_sound(), "that copy has what was deleted");
    world.elect(1);
    clean(&mut world, 1);
    mend(&mut world, 0, 1, 9);
    world.finish(0, false);
    assert!(world.replicas[0].is_sound(), "now it has not");
    world.check();
}

/// The other way round: `1` misses the tombstone of `a`, which `2` still has, and `0` has not.
#[test]
pub fn repair_from_a_copy_that_misses_tombstones_is_refused_where_their_records_are() {
    let mut world = World::of(3);
    put(&mut world, "a x");
    settle(&mut world, &[1, 2]);
    (0..3).for_each(|id| world.roll(id));
    put(&mut world, "-a x");
    settle(&mut world, &[1, 2]);
    clean(&mut world, 0);
    world.elect(1);
    drop_tombstones(&mut world, 1, &[0, 2]);
    assert_eq!(world.replicas[1].numbers, of(5, 3));
    for id in [0, 2] {
        world.roll(id);
        world.damage(id, 2..3);
        mend(&mut world, id, 1, 9);
        world.finish(id, false);
        world.check();
    }
    assert!(world.replicas[0].is_sound() && !world.replicas[2].is_sound());
    assert_eq!(world.replicas[0].numbers, of(4, 3), "what it took misses the tombstone too");
}

/// Schedule 3. `0` was brought up by one that had dropped to 5 and had not been cleaned since; `1` has dropped to there as well.
fn two_leaders(world: &mut World, is_clean: bool) -> usize {
    put(world, "x a x x -a x");
    settle(world, &[1, 2]);
    drop_tombstones(world, 1, &[1, 2]);
    if is_clean {
        clean(world, 0);
    } else {
        world.replicas[0].numbers = of(0, 5);
    }
    let new = world.add();
    bring(world, new, 3);
    world.check();
    world.elect(1);
    settle(world, &[new]);
    new
}

/// Schedule 3.
#[test]
pub fn replica_brought_up_by_a_second_leader_that_misses_tombstones_begins_anew() {
    let mut world = World::of(3);
    let new = two_leaders(&mut world, false);
    world.check();
    assert!(world.replicas[new].wants_anew);
    let again = world.begin_anew(new);
    settle(&mut world, &[again]);
    world.check();
    assert_eq!((world.replicas[again].len(), world.replicas[again].wants_anew), (7, false));
}

/// Schedule 3.
#[test]
fn replica_brought_up_by_a_clean_leader_goes_on_with_another() {
    let mut world = World::of(3);
    let new = two_leaders(&mut world, true);
    world.check();
    assert_eq!((world.replicas[new].len(), world.replicas[new].wants_anew), (7, false));
}

/// Rule A.3, on the word of a floor that is none.
#[test]
pub fn leader_that_drops_while_it_brings_a_replica_up_is_not_followed_further() {
    let mut world = World::of(2);
    put(&mut world, "x a x x -a x");
    settle(&mut world, &[1]);
    let new = world.add();
    bring(&mut world, new, 3);
    drop_tombstones(&mut world, 0, &[1]);
    settle(&mut world, &[new]);
    world.check();
    assert!(world.replicas[new].wants_anew);
}

/// Schedule 4. A pass that goes on by what it learned would leave `a`, and say that all is clean.
#[test]
pub fn pass_ends_when_a_file_was_repaired_meanwhile() {
    let schedule = |world: &mut World| {
        put(world, "x a x -a");
        settle(world, &[1, 2]);
        clean(world, 0);
        put(world, "x x");
        settle(world, &[1, 2]);
        world.roll(0);
        world.begin_pass(0);
        world.step_pass(0, 1);
        world.damage(0, 1..2);
        mend(world, 0, 1, 9);
        world.finish(0, false);
        while world.replicas[0].pass.is_some() {
            world.step_pass(0, 1);
        }
    };
    needs(Rule::PassEnds, schedule, "clean is too high in 0");
}

/// Schedule 5.
#[test]
fn dead_and_silent_members_hold_the_floor() {
    let mut world = World::of(3);
    put(&mut world, "a -a x");
    settle(&mut world, &[1, 2]);
    let floor = |world: &mut World| {
        world.ask_floor(0);
        world.replicas[0].floor.expect("it leads").1
    };
    for id in 0..3 {
        clean(&mut world, id);
        assert_eq!(floor(&mut world), offset(0), "somebody has not said");
        world.tell(id);
        if id > 0 {
            world.deliver_newest();
        }
    }
    assert_eq!(floor(&mut world), offset(3));
    world.replicas[2].is_up = false;
    put(&mut world, "b");
    settle(&mut world, &[1]);
    (0..2).for_each(|id| clean(&mut world, id));
    world.tell(1);
    world.deliver_newest();
    assert_eq!(floor(&mut world), offset(3), "the dead one's word holds");
    world.elect(0);
    world.hear(1);
    world.tell(1);
    world.deliver_newest();
    assert_eq!(floor(&mut world), offset(0), "in this epoch it has said nothing");
    world.leave(2);
    assert_eq!(floor(&mut world), offset(4));
    world.add();
    assert_eq!(floor(&mut world), offset(0), "its replacement has not been cleaned");
}

/// Schedule 6.
#[test]
pub fn member_that_comes_back_from_outside_behind_what_was_dropped_begins_anew() {
    let mut world = World::of(3);
    put(&mut world, "x a x");
    settle(&mut world, &[1, 2]);
    world.leave(2);
    put(&mut world, "-a x");
    settle(&mut world, &[1]);
    drop_tombstones(&mut world, 0, &[1]);
    world.elect(0);
    world.join(2);
    settle(&mut world, &[2]);
    world.check();
    assert!(world.replicas[2].wants_anew && world.replicas[2].len() == 3);
}

/// Schedule 7. `0` removed `a` and its tombstone because of a record that is lost; `1` still has both. What is made of both has neither.
#[test]
pub fn copy_that_was_cut_below_what_it_had_cleaned_says_what_it_misses() {
    let mut world = World::of(3);
    put(&mut world, "x a x -a x");
    settle(&mut world, &[1, 2]);
    put(&mut world, "x a x");
    settle(&mut world, &[2]);
    clean(&mut world, 0);
    assert_eq!(world.replicas[0].numbers, of(8, 0));
    world.lose(1, true);
    put(&mut world, "x");
    settle(&mut world, &[0, 2]);
    let numbers = world.replicas[0].numbers;
    let new = world.add();
    bring(&mut world, new, 2);
    world.elect(0);
    settle(&mut world, &[new]);
    assert!(!world.shows(new, 'a'), "a deleted key came back in {new}");
    assert!(world.replicas[new].wants_anew && numbers == of(5, 5));
}

/// Schedule 8. `2` is what an unclean generation has lost, and not cut yet: its `a` is not deleted, and is clean by its own log.
#[test]
fn copy_of_another_log_is_clean_to_nothing() {
    let schedule = |world: &mut World| {
        put(world, "x a x x");
        settle(world, &[1, 2]);
        put(world, "y y y y");
        settle(world, &[2]);
        clean(world, 2);
        world.lose(1, true);
        put(world, "-a x x");
        settle(world, &[0]);
        clean(world, 0);
        world.damage(0, 1..2);
        mend(world, 0, 2, 1);
        world.finish(0, false);
    };
    needs(Rule::SameLog, schedule, "clean is too high in 0");
}

/// Schedule 9.
#[test]
fn deposed_leader_is_not_followed() {
    let mut world = World::of(3);
    put(&mut world, "a -a");
    settle(&mut world, &[1, 2]);
    world.send(0, 1, 2, 9);
    world.elect(2);
    world.hear(1);
    put(&mut world, "b");
    let before = world.replicas[1].numbers;
    world.deliver_newest();
    assert_eq!((world.replicas[1].len(), world.replicas[1].numbers), (2, before));
    world.tell(1);
    world.elect(0);
    world.deliver_newest();
    world.check();
}

/// Schedule 10.
#[test]
fn files_repaired_one_after_the_other_are_as_clean_as_their_source() {
    let mut world = World::of(2);
    put(&mut world, "a x");
    settle(&mut world, &[1]);
    world.roll(0);
    clean(&mut world, 1);
    put(&mut world, "x x");
    settle(&mut world, &[1]);
    world.roll(0);
    put(&mut world, "-a x");
    settle(&mut world, &[1]);
    clean(&mut world, 0);
    assert_eq!((world.replicas[0].numbers, world.replicas[1].numbers), (of(6, 0), of(2, 0)));
    for (damaged, clean) in [(4..5, 4), (2..3, 2), (0..1, 2)] {
        world.damage(0, damaged);
        mend(&mut world, 0, 1, 9);
        world.finish(0, false);
        world.check();
        assert_eq!(world.replicas[0].numbers, of(clean, 0));
    }
}

/// Schedule 11.
#[test]
fn survivor_in_the_middle_of_being_brought_up_is_followed_by_the_others() {
    let mut world = World::of(2);
    put(&mut world, "x a x -a x x");
    settle(&mut world, &[1]);
    drop_tombstones(&mut world, 0, &[1]);
    let new = world.add();
    bring(&mut world, new, 5);
    let len = world.replicas[new].len();
    world.restart(new, len);
    world.lose(new, true);
    put(&mut world, "x");
    let other = world.add();
    bring(&mut world, other, 2);
    bring(&mut world, other, usize::MAX);
    settle(&mut world, &[0, 1]);
    world.check();
    for id in [0, 1, other] {
        assert_eq!((world.replicas[id].len(), world.replicas[id].wants_anew), (6, false), "{id}");
    }
}

/// A replica that is damaged, and behind what the others have cleaned since: they give, as far as they know it.
#[test]
fn replica_behind_what_its_peers_have_cleaned_is_mended() {
    let schedule = |world: &mut World| {
        put(world, "x a x -a");
        settle(world, &[1, 2]);
        (0..3).for_each(|id| clean(world, id));
        put(world, "x a x");
        settle(world, &[1]);
        (0..2).for_each(|id| clean(world, id));
        world.damage(2, 0..1);
        mend(world, 2, 1, 9);
        world.finish(2, false);
    };
    let mut world = World::of(3);
    schedule(&mut world);
    world.check();
    assert!(world.replicas[2].is_sound() && world.replicas[2].numbers == of(4, 0));
    let mut without = World::of(3);
    without.left_out = Some(Rule::KnownEnd);
    schedule(&mut without);
    assert!(!without.replicas[2].is_sound(), "it waits");
}

/// `a` of one copy and what is left of its tombstone of another, in one file of a replica that is clean and has dropped nothing.
#[test]
pub fn two_sources_of_one_file_are_judged_together() {
    let schedule = |world: &mut World| {
        put(world, "x a x -a x");
        settle(world, &[1, 2]);
        clean(world, 0);
        world.elect(1);
        drop_tombstones(world, 1, &[0, 2]);
        world.damage(0, 0..5);
        mend(world, 0, 2, 3);
        mend(world, 0, 1, 9);
        world.finish(0, false);
    };
    needs(Rule::Joined, schedule, "a deleted key came back in 0");
}

/// `3` came from a clean leader, but for a file that came from another copy, in which `a` still is.
#[test]
fn replica_that_was_repaired_does_not_know_how_clean_it_was_brought() {
    let schedule = |world: &mut World| {
        put(world, "x a x x -a x");
        settle(world, &[1, 2]);
        clean(world, 0);
        let new = world.add();
        bring(world, new, 3);
        world.damage(new, 1..2);
        mend(world, new, 2, 9);
        world.finish(new, false);
        world.elect(0);
        drop_tombstones(world, 0, &[1, 2]);
        settle(world, &[new]);
    };
    needs(Rule::UnknownWhenDamaged, schedule, "clean is too high in 3");
}

/// `3` was brought up by a leader that had cleaned far; but all of that is lost, and `a` was deleted only after.
#[test]
fn replica_of_a_history_that_is_lost_does_not_know_how_clean_it_was_brought() {
    let schedule = |world: &mut World| {
        put(world, "x a x x");
        settle(world, &[1, 2]);
        put(world, "y y y y");
        settle(world, &[2]);
        clean(world, 0);
        let new = world.add();
        bring(world, new, 3);
        world.lose(1, true);
        put(world, "-a x");
        settle(world, &[2]);
        drop_tombstones(world, 1, &[2]);
        settle(world, &[new]);
    };
    needs(Rule::UnknownWhenLost, schedule, "clean is too high in 3");
}
