//! ListConfigResources (74): what can have a configuration (KIP-1142); ListClientMetricsResources in v0 (KIP-714).
//!
//! Not here: the configurations (`describe_configs`).
//! Invariants: what is listed is there; nothing of client metrics, and of no group is anything configured here.

use super::describe_configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::ctl::image::Image;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

/// Answers a ListConfigResources request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: ListConfigResourcesRequest = call.decode()?;
    let response = ListConfigResourcesResponse::default();
    let response = match resources(&call.node.image(), &request.resource_types, call.version) {
        Some(resources) => response.with_config_resources(resources),
        None => response.with_error_code(code::UNSUPPORTED_VERSION),
    };
    call.respond(&response)
}

/// Resources of these types, or of all for none; None if a type is unknown. v0 knows client metrics alone.
fn resources(image: &Image, types: &[i8], version: i16) -> Option<Vec<ConfigResource>> {
    let known: &[i8] =
        if version == 0 { &[CLIENT_METRICS] } else { &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP] };
    if types.iter().any(|asked| !known.contains(asked)) {
        return None;
    }
    let row = |kind: i8, name: String| {
        ConfigResource::default().with_resource_name(text(name)).with_resource_type(kind)
    };
    let of = |kind: i8| -> Vec<ConfigResource> {
        match kind {
            TOPIC => image.topics.keys().map(|name| row(kind, name.clone())).collect(),
            BROKER | BROKER_LOGGER => image.live_brokers().map(|b| row(kind, b.node.to_string())).collect(),
            _ => Vec::new(),
        }
    };
    let is_asked = |kind: &&i8| types.is_empty() || types.contains(kind);
    Some(known.iter().filter(is_asked).flat_map(|kind| of(*kind)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::tests::image;

    #[test]
    fn topics_and_live_brokers_are_listed_by_type() {
        let names = |types: &[i8], version| {
            let found = resources(&image(), types, version)?;
            Some(found.iter().map(|r| format!("{}:{}", r.resource_type, r.resource_name)).collect::<Vec<_>>())
        };
        let all = ["2:__internal", "2:orders", "4:1", "4:2", "8:1", "8:2"];
        assert_eq!(names(&[], 1), Some(all.map(str::to_owned).to_vec()));
        assert_eq!(names(&[4, 4, 32], 1), Some(vec!["4:1".to_owned(), "4:2".to_owned()]));
        assert_eq!(names(&[16, 32], 1), Some(Vec::new()));
        assert_eq!(names(&[], 0), Some(Vec::new()));
        assert_eq!(names(&[4, 99], 1), None);
    }
}
