//! DescribeConfigs: every configuration of a topic or broker, with its value, where that comes from, and what else
//! would have given one.
//!
//! Not here: the request and its filters (`broker`). Called by the handlers of DescribeConfigs and CreateTopics
//! (whose answer lists the configuration from version 5 on).
use super::{BROKER_KEYS, BrokerKey, Effect, Kind, Source, TOPIC_KEYS, TopicKey, convert, effective};
use crate::ctl::command::Defaults;
use crate::ctl::image::{Image, Topic};
use crate::segment::NodeId;
use std::collections::BTreeMap;

/// One configuration as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Key.
    pub name: String,
    /// Value in force; None = not set (or sensitive).
    pub value: Option<String>,
    /// Where the value comes from; its code is `source as i8`.
    pub source: Source,
    /// Cannot be changed at run time.
    pub read_only: bool,
    /// The value is not told.
    pub sensitive: bool,
    /// Kafka's type; its code is `kind as i8`.
    pub kind: Kind,
    /// What it does, and if nothing, why.
    pub documentation: String,
    /// Every place that gives a value, strongest first.
    pub synonyms: Vec<ConfigSynonym>,
}

/// A place that gives a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// Key there.
    pub name: String,
    /// Value there, in that key's units.
    pub value: Option<String>,
    /// Which place.
    pub source: Source,
}

/// Every configuration of a topic.
pub fn describe_topic(image: &Image, topic: &Topic, defaults: &Defaults) -> Vec<ConfigEntry> {
    describe_overrides(image, &topic.overrides(), defaults)
}

/// Every configuration a topic with these overrides has, or would have.
pub fn describe_overrides(
    image: &Image,
    overrides: &BTreeMap<String, String>,
    defaults: &Defaults,
) -> Vec<ConfigEntry> {
    TOPIC_KEYS
        .iter()
        .filter(|key| !key.hidden)
        .map(|key| {
            let found = effective(key, overrides, &image.configs, &defaults.broker);
            ConfigEntry {
                name: key.name.into(),
                value: Some(found.value.into_owned()),
                source: found.source,
                read_only: false,
                sensitive: false,
                kind: key.kind,
                documentation: documentation(key.doc, key.effect),
                synonyms: topic_synonyms(key, overrides, &image.configs, &defaults.broker),
            }
        })
        .collect()
}

/// Every broker configuration, as it is for a broker with these defaults; without one, for all brokers.
pub fn describe_broker(image: &Image, node: Option<NodeId>, defaults: &Defaults) -> Vec<ConfigEntry> {
    BROKER_KEYS
        .iter()
        .map(|key| {
            let synonyms = broker_synonyms(key, image, node, defaults);
            let (value, source) =
                synonyms.first().map_or((None, Source::Default), |s| (s.value.clone(), s.source));
            ConfigEntry {
                name: key.name.into(),
                value,
                source,
                read_only: !key.dynamic && !key.own && !key.only_own,
                sensitive: false,
                kind: key.kind,
                documentation: documentation(key.doc, key.effect),
                synonyms,
            }
        })
        .collect()
}

/// The sentence shown for a key, saying so if the key does nothing.
pub(super) fn documentation(doc: &str, effect: Effect) -> String {
    match effect {
        Effect::Applied => doc.to_owned(),
        Effect::Stored(why) => format!("{doc} Stored without effect: {why}."),
    }
}

fn topic_synonyms(
    key: &TopicKey,
    overrides: &BTreeMap<String, String>,
    cluster: &BTreeMap<String, String>,
    statics: &BTreeMap<String, String>,
) -> Vec<ConfigSynonym> {
    let mut synonyms = Vec::new();
    if let Some(value) = overrides.get(key.name) {
        synonyms.push(synonym(key.name, value, Source::Topic));
    }
    for (values, source) in [(cluster, Source::DynamicDefaultBroker), (statics, Source::StaticBroker)] {
        for at in key.synonyms {
            if let Some(value) = values.get(at.key).filter(|raw| convert(raw, at.unit).is_some()) {
                synonyms.push(synonym(at.key, value, source));
            }
        }
    }
    let given = key.synonyms.iter().find_map(|at| Some((at.key, super::broker_key(at.key)?.default?)));
    let (name, value) = given.unwrap_or((key.name, key.default));
    synonyms.push(synonym(name, value, Source::Default));
    synonyms
}

fn broker_synonyms(
    key: &BrokerKey,
    image: &Image,
    node: Option<NodeId>,
    defaults: &Defaults,
) -> Vec<ConfigSynonym> {
    let mut synonyms = Vec::new();
    let own = node.and_then(|node| image.broker_configs.get(&node));
    if let Some(value) = own.and_then(|own| own.get(key.name)) {
        synonyms.push(synonym(key.name, value, Source::DynamicBroker));
    }
    if let Some(value) = image.configs.get(key.name) {
        synonyms.push(synonym(key.name, value, Source::DynamicDefaultBroker));
    }
    match (key.name, defaults.broker.get(key.name)) {
        (_, Some(value)) => synonyms.push(synonym(key.name, value, Source::StaticBroker)),
        ("num.partitions", None) if defaults.num_partitions != 1 => {
            synonyms.push(synonym(key.name, &defaults.num_partitions.to_string(), Source::StaticBroker));
        }
        ("default.replication.factor", None) => {
            let (factor, source) = match defaults.replication_factor {
                Some(factor) => (i64::from(factor), Source::StaticBroker),
                None => (i64::from(default_replication_factor(image)), Source::Default),
            };
            synonyms.push(synonym(key.name, &factor.to_string(), source));
        }
        _ => {}
    }
    if let Some(value) = key.default {
        synonyms.push(synonym(key.name, value, Source::Default));
    }
    synonyms
}

fn synonym(name: &str, value: &str, source: Source) -> ConfigSynonym {
    ConfigSynonym { name: name.into(), value: Some(value.into()), source }
}

/// Replicas per partition where nobody says a number: three, or as many as there are brokers. Fenced ones count: a
/// topic made while a broker restarts must not stay with fewer replicas for good.
pub fn default_replication_factor(image: &Image) -> i16 {
    image.brokers.len().clamp(1, 3) as i16
}
