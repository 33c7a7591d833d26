//! A whole node on a simulated disk, alone in its cluster: what a shard does about its disk, its groups' generations and the ids of
//! its replicas. What takes several nodes is the simulator's.

use super::*;
use crate::broker::partition::producer_state::{ProducerState, Verdict};
use crate::ctl::command::{CreateTopic, Reply as CtlReply};
use crate::ctl::image::Change;
use crate::ctl::listeners::PLAINTEXT;
use crate::ctl::reassign::{Arrival, GroupMove};
use crate::ctl::record::{Batch, Record};
use crate::raftlog::core::PeerProgress;
use crate::raftlog::engine::EngineConfig;
use crate::raftlog::message::{Body, Message};
use crate::segment::fs::sim::SimFs;
use crate::segment::fs::{Fs, OpenMode};
use crate::segment::{
    self, Entry, EntryKind, EntryMeta, Epoch, Generation, Identity, LogId, LogStart, Offset, Round,
    StoreOptions, Term, Writer,
};
use crate::wire::batch::{self, BatchHeader, BatchRules};
use bytes::Bytes;
use uuid::Uuid;

#[path = "cleaning_tests.rs"]
pub(crate) mod cleaning;
#[path = "groups_tests.rs"]
pub(crate) mod groups;

/// Nobody is there to hear.
struct Deaf;

impl Net for Deaf {
    fn send(&mut self, _: NodeId, _: Vec<Bytes>) -> bool {
        true
    }
    fn queued_bytes(&self, _: NodeId) -> usize {
        0
    }
}

#[derive(Default)]
struct Rounds(Vec<Round>);

impl Disk for Rounds {
    fn submit(&mut self, round: Round) {
        self.0.push(round);
    }
}

struct Alone {
    fs: SimFs,
    shard: Shard,
    writer: Writer,
    now: Millis,
    wall_ms: i64,
}

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);

impl Alone {
    /// Registered in a cluster of its own.
    fn new() -> Self {
        let mut alone = Self::start(SimFs::new(1), None);
        alone.run(5_000);
        assert!(alone.shard.status().registered, "{:?}", alone.shard.status());
        alone
    }

    /// A process on this disk; what it fails to read from now on.
    fn start(fs: SimFs, unreadable: Option<&str>) -> Self {
        Self::start_with(fs, unreadable, &[])
    }

    fn start_with(fs: SimFs, unreadable: Option<&str>, settings: &[(&str, String)]) -> Self {
        let mut options = StoreOptions::new("/data".into(), Identity { node: ME, cluster: None });
        // Nothing is kept in memory once it is in its file.
        (options.journal_file_bytes, options.reserve_bytes, options.tail_bytes) = (64 << 10, 0, 1);
        let opened = segment::open_on(Arc::new(fs.clone()), options).unwrap();
        fs.fail_reads_of(unreadable);
        let mut node = NodeConfig::new(ME, "/data");
        node.controllers = BTreeMap::from([(ME, "node-1:1".to_owned())]);
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        node.defaults.broker.extend(settings);
        let (core, now) = (crate::broker::server::core_config(&node), 1_000);
        let config = EngineConfig { node: ME, boot: 1, core, seed: 1 };
        let engine = Engine::new(config, opened.store, now);
        let endpoint = Endpoint { host: "node-1".into(), port: 1 };
        let config = ShardConfig {
            node: Arc::new(node),
            directory: opened.directory,
            boot: 1,
            kafka: vec![(PLAINTEXT.to_owned(), endpoint.clone())],
            peer: endpoint,
            cluster: opened.cluster,
            seed: 1,
        };
        let shard = Shard::new(config, engine, opened.groups, Now { mono: now, wall_ms: 0 });
        Self { fs, shard, writer: opened.writer, now, wall_ms: 0 }
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall_ms: self.wall_ms }
    }

    fn run(&mut self, ms: Millis) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 10;
            let now = self.now();
            self.shard.tick(now);
            let mut rounds = Rounds::default();
            self.shard.finish_turn(now, &mut Deaf, &mut rounds);
            for round in rounds.0 {
                let done = self.writer.commit(round);
                self.shard.handle(now, Input::RoundDone(done));
            }
            if let Some(mut step) = self.shard.take_cleaning(now) {
                step.run();
                self.shard.handle(now, Input::Cleaned(Box::new(step)));
            }
            self.writer.idle();
            while let Some(news) = self.writer.take_news() {
                self.shard.handle(now, Input::RoundDone(news));
            }
        }
    }

    fn directory(&self) -> Uuid {
        Uuid::from_u128(self.shard.config.directory)
    }

    fn ask(&mut self, command: CtlCommand) -> oneshot::Receiver<CtlAnswer> {
        let (reply, answer) = oneshot::channel();
        let now = self.now();
        self.shard.handle(now, Input::Command(Command::Controller { command, timeout_ms: 20_000, reply }));
        answer
    }

    /// What another node's controllers would have written, as far as this node's image goes.
    fn apply(&mut self, record: Record) -> u64 {
        let number = self.shard.image.applied + 1;
        let image = Arc::make_mut(&mut self.shard.image);
        let changes = image.apply_with_changes(number, &Batch::new(vec![record])).unwrap();
        let now = self.now();
        for change in &changes {
            if let Change::ReplicaRemoved { group, replica } = change {
                self.shard.remove_moved(*group, *replica);
            }
        }
        changes.into_iter().for_each(|change| self.shard.on_change(now, change));
        self.shard.process_events(now);
        number
    }

    /// Peers register, and a topic is placed on them and here.
    fn with_topic(&mut self, name: &str, peers: &[NodeId]) -> GroupId {
        for &node in peers {
            let endpoint = Endpoint { host: format!("node-{}", node.0), port: 1 };
            let _registered = self.ask(CtlCommand::RegisterBroker {
                node,
                directory: Uuid::from_u128(5 + node.0 as u128),
                kafka: endpoint.clone(),
                listeners: BTreeMap::new(),
                peer: endpoint,
                rack: None,
                cluster: None,
                oldest: None,
            });
        }
        self.ask_for_topic(name, peers);
        self.run(200);
        self.shard.image.topics[name].partitions[0].group
    }

    fn ask_for_topic(&mut self, name: &str, peers: &[NodeId]) {
        self.ask_for_topic_with(name, peers, BTreeMap::new());
    }

    fn ask_for_topic_with(
        &mut self,
        name: &str,
        peers: &[NodeId],
        configs: BTreeMap<String, Option<String>>,
    ) {
        let create = CreateTopic {
            name: name.into(),
            partitions: -1,
            replication_factor: -1,
            assignments: Some(vec![[peers, &[ME]].concat()]),
            configs,
            validate_only: false,
        };
        let _created = self.ask(CtlCommand::CreateTopic(create));
    }

    /// Appends so many batches of one record.
    fn produce(&mut self, group: GroupId, batches: usize) {
        for _ in 0..batches {
            self.try_produce(group).unwrap();
        }
    }

    fn try_produce(&mut self, group: GroupId) -> Result<(), PartitionError> {
        self.send(group, crate::broker::handlers::produce::tests::batch(0))
    }

    fn send(&mut self, group: GroupId, mut batch: bytes::BytesMut) -> Result<(), PartitionError> {
        let rules = BatchRules {
            max_message_bytes: 1 << 20,
            produce_version: 9,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            now_ms: 0,
            log_append_time: false,
        };
        let header = batch::validate(&mut batch, &rules).unwrap();
        let items = vec![ProduceItem { group, batch, header, min_insync: 1 }];
        let (reply, mut answer) = oneshot::channel();
        let now = self.now();
        let command = Command::Produce { items, acks: -1, timeout_ms: 1_000, permit: None, reply };
        self.shard.handle(now, Input::Command(command));
        self.run(50);
        let answers = answer.try_recv().unwrap();
        answers.into_iter().next().unwrap().map(|_| ())
    }

    fn register_again(&mut self, directory: Uuid) {
        let endpoint = Endpoint { host: "node-1".into(), port: 1 };
        let (kafka, peer) = (endpoint.clone(), endpoint);
        let listeners = BTreeMap::new();
        self.apply(Record::Broker { node: ME, directory, kafka, listeners, peer, rack: None });
    }

    fn replica(&self, group: GroupId) -> Option<ReplicaId> {
        self.shard.engine.core(group).map(|core| core.replica())
    }
}

#[test]
fn controller_log_that_cannot_be_read_for_a_while_is_applied_after_it() {
    let Alone { fs, shard, writer, .. } = Alone::new();
    let before = shard.image.applied;
    drop(shard);
    writer.close().unwrap();
    // A start reads all of it.
    let mut alone = Alone::start(fs, Some("controller"));
    alone.run(5_000);
    assert!(alone.shard.image.applied == 0 && alone.shard.status().unread, "{:?}", alone.shard.status());
    alone.fs.fail_reads_of(None);
    alone.run(5_000);
    assert!(alone.shard.status().registered && !alone.shard.status().unread);
    assert!(alone.shard.image.applied > before);
}

/// Heartbeats went on, and the others took a node that knew nothing of their decisions for a live one.
#[test]
fn controller_log_that_stays_unreadable_for_a_session_ends_the_membership() {
    let Alone { fs, shard, writer, .. } = Alone::new();
    drop(shard);
    writer.close().unwrap();
    let mut alone = Alone::start(fs, Some("controller"));
    alone.run(5_000);
    assert_eq!(alone.shard.status().storage_failure, None);
    alone.run(10_000);
    let failure = alone.shard.status().storage_failure.clone();
    assert!(failure.is_some_and(|why| why.contains("cannot be read")));
    alone.fs.fail_reads_of(None);
    alone.run(5_000);
    assert!(!alone.shard.status().registered, "an operator looks at the disk first");
}

/// It was one copy short until the next restart.
#[test]
fn replica_that_found_no_space_is_created_when_there_is_some() {
    let mut alone = Alone::new();
    alone.fs.set_capacity(Some(alone.fs.used()));
    let group = alone.with_topic("t", &[PEER]);
    assert_eq!(alone.replica(group), None);
    assert!(alone.shard.partitions[&group].out_of_service.is_some());
    alone.run(15_000);
    assert_eq!(alone.replica(group), None, "still full");
    alone.fs.set_capacity(None);
    alone.run(15_000);
    assert!(alone.replica(group).is_some());
    assert!(alone.shard.partitions[&group].out_of_service.is_none());
}

/// A message of the leader to a replica of this node.
fn speak(alone: &mut Alone, group: GroupId, from: ReplicaId, to: ReplicaId, incarnations: (u64, u64)) {
    speak_in(alone, 0, group, (from, to), incarnations);
}

fn speak_in(
    alone: &mut Alone,
    generation: u64,
    group: GroupId,
    (from, to): (ReplicaId, ReplicaId),
    incarnations: (u64, u64),
) {
    let epoch = Epoch { generation: Generation(generation), term: Term(3) };
    let message = Message { epoch, body: Body::Beat { sequence: 1, commit: Index(0) } };
    let (from_incarnation, to_incarnation) = (u128::from(incarnations.0), u128::from(incarnations.1));
    let envelope =
        Envelope { group, from, to, from_incarnation, to_incarnation, message, payloads: Vec::new() };
    let now = alone.now();
    alone.shard.handle(now, Input::Raft { from: from.node, envelopes: vec![envelope] });
}

/// A disk came back after its node had been given another: its replica kept the id that it had, and never joined again.
#[test]
fn replica_of_a_disk_that_came_back_makes_room_when_its_group_has_gone_on_without_it() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[PEER]);
    let theirs = alone.shard.image.brokers[&PEER].incarnation;
    let old = alone.replica(group).expect("placed");
    let topic = alone.shard.image.topics["t"].id;
    let aside = std::path::PathBuf::from(format!("/data/groups/{topic}-0/1.segment.fenced"));
    alone.fs.open(&aside, OpenMode::CreateNew).unwrap();
    // From here on the controllers are others.
    alone.shard.membership.stop_applying();
    // Another disk, and the old one again: each time the replica is placed anew.
    for directory in [Uuid::from_u128(9), alone.directory()] {
        alone.register_again(directory);
        alone.apply(Record::Place { node: ME, groups: vec![group] });
    }
    alone.run(100);
    let placed = alone.shard.image.topics["t"].partitions[0].replicas.clone();
    let (leader, anew) = (placed[0], placed[1]);
    assert_eq!((anew.directory, anew.assignment > old.assignment), (old.directory, true));
    assert_eq!(alone.replica(group), Some(old), "it may be a voter still");
    let mine = alone.shard.status().incarnation;
    speak(&mut alone, group, leader, old, (theirs, mine));
    assert_eq!(alone.replica(group), Some(old));
    speak(&mut alone, group, leader, anew, (theirs, mine + 1));
    assert_eq!(alone.replica(group), Some(old), "said to another life of this node");
    speak_in(&mut alone, 1, group, (leader, anew), (theirs, mine));
    alone.run(10);
    assert_eq!(
        alone.replica(group),
        Some(old),
        "whether the next generation holds all that it has is not known here yet"
    );
    speak(&mut alone, group, leader, anew, (theirs, mine));
    alone.run(10);
    assert_eq!(alone.replica(group), Some(anew));
    assert!(alone.shard.partitions[&group].out_of_service.is_none());
    alone.run(500);
    assert!(alone.fs.files().iter().any(|(path, _)| *path == aside), "what was set aside is an operator's");
}

/// safety.md F4: nobody may campaign any more, and that was a line in the log, again and again.
#[test]
fn group_whose_terms_are_used_up_says_so_and_asks_for_the_next_generation() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[PEER]);
    let replica = alone.replica(group).expect("placed");
    let term = Term(crate::raftlog::generation::TERMS_PER_GENERATION);
    let leader = alone.shard.image.topics["t"].partitions[0].replicas[0];
    let (theirs, mine) = (alone.shard.image.brokers[&PEER].incarnation, alone.shard.status().incarnation);
    let epoch = Epoch { generation: Generation(0), term };
    let message = Message { epoch, body: Body::Beat { sequence: 1, commit: Index(0) } };
    let envelope = Envelope {
        group,
        from: leader,
        to: replica,
        from_incarnation: u128::from(theirs),
        to_incarnation: u128::from(mine),
        message,
        payloads: Vec::new(),
    };
    let now = alone.now();
    alone.shard.handle(now, Input::Raft { from: PEER, envelopes: vec![envelope] });
    assert!(alone.shard.status().out_of_terms.is_empty());
    let says_so = |alone: &mut Alone| {
        alone.run(10);
        alone.shard.status().out_of_terms == [group] && alone.shard.status().waiting == [group]
    };
    assert!((0..500).any(|_| says_so(&mut alone)));
    // This node leads the controllers, and one of a pair proves that nothing is lost.
    alone.run(5_000);
    let core = alone.shard.engine.core(group).unwrap();
    assert_eq!((core.role(), core.epoch().generation), (Role::Leader, Generation(1)));
    assert!(alone.shard.status().out_of_terms.is_empty());
}

/// Its seal proves nothing before others are back, perhaps for days: it was repeated twice a second, to be reported each time.
#[test]
fn seal_that_proves_too_little_is_repeated_less_and_less_often() {
    let mut alone = Alone::new();
    let others = [PEER, NodeId(3)];
    let groups = [alone.with_topic("t", &others), alone.with_topic("u", &others)];
    let _sealed = alone.ask(CtlCommand::Seal { node: ME, groups: vec![(groups[0], 0)] });
    alone.run(1_000);
    assert!(alone.shard.members.seal_pause() <= 1_000);
    alone.run(60_000);
    assert_eq!(alone.shard.members.seal_pause(), 16_000);
    assert!(alone.shard.image.sealing.contains(&groups[0]));
    let _sealed = alone.ask(CtlCommand::Seal { node: ME, groups: vec![(groups[1], 0)] });
    alone.run(1_000);
    assert!(alone.shard.members.seal_pause() <= 1_000, "another one is told soon again");
    assert!(alone.shard.image.sealing.contains(&groups[1]));
}

/// A process whose controllers are others: what they write reaches it record by record, from the first on.
fn told(fs: SimFs, records: &[Record]) -> Alone {
    let mut alone = Alone::start(fs, None);
    alone.shard.membership.stop_applying();
    for record in records {
        alone.apply(record.clone());
    }
    alone
}

fn registered(alone: &mut Alone) {
    let incarnation = alone.shard.image.brokers[&ME].incarnation;
    let now = alone.now();
    alone.shard.on_registered(now, Ok((CtlReply::Registered { incarnation }, 0)));
    alone.run(100);
}

fn broker(node: NodeId, directory: Uuid) -> Record {
    let endpoint = Endpoint { host: format!("node-{}", node.0), port: 1 };
    let listeners = BTreeMap::new();
    Record::Broker { node, directory, kafka: endpoint.clone(), listeners, peer: endpoint, rack: None }
}

fn reopen(alone: Alone) -> SimFs {
    let Alone { fs, shard, writer, .. } = alone;
    drop(shard);
    writer.close().unwrap();
    fs
}

/// Four nodes, and a topic on the first three of them; then the partition moves to the others.
fn moved(directory: Uuid) -> [Vec<Record>; 2] {
    let nodes = [1, 2, 3, 4, 5, 6].map(NodeId);
    let directory_of = |n: NodeId| if n == ME { directory } else { Uuid::from_u128(5 + n.0 as u128) };
    let mut before: Vec<Record> = nodes.iter().map(|n| broker(*n, directory_of(*n))).collect();
    before.insert(0, Record::Cluster { id: "told".into() });
    let (name, id, configs) = ("t".to_owned(), Uuid::from_u128(77), BTreeMap::new());
    before.push(Record::Topic { name, id, replicas: vec![nodes[..3].to_vec()], configs });
    let (group, since) = (GroupId(1), before.len() as u64 + 1);
    let configuration = LogId::new(0, 4, 30);
    let arrivals = vec![Arrival { group, since, generation: 0, configuration }];
    let moves = vec![GroupMove { group, target: nodes[3..].to_vec() }];
    [before, vec![Record::Reassign { moves, by_controllers: false }, Record::Reassigned { arrivals }]]
}

/// A node with a replica of [`moved`]'s partition, and the records from before and of the move.
fn before_it_moves() -> (Alone, Vec<Record>, Vec<Record>) {
    let mut alone = told(SimFs::new(1), &[]);
    let [before, moves] = moved(alone.directory());
    for record in &before {
        alone.apply(record.clone());
    }
    registered(&mut alone);
    assert!(alone.replica(GroupId(1)).is_some());
    (alone, before, moves)
}

/// Its peers had all moved, too, so that nobody could say that it is a member no more: it stayed for ever, and with it any later replica of
/// the partition was kept out.
#[test]
fn replica_that_moved_away_is_deleted_though_none_of_its_peers_is_there_to_say_so() {
    let mut alone = told(SimFs::new(1), &[]);
    let directory = alone.directory();
    let [before, moves] = moved(directory);
    for record in before {
        alone.apply(record);
    }
    registered(&mut alone);
    let group = GroupId(1);
    assert!(
        alone.shard.engine.core(group).is_some_and(|core| core.configuration().0.is_voter(core.replica()))
    );
    for record in moves {
        alone.apply(record);
    }
    alone.run(2_000);
    assert_eq!(alone.replica(group), None);
    // Another comes back here.
    let moves = vec![GroupMove { group, target: [4, 5, 1].map(NodeId).to_vec() }];
    let number = alone.apply(Record::Reassign { moves, by_controllers: false });
    alone.run(100);
    let core = alone.shard.engine.core(group).expect("it is here");
    assert_eq!(core.replica().assignment, number);
    assert!(core.configuration().0.voters.is_empty(), "its leader's log will tell it");
    // A restart finds the one that is wanted, and not the other.
    let mut again = told(reopen(alone), &moved(directory).concat());
    again.run(100);
    assert!(again.replica(group).is_none_or(|replica| replica.assignment == number));
}

/// Being told by the log, after a restart, that it is to go: the same without anybody's word.
#[test]
fn replica_that_moved_while_its_broker_was_away_is_deleted_when_it_is_back() {
    let (alone, before, moves) = before_it_moves();
    let mut alone = told(reopen(alone), &before);
    alone.run(100);
    assert!(alone.replica(GroupId(1)).is_some(), "it is taken up before this broker is registered");
    for record in moves {
        alone.apply(record);
    }
    alone.run(2_000);
    assert_eq!(alone.replica(GroupId(1)), None);
    let files = alone.fs.files();
    assert!(
        !files.iter().any(|(path, _)| path.extension().is_some_and(|e| e == "segment")
            && path.starts_with("/data/groups/")
            && path.to_string_lossy().contains(&Uuid::from_u128(77).to_string())),
        "{files:?}"
    );
}

/// A restart, or a controller log that is damaged in the middle, shows the placement before the tombstone: an empty replica was made again
/// under the id of one that had voted and acknowledged, and it followed, and acknowledged, whoever spoke to it.
#[test]
pub(crate) fn replica_that_moved_away_is_not_made_again_while_the_log_is_read_again() {
    let (mut alone, before, moves) = before_it_moves();
    for record in &moves {
        alone.apply(record.clone());
    }
    alone.run(2_000);
    assert_eq!(alone.replica(GroupId(1)), None);
    let mut alone = told(reopen(alone), &before);
    // Another topic is new.
    let (name, id, configs) = ("u".to_owned(), Uuid::from_u128(78), BTreeMap::new());
    let topic = Record::Topic { name, id, replicas: vec![vec![ME, PEER]], configs };
    alone.run(1_000);
    assert_eq!(alone.replica(GroupId(1)), None, "a replica that was deleted is made anew");
    for record in moves {
        alone.apply(record);
    }
    alone.apply(topic);
    alone.run(1_000);
    assert_eq!(alone.replica(GroupId(2)), None, "not before this broker is registered");
    let directory = alone.directory();
    alone.apply(broker(ME, directory));
    registered(&mut alone);
    assert_eq!(alone.replica(GroupId(1)), None);
    let core = alone.shard.engine.core(GroupId(2)).expect("this one is new");
    assert_eq!(core.configuration().0.voters.len(), 2);
}

/// The simulator's seed 23459: a replica that stopped before it knew again what is committed cut its log further than that, and fenced
/// itself off.
#[test]
fn orderly_stop_before_the_commit_index_is_known_again_cuts_no_more_than_is_known() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[]);
    alone.produce(group, 3);
    let (reply, mut deleted) = oneshot::channel();
    let now = alone.now();
    let command = Command::DeleteRecords { group, offset: -1, timeout_ms: 1_000, reply };
    alone.shard.handle(now, Input::Command(command));
    alone.run(200);
    assert_eq!(deleted.try_recv().unwrap(), Ok(3));
    // The next segment begins at the log start.
    alone.shard.engine.store().roll(group).unwrap();
    alone.produce(group, 1);
    let Alone { fs, shard, writer, .. } = alone;
    drop(shard);
    writer.close().unwrap();
    let mut alone = Alone::start(fs, None);
    while !alone.shard.partitions.contains_key(&group) {
        alone.run(10);
    }
    let known = alone.shard.engine.core(group).unwrap().commit();
    assert!(
        known < alone.shard.engine.core(group).unwrap().last().index.prev(),
        "it knows too much: {known}"
    );
    let (reply, _stopped) = oneshot::channel();
    let now = alone.now();
    alone.shard.start_drain(now, reply);
    assert!(!alone.shard.engine.is_poisoned(group));
    alone.run(3_000);
    assert!(!alone.shard.engine.is_poisoned(group));
}

fn snapshots_after(fs: SimFs, bytes: u64) -> Alone {
    Alone::start_with(fs, None, &[("metadata.log.max.record.bytes.between.snapshots", bytes.to_string())])
}

fn restarted(Alone { fs, shard, writer, .. }: Alone, bytes: u64) -> Alone {
    drop(shard);
    writer.close().unwrap();
    let mut alone = snapshots_after(fs, bytes);
    alone.run(5_000);
    alone
}

#[test]
fn controller_log_is_cut_behind_its_snapshots_and_a_start_takes_the_metadata_from_one() {
    let mut alone = snapshots_after(SimFs::new(1), 2_000);
    alone.run(5_000);
    let mut starts = BTreeSet::new();
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for n in 0..40 {
        let group = alone.with_topic(&format!("topic-{n}"), &[]);
        match n % 2 {
            0 => kept.push(group),
            _ => {
                let _deleted =
                    alone.ask(CtlCommand::DeleteTopic { name: Some(format!("topic-{n}")), id: None });
                gone.push(group);
            }
        }
        alone.run(100);
        starts.insert(alone.shard.engine.store().log_start(CONTROLLER).unwrap().prev.index);
    }
    assert!(starts.len() > 3, "cut at {starts:?}");
    let (before, start) = (alone.shard.image.clone(), *starts.last().unwrap());
    let first = alone.shard.engine.store().read(CONTROLLER, Index(1), 1);
    assert!(matches!(first, Err(segment::Error::OutOfRange)), "what lies before is gone: {first:?}");

    // Written no more: the same snapshot is there at every start.
    let mut alone = restarted(alone, u64::MAX / 2);
    for _ in 0..2 {
        assert_eq!(alone.shard.engine.store().log_start(CONTROLLER).unwrap().prev.index, start);
        assert!(alone.shard.status().registered, "{:?}", alone.shard.status());
        assert_eq!(
            (&alone.shard.image.topics, &alone.shard.image.deleted),
            (&before.topics, &before.deleted)
        );
        assert!(kept.iter().all(|group| alone.replica(*group).is_some()));
        assert!(gone.iter().all(|group| alone.replica(*group).is_none()));
        alone = restarted(alone, u64::MAX / 2);
    }
}

/// It was away while its topic was deleted and the tombstone went the way of the log: the snapshot says so in its stead.
#[test]
fn replica_deleted_while_its_node_was_away_goes_and_one_that_nobody_deleted_stays() {
    let mut alone = Alone::new();
    let (deleted, unknown) = (alone.with_topic("deleted", &[]), alone.with_topic("unknown", &[]));
    let mut image = Image::clone(&alone.shard.image);
    let before = image.clone();
    image
        .apply(image.applied + 1, &Batch::new(vec![Record::DeleteTopic { id: image.topics["deleted"].id }]))
        .unwrap();
    // As no controller would write it.
    let id = image.topics.remove("unknown").unwrap().id;
    image.topic_names.remove(&id);
    image.groups.remove(&unknown);
    let (mut changes, mut removed) = (Vec::new(), BTreeSet::new());
    let at = LogId::new(0, 1, 50);
    alone.shard.take_image_of(image.clone(), at, &mut changes, &mut removed).unwrap();
    let gone: Vec<GroupId> = changes
        .iter()
        .filter_map(|change| match change {
            crate::ctl::image::Change::GroupRemoved { group, .. } => Some(*group),
            _ => None,
        })
        .collect();
    assert_eq!(gone, [deleted]);
    image.cluster_id = "another".into();
    let refused = alone.shard.take_image_of(image, at, &mut changes, &mut removed);
    assert!(refused.unwrap_err().contains("of another cluster"));
    assert_eq!(before.groups.len(), 2);
}

/// Its log was cut elsewhere (the leader's start had taken the place of what was damaged here) without a word to the metadata: it was read
/// on from where it was not, until this node gave itself up.
#[test]
fn metadata_comes_from_a_snapshot_wherever_the_controller_log_begins_behind_it() {
    let mut alone = snapshots_after(SimFs::new(1), 2_000);
    alone.run(5_000);
    for n in 0..20 {
        alone.with_topic(&format!("topic-{n}"), &[]);
        alone.run(100);
    }
    let before = alone.shard.image.clone();
    let start = alone.shard.engine.store().log_start(CONTROLLER).unwrap().prev.index;
    assert!(start > Index(2));
    alone.shard.membership.set_applied(start.prev());
    alone.shard.image = Arc::default();
    let (now, commit) = (alone.now(), alone.shard.engine.core(CONTROLLER).unwrap().commit());
    alone.shard.apply_metadata(now, commit);
    alone.with_topic("one-more", &[]);
    assert!(!alone.shard.membership.is_broken(), "{:?}", alone.shard.status());
    assert_eq!(alone.shard.image.topics.len(), before.topics.len() + 1);
    assert!(before.topics.iter().all(|(name, topic)| alone.shard.image.topics.get(name) == Some(topic)));
}

/// Two nodes that do not know the same: both keep everything, and say so.
#[test]
pub(crate) fn controller_log_is_kept_where_a_snapshot_holds_other_metadata() {
    let mut alone = snapshots_after(SimFs::new(1), 2_000);
    alone.run(5_000);
    let starts = |alone: &Alone| alone.shard.engine.store_ref().log_start(CONTROLLER).unwrap().prev.index;
    let mut n = 0;
    while alone.shard.membership.snapshots.writing.is_empty() {
        n += 1;
        alone.ask_for_topic(&format!("topic-{n}"), &[]);
        alone.run(10);
    }
    let start = starts(&alone);
    Arc::make_mut(&mut alone.shard.image).configs.insert("log.cleaner.threads".into(), "2".into());
    alone.run(500);
    assert!(alone.shard.membership.snapshots.writing.is_empty());
    assert_eq!(starts(&alone), start, "cut behind a snapshot that differs");
    let differs = alone.shard.status().metadata_differs.clone();
    assert!(differs.is_some_and(|why| why.contains("other metadata")));
    // The next one is of what it knows.
    for n in 0..20 {
        alone.with_topic(&format!("more-{n}"), &[]);
        alone.run(100);
    }
    assert!(starts(&alone) > start && alone.shard.status().metadata_differs.is_none());
}

/// It was away while its partition moved, twice even, and the records went the way of the log: the snapshot says so in their stead.
#[test]
fn replica_that_moved_away_before_the_snapshot_is_deleted_and_a_later_one_stays() {
    for times in [1, 2] {
        let (alone, _, moves) = before_it_moves();
        let mut image = Image::clone(&alone.shard.image);
        let mut number = image.applied;
        let mut apply = |image: &mut Image, record: Record| {
            number += 1;
            image.apply(number, &Batch::new(vec![record])).unwrap();
            number
        };
        for record in moves {
            apply(&mut image, record);
        }
        for away in [false, true] {
            if times == 1 {
                break;
            }
            let target = if away { [4, 5, 6] } else { [4, 5, 1] }.map(NodeId).to_vec();
            let moves = vec![GroupMove { group: GroupId(1), target }];
            let since = apply(&mut image, Record::Reassign { moves, by_controllers: false });
            let configuration = LogId::new(0, 4, 40 + u64::from(away));
            let arrivals = vec![Arrival { group: GroupId(1), since, generation: 0, configuration }];
            apply(&mut image, Record::Reassigned { arrivals });
        }
        assert_eq!(image.partition("t", 0).unwrap().left.iter().filter(|left| left.node == ME).count(), 1);
        let mut alone = told(reopen(alone), &[]);
        image.cluster_id = alone.shard.membership.cluster().unwrap().to_owned();
        let (mut changes, mut removed) = (Vec::new(), BTreeSet::new());
        alone.shard.take_image_of(image.clone(), LogId::new(0, 1, 50), &mut changes, &mut removed).unwrap();
        let now = alone.now();
        alone.shard.act_on(now, changes.clone(), removed);
        alone.run(2_000);
        let kept = |alone: &Alone| {
            alone.fs.files().iter().any(|(path, _)| {
                path.extension().is_some_and(|e| e == "segment")
                    && path.starts_with("/data/groups/")
                    && path.to_string_lossy().contains(&Uuid::from_u128(77).to_string())
            })
        };
        assert!(alone.replica(GroupId(1)).is_none() && !kept(&alone), "{times}: {:?}", alone.fs.files());
        // Here again under another id: a snapshot says nothing of that.
        registered(&mut alone);
        let moves = vec![GroupMove { group: GroupId(1), target: [4, 5, 1].map(NodeId).to_vec() }];
        let number = alone.apply(Record::Reassign { moves, by_controllers: false });
        alone.run(100);
        let image = Image::clone(&alone.shard.image);
        let (mut changes, mut removed) = (Vec::new(), BTreeSet::new());
        alone.shard.take_image_of(image, LogId::new(0, 1, 60), &mut changes, &mut removed).unwrap();
        let now = alone.now();
        alone.shard.act_on(now, changes, removed);
        alone.run(1_000);
        assert_eq!(alone.replica(GroupId(1)).map(|replica| replica.assignment), Some(number));
    }
}

/// Its group had lost its majority and gone on without what this replica may hold alone: that moves away with nobody.
#[test]
fn log_that_a_generation_went_on_without_is_kept_though_its_replica_moved_away() {
    for generation in [0, 1] {
        let (mut alone, before, moves) = before_it_moves();
        let meta = EntryMeta {
            id: LogId::new(0, 1, 1),
            prev: Epoch::default(),
            kind: EntryKind::Noop,
            base_offset: Offset(0),
            offset_span: 0,
            payload_len: 0,
        };
        alone.shard.engine.store().append(GroupId(1), vec![Entry { meta, payload: Bytes::new() }]).unwrap();
        alone.run(1_000);
        let mut alone = told(reopen(alone), &before);
        alone.run(100);
        let image = Arc::make_mut(&mut alone.shard.image);
        image.topics.get_mut("t").unwrap().partitions[0].generation = generation;
        for mut record in moves {
            if let Record::Reassigned { arrivals } = &mut record {
                arrivals[0].generation = generation;
            }
            alone.apply(record);
        }
        alone.run(2_000);
        assert_eq!(alone.replica(GroupId(1)), None);
        let is_kept = alone.fs.files().iter().any(|(path, _)| path.to_string_lossy().ends_with(".fenced"));
        assert_eq!(is_kept, generation > 0, "{:?}", alone.fs.files());
    }
}

/// The log start had come with the state of producers as of entries that never came; the generation, or the election, that gave them up
/// left that state as it was. A retry of such a batch was called a duplicate, though nobody has it (seed 9587 of `long`).
#[test]
pub(crate) fn retry_of_a_batch_that_was_lost_is_new() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[]);
    alone.produce(group, 2);
    let last = alone.shard.engine.store().last(group).unwrap().0.index;
    let header = |sequence| BatchHeader {
        producer_id: 7,
        producer_epoch: 0,
        base_sequence: sequence,
        ..BatchHeader::read(&crate::broker::handlers::produce::tests::batch(0)).unwrap()
    };
    let mut known = ProducerState::default();
    let behind = Index(last.0 + 5);
    known.apply(behind, Offset(9), &header(3));
    let start = LogStart {
        producers: known.encode(behind).unwrap().into(),
        producers_at: behind,
        ..alone.shard.engine.store().log_start(group).unwrap().clone()
    };
    let now = alone.now();
    alone.shard.engine.move_log_start(now.mono, group, start).unwrap();
    alone.run(1_000);
    for _ in 0..2 {
        alone = restarted(alone, u64::MAX / 2);
        let partition = &alone.shard.partitions[&group];
        assert_eq!(partition.role, Role::Leader);
        let verdict = partition.check_producer(&header(3), 0, 1_000_000);
        assert_eq!(verdict, Ok(Verdict::Append), "a lost batch is taken for one that is here");
        // What is written from now on stands where the lost entries were.
        alone.produce(group, 9);
        assert!(alone.shard.engine.store().log_start(group).unwrap().producers_at <= last.next());
    }
}

/// The state could not be stored for a moment: the partition took nothing more before a restart.
#[test]
fn nothing_is_written_while_what_was_lost_is_remembered_and_that_is_mended_by_itself() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[]);
    alone.produce(group, 2);
    let unsettle = |alone: &mut Alone| {
        let partition = alone.shard.partitions.get_mut(&group).unwrap();
        partition.unsettled = Some("could not be stored".into());
    };
    unsettle(&mut alone);
    let refused = alone.try_produce(group);
    assert!(matches!(refused, Err(PartitionError::Storage(_))), "{refused:?}");
    // A repair makes the state from what is stored, which is what must not be.
    let shard = &mut alone.shard;
    shard.partitions.get_mut(&group).unwrap().on_repaired(shard.engine.store());
    assert!(alone.try_produce(group).is_err());
    alone.run(3_000);
    assert_eq!(alone.shard.partitions[&group].unsettled, None);
    alone.produce(group, 1);
    // One that follows knows what it has stored.
    unsettle(&mut alone);
    let shard = &mut alone.shard;
    shard.partitions.get_mut(&group).unwrap().leave_unsettled(shard.engine.store());
    let partition = &alone.shard.partitions[&group];
    assert!(partition.unsettled.is_none() && partition.out_of_service.is_none());
}

/// The record speaks of the replica that moved away; the partition came back, and the word of the leader had made another one here.
#[test]
fn record_of_a_replica_that_moved_away_does_not_touch_the_one_that_took_its_place() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[PEER]);
    let here = alone.replica(group).unwrap();
    alone.shard.leaving.insert(group, ReplicaId { assignment: here.assignment - 1, ..here });
    alone.shard.tend_leaving();
    assert_eq!((alone.replica(group), alone.shard.leaving.len()), (Some(here), 0));
    // Nor does it matter that it stands in line a second time.
    let (topic, partition) = alone.shard.image.groups[&group];
    alone.shard.placing.push(group, topic, partition);
    alone.shard.place_some(alone.now());
    assert_eq!(alone.replica(group), Some(here));
}

/// The log said that nothing was left there, and a leader had given one of its replicas the vote back a moment before: the broker was
/// unregistered while it voted.
#[test]
pub(crate) fn decommissioned_broker_that_runs_is_unregistered_when_it_says_that_it_holds_nothing() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[]);
    let beat = |alone: &mut Alone| {
        let known = alone.shard.image.brokers.get(&PEER);
        let incarnation = known.expect("it has not said so").incarnation;
        let beat = super::rpc::Ask::Heartbeat { incarnation, stopping: false, lease: false, applied: 0 };
        let ask = serde_json::to_vec(&beat).unwrap();
        let now = alone.now();
        alone.shard.on_request(now, PEER, 7, &ask);
        incarnation
    };
    alone.with_topic("u", &[PEER]);
    let delete = CtlCommand::DeleteTopic { name: Some("u".into()), id: None };
    let _deleted = alone.ask(delete);
    let drain = |node, value: &str| CtlCommand::AlterBroker {
        node,
        changes: vec![crate::ctl::command::ConfigChange {
            name: crate::ctl::image::DRAIN.into(),
            op: crate::ctl::command::ConfigOp::Set,
            value: Some(value.into()),
        }],
        validate_only: false,
    };
    let _drained = alone.ask(drain(PEER, "replicas"));
    let mut incarnation = 0;
    for _ in 0..30 {
        incarnation = beat(&mut alone);
        alone.run(100);
    }
    assert!(alone.shard.image.brokers.contains_key(&PEER), "it has not said so");
    // Of another registration it would say nothing.
    alone.shard.note_emptied(PEER, incarnation + 1);
    beat(&mut alone);
    alone.run(1_500);
    assert!(alone.shard.image.brokers.contains_key(&PEER), "it has not said so");
    beat(&mut alone);
    let ask = serde_json::to_vec(&super::rpc::Ask::Emptied { incarnation }).unwrap();
    let now = alone.now();
    alone.shard.on_request(now, PEER, 8, &ask);
    alone.run(1_500);
    assert!(!alone.shard.image.brokers.contains_key(&PEER));
    // This node is one, too.
    let _deleted = alone.ask(CtlCommand::DeleteTopic { name: Some("t".into()), id: None });
    let _drained = alone.ask(drain(ME, "replicas"));
    alone.run(3_000);
    assert!(alone.replica(group).is_none() && !alone.shard.image.brokers.contains_key(&ME));
}

/// A controller that came with another disk, and votes again before its broker is registered: what it was stayed an observer for ever, and
/// the voter passed for silent by it.
#[test]
fn what_was_on_another_disk_of_a_controller_observes_no_more() {
    let mut alone = Alone::new();
    let now = alone.now();
    let of = |directory| ReplicaId { node: PEER, assignment: 0, directory };
    let peers = |alone: &mut Alone| {
        alone.shard.engine.progress(CONTROLLER).iter().map(|p| p.replica).collect::<Vec<_>>()
    };
    alone.shard.observe(now, PEER, 7);
    assert_eq!(peers(&mut alone), [of(7)]);
    let me = alone.shard.engine.core(CONTROLLER).unwrap().replica();
    assert!(alone.shard.change_members(now, CONTROLLER, vec![me], vec![of(8)]));
    assert_eq!(peers(&mut alone), [of(7), of(8)], "nobody has said which of them is there");
    alone.shard.observe(now, PEER, 8);
    assert_eq!(peers(&mut alone), [of(8)]);
    // Another process under the same number by mistake; and a leadership leaves nothing to the next.
    alone.shard.observe(now, PEER, 9);
    assert_eq!(peers(&mut alone), [of(8), of(9)]);
    alone.shard.on_controller_role(now, Role::Follower, None);
    assert_eq!(peers(&mut alone), [of(8)]);

    let progress = |directory, heard_ms, voter| PeerProgress {
        replica: of(directory),
        matched: Index(1),
        heard_ms,
        caught_up_ms: heard_ms,
        voter,
        is_caught_up: true,
        counts: true,
    };
    let is_heard = |old, new| controllers::is_heard_as_voter(now, PEER, &[old, new]);
    assert!(is_heard(progress(7, 0, false), progress(8, now.mono, true)));
    assert!(!is_heard(progress(7, now.mono, false), progress(8, 0, true)));
}

/// The policy may be another one when this node leads again.
#[test]
fn what_a_former_leadership_of_the_controllers_asked_is_forgotten_with_it() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[PEER]);
    let now = alone.now();
    alone.shard.handle(now, Input::Dialled { node: PEER, up: true });
    assert_eq!(alone.shard.recovery.deadline(), Millis::MAX);
    alone.shard.begin_report(now, vec![group], recovery::Asker::Leasing(BTreeMap::new()));
    assert!(alone.shard.recovery.deadline() < Millis::MAX, "the other one is asked");
    alone.shard.on_controller_role(now, Role::Follower, None);
    assert_eq!(alone.shard.recovery.deadline(), Millis::MAX);
}

/// So it need not know whether a topic needs leases by now (decision 0017): it shows nothing.
#[test]
fn replica_of_a_process_that_is_not_registered_yet_hears_no_leader() {
    let mut alone = Alone::new();
    let group = alone.with_topic("t", &[PEER]);
    let (me, mine) = (alone.replica(group).expect("placed"), alone.shard.status().incarnation);
    let (leader, theirs) = (
        alone.shard.image.topics["t"].partitions[0].replicas[0],
        alone.shard.image.brokers[&PEER].incarnation,
    );
    speak(&mut alone, group, leader, me, (theirs, mine));
    assert!(alone.shard.partitions[&group].leader.is_some());
    let Alone { fs, shard, writer, .. } = alone;
    drop(shard);
    writer.close().unwrap();
    let mut alone = Alone::start(fs, None);
    for _ in 0..1_000 {
        if alone.replica(group).is_none() {
            alone.run(10);
        }
    }
    assert!(alone.replica(group).is_some() && !alone.shard.status().registered);
    for mine in [mine, 0] {
        speak(&mut alone, group, leader, me, (theirs, mine));
        let p = &alone.shard.partitions[&group];
        assert!(p.leader.is_none() && alone.shard.check_readable(p, -1).is_err());
    }
    alone.run(5_000);
    let mine = alone.shard.status().incarnation;
    speak(&mut alone, group, leader, me, (theirs, mine));
    assert!(alone.shard.partitions[&group].leader.is_some());
}

/// Decision 0017: whoever was answered under a lease was answered before the survivor of an automatic recovery can answer.
#[test]
fn acknowledgement_that_waits_for_the_rest_of_its_request_ends_with_the_lease() {
    let mut alone = Alone::new();
    let plain = alone.with_topic("plain", &[]);
    let configs = BTreeMap::from([("recovery.policy".to_owned(), Some("auto".to_owned()))]);
    alone.ask_for_topic_with("auto", &[], configs);
    alone.run(5_000);
    let auto = alone.shard.image.topics["auto"].partitions[0].group;
    alone.produce(auto, 1);
    let acknowledged = Ok(Produced { base_offset: 0, log_start_offset: 0 });
    let mut answered = |lapses: bool| {
        let (reply, mut answer) = oneshot::channel();
        let pending = PendingProduce {
            results: vec![Some(acknowledged.clone()), Some(acknowledged.clone()), None],
            groups: vec![auto, plain, plain],
            missing: 1,
            deadline: alone.now + 1_000,
            _permit: None,
            reply,
        };
        let request = alone.shard.next_id();
        alone.shard.produce_deadlines.insert((pending.deadline, request));
        alone.shard.produces.insert(request, pending);
        if lapses {
            alone.shard.on_lease_over(alone.now());
        }
        alone.run(1_100);
        answer.try_recv().unwrap().iter().map(Result::is_ok).collect::<Vec<_>>()
    };
    assert_eq!(answered(false), [true, true, false]);
    assert_eq!(answered(true), [false, true, false]);
}
