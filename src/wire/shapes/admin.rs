//! The shapes of requests that administrators' tools alone send.
//!
//! Part of the table in `shapes`, and of nothing else. Rules as there.

use super::{ALWAYS, BOOL, INT8, INT16, INT32, Kind, NEVER, STR, Shape, all, from, shape, within};
use kafka_protocol::messages as m;
use std::mem::size_of;

// AlterConfigs: resources {type, name, configs {name, value}}, validate only.
pub(super) static ALTER_CONFIGS: Shape = shape(
    &[all(Kind::Structs(&RESOURCE, NEVER)), all(BOOL)],
    size_of::<m::alter_configs_request::AlterConfigsRequest>(),
);
static RESOURCE: Shape = shape(
    &[all(INT8), all(STR), all(Kind::Structs(&CONFIG, NEVER))],
    size_of::<m::alter_configs_request::AlterConfigsResource>(),
);
static CONFIG: Shape =
    shape(&[all(STR), all(Kind::Str(ALWAYS))], size_of::<m::alter_configs_request::AlterableConfig>());

// DescribeClientQuotas: components {entity type, match type, match}, strict.
pub(super) static DESCRIBE_CLIENT_QUOTAS: Shape = shape(
    &[all(Kind::Structs(&COMPONENT, NEVER)), all(BOOL)],
    size_of::<m::describe_client_quotas_request::DescribeClientQuotasRequest>(),
);
static COMPONENT: Shape = shape(
    &[all(STR), all(INT8), all(Kind::Str(ALWAYS))],
    size_of::<m::describe_client_quotas_request::ComponentData>(),
);

// UpdateFeatures: timeout, updates {feature, level, whether it may go down (0), kind of upgrade (1+)}, validate only (1+).
pub(super) static UPDATE_FEATURES: Shape = shape(
    &[all(INT32), all(Kind::Structs(&FEATURE, NEVER)), from(1, BOOL)],
    size_of::<m::update_features_request::UpdateFeaturesRequest>(),
);
static FEATURE: Shape = shape(
    &[all(STR), all(INT16), within(0, 0, BOOL), from(1, INT8)],
    size_of::<m::update_features_request::FeatureUpdateKey>(),
);

// ListConfigResources: types (1+).
pub(super) static LIST_CONFIG_RESOURCES: Shape = shape(
    &[from(1, Kind::Plain(1, NEVER))],
    size_of::<m::list_config_resources_request::ListConfigResourcesRequest>(),
);

// DescribeTopicPartitions: topics {name}, most partitions, cursor {topic, partition} or null.
pub(super) static DESCRIBE_TOPIC_PARTITIONS: Shape = shape(
    &[all(Kind::Structs(&TOPIC, NEVER)), all(INT32), all(Kind::MaybeStruct(&CURSOR))],
    size_of::<m::describe_topic_partitions_request::DescribeTopicPartitionsRequest>(),
);
static TOPIC: Shape = shape(&[all(STR)], size_of::<m::describe_topic_partitions_request::TopicRequest>());
static CURSOR: Shape =
    shape(&[all(STR), all(INT32)], size_of::<m::describe_topic_partitions_request::Cursor>());
