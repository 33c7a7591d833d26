//! Fetch: which partitions are asked of the node, and how results become rows.

use super::*;
use crate::broker::api::LeaderHint;
use crate::broker::fetch_sessions::{Cache, prepare};
use crate::broker::handlers::tests::{ORDERS, image};
use crate::ctl::listeners::PLAINTEXT;
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition as AskedPartition, FetchTopic as AskedTopic};
use kafka_protocol::protocol::{Decodable, StrBytes};

fn partition(index: i32) -> AskedPartition {
    AskedPartition::default().with_partition(index).with_fetch_offset(5).with_partition_max_bytes(1 << 20)
}

fn plan(request: &FetchRequest, image: &Image, version: i16) -> Plan {
    super::plan(request, &opening(request, version).asked, image, 9_000)
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

fn codes(rows: &[FetchPartition]) -> Vec<i16> {
    rows.iter().map(|row| row.error_code).collect()
}

#[test]
fn known_partitions_are_asked_in_order_and_may_wait() {
    let plan = plan(&request(vec![by_name("orders", &[2, 0])]), &image(), 11);
    assert_eq!(plan.items.iter().map(|item| item.group).collect::<Vec<_>>(), [GroupId(12), GroupId(10)]);
    assert_eq!(plan.places, [0, 1]);
    assert_eq!(plan.limits.max_wait_ms, 500);
    assert_eq!((plan.limits.min_bytes, plan.limits.max_bytes), (1, 9_000));
    assert_eq!((plan.items[0].current_leader_epoch, plan.items[0].last_fetched_epoch), (-1, -1));
}

#[test]
fn unknown_partition_does_not_hurry_the_others_and_alone_is_answered_at_once() {
    let request = request(vec![by_name("nope", &[0]), by_name("orders", &[9, 1])]);
    let plan = plan(&request, &image(), 11);
    assert_eq!(codes(&plan.rows), [3, 3, 0]);
    assert_eq!(plan.places, [2]);
    assert_eq!(
        plan.limits.max_wait_ms, 500,
        "whoever does not know yet that it is gone must not ask without a pause"
    );
    let request = self::request(vec![by_name("nope", &[0])]);
    assert!(super::plan(&request, &opening(&request, 11).asked, &image(), 9_000).items.is_empty());
}

#[test]
fn topic_is_found_by_id_from_v13_on() {
    let by_id = |id: Uuid| AskedTopic::default().with_topic_id(id).with_partitions(vec![partition(0)]);
    let plan = plan(&request(vec![by_id(ORDERS), by_id(Uuid::from_u128(99))]), &image(), 13);
    assert_eq!(codes(&plan.rows), [0, 100]);
}

#[test]
fn rows_of_neighbours_share_their_topic_and_what_is_known_is_left_out() {
    let asked = opening(
        &request(vec![by_name("orders", &[0, 1]), by_name("nope", &[0]), by_name("orders", &[2])]),
        11,
    )
    .asked;
    let rows = || asked.iter().map(|one| empty_row(one.key.partition, false)).collect();
    let names = |topics: Vec<FetchTopic>| {
        let row = |topic: FetchTopic| (topic.name, topic.partitions.iter().map(|row| row.index).collect());
        topics.into_iter().map(row).collect::<Vec<(String, Vec<i32>)>>()
    };
    let all = names(topics(asked.clone(), rows(), None));
    assert_eq!(all, [("orders".into(), vec![0, 1]), ("nope".into(), vec![0]), ("orders".into(), vec![2])]);
    let some = names(topics(asked.clone(), rows(), Some(&[true, false, false, true])));
    assert_eq!(some, [("orders".into(), vec![0, 2])]);
    assert!(topics(asked.clone(), rows(), Some(&[false; 4])).is_empty());
    let by_id = AskedTopic::default().with_topic_id(ORDERS).with_partitions(vec![partition(0)]);
    let asked = opening(&request(vec![by_id]), 13).asked;
    assert_eq!(topics(asked, vec![empty_row(0, false)], None)[0].topic_id, ORDERS);
}

#[test]
fn request_before_v7_wants_no_session() {
    // v4: replica -1, wait 500, at least 1 byte, at most 1 MiB, read_uncommitted, no topics.
    let body = "ffffffff 000001f4 00000001 00100000 00 00000000";
    let request = FetchRequest::decode(&mut bytes(body), 4).unwrap();
    assert_eq!((opening(&request, 4).session_id, opening(&request, 4).epoch), (0, -1));
}

#[test]
fn session_is_told_all_that_makes_a_row_news() {
    let row = || FetchPartition { high_watermark: 9, log_start_offset: 2, ..empty_row(0, false) };
    let plain = Told { high_watermark: 9, log_start: 2, ..Told::default() };
    assert_eq!(told(&row()), plain);
    let records = vec![Bytes::from_static(b"batch")];
    assert_eq!(told(&FetchPartition { records, ..row() }), Told { has_records: true, ..plain });
    assert_eq!(told(&FetchPartition { error_code: 6, ..row() }), Told { has_error: true, ..plain });
    let hinted = Told { has_hint: true, ..plain };
    assert_eq!(told(&FetchPartition { preferred_read_replica: 0, ..row() }), hinted);
    assert_eq!(told(&FetchPartition { diverging_epoch: Some((1, 2)), ..row() }), hinted);
    assert_eq!(told(&empty_row(0, false)), Told { high_watermark: -1, log_start: -1, ..Told::default() });
}

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The bytes of a session's first two exchanges in v12: all of two partitions; then one of them is forgotten, and of the other one only
/// the high watermark has moved. Written down by hand from FetchRequest.json and FetchResponse.json of Kafka.
#[test]
fn incremental_exchange_has_these_bytes() {
    let cache = Cache::new(1);
    let exchange = |body: &str, high_watermark: i64| {
        let mut body = bytes(body);
        let request = FetchRequest::decode(&mut body, 12).unwrap();
        assert!(body.is_empty());
        let opened = cache.open(0, opening(&request, 12)).unwrap();
        let row = |one: &Asked| FetchPartition {
            high_watermark,
            last_stable_offset: high_watermark,
            log_start_offset: 3,
            ..empty_row(one.key.partition, false)
        };
        let rows: Vec<_> = opened.asked.iter().map(row).collect();
        let told: Vec<_> = rows.iter().map(told).collect();
        let begun = prepare(&opened, &told);
        let settled = cache.settle(0, &opened, &told, begun, || 0x0102_0304).unwrap();
        let topics = topics(opened.asked, rows, settled.kept.as_deref());
        let response = FetchResponse { session_id: settled.session_id, topics, ..FetchResponse::default() };
        fetch::encode(response, 12, 9).concat()
    };
    let header = "ffffffff 000001f4 00000001 00100000 00";
    let asked = |partition: u8| {
        format!("000000{partition:02x} ffffffff 0000000000000005 ffffffff ffffffffffffffff 00100000 00")
    };
    let told = |partition: u8, high_watermark: u8| {
        let end = format!("00000000000000{high_watermark:02x}");
        format!("000000{partition:02x} 0000 {end} {end} 0000000000000003 00 ffffffff 01 00")
    };
    // No session yet, epoch 0; one topic, two partitions; nothing to forget; no rack.
    let first =
        format!("{header} 00000000 00000000 02 07 6f7264657273 03 {} {} 00 01 01 00", asked(0), asked(1));
    let whole = format!(
        "00000064 00000009 00 00000000 0000 01020304 02 07 6f7264657273 03 {} {} 00 00",
        told(0, 41),
        told(1, 41)
    );
    assert_eq!(exchange(&first, 41), bytes(&whole));
    // Epoch 1; no topics; partition 1 of one topic to forget.
    let second = format!("{header} 01020304 00000001 01 02 07 6f7264657273 02 00000001 00 01 00");
    let moved =
        format!("0000003f 00000009 00 00000000 0000 01020304 02 07 6f7264657273 02 {} 00 00", told(0, 42));
    assert_eq!(exchange(&second, 42), bytes(&moved));
    // Epoch 2: nothing to say on either side.
    let third = format!("{header} 01020304 00000002 01 01 01 00");
    assert_eq!(exchange(&third, 42), bytes("00000011 00000009 00 00000000 0000 01020304 01 00"));
}

#[test]
fn aborted_list_is_null_only_for_read_uncommitted() {
    let mut asked = request(vec![by_name("orders", &[0])]);
    let aborted = |asked: &FetchRequest| plan(asked, &image(), 11).rows[0].aborted.clone();
    assert_eq!(aborted(&asked), None);
    asked.isolation_level = 1;
    assert_eq!(aborted(&asked), Some(Vec::new()));
}

#[test]
fn results_land_in_their_rows() {
    let request = request(vec![by_name("orders", &[0, 1, 2])]);
    let Plan { mut rows, places, .. } = plan(&request, &image(), 12);
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
    settle(&mut rows, &places, results, 12, &mut hints);
    assert_eq!(codes(&rows), [0, 6, 1]);
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
    assert_eq!(nodes_in_rack(&image, GroupId(10), ("b", PLAINTEXT)), [NodeId(2)]);
    assert_eq!(nodes_in_rack(&image, GroupId(10), ("c", PLAINTEXT)), []);
    assert_eq!(nodes_in_rack(&image, GroupId(99), ("b", PLAINTEXT)), []);
    image.brokers.get_mut(&NodeId(3)).expect("there").fenced = false;
    let nodes = nodes_in_rack(&image, GroupId(10), ("b", PLAINTEXT));
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
    assert_eq!(plan.places, [0, 2]);
    assert_eq!(plan.limits.max_wait_ms, 0);
    assert_eq!(plan.rows.iter().map(|row| row.preferred_read_replica).collect::<Vec<_>>(), [-1, 2, -1]);
}
