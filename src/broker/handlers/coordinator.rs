//! What the handlers of consumer groups share: where a group's coordinator is, and what they ask of it.
//!
//! Not an API of its own. Not here: what groups do (`broker::groups`). Called by the handlers beside it, and by `http` for /metrics.

use super::{join_all, text};
use crate::broker::api::NodeHandle;
use crate::broker::groups::{self, Ask, Caller, GroupError, OffsetKey, Reply, TOPIC};
use crate::ctl::image::Image;
use crate::segment::GroupId;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// The partition of `__consumer_offsets` that the group belongs to; none while there is no such topic.
pub(super) fn partition_of(image: &Image, group: &str) -> Option<GroupId> {
    let partitions = &image.topics.get(TOPIC)?.partitions;
    Some(partitions.get(groups::partition_of(group, partitions.len()))?.group)
}

/// How long a coordinator may load before its clients are told so. One that is new has nothing to read and takes some milliseconds, while
/// a client that is told comes back after a whole pause, if not as after a crash (kafkajs).
const LOADING_PATIENCE: Duration = Duration::from_millis(500);
const LOADING_POLL: Duration = Duration::from_millis(10);

/// Asks the group's coordinator, if that is this node; waits a moment if it has only just become it.
pub(super) async fn ask(node: &NodeHandle, group: &str, ask: Ask) -> Reply {
    once_loaded(LOADING_PATIENCE, || ask_at_once(node, group, ask.clone())).await
}

/// The first reply that is not "loading", or that one when patience ends. Asks less and less often: there may be many who wait.
async fn once_loaded<F: Future<Output = Reply>>(patience: Duration, attempt: impl Fn() -> F) -> Reply {
    let started = Instant::now();
    let mut pause = LOADING_POLL;
    loop {
        let reply = attempt().await;
        if started.elapsed() >= patience || !matches!(reply, Reply::Refused(GroupError::Loading)) {
            return reply;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(patience / 5);
    }
}

/// Asks the group's coordinator, if that is this node.
pub(in crate::broker) async fn ask_at_once(node: &NodeHandle, group: &str, ask: Ask) -> Reply {
    match partition_of(&node.image(), group) {
        Some(partition) => node.group(partition, group.to_owned(), ask).await,
        None => Reply::Refused(GroupError::NotAvailable),
    }
}

/// Groups asked beside each other.
const ASKED_AT_ONCE: usize = 64;

/// Asks several groups' coordinators; answers in the order of the groups. None for a group that was named before: a small request must
/// not be answered with the same group again and again.
pub(super) async fn ask_each(node: &NodeHandle, questions: Vec<(String, Ask)>) -> Vec<Option<Reply>> {
    let mut named = HashSet::with_capacity(questions.len());
    let is_first: Vec<bool> = questions.iter().map(|(group, _)| named.insert(group.clone())).collect();
    let begun = Instant::now();
    let mut asking =
        questions.into_iter().zip(&is_first).filter(|(_, first)| **first).map(|(question, _)| {
            let node = node.clone();
            // One wait for all of them: thousands of groups of a coordinator that takes long are asked in many turns.
            let left = move || LOADING_PATIENCE.saturating_sub(begun.elapsed());
            async move { once_loaded(left(), || ask_at_once(&node, &question.0, question.1.clone())).await }
        });
    let mut replies = Vec::with_capacity(named.len());
    loop {
        let some: Vec<_> = asking.by_ref().take(ASKED_AT_ONCE).collect();
        if some.is_empty() {
            break;
        }
        replies.extend(join_all(some).await);
    }
    let mut replies = replies.into_iter();
    is_first.into_iter().map(|first| if first { replies.next() } else { None }).collect()
}

/// A member as a request names it.
pub(super) fn caller(member: &StrBytes, instance: &Option<StrBytes>, generation: i32) -> Caller {
    Caller { member: owned(member), instance: instance.as_ref().map(owned), generation }
}

/// A copy: what is kept must not hold on to the frame it came in.
pub(super) fn owned(text: &StrBytes) -> String {
    text.as_str().to_owned()
}

/// Likewise, of bytes.
pub(super) fn copied(bytes: &bytes::Bytes) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

/// Whether there is such a partition.
pub(super) fn is_partition(image: &Image, (topic, partition): &OffsetKey) -> bool {
    super::group_of(image, topic, *partition).is_some()
}

/// Rows of partitions, by topic, topics in the order in which they come first.
pub(super) fn by_topic<T>(rows: impl IntoIterator<Item = (OffsetKey, T)>) -> Vec<(TopicName, Vec<(i32, T)>)> {
    let mut topics: Vec<(TopicName, Vec<(i32, T)>)> = Vec::new();
    for ((topic, partition), row) in rows {
        match topics.last_mut().filter(|(name, _)| name.as_str() == topic) {
            Some((_, rows)) => rows.push((partition, row)),
            None => topics.push((TopicName(text(topic)), vec![(partition, row)])),
        }
    }
    topics
}

/// An answer that the question cannot have: a defect, answered as if the coordinator had gone.
pub(super) fn unexpected(reply: Reply) -> GroupError {
    match reply {
        Reply::Refused(error) => error,
        other => {
            tracing::error!(?other, "a coordinator's answer does not fit its question");
            GroupError::NotAvailable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Refused as loading until asked so many times.
    async fn asked_until(loads: usize, patience: Duration) -> (Reply, usize) {
        let asked = Cell::new(0);
        let attempt = || async {
            asked.set(asked.get() + 1);
            if asked.get() <= loads { Reply::Refused(GroupError::Loading) } else { Reply::Done }
        };
        let reply = once_loaded(patience, attempt).await;
        (reply, asked.get())
    }

    #[tokio::test]
    async fn coordinator_that_loads_is_asked_again_while_patience_lasts() {
        let long = Duration::from_secs(600);
        assert_eq!(asked_until(0, long).await, (Reply::Done, 1));
        assert_eq!(asked_until(3, long).await, (Reply::Done, 4));
        let (reply, asked) = asked_until(usize::MAX, Duration::from_millis(600)).await;
        assert_eq!(reply, Reply::Refused(GroupError::Loading));
        assert!((2..=16).contains(&asked), "asked {asked} times");
        assert_eq!(asked_until(1, Duration::ZERO).await, (Reply::Refused(GroupError::Loading), 1));
    }
}
