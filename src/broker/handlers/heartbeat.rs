//! Heartbeat (12): a member is alive, and hears whether the group is rebalancing.
//!
//! Not here: sessions (`broker::groups`).

use super::Call;
use super::coordinator::{ask_at_once, caller, unexpected};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::broker::groups::{Ask, Reply};
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

/// Answers a Heartbeat request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: HeartbeatRequest = call.decode()?;
    let member = caller(&request.member_id, &request.group_instance_id, request.generation_id);
    let code = match ask_at_once(&call.node, request.group_id.as_str(), Ask::Heartbeat(member)).await {
        Reply::Done => code::NONE,
        reply => error::heartbeat(&unexpected(reply)),
    };
    call.respond(&HeartbeatResponse::default().with_error_code(code))
}
