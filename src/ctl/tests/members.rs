//! Shrink and grow as controllers and leaders decide them together, over replicas that are lists of entries: any sequence of deaths,
//! returns, wiped disks, reassignments and writes loses nothing acknowledged and ends with every group at its full replication where it
//! is to be.
use super::*;
use crate::ctl::anew::Forsaken;
use crate::ctl::generations::{self, Sealed};
use crate::ctl::image::{Change, Partition};
use crate::ctl::members::{self, Next, View};
use crate::ctl::reassign::{Arrival, Reassignment};
use crate::ctl::record::GroupOpening;
use crate::raftlog::generation::{Decision, SealReport};
use crate::raftlog::message::Configuration;
use crate::segment::{Epoch, Generation, GroupId, Index, LogId, ReplicaId, Term};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn replica(node: i32) -> ReplicaId {
    ReplicaId { node: NodeId(node), assignment: 1, directory: node as u128 }
}

fn ids(nodes: &[i32]) -> Vec<ReplicaId> {
    nodes.iter().map(|node| replica(*node)).collect()
}

fn configuration(voters: &[i32], old: &[i32], learners: &[i32]) -> Configuration {
    let (voters, old_voters, learners) = (ids(voters), ids(old), ids(learners));
    Configuration { voters, old_voters, learners, ..Configuration::default() }
}

/// What the leader on node 1 of three would do next.
fn look(
    configuration: &Configuration,
    gone: &[i32],
    caught_up: &[i32],
    min_voters: usize,
    over: bool,
) -> Next {
    let is = |list: &[i32], r: ReplicaId| list.contains(&r.node.0);
    members::next(&View {
        configuration,
        me: replica(1),
        assigned: &ids(&[1, 2, 3]),
        target: &ids(&[1, 2, 3]),
        takes_back: true,
        was_there: &|_| false,
        is_gone: &|r| is(gone, r),
        is_heard: &|r| !is(gone, r),
        is_live: &|r| !is(gone, r),
        is_caught_up: &|r| is(caught_up, r),
        known: 1,
        counts: &|_| true,
        min_voters,
        is_patience_over: over,
    })
}

fn change(voters: &[i32], learners: &[i32]) -> Next {
    Next::Change { voters: ids(voters), learners: ids(learners) }
}

#[test]
pub(crate) fn dead_voter_ceases_to_vote_at_once_and_stays_a_learner() {
    let whole = configuration(&[1, 2, 3], &[], &[]);
    assert_eq!(look(&whole, &[], &[], 1, false), Next::Nothing);
    assert_eq!(look(&whole, &[2], &[], 1, false), change(&[1, 3], &[2]));
    assert_eq!(look(&whole, &[2], &[], 3, false), Next::Nothing, "shrink.min.voters");
    assert_eq!(look(&configuration(&[1, 3], &[], &[2]), &[2], &[], 1, false), Next::Nothing);
}

#[test]
fn without_a_quorum_the_leader_asks_for_nothing_but_a_generation() {
    let pair = configuration(&[1, 3], &[], &[2]);
    assert_eq!(look(&pair, &[2, 3], &[], 1, false), Next::Stuck { provable: true });
    assert_eq!(look(&pair, &[3], &[2], 1, true), Next::Stuck { provable: true }, "a learner does not vote");
    assert_eq!(look(&pair, &[2, 3], &[], 2, false), Next::Stuck { provable: false }, "one voter is too few");
    let whole = configuration(&[1, 2, 3], &[], &[]);
    assert_eq!(look(&whole, &[2, 3], &[], 1, false), Next::Stuck { provable: false }, "one of three");
    let joint = configuration(&[1, 2, 3], &[1], &[]);
    assert_eq!(look(&joint, &[2, 3], &[], 1, false), Next::Stuck { provable: false }, "{{A}} -> {{A,B,C}}");
    let joint = configuration(&[1, 3], &[1, 2], &[]);
    assert_eq!(look(&joint, &[2, 3], &[], 1, false), Next::Stuck { provable: true }, "{{A,B}} -> {{A,C}}");
    assert_eq!(look(&joint, &[], &[], 1, false), Next::Nothing, "its leader finishes it by itself");
}

/// One of three was dead, another damaged for long, yet acknowledging: the leader called the group stuck, and the dead one stayed a voter.
#[test]
fn unfit_voter_that_acknowledges_lets_the_leader_remove_a_dead_one() {
    let whole = configuration(&[1, 2, 3], &[], &[]);
    let look = |caught_up: bool, counts: bool| {
        members::next(&View {
            configuration: &whole,
            me: replica(1),
            assigned: &ids(&[1, 2, 3]),
            target: &ids(&[1, 2, 3]),
            takes_back: true,
            was_there: &|_| false,
            is_gone: &|r| r.node.0 != 1,
            is_heard: &|r| r.node.0 != 3,
            is_live: &|r| r.node.0 != 3,
            is_caught_up: &|r| caught_up && r.node.0 == 2,
            counts: &|_| counts,
            known: 1,
            min_voters: 1,
            is_patience_over: false,
        })
    };
    assert_eq!(look(true, true), change(&[1], &[2, 3]));
    assert_eq!(look(false, true), Next::Stuck { provable: false }, "it commits nothing");
    assert_eq!(look(true, false), Next::Stuck { provable: false }, "its word does not count");
}

/// One is damaged and acknowledges, another was silent for a moment, or is dead: a change that needs the silent one would have ended all
/// commits, which went on through the damaged one.
#[test]
fn change_is_asked_for_only_if_those_who_are_heard_commit_it() {
    let whole = configuration(&[1, 3, 2], &[], &[]);
    let look = |gone: &[i32], min_voters: usize| {
        members::next(&View {
            configuration: &whole,
            me: replica(1),
            assigned: &ids(&[1, 3, 2]),
            target: &ids(&[1, 3, 2]),
            takes_back: true,
            was_there: &|_| false,
            is_gone: &|r| gone.contains(&r.node.0),
            is_heard: &|r| r.node.0 != 3,
            is_live: &|r| r.node.0 != 3,
            is_caught_up: &|r| r.node.0 == 2,
            counts: &|_| true,
            known: 1,
            min_voters,
            is_patience_over: false,
        })
    };
    assert_eq!(look(&[2], 1), Next::Nothing, "without 2, 3 is needed");
    assert_eq!(look(&[2, 3], 2), change(&[1, 2], &[3]), "the dead one goes, not the one that answers");
    assert_eq!(look(&[2, 3], 1), change(&[1], &[3, 2]));
}

#[test]
fn learners_become_voters_together_unless_one_takes_long() {
    let alone = configuration(&[1], &[], &[]);
    assert_eq!(look(&alone, &[2, 3], &[], 1, false), Next::Nothing);
    assert_eq!(look(&alone, &[], &[], 1, false), change(&[1], &[2, 3]));
    let joined = configuration(&[1], &[], &[2, 3]);
    assert_eq!(look(&joined, &[], &[], 1, false), Next::Nothing);
    assert_eq!(look(&joined, &[], &[3], 1, false), Next::Wait);
    assert_eq!(look(&joined, &[], &[3], 1, true), change(&[1, 3], &[2]));
    assert_eq!(look(&joined, &[], &[2, 3], 1, false), change(&[1, 2, 3], &[]));
    assert_eq!(look(&joined, &[2], &[3], 1, false), change(&[1, 3], &[2]), "who is gone is not waited for");
}

#[test]
pub(crate) fn learner_that_is_behind_or_not_heard_does_not_vote() {
    let pair = configuration(&[1, 2], &[], &[3]);
    let look = |is_heard: bool, is_caught_up: bool| {
        members::next(&View {
            configuration: &pair,
            me: replica(1),
            assigned: &ids(&[1, 2, 3]),
            target: &ids(&[1, 2, 3]),
            takes_back: true,
            was_there: &|_| false,
            is_gone: &|_| false,
            is_heard: &|r| is_heard || r.node.0 != 3,
            is_live: &|_| true,
            is_caught_up: &|r| is_caught_up || r.node.0 != 3,
            counts: &|_| true,
            known: 1,
            min_voters: 1,
            is_patience_over: true,
        })
    };
    assert_eq!(look(true, true), change(&[1, 2, 3], &[]));
    assert_eq!(look(true, false), Next::Nothing, "it is behind");
    assert_eq!(look(false, true), Next::Nothing, "nobody hears it");
}

#[test]
fn replica_on_a_replaced_disk_leaves_before_its_successor_joins() {
    let mut old = configuration(&[1, 2, 3], &[], &[]);
    old.voters[1].directory = 77;
    // The one that was there is not assigned any more, so it is gone.
    let view = |configuration: &Configuration, gone: &dyn Fn(ReplicaId) -> bool| {
        members::next(&View {
            configuration,
            me: replica(1),
            assigned: &ids(&[1, 2, 3]),
            target: &ids(&[1, 2, 3]),
            takes_back: true,
            was_there: &|_| false,
            is_gone: gone,
            is_heard: &|r| r.directory != 77,
            is_live: &|_| true,
            is_caught_up: &|_| true,
            known: 1,
            counts: &|_| true,
            min_voters: 1,
            is_patience_over: false,
        })
    };
    let lost = |r: ReplicaId| r.directory == 77;
    assert_eq!(view(&old, &lost), change(&[1, 3], &[]));
    let left = old.towards(ids(&[1, 3]), Vec::new()).without_old();
    assert_eq!(view(&left, &lost), change(&[1, 3], &[2]));
}

/// A disk came back after its node had been given another, as a voter that keeps up: for ever, and its successor never joined.
#[test]
fn voter_under_an_old_id_makes_room_for_its_successor_when_the_others_are_there() {
    let look =
        |configuration: &Configuration, assigned: &[ReplicaId], caught_up: &[i32], min_voters: usize| {
            members::next(&View {
                configuration,
                me: configuration.voters[0],
                assigned,
                target: assigned,
                takes_back: true,
                was_there: &|_| false,
                is_gone: &|_| false,
                is_heard: &|_| true,
                is_live: &|_| true,
                is_caught_up: &|r| caught_up.contains(&r.node.0),
                counts: &|_| true,
                known: 9,
                min_voters,
                is_patience_over: true,
            })
        };
    let mut assigned = ids(&[1, 2, 3]);
    assigned[2].assignment = 9;
    let old = configuration(&[1, 2, 3], &[], &[]);
    assert_eq!(look(&old, &assigned, &[2, 3], 1), change(&[1, 2], &[]));
    assert_eq!(look(&old, &assigned, &[3], 1), Next::Nothing, "it is one of few copies");
    assert_eq!(look(&old, &assigned, &[2, 3], 3), Next::Nothing, "shrink.min.voters");
    let joins = Next::Change { voters: ids(&[1, 2]), learners: vec![assigned[2]] };
    assert_eq!(look(&old.towards(ids(&[1, 2]), Vec::new()).without_old(), &assigned, &[2, 3], 1), joins);
    // The leader itself is the one.
    let first = configuration(&[3, 1, 2], &[], &[]);
    assert_eq!(look(&first, &assigned, &[1, 2], 1), change(&[1, 2], &[]));
    // With a replication factor of two the other one would be the only copy meanwhile.
    let pair = configuration(&[1, 3], &[], &[]);
    let two = [assigned[0], assigned[2]];
    assert_eq!(look(&pair, &two, &[3], 1), Next::Nothing);
    // Of a group of one it is all there is.
    let alone = configuration(&[3], &[], &[]);
    assert_eq!(look(&alone, &assigned[2..], &[], 1), Next::Nothing);
}

/// What the leader on node 1 would do next while its group moves to `target`; the others are heard unless they are gone.
fn look_moving(
    target: &[i32],
    configuration: &Configuration,
    gone: &[i32],
    caught_up: &[i32],
    over: bool,
) -> Next {
    let is = |list: &[i32], r: ReplicaId| list.contains(&r.node.0);
    let leaving: Vec<i32> = (1..=3).filter(|node| !target.contains(node)).collect();
    let assigned = ids(&[target, &leaving[..]].concat());
    members::next(&View {
        configuration,
        me: replica(1),
        assigned: &assigned,
        target: &assigned[..target.len()],
        takes_back: true,
        was_there: &|r| !target.contains(&r.node.0),
        is_gone: &|r| is(gone, r),
        is_heard: &|r| !is(gone, r),
        is_live: &|r| !is(gone, r),
        is_caught_up: &|r| is(caught_up, r),
        known: 1,
        counts: &|_| true,
        min_voters: 1,
        is_patience_over: over,
    })
}

#[test]
fn moved_group_gets_its_newcomers_and_lets_the_old_go_in_one_change() {
    let old = configuration(&[1, 2, 3], &[], &[]);
    assert_eq!(look_moving(&[1, 2, 4], &old, &[], &[2, 3], false), change(&[1, 2, 3], &[4]));
    let joined = configuration(&[1, 2, 3], &[], &[4]);
    for over in [false, true] {
        assert_eq!(look_moving(&[1, 2, 4], &joined, &[], &[2, 3], over), Next::Nothing, "4 is far behind");
        assert_eq!(look_moving(&[1, 2, 4], &joined, &[], &[2, 3, 4], over), change(&[1, 2, 4], &[3]));
    }
    let there = configuration(&[1, 2, 4], &[], &[3]);
    assert_eq!(look_moving(&[1, 2, 4], &there, &[], &[2, 3, 4], true), Next::Nothing, "3 may be wanted back");
    // A voter that nobody knows any more (a disk that came back) goes likewise, not before the others are there.
    assert_eq!(look_moving(&[1, 2, 3], &there, &[], &[2, 4], true), Next::Nothing);
    assert_eq!(look_moving(&[1, 2, 3], &there, &[], &[2, 3, 4], true), change(&[1, 2, 3], &[]));
}

#[test]
fn leader_that_is_to_leave_goes_last_and_all_newcomers_together() {
    let joined = configuration(&[1, 2, 3], &[], &[4, 5, 6]);
    let held = look_moving(&[4, 5, 6], &joined, &[], &[2, 3, 4, 5], true);
    assert_eq!(held, Next::Nothing, "a fourth and a fifth voter are of no use");
    assert_eq!(look_moving(&[4, 5, 6], &joined, &[], &[2, 3, 4, 5, 6], true), change(&[4, 5, 6], &[1, 2, 3]));
}

#[test]
pub(crate) fn voter_that_is_to_leave_stays_while_one_of_the_target_is_missing() {
    // 3 is dead: 4 takes its place, before 5 is there.
    let shrunk = configuration(&[1, 2], &[], &[3, 4, 5]);
    assert_eq!(look_moving(&[1, 4, 5], &shrunk, &[3], &[2, 4], true), change(&[1, 4, 2], &[5, 3]));
    // 5 is dead: 2 stays although it is to leave.
    let grown = configuration(&[1, 2, 4], &[], &[3, 5]);
    assert_eq!(look_moving(&[1, 4, 5], &grown, &[3, 5], &[2, 4], true), Next::Nothing);
    // One that stays and lags counts as little as one that is still to come.
    let joined = configuration(&[1, 2, 3], &[], &[4]);
    assert_eq!(look_moving(&[1, 2, 4], &joined, &[], &[3, 4], true), Next::Nothing);
    // Fewer replicas are wanted than there are: one that is gone does not count as one of them.
    let whole = configuration(&[1, 2, 3], &[], &[]);
    assert_eq!(look_moving(&[1, 2], &whole, &[], &[2, 3], true), change(&[1, 2], &[3]));
    assert_eq!(look_moving(&[1, 2], &whole, &[2], &[3], true), change(&[1, 3], &[2]));
}

/// Two of three died one after the other and were given up; they came back in sync while others copied for hours, and the only voter's disk
/// failed: two whole copies had no vote.
#[test]
pub(crate) fn replica_that_is_to_leave_and_keeps_up_votes_until_the_newcomers_are_there() {
    // A generation began with one voter, without those who were dead: they are no members when they come back.
    let opened = configuration(&[1], &[], &[]);
    assert_eq!(look_moving(&[1, 4, 5], &opened, &[2, 3], &[], false), change(&[1], &[4, 5]));
    let joined = configuration(&[1], &[], &[4, 5]);
    assert_eq!(look_moving(&[1, 4, 5], &joined, &[3], &[], false), change(&[1], &[4, 5, 2]));
    assert_eq!(look_moving(&[1, 4, 5], &joined, &[], &[], true), change(&[1], &[4, 5, 2, 3]));
    let alone = configuration(&[1], &[], &[4, 5, 2, 3]);
    for over in [false, true] {
        assert_eq!(look_moving(&[1, 4, 5], &alone, &[2, 3], &[], over), Next::Nothing);
        assert_eq!(look_moving(&[1, 4, 5], &alone, &[], &[], over), Next::Nothing, "they are behind");
        assert_eq!(look_moving(&[1, 4, 5], &alone, &[3], &[2], over), change(&[1, 2], &[4, 5, 3]));
        assert_eq!(look_moving(&[1, 4, 5], &alone, &[], &[2, 3], over), change(&[1, 2, 3], &[4, 5]));
        assert_eq!(look_moving(&[1, 4, 5], &alone, &[], &[2, 3, 4, 5], over), change(&[1, 4, 5], &[2, 3]));
        let whole = configuration(&[1, 2, 3], &[], &[4, 5]);
        let waits = if over { Next::Nothing } else { Next::Wait };
        assert_eq!(look_moving(&[1, 4, 5], &whole, &[], &[2, 3, 4], over), waits, "as many as are to be");
        assert_eq!(look_moving(&[1, 4, 5], &whole, &[], &[2, 3, 4, 5], over), change(&[1, 4, 5], &[2, 3]));
    }
}

/// Found by the sequences below: the next leader, whose copy of the controller log was behind, took the newcomer out again, and with it
/// the newcomer's id, for good.
#[test]
fn leader_that_knows_less_than_its_log_changes_nothing() {
    let view = |known| {
        let assigned = ids(&[1, 2, 3]);
        let mut configuration = configuration(&[1, 2, 3], &[], &[4]);
        configuration.learners[0].assignment = 7;
        let view = View {
            configuration: &configuration,
            me: replica(1),
            assigned: &assigned,
            target: &assigned,
            takes_back: true,
            was_there: &|_| false,
            is_gone: &|_| false,
            is_heard: &|_| true,
            is_live: &|_| true,
            is_caught_up: &|_| true,
            known,
            counts: &|_| true,
            min_voters: 1,
            is_patience_over: true,
        };
        members::next(&view)
    };
    assert_eq!(view(6), Next::Nothing);
    assert_eq!(view(7), change(&[1, 2, 3], &[]), "now it knows that nobody wants it");
}

/// An entry of a replica's log.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    id: LogId,
    configuration: Option<Configuration>,
    value: u64,
}

#[derive(Clone, Debug, Default)]
struct Replica {
    log: Vec<Entry>,
    generation: u64,
    term: u64,
    sealed: bool,
    /// It leads, in its term.
    leads: bool,
}

impl Replica {
    fn last(&self) -> LogId {
        self.log.last().map_or(LogId::default(), |entry| entry.id)
    }

    /// Newest configuration of its generation, and its entry.
    fn configuration(&self, founders: &Configuration) -> (Configuration, LogId) {
        let newest = self.log.iter().rev().find(|e| e.configuration.is_some());
        match newest {
            Some(e) if e.id.epoch.generation.0 == self.generation => {
                (e.configuration.clone().expect("looked for"), e.id)
            }
            None if self.generation == 0 => (founders.clone(), LogId::default()),
            _ => (Configuration::default(), LogId::default()),
        }
    }

    fn append(&mut self, configuration: Option<Configuration>, value: u64) {
        let epoch = Epoch::new(self.generation, self.term);
        let id = LogId { epoch, index: self.last().index.next() };
        self.log.push(Entry { id, configuration, value });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Kill(i32),
    Start {
        node: i32,
        wiped: bool,
        /// Entries of the controller log that it does not know at first.
        behind: usize,
    },
    /// The controllers take note of who is dead.
    Declare(i32),
    Elect(i32),
    Write(i32),
    /// A follower takes what its leader has, and answers.
    Sync(i32),
    /// What is in the controller log reaches a node.
    Tell(i32),
    Look(i32),
    Report(i32),
    Decide,
    NewController,
    Reassign(Vec<i32>),
    Cancel,
    /// Whatever leaders ever said of groups that have arrived reaches the controllers, again.
    Arrive,
}

fn any_step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        3 => node().prop_map(Step::Kill),
        3 => (node(), prop::bool::weighted(0.15), 0..12usize)
            .prop_map(|(node, wiped, behind)| Step::Start { node, wiped, behind }),
        4 => node().prop_map(Step::Declare),
        5 => node().prop_map(Step::Elect),
        5 => node().prop_map(Step::Write),
        12 => node().prop_map(Step::Sync),
        6 => node().prop_map(Step::Tell),
        8 => node().prop_map(Step::Look),
        4 => node().prop_map(Step::Report),
        4 => Just(Step::Decide),
        1 => Just(Step::NewController),
        2 => prop::sample::subsequence((0..NODES).collect::<Vec<i32>>(), 1..=4).prop_shuffle().prop_map(Step::Reassign),
        1 => Just(Step::Cancel),
        4 => Just(Step::Arrive),
    ]
}

/// Brokers: so many that all peers of a replica can move elsewhere.
const NODES: i32 = 7;

/// One group, at first with three replicas.
struct World {
    log: Log,
    sealed: Sealed,
    group: GroupId,
    founders: Configuration,
    up: BTreeMap<i32, bool>,
    disk: BTreeMap<i32, u64>,
    replicas: BTreeMap<ReplicaId, Replica>,
    /// What each node has applied of the controller log.
    told: BTreeMap<i32, Image>,
    acknowledged: BTreeMap<Index, Entry>,
    values: u64,
    now: u64,
    disks: u64,
    decisions: BTreeMap<u64, Decision>,
    arrivals: Vec<Arrival>,
    /// Replicas whose brokers know that they have moved away.
    leaving: BTreeSet<ReplicaId>,
    /// Replicas that were ever made.
    ever: BTreeSet<ReplicaId>,
    /// Number of each broker's last registration.
    registered: BTreeMap<i32, u64>,
}

impl World {
    fn new() -> Self {
        let mut log = Log::with_brokers(&[None; NODES as usize]);
        log.create("t", 1, 3);
        let partition = log.image.topics["t"].partitions[0].clone();
        let founders = Configuration { voters: partition.replicas.clone(), ..Configuration::default() };
        let replicas = partition.replicas.iter().map(|r| (*r, Replica::default())).collect();
        Self {
            told: (0..NODES).map(|node| (node, log.image.clone())).collect(),
            log,
            sealed: Sealed::default(),
            group: partition.group,
            founders,
            up: (0..NODES).map(|node| (node, true)).collect(),
            disk: (0..NODES).map(|node| (node, 0)).collect(),
            replicas,
            acknowledged: BTreeMap::new(),
            values: 0,
            now: 0,
            disks: 0,
            decisions: BTreeMap::new(),
            arrivals: Vec::new(),
            leaving: BTreeSet::new(),
            ever: partition.replicas.iter().copied().collect(),
            registered: (0..NODES).map(|node| (node, 0)).collect(),
        }
    }

    /// The replica that lives on a node that is up: the one its image names, if its disk holds it.
    fn here(&self, node: i32) -> Option<ReplicaId> {
        let directory = directory(node, self.disk[&node]).as_u128();
        let mine = |id: &&ReplicaId| id.node.0 == node && id.directory == directory;
        // The one that was placed last.
        self.replicas.keys().filter(|_| self.up[&node]).rfind(mine).copied()
    }

    fn leader_of(&self, id: ReplicaId) -> Option<ReplicaId> {
        let own = &self.replicas[&id];
        let up = (0..NODES).filter_map(|node| self.here(node));
        let leaders = up.filter(|other| {
            let r = &self.replicas[other];
            *other != id && r.leads && r.generation == own.generation && r.term >= own.term
        });
        leaders.max_by_key(|leader| self.replicas[leader].term)
    }

    fn step(&mut self, step: &Step) {
        self.now += 100;
        match *step {
            Step::Kill(node) => {
                self.up.insert(node, false);
                for (id, replica) in &mut self.replicas {
                    replica.leads &= id.node.0 != node;
                }
            }
            Step::Start { node, wiped, behind } if !self.up[&node] => {
                if wiped {
                    self.disks += 1;
                    self.disk.insert(node, self.disks);
                }
                self.up.insert(node, true);
                self.log.run(&registration(node, self.disk[&node], None)).unwrap();
                self.registered.insert(node, self.log.image.applied);
                if generations::wiped(&self.log.image).contains(&NodeId(node)) {
                    self.log.run(&Command::Place { node: NodeId(node) }).unwrap();
                }
                // It reads the log again.
                let known = self.log.entries.len().saturating_sub(behind);
                let mut image = Image::default();
                for (number, batch) in &self.log.entries[..known] {
                    image.apply(*number, batch).unwrap();
                }
                // Of what it holds, it meets the tombstones that it has come to.
                let directory = directory(node, self.disk[&node]).as_u128();
                let named = image.group(self.group).map_or(&[][..], |(_, _, placed)| &placed.replicas);
                let is_gone = |r: &&ReplicaId| {
                    r.directory == directory && r.assignment <= image.applied && !named.contains(r)
                };
                let gone: Vec<ReplicaId> = self.replicas.keys().filter(is_gone).copied().collect();
                self.leaving.retain(|r| r.node.0 != node);
                self.leaving.extend(gone);
                self.told.insert(node, Image::default());
                self.tell(node, image);
            }
            Step::Declare(node) if !self.up[&node] => {
                let incarnation = self.log.image.brokers[&NodeId(node)].incarnation;
                self.log.run(&Command::Dead { node: NodeId(node), incarnation }).unwrap();
            }
            Step::Elect(node) => self.elect(node),
            Step::Write(node) => {
                if let Some(id) = self.here(node)
                    && self.replicas[&id].leads
                {
                    self.values += 1;
                    let value = self.values;
                    self.replicas.get_mut(&id).unwrap().append(None, value);
                    self.commit(id);
                }
            }
            Step::Sync(node) => self.sync(node),
            Step::Tell(node) if self.up[&node] => self.tell(node, self.log.image.clone()),
            Step::Look(node) => self.look(node),
            Step::Report(node) => self.report(node),
            Step::Decide => {
                let openings = self.sealed.decide(&self.log.image, self.now, 0, &mut Vec::new());
                self.log.run(&Command::OpenGenerations { openings }).unwrap();
                // A disk that was replaced meanwhile had to wait.
                for node in generations::wiped(&self.log.image) {
                    self.log.run(&Command::Place { node }).unwrap();
                }
                let partition = self.log.image.group(self.group).unwrap().2;
                if let Some(decision) = &partition.opening {
                    let known = self.decisions.entry(decision.generation.0).or_insert((**decision).clone());
                    assert_eq!(*known, **decision, "one decision per generation");
                    assert!(decision.opening.lossless);
                }
            }
            Step::NewController => self.sealed = Sealed::default(),
            Step::Reassign(ref target) => self.reassign(Some(target)),
            Step::Cancel => self.reassign(None),
            Step::Arrive => {
                let arrivals = self.arrivals.clone();
                self.log.run(&Command::Arrived { arrivals }).unwrap();
            }
            _ => {}
        }
    }

    fn reassign(&mut self, target: Option<&[i32]>) {
        let target = target.map(|nodes| nodes.iter().copied().map(NodeId).collect());
        let rows = vec![Reassignment { topic: "t".into(), partition: 0, target }];
        let command = Command::Reassign { rows, allow_factor_change: true };
        let _refused_or_done = self.log.run(&command);
    }

    fn voters_that(&self, configuration: &Configuration, holds: impl Fn(&Replica) -> bool) -> bool {
        configuration.is_quorum(|id| {
            self.here(id.node.0) == Some(id) && self.replicas.get(&id).is_some_and(|r| !r.sealed && holds(r))
        })
    }

    fn elect(&mut self, node: i32) {
        let Some(id) = self.here(node) else { return };
        let own = self.replicas[&id].clone();
        let (configuration, entry) = own.configuration(&self.founders);
        // Whoever leads without a vote until its last configuration is committed stands again, uncounted (thesis §4.2.2).
        let is_out = !configuration.is_voter(id) && self.acknowledged.contains_key(&entry.index);
        if own.sealed || is_out || !configuration.is_member(id) {
            return;
        }
        let term = 1 + self
            .replicas
            .values()
            .filter(|r| r.generation == own.generation)
            .map(|r| r.term)
            .max()
            .unwrap();
        let grants = |r: &Replica| r.generation == own.generation && r.term < term && r.last() <= own.last();
        if !self.voters_that(&configuration, grants) {
            return;
        }
        // Whoever granted follows now; the others find out.
        let voters: Vec<ReplicaId> = configuration.members().collect();
        for voter in voters {
            if self.here(voter.node.0) == Some(voter)
                && let Some(r) =
                    self.replicas.get_mut(&voter).filter(|r| !r.sealed && r.generation == own.generation)
                && r.last() <= own.last()
            {
                (r.term, r.leads) = (term, false);
            }
        }
        for (&at, entry) in &self.acknowledged {
            assert_eq!(own.log.get(at.0 as usize - 1), Some(entry), "a leader lacks what was acknowledged");
        }
        let own = self.replicas.get_mut(&id).unwrap();
        (own.term, own.leads) = (term, true);
        own.append(None, 0);
        self.commit(id);
    }

    /// A member takes the leader's log whole.
    fn sync(&mut self, node: i32) {
        let Some(id) = self.here(node) else { return };
        let Some(leader) = self.leader_of(id) else { return };
        let from = self.replicas[&leader].clone();
        let (configuration, _) = from.configuration(&self.founders);
        let own = self.replicas.get_mut(&id).unwrap();
        if own.sealed || !configuration.is_member(id) || from.term < own.term {
            return;
        }
        (own.term, own.leads, own.log) = (from.term, false, from.log);
        self.commit(leader);
    }

    /// Whatever a quorum holds of the leader's own term is committed; a joint configuration is finished.
    fn commit(&mut self, leader: ReplicaId) {
        loop {
            let own = self.replicas[&leader].clone();
            if own.sealed {
                return;
            }
            let (configuration, id) = own.configuration(&self.founders);
            let held = |entry: &Entry| {
                self.voters_that(&configuration, |r| {
                    r.generation == own.generation && r.term == own.term && r.log.contains(entry)
                })
            };
            let own_term = |entry: &&Entry| entry.id.epoch == Epoch::new(own.generation, own.term);
            let Some(committed) = own.log.iter().rev().filter(own_term).find(|e| held(e)) else { return };
            let up_to = committed.id.index;
            for entry in own.log.iter().take_while(|e| e.id.index <= up_to) {
                let known = self.acknowledged.entry(entry.id.index).or_insert(entry.clone());
                assert_eq!(known, entry, "two entries committed at one index");
            }
            if !configuration.is_joint() && id.index <= up_to && !configuration.is_voter(leader) {
                // Its last duty is done: it hands over.
                self.replicas.get_mut(&leader).unwrap().leads = false;
            }
            if !configuration.is_joint() || id.index > up_to {
                return;
            }
            self.replicas.get_mut(&leader).unwrap().append(Some(configuration.without_old()), 0);
        }
    }

    fn tell(&mut self, node: i32, image: Image) {
        let before = self.told.insert(node, image).unwrap();
        let image = &self.told[&node];
        for change in Image::diff(&before, image) {
            if let Change::ReplicaRemoved { replica, .. } = change
                && replica.node.0 == node
            {
                self.leaving.extend(self.replicas.contains_key(&replica).then_some(replica));
            }
        }
        let Some((_, _, partition)) = image.group(self.group) else { return };
        let (partition, is_registered) = (partition.clone(), image.applied >= self.registered[&node]);
        let directory = directory(node, self.disk[&node]).as_u128();
        self.let_go(node);
        if self.leaving.iter().any(|r| r.node.0 == node && r.directory == directory) {
            return;
        }
        let placed = partition.replicas.iter().find(|r| r.node.0 == node && r.directory == directory);
        let Some(&id) = placed else { return };
        let fresh = Replica { generation: partition.generation, ..Replica::default() };
        let fresh = if partition.founders().contains(&id) { Replica::default() } else { fresh };
        if !self.replicas.contains_key(&id) {
            if !is_registered {
                return;
            }
            assert!(self.ever.insert(id), "{id} is made a second time");
            self.replicas.insert(id, fresh);
        }
        let own = self.replicas.get_mut(&id).unwrap();
        if let Some(decision) = partition.opening.filter(|d| d.generation.0 > own.generation) {
            let skips = decision.generation.0 != own.generation + 1;
            let Decision { generation, opening, learners } = *decision;
            if opening.survivor == id {
                assert!(
                    own.sealed && own.last() == opening.base && !skips,
                    "the survivor is what was decided on"
                );
                *own = Replica {
                    generation: generation.0,
                    term: opening.first_term.0,
                    sealed: false,
                    leads: true,
                    log: std::mem::take(&mut own.log),
                };
                let configuration = Configuration { voters: vec![id], learners, ..Configuration::default() };
                own.append(Some(configuration), 0);
                self.commit(id);
            } else {
                (own.generation, own.term) = (generation.0, opening.first_term.0);
                (own.sealed, own.leads) = (false, false);
            }
        }
        let own = self.replicas.get_mut(&id).unwrap();
        if partition.sealing.is_some() && partition.generation == own.generation {
            (own.sealed, own.leads) = (true, false);
        }
    }

    /// Deletes what has moved away from a node, unless it votes by a newer configuration; then it goes when the members of that tell it,
    /// and nobody else.
    fn let_go(&mut self, node: i32) {
        let Some((_, _, placed)) = self.told[&node].group(self.group) else { return };
        let may_go = |replica: &ReplicaId| {
            let (configuration, entry) = self.replicas[replica].configuration(&self.founders);
            let is_out = |e: &Entry| {
                let is_newer = e.id > entry && self.acknowledged.get(&e.id.index) == Some(e);
                is_newer && e.configuration.as_ref().is_some_and(|c| !c.is_member(*replica))
            };
            let peers = configuration.members().filter(|peer| self.here(peer.node.0) == Some(*peer));
            placed.is_superseded(*replica, &configuration, entry)
                || peers.into_iter().any(|peer| self.replicas[&peer].log.iter().any(is_out))
        };
        let here = self.leaving.iter().filter(|r| r.node.0 == node).copied();
        let gone: Vec<ReplicaId> = here.filter(may_go).collect();
        for replica in gone {
            self.leaving.remove(&replica);
            self.replicas.remove(&replica);
        }
    }

    fn look(&mut self, node: i32) {
        let Some(id) = self.here(node) else { return };
        let own = &self.replicas[&id];
        let image = &self.told[&node];
        let Some((_, _, partition)) = image.group(self.group) else { return };
        if partition.sealing.is_some() || partition.generation != own.generation || own.sealed {
            return;
        }
        let (configuration, entry) = own.configuration(&self.founders);
        let follows = |r: ReplicaId| {
            let same = |other: &Replica| other.generation == own.generation && other.term == own.term;
            self.here(r.node.0) == Some(r) && self.replicas.get(&r).is_some_and(same)
        };
        let dead = |r: ReplicaId| {
            image.brokers[&r.node].dead || !partition.replicas.contains(&r) || !image.holds(&r)
        };
        let view = View {
            configuration: &configuration,
            me: id,
            assigned: &partition.replicas,
            target: partition.target(),
            takes_back: !partition.is_cancelled(),
            was_there: &|replica| partition.was_there(replica),
            is_gone: &|r| r != id && dead(r) && !(own.leads && follows(r)),
            is_heard: &|r| own.leads && follows(r),
            is_live: &|r| image.holds(&r) && !image.brokers[&r.node].fenced,
            is_caught_up: &|r| follows(r) && self.replicas[&r].log == own.log,
            known: image.applied,
            counts: &|_| true,
            min_voters: 1,
            is_patience_over: self.now.is_multiple_of(300),
        };
        let next = match own.leads {
            true => members::next(&view),
            false if self.leader_of(id).is_some() => Next::Nothing,
            false => members::is_stuck(&view).unwrap_or(Next::Nothing),
        };
        let committed = |e: &Entry| self.acknowledged.get(&e.id.index) == Some(e);
        let first_own = own.log.iter().find(|e| e.id.epoch == Epoch::new(own.generation, own.term));
        let newest = own.log.iter().find(|e| e.id == entry);
        let settled = newest.is_none_or(committed) && first_own.is_some_and(committed);
        let target = partition.target();
        let same =
            |voters: &[ReplicaId]| voters.len() == target.len() && target.iter().all(|r| voters.contains(r));
        if let Next::Change { voters, .. } = &next {
            let lets_go = configuration.voters.iter().any(|r| !voters.contains(r) && !(view.is_gone)(*r));
            assert!(!lets_go || same(voters), "a copy is given up for one that is not there");
        }
        if let Some(moving) = partition.moving.as_ref().filter(|_| own.leads && settled)
            && partition.is_at(&configuration)
        {
            let (since, generation) = (moving.since, partition.generation);
            let arrival = Arrival { group: self.group, since, generation, configuration: entry };
            self.arrivals.push(arrival);
        }
        match next {
            Next::Change { voters, learners } if settled => {
                let joint = configuration.towards(voters, learners);
                self.replicas.get_mut(&id).unwrap().append(Some(joint), 0);
                self.commit(id);
            }
            Next::Stuck { provable: true } => {
                let groups = vec![(self.group, partition.generation)];
                self.log.run(&Command::Seal { node: NodeId(node), groups }).unwrap();
            }
            _ => {}
        }
    }

    fn report(&mut self, node: i32) {
        let Some(id) = self.here(node) else { return };
        let own = &self.replicas[&id];
        if !own.sealed {
            return;
        }
        let (configuration, configuration_id) = own.configuration(&self.founders);
        let report = SealReport {
            replica: id,
            generation: Generation(own.generation),
            plan: 0,
            sound: true,
            last: own.last(),
            highest_term: Term(own.term),
            configuration,
            configuration_id,
            is_committed: false,
            commit: Index(0),
        };
        self.sealed.on_report(&self.log.image, self.group, report, self.now);
    }

    /// All brokers are up, and what is due happens; answers whether the group is whole.
    fn settle(&mut self) -> bool {
        for node in 0..NODES {
            self.step(&Step::Start { node, wiped: false, behind: 0 });
        }
        for _ in 0..60 {
            for node in 0..NODES {
                for step in [Step::Tell(node), Step::Report(node)] {
                    self.step(&step);
                }
            }
            self.now += 1_000;
            self.step(&Step::Decide);
            self.step(&Step::Arrive);
            for node in 0..NODES {
                for step in [Step::Tell(node), Step::Look(node), Step::Write(node)] {
                    self.step(&step);
                }
            }
            let leads = (0..NODES).filter_map(|n| self.here(n)).any(|id| {
                let r = &self.replicas[&id];
                r.leads
                    && self.voters_that(&r.configuration(&self.founders).0, |o| {
                        o.generation == r.generation && o.term <= r.term
                    })
            });
            for node in 0..NODES {
                if !leads {
                    self.step(&Step::Elect(node));
                }
                self.step(&Step::Sync(node));
            }
        }
        let partition = self.log.image.group(self.group).unwrap().2;
        partition.moving.is_none()
            && partition.replicas.iter().all(|id| {
                let r = &self.replicas[id];
                let (configuration, _) = r.configuration(&self.founders);
                configuration.voters.len() == partition.replicas.len()
                    && configuration.learners.is_empty()
                    && self.leaving.is_empty()
                    && !configuration.is_joint()
                    && partition.replicas.iter().all(|id| configuration.voters.contains(id))
                    && self.acknowledged.iter().all(|(at, entry)| r.log.get(at.0 as usize - 1) == Some(entry))
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Disks are only wiped one at a time here: a group whose quorum lost its disks is for an operator.
    #[test]
    fn any_deaths_and_returns_lose_nothing_and_end_at_full_replication(
        steps in prop::collection::vec(any_step(), 0..160)
    ) {
        let mut world = World::new();
        for step in &steps {
            if let Step::Start { wiped: true, node, .. } = step {
                // Only what the group has gone on without may go.
                let partition = world.log.image.group(world.group).unwrap().2;
                let votes = |id: &ReplicaId| {
                    world.replicas.values().any(|r| r.configuration(&world.founders).0.is_voter(*id))
                };
                if partition.replicas.iter().any(|id| id.node.0 == *node && votes(id)) {
                    continue;
                }
            }
            world.step(step);
        }
        prop_assert!(world.settle(), "not whole: {:#?}", world.replicas);
        let mut replayed = Image::default();
        for (number, batch) in &world.log.entries {
            replayed.apply(*number, &Batch::decode(&batch.encode()).unwrap()).unwrap();
        }
        prop_assert_eq!(&replayed, &world.log.image, "same log, same image");
    }
}

#[test]
pub(crate) fn intent_is_written_once_per_generation_and_only_for_groups_of_the_asker() {
    let mut log = Log::with_brokers(&[None; 4]);
    log.create("t", 1, 3);
    let partition = log.image.topics["t"].partitions[0].clone();
    let holder = partition.replicas[0].node;
    let other = (0..4).map(NodeId).find(|n| partition.replicas.iter().all(|r| r.node != *n)).unwrap();
    let ask = |log: &mut Log, node: NodeId, generation: u64| {
        log.run(&Command::Seal { node, groups: vec![(partition.group, generation)] }).unwrap();
        log.image.sealing.len()
    };
    assert_eq!(ask(&mut log, NodeId(9), 0), 0, "it is not registered");
    assert_eq!(ask(&mut log, other, 0), 0, "it holds no replica");
    assert_eq!(ask(&mut log, holder, 1), 0, "another generation");
    assert_eq!(ask(&mut log, holder, 0), 1);
    let written = log.index;
    assert_eq!(ask(&mut log, holder, 0), 1);
    assert_eq!(log.index, written, "it is to end already");
    let opening = GroupOpening {
        group: partition.group,
        generation: 1,
        survivor: holder,
        base: LogId::new(0, 3, 9),
        first_term: Term(4),
        lossless: true,
        learners: vec![partition.replicas[1].node],
    };
    for wrong in [
        GroupOpening { generation: 2, ..opening.clone() },
        GroupOpening { survivor: other, ..opening.clone() },
        GroupOpening { learners: vec![holder], ..opening.clone() },
    ] {
        log.run(&Command::OpenGenerations { openings: vec![wrong] }).unwrap();
        assert_eq!(log.index, written);
    }
    log.run(&Command::OpenGenerations { openings: vec![opening.clone(), opening.clone()] }).unwrap();
    let after = log.image.topics["t"].partitions[0].clone();
    assert_eq!((after.generation, after.sealing, log.image.sealing.len()), (1, None, 0));
    assert_eq!(after.opening.unwrap().opening.survivor, partition.replicas[0]);
    let written = log.index;
    log.run(&Command::OpenGenerations { openings: vec![opening] }).unwrap();
    assert_eq!(log.index, written, "one decision per generation");
}

#[test]
fn replica_that_cannot_go_on_gets_another_id_on_the_same_disk() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 1, 3);
    log.create("pair", 1, 2);
    let before = log.image.topics["t"].partitions[0].clone();
    let word = |p: &Partition, replica: ReplicaId| Forsaken {
        group: p.group,
        node: replica.node,
        assignment: replica.assignment,
        generation: p.generation,
        configuration: LogId::new(0, 1, 4),
        is_whole: true,
    };
    let one = word(&before, before.replicas[1]);
    let pair = log.image.topics["pair"].partitions[0].clone();
    let written = log.index;
    for wrong in [
        word(&pair, pair.replicas[0]),
        Forsaken { generation: 1, ..one.clone() },
        Forsaken { assignment: one.assignment + 9, ..one.clone() },
    ] {
        log.run(&Command::Anew { replicas: vec![wrong] }).unwrap();
        assert_eq!(log.index, written, "a copy is given up that is one of two, or that nobody spoke of");
    }
    // One that was on its way is no copy.
    let apart = Forsaken { is_whole: false, ..word(&pair, pair.replicas[0]) };
    log.run(&Command::Anew { replicas: vec![apart] }).unwrap();
    assert_eq!(log.index, written + 1);
    log.run(&Command::Anew { replicas: vec![one.clone(), one.clone()] }).unwrap();
    let after = log.image.topics["t"].partitions[0].clone();
    assert_eq!(after.founders(), before.replicas);
    let anew = ReplicaId { assignment: log.index, ..before.replicas[1] };
    assert_eq!(after.replicas, [before.replicas[0], anew, before.replicas[2]]);
    assert!(log.image.holds(&anew));
    // It is said again, and too late.
    let written = log.index;
    log.run(&Command::Anew { replicas: vec![one.clone()] }).unwrap();
    assert_eq!(log.index, written);
    // Who is sealed is counted by its id.
    log.run(&Command::Seal { node: NodeId(0), groups: vec![(one.group, 0)] }).unwrap();
    let written = log.index;
    log.run(&Command::Anew { replicas: vec![word(&after, anew)] }).unwrap();
    assert_eq!(log.index, written);
}

#[test]
fn wiped_disk_is_placed_anew_and_the_founders_stay_known() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 2, 3);
    let before = log.image.topics["t"].partitions.clone();
    log.run(&registration(1, 5, None)).unwrap();
    assert_eq!(generations::wiped(&log.image).into_iter().collect::<Vec<_>>(), [NodeId(1)]);
    log.run(&Command::Place { node: NodeId(1) }).unwrap();
    for (before, after) in before.iter().zip(&log.image.topics["t"].partitions) {
        assert_eq!(after.founders(), before.replicas);
        let anew = after.replicas.iter().find(|r| r.node.0 == 1).unwrap();
        assert_eq!((anew.assignment, log.image.holds(anew)), (log.index, true));
    }
    let written = log.index;
    log.run(&Command::Place { node: NodeId(1) }).unwrap();
    assert_eq!((log.index, generations::wiped(&log.image).len()), (written, 0));
}
