//! DeleteTopics (20): by name, from v6 on also by id.
//!
//! Not here: the tombstone and what follows it (`ctl`). Replicas go later; the topic is gone from Metadata at once.
//! Invariants: one row per topic, in the order asked; a topic asked for twice is refused, as in Kafka.

use super::{Call, admin_timeout, commands, join_all, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::ctl::command::{Command, Error as ControllerError};
use crate::ctl::image::Image;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};

/// Answers a DeleteTopics request; topics are deleted beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DeleteTopicsRequest = call.decode()?;
    let timeout_ms = admin_timeout(request.timeout_ms);
    let by_name = |name: TopicName| DeleteTopicState::default().with_name(Some(name));
    let topics = if call.version >= 6 {
        request.topics
    } else {
        request.topic_names.into_iter().map(by_name).collect()
    };
    // Names of topics asked for by id are only known before they are gone.
    let image = call.node.image();
    let delete = |command: Result<Command, ControllerError>| {
        let node = call.node.clone();
        async move { node.controller(command?, timeout_ms).await }
    };
    let results = join_all(all(&topics).into_iter().map(delete).collect()).await;
    let rows =
        topics.iter().zip(results).map(|(topic, result)| row(topic, &image, result.err(), call.version));
    call.respond(&DeleteTopicsResponse::default().with_responses(rows.collect()))
}

fn all(topics: &[DeleteTopicState]) -> Vec<Result<Command, ControllerError>> {
    commands(topics, |topic| (topic.name.clone(), topic.topic_id), command)
}

fn command(topic: &DeleteTopicState) -> Result<Command, ControllerError> {
    let invalid = |text: &str| Err(ControllerError::InvalidRequest(text.to_owned()));
    let id = Some(topic.topic_id).filter(|id| !id.is_nil());
    let name = topic.name.as_ref().map(|name| name.as_str().to_owned());
    match (&name, &id) {
        (Some(_), Some(_)) => invalid("a topic is deleted by name or by id, not by both"),
        (None, None) => invalid("neither name nor id of the topic is given"),
        _ => Ok(Command::DeleteTopic { name, id }),
    }
}

fn row(
    topic: &DeleteTopicState,
    image: &Image,
    refusal: Option<ControllerError>,
    version: i16,
) -> DeletableTopicResult {
    let by_id = || image.topic_by_id(topic.topic_id).map(|topic| TopicName(text(topic.name.clone())));
    let name = topic.name.clone().or_else(by_id);
    let id = match &name {
        Some(name) if topic.topic_id.is_nil() => image.topics.get(name.as_str()).map(|topic| topic.id),
        _ => None,
    };
    let row = DeletableTopicResult::default()
        .with_name(name.or_else(|| (version < 6).then(TopicName::default)))
        .with_topic_id(id.unwrap_or(topic.topic_id));
    match refusal {
        None => row,
        Some(refusal) => row
            .with_error_code(error::controller(&refusal))
            .with_error_message(Some(text(refusal.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::tests::{ORDERS, image};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use uuid::Uuid;

    fn named(name: &'static str) -> DeleteTopicState {
        DeleteTopicState::default().with_name(Some(TopicName(StrBytes::from_static_str(name))))
    }

    fn with_id(id: Uuid) -> DeleteTopicState {
        DeleteTopicState::default().with_name(None).with_topic_id(id)
    }

    #[test]
    fn topic_is_deleted_by_name_or_id_but_not_both() {
        let by = |topic: DeleteTopicState| command(&topic);
        let expected = Command::DeleteTopic { name: Some("a".into()), id: None };
        assert_eq!(by(named("a")), Ok(expected));
        assert_eq!(by(with_id(ORDERS)), Ok(Command::DeleteTopic { name: None, id: Some(ORDERS) }));
        assert!(by(named("a").with_topic_id(ORDERS)).is_err());
        assert!(by(DeleteTopicState::default().with_name(None)).is_err());
    }

    #[test]
    fn topic_asked_for_twice_is_refused() {
        let topics = [named("a"), named("b"), named("a"), with_id(ORDERS)];
        let refused: Vec<bool> = all(&topics).iter().map(Result::is_err).collect();
        assert_eq!(refused, [true, false, true, false]);
    }

    #[test]
    fn row_of_a_topic_deleted_by_id_carries_its_name() {
        let image = image();
        let done = row(&with_id(ORDERS), &image, None, 6);
        assert_eq!(done.name.as_ref().map(|name| name.as_str()), Some("orders"));
        let unknown = Uuid::from_u128(99);
        let failed = row(&with_id(unknown), &image, Some(ControllerError::UnknownTopicId(unknown)), 6);
        assert_eq!((failed.error_code, failed.name.clone()), (100, None));
        for version in 1..=6 {
            let failed = row(&named("x"), &image, Some(ControllerError::UnknownTopic("x".into())), version);
            let response = DeleteTopicsResponse::default().with_responses(vec![failed]);
            response.encode(&mut Vec::new(), version).unwrap();
        }
    }
}
