//! An idempotent producer as Kafka's clients are: up to five batches of a partition in flight, retries in the order of their
//! sequence numbers and one at a time, no answer is an answer that may have been lost.

use crate::client::{Ask, Reply};
use crate::world::{MS, Time, World};
use bytes::Bytes;
use kontiki::broker::api::PartitionError;
use kontiki::client::records::{BatchBuilder, ProducerStamp, Record};
use kontiki::ctl::command::{Command as CtlCommand, Reply as CtlReply};
use kontiki::segment::{GroupId, NodeId};
use kontiki::wire::compression::Compression;
use std::collections::{BTreeMap, VecDeque};

/// How a producer behaves.
#[derive(Clone, Debug)]
pub struct Style {
    pub topic: String,
    /// -1, or 1 for one that takes losses.
    pub acks: i16,
    /// Without a producer id its retries may write twice.
    pub idempotent: bool,
    pub in_flight: usize,
    /// Pause between batches of one partition.
    pub think: (Time, Time),
    /// Bytes of a record's value.
    pub value: (u64, u64),
    /// Records of a batch.
    pub records: (u64, u64),
    /// Batches per partition, then it is done.
    pub limit: u64,
    /// Longest wait asked of the broker.
    pub timeout_ms: u64,
    /// Records have one of so many keys, and some are tombstones; none: no keys.
    pub keys: Option<u64>,
}

struct Batch {
    sequence: i32,
    count: i32,
    bytes: Bytes,
    sent: Option<u64>,
    attempts: u32,
    /// How many this partition had before it.
    ordinal: u64,
}

struct Part {
    number: i32,
    group: GroupId,
    leader: Option<usize>,
    next_sequence: i32,
    made: u64,
    acked: u64,
    queue: VecDeque<Batch>,
    not_before: Time,
    next_batch: Time,
    /// Its group lost something uncleanly: this producer has a gap there and says no more.
    given_up: bool,
}

/// A producer of one topic.
pub struct Producer {
    pub style: Style,
    id: Option<i64>,
    parts: BTreeMap<i32, Part>,
    /// Of metadata or of an id, and until when it is waited for.
    asking: Option<u64>,
    is_stale: bool,
    stopped: bool,
    number: u64,
}

const REMEMBERED: u64 = 5;
/// Attempts after which a batch of a producer without sequence numbers is let go.
const PATIENCE: u32 = 6;

impl Producer {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            id: None,
            parts: BTreeMap::new(),
            asking: None,
            is_stale: true,
            stopped: false,
            number: 0,
        }
    }

    /// No new batches; what is out is still seen through.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// An unclean generation of this group lost something. If that was a batch of this producer which it does not send again, its next
    /// one is a gap (safety.md F21), and it says no more. `next`: the sequence that it has come to in what is left.
    pub fn hear_of_loss(&mut self, group: GroupId, next: impl Fn(i64) -> i32) {
        let Some(id) = self.id.filter(|_| self.style.idempotent) else { return };
        for part in self.parts.values_mut().filter(|p| p.group == group) {
            let sent = part.queue.front().map_or(part.next_sequence, |batch| batch.sequence);
            if sent > next(id) {
                part.given_up = true;
                part.queue.clear();
            }
        }
    }

    /// Whether everything it made is answered.
    pub fn is_done(&self) -> bool {
        self.parts
            .values()
            .all(|p| p.queue.is_empty() && (self.stopped || p.given_up || p.made >= self.style.limit))
            && (self.stopped || !self.parts.is_empty())
    }

    pub fn describe(&self) -> String {
        let part = |p: &Part| {
            let leader = p.leader.map(|l| l + 1);
            format!(
                "[p{} leader {leader:?} made {} acked {} queued {}]",
                p.number,
                p.made,
                p.acked,
                p.queue.len()
            )
        };
        let parts: Vec<String> = self.parts.values().map(part).collect();
        format!("producer {:?} of {} {}", self.id, self.style.topic, parts.join(" "))
    }

    /// Sends what can be sent; answers when to look again.
    pub fn act(&mut self, world: &mut World, me: usize) -> Time {
        if self.asking.is_none() && (self.is_stale || (self.style.idempotent && self.id.is_none())) {
            let brokers = world.plan.brokers();
            if let Some(node) = world.rng.pick(&brokers) {
                let ask = if self.style.idempotent && self.id.is_none() {
                    Ask::Controller(CtlCommand::AllocateProducerIds { node: NodeId(node as i32 + 1) })
                } else {
                    Ask::Metadata { topic: self.style.topic.clone() }
                };
                self.asking = Some(world.ask(me, node, ask));
            }
        }
        if self.style.idempotent && self.id.is_none() {
            return 50 * MS;
        }
        let numbers: Vec<i32> = self.parts.keys().copied().collect();
        for number in numbers {
            self.make(world, number);
            self.pump(world, me, number);
        }
        20 * MS
    }

    /// Makes the next batch of a partition, if it is time.
    fn make(&mut self, world: &mut World, number: i32) {
        let time = world.time;
        let style = self.style.clone();
        let Some(part) = self.parts.get_mut(&number) else { return };
        let room = part.queue.len() < style.in_flight + 2;
        if self.stopped || part.given_up || part.made >= style.limit || time < part.next_batch || !room {
            return;
        }
        part.next_batch = time + world.rng.range(style.think.0, style.think.1);
        let count = world.rng.range(style.records.0, style.records.1 + 1) as i32;
        let mut values = Vec::new();
        for i in 0..count {
            let len = world.rng.range(style.value.0, style.value.1 + 1) as usize;
            self.number += 1;
            let mut value = format!("{}/{number}/{}/{i}/", self.id.unwrap_or(-1), self.number).into_bytes();
            value.resize(value.len().max(len), b'a' + (self.number % 26) as u8);
            // Other keys after a while: what was deleted then stays deleted.
            let era = self.number / 60;
            let key = style.keys.map(|keys| Bytes::from(format!("key-{era}-{}", world.rng.below(keys))));
            let is_tombstone = key.is_some() && world.rng.chance(300);
            values.push((key, (!is_tombstone).then(|| Bytes::from(value))));
        }
        let stamp = match self.id {
            Some(id) => ProducerStamp { id, epoch: 0, sequence: part.next_sequence },
            None => ProducerStamp::default(),
        };
        let bytes = world.check.attempt(time, |timestamp| {
            let mut builder = BatchBuilder::with_capacity(256);
            for (key, value) in &values {
                let record = Record { key: key.clone(), value: value.clone(), ..Record::default() };
                builder.push(&record, timestamp);
            }
            builder.finish(Compression::None, stamp).expect("a batch of a few records").freeze()
        });
        part.queue.push_back(Batch {
            sequence: part.next_sequence,
            count,
            bytes,
            sent: None,
            attempts: 0,
            ordinal: part.made,
        });
        part.next_sequence += count;
        part.made += 1;
    }

    /// Sends what order allows: new batches behind sent ones, retries only as the first unanswered one.
    fn pump(&mut self, world: &mut World, me: usize, number: i32) {
        let time = world.time;
        let Some(part) = self.parts.get_mut(&number) else { return };
        let Some(leader) = part.leader else {
            self.is_stale = true;
            return;
        };
        if time < part.not_before {
            return;
        }
        let mut out = part.queue.iter().filter(|b| b.sent.is_some()).count();
        let first = part.queue.front().map_or(0, |b| b.ordinal);
        for (place, batch) in part.queue.iter_mut().enumerate() {
            if batch.sent.is_some() {
                continue;
            }
            // Brokers remember five batches of a producer: nothing goes further beyond the first unanswered one.
            let far = batch.ordinal >= first + REMEMBERED;
            if far || out >= self.style.in_flight || (batch.attempts > 0 && place > 0) {
                break;
            }
            batch.attempts += 1;
            let ask = Ask::Produce {
                topic: self.style.topic.clone(),
                group: part.group,
                batch: batch.bytes.clone(),
                acks: self.style.acks,
                timeout_ms: self.style.timeout_ms,
            };
            batch.sent = Some(world.ask(me, leader, ask));
            out += 1;
        }
    }

    pub fn on_reply(&mut self, world: &mut World, me: usize, node: usize, id: u64, reply: Reply) {
        if self.asking == Some(id) {
            self.asking = None;
            match reply {
                Reply::Metadata(rows) if !rows.is_empty() => self.learn(rows),
                Reply::Controller(Ok((CtlReply::ProducerIds { first, .. }, _))) => self.id = Some(first),
                _ => {}
            }
            world.wake_client(me, 10 * MS);
            return;
        }
        let found = self.parts.iter().find_map(|(number, part)| {
            part.queue.iter().position(|b| b.sent == Some(id)).map(|place| (*number, place))
        });
        let Some((number, place)) = found else { return };
        match reply {
            Reply::Produced(Ok(_)) => {
                self.acknowledge(number, place);
                let group = self.parts.get(&number).map(|part| part.group);
                if let Some(group) = group.filter(|group| world.check.losses(*group) > 0) {
                    // Word of a batch that was lost since may have been on its way.
                    self.hear_of_loss(group, |id| world.check.next_sequence(group, id));
                }
            }
            Reply::Produced(Err(error)) => self.failed(world, number, place, node, &error),
            _ => self.retry(world, number, place),
        }
        self.pump(world, me, number);
    }

    fn learn(&mut self, rows: Vec<(i32, GroupId, Option<usize>)>) {
        self.is_stale = false;
        for (number, group, leader) in rows {
            let part = self.parts.entry(number).or_insert_with(|| Part {
                number,
                group,
                leader,
                next_sequence: 0,
                made: 0,
                acked: 0,
                queue: VecDeque::new(),
                not_before: 0,
                next_batch: 0,
                given_up: false,
            });
            part.leader = leader;
        }
    }

    fn acknowledge(&mut self, number: i32, place: usize) {
        let Some(part) = self.parts.get_mut(&number) else { return };
        part.queue.remove(place);
        part.acked += 1;
    }

    fn failed(&mut self, world: &mut World, number: i32, place: usize, node: usize, error: &PartitionError) {
        let head = place == 0;
        match error {
            PartitionError::NotLeader { leader } => {
                let hint = leader.map(|l| crate::net::index_of(l.node)).filter(|l| *l != node);
                if let Some(part) = self.parts.get_mut(&number) {
                    part.leader = hint;
                }
                self.is_stale |= hint.is_none();
            }
            // A client that did everything in order must not be told that it did not (KIP-98).
            PartitionError::OutOfOrderSequence(text) => {
                assert!(!head, "I5: an orderly producer is told of a gap: {text}; {}", self.describe());
            }
            PartitionError::InvalidProducerEpoch { .. } => panic!("I5: a sole producer is fenced: {error}"),
            PartitionError::Invalid(text) => panic!("a well-formed batch is refused: {text}"),
            PartitionError::Unknown | PartitionError::Storage(_) | PartitionError::DiskFull => {
                self.is_stale = true;
            }
            PartitionError::NotEnoughReplicas | PartitionError::NotEnoughReplicasAfterAppend => {
                world.marks.hit("too few replicas in sync");
            }
            _ => {}
        }
        if matches!(error, PartitionError::DiskFull) {
            world.marks.hit("produce refused by a full disk");
        }
        self.retry(world, number, place);
    }

    fn retry(&mut self, world: &mut World, number: i32, place: usize) {
        let wait = world.rng.range(20 * MS, 120 * MS);
        let now = world.time;
        let idempotent = self.style.idempotent;
        let Some(part) = self.parts.get_mut(&number) else { return };
        part.not_before = part.not_before.max(now + wait);
        if !idempotent && part.queue[place].attempts >= PATIENCE {
            part.queue.remove(place);
            return;
        }
        part.queue[place].sent = None;
        let count = part.queue[place].count;
        debug_assert!(count > 0 && part.queue[place].sequence >= 0);
        self.is_stale = true;
    }
}
