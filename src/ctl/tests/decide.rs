//! `decide`: what every command writes and answers, and every refusal.
use super::*;
use crate::ctl::command::{ConfigChange, ConfigOp};
use crate::ctl::decide::PARTITIONS_MAX;
use crate::ctl::listeners::ADVERTISED;
use std::collections::BTreeSet;

fn three() -> Log {
    Log::with_brokers(&[None, None, None])
}

fn nodes(lists: &[&[i32]]) -> Option<Vec<Vec<NodeId>>> {
    Some(lists.iter().map(|p| p.iter().copied().map(NodeId).collect()).collect())
}

fn create_error(log: &mut Log, create: CreateTopic) -> Error {
    let before = log.image.clone();
    let error = log.run(&Command::CreateTopic(create)).expect_err("must be refused");
    assert_eq!(log.image, before);
    error
}

fn change(name: &str, op: ConfigOp, value: Option<&str>) -> ConfigChange {
    ConfigChange { name: name.into(), op, value: value.map(str::to_owned) }
}

fn set(name: &str, value: &str) -> ConfigChange {
    change(name, ConfigOp::Set, Some(value))
}

fn alter(log: &mut Log, topic: Option<&str>, changes: Vec<ConfigChange>) -> Result<Reply, Error> {
    log.run(&Command::AlterConfigs { topic: topic.map(str::to_owned), changes, validate_only: false })
}

/// Asserts that the error is of this variant and its text says why.
macro_rules! refused {
    ($error:expr, $variant:ident, $why:expr) => {{
        let error = $error;
        assert!(matches!(error, Error::$variant(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains($why), "{text}");
        assert!(!text.ends_with('.') && text.starts_with(|c: char| !c.is_uppercase()), "{text}");
    }};
}

// ---- brokers

#[test]
fn registration_is_refused_for_wrong_cluster_address_or_disk() {
    let mut log = three();
    let with = |edit: fn(&mut Command)| {
        let mut command = registration(5, 0, None);
        edit(&mut command);
        command
    };
    macro_rules! edit {
        ($field:ident = $value:expr) => {
            with(|c| {
                if let Command::RegisterBroker { $field, .. } = c {
                    *$field = $value;
                }
            })
        };
    }
    let wrong = edit!(cluster = Some("other".into()));
    refused!(log.run(&wrong).unwrap_err(), Refused, "belongs to cluster other, this is cluster kontiki-test");
    let negative = edit!(node = NodeId(-1));
    refused!(log.run(&negative).unwrap_err(), InvalidRequest, "negative");
    let nil = edit!(directory = Uuid::nil());
    refused!(log.run(&nil).unwrap_err(), InvalidRequest, "no data directory");
    let mute = edit!(kafka = Endpoint { host: String::new(), port: 1 });
    refused!(log.run(&mute).unwrap_err(), InvalidRequest, "no client address");
    let portless = edit!(peer = Endpoint { host: "h".into(), port: 0 });
    refused!(log.run(&portless).unwrap_err(), InvalidRequest, "no peer address");
    let shared = edit!(directory = super::directory(1, 0));
    refused!(log.run(&shared).unwrap_err(), Refused, "registered by broker 1 already");
    let newcomer = edit!(cluster = None);
    assert!(log.run(&newcomer).is_ok(), "a freshly formatted broker knows no cluster yet");
    let unborn = decide(&Image::default(), &defaults(), &registration(0, 0, None), 1, 0);
    refused!(unborn.unwrap_err(), Refused, "no id yet");
}

#[test]
fn registration_again_makes_a_new_incarnation_every_time() {
    let mut log = three();
    let mut seen = BTreeSet::new();
    for disk in [0, 0, 1] {
        match log.run(&registration(1, disk, Some("r"))).unwrap() {
            Reply::Registered { incarnation } => {
                assert!(seen.insert(incarnation));
                assert_eq!(log.image.brokers[&NodeId(1)].incarnation, incarnation);
                assert_eq!(incarnation, log.image.applied);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(log.image.brokers[&NodeId(1)].directory, directory(1, 1));
    assert_eq!(log.image.brokers[&NodeId(1)].rack.as_deref(), Some("r"));
}

#[test]
fn fencing_is_idempotent_and_knows_the_incarnation() {
    let mut log = three();
    let incarnation = log.image.brokers[&NodeId(1)].incarnation;
    for (command, fenced) in [
        (Command::Fence { node: NodeId(1), incarnation }, true),
        (Command::Unfence { node: NodeId(1), incarnation }, false),
    ] {
        assert_eq!(log.run(&command), Ok(Reply::Done));
        assert_eq!(log.image.brokers[&NodeId(1)].fenced, fenced);
        let again = decide(&log.image, &log.defaults, &command, 99, 0).unwrap();
        assert_eq!(again, (Batch::empty(), Reply::Done));
    }
    for node in [1, 9] {
        let stale = NodeId(node);
        let command = Command::Fence { node: stale, incarnation: incarnation + 1 };
        assert_eq!(log.run(&command), Err(Error::StaleBroker(stale)));
        let command = Command::Unfence { node: stale, incarnation: incarnation + 1 };
        assert_eq!(log.run(&command), Err(Error::StaleBroker(stale)));
    }
}

// ---- topics

#[test]
fn topic_is_created_with_defaults_where_it_names_none() {
    let mut log = three();
    log.defaults.num_partitions = 4;
    let reply = log.run(&Command::CreateTopic(creation("t", -1, -1))).unwrap();
    let topic = &log.image.topics["t"];
    assert_eq!(reply, Reply::TopicCreated { id: topic.id, partitions: 4, replication_factor: 3 });
    assert_eq!(topic.partitions.len(), 4);
    assert!(topic.partitions.iter().all(|p| p.replicas.len() == 3));
    log.defaults.replication_factor = Some(2);
    log.run(&Command::CreateTopic(creation("u", 1, -1))).unwrap();
    assert_eq!(log.image.partition("u", 0).unwrap().replicas.len(), 2);
}

#[test]
fn topic_ids_are_version_4_distinct_and_fit_for_command_lines() {
    let log = three();
    let mut ids = BTreeSet::new();
    for seed in 0..2_000u64 {
        let decided =
            decide(&log.image, &log.defaults, &Command::CreateTopic(creation("t", 1, 1)), 9, seed).unwrap();
        match decided.1 {
            Reply::TopicCreated { id, .. } => {
                assert_eq!(id.get_version_num(), 4);
                assert_ne!(id.as_bytes()[0] >> 2, 62, "its base64 begins with a dash");
                assert!(ids.insert(id));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn same_seed_gives_the_same_decision() {
    let log = three();
    let command = Command::CreateTopic(creation("t", 20, 2));
    let decided = |seed| decide(&log.image, &log.defaults, &command, 9, seed).unwrap();
    assert_eq!(decided(7), decided(7));
    assert_ne!(decided(7), decided(8));
}

#[test]
fn topic_names_are_checked_as_kafka_does() {
    let mut log = three();
    log.create("a.b", 1, 1);
    let long = "x".repeat(250);
    for (name, why) in [
        ("", "empty string"),
        (".", "`.` is not allowed"),
        ("..", "`..` is not allowed"),
        (long.as_str(), "length of 250 exceeds the maximum of 249"),
        ("a b", "character other than"),
        ("a/b", "character other than"),
        ("schön", "character other than"),
        ("a\nb", "`a\\nb`"),
        ("a_b", "collides with the existing topic `a.b`"),
    ] {
        refused!(create_error(&mut log, creation(name, 1, 1)), InvalidTopic, why);
    }
    assert_eq!(create_error(&mut log, creation("a.b", 1, 1)), Error::TopicExists("a.b".into()));
    for name in ["...", "A-b_9", &"x".repeat(249), "a-b", "__consumer_offsets", "__anything"] {
        log.create(name, 1, 1);
    }
}

#[test]
fn partition_counts_are_bounded() {
    let mut log = three();
    for count in [0, -2, i32::MIN] {
        let error = create_error(&mut log, creation("t", count, 1));
        refused!(error, InvalidPartitions, "must be at least 1, or -1 for the default");
    }
    let error = create_error(&mut log, creation("t", PARTITIONS_MAX + 1, 1));
    refused!(error, InvalidPartitions, "100001 partitions exceed the maximum of 100000");
    log.defaults.num_partitions = 0;
    refused!(create_error(&mut log, creation("t", -1, 1)), InvalidPartitions, "got 0");
}

#[test]
fn replication_factor_is_bounded_by_the_live_brokers() {
    let mut log = three();
    for factor in [0, -2, i16::MIN] {
        let error = create_error(&mut log, creation("t", 1, factor));
        refused!(error, InvalidReplicationFactor, "must be at least 1, or -1 for the default");
    }
    let why = "4 is larger than the number of live brokers, 3 (of 3 registered)";
    refused!(create_error(&mut log, creation("t", 1, 4)), InvalidReplicationFactor, why);
    log.fence(2);
    let why = "3 is larger than the number of live brokers, 2 (of 3 registered)";
    refused!(create_error(&mut log, creation("t", 1, 3)), InvalidReplicationFactor, why);
    refused!(create_error(&mut log, creation("t", 1, -1)), InvalidReplicationFactor, why);
    log.create("t", 6, 2);
    let used: BTreeSet<_> =
        log.image.topics["t"].partitions.iter().flat_map(|p| p.replicas.iter().map(|r| r.node)).collect();
    assert_eq!(used, [NodeId(0), NodeId(1)].into());
    log.fence(0);
    log.fence(1);
    refused!(create_error(&mut log, creation("u", 1, 1)), InvalidReplicationFactor, "live brokers, 0");
}

#[test]
fn manual_assignment_is_taken_as_it_is() {
    let mut log = three();
    let create = CreateTopic { assignments: nodes(&[&[2, 0], &[1, 2]]), ..creation("t", -1, -1) };
    let reply = log.run(&Command::CreateTopic(create)).unwrap();
    assert!(matches!(reply, Reply::TopicCreated { partitions: 2, replication_factor: 2, .. }));
    let placed: Vec<Vec<i32>> = log.image.topics["t"]
        .partitions
        .iter()
        .map(|p| p.replicas.iter().map(|r| r.node.0).collect())
        .collect();
    assert_eq!(placed, [[2, 0], [1, 2]]);
    // Kafka's wire has an empty list for "none".
    let create = CreateTopic { assignments: Some(vec![]), ..creation("u", 2, 1) };
    assert!(log.run(&Command::CreateTopic(create)).is_ok());
}

#[test]
fn manual_assignment_that_cannot_work_is_refused() {
    let mut log = three();
    let manual = |lists: &[&[i32]]| CreateTopic { assignments: nodes(lists), ..creation("t", -1, -1) };
    for (lists, why) in [
        (&[&[0][..], &[]][..], "partition 1: no replicas"),
        (&[&[0, 1], &[1]], "partition 1: 1 replicas where the other partitions have 2"),
        (&[&[0, 0]], "partition 0: broker 0 twice"),
        (&[&[0], &[9]], "partition 1: broker 9 is not registered"),
    ] {
        refused!(create_error(&mut log, manual(lists)), InvalidAssignment, why);
    }
    for (partitions, factor) in [(2, -1), (-1, 1)] {
        let create = CreateTopic { partitions, replication_factor: factor, ..manual(&[&[0], &[1]]) };
        refused!(create_error(&mut log, create), InvalidRequest, "must be -1");
    }
    log.fence(2);
    refused!(create_error(&mut log, manual(&[&[2]])), InvalidAssignment, "only 0 of 1 brokers are live");
    refused!(create_error(&mut log, manual(&[&[0, 2]])), InvalidAssignment, "only 1 of 2 brokers are live");
    assert!(log.run(&Command::CreateTopic(manual(&[&[2, 0, 1]]))).is_ok(), "two of three can elect a leader");
}

#[test]
fn configs_of_a_new_topic_are_checked_and_stored() {
    let mut log = three();
    let with = |name: &str, value: Option<&str>| CreateTopic {
        configs: [(name.to_owned(), value.map(str::to_owned))].into(),
        ..creation("t", 1, 1)
    };
    let why = "retention.ms must be at least -1, got -5";
    refused!(create_error(&mut log, with("retention.ms", Some("-5"))), InvalidConfig, why);
    refused!(
        create_error(&mut log, with("retention", Some("5"))),
        InvalidConfig,
        "unknown topic config name"
    );
    refused!(create_error(&mut log, with("retention.ms", None)), InvalidConfig, "null value");
    let why = "compression.type=zstd is not built yet";
    refused!(create_error(&mut log, with("compression.type", Some("zstd"))), InvalidConfig, why);
    let both = CreateTopic {
        configs: [("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")]
            .map(|(k, v)| (k.to_owned(), Some(v.to_owned())))
            .into(),
        ..creation("t", 1, 1)
    };
    refused!(create_error(&mut log, both), InvalidConfig, "(9) must not exceed max.compaction.lag.ms (8)");
    log.run(&Command::CreateTopic(with("segment.ms", Some(" 77 ")))).unwrap();
    assert_eq!(log.image.topics["t"].configs, [("segment.ms".to_owned(), "77".to_owned())].into());
    let config = log.image.topic_config(&log.image.topics["t"], &log.defaults);
    assert_eq!(config.segment_ms, 77);
}

#[test]
fn validate_only_writes_nothing() {
    let mut log = three();
    let before = log.image.clone();
    let create = CreateTopic { validate_only: true, ..creation("t", 5, 2) };
    let reply = log.run(&Command::CreateTopic(create)).unwrap();
    assert_eq!(reply, Reply::TopicCreated { id: Uuid::nil(), partitions: 5, replication_factor: 2 });
    assert_eq!(log.image, before);
    let create = CreateTopic { validate_only: true, ..creation("bad name", 5, 2) };
    refused!(create_error(&mut log, create), InvalidTopic, "character");
    log.create("t", 1, 1);
    let before = log.image.clone();
    let more =
        Command::CreatePartitions { topic: "t".into(), count: 9, assignments: None, validate_only: true };
    assert_eq!(log.run(&more), Ok(Reply::Done));
    for (topic, name) in [(Some("t".to_owned()), "retention.ms"), (None, "log.retention.ms")] {
        let changes = vec![set(name, "1")];
        assert_eq!(log.run(&Command::AlterConfigs { topic, changes, validate_only: true }), Ok(Reply::Done));
    }
    assert_eq!(log.image, before);
}

#[test]
fn topic_is_deleted_by_name_or_by_id() {
    let mut log = three();
    let id = log.create("t", 1, 1);
    let unknown = Uuid::from_u128(5);
    let delete = |name: Option<&str>, id| Command::DeleteTopic { name: name.map(str::to_owned), id };
    assert_eq!(log.run(&delete(Some("x"), None)), Err(Error::UnknownTopic("x".into())));
    assert_eq!(log.run(&delete(None, Some(unknown))), Err(Error::UnknownTopicId(unknown)));
    refused!(log.run(&delete(None, None)).unwrap_err(), InvalidRequest, "neither");
    refused!(log.run(&delete(None, Some(Uuid::nil()))).unwrap_err(), InvalidRequest, "neither");
    refused!(log.run(&delete(Some("t"), Some(id))).unwrap_err(), InvalidRequest, "not both");
    assert_eq!(log.run(&delete(Some("t"), Some(Uuid::nil()))), Ok(Reply::Done));
    let id = log.create("t", 1, 1);
    log.defaults.broker.insert("delete.topic.enable".into(), "False".into());
    refused!(log.run(&delete(None, Some(id))).unwrap_err(), Refused, "delete.topic.enable is false");
    log.defaults.broker.clear();
    assert_eq!(log.run(&delete(None, Some(id))), Ok(Reply::Done));
    assert!(log.image.topics.is_empty());
}

#[test]
fn partitions_only_grow() {
    let mut log = three();
    log.create("t", 3, 2);
    let more = |topic: &str, count, assignments| Command::CreatePartitions {
        topic: topic.into(),
        count,
        assignments,
        validate_only: false,
    };
    assert_eq!(log.run(&more("x", 5, None)), Err(Error::UnknownTopic("x".into())));
    for count in [3, 2, 0, -1] {
        let why = format!("has 3 partitions, {count} would not be an increase");
        refused!(log.run(&more("t", count, None)).unwrap_err(), InvalidPartitions, why.as_str());
    }
    let error = log.run(&more("t", PARTITIONS_MAX + 1, None)).unwrap_err();
    refused!(error, InvalidPartitions, "exceed the maximum");
    for (lists, why) in [
        (&[&[0, 1][..]][..], "2 partitions are to be added, but 1 assignments are given"),
        (&[&[0, 1], &[0]], "partition 4: 1 replicas where the other partitions have 2"),
        (&[&[0, 1], &[7, 0]], "partition 4: broker 7 is not registered"),
    ] {
        refused!(log.run(&more("t", 5, nodes(lists))).unwrap_err(), InvalidAssignment, why);
    }
    assert_eq!(log.run(&more("t", 5, nodes(&[&[0, 1], &[2, 0]]))), Ok(Reply::Done));
    assert_eq!(log.run(&more("t", 9, None)), Ok(Reply::Done));
    assert_eq!(log.image.topics["t"].partitions.len(), 9);
    assert!(log.image.topics["t"].partitions.iter().all(|p| p.replicas.len() == 2));
    log.fence(1);
    log.fence(2);
    refused!(log.run(&more("t", 10, None)).unwrap_err(), InvalidReplicationFactor, "live brokers, 1");
}

#[test]
fn largest_topic_is_created_and_fits_one_entry() {
    let mut log = three();
    log.create("t", PARTITIONS_MAX, 3);
    assert_eq!(log.image.groups.len(), PARTITIONS_MAX as usize);
    let bytes = log.entries.last().unwrap().1.encode().len();
    assert!(bytes < 1 << 20, "the entry has {bytes} bytes");
}

// ---- configurations

#[test]
fn topic_configs_are_set_and_deleted() {
    let mut log = three();
    log.create("t", 1, 1);
    alter(&mut log, Some("t"), vec![set("retention.ms", "5"), set("segment.ms", "6")]).unwrap();
    alter(&mut log, Some("t"), vec![change("retention.ms", ConfigOp::Delete, None)]).unwrap();
    assert_eq!(log.image.topics["t"].configs, [("segment.ms".to_owned(), "6".to_owned())].into());
    let before = log.image.clone();
    // Nothing new: nothing written.
    alter(&mut log, Some("t"), vec![set("segment.ms", "6"), change("retention.ms", ConfigOp::Delete, None)])
        .unwrap();
    alter(&mut log, Some("t"), vec![]).unwrap();
    assert_eq!(log.image, before);
}

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let mut log = three();
    log.create("t", 1, 1);
    let key = "leader.replication.throttled.replicas";
    let run = |log: &mut Log, op, value| {
        alter(log, Some("t"), vec![change(key, op, Some(value))]).unwrap();
        log.image.topics["t"].configs.get(key).cloned().unwrap_or_default()
    };
    assert_eq!(run(&mut log, ConfigOp::Append, "0:1"), "0:1");
    assert_eq!(run(&mut log, ConfigOp::Append, "1:2, 0:1"), "0:1,1:2");
    assert_eq!(run(&mut log, ConfigOp::Subtract, "0:1,9:9"), "1:2");
    assert_eq!(run(&mut log, ConfigOp::Subtract, "1:2"), "");
    // From the default.
    let append = |value| vec![change("cleanup.policy", ConfigOp::Append, Some(value))];
    alter(&mut log, Some("t"), append("delete")).unwrap();
    assert_eq!(log.image.topics["t"].configs["cleanup.policy"], "delete");
    alter(&mut log, Some("t"), append("compact")).unwrap();
    assert_eq!(log.image.topics["t"].configs["cleanup.policy"], "delete,compact");
    let empty = vec![change("cleanup.policy", ConfigOp::Subtract, Some("delete,compact"))];
    refused!(alter(&mut log, Some("t"), empty).unwrap_err(), InvalidConfig, "must not be empty");
    let cluster = vec![change("log.cleanup.policy", ConfigOp::Append, Some("delete"))];
    alter(&mut log, None, cluster).unwrap();
    assert_eq!(log.image.configs["log.cleanup.policy"], "delete");
}

#[test]
fn refused_config_changes_change_nothing() {
    let mut log = three();
    log.create("t", 1, 1);
    let before = log.image.clone();
    let mut refuse = |topic: Option<&str>, changes: Vec<ConfigChange>| {
        let error = alter(&mut log, topic, changes).expect_err("must be refused");
        assert_eq!(log.image, before);
        error
    };
    let t = Some("t");
    assert_eq!(refuse(Some("x"), vec![set("retention.ms", "1")]), Error::UnknownTopic("x".into()));
    refused!(refuse(t, vec![set("segment.ms", "1"), set("retention.ms", "-5")]), InvalidConfig, "got -5");
    refused!(refuse(t, vec![set("nope", "1")]), InvalidConfig, "unknown topic config name `nope`");
    refused!(refuse(t, vec![change("nope", ConfigOp::Delete, None)]), InvalidConfig, "unknown topic config");
    refused!(
        refuse(t, vec![change("nope", ConfigOp::Append, Some("1"))]),
        InvalidConfig,
        "unknown topic config"
    );
    refused!(refuse(t, vec![set("cleanup.policy", "shred")]), InvalidConfig, "must be delete or compact");
    refused!(refuse(t, vec![change("retention.ms", ConfigOp::Set, None)]), InvalidRequest, "null value");
    let twice = vec![set("retention.ms", "1"), change("retention.ms", ConfigOp::Delete, None)];
    refused!(refuse(t, twice), InvalidRequest, "`retention.ms` is changed twice");
    let append = change("retention.ms", ConfigOp::Append, Some("1"));
    refused!(refuse(t, vec![append]), InvalidConfig, "cannot append to retention.ms: it is not a list");
    let subtract = change("log.retention.ms", ConfigOp::Subtract, Some("1"));
    refused!(refuse(None, vec![subtract]), InvalidConfig, "cannot subtract from log.retention.ms");
    let null = change("cleanup.policy", ConfigOp::Append, None);
    refused!(refuse(t, vec![null]), InvalidRequest, "null value");
    let lag = vec![set("min.compaction.lag.ms", "5"), set("max.compaction.lag.ms", "4")];
    refused!(refuse(t, lag), InvalidConfig, "must not exceed");
    refused!(refuse(None, vec![set("retention.ms", "1")]), InvalidConfig, "unknown broker config name");
    refused!(refuse(None, vec![set("node.id", "1")]), InvalidConfig, "cannot be changed at run time");
    let read_only = change("node.id", ConfigOp::Delete, None);
    refused!(refuse(None, vec![read_only]), InvalidConfig, "cannot be changed at run time");
    let unknown = change("nope", ConfigOp::Delete, None);
    refused!(refuse(None, vec![unknown]), InvalidConfig, "unknown broker config name");
    refused!(refuse(None, vec![set("compression.type", "zstd")]), InvalidConfig, "not built yet");
}

#[test]
fn cluster_wide_configs_are_the_defaults_of_topics() {
    let mut log = three();
    log.create("t", 1, 1);
    alter(&mut log, None, vec![set("log.retention.ms", "123"), set("min.insync.replicas", "2")]).unwrap();
    let config = log.image.topic_config(&log.image.topics["t"], &log.defaults);
    assert_eq!((config.retention_ms, config.min_insync_replicas), (123, 2));
    alter(&mut log, None, vec![change("log.retention.ms", ConfigOp::Delete, None)]).unwrap();
    let config = log.image.topic_config(&log.image.topics["t"], &log.defaults);
    assert_eq!(config.retention_ms, 604_800_000);
}

#[test]
fn key_of_a_later_version_can_be_taken_back() {
    let mut log = three();
    let id = log.create("t", 1, 1);
    let changes = BTreeMap::from([("from.the.future".to_owned(), Some("1".to_owned()))]);
    log.write(Batch::new(vec![Record::TopicConfig { id, changes }])).unwrap();
    alter(&mut log, Some("t"), vec![change("from.the.future", ConfigOp::Delete, None)]).unwrap();
    assert!(log.image.topics["t"].configs.is_empty());
}

// ---- producer ids

#[test]
pub(crate) fn producer_ids_come_in_blocks_and_never_twice() {
    let mut log = three();
    let mut next = || log.run(&Command::AllocateProducerIds { node: NodeId(1) });
    assert_eq!(next(), Ok(Reply::ProducerIds { first: 0, count: 1000 }));
    assert_eq!(next(), Ok(Reply::ProducerIds { first: 1000, count: 1000 }));
    log.generation = 2;
    log.index = 0;
    let first = 2i64 << 40;
    let mut next = || log.run(&Command::AllocateProducerIds { node: NodeId(1) });
    assert_eq!(next(), Ok(Reply::ProducerIds { first, count: 1000 }), "above all of earlier generations");
    assert_eq!(next(), Ok(Reply::ProducerIds { first: first + 1000, count: 1000 }));
    let stranger = Command::AllocateProducerIds { node: NodeId(9) };
    assert_eq!(log.run(&stranger), Err(Error::StaleBroker(NodeId(9))));
    log.image.next_producer_id = i64::MAX - 999;
    let last = log.run(&Command::AllocateProducerIds { node: NodeId(1) });
    refused!(last.unwrap_err(), Refused, "used up");
}

#[test]
fn throttles_are_set_for_one_broker_or_for_all_and_taken_back() {
    let rate = "leader.replication.throttled.rate";
    let mut log = Log::with_brokers(&[None, None]);
    let own = |log: &mut Log, node: i32, changes: Vec<ConfigChange>| {
        log.run(&Command::AlterBroker { node: NodeId(node), changes, validate_only: false })
    };
    let number = |log: &Log, node: i32| {
        let own = log.image.broker_configs.get(&NodeId(node));
        crate::ctl::configs::broker_number(rate, own, &log.image.configs, &log.defaults)
    };
    alter(&mut log, None, vec![set(rate, "7")]).unwrap();
    own(&mut log, 1, vec![set(rate, "5"), set("follower.replication.throttled.rate", "6")]).unwrap();
    assert_eq!((number(&log, 0), number(&log, 1)), (Some(7), Some(5)));
    let described =
        crate::ctl::configs::describe::describe_broker(&log.image, Some(NodeId(1)), &log.defaults);
    let entry = described.iter().find(|entry| entry.name == rate).unwrap();
    assert_eq!((entry.value.as_deref(), entry.source as i8, entry.read_only), (Some("5"), 2, false));
    let written = log.index;
    own(&mut log, 1, vec![set(rate, "5")]).unwrap();
    assert_eq!(log.index, written, "nothing new");
    // The tool takes back whatever it may have set, on every broker.
    let unset = |name: &str| change(name, ConfigOp::Delete, None);
    let all = [rate, "follower.replication.throttled.rate", "replica.alter.log.dirs.io.max.bytes.per.second"];
    for node in 0..2 {
        own(&mut log, node, all.map(unset).to_vec()).unwrap();
    }
    assert_eq!((number(&log, 1), log.image.broker_configs.len()), (Some(7), 0));
    refused!(
        own(&mut log, 1, vec![set("log.retention.ms", "5")]).unwrap_err(),
        InvalidConfig,
        "for all brokers at once"
    );
    refused!(
        own(&mut log, 1, vec![set("node.id", "5")]).unwrap_err(),
        InvalidConfig,
        "when the broker starts"
    );
    refused!(own(&mut log, 1, vec![set(rate, "0")]).unwrap_err(), InvalidConfig, "at least 1");
    refused!(own(&mut log, 9, vec![set(rate, "5")]).unwrap_err(), InvalidRequest, "not registered");
}

#[test]
fn advertised_listeners_are_set_for_one_broker_and_for_listeners_that_it_has() {
    let mut log = Log::with_brokers(&[None, None]);
    let two = match registration(1, 0, None) {
        Command::RegisterBroker { node, directory, kafka, peer, rack, cluster, oldest, .. } => {
            let all = [("A".to_owned(), super::endpoint(1)), ("B".to_owned(), super::endpoint(2))];
            let listeners = all.into();
            Command::RegisterBroker { node, directory, kafka, listeners, peer, rack, cluster, oldest }
        }
        other => other,
    };
    log.run(&two).unwrap();
    let alter_own = |log: &mut Log, node: i32, value: Option<&str>| {
        let op = if value.is_some() { ConfigOp::Set } else { ConfigOp::Delete };
        let changes = vec![change(ADVERTISED, op, value)];
        log.run(&Command::AlterBroker { node: NodeId(node), changes, validate_only: false })
    };
    let told = |log: &Log, node: i32, listener: &str| {
        log.image.advertised(NodeId(node), listener).map(|at| at.to_string())
    };
    assert_eq!((told(&log, 1, "A"), told(&log, 1, "PLAINTEXT")), (Some("localhost:1".into()), None));
    assert_eq!((told(&log, 0, "A"), told(&log, 0, "PLAINTEXT")), (None, Some("localhost:9092".into())));
    alter_own(&mut log, 1, Some("b://[::1]:7")).unwrap();
    assert_eq!(
        (told(&log, 1, "A"), told(&log, 1, "B")),
        (Some("localhost:1".into()), Some("[::1]:7".into()))
    );
    alter_own(&mut log, 0, Some("mapped:32768")).unwrap();
    assert_eq!(told(&log, 0, "PLAINTEXT").as_deref(), Some("mapped:32768"));
    // A new registration changes nothing of it, even if the listener is gone.
    log.run(&registration(1, 0, None)).unwrap();
    assert_eq!((told(&log, 1, "B"), told(&log, 1, "PLAINTEXT")), (None, Some("localhost:9092".into())));
    log.run(&two).unwrap();
    assert_eq!(told(&log, 1, "B").as_deref(), Some("[::1]:7"));
    alter_own(&mut log, 1, None).unwrap();
    assert_eq!(told(&log, 1, "B").as_deref(), Some("localhost:2"));
    for (node, value, why) in [
        (1, "C://h:1", "broker 1 has no listener C; it has A, B"),
        (1, "h:1", "broker 1 has no listener PLAINTEXT; it has A, B"),
        (1, "A://h:0", "nobody can connect to h:0"),
        (1, "A://0.0.0.0:1", "nobody can connect to 0.0.0.0:1"),
        (1, "A://h", "is not HOST:PORT"),
        (0, "A://h:1", "it has PLAINTEXT"),
        (1, "A://mapped:32768", "is what broker 0 advertises"),
    ] {
        refused!(alter_own(&mut log, node, Some(value)).unwrap_err(), InvalidConfig, why);
    }
    refused!(
        alter(&mut log, None, vec![set(ADVERTISED, "h:1")]).unwrap_err(),
        InvalidConfig,
        "for one broker"
    );
}

#[test]
fn commands_and_answers_survive_json() {
    let create = CreateTopic { assignments: nodes(&[&[1, 2]]), ..creation("t", -1, -1) };
    let commands = [
        registration(1, 0, Some("r")),
        Command::CreateTopic(create),
        Command::DeleteTopic { name: None, id: Some(Uuid::from_u128(7)) },
        Command::AlterConfigs {
            topic: None,
            changes: vec![change("a", ConfigOp::Subtract, None)],
            validate_only: true,
        },
    ];
    for command in commands {
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
    }
    for reply in [Reply::Done, Reply::ProducerIds { first: i64::MAX, count: 1 }] {
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
    }
    let error = Error::InvalidConfig("x".into());
    let text = serde_json::to_string(&error).unwrap();
    assert_eq!(serde_json::from_str::<Error>(&text).unwrap(), error);
}
