//! Three combined nodes, real processes: any one dies, then a second, and the last one goes on if it is the heir of the controllers' pair
//! (safety.md F1). If it is the other one, nothing goes on, it says whom it waits for, and the heir's return heals it.

use super::faults::{PARTITIONS, TOPIC, now_us, pause, verify};
use super::foreign::{Client, Writer, read_all};
use super::shrink::{await_voters, gaps_within};
use super::system::{BROKERS, Cluster, Control, Layout, System};
use super::{exclusive, rounds, seeded};
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// `controller.quorum.heir.timeout.ms` here; its default is longer.
const HEIR_MS: &str = "4000";
/// Silence of the other one, an election that comes to nothing, the dead found dead, a generation for each partition.
const ALONE: Duration = Duration::from_secs(25);

fn combined(name: &str) -> Cluster {
    let environment = vec![("KONTIKI_KAFKA_CONTROLLER_QUORUM_HEIR_TIMEOUT_MS", HEIR_MS)];
    Cluster::start_in(name, Layout { control: Control::Combined, environment, ..Layout::default() })
}

fn writer(cluster: &Cluster) -> Writer {
    // With 2 the last one would only be read.
    let config = &["min.insync.replicas=1"];
    Writer::start_as(
        cluster,
        Client { name: TOPIC, topic: TOPIC, partitions: PARTITIONS, config, ..Client::default() },
    )
}

/// What `kontiki cluster health` says, asking these nodes too.
pub fn health(cluster: &Cluster, ask: &[u32]) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(["cluster", "health", "--output", "json", "-B", &cluster.bootstrap()]);
    for id in ask {
        command.args(["--admin", &cluster.admin_address(*id).to_string()]);
    }
    let output = command.output().expect("kontiki cluster health");
    let all: Value = serde_json::from_slice(&output.stdout).ok()?;
    all["items"].get(0).cloned()
}

/// Waits until it says that so many controllers vote, that this is settled, and all of them are heard; who is the heir of two.
pub fn await_controllers(cluster: &Cluster, ask: &[u32], voters: usize) -> Option<u32> {
    let start = Instant::now();
    loop {
        let health = health(cluster, ask).unwrap_or_default();
        let reasons = health["reasons"].to_string();
        let known = health["controllers"].as_array().map_or(0, Vec::len);
        // Before the last step of the change is committed nobody is named as heir.
        let is_settled = !reasons.contains("silent") && !reasons.contains("being changed");
        if known == voters && is_settled {
            return health["heir"].as_u64().map(|id| id as u32);
        }
        assert!(start.elapsed() < Duration::from_secs(40), "not {voters} controllers: {health}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One of three dies, and the others go on as a pair: its heir, the other one.
fn pair(cluster: &mut Cluster, writer: &mut Writer, first: u32) -> (u32, u32) {
    let left: Vec<u32> = BROKERS.into_iter().filter(|id| *id != first).collect();
    let from = now_us();
    cluster.kill(first);
    let heir = await_controllers(cluster, &left, 2).expect("two voters name an heir");
    let reasons = health(cluster, &left).map(|health| health["reasons"].to_string()).unwrap_or_default();
    assert!(reasons.contains(&format!("1 controller without a vote: {first}")), "{reasons}");
    left.iter().for_each(|id| {
        await_voters(cluster, *id, 2);
    });
    let (_, last) = gaps_within(writer, from, ALONE);
    let other = *left.iter().find(|id| **id != heir).expect("two are left");
    eprintln!("{first} killed: acknowledged again after {last} ms; {heir} is the heir, {other} is not");
    (heir, other)
}

#[test]
fn two_of_three_combined_nodes_die_one_after_another_and_the_heir_goes_on() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // two of three of its controllers are its majority
    }
    let (seed, mut rng) = seeded();
    eprintln!(
        "seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster two_of_three_combined"
    );
    for round in 0..rounds(2) {
        let mut cluster = combined(&format!("heir-{round}"));
        let mut writer = writer(&cluster);
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        pause(&mut rng, 200..1500);
        let first = *BROKERS.choose(&mut rng).expect("three");
        let (heir, other) = pair(&mut cluster, &mut writer, first);
        pause(&mut rng, 0..1500);

        let from = now_us();
        cluster.kill(other);
        let (soonest, last) = gaps_within(&mut writer, from, ALONE);
        eprintln!("round {round}: {other} killed: {heir} alone acknowledges after {soonest} to {last} ms");
        await_voters(&cluster, heir, 1);
        assert_eq!(await_controllers(&cluster, &[heir], 1), None);
        let alone = cluster.health(heir).expect("it answers");
        assert_eq!(alone["controllers"]["voters"], json!([heir]), "{alone}");
        assert_eq!(alone["controllers"]["generation"], json!(1), "{alone}");
        let (records, _) = read_all(&cluster, TOPIC, PARTITIONS);
        assert!(!records.is_empty(), "a consumer reads from the last one");

        // Back in either order.
        let back = if round % 2 == 0 { [other, first] } else { [first, other] };
        let from = now_us();
        cluster.spawn(back[0]);
        pause(&mut rng, 0..3000);
        cluster.spawn(back[1]);
        cluster.await_in_sync(TOPIC, Duration::from_secs(60));
        await_controllers(&cluster, &BROKERS, 3);
        eprintln!(
            "round {round}: {back:?} started again: all as before after {} ms",
            (now_us() - from) / 1000
        );
        for id in BROKERS {
            await_voters(&cluster, id, 3);
        }
        verify(&mut cluster, writer, &BROKERS);
    }
}

#[test]
fn two_of_three_combined_nodes_die_the_heir_last_nothing_goes_on_before_it_is_back() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // two of three of its controllers are its majority
    }
    let (seed, mut rng) = seeded();
    eprintln!("seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster the_heir_last");
    let mut cluster = combined("heir-last");
    let mut writer = writer(&cluster);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    let first = *BROKERS.choose(&mut rng).expect("three");
    let (heir, other) = pair(&mut cluster, &mut writer, first);
    pause(&mut rng, 0..1500);
    cluster.kill(heir);
    let from = now_us(); // what was sent in between may well be acknowledged
    let silent = writer.next_ack(Duration::from_secs(12), |ack| ack.sent_us > from);
    assert_eq!(silent, None, "the other one of a pair never goes on alone");
    let waits = cluster.health(other).expect("it answers");
    assert_eq!(waits["controllers"]["waits_for_heir"], json!(heir), "{waits}");
    let said = health(&cluster, &[other]).map(|health| health["reasons"].to_string()).unwrap_or_default();
    assert!(said.contains(&format!("wait for node {heir}, the heir")), "{said}");
    let from = now_us();
    cluster.spawn(heir);
    let (_, last) = gaps_within(&mut writer, from, ALONE);
    eprintln!("{heir}, the heir, started again: acknowledged after {last} ms");
    cluster.spawn(first);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    await_controllers(&cluster, &BROKERS, 3);
    verify(&mut cluster, writer, &BROKERS);
}
