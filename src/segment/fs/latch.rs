//! A failed sync is final for the file it failed on, whoever asks. Linux tells of a failed write-back once per open file description:
//! of two threads that sync through the same one, the first is told and the second hears that all is well (safety.md F9).
//! Laid around the file system of every directory that is opened. Not here: what a failure ends (`writer`).
//!
//! * Syncs through one description are one after another, so nobody is told of success while another is being told of failure.
//! * Once one has failed, every later one does.
//! * A description opened later need not know: whoever syncs bytes does it through the first that was open when they were written.

use super::{File, Fs, Limits, OpenMode, Space};
use crate::mutation::{Mutation, on};
use crate::segment::map::SegmentMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The file system of a directory.
pub(crate) struct LatchedFs(pub Arc<dyn Fs>);

struct LatchedFile {
    file: Arc<dyn File>,
    /// Kind and text of the first failure.
    failure: Mutex<Option<(io::ErrorKind, String)>>,
}

impl Fs for LatchedFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(path, mode)?;
        Ok(Arc::new(LatchedFile { file, failure: Mutex::new(None) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.0.lock(path)
    }
    fn entropy(&self) -> u128 {
        self.0.entropy()
    }
    fn boot_id(&self) -> u128 {
        self.0.boot_id()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn is_threaded(&self) -> bool {
        self.0.is_threaded()
    }
}

impl File for LatchedFile {
    fn pwritev(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.file.pwritev(bufs, at)
    }
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.pread(buf, at)
    }
    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.preallocate(at, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn fdatasync(&self) -> io::Result<()> {
        // Held over the call: the answer of one sync includes that of any beside it.
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kind, why)) = &*failure
            && !on(Mutation::RetryFailedSync)
            && !on(Mutation::TellOnce)
        {
            return Err(io::Error::new(*kind, format!("an earlier sync of the file failed: {why}")));
        }
        let result = self.file.fdatasync();
        if let Err(e) = &result {
            *failure = Some((e.kind(), e.to_string()));
        }
        result
    }
    fn map(&self, len: usize) -> io::Result<SegmentMap> {
        self.file.map(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimFs;
    use super::*;

    #[test]
    fn sync_that_failed_fails_for_everybody_who_has_the_file() {
        let sim = SimFs::new(1);
        let fs = LatchedFs(Arc::new(sim.clone()));
        fs.create_dir(Path::new("/d")).expect("created");
        let file = fs.open(Path::new("/d/f"), OpenMode::CreateNew).expect("opened");
        let other = fs.open(Path::new("/d/f"), OpenMode::Write).expect("opened");
        file.pwrite(&[1; 512], 0).expect("written");
        sim.fail_write_back("/d/f");
        let second = file.clone();
        assert!(file.fdatasync().is_err());
        assert!(second.fdatasync().is_err(), "the kernel tells a description once");
        assert!(other.fdatasync().is_err(), "and every description");
        let later = fs.open(Path::new("/d/f"), OpenMode::Write).expect("opened");
        assert!(later.fdatasync().is_ok(), "but none that is opened after somebody was told");
    }
}
