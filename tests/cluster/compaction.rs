//! Compacted topics on real disks: the last value of every key stays, the space of the others comes back, and neither a kill in the middle
//! of it nor a change of leader shows to a stock client. `__consumer_offsets` shrinks under the commits of a group that goes on.

use super::system::{BROKERS, Cluster, Layout};
use super::{rounds, shared};
use kontiki::client::cluster::{Client, ClientOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOPIC: &str = "latest";
const OFFSETS: &str = "__consumer_offsets";
const KEYS: usize = 100;
const RECORDS: usize = 20_000;

/// A cluster whose cleaners look around often, with a compacted topic of small segments.
fn start(name: &str) -> Cluster {
    let environment = vec![
        ("KONTIKI_KAFKA_LOG_CLEANER_BACKOFF_MS", "300"),
        ("KONTIKI_KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "1"),
        ("KONTIKI_KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "3"),
        ("KONTIKI_KAFKA_OFFSETS_TOPIC_SEGMENT_BYTES", "1048576"),
    ];
    let cluster = Cluster::start_in(name, Layout { environment, ..Layout::default() });
    let created = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args(["topic", "create", TOPIC, "--partitions", "1", "--replicas", "3"])
        .args(["-c", "cleanup.policy=compact", "-c", "segment.bytes=1048576"])
        .args(["-c", "min.cleanable.dirty.ratio=0.2", "-c", "delete.retention.ms=1000"])
        .args(["-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    cluster
}

/// Writes records `from..to`, the key of each its number modulo the keys.
fn write(cluster: &Cluster, from: usize, to: usize) {
    let mut rng = StdRng::seed_from_u64(from as u64);
    let mut noise = || (0..12).map(|_| format!("{:016x}", rng.random::<u64>())).collect::<String>();
    let lines: String = (from..to).map(|n| format!("key-{:03}:{n}-{}\n", n % KEYS, noise())).collect();
    let path = cluster.dir().join("lines");
    fs::write(&path, lines).expect("a file");
    let written = Command::new("kcat")
        .args(["-P", "-q", "-t", TOPIC, "-p", "0", "-K", ":", "-z", "lz4", "-b", &cluster.bootstrap()])
        .args(["-X", "enable.idempotence=true", "-X", "batch.size=20000", "-l"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("kcat");
    assert!(written.status.success(), "kcat: {}", String::from_utf8_lossy(&written.stderr));
}

/// Offset, key and value of everything a stock client reads from the start.
fn read(cluster: &Cluster) -> Vec<(i64, String, String)> {
    let read = Command::new("kcat")
        .args([
            "-C",
            "-q",
            "-e",
            "-t",
            TOPIC,
            "-o",
            "beginning",
            "-f",
            "%o %k %s\n",
            "-b",
            &cluster.bootstrap(),
        ])
        .args(["-X", "check.crcs=true"])
        .stdin(Stdio::null())
        .output()
        .expect("kcat");
    assert!(read.status.success(), "kcat: {}", String::from_utf8_lossy(&read.stderr));
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let offset = words.next().and_then(|word| word.parse().ok()).expect("an offset");
        (offset, words.next().expect("a key"), words.next().expect("a value"))
    };
    String::from_utf8(read.stdout).expect("text").lines().map(line).collect()
}

/// Each key's last value is there, and nothing that was not written, at the offsets it was written to.
fn check(read: &[(i64, String, String)], written: usize) {
    assert!(read.is_sorted_by(|a, b| a.0 < b.0), "offsets ascend");
    for (offset, key, value) in read {
        let number: usize = value.split('-').next().and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!((*offset, key), (number as i64, &format!("key-{:03}", number % KEYS)));
    }
    let last: BTreeMap<&str, i64> = read.iter().map(|(offset, key, _)| (&key[..], *offset)).collect();
    let expected: Vec<i64> = (written - KEYS..written).map(|n| n as i64).collect();
    let mut found: Vec<i64> = last.into_values().collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

/// The value of a figure of a broker, 0 if it does not answer.
fn figure(cluster: &Cluster, broker: u32, name: &str) -> u64 {
    let text = cluster.http(broker, "/metrics").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn size(cluster: &Cluster, broker: u32, topic: &str) -> u64 {
    let name = format!("kontiki_partition_size_bytes{{topic=\"{topic}\",partition=\"0\"}}");
    figure(cluster, broker, &name)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn compacted_topic_keeps_each_keys_last_value_whoever_is_killed_meanwhile() {
    let _beside_others = shared();
    let mut cluster = start("compaction");
    write(&cluster, 0, RECORDS);
    let is_small = |cluster: &Cluster, broker| {
        let bytes = size(cluster, broker, TOPIC);
        // A segment that is written to, and less than half of another one of what is left.
        bytes > 0 && bytes < 1_500_000
    };
    for broker in BROKERS {
        until("every replica is compacted", || is_small(&cluster, broker));
    }
    let left = read(&cluster);
    assert!(left.len() < RECORDS / 2, "{} of {RECORDS} records are left", left.len());
    check(&left, RECORDS);
    let mut written = RECORDS;
    for round in 0..rounds(3) {
        write(&cluster, written, written + RECORDS / 2);
        written += RECORDS / 2;
        // In the middle of it, most likely: the cleaners look three times a second.
        let killed = BROKERS[round % BROKERS.len()];
        let passes = figure(&cluster, killed, "kontiki_cleaner_passes_total");
        std::thread::sleep(Duration::from_millis(150 * (round as u64 % 4)));
        cluster.kill(killed);
        check(&read(&cluster), written);
        cluster.spawn(killed);
        cluster.await_in_sync(TOPIC, Duration::from_secs(60));
        check(&read(&cluster), written);
        for broker in BROKERS {
            until("every replica is compacted again", || is_small(&cluster, broker));
        }
        println!("round {round}: broker {killed} killed after {passes} passes");
    }
    // All at once, and from what their disks hold alone.
    let all = cluster.all();
    all.iter().for_each(|id| cluster.kill(*id));
    all.iter().for_each(|id| cluster.spawn(*id));
    cluster.await_answers();
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    let left = read(&cluster);
    check(&left, written);
    for broker in BROKERS {
        let health = cluster.health(broker).expect("health");
        assert!(health["uncleanable"].as_object().is_some_and(|rows| rows.is_empty()), "{health}");
        assert!(health["damaged"].as_array().is_some_and(|rows| rows.is_empty()), "{health}");
    }
    println!("{} of {written} records left, each key's last value among them", left.len());
}

#[test]
fn offsets_topic_shrinks_under_commits_and_a_new_coordinator_knows_the_last() {
    let _beside_others = shared();
    let mut cluster = start("compacted-offsets");
    let options = ClientOptions {
        bootstrap: cluster.bootstrap().split(',').map(str::to_owned).collect(),
        ..ClientOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(options);
    let commits = 12_000;
    let at = |offset: i64| BTreeMap::from([((TOPIC.to_owned(), 0), offset)]);
    let mut largest = 0;
    for chunk in 0..commits / 100 {
        runtime.block_on(async {
            let mut many = tokio::task::JoinSet::new();
            for n in 0..99 {
                let (client, offsets) = (client.clone(), at(chunk * 100 + n));
                many.spawn(async move { client.commit_group_offsets("committing", &offsets).await });
            }
            many.join_all().await.into_iter().for_each(|commit| commit.expect("committed"));
            client.commit_group_offsets("committing", &at(chunk * 100 + 99)).await.expect("committed");
        });
        largest = largest.max(size(&cluster, 1, OFFSETS));
    }
    until("the offsets are compacted everywhere", || {
        BROKERS.iter().all(|broker| {
            figure(&cluster, *broker, "kontiki_cleaner_passes_total") > 0
                && (1..1_200_000).contains(&size(&cluster, *broker, OFFSETS))
        })
    });
    let coordinator = cluster.leader(OFFSETS, 0);
    cluster.kill(coordinator);
    let known = runtime.block_on(client.group_offsets("committing")).expect("offsets");
    assert_eq!(known, at(commits - 1));
    cluster.spawn(coordinator);
    cluster.await_in_sync(OFFSETS, Duration::from_secs(60));
    let left = size(&cluster, 1, OFFSETS);
    println!(
        "{commits} commits, {largest} bytes at most, {left} in the end; the next coordinator knew the last"
    );
}
