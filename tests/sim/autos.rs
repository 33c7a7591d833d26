//! `recovery.policy=auto`: the majority of a partition is cut off from the controllers, and not from its clients, or dies, while the controllers
//! go on with what is left (decision 0017, safety.md P4). Clocks run at different rates, controllers die or are cut off with the old
//! majority, processes stop and go on.
//!
//! The rule: once a replica has answered a client in a generation that may have lost something, none answers in an earlier one
//! (`Check::answered_in`), and nothing is committed there any more.

use crate::check::CONTROLLER;
use crate::client::{Ask, Reply, Work};
use crate::plan::{Plan, style};
use crate::producer::Style;
use crate::rng::Rng;
use crate::run::whole;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use kontiki::broker::api::{FetchItem, FetchLimits};
use kontiki::ctl::command::{Command as CtlCommand, ConfigChange, ConfigOp};
use kontiki::ctl::recovery::Outcome;
use kontiki::segment::GroupId;
use std::collections::BTreeMap;

/// Seeds of the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 3 } else { 150 };
/// A lease, one that a former controller leader may have granted, the delay, and several changes of controllers.
const LONG: Time = 60 * SECOND;

pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0xa070_0001);
    let mut plan = Plan { controllers_count: 3, shrink: true, recovers: true, ..Plan::calm(seed) };
    plan.menu.clocks = true;
    let mut set = |name: &str, value: String| plan.topic_configs.insert(name.to_owned(), Some(value));
    set("recovery.policy", "auto".to_owned());
    set("recovery.auto.delay.ms", rng.range(0, 1_500).to_string());
    let loose = Style { acks: 1, idempotent: false, ..style(u64::MAX) };
    plan.producers = vec![style(u64::MAX), style(u64::MAX), loose];
    plan.readers = 4;
    plan
}

impl World {
    /// Everybody is asked for everything, whoever leads.
    fn probe_all(&mut self, client: usize, groups: &[GroupId]) {
        for node in self.plan.brokers() {
            for group in groups {
                let item = FetchItem {
                    group: *group,
                    offset: 0,
                    max_bytes: 64 << 10,
                    current_leader_epoch: -1,
                    last_fetched_epoch: -1,
                };
                let limits = FetchLimits { min_bytes: 1, max_bytes: 1 << 20, max_wait_ms: 0 };
                self.ask(client, node, Ask::Fetch { item, limits });
                if self.rng.chance(200) {
                    self.ask(client, node, Ask::Latest { group: *group });
                }
            }
        }
    }

    /// Time passes, and everybody is asked all the while.
    fn probe_for(&mut self, client: usize, groups: &[GroupId], wait: Time) {
        let until = self.time + wait;
        while self.time < until {
            self.probe_all(client, groups);
            let pause = self.rng.range(10 * MS, 80 * MS);
            self.run_for(pause);
        }
    }

    fn set_policy(&mut self, client: usize, via: usize, policy: &str) {
        let change = ConfigChange {
            name: "recovery.policy".to_owned(),
            op: ConfigOp::Set,
            value: Some(policy.to_owned()),
        };
        let (topic, changes) = (Some("t".to_owned()), vec![change]);
        let command = CtlCommand::AlterConfigs { topic, changes, validate_only: false };
        let answer = self.call(client, via, Ask::Controller(command), 4 * SECOND);
        assert!(matches!(answer, Some(Reply::Controller(Ok(_)))), "{answer:?}");
    }

    /// The policy is taken back and given again: who was cut off meanwhile would not know. All hear of it.
    fn switch_policies(&mut self, client: usize) {
        for policy in ["operator", "auto"] {
            let node = self.rng.pick(&self.plan.brokers()).expect("three");
            self.set_policy(client, node, policy);
        }
        self.run_until("all brokers know of the policy", 20 * SECOND, |world| {
            world.check.metadata_now().topics["t"].partitions.iter().all(|p| p.leased.is_some())
        });
        self.marks.hit("policy set on a partition that was there");
    }

    fn part(&mut self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.net.blocked.extend([(*a, *b), (*b, *a)]);
            }
        }
        self.trace.note("parted", one.len() as u64, 0, || format!("{one:?} from {other:?}"));
    }

    /// Leaders among these hand over: whoever takes their place begins with an entry of its own, and has a majority for it.
    fn hand_over_among(&mut self, old: &[usize], groups: &[GroupId]) {
        for n in old {
            let now = self.nodes[*n].now(self.time);
            if let Some(p) = self.nodes[*n].process.as_mut() {
                for group in groups {
                    p.shard.engine().transfer(now.mono, *group, None);
                }
            }
            self.wake(*n);
        }
        self.marks.hit("old majority elected once more");
    }

    /// Whether this node leads all these groups in later generations than the first.
    fn goes_on_with(&mut self, n: usize, groups: &[GroupId]) -> bool {
        groups.iter().all(|group| {
            self.leader_of(*group) == Some(n)
                && self.nodes[n].process.as_mut().is_some_and(|p| {
                    let core = p.shard.engine().core(*group);
                    core.is_some_and(|core| core.epoch().generation.0 > 0 && core.is_established())
                })
        })
    }
}

pub fn story(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    let prober = world.add_client(Work::Manual(BTreeMap::new()));
    let groups = world.groups_of("t", world.plan.partitions as usize);
    let wait = world.rng.range(500 * MS, 3 * SECOND);
    world.run_for(wait);
    if world.rng.chance(300) {
        world.switch_policies(prober);
    }
    let brokers = world.plan.brokers();
    let survivor = world.rng.pick(&brokers).expect("three");
    let old: Vec<usize> = brokers.iter().copied().filter(|n| *n != survivor).collect();
    let controllers = world.plan.controllers();
    let mut here = controllers.clone();
    here.push(survivor);
    let dies = world.rng.chance(250);
    if dies {
        old.iter().for_each(|n| world.end(*n, true));
        world.marks.hit("majority died at once");
    } else {
        if world.rng.chance(500) {
            // One controller stays with them: it may lead the controllers, and takes some time to see that it does not any more.
            let leader = world.leader_of(CONTROLLER);
            let with = match leader.filter(|_| world.rng.chance(700)) {
                Some(leader) => leader,
                None => world.rng.pick(&controllers).expect("three"),
            };
            here.retain(|n| *n != with);
            let apart = here.clone();
            world.part(&[with], &apart);
            world.marks.hit("controller cut off with the old majority");
        }
        let apart = here.clone();
        if world.rng.chance(600) {
            // They are taken for dead within a second, and their leases are not over by far.
            world.reset_between(&old, &apart);
            world.run_for(2 * MS);
        }
        world.part(&old, &apart);
    }
    if world.rng.chance(300) {
        // It is stopped while it leads, perhaps, and goes on when the others have gone on without it.
        let n = world.rng.pick(&old).expect("two");
        let wait = world.rng.range(0, 3 * SECOND);
        world.probe_for(prober, &groups, wait);
        let stop = world.rng.range(100 * MS, 8 * SECOND);
        world.pause(n, stop);
    }
    if world.rng.chance(250) {
        // Back too soon to have been given up, or just not.
        let wait = world.rng.range(500 * MS, 8 * SECOND);
        world.probe_for(prober, &groups, wait);
        world.net.blocked.clear();
        old.iter().for_each(|n| world.start_later(*n, MS));
    } else {
        let deadline = world.time + LONG;
        while !world.goes_on_with(survivor, &groups) {
            assert!(
                world.time < deadline,
                "liveness: not gone on by itself within {} s\n{}",
                LONG / SECOND,
                world.describe()
            );
            world.probe_for(prober, &groups, 100 * MS);
            if world.rng.chance(3) {
                world.marks.hit("controller died while leases were waited for");
                let leader = world.leader_of(CONTROLLER).filter(|n| here.contains(n));
                if let Some(n) = leader {
                    world.end(n, true);
                    let wait = world.rng.range(100 * MS, 2 * SECOND);
                    world.start_later(n, wait);
                }
            }
            if world.rng.chance(2) {
                world.end(survivor, true);
                let wait = world.rng.range(100 * MS, 2 * SECOND);
                world.start_later(survivor, wait);
            }
        }
        world.marks.hit("partitions went on without their majority by themselves");
        if !dies && world.rng.chance(600) {
            world.hand_over_among(&old, &groups);
        }
        let wait = world.rng.range(SECOND, 5 * SECOND);
        world.probe_for(prober, &groups, wait);
    }
    world.heal();
    (0..world.nodes.len()).for_each(|n| world.start_later(n, MS));
    let wait = world.rng.range(0, 4 * SECOND);
    world.probe_for(prober, &groups, wait);
    world.stop_producers();
    let healed = world.verdict();
    let image = world.check.metadata_now().clone();
    for known in &image.recoveries {
        assert!(known.auto, "nobody approved anything: {known:?}");
        world.marks.hit(match known.outcome {
            Outcome::Verified { lossless: false, .. } => "auto recovery verified",
            Outcome::Verified { .. } => "auto recovery without loss after all",
            Outcome::Refused { .. } => "auto plan refused for its seals",
            _ => "auto recovery decided",
        });
    }
    healed
}

#[test]
fn old_majority_answers_nobody_once_the_controllers_have_gone_on_without_it() {
    let name = "autos::old_majority_answers_nobody_once_the_controllers_have_gone_on_without_it";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, story);
    println!("{}", report.text());
    let is_short = report.runs < 100;
    for mark in ["auto recovery verified", "controller cut off with the old majority"] {
        assert!(is_short || report.marks.0.contains_key(mark), "never met: {mark}");
    }
}

/// The policy is taken back, and set again when the majority is cut off: that serves on without leases, and what it may have said of the
/// time before is no word for this one.
fn set_again_unheard(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    let prober = world.add_client(Work::Manual(BTreeMap::new()));
    let groups = world.groups_of("t", world.plan.partitions as usize);
    let wait = world.rng.range(500 * MS, 2 * SECOND);
    world.run_for(wait);
    let brokers = world.plan.brokers();
    let survivor = world.rng.pick(&brokers).expect("three");
    let old: Vec<usize> = brokers.iter().copied().filter(|n| *n != survivor).collect();
    let mut apart = world.plan.controllers();
    apart.push(survivor);
    for policy in ["operator", "auto", "operator"] {
        world.set_policy(prober, survivor, policy);
        let wait = world.rng.range(0, 700 * MS);
        world.run_for(wait);
    }
    world.part(&old, &apart);
    world.set_policy(prober, survivor, "auto");
    // All leases would be over, and the delay.
    let wait = world.rng.range(13 * SECOND, 20 * SECOND);
    world.probe_for(prober, &groups, wait);
    let recoveries = &world.check.metadata_now().recoveries;
    assert!(recoveries.is_empty(), "Auto: not all brokers know of the policy: {recoveries:?}");
    world.heal();
    (0..world.nodes.len()).for_each(|n| world.start_later(n, MS));
    let wait = world.rng.range(0, 4 * SECOND);
    world.probe_for(prober, &groups, wait);
    world.stop_producers();
    world.verdict()
}

#[test]
fn policy_that_the_majority_has_not_heard_of_is_not_acted_on() {
    let name = "autos::policy_that_the_majority_has_not_heard_of_is_not_acted_on";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, set_again_unheard);
    println!("{}", report.text());
}

/// Any random run, with a policy whose leases come and go and whose moment never comes.
fn under_faults(seed: u64) -> Plan {
    let mut plan = Plan::random(seed);
    plan.topic_configs.insert("recovery.policy".to_owned(), Some("auto".to_owned()));
    plan.topic_configs.insert("recovery.auto.delay.ms".to_owned(), Some(i64::MAX.to_string()));
    plan
}

#[test]
fn topics_that_need_leases_bear_whatever_others_do() {
    let name = "autos::topics_that_need_leases_bear_whatever_others_do";
    let report = over_seeds(name, Budget::Seeds(SEEDS), under_faults, whole);
    println!("{}", report.text());
}

/// Random faults that end no disk, and controllers that act on them as soon as they may.
fn acts_under_faults(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0xa070_0003);
    let mut plan = Plan::random(seed);
    (plan.brokers_count, plan.controllers_count, plan.combined) = (3, 3, false);
    (plan.replication, plan.shrink, plan.unclean, plan.recovers) = (3, true, false, true);
    (plan.is_async, plan.min_insync) = (false, 1);
    plan.topic_configs.remove("flush.mode");
    let menu = &mut plan.menu;
    (menu.members, menu.generations, menu.damage, menu.io_errors, menu.full_disks, menu.moves, menu.admin) =
        (false, false, false, false, false, false, false);
    (menu.partitions, menu.clocks) = (true, rng.chance(700));
    plan.chaos = rng.range(15, 40) * SECOND;
    plan.topic_configs.insert("recovery.policy".to_owned(), Some("auto".to_owned()));
    let delay = rng.range(0, 600).to_string();
    plan.topic_configs.insert("recovery.auto.delay.ms".to_owned(), Some(delay));
    plan
}

#[test]
fn controllers_act_under_faults_and_nobody_answers_in_a_generation_that_is_over() {
    let name = "autos::controllers_act_under_faults_and_nobody_answers_in_a_generation_that_is_over";
    let report = over_seeds(name, Budget::Seeds(SEEDS), acts_under_faults, whole);
    println!("{}", report.text());
}
