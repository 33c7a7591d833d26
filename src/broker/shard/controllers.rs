//! The controllers' own group: who votes in it, and how it goes on when two are left and one of them is silent (safety.md F1).
//!
//! Its leader does for it what leaders of partitions do for theirs (decision 0009), by the same rule (`ctl::members`), with what it hears
//! itself in the place of the metadata's word where a controller is no broker. Below two voters nothing shrinks; the heir of two
//! goes on alone in a new generation, and whoever hears of that generation asks a controller how it began. Not here: who is heir and
//! why that is safe (`raftlog::heir`), seal and take-over (`core::takeover`). Invariants:
//! - only who once was a controller becomes one: whoever merely names the others in its configuration does not;
//! - a generation is told only by who holds an entry of it, durably;
//! - the heir's silence is counted by looks that were made: a process that was stopped did not hear anybody.

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
/// Without a leader for so long: no mere election.
const LEADERLESS_MS: Millis = 3_000;
/// Number of the plan in a seal that nobody ordered.
const OWN_PLAN: u64 = 0;

/// What is kept between looks.
pub struct Controllers {
    next: Millis,
    looked: Millis,
    next_introduction: Millis,
    /// Directories of controllers that are no brokers, as they said themselves, and when.
    directories: BTreeMap<NodeId, (u128, Millis)>,
    /// Controllers that are no brokers and stop in order.
    stopping: BTreeMap<NodeId, Millis>,
    /// Since when the replica here is damaged or in doubt.
    ailing: Option<Millis>,
    /// Since when learners wait for others.
    together: Option<Millis>,
    /// Since when nobody leads.
    leaderless: Option<Millis>,
    /// Highest generation that somebody spoke in.
    seen: Generation,
    /// The heir that was said to be waited for.
    said: Option<NodeId>,
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
            ailing: None,
            together: None,
            leaderless: None,
            seen: Generation(0),
            said: None,
            peers: Vec::new(),
        }
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

    /// Its next process said hello.
    pub(super) fn is_back(&mut self, node: NodeId) {
        self.stopping.remove(&node);
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
    }

    /// A controller that is no broker, and has no session to tell it by, introduces itself as long as it hears no leader: its disk may be
    /// a new one, and then the leader does not know whom to speak to.
    pub(super) fn tick_controller_apart(&mut self, now: Now) {
        if self.membership.is_stopping() {
            // Whoever leads by now may not have heard it.
            return self.send_heartbeat(now, 0, true);
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
        self.controllers.stopping.retain(|_, at| now.mono < at.saturating_add(grace));
        let next = self.next_controllers(now, &peers);
        self.controllers.peers = peers;
        match next {
            Next::Wait => {
                self.controllers.together.get_or_insert(now.mono);
            }
            _ => self.controllers.together = None,
        }
        if let Next::Change { voters, learners } = next {
            self.change_members(now, CONTROLLER, voters, learners);
        }
    }

    fn next_controllers(&self, now: Now, peers: &[PeerProgress]) -> Next {
        let Some(core) = self.engine.core(CONTROLLER) else { return Next::Nothing };
        let me = core.replica();
        let peer = |replica: ReplicaId| peers.iter().find(|peer| peer.replica == replica);
        let silent = |replica| peer(replica).map(|p| now.mono.saturating_sub(p.heard_ms));
        let is_heard = |replica| silent(replica).is_some_and(|ms| ms < HEARD_MS);
        // Not a member yet: it is not spoken to.
        let asks = |replica: ReplicaId| self.asked_with(now, replica.node) == Some(replica.directory);
        let assigned = self.controllers_to_be(now, core, &is_heard);
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

    /// A controller that was not heard for so long is dead: by the metadata if it is a broker, else by the same times.
    fn is_lost(&self, now: Now, node: NodeId, silent_ms: Millis) -> bool {
        let broker = self.image.brokers.get(&node);
        if broker.is_some_and(|broker| broker.dead) {
            return true;
        }
        if broker.is_some_and(|broker| broker.stopping) || self.controllers.stopping.contains_key(&node) {
            return false;
        }
        let config = &self.config.node;
        let ms = |time: std::time::Duration| time.as_millis() as u64;
        let ended = self.gone.get(&node).map(|until| until.saturating_sub(ELECTION_MS));
        silent_ms >= ms(config.broker_session_timeout)
            || ended.is_some_and(|at| now.mono >= at + ms(config.broker_reconnect_timeout))
    }

    /// The disk with which a controller introduced itself just now.
    fn asked_with(&self, now: Now, node: NodeId) -> Option<u128> {
        let asked = self.controllers.directories.get(&node);
        asked.filter(|(_, at)| now.mono < at + ASKED_MS).map(|(directory, _)| *directory)
    }

    /// One replica for each node that ever was a controller: the member, unless its node has come with another disk.
    fn controllers_to_be(
        &self,
        now: Now,
        core: &Core,
        is_heard: &dyn Fn(ReplicaId) -> bool,
    ) -> Vec<ReplicaId> {
        let (configuration, _) = core.configuration();
        let known = configuration.members().chain(configuration.retired.iter().copied());
        let known: BTreeSet<NodeId> =
            known.chain(self.membership.founders().iter().copied()).map(|replica| replica.node).collect();
        let controller = |node: NodeId| {
            let member = configuration.members().find(|member| member.node == node);
            if member.is_some_and(|member| is_heard(member) || member == core.replica()) {
                return member;
            }
            let broker = self.image.brokers.get(&node).map(|broker| broker.directory.as_u128());
            let directory = broker
                .or(self.asked_with(now, node))
                .filter(|_| self.config.node.controllers.contains_key(&node));
            let anew = directory.map(|directory| ReplicaId { node, assignment: 0, directory });
            anew.filter(|anew| !configuration.is_retired(*anew)).or(member)
        };
        known.into_iter().filter_map(controller).collect()
    }

    /// Of two voters the heir goes on when the other has been silent for long enough; the other one says whom it waits for.
    fn mind_heir(&mut self, now: Now, was_away: bool) {
        let Some(core) = self.engine.core(CONTROLLER) else { return };
        let (configuration, _) = core.configuration();
        if core.leader().is_some() || configuration.voters.is_empty() && core.hard_state().opening.is_none() {
            self.controllers.leaderless = None;
            self.status.controllers.waits_for_heir = None;
            self.controllers.said = None;
            return;
        }
        let since = *self.controllers.leaderless.get_or_insert(now.mono);
        if was_away {
            self.controllers.leaderless = Some(now.mono);
            return;
        }
        let silent = now.mono.saturating_sub(since);
        let me = core.replica();
        let heir = heir::of(&configuration.voters).filter(|_| configuration.is_voter(me));
        self.status.controllers.waits_for_heir = heir
            .filter(|heir| *heir != me && silent >= LEADERLESS_MS && !configuration.is_joint())
            .map(|heir| heir.node);
        let awaited = self.status.controllers.waits_for_heir;
        if let Some(heir) = awaited
            && self.controllers.said != awaited
        {
            self.controllers.said = awaited;
            tracing::error!(
                %heir,
                "the controllers wait for their heir: of two that vote it alone may go on without the other; start it, or what is left needs \
                 an operator"
            );
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
        } else if hard.sealed.is_some() || (is_due && heir::decide(&core.report(OWN_PLAN)).is_some()) {
            tracing::warn!(%generation, silent, "the other one of two controllers is silent; its heir goes on without it");
            self.engine.seal(now.mono, CONTROLLER, generation, OWN_PLAN);
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
                None => tracing::error!(
                    ?report,
                    "the controllers' group is sealed here, and this is not its heir"
                ),
            },
            GenerationEffect::TakeOverRefused { generation, reason } => {
                tracing::error!(%generation, reason, "this controller was to go on alone and is not what it decided on");
            }
            GenerationEffect::Reopened { generation, commit } => {
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
            return tracing::error!(
                ?decision,
                "this controller's disk is older than what it went on alone with"
            );
        }
        self.engine.decide(now.mono, CONTROLLER, decision);
    }
}
