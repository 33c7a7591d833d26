//! The controller log applied: replicas created and deleted, peers known, this broker registered.
//!
//! How a node finds its cluster: a directory that is empty asks every controller `WhoAreYou`. Whoever belongs to a cluster answers
//! with it; only when *all* controllers answer "empty" does the lowest of them found a new one (design section 6).
//! A replica is created when the log places it here and deleted when the log holds the topic's tombstone, or its own once it has moved
//! away, never because something is absent (reliability.md I13). Registration opens the boot gate (safety.md F16). None is created
//! before it: a process that reads the log again, or has lost part of it, meets placements of replicas that it deleted in an earlier life,
//! and one made anew would bear an id that has voted and acknowledged (F6). What is committed behind the registration is newer than
//! anything this disk has acted on.

use super::control::Target;
use super::lease::Holder;
use super::rpc::{Answer, Ask};
use super::snapshot::Snapshots;
use super::{CONTROLLER, Now, Shard, ShardConfig};
use crate::broker::partition::Partition;
use crate::ctl::command::{Command as CtlCommand, Error as CtlError, Reply as CtlReply, TopicConfig};
use crate::ctl::configs;
use crate::ctl::image::{Change, Drain, Image};
use crate::ctl::lease;
use crate::ctl::listeners;
use crate::ctl::record::Batch;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::raftlog::engine::Flush;
use crate::raftlog::message::Configuration;
use crate::segment::{
    Entry, EntryKind, Epoch, Generation, GroupId, GroupOptions, GroupSpec, HardState, Index, LogStart,
    NodeId, RecoveredGroup, Remains, ReplicaId, Term,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

const ASK_MS: u64 = 100;
const REGISTER_MS: u64 = 3_000;
/// broker.heartbeat.interval.ms, unless the session is short.
const HEARTBEAT_MS: u64 = 2_000;
/// Bytes a second for replicas far behind.
const THROTTLE: &str = "leader.replication.throttled.rate";
/// Controller entries read at once.
const APPLY_BYTES: usize = 4 << 20;

/// What this node is to its cluster.
pub struct Membership {
    cluster: Option<String>,
    voters: Vec<ReplicaId>,
    /// Directories of controllers that answered "empty".
    empty: BTreeMap<NodeId, u128>,
    joined: bool,
    applied: Index,
    pub(super) snapshots: Snapshots,
    registration: Registration,
    next: Millis,
    stopping: bool,
    /// The log holds something this version cannot apply, or could not be read for a session: nothing is acted on any more.
    broken: bool,
    /// The image came to a registration of this process: it is newer than anything that this disk's replicas were deleted by.
    is_level: bool,
    /// Since when entries cannot be read; they are read again until a session has passed.
    unread_since: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    None,
    Asked,
    Known(u64),
    Open(u64),
}

impl Membership {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            cluster: config.cluster.clone(),
            voters: Vec::new(),
            empty: BTreeMap::new(),
            joined: false,
            applied: Index(0),
            snapshots: Snapshots::default(),
            registration: Registration::None,
            next: 0,
            stopping: false,
            broken: false,
            is_level: false,
            unread_since: None,
        }
    }

    pub(super) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    pub(super) fn deadline(&self) -> Millis {
        self.next
    }

    pub(super) fn applied(&self) -> Index {
        self.applied
    }

    pub(super) fn set_applied(&mut self, index: Index) {
        self.applied = index;
    }

    /// The next entry to read of those up to `commit`, for the snapshot that the image is to come from or else to apply.
    fn next_to_read(&self, commit: Index) -> Option<Index> {
        let seen = self.snapshots.looked_through().unwrap_or(self.applied);
        (seen < commit && !self.broken).then(|| seen.next())
    }

    /// Those who founded the cluster.
    pub(super) fn founders(&self) -> &[ReplicaId] {
        &self.voters
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    #[cfg(test)]
    pub(super) fn stop_applying(&mut self) {
        self.broken = true;
    }
}

impl Shard {
    /// Takes up group 0 if it is here; partitions wait until the image names them.
    pub(super) fn start_membership(&mut self, now: Now, recovered: Vec<RecoveredGroup>) {
        for found in recovered {
            if found.group == CONTROLLER {
                self.membership.voters = Configuration::decode(&found.log_start.configuration)
                    .map(|c| c.voters)
                    .unwrap_or_default();
                self.membership.joined = true;
                self.membership.applied = found.log_start.prev.index;
                self.membership.snapshots.begin_at(found.log_start.prev);
                self.engine.adopt(now.mono, found);
            } else {
                self.orphans.insert(found.group, found);
            }
        }
        if on(Mutation::DeleteByAbsence) {
            let absent = |group: &GroupId| !self.image.groups.contains_key(group);
            let absent: Vec<GroupId> = self.orphans.keys().copied().filter(absent).collect();
            absent.into_iter().for_each(|group| self.remove_replica(group));
        }
        let controllers = &self.config.node.controllers;
        if !self.membership.joined && controllers.keys().eq([&self.node()]) {
            self.found_cluster(now);
        }
        self.process_events(now);
    }

    /// This node's identity in group 0.
    pub(super) fn own_voter(&self) -> ReplicaId {
        ReplicaId { node: self.node(), assignment: 0, directory: self.config.directory }
    }

    /// All controllers are empty and this is the lowest: a new cluster.
    fn found_cluster(&mut self, now: Now) {
        let mut voters = vec![self.own_voter()];
        let others = self.membership.empty.iter();
        voters.extend(others.map(|(node, directory)| ReplicaId {
            node: *node,
            assignment: 0,
            directory: *directory,
        }));
        voters.sort();
        let id = Uuid::from_u128(self.config.boot);
        let cluster =
            base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, id.as_bytes());
        tracing::info!(cluster, voters = voters.len(), "founding a new cluster");
        self.join_cluster(now, cluster, voters);
    }

    fn join_cluster(&mut self, now: Now, cluster: String, voters: Vec<ReplicaId>) {
        if let Err(error) = self.engine.store().set_cluster(&cluster) {
            tracing::error!(%error, "this data directory belongs to another cluster");
            self.status.storage_failure = Some(error.to_string());
            self.membership.broken = true;
            return;
        }
        let configuration = Configuration { voters: voters.clone(), ..Configuration::default() };
        let spec = GroupSpec {
            group: CONTROLLER,
            name: "controller".to_owned(),
            replica: self.own_voter(),
            log_start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
            hard_state: HardState::default(),
            options: GroupOptions { segment_bytes: 64 << 20, index_interval_bytes: 4096 },
        };
        let campaign = voters.first() == Some(&self.own_voter());
        if let Err(error) = self.engine.create(now.mono, spec, campaign) {
            tracing::error!(%error, "the controller group cannot be created here");
            return;
        }
        self.membership.cluster = Some(cluster);
        self.membership.voters = voters;
        self.membership.joined = true;
    }

    pub(super) fn who_are_we(&self) -> Answer {
        match (&self.membership.cluster, self.membership.joined) {
            (Some(cluster), true) => {
                Answer::Member { cluster: cluster.clone(), voters: self.membership.voters.clone() }
            }
            _ => Answer::Empty { directory: format!("{:032x}", self.config.directory) },
        }
    }

    pub(super) fn on_who_answer(&mut self, now: Now, from: NodeId, answer: Answer) {
        if self.membership.joined {
            return;
        }
        match answer {
            Answer::Member { cluster, voters } => {
                if self.membership.cluster.as_ref().is_some_and(|mine| *mine != cluster) {
                    if self.controllers.is_news(format!("cluster {cluster}")) {
                        tracing::error!(
                            cluster,
                            "the controllers belong to another cluster than this directory"
                        );
                    }
                    return;
                }
                let wiped = voters.iter().any(|v| v.node == self.node() && *v != self.own_voter());
                if wiped && !self.config.node.is_broker {
                    if !self.admits_controllers() {
                        if self.controllers.is_news("directory is new".to_owned()) {
                            tracing::error!(
                                "this controller's directory is new; it may not vote until it is admitted"
                            );
                        }
                        return;
                    }
                    tracing::warn!(
                        "this controller's directory is new; it votes when the others have admitted it"
                    );
                }
                self.join_cluster(now, cluster, voters);
            }
            Answer::Empty { directory } => {
                if let Ok(directory) = u128::from_str_radix(&directory, 16) {
                    self.membership.empty.insert(from, directory);
                }
                let controllers = &self.config.node.controllers;
                let lowest = controllers.keys().next() == Some(&self.node());
                let others = controllers.keys().filter(|id| **id != self.node());
                let fresh = self.membership.cluster.is_none() && self.config.node.is_controller;
                if lowest && fresh && others.clone().all(|id| self.membership.empty.contains_key(id)) {
                    self.found_cluster(now);
                }
            }
            _ => {}
        }
    }

    pub(super) fn tick_membership(&mut self, now: Now) {
        if now.mono < self.membership.next {
            return;
        }
        self.membership.next = now.mono + ASK_MS;
        let waits_for_another =
            self.membership.snapshots.looked_through().is_some() && self.status.metadata_differs.is_some();
        if self.membership.broken || self.membership.unread_since.is_some() || waits_for_another {
            // Who cannot act on the log is no leader of it.
            self.engine.transfer(now.mono, CONTROLLER, None);
        }
        if self.membership.broken {
            return;
        }
        if self.membership.unread_since.is_some() {
            let commit = self.engine.core(CONTROLLER).map(|core| core.commit());
            self.apply_metadata(now, commit.unwrap_or_default());
        }
        if !self.membership.joined {
            let directory = format!("{:032x}", self.config.directory);
            let controllers: Vec<NodeId> = self.config.node.controllers.keys().copied().collect();
            for id in controllers {
                if id != self.node() {
                    let rpc = self.next_id();
                    self.send_rpc(now, id, rpc, &Ask::WhoAreYou { directory: directory.clone() });
                }
            }
            return;
        }
        if !self.config.node.is_broker {
            return self.tick_controller_apart(now);
        }
        if self.membership.stopping {
            // Until it is in the log: whoever leads the controllers by then has to know that nobody died.
            return if self.drain.is_some() {
                self.announce_stop(now)
            };
        }
        if self.status.storage_failure.is_some() {
            // It can keep nothing: the controllers place nothing here, and after a while what it held is made anew elsewhere.
            return;
        }
        match self.membership.registration {
            Registration::None => self.register(now),
            Registration::Asked => {}
            Registration::Known(number) | Registration::Open(number) => {
                let pause = if self.membership.unread_since.is_some() { ASK_MS } else { self.heartbeat_ms() };
                self.membership.next = now.mono + pause;
                self.send_heartbeat(now, number, false);
            }
        }
    }

    fn heartbeat_ms(&self) -> u64 {
        let node = &self.config.node;
        let configured =
            node.defaults.broker.get("broker.heartbeat.interval.ms").and_then(|v| v.parse().ok());
        let quarter = node.broker_session_timeout.as_millis() as u64 / 4;
        let heartbeat = configured.unwrap_or(HEARTBEAT_MS.min(quarter));
        // A lease must not end because its renewal was not due yet.
        let longest = if self.leases.is_used() { lease::length(4 * quarter) / 4 } else { u64::MAX };
        heartbeat.min(longest).max(ASK_MS)
    }

    /// The earliest assignment of a replica here.
    fn oldest_replica(&self) -> Option<u64> {
        let served = self.partitions.values().map(|p| p.replica.assignment);
        served.chain(self.orphans.values().map(|found| found.replica.assignment)).min()
    }

    fn register(&mut self, now: Now) {
        let Some((kafka, listeners)) = listeners::registered(self.config.kafka.clone()) else { return };
        let command = CtlCommand::RegisterBroker {
            node: self.node(),
            directory: Uuid::from_u128(self.config.directory),
            kafka,
            listeners,
            peer: self.config.peer.clone(),
            rack: self.config.node.rack.clone(),
            cluster: self.membership.cluster.clone(),
            oldest: self.oldest_replica(),
        };
        self.membership.registration = Registration::Asked;
        self.route(now, command, now.mono + REGISTER_MS, Target::Registration);
    }

    pub(super) fn on_registered(&mut self, now: Now, answer: super::CtlAnswer) {
        match answer {
            Ok((CtlReply::Registered { incarnation }, _)) => {
                tracing::info!(incarnation, "registered with the controller");
                self.status.registration_refused = None;
                self.membership.registration = Registration::Known(incarnation);
                self.status.incarnation = incarnation;
                self.membership.next = now.mono;
                self.check_gate(now);
            }
            Ok((other, _)) => tracing::error!(?other, "registration got an answer that is none"),
            Err(error) => {
                tracing::info!(%error, "registration not taken; trying again");
                self.membership.registration = Registration::None;
                let is_refused = matches!(error, CtlError::Refused(_));
                self.status.registration_refused = is_refused.then(|| error.to_string());
                if self.is_given_up() || self.image.drain(self.node()) == Drain::Replicas {
                    // Until somebody takes that back, or for good.
                    self.membership.next = now.mono + REGISTER_MS;
                }
            }
        }
    }

    /// The session lapsed and somebody registered this node anew, or the controllers forgot it.
    pub(super) fn on_session_unknown(&mut self) {
        self.membership.registration = Registration::None;
        self.leases.held.give_up();
    }

    /// This process did not run for a whole session: none of its replicas votes or campaigns before it is registered anew.
    pub(super) fn on_stopped(&mut self, now: Now, gap_ms: u64) {
        if self.config.node.is_broker && !on(Mutation::NoFenceAfterStop) {
            tracing::warn!(gap_ms, "this process was stopped for longer than its session; registering anew");
            // An answer that is still on its way speaks of the time before.
            self.forget_registration();
            self.membership.registration = Registration::None;
            self.membership.next = now.mono;
            self.status.registered = false;
            self.leases.held.give_up();
            self.engine.close_gate(now.mono);
        }
    }

    /// The next heartbeat is due at once: it asks for a lease.
    pub(super) fn renew_now(&mut self) {
        if matches!(self.membership.registration, Registration::Known(_) | Registration::Open(_)) {
            self.membership.next = 0;
        }
    }

    /// Opens the boot gate once the image reflects the registration (safety.md F16).
    fn check_gate(&mut self, now: Now) {
        if let Registration::Known(number) = self.membership.registration
            && self.image.brokers.get(&self.node()).is_some_and(|broker| broker.incarnation == number)
        {
            self.membership.registration = Registration::Open(number);
            self.engine.set_incarnation(number);
            self.engine.open_gate(now.mono);
            self.status.registered = true;
            self.membership.is_level = true;
            self.placing.resume();
        }
    }

    /// The number under which this process is registered and serves, by its own copy of the log.
    pub(super) fn registered_as(&self) -> Option<u64> {
        match self.membership.registration {
            Registration::Open(number) => Some(number),
            _ => None,
        }
    }

    pub(super) fn send_heartbeat(&mut self, now: Now, incarnation: u64, stopping: bool) {
        match self.controller_to_ask() {
            Some(leader) if leader == self.node() => {
                let is_known = self.on_heartbeat(now, leader, incarnation, stopping);
                if is_known {
                    let applied = self.image.applied;
                    self.control.sealed.leases.on_applied(leader, incarnation, applied);
                }
                if !is_known && !stopping {
                    // Somebody registered this node anew, while it did not lead yet: nobody takes its word with the old number.
                    self.on_session_unknown();
                } else if is_known && !stopping && self.leases.is_used() {
                    let question = self.next_id();
                    self.leases.held.ask(question, leader, incarnation, now.mono);
                    self.confirm_lease(now, Holder::Local(question), incarnation);
                }
            }
            Some(leader) => {
                let rpc = self.next_id();
                let lease = self.leases.is_used() && !stopping;
                let applied = self.image.applied;
                if lease {
                    self.leases.held.ask(rpc, leader, incarnation, now.mono);
                }
                self.send_rpc(now, leader, rpc, &Ask::Heartbeat { incarnation, stopping, lease, applied });
            }
            None => {}
        }
    }

    /// Announces an orderly stop: the session ends, no registration follows.
    pub(super) fn announce_stop(&mut self, now: Now) {
        self.membership.stopping = true;
        // One that was decommissioned may be a controller still.
        if !self.config.node.is_broker || !self.image.brokers.contains_key(&self.node()) {
            self.tell_stop(now);
        }
        if let Registration::Known(number) | Registration::Open(number) = self.membership.registration {
            self.send_heartbeat(now, number, true);
        }
    }

    /// Entries of the controller log up to `index` are committed: applies them and acts on the difference.
    pub(super) fn apply_metadata(&mut self, now: Now, index: Index) {
        let mut removed = BTreeSet::new();
        let mut changes = Vec::new();
        self.look_where_controller_log_begins();
        while let Some(from) = self.membership.next_to_read(index) {
            let read = self.engine.store().read(CONTROLLER, from, APPLY_BYTES);
            let is_damaged = self.engine.store_ref().needs_repair(CONTROLLER).is_some();
            if read.is_ok() || is_damaged {
                self.membership.unread_since = None;
            }
            let entries = match read {
                Ok(entries) => entries,
                Err(error) if is_damaged => {
                    // It goes on from here when the entries are repaired.
                    tracing::error!(%error, "controller log is damaged here; it is repaired from the others");
                    self.engine.damaged(now.mono, CONTROLLER);
                    break;
                }
                Err(error) => {
                    self.on_unread(now, &error);
                    break;
                }
            };
            for entry in entries.into_iter().take_while(|e| e.meta.id.index <= index) {
                match self.take_entry(&entry, &mut changes, &mut removed) {
                    Ok(true) => {}
                    // The image is another one now: what comes after it is read anew.
                    Ok(false) => break,
                    Err(reason) => return self.break_membership(reason),
                }
            }
        }
        self.cut_controller_log(now);
        self.act_on(now, changes, removed);
        self.status.unread = self.membership.unread_since.is_some();
        self.place_some(now);
        self.check_gate(now);
        self.on_metadata_applied(now);
    }

    /// What was applied is done.
    pub(super) fn act_on(&mut self, now: Now, changes: Vec<Change>, mut removed: BTreeSet<GroupId>) {
        let mut topics = BTreeSet::new();
        for change in &changes {
            match change {
                Change::GroupRemoved { group, .. } => drop(removed.insert(*group)),
                Change::ReplicaRemoved { group, replica } => self.remove_moved(*group, *replica),
                Change::TopicRemoved { name } => drop(topics.insert(name.clone())),
                _ => {}
            }
        }
        for group in removed {
            self.remove_replica(group);
        }
        if !topics.is_empty() {
            self.forget_committed(now, &topics);
        }
        self.note_policies(&changes);
        for change in changes {
            self.on_change(now, change);
        }
    }

    /// What is committed stays to be applied: the machine may be short of handles or maps, or the disk answers again a moment later.
    /// A disk that does not for as long as a session lasts is a dead one: the others are to see this node as it is.
    fn on_unread(&mut self, now: Now, error: &crate::segment::Error) {
        let since = self.membership.unread_since.unwrap_or_else(|| {
            tracing::error!(%error, "controller log cannot be read; trying again");
            now.mono
        });
        self.membership.unread_since = Some(since);
        let session = self.config.node.broker_session_timeout.as_millis() as u64;
        if !matches!(error, crate::segment::Error::Busy(_)) && now.mono.saturating_sub(since) >= session {
            return self.break_membership(format!("it cannot be read: {error}"));
        }
        self.membership.next = self.membership.next.min(now.mono + ASK_MS);
    }

    fn break_membership(&mut self, reason: String) {
        tracing::error!(reason, "the controller log cannot be applied; this node acts on it no further");
        self.status.storage_failure = Some(format!("the controller log cannot be applied: {reason}"));
        self.membership.broken = true;
        self.leases.held.give_up();
    }

    /// Applies an entry, or looks at it while the image waits for a snapshot. False if that was found.
    fn take_entry(
        &mut self,
        entry: &Entry,
        changes: &mut Vec<Change>,
        removed: &mut BTreeSet<GroupId>,
    ) -> Result<bool, String> {
        if self.membership.snapshots.looked_through().is_some() {
            return self.look_for_snapshot(entry, changes, removed).map(|found| !found);
        }
        self.membership.applied = entry.meta.id.index;
        match entry.meta.kind {
            EntryKind::Metadata | EntryKind::Snapshot => self.apply_entry(entry, changes).map(|()| true),
            _ => Ok(true),
        }
    }

    fn apply_entry(&mut self, entry: &Entry, changes: &mut Vec<Change>) -> Result<(), String> {
        let batch = Batch::decode(&entry.payload)?;
        let number = Image::number(entry.meta.id.epoch.generation.0, entry.meta.id.index.0);
        changes.extend(Arc::make_mut(&mut self.image).apply_with_changes(number, &batch)?);
        self.image_changed = true;
        self.membership.snapshots.on_applied(entry, &batch);
        Ok(())
    }

    fn remove_replica(&mut self, group: GroupId) {
        self.hints.remove(&group);
        self.leaving.remove(&group);
        self.leadership_news = true;
        let was_read = self.placing.forget(group);
        if self.partitions.contains_key(&group) {
            self.drop_replica(group, Remains::Nothing);
            tracing::info!(%group, "replica deleted with its topic");
        } else if was_read || self.orphans.remove(&group).is_some() {
            self.drop_stored(group, Remains::Nothing);
        }
    }

    pub(super) fn on_change(&mut self, now: Now, change: Change) {
        match change {
            Change::GroupAdded { group, topic, partition } => {
                self.leadership_news = true;
                self.placing.push(group, topic, partition);
            }
            Change::GroupChanged { group } => self.on_group_changed(now, group),
            Change::BrokerChanged { node } => self.on_broker_changed(now, node),
            Change::TopicConfigChanged { topic } => self.refresh_configs(now, Some(topic)),
            Change::ClusterConfigChanged => {
                self.set_throttle();
                self.refresh_configs(now, None)
            }
            Change::BrokerRemoved { node } if node == self.node() => self.on_unregistered(now),
            _ => {}
        }
    }

    /// The controllers forgot this broker: it holds nothing, nobody tells it of leaders any more, and what it knows of them gets old.
    fn on_unregistered(&mut self, now: Now) {
        if self.image.brokers.contains_key(&self.node()) {
            return;
        }
        tracing::warn!("this broker is registered no longer");
        self.take_no_part(now);
    }

    /// This disk was given up when the controllers were recovered.
    fn is_given_up(&self) -> bool {
        self.image.is_lost(Uuid::from_u128(self.config.directory))
    }

    /// No replica here votes, leads or is heard any more.
    fn take_no_part(&mut self, now: Now) {
        self.forget_registration();
        self.membership.registration = Registration::None;
        self.membership.next = now.mono + REGISTER_MS;
        self.status.registered = false;
        self.leases.held.give_up();
        self.engine.close_gate(now.mono);
        self.hints.clear();
        self.leadership_news = true;
    }

    fn on_broker_changed(&mut self, now: Now, node: NodeId) {
        let Some(broker) = self.image.brokers.get(&node).cloned() else { return };
        if node == self.node() && self.is_given_up() {
            // It may have run on all the while.
            tracing::error!(
                "this data directory was given up when the controllers were recovered; it takes no part any more"
            );
            self.take_no_part(now);
        }
        if node != self.node() {
            self.engine.set_peer_incarnation(now.mono, node, broker.incarnation);
            self.dials.push((node, format!("{}:{}", broker.peer.host, broker.peer.port)));
            if self.controller_leader() == Some(self.node()) {
                // A new leader may have been elected before its image named this broker.
                self.observe(now, node, broker.directory.as_u128());
            }
        }
        self.upkeep.in_sync_now();
        self.members.look_now();
        self.check_disks();
    }

    /// Its generation is to end, or has, or a replica of it was placed anew.
    fn on_group_changed(&mut self, now: Now, group: GroupId) {
        if self.partitions.contains_key(&group) {
            self.tell_generation(now, group);
        } else if !self.placing.is_waiting(group)
            && let Some((topic, partition)) = self.image.groups.get(&group).copied()
        {
            self.placing.push(group, topic, partition);
        }
        self.members.seal_soon(now.mono);
        self.members.look_now();
        // A sealed group gets no replica on a disk that was replaced: now perhaps it does.
        self.check_disks();
    }

    /// Creates (or takes up) the replica of this group that the log places here.
    pub(super) fn place_replica(&mut self, now: Now, group: GroupId, topic_id: Uuid, number: i32) {
        let image = self.image.clone();
        let Some((topic, _, partition)) = image.group(group) else { return };
        let is_here = |directory| directory == self.config.directory || on(Mutation::AdoptOldIdentity);
        let me = |r: &&ReplicaId| r.node == self.node() && is_here(r.directory);
        let placed = partition.replicas.iter().find(me).copied();
        let leaving = self.leaving.get(&group).filter(|_| self.orphans.contains_key(&group)).copied();
        let Some(replica) = placed.or(leaving) else { return };
        let config = image.topic_config(topic, &self.config.node.defaults);
        let options = group_options(&config);
        if let Some(found) = self.orphans.remove(&group) {
            // Under the id that it has: if that is an older one (the disk came back after this node had been given another), it may be a
            // voter still, one of few. It makes room when the group has gone on without it (`orders`).
            if let Err(error) = self.engine.store().set_options(group, options) {
                tracing::warn!(%group, %error, "options of a recovered replica");
            }
            let (p, next) = Partition::recover(&found, config);
            return self.begin_replay(found, p, next);
        }
        if self.partitions.contains_key(&group) {
            // It stood in line twice.
            return;
        }
        if !self.membership.is_level && !on(Mutation::CreateBeforeRegistration) {
            return self.placing.defer(group, topic_id, number);
        }
        let voters = partition.voters_at_creation(replica).to_vec();
        let campaign = voters.first() == Some(&replica);
        let configuration = Configuration { voters, ..Configuration::default() };
        let generation = Generation(partition.generation);
        let spec = GroupSpec {
            group,
            name: format!("{topic_id}-{number}"),
            replica,
            log_start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
            hard_state: HardState { epoch: Epoch { generation, term: Term(0) }, ..HardState::default() },
            options,
        };
        self.partitions.insert(group, Partition::new(group, replica, config));
        if let Err(error) = self.engine.create(now.mono, spec, campaign) {
            tracing::error!(%group, %error, "replica cannot be created");
            if let Some(p) = self.partitions.get_mut(&group) {
                p.out_of_service = Some(error.to_string());
            }
            return;
        }
        self.set_flush(now, group);
        self.tell_generation(now, group);
    }

    /// Tells the engine how the topic's records become durable; and its segments are looked at in time.
    pub(super) fn set_flush(&mut self, now: Now, group: GroupId) {
        if let Some(p) = self.partitions.get(&group) {
            let config = &p.config;
            let flush =
                Flush { is_async: config.flush_async, ms: config.flush_ms, messages: config.flush_messages };
            self.engine.set_flush(now.mono, group, flush);
            self.upkeep.rolls_within(now.mono, config.segment_ms);
        }
        self.set_lease(now, group);
    }

    /// How fast replicas far behind are brought up from here.
    pub(super) fn set_throttle(&mut self) {
        let own = self.image.broker_configs.get(&self.node());
        let defaults = &self.config.node.defaults;
        let rate = configs::broker_number(THROTTLE, own, &self.image.configs, defaults);
        let limit = rate.filter(|rate| *rate != i64::MAX).and_then(|rate| u64::try_from(rate).ok());
        self.engine.set_recovery_rate(limit.unwrap_or(0));
    }

    fn refresh_configs(&mut self, now: Now, only: Option<Uuid>) {
        let image = self.image.clone();
        let mut changed = Vec::new();
        for (group, p) in &mut self.partitions {
            let Some((topic, ..)) = image.group(*group) else { continue };
            if only.is_some_and(|id| id != topic.id) {
                continue;
            }
            p.config = image.topic_config(topic, &self.config.node.defaults);
            changed.push(*group);
            if let Err(error) = self.engine.store().set_options(*group, group_options(&p.config)) {
                tracing::warn!(%group, %error, "changed options not taken");
            }
        }
        changed.sort_unstable();
        changed.into_iter().for_each(|group| self.set_flush(now, group));
    }
}

pub(super) fn group_options(config: &TopicConfig) -> GroupOptions {
    GroupOptions { segment_bytes: config.segment_bytes, index_interval_bytes: config.index_interval_bytes }
}
