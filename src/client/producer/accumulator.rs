//! Per-partition queues of batches, their sequence numbers, and the rules of retrying in order. Pure: no clock,
//! no network; `sender` tells it the time and what came of each batch.
//!
//! Invariants, per partition: `retry` is sorted by sequence and lies before everything not sent yet; while it is
//! not empty nothing is sent until all of the partition's requests have come back; sequences are assigned once, at
//! the first sending. A batch given up on leaves a hole that the broker would refuse to skip: that partition (and
//! no other) goes on under a new producer id, and batches of it that may have been written already fail rather
//! than be written twice.

use super::super::error::{Error, Result};
use super::super::records::{BatchBuilder, ProducerStamp, Record, set_producer};
use super::{Outcome, ProducerOptions};
use crate::client::Codec;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

/// Topic and partition.
pub(super) type Key = (Arc<str>, i32);

/// A batch that is no longer added to.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    pub(super) count: i32,
    pub(super) sequence: i32,
    pub(super) born: Instant,
    pub(super) attempts: u32,
    /// An earlier attempt ended without a clear answer.
    may_be_written: bool,
    outcome: Arc<Outcome>,
    /// Its share of the producer's memory, given back when the batch is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Batch {
    fn finish(self, result: Result<i64>, at: std::time::Instant) {
        self.outcome.set(result, at);
    }
}

/// A batch still being filled.
struct Open {
    builder: BatchBuilder,
    born: Instant,
    outcome: Arc<Outcome>,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Queue {
    full: VecDeque<Open>,
    open: Option<Open>,
    retry: VecDeque<Batch>,
    /// Sequences of the batches under way, in order.
    in_flight: Vec<i32>,
    next_sequence: i32,
    /// Producer id its sequences belong to; None until the first sending.
    producer: Option<(i64, i16)>,
    /// A batch was given up on: needs a new producer id before anything else is sent.
    broken: bool,
    paused_until: Option<Instant>,
    last_error: Option<Error>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_none() && self.retry.is_empty() && self.in_flight.is_empty()
    }
}

/// What came of one batch of a request.
pub(super) enum Answer {
    /// Written at this offset (-1: unknown).
    Written(i64),
    /// To be tried again.
    Retry(Error),
    /// Kafka's error code, to be judged here.
    Code(i16, Option<String>),
}

/// All queues.
pub(super) struct Accumulator {
    queues: BTreeMap<Key, Queue>,
    batch_size: usize,
    linger: Duration,
    delivery_timeout: Duration,
    codec: Codec,
    idempotent: bool,
    max_in_flight: usize,
    /// Id and epoch; None until the broker gave one.
    producer: Option<(i64, i16)>,
    flushing: bool,
    failed: Option<Error>,
}

impl Accumulator {
    pub(super) fn new(options: &ProducerOptions) -> Self {
        Self {
            queues: BTreeMap::new(),
            batch_size: options.batch_size,
            linger: options.linger,
            delivery_timeout: options.delivery_timeout,
            codec: options.codec,
            idempotent: options.idempotent,
            max_in_flight: if options.idempotent { options.max_in_flight } else { 1 },
            producer: None,
            flushing: false,
            failed: None,
        }
    }

    /// Adds a record; answers its batch's outcome, its place in it, and whether the sender should look.
    pub(super) fn push(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        record: &Record,
        permit: OwnedSemaphorePermit,
        now: Instant,
        now_ms: i64,
    ) -> Result<(Arc<Outcome>, i32, bool)> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let queue = self.queues.entry((topic.clone(), partition)).or_default();
        let size = record.size_hint();
        let mut wake = false;
        if queue.open.as_ref().is_some_and(|o| o.builder.len() + size > self.batch_size) {
            queue.full.extend(queue.open.take());
            wake = true;
        }
        // The first record of a batch starts its linger time, which the sender must know.
        wake |= queue.open.is_none();
        let open = queue.open.get_or_insert_with(|| Open {
            builder: BatchBuilder::with_capacity(self.batch_size.min(16 * 1024)),
            born: now,
            outcome: Arc::default(),
            permit: None,
        });
        let place = open.builder.push(record, now_ms);
        let outcome = open.outcome.clone();
        match &mut open.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        if open.builder.len() >= self.batch_size {
            queue.full.extend(queue.open.take());
            wake = true;
        }
        Ok((outcome, place, wake))
    }

    /// Stops lingering; true if there is nothing left, which also ends the flush.
    pub(super) fn flush(&mut self) -> bool {
        self.flushing = !self.is_empty();
        !self.flushing
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.values().all(Queue::is_empty)
    }

    /// Whether the sender must get a producer id now.
    pub(super) fn wants_producer_id(&self) -> bool {
        let needs =
            |q: &Queue| !q.is_empty() && (self.producer.is_none() || q.broken && q.in_flight.is_empty());
        self.idempotent && self.queues.values().any(needs)
    }

    /// Takes a new producer id, for partitions not sent to yet and for broken ones.
    pub(super) fn set_producer(&mut self, id: i64, epoch: i16, now: Instant) {
        self.producer = Some((id, epoch));
        for (key, queue) in &mut self.queues {
            if queue.broken && queue.in_flight.is_empty() {
                renumber(key, queue, (id, epoch), now);
            }
        }
    }

    /// Partitions with something to send now, and when the next one will have.
    pub(super) fn ready(&self, now: Instant) -> (Vec<Key>, Option<Instant>) {
        let (mut ready, mut next) = (Vec::new(), None::<Instant>);
        for (key, queue) in &self.queues {
            let due = if !queue.retry.is_empty() || !queue.full.is_empty() {
                now
            } else if let Some(open) = &queue.open {
                if self.flushing { now } else { open.born + self.linger }
            } else {
                continue;
            };
            let due = queue.paused_until.map_or(due, |p| p.max(due));
            if due > now {
                next = Some(next.map_or(due, |n| n.min(due)));
            } else if self.may_send(queue) {
                ready.push(key.clone());
            }
        }
        (ready, next)
    }

    fn may_send(&self, queue: &Queue) -> bool {
        let id = !self.idempotent || (self.producer.is_some() && !queue.broken);
        let order = queue.retry.is_empty() || queue.in_flight.is_empty();
        id && order && queue.in_flight.len() < self.max_in_flight
    }

    /// Takes the next batch of a partition for sending, if it is no larger than `room` (or the first of a request).
    pub(super) fn take(&mut self, key: &Key, room: Option<usize>, now: Instant) -> Option<Batch> {
        let current = self.producer;
        let codec = self.codec;
        let queue = self.queues.get_mut(key)?;
        let fits = |len: usize| room.is_none_or(|r| len <= r);
        let batch = if let Some(front) = queue.retry.front() {
            if !fits(front.bytes.len()) {
                return None;
            }
            queue.retry.pop_front()?
        } else {
            let front = queue.full.front().or(queue.open.as_ref())?;
            if !fits(front.builder.len()) {
                return None;
            }
            let open = queue.full.pop_front().or_else(|| queue.open.take())?;
            let sequence = queue.next_sequence;
            let count = open.builder.count();
            if queue.producer.is_none() {
                queue.producer = current;
            }
            let stamp = queue.producer.map_or(ProducerStamp::default(), |(id, epoch)| ProducerStamp {
                id,
                epoch,
                sequence,
            });
            match open.builder.finish(codec, stamp) {
                Ok(bytes) => {
                    queue.next_sequence = sequence_after(sequence, count);
                    Batch {
                        bytes: bytes.freeze(),
                        count,
                        sequence,
                        born: open.born,
                        attempts: 0,
                        may_be_written: false,
                        outcome: open.outcome,
                        _permit: open.permit,
                    }
                }
                Err(e) => {
                    open.outcome.set(Err(e), now.into_std());
                    return None;
                }
            }
        };
        queue.in_flight.push(batch.sequence);
        Some(batch)
    }

    /// Puts a batch back that could not be handed to the connection.
    pub(super) fn untake(&mut self, key: &Key, batch: Batch) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.in_flight.retain(|s| *s != batch.sequence);
            insert_sorted(&mut queue.retry, batch);
        }
    }

    /// Leaves a partition alone until then.
    pub(super) fn pause(&mut self, key: &Key, until: Instant) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.paused_until = Some(until);
        }
    }

    /// Takes note of why nothing can be sent to these partitions: what a batch that is not delivered in time is told.
    pub(super) fn note(&mut self, concerns: impl Fn(&Key) -> bool, error: &Error) {
        for (_, queue) in self.queues.iter_mut().filter(|(key, _)| concerns(key)) {
            queue.last_error = Some(error.clone());
        }
    }

    /// Takes note of what came of a batch. True if the idea of who leads is in doubt.
    pub(super) fn done(&mut self, key: &Key, mut batch: Batch, answer: Answer, now: Instant) -> bool {
        let at = now.into_std();
        let Some(queue) = self.queues.get_mut(key) else { return false };
        queue.in_flight.retain(|s| *s != batch.sequence);
        let what = || format!("produce to {}/{}", key.0, key.1);
        let (error, retriable, gap) = match answer {
            Answer::Written(offset) => {
                (queue.paused_until, queue.last_error) = (None, None);
                batch.finish(Ok(offset), at);
                return false;
            }
            Answer::Code(DUPLICATE_SEQUENCE_NUMBER, _) => {
                batch.finish(Ok(-1), at);
                return false;
            }
            Answer::Retry(error) => (error, true, false),
            Answer::Code(code, message) => {
                // Behind a batch that is to be repeated, a gap in the sequence is what the broker must see.
                let earlier = |s: &i32| sequence_is_before(*s, batch.sequence);
                let gap = code == OUT_OF_ORDER_SEQUENCE_NUMBER
                    && (queue.broken
                        || queue.in_flight.iter().any(earlier)
                        || queue.retry.iter().any(|b| earlier(&b.sequence)));
                let error = Error::Kafka { code, what: what(), message };
                let retriable = gap || error.is_retriable();
                (error, retriable, gap)
            }
        };
        if retriable && now.duration_since(batch.born) < self.delivery_timeout {
            batch.attempts += 1;
            batch.may_be_written |= !gap;
            queue.last_error = Some(error);
            let pause =
                Duration::from_millis(20 << batch.attempts.min(5)).min(Duration::from_millis(500)) / 2;
            queue.paused_until = Some(now + pause);
            insert_sorted(&mut queue.retry, batch);
            return true;
        }
        queue.broken = true;
        batch.finish(Err(error), at);
        true
    }

    /// Fails what waits longer than the delivery time-out. Batches under way are left to their requests.
    pub(super) fn expire(&mut self, now: Instant) {
        let at = now.into_std();
        let limit = self.delivery_timeout;
        let old = |born: Instant| now.duration_since(born) >= limit;
        for (key, queue) in &mut self.queues {
            let last = queue.last_error.clone();
            let late = || Error::TimedOut { what: format!("delivery to {}/{}", key.0, key.1), limit };
            let error = || last.clone().unwrap_or_else(late);
            while queue.retry.front().is_some_and(|b| old(b.born)) && queue.in_flight.is_empty() {
                if let Some(batch) = queue.retry.pop_front() {
                    queue.broken = true;
                    batch.finish(Err(error()), at);
                }
            }
            while queue.full.front().is_some_and(|o| old(o.born)) {
                if let Some(open) = queue.full.pop_front() {
                    open.outcome.set(Err(error()), at);
                }
            }
            if queue.open.as_ref().is_some_and(|o| old(o.born))
                && let Some(open) = queue.open.take()
            {
                open.outcome.set(Err(error()), at);
            }
        }
    }

    /// When the oldest waiting batch will be too old.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let born = |q: &Queue| {
            let retry = q.retry.front().map(|b| b.born).filter(|_| q.in_flight.is_empty());
            [retry, q.full.front().map(|o| o.born), q.open.as_ref().map(|o| o.born)]
                .into_iter()
                .flatten()
                .min()
        };
        self.queues.values().filter_map(born).min().map(|b| b + self.delivery_timeout)
    }

    /// Fails everything, now and from now on.
    pub(super) fn fail_all(&mut self, error: &Error, now: Instant) {
        let at = now.into_std();
        for queue in self.queues.values_mut() {
            for batch in queue.retry.drain(..) {
                batch.finish(Err(error.clone()), at);
            }
            for open in queue.full.drain(..).chain(queue.open.take()) {
                open.outcome.set(Err(error.clone()), at);
            }
        }
        self.failed = Some(error.clone());
    }
}

fn renumber(key: &Key, queue: &mut Queue, producer: (i64, i16), now: Instant) {
    let at = now.into_std();
    (queue.broken, queue.producer, queue.next_sequence) = (false, Some(producer), 0);
    for mut batch in std::mem::take(&mut queue.retry) {
        if batch.may_be_written {
            let what = format!("clear answer for {}/{}, which may or may not be written", key.0, key.1);
            batch.finish(Err(queue.last_error.clone().unwrap_or(Error::Invalid(what))), at);
            continue;
        }
        let (id, epoch) = producer;
        batch.sequence = queue.next_sequence;
        queue.next_sequence = sequence_after(batch.sequence, batch.count);
        // No copy unless a request that was given up on still holds the bytes.
        let mut bytes = BytesMut::from(std::mem::take(&mut batch.bytes));
        set_producer(&mut bytes, ProducerStamp { id, epoch, sequence: batch.sequence });
        batch.bytes = bytes.freeze();
        queue.retry.push_back(batch);
    }
}

fn insert_sorted(retry: &mut VecDeque<Batch>, batch: Batch) {
    let at = retry.iter().position(|b| sequence_is_before(batch.sequence, b.sequence)).unwrap_or(retry.len());
    retry.insert(at, batch);
}

/// Sequences wrap from 2^31-1 to 0 (KIP-98).
fn sequence_after(sequence: i32, count: i32) -> i32 {
    (i64::from(sequence) + i64::from(count)).rem_euclid(1 << 31) as i32
}

fn sequence_is_before(a: i32, b: i32) -> bool {
    let ahead = (i64::from(b) - i64::from(a)).rem_euclid(1 << 31);
    ahead != 0 && ahead < 1 << 30
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::records::next_batch;
    use tokio::sync::Semaphore;

    fn options() -> ProducerOptions {
        ProducerOptions { batch_size: 1, ..ProducerOptions::default() }
    }

    /// An accumulator with `n` one-record batches queued in partition 0, producer id 7.
    fn with_batches(n: usize) -> (Accumulator, Key, Vec<Arc<Outcome>>) {
        let mut accumulator = Accumulator::new(&options());
        let topic: Arc<str> = "t".into();
        let memory = Arc::new(Semaphore::new(1 << 20));
        let outcomes = (0..n)
            .map(|_| {
                let permit = memory.clone().try_acquire_many_owned(10).unwrap();
                accumulator.push(&topic, 0, &Record::default(), permit, Instant::now(), 1).unwrap().0
            })
            .collect();
        accumulator.set_producer(7, 0, Instant::now());
        (accumulator, (topic, 0), outcomes)
    }

    fn sequence_on_wire(batch: &Batch) -> i32 {
        next_batch(&mut batch.bytes.clone()).unwrap().unwrap().0.base_sequence
    }

    #[tokio::test]
    async fn take_five_in_flight_stops_and_numbers_in_order() {
        let (mut a, key, _) = with_batches(7);
        for sequence in 0..5 {
            assert_eq!(a.ready(Instant::now()).0.len(), 1);
            let batch = a.take(&key, None, Instant::now()).unwrap();
            assert_eq!((batch.sequence, sequence_on_wire(&batch)), (sequence, sequence));
        }
        assert!(a.ready(Instant::now()).0.is_empty());
    }

    #[tokio::test]
    async fn retry_of_first_of_three_repeats_all_in_order() {
        let (mut a, key, outcomes) = with_batches(4);
        let mut batches: Vec<Batch> = (0..3).map(|_| a.take(&key, None, Instant::now()).unwrap()).collect();
        let now = Instant::now();
        let (third, second, first) = (batches.pop().unwrap(), batches.pop().unwrap(), batches.pop().unwrap());
        assert!(a.done(&key, first, Answer::Code(6, None), now));
        // Two are still under way: nothing may overtake them.
        assert!(a.ready(now + Duration::from_secs(1)).0.is_empty());
        a.done(&key, second, Answer::Code(OUT_OF_ORDER_SEQUENCE_NUMBER, None), now);
        a.done(&key, third, Answer::Code(OUT_OF_ORDER_SEQUENCE_NUMBER, None), now);
        let later = now + Duration::from_secs(1);
        for expected in 0..3 {
            assert_eq!(a.ready(later).0.len(), 1);
            let batch = a.take(&key, None, Instant::now()).unwrap();
            assert_eq!(batch.sequence, expected);
            a.done(&key, batch, Answer::Written(100 + i64::from(expected)), later);
        }
        assert_eq!(a.take(&key, None, Instant::now()).unwrap().sequence, 3);
        assert_eq!(outcomes[2].result.get().unwrap().0, Ok(102));
    }

    #[tokio::test]
    async fn gap_without_earlier_batch_is_final_and_asks_for_new_id() {
        let (mut a, key, outcomes) = with_batches(2);
        let batch = a.take(&key, None, Instant::now()).unwrap();
        a.done(&key, batch, Answer::Code(OUT_OF_ORDER_SEQUENCE_NUMBER, None), Instant::now());
        let error = outcomes[0].result.get().unwrap().0.clone().unwrap_err();
        assert_eq!(error.kafka_code(), Some(OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert!(a.wants_producer_id());
        a.set_producer(8, 0, Instant::now());
        assert_eq!(a.take(&key, None, Instant::now()).unwrap().sequence, 0);
    }

    #[tokio::test]
    async fn refused_batch_renumbers_the_refused_and_fails_the_doubtful() {
        let (mut a, key, outcomes) = with_batches(4);
        let first = a.take(&key, None, Instant::now()).unwrap();
        let second = a.take(&key, None, Instant::now()).unwrap();
        let third = a.take(&key, None, Instant::now()).unwrap();
        let now = Instant::now();
        // 10: MESSAGE_TOO_LARGE. The next was refused for the hole; of the third nothing is known.
        a.done(&key, first, Answer::Code(10, None), now);
        a.done(&key, second, Answer::Code(OUT_OF_ORDER_SEQUENCE_NUMBER, None), now);
        assert!(!a.wants_producer_id(), "one request is under way");
        let lost = Error::Disconnected { address: "a".into(), reason: "r".into() };
        a.done(&key, third, Answer::Retry(lost.clone()), now);
        assert!(a.wants_producer_id());
        a.set_producer(9, 0, Instant::now());
        assert!(!a.wants_producer_id());
        let batch = a.take(&key, None, Instant::now()).unwrap();
        let (info, _) = next_batch(&mut batch.bytes.clone()).unwrap().unwrap();
        assert_eq!((info.producer_id, info.producer_epoch, info.base_sequence), (9, 0, 0));
        a.done(&key, batch, Answer::Written(5), now);
        assert_eq!(outcomes[1].result.get().unwrap().0, Ok(5));
        assert_eq!(outcomes[2].result.get().unwrap().0, Err(lost));
        assert_eq!(a.take(&key, None, Instant::now()).unwrap().sequence, 1);
    }

    #[tokio::test]
    async fn broken_partition_leaves_other_partitions_their_id() {
        let (mut a, key, _) = with_batches(2);
        let memory = Arc::new(Semaphore::new(10));
        let permit = memory.try_acquire_many_owned(1).unwrap();
        a.push(&key.0, 1, &Record::default(), permit, Instant::now(), 1).unwrap();
        let other: Key = (key.0.clone(), 1);
        let untouched = a.take(&other, None, Instant::now()).unwrap();
        let batch = a.take(&key, None, Instant::now()).unwrap();
        let now = Instant::now();
        a.done(&key, batch, Answer::Code(10, None), now);
        a.set_producer(9, 0, Instant::now());
        a.done(&other, untouched, Answer::Code(6, None), now);
        let again = a.take(&other, None, Instant::now()).unwrap();
        let (info, _) = next_batch(&mut again.bytes.clone()).unwrap().unwrap();
        assert_eq!((info.producer_id, info.producer_epoch, info.base_sequence), (7, 0, 0));
    }

    #[tokio::test]
    async fn expire_old_batches_fail_and_memory_returns() {
        let mut a = Accumulator::new(&options());
        let memory = Arc::new(Semaphore::new(10));
        let permit = memory.clone().try_acquire_many_owned(10).unwrap();
        let (outcome, _, _) = a.push(&"t".into(), 0, &Record::default(), permit, Instant::now(), 1).unwrap();
        assert_eq!(memory.available_permits(), 0);
        let expiry = a.next_expiry().unwrap();
        a.expire(expiry);
        assert!(matches!(outcome.result.get().unwrap().0, Err(Error::TimedOut { .. })));
        assert!(a.is_empty());
        assert_eq!(memory.available_permits(), 10);
    }

    #[test]
    fn sequence_wraps_at_31_bits() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
        assert!(sequence_is_before(i32::MAX, 0));
        assert!(!sequence_is_before(0, i32::MAX));
        assert!(!sequence_is_before(5, 5));
    }
}
