//! `recovery.policy=auto`: what is approved without anybody's approval, when, and that the decision waits for leases all the same.
use super::*;
use crate::ctl::auto::{self, Watch};
use crate::ctl::generations::Sealed;
use crate::ctl::lease::Granted;
use crate::ctl::recovery::{self, GroupPlan, Holding, Outcome, PartitionReport, Progress, Standing, plan_id};
use crate::raftlog::generation::SealReport;
use crate::raftlog::message::Configuration;
use crate::segment::{Generation, GroupId, Index, LogId, Term};

/// When leases of whoever led the controllers before are over, and the delay.
const OVER: u64 = 11_000;
const DELAY: u64 = 30_000;

struct World {
    log: Log,
    watch: Watch,
    leases: Granted,
    group: GroupId,
}

impl World {
    /// One partition of three replicas, of which the last two are dead.
    fn lost(policy: &str) -> Self {
        let mut log = Log::with_brokers(&[None; 3]);
        let mut create = creation("t", 1, 3);
        create.configs.insert("recovery.policy".to_owned(), Some(policy.to_owned()));
        log.run(&Command::CreateTopic(create)).unwrap();
        let group = log.image.topics["t"].partitions[0].group;
        let mut world = Self { log, watch: Watch::default(), leases: Granted::new(0), group };
        let replicas = world.log.image.topics["t"].partitions[0].replicas.clone();
        for replica in &replicas[1..] {
            world.stand(replica.node, false);
        }
        world
    }

    fn stand(&mut self, node: NodeId, lives: bool) {
        let incarnation = self.log.image.brokers[&node].incarnation;
        let command = match lives {
            true => Command::Unfence { node, incarnation },
            false => Command::Dead { node, incarnation },
        };
        self.log.run(&command).unwrap();
    }

    fn holding(&self, last: u64) -> Holding {
        let placed = self.log.image.group(self.group).unwrap().2;
        let report = SealReport {
            replica: placed.replicas[0],
            generation: Generation(placed.generation),
            plan: placed.sealing.unwrap_or(0),
            sound: true,
            last: LogId::new(0, 3, last),
            highest_term: Term(3),
            configuration: Configuration { voters: placed.replicas.clone(), ..Configuration::default() },
            configuration_id: LogId::default(),
            is_committed: true,
            commit: Index(last),
        };
        let offsets = (0, last as i64, last as i64);
        Holding { report, unsound: None, leads: false, follows: None, offsets }
    }

    fn look(&mut self, holding: &Holding, now: u64) -> Vec<GroupPlan> {
        let report = self.report(holding);
        let (image, holdings) = (&self.log.image, [holding.clone()]);
        let found = [(self.group, report, &holdings[..])];
        self.watch.look(image, &self.log.defaults, &self.leases, &found, now)
    }

    fn report(&self, holding: &Holding) -> PartitionReport {
        recovery::plan(&self.log.image, self.group, std::slice::from_ref(holding), &|_| None).unwrap()
    }

    /// It is back, and announces that it stops.
    fn stops(&mut self, node: NodeId) {
        self.stand(node, true);
        let incarnation = self.log.image.brokers[&node].incarnation;
        self.log.run(&Command::Stopping { node, incarnation }).unwrap();
    }

    fn said(&self) -> String {
        self.watch.said().get(&self.group).cloned().unwrap_or_default()
    }

    fn approve(&mut self, plans: Vec<GroupPlan>, auto: bool) -> Result<Reply, Error> {
        let (id, reason) = (plan_id(&plans), auto::REASON.to_owned());
        self.log.run(&Command::Recover { id, reason, at_ms: 7, plans, auto })
    }
}

#[test]
fn plan_is_due_when_leases_are_over_and_it_has_stood_for_the_delay() {
    let mut world = World::lost("auto");
    assert_eq!(auto::candidates(&world.log.image).collect::<Vec<_>>(), [world.group]);
    let holding = world.holding(9);
    assert!(world.look(&holding, 100).is_empty());
    assert!(world.said().contains("leases"), "{}", world.said());
    assert!(world.look(&holding, OVER).is_empty());
    assert!(world.said().contains("goes on by itself in 30000 ms"), "{}", world.said());
    assert!(world.look(&holding, OVER + DELAY - 1).is_empty());
    // Its log is another one than it was: the waiting begins anew.
    let other = world.holding(10);
    assert!(world.look(&other, OVER + DELAY).is_empty());
    assert!(world.look(&other, OVER + 2 * DELAY - 1).is_empty());
    let due = world.look(&other, OVER + 2 * DELAY);
    assert_eq!(due.iter().map(|plan| plan.base).collect::<Vec<_>>(), [LogId::new(0, 3, 10)]);
    world.approve(due, true).unwrap();
    assert!(world.log.image.recoveries[0].auto && world.log.image.recoveries[0].reason == auto::REASON);
    assert_eq!(auto::candidates(&world.log.image).count(), 0, "once is enough");
}

#[test]
fn broker_that_comes_back_stops_it() {
    let mut world = World::lost("auto");
    let holding = world.holding(9);
    let back = world.log.image.topics["t"].partitions[0].replicas[1].node;
    world.look(&holding, OVER);
    world.stand(back, true);
    assert!(world.look(&holding, OVER + DELAY).is_empty());
    assert_eq!(world.said(), "", "it may be about to say");
    assert!(world.look(&holding, OVER + DELAY + 2_000).is_empty());
    assert!(world.said().contains("alive and has not said"), "{}", world.said());
    world.stand(back, false);
    assert!(world.look(&holding, OVER + DELAY + 2_001).is_empty(), "the waiting begins anew");
    assert_eq!(world.look(&holding, OVER + 2 * DELAY + 2_001).len(), 1);
}

/// A planned restart of two brokers is no loss, however long the delay is.
#[test]
pub(crate) fn broker_that_stopped_in_order_is_waited_for_until_its_grace_is_over() {
    let mut world = World::lost("auto");
    let holding = world.holding(9);
    let away = world.log.image.topics["t"].partitions[0].replicas[1].node;
    world.stops(away);
    let late = 100 * DELAY;
    assert!(world.look(&holding, OVER).is_empty());
    assert!(world.look(&holding, late).is_empty(), "it is expected back");
    assert!(world.said().contains(&format!("broker {away}, which stopped in order")), "{}", world.said());
    world.stand(away, false);
    assert!(world.look(&holding, late).is_empty(), "the waiting begins when its grace is over");
    let plans = world.look(&holding, late + DELAY);
    assert_eq!(plans.len(), 1);
    world.approve(plans, true).unwrap();
    // It was there, and did not come to be sealed before it stopped again.
    world.stops(away);
    let (mut sealed, mut drift) = (Sealed::default(), Vec::new());
    sealed.leases = Granted::new(0);
    sealed.on_report(&world.log.image, world.group, world.holding(9).report, 0);
    assert!(sealed.decide(&world.log.image, late, 0, &mut drift).is_empty(), "it is expected back");
    assert!(sealed.said().any(|(group, why)| group == world.group && why.contains("stopped in order")));
    world.stand(away, false);
    assert_eq!(sealed.decide(&world.log.image, late, 0, &mut drift).len(), 1);
    assert!(drift.is_empty() && sealed.said().count() == 0);
}

#[test]
fn broker_that_is_silent_is_not_given_up_by_the_way() {
    let mut world = World::lost("auto");
    let holding = world.holding(9);
    let away = world.log.image.topics["t"].partitions[0].replicas[1].node;
    world.stand(away, true);
    let incarnation = world.log.image.brokers[&away].incarnation;
    world.log.run(&Command::Fence { node: away, incarnation }).unwrap();
    assert!(world.look(&holding, OVER).is_empty() && world.look(&holding, 100 * DELAY).is_empty());
    assert!(world.said().contains("not given up yet"), "{}", world.said());
}

/// Every approval is in the audit for ever.
#[test]
fn plans_that_the_seals_refuse_again_and_again_wait_longer_each_time() {
    let mut world = World::lost("auto");
    let mut now = OVER;
    for refused in 0..8 {
        let wait = DELAY.max(if refused < 2 { 0 } else { 5_000 << (refused - 2) });
        let holding = world.holding(9);
        assert!(world.look(&holding, now).is_empty());
        assert!(world.look(&holding, now + wait - 1).is_empty(), "after {refused} too early");
        now += wait;
        let plans = world.look(&holding, now);
        assert_eq!(plans.len(), 1, "after {refused}");
        world.approve(plans, true).unwrap();
        let recovery = world.log.image.recoveries.last().unwrap().recovery;
        let outcome = Outcome::Refused { reason: "drift".into(), at_ms: 0 };
        let steps = vec![Progress { group: world.group, recovery, outcome }];
        world.log.run(&Command::RecoveryProgress { steps }).unwrap();
    }
}

/// An operator knows what the controllers can only wait for.
#[test]
fn operator_may_approve_what_the_controllers_approved_and_then_no_lease_is_waited_for() {
    let mut world = World::lost("auto");
    let holding = world.holding(9);
    world.look(&holding, OVER);
    let plans = world.look(&holding, OVER + DELAY);
    world.approve(plans.clone(), true).unwrap();
    assert!(world.approve(plans.clone(), true).is_err(), "once is enough");
    let Standing::UnderWay { plan: Some(plan), .. } = world.report(&world.holding(9)).standing else {
        panic!("it is to be seen what was approved")
    };
    assert_eq!(*plan, plans[0]);
    let (mut sealed, mut drift) = (Sealed::default(), Vec::new());
    sealed.leases = Granted::new(100_000);
    sealed.on_report(&world.log.image, world.group, world.holding(9).report, 100_000);
    assert!(sealed.decide(&world.log.image, 101_000, 0, &mut drift).is_empty());
    assert!(sealed.said().any(|(_, why)| why.contains("for leases to end")), "why it waits is said");
    world.approve(plans.clone(), false).unwrap();
    let by = world.log.image.recoveries[1].recovery;
    assert_eq!(world.log.image.recoveries[0].outcome, Outcome::Replaced { by });
    let Standing::UnderWay { plan: None, .. } = world.report(&world.holding(9)).standing else {
        panic!("nothing more is to be approved")
    };
    for auto in [true, false] {
        assert!(world.approve(plans.clone(), auto).is_err(), "an operator's word stands");
    }
    assert_eq!(sealed.decide(&world.log.image, 101_000, 0, &mut drift).len(), 1);
    assert!(drift.is_empty());
}

#[test]
fn replica_in_doubt_is_left_to_an_operator() {
    let mut world = World::lost("auto");
    let mut holding = world.holding(9);
    (holding.report.sound, holding.unsound) = (false, Some("in doubt".into()));
    assert!(world.look(&holding, 1 << 40).is_empty() && world.look(&holding, 1 << 41).is_empty());
    assert!(world.said().contains("does not go on by itself: no replica that can be reached is sound"));
}

#[test]
fn nothing_is_approved_for_topics_with_another_policy() {
    for policy in ["operator", "never"] {
        let mut world = World::lost(policy);
        assert_eq!(auto::candidates(&world.log.image).count(), 0);
        let mut auto = World::lost("auto");
        let holding = auto.holding(9);
        auto.look(&holding, OVER);
        let plans = auto.look(&holding, OVER + DELAY);
        assert!(matches!(world.approve(plans, true), Err(Error::Refused(_))));
    }
}

/// The approval may be old, or another controller leader's: what counts is what may be answered now.
#[test]
fn decision_waits_for_leases_whoever_approved_before() {
    for auto in [true, false] {
        let mut world = World::lost("auto");
        let holding = world.holding(9);
        world.look(&holding, OVER);
        let plans = world.look(&holding, OVER + DELAY);
        world.approve(plans, auto).unwrap();
        let mut sealed = Sealed::default();
        sealed.leases = Granted::new(100_000);
        sealed.on_report(&world.log.image, world.group, world.holding(9).report, 100_000);
        let mut drift = Vec::new();
        let early = sealed.decide(&world.log.image, 105_000, 0, &mut drift);
        assert_eq!(early.len(), usize::from(!auto), "an operator answers for the old majority");
        let mut late = sealed.decide(&world.log.image, 100_000 + OVER, 0, &mut drift);
        late.extend(early);
        assert!(drift.is_empty() && late.iter().any(|opening| !opening.lossless), "{late:?} {drift:?}");
        world.log.run(&Command::OpenGenerations { openings: late }).unwrap();
        assert!(matches!(world.log.image.recoveries[0].outcome, Outcome::Decided { lossless: false, .. }));
    }
}

#[test]
fn policy_that_is_changed_after_the_approval_refuses_it() {
    let mut world = World::lost("auto");
    let holding = world.holding(9);
    world.look(&holding, OVER);
    let plans = world.look(&holding, OVER + DELAY);
    world.approve(plans, true).unwrap();
    let change = crate::ctl::command::ConfigChange {
        name: "recovery.policy".into(),
        op: crate::ctl::command::ConfigOp::Set,
        value: Some("operator".into()),
    };
    let alter =
        Command::AlterConfigs { topic: Some("t".into()), changes: vec![change], validate_only: false };
    world.log.run(&alter).unwrap();
    let mut sealed = Sealed::default();
    sealed.leases = Granted::new(0);
    sealed.on_report(&world.log.image, world.group, world.holding(9).report, 0);
    let mut drift = Vec::new();
    assert!(sealed.decide(&world.log.image, 1 << 40, 0, &mut drift).is_empty());
    assert!(matches!(&drift[..], [step] if matches!(step.outcome, Outcome::Refused { .. })), "{drift:?}");
}
