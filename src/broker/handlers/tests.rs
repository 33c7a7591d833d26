//! A small metadata image for the handlers' tests, and tests of what handlers share.

use super::*;
use crate::ctl::image::{Broker, Partition, Topic};
use crate::ctl::listeners::PLAINTEXT;
use crate::ctl::record::Endpoint;
use crate::segment::ReplicaId;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Topic `orders`: three partitions, groups 10 to 12.
pub(crate) const ORDERS: Uuid = Uuid::from_u128(0xA);
/// Topic `__internal`: one partition, group 20.
pub(crate) const INTERNAL: Uuid = Uuid::from_u128(0xB);

fn broker(id: i32, fenced: bool) -> (NodeId, Broker) {
    let endpoint = |port| Endpoint { host: format!("host{id}"), port };
    let broker = Broker {
        node: NodeId(id),
        incarnation: 1,
        directory: Uuid::from_u128(id as u128),
        kafka: endpoint(9092),
        listeners: BTreeMap::new(),
        peer: endpoint(9192),
        rack: (id == 1).then(|| "r1".to_owned()),
        fenced,
        stopping: false,
        dead: false,
    };
    (NodeId(id), broker)
}

fn topic(name: &str, id: Uuid, groups: std::ops::Range<u64>, internal: bool) -> Topic {
    let replica = |node| ReplicaId { node: NodeId(node), assignment: 5, directory: node as u128 };
    let partition = |group| Partition {
        group: GroupId(group),
        replicas: [1, 2, 3].map(replica).to_vec(),
        ..Partition::default()
    };
    let partitions = groups.map(partition).collect();
    Topic { name: name.to_owned(), id, partitions, configs: BTreeMap::new(), internal, auto_since: None }
}

/// Brokers 1 and 2, broker 3 fenced, and the two topics.
pub(crate) fn image() -> Image {
    let topics = [topic("orders", ORDERS, 10..13, false), topic("__internal", INTERNAL, 20..21, true)];
    let mut image = Image { cluster_id: "the-cluster".to_owned(), applied: 7, ..Image::default() };
    image.brokers = [broker(1, false), broker(2, false), broker(3, true)].into();
    for topic in topics {
        for (partition, index) in topic.partitions.iter().zip(0..) {
            image.groups.insert(partition.group, (topic.id, index));
        }
        image.topic_names.insert(topic.id, topic.name.clone());
        image.topics.insert(topic.name.clone(), topic);
    }
    image
}

#[test]
fn partition_out_of_range_has_no_group() {
    let image = image();
    assert_eq!(group_of(&image, "orders", 2), Some(GroupId(12)));
    assert_eq!(group_of(&image, "orders", 3), None);
    assert_eq!(group_of(&image, "orders", -1), None);
    assert_eq!(group_of(&image, "nope", 0), None);
}

#[test]
fn controller_is_this_node_while_it_lives_else_any_live_one() {
    let mut image = image();
    assert_eq!(controller_id(&image, NodeId(2), PLAINTEXT), 2);
    assert_eq!(controller_id(&image, NodeId(3), PLAINTEXT), 1);
    assert_eq!(controller_id(&image, NodeId(9), PLAINTEXT), 1);
    image.brokers.clear();
    assert_eq!(controller_id(&image, NodeId(1), PLAINTEXT), -1);
}

#[test]
fn leader_hints_name_each_endpoint_once() {
    let mut hints = Hints::default();
    assert_eq!(hints.note(None), None);
    assert!(hints.is_empty());
    let hint = |node, epoch| Some(LeaderHint { node: NodeId(node), epoch });
    assert_eq!(hints.note(hint(2, 8)), Some((2, 8)));
    assert_eq!(hints.note(hint(2, 9)), Some((2, 9)));
    assert_eq!(hints.note(hint(1, 3)), Some((1, 3)));
    assert_eq!(hints.note(hint(77, 1)), Some((77, 1)));
    let expected =
        [(2, "host2".to_owned(), 9092, None), (1, "host1".to_owned(), 9092, Some("r1".to_owned()))];
    assert_eq!(hints.endpoints(&image(), PLAINTEXT), expected);
}

#[tokio::test]
async fn join_all_keeps_the_order_given() {
    let wait = |ms: u64| async move {
        tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        ms
    };
    assert_eq!(join_all(vec![wait(20), wait(1), wait(10)]).await, [20, 1, 10]);
    assert_eq!(join_all(vec![wait(1)]).await, [1]);
    assert_eq!(join_all(Vec::<std::future::Ready<u8>>::new()).await, Vec::<u8>::new());
}

#[test]
fn admin_timeout_is_bounded_on_both_sides() {
    assert_eq!(admin_timeout(-1), 1_000);
    assert_eq!(admin_timeout(0), 1_000);
    assert_eq!(admin_timeout(30_000), 30_000);
    assert_eq!(admin_timeout(i32::MAX), 120_000);
}
