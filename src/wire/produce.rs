//! Produce without copies: the request is taken apart in place, the response written by hand.
//!
//! Not the validation of batches (`batch`) and not what becomes of them. Called by the Produce handler for every request;
//! the body has passed `bounds` before, but nothing here relies on it.
//!
//! Invariants:
//! - Each partition's records are a disjoint piece of the frame's own buffer: mutable, and never copied.
//! - The pieces keep the whole frame alive; a frame is dropped when its last batch is.
use super::frame::{self, FrameError};
use super::primitives::{
    Reader, put_count, put_endpoints, put_no_tags, put_string, put_tag, put_unsigned_varint,
};
use super::versions::PRODUCE;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// A decoded Produce request (v3-13).
#[derive(Debug)]
pub struct ProduceRequest {
    /// Set by transactional producers.
    pub transactional_id: Option<String>,
    /// 0, 1 or -1; others are the handler's to refuse.
    pub acks: i16,
    /// How long the client is willing to wait.
    pub timeout_ms: i32,
    /// In the request's order.
    pub topics: Vec<ProduceTopic>,
}

/// One topic of it.
#[derive(Debug)]
pub struct ProduceTopic {
    /// Empty from v13 on.
    pub name: String,
    /// Zero before v13.
    pub topic_id: Uuid,
    /// In the request's order.
    pub partitions: Vec<ProducePartition>,
}

/// One partition of it.
#[derive(Debug)]
pub struct ProducePartition {
    /// Partition number.
    pub index: i32,
    /// The records: disjoint mutable piece of the frame's buffer.
    pub records: Option<BytesMut>,
}

/// Takes a request body apart.
///
/// # Errors
/// `Malformed` or `Count`, or `Unsupported` outside v3-13.
pub fn decode(body: BytesMut, version: i16) -> Result<ProduceRequest, FrameError> {
    if !super::versions::is_served(PRODUCE, version) {
        return Err(FrameError::Unsupported(PRODUCE, version));
    }
    let mut cursor = Cursor { rest: body, flexible: version >= 9 };
    let transactional_id = cursor.string()?;
    let (acks, timeout_ms) = cursor.read(|reader, _| Ok((reader.int16()?, reader.int32()?)))?;
    let topic_min = if version >= 13 { 18 } else { cursor.min(3, 6) };
    let count = cursor.count(topic_min)?;
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let (mut name, mut topic_id) = (String::new(), Uuid::nil());
        if version >= 13 {
            topic_id = cursor.read(|reader, _| Ok(Uuid::from_slice(reader.take(16)?).unwrap_or_default()))?;
        } else {
            name = cursor.string()?.ok_or(FrameError::Malformed("topic name is null"))?;
        }
        topics.push(ProduceTopic { name, topic_id, partitions: cursor.partitions()? });
        cursor.tags()?;
    }
    cursor.tags()?;
    Ok(ProduceRequest { transactional_id, acks, timeout_ms, topics })
}

/// Reads off the front of the body, which shrinks as it goes; records are split off instead of read.
struct Cursor {
    rest: BytesMut,
    flexible: bool,
}

impl Cursor {
    fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'_>, bool) -> Result<T, FrameError>,
    ) -> Result<T, FrameError> {
        let mut reader = Reader::new(&self.rest);
        let value = read(&mut reader, self.flexible)?;
        let used = self.rest.len() - reader.remaining();
        self.rest.advance(used);
        Ok(value)
    }

    fn string(&mut self) -> Result<Option<String>, FrameError> {
        self.read(|reader, flexible| Ok(reader.string(flexible)?.map(str::to_owned)))
    }

    fn count(&mut self, min_size: usize) -> Result<usize, FrameError> {
        let count = self.read(|reader, flexible| reader.count(flexible, min_size))?;
        count.ok_or(FrameError::Malformed("array is null"))
    }

    fn min(&self, flexible: usize, fixed: usize) -> usize {
        if self.flexible { flexible } else { fixed }
    }

    fn partitions(&mut self) -> Result<Vec<ProducePartition>, FrameError> {
        let count = self.count(self.min(6, 8))?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let (index, length) = self.read(|reader, flexible| {
                let index = reader.int32()?;
                let length = reader.bytes_length(flexible)?;
                if length.is_some_and(|length| length > reader.remaining()) {
                    return Err(FrameError::Malformed("records end too early"));
                }
                Ok((index, length))
            })?;
            let records = length.map(|length| self.rest.split_to(length));
            partitions.push(ProducePartition { index, records });
            self.tags()?;
        }
        Ok(partitions)
    }

    fn tags(&mut self) -> Result<(), FrameError> {
        if self.flexible { self.read(|reader, _| reader.skip_tags()) } else { Ok(()) }
    }
}

/// A Produce response.
#[derive(Debug, Default)]
pub struct ProduceResponse {
    /// In the request's order.
    pub topics: Vec<ProduceTopicResponse>,
    /// How long the client is held back.
    pub throttle_ms: i32,
    /// KIP-951 (v10+): (node id, host, port, rack) of leaders named in the partitions.
    pub endpoints: Vec<(i32, String, i32, Option<String>)>,
}

/// One topic of it.
#[derive(Debug, Default)]
pub struct ProduceTopicResponse {
    /// Written before v13.
    pub name: String,
    /// Written from v13 on.
    pub topic_id: Uuid,
    /// In the request's order.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// One partition of it.
#[derive(Debug, Default, Clone)]
pub struct ProducePartitionResponse {
    /// Partition number.
    pub index: i32,
    /// Kafka error code, 0 = none.
    pub error_code: i16,
    /// Offset of the first record, -1 on error.
    pub base_offset: i64,
    /// -1 unless the topic uses LogAppendTime.
    pub log_append_time: i64,
    /// First offset that is left (v5+).
    pub log_start_offset: i64,
    /// KIP-467 (v8+): (index in the batch, why) of records for which the whole batch is refused.
    pub record_errors: Vec<(i32, String)>,
    /// Why, for humans (v8+).
    pub error_message: Option<String>,
    /// KIP-951 (v10+): (leader id, epoch).
    pub current_leader: Option<(i32, i32)>,
}

/// Whole response frame with length prefix and header.
pub fn encode(response: &ProduceResponse, version: i16, correlation_id: i32) -> Bytes {
    let flexible = version >= 9;
    let partitions: usize = response.topics.iter().map(|topic| topic.partitions.len()).sum();
    let names: usize = response.topics.iter().map(|topic| topic.name.len() + 24).sum();
    let mut out = BytesMut::with_capacity(64 + names + partitions * 64 + response.endpoints.len() * 96);
    frame::begin(&mut out, PRODUCE, version, correlation_id);
    put_count(&mut out, response.topics.len(), flexible);
    for topic in &response.topics {
        if version >= 13 {
            out.put_slice(topic.topic_id.as_bytes());
        } else {
            put_string(&mut out, Some(&topic.name), flexible);
        }
        put_count(&mut out, topic.partitions.len(), flexible);
        for partition in &topic.partitions {
            put_partition(&mut out, partition, version);
        }
        put_no_tags(&mut out, flexible);
    }
    out.put_i32(response.throttle_ms);
    if version >= 10 && !response.endpoints.is_empty() {
        put_unsigned_varint(&mut out, 1);
        put_endpoints(&mut out, &response.endpoints);
    } else {
        put_no_tags(&mut out, flexible);
    }
    let total = out.len();
    frame::finish(&mut out, total);
    out.freeze()
}

fn put_partition(out: &mut BytesMut, partition: &ProducePartitionResponse, version: i16) {
    let flexible = version >= 9;
    out.put_i32(partition.index);
    out.put_i16(partition.error_code);
    out.put_i64(partition.base_offset);
    out.put_i64(partition.log_append_time);
    if version >= 5 {
        out.put_i64(partition.log_start_offset);
    }
    if version >= 8 {
        put_count(out, partition.record_errors.len(), flexible);
        for (index, why) in &partition.record_errors {
            out.put_i32(*index);
            put_string(out, Some(why), flexible);
            put_no_tags(out, flexible);
        }
        put_string(out, partition.error_message.as_deref(), flexible);
    }
    match partition.current_leader {
        Some((leader_id, leader_epoch)) if version >= 10 => {
            put_unsigned_varint(out, 1);
            put_tag(out, 0, 9);
            out.put_i32(leader_id);
            out.put_i32(leader_epoch);
            put_no_tags(out, true);
        }
        _ => put_no_tags(out, flexible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests as samples;
    use crate::wire::versions::has_tagged_response_header;
    use kafka_protocol::messages::{self, ResponseHeader};
    use kafka_protocol::protocol::Decodable;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn decoded_request_equals_the_one_of_the_codec_in_every_version() {
        let mut rng = StdRng::seed_from_u64(11);
        for version in 3..=13 {
            for _ in 0..60 {
                let body = samples::body(PRODUCE, version, &mut rng);
                let ours = decode(BytesMut::from(&body[..]), version).unwrap();
                let theirs = messages::ProduceRequest::decode(&mut body.clone(), version).unwrap();
                assert_eq!(
                    ours.transactional_id.as_deref(),
                    theirs.transactional_id.as_ref().map(|id| &id.0[..])
                );
                assert_eq!((ours.acks, ours.timeout_ms), (theirs.acks, theirs.timeout_ms));
                assert_eq!(ours.topics.len(), theirs.topic_data.len());
                for (ours, theirs) in ours.topics.iter().zip(&theirs.topic_data) {
                    assert_eq!((&ours.name[..], ours.topic_id), (&theirs.name.0[..], theirs.topic_id));
                    assert_eq!(ours.partitions.len(), theirs.partition_data.len());
                    for (ours, theirs) in ours.partitions.iter().zip(&theirs.partition_data) {
                        assert_eq!(ours.index, theirs.index);
                        assert_eq!(ours.records.as_deref(), theirs.records.as_deref());
                    }
                }
            }
        }
    }

    #[test]
    fn records_are_pieces_of_the_frame_and_can_be_patched_apart() {
        let mut rng = StdRng::seed_from_u64(12);
        let body = samples::body(PRODUCE, 9, &mut rng);
        let frame = BytesMut::from(&body[..]);
        let range = frame.as_ptr_range();
        let mut seen = 0;
        for topic in decode(frame, 9).unwrap().topics {
            for mut records in
                topic.partitions.into_iter().filter_map(|p| p.records).filter(|r| !r.is_empty())
            {
                assert!(range.contains(&records.as_ptr()), "copied");
                records[0] ^= 0xff;
                seen += 1;
            }
        }
        assert!(seen > 0);
    }

    #[test]
    fn request_cut_or_mutated_never_panics_and_agrees_with_the_walk() {
        let mut rng = StdRng::seed_from_u64(13);
        for version in 3..=13 {
            let body = samples::body(PRODUCE, version, &mut rng);
            for cut in 0..body.len() {
                assert!(decode(BytesMut::from(&body[..cut]), version).is_err());
            }
            for _ in 0..500 {
                let mut mutated = BytesMut::from(&samples::body(PRODUCE, version, &mut rng)[..]);
                samples::mutate(&mut mutated, &mut rng);
                let walked = crate::wire::bounds::check(PRODUCE, version, &mutated);
                let decoded = decode(mutated, version).map(drop);
                assert!(walked.is_err() || decoded.is_ok(), "v{version}: {decoded:?}");
            }
        }
    }

    fn response() -> ProduceResponse {
        let partition = |index| ProducePartitionResponse {
            index,
            error_code: if index == 1 { 6 } else { 0 },
            base_offset: 100 + i64::from(index),
            log_append_time: -1,
            log_start_offset: 7,
            record_errors: if index == 2 {
                vec![(4, "no key".to_owned()), (6, String::new())]
            } else {
                vec![]
            },
            error_message: (index == 1).then(|| "not the leader".to_owned()),
            current_leader: (index == 1).then_some((3, 12)),
        };
        ProduceResponse {
            topics: vec![
                ProduceTopicResponse {
                    name: "orders".into(),
                    topic_id: Uuid::from_u128(9),
                    partitions: (0..3).map(partition).collect(),
                },
                ProduceTopicResponse { name: String::new(), topic_id: Uuid::nil(), partitions: vec![] },
            ],
            throttle_ms: 5,
            endpoints: vec![(3, "broker-3".into(), 9094, Some("r1".into())), (4, "b4".into(), 1, None)],
        }
    }

    #[test]
    fn response_is_read_back_by_the_codec_in_every_version() {
        let response = response();
        for version in 3..=13 {
            let mut out = encode(&response, version, 42);
            assert_eq!(out.get_i32() as usize, out.len());
            let header = i16::from(has_tagged_response_header(PRODUCE, version));
            assert_eq!(ResponseHeader::decode(&mut out, header).unwrap().correlation_id, 42);
            let read = messages::ProduceResponse::decode(&mut out, version).unwrap();
            assert!(out.is_empty(), "v{version}");
            assert_eq!(read.throttle_time_ms, 5);
            assert_eq!(read.responses.len(), 2);
            let (topic, expected) = (&read.responses[0], &response.topics[0]);
            assert_eq!(&topic.name.0[..], if version < 13 { "orders" } else { "" });
            assert_eq!(topic.topic_id, if version >= 13 { expected.topic_id } else { Uuid::nil() });
            for (read, wrote) in topic.partition_responses.iter().zip(&expected.partitions) {
                assert_eq!((read.index, read.error_code), (wrote.index, wrote.error_code));
                assert_eq!((read.base_offset, read.log_append_time_ms), (wrote.base_offset, -1));
                assert_eq!(read.log_start_offset, if version >= 5 { 7 } else { -1 });
                let message = wrote.error_message.as_deref().filter(|_| version >= 8);
                assert_eq!(read.error_message.as_deref(), message);
                let errors = read.record_errors.iter();
                let errors: Vec<_> = errors
                    .map(|e| {
                        (e.batch_index, e.batch_index_error_message.as_deref().unwrap_or_default().to_owned())
                    })
                    .collect();
                assert_eq!(errors, if version >= 8 { wrote.record_errors.clone() } else { vec![] });
                let leader = wrote.current_leader.filter(|_| version >= 10).unwrap_or((-1, -1));
                assert_eq!((read.current_leader.leader_id.0, read.current_leader.leader_epoch), leader);
            }
            let endpoints: Vec<_> = read
                .node_endpoints
                .iter()
                .map(|e| (e.node_id.0, e.host.to_string(), e.port, e.rack.as_ref().map(|r| r.to_string())))
                .collect();
            assert_eq!(endpoints, if version >= 10 { response.endpoints.clone() } else { vec![] });
        }
    }
}
