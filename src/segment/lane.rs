//! A sync beside the rounds: one job at a time on a thread of its own, so that whoever waits for a write does not wait for another's
//! sync. On a disk that is not threaded the job runs when it is asked for.
//! Not here: what a sync makes durable, and for whom (`writer::syncing`).

use super::fs::File;
use super::sync::SyncPool;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Called on the lane's thread when a job has ended.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

/// Files to make durable.
pub(crate) struct Job {
    pub journal: Arc<dyn File>,
    pub files: Vec<Arc<dyn File>>,
}

impl Job {
    fn run(self, pool: &mut SyncPool, is_threaded: bool) -> io::Result<()> {
        pool.sync(self.files, is_threaded, || self.journal.fdatasync())
    }
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    done: Option<io::Result<()>>,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.news.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, waker: Option<&Waker>) {
        let mut pool = SyncPool::default();
        loop {
            let mut state = self.lock();
            let job = loop {
                if state.is_closed {
                    return;
                }
                match state.job.take() {
                    Some(job) => break job,
                    None => state = self.wait(state),
                }
            };
            drop(state);
            let run = AssertUnwindSafe(|| job.run(&mut pool, true));
            // Whoever waits has to learn of a panic too; the pool is not used after one.
            let done = panic::catch_unwind(run);
            let done = done.unwrap_or_else(|_| Err(io::Error::other("a thread that syncs panicked")));
            self.lock().done = Some(done);
            self.news.notify_all();
            if let Some(wake) = waker {
                wake();
            }
        }
    }
}

/// One sync at a time.
pub(crate) struct Lane {
    name: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// On a disk that is not threaded.
    waiting: Option<Job>,
    pool: SyncPool,
    is_busy: bool,
}

impl Lane {
    pub(crate) fn new(name: &'static str) -> Self {
        let (shared, pool) = (Arc::new(Shared::default()), SyncPool::default());
        Self { name, shared, thread: None, waiting: None, pool, is_busy: false }
    }

    /// Whether a job was begun whose end has not been taken.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Begins a job.
    pub(crate) fn start(&mut self, job: Job, is_threaded: bool, waker: Option<&Waker>) -> io::Result<()> {
        assert!(!self.is_busy, "a lane does one sync at a time");
        self.is_busy = true;
        if !is_threaded {
            self.waiting = Some(job);
            return Ok(());
        }
        if self.thread.is_none() {
            let (shared, waker) = (self.shared.clone(), waker.cloned());
            let builder = std::thread::Builder::new().name(self.name.into());
            self.thread = Some(builder.spawn(move || shared.work(waker.as_ref()))?);
        }
        self.shared.lock().job = Some(job);
        self.shared.news.notify_all();
        Ok(())
    }

    /// How the job ended, once it has.
    pub(crate) fn poll(&mut self) -> Option<io::Result<()>> {
        let done = match self.waiting.take() {
            Some(job) => Some(job.run(&mut self.pool, false)),
            None => self.shared.lock().done.take(),
        };
        self.is_busy &= done.is_none();
        done
    }

    /// Waits for its end; None if there is no job.
    pub(crate) fn finish(&mut self) -> Option<io::Result<()>> {
        while self.is_busy {
            if let Some(done) = self.poll() {
                return Some(done);
            }
            let state = self.shared.lock();
            if state.done.is_none() {
                drop(self.shared.wait(state));
            }
        }
        None
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.news.notify_all();
        if let Some(thread) = self.thread.take() {
            // What it had to say matters to nobody any more.
            let _ = thread.join();
        }
    }
}
