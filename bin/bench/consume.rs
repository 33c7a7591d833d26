//! `kontiki bench consume`: through our own consumer, which decodes every record; or `--raw`, the bytes of one
//! partition over a plain socket, where only batch headers are looked at to know the next offset.

use super::Limits;
use super::prebuilt::frame_of;
use super::report::{self, Recorder};
use super::usage::Meter;
use crate::cli::{BenchConsume, Global};
use crate::output::{Failure, Outcome, Ui};
use bytes::Buf;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kontiki::client::error::error_name;
use kontiki::client::{Client, Consumer, ConsumerOptions, OutOfRange};
use kontiki::wire::batch::BatchHeader;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Not flexible, names topics: easy to read by hand.
const VERSION: i16 = 11;
const MAX_ANSWER: usize = 1 << 30;

/// Runs the command.
pub async fn run(args: &BenchConsume, global: &Global, ui: &Ui) -> Outcome {
    let limits = Limits::of(&args.common)?;
    let client = crate::cluster::client(global)?;
    let topic = client.topic(&args.topic, false, client.options().call_timeout).await?;
    let begin = Instant::now() + args.common.warmup;
    let meter = Meter::start(&args.common.pids);
    let recorder = Recorder::new(begin);
    let recorder = match args.raw {
        true => raw(&client, args, limits, recorder).await?,
        false => decoded(client, args, limits, recorder).await?,
    };
    let usage = meter.stop();
    let how = match args.raw {
        true => format!("partition {}, bytes only; latencies are of fetch requests", args.partition),
        false => format!("{} partitions, decoded; latencies are of polls", topic.partitions.len()),
    };
    let settings = json!({ "topic": args.topic, "raw": args.raw, "partition": args.partition, "fetch_size": args.fetch_size });
    report::print("read", &recorder.finish(), &settings, &how, &usage, ui)?;
    Ok(ExitCode::SUCCESS)
}

async fn decoded(
    client: Client,
    args: &BenchConsume,
    limits: Limits,
    mut recorder: Recorder,
) -> Result<Recorder, Failure> {
    let topic = client.topic(&args.topic, false, client.options().call_timeout).await?;
    let partitions: Vec<i32> = topic.partitions.iter().map(|p| p.index).collect();
    let start = client.start_offsets(&args.topic, &partitions).await?;
    let ends = client.end_offsets(&args.topic, &partitions).await?;
    let options = ConsumerOptions {
        fetch_max_bytes: i32::try_from(args.fetch_size).unwrap_or(i32::MAX),
        out_of_range: OutOfRange::Start,
        ..ConsumerOptions::default()
    };
    let mut consumer = Consumer::new(client, &args.topic, &start, options);
    let started = Instant::now();
    let mut left = limits.records.unwrap_or(u64::MAX);
    while left > 0 && limits.time.is_none_or(|t| started.elapsed() < t) {
        for p in consumer.assigned() {
            if consumer.position(p).is_some_and(|at| at >= ends[&p]) {
                consumer.unassign(p);
            }
        }
        if consumer.assigned().is_empty() {
            break;
        }
        let since = Instant::now();
        let records = consumer.poll(Duration::from_millis(500)).await?;
        let size = |r: &kontiki::client::ConsumedRecord| {
            let len = |b: &Option<bytes::Bytes>| b.as_ref().map_or(0, |b| b.len() as u64);
            len(&r.at.record.key) + len(&r.at.record.value)
        };
        let bytes = records.iter().map(size).sum();
        recorder.answer(since, Instant::now(), records.len() as u64, bytes);
        left = left.saturating_sub(records.len() as u64);
    }
    Ok(recorder)
}

async fn raw(
    client: &Client,
    args: &BenchConsume,
    limits: Limits,
    recorder: Recorder,
) -> Result<Recorder, Failure> {
    let partition = args.partition;
    let start = client.start_offsets(&args.topic, &[partition]).await?;
    let start = start.get(&partition).copied().unwrap_or(0);
    let leader = client.leader(&args.topic, partition).map(|(id, _)| id);
    let address = leader.and_then(|id| client.metadata().brokers.get(&id).map(|b| b.address()));
    let address = address.ok_or_else(|| {
        Failure::new("LEADER_NOT_AVAILABLE", format!("{}/{partition} has no leader", args.topic))
    })?;
    let args = args.clone();
    // Blocking reads on a thread of their own: the cheapest way to take bytes from a socket.
    let reading =
        tokio::task::spawn_blocking(move || Raw::connect(&address, args, start)?.run(limits, recorder));
    reading.await.map_err(|e| Failure::new("BENCH", e.to_string()))?
}

/// A plain socket that fetches one partition again and again.
struct Raw {
    socket: TcpStream,
    args: BenchConsume,
    start: i64,
    buffer: Vec<u8>,
}

/// What an answer holds.
#[derive(Debug, PartialEq)]
struct Answer {
    records: u64,
    bytes: u64,
    next: i64,
    high_watermark: i64,
}

impl Raw {
    fn connect(address: &str, args: BenchConsume, start: i64) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { socket, args, start, buffer: Vec::new() })
    }

    fn run(mut self, limits: Limits, mut recorder: Recorder) -> Result<Recorder, Failure> {
        let started = Instant::now();
        let (mut offset, mut left, mut id) = (self.start, limits.records.unwrap_or(u64::MAX), 0i32);
        while left > 0 && limits.time.is_none_or(|t| started.elapsed() < t) {
            let since = Instant::now();
            let answer = self.fetch(offset, id)?;
            id = id.wrapping_add(1);
            recorder.answer(since, Instant::now(), answer.records, answer.bytes);
            left = left.saturating_sub(answer.records);
            offset = answer.next;
            if offset >= answer.high_watermark {
                if !self.args.repeat || answer.high_watermark <= self.start {
                    break;
                }
                offset = self.start;
            }
        }
        Ok(recorder)
    }

    fn fetch(&mut self, offset: i64, id: i32) -> Result<Answer, Failure> {
        let size = i32::try_from(self.args.fetch_size).unwrap_or(i32::MAX);
        let row = FetchPartition::default()
            .with_partition(self.args.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(size);
        let name = TopicName(StrBytes::from_string(self.args.topic.clone()));
        let request = FetchRequest::default()
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(size)
            .with_session_epoch(-1)
            .with_topics(vec![FetchTopic::default().with_topic(name).with_partitions(vec![row])]);
        self.socket.write_all(&frame_of(&request, VERSION, id)?)?;
        let mut length = [0; 4];
        self.socket.read_exact(&mut length)?;
        let length = i32::from_be_bytes(length) as usize;
        if length > MAX_ANSWER {
            return Err(Failure::new("MALFORMED_RESPONSE", format!("answer of {length} bytes")));
        }
        // Kept between answers: growing it is the only cost, once.
        self.buffer.resize(length, 0);
        self.socket.read_exact(&mut self.buffer)?;
        parse(&self.buffer, id, offset)
    }
}

/// Walks an answer of one partition: fixed fields, then batch headers.
fn parse(body: &[u8], id: i32, offset: i64) -> Result<Answer, Failure> {
    let malformed = || Failure::new("MALFORMED_RESPONSE", "fetch answer does not parse");
    let mut at = body;
    let need = |at: &[u8], n: usize| if at.len() < n { Err(malformed()) } else { Ok(()) };
    need(at, 4 + 4 + 2 + 4 + 4 + 2)?;
    let correlation = at.get_i32();
    at.advance(4);
    let code = at.get_i16();
    at.advance(4 + 4);
    let name = at.get_i16() as usize;
    if code == 0 {
        need(at, name + 4 + 4 + 2 + 24 + 4)?;
        at.advance(name + 4 + 4);
    }
    let code = if code == 0 { at.get_i16() } else { code };
    if code != 0 {
        return Err(Failure::new(&error_name(code), format!("fetch refused: {}", error_name(code))));
    }
    let high_watermark = at.get_i64();
    at.advance(16);
    let aborted = usize::try_from(at.get_i32()).unwrap_or(0);
    need(at, aborted * 16 + 8)?;
    at.advance(aborted * 16 + 4);
    let length = usize::try_from(at.get_i32()).unwrap_or(0);
    if correlation != id || length > at.len() {
        return Err(malformed());
    }
    let mut batches = &at[..length];
    let mut answer = Answer { records: 0, bytes: length as u64, next: offset, high_watermark };
    while let Some(header) = BatchHeader::read(batches).filter(|h| h.total_len() <= batches.len()) {
        answer.records += u64::try_from(header.record_count).unwrap_or(0);
        answer.next = header.last_offset() + 1;
        batches = &batches[header.total_len()..];
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use kafka_protocol::messages::FetchResponse;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::protocol::Encodable;
    use kontiki::client::records::{BatchBuilder, ProducerStamp};
    use kontiki::client::{Codec, Record};

    fn answer(code: i16, records: Bytes) -> BytesMut {
        let data = PartitionData::default()
            .with_error_code(code)
            .with_high_watermark(9)
            .with_aborted_transactions(None)
            .with_records(Some(records));
        let name = TopicName(StrBytes::from_static_str("topic"));
        let topic = FetchableTopicResponse::default().with_topic(name).with_partitions(vec![data]);
        let mut body = BytesMut::new();
        body.put_i32(5);
        FetchResponse::default().with_responses(vec![topic]).encode(&mut body, VERSION).unwrap();
        body
    }

    #[test]
    fn parse_codecs_response_counts_records_and_finds_next_offset() {
        let mut builder = BatchBuilder::default();
        for _ in 0..3 {
            builder.push(&Record::default(), 1);
        }
        let batch = builder.finish(Codec::None, ProducerStamp::default()).unwrap().freeze();
        let len = batch.len() as u64;
        let parsed = parse(&answer(0, batch), 5, 0).unwrap();
        assert_eq!(parsed, Answer { records: 3, bytes: len, next: 3, high_watermark: 9 });
    }

    #[test]
    fn parse_error_cut_and_wrong_id_are_failures() {
        let refused = parse(&answer(6, Bytes::new()), 5, 0).unwrap_err();
        assert!(refused.message().contains("NOT_LEADER_OR_FOLLOWER"));
        let good = answer(0, Bytes::new());
        assert!(parse(&good, 6, 0).is_err());
        for len in 0..good.len() {
            assert!(parse(&good[..len], 5, 0).is_err(), "{len}");
        }
    }
}
