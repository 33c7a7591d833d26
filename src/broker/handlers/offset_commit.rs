//! OffsetCommit (8): a group's progress.
//!
//! Not here: who may commit and when it is durable (`broker::groups`).
//! Invariants: one row per partition, in the order asked; what is committed for partitions that do not exist is refused row by row.

use super::Call;
use super::coordinator::{ask, caller, is_partition, owned, unexpected};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, GroupError, Offset, OffsetKey, Reply};
use crate::ctl::image::Image;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

/// Answers an OffsetCommit request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: OffsetCommitRequest = call.decode()?;
    let (mut codes, offsets, places) = plan(&request, &call.node.image());
    if !offsets.is_empty() {
        let generation = request.generation_id_or_member_epoch;
        let question = Ask::Commit {
            caller: caller(&request.member_id, &request.group_instance_id, generation),
            offsets,
            retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0 && call.version <= 4),
        };
        let count = places.len();
        let rows = match ask(&call.node, request.group_id.as_str(), question).await {
            Reply::Rows(rows) if rows.len() == count => rows,
            reply => vec![Some(unexpected(reply)); count],
        };
        for (place, row) in places.into_iter().zip(rows) {
            codes[place] = row.as_ref().map_or(code::NONE, error::commit);
        }
    }
    call.respond(&response(&request, &codes))
}

/// A code for each partition so far, what to commit, and the place of each.
fn plan(request: &OffsetCommitRequest, image: &Image) -> (Vec<i16>, Vec<(OffsetKey, Offset)>, Vec<usize>) {
    let (mut codes, mut offsets, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for topic in &request.topics {
        for row in &topic.partitions {
            let key = (topic.name.as_str().to_owned(), row.partition_index);
            if is_partition(image, &key) {
                places.push(codes.len());
                codes.push(code::NONE);
                let metadata = row.committed_metadata.as_ref().map(owned).unwrap_or_default();
                let (offset, leader_epoch) = (row.committed_offset, row.committed_leader_epoch);
                offsets.push((key, Offset { offset, leader_epoch, metadata }));
            } else {
                codes.push(error::commit(&GroupError::UnknownPartition));
            }
        }
    }
    (codes, offsets, places)
}

fn response(request: &OffsetCommitRequest, codes: &[i16]) -> OffsetCommitResponse {
    let mut codes = codes.iter();
    let topics = request.topics.iter().map(|topic| {
        let rows = topic.partitions.iter().zip(codes.by_ref()).map(|(row, code)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(row.partition_index)
                .with_error_code(*code)
        });
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(rows.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::tests::image;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::protocol::{Encodable, StrBytes};

    #[test]
    fn rows_keep_their_order_and_unknown_partitions_are_refused() {
        let partition = |index| OffsetCommitRequestPartition::default().with_partition_index(index);
        let topic = |name: &'static str, rows: &[i32]| {
            OffsetCommitRequestTopic::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_partitions(rows.iter().copied().map(partition).collect())
        };
        let topics = vec![topic("nope", &[0]), topic("orders", &[9, 1, 0])];
        let request = OffsetCommitRequest::default().with_topics(topics);
        let (mut codes, offsets, places) = plan(&request, &image());
        assert_eq!((codes.as_slice(), places.as_slice()), (&[3, 3, 0, 0][..], &[2, 3][..]));
        assert_eq!(offsets[0].0, ("orders".to_owned(), 1));
        codes[3] = 25;
        let response = response(&request, &codes);
        let told: Vec<i16> =
            response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
        assert_eq!(told, [3, 3, 0, 25]);
        for version in 2..=9 {
            response.encode(&mut Vec::new(), version).unwrap();
        }
    }
}
