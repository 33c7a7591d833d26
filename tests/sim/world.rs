//! A whole cluster in one thread: virtual time, the queue of what comes next, and the order of a run.
//!
//! The product's shards, engines, stores and writers run unchanged; what is replaced are the tokio shells around them
//! (`node`: the loop and the IO thread; `net`: sockets; `client`: connections of clients). One seed decides everything.

use crate::check::Check;
use crate::client::{Ask, Client, Reply};
use crate::faults::Faults;
use crate::marks::Marks;
use crate::master::Master;
use crate::net::Net;
use crate::node::Node;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::trace::Trace;
use bytes::Bytes;
use kontiki::raftlog::generation::Decision;
use kontiki::segment::{Generation, GroupId, Opening, RoundDone};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Microseconds since the run began.
pub type Time = u64;
pub const MS: Time = 1_000;
pub const SECOND: Time = 1_000_000;

/// What can come next. Events of an earlier life of a process mean nothing to a later one.
pub enum Event {
    /// The node's loop wakes.
    Turn { node: usize, life: u64 },
    /// Its deadline may be due.
    Timer { node: usize, life: u64, token: u64 },
    /// The IO thread takes the round that waits for it.
    IoRun { node: usize, life: u64 },
    /// The round is over for whoever waits for it.
    IoDone { node: usize, life: u64, done: Box<RoundDone> },
    /// The IO thread has been idle long enough.
    IoIdle { node: usize, life: u64, token: u64 },
    /// A process starts.
    Start { node: usize },
    /// A stopped process goes on.
    Resume { node: usize, token: u64 },
    /// A dialler tries.
    Dial { from: usize, to: usize, life: u64 },
    /// The first frame in this connection is due.
    Deliver { conn: u64 },
    /// A frame outside the order of its connection.
    Datagram { conn: u64, from: usize, to: usize, lives: (u64, u64), frame: Bytes },
    /// A connection that stands still is looked at.
    Stalled { conn: u64, since: Time },
    /// The receiving end of a connection learns that nobody is there any more.
    Lingered { conn: u64, from: usize, to: usize, life: u64 },
    /// A client's request reaches a node.
    Asked { client: usize, node: usize, link: u64, id: u64, ask: Box<Ask> },
    /// The answer reaches the client.
    Answered { client: usize, node: usize, link: u64, id: u64, reply: Box<Reply> },
    /// A client's connection is found broken.
    Unlinked { client: usize, node: usize, link: u64 },
    /// A client does what it does next.
    Client { client: usize, token: u64 },
    /// The nemesis does something.
    Nemesis,
    /// The nemesis takes something back.
    Undo { order: u64 },
    /// The stand-in for the controllers gives orders.
    Master,
}

struct Queued {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Everything of one run.
pub struct World {
    pub plan: Plan,
    pub time: Time,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub net: Net,
    pub clients: Vec<Client>,
    pub check: Check,
    pub faults: Faults,
    pub master: Master,
    pub marks: Marks,
    pub trace: Trace,
    pub steps: u64,
    /// Values of the labs, by the CRC of the batch that carries one.
    pub values: BTreeMap<u32, u64>,
    /// Decisions that were seen while their survivors were down.
    pub unbooked: BTreeMap<(GroupId, u64), Decision>,
    /// How each generation of the controllers' group began.
    pub heirs: BTreeMap<Generation, Opening>,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
}

impl World {
    /// A cluster as the plan says; its processes start within the first milliseconds.
    pub fn new(plan: Plan, trace: Trace) -> Self {
        let mut rng = Rng::new(plan.seed);
        let nodes = plan.nodes(&mut rng);
        let mut world = Self {
            time: 0,
            net: Net::new(&plan),
            clients: Vec::new(),
            check: Check::new(trace.clone()),
            faults: Faults::new(&plan, rng.fork()),
            master: Master::new(&plan),
            marks: Marks::default(),
            trace,
            steps: 0,
            values: BTreeMap::new(),
            unbooked: BTreeMap::new(),
            heirs: BTreeMap::new(),
            queue: BinaryHeap::new(),
            number: 0,
            nodes,
            rng,
            plan,
        };
        world.check.compacts = world.plan.compacts;
        for node in 0..world.nodes.len() {
            let at = world.rng.below(20 * MS);
            world.push(at, Event::Start { node });
        }
        world
    }

    /// Something comes at this time.
    pub fn push(&mut self, at: Time, event: Event) {
        self.number += 1;
        let at = at.max(self.time);
        self.queue.push(Reverse(Queued { at, number: self.number, event }));
    }

    /// Something comes after a while.
    pub fn after(&mut self, wait: Time, event: Event) {
        self.push(self.time + wait, event);
    }

    /// The next event, if one is due by `until`.
    fn step(&mut self, until: Time) -> bool {
        if self.queue.peek().is_none_or(|Reverse(next)| next.at > until) {
            self.time = until;
            return false;
        }
        let Some(Reverse(Queued { at, event, .. })) = self.queue.pop() else { return false };
        self.time = at;
        self.trace.at(at);
        self.steps += 1;
        match event {
            Event::Turn { node, life } => self.on_turn(node, life),
            Event::Timer { node, life, token } => self.on_timer(node, life, token),
            Event::IoRun { node, life } => self.on_io_run(node, life),
            Event::IoDone { node, life, done } => self.on_io_done(node, life, *done),
            Event::IoIdle { node, life, token } => self.on_io_idle(node, life, token),
            Event::Start { node } => self.start(node),
            Event::Resume { node, token } => self.on_resume(node, token),
            Event::Dial { from, to, life } => self.on_dial(from, to, life),
            Event::Deliver { conn } => self.on_deliver(conn),
            Event::Datagram { conn, from, to, lives, frame } => {
                self.on_datagram(conn, from, to, lives, frame)
            }
            Event::Stalled { conn, since } => self.on_stalled(conn, since),
            Event::Lingered { conn, from, to, life } => self.on_lingered(conn, from, to, life),
            Event::Asked { client, node, link, id, ask } => self.on_asked(client, node, link, id, *ask),
            Event::Answered { client, node, link, id, reply } => {
                self.on_answered(client, node, link, id, *reply)
            }
            Event::Unlinked { client, node, link } => self.on_unlinked(client, node, link),
            Event::Client { client, token } => self.on_client(client, token),
            Event::Nemesis => self.on_nemesis(),
            Event::Undo { order } => self.on_undo(order),
            Event::Master => self.on_master(),
        }
        true
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, wait: Time) {
        let until = self.time + wait;
        while self.step(until) {}
    }

    /// Lets virtual time pass until `done` holds, looked at every few milliseconds.
    ///
    /// # Panics
    /// If it does not hold by then.
    pub fn run_until(&mut self, what: &str, wait: Time, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = self.time + wait;
        while !done(self) {
            if self.time >= deadline {
                let state = self.describe();
                panic!("liveness: {what} not within {} s\n{state}", wait / SECOND);
            }
            self.run_for(20 * MS);
        }
    }

    /// Like [`World::run_until`], but answers whether it came true.
    pub fn try_until(&mut self, wait: Time, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.time + wait;
        while !done(self) {
            if self.time >= deadline {
                return false;
            }
            self.run_for(20 * MS);
        }
        true
    }

    /// Where everything stands, for the report of a run that got stuck.
    pub fn describe(&mut self) -> String {
        let mut text = String::new();
        for node in &mut self.nodes {
            text += &node.describe(self.time);
        }
        text += &self.describe_orders();
        for client in &self.clients {
            text += &client.describe();
        }
        text += &self.net.describe();
        text
    }
}
