//! Which APIs and versions are advertised and served, and from which version each is flexible.
//!
//! Not the dispatch: it only says what may be dispatched. Called by `frame` (refusals), `bounds`, and by the ApiVersions
//! handler, which answers exactly this table. `docs/compatibility.md` repeats it; a test holds the two together.
//!
//! Invariants:
//! - Ascending by key; `min <= served_min <= max`; `served_min..=max` lies inside what the codec crate can decode.
//! - A minimum is never raised: old clients test features by "version n is in the range" (KAFKA-18659).

/// One API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    /// The API key of the request header.
    pub key: i16,
    /// Kafka's name of it.
    pub name: &'static str,
    /// Advertised minimum. Produce advertises 0 though 0-2 are refused: librdkafka before 2.11.1 takes "Produce 0 is in
    /// range" as proof that the broker knows gzip, snappy and lz4, and else sends uncompressed without a word.
    pub min: i16,
    /// Advertised and served maximum.
    pub max: i16,
    /// Lowest version really decoded.
    pub served_min: i16,
}

/// Produce.
pub const PRODUCE: i16 = 0;
/// Fetch.
pub const FETCH: i16 = 1;
/// ListOffsets.
pub const LIST_OFFSETS: i16 = 2;
/// Metadata.
pub const METADATA: i16 = 3;
/// OffsetCommit.
pub const OFFSET_COMMIT: i16 = 8;
/// OffsetFetch.
pub const OFFSET_FETCH: i16 = 9;
/// FindCoordinator.
pub const FIND_COORDINATOR: i16 = 10;
/// JoinGroup.
pub const JOIN_GROUP: i16 = 11;
/// Heartbeat.
pub const HEARTBEAT: i16 = 12;
/// LeaveGroup.
pub const LEAVE_GROUP: i16 = 13;
/// SyncGroup.
pub const SYNC_GROUP: i16 = 14;
/// DescribeGroups.
pub const DESCRIBE_GROUPS: i16 = 15;
/// ListGroups.
pub const LIST_GROUPS: i16 = 16;
/// ApiVersions.
pub const API_VERSIONS: i16 = 18;
/// CreateTopics.
pub const CREATE_TOPICS: i16 = 19;
/// DeleteTopics.
pub const DELETE_TOPICS: i16 = 20;
/// DeleteRecords.
pub const DELETE_RECORDS: i16 = 21;
/// InitProducerId.
pub const INIT_PRODUCER_ID: i16 = 22;
/// OffsetForLeaderEpoch.
pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
/// DescribeConfigs.
pub const DESCRIBE_CONFIGS: i16 = 32;
/// AlterConfigs.
pub const ALTER_CONFIGS: i16 = 33;
/// DescribeLogDirs.
pub const DESCRIBE_LOG_DIRS: i16 = 35;
/// CreatePartitions.
pub const CREATE_PARTITIONS: i16 = 37;
/// DeleteGroups.
pub const DELETE_GROUPS: i16 = 42;
/// ElectLeaders.
pub const ELECT_LEADERS: i16 = 43;
/// IncrementalAlterConfigs.
pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
/// AlterPartitionReassignments.
pub const ALTER_PARTITION_REASSIGNMENTS: i16 = 45;
/// ListPartitionReassignments.
pub const LIST_PARTITION_REASSIGNMENTS: i16 = 46;
/// OffsetDelete.
pub const OFFSET_DELETE: i16 = 47;
/// DescribeClientQuotas.
pub const DESCRIBE_CLIENT_QUOTAS: i16 = 48;
/// DescribeQuorum.
pub const DESCRIBE_QUORUM: i16 = 55;
/// UpdateFeatures.
pub const UPDATE_FEATURES: i16 = 57;
/// UnregisterBroker.
pub const UNREGISTER_BROKER: i16 = 64;
/// DescribeCluster.
pub const DESCRIBE_CLUSTER: i16 = 60;
/// ListConfigResources; ListClientMetricsResources in v0.
pub const LIST_CONFIG_RESOURCES: i16 = 74;
/// DescribeTopicPartitions.
pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;

/// Our tagged field of a partition in DescribeQuorum's answer: generation (u64) and whether the configuration is joint (u8); of the controllers'
/// group also the heir (i32, -1: none) and the absent controllers (i32 each).
pub const GENERATION_TAG: i32 = 10_000;

/// Our tagged field of a broker in DescribeCluster's answer: what is to leave it (u8): 1 leaderships, 2 its replicas too.
pub const DRAIN_TAG: i32 = 10_000;

/// Our tagged field of a broker that is decommissioned and gone, in DescribeCluster's answer itself: ids (i32 each).
pub const GONE_TAG: i32 = 10_000;

/// Our tagged field of a partition in ListPartitionReassignments' answer: the controllers have it move by themselves (u8, 1).
pub const BY_CONTROLLERS_TAG: i32 = 10_000;

const fn row(key: i16, name: &'static str, min: i16, max: i16) -> ApiRange {
    ApiRange { key, name, min, max, served_min: min }
}

const TABLE: [ApiRange; 36] = [
    ApiRange { key: PRODUCE, name: "Produce", min: 0, max: 13, served_min: 3 },
    row(FETCH, "Fetch", 4, 18),
    row(LIST_OFFSETS, "ListOffsets", 1, 10),
    row(METADATA, "Metadata", 0, 13),
    row(OFFSET_COMMIT, "OffsetCommit", 2, 9),
    row(OFFSET_FETCH, "OffsetFetch", 1, 9),
    row(FIND_COORDINATOR, "FindCoordinator", 0, 6),
    row(JOIN_GROUP, "JoinGroup", 0, 9),
    row(HEARTBEAT, "Heartbeat", 0, 4),
    row(LEAVE_GROUP, "LeaveGroup", 0, 5),
    row(SYNC_GROUP, "SyncGroup", 0, 5),
    row(DESCRIBE_GROUPS, "DescribeGroups", 0, 6),
    row(LIST_GROUPS, "ListGroups", 0, 5),
    row(API_VERSIONS, "ApiVersions", 0, 4),
    row(CREATE_TOPICS, "CreateTopics", 2, 7),
    row(DELETE_TOPICS, "DeleteTopics", 1, 6),
    row(DELETE_RECORDS, "DeleteRecords", 0, 2),
    row(INIT_PRODUCER_ID, "InitProducerId", 0, 5),
    row(OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", 2, 4),
    row(DESCRIBE_CONFIGS, "DescribeConfigs", 1, 4),
    row(ALTER_CONFIGS, "AlterConfigs", 0, 2),
    row(DESCRIBE_LOG_DIRS, "DescribeLogDirs", 1, 4),
    row(CREATE_PARTITIONS, "CreatePartitions", 0, 3),
    row(DELETE_GROUPS, "DeleteGroups", 0, 2),
    row(ELECT_LEADERS, "ElectLeaders", 0, 2),
    row(INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", 0, 1),
    row(ALTER_PARTITION_REASSIGNMENTS, "AlterPartitionReassignments", 0, 1),
    row(LIST_PARTITION_REASSIGNMENTS, "ListPartitionReassignments", 0, 0),
    row(OFFSET_DELETE, "OffsetDelete", 0, 0),
    row(DESCRIBE_CLIENT_QUOTAS, "DescribeClientQuotas", 0, 1),
    row(DESCRIBE_QUORUM, "DescribeQuorum", 0, 2),
    row(UPDATE_FEATURES, "UpdateFeatures", 0, 2),
    row(DESCRIBE_CLUSTER, "DescribeCluster", 0, 2),
    row(UNREGISTER_BROKER, "UnregisterBroker", 0, 0),
    row(LIST_CONFIG_RESOURCES, "ListConfigResources", 0, 1),
    row(DESCRIBE_TOPIC_PARTITIONS, "DescribeTopicPartitions", 0, 0),
];

/// The table, ascending by key.
pub fn supported() -> &'static [ApiRange] {
    &TABLE
}

/// The row of a key.
pub fn range(key: i16) -> Option<ApiRange> {
    TABLE.iter().find(|row| row.key == key).copied()
}

/// Whether a request of this key and version is decoded here.
pub fn is_served(key: i16, version: i16) -> bool {
    range(key).is_some_and(|row| (row.served_min..=row.max).contains(&version))
}

/// Whether the request of this version has a flexible (tagged) body and header v2. False for unknown keys.
pub fn is_flexible(key: i16, version: i16) -> bool {
    let from = match key {
        PRODUCE => 9,
        FETCH => 12,
        LIST_OFFSETS => 6,
        METADATA => 9,
        OFFSET_COMMIT => 8,
        OFFSET_FETCH | JOIN_GROUP => 6,
        FIND_COORDINATOR | LIST_GROUPS => 3,
        HEARTBEAT | LEAVE_GROUP | SYNC_GROUP => 4,
        DESCRIBE_GROUPS => 5,
        DELETE_GROUPS => 2,
        API_VERSIONS => 3,
        CREATE_TOPICS => 5,
        DELETE_TOPICS => 4,
        DELETE_RECORDS => 2,
        INIT_PRODUCER_ID => 2,
        OFFSET_FOR_LEADER_EPOCH => 4,
        DESCRIBE_CONFIGS => 4,
        ALTER_CONFIGS | DESCRIBE_LOG_DIRS | CREATE_PARTITIONS | ELECT_LEADERS => 2,
        INCREMENTAL_ALTER_CONFIGS | DESCRIBE_CLIENT_QUOTAS => 1,
        ALTER_PARTITION_REASSIGNMENTS | LIST_PARTITION_REASSIGNMENTS => 0,
        DESCRIBE_QUORUM | UPDATE_FEATURES | DESCRIBE_CLUSTER | UNREGISTER_BROKER => 0,
        LIST_CONFIG_RESOURCES | DESCRIBE_TOPIC_PARTITIONS => 0,
        _ => return false,
    };
    version >= from
}

/// Whether the response header of this version carries a tag buffer (v1). ApiVersions never does (KIP-511): a client
/// that guessed too high must still be able to read the answer.
pub fn has_tagged_response_header(key: i16, version: i16) -> bool {
    key != API_VERSIONS && is_flexible(key, version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiKey;

    #[test]
    fn table_is_ascending_and_inside_what_the_codec_decodes() {
        assert!(TABLE.windows(2).all(|pair| pair[0].key < pair[1].key));
        for row in supported() {
            let api = ApiKey::try_from(row.key).expect("key known to the codec");
            assert_eq!(format!("{api:?}"), row.name);
            let valid = api.valid_versions();
            assert!(row.min <= row.served_min && row.served_min <= row.max, "{row:?}");
            assert!(valid.min <= row.served_min && row.max <= valid.max, "{row:?} against {valid}");
        }
    }

    #[test]
    fn flexible_versions_and_headers_match_the_codec() {
        for row in supported() {
            let api = ApiKey::try_from(row.key).expect("key known to the codec");
            for version in row.served_min..=row.max {
                assert_eq!(
                    api.request_header_version(version) == 2,
                    is_flexible(row.key, version),
                    "{row:?}"
                );
                assert_eq!(
                    api.response_header_version(version) == 1,
                    has_tagged_response_header(row.key, version),
                    "{row:?} v{version}"
                );
            }
        }
    }

    #[test]
    fn produce_below_three_is_advertised_but_not_served() {
        assert_eq!(range(PRODUCE).map(|row| row.min), Some(0));
        assert!(!is_served(PRODUCE, 2) && is_served(PRODUCE, 3) && !is_served(PRODUCE, 14));
        assert!(range(17).is_none() && !is_served(17, 0) && !is_flexible(17, 9));
    }

    /// The table rows of `docs/compatibility.md` between the two markers.
    #[test]
    fn documented_table_equals_the_served_table() {
        let page = include_str!("../../docs/compatibility.md");
        let table = page.split("<!-- table -->").nth(1).expect("marker").split("<!-- /table -->").next();
        let rows: Vec<String> = table
            .expect("end marker")
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| key"))
            .map(|line| line.split('|').map(str::trim).take(5).collect::<Vec<_>>().join("|"))
            .collect();
        let expected: Vec<String> = supported()
            .iter()
            .map(|r| format!("|{}|{}|{}-{}|{}-{}", r.key, r.name, r.min, r.max, r.served_min, r.max))
            .collect();
        assert_eq!(rows, expected);
    }
}
