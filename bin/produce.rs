//! `kontiki produce TOPIC`: records from stdin, one per line, as text or as JSON lines.
//!
//! A thread reads stdin, since that cannot be waited for otherwise; the queue between it and the producer is
//! bounded. The first delivery that fails ends the command with exit code 1; counts go to stderr.

use crate::cli::{Global, InputFormat, ProduceArgs};
use crate::jsonl::Envelope;
use crate::output::{Failure, Outcome, Ui};
use bytes::Bytes;
use kontiki::client::{Ack, Delivery, Error, Header, Producer, ProducerOptions, Record};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Longest line accepted; a broker's limit is far below.
const MAX_LINE: u64 = 256 << 20;
/// Lines handed over together, and how many such chunks wait.
const CHUNK: usize = 256;
const CHUNKS: usize = 8;
/// Batches whose outcome is awaited before more is read.
const MAX_BATCHES: usize = 4096;

type Lines = Result<Vec<Vec<u8>>, String>;

/// Runs the command.
pub async fn run(args: ProduceArgs, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    let topic: Arc<str> = args.topic.as_str().into();
    let options = ProducerOptions {
        acks: args.acks,
        idempotent: args.acks == -1,
        codec: args.compression,
        delivery_timeout: args.timeout,
        request_timeout: args.timeout,
        ..ProducerOptions::default()
    };
    // Asked before any input, so that a wrong address or name shows at once.
    client.topic(&args.topic, options.auto_create, args.timeout).await?;
    let producer = Producer::new(client, options)?;
    if std::io::stdin().is_terminal() {
        ui.note("reading lines from stdin; Ctrl-D ends");
    }
    let mut tally = Tally::default();
    let done = pump(&args, &topic, &producer, &mut tally).await;
    report(&args, &tally, done.is_err(), ui)?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn pump(
    args: &ProduceArgs,
    topic: &Arc<str>,
    producer: &Producer,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut lines = read_stdin();
    let parser = Parser::new(args);
    let mut number = 0u64;
    while let Some(chunk) = lines.recv().await {
        for line in chunk.map_err(|e| Failure::new("IO", format!("stdin: {e}")))? {
            number += 1;
            let (partition, record) = parser
                .parse(line)
                .map_err(|why| Failure::new("BAD_INPUT", format!("line {number}: {why}")))?;
            let delivery = producer.send(topic, partition, &record).await?;
            tally.sent(delivery);
        }
        tally.collect(false).await?;
    }
    producer.flush().await;
    Ok(tally.collect(true).await?)
}

/// What became of the records.
#[derive(Default)]
struct Tally {
    /// One delivery per batch with the records it stands for.
    waiting: VecDeque<(Delivery, u64)>,
    produced: u64,
    failed: u64,
    /// Records and last offset per partition.
    partitions: BTreeMap<i32, (u64, i64)>,
}

impl Tally {
    fn sent(&mut self, delivery: Delivery) {
        match self.waiting.back_mut() {
            Some((last, count)) if last.same_batch(&delivery) => {
                *count += 1;
                *last = delivery;
            }
            _ => self.waiting.push_back((delivery, 1)),
        }
    }

    /// Takes note of what is known; waits for the rest if `all`, or while too much is open.
    async fn collect(&mut self, all: bool) -> Result<(), Error> {
        while let Some((delivery, count)) = self.waiting.front() {
            let result = match delivery.peek() {
                Some((result, _)) => result,
                None if all || self.waiting.len() > MAX_BATCHES => delivery.wait().await,
                None => return Ok(()),
            };
            let count = *count;
            self.waiting.pop_front();
            match result {
                Ok(Ack { partition, offset }) => {
                    self.produced += count;
                    let entry = self.partitions.entry(partition).or_default();
                    *entry = (entry.0 + count, offset);
                }
                Err(e) => {
                    self.failed += count;
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

fn report(args: &ProduceArgs, tally: &Tally, failed: bool, ui: &Ui) -> Result<(), Failure> {
    let open: u64 = tally.waiting.iter().map(|(_, n)| n).sum();
    let not_delivered = tally.failed + open;
    ui.note(&format!("produced {} records to {} ({not_delivered} failed)", tally.produced, args.topic));
    if ui.is_json() && !failed {
        let items = tally.partitions.iter().map(|(partition, (count, last))| {
            json!({ "topic": args.topic, "partition": partition, "count": count, "last_offset": last })
        });
        ui.json_items(items.collect())?;
    }
    Ok(())
}

/// Turns lines into records.
struct Parser<'a> {
    args: &'a ProduceArgs,
    key: Option<Bytes>,
    headers: Vec<Header>,
}

impl<'a> Parser<'a> {
    fn new(args: &'a ProduceArgs) -> Self {
        let headers = args.headers.iter().map(|(key, value)| Header {
            key: Bytes::from(key.clone()),
            value: value.clone().map(Bytes::from),
        });
        Self { args, key: args.key.clone().map(Bytes::from), headers: headers.collect() }
    }

    fn parse(&self, line: Vec<u8>) -> Result<(Option<i32>, Record), String> {
        match self.args.input {
            InputFormat::Text => self.text(line),
            InputFormat::Jsonl => self.json(&line),
        }
    }

    fn text(&self, line: Vec<u8>) -> Result<(Option<i32>, Record), String> {
        let line = Bytes::from(line);
        let (key, value) = match &self.args.key_delimiter {
            None => (self.key.clone(), line),
            Some(delimiter) => {
                let at = find(&line, delimiter.as_bytes())
                    .ok_or_else(|| format!("no key delimiter `{}` in it", delimiter.escape_debug()))?;
                (Some(line.slice(..at)), line.slice(at + delimiter.len()..))
            }
        };
        let null = self.args.null_empty && value.is_empty();
        let record =
            Record { timestamp: None, key, value: (!null).then_some(value), headers: self.headers.clone() };
        Ok((self.args.partition, record))
    }

    fn json(&self, line: &[u8]) -> Result<(Option<i32>, Record), String> {
        let line = std::str::from_utf8(line).map_err(|e| e.to_string())?;
        let envelope = Envelope::parse(line)?;
        let partition = if self.args.keep_partitions { envelope.partition } else { None };
        let mut record = envelope.into_record()?;
        if self.key.is_some() {
            record.key.clone_from(&self.key);
        }
        record.headers.extend(self.headers.iter().cloned());
        Ok((self.args.partition.or(partition), record))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn read_stdin() -> mpsc::Receiver<Lines> {
    let (tx, rx) = mpsc::channel(CHUNKS);
    std::thread::spawn(move || read_lines(BufReader::with_capacity(64 * 1024, std::io::stdin()), &tx));
    rx
}

/// Sends lines in chunks; a chunk ends when no more is buffered, so that typed lines leave at once.
fn read_lines<R: Read>(mut input: BufReader<R>, tx: &mpsc::Sender<Lines>) {
    loop {
        let mut chunk = Vec::new();
        let end = loop {
            match read_line(&mut input) {
                Ok(Some(line)) => chunk.push(line),
                Ok(None) => break Some(Ok(())),
                Err(e) => break Some(Err(e.to_string())),
            }
            if chunk.len() >= CHUNK || !input.buffer().contains(&b'\n') {
                break None;
            }
        };
        // A closed channel: the command has ended.
        if !chunk.is_empty() && tx.blocking_send(Ok(chunk)).is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(e)) => {
                let _ = tx.blocking_send(Err(e));
                return;
            }
        }
    }
}

fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if input.take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 == MAX_LINE {
        return Err(std::io::Error::other(format!("a line of more than {MAX_LINE} bytes")));
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn args(more: &[&str]) -> ProduceArgs {
        let cli = Cli::try_parse_from(["kontiki", "produce", "t"].iter().chain(more)).unwrap();
        let Command::Produce(args) = cli.command else { panic!() };
        args
    }

    fn parse(more: &[&str], line: &str) -> Result<(Option<i32>, Record), String> {
        Parser::new(&args(more)).parse(line.as_bytes().to_vec())
    }

    #[test]
    fn parse_text_key_delimiter_splits_at_the_first() {
        let (_, record) = parse(&["-K", "::"], "a::b::c").unwrap();
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"a"[..]), Some(&b"b::c"[..])));
        assert!(parse(&["-K", "\\t"], "ab").unwrap_err().contains("\\t"));
    }

    #[test]
    fn parse_text_empty_value_is_null_only_when_asked() {
        assert_eq!(parse(&[], "").unwrap().1.value.as_deref(), Some(&b""[..]));
        assert_eq!(parse(&["-Z"], "").unwrap().1.value, None);
    }

    #[test]
    fn parse_headers_repeat_and_partition_is_kept() {
        let (partition, record) = parse(&["-H", "a=1", "-H", "a:2", "-p", "3", "-k", "key"], "v").unwrap();
        assert_eq!(partition, Some(3));
        assert_eq!(record.headers.len(), 2);
        assert_eq!(record.headers[1].value.as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn parse_jsonl_partition_counts_only_with_keep_partitions() {
        let line = r#"{"value":"v","partition":5,"timestamp":9}"#;
        assert_eq!(parse(&["--input", "jsonl"], line).unwrap().0, None);
        let (partition, record) = parse(&["--input", "jsonl", "--keep-partitions"], line).unwrap();
        assert_eq!((partition, record.timestamp), (Some(5), Some(9)));
    }

    #[tokio::test]
    async fn read_lines_last_line_without_newline_counts() {
        let (tx, mut rx) = mpsc::channel(CHUNKS);
        std::thread::spawn(move || read_lines(BufReader::new(&b"a\r\n\nb"[..]), &tx));
        let mut lines = Vec::new();
        while let Some(chunk) = rx.recv().await {
            lines.extend(chunk.unwrap());
        }
        assert_eq!(lines, [b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
    }
}
