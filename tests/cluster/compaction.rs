//! Compacted topics on real disks: the last value of every key stays, the space of the others comes back, and neither a kill in the middle
//! of it nor a change of leader shows to a stock client. `__consumer_offsets` shrinks under the commits of a group that goes on. Of keys that are
//! deleted nothing is left in the files of any replica, tombstones included.

use super::replica;
use super::system::{BROKERS, Cluster, Layout};
use super::{rounds, shared};
use kontiki::client::cluster::{Client, ClientOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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
        // It closes files that are older than segment.ms.
        ("KONTIKI_KAFKA_LOG_RETENTION_CHECK_INTERVAL_MS", "500"),
        ("KONTIKI_KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "1"),
        ("KONTIKI_KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "3"),
        ("KONTIKI_KAFKA_OFFSETS_TOPIC_SEGMENT_BYTES", "1048576"),
    ];
    let cluster = Cluster::start_in(name, Layout { environment, ..Layout::default() });
    let small = ["segment.bytes=1048576", "min.cleanable.dirty.ratio=0.2", "delete.retention.ms=1000"];
    create(&cluster, TOPIC, &small);
    cluster
}

/// A compacted topic of one partition on three brokers.
fn create(cluster: &Cluster, topic: &str, configs: &[&str]) {
    let created = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args([
            "topic",
            "create",
            topic,
            "--partitions",
            "1",
            "--replicas",
            "3",
            "-c",
            "cleanup.policy=compact",
        ])
        .args(configs.iter().flat_map(|config| ["-c", config]))
        .args(["-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
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

const DELETED: &str = "deleted";

/// Writes lines `key:value`; without a value, the tombstone of the key.
fn feed(cluster: &Cluster, lines: &str) {
    let path = cluster.dir().join("records");
    fs::write(&path, lines).expect("a file");
    let written = Command::new("kcat")
        .args(["-P", "-q", "-Z", "-t", DELETED, "-p", "0", "-K", ":", "-b", &cluster.bootstrap(), "-l"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("kcat");
    assert!(written.status.success(), "kcat: {}", String::from_utf8_lossy(&written.stderr));
}

/// Keys and values that a stock client reads from the start.
fn keys(cluster: &Cluster) -> BTreeMap<String, String> {
    let read = Command::new("kcat")
        .args(["-C", "-q", "-e", "-t", DELETED, "-o", "beginning", "-f", "%k %S\n", "-X", "check.crcs=true"])
        .args(["-b", &cluster.bootstrap()])
        .stdin(Stdio::null())
        .output()
        .expect("kcat");
    assert!(read.status.success(), "kcat: {}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).expect("text");
    let pair = |line: &str| line.split_once(' ').map(|(key, size)| (key.to_owned(), size.to_owned()));
    text.lines().filter_map(pair).collect()
}

/// Whether the files of a broker hold a record whose key begins so, tombstones included. None: they change while they are read.
fn holds(cluster: &Cluster, broker: u32, prefix: &str) -> Option<bool> {
    let files = replica::dump(env!("CARGO_BIN_EXE_kontiki"), &cluster.data_dir(broker)).ok()?;
    let keys = replica::keys(&files).ok()?;
    Some(keys.iter().any(|key| key.starts_with(prefix)))
}

/// Writes something now and then, so that there is something to compact, until nothing of these keys is left anywhere.
fn feed_until_gone(cluster: &Cluster, prefix: &str) {
    let mut ticks = 0;
    until("nothing of deleted keys is left in any replica", || {
        ticks += 1;
        feed(cluster, &format!("tick:{ticks}\n"));
        std::thread::sleep(Duration::from_millis(300));
        BROKERS.iter().all(|broker| holds(cluster, *broker, prefix) == Some(false))
    });
}

/// Flips a bit of the last frame of the largest closed file of every replica that has one.
fn damage_closed(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    let mut damaged = Vec::new();
    for group in list(&dir.join("groups")).filter(|path| path.is_dir()) {
        // The one that is appended to is longer than what is in it.
        let closed = list(&group).filter(|path| path.extension().is_some_and(|end| end == "segment"));
        let closed = closed.map(|path| (fs::read(&path).expect("a readable segment"), path));
        let is_closed = |(bytes, _): &(Vec<u8>, PathBuf)| bytes.len() > 64 + 80 && bytes.len() % 4096 != 0;
        let largest = closed.filter(is_closed).max_by_key(|(bytes, _)| bytes.len());
        if let Some((bytes, path)) = largest {
            let at = bytes.iter().rposition(|byte| *byte != 0).expect("it has bytes");
            let file = fs::File::options().write(true).open(&path).expect("a writable segment");
            file.write_all_at(&[bytes[at] ^ 0x20], at as u64).expect("a byte");
            damaged.push(path);
        }
    }
    damaged
}

#[test]
fn nothing_of_deleted_keys_is_left_in_any_replica_also_where_a_file_was_damaged() {
    let _beside_others = shared();
    let mut cluster = start("tombstones");
    create(
        &cluster,
        DELETED,
        &["segment.ms=1000", "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=500"],
    );
    let some = |prefix: &str, value: &str| -> String {
        (0..40).map(|n| format!("{prefix}-{n}:{value}\n")).collect()
    };
    feed(&cluster, &(some("first", "value") + &some("second", "value") + &some("kept", "value")));
    feed(&cluster, &some("first", ""));
    feed_until_gone(&cluster, "first-");
    let victim = BROKERS[2];
    cluster.kill(victim);
    let damaged = damage_closed(&cluster.data_dir(victim));
    feed(&cluster, &some("second", ""));
    cluster.spawn(victim);
    // Were no copy to fit, it would begin anew after a minute.
    cluster.await_in_sync(DELETED, Duration::from_secs(180));
    feed_until_gone(&cluster, "second-");
    let is_mended = |path: &PathBuf| !path.exists();
    assert!(!damaged.is_empty(), "no file was damaged");
    until("the damaged file is no more", || damaged.iter().all(is_mended));
    until("nothing is damaged", || {
        let health = cluster.health(victim);
        health.is_some_and(|health| health["damaged"].as_array().is_some_and(|rows| rows.is_empty()))
    });
    let read = keys(&cluster);
    let expected: Vec<String> = (0..40).map(|n| format!("kept-{n}")).chain(["tick".to_owned()]).collect();
    assert!(expected.iter().all(|key| read.contains_key(key)), "{read:?}");
    assert_eq!(read.len(), expected.len(), "{read:?}");
    BROKERS.iter().for_each(|broker| assert_eq!(holds(&cluster, *broker, "first-"), Some(false)));
}
