//! The promise of the first sentence: of three brokers two may die, one after another, and nothing acknowledged is lost; the partition
//! goes on with the last one and grows back by itself. Two at once: it waits, and goes on when one is back. A restart in order costs
//! nothing. Prints what each step took; asserts outer limits, since a loaded machine has no say in the promise.

use super::faults::{PARTITIONS, TOPIC, now_us, pause, verify};
use super::foreign::{Client, Writer, read_all};
use super::system::{BROKERS, Cluster, Control, Layout, System};
use super::{exclusive, rounds, seeded};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// From a kill to the first acknowledgement, on every partition, of a record that was sent after it.
const GAP_LIMIT: Duration = Duration::from_secs(12);

/// Milliseconds from `from` until each partition acknowledged something that was sent later: the first and the last of them.
fn gaps(writer: &mut Writer, from: u64) -> (u64, u64) {
    gaps_within(writer, from, GAP_LIMIT)
}

pub fn gaps_within(writer: &mut Writer, from: u64, limit: Duration) -> (u64, u64) {
    let mut seen = BTreeSet::new();
    let mut millis = Vec::new();
    let deadline = Instant::now() + limit;
    while seen.len() < PARTITIONS {
        let left = deadline.saturating_duration_since(Instant::now());
        let ack = writer.next_ack(left, |a| a.sent_us > from && !seen.contains(&a.partition));
        let ack = ack.unwrap_or_else(|| panic!("only {seen:?} went on within {limit:?}"));
        seen.insert(ack.partition);
        millis.push((ack.acked_us - from) / 1000);
    }
    (millis[0], millis[millis.len() - 1])
}

/// As `gaps`, for brokers whose killing began at `from` and ended just now: only what was sent after that counts, and all the time does.
fn outage(writer: &mut Writer, from: u64) -> (u64, u64) {
    let dead = now_us();
    let (soonest, last) = gaps(writer, dead);
    let killing = (dead - from) / 1000;
    (soonest + killing, last + killing)
}

/// A figure of each partition of the topic as a broker has it.
fn figures(cluster: &Cluster, id: u32, name: &str) -> Vec<u64> {
    let text = cluster.http(id, "/metrics").unwrap_or_default();
    let prefix = format!("{name}{{topic=\"{TOPIC}\",");
    let values = text.lines().filter(|line| line.starts_with(&prefix));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect()
}

/// Waits until a broker's replicas of all partitions have so many voters; says how long it took.
pub fn await_voters(cluster: &Cluster, id: u32, voters: u64) -> u64 {
    let start = Instant::now();
    loop {
        let now = figures(cluster, id, "kontiki_partition_voters");
        if now.len() == PARTITIONS && now.iter().all(|n| *n == voters) {
            return start.elapsed().as_millis() as u64;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "broker {id}: voters {now:?}, not {voters}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A partition's generation, and the broker and role of each of its members.
type Group = (u64, Vec<(u64, String)>);

/// Generation and role of every replica of every partition, as `topic describe` tells people. None if it cannot yet.
fn roles(cluster: &Cluster) -> Option<Vec<Group>> {
    let output = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args([
            "topic",
            "describe",
            TOPIC,
            "--section",
            "replicas",
            "--output",
            "json",
            "-B",
            &cluster.bootstrap(),
        ])
        .output()
        .expect("kontiki topic describe");
    if !output.status.success() {
        return None;
    }
    let described: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let group = |group: &Value| {
        let members = group["members"].as_array().expect("members").iter();
        let member =
            |m: &Value| (m["replica"].as_u64().expect("id"), m["role"].as_str().expect("role").to_owned());
        (group["generation"].as_u64().expect("a generation"), members.map(member).collect())
    };
    Some(described["items"][0]["groups"].as_array().expect("groups").iter().map(group).collect())
}

/// Waits until every partition's leader says that so many of the others vote; returns what it says, and after how long.
fn await_votes(cluster: &Cluster, others: usize) -> (Vec<Group>, u64) {
    let start = Instant::now();
    loop {
        let now = roles(cluster);
        let votes = |group: &Group| group.1.iter().filter(|member| member.1 == "voter").count();
        match now {
            Some(now) if now.len() == PARTITIONS && now.iter().all(|group| votes(group) == others) => {
                return (now, start.elapsed().as_millis() as u64);
            }
            now => assert!(start.elapsed() < Duration::from_secs(30), "{now:?}, not {others} voters beside"),
        }
    }
}

/// The middle one, and the worst.
fn summary(mut millis: Vec<u64>) -> String {
    millis.sort_unstable();
    format!("median {} ms, worst {} ms", millis[millis.len() / 2], millis[millis.len() - 1])
}

#[test]
fn two_of_three_brokers_die_one_after_another_nothing_is_lost_and_all_grows_back() {
    two_of_three_die(Control::Three, 2);
}

#[test]
fn two_of_three_brokers_of_dev_die_one_after_another_and_it_is_the_same() {
    two_of_three_die(Control::Dev, 1);
}

fn two_of_three_die(control: Control, least: usize) {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // an unclean election is all it could offer
    }
    let (seed, mut rng) = seeded();
    eprintln!("seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster two_of_three");
    let mut gaps_of_leader = Vec::new();
    let mut gaps_of_last = Vec::new();
    for round in 0..rounds(least) {
        let name = format!("shrink-{control:?}-{round}").to_lowercase();
        let mut cluster = Cluster::start_in(&name, Layout { control, ..Layout::default() });
        // With 2 the last one would only be read.
        let config = &["min.insync.replicas=1"];
        let client =
            Client { name: TOPIC, topic: TOPIC, partitions: PARTITIONS, config, ..Client::default() };
        let mut writer = Writer::start_as(&cluster, client);
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        pause(&mut rng, 200..1500);

        let first = cluster.leader(TOPIC, 0);
        let others: Vec<u32> = BROKERS.into_iter().filter(|b| *b != first).collect();
        let from = now_us();
        cluster.kill(first);
        let (soonest, last) = outage(&mut writer, from);
        gaps_of_leader.push(last);
        let (_, shrunk) = await_votes(&cluster, 1);
        eprintln!(
            "round {round}: {first} killed: acknowledged again after {soonest} to {last} ms, two voters {shrunk} ms later"
        );
        pause(&mut rng, 0..1000);

        let second = cluster.partitions(TOPIC, &others).expect("a broker that answers")[0].leader as u32;
        let survivor = *others.iter().find(|b| **b != second).expect("two others");
        let from = now_us();
        cluster.kill(second);
        let (soonest, last) = outage(&mut writer, from);
        gaps_of_last.push(last);
        eprintln!(
            "round {round}: {second} killed: {survivor} alone acknowledges after {soonest} to {last} ms"
        );
        for (generation, members) in await_votes(&cluster, 0).0 {
            let role = |id: u32| members.iter().find(|m| m.0 == u64::from(id)).map(|m| m.1.as_str());
            assert_eq!(
                (generation, role(survivor)),
                (1, Some("leader")),
                "one generation change: {members:?}"
            );
            assert_eq!(members.len(), 3, "{members:?}");
        }
        pause(&mut rng, 0..1500);
        let (records, _) = read_all(&cluster, TOPIC, PARTITIONS);
        assert!(!records.is_empty(), "a consumer reads from the last one");

        // Back in either order, wiped or not: all four in four rounds.
        let back = if round % 2 == 0 { [second, first] } else { [first, second] };
        let is_wiped = (round + round / 2) % 2 == 1;
        if is_wiped {
            for id in back {
                std::fs::remove_dir_all(cluster.data_dir(id)).expect("the data of a dead broker");
            }
        }
        let from = now_us();
        cluster.spawn(back[0]);
        pause(&mut rng, 0..3000);
        cluster.spawn(back[1]);
        cluster.await_in_sync(TOPIC, Duration::from_secs(60));
        eprintln!(
            "round {round}: {back:?} started again{}: all in sync after {} ms",
            if is_wiped { " with empty disks" } else { "" },
            (now_us() - from) / 1000
        );
        await_votes(&cluster, 2);
        verify(&mut cluster, writer, &BROKERS);
    }
    eprintln!("every partition acknowledged again: leader killed {}", summary(gaps_of_leader));
    eprintln!("the second one too, the last goes on alone: {}", summary(gaps_of_last));
}

#[test]
fn two_of_three_brokers_die_at_once_nothing_is_served_until_one_is_back() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // its own project's business
    }
    let (seed, mut rng) = seeded();
    eprintln!("seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster two_of_three");
    let mut cluster = Cluster::start("shrink-at-once");
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    pause(&mut rng, 200..1500);
    let (a, b) = (cluster.leader(TOPIC, 0), cluster.leader(TOPIC, 1));
    let b = if a == b { BROKERS.into_iter().find(|n| *n != a).expect("three") } else { b };
    let survivor = BROKERS.into_iter().find(|n| *n != a && *n != b).expect("three");
    cluster.kill(a);
    cluster.kill(b);
    let from = now_us(); // what was sent in between may well be acknowledged
    let silent = writer.next_ack(Duration::from_secs(6), |ack| ack.sent_us > from);
    assert_eq!(silent, None, "one of three cannot prove what the others had");
    let generations = figures(&cluster, survivor, "kontiki_partition_generation");
    assert!(generations.iter().all(|g| *g == 0), "nobody re-forms a group without proof: {generations:?}");
    let health = cluster.health(survivor).expect("it answers");
    assert_eq!(health["waiting"].as_array().map(Vec::len), Some(PARTITIONS), "it says so: {health}");
    let from = now_us();
    cluster.spawn(b);
    let (soonest, last) = gaps(&mut writer, from);
    eprintln!("{a} and {b} killed at once; {b} started again: acknowledged after {soonest} to {last} ms");
    pause(&mut rng, 0..1500);
    cluster.spawn(a);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    verify(&mut cluster, writer, &BROKERS);
}

/// A stop in order is announced: no group shrinks, and no acknowledgement fails or waits for long. Controllers too.
#[test]
fn nodes_restarted_in_order_one_after_another_keep_all_their_votes() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // its own project's business
    }
    let mut cluster =
        Cluster::start_in("shrink-rolling", Layout { control: Control::Three, ..Layout::default() });
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    let all = cluster.all();
    for id in &all {
        let id = *id;
        let from = now_us();
        cluster.stop(id);
        let stopped = now_us();
        // Longer than a broker that died would be waited for.
        std::thread::sleep(Duration::from_secs(3));
        for other in BROKERS.into_iter().filter(|other| *other != id) {
            let voters = figures(&cluster, other, "kontiki_partition_voters");
            assert_eq!(voters, [3; PARTITIONS], "broker {id} is expected back");
        }
        cluster.spawn(id);
        let (_, last) = gaps(&mut writer, from);
        eprintln!(
            "node {id} stopped in {} ms; every partition went on within {last} ms",
            (stopped - from) / 1000
        );
        cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    }
    let history = verify(&mut cluster, writer, &BROKERS);
    assert!(history.infos.is_empty(), "writes failed: {:?}", history.infos);
    let mut millis: Vec<u64> = history.acks.iter().map(|ack| (ack.acked_us - ack.sent_us) / 1000).collect();
    millis.sort_unstable();
    let at = |share: usize| millis[(millis.len() - 1) * share / 1000];
    let (median, p999, worst) = (at(500), at(999), at(1000));
    eprintln!(
        "{} nodes restarted under load: acknowledged within {median} ms (median), {p999} ms (99.9 %), {worst} ms",
        all.len()
    );
    assert!(worst < GAP_LIMIT.as_millis() as u64, "an acknowledgement took {worst} ms");
}
