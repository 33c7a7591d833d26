//! Which of several provable survivors is taken, and what is left alone while a group is sealed.

use super::{Log, registration};
use crate::ctl::command::Command;
use crate::ctl::generations::{Sealed, to_place, wiped};
use crate::raftlog::generation::SealReport;
use crate::raftlog::message::Configuration;
use crate::segment::{Epoch, Generation, GroupId, Index, LogId, NodeId, ReplicaId, Term};

fn report(replica: ReplicaId, voters: &[ReplicaId], last: u64) -> SealReport {
    SealReport {
        replica,
        generation: Generation(0),
        plan: 1,
        sound: true,
        last: LogId { epoch: Epoch { generation: Generation(0), term: Term(1) }, index: Index(last) },
        highest_term: Term(1),
        configuration: Configuration { voters: voters.to_vec(), ..Configuration::default() },
        configuration_id: LogId::default(),
        is_committed: true,
        commit: Index(last),
    }
}

/// A pair whose group is sealed, its replicas, and the group.
fn sealed_pair() -> (Log, Vec<ReplicaId>, GroupId) {
    let mut log = Log::with_brokers(&[None, None]);
    log.create("t", 1, 2);
    let placed = &log.image.topics["t"].partitions[0];
    let (group, mut replicas) = (placed.group, placed.replicas.clone());
    replicas.sort_unstable();
    log.run(&Command::Seal { node: NodeId(1), groups: vec![(group, 0)] }).unwrap();
    (log, replicas, group)
}

/// P4: the seals are all there is, and they meet no majority of the log they would go on with.
#[test]
pub(crate) fn nothing_is_decided_that_the_seals_do_not_prove() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 1, 3);
    let placed = log.image.topics["t"].partitions[0].clone();
    log.run(&Command::Seal { node: placed.replicas[0].node, groups: vec![(placed.group, 0)] }).unwrap();
    let mut sealed = Sealed::default();
    sealed.on_report(&log.image, placed.group, report(placed.replicas[0], &placed.replicas, 9), 0);
    for now in [100, 10_000] {
        assert!(sealed.decide(&log.image, now, 0, &mut Vec::new()).is_empty(), "one of three proves nothing");
    }
    sealed.on_report(&log.image, placed.group, report(placed.replicas[1], &placed.replicas, 7), 10_000);
    let decided = sealed.decide(&log.image, 20_000, 0, &mut Vec::new());
    assert_eq!(decided.iter().map(|d| d.survivor).collect::<Vec<_>>(), [placed.replicas[0].node]);
}

/// A disk that was replaced comes back sealed, with the longer log.
#[test]
pub(crate) fn seal_of_a_replica_that_is_not_placed_counts_for_nothing() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 1, 3);
    let placed = log.image.topics["t"].partitions[0].clone();
    let stranger = ReplicaId { directory: 77, ..placed.replicas[1] };
    log.run(&Command::Seal { node: placed.replicas[0].node, groups: vec![(placed.group, 0)] }).unwrap();
    let voters = [placed.replicas[0], stranger, placed.replicas[2]];
    let mut sealed = Sealed::default();
    sealed.on_report(&log.image, placed.group, report(placed.replicas[0], &voters, 8), 0);
    sealed.on_report(&log.image, placed.group, report(stranger, &voters, 9), 0);
    assert!(sealed.decide(&log.image, 10_000, 0, &mut Vec::new()).is_empty(), "a stranger proves nothing");
}

/// It reported a longer log and went away again: the other proves as much, and is there to go on.
#[test]
fn survivor_is_one_that_is_still_there() {
    let (mut log, replicas, group) = sealed_pair();
    let mut sealed = Sealed::default();
    sealed.on_report(&log.image, group, report(replicas[0], &replicas, 9), 0);
    log.fence(0);
    sealed.on_report(&log.image, group, report(replicas[1], &replicas, 8), 100);
    let decided = sealed.decide(&log.image, 100, 0, &mut Vec::new());
    assert_eq!(decided.iter().map(|d| (d.survivor, d.lossless)).collect::<Vec<_>>(), [(NodeId(1), true)]);
}

/// Its word proves something all the same where the ones that are there prove nothing.
#[test]
fn survivor_that_went_away_is_named_if_nobody_else_proves_anything() {
    let (mut log, replicas, group) = sealed_pair();
    let mut sealed = Sealed::default();
    sealed.on_report(&log.image, group, report(replicas[0], &replicas, 9), 0);
    log.fence(0);
    let unsound = SealReport { sound: false, ..report(replicas[1], &replicas, 8) };
    sealed.on_report(&log.image, group, unsound, 100);
    let decided = sealed.decide(&log.image, 100, 0, &mut Vec::new());
    assert_eq!(decided.iter().map(|d| d.survivor).collect::<Vec<_>>(), [NodeId(0)]);
}

/// The survivor is named by broker: its replica must not become another one between its report and the decision.
#[test]
fn replaced_disk_gets_no_replica_of_a_sealed_group() {
    let (mut log, ..) = sealed_pair();
    log.run(&registration(0, 1, None)).unwrap();
    assert!(to_place(&log.image, NodeId(0)).is_empty() && wiped(&log.image).is_empty());
    let mut log = Log::with_brokers(&[None, None]);
    log.create("t", 1, 2);
    log.run(&registration(0, 1, None)).unwrap();
    assert_eq!(to_place(&log.image, NodeId(0)).len(), 1, "nothing is sealed");
}
