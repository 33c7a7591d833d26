//! Syncing several files at once: helper threads that only ever call `fdatasync`. Used by `writer` when a
//! round touched more than the journal; a round of one small batch never comes here.

use super::fs::File;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Helpers beside the IO thread: four syncs in flight saturate a device's flushes.
const HELPERS: usize = 3;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    files: VecDeque<Arc<dyn File>>,
    running: usize,
    failure: Option<io::Error>,
    is_closed: bool,
}

/// A few threads that sync files.
#[derive(Default)]
pub(crate) struct SyncPool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs one file of the queue; answers whether there was one.
    fn take_one(&self, mut queue: MutexGuard<'_, Queue>) -> bool {
        let Some(file) = queue.files.pop_front() else {
            return false;
        };
        queue.running += 1;
        drop(queue);
        let result = file.fdatasync();
        let mut queue = self.lock();
        queue.running -= 1;
        if let Err(error) = result {
            queue.failure.get_or_insert(error);
        }
        if queue.running == 0 && queue.files.is_empty() {
            self.done.notify_all();
        }
        true
    }

    fn help(&self) {
        loop {
            let mut queue = self.lock();
            while queue.files.is_empty() {
                if queue.is_closed {
                    return;
                }
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            self.take_one(queue);
        }
    }
}

impl SyncPool {
    /// Syncs `files` while `main` runs on this thread; fails if any of it fails, after all of it ended.
    pub(crate) fn sync(
        &mut self,
        files: Vec<Arc<dyn File>>,
        is_threaded: bool,
        main: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if files.is_empty() {
            return main();
        }
        if !is_threaded {
            // Side by side anything may be first; what recovery has to bear is a journal that names extents which are not there.
            let result = main();
            for file in files {
                file.fdatasync()?;
            }
            return result;
        }
        let wanted = files.len().min(HELPERS);
        while self.helpers.len() < wanted {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("segment-sync".into());
            self.helpers.push(builder.spawn(move || shared.help())?);
        }
        self.shared.lock().files.extend(files);
        self.shared.work.notify_all();
        let result = main();
        while self.shared.take_one(self.shared.lock()) {}
        let mut queue = self.shared.lock();
        while queue.running > 0 || !queue.files.is_empty() {
            queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        match queue.failure.take() {
            Some(error) => Err(error),
            None => result,
        }
    }
}

impl Drop for SyncPool {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has nothing left to say.
            let _ = helper.join();
        }
    }
}
