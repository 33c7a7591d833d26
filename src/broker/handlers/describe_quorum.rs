//! DescribeQuorum (55): members of a Raft group and how far each is (KIP-595, KIP-642).
//!
//! Kafka answers for `__cluster_metadata` alone, which any broker can be asked for; here a partition's leader answers
//! for that partition too. What Kafka has no field for (the generation, whether the voters are being changed; of the
//! controllers who is heir, and who of them is to vote and does not or is not there) is a tagged field of the partition, which other clients skip.
//! Not here: what a leader knows (the shard).

use super::{Call, group_of, join_all, text};
use crate::broker::api::{ControllersStatus, PartitionError, Quorum, QuorumReplica};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::broker::shard::CONTROLLER;
use crate::segment::{GroupId, NodeId};
use crate::wire::versions::GENERATION_TAG;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::describe_quorum_request::TopicData as Asked;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, DescribeQuorumResponse};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Kafka's name for the controllers' log.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Answers a DescribeQuorum request; groups are asked beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DescribeQuorumRequest = call.decode()?;
    let image = call.node.image();
    let group = |topic: &str, index: i32| match topic {
        CLUSTER_METADATA => (index == 0).then_some(CONTROLLER),
        name => group_of(&image, name, index),
    };
    // Each group once, however often it is named: one row must not cost a question to another node.
    let rows = request.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (t, p.partition_index)));
    let groups: BTreeSet<GroupId> =
        rows.filter_map(|(topic, index)| group(&topic.topic_name, index)).collect();
    let asks = groups.iter().map(|group| {
        let (node, group) = (call.node.clone(), *group);
        async move { node.quorum(group).await }
    });
    let answers = join_all(asks.collect()).await;
    let answers: BTreeMap<GroupId, Result<Quorum, PartitionError>> =
        groups.into_iter().zip(answers).collect();
    let row = |topic: &str, index: i32| {
        let answer = group(topic, index).map_or(&Err(PartitionError::Unknown), |group| &answers[&group]);
        let is_controllers = topic == CLUSTER_METADATA;
        let why = if is_controllers { awaited(&call.node.status().controllers) } else { None };
        partition_row(index, answer, is_controllers, why, call.version)
    };
    let topic = |topic: &Asked| {
        let rows = topic.partitions.iter().map(|p| row(&topic.topic_name, p.partition_index));
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(rows.collect())
    };
    let topics = request.topics.iter().map(topic).collect();
    let mut response = DescribeQuorumResponse::default().with_topics(topics);
    if call.version >= 2 && request.topics.iter().any(|topic| topic.topic_name.as_str() == CLUSTER_METADATA) {
        response.nodes = controllers(&call.config.controllers);
    }
    call.respond(&response)
}

fn partition_row(
    index: i32,
    answer: &Result<Quorum, PartitionError>,
    is_controllers: bool,
    why: Option<String>,
    version: i16,
) -> PartitionData {
    let row = PartitionData::default().with_partition_index(index);
    let quorum = match answer {
        Ok(quorum) => quorum,
        Err(failure) => {
            let message = (version >= 2).then(|| text(why.unwrap_or_else(|| failure.to_string())));
            let row = row.with_error_code(error::partition(failure)).with_leader_id(BrokerId(-1));
            return row.with_error_message(message);
        }
    };
    let state = |replica: &QuorumReplica| {
        let mut state = ReplicaState::default()
            .with_replica_id(BrokerId(replica.node.0))
            .with_replica_directory_id(Uuid::nil())
            .with_log_end_offset(replica.end);
        if version >= 1 {
            state.last_fetch_timestamp = replica.heard_ms;
            state.last_caught_up_timestamp = replica.caught_up_ms;
        }
        state
    };
    let mut tag = BytesMut::with_capacity(13 + 4 * quorum.absent.len());
    tag.put_u64(quorum.generation);
    tag.put_u8(u8::from(quorum.is_joint));
    if is_controllers {
        tag.put_i32(quorum.heir.map_or(-1, |heir| heir.0));
        quorum.absent.iter().for_each(|node| tag.put_i32(node.0));
    }
    row.with_leader_id(BrokerId(quorum.leader.0))
        .with_leader_epoch(quorum.epoch)
        .with_high_watermark(quorum.high_watermark)
        .with_current_voters(quorum.voters.iter().map(state).collect())
        .with_observers(quorum.learners.iter().map(state).collect())
        .with_unknown_tagged_fields(BTreeMap::from([(GENERATION_TAG, Bytes::from(tag))]))
}

/// For whom the controllers wait if nobody leads them, as far as this node's copy of their log says.
fn awaited(status: &ControllersStatus) -> Option<String> {
    let missed: Vec<String> = status.waits_for.iter().map(NodeId::to_string).collect();
    if !missed.is_empty() {
        let which = missed.join(" and ");
        return Some(format!("the controllers wait for node {which}, to finish a change of who votes"));
    }
    let heir = status.waits_for_heir.or(status.heir)?;
    Some(format!(
        "no controller leads; of the two that vote node {heir}, the heir, alone may go on without the other"
    ))
}

/// Controllers and their peer addresses: the only ones they all have.
fn controllers(known: &BTreeMap<NodeId, String>) -> Vec<Node> {
    let node = |(id, address): (&NodeId, &String)| {
        let (host, port) = address.rsplit_once(':')?;
        let listener = Listener::default()
            .with_name(text("CONTROLLER"))
            .with_host(text(host))
            .with_port(port.parse().ok()?);
        Some(Node::default().with_node_id(BrokerId(id.0)).with_listeners(vec![listener]))
    };
    known.iter().filter_map(node).collect()
}
