//! What a reassignment sets, refuses, cancels and ends, in the image.
use super::*;
use crate::ctl::image::{Change, Partition};
use crate::ctl::reassign::{self, Arrival, GroupMove, Reassignment};
use crate::ctl::record::GroupOpening;
use crate::raftlog::message::Configuration;
use crate::segment::{GroupId, LogId, ReplicaId, Term};

/// Five brokers, and topic `t` whose one partition is on 0, 1 and 2.
fn placed() -> Log {
    let mut log = Log::with_brokers(&[None; 5]);
    let assignments = Some(vec![[0, 1, 2].map(NodeId).to_vec()]);
    let create = CreateTopic { assignments, ..creation("t", -1, -1) };
    log.run(&Command::CreateTopic(create)).unwrap();
    log
}

fn row(partition: i32, target: Option<&[i32]>) -> Reassignment {
    let target = target.map(|nodes| nodes.iter().copied().map(NodeId).collect());
    Reassignment { topic: "t".into(), partition, target }
}

/// The one row's refusal.
fn ask(log: &mut Log, target: Option<&[i32]>) -> Option<Error> {
    let command = Command::Reassign { rows: vec![row(0, target)], allow_factor_change: true };
    match log.run(&command) {
        Ok(Reply::Reassigned { refusals }) => refusals[0].clone(),
        other => panic!("{other:?}"),
    }
}

fn partition(log: &Log) -> &Partition {
    log.image.partition("t", 0).unwrap()
}

/// Nodes of all replicas, of those that are new, of those that leave.
fn sets(log: &Log) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let p = partition(log);
    let nodes = |replicas: &[ReplicaId]| replicas.iter().map(|r| r.node.0).collect();
    (nodes(&p.replicas), p.adding().iter().map(|n| n.0).collect(), nodes(p.removing()))
}

fn arrive(log: &mut Log, since: u64, generation: u64) -> bool {
    let configuration = LogId::new(generation, 2, 7);
    let arrival = Arrival { group: partition(log).group, since, generation, configuration };
    let written = log.index;
    log.run(&Command::Arrived { arrivals: vec![arrival.clone(), arrival] }).unwrap();
    log.index > written
}

fn since(log: &Log) -> u64 {
    partition(log).moving.as_ref().unwrap().since
}

#[test]
fn replicas_of_a_moving_partition_are_the_target_and_then_those_that_leave() {
    let mut log = placed();
    let before = partition(&log).clone();
    assert_eq!(ask(&mut log, Some(&[3, 1])), None);
    assert_eq!(sets(&log), (vec![3, 1, 0, 2], vec![3], vec![0, 2]));
    assert!(!partition(&log).moving.as_ref().unwrap().by_controllers, "somebody asked for it");
    let p = partition(&log);
    assert_eq!(p.founders(), before.replicas);
    assert_eq!(p.replicas[1..], [before.replicas[1], before.replicas[0], before.replicas[2]]);
    assert_eq!((p.replicas[0].assignment, log.image.holds(&p.replicas[0])), (log.index, true));
    assert_eq!(p.target(), &p.replicas[..2]);
    let first = p.replicas[0];

    // Another target: who was on its way and is not wanted any more leaves again, under the id it has.
    assert_eq!(ask(&mut log, Some(&[0, 4])), None);
    assert_eq!(sets(&log), (vec![0, 4, 3, 1, 2], vec![4], vec![3, 1, 2]));
    assert!(partition(&log).replicas.contains(&first));
    let written = log.index;
    assert_eq!(ask(&mut log, Some(&[0, 4])), None);
    assert_eq!(log.index, written, "it is on its way there");

    let since = since(&log);
    assert!(arrive(&mut log, since, 0));
    assert_eq!(sets(&log), (vec![0, 4], vec![], vec![]));
    assert_eq!(partition(&log).founders(), before.replicas);
    assert!(!arrive(&mut log, since, 0), "told again");
    // Whoever comes back is another replica.
    assert_eq!(ask(&mut log, Some(&[0, 3])), None);
    let again = partition(&log).replicas[1];
    assert!(again.node == first.node && again.assignment > first.assignment);
}

#[test]
fn cancelled_reassignment_goes_back_to_where_it_came_from() {
    let mut log = placed();
    let before = partition(&log).replicas.clone();
    assert_eq!(ask(&mut log, None), Some(Error::NoReassignment));
    ask(&mut log, Some(&[3, 4]));
    let given_up = since(&log);
    ask(&mut log, Some(&[4]));
    assert_eq!(ask(&mut log, None), None);
    assert_eq!(sets(&log), (vec![0, 1, 2, 4, 3], vec![], vec![4, 3]));
    assert_eq!(partition(&log).target(), before);
    let written = log.index;
    assert_eq!(ask(&mut log, None), None);
    assert_eq!(log.index, written, "cancelled already");
    assert!(!arrive(&mut log, given_up, 0), "that was another target");
    let since = since(&log);
    assert!(arrive(&mut log, since, 0));
    assert_eq!(partition(&log).replicas, before);
    assert_eq!(ask(&mut log, None), Some(Error::NoReassignment));
}

#[test]
fn another_order_of_the_same_replicas_moves_nothing() {
    let mut log = placed();
    assert_eq!(ask(&mut log, Some(&[2, 0, 1])), None);
    assert_eq!(sets(&log), (vec![2, 0, 1], vec![], vec![]));
    assert!(partition(&log).moving.is_none());
    let written = log.index;
    assert_eq!(ask(&mut log, Some(&[2, 0, 1])), None);
    assert_eq!(log.index, written);
}

#[test]
fn rows_are_refused_one_by_one_as_kafka_does() {
    let mut log = placed();
    let rows = vec![
        row(0, Some(&[3, 4, 0])),
        row(1, Some(&[0])),
        row(0, Some(&[1])),
        Reassignment { topic: "nope".into(), ..row(0, Some(&[0])) },
    ];
    let command = Command::Reassign { rows, allow_factor_change: true };
    let Ok(Reply::Reassigned { refusals }) = log.run(&command) else { panic!("refused as a whole") };
    assert_eq!(refusals[0], None);
    assert_eq!(refusals[1], Some(Error::UnknownPartition("t".into(), 1)));
    assert!(matches!(refusals[2], Some(Error::InvalidRequest(_))), "named twice");
    assert_eq!(refusals[3], Some(Error::UnknownPartition("nope".into(), 0)));
    assert_eq!(sets(&log).0, [3, 4, 0, 1, 2]);
    for wrong in [&[][..], &[0, 0], &[9], &[-1, 0]] {
        assert!(matches!(ask(&mut log, Some(wrong)), Some(Error::InvalidAssignment(_))), "{wrong:?}");
    }
    // The factor is that of where it is on its way to, not of all that are there in between (KIP-860).
    let fixed =
        |target: &[i32]| Command::Reassign { rows: vec![row(0, Some(target))], allow_factor_change: false };
    for (target, is_refused) in [(&[0, 1][..], true), (&[0, 1, 2, 3, 4], true), (&[0, 1, 3], false)] {
        let Ok(Reply::Reassigned { refusals }) = log.run(&fixed(target)) else {
            panic!("refused as a whole")
        };
        let refused = matches!(refusals[0], Some(Error::InvalidReplicationFactor(_)));
        assert_eq!(refused, is_refused, "{target:?}: {refusals:?}");
    }
    assert_eq!(ask(&mut log, Some(&[3, 4])), None);
    for (target, is_refused) in [(&[0, 1, 3][..], true), (&[1, 3], false)] {
        let Ok(Reply::Reassigned { refusals }) = log.run(&fixed(target)) else {
            panic!("refused as a whole")
        };
        assert_eq!(refusals[0].is_some(), is_refused, "it was to have two: {target:?}: {refusals:?}");
    }
    let back = Command::Reassign { rows: vec![row(0, None)], allow_factor_change: false };
    let Ok(Reply::Reassigned { refusals }) = log.run(&back) else { panic!("refused as a whole") };
    assert_eq!(refusals[0], None, "a cancel goes back to three");
}

/// A disk was replaced while its partition moved: a leader's word of the replica that was on it counted for the one that came after.
#[test]
fn arrival_with_a_replica_that_was_lost_since_counts_for_nothing() {
    let mut log = placed();
    ask(&mut log, Some(&[0, 1, 3]));
    let said = since(&log);
    log.run(&registration(3, 9, None)).unwrap();
    log.run(&Command::Place { node: NodeId(3) }).unwrap();
    assert_eq!(partition(&log).replicas[2].assignment, log.index);
    assert!(!arrive(&mut log, said, 0));
    let since = since(&log);
    assert!(arrive(&mut log, since, 0));
}

/// With a broker of the origin dead, a cancelled reassignment was under way until that came back.
#[test]
fn cancelled_reassignment_ends_without_a_dead_broker_of_the_origin() {
    let mut log = placed();
    ask(&mut log, Some(&[0, 1, 3]));
    let ids = partition(&log).replicas.clone();
    let members = |voters: &[usize], old: &[usize], learners: &[usize]| {
        let pick = |at: &[usize]| at.iter().map(|at| ids[*at]).collect::<Vec<_>>();
        Configuration {
            voters: pick(voters),
            old_voters: pick(old),
            learners: pick(learners),
            ..Configuration::default()
        }
    };
    assert!(partition(&log).is_at(&members(&[0, 1, 2], &[], &[3])));
    assert!(!partition(&log).is_at(&members(&[0, 1], &[], &[2, 3])), "one of the target is still to come");
    assert!(!partition(&log).is_at(&members(&[0, 1, 2], &[0, 1, 3], &[])), "the old ones still decide");
    ask(&mut log, None);
    // The target is 0, 1, 2 now, and 3 is to leave: in `ids` they stand at 0, 1, 3 and 2.
    assert!(partition(&log).is_at(&members(&[0, 1], &[], &[3, 2])), "2 is dead, 3 counts for nothing");
    assert!(!partition(&log).is_at(&members(&[0, 1, 2], &[], &[3])), "3 took the place of 2");
    assert!(partition(&log).is_at(&members(&[0, 1, 3], &[], &[2])));
    assert!(!partition(&log).is_at(&Configuration::default()));
    let since = since(&log);
    assert!(arrive(&mut log, since, 0));
    assert!(!partition(&log).is_at(&members(&[0, 1, 3], &[], &[])), "it does not move");
}

#[test]
fn replica_that_left_stays_only_while_it_votes_by_a_newer_configuration_than_the_record_names() {
    let mut log = placed();
    let left = partition(&log).replicas[2];
    ask(&mut log, Some(&[0, 1, 3]));
    let since = since(&log);
    assert!(arrive(&mut log, since, 0));
    let configured = LogId::new(0, 2, 7);
    assert_eq!(partition(&log).configured, configured);
    let votes = Configuration { voters: vec![left], ..Configuration::default() };
    let learns = Configuration { learners: vec![left], ..Configuration::default() };
    let joint = Configuration { old_voters: vec![left], ..Configuration::default() };
    let p = partition(&log);
    assert!(p.is_superseded(left, &votes, LogId::default()), "the founding configuration");
    assert!(p.is_superseded(left, &votes, configured));
    let newer = LogId::new(0, 3, 6);
    assert!(!p.is_superseded(left, &votes, newer) && !p.is_superseded(left, &joint, newer));
    assert!(p.is_superseded(left, &learns, newer));
    // Others leave later: that record is newer.
    ask(&mut log, Some(&[3, 4]));
    let (group, since) = (partition(&log).group, self::since(&log));
    let configuration = LogId::new(0, 3, 9);
    let arrival = Arrival { group, since, generation: 0, configuration };
    log.run(&Command::Arrived { arrivals: vec![arrival] }).unwrap();
    assert!(partition(&log).is_superseded(left, &votes, newer));
}

/// Who is made when the group has gone on begins without a vote.
#[test]
fn replica_is_made_as_a_voter_only_of_a_group_that_nothing_is_known_to_have_happened_to() {
    let mut log = placed();
    let founders = partition(&log).replicas.clone();
    assert_eq!(partition(&log).voters_at_creation(founders[1]), founders);
    ask(&mut log, Some(&[0, 1, 3]));
    assert_eq!(
        partition(&log).voters_at_creation(founders[2]),
        founders,
        "nobody has made anything yet, perhaps"
    );
    assert!(partition(&log).voters_at_creation(partition(&log).replicas[2]).is_empty());
    let since = since(&log);
    assert!(arrive(&mut log, since, 0));
    assert!(partition(&log).voters_at_creation(founders[0]).is_empty());
    // Records of before say nothing of the configuration: it is older than any.
    let text = serde_json::json!({ "group": 1, "since": 3, "generation": 0 }).to_string();
    let old: Arrival = serde_json::from_str(&text).unwrap();
    assert_eq!(old.configuration, LogId::default());
}

#[test]
pub(crate) fn arrival_of_another_target_or_generation_lets_nobody_go() {
    let mut log = placed();
    ask(&mut log, Some(&[0, 1, 3]));
    let since = since(&log);
    assert!(!arrive(&mut log, since - 1, 0) && !arrive(&mut log, since, 1));
    let group = partition(&log).group;
    log.run(&Command::Seal { node: NodeId(2), groups: vec![(group, 0)] }).unwrap();
    assert!(!arrive(&mut log, since, 0), "the one that is to leave may have to go on alone");
    let opening = GroupOpening {
        group,
        generation: 1,
        survivor: NodeId(2),
        base: LogId::new(0, 3, 9),
        first_term: Term(4),
        lossless: true,
        learners: vec![NodeId(3)],
    };
    log.run(&Command::OpenGenerations { openings: vec![opening] }).unwrap();
    assert!(!arrive(&mut log, since, 0), "said in the generation before");
    assert!(arrive(&mut log, since, 1));
    assert_eq!(sets(&log).0, [0, 1, 3]);
}

#[test]
fn record_of_arrival_names_the_replicas_that_left_and_nothing_else_does() {
    let mut log = placed();
    let leaving = partition(&log).replicas[2];
    let group = partition(&log).group;
    let apply = |log: &mut Log, record: Record| {
        let number = log.index + 1;
        let changes = log.image.apply_with_changes(number, &Batch::new(vec![record])).unwrap();
        log.index = number;
        changes
    };
    let target = [0, 1, 3].map(NodeId).to_vec();
    let changes =
        apply(&mut log, Record::Reassign { moves: vec![GroupMove { group, target }], by_controllers: false });
    assert_eq!(changes, [Change::GroupChanged { group }]);
    // A replaced disk is placed anew while the partition moves; what was on the old one is nobody's to delete.
    let Command::RegisterBroker { node, directory, kafka, listeners, peer, rack, .. } =
        registration(1, 9, None)
    else {
        unreachable!()
    };
    apply(&mut log, Record::Broker { node, directory, kafka, listeners, peer, rack });
    let changes = apply(&mut log, Record::Place { node, groups: vec![group] });
    assert_eq!(changes, [Change::GroupChanged { group }]);
    assert_eq!(sets(&log), (vec![0, 1, 3, 2], vec![3], vec![2]));
    let configuration = LogId::new(0, 1, 4);
    let arrival = Arrival { group, since: since(&log), generation: 0, configuration };
    let changes = apply(&mut log, Record::Reassigned { arrivals: vec![arrival.clone()] });
    assert_eq!(changes, [Change::ReplicaRemoved { group, replica: leaving }, Change::GroupChanged { group }]);
    let again = log
        .image
        .clone()
        .apply(log.index + 1, &Batch::new(vec![Record::Reassigned { arrivals: vec![arrival] }]));
    assert!(again.is_err_and(|why| why.contains("does not move")));
    assert_eq!(reassign::moving(&log.image.topics["t"]).count(), 0);
}

#[test]
fn new_partitions_and_placement_count_what_is_to_be() {
    let mut log = placed();
    ask(&mut log, Some(&[3, 1, 4]));
    let count = 2;
    log.run(&Command::CreatePartitions { topic: "t".into(), count, assignments: None, validate_only: false })
        .unwrap();
    assert_eq!(log.image.partition("t", 1).unwrap().replicas.len(), 3, "not five");
    let all = crate::ctl::placement::candidates(&log.image, None);
    let replicas = |node: i32| all.iter().find(|c| c.node == NodeId(node)).unwrap().replicas;
    assert_eq!(all.iter().map(|c| c.replicas).sum::<usize>(), 6);
    assert!(replicas(3) >= 1 && replicas(4) >= 1);
    assert_eq!(log.image.group(GroupId(1)).unwrap().2.group, GroupId(1));
}
