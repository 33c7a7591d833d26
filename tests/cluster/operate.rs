//! The operator's walk with `kontiki partition` and `kontiki broker`, under load: a fourth broker is added and gets its share, one is
//! drained and taken back, one is decommissioned and stays out until it is taken back, one is emptied and forgotten. Then the checker,
//! and every replica's files byte for byte.

use super::exclusive;
use super::faults::{PARTITIONS, TOPIC, now_us};
use super::foreign::Writer;
use super::reassign::{check, describe};
use super::system::{CONTROLLER, Cluster, FOURTH, System};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a command printed, and whether it succeeded.
fn kontiki(cluster: &Cluster, args: &str) -> (bool, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(args.split(' ')).args(["--output", "json", "-B", &cluster.bootstrap()]);
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output().expect("the kontiki binary");
    let text = String::from_utf8_lossy(&output.stdout);
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args}: {e}: {text}"));
    let notes = String::from_utf8_lossy(&output.stderr);
    eprintln!(
        "kontiki {args}: {} after {} ms\n{}",
        output.status,
        begun.elapsed().as_millis(),
        notes.trim_end()
    );
    assert_eq!(output.status.success(), body["ok"] == true, "{body}");
    (output.status.success(), body)
}

fn done(cluster: &Cluster, args: &str) -> Vec<Value> {
    let (ok, body) = kontiki(cluster, args);
    assert!(ok, "{args}: {body}");
    body["items"].as_array().expect("items").clone()
}

fn refused(cluster: &Cluster, args: &str, code: &str) {
    let (ok, body) = kontiki(cluster, args);
    assert!(!ok && body["error"]["code"] == code, "{args}: {body}");
}

/// State and replicas of each registered broker.
fn brokers(cluster: &Cluster) -> BTreeMap<i64, (String, i64)> {
    let row = |item: &Value| {
        let (broker, replicas) = (item["broker"].as_i64(), item["replicas"].as_i64());
        (
            broker.expect("a number"),
            (item["state"].as_str().expect("a word").to_owned(), replicas.expect("a number")),
        )
    };
    done(cluster, "broker list").iter().map(row).collect()
}

fn replicas(cluster: &Cluster) -> Vec<Vec<i32>> {
    describe(cluster).into_iter().map(|p| p.replicas).collect()
}

fn await_state(cluster: &Cluster, broker: i64, wanted: Option<&str>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = brokers(cluster);
        if found.get(&broker).map(|known| known.0.as_str()) == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "broker {broker} is to be {wanted:?}: {found:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn brokers_are_added_drained_decommissioned_and_removed_under_load() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // it has other commands
    }
    let mut cluster = Cluster::start("operate");
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS, &[]);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    cluster.add_broker(FOURTH);
    let begun = now_us();
    let before = replicas(&cluster);

    // The new one gets its share, and not more moves than that.
    let planned = done(&cluster, "partition rebalance --dry-run");
    assert!(planned.iter().all(|item| item["state"] == "planned" && item["bytes"].is_u64()), "{planned:?}");
    assert_eq!(replicas(&cluster), before, "a dry run changes nothing");
    let moved = done(&cluster, "partition rebalance");
    assert!(moved.iter().all(|item| item["state"] == "done"), "{moved:?}");
    let after = replicas(&cluster);
    let held: Vec<i64> = brokers(&cluster).into_values().map(|(_, replicas)| replicas).collect();
    assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
    let copies = |(old, new): (&Vec<i32>, &Vec<i32>)| new.iter().filter(|n| !old.contains(n)).count();
    let copied: usize = before.iter().zip(&after).map(copies).sum();
    assert_eq!(copied, PARTITIONS * 3 / 4, "{before:?} {after:?}");
    assert!(done(&cluster, "partition rebalance").is_empty(), "it is level");

    // Drained: leads nothing, whoever leads the controllers; its replicas stay.
    done(&cluster, "broker drain 2 --timeout 60s");
    cluster.kill(CONTROLLER);
    cluster.spawn(CONTROLLER);
    refused(&cluster, "broker remove 2", "POLICY_VIOLATION");
    await_state(&cluster, 2, Some("drained"));
    let now = describe(&cluster);
    assert!(now.iter().all(|p| p.leader != 2), "{now:?}");
    assert_eq!(replicas(&cluster), after);
    done(&cluster, "broker undrain 2");
    await_state(&cluster, 2, Some("up"));

    // An operation is listed as long as it lasts, says what it waits for, and can be taken back.
    done(&cluster, "partition reassign acked -p 0 --replicas 1,2,3 --no-wait");
    done(&cluster, "op wait --timeout 60s");
    assert!(done(&cluster, "op list").is_empty());
    assert_eq!(replicas(&cluster)[0], [1, 2, 3]);
    cluster.kill(FOURTH);
    await_state(&cluster, FOURTH.into(), Some("down"));
    let to_it = format!("partition reassign acked -p 0 --replicas 1,2,{FOURTH} --no-wait");
    done(&cluster, &to_it);
    let all = done(&cluster, "op list");
    let stuck = all.iter().find(|op| op["operation"] == "move:acked").expect("the move");
    let why = format!("waits for broker {FOURTH}, which is down");
    assert!(
        stuck["stuck"] == true && stuck["why"].as_str().is_some_and(|said| said.contains(&why)),
        "{stuck}"
    );
    refused(&cluster, "op wait move:acked --timeout 1s", "STILL_UNDER_WAY");
    done(&cluster, "op cancel move:acked");
    refused(&cluster, "op cancel move:other", "UNKNOWN_OPERATION");
    cluster.spawn(FOURTH);
    cluster.await_answer(FOURTH);
    done(&cluster, "op wait --timeout 60s");
    assert_eq!(replicas(&cluster)[0], [1, 2, 3]);

    // Decommissioned: empty, then unregistered, and out until it is taken back.
    done(&cluster, "broker decommission 3 --timeout 90s");
    assert!(replicas(&cluster).iter().all(|nodes| nodes.len() == 3 && !nodes.contains(&3)));
    refused(&cluster, "broker decommission 1", "INVALID_CONFIG");
    cluster.kill(3);
    cluster.spawn(3);
    std::thread::sleep(Duration::from_secs(3));
    await_state(&cluster, 3, Some("decommissioned"));
    done(&cluster, "broker decommission 3 --timeout 10s");
    refused(&cluster, "broker remove 3", "BROKER_ID_NOT_REGISTERED");
    done(&cluster, "broker undrain 3");
    await_state(&cluster, 3, Some("up"));

    // Emptied by hand, dead, forgotten, and welcome again.
    done(&cluster, &format!("partition move --from {FOURTH} --to 3 --timeout 90s"));
    refused(&cluster, &format!("broker remove {FOURTH}"), "POLICY_VIOLATION");
    cluster.kill(FOURTH);
    await_state(&cluster, FOURTH.into(), Some("down"));
    done(&cluster, &format!("broker remove {FOURTH}"));
    await_state(&cluster, FOURTH.into(), None);
    cluster.spawn(FOURTH);
    await_state(&cluster, FOURTH.into(), Some("up"));

    let ended = now_us();
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    assert!(writer.next_ack(Duration::from_secs(20), |ack| ack.sent_us > ended).is_some(), "it goes on");
    let places = replicas(&cluster);
    check(&mut cluster, writer, &places, (begun, ended));
}
