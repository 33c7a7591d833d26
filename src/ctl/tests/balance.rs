//! Preferred leaders: who goes home, who does not, and how many at a time.
use super::*;
use crate::ctl::balance::{MOVES_MAX, MOVES_PART, MOVES_PER_BROKER_MAX, plan_preferred};
use crate::segment::GroupId;

/// Three brokers, one topic with these replica lists.
fn cluster(assignments: Vec<Vec<i32>>) -> Log {
    let mut log = Log::with_brokers(&[None; 9]);
    let assignments = assignments.into_iter().map(|p| p.into_iter().map(NodeId).collect()).collect();
    let create = CreateTopic { assignments: Some(assignments), ..creation("t", -1, -1) };
    log.run(&Command::CreateTopic(create)).unwrap();
    log
}

fn everybody(_: GroupId) -> Vec<NodeId> {
    (0..9).map(NodeId).collect()
}

#[test]
fn leadership_goes_back_to_the_first_replica_once_it_is_in_sync() {
    let log = cluster(vec![vec![0, 1, 2], vec![1, 2, 0]]);
    let leaders = BTreeMap::from([(GroupId(1), NodeId(2)), (GroupId(2), NodeId(1))]);
    let expected = vec![(GroupId(1), NodeId(2), NodeId(0))];
    assert_eq!(plan_preferred(&log.image, &leaders, &everybody), expected);
    let lagging = |_: GroupId| vec![NodeId(1), NodeId(2)];
    assert_eq!(plan_preferred(&log.image, &leaders, &lagging), []);
}

#[test]
fn fenced_or_wiped_preferred_replica_gets_nothing() {
    let mut log = cluster(vec![vec![0, 1, 2]]);
    let leaders = BTreeMap::from([(GroupId(1), NodeId(2))]);
    log.fence(0);
    assert_eq!(plan_preferred(&log.image, &leaders, &everybody), []);
    log.unfence(0);
    assert_eq!(plan_preferred(&log.image, &leaders, &everybody).len(), 1);
    log.run(&registration(0, 1, None)).unwrap();
    assert_eq!(
        plan_preferred(&log.image, &leaders, &everybody),
        [],
        "its new disk does not hold the replica"
    );
}

#[test]
fn leadership_does_not_move_between_two_that_are_not_preferred() {
    let mut log = cluster(vec![vec![0, 1, 2]]);
    log.fence(0);
    let leaders = BTreeMap::from([(GroupId(1), NodeId(2))]);
    assert_eq!(plan_preferred(&log.image, &leaders, &everybody), []);
}

#[test]
fn unknown_leader_and_unknown_group_are_left_alone() {
    let log = cluster(vec![vec![0, 1, 2]]);
    assert_eq!(plan_preferred(&log.image, &BTreeMap::new(), &everybody), []);
    let stale = BTreeMap::from([(GroupId(77), NodeId(2)), (GroupId(0), NodeId(1))]);
    assert_eq!(plan_preferred(&log.image, &stale, &everybody), []);
}

#[test]
fn plan_is_bounded_in_all_and_per_broker() {
    let log = cluster((0..200).map(|p| vec![p % 8, 8]).collect());
    let leaders: BTreeMap<_, _> = log.image.groups.keys().map(|&g| (g, NodeId(8))).collect();
    let moves = plan_preferred(&log.image, &leaders, &everybody);
    assert_eq!(moves.len(), MOVES_MAX);

    let log = cluster((0..200).map(|p| vec![if p < 100 { 0 } else { 1 }, 8]).collect());
    let moves = plan_preferred(&log.image, &leaders, &everybody);
    let to = |node| moves.iter().filter(|m| m.2 == NodeId(node)).count();
    assert_eq!((to(0), to(1)), (MOVES_PER_BROKER_MAX, MOVES_PER_BROKER_MAX));
}

#[test]
fn plan_of_many_groups_moves_a_part_of_them_at_once() {
    let log = cluster((0..3_200).map(|_| vec![0, 8]).collect());
    let leaders: BTreeMap<_, _> = log.image.groups.keys().map(|&g| (g, NodeId(8))).collect();
    assert_eq!(plan_preferred(&log.image, &leaders, &everybody).len(), 3_200 / MOVES_PART);
}
