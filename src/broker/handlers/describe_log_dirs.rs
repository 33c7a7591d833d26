//! DescribeLogDirs (35): what this broker's replicas take in its one data directory. `kafka-reassign-partitions` asks for it, too.
//!
//! Invariants: only replicas that are here are listed, as in Kafka; sizes are those of the segments' records, without what is only
//! preallocated. Sizes of the volume (KIP-827) are -1 where the file system does not say them.

use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::ctl::image::{Image, Topic};
use crate::segment::GroupId;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use std::collections::BTreeSet;
use std::path::PathBuf;

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
    let (total, usable) =
        if call.version >= 4 { volume(call.config.data_dir.clone()).await } else { (-1, -1) };
    let directory = directory.with_total_bytes(total).with_usable_bytes(usable);
    call.respond(&DescribeLogDirsResponse::default().with_results(vec![directory]))
}

/// Bytes of the volume a directory is on: all, and those that are free to us.
async fn volume(directory: PathBuf) -> (i64, i64) {
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(directory)).await;
    let Ok(Ok(stat)) = asked else { return (-1, -1) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    (bytes(stat.f_blocks), bytes(stat.f_bavail))
}

/// Partitions of the request that exist, topic by topic, each once.
fn asked(image: &Image, request: &DescribeLogDirsRequest) -> Vec<(TopicName, i32, GroupId)> {
    let row = |topic: &Topic, index: i32| {
        let partition = topic.partitions.get(usize::try_from(index).ok()?)?;
        Some((TopicName(text(topic.name.clone())), index, partition.group))
    };
    let Some(topics) = &request.topics else {
        let all = image.topics.values();
        return all
            .flat_map(|topic| (0..topic.partitions.len() as i32).filter_map(|at| row(topic, at)))
            .collect();
    };
    let rows = topics.iter().flat_map(|one| one.partitions.iter().map(|index| (one.topic.as_str(), *index)));
    let distinct: BTreeSet<(&str, i32)> = rows.collect();
    distinct.into_iter().filter_map(|(name, index)| row(image.topics.get(name)?, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn volume_is_told_where_there_is_one() {
        let (total, usable) = volume(std::env::temp_dir()).await;
        assert!(total > 0 && (0..=total).contains(&usable), "{usable} of {total}");
        assert_eq!(volume("/nowhere".into()).await, (-1, -1));
    }
}
