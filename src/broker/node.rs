//! The loop that drives a shard: tokio around a poll-driven state machine.
//!
//! One task owns the shard. It waits for whichever comes first (a storage completion, a peer's frame, a request, a deadline), takes
//! everything else that is at hand, and ends the turn: one message per peer, one storage round. Nothing else touches the shard.

use super::api::NodeStatus;
use super::peer::{Arrived, Peers};
use super::shard::{CleanerStep, Command, Input, Now, Shard};
use crate::ctl::image::Image;
use crate::raftlog::engine::Disk;
use crate::segment::io_thread::IoHandle;
use crate::segment::{NodeId, Round, RoundDone};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Inputs taken in one turn before frames and storage get their share.
const TURN_INPUTS: usize = 512;

/// The clocks of a node: the only place that reads them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
}

/// Time since the machine was booted. It goes on while the machine is suspended, and so do the sessions that others keep of us.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Clock {
    /// A clock that starts at one second, so that "0" is always past.
    pub fn start() -> Self {
        Self { start: since_boot() }
    }

    /// Both times.
    pub fn now(&self) -> Now {
        let mono = self.mono();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { mono, wall_ms: wall.as_millis() as i64 }
    }

    /// Monotonic milliseconds alone.
    pub fn mono(&self) -> u64 {
        (since_boot() - self.start).as_millis() as u64 + 1000
    }

    fn instant(&self, mono: u64) -> tokio::time::Instant {
        // A far deadline is looked at again in an hour; Instant arithmetic must not overflow.
        let ahead = mono.saturating_sub(self.now().mono).min(3_600_000);
        tokio::time::Instant::now() + Duration::from_millis(ahead)
    }
}

/// What the rest of the node sees of the shard.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Health.
    pub status: NodeStatus,
    /// Leader of the controller group.
    pub controller: Option<NodeId>,
}

/// Runs the steps of compactions, one at a time, on a thread for what blocks.
pub struct Cleaner {
    back: mpsc::Sender<CleanerStep>,
    done: mpsc::Receiver<CleanerStep>,
}

impl Default for Cleaner {
    fn default() -> Self {
        let (back, done) = mpsc::channel(1);
        Self { back, done }
    }
}

impl Cleaner {
    fn start(&self, mut step: CleanerStep) {
        let back = self.back.clone();
        tokio::task::spawn_blocking(move || {
            step.run();
            // The loop is gone when the node stops: a compaction cut short is begun anew.
            let _stopped = back.blocking_send(step);
        });
    }
}

/// Everything the loop owns.
pub struct NodeLoop {
    /// The state machine.
    pub shard: Shard,
    /// Connections to peers.
    pub peers: Peers,
    /// The IO thread.
    pub io: IoHandle,
    /// Its completions.
    pub completions: mpsc::Receiver<RoundDone>,
    /// What compacts.
    pub cleaner: Cleaner,
    /// Requests of handles.
    pub commands: mpsc::Receiver<Command>,
    /// Frames and connection news.
    pub inputs: mpsc::Receiver<Arrived>,
    /// The metadata image for handlers.
    pub images: watch::Sender<Arc<Image>>,
    /// Health for handlers.
    pub published: watch::Sender<Published>,
    /// The clocks.
    pub clock: Clock,
}

struct IoDisk<'a>(&'a IoHandle);

impl Disk for IoDisk<'_> {
    fn submit(&mut self, round: Round) {
        self.0.submit(round);
    }
}

impl NodeLoop {
    /// Runs until cancelled; gives back the IO thread's handle.
    pub async fn run(mut self, cancel: CancellationToken) -> IoHandle {
        self.end_turn(self.clock.now());
        loop {
            let wake = self.clock.instant(self.shard.deadline());
            // Every arm is cancel safe: `recv` takes a message or nothing.
            let arrived = tokio::select! {
                biased;
                () = cancel.cancelled() => return self.io,
                Some(done) = self.completions.recv() => Some(Input::RoundDone(done).into()),
                Some(arrived) = self.inputs.recv() => Some(arrived),
                Some(step) = self.cleaner.done.recv() => Some(Input::Cleaned(Box::new(step)).into()),
                Some(command) = self.commands.recv() => Some(Input::Command(command).into()),
                () = tokio::time::sleep_until(wake) => None,
            };
            // Read after what it is read for: leases are counted from here.
            let now = self.clock.now();
            if let Some(Arrived { input, .. }) = arrived {
                self.shard.handle(now, input);
            }
            let now = self.take_what_is_there(now);
            if now.mono >= self.shard.deadline() {
                self.shard.tick(now);
                self.publish();
            }
            self.end_turn(now);
        }
    }

    /// Takes what is at hand; when it was done.
    fn take_what_is_there(&mut self, mut now: Now) -> Now {
        for _ in 0..TURN_INPUTS {
            let input = if let Ok(done) = self.completions.try_recv() {
                Input::RoundDone(done)
            } else if let Ok(Arrived { input, .. }) = self.inputs.try_recv() {
                input
            } else if let Ok(step) = self.cleaner.done.try_recv() {
                Input::Cleaned(Box::new(step))
            } else if let Ok(command) = self.commands.try_recv() {
                Input::Command(command)
            } else {
                break;
            };
            // The process may have been stopped since the last one was taken, and a lease be over.
            now.mono = self.clock.mono();
            self.shard.handle(now, input);
        }
        now
    }

    fn end_turn(&mut self, now: Now) {
        self.shard.finish_turn(now, &mut self.peers, &mut IoDisk(&self.io));
        if let Some(step) = self.shard.take_cleaning(now) {
            self.cleaner.start(step);
        }
        for (node, address) in self.shard.take_dials() {
            self.peers.connect(node, address);
        }
        if let Some(image) = self.shard.take_image() {
            self.peers.set_hello(self.shard.hello());
            self.images.send_replace(image);
            self.publish();
        }
    }

    fn publish(&self) {
        let controller = self.shard.controller_leader();
        self.published.send_replace(Published { status: self.shard.status().clone(), controller });
    }
}
