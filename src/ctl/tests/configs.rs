//! Every validator, the precedence of values, DescribeConfigs, and the freshness of docs/configuration.md.
use super::*;
use crate::ctl::configs::broker_keys::BROKER_KEYS;
use crate::ctl::configs::describe::{
    ConfigEntry, default_replication_factor, describe_broker, describe_topic,
};
use crate::ctl::configs::topic_keys::TOPIC_KEYS;
use crate::ctl::configs::{
    Kind, Source, broker_key, check_dynamic_value, check_static, check_topic_value, docs, topic_key,
};

const LONG_MAX: &str = "9223372036854775807";

/// key, values that are taken (as stored), values that are refused with what the message says.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("cleanup.policy", &[("delete", "delete"), (" delete ,", "delete"), ("compact", "compact"), ("compact, delete", "compact,delete")],
        &[("", "must not be empty"), ("shred", "cleanup.policy must be delete or compact, got `shred`"),
          ("delete,delete", "twice"), ("compact,delete,compact", "twice")]),
    ("compression.gzip.level", &[("-1", "-1"), ("1", "1"), ("9", "9")],
        &[("0", "compression.gzip.level must be between 1 and 9, or -1, got 0"), ("10", "got 10"), ("-2", "got -2")]),
    ("compression.lz4.level", &[("1", "1"), ("17", "17")],
        &[("0", "compression.lz4.level must be between 1 and 17, got 0"), ("18", "between")]),
    ("compression.type", &[("producer", "producer")],
        &[("gzip", "compression.type=gzip is not built yet; what works: producer"),
          ("uncompressed", "not built yet"), ("snappy", "not built"), ("lz4", "not built"), ("zstd", "not built"),
          ("rar", "compression.type must be producer, got `rar`")]),
    ("compression.zstd.level", &[("-131072", "-131072"), ("22", "22")], &[("23", "between -131072 and 22")]),
    ("delete.retention.ms", &[("0", "0")], &[("-1", "must be at least 0, got -1")]),
    ("file.delete.delay.ms", &[("0", "0")], &[("-1", "at least 0")]),
    ("flush.messages", &[("1", "1"), (LONG_MAX, LONG_MAX)], &[("0", "at least 1, got 0")]),
    ("flush.mode", &[("sync", "sync"), ("async", "async")], &[("never", "must be one of sync, async, got `never`")]),
    ("flush.ms", &[("0", "0"), (LONG_MAX, LONG_MAX)], &[("-1", "at least 0"), ("9223372036854775808", "whole number")]),
    ("follower.replication.throttled.replicas",
        &[("", ""), ("*", "*"), ("0:1, 1:2", "0:1,1:2")],
        &[("0-1", "partition:broker"), ("0:", "partition:broker"), ("*,0:1", "partition:broker"), (":1", "partition:broker")]),
    ("index.interval.bytes", &[("0", "0")], &[("-1", "at least 0")]),
    ("internal.segment.bytes", &[("1", "1"), ("4096", "4096")], &[("0", "at least 1")]),
    ("leader.replication.throttled.replicas", &[("*", "*"), ("7:9", "7:9")], &[("x:1", "partition:broker")]),
    ("local.retention.bytes", &[("-2", "-2")], &[("-3", "at least -2")]),
    ("local.retention.ms", &[("-2", "-2")], &[("-3", "at least -2")]),
    ("max.compaction.lag.ms", &[("1", "1")], &[("0", "at least 1")]),
    ("max.message.bytes", &[("0", "0"), (" 1048588 ", "1048588"), ("2147483647", "2147483647")],
        &[("-1", "at least 0"), ("2147483648", "must fit a 32-bit number, got 2147483648"),
          ("1MB", "max.message.bytes must be a whole number, got `1MB`"), ("", "whole number")]),
    ("message.downconversion.enable", &[("true", "true"), ("FALSE", "false")], &[("yes", "true or false, got `yes`")]),
    ("message.timestamp.after.max.ms", &[("0", "0")], &[("-1", "at least 0")]),
    ("message.timestamp.before.max.ms", &[("0", "0")], &[("-1", "at least 0")]),
    ("message.timestamp.type", &[("CreateTime", "CreateTime"), ("LogAppendTime", "LogAppendTime")],
        &[("createtime", "must be one of CreateTime, LogAppendTime, got `createtime`")]),
    ("min.cleanable.dirty.ratio", &[("0", "0"), ("0.25", "0.25"), ("1", "1")],
        &[("1.01", "between 0 and 1, got 1.01"), ("-0.1", "between"), ("NaN", "between"), ("half", "must be a number")]),
    ("min.compaction.lag.ms", &[("0", "0")], &[("-1", "at least 0")]),
    ("min.insync.replicas", &[("1", "1"), ("3", "3")], &[("0", "min.insync.replicas must be at least 1, got 0")]),
    ("preallocate", &[("True", "true")], &[("1", "true or false")]),
    ("recovery.auto.delay.ms", &[("0", "0"), ("30000", "30000")], &[("-1", "at least 0")]),
    ("recovery.policy", &[("operator", "operator"), ("auto", "auto"), ("never", "never")],
        &[("hope", "must be one of operator, auto, never, got `hope`")]),
    ("remote.log.copy.disable", &[("false", "false"), ("true", "true")], &[("", "true or false")]),
    ("remote.log.delete.on.disable", &[("false", "false"), ("true", "true")], &[("no", "true or false")]),
    ("remote.storage.enable", &[("false", "false")], &[("true", "remote.storage.enable=true is not built yet")]),
    ("retention.bytes", &[("-1", "-1"), ("-5", "-5"), ("0", "0")], &[("1.5", "whole number, got `1.5`")]),
    ("retention.ms", &[("-1", "-1"), ("0", "0")], &[("-5", "retention.ms must be at least -1, got -5")]),
    ("segment.bytes", &[("1048576", "1048576")], &[("1048575", "at least 1048576"), ("3000000000", "32-bit")]),
    ("segment.index.bytes", &[("4", "4")], &[("3", "at least 4")]),
    ("segment.jitter.ms", &[("0", "0")], &[("-1", "at least 0")]),
    ("segment.ms", &[("1", "1"), ("604800000", "604800000")], &[("0", "segment.ms must be at least 1, got 0")]),
    ("unclean.leader.election.enable", &[("true", "true"), ("false", "false")], &[("maybe", "true or false")]),
];

#[test]
fn every_topic_config_takes_and_refuses_what_kafka_does() {
    for (name, good, bad) in TABLE {
        for (value, stored) in *good {
            assert_eq!(check_topic_value(name, value).as_deref(), Ok(*stored), "{name}={value}");
        }
        for (value, why) in *bad {
            match check_topic_value(name, value) {
                Err(Error::InvalidConfig(message)) => {
                    assert!(message.contains(why), "{name}={value}: {message}");
                    assert!(message.contains(name), "{message}");
                }
                other => panic!("{name}={value}: {other:?}"),
            }
        }
    }
    let tested: Vec<_> = TABLE.iter().map(|row| row.0).collect();
    let all: Vec<_> = TOPIC_KEYS.iter().map(|key| key.name).collect();
    assert_eq!(tested, all, "every key is in the table of this test");
}

#[test]
fn tables_are_sorted_and_their_defaults_pass_their_own_validators() {
    assert!(TOPIC_KEYS.is_sorted_by(|a, b| a.name < b.name));
    assert!(BROKER_KEYS.is_sorted_by(|a, b| a.name < b.name));
    for key in TOPIC_KEYS {
        assert_eq!(check_topic_value(key.name, key.default).as_deref(), Ok(key.default), "{}", key.name);
        assert!(topic_key(key.name).is_some_and(|k| k.name == key.name));
        assert!(key.doc.ends_with('.'));
    }
    for key in BROKER_KEYS {
        if let Some(default) = key.default {
            let is_static = check_static(&[(key.name.to_owned(), default.to_owned())].into());
            assert_eq!(is_static.is_ok(), !key.only_own, "{}", key.name);
        }
        assert!(key.doc.ends_with('.'));
    }
}

#[test]
fn every_synonym_is_a_broker_key_and_gives_the_same_default() {
    for key in TOPIC_KEYS {
        let mut given = None;
        for (at, synonym) in key.synonyms.iter().enumerate() {
            let broker =
                broker_key(synonym.key).unwrap_or_else(|| panic!("{} is no broker key", synonym.key));
            assert_eq!(
                broker.dynamic,
                at == 0,
                "{}: the strongest synonym and only that is dynamic",
                broker.name
            );
            if synonym.unit == 1 {
                assert_eq!(broker.kind, key.kind, "{}", broker.name);
                if at == 0 {
                    assert_eq!(broker.rule, key.rule, "{}", broker.name);
                    assert_eq!(
                        matches!(broker.effect, crate::ctl::configs::Effect::Applied),
                        matches!(key.effect, crate::ctl::configs::Effect::Applied)
                    );
                }
            }
            let scaled = |v: &str| v.parse::<i64>().map_or(v.to_owned(), |n| (n * synonym.unit).to_string());
            given = given.or(broker.default.map(scaled));
        }
        if !key.synonyms.is_empty() {
            assert_eq!(given.as_deref(), Some(key.default), "{}", key.name);
        }
    }
    let dynamic = BROKER_KEYS.iter().filter(|k| k.dynamic);
    for key in dynamic {
        assert!(TOPIC_KEYS.iter().any(|t| t.synonyms.iter().any(|s| s.key == key.name)), "{}", key.name);
    }
}

#[test]
fn unknown_and_read_only_names_are_refused() {
    let refused = |result: Result<String, Error>, why: &str| match result {
        Err(Error::InvalidConfig(message)) => assert!(message.contains(why), "{message}"),
        other => panic!("{other:?}"),
    };
    refused(check_topic_value("retention.sm", "1"), "unknown topic config name `retention.sm`");
    refused(check_topic_value("log.retention.ms", "1"), "unknown topic config");
    refused(check_dynamic_value("retention.ms", "1"), "unknown broker config name `retention.ms`");
    refused(check_dynamic_value("node.id", "1"), "node.id cannot be changed at run time");
    refused(check_dynamic_value("log.retention.hours", "1"), "cannot be changed");
    refused(check_dynamic_value("log.retention.ms", "-2"), "log.retention.ms must be at least -1, got -2");
    assert_eq!(check_dynamic_value("log.retention.ms", "7").as_deref(), Ok("7"));
    let statics = |name: &str, value: &str| check_static(&[(name.to_owned(), value.to_owned())].into());
    assert!(statics("log.retention.hours", "24").is_ok());
    assert!(statics("process.roles", "broker,controller").is_ok());
    assert!(statics("process.roles", "broker,witness").is_err());
    assert!(statics("log.cleanup.policy", "compact").is_ok());
    assert!(statics("compression.type", "zstd").unwrap_err().to_string().contains("not built yet"));
    assert!(statics("zookeeper.connect", "x").unwrap_err().to_string().contains("unknown broker config"));
}

fn with(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// An image with one topic with these overrides, and these cluster-wide values.
fn image_with(topic: &[(&str, &str)], cluster: &[(&str, &str)]) -> Image {
    let mut log = Log::with_brokers(&[None, None]);
    log.create("t", 1, 1);
    log.image.topics.get_mut("t").unwrap().configs = with(topic);
    log.image.configs = with(cluster);
    log.image
}

fn typed(
    topic: &[(&str, &str)],
    cluster: &[(&str, &str)],
    statics: &[(&str, &str)],
) -> crate::ctl::command::TopicConfig {
    let image = image_with(topic, cluster);
    let defaults = Defaults { broker: with(statics), ..defaults() };
    image.topic_config(&image.topics["t"], &defaults)
}

#[test]
fn topic_without_settings_has_kafkas_defaults() {
    let expected = crate::ctl::command::TopicConfig {
        min_insync_replicas: 1,
        retention_ms: 604_800_000,
        retention_bytes: -1,
        segment_bytes: 1 << 30,
        segment_ms: 604_800_000,
        deletes: true,
        compacts: false,
        min_dirty_ratio: 0.5,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: i64::MAX,
        delete_retention_ms: 86_400_000,
        index_interval_bytes: 4096,
        max_message_bytes: 1_048_588,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        flush_async: false,
        flush_ms: 1_000,
        flush_messages: u64::MAX >> 1,
        recovery_auto: false,
        recovery_auto_delay_ms: 30_000,
    };
    assert_eq!(typed(&[], &[], &[]), expected);
}

#[test]
fn compaction_is_the_topics_and_closes_segments_in_time() {
    let topic = [
        ("cleanup.policy", "compact"),
        ("max.compaction.lag.ms", "7000"),
        ("min.cleanable.dirty.ratio", "0.1"),
    ];
    let config = typed(
        &topic,
        &[("log.cleaner.delete.retention.ms", "5")],
        &[("log.cleaner.min.compaction.lag.ms", "6")],
    );
    assert!(config.compacts && !config.deletes);
    assert_eq!((config.min_compaction_lag_ms, config.delete_retention_ms), (6, 5));
    assert_eq!(
        (config.max_compaction_lag_ms, config.segment_ms, config.min_dirty_ratio),
        (7_000, 7_000, 0.1)
    );
    let both = typed(&[], &[("log.cleanup.policy", "compact,delete")], &[]);
    assert!(both.compacts && both.deletes);
    let lag = typed(&topic[1..2], &[], &[]);
    assert_eq!((lag.segment_ms, lag.deletes), (604_800_000, true), "nothing is compacted");
}

/// One that was made before compaction was built says nothing of it.
#[test]
fn offsets_topic_is_compacted_unless_it_says_otherwise() {
    let mut log = Log::with_brokers(&[None]);
    log.create("__consumer_offsets", 1, 1);
    let config = |image: &Image| image.topic_config(&image.topics["__consumer_offsets"], &defaults());
    assert!(config(&log.image).compacts && !config(&log.image).deletes);
    let entries = describe_topic(&log.image, &log.image.topics["__consumer_offsets"], &defaults());
    assert_eq!(entry(&entries, "cleanup.policy").value.as_deref(), Some("compact"));
    let topic = log.image.topics.get_mut("__consumer_offsets").unwrap();
    topic.configs = with(&[("cleanup.policy", "delete")]);
    assert!(!config(&log.image).compacts && config(&log.image).deletes);
}

#[test]
fn flush_mode_is_the_topics_and_its_bounds_have_kafkas_names() {
    let topic = [("flush.mode", "async"), ("flush.messages", "10")];
    let config =
        typed(&topic, &[("log.flush.interval.ms", "200")], &[("log.flush.scheduler.interval.ms", "300")]);
    assert!(config.flush_async);
    assert_eq!((config.flush_ms, config.flush_messages), (200, 10));
    assert_eq!(typed(&topic, &[], &[("log.flush.scheduler.interval.ms", "300")]).flush_ms, 300);
    assert_eq!(typed(&[("flush.ms", "0")], &[], &[]).flush_ms, 0);
}

#[test]
fn value_comes_from_topic_then_cluster_then_static_then_default() {
    let statics = [("log.retention.hours", "1"), ("log.retention.minutes", "2"), ("log.retention.ms", "3")];
    assert_eq!(typed(&[], &[], &statics[..1]).retention_ms, 3_600_000);
    assert_eq!(typed(&[], &[], &statics[..2]).retention_ms, 120_000, "minutes before hours");
    assert_eq!(typed(&[], &[], &statics).retention_ms, 3, "milliseconds before minutes");
    let cluster = [("log.retention.ms", "4")];
    assert_eq!(typed(&[], &cluster, &statics).retention_ms, 4);
    assert_eq!(typed(&[("retention.ms", "5")], &cluster, &statics).retention_ms, 5);
    assert_eq!(typed(&[], &[], &[("log.retention.hours", "-1")]).retention_ms, -1, "no limit, in hours");
    assert_eq!(typed(&[], &[("min.insync.replicas", "2")], &[]).min_insync_replicas, 2);
    assert_eq!(typed(&[], &[], &[("message.max.bytes", "100")]).max_message_bytes, 100);
    assert_eq!(typed(&[], &[], &[("log.roll.hours", "2")]).segment_ms, 7_200_000);
    assert!(typed(&[("message.timestamp.type", "LogAppendTime")], &[], &[]).log_append_time);
    assert!(typed(&[], &[("log.message.timestamp.type", "LogAppendTime")], &[]).log_append_time);
    assert_eq!(typed(&[("internal.segment.bytes", "512")], &[], &[]).segment_bytes, 512);
    assert_eq!(typed(&[("retention.bytes", "-7")], &[], &[]).retention_bytes, -1);
}

#[test]
fn text_that_no_validator_let_in_counts_as_the_default() {
    let nonsense = typed(&[("segment.bytes", "big"), ("retention.ms", "")], &[], &[("log.roll.hours", "x")]);
    assert_eq!((nonsense.segment_bytes, nonsense.retention_ms), (1 << 30, 604_800_000));
    assert_eq!(nonsense.segment_ms, 604_800_000);
    let huge = typed(&[], &[], &[("log.retention.hours", "9223372036854775807")]);
    assert_eq!(huge.retention_ms, i64::MAX);
}

fn entry<'a>(entries: &'a [ConfigEntry], name: &str) -> &'a ConfigEntry {
    entries.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("{name} is missing"))
}

fn synonyms(entry: &ConfigEntry) -> Vec<(&str, &str, i8)> {
    entry
        .synonyms
        .iter()
        .map(|s| (s.name.as_str(), s.value.as_deref().unwrap_or(""), s.source as i8))
        .collect()
}

#[test]
fn described_topic_shows_every_key_with_its_source_and_synonyms() {
    let image = image_with(&[("retention.ms", "5")], &[("log.retention.ms", "4")]);
    let defaults = Defaults { broker: with(&[("log.retention.hours", "1")]), ..defaults() };
    let entries = describe_topic(&image, &image.topics["t"], &defaults);
    assert_eq!(entries.len(), TOPIC_KEYS.len() - 1, "all but the hidden one");
    let retention = entry(&entries, "retention.ms");
    assert_eq!((retention.value.as_deref(), retention.source), (Some("5"), Source::Topic));
    assert_eq!((retention.kind as i8, retention.read_only, retention.sensitive), (5, false, false));
    assert_eq!(
        synonyms(retention),
        [
            ("retention.ms", "5", 1),
            ("log.retention.ms", "4", 3),
            ("log.retention.hours", "1", 4),
            ("log.retention.hours", "168", 5),
        ]
    );
    let policy = entry(&entries, "cleanup.policy");
    assert_eq!(
        (policy.value.as_deref(), policy.source, policy.kind),
        (Some("delete"), Source::Default, Kind::List)
    );
    assert_eq!(synonyms(policy), [("log.cleanup.policy", "delete", 5)]);
    let flush = entry(&entries, "flush.mode");
    assert_eq!(synonyms(flush), [("flush.mode", "sync", 5)]);
    assert!(entry(&entries, "preallocate").documentation.contains("Stored without effect"));
    assert!(!retention.documentation.contains("without effect"));
}

#[test]
fn described_broker_shows_static_dynamic_and_default_values() {
    let image = image_with(&[], &[("log.retention.ms", "4")]);
    let broker = with(&[("node.id", "3"), ("log.retention.ms", "9"), ("some.plugin", "x")]);
    let defaults = Defaults { broker, num_partitions: 4, replication_factor: None };
    let entries = describe_broker(&image, None, &defaults);
    assert_eq!(entries.len(), BROKER_KEYS.len());
    let retention = entry(&entries, "log.retention.ms");
    assert_eq!(
        (retention.value.as_deref(), retention.source as i8, retention.read_only),
        (Some("4"), 3, false)
    );
    assert_eq!(synonyms(retention), [("log.retention.ms", "4", 3), ("log.retention.ms", "9", 4)]);
    let node = entry(&entries, "node.id");
    assert_eq!((node.value.as_deref(), node.source as i8, node.read_only), (Some("3"), 4, true));
    let minutes = entry(&entries, "log.retention.minutes");
    assert_eq!((minutes.value.as_deref(), minutes.source as i8), (None, 5));
    let partitions = entry(&entries, "num.partitions");
    assert_eq!((partitions.value.as_deref(), partitions.source as i8), (Some("4"), 4));
    let factor = entry(&entries, "default.replication.factor");
    assert_eq!((factor.value.as_deref(), factor.source as i8), (Some("2"), 5), "two brokers are there");
    assert_eq!(entry(&entries, "delete.topic.enable").value.as_deref(), Some("true"));
}

#[test]
fn default_replication_factor_is_three_or_as_many_as_there_are_brokers() {
    assert_eq!(default_replication_factor(&Image::default()), 1);
    for brokers in 1..6 {
        let mut log = Log::with_brokers(&vec![None; brokers]);
        assert_eq!(default_replication_factor(&log.image), brokers.min(3) as i16);
        log.fence(0);
        assert_eq!(default_replication_factor(&log.image), brokers.min(3) as i16, "a fenced one counts");
    }
}

#[test]
fn configuration_page_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = docs::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is stale: run `UPDATE_DOCS=1 cargo test configuration_page`"
    );
}
