//! [`Membership`]: this client as a member of a consumer group, by the classic protocol: joins, assigns when it leads, commits, leaves.
//!
//! Eager rebalancing with Kafka's `range` assignor, which members of other kinds may have in their lists too (Java, librdkafka and kafka-python do by
//! default; kafkajs and franz-go do not). A dynamic member (KIP-394); no `group.instance.id`, no `group.protocol=consumer`. Needs brokers of Kafka 2.4 or later.
//! Not here: reading records (`consumer`), when to commit or to beat (the caller, who has one task for all of it).
//! Invariants: JoinGroup and SyncGroup, which wait for others, have a connection of their own, so that leaving never queues behind them; nothing is
//! committed but in the generation that was joined last.

use super::cluster::{Backoff, Client, Purpose, text, topic_name};
use super::error::{Error, Result};
use super::groups::assigned;
use crate::wire::frame::FrameError;
use crate::wire::primitives::Reader;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId as GroupName, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Encodable, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const UNKNOWN_TOPIC: i16 = 3;
/// Protocol type of consumers.
const CONSUMER: &str = "consumer";
/// Kafka's name of the assignor.
const RANGE: &str = "range";
/// Version of what members tell each other; 0 says all that `range` needs.
const MEMBERS_VERSION: i16 = 0;

/// How a member behaves.
#[derive(Clone, Copy, Debug)]
pub struct MemberOptions {
    /// `session.timeout.ms`: silent for this long it is dead.
    pub session_timeout: Duration,
    /// `max.poll.interval.ms`: how long others wait for it to join again.
    pub rebalance_timeout: Duration,
    /// How often a leader looks whether topics have got more partitions.
    pub look: Duration,
}

impl Default for MemberOptions {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { session_timeout: Duration::from_secs(45), rebalance_timeout: minute, look: minute }
    }
}

/// What the coordinator says of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has what it was assigned.
    Member,
    /// What it was assigned is no longer its own, or will not be: it has to join again.
    Outdated,
}

/// A place to commit: offset of the next record, and leader epoch of the last one (-1 if not known).
pub type Place = (i64, i32);

/// One member of one group that reads one topic.
pub struct Membership {
    client: Client,
    group: String,
    topic: String,
    options: MemberOptions,
    id: String,
    generation: i32,
    /// Partitions of every topic of the group as this member, which led it, assigned them; and when it looked last.
    assigned: Option<(BTreeMap<String, i32>, Instant)>,
}

impl Membership {
    /// A member that has not joined yet.
    pub fn new(client: Client, group: &str, topic: &str, options: MemberOptions) -> Self {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        Self { client, group, topic, options, id: String::new(), generation: -1, assigned: None }
    }

    /// The id that the coordinator gave it; empty before.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Joins, or joins again, and waits for its part: partitions of the topic, ascending. May take as long as the slowest other member.
    pub async fn join(&mut self) -> Result<Vec<i32>> {
        // Others may take their time within one try already.
        let mut backoff = Backoff::new(self.options.rebalance_timeout + self.client.options().call_timeout);
        let mut has_asked = false;
        loop {
            let error = match self.try_join().await {
                Ok(partitions) => return Ok(partitions),
                Err(error) => error,
            };
            match error.kafka_code() {
                Some(MEMBER_ID_REQUIRED) if !has_asked => {
                    has_asked = true;
                    continue;
                }
                Some(UNKNOWN_MEMBER_ID) => self.id.clear(),
                Some(ILLEGAL_GENERATION | REBALANCE_IN_PROGRESS | MEMBER_ID_REQUIRED) => {}
                _ if self.client.may_have_moved(&self.group, &error) => {}
                _ => return Err(error),
            }
            if !backoff.wait().await {
                return Err(error);
            }
        }
    }

    async fn try_join(&mut self) -> Result<Vec<i32>> {
        let answer = self.send_join().await?;
        if answer.error_code == MEMBER_ID_REQUIRED {
            self.id = answer.member_id.to_string();
        }
        self.check(answer.error_code)?;
        self.id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        self.assigned = None;
        let is_leader = answer.leader == answer.member_id && !answer.skip_assignment;
        let assignments = if is_leader { self.assign(&answer).await? } else { Vec::new() };
        let request = SyncGroupRequest::default()
            .with_group_id(self.name())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_protocol_type(Some(text(CONSUMER)))
            .with_protocol_name(Some(text(RANGE)))
            .with_assignments(assignments);
        let answer = self.ask(&request).await?;
        self.check(answer.error_code)?;
        if answer.assignment.is_empty() {
            return Ok(Vec::new());
        }
        let given = assigned(&answer.assignment)
            .map_err(|e| Error::Invalid(format!("assignment of group `{}`: {e}", self.group)))?;
        let mine =
            given.into_iter().filter(|(topic, _)| *topic == self.topic).map(|(_, partition)| partition);
        Ok(mine.collect::<BTreeSet<i32>>().into_iter().collect())
    }

    async fn send_join(&mut self) -> Result<JoinGroupResponse> {
        let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text(&self.topic)]);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(RANGE))
            .with_metadata(between_members(&subscription)?);
        let request = JoinGroupRequest::default()
            .with_group_id(self.name())
            .with_session_timeout_ms(self.options.session_timeout.as_millis() as i32)
            .with_rebalance_timeout_ms(self.options.rebalance_timeout.as_millis() as i32)
            .with_member_id(text(&self.id))
            .with_protocol_type(text(CONSUMER))
            .with_protocols(vec![protocol]);
        self.ask(&request).await
    }

    /// The leader's part: who gets what, over all topics that any member reads.
    async fn assign(&mut self, answer: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>> {
        let mut members = Vec::with_capacity(answer.members.len());
        for member in &answer.members {
            let topics = subscribed(&member.metadata).map_err(|e| {
                Error::Invalid(format!("subscription of member {}: {e}", member.member_id.as_str()))
            })?;
            let instance = member.group_instance_id.as_ref().map(|id| id.to_string());
            members.push(Subscriber { id: member.member_id.to_string(), instance, topics });
        }
        let topics: BTreeSet<String> =
            members.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        let counts = self.partition_counts(topics.into_iter().collect()).await?;
        let plan = range(members, &counts);
        self.assigned = Some((counts, Instant::now()));
        let mut assignments = Vec::with_capacity(plan.len());
        for (member, topics) in plan {
            let topics = topics.into_iter().map(|(topic, partitions)| {
                TopicPartition::default().with_topic(topic_name(&topic)).with_partitions(partitions)
            });
            let given = ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
            let row = SyncGroupRequestAssignment::default().with_member_id(text(&member));
            assignments.push(row.with_assignment(between_members(&given)?));
        }
        Ok(assignments)
    }

    /// Partitions of each topic; 0 of one that is not there.
    async fn partition_counts(&self, topics: Vec<String>) -> Result<BTreeMap<String, i32>> {
        match self.client.refresh(Some(&topics), false).await {
            Err(error) if error.kafka_code() == Some(UNKNOWN_TOPIC) => {}
            refreshed => refreshed?,
        }
        if self.client.partition_count(&self.topic) == 0 {
            // A broker that has not heard of it yet must not make this leader give nothing to anybody.
            return Err(Error::kafka(UNKNOWN_TOPIC, format!("topic `{}`", self.topic)));
        }
        Ok(topics.into_iter().map(|topic| (topic.clone(), self.client.partition_count(&topic))).collect())
    }

    /// Tells the coordinator that this member lives.
    pub async fn heartbeat(&mut self) -> Result<Standing> {
        if self.has_other_partitions().await {
            return Ok(Standing::Outdated);
        }
        let request = HeartbeatRequest::default()
            .with_group_id(self.name())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id));
        let told =
            self.client.call_coordinator(&self.group, &request, i16::MAX, |answer| answer.error_code).await;
        self.standing(told.map(|_| ()))
    }

    /// Whether a topic has got other partitions since this member, as leader, assigned them.
    async fn has_other_partitions(&mut self) -> bool {
        let look = self.options.look;
        let Some((counts, looked)) = self.assigned.as_mut().filter(|(_, looked)| looked.elapsed() >= look)
        else {
            return false;
        };
        *looked = Instant::now();
        let counts = counts.clone();
        let now = self.partition_counts(counts.keys().cloned().collect()).await;
        // Who cannot be asked now is asked again.
        now.is_ok_and(|now| now != counts)
    }

    /// Commits for the generation joined last; `Outdated` if it was not taken.
    pub async fn commit(&mut self, offsets: &BTreeMap<i32, Place>) -> Result<Standing> {
        let offsets =
            offsets.iter().map(|(partition, place)| ((self.topic.clone(), *partition), *place)).collect();
        let member = Some((self.id.as_str(), self.generation));
        let committed = self.client.commit_offsets(&self.group, member, &offsets).await;
        self.standing(committed)
    }

    fn standing(&mut self, answer: Result<()>) -> Result<Standing> {
        let Err(error) = answer else { return Ok(Standing::Member) };
        match error.kafka_code() {
            Some(ILLEGAL_GENERATION | REBALANCE_IN_PROGRESS) => Ok(Standing::Outdated),
            Some(UNKNOWN_MEMBER_ID) => {
                self.id.clear();
                Ok(Standing::Outdated)
            }
            _ => Err(error),
        }
    }

    /// What the group has committed in these partitions of the topic, where it has.
    pub async fn committed(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        let all = self.client.group_offsets(&self.group).await?;
        let mine = all.into_iter().filter(|((topic, p), _)| *topic == self.topic && partitions.contains(p));
        Ok(mine.map(|((_, partition), offset)| (partition, offset)).collect())
    }

    /// Leaves, so that others need not wait for the session to end. Asked again until `call_timeout`, of whoever is the coordinator by then; one that
    /// does not know the member (any more) is as good.
    pub async fn leave(self) -> Result<()> {
        if self.id.is_empty() {
            return Ok(());
        }
        let member = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default().with_group_id(self.name()).with_members(vec![member]);
        let left =
            self.client.call_coordinator(&self.group, &request, i16::MAX, |answer| answer.error_code).await;
        match left {
            Err(error) if error.kafka_code() == Some(UNKNOWN_MEMBER_ID) => Ok(()),
            left => left.map(|_| ()),
        }
    }

    /// Asks the coordinator, wherever it is by now; the answer waits for the group's other members.
    async fn ask<R: Request>(&self, request: &R) -> Result<R::Response> {
        let extra = self.options.rebalance_timeout;
        let asked = self.client.try_coordinator(&self.group, request, i16::MAX, Purpose::Group, extra).await;
        asked.map(|(_, answer)| answer)
    }

    fn check(&self, code: i16) -> Result<()> {
        Error::check(code, None, || format!("group `{}`", self.group))
    }

    fn name(&self) -> GroupName {
        GroupName(text(&self.group))
    }
}

/// A message of members to each other: its version, then itself.
fn between_members(message: &impl Encodable) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(MEMBERS_VERSION);
    message.encode(&mut bytes, MEMBERS_VERSION).map_err(|e| Error::Invalid(e.to_string()))?;
    Ok(bytes.freeze())
}

/// Topics in a `ConsumerProtocolSubscription` of any version.
fn subscribed(bytes: &[u8]) -> std::result::Result<BTreeSet<String>, FrameError> {
    let mut reader = Reader::new(bytes);
    if reader.int16()? < 0 {
        return Err(FrameError::Malformed("negative version"));
    }
    let mut topics = BTreeSet::new();
    for _ in 0..reader.count(false, 2)?.unwrap_or(0) {
        topics.insert(reader.string(false)?.ok_or(FrameError::Malformed("topic is null"))?.to_owned());
    }
    Ok(topics)
}

/// A member as its leader sees it.
#[derive(Clone, Debug)]
struct Subscriber {
    id: String,
    instance: Option<String>,
    topics: BTreeSet<String>,
}

impl Subscriber {
    /// Kafka's order: static members first, by their instance; the others by their id.
    fn rank(&self) -> (bool, &str) {
        self.instance.as_deref().map_or((true, &self.id), |instance| (false, instance))
    }
}

/// Partitions of each topic, for one member.
type Part = BTreeMap<String, Vec<i32>>;

/// Kafka's RangeAssignor without racks: of each topic, its readers in order get neighbouring partitions, the first ones one more where it does not
/// come out even.
fn range(mut members: Vec<Subscriber>, counts: &BTreeMap<String, i32>) -> BTreeMap<String, Part> {
    members.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let mut plan: BTreeMap<String, Part> =
        members.iter().map(|member| (member.id.clone(), Part::new())).collect();
    for (topic, count) in counts {
        let readers: Vec<&Subscriber> =
            members.iter().filter(|member| member.topics.contains(topic)).collect();
        let mut next = 0;
        for (place, reader) in readers.iter().enumerate() {
            let (each, rest) = (*count as usize / readers.len(), *count as usize % readers.len());
            let end = next + each + usize::from(place < rest);
            if end > next
                && let Some(part) = plan.get_mut(&reader.id)
            {
                part.insert(topic.clone(), (next as i32..end as i32).collect());
            }
            next = end;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, instance: Option<&str>, topics: &[&str]) -> Subscriber {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Subscriber { id: id.to_owned(), instance: instance.map(str::to_owned), topics }
    }

    fn counts(of: &[(&str, i32)]) -> BTreeMap<String, i32> {
        of.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect()
    }

    #[test]
    fn range_gives_neighbours_and_the_rest_to_the_first() {
        let members =
            vec![member("c", None, &["t"]), member("a", None, &["t", "u"]), member("b", None, &["t"])];
        let plan = range(members, &counts(&[("t", 7), ("u", 2), ("gone", 0)]));
        assert_eq!(plan["a"], Part::from([("t".into(), vec![0, 1, 2]), ("u".into(), vec![0, 1])]));
        assert_eq!(plan["b"], Part::from([("t".into(), vec![3, 4])]));
        assert_eq!(plan["c"], Part::from([("t".into(), vec![5, 6])]));
    }

    #[test]
    fn range_static_members_come_first_and_some_get_nothing() {
        let members =
            vec![member("a", None, &["t"]), member("z", Some("i2"), &["t"]), member("y", Some("i1"), &["t"])];
        let plan = range(members, &counts(&[("t", 2)]));
        assert_eq!(plan["y"], Part::from([("t".into(), vec![0])]));
        assert_eq!(plan["z"], Part::from([("t".into(), vec![1])]));
        assert_eq!(plan["a"], Part::new());
        assert!(range(Vec::new(), &counts(&[("t", 2)])).is_empty());
    }

    #[test]
    fn messages_of_members_are_read_back_and_anything_else_is_refused() {
        let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text("b"), text("a")]);
        let bytes = between_members(&subscription).unwrap();
        assert_eq!(subscribed(&bytes).unwrap(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(subscribed(&bytes[..6]).is_err() && subscribed(b"").is_err());
        assert!(subscribed(&[0, 0, 0x7f, 0xff, 0xff, 0xff]).is_err(), "a count beyond the bytes");
        let row = TopicPartition::default().with_topic(topic_name("t")).with_partitions(vec![1, 3]);
        let bytes =
            between_members(&ConsumerProtocolAssignment::default().with_assigned_partitions(vec![row]))
                .unwrap();
        assert_eq!(assigned(&bytes).unwrap(), [("t".to_owned(), 1), ("t".to_owned(), 3)]);
    }
}
