//! The members of groups as the controllers' metadata wants them: shrink and grow, and a replica's part in generation changes.
//!
//! Every replica here looks at its group now and then, and when a broker's standing changed: a leader changes the members one step
//! at a time, a replica of a group that cannot have a leader asks the controllers for a new generation. Orders come from this node's
//! own copy of the controller log alone; what was done is reported until the log shows that it was heard: seals, and groups that are
//! where a reassignment wants them. Not here: what is to be done (`ctl::members`), who decides generations (`control`,
//! `ctl::generations`), the rules of either change (`raftlog`).
//! Invariants:
//! - nothing here is remembered that a restart would miss: image and logs say it all;
//! - a look changes a bounded number of groups; the rest follows in the next turns.

use super::anew;
use super::control::Target;
use super::rpc::Ask;
use super::{CONTROLLER, Now, Shard};
use crate::ctl::command::Command as CtlCommand;
use crate::ctl::image::{Image, Partition as Placed};
use crate::ctl::members::{self, Next, View};
use crate::ctl::reassign::Arrival;
use crate::raftlog::core::{GenerationEffect, Millis, PeerProgress, Role};
use crate::raftlog::generation::SealReport;
use crate::segment::{Doubt, Epoch, Generation, GroupId, NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// How often all replicas are looked at, and how much later with many.
const LOOK_MS: Millis = 500;
const LOOK_PARTITIONS_PER_MS: u64 = 4;
/// Groups whose members change in one look; the next one follows at once.
const CHANGES: usize = 256;
const NEXT_PART_MS: Millis = 10;
/// A peer that a leader has heard within this is not gone, whatever the controllers say.
pub(super) const HEARD_MS: Millis = 400;
/// How long learners that are caught up wait for others, to become voters together.
pub(super) const TOGETHER_MS: Millis = 2_000;
/// How often what the controllers have not acted on yet is repeated: seals less and less often, as long as nothing changes.
const REPEAT_MS: Millis = 500;
const REPEAT_MAX_MS: Millis = 16_000;
/// How long a request for new generations may take.
const ASK_MS: u64 = 3_000;
/// A damaged replica, or one in doubt, mostly gets well within this; then its vote is not waited for.
pub(super) const HEALING_MS: Millis = 2_000;
/// A report that a replica is unfit is repeated with every look, and holds for this much longer.
const UNFIT_MS: Millis = 1_500;
/// Reports in one message, requests in one command.
const BATCH: usize = 1_000;

/// Who leads the controllers, and since which epoch.
type Leadership = Option<(NodeId, Epoch)>;

/// What is kept between looks.
pub struct Members {
    next: Millis,
    /// Where the last look stopped, if it did not come round.
    cursor: GroupId,
    next_seal: Millis,
    seal_pause: Millis,
    /// Which leadership of the controllers seals were last reported to.
    told: Leadership,
    asked: Millis,
    /// When arrivals were last told.
    arrivals_told: Millis,
    /// Seals that are durable and were not sent yet.
    reports: Vec<(GroupId, SealReport)>,
    /// Since when learners wait for others.
    together: BTreeMap<GroupId, Millis>,
    /// Since when replicas here are damaged or in doubt.
    ailing: BTreeMap<GroupId, Millis>,
    /// Groups whose generation has no terms left, so that nobody may campaign in it (safety.md F4).
    out_of_terms: BTreeSet<GroupId>,
    /// Voters of groups led here that said so of themselves, and until when that holds.
    unfit: BTreeMap<(GroupId, NodeId), Millis>,
    peers: Vec<PeerProgress>,
    pub(super) anew: anew::Anew,
}

impl Members {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            next: now + LOOK_MS,
            cursor: GroupId(0),
            next_seal: now,
            seal_pause: REPEAT_MS,
            told: None,
            asked: 0,
            arrivals_told: 0,
            reports: Vec::new(),
            together: BTreeMap::new(),
            ailing: BTreeMap::new(),
            out_of_terms: BTreeSet::new(),
            unfit: BTreeMap::new(),
            peers: Vec::new(),
            anew: anew::Anew::default(),
        }
    }

    /// A group was sealed, or its generation ended: the report of it may be lost like any other.
    pub(super) fn seal_soon(&mut self, now: Millis) {
        self.seal_pause = REPEAT_MS / 2;
        self.next_seal = self.next_seal.min(now + REPEAT_MS);
    }

    #[cfg(test)]
    pub(super) fn seal_pause(&self) -> Millis {
        self.seal_pause
    }

    /// Something changed that may concern any group.
    pub(super) fn look_now(&mut self) {
        self.next = 0;
    }
}

/// What one look found.
#[derive(Default)]
struct Found {
    changes: usize,
    /// Groups that can go on in a new generation.
    stuck: Vec<(GroupId, u64)>,
    /// Groups that are where they were to be.
    arrived: Vec<Arrival>,
    /// Groups that have to wait for replicas.
    waiting: Vec<GroupId>,
    /// Replicas here that cannot go on.
    anew: anew::Found,
    /// By the node that leads them: groups whose replica here is no voter to count on.
    unfit: BTreeMap<NodeId, Vec<GroupId>>,
}

impl Shard {
    pub(super) fn members_deadline(&self) -> Millis {
        match self.image.sealing.is_empty() {
            true => self.members.next,
            false => self.members.next.min(self.members.next_seal),
        }
    }

    pub(super) fn tick_members(&mut self, now: Now) {
        let is_news = !self.image.sealing.is_empty() && self.members.told != self.controllers();
        if now.mono >= self.members.next_seal || is_news {
            self.repeat_seals(now);
        }
        self.tell_floors(now);
        if now.mono >= self.members.next {
            self.members.next = now.mono + LOOK_MS + self.partitions.len() as u64 / LOOK_PARTITIONS_PER_MS;
            self.look_at_members(now);
        }
    }

    fn look_at_members(&mut self, now: Now) {
        self.tend_leaving();
        self.tell_emptied(now);
        if self.config.node.shrink_min_voters == usize::MAX {
            // Members are somebody else's business: the simulator's orders.
            return;
        }
        let image = self.image.clone();
        let mut groups: Vec<GroupId> = self.partitions.keys().copied().collect();
        groups.sort_unstable();
        // From where the last one stopped: groups at the front that always have something to do must not keep the rest waiting.
        let at = groups.partition_point(|group| *group < self.members.cursor);
        groups.rotate_left(at);
        let mut found = Found::default();
        for group in groups {
            if found.changes == CHANGES {
                self.members.next = now.mono + NEXT_PART_MS;
                self.members.cursor = group;
                break;
            }
            if let Some((_, _, placed)) = image.group(group) {
                self.look_at_group(now, &image, placed, &mut found);
            }
        }
        if found.changes < CHANGES {
            self.tell_anew(now, found.anew);
            self.status.waiting = found.waiting;
            let partitions = &self.partitions;
            self.members.together.retain(|group, _| partitions.contains_key(group));
            self.members.ailing.retain(|group, _| partitions.contains_key(group));
            self.members.unfit.retain(|_, until| *until > now.mono);
            let engine = &self.engine;
            let is_out = |group: &GroupId| engine.core(*group).is_some_and(|core| !core.has_terms_left());
            self.members.out_of_terms.retain(is_out);
            self.status.out_of_terms = self.members.out_of_terms.iter().copied().collect();
        }
        for (leader, mut groups) in found.unfit {
            while !groups.is_empty() {
                let batch = groups.split_off(groups.len().saturating_sub(BATCH));
                let rpc = self.next_id();
                self.send_rpc(now, leader, rpc, &Ask::Unfit { groups: batch });
            }
        }
        self.ask_for_generations(now, found.stuck);
        self.tell_arrivals(now, found.arrived);
    }

    /// Voters on this node are damaged, or may have lost something.
    pub(super) fn note_unfit(&mut self, now: Now, node: NodeId, groups: Vec<GroupId>) {
        let until = now.mono + UNFIT_MS + self.partitions.len() as u64 / LOOK_PARTITIONS_PER_MS;
        let is_here = |group: &GroupId| *group == CONTROLLER || self.partitions.contains_key(group);
        let known = groups.into_iter().filter(is_here);
        self.members.unfit.extend(known.map(|group| ((group, node), until)));
    }

    /// Whether this node said of its replica of the group that it is not to be counted on.
    pub(super) fn is_unfit(&self, now: Now, group: GroupId, node: NodeId) -> bool {
        self.members.unfit.get(&(group, node)).is_some_and(|until| *until > now.mono)
    }

    /// Whether the replica here can be counted on; false only when it has been ailing for a while.
    fn is_fit(&mut self, now: Now, group: GroupId) -> bool {
        let served = self.partitions.get(&group).is_some_and(|p| p.out_of_service.is_none());
        let sound = self.engine.core(group).is_some_and(|core| core.doubt() == Doubt::None);
        if served && sound && self.begins_anew(now, group).is_none() {
            self.members.ailing.remove(&group);
            return true;
        }
        now.mono < *self.members.ailing.entry(group).or_insert(now.mono) + HEALING_MS
    }

    fn look_at_group(&mut self, now: Now, image: &Image, placed: &Placed, found: &mut Found) {
        let group = placed.group;
        let Some(p) = self.partitions.get(&group) else { return };
        let (leads, leader, is_served) = (p.role == Role::Leader, p.leader, p.out_of_service.is_none());
        let is_fit = self.is_fit(now, group);
        if !leads {
            self.look_at_anew(now, placed, leader.map(|leader| leader.node), &mut found.anew);
        }
        if placed.sealing.is_some() {
            return found.waiting.push(group);
        }
        let leader = leader.filter(|leader| !leads && !self.gone.contains_key(&leader.node));
        if let Some(leader) = leader {
            if !is_fit {
                found.unfit.entry(leader.node).or_default().push(group);
            }
            return;
        }
        let mut peers = std::mem::take(&mut self.members.peers);
        peers.clear();
        if leads {
            self.engine.each_peer(group, &mut |peer| peers.push(peer));
        }
        let is_sound = is_served && self.engine.core(group).is_some_and(|core| core.doubt() == Doubt::None);
        if !leads && is_sound && self.is_out_of_terms(group, placed) {
            // A generation begins with one voter.
            if self.config.node.shrink_min_voters <= 1 {
                found.stuck.push((group, placed.generation));
            }
            return found.waiting.push(group);
        }
        let next = self.next_step(now, image, placed, is_sound, leads.then_some(&peers));
        self.members.peers = peers;
        found.arrived.extend(self.arrival(placed).filter(|_| leads && is_sound));
        if next == Next::Wait {
            self.members.together.entry(group).or_insert(now.mono);
        } else {
            self.members.together.remove(&group);
        }
        match next {
            Next::Change { voters, learners } => {
                found.changes += usize::from(self.change_members(now, group, voters, learners));
            }
            // The seals decide, whoever asks: also one that nobody is to make whole, and that leaves no quorum.
            Next::Stuck { provable: true } if is_sound || self.engine.is_refused(now.mono, group) => {
                found.stuck.push((group, placed.generation))
            }
            Next::Stuck { .. } => found.waiting.push(group),
            Next::Nothing | Next::Wait => {}
        }
    }

    /// Nobody leads and nobody may campaign any more: only another generation helps, and there is nothing that a seal would stop.
    fn is_out_of_terms(&self, group: GroupId, placed: &Placed) -> bool {
        let core = self.engine.core(group);
        core.is_some_and(|c| !c.has_terms_left() && c.epoch().generation.0 == placed.generation)
    }

    /// What is to be done about a group; `peers` as its leader knows them.
    fn next_step(
        &self,
        now: Now,
        image: &Image,
        placed: &Placed,
        is_sound: bool,
        peers: Option<&Vec<PeerProgress>>,
    ) -> Next {
        let group = placed.group;
        let Some(core) = self.engine.core(group) else { return Next::Nothing };
        // A generation that the image does not know of is another node's news: our log of the controllers is behind.
        if core.epoch().generation.0 != placed.generation {
            return Next::Nothing;
        }
        let me = core.replica();
        let peer = |replica: ReplicaId| peers?.iter().find(|peer| peer.replica == replica);
        let is_heard =
            |replica| peer(replica).is_some_and(|p| now.mono.saturating_sub(p.heard_ms) < HEARD_MS);
        let is_gone = |replica: ReplicaId| {
            if replica == me {
                return !is_sound;
            }
            if self.is_unfit(now, group, replica.node)
                || self.members.anew.was_granted(now.mono, group, replica)
            {
                return true;
            }
            let dead = image.brokers.get(&replica.node).is_none_or(|broker| broker.dead);
            !is_heard(replica) && (dead || !placed.replicas.contains(&replica) || !image.holds(&replica))
        };
        let is_live = |replica: ReplicaId| {
            image.holds(&replica) && image.brokers.get(&replica.node).is_some_and(|b| !b.fenced)
        };
        let since = self.members.together.get(&group);
        let view = View {
            configuration: core.configuration().0,
            me,
            assigned: &placed.replicas,
            target: placed.target(),
            takes_back: !placed.is_cancelled(),
            was_there: &|replica| placed.was_there(replica),
            is_gone: &is_gone,
            is_heard: &is_heard,
            is_live: &is_live,
            is_caught_up: &|replica| peer(replica).is_some_and(|peer| peer.is_caught_up),
            known: image.applied,
            counts: &|replica| peer(replica).is_some_and(|peer| peer.counts),
            min_voters: self.config.node.shrink_min_voters,
            is_patience_over: since.is_some_and(|since| now.mono >= since + TOGETHER_MS),
        };
        match peers {
            Some(_) => members::next(&view),
            None => members::is_stuck(&view).unwrap_or(Next::Nothing),
        }
    }

    /// Begins a change; false if something stands in its way.
    pub(super) fn change_members(
        &mut self,
        now: Now,
        group: GroupId,
        voters: Vec<ReplicaId>,
        learners: Vec<ReplicaId>,
    ) -> bool {
        let Some(core) = self.engine.core(group) else { return false };
        let (current, expected) = core.configuration();
        if !core.is_established() || expected.index > core.commit() {
            return false;
        }
        let nodes = |replicas: &[ReplicaId]| replicas.iter().map(|r| r.node.0).collect::<Vec<_>>();
        let from = nodes(&current.voters);
        let (to, rest) = (nodes(&voters), nodes(&learners));
        match self.engine.change_membership(now.mono, group, expected, voters, learners) {
            Ok(entry) => {
                tracing::info!(%group, %entry, ?from, voters = ?to, learners = ?rest, "members change");
                true
            }
            // The next look will see what stood in the way.
            Err(error) => {
                tracing::debug!(%group, %error, voters = ?to, learners = ?rest, "members stay");
                false
            }
        }
    }

    /// What the leader of a group that moves tells the controllers once nobody votes who is to leave. Those are learners then, which
    /// nobody needs, in whatever generation this still is when the controllers write it down.
    fn arrival(&self, placed: &Placed) -> Option<Arrival> {
        let moving = placed.moving.as_ref()?;
        let core = self.engine.core(placed.group)?;
        let (configuration, id) = core.configuration();
        let is_committed = core.is_established() && id.index <= core.commit();
        let is_current = core.epoch().generation.0 == placed.generation;
        let (group, generation) = (placed.group, placed.generation);
        let arrival = Arrival { group, since: moving.since, generation, configuration: id };
        (is_committed && is_current && placed.is_at(configuration)).then_some(arrival)
    }

    /// Groups that have arrived; told again until the controllers have written it down.
    fn tell_arrivals(&mut self, now: Now, mut arrived: Vec<Arrival>) {
        if arrived.is_empty() || now.mono < self.members.arrivals_told + REPEAT_MS {
            return;
        }
        self.members.arrivals_told = now.mono;
        while !arrived.is_empty() {
            let arrivals = arrived.split_off(arrived.len().saturating_sub(BATCH));
            let command = CtlCommand::Arrived { arrivals };
            self.route(now, command, now.mono + ASK_MS, Target::Internal);
        }
    }

    /// Groups whose dead voters leave no quorum, and whose others prove that nothing can be lost.
    fn ask_for_generations(&mut self, now: Now, mut stuck: Vec<(GroupId, u64)>) {
        if stuck.is_empty() || now.mono < self.members.asked + REPEAT_MS {
            return;
        }
        self.members.asked = now.mono;
        tracing::warn!(groups = stuck.len(), "no quorum is left; asking for new generations");
        let node = self.node();
        while !stuck.is_empty() {
            let groups = stuck.split_off(stuck.len().saturating_sub(BATCH));
            let command = CtlCommand::Seal { node, groups };
            self.route(now, command, now.mono + ASK_MS, Target::Internal);
        }
    }

    /// What the controller log says of the group's generation, told to its replica here; any number of times.
    pub(super) fn tell_generation(&mut self, now: Now, group: GroupId) {
        let image = self.image.clone();
        let Some((_, _, placed)) = image.group(group) else { return };
        if let Some(decision) = &placed.opening {
            self.engine.decide(now.mono, group, (**decision).clone());
        }
        if let Some(plan) = placed.sealing {
            self.engine.seal(now.mono, group, Generation(placed.generation), plan);
        }
    }

    /// What a controller leader was told is gone with its leadership.
    fn controllers(&self) -> Leadership {
        let core = self.engine.core(CONTROLLER)?;
        Some((core.leader()?.node, core.epoch()))
    }

    /// Until a decision is in the log the controllers may not have heard of a seal. One that proves too little waits for other replicas,
    /// perhaps for days: whoever is told once knows, so only another controller leader has to be told soon.
    fn repeat_seals(&mut self, now: Now) {
        let image = self.image.clone();
        let asked = self.controllers();
        let is_same = std::mem::replace(&mut self.members.told, asked) == asked;
        self.members.seal_pause =
            if is_same { (2 * self.members.seal_pause).min(REPEAT_MAX_MS) } else { REPEAT_MS };
        self.members.next_seal = now.mono + self.members.seal_pause;
        for group in image.sealing.iter().filter(|group| self.partitions.contains_key(group)) {
            if let Some(plan) = image.group(*group).and_then(|(_, _, placed)| placed.sealing) {
                let generation = Generation(image.group(*group).map_or(0, |(_, _, p)| p.generation));
                self.engine.seal(now.mono, *group, generation, plan);
            }
        }
    }

    pub(super) fn on_generation(&mut self, now: Now, group: GroupId, what: GenerationEffect) {
        match what {
            what if group == CONTROLLER => self.on_own_generation(now, what),
            GenerationEffect::Sealed(report) => self.members.reports.push((group, report)),
            GenerationEffect::TakeOverRefused { generation, reason } => {
                tracing::error!(%group, %generation, reason, "this replica was to take its group over and is not what was \
                    decided on");
            }
            GenerationEffect::Reopened { generation, commit } => {
                tracing::warn!(%group, %generation, %commit, "a new generation of the group");
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.on_reopened(commit, self.engine.store());
                }
                self.members.next = self.members.next.min(now.mono + NEXT_PART_MS);
            }
            GenerationEffect::TermsUsedUp => {
                if self.members.out_of_terms.insert(group) {
                    tracing::error!(%group, "the terms of this generation are used up; the group waits for the next one");
                }
            }
            what => tracing::debug!(%group, ?what, "generation"),
        }
    }

    /// Tells the controllers of seals, many in one message.
    pub(super) fn send_reports(&mut self, now: Now) {
        if self.members.reports.is_empty() {
            return;
        }
        let mut reports = std::mem::take(&mut self.members.reports);
        match self.controller_to_ask() {
            Some(leader) if leader == self.node() => self.on_seal_reports(now, reports),
            Some(leader) => {
                while !reports.is_empty() {
                    let batch = reports.split_off(reports.len().saturating_sub(BATCH));
                    let rpc = self.next_id();
                    self.send_rpc(now, leader, rpc, &Ask::Sealed { reports: batch });
                }
            }
            // They are repeated.
            None => {}
        }
    }
}
