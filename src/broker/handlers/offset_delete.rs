//! OffsetDelete (47): committed offsets of topics that the group does not read any more.
//!
//! Not here: whether it still reads them (`broker::groups`).
//! Invariants: one row per partition, in the order asked.

use super::Call;
use super::coordinator::{ask, is_partition, unexpected};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, OffsetKey, Reply};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

/// Answers an OffsetDelete request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: OffsetDeleteRequest = call.decode()?;
    let image = call.node.image();
    let rows = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|row| (topic.name.as_str().to_owned(), row.partition_index))
    });
    let keys: Vec<OffsetKey> = rows.collect();
    let known: Vec<OffsetKey> = keys.iter().filter(|key| is_partition(&image, key)).cloned().collect();
    let asked = known.len();
    let response = OffsetDeleteResponse::default();
    let answer = match ask(&call.node, request.group_id.as_str(), Ask::DeleteOffsets(known)).await {
        Reply::Rows(rows) if rows.len() == asked => rows,
        reply => return call.respond(&response.with_error_code(error::group(&unexpected(reply)))),
    };
    let mut answer = answer.into_iter();
    let mut codes = keys.iter().map(|key| match is_partition(&image, key) {
        true => answer.next().flatten().as_ref().map_or(code::NONE, error::group),
        false => code::UNKNOWN_TOPIC_OR_PARTITION,
    });
    let topics = request.topics.iter().map(|topic| {
        let rows = topic.partitions.iter().map(|row| {
            OffsetDeleteResponsePartition::default()
                .with_partition_index(row.partition_index)
                .with_error_code(codes.next().unwrap_or(code::NONE))
        });
        OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(rows.collect())
    });
    let topics = topics.collect();
    call.respond(&response.with_topics(topics))
}
