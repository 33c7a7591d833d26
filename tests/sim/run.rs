//! A run from its first event to its verdict: set-up, the part with faults, healing, and the comparison of all replicas.

use crate::client::{Ask, Reply, Work};
use crate::marks::Marks;
use crate::plan::Plan;
use crate::producer::Producer;
use crate::reader::Reader;
use crate::trace::Trace;
use crate::world::{MS, SECOND, Time, World};
use kontiki::ctl::command::{Command as CtlCommand, CreateTopic, Error as CtlError};
use kontiki::raftlog::core::Role;
use kontiki::segment::GroupId;
use std::collections::BTreeMap;
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

    /// Whether every replica that counts holds the same log, committed to its end.
    pub fn converged(&mut self) -> bool {
        let mut groups: BTreeMap<GroupId, Vec<(bool, bool, kontiki::segment::LogId, u64)>> = BTreeMap::new();
        for node in &mut self.nodes {
            if node.refused.is_some() {
                continue;
            }
            let Some(p) = &mut node.process else { return false };
            if p.shard.status().storage_failure.is_some() {
                return false;
            }
            let damaged = node.damaged;
            let engine = p.shard.engine();
            for group in engine.group_ids() {
                if !damaged && engine.has_stood_down(group) {
                    return false;
                }
                let Some(core) = engine.core(group) else { continue };
                let row = (!damaged, core.role() == Role::Leader, core.last(), core.commit().0);
                groups.entry(group).or_default().push(row);
            }
        }
        groups.values().all(|rows| {
            let Some((_, _, last, _)) = rows.iter().find(|(sound, ..)| *sound) else { return true };
            let sound = rows.iter().filter(|(sound, ..)| *sound);
            rows.iter().filter(|(_, leads, ..)| *leads).count() == 1
                && sound.into_iter().all(|(_, _, l, commit)| l == last && *commit == last.index.0)
        })
    }

    /// Every replica that counts, from its log start to its end, against the committed log: byte for byte.
    pub fn compare_replicas(&mut self) {
        for n in 0..self.nodes.len() {
            let damaged = self.nodes[n].damaged;
            let Some(p) = self.nodes[n].process.as_mut() else { continue };
            let engine = p.shard.engine();
            let mut groups = engine.group_ids();
            groups.sort_unstable();
            for group in groups {
                let held_out =
                    engine.store_ref().needs_repair(group).is_some() || engine.has_stood_down(group);
                if damaged && held_out {
                    continue;
                }
                // A damaged replica may be held out with a tail that was never committed.
                let commit = engine.core(group).map(|core| core.commit());
                let limit = commit.filter(|_| damaged);
                self.check.compare_all(n, group, limit, engine.store());
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
        let healed = self.time;
        self.run_until("producers are answered", SETTLE, |world| world.producers_done());
        self.run_until("replicas converge", SETTLE, World::converged);
        let took = self.time - healed;
        self.readers_finish();
        // Sessions end and begin meanwhile: the controller log goes on.
        self.run_until("replicas converge again", SETTLE, World::converged);
        self.compare_replicas();
        self.check.settle_owed();
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
