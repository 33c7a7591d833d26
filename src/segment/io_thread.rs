//! The thin shell around the writer: one thread that commits rounds and uses its idle time. std only.
//! Not here: what is done (`writer`), who waits for completions (the engine).
//!
//! * At most one round is in flight; submitting a second is a bug of the caller.
//! * The completion is handed over before any idle work begins.
//! * `kill` leaves the files as kill -9 would: what has been written stays, nothing more is.

use super::round::{Round, RoundDone};
use super::writer::Writer;
use super::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

#[derive(Default)]
struct Inbox {
    round: Option<Round>,
    is_busy: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Kill,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    news: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands rounds to the IO thread. Dropping it is a kill.
pub struct IoHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Starts the IO thread. `completions` is called on it, once per round, in order; it should only wake
/// whoever owns the store.
///
/// # Errors
/// `Failed` if the thread cannot be started.
pub fn spawn(writer: Writer, completions: impl Fn(RoundDone) + Send + 'static) -> Result<IoHandle> {
    let shared = Arc::new(Shared::default());
    let inner = shared.clone();
    let thread = std::thread::Builder::new()
        .name("segment-io".into())
        .spawn(move || run(writer, &inner, &completions))
        .map_err(|e| Error::Failed(format!("cannot start the io thread: {e}")))?;
    Ok(IoHandle { shared, thread: Some(thread) })
}

fn run(mut writer: Writer, shared: &Shared, completions: &(impl Fn(RoundDone) + Send)) -> Result<()> {
    let mut delay = writer.idle();
    loop {
        let mut inbox = shared.lock();
        if inbox.end == Some(End::Kill) {
            return Ok(());
        }
        if let Some(round) = inbox.round.take() {
            drop(inbox);
            let done = writer.commit(round);
            shared.lock().is_busy = false;
            completions(done);
            delay = writer.idle();
            continue;
        }
        if inbox.end == Some(End::Clean) {
            drop(inbox);
            return writer.close();
        }
        match delay {
            None => drop(shared.news.wait(inbox).unwrap_or_else(PoisonError::into_inner)),
            Some(wait) => {
                let (inbox, timeout) =
                    shared.news.wait_timeout(inbox, wait).unwrap_or_else(PoisonError::into_inner);
                let is_quiet = timeout.timed_out() && inbox.round.is_none() && inbox.end.is_none();
                drop(inbox);
                if is_quiet {
                    delay = writer.idle();
                }
            }
        }
    }
}

impl IoHandle {
    /// Hands over a round.
    ///
    /// # Panics
    /// If the previous round has not been answered.
    pub fn submit(&self, round: Round) {
        let mut inbox = self.shared.lock();
        assert!(!inbox.is_busy, "round {} submitted while another is in flight", round.number());
        inbox.is_busy = true;
        inbox.round = Some(round);
        drop(inbox);
        self.shared.news.notify_one();
    }

    /// Finishes the round in flight, writes everything, marks the directory clean and ends the thread.
    ///
    /// # Errors
    /// `Failed` if storage had failed or fails now.
    pub fn stop_clean(mut self) -> Result<()> {
        self.end(End::Clean)
    }

    /// Ends the thread at once, after the system call it may be in; writes nothing more.
    pub fn kill(mut self) {
        // What a killed writer had to say does not matter any more.
        let _ = self.end(End::Kill);
    }

    fn end(&mut self, end: End) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.lock().end = Some(end);
        self.shared.news.notify_one();
        thread.join().unwrap_or_else(|_| Err(Error::Failed("the io thread panicked".into())))
    }
}

impl Drop for IoHandle {
    fn drop(&mut self) {
        let _ = self.end(End::Kill);
    }
}
