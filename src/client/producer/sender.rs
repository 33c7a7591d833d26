//! The producer's one task: takes due batches, one request per leading broker, and hands each answer back.
//!
//! It never waits for a connection or an answer itself: dialling, metadata, producer ids and answers are small
//! tasks whose results come back through one set, so that a dead broker holds up nobody else's partitions.
//! Requests to one broker are queued by this task alone, hence in order.

use super::super::cluster::{Broker, Client, Purpose, topic_name};
use super::super::connection::{Connection, Reply};
use super::super::error::{Error, Result, is_stale_leader};
use super::Shared;
use super::accumulator::{Answer, Batch, Key};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Versions from 13 on name topics by id only.
const PRODUCE_BY_NAME: i16 = 12;
/// Pause before metadata is asked for again while partitions lack a leader.
const METADATA_PAUSE: Duration = Duration::from_millis(20);
/// Longest one between two attempts to connect to a broker.
const MAX_CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Batches of one request, with where they belong.
type Sent = Vec<(Key, Batch)>;

enum Event {
    Answered { broker: i32, sent: Sent, result: Result<Option<ProduceResponse>> },
    Connected { broker: i32, result: Result<()> },
    Refreshed,
    ProducerId(Result<(i64, i16)>),
}

#[derive(Default)]
struct State {
    tasks: JoinSet<Event>,
    in_flight: HashMap<i32, usize>,
    connecting: HashSet<i32>,
    /// Attempts in a row to connect to a broker that failed.
    failures: HashMap<i32, u32>,
    refreshing: bool,
    stale: bool,
    getting_id: bool,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut state = State::default();
    loop {
        let wake = state.turn(&shared);
        tokio::select! {
            () = shared.wake.notified() => {}
            Some(done) = state.tasks.join_next(), if !state.tasks.is_empty() => match done {
                Ok(event) => state.handle(&shared, event),
                Err(e) => shared.lock().fail_all(&Error::Invalid(format!("producer task: {e}")), Instant::now()),
            },
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

impl State {
    /// Sends what is due; answers when to look again if nothing happens.
    fn turn(&mut self, shared: &Arc<Shared>) -> Instant {
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        shared.lock().expire(now);
        if shared.lock().is_empty() {
            shared.idle.notify_waiters();
            return far;
        }
        if !self.getting_id && shared.lock().wants_producer_id() {
            self.getting_id = true;
            let client = shared.client.clone();
            self.tasks.spawn(async move { Event::ProducerId(init_producer_id(&client).await) });
        }
        let (ready, next) = shared.lock().ready(now);
        self.dispatch(shared, ready);
        if self.stale && !self.refreshing {
            self.start_refresh(shared);
        }
        let accumulator = shared.lock();
        if accumulator.is_empty() {
            // Requests without answer are done as soon as they are queued.
            shared.idle.notify_waiters();
        }
        [next, accumulator.next_expiry()].into_iter().flatten().fold(far, Instant::min)
    }

    fn dispatch(&mut self, shared: &Arc<Shared>, ready: Vec<Key>) {
        let mut by_leader: BTreeMap<i32, Vec<Key>> = BTreeMap::new();
        for key in ready {
            match shared.client.leader(&key.0, key.1) {
                Some((leader, _)) => by_leader.entry(leader).or_default().push(key),
                None => {
                    self.stale = true;
                    shared.lock().pause(&key, Instant::now() + METADATA_PAUSE);
                }
            }
        }
        for (broker, keys) in by_leader {
            match shared.client.open_connection(broker, Purpose::Produce) {
                Some(connection) => self.send_all(shared, broker, &connection, keys),
                None => self.connect(shared, broker),
            }
        }
    }

    /// Requests of one batch per partition each, until the window is full or nothing is due.
    fn send_all(&mut self, shared: &Arc<Shared>, broker: i32, connection: &Arc<Connection>, keys: Vec<Key>) {
        let now = Instant::now();
        let mut keys = keys;
        while !keys.is_empty()
            && self.in_flight.get(&broker).copied().unwrap_or(0) < shared.options.max_in_flight
        {
            let mut room = None;
            let mut sent: Sent = Vec::new();
            for key in &keys {
                let Some(batch) = shared.lock().take(key, room, now) else { continue };
                let left = room.unwrap_or(shared.options.max_request_size);
                room = Some(left.saturating_sub(batch.bytes.len()));
                sent.push((key.clone(), batch));
            }
            if sent.is_empty() || !self.send_one(shared, broker, connection, sent) {
                return;
            }
            let due: HashSet<Key> = shared.lock().ready(now).0.into_iter().collect();
            keys.retain(|k| due.contains(k));
        }
    }

    /// False if the connection has no room or is gone; the batches are then back where they were.
    fn send_one(&mut self, shared: &Arc<Shared>, broker: i32, connection: &Connection, sent: Sent) -> bool {
        let queued = queue_request(&shared.client, connection, &sent, shared);
        match queued {
            Ok(Queued::Reply(reply)) => {
                *self.in_flight.entry(broker).or_default() += 1;
                self.tasks.spawn(async move {
                    Event::Answered { broker, sent, result: reply.wait().await.map(Some) }
                });
                true
            }
            Ok(Queued::Unanswered) => {
                *self.in_flight.entry(broker).or_default() += 1;
                self.handle(shared, Event::Answered { broker, sent, result: Ok(None) });
                true
            }
            Ok(Queued::NoRoom) => {
                for (key, batch) in sent {
                    shared.lock().untake(&key, batch);
                    shared.lock().pause(&key, Instant::now() + Duration::from_millis(1));
                }
                false
            }
            Err(error) => {
                *self.in_flight.entry(broker).or_default() += 1;
                self.handle(shared, Event::Answered { broker, sent, result: Err(error) });
                false
            }
        }
    }

    fn connect(&mut self, shared: &Arc<Shared>, broker: i32) {
        if !self.connecting.insert(broker) {
            return;
        }
        let client = shared.client.clone();
        // As `Backoff`: quick at first, for a broker that restarts, and no burden on a name server when it lasts.
        let failures = self.failures.get(&broker).copied().unwrap_or(0);
        let pause = (METADATA_PAUSE * (1 << failures.min(5))).min(MAX_CONNECT_PAUSE);
        self.tasks.spawn(async move {
            let result = client.broker_connection(broker, Purpose::Produce).await.map(drop);
            if result.is_err() {
                tokio::time::sleep(pause).await;
            }
            Event::Connected { broker, result }
        });
    }

    fn start_refresh(&mut self, shared: &Arc<Shared>) {
        (self.refreshing, self.stale) = (true, false);
        let client = shared.client.clone();
        let mut topics: Vec<String> = client.metadata().topics.into_keys().collect();
        topics.dedup();
        self.tasks.spawn(async move {
            // A failure shows as partitions that stay without leader, until their delivery time-out.
            let _ = client.refresh(Some(&topics), false).await;
            tokio::time::sleep(METADATA_PAUSE).await;
            Event::Refreshed
        });
    }

    fn handle(&mut self, shared: &Arc<Shared>, event: Event) {
        match event {
            Event::Refreshed => self.refreshing = false,
            Event::Connected { broker, result } => {
                self.connecting.remove(&broker);
                if result.is_ok() {
                    self.failures.remove(&broker);
                }
                if let Err(error) = result {
                    *self.failures.entry(broker).or_default() += 1;
                    tracing::debug!(broker, %error, "cannot connect");
                    let leads = |key: &Key| {
                        shared.client.leader(&key.0, key.1).is_some_and(|(leader, _)| leader == broker)
                    };
                    shared.lock().note(leads, &error);
                    self.stale = true;
                }
            }
            Event::ProducerId(result) => {
                self.getting_id = false;
                match result {
                    Ok((id, epoch)) => shared.lock().set_producer(id, epoch, Instant::now()),
                    Err(error) => shared.lock().fail_all(&error, Instant::now()),
                }
            }
            Event::Answered { broker, sent, result } => {
                if let Some(n) = self.in_flight.get_mut(&broker) {
                    *n = n.saturating_sub(1);
                }
                self.take_answers(shared, sent, result);
            }
        }
    }

    fn take_answers(&mut self, shared: &Arc<Shared>, sent: Sent, result: Result<Option<ProduceResponse>>) {
        let now = Instant::now();
        let mut answers = match result {
            Ok(Some(response)) => by_partition(shared, response),
            Ok(None) => {
                for (key, batch) in sent {
                    shared.lock().done(&key, batch, Answer::Written(-1), now);
                }
                return;
            }
            Err(error) => {
                for (key, batch) in sent {
                    // Whether it was written is not known: the broker's memory of sequences decides.
                    let answer = match error.is_retriable() {
                        true => Answer::Retry(error.clone()),
                        false => Answer::Code(error.kafka_code().unwrap_or(-1), Some(error.to_string())),
                    };
                    self.stale |= shared.lock().done(&key, batch, answer, now);
                }
                return;
            }
        };
        for (key, batch) in sent {
            let Some(row) = answers.remove(&key) else {
                let error = Error::kafka(-1, format!("no result for {}/{}", key.0, key.1));
                shared.lock().done(&key, batch, Answer::Retry(error), now);
                continue;
            };
            let answer = match row.error_code {
                0 => Answer::Written(row.base_offset),
                code => {
                    tracing::debug!(topic = %key.0, partition = key.1, code, "produce refused");
                    Answer::Code(code, row.error_message.map(|m| m.to_string()))
                }
            };
            let leader = (row.current_leader.leader_id.0, row.current_leader.leader_epoch);
            let moved = is_stale_leader(row.error_code)
                && shared.client.hint_leader(&key.0, key.1, leader.0, leader.1, None);
            let doubt = shared.lock().done(&key, batch, answer, now);
            if moved {
                shared.lock().pause(&key, now);
            } else {
                self.stale |= doubt;
            }
        }
    }
}

enum Queued {
    Reply(Reply<ProduceRequest>),
    Unanswered,
    NoRoom,
}

fn queue_request(client: &Client, connection: &Connection, sent: &Sent, shared: &Shared) -> Result<Queued> {
    let ids = sent.iter().all(|(key, _)| !client.topic_id(&key.0).is_nil());
    let version = connection.version::<ProduceRequest>(if ids { i16::MAX } else { PRODUCE_BY_NAME })?;
    let mut topics: BTreeMap<Arc<str>, Vec<PartitionProduceData>> = BTreeMap::new();
    for (key, batch) in sent {
        // Kept for a retry: the clone shares the bytes.
        let records = Some(batch.bytes.clone());
        let row = PartitionProduceData::default().with_index(key.1).with_records(records);
        topics.entry(key.0.clone()).or_default().push(row);
    }
    let rows = topics
        .into_iter()
        .map(|(name, partitions)| {
            let mut row = TopicProduceData::default().with_partition_data(partitions);
            if version > PRODUCE_BY_NAME {
                row.topic_id = client.topic_id(&name);
            } else {
                row.name = topic_name(&name);
            }
            row
        })
        .collect();
    let options = &shared.options;
    let request = ProduceRequest::default()
        .with_acks(options.acks)
        .with_timeout_ms(options.request_timeout.as_millis() as i32)
        .with_topic_data(rows);
    if options.acks == 0 {
        let room = connection.try_send_unanswered(&request, version)?;
        return Ok(if room { Queued::Unanswered } else { Queued::NoRoom });
    }
    let reply = connection.try_send(&request, version, Duration::ZERO)?;
    Ok(reply.map_or(Queued::NoRoom, Queued::Reply))
}

/// The rows of an answer by partition; leader endpoints (KIP-951) go to the metadata.
fn by_partition(shared: &Shared, response: ProduceResponse) -> HashMap<Key, PartitionProduceResponse> {
    let client = &shared.client;
    let endpoints: HashMap<i32, Broker> = response
        .node_endpoints
        .iter()
        .map(|e| {
            let rack = e.rack.as_ref().map(|r| r.to_string());
            (e.node_id.0, Broker { id: e.node_id.0, host: e.host.to_string(), port: e.port, rack })
        })
        .collect();
    let names: HashMap<uuid::Uuid, Arc<str>> =
        client.metadata().topics.values().map(|t| (t.id, Arc::from(t.name.as_str()))).collect();
    let mut rows = HashMap::new();
    for topic in response.responses {
        let name: Arc<str> = match names.get(&topic.topic_id) {
            Some(name) if !topic.topic_id.is_nil() => name.clone(),
            _ => Arc::from(topic.name.as_str()),
        };
        for row in topic.partition_responses {
            let leader = row.current_leader.leader_id.0;
            if let Some(endpoint) = endpoints.get(&leader) {
                client.add_broker(endpoint.clone());
            }
            rows.insert((name.clone(), row.index), row);
        }
    }
    rows
}

async fn init_producer_id(client: &Client) -> Result<(i64, i16)> {
    let mut backoff = super::super::cluster::Backoff::new(client.options().call_timeout);
    // Not transactional: no time-out applies, but 0 would be refused.
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(i32::MAX);
    loop {
        let answered = client.call_any(&request, i16::MAX).await.and_then(|a| {
            Error::check(a.error_code, None, || "producer id".into())
                .map(|()| (a.producer_id.0, a.producer_epoch))
        });
        match answered {
            Err(e) if e.is_retriable() && backoff.wait().await => {}
            other => return other,
        }
    }
}
