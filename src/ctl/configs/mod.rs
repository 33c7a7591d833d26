//! Configuration of topics and brokers under Kafka's names: what exists, what a value may be, what is in force.
//!
//! The two tables ([`topic_keys`], [`broker_keys`]) are the only place that knows a key; validation, DescribeConfigs
//! ([`describe`]) and docs/configuration.md ([`docs`]) are read from them. Not here: acting on a value, a node's own
//! start-up settings (`broker::config`). Called by `decide` (validation), `image` (effective values) and the handlers
//! (describe). Rules:
//! - precedence, as Kafka's: topic, else cluster-wide dynamic broker synonym, else static broker synonym in the order
//!   of the table (`log.retention.ms` before `log.retention.minutes` before `log.retention.hours`), else default;
//! - what is not built is refused with the reason, never accepted silently; what Kafka clients set as a matter of
//!   course and Kontiki has no use for is accepted, stored, and said to have no effect.
pub mod broker_keys;
pub mod describe;
pub mod docs;
pub mod topic_keys;

use super::command::{Defaults, Error, TopicConfig};
use super::listeners;
use broker_keys::BROKER_KEYS;
use std::borrow::Cow;
use std::collections::BTreeMap;
use topic_keys::TOPIC_KEYS;

/// `flush.ms` of `flush.mode=async` where nobody says anything: Kafka's own default is "never".
const FLUSH_MS: u64 = 1_000;

/// Kafka's type of a configuration, with its code in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Kind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32-bit number.
    Int = 3,
    /// 64-bit number.
    Long = 5,
    /// Floating point number.
    Double = 6,
    /// Comma-separated list.
    List = 7,
}

impl Kind {
    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "boolean",
            Kind::String => "string",
            Kind::Int => "int",
            Kind::Long => "long",
            Kind::Double => "double",
            Kind::List => "list",
        }
    }
}

/// What a value may be, beyond its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Anything of the type.
    Any,
    /// A number from here on.
    AtLeast(i64),
    /// A number within these bounds.
    Between(i64, i64),
    /// From 0 to 1.
    Fraction,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of `now`; `later` are Kafka's other words, which are not built yet.
    Built {
        /// What works.
        now: &'static [&'static str],
        /// What is refused with the reason.
        later: &'static [&'static str],
    },
    /// gzip levels: 1 to 9, or -1.
    GzipLevel,
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
    /// A list of `NAME://HOST:PORT`.
    Listeners,
}

/// What Kontiki does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It acts on it.
    Applied,
    /// It is taken and shown, and does nothing: why.
    Stored(&'static str),
}

/// A broker key that stands in for a topic key, and how many of the topic's units one of its units is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The broker key.
    pub key: &'static str,
    /// Multiplier, e.g. 3,600,000 from hours to milliseconds.
    pub unit: i64,
}

/// A topic configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicKey {
    /// Kafka's name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Default as text.
    pub default: &'static str,
    /// Validator.
    pub rule: Rule,
    /// Whether it is acted on.
    pub effect: Effect,
    /// Broker keys that give the default, strongest first.
    pub synonyms: &'static [Synonym],
    /// One sentence or two.
    pub doc: &'static str,
    /// Left out of DescribeConfigs and docs, as Kafka does with its internal keys.
    pub hidden: bool,
}

/// A broker configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BrokerKey {
    /// Kafka's name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Default as text; None = not set.
    pub default: Option<&'static str>,
    /// Validator.
    pub rule: Rule,
    /// Whether it is acted on.
    pub effect: Effect,
    /// Can be changed at run time, for the whole cluster.
    pub dynamic: bool,
    /// Can be changed at run time, for one broker or for all.
    pub own: bool,
    /// Can be changed at run time, for one broker alone.
    pub only_own: bool,
    /// Can be said when the broker starts.
    pub at_start: bool,
    /// One sentence or two.
    pub doc: &'static str,
}

impl BrokerKey {
    /// The text to keep for this value.
    ///
    /// # Errors
    /// Why it may not be that.
    pub fn check(&self, value: &str) -> Result<String, String> {
        check(self.name, self.kind, self.rule, value)
    }

    /// What it does, and if nothing, why.
    pub fn documentation(&self) -> String {
        describe::documentation(self.doc, self.effect)
    }

    /// Whether its value is words, not a number or a flag.
    pub fn is_text(&self) -> bool {
        matches!(self.kind, Kind::String | Kind::List)
    }
}

/// Where a value comes from, with its code in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Set at run time for one broker.
    DynamicBroker = 2,
    /// Set at run time for all brokers.
    DynamicDefaultBroker = 3,
    /// In the broker's file, environment or flags.
    StaticBroker = 4,
    /// Built in.
    Default = 5,
}

/// The topic key of this name.
pub fn topic_key(name: &str) -> Option<&'static TopicKey> {
    TOPIC_KEYS.binary_search_by(|key| key.name.cmp(name)).ok().map(|at| &TOPIC_KEYS[at])
}

/// The broker key of this name.
pub fn broker_key(name: &str) -> Option<&'static BrokerKey> {
    BROKER_KEYS.binary_search_by(|key| key.name.cmp(name)).ok().map(|at| &BROKER_KEYS[at])
}

/// Items of a list value.
pub fn list_items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Checks a value of a topic key; gives the text to store.
///
/// # Errors
/// `InvalidConfig`: unknown key, wrong type, out of bounds, or not built yet.
pub fn check_topic_value(name: &str, value: &str) -> Result<String, Error> {
    let key =
        topic_key(name).ok_or_else(|| Error::InvalidConfig(format!("unknown topic config name `{name}`")))?;
    check(key.name, key.kind, key.rule, value).map_err(Error::InvalidConfig)
}

/// Checks a value of a broker key that is set at run time for all brokers; gives the text to store.
///
/// # Errors
/// `InvalidConfig`: unknown key, not changeable at run time, wrong type, out of bounds, or not built yet.
pub fn check_dynamic_value(name: &str, value: &str) -> Result<String, Error> {
    let key = broker_key(name)
        .ok_or_else(|| Error::InvalidConfig(format!("unknown broker config name `{name}`")))?;
    if key.only_own {
        return Err(Error::InvalidConfig(format!("{name} can only be set for one broker")));
    }
    if !key.dynamic && !key.own {
        return Err(Error::InvalidConfig(format!("{name} cannot be changed at run time")));
    }
    check(key.name, key.kind, key.rule, value).map_err(Error::InvalidConfig)
}

/// Checks a value of a broker key that is set at run time for one broker; gives the text to store.
///
/// # Errors
/// `InvalidConfig`: as [`check_dynamic_value`], or the key is the same for all brokers.
pub fn check_own_value(name: &str, value: &str) -> Result<String, Error> {
    match broker_key(name) {
        Some(key) if key.only_own => check(key.name, key.kind, key.rule, value).map_err(Error::InvalidConfig),
        Some(key) if !key.own => {
            let how = if key.dynamic { "for all brokers at once" } else { "when the broker starts" };
            Err(Error::InvalidConfig(format!("{name} can only be set {how}")))
        }
        _ => check_dynamic_value(name, value),
    }
}

/// The number a broker has in force under a key that can be set for one broker: its own, else that of all, else that of its start.
pub fn broker_number(
    name: &str,
    own: Option<&BTreeMap<String, String>>,
    cluster: &BTreeMap<String, String>,
    defaults: &Defaults,
) -> Option<i64> {
    let values = [own, Some(cluster), Some(&defaults.broker)];
    values.into_iter().flatten().find_map(|values| values.get(name)?.trim().parse().ok())
}

/// Checks everything a node's file, environment and flags say under Kafka's broker keys.
///
/// # Errors
/// `InvalidConfig` of the first key that is unknown or whose value does not fit.
pub fn check_static(values: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in values {
        let key = broker_key(name)
            .ok_or_else(|| Error::InvalidConfig(format!("unknown broker config name `{name}`")))?;
        if !key.at_start {
            return Err(Error::InvalidConfig(format!("{name} is set at run time, for one broker")));
        }
        check(key.name, key.kind, key.rule, value).map_err(Error::InvalidConfig)?;
    }
    Ok(())
}

/// Checks what several topic keys say together. `topic` = all overrides of the topic.
///
/// # Errors
/// `InvalidConfig`.
pub fn check_together(
    topic: &BTreeMap<String, String>,
    cluster: &BTreeMap<String, String>,
    defaults: &Defaults,
) -> Result<(), Error> {
    let (min, max) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
    if !topic.contains_key(min) && !topic.contains_key(max) {
        return Ok(());
    }
    let (low, high) =
        (number(min, topic, cluster, &defaults.broker), number(max, topic, cluster, &defaults.broker));
    if low > high {
        return Err(Error::InvalidConfig(format!("{min} ({low}) must not exceed {max} ({high})")));
    }
    Ok(())
}

/// A value in force and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effective<'a> {
    pub(super) value: Cow<'a, str>,
    pub(super) source: Source,
}

/// The value of a topic key that is in force.
pub(super) fn effective<'a>(
    key: &TopicKey,
    topic: &'a BTreeMap<String, String>,
    cluster: &'a BTreeMap<String, String>,
    statics: &'a BTreeMap<String, String>,
) -> Effective<'a> {
    if let Some(value) = topic.get(key.name) {
        return Effective { value: Cow::Borrowed(value), source: Source::Topic };
    }
    for (values, source) in [(cluster, Source::DynamicDefaultBroker), (statics, Source::StaticBroker)] {
        for synonym in key.synonyms {
            if let Some(value) = values.get(synonym.key).and_then(|raw| convert(raw, synonym.unit)) {
                return Effective { value, source };
            }
        }
    }
    Effective { value: Cow::Borrowed(key.default), source: Source::Default }
}

/// A topic's configuration in force, typed. Total: a text that is not a number (which validation never lets in)
/// counts as the default.
pub(super) fn typed(
    topic: &BTreeMap<String, String>,
    cluster: &BTreeMap<String, String>,
    defaults: &Defaults,
) -> TopicConfig {
    let long = |name: &str| number(name, topic, cluster, &defaults.broker);
    let segment_bytes = match topic.get("internal.segment.bytes").and_then(|v| v.parse::<i64>().ok()) {
        Some(bytes) => bytes,
        None => long("segment.bytes"),
    };
    let word = |name: &str| {
        let value = |key| effective(key, topic, cluster, &defaults.broker).value;
        topic_key(name).map(value).unwrap_or_default()
    };
    let policy = word("cleanup.policy");
    let names = |policy: &str, name| list_items(policy).any(|item| item == name);
    let (compacts, max_compaction_lag_ms) = (names(&policy, "compact"), long("max.compaction.lag.ms"));
    let most_segment_ms = if compacts { max_compaction_lag_ms } else { i64::MAX };
    let flush_ms = match long("flush.ms") {
        i64::MAX => FLUSH_MS,
        ms => u64::try_from(ms).unwrap_or(0),
    };
    TopicConfig {
        min_insync_replicas: i32::try_from(long("min.insync.replicas")).unwrap_or(i32::MAX),
        retention_ms: long("retention.ms").max(-1),
        retention_bytes: long("retention.bytes").max(-1),
        segment_bytes: u64::try_from(segment_bytes).unwrap_or(0).max(1),
        segment_ms: long("segment.ms").min(most_segment_ms).max(1),
        deletes: names(&policy, "delete"),
        compacts,
        min_dirty_ratio: word("min.cleanable.dirty.ratio").trim().parse().unwrap_or(0.5),
        min_compaction_lag_ms: long("min.compaction.lag.ms"),
        max_compaction_lag_ms,
        delete_retention_ms: long("delete.retention.ms"),
        index_interval_bytes: u32::try_from(long("index.interval.bytes")).unwrap_or(0),
        max_message_bytes: usize::try_from(long("max.message.bytes")).unwrap_or(0),
        log_append_time: word("message.timestamp.type").trim() == "LogAppendTime",
        timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
        flush_async: word("flush.mode").trim() == "async",
        flush_ms,
        flush_messages: u64::try_from(long("flush.messages")).unwrap_or(1),
        recovery_auto: word("recovery.policy").trim() == "auto",
        recovery_auto_delay_ms: u64::try_from(long("recovery.auto.delay.ms")).unwrap_or(u64::MAX),
    }
}

/// The number a topic key has in force.
fn number(
    name: &str,
    topic: &BTreeMap<String, String>,
    cluster: &BTreeMap<String, String>,
    statics: &BTreeMap<String, String>,
) -> i64 {
    let Some(key) = topic_key(name) else { return 0 };
    let value = effective(key, topic, cluster, statics).value;
    value.trim().parse().or_else(|_| key.default.parse()).unwrap_or(0)
}

/// A broker value in the units of the topic key. Hours and minutes below zero mean "no limit", as in Kafka.
pub(super) fn convert(raw: &str, unit: i64) -> Option<Cow<'_, str>> {
    let raw = raw.trim();
    if unit == 1 {
        return Some(Cow::Borrowed(raw));
    }
    let scaled = raw.parse::<i64>().ok()?.saturating_mul(unit);
    Some(Cow::Owned(if scaled < 0 { "-1".into() } else { scaled.to_string() }))
}

/// Checks a value; gives the text to store.
fn check(name: &str, kind: Kind, rule: Rule, value: &str) -> Result<String, String> {
    let value = value.trim();
    match kind {
        Kind::Boolean => {
            let word = value.to_ascii_lowercase();
            if word != "true" && word != "false" {
                return Err(format!("{name} must be true or false, got `{value}`"));
            }
            check_word(name, rule, &word)?;
            Ok(word)
        }
        Kind::String if rule == Rule::Listeners => {
            let all = listeners::parse(value).map_err(|why| format!("{name}: {why}"))?;
            Ok(listeners::text(all.iter().map(|(name, at)| (name, at))))
        }
        Kind::String => {
            check_word(name, rule, value)?;
            Ok(value.to_owned())
        }
        Kind::Int => {
            let wide: i64 = parse_whole(name, value)?;
            if i32::try_from(wide).is_err() {
                return Err(format!("{name} must fit a 32-bit number, got {wide}"));
            }
            check_number(name, rule, wide)?;
            Ok(wide.to_string())
        }
        Kind::Long => {
            let number = parse_whole(name, value)?;
            check_number(name, rule, number)?;
            Ok(number.to_string())
        }
        Kind::Double => {
            let number: f64 = value.parse().map_err(|_| format!("{name} must be a number, got `{value}`"))?;
            if rule == Rule::Fraction && !(0.0..=1.0).contains(&number) {
                return Err(format!("{name} must be between 0 and 1, got {value}"));
            }
            Ok(value.to_owned())
        }
        Kind::List => check_list(name, rule, value),
    }
}

fn parse_whole(name: &str, value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| format!("{name} must be a whole number, got `{value}`"))
}

fn check_number(name: &str, rule: Rule, number: i64) -> Result<(), String> {
    match rule {
        Rule::AtLeast(least) if number < least => {
            Err(format!("{name} must be at least {least}, got {number}"))
        }
        Rule::Between(least, most) if number < least || number > most => {
            Err(format!("{name} must be between {least} and {most}, got {number}"))
        }
        Rule::GzipLevel if number != -1 && !(1..=9).contains(&number) => {
            Err(format!("{name} must be between 1 and 9, or -1, got {number}"))
        }
        _ => Ok(()),
    }
}

fn check_word(name: &str, rule: Rule, word: &str) -> Result<(), String> {
    match rule {
        Rule::OneOf(words) if !words.contains(&word) => {
            Err(format!("{name} must be one of {}, got `{word}`", words.join(", ")))
        }
        Rule::Built { now, later } if later.contains(&word) => {
            Err(format!("{name}={word} is not built yet; what works: {}", now.join(", ")))
        }
        Rule::Built { now, .. } if !now.contains(&word) => {
            Err(format!("{name} must be {}, got `{word}`", now.join(" or ")))
        }
        _ => Ok(()),
    }
}

fn check_list(name: &str, rule: Rule, value: &str) -> Result<String, String> {
    let items: Vec<&str> = list_items(value).collect();
    match rule {
        Rule::ThrottledReplicas => {
            let pair = |item: &str| {
                let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
                item.split_once(':').is_some_and(|(partition, broker)| number(partition) && number(broker))
            };
            if items != ["*"] && !items.iter().all(|item| pair(item)) {
                return Err(format!(
                    "{name} must be `*` or a list of partition:broker like `0:1,1:2`, got `{value}`"
                ));
            }
        }
        Rule::Built { now, .. } => {
            if items.is_empty() {
                return Err(format!("{name} must not be empty; what works: {}", now.join(", ")));
            }
            for (at, item) in items.iter().enumerate() {
                check_word(name, rule, item)?;
                if items[..at].contains(item) {
                    return Err(format!("{name} names `{item}` twice"));
                }
            }
        }
        _ => {
            for item in &items {
                check_word(name, rule, item)?;
            }
        }
    }
    Ok(items.join(","))
}
