//! The thin shell around the writer: one thread that commits rounds and uses its idle time; and around the scrub: one that
//! reads at a bounded rate. std only.
//! Not here: what is done (`writer`), who waits for completions (the engine).
//!
//! * At most one round is in flight; submitting a second is a bug of the caller. Its answer may come before all of it is durable; news
//!   of the rest follows.
//! * The completion is handed over before any idle work begins.
//! * Every round is answered, even if the writer panics: then as failed.
//! * `kill` leaves the files as kill -9 would: what has been written stays, nothing more is.

use super::round::{Round, RoundDone};
use super::scrub::Scrubber;
use super::writer::Writer;
use super::{Error, Result};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// When there is nothing to scrub.
const SCRUB_PAUSE: Duration = Duration::from_millis(200);

const PANICKED: &str = "the io thread panicked";

#[derive(Default)]
struct Inbox {
    round: Option<Round>,
    is_busy: bool,
    /// A sync beside the rounds has ended.
    is_poked: bool,
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

/// Starts the IO thread. `completions` is called on it, once per round, in order, and for news of earlier ones; it should only wake
/// whoever owns the store.
///
/// # Errors
/// `Failed` if the thread cannot be started.
pub fn spawn(writer: Writer, completions: impl Fn(RoundDone) + Send + 'static) -> Result<IoHandle> {
    let shared = Arc::new(Shared::default());
    let inner = shared.clone();
    let mut writer = writer;
    let poked = Arc::downgrade(&shared);
    writer.set_waker(Arc::new(move || {
        if let Some(shared) = poked.upgrade() {
            shared.lock().is_poked = true;
            shared.news.notify_one();
        }
    }));
    let thread = std::thread::Builder::new()
        .name("segment-io".into())
        .spawn(move || run(writer, &inner, &completions))
        .map_err(|e| Error::Failed(format!("cannot start the io thread: {e}")))?;
    Ok(IoHandle { shared, thread: Some(thread) })
}

/// The writer, or what is left of it: after a panic nothing of it may be used any more, and every round is
/// answered as failed, so that whoever waits for one learns of it.
struct Guarded(Option<Writer>);

impl Guarded {
    fn attempt<T>(&mut self, work: impl FnOnce(&mut Writer) -> T) -> Option<T> {
        let mut writer = self.0.take()?;
        // The writer is dropped with the panic; nothing of it can be seen half changed.
        match panic::catch_unwind(AssertUnwindSafe(move || (work(&mut writer), writer))) {
            Ok((done, writer)) => {
                self.0 = Some(writer);
                Some(done)
            }
            Err(_) => None,
        }
    }

    fn commit(&mut self, round: Round) -> RoundDone {
        let number = round.number;
        self.attempt(|writer| writer.commit(round))
            .unwrap_or_else(|| RoundDone::failed(number, PANICKED.into()))
    }

    fn poll(&mut self) {
        self.attempt(Writer::poll);
    }

    fn take_news(&mut self) -> Option<RoundDone> {
        self.attempt(Writer::take_news).flatten()
    }

    fn idle(&mut self) -> Option<Duration> {
        self.attempt(Writer::idle).flatten()
    }

    fn close(self) -> Result<()> {
        self.0.map_or_else(|| Err(Error::Failed(PANICKED.into())), Writer::close)
    }
}

fn run(writer: Writer, shared: &Shared, completions: &(impl Fn(RoundDone) + Send)) -> Result<()> {
    let mut writer = Guarded(Some(writer));
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
            writer.take_news().into_iter().for_each(completions);
            continue;
        }
        if std::mem::take(&mut inbox.is_poked) {
            drop(inbox);
            writer.poll();
            writer.take_news().into_iter().for_each(completions);
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
                let is_quiet =
                    timeout.timed_out() && inbox.round.is_none() && inbox.end.is_none() && !inbox.is_poked;
                drop(inbox);
                if is_quiet {
                    delay = writer.idle();
                    writer.take_news().into_iter().for_each(completions);
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
        thread.join().unwrap_or_else(|_| Err(Error::Failed(PANICKED.into())))
    }
}

impl Drop for IoHandle {
    fn drop(&mut self) {
        let _ = self.end(End::Kill);
    }
}

/// Starts a thread that scrubs at this rate until its store is gone.
///
/// # Errors
/// `Failed` if the thread cannot be started.
pub fn spawn_scrub(mut scrubber: Scrubber, bytes_per_second: u64) -> Result<()> {
    let rate = bytes_per_second.max(1);
    let work = move || {
        while !scrubber.is_closed() {
            let read = scrubber.step();
            let rest = if read == 0 {
                SCRUB_PAUSE
            } else {
                Duration::from_micros(read.saturating_mul(1_000_000) / rate)
            };
            std::thread::sleep(rest);
        }
    };
    let spawned = std::thread::Builder::new().name("segment-scrub".into()).spawn(work);
    spawned.map(drop).map_err(|e| Error::Failed(format!("cannot start the scrub thread: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::fs::sim::SimFs;
    use crate::segment::round::{Entries, FileRef, Op};
    use crate::segment::{GroupId, Identity, NodeId, Opened, StoreOptions, open_on};
    use std::sync::mpsc::sync_channel;

    #[test]
    fn panic_of_the_writer_answers_this_and_every_later_round_as_failed() {
        let fs = SimFs::new(1);
        let identity = Identity { node: NodeId(1), cluster: None };
        let options =
            StoreOptions { journal_file_bytes: 1 << 20, ..StoreOptions::new("/d".into(), identity) };
        let Opened { writer, .. } = open_on(Arc::new(fs.clone()), options).expect("opens");
        let (send, done) = sync_channel(1);
        let io = spawn(writer, move |round| send.send(round).expect("waited for")).expect("started");
        let handle =
            crate::segment::fs::Fs::open(&fs, "/f".as_ref(), crate::segment::fs::OpenMode::CreateNew);
        let file = FileRef { number: 9, handle: handle.expect("opened") };
        // An extent without entries, which no store makes.
        let (entries, slots) = (Vec::new(), Vec::new());
        let bad = Entries { group: GroupId(1), file, byte: 64, bytes: 1 << 20, entries, slots, loose: false };
        io.submit(Round { number: 1, ops: vec![Op::Entries(Box::new(bad))], flush: false, next_file: 1 });
        let answer = done.recv().expect("answered");
        assert_eq!((answer.number(), answer.failure()), (1, Some(PANICKED)));
        io.submit(Round { number: 2, ops: Vec::new(), flush: false, next_file: 1 });
        assert!(done.recv().expect("answered").failure().is_some());
        assert!(io.stop_clean().is_err());
    }
}
