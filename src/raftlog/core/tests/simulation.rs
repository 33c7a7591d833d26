//! Seeded clusters under loss, reordering, duplication, partitions, crashes, slow syncs, resets, transfers, reads,
//! changes of membership, moving log starts, and a stand-in for the controllers that gives every order about generations
//! that the rules allow, old ones again and again; then everything heals and must converge. `harness` checks the invariants at every effect.
//!
//! `KONTIKI_SEED=n` runs one seed (`KONTIKI_TRACE=1` says everything that happens), `KONTIKI_SEEDS=n` that many. A failure names its seed.

use super::harness::{Cluster, Disk, Envelope, default_config, disk_with, replica};
use crate::raftlog::core::{Event, Order, Role};
use crate::raftlog::generation::{Decision, SealReport, decide};
use crate::raftlog::message::Configuration;
use crate::segment::{Doubt, EntryKind, Generation, HardState, Index, LogId, ReplicaId, Term};
use std::collections::BTreeMap;

/// The simulation's own randomness (xorshift64*), apart from the cores'.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What the controllers know and have decided; atomic, since they are a consensus group of their own.
#[derive(Default)]
struct Controller {
    /// 0: it never replaces a quorum; 1: rarely; 2: often.
    appetite: u64,
    /// Whether it may decide what can lose something.
    unclean: bool,
    plans: u64,
    reports: BTreeMap<(Generation, ReplicaId), SealReport>,
    decisions: Vec<Decision>,
    recorded: Term,
}

impl Controller {
    fn generation(&self) -> Generation {
        Generation(self.decisions.len() as u64)
    }
    fn lost(&self) -> bool {
        self.decisions.iter().any(|decision| !decision.opening.lossless)
    }
}

struct Simulation {
    cluster: Cluster,
    dice: Dice,
    flying: Vec<(u64, Envelope)>,
    syncs: Vec<Option<u64>>,
    /// Damaged, or with storage that completes no round any more, until restarted.
    sick: Vec<bool>,
    dead_disks: Vec<bool>,
    beats: Vec<u64>,
    /// Nodes cut off from those with another number.
    sides: Vec<u8>,
    /// Links that lose everything, one way: from, to.
    blocked: Vec<(usize, usize)>,
    observer: Option<ReplicaId>,
    /// One change of membership asked for in about so many loads; 0: none.
    changes: u64,
    controller: Controller,
    loss: u64,
    duplicates: u64,
    delay: u64,
    sync: u64,
    /// One fault in about so many steps.
    calm: u64,
    /// Partitions end, and a node comes back, once in about so many steps.
    mend: u64,
    back: u64,
    /// How much later than a message its duplicate may come.
    late: u64,
    /// One proposal in about so many loads that could bring one.
    quiet: u64,
    /// One leader in about so many loads leaves tombstones out; 0: none.
    drops: u64,
    /// A node that just started goes down again at this time.
    doomed: Option<(usize, u64)>,
    faults: bool,
    digest: u64,
}

impl Simulation {
    /// Voters on a good network with quick disks and nothing else: faults are the caller's.
    fn calm(voters: usize) -> Self {
        let members: Vec<_> = (1..=voters as i32).map(replica).collect();
        let configuration = Configuration { voters: members, ..Configuration::default() };
        let mut simulation = Self::new(0);
        let mut cluster = Cluster::new(default_config(), 11);
        for node in 1..=voters as i32 {
            cluster.add(replica(node), disk_with(&configuration, 0, &[]));
            cluster.start(node as usize - 1, |restored| restored.campaign_at_once = node == 1);
        }
        simulation.cluster = cluster;
        simulation.flying.clear();
        simulation.syncs = vec![None; voters];
        simulation.sick = vec![false; voters];
        simulation.dead_disks = vec![false; voters];
        simulation.beats = vec![0; voters];
        simulation.sides = vec![0; voters];
        simulation.observer = None;
        simulation.changes = 0;
        simulation.controller = Controller::default();
        (simulation.delay, simulation.sync, simulation.faults) = (2, 2, false);
        simulation
    }

    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let voters = [3, 5, 3, 2, 1, 4][dice.below(6) as usize];
        let extras = dice.below(3) as usize;
        let members: Vec<_> = (1..=voters as i32).map(replica).collect();
        let learner = replica(voters as i32 + 1);
        let learners = if extras > 0 { vec![learner] } else { Vec::new() };
        let mut config = default_config();
        // Small windows and batches, so that they fill.
        config.window_bytes = 100 + dice.below(900) as usize;
        config.append_bytes = 50 + dice.below(200) as usize;
        config.uncommitted_bytes = 2_000;
        // Some of them stand for election at nearly the same time.
        config.election_max_ms = [1_200, 1_200, 700][dice.below(3) as usize];
        // Half of the runs start from a joint configuration: quorums of both halves count.
        let old_voters = match voters > 2 && dice.one_in(4) {
            true => members[..voters - 1].to_vec(),
            false => Vec::new(),
        };
        let configuration = Configuration { voters: members, old_voters, learners, retired: Vec::new() };
        let mut cluster = Cluster::new(config, seed);
        let placed = voters + extras;
        let observer = (extras == 2).then(|| replica(placed as i32));
        let changes = [0, 1, 3][dice.below(3) as usize];
        // Replicas that are placed but no members yet: an empty log and no configuration.
        let count = if changes > 0 { placed + 1 + dice.below(3) as usize } else { placed };
        for node in 1..=count as i32 {
            let fresh = node > placed as i32;
            cluster
                .add(replica(node), if fresh { Disk::default() } else { disk_with(&configuration, 0, &[]) });
        }
        for at in 0..count {
            let eager = at == 0 && dice.one_in(2);
            cluster.start(at, |restored| restored.campaign_at_once = eager);
            if let Some(replica) = observer {
                cluster.feed(at, Event::AddObserver { replica });
            }
        }
        Self {
            flying: Vec::new(),
            syncs: vec![None; count],
            sick: vec![false; count],
            dead_disks: vec![false; count],
            beats: vec![0; count],
            sides: vec![0; count],
            blocked: Vec::new(),
            observer,
            changes,
            controller: Controller {
                appetite: [0, 1, 2, 2][dice.below(4) as usize],
                unclean: dice.one_in(2),
                ..Controller::default()
            },
            loss: [0, 50, 20, 8][dice.below(4) as usize],
            duplicates: [0, 40, 10][dice.below(3) as usize],
            delay: [2, 20, 120][dice.below(3) as usize],
            sync: [2, 10, 60][dice.below(3) as usize],
            calm: [30, 100, 400][dice.below(3) as usize],
            mend: [150, 150, 600][dice.below(3) as usize],
            back: [60, 60, 8][dice.below(3) as usize],
            late: [10, 10, 80][dice.below(3) as usize],
            quiet: [1, 1, 1, 30][dice.below(4) as usize],
            drops: if seed % 4 == 3 { 4 } else { 0 },
            doomed: None,
            faults: true,
            digest: 0,
            cluster,
            dice,
        }
    }

    fn post_all(&mut self) {
        while let Some(envelope) = self.cluster.network.pop_front() {
            let (from, to) = (self.cluster.position(envelope.from), self.cluster.position(envelope.to));
            self.digest = self.digest.rotate_left(5) ^ (self.cluster.now * 31 + (from * 7 + to) as u64);
            let cut = self.sides[from] != self.sides[to] || self.blocked.contains(&(from, to));
            if cut || (self.faults && self.loss > 0 && self.dice.one_in(self.loss)) {
                continue;
            }
            if self.faults && self.duplicates > 0 && self.dice.one_in(self.duplicates) {
                let at = self.cluster.now + 1 + self.dice.below(self.delay * self.late);
                self.flying.push((at, envelope.clone()));
            }
            let at = self.cluster.now + 1 + self.dice.below(self.delay);
            self.flying.push((at, envelope));
        }
    }

    fn advance(&mut self) {
        self.cluster.now += self.dice.below(6);
        let now = self.cluster.now;
        self.post_all();
        let mut due = Vec::new();
        let mut at = 0;
        while at < self.flying.len() {
            if self.flying[at].0 <= now {
                due.push(self.flying.swap_remove(at).1);
            } else {
                at += 1;
            }
        }
        for envelope in due {
            self.cluster.deliver(envelope);
            self.post_all();
        }
        for at in 0..self.cluster.nodes.len() {
            if self.cluster.nodes[at].core.is_none() {
                continue;
            }
            if self.syncs[at].is_some_and(|done| done <= now) && !self.dead_disks[at] {
                self.syncs[at] = None;
                self.cluster.complete_round(at);
            }
            if self.syncs[at].is_none() && self.cluster.take_round(at) {
                self.syncs[at] = Some(now + self.dice.below(self.sync));
            }
            if self.cluster.core(at).deadline().is_some_and(|deadline| deadline <= now) {
                self.cluster.feed(at, Event::Tick);
            }
            if self.beats[at] <= now || self.cluster.core(at).wants_beat() {
                self.beats[at] = now + self.cluster.config.beat_ms;
                self.cluster.beat(at);
            }
        }
        self.post_all();
    }

    fn load(&mut self) {
        let mut at = self.dice.below(self.cluster.nodes.len() as u64) as usize;
        if self.dice.one_in(2) {
            let leads =
                |node: &super::harness::Node| node.core.as_ref().is_some_and(|c| c.role() == Role::Leader);
            // One of several may be deposed and not know it yet.
            let mut nodes = self.cluster.nodes.iter();
            at = if self.dice.one_in(2) { nodes.position(leads) } else { nodes.rposition(leads) }
                .unwrap_or(at);
        }
        if self.cluster.nodes[at].core.is_none() {
            return;
        }
        match self.dice.below(26) {
            0..=11 if self.dice.one_in(self.quiet) => {
                let count = 1 + self.dice.below(4);
                let payload = self.dice.below(80) as u32;
                let entries =
                    vec![(EntryKind::Records, 1 + self.dice.below(5) as u32, payload); count as usize];
                self.cluster.feed(at, Event::Propose { entries });
            }
            12..=14 => {
                self.cluster.read(at);
            }
            15 if self.dice.one_in(4) => {
                let to = replica(1 + self.dice.below(self.cluster.nodes.len() as u64) as i32);
                let to = if self.dice.one_in(2) { Some(to) } else { None };
                self.cluster.feed(at, Event::Transfer { to });
            }
            16 if self.dice.one_in(3) => {
                let commit = self.cluster.core(at).commit().0;
                let index = Index(commit.saturating_sub(self.dice.below(10)));
                self.cluster.move_start(at, index);
            }
            17 if self.dice.one_in(8) => {
                let peer = self.dice.below(self.cluster.nodes.len() as u64) as usize;
                let node = self.cluster.nodes[peer].id.node;
                self.cluster.feed(at, Event::PeerReset { node });
            }
            21 if self.drops > 0 && self.dice.one_in(self.drops) => {
                let commit = self.cluster.core(at).commit();
                let metas = &self.cluster.nodes[at].view.metas;
                let end =
                    metas.iter().rfind(|meta| meta.id.index <= commit).map_or(0, |meta| meta.next_offset().0);
                let dropped = end - self.dice.below(end as u64 / 4 + 1) as i64;
                // Less after a repair from one that was not as clean.
                let clean = if self.dice.one_in(3) { dropped / 2 } else { end };
                self.cluster.clean(at, clean, dropped);
            }
            18..=20 if self.changes > 0 && self.dice.one_in(self.changes) => self.change(at),
            _ => {}
        }
    }

    /// Asks for members at random: some of them may not be caught up, known, new, or enough.
    fn change(&mut self, at: usize) {
        let core = self.cluster.core(at);
        let (current, id) = (core.configuration().0.clone(), core.configuration().1);
        let ready: Vec<_> = core.progress().iter().filter(|p| p.is_caught_up).map(|p| p.replica).collect();
        let expected = if self.dice.one_in(8) { LogId { index: id.index.next(), ..id } } else { id };
        let (mut voters, mut learners) = (Vec::new(), Vec::new());
        for node in 0..self.cluster.nodes.len() {
            let member = self.cluster.nodes[node].id;
            let votes = current.voters.contains(&member);
            let joins = ready.contains(&member) || self.dice.one_in(12);
            match self.dice.below(8) {
                0 if votes => {}
                1 if votes => learners.push(member),
                2..=4 if !votes && !joins => learners.push(member),
                _ if votes || (joins && self.dice.one_in(2)) => voters.push(member),
                _ if current.learners.contains(&member) => learners.push(member),
                _ => {}
            }
        }
        if self.dice.one_in(4) {
            // Down to few, as when members die one after the other.
            voters.truncate(1 + self.dice.below(2) as usize);
        }
        if self.dice.one_in(10) {
            return self.cluster.feed(at, Event::ChangeMembership { expected, voters, learners });
        }
        let former: Vec<_> = current.retired.clone();
        voters.retain(|r| !former.contains(r));
        learners.retain(|r| !former.contains(r));
        self.cluster.feed(at, Event::ChangeMembership { expected, voters, learners });
    }

    /// The controllers' part: seals to anyone, a decision from any reports that allow one, decisions to anyone in any
    /// order. Nothing it does looks at who is really alive, unless something may be lost.
    fn control(&mut self) {
        for report in std::mem::take(&mut self.cluster.reports) {
            self.controller.reports.insert((report.generation, report.replica), report);
        }
        let core = self.cluster.nodes.iter().filter_map(|node| node.core.as_ref());
        let led = core.filter(|core| core.role() == Role::Leader).map(|core| core.epoch().term).max();
        self.controller.recorded = self.controller.recorded.max(led.unwrap_or_default());
        let generation = self.controller.generation();
        let under_way = self.controller.reports.keys().any(|(of, _)| *of == generation);
        let chance = if under_way { 40 } else { 3_000 / self.controller.appetite };
        if self.dice.one_in(chance) {
            self.controller.plans += 1;
            let old = self.dice.below(generation.0 + 1);
            let generation = if self.dice.one_in(8) { Generation(old) } else { generation };
            for at in 0..self.cluster.nodes.len() {
                if self.cluster.nodes[at].core.is_some() && self.dice.one_in(2) {
                    let plan = self.controller.plans;
                    self.cluster.feed(at, Event::Generation(Order::Seal { generation, plan }));
                }
            }
        }
        if under_way && self.dice.one_in(30) {
            let reports: Vec<_> = self.controller.reports.values().cloned().collect();
            let heard = reports.into_iter().filter(|_| !self.dice.one_in(4)).collect::<Vec<_>>();
            self.decide(&heard);
        }
        if !self.controller.decisions.is_empty() && self.dice.one_in(20) {
            let at = self.dice.below(self.cluster.nodes.len() as u64) as usize;
            let which = self.dice.below(self.controller.decisions.len() as u64) as usize;
            self.tell(at, which);
        }
    }

    fn decide(&mut self, reports: &[SealReport]) {
        let generation = self.controller.generation();
        let Ok(decision) = decide(generation, reports, self.controller.recorded) else { return };
        if !decision.opening.lossless {
            // The operator's part: whoever is not sealed is really dead, and learns of it before it may vote (F16).
            let sealed = |id| reports.iter().any(|r| r.generation == generation && r.replica == id);
            let dead = |node: &super::harness::Node| node.core.is_none() || sealed(node.id);
            if !self.controller.unclean || !self.cluster.nodes.iter().all(dead) {
                return;
            }
            self.cluster.forget_beyond(decision.opening.survivor);
        }
        self.controller.decisions.push(decision);
    }

    fn tell(&mut self, at: usize, which: usize) {
        if self.cluster.nodes[at].core.is_some() {
            let decision = self.controller.decisions[which].clone();
            self.cluster.feed(at, Event::Generation(Order::Decided(decision)));
        }
    }

    fn harm(&mut self) {
        let count = self.cluster.nodes.len() as u64;
        let at = self.dice.below(count) as usize;
        if let Some((at, when)) = self.doomed
            && when <= self.cluster.now
        {
            self.doomed = None;
            self.crash(at);
        }
        if self.cluster.nodes[at].core.is_none() && self.dice.one_in(self.back) {
            if self.dice.one_in(4) {
                self.doomed = Some((at, self.cluster.now + self.dice.below(60)));
            }
            return self.restart(at);
        }
        if self.dice.one_in(self.mend) {
            self.sides.fill(0);
            self.blocked.clear();
        }
        if !self.dice.one_in(self.calm) {
            return;
        }
        match self.dice.below(8) {
            0..=1 => self.crash(at),
            // One way only, to and fro: the other direction works.
            6..=7 => {
                let other = self.dice.below(count) as usize;
                match self.blocked.iter().position(|link| *link == (at, other)) {
                    Some(known) => drop(self.blocked.remove(known)),
                    None => self.blocked.push((at, other)),
                }
            }
            2..=3 if self.dice.one_in(2) => {
                let alone = leader_of(self).filter(|_| self.dice.one_in(2));
                for (at, side) in self.sides.iter_mut().enumerate() {
                    *side = match alone {
                        Some(leader) => u8::from(at == leader),
                        None => self.dice.below(2) as u8,
                    };
                }
            }
            3 if self.cluster.nodes[at].core.is_some() && self.dice.one_in(3) => {
                self.cluster.feed(at, Event::OpenGate);
            }
            4 if self.cluster.nodes[at].core.is_some() && self.dice.one_in(4) => {
                self.sick[at] = true;
                self.dead_disks[at] = self.dice.one_in(2);
                let event = if self.dead_disks[at] { Event::StorageFailed } else { Event::Damaged };
                self.cluster.feed(at, event);
            }
            // Everyone loses power.
            5 if self.dice.one_in(5) => {
                for at in 0..self.cluster.nodes.len() {
                    self.crash(at);
                }
            }
            _ => {}
        }
    }

    fn crash(&mut self, at: usize) {
        let kept = if self.dice.one_in(2) { 0 } else { self.dice.below(8) as usize };
        self.cluster.crash(at, kept);
        self.syncs[at] = None;
        if std::mem::take(&mut self.sick[at]) {
            // Damage here is an event that loses nothing: it comes back repaired. What doubt does is tested in `doubt`.
            self.cluster.nodes[at].disk.hard.doubt = Doubt::None;
        }
        self.dead_disks[at] = false;
    }

    fn restart(&mut self, at: usize) {
        let gated = self.dice.one_in(3) || self.controller.lost();
        self.cluster.start(at, |restored| restored.gate_open = !gated);
        // Damaged while running, it comes back in doubt with all it had: elections that could lose something lose nothing.
        self.cluster.nodes[at].core.as_mut().expect("just started").allow_unclean(true);
        if let Some(replica) = self.observer {
            self.cluster.feed(at, Event::AddObserver { replica });
        }
        if self.controller.lost() {
            // The boot gate: everything the controllers decided comes first (safety.md F16).
            (0..self.controller.decisions.len()).for_each(|which| self.tell(at, which));
        }
        if gated && self.dice.one_in(2) {
            self.cluster.feed(at, Event::OpenGate);
        }
    }

    /// All faults end; a leader must emerge, commit something new, and everyone must hold the same log.
    fn heal(&mut self) {
        self.faults = false;
        self.sides.fill(0);
        self.blocked.clear();
        self.delay = self.delay.min(20);
        self.sync = self.sync.min(20);
        for at in 0..self.cluster.nodes.len() {
            if self.sick[at] {
                self.crash(at);
            }
            if self.cluster.nodes[at].core.is_none() {
                self.restart(at);
            }
            self.cluster.feed(at, Event::OpenGate);
        }
        let until = self.cluster.now + 30_000;
        let mut proposed = None;
        while self.cluster.now < until {
            self.advance();
            self.begin_anew();
            self.settle_generation();
            let leader = (0..self.cluster.nodes.len()).find(|at| {
                let core = self.cluster.core(*at);
                core.role() == Role::Leader && core.is_established()
            });
            let Some(leader) = leader else { continue };
            let epoch = self.cluster.core(leader).epoch();
            if proposed.is_none_or(|(at, _)| at != epoch) {
                self.cluster.feed(leader, Event::Propose { entries: vec![(EntryKind::Records, 1, 5)] });
                let token = self.cluster.read(leader);
                proposed = Some((epoch, token));
            }
            let last = self.cluster.core(leader).last();
            let same = |disk: &Disk, core: &crate::raftlog::core::Core| {
                disk.last() == last && core.commit() == last.index && core.durable() == last.index
            };
            let (configuration, _) = self.cluster.core(leader).configuration();
            let concerned = |id: ReplicaId| configuration.is_member(id) || self.observer == Some(id);
            if !configuration.is_joint()
                && configuration.is_voter(self.cluster.nodes[leader].id)
                && self
                    .cluster
                    .nodes
                    .iter()
                    .filter(|node| concerned(node.id))
                    .all(|node| node.core.as_ref().is_some_and(|core| same(&node.disk, core)))
            {
                let progress = self.cluster.core(leader).progress();
                // The last acknowledgements may still be on their way, but they must come.
                if progress.iter().all(|peer| peer.matched == last.index) {
                    return;
                }
            }
        }
        for node in &self.cluster.nodes {
            let core = node.core.as_ref().expect("all are up");
            eprintln!(
                "{}: {:?} epoch {} leader {:?} last {} durable {} commit {} progress {:?}",
                node.id,
                core.role(),
                core.epoch(),
                core.leader(),
                core.last(),
                core.durable(),
                core.commit(),
                core.progress()
            );
        }
        panic!("did not converge within 30 s of healing");
    }

    /// Nothing misses tombstones any more, and whoever stood apart for that asks its leader again: in the place of replicas that are made anew.
    fn begin_anew(&mut self) {
        for at in 0..self.cluster.nodes.len() {
            let node = &mut self.cluster.nodes[at];
            (node.disk.cleaned, node.view.cleaned) = Default::default();
            if node.core.as_ref().is_some_and(|core| core.apart().is_some()) {
                self.crash(at);
                self.restart(at);
                self.cluster.feed(at, Event::OpenGate);
            }
        }
    }

    /// What is begun is brought to its end: decisions reach everyone, a generation that was sealed anywhere ends.
    fn settle_generation(&mut self) {
        if self.controller.appetite == 0 || !self.dice.one_in(50) {
            return;
        }
        for at in 0..self.cluster.nodes.len() {
            (0..self.controller.decisions.len()).for_each(|which| self.tell(at, which));
        }
        for report in std::mem::take(&mut self.cluster.reports) {
            self.controller.reports.insert((report.generation, report.replica), report);
        }
        let generation = self.controller.generation();
        let hard = |node: &super::harness::Node| node.core.as_ref().expect("all are up").hard_state();
        let sealed = |hard: HardState| hard.epoch.generation == generation && hard.sealed.is_some();
        if !self.cluster.nodes.iter().any(|node| sealed(hard(node))) {
            return;
        }
        if self.cluster.nodes.iter().all(|node| sealed(hard(node))) {
            let reports: Vec<_> = self.controller.reports.values().cloned().collect();
            self.decide(&reports);
        }
        for at in 0..self.cluster.nodes.len() {
            self.cluster.feed(at, Event::Generation(Order::Seal { generation, plan: 0 }));
        }
    }

    fn run(mut self, steps: u64) -> (u64, u64, u64, [u64; 6]) {
        for _ in 0..steps {
            self.advance();
            self.load();
            if self.controller.appetite > 0 {
                self.control();
            }
            self.harm();
        }
        self.heal();
        let checker = &self.cluster.checker;
        let changes = checker.configurations.values().filter(|c| !c.is_joint()).count() as u64;
        (
            self.digest,
            checker.committed.len() as u64,
            checker.elections,
            [checker.reads_ready, changes, checker.takeovers, checker.lost, checker.set_aside, checker.apart],
        )
    }
}

struct Named(u64);
impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with KONTIKI_SEED={}", self.0);
        }
    }
}

/// One run, to its verdict.
#[cfg(feature = "mutations")]
pub(crate) fn run_seed(seed: u64) {
    Simulation::new(seed).run(6_000);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn cluster_under_faults_keeps_every_invariant_and_converges() {
    if let Some(seed) = number("KONTIKI_SEED") {
        let _named = Named(seed);
        let mut run = Simulation::new(seed);
        run.cluster.echo = std::env::var_os("KONTIKI_TRACE").is_some();
        println!("{:?}", run.run(6_000));
        return;
    }
    let (mut committed, mut elections, mut reads, mut changes) = (0, 0, 0, 0);
    let (mut takeovers, mut lost, mut set_aside, mut apart) = (0, 0, 0, 0);
    let seeds = number("KONTIKI_SEEDS").unwrap_or(if cfg!(debug_assertions) { 100 } else { 400 });
    for seed in 0..seeds {
        let _named = Named(seed);
        let (_, c, e, r) = Simulation::new(seed).run(6_000);
        committed += c;
        elections += e;
        reads += r[0];
        changes += r[1];
        takeovers += r[2];
        lost += r[3];
        set_aside += r[4];
        apart += r[5];
    }
    println!(
        "{seeds} seeds: {committed} entries committed, {elections} elections, {reads} reads, {changes} changes of \
         membership, {takeovers} generations opened, {lost} entries lost uncleanly, {set_aside} set aside, {apart} stood apart"
    );
    // The checks are worth something only if things happen.
    assert!(committed > 100 * seeds, "only {committed} entries committed");
    assert!(elections > 2 * seeds, "only {elections} elections");
    assert!(reads > 20 * seeds, "only {reads} reads confirmed");
    assert!(changes > 2 * seeds, "only {changes} changes of membership committed");
    assert!(takeovers > seeds, "only {takeovers} generations opened");
    assert!(apart > seeds / 10, "only {apart} replicas met a leader that misses tombstones");
    assert!(lost > seeds / 10 && set_aside > seeds / 10, "only {lost} entries lost, {set_aside} set aside");
}

#[test]
fn same_seed_twice_gives_the_same_run() {
    for seed in [3, 17] {
        assert_eq!(Simulation::new(seed).run(2_000), Simulation::new(seed).run(2_000));
    }
}

/// One minute under `links`, which is asked at every step which one-way links lose everything. Answers the terms spent after
/// the first second and the seconds in which nothing was committed.
fn minute(voters: usize, mut links: impl FnMut(u64, &Simulation) -> Vec<(usize, usize)>) -> (u64, u64) {
    let mut simulation = Simulation::calm(voters);
    let term = |s: &Simulation| s.cluster.nodes.iter().map(|n| n.disk.hard.epoch.term.0).max().unwrap_or(0);
    let (mut start, mut idle, mut committed) = (0, 0, 0);
    for second in 0..61 {
        while simulation.cluster.now < 1_000 * (second + 1) {
            simulation.blocked = links(simulation.cluster.now, &simulation);
            simulation.advance();
            let leads = |node: &super::harness::Node| {
                node.core.as_ref().is_some_and(|core| core.role() == Role::Leader)
            };
            for at in 0..voters {
                if leads(&simulation.cluster.nodes[at]) && simulation.dice.one_in(20) {
                    simulation.cluster.feed(at, Event::Propose { entries: vec![(EntryKind::Records, 1, 9)] });
                }
            }
        }
        let now = simulation.cluster.checker.committed.len();
        match second {
            0 => start = term(&simulation),
            _ if now == committed => idle += 1,
            _ => {}
        }
        committed = now;
    }
    (term(&simulation) - start, idle)
}

fn leader_of(simulation: &Simulation) -> Option<usize> {
    let nodes = simulation.cluster.nodes.iter();
    let leads = |core: &crate::raftlog::core::Core| core.role() == Role::Leader;
    nodes.enumerate().filter(|(_, n)| n.core.as_ref().is_some_and(leads)).map(|(at, _)| at).next_back()
}

#[test]
pub(crate) fn bad_links_terms_stay_bounded_and_commits_go_on() {
    let quiet = minute(3, |_, _| Vec::new());
    assert_eq!(quiet, (0, 0), "nothing is wrong, nothing changes");
    // A follower that sends and hears nothing; one that hears and cannot answer; one that does neither.
    assert_eq!(minute(3, |_, _| vec![(0, 2), (1, 2)]), (0, 0), "deaf follower");
    assert_eq!(minute(3, |_, _| vec![(2, 0), (2, 1)]), (0, 0), "mute follower");
    assert_eq!(minute(5, |_, _| vec![(4, 0), (4, 1), (0, 3), (1, 3)]), (0, 0), "one deaf, one mute");
    // A link between the leader and one follower that is there every other 700 ms.
    let flaps = |now: u64| now / 700 % 2 == 1;
    let (terms, idle) = minute(3, |now, _| if flaps(now) { vec![(0, 2), (2, 0)] } else { Vec::new() });
    assert_eq!((terms, idle), (0, 0), "flapping follower");
    // Followers that cannot speak with each other: whoever leads sees a majority (Cloudflare, 2020).
    let (terms, idle) = minute(3, |_, _| vec![(1, 2), (2, 1)]);
    assert_eq!((terms, idle), (0, 0), "broken triangle");
    // Whoever leads is heard by nobody for two seconds of every ten.
    let (terms, idle) = minute(3, |now, s| match (leader_of(s), now % 10_000 > 8_000) {
        (Some(at), true) => (0..3).map(|other| (at, other)).collect(),
        _ => Vec::new(),
    });
    assert!(terms <= 18 && idle <= 18, "mute leaders: {terms} terms, {idle} s without a commit");
    // Whoever leads hears nobody, likewise.
    let (terms, idle) = minute(3, |now, s| match (leader_of(s), now % 10_000 > 8_000) {
        (Some(at), true) => (0..3).map(|other| (other, at)).collect(),
        _ => Vec::new(),
    });
    assert!(terms <= 18 && idle <= 18, "deaf leaders: {terms} terms, {idle} s without a commit");
}

/// A server that comes back with a very high term (an old program, a restored disk) disturbs once (R12, R14).
#[test]
fn disruptive_high_term_server_costs_one_election() {
    let mut simulation = Simulation::calm(3);
    while simulation.cluster.now < 3_000 {
        simulation.advance();
    }
    simulation.cluster.crash(2, 0);
    simulation.syncs[2] = None;
    simulation.cluster.nodes[2].disk.hard.epoch.term = Term(5_000);
    simulation.cluster.start(2, |_| {});
    let elections = simulation.cluster.checker.elections;
    while simulation.cluster.now < 30_000 {
        simulation.advance();
    }
    assert!(simulation.cluster.checker.elections <= elections + 2, "more than a disturbance");
    let terms: Vec<_> = simulation.cluster.nodes.iter().map(|node| node.disk.hard.epoch.term.0).collect();
    assert!(terms.iter().all(|term| (5_000..5_004).contains(term)), "{terms:?}");
    assert!(leader_of(&simulation).is_some());
}
