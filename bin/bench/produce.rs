//! `kontiki bench produce`: makes the topic, then drives either prebuilt batches or our own producer.

use super::pace::Schedule;
use super::report::{self, Recorder};
use super::usage::Meter;
use super::{Limits, prebuilt};
use crate::cli::{BenchProduce, Global};
use crate::output::{Failure, Outcome, Ui};
use bytes::Bytes;
use kontiki::client::admin::NewTopic;
use kontiki::client::{Client, Delivery, Producer, ProducerOptions, Record, TopicInfo};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Records under way if nothing is said: memory is the limit then.
const RECORDS_UNDER_WAY: usize = 100_000;

/// Runs the command.
pub async fn run(args: &BenchProduce, global: &Global, ui: &Ui) -> Outcome {
    let limits = Limits::of(&args.common)?;
    let client = crate::cluster::client(global)?;
    let topic = prepare(&client, args).await?;
    let begin = Instant::now() + args.common.warmup;
    let meter = tokio::spawn({
        let pids = args.common.pids.clone();
        async move {
            tokio::time::sleep_until(begin.into()).await;
            Meter::start(&pids)
        }
    });
    let recorder = match args.prebuilt {
        true => prebuilt::drive(&client, &topic, args, limits, Recorder::new(begin)).await?,
        false => drive(client.clone(), args, limits, Recorder::new(begin)).await?,
    };
    if !meter.is_finished() {
        return Err(Failure::new("TOO_SHORT", "the run ended before its warm-up did"));
    }
    let usage = meter.await.map_err(|e| Failure::new("BENCH", e.to_string()))?.stop();
    let replicas = topic.partitions.first().map_or(0, |p| p.replicas.len());
    let settings = json!({
        "topic": topic.name, "partitions": topic.partitions.len(), "replicas": replicas, "acks": args.acks,
        "record_size": args.record_size, "batch_size": args.batch_size, "prebuilt": args.prebuilt,
        "idempotent": args.idempotent || (!args.prebuilt && args.acks == -1), "outstanding": args.outstanding,
        "rate": args.rate, "compression": args.compression.name(), "linger_ms": args.linger.as_millis() as u64,
    });
    let figures = recorder.finish();
    report::print("sent", &figures, &settings, &describe(args, &topic, replicas), &usage, ui)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(args: &BenchProduce, topic: &TopicInfo, replicas: usize) -> String {
    let what = if args.prebuilt { "requests" } else { "records" };
    let window =
        args.outstanding.map_or("default window".into(), |n| format!("at most {n} {what} under way"));
    let loop_ = match args.rate {
        Some(rate) => format!("open loop at {rate}/s, latencies are from the intended send time"),
        None => "closed loop, latencies are from the send time".into(),
    };
    let batches = if args.prebuilt { "prebuilt batches" } else { "batches built as it goes" };
    let acks = if args.acks == -1 { "all".into() } else { args.acks.to_string() };
    format!(
        "{loop_}; {window}; {batches} of {} bytes; {} partitions, rf {replicas}, acks {acks}",
        args.batch_size,
        topic.partitions.len()
    )
}

/// The topic, created if need be, with all its leaders.
async fn prepare(client: &Client, args: &BenchProduce) -> Result<TopicInfo, Failure> {
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: Some(args.partitions),
        replication_factor: args.replicas,
        configs: args.configs.iter().cloned().collect(),
    };
    for (_, result) in client.create_topics(&[topic], false).await? {
        match result {
            Err(e) if e.kafka_code() == Some(TOPIC_ALREADY_EXISTS) => {}
            other => {
                other?;
            }
        }
    }
    let started = Instant::now();
    loop {
        let topic = client.topic(&args.topic, false, Duration::from_secs(30)).await?;
        match topic.partitions.iter().find(|p| p.leader < 0) {
            None => return Ok(topic),
            Some(p) if started.elapsed() > Duration::from_secs(30) => {
                return Err(Failure::new(
                    "LEADER_NOT_AVAILABLE",
                    format!("{}/{} has no leader", topic.name, p.index),
                ));
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One record on its way.
struct Sent {
    since: Instant,
    delivery: Delivery,
    /// Its place in the window, free again once it is dropped.
    _permit: OwnedSemaphorePermit,
}

/// Random bytes, so that compression has nothing to win by accident.
pub fn random_bytes(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    rand::fill(&mut bytes[..]);
    bytes.into()
}

async fn drive(
    client: Client,
    args: &BenchProduce,
    limits: Limits,
    recorder: Recorder,
) -> Result<Recorder, Failure> {
    let producer = Producer::new(
        client,
        ProducerOptions {
            acks: args.acks,
            idempotent: args.acks == -1,
            codec: args.compression,
            batch_size: args.batch_size,
            linger: args.linger,
            max_request_size: (args.batch_size * 4).max(1 << 20),
            ..ProducerOptions::default()
        },
    )?;
    let topic: Arc<str> = args.topic.as_str().into();
    let window = Arc::new(Semaphore::new(args.outstanding.unwrap_or(RECORDS_UNDER_WAY)));
    let (tx, rx) = mpsc::channel(RECORDS_UNDER_WAY);
    let collector = tokio::spawn(collect(rx, recorder, args.record_size as u64));
    let started = Instant::now();
    let end = limits.time.map(|t| started + t);
    let schedule = args.rate.map(|r| Schedule::new(started, r as f64));
    // A megabyte to cut records from: different, without the cost of making each.
    let payload = random_bytes(args.record_size + (1 << 20));
    for n in 0..limits.records.unwrap_or(u64::MAX) {
        let permit =
            window.clone().acquire_owned().await.map_err(|e| Failure::new("BENCH", e.to_string()))?;
        if let Some(schedule) = &schedule {
            schedule.wait(n).await;
        }
        let since = schedule.as_ref().map_or_else(Instant::now, |s| s.at(n));
        if end.is_some_and(|end| since >= end) {
            break;
        }
        let at = (n as usize * 64) % (1 << 20);
        let record = Record { value: Some(payload.slice(at..at + args.record_size)), ..Record::default() };
        let delivery = producer.send(&topic, None, &record).await?;
        if tx.send(Sent { since, delivery, _permit: permit }).await.is_err() {
            break;
        }
    }
    drop(tx);
    producer.flush().await;
    collector.await.map_err(|e| Failure::new("BENCH", e.to_string()))?
}

/// Takes outcomes in the order of sending; each says itself when it was known.
async fn collect(
    mut rx: mpsc::Receiver<Sent>,
    mut recorder: Recorder,
    size: u64,
) -> Result<Recorder, Failure> {
    while let Some(sent) = rx.recv().await {
        let (result, at) = sent.delivery.wait_timed().await;
        result?;
        recorder.done(sent.since, at, 1, size);
    }
    Ok(recorder)
}
