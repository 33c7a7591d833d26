//! Clients and their connections: requests reach a node in order, answers come back in order, or the connection breaks.
//!
//! What a request handler does between a connection and the shard is done here as the handlers do it: look up the image,
//! validate the batch, submit the command, verify what comes from a map. What clients do with answers: `producer`, `reader`.

use crate::check::Answering;
use crate::clerk::Clerk;
use crate::producer::Producer;
use crate::reader::Reader;
use crate::world::{Event, MS, Time, World};
use bytes::{Bytes, BytesMut};
use kontiki::broker::api::{
    FetchItem, FetchLimits, Fetched, ListedOffset, OffsetSpec, PartitionError, PartitionState, ProduceItem,
    Produced,
};
use kontiki::broker::shard::{Command, CtlAnswer};
use kontiki::ctl::command::Command as CtlCommand;
use kontiki::segment::GroupId;
use kontiki::wire::batch::{self, BatchRules};
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// How long a client waits for an answer before it gives the connection up.
const REQUEST_TIMEOUT: Time = 2_000 * MS;

/// What clients ask.
#[derive(Clone, Debug)]
pub enum Ask {
    Metadata { topic: String },
    Produce { topic: String, group: GroupId, batch: Bytes, acks: i16, timeout_ms: u64 },
    Fetch { item: FetchItem, limits: FetchLimits },
    Latest { group: GroupId },
    DeleteRecords { group: GroupId, offset: i64 },
    Controller(CtlCommand),
}

/// What a node answers.
#[derive(Debug)]
pub enum Reply {
    /// Partition, group, leader as the node knows it.
    Metadata(Vec<(i32, GroupId, Option<usize>)>),
    Produced(Result<Produced, PartitionError>),
    Fetched(Box<FetchedReply>),
    Listed(Result<ListedOffset, PartitionError>),
    Deleted(Result<i64, PartitionError>),
    Controller(CtlAnswer),
    /// The connection broke before an answer came.
    Broken,
}

/// A fetch's answer as it leaves the node.
#[derive(Debug)]
pub struct FetchedReply {
    pub error: Option<PartitionError>,
    pub high_watermark: i64,
    pub log_start: i64,
    pub diverging: Option<(i32, i64)>,
    pub batches: Vec<Bytes>,
}

enum Answer {
    Ready(Option<Reply>),
    Produced(oneshot::Receiver<Vec<Result<Produced, PartitionError>>>),
    Fetched(oneshot::Receiver<Vec<Fetched>>),
    Listed(oneshot::Receiver<Result<ListedOffset, PartitionError>>),
    Deleted(oneshot::Receiver<Result<i64, PartitionError>>),
    States(Vec<(i32, GroupId)>, oneshot::Receiver<Vec<PartitionState>>),
    Controller(oneshot::Receiver<CtlAnswer>),
}

/// A request inside a node.
pub struct Waiting {
    client: usize,
    link: u64,
    id: u64,
    ask: Ask,
    at: Time,
    answer: Answer,
    /// The shard has answered; an earlier request of the connection may still hold it up.
    is_answered: bool,
}

/// A connection as the client sees it.
#[derive(Default)]
struct Link {
    number: u64,
    last_request: Time,
    last_answer: Time,
}

struct Sent {
    node: usize,
    link: u64,
    deadline: Time,
}

/// What a client is for.
pub enum Work {
    Producer(Box<Producer>),
    Reader(Box<Reader>),
    Clerk(Box<Clerk>),
    /// Driven from outside: answers are collected.
    Manual(BTreeMap<u64, Reply>),
}

/// A client.
pub struct Client {
    pub index: usize,
    /// Its end of the network.
    pub place: usize,
    pub work: Work,
    links: BTreeMap<usize, Link>,
    sent: BTreeMap<u64, Sent>,
    next: u64,
    token: u64,
}

impl Client {
    pub fn describe(&self) -> String {
        let what = match &self.work {
            Work::Producer(p) => p.describe(),
            Work::Reader(r) => r.describe(),
            Work::Clerk(c) => c.describe(),
            Work::Manual(_) => "manual".to_owned(),
        };
        format!("client {}: {} requests out, {what}\n", self.index, self.sent.len())
    }
}

impl World {
    /// Adds a client.
    pub fn add_client(&mut self, work: Work) -> usize {
        let index = self.clients.len();
        let place = self.nodes.len() + index;
        let links = BTreeMap::new();
        self.clients.push(Client { index, place, work, links, sent: BTreeMap::new(), next: 0, token: 0 });
        self.wake_client(index, MS);
        index
    }

    /// The client acts after a while; replaces what it had planned.
    pub fn wake_client(&mut self, client: usize, wait: Time) {
        let c = &mut self.clients[client];
        c.token += 1;
        let token = c.token;
        self.after(wait, Event::Client { client, token });
    }

    pub fn on_client(&mut self, client: usize, token: u64) {
        self.expire(client);
        if self.clients[client].token != token {
            return;
        }
        let mut work = std::mem::replace(&mut self.clients[client].work, Work::Manual(BTreeMap::new()));
        let wait = match &mut work {
            Work::Producer(p) => p.act(self, client),
            Work::Reader(r) => r.act(self, client),
            Work::Clerk(c) => c.act(self, client),
            Work::Manual(_) => 100 * MS,
        };
        self.clients[client].work = work;
        self.wake_client(client, wait);
    }

    /// Gives up connections whose oldest request has waited too long.
    fn expire(&mut self, client: usize) {
        let now = self.time;
        let late: Vec<(usize, u64)> = self.clients[client]
            .sent
            .values()
            .filter(|s| s.deadline <= now)
            .map(|s| (s.node, s.link))
            .collect();
        for (node, link) in late {
            self.unlink(client, node, link);
        }
    }

    /// Sends a request; its number comes back with the answer.
    pub fn ask(&mut self, client: usize, node: usize, ask: Ask) -> u64 {
        let delay = self.latency();
        let now = self.time;
        let c = &mut self.clients[client];
        c.next += 1;
        let id = c.next;
        let link = c.links.entry(node).or_default();
        link.last_request = link.last_request.max(now + delay);
        let (at, number) = (link.last_request, link.number);
        let longer = match &ask {
            Ask::Fetch { limits, .. } => limits.max_wait_ms * MS,
            Ask::Produce { timeout_ms, .. } => timeout_ms * MS,
            Ask::Controller(_) => 2_000 * MS,
            _ => 0,
        };
        c.sent.insert(id, Sent { node, link: number, deadline: now + REQUEST_TIMEOUT + longer });
        self.push(at, Event::Asked { client, node, link: number, id, ask: Box::new(ask) });
        id
    }

    /// The request reaches the node: what its connection task and handler do.
    pub fn on_asked(&mut self, client: usize, node: usize, link: u64, id: u64, ask: Ask) {
        let place = self.clients[client].place;
        if !self.net.is_open(place, node) {
            return;
        }
        let current = self.clients[client].links.get(&node).is_some_and(|l| l.number == link);
        if !current && self.rng.chance(500) {
            // Given up by the client; what is in a socket buffer may be read before its end is, or not.
            return;
        }
        let time = self.time;
        let now = self.nodes[node].now(time);
        let defaults = self.nodes[node].config.defaults.clone();
        let Some(p) = self.nodes[node].process.as_mut() else {
            if current {
                let wait = self.latency();
                self.after(wait, Event::Unlinked { client, node, link });
            }
            return;
        };
        if !p.shard.status().registered {
            return;
        }
        let mut commands = Vec::new();
        let text = ask_text(&ask);
        let answer = match ask.clone() {
            Ask::Metadata { topic } => {
                let found = p.image.topics.get(&topic);
                let groups: Vec<(i32, GroupId)> = found
                    .map(|t| t.partitions.iter().enumerate().map(|(i, p)| (i as i32, p.group)).collect())
                    .unwrap_or_default();
                let (reply, answer) = oneshot::channel();
                commands.push(Command::States { groups: groups.iter().map(|(_, g)| *g).collect(), reply });
                Answer::States(groups, answer)
            }
            Ask::Produce { topic, group, batch, acks, timeout_ms } => {
                match plan_produce(&p.image, &defaults, &topic, group, &batch, now.wall_ms) {
                    Ok(item) => {
                        let (reply, answer) = oneshot::channel();
                        let items = vec![item];
                        commands.push(Command::Produce { items, acks, timeout_ms, permit: None, reply });
                        Answer::Produced(answer)
                    }
                    Err(error) => Answer::Ready(Some(Reply::Produced(Err(error)))),
                }
            }
            Ask::Fetch { item, limits } => {
                let (reply, answer) = oneshot::channel();
                commands.push(Command::Fetch { items: vec![item], limits, reply });
                Answer::Fetched(answer)
            }
            Ask::Latest { group } => {
                let (reply, answer) = oneshot::channel();
                commands.push(Command::ListOffset { group, spec: OffsetSpec::Latest, epoch: -1, reply });
                Answer::Listed(answer)
            }
            Ask::DeleteRecords { group, offset } => {
                let (reply, answer) = oneshot::channel();
                commands.push(Command::DeleteRecords { group, offset, timeout_ms: 1_500, reply });
                Answer::Deleted(answer)
            }
            Ask::Controller(command) => {
                let (reply, answer) = oneshot::channel();
                commands.push(Command::Controller { command, timeout_ms: 3_000, reply });
                Answer::Controller(answer)
            }
        };
        p.commands.extend(commands);
        p.waiting.push_back(Waiting { client, link, id, ask, at: time, answer, is_answered: false });
        self.trace.note("asked", (client as u64) << 8 | node as u64, id, || {
            format!("client {client} asks node {} as {id}: {text}", node + 1)
        });
        self.wake(node);
    }

    /// After a turn: sends what is answered, in the order of each connection.
    pub fn answer_clients(&mut self, n: usize) {
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        let mut kept = std::collections::VecDeque::new();
        let mut blocked: Vec<(usize, u64)> = Vec::new();
        let (mut ready, mut answered) = (Vec::new(), Vec::new());
        while let Some(mut waiting) = p.waiting.pop_front() {
            let key = (waiting.client, waiting.link);
            let reply = waiting.answer.poll();
            if let Some(reply) = &reply
                && !std::mem::replace(&mut waiting.is_answered, true)
            {
                answered.push((waiting.ask.clone(), produced_at(reply), answered_for(&waiting.ask, reply)));
            }
            match reply {
                Some(reply) if !blocked.contains(&key) => ready.push((waiting, reply)),
                reply => {
                    if reply.is_some() {
                        waiting.answer = Answer::Ready(reply);
                    }
                    blocked.push(key);
                    kept.push_back(waiting);
                }
            }
        }
        p.waiting = kept;
        for (ask, offset, group) in answered {
            self.check_answer(n, group);
            if let (Ask::Produce { topic, group, acks: -1, .. }, Some(offset)) = (ask, offset) {
                let least = if topic == "t" { self.plan.min_insync.max(1) as usize } else { 1 };
                self.count_holders(n, group, offset, least);
            }
        }
        for (Waiting { client, link, id, ask, at, .. }, reply) in ready {
            // One whose own disk is out of service may still count what others hold.
            let failed = self.nodes[n].process.as_ref().is_some_and(|p| p.failed);
            self.check.excused = self.nodes[n].damaged || self.nodes[n].starved || failed;
            self.check.answering = self.answering(n, &ask);
            let life = self.nodes[n].life;
            self.check_left(n, (client, life << 32 | link), &ask, at, &reply);
            let delay = self.latency();
            let now = self.time;
            let Some(l) = self.clients[client].links.get_mut(&n) else { continue };
            if l.number != link {
                continue;
            }
            l.last_answer = l.last_answer.max(now + delay);
            let at = l.last_answer;
            self.push(at, Event::Answered { client, node: n, link, id, reply: Box::new(reply) });
        }
    }

    /// Whoever answers for a partition that needs leases does so in no generation that is over.
    fn check_answer(&mut self, n: usize, group: Option<GroupId>) {
        let Some(group) = group.filter(|_| self.plan.recovers) else { return };
        let core = self.nodes[n].process.as_mut().and_then(|p| p.shard.engine().core(group));
        if self.plan.is_auto()
            && let Some(core) = core
        {
            self.check.answered_in(n, group, core.epoch().generation);
        }
    }

    /// The replica that answers a fetch.
    fn answering(&mut self, n: usize, ask: &Ask) -> Answering {
        let (Ask::Fetch { item, .. }, Some(p)) = (ask, self.nodes[n].process.as_mut()) else {
            return Answering::default();
        };
        p.shard.engine().core(item.group).map_or_else(Answering::default, |core| Answering {
            replica: core.replica(),
            generation: core.epoch().generation,
            is_apart: core.last().epoch.generation < core.epoch().generation,
        })
    }

    /// What an answer promises the moment it leaves the node, whether or not it arrives.
    fn check_left(&mut self, n: usize, link: (usize, u64), ask: &Ask, asked: Time, reply: &Reply) {
        match (ask, reply) {
            (Ask::Produce { group, batch, acks, .. }, Reply::Produced(Ok(produced))) => {
                let (group, offset) = (*group, produced.base_offset);
                let fresh = self.check.acked(group, offset, batch, *acks, &mut self.marks);
                if *acks == -1 && fresh {
                    self.probe_durability(group, offset);
                }
            }
            (Ask::Fetch { item, .. }, Reply::Fetched(fetched)) => {
                self.check.fetched(n, link, item, fetched);
            }
            (Ask::DeleteRecords { group, .. }, Reply::Deleted(Ok(start))) => {
                self.check.deleted(*group, *start);
            }
            (Ask::Latest { group }, Reply::Listed(Ok(listed))) => {
                self.check.latest(*group, asked, listed.offset);
            }
            _ => {}
        }
    }

    /// Whoever acknowledges knows that enough voters hold it, learners aside (F15).
    fn count_holders(&mut self, n: usize, group: GroupId, offset: i64, least: usize) {
        let index = self.check.logs.get(&group).and_then(|log| log.at(offset)).map(|e| e.id.index);
        let Some(p) = self.nodes[n].process.as_mut() else { return };
        if let (Some(index), Some(core)) = (index, p.shard.engine().core(group)) {
            self.check.counted_for(n, group, core, index, least);
        }
    }

    pub fn on_answered(&mut self, client: usize, node: usize, link: u64, id: u64, reply: Reply) {
        if !self.net.is_open(node, self.clients[client].place) {
            return;
        }
        let current = self.clients[client].links.get(&node).is_some_and(|l| l.number == link);
        if !current || self.clients[client].sent.remove(&id).is_none() {
            return;
        }
        self.trace.note("answered", (client as u64) << 8 | node as u64, id, || {
            let mut text = format!("node {} answers {id} of client {client}: {reply:?}", node + 1);
            text.truncate(240);
            text
        });
        self.take_reply(client, node, id, reply);
    }

    fn take_reply(&mut self, client: usize, node: usize, id: u64, reply: Reply) {
        let mut work = std::mem::replace(&mut self.clients[client].work, Work::Manual(BTreeMap::new()));
        match &mut work {
            Work::Producer(p) => p.on_reply(self, client, node, id, reply),
            Work::Reader(r) => r.on_reply(self, client, node, id, reply),
            Work::Clerk(c) => c.on_reply(self, client, id, reply),
            Work::Manual(answers) => {
                answers.insert(id, reply);
            }
        }
        self.clients[client].work = work;
    }

    /// The client's connection to this node is broken: every request on it fails.
    fn unlink(&mut self, client: usize, node: usize, link: u64) {
        let c = &mut self.clients[client];
        let Some(l) = c.links.get_mut(&node).filter(|l| l.number == link) else { return };
        l.number += 1;
        let lost: Vec<u64> =
            c.sent.iter().filter(|(_, s)| s.node == node && s.link == link).map(|(id, _)| *id).collect();
        for id in lost {
            self.clients[client].sent.remove(&id);
            self.take_reply(client, node, id, Reply::Broken);
        }
    }

    pub fn on_unlinked(&mut self, client: usize, node: usize, link: u64) {
        if self.net.is_open(node, self.clients[client].place) {
            self.unlink(client, node, link);
        }
    }

    /// A node's process is gone: clients hear of it if its kernel lives.
    pub fn unlink_clients(&mut self, n: usize, reset: bool) {
        if !reset {
            return;
        }
        for client in 0..self.clients.len() {
            let Some(link) = self.clients[client].links.get(&n).map(|l| l.number) else { continue };
            let wait = self.latency();
            self.after(wait, Event::Unlinked { client, node: n, link });
        }
    }

    /// Asks and waits in virtual time; for set-up and labs. None: no answer.
    pub fn call(&mut self, client: usize, node: usize, ask: Ask, wait: Time) -> Option<Reply> {
        let id = self.ask(client, node, ask);
        let mut found = None;
        self.try_until(wait, |world| {
            if let Work::Manual(answers) = &mut world.clients[client].work {
                found = answers.remove(&id);
            }
            found.is_some()
        });
        found
    }
}

fn produced_at(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Produced(Ok(produced)) => Some(produced.base_offset),
        _ => None,
    }
}

fn ask_text(ask: &Ask) -> String {
    let mut text = match ask {
        Ask::Produce { group, batch, acks, .. } => {
            let header = batch::BatchHeader::read(batch);
            let who = header.map(|h| (h.producer_id, h.base_sequence, h.record_count));
            format!("produce g{group} acks {acks} {who:?}")
        }
        other => format!("{other:?}"),
    };
    text.truncate(200);
    text
}

/// What the Produce handler does with one partition's batch.
fn plan_produce(
    image: &kontiki::ctl::image::Image,
    defaults: &kontiki::ctl::command::Defaults,
    topic: &str,
    group: GroupId,
    bytes: &Bytes,
    now_ms: i64,
) -> Result<ProduceItem, PartitionError> {
    let topic = image.topics.get(topic).ok_or(PartitionError::Unknown)?;
    if !topic.partitions.iter().any(|p| p.group == group) {
        return Err(PartitionError::Unknown);
    }
    let config = image.topic_config(topic, defaults);
    let rules = BatchRules {
        max_message_bytes: config.max_message_bytes,
        produce_version: 9,
        before_max_ms: config.timestamp_before_max_ms,
        after_max_ms: config.timestamp_after_max_ms,
        now_ms,
        log_append_time: config.log_append_time,
    };
    let mut batch = BytesMut::from(&bytes[..]);
    let header = batch::validate(&mut batch, &rules).map_err(|e| PartitionError::Invalid(e.to_string()))?;
    Ok(ProduceItem { group, batch, header, min_insync: config.min_insync_replicas })
}

/// The partition that an answer says something of, refusals aside.
fn answered_for(ask: &Ask, reply: &Reply) -> Option<GroupId> {
    match (ask, reply) {
        (Ask::Produce { group, acks, .. }, Reply::Produced(Ok(_))) if *acks != 0 => Some(*group),
        (Ask::Fetch { item, .. }, Reply::Fetched(fetched)) if fetched.error.is_none() => Some(item.group),
        (Ask::Latest { group }, Reply::Listed(Ok(_))) => Some(*group),
        (Ask::DeleteRecords { group, .. }, Reply::Deleted(Ok(_))) => Some(*group),
        _ => None,
    }
}

impl Answer {
    /// The reply, once the shard has given it. A shard that drops a request is a shard that is ending.
    fn poll(&mut self) -> Option<Reply> {
        fn take<T>(receiver: &mut oneshot::Receiver<T>) -> Option<Option<T>> {
            match receiver.try_recv() {
                Ok(answer) => Some(Some(answer)),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Closed) => Some(None),
            }
        }
        Some(match self {
            Self::Ready(reply) => reply.take()?,
            Self::Produced(r) => {
                let results = take(r)?.expect("a produce is answered exactly once");
                Reply::Produced(results.into_iter().next().expect("one result per item"))
            }
            Self::Fetched(r) => {
                let fetched = take(r)?.expect("a fetch is answered exactly once");
                Reply::Fetched(Box::new(verified(fetched.into_iter().next().expect("one result per item"))))
            }
            Self::Listed(r) => Reply::Listed(take(r)?.expect("a read is answered exactly once")),
            Self::Deleted(r) => Reply::Deleted(take(r)?.expect("a delete is answered exactly once")),
            Self::Controller(r) => Reply::Controller(take(r)?.expect("a command is answered exactly once")),
            Self::States(groups, r) => {
                let states = take(r)?.expect("states are answered at once");
                let rows = groups.iter().zip(states);
                let leader = |s: PartitionState| s.leader.map(|l| crate::net::index_of(l.node));
                Reply::Metadata(rows.map(|((p, group), state)| (*p, *group, leader(state))).collect())
            }
        })
    }
}

/// What the Fetch handler does before anything is sent: checks what comes unchecked from a map.
fn verified(mut fetched: Fetched) -> FetchedReply {
    for check in fetched.checks.drain(..).flatten() {
        if let Err(error) = check.verify() {
            fetched.batches.clear();
            fetched.error = Some(PartitionError::Storage(error.to_string()));
            break;
        }
    }
    if fetched.error.is_some() {
        fetched.batches.clear();
    }
    FetchedReply {
        error: fetched.error,
        high_watermark: fetched.high_watermark,
        log_start: fetched.log_start_offset,
        diverging: fetched.diverging_epoch,
        batches: fetched.batches,
    }
}
