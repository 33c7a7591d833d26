//! The labs of MIT 6.824 (2021), parts 2A to 2D, 3A to 3B and 4B, on the product: servers are brokers that replicate one partition each,
//! a key is a partition, Append is a produce with acks=all, Get asks for the end and reads up to it. Every test bears the name of its
//! model. `KONTIKI_SEEDS=1000 cargo test --release --test sim -- labs::` runs each a thousand times; the results are in
//! docs/testing.md.
//!
//! Here: the harness, as the labs' `config.go` has one. The invariants of the simulator hold all the while.

mod kv;
mod raft;
mod shards;

use crate::client::{Ask, Reply, Work};
use crate::plan::Plan;
use crate::run::Report;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use bytes::Bytes;
use kontiki::client::records::{BatchBuilder, ProducerStamp, Record};
use kontiki::ctl::command::{Command as CtlCommand, Reply as CtlReply};
use kontiki::raftlog::core::Role;
use kontiki::segment::{GroupId, NodeId};
use kontiki::wire::compression::Compression;
use std::collections::{BTreeMap, BTreeSet};

/// Seeds of each lab in the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 1 } else { 3 };

/// `servers` brokers that all hold every key, and a controller that nothing happens to.
pub fn servers(seed: u64, servers: usize, keys: i32) -> Plan {
    Plan {
        brokers_count: servers,
        replication: servers as i16,
        partitions: keys,
        producers: Vec::new(),
        readers: 0,
        ..Plan::calm(seed)
    }
}

/// The labs' unreliable network: short delays, requests and answers lost; Raft frames overtake each other.
pub fn unreliable(mut plan: Plan) -> Plan {
    plan.weather.delay = (100, 27 * MS);
    plan.weather.loss = 100;
    plan.weather.datagram = true;
    plan
}

/// Small segments, so that a log that is trimmed becomes small.
pub fn trimmed(mut plan: Plan) -> Plan {
    plan.topic_configs.insert("internal.segment.bytes".to_owned(), Some("1000".to_owned()));
    plan
}

/// Runs a lab over its seeds.
pub fn lab(name: &str, plan: impl Fn(u64) -> Plan + Sync, story: impl Fn(&mut World) + Sync) -> Report {
    over_seeds(&format!("labs::{name}"), Budget::Seeds(SEEDS), plan, |world| {
        world.set_up();
        story(world);
        0
    })
}

/// What a lab holds in its hands.
pub struct Lab {
    pub group: GroupId,
    pub clerk: usize,
    pub cut: BTreeSet<usize>,
    id: i64,
    sequence: i32,
    next: u64,
}

impl World {
    /// A harness for the raft labs.
    pub fn lab(&mut self) -> Lab {
        let clerk = self.add_client(Work::Manual(BTreeMap::new()));
        let group = self.groups_of("t", 1)[0];
        let mut id = None;
        while id.is_none() {
            let ask = Ask::Controller(CtlCommand::AllocateProducerIds { node: NodeId(1) });
            if let Some(Reply::Controller(Ok((CtlReply::ProducerIds { first, .. }, _)))) =
                self.call(clerk, 0, ask, 5 * SECOND)
            {
                id = Some(first);
            }
        }
        Lab { group, clerk, cut: BTreeSet::new(), id: id.unwrap_or(-1), sequence: 0, next: 0 }
    }

    /// Cuts a server off from all others; clients still reach it (the labs' `disconnect`).
    pub fn disconnect(&mut self, lab: &mut Lab, n: usize) {
        lab.cut.insert(n);
        self.wire(lab);
    }

    /// Joins it to the others that are connected.
    pub fn reconnect(&mut self, lab: &mut Lab, n: usize) {
        lab.cut.remove(&n);
        self.wire(lab);
    }

    fn wire(&mut self, lab: &Lab) {
        let count = self.nodes.len();
        for a in 0..count {
            for b in 0..count {
                let cut = a != b && (lab.cut.contains(&a) || lab.cut.contains(&b));
                if cut {
                    self.net.blocked.insert((a, b));
                } else {
                    self.net.blocked.remove(&(a, b));
                }
            }
        }
        self.trace.note("wired", lab.cut.len() as u64, 0, || format!("cut off: {:?}", lab.cut));
    }

    /// Role, term and last index of a server's replica, if it runs.
    pub fn replica(&mut self, lab: &Lab, n: usize) -> Option<(Role, u64, u64, u64)> {
        let core = self.nodes[n].process.as_mut()?.shard.engine().core(lab.group)?;
        Some((core.role(), core.epoch().term.0, core.last().index.0, core.commit().0))
    }

    /// Connected servers that think they lead, by term.
    fn leaders(&mut self, lab: &Lab) -> BTreeMap<u64, Vec<usize>> {
        let mut leaders: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for n in self.plan.brokers() {
            if lab.cut.contains(&n) {
                continue;
            }
            if let Some((Role::Leader, term, ..)) = self.replica(lab, n) {
                leaders.entry(term).or_default().push(n);
            }
        }
        leaders
    }

    /// `checkOneLeader`: within a few election timeouts one connected server leads the latest term, alone.
    pub fn check_one_leader(&mut self, lab: &Lab) -> usize {
        for _ in 0..30 {
            let wait = self.rng.range(450 * MS, 550 * MS);
            self.run_for(wait);
            if let Some((term, leaders)) = self.leaders(lab).pop_last() {
                assert!(leaders.len() == 1, "term {term} has {} leaders", leaders.len());
                return leaders[0];
            }
        }
        panic!("expected one leader, got none\n{}", self.describe());
    }

    /// `checkNoLeader`: nobody who is connected leads.
    pub fn check_no_leader(&mut self, lab: &Lab) {
        let leaders = self.leaders(lab);
        assert!(leaders.is_empty(), "expected no leader among connected servers, but {leaders:?}");
    }

    /// `checkTerms`: all connected servers agree on the term.
    pub fn check_terms(&mut self, lab: &Lab) -> u64 {
        let mut terms = BTreeSet::new();
        for n in self.plan.brokers() {
            if !lab.cut.contains(&n)
                && let Some((_, term, ..)) = self.replica(lab, n)
            {
                terms.insert(term);
            }
        }
        assert!(terms.len() == 1, "servers disagree on term: {terms:?}");
        terms.first().copied().expect("one term")
    }

    /// The next batch: one value of `bytes` at least.
    fn command(&mut self, lab: &mut Lab, bytes: usize, stamp: ProducerStamp) -> Bytes {
        lab.next += 1;
        let mut text = format!("{}", lab.next).into_bytes();
        text.resize(text.len().max(bytes), b'x');
        let text = Bytes::from(text);
        self.check.attempt(self.time, |timestamp| {
            let mut builder = BatchBuilder::with_capacity(128);
            builder.push(&Record { value: Some(text.clone()), ..Record::default() }, timestamp);
            builder.finish(Compression::None, stamp).expect("one record").freeze()
        })
    }

    /// `Start`: hands a command to a server and does not wait; it has no producer id, so that one that is lost is lost.
    pub fn start_on(&mut self, lab: &mut Lab, n: usize) -> u64 {
        let batch = self.command(lab, 0, ProducerStamp::default());
        let (group, topic) = (lab.group, "t".to_owned());
        self.ask(lab.clerk, n, Ask::Produce { topic, group, batch, acks: -1, timeout_ms: 30_000 })
    }

    /// The answer to a command that was started, if it has come.
    pub fn answer(&mut self, lab: &Lab, id: u64) -> Option<Reply> {
        match &mut self.clients[lab.clerk].work {
            Work::Manual(answers) => answers.remove(&id),
            _ => None,
        }
    }

    /// `one`: a command is agreed on by at least `expected` servers within ten seconds, whatever it takes; answers its offset.
    pub fn one(&mut self, lab: &mut Lab, expected: usize, bytes: usize) -> i64 {
        let stamp = ProducerStamp { id: lab.id, epoch: 0, sequence: lab.sequence };
        let batch = self.command(lab, bytes, stamp);
        let deadline = self.time + 10 * SECOND;
        while self.time < deadline {
            let Some(leader) = self.leaders(lab).pop_last().map(|(_, l)| l[0]) else {
                self.run_for(20 * MS);
                continue;
            };
            let (group, topic) = (lab.group, "t".to_owned());
            let ask = Ask::Produce { topic, group, batch: batch.clone(), acks: -1, timeout_ms: 1_000 };
            match self.call(lab.clerk, leader, ask, 3 * SECOND) {
                Some(Reply::Produced(Ok(produced))) => {
                    lab.sequence += 1;
                    self.agreed(lab, produced.base_offset, expected, deadline);
                    return produced.base_offset;
                }
                Some(_) => self.run_for(20 * MS),
                None => {}
            }
        }
        panic!("one: failed to reach agreement\n{}", self.describe());
    }

    fn agreed(&mut self, lab: &Lab, offset: i64, expected: usize, deadline: Time) {
        let index =
            self.check.logs[&lab.group].at(offset).expect("an answered offset is committed").id.index.0;
        while self.count_committed(lab, index) < expected {
            assert!(
                self.time < deadline,
                "one: {expected} servers did not agree on {index}\n{}",
                self.describe()
            );
            self.run_for(10 * MS);
        }
    }

    /// `nCommitted`: how many servers call this index committed. That they hold the same there is an invariant.
    pub fn count_committed(&mut self, lab: &Lab, index: u64) -> usize {
        let brokers = self.plan.brokers();
        brokers
            .into_iter()
            .filter(|n| self.replica(lab, *n).is_some_and(|(.., commit)| commit >= index))
            .count()
    }

    /// Index after everything that is committed so far.
    pub fn committed_end(&self, lab: &Lab) -> u64 {
        self.check.logs.get(&lab.group).and_then(|log| log.last()).map_or(0, |e| e.id.index.0)
    }

    /// kill -9 and start again.
    pub fn restart(&mut self, n: usize, power: bool) {
        self.crash(n, power);
        self.revive(n);
    }

    pub fn crash(&mut self, n: usize, power: bool) {
        self.end(n, power);
    }

    pub fn revive(&mut self, n: usize) {
        self.start_later(n, MS);
    }

    /// The leader's log start moves to its high watermark, as a snapshot trims a log.
    pub fn trim(&mut self, lab: &Lab) {
        let Some(leader) = self.leaders(lab).pop_last().map(|(_, l)| l[0]) else { return };
        let ask = Ask::DeleteRecords { group: lab.group, offset: -1 };
        self.ask(lab.clerk, leader, ask);
    }
}

impl World {
    /// Whoever leads among the connected, as soon as somebody does.
    pub fn check_leader_now(&mut self, lab: &Lab) -> usize {
        let mut found = None;
        self.run_until("a leader", 20 * SECOND, |world| {
            found = world.leaders(lab).pop_last().map(|(_, l)| l[0]);
            found.is_some()
        });
        found.expect("just found")
    }

    /// First entry that a server still has.
    pub fn first_index(&mut self, lab: &Lab, n: usize) -> u64 {
        let Some(p) = self.nodes[n].process.as_mut() else { return 0 };
        p.shard.engine().store().log_start(lab.group).map_or(0, |s| s.prev.index.0 + 1)
    }

    /// Bytes a server's log keeps.
    pub fn log_bytes(&mut self, lab: &Lab, n: usize) -> u64 {
        let Some(p) = self.nodes[n].process.as_mut() else { return 0 };
        p.shard.engine().store().size_bytes(lab.group).unwrap_or(0)
    }

    /// Bytes of what stands for the entries that are gone.
    pub fn start_bytes(&mut self, lab: &Lab, n: usize) -> usize {
        let Some(p) = self.nodes[n].process.as_mut() else { return 0 };
        p.shard.engine().store().log_start(lab.group).map_or(0, |s| s.configuration.len() + s.producers.len())
    }
}
