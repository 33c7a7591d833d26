//! A disk of a node's own: a file system in a file, that can lose its power, fill up and be looked into from below.
//!
//! Not here: who uses it. Called by `stage`, in a mount namespace of the test's own. A power cut is the file system's own
//! shutdown call: nothing that was not yet written reaches the image any more, maps included; mounting again replays its
//! journal as after a real cut. Shut down first, kill second: in the other order the kernel would write back what a power
//! cut loses.

use super::world::{attempt, must};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of a node's disk; the image is sparse.
const BYTES: u64 = 2 << 30;

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes an empty one.
    pub fn make(image: PathBuf, at: PathBuf) -> Disk {
        let file = fs::File::create(&image).expect("an image");
        file.set_len(BYTES).expect("a sparse file");
        fs::create_dir_all(&at).expect("a mount point");
        must("mkfs.ext4", &["-q", "-F", "-m", "0", path(&image)]);
        let disk = Disk { image, at };
        disk.mount();
        disk
    }

    fn mount(&self) {
        // The loop device may have been taken by somebody else in between.
        again("mount", || attempt("mount", &["-o", "loop,noatime", path(&self.image), path(&self.at)]));
    }

    /// From now on nothing reaches the disk.
    pub fn cut_power(&self) {
        must("xfs_io", &["-x", "-c", "shutdown", path(&self.at)]);
    }

    /// Power is back. Nobody may have it open.
    pub fn restore_power(&self) {
        again("umount", || attempt("umount", &[path(&self.at)]));
        self.mount();
    }

    /// Bytes free.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).expect("a mounted disk");
        stat.f_bavail * stat.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Fills it until no more than `leave` bytes are free.
    pub fn fill(&self, leave: u64) {
        let file = fs::File::options().create(true).append(true).open(self.ballast()).expect("a file");
        // The node takes space at the same time, and the file's own map needs some: what does not fit is asked for again, smaller.
        for _ in 0..20 {
            let bytes = self.free().saturating_sub(leave);
            let from = file.metadata().expect("a file").len();
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), from, bytes.max(1)) {
                Ok(()) if self.free() <= leave => return,
                Ok(()) | Err(rustix::io::Errno::NOSPC) => {}
                Err(error) => panic!("{}: {error}", self.ballast().display()),
            }
            if bytes <= 64 << 10 {
                return; // no file gets that
            }
        }
        panic!("{} bytes are still free, not {leave}", self.free());
    }

    /// Gives the space back.
    pub fn relieve(&self) {
        let _absent = fs::remove_file(self.ballast());
        // A power cut a moment later would bring it back, and the node would not start for want of space.
        fs::File::open(&self.at).and_then(|at| at.sync_all()).expect("a synced directory");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _busy = attempt("umount", &[path(&self.at)]);
            let _ = fs::remove_file(&self.image);
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}

/// Tries for a few seconds: an ended process lets go of its files a moment later.
fn again(what: &str, mut call: impl FnMut() -> Result<String, String>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = call() {
        assert!(Instant::now() < deadline, "{what}: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
