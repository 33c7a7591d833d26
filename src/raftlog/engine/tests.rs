//! Engines of several nodes over simulated disks and a network of real frames: what the core decides really reaches
//! storage, travels as bytes and comes back after a restart. Not here: Raft's rules themselves (`core::tests`).

mod compacted;
pub(crate) mod quiet;
pub(crate) mod unsynced;

use super::*;
use crate::raftlog::codec::{self, Frame};
use crate::raftlog::core::GenerationEffect;
use crate::raftlog::generation::{self, Decision};
use crate::raftlog::message::{Body, Message};
use crate::segment::fs::sim::SimFs;
use crate::segment::{
    Entry, Epoch, Generation, GroupOptions, HardState, Identity, LogId, Offset, Opened, StoreOptions, Term,
    Writer, open_on,
};
use bytes::BufMut;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

const GROUP: GroupId = GroupId(7);
const CORE: CoreConfig = CoreConfig {
    beat_ms: 100,
    election_min_ms: 600,
    election_max_ms: 1_200,
    check_quorum_ms: 1_200,
    stickiness_ms: 600,
    window_bytes: 8 << 20,
    append_bytes: 1 << 20,
    uncommitted_bytes: 64 << 20,
    reset_jitter_ms: 50,
};

/// Frames on their way: (from, to, bytes).
#[derive(Default)]
struct Wire(Vec<(NodeId, NodeId, Bytes)>, NodeId);

impl Net for Wire {
    fn send(&mut self, to: NodeId, frame: Vec<Bytes>) -> bool {
        let mut all = BytesMut::new();
        frame.iter().for_each(|part| all.put_slice(part));
        self.0.push((self.1, to, all.freeze().slice(4..)));
        true
    }
    fn queued_bytes(&self, _: NodeId) -> usize {
        0
    }
}

/// Rounds handed over, committed at the end of the turn.
#[derive(Default)]
struct Rounds(Vec<Round>);

impl Disk for Rounds {
    fn submit(&mut self, round: Round) {
        self.0.push(round);
    }
}

struct Node {
    id: NodeId,
    fs: SimFs,
    incarnation: u64,
    up: Option<(Engine, Writer)>,
    events: Vec<GroupEvent>,
}

struct Rig {
    now: Millis,
    nodes: Vec<Node>,
    /// Ways (from, to) on which everything is lost.
    cut: BTreeSet<(i32, i32)>,
    sent: Sent,
    /// The topic's, if it is not the default.
    flush: Option<Flush>,
}

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    raft: usize,
    beats: usize,
    answers: usize,
    bytes: usize,
}

fn replica(node: i32) -> ReplicaId {
    ReplicaId { node: NodeId(node), assignment: 3, directory: 40 + node as u128 }
}

fn replicas(nodes: &[i32]) -> Vec<ReplicaId> {
    nodes.iter().map(|node| replica(*node)).collect()
}

impl Rig {
    /// `voters` have the group with all of them in it; the `fresh` have it with an empty log and no configuration.
    fn new(voters: &[i32], fresh: &[i32]) -> Self {
        let mut rig =
            Self { now: 10, nodes: Vec::new(), cut: BTreeSet::new(), sent: Sent::default(), flush: None };
        for id in voters.iter().chain(fresh) {
            let fs = SimFs::new(*id as u64);
            rig.nodes.push(Node { id: NodeId(*id), fs, incarnation: 0, up: None, events: Vec::new() });
            rig.start(*id);
        }
        for id in voters.iter().chain(fresh) {
            let configuration = Configuration { voters: replicas(voters), ..Configuration::default() };
            let configuration = if voters.contains(id) { configuration.encode() } else { Bytes::new() };
            let spec = GroupSpec {
                group: GROUP,
                name: "t-0".into(),
                replica: replica(*id),
                log_start: LogStart { configuration, ..LogStart::default() },
                hard_state: HardState::default(),
                options: GroupOptions::default(),
            };
            let campaign = voters.first() == Some(id);
            let now = rig.now;
            rig.engine(*id).create(now, spec, campaign).unwrap();
        }
        rig
    }

    fn start(&mut self, id: i32) {
        let now = self.now;
        let node = self.nodes.iter_mut().find(|node| node.id == NodeId(id)).unwrap();
        node.incarnation += 1;
        let identity = Identity { node: node.id, cluster: None };
        let options = StoreOptions {
            reserve_bytes: 0,
            journal_file_bytes: 64 << 10,
            checkpoint_bytes: 128 << 10,
            ..StoreOptions::new(PathBuf::from("/data"), identity)
        };
        let Opened { store, writer, groups, .. } = open_on(Arc::new(node.fs.clone()), options).unwrap();
        let config = EngineConfig { node: node.id, boot: id as u128, core: CORE, seed: id as u64 };
        let mut engine = Engine::new(config, store, now);
        engine.set_incarnation(node.incarnation);
        engine.open_gate(now);
        groups.into_iter().for_each(|found| engine.adopt(now, found));
        if let Some(flush) = self.flush {
            engine.set_flush(now, GROUP, flush);
        }
        node.up = Some((engine, writer));
        let all: Vec<_> = self.nodes.iter().map(|node| (node.id, node.incarnation)).collect();
        for node in &mut self.nodes {
            let Some((engine, _)) = &mut node.up else { continue };
            for (peer, incarnation) in all.iter().filter(|(peer, _)| *peer != node.id) {
                engine.set_peer_incarnation(now, *peer, *incarnation);
                engine.set_connected(now, *peer, true);
            }
        }
    }

    /// Power off: what was not synced is gone.
    fn crash(&mut self, id: i32) {
        let node = self.nodes.iter_mut().find(|node| node.id == NodeId(id)).unwrap();
        node.up = None;
        node.fs.crash(self.now);
    }

    fn engine(&mut self, id: i32) -> &mut Engine {
        let node = self.nodes.iter_mut().find(|node| node.id == NodeId(id)).unwrap();
        &mut node.up.as_mut().expect("node is up").0
    }

    fn run(&mut self, ms: Millis) {
        let until = self.now + ms;
        while self.now < until {
            self.now += 5;
            let mut wire = Wire::default();
            for node in &mut self.nodes {
                let Some((engine, writer)) = &mut node.up else { continue };
                engine.tick(self.now);
                wire.1 = node.id;
                loop {
                    let mut rounds = Rounds::default();
                    engine.flush(self.now, &mut wire, &mut rounds);
                    if rounds.0.is_empty() {
                        break;
                    }
                    for round in rounds.0 {
                        engine.on_round_done(self.now, writer.commit(round));
                    }
                    if self.flush.is_some() {
                        writer.idle();
                        let news = writer.take_news();
                        news.into_iter().for_each(|news| engine.on_round_done(self.now, news));
                    }
                }
                engine.take_events(&mut node.events);
            }
            for (from, to, bytes) in wire.0 {
                self.deliver(from, to, bytes);
            }
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, bytes: Bytes) {
        self.sent.bytes += bytes.len();
        let frame = codec::decode(bytes).unwrap();
        let count = match &frame {
            Frame::Raft(_) => &mut self.sent.raft,
            Frame::Beats(_) => &mut self.sent.beats,
            Frame::BeatAnswer(_) => &mut self.sent.answers,
            other => panic!("an engine sends no {other:?}"),
        };
        *count += 1;
        if self.cut.contains(&(from.0, to.0)) {
            return;
        }
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == to) else { return };
        let Some((engine, _)) = &mut node.up else { return };
        match frame {
            Frame::Raft(envelopes) => engine.receive(self.now, from, envelopes),
            Frame::Beats(beats) => engine.receive_beats(self.now, from, beats),
            Frame::BeatAnswer(answer) => engine.receive_answer(self.now, from, answer),
            other => panic!("an engine sends no {other:?}"),
        }
    }

    fn leader(&mut self) -> i32 {
        for _ in 0..100 {
            self.run(100);
            let leads = |node: &&Node| {
                let core = node.up.as_ref().and_then(|(engine, _)| engine.core(GROUP));
                core.is_some_and(|core| core.role() == Role::Leader && core.is_established())
            };
            if let Some(node) = self.nodes.iter().find(leads) {
                return node.id.0;
            }
        }
        panic!("no leader within ten seconds");
    }

    fn produce(&mut self, at: i32, count: usize) {
        let now = self.now;
        for _ in 0..count {
            let proposal =
                Proposal { kind: EntryKind::Records, offset_span: 2, payload: BytesMut::zeroed(100) };
            self.engine(at).propose(now, GROUP, vec![proposal], &mut |_, _| {}).unwrap();
        }
    }

    fn change(&mut self, voters: &[i32], learners: &[i32]) -> Result<LogId, ChangeError> {
        let (at, now) = (self.leader(), self.now);
        let expected = self.engine(at).core(GROUP).unwrap().configuration().1;
        self.engine(at).change_membership(now, GROUP, expected, replicas(voters), replicas(learners))
    }

    fn voters(&mut self, at: i32) -> Vec<i32> {
        let (configuration, _) = self.engine(at).core(GROUP).unwrap().configuration();
        assert!(!configuration.is_joint(), "{configuration:?}");
        configuration.voters.iter().map(|r| r.node.0).collect()
    }

    /// Index, offset and payload of all entries, which must be committed.
    fn log(&mut self, at: i32) -> Vec<Entry> {
        let engine = self.engine(at);
        let last = engine.core(GROUP).unwrap().commit();
        let first = engine.store().log_start(GROUP).unwrap().prev.index.next();
        engine
            .store()
            .read(GROUP, first, usize::MAX)
            .unwrap()
            .into_iter()
            .filter(|e| e.meta.id.index <= last)
            .collect()
    }
}

#[test]
fn group_of_one_grows_to_three_shrinks_to_another_one_and_keeps_every_record() {
    let mut rig = Rig::new(&[1], &[2, 3]);
    assert_eq!(rig.leader(), 1);
    rig.produce(1, 50);
    // Not before they hold the log.
    assert!(matches!(
        rig.change(&[1, 2, 3], &[]),
        Err(ChangeError::Refused(ChangeRefusal::NotCaughtUp { .. }))
    ));
    rig.change(&[1], &[2, 3]).unwrap();
    rig.run(500);
    assert!(rig.engine(1).progress(GROUP).iter().all(|peer| peer.is_caught_up && !peer.voter));
    rig.change(&[1, 2, 3], &[]).unwrap();
    rig.run(500);
    assert_eq!((rig.voters(1), rig.voters(3)), (vec![1, 2, 3], vec![1, 2, 3]));
    rig.produce(1, 10);
    rig.run(300);
    // Now it survives the death of the first.
    rig.crash(1);
    let leader = rig.leader();
    assert_ne!(leader, 1);
    rig.change(&[2, 3], &[]).unwrap();
    rig.run(500);
    let leader = rig.leader();
    rig.produce(leader, 5);
    rig.change(&[3], &[]).unwrap();
    rig.run(500);
    assert_eq!(rig.leader(), 3, "the last voter leads, whoever led before");
    assert_eq!(rig.voters(3), [3]);
    rig.crash(2);
    rig.produce(3, 5);
    rig.run(100);
    let records = rig.log(3).iter().filter(|e| e.meta.kind == EntryKind::Records).count();
    assert_eq!(records, 70);
    let told = |node: &Node| node.events.iter().any(|e| matches!(e, GroupEvent::Removed { .. }));
    assert!(told(&rig.nodes[1]), "a removed replica is told");
}

#[test]
fn restart_of_all_in_the_middle_of_a_change_finishes_it() {
    for after in [0, 5, 10, 15, 20, 25, 30] {
        let mut rig = Rig::new(&[1, 2, 3], &[4]);
        let leader = rig.leader();
        rig.produce(leader, 20);
        rig.change(&[1, 2, 3], &[4]).unwrap();
        rig.run(500);
        rig.change(&[1, 2, 4], &[]).unwrap();
        rig.run(after);
        (1..=4).for_each(|id| rig.crash(id));
        (1..=4).for_each(|id| rig.start(id));
        let leader = rig.leader();
        rig.run(1_000);
        let voters = rig.voters(leader);
        // The entry may have been lost with the power, but nothing is left between.
        assert!(voters == [1, 2, 4] || voters == [1, 2, 3], "after {after} ms: {voters:?}");
        let logs: Vec<_> = voters.iter().map(|id| rig.log(*id)).collect();
        assert!(logs.windows(2).all(|pair| pair[0] == pair[1]), "after {after} ms");
    }
}

#[test]
fn new_replica_behind_the_log_start_is_given_it_and_the_rest() {
    let mut rig = Rig::new(&[1], &[2]);
    rig.leader();
    rig.produce(1, 30);
    rig.run(50);
    let (configuration, configuration_id) = rig.engine(1).core(GROUP).unwrap().configuration();
    let start = LogStart {
        prev: LogId::new(0, 1, 21),
        base_offset: Offset(40),
        start_offset: Offset(40),
        configuration: configuration.encode(),
        configuration_id,
        ..LogStart::default()
    };
    let now = rig.now;
    rig.engine(1).move_log_start(now, GROUP, start).unwrap();
    rig.run(50);
    rig.change(&[1], &[2]).unwrap();
    rig.run(500);
    rig.change(&[1, 2], &[]).unwrap();
    rig.run(500);
    assert_eq!(rig.voters(2), [1, 2]);
    let (first, second) = (rig.log(1), rig.log(2));
    assert_eq!(first, second);
    assert_eq!(first.first().map(|e| e.meta.id.index), Some(Index(22)));
}

impl Rig {
    /// Seals these, as the controllers would, and decides over what they report.
    fn replace_quorum(&mut self, sealed: &[i32], generation: u64) -> Decision {
        let now = self.now;
        for id in sealed {
            assert!(self.engine(*id).seal(now, GROUP, Generation(generation), 1));
        }
        self.run(50);
        let report = |event: &GroupEvent| match event {
            GroupEvent::Generation { what: GenerationEffect::Sealed(report), .. } => Some(report.clone()),
            _ => None,
        };
        let reports: Vec<_> = self.nodes.iter().flat_map(|n| n.events.iter().filter_map(report)).collect();
        assert_eq!(reports.iter().filter(|r| r.generation.0 == generation).count(), sealed.len());
        generation::decide(Generation(generation), &reports, Term(9)).unwrap()
    }

    fn decide(&mut self, ids: &[i32], decision: &Decision) {
        let now = self.now;
        for id in ids {
            assert!(self.engine(*id).decide(now, GROUP, decision.clone()));
        }
    }
}

#[test]
fn last_of_two_takes_over_and_grows_back_with_every_record() {
    let mut rig = Rig::new(&[1, 2], &[]);
    let leader = rig.leader();
    rig.produce(leader, 20);
    rig.run(300);
    let survivor = 3 - leader;
    rig.crash(leader);
    let decision = rig.replace_quorum(&[survivor], 0);
    assert!(decision.opening.lossless);
    rig.decide(&[survivor], &decision);
    assert_eq!(rig.leader(), survivor);
    rig.produce(survivor, 5);
    rig.run(50);
    // The old one returns with its old configuration, is told, and grows back.
    rig.start(leader);
    rig.run(2_000);
    assert_eq!(rig.leader(), survivor);
    rig.decide(&[1, 2], &decision);
    rig.change(&[survivor], &[leader]).unwrap();
    rig.run(500);
    rig.change(&[1, 2], &[]).unwrap();
    rig.run(500);
    let (first, second) = (rig.log(1), rig.log(2));
    assert_eq!(first, second);
    assert_eq!(first.iter().filter(|e| e.meta.kind == EntryKind::Records).count(), 25);
}

/// The power goes at every write of the take-over: the survivor is then sealed in the old generation with nothing new, or
/// in the new one with its entry, and the decision told again ends in the same log.
#[test]
pub(crate) fn power_cut_at_any_write_of_a_take_over_leaves_all_or_nothing_of_it() {
    let (mut before, mut after) = (0, 0);
    for writes in 0..40 {
        let mut rig = Rig::new(&[1, 2], &[]);
        let leader = rig.leader();
        rig.produce(leader, 3);
        rig.run(300);
        let survivor = 3 - leader;
        rig.crash(leader);
        let decision = rig.replace_quorum(&[survivor], 0);
        rig.decide(&[survivor], &decision);
        let at = rig.nodes.iter().position(|node| node.id.0 == survivor).unwrap();
        rig.nodes[at].fs.power_off_after(writes);
        for _ in 0..20 {
            if rig.nodes[at].fs.is_off() {
                break;
            }
            rig.run(5);
        }
        let served = rig.engine(survivor).core(GROUP).unwrap().commit() > decision.opening.base.index;
        rig.crash(survivor);
        rig.start(survivor);
        let core = rig.engine(survivor).core(GROUP).unwrap();
        let (hard, last) = (core.hard_state(), core.last());
        match hard.epoch.generation {
            Generation(0) => {
                before += 1;
                assert!(!served, "what was committed is gone after {writes} writes");
                assert!(hard.sealed.is_some() && last == decision.opening.base, "after {writes} writes");
            }
            _ => {
                after += 1;
                assert_eq!(last, LogId { epoch: hard.epoch, index: decision.opening.base.index.next() });
                assert_eq!((hard.vote, hard.sealed), (Some(replica(survivor)), None));
            }
        }
        rig.decide(&[survivor], &decision);
        assert_eq!(rig.leader(), survivor);
        assert_eq!(rig.log(survivor).iter().filter(|e| e.meta.kind == EntryKind::Records).count(), 3);
    }
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

fn seal_of(events: &[GroupEvent]) -> Option<LogId> {
    events.iter().find_map(|event| match event {
        GroupEvent::Generation { what: GenerationEffect::Sealed(report), .. } => Some(report.last),
        _ => None,
    })
}

/// safety.md F2: the controllers decide over what sealed replicas report, so it must be there for good.
#[test]
pub(crate) fn seal_is_reported_only_when_all_before_it_is_durable() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    rig.run(300);
    let now = rig.now;
    rig.produce(leader, 3);
    assert!(rig.engine(leader).seal(now, GROUP, Generation(0), 1));
    let last = rig.engine(leader).core(GROUP).unwrap().last();
    let node = rig.nodes.iter_mut().find(|node| node.id.0 == leader).unwrap();
    let (engine, writer) = node.up.as_mut().unwrap();
    let (mut wire, mut events) = (Wire::default(), Vec::new());
    let mut rounds = Rounds::default();
    engine.flush(now, &mut wire, &mut rounds);
    engine.take_events(&mut events);
    assert_eq!(seal_of(&events), None, "it was reported before the seal was durable");
    for round in rounds.0 {
        engine.on_round_done(now, writer.commit(round));
    }
    engine.take_events(&mut events);
    assert_eq!(seal_of(&events), Some(last));
}

/// An heir that was killed between its seal and its take-over, and whose process has nothing else to store (seed 458 of `tests/sim`, `heirs`).
#[test]
fn seal_from_before_a_restart_is_reported_without_waiting_for_anything_to_be_stored() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    rig.produce(leader, 3);
    rig.run(300);
    let now = rig.now;
    assert!(rig.engine(leader).seal(now, GROUP, Generation(0), 1));
    rig.run(300);
    rig.crash(leader);
    rig.start(leader);
    let engine = rig.engine(leader);
    let (last, mut events) = (engine.core(GROUP).unwrap().last(), Vec::new());
    assert!(engine.core(GROUP).unwrap().hard_state().sealed.is_some());
    assert!(engine.seal(now + 600, GROUP, Generation(0), 1));
    engine.take_events(&mut events);
    assert_eq!(seal_of(&events), Some(last));
}

/// safety.md F6: whoever answered may have lost since what it acknowledged, or be another replica altogether.
#[test]
pub(crate) fn message_of_a_former_process_is_dropped() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    let [a, b] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
        panic!("two are left")
    };
    rig.crash(a);
    rig.start(a);
    rig.run(500);
    for other in [a, b] {
        rig.cut.extend([(other, leader), (leader, other)]);
    }
    rig.produce(leader, 1);
    rig.run(50);
    let now = rig.now;
    let core = rig.engine(leader).core(GROUP).unwrap();
    let (epoch, last, commit) = (core.epoch(), core.last(), core.commit());
    assert!(last.index > commit && core.durable() == last.index);
    let accepted = Envelope {
        group: GROUP,
        from: replica(a),
        to: replica(leader),
        from_incarnation: 2,
        to_incarnation: 1,
        message: Message { epoch, body: Body::AppendAccepted { last } },
        payloads: Vec::new(),
    };
    let mut counts = |envelope: Envelope| {
        rig.engine(leader).receive(now, NodeId(a), vec![envelope]);
        rig.engine(leader).core(GROUP).unwrap().commit() > commit
    };
    let former = |from, to| Envelope { from_incarnation: from, to_incarnation: to, ..accepted.clone() };
    assert!(!counts(former(1, 1)), "word of a former process counts");
    assert!(!counts(former(2, 0)), "word to a former process counts");
    let to = ReplicaId { assignment: 2, ..replica(leader) };
    assert!(!counts(Envelope { to, ..accepted.clone() }), "word to another replica of the node counts");
    assert!(counts(accepted));
}

#[test]
fn entries_beyond_an_unclean_survivor_are_set_aside_byte_for_byte() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    rig.produce(leader, 10);
    rig.run(300);
    let others: Vec<i32> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let (survivor, richer) = (others[0], others[1]);
    rig.crash(survivor);
    rig.produce(leader, 7);
    rig.run(300);
    let lost: Vec<_> = rig.log(richer).into_iter().rev().take(7).collect();
    rig.crash(leader);
    rig.crash(richer);
    rig.start(survivor);
    rig.run(20);
    let decision = rig.replace_quorum(&[survivor], 0);
    assert!(!decision.opening.lossless);
    rig.decide(&[survivor], &decision);
    assert_eq!(rig.leader(), survivor);
    rig.produce(survivor, 2);
    rig.start(richer);
    rig.decide(&[richer], &decision);
    rig.change(&[survivor], &[richer]).unwrap();
    rig.run(1_000);
    assert_eq!(rig.log(survivor), rig.log(richer));
    rig.run(1_000);
    let node = rig.nodes.iter().find(|node| node.id.0 == richer).unwrap();
    let aside: Vec<_> =
        node.fs.files().into_iter().filter(|(path, _)| path.to_string_lossy().ends_with(".fenced")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    let bytes = node.fs.read(&aside[0].0).unwrap();
    for entry in &lost {
        let payload = &entry.payload[..];
        assert!(bytes.windows(payload.len()).any(|window| window == payload));
    }
    let index = |entry: &Entry| entry.meta.id.index.0.to_le_bytes();
    assert!(lost.iter().all(|entry| bytes.windows(8).any(|window| window == index(entry))));
    // It is still there after a restart.
    let path = aside[0].0.clone();
    rig.crash(richer);
    rig.start(richer);
    let node = rig.nodes.iter().find(|node| node.id.0 == richer).unwrap();
    assert_eq!(node.fs.read(&path), Some(bytes));
}

#[test]
fn replica_far_behind_is_brought_up_at_the_recovery_rate_while_writes_go_on() {
    let mut rig = Rig::new(&[1], &[2]);
    rig.leader();
    for _ in 0..50 {
        rig.produce(1, 100);
        rig.run(10);
    }
    // Half a megabyte of payload at 100 kB a second.
    rig.engine(1).set_recovery_rate(100_000);
    rig.change(&[1], &[2]).unwrap();
    let behind = |rig: &mut Rig| rig.engine(1).progress(GROUP).iter().any(|peer| !peer.is_caught_up);
    let began = rig.now;
    while behind(&mut rig) {
        rig.run(100);
        let before = rig.engine(1).core(GROUP).unwrap().commit();
        rig.produce(1, 1);
        rig.run(10);
        assert!(rig.engine(1).core(GROUP).unwrap().commit() > before, "a write waited for the limit");
        assert!(rig.now - began < 12_000, "it never catches up: {:?}", rig.engine(1).progress(GROUP));
    }
    assert!(rig.now - began > 3_500, "brought up in {} ms", rig.now - began);
    rig.change(&[1, 2], &[]).unwrap();
    rig.run(500);
    assert_eq!(rig.log(1), rig.log(2));
}

#[test]
fn poisoned_group_fences_itself_alone() {
    const OTHER: GroupId = GroupId(8);
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let configuration = Configuration { voters: replicas(&[1, 2, 3]), ..Configuration::default() };
    for id in 1..=3 {
        let spec = GroupSpec {
            group: OTHER,
            name: "t-1".into(),
            replica: replica(id),
            log_start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
            hard_state: HardState::default(),
            options: GroupOptions::default(),
        };
        let now = rig.now;
        rig.engine(id).create(now, spec, id == 1).unwrap();
    }
    let leader = rig.leader();
    rig.produce(leader, 5);
    rig.run(500);
    // A message that no correct leader sends: another entry where one is committed.
    let victim = if leader == 2 { 3 } else { 2 };
    let epoch = rig.engine(leader).core(GROUP).unwrap().epoch();
    let broken = EntryMeta {
        id: LogId { epoch: Epoch { term: Term(0), ..epoch }, index: Index(1) },
        prev: Epoch::default(),
        kind: EntryKind::Records,
        base_offset: Offset(0),
        offset_span: 1,
        payload_len: 1,
    };
    let message = Message {
        epoch,
        body: Body::Append { prev: LogId::default(), entries: vec![broken], commit: Index(0), cleaned: None },
    };
    let envelope = Envelope {
        group: GROUP,
        from: replica(leader),
        to: replica(victim),
        from_incarnation: 1,
        to_incarnation: 1,
        message,
        payloads: vec![Bytes::from_static(b"x")],
    };
    let now = rig.now;
    rig.engine(victim).receive(now, NodeId(leader), vec![envelope]);
    assert!(rig.engine(victim).is_poisoned(GROUP) && !rig.engine(victim).is_poisoned(OTHER));
    rig.run(5_000);
    // The others go on without it, it disturbs nobody, and its other group works.
    assert_eq!(rig.engine(leader).core(GROUP).unwrap().epoch(), epoch);
    rig.produce(leader, 3);
    rig.run(300);
    let last = rig.engine(leader).core(GROUP).unwrap().last().index;
    assert_eq!(rig.engine(leader).core(GROUP).unwrap().commit(), last);
    let leads = |rig: &mut Rig, id| rig.engine(id).core(OTHER).unwrap().role() == Role::Leader;
    let other = (1..=3).find(|id| leads(&mut rig, *id)).expect("the other group has a leader");
    let now = rig.now;
    let proposal = Proposal { kind: EntryKind::Records, offset_span: 1, payload: BytesMut::zeroed(10) };
    let metas = rig.engine(other).propose(now, OTHER, vec![proposal], &mut |_, _| {}).unwrap();
    rig.run(300);
    assert!(rig.engine(victim).core(OTHER).unwrap().commit() >= metas[0].id.index);
    // Asked to end its generation, it says that it is not sound.
    let now = rig.now;
    rig.engine(victim).seal(now, GROUP, Generation(0), 4);
    rig.run(50);
    let node = rig.nodes.iter().find(|node| node.id.0 == victim).unwrap();
    let unsound = |event: &GroupEvent| matches!(event, GroupEvent::Generation { what: GenerationEffect::Sealed(report), .. } if !report.sound);
    assert!(node.events.iter().any(unsound));
}

/// Storage fails while a round is under way, and the round succeeds: nobody hears of what it made durable (found by seed 1231 of `long`).
#[test]
fn round_that_ends_after_storage_failed_is_told_to_nobody() {
    for role in [Role::Leader, Role::Follower] {
        let mut rig = Rig::new(&[1, 2, 3], &[]);
        let leader = rig.leader();
        rig.run(300);
        let id = if role == Role::Leader { leader } else { leader % 3 + 1 };
        rig.cut = (1..=3).flat_map(|to| [(id, to), (to, id)]).collect();
        let (now, epoch) = (rig.now, rig.engine(leader).core(GROUP).unwrap().epoch());
        if role == Role::Leader {
            rig.produce(leader, 1);
        } else {
            let last = rig.engine(id).core(GROUP).unwrap().last();
            let base_offset = rig.log(id).last().map_or(Offset(0), |entry| entry.meta.next_offset());
            let meta = EntryMeta {
                id: LogId { epoch, index: last.index.next() },
                prev: last.epoch,
                kind: EntryKind::Records,
                base_offset,
                offset_span: 1,
                payload_len: 1,
            };
            let body = Body::Append { prev: last, entries: vec![meta], commit: last.index, cleaned: None };
            let envelope = Envelope {
                group: GROUP,
                from: replica(leader),
                to: replica(id),
                from_incarnation: 1,
                to_incarnation: 1,
                message: Message { epoch, body },
                payloads: vec![Bytes::from_static(b"x")],
            };
            rig.engine(id).receive(now, NodeId(leader), vec![envelope]);
        }
        let node = rig.nodes.iter_mut().find(|node| node.id.0 == id).unwrap();
        let (engine, writer) = node.up.as_mut().expect("up");
        let (mut rounds, mut wire) = (Rounds::default(), Wire(Vec::new(), node.id));
        engine.flush(now, &mut wire, &mut rounds);
        assert_eq!(rounds.0.len(), 1, "what was appended is on its way to the disk");
        engine.take_events(&mut node.events);
        engine.fail(now, "a read met a broken sector".into());
        engine.flush(now, &mut wire, &mut Rounds::default());
        engine.take_events(&mut node.events);
        (node.events, wire.0) = (Vec::new(), Vec::new());
        for round in rounds.0 {
            engine.on_round_done(now, writer.commit(round));
        }
        engine.tick(now + 1);
        engine.flush(now + 1, &mut wire, &mut Rounds::default());
        engine.take_events(&mut node.events);
        assert!(node.events.is_empty(), "{role:?}: {:?}", node.events);
        assert!(wire.0.is_empty(), "{role:?}: {} frames", wire.0.len());
    }
}
