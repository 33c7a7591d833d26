//! Any sequence of joins, deaths, returns, wiped disks, topics created, extended and deleted: what must hold after
//! every step, and that a replay gives the same image.
use super::snapshots::snapshot_of;
use super::*;
use crate::ctl::command::{ConfigChange, ConfigOp};
use crate::ctl::image::{Change, DRAIN, Partition};
use crate::ctl::reassign::Arrival;
use crate::ctl::snapshot;
use crate::segment::{GroupId, LogId, ReplicaId};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// `topics`, `topic_names` and `groups` name the same partitions; replicas of one are on distinct brokers.
pub(super) fn check_indexes(image: &Image) {
    assert_eq!(image.topics.len(), image.topic_names.len());
    let mut groups = BTreeMap::new();
    for (name, topic) in &image.topics {
        assert_eq!(name, &topic.name);
        assert_eq!(image.topic_names.get(&topic.id), Some(name));
        assert!(!topic.partitions.is_empty());
        for (number, partition) in topic.partitions.iter().enumerate() {
            assert!(groups.insert(partition.group, (topic.id, number as i32)).is_none(), "a group twice");
            assert!(partition.group > GroupId(0) && partition.group.0 < image.next_group);
            let nodes: BTreeSet<_> = partition.replicas.iter().map(|r| r.node).collect();
            assert_eq!(nodes.len(), partition.replicas.len());
            assert!(!nodes.is_empty());
            assert!(nodes.iter().all(|n| image.brokers.contains_key(n)));
            assert!(partition.replicas.iter().all(|r| r.assignment <= image.applied));
            if let Some(moving) = &partition.moving {
                let target: Vec<NodeId> = partition.target().iter().map(|r| r.node).collect();
                assert_eq!(target, moving.target, "the target stands first");
                assert!(moving.since <= image.applied && !moving.origin.is_empty());
                assert!(moving.origin.iter().all(|node| nodes.contains(node)), "nobody has left yet");
            }
        }
    }
    assert_eq!(groups, image.groups);
    let sealing = image.groups.keys().filter(|group| image.group(**group).unwrap().2.sealing.is_some());
    assert_eq!(sealing.copied().collect::<BTreeSet<_>>(), image.sealing);
}

#[derive(Clone, Debug)]
enum Step {
    Join { node: i32, rack: u8 },
    Wipe { node: i32 },
    Die { node: i32 },
    Return { node: i32 },
    Create { topic: u8, partitions: i32, factor: i16 },
    Extend { topic: u8, by: i32 },
    Delete { topic: u8 },
    ProducerIds { node: i32 },
    Drain { node: i32, what: u8 },
    Replace { node: i32 },
    Arrive,
    Remove { node: i32 },
    NewGeneration,
}

fn any_step() -> impl Strategy<Value = Step> {
    let node = || 0..7i32;
    prop_oneof![
        4 => (node(), 0..4u8).prop_map(|(node, rack)| Step::Join { node, rack }),
        1 => node().prop_map(|node| Step::Wipe { node }),
        2 => node().prop_map(|node| Step::Die { node }),
        2 => node().prop_map(|node| Step::Return { node }),
        5 => (0..6u8, 1..14i32, 1..5i16).prop_map(|(topic, partitions, factor)| Step::Create {
            topic, partitions, factor
        }),
        3 => (0..6u8, 1..9i32).prop_map(|(topic, by)| Step::Extend { topic, by }),
        2 => (0..6u8).prop_map(|topic| Step::Delete { topic }),
        1 => node().prop_map(|node| Step::ProducerIds { node }),
        2 => (node(), 0..3u8).prop_map(|(node, what)| Step::Drain { node, what }),
        2 => node().prop_map(|node| Step::Replace { node }),
        2 => Just(Step::Arrive),
        2 => node().prop_map(|node| Step::Remove { node }),
        1 => Just(Step::NewGeneration),
    ]
}

/// Runs a step; refusals are part of it.
fn run(log: &mut Log, step: &Step) {
    let name = |topic: &u8| format!("topic-{topic}");
    let incarnation =
        |log: &Log, node: &i32| log.image.brokers.get(&NodeId(*node)).map_or(0, |b| b.incarnation);
    let _refused_or_done = match step {
        Step::Join { node, rack } => {
            let rack = ["a", "b", "c"].get(usize::from(*rack)).copied();
            log.run(&registration(*node, 0, rack))
        }
        Step::Wipe { node } => log.run(&registration(*node, log.index, None)),
        Step::Die { node } => {
            let incarnation = incarnation(log, node);
            log.run(&Command::Fence { node: NodeId(*node), incarnation })
        }
        Step::Return { node } => {
            let incarnation = incarnation(log, node);
            log.run(&Command::Unfence { node: NodeId(*node), incarnation })
        }
        Step::Create { topic, partitions, factor } => {
            log.run(&Command::CreateTopic(creation(&name(topic), *partitions, *factor)))
        }
        Step::Extend { topic, by } => {
            let have = log.image.topics.get(&name(topic)).map_or(0, |t| t.partitions.len() as i32);
            log.run(&Command::CreatePartitions {
                topic: name(topic),
                count: have + by,
                assignments: None,
                validate_only: false,
            })
        }
        Step::Delete { topic } => log.run(&Command::DeleteTopic { name: Some(name(topic)), id: None }),
        Step::ProducerIds { node } => log.run(&Command::AllocateProducerIds { node: NodeId(*node) }),
        Step::Drain { node, what } => {
            let value = ["none", "leaders", "replicas"][usize::from(*what)];
            let op = ConfigOp::Set;
            let changes = vec![ConfigChange { name: DRAIN.into(), op, value: Some(value.into()) }];
            log.run(&Command::AlterBroker { node: NodeId(*node), changes, validate_only: false })
        }
        Step::Replace { node } => {
            let incarnation = incarnation(log, node);
            let _unknown = log.run(&Command::Dead { node: NodeId(*node), incarnation });
            log.run(&Command::Replace { nodes: BTreeSet::from([NodeId(*node)]) })
        }
        Step::Arrive => log.run(&Command::Arrived { arrivals: arrivals(&log.image) }),
        Step::Remove { node } => log.run(&Command::Unregister { node: NodeId(*node), incarnation: None }),
        Step::NewGeneration => {
            log.generation += 1;
            log.index = 0;
            Ok(Reply::Done)
        }
    };
}

/// Every group that moves has arrived.
fn arrivals(image: &Image) -> Vec<Arrival> {
    let all = image.topics.values().flat_map(|topic| &topic.partitions);
    let arrival = |p: &Partition| {
        let since = p.moving.as_ref()?.since;
        Some(Arrival {
            group: p.group,
            since,
            generation: p.generation,
            configuration: LogId::new(0, 1, since),
        })
    };
    all.filter_map(arrival).collect()
}

/// New partitions went to live brokers, on the disks these have now, under the number of this entry.
fn check_placed(before: &Image, after: &Image) {
    for (group, _) in after.groups.iter().filter(|(g, _)| !before.groups.contains_key(g)) {
        let (_, _, partition) = after.group(*group).unwrap();
        for replica in &partition.replicas {
            assert!(
                before.is_open(&before.brokers[&replica.node]),
                "new replica on a fenced or drained broker"
            );
            assert_eq!(replica.assignment, after.applied);
            assert!(after.holds(replica));
        }
    }
    for (group, _) in before.groups.iter().filter(|(g, _)| after.groups.contains_key(g)) {
        let (was, is) = (before.group(*group).unwrap().2, after.group(*group).unwrap().2);
        if was.moving == is.moving {
            assert_eq!(was, is, "placed once, for good");
            continue;
        }
        let newcomers = is.replicas.iter().filter(|replica| !was.replicas.contains(replica));
        for replica in newcomers {
            assert!(
                before.is_open(&before.brokers[&replica.node]),
                "new replica on a fenced or drained broker"
            );
            assert!(replica.assignment == after.applied && after.holds(replica));
        }
        let left: Vec<&ReplicaId> = was.replicas.iter().filter(|r| !is.replicas.contains(r)).collect();
        assert!(left.is_empty() || (is.moving.is_none() && left.iter().all(|r| was.removing().contains(r))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_every_invariant_and_replays_to_the_same_image(
        steps in prop::collection::vec(any_step(), 0..60)
    ) {
        let mut log = Log::born();
        let mut groups_seen = BTreeSet::new();
        let mut incarnations_seen = BTreeSet::new();
        let mut ids_seen: BTreeSet<(GroupId, ReplicaId)> = BTreeSet::new();
        for step in &steps {
            let before = log.image.clone();
            run(&mut log, step);
            check_indexes(&log.image);
            check_placed(&before, &log.image);
            for (&group, &(topic, number)) in &log.image.groups {
                if !before.groups.contains_key(&group) {
                    prop_assert!(groups_seen.insert(group), "a group id was used twice");
                    let topic = log.image.topic_by_id(topic).unwrap();
                    for &replica in &topic.partitions[number as usize].replicas {
                        prop_assert!(ids_seen.insert((group, replica)), "a replica id was used twice");
                    }
                }
            }
            for (node, broker) in &log.image.brokers {
                let known = before.brokers.get(node).map(|b| b.incarnation);
                if known != Some(broker.incarnation) {
                    prop_assert!(incarnations_seen.insert(broker.incarnation), "an incarnation twice");
                    prop_assert!(known.is_none_or(|k| k < broker.incarnation));
                }
            }
            prop_assert!(log.image.next_producer_id >= before.next_producer_id);
        }
        let mut replayed = Image::default();
        for (number, batch) in &log.entries {
            replayed.apply(*number, &Batch::decode(&batch.encode()).unwrap()).unwrap();
        }
        prop_assert_eq!(&replayed, &log.image);
        // Everything that ever was a group is placed or said to be deleted, and a snapshot says both.
        let whole = snapshot_of(&log.image, 3);
        prop_assert_eq!(&whole.read().unwrap(), &log.image);
        for group in groups_seen {
            prop_assert_eq!(log.image.is_deleted(group), !log.image.groups.contains_key(&group));
        }
        let changes = snapshot::changes(&Image::default(), &log.image);
        let added = changes.iter().filter(|change| matches!(change, Change::GroupAdded { .. })).count();
        prop_assert_eq!(added, log.image.groups.len());
    }

    /// Replicas over the whole cluster stay within one of each other while topics are only added, and so do leaders
    /// within two where every topic has the same factor (with mixed factors the single replicas decide).
    #[test]
    fn topics_that_are_only_added_keep_the_whole_cluster_level(
        brokers in 1..7usize,
        same in prop::option::of(1..4i16),
        topics in prop::collection::vec((1..20i32, 1..4i16), 1..12)
    ) {
        let mut log = Log::with_brokers(&vec![None; brokers]);
        for (at, (partitions, factor)) in topics.into_iter().enumerate() {
            log.create(&format!("t{at}"), partitions, same.unwrap_or(factor).min(brokers as i16));
        }
        let all = crate::ctl::placement::candidates(&log.image, None);
        let spread = |of: fn(&crate::ctl::placement::Candidate) -> usize| {
            all.iter().map(of).max().unwrap() - all.iter().map(of).min().unwrap()
        };
        prop_assert!(spread(|c| c.replicas) <= 1);
        prop_assert!(same.is_none() || spread(|c| c.leaders) <= 2, "{:?}", all);
    }
}
