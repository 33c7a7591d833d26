//! A checkpoint: makes the segments durable, then the manifest that names them, then drops the older one.
//! Run on a helper thread beside the rounds (inline on a simulated disk, at the end and at recovery).
//! Not here: what the image holds, freeing journal files (the writer does, after this is done).

use super::error::{failed, patiently};
use super::fs::{File, Fs};
use super::{Error, Result, manifest};
use crate::mutation::{Mutation, on};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Syncs in flight at once.
    pub side_by_side: usize,
}

impl Job {
    /// Does it. The order is the point: see `manifest`.
    pub(crate) fn run(self) -> Result<()> {
        self.run_until(&AtomicBool::new(false))
    }

    fn run_until(self, stop: &AtomicBool) -> Result<()> {
        let check = || match stop.load(Ordering::Acquire) {
            true => Err(Error::Failed("checkpoint stopped".into())),
            false => Ok(()),
        };
        let side_by_side = if self.fs.is_threaded() { self.side_by_side } else { 1 };
        if on(Mutation::ManifestBeforeSegments) {
            manifest::write(&*self.fs, &self.dir, self.sequence, &self.manifest)?;
        }
        each(side_by_side, &self.files, &|file| {
            check()?;
            if on(Mutation::SkipCheckpointSync) {
                return Ok(());
            }
            file.fdatasync().map_err(|e| failed("sync a segment in", &self.dir, &e))
        })?;
        let dirs: Vec<&PathBuf> = self.dirs.iter().filter(|_| !on(Mutation::SkipDirectorySync)).collect();
        each(side_by_side, &dirs, &|dir| {
            check()?;
            match patiently(|| self.fs.sync_dir(dir)) {
                // A group that was removed meanwhile takes its names along.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.map_err(|e| failed("sync", dir, &e)),
            }
        })?;
        check()?;
        manifest::write(&*self.fs, &self.dir, self.sequence, &self.manifest)?;
        manifest::remove_others(&*self.fs, &self.dir, self.sequence)
    }
}

/// Syncs in flight at open, when nobody waits for anything else: a file system commits its own journal once for all who wait for it, so
/// ten thousand syncs side by side take a fraction of a second and one after another half a minute.
pub(crate) const AT_OPEN: usize = 16;
/// And beside rounds, which wait for the same disk.
pub(crate) const BESIDE_ROUNDS: usize = 2;
/// Fewer than this are done one after another.
const MANY: usize = 64;

/// Does `work` for each; answers the first failure, after all that began have ended.
fn each<T: Sync>(side_by_side: usize, all: &[T], work: &(dyn Fn(&T) -> Result<()> + Sync)) -> Result<()> {
    if side_by_side == 1 || all.len() < MANY {
        return all.iter().try_for_each(work);
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = all
            .chunks(all.len().div_ceil(side_by_side))
            .map(|part| scope.spawn(move || part.iter().try_for_each(work)))
            .collect();
        let panicked = |_| Err(Error::Failed("a thread that syncs panicked".into()));
        // Every part is waited for before the first failure is told.
        let ends: Vec<_> = parts.into_iter().map(|part| part.join().unwrap_or_else(panicked)).collect();
        ends.into_iter().collect()
    })
}

/// A checkpoint on its way. Dropping it stops it at the next step and waits for it: nothing may write to the
/// directory once its writer is gone.
pub(crate) struct Running {
    thread: Option<JoinHandle<Result<()>>>,
    done: Option<Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Running {
    pub(crate) fn start(job: Job) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Self { thread: None, done: None, stop: stop.clone() };
        if !job.fs.is_threaded() {
            running.done = Some(job.run());
            return running;
        }
        let builder = std::thread::Builder::new().name("segment-checkpoint".into());
        match builder.spawn(move || job.run_until(&stop)) {
            Ok(thread) => running.thread = Some(thread),
            Err(e) => {
                running.done = Some(Err(Error::Failed(format!("cannot start a checkpoint thread: {e}"))))
            }
        }
        running
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(thread) = self.thread.take() {
            let panicked = |_| Err(Error::Failed("the checkpoint thread panicked".into()));
            return thread.join().unwrap_or_else(panicked);
        }
        self.done.take().unwrap_or(Ok(()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Its result matters to nobody any more.
            let _ = thread.join();
        }
    }
}
