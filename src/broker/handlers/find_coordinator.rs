//! FindCoordinator (10): the broker that leads the partition of `__consumer_offsets` a group belongs to.
//!
//! Creates that topic when it is first needed. Not here: its partitions' coordinators (`broker::groups`). Transactions and share groups have
//! no coordinators here, and their questions are refused for good.
//! Invariants: a broker is named only if it is alive; without one the client is told to ask again.

use super::coordinator::partition_of;
use super::{Call, admin_timeout, text};
use crate::broker::api::NodeHandle;
use crate::broker::config::NodeConfig;
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::broker::groups::TOPIC;
use crate::ctl::command::{Command, CreateTopic, Error as ControllerError};
use crate::ctl::image::Image;
use crate::segment::{GroupId, NodeId};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Key type of consumer groups.
const GROUP: i8 = 0;
/// How long the topic's first leaders may take before the client is sent away to ask again.
const LEADER_PATIENCE: Duration = Duration::from_millis(1_000);
const LEADER_POLL: Duration = Duration::from_millis(20);
const CREATE_TIMEOUT_MS: i32 = 15_000;
const NO_TOPIC: &str = "__consumer_offsets does not exist yet; it waits for three brokers, or as many as there are combined nodes, unless \
                        offsets.topic.replication.factor or default.replication.factor says otherwise";
/// Replicas of the topic where nothing says how many.
const REPLICAS: usize = 3;

/// Where a coordinator is, or why nobody can say.
type Found = Result<(NodeId, String, u16), (i16, &'static str)>;

/// Answers a FindCoordinator request; keys are looked up one by one.
pub async fn handle(mut call: Call) -> Outcome {
    let request: FindCoordinatorRequest = call.decode()?;
    let keys = if call.version >= 4 { request.coordinator_keys.clone() } else { vec![request.key.clone()] };
    let refusal = (request.key_type != GROUP)
        .then_some((code::INVALID_REQUEST, "only consumer groups have coordinators here"));
    let image = match refusal {
        None => with_topic(&call.node, &call.config).await,
        Some(_) => call.node.image(),
    };
    let until = Instant::now() + LEADER_PATIENCE;
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let found = match (refusal, partition_of(&image, key.as_str())) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(partition)) => {
                find((&call.node, &call.client.listener), &image, partition, until).await
            }
            (None, None) => Err((code::COORDINATOR_NOT_AVAILABLE, NO_TOPIC)),
        };
        rows.push(row(found).with_key(key));
    }
    call.respond(&response(rows, call.version))
}

fn row(found: Found) -> Coordinator {
    match found {
        Ok((node, host, port)) => Coordinator::default()
            .with_node_id(BrokerId(node.0))
            .with_host(text(host))
            .with_port(i32::from(port))
            .with_error_message(None),
        Err((code, message)) => Coordinator::default()
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code)
            .with_error_message(Some(text(message))),
    }
}

fn response(mut rows: Vec<Coordinator>, version: i16) -> FindCoordinatorResponse {
    let response = FindCoordinatorResponse::default();
    if version >= 4 {
        return response.with_coordinators(rows);
    }
    let Some(row) = rows.pop() else { return response };
    let response = response.with_node_id(row.node_id).with_host(row.host).with_port(row.port);
    let response = response.with_error_code(row.error_code);
    if version >= 1 { response.with_error_message(row.error_message) } else { response }
}

/// The image with the topic in it, created if need be.
async fn with_topic(node: &NodeHandle, config: &NodeConfig) -> Arc<Image> {
    let image = node.image();
    if image.topics.contains_key(TOPIC) || is_forming(&image, config) {
        return image;
    }
    let command = Command::CreateTopic(offsets_topic(config));
    match node.controller(command, admin_timeout(CREATE_TIMEOUT_MS)).await {
        Ok(_) | Err(ControllerError::TopicExists(_)) => {}
        Err(refusal) => tracing::warn!(topic = TOPIC, %refusal, "topic not created"),
    }
    node.image()
}

/// Whether it is too early for the topic, whose number of replicas is decided once: the first broker to register must not have it alone. Kafka has
/// three unless `offsets.topic.replication.factor` says otherwise, and makes no topic before there are as many brokers. Combined nodes know
/// how many there are to be where that is fewer; brokers apart from their controllers do not.
pub(super) fn is_forming(image: &Image, config: &NodeConfig) -> bool {
    let defaults = &config.defaults;
    let is_said = defaults.broker.contains_key("offsets.topic.replication.factor")
        || defaults.replication_factor.is_some();
    let expected = if config.is_broker && config.is_controller { config.controllers.len() } else { REPLICAS };
    !is_said && image.brokers.len() < expected.min(REPLICAS)
}

/// Compacted, as in Kafka; and nothing of it may be lost by retention, should its policy be changed: what a group committed last may be old.
pub(super) fn offsets_topic(config: &NodeConfig) -> CreateTopic {
    let key = |name: &str| config.defaults.broker.get(name).and_then(|value| value.trim().parse().ok());
    let own = |name: &str, value: String| (name.to_owned(), Some(value));
    let segment = key("offsets.topic.segment.bytes").unwrap_or(104_857_600);
    CreateTopic {
        name: TOPIC.to_owned(),
        partitions: key("offsets.topic.num.partitions").unwrap_or(50),
        replication_factor: key("offsets.topic.replication.factor").map_or(-1, |factor| factor as i16),
        assignments: None,
        configs: BTreeMap::from([
            own("cleanup.policy", "compact".to_owned()),
            own("retention.ms", "-1".to_owned()),
            own("retention.bytes", "-1".to_owned()),
            own("segment.bytes", segment.to_string()),
        ]),
        validate_only: false,
    }
}

/// Waits for a leader as long as the request's patience lasts.
async fn find(
    (node, listener): (&NodeHandle, &str),
    image: &Image,
    partition: GroupId,
    until: Instant,
) -> Found {
    loop {
        let state = node.partition_states(&[partition]).await.pop().unwrap_or_default();
        let broker = state.leader.and_then(|leader| image.brokers.get(&leader.node));
        if let Some(broker) = broker.filter(|broker| !broker.fenced) {
            // As in Kafka, a coordinator without this listener is none for its clients.
            let told = image.advertised(broker.node, listener);
            return told.map(|at| (broker.node, at.host, at.port)).ok_or((
                code::COORDINATOR_NOT_AVAILABLE,
                "the coordinator has no listener of the name that this client came in by",
            ));
        }
        if Instant::now() >= until {
            return Err((
                code::COORDINATOR_NOT_AVAILABLE,
                "nobody leads the group's partition of __consumer_offsets",
            ));
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn every_version_can_say_where_and_why_not() {
        let found: [Found; 2] =
            [Ok((NodeId(3), "h".into(), 9092)), Err((code::COORDINATOR_NOT_AVAILABLE, "no leader"))];
        for found in found {
            for version in 0..=6 {
                let response = response(vec![row(found.clone())], version);
                response.encode(&mut Vec::new(), version).unwrap();
                let told =
                    if version >= 4 { response.coordinators[0].error_code } else { response.error_code };
                assert_eq!(told, found.as_ref().map_or_else(|(code, _)| *code, |_| 0));
            }
        }
    }

    #[test]
    fn topic_waits_for_the_brokers_that_are_known_to_come_unless_its_replicas_are_said() {
        let image = crate::broker::handlers::tests::image();
        let mut two = image.clone();
        two.brokers.remove(&NodeId(3));
        let mut config = NodeConfig::new(NodeId(1), "unused");
        assert!(!is_forming(&two, &config), "a node of its own");
        config.controllers = (1..=5).map(|id| (NodeId(id), "h:1".to_owned())).collect();
        assert!(is_forming(&two, &config) && !is_forming(&image, &config));
        config.defaults.broker.insert("offsets.topic.replication.factor".into(), "2".into());
        assert!(!is_forming(&two, &config));
        config.defaults.broker.clear();
        config.is_controller = false;
        assert!(is_forming(&two, &config), "a broker does not know how many there are to be");
        assert!(!is_forming(&image, &config), "three are enough for Kafka");
        config.defaults.replication_factor = Some(1);
        assert!(!is_forming(&two, &config), "its operator does");
    }

    #[test]
    fn topic_keeps_everything_and_follows_the_brokers_keys() {
        let mut config = NodeConfig::new(NodeId(1), "unused");
        let made = offsets_topic(&config);
        assert_eq!((made.partitions, made.replication_factor), (50, -1));
        assert_eq!(made.configs["retention.ms"].as_deref(), Some("-1"));
        assert_eq!(made.configs["cleanup.policy"].as_deref(), Some("compact"));
        config.defaults.broker.insert("offsets.topic.num.partitions".into(), "4".into());
        config.defaults.broker.insert("offsets.topic.replication.factor".into(), "1".into());
        assert_eq!((offsets_topic(&config).partitions, offsets_topic(&config).replication_factor), (4, 1));
    }
}
