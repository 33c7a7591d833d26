//! Any sequence of joins, deaths, returns, wiped disks, drained, decommissioned and removed brokers, topics created, extended and
//! deleted, partitions moved, moved elsewhere and back, generations ended and begun: what must hold after every step, and that a
//! replay gives the same image, whole or from a snapshot on.
use super::snapshots::snapshot_of;
use super::*;
use crate::ctl::anew::Forsaken;
use crate::ctl::command::{ConfigChange, ConfigOp};
use crate::ctl::drain;
use crate::ctl::image::{Change, DRAIN, Drain, Partition};
use crate::ctl::reassign::{Arrival, Reassignment};
use crate::ctl::record::GroupOpening;
use crate::ctl::snapshot;
use crate::segment::{GroupId, LogId, ReplicaId, Term};
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
    Reassign { topic: u8, partition: i32, to: Vec<prop::sample::Index>, factor: bool },
    Cancel { topic: u8 },
    Arrive { what: u8 },
    Remove { node: i32 },
    Tend,
    Place { node: i32 },
    Anew { which: u8, is_old: bool },
    Seal { node: i32 },
    Open,
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
        4 => (0..6u8, 0..20i32, prop::collection::vec(any::<prop::sample::Index>(), 1..5), any::<bool>())
            .prop_map(|(topic, partition, to, factor)| Step::Reassign { topic, partition, to, factor }),
        1 => (0..6u8).prop_map(|topic| Step::Cancel { topic }),
        3 => (0..4u8).prop_map(|what| Step::Arrive { what }),
        2 => Just(Step::Tend),
        1 => node().prop_map(|node| Step::Place { node }),
        2 => (0..4u8, any::<bool>()).prop_map(|(which, is_old)| Step::Anew { which, is_old }),
        1 => node().prop_map(|node| Step::Seal { node }),
        1 => Just(Step::Open),
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
        Step::Reassign { topic, partition, to, factor } => {
            let mut free: Vec<NodeId> = log.image.brokers.keys().copied().collect();
            let picks = to.iter().filter_map(|pick| {
                let at = (!free.is_empty()).then(|| pick.index(free.len()))?;
                Some(free.remove(at))
            });
            let target: Vec<NodeId> = picks.collect();
            let rows = vec![Reassignment { topic: name(topic), partition: *partition, target: Some(target) }];
            log.run(&Command::Reassign { rows, allow_factor_change: *factor })
        }
        Step::Cancel { topic } => {
            let row = |partition| Reassignment { topic: name(topic), partition, target: None };
            log.run(&Command::Reassign { rows: (0..20).map(row).collect(), allow_factor_change: true })
        }
        Step::Arrive { what } => {
            let arrivals = arrivals(&log.image).into_iter().enumerate().filter_map(|(at, mut arrival)| {
                match what {
                    1 if at % 2 == 0 => return None,
                    // Of the target before, or of a generation that is over.
                    2 => arrival.since -= 1,
                    3 => arrival.generation += 1,
                    _ => {}
                }
                Some(arrival)
            });
            let (arrivals, before) = (arrivals.collect(), log.index);
            let reply = log.run(&Command::Arrived { arrivals });
            assert!(*what < 2 || log.index == before, "an arrival of something else counted");
            reply
        }
        Step::Remove { node } => log.run(&Command::Unregister { node: NodeId(*node), incarnation: None }),
        Step::Tend => {
            for (node, incarnation) in drain::left(&log.image) {
                log.run(&Command::Unregister { node, incarnation: Some(incarnation) }).unwrap();
            }
            log.run(&Command::Replace { nodes: BTreeSet::new() })
        }
        Step::Place { node } => log.run(&Command::Place { node: NodeId(*node) }),
        Step::Anew { which, is_old } => {
            let all = log.image.topics.values().flat_map(|topic| &topic.partitions);
            let one = |p: &Partition| {
                let replica = p.replicas[usize::from(*which) % p.replicas.len()];
                Forsaken {
                    group: p.group,
                    node: replica.node,
                    assignment: replica.assignment,
                    generation: p.generation.wrapping_sub(u64::from(*is_old)),
                    configuration: p.configured,
                    is_whole: usize::from(*which) % 2 == 0,
                }
            };
            let (replicas, before) = (all.map(one).collect(), log.index);
            let reply = log.run(&Command::Anew { replicas });
            assert!(!is_old || log.index == before, "a word of another generation counted");
            reply
        }
        Step::Seal { node } => {
            let groups = log.image.groups.keys().step_by(2);
            let groups = groups.map(|g| (*g, log.image.group(*g).unwrap().2.generation)).collect();
            log.run(&Command::Seal { node: NodeId(*node), groups })
        }
        Step::Open => {
            let opening = |group: &GroupId| {
                let partition = log.image.group(*group).unwrap().2;
                GroupOpening {
                    group: *group,
                    generation: partition.generation + 1,
                    survivor: partition.replicas[partition.replicas.len() - 1].node,
                    base: LogId::new(partition.generation, 1, 9),
                    first_term: Term(2),
                    lossless: true,
                    learners: vec![],
                }
            };
            let openings = log.image.sealing.iter().map(opening).collect();
            log.run(&Command::OpenGenerations { openings })
        }
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

/// New partitions, and replicas that the controllers make anew, went to live brokers that are not drained; those that somebody asked for,
/// to brokers that are not drained; all on the disks these have now, under the number of this entry. Nobody is touched but by a record
/// about it, and no replica is gone whose group has not said that it let it go.
fn check_placed(before: &Image, after: &Image, step: &Step) {
    let may_get = |replica: &ReplicaId| {
        let broker = &before.brokers[&replica.node];
        let is_asked = matches!(step, Step::Reassign { .. } | Step::Cancel { .. });
        let is_open = before.is_open(broker) || (is_asked && before.drain(replica.node) == Drain::None);
        // `Tend` writes several records: the number is of one of them.
        let is_new = replica.assignment > before.applied && replica.assignment <= after.applied;
        is_open && is_new && after.holds(replica)
    };
    for (group, _) in after.groups.iter().filter(|(g, _)| !before.groups.contains_key(g)) {
        let (_, _, partition) = after.group(*group).unwrap();
        assert!(partition.replicas.iter().all(may_get), "new replica on a fenced or drained broker");
    }
    for (group, _) in before.groups.iter().filter(|(g, _)| after.groups.contains_key(g)) {
        let (was, is) = (before.group(*group).unwrap().2, after.group(*group).unwrap().2);
        assert!(is.generation >= was.generation && is.configured >= was.configured);
        if let Step::Anew { .. } = step {
            let nodes = |p: &Partition| p.replicas.iter().map(|r| (r.node, r.directory)).collect::<Vec<_>>();
            assert_eq!(nodes(was), nodes(is));
            let anew: Vec<_> = is.replicas.iter().filter(|r| !was.replicas.contains(r)).collect();
            assert!(anew.len() <= 1 && anew.iter().all(|r| r.assignment == after.applied && after.holds(r)));
            assert!(anew.is_empty() || (was.sealing.is_none() && was.replicas.len() > 1));
            continue;
        }
        if let Step::Place { node } = step {
            let others = |p: &Partition| -> Vec<ReplicaId> {
                p.replicas.iter().copied().filter(|r| r.node.0 != *node).collect()
            };
            assert_eq!(others(was), others(is), "another broker's disk");
            let nodes = |p: &Partition| p.replicas.iter().map(|r| r.node).collect::<Vec<_>>();
            assert_eq!(nodes(was), nodes(is));
            continue;
        }
        if was.moving == is.moving {
            // Another order of the same replicas moves nothing.
            let sorted = |p: &Partition| p.replicas.iter().copied().collect::<BTreeSet<_>>();
            let is_ordered = matches!(step, Step::Reassign { .. }) && sorted(was) == sorted(is);
            assert!(is_ordered || was.replicas == is.replicas, "placed once, for good: {was:?} {is:?}");
            continue;
        }
        let newcomers = is.replicas.iter().filter(|replica| !was.replicas.contains(replica));
        assert!(newcomers.clone().all(may_get), "new replica on a fenced or drained broker");
        if matches!(step, Step::Replace { .. } | Step::Tend) {
            // It may have died just now.
            let lost = |node: NodeId| {
                after.brokers.get(&node).is_some_and(|broker| broker.dead)
                    || before.drain(node) == Drain::Replicas
            };
            let gone = was.target().iter().filter(|r| !is.target().iter().any(|other| other.node == r.node));
            assert!(gone.clone().count() > 0 && gone.clone().all(|r| lost(r.node)), "it need not move");
            assert_eq!(was.target().len(), is.target().len());
        }
        let left: Vec<&ReplicaId> = was.replicas.iter().filter(|r| !is.replicas.contains(r)).collect();
        assert!(left.is_empty() || (is.moving.is_none() && left.iter().all(|r| was.removing().contains(r))));
        assert!(left.is_empty() || was.sealing.is_none(), "a replica left that may have to survive");
        assert!(left.iter().all(|r| is.left.contains(r)), "a snapshot would not say that it left");
    }
    for (node, broker) in before.brokers.iter().filter(|(node, _)| !after.brokers.contains_key(node)) {
        let drain = before.drain(*node);
        assert!(broker.fenced || drain == Drain::Replicas, "a live broker is forgotten");
        assert_eq!(
            after.drain(*node) == Drain::Replicas,
            drain == Drain::Replicas,
            "decommissioned for good"
        );
    }
    let was_out =
        |node: &NodeId| before.drain(*node) == Drain::Replicas && !before.brokers.contains_key(node);
    assert!(!after.brokers.keys().any(was_out), "a decommissioned broker is back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_every_invariant_and_replays_to_the_same_image(
        steps in prop::collection::vec(any_step(), 0..90),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut log = Log::born();
        let mut images = vec![log.image.clone()];
        let mut groups_seen = BTreeSet::new();
        let mut incarnations_seen = BTreeSet::new();
        let mut ids_seen: BTreeSet<(GroupId, ReplicaId)> = BTreeSet::new();
        for step in &steps {
            let before = log.image.clone();
            run(&mut log, step);
            images.push(log.image.clone());
            check_indexes(&log.image);
            check_placed(&before, &log.image, step);
            for (&group, &(topic, number)) in &log.image.groups {
                let topic = log.image.topic_by_id(topic).unwrap();
                let had = before.group(group).map(|(_, _, partition)| &partition.replicas);
                prop_assert!(had.is_some() || groups_seen.insert(group), "a group id was used twice");
                for &replica in &topic.partitions[number as usize].replicas {
                    let is_new = had.is_none_or(|had| !had.contains(&replica));
                    prop_assert!(!is_new || ids_seen.insert((group, replica)), "a replica id was used twice");
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
        // From a snapshot of any moment on.
        let from = &images[cut.index(images.len())];
        let mut followed = snapshot_of(from, 3).read().unwrap();
        for (number, batch) in log.entries.iter().filter(|(number, _)| *number > from.applied) {
            followed.apply(*number, batch).unwrap();
        }
        prop_assert_eq!(&followed, &log.image);
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
