//! DescribeGroups (15): state and members of groups.
//!
//! Not here: the groups (`broker::groups`).
//! Invariants: one row per group, in the order asked, refused if it was named before; a group that does not exist is "Dead" without an error, and from version 6 on not found.

use super::coordinator::{ask_each, unexpected};
use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, DescribedMember, GroupError, Reply};
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId as GroupName};

/// Operations allowed on a group without an authorizer, as Kafka's bit field: read, delete, describe, and their configs.
const OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// Answers a DescribeGroups request; groups are asked beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DescribeGroupsRequest = call.decode()?;
    let questions = request.groups.iter().map(|group| (group.as_str().to_owned(), Ask::Describe));
    let replies = ask_each(&call.node, questions.collect()).await;
    let operations = request.include_authorized_operations && call.version >= 3;
    let rows = request.groups.iter().zip(replies).map(|(group, reply)| {
        let row = row(group.clone(), reply, call.version);
        if operations { row.with_authorized_operations(OPERATIONS) } else { row }
    });
    call.respond(&DescribeGroupsResponse::default().with_groups(rows.collect()))
}

fn row(group: GroupName, reply: Option<Reply>, version: i16) -> DescribedGroup {
    let row = DescribedGroup::default().with_group_id(group).with_error_message(None);
    let Some(reply) = reply else { return row.with_error_code(code::INVALID_REQUEST) };
    match reply {
        Reply::Described(group) => row
            .with_group_state(text(group.state))
            .with_protocol_type(text(group.protocol_type))
            .with_protocol_data(text(group.protocol))
            .with_members(group.members.into_iter().map(|m| member(m, version)).collect()),
        Reply::Refused(GroupError::UnknownGroup) if version < 6 => row.with_group_state(text("Dead")),
        Reply::Refused(GroupError::UnknownGroup) => row
            .with_group_state(text("Dead"))
            .with_error_code(error::group(&GroupError::UnknownGroup))
            .with_error_message(Some(text("there is no such group"))),
        reply => row.with_error_code(error::group(&unexpected(reply))),
    }
}

fn member(member: DescribedMember, version: i16) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(member.id))
        .with_group_instance_id(member.instance.filter(|_| version >= 4).map(text))
        .with_client_id(text(member.client_id))
        .with_client_host(text(member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::groups::Description;
    use bytes::Bytes;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn every_version_describes_a_group_and_one_that_is_not_there() {
        let member = DescribedMember {
            id: "m".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            metadata: Bytes::new(),
            assignment: Bytes::new(),
        };
        let (state, protocol_type, protocol) = ("Stable", "consumer".to_owned(), "range".to_owned());
        let group = Description { state, protocol_type, protocol, members: vec![member] };
        for version in 0..=6 {
            let known = row(GroupName::default(), Some(Reply::Described(group.clone())), version);
            let refused = Some(Reply::Refused(GroupError::UnknownGroup));
            let unknown = row(GroupName::default(), refused, version);
            assert_eq!(row(GroupName::default(), None, version).error_code, 42);
            assert_eq!(unknown.group_state.as_str(), "Dead");
            assert_eq!(unknown.error_code, if version >= 6 { 69 } else { 0 });
            let response = DescribeGroupsResponse::default().with_groups(vec![known, unknown]);
            response.encode(&mut Vec::new(), version).unwrap();
        }
    }
}
