//! Replacement of dead brokers: what moves, where to, and when nothing does.
use super::*;
use crate::ctl::reassign::{Arrival, Reassignment};
use crate::ctl::replace::{is_mass_death, plan};
use crate::segment::{GroupId, LogId, ReplicaId};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn kill(log: &mut Log, node: i32) {
    let incarnation = log.image.brokers[&NodeId(node)].incarnation;
    log.run(&Command::Dead { node: NodeId(node), incarnation }).unwrap();
}

fn replace(log: &mut Log, nodes: &[i32]) {
    let nodes = nodes.iter().copied().map(NodeId).collect();
    log.run(&Command::Replace { nodes }).unwrap();
}

fn nodes(replicas: &[ReplicaId]) -> Vec<NodeId> {
    replicas.iter().map(|r| r.node).collect()
}

/// Replicas each live broker is to hold.
fn held(log: &Log) -> BTreeMap<NodeId, usize> {
    let all = crate::ctl::placement::candidates(&log.image, None);
    all.into_iter().map(|candidate| (candidate.node, candidate.replicas)).collect()
}

#[test]
fn replicas_of_a_dead_broker_go_to_those_that_have_none_and_stay_level() {
    let mut log = Log::with_brokers(&[None; 5]);
    log.create("t", 20, 3);
    let before = log.image.topics["t"].partitions.clone();
    kill(&mut log, 2);
    assert!(!is_mass_death(&log.image));
    replace(&mut log, &[2]);
    let after = &log.image.topics["t"].partitions;
    assert!(after.iter().all(|p| p.moving.as_ref().is_none_or(|moving| moving.by_controllers)));
    for (before, after) in before.iter().zip(after) {
        let (old, new) = (nodes(before.target()), nodes(after.target()));
        match old.contains(&NodeId(2)) {
            false => assert_eq!(before, after),
            true => assert_eq!(old.iter().filter(|n| new.contains(n)).count(), 2, "one moves"),
        }
        assert!(!new.contains(&NodeId(2)));
    }
    let held = held(&log);
    assert!(held.values().max().unwrap() - held.values().min().unwrap() <= 1, "{held:?}");
    let written = log.index;
    replace(&mut log, &[2]);
    assert_eq!(log.index, written, "what moves is not moved again");
}

#[test]
fn two_of_four_away_at_once_move_nothing() {
    let mut log = Log::with_brokers(&[None; 4]);
    log.create("t", 8, 2);
    kill(&mut log, 0);
    assert!(!is_mass_death(&log.image));
    kill(&mut log, 1);
    assert!(is_mass_death(&log.image));
    let written = log.index;
    replace(&mut log, &[0, 1]);
    assert_eq!(log.index, written);
    log.unfence(1);
    replace(&mut log, &[0]);
    assert!(log.index > written);
    // A broker whose replicas are on their way elsewhere is not missed any more.
    kill(&mut log, 1);
    assert!(!is_mass_death(&log.image));
}

/// A partition was on its way to a broker that died for good: it waited for it for ever.
#[test]
fn target_that_dies_on_the_way_is_replaced_too() {
    let mut log = Log::with_brokers(&[None; 5]);
    let assignments = Some(vec![[0, 1, 2].map(NodeId).to_vec()]);
    log.run(&Command::CreateTopic(CreateTopic { assignments, ..creation("t", -1, -1) })).unwrap();
    kill(&mut log, 2);
    replace(&mut log, &[2]);
    let target = |log: &Log| nodes(log.image.topics["t"].partitions[0].target());
    assert_eq!(target(&log), [0, 1, 3].map(NodeId));
    log.run(&registration(5, 0, None)).unwrap();
    log.run(&registration(6, 0, None)).unwrap();
    kill(&mut log, 3);
    replace(&mut log, &[2, 3]);
    assert_eq!(target(&log), [0, 1, 4].map(NodeId));
    let placed = &log.image.topics["t"].partitions[0];
    assert_eq!(placed.replicas.len(), 5, "nobody has left yet");
    let was_there = placed.replicas.iter().filter(|r| placed.was_there(**r)).map(|r| r.node.0);
    assert_eq!(was_there.collect::<Vec<_>>(), [2], "3 was on its way only");
}

/// A newcomer that was the last one left, and went on, was no source: nothing more was ever replaced.
#[test]
fn partition_that_a_newcomer_carries_on_is_replaced_like_any_other() {
    let mut log = Log::with_brokers(&[None; 7]);
    let assignments = Some(vec![[0, 1, 2].map(NodeId).to_vec()]);
    log.run(&Command::CreateTopic(CreateTopic { assignments, ..creation("t", -1, -1) })).unwrap();
    let group = log.image.topics["t"].partitions[0].group;
    kill(&mut log, 1);
    kill(&mut log, 2);
    replace(&mut log, &[1, 2]);
    let target = |log: &Log| nodes(log.image.topics["t"].partitions[0].target());
    let [_, newcomer, other] = target(&log)[..] else { panic!("three") };
    assert!(![1, 2].contains(&newcomer.0));
    kill(&mut log, 0);
    let seal = Batch::new(vec![Record::Seal { groups: vec![group] }]);
    log.write(seal).unwrap();
    let opening = crate::ctl::record::GroupOpening {
        group,
        generation: 1,
        survivor: newcomer,
        base: LogId::new(0, 1, 5),
        first_term: crate::segment::Term(2),
        lossless: true,
        learners: Vec::new(),
    };
    log.write(Batch::new(vec![Record::Generation { openings: vec![opening] }])).unwrap();
    // Fewer than a third are away, and of the brokers that were dead one is still to be replaced.
    log.run(&registration(7, 0, None)).unwrap();
    log.run(&registration(8, 0, None)).unwrap();
    log.run(&registration(9, 0, None)).unwrap();
    replace(&mut log, &[0, 1, 2]);
    let after = target(&log);
    assert!(after.contains(&newcomer) && after.contains(&other) && !after.contains(&NodeId(0)), "{after:?}");
}

#[test]
fn without_a_spare_broker_nothing_moves() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 4, 3);
    kill(&mut log, 1);
    let written = log.index;
    replace(&mut log, &[1]);
    assert_eq!(log.index, written);
}

/// Partitions that nobody alive holds, or whose majority is away, and a move that somebody asked for took all places: no other partition
/// grew again.
#[test]
fn partitions_that_cannot_move_keep_none_that_can_from_it() {
    let mut log = Log::with_brokers(&[None; 7]);
    let place = |name: &str, nodes: &[i32], partitions: usize| {
        let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        Command::CreateTopic(CreateTopic {
            assignments: Some(vec![nodes; partitions]),
            ..creation(name, -1, -1)
        })
    };
    log.run(&place("alone", &[0], 150)).unwrap();
    log.run(&place("both", &[0, 1], 150)).unwrap();
    log.run(&place("weak", &[0, 1, 2], 150)).unwrap();
    log.run(&place("strong", &[0, 2, 3], 150)).unwrap();
    log.run(&place("busy", &[4], 150)).unwrap();
    let row = |partition| Reassignment { topic: "busy".into(), partition, target: Some(vec![NodeId(5)]) };
    let rows = (0..150).map(row).collect();
    log.run(&Command::Reassign { rows, allow_factor_change: false }).unwrap();
    kill(&mut log, 0);
    kill(&mut log, 1);
    assert!(!is_mass_death(&log.image));
    let moving = |log: &Log, topic: &str| {
        log.image.topics[topic].partitions.iter().filter(|p| p.moving.is_some()).count()
    };
    let counts = |log: &Log| ["alone", "both", "weak", "strong", "busy"].map(|topic| moving(log, topic));
    replace(&mut log, &[0, 1]);
    assert_eq!(counts(&log), [0, 0, 100, 100, 150]);
    replace(&mut log, &[0, 1]);
    assert_eq!(counts(&log), [0, 0, 100, 100, 150], "so many at a time");
    let arrival = |p: &crate::ctl::image::Partition| {
        let since = p.moving.as_ref()?.since;
        Some(Arrival { group: p.group, since, generation: 0, configuration: LogId::new(0, 2, since) })
    };
    let arrivals = log.image.topics["strong"].partitions.iter().filter_map(arrival).collect();
    log.run(&Command::Arrived { arrivals }).unwrap();
    replace(&mut log, &[0, 1]);
    assert_eq!(counts(&log), [0, 0, 100, 50, 150]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_plan_moves_only_what_was_lost_and_is_level_within_racks(
        racks in prop::collection::vec(prop::option::of(0..3usize), 3..9),
        topics in prop::collection::vec((1..15i32, 1..4i16), 1..5),
        lost in prop::collection::btree_set(0..9i32, 1..3),
        limit in prop_oneof![Just(usize::MAX), 1..20usize],
    ) {
        let names = ["a", "b", "c"];
        let racks: Vec<Option<&str>> = racks.iter().map(|r| r.map(|r| names[r])).collect();
        let mut log = Log::with_brokers(&racks);
        for (at, (partitions, factor)) in topics.into_iter().enumerate() {
            log.create(&format!("t{at}"), partitions, factor.min(racks.len() as i16));
        }
        let lost: BTreeSet<NodeId> =
            lost.into_iter().filter(|n| (*n as usize) < racks.len()).map(NodeId).collect();
        lost.iter().for_each(|node| kill(&mut log, node.0));
        let image = log.image.clone();
        let moves = plan(&image, &lost, [limit; 2]);
        prop_assert!(moves.len() <= limit.saturating_mul(2));
        let moved: BTreeMap<GroupId, &Vec<NodeId>> = moves.iter().map(|m| (m.group, &m.target)).collect();
        prop_assert_eq!(moved.len(), moves.len());
        let mut load: BTreeMap<NodeId, isize> = image.live_brokers().map(|b| (b.node, 0)).collect();
        for group in image.groups.keys() {
            let old = nodes(image.group(*group).unwrap().2.target());
            for node in moved.get(group).copied().unwrap_or(&old) {
                load.entry(*node).and_modify(|held| *held += 1);
            }
        }
        let rack = |node: &NodeId| racks[node.0 as usize];
        for (group, target) in &moved {
            let old = nodes(image.group(*group).unwrap().2.target());
            prop_assert_eq!(target.iter().collect::<BTreeSet<_>>().len(), old.len());
            prop_assert!(old.iter().filter(|n| !lost.contains(n)).all(|n| target.contains(n)));
            for newcomer in target.iter().filter(|n| !old.contains(n)) {
                prop_assert!(load.contains_key(newcomer), "a live broker");
                let crowd = |node: &NodeId| {
                    let others = target.iter().filter(|n| *n != newcomer);
                    others.filter(|n| rack(n).is_some() && rack(n) == rack(node)).count()
                };
                for other in load.keys().filter(|n| !target.contains(n)) {
                    prop_assert!(crowd(other) >= crowd(newcomer), "{other} is in a rack with fewer");
                    let same = crowd(other) == crowd(newcomer);
                    prop_assert!(!same || load[newcomer] < load[other] + 2, "{load:?}: {newcomer} rather than {other}");
                }
            }
        }
        // What is planned fits, and nobody is missed who could be replaced.
        replace(&mut log, &lost.iter().map(|n| n.0).collect::<Vec<_>>());
    }
}
