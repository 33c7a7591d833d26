//! Fetch: which partitions are asked of the node, and how results become rows.

use super::*;
use crate::broker::api::LeaderHint;
use crate::broker::handlers::tests::{ORDERS, image};
use crate::segment::NodeId;
use bytes::Bytes;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

fn partition(index: i32) -> AskedPartition {
    AskedPartition::default().with_partition(index).with_fetch_offset(5).with_partition_max_bytes(1 << 20)
}

fn request(topics: Vec<AskedTopic>) -> FetchRequest {
    FetchRequest::default()
        .with_topics(topics)
        .with_max_bytes(i32::MAX)
        .with_min_bytes(1)
        .with_max_wait_ms(500)
        .with_session_epoch(-1)
}

fn by_name(name: &'static str, indexes: &[i32]) -> AskedTopic {
    let partitions = indexes.iter().copied().map(partition).collect();
    AskedTopic::default().with_topic(TopicName(StrBytes::from_static_str(name))).with_partitions(partitions)
}

fn codes(response: &FetchResponse) -> Vec<i16> {
    response.topics.iter().flat_map(|topic| &topic.partitions).map(|row| row.error_code).collect()
}

#[test]
fn known_partitions_are_asked_in_order_and_may_wait() {
    let plan = plan(&request(vec![by_name("orders", &[2, 0])]), &image(), 11);
    assert_eq!(plan.items.iter().map(|item| item.group).collect::<Vec<_>>(), [GroupId(12), GroupId(10)]);
    assert_eq!(plan.places, [(0, 0), (0, 1)]);
    assert_eq!(plan.limits.max_wait_ms, 500);
    assert_eq!((plan.limits.min_bytes, plan.limits.max_bytes), (1, MAX_BYTES));
    assert_eq!(plan.response.topics[0].name, "orders");
    assert_eq!((plan.items[0].current_leader_epoch, plan.items[0].last_fetched_epoch), (-1, -1));
}

#[test]
fn unknown_partition_answers_at_once_beside_the_others() {
    let request = request(vec![by_name("nope", &[0]), by_name("orders", &[9, 1])]);
    let plan = plan(&request, &image(), 11);
    assert_eq!(codes(&plan.response), [3, 3, 0]);
    assert_eq!(plan.places, [(1, 1)]);
    assert_eq!(plan.limits.max_wait_ms, 0);
}

#[test]
fn topic_is_found_by_id_from_v13_on() {
    let by_id = |id: Uuid| AskedTopic::default().with_topic_id(id).with_partitions(vec![partition(0)]);
    let plan = plan(&request(vec![by_id(ORDERS), by_id(Uuid::from_u128(99))]), &image(), 13);
    assert_eq!(codes(&plan.response), [0, 100]);
    assert_eq!(plan.response.topics[0].topic_id, ORDERS);
}

#[test]
fn continued_session_is_refused_and_a_full_fetch_is_not() {
    let with =
        |id, epoch| session_error(&FetchRequest::default().with_session_id(id).with_session_epoch(epoch));
    assert_eq!(with(0, -1), None);
    assert_eq!(with(0, 0), None);
    assert_eq!(with(7, 1), Some(70));
    assert_eq!(with(0, 1), Some(71));
    assert_eq!(refused(70).response.error_code, 70);
}

#[test]
fn aborted_list_is_null_only_for_read_uncommitted() {
    let mut asked = request(vec![by_name("orders", &[0])]);
    let aborted =
        |asked: &FetchRequest| plan(asked, &image(), 11).response.topics[0].partitions[0].aborted.clone();
    assert_eq!(aborted(&asked), None);
    asked.isolation_level = 1;
    assert_eq!(aborted(&asked), Some(Vec::new()));
}

#[test]
fn results_land_in_their_rows() {
    let request = request(vec![by_name("orders", &[0, 1, 2])]);
    let Plan { mut response, places, .. } = plan(&request, &image(), 12);
    let leader = Some(LeaderHint { node: NodeId(2), epoch: 6 });
    let results = vec![
        Fetched {
            high_watermark: 9,
            log_start_offset: 2,
            batches: vec![Bytes::from_static(b"batch")],
            ..Fetched::default()
        },
        Fetched {
            error: Some(PartitionError::NotLeader { leader }),
            batches: vec![Bytes::from_static(b"must not leave")],
            ..Fetched::default()
        },
        Fetched {
            error: Some(PartitionError::OutOfRange { offset: 50, start: 2, end: 9 }),
            high_watermark: -1,
            log_start_offset: -1,
            ..Fetched::default()
        },
    ];
    let mut hints = Hints::default();
    settle(&mut response, &places, results, 12, &mut hints);
    let rows = &response.topics[0].partitions;
    assert_eq!(codes(&response), [0, 6, 1]);
    assert_eq!((rows[0].high_watermark, rows[0].last_stable_offset, rows[0].log_start_offset), (9, 9, 2));
    assert_eq!(rows[0].records, [Bytes::from_static(b"batch")]);
    assert!(rows[1].records.is_empty());
    assert_eq!(rows[1].current_leader, Some((2, 6)));
    assert_eq!((rows[2].high_watermark, rows[2].log_start_offset), (9, 2));
    assert!(!hints.is_empty());
}

#[test]
fn damaged_partition_loses_its_data_and_says_why() {
    let mut fetched = Fetched { batches: vec![Bytes::from_static(b"bad")], ..Fetched::default() };
    withhold(&mut fetched, "crc".into());
    assert!(fetched.batches.is_empty());
    assert_eq!(fetched.error.as_ref().map(error::fetch), Some(56));
}

/// Brokers 1 and 2 stand in racks a and b, broker 3 in b too and fenced.
fn racked() -> Image {
    let mut image = image();
    for (node, rack) in [(1, "a"), (2, "b"), (3, "b")] {
        image.brokers.get_mut(&NodeId(node)).expect("there").rack = Some(rack.to_owned());
    }
    image
}

#[test]
fn consumer_is_sent_to_a_live_replica_in_sync_in_its_rack_by_the_leader_alone() {
    let mut image = racked();
    assert_eq!(nodes_in_rack(&image, GroupId(10), "b"), [NodeId(2)]);
    assert_eq!(nodes_in_rack(&image, GroupId(10), "c"), []);
    assert_eq!(nodes_in_rack(&image, GroupId(99), "b"), []);
    image.brokers.get_mut(&NodeId(3)).expect("there").fenced = false;
    let nodes = nodes_in_rack(&image, GroupId(10), "b");
    assert_eq!(nodes, [NodeId(2), NodeId(3)]);
    let state = |leader: i32, in_sync: &[i32]| PartitionState {
        leader: Some(LeaderHint { node: NodeId(leader), epoch: 3 }),
        in_sync: in_sync.iter().map(|node| NodeId(*node)).collect(),
        ..PartitionState::default()
    };
    assert_eq!(nearest(NodeId(1), &nodes, &state(1, &[1, 2, 3])), Some(NodeId(2)));
    assert_eq!(nearest(NodeId(1), &nodes, &state(1, &[1, 3])), Some(NodeId(3)));
    assert_eq!(nearest(NodeId(1), &nodes, &state(1, &[1])), None);
    assert_eq!(nearest(NodeId(1), &nodes, &state(2, &[1, 2, 3])), None);
    assert_eq!(nearest(NodeId(2), &nodes, &state(2, &[2])), None);
}

#[test]
fn rack_counts_only_where_the_broker_is_told_to_heed_it_and_stands_in_another() {
    let mut config = NodeConfig::new(NodeId(1), "d");
    config.rack = Some("a".into());
    let from = |rack: &'static str| FetchRequest::default().with_rack_id(StrBytes::from_static_str(rack));
    assert_eq!(rack_elsewhere(&from("b"), &config), None);
    config.is_rack_aware = true;
    assert_eq!(rack_elsewhere(&from("b"), &config), Some("b".to_owned()));
    assert_eq!(rack_elsewhere(&from("a"), &config), None);
    assert_eq!(rack_elsewhere(&from(""), &config), None);
}

#[test]
fn partitions_read_elsewhere_are_named_at_once_and_the_others_are_read_here() {
    let asked = request(vec![by_name("orders", &[2, 0, 1])]);
    let mut plan = plan(&asked, &image(), 12);
    redirect(&mut plan, &HashMap::new());
    assert_eq!((plan.items.len(), plan.limits.max_wait_ms), (3, 500));
    redirect(&mut plan, &[(GroupId(10), NodeId(2))].into());
    assert_eq!(plan.items.iter().map(|item| item.group).collect::<Vec<_>>(), [GroupId(12), GroupId(11)]);
    assert_eq!(plan.places, [(0, 0), (0, 2)]);
    assert_eq!(plan.limits.max_wait_ms, 0);
    let rows = &plan.response.topics[0].partitions;
    assert_eq!(rows.iter().map(|row| row.preferred_read_replica).collect::<Vec<_>>(), [-1, 2, -1]);
}
