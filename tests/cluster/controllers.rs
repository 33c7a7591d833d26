//! Three separate controllers, real processes, lose their majority for good: `kontiki controller recover` says what the disks that are left
//! prove, carries out exactly what is proven, and the group grows back, twice in a row. Partitions serve all the while. Not here: what
//! the copies prove (`raftlog::offline`), controllers that go on by themselves (`heir`).

use super::exclusive;
use super::heir::await_controllers;
use super::system::{BROKERS, CONTROLLERS, Cluster, Control, Layout, System};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TOPIC: &str = "orders";

pub fn kontiki(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(args).args(["-B", &cluster.bootstrap()]).stdin(Stdio::null());
    command
}

/// One record, acknowledged.
pub fn produce(cluster: &Cluster, topic: &str, value: &str) {
    let mut command = kontiki(cluster, &["produce", topic]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kontiki produce");
    child.stdin.take().expect("a pipe").write_all(format!("{value}\n").as_bytes()).expect("a reader");
    let output = child.wait_with_output().expect("our own child");
    assert!(output.status.success(), "{value}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn consume(cluster: &Cluster, topic: &str) -> Vec<String> {
    let output =
        kontiki(cluster, &["consume", topic, "-o", "start", "-e"]).output().expect("kontiki consume");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("a record");
        record["value"].as_str().expect("text").to_owned()
    };
    let mut values: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(value).collect();
    values.sort_unstable();
    values
}

/// Creates a topic, as soon as the controllers take it: within a minute.
pub fn create(cluster: &Cluster, topic: &str) {
    let start = Instant::now();
    loop {
        let output =
            kontiki(cluster, &["topic", "create", topic, "-p", "2", "-r", "3", "--if-not-exists"]).output();
        let output = output.expect("kontiki topic create");
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(start.elapsed() < Duration::from_secs(60), "{topic} is not created: {said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `kontiki controller recover` over these nodes' directories.
pub fn recover(cluster: &Cluster, nodes: &[u32], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(["controller", "recover", "--output", "json"]);
    for (at, node) in nodes.iter().enumerate() {
        command.arg(if at == 0 { "--data-dir" } else { "--with" }).arg(cluster.data_dir(*node));
    }
    command.args(args).stdin(Stdio::null()).output().expect("kontiki controller recover")
}

pub fn item(output: &Output) -> Value {
    let body: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{body} {}", String::from_utf8_lossy(&output.stderr));
    body["items"][0].clone()
}

pub fn refusal(output: &Output) -> String {
    let body: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(!output.status.success(), "it must be refused: {body}");
    body["error"]["code"].as_str().expect("a code").to_owned()
}

pub fn wipe(cluster: &Cluster, node: u32) {
    fs::remove_dir_all(cluster.data_dir(node)).expect("the disk of a node that is gone");
}

/// Every recovery that the metadata knows of.
pub fn audit(cluster: &Cluster) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(["controller", "recoveries", "--output", "json"]);
    command.args(["--admin", &cluster.admin_address(BROKERS[0]).to_string()]);
    let body: Value = serde_json::from_slice(&command.output().expect("it runs").stdout).expect("JSON");
    body["items"].as_array().expect("items").clone()
}

/// Waits until two vote, and whoever is asked knows the heir too: who votes is the leader's word, the heir may be another node's.
fn heir_of(cluster: &Cluster, ask: &[u32]) -> u32 {
    let start = Instant::now();
    loop {
        if let Some(heir) = await_controllers(cluster, ask, 2) {
            return heir;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "two voters name an heir");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn controllers_that_lost_their_majority_for_good_are_recovered_twice_and_grow_back() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // it has its own ways
    }
    let mut cluster =
        Cluster::start_in("controllers", Layout { control: Control::Three, ..Layout::default() });
    await_controllers(&cluster, &CONTROLLERS, 3);
    create(&cluster, TOPIC);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    produce(&cluster, TOPIC, "before");

    // Two machines burn down; the disk of one is saved.
    let [first, second, third] = CONTROLLERS;
    assert_eq!(refusal(&recover(&cluster, &CONTROLLERS, &[])), "DIRECTORY", "they run");
    cluster.kill(second);
    cluster.kill(third);
    produce(&cluster, TOPIC, "without controllers");
    cluster.kill(first);
    let alone = item(&recover(&cluster, &[first], &[]));
    assert_eq!((&alone["verdict"], &alone["plan"]), (&json!("open"), &Value::Null), "{alone}");
    let refused = recover(&cluster, &[first], &["--execute", "--plan", "1", "--heir-gone"]);
    assert_eq!(refusal(&refused), "NOT_PROVEN");
    let both = item(&recover(&cluster, &[first, second], &[]));
    assert_eq!((&both["verdict"], &both["missing"]), (&json!("empty"), &json!([third])), "{both}");
    let plan = both["plan"].as_str().expect("a number").to_owned();
    let wrong = recover(&cluster, &[first, second], &["--execute", "--plan", "1"]);
    assert_eq!(refusal(&wrong), "PLAN_DRIFTED");
    let approve = ["--execute", "--plan", plan.as_str(), "--reason", "two machines burnt down"];
    let done = item(&recover(&cluster, &[first, second], &approve));
    assert_eq!((&done["changed"], &done["generation"]), (&json!(true), &json!(1)), "{done}");
    let again = item(&recover(&cluster, &[first, second], &approve));
    assert_eq!((&again["changed"], &again["survivor"]), (&json!(false), &done["survivor"]), "{again}");

    // It goes on, alone; what was ended follows with its old disk, the third with an empty one.
    let survivor = done["survivor"].as_u64().expect("a node") as u32;
    let other = if survivor == first { second } else { first };
    cluster.spawn(survivor);
    create(&cluster, "later");
    produce(&cluster, TOPIC, "after");
    produce(&cluster, "later", "after");
    cluster.spawn(other);
    wipe(&cluster, third);
    cluster.spawn(third);
    await_controllers(&cluster, &CONTROLLERS, 3);
    assert_eq!(consume(&cluster, TOPIC), ["after", "before", "without controllers"]);
    let known = audit(&cluster);
    assert_eq!((known.len(), &known[0]["reason"]), (1, &json!("two machines burnt down")), "{known:?}");

    // And once more: one dies, of the other two the heir, with its disk.
    cluster.kill(third);
    let left = [first, second];
    let heir = heir_of(&cluster, &left);
    let other = if heir == first { second } else { first };
    cluster.kill(heir);
    cluster.stop(other);
    wipe(&cluster, heir);
    wipe(&cluster, third);
    let report = item(&recover(&cluster, &[other], &[]));
    assert_eq!(
        (&report["verdict"], &report["heirs_missing"]),
        (&json!("unless_heir"), &json!([heir])),
        "{report}"
    );
    let plan = report["plan"].as_str().expect("a number").to_owned();
    let without = recover(&cluster, &[other], &["--execute", "--plan", &plan]);
    assert_eq!(refusal(&without), "NOT_PROVEN", "nobody gave his word");
    let done = item(&recover(&cluster, &[other], &["--execute", "--plan", &plan, "--heir-gone"]));
    assert!(done["generation"].as_u64() > Some(2), "not the number that the heir would give: {done}");
    cluster.spawn(other);
    create(&cluster, "last");
    cluster.spawn(heir);
    cluster.spawn(third);
    await_controllers(&cluster, &CONTROLLERS, 3);
    produce(&cluster, "last", "after");
    assert_eq!(consume(&cluster, "last"), ["after"]);
    assert_eq!(consume(&cluster, "later"), ["after"]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    let known = audit(&cluster);
    assert_eq!((known.len(), &known[1]["heirs_gone"]), (2, &json!([heir])), "{known:?}");
    cluster.assert_running();
}

/// Waits until all of the topic's partitions have so many voters, as this broker knows.
fn await_voters(cluster: &Cluster, id: u32, voters: &str) {
    let start = Instant::now();
    let prefix = format!("kontiki_partition_voters{{topic=\"{TOPIC}\",");
    loop {
        let text = cluster.http(id, "/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(&prefix));
        let known: Vec<&str> = lines.filter_map(|line| Some(line.rsplit_once(' ')?.1)).collect();
        if known.len() == 2 && known.iter().all(|known| *known == voters) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "broker {id}: voters {known:?}, not {voters}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn last_of_three_combined_nodes_that_is_no_heir_goes_on_by_its_operators_word() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // it has its own ways
    }
    let layout = Layout { control: Control::Combined, ..Layout::default() };
    let mut cluster = Cluster::start_in("controllers-combined", layout);
    await_controllers(&cluster, &BROKERS, 3);
    create(&cluster, TOPIC);
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    produce(&cluster, TOPIC, "three");
    let [first, second, third] = BROKERS;
    cluster.kill(third);
    let heir = heir_of(&cluster, &[first, second]);
    let last = if heir == first { second } else { first };
    await_voters(&cluster, last, "2");
    produce(&cluster, TOPIC, "two");
    cluster.kill(heir);
    cluster.kill(last);
    wipe(&cluster, heir);
    wipe(&cluster, third);

    // The last node's disk holds controllers and partitions alike.
    let report = item(&recover(&cluster, &[last], &[]));
    assert_eq!(
        (&report["verdict"], &report["heirs_missing"]),
        (&json!("unless_heir"), &json!([heir])),
        "{report}"
    );
    let plan = report["plan"].as_str().expect("a number").to_owned();
    let done = item(&recover(&cluster, &[last], &["--execute", "--plan", &plan, "--heir-gone"]));
    assert_eq!(done["survivor"], json!(last), "{done}");
    cluster.spawn(last);
    await_voters(&cluster, last, "1");
    produce(&cluster, TOPIC, "one");
    assert_eq!(consume(&cluster, TOPIC), ["one", "three", "two"], "nothing acknowledged is lost");

    cluster.spawn(heir);
    cluster.spawn(third);
    await_controllers(&cluster, &BROKERS, 3);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    produce(&cluster, TOPIC, "whole");
    assert_eq!(consume(&cluster, TOPIC), ["one", "three", "two", "whole"]);
    let known = audit(&cluster);
    assert_eq!((known.len(), &known[0]["heirs_gone"]), (1, &json!([heir])), "{known:?}");
    cluster.assert_running();
}
