//! Random requests of the tools' own APIs. Part of `wire::tests`.

use super::{maybe, several, text, topic};
use kafka_protocol::messages::*;
use rand::Rng;
use rand::rngs::StdRng;

pub(super) fn alter_configs(rng: &mut StdRng) -> AlterConfigsRequest {
    let config = |rng: &mut StdRng| {
        alter_configs_request::AlterableConfig::default().with_name(text(rng)).with_value(maybe(rng, text))
    };
    let row = |rng: &mut StdRng| {
        alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(rng.random())
            .with_resource_name(text(rng))
            .with_configs(several(rng, config))
    };
    AlterConfigsRequest::default().with_resources(several(rng, row)).with_validate_only(rng.random())
}

pub(super) fn describe_quotas(rng: &mut StdRng) -> DescribeClientQuotasRequest {
    let row = |rng: &mut StdRng| {
        describe_client_quotas_request::ComponentData::default()
            .with_entity_type(text(rng))
            .with_match_type(rng.random())
            .with_match(maybe(rng, text))
    };
    DescribeClientQuotasRequest::default().with_components(several(rng, row)).with_strict(rng.random())
}

pub(super) fn update_features(version: i16, rng: &mut StdRng) -> UpdateFeaturesRequest {
    let row = |rng: &mut StdRng| {
        update_features_request::FeatureUpdateKey::default()
            .with_feature(text(rng))
            .with_max_version_level(rng.random())
            .with_allow_downgrade(version == 0 && rng.random())
            .with_upgrade_type(if version >= 1 { rng.random() } else { 1 })
    };
    UpdateFeaturesRequest::default()
        .with_timeout_ms(rng.random())
        .with_feature_updates(several(rng, row))
        .with_validate_only(version >= 1 && rng.random())
}

pub(super) fn list_resources(version: i16, rng: &mut StdRng) -> ListConfigResourcesRequest {
    let types = if version >= 1 { several(rng, |rng| rng.random()) } else { Vec::new() };
    ListConfigResourcesRequest::default().with_resource_types(types)
}

pub(super) fn describe_partitions(rng: &mut StdRng) -> DescribeTopicPartitionsRequest {
    let row =
        |rng: &mut StdRng| describe_topic_partitions_request::TopicRequest::default().with_name(topic(rng));
    let cursor = |rng: &mut StdRng| {
        describe_topic_partitions_request::Cursor::default()
            .with_topic_name(topic(rng))
            .with_partition_index(rng.random())
    };
    DescribeTopicPartitionsRequest::default()
        .with_topics(several(rng, row))
        .with_response_partition_limit(rng.random())
        .with_cursor(maybe(rng, cursor))
}
