//! Fetch responses without copies: header bytes and record slices, for vectored writes.
//!
//! Not the request (the codec crate decodes it) and not the choice of what to return. Called by the Fetch handler.
//!
//! Invariants:
//! - Record slices of [`COALESCE`] bytes and more are handed on as they are; smaller ones are copied into the header
//!   bytes, since a vectored write costs more per slice than a small copy.
//! - Empty records are written as length 0, never as null: librdkafka fails on -1 (KAFKA-18646).
use super::frame;
use super::primitives::{put_count, put_endpoints, put_no_tags, put_string, put_tag, put_unsigned_varint};
use super::versions::FETCH;
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Record slices below this are copied into the header bytes.
pub const COALESCE: usize = 1024;

/// A Fetch response (v4-18).
#[derive(Debug, Default)]
pub struct FetchResponse {
    /// Error of the whole request (v7+), 0 = none.
    pub error_code: i16,
    /// How long the client is held back.
    pub throttle_ms: i32,
    /// Session it belongs to (v7+, KIP-227), 0 = none.
    pub session_id: i32,
    /// In the request's order, or the session's.
    pub topics: Vec<FetchTopic>,
    /// KIP-951 (v16+): (node id, host, port, rack) of leaders named in the partitions.
    pub endpoints: Vec<(i32, String, i32, Option<String>)>,
}

/// One topic of it.
#[derive(Debug, Default)]
pub struct FetchTopic {
    /// Written before v13.
    pub name: String,
    /// Written from v13 on.
    pub topic_id: Uuid,
    /// In the request's order.
    pub partitions: Vec<FetchPartition>,
}

/// One partition of it.
#[derive(Debug, Default)]
pub struct FetchPartition {
    /// Partition number.
    pub index: i32,
    /// Kafka error code, 0 = none.
    pub error_code: i16,
    /// First offset that is not committed.
    pub high_watermark: i64,
    /// First offset of an open transaction, else the high watermark.
    pub last_stable_offset: i64,
    /// First offset that is left (v5+).
    pub log_start_offset: i64,
    /// None for read_uncommitted, else (producer id, first offset) of each aborted transaction in the range.
    pub aborted: Option<Vec<(i64, i64)>>,
    /// Follower to read from (v11+), -1 = none.
    pub preferred_read_replica: i32,
    /// v12+: (epoch, end offset).
    pub diverging_epoch: Option<(i32, i64)>,
    /// v12+: (leader id, epoch).
    pub current_leader: Option<(i32, i32)>,
    /// Whole batches, in order. Empty = length 0, never null.
    pub records: Vec<Bytes>,
}

/// The frame (length prefix, header, body) as slices to write in order; batches are not copied (tiny ones may be).
///
/// # Panics
/// If the frame exceeds 2 GiB; the handler keeps it below `fetch.max.bytes`.
pub fn encode(response: FetchResponse, version: i16, correlation_id: i32) -> Vec<Bytes> {
    let flexible = version >= 12;
    let mut chain =
        Chain { head: BytesMut::with_capacity(capacity(&response)), spliced: Vec::new(), extra: 0 };
    let out = &mut chain.head;
    frame::begin(out, FETCH, version, correlation_id);
    out.put_i32(response.throttle_ms);
    if version >= 7 {
        out.put_i16(response.error_code);
        out.put_i32(response.session_id);
    }
    put_count(out, response.topics.len(), flexible);
    for topic in response.topics {
        let out = &mut chain.head;
        if version >= 13 {
            out.put_slice(topic.topic_id.as_bytes());
        } else {
            put_string(out, Some(&topic.name), flexible);
        }
        put_count(out, topic.partitions.len(), flexible);
        for partition in topic.partitions {
            chain.partition(partition, version);
        }
        put_no_tags(&mut chain.head, flexible);
    }
    if version >= 16 && !response.endpoints.is_empty() {
        put_unsigned_varint(&mut chain.head, 1);
        put_endpoints(&mut chain.head, &response.endpoints);
    } else {
        put_no_tags(&mut chain.head, flexible);
    }
    chain.finish()
}

/// Room for everything but large record slices, so that the header bytes are one allocation.
fn capacity(response: &FetchResponse) -> usize {
    let mut size = 64 + response.endpoints.len() * 96;
    for topic in &response.topics {
        size += topic.name.len() + 24;
        for partition in &topic.partitions {
            let small = partition.records.iter().map(Bytes::len).filter(|&length| length < COALESCE);
            size += 80 + small.sum::<usize>() + partition.aborted.as_ref().map_or(0, |list| list.len() * 17);
        }
    }
    size
}

/// Header bytes in one buffer, and where in it record slices belong.
struct Chain {
    head: BytesMut,
    spliced: Vec<(usize, Bytes)>,
    /// Bytes of all spliced slices.
    extra: usize,
}

impl Chain {
    fn partition(&mut self, partition: FetchPartition, version: i16) {
        let flexible = version >= 12;
        let out = &mut self.head;
        out.put_i32(partition.index);
        out.put_i16(partition.error_code);
        out.put_i64(partition.high_watermark);
        out.put_i64(partition.last_stable_offset);
        if version >= 5 {
            out.put_i64(partition.log_start_offset);
        }
        match &partition.aborted {
            Some(aborted) => {
                put_count(out, aborted.len(), flexible);
                for &(producer_id, first_offset) in aborted {
                    out.put_i64(producer_id);
                    out.put_i64(first_offset);
                    put_no_tags(out, flexible);
                }
            }
            None if flexible => out.put_u8(0),
            None => out.put_i32(-1),
        }
        if version >= 11 {
            out.put_i32(partition.preferred_read_replica);
        }
        let length: usize = partition.records.iter().map(Bytes::len).sum();
        put_count(out, length, flexible);
        for records in partition.records {
            self.records(records);
        }
        if flexible {
            put_partition_tags(&mut self.head, partition.diverging_epoch, partition.current_leader);
        }
    }

    fn records(&mut self, records: Bytes) {
        if records.len() < COALESCE {
            self.head.put_slice(&records);
        } else {
            self.extra += records.len();
            self.spliced.push((self.head.len(), records));
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        let total = self.head.len() + self.extra;
        frame::finish(&mut self.head, total);
        let mut head = self.head.freeze();
        let mut chunks = Vec::with_capacity(self.spliced.len() * 2 + 1);
        let mut cut = 0;
        for (at, records) in self.spliced {
            if at > cut {
                chunks.push(head.split_to(at - cut));
                cut = at;
            }
            chunks.push(records);
        }
        if !head.is_empty() {
            chunks.push(head);
        }
        chunks
    }
}

fn put_partition_tags(out: &mut BytesMut, diverging_epoch: Option<(i32, i64)>, leader: Option<(i32, i32)>) {
    let count = usize::from(diverging_epoch.is_some()) + usize::from(leader.is_some());
    put_unsigned_varint(out, count as u32);
    if let Some((epoch, end_offset)) = diverging_epoch {
        put_tag(out, 0, 13);
        out.put_i32(epoch);
        out.put_i64(end_offset);
        put_no_tags(out, true);
    }
    if let Some((leader_id, leader_epoch)) = leader {
        put_tag(out, 1, 9);
        out.put_i32(leader_id);
        out.put_i32(leader_epoch);
        put_no_tags(out, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::versions::has_tagged_response_header;
    use bytes::Buf;
    use kafka_protocol::messages::{self, ResponseHeader};
    use kafka_protocol::protocol::Decodable;

    fn response() -> FetchResponse {
        let slice = |length: usize, fill: u8| Bytes::from(vec![fill; length]);
        let partition = |index, records| FetchPartition {
            index,
            high_watermark: 50 + i64::from(index),
            last_stable_offset: 40,
            log_start_offset: 3,
            preferred_read_replica: -1,
            records,
            ..Default::default()
        };
        let mut partitions = vec![
            partition(0, vec![]),
            partition(1, vec![slice(100, 1), slice(COALESCE, 2), slice(5000, 3), slice(1023, 4)]),
            partition(2, vec![slice(0, 9), slice(70_000, 5)]),
            partition(3, vec![]),
        ];
        partitions[2].aborted = Some(vec![(7, 8), (9, 10)]);
        partitions[2].preferred_read_replica = 4;
        partitions[3].error_code = 6;
        partitions[3].current_leader = Some((2, 8));
        partitions[3].diverging_epoch = Some((5, 77));
        partitions[3].aborted = Some(vec![]);
        let topics = vec![
            FetchTopic { name: "orders".into(), topic_id: Uuid::from_u128(5), partitions },
            FetchTopic::default(),
        ];
        FetchResponse {
            error_code: 0,
            throttle_ms: 9,
            session_id: 77,
            topics,
            endpoints: vec![(2, "h".into(), 9093, None)],
        }
    }

    fn joined(chunks: &[Bytes]) -> Bytes {
        chunks.concat().into()
    }

    #[test]
    fn response_is_read_back_by_the_codec_in_every_version() {
        for version in 4..=18 {
            let expected = response();
            let mut out = joined(&encode(response(), version, 8));
            assert_eq!(out.get_i32() as usize, out.len());
            let header = i16::from(has_tagged_response_header(FETCH, version));
            assert_eq!(ResponseHeader::decode(&mut out, header).unwrap().correlation_id, 8);
            let read = messages::FetchResponse::decode(&mut out, version).unwrap();
            assert!(out.is_empty(), "v{version}");
            let session = if version >= 7 { 77 } else { 0 };
            assert_eq!((read.throttle_time_ms, read.error_code, read.session_id), (9, 0, session));
            assert_eq!(read.responses.len(), 2);
            let topic = &read.responses[0];
            assert_eq!(&topic.topic.0[..], if version < 13 { "orders" } else { "" });
            assert_eq!(topic.topic_id, if version >= 13 { Uuid::from_u128(5) } else { Uuid::nil() });
            for (read, wrote) in topic.partitions.iter().zip(&expected.topics[0].partitions) {
                assert_eq!((read.partition_index, read.error_code), (wrote.index, wrote.error_code));
                assert_eq!((read.high_watermark, read.last_stable_offset), (wrote.high_watermark, 40));
                assert_eq!(read.log_start_offset, if version >= 5 { 3 } else { -1 });
                let replica = if version >= 11 { wrote.preferred_read_replica } else { -1 };
                assert_eq!(read.preferred_read_replica.0, replica);
                let aborted = read.aborted_transactions.as_ref();
                let aborted = aborted.map(|l| l.iter().map(|a| (a.producer_id.0, a.first_offset)).collect());
                assert_eq!(aborted, wrote.aborted);
                assert_eq!(read.records.as_ref(), Some(&joined(&wrote.records)), "never null");
                let tagged = version >= 12;
                let diverging = wrote.diverging_epoch.filter(|_| tagged).unwrap_or((-1, -1));
                assert_eq!((read.diverging_epoch.epoch, read.diverging_epoch.end_offset), diverging);
                let leader = wrote.current_leader.filter(|_| tagged).unwrap_or((-1, -1));
                assert_eq!((read.current_leader.leader_id.0, read.current_leader.leader_epoch), leader);
            }
            assert_eq!(read.node_endpoints.len(), usize::from(version >= 16));
        }
    }

    #[test]
    fn large_slices_are_not_copied_and_small_ones_are_joined() {
        let response = response();
        let large: Vec<*const u8> = response.topics[0]
            .partitions
            .iter()
            .flat_map(|p| &p.records)
            .filter(|r| r.len() >= COALESCE)
            .map(|r| r.as_ptr())
            .collect();
        let chunks = encode(response, 13, 1);
        let kept: Vec<*const u8> =
            chunks.iter().map(|c| c.as_ptr()).filter(|pointer| large.contains(pointer)).collect();
        assert_eq!(kept, large);
        assert_eq!(chunks.len(), 2 * large.len(), "two neighbours share no header bytes between them");
        assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
    }

    #[test]
    fn header_bytes_take_one_allocation() {
        let response = response();
        let room = capacity(&response);
        let large: usize = 70_000 + 5000 + COALESCE;
        for version in 4..=18 {
            let total: usize = encode(self::response(), version, 1).iter().map(Bytes::len).sum();
            assert!(total - large <= room, "v{version}");
        }
    }
}
