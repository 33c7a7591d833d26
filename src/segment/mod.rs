//! Bytes on disk: journal, segments, indexes, recovery. (contract stub)
pub mod types;
pub use types::*;

use bytes::Bytes;
use std::path::PathBuf;

/// Failure of storage.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Below the disk reserve; retriable, nothing was taken.
    #[error("data directory is full")]
    DiskFull,
    /// A write or fsync failed: the directory is offline for good.
    #[error("storage failed: {0}")]
    Failed(String),
    /// Bytes on disk do not check out.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The group is not known here.
    #[error("unknown group {0}")]
    UnknownGroup(GroupId),
    /// The index or offset is before the log's start or after its end.
    #[error("out of range")]
    OutOfRange,
    /// The directory cannot be opened (locked, other cluster or node, newer format...). Text says what to do.
    #[error("{0}")]
    Refused(String),
}
/// Result of storage operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Identity a directory must have.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Node id.
    pub node: NodeId,
    /// Cluster id, once known.
    pub cluster: Option<String>,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// Who it must belong to; a new directory is formatted for it.
    pub identity: Identity,
    /// Entries of one group and round at or above this go by reference. Default 64 KiB.
    pub reference_bytes: usize,
    /// Size of one journal file. Default 64 MiB.
    pub journal_file_bytes: u64,
    /// Checkpoint when this much is referenced or journaled. Default 1 GiB / 4 journal files.
    pub checkpoint_bytes: u64,
    /// Free space kept back. Default max(64 MiB, 1 %).
    pub reserve_bytes: u64,
    /// In-memory tails of all groups together. Default 256 MiB.
    pub tail_bytes: usize,
}

/// Per-group knobs (topic configuration).
#[derive(Clone, Debug, PartialEq)]
pub struct GroupOptions {
    /// Roll at this size (segment.bytes).
    pub segment_bytes: u64,
    /// Bytes between index entries (index.interval.bytes).
    pub index_interval_bytes: u32,
}

/// A group found at open.
#[derive(Clone, Debug)]
pub struct RecoveredGroup {
    /// Which.
    pub group: GroupId,
    /// Directory name given at creation.
    pub name: String,
    /// Identity of the local replica.
    pub replica: ReplicaId,
    /// Term, vote, seal...
    pub hard_state: HardState,
    /// Where the log starts.
    pub log_start: LogStart,
    /// Last entry.
    pub last: LogId,
    /// Offset the next record gets.
    pub next_offset: Offset,
    /// First index of every epoch in the log, ascending (starts with the first entry's epoch).
    pub epochs: Vec<(Epoch, Index)>,
    /// Configuration entries in the log, ascending.
    pub configurations: Vec<(LogId, Bytes)>,
    /// Set if a durable range is damaged: it neither leads, votes, truncates nor serves that range.
    pub needs_repair: Option<(Index, Index)>,
}

/// What `create_group` needs.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Which group.
    pub group: GroupId,
    /// Name of its directory under `groups/` (topic id and partition; never the topic's name).
    pub name: String,
    /// Identity of the local replica.
    pub replica: ReplicaId,
    /// State before the first entry: initial configuration.
    pub log_start: LogStart,
    /// Initial hard state.
    pub hard_state: HardState,
    /// Knobs.
    pub options: GroupOptions,
}

/// Everything recovered by [`open`].
pub struct Opened {
    /// Front half, for the engine thread.
    pub store: Store,
    /// Back half, for the IO thread.
    pub writer: Writer,
    /// Every group in the directory.
    pub groups: Vec<RecoveredGroup>,
    /// The directory's uuid.
    pub directory: u128,
    /// Cluster id stored in the directory, if any yet.
    pub cluster: Option<String>,
}

/// Opens (formatting it if new) a data directory on the real file system: locks it, checks identity, recovers.
pub fn open(_options: StoreOptions) -> Result<Opened> {
    unimplemented!()
}

/// Front half of a data directory, owned by one engine thread. Never blocks on the disk except for
/// rolls and preallocation. Everything queued since the last `take_round` becomes one round.
pub struct Store {}
/// Work for the writer: one group commit.
pub struct Round {}
/// What became of a round.
pub struct RoundDone {}
/// Progress of one group after a completed round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Which group.
    pub group: GroupId,
    /// Last entry of it that is durable.
    pub last: LogId,
}

/// One committed batch handed to a consumer.
pub struct FetchedBatch {
    /// Header content.
    pub meta: EntryMeta,
    /// The record batch bytes as stored.
    pub payload: Bytes,
    /// Present if the bytes come from a map and have not been checked: call before sending.
    pub check: Option<FrameCheck>,
}
/// A deferred check of bytes that come from a segment map.
pub struct FrameCheck {}
impl FrameCheck {
    /// Whether all pages are in memory (so `verify` will not block on the disk).
    pub fn is_resident(&self) -> bool {
        unimplemented!()
    }
    /// Checks the frame's CRC; marks the group damaged on failure.
    pub fn verify(&self) -> Result<()> {
        unimplemented!()
    }
}

/// One segment file, for retention decisions.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// First entry.
    pub first: Index,
    /// Base offset of the first entry.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub next_offset: Offset,
    /// Bytes of frames.
    pub bytes: u64,
    /// Largest record timestamp (ms), -1 if none.
    pub max_timestamp: i64,
    /// Whether it is the one appended to.
    pub active: bool,
}

impl Store {
    /// Records the cluster id (once; refused if another is stored). Durable with the returned round.
    pub fn set_cluster(&mut self, _cluster: &str) -> Result<()> {
        unimplemented!()
    }
    /// Creates a group; durable with the next round.
    pub fn create_group(&mut self, _spec: GroupSpec) -> Result<()> {
        unimplemented!()
    }
    /// Forgets a group: renames its directory, unlinks after the removal is durable.
    pub fn remove_group(&mut self, _group: GroupId) -> Result<()> {
        unimplemented!()
    }
    /// Changes a group's knobs.
    pub fn set_options(&mut self, _group: GroupId, _options: GroupOptions) -> Result<()> {
        unimplemented!()
    }
    /// Appends entries that continue the group's log. All-or-nothing: on DiskFull nothing is taken.
    /// Asserts index, predecessor and base offset continue the log.
    pub fn append(&mut self, _group: GroupId, _entries: Vec<Entry>) -> Result<()> {
        unimplemented!()
    }
    /// Removes every entry at or above `from` (`Cut`: the log goes on in a new file).
    pub fn truncate(&mut self, _group: GroupId, _from: Index) -> Result<()> {
        unimplemented!()
    }
    /// Hard state, durable with the next round, ordered with the appends.
    pub fn save_hard_state(&mut self, _group: GroupId, _state: HardState) -> Result<()> {
        unimplemented!()
    }
    /// Moves the log start forward within the log (frees whole segments before it once durable).
    pub fn set_log_start(&mut self, _group: GroupId, _start: LogStart) -> Result<()> {
        unimplemented!()
    }
    /// Replaces the whole log by an empty one that starts at `start` (a follower behind the leader's start).
    pub fn install_log_start(&mut self, _group: GroupId, _start: LogStart) -> Result<()> {
        unimplemented!()
    }
    /// Closes the active segment (segment.ms).
    pub fn roll(&mut self, _group: GroupId) -> Result<()> {
        unimplemented!()
    }

    /// Whether anything waits for a round.
    pub fn has_work(&self) -> bool {
        unimplemented!()
    }
    /// Takes everything queued. Call only when the previous round has completed. The number orders rounds.
    pub fn take_round(&mut self) -> Option<Round> {
        unimplemented!()
    }
    /// Number the next taken round will have: what is queued now is durable once that round completes.
    pub fn next_round(&self) -> u64 {
        unimplemented!()
    }
    /// Takes note of a completed round: returns its number; pushes the progress of each touched group.
    /// After a failure the store is latched: every later mutation answers `Failed`.
    pub fn complete(&mut self, _done: RoundDone, _out: &mut Vec<Durable>) -> Result<u64> {
        unimplemented!()
    }

    /// Entries from `from` on, at most `max_bytes` of payload but at least one entry. From the tail or a checked map.
    /// Errors: OutOfRange if `from` is before the log start or after the end; Damaged.
    pub fn read(&mut self, _group: GroupId, _from: Index, _max_bytes: usize) -> Result<Vec<Entry>> {
        unimplemented!()
    }
    /// Record batches for a consumer: from the batch containing `from` up to (not including) offset `below`,
    /// at most `max_bytes` of payload; the first batch is returned even if larger when `at_least_one`.
    /// Skips control entries.
    pub fn fetch(
        &mut self,
        _group: GroupId,
        _from: Offset,
        _below: Offset,
        _max_bytes: usize,
        _at_least_one: bool,
    ) -> Result<Vec<FetchedBatch>> {
        unimplemented!()
    }
    /// Header content of the entry at `index`.
    pub fn meta_at(&mut self, _group: GroupId, _index: Index) -> Result<EntryMeta> {
        unimplemented!()
    }
    /// The largest epoch whose term is <= `term` that has Records entries, and the offset after its last record
    /// (OffsetForLeaderEpoch, KIP-101). None if no such epoch is in the log.
    pub fn epoch_end(&mut self, _group: GroupId, _term: Term) -> Result<Option<(Epoch, Offset)>> {
        unimplemented!()
    }
    /// First Records entry below offset `below` whose batch's max timestamp is >= `timestamp`, with its payload.
    pub fn find_timestamp(
        &mut self,
        _group: GroupId,
        _timestamp: i64,
        _below: Offset,
    ) -> Result<Option<Entry>> {
        unimplemented!()
    }
    /// Records entry below `below` with the largest max timestamp.
    pub fn find_max_timestamp(&mut self, _group: GroupId, _below: Offset) -> Result<Option<Entry>> {
        unimplemented!()
    }
    /// The segments, oldest first.
    pub fn segments(&self, _group: GroupId) -> Result<Vec<SegmentInfo>> {
        unimplemented!()
    }
    /// Bytes of frames in the group's log.
    pub fn size_bytes(&self, _group: GroupId) -> Result<u64> {
        unimplemented!()
    }
    /// Where the log starts.
    pub fn log_start(&self, _group: GroupId) -> Result<&LogStart> {
        unimplemented!()
    }
    /// Last entry and the offset after it.
    pub fn last(&self, _group: GroupId) -> Result<(LogId, Offset)> {
        unimplemented!()
    }
    /// Damaged range, if known.
    pub fn needs_repair(&self, _group: GroupId) -> Option<(Index, Index)> {
        unimplemented!()
    }
    /// Whether appends are refused for lack of space.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }
    /// Why the store is latched shut, if it is.
    pub fn failure(&self) -> Option<&str> {
        unimplemented!()
    }
}

impl Writer {
    /// Makes a round durable: extents, journal batch, fdatasync. Blocking; IO thread only. Answers as soon as it is durable.
    pub fn commit(&mut self, _round: Round) -> RoundDone {
        unimplemented!()
    }
    /// Called after `commit` was answered and when idle: writes lagging inline entries to their segments, the idle
    /// durable-through mark, checkpoints. Returns how long it may be left alone (None: until the next round).
    pub fn idle(&mut self) -> Option<std::time::Duration> {
        unimplemented!()
    }
    /// Orderly end: writes everything, checkpoints, marks clean.
    pub fn close(self) -> Result<()> {
        unimplemented!()
    }
}
/// Back half, owned by the IO thread.
pub struct Writer {}
