//! SyncGroup (14): the leader hands in the assignment, everybody gets a share.
//!
//! Not here: storing it (`broker::groups`). The answer waits for the leader's.

use super::coordinator::{ask, caller, copied, owned, unexpected};
use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::broker::groups::{Ask, Reply};
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

/// Answers a SyncGroup request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: SyncGroupRequest = call.decode()?;
    let assignments = request.assignments.iter().map(|a| (owned(&a.member_id), copied(&a.assignment)));
    let question = Ask::Sync {
        caller: caller(&request.member_id, &request.group_instance_id, request.generation_id),
        protocol_type: request.protocol_type.as_ref().map(owned),
        protocol: request.protocol_name.as_ref().map(owned),
        assignments: assignments.collect(),
    };
    let response = SyncGroupResponse::default();
    let response = match ask(&call.node, request.group_id.as_str(), question).await {
        Reply::Synced { protocol_type, protocol, assignment } => {
            let told = call.version >= 5;
            response
                .with_assignment(assignment)
                .with_protocol_type(told.then(|| text(protocol_type)))
                .with_protocol_name(told.then(|| text(protocol)))
        }
        reply => response.with_error_code(error::sync(&unexpected(reply))),
    };
    call.respond(&response)
}
