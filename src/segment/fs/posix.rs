//! The real file system, by rustix and std. Not here: maps (`map`), policy of any kind.

use super::{File, Fs, Limits, OpenMode, Space};
use crate::segment::map::SegmentMap;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::process::Resource;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Most slices one `pwritev` takes (IOV_MAX on Linux).
const IOV_MAX: usize = 1024;

/// Linux makes a new one every time it starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct PosixFs;

struct PosixFile(std::fs::File);

/// A call made again as long as a signal interrupts it.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Fs for PosixFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(PosixFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let dir = std::fs::File::open(path)?;
        uninterrupted(|| dir.sync_all())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn entropy(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }

    fn boot_id(&self) -> u128 {
        let known =
            std::fs::read_to_string(BOOT_ID).ok().and_then(|text| uuid::Uuid::parse_str(text.trim()).ok());
        // A machine that does not tell is taken for another one every time: then nothing unsynced is trusted.
        known.map_or_else(|| self.entropy(), |id| id.as_u128())
    }

    fn limits(&self) -> Limits {
        let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(65_536);
        // A quarter: sockets, journals and files being written need the rest, and `dev` runs several
        // directories in one process.
        let open_files = usize::try_from(files / 4).unwrap_or(usize::MAX).clamp(32, 8192);
        Limits { open_files, maps: crate::segment::map::MAPS_MAX / 8 }
    }

    fn is_threaded(&self) -> bool {
        true
    }
}

impl File for PosixFile {
    fn pwritev(&self, bufs: &[IoSlice<'_>], mut at: u64) -> io::Result<()> {
        for chunk in bufs.chunks(IOV_MAX) {
            let total: usize = chunk.iter().map(|b| b.len()).sum();
            let written = uninterrupted(|| match chunk {
                [one] => self.0.write_at(one, at),
                many => Ok(rustix::io::pwritev(&self.0, many, at)?),
            })?;
            if written < total {
                self.finish(chunk, written, at)?;
            }
            at += total as u64;
        }
        Ok(())
    }

    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        uninterrupted(|| match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), at, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => self.fill_zero(at, len),
            Err(error) => Err(error.into()),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn fdatasync(&self) -> io::Result<()> {
        // An interrupted call has reported nothing: the error of a failed write-back is still to come.
        uninterrupted(|| self.0.sync_data())
    }

    fn map(&self, len: usize) -> io::Result<SegmentMap> {
        SegmentMap::of_file(&self.0, len)
    }
}

impl PosixFile {
    /// Writes what a short `pwritev` left over, slice by slice.
    fn finish(&self, bufs: &[IoSlice<'_>], mut skip: usize, mut at: u64) -> io::Result<()> {
        for buf in bufs {
            let from = skip.min(buf.len());
            skip -= from;
            self.0.write_all_at(&buf[from..], at + from as u64)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// File systems without fallocate get real zeros: space must exist before an entry is journaled.
    fn fill_zero(&self, at: u64, len: u64) -> io::Result<()> {
        const STEP: usize = 1 << 20;
        let end = at + len;
        let mut from = at.max(self.len()?);
        let zeros = vec![0u8; STEP];
        while from < end {
            let n = STEP.min(usize::try_from(end - from).unwrap_or(STEP));
            self.0.write_all_at(&zeros[..n], from)?;
            from += n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_call_is_made_again() {
        let mut left = 3;
        let done = uninterrupted(|| {
            left -= 1;
            if left > 0 { Err(rustix::io::Errno::INTR.into()) } else { Ok(7) }
        });
        assert_eq!((done.expect("in the end"), left), (7, 0));
        let failed: io::Result<()> = uninterrupted(|| Err(rustix::io::Errno::IO.into()));
        assert!(failed.is_err());
    }
}
