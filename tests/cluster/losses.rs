//! Controllers that lost their majority for good, and what is left proves nothing: `kontiki controller recover --accept-loss` with real
//! processes. Brokers whose directories are given keep all they ever acted on; partitions with a majority go on by themselves, others by
//! their operator's word alone; a disk that was given up is turned away. Not here: what is proven (`controllers`), power cuts
//! (`broker::offline::accepting_tests`), the rules (`raftlog::offline::loss`, `ctl::offline`).

use super::controllers::{audit, consume, create, item, produce, recover, refusal, wipe};
use super::exclusive;
use super::heir::await_controllers;
use super::recover as partitions;
use super::system::{BROKERS, CONTROLLERS, Cluster, Control, Layout, System};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

const TOPIC: &str = "orders";

/// Waits until a node says this of itself.
fn await_health(cluster: &Cluster, node: u32, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let health = cluster.health(node).unwrap_or_default();
        if is_so(&health) {
            return health;
        }
        assert!(start.elapsed() < Duration::from_secs(40), "node {node}: not {what}: {health}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Shows what would be done, and does it.
fn accept(cluster: &Cluster, given: &[u32], gone: &[u32]) -> (Value, Value) {
    let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
    let mut args = vec!["--accept-loss"];
    gone.iter().for_each(|node| args.extend(["--gone", node]));
    let report = item(&recover(cluster, given, &args));
    let plan = report["accepted"]["plan"].as_str().expect("a number").to_owned();
    args.extend(["--execute", "--reason", "burnt", "--plan"]);
    let with = |plan: &str| recover(cluster, given, &[&args[..], &[plan]].concat());
    assert_eq!(refusal(&with("1")), "PLAN_DRIFTED");
    let done = item(&with(&plan));
    assert_eq!(done["changed"], true, "{done}");
    let again = item(&with(&plan));
    assert_eq!((&again["changed"], &again["survivor"]), (&json!(false), &done["survivor"]), "{again}");
    (report, done)
}

#[test]
fn last_disk_of_three_combined_nodes_goes_on_and_its_partitions_as_their_operator_says() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // it has its own ways
    }
    let layout = Layout { control: Control::Combined, ..Layout::default() };
    let mut cluster = Cluster::start_in("losses-combined", layout);
    await_controllers(&cluster, &BROKERS, 3);
    create(&cluster, TOPIC);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    produce(&cluster, TOPIC, "before");
    let [first, second, third] = BROKERS;
    BROKERS.into_iter().for_each(|node| cluster.kill(node));
    let old = cluster.dir().join("old-disk");
    fs::rename(cluster.data_dir(second), &old).expect("a disk that is thought to be gone");
    wipe(&cluster, third);

    assert_eq!(item(&recover(&cluster, &[first], &[]))["verdict"], "open");
    assert_eq!(refusal(&recover(&cluster, &[first], &["--accept-loss"])), "LOSS_NOT_ACCEPTED");
    let (report, done) = accept(&cluster, &[first], &[second, third]);
    let risks = report["accepted"]["at_risk"].as_array().expect("a list");
    assert!(risks.len() == 2 && risks.iter().all(|risk| risk["replicas"] == 3), "{report}");
    assert!(done["generation"].as_u64() >= Some(1_000), "{done}");
    cluster.spawn(first);
    await_health(&cluster, first, "waiting for an operator", |h| {
        h["unconfirmed"] == 2 && h["waiting"].as_array().is_some_and(|all| all.len() == 2)
    });
    let plan = partitions::items(&partitions::kontiki(&cluster, first, &["recover", TOPIC, "--dry-run"]));
    let number = plan[&0]["plan_number"].as_str().expect("a number").to_owned();
    partitions::items(&partitions::kontiki(&cluster, first, &["recover", TOPIC, "--plan", &number]));
    await_health(&cluster, first, "confirmed", |h| h["unconfirmed"] == 0);
    produce(&cluster, TOPIC, "alone");

    // The disk that was thought to be gone is found after all.
    fs::rename(&old, cluster.data_dir(second)).expect("its place");
    cluster.spawn(second);
    let refused = await_health(&cluster, second, "turned away", |h| {
        h["reasons"].to_string().contains("given up when the controllers were recovered")
    });
    assert_eq!(refused["registered"], false, "{refused}");
    cluster.kill(second);
    wipe(&cluster, second);
    [second, third].into_iter().for_each(|node| cluster.spawn(node));
    await_controllers(&cluster, &BROKERS, 3);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    produce(&cluster, TOPIC, "whole");
    assert_eq!(consume(&cluster, TOPIC), ["alone", "before", "whole"]);
    let known = audit(&cluster);
    let lost = known[0]["lost"].as_array().expect("disks").iter().map(|disk| &disk["node"]);
    assert_eq!(lost.collect::<Vec<_>>(), [&json!(second), &json!(third)], "{known:?}");
    cluster.assert_running();
}

#[test]
fn what_only_brokers_know_of_their_controllers_is_kept_and_partitions_go_on_by_themselves() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // it has its own ways
    }
    let mut cluster =
        Cluster::start_in("losses-apart", Layout { control: Control::Three, ..Layout::default() });
    await_controllers(&cluster, &CONTROLLERS, 3);
    create(&cluster, TOPIC);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    produce(&cluster, TOPIC, "before");
    // One controller is away while the others decide; then their disks are gone, and its own is left.
    let [first, second, third] = CONTROLLERS;
    cluster.kill(first);
    create(&cluster, "later");
    cluster.await_in_sync("later", Duration::from_secs(60));
    produce(&cluster, "later", "between");
    for node in [second, third].into_iter().chain(BROKERS) {
        cluster.kill(node);
    }
    [second, third].into_iter().for_each(|node| wipe(&cluster, node));

    let all: Vec<u32> = std::iter::once(first).chain(BROKERS).collect();
    let gone = [second.to_string(), third.to_string()];
    let args = ["--accept-loss", "--gone", &gone[0], "--gone", &gone[1]];
    assert_eq!(refusal(&recover(&cluster, &[first], &args)), "LOSS_NOT_ACCEPTED", "brokers are not named");
    let (report, done) = accept(&cluster, &all, &[second, third]);
    let accepted = &report["accepted"];
    assert!(accepted["takes_from"].is_u64() && accepted["at_risk"] == json!([]), "{report}");
    assert_eq!((&done["survivor"], accepted["partitions"].as_u64()), (&json!(first), Some(4)), "{report}");
    all.iter().for_each(|node| cluster.spawn(*node));
    await_health(&cluster, first, "confirmed", |h| h["unconfirmed"] == 0 && h["registered"].is_boolean());
    produce(&cluster, TOPIC, "after");
    produce(&cluster, "later", "after");
    assert_eq!(consume(&cluster, TOPIC), ["after", "before"]);
    assert_eq!(
        consume(&cluster, "later"),
        ["after", "between"],
        "a topic that no controller at hand knew of"
    );
    [second, third].into_iter().for_each(|node| cluster.spawn(node));
    await_controllers(&cluster, &CONTROLLERS, 3);
    create(&cluster, "last");
    cluster.assert_running();
}
