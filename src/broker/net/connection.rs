//! One client connection: frames in, answers out, in request order.
//!
//! One hand-polled state machine per socket, so that reading, work under way and writing never wait for each other:
//! ```text
//!  socket -> Input (recycled buffer, whole frames) -> start(frame) -> queue of work, FIFO -> Output (slices) -> socket
//! ```
//! Not here: what a frame means; `start` (from `dispatch`) turns it into work. Called by `listener` alone.
//!
//! Invariants
//! - Answers leave in the order of their requests.
//! - Requests are started in arrival order, and the next one only when the last has passed the turnstile: appends of one
//!   connection reach their partition in that order. Only Produces and one Fetch overlap; any other request runs alone, as in
//!   Kafka.
//! - Bounded: at most `MAX_QUEUED` requests and `MAX_QUEUED_BYTES` of their bytes under way (one request may exceed
//!   it), at most one answer beyond `OUTPUT_HIGH` waiting to be written; beyond that the socket is not read.
//! - A claimed frame length is believed up to `TRUSTED_BYTES`; above it memory grows with the bytes that really came.

use super::super::dispatch::{Answer, Turnstile, Work};
use super::super::error::CloseReason;
use super::super::metrics::Metrics;
use crate::wire::frame::FrameError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Most requests of one connection under way.
pub const MAX_QUEUED: usize = 64;
/// Most bytes of requests of one connection under way.
pub const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// Answers are taken from the queue while less than this waits to be written.
const OUTPUT_HIGH: usize = 1024 * 1024;
/// Slices handed to one vectored write.
const IO_SLICES: usize = 64;
/// Size of the buffer that small frames share, on a connection whose frames are kept or are many.
const READ_BYTES: usize = 64 * 1024;
/// The same on a new connection: most of thousands ask little, and what they asked is forgotten at once.
const FIRST_READ_BYTES: usize = 8 * 1024;
/// Less room than this is not worth a read.
const MIN_READ: usize = 4 * 1024;
/// After a frame of this size the next one gets a buffer of its own and is read straight into it: one short read for its
/// length costs less than moving what did not fit into the shared buffer.
const LARGE_FRAME: usize = 16 * 1024;
/// Length claims up to this are allocated at once; larger frames grow with what arrives.
const TRUSTED_BYTES: usize = 2 * 1024 * 1024;
/// Smallest frame: key, version, correlation id.
const MIN_FRAME: usize = 8;
/// Bytes of the length prefix.
const PREFIX: usize = 4;
/// A frame once begun, and an answer once ready, must move at least this often.
const MAX_STALL: Duration = Duration::from_secs(60);

/// What a connection is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest frame (`socket.request.max.bytes`).
    pub max_request_bytes: usize,
    /// Deadline of the first byte.
    pub first_byte: Duration,
    /// `connections.max.idle.ms`.
    pub idle: Duration,
}

/// One request under way.
struct Slot {
    api_key: i16,
    bytes: usize,
    started: Instant,
    work: Stage,
}

enum Stage {
    Working(Work),
    Done(Result<Answer, CloseReason>),
}

/// One connection. `start` turns a frame (without its length prefix) into work.
pub struct Connection<S, H> {
    stream: S,
    start: H,
    turnstile: Turnstile,
    limits: Limits,
    metrics: Arc<Metrics>,
    input: Input,
    /// A whole frame that must wait until the queue has drained.
    held: Option<BytesMut>,
    queue: VecDeque<Slot>,
    queued_bytes: usize,
    output: Output,
    eof: bool,
    draining: bool,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    opened: Instant,
    last_read: Option<Instant>,
    last_write: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S, H> Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(BytesMut) -> Result<Work, CloseReason>,
{
    /// A connection over a fresh socket. Once `drain` is cancelled it closes as soon as nothing is under way.
    pub fn new(
        stream: S,
        limits: Limits,
        metrics: Arc<Metrics>,
        drain: CancellationToken,
        turnstile: Turnstile,
        start: H,
    ) -> Self {
        let opened = Instant::now();
        Self {
            stream,
            start,
            turnstile,
            limits,
            metrics,
            input: Input::default(),
            held: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            output: Output::default(),
            eof: false,
            draining: false,
            drain: Box::pin(drain.cancelled_owned()),
            opened,
            last_read: None,
            last_write: opened,
            timer: Box::pin(sleep_until(opened + limits.first_byte)),
        }
    }

    /// Serves the connection until it is to be closed; says why. Dropping the future closes the socket at once.
    pub async fn run(mut self) -> CloseReason {
        poll_fn(|cx| self.poll_run(cx)).await
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let moved = match self.poll_step(cx) {
                Ok(moved) => moved,
                Err(reason) => return Poll::Ready(reason),
            };
            if let Some(reason) = self.finished(cx) {
                return Poll::Ready(reason);
            }
            if !moved {
                return self.poll_timer(cx);
            }
        }
    }

    /// One round over all three stages; true if anything moved. On false every stage has registered the waker or
    /// waits for another stage that has.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let wrote = self.poll_write(cx)?;
        let answered = self.poll_answers(cx)?;
        let read = self.poll_requests(cx)?;
        Ok(wrote || answered || read)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut wrote = false;
        while !self.output.is_empty() {
            match self.output.poll_write(Pin::new(&mut self.stream), cx) {
                Poll::Ready(count) => {
                    self.metrics.bytes_out.fetch_add(count? as u64, Relaxed);
                    wrote = true;
                }
                Poll::Pending => break,
            }
        }
        if wrote {
            self.last_write = Instant::now();
        }
        Ok(wrote)
    }

    /// Moves finished answers from the front of the queue to the output.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut moved = false;
        while self.output.bytes < OUTPUT_HIGH {
            let Some(slot) = self.queue.front_mut() else { break };
            if let Stage::Working(work) = &mut slot.work {
                match work.as_mut().poll(cx) {
                    Poll::Ready(answer) => slot.work = Stage::Done(answer),
                    Poll::Pending => break,
                }
            }
            let Some(slot) = self.queue.pop_front() else { break };
            self.queued_bytes -= slot.bytes;
            self.metrics.answered(slot.api_key, slot.started.elapsed());
            if let Stage::Done(answer) = slot.work {
                if self.output.is_empty() {
                    self.last_write = Instant::now();
                }
                self.output.push(answer?);
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Starts what has arrived whole, and reads on while there is room.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut moved = self.poll_last(cx);
        while self.turnstile.is_free()
            && self.queue.len() < MAX_QUEUED
            && self.queued_bytes < MAX_QUEUED_BYTES
        {
            let frame = match self.held.take() {
                Some(frame) => Some(frame),
                None => self.input.next_frame(self.limits.max_request_bytes)?,
            };
            if let Some(frame) = frame {
                if !self.may_start(&frame) {
                    self.held = Some(frame);
                    break;
                }
                self.begin(frame, cx)?;
                moved = true;
                continue;
            }
            if self.eof {
                break;
            }
            match self.input.poll_read(&mut self.stream, cx) {
                Poll::Ready(Ok(0)) => self.eof = true,
                Poll::Ready(Ok(count)) => {
                    self.metrics.bytes_in.fetch_add(count as u64, Relaxed);
                    self.last_read = Some(Instant::now());
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => break,
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Polls the last request until it has passed the turnstile, for nothing is started behind it before.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turnstile.is_free() {
            return false;
        }
        if let Some(slot) = self.queue.back_mut()
            && let Stage::Working(work) = &mut slot.work
            && let Poll::Ready(answer) = work.as_mut().poll(cx)
        {
            slot.work = Stage::Done(answer);
        }
        self.turnstile.is_free()
    }

    /// Produces and a Fetch run beside each other, but no second Fetch: one that goes on with a session is a few bytes and may stand for
    /// 100,000 partitions, of which each answer takes its room; anything else waits for an empty queue and keeps it to itself, so that
    /// a pipelined Metadata sees what the CreateTopics before it did.
    fn may_start(&self, frame: &[u8]) -> bool {
        let key = api_key(frame);
        let is_second_fetch = || key == FETCH && self.queue.iter().any(|slot| slot.api_key == FETCH);
        match self.queue.back() {
            None => true,
            Some(last) => overlaps(last.api_key) && overlaps(key) && !is_second_fetch(),
        }
    }

    /// Starts a request and polls its work once.
    fn begin(&mut self, frame: BytesMut, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let (api_key, bytes) = (api_key(&frame), frame.len());
        let started = Instant::now();
        let mut work = (self.start)(frame)?;
        let work = match work.as_mut().poll(cx) {
            Poll::Ready(answer) => Stage::Done(answer),
            Poll::Pending => Stage::Working(work),
        };
        self.queued_bytes += bytes;
        self.queue.push_back(Slot { api_key, bytes, started, work });
        Ok(())
    }

    /// Whether the end has come: the client has gone, or the listener drains, and nothing is left to say.
    fn finished(&mut self, cx: &mut Context<'_>) -> Option<CloseReason> {
        if !self.draining && self.drain.as_mut().poll(cx).is_ready() {
            self.draining = true;
        }
        if self.eof && self.held.is_none() {
            // Nobody reads the answer of a parked Fetch any more; appends are seen through to their end.
            let done = |slot: &Slot| slot.api_key == FETCH && matches!(slot.work, Stage::Working(_));
            if self.queue.iter().all(done) && self.output.is_empty() {
                return Some(CloseReason::Eof);
            }
        }
        let idle = self.queue.is_empty() && self.held.is_none() && self.output.is_empty();
        (self.draining && idle && self.input.is_empty()).then_some(CloseReason::Drained)
    }

    /// When, and why, this connection is closed if nothing moves any more; None while work is under way.
    fn deadline(&self) -> Option<(Instant, CloseReason)> {
        let Limits { first_byte, idle, .. } = self.limits;
        let stall = MAX_STALL.min(idle);
        if !self.output.is_empty() {
            return Some((self.last_write + stall, CloseReason::SlowReader(stall)));
        }
        if !self.queue.is_empty() || self.held.is_some() {
            return None;
        }
        let Some(last_read) = self.last_read else {
            return Some((self.opened + first_byte, CloseReason::FirstByte(first_byte)));
        };
        if !self.input.is_empty() {
            return Some((last_read + stall, CloseReason::Stalled(stall)));
        }
        Some((last_read.max(self.last_write) + idle, CloseReason::Idle(idle)))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // Moved forward only when it fires, so that the steady flow of requests never touches the timer.
        if let Some((deadline, _)) = self.deadline()
            && deadline < self.timer.deadline()
        {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match self.deadline() {
                Some((deadline, reason)) if deadline <= now => return Poll::Ready(reason),
                Some((deadline, _)) => self.timer.as_mut().reset(deadline),
                None => self.timer.as_mut().reset(now + self.limits.idle),
            }
        }
        Poll::Pending
    }
}

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;

/// Requests that may be under way beside each other.
fn overlaps(api_key: i16) -> bool {
    matches!(api_key, PRODUCE | FETCH)
}

/// Key of a frame; frames are at least `MIN_FRAME` long.
fn api_key(frame: &[u8]) -> i16 {
    i16::from_be_bytes([frame[0], frame[1]])
}

/// Bytes that have arrived, and the whole frames among them.
struct Input {
    buffer: BytesMut,
    /// Size of the next buffer that small frames share.
    shared: usize,
    /// Length of the frame that is being read, once its prefix has been taken off.
    frame: Option<usize>,
    /// Whether the last frame was a large one: then read the next prefix alone, and the frame straight into place.
    large: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), shared: FIRST_READ_BYTES, frame: None, large: false }
    }
}

impl Input {
    /// Whether no frame has been begun.
    fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.frame.is_none()
    }

    /// The next whole frame, without its length prefix.
    fn next_frame(&mut self, limit: usize) -> Result<Option<BytesMut>, CloseReason> {
        let size = match self.frame {
            Some(size) => size,
            None if self.buffer.len() < PREFIX => return Ok(None),
            None => {
                let claimed = self.buffer.get_i32();
                let size = usize::try_from(claimed).ok().filter(|size| (MIN_FRAME..=limit).contains(size));
                let size = size.ok_or(FrameError::Size(i64::from(claimed), limit))?;
                self.large = size >= LARGE_FRAME;
                self.frame = Some(size);
                size
            }
        };
        if self.buffer.len() < size {
            return Ok(None);
        }
        self.frame = None;
        Ok(Some(self.buffer.split_to(size)))
    }

    /// Reads once. Never reads beyond a large frame, so that what follows it does not move it.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let arrived = self.buffer.len();
        let most = match self.frame {
            Some(size) if self.large => {
                // Trust grows with what has arrived: a length alone must not take memory.
                if self.room() == 0 || self.buffer.capacity() < size.min(TRUSTED_BYTES) {
                    let grown = size.min(TRUSTED_BYTES.max(2 * arrived));
                    self.ensure(grown - arrived, grown - arrived);
                }
                size - arrived
            }
            None if self.large => {
                self.ensure(PREFIX - arrived, PREFIX - arrived);
                PREFIX - arrived
            }
            Some(size) => {
                self.ensure_shared(size - arrived);
                usize::MAX
            }
            None => {
                self.ensure_shared(MIN_READ);
                usize::MAX
            }
        };
        let most = most.min(self.room());
        let mut target = (&mut self.buffer).limit(most);
        pin!(stream.read_buf(&mut target)).poll(cx)
    }

    fn room(&self) -> usize {
        self.buffer.capacity() - self.buffer.len()
    }

    /// Makes room for `needed` bytes in a buffer of many frames, twice as large each time that the last one is not free again.
    fn ensure_shared(&mut self, needed: usize) {
        if self.ensure(needed, self.shared) {
            self.shared = READ_BYTES.min(2 * self.shared);
        }
    }

    /// Makes room for `needed` bytes: in place, else in this allocation if no frame of it lives any more, else in a new
    /// one of at least `wanted`. Returns whether it took a new one.
    fn ensure(&mut self, needed: usize, wanted: usize) -> bool {
        if self.room() >= needed || self.buffer.try_reclaim(needed) {
            return false;
        }
        let size = needed.max(wanted);
        if self.buffer.is_empty() {
            // Growing it would copy what was never written.
            self.buffer = BytesMut::with_capacity(size);
        } else {
            self.buffer.reserve(size);
        }
        true
    }
}

/// Slices that wait to be written.
#[derive(Default)]
struct Output {
    slices: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    fn push(&mut self, answer: Answer) {
        match answer {
            Answer::Frame(frame) => self.push_slice(frame),
            Answer::Slices(slices) => slices.into_iter().for_each(|slice| self.push_slice(slice)),
            Answer::Silent => {}
        }
    }

    fn push_slice(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.bytes += slice.len();
            self.slices.push_back(slice);
        }
    }

    /// One vectored write of what waits at the front.
    fn poll_write<S: AsyncWrite>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut vector = [IoSlice::new(&[]); IO_SLICES];
        let mut filled = 0;
        for (place, slice) in vector.iter_mut().zip(&self.slices) {
            *place = IoSlice::new(slice);
            filled += 1;
        }
        let count = match stream.poll_write_vectored(cx, &vector[..filled]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => count,
            other => return other,
        };
        self.advance(count);
        Poll::Ready(Ok(count))
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(front) = self.slices.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.slices.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
