//! The nemesis: what goes wrong, when, and how it is taken back. It keeps within what the product promises to survive: damage of
//! disks on one node of a run, everything else anywhere and at any time.
//!
//! Changes of members and generations go on beside the faults: `master`.

use crate::client::{Ask, Work};
use crate::plan::{Menu, Plan};
use crate::rng::Rng;
use crate::world::{Event, MS, SECOND, Time, World};
use kontiki::ctl::command::{Command as CtlCommand, CreateTopic};
use kontiki::raftlog::generation::SealReport;
use kontiki::raftlog::message::Configuration;
use kontiki::segment::fs::sim::SimFs;
use kontiki::segment::{Doubt, GroupId, Opened, RecoveredGroup, ReplicaId};
use std::collections::BTreeMap;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Kill,
    KillLeader,
    KillAll,
    Power,
    PowerAll,
    /// Ends inside one of the next changes of the disk.
    Trap,
    Pause,
    Isolate,
    Split,
    OneWay,
    CutPair,
    Flap,
    /// A leader stays with its clients, away from the others.
    LeaderWithClients,
    Reset,
    SlowDisk,
    FailSync,
    FailWrite,
    FailRead,
    FullDisk,
    Flip,
    Misdirect,
    Wipe,
    WallJump,
    Stop,
    /// What an administrator does: topics, records deleted, leaders moved.
    Admin,
    /// Partitions move to other brokers, or back.
    Move,
}

/// What is to be taken back.
#[derive(Clone, Debug)]
enum Undo {
    Unblock(Vec<(usize, usize)>),
    FlapAgain {
        pairs: Vec<(usize, usize)>,
        left: u64,
        blocked: bool,
    },
    Speed(usize),
    Space(usize),
    Reads(usize),
    /// Whoever watches the process finds its storage failed.
    Replace(usize),
    EndStop(usize),
}

/// The nemesis.
pub struct Faults {
    pub rng: Rng,
    is_on: bool,
    orders: Vec<Order>,
    undo: BTreeMap<u64, Undo>,
    next: u64,
    /// Faults injected, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// The node whose disk may be damaged, and how often it still may.
    victim: usize,
    damages: u64,
    admin: Option<usize>,
    topics: u64,
    probes: u64,
    seal_probes: u64,
    started: bool,
}

fn orders(menu: &Menu) -> Vec<Order> {
    let mut all = Vec::new();
    let mut add = |on: bool, orders: &[Order]| {
        if on {
            all.extend_from_slice(orders);
        }
    };
    use Order::*;
    add(menu.kills, &[Kill, Kill, KillLeader, KillLeader, KillAll, Trap]);
    add(menu.power, &[Power, Power, PowerAll, Trap, Trap]);
    add(menu.pauses, &[Pause, Pause]);
    add(menu.partitions, &[Isolate, Split, CutPair, LeaderWithClients]);
    add(menu.one_way, &[OneWay, OneWay]);
    add(menu.flapping, &[Flap]);
    add(menu.resets, &[Reset, Reset, Reset]);
    add(menu.slow_disks, &[SlowDisk, SlowDisk]);
    add(menu.io_errors, &[FailSync, FailSync, FailWrite]);
    add(menu.full_disks, &[FullDisk]);
    add(menu.damage, &[Flip, Flip, Misdirect, Wipe, FailRead]);
    add(menu.clocks, &[WallJump]);
    add(menu.stops, &[Stop]);
    add(menu.admin, &[Admin, Admin, Admin]);
    add(menu.moves, &[Move, Move, Move]);
    all
}

impl Faults {
    pub fn new(plan: &Plan, mut rng: Rng) -> Self {
        // Damage where the others are a majority of every group they share with it.
        let mut places = plan.brokers();
        if plan.controllers_count >= 3 && !plan.combined {
            places.extend(plan.controllers());
        }
        let victim = rng.pick(&places).unwrap_or(0);
        let damages = 1 + rng.below(3);
        Self {
            is_on: false,
            orders: orders(&plan.menu),
            undo: BTreeMap::new(),
            next: 0,
            counts: BTreeMap::new(),
            victim,
            damages,
            admin: None,
            topics: 0,
            probes: 0,
            seal_probes: 0,
            started: false,
            rng,
        }
    }

    /// Counts an injected fault.
    pub fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

impl World {
    /// The part with faults begins.
    pub fn begin_faults(&mut self) {
        let admin = self.add_client(Work::Manual(BTreeMap::new()));
        self.faults.admin = Some(admin);
        self.faults.is_on = true;
        self.faults.started = true;
        if !self.faults.orders.is_empty() {
            self.after(200 * MS, Event::Nemesis);
        }
        if self.plan.menu.members || self.plan.menu.generations {
            self.begin_orders();
        }
    }

    pub fn on_nemesis(&mut self) {
        if !self.faults.is_on {
            return;
        }
        let orders = self.faults.orders.clone();
        if let Some(order) = self.faults.rng.pick(&orders) {
            self.carry_out(order);
        }
        let every = self.plan.fault_every;
        let wait = self.faults.rng.range(every / 4, every * 2);
        self.after(wait, Event::Nemesis);
    }

    fn undo_later(&mut self, wait: Time, undo: Undo) {
        self.faults.next += 1;
        let order = self.faults.next;
        self.faults.undo.insert(order, undo);
        self.after(wait, Event::Undo { order });
    }

    pub fn on_undo(&mut self, order: u64) {
        if let Some(undo) = self.faults.undo.remove(&order) {
            self.take_back(undo);
        }
    }

    fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Unblock(pairs) => {
                for pair in pairs {
                    self.net.blocked.remove(&pair);
                }
                self.note_fault("network open again", 0);
            }
            Undo::FlapAgain { pairs, left, blocked } => {
                for pair in &pairs {
                    if blocked {
                        self.net.blocked.remove(pair);
                    } else if self.faults.is_on {
                        self.net.blocked.insert(*pair);
                    }
                }
                if left > 0 && self.faults.is_on {
                    let wait = self.faults.rng.range(30 * MS, 900 * MS);
                    self.undo_later(wait, Undo::FlapAgain { pairs, left: left - 1, blocked: !blocked });
                } else if !blocked {
                    for pair in &pairs {
                        self.net.blocked.remove(pair);
                    }
                }
            }
            Undo::Speed(n) => self.nodes[n].slowness = 1,
            Undo::Space(n) => self.nodes[n].fs.set_capacity(None),
            Undo::Reads(n) => self.nodes[n].fs.fail_reads_of(None),
            Undo::Replace(n) => {
                let failed = self.nodes[n].process.as_ref().is_some_and(|p| p.failed);
                if failed {
                    let power = self.faults.rng.chance(300);
                    self.end(n, power);
                    if !power {
                        self.marks.hit("restart in the same boot after failed storage");
                    }
                    let wait = self.faults.rng.range(50 * MS, 800 * MS);
                    self.start_later(n, wait);
                }
            }
            Undo::EndStop(n) => self.end_stop(n),
        }
    }

    fn note_fault(&mut self, name: &'static str, n: usize) {
        self.faults.count(name);
        self.trace.note("fault", n as u64, name.len() as u64, || format!("{name} (node {})", n + 1));
    }

    fn some_node(&mut self) -> usize {
        let count = self.nodes.len() as u64;
        self.faults.rng.below(count) as usize
    }

    /// A node that leads something.
    fn some_leader(&mut self) -> Option<usize> {
        let groups: Vec<GroupId> = self.check.logs.keys().copied().collect();
        let group = self.faults.rng.pick(&groups)?;
        self.leader_of(group)
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Kill => {
                let n = self.some_node();
                self.kill(n, false);
            }
            Order::KillLeader => {
                if let Some(n) = self.some_leader() {
                    let power = self.plan.menu.power && self.faults.rng.chance(300);
                    self.kill(n, power);
                }
            }
            Order::Power => {
                let n = self.some_node();
                self.kill(n, true);
            }
            Order::KillAll | Order::PowerAll => {
                for n in 0..self.nodes.len() {
                    self.kill(n, order == Order::PowerAll);
                }
            }
            Order::Trap => self.set_trap(),
            Order::Pause => {
                let n = self.some_node();
                let wait = self.faults.rng.range(50 * MS, 4 * SECOND);
                self.note_fault("pause", n);
                self.pause(n, wait);
            }
            Order::Isolate | Order::Split | Order::OneWay | Order::CutPair | Order::LeaderWithClients => {
                self.cut(order);
            }
            Order::Flap => {
                let pairs = self.pairs_of(Order::CutPair);
                let left = self.faults.rng.range(3, 20);
                self.note_fault("flapping link", 0);
                self.undo_later(10, Undo::FlapAgain { pairs, left, blocked: false });
            }
            Order::Reset => {
                let choice = self.faults.rng.next();
                if let Some(conn) = self.net.any(choice) {
                    self.note_fault("connection reset", 0);
                    self.break_conn(conn, true, true);
                }
            }
            Order::SlowDisk => {
                let n = self.some_node();
                self.nodes[n].slowness = self.faults.rng.range(5, 400);
                self.note_fault("slow disk", n);
                let wait = self.faults.rng.range(200 * MS, 4 * SECOND);
                self.undo_later(wait, Undo::Speed(n));
            }
            Order::FailSync | Order::FailWrite | Order::FailRead | Order::FullDisk => self.fail_disk(order),
            Order::Flip | Order::Misdirect | Order::Wipe => self.damage(order),
            Order::WallJump => {
                let n = self.some_node();
                self.nodes[n].wall_offset_ms = self.faults.rng.range(0, 3_000_000) as i64 - 1_500_000;
                self.note_fault("wall clock jumped", n);
            }
            Order::Stop => self.stop_orderly(),
            Order::Admin => self.administer(),
            Order::Move => self.move_partitions(),
        }
    }

    /// kill -9, or the power goes; it starts again after a while.
    pub fn kill(&mut self, n: usize, power: bool) {
        if self.nodes[n].process.is_none() {
            return;
        }
        self.note_fault(if power { "power cut" } else { "kill -9" }, n);
        self.end(n, power);
        let wait = match self.faults.rng.below(4) {
            0 => self.faults.rng.range(MS, 50 * MS),
            1 => self.faults.rng.range(2 * SECOND, 6 * SECOND),
            _ => self.faults.rng.range(50 * MS, 2 * SECOND),
        };
        self.start_later(n, wait);
    }

    fn set_trap(&mut self) {
        let n = self.some_node();
        let power = !self.plan.menu.kills || (self.plan.menu.power && self.faults.rng.chance(600));
        self.note_fault(if power { "power cut at a disk change" } else { "kill at a disk change" }, n);
        if self.nodes[n].process.is_some() {
            let after = self.faults.rng.below(24);
            self.nodes[n].fs.power_off_after(after);
        }
        self.nodes[n].trap = Some(power);
    }

    /// Ends nodes, clients included, that the network splits from each other.
    fn pairs_of(&mut self, order: Order) -> Vec<(usize, usize)> {
        let count = self.nodes.len();
        let all = count + self.clients.len();
        let both = |a: usize, b: usize| [(a, b), (b, a)];
        let mut pairs = Vec::new();
        match order {
            Order::Isolate => {
                let n = self.some_node();
                // With or without the clients' way to it.
                let to = if self.faults.rng.chance(500) { all } else { count };
                pairs.extend((0..to).filter(|m| *m != n).flat_map(|m| both(n, m)));
            }
            Order::LeaderWithClients => {
                let n = self.some_leader().unwrap_or(0);
                pairs.extend((0..count).filter(|m| *m != n).flat_map(|m| both(n, m)));
                for client in count..all {
                    if self.faults.rng.chance(500) {
                        pairs.extend((0..count).filter(|m| *m != n).flat_map(|m| both(client, m)));
                    }
                }
            }
            Order::Split => {
                let side: Vec<bool> = (0..all).map(|_| self.faults.rng.chance(500)).collect();
                for a in 0..count {
                    for b in a + 1..all {
                        if side[a] != side[b] {
                            pairs.extend(both(a, b));
                        }
                    }
                }
            }
            Order::OneWay => {
                let n = self.some_node();
                let inward = self.faults.rng.chance(500);
                for m in (0..count).filter(|m| *m != n) {
                    if self.faults.rng.chance(700) {
                        pairs.push(if inward { (m, n) } else { (n, m) });
                    }
                }
            }
            _ => {
                let (a, b) = (self.some_node(), self.some_node());
                if a != b {
                    pairs.extend(both(a, b));
                }
            }
        }
        pairs
    }

    fn cut(&mut self, order: Order) {
        let pairs = self.pairs_of(order);
        let name = match order {
            Order::Isolate => "node isolated",
            Order::Split => "network split",
            Order::OneWay => "one way cut",
            Order::LeaderWithClients => "leader isolated with clients",
            _ => "pair cut",
        };
        self.note_fault(name, 0);
        self.net.blocked.extend(pairs.iter().copied());
        let wait = match self.faults.rng.below(3) {
            0 => self.faults.rng.range(50 * MS, 800 * MS),
            _ => self.faults.rng.range(800 * MS, 6 * SECOND),
        };
        self.undo_later(wait, Undo::Unblock(pairs));
    }

    fn fail_disk(&mut self, order: Order) {
        let n = if order == Order::FailRead { self.faults.victim } else { self.some_node() };
        if self.nodes[n].process.is_none() {
            return;
        }
        let after = self.faults.rng.below(6);
        let fs = self.nodes[n].fs.clone();
        match order {
            Order::FailSync => {
                self.note_fault("fsync fails", n);
                fs.fail_sync_after(after);
            }
            Order::FailWrite => {
                self.note_fault("write fails", n);
                fs.fail_write_after(after);
            }
            Order::FailRead => {
                if !self.may_damage(n) {
                    return;
                }
                self.note_damaged(n);
                self.note_fault("reads fail", n);
                fs.fail_reads_of(Some("groups/"));
                let wait = self.faults.rng.range(50 * MS, SECOND);
                self.undo_later(wait, Undo::Reads(n));
            }
            _ => {
                // Mostly the reserve is left for control entries, as the product keeps it; sometimes others took that too.
                self.nodes[n].starved = self.faults.rng.chance(200);
                self.note_fault(if self.nodes[n].starved { "disk full, no reserve" } else { "disk full" }, n);
                let reserve = if self.nodes[n].starved { 0 } else { self.plan.reserve_bytes };
                let room = self.faults.rng.below(256 << 10);
                fs.set_capacity(Some(fs.used() + reserve + room));
                let wait = self.faults.rng.range(300 * MS, 4 * SECOND);
                self.undo_later(wait, Undo::Space(n));
            }
        }
    }

    /// Whoever watches the processes finds one whose storage failed, and starts it anew after a while.
    pub fn watch_failed(&mut self, n: usize) {
        let longest = if self.faults.is_on { 3 * SECOND } else { SECOND };
        let wait = self.faults.rng.range(300 * MS, longest);
        self.undo_later(wait, Undo::Replace(n));
    }

    /// Damage is for one node of a run: the victim; and only while the others are a majority of every group it votes in (P5), and
    /// no generation hangs on what it holds.
    fn may_damage(&mut self, n: usize) -> bool {
        if n != self.faults.victim || self.faults.damages == 0 {
            return false;
        }
        self.check.can_do_without(n) && !self.awaits_survivor(n)
    }

    /// An empty disk in the place of the one that is there.
    pub fn wipe(&mut self, n: usize) {
        let seed = self.faults.rng.next();
        let node = &mut self.nodes[n];
        node.fs = SimFs::new(seed);
        node.wipes += 1;
        node.directory = Some(0);
        node.refused = None;
        node.ends.clear();
        self.note_damaged(n);
    }

    fn note_damaged(&mut self, n: usize) {
        (self.nodes[n].damaged, self.nodes[n].was_damaged) = (true, true);
    }

    fn damage(&mut self, order: Order) {
        let n = self.faults.victim;
        if !self.may_damage(n) {
            return;
        }
        let time = self.time;
        match order {
            Order::Wipe => {
                self.note_fault("disk wiped", n);
                self.end(n, true);
                self.wipe(n);
                let wait = self.faults.rng.range(100 * MS, 4 * SECOND);
                self.start_later(n, wait);
            }
            Order::Misdirect => {
                self.note_damaged(n);
                let by = (self.faults.rng.below(8192) as i64 - 4096) / 8 * 8;
                // Only what the journal still holds by value: damage next to a crash is a tear (docs/design.md P5).
                self.nodes[n].misdirect = Some(if by == 0 { 512 } else { by });
                self.note_fault("write misdirected", n);
            }
            _ => {
                // Only what is known durable: damage next to a crash is a tear (docs/design.md P5).
                let quiet = self.nodes[n].process.as_ref().is_some_and(|p| p.is_quiet(time));
                if !quiet || self.nodes[n].paused.is_some() || self.nodes[n].trap.is_some() {
                    return;
                }
                let files = self.nodes[n].fs.files();
                // Now and then what the whole directory hangs on: manifests, identity.
                let head = self.faults.rng.chance(250);
                let is_head = |path: &std::path::Path| {
                    let text = path.display().to_string();
                    !text.contains("groups/") && !text.contains("journal")
                };
                let wanted = |(path, len): &(std::path::PathBuf, u64)| *len > 0 && (!head || is_head(path));
                let sized: Vec<_> = files.into_iter().filter(wanted).collect();
                let choice = self.faults.rng.below(sized.len() as u64) as usize;
                let Some((path, len)) = sized.get(choice) else { return };
                self.note_damaged(n);
                // Most of a preallocated file is zeroes; what matters lies at its front.
                let reach = if self.faults.rng.chance(700) { (*len).min(6 << 10) } else { *len };
                for _ in 0..=self.faults.rng.below(3) {
                    let at = self.faults.rng.below(reach);
                    let mask = 1 << self.faults.rng.below(8);
                    self.nodes[n].fs.flip(path, at, mask);
                }
                self.note_fault("bits flipped", n);
                let text = path.display().to_string();
                self.trace.note("flipped", n as u64, *len, || text);
            }
        }
        self.faults.damages -= 1;
    }

    /// SIGTERM: hand over, finish, checkpoint.
    fn stop_orderly(&mut self) {
        let n = self.some_node();
        if self.nodes[n].paused.is_some() || !self.ask_to_stop(n) {
            return;
        }
        let wait = self.faults.rng.range(100 * MS, 2 * SECOND);
        self.undo_later(wait, Undo::EndStop(n));
    }

    /// False if it does not run, or stops already.
    pub fn ask_to_stop(&mut self, n: usize) -> bool {
        let Some(p) = self.nodes[n].process.as_mut().filter(|p| p.drain.is_none()) else { return false };
        let (reply, answer) = tokio::sync::oneshot::channel();
        p.drain = Some(answer);
        p.commands.push_back(kontiki::broker::shard::Command::Drain { reply });
        self.note_fault("orderly stop", n);
        self.wake(n);
        true
    }

    fn end_stop(&mut self, n: usize) {
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        let Some(drain) = p.drain.as_mut() else { return };
        let drained = drain.try_recv().is_ok();
        if let Some(writer) = p.writer.take()
            && writer.close().is_ok()
            && drained
        {
            self.marks.hit("orderly stop finished");
        }
        if self.nodes[n].fs.is_off() {
            return self.end(n, true);
        }
        self.end(n, false);
        let wait = self.faults.rng.range(50 * MS, 2 * SECOND);
        self.start_later(n, wait);
    }

    /// What an administrator asks for.
    fn administer(&mut self) {
        let Some(admin) = self.faults.admin else { return };
        let brokers = self.plan.brokers();
        let node = self.faults.rng.pick(&brokers).unwrap_or(0);
        match self.faults.rng.below(4) {
            0 => {
                self.faults.topics += 1;
                let create = CreateTopic {
                    name: format!("extra-{}", self.faults.topics),
                    partitions: 1,
                    replication_factor: 3,
                    assignments: None,
                    configs: BTreeMap::new(),
                    validate_only: false,
                };
                self.note_fault("topic created", node);
                self.ask(admin, node, Ask::Controller(CtlCommand::CreateTopic(create)));
            }
            1 if self.faults.topics > 0 => {
                let number = 1 + self.faults.rng.below(self.faults.topics);
                let name = Some(format!("extra-{number}"));
                self.note_fault("topic deleted", node);
                self.marks.hit("topic deleted");
                self.ask(admin, node, Ask::Controller(CtlCommand::DeleteTopic { name, id: None }));
            }
            2 => self.delete_records(admin),
            _ => self.move_leader(),
        }
    }

    fn move_partitions(&mut self) {
        let Some(admin) = self.faults.admin else { return };
        let mut rng = self.faults.rng.fork();
        *self.faults.counts.entry("moves asked for").or_default() += 1;
        self.ask_for_moves(admin, &mut rng);
    }

    fn delete_records(&mut self, admin: usize) {
        let groups: Vec<GroupId> = self.check.logs.keys().copied().filter(|g| g.0 > 0).collect();
        let Some(group) = self.faults.rng.pick(&groups) else { return };
        let end = self.check.logs.get(&group).and_then(|log| log.last()).map_or(0, |e| e.next);
        let Some(node) = self.leader_of(group) else { return };
        let offset =
            if self.faults.rng.chance(300) { -1 } else { self.faults.rng.below(end as u64 + 1) as i64 };
        self.note_fault("records deleted", node);
        self.ask(admin, node, Ask::DeleteRecords { group, offset });
    }

    /// A leadership is handed to somebody, as the controller's balancing asks.
    fn move_leader(&mut self) {
        let groups: Vec<GroupId> = self.check.logs.keys().copied().collect();
        let Some(group) = self.faults.rng.pick(&groups) else { return };
        let Some(n) = self.leader_of(group) else { return };
        let now = self.nodes[n].now(self.time);
        if self.nodes[n].paused.is_some() {
            return;
        }
        self.note_fault("leadership moved", n);
        if let Some(p) = self.nodes[n].process.as_mut() {
            p.shard.engine().transfer(now.mono, group, None);
        }
        self.wake(n);
    }

    /// All faults end: the network is whole, disks work, whoever is down comes back.
    pub fn heal(&mut self) {
        self.faults.is_on = false;
        let undo = std::mem::take(&mut self.faults.undo);
        for (_, undo) in undo {
            self.take_back(undo);
        }
        self.net.blocked.clear();
        self.net.weather = crate::plan::calm_weather();
        self.trace.note("heal", 0, 0, || "everything is healed".to_owned());
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            node.slowness = 1;
            node.trap = None;
            node.misdirect = None;
            node.fs.set_capacity(None);
            node.fs.fail_reads_of(None);
            if let Some(token) = node.paused {
                self.push(self.time, Event::Resume { node: n, token });
            }
            if self.nodes[n].refused.is_some() {
                // Whoever runs it puts a new disk in.
                self.wipe(n);
            }
            // A damaged one starts anew, so that its journal is read through.
            let starved = self.nodes[n].starved || self.nodes[n].damaged;
            let works = self.nodes[n].process.as_mut().is_some_and(|p| {
                let sound = p.drain.is_none() && p.shard.status().storage_failure.is_none();
                let engine = p.shard.engine();
                let stands = engine.group_ids().into_iter().all(|group| !engine.has_stood_down(group));
                !starved && !p.failed && sound && stands
            });
            if !works {
                if self.nodes[n].process.is_some() {
                    self.end(n, false);
                }
                self.start_later(n, 100 * MS);
            }
        }
        self.disarm();
    }

    /// Injected failures that did not come to pass yet are off: the next start clears them, a running process keeps none.
    fn disarm(&mut self) {
        for node in &mut self.nodes {
            node.fs.disarm();
        }
    }

    /// Whether what was just acknowledged is durable on a majority, whatever the power takes: copies of all disks lose their power
    /// and are recovered. Done now and then; it costs a recovery per replica.
    pub fn probe_durability(&mut self, group: GroupId, offset: i64) {
        // Where the members change, a majority of the newest configuration is not what it was when this was acknowledged.
        if self.plan.shrink || !self.faults.started || self.faults.probes >= 6 || !self.faults.rng.chance(40)
        {
            return;
        }
        self.faults.probes += 1;
        let Some(entry) = self.check.logs.get(&group).and_then(|log| log.at(offset)).cloned() else { return };
        let Some((configuration, is_committed)) = self.configuration_in_force(group) else { return };
        let mut holds: BTreeMap<ReplicaId, bool> = BTreeMap::new();
        for replica in configuration.members().filter(|r| configuration.is_voter(*r)) {
            let n = crate::net::index_of(replica.node);
            // Without syncs the copy outlives the process, or knows that it may have lost something.
            let is_killed = self.plan.is_async && self.faults.rng.chance(500);
            let may_doubt = self.plan.is_async;
            // What damage took from one disk the others have to make up for; it acknowledged all the same.
            let held = self.nodes[n].damaged
                || self.recovered_copy(n, is_killed).is_some_and(|mut opened| {
                    let is_it = |g: &&RecoveredGroup| g.group == group && g.replica == replica;
                    let start = opened.store.log_start(group).map_or(0, |s| s.prev.index.0);
                    let here = opened.store.meta_at(group, entry.id.index).is_ok_and(|m| m.id == entry.id);
                    let holds = |g: &RecoveredGroup| {
                        here || start >= entry.id.index.0 || (may_doubt && g.hard_state.doubt != Doubt::None)
                    };
                    opened.groups.iter().find(is_it).is_some_and(holds)
                });
            holds.insert(replica, held);
        }
        // Whoever is elected next needs both halves once the joint configuration is committed, and may do with the old one before;
        // what was committed before the change was begun need not be on the new half yet.
        let has_majority = |half: &[ReplicaId]| half.iter().filter(|r| holds[*r]).count() > half.len() / 2;
        let is_kept = match (configuration.is_joint(), is_committed) {
            (false, _) => has_majority(&configuration.voters),
            (true, false) => has_majority(&configuration.old_voters),
            (true, true) => has_majority(&configuration.old_voters) || has_majority(&configuration.voters),
        };
        assert!(
            is_kept,
            "I1: group {group} acknowledged offset {offset} ({:?}), durable on {holds:?} of {configuration:?}",
            entry.id
        );
        // Only the usual topic is written to. Where members come and go, the voters of now are not those that were counted.
        let is_steady = !self.plan.menu.members && !self.plan.menu.generations;
        let (least, holders) = (self.plan.min_insync as usize, holds.values().filter(|held| **held).count());
        assert!(
            !is_steady || holders >= least,
            "F15: group {group} acknowledged offset {offset} ({:?}), durable on {holders} voters, min.insync.replicas is {least}",
            entry.id
        );
        self.faults.count("acknowledgement checked on copies of all disks");
    }

    /// What recovery makes of a copy of this disk that loses its power now, or whose process is killed.
    fn recovered_copy(&mut self, n: usize, is_killed: bool) -> Option<Opened> {
        let copy = self.nodes[n].fs.fork();
        copy.set_capacity(None);
        match is_killed {
            true => copy.kill(),
            false => copy.crash(self.faults.rng.next()),
        }
        let options = self.nodes[n].options.clone();
        kontiki::segment::open_on(std::sync::Arc::new(copy), options).ok()
    }

    /// A replica reported its seal: whatever the power takes now, the seal and the log it named are there.
    pub fn probe_seal(&mut self, n: usize, group: GroupId, report: &SealReport) {
        if self.nodes[n].damaged || self.faults.seal_probes >= 3 || !self.faults.rng.chance(100) {
            return;
        }
        self.faults.seal_probes += 1;
        let Some(opened) = self.recovered_copy(n, false) else { return };
        let found = opened.groups.iter().find(|g| g.group == group && g.replica == report.replica);
        let kept = found.is_some_and(|g| g.hard_state.sealed.is_some() && g.last == report.last);
        assert!(kept, "F2: node {} reported {report:?}, and its disk has {found:?}", n + 1);
        self.faults.count("seal checked on a copy of the disk");
    }

    /// Members as the leader has them, and whether that is committed.
    fn configuration_in_force(&mut self, group: GroupId) -> Option<(Configuration, bool)> {
        let leader = self.leader_of(group)?;
        let core = self.nodes[leader].process.as_mut()?.shard.engine().core(group)?;
        let (configuration, id) = core.configuration();
        Some((configuration.clone(), id.index <= core.commit()))
    }

    /// Members as the leader has them.
    pub fn configuration_of(&mut self, group: GroupId) -> Option<Configuration> {
        self.configuration_in_force(group).map(|(configuration, _)| configuration)
    }
}
