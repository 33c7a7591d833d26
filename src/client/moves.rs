//! Administration of where replicas are: reassignments, sizes, brokers that are taken out.
//!
//! Not here: what should move (`bin` plans, with the broker's planner), waiting for it. Requests that change something go to the
//! controller the metadata names and are not repeated once they may have been carried out.

use super::cluster::{Client, Purpose, topic_name};
use super::error::{Error, Result};
use crate::wire::versions::BY_CONTROLLERS_TAG;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, DescribeLogDirsRequest, ListPartitionReassignmentsRequest,
    UnregisterBrokerRequest,
};
use std::collections::BTreeMap;

/// A partition, by its topic's name.
pub type PartitionName = (String, i32);

/// A reassignment under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reassignment {
    /// All replicas, those that are to leave included; the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those that are new.
    pub adding: Vec<i32>,
    /// Those that are to leave.
    pub removing: Vec<i32>,
    /// Nobody asked for it: the controllers make anew what is lost on brokers that are dead or decommissioned.
    pub by_controllers: bool,
}

impl Reassignment {
    /// Where the replicas are to be.
    pub fn target(&self) -> Vec<i32> {
        self.replicas.iter().copied().filter(|node| !self.removing.contains(node)).collect()
    }
}

impl Client {
    /// Sets where the replicas of partitions are to be; None cancels what is under way. Unless the factor may change, a target of another
    /// count than the partition has, or is on its way to have, is refused.
    pub async fn reassign(
        &self,
        targets: &BTreeMap<PartitionName, Option<Vec<i32>>>,
        allow_factor_change: bool,
    ) -> Result<BTreeMap<PartitionName, Result<()>>> {
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for ((topic, partition), target) in targets {
            let replicas = target.as_ref().map(|nodes| nodes.iter().map(|id| BrokerId(*id)).collect());
            let row =
                ReassignablePartition::default().with_partition_index(*partition).with_replicas(replicas);
            topics.entry(topic).or_default().push(row);
        }
        let rows = topics.into_iter().map(|(topic, rows)| {
            ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(rows)
        });
        let timeout = i32::try_from(self.options().request_timeout.as_millis()).unwrap_or(i32::MAX);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(timeout)
            .with_allow_replication_factor_change(allow_factor_change)
            .with_topics(rows.collect());
        let answer = self.call_controller(&request, |answer| answer.error_code).await?;
        Error::check(answer.error_code, answer.error_message.as_deref(), || "reassignment".into())?;
        let rows = answer.responses.into_iter().flat_map(|topic| {
            let name = topic.name.to_string();
            topic.partitions.into_iter().map(move |row| (name.clone(), row))
        });
        Ok(rows
            .map(|(topic, row)| {
                let what = || format!("{topic}-{}", row.partition_index);
                let done = Error::check(row.error_code, row.error_message.as_deref(), what);
                ((topic.clone(), row.partition_index), done)
            })
            .collect())
    }

    /// Every reassignment under way.
    pub async fn reassignments(&self) -> Result<BTreeMap<PartitionName, Reassignment>> {
        let request = ListPartitionReassignmentsRequest::default().with_topics(None);
        let answer = self.call_any(&request, i16::MAX).await?;
        Error::check(answer.error_code, answer.error_message.as_deref(), || "reassignments".into())?;
        let ids = |list: Vec<BrokerId>| list.into_iter().map(|id| id.0).collect();
        let mut found = BTreeMap::new();
        for topic in answer.topics {
            for row in topic.partitions {
                let one = Reassignment {
                    replicas: ids(row.replicas),
                    adding: ids(row.adding_replicas),
                    removing: ids(row.removing_replicas),
                    by_controllers: row.unknown_tagged_fields.contains_key(&BY_CONTROLLERS_TAG),
                };
                found.insert((topic.name.to_string(), row.partition_index), one);
            }
        }
        Ok(found)
    }

    /// Bytes that each replica on this broker takes.
    pub async fn replica_sizes(&self, broker: i32) -> Result<BTreeMap<PartitionName, u64>> {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let answer = self.broker_connection(broker, Purpose::General).await?.call(&request).await?;
        Error::check(answer.error_code, None, || format!("sizes of broker {broker}"))?;
        let mut sizes = BTreeMap::new();
        for topic in answer.results.into_iter().flat_map(|directory| directory.topics) {
            for row in topic.partitions {
                let size = u64::try_from(row.partition_size).unwrap_or(0);
                sizes.insert((topic.name.to_string(), row.partition_index), size);
            }
        }
        Ok(sizes)
    }

    /// Has the controllers forget a broker that holds no replicas.
    pub async fn unregister_broker(&self, broker: i32) -> Result<()> {
        let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(broker));
        let answer = self.call_controller(&request, |answer| answer.error_code).await?;
        Error::check(answer.error_code, answer.error_message.as_deref(), || format!("broker {broker}"))
    }
}
