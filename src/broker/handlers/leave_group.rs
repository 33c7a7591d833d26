//! LeaveGroup (13): members leave, or an operator takes static ones out.
//!
//! Not here: the rebalance that follows (`broker::groups`).
//! Invariants: from version 3 on one row per member, in the order asked; before, there is one member and one code.

use super::Call;
use super::coordinator::{ask, owned, unexpected};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, GroupError, Reply};
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

/// Answers a LeaveGroup request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: LeaveGroupRequest = call.decode()?;
    let members = if call.version >= 3 {
        request
            .members
            .iter()
            .map(|m| (owned(&m.member_id), m.group_instance_id.as_ref().map(owned)))
            .collect()
    } else {
        vec![(owned(&request.member_id), None)]
    };
    let reply = ask(&call.node, request.group_id.as_str(), Ask::Leave(members)).await;
    call.respond(&response(&request, reply, call.version))
}

fn response(request: &LeaveGroupRequest, reply: Reply, version: i16) -> LeaveGroupResponse {
    let response = LeaveGroupResponse::default();
    let rows = match reply {
        Reply::Rows(rows) => rows,
        reply => return response.with_error_code(error::group(&unexpected(reply))),
    };
    let code = |row: &Option<GroupError>| row.as_ref().map_or(code::NONE, error::group);
    if version < 3 {
        return response.with_error_code(rows.first().map_or(code::NONE, code));
    }
    let member = |(asked, row): (&kafka_protocol::messages::leave_group_request::MemberIdentity, _)| {
        MemberResponse::default()
            .with_member_id(asked.member_id.clone())
            .with_group_instance_id(asked.group_instance_id.clone())
            .with_error_code(code(row))
    };
    response.with_members(request.members.iter().zip(&rows).map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::leave_group_request::MemberIdentity;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn one_code_before_version_three_and_rows_from_then_on() {
        let request = LeaveGroupRequest::default().with_members(vec![MemberIdentity::default()]);
        for version in 0..=5 {
            let told = response(&request, Reply::Rows(vec![Some(GroupError::UnknownMember)]), version);
            let code = if version < 3 { told.error_code } else { told.members[0].error_code };
            assert_eq!(code, 25);
            told.encode(&mut Vec::new(), version).unwrap();
            let refused = response(&request, Reply::Refused(GroupError::NotCoordinator), version);
            assert_eq!(refused.error_code, 16);
            refused.encode(&mut Vec::new(), version).unwrap();
        }
    }
}
