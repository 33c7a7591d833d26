//! `Image::apply`: numbering, replica ids, whole-or-nothing, and what does not fit.
use super::*;
use crate::ctl::anew::Forsaken;
use crate::ctl::image::Change;
use crate::ctl::reassign::{Arrival, GroupMove};
use crate::ctl::record::GroupOpening;
use crate::segment::{GroupId, LogId, ReplicaId, Term};
use proptest::prelude::*;

fn topic_record(name: &str, id: u128, replicas: Vec<Vec<i32>>) -> Record {
    Record::Topic {
        name: name.into(),
        id: Uuid::from_u128(id),
        replicas: replicas.into_iter().map(|p| p.into_iter().map(NodeId).collect()).collect(),
        configs: BTreeMap::new(),
    }
}

fn broker_record(node: i32, disk: u64) -> Record {
    Record::Broker {
        node: NodeId(node),
        directory: directory(node, disk),
        kafka: endpoint(1),
        listeners: BTreeMap::new(),
        peer: endpoint(2),
        rack: None,
    }
}

#[test]
pub(crate) fn number_of_an_entry_orders_by_generation_then_index() {
    assert_eq!(Image::number(0, 7), 7);
    assert_eq!(Image::number(1, 7), (1 << 40) + 7);
    assert!(Image::number(1, 1) > Image::number(0, (1 << 40) - 1));
    assert!(Image::number((1 << 23) - 1, (1 << 40) - 1) <= i64::MAX as u64);
}

#[test]
fn registration_takes_the_entry_number_as_incarnation() {
    let mut log = Log::born();
    assert_eq!(log.run(&registration(4, 0, None)), Ok(Reply::Registered { incarnation: 2 }));
    let broker = &log.image.brokers[&NodeId(4)];
    assert_eq!((broker.incarnation, broker.fenced), (2, false));
    log.fence(4);
    assert_eq!(log.run(&registration(4, 0, None)), Ok(Reply::Registered { incarnation: 4 }));
    assert!(!log.image.brokers[&NodeId(4)].fenced, "a new registration is a live broker");
}

#[test]
fn groups_count_on_from_one_and_from_the_generation() {
    let mut log = Log::with_brokers(&[None]);
    log.create("a", 2, 1);
    log.create("b", 1, 1);
    let ids: Vec<u64> = log.image.groups.keys().map(|g| g.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    // A recovered group 0 that lost its last entries starts above everything it can have handed out.
    log.generation = 3;
    log.index = 0;
    log.create("c", 2, 1);
    let first = (3u64 << 40) | 1;
    assert_eq!(log.image.partition("c", 0).unwrap().group, GroupId(first));
    assert_eq!(log.image.partition("c", 1).unwrap().group, GroupId(first + 1));
    log.create("d", 1, 1);
    assert_eq!(log.image.partition("d", 0).unwrap().group, GroupId(first + 2));
}

#[test]
fn group_of_a_deleted_topic_is_never_given_out_again() {
    let mut log = Log::with_brokers(&[None]);
    let id = log.create("a", 3, 1);
    log.run(&Command::DeleteTopic { name: None, id: Some(id) }).unwrap();
    assert!(log.image.groups.is_empty() && log.image.topics.is_empty() && log.image.topic_names.is_empty());
    let again = log.create("a", 1, 1);
    assert_ne!(again, id);
    assert_eq!(log.image.partition("a", 0).unwrap().group, GroupId(4));
}

#[test]
fn replica_ids_name_entry_and_disk_and_survive_a_wiped_disk() {
    let mut log = Log::with_brokers(&[None]);
    log.create("a", 1, 1);
    let placed = log.image.partition("a", 0).unwrap().replicas.clone();
    let expected = ReplicaId { node: NodeId(0), assignment: log.index, directory: directory(0, 0).as_u128() };
    assert_eq!(placed, [expected]);
    assert!(log.image.holds(&expected));

    log.run(&registration(0, 1, None)).unwrap();
    assert_eq!(log.image.partition("a", 0).unwrap().replicas, placed, "ids never change");
    assert!(!log.image.holds(&expected), "the new disk does not hold it");
    log.create("b", 1, 1);
    let fresh = log.image.partition("b", 0).unwrap().replicas[0];
    assert_eq!((fresh.directory, fresh.assignment), (directory(0, 1).as_u128(), log.index));
}

#[test]
fn extension_gives_the_new_partitions_the_number_of_its_own_entry() {
    let mut log = Log::with_brokers(&[None]);
    log.create("a", 1, 1);
    let before = log.image.partition("a", 0).unwrap().clone();
    log.run(&Command::CreatePartitions {
        topic: "a".into(),
        count: 3,
        assignments: None,
        validate_only: false,
    })
    .unwrap();
    assert_eq!(log.image.partition("a", 0), Some(&before));
    assert_eq!(log.image.partition("a", 2).unwrap().replicas[0].assignment, log.index);
    let (topic, number, partition) = log.image.group(GroupId(3)).unwrap();
    assert_eq!((topic.name.as_str(), number, partition.group), ("a", 2, GroupId(3)));
    assert_eq!(log.image.partition("a", 3), None);
    assert_eq!(log.image.partition("a", -1), None);
}

#[test]
fn record_that_does_not_fit_is_an_error_and_changes_nothing() {
    let mut log = Log::with_brokers(&[None, None]);
    log.create("a", 1, 1);
    let id = log.image.topics["a"].id;
    let unknown = Uuid::from_u128(0xbad);
    let misfits: Vec<(Record, &str)> = vec![
        (Record::Cluster { id: "again".into() }, "born already"),
        (Record::Cluster { id: String::new() }, "empty"),
        (broker_record(-1, 0), "negative"),
        (Record::Fence { node: NodeId(9), incarnation: 1 }, "not registered"),
        (Record::Fence { node: NodeId(0), incarnation: 1 }, "incarnation 2, not 1"),
        (Record::Unfence { node: NodeId(0), incarnation: 99 }, "incarnation"),
        (topic_record("a", 1, vec![vec![0]]), "exists already"),
        (topic_record("b", 0, vec![vec![0]]), "no id"),
        (topic_record("b", id.as_u128(), vec![vec![0]]), "`a` already"),
        (topic_record("b", 1, vec![]), "no partitions"),
        (topic_record("b", 1, vec![vec![0], vec![]]), "partition 1: no replicas"),
        (topic_record("b", 1, vec![vec![0, 1, 0]]), "broker 0 twice"),
        (topic_record("b", 1, vec![vec![7]]), "broker 7 is not registered"),
        (Record::Partitions { id: unknown, replicas: vec![vec![NodeId(0)]] }, "unknown topic id"),
        (Record::Partitions { id, replicas: vec![] }, "no partitions"),
        (Record::Partitions { id, replicas: vec![vec![NodeId(5)]] }, "partition 1: broker 5"),
        (Record::DeleteTopic { id: unknown }, "unknown topic id"),
        (Record::TopicConfig { id: unknown, changes: BTreeMap::new() }, "unknown topic id"),
        (Record::ProducerIds { node: NodeId(9), first: 0, count: 1 }, "not registered"),
        (Record::ProducerIds { node: NodeId(0), first: 0, count: 0 }, "block of 0"),
        (Record::ProducerIds { node: NodeId(0), first: -1, count: 1 }, "given out"),
        (Record::ProducerIds { node: NodeId(0), first: i64::MAX, count: 1 }, "exceed"),
        (Record::Group { group: GroupId(1) }, "later version"),
    ];
    let before = log.image.clone();
    for (record, why) in misfits {
        let alone = log.image.apply(before.applied + 1, &Batch::new(vec![record.clone()])).unwrap_err();
        assert!(alone.contains(why), "{record:?}: {alone}");
        // Behind a record that fits, the whole entry is refused.
        let fits = Record::ClusterConfig { changes: [("x".into(), Some("y".into()))].into() };
        let both = log.image.apply(before.applied + 1, &Batch::new(vec![fits, record])).unwrap_err();
        assert!(both.contains(why) && both.contains("record 1 of entry"), "{both}");
        assert_eq!(log.image, before);
    }
}

#[test]
fn entry_out_of_order_or_of_another_version_is_refused() {
    let mut log = Log::with_brokers(&[None]);
    let before = log.image.clone();
    let batch = Batch::new(vec![broker_record(1, 0)]);
    assert!(log.image.apply(before.applied, &batch).unwrap_err().contains("applied already"));
    assert!(log.image.apply(u64::MAX, &batch).unwrap_err().contains("int64"));
    let later = Batch { v: 2, records: vec![] };
    assert!(log.image.apply(before.applied + 1, &later).unwrap_err().contains("version 2"));
    let twice = Batch::new(vec![broker_record(1, 0), broker_record(1, 1)]);
    assert!(log.image.apply(before.applied + 1, &twice).unwrap_err().contains("registers twice"));
    assert_eq!(log.image, before);
    log.image.apply(before.applied + 1, &Batch::empty()).unwrap();
    assert_eq!(log.image.applied, before.applied + 1);
}

#[test]
fn records_of_one_entry_build_on_one_another_and_share_its_number() {
    let mut image = Image::default();
    let records = vec![
        Record::Cluster { id: "c".into() },
        broker_record(0, 0),
        topic_record("a", 1, vec![vec![0], vec![0]]),
        Record::Partitions { id: Uuid::from_u128(1), replicas: vec![vec![NodeId(0)]] },
    ];
    let changes = image.apply_with_changes(5, &Batch::new(records)).unwrap();
    assert_eq!((image.cluster_id.as_str(), image.applied), ("c", 5));
    assert_eq!(image.brokers[&NodeId(0)].incarnation, 5);
    let placed: Vec<_> =
        image.topics["a"].partitions.iter().map(|p| (p.group.0, p.replicas[0].assignment)).collect();
    assert_eq!(placed, [(1, 5), (2, 5), (3, 5)]);
    assert_eq!(changes.len(), 4, "one broker, three groups");
}

#[test]
fn internal_topics_are_known_by_name() {
    let mut log = Log::with_brokers(&[None]);
    log.create("__consumer_offsets", 1, 1);
    log.create("__mine", 1, 1);
    assert!(log.image.topics["__consumer_offsets"].internal);
    assert!(!log.image.topics["__mine"].internal);
}

#[test]
fn diff_names_every_change_once() {
    let mut log = Log::with_brokers(&[None, None]);
    log.create("gone", 1, 1);
    log.create("kept", 1, 2);
    let (gone, kept) = (log.image.topics["gone"].id, log.image.topics["kept"].id);
    let old = log.image.clone();
    log.run(&Command::DeleteTopic { name: Some("gone".into()), id: None }).unwrap();
    log.fence(1);
    log.run(&Command::CreatePartitions {
        topic: "kept".into(),
        count: 2,
        assignments: Some(vec![vec![NodeId(1), NodeId(0)]]),
        validate_only: false,
    })
    .unwrap_err();
    log.unfence(1);
    log.run(&registration(1, 0, None)).unwrap();
    log.run(&Command::CreatePartitions {
        topic: "kept".into(),
        count: 2,
        assignments: Some(vec![vec![NodeId(1), NodeId(0)]]),
        validate_only: false,
    })
    .unwrap();
    for topic in [Some("kept".to_owned()), None] {
        let name = if topic.is_some() { "retention.ms" } else { "log.retention.ms" };
        let change = crate::ctl::command::ConfigChange {
            name: name.into(),
            op: crate::ctl::command::ConfigOp::Set,
            value: Some("5".into()),
        };
        log.run(&Command::AlterConfigs { topic, changes: vec![change], validate_only: false }).unwrap();
    }
    assert_eq!(
        Image::diff(&old, &log.image),
        [
            Change::GroupRemoved { group: GroupId(1), topic: gone, partition: 0 },
            Change::TopicRemoved { name: "gone".into() },
            Change::BrokerChanged { node: NodeId(1) },
            Change::ClusterConfigChanged,
            Change::GroupAdded { group: GroupId(3), topic: kept, partition: 1 },
            Change::TopicConfigChanged { topic: kept },
        ]
    );
    assert_eq!(Image::diff(&log.image, &log.image), []);
    let from_nothing = Image::diff(&Image::default(), &log.image);
    assert_eq!(
        from_nothing.iter().filter(|c| matches!(c, Change::GroupAdded { .. })).count(),
        log.image.groups.len()
    );
    let mut smaller = log.image.clone();
    smaller.brokers.remove(&NodeId(0));
    assert_eq!(Image::diff(&log.image, &smaller), [Change::BrokerRemoved { node: NodeId(0) }]);
}

#[test]
fn image_survives_json() {
    let mut log = Log::with_brokers(&[Some("r1"), None]);
    log.create("a", 3, 2);
    let text = serde_json::to_string(&log.image).unwrap();
    assert_eq!(serde_json::from_str::<Image>(&text).unwrap(), log.image);
}

#[test]
fn batch_of_a_later_version_or_record_is_refused() {
    assert!(Batch::decode(br#"{"v":2,"records":[{"t":"Split"}]}"#).unwrap_err().contains("version 2"));
    assert!(Batch::decode(br#"{"v":1,"records":[{"t":"Split"}]}"#).unwrap_err().contains("does not decode"));
    assert!(Batch::decode(b"\0\x01").unwrap_err().contains("not a batch"));
    assert_eq!(Batch::decode(br#"{"v":1,"records":[]}"#), Ok(Batch::empty()));
}

#[test]
fn record_on_the_log_keeps_its_shape() {
    // The log outlives the program: these texts must stay readable.
    let batch = Batch::new(vec![
        Record::Cluster { id: "c".into() },
        Record::Fence { node: NodeId(1), incarnation: 7 },
        Record::TopicConfig {
            id: Uuid::from_u128(1),
            changes: [("retention.ms".into(), Some("1".into())), ("segment.ms".into(), None)].into(),
        },
    ]);
    let text = concat!(
        r#"{"v":1,"records":[{"t":"Cluster","id":"c"},{"t":"Fence","node":1,"incarnation":7},"#,
        r#"{"t":"TopicConfig","id":"00000000-0000-0000-0000-000000000001","#,
        r#""changes":{"retention.ms":"1","segment.ms":null}}]}"#
    );
    assert_eq!(String::from_utf8(batch.encode()).unwrap(), text);
    assert_eq!(Batch::decode(text.as_bytes()), Ok(batch));
}

fn any_nodes() -> impl Strategy<Value = Vec<Vec<NodeId>>> {
    prop::collection::vec(prop::collection::vec((-1..4i32).prop_map(NodeId), 0..4), 0..4)
}

fn any_id() -> impl Strategy<Value = Uuid> {
    prop_oneof![(0..6u128).prop_map(Uuid::from_u128), any::<u128>().prop_map(Uuid::from_u128)]
}

fn any_changes() -> impl Strategy<Value = BTreeMap<String, Option<String>>> {
    prop::collection::btree_map("[a-c.]{0,3}", prop::option::of(".{0,4}"), 0..3)
}

fn any_groups() -> impl Strategy<Value = Vec<GroupId>> {
    prop::collection::vec((0..5u64).prop_map(GroupId), 0..3)
}

fn any_opening() -> impl Strategy<Value = GroupOpening> {
    let node = || (-1..4i32).prop_map(NodeId);
    let id = (0..3u64, any::<u64>(), any::<u64>());
    (0..5u64, 0..3u64, node(), id, any::<u64>(), any::<bool>(), prop::collection::vec(node(), 0..3)).prop_map(
        |(group, generation, survivor, (g, t, i), first_term, lossless, learners)| GroupOpening {
            group: GroupId(group),
            generation,
            survivor,
            base: LogId::new(g, t, i),
            first_term: Term(first_term),
            lossless,
            learners,
        },
    )
}

fn any_move() -> impl Strategy<Value = GroupMove> {
    let target = prop::collection::vec((-1..4i32).prop_map(NodeId), 0..4);
    ((0..5u64).prop_map(GroupId), target).prop_map(|(group, target)| GroupMove { group, target })
}

fn any_arrival() -> impl Strategy<Value = Arrival> {
    let since = prop_oneof![0..30u64, any::<u64>()];
    (0..5u64, since, 0..3u64, 0..20u64).prop_map(|(group, since, generation, index)| Arrival {
        group: GroupId(group),
        since,
        generation,
        configuration: LogId::new(generation, 1, index),
    })
}

/// Any record at all, with numbers small enough to meet each other now and then.
fn any_forsaken() -> impl Strategy<Value = Forsaken> {
    (0..6u64, -1..4i32, 0..20u64, 0..3u64).prop_map(|(group, node, assignment, generation)| Forsaken {
        group: GroupId(group),
        node: NodeId(node),
        assignment,
        generation,
        configuration: LogId::default(),
        is_whole: assignment % 2 == 0,
    })
}

pub(super) fn any_record() -> impl Strategy<Value = Record> {
    let node = || (-1..4i32).prop_map(NodeId);
    let number = || prop_oneof![0..20u64, any::<u64>()];
    let endpoint = || (".{0,5}", any::<u16>()).prop_map(|(host, port)| Endpoint { host, port });
    prop_oneof![
        ".{0,4}".prop_map(|id| Record::Cluster { id }),
        (
            (node(), any_id(), endpoint(), endpoint(), prop::option::of(".{0,3}")),
            prop::collection::btree_map("[A-C]", endpoint(), 0..3)
        )
            .prop_map(|((node, directory, kafka, peer, rack), listeners)| {
                Record::Broker { node, directory, kafka, listeners, peer, rack }
            }),
        (node(), number()).prop_map(|(node, incarnation)| Record::Fence { node, incarnation }),
        (node(), number()).prop_map(|(node, incarnation)| Record::Unfence { node, incarnation }),
        (node(), number()).prop_map(|(node, incarnation)| Record::Stopping { node, incarnation }),
        (node(), number()).prop_map(|(node, incarnation)| Record::Dead { node, incarnation }),
        any_groups().prop_map(|groups| Record::Seal { groups }),
        prop::collection::vec(any_opening(), 0..3).prop_map(|openings| Record::Generation { openings }),
        (node(), any_groups()).prop_map(|(node, groups)| Record::Place { node, groups }),
        prop::collection::vec(any_forsaken(), 0..3).prop_map(|replicas| Record::Anew { replicas }),
        prop::collection::vec(any_move(), 0..3)
            .prop_map(|moves| Record::Reassign { moves, by_controllers: false }),
        prop::collection::vec(any_arrival(), 0..3).prop_map(|arrivals| Record::Reassigned { arrivals }),
        ("[a-c]{0,2}", any_id(), any_nodes(), prop::collection::btree_map(".{0,3}", ".{0,3}", 0..2))
            .prop_map(|(name, id, replicas, configs)| Record::Topic { name, id, replicas, configs }),
        (any_id(), any_nodes()).prop_map(|(id, replicas)| Record::Partitions { id, replicas }),
        any_id().prop_map(|id| Record::DeleteTopic { id }),
        (any_id(), any_changes()).prop_map(|(id, changes)| Record::TopicConfig { id, changes }),
        any_changes().prop_map(|changes| Record::ClusterConfig { changes }),
        (node(), any_changes()).prop_map(|(node, changes)| Record::BrokerConfig { node, changes }),
        (node(), any::<i64>(), any::<i32>()).prop_map(|(node, first, count)| Record::ProducerIds {
            node,
            first,
            count
        }),
        number().prop_map(|g| Record::Group { group: GroupId(g) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_survives_json(records in prop::collection::vec(any_record(), 0..6)) {
        let batch = Batch::new(records);
        prop_assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(batch) = Batch::decode(&bytes) {
            prop_assert_eq!(batch.v, 1);
        }
    }

    /// Whatever the log holds: no panic, whole or nothing, changes as `diff` sees them, and the indexes agree.
    #[test]
    fn any_log_applies_whole_or_not_at_all(
        entries in prop::collection::vec(
            (prop_oneof![1..4u64, any::<u64>()], prop::collection::vec(any_record(), 0..4)), 0..40)
    ) {
        let mut image = Image::default();
        for (step, records) in entries {
            let before = image.clone();
            let number = image.applied.saturating_add(step);
            let batch = Batch::new(records);
            match image.apply_with_changes(number, &batch) {
                Err(_) => prop_assert_eq!(&image, &before),
                Ok(mut changes) if batch.records.len() == 1 => {
                    let mut expected = Image::diff(&before, &image);
                    changes.sort();
                    expected.sort();
                    prop_assert_eq!(changes, expected);
                }
                Ok(_) => prop_assert_eq!(image.applied, number),
            }
            super::sequences::check_indexes(&image);
        }
    }
}
