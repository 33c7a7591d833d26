//! Consumer groups as an operator sees them: listed, described, moved to other offsets, deleted.
//!
//! Not here: being a member (`member`). Requests go to the group's coordinator, which is looked up again when it has
//! moved, and repeated: a deletion whose answer was lost may then say GROUP_ID_NOT_FOUND of what it deleted itself.

use super::cluster::{Backoff, Broker, Client, Purpose, text, topic_name};
use super::error::{Error, Result};
use super::member::Place;
use crate::wire::frame::FrameError;
use crate::wire::primitives::Reader;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId as GroupName,
    ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::Request;
use std::collections::BTreeMap;
use std::time::Duration;

/// Beyond these versions requests name several groups, or topics by id.
const FIND_CAP: i16 = 3;
const FETCH_CAP: i16 = 7;
const COMMIT_CAP: i16 = 9;
pub(super) const NOT_COORDINATOR: i16 = 16;
/// The metadata lost sight of the broker between two questions.
pub(super) const BROKER_NOT_AVAILABLE: i16 = 8;
const GROUP_ID_NOT_FOUND: i16 = 69;

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// `Stable`, `Empty`, ...
    pub state: String,
    /// `consumer` of consumers.
    pub protocol_type: String,
    /// The broker that coordinates it.
    pub coordinator: i32,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The id the coordinator gave it.
    pub id: String,
    /// `group.instance.id`, if it is a static member.
    pub instance: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// What it was assigned, if that can be read (it is the clients' own business).
    pub assigned: Vec<(String, i32)>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// `Stable`, `Empty`, ...
    pub state: String,
    /// `consumer` of consumers.
    pub protocol_type: String,
    /// How its members assign, `range` for one.
    pub protocol: String,
    /// The broker that coordinates it.
    pub coordinator: i32,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

impl Client {
    /// Every group of the cluster: each live broker is asked for those it coordinates.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let mut backoff = Backoff::new(self.options().call_timeout);
        loop {
            match self.try_list_groups().await {
                Err(error) if error.is_retriable() && backoff.wait().await => {}
                listed => return listed,
            }
        }
    }

    async fn try_list_groups(&self) -> Result<Vec<GroupListing>> {
        self.refresh(Some(&[]), false).await?;
        let mut groups = Vec::new();
        for coordinator in self.metadata().brokers.keys().copied() {
            let connection = self.broker_connection(coordinator, Purpose::General).await?;
            let answer = connection.call(&ListGroupsRequest::default()).await?;
            Error::check(answer.error_code, None, || format!("groups of broker {coordinator}"))?;
            groups.extend(answer.groups.into_iter().map(|row| GroupListing {
                group: row.group_id.to_string(),
                state: row.group_state.to_string(),
                protocol_type: row.protocol_type.to_string(),
                coordinator,
            }));
        }
        groups.sort();
        Ok(groups)
    }

    pub(super) async fn coordinator(&self, group: &str) -> Result<i32> {
        let request = FindCoordinatorRequest::default().with_key(text(group)).with_key_type(0);
        let answer = self.call_any(&request, FIND_CAP).await?;
        let message = answer.error_message.as_deref();
        Error::check(answer.error_code, message, || format!("coordinator of group `{group}`"))?;
        let id = answer.node_id.0;
        self.add_broker(Broker { id, host: answer.host.to_string(), port: answer.port, rack: None });
        self.remember_coordinator(group, id);
        Ok(id)
    }

    /// Asks the coordinator, and the next one where that has moved; `code` reads the error code of the answer.
    pub(super) async fn call_coordinator<R: Request>(
        &self,
        group: &str,
        request: &R,
        cap: i16,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<(i32, R::Response)> {
        let mut backoff = Backoff::new(self.options().call_timeout);
        loop {
            let answered = self.try_coordinator(group, request, cap, Purpose::General, Duration::ZERO).await;
            let answered = answered.and_then(|(id, answer)| {
                Error::check(code(&answer), None, || format!("group `{group}`")).map(|()| (id, answer))
            });
            match answered {
                Err(error) if self.may_have_moved(group, &error) && backoff.wait().await => {}
                answered => return answered,
            }
        }
    }

    /// Whether to ask again after this error, and then whoever is the coordinator by now. One that loads, or is gone from the metadata, may be
    /// another one as well.
    pub(super) fn may_have_moved(&self, group: &str, error: &Error) -> bool {
        let moved = matches!(error.kafka_code(), Some(NOT_COORDINATOR | BROKER_NOT_AVAILABLE));
        if moved || error.is_retriable() {
            self.forget_coordinator(group);
        }
        moved || error.is_retriable()
    }

    /// Asks the coordinator, once; looks it up where it is not known. Whoever gets an answer that says it has moved, or none, is to say so
    /// ([`Client::may_have_moved`]). `extra`: how much longer than usual the answer may take.
    pub(super) async fn try_coordinator<R: Request>(
        &self,
        group: &str,
        request: &R,
        cap: i16,
        purpose: Purpose,
        extra: Duration,
    ) -> Result<(i32, R::Response)> {
        let id = match self.known_coordinator(group) {
            Some(id) => id,
            None => self.coordinator(group).await?,
        };
        let connection = self.broker_connection(id, purpose).await?;
        let version = connection.version::<R>(cap)?;
        Ok((id, connection.call_within(request, version, extra).await?))
    }

    /// State and members of a group.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND if there is no such group.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupName(text(group))]);
        let code = |answer: &kafka_protocol::messages::DescribeGroupsResponse| {
            answer.groups.first().map_or(0, |group| group.error_code)
        };
        let (coordinator, mut answer) = self.call_coordinator(group, &request, i16::MAX, code).await?;
        let row = answer.groups.pop().ok_or_else(|| Error::Invalid("empty DescribeGroups answer".into()))?;
        // Versions before 6 say it by the state alone.
        if row.group_state.as_str() == "Dead" {
            return Err(Error::kafka(GROUP_ID_NOT_FOUND, format!("group `{group}`")));
        }
        let members = row.members.into_iter().map(|member| GroupMember {
            id: member.member_id.to_string(),
            instance: member.group_instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assigned: assigned(&member.member_assignment).unwrap_or_default(),
        });
        Ok(GroupDescription {
            state: row.group_state.to_string(),
            protocol_type: row.protocol_type.to_string(),
            protocol: row.protocol_data.to_string(),
            coordinator,
            members: members.collect(),
        })
    }

    /// What a group has committed, by topic and partition.
    pub async fn group_offsets(&self, group: &str) -> Result<BTreeMap<(String, i32), i64>> {
        let request = OffsetFetchRequest::default().with_group_id(GroupName(text(group))).with_topics(None);
        let (_, answer) = self.call_coordinator(group, &request, FETCH_CAP, |a| a.error_code).await?;
        let mut offsets = BTreeMap::new();
        for topic in answer.topics {
            for row in topic.partitions {
                let what = || {
                    format!("offset of group `{group}` in {}/{}", topic.name.as_str(), row.partition_index)
                };
                Error::check(row.error_code, None, what)?;
                if row.committed_offset >= 0 {
                    offsets.insert((topic.name.to_string(), row.partition_index), row.committed_offset);
                }
            }
        }
        Ok(offsets)
    }

    /// Commits offsets for a group without members.
    pub async fn commit_group_offsets(
        &self,
        group: &str,
        offsets: &BTreeMap<(String, i32), i64>,
    ) -> Result<()> {
        let offsets = offsets.iter().map(|(key, offset)| (key.clone(), (*offset, -1))).collect();
        self.commit_offsets(group, None, &offsets).await
    }

    /// Commits offsets with their leader epochs, as this member in this generation, or for a group without members.
    pub(super) async fn commit_offsets(
        &self,
        group: &str,
        member: Option<(&str, i32)>,
        offsets: &BTreeMap<(String, i32), Place>,
    ) -> Result<()> {
        let (id, generation) = member.unwrap_or(("", -1));
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), (offset, epoch)) in offsets {
            let row = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(*epoch)
                .with_committed_metadata(Some(text("")));
            topics.entry(topic).or_default().push(row);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupName(text(group)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(id))
            .with_topics(topics.collect());
        let first = |answer: &kafka_protocol::messages::OffsetCommitResponse| {
            let mut rows = answer.topics.iter().flat_map(|topic| &topic.partitions);
            rows.find(|row| row.error_code != 0).map_or(0, |row| row.error_code)
        };
        self.call_coordinator(group, &request, COMMIT_CAP, first).await.map(|_| ())
    }

    /// Deletes a group without members, and what it has committed.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupName(text(group))]);
        let first = |answer: &kafka_protocol::messages::DeleteGroupsResponse| {
            answer.results.first().map_or(0, |row| row.error_code)
        };
        self.call_coordinator(group, &request, i16::MAX, first).await.map(|_| ())
    }
}

/// The partitions in a `ConsumerProtocolAssignment` of any version.
pub(super) fn assigned(bytes: &[u8]) -> std::result::Result<Vec<(String, i32)>, FrameError> {
    let mut reader = Reader::new(bytes);
    if reader.int16()? < 0 {
        return Err(FrameError::Malformed("negative version"));
    }
    let mut assigned = Vec::new();
    // A name's length and a count.
    for _ in 0..reader.count(false, 6)?.unwrap_or(0) {
        let topic = reader.string(false)?.ok_or(FrameError::Malformed("topic is null"))?;
        for _ in 0..reader.count(false, 4)?.unwrap_or(0) {
            assigned.push((topic.to_owned(), reader.int32()?));
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ConsumerProtocolAssignment;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn assignment_of_every_version_is_read_and_anything_else_is_none() {
        let topic = |name, partitions: &[i32]| {
            TopicPartition::default().with_topic(topic_name(name)).with_partitions(partitions.to_vec())
        };
        let assignment = ConsumerProtocolAssignment::default()
            .with_assigned_partitions(vec![topic("a", &[0, 2]), topic("b", &[1])]);
        for version in 0..=3i16 {
            let mut bytes = version.to_be_bytes().to_vec();
            assignment.encode(&mut bytes, version).unwrap();
            let all = vec![("a".to_owned(), 0), ("a".to_owned(), 2), ("b".to_owned(), 1)];
            assert_eq!(assigned(&bytes).unwrap(), all);
            assert!(assigned(&bytes[..bytes.len() - 6]).is_err());
        }
        assert!(assigned(b"").is_err() && assigned(b"connect").is_err());
        assert!(assigned(&[0, 0, 0x7f, 0xff, 0xff, 0xff]).is_err(), "a count beyond the bytes");
    }
}
