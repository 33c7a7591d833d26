//! Administration: topics, partitions, configurations, the cluster itself.
//!
//! Each call asks for one thing of one or more items and answers item by item, so that one failure does not
//! hide the others. Not here: output (`bin`). Requests that change something go to the controller the metadata
//! names and are not repeated once they may have been carried out.

use super::cluster::{Broker, Client, text, topic_name};
use super::error::{Error, Result};
use crate::wire::versions::{DRAIN_TAG, GONE_TAG};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use std::collections::BTreeMap;

/// A topic to make.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// None: the broker's default.
    pub partitions: Option<i32>,
    /// None: the broker's default.
    pub replication_factor: Option<i16>,
    /// Kafka names.
    pub configs: BTreeMap<String, String>,
}

/// A topic that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Partitions it got; -1 if the broker does not say.
    pub partitions: i32,
    /// Replicas it got; -1 if the broker does not say.
    pub replication_factor: i16,
}

/// What a configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ResourceType {
    /// A topic.
    Topic = 2,
    /// A broker, or all of them (empty name).
    Broker = 4,
}

/// One configuration value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: String,
    /// None if sensitive.
    pub value: Option<String>,
    /// Kafka's ConfigSource: 1 topic, 2 and 3 dynamic broker, 4 static broker, 5 default.
    pub source: i8,
    /// Cannot be changed at run time.
    pub read_only: bool,
}

impl ConfigEntry {
    /// The source in words, as Kafka's tools print it.
    pub fn source_name(&self) -> &'static str {
        match self.source {
            1 => "DYNAMIC_TOPIC_CONFIG",
            2 => "DYNAMIC_BROKER_CONFIG",
            3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
            4 => "STATIC_BROKER_CONFIG",
            5 => "DEFAULT_CONFIG",
            _ => "UNKNOWN",
        }
    }
}

/// The cluster as DescribeCluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Cluster id.
    pub id: String,
    /// Broker that takes admin requests, -1 if none.
    pub controller: i32,
    /// Registered brokers, and whether each is fenced.
    pub brokers: Vec<(Broker, bool)>,
    /// What brokers are to be left by, where that is anything.
    pub drains: BTreeMap<i32, Drain>,
    /// Ids of brokers that were decommissioned and are registered no more: nobody registers with them before that is taken back.
    pub gone: Vec<i32>,
}

/// Kafka's name of what a broker's listeners advertise.
const ADVERTISED: &str = "advertised.listeners";

fn altering(
    resource: ResourceType,
    name: &str,
    changes: &[(String, Option<String>)],
    validate_only: bool,
) -> IncrementalAlterConfigsRequest {
    let configs = changes
        .iter()
        .map(|(key, value)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(i8::from(value.is_none()))
                .with_value(value.as_deref().map(text))
        })
        .collect();
    let row = AlterConfigsResource::default()
        .with_resource_type(resource as i8)
        .with_resource_name(text(name))
        .with_configs(configs);
    IncrementalAlterConfigsRequest::default().with_resources(vec![row]).with_validate_only(validate_only)
}

fn altered(answer: &IncrementalAlterConfigsResponse, name: &str) -> Result<()> {
    let result =
        answer.responses.first().ok_or_else(|| Error::Invalid("empty AlterConfigs answer".into()))?;
    Error::check(result.error_code, result.error_message.as_deref(), || format!("configuration of `{name}`"))
}

/// What an operator wants to leave a broker (`broker.drain`; Kontiki's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Leaderships; and it gets no new replicas.
    Leaders,
    /// Its replicas too: it is decommissioned.
    Replicas,
}

impl Drain {
    fn of(row: &DescribeClusterBroker) -> Option<Self> {
        match row.unknown_tagged_fields.get(&DRAIN_TAG)?.first()? {
            1 => Some(Drain::Leaders),
            2 => Some(Drain::Replicas),
            _ => None,
        }
    }
}

impl Client {
    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.options().request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Makes topics; `validate_only` only checks.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<(String, Result<CreatedTopic>)>> {
        let rows = topics
            .iter()
            .map(|t| {
                let configs = t.configs.iter().map(|(k, v)| {
                    CreatableTopicConfig::default().with_name(text(k)).with_value(Some(text(v)))
                });
                CreatableTopic::default()
                    .with_name(topic_name(&t.name))
                    .with_num_partitions(t.partitions.unwrap_or(-1))
                    .with_replication_factor(t.replication_factor.unwrap_or(-1))
                    .with_configs(configs.collect())
            })
            .collect();
        let request = CreateTopicsRequest::default()
            .with_topics(rows)
            .with_timeout_ms(self.timeout_ms())
            .with_validate_only(validate_only);
        let answer = self.call_controller(&request, |a| a.topics.first().map_or(0, |t| t.error_code)).await?;
        Ok(answer
            .topics
            .into_iter()
            .map(|t| {
                let name = t.name.to_string();
                let made =
                    CreatedTopic { partitions: t.num_partitions, replication_factor: t.replication_factor };
                let done =
                    Error::check(t.error_code, t.error_message.as_deref(), || format!("topic `{name}`"));
                (name, done.map(|()| made))
            })
            .collect())
    }

    /// Deletes topics.
    pub async fn delete_topics(&self, names: &[String]) -> Result<Vec<(String, Result<()>)>> {
        // Versions up to 5 take names, later ones states; the codec writes whichever the version has.
        let request = DeleteTopicsRequest::default()
            .with_topic_names(names.iter().map(|n| topic_name(n)).collect())
            .with_topics(
                names.iter().map(|n| DeleteTopicState::default().with_name(Some(topic_name(n)))).collect(),
            )
            .with_timeout_ms(self.timeout_ms());
        let answer = self
            .call_controller_fitted(request, |version, r| {
                if version >= 6 { r.topic_names.clear() } else { r.topics.clear() }
            })
            .await?;
        Ok(answer
            .responses
            .into_iter()
            .map(|t| {
                let name = t.name.map(|n| n.to_string()).unwrap_or_default();
                let done =
                    Error::check(t.error_code, t.error_message.as_deref(), || format!("topic `{name}`"));
                (name, done)
            })
            .collect())
    }

    /// DeleteTopics has fields that only some versions may carry, so the version must be known first.
    async fn call_controller_fitted(
        &self,
        mut request: DeleteTopicsRequest,
        fit: impl Fn(i16, &mut DeleteTopicsRequest),
    ) -> Result<kafka_protocol::messages::DeleteTopicsResponse> {
        self.refresh(Some(&[]), false).await?;
        let controller = self.metadata().controller;
        let purpose = super::cluster::Purpose::General;
        let connection = self.broker_connection(controller, purpose).await?;
        fit(connection.version::<DeleteTopicsRequest>(i16::MAX)?, &mut request);
        self.call_controller(&request, |a| a.responses.first().map_or(0, |t| t.error_code)).await
    }

    /// Raises a topic's number of partitions to `count`.
    pub async fn create_partitions(&self, topic: &str, count: i32, validate_only: bool) -> Result<()> {
        let row = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![row])
            .with_timeout_ms(self.timeout_ms())
            .with_validate_only(validate_only);
        let answer =
            self.call_controller(&request, |a| a.results.first().map_or(0, |t| t.error_code)).await?;
        let result =
            answer.results.first().ok_or_else(|| Error::Invalid("empty CreatePartitions answer".into()))?;
        Error::check(result.error_code, result.error_message.as_deref(), || format!("topic `{topic}`"))
    }

    /// Deletes the records below an offset (-1: all committed ones), per partition; answers the new log starts.
    pub async fn delete_records(
        &self,
        topic: &str,
        below: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>> {
        let parts = below.iter().map(|(p, o)| (*p, *o)).collect();
        self.per_leader(topic, parts, async |connection, parts| {
            let partitions = parts
                .iter()
                .map(|(p, o)| DeleteRecordsPartition::default().with_partition_index(*p).with_offset(*o))
                .collect();
            let row = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(partitions);
            let request =
                DeleteRecordsRequest::default().with_topics(vec![row]).with_timeout_ms(self.timeout_ms());
            let answer = connection.call(&request).await?;
            let rows = answer.topics.into_iter().flat_map(|t| t.partitions);
            Ok(rows
                .map(|p| {
                    let what = || format!("records of {topic}/{}", p.partition_index);
                    (p.partition_index, Error::check(p.error_code, None, what).map(|()| p.low_watermark))
                })
                .collect())
        })
        .await
    }

    /// All configuration values of a topic or broker, by name.
    pub async fn describe_configs(&self, resource: ResourceType, name: &str) -> Result<Vec<ConfigEntry>> {
        let row = DescribeConfigsResource::default()
            .with_resource_type(resource as i8)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![row]);
        let answer = match (resource, name.parse::<i32>()) {
            // A broker's own values are its own to tell.
            (ResourceType::Broker, Ok(id)) => {
                self.refresh(Some(&[]), false).await?;
                self.broker_connection(id, super::cluster::Purpose::General).await?.call(&request).await?
            }
            _ => self.call_any(&request, i16::MAX).await?,
        };
        let result = answer
            .results
            .into_iter()
            .next()
            .ok_or_else(|| Error::Invalid("empty DescribeConfigs answer".into()))?;
        let what = || match resource {
            ResourceType::Topic => format!("topic `{name}`"),
            ResourceType::Broker => format!("broker `{name}`"),
        };
        Error::check(result.error_code, result.error_message.as_deref(), what)?;
        let mut entries: Vec<ConfigEntry> = result
            .configs
            .into_iter()
            .map(|c| ConfigEntry {
                name: c.name.to_string(),
                value: c.value.map(|v| v.to_string()),
                source: c.config_source,
                read_only: c.read_only,
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Sets (Some) or resets (None) configuration values.
    pub async fn alter_configs(
        &self,
        resource: ResourceType,
        name: &str,
        changes: &[(String, Option<String>)],
        validate_only: bool,
    ) -> Result<()> {
        let request = altering(resource, name, changes, validate_only);
        let answer =
            self.call_controller(&request, |a| a.responses.first().map_or(0, |r| r.error_code)).await?;
        altered(&answer, name)
    }

    /// Has a broker's listeners advertise other addresses, `NAME://HOST:PORT,...`, or those it started with (None). Whoever answers is
    /// asked: the address that the metadata names may be the one that nobody can reach.
    pub async fn advertise(&self, broker: i32, addresses: Option<&str>) -> Result<()> {
        let (name, changes) = (broker.to_string(), [(ADVERTISED.to_owned(), addresses.map(str::to_owned))]);
        let request = altering(ResourceType::Broker, &name, &changes, false);
        let code = |a: &IncrementalAlterConfigsResponse| a.responses.first().map_or(0, |r| r.error_code);
        altered(&self.call_any_until(&request, code).await?, &name)
    }

    /// Registered brokers and the controller. Brokers that are down are in it where the broker can tell (v2).
    pub async fn describe_cluster(&self) -> Result<ClusterInfo> {
        // Fields of later versions must be at their default for earlier ones; the second try is for those.
        let request =
            DescribeClusterRequest::default().with_endpoint_type(1).with_include_fenced_brokers(true);
        let answer = match self.call_any(&request, i16::MAX).await {
            Err(Error::Invalid(_)) => self.call_any(&DescribeClusterRequest::default(), i16::MAX).await?,
            other => other?,
        };
        Error::check(answer.error_code, answer.error_message.as_deref(), || "cluster".into())?;
        let drains = answer.brokers.iter().filter_map(|b| Some((b.broker_id.0, Drain::of(b)?))).collect();
        let gone = answer.unknown_tagged_fields.get(&GONE_TAG).map_or(Vec::new(), |ids| {
            ids.chunks_exact(4).map(|id| i32::from_be_bytes([id[0], id[1], id[2], id[3]])).collect()
        });
        let brokers = answer
            .brokers
            .into_iter()
            .map(|b| {
                let rack = b.rack.map(|r| r.to_string());
                (Broker { id: b.broker_id.0, host: b.host.to_string(), port: b.port, rack }, b.is_fenced)
            })
            .collect();
        Ok(ClusterInfo {
            id: answer.cluster_id.to_string(),
            controller: answer.controller_id.0,
            brokers,
            drains,
            gone,
        })
    }
}
