//! The controllers' own group: who votes in it, and how it goes on when two are left and one of them is silent (safety.md F1).
//!
//! Its leader does for it what leaders of partitions do for theirs (decision 0009), by the same rule (`ctl::members`), with what it hears
//! itself in the place of the metadata's word where a controller is no broker. Below two voters nothing shrinks; the heir of two
//! goes on alone in a new generation, and whoever hears of that generation asks a controller how it began. Not here: who is heir and
//! why that is safe (`raftlog::heir`), seal and take-over (`core::takeover`). Invariants:
//! - only who once was a controller becomes one: whoever merely names the others in its configuration does not;
//! - a generation is told only by who holds an entry of it, durably;
//! - the heir's silence is counted by looks that were made: a process that was stopped did not hear anybody.

use super::control::NO_SESSION;
use super::members::{HEALING_MS, HEARD_MS, TOGETHER_MS};
use super::rpc::Ask;
use super::{CONTROLLER, ELECTION_MS, Now, Shard};
use crate::ctl::members::{self, Next, View};
use crate::raftlog::core::{Core, GenerationEffect, Millis, PeerProgress};
use crate::raftlog::generation::Decision;
use crate::raftlog::heir;
use crate::segment::{Doubt, Generation, NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// How often the group is looked at.
const LOOK_MS: Millis = 500;
/// Looks further apart than this were missed: nothing is concluded from the time between.
const MISSED_MS: Millis = 2_000;
/// A controller that is not a member yet, and asks who we are, was there so long ago at most.
const ASKED_MS: Millis = 3_000;
/// How often a controller without a leader asks the others who they are.
const INTRODUCE_MS: Millis = 1_000;
/// One that stops repeats it all the time until its process ends: heard for so long after it last said so, it is another process.
const RETURNED_MS: Millis = 5_000;
/// A voter that is silent for longer is shown as absent.
const ABSENT_MS: Millis = 2_000;
/// Without a leader for so long: no mere election.
const LEADERLESS_MS: Millis = 3_000;
/// How long growth waits for the heir to lead it.
const HAND_OVER_MS: Millis = 10_000;

/// What is kept between looks.
pub struct Controllers {
    next: Millis,
    looked: Millis,
    next_introduction: Millis,
    /// Directories of controllers that are no brokers, as they said themselves, and when.
    directories: BTreeMap<NodeId, (u128, Millis)>,
    /// Controllers that are no brokers and stop in order, and when they last said so.
    stopping: BTreeMap<NodeId, Millis>,
    /// When nodes last said hello.
    greeted: BTreeMap<NodeId, Millis>,
    /// Another leader knows that this node stops.
    is_stop_known: bool,
    /// Since when the replica here is damaged or in doubt.
    ailing: Option<Millis>,
    /// Since when learners wait for others.
    together: Option<Millis>,
    /// Since when growth waits for the heir to lead it.
    handing_over: Option<Millis>,
    /// Since when nobody leads.
    leaderless: Option<Millis>,
    /// Highest generation that somebody spoke in.
    seen: Generation,
    /// Who was said to be waited for.
    said: Vec<NodeId>,
    /// What was last said to be in the way.
    complaint: String,
    peers: Vec<PeerProgress>,
}

impl Controllers {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            next: now + LOOK_MS,
            looked: now,
            next_introduction: now,
            directories: BTreeMap::new(),
            stopping: BTreeMap::new(),
            greeted: BTreeMap::new(),
            is_stop_known: false,
            ailing: None,
            together: None,
            handing_over: None,
            leaderless: None,
            seen: Generation(0),
            said: Vec::new(),
            complaint: String::new(),
            peers: Vec::new(),
        }
    }

    /// Whether this was not said last: looks are repeated, and what is in the way stays mostly what it is.
    pub(super) fn is_news(&mut self, complaint: String) -> bool {
        let is_news = self.complaint != complaint;
        self.complaint = complaint;
        is_news
    }

    pub(super) fn deadline(&self) -> Millis {
        self.next
    }

    /// The members changed: there may be more to do, and something new to say.
    pub(super) fn look_now(&mut self) {
        self.next = 0;
    }

    /// A controller that is no broker says that it stops in order.
    pub(super) fn stops(&mut self, node: NodeId, now: Millis) {
        self.stopping.insert(node, now);
    }

    /// Whoever leads knows that this node, which is no broker, stops.
    pub(super) fn stop_is_known(&mut self) {
        self.is_stop_known = true;
    }

    /// Its next process said hello: what it did not say before is not held against it.
    pub(super) fn is_back(&mut self, node: NodeId, now: Millis) {
        self.stopping.remove(&node);
        self.greeted.insert(node, now);
    }
}

impl Shard {
    /// This node's replica of the group, to look at.
    pub fn core_of_controllers(&self) -> Option<&Core> {
        self.engine.core(CONTROLLER)
    }

    /// Whether the group's members are this shard's business; in some simulations they are nobody's.
    pub(super) fn admits_controllers(&self) -> bool {
        self.config.node.shrink_min_voters != usize::MAX
    }

    pub(super) fn tick_controllers(&mut self, now: Now) {
        if now.mono < self.controllers.next {
            return;
        }
        self.controllers.next = now.mono + LOOK_MS;
        let looked = std::mem::replace(&mut self.controllers.looked, now.mono);
        self.ask_for_generation(now);
        if self.admits_controllers() && !self.membership.is_broken() {
            if self.leads_established() {
                self.look_at_controllers(now);
            } else {
                self.say_unfit(now);
            }
            self.mind_heir(now, now.mono.saturating_sub(looked) > MISSED_MS);
        }
        self.show_controllers();
    }

    /// What /health says of the group.
    fn show_controllers(&mut self) {
        let Some(core) = self.engine.core(CONTROLLER) else { return };
        let (configuration, _) = core.configuration();
        let nodes = |replicas: &[ReplicaId]| replicas.iter().map(|r| r.node).collect();
        let status = &mut self.status.controllers;
        status.voters = nodes(&configuration.voters);
        status.learners = nodes(&configuration.learners);
        status.generation = core.epoch().generation.0;
        status.heir = heir::of(&configuration.voters).map(|heir| heir.node);
        status.ended_by = core.hard_state().sealed.filter(|plan| !heir::is_own(*plan));
    }

    /// A controller that is no broker, and has no session to tell it by, introduces itself as long as it hears no leader: its disk may be
    /// a new one, and then the leader does not know whom to speak to.
    pub(super) fn tick_controller_apart(&mut self, now: Now) {
        if self.membership.is_stopping() {
            return self.tell_stop(now);
        }
        if now.mono < self.controllers.next_introduction || self.controller_leader().is_some() {
            return;
        }
        self.controllers.next_introduction = now.mono + INTRODUCE_MS;
        let directory = format!("{:032x}", self.config.directory);
        for node in self.other_controllers() {
            let rpc = self.next_id();
            self.send_rpc(now, node, rpc, &Ask::WhoAreYou { directory: directory.clone() });
        }
    }

    /// A controller that is no broker tells all others that it stops in order: there is no record of it, and whoever leads next has to
    /// know that nobody died. Repeated until the process ends.
    pub(super) fn tell_stop(&mut self, now: Now) {
        for node in self.other_controllers() {
            let rpc = self.next_id();
            self.send_rpc(
                now,
                node,
                rpc,
                &Ask::Heartbeat { incarnation: NO_SESSION, stopping: true, lease: false, applied: 0 },
            );
        }
    }

    /// Whether a vote here would be missed by a leader who does not know why.
    pub(super) fn is_stop_untold(&self) -> bool {
        let votes_with_others = |core: &Core| {
            let (configuration, _) = core.configuration();
            configuration.is_voter(core.replica()) && configuration.members().any(|r| r != core.replica())
        };
        !self.controllers.is_stop_known && self.engine.core(CONTROLLER).is_some_and(votes_with_others)
    }

    fn other_controllers(&self) -> Vec<NodeId> {
        let all = self.config.node.controllers.keys().copied();
        all.filter(|node| *node != self.node()).collect()
    }

    /// A controller says which disk it has.
    pub(super) fn note_controller(&mut self, now: Now, node: NodeId, directory: &str) {
        if let Ok(directory) = u128::from_str_radix(directory, 16)
            && self.config.node.controllers.contains_key(&node)
        {
            self.controllers.directories.insert(node, (directory, now.mono));
        }
    }

    /// A voter here that is damaged or in doubt is not to be counted on, and only it knows.
    fn say_unfit(&mut self, now: Now) {
        let Some(core) = self.engine.core(CONTROLLER) else { return };
        if self.is_sound(core) {
            self.controllers.ailing = None;
            return;
        }
        let since = *self.controllers.ailing.get_or_insert(now.mono);
        let leader = core.leader().filter(|leader| *leader != core.replica());
        if let Some(leader) = leader.filter(|_| now.mono >= since + HEALING_MS) {
            let rpc = self.next_id();
            self.send_rpc(now, leader.node, rpc, &Ask::Unfit { groups: vec![CONTROLLER] });
        }
    }

    fn is_sound(&self, core: &Core) -> bool {
        core.doubt() == Doubt::None && self.engine.store_ref().needs_repair(CONTROLLER).is_none()
    }

    /// As leader: one step towards the members there should be.
    fn look_at_controllers(&mut self, now: Now) {
        let mut peers = std::mem::take(&mut self.controllers.peers);
        peers.clear();
        self.engine.each_peer(CONTROLLER, &mut |peer| peers.push(peer));
        let grace = self.config.node.shrink_grace.as_millis() as u64;
        let has_returned = |node: NodeId, at: Millis| {
            peers.iter().any(|peer| peer.replica.node == node && peer.heard_ms > at + RETURNED_MS)
        };
        let is_awaited =
            |node: &NodeId, at: &mut Millis| now.mono < at.saturating_add(grace) && !has_returned(*node, *at);
        self.controllers.stopping.retain(is_awaited);
        let next = self.next_controllers(now, &peers);
        self.controllers.peers = peers;
        match next {
            Next::Wait => {
                self.controllers.together.get_or_insert(now.mono);
            }
            _ => self.controllers.together = None,
        }
        if !matches!(next, Next::Change { .. }) {
            self.controllers.handing_over = None;
        }
        if let Next::Change { voters, learners } = next {
            match self.leads_growth(now, &voters) {
                None => drop(self.change_members(now, CONTROLLER, voters, learners)),
                // Should the other one die in the middle of it, who began it knows what followed (`heir`).
                Some(heir) => self.transfer_if_ready(now, CONTROLLER, heir),
            }
        }
    }

    /// The heir of the present two, if these voters are more, and it does not lead yet, but could. One that is stopping, or has not come
    /// to lead in all that time, keeps nobody waiting: what is lost is that it may go on alone in the middle of the change.
    fn leads_growth(&mut self, now: Now, voters: &[ReplicaId]) -> Option<NodeId> {
        let core = self.engine.core(CONTROLLER)?;
        let present = &core.configuration().0.voters;
        let is_growth = voters.iter().any(|voter| !present.contains(voter));
        let heir =
            heir::of(present).filter(|heir| is_growth && *heir != core.replica()).map(|heir| heir.node);
        let Some(heir) = heir else {
            self.controllers.handing_over = None;
            return None;
        };
        let is_stopping = self.controllers.stopping.contains_key(&heir)
            || self.image.brokers.get(&heir).is_some_and(|broker| broker.stopping);
        let since = *self.controllers.handing_over.get_or_insert(now.mono);
        (!is_stopping && now.mono.saturating_sub(since) < HAND_OVER_MS).then_some(heir)
    }

    fn next_controllers(&self, now: Now, peers: &[PeerProgress]) -> Next {
        let Some(core) = self.engine.core(CONTROLLER) else { return Next::Nothing };
        let me = core.replica();
        let peer = |replica: ReplicaId| peers.iter().find(|peer| peer.replica == replica);
        let silent = |replica| peer(replica).map(|p| now.mono.saturating_sub(p.heard_ms));
        let is_heard = |replica| silent(replica).is_some_and(|ms| ms < HEARD_MS);
        // Not a member yet: it is not spoken to.
        let asks = |replica: ReplicaId| self.asked_with(now, replica.node) == Some(replica.directory);
        let assigned = self.controllers_to_be(now, core, &silent);
        let is_gone = |replica: ReplicaId| {
            if replica == me {
                return !self.is_sound(core);
            }
            if self.is_unfit(now, CONTROLLER, replica.node) {
                return true;
            }
            match silent(replica) {
                None => !asks(replica),
                Some(ms) if ms < HEARD_MS => false,
                Some(ms) => !assigned.contains(&replica) || self.is_lost(now, replica.node, ms),
            }
        };
        let since = self.controllers.together;
        let view = View {
            configuration: core.configuration().0,
            me,
            assigned: &assigned,
            target: &assigned,
            takes_back: false,
            was_there: &|_| false,
            is_gone: &is_gone,
            is_heard: &is_heard,
            is_live: &|replica| is_heard(replica) || asks(replica),
            is_caught_up: &|replica| peer(replica).is_some_and(|peer| peer.is_caught_up),
            known: self.image.applied,
            counts: &|replica| peer(replica).is_some_and(|peer| peer.counts),
            // The rest is for the heir.
            min_voters: self.config.node.shrink_min_voters.max(2),
            is_patience_over: since.is_some_and(|since| now.mono >= since + TOGETHER_MS),
        };
        members::next(&view)
    }

    /// As leader: controllers that are to vote and do not, or do and are not there. Brokers follow the group's log too, so its observers do not say
    /// that; and whoever restarts one node after the other has to know.
    pub(super) fn absent_controllers(&self, now: Now, core: &Core, peers: &[PeerProgress]) -> Vec<NodeId> {
        let (configuration, id) = core.configuration();
        let is_settled = !configuration.is_joint() && id.index <= core.commit();
        let is_there = |node: NodeId| {
            node == self.node()
                || (is_heard_as_voter(now, node, peers)
                    && !self.gone.contains_key(&node)
                    && !self.controllers.stopping.contains_key(&node))
        };
        let votes = |node: NodeId| {
            let among = |voters: &[ReplicaId]| voters.iter().any(|voter| voter.node == node);
            among(&configuration.voters)
                && (is_settled || configuration.old_voters.is_empty() || among(&configuration.old_voters))
        };
        let known = self.known_controllers(core).into_iter();
        let named = known.filter(|node| self.config.node.controllers.contains_key(node));
        named.filter(|node| !votes(*node) || !is_there(*node)).collect()
    }

    /// Nodes that are controllers, or were.
    fn known_controllers(&self, core: &Core) -> BTreeSet<NodeId> {
        let (configuration, _) = core.configuration();
        let known = configuration.members().chain(configuration.retired.iter().copied());
        known.chain(self.membership.founders().iter().copied()).map(|replica| replica.node).collect()
    }

    /// A controller that was not heard for so long is dead: by the metadata if it is a broker, else by the same times.
    fn is_lost(&self, now: Now, node: NodeId, silent_ms: Millis) -> bool {
        let broker = self.image.brokers.get(&node);
        if self.controllers.stopping.contains_key(&node) {
            return false;
        }
        if let Some(broker) = broker.filter(|broker| broker.dead || broker.stopping) {
            return broker.dead;
        }
        let config = &self.config.node;
        let ms = |time: std::time::Duration| time.as_millis() as u64;
        let greeted = self.controllers.greeted.get(&node).map(|at| now.mono.saturating_sub(*at));
        let silent_ms = greeted.map_or(silent_ms, |ms| ms.min(silent_ms));
        let ended = self.gone.get(&node).map(|until| until.saturating_sub(ELECTION_MS));
        silent_ms >= ms(config.broker_session_timeout)
            || ended.is_some_and(|at| now.mono >= at + ms(config.broker_reconnect_timeout))
    }

    /// The disk with which a controller introduced itself just now.
    fn asked_with(&self, now: Now, node: NodeId) -> Option<u128> {
        let asked = self.controllers.directories.get(&node);
        asked.filter(|(_, at)| now.mono < at + ASKED_MS).map(|(directory, _)| *directory)
    }

    /// One replica for each node that ever was a controller: the member, unless its node has come with another disk. Not before the member
    /// was silent for a whole session: another process may have been started under its node's number by mistake, and an id that is given
    /// up never comes back.
    fn controllers_to_be(
        &self,
        now: Now,
        core: &Core,
        silent: &dyn Fn(ReplicaId) -> Option<Millis>,
    ) -> Vec<ReplicaId> {
        let session = self.config.node.broker_session_timeout.as_millis() as u64;
        let may_be_alive = |member: ReplicaId| {
            member == core.replica() || silent(member).is_some_and(|silent| silent < session)
        };
        let (configuration, _) = core.configuration();
        let controller = |node: NodeId| {
            let member = configuration.members().find(|member| member.node == node);
            if member.is_some_and(may_be_alive) {
                return member;
            }
            // Its own word first: a controller that was a broker too, once, may have had another disk then.
            let broker = || self.image.brokers.get(&node).map(|broker| broker.directory.as_u128());
            let directory = self
                .asked_with(now, node)
                .or_else(broker)
                .filter(|_| self.config.node.controllers.contains_key(&node));
            let anew = directory.map(|directory| ReplicaId { node, assignment: 0, directory });
            let is_out = |anew: &ReplicaId| configuration.is_retired(*anew) || self.image.is_given_up(anew);
            anew.filter(|anew| !is_out(anew)).or(member)
        };
        self.known_controllers(core).into_iter().filter_map(controller).collect()
    }

    /// Of two voters the heir goes on when the other has been silent for long enough; the other one says whom it waits for.
    fn mind_heir(&mut self, now: Now, was_away: bool) {
        let Some(core) = self.engine.core(CONTROLLER) else { return };
        let (configuration, _) = core.configuration();
        if core.leader().is_some() || configuration.voters.is_empty() && core.hard_state().opening.is_none() {
            self.controllers.leaderless = None;
            self.status.controllers.waits_for_heir = None;
            self.status.controllers.waits_for.clear();
            self.controllers.said.clear();
            return;
        }
        let since = *self.controllers.leaderless.get_or_insert(now.mono);
        if was_away {
            self.controllers.leaderless = Some(now.mono);
            return;
        }
        let silent = now.mono.saturating_sub(since);
        let me = core.replica();
        let (mut heir, mut awaited) = (None, Vec::new());
        if silent >= LEADERLESS_MS && configuration.is_voter(me) {
            heir = heir::of(&configuration.voters).filter(|heir| *heir != me && !configuration.is_joint());
            awaited = missed(core);
        }
        self.status.controllers.waits_for_heir = heir.map(|heir| heir.node);
        self.status.controllers.waits_for.clone_from(&awaited);
        awaited.extend(heir.map(|heir| heir.node));
        if !awaited.is_empty() && self.controllers.said != awaited {
            let nodes: Vec<i32> = awaited.iter().map(|node| node.0).collect();
            tracing::error!(
                ?nodes,
                "the controllers wait for these: of two that vote the heir alone may go on without the other, and none in the middle of a \
                 change that it does not know the end of; start them, or, if they are gone for good, see `kontiki controller recover --help`"
            );
            self.controllers.said = awaited;
        }
        self.go_on_alone(now, silent);
    }

    fn go_on_alone(&mut self, now: Now, silent: Millis) {
        let timeout = self.config.node.heir_timeout.as_millis() as u64;
        let Some(core) = self.engine.core(CONTROLLER) else { return };
        let (hard, generation) = (core.hard_state(), core.epoch().generation);
        let is_due = timeout > 0 && silent >= timeout;
        let lost_entry = core.configuration().0.voters.is_empty()
            && hard.opening.is_some_and(|opening| opening.survivor == core.replica());
        if lost_entry {
            // A crash came between the generation and its entry.
            let opening = hard.opening.expect("looked at above");
            let decision = Decision { generation, opening, learners: Vec::new() };
            self.engine.decide(now.mono, CONTROLLER, decision);
        } else if hard.sealed.is_some() {
            self.engine.seal(now.mono, CONTROLLER, generation, plan_of(core));
        } else if is_due && heir::decide(&core.report(plan_of(core))).is_some() {
            tracing::warn!(%generation, silent, "the other one of two controllers is silent; its heir goes on without it");
            let plan = plan_of(core);
            self.engine.seal(now.mono, CONTROLLER, generation, plan);
        }
    }

    /// News of this node's replica of the group.
    pub(super) fn on_own_generation(&mut self, now: Now, what: GenerationEffect) {
        match what {
            // Durable, as is all of the log: nobody else may ever go on in this generation (`heir`).
            GenerationEffect::Sealed(report) => match heir::decide(&report) {
                Some(decision) => {
                    self.engine.decide(now.mono, CONTROLLER, decision);
                }
                // An operator did, and it names who goes on (decision 0018): we wait for that one.
                None if !heir::is_own(report.plan) => {
                    if self.controllers.is_news(format!("ended by {:x}", report.plan)) {
                        let plan = format!("{:016x}", report.plan);
                        tracing::warn!(
                            plan,
                            "`kontiki controller recover` ended this copy; it waits for the survivor of that plan"
                        );
                    }
                }
                None => {
                    self.status.controllers.is_stuck = true;
                    if self.controllers.is_news(format!("{report:?}")) {
                        tracing::error!(
                            ?report,
                            "this controller ended its generation to go on alone, and what it holds does not prove any more that it may"
                        );
                    }
                }
            },
            GenerationEffect::TakeOverRefused { generation, reason } => {
                if self.controllers.is_news(format!("{generation} {reason}")) {
                    tracing::error!(%generation, reason, "this controller was to go on alone and is not what it decided on");
                }
            }
            GenerationEffect::Reopened { generation, commit } => {
                self.status.controllers.is_stuck = false;
                tracing::warn!(%generation, %commit, "a new generation of the controllers' group");
            }
            GenerationEffect::Seen { generation } => {
                self.controllers.seen = self.controllers.seen.max(generation);
                self.controllers.next = now.mono;
            }
            what => tracing::debug!(?what, "generation of the controllers' group"),
        }
    }

    /// Somebody spoke in a generation that is not here yet: there are no controllers above to tell us of it.
    fn ask_for_generation(&mut self, now: Now) {
        let Some(core) = self.engine.core(CONTROLLER) else { return };
        if core.epoch().generation >= self.controllers.seen {
            return;
        }
        for node in self.other_controllers() {
            let rpc = self.next_id();
            self.send_rpc(now, node, rpc, &Ask::ControllerGeneration);
        }
    }

    /// How the present generation of the group began, once that cannot be lost here any more.
    pub(super) fn controller_generation(&self) -> Option<Decision> {
        let core = self.engine.core(CONTROLLER)?;
        let generation = core.epoch().generation;
        let opening = core.hard_state().opening?;
        core.has_begun().then_some(Decision { generation, opening, learners: Vec::new() })
    }

    pub(super) fn on_controller_generation(&mut self, now: Now, from: NodeId, decision: Option<Decision>) {
        let (Some(decision), Some(core)) = (decision, self.engine.core(CONTROLLER)) else { return };
        if !self.config.node.controllers.contains_key(&from) || decision.generation <= core.epoch().generation
        {
            return;
        }
        if decision.opening.survivor == core.replica() {
            // What this replica decided is on its disk before anybody can have heard of it.
            if self.controllers.is_news(format!("{decision:?}")) {
                tracing::error!(?decision, "this controller's disk is older than what it went on alone with");
            }
            return;
        }
        self.engine.decide(now.mono, CONTROLLER, decision);
    }
}

/// The plan of the seal that is here, or would be.
fn plan_of(core: &Core) -> u64 {
    core.hard_state().sealed.unwrap_or_else(|| heir::plan(core.is_sole_author()))
}

/// In the middle of a change: those without whom nobody can finish it, unless this replica may go on alone.
fn missed(core: &Core) -> Vec<NodeId> {
    let (configuration, _) = core.configuration();
    if !configuration.is_joint() || heir::decide(&core.report(plan_of(core))).is_some() {
        return Vec::new();
    }
    let is_missed = |r: &ReplicaId| *r != core.replica() && !configuration.is_quorum(|other| other != *r);
    configuration.members().filter(is_missed).map(|replica| replica.node).collect()
}

/// What was on another disk of the node may be an observer still, of which nothing is heard.
pub(super) fn is_heard_as_voter(now: Now, node: NodeId, peers: &[PeerProgress]) -> bool {
    let is_heard = |peer: &PeerProgress| peer.voter && now.mono.saturating_sub(peer.heard_ms) < ABSENT_MS;
    peers.iter().any(|peer| peer.replica.node == node && is_heard(peer))
}
