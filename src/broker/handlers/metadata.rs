//! Metadata (3): brokers, topics, leaders; creates topics that are asked for where that is allowed.
//!
//! Not here: placement and naming collisions (`ctl`), who leads (the node's soft state).
//! Invariants: all live brokers that have the client's listener are listed, at the address of that one, whatever topics are asked for;
//! `controller_id` names one of them; leader epochs are Raft
//! terms; the first leader of a new partition is waited for a moment; a partition that lost its leader names a replica to ask again, after a pause, while a majority of its brokers is alive,
//! since then an election is under way (Kafka names the dead leader until the controller has chosen another), and says
//! LEADER_NOT_AVAILABLE otherwise.

use super::find_coordinator::{is_forming, offsets_topic};
use super::{Call, admin_timeout, controller_id, is_valid_topic, join_all, text};
use crate::broker::api::{NodeHandle, PartitionState};
use crate::broker::config::NodeConfig;
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::TOPIC;
use crate::ctl::command::{Command, CreateTopic, Error as ControllerError};
use crate::ctl::image::{Broker, Image, Partition, Topic};
use crate::segment::{GroupId, NodeId};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use uuid::Uuid;

/// How long a new partition may take to be led before Metadata answers without a leader. From Kafka's controller it has one from the start:
/// most clients back off for much longer than it takes, and rskafka keeps an answer without a leader for good.
const LEADER_PATIENCE: Duration = Duration::from_millis(1_000);
/// Longest wait for elections after a broker's death.
const ELECTION_PATIENCE: Duration = Duration::from_millis(500);
/// Pause before a client is told whom to ask again. What follows (a question about its epoch, a refusal, metadata again) has no pause in
/// librdkafka: it went round a thousand times a second, and its consumer's main thread could stop for good in it.
const ASK_AGAIN_PAUSE: Duration = Duration::from_millis(100);
const LEADER_POLL: Duration = Duration::from_millis(10);
/// First version that says LISTENER_NOT_FOUND.
const LISTENERS: i16 = 6;
/// How long Metadata waits for the controller to create a topic.
const CREATE_TIMEOUT_MS: i32 = 15_000;
/// Operations allowed on a topic without an authorizer, as Kafka's bit field: read, write, create, delete, alter,
/// describe, describe configs, alter configs.
pub(super) const TOPIC_OPERATIONS: i32 =
    1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// Likewise on the cluster: create, alter, describe, cluster action, describe configs, alter configs, idempotent write.
pub(super) const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

/// What one row of the response is about.
#[derive(Debug, PartialEq)]
enum Wanted {
    Topic(String),
    /// Looked for by id, and not there.
    UnknownId(Uuid),
    /// An id where the version does not allow one, or no name at all.
    Invalid(Uuid),
}

/// Answers a Metadata request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: MetadataRequest = call.decode()?;
    let mut image = call.node.image();
    let wanted = wanted(&image, &request, call.version);
    let may_create = request.allow_auto_topic_creation && call.config.auto_create_topics;
    let mut failures = BTreeMap::new();
    if may_create {
        let missing = missing(&image, &wanted);
        if !missing.is_empty() {
            failures = create(&call.node, &call.config, &missing).await;
            image = call.node.image();
        }
    }
    let seen = Seen { image: &image, me: call.node.node_id(), listener: &call.client.listener };
    let groups = groups(&image, &wanted);
    let mut states = settled_states(&call.node, &groups).await;
    let mut new = about_to_be_led(&image, &wanted, &states);
    call.node.awaited(|awaited| awaited.take_out(&mut new));
    if !new.is_empty() {
        let after = settle(&call.node, &new, LEADER_PATIENCE, is_never_led).await;
        let in_vain =
            new.iter().zip(&after).filter(|(_, state)| is_never_led(state)).map(|(group, _)| *group);
        call.node.awaited(|awaited| awaited.note(in_vain, &image));
        states = call.node.partition_states(&groups).await;
    }
    if is_any_without_leader(seen, &wanted, &states) {
        // Asked once: the thread that answers is the one that holds the elections.
        tokio::time::sleep(ASK_AGAIN_PAUSE).await;
        states = call.node.partition_states(&groups).await;
    }
    let mut topics = rows(seen, &wanted, states, &failures, call.version);
    if request.include_topic_authorized_operations && call.version >= 8 {
        for topic in topics.iter_mut().filter(|topic| topic.error_code == code::NONE) {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    let mut response = MetadataResponse::default()
        .with_brokers(brokers(seen))
        .with_cluster_id(Some(text(image.cluster_id.clone())))
        .with_controller_id(BrokerId(controller_id(&image, call.node.node_id(), seen.listener)))
        .with_topics(topics);
    if request.include_cluster_authorized_operations && (8..=10).contains(&call.version) {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    call.respond(&response)
}

/// What is asked for: null means all topics, and in v0 the empty list does.
fn wanted(image: &Image, request: &MetadataRequest, version: i16) -> Vec<Wanted> {
    let all = || image.topics.keys().cloned().map(Wanted::Topic).collect();
    match &request.topics {
        None => all(),
        Some(topics) if topics.is_empty() && version == 0 => all(),
        Some(topics) => topics.iter().map(|topic| wanted_topic(image, topic, version)).collect(),
    }
}

fn wanted_topic(image: &Image, topic: &MetadataRequestTopic, version: i16) -> Wanted {
    let id = topic.topic_id;
    match &topic.name {
        _ if !id.is_nil() && version >= 12 => match image.topic_by_id(id) {
            Some(topic) => Wanted::Topic(topic.name.clone()),
            None => Wanted::UnknownId(id),
        },
        Some(name) if id.is_nil() || version < 10 => Wanted::Topic(name.as_str().to_owned()),
        _ => Wanted::Invalid(id),
    }
}

/// Names that are legal and not taken, each once.
fn missing(image: &Image, wanted: &[Wanted]) -> Vec<String> {
    let mut seen = HashSet::new();
    let names = wanted.iter().filter_map(|topic| match topic {
        Wanted::Topic(name) => Some(name),
        _ => None,
    });
    let missing = names.filter(|name| is_valid_topic(name) && !image.topics.contains_key(*name));
    missing.filter(|name| seen.insert(*name)).cloned().collect()
}

/// Creates topics with the cluster's defaults; answers the codes of those that could not be.
async fn create(node: &NodeHandle, config: &NodeConfig, names: &[String]) -> BTreeMap<String, i16> {
    let create = |name: &String| {
        let (node, name) = (node.clone(), name.clone());
        // Whoever looks at the groups' topic before there is a group must not make it one that forgets.
        let own = (name == TOPIC).then(|| offsets_topic(config));
        let is_early = own.is_some() && is_forming(&node.image(), config);
        async move {
            if is_early {
                return Some((name, code::LEADER_NOT_AVAILABLE));
            }
            let command = Command::CreateTopic(own.unwrap_or_else(|| CreateTopic {
                name: name.clone(),
                partitions: -1,
                replication_factor: -1,
                assignments: None,
                configs: BTreeMap::new(),
                validate_only: false,
            }));
            match node.controller(command, admin_timeout(CREATE_TIMEOUT_MS)).await {
                // Somebody else was faster: as good as created.
                Ok(_) | Err(ControllerError::TopicExists(_)) => None,
                Err(refusal) => {
                    tracing::warn!(topic = name, %refusal, "topic not created");
                    Some((name, error::auto_create(&refusal)))
                }
            }
        }
    };
    join_all(names.iter().map(create).collect()).await.into_iter().flatten().collect()
}

/// Partitions that nobody led yet, as far as is known here, and whose first election must be under way, since a majority is alive.
fn about_to_be_led(image: &Image, wanted: &[Wanted], states: &[PartitionState]) -> Vec<GroupId> {
    let live = |node: NodeId| image.brokers.get(&node).is_some_and(|broker| !broker.fenced);
    let new = partitions(image, wanted)
        .zip(states)
        .filter(|(partition, state)| is_never_led(state) && partition.most(live).contains(&true));
    new.map(|(partition, _)| partition.group).collect()
}

fn is_never_led(state: &PartitionState) -> bool {
    state.leader.is_none() && state.epoch < 0
}

/// Leadership of these groups; waits for elections that are under way, since a client that is told "no leader" asks again a whole second
/// later (librdkafka) and the election takes a tenth of that.
pub(super) async fn settled_states(node: &NodeHandle, groups: &[GroupId]) -> Vec<PartitionState> {
    settle(node, groups, ELECTION_PATIENCE, |state| state.electing).await
}

/// The states once none of them is pending, or when patience ends. Looks less and less often: when a broker dies, all its clients
/// come at once to the thread that holds the elections.
async fn settle(
    node: &NodeHandle,
    groups: &[GroupId],
    patience: Duration,
    pending: impl Fn(&PartitionState) -> bool,
) -> Vec<PartitionState> {
    if groups.is_empty() {
        return Vec::new();
    }
    let started = tokio::time::Instant::now();
    let mut pause = LEADER_POLL;
    loop {
        let states = node.partition_states(groups).await;
        if started.elapsed() >= patience || !states.iter().any(&pending) {
            return states;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(patience / 5);
    }
}

/// All partitions that the rows will name, in their order.
fn partitions<'a>(image: &'a Image, wanted: &[Wanted]) -> impl Iterator<Item = &'a Partition> {
    let topics = wanted.iter().filter_map(|topic| match topic {
        Wanted::Topic(name) => image.topics.get(name),
        _ => None,
    });
    topics.flat_map(|topic| &topic.partitions)
}

fn groups(image: &Image, wanted: &[Wanted]) -> Vec<GroupId> {
    partitions(image, wanted).map(|partition| partition.group).collect()
}

/// Whether a row would name somebody who does not lead.
fn is_any_without_leader(seen: Seen, wanted: &[Wanted], states: &[PartitionState]) -> bool {
    let is = |(partition, state): (&Partition, &PartitionState)| {
        matches!(whom(seen, partition, Some(state)), Named::Contact(_))
    };
    partitions(seen.image, wanted).zip(states).any(is)
}

/// Rows of the response; `states` stand in the order of `groups`.
fn rows(
    seen: Seen,
    wanted: &[Wanted],
    states: Vec<PartitionState>,
    failures: &BTreeMap<String, i16>,
    version: i16,
) -> Vec<MetadataResponseTopic> {
    let mut states = states.into_iter();
    let failed = |name: Option<TopicName>, id: Uuid, code: i16| {
        // The name may be null from v12 on only.
        let name = name.or_else(|| (version < 12).then(TopicName::default));
        MetadataResponseTopic::default().with_error_code(code).with_name(name).with_topic_id(id)
    };
    let row = |wanted: &Wanted| match wanted {
        Wanted::UnknownId(id) => failed(None, *id, code::UNKNOWN_TOPIC_ID),
        Wanted::Invalid(id) => failed(None, *id, code::INVALID_REQUEST),
        Wanted::Topic(name) => match seen.image.topics.get(name) {
            Some(topic) => topic_row(seen, topic, version, &mut states),
            None => {
                let unknown = failures.get(name).copied().unwrap_or(code::UNKNOWN_TOPIC_OR_PARTITION);
                let code = if is_valid_topic(name) { unknown } else { code::INVALID_TOPIC_EXCEPTION };
                failed(Some(TopicName(text(name.clone()))), Uuid::nil(), code)
            }
        },
    };
    wanted.iter().map(row).collect()
}

fn topic_row(
    seen: Seen,
    topic: &Topic,
    version: i16,
    states: &mut impl Iterator<Item = PartitionState>,
) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().zip(0..).map(|(partition, index)| {
        let mut row = partition_row(seen, partition, (index, states.next()));
        if row.error_code == code::LISTENER_NOT_FOUND && version < LISTENERS {
            row.error_code = code::LEADER_NOT_AVAILABLE;
        }
        row
    });
    MetadataResponseTopic::default()
        .with_partitions(partitions.collect())
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_is_internal(topic.internal)
}

pub(super) fn partition_row(
    seen: Seen,
    partition: &Partition,
    (index, state): (i32, Option<PartitionState>),
) -> MetadataResponsePartition {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| BrokerId(node.0)).collect::<Vec<_>>();
    let replicas: Vec<NodeId> = partition.replicas.iter().map(|replica| replica.node).collect();
    let offline: Vec<NodeId> = replicas.iter().copied().filter(|node| !seen.is_reached(*node)).collect();
    let (named, error) = match whom(seen, partition, state.as_ref()) {
        Named::Leader(node) | Named::Contact(node) => (node.0, code::NONE),
        Named::Elsewhere => (-1, code::LISTENER_NOT_FOUND),
        Named::Nobody => (-1, code::LEADER_NOT_AVAILABLE),
    };
    let (leader, mut in_sync, epoch) =
        state.map_or((None, Vec::new(), -1), |state| (state.leader, state.in_sync, state.epoch));
    if let Some(leader) = leader.filter(|leader| seen.is_live(leader.node))
        && !in_sync.contains(&leader.node)
    {
        in_sync.insert(0, leader.node);
    }
    let epoch = leader.map_or(epoch, |leader| leader.epoch);
    MetadataResponsePartition::default()
        .with_error_code(error)
        .with_partition_index(index)
        .with_leader_id(BrokerId(named))
        .with_leader_epoch(epoch)
        .with_replica_nodes(ids(&replicas))
        .with_isr_nodes(ids(&in_sync))
        .with_offline_replicas(ids(&offline))
}

/// What an answer is made from.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The metadata.
    pub(super) image: &'a Image,
    /// The broker that answers.
    pub(super) me: NodeId,
    /// The listener its client came in by.
    pub(super) listener: &'a str,
}

impl Seen<'_> {
    fn is_live(self, node: NodeId) -> bool {
        self.image.brokers.get(&node).is_some_and(|broker| !broker.fenced)
    }

    /// Whether the client can be sent there.
    pub(super) fn is_reached(self, node: NodeId) -> bool {
        let broker = self.image.brokers.get(&node);
        broker.is_some_and(|broker| !broker.fenced && broker.listener(self.listener).is_some())
    }
}

/// Who stands as leader in a row.
enum Named {
    Leader(NodeId),
    /// Somebody to ask again.
    Contact(NodeId),
    /// The leader has no listener of the name that the client came in by.
    Elsewhere,
    Nobody,
}

fn whom(seen: Seen, partition: &Partition, state: Option<&PartitionState>) -> Named {
    let Some(state) = state else { return Named::Nobody };
    match state.leader {
        // Clients can only follow to a broker that is listed.
        Some(leader) if seen.is_reached(leader.node) => Named::Leader(leader.node),
        Some(leader) if seen.is_live(leader.node) => Named::Elsewhere,
        // Of a new partition nobody is named before its first leader: what is sent with acks=0 meanwhile would be lost unseen.
        None if is_never_led(state) => Named::Nobody,
        _ => {
            let contact =
                contact(seen.me, partition, |node| seen.is_live(*node), |node| seen.is_reached(*node));
            contact.map_or(Named::Nobody, Named::Contact)
        }
    }
}

/// Whom a client may ask while a leader is being elected: a live replica, this broker if it is one. It answers NOT_LEADER_OR_FOLLOWER
/// until it knows better, after which any client asks for metadata again; told "no leader", librdkafka holds that for final in some of
/// its calls until its metadata expires, minutes later.
fn contact(
    me: NodeId,
    partition: &Partition,
    live: impl Fn(&NodeId) -> bool,
    reached: impl Fn(&NodeId) -> bool,
) -> Option<NodeId> {
    let nodes = partition.replicas.iter().map(|replica| replica.node);
    let alive: Vec<NodeId> = nodes.filter(|node| live(node) && reached(node)).collect();
    let is_electable = partition.most(|node| live(&node)).contains(&true);
    let here = alive.contains(&me).then_some(me);
    is_electable.then(|| here.or_else(|| alive.first().copied())).flatten()
}

/// All brokers that are alive and have the client's listener.
fn brokers(seen: Seen) -> Vec<MetadataResponseBroker> {
    let row = |broker: &Broker| {
        let at = seen.image.advertised(broker.node, seen.listener)?;
        let row = MetadataResponseBroker::default()
            .with_node_id(BrokerId(broker.node.0))
            .with_host(text(at.host))
            .with_port(i32::from(at.port))
            .with_rack(broker.rack.clone().map(text));
        Some(row)
    };
    seen.image.live_brokers().filter_map(row).collect()
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;
