//! UpdateFeatures (57): the one feature there is has one level (KIP-584).
//!
//! Not here: telling it (`api_versions`).
//! Invariants: nothing is ever changed; asking for what is already so succeeds, anything else is refused with the reason.

use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

/// The feature by which tools tell the level of a cluster.
pub(super) const METADATA_VERSION: &str = "metadata.version";
/// Its level: that of Kafka 4.1-IV1, as `inter.broker.protocol.version` says.
pub(super) const LEVEL: i16 = 27;

/// Answers an UpdateFeatures request. A refusal stands for all of it, as in Kafka; then no feature has a row of its own. Before v2 each has one
/// otherwise, for clients look for it.
pub async fn handle(mut call: Call) -> Outcome {
    let request: UpdateFeaturesRequest = call.decode()?;
    let response = UpdateFeaturesResponse::default().with_error_message(None);
    if let Some(reason) = request.feature_updates.iter().find_map(refusal) {
        let response = response.with_error_code(code::INVALID_UPDATE_VERSION);
        return call.respond(&response.with_error_message(Some(text(reason))));
    }
    let row = |update: &FeatureUpdateKey| {
        UpdatableFeatureResult::default().with_feature(update.feature.clone()).with_error_message(None)
    };
    let rows = request.feature_updates.iter().filter(|_| call.version < 2).map(row);
    call.respond(&response.with_results(rows.collect()))
}

fn refusal(update: &FeatureUpdateKey) -> Option<String> {
    let (feature, level) = (update.feature.as_str(), update.max_version_level);
    match feature {
        METADATA_VERSION if level == LEVEL => None,
        METADATA_VERSION => Some(format!("{feature} is {LEVEL} and cannot be {level}")),
        _ => Some(format!(
            "there is no feature `{feature}` to be set to {level}; there is {METADATA_VERSION}={LEVEL}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn only_the_level_there_is_can_be_asked_for() {
        let ask = |feature, level| {
            let update = FeatureUpdateKey::default().with_feature(StrBytes::from_static_str(feature));
            refusal(&update.with_max_version_level(level))
        };
        assert_eq!(ask("metadata.version", 27), None);
        assert!(ask("metadata.version", 26).is_some_and(|why| why.contains("is 27")));
        assert!(ask("transaction.version", 2).is_some_and(|why| why.contains("no feature")));
        assert!(ask("group.version", 0).is_some());
    }
}
