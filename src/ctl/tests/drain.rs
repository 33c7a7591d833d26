//! Brokers that are taken out: what may be asked, what follows, and that it is kept.
use super::snapshots::snapshot_of;
use super::*;
use crate::ctl::balance::{MOVES_PER_BROKER_MAX, plan_drained, plan_preferred};
use crate::ctl::command::{ConfigChange, ConfigOp};
use crate::ctl::drain::left;
use crate::ctl::image::{Change, DRAIN, Drain};
use crate::ctl::reassign::{Arrival, Reassignment};
use crate::ctl::replace::{due, is_mass_death};
use crate::segment::{GroupId, LogId};
use std::collections::BTreeSet;

fn set(log: &mut Log, node: i32, value: Option<&str>) -> Result<Reply, Error> {
    let op = if value.is_some() { ConfigOp::Set } else { ConfigOp::Delete };
    let changes = vec![ConfigChange { name: DRAIN.into(), op, value: value.map(str::to_owned) }];
    log.run(&Command::AlterBroker { node: NodeId(node), changes, validate_only: false })
}

fn remove(log: &mut Log, node: i32) -> Result<Reply, Error> {
    log.run(&Command::Unregister { node: NodeId(node), incarnation: None })
}

/// What the controller leader does once a second, and the leaders of the groups after it.
fn tend(log: &mut Log) {
    log.run(&Command::Replace { nodes: BTreeSet::new() }).unwrap();
    let moving: Vec<Arrival> = log
        .image
        .topics
        .values()
        .flat_map(|topic| &topic.partitions)
        .filter_map(|p| {
            let since = p.moving.as_ref()?.since;
            let configuration = LogId::new(0, 2, since);
            Some(Arrival { group: p.group, since, generation: p.generation, configuration })
        })
        .collect();
    log.run(&Command::Arrived { arrivals: moving }).unwrap();
    for (node, incarnation) in left(&log.image) {
        log.run(&Command::Unregister { node, incarnation: Some(incarnation) }).unwrap();
    }
}

#[test]
fn drained_broker_gets_no_replicas_and_gives_its_leaderships_away() {
    let mut log = Log::with_brokers(&[None; 4]);
    log.create("t", 8, 3);
    set(&mut log, 1, Some("leaders")).unwrap();
    assert_eq!(log.image.drain(NodeId(1)), Drain::Leaders);
    log.create("u", 8, 3);
    assert!(log.image.topics["u"].partitions.iter().all(|p| p.replicas.iter().all(|r| r.node != NodeId(1))));
    let to_it = Reassignment { topic: "u".into(), partition: 0, target: Some(vec![NodeId(1), NodeId(0)]) };
    let asked = Command::Reassign { rows: vec![to_it], allow_factor_change: true };
    let Ok(Reply::Reassigned { refusals }) = log.run(&asked) else { panic!("refused as a whole") };
    assert_eq!(refusals[0], Some(Error::InvalidAssignment("broker 1 is drained".into())));
    let assignments = Some(vec![vec![NodeId(0), NodeId(1), NodeId(2)]]);
    let create = Command::CreateTopic(CreateTopic { assignments, ..creation("v", -1, -1) });
    assert!(matches!(log.run(&create), Err(Error::InvalidAssignment(_))));

    let everybody = |_: GroupId| (0..4).map(NodeId).collect::<Vec<_>>();
    let first = |p: &crate::ctl::image::Partition| (p.group, p.replicas[0].node);
    let leaders: BTreeMap<GroupId, NodeId> = log.image.topics["t"].partitions.iter().map(first).collect();
    let moves = plan_drained(&log.image, &leaders, &everybody);
    assert_eq!(moves.len(), leaders.values().filter(|node| **node == NodeId(1)).count());
    assert!(moves.iter().all(|(_, from, to)| *from == NodeId(1) && *to != NodeId(1)));
    let mut after = leaders.clone();
    after.extend(moves.iter().map(|(group, _, to)| (*group, *to)));
    assert_eq!(plan_preferred(&log.image, &after, &everybody), [], "they do not go back while it is drained");
    let alone = |_: GroupId| vec![NodeId(1)];
    assert_eq!(plan_drained(&log.image, &leaders, &alone), [], "nobody else could lead");
    assert_eq!(due(&log.image, &BTreeSet::new()), [], "its replicas stay");
    set(&mut log, 1, None).unwrap();
    assert_eq!(plan_preferred(&log.image, &after, &everybody).len(), moves.len());
}

#[test]
fn decommissioned_broker_is_left_by_its_replicas_then_unregistered_and_stays_out() {
    let mut log = Log::with_brokers(&[None; 5]);
    log.create("t", 250, 3);
    set(&mut log, 2, Some("replicas")).unwrap();
    assert!(matches!(remove(&mut log, 2), Err(Error::Refused(_))), "it holds replicas");
    let held = |log: &Log| {
        let all = log.image.topics["t"].partitions.iter();
        all.filter(|p| p.replicas.iter().any(|r| r.node == NodeId(2))).count()
    };
    assert!(held(&log) > 100);
    tend(&mut log);
    assert!(held(&log) > 0 && log.image.brokers.contains_key(&NodeId(2)), "a part at a time");
    tend(&mut log);
    assert_eq!(held(&log), 0);
    assert!(!log.image.brokers.contains_key(&NodeId(2)));
    super::sequences::check_indexes(&log.image);
    // It runs still, and asks.
    let refused = log.run(&registration(2, 0, None));
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("undrain 2")), "{refused:?}");
    assert_eq!(snapshot_of(&log.image, 3).read().unwrap(), log.image, "a snapshot says so too");
    set(&mut log, 2, None).unwrap();
    assert_eq!(log.image.broker_configs.get(&NodeId(2)), None);
    log.run(&registration(2, 0, None)).unwrap();
    assert_eq!(log.image.drain(NodeId(2)), Drain::None);
}

/// The controllers looked at the same image twice before the first decision was applied: the second one took `broker.drain` away, and the
/// process, told to be stopped, got replicas again.
#[test]
pub(crate) fn unregistering_twice_does_not_forget_that_a_broker_was_decommissioned() {
    let mut log = Log::with_brokers(&[None; 4]);
    set(&mut log, 3, Some("replicas")).unwrap();
    let [(node, incarnation)] = left(&log.image)[..] else { panic!("it holds nothing") };
    let own = Command::Unregister { node, incarnation: Some(incarnation) };
    log.run(&own).unwrap();
    let written = log.index;
    assert_eq!(log.run(&own), Ok(Reply::Done));
    assert_eq!(log.index, written, "nothing is written");
    assert_eq!(remove(&mut log, 3), Err(Error::UnknownBroker(node)), "nor by an operator's request");
    assert_eq!(log.image.drain(node), Drain::Replicas);
    assert!(matches!(log.run(&registration(3, 0, None)), Err(Error::Refused(_))));
    // One that was taken back, or registered anew, meanwhile stays.
    set(&mut log, 3, None).unwrap();
    log.run(&registration(3, 0, None)).unwrap();
    log.run(&own).unwrap();
    set(&mut log, 3, Some("replicas")).unwrap();
    log.run(&own).unwrap();
    assert!(log.image.brokers.contains_key(&node));
}

#[test]
fn decommission_without_room_is_refused_with_what_stands_in_its_way() {
    let mut log = Log::with_brokers(&[None; 4]);
    log.create("t", 4, 3);
    log.create("wide", 2, 4);
    let Err(Error::InvalidConfig(why)) = set(&mut log, 0, Some("replicas")) else { panic!("taken") };
    assert!(why.contains("wide-0, wide-1") && why.contains("3 other brokers"), "{why}");
    log.run(&Command::DeleteTopic { name: Some("wide".into()), id: None }).unwrap();
    set(&mut log, 0, Some("replicas")).unwrap();
    let refused = set(&mut log, 1, Some("replicas"));
    assert!(matches!(refused, Err(Error::InvalidConfig(_))), "two would be left for three replicas");
    assert!(matches!(set(&mut log, 1, Some("everything")), Err(Error::InvalidConfig(_))));
}

#[test]
fn dead_broker_is_forgotten_once_it_holds_nothing() {
    let mut log = Log::with_brokers(&[None; 4]);
    log.create("t", 4, 3);
    assert_eq!(remove(&mut log, 9), Err(Error::UnknownBroker(NodeId(9))));
    assert!(matches!(remove(&mut log, 3), Err(Error::Refused(_))), "it is alive");
    let incarnation = log.image.brokers[&NodeId(3)].incarnation;
    log.run(&Command::Dead { node: NodeId(3), incarnation }).unwrap();
    let Err(Error::Refused(why)) = remove(&mut log, 3) else { panic!("it holds replicas") };
    assert!(why.contains("holds replicas of t-"), "{why}");
    log.run(&Command::Replace { nodes: BTreeSet::from([NodeId(3)]) }).unwrap();
    assert!(remove(&mut log, 3).is_err(), "those on their way out are there still");
    tend(&mut log);
    let number = Image::number(log.generation, log.index + 1);
    let batch = Batch::new(vec![Record::Unregister { node: NodeId(3) }]);
    let changes = log.image.clone().apply_with_changes(number, &batch).unwrap();
    assert!(changes.contains(&Change::BrokerRemoved { node: NodeId(3) }));
    remove(&mut log, 3).unwrap();
    assert!(!log.image.brokers.contains_key(&NodeId(3)));
    super::sequences::check_indexes(&log.image);
    log.run(&registration(3, 4, None)).expect("another one may have its id");
}

/// What an operator decommissioned is missed by nobody, however many are away.
#[test]
fn decommissioned_brokers_are_no_mass_death() {
    let mut log = Log::with_brokers(&[None; 5]);
    log.create("t", 10, 2);
    for node in [0, 1] {
        let incarnation = log.image.brokers[&NodeId(node)].incarnation;
        log.run(&Command::Dead { node: NodeId(node), incarnation }).unwrap();
    }
    assert!(is_mass_death(&log.image));
    assert_eq!(due(&log.image, &BTreeSet::from([NodeId(0), NodeId(1)])), []);
    set(&mut log, 0, Some("replicas")).unwrap();
    assert!(!is_mass_death(&log.image));
    assert!(!due(&log.image, &BTreeSet::new()).is_empty(), "of the decommissioned one");
    (0..4).for_each(|_| tend(&mut log));
    assert!(!log.image.brokers.contains_key(&NodeId(0)), "it was dead, and is forgotten");
    assert_eq!(remove(&mut log, 0), Err(Error::UnknownBroker(NodeId(0))), "it is forgotten already");
    set(&mut log, 0, None).expect("so that another may have its id");
    log.run(&registration(0, 7, None)).unwrap();
}

/// Groups whose taker does not take them used up every plan: no other leadership left.
#[test]
fn leaderships_leave_for_one_broker_so_many_at_a_time() {
    let mut log = Log::with_brokers(&[None; 3]);
    let assignments = (0..200).map(|p| vec![NodeId(2), NodeId(i32::from(p >= 100))]).collect();
    let create = CreateTopic { assignments: Some(assignments), ..creation("t", -1, -1) };
    log.run(&Command::CreateTopic(create)).unwrap();
    set(&mut log, 2, Some("leaders")).unwrap();
    let leaders: BTreeMap<GroupId, NodeId> = log.image.groups.keys().map(|g| (*g, NodeId(2))).collect();
    let everybody = |_: GroupId| (0..3).map(NodeId).collect::<Vec<_>>();
    let moves = plan_drained(&log.image, &leaders, &everybody);
    let to = |node| moves.iter().filter(|(.., to)| *to == NodeId(node)).count();
    assert_eq!((to(0), to(1)), (MOVES_PER_BROKER_MAX, MOVES_PER_BROKER_MAX));
}

/// The same command waits again, whatever has become of the others since.
#[test]
fn decommission_under_way_is_not_refused_when_it_is_asked_for_again() {
    let mut log = Log::with_brokers(&[None; 4]);
    log.create("t", 4, 3);
    set(&mut log, 0, Some("replicas")).unwrap();
    log.fence(1);
    let written = log.index;
    assert_eq!(set(&mut log, 0, Some("replicas")), Ok(Reply::Done));
    assert_eq!(log.index, written);
    assert!(matches!(set(&mut log, 2, Some("replicas")), Err(Error::InvalidConfig(_))), "no room");
}
