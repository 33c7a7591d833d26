//! OffsetForLeaderEpoch (23): where a leader epoch ends, so that consumers notice truncation (KIP-320).
//!
//! Not here: the epoch table and the ReadIndex round (the partition; safety.md F17).
//! Invariants: an undefined epoch is (-1, -1) without an error.

use super::{Call, group_of, join_all};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

/// Answers an OffsetForLeaderEpoch request; partitions are asked beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: OffsetForLeaderEpochRequest = call.decode()?;
    let image = call.node.image();
    let (mut asks, mut places, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    for (place, topic) in request.topics.iter().enumerate() {
        let mut rows = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let mut row = EpochEndOffset::default().with_partition(asked.partition);
            match group_of(&image, topic.topic.as_str(), asked.partition) {
                Some(group) => {
                    let node = call.node.clone();
                    let (epoch, current) = (asked.leader_epoch, asked.current_leader_epoch);
                    asks.push(async move { node.epoch_end(group, epoch, current).await });
                    places.push((place, rows.len()));
                }
                None => row.error_code = code::UNKNOWN_TOPIC_OR_PARTITION,
            }
            rows.push(row);
        }
        topics.push(
            OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(rows),
        );
    }
    for ((topic, partition), result) in places.into_iter().zip(join_all(asks).await) {
        let row = &mut topics[topic].partitions[partition];
        match result {
            Ok((epoch, end)) => (row.leader_epoch, row.end_offset) = (epoch, end),
            Err(failure) => row.error_code = error::partition(&failure),
        }
    }
    call.respond(&OffsetForLeaderEpochResponse::default().with_topics(topics))
}
