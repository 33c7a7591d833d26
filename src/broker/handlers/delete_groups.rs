//! DeleteGroups (42): groups without members, with all that they committed.
//!
//! Not here: whether a group has members (`broker::groups`).
//! Invariants: one row per group, in the order asked; a group that is gone is gone from the log.

use super::coordinator::{ask, unexpected};
use super::{Call, join_all};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, Reply};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

/// Answers a DeleteGroups request; groups are deleted beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DeleteGroupsRequest = call.decode()?;
    let asking = request.groups_names.iter().map(|group| {
        let (node, group) = (call.node.clone(), group.as_str().to_owned());
        async move { ask(&node, &group, Ask::Delete).await }
    });
    let replies = join_all(asking.collect()).await;
    let rows = request.groups_names.iter().zip(replies).map(|(group, reply)| {
        let code = match reply {
            Reply::Done => code::NONE,
            reply => error::group(&unexpected(reply)),
        };
        DeletableGroupResult::default().with_group_id(group.clone()).with_error_code(code)
    });
    call.respond(&DeleteGroupsResponse::default().with_results(rows.collect()))
}
