//! rskafka: writes one record with a key and a header, reads it back. Usage: cargo run -- HOST:PORT,...
use chrono::Utc;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::record::Record;
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bootstrap = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let brokers = bootstrap.split(',').map(str::to_owned).collect();
    tokio::time::timeout(Duration::from_secs(30), hello(brokers)).await?
}

async fn hello(brokers: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let topic = format!("hello-rust-{}", Utc::now().timestamp_micros());
    let client = ClientBuilder::new(brokers).build().await?;
    client.controller_client()?.create_topic(&topic, 1, -1, 10_000).await?;

    let partition = client.partition_client(&topic, 0, UnknownTopicHandling::Retry).await?;
    let record = Record {
        key: Some(b"greeting".to_vec()),
        value: Some(b"hello raft".to_vec()),
        headers: BTreeMap::from([("from".to_owned(), b"rust".to_vec())]),
        timestamp: Utc::now(),
    };
    partition.produce(vec![record], Compression::NoCompression).await?;

    let (records, _high_watermark) = partition.fetch_records(0, 1..1_000_000, 10_000).await?;
    let read = records.into_iter().next().ok_or("nothing to read")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (key, value) = (read.record.key.unwrap_or_default(), read.record.value.unwrap_or_default());
    let (key, value, from) = (text(&key), text(&value), text(&read.record.headers["from"]));
    println!("{topic}[0]@{} {key} -> {value} (from={from})", read.offset);
    Ok(())
}
