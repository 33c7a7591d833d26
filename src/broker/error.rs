//! The only map from our errors to Kafka error codes, and why a connection is closed.
//!
//! Not here: the errors themselves (`broker::api`, `ctl::command`, `wire`), nor when they arise.
//! Called by the handlers and by the connection loop.
//! Invariants: every variant of every error has a code; a code given to Fetch is one that Java's Fetcher and
//! librdkafka know how to retry (an unexpected code there is an exception in the application).

use super::api::{LeaderHint, PartitionError};
use super::fetch_sessions::SessionError;
use super::groups::GroupError;
use crate::ctl::command::Error as ControllerError;
use crate::wire::batch::BatchError;
use crate::wire::frame::FrameError;
use std::time::Duration;

/// Kafka's error codes, by Kafka's names; only those we send.
#[allow(missing_docs)]
pub mod code {
    pub const UNKNOWN_SERVER_ERROR: i16 = -1;
    pub const NONE: i16 = 0;
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const LEADER_NOT_AVAILABLE: i16 = 5;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const REQUEST_TIMED_OUT: i16 = 7;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const OFFSET_METADATA_TOO_LARGE: i16 = 12;
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub const NOT_COORDINATOR: i16 = 16;
    pub const INVALID_TOPIC_EXCEPTION: i16 = 17;
    pub const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub const INVALID_GROUP_ID: i16 = 24;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const INVALID_SESSION_TIMEOUT: i16 = 26;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const INVALID_COMMIT_OFFSET_SIZE: i16 = 28;
    pub const INVALID_TIMESTAMP: i16 = 32;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
    pub const INVALID_CONFIG: i16 = 40;
    pub const NOT_CONTROLLER: i16 = 41;
    pub const INVALID_REQUEST: i16 = 42;
    pub const POLICY_VIOLATION: i16 = 44;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const INVALID_TXN_STATE: i16 = 48;
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const NON_EMPTY_GROUP: i16 = 68;
    pub const GROUP_ID_NOT_FOUND: i16 = 69;
    pub const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub const LISTENER_NOT_FOUND: i16 = 72;
    pub const FENCED_LEADER_EPOCH: i16 = 74;
    pub const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub const STALE_BROKER_EPOCH: i16 = 77;
    pub const OFFSET_NOT_AVAILABLE: i16 = 78;
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    pub const PREFERRED_LEADER_NOT_AVAILABLE: i16 = 80;
    pub const GROUP_MAX_SIZE_REACHED: i16 = 81;
    pub const FENCED_INSTANCE_ID: i16 = 82;
    pub const ELIGIBLE_LEADERS_NOT_AVAILABLE: i16 = 83;
    pub const ELECTION_NOT_NEEDED: i16 = 84;
    pub const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;
    pub const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
    pub const INVALID_RECORD: i16 = 87;
    pub const INVALID_UPDATE_VERSION: i16 = 95;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
    pub const BROKER_ID_NOT_REGISTERED: i16 = 102;
    pub const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;
    pub const MISMATCHED_ENDPOINT_TYPE: i16 = 114;
    pub const UNSUPPORTED_ENDPOINT_TYPE: i16 = 115;
}

/// Code of a failed partition operation, where no narrower rule applies (Produce, DeleteRecords, OffsetForLeaderEpoch).
pub fn partition(error: &PartitionError) -> i16 {
    match error {
        PartitionError::NotLeader { .. } => code::NOT_LEADER_OR_FOLLOWER,
        PartitionError::Unknown => code::UNKNOWN_TOPIC_OR_PARTITION,
        PartitionError::FencedEpoch { .. } => code::FENCED_LEADER_EPOCH,
        PartitionError::UnknownEpoch { .. } => code::UNKNOWN_LEADER_EPOCH,
        PartitionError::OutOfRange { .. } => code::OFFSET_OUT_OF_RANGE,
        PartitionError::NotEstablished => code::LEADER_NOT_AVAILABLE,
        // Busy: nothing was taken; this is the one "try again" code that old and new producers all retry.
        PartitionError::TimedOut | PartitionError::Busy => code::REQUEST_TIMED_OUT,
        PartitionError::NotEnoughReplicas => code::NOT_ENOUGH_REPLICAS,
        PartitionError::NotEnoughReplicasAfterAppend => code::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        PartitionError::OutOfOrderSequence(_) => code::OUT_OF_ORDER_SEQUENCE_NUMBER,
        PartitionError::InvalidProducerEpoch { .. } => code::INVALID_PRODUCER_EPOCH,
        // A full disk answers retriably, before anything is taken; clients then also look for another leader.
        PartitionError::Storage(_) | PartitionError::DiskFull => code::KAFKA_STORAGE_ERROR,
        PartitionError::Invalid(_) => code::INVALID_REQUEST,
    }
}

/// Code of a Fetch that has no session to go on with.
pub fn fetch_session(error: SessionError) -> i16 {
    match error {
        SessionError::UnknownId => code::FETCH_SESSION_ID_NOT_FOUND,
        SessionError::InvalidEpoch => code::INVALID_FETCH_SESSION_EPOCH,
        SessionError::TopicIds => code::FETCH_SESSION_TOPIC_ID_ERROR,
    }
}

/// Code of a failed Fetch of one partition.
pub fn fetch(error: &PartitionError) -> i16 {
    match error {
        // Java's Fetcher throws on codes it does not expect; this one makes every client refresh and come back.
        PartitionError::NotEstablished | PartitionError::TimedOut | PartitionError::Busy => {
            code::NOT_LEADER_OR_FOLLOWER
        }
        PartitionError::Invalid(_) => code::UNKNOWN_SERVER_ERROR,
        other => partition(other),
    }
}

/// Code of a failed ListOffsets of one partition: OFFSET_NOT_AVAILABLE exists from v5 on (KIP-207).
pub fn list_offsets(error: &PartitionError, version: i16) -> i16 {
    match error {
        PartitionError::NotEstablished if version >= 5 => code::OFFSET_NOT_AVAILABLE,
        other => partition(other),
    }
}

/// Code of a refused request of a consumer group, or of one of its rows.
pub fn group(error: &GroupError) -> i16 {
    match error {
        GroupError::NotCoordinator => code::NOT_COORDINATOR,
        GroupError::Loading => code::COORDINATOR_LOAD_IN_PROGRESS,
        GroupError::NotAvailable => code::COORDINATOR_NOT_AVAILABLE,
        GroupError::InvalidGroup => code::INVALID_GROUP_ID,
        GroupError::UnknownMember => code::UNKNOWN_MEMBER_ID,
        GroupError::FencedInstance => code::FENCED_INSTANCE_ID,
        GroupError::MemberIdRequired(_) => code::MEMBER_ID_REQUIRED,
        GroupError::IllegalGeneration => code::ILLEGAL_GENERATION,
        GroupError::InconsistentProtocol => code::INCONSISTENT_GROUP_PROTOCOL,
        GroupError::InvalidSessionTimeout => code::INVALID_SESSION_TIMEOUT,
        GroupError::Rebalancing => code::REBALANCE_IN_PROGRESS,
        GroupError::Full | GroupError::NoRoom => code::GROUP_MAX_SIZE_REACHED,
        GroupError::UnknownGroup => code::GROUP_ID_NOT_FOUND,
        GroupError::NotEmpty => code::NON_EMPTY_GROUP,
        GroupError::Subscribed => code::GROUP_SUBSCRIBED_TO_TOPIC,
        GroupError::MetadataTooLarge => code::OFFSET_METADATA_TOO_LARGE,
        // What Kafka says to members whose record does not fit; of a commit see `commit`.
        GroupError::TooLarge => code::UNKNOWN_SERVER_ERROR,
        GroupError::UnknownPartition => code::UNKNOWN_TOPIC_OR_PARTITION,
        GroupError::InvalidMetadata => code::INVALID_REQUEST,
    }
}

/// Code of a failed SyncGroup: clients know no "loading" there, and all of them join again when the group is rebalancing, as from Kafka.
pub fn sync(error: &GroupError) -> i16 {
    match error {
        GroupError::Loading => code::REBALANCE_IN_PROGRESS,
        other => group(other),
    }
}

/// Code of a failed Heartbeat: while the group is loaded, Kafka says that all is well; sessions begin anew afterwards.
pub fn heartbeat(error: &GroupError) -> i16 {
    match error {
        GroupError::Loading => code::NONE,
        other => group(other),
    }
}

/// Code of a failed OffsetFetch: consumers before 3.9 take COORDINATOR_NOT_AVAILABLE for final there.
pub fn offset_fetch(error: &GroupError) -> i16 {
    match error {
        GroupError::NotAvailable => code::NOT_COORDINATOR,
        other => group(other),
    }
}

/// Code of a failed OffsetCommit.
pub fn commit(error: &GroupError) -> i16 {
    match error {
        GroupError::TooLarge => code::INVALID_COMMIT_OFFSET_SIZE,
        // Nothing is wrong with the commit, and room may come.
        GroupError::NoRoom => code::COORDINATOR_NOT_AVAILABLE,
        other => group(other),
    }
}

/// Code of a refused batch.
pub fn batch(error: &BatchError) -> i16 {
    match error {
        BatchError::Corrupt(_) => code::CORRUPT_MESSAGE,
        // Kafka answers INVALID_RECORD to an old format in a Produce of v3 or later (ProduceRequest.validateRecords).
        BatchError::Invalid(_) | BatchError::OldFormat(_) => code::INVALID_RECORD,
        BatchError::Codec(_) => code::UNSUPPORTED_COMPRESSION_TYPE,
        BatchError::TooLarge { .. } => code::MESSAGE_TOO_LARGE,
        BatchError::Timestamp(_) => code::INVALID_TIMESTAMP,
    }
}

/// Code of a refused controller command.
pub fn controller(error: &ControllerError) -> i16 {
    match error {
        ControllerError::TopicExists(_) => code::TOPIC_ALREADY_EXISTS,
        ControllerError::UnknownTopic(_) | ControllerError::UnknownPartition(..) => {
            code::UNKNOWN_TOPIC_OR_PARTITION
        }
        ControllerError::NoReassignment => code::NO_REASSIGNMENT_IN_PROGRESS,
        ControllerError::UnknownTopicId(_) => code::UNKNOWN_TOPIC_ID,
        ControllerError::InvalidTopic(_) => code::INVALID_TOPIC_EXCEPTION,
        ControllerError::InvalidPartitions(_) => code::INVALID_PARTITIONS,
        ControllerError::InvalidReplicationFactor(_) => code::INVALID_REPLICATION_FACTOR,
        ControllerError::InvalidAssignment(_) => code::INVALID_REPLICA_ASSIGNMENT,
        ControllerError::InvalidConfig(_) => code::INVALID_CONFIG,
        ControllerError::InvalidRequest(_) => code::INVALID_REQUEST,
        ControllerError::StaleBroker(_) => code::STALE_BROKER_EPOCH,
        ControllerError::UnknownBroker(_) => code::BROKER_ID_NOT_REGISTERED,
        ControllerError::Refused(_) => code::POLICY_VIOLATION,
        ControllerError::NotController => code::NOT_CONTROLLER,
        ControllerError::TimedOut => code::REQUEST_TIMED_OUT,
    }
}

/// Code of a topic that Metadata could not create: a silent controller must read as "not yet", never as fatal.
pub fn auto_create(error: &ControllerError) -> i16 {
    match error {
        ControllerError::NotController | ControllerError::TimedOut => code::LEADER_NOT_AVAILABLE,
        other => controller(other),
    }
}

/// Code of a failed InitProducerId. Kafka's own brokers say COORDINATOR_LOAD_IN_PROGRESS while they have no block of
/// ids, and it is the one code that every client retries here.
pub fn init_producer_id(error: &ControllerError) -> i16 {
    match error {
        ControllerError::NotController
        | ControllerError::TimedOut
        | ControllerError::StaleBroker(_)
        | ControllerError::Refused(_) => code::COORDINATOR_LOAD_IN_PROGRESS,
        other => controller(other),
    }
}

/// Who leads instead, where the error says so (KIP-951).
pub fn leader_hint(error: &PartitionError) -> Option<LeaderHint> {
    match error {
        PartitionError::NotLeader { leader } | PartitionError::FencedEpoch { leader, .. } => *leader,
        _ => None,
    }
}

/// Why a connection is closed; logged once, where it is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed it.
    #[error("closed by the client")]
    Eof,
    /// Orderly stop: nothing was under way any more.
    #[error("the listener is stopping")]
    Drained,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] std::io::Error),
    /// The frame, its header or its counts are not acceptable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The codec refused a body.
    #[error("api key {key} version {version} does not decode: {text}")]
    Decode {
        /// API key of the request.
        key: i16,
        /// Its version.
        version: i16,
        /// What the codec said.
        text: String,
    },
    /// A response of ours does not fit its version: a defect, never the client's fault.
    #[error("response to api key {key} version {version} does not encode: {text}")]
    Encode {
        /// API key of the request.
        key: i16,
        /// Its version.
        version: i16,
        /// What the codec said.
        text: String,
    },
    /// Nothing was sent after connecting.
    #[error("no first byte within {0:?}")]
    FirstByte(Duration),
    /// No traffic and no work for longer than `connections.max.idle.ms`.
    #[error("idle for {0:?}")]
    Idle(Duration),
    /// A frame was begun and did not continue.
    #[error("incomplete frame for {0:?}")]
    Stalled(Duration),
    /// The client does not read its responses.
    #[error("response not taken for {0:?}")]
    SlowReader(Duration),
    /// Closing is Kafka's only way to report a failed Produce with acks=0.
    #[error("produce with acks=0 failed with error code {0}")]
    SilentProduce(i16),
}

impl CloseReason {
    /// Whether it is nothing to look into: clients come and go.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::Eof | Self::Drained | Self::Io(_) | Self::Idle(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::NodeId;
    use uuid::Uuid;

    #[test]
    fn partition_errors_have_kafkas_codes() {
        let leader = Some(LeaderHint { node: NodeId(2), epoch: 9 });
        let table = [
            (PartitionError::NotLeader { leader }, 6, 6, 6),
            (PartitionError::Unknown, 3, 3, 3),
            (PartitionError::FencedEpoch { given: 1, current: 2, leader }, 74, 74, 74),
            (PartitionError::UnknownEpoch { given: 3, current: 2 }, 75, 75, 75),
            (PartitionError::OutOfRange { offset: 9, start: 0, end: 5 }, 1, 1, 1),
            (PartitionError::NotEstablished, 5, 6, 78),
            (PartitionError::TimedOut, 7, 6, 7),
            (PartitionError::NotEnoughReplicas, 19, 19, 19),
            (PartitionError::NotEnoughReplicasAfterAppend, 20, 20, 20),
            (PartitionError::OutOfOrderSequence("x".into()), 45, 45, 45),
            (PartitionError::InvalidProducerEpoch { given: 0, current: 1 }, 47, 47, 47),
            (PartitionError::Storage("x".into()), 56, 56, 56),
            (PartitionError::DiskFull, 56, 56, 56),
            (PartitionError::Busy, 7, 6, 7),
            (PartitionError::Invalid("x".into()), 42, -1, 42),
        ];
        for (error, produce, fetched, listed) in table {
            assert_eq!(partition(&error), produce, "{error}");
            assert_eq!(fetch(&error), fetched, "fetch: {error}");
            assert_eq!(list_offsets(&error, 5), listed, "list_offsets: {error}");
        }
        assert_eq!(list_offsets(&PartitionError::NotEstablished, 4), 5);
    }

    #[test]
    fn fetch_codes_are_those_java_expects() {
        // Fetcher / FetchCollector.handleInitializeErrors: anything else is an IllegalStateException.
        let expected = [1, 2, 3, 6, 9, 29, 56, 74, 75, 78, 100, 103, -1];
        for error in [
            PartitionError::NotEstablished,
            PartitionError::TimedOut,
            PartitionError::Busy,
            PartitionError::Invalid("x".into()),
            PartitionError::Storage("x".into()),
            PartitionError::DiskFull,
            PartitionError::Unknown,
        ] {
            assert!(expected.contains(&fetch(&error)), "{error}");
        }
    }

    #[test]
    fn controller_errors_have_kafkas_codes() {
        let text = String::from("x");
        let table = [
            (ControllerError::TopicExists(text.clone()), 36),
            (ControllerError::UnknownTopic(text.clone()), 3),
            (ControllerError::UnknownTopicId(Uuid::nil()), 100),
            (ControllerError::InvalidTopic(text.clone()), 17),
            (ControllerError::InvalidPartitions(text.clone()), 37),
            (ControllerError::InvalidReplicationFactor(text.clone()), 38),
            (ControllerError::InvalidAssignment(text.clone()), 39),
            (ControllerError::InvalidConfig(text.clone()), 40),
            (ControllerError::InvalidRequest(text.clone()), 42),
            (ControllerError::StaleBroker(NodeId(1)), 77),
            (ControllerError::Refused(text), 44),
            (ControllerError::NotController, 41),
            (ControllerError::TimedOut, 7),
        ];
        for (error, expected) in table {
            assert_eq!(controller(&error), expected, "{error}");
        }
        assert_eq!(auto_create(&ControllerError::NotController), 5);
        assert_eq!(auto_create(&ControllerError::InvalidTopic("x".into())), 17);
        assert_eq!(init_producer_id(&ControllerError::NotController), 14);
        assert_eq!(init_producer_id(&ControllerError::InvalidRequest("x".into())), 42);
    }

    #[test]
    fn batch_errors_have_kafkas_codes() {
        let table = [
            (BatchError::Corrupt("x"), 2),
            (BatchError::Invalid("x"), 87),
            (BatchError::OldFormat(1), 87),
            (BatchError::Codec(4), 76),
            (BatchError::TooLarge { size: 2, limit: 1 }, 10),
            (BatchError::Timestamp(7), 32),
        ];
        for (error, expected) in table {
            assert_eq!(batch(&error), expected, "{error}");
        }
    }

    #[test]
    fn groups_errors_have_the_codes_that_clients_retry_in_each_request() {
        let table = [
            (GroupError::Loading, 14, 27, 0, 14, 14),
            (GroupError::NotCoordinator, 16, 16, 16, 16, 16),
            (GroupError::NotAvailable, 15, 15, 15, 16, 15),
            (GroupError::Rebalancing, 27, 27, 27, 27, 27),
            (GroupError::TooLarge, -1, -1, -1, -1, 28),
            (GroupError::NoRoom, 81, 81, 81, 81, 15),
        ];
        for (error, any, synced, beat, fetched, committed) in table {
            assert_eq!(group(&error), any, "{error}");
            assert_eq!(sync(&error), synced, "sync: {error}");
            assert_eq!(heartbeat(&error), beat, "heartbeat: {error}");
            assert_eq!(offset_fetch(&error), fetched, "offset fetch: {error}");
            assert_eq!(commit(&error), committed, "commit: {error}");
        }
    }

    #[test]
    fn leader_hint_is_taken_from_the_errors_that_carry_one() {
        let leader = Some(LeaderHint { node: NodeId(2), epoch: 9 });
        assert_eq!(leader_hint(&PartitionError::NotLeader { leader }), leader);
        assert_eq!(leader_hint(&PartitionError::FencedEpoch { given: 1, current: 2, leader }), leader);
        assert_eq!(leader_hint(&PartitionError::Unknown), None);
    }

    #[test]
    fn codes_are_those_of_the_protocol() {
        use kafka_protocol::error::ResponseError as Kafka;
        for (ours, kafka) in [
            (code::COORDINATOR_LOAD_IN_PROGRESS, Kafka::CoordinatorLoadInProgress),
            (code::INVALID_TXN_STATE, Kafka::InvalidTxnState),
            (code::KAFKA_STORAGE_ERROR, Kafka::KafkaStorageError),
            (code::LISTENER_NOT_FOUND, Kafka::ListenerNotFound),
            (code::OFFSET_NOT_AVAILABLE, Kafka::OffsetNotAvailable),
            (code::UNKNOWN_TOPIC_ID, Kafka::UnknownTopicId),
            (code::FETCH_SESSION_ID_NOT_FOUND, Kafka::FetchSessionIdNotFound),
            (code::INVALID_FETCH_SESSION_EPOCH, Kafka::InvalidFetchSessionEpoch),
            (code::FETCH_SESSION_TOPIC_ID_ERROR, Kafka::FetchSessionTopicIdError),
            (code::INVALID_UPDATE_VERSION, Kafka::InvalidUpdateVersion),
            (code::POLICY_VIOLATION, Kafka::PolicyViolation),
            (code::STALE_BROKER_EPOCH, Kafka::StaleBrokerEpoch),
            (code::INVALID_RECORD, Kafka::InvalidRecord),
            (code::OFFSET_METADATA_TOO_LARGE, Kafka::OffsetMetadataTooLarge),
            (code::COORDINATOR_NOT_AVAILABLE, Kafka::CoordinatorNotAvailable),
            (code::NOT_COORDINATOR, Kafka::NotCoordinator),
            (code::ILLEGAL_GENERATION, Kafka::IllegalGeneration),
            (code::INCONSISTENT_GROUP_PROTOCOL, Kafka::InconsistentGroupProtocol),
            (code::INVALID_GROUP_ID, Kafka::InvalidGroupId),
            (code::UNKNOWN_MEMBER_ID, Kafka::UnknownMemberId),
            (code::INVALID_SESSION_TIMEOUT, Kafka::InvalidSessionTimeout),
            (code::REBALANCE_IN_PROGRESS, Kafka::RebalanceInProgress),
            (code::INVALID_COMMIT_OFFSET_SIZE, Kafka::InvalidCommitOffsetSize),
            (code::NON_EMPTY_GROUP, Kafka::NonEmptyGroup),
            (code::GROUP_ID_NOT_FOUND, Kafka::GroupIdNotFound),
            (code::MEMBER_ID_REQUIRED, Kafka::MemberIdRequired),
            (code::GROUP_MAX_SIZE_REACHED, Kafka::GroupMaxSizeReached),
            (code::FENCED_INSTANCE_ID, Kafka::FencedInstanceId),
            (code::GROUP_SUBSCRIBED_TO_TOPIC, Kafka::GroupSubscribedToTopic),
        ] {
            assert_eq!(ours, kafka.code());
        }
    }
}
