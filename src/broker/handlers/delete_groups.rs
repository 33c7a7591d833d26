//! DeleteGroups (42): groups without members, with all that they committed.
//!
//! Not here: whether a group has members (`broker::groups`).
//! Invariants: one row per group, in the order asked, refused if it was named before; a group that is gone is gone from the log.

use super::Call;
use super::coordinator::{ask_each, unexpected};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, Reply};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

/// Answers a DeleteGroups request; groups are deleted beside each other.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DeleteGroupsRequest = call.decode()?;
    let questions = request.groups_names.iter().map(|group| (group.as_str().to_owned(), Ask::Delete));
    let replies = ask_each(&call.node, questions.collect()).await;
    let rows = request.groups_names.iter().zip(replies).map(|(group, reply)| {
        let code = match reply {
            Some(Reply::Done) => code::NONE,
            None => code::INVALID_REQUEST,
            Some(reply) => error::group(&unexpected(reply)),
        };
        DeletableGroupResult::default().with_group_id(group.clone()).with_error_code(code)
    });
    call.respond(&DeleteGroupsResponse::default().with_results(rows.collect()))
}
