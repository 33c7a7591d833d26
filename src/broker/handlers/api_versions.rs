//! ApiVersions (18): which APIs and versions are served (KIP-35, KIP-511).
//!
//! Not here: the table (`wire::versions`). Of Kafka's features `metadata.version` is told, with the one level whose behaviour is followed;
//! `transaction.version` and `group.version` are not, so that clients keep to the first transaction protocol and classic groups.
//! Invariants: answered for every version; the response header is always v0 (`frame::respond` knows).

use super::update_features::{LEVEL, METADATA_VERSION};
use super::{Call, encode};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::wire::versions::{self, ApiRange};
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

const KEY: i16 = 18;

/// Answers a version that is served.
pub async fn handle(mut call: Call) -> Outcome {
    let request: ApiVersionsRequest = call.decode()?;
    let named = is_name(&request.client_software_name) && is_name(&request.client_software_version);
    if call.version >= 3 && !named {
        let response = ApiVersionsResponse::default().with_error_code(code::INVALID_REQUEST);
        return call.respond(&response);
    }
    let api_keys = versions::supported().iter().map(row).collect();
    let mut response = ApiVersionsResponse::default().with_api_keys(api_keys);
    if call.version >= 3 {
        response = with_features(response, call.node.image().applied);
    }
    call.respond(&response)
}

/// Adds the features (KIP-584); `epoch` grows with every change of the metadata.
fn with_features(response: ApiVersionsResponse, epoch: u64) -> ApiVersionsResponse {
    let name = StrBytes::from_static_str(METADATA_VERSION);
    let supported = SupportedFeatureKey::default()
        .with_name(name.clone())
        .with_min_version(LEVEL)
        .with_max_version(LEVEL);
    let finalized = FinalizedFeatureKey::default()
        .with_name(name)
        .with_min_version_level(LEVEL)
        .with_max_version_level(LEVEL);
    response
        .with_supported_features(vec![supported])
        .with_finalized_features_epoch(i64::try_from(epoch).unwrap_or(i64::MAX))
        .with_finalized_features(vec![finalized])
}

/// Answers a version nobody knows: v0 body, UNSUPPORTED_VERSION, and the range of ApiVersions itself, so that the client
/// can ask again.
pub fn unsupported(correlation_id: i32) -> Outcome {
    let api_keys = versions::range(KEY).iter().map(row).collect();
    let response =
        ApiVersionsResponse::default().with_error_code(code::UNSUPPORTED_VERSION).with_api_keys(api_keys);
    encode(&response, KEY, 0, correlation_id)
}

fn row(range: &ApiRange) -> ApiVersion {
    ApiVersion::default().with_api_key(range.key).with_min_version(range.min).with_max_version(range.max)
}

/// KIP-511: `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`.
fn is_name(name: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::dispatch::Answer;
    use kafka_protocol::protocol::Decodable;

    #[test]
    fn software_name_follows_kip_511() {
        for name in ["librdkafka", "apache-kafka-java", "4.1.0", "a", "a.b-c"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "a_b", ".", "ü"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn unknown_version_is_answered_in_v0_with_its_own_range() {
        let Ok(Answer::Frame(frame)) = unsupported(77) else { panic!("no frame") };
        assert_eq!(&frame[4..8], 77i32.to_be_bytes());
        let body = ApiVersionsResponse::decode(&mut frame.slice(8..), 0).unwrap();
        assert_eq!(body.error_code, 35);
        assert_eq!(body.api_keys.len(), 1);
        assert_eq!((body.api_keys[0].api_key, body.api_keys[0].min_version), (18, 0));
        assert!(body.api_keys[0].max_version >= 3);
    }
}
