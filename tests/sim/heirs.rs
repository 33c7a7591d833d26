//! The heir and the other one of a pair: of three controllers, combined with brokers or apart, one dies, their group shrinks
//! to two, and then the second is lost, by death or by a cut cable (safety.md F1).
//!
//! The heir goes on alone in a new generation, killed now and then in the middle of it; the other one never does, and says whom it waits
//! for. What both held is put aside or kept, everyone votes again in the end, on a new disk too, nothing committed is lost. Checked besides what every run is held to:
//! a generation of the controllers' group is opened by one replica, in one way, and holds all that was committed before.

use crate::check::CONTROLLER;
use crate::plan::{Plan, style};
use crate::rng::Rng;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use kontiki::broker::shard::{Command, Input};
use kontiki::raftlog::core::Role;
use kontiki::raftlog::generation::Decision;
use kontiki::raftlog::heir;
use kontiki::raftlog::message::Configuration;
use kontiki::segment::NodeId;
use tokio::sync::oneshot;

/// Seeds of the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 3 } else { 150 };
/// Longer than the heir waits, with all that follows.
const LONG: Time = 40 * SECOND;

pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0x4e14_0000);
    let producer = || kontiki_style(&mut Rng::new(seed));
    Plan {
        controllers_count: 3,
        combined: rng.chance(600),
        shrink: true,
        min_insync: if rng.chance(800) { 1 } else { 2 },
        producers: vec![producer(), producer()],
        ..Plan::calm(seed)
    }
}

fn kontiki_style(rng: &mut Rng) -> crate::producer::Style {
    let slow = rng.range(100, 400);
    crate::producer::Style { think: (10 * MS, slow * MS), ..style(u64::MAX) }
}

impl World {
    /// A replica of the controllers' group is in a generation: there is one way in which that began, and it lost nothing.
    pub fn book_heirs(&mut self, n: usize) {
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        let Some(core) = p.shard.engine().core(CONTROLLER) else { return };
        let generation = core.epoch().generation;
        let Some(opening) = core.hard_state().opening else { return };
        let of = |opening: &kontiki::segment::Opening| (opening.survivor, opening.base, opening.first_term);
        if let Some(known) = self.heirs.get(&generation) {
            assert!(
                of(known) == of(&opening),
                "F1: {generation:?} of the controllers was opened as {known:?} and, for node {}, as {opening:?}",
                n + 1
            );
            return;
        }
        self.heirs.insert(generation, opening);
        self.marks.hit("heir went on alone");
        let decision = Decision { generation, opening, learners: Vec::new() };
        self.check.decided(CONTROLLER, &decision, &mut self.nodes, &mut self.marks);
    }

    /// Every controller there is votes again, and their leader hears each of them, and nobody twice.
    pub fn controllers_are_back(&mut self) -> bool {
        if !self.plan.shrink {
            return true;
        }
        let controllers = self.plan.controllers();
        let Some(configuration) = self.configuration_of(CONTROLLER) else { return false };
        let nodes: Vec<usize> = configuration.voters.iter().map(|r| crate::net::index_of(r.node)).collect();
        let votes = !configuration.is_joint() && controllers.iter().all(|n| nodes.contains(n));
        votes && self.controllers_are_heard()
    }

    /// As DescribeQuorum tells it, and `kontiki cluster health`.
    fn controllers_are_heard(&mut self) -> bool {
        let Some(n) = self.leader_of(CONTROLLER) else { return false };
        let now = self.nodes[n].now(self.time);
        let Some(p) = self.nodes[n].process.as_mut() else { return false };
        let (reply, mut answer) = oneshot::channel();
        p.shard.handle(now, Input::Command(Command::Quorum { group: CONTROLLER, reply }));
        let Ok(Ok(quorum)) = answer.try_recv() else { return false };
        let mut named: Vec<NodeId> = quorum.voters.iter().chain(&quorum.learners).map(|r| r.node).collect();
        named.sort_unstable();
        quorum.absent.is_empty() && named.windows(2).all(|pair| pair[0] != pair[1])
    }

    /// The configuration of two that all of those who are left know to be committed.
    fn pair(&mut self, left: &[usize]) -> Option<Configuration> {
        let mut found = None;
        for n in left {
            let core = self.nodes[*n].process.as_mut()?.shard.engine().core(CONTROLLER)?;
            let (configuration, id) = core.configuration();
            if configuration.voters.len() != 2 || configuration.is_joint() || id.index > core.commit() {
                return None;
            }
            found = Some(configuration.clone());
        }
        found
    }

    /// Role and generation of a controller, and whom it says it waits for.
    fn stands(&self, n: usize) -> Option<(Role, u64, Option<NodeId>)> {
        let p = self.nodes[n].process.as_ref()?;
        let core = p.shard.core_of_controllers()?;
        Some((core.role(), core.epoch().generation.0, p.shard.status().controllers.waits_for_heir))
    }

    fn goes_on_alone(&self, n: usize, from: u64) -> bool {
        matches!(self.stands(n), Some((Role::Leader, generation, _)) if generation > from)
    }

    /// Without the heir nothing goes on, and the other one says so.
    fn other_waits(&mut self, other: usize, heir: usize, from: u64) {
        let name = NodeId(heir as i32 + 1);
        self.run_until("the other one says whom it waits for", LONG, |world| {
            world.stands(other).is_some_and(|(.., awaited)| awaited == Some(name))
        });
        let until = self.time + 8 * SECOND;
        while self.time < until {
            let stands = self.stands(other);
            let is_quiet =
                stands.is_some_and(|(role, generation, _)| role != Role::Leader && generation == from);
            assert!(is_quiet, "F1: node {}, which is not the heir, goes on alone: {stands:?}", other + 1);
            self.run_for(50 * MS);
        }
        self.marks.hit("other one of a pair waited");
    }

    fn heir_goes_on(&mut self, heir: usize, from: u64) {
        if self.rng.chance(400) {
            // At any moment between silence, seal and take-over.
            let wait = self.rng.below(4 * SECOND);
            self.run_for(wait);
            let power = self.rng.chance(500);
            self.kill(heir, power);
        }
        self.run_until("the heir goes on alone", LONG, |world| world.goes_on_alone(heir, from));
    }

    fn cut_cable(&mut self, a: usize, b: usize) {
        self.net.blocked.insert((a, b));
        self.net.blocked.insert((b, a));
    }
}

pub fn story(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    let wait = world.rng.range(300 * MS, 2 * SECOND);
    world.run_for(wait);
    let all = world.plan.controllers();
    let (first, heir, other) = world.shrunk_to_two();
    let wait = world.rng.below(3 * SECOND);
    world.run_for(wait);
    match world.rng.below(4) {
        0 => {
            let power = world.rng.chance(500);
            world.end(other, power);
            world.heir_goes_on(heir, 0);
        }
        1 => {
            world.cut_cable(heir, other);
            world.heir_goes_on(heir, 0);
            world.other_waits(other, heir, 0);
        }
        2 => {
            let power = world.rng.chance(500);
            world.end(heir, power);
            world.other_waits(other, heir, 0);
            world.start_later(heir, MS);
        }
        _ => {
            // The one that died first is back as well, and knows no more than that there was a group of three.
            world.end(heir, true);
            world.start_later(first, MS);
            world.other_waits(other, heir, 0);
            world.start_later(heir, MS);
        }
    }
    let wait = world.rng.below(6 * SECOND);
    world.run_for(wait);
    if world.rng.chance(300) {
        world.start_later(first, MS);
        let wait = world.rng.below(6 * SECOND);
        world.run_for(wait);
        // Wherever they have come to by now.
        let n = world.rng.pick(&all).expect("three");
        world.kill(n, true);
        let wait = world.rng.below(8 * SECOND);
        world.run_for(wait);
    }
    if world.nodes[first].process.is_none() && !world.nodes[first].starting && world.rng.chance(400) {
        // It has no vote any more; what comes back is another replica.
        world.wipe(first);
        world.marks.hit("controller came back on a new disk");
    }
    world.heal();
    (0..world.nodes.len()).for_each(|n| world.start_later(n, MS));
    let wait = world.rng.below(2 * SECOND);
    world.run_for(wait);
    world.stop_producers();
    world.verdict()
}

#[test]
fn heir_of_a_pair_goes_on_alone_and_the_other_one_never_does() {
    let name = "heirs::heir_of_a_pair_goes_on_alone_and_the_other_one_never_does";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, story);
    println!("{}", report.text());
}

impl World {
    /// One controller of three dies; the others go on as two. It, their heir, and the other one.
    fn shrunk_to_two(&mut self) -> (usize, usize, usize) {
        let all = self.plan.controllers();
        let first = self.rng.pick(&all).expect("three");
        let power = self.rng.chance(500);
        self.end(first, power);
        let left: Vec<usize> = all.iter().copied().filter(|n| *n != first).collect();
        let mut pair = None;
        self.run_until("the controllers go on as two", LONG, |world| {
            pair = world.pair(&left);
            pair.is_some()
        });
        let heir = heir::of(&pair.expect("found").voters).expect("of two");
        let heir = crate::net::index_of(heir.node);
        (first, heir, *left.iter().find(|n| **n != heir).expect("two"))
    }

    /// Whether the newest configuration here leads from two voters to three, and nobody has acknowledged it yet.
    fn begins_to_grow(&self, n: usize) -> bool {
        let core = self.nodes[n].process.as_ref().and_then(|p| p.shard.core_of_controllers());
        core.is_some_and(|core| {
            let (configuration, id) = core.configuration();
            let is_growth = configuration.old_voters.len() == 2 && configuration.voters.len() == 3;
            is_growth && id.index > core.commit() && core.role() == Role::Leader
        })
    }

    fn awaited(&self, n: usize) -> Vec<NodeId> {
        self.nodes[n].process.as_ref().map_or(Vec::new(), |p| p.shard.status().controllers.waits_for.clone())
    }
}

/// The pair takes the third one in again, and the other one of it dies the moment that is begun.
pub fn dies_while_they_grow(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    let (first, heir, other) = world.shrunk_to_two();
    if world.rng.chance(400) {
        // Who leads when they grow need not be who led when they shrank.
        let now = world.nodes[heir].now(world.time);
        if let Some(p) = world.nodes[heir].process.as_mut() {
            p.shard.engine().transfer(now.mono, CONTROLLER, None);
        }
        world.wake(heir);
        world.run_for(SECOND);
    }
    let wait = world.rng.below(2 * SECOND);
    world.run_for(wait);
    world.start_later(first, MS);
    let deadline = world.time + LONG;
    while !world.begins_to_grow(heir) {
        assert!(world.time < deadline, "liveness: the heir takes the third one in again");
        world.run_for(MS / 20);
    }
    let power = world.rng.chance(500);
    world.end(other, power);
    match world.rng.below(3) {
        // By itself it cannot know what followed its own entry if it has forgotten what it did.
        0 => {
            let wait = world.rng.below(SECOND);
            world.run_for(wait);
            let power = world.rng.chance(500);
            world.end(heir, power);
            world.start_later(heir, MS);
            if power {
                // Its disk may have lost the entry: then it is the heir of two again.
                world.run_for(8 * SECOND);
            } else {
                let name = NodeId(other as i32 + 1);
                world.run_until("the heir says whom it waits for", LONG, |world| {
                    world.awaited(heir) == [name] || world.goes_on_alone(heir, 0)
                });
                world.marks.hit("heir did not know what followed");
            }
        }
        both => {
            if both == 2 {
                let power = world.rng.chance(500);
                world.end(first, power);
            }
            world.run_until("the heir goes on in the middle of growing", LONG, |world| {
                world.goes_on_alone(heir, 0)
            });
            world.marks.hit("heir went on in the middle of growing");
            if world.rng.chance(300) {
                world.kill(heir, true);
            }
        }
    }
    let wait = world.rng.below(4 * SECOND);
    world.run_for(wait);
    world.heal();
    (0..world.nodes.len()).for_each(|n| world.start_later(n, MS));
    world.stop_producers();
    world.verdict()
}

#[test]
fn other_one_dies_while_a_pair_grows_and_its_heir_goes_on() {
    let name = "heirs::other_one_dies_while_a_pair_grows_and_its_heir_goes_on";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, dies_while_they_grow);
    println!("{}", report.text());
}

/// Three controllers of whom any may die, stop, or be cut off at any time, and brokers that do.
pub fn any_faults(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0x4e14_0002);
    let mut plan = Plan::random(seed);
    (plan.brokers_count, plan.controllers_count, plan.combined) = (3, 3, rng.chance(600));
    (plan.replication, plan.shrink, plan.unclean) = (3, true, false);
    let menu = &mut plan.menu;
    (menu.members, menu.generations, menu.damage, menu.io_errors, menu.full_disks) =
        (false, false, false, false, false);
    (menu.kills, menu.partitions) = (true, menu.partitions || rng.chance(500));
    plan.heir_timeout_ms = rng.range(1_300, 2_000);
    plan.chaos = rng.range(12, 30) * SECOND;
    plan.fault_every = rng.range(200, 700) * MS;
    plan
}

#[test]
fn controllers_shrink_and_grow_under_faults_and_no_generation_of_theirs_begins_twice() {
    let name = "heirs::controllers_shrink_and_grow_under_faults_and_no_generation_of_theirs_begins_twice";
    let report = over_seeds(name, Budget::Seeds(SEEDS), any_faults, crate::run::whole);
    println!("{}", report.text());
}
