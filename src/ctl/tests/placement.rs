//! Placement over any brokers and racks, against the definition of balance.
use super::*;
use crate::ctl::placement::{Candidate, Shortage, place};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn candidate(node: i32, rack: Option<String>) -> Candidate {
    Candidate { node: NodeId(node), rack, replicas: 0, leaders: 0, topic_replicas: 0, topic_leaders: 0 }
}

/// Brokers in racks of these sizes; `None` = without rack.
fn brokers(racks: &[(Option<&str>, usize)]) -> Vec<Candidate> {
    let racks = racks.iter().flat_map(|(rack, size)| std::iter::repeat_n(*rack, *size));
    racks.enumerate().map(|(node, rack)| candidate(node as i32 + 1, rack.map(str::to_owned))).collect()
}

fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
    counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
}

fn count(rows: &[Vec<NodeId>], node: NodeId) -> usize {
    rows.iter().filter(|row| row.contains(&node)).count()
}

fn leads(rows: &[Vec<NodeId>], node: NodeId) -> usize {
    rows.iter().filter(|row| row[0] == node).count()
}

/// Distinct brokers, and racks as even as their sizes allow: no rack holds two more of a partition than another that
/// still has a broker free.
fn check_rows(candidates: &[Candidate], rows: &[Vec<NodeId>], factor: usize) {
    let rack_of = |node: &NodeId| {
        let c = candidates.iter().find(|c| c.node == *node).expect("only candidates are used");
        c.rack.clone().unwrap_or_else(|| format!("\0own-{node}"))
    };
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    candidates.iter().for_each(|c| *sizes.entry(rack_of(&c.node)).or_default() += 1);
    for row in rows {
        assert_eq!(row.len(), factor);
        assert_eq!(row.iter().collect::<BTreeSet<_>>().len(), factor, "a broker twice in {row:?}");
        let mut held: BTreeMap<String, usize> = sizes.keys().map(|r| (r.clone(), 0)).collect();
        row.iter().for_each(|n| *held.get_mut(&rack_of(n)).unwrap() += 1);
        for (rack, n) in &held {
            let room = |(other, m): (&String, &usize)| *m < sizes[other] && *n > m + 1;
            assert!(!held.iter().any(room), "{row:?} crowds rack {rack}: {held:?} of {sizes:?}");
        }
    }
}

#[test]
fn more_replicas_than_brokers_are_a_shortage() {
    let three = brokers(&[(None, 3)]);
    assert_eq!(place(&three, 1, 4, 0), Err(Shortage { wanted: 4, live: 3 }));
    assert_eq!(place(&three, 1, 0, 0), Err(Shortage { wanted: 0, live: 3 }));
    assert_eq!(place(&[], 1, 1, 0), Err(Shortage { wanted: 1, live: 0 }));
    assert_eq!(place(&three, 0, 2, 0), Ok(vec![]));
}

#[test]
fn twelve_partitions_on_three_brokers_give_each_twelve_replicas_and_four_leaders() {
    let three = brokers(&[(None, 3)]);
    let rows = place(&three, 12, 3, 42).unwrap();
    for c in &three {
        assert_eq!((count(&rows, c.node), leads(&rows, c.node)), (12, 4));
    }
}

#[test]
fn two_racks_hold_a_replica_each_even_if_one_is_small() {
    let cluster = brokers(&[(Some("a"), 1), (Some("b"), 3)]);
    let rows = place(&cluster, 9, 2, 1).unwrap();
    check_rows(&cluster, &rows, 2);
    assert_eq!(count(&rows, NodeId(1)), 9, "the only broker of rack a is in every partition");
    for node in 2..=4 {
        assert_eq!(count(&rows, NodeId(node)), 3);
    }
    // It need not lead them all: 9 partitions, 4 brokers.
    for node in 1..=4 {
        assert!((2..=3).contains(&leads(&rows, NodeId(node))));
    }
}

#[test]
fn load_of_a_broker_is_shared_with_many_others() {
    let cluster = brokers(&[(None, 9)]);
    let rows = place(&cluster, 90, 3, 7).unwrap();
    for c in &cluster {
        let peers: BTreeSet<_> =
            rows.iter().filter(|r| r.contains(&c.node)).flatten().filter(|n| **n != c.node).collect();
        assert!(peers.len() >= 6, "broker {} shares partitions with {peers:?} only", c.node);
    }
}

#[test]
fn a_single_partition_does_not_always_go_to_the_same_broker() {
    let three = brokers(&[(None, 3)]);
    let first: BTreeSet<_> = (0..40).map(|seed| place(&three, 1, 1, seed).unwrap()[0][0]).collect();
    assert_eq!(first.len(), 3);
}

#[test]
fn new_topic_goes_to_the_emptier_brokers_first() {
    let mut three = brokers(&[(None, 3)]);
    three[0].replicas = 10;
    three[0].leaders = 10;
    let rows = place(&three, 2, 1, 3).unwrap();
    assert_eq!(count(&rows, NodeId(1)), 0);
    let rows = place(&three, 4, 1, 3).unwrap();
    assert_eq!(count(&rows, NodeId(1)), 1, "a topic is spread over all all the same");
}

#[test]
fn extension_evens_the_topic_out() {
    let mut three = brokers(&[(None, 3)]);
    three[0].topic_replicas = 2;
    three[0].replicas = 2;
    three[0].topic_leaders = 2;
    three[0].leaders = 2;
    let rows = place(&three, 4, 1, 3).unwrap();
    assert_eq!([1, 2, 3].map(|n| count(&rows, NodeId(n))), [0, 2, 2]);
}

#[test]
fn largest_topic_is_placed_in_good_time_and_level() {
    let cluster = brokers(&[(Some("a"), 4), (Some("b"), 4), (Some("c"), 4)]);
    let rows = place(&cluster, 100_000, 3, 5).unwrap();
    assert_eq!(spread(cluster.iter().map(|c| count(&rows, c.node))), 0);
    assert!(spread(cluster.iter().map(|c| leads(&rows, c.node))) <= 1);
}

/// Up to four racks of up to four brokers, and up to three brokers without one.
fn any_cluster() -> impl Strategy<Value = Vec<Candidate>> {
    (prop::collection::vec(1..5usize, 0..5), 0..4usize)
        .prop_filter("somebody must be there", |(racks, loose)| racks.len() + loose > 0)
        .prop_map(|(racks, loose)| {
            let names = ["a", "b", "c", "d", "e"];
            let mut all: Vec<_> = racks.iter().zip(names).map(|(size, name)| (Some(name), *size)).collect();
            all.push((None, loose));
            brokers(&all)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cluster_spreads_over_brokers_and_racks(
        cluster in any_cluster(), partitions in 1..40usize, factor in 1..6usize, seed in any::<u64>(),
        load in prop::collection::vec((0..9usize, 0..4usize), 20)
    ) {
        let mut cluster = cluster;
        for (c, (replicas, leaders)) in cluster.iter_mut().zip(load) {
            c.replicas = replicas;
            c.leaders = leaders;
        }
        let factor = factor.min(cluster.len());
        let rows = place(&cluster, partitions, factor, seed).unwrap();
        prop_assert_eq!(rows.len(), partitions);
        check_rows(&cluster, &rows, factor);
        prop_assert_eq!(place(&cluster, partitions, factor, seed).unwrap(), rows.clone(), "same seed, same answer");
        // Within a rack nothing stands in the way of balance, nor between racks of one replica per partition.
        for c in &cluster {
            let same = cluster.iter().filter(|o| o.rack.is_some() && o.rack == c.rack);
            prop_assert!(spread(same.map(|o| count(&rows, o.node))) <= 1);
        }
    }

    /// Racks of one size (or none at all) allow perfect balance: within one, for replicas and leaders.
    #[test]
    fn equal_racks_are_level_in_replicas_and_leaders(
        racks in 1..5usize, size in 1..4usize, named in any::<bool>(),
        partitions in 1..50usize, factor in 1..6usize, seed in any::<u64>()
    ) {
        let names = ["a", "b", "c", "d"];
        let all: Vec<_> = names[..racks].iter().map(|name| (named.then_some(*name), size)).collect();
        let cluster = brokers(&all);
        let factor = factor.min(cluster.len());
        let rows = place(&cluster, partitions, factor, seed).unwrap();
        check_rows(&cluster, &rows, factor);
        prop_assert!(spread(cluster.iter().map(|c| count(&rows, c.node))) <= 1);
        prop_assert!(spread(cluster.iter().map(|c| leads(&rows, c.node))) <= 1);
    }

    /// One replica per partition: no rack can stand in the way.
    #[test]
    fn single_replicas_are_level_whatever_the_racks(
        cluster in any_cluster(), partitions in 1..60usize, seed in any::<u64>()
    ) {
        let rows = place(&cluster, partitions, 1, seed).unwrap();
        prop_assert!(spread(cluster.iter().map(|c| count(&rows, c.node))) <= 1);
    }

    /// Where racks do stand in the way, a broker is above the lowest only if its rack had no choice.
    #[test]
    fn broker_with_more_is_in_a_rack_that_must_hold_more(
        cluster in any_cluster(), partitions in 1..40usize, factor in 2..5usize, seed in any::<u64>()
    ) {
        let factor = factor.min(cluster.len());
        let rows = place(&cluster, partitions, factor, seed).unwrap();
        let rack_of = |c: &Candidate| c.rack.clone().unwrap_or_else(|| format!("\0own-{}", c.node));
        let held = |row: &Vec<NodeId>, rack: &str| {
            row.iter().filter(|n| cluster.iter().any(|c| c.node == **n && rack_of(c) == rack)).count()
        };
        let lowest = cluster.iter().min_by_key(|c| count(&rows, c.node)).unwrap();
        let low = count(&rows, lowest.node);
        for c in cluster.iter().filter(|c| count(&rows, c.node) > low + 1) {
            // Moving one replica from c's rack to the lowest one's would break evenness in every partition it could
            // come from: its rack is at its least there, or the lower rack at its most.
            let possible = rows.iter().any(|row| {
                row.contains(&c.node)
                    && !row.contains(&lowest.node)
                    && held(row, &rack_of(c)) > held(row, &rack_of(lowest))
            });
            prop_assert!(!possible, "{} has {} and {} has {low}", c.node, count(&rows, c.node), lowest.node);
        }
    }
}
