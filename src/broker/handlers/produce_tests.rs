//! Produce: which partitions are refused before the append, and how results become rows.

use super::*;
use crate::broker::api::LeaderHint;
use crate::broker::handlers::tests::{INTERNAL, ORDERS, image};
use crate::segment::{GroupId, NodeId};
use bytes::BytesMut;
use std::collections::BTreeMap;

/// A batch of one empty record, CRC and all.
pub(crate) fn batch(attributes: i16) -> BytesMut {
    let record: [u8; 7] = [12, 0, 0, 0, 1, 1, 0];
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&0i64.to_be_bytes());
    bytes.extend_from_slice(&(49 + record.len() as i32).to_be_bytes());
    bytes.extend_from_slice(&(-1i32).to_be_bytes());
    bytes.push(2);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&attributes.to_be_bytes());
    bytes.extend_from_slice(&0i32.to_be_bytes());
    bytes.extend_from_slice(&NOW.to_be_bytes());
    bytes.extend_from_slice(&NOW.to_be_bytes());
    // A transactional batch always has a producer.
    let producer: i32 = if attributes & 0x10 == 0 { -1 } else { 0 };
    bytes.extend_from_slice(&i64::from(producer).to_be_bytes());
    bytes.extend_from_slice(&(producer as i16).to_be_bytes());
    bytes.extend_from_slice(&producer.to_be_bytes());
    bytes.extend_from_slice(&1i32.to_be_bytes());
    bytes.extend_from_slice(&record);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    BytesMut::from(&bytes[..])
}

const NOW: i64 = 1_700_000_000_000;

fn topic(name: &str, topic_id: Uuid, partitions: Vec<(i32, Option<BytesMut>)>) -> ProduceTopic {
    let partition = |(index, records)| ProducePartition { index, records };
    ProduceTopic { name: name.into(), topic_id, partitions: partitions.into_iter().map(partition).collect() }
}

fn request(topics: Vec<ProduceTopic>) -> ProduceRequest {
    ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 1000, topics }
}

fn planned(request: ProduceRequest, version: i16, client: Option<&str>) -> Plan {
    let defaults = Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() };
    let terms = Terms {
        image: &image(),
        defaults: &defaults,
        version,
        now_ms: NOW,
        refusal: refusal(&request),
        may_write_internal: client == Some(ADMIN_CLIENT),
    };
    plan(request, terms, &mut Rules::default())
}

fn codes(response: &ProduceResponse) -> Vec<i16> {
    response.topics.iter().flat_map(|topic| &topic.partitions).map(|row| row.error_code).collect()
}

#[test]
fn sound_batches_become_items_beside_refused_ones() {
    let mut damaged = batch(0);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let partitions = vec![
        (1, Some(batch(0))),
        (7, Some(batch(0))),
        (0, Some(damaged)),
        (2, None),
        (2, Some(BytesMut::new())),
        (2, Some(batch(0x10))),
        (2, Some(batch(0x20))),
        (0, Some(batch(0))),
    ];
    let request = request(vec![
        topic("orders", Uuid::nil(), partitions),
        topic("nope", Uuid::nil(), vec![(0, Some(batch(0)))]),
        topic("__internal", Uuid::nil(), vec![(0, Some(batch(0)))]),
    ]);
    let plan = planned(request, 9, None);
    assert_eq!(codes(&plan.response), [0, 3, 2, 87, 87, 48, 87, 0, 3, 17]);
    assert_eq!(plan.places, [(0, 0), (0, 7)]);
    let groups: Vec<GroupId> = plan.items.iter().map(|item| item.group).collect();
    assert_eq!(groups, [GroupId(11), GroupId(10)]);
    assert!(plan.items.iter().all(|item| item.min_insync == 1 && item.header.record_count == 1));
    let refused = &plan.response.topics[0].partitions[1];
    assert_eq!((refused.base_offset, refused.error_message.as_deref()), (-1, Some("unknown partition")));
}

#[test]
fn topic_is_found_by_id_from_v13_on() {
    let by_id = |id| {
        let plan = planned(request(vec![topic("", id, vec![(0, Some(batch(0)))])]), 13, None);
        (codes(&plan.response)[0], plan.response.topics[0].topic_id)
    };
    assert_eq!(by_id(ORDERS), (0, ORDERS));
    assert_eq!(by_id(Uuid::from_u128(99)), (100, Uuid::from_u128(99)));
    assert_eq!(by_id(INTERNAL), (17, INTERNAL));
}

#[test]
fn internal_topic_is_writable_by_the_admin_client_alone() {
    let asked = || request(vec![topic("__internal", Uuid::nil(), vec![(0, Some(batch(0)))])]);
    assert_eq!(codes(&planned(asked(), 9, Some("app")).response), [17]);
    assert_eq!(codes(&planned(asked(), 9, Some("__admin_client")).response), [0]);
}

#[test]
fn bad_acks_and_transactions_refuse_every_partition() {
    let asked = || request(vec![topic("orders", Uuid::nil(), vec![(0, Some(batch(0))), (9, None)])]);
    let plan = planned(ProduceRequest { acks: 2, ..asked() }, 9, None);
    assert_eq!((codes(&plan.response), plan.items.len()), (vec![21, 21], 0));
    let plan = planned(ProduceRequest { transactional_id: Some("t".into()), ..asked() }, 9, None);
    assert_eq!((codes(&plan.response), plan.items.len()), (vec![48, 48], 0));
}

#[test]
fn results_land_in_their_rows_with_leader_hints() {
    let row = |index| ProducePartitionResponse { index, base_offset: -1, ..Default::default() };
    let topics = vec![
        ProduceTopicResponse { partitions: vec![row(0), row(1)], ..Default::default() },
        ProduceTopicResponse { partitions: vec![row(5)], ..Default::default() },
    ];
    let mut response = ProduceResponse { topics, ..Default::default() };
    let leader = Some(LeaderHint { node: NodeId(2), epoch: 6 });
    let results = vec![
        Ok(Produced { base_offset: 40, log_start_offset: 3 }),
        Err(PartitionError::NotLeader { leader }),
    ];
    let mut hints = Hints::default();
    settle(&mut response, &[(0, 1), (1, 0)], results, &mut hints);
    assert_eq!(codes(&response), [0, 0, 6]);
    let done = &response.topics[0].partitions[1];
    assert_eq!((done.base_offset, done.log_start_offset), (40, 3));
    assert_eq!(response.topics[1].partitions[0].current_leader, Some((2, 6)));
    assert_eq!(hints.endpoints(&image())[0].0, 2);
}

#[test]
fn rules_are_read_again_when_the_image_moves() {
    let defaults = Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() };
    let mut image = image();
    let mut rules = Rules::default();
    let before = rules.of(&image, &image.topics["orders"], &defaults).max_message_bytes;
    let change = |image: &mut Image| {
        let topic = image.topics.get_mut("orders").unwrap();
        topic.configs.insert("max.message.bytes".into(), "77".into());
    };
    change(&mut image);
    assert_eq!(rules.of(&image, &image.topics["orders"], &defaults).max_message_bytes, before);
    image.applied += 1;
    assert_eq!(rules.of(&image, &image.topics["orders"], &defaults).max_message_bytes, 77);
}
