//! UnregisterBroker (64): a broker that is gone for good, and holds nothing, is forgotten (KIP-631).
//!
//! Not here: who may be forgotten (`ctl::drain`).

use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error;
use crate::ctl::command::Command;
use crate::segment::NodeId;
use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};

/// The request carries no timeout; Kafka's default for admin requests.
const TIMEOUT_MS: u64 = 30_000;

/// Answers an UnregisterBroker request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: UnregisterBrokerRequest = call.decode()?;
    let command = Command::Unregister { node: NodeId(request.broker_id.0), incarnation: None };
    let response = UnregisterBrokerResponse::default().with_error_message(None);
    call.respond(&match call.node.controller(command, TIMEOUT_MS).await {
        Ok(_) => response,
        Err(refusal) => response
            .with_error_code(error::controller(&refusal))
            .with_error_message(Some(text(refusal.to_string()))),
    })
}
