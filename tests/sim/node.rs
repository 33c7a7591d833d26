//! One node: its machine (disk, clocks) and the process on it. Stands in for the tokio loop (`broker::node`), the IO thread
//! (`segment::io_thread`) and the assembly (`broker::server`), and for nothing else: recovery, shard, engine, store and writer are
//! the product's.

use crate::client::Waiting;
use crate::net::{Dial, Outbox};
use crate::plan::Plan;
use crate::world::{Event, MS, Time, World};
use kontiki::broker::config::{Endpoint, NodeConfig, PLAINTEXT};
use kontiki::broker::server;
use kontiki::broker::shard::{Command, Input, Now, Shard, ShardConfig};
use kontiki::ctl::image::Image;
use kontiki::raftlog::core::{Millis, Role};
use kontiki::raftlog::engine::{Disk, Engine, EngineConfig};
use kontiki::raftlog::message::Configuration;
use kontiki::segment::fs::sim::{Counts, SimFs};
use kontiki::segment::{
    self, GroupId, Identity, LogId, Opened, ReplicaId, Round, RoundDone, StoreOptions, Writer,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Longest time that a slow disk takes for one piece of work: what had begun when everything was healed ends well within the deadline.
const LONGEST_IO: u64 = 10_000 * MS;

/// Inputs taken in one turn, as in the product's loop.
const TURN_INPUTS: usize = 512;
/// The day every run begins on.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// A machine.
pub struct Node {
    pub index: usize,
    pub config: Arc<NodeConfig>,
    pub options: StoreOptions,
    pub fs: SimFs,
    pub process: Option<Process>,
    /// Processes started so far.
    pub life: u64,
    /// Directories formatted so far.
    pub wipes: u64,
    /// Speed of the monotonic clock, in millionths.
    pub rate: u64,
    /// The wall clock's distance from the truth.
    pub wall_offset_ms: i64,
    /// Until when the process is stopped (SIGSTOP), if it is.
    pub paused: Option<u64>,
    /// How many times slower than usual the disk is.
    pub slowness: u64,
    /// Recovery refused the directory: the node stays down.
    pub refused: Option<String>,
    /// Its disk was flipped, misdirected, unreadable or wiped, and nobody has looked it through since.
    pub damaged: bool,
    /// That happened at some time.
    pub was_damaged: bool,
    /// Of the directory on its disk, once a process has opened it.
    pub directory: Option<u128>,
    /// The next lazy write to a segment goes this far astray.
    pub misdirect: Option<i64>,
    /// Its disk had no byte left, reserve included: replicas may have stood down until the process starts anew.
    pub starved: bool,
    /// A start is on its way.
    pub starting: bool,
    /// How the next process ends inside a change of the disk: true loses unsynced bytes too.
    pub trap: Option<bool>,
    /// Ends of logs when the last process ended, to see what recovery cut.
    pub ends: BTreeMap<GroupId, LogId>,
    /// The last process ended after its storage had failed.
    pub failed_before: bool,
}

/// A running process.
pub struct Process {
    pub shard: Shard,
    pub life: u64,
    pub directory: u128,
    pub writer: Option<Writer>,
    pub started: Time,
    pub image: Arc<Image>,
    pub completions: VecDeque<RoundDone>,
    pub inputs: VecDeque<Input>,
    pub commands: VecDeque<Command>,
    pub waiting: VecDeque<Waiting>,
    pub dials: BTreeMap<usize, Dial>,
    /// Storage was seen to fail.
    pub failed: bool,
    pub drain: Option<tokio::sync::oneshot::Receiver<()>>,
    turn_due: bool,
    timer: (Time, u64),
    round: Option<Round>,
    io_busy: bool,
    idle_token: u64,
    pub last_io: Time,
}

struct TurnDisk<'a>(&'a mut Option<Round>);

impl Disk for TurnDisk<'_> {
    fn submit(&mut self, round: Round) {
        assert!(self.0.is_none(), "a round was submitted while another is in flight");
        *self.0 = Some(round);
    }
}

impl Process {
    /// Whether the IO thread has written its mark and done nothing since.
    pub fn is_quiet(&self, time: Time) -> bool {
        !self.io_busy && self.round.is_none() && time > self.last_io + 40 * MS
    }
}

impl Node {
    pub fn new(index: usize, config: NodeConfig, plan: &Plan, seed: u64) -> Self {
        let identity = Identity { node: config.node_id, cluster: None };
        let options = StoreOptions {
            reference_bytes: plan.reference_bytes,
            journal_file_bytes: plan.journal_file_bytes,
            checkpoint_bytes: plan.checkpoint_bytes,
            reserve_bytes: plan.reserve_bytes,
            tail_bytes: plan.tail_bytes,
            ..StoreOptions::new("/data".into(), identity)
        };
        Self {
            index,
            config: Arc::new(config),
            options,
            fs: SimFs::new(seed),
            process: None,
            life: 0,
            wipes: 0,
            rate: 1_000_000,
            wall_offset_ms: 0,
            paused: None,
            slowness: 1,
            refused: None,
            damaged: false,
            was_damaged: false,
            directory: None,
            misdirect: None,
            starved: false,
            starting: true,
            trap: None,
            ends: BTreeMap::new(),
            failed_before: false,
        }
    }

    /// Whether a process runs here and is not stopped.
    pub fn is_up(&self) -> bool {
        self.process.is_some() && self.paused.is_none()
    }

    /// Both clocks of this machine.
    pub fn now(&self, time: Time) -> Now {
        let started = self.process.as_ref().map_or(time, |p| p.started);
        let elapsed = u128::from(time - started) * u128::from(self.rate) / 1_000_000;
        let wall_ms = EPOCH_MS + (time / MS) as i64 + self.wall_offset_ms;
        Now { mono: 1000 + elapsed as u64 / MS, wall_ms }
    }

    /// When the monotonic clock will say `mono`.
    fn when(&self, mono: Millis) -> Time {
        let started = self.process.as_ref().map_or(0, |p| p.started);
        let ahead = u128::from(mono.saturating_sub(1000).min(1 << 40)) * u128::from(MS);
        started + (ahead * 1_000_000).div_ceil(u128::from(self.rate)) as u64
    }

    pub fn describe(&mut self, time: Time) -> String {
        let now = self.now(time);
        let id = self.config.node_id;
        let Some(p) = &mut self.process else {
            return format!("node {id}: down, refused {:?}, damaged {}\n", self.refused, self.damaged);
        };
        let mut text = format!(
            "node {id}: up, mono {}, paused {:?}, damaged {}, registered {}, storage failure {:?}\n",
            now.mono,
            self.paused,
            self.damaged,
            p.shard.status().registered,
            p.shard.status().storage_failure
        );
        let engine = p.shard.engine();
        let mut groups = engine.group_ids();
        groups.sort_unstable();
        for group in groups {
            let repair = engine.store_ref().needs_repair(group);
            let poisoned = engine.is_poisoned(group);
            let stood_down = engine.has_stood_down(group);
            if let Some(core) = engine.core(group) {
                text += &format!(
                    "  group {group}: {:?} {} epoch {} leader {:?} last {} durable {} commit {} doubt {:?} sealed {:?}{}{}{}\n    {}\n",
                    core.role(),
                    core.replica(),
                    core.epoch(),
                    core.leader().map(|l| l.node.0),
                    core.last(),
                    core.durable(),
                    core.commit(),
                    core.doubt(),
                    core.hard_state().sealed,
                    if stood_down { " STOOD DOWN" } else { "" },
                    if poisoned { " POISONED" } else { "" },
                    repair.map_or(String::new(), |r| format!(" needs repair {r:?}")),
                    short(core.configuration().0),
                );
            }
        }
        text
    }
}

fn short(configuration: &Configuration) -> String {
    let names = |of: &[ReplicaId]| {
        of.iter().map(|r| format!("{}/{}", r.node, r.assignment)).collect::<Vec<_>>().join(" ")
    };
    format!(
        "voters [{}], old [{}], learners [{}]",
        names(&configuration.voters),
        names(&configuration.old_voters),
        names(&configuration.learners)
    )
}

fn syncs_of(counts: Counts) -> u64 {
    counts.syncs + counts.dir_syncs
}

impl World {
    /// A process starts: recovery, then the first turn.
    pub fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.starting = false;
        if node.process.is_some() || node.refused.is_some() {
            return;
        }
        node.life += 1;
        let (life, seed) = (node.life, self.rng.next());
        if node.trap.is_some() {
            // The next end falls into recovery itself.
            node.fs.power_off_after(self.rng.below(40));
        }
        let opened = segment::open_on(Arc::new(node.fs.clone()), node.options.clone());
        self.trace.note("start", n as u64, life, || {
            format!("node {} life {life}: {:?}", n + 1, opened.as_ref().err().map(ToString::to_string))
        });
        if self.nodes[n].fs.is_off() {
            drop(opened);
            self.marks.hit("power cut during recovery");
            return self.end_in_trap(n);
        }
        match opened {
            Ok(opened) => self.run_process(n, life, seed, opened),
            Err(error) => self.on_refused(n, &error),
        }
    }

    fn on_refused(&mut self, n: usize, error: &segment::Error) {
        let node = &mut self.nodes[n];
        let lasting = matches!(error, segment::Error::Refused(_) | segment::Error::Damaged(_));
        if lasting {
            assert!(node.damaged, "recovery refuses a sound directory of node {}: {error}", n + 1);
            node.refused = Some(error.to_string());
            self.marks.hit("damaged directory refused");
            return;
        }
        // A shortage or an injected failure: whoever watches the process starts it again.
        node.fs.kill();
        node.starting = true;
        self.after(500 * MS, Event::Start { node: n });
    }

    fn run_process(&mut self, n: usize, life: u64, seed: u64, opened: Opened) {
        self.check.recovered(&self.nodes[n], &opened, &mut self.marks);
        let time = self.time;
        let node = &mut self.nodes[n];
        let config = node.config.clone();
        let directory = opened.directory;
        node.directory = Some(directory);
        let boot = u128::from(seed) << 64 | u128::from(life) << 16 | n as u128;
        let now = Now { mono: 1000, ..node.now(time) };
        let engine_config =
            EngineConfig { node: config.node_id, boot, core: server::core_config(&config), seed };
        let engine = Engine::new(engine_config, opened.store, now.mono);
        let endpoint = |port| Endpoint { host: format!("node-{}", config.node_id), port };
        let shard_config = ShardConfig {
            node: config.clone(),
            directory: opened.directory,
            boot,
            kafka: config.is_broker.then(|| (PLAINTEXT.to_owned(), endpoint(9092))).into_iter().collect(),
            peer: endpoint(9093),
            cluster: opened.cluster,
            seed,
        };
        let shard = Shard::new(shard_config, engine, opened.groups, now);
        let mut writer = opened.writer;
        let delay = writer.idle();
        node.process = Some(Process {
            shard,
            life,
            directory,
            writer: Some(writer),
            started: time,
            image: Arc::new(Image::default()),
            completions: VecDeque::new(),
            inputs: VecDeque::new(),
            commands: VecDeque::new(),
            waiting: VecDeque::new(),
            dials: BTreeMap::new(),
            failed: false,
            drain: None,
            turn_due: false,
            timer: (0, 0),
            round: None,
            io_busy: false,
            idle_token: 0,
            last_io: time,
        });
        if node.fs.is_off() {
            return self.end_in_trap(n);
        }
        if self.plan.recovers {
            self.book_generations();
        }
        if let Some(delay) = delay {
            self.after(delay.as_micros() as u64, Event::IoIdle { node: n, life, token: 0 });
        }
        self.wake(n);
    }

    /// The node's loop has something to do.
    pub fn wake(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let is_paused = node.paused.is_some();
        let Some(p) = &mut node.process else { return };
        if p.turn_due || is_paused {
            return;
        }
        p.turn_due = true;
        let life = p.life;
        let wait = self.rng.range(5, 120);
        self.after(wait, Event::Turn { node: n, life });
    }

    /// The process of this life, unless it is gone.
    fn alive(&mut self, n: usize, life: u64) -> Option<&mut Process> {
        self.nodes[n].process.as_mut().filter(|p| p.life == life)
    }

    pub fn on_timer(&mut self, n: usize, life: u64, token: u64) {
        if self.alive(n, life).is_some_and(|p| p.timer.1 == token) {
            self.wake(n);
        }
    }

    /// One turn of the loop, as `broker::node` takes it.
    pub fn on_turn(&mut self, n: usize, life: u64) {
        let time = self.time;
        if self.nodes[n].paused.is_some() {
            if let Some(p) = self.alive(n, life) {
                p.turn_due = false;
            }
            return;
        }
        let now = self.nodes[n].now(time);
        let Some(p) = self.alive(n, life) else { return };
        p.turn_due = false;
        let mut left = 0;
        for taken in 0..=TURN_INPUTS {
            left = TURN_INPUTS - taken;
            let Some(p) = self.alive(n, life) else { return };
            if let Some(done) = p.completions.pop_front() {
                p.shard.handle(now, Input::RoundDone(done));
            } else if let Some(input) = p.inputs.pop_front() {
                p.shard.handle(now, input);
            } else if let Some(command) = p.commands.pop_front() {
                p.shard.handle(now, Input::Command(command));
            } else {
                break;
            }
            self.tell_decisions(n);
        }
        let Some(p) = self.alive(n, life) else { return };
        if now.mono >= p.shard.deadline() {
            p.shard.tick(now);
            self.tell_decisions(n);
        }
        let Some(p) = self.alive(n, life) else { return };
        let mut outbox = Outbox::new(&p.dials);
        let mut round = None;
        p.shard.finish_turn(now, &mut outbox, &mut TurnDisk(&mut round));
        // Beside the loop, and done before its next turn.
        if let Some(mut step) = p.shard.take_cleaning(now) {
            step.run();
            p.inputs.push_back(Input::Cleaned(Box::new(step)));
        }
        let dials = p.shard.take_dials();
        let image = p.shard.take_image();
        if left == 0 {
            self.marks.hit("turn with more inputs than it takes");
        }
        if self.nodes[n].fs.is_off() {
            // It ended inside this turn: nothing of it was seen by anybody.
            return self.end_in_trap(n);
        }
        self.release(n, outbox, round);
        for (node, address) in dials {
            self.connect(n, node, &address);
        }
        if let Some(image) = image {
            self.check.image(&image);
            if let Some(p) = self.nodes[n].process.as_mut() {
                p.image = image;
            }
            if self.plan.recovers {
                self.book_generations();
            }
            self.hello_again(n);
        }
        self.look(n);
        if self.nodes[n].fs.is_off() {
            return self.end_in_trap(n);
        }
        self.answer_clients(n);
        self.arm(n, life);
    }

    /// What a turn gave out: frames and a round.
    fn release(&mut self, n: usize, outbox: Outbox, round: Option<Round>) {
        let life = self.nodes[n].life;
        for (to, frame) in outbox.frames {
            self.send_frame(n, to, frame);
        }
        if let Some(round) = round
            && let Some(p) = self.nodes[n].process.as_mut()
        {
            assert!(p.round.is_none(), "a round was submitted while another waits");
            p.round = Some(round);
            p.idle_token += 1;
            if !p.io_busy {
                p.io_busy = true;
                let wait = self.rng.range(10, 80);
                self.after(wait, Event::IoRun { node: n, life });
            }
        }
    }

    /// Invariants and marks that a look at the process shows.
    fn look(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if let Some(p) = &mut node.process
            && !p.failed
            // Not a controller log that could not be read: such a node says so too, and its groups go on.
            && p.shard.engine().store_ref().failure().is_some()
        {
            p.failed = true;
            let led = p.shard.status().led > 0;
            self.marks.hit("storage failed");
            if led {
                self.marks.hit("storage failed on a leader");
            }
            let reason = p.shard.status().storage_failure.clone().unwrap_or_default();
            self.trace.note("failed", n as u64, 0, || format!("node {}: storage failed: {reason}", n + 1));
            self.watch_failed(n);
        }
        let node = &mut self.nodes[n];
        if let Some(p) = &mut node.process
            && p.shard.engine().store_ref().failure().is_some()
        {
            self.check.storage_failed(n, p);
        }
        if node.wipes > 0 && node.process.as_ref().is_some_and(|p| p.shard.status().registered) {
            node.wipes = 0;
            self.marks.hit("wiped node registered again");
        }
        self.book_heirs(n);
        self.check.look(&mut self.nodes[n], &mut self.marks);
    }

    /// Sets the timer to the shard's deadline.
    fn arm(&mut self, n: usize, life: u64) {
        let Some(p) = self.nodes[n].process.as_ref() else { return };
        let more = !p.completions.is_empty() || !p.inputs.is_empty() || !p.commands.is_empty();
        let at = self.nodes[n].when(p.shard.deadline()).max(self.time + 1);
        if more {
            self.wake(n);
        }
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        if p.timer.0 != at || p.timer.0 <= self.time {
            p.timer = (at, p.timer.1 + 1);
            let token = p.timer.1;
            self.push(at, Event::Timer { node: n, life, token });
        }
    }

    /// The IO thread commits the round that waits.
    pub fn on_io_run(&mut self, n: usize, life: u64) {
        if self.nodes[n].paused.is_some() {
            return self.after(20 * MS, Event::IoRun { node: n, life });
        }
        let slowness = self.nodes[n].slowness;
        let mut rng = self.rng.fork();
        let fs = self.nodes[n].fs.clone();
        let time = self.time;
        let Some(p) = self.alive(n, life) else { return };
        let Some(round) = p.round.take() else {
            p.io_busy = false;
            return;
        };
        let before = fs.counts();
        let Some(writer) = &mut p.writer else { return };
        let done = writer.commit(round);
        let after = fs.counts();
        p.last_io = time;
        if fs.is_off() {
            self.marks.hit("power cut inside a round");
            return self.end_in_trap(n);
        }
        let syncs = syncs_of(after) - syncs_of(before);
        let wait = ((rng.range(30, 200) + syncs * rng.range(100, 1500)) * slowness).min(LONGEST_IO);
        let bytes = after.bytes - before.bytes;
        self.trace.note("round", n as u64, bytes << 8 | syncs, || {
            let failure = done.failure().unwrap_or("complete");
            format!("node {} round {} of {bytes} bytes, {syncs} syncs: {failure}", n + 1, done.number())
        });
        self.after(wait, Event::IoDone { node: n, life, done: Box::new(done) });
    }

    /// The round is answered; the IO thread uses its idle time.
    pub fn on_io_done(&mut self, n: usize, life: u64, done: RoundDone) {
        if self.nodes[n].paused.is_some() {
            return self.after(20 * MS, Event::IoDone { node: n, life, done: Box::new(done) });
        }
        let Some(p) = self.alive(n, life) else { return };
        p.completions.push_back(done);
        self.wake(n);
        self.io_idle(n, life);
    }

    pub fn on_io_idle(&mut self, n: usize, life: u64, token: u64) {
        if self.nodes[n].paused.is_some() {
            return self.after(20 * MS, Event::IoIdle { node: n, life, token });
        }
        if self.alive(n, life).is_some_and(|p| p.idle_token == token && !p.io_busy) {
            self.io_idle(n, life);
        }
    }

    fn io_idle(&mut self, n: usize, life: u64) {
        let (time, misdirect) = (self.time, self.nodes[n].misdirect);
        let slowness = self.nodes[n].slowness;
        let fs = self.nodes[n].fs.clone();
        let mut rng = self.rng.fork();
        let Some(p) = self.alive(n, life) else { return };
        let before = fs.counts();
        let Some(writer) = &mut p.writer else { return };
        if let Some(by) = misdirect {
            fs.misdirect_next("groups/", by);
        }
        let delay = writer.idle();
        // Syncs beside the rounds have ended: the disk is slow, the news of it is not.
        let news = writer.take_news();
        let after = fs.counts();
        p.last_io = if syncs_of(after) > syncs_of(before) { time } else { p.last_io };
        if misdirect.is_some() {
            if fs.is_misdirecting() {
                fs.cancel_misdirect();
            } else {
                self.nodes[n].misdirect = None;
                self.marks.hit("write went astray");
            }
        }
        if fs.is_off() {
            self.marks.hit("power cut inside idle work");
            return self.end_in_trap(n);
        }
        let syncs = syncs_of(after) - syncs_of(before);
        let cost = (syncs * rng.range(100, 1500) * slowness).min(LONGEST_IO);
        let Some(p) = self.alive(n, life) else { return };
        let is_news = news.is_some();
        p.completions.extend(news);
        p.io_busy = p.round.is_some();
        p.idle_token += 1;
        let token = p.idle_token;
        if p.round.is_some() {
            self.after(cost + 10, Event::IoRun { node: n, life });
        } else if let Some(delay) = delay {
            self.after(cost + delay.as_micros() as u64, Event::IoIdle { node: n, life, token });
        }
        if is_news {
            self.wake(n);
        }
    }

    /// The process ends; `power`: unsynced bytes may go with it, and nobody hears a reset.
    pub fn end(&mut self, n: usize, power: bool) {
        let seed = self.rng.next();
        let power = power && self.plan.loses_power(n);
        let node = &mut self.nodes[n];
        node.trap = None;
        node.paused = None;
        node.starved = false;
        if power {
            node.fs.crash(seed);
        } else {
            node.fs.kill();
        }
        let Some(mut process) = node.process.take() else { return };
        node.failed_before = process.failed && !power;
        node.ends = self.check.ended(n, &mut process);
        let life = process.life;
        self.trace.note("end", n as u64, u64::from(power), || {
            format!("node {} life {life} ends{}", n + 1, if power { " with the power" } else { "" })
        });
        drop(process);
        self.disconnect_all(n, !power);
    }

    /// The trap sprang: the process ended inside a change of its disk.
    fn end_in_trap(&mut self, n: usize) {
        let power = self.nodes[n].trap.unwrap_or(true);
        let running = self.nodes[n].process.is_some();
        self.end(n, power);
        if !running {
            // It never came up: only its disk is left behind.
            self.disconnect_all(n, !power);
        }
        let wait = self.rng.range(50 * MS, 1500 * MS);
        self.nodes[n].starting = true;
        self.after(wait, Event::Start { node: n });
    }

    /// Starts the process again after a while.
    pub fn start_later(&mut self, n: usize, wait: Time) {
        if !self.nodes[n].starting && self.nodes[n].process.is_none() {
            self.nodes[n].starting = true;
            self.after(wait, Event::Start { node: n });
        }
    }

    /// SIGSTOP for a while.
    pub fn pause(&mut self, n: usize, wait: Time) {
        let life = self.nodes[n].life;
        if self.nodes[n].process.is_some() && self.nodes[n].paused.is_none() {
            let token = self.rng.next();
            self.nodes[n].paused = Some(token);
            self.check.stopped(&self.nodes[n], self.time);
            self.trace
                .note("pause", n as u64, life, || format!("node {} stopped for {} ms", n + 1, wait / MS));
            self.after(wait, Event::Resume { node: n, token });
        }
    }

    pub fn on_resume(&mut self, n: usize, token: u64) {
        if self.nodes[n].paused == Some(token) {
            self.nodes[n].paused = None;
            self.check.resumed(&mut self.nodes[n], self.time);
            self.trace.note("resume", n as u64, 0, || format!("node {} goes on", n + 1));
            self.wake(n);
            if let Some(p) = &mut self.nodes[n].process {
                let (life, token) = (p.life, p.timer.1);
                self.after(1, Event::Timer { node: n, life, token });
            }
        }
    }

    /// Node that leads the group in the highest epoch, by its own word.
    pub fn leader_of(&mut self, group: GroupId) -> Option<usize> {
        let led = self.nodes.iter_mut().filter_map(|node| {
            let core = node.process.as_mut()?.shard.engine().core(group)?;
            (core.role() == Role::Leader).then_some((core.epoch(), node.index))
        });
        led.max().map(|(_, n)| n)
    }
}
