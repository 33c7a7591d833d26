//! The metadata image: `apply` is pure; same log, same image on every node.
//!
//! Not here: who decides what is written (`decide`), how an entry reaches a node (`raftlog`), the typed meaning of
//! configuration values (`configs`). Called by every node for each committed controller entry, and by the controller
//! leader's deciding. Invariants (checked by property tests):
//! - an entry is applied whole or not at all; what does not fit is an error, never skipped, and changes nothing;
//! - every number is taken from the entry: incarnation and assignment = its number, group ids count on from
//!   `max(next_group, generation * 2^40 + 1)`, so that a recovered group 0 starts above anything handed out (F20);
//! - `topics`, `topic_names` and `groups` name exactly the same partitions;
//! - a replica id never changes once placed: neither a registration nor a wiped disk touches it; a record that places the replica
//!   anew gives it another one (F6);
//! - replicas leave a partition only by a record that says that they are members of its group no more (`reassign`);
//! - `sealing` names exactly the groups whose generation is to end; at most one decision per generation (F2);
//! - what may lose something is decided only as an approval says (`recovery`).
use super::command::{Defaults, TopicConfig};
use super::offline::ControllerRecovery;
use super::reassign::Moving;
use super::record::{Batch, Endpoint, Record, VERSION};
use super::recovery::{Approval, Approved, Recovery};
use super::{configs, names};
use crate::mutation::{Mutation, on};
use crate::raftlog::generation::Decision;
use crate::segment::{GroupId, LogId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Bits of a number that hold the index; the generation stands above them.
pub const INDEX_BITS: u32 = 40;

/// Everything the controller log says. Written as it stands into snapshots: what a later version adds, an earlier one must refuse.
/// So every type that it holds refuses fields that it does not know, and keeps its names; and what `apply` makes of a record stays as it
/// is: a snapshot carries the outcome on to versions that never saw the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Empty until entry 1.
    pub cluster_id: String,
    /// Number (generation * 2^40 + index) of the last applied entry.
    pub applied: u64,
    /// Every broker that registered, and was not unregistered since.
    pub brokers: BTreeMap<NodeId, Broker>,
    /// Topics by name. A deleted topic is gone: its record is the tombstone.
    pub topics: BTreeMap<String, Topic>,
    /// Name of each topic id.
    pub topic_names: BTreeMap<Uuid, String>,
    /// Which topic and partition a group is.
    pub groups: BTreeMap<GroupId, (Uuid, i32)>,
    /// Groups whose generation is to end: sealed, and no decision yet.
    #[serde(default)]
    pub sealing: BTreeSet<GroupId>,
    /// Every recovery that an operator approved, in order: the audit.
    #[serde(default)]
    pub recoveries: Vec<Recovery>,
    /// Every generation of the controllers' own group that was opened offline, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controller_recoveries: Vec<ControllerRecovery>,
    /// Data directories that were given up by one of them, and whose they were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<Uuid, NodeId>,
    /// Cluster-wide dynamic broker configuration.
    pub configs: BTreeMap<String, String>,
    /// Groups of deleted topics, first and last id of each run: what a snapshot says in place of the tombstones before it.
    #[serde(default)]
    pub deleted: BTreeMap<u64, u64>,
    /// Dynamic configuration of single brokers.
    #[serde(default)]
    pub broker_configs: BTreeMap<NodeId, BTreeMap<String, String>>,
    /// Lower bound of the next group id.
    pub next_group: u64,
    /// Lower bound of the next producer id.
    pub next_producer_id: i64,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Kafka's broker id.
    pub node: NodeId,
    /// Number of its last registration.
    pub incarnation: u64,
    /// Uuid of the data directory it registered with.
    pub directory: Uuid,
    /// What its first listener advertises to clients (`Image::advertised` says what they are told).
    pub kafka: Endpoint,
    /// What all of them advertise, unless there is but `PLAINTEXT`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listeners: BTreeMap<String, Endpoint>,
    /// Where brokers and controllers reach it.
    pub peer: Endpoint,
    /// Failure domain, if told.
    pub rack: Option<String>,
    /// Clients are steered away; it gets no new replicas. It never stops a Raft leader (safety.md F19).
    pub fenced: bool,
    /// It announced that it stops in order: it is expected back.
    #[serde(default)]
    pub stopping: bool,
    /// Nobody waits for it: its replicas are not to be voters.
    #[serde(default)]
    pub dead: bool,
}

/// What an operator wants to leave a broker ([`DRAIN`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Nothing: it takes what comes.
    #[default]
    None,
    /// Leaderships; and it gets no new replicas.
    Leaders,
    /// Its replicas too, and then its registration: it is decommissioned.
    Replicas,
}

/// The configuration of a broker that says so. Kept like any other, so it is in snapshots and outlives the registration.
pub const DRAIN: &str = "broker.drain";

impl Drain {
    /// By its name.
    pub fn named(name: &str) -> Self {
        match name {
            "leaders" => Drain::Leaders,
            "replicas" => Drain::Replicas,
            _ => Drain::None,
        }
    }
}

/// What the controllers hold a broker for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In service.
    Live,
    /// Silent: clients are steered away.
    Fenced,
    /// Fenced, by its own announcement.
    Stopping,
    /// Fenced, and its groups go on without it.
    Dead,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, new after re-creation.
    pub id: Uuid,
    /// By partition number.
    pub partitions: Vec<Partition>,
    /// What was set on the topic itself.
    pub configs: BTreeMap<String, String>,
    /// One of the brokers' own.
    pub internal: bool,
    /// Number of the record since which `recovery.policy` is `auto`, if it is: no record between said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_since: Option<u64>,
}

impl Topic {
    /// What counts as set on the topic itself: the offsets of consumer groups are compacted where nothing is said, also in a cluster that
    /// created their topic before there was compaction.
    pub fn overrides(&self) -> Cow<'_, BTreeMap<String, String>> {
        if self.name != names::OFFSETS || self.configs.contains_key("cleanup.policy") {
            return Cow::Borrowed(&self.configs);
        }
        let mut configs = self.configs.clone();
        configs.insert("cleanup.policy".into(), "compact".into());
        Cow::Owned(configs)
    }

    /// Its own configuration was set by the record of this number.
    fn note_policy(&mut self, number: u64) {
        let is_auto = self.configs.get("recovery.policy").is_some_and(|policy| policy == "auto");
        self.auto_since = is_auto.then(|| self.auto_since.unwrap_or(number));
        if !is_auto {
            self.partitions.iter_mut().for_each(|partition| partition.leased = None);
        }
    }
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its Raft group.
    pub group: GroupId,
    /// Where it is to be, preferred leader first; behind them, while it moves, those that are to leave. Who of them votes is in the
    /// group's own log.
    pub replicas: Vec<ReplicaId>,
    /// Its voters at creation, where they are others; see [`Partition::founders`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub founders: Vec<ReplicaId>,
    /// Recovery generation the controllers last opened for it.
    pub generation: u64,
    /// The plan by which that generation is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<u64>,
    /// A plan that may lose records is approved to end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Box<Approval>>,
    /// How that generation began; none in generation 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Box<Decision>>,
    /// A reassignment under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Box<Moving>>,
    /// Entry of the committed configuration by which replicas last left it.
    #[serde(default, skip_serializing_if = "is_founding")]
    pub configured: LogId,
    /// Made under another policy, it is one with `recovery.policy=auto` by now: whoever runs a replica knows, from this committed
    /// configuration on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<LogId>,
    /// The last replica of each broker that a record said had left: it, and whatever was placed there before it, may be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<ReplicaId>,
    /// The controllers lost records, and nobody was seen to lead it since: what its newest generation is the metadata may not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

impl Partition {
    /// The group's voters at creation: the configuration that its log begins with.
    pub fn founders(&self) -> &[ReplicaId] {
        if self.founders.is_empty() { &self.replicas } else { &self.founders }
    }
}

/// A difference between two images that a node has to act on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Change {
    /// A group is gone: its replicas may be deleted.
    GroupRemoved {
        /// The group.
        group: GroupId,
        /// The topic it was part of.
        topic: Uuid,
        /// The partition it was.
        partition: i32,
    },
    /// A topic was deleted, by a record: what is kept of it elsewhere may go.
    TopicRemoved {
        /// Its name, which may be another topic's by now.
        name: String,
    },
    /// A replica moved away: its data may be deleted.
    ReplicaRemoved {
        /// The group.
        group: GroupId,
        /// The replica, which is no member of the group any more.
        replica: ReplicaId,
    },
    /// A broker is new, or anything about it changed (a new incarnation included).
    BrokerChanged {
        /// Which.
        node: NodeId,
    },
    /// A broker is gone.
    BrokerRemoved {
        /// Which.
        node: NodeId,
    },
    /// Configuration of all brokers, or of one, changed: every topic's effective configuration may have.
    ClusterConfigChanged,
    /// A group is new.
    GroupAdded {
        /// The group.
        group: GroupId,
        /// Its topic.
        topic: Uuid,
        /// Its partition.
        partition: i32,
    },
    /// Replicas or generation of a group changed.
    GroupChanged {
        /// The group.
        group: GroupId,
    },
    /// The topic's own configuration changed.
    TopicConfigChanged {
        /// The topic.
        topic: Uuid,
    },
}

impl Image {
    /// Number of an entry of the controller log: generation * 2^40 + index.
    ///
    /// # Panics
    /// A generation of 2^23 or an index of 2^40 does not fit an int64 (a million entries a second for 12 days).
    pub fn number(generation: u64, index: u64) -> u64 {
        assert!(generation < 1 << (63 - INDEX_BITS), "controller generation {generation} does not fit");
        assert!(index < 1 << INDEX_BITS, "controller index {index} does not fit");
        let generation = if on(Mutation::NumberWithoutGeneration) { 0 } else { generation };
        (generation << INDEX_BITS) | index
    }

    /// Applies the entry with this number. Pure; records that do not fit are errors in the log, never silently skipped.
    ///
    /// # Errors
    /// Says which record does not fit and why; the image is then as before.
    pub fn apply(&mut self, number: u64, batch: &Batch) -> Result<(), String> {
        self.apply_with_changes(number, batch).map(drop)
    }

    /// [`Image::apply`], also saying what a node has to act on: the cheap way to what [`Image::diff`] would say.
    ///
    /// # Errors
    /// As `apply`.
    pub fn apply_with_changes(&mut self, number: u64, batch: &Batch) -> Result<Vec<Change>, String> {
        if number <= self.applied {
            return Err(format!("entry {number} comes after {}, which is applied already", self.applied));
        }
        if number > i64::MAX as u64 {
            return Err(format!("entry number {number} does not fit an int64"));
        }
        if batch.v != VERSION {
            return Err(format!("entry {number} has format version {}, this node reads {VERSION}", batch.v));
        }
        let mut changes = Vec::new();
        match &batch.records[..] {
            // One record checks itself before it changes anything; several may depend on one another, so they are
            // tried on a copy first.
            [record] => self.apply_record(number, record, &mut changes)?,
            records => {
                let mut next = self.clone();
                for (at, record) in records.iter().enumerate() {
                    next.apply_record(number, record, &mut changes)
                        .map_err(|e| format!("record {at} of entry {number}: {e}"))?;
                }
                *self = next;
            }
        }
        self.applied = number;
        Ok(changes)
    }

    /// Topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Topic> {
        self.topics.get(self.topic_names.get(&id)?)
    }

    /// Partition of a topic.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    /// Topic, partition number and partition of a group.
    pub fn group(&self, group: GroupId) -> Option<(&Topic, i32, &Partition)> {
        let (id, number) = *self.groups.get(&group)?;
        let topic = self.topic_by_id(id)?;
        Some((topic, number, topic.partitions.get(usize::try_from(number).ok()?)?))
    }

    /// Whether the group was a deleted topic's.
    pub fn is_deleted(&self, group: GroupId) -> bool {
        self.deleted.range(..=group.0).next_back().is_some_and(|(_, last)| group.0 <= *last)
    }

    /// Brokers that are not fenced.
    pub fn live_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|b| !b.fenced)
    }

    /// What an operator wants to leave this broker.
    pub fn drain(&self, node: NodeId) -> Drain {
        let value = self.broker_configs.get(&node).and_then(|own| own.get(DRAIN));
        value.map_or(Drain::None, |value| Drain::named(value))
    }

    /// Whether a broker may get replicas: it is live and not drained.
    pub fn is_open(&self, broker: &Broker) -> bool {
        !broker.fenced && self.drain(broker.node) == Drain::None
    }

    /// Whether the replica is on the disk its broker registered with. A broker whose disk was wiped keeps its name but
    /// no longer holds the replicas placed on the old disk (safety.md F6). Nor does one whose disk was given up (`offline`).
    pub fn holds(&self, replica: &ReplicaId) -> bool {
        let is_on = |broker: &Broker| broker.directory.as_u128() == replica.directory;
        self.brokers.get(&replica.node).is_some_and(is_on) && !self.is_given_up(replica)
    }

    /// Effective topic configuration: topic, else cluster-wide dynamic, else `defaults`.
    ///
    /// Parses a dozen short texts: callers on the produce path keep the result until the image changes.
    pub fn topic_config(&self, topic: &Topic, defaults: &Defaults) -> TopicConfig {
        configs::typed(&topic.overrides(), &self.configs, defaults)
    }

    /// What a node that has acted on `old` must act on to have acted on `new`: removals first, then brokers, then
    /// the rest. Costs a walk over both.
    pub fn diff(old: &Image, new: &Image) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&group, &(topic, partition)) in &old.groups {
            if !new.groups.contains_key(&group) {
                changes.push(Change::GroupRemoved { group, topic, partition });
            }
        }
        let gone = old.topic_names.iter().filter(|(id, _)| !new.topic_names.contains_key(id));
        changes.extend(gone.map(|(_, name)| Change::TopicRemoved { name: name.clone() }));
        for (&node, broker) in &new.brokers {
            if old.brokers.get(&node) != Some(broker) {
                changes.push(Change::BrokerChanged { node });
            }
        }
        for &node in old.brokers.keys() {
            if !new.brokers.contains_key(&node) {
                changes.push(Change::BrokerRemoved { node });
            }
        }
        if old.configs != new.configs || old.broker_configs != new.broker_configs {
            changes.push(Change::ClusterConfigChanged);
        }
        for topic in new.topics.values() {
            Self::diff_topic(old.topic_by_id(topic.id), topic, &mut changes);
        }
        changes
    }

    fn diff_topic(old: Option<&Topic>, new: &Topic, changes: &mut Vec<Change>) {
        for (number, partition) in new.partitions.iter().enumerate() {
            match old.and_then(|t| t.partitions.get(number)) {
                None => changes.push(Change::GroupAdded {
                    group: partition.group,
                    topic: new.id,
                    partition: number as i32,
                }),
                Some(before) if before != partition => {
                    // One whose disk was replaced is not deleted: it was placed anew on another.
                    let left = |r: &&ReplicaId| {
                        let anew = partition.replicas.iter().find(|other| other.node == r.node);
                        anew.is_none_or(|other| other.directory == r.directory && other != *r)
                    };
                    let group = partition.group;
                    let left = before.replicas.iter().filter(left);
                    changes.extend(left.map(|r| Change::ReplicaRemoved { group, replica: *r }));
                    changes.push(Change::GroupChanged { group: partition.group });
                }
                Some(_) => {}
            }
        }
        if old.is_some_and(|t| t.configs != new.configs) {
            changes.push(Change::TopicConfigChanged { topic: new.id });
        }
    }

    /// One record: checked whole, then done. On an error nothing has changed.
    fn apply_record(
        &mut self,
        number: u64,
        record: &Record,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        match record {
            Record::Cluster { id } => self.apply_cluster(id),
            Record::Broker { node, directory, kafka, listeners, peer, rack } => {
                let broker = Broker::live((*node, number, *directory), (kafka, listeners, peer), rack);
                self.apply_broker(broker, changes)
            }
            Record::Fence { node, incarnation } => {
                self.apply_standing(*node, *incarnation, Standing::Fenced, changes)
            }
            Record::Stopping { node, incarnation } => {
                self.apply_standing(*node, *incarnation, Standing::Stopping, changes)
            }
            Record::Dead { node, incarnation } => {
                self.apply_standing(*node, *incarnation, Standing::Dead, changes)
            }
            Record::Unfence { node, incarnation } => {
                self.apply_standing(*node, *incarnation, Standing::Live, changes)
            }
            Record::Seal { groups } => self.apply_seal(number, groups, changes),
            Record::Generation { openings } => self.apply_generation(number, openings, changes),
            Record::Recover { id, reason, at_ms, plans, auto } => {
                let approved = Approved { id, reason, at_ms: *at_ms, auto: *auto };
                self.apply_recovery(number, approved, plans, changes)
            }
            Record::RecoveryProgress { steps } => self.apply_progress(steps, changes),
            Record::Place { node, groups } => self.apply_place(number, *node, groups, changes),
            Record::Anew { replicas } => self.apply_anew(number, replicas, changes),
            Record::Reassign { moves, by_controllers } => {
                self.apply_reassign(number, moves, *by_controllers, changes)
            }
            Record::Unregister { node } => self.apply_unregister(*node, changes),
            Record::Leased { groups } => self.apply_leased(groups, changes),
            Record::Reassigned { arrivals } => self.apply_reassigned(arrivals, changes),
            Record::Topic { name, id, replicas, configs } => {
                self.apply_topic(number, name, *id, replicas, configs, changes)
            }
            Record::Partitions { id, replicas } => self.apply_partitions(number, *id, replicas, changes),
            Record::DeleteTopic { id } => self.apply_delete(*id, changes),
            Record::TopicConfig { id, changes: settings } => {
                self.apply_topic_config(number, *id, settings, changes)
            }
            Record::ClusterConfig { changes: settings } => self.apply_cluster_config(settings, changes),
            Record::BrokerConfig { node, changes: settings } => {
                self.apply_broker_config(*node, settings, changes)
            }
            Record::ProducerIds { node, first, count } => self.apply_producer_ids(*node, *first, *count),
            Record::ControllersRecovered(recovery) => {
                self.apply_controller_recovery(number, recovery, changes)
            }
            Record::Confirmed { groups } => self.apply_confirmed(groups, changes),
            // For those who do not have what lies before.
            Record::Snapshot(_) => Ok(()),
            Record::Group { group } => Err(format!("group record of a later version (group {group})")),
        }
    }

    fn apply_cluster_config(
        &mut self,
        settings: &BTreeMap<String, Option<String>>,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        let changed = set_all(&mut self.configs, settings);
        changes.extend(changed.then_some(Change::ClusterConfigChanged));
        Ok(())
    }

    fn apply_cluster(&mut self, id: &str) -> Result<(), String> {
        if id.is_empty() {
            return Err("cluster id is empty".into());
        }
        if !self.cluster_id.is_empty() {
            return Err(format!("cluster {} is born already, got {id}", self.cluster_id));
        }
        self.cluster_id = id.to_owned();
        Ok(())
    }

    fn apply_broker(&mut self, broker: Broker, changes: &mut Vec<Change>) -> Result<(), String> {
        let node = broker.node;
        if node.0 < 0 {
            return Err(format!("broker id {node} is negative"));
        }
        // Two registrations in one entry would share an incarnation.
        if self.brokers.get(&node).is_some_and(|b| b.incarnation == broker.incarnation) {
            return Err(format!("broker {node} registers twice in entry {}", broker.incarnation));
        }
        self.brokers.insert(node, broker);
        changes.push(Change::BrokerChanged { node });
        Ok(())
    }

    fn apply_standing(
        &mut self,
        node: NodeId,
        incarnation: u64,
        standing: Standing,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        let broker = self.brokers.get_mut(&node).ok_or_else(|| format!("broker {node} is not registered"))?;
        if broker.incarnation != incarnation {
            return Err(format!(
                "broker {node} is registered with incarnation {}, not {incarnation}",
                broker.incarnation
            ));
        }
        let before = (broker.fenced, broker.stopping, broker.dead);
        broker.fenced = standing != Standing::Live;
        match standing {
            Standing::Live => (broker.stopping, broker.dead) = (false, false),
            Standing::Fenced => {}
            Standing::Stopping => broker.stopping = true,
            Standing::Dead => broker.dead = true,
        }
        if before != (broker.fenced, broker.stopping, broker.dead) {
            changes.push(Change::BrokerChanged { node });
        }
        Ok(())
    }

    fn apply_topic(
        &mut self,
        number: u64,
        name: &str,
        id: Uuid,
        replicas: &[Vec<NodeId>],
        configs: &BTreeMap<String, String>,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        if self.topics.contains_key(name) {
            return Err(format!("topic `{name}` exists already"));
        }
        if id.is_nil() {
            return Err(format!("topic `{name}` has no id"));
        }
        if let Some(other) = self.topic_names.get(&id) {
            return Err(format!("topic id {id} is `{other}` already"));
        }
        let partitions = self.new_partitions(number, 0, replicas)?;
        let mut topic = Topic {
            name: name.to_owned(),
            id,
            partitions: Vec::new(),
            configs: configs.clone(),
            internal: names::is_internal(name),
            auto_since: None,
        };
        topic.note_policy(number);
        self.take_partitions(&mut topic, partitions, changes);
        self.topic_names.insert(id, name.to_owned());
        self.topics.insert(name.to_owned(), topic);
        Ok(())
    }

    fn apply_partitions(
        &mut self,
        number: u64,
        id: Uuid,
        replicas: &[Vec<NodeId>],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        let have = self.topic_mut(id)?.partitions.len();
        let partitions = self.new_partitions(number, have, replicas)?;
        let name = self.topic_names[&id].clone();
        let mut topic = self.topics.remove(&name).expect("topic_mut found it under this name");
        self.take_partitions(&mut topic, partitions, changes);
        self.topics.insert(name, topic);
        Ok(())
    }

    fn apply_topic_config(
        &mut self,
        number: u64,
        id: Uuid,
        settings: &BTreeMap<String, Option<String>>,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        let topic = self.topic_mut(id)?;
        if set_all(&mut topic.configs, settings) {
            topic.note_policy(number);
            changes.push(Change::TopicConfigChanged { topic: id });
        }
        Ok(())
    }

    fn apply_delete(&mut self, id: Uuid, changes: &mut Vec<Change>) -> Result<(), String> {
        let name = self.topic_names.remove(&id).ok_or_else(|| format!("unknown topic id {id}"))?;
        let topic = self.topics.remove(&name).expect("every id in topic_names is a topic");
        for (number, partition) in topic.partitions.iter().enumerate() {
            self.groups.remove(&partition.group);
            self.sealing.remove(&partition.group);
            self.bury(partition.group);
            changes.push(Change::GroupRemoved {
                group: partition.group,
                topic: id,
                partition: number as i32,
            });
        }
        changes.push(Change::TopicRemoved { name });
        Ok(())
    }

    /// Ids are never used again, so runs only grow and meet.
    fn bury(&mut self, group: GroupId) {
        let mut first = group.0;
        let last = self.deleted.remove(&(group.0 + 1)).unwrap_or(group.0);
        if let Some((before, end)) = self.deleted.range_mut(..first).next_back()
            && *end + 1 == first
        {
            first = *before;
        }
        self.deleted.insert(first, last);
    }

    fn apply_broker_config(
        &mut self,
        node: NodeId,
        settings: &BTreeMap<String, Option<String>>,
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        // Of one that was decommissioned there is nothing else left.
        if !self.brokers.contains_key(&node) && !self.broker_configs.contains_key(&node) {
            return Err(format!("broker {node} is not registered"));
        }
        let own = self.broker_configs.entry(node).or_default();
        if set_all(own, settings) {
            changes.push(Change::ClusterConfigChanged);
        }
        if own.is_empty() {
            self.broker_configs.remove(&node);
        }
        Ok(())
    }

    fn apply_producer_ids(&mut self, node: NodeId, first: i64, count: i32) -> Result<(), String> {
        if !self.brokers.contains_key(&node) {
            return Err(format!("broker {node} is not registered"));
        }
        if count <= 0 {
            return Err(format!("a block of {count} producer ids"));
        }
        if first < self.next_producer_id {
            return Err(format!(
                "producer ids from {first} on, but ids below {} are given out",
                self.next_producer_id
            ));
        }
        self.next_producer_id = first
            .checked_add(i64::from(count))
            .ok_or_else(|| format!("producer ids from {first} on exceed an int64"))?;
        Ok(())
    }

    fn topic_mut(&mut self, id: Uuid) -> Result<&mut Topic, String> {
        let name = self.topic_names.get(&id).ok_or_else(|| format!("unknown topic id {id}"))?;
        Ok(self.topics.get_mut(name).expect("every id in topic_names is a topic"))
    }

    /// The partitions these lists make, checked; `have` exist already. Nothing is changed yet.
    fn new_partitions(
        &self,
        number: u64,
        have: usize,
        replicas: &[Vec<NodeId>],
    ) -> Result<Vec<Partition>, String> {
        if replicas.is_empty() {
            return Err("no partitions".into());
        }
        if have + replicas.len() > i32::MAX as usize {
            return Err(format!("{} partitions exceed an int32", have + replicas.len()));
        }
        let first = self.next_group.max(((number >> INDEX_BITS) << INDEX_BITS) | 1);
        first.checked_add(replicas.len() as u64).ok_or("group ids are used up")?;
        let mut partitions = Vec::with_capacity(replicas.len());
        for (at, nodes) in replicas.iter().enumerate() {
            let ids = self.replica_ids(number, nodes).map_err(|e| format!("partition {}: {e}", have + at))?;
            partitions.push(Partition {
                group: GroupId(first + at as u64),
                replicas: ids,
                ..Partition::default()
            });
        }
        Ok(partitions)
    }

    /// Replica ids of a partition placed by entry `number` on the disks these brokers have now.
    fn replica_ids(&self, number: u64, nodes: &[NodeId]) -> Result<Vec<ReplicaId>, String> {
        if nodes.is_empty() {
            return Err("no replicas".into());
        }
        let mut seen = BTreeSet::new();
        nodes
            .iter()
            .map(|&node| {
                if !seen.insert(node) {
                    return Err(format!("broker {node} twice"));
                }
                let broker =
                    self.brokers.get(&node).ok_or_else(|| format!("broker {node} is not registered"))?;
                Ok(ReplicaId { node, assignment: number, directory: broker.directory.as_u128() })
            })
            .collect()
    }

    /// Adds checked partitions to a topic and to the index of groups.
    fn take_partitions(&mut self, topic: &mut Topic, partitions: Vec<Partition>, changes: &mut Vec<Change>) {
        for partition in partitions {
            let (group, number) = (partition.group, topic.partitions.len() as i32);
            self.groups.insert(group, (topic.id, number));
            self.next_group = group.0 + 1;
            topic.partitions.push(partition);
            changes.push(Change::GroupAdded { group, topic: topic.id, partition: number });
        }
    }
}

fn is_founding(id: &LogId) -> bool {
    *id == LogId::default()
}

/// Sets (Some) or removes (None) each; says whether anything is different now.
fn set_all(into: &mut BTreeMap<String, String>, settings: &BTreeMap<String, Option<String>>) -> bool {
    let mut changed = false;
    for (key, value) in settings {
        changed |= match value {
            Some(value) => into.insert(key.clone(), value.clone()).as_ref() != Some(value),
            None => into.remove(key).is_some(),
        };
    }
    changed
}
