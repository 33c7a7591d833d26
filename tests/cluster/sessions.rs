//! Incremental fetch sessions (KIP-227) as Kafka's own consumer uses them: idle partitions cost it next to nothing.

use super::foreign::kafka_tool_command;
use super::shared;
use super::system::{BROKERS, Cluster};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TOPIC: &str = "many-idle";
const PARTITIONS: u64 = 200;
/// A full request names each partition by more than this.
const LEAST_BYTES_OF_A_PARTITION: u64 = 30;

/// The sum of a figure over all brokers; lines that begin with `name` and a space.
fn figure(cluster: &Cluster, name: &str) -> u64 {
    let of = |broker| {
        let text = cluster.http(broker, "/metrics").expect("metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0)
    };
    BROKERS.into_iter().map(of).sum()
}

fn await_figure(cluster: &Cluster, name: &str, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while figure(cluster, name) != wanted {
        assert!(Instant::now() < deadline, "{name} is {}, not {wanted}", figure(cluster, name));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Kafka's console consumer; one that was not stopped must not outlive the test.
struct Consumer(Child);

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn consumer_of_idle_partitions_keeps_sessions_and_says_and_hears_next_to_nothing() {
    let _shared = shared();
    let cluster = Cluster::start("sessions");
    let partitions = PARTITIONS.to_string();
    let created = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args(["topic", "create", TOPIC, "-p", &partitions, "-r", "3", "-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    assert!(created.status.success(), "topic create: {}", String::from_utf8_lossy(&created.stderr));
    let consumer =
        kafka_tool_command(&cluster, "org.apache.kafka.tools.consumer.ConsoleConsumer", &["--topic", TOPIC])
            .arg("--from-beginning")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
    let mut consumer = Consumer(consumer.expect("java"));
    let lines = BufReader::new(consumer.0.stdout.take().expect("a pipe")).lines();
    let (heard, lines_heard) = mpsc::sync_channel(16);
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| heard.send(line)));
    await_figure(&cluster, "kontiki_fetch_session_partitions", PARTITIONS);

    // Everything its connections carry, heartbeats included, against a bare list of the partitions. On a slow machine the consumer's start
    // reaches into the first seconds, and it asks for metadata now and then: one quiet window is enough, full requests would have none.
    let fetches = || figure(&cluster, "kontiki_request_duration_seconds_count{api=\"Fetch\"}");
    let bytes = || figure(&cluster, "kontiki_bytes_in_total") + figure(&cluster, "kontiki_bytes_out_total");
    let of_a_full_request = PARTITIONS / 3 * LEAST_BYTES_OF_A_PARTITION;
    let deadline = Instant::now() + Duration::from_secs(60);
    let (each, fetches) = loop {
        let (fetches_before, bytes_before) = (fetches(), bytes());
        std::thread::sleep(Duration::from_secs(5));
        let (fetches, bytes) = (fetches() - fetches_before, bytes() - bytes_before);
        if fetches >= 10 && bytes / fetches < of_a_full_request / 4 {
            break (bytes / fetches, fetches);
        }
        assert!(Instant::now() < deadline, "{bytes} bytes in {fetches} fetches of the last 5 s");
    };
    println!("{each} bytes a fetch, there and back, over {PARTITIONS} idle partitions");

    for partition in ["0", "77", "199"] {
        let mut producer = Command::new("kcat")
            .args(["-P", "-b", &cluster.bootstrap(), "-t", TOPIC, "-p", partition])
            .stdin(Stdio::piped())
            .spawn()
            .expect("kcat");
        writeln!(producer.stdin.take().expect("a pipe"), "to {partition}").expect("written");
        assert!(producer.wait().expect("kcat").success());
        let line = lines_heard.recv_timeout(Duration::from_secs(30)).expect("the record is read");
        assert_eq!(line, format!("to {partition}"));
    }
    let stopped = Command::new("kill").args(["-TERM", &consumer.0.id().to_string()]).status();
    assert!(stopped.expect("kill").success());
    consumer.0.wait().expect("our own child");
    await_figure(&cluster, "kontiki_fetch_sessions", 0);
    assert_eq!(figure(&cluster, "kontiki_fetch_session_partitions"), 0);
    assert!(figure(&cluster, "kontiki_incremental_fetches_total") >= fetches);
}
