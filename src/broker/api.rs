//! What request handlers may ask of the node: partitions, metadata, controller.
//!
//! A `NodeHandle` is a cheap clone; its channels are private. Every queue behind it is bounded.
use super::awaited::Awaited;
use super::config::NodeConfig;
use super::fetch_sessions::{self, Opened, Opening, SessionError, Settled, Told};
use super::groups::{Ask, GroupError, Listed, Reply as GroupReply};
use super::node::{Clock, Published};
use super::peer::KillSwitch;
use super::shard;
use crate::ctl::command::{Command, Error as CtlError, Reply};
use crate::ctl::image::Image;
use crate::ctl::recovery::PartitionReport;
use crate::segment::{FrameCheck, GroupId, LogId, NodeId, Offset, ScrubStats};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};

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
    /// Nothing was found as far as it was looked, and there is more to look at: to be asked again at once.
    pub goes_on: bool,
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

/// What a leader knows of its group's replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Quorum {
    pub leader: NodeId,
    pub epoch: i32,
    pub generation: u64,
    /// The voters are being changed: those of both halves are named. Of the controllers' group, until that is committed.
    pub is_joint: bool,
    pub high_watermark: i64,
    pub voters: Vec<QuorumReplica>,
    pub learners: Vec<QuorumReplica>,
    /// Of two controllers: who alone may go on without the other.
    #[serde(default)]
    pub heir: Option<NodeId>,
    /// Of the controllers' group: controllers that are to vote and do not, or vote and are not there.
    #[serde(default)]
    pub absent: Vec<NodeId>,
}
/// One of them. Times are those of the leader's wall clock, -1 for never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct QuorumReplica {
    pub node: NodeId,
    /// The offset after what it is known to hold; -1 if unknown.
    pub end: i64,
    pub heard_ms: i64,
    pub caught_up_ms: i64,
}

/// What is known of a partition's leadership (soft state).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Who votes, and the generation, as the replica here has it in its log.
    pub voters: Vec<NodeId>,
    pub generation: u64,
    /// The leader's process ended a moment ago: another one is being elected.
    pub electing: bool,
    /// Epoch of the last leader that was heard of, whether or not it is there; -1 if none.
    pub epoch: i32,
}

/// Bytes of produce requests admitted and not yet answered.
const PRODUCE_BYTES: usize = 256 << 20;
/// Longest wait for an answer of the shard beyond the request's own deadline.
const CONTROLLER_GRACE_MS: u64 = 5_000;
/// An election or a change of controller takes less.
const CUT_OFF: Duration = Duration::from_secs(1);

struct Inner {
    config: Arc<NodeConfig>,
    commands: mpsc::Sender<shard::Command>,
    images: watch::Receiver<Arc<Image>>,
    published: watch::Receiver<Published>,
    admitted: Arc<Semaphore>,
    /// Producer ids of the current block: next and end.
    producer_ids: Mutex<(i64, i64)>,
    /// Its locks are never held across a wait.
    fetch_sessions: fetch_sessions::Cache,
    /// Likewise.
    awaited: std::sync::Mutex<Awaited>,
    clock: Clock,
    killed: KillSwitch,
}

/// A Produce request in its place in the queue; dropping it gives up the answer, not the appends.
pub struct Submitted {
    answer: Option<oneshot::Receiver<Vec<Result<Produced, PartitionError>>>>,
    count: usize,
}

impl Submitted {
    /// Second half of `produce`: one result per item, in order.
    pub async fn results(self) -> Vec<Result<Produced, PartitionError>> {
        let answer = match self.answer {
            Some(answer) => answer.await.ok(),
            None => None,
        };
        // The node is stopping.
        answer.unwrap_or_else(|| vec![Err(PartitionError::NotLeader { leader: None }); self.count])
    }
}

/// Handle to one node.
#[derive(Clone)]
pub struct NodeHandle {
    inner: Arc<Inner>,
}

impl NodeHandle {
    pub(super) fn new(
        config: Arc<NodeConfig>,
        commands: mpsc::Sender<shard::Command>,
        images: watch::Receiver<Arc<Image>>,
        published: watch::Receiver<Published>,
        killed: KillSwitch,
    ) -> Self {
        let admitted = Arc::new(Semaphore::new(PRODUCE_BYTES));
        let producer_ids = Mutex::new((0, 0));
        let fetch_sessions = fetch_sessions::Cache::new(config.fetch_session_slots);
        let clock = Clock::start();
        Self {
            inner: Arc::new(Inner {
                config,
                commands,
                images,
                published,
                admitted,
                producer_ids,
                fetch_sessions,
                awaited: std::sync::Mutex::default(),
                clock,
                killed,
            }),
        }
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.inner.config.node_id
    }

    /// What is known of partitions that were never led.
    pub(super) fn awaited<T>(&self, work: impl FnOnce(&mut Awaited) -> T) -> T {
        work(&mut self.inner.awaited.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The current metadata image (a snapshot).
    pub fn image(&self) -> Arc<Image> {
        self.inner.images.borrow().clone()
    }

    /// Waits until the image has applied entry `number` or the time is over.
    pub async fn image_at(&self, number: u64, timeout_ms: u64) -> Arc<Image> {
        let mut images = self.inner.images.clone();
        let applied = images.wait_for(|image| image.applied >= number);
        match tokio::time::timeout(Duration::from_millis(timeout_ms), applied).await {
            Ok(Ok(image)) => image.clone(),
            _ => self.image(),
        }
    }

    /// Effective configuration and defaults of this node.
    pub fn config(&self) -> Arc<NodeConfig> {
        self.inner.config.clone()
    }

    /// Whether the node was killed (its sockets are to be reset).
    pub fn is_killed(&self) -> bool {
        self.inner.killed.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> shard::Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inner.commands.send(make(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Leadership of these groups as this node knows it.
    pub async fn partition_states(&self, groups: &[GroupId]) -> Vec<PartitionState> {
        let groups = groups.to_vec();
        self.ask(|reply| shard::Command::States { groups, reply }).await.unwrap_or_default()
    }

    /// Asks the leaders of these groups to hand them to these nodes; whether they did shows in their states.
    pub async fn hand_over(&self, moves: Vec<(GroupId, NodeId)>) {
        let _asked = self.ask(|reply| shard::Command::HandOver { moves, reply }).await;
    }

    /// Appends; one result per item, in order. acks 1 resolves on the leader's own sync (0: on append), -1 on commit
    /// held by min_insync voters. Waits for admission when too many bytes are unanswered.
    pub async fn produce(
        &self,
        items: Vec<ProduceItem>,
        acks: i16,
        timeout_ms: u64,
    ) -> Vec<Result<Produced, PartitionError>> {
        self.submit(items, acks, timeout_ms).await.results().await
    }

    /// First half of `produce`: resolves once the request has its place in the queue. Who must keep an order among
    /// requests submits the next one only then.
    pub async fn submit(&self, items: Vec<ProduceItem>, acks: i16, timeout_ms: u64) -> Submitted {
        let count = items.len();
        let bytes: usize = items.iter().map(|item| item.batch.len()).sum();
        let wanted = bytes.min(PRODUCE_BYTES) as u32;
        let permit = self.inner.admitted.clone().acquire_many_owned(wanted).await.ok();
        let (reply, answer) = oneshot::channel();
        let command = shard::Command::Produce { items, acks, timeout_ms, permit, reply };
        let queued = self.inner.commands.send(command).await.is_ok();
        Submitted { answer: queued.then_some(answer), count }
    }

    /// Reads; one result per item, in order; waits up to max_wait_ms for min_bytes.
    pub async fn fetch(&self, items: Vec<FetchItem>, limits: FetchLimits) -> Vec<Fetched> {
        let count = items.len();
        let stopping = || {
            let error = || Some(PartitionError::NotLeader { leader: None });
            (0..count).map(|_| Fetched { error: error(), ..Fetched::default() }).collect()
        };
        self.ask(|reply| shard::Command::Fetch { items, limits, reply }).await.unwrap_or_else(stopping)
    }

    /// What a Fetch is to read, by its session if it goes on with one (KIP-227).
    ///
    /// # Errors
    /// There is no such session, or it is not as the client thinks.
    pub fn open_fetch(&self, request: Opening) -> Result<Opened, SessionError> {
        self.inner.fetch_sessions.open(self.inner.clock.mono(), request)
    }

    /// How the answer of a Fetch goes out: `told` = what it would say in full of each partition, in order.
    ///
    /// # Errors
    /// A later request of its session has come meanwhile.
    pub fn settle_fetch(&self, opened: &Opened, told: &[Told]) -> Result<Settled, SessionError> {
        let now = self.inner.clock.mono();
        let begun = fetch_sessions::prepare(opened, told);
        self.inner.fetch_sessions.settle(now, opened, told, begun, rand::random)
    }

    /// Figures of the fetch sessions of this node.
    pub fn fetch_session_stats(&self) -> fetch_sessions::Stats {
        self.inner.fetch_sessions.stats()
    }

    /// ListOffsets of one partition (after a ReadIndex round).
    pub async fn list_offset(
        &self,
        group: GroupId,
        spec: OffsetSpec,
        current_leader_epoch: i32,
    ) -> Result<ListedOffset, PartitionError> {
        let epoch = current_leader_epoch;
        let answer = self.ask(|reply| shard::Command::ListOffset { group, spec, epoch, reply }).await;
        answer.unwrap_or(Err(PartitionError::NotLeader { leader: None }))
    }

    /// OffsetForLeaderEpoch (after a ReadIndex round): (epoch, end offset), (-1,-1) if undefined.
    pub async fn epoch_end(
        &self,
        group: GroupId,
        epoch: i32,
        current_leader_epoch: i32,
    ) -> Result<(i32, i64), PartitionError> {
        let (asked, epoch) = (epoch, current_leader_epoch);
        let answer = self.ask(|reply| shard::Command::EpochEnd { group, asked, epoch, reply }).await;
        answer.unwrap_or(Err(PartitionError::NotLeader { leader: None }))
    }

    /// What this node, which has to lead the group, knows of its replicas; of group 0, what the controller leader knows.
    pub async fn quorum(&self, group: GroupId) -> Result<Quorum, PartitionError> {
        let asked = self.ask(|reply| shard::Command::Quorum { group, reply });
        let answer = tokio::time::timeout(Duration::from_millis(CONTROLLER_GRACE_MS), asked).await;
        answer.ok().flatten().unwrap_or(Err(PartitionError::NotLeader { leader: None }))
    }

    /// DeleteRecords below `offset` (-1: the high watermark); answers the new log start once committed.
    pub async fn delete_records(
        &self,
        group: GroupId,
        offset: i64,
        timeout_ms: u64,
    ) -> Result<i64, PartitionError> {
        let answer =
            self.ask(|reply| shard::Command::DeleteRecords { group, offset, timeout_ms, reply }).await;
        answer.unwrap_or(Err(PartitionError::NotLeader { leader: None }))
    }

    /// Asks the coordinator of a consumer group, which has to lead that partition of `__consumer_offsets`. A JoinGroup may be answered
    /// minutes later.
    pub async fn group(&self, partition: GroupId, name: String, ask: Ask) -> GroupReply {
        let asked = self.ask(|reply| shard::Command::Group { partition, name, ask, reply });
        asked.await.unwrap_or(GroupReply::Refused(GroupError::NotCoordinator))
    }

    /// Consumer groups coordinated by this node, and whether some of them are still being loaded.
    pub async fn groups(&self) -> (Vec<Listed>, bool) {
        self.ask(|reply| shard::Command::Groups { reply }).await.unwrap_or_default()
    }

    /// Asks the controller leader (forwarded if that is another node). On success the local image has applied the change.
    pub async fn controller(&self, command: Command, timeout_ms: u64) -> Result<Reply, CtlError> {
        let asked = self.ask(|reply| shard::Command::Controller { command, timeout_ms, reply });
        let patience = Duration::from_millis(timeout_ms + CONTROLLER_GRACE_MS);
        let answer = tokio::time::timeout(patience, asked).await.map_err(|_| CtlError::TimedOut)?;
        let (reply, number) = answer.ok_or(CtlError::NotController)??;
        self.image_at(number, timeout_ms.max(1000)).await;
        Ok(reply)
    }

    /// Next producer id (block from the controller, handed out one by one).
    pub async fn producer_id(&self) -> Result<i64, CtlError> {
        let mut block = self.inner.producer_ids.lock().await;
        if block.0 == block.1 {
            let command = Command::AllocateProducerIds { node: self.node_id() };
            match self.controller(command, 10_000).await? {
                Reply::ProducerIds { first, count } => *block = (first, first + i64::from(count)),
                other => return Err(CtlError::Refused(format!("unexpected answer {other:?}"))),
            }
        }
        block.0 += 1;
        Ok(block.0 - 1)
    }

    /// How partitions stand that may have lost their majority, and how they could go on; none named: all without a leader. None: no
    /// controller leads, or it did not answer.
    pub async fn recovery_report(&self, groups: Vec<GroupId>) -> Option<Vec<PartitionReport>> {
        let asked = self.ask(|reply| shard::Command::Report { groups, reply });
        tokio::time::timeout(Duration::from_millis(CONTROLLER_GRACE_MS), asked).await.ok()??
    }

    /// Waits until this broker is registered and its image shows it as alive.
    pub async fn registered(&self) {
        let mut published = self.inner.published.clone();
        let incarnation = match published.wait_for(|p| p.status.registered).await {
            Ok(published) => published.status.incarnation,
            Err(_) => return,
        };
        let mut images = self.inner.images.clone();
        let me = self.node_id();
        let alive = |image: &Arc<Image>| {
            image.brokers.get(&me).is_some_and(|b| b.incarnation >= incarnation && !b.fenced)
        };
        let _stopping = images.wait_for(alive).await;
    }

    /// Hands leadership over and waits until storage is quiet; for an orderly stop.
    pub async fn drain(&self) {
        let _drained = self.ask(|reply| shard::Command::Drain { reply }).await;
    }

    /// Who leads the controller group, if known.
    pub fn controller_leader(&self) -> Option<NodeId> {
        self.inner.published.borrow().controller
    }

    /// Waits until this broker is, or is no longer, as good as cut off from all others: it hears no controller or is not registered (it was
    /// decommissioned, say), leads nothing and knows partitions without a leader, all that for a second. What it could tell clients of leaders is old. Never, once the node has ended.
    pub async fn cut_off(&self, wanted: bool) {
        let mut published = self.inner.published.clone();
        let is = |p: &Published| {
            let is_untold = p.controller.is_none() || !p.status.registered;
            is_untold && p.status.led == 0 && p.status.leaderless > 0
        };
        loop {
            if published.wait_for(|p| is(p) == wanted).await.is_err() {
                return std::future::pending().await;
            }
            if !wanted {
                return;
            }
            let otherwise = tokio::time::timeout(CUT_OFF, published.wait_for(|p| !is(p))).await;
            let Ok(ended) = otherwise.map(|word| word.is_err()) else { return };
            if ended {
                return std::future::pending().await;
            }
        }
    }

    /// Node health: registered, storage failure text, disk full.
    pub fn status(&self) -> NodeStatus {
        self.inner.published.borrow().status.clone()
    }
}

/// Entries of one replica that are kept in files of their own (`*.fenced`), since its group went on without them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAside {
    pub group: GroupId,
    /// First and last.
    pub entries: (LogId, LogId),
    /// First offset, and the one after the last.
    pub offsets: (Offset, Offset),
}

/// Who votes among the controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ControllersStatus {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub generation: u64,
    /// Of two voters: who goes on alone if it must.
    pub heir: Option<NodeId>,
    /// Nobody leads, this node is the other one of a pair, and only that heir can go on.
    pub waits_for_heir: Option<NodeId>,
    /// Nobody leads, the voters are being changed, and without these nobody can finish that.
    pub waits_for: Vec<NodeId>,
    /// Sealed to go on alone, and not sure any more of what it holds: nobody can go on in that generation.
    pub is_stuck: bool,
    /// An operator ended this copy by that plan, whose survivor has not been heard yet.
    pub ended_by: Option<u64>,
}

/// For /health, /ready and `cluster health`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct NodeStatus {
    pub registered: bool,
    pub incarnation: u64,
    pub storage_failure: Option<String>,
    pub disk_full: bool,
    /// Committed entries of the controller log cannot be read here at the moment.
    pub unread: bool,
    /// A snapshot in the controller log holds other metadata than this node has, or is waited for and cannot be read.
    pub metadata_differs: Option<String>,
    pub led: usize,
    pub replicas: usize,
    pub leaderless: usize,
    pub damaged: Vec<GroupId>,
    /// Groups with a replica here that cannot have a leader before others are back, or before the controllers decide.
    pub waiting: Vec<GroupId>,
    /// Groups whose replica here cannot go on, why, and what it waits for.
    pub anew: Vec<(GroupId, String)>,
    /// Groups whose replica here may not campaign any more: their generation's terms are used up.
    pub out_of_terms: Vec<GroupId>,
    pub unclean_recoveries: u64,
    /// Partitions with `recovery.policy=auto` may be served from here, or there are none.
    pub leased: bool,
    /// As leader of the controllers: partitions that wait to go on by themselves, and what for.
    pub autos: Vec<(GroupId, String)>,
    /// Why the controllers do not register this broker, if they said so last.
    pub registration_refused: Option<String>,
    /// The controllers' group, as this node's copy of its log has it.
    pub controllers: ControllersStatus,
    /// What replicas here held beyond the logs of their groups' survivors, since this process started.
    pub set_aside: Vec<SetAside>,
    pub scrub: ScrubStats,
    pub cleaner: CleanerStatus,
}

/// What the cleaner of compacted topics did here since this process started.
#[derive(Clone, Debug, Default)]
pub struct CleanerStatus {
    /// Compactions of one partition each.
    pub passes: u64,
    /// Bytes read for them, files read twice counted twice.
    pub bytes_read: u64,
    /// Bytes by which closed segments became smaller.
    pub bytes_freed: u64,
    /// Records removed since there was a later one of the same key.
    pub records_superseded: u64,
    /// Tombstones removed since their time was over.
    pub tombstones_removed: u64,
    /// The partition that is compacted at the moment.
    pub running: Option<GroupId>,
    /// Share of uncompacted bytes of the dirtiest partition, 0 to 1.
    pub dirty_ratio: f64,
    /// Partitions whose last compaction failed, and why.
    pub uncleanable: Vec<(GroupId, String)>,
}
