//! Random worlds: no deleted key comes back in any of them, whatever goes wrong; and where nothing goes wrong every tombstone goes.

use super::world::{Message, World};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 600;
const STEPS: usize = 400;
const MOST_ENTRIES: usize = 60;

/// How a world is, and what goes wrong in it; a few things each, so that each is met undisturbed as well.
struct Faults {
    keys: u8,
    /// Most entries that are brought at a time in a round.
    chunk: usize,
    rounds: f64,
    floor_lies: bool,
    damage: f64,
    elections: f64,
    members: f64,
    losses: f64,
    async_losses: f64,
    restarts: f64,
    opaque: f64,
}

impl Faults {
    fn any(rng: &mut StdRng) -> Self {
        let keys = rng.random_range(2..10);
        let chunk = if rng.random_bool(0.5) { usize::MAX } else { rng.random_range(2..8) };
        let rounds = *[0.3, 0.6, 1.0].choose(rng).expect("one of three");
        let floor_lies = rng.random_bool(0.5);
        let mut some = |odds: f64| if rng.random_bool(0.5) { odds } else { 0.0 };
        Self {
            keys,
            chunk,
            rounds,
            floor_lies,
            damage: some(0.01),
            elections: some(0.01),
            members: some(0.02),
            losses: some(0.002),
            async_losses: some(0.002),
            restarts: some(0.005),
            opaque: some(0.02),
        }
    }
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::of(rng.random_range(2..=4));
    world.trace.push(format!("seed {seed}"));
    let faults = Faults::any(&mut rng);
    world.floor_lies = faults.floor_lies;
    let drops = if rng.random_bool(0.5) { 0.1 } else { 0.0 };
    for _ in 0..STEPS {
        go_wrong(&mut world, &mut rng, &faults);
        work(&mut world, &mut rng, &faults, drops);
        world.check();
    }
}

fn some_replica(world: &World, rng: &mut StdRng, is_fit: impl Fn(&World, usize) -> bool) -> Option<usize> {
    let all: Vec<usize> =
        (0..world.replicas.len()).filter(|id| !world.replicas[*id].is_gone && is_fit(world, *id)).collect();
    all.choose(rng).copied()
}

fn is_up(world: &World, id: usize) -> bool {
    world.replicas[id].is_up
}

fn is_member(world: &World, id: usize) -> bool {
    world.members.contains(&id)
}

fn go_wrong(world: &mut World, rng: &mut StdRng, faults: &Faults) {
    if rng.random_bool(faults.damage)
        && let Some(id) = some_replica(world, rng, |world, id| world.replicas[id].len() > 0)
    {
        let at = rng.random_range(0..world.replicas[id].len());
        let file = world.replicas[id].file(at);
        let end = rng.random_range(at + 1..=file.end);
        world.damage(id, at..end);
    }
    if rng.random_bool(faults.restarts)
        && let Some(id) = some_replica(world, rng, |_, _| true)
    {
        world.replicas[id].is_up = rng.random_bool(0.7);
        let keeps = world.replicas[id].len();
        world.restart(id, keeps);
    }
    if rng.random_bool(faults.async_losses)
        && let Some(id) = some_replica(world, rng, |_, _| true)
    {
        let len = world.replicas[id].len();
        let keeps = if rng.random_bool(0.2) { 0 } else { len - rng.random_range(0..=len.min(20)) };
        world.restart(id, keeps);
    }
    if rng.random_bool(faults.members) {
        change_members(world, rng);
    }
    if rng.random_bool(faults.losses)
        && let Some(id) =
            some_replica(world, rng, |world, id| is_up(world, id) && world.replicas[id].is_sound())
        && is_member(world, id)
    {
        world.lose(id, true);
    }
    let is_time = rng.random_bool(faults.elections) || world.leader().is_none() && rng.random_bool(0.3);
    if is_time {
        elect(world, rng);
    }
}

fn change_members(world: &mut World, rng: &mut StdRng) {
    let Some(leader) = world.leader() else { return };
    match rng.random_range(0..3) {
        0 if world.members.len() < 4 => drop(world.add()),
        1 if world.members.len() > 2 => {
            let others: Vec<usize> = world.members.iter().copied().filter(|id| *id != leader).collect();
            world.leave(*others.choose(rng).expect("more than the leader"));
        }
        _ => {
            let outside = some_replica(world, rng, |world, id| !is_member(world, id));
            if let Some(id) = outside.filter(|_| world.members.len() < 4) {
                world.join(id);
            }
        }
    }
}

fn elect(world: &mut World, rng: &mut StdRng) {
    let is_fit = |world: &World, id| is_member(world, id) && is_up(world, id);
    let heir = some_replica(world, rng, |world, id| is_fit(world, id) && world.holds_all(id));
    if let Some(id) = heir {
        world.elect(id);
    } else if !(0..world.replicas.len())
        .any(|id| !world.replicas[id].is_gone && is_member(world, id) && world.holds_all(id))
    {
        // Nobody has all that was committed (asynchronous topics): the best log of them all, if all are there.
        let all_there = world.members.iter().all(|id| is_up(world, *id) && world.replicas[*id].is_sound());
        let rank = |id: &usize| {
            (world.replicas[*id].log.last().map(|(entry, _)| entry.epoch), world.replicas[*id].len())
        };
        let best = world.members.iter().copied().max_by_key(rank);
        if let Some(best) = best.filter(|_| all_there) {
            world.lose(best, false);
        }
    } else if rng.random_bool(0.5) {
        // Those who have it come back.
        let down = some_replica(world, rng, |world, id| !is_up(world, id));
        down.into_iter().for_each(|id| world.replicas[id].is_up = true);
    }
    for id in world.members.clone() {
        if is_up(world, id) && rng.random_bool(0.5) {
            world.hear(id);
        }
    }
}

fn work(world: &mut World, rng: &mut StdRng, faults: &Faults, drops: f64) {
    let Some(id) = some_replica(world, rng, is_up) else {
        world.replicas.iter_mut().for_each(|replica| replica.is_up = true);
        return;
    };
    match rng.random_range(0..100) {
        0..7 if world.history.len() < MOST_ENTRIES => {
            let (key, is_tombstone) = (rng.random_range(0..faults.keys), rng.random_bool(0.4));
            let is_opaque = !is_tombstone && rng.random_bool(faults.opaque);
            world.produce(key, is_tombstone, is_opaque);
        }
        0..17 => world.roll(id),
        17..36 => {
            let leader =
                some_replica(world, rng, |world, id| world.replicas[id].is_leader && is_up(world, id));
            if let Some(leader) = leader.filter(|leader| *leader != id) {
                let back = if rng.random_bool(0.2) { rng.random_range(0..4) } else { 0 };
                let count = if rng.random_bool(0.5) { 60 } else { rng.random_range(0..6) };
                world.send(leader, id, back, count);
            }
        }
        36..58 => (0..rng.random_range(1..6)).for_each(|_| deliver(world, rng, drops)),
        58..64 => world.commit(),
        64..69 => world.tell(id),
        69..72 => world.ask_floor(id),
        72..77 => world.begin_pass(id),
        77..90 => {
            let steps = if rng.random_bool(0.5) { 40 } else { rng.random_range(1..8) };
            (0..steps).for_each(|_| world.step_pass(id, rng.random_range(1..=2)));
        }
        90..93 => {
            if rng.random_bool(faults.rounds) {
                world.go_round(faults.chunk);
            }
        }
        93..97 => (0..rng.random_range(1..6)).for_each(|_| repair(world, rng)),
        _ => {
            let anew =
                some_replica(world, rng, |world, id| world.replicas[id].wants_anew && is_member(world, id));
            if let Some(id) = anew.filter(|id| world.leader().is_some_and(|leader| leader != *id)) {
                world.begin_anew(id);
            } else if rng.random_bool(0.3) {
                let down = some_replica(world, rng, |world, id| !is_up(world, id));
                down.into_iter().for_each(|id| world.replicas[id].is_up = true);
            }
        }
    }
}

/// Mostly the oldest message of all, sometimes any; some are lost, and a few wait for long.
fn deliver(world: &mut World, rng: &mut StdRng, drops: f64) {
    if world.messages.is_empty() {
        return;
    }
    let at = if rng.random_bool(0.7) { 0 } else { rng.random_range(0..world.messages.len()) };
    if rng.random_bool(drops) || world.messages.len() > 40 {
        world.messages.remove(at);
        return;
    }
    // An answer may be there twice; so may an append.
    if rng.random_bool(0.1) {
        let again: Message = world.messages[at].clone();
        world.messages.push(again);
    }
    world.deliver(at);
}

fn repair(world: &mut World, rng: &mut StdRng) {
    let is_damaged = |world: &World, id: usize| is_up(world, id) && !world.replicas[id].is_sound();
    let Some(id) = some_replica(world, rng, is_damaged) else { return };
    let Some(source) = some_replica(world, rng, |world, source| source != id && is_up(world, source)) else {
        return;
    };
    match rng.random_range(0..3) {
        0 => world.finish(id, rng.random_bool(0.1)),
        _ => {
            world.ask(id, source, rng.random_range(1..12));
            if rng.random_bool(0.8) {
                let last = world.messages.len().saturating_sub(1);
                if matches!(world.messages.last(), Some(Message::Fetched { .. })) {
                    world.deliver(last);
                }
            }
        }
    }
}

#[test]
pub fn deleted_key_comes_back_in_no_replica_whatever_goes_wrong() {
    (0..SEEDS).for_each(run);
}

#[test]
fn every_tombstone_goes_where_nothing_goes_wrong_and_nobody_begins_anew() {
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::of(rng.random_range(1..=4));
        for round in 0..30 {
            for _ in 0..rng.random_range(0..4) {
                world.produce(rng.random_range(0..6), rng.random_bool(0.4), false);
            }
            world.go_round(usize::MAX);
            if round == 10 && world.members.len() < 4 {
                world.add();
            }
            world.check();
        }
        // A pass learns what was deleted last, a second one drops it: each begins for something new.
        for _ in 0..3 {
            world.produce(100, false, false);
            world.go_round(usize::MAX);
        }
        for id in &world.members {
            let replica = &world.replicas[*id];
            let kept = replica.log.iter().filter(|(entry, slot)| entry.is_tombstone && slot.is_kept).count();
            assert_eq!(kept, 0, "seed {seed}: tombstones of replica {id} have stayed");
            assert!(replica.numbers.dropped <= replica.numbers.clean && !replica.wants_anew, "seed {seed}");
        }
    }
}
