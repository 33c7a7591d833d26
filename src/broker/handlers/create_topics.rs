//! CreateTopics (19).
//!
//! Not here: names, placement, configuration values (`ctl` decides, any broker forwards).
//! Invariants: one row per topic, in the order asked; topics fail one by one; a topic named twice is refused, as in
//! Kafka.

use super::find_coordinator::offsets_topic;
use super::{Call, admin_timeout, commands, join_all, text};
use crate::broker::config::NodeConfig;
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::TOPIC;
use crate::ctl::command::{Command, CreateTopic, Defaults, Error as ControllerError, Reply};
use crate::ctl::configs::describe::{ConfigEntry, describe_overrides, describe_topic};
use crate::ctl::image::Image;
use crate::segment::NodeId;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

/// KRaft's own topic; nobody creates it.
const RESERVED: &str = "__cluster_metadata";

/// Answers a CreateTopics request; topics are created beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: CreateTopicsRequest = call.decode()?;
    let timeout_ms = admin_timeout(request.timeout_ms);
    let create = |command: Result<CreateTopic, ControllerError>| {
        let node = call.node.clone();
        async move { node.controller(Command::CreateTopic(command?), timeout_ms).await }
    };
    let commands = all(&request, &call.config);
    let results = join_all(commands.into_iter().map(create).collect()).await;
    let image = call.node.image();
    let rows = request.topics.iter().zip(results).map(|(asked, result)| {
        let configs = || configs(asked, &image, &call.config.defaults);
        row(asked, result, configs, call.version)
    });
    call.respond(&CreateTopicsResponse::default().with_topics(rows.collect()))
}

fn all(request: &CreateTopicsRequest, config: &NodeConfig) -> Vec<Result<CreateTopic, ControllerError>> {
    let command = |topic: &CreatableTopic| {
        let mut command = command(topic, request)?;
        if command.name == TOPIC {
            // Ordinary retention would forget what groups committed.
            offsets_topic(config).configs.into_iter().for_each(|(key, value)| {
                command.configs.entry(key).or_insert(value);
            });
        }
        Ok(command)
    };
    commands(&request.topics, |topic| topic.name.clone(), command)
}

/// The command, unless the request contradicts itself.
fn command(topic: &CreatableTopic, request: &CreateTopicsRequest) -> Result<CreateTopic, ControllerError> {
    let invalid = |text: &str| Err(ControllerError::InvalidRequest(text.to_owned()));
    if topic.name.as_str() == RESERVED {
        return invalid("this topic is reserved");
    }
    let assignments = assignments(topic)?;
    if assignments.is_some() && (topic.num_partitions != -1 || topic.replication_factor != -1) {
        return invalid("partition count and replication factor cannot be given with an assignment");
    }
    let configs = topic.configs.iter();
    let config = |value: &Option<_>| value.as_ref().map(|value: &super::StrBytes| value.as_str().to_owned());
    Ok(CreateTopic {
        name: topic.name.as_str().to_owned(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments,
        configs: configs.map(|entry| (entry.name.as_str().to_owned(), config(&entry.value))).collect(),
        validate_only: request.validate_only,
    })
}

/// Replicas by partition; partitions must be 0, 1, 2... in any order.
fn assignments(topic: &CreatableTopic) -> Result<Option<Vec<Vec<NodeId>>>, ControllerError> {
    if topic.assignments.is_empty() {
        return Ok(None);
    }
    let mut by_partition: Vec<Option<Vec<NodeId>>> = vec![None; topic.assignments.len()];
    for assignment in &topic.assignments {
        let place = usize::try_from(assignment.partition_index).ok().and_then(|i| by_partition.get_mut(i));
        match place {
            Some(place @ None) => {
                *place = Some(assignment.broker_ids.iter().map(|id| NodeId(id.0)).collect())
            }
            _ => {
                let text = "partitions must be consecutive from 0, each once".to_owned();
                return Err(ControllerError::InvalidAssignment(text));
            }
        }
    }
    Ok(Some(by_partition.into_iter().flatten().collect()))
}

/// Configuration the topic has, or would have.
fn configs(asked: &CreatableTopic, image: &Image, defaults: &Defaults) -> Vec<ConfigEntry> {
    if let Some(topic) = image.topics.get(asked.name.as_str()) {
        return describe_topic(image, topic, defaults);
    }
    let overrides = asked.configs.iter().filter_map(|entry| {
        Some((entry.name.as_str().to_owned(), entry.value.as_ref()?.as_str().to_owned()))
    });
    describe_overrides(image, &overrides.collect(), defaults)
}

fn row(
    asked: &CreatableTopic,
    result: Result<Reply, ControllerError>,
    configs: impl FnOnce() -> Vec<ConfigEntry>,
    version: i16,
) -> CreatableTopicResult {
    let row = CreatableTopicResult::default().with_name(asked.name.clone()).with_error_message(None);
    match result {
        Err(refusal) => row
            .with_error_code(error::controller(&refusal))
            .with_error_message(Some(text(refusal.to_string())))
            .with_configs(Some(Vec::new())),
        Ok(Reply::TopicCreated { id, partitions, replication_factor }) => {
            let row = row.with_error_code(code::NONE).with_topic_id(id).with_num_partitions(partitions);
            let row = row.with_replication_factor(replication_factor);
            // Never null on success: Java's admin client walks the list unasked.
            row.with_configs(Some(if version >= 5 {
                configs().into_iter().map(config_row).collect()
            } else {
                Vec::new()
            }))
        }
        Ok(_) => row.with_configs(Some(Vec::new())),
    }
}

fn config_row(entry: ConfigEntry) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_value(entry.value.filter(|_| !entry.sensitive).map(text))
        .with_name(text(entry.name))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.sensitive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::configs::{Kind, Source};
    use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
    use kafka_protocol::messages::{BrokerId, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use uuid::Uuid;

    fn topic(name: &'static str) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(name)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
    }

    fn assigned(partition: i32, brokers: &[i32]) -> CreatableReplicaAssignment {
        let ids = brokers.iter().copied().map(BrokerId).collect();
        CreatableReplicaAssignment::default().with_partition_index(partition).with_broker_ids(ids)
    }

    #[test]
    fn topic_named_twice_is_refused() {
        let request = CreateTopicsRequest::default().with_topics(vec![topic("a"), topic("b"), topic("a")]);
        let refused: Vec<bool> =
            all(&request, &NodeConfig::new(NodeId(1), "d")).iter().map(Result::is_err).collect();
        assert_eq!(refused, [true, false, true]);
    }

    #[test]
    fn assignment_in_any_order_is_sorted_by_partition() {
        let topic = topic("a").with_assignments(vec![assigned(1, &[2, 3]), assigned(0, &[1, 2])]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic.clone()]);
        let expected = vec![vec![NodeId(1), NodeId(2)], vec![NodeId(2), NodeId(3)]];
        assert_eq!(command(&topic, &request).unwrap().assignments, Some(expected));
    }

    #[test]
    fn assignment_with_gap_repetition_or_count_is_refused() {
        let request = CreateTopicsRequest::default();
        for bad in
            [vec![assigned(1, &[1])], vec![assigned(0, &[1]), assigned(0, &[2])], vec![assigned(-1, &[1])]]
        {
            let refused = command(&topic("a").with_assignments(bad), &request);
            assert!(matches!(refused, Err(ControllerError::InvalidAssignment(_))));
        }
        let counted = topic("a").with_assignments(vec![assigned(0, &[1])]).with_num_partitions(1);
        assert!(matches!(command(&counted, &request), Err(ControllerError::InvalidRequest(_))));
    }

    #[test]
    fn rows_encode_in_every_version() {
        let id = Uuid::from_u128(7);
        let created = Ok(Reply::TopicCreated { id, partitions: 4, replication_factor: 3 });
        let entry = ConfigEntry {
            name: "retention.ms".into(),
            value: Some("1".into()),
            source: Source::Topic,
            read_only: false,
            sensitive: false,
            kind: Kind::Long,
            documentation: String::new(),
            synonyms: Vec::new(),
        };
        for version in 2..=7 {
            let ok = row(&topic("a"), created.clone(), || vec![entry.clone()], version);
            let failed = row(&topic("b"), Err(ControllerError::TopicExists("b".into())), Vec::new, version);
            assert_eq!((ok.error_code, failed.error_code), (0, 36));
            assert!(ok.configs.is_some() && failed.configs.is_some());
            let response = CreateTopicsResponse::default().with_topics(vec![ok, failed]);
            response.encode(&mut Vec::new(), version).unwrap();
        }
    }

    #[test]
    fn topic_of_the_groups_keeps_what_they_committed_whoever_creates_it() {
        let asked = |name: &'static str| {
            let topic = CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_num_partitions(8)
                .with_replication_factor(-1);
            let request = CreateTopicsRequest::default().with_topics(vec![topic]);
            all(&request, &NodeConfig::new(NodeId(1), "d")).remove(0).unwrap()
        };
        let made = asked(TOPIC);
        assert_eq!((made.partitions, made.configs["retention.ms"].as_deref()), (8, Some("-1")));
        assert!(asked("orders").configs.is_empty());
    }
}
