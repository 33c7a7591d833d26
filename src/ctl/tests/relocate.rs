//! The planner against what it promises, over any brokers, racks and layouts.
use crate::ctl::relocate::{Plan, Row, Site, rebalance, vacate};
use crate::segment::NodeId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Sites = BTreeMap<NodeId, Site>;

fn sites(racks: &[(Option<&str>, bool)]) -> Sites {
    let site = |(rack, takes): &(Option<&str>, bool)| Site { rack: rack.map(str::to_owned), takes: *takes };
    (1..).map(NodeId).zip(racks.iter().map(site)).collect()
}

fn row(topic: usize, nodes: &[i32]) -> Row {
    Row { topic, nodes: nodes.iter().copied().map(NodeId).collect(), stays: false }
}

fn after(rows: &[Row], plan: &Plan) -> Vec<Vec<NodeId>> {
    let now = |(at, row): (usize, &Row)| plan.get(&at).unwrap_or(&row.nodes).clone();
    rows.iter().enumerate().map(now).collect()
}

/// Replicas and preferred leaders of each broker that takes any.
fn load(sites: &Sites, rows: &[Vec<NodeId>]) -> BTreeMap<NodeId, (usize, usize)> {
    let takers = sites.iter().filter(|(_, site)| site.takes);
    let count = |node: NodeId| {
        let led = rows.iter().filter(|row| row[0] == node).count();
        (rows.iter().filter(|row| row.contains(&node)).count(), led)
    };
    takers.map(|(node, _)| (*node, count(*node))).collect()
}

fn moved(rows: &[Row], plan: &Plan) -> usize {
    let moved =
        |(at, nodes): (&usize, &Vec<NodeId>)| nodes.iter().filter(|n| !rows[*at].nodes.contains(n)).count();
    plan.iter().map(moved).sum()
}

fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
    counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
}

/// Others of the row in this broker's rack.
fn crowd(sites: &Sites, row: &[NodeId], but: NodeId, node: NodeId) -> usize {
    let rack = |n: &NodeId| sites.get(n).and_then(|site| site.rack.clone());
    let others = row.iter().filter(|n| **n != but);
    others.filter(|n| rack(n).is_some() && rack(n) == rack(&node)).count()
}

#[test]
fn fourth_broker_gets_its_share_and_nothing_else_moves() {
    let four = sites(&[(None, true); 4]);
    let rows: Vec<Row> = (0..24).map(|at| row(at / 12, &[[1, 2, 3], [2, 3, 1], [3, 1, 2]][at % 3])).collect();
    let plan = rebalance(&four, &rows);
    assert_eq!(moved(&rows, &plan), 18, "a quarter of 72 replicas");
    let after = after(&rows, &plan);
    assert!(load(&four, &after).values().all(|load| *load == (18, 6)), "{:?}", load(&four, &after));
    for topic in [&after[..12], &after[12..]] {
        assert!(spread(load(&four, topic).values().map(|l| l.0)) <= 1, "each topic is spread too");
    }
    let again: Vec<Row> = after.into_iter().map(|nodes| Row { topic: 0, nodes, stays: false }).collect();
    assert_eq!(rebalance(&four, &again), Plan::new(), "what is level is left alone");
}

#[test]
fn ten_thousand_partitions_are_levelled_onto_a_fourth_broker_topic_by_topic() {
    let four = sites(&[(None, true); 4]);
    let rows: Vec<Row> =
        (0..10_000).map(|at| row(at / 200, &[[1, 2, 3], [2, 3, 1], [3, 1, 2]][at % 3])).collect();
    let plan = rebalance(&four, &rows);
    assert_eq!(moved(&rows, &plan), 7_500);
    let after = after(&rows, &plan);
    assert!(load(&four, &after).values().all(|load| *load == (7_500, 2_500)), "{:?}", load(&four, &after));
    for topic in after.chunks(200) {
        let new = load(&four, topic)[&NodeId(4)].0;
        assert!((100..=200).contains(&new), "{new} of 600 where 150 would be even");
    }
}

/// No single newcomer can go to the broker with least, which holds all of their partitions but one that is a step away.
#[test]
fn chain_of_moves_levels_where_no_single_move_would() {
    let all = sites(&[(None, true), (None, true), (None, true), (None, false)]);
    // 1 holds most; 3 holds least and has a replica of everything that 1 could give away; 2 can pass something on to 3.
    let rows = [
        row(0, &[1, 3]),
        row(0, &[1, 3]),
        row(0, &[1, 4]),
        row(0, &[2, 4]),
        row(0, &[2, 4]),
        row(0, &[2, 1]),
    ];
    let mut fixed = rows.to_vec();
    fixed[2].stays = true;
    fixed[5].stays = true;
    let plan = rebalance(&all, &fixed);
    let load = load(&all, &after(&fixed, &plan));
    assert!(spread(load.values().map(|l| l.0)) <= 1, "{plan:?} {load:?}");
    assert_eq!(moved(&fixed, &plan), 2);
}

#[test]
fn racks_are_mended_before_anything_is_levelled() {
    let racks = sites(&[(Some("a"), true), (Some("a"), true), (Some("b"), true), (Some("c"), true)]);
    let rows = vec![row(0, &[1, 2, 3]); 4];
    let after = after(&rows, &rebalance(&racks, &rows));
    for row in &after {
        assert!(row.contains(&NodeId(3)) && row.contains(&NodeId(4)), "{row:?}");
    }
    assert!(load(&racks, &after).values().all(|load| load.1 == 1), "{after:?}");
}

#[test]
fn drained_and_dead_brokers_keep_what_they_have_and_get_nothing() {
    let some = sites(&[(None, true), (None, true), (None, true), (None, true), (None, false)]);
    let rows: Vec<Row> = (0..8).map(|at| row(0, &[[5, 1], [1, 5]][at % 2])).collect();
    let plan = rebalance(&some, &rows);
    let after = after(&rows, &plan);
    assert!(after.iter().all(|row| row.contains(&NodeId(5))), "{after:?}");
    assert!(load(&some, &after).values().all(|load| load.0 == 2), "{after:?}");
    assert_eq!(after.iter().filter(|row| row[0] == NodeId(5)).count(), 4, "it leads again when it may");
}

#[test]
fn partitions_with_the_fewest_copies_left_are_replaced_first() {
    let some = sites(&[(None, true), (None, false), (None, false), (None, true)]);
    let rows = [row(0, &[1, 2]), row(0, &[2, 1, 4]), row(0, &[2, 3, 1]), row(0, &[2])];
    let lost = BTreeSet::from([NodeId(2), NodeId(3)]);
    let plan = vacate(&some, &rows, &lost, 2);
    assert_eq!(
        plan.keys().copied().collect::<Vec<_>>(),
        [0, 3],
        "1 has no taker, 2 has a copy like 0 and comes later"
    );
    assert_eq!(plan[&0], [NodeId(1), NodeId(4)], "who holds the log leads");
    let plan = vacate(&some, &rows, &lost, 9);
    assert_eq!(plan[&2].iter().filter(|node| lost.contains(node)).count(), 1, "as far as there are takers");
}

/// Rack and whether it takes replicas, of each broker; topic and brokers of each partition.
type Brokers = Vec<(Option<usize>, bool)>;
type Rows = Vec<(usize, Vec<prop::sample::Index>)>;

/// A layout of any kind: brokers in racks, topics with replicas anywhere.
fn any_layout() -> impl Strategy<Value = (Brokers, Rows)> {
    let brokers = prop::collection::vec((prop::option::of(0..3usize), prop::bool::weighted(0.85)), 3..9);
    let rows =
        prop::collection::vec((0..3usize, prop::collection::vec(any::<prop::sample::Index>(), 1..4)), 1..60);
    (brokers, rows)
}

fn built(brokers: &[(Option<usize>, bool)], rows: &[(usize, Vec<prop::sample::Index>)]) -> (Sites, Vec<Row>) {
    let names = ["a", "b", "c"];
    let racks: Vec<(Option<&str>, bool)> = brokers.iter().map(|(r, t)| (r.map(|r| names[r]), *t)).collect();
    let sites = sites(&racks);
    let rows = rows.iter().map(|(topic, picks)| {
        let mut free: Vec<i32> = (1..=racks.len() as i32).collect();
        let nodes: Vec<i32> = picks.iter().map(|pick| free.remove(pick.index(free.len()))).collect();
        row(*topic, &nodes)
    });
    let rows = rows.collect();
    (sites, rows)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rebalance_is_level_as_far_as_racks_allow_and_moves_only_what_may((brokers, rows) in any_layout()) {
        let (sites, rows) = built(&brokers, &rows);
        let plan = rebalance(&sites, &rows);
        let after = after(&rows, &plan);
        let takes = |node: &NodeId| sites[node].takes;
        for (row, now) in rows.iter().zip(&after) {
            prop_assert_eq!(now.iter().collect::<BTreeSet<_>>().len(), row.nodes.len());
            prop_assert!(row.nodes.iter().filter(|n| !takes(n)).all(|n| now.contains(n)), "left alone");
            prop_assert!(now.iter().filter(|n| !row.nodes.contains(n)).all(takes));
        }
        let load = load(&sites, &after);
        for now in &after {
            for node in now.iter().filter(|n| takes(n)) {
                for other in load.keys().filter(|n| !now.contains(n)) {
                    let (here, there) = (crowd(&sites, now, *node, *node), crowd(&sites, now, *node, *other));
                    prop_assert!(there >= here, "{now:?}: {other} is in a rack with fewer than {node}");
                    prop_assert!(there > here || load[node].0 < load[other].0 + 2, "{load:?}: {node} to {other}");
                }
            }
            if takes(&now[0]) {
                let level = |n: &&NodeId| takes(n) && load[&now[0]].1 >= load[n].1 + 2;
                prop_assert!(!now[1..].iter().any(|n| level(&n)), "{load:?}: leader of {now:?}");
            }
        }
        // The same again finds nothing to do.
        let again: Vec<Row> =
            after.into_iter().zip(&rows).map(|(nodes, row)| Row { nodes, ..row.clone() }).collect();
        prop_assert_eq!(rebalance(&sites, &again), Plan::new());
    }

    /// Without racks and with nobody drained: level to within one, and no replica moves beyond the fewest that this takes.
    #[test]
    fn rebalance_without_racks_is_level_with_the_fewest_moves((brokers, rows) in any_layout()) {
        let brokers: Vec<_> = brokers.into_iter().map(|_| (None, true)).collect();
        let (sites, rows) = built(&brokers, &rows);
        let plan = rebalance(&sites, &rows);
        let before: Vec<Vec<NodeId>> = rows.iter().map(|row| row.nodes.clone()).collect();
        let (before, now) = (load(&sites, &before), load(&sites, &after(&rows, &plan)));
        prop_assert!(spread(now.values().map(|l| l.0)) <= 1, "{now:?}");
        let total: usize = before.values().map(|l| l.0).sum();
        let (floor, rest) = (total / before.len(), total % before.len());
        let ceiling = floor + usize::from(rest > 0);
        let over: usize = before.values().map(|l| l.0.saturating_sub(ceiling)).sum();
        let under: usize = before.values().map(|l| floor.saturating_sub(l.0)).sum();
        prop_assert_eq!(moved(&rows, &plan), over.max(under), "{:?}", before);
    }
}
