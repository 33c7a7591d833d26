//! The one narrow door to the disk. `posix` is the real thing, `sim` an in-memory disk that loses, tears,
//! flips and fails; `latch` makes a failed sync final on either. Object-safe, used as `Arc<dyn Fs>`. Called by everything in `segment`, by nothing else.
//!
//! * Errors come back as values; nobody above retries a failed `fdatasync`.
//! * A name is durable only after `sync_dir` of its directory, bytes only after `fdatasync` of their file.

pub(crate) mod latch;
pub mod posix;
pub mod sim;

use super::error::is_busy;
use super::map::SegmentMap;
use crate::mutation::{Mutation, on};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; must exist.
    Read,
    /// Read and write; must exist.
    Write,
    /// Read and write; must not exist.
    CreateNew,
}

/// Space of the file system a directory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes available to us.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// How much of the machine one directory may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open segment files beyond those being written.
    pub open_files: usize,
    /// Live segment maps.
    pub maps: usize,
}

/// A file system.
pub trait Fs: Send + Sync {
    /// Creates a directory and its parents; fine if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames a file or directory within its parent, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Free and total space.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes an exclusive lock until the guard is dropped; None if somebody holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
    /// 128 random bits (the directory's uuid).
    fn entropy(&self) -> u128;
    /// The run of the machine. As long as it is the same, what was written is there, synced or not.
    fn boot_id(&self) -> u128;
    /// Limits of the machine.
    fn limits(&self) -> Limits;
    /// Whether blocking calls may be spread over threads; a simulated disk says no, so that a run is a
    /// function of its seed.
    fn is_threaded(&self) -> bool;
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes all of `bufs`, one after the other, at `at`.
    fn pwritev(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()>;
    /// Reads at `at` until `buf` is full or the file ends; returns how much.
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Reserves zeroed space; grows the file to at least `at + len`.
    fn preallocate(&self, at: u64, len: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Makes its bytes, and what of its metadata is needed to read them, durable.
    fn fdatasync(&self) -> io::Result<()>;
    /// Maps the first `len` bytes read-only. All of them must have been written.
    fn map(&self, len: usize) -> io::Result<SegmentMap>;
    /// Writes all of `buf` at `at`.
    fn pwrite(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.pwritev(&[IoSlice::new(buf)], at)
    }
}

/// Removes, durably, what an earlier attempt left under the name of a file that is about to be written there and then renamed: a power cut
/// may keep a rename without what came before it, and then it must not find the old file.
pub(crate) fn remove_leftover(fs: &dyn Fs, dir: &Path, path: &Path) -> io::Result<()> {
    match fs.unlink(path) {
        Ok(()) => fs.sync_dir(dir),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes the names in a directory durable, and its own: a name in a directory whose own name a power cut takes is nowhere.
pub(crate) fn sync_names(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    if on(Mutation::SkipDirectorySync) {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs.sync_dir(parent)?;
    }
    fs.sync_dir(dir)
}

/// For the back half, which cannot give work back: waits out a shortage, some seconds at most.
pub(crate) fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..250 {
        match call() {
            Err(e) if is_busy(&e) => std::thread::sleep(std::time::Duration::from_millis(20)),
            other => return other,
        }
    }
    call()
}
