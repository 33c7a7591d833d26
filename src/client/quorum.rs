//! The members of a partition's Raft group, as its leader sees them (DescribeQuorum).
//!
//! Kontiki alone answers this for partitions of topics; Kafka does for its controllers only.

use super::cluster::{Client, topic_name};
use super::error::{Error, Result};
use crate::wire::versions::GENERATION_TAG;
use bytes::Buf;
use kafka_protocol::messages::DescribeQuorumRequest;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response as answer;
use std::collections::BTreeMap;

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Its leader.
    pub leader: i32,
    /// Leader epoch (term).
    pub epoch: i32,
    /// How often the controllers have begun it anew with a survivor (safety.md F3); None if the broker does not say.
    pub generation: Option<u64>,
    /// The voters are being changed: those of both halves are named.
    pub is_joint: bool,
    /// Offset below which all is committed.
    pub high_watermark: i64,
    /// Who votes.
    pub voters: Vec<Member>,
    /// Who copies and does not vote.
    pub learners: Vec<Member>,
    /// Of two controllers: who alone may go on without the other. None if there are not two, or the broker does not say.
    pub heir: Option<i32>,
    /// Controllers that are to vote and do not, or vote and are not there. None if the broker does not say.
    pub absent: Option<Vec<i32>>,
}

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Broker.
    pub node: i32,
    /// Offset after what it holds; -1 if unknown.
    pub end: i64,
    /// When the leader last heard it, ms since 1970; -1 for never.
    pub heard_ms: i64,
    /// When it last held all that the leader had, ms since 1970; -1 for never.
    pub caught_up_ms: i64,
}

impl Quorum {
    /// Offset after all that the leader holds; -1 if unknown.
    pub fn end(&self) -> i64 {
        let own = self.voters.iter().chain(&self.learners).find(|member| member.node == self.leader);
        own.map_or(-1, |member| member.end)
    }
}

impl From<answer::PartitionData> for Quorum {
    fn from(row: answer::PartitionData) -> Self {
        let members = |rows: Vec<answer::ReplicaState>| {
            let member = |row: answer::ReplicaState| Member {
                node: row.replica_id.0,
                end: row.log_end_offset,
                heard_ms: row.last_fetch_timestamp,
                caught_up_ms: row.last_caught_up_timestamp,
            };
            rows.into_iter().map(member).collect()
        };
        let tag = row.unknown_tagged_fields.get(&GENERATION_TAG).filter(|tag| tag.len() >= 9);
        let of_controllers = tag.filter(|tag| tag.len() >= 13);
        Self {
            leader: row.leader_id.0,
            epoch: row.leader_epoch,
            generation: tag.map(|tag| (&tag[..]).get_u64()),
            is_joint: tag.is_some_and(|tag| tag[8] != 0),
            heir: of_controllers.map(|tag| (&tag[9..]).get_i32()).filter(|heir| *heir >= 0),
            absent: of_controllers.map(|tag| tag[13..].chunks_exact(4).map(|mut id| id.get_i32()).collect()),
            high_watermark: row.high_watermark,
            voters: members(row.current_voters),
            learners: members(row.observers),
        }
    }
}

/// Kafka's name of the controllers' log.
const CLUSTER_METADATA: &str = "__cluster_metadata";

impl Client {
    /// The controllers' group: who votes, and the brokers that follow it. Any broker answers for their leader.
    pub async fn describe_controllers(&self) -> Result<Quorum> {
        let partition = PartitionData::default().with_partition_index(0);
        let topic = TopicData::default()
            .with_topic_name(topic_name(CLUSTER_METADATA))
            .with_partitions(vec![partition]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let answer = self.call_any(&request, i16::MAX).await?;
        let what = || "the controllers".to_owned();
        Error::check(answer.error_code, answer.error_message.as_deref(), what)?;
        let row = answer.topics.into_iter().flat_map(|t| t.partitions).next();
        let row = row.ok_or_else(|| Error::Invalid("empty DescribeQuorum answer".into()))?;
        Error::check(row.error_code, row.error_message.as_deref(), what)?;
        Ok(row.into())
    }

    /// The groups of these partitions.
    pub async fn describe_quorum(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, Quorum>> {
        let parts = partitions.iter().map(|p| (*p, ())).collect();
        self.per_leader(topic, parts, async |connection, parts| {
            let rows =
                parts.iter().map(|(p, ())| PartitionData::default().with_partition_index(*p)).collect();
            let asked = TopicData::default().with_topic_name(topic_name(topic)).with_partitions(rows);
            let request = DescribeQuorumRequest::default().with_topics(vec![asked]);
            let answer = connection.call(&request).await?;
            Error::check(answer.error_code, answer.error_message.as_deref(), || {
                format!("replicas of {topic}")
            })?;
            let rows = answer.topics.into_iter().flat_map(|t| t.partitions);
            Ok(rows
                .map(|row| {
                    let (index, message) = (row.partition_index, row.error_message.clone());
                    let what = || format!("replicas of {topic}/{index}");
                    let checked = Error::check(row.error_code, message.as_deref(), what);
                    (index, checked.map(|()| Quorum::from(row)))
                })
                .collect())
        })
        .await
    }
}
