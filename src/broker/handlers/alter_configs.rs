//! AlterConfigs (33): the whole configuration of topics and brokers is replaced. What Kafka's tools no longer send and older clients do.
//!
//! Not here: which keys and values are allowed (`ctl`); changing single keys (`incremental_alter_configs`), whose configuration it is (`altering`).
//! Invariants
//! - One row per resource, in the order asked; the changes of a resource are made together or not at all.
//! - What is to go is what this broker knows to be set; what somebody else sets meanwhile may stay.
//! - What is a single broker's alone (`broker.drain`, `advertised.listeners`) does not go by being left out: clients of this API do not know of it.

use super::altering::{alter, resource_command};
use super::{Call, commands, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::ctl::command::{Command, ConfigChange, ConfigOp, Error as ControllerError};
use crate::ctl::configs::broker_key;
use crate::ctl::image::Image;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use std::collections::BTreeMap;

/// Answers an AlterConfigs request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: AlterConfigsRequest = call.decode()?;
    let results = alter(&call.node, all(&request, &call.node.image())).await;
    let row = |(resource, result): (&AlterConfigsResource, Result<_, ControllerError>)| {
        let row = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_message(None);
        match result {
            Ok(_) => row,
            Err(refusal) => row
                .with_error_code(error::controller(&refusal))
                .with_error_message(Some(text(refusal.to_string()))),
        }
    };
    let rows = request.resources.iter().zip(results).map(row);
    call.respond(&AlterConfigsResponse::default().with_responses(rows.collect()))
}

fn all(request: &AlterConfigsRequest, image: &Image) -> Vec<Result<Command, ControllerError>> {
    let key = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    commands(&request.resources, key, |resource| {
        let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
        resource_command(kind, name, request.validate_only, |of| changes(resource, of.current(image)))
    })
}

/// Sets what is named and deletes the rest.
fn changes(
    resource: &AlterConfigsResource,
    current: Option<&BTreeMap<String, String>>,
) -> Result<Vec<ConfigChange>, ControllerError> {
    let mut changes = Vec::with_capacity(resource.configs.len());
    for config in &resource.configs {
        let name = config.name.as_str().to_owned();
        let Some(value) = &config.value else {
            return Err(ControllerError::InvalidRequest(format!("null value for configuration `{name}`")));
        };
        changes.push(ConfigChange { name, op: ConfigOp::Set, value: Some(value.as_str().to_owned()) });
    }
    let is_named = |name: &String| resource.configs.iter().any(|config| config.name.as_str() == name);
    let is_own = |name: &String| broker_key(name).is_some_and(|key| key.only_own);
    let gone = current.into_iter().flat_map(BTreeMap::keys).filter(|name| !is_own(name) && !is_named(name));
    let delete = |name: &String| ConfigChange { name: name.clone(), op: ConfigOp::Delete, value: None };
    changes.extend(gone.map(delete));
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::describe_configs::{BROKER, TOPIC};
    use crate::broker::handlers::tests::image;
    use crate::ctl::image::DRAIN;
    use crate::ctl::listeners::ADVERTISED;
    use crate::segment::NodeId;
    use kafka_protocol::messages::alter_configs_request::AlterableConfig;
    use kafka_protocol::protocol::StrBytes;

    fn resource(
        kind: i8,
        name: &'static str,
        configs: &[(&'static str, Option<&'static str>)],
    ) -> AlterConfigsResource {
        let config = |(name, value): &(&'static str, Option<&'static str>)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(value.map(StrBytes::from_static_str))
        };
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_static_str(name))
            .with_configs(configs.iter().map(config).collect())
    }

    fn shown(command: &Result<Command, ControllerError>) -> String {
        let changes = |changes: &[ConfigChange]| {
            let one = |c: &ConfigChange| format!("{}={}", c.name, c.value.as_deref().unwrap_or("-"));
            changes.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        match command {
            Ok(Command::AlterConfigs { topic, changes: all, .. }) => format!("{topic:?}: {}", changes(all)),
            Ok(Command::AlterBroker { node, changes: all, .. }) => format!("{node}: {}", changes(all)),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_named_goes_but_for_what_clients_cannot_know_of() {
        let mut image = image();
        let set =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        image.topics.get_mut("orders").unwrap().configs = set(&[("retention.ms", "1"), ("segment.ms", "2")]);
        image.configs = set(&[("log.retention.ms", "3")]);
        image.broker_configs.insert(
            NodeId(1),
            set(&[(DRAIN, "leaders"), (ADVERTISED, "h:1"), ("leader.replication.throttled.rate", "4")]),
        );
        let resources = vec![
            resource(TOPIC, "orders", &[("segment.ms", Some("7")), ("flush.ms", Some("8"))]),
            resource(TOPIC, "new", &[("segment.ms", Some("7"))]),
            resource(BROKER, "", &[]),
            resource(BROKER, "1", &[]),
            resource(TOPIC, "__internal", &[("segment.ms", None)]),
            resource(8, "1", &[]),
        ];
        let request = AlterConfigsRequest::default().with_resources(resources);
        let all: Vec<String> = all(&request, &image).iter().map(shown).collect();
        assert_eq!(all[0], "Some(\"orders\"): segment.ms=7 flush.ms=8 retention.ms=-");
        assert_eq!(all[1], "Some(\"new\"): segment.ms=7");
        assert_eq!(all[2], "None: log.retention.ms=-");
        assert_eq!(all[3], "1: leader.replication.throttled.rate=-");
        assert!(all[4].contains("null value"), "{}", all[4]);
        assert!(all[5].contains("InvalidRequest"), "{}", all[5]);
    }
}
