//! DeleteRecords (21): moves the log start of partitions.
//!
//! Not here: the committed entry that moves it (the partition). -1 means up to the high watermark.
//! Invariants: a row that fails has low watermark -1.

use super::{Call, admin_timeout, group_of, join_all};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

/// Answers a DeleteRecords request; partitions are asked beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DeleteRecordsRequest = call.decode()?;
    let image = call.node.image();
    let timeout_ms = admin_timeout(request.timeout_ms);
    let (mut asks, mut places, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    for (place, topic) in request.topics.iter().enumerate() {
        let mut rows = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let mut row = DeleteRecordsPartitionResult::default()
                .with_partition_index(asked.partition_index)
                .with_low_watermark(-1);
            match group_of(&image, topic.name.as_str(), asked.partition_index) {
                None => row.error_code = code::UNKNOWN_TOPIC_OR_PARTITION,
                // What groups committed is in there; nobody cuts it off.
                Some(_) if image.topics.get(topic.name.as_str()).is_some_and(|topic| topic.internal) => {
                    row.error_code = code::POLICY_VIOLATION;
                }
                Some(_) if asked.offset < -1 => row.error_code = code::OFFSET_OUT_OF_RANGE,
                Some(group) => {
                    let (node, offset) = (call.node.clone(), asked.offset);
                    asks.push(async move { node.delete_records(group, offset, timeout_ms).await });
                    places.push((place, rows.len()));
                }
            }
            rows.push(row);
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(rows));
    }
    for ((topic, partition), result) in places.into_iter().zip(join_all(asks).await) {
        let row = &mut topics[topic].partitions[partition];
        match result {
            Ok(low_watermark) => row.low_watermark = low_watermark,
            Err(failure) => row.error_code = error::partition(&failure),
        }
    }
    call.respond(&DeleteRecordsResponse::default().with_topics(topics))
}
