//! Metadata: which topics a request asks for, and the rows it gets.

use super::*;
use crate::broker::api::LeaderHint;
use crate::broker::handlers::tests::{ORDERS, image};
use crate::ctl::listeners::{ADVERTISED, PLAINTEXT};
use crate::ctl::reassign::Moving;
use crate::ctl::record::Endpoint;
use crate::segment::ReplicaId;
use kafka_protocol::protocol::{Encodable, StrBytes};

fn ask(name: Option<&'static str>, id: Uuid) -> MetadataRequestTopic {
    let name = name.map(|name| TopicName(StrBytes::from_static_str(name)));
    MetadataRequestTopic::default().with_name(name).with_topic_id(id)
}

fn request(topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequest {
    MetadataRequest::default().with_topics(topics)
}

fn topic(name: &str) -> Wanted {
    Wanted::Topic(name.to_owned())
}

fn state(leader: Option<(i32, i32)>, in_sync: &[i32]) -> PartitionState {
    PartitionState {
        leader: leader.map(|(node, epoch)| LeaderHint { node: NodeId(node), epoch }),
        in_sync: in_sync.iter().copied().map(NodeId).collect(),
        high_watermark: 0,
        log_start: 0,
        log_end: 0,
        size_bytes: 0,
        local: true,
        needs_repair: false,
        electing: false,
        epoch: -1,
        ..PartitionState::default()
    }
}

#[test]
fn null_means_all_and_empty_means_none_but_in_v0() {
    let image = image();
    let all = [topic("__internal"), topic("orders")];
    assert_eq!(wanted(&image, &request(None), 1), all);
    assert_eq!(wanted(&image, &request(Some(Vec::new())), 0), all);
    assert_eq!(wanted(&image, &request(Some(Vec::new())), 1), []);
}

#[test]
fn ids_are_looked_up_from_v12_on() {
    let image = image();
    let unknown = Uuid::from_u128(99);
    let asked = request(Some(vec![ask(None, ORDERS), ask(None, unknown), ask(None, Uuid::nil())]));
    let expected = [topic("orders"), Wanted::UnknownId(unknown), Wanted::Invalid(Uuid::nil())];
    assert_eq!(wanted(&image, &asked, 12), expected);
    assert_eq!(wanted(&image, &request(Some(vec![ask(Some("x"), ORDERS)])), 10), [Wanted::Invalid(ORDERS)]);
}

#[test]
fn only_legal_names_that_are_free_are_created_once() {
    let image = image();
    let wanted = [topic("new"), topic("orders"), topic("no good"), topic("new"), Wanted::Invalid(ORDERS)];
    assert_eq!(missing(&image, &wanted), ["new"]);
}

#[test]
fn rows_carry_leader_epoch_and_reachable_leaders_only() {
    let image = image();
    let wanted = [topic("orders")];
    assert_eq!(groups(&image, &wanted), [GroupId(10), GroupId(11), GroupId(12)]);
    // Led and in sync; led by a fenced broker; never led.
    let states = vec![state(Some((2, 9)), &[1]), state(Some((3, 4)), &[3, 1]), state(None, &[])];
    let seen = seen(&image, 9, PLAINTEXT);
    assert!(is_any_without_leader(seen, &wanted, &states), "the second waits a moment");
    let led = || vec![state(Some((2, 9)), &[1]), state(Some((1, 4)), &[1]), state(None, &[])];
    assert!(!is_any_without_leader(seen, &wanted, &led()), "the third names nobody");
    // Broker 9 has no replica: it names a live one where an election must be under way.
    let rows = rows(seen, &wanted, states, &BTreeMap::new(), 12);
    let found: Vec<_> = rows[0]
        .partitions
        .iter()
        .map(|p| (p.partition_index, p.error_code, p.leader_id.0, p.leader_epoch))
        .collect();
    assert_eq!(found, [(0, 0, 2, 9), (1, 0, 1, 4), (2, 5, -1, -1)]);
    let isr = &rows[0].partitions[0].isr_nodes;
    assert_eq!(isr, &[BrokerId(2), BrokerId(1)], "the leader is always in sync");
    assert_eq!(rows[0].partitions[0].offline_replicas, [BrokerId(3)]);
    assert_eq!(rows[0].partitions[0].replica_nodes, [BrokerId(1), BrokerId(2), BrokerId(3)]);
    assert_eq!((rows[0].topic_id, rows[0].is_internal), (ORDERS, false));
}

#[test]
fn first_leader_is_waited_for_where_there_must_be_an_election() {
    let mut image = image();
    let wanted = [topic("orders")];
    // Never led; led; lost its leader, which is another wait.
    let lost = PartitionState { epoch: 4, ..state(None, &[]) };
    let states = [state(None, &[]), state(Some((2, 9)), &[2]), lost];
    assert_eq!(about_to_be_led(&image, &wanted, &states), [GroupId(10)]);
    image.brokers.remove(&NodeId(2));
    assert_eq!(about_to_be_led(&image, &wanted, &states), [], "one of three is alive");
}

#[test]
fn whom_to_ask_while_there_is_no_leader() {
    let replica = |node: i32| ReplicaId { node: NodeId(node), assignment: 1, directory: 7 };
    let mut partition = Partition { replicas: [1, 2, 3].map(replica).to_vec(), ..Partition::default() };
    let placed = partition.clone();
    let ask = |me: i32, live: &[i32]| contact(NodeId(me), &placed, |n| live.contains(&n.0), |_| true);
    assert_eq!(ask(3, &[1, 3]), Some(NodeId(3)), "itself, if it is a replica");
    assert_eq!(ask(4, &[2, 3]), Some(NodeId(2)), "a live one");
    assert_eq!(ask(2, &[1, 3]), Some(NodeId(1)), "fenced itself");
    assert_eq!(ask(3, &[3]), None, "nobody can be elected");
    assert_eq!(ask(3, &[]), None);
    let there = |there: i32| contact(NodeId(9), &placed, |_| true, |n| n.0 == there);
    assert_eq!((there(2), there(7)), (Some(NodeId(2)), None), "one that the client can be sent to");
    // It moves to 4 and 5: those that leave are counted for what was, and not for what is to be.
    partition.replicas = [1, 4, 5, 2, 3].map(replica).to_vec();
    let (target, origin) = ([1, 4, 5].map(NodeId).to_vec(), [1, 2, 3].map(NodeId).to_vec());
    partition.moving = Some(Box::new(Moving { since: 1, target, origin, by_controllers: false }));
    let ask = |live: &[i32]| contact(NodeId(9), &partition, |n| live.contains(&n.0), |_| true);
    assert_eq!(ask(&[2, 3]), Some(NodeId(2)), "most of the old ones");
    assert_eq!(ask(&[1, 5]), Some(NodeId(1)), "most of the new ones");
    assert_eq!(ask(&[3, 5]), None);
}

#[test]
fn failed_rows_have_their_codes_and_encode_in_every_version() {
    let image = image();
    let failures = BTreeMap::from([("refused".to_owned(), 38)]);
    let wanted = [topic("refused"), topic("nope"), topic("no good"), Wanted::UnknownId(Uuid::from_u128(9))];
    for version in 0..=13 {
        let seen = seen(&image, 1, PLAINTEXT);
        let rows = rows(seen, &wanted, Vec::new(), &failures, version);
        assert_eq!(rows.iter().map(|row| row.error_code).collect::<Vec<_>>(), [38, 3, 17, 100]);
        let response = MetadataResponse::default().with_brokers(brokers(seen)).with_topics(rows);
        response.encode(&mut Vec::new(), version).unwrap();
    }
}

#[test]
fn fenced_brokers_are_not_listed() {
    let image = image();
    let listed = brokers(seen(&image, 1, PLAINTEXT));
    assert_eq!(listed.iter().map(|broker| broker.node_id.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((listed[0].host.as_str(), listed[0].port), ("host1", 9092));
}

fn seen<'a>(image: &'a Image, me: i32, listener: &'a str) -> Seen<'a> {
    Seen { image, me: NodeId(me), listener }
}

/// Brokers 1 and 2 have two listeners, broker 3 has the one without a name; 2 was told at run time what to advertise for one of them.
#[test]
fn clients_are_told_the_addresses_of_the_listener_they_came_in_by() {
    let mut image = image();
    for id in [1, 2] {
        let broker = image.brokers.get_mut(&NodeId(id)).unwrap();
        let at = |port| Endpoint { host: format!("h{id}"), port };
        broker.listeners = [("INTERNAL".to_owned(), at(1)), ("EXTERNAL".to_owned(), at(2))].into();
    }
    image.brokers.get_mut(&NodeId(3)).unwrap().fenced = false;
    let set = [(ADVERTISED.to_owned(), "EXTERNAL://mapped:32768,GONE://x:1".to_owned())];
    image.broker_configs.insert(NodeId(2), set.into());
    let told = |listener| -> Vec<(i32, String, i32)> {
        let brokers = brokers(seen(&image, 1, listener)).into_iter();
        brokers.map(|b| (b.node_id.0, b.host.to_string(), b.port)).collect()
    };
    assert_eq!(told("INTERNAL"), [(1, "h1".into(), 1), (2, "h2".into(), 1)]);
    assert_eq!(told("EXTERNAL"), [(1, "h1".into(), 2), (2, "mapped".into(), 32768)]);
    assert_eq!(told(PLAINTEXT), [(3, "host3".into(), 9092)]);
    assert_eq!(told("GONE"), [], "what was set for a listener that is not there");
    // Led by 2, by 3, by nobody yet.
    let states = || vec![state(Some((2, 9)), &[2]), state(Some((3, 9)), &[3]), state(None, &[])];
    let rows = |listener, version| -> Vec<(i16, i32)> {
        let rows = rows(seen(&image, 1, listener), &[topic("orders")], states(), &BTreeMap::new(), version);
        rows[0].partitions.iter().map(|row| (row.error_code, row.leader_id.0)).collect()
    };
    assert_eq!(rows("INTERNAL", 6), [(0, 2), (72, -1), (5, -1)], "LISTENER_NOT_FOUND");
    assert_eq!(rows("INTERNAL", 5), [(0, 2), (5, -1), (5, -1)], "which older clients do not know");
    assert_eq!(rows(PLAINTEXT, 12), [(72, -1), (0, 3), (5, -1)]);
}

#[test]
fn operations_are_kafkas_bit_fields() {
    assert_eq!(TOPIC_OPERATIONS, 3_576);
    assert_eq!(CLUSTER_OPERATIONS, 8_096);
}
