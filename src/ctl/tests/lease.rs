//! Leases: a broker's always ends before the controllers count on that, whatever the clocks, delays and changes of controllers; and what
//! they have to know of a partition before they count on leases at all.
use super::*;
use crate::ctl::command::{ConfigChange, ConfigOp};
use crate::ctl::image::{Partition, Topic};
use crate::ctl::lease::{Granted, Held, Hindrance, LEASE_MAX_MS, Lease, Told, configuration, length};
use crate::ctl::recovery::Holding;
use crate::raftlog::generation::SealReport;
use crate::raftlog::message::Configuration;
use crate::segment::{Generation, Index, LogId, ReplicaId, Term};
use proptest::prelude::*;

/// Who is asked for leases, and for which registration.
const ASKED: NodeId = NodeId(5);
const REGISTRATION: u64 = 20;

fn lease(ms: u64, through: u64) -> Lease {
    Lease { ms, through: Index(through), by: ASKED, incarnation: REGISTRATION }
}

/// A topic of three replicas on brokers 0 to 2, of four.
fn world(policy: Option<&str>) -> Log {
    let mut log = Log::with_brokers(&[None; 4]);
    let mut create = creation("t", -1, -1);
    create.assignments = Some(vec![vec![NodeId(0), NodeId(1), NodeId(2)]]);
    create.configs.extend(policy.map(|policy| ("recovery.policy".to_owned(), Some(policy.to_owned()))));
    log.run(&Command::CreateTopic(create)).unwrap();
    log
}

fn of(log: &Log) -> (&Topic, &Partition) {
    let topic = &log.image.topics["t"];
    (topic, &topic.partitions[0])
}

/// What the replica on broker 0 says.
fn survivor(log: &Log) -> SealReport {
    let replicas = of(log).1.replicas.clone();
    SealReport {
        replica: replicas[0],
        generation: Generation(0),
        plan: 0,
        sound: true,
        last: LogId::new(0, 3, 9),
        highest_term: Term(3),
        configuration: Configuration { voters: replicas, ..Configuration::default() },
        configuration_id: LogId::default(),
        is_committed: true,
        commit: Index(9),
    }
}

/// Who has not said anything has been given up.
fn check(log: &Log, granted: &Granted, said: &[i32], now: u64) -> Result<(), Hindrance> {
    let has_said = |replica: &ReplicaId| said.contains(&replica.node.0);
    granted.check(&all_dead(log), of(log), &survivor(log), &has_said, now)
}

fn all_dead(log: &Log) -> Image {
    let mut image = log.image.clone();
    image.brokers.values_mut().for_each(|broker| broker.dead = true);
    image
}

fn holding(log: &Log, place: usize, term: u64) -> Holding {
    let replica = of(log).1.replicas[place];
    let report = SealReport { replica, highest_term: Term(term), ..survivor(log) };
    Holding { report, unsound: None, leads: place == 0, follows: None, offsets: (0, 9, 9) }
}

fn incarnation(log: &Log, node: i32) -> u64 {
    log.image.brokers[&NodeId(node)].incarnation
}

fn alter(log: &mut Log, policy: &str) {
    let change =
        ConfigChange { name: "recovery.policy".into(), op: ConfigOp::Set, value: Some(policy.into()) };
    let (topic, validate_only) = (Some("t".into()), false);
    log.run(&Command::AlterConfigs { topic, changes: vec![change], validate_only }).unwrap();
}

/// Kept apart as a function that mutation switches can run.
#[test]
pub(crate) fn no_lease_is_believed_in_when_the_controllers_take_it_for_over() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let heartbeats = prop::collection::vec((0u64..3_000, 0u64..2_500, 0u64..2_500), 1..12);
    let case = (heartbeats, 940u64..1_060, 940u64..1_060, 1u64..20_000, any::<bool>());
    runner
        .run(&case, |(heartbeats, broker_rate, controller_rate, session, changes)| {
            let log = world(Some("auto"));
            // Real time in microseconds; each clock in its own milliseconds, begun somewhere.
            let broker = |real: u64| real * broker_rate / 1_000_000 + 77;
            let controller = |real: u64| real * controller_rate / 1_000_000 + 5_000;
            let (mut real, mut held, mut last) = (1_000_000, Held::default(), 0);
            let mut granted = Granted::new(controller(0));
            let ms = length(session);
            for (number, (pause, there, back)) in (1..).zip(heartbeats) {
                real += pause * 1_000;
                held.ask(number, ASKED, REGISTRATION, broker(real));
                let (heard, answered) = (real + there * 1_000, real + (there + back) * 1_000);
                granted.grant(NodeId(1), incarnation(&log, 1), controller(heard), ms);
                held.on_granted(number, lease(ms, number), broker(answered));
                held.advance(Index(number));
                (real, last) = (answered, heard);
            }
            if changes {
                // Another one is elected, right after the last one was confirmed.
                granted = Granted::new(controller(last));
            }
            for step in 0..2_000u64 {
                let at = real + step * 20_000;
                let is_over = check(&log, &granted, &[0, 2], controller(at)).is_ok();
                assert!(
                    !is_over || !held.is_valid(broker(at)),
                    "a lease is believed in that is taken for over"
                );
            }
            let late = real + 40_000_000;
            assert!(check(&log, &granted, &[0, 2], controller(late)).is_ok(), "no lease is for ever");
            Ok(())
        })
        .unwrap();
}

#[test]
fn lease_is_of_no_use_before_the_log_is_applied_as_far_as_it_went() {
    let mut held = Held::default();
    held.ask(1, ASKED, REGISTRATION, 1_000);
    held.on_granted(1, lease(1_600, 7), 1_010);
    held.advance(Index(6));
    assert!(!held.is_valid(1_011), "it knows of nothing that was decided before the lease");
    held.advance(Index(7));
    assert!(
        held.is_valid(1_011) && held.is_valid(2_400) && !held.is_valid(2_498),
        "less a part for the clocks"
    );
    // A later one that is of no use yet takes nothing away, nor does an answer to a question that was not asked.
    held.ask(2, ASKED, REGISTRATION, 2_000);
    held.on_granted(2, lease(1_600, 9), 2_001);
    held.on_granted(3, lease(9_000, 1), 2_001);
    held.advance(Index(8));
    assert!(held.is_valid(2_400) && !held.is_valid(2_600));
    // Longer than any, it is cut.
    held.ask(4, ASKED, REGISTRATION, 3_000);
    held.on_granted(4, lease(1 << 40, 8), 3_001);
    held.advance(Index(8));
    assert!(held.until() < 3_000 + LEASE_MAX_MS);
    held.give_up();
    assert!(!held.is_valid(0));
}

/// Every process counts its questions from the start.
#[test]
pub(crate) fn answer_to_an_earlier_process_is_no_lease() {
    let mut held = Held::default();
    held.ask(1, ASKED, REGISTRATION, 1_000);
    held.on_granted(1, Lease { incarnation: REGISTRATION - 9, ..lease(9_000, 7) }, 1_010);
    held.advance(Index(7));
    assert!(!held.is_valid(1_011), "the process before asked for it, and earlier");
    held.on_granted(1, Lease { by: NodeId(6), ..lease(9_000, 7) }, 1_010);
    held.advance(Index(7));
    assert!(!held.is_valid(1_011), "somebody else was asked");
    held.on_granted(1, lease(9_000, 7), 1_020);
    held.advance(Index(7));
    assert!(held.is_valid(1_021), "its own answer counts when it comes");
}

/// The log may lag behind all of them for a while.
#[test]
fn lease_that_is_of_use_soonest_is_kept_when_more_come_than_are_remembered() {
    let mut held = Held::default();
    for number in 1..=20 {
        held.ask(number, ASKED, REGISTRATION, 1_000 + number);
        held.on_granted(number, lease(9_000, number), 1_050);
    }
    held.advance(Index(1));
    assert!(held.is_valid(1_051));
    let first = held.until();
    held.advance(Index(20));
    assert!(held.until() > first, "nor is the newest one given up");
}

#[test]
fn silent_replicas_are_waited_for_and_those_that_have_said_are_not() {
    let log = world(Some("auto"));
    let mut granted = Granted::new(0);
    let Err(Hindrance::Until(first)) = check(&log, &granted, &[0], 0) else {
        panic!("nobody knows what was granted")
    };
    assert!(first > LEASE_MAX_MS && check(&log, &granted, &[0], first).is_ok());
    granted.grant(NodeId(1), incarnation(&log, 1), first, 3_000);
    granted.grant(NodeId(3), incarnation(&log, 3), first, 3_000);
    assert!(check(&log, &granted, &[0, 1], first).is_ok(), "sealed, or not one of it");
    let Err(Hindrance::Until(until)) = check(&log, &granted, &[0], first) else {
        panic!("broker 1 may answer")
    };
    assert!(until > first + 3_000 && check(&log, &granted, &[0], until).is_ok());
    assert!(
        check(&log, &Granted::default(), &[0, 1, 2], u64::MAX - 1).is_err(),
        "who does not lead decides nothing"
    );
}

/// The disk was replaced: the present process cannot hold the replica, the one before may run on somewhere.
#[test]
fn earlier_process_of_a_broker_is_waited_for_and_a_present_one_without_the_disk_is_not() {
    let mut log = world(Some("auto"));
    let mut granted = Granted::new(0);
    let now = 20_000;
    granted.grant(NodeId(1), incarnation(&log, 1), now, 3_000);
    log.run(&registration(1, 9, None)).unwrap();
    let Err(Hindrance::Until(until)) = check(&log, &granted, &[0, 2], now) else { panic!("it may run on") };
    granted.grant(NodeId(1), incarnation(&log, 1), now + 60_000, 3_000);
    assert!(
        check(&log, &granted, &[0, 2], now + 60_000).is_ok(),
        "what the new disk's process may do is no matter"
    );
    assert!(until < now + 60_000);
    // With the same disk it is.
    granted.grant(NodeId(2), incarnation(&log, 2), now + 60_000, 3_000);
    log.run(&registration(2, 0, None)).unwrap();
    granted.grant(NodeId(2), incarnation(&log, 2), now + 61_000, 3_000);
    assert!(check(&log, &granted, &[0], now + 63_500).is_err());
}

/// Whatever has said what it holds is sealed, or about to be, in the process that said so.
#[test]
pub(crate) fn earlier_process_is_waited_for_though_the_present_one_has_said() {
    let mut log = world(Some("auto"));
    let mut granted = Granted::new(0);
    let now = 20_000;
    granted.grant(NodeId(1), incarnation(&log, 1), now, 3_000);
    log.run(&registration(1, 0, None)).unwrap();
    let Err(Hindrance::Until(until)) = check(&log, &granted, &[0, 1, 2], now) else {
        panic!("the process before may run on")
    };
    granted.on_applied(NodeId(1), incarnation(&log, 1), log.image.applied);
    assert_eq!(check(&log, &granted, &[0, 1, 2], now), Err(Hindrance::Until(until)), "heard or not");
    granted.grant(NodeId(1), incarnation(&log, 1), now, 9_000);
    assert!(check(&log, &granted, &[0, 1, 2], until).is_ok(), "the present one has said");
    assert!(check(&log, &granted, &[0, 2], until).is_err());
}

/// What one was told of, another may have been told to forget since: A, B and C know of the policy and are asked who votes; it is taken
/// back, which B and C hear and nothing after that, and set again.
#[test]
pub(crate) fn answers_from_before_the_policy_changed_certify_nothing() {
    let mut log = world(Some("operator"));
    alter(&mut log, "auto");
    let group = of(&log).1.group;
    let mut granted = Granted::new(0);
    let hear = |granted: &mut Granted, log: &Log, nodes: std::ops::Range<i32>| {
        let applied = log.image.applied;
        nodes.for_each(|node| granted.on_applied(NodeId(node), incarnation(log, node), applied));
    };
    hear(&mut granted, &log, 0..3);
    let asked = granted.informed(&log.image);
    let answers: Vec<Holding> = (0..3).map(|place| holding(&log, place, 3)).collect();
    let answers = BTreeMap::from([(group, answers)]);
    let told = granted.told(&log.image, &asked, &answers);
    assert_eq!(told.iter().map(|told| told.group).collect::<Vec<_>>(), [group]);
    alter(&mut log, "operator");
    hear(&mut granted, &log, 1..3);
    alter(&mut log, "auto");
    hear(&mut granted, &log, 0..1);
    assert!(granted.told(&log.image, &asked, &answers).is_empty(), "two of them do not know");
    let entries = log.entries.len();
    log.run(&Command::Leased { groups: told.clone() }).unwrap();
    assert_eq!(log.entries.len(), entries, "what was said under another policy was not taken");
    let written = Batch::new(vec![Record::Leased { groups: told }]);
    assert!(log.image.clone().apply(log.image.applied + 1, &written).is_err(), "nor is it applied");
    hear(&mut granted, &log, 0..3);
    assert!(granted.told(&log.image, &asked, &answers).is_empty(), "they know, and have to be asked again");
    let asked = granted.informed(&log.image);
    let groups = granted.told(&log.image, &asked, &answers);
    log.run(&Command::Leased { groups }).unwrap();
    assert_eq!(of(&log).1.leased, Some(LogId::default()));
}

#[test]
fn partition_that_was_made_under_another_policy_is_left_to_an_operator_until_all_its_brokers_know() {
    let mut log = world(Some("auto"));
    let since = log.image.topics["t"].auto_since.unwrap();
    let late = 1 << 40;
    assert!(check(&log, &Granted::new(0), &[0], late).is_ok());
    alter(&mut log, "auto");
    assert_eq!(log.image.topics["t"].auto_since, Some(since), "nothing was between");
    alter(&mut log, "operator");
    assert!(matches!(check(&log, &Granted::new(0), &[0], late), Err(Hindrance::Lasting(_))));
    alter(&mut log, "auto");
    let Err(Hindrance::Lasting(why)) = check(&log, &Granted::new(0), &[0], late) else {
        panic!("a broker that was cut off before may not know")
    };
    assert!(why.contains("after the partition was made"), "{why}");
    let group = of(&log).1.group;
    let mut granted = Granted::new(0);
    let applied = log.image.applied;
    for node in 0..3 {
        assert!(granted.informed(&log.image).is_empty(), "not all know");
        granted.on_applied(NodeId(node), incarnation(&log, node), applied - u64::from(node == 2));
    }
    assert!(granted.informed(&log.image).is_empty(), "one knows of the policy before");
    granted.on_applied(NodeId(2), incarnation(&log, 2), applied);
    let since = log.image.topics["t"].auto_since.unwrap();
    assert_eq!(granted.informed(&log.image), BTreeMap::from([(group, since)]));
    granted.on_applied(NodeId(2), incarnation(&log, 2) + 1, applied);
    assert!(granted.informed(&log.image).is_empty(), "another process of it may not");
    let groups = vec![Told { group, since, configuration: LogId::new(0, 3, 9) }];
    log.run(&Command::Leased { groups: groups.clone() }).unwrap();
    assert!(check(&log, &Granted::new(0), &[0], late).is_ok());
    assert!(Granted::default().informed(&log.image).is_empty());
    let entries = log.entries.len();
    log.run(&Command::Leased { groups: groups.clone() }).unwrap();
    assert_eq!(log.entries.len(), entries, "once is enough");
    // A survivor that lacks that configuration may know less of who voted than is needed.
    let behind = SealReport { last: LogId::new(0, 3, 8), ..survivor(&log) };
    let checked = Granted::new(0).check(&all_dead(&log), of(&log), &behind, &|_| false, late);
    assert!(matches!(checked, Err(Hindrance::Lasting(_))));
    // What was known of one time says nothing of another.
    alter(&mut log, "operator");
    alter(&mut log, "auto");
    assert!(matches!(check(&log, &Granted::new(0), &[0], late), Err(Hindrance::Lasting(_))));
    // One that is made now is another matter.
    let (topic, count, validate_only) = ("t".to_owned(), 2, false);
    log.run(&Command::CreatePartitions { topic, count, assignments: None, validate_only }).unwrap();
    let topic = &log.image.topics["t"];
    let report = SealReport { replica: topic.partitions[1].replicas[0], ..survivor(&log) };
    let of_it = (topic, &topic.partitions[1]);
    let checked = Granted::new(0).check(&all_dead(&log), of_it, &report, &|_| false, late);
    assert_eq!(checked, Ok(()));
    assert!(matches!(check(&world(None), &Granted::new(0), &[0], late), Err(Hindrance::Lasting(_))));
}

/// A leader that was deposed unheard knows nothing of who votes by now.
#[test]
fn configuration_counts_from_a_leader_whose_replicas_are_all_in_its_term() {
    let log = world(Some("operator"));
    let placed = of(&log).1;
    let holding = |place: usize, term: u64| holding(&log, place, term);
    let all = [holding(0, 3), holding(1, 3), holding(2, 3)];
    assert_eq!(configuration(placed, &all), Some(LogId::default()));
    assert_eq!(configuration(placed, &all[..2]), None, "one has not answered");
    assert_eq!(configuration(placed, &all[1..]), None, "the leader has not");
    assert_eq!(configuration(placed, &[holding(0, 3), holding(1, 4), holding(2, 3)]), None);
    let mut foreign = all.clone();
    let stranger = ReplicaId { node: NodeId(3), ..placed.replicas[0] };
    foreign[0].report.configuration.voters.push(stranger);
    assert_eq!(configuration(placed, &foreign), None, "somebody else may vote");
    let mut open = all;
    open[0].report.is_committed = false;
    assert_eq!(configuration(placed, &open), None);
}

/// Who left may show what the survivor never had.
#[test]
fn survivor_that_has_not_seen_the_last_reassignment_is_left_to_an_operator() {
    let mut log = world(Some("auto"));
    log.image.topics.get_mut("t").unwrap().partitions[0].configured = LogId::new(0, 3, 10);
    assert!(matches!(check(&log, &Granted::new(0), &[0], 1 << 40), Err(Hindrance::Lasting(_))));
    log.image.topics.get_mut("t").unwrap().partitions[0].configured = LogId::new(0, 3, 9);
    assert!(check(&log, &Granted::new(0), &[0], 1 << 40).is_ok());
}

#[test]
fn leases_are_as_long_as_sessions_up_to_a_limit() {
    assert_eq!((length(9_000), length(60_000), length(0)), (9_000, LEASE_MAX_MS, 1));
}
