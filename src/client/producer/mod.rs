//! [`Producer`]: batches records per partition and sends them with idempotence, so that retries neither lose,
//! repeat nor reorder (KIP-98).
//!
//! | file | what it holds |
//! |---|---|
//! | here | options, [`Delivery`], the handle: memory limit, partitioning |
//! | `accumulator` | per-partition queues and sequences; pure, told what time it is |
//! | `sender` | the one task that turns queues into requests and answers into outcomes |
//!
//! Not here: transactions. Invariants: memory is bounded by `buffer_memory` (a permit is taken before a record is
//! queued); every accepted record ends in exactly one outcome; per partition, batches are written in order.

mod accumulator;
mod sender;

use super::Codec;
use super::cluster::Client;
use super::error::{Error, Result};
use super::records::Record;
use crate::wire::murmur2;
use accumulator::Accumulator;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How a producer behaves. Names are those of Kafka's producer.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// -1: all in-sync replicas; 1: the leader; 0: do not wait.
    pub acks: i16,
    /// Deduplicated by the broker; needs acks -1.
    pub idempotent: bool,
    /// How batches are compressed.
    pub codec: Codec,
    /// A batch is closed when it holds so many bytes.
    pub batch_size: usize,
    /// A batch is closed when it is so old.
    pub linger: Duration,
    /// Bytes of records waiting or under way.
    pub buffer_memory: usize,
    /// Most bytes of one request.
    pub max_request_size: usize,
    /// Requests under way per broker (with idempotence at most 5, which is what brokers remember).
    pub max_in_flight: usize,
    /// What the broker is given for its replicas.
    pub request_timeout: Duration,
    /// How long a record may take from `send` to its outcome.
    pub delivery_timeout: Duration,
    /// Whether a missing topic may be made by the broker.
    pub auto_create: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: -1,
            idempotent: true,
            codec: Codec::None,
            batch_size: 64 * 1024,
            linger: Duration::from_millis(5),
            buffer_memory: 32 << 20,
            max_request_size: 1 << 20,
            max_in_flight: 5,
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            auto_create: true,
        }
    }
}

/// Where a record landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its partition.
    pub partition: i32,
    /// Its offset; -1 if the broker did not say (acks 0, or a duplicate it no longer remembers).
    pub offset: i64,
}

/// What became of a batch: offset of its first record, and when that was known.
type BatchResult = (Result<i64>, std::time::Instant);

/// Shared by all records of a batch.
#[derive(Debug, Default)]
struct Outcome {
    result: OnceLock<BatchResult>,
    known: Notify,
}

impl Outcome {
    fn set(&self, result: Result<i64>, at: std::time::Instant) {
        if self.result.set((result, at)).is_ok() {
            self.known.notify_waiters();
        }
    }
}

/// The outcome of one record, to come.
#[derive(Clone, Debug)]
#[must_use = "a delivery nobody looks at may have failed"]
pub struct Delivery {
    outcome: Arc<Outcome>,
    partition: i32,
    place: i32,
}

impl Delivery {
    /// Waits for the outcome.
    pub async fn wait(&self) -> Result<Ack> {
        self.wait_timed().await.0
    }

    /// Waits for the outcome; also when it was known, which may be long before anyone asked.
    pub async fn wait_timed(&self) -> (Result<Ack>, std::time::Instant) {
        loop {
            let known = self.outcome.known.notified();
            let mut known = std::pin::pin!(known);
            known.as_mut().enable();
            if let Some(done) = self.peek() {
                return done;
            }
            known.await;
        }
    }

    /// The outcome, if it is known.
    pub fn peek(&self) -> Option<(Result<Ack>, std::time::Instant)> {
        let (result, at) = self.outcome.result.get()?;
        let ack = |base: &i64| Ack {
            partition: self.partition,
            offset: if *base < 0 { -1 } else { base + i64::from(self.place) },
        };
        Some((result.as_ref().map(ack).map_err(Clone::clone), *at))
    }

    /// Whether both wait for the same batch, so that one of them is enough to wait for.
    pub fn same_batch(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.outcome, &other.outcome)
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }
}

struct Shared {
    options: ProducerOptions,
    client: Client,
    accumulator: Mutex<Accumulator>,
    /// Something to send may have appeared.
    wake: Notify,
    /// Nothing is queued or under way any more.
    idle: Notify,
    memory: Arc<Semaphore>,
    sticky: Mutex<HashMap<Arc<str>, Sticky>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Accumulator> {
        self.accumulator.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The partition that records without key go to for now, and the bytes it has had (KIP-794).
struct Sticky {
    partition: i32,
    bytes: usize,
}

/// Sends records. Cheap to share behind an `Arc`; dropping it gives up what is not delivered.
pub struct Producer {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Producer {
    /// A producer with its sending task.
    pub fn new(client: Client, mut options: ProducerOptions) -> Result<Self> {
        if options.idempotent && options.acks != -1 {
            return Err(Error::Invalid("an idempotent producer needs acks=all".into()));
        }
        if !(-1..=1).contains(&options.acks) {
            return Err(Error::Invalid(format!("acks {} is not 0, 1 or -1", options.acks)));
        }
        // Without sequence numbers only one request at a time keeps the order through retries.
        options.max_in_flight =
            if options.idempotent { options.max_in_flight.clamp(1, 5) } else { options.max_in_flight.max(1) };
        let stop = CancellationToken::new();
        let memory = Arc::new(Semaphore::new(options.buffer_memory.min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared {
            accumulator: Mutex::new(Accumulator::new(&options)),
            options,
            client,
            wake: Notify::new(),
            idle: Notify::new(),
            memory,
            sticky: Mutex::new(HashMap::new()),
        });
        tokio::spawn(stop.clone().run_until_cancelled_owned(sender::run(shared.clone())));
        Ok(Self { shared, _stop: stop.drop_guard() })
    }

    /// Queues a record, waiting while memory is full. `partition` None: by key, or whichever is its turn.
    pub async fn send(&self, topic: &Arc<str>, partition: Option<i32>, record: &Record) -> Result<Delivery> {
        let shared = &self.shared;
        let size = record.size_hint();
        if size > shared.options.max_request_size {
            let limit = shared.options.max_request_size;
            return Err(Error::Invalid(format!(
                "record of about {size} bytes exceeds the request limit of {limit} bytes"
            )));
        }
        let count = self.partition_count(topic).await?;
        let partition = match (partition, &record.key) {
            (Some(p), _) if (0..count).contains(&p) => p,
            (Some(p), _) => {
                return Err(Error::Invalid(format!(
                    "topic `{topic}` has no partition {p}, only 0 to {}",
                    count - 1
                )));
            }
            (None, Some(key)) => murmur2::partition(key, count),
            (None, None) => self.sticky_partition(topic, count, size),
        };
        let permits = u32::try_from(size.min(shared.options.buffer_memory)).unwrap_or(u32::MAX);
        let permit = shared.memory.clone().acquire_many_owned(permits).await.map_err(|_| Error::Closed)?;
        let (now, now_ms) = (Instant::now(), unix_ms());
        let (outcome, place, wake) = shared.lock().push(topic, partition, record, permit, now, now_ms)?;
        if wake {
            shared.wake.notify_one();
        }
        Ok(Delivery { outcome, partition, place })
    }

    /// Sends everything queued without lingering and waits until every outcome is known.
    pub async fn flush(&self) {
        loop {
            let idle = self.shared.idle.notified();
            let mut idle = std::pin::pin!(idle);
            idle.as_mut().enable();
            if self.shared.lock().flush() {
                return;
            }
            self.shared.wake.notify_one();
            idle.await;
        }
    }

    async fn partition_count(&self, topic: &str) -> Result<i32> {
        let client = &self.shared.client;
        match client.partition_count(topic) {
            0 => {
                let limit = client.options().call_timeout;
                Ok(client.topic(topic, self.shared.options.auto_create, limit).await?.partitions.len() as i32)
            }
            n => Ok(n),
        }
    }

    fn sticky_partition(&self, topic: &Arc<str>, count: i32, size: usize) -> i32 {
        let mut sticky = self.shared.sticky.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = || Sticky { partition: rand::random_range(0..count), bytes: 0 };
        let current = sticky.entry(topic.clone()).or_insert_with(fresh);
        if current.bytes >= self.shared.options.batch_size || current.partition >= count {
            // Another one than before, so that load spreads even over two partitions.
            let step = if count > 1 { rand::random_range(1..count) } else { 0 };
            *current = Sticky { partition: (current.partition + step) % count, bytes: 0 };
        }
        current.bytes += size;
        current.partition
    }
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
