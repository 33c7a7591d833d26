//! Bytes on disk: journal, segments, indexes, recovery. Knows no Raft roles, no topics, no network.
//!
//! A data directory is opened as two halves. The [`Store`] belongs to an engine thread: it takes changes,
//! keeps recent entries in memory and answers reads. The [`Writer`] belongs to an IO thread: it makes rounds
//! durable. They exchange [`Round`] and [`RoundDone`] and nothing else:
//!
//! ```text
//!  append, truncate, save_hard_state ...        pwrite + fdatasync
//!        |                                            |
//!     Store --- take_round() --> Round --> commit() Writer
//!        ^                                            |
//!        +------- complete() <-- RoundDone <----------+   idle(): segments, marks, checkpoints
//! ```
//!
//! Small entries go by value into the journal and lazily to their segment, large ones go straight to their
//! segment and by reference into the journal. No byte of a segment is ever written twice with other
//! content. The formats are in docs/disk-format.md, the rules in docs/design.md section 4 and
//! docs/safety.md (F7 to F14, section 3). `io_thread` is the shell that gives the writer its thread,
//! `scrub` reads everything now and then.

mod checkpoint;
mod codec;
pub mod dump;
mod ends;
mod error;
mod frame;
pub mod fs;
mod gap;
mod group;
mod identity;
mod image;
mod index;
pub mod io_thread;
mod journal;
mod lane;
mod look;
mod manifest;
#[allow(unsafe_code)] // The one place: maps and the SIGBUS handler.
mod map;
mod record;
mod recovery;
mod replay;
mod rewrite;
mod round;
mod scrub;
mod segment_file;
mod store;
mod sync;
pub(crate) mod tombstones;
pub mod types;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use error::{Error, Result};
pub use frame::FRAME_HEADER;
pub use look::{Looked, look, look_on};
pub use map::SegmentMap;
pub use rewrite::{ClosedFile, ClosedReader, Ended, Keep, Rewrite, Step};
pub use round::{Durable, Remains, Round, RoundDone};
pub use scrub::{ScrubStats, Scrubber};
pub use store::{FetchedBatch, FrameCheck, Mended, Repair, Store};
pub use tombstones::{Brought, Cleaned, may_append, may_drop};
pub use types::*;
pub use writer::Writer;

use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// Entries of one group and round at or above this go by reference. Default 32 KiB.
    pub reference_bytes: usize,
    /// Size of one journal file. Default 64 MiB.
    pub journal_file_bytes: u64,
    /// Checkpoint when this much is referenced or journaled. Default 1 GiB / 4 journal files.
    pub checkpoint_bytes: u64,
    /// Free space kept back. Default max(64 MiB, 1 %), asked for by [`StoreOptions::RESERVE_DEFAULT`].
    pub reserve_bytes: u64,
    /// In-memory tails of all groups together. Default 64 MiB.
    pub tail_bytes: usize,
}

impl StoreOptions {
    /// As `reserve_bytes`: max(64 MiB, 1 % of the file system), found out at open.
    pub const RESERVE_DEFAULT: u64 = u64::MAX;

    /// The defaults.
    pub fn new(dir: PathBuf, identity: Identity) -> Self {
        Self {
            dir,
            identity,
            reference_bytes: 32 << 10,
            journal_file_bytes: 64 << 20,
            checkpoint_bytes: 1 << 30,
            reserve_bytes: Self::RESERVE_DEFAULT,
            tail_bytes: 64 << 20,
        }
    }
}

/// Per-group knobs (topic configuration).
#[derive(Clone, Debug, PartialEq)]
pub struct GroupOptions {
    /// Roll at this size (segment.bytes).
    pub segment_bytes: u64,
    /// Bytes between index entries (index.interval.bytes).
    pub index_interval_bytes: u32,
}

impl Default for GroupOptions {
    /// Kafka's defaults: 1 GiB, 4 KiB.
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, index_interval_bytes: 4096 }
    }
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
    /// Set if a durable range is damaged: it neither leads, votes, truncates nor serves that range. The end
    /// is `u64::MAX` if it is not known how much is missing.
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
    /// Largest timestamp (ms) of the records written to it, whatever compaction has left of them; -1 if none.
    pub max_timestamp: i64,
    /// Whether it is the one appended to.
    pub active: bool,
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
///
/// # Errors
/// `Refused` if the directory is locked, of another node or cluster, of a newer format, or without a sound
/// manifest; `Failed` or `DiskFull` if reading or rewriting fails.
pub fn open(options: StoreOptions) -> Result<Opened> {
    open_on(Arc::new(fs::posix::PosixFs), options)
}

/// [`open`] on any file system, such as a simulated one.
///
/// # Errors
/// As [`open`].
pub fn open_on(fs: Arc<dyn fs::Fs>, options: StoreOptions) -> Result<Opened> {
    recovery::open_on(fs, options)
}
