//! A miniature engine: cores on disks that lose what is not synced, a network that is a list of envelopes, and the
//! invariants of Raft checked at every effect.
//!
//! Deterministic: whoever drives it (a script, a seeded simulation) decides when messages arrive, rounds complete and
//! time passes. Effects are carried out in order, `after_storage` as the engine does it.

use super::super::{
    ChangeRefusal, Core, CoreConfig, Effect, Event, GenerationEffect, Millis, Restored, Role,
};
use crate::raftlog::generation::SealReport;
use crate::raftlog::message::{Body, Configuration, Message};
use crate::segment::{
    Cleaned, Doubt, EntryKind, EntryMeta, Epoch, Generation, HardState, Index, LogId, LogStart, NodeId,
    Offset, ReplicaId, Term,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub fn replica(node: i32) -> ReplicaId {
    ReplicaId { node: NodeId(node), assignment: 0, directory: 0 }
}

pub fn default_config() -> CoreConfig {
    CoreConfig {
        beat_ms: 100,
        election_min_ms: 600,
        election_max_ms: 1_200,
        check_quorum_ms: 1_200,
        stickiness_ms: 600,
        window_bytes: 8 << 20,
        append_bytes: 1 << 20,
        uncommitted_bytes: 64 << 20,
        reset_jitter_ms: 50,
    }
}

/// One log with its hard state: what a disk holds, or what reads see.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard: HardState,
    pub start: LogStart,
    pub metas: Vec<EntryMeta>,
    pub configurations: Vec<(LogId, Configuration)>,
    /// How clean the copy is (decisions/0022).
    pub cleaned: Cleaned,
}

impl Disk {
    pub fn last(&self) -> LogId {
        self.metas.last().map_or(self.start.prev, |meta| meta.id)
    }
    pub fn next_offset(&self) -> Offset {
        self.metas.last().map_or(self.start.base_offset, EntryMeta::next_offset)
    }
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        if index == self.start.prev.index {
            return Some(self.start.prev);
        }
        let at = index.0.checked_sub(self.start.prev.index.0 + 1)?;
        self.metas.get(at as usize).map(|meta| meta.id)
    }
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Truncate(from) => {
                self.metas.retain(|meta| meta.id.index < *from);
                self.configurations.retain(|(id, _)| id.index < *from);
            }
            Op::Append(meta, configuration) => {
                assert_eq!(meta.predecessor(), self.last(), "append does not continue the log");
                assert_eq!(meta.base_offset, self.next_offset(), "offset does not continue the log");
                self.metas.push(*meta);
                self.configurations.extend(configuration.iter().map(|c| (meta.id, c.clone())));
            }
            Op::Hard(hard) => self.hard = *hard,
            Op::Cleaned(least) => {
                self.cleaned.cleaned_to(least.clean);
                self.cleaned.drops_to(least.dropped);
            }
            Op::TakeOver(hard, meta, configuration) => {
                self.hard = *hard;
                self.apply(&Op::Append(*meta, Some(configuration.clone())));
            }
            Op::Install(start) => {
                self.start = start.clone();
                self.metas.clear();
                self.configurations.clear();
                self.cleaned = Cleaned::starting_at(start.base_offset);
            }
            Op::Start(start) => {
                self.metas.retain(|meta| meta.id.index > start.prev.index);
                self.configurations.retain(|(id, _)| id.index > start.prev.index);
                self.start = start.clone();
            }
        }
    }
    fn epochs(&self) -> Vec<(Epoch, Index)> {
        let mut epochs: Vec<(Epoch, Index)> = Vec::new();
        for meta in &self.metas {
            if epochs.last().is_none_or(|(epoch, _)| *epoch != meta.id.epoch) {
                epochs.push((meta.id.epoch, meta.id.index));
            }
        }
        epochs
    }
    pub fn restored(&self, replica: ReplicaId, seed: u64) -> Restored {
        Restored {
            replica,
            hard_state: self.hard,
            log_start: self.start.clone(),
            epochs: self.epochs(),
            last: self.last(),
            next_offset: self.next_offset(),
            configurations: self.configurations.clone(),
            gate_open: true,
            needs_repair: false,
            campaign_at_once: false,
            seed,
        }
    }
}

/// One write, in the order of the group's storage stream.
#[derive(Clone, Debug)]
pub enum Op {
    Truncate(Index),
    Append(EntryMeta, Option<Configuration>),
    Hard(HardState),
    Cleaned(Cleaned),
    TakeOver(HardState, EntryMeta, Configuration),
    Install(LogStart),
    Start(LogStart),
}

#[derive(Clone, Debug)]
pub struct Envelope {
    pub from: ReplicaId,
    pub to: ReplicaId,
    pub incarnations: (u64, u64),
    pub message: Message,
    pub decoded: Vec<Configuration>,
}

pub struct Node {
    pub id: ReplicaId,
    pub incarnation: u64,
    pub core: Option<Core>,
    /// What survives a crash.
    pub disk: Disk,
    /// What reads see.
    pub view: Disk,
    pub queue: Vec<Op>,
    pub flying: Option<Vec<Op>>,
    /// Its topic says `flush.mode=async`: rounds of records are told when they are written, and outlive the process only.
    pub is_async: bool,
    pub loose: Vec<Op>,
    /// Sends that wait for the round in flight (false) or for the one after it (true).
    waiting: Vec<(bool, Envelope)>,
    /// Seal reports that wait likewise.
    reporting: Vec<(bool, SealReport)>,
    pub poisoned: Option<String>,
    /// Of each entry that a leader sent since the log was empty: in which epoch, to where that copy was clean, and had dropped.
    sources: BTreeMap<Index, (Epoch, Cleaned)>,
    /// What the append that it is handed says of its leader.
    offered: Option<Cleaned>,
    /// Why its last change of membership was refused.
    pub refusal: Option<ChangeRefusal>,
    /// Highest index it said is committed since it started.
    commit: Index,
    /// The configuration it last said is in force.
    in_force: Configuration,
}

/// What must hold whatever happens (Raft figure 3, and ours).
#[derive(Default)]
pub struct Checker {
    leaders: BTreeMap<Epoch, ReplicaId>,
    terms: BTreeMap<Term, Generation>,
    entries: BTreeMap<LogId, EntryMeta>,
    /// Committed entry and the lowest epoch of a replica that knew of it.
    pub committed: BTreeMap<Index, (LogId, Epoch)>,
    votes: BTreeMap<(Epoch, ReplicaId), ReplicaId>,
    reads: BTreeMap<u64, Index>,
    pub reads_ready: u64,
    pub reads_failed: u64,
    pub elections: u64,
    /// What every configuration entry ever said.
    seen: BTreeMap<LogId, Configuration>,
    /// Committed configuration entries.
    pub configurations: BTreeMap<LogId, Configuration>,
    /// Log starts before which configurations were forgotten: what follows there follows something unknown.
    unknown_up_to: Vec<Index>,
    pub changes_refused: u64,
    pub takeovers: u64,
    pub takeovers_refused: u64,
    pub set_aside: u64,
    /// Committed entries that an unclean generation lost.
    pub lost: u64,
    pub removals: u64,
    /// Elections that said they may lose something.
    pub unclean: u64,
    /// Whether what they lost is no violation.
    pub forgives: bool,
    /// Replicas that were not to take what their leader had.
    pub apart: u64,
}

pub struct Cluster {
    pub config: CoreConfig,
    pub now: Millis,
    pub nodes: Vec<Node>,
    pub network: VecDeque<Envelope>,
    pub checker: Checker,
    /// What sealed replicas have reported.
    pub reports: Vec<SealReport>,
    /// Where a script's trace goes.
    pub trace: Option<Vec<String>>,
    /// Or to the terminal, as things happen.
    pub echo: bool,
    pub seed: u64,
    /// Poison is a failure unless a script provokes it.
    pub poison_allowed: bool,
    tokens: u64,
}

impl Node {
    /// What it votes with, or will after its next start.
    fn log(&self) -> &Disk {
        if self.core.is_some() { &self.view } else { &self.disk }
    }

    fn has_written(&self, id: LogId) -> bool {
        let is_it = |op: &Op| matches!(op, Op::Append(meta, _) if meta.id == id);
        self.disk.start.prev.index >= id.index
            || self.disk.id_at(id.index) == Some(id)
            || self.loose.iter().any(is_it)
    }

    /// It holds the entry, or it did and knows that it may have lost it.
    fn has_told(&self, index: Index, id: LogId) -> bool {
        let may_have_lost = self.is_async && self.disk.hard.doubt != Doubt::None;
        self.disk.start.prev.index >= index || self.has_written(id) || may_have_lost
    }
}

impl Cluster {
    pub fn new(config: CoreConfig, seed: u64) -> Self {
        Self {
            config,
            now: 0,
            nodes: Vec::new(),
            network: VecDeque::new(),
            checker: Checker::default(),
            reports: Vec::new(),
            trace: None,
            echo: false,
            seed,
            poison_allowed: false,
            tokens: 0,
        }
    }

    /// Adds a replica with this disk, not started yet.
    pub fn add(&mut self, id: ReplicaId, disk: Disk) {
        for meta in &disk.metas {
            self.checker.register(meta);
        }
        self.checker.seen.extend(disk.configurations.iter().cloned());
        self.nodes.push(Node {
            id,
            incarnation: 0,
            core: None,
            view: disk.clone(),
            disk,
            queue: Vec::new(),
            flying: None,
            is_async: false,
            loose: Vec::new(),
            waiting: Vec::new(),
            reporting: Vec::new(),
            poisoned: None,
            sources: BTreeMap::new(),
            offered: None,
            refusal: None,
            commit: Index(0),
            in_force: Configuration::default(),
        });
    }

    pub fn position(&self, id: ReplicaId) -> usize {
        self.nodes.iter().position(|node| node.id == id).expect("known replica")
    }

    pub fn core(&self, at: usize) -> &Core {
        self.nodes[at].core.as_ref().expect("node is up")
    }

    fn is_told(&self) -> bool {
        self.trace.is_some() || self.echo
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if self.echo {
            eprintln!("{:>6} {}", self.now, line());
        } else if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub fn start(&mut self, at: usize, change: impl FnOnce(&mut Restored)) {
        let node = &mut self.nodes[at];
        node.incarnation += 1;
        node.commit = node.disk.start.prev.index;
        node.view = node.disk.clone();
        node.sources.clear();
        let seed =
            self.seed.wrapping_mul(1_000_003).wrapping_add(node.incarnation * 1_000 + node.id.node.0 as u64);
        let mut restored = node.disk.restored(node.id, seed);
        change(&mut restored);
        let mut out = Vec::new();
        node.core = Some(Core::new(self.config.clone(), restored, self.now, &mut out));
        let (id, incarnation) = (node.id, node.incarnation);
        self.carry_out(at, out);
        if incarnation > 1 {
            for other in 0..self.nodes.len() {
                if other != at && self.nodes[other].core.is_some() {
                    self.feed(other, Event::PeerIncarnation { node: id.node });
                }
            }
        }
    }

    /// The power goes: of what was only written the first `kept` are there. It knows that it may have lost something.
    pub fn cut_power(&mut self, at: usize, kept: usize) {
        let node = &mut self.nodes[at];
        if node.is_async && kept < node.loose.len() {
            node.loose.truncate(kept);
            node.flying = None;
        }
        if node.is_async && node.disk.hard.doubt == Doubt::None {
            node.disk.hard.doubt = Doubt::Entries;
        }
        self.crash(at, 0);
    }

    /// The process ends: of the round in flight the first `kept` writes reach the disk.
    pub fn crash(&mut self, at: usize, kept: usize) {
        self.flush(at, false);
        let node = &mut self.nodes[at];
        for op in node.flying.take().unwrap_or_default().iter().take(kept) {
            self.checker.register_durable(op);
            node.disk.apply(op);
        }
        node.core = None;
        node.queue.clear();
        node.waiting.clear();
        node.reporting.clear();
    }

    pub fn feed(&mut self, at: usize, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let (commit_before, generation) = (self.core(at).commit(), self.core(at).epoch().generation);
            let mut out = Vec::new();
            let now = self.now;
            let Some(core) = &mut self.nodes[at].core else { return };
            core.step(now, event, &mut out);
            let is_reopened = |e: &Effect| matches!(e, Effect::Generation(what) if matches!(**what, GenerationEffect::Reopened { .. }));
            let reopened = core.epoch().generation != generation || out.iter().any(is_reopened);
            let (_, in_force) = core.configuration();
            let astray =
                out.iter().any(|e| matches!(e, Effect::Install { start } if start.prev.index.0 == 0));
            assert!(core.commit() >= commit_before || reopened || astray, "commit went back");
            events.extend(self.carry_out(at, out));
            let view = &self.nodes[at].view;
            let newest = view.configurations.last().map_or(view.start.configuration_id, |(id, _)| *id);
            assert_eq!(in_force, newest, "configuration in force is not the newest of the log");
        }
    }

    pub fn beat(&mut self, at: usize) {
        let peers: Vec<_> = self.core(at).progress().iter().map(|peer| peer.replica).collect();
        for to in peers {
            let mut out = Vec::new();
            let now = self.now;
            let Some(core) = &mut self.nodes[at].core else { return };
            let message = core.beat(now, to, &mut out);
            for event in self.carry_out(at, out) {
                self.feed(at, event);
            }
            if let Some(message) = message {
                self.post(at, to, message, Vec::new());
            }
        }
    }

    pub fn read(&mut self, at: usize) -> u64 {
        self.tokens += 1;
        let highest = self.checker.committed.keys().next_back().copied().unwrap_or_default();
        self.checker.reads.insert(self.tokens, highest);
        self.feed(at, Event::ReadIndex { token: self.tokens });
        self.tokens
    }

    pub fn deliver(&mut self, envelope: Envelope) {
        let at = self.position(envelope.to);
        let from = self.position(envelope.from);
        let current = (self.nodes[from].incarnation, self.nodes[at].incarnation);
        if self.nodes[at].core.is_none() || envelope.incarnations != current {
            return;
        }
        if !envelope.decoded.is_empty() {
            self.feed(at, Event::Configurations { decoded: envelope.decoded });
        }
        self.offer(at, &envelope.message);
        self.feed(at, Event::Receive { from: envelope.from, message: envelope.message });
    }

    /// Takes note of what the message says of its leader's log.
    pub fn offer(&mut self, at: usize, message: &Message) {
        self.nodes[at].offered = match &message.body {
            Body::Append { cleaned, .. } => *cleaned,
            _ => None,
        };
    }

    /// Compaction has cleaned to here, and left tombstones out.
    pub fn clean(&mut self, at: usize, clean: i64, dropped: i64) {
        let least = Cleaned { clean: Offset(clean), dropped: Offset(dropped) };
        self.write(at, Op::Cleaned(least));
    }

    /// decisions/0022, rule A: what misses tombstones goes into a log only if nothing there needs them; and the log's own numbers say so.
    fn check_source(&mut self, at: usize, metas: &[EntryMeta], cleaned: Option<Cleaned>) {
        let epoch = self.core(at).epoch();
        let node = &mut self.nodes[at];
        let begins = metas.first().map_or(Offset(0), |meta| meta.base_offset);
        let offered = node.offered.unwrap_or_default();
        let source = (epoch, Cleaned { clean: offered.clean.max(begins), dropped: offered.dropped });
        let before: Vec<_> = node.view.metas.iter().map(|meta| node.sources.get(&meta.id.index)).collect();
        let missing = if begins < offered.dropped { offered.dropped } else { Offset(0) };
        if missing > Offset(0) {
            let is_clean = before.iter().all(|known| known.is_some_and(|(_, its)| its.clean >= missing));
            let first = before.first().copied().flatten();
            let is_one = before.iter().all(|known| known.is_some_and(|(of, _)| *of == epoch));
            let is_same = is_one && first.is_none_or(|(_, its)| its.dropped == missing);
            assert!(
                is_clean || is_same,
                "{} takes {begins} without tombstones below {missing}",
                name(node.id)
            );
        }
        let is_known = before.iter().all(Option::is_some);
        let least = before.iter().flatten().map(|(_, its)| its.clean).min();
        let clean = least.map_or(source.1.clean, |least| least.min(source.1.clean));
        let clean = metas.last().map_or(clean, |meta| clean.min(meta.next_offset()));
        let said = cleaned.unwrap_or_default();
        // The core may have reason to know less.
        let most = if is_known && node.offered.is_some() { clean } else { Offset(0) };
        assert!(
            said.dropped == missing && said.clean <= most,
            "{} says {said:?} of what it takes",
            name(node.id)
        );
        if is_known {
            node.sources.extend(metas.iter().map(|meta| (meta.id.index, source)));
        }
        if let Some(least) = cleaned {
            self.write(at, Op::Cleaned(least));
        }
    }

    /// Takes what is queued as a round.
    pub fn take_round(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        if node.flying.is_some() || node.queue.is_empty() || node.core.is_none() {
            return false;
        }
        node.flying = Some(std::mem::take(&mut node.queue));
        for (later, _) in &mut node.waiting {
            *later = false;
        }
        for (later, _) in &mut node.reporting {
            *later = false;
        }
        true
    }

    /// What was only written is synced.
    pub fn flush(&mut self, at: usize, tell: bool) {
        let node = &mut self.nodes[at];
        let mut last = None;
        for op in std::mem::take(&mut node.loose) {
            self.checker.register_durable(&op);
            node.disk.apply(&op);
            last = Some(node.disk.last());
        }
        if let Some(last) = last.filter(|_| tell) {
            self.feed(at, Event::Durable { last });
        }
    }

    /// The round in flight is durable; or written, where that is enough for all of it.
    pub fn complete_round(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        let Some(mut ops) = node.flying.take() else { return false };
        let is_record = |op: &Op| matches!(op, Op::Append(meta, _) if !meta.kind.is_control());
        let is_loose = node.is_async && ops.iter().all(is_record);
        let mut last = None;
        if is_loose {
            node.loose.append(&mut ops);
        } else {
            self.flush(at, false);
            last =
                Some(self.nodes[at].disk.last()).filter(|id| id.index > Index(0) && self.nodes[at].is_async);
        }
        let node = &mut self.nodes[at];
        for op in &ops {
            self.checker.register_durable(op);
            node.disk.apply(op);
            match op {
                Op::Append(meta, _) | Op::TakeOver(_, meta, _) => last = Some(meta.id),
                Op::Install(start) => last = Some(start.prev),
                _ => {}
            }
        }
        let (ready, waiting) = std::mem::take(&mut node.waiting).into_iter().partition(|(later, _)| !later);
        node.waiting = waiting;
        let ready: Vec<(bool, Envelope)> = ready;
        let (reports, reporting) =
            std::mem::take(&mut node.reporting).into_iter().partition(|(later, _)| !later);
        node.reporting = reporting;
        let reports: Vec<(bool, SealReport)> = reports;
        for (_, report) in reports {
            self.report(at, report);
        }
        for (_, envelope) in ready {
            self.release(at, envelope);
        }
        if let Some(last) = last {
            self.feed(at, Event::Durable { last });
        }
        if is_loose && let Some(Op::Append(meta, _)) = self.nodes[at].loose.last() {
            let last = meta.id;
            self.feed(at, Event::Written { last });
        }
        true
    }

    fn write(&mut self, at: usize, op: Op) {
        let node = &mut self.nodes[at];
        let grows = matches!(op, Op::Append(..) | Op::Truncate(_) | Op::Install(_));
        assert!(!grows || node.view.hard.sealed.is_none(), "a sealed log changes: {op:?}");
        node.view.apply(&op);
        node.queue.push(op);
    }

    pub fn move_start(&mut self, at: usize, index: Index) {
        let view = &self.nodes[at].view;
        if index <= view.start.prev.index || index > self.core(at).commit() {
            return;
        }
        let Some(prev) = view.id_at(index) else { return };
        let held = view.configurations.iter().rev().find(|(id, _)| id.index <= index).cloned();
        let base_offset =
            view.metas.iter().find(|meta| meta.id.index == index).map_or(Offset(0), |m| m.next_offset());
        let (configuration_id, configuration) = held.map_or_else(
            || (view.start.configuration_id, view.start.configuration.clone()),
            |(id, configuration)| (id, configuration.encode()),
        );
        let start = LogStart {
            prev,
            base_offset,
            start_offset: base_offset,
            configuration,
            configuration_id,
            // As in the broker: what is kept with the start may be of later than the start.
            producers_at: self.core(at).commit(),
            ..LogStart::default()
        };
        self.write(at, Op::Start(start.clone()));
        self.feed(at, Event::LogStartMoved { start });
    }

    fn carry_out(&mut self, at: usize, out: Vec<Effect>) -> Vec<Event> {
        let mut events = Vec::new();
        for effect in out {
            if self.is_told() && !matches!(effect, Effect::Send { .. } | Effect::Replicate { .. }) {
                let line = format!("{} {}", name(self.nodes[at].id), super::scripts::show_effect(&effect));
                self.say(|| line);
            }
            match effect {
                Effect::Truncate { from } => {
                    let commit = self.checker.committed_at(&self.nodes[at], from);
                    assert!(!commit, "truncates committed entry {from}");
                    let fixed = self.nodes[at].view.start.producers_at;
                    assert!(
                        from > fixed,
                        "cuts {from}, which what is kept with the start reflects up to {fixed}"
                    );
                    self.write(at, Op::Truncate(from));
                }
                Effect::Append { metas, own, cleaned } => {
                    if own {
                        let sources = &mut self.nodes[at].sources;
                        metas.iter().for_each(|meta| _ = sources.remove(&meta.id.index));
                    } else {
                        self.check_source(at, &metas, cleaned);
                    }
                    for meta in metas {
                        let configuration = (meta.kind == EntryKind::Configuration).then(|| {
                            let seen = self.checker.seen.get(&meta.id);
                            seen.expect("only received configurations are appended").clone()
                        });
                        self.write(at, Op::Append(meta, configuration));
                    }
                }
                Effect::AppendConfiguration { meta, configuration } => {
                    assert_eq!(meta.payload_len as usize, configuration.encode().len());
                    self.checker.seen.insert(meta.id, configuration.clone());
                    self.write(at, Op::Append(meta, Some(configuration)));
                }
                Effect::SaveHardState(hard) => {
                    assert!(hard.epoch >= self.nodes[at].view.hard.epoch, "epoch went back");
                    self.write(at, Op::Hard(hard));
                }
                Effect::Install { start } => {
                    if start.prev.index.0 == 0 {
                        // It starts over in an unclean generation.
                        self.nodes[at].commit = Index(0);
                    }
                    self.write(at, Op::Install(start));
                }
                Effect::Send { to, message, after_storage } => self.send(at, to, message, after_storage),
                Effect::Replicate { to, prev, max_bytes, commit } => {
                    events.extend(self.replicate(at, to, prev, max_bytes, commit));
                }
                Effect::SendLogStart { to } => {
                    let start = self.nodes[at].view.start.clone();
                    let message =
                        Message { epoch: self.core(at).epoch(), body: Body::InstallLogStart { start } };
                    self.post(at, to, message, Vec::new());
                }
                Effect::Committed { index } => self.check_committed(at, index),
                Effect::Role { epoch, role, .. } => self.check_role(at, epoch, role),
                Effect::ReadReady { token, index } => {
                    let least = self.checker.reads.remove(&token).expect("a read is answered once");
                    assert!(index >= least, "read {token} at {index}, but {least} was committed before it");
                    self.checker.reads_ready += 1;
                }
                Effect::ReadFailed { token } => {
                    self.checker.reads.remove(&token).expect("a read is answered once");
                    self.checker.reads_failed += 1;
                }
                Effect::Unclean { from, waits: false, .. } => self.forgive(at, from),
                Effect::Unclean { .. } => {}
                Effect::Poisoned { reason } => {
                    assert!(self.poison_allowed, "poisoned: {reason}");
                    self.nodes[at].poisoned = Some(reason);
                }
                Effect::ChangeRefused { reason } => {
                    self.checker.changes_refused += 1;
                    self.nodes[at].refusal = Some(reason);
                }
                Effect::Generation(what) => self.run_generation(at, *what),
                Effect::Removed { .. } => self.checker.removals += 1,
                Effect::Configured { configuration, .. } => self.nodes[at].in_force = configuration,
                Effect::Refused { .. } => {}
                Effect::Apart(_) => self.checker.apart += 1,
            }
        }
        events
    }

    /// An election told to be unclean: what it says may be lost is no violation, but only if it could not be helped. Every voter
    /// granted, so the winner's log is no worse than any of theirs; whatever one of them holds in a log that goes on into the
    /// epoch it was committed in, the winner holds too (the argument of Raft §5.4.3).
    fn forgive(&mut self, at: usize, from: Index) {
        self.checker.unclean += 1;
        if !self.checker.forgives {
            return;
        }
        let (nodes, winner) = (&self.nodes, &self.nodes[at]);
        let is_voter = |node: &&Node| {
            winner.in_force.voters.contains(&node.id) || winner.in_force.old_voters.contains(&node.id)
        };
        let logs: Vec<&Disk> = nodes.iter().filter(is_voter).map(Node::log).collect();
        let is_held = |index: Index, (id, known_in): (LogId, Epoch)| {
            let in_log = |log: &&Disk| log.id_at(index) == Some(id) && log.last().epoch >= known_in;
            winner.view.id_at(index) == Some(id) || logs.iter().any(in_log)
        };
        let lost: BTreeSet<Index> = self
            .checker
            .committed
            .iter()
            .filter(|(index, known)| **index >= from && !is_held(**index, **known))
            .map(|(index, _)| *index)
            .collect();
        self.checker.committed.retain(|index, _| !lost.contains(index));
        self.checker.configurations.retain(|id, _| !lost.contains(&id.index));
    }

    fn run_generation(&mut self, at: usize, what: GenerationEffect) {
        match what {
            GenerationEffect::TakeOver { hard_state, meta, configuration } => {
                assert!(hard_state.epoch > self.nodes[at].view.hard.epoch, "epoch went back");
                self.checker.seen.insert(meta.id, configuration.clone());
                self.checker.takeovers += 1;
                self.write(at, Op::TakeOver(hard_state, meta, configuration));
            }
            GenerationEffect::Sealed(report) => {
                let node = &mut self.nodes[at];
                if !node.queue.is_empty() || node.flying.is_some() {
                    node.reporting.push((!node.queue.is_empty(), report));
                } else {
                    self.report(at, report);
                }
            }
            GenerationEffect::Reopened { commit, .. } => self.nodes[at].commit = commit,
            GenerationEffect::SetAside { from } => {
                let kept = self.nodes[at].view.metas.iter().filter(|meta| meta.id.index >= from).count();
                assert!(kept > 0, "nothing to set aside from {from} on");
                self.checker.set_aside += kept as u64;
            }
            GenerationEffect::TakeOverRefused { .. } => self.checker.takeovers_refused += 1,
            GenerationEffect::SealRefused { .. }
            | GenerationEffect::Seen { .. }
            | GenerationEffect::TermsUsedUp => {}
        }
    }

    /// A replica says that its generation ends here: its disk must agree.
    fn report(&mut self, at: usize, report: SealReport) {
        let node = &self.nodes[at];
        let line = format!("{} reports its seal: {}", name(node.id), super::scripts::show_report(&report));
        if node.disk.hard.epoch.generation == report.generation {
            assert!(node.disk.hard.sealed.is_some(), "reports a seal that is not durable");
            assert_eq!(node.disk.last(), report.last, "reports a log that is not durable");
            assert_eq!(node.disk.hard.epoch.term, report.highest_term);
        }
        self.say(|| line);
        self.reports.push(report);
    }

    /// The controllers decided a generation that may lose what only others held: forget it as committed.
    pub fn forget_beyond(&mut self, survivor: ReplicaId) {
        let view = &self.nodes[self.position(survivor)].view;
        let begin = view.start.prev;
        // Before its log start: epochs only rise along a log.
        let kept = |index: &Index, id: &LogId| match *index <= begin.index {
            true => id.epoch <= begin.epoch,
            false => view.id_at(*index) == Some(*id),
        };
        let before = self.checker.committed.len();
        self.checker.committed.retain(|index, (id, _)| kept(index, id));
        self.checker.lost += (before - self.checker.committed.len()) as u64;
        let highest = self.checker.committed.keys().next_back().copied().unwrap_or_default();
        self.checker.configurations.retain(|id, _| id.index <= highest && kept(&id.index, id));
        // What an earlier unclean generation made us forget may come back with this survivor, beginning at its log start.
        let start = &view.start;
        if start.prev.index > Index(0) && !self.checker.configurations.contains_key(&start.configuration_id) {
            self.checker.unknown_up_to.push(start.prev.index);
        }
        for least in self.checker.reads.values_mut() {
            *least = (*least).min(highest);
        }
    }

    fn replicate(
        &mut self,
        at: usize,
        to: ReplicaId,
        prev: LogId,
        max_bytes: usize,
        commit: Index,
    ) -> Option<Event> {
        let view = &self.nodes[at].view;
        assert_eq!(view.id_at(prev.index), Some(prev), "replicates after an entry that is not in the log");
        let mut entries = Vec::new();
        let mut bytes = 0;
        for meta in view.metas.iter().filter(|meta| meta.id.index > prev.index) {
            let over = bytes + meta.payload_len as usize > max_bytes;
            if max_bytes == 0 || (over && !entries.is_empty()) {
                break;
            }
            bytes += meta.payload_len as usize;
            entries.push(*meta);
        }
        let find = |meta: &EntryMeta| view.configurations.iter().find(|(id, _)| *id == meta.id);
        let decoded =
            entries.iter().filter_map(find).map(|(_, configuration)| configuration.clone()).collect();
        let last = entries.last().map(|meta| meta.id.index);
        let begins = entries.first().map_or(Offset(i64::MAX), |meta| meta.base_offset);
        let cleaned = Some(view.cleaned).filter(|cleaned| begins < cleaned.clean.max(cleaned.dropped));
        let body = Body::Append { prev, entries, commit, cleaned };
        let message = Message { epoch: self.core(at).epoch(), body };
        self.post(at, to, message, decoded);
        last.map(|last| Event::Sent { to, last, bytes })
    }

    fn envelope(
        &self,
        at: usize,
        to: ReplicaId,
        message: Message,
        decoded: Vec<Configuration>,
    ) -> Option<Envelope> {
        let target = self.nodes.iter().find(|node| node.id == to)?;
        let incarnations = (self.nodes[at].incarnation, target.incarnation);
        Some(Envelope { from: self.nodes[at].id, to, incarnations, message, decoded })
    }

    /// safety.md F2: a sealed replica neither appends, acknowledges, votes nor campaigns in that generation any more.
    fn check_sealed(&self, at: usize, message: &Message) {
        let hard = &self.nodes[at].view.hard;
        if hard.sealed.is_some() && message.epoch.generation == hard.epoch.generation {
            let silent = matches!(
                message.body,
                Body::Sealed
                    | Body::Fenced
                    | Body::Removed { .. }
                    | Body::PreVoteReply { granted: false, .. }
                    | Body::VoteReply { granted: false }
            );
            assert!(silent, "{} is sealed and says {message:?}", name(self.nodes[at].id));
        }
    }

    fn send(&mut self, at: usize, to: ReplicaId, message: Message, after_storage: bool) {
        self.check_sealed(at, &message);
        let Some(envelope) = self.envelope(at, to, message, Vec::new()) else { return };
        let node = &mut self.nodes[at];
        if after_storage && (!node.queue.is_empty() || node.flying.is_some()) {
            node.waiting.push((!node.queue.is_empty(), envelope));
        } else {
            self.release(at, envelope);
        }
    }

    fn post(&mut self, at: usize, to: ReplicaId, message: Message, decoded: Vec<Configuration>) {
        self.check_sealed(at, &message);
        if let Some(envelope) = self.envelope(at, to, message, decoded) {
            self.release(at, envelope);
        }
    }

    /// A message leaves the node: what it promises must be on its disk.
    fn release(&mut self, at: usize, envelope: Envelope) {
        let node = &self.nodes[at];
        let epoch = envelope.message.epoch;
        let durable_epoch = node.disk.hard.epoch.max(node.disk.last().epoch);
        match &envelope.message.body {
            Body::Append { entries, .. } => {
                self.checker.note_term(epoch);
                entries.iter().for_each(|meta| self.checker.register(meta));
            }
            Body::AppendAccepted { last } | Body::LogStartInstalled { prev: last } => {
                assert!(durable_epoch >= epoch, "acknowledges in {epoch}, which is not durable");
                let kept =
                    last.index <= node.disk.start.prev.index || node.disk.id_at(last.index) == Some(*last);
                let moved_on = node.view.hard.epoch > epoch;
                assert!(kept || moved_on, "{} acknowledges {last}, which is not durable", node.id);
            }
            Body::Written { last } => {
                assert!(durable_epoch >= epoch, "tells in {epoch}, which is not durable");
                let moved_on = node.view.hard.epoch > epoch;
                assert!(
                    node.has_written(*last) || moved_on,
                    "{} tells of {last}, which is not written",
                    node.id
                );
            }
            Body::BeatReply { matched, .. } if matched.index.0 > 0 => {
                let kept = matched.index <= node.disk.start.prev.index
                    || node.disk.id_at(matched.index) == Some(*matched);
                assert!(kept, "beat reply names {matched}, which is not durable");
            }
            Body::Vote { .. } => self.checker.vote(epoch, node.id, node.id, node.disk.hard),
            Body::VoteReply { granted: true } | Body::VoteIfAll { .. } => {
                self.checker.vote(epoch, node.id, envelope.to, node.disk.hard)
            }
            _ => {}
        }
        if self.is_told() {
            let line = super::scripts::show_envelope(&envelope);
            self.say(|| line);
        }
        self.network.push_back(envelope);
    }

    fn check_role(&mut self, at: usize, epoch: Epoch, role: Role) {
        if role != Role::Leader {
            return;
        }
        let node = &self.nodes[at];
        let leader = *self.checker.leaders.entry(epoch).or_insert_with(|| {
            self.checker.elections += 1;
            node.id
        });
        assert_eq!(leader, node.id, "two leaders in {epoch}");
        for (index, (id, known_in)) in &self.checker.committed {
            let kept = *index <= node.view.start.prev.index || node.view.id_at(*index) == Some(*id);
            assert!(
                kept || *known_in >= epoch,
                "leader of {epoch} lacks committed {id} (known in {known_in})"
            );
        }
    }

    fn check_committed(&mut self, at: usize, index: Index) {
        let core = self.core(at);
        let (epoch, leads) = (core.epoch(), core.role() == Role::Leader);
        assert!(index > self.nodes[at].commit, "commit does not advance");
        self.nodes[at].commit = index;
        let node = &self.nodes[at];
        let first = node.view.start.prev.index.next();
        for meta in node.view.metas.iter().filter(|meta| meta.id.index <= index) {
            let (id, known_in) = self.checker.committed.entry(meta.id.index).or_insert((meta.id, epoch));
            assert_eq!(*id, meta.id, "committed entry changed");
            *known_in = (*known_in).min(epoch);
        }
        for (id, configuration) in node.view.configurations.iter().filter(|(id, _)| id.index <= index) {
            self.checker.configurations.entry(*id).or_insert_with(|| configuration.clone());
        }
        self.checker.check_configurations();
        if leads {
            self.checker.note_term(epoch);
        }
        if leads && index >= first {
            let id = node.view.id_at(index).expect("committed entries are in the log");
            assert_eq!(id.epoch, epoch, "commits by counting an entry of an older epoch (Raft §5.4.2)");
            let configuration = self.nodes[at].in_force.clone();
            for half in [&configuration.voters, &configuration.old_voters] {
                let holds = |voter: &&ReplicaId| self.nodes[self.position(**voter)].has_told(index, id);
                let holders = half.iter().filter(holds).count();
                assert!(
                    2 * holders > half.len() || half.is_empty(),
                    "{id} committed, but {holders} voters hold it"
                );
            }
        }
    }
}

impl Checker {
    /// Committed configurations follow each other as Raft §6 has it, whoever proposed them.
    fn check_configurations(&self) {
        let pairs = self.configurations.iter().zip(self.configurations.iter().skip(1));
        for ((before_id, before), (after_id, after)) in pairs {
            assert!(before_id.index < after_id.index, "{before_id} and {after_id} are both committed");
            let new_generation = before_id.epoch.generation < after_id.epoch.generation;
            let gap = |at: &Index| before_id.index <= *at && (*at < after_id.index || new_generation);
            if self.unknown_up_to.iter().any(gap) {
                continue;
            }
            if new_generation {
                assert!(after.voters.len() == 1 && !after.is_joint(), "a generation begins with {after:?}");
                continue;
            }
            let same = |a: &[ReplicaId], b: &[ReplicaId]| {
                a.len() == b.len() && a.iter().all(|replica| b.contains(replica))
            };
            let fits = match (before.is_joint(), after.is_joint()) {
                (true, true) => false,
                (true, false) => after.voters == before.voters && after.learners == before.learners,
                (false, true) => after.old_voters == before.voters,
                (false, false) => same(&after.voters, &before.voters),
            };
            assert!(fits, "{after:?} does not follow {before:?}");
            assert!(after.members().all(|member| !before.is_retired(member)), "a retired id came back");
        }
    }

    /// A leader has shown itself: leaders of different generations never share a term (safety.md F4). One that leads alone
    /// shows nothing before its term is durable.
    fn note_term(&mut self, epoch: Epoch) {
        let generation = self.terms.entry(epoch.term).or_insert(epoch.generation);
        assert_eq!(*generation, epoch.generation, "term {} led in two generations", epoch.term);
    }

    /// An entry's identity counts from when anyone could see it again: durable, or sent.
    fn register_durable(&mut self, op: &Op) {
        if let Op::Append(meta, _) | Op::TakeOver(_, meta, _) = op {
            self.register(meta);
        }
    }

    /// This replica lost what it knew of its votes.
    pub fn forget_votes(&mut self, voter: ReplicaId) {
        self.votes.retain(|(_, by), _| *by != voter);
    }

    fn register(&mut self, meta: &EntryMeta) {
        let known = self.entries.entry(meta.id).or_insert(*meta);
        assert_eq!(known, meta, "two entries with one identity");
    }

    fn committed_at(&self, node: &Node, index: Index) -> bool {
        let own = node.view.id_at(index);
        index <= node.commit
            || self.committed.get(&index).is_some_and(|(id, known_in)| {
                // A leader of an older epoch may still cut what a newer one has committed elsewhere, never what was
                // committed before its time.
                own == Some(*id) && *known_in < node.view.hard.epoch
            })
    }

    fn vote(&mut self, epoch: Epoch, voter: ReplicaId, candidate: ReplicaId, hard: HardState) {
        assert!(hard.epoch >= epoch, "vote in {epoch} is told before it is durable");
        if hard.epoch == epoch {
            assert_eq!(hard.vote, Some(candidate), "vote is told before it is durable");
        }
        let given = *self.votes.entry((epoch, voter)).or_insert(candidate);
        assert_eq!(given, candidate, "{voter} votes twice in {epoch}");
    }
}

pub fn name(id: ReplicaId) -> String {
    format!("n{}", id.node)
}

/// A disk whose log has these epochs (terms of generation 0), all committed to nobody's knowledge.
pub fn disk_with(configuration: &Configuration, term: u64, terms: &[u64]) -> Disk {
    let mut disk = Disk {
        start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
        ..Disk::default()
    };
    disk.hard.epoch = Epoch::new(0, term.max(terms.last().copied().unwrap_or(0)));
    for term in terms {
        let before = disk.last();
        let meta = EntryMeta {
            id: LogId { epoch: Epoch::new(0, *term), index: before.index.next() },
            prev: before.epoch,
            kind: EntryKind::Records,
            base_offset: disk.next_offset(),
            offset_span: 1,
            payload_len: 10,
        };
        disk.apply(&Op::Append(meta, None));
    }
    disk
}
