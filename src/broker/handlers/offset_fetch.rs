//! OffsetFetch (9): what groups have committed.
//!
//! Not here: that it is what the log says now (`shard::groups`, after a confirmed round).
//! Invariants: rows in the order asked; nothing committed is offset -1 without an error; from version 8 on several groups, each with its code,
//! refused if it was named before.

use super::coordinator::{ask_each, by_topic, unexpected};
use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, Committed, OffsetKey, Reply};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId as GroupName, OffsetFetchRequest, OffsetFetchResponse, TopicName};

/// One group's question: what is asked of it, none for all.
type Question = (GroupName, Option<Vec<OffsetKey>>);
/// Its answer.
type Rows = Result<Vec<(OffsetKey, Option<Committed>)>, i16>;

/// Answers an OffsetFetch request; groups are asked beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: OffsetFetchRequest = call.decode()?;
    let questions = questions(&request, call.version);
    let asking =
        questions.iter().cloned().map(|(group, keys)| (group.as_str().to_owned(), Ask::Offsets(keys)));
    let replies = ask_each(&call.node, asking.collect()).await;
    let answer = |reply| match reply {
        Some(Reply::Offsets(rows)) => Ok(rows),
        Some(reply) => Err(error::offset_fetch(&unexpected(reply))),
        None => Err(code::INVALID_REQUEST),
    };
    let answers: Vec<Rows> = replies.into_iter().map(answer).collect();
    call.respond(&response(questions, answers, call.version))
}

fn keys<'a>(topics: impl Iterator<Item = (&'a TopicName, &'a Vec<i32>)>) -> Vec<OffsetKey> {
    let key = |name: &TopicName, partition: &i32| (name.as_str().to_owned(), *partition);
    topics.flat_map(|(name, partitions)| partitions.iter().map(move |p| key(name, p))).collect()
}

fn questions(request: &OffsetFetchRequest, version: i16) -> Vec<Question> {
    if version >= 8 {
        let question = |group: &kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup| {
            let topics = group.topics.as_ref();
            let keys = topics.map(|topics| keys(topics.iter().map(|t| (&t.name, &t.partition_indexes))));
            (group.group_id.clone(), keys)
        };
        return request.groups.iter().map(question).collect();
    }
    let topics = request.topics.as_ref();
    let keys = topics.map(|topics| keys(topics.iter().map(|t| (&t.name, &t.partition_indexes))));
    vec![(request.group_id.clone(), keys)]
}

fn response(questions: Vec<Question>, answers: Vec<Rows>, version: i16) -> OffsetFetchResponse {
    if version >= 8 {
        let groups = questions.into_iter().zip(answers).map(|((group, _), answer)| {
            let row = OffsetFetchResponseGroup::default().with_group_id(group);
            match answer {
                Ok(rows) => row.with_topics(by_topic(rows).into_iter().map(topics).collect()),
                Err(code) => row.with_error_code(code),
            }
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let Some(((_, asked), answer)) = questions.into_iter().zip(answers).next() else {
        return OffsetFetchResponse::default();
    };
    let (rows, code) = match answer {
        Ok(rows) => (rows, code::NONE),
        // Version 1 has no other place for the code than the rows.
        Err(code) => (asked.unwrap_or_default().into_iter().map(|key| (key, None)).collect(), code),
    };
    let topic = |(name, rows): (TopicName, Vec<(i32, Option<Committed>)>)| {
        let rows = rows.into_iter().map(|row| partition(row, code, version));
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(rows.collect())
    };
    let response =
        OffsetFetchResponse::default().with_topics(by_topic(rows).into_iter().map(topic).collect());
    if version >= 2 { response.with_error_code(code) } else { response }
}

fn topics((name, rows): (TopicName, Vec<(i32, Option<Committed>)>)) -> OffsetFetchResponseTopics {
    let rows = rows.into_iter().map(|(index, committed)| {
        let (offset, epoch, metadata) = told(committed);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(text(metadata)))
    });
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(rows.collect())
}

fn partition(
    (index, committed): (i32, Option<Committed>),
    code: i16,
    version: i16,
) -> OffsetFetchResponsePartition {
    let (offset, epoch, metadata) = told(committed);
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(if version >= 5 { epoch } else { -1 })
        .with_metadata(Some(text(metadata)))
        .with_error_code(code)
}

fn told(committed: Option<Committed>) -> (i64, i32, String) {
    committed.map_or((-1, -1, String::new()), |c| (c.offset, c.leader_epoch, c.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn every_version_tells_offsets_their_absence_and_errors() {
        let key = |partition| ("orders".to_owned(), partition);
        let committed =
            Committed { offset: 7, leader_epoch: 2, metadata: "m".into(), at_ms: 0, until_ms: None };
        let asked = || vec![(GroupName::default(), Some(vec![key(0), key(1)]))];
        for version in 1..=9 {
            let rows = vec![(key(0), Some(committed.clone())), (key(1), None)];
            let told = response(asked(), vec![Ok(rows)], version);
            told.encode(&mut Vec::new(), version).unwrap();
            let offsets: Vec<i64> = match version {
                8.. => told.groups[0].topics[0].partitions.iter().map(|p| p.committed_offset).collect(),
                _ => told.topics[0].partitions.iter().map(|p| p.committed_offset).collect(),
            };
            assert_eq!(offsets, [7, -1]);
            let refused = response(asked(), vec![Err(14)], version);
            refused.encode(&mut Vec::new(), version).unwrap();
            let code = match version {
                8.. => refused.groups[0].error_code,
                2.. => refused.error_code,
                _ => refused.topics[0].partitions[1].error_code,
            };
            assert_eq!(code, 14);
        }
    }
}
