//! Produce with batches built once, over plain sockets: as little generator as possible, so that what is measured
//! is the broker.
//!
//! One lane per leading broker: a writer that sends frames as the window or the schedule allows, a reader that
//! matches answers, which come in order. Each request carries one batch of one partition, partitions in turn.
//! Leaders must stay where they are: any error ends the run.

use super::Limits;
use super::pace::Schedule;
use super::produce::random_bytes;
use super::report::Recorder;
use crate::cli::BenchProduce;
use crate::output::Failure;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::InitProducerIdRequest;
use kontiki::client::connection::encode_frame;
use kontiki::client::error::error_name;
use kontiki::client::records::{BatchBuilder, ProducerStamp, set_producer};
use kontiki::client::{Client, Error, Record, TopicInfo};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Not flexible, names topics, knows zstd: the simplest version that does all.
const VERSION: i16 = 7;
/// Where the correlation id stands in a frame.
const CORRELATION_AT: usize = 8;
/// Window per broker if nothing is said, as Kafka's producer.
const REQUESTS_PER_BROKER: usize = 5;
/// Window of an open loop: large enough to not close it.
const OPEN_LOOP_WINDOW: usize = 1024;
const TIMEOUT_MS: i32 = 30_000;

/// What all lanes share.
struct Run {
    window: Arc<Semaphore>,
    recorder: Mutex<Recorder>,
    /// Batches still to send.
    budget: AtomicU64,
    stop: AtomicBool,
    end: Option<Instant>,
    acks: i16,
    records_per_batch: u64,
    bytes_per_batch: u64,
}

impl Run {
    fn take_batch(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        !self.stop.load(Ordering::Relaxed)
            && self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn done(&self, since: Instant) {
        let at = Instant::now();
        let mut recorder = self.recorder.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        recorder.done(since, at, self.records_per_batch, self.bytes_per_batch);
    }
}

/// One partition's part of a lane.
struct Slot {
    prefix: Bytes,
    batch: Bytes,
    stamp: Option<ProducerStamp>,
}

impl Slot {
    /// The next batch; numbered anew for an idempotent producer.
    fn next(&mut self, records: u64) -> Bytes {
        let Some(stamp) = &mut self.stamp else { return self.batch.clone() };
        let mut batch = BytesMut::from(&self.batch[..]);
        set_producer(&mut batch, *stamp);
        stamp.sequence = (i64::from(stamp.sequence) + records as i64).rem_euclid(1 << 31) as i32;
        batch.freeze()
    }
}

/// Runs until a limit is met; answers what was recorded.
pub async fn drive(
    client: &Client,
    topic: &TopicInfo,
    args: &BenchProduce,
    limits: Limits,
    recorder: Recorder,
) -> Result<Recorder, Failure> {
    let (batch, count) = build(args)?;
    let producer = if args.idempotent { Some(producer_id(client).await?) } else { None };
    let mut lanes: BTreeMap<i32, Vec<Slot>> = BTreeMap::new();
    for p in &topic.partitions {
        let prefix = prefix(&topic.name, p.index, args.acks, batch.len());
        let stamp = producer.map(|(id, epoch)| ProducerStamp { id, epoch, sequence: 0 });
        lanes.entry(p.leader).or_default().push(Slot { prefix, batch: batch.clone(), stamp });
    }
    let started = Instant::now();
    let default_window =
        if args.rate.is_some() { OPEN_LOOP_WINDOW } else { REQUESTS_PER_BROKER * lanes.len() };
    let run = Arc::new(Run {
        window: Arc::new(Semaphore::new(args.outstanding.unwrap_or(default_window).max(1))),
        recorder: Mutex::new(recorder),
        budget: AtomicU64::new(limits.records.map_or(u64::MAX, |n| n.div_ceil(count))),
        stop: AtomicBool::new(false),
        end: limits.time.map(|t| started + t),
        acks: args.acks,
        records_per_batch: count,
        bytes_per_batch: count * args.record_size as u64,
    });
    let mut tasks = JoinSet::new();
    let all = topic.partitions.len() as f64;
    for (broker, slots) in lanes {
        let rate = args.rate.map(|r| r as f64 / count as f64 * slots.len() as f64 / all);
        let schedule = rate.map(|r| Schedule::new(started, r));
        let socket = connect(client, broker).await?;
        let (tx, rx) = mpsc::channel(OPEN_LOOP_WINDOW);
        let (read, write) = socket.into_split();
        tasks.spawn(write_lane(run.clone(), write, slots, schedule, tx));
        tasks.spawn(read_lane(run.clone(), read, topic.name.len(), rx));
    }
    let mut first_error = Ok(());
    while let Some(done) = tasks.join_next().await {
        let done = done.unwrap_or_else(|e| Err(Failure::new("BENCH", e.to_string())));
        if done.is_err() {
            run.stop.store(true, Ordering::Relaxed);
            run.window.close();
            if first_error.is_ok() {
                first_error = done;
            }
        }
    }
    first_error?;
    let run = Arc::into_inner(run).ok_or_else(|| Failure::new("BENCH", "a lane is still running"))?;
    Ok(run.recorder.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The batch, and how many records fit in it.
fn build(args: &BenchProduce) -> Result<(Bytes, u64), Failure> {
    let mut builder = BatchBuilder::with_capacity(args.batch_size);
    loop {
        let record = Record { value: Some(random_bytes(args.record_size)), ..Record::default() };
        let first = builder.is_empty();
        if !first && builder.len() + record.size_hint() > args.batch_size {
            break;
        }
        builder.push(&record, 0);
    }
    let count = builder.count() as u64;
    Ok((builder.finish(args.compression, ProducerStamp::default())?.freeze(), count))
}

async fn producer_id(client: &Client) -> Result<(i64, i16), Failure> {
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(i32::MAX);
    let answer = client.call_any(&request, i16::MAX).await?;
    Error::check(answer.error_code, None, || "producer id".into())?;
    Ok((answer.producer_id.0, answer.producer_epoch))
}

async fn connect(client: &Client, broker: i32) -> Result<TcpStream, Failure> {
    let metadata = client.metadata();
    let address = metadata.brokers.get(&broker).map(|b| b.address());
    let address =
        address.ok_or_else(|| Failure::new("BROKER_UNREACHABLE", format!("broker {broker} is not known")))?;
    let socket = TcpStream::connect(&address)
        .await
        .map_err(|e| Failure::new("BROKER_UNREACHABLE", format!("cannot connect to {address}: {e}")))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Everything of a request before its records.
fn prefix(topic: &str, partition: i32, acks: i16, batch: usize) -> Bytes {
    let mut out = BytesMut::new();
    let text = |out: &mut BytesMut, s: &str| {
        out.put_i16(s.len() as i16);
        out.put_slice(s.as_bytes());
    };
    out.put_i32(0);
    out.put_i16(0);
    out.put_i16(VERSION);
    out.put_i32(0);
    text(&mut out, "kontiki-bench");
    out.put_i16(-1);
    out.put_i16(acks);
    out.put_i32(TIMEOUT_MS);
    out.put_i32(1);
    text(&mut out, topic);
    out.put_i32(1);
    out.put_i32(partition);
    out.put_i32(batch as i32);
    let length = (out.len() - 4 + batch) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

async fn write_lane(
    run: Arc<Run>,
    mut socket: OwnedWriteHalf,
    mut slots: Vec<Slot>,
    schedule: Option<Schedule>,
    answers: mpsc::Sender<Instant>,
) -> Result<(), Failure> {
    let lanes = slots.len();
    for n in 0u64.. {
        if let Some(schedule) = &schedule {
            schedule.wait(n).await;
        }
        // Closed: another lane failed, whose error is reported.
        let Ok(permit) = run.window.acquire().await else { return Ok(()) };
        let since = schedule.as_ref().map_or_else(Instant::now, |s| s.at(n));
        if run.end.is_some_and(|end| since >= end) || !run.take_batch() {
            return Ok(());
        }
        let slot = &mut slots[n as usize % lanes];
        let batch = slot.next(run.records_per_batch);
        let mut head = BytesMut::from(&slot.prefix[..]);
        head[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&(n as i32).to_be_bytes());
        if run.acks != 0 {
            permit.forget();
            if answers.send(since).await.is_err() {
                return Ok(());
            }
        }
        let mut frame = head.chain(batch);
        socket.write_all_buf(&mut frame).await.map_err(|e| lost(&e))?;
        if run.acks == 0 {
            run.done(since);
        }
    }
    Ok(())
}

async fn read_lane(
    run: Arc<Run>,
    socket: OwnedReadHalf,
    topic_len: usize,
    mut sent: mpsc::Receiver<Instant>,
) -> Result<(), Failure> {
    let mut socket = BufReader::with_capacity(16 * 1024, socket);
    let mut body = Vec::new();
    let mut expected = 0i32;
    while let Some(since) = sent.recv().await {
        let read = async {
            let length = socket.read_i32().await?;
            let length = usize::try_from(length).ok().filter(|n| *n <= 1 << 20);
            body.resize(length.ok_or_else(|| std::io::Error::other("answer too large"))?, 0);
            socket.read_exact(&mut body).await
        };
        let limit = Duration::from_millis(TIMEOUT_MS as u64 * 2);
        tokio::time::timeout(limit, read)
            .await
            .map_err(|_| Failure::new("REQUEST_TIMED_OUT", format!("no answer within {limit:?}")))?
            .map_err(|e| lost(&e))?;
        match verdict(&body, topic_len) {
            Some((id, 0)) if id == expected => {}
            Some((id, code)) if id == expected => {
                return Err(Failure::new(
                    &error_name(code),
                    format!("produce refused: {}", error_name(code)),
                ));
            }
            other => {
                return Err(Failure::new(
                    "MALFORMED_RESPONSE",
                    format!("answer {other:?} to request {expected}"),
                ));
            }
        }
        expected = expected.wrapping_add(1);
        run.done(since);
        run.window.add_permits(1);
    }
    Ok(())
}

/// Correlation id and error code of an answer for one partition.
fn verdict(mut body: &[u8], topic_len: usize) -> Option<(i32, i16)> {
    // Correlation id; topics; name; partitions; index; error.
    if body.len() < 4 + 4 + 2 + topic_len + 4 + 4 + 2 {
        return None;
    }
    let id = body.get_i32();
    body.advance(4 + 2 + topic_len + 4 + 4);
    Some((id, body.get_i16()))
}

fn lost(e: &std::io::Error) -> Failure {
    Failure::new("NETWORK_EXCEPTION", format!("connection lost: {e}"))
}

/// A request frame of another API, for tests and the raw consumer.
pub fn frame_of<R: kafka_protocol::protocol::Request>(
    request: &R,
    version: i16,
    id: i32,
) -> Result<Bytes, Error> {
    encode_frame(request, version, id, "kontiki-bench")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    use kafka_protocol::messages::{ProduceRequest, ProduceResponse, RequestHeader};
    use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

    #[test]
    fn prefix_with_batch_is_a_produce_request_of_the_codec() {
        let batch = Bytes::from_static(b"records");
        let mut frame = BytesMut::from(&prefix("topic", 3, -1, batch.len())[..]);
        frame.put_slice(&batch);
        let mut frame = frame.freeze();
        assert_eq!(frame.get_i32() as usize, frame.len());
        let header = RequestHeader::decode(&mut frame, 1).unwrap();
        assert_eq!((header.request_api_key, header.request_api_version), (0, VERSION));
        let request = ProduceRequest::decode(&mut frame, VERSION).unwrap();
        assert_eq!((request.acks, request.timeout_ms), (-1, TIMEOUT_MS));
        let partition = &request.topic_data[0].partition_data[0];
        assert_eq!((partition.index, partition.records.clone()), (3, Some(batch)));
        assert!(frame.is_empty());
    }

    #[test]
    fn verdict_error_code_of_the_codecs_response_is_found() {
        let row = PartitionProduceResponse::default().with_index(3).with_error_code(6);
        let name = StrBytes::from_static_str("topic").into();
        let topic = TopicProduceResponse::default().with_name(name).with_partition_responses(vec![row]);
        let mut body = BytesMut::new();
        body.put_i32(77);
        ProduceResponse::default().with_responses(vec![topic]).encode(&mut body, VERSION).unwrap();
        assert_eq!(verdict(&body, 5), Some((77, 6)));
        assert_eq!(verdict(&body[..10], 5), None);
    }
}
