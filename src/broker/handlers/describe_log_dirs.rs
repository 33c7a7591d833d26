//! DescribeLogDirs (35): what this broker's replicas take in its one data directory. `kafka-reassign-partitions` asks for it, too.
//!
//! Invariants: only replicas that are here are listed, as in Kafka; sizes are those of the segments' records, without what is only
//! preallocated. Sizes of the volume are not told (-1).

use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::ctl::image::Image;
use crate::segment::GroupId;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

/// Answers a DescribeLogDirs request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DescribeLogDirsRequest = call.decode()?;
    let image = call.node.image();
    let asked = asked(&image, &request);
    let groups: Vec<GroupId> = asked.iter().map(|(_, _, group)| *group).collect();
    let states = call.node.partition_states(&groups).await;
    let mut topics: Vec<DescribeLogDirsTopic> = Vec::new();
    for ((name, index, _), state) in asked.into_iter().zip(states).filter(|(_, state)| state.local) {
        let row = DescribeLogDirsPartition::default()
            .with_partition_index(index)
            .with_partition_size(i64::try_from(state.size_bytes).unwrap_or(i64::MAX));
        match topics.last_mut().filter(|topic| topic.name == name) {
            Some(topic) => topic.partitions.push(row),
            None => {
                topics.push(DescribeLogDirsTopic::default().with_name(name).with_partitions(vec![row]));
            }
        }
    }
    let directory = DescribeLogDirsResult::default()
        .with_log_dir(text(call.config.data_dir.display().to_string()))
        .with_topics(topics);
    call.respond(&DescribeLogDirsResponse::default().with_results(vec![directory]))
}

/// Partitions of the request that exist, topic by topic.
fn asked(image: &Image, request: &DescribeLogDirsRequest) -> Vec<(TopicName, i32, GroupId)> {
    let all = image.topics.values().flat_map(|topic| {
        let name = TopicName(text(topic.name.clone()));
        (0..).zip(&topic.partitions).map(move |(index, partition)| (name.clone(), index, partition.group))
    });
    let is_asked = |name: &TopicName, index: i32| match &request.topics {
        None => true,
        Some(topics) => topics.iter().any(|row| row.topic == *name && row.partitions.contains(&index)),
    };
    all.filter(|(name, index, _)| is_asked(name, *index)).collect()
}
