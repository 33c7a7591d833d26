//! DescribeCluster (60): brokers, controller and cluster id (KIP-700, KIP-1073).
//!
//! Not here: topics (`metadata`). Controllers have no Kafka listener of their own, so only brokers can be described.
//! Invariants: fenced brokers are listed only for those who ask for them; brokers without the listener that the client came in by never.

use super::metadata::CLUSTER_OPERATIONS;
use super::{Call, controller_id, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::ctl::image::{Drain, Image};
use crate::ctl::replace;
use crate::segment::NodeId;
use crate::wire::versions::{DRAIN_TAG, GONE_TAG};
use bytes::Bytes;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use std::collections::BTreeMap;

/// Endpoint type of brokers.
const BROKERS: i8 = 1;
/// Endpoint type of controllers.
const CONTROLLERS: i8 = 2;

/// Answers a DescribeCluster request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: DescribeClusterRequest = call.decode()?;
    let (image, node) = (call.node.image(), call.node.node_id());
    let response = describe(&image, (node, &call.client.listener), &request, call.version);
    call.respond(&response)
}

fn describe(
    image: &Image,
    (node, listener): (NodeId, &str),
    request: &DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default().with_cluster_id(text(image.cluster_id.clone()));
    let refused = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => {
            Some((code::MISMATCHED_ENDPOINT_TYPE, "this is a broker's listener, not a controller's"))
        }
        _ => Some((code::UNSUPPORTED_ENDPOINT_TYPE, "unknown endpoint type")),
    };
    if let Some((error_code, message)) = refused {
        return response.with_error_code(error_code).with_error_message(Some(text(message)));
    }
    let with_fenced = version >= 2 && request.include_fenced_brokers;
    let brokers = image.brokers.values().filter(|broker| with_fenced || !broker.fenced);
    let row = |broker: &crate::ctl::image::Broker| {
        let at = image.advertised(broker.node, listener)?;
        let row = DescribeClusterBroker::default()
            .with_broker_id(BrokerId(broker.node.0))
            .with_host(text(at.host))
            .with_port(i32::from(at.port))
            .with_rack(broker.rack.clone().map(text))
            .with_is_fenced(broker.fenced)
            .with_unknown_tagged_fields(drain(image, broker.node));
        Some(row)
    };
    let mut response = response
        .with_controller_id(BrokerId(controller_id(image, node, listener)))
        .with_brokers(brokers.filter_map(row).collect())
        .with_unknown_tagged_fields(gone(image));
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}

/// What is to leave a broker, for those that know our field.
fn drain(image: &Image, node: NodeId) -> BTreeMap<i32, Bytes> {
    let what = match image.drain(node) {
        Drain::None => return BTreeMap::new(),
        Drain::Leaders => 1,
        Drain::Replicas => 2,
    };
    BTreeMap::from([(DRAIN_TAG, Bytes::copy_from_slice(&[what]))])
}

/// Brokers that were decommissioned, are unregistered, and may not come back before somebody takes that back.
fn gone(image: &Image) -> BTreeMap<i32, Bytes> {
    let ids = replace::decommissioned(image).filter(|node| !image.brokers.contains_key(node));
    let bytes: Vec<u8> = ids.flat_map(|node| node.0.to_be_bytes()).collect();
    if bytes.is_empty() { BTreeMap::new() } else { BTreeMap::from([(GONE_TAG, Bytes::from(bytes))]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::tests::image;
    use crate::ctl::listeners::PLAINTEXT;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn fenced_brokers_are_listed_only_when_asked_for() {
        let request = DescribeClusterRequest::default().with_endpoint_type(1);
        let ids = |request: &DescribeClusterRequest, version| {
            let response = describe(&image(), (NodeId(1), PLAINTEXT), request, version);
            response.encode(&mut Vec::new(), version).unwrap();
            response.brokers.iter().map(|broker| broker.broker_id.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(&request, 2), [1, 2]);
        let request = request.with_include_fenced_brokers(true);
        assert_eq!(ids(&request, 2), [1, 2, 3]);
        assert_eq!(ids(&request, 1), [1, 2]);
    }

    #[test]
    fn controllers_cannot_be_described_here() {
        let request = DescribeClusterRequest::default().with_endpoint_type(2);
        let response = describe(&image(), (NodeId(1), PLAINTEXT), &request, 1);
        assert_eq!((response.error_code, response.brokers.len()), (114, 0));
    }
}
