//! Kafka's own tools move partitions onto a fourth broker while a stock client writes: started, cancelled, started again, the newcomer
//! and the controller killed in the middle, and a broker that is to give a replica up while that is done. Then the checker, and every replica's files byte for byte: what moved is whole where it
//! went and gone where it was, what did not move was left alone.

use super::exclusive;
use super::faults::{PARTITIONS, TOPIC, now_us};
use super::foreign::{Writer, kafka_tool, read_all};
use super::history::{self, History};
use super::kafka::Partition;
use super::replica::{self, Replica};
use super::system::{BROKERS, CONTROLLER, Cluster, FOURTH, Layout, System};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
/// Partitions that move; the others stay as they are.
const MOVING: usize = 3;
/// Slow enough that a move takes longer than what is done to it meanwhile.
const SLOW: &str = "60000";
const FAST: &str = "100000000";

/// What any broker says of the topic's partitions.
pub(super) fn describe(cluster: &Cluster) -> Vec<Partition> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match cluster.partitions(TOPIC, &BROKERS) {
            Some(partitions) if partitions.iter().all(|p| p.leader > 0) => return partitions,
            other => assert!(Instant::now() < deadline, "the topic is not led: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes the plan that Kafka's tool takes.
fn write_plan(cluster: &Cluster, targets: &[Vec<i32>]) -> String {
    let rows = targets.iter().enumerate().map(|(partition, replicas)| {
        serde_json::json!({"topic": TOPIC, "partition": partition, "replicas": replicas})
    });
    let plan = serde_json::json!({"version": 1, "partitions": rows.collect::<Vec<_>>()});
    let path = cluster.dir().join("plan.json");
    fs::write(&path, plan.to_string()).expect("a file in our own directory");
    path.to_str().expect("a path of ours").to_owned()
}

/// The tool's word on the plan, once it satisfies `wanted`.
/// The throttles stay: each broker is told of its own by itself, and one of them is away.
fn await_verify(cluster: &Cluster, plan: &str, wanted: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let said = kafka_tool(
            cluster,
            REASSIGN,
            &["--reassignment-json-file", plan, "--verify", "--preserve-throttles"],
        );
        if wanted(&said) {
            return said;
        }
        assert!(Instant::now() < deadline, "not done within 90 s:\n{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn await_list(cluster: &Cluster, wanted: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let said = kafka_tool(cluster, REASSIGN, &["--list"]);
        if wanted(&said) {
            return said;
        }
        assert!(Instant::now() < deadline, "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn kafkas_tools_move_partitions_onto_a_fourth_broker_under_load() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // its own project's business
    }
    let mut cluster = Cluster::start("reassign");
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    let said = kafka_tool(&cluster, ELECT, &["--election-type", "preferred", "--all-topic-partitions"]);
    assert!(!said.contains("Error"), "{said}");
    let before = describe(&cluster);
    assert!(before.iter().all(|p| p.leader == p.replicas[0]), "preferred leaders were elected: {before:?}");
    cluster.add_broker(FOURTH);
    // Enough that bringing it up at the slow rate takes a while.
    std::thread::sleep(Duration::from_secs(4));

    // The leader of the first partition moves, of the second the second replica, of the third the last.
    let targets: Vec<Vec<i32>> = (0..MOVING)
        .map(|at| {
            let mut target = before[at].replicas.clone();
            target[at] = FOURTH as i32;
            target
        })
        .collect();
    let plan = write_plan(&cluster, &targets);
    let execute = ["--reassignment-json-file", &plan, "--execute", "--throttle", SLOW];
    let said = kafka_tool(&cluster, REASSIGN, &execute);
    assert!(said.contains("Successfully started partition reassignments"), "{said}");
    let listed = await_list(&cluster, |said| said.matches("adding: 5").count() == MOVING);
    eprintln!("under way:\n{listed}");
    let said = kafka_tool(&cluster, REASSIGN, &["--reassignment-json-file", &plan, "--cancel"]);
    assert!(said.contains("Successfully cancelled"), "{said}");
    await_list(&cluster, |said| said.contains("No partition reassignments found"));
    let back = describe(&cluster);
    assert!(back.iter().zip(&before).all(|(a, b)| a.replicas == b.replicas), "as before: {back:?}");

    let begun = now_us();
    let said = kafka_tool(&cluster, REASSIGN, &execute);
    assert!(said.contains("Successfully started partition reassignments"), "{said}");
    await_list(&cluster, |said| said.matches("adding: 5").count() == MOVING);
    cluster.kill(FOURTH);
    std::thread::sleep(Duration::from_secs(2));
    cluster.kill(CONTROLLER);
    cluster.spawn(FOURTH);
    cluster.spawn(CONTROLLER);
    cluster.await_answer(FOURTH);
    await_list(&cluster, |said| said.matches("adding: 5").count() == MOVING);
    // The leader of the first partition, which is to have no replica of it, is away when that is written down.
    let giver = before[0].replicas[0] as u32;
    cluster.kill(giver);
    for broker in BROKERS.into_iter().filter(|broker| *broker != giver) {
        let (id, rate) = (broker.to_string(), format!("leader.replication.throttled.rate={FAST}"));
        let of = ["--alter", "--entity-type", "brokers", "--entity-name", &id, "--add-config", &rate];
        kafka_tool(&cluster, CONFIGS, &of);
    }
    let first = format!("Reassignment of partition {TOPIC}-0 is completed");
    await_verify(&cluster, &plan, |said| said.contains(&first));
    cluster.spawn(giver);
    cluster.await_answer(giver);
    let all = |said: &str| said.matches("is completed").count() == MOVING && !said.contains("in progress");
    await_verify(&cluster, &plan, all);
    let said = kafka_tool(&cluster, REASSIGN, &["--reassignment-json-file", &plan, "--verify"]);
    assert!(said.contains("Clearing topic-level throttles"), "{said}");
    eprintln!("done:\n{said}");
    let ended = now_us();
    eprintln!(
        "moved in {} ms, the newcomer, the controller and a giver killed meanwhile",
        (ended - begun) / 1000
    );

    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    kafka_tool(&cluster, ELECT, &["--election-type", "preferred", "--all-topic-partitions"]);
    let after = describe(&cluster);
    let places: Vec<Vec<i32>> = after.iter().map(|p| p.replicas.clone()).collect();
    for (at, now) in after.iter().enumerate() {
        if at < MOVING {
            assert_eq!(now.replicas, targets[at]);
            assert_eq!(now.leader, targets[at][0], "the preferred leader: {now:?}");
        } else {
            assert_eq!(now.replicas, before[at].replicas);
            let was = (before[at].leader, before[at].epoch);
            assert!((now.leader, now.epoch) == was || was.0 == giver as i32, "left alone: {now:?}");
        }
    }
    assert!(writer.next_ack(Duration::from_secs(20), |ack| ack.sent_us > ended).is_some(), "it goes on");
    check(&mut cluster, writer, &places, (begun, ended));
}

/// Nobody asks for it: after `replace.grace.ms` the replicas of the dead broker are made anew on the fourth, whoever leads the
/// controllers, and it gives up what it held when it comes back.
#[test]
fn broker_that_stays_dead_is_replaced_and_comes_back_to_nothing() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // it does no such thing
    }
    // The copies take long enough for the controllers to change meanwhile.
    let environment = vec![
        ("KONTIKI_KAFKA_REPLACE_GRACE_MS", "3000"),
        ("KONTIKI_KAFKA_LEADER_REPLICATION_THROTTLED_RATE", "1000000"),
    ];
    let mut cluster = Cluster::start_in("replace", Layout { environment, ..Layout::default() });
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    cluster.add_broker(FOURTH);
    let dead = cluster.leader(TOPIC, 0);
    let begun = now_us();
    cluster.kill(dead);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !describe(&cluster).iter().any(|p| p.replicas.contains(&(FOURTH as i32))) {
        assert!(Instant::now() < deadline, "nothing moves");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.kill(CONTROLLER);
    std::thread::sleep(Duration::from_secs(1));
    cluster.spawn(CONTROLLER);
    let is_whole = |p: &Partition| !p.replicas.contains(&(dead as i32)) && p.in_sync.len() == 3;
    let mut after = describe(&cluster);
    while !after.iter().all(is_whole) {
        assert!(Instant::now() < deadline, "not replaced within 60 s: {after:?}");
        std::thread::sleep(Duration::from_millis(100));
        after = describe(&cluster);
    }
    let ended = now_us();
    eprintln!("{dead} killed; every partition has three replicas again after {} ms", (ended - begun) / 1000);
    cluster.spawn(dead);
    cluster.await_answer(dead);
    assert!(writer.next_ack(Duration::from_secs(20), |ack| ack.sent_us > ended).is_some(), "it goes on");
    let places: Vec<Vec<i32>> = after.into_iter().map(|p| p.replicas).collect();
    check(&mut cluster, writer, &places, (begun, ended));
}

/// Waits until every broker has the replicas that it is to have, and no others.
fn await_replicas(cluster: &Cluster, places: &[Vec<i32>]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    for id in BROKERS.into_iter().chain([FOURTH]) {
        let wanted = places.iter().filter(|nodes| nodes.contains(&(id as i32))).count();
        loop {
            let text = cluster.http(id, "/metrics").unwrap_or_default();
            let prefix = format!("kontiki_partition_size_bytes{{topic=\"{TOPIC}\",");
            let found = text.lines().filter(|line| line.starts_with(&prefix)).count();
            if found == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "broker {id} has {found} replicas, not {wanted}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Holds what the writer was promised against what consumers see and what each replica's files hold.
pub(super) fn check(cluster: &mut Cluster, writer: Writer, places: &[Vec<i32>], window: (u64, u64)) {
    await_replicas(cluster, places);
    let run = writer.run.clone();
    let history = writer.finish();
    let (records, _) = read_all(cluster, TOPIC, PARTITIONS);
    let wrong = history::check(&[(&run, &history)], &[], &records);
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
    let (moved, stayed) =
        (slowest(&history, window, 0..MOVING), slowest(&history, window, MOVING..PARTITIONS));
    eprintln!("slowest acknowledgement meanwhile: {moved} ms where it moved, {stayed} ms elsewhere");

    let nodes: Vec<u32> = BROKERS.into_iter().chain([FOURTH]).collect();
    nodes.iter().chain([&CONTROLLER]).for_each(|id| cluster.stop(*id));
    let dumps: BTreeMap<i32, Replica> = nodes
        .iter()
        .map(|id| {
            let dump = replica::dump(env!("CARGO_BIN_EXE_kontiki"), &cluster.data_dir(*id));
            (*id as i32, dump.unwrap_or_else(|e| panic!("{e}")))
        })
        .collect();
    let mut found: BTreeMap<i32, Vec<(String, Replica)>> = BTreeMap::new();
    for (node, dump) in &dumps {
        let groups: BTreeSet<u64> = dump.keys().map(|(group, _)| *group).collect();
        for group in groups {
            let own: Replica =
                dump.range((group, i64::MIN)..=(group, i64::MAX)).map(|(k, v)| (*k, v.clone())).collect();
            let held = replica::records(&run, &own).unwrap_or_else(|e| panic!("node {node}: {e}"));
            let Some(partition) = held.first().map(|record| record.partition) else { continue };
            assert!(
                places[partition as usize].contains(node),
                "node {node} still holds partition {partition}"
            );
            let acks: Vec<_> =
                history.acks.iter().filter(|ack| ack.partition == partition).cloned().collect();
            let lost = replica::missing(&run, &acks, &held);
            assert!(lost.is_empty(), "node {node} lacks {} acknowledged records:\n{}", lost.len(), lost[0]);
            found.entry(partition).or_default().push((format!("node {node}"), own));
        }
    }
    for (partition, nodes) in places.iter().enumerate() {
        let replicas = &found[&(partition as i32)];
        assert_eq!(replicas.len(), nodes.len(), "partition {partition} is on all of {nodes:?}");
        let covers = replica::ends(&run, &replicas[0].1).expect("decoded before");
        let wrong = replica::compare(replicas, &covers);
        assert!(wrong.is_empty(), "partition {partition}:\n{}", wrong.join("\n"));
    }
    eprintln!(
        "{} acknowledged; {PARTITIONS} partitions equal on their {} replicas",
        history.acks.len(),
        places[0].len()
    );
}

/// Milliseconds that the slowest record of these partitions took among those sent in the window.
fn slowest(history: &History, (from, to): (u64, u64), partitions: std::ops::Range<usize>) -> u64 {
    let sent = history
        .acks
        .iter()
        .filter(|ack| (from..to).contains(&ack.sent_us) && partitions.contains(&(ack.partition as usize)));
    sent.map(|ack| (ack.acked_us - ack.sent_us) / 1000).max().unwrap_or(0)
}
