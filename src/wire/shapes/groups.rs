//! The shapes of the consumer groups' requests.
//!
//! Part of the table in `shapes`, and of nothing else. Rules as there.

use super::{ALWAYS, BOOL, Field, INT8, INT32, INT64, Kind, NEVER, STR, Shape, all, from, shape, within};
use kafka_protocol::messages as m;
use std::mem::size_of;

/// A group instance id, in versions that have one.
const fn instance(since: i16) -> Field {
    from(since, Kind::Str(ALWAYS))
}

// OffsetCommit: group, generation, member, instance (7+), retention (2-4), topics {name, partitions {index, offset, epoch (6+), metadata}}.
pub(super) static OFFSET_COMMIT: Shape = shape(
    &[
        all(STR),
        all(INT32),
        all(STR),
        instance(7),
        within(2, 4, INT64),
        all(Kind::Structs(&COMMIT_TOPIC, NEVER)),
    ],
    size_of::<m::offset_commit_request::OffsetCommitRequest>(),
);
static COMMIT_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&COMMIT_PARTITION, NEVER))],
    size_of::<m::offset_commit_request::OffsetCommitRequestTopic>(),
);
static COMMIT_PARTITION: Shape = shape(
    &[all(INT32), all(INT64), from(6, INT32), all(Kind::Str(ALWAYS))],
    size_of::<m::offset_commit_request::OffsetCommitRequestPartition>(),
);

// OffsetFetch: group and topics {name, partitions}, null from 2 for all (-7); groups {group, member and epoch (9+), topics} (8+), stable (7+).
pub(super) static OFFSET_FETCH: Shape = shape(
    &[
        within(0, 7, STR),
        within(0, 7, Kind::Structs(&FETCH_TOPIC, 2)),
        from(8, Kind::Structs(&FETCH_GROUP, NEVER)),
        from(7, BOOL),
    ],
    size_of::<m::offset_fetch_request::OffsetFetchRequest>(),
);
static FETCH_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Plain(4, NEVER))],
    size_of::<m::offset_fetch_request::OffsetFetchRequestTopic>(),
);
static FETCH_GROUP: Shape = shape(
    &[all(STR), from(9, Kind::Str(ALWAYS)), from(9, INT32), all(Kind::Structs(&FETCH_TOPICS, ALWAYS))],
    size_of::<m::offset_fetch_request::OffsetFetchRequestGroup>(),
);
static FETCH_TOPICS: Shape = shape(
    &[all(STR), all(Kind::Plain(4, NEVER))],
    size_of::<m::offset_fetch_request::OffsetFetchRequestTopics>(),
);

// FindCoordinator: key (-3), type (1+), keys (4+).
pub(super) static FIND_COORDINATOR: Shape = shape(
    &[within(0, 3, STR), from(1, INT8), from(4, Kind::Strs(NEVER))],
    size_of::<m::find_coordinator_request::FindCoordinatorRequest>(),
);

// JoinGroup: group, session, rebalance (1+), member, instance (5+), type, protocols {name, metadata}, reason (8+).
pub(super) static JOIN_GROUP: Shape = shape(
    &[
        all(STR),
        all(INT32),
        from(1, INT32),
        all(STR),
        instance(5),
        all(STR),
        all(Kind::Structs(&PROTOCOL, NEVER)),
        from(8, Kind::Str(ALWAYS)),
    ],
    size_of::<m::join_group_request::JoinGroupRequest>(),
);
static PROTOCOL: Shape =
    shape(&[all(STR), all(Kind::Bytes(NEVER))], size_of::<m::join_group_request::JoinGroupRequestProtocol>());

// Heartbeat: group, generation, member, instance (3+).
pub(super) static HEARTBEAT: Shape = shape(
    &[all(STR), all(INT32), all(STR), instance(3)],
    size_of::<m::heartbeat_request::HeartbeatRequest>(),
);

// LeaveGroup: group, member (-2), members {member, instance, reason (5+)} (3+).
pub(super) static LEAVE_GROUP: Shape = shape(
    &[all(STR), within(0, 2, STR), from(3, Kind::Structs(&LEAVER, NEVER))],
    size_of::<m::leave_group_request::LeaveGroupRequest>(),
);
static LEAVER: Shape = shape(
    &[all(STR), all(Kind::Str(ALWAYS)), from(5, Kind::Str(ALWAYS))],
    size_of::<m::leave_group_request::MemberIdentity>(),
);

// SyncGroup: group, generation, member, instance (3+), protocol type and name (5+), assignments {member, assignment}.
pub(super) static SYNC_GROUP: Shape = shape(
    &[
        all(STR),
        all(INT32),
        all(STR),
        instance(3),
        from(5, Kind::Str(ALWAYS)),
        from(5, Kind::Str(ALWAYS)),
        all(Kind::Structs(&ASSIGNMENT, NEVER)),
    ],
    size_of::<m::sync_group_request::SyncGroupRequest>(),
);
static ASSIGNMENT: Shape = shape(
    &[all(STR), all(Kind::Bytes(NEVER))],
    size_of::<m::sync_group_request::SyncGroupRequestAssignment>(),
);

// DescribeGroups: groups, authorized operations (3+).
pub(super) static DESCRIBE_GROUPS: Shape = shape(
    &[all(Kind::Strs(NEVER)), from(3, BOOL)],
    size_of::<m::describe_groups_request::DescribeGroupsRequest>(),
);

// ListGroups: states (4+), types (5+).
pub(super) static LIST_GROUPS: Shape = shape(
    &[from(4, Kind::Strs(NEVER)), from(5, Kind::Strs(NEVER))],
    size_of::<m::list_groups_request::ListGroupsRequest>(),
);

// DeleteGroups: groups.
pub(super) static DELETE_GROUPS: Shape =
    shape(&[all(Kind::Strs(NEVER))], size_of::<m::delete_groups_request::DeleteGroupsRequest>());

// OffsetDelete: group, topics {name, partitions {index}}.
pub(super) static OFFSET_DELETE: Shape = shape(
    &[all(STR), all(Kind::Structs(&DELETE_TOPIC, NEVER))],
    size_of::<m::offset_delete_request::OffsetDeleteRequest>(),
);
static DELETE_TOPIC: Shape = shape(
    &[all(STR), all(Kind::Structs(&DELETE_PARTITION, NEVER))],
    size_of::<m::offset_delete_request::OffsetDeleteRequestTopic>(),
);
static DELETE_PARTITION: Shape =
    shape(&[all(INT32)], size_of::<m::offset_delete_request::OffsetDeleteRequestPartition>());
