//! What can go wrong in storage, as one enum. Who acts is said at each variant.
//! Not here: what a Kafka client is told (`broker`).

pub(crate) use super::fs::patiently;
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
    /// The machine is short of handles, maps or memory for now; retriable, nothing was taken, nothing failed.
    #[error("short of resources: {0}")]
    Busy(String),
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
    let text = format!("cannot {what} {}: {error}", path.display());
    if is_busy(error) { Error::Busy(text) } else { Error::Failed(text) }
}

/// Whether the error is a shortage that passes: no handle, no map, no memory. Says nothing of the disk.
pub(crate) fn is_busy(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.kind() == io::ErrorKind::OutOfMemory
        || error.raw_os_error().is_some_and(|code| shortages.iter().any(|e| e.raw_os_error() == code))
}

/// Whether the error says that the device or quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn shortage_is_busy_a_full_disk_is_full_and_the_rest_has_failed() {
        let of = |e: io::Error| failed("open", Path::new("/f"), &e);
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(matches!(of(code.into()), Error::Busy(_)), "{code}");
        }
        assert!(matches!(of(Errno::NOSPC.into()), Error::DiskFull));
        assert!(matches!(of(Errno::IO.into()), Error::Failed(_)));
    }

    #[test]
    fn shortage_that_passes_is_waited_out() {
        let mut calls = 0;
        let done = patiently(|| {
            calls += 1;
            if calls < 3 { Err(Errno::MFILE.into()) } else { Ok(calls) }
        });
        assert_eq!(done.expect("in the end"), 3);
    }
}
