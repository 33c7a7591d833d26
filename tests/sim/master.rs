//! A stand-in for the controllers where group members and generations are concerned: it gives every order that the rules allow, to
//! whoever happens to be up, in any order, some of them twice or far too late; and it brings to an end what it began.
//!
//! It is the external master of docs/safety.md F2: what it decides it decides once, by the product's own rule
//! (`raftlog::generation`), from seals that replicas reported as durable. It keeps what the controller log keeps: who is placed where,
//! and one decision per generation. The orders go to the product's shards and engines. Not here: what must hold (`check::members`).

use crate::client::Work;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::{Event, MS, Time, World};
use kontiki::broker::shard::Input;
use kontiki::raftlog::core::{ChangeRefusal, GenerationEffect, Role};
use kontiki::raftlog::engine::{ChangeError, GroupEvent};
use kontiki::raftlog::generation::{Decision, SealReport, decide};
use kontiki::raftlog::message::Configuration;
use kontiki::segment::{Generation, GroupId, LogId, NodeId, ReplicaId, Term};
use std::collections::BTreeMap;

/// Assignments begin above every number that the controller log of a run comes to.
const ASSIGNMENTS: u64 = 1 << 50;
/// How often what was begun is brought nearer to its end once everything is healed.
const SETTLE_EVERY: Time = 100 * MS;
/// So long without a leader, everything being healed, and the controllers look whether a disk is missing.
const LEADERLESS: Time = 3_000 * MS;

/// What is known and decided of one group.
#[derive(Default)]
struct Book {
    /// Replica of each node, where it is another one than the topic's records say.
    placed: BTreeMap<usize, ReplicaId>,
    reports: BTreeMap<(Generation, ReplicaId), SealReport>,
    decisions: Vec<Decision>,
    /// Highest term anybody was seen to lead in.
    recorded: Term,
    /// By node and process: how many decisions it was told.
    told: BTreeMap<(usize, u64), usize>,
    /// The only node that is to be sealed, and since when: the others go on without it, and die.
    lonely: Option<(usize, Time)>,
    /// Since when nobody leads, once everything is healed.
    leaderless: Option<Time>,
}

impl Book {
    fn generation(&self) -> Generation {
        Generation(self.decisions.len() as u64)
    }

    fn is_under_way(&self) -> bool {
        self.reports.keys().any(|(of, _)| *of == self.generation())
    }

    fn may_lose(&self) -> bool {
        self.decisions.iter().any(|decision| !decision.opening.lossless)
    }
}

/// The stand-in.
pub struct Master {
    rng: Rng,
    is_on: bool,
    settles: bool,
    assignments: u64,
    plans: u64,
    books: BTreeMap<GroupId, Book>,
}

impl Master {
    pub fn new(plan: &Plan) -> Self {
        let rng = Rng::new(plan.seed ^ 0x0ade_5700_0000);
        Self { rng, is_on: false, settles: false, assignments: ASSIGNMENTS, plans: 0, books: BTreeMap::new() }
    }
}

/// What a leader's word is on its group.
struct Led {
    node: usize,
    current: Configuration,
    id: LogId,
    generation: Generation,
    /// In force for good, and not joint.
    is_settled: bool,
    /// Members that may become voters.
    ready: Vec<ReplicaId>,
}

impl World {
    /// Orders begin.
    pub fn begin_orders(&mut self) {
        self.master.is_on = true;
        self.after(100 * MS, Event::Master);
    }

    /// No new orders; what was begun is brought to its end, and every group gets its voters back.
    pub fn settle_orders(&mut self) {
        self.master.settles = true;
        if !std::mem::replace(&mut self.master.is_on, true) {
            self.after(MS, Event::Master);
        }
    }

    pub fn on_master(&mut self) {
        let wait = if self.master.settles { SETTLE_EVERY } else { self.master.rng.range(40 * MS, 500 * MS) };
        self.after(wait, Event::Master);
        let groups = self.ordered_groups();
        for group in &groups {
            self.look_after(*group);
        }
        if self.master.settles {
            for group in groups {
                self.settle(group);
            }
            return;
        }
        if self.plan.menu.members {
            // Now and then in all groups at once, as when a broker dies.
            let every = self.master.rng.chance(100);
            let one = self.master.rng.pick(&groups);
            let chosen = if every { groups.clone() } else { one.into_iter().collect() };
            let changed = chosen.into_iter().filter(|group| self.change_members(*group)).count();
            if changed > 1 {
                self.marks.hit("members of several groups changed at once");
            }
        }
        if self.plan.menu.generations {
            for group in groups {
                self.order_generation(group);
            }
        }
    }

    /// Groups of topics that are there.
    fn ordered_groups(&self) -> Vec<GroupId> {
        self.check.logs.keys().copied().filter(|g| g.0 > 0 && !self.check.is_deleted(*g)).collect()
    }

    /// A process that can be given orders: it runs, is not stopped, and its storage works.
    fn takes_orders(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.paused.is_none()
            && !node.fs.is_off()
            && node.process.as_ref().is_some_and(|p| {
                !p.failed && p.shard.status().storage_failure.is_none() && p.shard.status().registered
            })
    }

    /// Has the shard take note of what an order did to its engine.
    fn note_orders(&mut self, n: usize) {
        let now = self.nodes[n].now(self.time);
        if let Some(p) = &mut self.nodes[n].process {
            p.shard.handle(now, Input::Hints(Vec::new()));
        }
        self.wake(n);
    }

    /// What the controllers hear and repeat: terms, placements, seals.
    fn look_after(&mut self, group: GroupId) {
        for n in 0..self.nodes.len() {
            if !self.takes_orders(n) {
                continue;
            }
            self.repeat_placement(n, group);
            let Some(p) = self.nodes[n].process.as_mut() else { continue };
            let Some(core) = p.shard.engine().core(group) else { continue };
            let (leads, hard, replica) = (core.role() == Role::Leader, core.hard_state(), core.replica());
            let book = self.master.books.entry(group).or_default();
            if leads {
                book.recorded = book.recorded.max(hard.epoch.term);
            }
            let generation = book.generation();
            let is_sealed = hard.sealed.is_some() && hard.epoch.generation == generation;
            if is_sealed && !book.reports.contains_key(&(generation, replica)) {
                self.ask_report(n, group, generation);
            }
        }
    }

    fn repeat_placement(&mut self, n: usize, group: GroupId) {
        let book = self.master.books.entry(group).or_default();
        let Some(replica) = book.placed.get(&n).copied() else { return };
        let generation = book.generation();
        let now = self.nodes[n].now(self.time);
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        if replica.directory != p.directory {
            return;
        }
        let before = p.shard.engine().core(group).map(|core| core.replica());
        if before == Some(replica) {
            return;
        }
        let done = p.shard.place(now, group, replica, generation);
        if done {
            let text = || format!("node {} holds {replica} of group {group} from now on", n + 1);
            self.trace.note("placed", n as u64, group.0, text);
            self.check.placed(group, n, replica);
        }
        self.wake(n);
        self.tell_all(n, group);
    }

    /// A sealed replica says what it ends with, as soon as that is durable.
    fn ask_report(&mut self, n: usize, group: GroupId, generation: Generation) {
        let now = self.nodes[n].now(self.time);
        let plan = self.master.plans;
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        // What waits is the shard's; what comes of asking a sealed replica again is its report and nothing else.
        p.shard.handle(now, Input::Hints(Vec::new()));
        p.shard.engine().seal(now.mono, group, generation, plan);
        let mut events = Vec::new();
        p.shard.engine().take_events(&mut events);
        for event in events {
            let GroupEvent::Generation { what: GenerationEffect::Sealed(report), .. } = event else {
                panic!("a sealed replica of group {group} answers another seal with {event:?}");
            };
            self.trace.note("sealed", n as u64, group.0, || format!("node {} reports {report:?}", n + 1));
            self.marks.hit("generation sealed");
            if report.configuration.is_joint() {
                self.marks.hit("sealed with a joint configuration");
            }
            self.check.reported(group, &report);
            self.probe_seal(n, group, &report);
            if let Some(book) = self.master.books.get_mut(&group) {
                book.reports.insert((report.generation, report.replica), report);
            }
        }
        self.wake(n);
    }

    // Members

    /// The leader of a group as far as it can be given orders.
    fn led(&mut self, group: GroupId) -> Option<Led> {
        let n = self.leader_of(group)?;
        if !self.takes_orders(n) {
            return None;
        }
        let engine = self.nodes[n].process.as_mut()?.shard.engine();
        let progress = engine.progress(group);
        let core = engine.core(group)?;
        let (configuration, id) = core.configuration();
        Some(Led {
            node: n,
            current: configuration.clone(),
            id,
            generation: core.epoch().generation,
            is_settled: core.is_established() && id.index <= core.commit() && !configuration.is_joint(),
            ready: progress.iter().filter(|p| p.is_caught_up).map(|p| p.replica).collect(),
        })
    }

    /// Whether this is the replica that its node holds, on the disk it was placed on.
    fn is_there(&self, group: GroupId, replica: ReplicaId) -> bool {
        let n = crate::net::index_of(replica.node);
        let node = &self.nodes[n];
        let placed = self.master.books.get(&group).and_then(|book| book.placed.get(&n));
        node.refused.is_none()
            && node.directory.is_none_or(|directory| directory == replica.directory)
            && placed.is_none_or(|placed| *placed == replica)
    }

    /// Whether a generation was decided that only this node can open.
    pub fn awaits_survivor(&mut self, n: usize) -> bool {
        self.ordered_groups().into_iter().any(|group| {
            let Some(decision) = self.master.books.get(&group).and_then(|book| book.decisions.last()) else {
                return false;
            };
            let generation = decision.generation;
            if crate::net::index_of(decision.opening.survivor.node) != n {
                return false;
            }
            let core = |node: &mut crate::node::Node| {
                let core = node.process.as_mut()?.shard.engine().core(group)?;
                Some((core.epoch().generation, core.configuration().0.voters.len()))
            };
            // Open, and no longer by this node alone.
            !self.nodes.iter_mut().filter_map(core).any(|(g, voters)| g == generation && voters > 1)
        })
    }

    /// A new id for this node's replica of a group, if nothing stands against it: the node is no member.
    fn place_anew(&mut self, group: GroupId, n: usize) -> Option<ReplicaId> {
        let directory = self.nodes[n].process.as_ref()?.directory;
        self.master.assignments += 1;
        let replica =
            ReplicaId { node: NodeId(n as i32 + 1), assignment: self.master.assignments, directory };
        let book = self.master.books.entry(group).or_default();
        book.placed.insert(n, replica);
        // Whatever an older id of this node said is gone with it.
        book.reports.retain(|(_, of), _| of.node != replica.node);
        self.repeat_placement(n, group);
        Some(replica)
    }

    /// A node without a member that can take one.
    fn some_place(&mut self, current: &Configuration) -> Option<usize> {
        let taken = |n: usize| current.members().any(|r| crate::net::index_of(r.node) == n);
        let free: Vec<usize> =
            self.plan.brokers().into_iter().filter(|n| !taken(*n) && self.takes_orders(*n)).collect();
        self.master.rng.pick(&free)
    }

    /// Whether voters whose disk may hold damage that nobody has met yet stay a minority that the others can do without.
    fn spares_damage(&self, voters: &[ReplicaId]) -> bool {
        let damaged = voters.iter().filter(|r| self.nodes[crate::net::index_of(r.node)].damaged).count();
        damaged == 0 || voters.len() - damaged > voters.len() / 2
    }

    /// Asks for other members of one group; true if a change was appended.
    fn change_members(&mut self, group: GroupId) -> bool {
        let Some(led) = self.led(group) else { return false };
        let (mut voters, mut learners) = (led.current.voters.clone(), led.current.learners.clone());
        let ready = |r: &&ReplicaId| led.ready.contains(*r);
        let rng = &mut self.master.rng;
        let absent = voters.iter().copied().find(|r| !self.nodes[crate::net::index_of(r.node)].is_up());
        match rng.below(16) {
            0..=2 => {
                if led.is_settled
                    && let Some(n) = self.some_place(&led.current)
                {
                    learners.extend(self.place_anew(group, n));
                }
            }
            3..=5 => {
                // Grow: everyone who is ready.
                voters.extend(learners.iter().filter(ready).copied());
                learners.retain(|r| !voters.contains(r));
            }
            6..=8 => {
                // Shrink: whoever is down first.
                let gone = absent.or_else(|| rng.pick(&voters));
                voters.retain(|r| voters_len_one(&led.current) || Some(*r) != gone);
            }
            9 => {
                let gone = rng.pick(&voters);
                voters.retain(|r| Some(*r) != gone);
                learners.extend(gone);
            }
            10 => {
                let gone = rng.pick(&learners);
                learners.retain(|r| Some(*r) != gone);
            }
            11..=12 => {
                // Replace: one leaves, one comes, in one change.
                let comes = learners.iter().copied().find(|r| ready(&r));
                if let Some(comes) = comes {
                    let gone = absent.or_else(|| rng.pick(&voters));
                    voters.retain(|r| Some(*r) != gone);
                    voters.push(comes);
                    learners.retain(|r| *r != comes);
                }
            }
            13 => {
                // Down to one, as when members die one after the other.
                let stays = led.current.voters.iter().find(|r| r.node.0 as usize == led.node + 1);
                voters = stays.copied().into_iter().collect();
                learners.extend(led.current.voters.iter().filter(|r| Some(*r) != stays).copied());
            }
            _ => return self.ask_nonsense(group, &led),
        }
        let same = voters == led.current.voters && learners == led.current.learners;
        if same || !self.spares_damage(&voters) {
            return false;
        }
        self.ask_change(group, &led, led.id, voters, learners)
    }

    /// Changes that must be refused.
    fn ask_nonsense(&mut self, group: GroupId, led: &Led) -> bool {
        let mut voters = led.current.voters.clone();
        let mut learners = led.current.learners.clone();
        let mut expected = led.id;
        match self.master.rng.below(5) {
            0 => expected.index = expected.index.next(),
            1 => voters.clear(),
            2 => {
                // Two of one node.
                let mut twin = voters[0];
                twin.assignment += 1;
                learners.push(twin);
            }
            3 => voters.extend(led.current.retired.first().copied()),
            _ => {
                // A stranger nobody has heard of votes at once.
                if let Some(n) = self.some_place(&led.current) {
                    let directory = self.nodes[n].directory.unwrap_or(0);
                    voters.push(ReplicaId { node: NodeId(n as i32 + 1), assignment: u64::MAX, directory });
                }
            }
        }
        let same = voters == led.current.voters && learners == led.current.learners && expected == led.id;
        if same {
            return false;
        }
        let done = self.ask_change(group, led, expected, voters, learners);
        assert!(!done, "group {group} took a change of members that no rule allows");
        false
    }

    fn ask_change(
        &mut self,
        group: GroupId,
        led: &Led,
        expected: LogId,
        voters: Vec<ReplicaId>,
        learners: Vec<ReplicaId>,
    ) -> bool {
        let now = self.nodes[led.node].now(self.time);
        let Some(p) = self.nodes[led.node].process.as_mut() else { return false };
        let asked =
            p.shard.engine().change_membership(now.mono, group, expected, voters.clone(), learners.clone());
        self.note_orders(led.node);
        self.trace.note("members", led.node as u64, group.0, || {
            let names = |of: &[ReplicaId]| of.iter().map(|r| r.node.0).collect::<Vec<_>>();
            let (from, learns) = (names(&led.current.voters), names(&led.current.learners));
            format!(
                "group {group}: {from:?} ({learns:?}) to {:?} ({:?}) at {expected}: {asked:?}",
                names(&voters),
                names(&learners)
            )
        });
        match asked {
            Ok(_) => {
                self.faults.count("members changed");
                true
            }
            Err(ChangeError::Refused(reason)) => {
                self.marks.hit(match reason {
                    ChangeRefusal::NotLeader | ChangeRefusal::Transferring => {
                        "change refused by a leader on its way out"
                    }
                    ChangeRefusal::Stale { .. } => "change refused: another configuration is in force",
                    ChangeRefusal::Pending => "change refused: an earlier one is not finished",
                    ChangeRefusal::Invalid(_) => "change refused: no group can have such members",
                    ChangeRefusal::Retired { .. } => "change refused: a former id",
                    ChangeRefusal::NotCaughtUp { .. } => "change refused: not caught up",
                });
                false
            }
            Err(_) => false,
        }
    }

    // Generations

    /// The controllers' part of a generation change, a step at a time. Nothing it does looks at who is really alive, unless
    /// something may be lost.
    fn order_generation(&mut self, group: GroupId) {
        let book = self.master.books.entry(group).or_default();
        let (generation, under_way, lonely) = (book.generation(), book.is_under_way(), book.lonely);
        if let Some((n, since)) = lonely {
            return self.order_lonely(group, generation, n, since);
        }
        let rng = &mut self.master.rng;
        if self.plan.unclean && !under_way && rng.chance(12) {
            let n = rng.below(self.plan.brokers_count as u64) as usize;
            self.master.books.entry(group).or_default().lonely = Some((n, self.time));
        }
        let rng = &mut self.master.rng;
        if rng.chance(if under_way { 300 } else { 25 }) {
            // An old plan now and then, which nobody follows any more.
            let old = rng.chance(120).then(|| Generation(rng.below(generation.0 + 1)));
            self.master.plans += 1;
            for n in 0..self.nodes.len() {
                if self.master.rng.chance(500) {
                    self.seal(n, group, old.unwrap_or(generation));
                }
            }
        }
        if under_way && self.master.rng.chance(300) {
            let deaf = self.master.rng.chance(250);
            self.decide(group, deaf);
        }
        let count = self.master.books.entry(group).or_default().decisions.len() as u64;
        if count > 0 && self.master.rng.chance(400) {
            let (n, which) = (self.master.rng.below(self.nodes.len() as u64), self.master.rng.below(count));
            let newest = self.master.rng.chance(700);
            self.tell(n as usize, group, if newest { count - 1 } else { which } as usize);
        }
    }

    /// One replica is sealed, the others commit without it, then they die: it survives with what it has.
    fn order_lonely(&mut self, group: GroupId, generation: Generation, n: usize, since: Time) {
        let sealed = self.master.books.get(&group).is_some_and(Book::is_under_way);
        if !sealed && self.time < since + 3_000 * MS {
            return self.seal(n, group, generation);
        }
        if self.time < since + 1_000 * MS {
            return;
        }
        let survivor = self.nodes[n].process.as_mut().and_then(|p| p.shard.engine().core(group));
        let replica = survivor.map(|core| core.replica());
        let reports = self.master.books.get(&group).map(|book| book.reports.clone()).unwrap_or_default();
        if replica.is_some_and(|replica| reports.contains_key(&(generation, replica)))
            && self.takes_orders(n)
            && !self.nodes[n].damaged
        {
            for other in (0..self.nodes.len()).filter(|other| *other != n) {
                let holds = |node: &mut crate::node::Node| {
                    node.process.as_mut().is_some_and(|p| p.shard.engine().core(group).is_some())
                };
                if holds(&mut self.nodes[other]) {
                    let power = self.plan.menu.power && self.master.rng.chance(500);
                    self.kill(other, power);
                }
            }
            self.decide(group, false);
        }
        if let Some(book) = self.master.books.get_mut(&group) {
            book.lonely = None;
        }
    }

    fn seal(&mut self, n: usize, group: GroupId, generation: Generation) {
        if !self.takes_orders(n) {
            return;
        }
        let now = self.nodes[n].now(self.time);
        let plan = self.master.plans;
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        if !p.shard.engine().seal(now.mono, group, generation, plan) {
            return;
        }
        self.faults.count("seal ordered");
        self.trace.note("seal", n as u64, group.0, || {
            format!("node {} is to seal group {group} in {generation:?}", n + 1)
        });
        self.note_orders(n);
    }

    /// Decides the next generation from the seals that were heard of, if the rules allow it. `deaf`: some reports were lost.
    fn decide(&mut self, group: GroupId, deaf: bool) -> bool {
        let book = self.master.books.entry(group).or_default();
        let (generation, recorded) = (book.generation(), book.recorded);
        let all: Vec<SealReport> =
            book.reports.values().filter(|report| report.generation == generation).cloned().collect();
        let mut heard = Vec::new();
        for report in all {
            let n = crate::net::index_of(report.replica.node);
            // Damage that nobody has met yet would make it a survivor that cannot serve.
            let lost = deaf && self.master.rng.chance(250);
            if !lost && !self.nodes[n].damaged && self.is_there(group, report.replica) {
                heard.push(report);
            }
        }
        let Ok(decision) = decide(generation, &heard, recorded) else { return false };
        let opening = decision.opening;
        if !opening.lossless && !self.may_lose(group, &heard, opening.survivor) {
            return false;
        }
        let survivor = crate::net::index_of(opening.survivor.node);
        self.trace.note("decided", survivor as u64, group.0, || format!("group {group}: {decision:?}"));
        if let Some(book) = self.master.books.get_mut(&group) {
            book.lonely = None;
        }
        self.marks.hit(match opening.lossless {
            true => "generation decided without loss",
            false => "generation decided that may lose something",
        });
        self.faults.count("generation decided");
        let losses = self.check.losses(group);
        self.check.decided(group, &decision, &mut self.nodes, &mut self.marks);
        if let Some(book) = self.master.books.get_mut(&group) {
            book.decisions.push(decision);
        }
        if self.check.losses(group) > losses {
            self.forget_lost(group);
        } else if !self.master.settles && self.plan.menu.kills && self.master.rng.chance(80) {
            // The survivor goes down between the decision and its taking over.
            self.marks.hit("survivor killed between decision and take-over");
            self.kill(survivor, self.plan.menu.power);
        }
        true
    }

    /// The operator's part (P4): whoever is not sealed is really dead, and learns of the generation before it may vote again (F16).
    fn may_lose(&mut self, group: GroupId, heard: &[SealReport], survivor: ReplicaId) -> bool {
        let lonely = self.master.books.get(&group).is_some_and(|book| book.lonely.is_some());
        if !self.plan.unclean || !(lonely || self.master.rng.chance(300)) {
            return false;
        }
        let mut survives = false;
        for node in &mut self.nodes {
            let Some(p) = &mut node.process else { continue };
            let Some(core) = p.shard.engine().core(group) else { continue };
            if !heard.iter().any(|report| report.replica == core.replica()) {
                return false;
            }
            survives |= core.replica() == survivor && !node.damaged && !p.failed && !node.fs.is_off();
        }
        survives
    }

    fn tell(&mut self, n: usize, group: GroupId, which: usize) {
        let now = self.nodes[n].now(self.time);
        let stopped = self.nodes[n].paused.is_some() || self.nodes[n].fs.is_off();
        let Some(decision) =
            self.master.books.get(&group).and_then(|book| book.decisions.get(which)).cloned()
        else {
            return;
        };
        let generation = decision.generation;
        let Some(p) = self.nodes[n].process.as_mut().filter(|p| !stopped && !p.failed) else { return };
        let Some(before) = p.shard.engine().core(group).map(|core| core.hard_state()) else { return };
        p.shard.engine().decide(now.mono, group, decision);
        let after = p.shard.engine().core(group).map(|core| (core.epoch(), core.role()));
        self.note_orders(n);
        if let Some(book) = self.master.books.get_mut(&group) {
            book.told.insert((n, self.nodes[n].life), which + 1);
        }
        let Some((epoch, role)) = after else { return };
        if epoch.generation > before.epoch.generation {
            self.trace.note("reopened", n as u64, group.0, || {
                format!("node {} is in {epoch} of group {group} as {role:?}", n + 1)
            });
            self.marks.hit(if role == Role::Leader { "survivor took over" } else { "generation learnt" });
        } else if generation <= before.epoch.generation {
            self.marks.hit("old decision changed nothing");
        } else {
            self.marks.hit("take-over refused");
        }
    }

    fn tell_all(&mut self, n: usize, group: GroupId) {
        let count = self.master.books.get(&group).map_or(0, |book| book.decisions.len());
        (0..count).for_each(|which| self.tell(n, group, which));
    }

    /// A process took replicas up: what was decided of them is known to it before it may vote (safety.md F16), save for decisions
    /// that lose nothing, which may come late.
    pub fn tell_decisions(&mut self, n: usize) {
        let life = self.nodes[n].life;
        let groups: Vec<(GroupId, usize, bool)> = self
            .master
            .books
            .iter()
            .filter(|(_, book)| !book.decisions.is_empty())
            .map(|(group, book)| {
                let told = book.told.get(&(n, life)).copied().unwrap_or(0);
                (*group, told, book.may_lose())
            })
            .collect();
        for (group, told, may_lose) in groups {
            let is_here =
                self.nodes[n].process.as_mut().is_some_and(|p| p.shard.engine().core(group).is_some());
            if told == 0 && is_here && (may_lose || self.master.rng.chance(700)) {
                self.tell_all(n, group);
            }
        }
    }

    /// Clients hear of a loss.
    pub fn forget_lost(&mut self, group: GroupId) {
        for client in &mut self.clients {
            if let Work::Producer(producer) = &mut client.work {
                producer.hear_of_loss(group, |id| self.check.next_sequence(group, id));
            }
        }
    }

    // The end

    /// One group, a step nearer to where it shall be.
    fn settle(&mut self, group: GroupId) {
        let generation = self.master.books.entry(group).or_default().generation();
        let (mut sealed, mut open) = (0, Vec::new());
        for n in 0..self.nodes.len() {
            if !self.takes_orders(n) {
                continue;
            }
            let Some(p) = self.nodes[n].process.as_mut() else { continue };
            let Some(core) = p.shard.engine().core(group) else { continue };
            let hard = core.hard_state();
            match (hard.epoch.generation == generation, hard.sealed.is_some()) {
                (false, _) => self.tell_all(n, group),
                (true, true) => sealed += 1,
                (true, false) => open.push(n),
            }
            // The survivor may have lost its entry in a crash: it takes over again when it is told again.
            self.tell_again(n, group);
        }
        if sealed > 0 {
            // A generation that was sealed anywhere ends.
            if open.is_empty() {
                self.decide(group, false);
            }
            return open.into_iter().for_each(|n| self.seal(n, group, generation));
        }
        if self.led(group).is_some() {
            self.master.books.entry(group).or_default().leaderless = None;
            return self.restore_members(group);
        }
        // Of two voters one disk is lost: nothing else is, but only a new generation brings the group back (P5).
        let time = self.time;
        let since = *self.master.books.entry(group).or_default().leaderless.get_or_insert(time);
        if time - since > LEADERLESS && self.has_lost_voters(group) {
            self.marks.hit("generation change after a voter's disk was lost");
            open.into_iter().for_each(|n| self.seal(n, group, generation));
        }
    }

    /// Whether somebody's newest configuration has a voter that is not there any more.
    fn has_lost_voters(&mut self, group: GroupId) -> bool {
        let core = |node: &mut crate::node::Node| {
            let core = node.process.as_mut()?.shard.engine().core(group)?;
            Some(core.configuration().0.clone())
        };
        let known: Vec<Configuration> = self.nodes.iter_mut().filter_map(core).collect();
        known.iter().flat_map(|c| c.members()).any(|r| !self.is_there(group, r))
    }

    fn tell_again(&mut self, n: usize, group: GroupId) {
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        let Some(core) = p.shard.engine().core(group) else { return };
        if core.leader().is_none() && self.master.rng.chance(100) {
            self.tell_all(n, group);
        }
    }

    /// As many voters as the topic was made with, all of them there.
    fn restore_members(&mut self, group: GroupId) {
        let Some(led) = self.led(group).filter(|led| led.is_settled) else { return };
        let wanted = self.replication_of(group);
        let there = |r: &ReplicaId| self.is_there(group, *r);
        let (mut voters, mut learners) = (led.current.voters.clone(), led.current.learners.clone());
        let missing = led.current.members().any(|r| !there(&r));
        let wiped = led.current.members().any(|r| {
            let directory = self.nodes[crate::net::index_of(r.node)].directory;
            directory.is_some_and(|directory| directory != r.directory)
        });
        if missing {
            voters.retain(there);
            learners.retain(there);
        } else if learners.iter().any(|r| led.ready.contains(r)) {
            voters.extend(learners.iter().filter(|r| led.ready.contains(r)));
            learners.retain(|r| !voters.contains(r));
        } else if voters.len() + learners.len() < wanted {
            let Some(n) = self.some_place(&led.current) else { return };
            learners.extend(self.place_anew(group, n));
        }
        let same = voters == led.current.voters && learners == led.current.learners;
        if !same && self.ask_change(group, &led, led.id, voters, learners) && wiped {
            self.marks.hit("wiped replica replaced");
        }
    }

    fn replication_of(&self, group: GroupId) -> usize {
        let images = self.nodes.iter().filter_map(|node| node.process.as_ref()).map(|p| &p.image);
        let sized = images.filter_map(|image| image.group(group));
        sized.map(|(_, _, partition)| partition.replicas.len()).max().unwrap_or(0)
    }

    /// Whether every group has its members back and no order is under way.
    pub fn is_settled(&mut self) -> bool {
        self.ordered_groups().into_iter().all(|group| {
            let wanted = self.replication_of(group);
            let Some(led) = self.led(group) else { return false };
            // The product's own controllers keep no book here: all have to be where their leader is.
            let generation = match self.plan.shrink {
                true => led.generation,
                false => self.master.books.get(&group).map_or(Generation(0), Book::generation),
            };
            let current = led.current.members().all(|r| {
                let p = self.nodes[crate::net::index_of(r.node)].process.as_mut();
                let core = p.and_then(|p| p.shard.engine().core(group));
                core.is_some_and(|core| core.replica() == r && core.epoch().generation == generation)
            });
            led.is_settled && current && led.current.learners.is_empty() && led.current.voters.len() >= wanted
        })
    }

    /// What orders are still open, for the report of a run that got stuck.
    pub fn describe_orders(&mut self) -> String {
        let mut text = String::new();
        for group in self.ordered_groups() {
            let Some(book) = self.master.books.get(&group) else { continue };
            text += &format!(
                "orders of group {group}: generation {:?}, reports {:?}, placed {:?}\n",
                book.generation(),
                book.reports.keys().collect::<Vec<_>>(),
                book.placed
            );
        }
        text
    }
}

fn voters_len_one(configuration: &Configuration) -> bool {
    configuration.voters.len() == 1
}
