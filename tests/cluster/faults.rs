//! Kill -9 at random moments under a continuous idempotent acks=all producer, then the checker over what was promised.
//! Each kind of victim has a test of its own; `KONTIKI_ROUNDS` sets the rounds, `KONTIKI_SEED` replays the moments.

use super::foreign::{Client, Writer, read_all};
use super::history::{self, History};
use super::replica;
use super::system::{BROKERS, CONTROLLER, Cluster, Layout, System};
use super::{exclusive, rounds, seeded};
use rand::rngs::StdRng;
use rand::{Rng, seq::IndexedRandom};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What `verify` reads.
pub const TOPIC: &str = "acked";
/// Its partitions.
pub const PARTITIONS: usize = 6;

/// A pass of the scrub every second.
pub const SCRUB_OFTEN: [(&str, &str); 1] = [("KONTIKI_KAFKA_LOG_SCRUB_INTERVAL_MS", "1000")];

/// Which process a round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Follower,
    Controller,
    Everything,
}

impl Victim {
    fn nodes(self, cluster: &Cluster, rng: &mut StdRng) -> Vec<u32> {
        let leader = cluster.leader(TOPIC, rng.random_range(0..PARTITIONS));
        let followers: Vec<u32> = BROKERS.into_iter().filter(|&b| b != leader).collect();
        match self {
            Victim::Leader => vec![leader],
            Victim::Follower => vec![*followers.choose(rng).expect("two followers")],
            Victim::Controller => vec![CONTROLLER],
            Victim::Everything => BROKERS.into_iter().chain([CONTROLLER]).collect(),
        }
    }
}

/// Microseconds of the system clock, as the writer's log has them.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros() as u64
}

/// Waits for a random time.
pub fn pause(rng: &mut StdRng, millis: std::ops::Range<u64>) {
    std::thread::sleep(Duration::from_millis(rng.random_range(millis)));
}

/// How long a produce may stall while a majority is up: generous for Kafka, whose sessions last nine seconds.
fn stall_limit(system: System) -> Duration {
    Duration::from_secs(if system == System::Kafka { 60 } else { 10 })
}

fn kill_rounds(victim: Victim) {
    kill_rounds_of(victim, &format!("{victim:?}").to_lowercase(), &[]);
}

/// `config` is the topic's.
fn kill_rounds_of(victim: Victim, name: &str, config: &[&str]) {
    let _one_at_a_time = exclusive();
    let (seed, mut rng) = seeded();
    eprintln!(
        "seed {seed}; replay: KONTIKI_SEED={seed} KONTIKI_ROUNDS={} cargo test --release --test cluster {name}",
        rounds(2)
    );
    let mut cluster = Cluster::start(&format!("kill-{name}"));
    let client = Client { name: TOPIC, topic: TOPIC, partitions: PARTITIONS, config, ..Client::default() };
    let mut writer = Writer::start_as(&cluster, client);
    for round in 0..rounds(2) {
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        pause(&mut rng, 200..1500);
        let nodes = victim.nodes(&cluster, &mut rng);
        let killed = now_us();
        nodes.iter().for_each(|&id| cluster.kill(id));
        eprintln!("round {round}: killed {nodes:?}");
        if victim != Victim::Everything {
            let resumed = writer.next_ack(stall_limit(cluster.system), |a| a.sent_us > killed);
            let resumed =
                resumed.unwrap_or_else(|| panic!("produce did not resume after {nodes:?} were killed"));
            eprintln!("round {round}: next ack {} ms later", (resumed.acked_us - killed) / 1000);
            pause(&mut rng, 0..1500);
        } else {
            pause(&mut rng, 0..300);
        }
        nodes.iter().for_each(|&id| cluster.spawn(id));
        let restarted = now_us();
        assert!(
            writer.next_ack(Duration::from_secs(90), |a| a.sent_us > restarted).is_some(),
            "produce did not go on within 90 s of the restart of {nodes:?}"
        );
    }
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    verify(&mut cluster, writer, &BROKERS);
}

/// Ends the writer and holds everything it was promised against what consumers and files show. `replicas` are the
/// nodes whose files must hold all of it.
pub fn verify(cluster: &mut Cluster, writer: Writer, replicas: &[u32]) -> History {
    let run = writer.run.clone();
    let history = writer.finish();
    let (records, ends) = read_all(cluster, TOPIC, PARTITIONS);
    let wrong = history::check(&[(&run, &history)], &[], &records);
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), first(&wrong));
    let read: i64 = ends.iter().sum();
    assert_eq!(read, records.len() as i64, "records read against end offsets {ends:?}");
    eprintln!(
        "{} acknowledged, {} unknown, {read} in the log: each in its place",
        history.acks.len(),
        history.infos.len()
    );
    if cluster.system == System::Kafka {
        return history; // its files are its own
    }
    cluster.all().into_iter().for_each(|id| cluster.stop(id));
    let mut dumps = Vec::new();
    for &id in replicas {
        let dump = replica::dump(env!("CARGO_BIN_EXE_kontiki"), &cluster.data_dir(id))
            .unwrap_or_else(|e| panic!("{e}"));
        let held = replica::records(&run, &dump).unwrap_or_else(|e| panic!("node {id}: {e}"));
        let lost = replica::missing(&run, &history.acks, &held);
        assert!(lost.is_empty(), "node {id} lacks {} acknowledged records:\n{}", lost.len(), first(&lost));
        dumps.push((format!("node {id}"), dump));
    }
    let covers: BTreeMap<u64, i64> = replica::ends(&run, &dumps[0].1).expect("decoded before");
    assert_eq!(covers.len(), PARTITIONS, "groups with records of this run");
    let wrong = replica::compare(&dumps, &covers);
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), first(&wrong));
    eprintln!("{} replicas equal, byte for byte", dumps.len());
    history
}

fn first(lines: &[String]) -> String {
    lines.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
}

#[test]
fn leader_killed_acked_records_stay() {
    kill_rounds(Victim::Leader);
}

/// Nothing was synced that need not be, and nothing is missing: what is written outlives the processes (P7).
#[test]
fn everything_killed_with_an_unsynced_topic_acked_records_stay() {
    if System::chosen() == System::Kafka {
        return; // never syncs
    }
    kill_rounds_of(Victim::Everything, "unsynced", &["flush.mode=async"]);
}

/// A controller that comes back must find its brokers again: they hear it, are not fenced, and learn of new topics.
#[test]
fn controller_restarted_new_topics_reach_every_broker() {
    let _one_at_a_time = exclusive();
    let mut cluster = Cluster::start("controller-restart");
    if cluster.system == System::Kafka {
        return; // its own project's business
    }
    cluster.kill(CONTROLLER);
    cluster.spawn(CONTROLLER);
    // Longer than a broker session: whoever is not heard by then is fenced.
    std::thread::sleep(Duration::from_secs(11));
    let created = std::process::Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args(["topic", "create", "after", "-p", "3", "-r", "3", "-B", &cluster.bootstrap()])
        .output()
        .expect("the command starts");
    assert!(created.status.success(), "topic create: {}", String::from_utf8_lossy(&created.stderr));
    cluster.await_in_sync("after", Duration::from_secs(20));
    for id in BROKERS {
        let partitions = cluster.partitions("after", &[id]);
        assert_eq!(partitions.map(|p| p.len()), Some(3), "broker {id} knows the topic");
    }
}

#[test]
fn follower_killed_acked_records_stay() {
    kill_rounds(Victim::Follower);
}

#[test]
fn controller_killed_acked_records_stay() {
    kill_rounds(Victim::Controller);
}

#[test]
fn everything_killed_and_restarted_acked_records_stay() {
    kill_rounds(Victim::Everything);
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    // A running node removes files and directories at any moment.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files_below(&path, found);
        } else if fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
            found.push(path);
        }
    }
}

/// Flips one random bit of a random file that is not empty and whose name ends so; says which.
pub fn flip_a_bit(dir: &Path, ending: &str, rng: &mut StdRng) -> String {
    let mut files = Vec::new();
    files_below(dir, &mut files);
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    let path = files.choose(rng).expect("a file with bytes");
    let file = fs::File::options().read(true).write(true).open(path).expect("a writable file");
    let at = rng.random_range(0..file.metadata().expect("its length").len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ (1 << rng.random_range(0..8))], at).expect("a byte");
    format!("byte {at} of {}", path.display())
}

/// One node's disk damaged while all are down: the others carry on, nothing acknowledged is lost, nothing damaged read, and the
/// damaged node becomes whole by itself: in the end all replicas are equal, byte for byte.
#[test]
fn disk_damaged_on_one_node_acked_records_stay() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // Kafka makes no such promise
    }
    let (seed, mut rng) = seeded();
    eprintln!("seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster disk_damaged");
    for round in 0..rounds(2) {
        let mut cluster = Cluster::start(&format!("damage-{round}"));
        let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        pause(&mut rng, 500..2500);
        BROKERS.into_iter().chain([CONTROLLER]).for_each(|id| cluster.kill(id));
        let damaged = *BROKERS.choose(&mut rng).expect("three brokers");
        eprintln!("flipped a bit: {}", flip_a_bit(&cluster.data_dir(damaged), "", &mut rng));
        cluster.layout.environment = SCRUB_OFTEN.to_vec();
        BROKERS.into_iter().chain([CONTROLLER]).for_each(|id| cluster.spawn(id));
        let restarted = now_us();
        for partition in 0..PARTITIONS as i32 {
            let resumed = writer
                .next_ack(Duration::from_secs(60), |a| a.sent_us > restarted && a.partition == partition);
            assert!(resumed.is_some(), "partition {partition} is not writable with node {damaged} damaged");
        }
        // The scrub has been over everything once more, and what it found is repaired.
        await_scrubbed(&cluster, damaged);
        cluster.await_in_sync(TOPIC, Duration::from_secs(60));
        eprintln!("round {round}: node {damaged} is whole again");
        verify(&mut cluster, writer, &BROKERS);
    }
}

/// Names of the replicas a node holds to be damaged; None if it does not answer.
fn damaged_replicas(cluster: &Cluster, id: u32) -> Option<Vec<String>> {
    let health = cluster.health(id)?;
    let names = health["damaged"].as_array()?;
    Some(names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect())
}

/// Damages the newest batch of every non-empty segment below a directory, and removes one segment altogether.
fn damage_every_segment(dir: &Path) -> usize {
    let mut files = Vec::new();
    files_below(&dir.join("groups"), &mut files);
    files.retain(|path| path.extension().is_some_and(|e| e == "segment"));
    files.sort();
    let mut damaged = 0;
    for path in files {
        let bytes = fs::read(&path).expect("a readable segment");
        let Some(last) = bytes.iter().rposition(|b| *b != 0).filter(|at| *at > 64 + 80) else { continue };
        if damaged == 0 {
            fs::remove_file(&path).expect("removed");
        } else {
            let file = fs::File::options().write(true).open(&path).expect("a writable segment");
            file.write_all_at(&[bytes[last] ^ 0x20], last as u64).expect("a byte");
        }
        damaged += 1;
    }
    damaged
}

/// A node whose every replica is damaged, under load, says so, repairs them all from its peers and says that too; then its
/// files hold what the others' hold, byte for byte.
#[test]
fn damaged_replicas_are_whole_again_by_themselves() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // Kafka makes no such promise
    }
    let mut cluster = Cluster::start("repair");
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    std::thread::sleep(Duration::from_secs(2));
    cluster.stop(1);
    let damaged = damage_every_segment(&cluster.data_dir(1));
    assert!(damaged >= PARTITIONS, "{damaged} segments with records");
    let restarted = now_us();
    cluster.spawn(1);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut seen, mut clean) = (0, false);
    while !(seen > 0 && clean) {
        assert!(Instant::now() < deadline, "after 60 s still damaged: {:?}", damaged_replicas(&cluster, 1));
        if let Some(names) = damaged_replicas(&cluster, 1) {
            seen = seen.max(names.len());
            let whole =
                cluster.partitions(TOPIC, &[1]).is_some_and(|ps| ps.iter().all(|p| p.in_sync.contains(&1)));
            clean = names.is_empty() && whole;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!(
        "{damaged} segments damaged, {seen} replicas named, all whole after {} ms",
        (now_us() - restarted) / 1000
    );
    assert!(writer.next_ack(Duration::from_secs(30), |a| a.sent_us > restarted).is_some(), "produce goes on");
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    verify(&mut cluster, writer, &BROKERS);
}

/// The value of one figure of a node's /metrics.
fn metric(cluster: &Cluster, id: u32, name: &str) -> u64 {
    let text = cluster.http(id, "/metrics").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Waits until the scrub of a node has been over everything since now and nothing is damaged (any more).
pub fn await_scrubbed(cluster: &Cluster, id: u32) {
    let wanted = metric(cluster, id, "kontiki_scrub_passes_total") + 2;
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_clean = || damaged_replicas(cluster, id).is_some_and(|names| names.is_empty());
    while metric(cluster, id, "kontiki_scrub_passes_total") < wanted || !is_clean() {
        assert!(Instant::now() < deadline, "node {id} is not clean: {:?}", damaged_replicas(cluster, id));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A byte in the payload of the first frame with records (docs/disk-format.md).
fn first_records(segment: &[u8]) -> Option<usize> {
    let mut at = 64;
    loop {
        let header = segment.get(at..at + 80)?;
        let length = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
        if header[..4] != *b"KENT" {
            return None;
        }
        if header[5] == 1 {
            return Some(at + 80 + 70);
        }
        at += length;
    }
}

/// Segments below this directory that hold records, with the place and value of a byte of the first.
fn segments_with_records(directory: &Path) -> Vec<(PathBuf, usize, u8)> {
    let mut files = Vec::new();
    files_below(directory, &mut files);
    files.retain(|path| path.extension().is_some_and(|e| e == "segment"));
    let target = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a readable segment");
        first_records(&bytes).map(|at| (path, at, bytes[at]))
    };
    files.into_iter().filter_map(target).collect()
}

/// A bit flipped in the middle of a running node's segments, where nobody reads, is found by the scrub and repaired.
#[test]
fn bit_flipped_under_a_running_node_is_found_and_repaired() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // Kafka has no scrub
    }
    // From the start: a broker that was just restarted may get no replica of a topic made at that moment.
    let mut cluster =
        Cluster::start_in("scrub", Layout { environment: SCRUB_OFTEN.to_vec(), ..Layout::default() });
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    // Small records lie in the journal until their node has a quiet moment, or enough of them.
    let deadline = Instant::now() + Duration::from_secs(60);
    let targets = loop {
        let targets = segments_with_records(&cluster.data_dir(2).join("groups"));
        if targets.len() >= PARTITIONS {
            break targets;
        }
        assert!(Instant::now() < deadline, "{} segments with records", targets.len());
        std::thread::sleep(Duration::from_millis(50));
    };
    let flipped = targets.len() as u64;
    for (path, at, byte) in targets {
        let file = fs::File::options().write(true).open(&path).expect("a writable segment");
        file.write_all_at(&[byte ^ 4], at as u64).expect("a byte");
    }
    await_scrubbed(&cluster, 2);
    let found = metric(&cluster, 2, "kontiki_scrub_damaged_total");
    eprintln!("{flipped} segments flipped, {found} found by the scrub");
    assert!(found >= flipped, "{found} of {flipped} found");
    let now = now_us();
    assert!(writer.next_ack(Duration::from_secs(30), |a| a.sent_us > now).is_some(), "produce goes on");
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    verify(&mut cluster, writer, &BROKERS);
}
