//! ListOffsets (2): offsets by timestamp, and the special ones.
//!
//! Not here: finding them, and the ReadIndex round that makes "latest" true (the partition; safety.md F17).
//! Invariants: a special timestamp is honoured from the version on that defined it; no offset found is (-1, -1) without
//! an error.

use super::{Call, group_of, join_all};
use crate::broker::api::{ListedOffset, NodeHandle, OffsetSpec, PartitionError};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::ctl::image::Image;
use crate::segment::GroupId;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

/// One partition's question.
type Query = (GroupId, OffsetSpec, i32);

/// Answers a ListOffsets request; partitions are asked beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: ListOffsetsRequest = call.decode()?;
    let (mut topics, queries, places) = plan(&request, &call.node.image(), call.version);
    let ask = |(group, spec, epoch): Query| {
        let node: NodeHandle = call.node.clone();
        async move { node.list_offset(group, spec, epoch).await }
    };
    let results = join_all(queries.into_iter().map(ask).collect()).await;
    for ((topic, partition), result) in places.into_iter().zip(results) {
        let row: &mut ListOffsetsPartitionResponse = &mut topics[topic].partitions[partition];
        settle(row, result, call.version);
    }
    call.respond(&ListOffsetsResponse::default().with_topics(topics))
}

/// Rows with what is wrong already, what to ask, and the row of each question.
#[allow(clippy::type_complexity)]
fn plan(
    request: &ListOffsetsRequest,
    image: &Image,
    version: i16,
) -> (Vec<ListOffsetsTopicResponse>, Vec<Query>, Vec<(usize, usize)>) {
    let (mut queries, mut places) = (Vec::new(), Vec::new());
    let mut topics = Vec::with_capacity(request.topics.len());
    for (place, topic) in request.topics.iter().enumerate() {
        let mut rows = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let group = group_of(image, topic.name.as_str(), asked.partition_index)
                .ok_or(code::UNKNOWN_TOPIC_OR_PARTITION);
            let query = group
                .and_then(|group| Ok((group, spec(asked.timestamp, version)?, asked.current_leader_epoch)));
            let mut row = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            match query {
                Ok(query) => {
                    queries.push(query);
                    places.push((place, rows.len()));
                }
                Err(code) => row.error_code = code,
            }
            rows.push(row);
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(rows));
    }
    (topics, queries, places)
}

/// What a timestamp asks for, or why it cannot be asked in this version.
fn spec(timestamp: i64, version: i16) -> Result<OffsetSpec, i16> {
    let (spec, since) = match timestamp {
        -1 => (OffsetSpec::Latest, 0),
        -2 => (OffsetSpec::Earliest, 0),
        -3 => (OffsetSpec::MaxTimestamp, 7),
        -4 => (OffsetSpec::EarliestLocal, 8),
        -5 => (OffsetSpec::LatestTiered, 9),
        -6 => (OffsetSpec::EarliestPendingUpload, 11),
        0.. => (OffsetSpec::Timestamp(timestamp), 0),
        _ => return Err(code::UNSUPPORTED_VERSION),
    };
    if version >= since { Ok(spec) } else { Err(code::UNSUPPORTED_VERSION) }
}

fn settle(
    row: &mut ListOffsetsPartitionResponse,
    result: Result<ListedOffset, PartitionError>,
    version: i16,
) {
    match result {
        Ok(listed) => {
            row.offset = listed.offset;
            row.timestamp = listed.timestamp;
            // The codec refuses the field where the version has none.
            row.leader_epoch = if version >= 4 { listed.leader_epoch } else { -1 };
        }
        Err(failure) => row.error_code = error::list_offsets(&failure, version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::tests::image;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    #[test]
    fn special_timestamp_is_honoured_from_its_version_on() {
        let table = [
            (-1, 1, OffsetSpec::Latest),
            (-2, 1, OffsetSpec::Earliest),
            (-3, 7, OffsetSpec::MaxTimestamp),
            (-4, 8, OffsetSpec::EarliestLocal),
            (-5, 9, OffsetSpec::LatestTiered),
            (-6, 11, OffsetSpec::EarliestPendingUpload),
            (0, 1, OffsetSpec::Timestamp(0)),
        ];
        for (timestamp, since, expected) in table {
            assert_eq!(spec(timestamp, since), Ok(expected));
            if since > 1 {
                assert_eq!(spec(timestamp, since - 1), Err(code::UNSUPPORTED_VERSION));
            }
        }
        assert_eq!(spec(-7, 11), Err(code::UNSUPPORTED_VERSION));
    }

    #[test]
    fn request_with_unknown_partitions_keeps_its_rows_in_order() {
        let partition = |index, timestamp| {
            ListOffsetsPartition::default().with_partition_index(index).with_timestamp(timestamp)
        };
        let topic = |name: &'static str, partitions| {
            ListOffsetsTopic::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_partitions(partitions)
        };
        let request = ListOffsetsRequest::default().with_topics(vec![
            topic("nope", vec![partition(0, -1)]),
            topic("orders", vec![partition(9, -1), partition(1, -2), partition(0, -3), partition(-1, -1)]),
        ]);
        let (mut topics, queries, places) = plan(&request, &image(), 5);
        let codes: Vec<i16> = topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
        assert_eq!(codes, [3, 3, 0, 35, 3]);
        assert_eq!(queries, [(GroupId(11), OffsetSpec::Earliest, -1)]);
        assert_eq!(places, [(1, 1)]);
        settle(
            &mut topics[1].partitions[1],
            Ok(ListedOffset { offset: 7, timestamp: -1, leader_epoch: 4 }),
            3,
        );
        assert_eq!(topics[1].partitions[1].offset, 7);
        let response = ListOffsetsResponse::default().with_topics(topics);
        for version in 1..=3 {
            response.encode(&mut Vec::new(), version).unwrap();
        }
    }

    #[test]
    fn failed_lookup_names_no_offset() {
        for (version, expected) in [(4, 5), (5, 78)] {
            let mut row = ListOffsetsPartitionResponse::default();
            settle(&mut row, Err(PartitionError::NotEstablished), version);
            assert_eq!((row.error_code, row.offset, row.timestamp), (expected, -1, -1));
        }
    }
}
