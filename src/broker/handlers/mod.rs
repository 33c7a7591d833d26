//! One file per Kafka API: decode, check, ask the node, encode.
//!
//! Not here: business rules (`ctl` decides on topics and configurations, partitions on appends and reads), error codes
//! (`error`). Called by `dispatch` alone.
//! Invariants: a handler holds no state beyond its call; one await on the node per request where that is possible; rows
//! of a response stand in the order of the request.

pub mod alter_configs;
pub mod alter_partition_reassignments;
mod altering;
pub mod api_versions;
pub(super) mod coordinator;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_client_quotas;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod elect_leaders;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;
pub mod unregister_broker;
pub mod update_features;

use super::api::{LeaderHint, NodeHandle};
use super::config::NodeConfig;
use super::dispatch::{Answer, Client, Outcome};
use super::error::CloseReason;
use crate::ctl::command::Error as ControllerError;
use crate::ctl::image::Image;
use crate::ctl::names;
use crate::segment::{GroupId, NodeId};
use crate::wire::frame::{self, Request};
use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Shortest and longest time an admin request waits, whatever it says.
const ADMIN_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=120_000;

/// One request of an ordinary API, header taken off.
pub struct Call {
    /// The node that serves it.
    pub node: NodeHandle,
    /// Its configuration.
    pub config: Arc<NodeConfig>,
    /// Version of the request, within the served range.
    pub version: i16,
    /// What the client calls itself.
    pub client_id: Option<String>,
    /// Where it connected from, and to.
    pub client: Client,
    key: i16,
    correlation_id: i32,
    body: Bytes,
}

impl Call {
    /// A call from a request.
    pub fn new(node: NodeHandle, config: Arc<NodeConfig>, client: Client, request: Request) -> Self {
        Self {
            node,
            config,
            version: request.api_version,
            client_id: request.client_id,
            client,
            key: request.api_key,
            correlation_id: request.correlation_id,
            body: request.body.freeze(),
        }
    }

    /// Decodes the body; strings stay slices of the frame.
    pub fn decode<T: Decodable>(&mut self) -> Result<T, CloseReason> {
        decode(std::mem::take(&mut self.body), self.key, self.version)
    }

    /// Encodes the response.
    pub fn respond<T: Encodable>(&self, response: &T) -> Outcome {
        encode(response, self.key, self.version, self.correlation_id)
    }
}

/// One command per row; a row whose key stands in the request more than once is refused, as in Kafka.
fn commands<R, K: Eq + Hash, C>(
    rows: &[R],
    key: impl Fn(&R) -> K,
    command: impl Fn(&R) -> Result<C, ControllerError>,
) -> Vec<Result<C, ControllerError>> {
    let mut counts: HashMap<K, usize> = HashMap::with_capacity(rows.len());
    for row in rows {
        *counts.entry(key(row)).or_default() += 1;
    }
    let refusal = || ControllerError::InvalidRequest("named more than once in the request".to_owned());
    rows.iter().map(|row| if counts[&key(row)] > 1 { Err(refusal()) } else { command(row) }).collect()
}

/// Decodes a body whose counts have been checked (`wire::bounds`).
fn decode<T: Decodable>(mut body: Bytes, key: i16, version: i16) -> Result<T, CloseReason> {
    T::decode(&mut body, version).map_err(|error| CloseReason::Decode {
        key,
        version,
        text: error.to_string(),
    })
}

/// Encodes a response frame.
fn encode<T: Encodable>(response: &T, key: i16, version: i16, correlation_id: i32) -> Outcome {
    let mut body = BytesMut::with_capacity(512);
    match response.encode(&mut body, version) {
        Ok(()) => Ok(Answer::Frame(frame::respond(key, version, correlation_id, &body))),
        Err(error) => Err(CloseReason::Encode { key, version, text: error.to_string() }),
    }
}

/// Runs all futures beside each other; results in the order given. Dropping it drops them all.
async fn join_all<T, F>(work: Vec<F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    if work.len() == 1 {
        let mut results = Vec::with_capacity(1);
        for one in work {
            results.push(one.await);
        }
        return results;
    }
    let mut results: Vec<Option<T>> = work.iter().map(|_| None).collect();
    let mut tasks = JoinSet::new();
    for (place, one) in work.into_iter().enumerate() {
        tasks.spawn(async move { (place, one.await) });
    }
    while let Some(finished) = tasks.join_next().await {
        match finished {
            Ok((place, result)) => results[place] = Some(result),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only dropping the set cancels its tasks, and that drops this future too.
            Err(_) => {}
        }
    }
    results.into_iter().flatten().collect()
}

/// A string of ours on the wire.
fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// Time an admin request may take.
fn admin_timeout(timeout_ms: i32) -> u64 {
    let asked = u64::try_from(timeout_ms).unwrap_or(0);
    asked.clamp(*ADMIN_TIMEOUT_MS.start(), *ADMIN_TIMEOUT_MS.end())
}

/// Whether a topic could have this name.
fn is_valid_topic(name: &str) -> bool {
    names::validate(name).is_ok()
}

/// Group of a partition.
fn group_of(image: &Image, topic: &str, partition: i32) -> Option<GroupId> {
    let topic = image.topics.get(topic)?;
    Some(topic.partitions.get(usize::try_from(partition).ok()?)?.group)
}

/// The broker that clients are told to send admin requests to: any live one forwards, so best the one they talk to.
fn controller_id(image: &Image, node: NodeId, listener: &str) -> i32 {
    let listed = image.live_brokers().filter(|broker| broker.listener(listener).is_some());
    let mut live = listed.map(|broker| broker.node);
    let first = live.next();
    if first == Some(node) || live.any(|id| id == node) { node.0 } else { first.map_or(-1, |id| id.0) }
}

/// Node id, host, port and rack of a leader named in a response.
type NodeEndpoint = (i32, String, i32, Option<String>);

/// Collects the leaders that a response names (KIP-951), each once.
#[derive(Default)]
struct Hints {
    nodes: Vec<NodeId>,
}

impl Hints {
    /// Notes a leader; answers what stands in the partition's row.
    fn note(&mut self, hint: Option<LeaderHint>) -> Option<(i32, i32)> {
        let LeaderHint { node, epoch } = hint?;
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
        Some((node.0, epoch))
    }

    fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where the noted leaders can be reached by clients of a listener.
    fn endpoints(&self, image: &Image, listener: &str) -> Vec<NodeEndpoint> {
        let endpoint = |id: &NodeId| {
            let (broker, at) = (image.brokers.get(id)?, image.advertised(*id, listener)?);
            Some((id.0, at.host, i32::from(at.port), broker.rack.clone()))
        };
        self.nodes.iter().filter_map(endpoint).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
