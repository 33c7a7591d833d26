//! Consumers that say where they stand read from a replica in their own rack (KIP-392), and find all there.

use super::kafka::{connect, frame, read_frame};
use super::shared;
use super::system::{Cluster, Layout};
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOPIC: &str = "racked";
const FETCH_VERSION: i16 = 12;
const RECORDS: usize = 2000;

/// What a broker answers to a fetch from the beginning by a consumer in a rack.
fn fetch(cluster: &Cluster, broker: u32, rack: &str) -> PartitionData {
    let partition = FetchPartition::default().with_partition(0).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(2000)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
        .with_rack_id(StrBytes::from_string(rack.to_owned()));
    let mut body = BytesMut::new();
    request.encode(&mut body, FETCH_VERSION).expect("a request encodes");
    let mut stream = connect(cluster.address(broker)).expect("a connection");
    stream.write_all(&frame(ApiKey::Fetch as i16, FETCH_VERSION, 2, &body)).expect("sent");
    let mut answer: Bytes = read_frame(&mut stream).expect("an answer");
    ResponseHeader::decode(&mut answer, 1).expect("a header");
    let mut response = FetchResponse::decode(&mut answer, FETCH_VERSION).expect("a response");
    assert!(!answer.has_remaining());
    response.responses.remove(0).partitions.remove(0)
}

fn has_records(row: &PartitionData) -> bool {
    row.records.as_ref().is_some_and(|records| !records.is_empty())
}

/// Bytes a broker has written to clients.
fn bytes_out(cluster: &Cluster, broker: u32) -> u64 {
    let metrics = cluster.http(broker, "/metrics").expect("metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("kontiki_bytes_out_total "));
    line.expect("the metric").parse().expect("a number")
}

/// Reads everything with a stock client that says its rack; answers the lines.
fn consume(cluster: &Cluster, rack: &str) -> Vec<String> {
    let output = Command::new("kcat")
        .args(["-C", "-q", "-e", "-t", TOPIC, "-o", "beginning", "-b", &cluster.bootstrap()])
        .args(["-X", &format!("client.rack={rack}")])
        .stdin(Stdio::null())
        .output()
        .expect("kcat");
    assert!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn consumer_in_a_rack_reads_from_the_replica_there() {
    let _shared = shared();
    let rack = |id: u32| format!("rack-{id}");
    let prefix = (1..=3).map(|id| (id, vec!["env".to_owned(), format!("KONTIKI_RACK={}", rack(id))]));
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let environment = vec![("KONTIKI_KAFKA_REPLICA_SELECTOR_CLASS", selector)];
    let layout = Layout { prefix: prefix.collect(), environment, ..Layout::default() };
    let mut cluster = Cluster::start_in("racks", layout);
    let created = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args(["topic", "create", TOPIC, "-p", "1", "-r", "3", "-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    assert!(created.status.success(), "topic create: {}", String::from_utf8_lossy(&created.stderr));
    let lines: Vec<String> = (0..RECORDS).map(|n| format!("record {n} {}", "x".repeat(200))).collect();
    let mut writer = Command::new("kcat")
        .args(["-P", "-t", TOPIC, "-b", &cluster.bootstrap()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat");
    writer.stdin.take().expect("its input").write_all(lines.join("\n").as_bytes()).expect("written");
    assert!(writer.wait().expect("kcat").success());
    cluster.await_in_sync(TOPIC, Duration::from_secs(20));
    let leader = cluster.leader(TOPIC, 0);
    let other = (1..=3).find(|id| *id != leader).expect("a follower");

    let sent = fetch(&cluster, leader, &rack(other));
    assert_eq!((sent.error_code, sent.preferred_read_replica.0), (0, other as i32));
    assert!(!has_records(&sent), "records beside a preferred replica");
    let there = fetch(&cluster, other, &rack(other));
    assert_eq!((there.error_code, there.preferred_read_replica.0), (0, -1));
    assert!(has_records(&there));
    for rack in [rack(leader), "nowhere".to_owned(), String::new()] {
        let here = fetch(&cluster, leader, &rack);
        assert_eq!((here.error_code, here.preferred_read_replica.0), (0, -1), "{rack:?}");
        assert!(has_records(&here), "{rack:?}");
    }

    let (before_here, before_there) = (bytes_out(&cluster, leader), bytes_out(&cluster, other));
    assert_eq!(consume(&cluster, &rack(other)), lines);
    let read_here = bytes_out(&cluster, leader) - before_here;
    let read_there = bytes_out(&cluster, other) - before_there;
    let size = lines.iter().map(|line| line.len() as u64).sum::<u64>();
    assert!(read_there >= size && read_here < size / 4, "{read_there} there, {read_here} of the leader");

    // Without the replica in its rack a consumer reads from the leader again.
    cluster.kill(other);
    let limit = Instant::now() + Duration::from_secs(20);
    let is_out = |cluster: &Cluster| {
        let rows = cluster.partitions(TOPIC, &[leader])?;
        Some(!rows.first()?.in_sync.contains(&(other as i32)))
    };
    while is_out(&cluster) != Some(true) {
        assert!(Instant::now() < limit, "the dead replica is still in sync");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(consume(&cluster, &rack(other)), lines);
    cluster.assert_running();
}
