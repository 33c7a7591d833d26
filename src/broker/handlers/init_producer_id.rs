//! InitProducerId (22): a producer id for an idempotent producer (KIP-98, KIP-360).
//!
//! Not here: handing out blocks of ids (`ctl`), sequences (the partition). Transactions are not built: a transactional id
//! is refused with UNSUPPORTED_VERSION, which no client retries.
//! Invariants: every answer without a transactional id is a new id with epoch 0, also when the producer names its old
//! one, exactly as Kafka does; ids are unique in the cluster.

use super::Call;
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

/// Answers an InitProducerId request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: InitProducerIdRequest = call.decode()?;
    let response = match refusal(&request) {
        Some(refused) => failed(refused),
        None => match call.node.producer_id().await {
            Ok(id) => {
                InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0)
            }
            Err(failure) => failed(error::init_producer_id(&failure)),
        },
    };
    call.respond(&response)
}

fn refusal(request: &InitProducerIdRequest) -> Option<i16> {
    if let Some(id) = &request.transactional_id {
        // An empty one is a client's mistake, not a wish for transactions.
        let invalid = id.is_empty();
        return Some(if invalid { code::INVALID_REQUEST } else { code::UNSUPPORTED_VERSION });
    }
    // Old id and old epoch come together or not at all (InitProducerIdRequest in Kafka).
    let (has_id, has_epoch) = (request.producer_id.0 >= 0, request.producer_epoch >= 0);
    (has_id != has_epoch).then_some(code::INVALID_REQUEST)
}

fn failed(error_code: i16) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_error_code(error_code).with_producer_epoch(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TransactionalId;
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn request_with_transactional_id_is_refused_for_good() {
        let with = |id: &'static str| {
            let id = TransactionalId(StrBytes::from_static_str(id));
            refusal(&InitProducerIdRequest::default().with_transactional_id(Some(id)))
        };
        assert_eq!(with("payments"), Some(code::UNSUPPORTED_VERSION));
        assert_eq!(with(""), Some(code::INVALID_REQUEST));
    }

    #[test]
    fn old_id_and_epoch_must_come_together() {
        let with = |id: i64, epoch: i16| {
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            refusal(&request.with_producer_id(ProducerId(id)).with_producer_epoch(epoch))
        };
        assert_eq!(with(-1, -1), None);
        assert_eq!(with(7, 3), None);
        assert_eq!(with(7, -1), Some(code::INVALID_REQUEST));
        assert_eq!(with(-1, 3), Some(code::INVALID_REQUEST));
    }
}
