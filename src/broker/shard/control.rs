//! The controller leader's duties on group 0, and every node's way to the controller leader.
//!
//! One command at a time: it is decided on an image that has applied everything before it, written as one entry, and answered
//! when that entry is applied. Decisions themselves are pure (`ctl`). A request that meets no leader waits and is routed again;
//! one that may have been taken by a deposed leader is answered with an error, never repeated behind the asker's back.

use super::lease::Holder;
use super::recovery::Asker;
use super::rpc::{Answer, Ask};
use super::tending::Tending;
use super::{CONTROLLER, CtlAnswer, Now, Shard};
use crate::ctl::auto::Watch;
use crate::ctl::balance;
use crate::ctl::command::{self, Command as CtlCommand, Error as CtlError, Reply as CtlReply};
use crate::ctl::generations::{self, Sealed};
use crate::ctl::image::Image;
use crate::ctl::lease::Granted;
use crate::ctl::liveness::{Beat, Sessions};
use crate::ctl::record::{Batch, Record};
use crate::raftlog::core::{Core, Millis, Role};
use crate::raftlog::engine::Proposal;
use crate::raftlog::generation::SealReport;
use crate::segment::{EntryKind, GroupId, Index, NodeId, ReplicaId};
use bytes::BytesMut;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// How often requests without a leader are routed again.
const RETRY_MS: u64 = 50;
/// How often preferred leaders are looked after.
const BALANCE_MS: u64 = 5_000;
/// A replica silent for longer is not asked to lead.
const HEARD_MS: u64 = 400;
/// Stands for the registration number of a controller that is no broker: it has no session to renew, but may stop in order.
pub(super) const NO_SESSION: u64 = 0;
/// How long a fence or unfence decision may take.
const INTERNAL_MS: u64 = 5_000;

/// Who asked.
pub enum Target {
    /// A handle of this node.
    Local(oneshot::Sender<CtlAnswer>),
    /// Another node.
    Remote {
        /// Which.
        node: NodeId,
        /// Number of its question.
        rpc: u64,
    },
    /// This node's own registration.
    Registration,
    /// The controller itself.
    Internal,
}

struct Request {
    command: CtlCommand,
    deadline: Millis,
    target: Target,
}

/// What waits for which entry.
struct InFlight {
    index: Index,
    number: u64,
    asked: Option<(Request, CtlReply)>,
}

/// State of the controller role.
pub struct Control {
    sessions: Option<Sessions>,
    pub(super) sealed: Sealed,
    /// Partitions that may go on without anybody's approval.
    pub(super) watch: Watch,
    /// Brokers may have come with other disks.
    check_disks: bool,
    queue: VecDeque<Request>,
    in_flight: Option<InFlight>,
    /// Questions under way, and who was asked.
    asked: BTreeMap<u64, (NodeId, Request)>,
    waiting: Vec<Request>,
    next: Millis,
    next_balance: Millis,
    pub(super) tending: Tending,
    /// Leader as another node named it, for a node that does not hear one itself yet.
    named: Option<NodeId>,
    /// Which controller is asked next while nobody is known to lead.
    turn: usize,
}

impl Control {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            sessions: None,
            sealed: Sealed::default(),
            watch: Watch::default(),
            check_disks: true,
            queue: VecDeque::new(),
            in_flight: None,
            asked: BTreeMap::new(),
            waiting: Vec::new(),
            next: now,
            next_balance: now + BALANCE_MS,
            tending: Tending::default(),
            named: None,
            turn: 0,
        }
    }

    pub(super) fn deadline(&self) -> Millis {
        self.next
    }

    /// Whether this leader of the controllers has begun to keep account of leases.
    pub(super) fn grants_leases(&self) -> bool {
        self.sessions.is_some()
    }
}

impl Shard {
    pub(super) fn ask_controller(
        &mut self,
        now: Now,
        command: CtlCommand,
        timeout_ms: u64,
        reply: oneshot::Sender<CtlAnswer>,
    ) {
        self.route(now, command, now.mono + timeout_ms, Target::Local(reply));
    }

    /// Brings a request to the controller leader, wherever that is.
    pub(super) fn route(&mut self, now: Now, command: CtlCommand, deadline: Millis, target: Target) {
        let request = Request { command, deadline, target };
        match self.controller_to_ask() {
            Some(leader) if leader == self.node() => {
                self.control.queue.push_back(request);
                self.pump(now);
            }
            Some(leader) if !self.engine.is_connected(leader) => self.control.waiting.push(request),
            Some(leader) => {
                let rpc = self.next_id();
                let timeout_ms = request.deadline.saturating_sub(now.mono);
                let ask = Ask::Command { command: request.command.clone(), timeout_ms };
                self.control.asked.insert(rpc, (leader, request));
                self.send_rpc(now, leader, rpc, &ask);
            }
            None => self.control.waiting.push(request),
        }
    }

    /// The leader if it is known; else, for a node that has no vote among the controllers (a broker, or a controller on a new disk), one
    /// controller after the other: it hears the leader only once the leader knows of it.
    pub(super) fn controller_to_ask(&mut self) -> Option<NodeId> {
        if let Some(leader) = self.controller_leader() {
            return Some(leader);
        }
        let votes = |core: &Core| core.configuration().0.is_voter(core.replica());
        if self.config.node.is_controller && self.engine.core(CONTROLLER).is_some_and(votes) {
            return None;
        }
        if let Some(named) = self.control.named.take() {
            return Some(named);
        }
        self.control.turn += 1;
        let others: Vec<NodeId> =
            self.config.node.controllers.keys().copied().filter(|n| *n != self.node()).collect();
        others.get(self.control.turn % others.len().max(1)).copied()
    }

    fn finish_request(&mut self, now: Now, target: Target, answer: CtlAnswer) {
        match target {
            Target::Local(reply) => {
                let _gone_client = reply.send(answer);
            }
            Target::Remote { node, rpc } => self.answer_rpc(now, node, rpc, &Answer::Outcome(answer)),
            Target::Registration => self.on_registered(now, answer),
            Target::Internal => {
                if let Err(error) = answer {
                    tracing::debug!(%error, "controller's own decision was not taken");
                }
            }
        }
    }

    pub(super) fn on_request(&mut self, now: Now, from: NodeId, id: u64, body: &[u8]) {
        let Ok(ask) = serde_json::from_slice::<Ask>(body) else {
            return self.answer_rpc(now, from, id, &Answer::Unknown);
        };
        let leads = self.controller_leader() == Some(self.node());
        if matches!(ask, Ask::Heartbeat { incarnation: NO_SESSION, stopping: true, .. }) {
            // Whether or not we lead: we may before it is back.
            self.controllers.stops(from, now.mono);
        }
        match ask {
            Ask::WhoAreYou { directory } => {
                self.note_controller(now, from, &directory);
                let answer = self.who_are_we();
                self.answer_rpc(now, from, id, &answer);
            }
            Ask::Command { .. }
            | Ask::Heartbeat { .. }
            | Ask::Sealed { .. }
            | Ask::Report { .. }
            | Ask::Emptied { .. }
                if !leads =>
            {
                let leader = self.controller_leader();
                self.answer_rpc(now, from, id, &Answer::NotLeader { leader });
            }
            Ask::Command { command, timeout_ms } => {
                if let CtlCommand::RegisterBroker { directory, .. } = &command {
                    // It has to see its own registration in the log before it may do anything.
                    self.observe(now, from, directory.as_u128());
                }
                let deadline = now.mono + timeout_ms;
                let target = Target::Remote { node: from, rpc: id };
                self.control.queue.push_back(Request { command, deadline, target });
                self.pump(now);
            }
            Ask::Heartbeat { incarnation, stopping, lease, applied } => {
                let known = self.on_heartbeat_of(now, from, (incarnation, stopping), applied);
                let holder = Holder::Node { node: from, rpc: id };
                if !(lease && known && self.confirm_lease(now, holder, incarnation)) {
                    self.answer_rpc(now, from, id, &Answer::Session { known, lease: None });
                }
            }
            Ask::Sealed { reports } => {
                self.on_seal_reports(now, reports);
                self.answer_rpc(now, from, id, &Answer::Ok);
            }
            Ask::Emptied { incarnation } => {
                self.note_emptied(from, incarnation);
                self.answer_rpc(now, from, id, &Answer::Ok);
            }
            Ask::Unfit { groups } => {
                self.note_unfit(now, from, groups);
                self.answer_rpc(now, from, id, &Answer::Ok);
            }
            Ask::Anew { incarnation, pleas } => self.on_pleas(now, (from, id), incarnation, pleas),
            Ask::Clean { incarnation, words } => self.on_words(now, from, id, incarnation, words),
            Ask::Holdings { groups } => {
                let holdings = self.holdings(&groups);
                self.answer_rpc(now, from, id, &Answer::Holdings { holdings });
            }
            Ask::Report { groups } => self.begin_report(now, groups, Asker::Node { node: from, rpc: id }),
            Ask::Quorum => self.answer_quorum(now, from, id),
            Ask::ControllerGeneration => {
                let decision = self.controller_generation();
                self.answer_rpc(now, from, id, &Answer::ControllerGeneration { decision });
            }
            Ask::Transfer { group, to } => {
                self.transfer_if_ready(now, group, to);
                self.answer_rpc(now, from, id, &Answer::Ok);
            }
        }
    }

    /// Another node's broker renews its session.
    fn on_heartbeat_of(
        &mut self,
        now: Now,
        from: NodeId,
        (incarnation, stopping): (u64, bool),
        applied: u64,
    ) -> bool {
        if let Some(broker) = self.image.brokers.get(&from) {
            let directory = broker.directory.as_u128();
            self.observe(now, from, directory);
        }
        let known = self.on_heartbeat(now, from, incarnation, stopping);
        if known && incarnation != NO_SESSION {
            self.control.sealed.leases.on_applied(from, incarnation, applied);
        }
        known
    }

    pub(super) fn on_response(&mut self, now: Now, from: NodeId, id: u64, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Answer>(body) else { return };
        match answer {
            Answer::Empty { .. } | Answer::Member { .. } => self.on_who_answer(now, from, answer),
            Answer::Outcome(outcome) => {
                if let Some((_, request)) = self.control.asked.remove(&id) {
                    self.finish_request(now, request.target, outcome);
                }
            }
            Answer::Holdings { holdings } => self.on_holdings(now, from, id, holdings),
            Answer::Report { partitions } => self.on_report(id, Some(partitions)),
            Answer::NotLeader { leader } => {
                self.control.named = leader;
                self.on_report(id, None);
                if let Some((_, request)) = self.control.asked.remove(&id) {
                    self.control.waiting.push(request);
                }
            }
            Answer::Granted { replicas } => self.on_granted(now, from, replicas),
            Answer::Clean { floors } => self.on_floors(now, from, floors),
            Answer::Quorum { quorum } => self.on_quorum(id, quorum),
            Answer::ControllerGeneration { decision } => self.on_controller_generation(now, from, decision),
            Answer::Session { known: false, .. } => self.on_session_unknown(),
            Answer::Session { known: true, lease: Some(lease) } if lease.by == from => {
                self.leases.held.on_granted(id, lease, now.mono);
            }
            Answer::Session { known: true, .. } if !self.config.node.is_broker => {
                self.controllers.stop_is_known()
            }
            Answer::Session { known: true, .. } | Answer::Ok | Answer::Unknown => {}
        }
    }

    pub(super) fn transfer_if_ready(&mut self, now: Now, group: GroupId, to: NodeId) {
        if let Some(target) = self.ready_to_lead(now, group, to) {
            self.engine.transfer(now.mono, group, Some(target));
        }
    }

    /// The process that was asked is gone: its answers will not come, and whether it took the questions is not known.
    pub(super) fn controller_gone(&mut self, now: Now, node: NodeId) {
        self.give_up(now, |asked, _| asked == node);
    }

    /// This node's registration is no longer waited for.
    pub(super) fn forget_registration(&mut self) {
        let others = |request: &Request| !matches!(request.target, Target::Registration);
        self.control.asked.retain(|_, (_, request)| others(request));
        self.control.waiting.retain(others);
        self.control.queue.retain(others);
    }

    /// When a broker was last heard, as far as the controller leader on this node knows: milliseconds ago.
    pub(super) fn silent_ms(&self, now: Now, node: NodeId) -> Option<u64> {
        self.control.sessions.as_ref()?.silent_ms(node, now.mono)
    }

    fn give_up(&mut self, now: Now, which: impl Fn(NodeId, &Request) -> bool) {
        let asked = std::mem::take(&mut self.control.asked);
        let (given_up, kept) = asked.into_iter().partition(|(_, (node, request))| which(*node, request));
        self.control.asked = kept;
        for (_, request) in BTreeMap::into_values(given_up) {
            self.finish_request(now, request.target, Err(CtlError::TimedOut));
        }
    }

    /// The voter on this node, if it could take over at once: nothing is accepted while a transfer waits for its target.
    fn ready_to_lead(&mut self, now: Now, group: GroupId, node: NodeId) -> Option<ReplicaId> {
        let commit = self.engine.core(group)?.commit();
        let heard = |heard_ms: Millis| now.mono.saturating_sub(heard_ms) < HEARD_MS;
        let progress = self.engine.progress(group).into_iter();
        let mut ready = progress.filter(|p| p.voter && p.matched >= commit && heard(p.heard_ms));
        ready.find(|p| p.replica.node == node).map(|p| p.replica)
    }

    /// A broker renews its session; false: it has to register again.
    pub(super) fn on_heartbeat(&mut self, now: Now, node: NodeId, incarnation: u64, stopping: bool) -> bool {
        let Some(sessions) = &mut self.control.sessions else { return true };
        if incarnation == NO_SESSION {
            return true;
        }
        if stopping {
            sessions.on_stop(node, incarnation, now.mono);
            self.control.next = now.mono;
            return true;
        }
        let beat = sessions.on_heartbeat(node, incarnation, now.mono);
        if beat == Beat::Fenced {
            self.control.next = now.mono;
        }
        beat != Beat::Unknown
    }

    /// Replicates group 0 to a broker that is not one of its members. With another disk it is another observer, or a member: what it was
    /// is not spoken to any more.
    pub(super) fn observe(&mut self, now: Now, node: NodeId, directory: u128) {
        let replica = ReplicaId { node, assignment: 0, directory };
        let is_member = self.engine.core(CONTROLLER).is_some_and(|c| c.configuration().0.is_member(replica));
        match is_member || node == self.node() {
            true => self.engine.remove_observer_but(now.mono, CONTROLLER, replica),
            false => self.engine.add_observer(now.mono, CONTROLLER, replica),
        }
    }

    pub(super) fn on_controller_role(&mut self, now: Now, role: Role, leader: Option<ReplicaId>) {
        tracing::info!(?role, leader = ?leader.map(|l| l.node.0), "controller group");
        if role == Role::Leader {
            let image = self.image.clone();
            for broker in image.brokers.values() {
                self.observe(now, broker.node, broker.directory.as_u128());
            }
            self.control.next = now.mono;
            return;
        }
        self.engine.clear_observers(now.mono, CONTROLLER);
        self.control.sessions = None;
        self.control.sealed = Sealed::default();
        self.control.watch = Watch::default();
        self.leases.lead_no_more();
        self.forget_reports(now);
        self.control.check_disks = true;
        self.membership.snapshots.writing.clear();
        self.control.tending = Tending::default();
        if let Some(InFlight { asked: Some((request, _)), .. }) = self.control.in_flight.take() {
            // It may still be committed by the next leader: the asker has to look.
            self.finish_request(now, request.target, Err(CtlError::TimedOut));
        }
        // What was decided from this leader's own leases and reports is the next one's to decide.
        let queue = std::mem::take(&mut self.control.queue);
        self.control.waiting.extend(queue.into_iter().filter(|request| !request.command.is_of_one_leader()));
    }

    pub(super) fn leads_established(&self) -> bool {
        self.engine.core(CONTROLLER).is_some_and(|c| c.role() == Role::Leader && c.is_established())
            && !self.membership.is_broken()
    }

    /// Decides the next command, if the image has applied everything before it.
    pub(super) fn pump(&mut self, now: Now) {
        while self.control.in_flight.is_none() && self.leads_established() {
            let Some(core) = self.engine.core(CONTROLLER) else { return };
            let (last, epoch) = (core.last().index, core.epoch());
            if self.membership.applied() < last {
                return;
            }
            let number = Image::number(epoch.generation.0, last.next().0);
            if self.image.cluster_id.is_empty() {
                let Some(id) = self.membership.cluster().map(str::to_owned) else { return };
                self.write(now, number, Batch::new(vec![Record::Cluster { id }]), None);
                if self.control.in_flight.is_none() {
                    return;
                }
                continue;
            }
            self.begin_snapshot();
            let is_asked = !self.control.queue.is_empty();
            if let Some(piece) = self.membership.snapshots.next_piece(is_asked) {
                let kind = if piece.piece == 0 { EntryKind::Snapshot } else { EntryKind::Metadata };
                self.write_as(now, kind, number, Batch::new(vec![Record::Snapshot(piece.clone())]), None);
                if self.control.in_flight.is_none() {
                    // Not taken now, while leadership is handed over.
                    self.membership.snapshots.writing.push_front(piece);
                    return;
                }
                continue;
            }
            let Some(request) = self.control.queue.pop_front() else { return };
            if request.deadline <= now.mono {
                self.finish_request(now, request.target, Err(CtlError::TimedOut));
                continue;
            }
            if let Some(error) = self.refuse_twin(now, &request.command) {
                self.finish_request(now, request.target, Err(error));
                continue;
            }
            let seed = self.config.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let defaults = &self.config.node.defaults;
            match command::decide(&self.image, defaults, &request.command, number, seed) {
                Err(error) => self.finish_request(now, request.target, Err(error)),
                Ok((batch, reply)) if batch.is_empty() => {
                    self.finish_request(now, request.target, Ok((reply, self.image.applied)));
                }
                Ok((batch, reply)) => self.write(now, number, batch, Some((request, reply))),
            }
        }
    }

    fn write(&mut self, now: Now, number: u64, batch: Batch, asked: Option<(Request, CtlReply)>) {
        self.write_as(now, EntryKind::Metadata, number, batch, asked);
    }

    fn write_as(
        &mut self,
        now: Now,
        kind: EntryKind,
        number: u64,
        batch: Batch,
        asked: Option<(Request, CtlReply)>,
    ) {
        let payload = BytesMut::from(&batch.encode()[..]);
        let proposal = Proposal { kind, offset_span: 0, payload };
        match self.engine.propose(now.mono, CONTROLLER, vec![proposal], &mut |_, _| {}) {
            Ok(metas) => {
                let meta = metas.last().expect("an accepted proposal has its header");
                let written = Image::number(meta.id.epoch.generation.0, meta.id.index.0);
                assert_eq!(written, number, "a decision is written at the number it was made for");
                self.control.in_flight = Some(InFlight { index: meta.id.index, number, asked });
            }
            Err(error) => {
                tracing::debug!(%error, "decision not written");
                if let Some((request, _)) = asked {
                    self.finish_request(now, request.target, Err(CtlError::NotController));
                }
                self.control.next = now.mono + RETRY_MS;
            }
        }
    }

    /// Another live process with this node id: two of them would evict each other for ever (Kafka refuses it likewise).
    fn refuse_twin(&self, now: Now, command: &CtlCommand) -> Option<CtlError> {
        let CtlCommand::RegisterBroker { node, directory, .. } = command else { return None };
        let known = self.image.brokers.get(node).filter(|b| b.directory != *directory)?;
        let alive = self.control.sessions.as_ref().is_some_and(|s| s.is_alive(known.node, now.mono));
        alive.then(|| CtlError::Refused(format!("another broker is alive with node id {node}")))
    }

    /// The image moved on: answers what waited for it, decides what comes next.
    pub(super) fn on_metadata_applied(&mut self, now: Now) {
        let applied = self.membership.applied();
        if let Some(sessions) = &mut self.control.sessions {
            sessions.on_image(&self.image, now.mono);
            self.control.next = now.mono;
        }
        if self.control.in_flight.as_ref().is_some_and(|f| f.index <= applied)
            && let Some(done) = self.control.in_flight.take()
            && let Some((request, reply)) = done.asked
        {
            self.finish_request(now, request.target, Ok((reply, done.number)));
        }
        self.pump(now);
    }

    pub(super) fn tick_control(&mut self, now: Now) {
        if now.mono < self.control.next {
            return;
        }
        self.control.next = now.mono + RETRY_MS;
        let waiting = std::mem::take(&mut self.control.waiting);
        for request in waiting {
            if request.deadline <= now.mono {
                self.finish_request(now, request.target, Err(CtlError::NotController));
            } else {
                self.route(now, request.command, request.deadline, request.target);
            }
        }
        self.give_up(now, |_, request| request.deadline <= now.mono);
        if self.leads_established() {
            self.tick_leader(now);
        }
    }

    fn tick_leader(&mut self, now: Now) {
        let node = &self.config.node;
        let ms = |time: std::time::Duration| time.as_millis() as u64;
        let (timeout, reconnect, grace) =
            (ms(node.broker_session_timeout), ms(node.broker_reconnect_timeout), ms(node.shrink_grace));
        if self.control.sessions.is_none() {
            self.control.sealed.leases = Granted::new(now.mono);
        }
        let (image, gone) = (&self.image, &self.gone);
        let sessions = self.control.sessions.get_or_insert_with(|| {
            let mut sessions = Sessions::new(now.mono, image, timeout).with_patience(reconnect, grace);
            // Silence is not held against anyone yet, but that a process ended was seen here too.
            gone.keys().for_each(|node| sessions.on_lost(*node, now.mono));
            sessions
        });
        let dead = sessions.dead(now.mono);
        let expired = sessions.expired(now.mono);
        let resumed = sessions.resumed(now.mono);
        let dead = dead.into_iter().map(|(node, incarnation)| CtlCommand::Dead { node, incarnation });
        let fence = expired.into_iter().map(|(node, incarnation)| match sessions.is_stopping(node) {
            true => CtlCommand::Stopping { node, incarnation },
            false => CtlCommand::Fence { node, incarnation },
        });
        let unfence =
            resumed.into_iter().map(|(node, incarnation)| CtlCommand::Unfence { node, incarnation });
        let commands: Vec<CtlCommand> = dead.chain(fence).chain(unfence).collect();
        for command in commands {
            tracing::info!(?command, "broker session");
            self.decide_internally(now, command);
        }
        self.decide_generations(now);
        self.verify_recoveries(now);
        self.confirm_partitions(now);
        self.watch_autos(now);
        self.pump(now);
        if now.mono >= self.control.next_balance {
            self.control.next_balance = now.mono + BALANCE_MS;
            self.balance_leaders(now);
        }
        self.tend_brokers(now);
    }

    /// Queues a decision of the controller's own.
    pub(super) fn decide_internally(&mut self, now: Now, command: CtlCommand) {
        let deadline = now.mono + INTERNAL_MS;
        self.control.queue.push_back(Request { command, deadline, target: Target::Internal });
    }

    /// Brokers say which of their replicas are sealed.
    pub(super) fn on_seal_reports(&mut self, now: Now, reports: Vec<(GroupId, SealReport)>) {
        for (group, report) in reports {
            self.control.sealed.on_report(&self.image, group, report, now.mono);
        }
        self.control.next = now.mono;
    }

    /// What follows from seals, and from disks that were replaced.
    fn decide_generations(&mut self, now: Now) {
        let mut drift = Vec::new();
        let openings = self.control.sealed.decide(&self.image, now.mono, now.wall_ms, &mut drift);
        let (proven, approved): (Vec<_>, Vec<_>) = openings.into_iter().partition(|opening| opening.lossless);
        if !proven.is_empty() {
            tracing::warn!(
                groups = proven.len(),
                "generations end without loss: their sealed replicas prove it"
            );
            self.decide_internally(now, CtlCommand::OpenGenerations { openings: proven });
        }
        if !approved.is_empty() {
            let groups = approved.len();
            tracing::warn!(groups, "generations end as was approved; records may be lost");
            self.decide_internally(now, CtlCommand::OpenGenerations { openings: approved });
        }
        if !drift.is_empty() {
            tracing::error!(
                ?drift,
                "approved plans do not fit what the sealed replicas hold; nothing is decided"
            );
            self.decide_internally(now, CtlCommand::RecoveryProgress { steps: drift });
        }
        if std::mem::take(&mut self.control.check_disks) {
            for node in generations::wiped(&self.image) {
                self.decide_internally(now, CtlCommand::Place { node });
                // There may be more than one record takes.
                self.control.check_disks = true;
            }
        }
    }

    /// A broker changed: perhaps its disk did.
    pub(super) fn check_disks(&mut self) {
        self.control.check_disks = true;
    }

    /// The last connection from a node ended, or there is one again.
    pub(super) fn note_connection(&mut self, now: Now, node: NodeId, up: bool) {
        if let Some(sessions) = &mut self.control.sessions {
            match up {
                true => sessions.on_connected(node),
                false => sessions.on_lost(node, now.mono),
            }
        }
    }

    /// Leaderships go back to the preferred replicas that are in sync again (auto.leader.rebalance.enable).
    fn balance_leaders(&mut self, now: Now) {
        let auto = self.config.node.defaults.broker.get("auto.leader.rebalance.enable");
        if auto.is_some_and(|v| v == "false") {
            return;
        }
        let leaders: BTreeMap<GroupId, NodeId> =
            self.image.groups.keys().filter_map(|g| Some((*g, self.leader_of(*g)?.node))).collect();
        let in_sync = |group: GroupId| self.in_sync_of(group);
        for (group, from, to) in balance::plan_preferred(&self.image, &leaders, &in_sync) {
            tracing::debug!(%group, %from, %to, "preferred leader");
            self.ask_to_hand_over(now, group, from, to);
        }
    }

    /// Asks a leader for its leadership of a group.
    pub(super) fn ask_to_hand_over(&mut self, now: Now, group: GroupId, from: NodeId, to: NodeId) {
        if from == self.node() {
            self.transfer_if_ready(now, group, to);
        } else {
            let rpc = self.next_id();
            self.send_rpc(now, from, rpc, &Ask::Transfer { group, to });
        }
    }
}
