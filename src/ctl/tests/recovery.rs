//! Recovery of partitions that lost their majority: what a plan says, that exactly it is carried out or nothing, and that it goes on
//! whoever leads the controllers.
use super::*;
use crate::ctl::generations::Sealed;
use crate::ctl::image::Partition;
use crate::ctl::recovery::{self, GroupPlan, Holding, Outcome, Progress, Standing, plan_id};
use crate::raftlog::generation::SealReport;
use crate::raftlog::message::Configuration;
use crate::segment::{Generation, GroupId, Index, LogId, ReplicaId};
use proptest::prelude::*;

pub(super) struct World {
    pub log: Log,
    sealed: Sealed,
    pub group: GroupId,
    now: u64,
}

impl World {
    pub fn new() -> Self {
        let mut log = Log::with_brokers(&[None; 4]);
        log.create("t", 1, 3);
        let group = log.image.topics["t"].partitions[0].group;
        Self { log, sealed: Sealed::default(), group, now: 0 }
    }

    pub fn partition(&self) -> &Partition {
        self.log.image.group(self.group).unwrap().2
    }

    pub fn replicas(&self) -> Vec<ReplicaId> {
        self.partition().replicas.clone()
    }

    /// What the replica at this place holds: entries up to `last` of term 3, known to be committed up to `commit`. One record each.
    pub fn holding(&self, place: usize, last: u64, commit: u64) -> Holding {
        let replicas = self.replicas();
        let report = SealReport {
            replica: replicas[place],
            generation: Generation(self.partition().generation),
            plan: 0,
            sound: true,
            last: LogId::new(0, 3, last),
            highest_term: LogId::new(0, 3, last).epoch.term,
            configuration: Configuration { voters: replicas, ..Configuration::default() },
            configuration_id: LogId::default(),
            is_committed: true,
            commit: Index(commit),
        };
        Holding {
            report,
            unsound: None,
            leads: false,
            follows: None,
            offsets: (0, commit as i64, last as i64),
        }
    }

    pub fn stand(&self, holdings: &[Holding]) -> Standing {
        let silent = |node: NodeId| (node.0 == 1).then_some(1_500);
        recovery::plan(&self.log.image, self.group, holdings, &silent).unwrap().standing
    }

    pub fn plan(&self, holdings: &[Holding]) -> GroupPlan {
        match self.stand(holdings) {
            Standing::Recoverable { plan } => *plan,
            other => panic!("{other:?}"),
        }
    }

    pub fn approve(&mut self, plan: &GroupPlan) -> Result<Reply, Error> {
        let plans = vec![plan.clone()];
        self.log.run(&Command::Recover {
            id: plan_id(&plans),
            reason: "why".into(),
            at_ms: 7,
            plans,
            auto: false,
        })
    }

    pub fn kill(&mut self, node: NodeId) {
        let incarnation = self.log.image.brokers[&node].incarnation;
        self.log.run(&Command::Dead { node, incarnation }).unwrap();
    }

    pub fn seal(&mut self, holding: &Holding) {
        let mut report = holding.report.clone();
        report.plan = self.partition().sealing.expect("a seal was ordered");
        self.sealed.on_report(&self.log.image, self.group, report, self.now);
    }

    /// Whatever follows from the seals after a while.
    pub fn decide(&mut self) {
        self.now += 10_000;
        let mut drift = Vec::new();
        let openings = self.sealed.decide(&self.log.image, self.now, 9, &mut drift);
        self.log.run(&Command::OpenGenerations { openings }).unwrap();
        self.log.run(&Command::RecoveryProgress { steps: drift }).unwrap();
    }

    pub fn outcome(&self) -> Outcome {
        self.log.image.recoveries.last().unwrap().outcome.clone()
    }
}

/// A world in which the second and third replica are dead.
fn lost() -> World {
    let mut world = World::new();
    for place in [1, 2] {
        let node = world.replicas()[place].node;
        world.kill(node);
    }
    world
}

#[test]
fn plan_names_survivor_offsets_and_who_is_removed() {
    let world = lost();
    let replicas = world.replicas();
    let plan = world.plan(&[world.holding(0, 9, 6)]);
    assert_eq!((plan.survivor, plan.base), (replicas[0].node, LogId::new(0, 3, 9)));
    assert_eq!((plan.start, plan.at_risk, plan.end), (0, 6, 9));
    assert_eq!(plan.silent.iter().map(|s| s.node).collect::<Vec<_>>(), {
        let mut gone = vec![replicas[1].node, replicas[2].node];
        gone.sort_unstable();
        gone
    });
    assert!(plan.silent.iter().all(|s| s.votes && s.silent_ms == (s.node.0 == 1).then_some(1_500)));
    let same = world.plan(&[world.holding(0, 9, 6)]);
    assert_eq!(
        plan_id(std::slice::from_ref(&plan)),
        plan_id(&[same]),
        "who sees the same gets the same number"
    );
    let other = world.plan(&[world.holding(0, 10, 6)]);
    assert_ne!(plan_id(&[plan]), plan_id(&[other]));
}

#[test]
fn what_a_sound_replica_knows_to_be_committed_is_not_at_risk() {
    let mut world = World::new();
    // Of five, three are gone; the second one that is left knows more than the survivor.
    let replicas = world.replicas();
    world.kill(replicas[2].node);
    let far: Vec<ReplicaId> = (7..10).map(|node| ReplicaId { node: NodeId(node), ..replicas[0] }).collect();
    let widen = |mut holding: Holding| {
        holding.report.configuration.voters = vec![replicas[0], replicas[1], far[0], far[1], far[2]];
        holding
    };
    let (best, other) = (widen(world.holding(0, 9, 2)), widen(world.holding(1, 8, 5)));
    let plan = world.plan(&[other.clone(), best.clone()]);
    assert_eq!((plan.survivor, plan.at_risk, plan.known_by), (replicas[0].node, 5, replicas[1].node));
    // In doubt, it counts for nothing.
    let mut doubtful = other;
    (doubtful.report.sound, doubtful.unsound) = (false, Some("damaged".into()));
    let plan = world.plan(&[doubtful, best]);
    assert_eq!((plan.at_risk, plan.known_by), (2, replicas[0].node));
    world.now += 1;
}

#[test]
fn what_needs_no_plan_or_can_have_none_is_told() {
    let mut world = lost();
    let replicas = world.replicas();
    let mut leader = world.holding(0, 9, 9);
    leader.leads = true;
    assert_eq!(world.stand(&[leader]), Standing::Served { leader: replicas[0].node });
    let two = [world.holding(0, 9, 9), world.holding(1, 4, 4)];
    assert_eq!(world.stand(&two), Standing::Provable);
    assert!(matches!(world.stand(&[]), Standing::Stuck { .. }));
    let mut damaged = world.holding(0, 9, 9);
    (damaged.report.sound, damaged.unsound) = (false, Some("entries 3 to 4 are damaged".into()));
    let Standing::Stuck { reason } = world.stand(&[damaged]) else { panic!("nobody is sound") };
    assert!(reason.contains("entries 3 to 4"), "{reason}");
    let mut ahead = world.holding(0, 9, 9);
    ahead.report.generation = Generation(1);
    assert!(matches!(world.stand(&[ahead]), Standing::Stuck { .. }));
    // recovery.policy=never: neither a plan nor the approval of one made before.
    let plan = world.plan(&[world.holding(0, 9, 9)]);
    let change = crate::ctl::command::ConfigChange {
        name: "recovery.policy".into(),
        op: crate::ctl::command::ConfigOp::Set,
        value: Some("never".into()),
    };
    let alter =
        Command::AlterConfigs { topic: Some("t".into()), changes: vec![change], validate_only: false };
    world.log.run(&alter).unwrap();
    let Standing::Stuck { reason } = world.stand(&[world.holding(0, 9, 9)]) else { panic!("never is never") };
    assert!(reason.contains("never"), "{reason}");
    assert!(matches!(world.approve(&plan), Err(Error::Refused(_))));
}

/// Nodes tell each other of it as JSON.
#[test]
fn every_standing_travels() {
    let mut world = lost();
    let held = world.holding(0, 9, 6);
    let mut standings = vec![world.stand(std::slice::from_ref(&held)), world.stand(&[])];
    standings.push(world.stand(&[held.clone(), world.holding(1, 4, 4)]));
    standings.push(world.stand(&[Holding { leads: true, ..held.clone() }]));
    let plan = world.plan(std::slice::from_ref(&held));
    world.approve(&plan).unwrap();
    standings.push(world.stand(std::slice::from_ref(&held)));
    world.seal(&held);
    world.decide();
    standings.push(world.stand(std::slice::from_ref(&held)));
    for standing in standings {
        let report = recovery::PartitionReport { topic: "t".into(), partition: 0, generation: 0, standing };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<recovery::PartitionReport>(&text).ok(), Some(report), "{text}");
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
    let text = serde_json::to_string(&held).unwrap();
    assert_eq!(serde_json::from_str::<Holding>(&text).ok(), Some(held));
}

/// A newcomer that never heard a leader was offered as what the partition should go on with, from nothing.
#[test]
fn replica_that_is_empty_is_no_survivor() {
    let mut world = lost();
    let mut empty = world.holding(0, 0, 0);
    (empty.report.last, empty.report.configuration) = (LogId::default(), Configuration::default());
    let Standing::Stuck { reason } = world.stand(std::slice::from_ref(&empty)) else { panic!("offered") };
    assert!(reason.contains("no broker that answers holds a replica"), "{reason}");
    let mut plan = world.plan(&[world.holding(0, 9, 6)]);
    (plan.voters, plan.base) = (Vec::new(), LogId::default());
    assert!(matches!(world.approve(&plan), Err(Error::Refused(_))));
}

/// Found by the simulator: the survivor that was decided on lost its disk before it took over. The others had learnt of the generation,
/// which voids their configurations, and were taken for empty: no plan was offered, though they held everything.
#[test]
fn replicas_that_only_learnt_of_a_generation_may_survive_it() {
    let mut world = lost();
    let held = world.holding(0, 9, 6);
    let (first, second) = (world.replicas()[0].node, world.replicas()[1].node);
    world.approve(&world.plan(std::slice::from_ref(&held))).unwrap();
    world.seal(&held);
    world.decide();
    assert_eq!(world.partition().generation, 1);
    world.log.run(&registration(first.0, 77, None)).unwrap();
    world.log.run(&Command::Place { node: first }).unwrap();
    world.log.unfence(second.0);
    let mut back = world.holding(1, 8, 0);
    back.report.configuration = Configuration::default();
    let mut anew = world.holding(0, 0, 0);
    (anew.report.last, anew.report.configuration) = (LogId::default(), Configuration::default());
    let plan = world.plan(&[anew.clone(), back.clone()]);
    assert_eq!((plan.survivor, plan.base, plan.from), (second, back.report.last, 1));
    world.approve(&plan).unwrap();
    world.seal(&anew);
    world.seal(&back);
    world.decide();
    assert_eq!(world.partition().generation, 2);
    assert_eq!(world.partition().opening.as_ref().unwrap().opening.survivor.node, second);
}

#[test]
fn nothing_that_may_lose_records_is_decided_without_approval() {
    let mut world = lost();
    let held = world.holding(0, 9, 6);
    let node = held.report.replica.node;
    world.log.run(&Command::Seal { node, groups: vec![(world.group, 0)] }).unwrap();
    world.seal(&held);
    world.decide();
    assert_eq!((world.partition().generation, world.partition().opening.clone()), (0, None));
    // Not even if somebody asks for it outright.
    let plan = world.plan(std::slice::from_ref(&held));
    let opening = crate::ctl::record::GroupOpening {
        group: world.group,
        generation: 1,
        survivor: node,
        base: plan.base,
        first_term: crate::segment::Term(2_000_000),
        lossless: false,
        learners: Vec::new(),
    };
    world.log.run(&Command::OpenGenerations { openings: vec![opening.clone()] }).unwrap();
    assert_eq!(world.partition().generation, 0);
    let record = Record::Generation { openings: vec![opening] };
    assert!(world.log.write(Batch::new(vec![record])).is_err());
    // Sealed without a plan, it can be given one.
    world.approve(&plan).unwrap();
    world.decide();
    assert_eq!(world.partition().generation, 1);
}

#[test]
fn approved_plan_is_carried_out_and_kept_for_ever() {
    let mut world = lost();
    let held = world.holding(0, 9, 6);
    let plan = world.plan(std::slice::from_ref(&held));
    world.approve(&plan).unwrap();
    let number = world.partition().recovery.as_ref().unwrap().recovery;
    assert_eq!(world.partition().sealing, Some(number));
    assert_eq!(world.outcome(), Outcome::Approved {});
    let Standing::UnderWay { waits_for, .. } = world.stand(std::slice::from_ref(&held)) else {
        panic!("under way")
    };
    assert_eq!(waits_for, [plan.survivor]);
    assert!(matches!(world.approve(&plan), Err(Error::Refused(_))), "it is approved already");
    world.seal(&held);
    // Another controller leader takes over: seals are told again.
    world.sealed = Sealed::default();
    world.decide();
    assert_eq!(world.partition().generation, 0, "nobody told this one yet");
    world.seal(&held);
    world.decide();
    let decision = world.partition().opening.clone().unwrap();
    assert_eq!(decision.opening.survivor, held.report.replica);
    assert_eq!((decision.opening.base, decision.opening.lossless), (plan.base, false));
    assert!(decision.opening.first_term.0 > 1_000_000);
    assert_eq!((&world.partition().recovery, world.partition().sealing), (&None, None));
    assert!(matches!(world.outcome(), Outcome::Decided { lossless: false, .. }));
    let unverified: Vec<u64> = world.log.image.unverified().map(|(r, _)| r.recovery).collect();
    assert_eq!(unverified, [number]);
    // Had the survivor died before it led, and the next generation begun without it, nobody would look for it any more.
    let mut later = world.log.image.clone();
    later.topics.get_mut("t").unwrap().partitions[0].generation = 2;
    assert_eq!(later.unverified().count(), 0);
    let outcome = Outcome::Verified { lossless: false, high_watermark: 9, at_ms: 11 };
    let steps = vec![Progress { group: world.group, recovery: number, outcome: outcome.clone() }];
    world.log.run(&Command::RecoveryProgress { steps: steps.clone() }).unwrap();
    assert_eq!(world.outcome(), outcome);
    assert_eq!(world.log.image.unverified().count(), 0);
    let entries = world.log.entries.len();
    world.log.run(&Command::RecoveryProgress { steps }).unwrap();
    assert_eq!(world.log.entries.len(), entries, "once is enough");
    // The topic goes, the audit stays.
    world.log.run(&Command::DeleteTopic { name: Some("t".into()), id: None }).unwrap();
    assert_eq!(world.log.image.recoveries[0].plan, plan);
    // What is in the log can be read again.
    for (_, batch) in &world.log.entries {
        assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(batch));
    }
    // The whole image, audit included, is what a snapshot of it would bring.
    let text = serde_json::to_string(&world.log.image.recoveries).unwrap();
    let back: Vec<recovery::Recovery> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, world.log.image.recoveries);
}

#[test]
fn plan_of_another_number_is_refused() {
    let mut world = lost();
    let plan = world.plan(&[world.holding(0, 9, 6)]);
    let refused = world.log.run(&Command::Recover {
        id: "0123456789abcdef".into(),
        reason: String::new(),
        at_ms: 0,
        plans: vec![plan],
        auto: false,
    });
    assert!(matches!(refused, Err(Error::Refused(_))));
}

/// Whatever is written, every node can apply: what it refuses stops it.
#[test]
fn two_plans_of_one_partition_are_refused_before_they_are_written() {
    let mut world = lost();
    let plans = vec![world.plan(&[world.holding(0, 9, 6)]), world.plan(&[world.holding(0, 8, 6)])];
    let entries = world.log.entries.len();
    let command =
        Command::Recover { id: plan_id(&plans), reason: String::new(), at_ms: 0, plans, auto: false };
    assert!(matches!(world.log.run(&command), Err(Error::Refused(_))));
    assert_eq!((world.log.entries.len(), world.partition().sealing), (entries, None));
}

#[test]
fn broker_that_is_alive_is_heard_before_anything_is_given_up() {
    let mut world = World::new();
    let replicas = world.replicas();
    let held = world.holding(0, 9, 6);
    world.kill(replicas[1].node);
    let Standing::Stuck { reason } = world.stand(std::slice::from_ref(&held)) else {
        panic!("one may answer")
    };
    assert!(reason.contains(&format!("broker {} is alive", replicas[2].node)), "{reason}");
    // Approved when it seemed dead, it is waited for however long it takes; fenced, no longer.
    let plan = lost().plan(std::slice::from_ref(&held));
    world.approve(&plan).unwrap();
    world.seal(&held);
    for _ in 0..5 {
        world.decide();
        assert_eq!((world.partition().generation, world.outcome()), (0, Outcome::Approved {}));
    }
    world.kill(replicas[2].node);
    world.decide();
    assert_eq!(world.partition().generation, 1);
    // A leader that is alive, though it has no place among the replicas here.
    let world = lost();
    let other = (1..10)
        .map(NodeId)
        .find(|n| world.log.image.brokers.contains_key(n) && replicas.iter().all(|r| r.node != *n));
    let led = Holding { follows: other, ..world.holding(0, 9, 6) };
    assert!(other.is_some() && matches!(world.stand(&[led]), Standing::Stuck { .. }));
    let stale = Holding { follows: Some(replicas[1].node), ..world.holding(0, 9, 6) };
    world.plan(&[stale]);
}

#[test]
fn drift_between_plan_and_seals_decides_nothing_and_asks_for_another_plan() {
    let mut world = lost();
    let plan = world.plan(&[world.holding(0, 9, 6)]);
    world.approve(&plan).unwrap();
    // It lost its last entry in between.
    let less = world.holding(0, 8, 6);
    world.seal(&less);
    world.decide();
    assert_eq!(world.partition().generation, 0);
    assert!(matches!(world.outcome(), Outcome::Refused { at_ms: 9, .. }), "{:?}", world.outcome());
    assert!(world.partition().sealing.is_some(), "a seal is never undone");
    let again = world.plan(&[less]);
    world.approve(&again).unwrap();
    world.decide();
    assert_eq!(world.partition().generation, 1);
    assert_eq!(world.partition().opening.as_ref().unwrap().opening.base, again.base);
    assert_eq!(world.log.image.recoveries.len(), 2);
}

#[test]
fn another_plan_takes_the_place_of_one_whose_survivor_went_away() {
    let mut world = lost();
    let (first, second) = (world.holding(0, 9, 6), world.holding(1, 7, 6));
    let plan = world.plan(std::slice::from_ref(&first));
    world.approve(&plan).unwrap();
    // It dies before it is sealed; the second comes back and reports its own seal.
    world.seal(&second);
    world.decide();
    assert_eq!(world.partition().generation, 0, "the approved survivor is waited for");
    let Standing::UnderWay { .. } = world.stand(std::slice::from_ref(&second)) else { panic!("under way") };
    world.kill(plan.survivor);
    let other = world.plan(std::slice::from_ref(&second));
    assert_eq!((other.survivor, other.end), (second.report.replica.node, 7));
    world.approve(&other).unwrap();
    let number = world.partition().recovery.as_ref().unwrap().recovery;
    assert_eq!(world.log.image.recoveries[0].outcome, Outcome::Replaced { by: number });
    world.decide();
    let decision = world.partition().opening.clone().unwrap();
    assert_eq!(decision.opening.survivor, second.report.replica);
}

#[test]
fn what_the_seals_prove_to_be_whole_is_decided_as_such() {
    let mut world = lost();
    let (first, second) = (world.holding(0, 9, 6), world.holding(1, 12, 6));
    let plan = world.plan(std::slice::from_ref(&first));
    world.approve(&plan).unwrap();
    world.seal(&first);
    world.seal(&second);
    world.decide();
    let decision = world.partition().opening.clone().unwrap();
    assert_eq!((decision.opening.survivor, decision.opening.lossless), (second.report.replica, true));
    assert!(matches!(world.outcome(), Outcome::Decided { lossless: true, .. }));
}

#[derive(Clone, Debug)]
enum Step {
    /// The replicas that can be reached are asked, and whatever plan follows is approved.
    Approve(u8),
    /// A replica that was not sealed yet has another log.
    Change(usize, u64),
    Seal(usize),
    Decide,
    NewController,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..8u8).prop_map(Step::Approve),
        2 => (0..3usize, 1..12u64).prop_map(|(place, last)| Step::Change(place, last)),
        4 => (0..3usize).prop_map(Step::Seal),
        3 => Just(Step::Decide),
        1 => Just(Step::NewController),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Whatever is approved, changed, sealed and lost in any order: what may lose records is decided as the last approval says, by the
    /// best of the logs that were sealed, once.
    #[test]
    fn generation_that_may_lose_records_is_exactly_what_was_approved(steps in prop::collection::vec(any_step(), 1..30)) {
        let mut world = lost();
        let mut lasts = [9u64, 7, 8];
        let mut sealed = [false; 3];
        for step in steps {
            if world.partition().generation > 0 {
                break;
            }
            match step {
                Step::Approve(reached) => {
                    let held: Vec<Holding> = (0..3).filter(|p| reached & (1 << p) != 0)
                        .map(|p| world.holding(p, lasts[p], 3)).collect();
                    if let Standing::Recoverable { plan } = world.stand(&held) {
                        prop_assert!(world.approve(&plan).is_ok());
                    }
                }
                Step::Change(place, last) if !sealed[place] => lasts[place] = last,
                Step::Seal(place) if world.partition().sealing.is_some() => {
                    sealed[place] = true;
                    let held = world.holding(place, lasts[place], 3);
                    world.seal(&held);
                }
                Step::Decide => {
                    let approved = world.partition().recovery.clone();
                    world.decide();
                    if let Some(decision) = world.partition().opening.clone() {
                        let opening = decision.opening;
                        let best = (0..3).filter(|p| sealed[*p]).map(|p| lasts[p]).max();
                        if !opening.lossless {
                            let approved = approved.expect("somebody approved it");
                            prop_assert_eq!((approved.survivor, approved.base), (opening.survivor, opening.base));
                        }
                        let decided = best.is_some_and(|best| opening.base.index.0 <= best);
                        prop_assert!(decided, "of a log that was sealed");
                        let outcomes = &world.log.image.recoveries;
                        let open = outcomes.iter().filter(|r| r.outcome == Outcome::Approved {}).count();
                        prop_assert_eq!(open, 0, "every approval has come to something");
                    }
                }
                Step::NewController => world.sealed = Sealed::default(),
                _ => {}
            }
        }
    }
}
