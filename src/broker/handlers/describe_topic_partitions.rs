//! DescribeTopicPartitions (75): topics and who holds their partitions, a page at a time (KIP-966).
//!
//! Not here: who leads (the node's soft state), brokers' addresses (DescribeCluster).
//! Invariants
//! - Topics stand in the order of their names, each once; a page ends after `response_partition_limit` partitions, never above
//!   `max.request.partition.size.limit`, and its cursor is where the next one begins.
//! - Creates nothing. A leader is named only where there is one: no client produces by this answer.
//! - There are no eligible leader replicas beside those in sync; the lists are empty and not null, for Kafka's Admin client fails on null.

use super::metadata::{Seen, TOPIC_OPERATIONS, partition_row, settled_states};
use super::{Call, is_valid_topic, text};
use crate::broker::api::PartitionState;
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::ctl::configs::broker_number;
use crate::ctl::image::{Image, Topic};
use crate::segment::GroupId;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

/// Most partitions of a page, and what is not set otherwise.
const LIMIT: (&str, i64) = ("max.request.partition.size.limit", 2_000);

/// One page.
#[derive(Debug, Default, PartialEq)]
struct Page<'a> {
    rows: Vec<Row<'a>>,
    /// Topic and partition that the next page begins with.
    next: Option<(String, usize)>,
}

#[derive(Debug, PartialEq)]
enum Row<'a> {
    /// These partitions of it.
    Topic(&'a Topic, Range<usize>),
    Refused(String, i16),
}

/// Answers a DescribeTopicPartitions request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DescribeTopicPartitionsRequest = call.decode()?;
    let image = call.node.image();
    let most = broker_number(LIMIT.0, None, &BTreeMap::new(), &call.config.defaults).unwrap_or(LIMIT.1);
    let asked = i64::from(request.response_partition_limit);
    let limit = usize::try_from(asked.min(most).max(1)).unwrap_or(1);
    let Page { rows, next } = page(&image, &request, limit);
    let states = settled_states(&call.node, &groups(&rows)).await;
    let next = next.map(|(topic, partition)| {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        Cursor::default().with_topic_name(TopicName(text(topic))).with_partition_index(partition)
    });
    let mut states = states.into_iter();
    let seen = Seen { image: &image, me: call.node.node_id(), listener: &call.client.listener };
    let topics = rows.iter().map(|row| topic_row(seen, row, &mut states)).collect();
    call.respond(&DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(next))
}

/// The topics and partitions that an answer of so many partitions has room for, by Kafka's rules: no topics named means all, and then
/// one that is not there any more is passed over; a cursor must be one of the topics that are named.
fn page<'a>(image: &'a Image, request: &DescribeTopicPartitionsRequest, limit: usize) -> Page<'a> {
    let (from, begin) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), usize::try_from(cursor.partition_index).ok()),
        None => ("", Some(0)),
    };
    let named: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    let is_stray = request.cursor.is_some() && !named.is_empty() && !named.contains(from);
    let Some(begin) = begin.filter(|_| !is_stray) else {
        let refused = |name: &&str| Row::Refused((*name).to_owned(), code::INVALID_REQUEST);
        return Page { rows: named.iter().map(refused).collect(), next: None };
    };
    // Of all topics only those of the page are looked at: they stand in the order of their names.
    let all = image
        .topics
        .range::<str, _>((Bound::Included(from), Bound::Unbounded))
        .map(|(name, _)| name.as_str());
    let names: Box<dyn Iterator<Item = &str>> =
        if named.is_empty() { Box::new(all) } else { Box::new(named.range(from..).copied()) };
    let mut page = Page::default();
    let mut room = limit;
    for name in names {
        if room == 0 {
            page.next = Some((name.to_owned(), 0));
            break;
        }
        let Some(topic) = image.topics.get(name) else {
            let is_name = is_valid_topic(name);
            let code = if is_name { code::UNKNOWN_TOPIC_OR_PARTITION } else { code::INVALID_TOPIC_EXCEPTION };
            page.rows.push(Row::Refused(name.to_owned(), code));
            continue;
        };
        let count = topic.partitions.len();
        let first = if name == from { begin.min(count) } else { 0 };
        let end = count.min(first.saturating_add(room));
        page.rows.push(Row::Topic(topic, first..end));
        if end < count {
            page.next = Some((name.to_owned(), end));
            break;
        }
        room -= end - first;
    }
    page
}

/// Groups of all partitions of a page, in its order.
fn groups(rows: &[Row]) -> Vec<GroupId> {
    let topics = rows.iter().filter_map(|row| match row {
        Row::Topic(topic, range) => Some(&topic.partitions[range.clone()]),
        Row::Refused(..) => None,
    });
    topics.flatten().map(|partition| partition.group).collect()
}

/// `states` stand in the order of `groups`.
fn topic_row(
    seen: Seen,
    row: &Row,
    states: &mut impl Iterator<Item = PartitionState>,
) -> DescribeTopicPartitionsResponseTopic {
    let (topic, range) = match row {
        Row::Topic(topic, range) => (topic, range.clone()),
        Row::Refused(name, code) => {
            return DescribeTopicPartitionsResponseTopic::default()
                .with_error_code(*code)
                .with_name(Some(TopicName(text(name.clone()))));
        }
    };
    let partition = |index: usize| {
        let state = states.next();
        let leader = state.as_ref().and_then(|state| state.leader.map(|leader| leader.node));
        let leader = leader.filter(|node| seen.is_reached(*node));
        let number = i32::try_from(index).unwrap_or(i32::MAX);
        let row = partition_row(seen, &topic.partitions[index], (number, state));
        DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(number)
            .with_leader_id(BrokerId(leader.map_or(-1, |node| node.0)))
            .with_leader_epoch(row.leader_epoch)
            .with_replica_nodes(row.replica_nodes)
            .with_isr_nodes(row.isr_nodes)
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
            .with_offline_replicas(row.offline_replicas)
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_is_internal(topic.internal)
        .with_partitions(range.map(partition).collect())
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::api::LeaderHint;
    use crate::broker::handlers::tests::image;
    use crate::segment::NodeId;
    use kafka_protocol::messages::describe_topic_partitions_request::{Cursor as From, TopicRequest};
    use kafka_protocol::protocol::StrBytes;

    fn request(
        topics: &[&'static str],
        cursor: Option<(&'static str, i32)>,
    ) -> DescribeTopicPartitionsRequest {
        let name = |name| TopicName(StrBytes::from_static_str(name));
        let topics = topics.iter().map(|topic| TopicRequest::default().with_name(name(topic)));
        let cursor = cursor.map(|(topic, partition)| {
            From::default().with_topic_name(name(topic)).with_partition_index(partition)
        });
        DescribeTopicPartitionsRequest::default().with_topics(topics.collect()).with_cursor(cursor)
    }

    /// Rows as text, and where the next page begins.
    fn shown(page: Page) -> (Vec<String>, Option<(String, usize)>) {
        let row = |row: &Row| match row {
            Row::Topic(topic, range) => format!("{} {range:?}", topic.name),
            Row::Refused(name, code) => format!("{name}: {code}"),
        };
        (page.rows.iter().map(row).collect(), page.next)
    }

    #[test]
    fn pages_of_every_size_cover_everything_once_in_order() {
        let image = image();
        for limit in 1..6 {
            let mut seen = Vec::new();
            let mut cursor: Option<(String, usize)> = None;
            loop {
                let mut request = request(&[], None);
                request.cursor = cursor.map(|(topic, partition)| {
                    let name = TopicName(StrBytes::from_string(topic));
                    From::default().with_topic_name(name).with_partition_index(partition as i32)
                });
                let page = page(&image, &request, limit);
                let of = |row: &Row| match row {
                    Row::Topic(topic, range) => range.clone().map(|p| (topic.name.clone(), p)).collect(),
                    Row::Refused(..) => Vec::new(),
                };
                let rows: Vec<(String, usize)> = page.rows.iter().flat_map(of).collect();
                assert!(rows.len() <= limit, "{rows:?}");
                seen.extend(rows);
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            let all = [("__internal", 0), ("orders", 0), ("orders", 1), ("orders", 2)];
            assert_eq!(seen, all.map(|(topic, partition)| (topic.to_owned(), partition)), "limit {limit}");
        }
    }

    #[test]
    fn topics_that_are_named_come_sorted_once_and_missing_ones_with_their_code() {
        let image = image();
        let (rows, next) = shown(page(&image, &request(&["zzz", "orders", "a b", "orders"], None), 9));
        assert_eq!(rows, ["a b: 17", "orders 0..3", "zzz: 3"]);
        assert_eq!(next, None);
        let (rows, next) = shown(page(&image, &request(&["__internal", "orders"], None), 1));
        assert_eq!((rows, next), (vec!["__internal 0..1".to_owned()], Some(("orders".to_owned(), 0))));
        let (rows, next) = shown(page(&image, &request(&["__internal", "orders"], Some(("orders", 1))), 1));
        assert_eq!((rows, next), (vec!["orders 1..2".to_owned()], Some(("orders".to_owned(), 2))));
    }

    #[test]
    fn cursor_to_nowhere_is_refused_or_passed_over() {
        let image = image();
        let of = |topics: &[&'static str], cursor| shown(page(&image, &request(topics, Some(cursor)), 9)).0;
        assert_eq!(of(&["orders"], ("nope", 0)), ["orders: 42"], "not one of those named");
        assert_eq!(of(&["orders"], ("orders", -1)), ["orders: 42"]);
        assert_eq!(of(&[], ("orders", -1)), [""; 0]);
        assert_eq!(of(&[], ("_gone", 7)), ["orders 0..3"], "a topic deleted between two pages");
        assert_eq!(of(&["orders"], ("orders", 99)), ["orders 3..3"]);
    }

    #[test]
    fn leader_is_named_only_where_there_is_one() {
        let image = image();
        let state = |node| PartitionState {
            leader: Some(LeaderHint { node: NodeId(node), epoch: 6 }),
            in_sync: vec![NodeId(node)],
            epoch: 6,
            ..PartitionState::default()
        };
        let nobody = PartitionState { epoch: 5, ..PartitionState::default() };
        let mut states = [state(2), state(3), nobody].into_iter();
        let seen = Seen { image: &image, me: NodeId(1), listener: crate::ctl::listeners::PLAINTEXT };
        let row = topic_row(seen, &Row::Topic(&image.topics["orders"], 0..3), &mut states);
        let leaders: Vec<i32> = row.partitions.iter().map(|row| row.leader_id.0).collect();
        assert_eq!(leaders, [2, -1, -1], "broker 3 is fenced");
        assert_eq!(row.partitions.iter().map(|row| row.leader_epoch).collect::<Vec<_>>(), [6, 6, 5]);
        assert_eq!(row.partitions[0].offline_replicas, [BrokerId(3)]);
        assert_eq!(row.partitions[0].eligible_leader_replicas, Some(Vec::new()), "never null");
    }
}
