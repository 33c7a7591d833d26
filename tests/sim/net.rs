//! The network between processes: what `broker::peer` and TCP are in a real cluster.
//!
//! One connection per direction and pair, dialled by the sender, introduced by a Hello. Inside a connection frames arrive in order
//! or the connection breaks; a link that loses packets delays what is behind them. In datagram mode Raft frames are lost, doubled
//! and overtake each other, since the Raft core must bear that too. A killed process resets its connections; one that lost its power
//! says nothing. Every frame is encoded and decoded by the product's codec.

use crate::plan::Plan;
use crate::world::{Event, MS, SECOND, Time, World};
use bytes::Bytes;
use kontiki::broker::shard::Input;
use kontiki::raftlog::codec::{self, Frame};
use kontiki::raftlog::engine::Net as EngineNet;
use kontiki::segment::NodeId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const QUEUE_BYTES: usize = 8 << 20;
const CONNECT_TIMEOUT: Time = SECOND;
const UNACKED_TIMEOUT: Time = 3 * SECOND;
const BACKOFF_MIN: Time = 20 * MS;
const BACKOFF_MAX: Time = 500 * MS;
/// Kind byte of a Raft frame (length, CRC, version, kind).
const KIND_AT: usize = 9;
const RAFT_KIND: u8 = 2;

/// Where a dialler stands.
#[derive(Clone, Copy, Debug)]
pub enum Dial {
    /// Tries again, or is trying; the backoff grows.
    Trying { backoff: Time },
    /// Connected.
    Up { conn: u64, queued: usize },
}

/// What a turn sends, as `broker::peer::Peers` would take it.
pub struct Outbox {
    up: BTreeMap<usize, usize>,
    pub frames: Vec<(usize, Vec<Bytes>)>,
}

impl Outbox {
    pub fn new(dials: &BTreeMap<usize, Dial>) -> Self {
        let up = |(to, dial): (&usize, &Dial)| match dial {
            Dial::Up { queued, .. } => Some((*to, *queued)),
            Dial::Trying { .. } => None,
        };
        Self { up: dials.iter().filter_map(up).collect(), frames: Vec::new() }
    }
}

impl EngineNet for Outbox {
    fn send(&mut self, to: NodeId, frame: Vec<Bytes>) -> bool {
        let Some(queued) = self.up.get_mut(&index_of(to)) else { return false };
        let bytes: usize = frame.iter().map(Bytes::len).sum();
        if *queued > 0 && *queued + bytes > QUEUE_BYTES {
            return false;
        }
        *queued += bytes;
        self.frames.push((index_of(to), frame));
        true
    }

    fn queued_bytes(&self, to: NodeId) -> usize {
        self.up.get(&index_of(to)).copied().unwrap_or(0)
    }
}

/// Place of a node in the world.
pub fn index_of(node: NodeId) -> usize {
    (node.0 - 1) as usize
}

struct Conn {
    from: usize,
    to: usize,
    lives: (u64, u64),
    frames: VecDeque<(Time, Bytes)>,
    last_due: Time,
    introduced: bool,
    stalled: Option<Time>,
}

/// How the network behaves now; the nemesis changes it.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Usual one-way delay.
    pub delay: (Time, Time),
    /// Packets lost, in a thousand frames.
    pub loss: u64,
    /// Frames that arrive damaged, in a million: the connection ends.
    pub garble: u64,
    /// Raft frames may be lost, doubled and overtaken.
    pub datagram: bool,
}

/// All connections.
pub struct Net {
    conns: BTreeMap<u64, Conn>,
    next: u64,
    /// Newest connection by (receiver, sender): only its end means that the process is gone.
    newest: BTreeMap<(usize, usize), u64>,
    /// Directions in which nothing gets through.
    pub blocked: BTreeSet<(usize, usize)>,
    pub weather: Weather,
    pub frames: u64,
    pub bytes: u64,
    /// Frames and bytes of Append messages with entries, per group of tests that count.
    pub sent_raft: u64,
}

impl Net {
    pub fn new(plan: &Plan) -> Self {
        Self {
            conns: BTreeMap::new(),
            next: 0,
            newest: BTreeMap::new(),
            blocked: BTreeSet::new(),
            weather: plan.weather.clone(),
            frames: 0,
            bytes: 0,
            sent_raft: 0,
        }
    }

    /// Whether a packet gets from one end to the other.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        !self.blocked.contains(&(from, to))
    }

    pub fn describe(&self) -> String {
        format!("network: {} connections, blocked {:?}\n", self.conns.len(), self.blocked)
    }

    /// One of the connections, if any: for resets.
    pub fn any(&self, choice: u64) -> Option<u64> {
        let count = self.conns.len() as u64;
        (count > 0).then(|| *self.conns.keys().nth((choice % count) as usize).expect("below the count"))
    }
}

impl World {
    /// One way over the network, losses included as the time they cost.
    pub fn latency(&mut self) -> Time {
        let (from, to) = self.net.weather.delay;
        let mut delay = self.rng.range(from, to);
        if self.rng.chance(self.net.weather.loss) {
            delay += self.rng.range(200 * MS, 600 * MS);
        }
        delay
    }

    /// The shard wants a connection to this peer.
    pub fn connect(&mut self, from: usize, node: NodeId, address: &str) {
        let to = index_of(node);
        let expected = format!("node-{node}:9093");
        assert_eq!(address, expected, "a peer is dialled where it said it is");
        let Some(p) = self.nodes[from].process.as_mut() else { return };
        if from == to || p.dials.contains_key(&to) {
            // A peer that was heard while we wait to dial it again is dialled at once.
            if let Some(Dial::Trying { backoff }) = p.dials.get_mut(&to)
                && *backoff > BACKOFF_MIN
            {
                *backoff = BACKOFF_MIN;
                let life = p.life;
                self.after(1, Event::Dial { from, to, life });
            }
            return;
        }
        p.dials.insert(to, Dial::Trying { backoff: BACKOFF_MIN });
        let life = p.life;
        self.after(10, Event::Dial { from, to, life });
    }

    pub fn on_dial(&mut self, from: usize, to: usize, life: u64) {
        let Some(p) = self.nodes[from].process.as_ref().filter(|p| p.life == life) else { return };
        let Some(Dial::Trying { backoff }) = p.dials.get(&to).copied() else { return };
        if self.nodes[from].paused.is_some() {
            return self.after(100 * MS, Event::Dial { from, to, life });
        }
        let open = self.net.is_open(from, to) && self.net.is_open(to, from);
        let wait = if !open {
            CONNECT_TIMEOUT + backoff
        } else if self.nodes[to].process.is_none() {
            backoff
        } else {
            return self.established(from, to);
        };
        let dial = Dial::Trying { backoff: (backoff * 2).min(BACKOFF_MAX) };
        if let Some(p) = self.nodes[from].process.as_mut() {
            p.dials.insert(to, dial);
        }
        self.after(wait, Event::Dial { from, to, life });
    }

    fn established(&mut self, from: usize, to: usize) {
        let trip = self.latency();
        self.net.next += 1;
        let id = self.net.next;
        let lives = (self.nodes[from].life, self.nodes[to].life);
        let last_due = self.time + trip;
        let conn =
            Conn { from, to, lives, frames: VecDeque::new(), last_due, introduced: false, stalled: None };
        self.net.conns.insert(id, conn);
        let Some(p) = self.nodes[from].process.as_mut() else { return };
        p.dials.insert(to, Dial::Up { conn: id, queued: 0 });
        let hello = codec::encode_hello(&p.shard.hello());
        p.inputs.push_back(Input::Dialled { node: NodeId(to as i32 + 1), up: true });
        self.trace.note("connect", from as u64, to as u64, || format!("{} -> {} as {id}", from + 1, to + 1));
        self.send_frame(from, to, hello);
        self.wake(from);
    }

    /// Introduces the node again: its cluster became known.
    pub fn hello_again(&mut self, n: usize) {
        let Some(p) = self.nodes[n].process.as_ref() else { return };
        let hello = codec::encode_hello(&p.shard.hello());
        let up: Vec<usize> =
            p.dials.iter().filter(|(_, d)| matches!(d, Dial::Up { .. })).map(|(to, _)| *to).collect();
        for to in up {
            self.send_frame(n, to, hello.clone());
        }
    }

    /// Puts a frame on its way.
    pub fn send_frame(&mut self, from: usize, to: usize, chunks: Vec<Bytes>) {
        let life = self.nodes[from].life;
        let Some(p) = self.nodes[from].process.as_mut() else { return };
        let Some(Dial::Up { conn, queued }) = p.dials.get_mut(&to) else { return };
        let id = *conn;
        let frame = Bytes::from(chunks.concat());
        *queued += frame.len();
        self.net.frames += 1;
        self.net.bytes += frame.len() as u64;
        let body = frame.slice(4..);
        let decoded = codec::decode(body.clone()).expect("the codec reads what it wrote");
        if let Frame::Raft(envelopes) = &decoded {
            self.net.sent_raft += envelopes.len() as u64;
            self.check.sent(&self.nodes[from], envelopes, &mut self.marks);
        }
        if self.net.weather.datagram && frame[KIND_AT] == RAFT_KIND {
            return self.send_datagram(id, from, to, life, body);
        }
        let due = self.time + self.latency();
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.last_due = conn.last_due.max(due);
        let at = conn.last_due;
        conn.frames.push_back((at, body));
        if conn.frames.len() == 1 {
            self.push(at, Event::Deliver { conn: id });
        }
    }

    fn send_datagram(&mut self, conn: u64, from: usize, to: usize, life: u64, frame: Bytes) {
        let lives = (life, self.nodes[to].life);
        let copies = match self.rng.below(100) {
            0..10 => 0,
            10..20 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let mut delay = self.latency();
            if self.rng.chance(100) {
                delay += self.rng.below(800 * MS);
            }
            let frame = frame.clone();
            self.after(delay, Event::Datagram { conn, from, to, lives, frame });
        }
        if copies != 1 {
            self.marks.hit(if copies == 0 { "datagram lost" } else { "datagram doubled" });
        }
        self.settle_queue(from, to, conn, frame.len() + 4);
    }

    fn settle_queue(&mut self, from: usize, to: usize, id: u64, bytes: usize) {
        if let Some(p) = self.nodes[from].process.as_mut()
            && let Some(Dial::Up { conn, queued }) = p.dials.get_mut(&to)
            && *conn == id
        {
            *queued = queued.saturating_sub(bytes);
        }
    }

    pub fn on_datagram(&mut self, conn: u64, from: usize, to: usize, lives: (u64, u64), frame: Bytes) {
        let same = self.nodes[to].life == lives.1 && self.nodes[to].process.is_some();
        if !same || !self.net.is_open(from, to) {
            return;
        }
        if !self.net.conns.get(&conn).is_some_and(|c| c.introduced) {
            self.marks.hit("frame of a connection that is gone");
        }
        self.receive(from, to, frame);
    }

    /// The first frame of a connection is due.
    pub fn on_deliver(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let (from, to, life) = (conn.from, conn.to, conn.lives.1);
        match conn.frames.front() {
            None => return,
            Some((at, _)) if *at > self.time => {
                let at = *at;
                return self.push(at, Event::Deliver { conn: id });
            }
            Some(_) => {}
        }
        if !self.net.is_open(from, to) || !self.net.is_open(to, from) {
            return self.stall(id);
        }
        if self.nodes[to].life != life || self.nodes[to].process.is_none() {
            if self.nodes[to].process.is_some() {
                // A machine that came back knows nothing of this connection, and says so.
                return self.break_conn(id, true, false);
            }
            return self.stall(id);
        }
        let garble = self.net.weather.garble > 0 && self.rng.below(1_000_000) < self.net.weather.garble;
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.stalled = None;
        let Some((_, frame)) = conn.frames.pop_front() else { return };
        let next = conn.frames.front().map(|(at, _)| *at);
        let introduced = std::mem::replace(&mut conn.introduced, true);
        if let Some(at) = next {
            self.push(at, Event::Deliver { conn: id });
        }
        self.settle_queue(from, to, id, frame.len() + 4);
        if garble {
            return self.deliver_garbled(id, frame);
        }
        if !introduced {
            return self.introduce(id, from, to, frame);
        }
        self.receive(from, to, frame);
    }

    /// A bit flips on the way; whoever decodes must notice, and closes the connection.
    fn deliver_garbled(&mut self, id: u64, frame: Bytes) {
        let mut bytes = frame.to_vec();
        let at = self.rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << self.rng.below(8);
        assert!(codec::decode(Bytes::from(bytes)).is_err(), "a damaged frame was taken for a sound one");
        self.marks.hit("damaged frame closed its connection");
        self.break_conn(id, true, true);
    }

    fn introduce(&mut self, id: u64, from: usize, to: usize, frame: Bytes) {
        let Ok(Frame::Hello(hello)) = codec::decode(frame) else {
            panic!("a connection begins with its Hello")
        };
        let Some(p) = self.nodes[to].process.as_mut() else { return };
        let ours = p.shard.hello().cluster;
        if !ours.is_empty() && !hello.cluster.is_empty() && ours != hello.cluster {
            return self.break_conn(id, true, false);
        }
        self.net.newest.insert((to, from), id);
        p.inputs.push_back(Input::Hello(hello));
        self.wake(to);
    }

    /// A frame arrives, as `broker::peer` hands it to the loop.
    fn receive(&mut self, from: usize, to: usize, frame: Bytes) {
        let node = NodeId(from as i32 + 1);
        let crc = crc32fast::hash(&frame);
        let bytes = frame.len() as u64;
        let decoded = codec::decode(frame).expect("the codec reads what it wrote");
        self.trace.note("frame", (from as u64) << 8 | to as u64, u64::from(crc) << 20 | bytes, || {
            format!("{} -> {} {}", from + 1, to + 1, summary(&decoded))
        });
        let input = match decoded {
            Frame::Hello(_) => return,
            Frame::Raft(envelopes) => Input::Raft { from: node, envelopes },
            Frame::Beats(beats) => Input::Beats { from: node, beats },
            Frame::BeatAnswer(answer) => Input::BeatAnswer { from: node, answer },
            Frame::Hints(hints) => Input::Hints(hints),
            Frame::Request { id, body } => Input::Request { from: node, id, body },
            Frame::Response { id, body } => Input::Response { from: node, id, body },
        };
        if let Some(p) = self.nodes[to].process.as_mut() {
            p.inputs.push_back(input);
            self.wake(to);
        }
    }

    /// Nothing gets through: the frames wait, and the sender gives up after a while.
    fn stall(&mut self, id: u64) {
        let now = self.time;
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        let since = *conn.stalled.get_or_insert(now);
        if since == now {
            self.after(UNACKED_TIMEOUT, Event::Stalled { conn: id, since });
        }
        // Retransmissions come at growing intervals.
        let again = ((now - since) / 2).clamp(100 * MS, SECOND);
        self.after(again, Event::Deliver { conn: id });
    }

    pub fn on_stalled(&mut self, id: u64, since: Time) {
        if self.net.conns.get(&id).is_some_and(|c| c.stalled == Some(since)) {
            self.marks.hit("connection timed out");
            self.break_conn(id, true, false);
        }
    }

    /// Ends a connection. The dialler notices now if `told_from`; the receiver soon if `told_to` and the way is open, else when
    /// its keep-alive gives up.
    pub fn break_conn(&mut self, id: u64, told_from: bool, told_to: bool) {
        let Some(conn) = self.net.conns.remove(&id) else { return };
        let Conn { from, to, lives, .. } = conn;
        self.trace.note("break", from as u64, to as u64, || format!("{} -> {} as {id}", from + 1, to + 1));
        if told_from
            && let Some(p) = self.nodes[from].process.as_mut()
            && p.life == lives.0
            && matches!(p.dials.get(&to), Some(Dial::Up { conn, .. }) if *conn == id)
        {
            p.dials.insert(to, Dial::Trying { backoff: BACKOFF_MIN });
            p.inputs.push_back(Input::Dialled { node: NodeId(to as i32 + 1), up: false });
            let life = p.life;
            self.after(BACKOFF_MIN, Event::Dial { from, to, life });
            self.wake(from);
        }
        if self.net.newest.get(&(to, from)) == Some(&id) {
            let soon = told_to && self.net.is_open(from, to);
            let wait = if soon { self.latency() } else { self.rng.range(6 * SECOND, 9 * SECOND) };
            self.after(wait, Event::Lingered { conn: id, from, to, life: lives.1 });
        }
    }

    pub fn on_lingered(&mut self, id: u64, from: usize, to: usize, life: u64) {
        if self.net.newest.get(&(to, from)) != Some(&id) || self.nodes[to].life != life {
            return;
        }
        self.net.newest.remove(&(to, from));
        if let Some(p) = self.nodes[to].process.as_mut() {
            p.inputs.push_back(Input::PeerReset { node: NodeId(from as i32 + 1) });
            self.wake(to);
        }
    }

    /// Something between these nodes resets their connections, as a process that ends would.
    pub fn reset_between(&mut self, one: &[usize], other: &[usize]) {
        let is_between = |from: usize, to: usize| one.contains(&from) && other.contains(&to);
        let between =
            self.net.conns.iter().filter(|(_, c)| is_between(c.from, c.to) || is_between(c.to, c.from));
        let ids: Vec<u64> = between.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.break_conn(id, true, true));
    }

    /// A process is gone. `reset`: its kernel lives and says so; else the others find out by silence.
    pub fn disconnect_all(&mut self, n: usize, reset: bool) {
        let outgoing: Vec<u64> =
            self.net.conns.iter().filter(|(_, c)| c.from == n).map(|(id, _)| *id).collect();
        for id in outgoing {
            self.break_conn(id, false, reset);
        }
        let incoming: Vec<u64> =
            self.net.conns.iter().filter(|(_, c)| c.to == n).map(|(id, _)| *id).collect();
        for id in incoming {
            let heard = reset && self.net.conns.get(&id).is_some_and(|c| self.net.is_open(n, c.from));
            if heard {
                self.break_conn(id, true, false);
            } else if let Some(conn) = self.net.conns.get_mut(&id) {
                // Frames go nowhere until the sender gives up.
                conn.stalled = Some(self.time);
                conn.frames.clear();
                let since = self.time;
                self.after(UNACKED_TIMEOUT, Event::Stalled { conn: id, since });
            }
        }
        self.net.newest.retain(|(to, _), _| *to != n);
        self.unlink_clients(n, reset);
    }
}

/// One line of a frame for the trace.
fn summary(frame: &Frame) -> String {
    match frame {
        Frame::Hello(hello) => format!("hello {}", hello.node),
        Frame::Raft(envelopes) => {
            let one = |e: &codec::Envelope| format!("g{} {} {:?}", e.group, e.message.epoch, e.message.body);
            let mut text: Vec<String> = envelopes.iter().map(one).collect();
            text.iter_mut().for_each(|t| t.truncate(260));
            text.join(" | ")
        }
        Frame::Beats(beats) => format!("{beats:?}"),
        Frame::BeatAnswer(answer) => format!("{answer:?}"),
        Frame::Hints(hints) => format!("{} hints", hints.len()),
        Frame::Request { id, body } => format!("ask {id} {}", String::from_utf8_lossy(body)),
        Frame::Response { id, body } => format!("answer {id} {}", String::from_utf8_lossy(body)),
    }
}
