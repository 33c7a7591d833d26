//! The schedules of docs/safety.md as scenarios with names: each is brought about on the product's own controllers, leaders and brokers,
//! at moments that its seed draws, looks that the dangerous moment was there, and what came of it. Which schedule is shown where:
//! docs/testing.md. `KONTIKI_SEEDS=200 cargo test --release --test sim -- scenarios::` runs each two hundred times.
//!
//! Here: the harness. The invariants of every run hold all the while, and at the end everything is whole, equal and read through.

mod alone;
mod anew;
mod identity;
mod lossy;

use crate::client::{Ask, Reply, Work};
use crate::plan::{Plan, style};
use crate::producer::{Producer, Style};
use crate::run::Report;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use kontiki::ctl::command::Command as CtlCommand;
use kontiki::ctl::recovery::plan_id;
use kontiki::raftlog::core::Role;
use kontiki::segment::{Doubt, Epoch, GroupId, LogId, NodeId, ReplicaId};
use std::collections::BTreeMap;

/// Seeds of each scenario in the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 2 } else { 8 };
/// Longer than anything takes that is to come by itself.
const LONG: Time = 40 * SECOND;
/// Long enough to see that something does not come.
const WATCH: Time = 8 * SECOND;
/// How often a moment between two steps is looked for.
const GLANCE: Time = MS / 50;

/// Three brokers that hold one partition, three controllers apart; groups shrink and grow by the product.
pub fn plan(seed: u64) -> Plan {
    Plan {
        controllers_count: 3,
        partitions: 1,
        shrink: true,
        recovers: true,
        producers: vec![steady(), steady()],
        ..Plan::calm(seed)
    }
}

fn steady() -> Style {
    Style { think: (4 * MS, 50 * MS), ..style(u64::MAX) }
}

/// Runs a scenario over its seeds.
fn scenario(
    name: &str,
    plan: impl Fn(u64) -> Plan + Sync,
    story: impl Fn(&mut World) -> Time + Sync,
) -> Report {
    over_seeds(&format!("scenarios::{name}"), Budget::Seeds(SEEDS), plan, story)
}

/// That these moments were met, where more than a seed or two were run.
fn met(report: &Report, marks: &[&'static str]) {
    for mark in marks {
        assert!(report.runs < SEEDS || report.marks.0.contains_key(mark), "never met: {mark}");
    }
}

/// A replica as its process has it.
#[derive(Clone, Debug)]
struct View {
    leads: bool,
    epoch: Epoch,
    last: LogId,
    durable: u64,
    commit: u64,
    sealed: bool,
    doubt: Doubt,
    voters: Vec<usize>,
    /// Those before, while the newest configuration is joint.
    old: Vec<usize>,
    configured: LogId,
}

impl View {
    fn generation(&self) -> u64 {
        self.epoch.generation.0
    }
}

/// Steps of a generation change, by what the moment between one and the next looks like.
const STEPS: [&str; 4] = [
    "between intent and seal",
    "between seal and decision",
    "between decision and take-over",
    "take-over not durable",
];

impl World {
    /// Set-up, clients, and some writing.
    fn begin(&mut self) -> GroupId {
        self.set_up();
        self.start_clients();
        let wait = self.rng.range(500 * MS, 2 * SECOND);
        self.run_for(wait);
        self.groups_of("t", 1)[0]
    }

    /// Everything is healed and comes back; the verdict of every run.
    fn finish(&mut self) -> Time {
        self.heal();
        (0..self.nodes.len()).for_each(|n| self.start_later(n, MS));
        let wait = self.rng.below(2 * SECOND);
        self.run_for(wait);
        self.run_until("moves are over", 60 * SECOND, World::moves_are_over);
        self.stop_producers();
        self.verdict()
    }

    fn view(&mut self, n: usize, group: GroupId) -> Option<View> {
        let core = self.nodes[n].process.as_mut()?.shard.engine().core(group)?;
        let places = |of: &[ReplicaId]| of.iter().map(|r| crate::net::index_of(r.node)).collect();
        let (configuration, configured) = core.configuration();
        Some(View {
            leads: core.role() == Role::Leader,
            epoch: core.epoch(),
            last: core.last(),
            durable: core.durable().0,
            commit: core.commit().0,
            sealed: core.hard_state().sealed.is_some(),
            doubt: core.doubt(),
            voters: places(&configuration.voters),
            old: places(&configuration.old_voters),
            configured,
        })
    }

    /// A replica that must be there.
    fn sees(&mut self, n: usize, group: GroupId) -> View {
        self.view(n, group).unwrap_or_else(|| panic!("node {} runs and holds group {group}", n + 1))
    }

    /// All brokers but these.
    fn other_brokers(&self, but: &[usize]) -> Vec<usize> {
        self.plan.brokers().into_iter().filter(|n| !but.contains(n)).collect()
    }

    fn other_nodes(&self, n: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != n).collect()
    }

    /// Nothing passes between a node and these.
    fn cut_off(&mut self, n: usize, others: &[usize]) {
        self.net.blocked.extend(others.iter().flat_map(|other| [(n, *other), (*other, n)]));
    }

    fn places_of_clients(&self) -> Vec<usize> {
        self.clients.iter().map(|client| client.place).collect()
    }

    /// Lets time pass in small steps, until a moment that does not last.
    fn catch(&mut self, what: &str, mut is_there: impl FnMut(&mut Self) -> bool) {
        let deadline = self.time + LONG;
        while !is_there(self) {
            assert!(self.time < deadline, "the moment never came: {what}\n{}", self.describe());
            self.run_for(GLANCE);
        }
    }

    /// For some time none of these leads, and the controllers decide nothing beyond this generation.
    fn nobody_goes_on(&mut self, group: GroupId, among: &[usize], generation: u64) {
        let until = self.time + WATCH;
        while self.time < until {
            self.run_for(20 * MS);
            for n in among {
                let leads = self.view(*n, group).is_some_and(|view| view.leads);
                assert!(!leads, "node {} leads, and must not\n{}", n + 1, self.describe());
            }
            let decided = self.decided(group);
            assert!(decided <= generation, "generation {decided} was decided\n{}", self.describe());
        }
    }

    /// Generation that the controllers last opened.
    fn decided(&self, group: GroupId) -> u64 {
        self.newest_image().group(group).map_or(0, |(_, _, partition)| partition.generation)
    }

    /// Index of the last entry that anybody knows to be committed.
    fn committed(&self, group: GroupId) -> u64 {
        self.check.logs.get(&group).and_then(|log| log.last()).map_or(0, |entry| entry.id.index.0)
    }

    fn leads_alone(&mut self, n: usize, group: GroupId, generation: u64) -> bool {
        self.view(n, group).is_some_and(|view| {
            view.leads && view.generation() == generation && view.voters == [n] && view.old.is_empty()
        })
    }

    /// Records that are sent from now on are acknowledged.
    fn writes_go_on(&mut self) {
        let acks = self.check.acks;
        self.run_until("records are acknowledged", LONG, |world| world.check.acks > acks + 10);
    }

    /// One that was told of a gap writes no more: somebody new does.
    fn new_writer(&mut self) {
        self.add_client(Work::Producer(Box::new(Producer::new(steady()))));
    }

    fn either(&mut self) -> bool {
        self.rng.chance(500)
    }

    fn end_somehow(&mut self, n: usize) {
        let power = self.either();
        self.end(n, power);
    }

    /// One of three dies, and the group goes on as two: who leads it, the other one, and the dead one.
    fn left_as_two(&mut self, group: GroupId) -> (usize, usize, usize) {
        let brokers = self.plan.brokers();
        let dead = self.rng.pick(&brokers).expect("three");
        self.end_somehow(dead);
        let left = self.other_brokers(&[dead]);
        self.run_until("the group goes on as two", LONG, |world| {
            left.iter().all(|n| {
                world.view(*n, group).is_some_and(|view| {
                    view.voters.len() == 2 && view.old.is_empty() && view.commit >= view.configured.index.0
                })
            })
        });
        let leader = self.leader_of(group).expect("it went on");
        let other = *left.iter().find(|n| **n != leader).expect("two");
        (leader, other, dead)
    }

    /// Asks the controllers for something, until they have taken it.
    fn order(&mut self, via: usize, command: &CtlCommand) {
        let operator = self.add_client(Work::Manual(BTreeMap::new()));
        for _ in 0..100 {
            let ask = Ask::Controller(command.clone());
            if let Some(Reply::Controller(Ok(_))) = self.call(operator, via, ask, 2 * SECOND) {
                return;
            }
            self.run_for(50 * MS);
        }
        panic!("no controller took {command:?}");
    }

    /// A replica asks for its generation to be ended, as one does that sees no other way.
    fn order_seal(&mut self, n: usize, group: GroupId) {
        let generation = self.decided(group);
        self.order(n, &CtlCommand::Seal { node: NodeId(n as i32 + 1), groups: vec![(group, generation)] });
    }

    /// An operator has what lost its majority recovered, by plans of what is there, until it is done.
    fn recover_until(&mut self, via: usize, mut done: impl FnMut(&mut Self) -> bool) {
        let operator = self.add_client(Work::Manual(BTreeMap::new()));
        let deadline = self.time + 90 * SECOND;
        while !done(self) {
            assert!(self.time < deadline, "liveness: not recovered\n{}", self.describe());
            let image = self.newest_image();
            let (plans, _) = self.plans(&image);
            if !plans.is_empty() {
                let command = CtlCommand::Recover {
                    id: plan_id(&plans),
                    reason: String::new(),
                    at_ms: 0,
                    plans,
                    auto: false,
                };
                let _taken_or_refused = self.call(operator, via, Ask::Controller(command), SECOND);
            }
            self.run_for(300 * MS);
        }
    }

    /// Whether a generation change has come to the moment between this step and the next.
    fn is_between(&mut self, step: usize, survivor: usize, group: GroupId) -> bool {
        let image = self.newest_image();
        let Some((_, _, partition)) = image.group(group) else { return false };
        let (is_ordered, decided) = (partition.sealing.is_some(), partition.generation);
        let Some(view) = self.view(survivor, group) else { return false };
        match (step, view.generation()) {
            (0, 0) => is_ordered && !view.sealed,
            (1, 0) => decided == 0 && view.sealed,
            (2, 0) => decided == 1,
            (3, 1) => view.leads && view.durable < view.configured.index.0,
            _ => false,
        }
    }
}
