//! Produce: which partitions are refused before the append, and how results become rows.

use super::*;
use crate::broker::api::LeaderHint;
use crate::broker::handlers::tests::{INTERNAL, ORDERS, image};
use crate::segment::{GroupId, NodeId};
use crate::wire::compression::Compression;
use crate::wire::record::RecordBatchBuilder;
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
    assert_eq!(hints.endpoints(&image(), crate::ctl::listeners::PLAINTEXT)[0].0, 2);
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

#[test]
fn compacted_topic_takes_no_record_without_a_key() {
    let defaults = Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() };
    let mut image = image();
    image.topics.get_mut("orders").unwrap().configs.insert("cleanup.policy".into(), "compact,delete".into());
    let planned = |batch: BytesMut| {
        let request = request(vec![topic("orders", Uuid::nil(), vec![(1, Some(batch))])]);
        let (refusal, now_ms) = (None, NOW);
        let terms = Terms {
            image: &image,
            defaults: &defaults,
            version: 9,
            now_ms,
            refusal,
            may_write_internal: false,
        };
        let plan = plan(request, terms, &mut Rules::default());
        (plan.items.len(), plan.response.topics[0].partitions[0].clone())
    };
    for codec in Compression::ALL {
        let build = |keys: &[Option<&[u8]>]| {
            let mut builder = RecordBatchBuilder::new(codec);
            keys.iter().for_each(|key| {
                builder.append(NOW, *key, Some(b"v"), &[]);
            });
            builder.build().unwrap()
        };
        assert_eq!(planned(build(&[Some(b"a"), Some(b"")])).0, 1, "{codec}: an empty key is a key");
        let (items, row) = planned(build(&[Some(b"a"), None, Some(b"b"), None]));
        assert_eq!((items, row.error_code, row.base_offset), (0, 87, -1));
        assert_eq!(row.record_errors.iter().map(|e| e.0).collect::<Vec<_>>(), [1, 3]);
        assert!(row.record_errors[0].1.ends_with("without key in topic partition orders-1."), "{row:?}");
        let many = vec![None; RECORD_ERRORS + 1];
        assert_eq!(planned(build(&many)).1.record_errors.len(), RECORD_ERRORS);
    }
    // What compaction could not read is not taken either.
    let mut garbled = RecordBatchBuilder::new(Compression::None);
    garbled.append(NOW, Some(b"a"), Some(b"v"), &[]);
    let mut garbled = garbled.build().unwrap();
    garbled[61] ^= 0x40;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &garbled[21..]) as u32;
    garbled[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(planned(garbled).1.error_code, 87);
    let mut large = RecordBatchBuilder::new(Compression::Zstd);
    large.append(NOW, Some(b"a"), Some(&vec![0; RECORDS_LIMIT]), &[]);
    assert_eq!(planned(large.build().unwrap()).1.error_code, 10);
}
