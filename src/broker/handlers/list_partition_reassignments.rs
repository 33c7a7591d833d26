//! ListPartitionReassignments (46): partitions whose replicas move, as this broker's copy of the metadata has them (KIP-455).
//!
//! Invariants: what does not move is left out, as in Kafka, whether or not it exists.

use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::ctl::image::{Image, Partition, Topic};
use crate::ctl::reassign;
use crate::segment::NodeId;
use crate::wire::versions::BY_CONTROLLERS_TAG;
use bytes::Bytes;
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    BrokerId, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use std::collections::{BTreeMap, BTreeSet};

/// Answers a ListPartitionReassignments request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: ListPartitionReassignmentsRequest = call.decode()?;
    let topics = rows(&call.node.image(), &request);
    let response = ListPartitionReassignmentsResponse::default().with_error_message(None);
    call.respond(&response.with_topics(topics))
}

fn rows(image: &Image, request: &ListPartitionReassignmentsRequest) -> Vec<OngoingTopicReassignment> {
    let rows: Vec<OngoingTopicReassignment> = match &request.topics {
        None => image.topics.values().map(|topic| row(topic, |_| true)).collect(),
        Some(asked) => asked
            .iter()
            .filter_map(|one| {
                let topic = image.topics.get(one.name.as_str())?;
                let wanted: BTreeSet<i32> = one.partition_indexes.iter().copied().collect();
                Some(row(topic, |index| wanted.contains(&index)))
            })
            .collect(),
    };
    rows.into_iter().filter(|row| !row.partitions.is_empty()).collect()
}

fn row(topic: &Topic, wanted: impl Fn(i32) -> bool) -> OngoingTopicReassignment {
    let moving = reassign::moving(topic).filter(|(index, _)| wanted(*index));
    OngoingTopicReassignment::default()
        .with_name(TopicName(text(topic.name.clone())))
        .with_partitions(moving.map(|(index, partition)| partition_row(index, partition)).collect())
}

fn partition_row(index: i32, partition: &Partition) -> OngoingPartitionReassignment {
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| BrokerId(node.0)).collect::<Vec<_>>();
    OngoingPartitionReassignment::default()
        .with_partition_index(index)
        .with_replicas(ids(partition.replicas.iter().map(|replica| replica.node).collect()))
        .with_adding_replicas(ids(partition.adding()))
        .with_removing_replicas(ids(partition.removing().iter().map(|replica| replica.node).collect()))
        .with_unknown_tagged_fields(by_controllers(partition))
}

/// For those that know our field: nobody asked for it.
fn by_controllers(partition: &Partition) -> BTreeMap<i32, Bytes> {
    let is_own = partition.moving.as_ref().is_some_and(|moving| moving.by_controllers);
    is_own.then(|| (BY_CONTROLLERS_TAG, Bytes::from_static(&[1]))).into_iter().collect()
}
