//! Fetch (1): committed batches, handed from the log to the socket without a copy.
//!
//! Not here: what may be read and when to wait (the partition), laying out the response (`wire::fetch`).
//!
//! Invariants
//! - Rows stand in the order of the request. Sessions are never handed out: the session id is always 0 (KIP-227 allows
//!   it), so every request is a full one and forgotten topics mean nothing.
//! - No batch leaves before its check has passed; a check that may touch the disk runs off the executor. A damaged
//!   partition answers KAFKA_STORAGE_ERROR and no data.
//! - A replica id in the request gives no right to anything: followers use the peer protocol.
//! - A consumer is sent to a replica in its own rack (KIP-392) only by the leader, and only to one in sync; the row then has no records,
//!   and the answer does not wait. A replica that lags serves what it has: what is read there is a prefix of the same log.

use super::{Hints, decode, group_of};
use crate::broker::api::{FetchItem, FetchLimits, Fetched, NodeHandle, PartitionError, PartitionState};
use crate::broker::config::NodeConfig;
use crate::broker::dispatch::{Answer, Outcome, Session, Work};
use crate::broker::error::{self, CloseReason, code};
use crate::ctl::image::Image;
use crate::segment::{FrameCheck, GroupId, NodeId};
use crate::wire::fetch::{self, FetchPartition, FetchResponse, FetchTopic};
use crate::wire::frame::Request;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition as AskedPartition, FetchTopic as AskedTopic};
use std::collections::HashMap;

const KEY: i16 = 1;
/// `fetch.max.bytes` of Kafka's brokers: no response is larger, whatever the client asks.
const MAX_BYTES: usize = 55 * 1024 * 1024;
/// `isolation.level` read_committed.
const READ_COMMITTED: i8 = 1;

/// The response as far as it is known, and what is still to be read.
struct Plan {
    response: FetchResponse,
    items: Vec<FetchItem>,
    /// Row (topic, partition) of each item.
    places: Vec<(usize, usize)>,
    limits: FetchLimits,
}

/// Starts a Fetch.
pub fn start(session: &mut Session, request: Request) -> Result<Work, CloseReason> {
    let Request { api_version: version, correlation_id, body, .. } = request;
    let request: FetchRequest = decode(body.freeze(), KEY, version)?;
    let plan = match session_error(&request) {
        None => plan(&request, &session.node.image(), version),
        Some(error_code) => refused(error_code),
    };
    let node = session.node.clone();
    let rack = rack_elsewhere(&request, &node.config());
    Ok(Box::pin(run(node, plan, rack, version, correlation_id)))
}

async fn run(
    node: NodeHandle,
    mut plan: Plan,
    rack: Option<String>,
    version: i16,
    correlation_id: i32,
) -> Outcome {
    if let Some(rack) = rack {
        send_nearer(&node, &mut plan, &rack).await;
    }
    let Plan { mut response, items, places, limits } = plan;
    if !items.is_empty() {
        let mut results = node.fetch(items, limits).await;
        verify(&mut results).await;
        let mut hints = Hints::default();
        settle(&mut response, &places, results, version, &mut hints);
        if version >= 16 && !hints.is_empty() {
            response.endpoints = hints.endpoints(&node.image());
        }
    }
    Ok(Answer::Slices(fetch::encode(response, version, correlation_id)))
}

/// The rack of a consumer that may have a replica nearer than this broker.
fn rack_elsewhere(request: &FetchRequest, config: &NodeConfig) -> Option<String> {
    let rack = request.rack_id.as_str();
    let is_elsewhere = !rack.is_empty() && config.rack.as_deref() != Some(rack);
    (config.is_rack_aware && is_elsewhere).then(|| rack.to_owned())
}

/// Names a replica in the consumer's rack where this node leads and one there is in sync; of these nothing is read here.
async fn send_nearer(node: &NodeHandle, plan: &mut Plan, rack: &str) {
    let image = node.image();
    let there = |item: &FetchItem| nodes_in_rack(&image, item.group, rack);
    let groups: Vec<GroupId> =
        plan.items.iter().filter(|item| !there(item).is_empty()).map(|item| item.group).collect();
    if groups.is_empty() {
        return;
    }
    let states = node.partition_states(&groups).await;
    let chosen: HashMap<GroupId, NodeId> = groups
        .into_iter()
        .zip(states)
        .filter_map(|(group, state)| {
            let nodes = nodes_in_rack(&image, group, rack);
            nearest(node.node_id(), &nodes, &state).map(|nearest| (group, nearest))
        })
        .collect();
    redirect(plan, &chosen);
}

/// Live brokers of a rack that hold a replica of a group.
fn nodes_in_rack(image: &Image, group: GroupId, rack: &str) -> Vec<NodeId> {
    let partition = image
        .groups
        .get(&group)
        .and_then(|(topic, index)| image.topic_by_id(*topic)?.partitions.get(usize::try_from(*index).ok()?));
    let is_there = |node: &NodeId| {
        image.brokers.get(node).is_some_and(|broker| !broker.fenced && broker.rack.as_deref() == Some(rack))
    };
    let replicas = partition.map_or(&[][..], |partition| &partition.replicas);
    replicas.iter().map(|replica| replica.node).filter(is_there).collect()
}

/// Whom of these a leader sends a consumer to. Which one does not matter, as long as it stays the same one.
fn nearest(me: NodeId, nodes: &[NodeId], state: &PartitionState) -> Option<NodeId> {
    let leads = state.leader.is_some_and(|leader| leader.node == me);
    nodes.iter().copied().filter(|node| leads && *node != me && state.in_sync.contains(node)).min()
}

/// Takes partitions out of what is read here, and answers at once.
fn redirect(plan: &mut Plan, chosen: &HashMap<GroupId, NodeId>) {
    if chosen.is_empty() {
        return;
    }
    plan.limits.max_wait_ms = 0;
    let asked = std::mem::take(&mut plan.items).into_iter().zip(std::mem::take(&mut plan.places));
    for (item, (topic, partition)) in asked {
        match chosen.get(&item.group) {
            Some(node) => {
                plan.response.topics[topic].partitions[partition].preferred_read_replica = node.0;
            }
            None => {
                plan.items.push(item);
                plan.places.push((topic, partition));
            }
        }
    }
}

/// A request that continues a session we never gave out (epoch 0 and -1 mean a full fetch without one).
fn session_error(request: &FetchRequest) -> Option<i16> {
    if request.session_id != 0 {
        Some(code::FETCH_SESSION_ID_NOT_FOUND)
    } else if request.session_epoch > 0 {
        Some(code::INVALID_FETCH_SESSION_EPOCH)
    } else {
        None
    }
}

/// A response that is nothing but an error.
fn refused(error_code: i16) -> Plan {
    let response = FetchResponse { error_code, ..FetchResponse::default() };
    let limits = FetchLimits { min_bytes: 0, max_bytes: 0, max_wait_ms: 0 };
    Plan { response, items: Vec::new(), places: Vec::new(), limits }
}

/// Finds the partitions; those that are unknown make the fetch return at once.
fn plan(request: &FetchRequest, image: &Image, version: i16) -> Plan {
    let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
    let max_bytes = size(request.max_bytes).min(MAX_BYTES);
    let limits = FetchLimits {
        min_bytes: size(request.min_bytes).min(max_bytes),
        max_bytes,
        max_wait_ms: u64::try_from(request.max_wait_ms).unwrap_or(0),
    };
    let mut plan = Plan { response: FetchResponse::default(), items: Vec::new(), places: Vec::new(), limits };
    plan.response.topics.reserve_exact(request.topics.len());
    let read_committed = request.isolation_level == READ_COMMITTED;
    let mut failed = false;
    for (place, topic) in request.topics.iter().enumerate() {
        let (name, unknown) = resolve(image, topic, version);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let mut row = empty_row(asked.partition, read_committed);
            match name.and_then(|name| group_of(image, name, asked.partition)) {
                Some(group) => {
                    plan.items.push(item(group, asked));
                    plan.places.push((place, partitions.len()));
                }
                None => {
                    row.error_code = if name.is_some() { code::UNKNOWN_TOPIC_OR_PARTITION } else { unknown };
                    failed = true;
                }
            }
            partitions.push(row);
        }
        let name = if version >= 13 { String::new() } else { topic.topic.as_str().to_owned() };
        plan.response.topics.push(FetchTopic { name, topic_id: topic.topic_id, partitions });
    }
    if failed {
        plan.limits.max_wait_ms = 0;
    }
    plan
}

/// Name of the topic, if it exists, and the code if it does not.
fn resolve<'a>(image: &'a Image, topic: &'a AskedTopic, version: i16) -> (Option<&'a str>, i16) {
    if version >= 13 {
        let found = image.topic_by_id(topic.topic_id).map(|topic| topic.name.as_str());
        return (found, code::UNKNOWN_TOPIC_ID);
    }
    let name = topic.topic.as_str();
    (image.topics.contains_key(name).then_some(name), code::UNKNOWN_TOPIC_OR_PARTITION)
}

fn item(group: GroupId, asked: &AskedPartition) -> FetchItem {
    FetchItem {
        group,
        offset: asked.fetch_offset,
        max_bytes: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
        current_leader_epoch: asked.current_leader_epoch,
        last_fetched_epoch: asked.last_fetched_epoch,
    }
}

/// A row without data. With read_committed the list of aborted transactions must not be null, even when empty.
fn empty_row(index: i32, read_committed: bool) -> FetchPartition {
    FetchPartition {
        index,
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        aborted: read_committed.then(Vec::new),
        preferred_read_replica: -1,
        ..FetchPartition::default()
    }
}

/// Checks what comes unchecked from a segment map: at once where the pages are in memory, else off the executor.
async fn verify(results: &mut [Fetched]) {
    let mut cold: Vec<(usize, FrameCheck)> = Vec::new();
    for (place, fetched) in results.iter_mut().enumerate() {
        let mut damaged = None;
        for check in fetched.checks.drain(..).flatten() {
            if !check.is_resident() {
                cold.push((place, check));
            } else if let Err(error) = check.verify() {
                damaged = Some(error.to_string());
            }
        }
        if let Some(text) = damaged {
            withhold(fetched, text);
        }
    }
    if cold.is_empty() {
        return;
    }
    let verified = tokio::task::spawn_blocking(move || {
        let verify =
            |(place, check): (usize, FrameCheck)| check.verify().err().map(|e| (place, e.to_string()));
        cold.into_iter().filter_map(verify).collect::<Vec<_>>()
    });
    match verified.await {
        Ok(damaged) => damaged.into_iter().for_each(|(place, text)| withhold(&mut results[place], text)),
        // The check itself failed; unchecked bytes never leave.
        Err(error) => results.iter_mut().for_each(|fetched| withhold(fetched, error.to_string())),
    }
}

/// Takes a damaged partition's data out of the response.
fn withhold(fetched: &mut Fetched, text: String) {
    if fetched.batches.is_empty() {
        return;
    }
    tracing::error!(reason = text, "damaged record batch withheld");
    fetched.batches.clear();
    fetched.error = Some(PartitionError::Storage(text));
}

/// Writes the node's results into their rows.
fn settle(
    response: &mut FetchResponse,
    places: &[(usize, usize)],
    results: Vec<Fetched>,
    version: i16,
    hints: &mut Hints,
) {
    debug_assert_eq!(places.len(), results.len(), "one result per item");
    for (&(topic, partition), fetched) in places.iter().zip(results) {
        let row = &mut response.topics[topic].partitions[partition];
        row.high_watermark = fetched.high_watermark;
        // No transactions: whatever is committed is stable.
        row.last_stable_offset = fetched.high_watermark;
        row.log_start_offset = fetched.log_start_offset;
        row.diverging_epoch = fetched.diverging_epoch;
        row.records = fetched.batches;
        if let Some(failure) = fetched.error {
            row.error_code = error::fetch(&failure);
            row.records.clear();
            if version >= 12 {
                row.current_leader = hints.note(error::leader_hint(&failure));
            }
            // Java resets consumers by these; without an end they would be nonsense.
            if let PartitionError::OutOfRange { start, end, .. } = failure
                && row.high_watermark < 0
            {
                (row.high_watermark, row.last_stable_offset, row.log_start_offset) = (end, end, start);
            }
        }
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
