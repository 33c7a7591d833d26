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
use kontiki::raftlog::core::Role;
use kontiki::raftlog::generation::Decision;
use kontiki::raftlog::heir;
use kontiki::raftlog::message::Configuration;
use kontiki::segment::NodeId;

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

    /// Every controller there is votes again, and is where the leader is.
    pub fn controllers_are_back(&mut self) -> bool {
        if !self.plan.shrink {
            return true;
        }
        let controllers = self.plan.controllers();
        let Some(configuration) = self.configuration_of(CONTROLLER) else { return false };
        let nodes: Vec<usize> = configuration.voters.iter().map(|r| crate::net::index_of(r.node)).collect();
        !configuration.is_joint() && controllers.iter().all(|n| nodes.contains(n))
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
    let first = world.rng.pick(&all).expect("three");
    let power = world.rng.chance(500);
    world.end(first, power);
    let left: Vec<usize> = all.iter().copied().filter(|n| *n != first).collect();
    let mut pair = None;
    world.run_until("the controllers go on as two", LONG, |world| {
        pair = world.pair(&left);
        pair.is_some()
    });
    let pair = pair.expect("found");
    let heir = crate::net::index_of(heir::of(&pair.voters).expect("of two").node);
    let other = *left.iter().find(|n| **n != heir).expect("two");
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
