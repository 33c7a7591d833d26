//! Produce (0): batches checked in place and handed to their partitions.
//!
//! Not here: taking the request apart (`wire::produce`), checking a batch (`wire::batch`), sequences and offsets (the
//! partition). Produce never creates a topic; Metadata does.
//!
//! Invariants
//! - Requests of one connection reach the node in arrival order: each holds the connection's turnstile until it has its
//!   place in the node's queue. Checking a batch never waits.
//! - acks=0 is never answered; if anything failed, the connection is closed, as in Kafka.
//! - A row that fails names no offset; its neighbours are appended all the same.

use super::Hints;
use crate::broker::api::{NodeHandle, PartitionError, ProduceItem, Produced};
use crate::broker::compaction::RECORDS_LIMIT;
use crate::broker::dispatch::{Answer, Outcome, Session, Work};
use crate::broker::error::{self, CloseReason, code};
use crate::ctl::command::Defaults;
use crate::ctl::image::{Image, Topic};
use crate::wire::batch::{self, BatchRules};
use crate::wire::compression::CompressionError;
use crate::wire::frame::Request;
use crate::wire::produce::{
    self, ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse,
};
use crate::wire::record::{RecordError, Records, retain};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The one client that Kafka lets write to internal topics.
const ADMIN_CLIENT: &str = "__admin_client";
/// Records of a refused batch that are named one by one.
const RECORD_ERRORS: usize = 100;

/// What a topic allows, read from its configuration once per image.
#[derive(Clone, Copy, Debug)]
pub struct TopicRules {
    max_message_bytes: usize,
    before_max_ms: i64,
    after_max_ms: i64,
    log_append_time: bool,
    min_insync: i32,
    compacts: bool,
}

/// Rules of the topics one connection produces to; parsing a configuration for every batch would cost more than the
/// checks themselves.
#[derive(Debug, Default)]
pub struct Rules {
    applied: u64,
    topics: HashMap<Uuid, TopicRules>,
}

impl Rules {
    fn of(&mut self, image: &Image, topic: &Topic, defaults: &Defaults) -> TopicRules {
        if self.applied != image.applied {
            self.applied = image.applied;
            self.topics.clear();
        }
        *self.topics.entry(topic.id).or_insert_with(|| {
            let config = image.topic_config(topic, defaults);
            TopicRules {
                max_message_bytes: config.max_message_bytes,
                before_max_ms: config.timestamp_before_max_ms,
                after_max_ms: config.timestamp_after_max_ms,
                log_append_time: config.log_append_time,
                min_insync: config.min_insync_replicas,
                compacts: config.compacts,
            }
        })
    }
}

/// What the request says that matters to every partition.
#[derive(Clone, Copy)]
struct Terms<'a> {
    image: &'a Image,
    defaults: &'a Defaults,
    version: i16,
    now_ms: i64,
    /// Refuses every partition.
    refusal: Option<(i16, &'static str)>,
    may_write_internal: bool,
}

/// The response as far as it is known, and what is still to be appended.
struct Plan {
    response: ProduceResponse,
    items: Vec<ProduceItem>,
    /// Row (topic, partition) of each item.
    places: Vec<(usize, usize)>,
}

/// Checks a Produce request and starts its appends.
pub fn start(session: &mut Session, request: Request) -> Result<Work, CloseReason> {
    let Request { api_version: version, correlation_id, client_id, body, .. } = request;
    let request = produce::decode(body, version)?;
    let (acks, timeout_ms) = (request.acks, u64::try_from(request.timeout_ms).unwrap_or(0));
    let plan = {
        let image = session.node.image();
        let terms = Terms {
            image: &image,
            defaults: &session.config.defaults,
            version,
            now_ms: now_ms(),
            refusal: refusal(&request),
            may_write_internal: client_id.as_deref() == Some(ADMIN_CLIENT),
        };
        plan(request, terms, &mut session.rules)
    };
    let (node, listener) = (session.node.clone(), session.client.listener.clone());
    let turn = session.turnstile.enter();
    Ok(Box::pin(async move {
        let Plan { mut response, items, places } = plan;
        let mut hints = Hints::default();
        if !items.is_empty() {
            let submitted = node.submit(items, acks, timeout_ms).await;
            // The connection may start its next request.
            drop(turn);
            let results = submitted.results().await;
            settle(&mut response, &places, results, &mut hints);
        }
        finish(response, hints, (&node, &listener), acks, version, correlation_id)
    }))
}

/// Why the whole request is refused, if it is.
fn refusal(request: &ProduceRequest) -> Option<(i16, &'static str)> {
    if !(-1..=1).contains(&request.acks) {
        return Some((code::INVALID_REQUIRED_ACKS, "acks must be 0, 1 or -1"));
    }
    // Transactions are not built: there is no transaction that these records could belong to.
    request.transactional_id.as_ref().map(|_| (code::INVALID_TXN_STATE, "transactions are not supported"))
}

/// Checks every partition; what passes becomes an item.
fn plan(request: ProduceRequest, terms: Terms<'_>, rules: &mut Rules) -> Plan {
    let topics = Vec::with_capacity(request.topics.len());
    let response = ProduceResponse { topics, ..ProduceResponse::default() };
    let mut plan = Plan { response, items: Vec::new(), places: Vec::new() };
    for (place, topic) in request.topics.into_iter().enumerate() {
        let row = plan_topic(topic, place, terms, rules, &mut plan);
        plan.response.topics.push(row);
    }
    plan
}

fn plan_topic(
    topic: ProduceTopic,
    place: usize,
    terms: Terms<'_>,
    rules: &mut Rules,
    plan: &mut Plan,
) -> ProduceTopicResponse {
    let ProduceTopic { name, topic_id, partitions } = topic;
    let found = find(terms, &name, topic_id);
    let rules = found.as_ref().ok().map(|topic| rules.of(terms.image, topic, terms.defaults));
    let mut rows = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let mut row = ProducePartitionResponse {
            index: partition.index,
            base_offset: -1,
            log_append_time: -1,
            log_start_offset: -1,
            ..ProducePartitionResponse::default()
        };
        let checked = match (&found, &rules) {
            (Ok(topic), Some(rules)) => check(partition, topic, rules, terms),
            (Err(refusal), _) => Err(refusal_of(refusal.0, refusal.1)),
            (Ok(_), None) => Err(refusal_of(code::UNKNOWN_SERVER_ERROR, "")),
        };
        match checked {
            Ok(item) => {
                if item.header.log_append_time() {
                    row.log_append_time = item.header.max_timestamp;
                }
                plan.items.push(item);
                plan.places.push((place, rows.len()));
            }
            Err(refused) => {
                row.error_code = refused.code;
                row.error_message = Some(refused.message);
                row.record_errors = refused.records;
            }
        }
        rows.push(row);
    }
    ProduceTopicResponse { name, topic_id, partitions: rows }
}

/// The topic, by id from v13 on, unless it may not be written.
fn find<'a>(terms: Terms<'a>, name: &str, id: Uuid) -> Result<&'a Topic, (i16, &'static str)> {
    if let Some(refusal) = terms.refusal {
        return Err(refusal);
    }
    let topic = if terms.version >= 13 {
        terms.image.topic_by_id(id).ok_or((code::UNKNOWN_TOPIC_ID, "unknown topic id"))?
    } else {
        terms.image.topics.get(name).ok_or((code::UNKNOWN_TOPIC_OR_PARTITION, "unknown topic"))?
    };
    if topic.internal && !terms.may_write_internal {
        return Err((code::INVALID_TOPIC_EXCEPTION, "internal topics cannot be written"));
    }
    Ok(topic)
}

/// Why a partition's batch is refused.
struct Refused {
    code: i16,
    message: String,
    /// Records it is refused for.
    records: Vec<(i32, String)>,
}

fn refusal_of(code: i16, message: impl Into<String>) -> Refused {
    Refused { code, message: message.into(), records: Vec::new() }
}

/// Checks one partition's batch in place.
fn check(
    partition: ProducePartition,
    topic: &Topic,
    rules: &TopicRules,
    terms: Terms<'_>,
) -> Result<ProduceItem, Refused> {
    let known = usize::try_from(partition.index).ok().and_then(|index| topic.partitions.get(index));
    let known = known.ok_or_else(|| refusal_of(code::UNKNOWN_TOPIC_OR_PARTITION, "unknown partition"))?;
    let Some(mut batch) = partition.records.filter(|records| !records.is_empty()) else {
        return Err(refusal_of(code::INVALID_RECORD, "no record batch"));
    };
    let rules_of_batch = BatchRules {
        max_message_bytes: rules.max_message_bytes,
        produce_version: terms.version,
        before_max_ms: rules.before_max_ms,
        after_max_ms: rules.after_max_ms,
        now_ms: terms.now_ms,
        log_append_time: rules.log_append_time,
    };
    let header = batch::validate(&mut batch, &rules_of_batch)
        .map_err(|refusal| refusal_of(error::batch(&refusal), refusal.to_string()))?;
    if header.is_transactional() {
        return Err(refusal_of(code::INVALID_TXN_STATE, "transactions are not supported"));
    }
    if rules.compacts {
        check_keys(&batch, &topic.name, partition.index)?;
    }
    Ok(ProduceItem { group: known.group, batch, header, min_insync: rules.min_insync })
}

/// A compacted topic takes no record without a key (Kafka's `LogValidator`); this is the one place where the broker reads what a producer
/// sends. Nothing of a batch is taken if one record is refused.
fn check_keys(batch: &[u8], topic: &str, partition: i32) -> Result<(), Refused> {
    let (mut keyless, mut records) = (0, Vec::new());
    let read = retain::open(batch, RECORDS_LIMIT).and_then(|(header, plain)| {
        for (at, record) in Records::new(&header, &plain).enumerate() {
            if record?.key.is_none() {
                keyless += 1;
                if records.len() < RECORD_ERRORS {
                    let why = format!("Compacted topic cannot accept message without key in topic partition {topic}-{partition}.");
                    records.push((at as i32, why));
                }
            }
        }
        Ok(())
    });
    match read {
        Err(RecordError::Compression(CompressionError::TooLarge(_))) => {
            let message = format!("records are larger than {RECORDS_LIMIT} bytes when decompressed");
            Err(refusal_of(code::MESSAGE_TOO_LARGE, message))
        }
        Err(unreadable) => Err(refusal_of(code::INVALID_RECORD, unreadable.to_string())),
        Ok(()) if keyless > 0 => {
            let message = format!("{keyless} records without a key: {topic} is compacted");
            Err(Refused { code: code::INVALID_RECORD, message, records })
        }
        Ok(()) => Ok(()),
    }
}

/// Writes the node's results into their rows.
fn settle(
    response: &mut ProduceResponse,
    places: &[(usize, usize)],
    results: Vec<Result<Produced, PartitionError>>,
    hints: &mut Hints,
) {
    debug_assert_eq!(places.len(), results.len(), "one result per item");
    for (&(topic, partition), result) in places.iter().zip(results) {
        let row = &mut response.topics[topic].partitions[partition];
        match result {
            Ok(Produced { base_offset, log_start_offset }) => {
                row.base_offset = base_offset;
                row.log_start_offset = log_start_offset;
            }
            Err(failure) => {
                row.log_append_time = -1;
                row.error_code = error::partition(&failure);
                row.current_leader = hints.note(error::leader_hint(&failure));
                row.error_message = Some(failure.to_string());
            }
        }
    }
}

/// Encodes the response, or keeps silent for acks=0.
fn finish(
    mut response: ProduceResponse,
    hints: Hints,
    (node, listener): (&NodeHandle, &str),
    acks: i16,
    version: i16,
    correlation_id: i32,
) -> Outcome {
    if acks == 0 {
        let rows = response.topics.iter().flat_map(|topic| &topic.partitions);
        let failed = rows.map(|row| row.error_code).find(|&code| code != code::NONE);
        return failed.map_or(Ok(Answer::Silent), |code| Err(CloseReason::SilentProduce(code)));
    }
    if version >= 10 && !hints.is_empty() {
        response.endpoints = hints.endpoints(&node.image(), listener);
    }
    Ok(Answer::Frame(produce::encode(&response, version, correlation_id)))
}

/// Wall clock, for timestamp rules and LogAppendTime.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "produce_tests.rs"]
pub(crate) mod tests;
