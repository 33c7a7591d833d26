//! A clerk of the labs: does one thing after another with a few keys (partitions), appends and reads, and writes down when each was
//! called and answered. Append is an idempotent produce that is repeated until it is answered; Get asks for the end, confirmed by a
//! majority, and reads up to it.

use crate::client::{Ask, FetchedReply, Reply};
use crate::history::{Action, Operation};
use crate::world::{MS, Time, World};
use bytes::Bytes;
use kontiki::broker::api::{FetchItem, FetchLimits, PartitionError};
use kontiki::client::records::{BatchBuilder, ProducerStamp, Record, next_batch};
use kontiki::ctl::command::{Command as CtlCommand, Reply as CtlReply};
use kontiki::segment::{GroupId, NodeId};
use kontiki::wire::batch::BatchHeader;
use kontiki::wire::compression::Compression;
use std::collections::BTreeMap;

enum Doing {
    Nothing,
    Append {
        key: usize,
        value: u64,
        batch: Bytes,
        called: Time,
    },
    /// Asks for the end.
    End {
        key: usize,
        called: Time,
    },
    /// Reads up to it.
    Read {
        key: usize,
        called: Time,
        end: i64,
    },
}

/// One clerk.
pub struct Clerk {
    /// Partitions it works on, by number.
    keys: Vec<usize>,
    groups: BTreeMap<usize, GroupId>,
    leaders: BTreeMap<usize, usize>,
    id: Option<i64>,
    sequences: BTreeMap<usize, i32>,
    /// What it has read of each key: values by offset.
    read: BTreeMap<usize, BTreeMap<i64, u64>>,
    position: BTreeMap<usize, i64>,
    doing: Doing,
    out: Option<u64>,
    asking: Option<u64>,
    /// Share of reads, in a thousand.
    gets: u64,
    left: u64,
    stopped: bool,
    next: u64,
    not_before: Time,
    pub history: Vec<(usize, Operation)>,
    /// Values it appended, by key, in the order in which they were answered.
    pub appended: BTreeMap<usize, Vec<u64>>,
}

/// Values are told apart by who made them.
pub const VALUES: u64 = 1_000_000;

impl Clerk {
    pub fn new(number: u64, keys: Vec<usize>, gets: u64, operations: u64) -> Self {
        Self {
            keys,
            groups: BTreeMap::new(),
            leaders: BTreeMap::new(),
            id: None,
            sequences: BTreeMap::new(),
            read: BTreeMap::new(),
            position: BTreeMap::new(),
            doing: Doing::Nothing,
            out: None,
            asking: None,
            gets,
            left: operations,
            stopped: false,
            next: number * VALUES,
            not_before: 0,
            history: Vec::new(),
            appended: BTreeMap::new(),
        }
    }

    /// Begins nothing new.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    pub fn is_done(&self) -> bool {
        matches!(self.doing, Doing::Nothing) && (self.stopped || self.left == 0)
    }

    pub fn describe(&self) -> String {
        format!("clerk {:?}: {} done, {} to do", self.id, self.history.len(), self.left)
    }

    fn key(&self) -> Option<usize> {
        match &self.doing {
            Doing::Nothing => None,
            Doing::Append { key, .. } | Doing::End { key, .. } | Doing::Read { key, .. } => Some(*key),
        }
    }

    pub fn act(&mut self, world: &mut World, me: usize) -> Time {
        let brokers = world.plan.brokers();
        if self.asking.is_none() && (self.id.is_none() || self.leaders.is_empty()) {
            let node = world.rng.pick(&brokers).expect("there are brokers");
            let ask = if self.id.is_none() {
                Ask::Controller(CtlCommand::AllocateProducerIds { node: NodeId(node as i32 + 1) })
            } else {
                Ask::Metadata { topic: "t".to_owned() }
            };
            self.asking = Some(world.ask(me, node, ask));
        }
        if self.id.is_none() || self.groups.is_empty() {
            return 20 * MS;
        }
        let rested = world.time >= self.not_before;
        if matches!(self.doing, Doing::Nothing) && !self.stopped && self.left > 0 && rested {
            self.begin(world);
        }
        self.send(world, me);
        20 * MS
    }

    fn begin(&mut self, world: &mut World) {
        self.left -= 1;
        let key = world.rng.pick(&self.keys).expect("a clerk has keys");
        let called = world.time;
        if world.rng.chance(self.gets) {
            self.doing = Doing::End { key, called };
            return;
        }
        self.next += 1;
        let value = self.next;
        let sequence = *self.sequences.get(&key).unwrap_or(&0);
        let stamp = ProducerStamp { id: self.id.unwrap_or(-1), epoch: 0, sequence };
        let batch = world.check.attempt(world.time, |timestamp| {
            let mut builder = BatchBuilder::with_capacity(128);
            let record = Record { value: Some(Bytes::from(value.to_string())), ..Record::default() };
            builder.push(&record, timestamp);
            builder.finish(Compression::None, stamp).expect("a batch of one record").freeze()
        });
        let crc = BatchHeader::read(&batch).map_or(0, |h| h.crc);
        world.values.insert(crc, value);
        self.doing = Doing::Append { key, value, batch, called };
    }

    fn send(&mut self, world: &mut World, me: usize) {
        let Some(key) = self.key().filter(|_| self.out.is_none() && world.time >= self.not_before) else {
            return;
        };
        let (Some(leader), Some(group)) = (self.leaders.get(&key).copied(), self.groups.get(&key).copied())
        else {
            self.leaders.clear();
            return;
        };
        let ask = match &self.doing {
            Doing::Nothing => return,
            Doing::Append { batch, .. } => Ask::Produce {
                topic: "t".to_owned(),
                group,
                batch: batch.clone(),
                acks: -1,
                timeout_ms: 1_000,
            },
            Doing::End { .. } => Ask::Latest { group },
            Doing::Read { .. } => {
                let offset = *self.position.get(&key).unwrap_or(&0);
                let item = FetchItem {
                    group,
                    offset,
                    max_bytes: 1 << 20,
                    current_leader_epoch: -1,
                    last_fetched_epoch: -1,
                };
                let limits = FetchLimits { min_bytes: 1, max_bytes: 1 << 20, max_wait_ms: 100 };
                Ask::Fetch { item, limits }
            }
        };
        self.out = Some(world.ask(me, leader, ask));
    }

    pub fn on_reply(&mut self, world: &mut World, me: usize, id: u64, reply: Reply) {
        if self.asking == Some(id) {
            self.asking = None;
            match reply {
                Reply::Metadata(rows) => {
                    for (number, group, leader) in rows {
                        self.groups.insert(number as usize, group);
                        self.leaders.extend(leader.map(|l| (number as usize, l)));
                    }
                }
                Reply::Controller(Ok((CtlReply::ProducerIds { first, .. }, _))) => self.id = Some(first),
                _ => {}
            }
            return world.wake_client(me, MS);
        }
        if self.out != Some(id) {
            return;
        }
        self.out = None;
        match reply {
            Reply::Produced(Ok(_)) => self.appended(world),
            Reply::Listed(Ok(listed)) => self.found_end(world, listed.offset),
            Reply::Fetched(fetched) => self.fetched(world, *fetched),
            Reply::Produced(Err(PartitionError::OutOfOrderSequence(text))) => {
                panic!("I5: an orderly clerk is told of a gap: {text}");
            }
            Reply::Produced(Err(PartitionError::NotLeader { leader: Some(hint) })) => {
                let key = self.key().expect("something is being done");
                self.leaders.insert(key, crate::net::index_of(hint.node));
                self.not_before = world.time + 10 * MS;
            }
            _ => {
                self.leaders.clear();
                self.not_before = world.time + 30 * MS;
            }
        }
        world.wake_client(me, 100);
    }

    fn appended(&mut self, world: &mut World) {
        let Doing::Append { key, value, called, .. } = std::mem::replace(&mut self.doing, Doing::Nothing)
        else {
            return;
        };
        *self.sequences.entry(key).or_insert(0) += 1;
        self.appended.entry(key).or_default().push(value);
        self.rest(world);
        let answered = Some(world.time);
        self.history.push((key, Operation { action: Action::Append(value), called, answered }));
    }

    /// A moment between two operations; a clerk that only appends is after speed.
    fn rest(&mut self, world: &mut World) {
        if self.gets > 0 {
            self.not_before = world.time + world.rng.below(30 * MS);
        }
    }

    fn found_end(&mut self, world: &mut World, end: i64) {
        let Doing::End { key, called } = self.doing else { return };
        self.doing = Doing::Read { key, called, end };
        self.finish_read(world);
    }

    fn fetched(&mut self, world: &mut World, fetched: FetchedReply) {
        let Doing::Read { key, .. } = self.doing else { return };
        match fetched.error {
            None => {}
            Some(PartitionError::OutOfRange { start, .. }) => {
                self.position.insert(key, start);
            }
            Some(_) => {
                self.leaders.clear();
                return;
            }
        }
        for batch in &fetched.batches {
            let mut bytes = batch.clone();
            let (_, records) = next_batch(&mut bytes).expect("a sound batch").expect("a whole batch");
            for record in records {
                let text = record.record.value.expect("a value");
                let value = std::str::from_utf8(&text).expect("text").parse().expect("a number");
                self.read.entry(key).or_default().insert(record.offset, value);
                let position = self.position.entry(key).or_insert(0);
                *position = (*position).max(record.offset + 1);
            }
        }
        self.finish_read(world);
    }

    /// Everything up to the end was read; what retention took before this clerk came is taken from the committed log.
    fn finish_read(&mut self, world: &mut World) {
        let Doing::Read { key, called, end } = self.doing else { return };
        if *self.position.get(&key).unwrap_or(&0) < end {
            return;
        }
        let read = self.read.entry(key).or_default();
        let log = world.check.logs.get(&self.groups[&key]);
        let value = |offset: i64| {
            let known = log.and_then(|log| log.at(offset)).and_then(|e| e.batch);
            read.get(&offset).copied().or_else(|| world.values.get(&known?).copied())
        };
        let values =
            (0..end).map(|offset| value(offset).expect("every committed offset holds a value")).collect();
        self.doing = Doing::Nothing;
        self.rest(world);
        let answered = Some(world.time);
        self.history.push((key, Operation { action: Action::Get(values), called, answered }));
    }
}
