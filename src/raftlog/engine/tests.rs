//! Engines of several nodes over simulated disks and a network of real frames: what the core decides really reaches
//! storage, travels as bytes and comes back after a restart. Not here: Raft's rules themselves (`core::tests`).

use super::*;
use crate::raftlog::codec::{self, Frame};
use crate::segment::fs::sim::SimFs;
use crate::segment::{Entry, LogId};
use crate::segment::{GroupOptions, HardState, Identity, Offset, Opened, StoreOptions, Writer, open_on};
use bytes::BufMut;
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
        let mut rig = Self { now: 10, nodes: Vec::new() };
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
                let mut rounds = Rounds::default();
                wire.1 = node.id;
                engine.flush(self.now, &mut wire, &mut rounds);
                for round in rounds.0 {
                    engine.on_round_done(self.now, writer.commit(round));
                }
                engine.flush(self.now, &mut wire, &mut Rounds::default());
                engine.take_events(&mut node.events);
            }
            for (from, to, bytes) in wire.0 {
                let frame = codec::decode(bytes).expect("the codec reads what it wrote");
                let node = self.nodes.iter_mut().find(|node| node.id == to);
                let Some((engine, _)) = node.and_then(|node| node.up.as_mut()) else { continue };
                match frame {
                    Frame::Raft(envelopes) => engine.receive(self.now, from, envelopes),
                    Frame::Beats(beats) => engine.receive_beats(self.now, from, beats),
                    Frame::BeatAnswer(answer) => engine.receive_answer(self.now, from, answer),
                    other => panic!("not a frame between engines: {other:?}"),
                }
            }
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
