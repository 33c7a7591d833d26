//! DescribeConfigs (32): effective configuration of topics and of this broker.
//!
//! Not here: which keys exist and where their values come from (`ctl::configs`).
//! Invariants: every key is returned with its value in force, not just overrides; sensitive values never leave; a broker
//! is described only by itself, since static configuration differs from broker to broker. Of client metrics and of groups nothing is
//! configured here: their list is empty.

use super::{Call, is_valid_topic, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::ctl::command::Defaults;
use crate::ctl::configs::Source;
use crate::ctl::configs::describe::{ConfigEntry, ConfigSynonym, describe_broker, describe_topic};
use crate::ctl::image::Image;
use crate::segment::NodeId;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

/// Resource type of topics (`ConfigResource.Type`).
pub(super) const TOPIC: i8 = 2;
/// Resource type of brokers.
pub(super) const BROKER: i8 = 4;
/// Resource type of a broker's log levels.
pub(super) const BROKER_LOGGER: i8 = 8;
/// Resource type of subscriptions to clients' metrics (KIP-714).
pub(super) const CLIENT_METRICS: i8 = 16;
/// Resource type of groups.
pub(super) const GROUP: i8 = 32;

/// Answers a DescribeConfigs request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DescribeConfigsRequest = call.decode()?;
    let image = call.node.image();
    let row = |resource: &DescribeConfigsResource| {
        let entries = entries(resource, &image, &call.config.defaults, call.node.node_id());
        result(resource, entries, &request)
    };
    let results = request.resources.iter().map(row).collect();
    call.respond(&DescribeConfigsResponse::default().with_results(results))
}

/// Entries of a resource, or code and text of the refusal.
fn entries(
    resource: &DescribeConfigsResource,
    image: &Image,
    defaults: &Defaults,
    node: NodeId,
) -> Result<Vec<ConfigEntry>, (i16, String)> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => match image.topics.get(name) {
            Some(topic) => Ok(describe_topic(image, topic, defaults)),
            None if is_valid_topic(name) => {
                Err((code::UNKNOWN_TOPIC_OR_PARTITION, format!("unknown topic `{name}`")))
            }
            None => Err((code::INVALID_TOPIC_EXCEPTION, format!("invalid topic name `{name}`"))),
        },
        BROKER if name.is_empty() => {
            let all = describe_broker(image, None, defaults).into_iter();
            Ok(all.filter(|entry| entry.source == Source::DynamicDefaultBroker).collect())
        }
        BROKER if name.parse() == Ok(node.0) => Ok(describe_broker(image, Some(node), defaults)),
        BROKER => {
            let text = format!("unexpected broker id, expected {node} or an empty string, got `{name}`");
            Err((code::INVALID_REQUEST, text))
        }
        CLIENT_METRICS | GROUP if !name.is_empty() => Ok(Vec::new()),
        other => Err((code::INVALID_REQUEST, not_configured(other))),
    }
}

/// Why nothing of this kind has a configuration that can be altered.
pub(super) fn not_configured(kind: i8) -> String {
    match kind {
        BROKER_LOGGER => "log levels are set when a broker starts, by KONTIKI_LOG or -v".to_owned(),
        CLIENT_METRICS => "clients' metrics (KIP-714) are not collected".to_owned(),
        GROUP => "groups have no configuration of their own; see the brokers' group.* keys".to_owned(),
        other => format!("resource type {other} is not supported"),
    }
}

fn result(
    resource: &DescribeConfigsResource,
    entries: Result<Vec<ConfigEntry>, (i16, String)>,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResult {
    let row = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_error_message(None);
    let entries = match entries {
        Ok(entries) => entries,
        Err((code, message)) => return row.with_error_code(code).with_error_message(Some(text(message))),
    };
    // Null and empty both mean every key.
    let keys = resource.configuration_keys.as_deref().unwrap_or_default();
    let asked = |entry: &ConfigEntry| keys.is_empty() || keys.iter().any(|key| key.as_str() == entry.name);
    let configs = entries.into_iter().filter(asked).map(|entry| config_row(entry, request));
    row.with_configs(configs.collect())
}

fn config_row(entry: ConfigEntry, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let hide = |value: Option<String>| value.filter(|_| !entry.sensitive).map(text);
    let synonym = |ConfigSynonym { name, value, source }: ConfigSynonym| {
        DescribeConfigsSynonym::default()
            .with_name(text(name))
            .with_value(hide(value))
            .with_source(source as i8)
    };
    let synonyms = entry.synonyms.into_iter().filter(|_| request.include_synonyms).map(synonym).collect();
    DescribeConfigsResourceResult::default()
        .with_synonyms(synonyms)
        .with_value(hide(entry.value))
        .with_name(text(entry.name))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.sensitive)
        .with_config_type(entry.kind as i8)
        .with_documentation(request.include_documentation.then(|| text(entry.documentation)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::tests::image;
    use crate::ctl::configs::Kind;
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use std::collections::BTreeMap;

    fn entry(name: &str, sensitive: bool) -> ConfigEntry {
        ConfigEntry {
            name: name.into(),
            value: Some("secret".into()),
            source: Source::StaticBroker,
            read_only: true,
            sensitive,
            kind: Kind::String,
            documentation: "what it does".into(),
            synonyms: vec![ConfigSynonym {
                name: name.into(),
                value: Some("secret".into()),
                source: Source::StaticBroker,
            }],
        }
    }

    fn resource(kind: i8, name: &'static str) -> DescribeConfigsResource {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_static_str(name))
            .with_configuration_keys(None)
    }

    #[test]
    fn unknown_resource_is_refused_with_its_code() {
        let defaults = Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() };
        let code = |kind, name| {
            entries(&resource(kind, name), &image(), &defaults, NodeId(1)).map_err(|(code, _)| code).err()
        };
        assert_eq!(code(TOPIC, "nope"), Some(3));
        assert_eq!(code(TOPIC, "no pe"), Some(17));
        assert_eq!(code(BROKER, "2"), Some(42));
        assert_eq!(code(BROKER, "one"), Some(42));
        assert_eq!(code(8, "1"), Some(42));
        assert_eq!(code(99, "1"), Some(42));
        assert_eq!(code(GROUP, ""), Some(42));
    }

    #[test]
    fn client_metrics_and_groups_have_no_entries() {
        let defaults = Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() };
        for kind in [CLIENT_METRICS, GROUP] {
            assert_eq!(entries(&resource(kind, "x"), &image(), &defaults, NodeId(1)), Ok(Vec::new()));
        }
    }

    #[test]
    fn sensitive_value_never_leaves() {
        let request = DescribeConfigsRequest::default().with_include_synonyms(true);
        let row = config_row(entry("password", true), &request);
        assert_eq!(row.value, None);
        assert_eq!(row.synonyms[0].value, None);
        assert_eq!(row.documentation, None);
        let row = config_row(entry("user", false), &request.with_include_documentation(true));
        assert_eq!(row.value.as_ref().map(|value| value.as_str()), Some("secret"));
        assert!(row.documentation.is_some());
    }

    #[test]
    fn keys_asked_for_are_the_only_ones_returned() {
        let request = DescribeConfigsRequest::default();
        let both = || Ok(vec![entry("a", false), entry("b", false)]);
        assert_eq!(result(&resource(TOPIC, "t"), both(), &request).configs.len(), 2);
        let asked = resource(TOPIC, "t").with_configuration_keys(Some(vec![StrBytes::from_static_str("b")]));
        let row = result(&asked, both(), &request);
        assert_eq!(row.configs.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b"]);
        for version in 1..=4 {
            let response = DescribeConfigsResponse::default().with_results(vec![row.clone()]);
            response.encode(&mut Vec::new(), version).unwrap();
        }
    }
}
