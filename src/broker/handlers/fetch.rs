//! Fetch (1): committed batches, handed from the log to the socket without a copy.
//!
//! Not here: what may be read and when to wait (the partition), what a session remembers (`fetch_sessions`), laying out the response
//! (`wire::fetch`).
//!
//! Invariants
//! - Rows stand in the order of the request, those of a session in the session's; an incremental answer leaves rows out (KIP-227).
//! - Whatever is left out or told is settled last, when all rows are as they go out, so that a session never knows what its client was not told.
//! - No batch leaves before its check has passed; a check that may touch the disk runs off the executor. A damaged
//!   partition answers KAFKA_STORAGE_ERROR and no data.
//! - A replica id in the request gives no right to anything: followers use the peer protocol.
//! - A consumer is sent to a replica in its own rack (KIP-392) only by the leader, and only to one in sync; the row then has no records,
//!   and the answer does not wait. A replica that lags serves what it has: what is read there is a prefix of the same log.

use super::{Hints, decode};
use crate::broker::api::{FetchItem, FetchLimits, Fetched, NodeHandle, PartitionError, PartitionState};
use crate::broker::config::NodeConfig;
use crate::broker::dispatch::{Answer, Outcome, Session, Work};
use crate::broker::error::{self, CloseReason, code};
use crate::broker::fetch_sessions::{Asked, Opened, Opening, PartitionKey, SessionError, Told, TopicKey};
use crate::ctl::image::{Broker, Image, Topic};
use crate::segment::{FrameCheck, GroupId, NodeId};
use crate::wire::fetch::{self, FetchPartition, FetchResponse, FetchTopic};
use crate::wire::frame::Request;
use kafka_protocol::messages::{FetchRequest, TopicName};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

const KEY: i16 = 1;
/// `isolation.level` read_committed.
const READ_COMMITTED: i8 = 1;
/// From here on topics are named by id.
const TOPIC_IDS: i16 = 13;
/// From here on answers say where leaders can be reached.
const ENDPOINTS: i16 = 16;

/// The rows of an answer as far as they are known, and what is still to be read.
struct Plan {
    /// One for each partition that is asked for.
    rows: Vec<FetchPartition>,
    items: Vec<FetchItem>,
    /// Row of each item.
    places: Vec<usize>,
    limits: FetchLimits,
}

/// Starts a Fetch.
pub fn start(session: &mut Session, request: Request) -> Result<Work, CloseReason> {
    let Request { api_version: version, correlation_id, body, .. } = request;
    let request: FetchRequest = decode(body.freeze(), KEY, version)?;
    let node = session.node.clone();
    let opened = match node.open_fetch(opening(&request, version)) {
        Ok(opened) => opened,
        Err(error) => return Ok(Box::pin(std::future::ready(refused(error, version, correlation_id)))),
    };
    let config = node.config();
    let plan = plan(&request, &opened.asked, &node.image(), config.fetch_max_bytes);
    let rack = rack_elsewhere(&request, &config);
    Ok(Box::pin(run(node, session.client.listener.clone(), opened, plan, rack, version, correlation_id)))
}

/// What a request says of sessions; before v7 it wants none, by the defaults of the codec.
fn opening(request: &FetchRequest, version: i16) -> Opening {
    let by_id = version >= TOPIC_IDS;
    let key = |name: &TopicName, id: Uuid| {
        if by_id { TopicKey::Id(id) } else { TopicKey::Name(name.as_str().into()) }
    };
    let count = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let mut asked = Vec::with_capacity(count);
    for topic in &request.topics {
        let topic_key = key(&topic.topic, topic.topic_id);
        asked.extend(topic.partitions.iter().map(|one| Asked {
            key: PartitionKey { topic: topic_key.clone(), partition: one.partition },
            offset: one.fetch_offset,
            max_bytes: one.partition_max_bytes,
            current_leader_epoch: one.current_leader_epoch,
            last_fetched_epoch: one.last_fetched_epoch,
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let topic_key = key(&topic.topic, topic.topic_id);
        let keys = topic.partitions.iter();
        forgotten.extend(keys.map(|one| PartitionKey { topic: topic_key.clone(), partition: *one }));
    }
    let (session_id, epoch) = (request.session_id, request.session_epoch);
    Opening { session_id, epoch, by_id, asked, forgotten }
}

/// A response that is nothing but an error.
fn refused(error: SessionError, version: i16, correlation_id: i32) -> Outcome {
    let response = FetchResponse { error_code: error::fetch_session(error), ..FetchResponse::default() };
    Ok(Answer::Slices(fetch::encode(response, version, correlation_id)))
}

async fn run(
    node: NodeHandle,
    listener: Arc<str>,
    opened: Opened,
    mut plan: Plan,
    rack: Option<String>,
    version: i16,
    correlation_id: i32,
) -> Outcome {
    if let Some(rack) = rack {
        send_nearer(&node, &mut plan, (&rack, &listener)).await;
    }
    let Plan { mut rows, items, places, limits } = plan;
    let mut hints = Hints::default();
    if !items.is_empty() {
        let mut results = tokio::select! {
            results = node.fetch(items, limits) => results,
            () = opened.overtaken() => {
                return refused(SessionError::InvalidEpoch, version, correlation_id);
            }
        };
        verify(&mut results).await;
        settle(&mut rows, &places, results, version, &mut hints);
    }
    let mut response = match close(&node, opened, rows) {
        Ok(response) => response,
        Err(error) => return refused(error, version, correlation_id),
    };
    if version >= ENDPOINTS && !hints.is_empty() {
        response.endpoints = hints.endpoints(&node.image(), &listener);
    }
    Ok(Answer::Slices(fetch::encode(response, version, correlation_id)))
}

/// The answer: of a session, what its client does not know yet.
fn close(
    node: &NodeHandle,
    opened: Opened,
    rows: Vec<FetchPartition>,
) -> Result<FetchResponse, SessionError> {
    if opened.is_sessionless() {
        return Ok(FetchResponse { topics: topics(opened.asked, rows, None), ..FetchResponse::default() });
    }
    let told: Vec<Told> = rows.iter().map(told).collect();
    let settled = node.settle_fetch(&opened, &told)?;
    let topics = topics(opened.asked, rows, settled.kept.as_deref());
    Ok(FetchResponse { session_id: settled.session_id, topics, ..FetchResponse::default() })
}

/// What a row says.
fn told(row: &FetchPartition) -> Told {
    Told {
        high_watermark: row.high_watermark,
        log_start: row.log_start_offset,
        has_records: !row.records.is_empty(),
        has_error: row.error_code != code::NONE,
        has_hint: row.preferred_read_replica >= 0 || row.diverging_epoch.is_some(),
    }
}

/// Rows under their topics; neighbours of one topic share it.
fn topics(asked: Vec<Asked>, rows: Vec<FetchPartition>, kept: Option<&[bool]>) -> Vec<FetchTopic> {
    let mut topics: Vec<FetchTopic> = Vec::new();
    let mut last: Option<TopicKey> = None;
    let is_kept = |place: usize| kept.is_none_or(|kept| kept[place]);
    let rows = asked.into_iter().zip(rows).enumerate().filter(|(place, _)| is_kept(*place));
    for (_, (asked, row)) in rows {
        match topics.last_mut() {
            Some(topic) if last.as_ref() == Some(&asked.key.topic) => topic.partitions.push(row),
            _ => {
                let (name, topic_id) = match &asked.key.topic {
                    TopicKey::Name(name) => (name.to_string(), Uuid::nil()),
                    TopicKey::Id(id) => (String::new(), *id),
                };
                topics.push(FetchTopic { name, topic_id, partitions: vec![row] });
                last = Some(asked.key.topic);
            }
        }
    }
    topics
}

/// The rack of a consumer that may have a replica nearer than this broker.
fn rack_elsewhere(request: &FetchRequest, config: &NodeConfig) -> Option<String> {
    let rack = request.rack_id.as_str();
    let is_elsewhere = !rack.is_empty() && config.rack.as_deref() != Some(rack);
    (config.is_rack_aware && is_elsewhere).then(|| rack.to_owned())
}

/// Names a replica in the consumer's rack where this node leads and one there is in sync; of these nothing is read here.
async fn send_nearer(node: &NodeHandle, plan: &mut Plan, near: (&str, &str)) {
    let image = node.image();
    let there = |item: &FetchItem| nodes_in_rack(&image, item.group, near);
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
            let nodes = nodes_in_rack(&image, group, near);
            nearest(node.node_id(), &nodes, &state).map(|nearest| (group, nearest))
        })
        .collect();
    redirect(plan, &chosen);
}

/// Live brokers of a rack that hold a replica of a group, and have the client's listener.
fn nodes_in_rack(image: &Image, group: GroupId, (rack, listener): (&str, &str)) -> Vec<NodeId> {
    let partition = image
        .groups
        .get(&group)
        .and_then(|(topic, index)| image.topic_by_id(*topic)?.partitions.get(usize::try_from(*index).ok()?));
    let is_there = |node: &NodeId| {
        let has =
            |broker: &Broker| broker.rack.as_deref() == Some(rack) && broker.listener(listener).is_some();
        image.brokers.get(node).is_some_and(|broker| !broker.fenced && has(broker))
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
    for (item, place) in asked {
        match chosen.get(&item.group) {
            Some(node) => plan.rows[place].preferred_read_replica = node.0,
            None => {
                plan.items.push(item);
                plan.places.push(place);
            }
        }
    }
}

/// Finds the partitions. Those that are unknown do not hurry the others: told each time and at once, a topic that is deleted would make a client that
/// does not know yet ask again and again without a pause. Kafka waits for the others too; where there are none it answers at once. `most`: bytes that no answer exceeds, whatever the client
/// asks, but by its first batch.
fn plan(request: &FetchRequest, asked: &[Asked], image: &Image, most: usize) -> Plan {
    let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
    let max_bytes = size(request.max_bytes).min(most);
    let limits = FetchLimits {
        min_bytes: size(request.min_bytes).min(max_bytes),
        max_bytes,
        max_wait_ms: u64::try_from(request.max_wait_ms).unwrap_or(0),
    };
    let rows = Vec::with_capacity(asked.len());
    let mut plan = Plan { rows, items: Vec::new(), places: Vec::new(), limits };
    let read_committed = request.isolation_level == READ_COMMITTED;
    let mut last: Option<(&TopicKey, Option<&Topic>)> = None;
    for one in asked {
        let topic = match last {
            Some((key, topic)) if *key == one.key.topic => topic,
            _ => resolve(image, &one.key.topic),
        };
        last = Some((&one.key.topic, topic));
        let mut row = empty_row(one.key.partition, read_committed);
        match topic.map(|topic| group_of(topic, one.key.partition)) {
            Some(Some(group)) => {
                plan.items.push(item(group, one));
                plan.places.push(plan.rows.len());
            }
            missing => {
                row.error_code = match one.key.topic {
                    TopicKey::Id(_) if missing.is_none() => code::UNKNOWN_TOPIC_ID,
                    _ => code::UNKNOWN_TOPIC_OR_PARTITION,
                };
            }
        }
        plan.rows.push(row);
    }
    plan
}

/// The topic, if it exists. Of one that was deleted and made anew the name finds the new one, the id neither.
fn resolve<'a>(image: &'a Image, key: &TopicKey) -> Option<&'a Topic> {
    match key {
        TopicKey::Name(name) => image.topics.get(&**name),
        TopicKey::Id(id) => image.topic_by_id(*id),
    }
}

fn group_of(topic: &Topic, partition: i32) -> Option<GroupId> {
    Some(topic.partitions.get(usize::try_from(partition).ok()?)?.group)
}

fn item(group: GroupId, asked: &Asked) -> FetchItem {
    FetchItem {
        group,
        offset: asked.offset,
        max_bytes: usize::try_from(asked.max_bytes).unwrap_or(0),
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
    rows: &mut [FetchPartition],
    places: &[usize],
    results: Vec<Fetched>,
    version: i16,
    hints: &mut Hints,
) {
    debug_assert_eq!(places.len(), results.len(), "one result per item");
    for (&place, fetched) in places.iter().zip(results) {
        let row = &mut rows[place];
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
