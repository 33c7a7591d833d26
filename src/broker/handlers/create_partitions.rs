//! CreatePartitions (37): more partitions for existing topics.
//!
//! Not here: placement, and that the count may only grow (`ctl`).
//! Invariants: one row per topic, in the order asked; a topic named twice is refused, as in Kafka.

use super::{Call, admin_timeout, commands, join_all, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::broker::groups::TOPIC;
use crate::ctl::command::{Command, Error as ControllerError};
use crate::segment::NodeId;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

/// Answers a CreatePartitions request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: CreatePartitionsRequest = call.decode()?;
    let timeout_ms = admin_timeout(request.timeout_ms);
    let create = |command: Result<Command, ControllerError>| {
        let node = call.node.clone();
        async move { node.controller(command?, timeout_ms).await }
    };
    let results = join_all(all(&request).into_iter().map(create).collect()).await;
    let row = |(topic, result): (&CreatePartitionsTopic, Result<_, ControllerError>)| {
        let row = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        match result {
            Ok(_) => row,
            Err(refusal) => row
                .with_error_code(error::controller(&refusal))
                .with_error_message(Some(text(refusal.to_string()))),
        }
    };
    let rows = request.topics.iter().zip(results).map(row);
    call.respond(&CreatePartitionsResponse::default().with_results(rows.collect()))
}

fn all(request: &CreatePartitionsRequest) -> Vec<Result<Command, ControllerError>> {
    commands(&request.topics, |topic| topic.name.clone(), |topic| command(topic, request))
}

fn command(
    topic: &CreatePartitionsTopic,
    request: &CreatePartitionsRequest,
) -> Result<Command, ControllerError> {
    if topic.name.as_str() == TOPIC {
        let text = "the partition of a consumer group follows from their number, which cannot be changed";
        return Err(ControllerError::InvalidPartitions(text.to_owned()));
    }
    let assignments = topic.assignments.as_ref().map(|assignments| {
        let nodes = assignments.iter().map(|one| one.broker_ids.iter().map(|id| NodeId(id.0)).collect());
        nodes.collect::<Vec<Vec<NodeId>>>()
    });
    Ok(Command::CreatePartitions {
        topic: topic.name.as_str().to_owned(),
        count: topic.count,
        assignments,
        validate_only: request.validate_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;
    use kafka_protocol::messages::{BrokerId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn request_becomes_a_command_with_its_assignment() {
        let assignment =
            CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(2), BrokerId(1)]);
        let topic = CreatePartitionsTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("a")))
            .with_count(5)
            .with_assignments(Some(vec![assignment]));
        let request =
            CreatePartitionsRequest::default().with_topics(vec![topic.clone()]).with_validate_only(true);
        let expected = Command::CreatePartitions {
            topic: "a".into(),
            count: 5,
            assignments: Some(vec![vec![NodeId(2), NodeId(1)]]),
            validate_only: true,
        };
        assert_eq!(command(&topic, &request), Ok(expected));
        let twice = CreatePartitionsRequest::default().with_topics(vec![topic.clone(), topic.clone()]);
        assert!(all(&twice).iter().all(|row| matches!(row, Err(ControllerError::InvalidRequest(_)))));
    }
}
