//! What a shard does now and then: in-sync sets, leadership news, retention, producer snapshots, the orderly stop.
//! Retention decides on the leader only and moves the log start by a committed control entry (safety.md F23).

use super::{CONTROLLER, Now, Shard, leader_epoch};
use crate::broker::api::PartitionState;
use crate::broker::config::NodeConfig;
use crate::broker::partition::{SNAPSHOT_BYTES, encode_forgotten};
use crate::raftlog::codec::{self, Hint};
use crate::raftlog::core::{Millis, Role};
use crate::raftlog::engine::Proposal;
use crate::segment::{
    Doubt, EntryKind, Epoch, GroupId, Index, LogStart, NodeId, Offset, ReplicaId, SegmentInfo,
};
use crate::wire::batch::BatchHeader;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

const IN_SYNC_MS: u64 = 500;
/// The look at all partitions (in-sync sets, counts) comes later by a millisecond for so many of them.
const LOOK_PARTITIONS_PER_MS: u64 = 4;
const SNAPSHOT_MS: u64 = 2_000;
/// Longest wait for the controllers to take note of an orderly stop: without it they would take us for dead.
const ANNOUNCE_MS: u64 = 2_000;
/// A start has better to do than to scrub.
const FIRST_SCRUB_MS: u64 = 60_000;
/// All hints are repeated this often: a lost one heals.
const REPEAT_MS: u64 = 10_000;
/// Hints in one frame.
const HINTS_PER_FRAME: usize = 1_000;
/// Active segments looked into at one time, to find their first record, and what is read of each.
/// Each may wait for a disk, on the thread that sends heartbeats.
const FIRST_LOOKS: usize = 16;
/// Active segments are looked at no more often, however short `segment.ms` is.
const ROLL_MS: Millis = 1_000;
const FIRST_BYTES: usize = 64 << 10;

/// Timers of the upkeep.
pub struct Upkeep {
    next_in_sync: Millis,
    next_look: Millis,
    next_retention: Millis,
    next_roll: Millis,
    /// Those are looked at whose `segment.ms` is longer than the pause between looks at retention.
    next_slow_roll: Millis,
    next_snapshot: Millis,
    next_repeat: Millis,
    next_scrub: Millis,
    next_expiry: Millis,
    retention_ms: u64,
    /// producer.id.expiration.ms and how often it is looked at.
    expiration_ms: i64,
    expiry_ms: u64,
    draining: bool,
    /// Until when the announcement of the stop is waited for.
    announcing: Millis,
    /// First entry of a group's active segment, and the time of its first batch.
    begun: BTreeMap<GroupId, (Index, i64)>,
}

impl Upkeep {
    pub(super) fn new(now: Millis, node: &NodeConfig) -> Self {
        let configured = |key: &str, default: u64| {
            node.defaults.broker.get(key).and_then(|v| v.parse().ok()).unwrap_or(default)
        };
        let retention_ms = configured("log.retention.check.interval.ms", 300_000);
        let expiry_ms = configured("producer.id.expiration.check.interval.ms", 600_000).max(100);
        Self {
            next_in_sync: now,
            next_look: now,
            next_retention: now + retention_ms.min(10_000),
            next_roll: now + retention_ms.min(10_000),
            next_slow_roll: now,
            next_snapshot: now + SNAPSHOT_MS,
            next_repeat: now + REPEAT_MS,
            next_scrub: now + (node.scrub_interval.as_millis() as u64).min(FIRST_SCRUB_MS),
            next_expiry: now + expiry_ms,
            retention_ms,
            expiration_ms: configured("producer.id.expiration.ms", 86_400_000) as i64,
            expiry_ms,
            draining: false,
            begun: BTreeMap::new(),
            announcing: 0,
        }
    }

    pub(super) fn deadline(&self) -> Millis {
        let next = self.next_in_sync.min(self.next_look).min(self.next_retention).min(self.next_snapshot);
        next.min(self.next_repeat).min(self.next_expiry).min(self.next_roll)
    }

    pub(super) fn expiration_ms(&self) -> i64 {
        self.expiration_ms
    }

    pub(super) fn in_sync_now(&mut self) {
        self.next_look = 0;
    }

    /// A partition has this `segment.ms`: its segment is looked at about as often, with the others.
    pub(super) fn rolls_within(&mut self, now: Millis, segment_ms: i64) {
        let ms = u64::try_from(segment_ms).ok().filter(|ms| *ms > 0).unwrap_or(u64::MAX);
        let most = self.retention_ms.max(100);
        self.next_roll = self.next_roll.min(now + ms.clamp(ROLL_MS.min(most), most));
    }
}

impl Shard {
    pub(super) fn tick_upkeep(&mut self, now: Now) {
        if now.mono >= self.upkeep.next_in_sync {
            self.upkeep.next_in_sync = now.mono + IN_SYNC_MS;
            self.tend_scrub(now);
            self.sweep_fetches();
            if self.leadership_news {
                self.leadership_news = false;
                self.count_leaderless();
            }
            if self.upkeep.draining {
                self.hand_over(now);
            }
        }
        self.status.led = self.led;
        if now.mono >= self.upkeep.next_look {
            let partitions = self.partitions.len() as u64;
            self.upkeep.next_look = now.mono + IN_SYNC_MS + partitions / LOOK_PARTITIONS_PER_MS;
            self.refresh_in_sync(now);
            self.refresh_status(now);
            self.settle_producers(now);
        }
        if now.mono >= self.upkeep.next_retention {
            self.upkeep.next_retention = now.mono + self.upkeep.retention_ms.max(100);
            self.retain(now);
        }
        if now.mono >= self.upkeep.next_roll {
            self.roll_old(now);
        }
        if now.mono >= self.upkeep.next_snapshot {
            self.upkeep.next_snapshot = now.mono + SNAPSHOT_MS;
            self.snapshot_producers(now, SNAPSHOT_BYTES);
        }
        if now.mono >= self.upkeep.next_expiry {
            self.upkeep.next_expiry = now.mono + self.upkeep.expiry_ms;
            self.forget_producers(now);
        }
        if now.mono >= self.upkeep.next_repeat {
            self.upkeep.next_repeat = now.mono + REPEAT_MS;
            let hints = self.own_hints();
            self.broadcast_hints(&hints);
            self.create_missing();
        }
    }

    /// Replicas that could not be created stand in line again once that may have passed.
    fn create_missing(&mut self) {
        if self.engine.store_ref().is_full() || self.status.storage_failure.is_some() {
            return;
        }
        let missing = self.partitions.keys().filter(|group| self.engine.core(**group).is_none());
        for group in missing.copied().collect::<Vec<_>>() {
            if let Some((topic, partition)) = self.image.groups.get(&group).copied() {
                self.partitions.remove(&group);
                self.placing.push(group, topic, partition);
            }
        }
    }

    /// Begins a pass when it is due, keeps one going.
    fn tend_scrub(&mut self, now: Now) {
        if self.config.node.scrub_bytes_per_second == 0 {
            return;
        }
        if now.mono >= self.upkeep.next_scrub {
            self.upkeep.next_scrub = now.mono + self.config.node.scrub_interval.as_millis() as u64;
            self.engine.store().begin_scrub();
        }
        self.engine.store().tend_scrub();
        self.status.scrub = self.engine.store_ref().scrub_stats();
    }

    /// Recomputes who is in sync, tells everyone about changes.
    fn refresh_in_sync(&mut self, now: Now) {
        let lag = self.config.node.replica_lag_time_max.as_millis() as u64;
        let mut changed = Vec::new();
        let mut in_sync = Vec::new();
        for (group, p) in &mut self.partitions {
            if p.role != Role::Leader {
                continue;
            }
            in_sync.clear();
            in_sync.push(p.replica.node);
            self.engine.each_peer(*group, &mut |peer| {
                let live = self.image.brokers.get(&peer.replica.node).is_some_and(|b| !b.fenced);
                // 0: not yet in this life of the peer.
                let caught_up = peer.caught_up_ms > 0 && now.mono.saturating_sub(peer.caught_up_ms) <= lag;
                if peer.voter && live && caught_up {
                    in_sync.push(peer.replica.node);
                }
            });
            in_sync.sort_unstable();
            if in_sync != p.in_sync {
                p.in_sync.clone_from(&in_sync);
                changed.push(*group);
            }
        }
        changed.sort_unstable();
        let hints: Vec<Hint> = changed.into_iter().filter_map(|group| self.own_hint(group)).collect();
        self.broadcast_hints(&hints);
    }

    fn own_hint(&self, group: GroupId) -> Option<Hint> {
        let p = self.partitions.get(&group).filter(|p| p.role == Role::Leader)?;
        Some(Hint { group, epoch: p.epoch, leader: self.node(), in_sync: p.in_sync.clone() })
    }

    fn own_hints(&self) -> Vec<Hint> {
        self.partitions.keys().filter_map(|group| self.own_hint(*group)).collect()
    }

    /// Role, epoch or leader of a partition changed.
    pub(super) fn on_partition_role(
        &mut self,
        now: Now,
        group: GroupId,
        (role, epoch, leader): (Role, Epoch, Option<ReplicaId>),
    ) {
        let Some(p) = self.partitions.get_mut(&group) else { return };
        self.led += usize::from(role == Role::Leader);
        self.led -= usize::from(p.role == Role::Leader);
        self.leadership_news = true;
        let is_new = role == Role::Leader && (p.role, p.epoch) != (role, epoch);
        p.on_role(role, epoch, leader, now.mono, &mut self.done);
        if is_new {
            self.forget_lost_batches(now, group);
        } else if role != Role::Leader {
            p.leave_unsettled(self.engine.store());
        }
        self.on_leadership(now, group);
    }

    /// What follows from it.
    pub(super) fn on_leadership(&mut self, now: Now, group: GroupId) {
        let image = self.image.clone();
        let Some(p) = self.partitions.get_mut(&group) else { return };
        if p.role == Role::Leader {
            // Optimistic until the first look: a voter that is dead drops out when its broker is fenced or lags.
            let live = |node: &NodeId| image.brokers.get(node).is_some_and(|b| !b.fenced);
            let core = self.engine.core(group);
            let mut in_sync: Vec<NodeId> = core
                .map_or(Vec::new(), |core| core.configuration().0.voters.iter().map(|r| r.node).collect());
            in_sync.retain(|node| *node == p.replica.node || live(node));
            in_sync.sort_unstable();
            p.in_sync = in_sync;
            self.newly_led.push(group);
        }
        self.coordinate(now, group);
        let waiting = self.partitions.get_mut(&group).map(|p| std::mem::take(&mut p.fetch_waiters));
        for id in waiting.unwrap_or_default() {
            self.retry_fetch(now, id, false);
        }
    }

    /// Tells everyone in one frame who began to lead in this turn: after a broker's death these are thousands.
    pub(super) fn tell_newly_led(&mut self) {
        if !self.newly_led.is_empty() {
            let led = std::mem::take(&mut self.newly_led);
            let hints: Vec<Hint> = led.into_iter().filter_map(|group| self.own_hint(group)).collect();
            self.broadcast_hints(&hints);
        }
    }

    pub(super) fn on_hints(&mut self, hints: Vec<Hint>) {
        for hint in hints {
            let newer = self.hints.get(&hint.group).is_none_or(|known| hint.epoch >= known.epoch);
            if newer {
                self.leadership_news |= self.hints.insert(hint.group, hint).is_none();
            }
        }
    }

    fn broadcast_hints(&mut self, hints: &[Hint]) {
        if hints.is_empty() {
            return;
        }
        let brokers = self.image.brokers.keys().copied();
        let everyone: BTreeSet<NodeId> = brokers
            .chain(self.config.node.controllers.keys().copied())
            .filter(|n| *n != self.node())
            .collect();
        for chunk in hints.chunks(HINTS_PER_FRAME) {
            let frame: Vec<Bytes> = codec::encode_hints(chunk);
            for node in &everyone {
                self.outgoing.push((*node, frame.clone()));
            }
        }
    }

    pub(super) fn send_all_hints(&mut self, node: NodeId) {
        for chunk in self.own_hints().chunks(HINTS_PER_FRAME) {
            self.outgoing.push((node, codec::encode_hints(chunk)));
        }
    }

    /// In-sync replicas as the group's leader last said.
    pub(super) fn in_sync_of(&self, group: GroupId) -> Vec<NodeId> {
        let own = self.partitions.get(&group).filter(|p| p.role == Role::Leader).map(|p| p.in_sync.clone());
        own.or_else(|| self.hints.get(&group).map(|h| h.in_sync.clone())).unwrap_or_default()
    }

    pub(super) fn partition_state(&mut self, now: Now, group: GroupId) -> PartitionState {
        let mut state = PartitionState {
            leader: self.leader_of(group),
            in_sync: self.in_sync_of(group),
            high_watermark: -1,
            log_start: -1,
            log_end: -1,
            size_bytes: 0,
            local: false,
            needs_repair: false,
            voters: Vec::new(),
            generation: 0,
            electing: false,
            epoch: self.hints.get(&group).map_or(-1, |hint| leader_epoch(hint.epoch)),
        };
        state.epoch = state.leader.map_or(state.epoch, |leader| leader.epoch.max(state.epoch));
        let dead = |node: &NodeId| self.image.brokers.get(node).is_none_or(|b| b.fenced);
        if state.leader.is_some_and(|l| dead(&l.node)) {
            state.leader = None;
        } else if let Some(until) = state.leader.and_then(|l| self.gone.get(&l.node)) {
            // Named as leader, a process that is gone would be waited for.
            state.leader = None;
            state.electing = now.mono < *until;
        }
        state.in_sync.retain(|node| !dead(node));
        if let Some(p) = self.partitions.get(&group) {
            state.local = true;
            state.high_watermark = p.high_watermark.0;
            state.log_start = p.start.0;
            state.log_end = p.end.0;
            state.needs_repair = p.out_of_service.is_some();
            state.size_bytes = self.engine.store().size_bytes(group).unwrap_or(0);
            if let Some(core) = self.engine.core(group) {
                state.voters = core.configuration().0.voters.iter().map(|r| r.node).collect();
                state.generation = core.epoch().generation.0;
            }
        }
        state
    }

    fn refresh_status(&mut self, now: Now) {
        let mut damaged = Vec::new();
        let mut found = Vec::new();
        for (group, p) in &mut self.partitions {
            // Whatever a partition is out of service for: damage that nobody works on would stay for ever.
            if !self.engine.is_repairing(*group)
                && let Some((from, to)) = self.engine.store_ref().needs_repair(*group)
            {
                tracing::error!(%group, %from, %to, "entries are damaged on disk; this replica is held out");
                p.out_of_service = Some(format!("entries {from} to {to} are damaged"));
                found.push(*group);
            }
            let doubt = self.engine.core(*group).map_or(Doubt::None, |core| core.doubt());
            if p.out_of_service.is_some() || doubt != Doubt::None {
                damaged.push(*group);
            }
        }
        if self.engine.store_ref().needs_repair(CONTROLLER).is_some() {
            damaged.push(CONTROLLER);
            if !self.engine.is_repairing(CONTROLLER) {
                found.push(CONTROLLER);
            }
        }
        for group in found {
            self.engine.damaged(now.mono, group);
        }
        damaged.sort_unstable();
        self.status.damaged = damaged;
        if !self.config.node.is_broker {
            // A controller does not register; it is in service once it belongs to a cluster.
            self.status.registered = self.membership.is_joined();
        }
        self.status.replicas = self.partitions.len();
        self.status.disk_full = self.engine.store_ref().is_full();
    }

    fn count_leaderless(&mut self) {
        let groups = self.image.groups.keys();
        self.status.leaderless = groups.filter(|g| self.hint_of(**g).is_none()).count();
    }

    /// Closes active segments that are older than `segment.ms`; every replica its own. As often as the shortest one asks for: a topic whose
    /// segments are to be compacted soon need not wait for the next look at retention.
    fn roll_old(&mut self, now: Now) {
        let is_slow = now.mono >= self.upkeep.next_slow_roll;
        if is_slow {
            self.upkeep.next_slow_roll = now.mono + self.upkeep.retention_ms.max(100);
        }
        self.upkeep.next_roll = Millis::MAX;
        let groups = self.groups_in_service();
        self.upkeep.begun.retain(|group, _| groups.binary_search(group).is_ok());
        let mut looks = FIRST_LOOKS;
        for group in groups {
            let Some(segment_ms) = self.partitions.get(&group).map(|p| p.config.segment_ms) else { continue };
            self.upkeep.rolls_within(now.mono, segment_ms);
            // Those with long ones do not pay for one with a short one.
            if !is_slow && u64::try_from(segment_ms).is_ok_and(|ms| ms >= self.upkeep.retention_ms) {
                continue;
            }
            let Ok(segments) = self.engine.store_ref().segments(group) else { continue };
            if let Some(active) = segments.last().filter(|s| s.active && s.next_offset > s.base_offset)
                && segment_ms > 0
                // One without any record of its own (all were compacted away elsewhere) has no age yet.
                && active.max_timestamp >= 0
                && (now.wall_ms.saturating_sub(active.max_timestamp) > segment_ms
                    || now.wall_ms.saturating_sub(self.began(group, active, &mut looks)) > segment_ms)
                && let Err(error) = self.engine.store().roll(group)
            {
                tracing::warn!(%group, %error, "active segment could not be rolled");
            }
        }
        self.upkeep.rolls_within(now.mono, i64::MAX);
    }

    fn groups_in_service(&self) -> Vec<GroupId> {
        let in_service = self.partitions.values().filter(|p| p.out_of_service.is_none());
        let mut groups: Vec<GroupId> = in_service.map(|p| p.group).collect();
        groups.sort_unstable();
        groups
    }

    /// Retention by time and size, by whole segments, where `cleanup.policy` says `delete`. The log start moves by the leader's word.
    fn retain(&mut self, now: Now) {
        for group in self.groups_in_service() {
            let Some(p) = self.partitions.get(&group) else { continue };
            let config = p.config.clone();
            let (leads, start, high) = (p.role == Role::Leader, p.start, p.high_watermark);
            let Ok(segments) = self.engine.store_ref().segments(group) else { continue };
            if !config.deletes {
                continue;
            }
            let keep = retained_from(&segments, config.retention_ms, config.retention_bytes, now.wall_ms);
            let keep = keep.min(high);
            if leads
                && keep > start
                && let Err(error) = self.propose_log_start(now, group, keep)
            {
                tracing::debug!(%group, %error, "log start not moved");
            }
        }
    }

    /// When an active segment began, by its first batch, from which `segment.ms` counts (Kafka compares that with the newest record, here it is the clock). One that there was no look left for: by its newest.
    fn began(&mut self, group: GroupId, active: &SegmentInfo, looks: &mut usize) -> i64 {
        if let Some((first, time)) = self.upkeep.begun.get(&group)
            && *first == active.first
        {
            return *time;
        }
        if *looks == 0 {
            return active.max_timestamp;
        }
        *looks -= 1;
        let read = self.engine.store().read(group, active.first, FIRST_BYTES).unwrap_or_default();
        let headers = read.iter().filter(|entry| entry.meta.kind == EntryKind::Records);
        let time =
            headers.filter_map(|entry| BatchHeader::read(&entry.payload)).map(|header| header.max_timestamp);
        let time = time.into_iter().find(|time| *time >= 0).unwrap_or(active.max_timestamp);
        self.upkeep.begun.insert(group, (active.first, time));
        time
    }

    /// Every producer that ever wrote would be remembered for ever, in memory and in every snapshot: those that wrote nothing for
    /// long are forgotten by a control entry that names them, so that every replica forgets the same.
    fn forget_producers(&mut self, now: Now) {
        let expiration_ms = self.upkeep.expiration_ms;
        let led = self.partitions.values_mut().filter(|p| p.role == Role::Leader);
        let mut expired: Vec<(GroupId, Vec<i64>)> =
            led.map(|p| (p.group, p.expired_producers(now.wall_ms, expiration_ms))).collect();
        expired.sort_unstable();
        for (group, ids) in expired.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            let payload = BytesMut::from(&encode_forgotten(&ids)[..]);
            let proposal = Proposal { kind: EntryKind::ForgetProducers, offset_span: 0, payload };
            match self.engine.propose(now.mono, group, vec![proposal], &mut |_, _| {}) {
                Ok(_) => tracing::debug!(%group, producers = ids.len(), "idle producers forgotten"),
                Err(error) => tracing::debug!(%group, %error, "idle producers not forgotten yet"),
            }
        }
    }

    /// A committed control entry moved the log start: drops whole segments before it.
    pub(super) fn move_start(&mut self, now: Now, group: GroupId, offset: Offset) {
        if let Err(error) = self.try_move_start(now, group, offset) {
            tracing::warn!(%group, %offset, %error, "log start not moved on disk");
        }
    }

    fn try_move_start(&mut self, now: Now, group: GroupId, offset: Offset) -> crate::segment::Result<()> {
        let old = self.engine.store().log_start(group)?.clone();
        let segments = self.engine.store_ref().segments(group)?;
        // The last segment that begins at or before the new start is the first one kept. After a restart the start is known, and
        // perhaps not yet again that what lies before it is committed: then it falls away later.
        let commit = self.engine.core(group).map(|core| core.commit()).unwrap_or_default();
        let kept = segments.iter().rev().find(|s| s.base_offset <= offset && s.first.prev() <= commit);
        let mut start = LogStart { start_offset: offset, ..old };
        if let Some(segment) = kept.filter(|s| s.first > start.prev.index) {
            let first = self.engine.store().meta_at(group, segment.first)?;
            start.prev = first.predecessor();
            start.base_offset = first.base_offset;
            // Its entry goes with the segments before: from now on the start alone says who the members are.
            if let Some(core) = self.engine.core(group) {
                let (configuration, id) = core.configuration_at(start.prev.index);
                (start.configuration, start.configuration_id) = (configuration.encode(), id);
            }
        }
        if let Some(p) = self.partitions.get_mut(&group)
            && let Some((producers, at)) = p.producer_snapshot()
        {
            start.producers = Bytes::from(producers);
            start.producers_at = at;
            p.since_snapshot = 0;
        }
        if let Some(core) = self.engine.core(group) {
            // Its entry may lie before the new start.
            let (configuration, id) = core.configuration_at(start.prev.index);
            (start.configuration, start.configuration_id) = (configuration.encode(), id);
        }
        if start.producers_at < start.prev.index {
            // The entries the producer state would be rebuilt from must stay (design section 4).
            return Ok(());
        }
        self.engine.move_log_start(now.mono, group, start)
    }

    /// A new leader's state of producers is made to reflect its own log, and is stored before anything new is. Where that fails another
    /// replica is to lead, and it is tried again as long as this one does.
    fn forget_lost_batches(&mut self, now: Now, group: GroupId) {
        let Ok((mut last, _)) = self.engine.store_ref().last(group) else { return };
        let Some(p) = self.partitions.get_mut(&group) else { return };
        if last.epoch == p.epoch && p.unsettled.is_none() {
            // The first entry of its term (Raft §8), or of its generation, and nothing else so far.
            last.index = last.index.prev();
        }
        let start = p.start;
        let made = p.forget_lost(last.index, self.engine.store());
        let settled = match made {
            Ok(false) => return,
            Ok(true) => self.try_move_start(now, group, start).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        let stored = self.engine.store_ref().log_start(group).map(|start| start.producers_at);
        // A restart would find the old state, and not see what is written from now on.
        let is_stored = stored.is_ok_and(|at| at <= last.index.next());
        let Some(p) = self.partitions.get_mut(&group) else { return };
        let is_news = p.unsettled.is_none();
        p.unsettled = match settled {
            Ok(()) if is_stored => None,
            Ok(()) => Some("the producers' state that was lost cannot be stored anew yet".to_owned()),
            Err(error) => Some(format!("the producers' state that was lost cannot be made anew: {error}")),
        };
        if let Some(why) = &p.unsettled {
            if is_news {
                tracing::warn!(%group, why, "leads, and takes nothing; another replica is asked to lead");
            }
            self.engine.transfer(now.mono, group, None);
        }
    }

    fn settle_producers(&mut self, now: Now) {
        let unsettled = self.partitions.values().filter(|p| p.unsettled.is_some() && p.role == Role::Leader);
        for group in unsettled.map(|p| p.group).collect::<Vec<_>>() {
            self.forget_lost_batches(now, group);
        }
    }

    /// Stores the producer state of partitions that grew, so that a restart reads little of the log.
    fn snapshot_producers(&mut self, now: Now, threshold: u64) {
        let grown: Vec<(GroupId, Offset)> = self
            .partitions
            .values()
            .filter(|p| p.since_snapshot >= threshold && p.out_of_service.is_none())
            .map(|p| (p.group, p.start))
            .collect();
        for (group, start) in grown {
            self.move_start(now, group, start);
        }
    }

    pub(super) fn start_drain(&mut self, now: Now, reply: oneshot::Sender<()>) {
        self.upkeep.draining = true;
        self.upkeep.announcing = now.mono + ANNOUNCE_MS;
        self.announce_stop(now);
        self.snapshot_producers(now, 1);
        self.hand_over(now);
        self.process_events(now);
        self.drain = Some(reply);
    }

    /// Asks for every leadership still held to be handed over; repeated while draining, since a hand-over may fail.
    fn hand_over(&mut self, now: Now) {
        for group in self.engine.group_ids() {
            self.engine.transfer(now.mono, group, None);
        }
    }

    /// Answers the drain when nothing that others could lead is led here.
    pub(super) fn check_drain(&mut self, now: Now) {
        if self.drain.is_none() {
            return;
        }
        let leads = |group: GroupId| {
            self.engine
                .core(group)
                .is_some_and(|core| core.role() == Role::Leader && core.configuration().0.voters.len() > 1)
        };
        if leads(CONTROLLER) {
            // It is the next leader that has to know.
            self.upkeep.announcing = now.mono + ANNOUNCE_MS;
            return;
        }
        let own = self.image.brokers.get(&self.node());
        let is_untold = match self.config.node.is_broker {
            true => own.is_some_and(|broker| !broker.stopping && !broker.dead),
            false => self.is_stop_untold(),
        };
        if is_untold && now.mono < self.upkeep.announcing {
            return;
        }
        if !self.partitions.keys().any(|group| leads(*group))
            && let Some(reply) = self.drain.take()
        {
            let _gone = reply.send(());
        }
    }
}

/// First offset that retention keeps.
fn retained_from(segments: &[SegmentInfo], retention_ms: i64, retention_bytes: i64, now_ms: i64) -> Offset {
    let mut total: u64 = segments.iter().map(|s| s.bytes).sum();
    let mut keep = segments.first().map_or(Offset(0), |s| s.base_offset);
    for segment in segments.iter().filter(|s| !s.active) {
        let empty = segment.next_offset == segment.base_offset;
        let old = retention_ms >= 0
            && segment.max_timestamp >= 0
            && now_ms.saturating_sub(segment.max_timestamp) > retention_ms;
        let big = retention_bytes >= 0 && total.saturating_sub(segment.bytes) >= retention_bytes as u64;
        // Files without a record (opened by a restart, or with control entries alone) have no age and hold nobody up.
        if !old && !big && !empty {
            break;
        }
        total -= segment.bytes;
        keep = segment.next_offset;
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Index;

    fn segment(base: i64, bytes: u64, timestamp: i64, active: bool) -> SegmentInfo {
        SegmentInfo {
            first: Index(base as u64 + 1),
            base_offset: Offset(base),
            next_offset: Offset(base + 10),
            bytes,
            max_timestamp: timestamp,
            active,
        }
    }

    #[test]
    fn retention_by_time_drops_whole_old_segments_and_never_the_active_one() {
        let segments = [segment(0, 5, 100, false), segment(10, 5, 200, false), segment(20, 5, 50, true)];
        assert_eq!(retained_from(&segments, 1000, -1, 1150), Offset(10));
        assert_eq!(retained_from(&segments, 1000, -1, 5000), Offset(20));
        assert_eq!(retained_from(&segments, -1, -1, 5000), Offset(0));
        // A file without records is in nobody's way, wherever it stands.
        let none = |base| SegmentInfo { next_offset: Offset(base), ..segment(base, 5, -1, false) };
        let files =
            [segment(0, 5, 100, false), none(10), segment(10, 5, 200, false), segment(20, 5, 9, true)];
        assert_eq!(retained_from(&files, 1000, -1, 1150), Offset(10));
        assert_eq!(retained_from(&files, 1000, -1, 5000), Offset(20));
        assert_eq!(retained_from(&[none(0), segment(0, 5, 4000, false)], 1000, -1, 4500), Offset(0));
        // A segment without a timestamp is never old; nothing behind it goes before it.
        let unknown = [segment(0, 5, -1, false), segment(10, 5, 1, false)];
        assert_eq!(retained_from(&unknown, 1, -1, 5000), Offset(0));
    }

    #[test]
    fn retention_by_size_keeps_at_least_the_limit() {
        let segments = [segment(0, 5, 1, false), segment(10, 5, 2, false), segment(20, 5, 3, true)];
        assert_eq!(retained_from(&segments, -1, 10, 0), Offset(10));
        assert_eq!(retained_from(&segments, -1, 11, 0), Offset(0));
        assert_eq!(retained_from(&segments, -1, 0, 0), Offset(20));
    }
}
