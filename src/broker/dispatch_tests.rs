//! Whole requests against a node whose shard is played by the test: every API in every version it is served in, from
//! the bytes of a frame to the bytes of its response.

use super::super::api::{
    Fetched, LeaderHint, ListedOffset, OffsetSpec, PartitionError, PartitionState, Produced, Quorum,
    QuorumReplica,
};
use super::super::groups::{Ask, Committed, Description, GroupError, Joined, Listed, Reply as GroupReply};
use super::super::handlers::produce::tests::batch;
use super::super::handlers::tests::{ORDERS, image};
use super::super::node::Published;
use super::super::shard::Command;
use super::*;
use crate::ctl::command::{Command as Asked, Error as Refused, Reply};
use crate::ctl::image::{Image, Topic};
use crate::ctl::reassign::{Moving, Reassignment};
use crate::segment::{GroupId, NodeId};
use bytes::{Buf, BufMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

const CORRELATION: i32 = 0x0102_0304;
/// A Fetch that may wait for so long is never answered.
const PARKED_MS: u64 = 77_777;

/// A node of which only the shard is missing; what its controller is asked for is noted in `asked`.
pub(crate) struct Node {
    pub(crate) handle: NodeHandle,
    session: Session,
    asked: Arc<Mutex<Vec<String>>>,
    images: watch::Sender<Arc<Image>>,
    _published: watch::Sender<Published>,
}

/// A client on this machine, of the listener without a name.
fn local() -> Client {
    Client { host: std::net::Ipv4Addr::LOCALHOST.into(), listener: crate::ctl::listeners::PLAINTEXT.into() }
}

pub(crate) fn node() -> Node {
    let (commands_in, commands) = mpsc::channel(16);
    let (images, images_out) = watch::channel(Arc::new(image()));
    let (published, published_out) = watch::channel(Published::default());
    let config = Arc::new(NodeConfig::new(NodeId(1), "/nowhere"));
    let killed = Arc::new(AtomicBool::new(false));
    let handle = NodeHandle::new(config.clone(), commands_in, images_out, published_out, killed);
    let asked = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(play(commands, images.clone(), asked.clone()));
    let session = Session::new(handle.clone(), config, Turnstile::default(), local());
    Node { handle, session, asked, images, _published: published }
}

fn leader() -> Option<LeaderHint> {
    Some(LeaderHint { node: NodeId(2), epoch: 6 })
}

/// Answers what handlers ask: group 10 works, group 11 is led by node 2, group 12 has no established leader.
async fn play(
    mut commands: mpsc::Receiver<Command>,
    images: watch::Sender<Arc<Image>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let failure = |group: u64| match group {
        11 => Some(PartitionError::NotLeader { leader: leader() }),
        12 => Some(PartitionError::NotEstablished),
        _ => None,
    };
    fn answer<T>(failure: Option<PartitionError>, value: T) -> Result<T, PartitionError> {
        failure.map_or(Ok(value), Err)
    }
    let mut handed: std::collections::BTreeMap<GroupId, NodeId> = Default::default();
    let mut parked = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Produce { items, reply, .. } => {
                let produced = Produced { base_offset: 40, log_start_offset: 3 };
                let results = items.iter().map(|item| answer(failure(item.group.0), produced));
                let _ = reply.send(results.collect());
            }
            // Waits for as long as anybody does.
            Command::Fetch { limits, reply, .. } if limits.max_wait_ms == PARKED_MS => parked.push(reply),
            Command::Fetch { items, reply, .. } => {
                let fetched = |group| Fetched {
                    error: failure(group),
                    high_watermark: 41,
                    log_start_offset: 3,
                    batches: vec![batch(0).freeze()],
                    ..Fetched::default()
                };
                let _ = reply.send(items.iter().map(|item| fetched(item.group.0)).collect());
            }
            Command::ListOffset { group, spec, reply, .. } => {
                let offset = if spec == OffsetSpec::Earliest { 3 } else { 41 };
                let listed = ListedOffset { offset, timestamp: -1, leader_epoch: 6 };
                let _ = reply.send(answer(failure(group.0), listed));
            }
            Command::EpochEnd { group, asked, reply, .. } => {
                let _ = reply.send(answer(failure(group.0), (asked, 41)));
            }
            Command::DeleteRecords { group, offset, reply, .. } => {
                let _ = reply.send(answer(failure(group.0), offset));
            }
            Command::Quorum { group, reply } => {
                let replica =
                    |node| QuorumReplica { node: NodeId(node), end: 41, heard_ms: 1_000, caught_up_ms: -1 };
                let quorum = Quorum {
                    leader: NodeId(1),
                    epoch: 6,
                    generation: 2,
                    is_joint: false,
                    high_watermark: 41,
                    voters: vec![replica(1), replica(2)],
                    learners: vec![replica(3)],
                    heir: None,
                    absent: if group.0 == 0 { vec![NodeId(3)] } else { Vec::new() },
                };
                let _ = reply.send(answer(failure(group.0), quorum));
            }
            Command::States { groups, reply } => {
                let state = PartitionState {
                    leader: leader(),
                    in_sync: vec![NodeId(2), NodeId(1)],
                    high_watermark: 41,
                    log_start: 3,
                    log_end: 42,
                    size_bytes: 100,
                    local: true,
                    needs_repair: false,
                    electing: false,
                    epoch: -1,
                    ..PartitionState::default()
                };
                let of = |group| {
                    let taken = handed.get(group).map(|node| LeaderHint { node: *node, epoch: 7 });
                    PartitionState { leader: taken.or(state.leader), ..state.clone() }
                };
                let _ = reply.send(groups.iter().map(of).collect());
            }
            Command::Controller { command, reply, .. } => {
                asked.lock().unwrap().push(format!("{command:?}"));
                let _ = reply.send(decide(command, &images).map(|reply| (reply, 0)));
            }
            Command::HandOver { moves, reply } => {
                // Whoever is asked for takes over at once.
                handed.extend(moves);
                let _ = reply.send(());
            }
            Command::Report { reply, .. } => {
                let _ = reply.send(None);
            }
            Command::Group { name, ask, reply, .. } => {
                let _ = reply.send(group(&name, ask));
            }
            Command::Groups { reply } => {
                let listed = Listed { group: "g".into(), protocol_type: "consumer".into(), state: "Stable" };
                let _ = reply.send((vec![listed], false));
            }
            Command::Drain { reply } => {
                let _ = reply.send(());
            }
        }
    }
}

/// A coordinator that takes whatever group `g` asks for, and is none for others.
fn group(name: &str, ask: Ask) -> GroupReply {
    if name != "g" {
        return GroupReply::Refused(GroupError::NotCoordinator);
    }
    let (protocol_type, protocol) = ("consumer".to_owned(), "range".to_owned());
    match ask {
        Ask::Join(join) if join.needs_id && join.member.is_empty() => {
            GroupReply::Refused(GroupError::MemberIdRequired(join.fresh_id))
        }
        Ask::Join(join) => GroupReply::Joined(Joined {
            generation: 4,
            protocol_type,
            protocol,
            leader: join.fresh_id.clone(),
            member: join.fresh_id.clone(),
            skip_assignment: join.may_skip,
            members: vec![(join.fresh_id, join.instance, Bytes::from_static(b"m"))],
        }),
        Ask::Sync { .. } => {
            GroupReply::Synced { protocol_type, protocol, assignment: Bytes::from_static(b"a") }
        }
        Ask::Heartbeat(_) | Ask::Delete => GroupReply::Done,
        Ask::Leave(members) => GroupReply::Rows(vec![None; members.len()]),
        Ask::Commit { offsets, .. } => GroupReply::Rows(vec![None; offsets.len()]),
        Ask::Offsets(keys) => {
            let (leader_epoch, metadata) = (6, "note".to_owned());
            let committed = Committed { offset: 41, leader_epoch, metadata, at_ms: 0, until_ms: None };
            let keys = keys.unwrap_or_else(|| vec![("orders".to_owned(), 0)]);
            GroupReply::Offsets(keys.into_iter().map(|key| (key, Some(committed.clone()))).collect())
        }
        Ask::DeleteOffsets(keys) => GroupReply::Rows(vec![Some(GroupError::Subscribed); keys.len()]),
        Ask::Describe => {
            let members = Vec::new();
            GroupReply::Described(Description { state: "Stable", protocol_type, protocol, members })
        }
    }
}

/// A controller that knows topic `orders` and makes whatever else is asked for.
fn decide(command: Asked, images: &watch::Sender<Arc<Image>>) -> Result<Reply, Refused> {
    match command {
        Asked::CreateTopic(topic) if topic.name == "orders" => Err(Refused::TopicExists(topic.name)),
        Asked::CreateTopic(topic) => {
            let id = Uuid::from_u128(0xC);
            let set = topic.configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
            let configs: std::collections::BTreeMap<_, _> = set.collect();
            images.send_modify(|image| {
                let image = Arc::make_mut(image);
                let partitions = image.topics["orders"].partitions.clone();
                let made = Topic {
                    name: topic.name.clone(),
                    id,
                    partitions,
                    configs,
                    internal: false,
                    auto_since: None,
                };
                image.topic_names.insert(id, topic.name.clone());
                image.topics.insert(topic.name.clone(), made);
            });
            Ok(Reply::TopicCreated { id, partitions: 3, replication_factor: 3 })
        }
        Asked::DeleteTopic { name: Some(name), .. } if name != "orders" => Err(Refused::UnknownTopic(name)),
        Asked::CreatePartitions { topic, .. } if topic != "orders" => Err(Refused::UnknownTopic(topic)),
        Asked::Reassign { rows, .. } => {
            let refusal = |row: &Reassignment| match (row.topic.as_str(), &row.target) {
                ("orders", Some(_)) => None,
                ("orders", None) => Some(Refused::NoReassignment),
                _ => Some(Refused::UnknownPartition(row.topic.clone(), row.partition)),
            };
            Ok(Reply::Reassigned { refusals: rows.iter().map(refusal).collect() })
        }
        Asked::AllocateProducerIds { .. } => Ok(Reply::ProducerIds { first: 5_000, count: 1_000 }),
        _ => Ok(Reply::Done),
    }
}

/// A frame without its length prefix.
pub(crate) fn frame(key: i16, version: i16, body: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(CORRELATION);
    frame.put_i16(4);
    frame.put_slice(b"test");
    if versions::is_flexible(key, version) {
        frame.put_u8(0);
    }
    frame.put_slice(body);
    frame
}

fn joined(answer: Answer) -> Bytes {
    match answer {
        Answer::Frame(frame) => frame,
        Answer::Slices(slices) => slices.concat().into(),
        Answer::Silent => Bytes::new(),
    }
}

impl Node {
    /// Sends a request and decodes the response, which must fill its frame exactly.
    async fn ask<Q: Encodable, R: Decodable>(&mut self, key: i16, version: i16, request: &Q) -> R {
        let mut body = Vec::new();
        request.encode(&mut body, version).unwrap_or_else(|error| panic!("key {key} v{version}: {error}"));
        let work = self.session.start(frame(key, version, &body));
        let answer = work.unwrap_or_else(|reason| panic!("key {key} v{version}: {reason}")).await;
        let mut bytes = joined(answer.unwrap_or_else(|reason| panic!("key {key} v{version}: {reason}")));
        assert_eq!(bytes.get_i32() as usize, bytes.len(), "length prefix of key {key} v{version}");
        assert_eq!(bytes.get_i32(), CORRELATION);
        if versions::is_flexible(key, version) && key != API_VERSIONS {
            assert_eq!(bytes.get_u8(), 0, "tags of the response header");
        }
        let response = R::decode(&mut bytes, version).unwrap_or_else(|e| panic!("key {key} v{version}: {e}"));
        assert!(bytes.is_empty(), "{} bytes left over in key {key} v{version}", bytes.len());
        response
    }

    /// A new connection of the same client.
    fn reconnect(&mut self) {
        self.session = Session::new(self.handle.clone(), self.handle.config(), Turnstile::default(), local());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// All versions of an API that are served.
fn served(key: i16) -> std::ops::RangeInclusive<i16> {
    let range = versions::range(key).expect("the API is in the table");
    range.served_min..=range.max
}

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

fn string(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

#[tokio::test]
async fn api_versions_of_any_version_is_answered() {
    let mut node = node();
    for version in served(API_VERSIONS) {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request.client_software_name = string("test");
            request.client_software_version = string("1.0");
        }
        let response: ApiVersionsResponse = node.ask(API_VERSIONS, version, &request).await;
        let rows: Vec<_> =
            response.api_keys.iter().map(|row| (row.api_key, row.min_version, row.max_version)).collect();
        let table: Vec<_> = versions::supported().iter().map(|row| (row.key, row.min, row.max)).collect();
        assert_eq!((response.error_code, rows), (0, table));
        let has = |feature: &str| response.finalized_features.iter().any(|f| f.name.as_str() == feature);
        assert!(!has("transaction.version") && !has("group.version"), "clients would use what is not there");
    }
    let work = node.session.start(frame(API_VERSIONS, 99, b"whatever a later version holds"));
    let bytes = joined(work.unwrap().await.unwrap());
    let response = ApiVersionsResponse::decode(&mut bytes.slice(8..), 0).unwrap();
    assert_eq!((response.error_code, response.api_keys.len()), (35, 1));
}

#[tokio::test]
async fn unknown_key_version_or_body_closes_the_connection() {
    let mut node = node();
    for (key, version, body) in
        [(999, 0, &[][..]), (3, 99, &[]), (0, 0, &[]), (3, 1, &[0x7f, 0xff, 0xff, 0xff])]
    {
        assert!(node.session.start(frame(key, version, body)).is_err(), "key {key} v{version}");
    }
    assert!(node.session.start(BytesMut::from(&[0; 9][..])).is_err());
}

#[tokio::test]
async fn metadata_of_every_version_lists_brokers_and_leaders() {
    let mut node = node();
    for version in served(3) {
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(name("orders")));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
        let response: MetadataResponse = node.ask(3, version, &request).await;
        assert_eq!(response.brokers.len(), 2);
        assert_eq!(response.topics.len(), 1);
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 3));
        assert_eq!(topic.partitions[1].leader_id.0, 2);
        if version >= 7 {
            assert_eq!(topic.partitions[1].leader_epoch, 6);
        }
        if version >= 1 {
            assert_eq!(response.controller_id.0, 1);
        }
        if version >= 10 {
            assert_eq!(topic.topic_id, ORDERS);
        }
    }
    assert!(node.asked().is_empty(), "a known topic is not created");
}

#[tokio::test]
async fn metadata_creates_what_is_missing_once_and_only_when_allowed() {
    let mut node = node();
    let topics = |names: &[&'static str]| {
        let topic = |text: &&'static str| {
            metadata_request::MetadataRequestTopic::default().with_name(Some(name(text)))
        };
        Some(names.iter().map(topic).collect())
    };
    let request =
        MetadataRequest::default().with_topics(topics(&["new"])).with_allow_auto_topic_creation(false);
    let response: MetadataResponse = node.ask(3, 12, &request).await;
    assert_eq!((response.topics[0].error_code, node.asked().len()), (3, 0));
    let request = request.with_allow_auto_topic_creation(true).with_topics(topics(&["new", "new", "b@d"]));
    let response: MetadataResponse = node.ask(3, 12, &request).await;
    let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!((codes, response.topics[0].partitions.len()), (vec![0, 0, 17], 3));
    assert_eq!(node.asked().len(), 1);
    assert!(node.asked()[0].contains("partitions: -1, replication_factor: -1"), "{:?}", node.asked());
}

/// A Produce of one batch to each partition of `orders`.
fn produce(version: i16, acks: i16) -> ProduceRequest {
    let partition = |index| {
        let records = Some(batch(0).freeze());
        produce_request::PartitionProduceData::default().with_index(index).with_records(records)
    };
    let mut topic =
        produce_request::TopicProduceData::default().with_partition_data((0..3).map(partition).collect());
    if version >= 13 {
        topic.topic_id = ORDERS;
    } else {
        topic.name = name("orders");
    }
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1000).with_topic_data(vec![topic])
}

#[tokio::test]
async fn produce_of_every_version_answers_each_partition_with_leader_hints() {
    let mut node = node();
    for version in served(PRODUCE) {
        let response: ProduceResponse = node.ask(PRODUCE, version, &produce(version, -1)).await;
        let rows = &response.responses[0].partition_responses;
        let codes: Vec<i16> = rows.iter().map(|row| row.error_code).collect();
        assert_eq!(codes, [0, 6, 5], "v{version}");
        assert_eq!((rows[0].base_offset, rows[1].base_offset), (40, -1));
        if version >= 10 {
            assert_eq!((rows[1].current_leader.leader_id.0, rows[1].current_leader.leader_epoch), (2, 6));
            assert_eq!(response.node_endpoints[0].host.as_str(), "host2");
        }
        assert!(node.session.turnstile.is_free());
    }
}

#[tokio::test]
async fn produce_without_acks_is_silent_or_closes_the_connection() {
    let mut node = node();
    let mut body = Vec::new();
    let mut request = produce(9, 0);
    request.encode(&mut body, 9).unwrap();
    let outcome = node.session.start(frame(PRODUCE, 9, &body)).unwrap().await;
    assert!(matches!(outcome, Err(CloseReason::SilentProduce(6))), "partition 1 has another leader");
    request.topic_data[0].partition_data.truncate(1);
    body.clear();
    request.encode(&mut body, 9).unwrap();
    let outcome = node.session.start(frame(PRODUCE, 9, &body)).unwrap().await;
    assert!(matches!(outcome, Ok(Answer::Silent)));
}

#[tokio::test]
async fn turnstile_is_held_until_the_request_is_queued() {
    let mut node = node();
    let mut body = Vec::new();
    produce(9, -1).encode(&mut body, 9).unwrap();
    let work = node.session.start(frame(PRODUCE, 9, &body)).unwrap();
    assert!(!node.session.turnstile.is_free(), "nothing has been polled yet");
    drop(work);
    assert!(node.session.turnstile.is_free(), "a request that is given up waits for nobody");
}

/// A Fetch of three partitions of `orders`.
fn fetch(version: i16) -> FetchRequest {
    let partition = |index| {
        fetch_request::FetchPartition::default().with_partition(index).with_partition_max_bytes(1 << 20)
    };
    let mut topic = fetch_request::FetchTopic::default().with_partitions((0..3).map(partition).collect());
    if version >= 13 {
        topic.topic_id = ORDERS;
    } else {
        topic.topic = name("orders");
    }
    FetchRequest::default().with_topics(vec![topic]).with_max_bytes(1 << 20).with_isolation_level(1)
}

#[tokio::test]
async fn fetch_of_every_version_carries_batches_and_leader_hints() {
    let mut node = node();
    for version in served(FETCH) {
        let response: FetchResponse = node.ask(FETCH, version, &fetch(version)).await;
        assert_eq!(response.session_id, 0);
        let rows = &response.responses[0].partitions;
        assert_eq!(rows.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 6, 6], "v{version}");
        assert_eq!(rows[0].records.as_deref(), Some(&batch(0)[..]));
        assert_eq!((rows[0].high_watermark, rows[0].last_stable_offset), (41, 41));
        assert_eq!(rows[1].records.as_deref(), Some(&[][..]), "empty, never null");
        assert_eq!(rows[0].aborted_transactions, Some(Vec::new()));
        if version >= 12 {
            assert_eq!((rows[1].current_leader.leader_id.0, rows[1].current_leader.leader_epoch), (2, 6));
        }
        if version >= 16 {
            assert_eq!(response.node_endpoints[0].port, 9092);
        }
    }
}

#[tokio::test]
async fn fetch_session_of_every_version_goes_on_over_another_connection() {
    let mut node = node();
    for version in served(FETCH).filter(|version| *version >= 7) {
        let mut request = fetch(version).with_session_epoch(0);
        request.topics[0].partitions.truncate(2);
        let first: FetchResponse = node.ask(FETCH, version, &request).await;
        let id = first.session_id;
        assert!(id > 0, "v{version}");
        node.reconnect();
        let mut more = fetch(version).with_session_id(id).with_session_epoch(1);
        more.topics.clear();
        let second: FetchResponse = node.ask(FETCH, version, &more).await;
        assert_eq!((second.error_code, second.session_id), (0, id));
        let rows = |response: &FetchResponse| {
            let rows = response.responses.iter().flat_map(|topic| &topic.partitions);
            rows.map(|row| (row.partition_index, row.error_code)).collect::<Vec<_>>()
        };
        assert_eq!(rows(&second), [(0, 0), (1, 6)], "v{version}");
        let again: FetchResponse = node.ask(FETCH, version, &more).await;
        assert_eq!((again.error_code, again.responses.len()), (71, 0), "the same request twice");
        let other = if version >= 13 { 12 } else { 13 };
        let response: FetchResponse = node.ask(FETCH, other, &more.clone().with_session_epoch(2)).await;
        assert_eq!(response.error_code, 106, "topics are named otherwise");
        let mut forget = fetch_request::ForgottenTopic::default().with_partitions(vec![0]);
        (forget.topic, forget.topic_id) = (request.topics[0].topic.clone(), request.topics[0].topic_id);
        let more = more.with_session_epoch(2).with_forgotten_topics_data(vec![forget]);
        let third: FetchResponse = node.ask(FETCH, version, &more).await;
        assert_eq!(rows(&third), [(1, 6)]);
        let end = more.with_session_epoch(-1).with_forgotten_topics_data(Vec::new());
        let ended: FetchResponse = node.ask(FETCH, version, &end).await;
        assert_eq!((ended.error_code, ended.session_id, ended.responses.len()), (0, 0, 0));
        let gone: FetchResponse = node.ask(FETCH, version, &end.with_session_epoch(3)).await;
        assert_eq!(gone.error_code, 70);
    }
    assert_eq!(node.handle.fetch_session_stats().sessions, 0);
}

#[tokio::test]
async fn fetch_that_waits_ends_at_once_when_its_session_goes_on_elsewhere() {
    let mut node = node();
    let version = 12;
    let first: FetchResponse = node.ask(FETCH, version, &fetch(version).with_session_epoch(0)).await;
    let mut more = fetch(version).with_session_id(first.session_id).with_session_epoch(1);
    more.topics.clear();
    let mut body = Vec::new();
    more.clone().with_max_wait_ms(PARKED_MS as i32).encode(&mut body, version).unwrap();
    let waiting = tokio::spawn(node.session.start(frame(FETCH, version, &body)).unwrap());
    tokio::task::yield_now().await;
    node.reconnect();
    let next: FetchResponse = node.ask(FETCH, version, &more.with_session_epoch(2)).await;
    assert_eq!((next.error_code, next.session_id), (0, first.session_id));
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await;
    let mut bytes = joined(ended.expect("at once").unwrap().unwrap());
    bytes.advance(9);
    let ended = FetchResponse::decode(&mut bytes, version).unwrap();
    assert_eq!((ended.error_code, ended.responses.len()), (71, 0));
}

#[tokio::test]
async fn list_offsets_of_every_version_answers_each_partition() {
    let mut node = node();
    for version in served(2) {
        let partition = |index| {
            let timestamp = if index == 0 { -2 } else { -1 };
            list_offsets_request::ListOffsetsPartition::default()
                .with_partition_index(index)
                .with_timestamp(timestamp)
        };
        let topic = list_offsets_request::ListOffsetsTopic::default()
            .with_name(name("orders"))
            .with_partitions((0..4).map(partition).collect());
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let response: ListOffsetsResponse = node.ask(2, version, &request).await;
        let rows = &response.topics[0].partitions;
        let unknown_end = if version >= 5 { 78 } else { 5 };
        assert_eq!(rows.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 6, unknown_end, 3]);
        assert_eq!((rows[0].offset, rows[1].offset), (3, -1));
    }
}

#[tokio::test]
async fn offset_for_leader_epoch_of_every_version_answers_each_partition() {
    let mut node = node();
    for version in served(23) {
        let partition = |index| {
            offset_for_leader_epoch_request::OffsetForLeaderPartition::default()
                .with_partition(index)
                .with_leader_epoch(4)
        };
        let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
            .with_topic(name("orders"))
            .with_partitions([0, 1, 9].map(partition).to_vec());
        let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
        let response: OffsetForLeaderEpochResponse = node.ask(23, version, &request).await;
        let rows = &response.topics[0].partitions;
        assert_eq!(rows.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 6, 3]);
        assert_eq!((rows[0].leader_epoch, rows[0].end_offset), (4, 41));
        assert_eq!((rows[1].leader_epoch, rows[1].end_offset), (-1, -1));
    }
}

#[tokio::test]
async fn init_producer_id_of_every_version_hands_out_a_new_id() {
    let mut node = node();
    for (version, expected) in served(22).zip(5_000..) {
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        let response: InitProducerIdResponse = node.ask(22, version, &request).await;
        let found = (response.error_code, response.producer_id.0, response.producer_epoch);
        assert_eq!(found, (0, expected, 0));
    }
    assert_eq!(node.asked().len(), 1, "one block serves them all");
}

#[tokio::test]
async fn create_topics_of_every_version_answers_each_topic() {
    for version in served(19) {
        let mut node = node();
        let config = create_topics_request::CreatableTopicConfig::default()
            .with_name(string("retention.ms"))
            .with_value(Some(string("1000")));
        let topic = |text| {
            create_topics_request::CreatableTopic::default()
                .with_name(name(text))
                .with_num_partitions(3)
                .with_replication_factor(3)
                .with_configs(vec![config.clone()])
        };
        let topics = vec![topic("fresh"), topic("orders"), topic("__cluster_metadata")];
        let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(5000);
        let response: CreateTopicsResponse = node.ask(19, version, &request).await;
        let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [0, 36, 42]);
        let made = &response.topics[0];
        if version >= 5 {
            assert_eq!((made.num_partitions, made.replication_factor), (3, 3));
            let configs = made.configs.as_deref().expect("never null");
            let set = configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
            assert_eq!(
                (set.value.as_ref().map(|value| value.as_str()), set.config_source),
                (Some("1000"), 1)
            );
            assert!(configs.len() > 5, "defaults are listed too");
        }
        if version >= 7 {
            assert_eq!(made.topic_id, Uuid::from_u128(0xC));
        }
    }
}

#[tokio::test]
async fn delete_topics_of_every_version_answers_each_topic() {
    for version in served(20) {
        let mut node = node();
        let request = if version >= 6 {
            let state = |text| delete_topics_request::DeleteTopicState::default().with_name(Some(name(text)));
            DeleteTopicsRequest::default().with_topics(vec![state("nope"), state("orders")])
        } else {
            DeleteTopicsRequest::default().with_topic_names(vec![name("nope"), name("orders")])
        };
        let response: DeleteTopicsResponse = node.ask(20, version, &request.with_timeout_ms(5000)).await;
        let rows: Vec<_> =
            response.responses.iter().map(|row| (row.name.clone().unwrap(), row.error_code)).collect();
        assert_eq!(rows, [(name("nope"), 3), (name("orders"), 0)]);
    }
}

#[tokio::test]
async fn create_partitions_of_every_version_answers_each_topic() {
    let mut node = node();
    for version in served(37) {
        let topic = |text| {
            create_partitions_request::CreatePartitionsTopic::default().with_name(name(text)).with_count(6)
        };
        let request = CreatePartitionsRequest::default().with_topics(vec![topic("orders"), topic("nope")]);
        let response: CreatePartitionsResponse = node.ask(37, version, &request).await;
        assert_eq!(response.results.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 3]);
    }
}

#[tokio::test]
async fn delete_records_of_every_version_answers_each_partition() {
    let mut node = node();
    for version in served(21) {
        let partition = |(index, offset)| {
            delete_records_request::DeleteRecordsPartition::default()
                .with_partition_index(index)
                .with_offset(offset)
        };
        let topic = delete_records_request::DeleteRecordsTopic::default()
            .with_name(name("orders"))
            .with_partitions([(0, 9), (1, 9), (7, 9), (0, -2)].map(partition).to_vec());
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]);
        let response: DeleteRecordsResponse = node.ask(21, version, &request).await;
        let rows = response.topics[0].partitions.iter().map(|row| (row.error_code, row.low_watermark));
        assert_eq!(rows.collect::<Vec<_>>(), [(0, 9), (6, -1), (3, -1), (1, -1)]);
    }
}

#[tokio::test]
async fn describe_configs_of_every_version_lists_defaults_and_overrides() {
    let mut node = node();
    for version in served(32) {
        let resource = |kind, text| {
            describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(string(text))
                .with_configuration_keys(None)
        };
        let resources = vec![resource(2, "orders"), resource(4, "1"), resource(4, "2"), resource(2, "nope")];
        let mut request =
            DescribeConfigsRequest::default().with_resources(resources).with_include_synonyms(true);
        request.include_documentation = version >= 3;
        let response: DescribeConfigsResponse = node.ask(32, version, &request).await;
        let codes: Vec<i16> = response.results.iter().map(|row| row.error_code).collect();
        assert_eq!(codes, [0, 0, 42, 3]);
        for row in &response.results[..2] {
            assert!(row.configs.len() > 5, "v{version}");
        }
        let topic = &response.results[0].configs;
        let limit = topic.iter().find(|config| config.name.as_str() == "max.message.bytes").unwrap();
        assert_eq!(
            (limit.value.as_ref().map(|value| value.as_str()), limit.config_source),
            (Some("1048588"), 5)
        );
    }
}

#[tokio::test]
async fn incremental_alter_configs_of_every_version_answers_each_resource() {
    let mut node = node();
    for version in served(44) {
        let config = incremental_alter_configs_request::AlterableConfig::default()
            .with_name(string("retention.ms"))
            .with_value(Some(string("1000")));
        let resource = |kind, text| {
            incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(string(text))
                .with_configs(vec![config.clone()])
        };
        let resources = vec![resource(2, "orders"), resource(4, ""), resource(4, "1"), resource(4, "x")];
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let response: IncrementalAlterConfigsResponse = node.ask(44, version, &request).await;
        assert_eq!(response.responses.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 0, 0, 42]);
    }
}

#[tokio::test]
async fn alter_partition_reassignments_of_every_version_answers_each_partition() {
    let mut node = node();
    for version in served(45) {
        let partition = |(index, replicas): (i32, Option<&[i32]>)| {
            alter_partition_reassignments_request::ReassignablePartition::default()
                .with_partition_index(index)
                .with_replicas(replicas.map(|ids| ids.iter().map(|id| BrokerId(*id)).collect()))
        };
        let topic = |text| {
            let partitions = [(0, Some(&[2, 3][..])), (2, None)].map(partition).to_vec();
            alter_partition_reassignments_request::ReassignableTopic::default()
                .with_name(name(text))
                .with_partitions(partitions)
        };
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(5000)
            .with_topics(vec![topic("orders"), topic("nope")]);
        let response: AlterPartitionReassignmentsResponse = node.ask(45, version, &request).await;
        assert_eq!((response.error_code, response.error_message), (0, None));
        let rows = response.responses.iter().flat_map(|topic| {
            topic.partitions.iter().map(|p| (topic.name.as_str(), p.partition_index, p.error_code))
        });
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows, [("orders", 0, 0), ("orders", 2, 85), ("nope", 0, 3), ("nope", 2, 3)]);
    }
}

#[tokio::test]
async fn describe_log_dirs_of_every_version_lists_the_replicas_that_are_here() {
    let mut node = node();
    for version in served(35) {
        let topic = |text, indexes: &[i32]| {
            describe_log_dirs_request::DescribableLogDirTopic::default()
                .with_topic(name(text))
                .with_partitions(indexes.to_vec())
        };
        let some = Some(vec![topic("orders", &[2, 9]), topic("nope", &[0])]);
        for (topics, wanted) in [(None, &[1, 3][..]), (some, &[1]), (Some(Vec::new()), &[])] {
            let request = DescribeLogDirsRequest::default().with_topics(topics);
            let response: DescribeLogDirsResponse = node.ask(35, version, &request).await;
            let directory = &response.results[0];
            assert_eq!((directory.error_code, directory.log_dir.as_str()), (0, "/nowhere"));
            let counts: Vec<_> = directory.topics.iter().map(|topic| topic.partitions.len()).collect();
            assert_eq!(counts, wanted, "v{version}");
            let sizes = directory.topics.iter().flat_map(|topic| &topic.partitions);
            assert!(sizes.into_iter().all(|row| row.partition_size == 100));
        }
    }
}

#[tokio::test]
async fn list_partition_reassignments_shows_what_moves() {
    let mut node = node();
    let moving = Moving {
        since: 7,
        target: vec![NodeId(2), NodeId(4)],
        origin: vec![NodeId(1), NodeId(2)],
        ..Moving::default()
    };
    let mut image = Image::clone(&node.handle.image());
    let partition = &mut image.topics.get_mut("orders").unwrap().partitions[1];
    let replica = |id| crate::segment::ReplicaId { node: NodeId(id), assignment: 7, directory: id as u128 };
    partition.replicas = [2, 4, 1].map(replica).to_vec();
    partition.moving = Some(Box::new(moving));
    node.images.send_replace(Arc::new(image));
    let topic = |text, indexes: &[i32]| {
        list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
            .with_name(name(text))
            .with_partition_indexes(indexes.to_vec())
    };
    let some = vec![topic("orders", &[0, 1, 9]), topic("nope", &[0])];
    let none = vec![topic("orders", &[0])];
    for (topics, count) in [(None, 1), (Some(some), 1), (Some(none), 0), (Some(Vec::new()), 0)] {
        let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(5000).with_topics(topics);
        let response: ListPartitionReassignmentsResponse = node.ask(46, 0, &request).await;
        assert_eq!((response.error_code, response.topics.len()), (0, count));
        for row in response.topics.iter().flat_map(|topic| &topic.partitions) {
            let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
            assert_eq!((row.partition_index, ids(&row.replicas)), (1, vec![2, 4, 1]));
            assert_eq!((ids(&row.adding_replicas), ids(&row.removing_replicas)), (vec![4], vec![1]));
        }
    }
}

#[tokio::test]
async fn elect_leaders_of_every_version_hands_over_and_answers_each_partition() {
    for version in served(43) {
        let mut node = node();
        let topic = |text, indexes: &[i32]| {
            elect_leaders_request::TopicPartitions::default()
                .with_topic(name(text))
                .with_partitions(indexes.to_vec())
        };
        let some = Some(vec![topic("orders", &[0, 9]), topic("nope", &[0])]);
        let request = ElectLeadersRequest::default().with_timeout_ms(5000);
        for (topics, codes) in [(some.clone(), &[0, 3, 3][..]), (some, &[84, 3, 3]), (None, &[0, 0, 0])] {
            let request = request.clone().with_topic_partitions(topics);
            let response: ElectLeadersResponse = node.ask(43, version, &request).await;
            let rows = response.replica_election_results.iter().flat_map(|row| &row.partition_result);
            assert_eq!(rows.map(|row| row.error_code).collect::<Vec<_>>(), codes, "v{version}");
        }
        if version >= 1 {
            let request = request.with_election_type(1).with_topic_partitions(None);
            let response: ElectLeadersResponse = node.ask(43, version, &request).await;
            assert_eq!((response.error_code, response.replica_election_results.len()), (0, 0));
        }
    }
}

#[tokio::test]
async fn describe_quorum_of_every_version_names_voters_learners_and_generation() {
    let mut node = node();
    for version in served(55) {
        let partition = |index| describe_quorum_request::PartitionData::default().with_partition_index(index);
        let topic = |name: &'static str, partitions: Vec<_>| {
            describe_quorum_request::TopicData::default()
                .with_topic_name(TopicName(string(name)))
                .with_partitions(partitions)
        };
        let request = DescribeQuorumRequest::default().with_topics(vec![
            topic("orders", vec![partition(0), partition(1), partition(9)]),
            topic("__cluster_metadata", vec![partition(0), partition(1)]),
        ]);
        let response: DescribeQuorumResponse = node.ask(55, version, &request).await;
        let codes = |topic: usize| -> Vec<i16> {
            response.topics[topic].partitions.iter().map(|row| row.error_code).collect()
        };
        assert_eq!((response.error_code, codes(0), codes(1)), (0, vec![0, 6, 3], vec![0, 3]));
        let row = &response.topics[0].partitions[0];
        assert_eq!((row.leader_id.0, row.leader_epoch, row.high_watermark), (1, 6, 41));
        let ids = |rows: &[describe_quorum_response::ReplicaState]| {
            rows.iter()
                .map(|r| (r.replica_id.0, r.log_end_offset, r.last_fetch_timestamp))
                .collect::<Vec<_>>()
        };
        let heard = if version >= 1 { 1_000 } else { -1 };
        assert_eq!(ids(&row.current_voters), [(1, 41, heard), (2, 41, heard)]);
        assert_eq!(ids(&row.observers), [(3, 41, heard)]);
        assert_eq!(&row.unknown_tagged_fields[&10_000][..], [0, 0, 0, 0, 0, 0, 0, 2, 0]);
        // Of the controllers: no heir, and node 3 is absent.
        let tag = &response.topics[1].partitions[0].unknown_tagged_fields[&10_000];
        assert_eq!(tag[..], [0, 0, 0, 0, 0, 0, 0, 2, 0, 255, 255, 255, 255, 0, 0, 0, 3]);
    }
}

#[tokio::test]
async fn describe_cluster_of_every_version_names_a_live_controller() {
    let mut node = node();
    for version in served(60) {
        let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        let response: DescribeClusterResponse = node.ask(60, version, &request).await;
        assert_eq!((response.error_code, response.controller_id.0, response.brokers.len()), (0, 1, 2));
        assert_eq!(response.cluster_id.as_str(), "the-cluster");
        assert_ne!(response.cluster_authorized_operations, i32::MIN);
    }
}

fn group_id(text: &'static str) -> kafka_protocol::messages::GroupId {
    kafka_protocol::messages::GroupId(string(text))
}

/// A node that has been asked for a coordinator once, and so has the topic of the groups.
async fn coordinator() -> Node {
    let mut node = node();
    let request = FindCoordinatorRequest::default().with_key(string("g"));
    let response: FindCoordinatorResponse = node.ask(10, 0, &request).await;
    assert_eq!((response.error_code, response.node_id.0), (0, 2));
    assert!(node.asked()[0].contains("__consumer_offsets"), "{:?}", node.asked());
    node
}

#[tokio::test]
async fn find_coordinator_of_every_version_names_the_leader_and_creates_the_topic_once() {
    let mut node = coordinator().await;
    for version in served(10) {
        let mut request = FindCoordinatorRequest::default();
        match version {
            4.. => request.coordinator_keys = vec![string("g"), string("h")],
            _ => request.key = string("g"),
        }
        let response: FindCoordinatorResponse = node.ask(10, version, &request).await;
        let named = match version {
            4.. => response.coordinators.iter().map(|row| (row.error_code, row.node_id.0)).collect(),
            _ => vec![(response.error_code, response.node_id.0)],
        };
        assert!(named.iter().all(|row| *row == (0, 2)), "{named:?}");
        if version >= 1 {
            let of_transaction: FindCoordinatorResponse =
                node.ask(10, version, &request.clone().with_key_type(1)).await;
            let rows = of_transaction.coordinators.iter().map(|row| row.error_code);
            assert!(rows.chain((version < 4).then_some(of_transaction.error_code)).all(|code| code == 42));
        }
    }
    assert_eq!(node.asked().len(), 1);
}

#[tokio::test]
async fn joining_syncing_and_leaving_work_in_every_version() {
    let mut node = coordinator().await;
    for version in served(11) {
        let protocol = join_group_request::JoinGroupRequestProtocol::default()
            .with_name(string("range"))
            .with_metadata(Bytes::from_static(b"m"));
        let request = JoinGroupRequest::default()
            .with_group_id(group_id("g"))
            .with_protocol_type(string("consumer"))
            .with_protocols(vec![protocol]);
        let response: JoinGroupResponse = node.ask(11, version, &request).await;
        assert_eq!(response.error_code, if version >= 4 { 79 } else { 0 }, "v{version}");
        assert!(response.member_id.starts_with("test-"), "{}", response.member_id);
        let request = request.with_member_id(response.member_id);
        let response: JoinGroupResponse = node.ask(11, version, &request).await;
        assert_eq!((response.error_code, response.generation_id, response.members.len()), (0, 4, 1));
        let elsewhere: JoinGroupResponse = node.ask(11, version, &request.with_group_id(group_id("h"))).await;
        assert_eq!(elsewhere.error_code, 16);
    }
    for version in served(14) {
        let request = SyncGroupRequest::default().with_group_id(group_id("g")).with_generation_id(4);
        let response: SyncGroupResponse = node.ask(14, version, &request).await;
        assert_eq!((response.error_code, &response.assignment[..]), (0, &b"a"[..]));
    }
    for version in served(12) {
        let request = HeartbeatRequest::default().with_group_id(group_id("g"));
        let response: HeartbeatResponse = node.ask(12, version, &request).await;
        assert_eq!(response.error_code, 0);
    }
    for version in served(13) {
        let mut request = LeaveGroupRequest::default().with_group_id(group_id("g"));
        if version >= 3 {
            request.members = vec![leave_group_request::MemberIdentity::default(); 2];
        }
        let response: LeaveGroupResponse = node.ask(13, version, &request).await;
        assert_eq!((response.error_code, response.members.len()), (0, if version >= 3 { 2 } else { 0 }));
    }
}

#[tokio::test]
async fn offsets_are_committed_fetched_and_deleted_in_every_version() {
    let mut node = coordinator().await;
    for version in served(8) {
        let row = |index| {
            offset_commit_request::OffsetCommitRequestPartition::default().with_partition_index(index)
        };
        let topic = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(name("orders"))
            .with_partitions(vec![row(0), row(9)]);
        let request = OffsetCommitRequest::default().with_group_id(group_id("g")).with_topics(vec![topic]);
        let response: OffsetCommitResponse = node.ask(8, version, &request).await;
        let codes: Vec<i16> = response.topics[0].partitions.iter().map(|row| row.error_code).collect();
        assert_eq!(codes, [0, 3]);
    }
    for version in served(9) {
        let mut request = OffsetFetchRequest::default();
        if version >= 8 {
            let topic = offset_fetch_request::OffsetFetchRequestTopics::default()
                .with_name(name("orders"))
                .with_partition_indexes(vec![0, 2]);
            let group = offset_fetch_request::OffsetFetchRequestGroup::default();
            let of = |text, topics| group.clone().with_group_id(group_id(text)).with_topics(topics);
            request.groups = vec![of("g", Some(vec![topic])), of("h", None), of("g", None)];
        } else {
            let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(name("orders"))
                .with_partition_indexes(vec![0, 2]);
            request = request.with_group_id(group_id("g")).with_topics(Some(vec![topic]));
        }
        let response: OffsetFetchResponse = node.ask(9, version, &request).await;
        if version >= 8 {
            let rows: Vec<_> =
                response.groups.iter().map(|group| (group.error_code, group.topics.len())).collect();
            assert_eq!(rows, [(0, 1), (16, 0), (42, 0)], "a group that is named again is refused");
        } else {
            let rows = &response.topics[0].partitions;
            assert_eq!((rows.len(), rows[1].committed_offset), (2, 41));
            assert_eq!(rows[1].committed_leader_epoch, if version >= 5 { 6 } else { -1 });
        }
    }
    let row =
        |index| offset_delete_request::OffsetDeleteRequestPartition::default().with_partition_index(index);
    let topic = offset_delete_request::OffsetDeleteRequestTopic::default()
        .with_name(name("orders"))
        .with_partitions(vec![row(9), row(0)]);
    let request = OffsetDeleteRequest::default().with_group_id(group_id("g")).with_topics(vec![topic]);
    let response: OffsetDeleteResponse = node.ask(47, 0, &request).await;
    let codes: Vec<i16> = response.topics[0].partitions.iter().map(|row| row.error_code).collect();
    assert_eq!((response.error_code, codes), (0, vec![3, 86]));
}

#[tokio::test]
async fn groups_are_listed_described_and_deleted_in_every_version() {
    let mut node = coordinator().await;
    for version in served(16) {
        let mut request = ListGroupsRequest::default();
        let response: ListGroupsResponse = node.ask(16, version, &request).await;
        assert_eq!((response.error_code, response.groups.len()), (0, 1));
        if version >= 4 {
            request.states_filter = vec![string("empty")];
            let response: ListGroupsResponse = node.ask(16, version, &request).await;
            assert!(response.groups.is_empty());
        }
    }
    for version in served(15) {
        let groups = vec![group_id("g"), group_id("h")];
        let request = DescribeGroupsRequest::default().with_groups(groups);
        let response: DescribeGroupsResponse = node.ask(15, version, &request).await;
        let rows: Vec<_> =
            response.groups.iter().map(|group| (group.error_code, group.group_state.as_str())).collect();
        assert_eq!(rows, [(0, "Stable"), (16, "")]);
    }
    for version in served(42) {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id("h"), group_id("g")]);
        let response: DeleteGroupsResponse = node.ask(42, version, &request).await;
        let codes: Vec<i16> = response.results.iter().map(|row| row.error_code).collect();
        assert_eq!(codes, [16, 0]);
    }
}

#[tokio::test]
async fn alter_configs_of_every_version_answers_each_resource() {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let mut node = node();
    for version in served(33) {
        let config =
            AlterableConfig::default().with_name(string("retention.ms")).with_value(Some(string("5")));
        let resource = |kind: i8, name| {
            AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(string(name))
                .with_configs(vec![config.clone()])
        };
        let resources = vec![resource(2, "orders"), resource(4, ""), resource(16, "m")];
        let request = AlterConfigsRequest::default().with_resources(resources);
        let response: AlterConfigsResponse = node.ask(33, version, &request).await;
        let rows: Vec<_> = response
            .responses
            .iter()
            .map(|r| (r.resource_type, r.resource_name.as_str(), r.error_code))
            .collect();
        assert_eq!(rows, [(2, "orders", 0), (4, "", 0), (16, "m", 42)], "v{version}");
        assert!(response.responses[2].error_message.as_ref().is_some_and(|why| why.contains("KIP-714")));
    }
    assert_eq!(node.asked().iter().filter(|asked| asked.starts_with("AlterConfigs")).count(), 6);
}

#[tokio::test]
async fn features_and_quotas_of_every_version_are_told_as_they_are() {
    let mut node = node();
    for version in served(API_VERSIONS) {
        let name = || string("kafka");
        let request = ApiVersionsRequest::default();
        let request = if version < 3 {
            request
        } else {
            request.with_client_software_name(name()).with_client_software_version(name())
        };
        let response: ApiVersionsResponse = node.ask(API_VERSIONS, version, &request).await;
        let told: Vec<_> =
            response.finalized_features.iter().map(|f| (f.name.as_str(), f.max_version_level)).collect();
        let expected = if version < 3 { vec![] } else { vec![("metadata.version", 27)] };
        assert_eq!(told, expected, "v{version}");
        assert_eq!(response.supported_features.len(), expected.len());
        assert_eq!(response.finalized_features_epoch, if version < 3 { -1 } else { 7 });
    }
    for version in served(57) {
        let update = |feature, level| {
            update_features_request::FeatureUpdateKey::default()
                .with_feature(string(feature))
                .with_max_version_level(level)
        };
        let mut request =
            UpdateFeaturesRequest::default().with_feature_updates(vec![update("metadata.version", 27)]);
        let response: UpdateFeaturesResponse = node.ask(57, version, &request).await;
        assert_eq!((response.error_code, &response.error_message), (0, &None));
        let rows: Vec<_> = response.results.iter().map(|r| (r.feature.as_str(), r.error_code)).collect();
        assert_eq!(rows, if version < 2 { vec![("metadata.version", 0)] } else { Vec::new() }, "v{version}");
        request.feature_updates.push(update("group.version", 1));
        let response: UpdateFeaturesResponse = node.ask(57, version, &request).await;
        assert_eq!((response.error_code, response.results.len()), (95, 0), "v{version}");
    }
    for version in served(48) {
        let request = DescribeClientQuotasRequest::default();
        let response: DescribeClientQuotasResponse = node.ask(48, version, &request).await;
        assert_eq!((response.error_code, response.entries), (0, Some(Vec::new())), "v{version}");
    }
}

#[tokio::test]
async fn config_resources_and_topic_partitions_are_listed() {
    let mut node = node();
    for version in served(74) {
        let response: ListConfigResourcesResponse =
            node.ask(74, version, &ListConfigResourcesRequest::default()).await;
        assert_eq!((response.error_code, response.config_resources.len()), (0, 6 * version as usize));
    }
    let request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(3);
    let first: DescribeTopicPartitionsResponse = node.ask(75, 0, &request).await;
    let shown = |response: &DescribeTopicPartitionsResponse| {
        let row = |topic: &describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic| {
            let name = topic.name.as_ref().expect("a name").as_str().to_owned();
            (name, topic.partitions.iter().map(|p| (p.partition_index, p.leader_id.0)).collect())
        };
        response.topics.iter().map(row).collect::<Vec<(String, Vec<(i32, i32)>)>>()
    };
    assert_eq!(shown(&first), [("__internal".into(), vec![(0, 2)]), ("orders".into(), vec![(0, 2), (1, 2)])]);
    let next = first.next_cursor.expect("there is more");
    assert_eq!((next.topic_name.as_str(), next.partition_index), ("orders", 2));
    let cursor = describe_topic_partitions_request::Cursor::default()
        .with_topic_name(next.topic_name)
        .with_partition_index(2);
    let second: DescribeTopicPartitionsResponse = node.ask(75, 0, &request.with_cursor(Some(cursor))).await;
    assert_eq!(shown(&second), [("orders".into(), vec![(2, 2)])]);
    assert_eq!(second.next_cursor, None);
    assert_eq!(second.topics[0].topic_id, ORDERS);
}
