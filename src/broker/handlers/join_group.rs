//! JoinGroup (11): a member joins, or joins again, and is told the generation.
//!
//! Not here: whom is waited for (`broker::groups`). The answer may come minutes later.
//! Invariants: only the leader is told the members; a member without an id is told one first from version 4 on (KIP-394).

use super::coordinator::{ask, copied, owned, unexpected};
use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::broker::groups::{Ask, GroupError, Join, Joined, Reply};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use uuid::Uuid;

/// Ids of members begin with so much of what the client calls itself.
const NAME_BYTES: usize = 255;

/// Answers a JoinGroup request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: JoinGroupRequest = call.decode()?;
    let join = join(&request, &call);
    let member = join.member.clone();
    let response = match ask(&call.node, request.group_id.as_str(), Ask::Join(join)).await {
        Reply::Joined(joined) => response(joined, call.version),
        reply => refusal(unexpected(reply), member, call.version),
    };
    call.respond(&response)
}

fn join(request: &JoinGroupRequest, call: &Call) -> Join {
    let millis = |ms: i32| u64::try_from(ms).unwrap_or(0);
    let client_id = call.client_id.clone().unwrap_or_default();
    let instance = request.group_instance_id.as_ref().map(owned);
    let name = instance.as_deref().unwrap_or(&client_id);
    let end = (0..=name.len().min(NAME_BYTES)).rev().find(|end| name.is_char_boundary(*end));
    let fresh_id = format!("{}-{}", &name[..end.unwrap_or(0)], Uuid::new_v4());
    let protocols = request.protocols.iter();
    Join {
        member: owned(&request.member_id),
        fresh_id,
        client_id,
        client_host: format!("/{}", call.client.host),
        session_ms: millis(request.session_timeout_ms),
        // Before version 1 both were the same.
        rebalance_ms: millis(if call.version >= 1 {
            request.rebalance_timeout_ms
        } else {
            request.session_timeout_ms
        }),
        protocol_type: owned(&request.protocol_type),
        protocols: protocols.map(|p| (owned(&p.name), copied(&p.metadata))).collect(),
        needs_id: call.version >= 4,
        may_skip: call.version >= 9,
        instance,
    }
}

fn response(joined: Joined, version: i16) -> JoinGroupResponse {
    let member = |(id, instance, metadata): (String, Option<String>, _)| {
        let row = JoinGroupResponseMember::default().with_member_id(text(id)).with_metadata(metadata);
        row.with_group_instance_id(instance.filter(|_| version >= 5).map(text))
    };
    let response = JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_name(Some(text(joined.protocol)))
        .with_leader(text(joined.leader))
        .with_member_id(text(joined.member))
        .with_members(joined.members.into_iter().map(member).collect());
    let response =
        if version >= 9 { response.with_skip_assignment(joined.skip_assignment) } else { response };
    if version >= 7 { response.with_protocol_type(Some(text(joined.protocol_type))) } else { response }
}

fn refusal(refused: GroupError, member: String, version: i16) -> JoinGroupResponse {
    let code = error::group(&refused);
    let member = match refused {
        GroupError::MemberIdRequired(id) => id,
        GroupError::Full => String::new(),
        _ => member,
    };
    JoinGroupResponse::default()
        .with_error_code(code)
        .with_generation_id(-1)
        .with_member_id(text(member))
        .with_protocol_type(None)
        // The name may be null from version 7 on only.
        .with_protocol_name((version < 7).then(|| text("")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn every_version_carries_a_generation_and_a_refusal() {
        let joined = Joined {
            generation: 3,
            protocol_type: "consumer".into(),
            protocol: "range".into(),
            leader: "a".into(),
            member: "a".into(),
            skip_assignment: true,
            members: vec![("a".into(), Some("i".into()), Bytes::from_static(b"m"))],
        };
        for version in 0..=9 {
            response(joined.clone(), version).encode(&mut Vec::new(), version).unwrap();
            let refused = refusal(GroupError::MemberIdRequired("b".into()), String::new(), version);
            assert_eq!((refused.error_code, refused.member_id.as_str()), (79, "b"));
            refused.encode(&mut Vec::new(), version).unwrap();
        }
    }
}
