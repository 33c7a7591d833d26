//! What can go wrong in storage, as one enum. Who acts is said at each variant.
//! Not here: what a Kafka client is told (`broker`).

use super::types::GroupId;
use std::io;
use std::path::Path;

/// Failure of storage.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Below the disk reserve; retriable, nothing was taken. The operator frees space.
    #[error("data directory is full")]
    DiskFull,
    /// A write or fsync failed: the directory is offline for good; the broker hands leadership over.
    #[error("storage failed: {0}")]
    Failed(String),
    /// Bytes on disk do not check out: the group is held out until it is repaired from its peers.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The group is not known here; the caller's mistake or a race with its removal.
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

/// An IO error with what was tried and on which path. A full disk keeps its own meaning.
pub(crate) fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    if is_full(error) {
        return Error::DiskFull;
    }
    Error::Failed(format!("cannot {what} {}: {error}", path.display()))
}

/// Whether the error says that the device or quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
