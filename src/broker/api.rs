//! What request handlers may ask of the node: partitions, metadata, controller. (contract stub)
//! A `NodeHandle` is a cheap clone; its channels are private. Every queue behind it is bounded.
use crate::ctl::command::{Command, Error as CtlError, Reply};
use crate::ctl::image::Image;
use crate::segment::{FrameCheck, GroupId, NodeId};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Why a partition operation failed; `broker::error` is the only map to Kafka codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PartitionError {
    /// Another broker leads (hint if known), or this one has no replica.
    #[error("not the leader")]
    NotLeader { leader: Option<LeaderHint> },
    #[error("unknown partition")]
    Unknown,
    #[error("leader epoch {given} is fenced, current is {current}")]
    FencedEpoch { given: i32, current: i32, leader: Option<LeaderHint> },
    #[error("leader epoch {given} is unknown, current is {current}")]
    UnknownEpoch { given: i32, current: i32 },
    #[error("offset {offset} is out of range [{start}, {end}]")]
    OutOfRange { offset: i64, start: i64, end: i64 },
    /// New leader, own term not committed yet (OFFSET_NOT_AVAILABLE).
    #[error("offset not available yet")]
    NotEstablished,
    #[error("timed out")]
    TimedOut,
    #[error("not enough in-sync replicas")]
    NotEnoughReplicas,
    #[error("not enough in-sync replicas after append")]
    NotEnoughReplicasAfterAppend,
    #[error("out of order sequence: {0}")]
    OutOfOrderSequence(String),
    #[error("producer epoch {given} is older than {current}")]
    InvalidProducerEpoch { given: i16, current: i16 },
    #[error("storage: {0}")]
    Storage(String),
    #[error("disk full")]
    DiskFull,
    #[error("too many requests waiting")]
    Busy,
    #[error("{0}")]
    Invalid(String),
}
/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LeaderHint {
    pub node: NodeId,
    pub epoch: i32,
}

/// One partition of a Produce, batch already validated (`wire::batch::validate`).
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ProduceItem {
    pub group: GroupId,
    pub batch: BytesMut,
    pub header: crate::wire::batch::BatchHeader,
    pub min_insync: i32,
}
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Produced {
    pub base_offset: i64,
    pub log_start_offset: i64,
}

/// One partition of a Fetch.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct FetchItem {
    pub group: GroupId,
    pub offset: i64,
    pub max_bytes: usize,
    pub current_leader_epoch: i32,
    pub last_fetched_epoch: i32,
}
#[derive(Default)]
#[allow(missing_docs)]
pub struct Fetched {
    pub error: Option<PartitionError>,
    pub high_watermark: i64,
    pub log_start_offset: i64,
    pub diverging_epoch: Option<(i32, i64)>,
    pub batches: Vec<Bytes>,
    /// Checks to make before sending (off the executor if not resident), aligned with `batches`.
    pub checks: Vec<Option<FrameCheck>>,
}
/// Limits of a whole Fetch.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct FetchLimits {
    pub min_bytes: usize,
    pub max_bytes: usize,
    pub max_wait_ms: u64,
}

/// Special and ordinary timestamps of ListOffsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OffsetSpec {
    Latest,
    Earliest,
    MaxTimestamp,
    EarliestLocal,
    LatestTiered,
    EarliestPendingUpload,
    Timestamp(i64),
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ListedOffset {
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

/// What is known of a partition's leadership (soft state).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionState {
    pub leader: Option<LeaderHint>,
    pub in_sync: Vec<NodeId>,
    pub high_watermark: i64,
    pub log_start: i64,
    pub log_end: i64,
    pub size_bytes: u64,
    pub local: bool,
    pub needs_repair: bool,
}

/// Handle to one node.
#[derive(Clone)]
pub struct NodeHandle {}
impl NodeHandle {
    /// This node.
    pub fn node_id(&self) -> NodeId {
        unimplemented!()
    }
    /// The current metadata image (a snapshot).
    pub fn image(&self) -> Arc<Image> {
        unimplemented!()
    }
    /// Waits until the image has applied entry `number` or the time is over.
    pub async fn image_at(&self, _number: u64, _timeout_ms: u64) -> Arc<Image> {
        unimplemented!()
    }
    /// Effective configuration and defaults of this node.
    pub fn config(&self) -> Arc<super::config::NodeConfig> {
        unimplemented!()
    }
    /// Leadership of these groups as this node knows it.
    pub async fn partition_states(&self, _groups: &[GroupId]) -> Vec<PartitionState> {
        unimplemented!()
    }
    /// Appends; one result per item, in order. acks 0/1 resolve on the leader's own sync (0: on append), -1 on commit held by min_insync voters.
    pub async fn produce(
        &self,
        _items: Vec<ProduceItem>,
        _acks: i16,
        _timeout_ms: u64,
    ) -> Vec<Result<Produced, PartitionError>> {
        unimplemented!()
    }
    /// Reads; one result per item, in order; waits up to max_wait_ms for min_bytes.
    pub async fn fetch(&self, _items: Vec<FetchItem>, _limits: FetchLimits) -> Vec<Fetched> {
        unimplemented!()
    }
    /// ListOffsets of one partition (after a ReadIndex round).
    pub async fn list_offset(
        &self,
        _group: GroupId,
        _spec: OffsetSpec,
        _current_leader_epoch: i32,
    ) -> Result<ListedOffset, PartitionError> {
        unimplemented!()
    }
    /// OffsetForLeaderEpoch (after a ReadIndex round): (epoch, end offset), (-1,-1) if undefined.
    pub async fn epoch_end(
        &self,
        _group: GroupId,
        _epoch: i32,
        _current_leader_epoch: i32,
    ) -> Result<(i32, i64), PartitionError> {
        unimplemented!()
    }
    /// DeleteRecords below `offset` (-1: the high watermark); answers the new log start once committed.
    pub async fn delete_records(
        &self,
        _group: GroupId,
        _offset: i64,
        _timeout_ms: u64,
    ) -> Result<i64, PartitionError> {
        unimplemented!()
    }
    /// Asks the controller leader (forwarded if that is another node). On success the local image has applied the change.
    pub async fn controller(&self, _command: Command, _timeout_ms: u64) -> Result<Reply, CtlError> {
        unimplemented!()
    }
    /// Next producer id (block from the controller, handed out one by one).
    pub async fn producer_id(&self) -> Result<i64, CtlError> {
        unimplemented!()
    }
    /// Who leads the controller group, if known.
    pub fn controller_leader(&self) -> Option<NodeId> {
        unimplemented!()
    }
    /// Node health: registered, storage failure text, disk full.
    pub fn status(&self) -> NodeStatus {
        unimplemented!()
    }
}
/// For /health, /ready and `cluster health`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct NodeStatus {
    pub registered: bool,
    pub incarnation: u64,
    pub storage_failure: Option<String>,
    pub disk_full: bool,
    pub led: usize,
    pub replicas: usize,
    pub leaderless: usize,
    pub damaged: Vec<GroupId>,
}
