//! What AlterConfigs and IncrementalAlterConfigs share: whose configuration is altered, and having the controller do it.
//!
//! Not an API of its own. Not here: which changes a request asks for (the handlers, `alter_configs` and `incremental_alter_configs`), which keys and
//! values are allowed (`ctl`).

use super::describe_configs::{BROKER, TOPIC, not_configured};
use super::join_all;
use crate::broker::api::NodeHandle;
use crate::ctl::command::{Command, ConfigChange, Error as ControllerError, Reply};
use crate::ctl::image::Image;
use crate::segment::NodeId;
use std::collections::BTreeMap;

/// The requests carry no timeout; Kafka's default for admin requests.
const TIMEOUT_MS: u64 = 30_000;

/// Whose configuration is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Altered<'a> {
    Topic(&'a str),
    AllBrokers,
    Broker(NodeId),
}

impl Altered<'_> {
    /// What is set of it now.
    pub(super) fn current<'a>(&self, image: &'a Image) -> Option<&'a BTreeMap<String, String>> {
        match self {
            Self::Topic(name) => image.topics.get(*name).map(|topic| &topic.configs),
            Self::AllBrokers => Some(&image.configs),
            Self::Broker(node) => image.broker_configs.get(node),
        }
    }
}

/// The command that makes changes to a resource.
pub(super) fn resource_command(
    kind: i8,
    name: &str,
    validate_only: bool,
    changes: impl FnOnce(Altered) -> Result<Vec<ConfigChange>, ControllerError>,
) -> Result<Command, ControllerError> {
    let altered = match kind {
        TOPIC => Altered::Topic(name),
        BROKER if name.is_empty() => Altered::AllBrokers,
        BROKER => match name.parse() {
            Ok(id) => Altered::Broker(NodeId(id)),
            Err(_) => {
                return Err(ControllerError::InvalidRequest(format!("broker id `{name}` is not a number")));
            }
        },
        other => return Err(ControllerError::InvalidRequest(not_configured(other))),
    };
    let changes = changes(altered)?;
    Ok(match altered {
        Altered::Topic(name) => {
            Command::AlterConfigs { topic: Some(name.to_owned()), changes, validate_only }
        }
        Altered::AllBrokers => Command::AlterConfigs { topic: None, changes, validate_only },
        Altered::Broker(node) => Command::AlterBroker { node, changes, validate_only },
    })
}

/// Has the controller do these, beside each other; results in their order.
pub(super) async fn alter(
    node: &NodeHandle,
    commands: Vec<Result<Command, ControllerError>>,
) -> Vec<Result<Reply, ControllerError>> {
    let one = |command: Result<Command, ControllerError>| {
        let node = node.clone();
        async move { node.controller(command?, TIMEOUT_MS).await }
    };
    join_all(commands.into_iter().map(one).collect()).await
}
