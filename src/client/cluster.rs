//! [`Client`]: finds the brokers, caches the metadata, keeps the connections, and routes requests to leaders.
//!
//! Connections are kept per broker and purpose, because a fetch that waits for data holds up everything queued
//! behind it. Not here: what is asked (`admin`, `offsets`, `producer`, `consumer`).
//! Invariants: no lock is held across an await except the one that makes concurrent refreshes and dials one;
//! metadata never goes back to an older leader epoch of the same topic id.

use super::connection::{ConnectOptions, Connection};
use super::error::{Error, Result, is_stale_leader};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Highest Metadata version used: 13 adds nothing we need.
const METADATA_CAP: i16 = 12;
const NOT_CONTROLLER: i16 = 41;
/// How long an advertised address may fail, and never have worked, before that is said.
const UNREACHABLE_PATIENCE: Duration = Duration::from_secs(2);
/// How long "unknown topic" is taken for "not known yet".
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_secs(1);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port` of brokers to start from.
    pub bootstrap: Vec<String>,
    /// Sent with every request.
    pub client_id: String,
    /// Limit for TCP's handshake.
    pub connect_timeout: Duration,
    /// Limit for one answer.
    pub request_timeout: Duration,
    /// Limit for a whole call with its retries.
    pub call_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            bootstrap: vec!["localhost:9092".into()],
            client_id: "kontiki".into(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(30),
        }
    }
}

/// A broker as the metadata names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: i32,
    /// Rack, if set.
    pub rack: Option<String>,
}

impl Broker {
    /// `host:port`, with brackets around IPv6.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A partition as the metadata names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub index: i32,
    /// Leader, -1 if none.
    pub leader: i32,
    /// Leader epoch, -1 if unknown.
    pub epoch: i32,
    /// Replicas, preferred leader first.
    pub replicas: Vec<i32>,
    /// Replicas in sync.
    pub in_sync: Vec<i32>,
    /// Replicas on brokers that are down.
    pub offline: Vec<i32>,
}

/// A topic as the metadata names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id; zero on brokers that know none.
    pub id: Uuid,
    /// Kafka's own bookkeeping.
    pub internal: bool,
    /// Ascending by number.
    pub partitions: Vec<PartitionInfo>,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// Cluster id.
    pub cluster_id: Option<String>,
    /// Broker that takes admin requests, -1 if none.
    pub controller: i32,
    /// Live brokers.
    pub brokers: BTreeMap<i32, Broker>,
    /// Topics asked for so far.
    pub topics: BTreeMap<String, TopicInfo>,
}

/// Why a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Metadata, admin, ListOffsets.
    General,
    /// Produce.
    Produce,
    /// Fetch, which may wait.
    Fetch,
    /// Joining a group, which waits for its other members.
    Group,
}

/// What is known of an advertised address.
#[derive(Clone, Copy, Debug)]
enum Reached {
    /// It worked in this process.
    Once,
    /// It never did, since.
    Never(Instant),
    /// Likewise, and that was said.
    Said,
}

/// Addresses remembered at most, and coordinators of groups.
const MOST_ADDRESSES: usize = 1_000;

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

struct Inner {
    options: ClientOptions,
    metadata: Mutex<Metadata>,
    refreshing: tokio::sync::Mutex<()>,
    slots: Mutex<HashMap<(String, Purpose), Slot>>,
    /// Bootstrap address that last answered.
    answered: Mutex<Option<String>>,
    /// Advertised addresses that could be connected to, or since when not.
    reached: Mutex<HashMap<String, Reached>>,
    /// The broker that coordinates a group, until it fails to answer as one.
    coordinators: Mutex<HashMap<String, i32>>,
}

/// A cheap handle to one cluster.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data is plain and complete at every await-free step: a panic elsewhere cannot leave it half-changed.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Pauses of a retry loop: 20 ms doubling to half a second, until the limit.
pub(crate) struct Backoff {
    started: Instant,
    limit: Duration,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { started: Instant::now(), limit, pause: Duration::from_millis(20) }
    }

    /// Waits; false when the time is over.
    pub(crate) async fn wait(&mut self) -> bool {
        let left = self.limit.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(500));
        true
    }
}

impl Client {
    /// A client; nothing is dialled yet.
    pub fn new(options: ClientOptions) -> Self {
        Self(Arc::new(Inner {
            options,
            metadata: Mutex::new(Metadata { controller: -1, ..Metadata::default() }),
            refreshing: tokio::sync::Mutex::new(()),
            slots: Mutex::new(HashMap::new()),
            answered: Mutex::new(None),
            reached: Mutex::default(),
            coordinators: Mutex::default(),
        }))
    }

    /// How it was set up.
    pub fn options(&self) -> &ClientOptions {
        &self.0.options
    }

    /// What is cached.
    pub fn metadata(&self) -> Metadata {
        locked(&self.0.metadata).clone()
    }

    /// The cached leader of a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let metadata = locked(&self.0.metadata);
        let topic = metadata.topics.get(topic)?;
        let found = topic.partitions.iter().find(|p| p.index == partition)?;
        (found.leader >= 0 && metadata.brokers.contains_key(&found.leader))
            .then_some((found.leader, found.epoch))
    }

    /// Cached id of a topic.
    pub fn topic_id(&self, topic: &str) -> Uuid {
        locked(&self.0.metadata).topics.get(topic).map_or(Uuid::nil(), |t| t.id)
    }

    /// Cached number of partitions, 0 if the topic is not known.
    pub fn partition_count(&self, topic: &str) -> i32 {
        locked(&self.0.metadata).topics.get(topic).map_or(0, |t| t.partitions.len() as i32)
    }

    /// Takes note of a broker named in an error answer (KIP-951).
    pub fn add_broker(&self, broker: Broker) {
        locked(&self.0.metadata).brokers.insert(broker.id, broker);
    }

    /// Takes a leader hint of an error answer (KIP-951) if it is newer than what is cached.
    pub fn hint_leader(
        &self,
        topic: &str,
        partition: i32,
        leader: i32,
        epoch: i32,
        endpoint: Option<Broker>,
    ) -> bool {
        let mut metadata = locked(&self.0.metadata);
        if let Some(broker) = endpoint {
            metadata.brokers.insert(broker.id, broker);
        }
        if leader < 0 || !metadata.brokers.contains_key(&leader) {
            return false;
        }
        let found = metadata
            .topics
            .get_mut(topic)
            .and_then(|t| t.partitions.iter_mut().find(|p| p.index == partition))
            .filter(|p| epoch > p.epoch);
        let Some(found) = found else { return false };
        (found.leader, found.epoch) = (leader, epoch);
        true
    }

    /// Asks any broker about these topics (None: all) and updates the cache.
    pub async fn refresh(&self, topics: Option<&[String]>, auto_create: bool) -> Result<()> {
        let _one_at_a_time = self.0.refreshing.lock().await;
        let names = topics.map(|names| {
            names
                .iter()
                .map(|n| MetadataRequestTopic::default().with_name(Some(topic_name(n))))
                .collect::<Vec<_>>()
        });
        let request =
            MetadataRequest::default().with_topics(names).with_allow_auto_topic_creation(auto_create);
        let answer = self.call_any(&request, METADATA_CAP).await?;
        self.absorb(answer, topics.is_none())
    }

    /// Metadata of every topic, fresh.
    pub async fn fresh_metadata(&self) -> Result<Metadata> {
        self.refresh(None, false).await?;
        Ok(self.metadata())
    }

    /// The topic, asked for until it exists, within `limit`. `auto_create` lets the broker make it. Partitions may
    /// still lack a leader: whoever needs one waits for just that one.
    pub async fn topic(&self, name: &str, auto_create: bool, limit: Duration) -> Result<TopicInfo> {
        let mut backoff = Backoff::new(limit);
        loop {
            let asked = self.refresh(Some(&[name.to_owned()]), auto_create).await;
            let found = locked(&self.0.metadata).topics.get(name).cloned();
            let error = match (asked, found) {
                (Ok(()), Some(topic)) if !topic.partitions.is_empty() => return Ok(topic),
                (Ok(()), Some(_)) => Error::kafka(5, format!("topic `{name}`")),
                (Ok(()), None) => Error::kafka(3, format!("topic `{name}`")),
                (Err(e), _) => e,
            };
            // A topic made a moment ago may not have reached this broker yet.
            let missing = error.kafka_code() == Some(3)
                && !auto_create
                && backoff.started.elapsed() > UNKNOWN_TOPIC_PATIENCE;
            // A wrong address should show at once; a cluster that has answered before may come back.
            let nobody = matches!(error, Error::NoBroker(_)) && locked(&self.0.answered).is_none();
            if !error.is_retriable() || missing || nobody || !backoff.wait().await {
                return Err(error);
            }
        }
    }

    fn absorb(&self, answer: MetadataResponse, all: bool) -> Result<()> {
        let mut failed = Ok(());
        let mut metadata = locked(&self.0.metadata);
        metadata.cluster_id = answer.cluster_id.map(|s| s.to_string());
        metadata.controller = answer.controller_id.0;
        metadata.brokers = answer
            .brokers
            .into_iter()
            .map(|b| {
                let rack = b.rack.map(|r| r.to_string());
                (b.node_id.0, Broker { id: b.node_id.0, host: b.host.to_string(), port: b.port, rack })
            })
            .collect();
        if all {
            metadata.topics.clear();
        }
        for topic in answer.topics {
            let Some(name) = topic.name.as_ref().map(|n| n.to_string()) else { continue };
            if topic.error_code != 0 && topic.error_code != 5 {
                metadata.topics.remove(&name);
                failed = Error::check(topic.error_code, None, || format!("topic `{name}`"));
                continue;
            }
            let mut info = topic_info(name, topic);
            if let Some(known) = metadata.topics.get(&info.name) {
                keep_newer_leaders(&mut info, known);
            }
            metadata.topics.insert(info.name.clone(), info);
        }
        failed
    }

    /// A connection to a broker of the metadata.
    pub async fn broker_connection(&self, id: i32, purpose: Purpose) -> Result<Arc<Connection>> {
        let address = self.broker_address(id)?;
        let error = match self.connection(&address, purpose).await {
            Ok(connection) => {
                locked(&self.0.reached).insert(address, Reached::Once);
                return Ok(connection);
            }
            Err(Error::Connect { address, reason, .. }) => {
                let answered = locked(&self.0.answered).clone().filter(|by| *by != address);
                let advertised_by = answered.map(|by| (by, id));
                Error::Connect { address, reason, advertised_by }
            }
            Err(error) => return Err(error),
        };
        self.warn_of(&address, &error);
        Err(error)
    }

    /// The coordinator of a group as it was looked up last.
    pub(super) fn known_coordinator(&self, group: &str) -> Option<i32> {
        locked(&self.0.coordinators).get(group).copied()
    }

    pub(super) fn remember_coordinator(&self, group: &str, id: i32) {
        let mut known = locked(&self.0.coordinators);
        if known.len() > MOST_ADDRESSES {
            known.clear();
        }
        known.insert(group.to_owned(), id);
    }

    /// It moved, or it may have: it is looked up again.
    pub(super) fn forget_coordinator(&self, group: &str) {
        locked(&self.0.coordinators).remove(group);
    }

    /// Commands wait for a broker that may come back: whoever looks on learns why before they give up. Of a broker that was there it is no news.
    fn warn_of(&self, address: &str, error: &Error) {
        let mut reached = locked(&self.0.reached);
        if reached.len() > MOST_ADDRESSES {
            reached.clear();
        }
        match *reached.entry(address.to_owned()).or_insert(Reached::Never(Instant::now())) {
            Reached::Never(since) if since.elapsed() >= UNREACHABLE_PATIENCE => {
                reached.insert(address.to_owned(), Reached::Said);
                tracing::warn!("{error}; {}; trying on", error.hint().unwrap_or_default());
            }
            _ => {}
        }
    }

    /// The connection to a broker, if one is open.
    pub fn open_connection(&self, id: i32, purpose: Purpose) -> Option<Arc<Connection>> {
        let address = self.broker_address(id).ok()?;
        let slot = locked(&self.0.slots).get(&(address, purpose)).cloned()?;
        let open = slot.try_lock().ok()?.clone()?;
        (!open.is_closed()).then_some(open)
    }

    fn broker_address(&self, id: i32) -> Result<String> {
        let metadata = locked(&self.0.metadata);
        metadata.brokers.get(&id).map(Broker::address).ok_or_else(|| Error::kafka(8, format!("broker {id}")))
    }

    async fn connection(&self, address: &str, purpose: Purpose) -> Result<Arc<Connection>> {
        let slot = locked(&self.0.slots).entry((address.to_owned(), purpose)).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(open.clone());
        }
        let options = ConnectOptions {
            client_id: self.0.options.client_id.clone(),
            connect_timeout: self.0.options.connect_timeout,
            request_timeout: self.0.options.request_timeout,
        };
        let opened = Arc::new(Connection::open(address, options).await?);
        *slot = Some(opened.clone());
        Ok(opened)
    }

    /// Asks whichever broker answers first: those known to be live, then the bootstrap list.
    pub async fn call_any<R: Request>(&self, request: &R, cap: i16) -> Result<R::Response> {
        let mut addresses: Vec<String> =
            locked(&self.0.metadata).brokers.values().map(Broker::address).collect();
        for address in &self.0.options.bootstrap {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        // The one that answered last comes first: a dead broker costs time only once.
        if let Some(last) = locked(&self.0.answered).clone()
            && let Some(at) = addresses.iter().position(|a| *a == last)
        {
            addresses.swap(0, at);
        }
        let mut reasons = Vec::new();
        for address in addresses {
            match self.call_address(&address, request, cap).await {
                Ok(answer) => {
                    *locked(&self.0.answered) = Some(address);
                    return Ok(answer);
                }
                Err(e) if e.is_retriable() => reasons.push(match e {
                    Error::Connect { reason, .. } => format!("{address} ({reason})"),
                    e => format!("{address} ({e})"),
                }),
                Err(e) => return Err(e),
            }
        }
        Err(Error::NoBroker(reasons))
    }

    /// As `call_any`, and again while the answer's error code, which `code` reads, is one that passes.
    pub async fn call_any_until<R: Request>(
        &self,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let mut backoff = Backoff::new(self.0.options.call_timeout);
        loop {
            let answer = self.call_any(request, i16::MAX).await?;
            if !super::error::is_retriable(code(&answer)) || !backoff.wait().await {
                return Ok(answer);
            }
        }
    }

    async fn call_address<R: Request>(&self, address: &str, request: &R, cap: i16) -> Result<R::Response> {
        let connection = self.connection(address, Purpose::General).await?;
        let version = connection.version::<R>(cap)?;
        connection.call_version(request, version).await
    }

    /// Asks the broker that the metadata names as controller; `code` reads the error code of the answer, so that
    /// NOT_CONTROLLER leads to another try.
    pub async fn call_controller<R: Request>(
        &self,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let mut backoff = Backoff::new(self.0.options.call_timeout);
        loop {
            let answer = self.try_controller(request).await;
            let again = match &answer {
                Ok(answer) => code(answer) == NOT_CONTROLLER,
                // After the request left, a broken connection leaves open whether it was carried out: told to the caller.
                Err(Error::Connect { .. } | Error::NoBroker(_)) => true,
                Err(Error::Kafka { code, .. }) => super::error::is_retriable(*code),
                Err(_) => false,
            };
            let unreachable = matches!(answer, Err(Error::NoBroker(_)));
            if !again || unreachable || !backoff.wait().await {
                return answer;
            }
        }
    }

    async fn try_controller<R: Request>(&self, request: &R) -> Result<R::Response> {
        self.refresh(Some(&[]), false).await?;
        let controller = locked(&self.0.metadata).controller;
        if controller < 0 {
            return Err(Error::kafka(NOT_CONTROLLER, "the cluster has no controller at the moment"));
        }
        self.broker_connection(controller, Purpose::General).await?.call(request).await
    }

    /// Sends each partition's part to its leader and collects the results; partitions whose leader moved are
    /// tried again until `call_timeout`. `ask` gets one leader's parts and answers with a result for each.
    pub async fn per_leader<T: Clone, O>(
        &self,
        topic: &str,
        parts: Vec<(i32, T)>,
        ask: impl AsyncFn(Arc<Connection>, Vec<(i32, T)>) -> Result<Vec<(i32, Result<O>)>>,
    ) -> Result<BTreeMap<i32, O>> {
        let mut backoff = Backoff::new(self.0.options.call_timeout);
        let mut done = BTreeMap::new();
        let mut left = parts;
        loop {
            let mut again = Vec::new();
            let mut last_error = None;
            for (leader, parts) in self.by_leader(topic, left) {
                let answered = match leader {
                    Some(id) => match self.broker_connection(id, Purpose::General).await {
                        Ok(connection) => ask(connection, parts.clone()).await,
                        Err(e) => Err(e),
                    },
                    None => Err(Error::kafka(5, format!("{topic}/{}", parts[0].0))),
                };
                match answered {
                    Ok(results) => {
                        for (partition, result) in results {
                            match result {
                                Ok(value) => drop(done.insert(partition, value)),
                                Err(e) if e.is_retriable() || e.kafka_code().is_some_and(is_stale_leader) => {
                                    again.extend(parts.iter().find(|p| p.0 == partition).cloned());
                                    last_error = Some(e);
                                }
                                Err(e) => return Err(e),
                            }
                        }
                    }
                    Err(e) if e.is_retriable() => {
                        again.extend(parts);
                        last_error = Some(e);
                    }
                    Err(e) => return Err(e),
                }
            }
            let Some(error) = last_error else { return Ok(done) };
            left = again;
            if !backoff.wait().await {
                return Err(error);
            }
            if let Err(e) = self.refresh(Some(&[topic.to_owned()]), false).await
                && !e.is_retriable()
            {
                return Err(e);
            }
        }
    }

    fn by_leader<T>(&self, topic: &str, parts: Vec<(i32, T)>) -> BTreeMap<Option<i32>, Vec<(i32, T)>> {
        let mut by_leader: BTreeMap<Option<i32>, Vec<(i32, T)>> = BTreeMap::new();
        for (partition, part) in parts {
            let leader = self.leader(topic, partition).map(|(id, _)| id);
            by_leader.entry(leader).or_default().push((partition, part));
        }
        by_leader
    }
}

fn topic_info(name: String, topic: MetadataResponseTopic) -> TopicInfo {
    let ids = |nodes: Vec<kafka_protocol::messages::BrokerId>| nodes.into_iter().map(|n| n.0).collect();
    let mut partitions: Vec<PartitionInfo> = topic
        .partitions
        .into_iter()
        .map(|p| PartitionInfo {
            index: p.partition_index,
            leader: p.leader_id.0,
            epoch: p.leader_epoch,
            replicas: ids(p.replica_nodes),
            in_sync: ids(p.isr_nodes),
            offline: ids(p.offline_replicas),
        })
        .collect();
    partitions.sort_by_key(|p| p.index);
    TopicInfo { name, id: topic.topic_id, internal: topic.is_internal, partitions }
}

/// A broker that lags behind may still name an old leader; epochs decide (KIP-320).
fn keep_newer_leaders(fresh: &mut TopicInfo, known: &TopicInfo) {
    if fresh.id != known.id {
        return;
    }
    for partition in &mut fresh.partitions {
        let newer = known.partitions.iter().find(|k| k.index == partition.index && k.epoch > partition.epoch);
        if let Some(newer) = newer {
            (partition.leader, partition.epoch) = (newer.leader, newer.epoch);
        }
    }
}

/// A topic name of the codec crate.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A string of the codec crate.
pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(leader: i32, epoch: i32) -> PartitionInfo {
        PartitionInfo { index: 0, leader, epoch, replicas: vec![1, 2], in_sync: vec![1], offline: vec![] }
    }

    fn client_with(partition: PartitionInfo) -> Client {
        let client = Client::new(ClientOptions::default());
        let topic =
            TopicInfo { name: "t".into(), id: Uuid::nil(), internal: false, partitions: vec![partition] };
        let mut metadata = locked(&client.0.metadata);
        metadata.topics.insert("t".into(), topic);
        for id in [1, 2] {
            metadata.brokers.insert(id, Broker { id, host: "h".into(), port: id, rack: None });
        }
        drop(metadata);
        client
    }

    #[test]
    fn hint_leader_newer_epoch_moves_and_older_does_not() {
        let client = client_with(partition(1, 5));
        assert!(!client.hint_leader("t", 0, 2, 5, None));
        assert!(client.hint_leader("t", 0, 2, 6, None));
        assert_eq!(client.leader("t", 0), Some((2, 6)));
        assert!(!client.hint_leader("t", 0, 9, 7, None), "broker 9 is not known");
    }

    #[test]
    fn metadata_older_epoch_keeps_known_leader() {
        let known = TopicInfo {
            name: "t".into(),
            id: Uuid::nil(),
            internal: false,
            partitions: vec![partition(2, 6)],
        };
        let mut fresh = TopicInfo { partitions: vec![partition(1, 5)], ..known.clone() };
        keep_newer_leaders(&mut fresh, &known);
        assert_eq!((fresh.partitions[0].leader, fresh.partitions[0].epoch), (2, 6));
        let mut recreated =
            TopicInfo { partitions: vec![partition(1, 0)], id: Uuid::from_u128(1), ..known.clone() };
        keep_newer_leaders(&mut recreated, &known);
        assert_eq!(recreated.partitions[0].epoch, 0);
    }

    #[test]
    fn broker_address_ipv6_is_bracketed() {
        let broker = Broker { id: 1, host: "::1".into(), port: 9092, rack: None };
        assert_eq!(broker.address(), "[::1]:9092");
    }
}
