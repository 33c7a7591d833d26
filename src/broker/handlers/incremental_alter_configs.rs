//! IncrementalAlterConfigs (44): changes of the configuration of topics, of single brokers and of all of them (KIP-339).
//!
//! Not here: which keys and values are allowed (`ctl`), whose configuration it is (`altering`). The empty broker name stands for the cluster-wide default.
//! Invariants: one row per resource, in the order asked; the changes of a resource are made together or not at all.

use super::altering::{alter, resource_command};
use super::{Call, commands, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::ctl::command::{Command, ConfigChange, ConfigOp, Error as ControllerError};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

/// Answers an IncrementalAlterConfigs request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: IncrementalAlterConfigsRequest = call.decode()?;
    let results = alter(&call.node, all(&request)).await;
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
    call.respond(&IncrementalAlterConfigsResponse::default().with_responses(rows.collect()))
}

fn all(request: &IncrementalAlterConfigsRequest) -> Vec<Result<Command, ControllerError>> {
    let key = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    commands(&request.resources, key, |resource| command(resource, request))
}

fn command(
    resource: &AlterConfigsResource,
    request: &IncrementalAlterConfigsRequest,
) -> Result<Command, ControllerError> {
    let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
    resource_command(kind, name, request.validate_only, |_| changes(resource))
}

fn changes(resource: &AlterConfigsResource) -> Result<Vec<ConfigChange>, ControllerError> {
    resource.configs.iter().map(change).collect()
}

fn change(config: &AlterableConfig) -> Result<ConfigChange, ControllerError> {
    let name = config.name.as_str().to_owned();
    let op = match config.config_operation {
        0 => ConfigOp::Set,
        1 => ConfigOp::Delete,
        2 => ConfigOp::Append,
        3 => ConfigOp::Subtract,
        other => {
            let text = format!("unknown operation {other} on configuration `{name}`");
            return Err(ControllerError::InvalidRequest(text));
        }
    };
    let value = config.value.as_ref().map(|value| value.as_str().to_owned());
    if value.is_none() && op != ConfigOp::Delete {
        return Err(ControllerError::InvalidRequest(format!("null value for configuration `{name}`")));
    }
    Ok(ConfigChange { name, op, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::describe_configs::{BROKER, TOPIC};
    use crate::segment::NodeId;
    use kafka_protocol::protocol::StrBytes;

    fn config(op: i8, value: Option<&'static str>) -> AlterableConfig {
        AlterableConfig::default()
            .with_name(StrBytes::from_static_str("retention.ms"))
            .with_config_operation(op)
            .with_value(value.map(StrBytes::from_static_str))
    }

    fn resource(kind: i8, name: &'static str, configs: Vec<AlterableConfig>) -> AlterConfigsResource {
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_static_str(name))
            .with_configs(configs)
    }

    #[test]
    fn operations_become_changes_in_order() {
        let configs = vec![config(0, Some("1")), config(1, None), config(2, Some("a")), config(3, Some("b"))];
        let resource = resource(TOPIC, "t", configs);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.clone()]);
        let Ok(Command::AlterConfigs { topic, changes, validate_only }) = command(&resource, &request) else {
            panic!("refused")
        };
        assert_eq!((topic.as_deref(), validate_only), (Some("t"), false));
        let ops: Vec<ConfigOp> = changes.iter().map(|change| change.op).collect();
        assert_eq!(ops, [ConfigOp::Set, ConfigOp::Delete, ConfigOp::Append, ConfigOp::Subtract]);
    }

    #[test]
    fn malformed_changes_and_resources_are_refused() {
        let request = IncrementalAlterConfigsRequest::default();
        for bad in [
            resource(TOPIC, "t", vec![config(4, Some("1"))]),
            resource(TOPIC, "t", vec![config(0, None)]),
            resource(BROKER, "one", vec![config(0, Some("1"))]),
            resource(8, "1", Vec::new()),
        ] {
            assert!(matches!(command(&bad, &request), Err(ControllerError::InvalidRequest(_))));
        }
        let cluster = resource(BROKER, "", vec![config(0, Some("1"))]);
        assert!(matches!(command(&cluster, &request), Ok(Command::AlterConfigs { topic: None, .. })));
        let own = resource(BROKER, "3", vec![config(0, Some("1"))]);
        assert!(matches!(command(&own, &request), Ok(Command::AlterBroker { node: NodeId(3), .. })));
        let twice = request.with_resources(vec![cluster.clone(), cluster.clone()]);
        assert!(all(&twice).iter().all(Result::is_err));
    }
}
