//! DescribeClientQuotas (48): there are no quotas, and so none is listed (KIP-546). Setting one (AlterClientQuotas) is not served.

use super::Call;
use crate::broker::dispatch::Outcome;
use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

/// Answers a DescribeClientQuotas request.
pub async fn handle(mut call: Call) -> Outcome {
    let _filter: DescribeClientQuotasRequest = call.decode()?;
    call.respond(
        &DescribeClientQuotasResponse::default().with_error_message(None).with_entries(Some(Vec::new())),
    )
}
