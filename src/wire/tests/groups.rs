//! Random bodies of the consumer groups' requests, as in `tests`.

use super::{maybe, several, text, topic};
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use rand::Rng;
use rand::rngs::StdRng;

fn group(rng: &mut StdRng) -> GroupId {
    GroupId(text(rng))
}

fn instance(is_there: bool, rng: &mut StdRng) -> Option<StrBytes> {
    if is_there { maybe(rng, text) } else { None }
}

fn blob(rng: &mut StdRng) -> Bytes {
    let length = rng.random_range(0..40);
    (0..length).map(|_| rng.random::<u8>()).collect()
}

fn partitions(rng: &mut StdRng) -> Vec<i32> {
    several(rng, |rng| rng.random())
}

pub(super) fn commit(version: i16, rng: &mut StdRng) -> OffsetCommitRequest {
    let partition = |rng: &mut StdRng| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(rng.random())
            .with_committed_offset(rng.random())
            .with_committed_leader_epoch(if version >= 6 { rng.random() } else { -1 })
            .with_committed_metadata(maybe(rng, text))
    };
    let topics = several(rng, |rng| {
        OffsetCommitRequestTopic::default().with_name(topic(rng)).with_partitions(several(rng, partition))
    });
    OffsetCommitRequest::default()
        .with_group_id(group(rng))
        .with_generation_id_or_member_epoch(rng.random())
        .with_member_id(text(rng))
        .with_group_instance_id(instance(version >= 7, rng))
        .with_retention_time_ms(if version <= 4 { rng.random() } else { -1 })
        .with_topics(topics)
}

pub(super) fn fetch(version: i16, rng: &mut StdRng) -> OffsetFetchRequest {
    let request = OffsetFetchRequest::default().with_require_stable(version >= 7 && rng.random());
    if version < 8 {
        let topics = several(rng, |rng| {
            OffsetFetchRequestTopic::default().with_name(topic(rng)).with_partition_indexes(partitions(rng))
        });
        let topics = if version >= 2 { maybe(rng, |_| topics) } else { Some(topics) };
        return request.with_group_id(group(rng)).with_topics(topics);
    }
    let of_group = |rng: &mut StdRng| {
        let topics = several(rng, |rng| {
            OffsetFetchRequestTopics::default().with_name(topic(rng)).with_partition_indexes(partitions(rng))
        });
        let row = OffsetFetchRequestGroup::default().with_group_id(group(rng));
        let row = row.with_topics(maybe(rng, |_| topics)).with_member_id(instance(version >= 9, rng));
        row.with_member_epoch(if version >= 9 { rng.random() } else { -1 })
    };
    request.with_groups(several(rng, of_group)).with_topics(Some(Vec::new()))
}

pub(super) fn find(version: i16, rng: &mut StdRng) -> FindCoordinatorRequest {
    let request = FindCoordinatorRequest::default();
    let request = if version >= 1 { request.with_key_type(rng.random()) } else { request };
    if version >= 4 { request.with_coordinator_keys(several(rng, text)) } else { request.with_key(text(rng)) }
}

pub(super) fn join(version: i16, rng: &mut StdRng) -> JoinGroupRequest {
    let protocol =
        |rng: &mut StdRng| JoinGroupRequestProtocol::default().with_name(text(rng)).with_metadata(blob(rng));
    JoinGroupRequest::default()
        .with_group_id(group(rng))
        .with_session_timeout_ms(rng.random())
        .with_rebalance_timeout_ms(if version >= 1 { rng.random() } else { -1 })
        .with_member_id(text(rng))
        .with_group_instance_id(instance(version >= 5, rng))
        .with_protocol_type(text(rng))
        .with_protocols(several(rng, protocol))
        .with_reason(instance(version >= 8, rng))
}

pub(super) fn heartbeat(version: i16, rng: &mut StdRng) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group(rng))
        .with_generation_id(rng.random())
        .with_member_id(text(rng))
        .with_group_instance_id(instance(version >= 3, rng))
}

pub(super) fn leave(version: i16, rng: &mut StdRng) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group(rng));
    if version < 3 {
        return request.with_member_id(text(rng));
    }
    let member = |rng: &mut StdRng| {
        MemberIdentity::default()
            .with_member_id(text(rng))
            .with_group_instance_id(maybe(rng, text))
            .with_reason(instance(version >= 5, rng))
    };
    request.with_members(several(rng, member))
}

pub(super) fn sync(version: i16, rng: &mut StdRng) -> SyncGroupRequest {
    let share = |rng: &mut StdRng| {
        SyncGroupRequestAssignment::default().with_member_id(text(rng)).with_assignment(blob(rng))
    };
    SyncGroupRequest::default()
        .with_group_id(group(rng))
        .with_generation_id(rng.random())
        .with_member_id(text(rng))
        .with_group_instance_id(instance(version >= 3, rng))
        .with_protocol_type(instance(version >= 5, rng))
        .with_protocol_name(instance(version >= 5, rng))
        .with_assignments(several(rng, share))
}

pub(super) fn describe(version: i16, rng: &mut StdRng) -> DescribeGroupsRequest {
    DescribeGroupsRequest::default()
        .with_groups(several(rng, group))
        .with_include_authorized_operations(version >= 3 && rng.random())
}

pub(super) fn list(version: i16, rng: &mut StdRng) -> ListGroupsRequest {
    let request = ListGroupsRequest::default();
    let request = if version >= 4 { request.with_states_filter(several(rng, text)) } else { request };
    if version >= 5 { request.with_types_filter(several(rng, text)) } else { request }
}

pub(super) fn delete(rng: &mut StdRng) -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(several(rng, group))
}

pub(super) fn delete_offsets(rng: &mut StdRng) -> OffsetDeleteRequest {
    let partition =
        |rng: &mut StdRng| OffsetDeleteRequestPartition::default().with_partition_index(rng.random());
    let topics = several(rng, |rng| {
        OffsetDeleteRequestTopic::default().with_name(topic(rng)).with_partitions(several(rng, partition))
    });
    OffsetDeleteRequest::default().with_group_id(group(rng)).with_topics(topics)
}
