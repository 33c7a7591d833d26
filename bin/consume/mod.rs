//! `kontiki consume TOPIC`: records of assigned partitions, as JSON lines or short text.
//!
//! `-e` takes the end offsets when it starts and stops each partition there, so it ends even while others produce.
//! Ctrl-C is an orderly end. With a group: `group_reader`.

mod group_reader;

use crate::cli::{ConsumeArgs, Global, OutputFormat};
use crate::jsonl::Envelope;
use crate::output::{Failure, Outcome, Ui};
use jiff::tz::TimeZone;
use kontiki::client::{Client, ConsumedRecord, Consumer, ConsumerOptions, Position, Range, TopicInfo};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads the offset grammar against the present and the local time zone.
pub fn parse_range(text: &str) -> Result<Range, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    Range::parse(text, now, &TimeZone::system()).map_err(Failure::usage)
}

/// The partitions that were asked for, all if none were.
pub fn select_partitions(topic: &TopicInfo, wanted: &[i32]) -> Result<Vec<i32>, Failure> {
    let all: Vec<i32> = topic.partitions.iter().map(|p| p.index).collect();
    if wanted.is_empty() {
        return Ok(all);
    }
    match wanted.iter().find(|p| !all.contains(p)) {
        Some(p) => Err(Failure::new(
            "UNKNOWN_TOPIC_OR_PARTITION",
            format!("topic `{}` has no partition {p}", topic.name),
        )
        .with_hint(format!("it has partitions 0 to {}", all.len().saturating_sub(1)))),
        None => Ok(wanted.to_vec()),
    }
}

/// Runs the command.
pub async fn run(args: ConsumeArgs, global: &Global, ui: &Ui) -> Outcome {
    let range = parse_range(&args.offset)?;
    let client = crate::cluster::client(global)?;
    let topic = client.topic(&args.topic, false, client.options().call_timeout).await?;
    let partitions = select_partitions(&topic, &args.partitions)?;
    let until = until(&client, &args, &partitions, range).await?;
    let mut sink = Sink::new(&args, ui);
    if let Some(group) = &args.group {
        let reading = group_reader::Reading {
            topic: &args.topic,
            from: range.from,
            known: partitions,
            session_timeout: args.session_timeout,
            until,
            num: args.num,
        };
        return group_reader::run(&client, group, reading, sink, ui).await;
    }
    let mut start = client.resolve(&args.topic, &partitions, range.from).await?;
    if let Position::Offset(_) = range.from {
        clamp(&client, &args.topic, &partitions, &mut start, ui).await?;
    }
    if args.exit && range.from == Position::End && !ui.quiet {
        ui.note("starting and stopping at the end: nothing to read; -o start reads from the beginning");
    }
    let consumer = Consumer::new(client, &args.topic, &start, ConsumerOptions::default());
    let read = tokio::select! {
        read = pump(consumer, until, args.num, &mut sink) => read,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    read?;
    Ok(ExitCode::SUCCESS)
}

/// Where to stop in each partition, if anywhere.
async fn until(
    client: &Client,
    args: &ConsumeArgs,
    partitions: &[i32],
    range: Range,
) -> Result<Option<BTreeMap<i32, i64>>, Failure> {
    let mut until = match range.until {
        Some(position) => Some(client.resolve(&args.topic, partitions, position).await?),
        None => None,
    };
    if args.exit {
        let ends = client.end_offsets(&args.topic, partitions).await?;
        let until = until.get_or_insert_with(|| ends.clone());
        for (partition, end) in ends {
            until.entry(partition).and_modify(|u| *u = end.min(*u));
        }
    }
    Ok(until)
}

/// One offset for all partitions fits few of them exactly: what a partition does not hold is moved to where it
/// begins or ends, and said.
async fn clamp(
    client: &Client,
    topic: &str,
    partitions: &[i32],
    start: &mut BTreeMap<i32, i64>,
    ui: &Ui,
) -> Result<(), Failure> {
    let first = client.start_offsets(topic, partitions).await?;
    let end = client.end_offsets(topic, partitions).await?;
    for (partition, offset) in start {
        let (first, end) =
            (first.get(partition).copied().unwrap_or(0), end.get(partition).copied().unwrap_or(0));
        let within = (*offset).clamp(first, end.max(first));
        if within != *offset {
            ui.note(&format!(
                "{topic}/{partition} holds {first} to {end}: starting at {within}, not at {offset}"
            ));
            *offset = within;
        }
    }
    Ok(())
}

async fn pump(
    mut consumer: Consumer,
    until: Option<BTreeMap<i32, i64>>,
    num: Option<u64>,
    sink: &mut Sink,
) -> Result<(), Failure> {
    let mut left = num.unwrap_or(u64::MAX);
    loop {
        stop_reached(&mut consumer, until.as_ref());
        if consumer.assigned().is_empty() || left == 0 {
            return Ok(());
        }
        let mut records = consumer.poll(Duration::from_secs(1)).await?;
        keep_wanted(&mut records, until.as_ref(), left);
        left -= records.len() as u64;
        sink.write(&records)?;
    }
}

/// Drops what lies at or behind the end of its partition, and what is more than so many.
fn keep_wanted(records: &mut Vec<ConsumedRecord>, until: Option<&BTreeMap<i32, i64>>, left: u64) {
    if let Some(until) = until {
        records.retain(|r| until.get(&r.partition).is_none_or(|end| r.at.offset < *end));
    }
    records.truncate(usize::try_from(left).unwrap_or(usize::MAX));
}

/// Lets go of partitions that have been read up to their end.
fn stop_reached(consumer: &mut Consumer, until: Option<&BTreeMap<i32, i64>>) {
    let Some(until) = until else { return };
    for partition in consumer.assigned() {
        let end = until.get(&partition).copied().unwrap_or(0);
        if consumer.position(partition).is_some_and(|at| at >= end) {
            consumer.unassign(partition);
        }
    }
}

/// Where records are printed.
struct Sink {
    topic: String,
    json: bool,
    values: bool,
    buffer: Vec<u8>,
}

impl Sink {
    fn new(args: &ConsumeArgs, ui: &Ui) -> Self {
        let json = match ui.format() {
            Some(format) => format == OutputFormat::Json,
            // Programs get JSON lines, people get text; --values asks for text.
            None => !args.values && !std::io::stdout().is_terminal(),
        };
        Self { topic: args.topic.clone(), json, values: args.values, buffer: Vec::new() }
    }

    fn write(&mut self, records: &[ConsumedRecord]) -> Result<(), Failure> {
        if records.is_empty() {
            return Ok(());
        }
        self.buffer.clear();
        for record in records {
            if self.json {
                let envelope = Envelope::of(&self.topic, record);
                serde_json::to_writer(&mut self.buffer, &envelope)
                    .map_err(|e| Failure::new("IO", e.to_string()))?;
            } else if self.values {
                self.buffer.extend_from_slice(record.at.record.value.as_deref().unwrap_or_default());
            } else {
                text_line(&self.topic, record, &mut self.buffer);
            }
            self.buffer.push(b'\n');
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&self.buffer)?;
        Ok(stdout.flush()?)
    }
}

/// `topic[partition]@offset key → value`, null as `-`.
fn text_line(topic: &str, record: &ConsumedRecord, out: &mut Vec<u8>) {
    let (at, content) = (&record.at, &record.at.record);
    out.extend_from_slice(format!("{topic}[{}]@{} ", record.partition, at.offset).as_bytes());
    if let Some(key) = &content.key {
        out.extend_from_slice(key);
        out.extend_from_slice(" → ".as_bytes());
    }
    out.extend_from_slice(content.value.as_deref().unwrap_or(b"-"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki::client::Record;
    use kontiki::client::records::Positioned;

    #[test]
    fn text_line_key_and_null_are_shown() {
        let line = |key: Option<&'static str>, value: Option<&'static str>| {
            let record = Record {
                timestamp: None,
                key: key.map(Into::into),
                value: value.map(Into::into),
                headers: vec![],
            };
            let at = Positioned { offset: 9, timestamp: 0, record };
            let mut out = Vec::new();
            text_line(
                "t",
                &ConsumedRecord { partition: 1, leader_epoch: 0, log_append_time: false, at },
                &mut out,
            );
            String::from_utf8(out).unwrap()
        };
        assert_eq!(line(Some("k"), Some("v")), "t[1]@9 k → v");
        assert_eq!(line(None, None), "t[1]@9 -");
    }

    #[test]
    fn parse_range_nonsense_is_a_usage_error() {
        assert!(parse_range("nonsense").unwrap_err().message().contains("is not an offset"));
        assert!(parse_range("-5").is_ok());
    }
}
