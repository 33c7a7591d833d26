//! A checkpoint: makes the segments durable, then the manifest that names them, then drops the older one.
//! Run on a helper thread beside the rounds (inline on a simulated disk, at the end and at recovery).
//! Not here: what the image holds, freeing journal files (the writer does, after this is done).

use super::error::failed;
use super::fs::{File, Fs};
use super::{Result, manifest};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Everything one checkpoint does.
pub(crate) struct Job {
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
    /// Files written since the last checkpoint.
    pub files: Vec<Arc<dyn File>>,
    /// Directories with new names in them.
    pub dirs: BTreeSet<PathBuf>,
    pub sequence: u64,
    pub manifest: Vec<u8>,
}

impl Job {
    /// Does it. The order is the point: see `manifest`.
    pub(crate) fn run(self) -> Result<()> {
        for file in &self.files {
            file.fdatasync().map_err(|e| failed("sync a segment in", &self.dir, &e))?;
        }
        for dir in &self.dirs {
            match self.fs.sync_dir(dir) {
                // A group that was removed meanwhile takes its names along.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(|e| failed("sync", dir, &e))?,
            }
        }
        manifest::write(&*self.fs, &self.dir, self.sequence, &self.manifest)?;
        manifest::remove_others(&*self.fs, &self.dir, self.sequence)
    }
}

/// A checkpoint on its way.
pub(crate) enum Running {
    Done(Result<()>),
    Thread(JoinHandle<Result<()>>),
}

impl Running {
    pub(crate) fn start(job: Job) -> Self {
        if !job.fs.is_threaded() {
            return Self::Done(job.run());
        }
        let builder = std::thread::Builder::new().name("segment-checkpoint".into());
        match builder.spawn(move || job.run()) {
            Ok(thread) => Self::Thread(thread),
            Err(e) => Self::Done(Err(super::Error::Failed(format!("cannot start a checkpoint thread: {e}")))),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Self::Done(_) => true,
            Self::Thread(thread) => thread.is_finished(),
        }
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Done(result) => result,
            Self::Thread(thread) => {
                let panicked = |_| Err(super::Error::Failed("the checkpoint thread panicked".into()));
                thread.join().unwrap_or_else(panicked)
            }
        }
    }
}
