//! A run from its first event to its verdict: set-up, the part with faults, healing, and the comparison of all replicas.

use crate::check::CONTROLLER;
use crate::client::{Ask, Reply, Work};
use crate::marks::Marks;
use crate::plan::Plan;
use crate::producer::Producer;
use crate::reader::Reader;
use crate::trace::Trace;
use crate::world::{MS, SECOND, Time, World};
use kontiki::ctl::command::{Command as CtlCommand, CreateTopic, Error as CtlError};
use kontiki::raftlog::core::Role;
use kontiki::raftlog::engine::Engine;
use kontiki::segment::{Doubt, GroupId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};

/// A cluster must be up, or up again, within this much virtual time.
const SETTLE: Time = 60 * SECOND;

/// What a run was.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub runs: u64,
    pub hash: u64,
    pub events: u64,
    pub steps: u64,
    pub virtual_us: u64,
    pub acks: u64,
    pub entries: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub marks: Marks,
    pub slowest_heal_us: u64,
    pub wall: std::time::Duration,
}

/// The usual story: faults, healing, verdict.
pub fn whole(world: &mut World) -> Time {
    world.run()
}

impl Report {
    /// What is said at the end.
    pub fn text(&self) -> String {
        let list = |map: &BTreeMap<&'static str, u64>| {
            map.iter().map(|(name, count)| format!("  {count:>9}  {name}\n")).collect::<String>()
        };
        format!(
            "{} seeds, {} steps, {} s of virtual time in {:.1} s; {} entries committed, {} acknowledged; slowest healing {:.1} s\n\
             faults:\n{}rare events:\n{}never met: {:?}",
            self.runs,
            self.steps,
            self.virtual_us / SECOND,
            self.wall.as_secs_f64(),
            self.entries,
            self.acks,
            self.slowest_heal_us as f64 / 1e6,
            list(&self.faults),
            list(&self.marks.0),
            self.marks.missing()
        )
    }

    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.virtual_us += other.virtual_us;
        self.acks += other.acks;
        self.entries += other.entries;
        self.slowest_heal_us = self.slowest_heal_us.max(other.slowest_heal_us);
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.marks.add(&other.marks);
    }
}

impl World {
    /// Waits until every broker serves; creates the topic.
    pub fn set_up(&mut self) {
        let brokers = self.plan.brokers();
        self.run_until("brokers register", SETTLE, |world| {
            brokers
                .iter()
                .all(|n| world.nodes[*n].process.as_ref().is_some_and(|p| p.shard.status().registered))
        });
        let admin = self.add_client(Work::Manual(BTreeMap::new()));
        let (partitions, replication) = (self.plan.partitions, self.plan.replication);
        let mut configs = self.plan.topic_configs.clone();
        configs.insert("min.insync.replicas".to_owned(), Some(self.plan.min_insync.to_string()));
        self.create_topic(admin, "t", partitions, replication, configs);
    }

    /// Creates a topic, whatever it takes, and waits until every partition is led.
    pub fn create_topic(
        &mut self,
        admin: usize,
        name: &str,
        partitions: i32,
        replication_factor: i16,
        configs: BTreeMap<String, Option<String>>,
    ) {
        let deadline = self.time + SETTLE;
        loop {
            assert!(self.time < deadline, "liveness: topic {name} not created");
            let create = CreateTopic {
                name: name.to_owned(),
                partitions,
                replication_factor,
                assignments: None,
                configs: configs.clone(),
                validate_only: false,
            };
            let brokers = self.plan.brokers();
            let node = self.rng.pick(&brokers).expect("there are brokers");
            let ask = Ask::Controller(CtlCommand::CreateTopic(create));
            match self.call(admin, node, ask, 4 * SECOND) {
                Some(Reply::Controller(Ok(_) | Err(CtlError::TopicExists(_)))) => break,
                Some(Reply::Controller(Err(error))) => {
                    assert!(!matches!(error, CtlError::InvalidConfig(_)), "configuration of {name}: {error}");
                }
                _ => {}
            }
            self.run_for(100 * MS);
        }
        let groups = self.groups_of(name, partitions as usize);
        self.run_until("partitions are led", SETTLE, |world| {
            groups.iter().all(|g| world.leader_of(*g).is_some())
        });
    }

    /// Groups of a topic, in the order of its partitions.
    pub fn groups_of(&mut self, name: &str, partitions: usize) -> Vec<GroupId> {
        let mut groups = Vec::new();
        self.run_until("topic is known", SETTLE, |world| {
            let images = world.nodes.iter().filter_map(|n| n.process.as_ref());
            for p in images {
                if let Some(topic) = p.image.topics.get(name).filter(|t| t.partitions.len() >= partitions) {
                    groups = topic.partitions.iter().map(|p| p.group).collect();
                    return true;
                }
            }
            false
        });
        groups
    }

    /// Clients of the plan.
    pub fn start_clients(&mut self) {
        for style in self.plan.producers.clone() {
            self.add_client(Work::Producer(Box::new(Producer::new(style))));
        }
        for number in 0..self.plan.readers {
            let partition = number as i32 % self.plan.partitions;
            let anywhere = self.rng.chance(500);
            let probes = self.rng.chance(500);
            self.add_client(Work::Reader(Box::new(Reader::new("t", partition, anywhere, probes))));
        }
    }

    fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.clients.iter().filter_map(|c| match &c.work {
            Work::Producer(p) => Some(&**p),
            _ => None,
        })
    }

    /// No more new batches.
    pub fn stop_producers(&mut self) {
        for client in &mut self.clients {
            if let Work::Producer(p) = &mut client.work {
                p.stop();
            }
        }
    }

    /// Whether all producers have seen everything through.
    pub fn producers_done(&self) -> bool {
        self.producers().all(Producer::is_done)
    }

    /// Members of every group as its leader knows them; everyone in the controller group, where brokers observe.
    fn members(&mut self) -> BTreeMap<GroupId, BTreeSet<ReplicaId>> {
        let groups: BTreeSet<GroupId> = self.check.logs.keys().copied().collect();
        let mut members = BTreeMap::new();
        for group in groups {
            let configuration = self.configuration_of(group);
            members.insert(group, configuration.iter().flat_map(|c| c.members()).collect());
        }
        members
    }

    /// Whether every member of every group holds the same log, committed to its end.
    pub fn converged(&mut self) -> bool {
        let members = self.members();
        let mut groups: BTreeMap<GroupId, Vec<(bool, kontiki::segment::LogId, u64)>> = BTreeMap::new();
        for node in &mut self.nodes {
            if node.refused.is_some() {
                return false;
            }
            let Some(p) = &mut node.process else { return false };
            if p.shard.status().storage_failure.is_some() {
                return false;
            }
            let engine = p.shard.engine();
            for group in engine.group_ids() {
                let Some(core) = engine.core(group) else { continue };
                if group != CONTROLLER && !members.get(&group).is_some_and(|m| m.contains(&core.replica())) {
                    continue;
                }
                if engine.has_stood_down(group) || engine.store_ref().needs_repair(group).is_some() {
                    return false;
                }
                let row = (core.role() == Role::Leader, core.last(), core.commit().0);
                groups.entry(group).or_default().push(row);
            }
        }
        groups.values().all(|rows| {
            let last = rows[0].1;
            rows.iter().filter(|(leads, ..)| *leads).count() == 1
                && rows.iter().all(|(_, l, commit)| *l == last && *commit == last.index.0)
        })
    }

    /// Whether everything on every disk that was damaged has been looked through, is whole again, and nobody is in doubt any more.
    pub fn repaired(&mut self) -> bool {
        let members = self.members();
        let mut all = true;
        for n in 0..self.nodes.len() {
            if self.nodes[n].refused.is_some() {
                // Found out when it was started anew: whoever runs it puts a new disk in.
                self.wipe(n);
                self.start_later(n, 100 * MS);
            }
            if self.nodes[n].damaged {
                let whole = self.is_whole(n, &members);
                if !whole {
                    self.elect_for_doubt(n);
                }
                all &= whole;
                if whole {
                    self.nodes[n].damaged = false;
                    self.marks.hit("damaged node whole again");
                }
            }
        }
        all
    }

    /// Among more than three voters a lost vote is forgiven only by a leader whose election this replica granted after its restart
    /// (safety.md F11): an administrator has leadership moved.
    fn elect_for_doubt(&mut self, n: usize) {
        let Some(p) = self.nodes[n].process.as_mut().filter(|_| self.time % SECOND < 20 * MS) else { return };
        let engine = p.shard.engine();
        let is_doubtful = |g: &GroupId| {
            let core = engine.core(*g);
            core.is_some_and(|core| core.doubt() == Doubt::Vote && core.configuration().0.voters.len() > 3)
        };
        let doubtful: Vec<GroupId> = engine.group_ids().into_iter().filter(is_doubtful).collect();
        for group in doubtful {
            let Some(leader) = self.leader_of(group) else { continue };
            let now = self.nodes[leader].now(self.time);
            if let Some(p) = self.nodes[leader].process.as_mut() {
                p.shard.engine().transfer(now.mono, group, None);
            }
            self.wake(leader);
        }
    }

    fn is_whole(&mut self, n: usize, members: &BTreeMap<GroupId, BTreeSet<ReplicaId>>) -> bool {
        let joins = self.nodes[n].config.is_broker || self.nodes[n].wipes == 0;
        let Some(p) = self.nodes[n].process.as_mut() else { return false };
        if !p.shard.status().registered {
            // A controller on a new disk waits for a change of the controller group's own members.
            return !joins;
        }
        let engine = p.shard.engine();
        let counts = |engine: &Engine, group: GroupId| {
            let core = engine.core(group);
            group == CONTROLLER
                || core.is_some_and(|c| members.get(&group).is_some_and(|m| m.contains(&c.replica())))
        };
        let groups = engine.group_ids();
        let is_bad = |engine: &Engine, group: GroupId| {
            let core = engine.core(group);
            let doubt = core.map(|core| core.doubt());
            // Who has no vote grants no election, and among more than three voters only that ends doubt of a lost one.
            let stays = core.is_some_and(|core| {
                let (configuration, _) = core.configuration();
                core.doubt() == Doubt::Vote
                    && configuration.voters.len() > 3
                    && !configuration.is_voter(core.replica())
            });
            engine.store_ref().needs_repair(group).is_some() || (doubt != Some(Doubt::None) && !stays)
        };
        if groups.iter().any(|g| counts(engine, *g) && is_bad(engine, *g)) {
            return false;
        }
        let mut scrubber = engine.store().scrubber();
        engine.store().begin_scrub();
        while engine.store().tend_scrub() | (scrubber.step() > 0) {}
        engine.store().tend_scrub();
        !groups.iter().any(|g| counts(engine, *g) && is_bad(engine, *g))
    }

    /// Every member of every group, from its log start to its end, against the committed log: byte for byte.
    pub fn compare_replicas(&mut self) {
        let members = self.members();
        for n in 0..self.nodes.len() {
            let Some(p) = self.nodes[n].process.as_mut() else { continue };
            let engine = p.shard.engine();
            let mut groups = engine.group_ids();
            groups.sort_unstable();
            for group in groups {
                let replica = engine.core(group).map(|core| core.replica());
                let is_member = replica.is_some_and(|r| members.get(&group).is_some_and(|m| m.contains(&r)));
                if is_member || group == CONTROLLER {
                    self.check.compare_all(n, group, None, engine.store());
                    self.check.compare_keyed(n, group, engine.store());
                }
            }
        }
    }

    /// The whole of one run.
    pub fn run(&mut self) -> Time {
        self.set_up();
        self.start_clients();
        self.begin_faults();
        let chaos = self.plan.chaos;
        self.run_for(chaos);
        self.heal();
        self.stop_producers();
        if !self.plan.shrink {
            // Else the product brings its members back by itself.
            self.settle_orders();
        }
        self.verdict()
    }

    /// Everything is healed and nobody writes any more: all is answered, whole, equal and read to its end.
    pub fn verdict(&mut self) -> Time {
        let healed = self.time;
        self.run_until("producers are answered", SETTLE, |world| world.producers_done());
        self.run_until("damage is repaired", SETTLE, World::repaired);
        if self.plan.menu.moves {
            self.run_until("moves are over", SETTLE, World::moves_are_over);
        }
        self.run_until("groups have their members back", SETTLE, World::is_settled);
        self.run_until("controllers vote again", SETTLE, World::controllers_are_back);
        self.run_until("replicas converge", SETTLE, World::converged);
        let took = self.time - healed;
        self.readers_finish();
        // Sessions end and begin meanwhile: the controller log goes on.
        self.run_until("replicas converge again", SETTLE, World::converged);
        self.compare_replicas();
        self.check.settle_owed();
        self.check.settle_aside(&self.nodes);
        self.cold_check();
        took
    }

    /// Readers come to the end.
    fn readers_finish(&mut self) {
        for client in &mut self.clients {
            if let Work::Reader(reader) = &mut client.work {
                // A reader that asks any broker asks mostly those that hold nothing.
                (reader.anywhere, reader.probes) = (false, false);
            }
        }
        self.run_until("readers reach the end", SETTLE, |world| {
            world.clients.iter().all(|c| match &c.work {
                Work::Reader(r) => r.place().is_some_and(|(group, position)| {
                    world
                        .check
                        .logs
                        .get(&group)
                        .is_none_or(|log| log.last().is_none_or(|e| position >= e.next))
                }),
                _ => true,
            })
        });
    }

    /// The power fails everywhere at once; what comes back is compared once more, now from the disks.
    fn cold_check(&mut self) {
        for n in 0..self.nodes.len() {
            self.end(n, true);
            self.nodes[n].starting = true;
            self.push(self.time, crate::world::Event::Start { node: n });
        }
        self.run_until("everything comes back from disk", SETTLE, World::converged);
        self.compare_replicas();
    }

    pub fn report(&self, heal: Time) -> Report {
        let (hash, events) = self.trace.hash();
        Report {
            runs: 1,
            hash,
            events,
            steps: self.steps,
            virtual_us: self.time,
            acks: self.check.acks,
            entries: self.check.logs.values().map(|l| l.entries.len() as u64).sum(),
            faults: self.faults.counts.clone(),
            marks: self.marks.clone(),
            slowest_heal_us: heal,
            wall: std::time::Duration::ZERO,
        }
    }
}

thread_local! {
    /// Where the last panic of this thread came from.
    static PLACE: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Panics of workers are violations to be reported once, with their seed; only their place is noted here.
fn watch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let worker = std::thread::current().name().is_some_and(|name| name.starts_with("sim-"));
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            PLACE.set(place);
            if !worker {
                usual(info);
            }
        }));
    });
}

/// Runs a plan; an error is the text of what was violated.
pub fn run_plan(plan: Plan, trace: &Trace) -> Result<Report, String> {
    run_with(plan, trace, whole)
}

/// Runs a story in a world; an error is the text of what was violated.
pub fn run_with(plan: Plan, trace: &Trace, story: impl FnOnce(&mut World) -> Time) -> Result<Report, String> {
    let trace = trace.clone();
    watch_panics();
    let done = panic::catch_unwind(AssertUnwindSafe(move || {
        let mut world = World::new(plan, trace);
        let heal = story(&mut world);
        world.report(heal)
    }));
    done.map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        format!("{text}\n(at {})", PLACE.take())
    })
}
