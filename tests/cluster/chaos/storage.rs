//! Disks that fail: power cuts, full disks, failing and slow fsync, flipped bits.
//! Each test is one cluster; the seeded mixture of all faults is in `mixed`.

use super::inject::Tampering;
use super::stage::{CONVERGE, NODES, RESUME, Stage, TOPIC};
use super::world::{apart, attempt, must};
use crate::faults::now_us;
use crate::system::BROKERS;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// What a node says of itself: the status code and the body of `/health`.
fn health(stage: &Stage, node: u32) -> (u16, Value) {
    let limit = Duration::from_secs(5);
    let mut stream =
        TcpStream::connect_timeout(&stage.cluster.admin_address(node), limit).expect("the node lives");
    stream.set_read_timeout(Some(limit)).expect("a time limit");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, serde_json::from_str(body).expect("JSON"))
}

/// One machine, then all of them at the same moment: what was acknowledged had reached a majority of disks.
#[test]
fn power_cut_of_one_machine_then_of_all_acked_records_stay() {
    apart(module_path!(), "power_cut_of_one_machine_then_of_all_acked_records_stay", || {
        let mut stage = Stage::start("power", BTreeMap::new());
        let leader = stage.cluster.leader(TOPIC, 0);
        let from = stage.cut_power(&[leader]);
        stage.resumed("a power cut of one machine", from, RESUME);
        stage.restart(&[leader]);
        stage.converge();
        wait(1.0);
        stage.cut_power(&NODES);
        stage.restart(&NODES);
        let from = now_us();
        stage.resumed("a power cut of all machines", from, CONVERGE);
        stage.verify();
    });
}

/// What was acknowledged had reached a majority of page caches: one machine at a time may lose its own (P7). After a cut the machine's boot id
/// is another one, as after a real one.
#[test]
fn power_cut_of_one_machine_with_an_unsynced_topic_acked_records_stay() {
    apart(module_path!(), "power_cut_of_one_machine_with_an_unsynced_topic_acked_records_stay", || {
        let boot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos-boot-id");
        let start_anew = || {
            let id: u128 = rand::random();
            std::fs::write(&boot, format!("{}\n", uuid::Uuid::from_u128(id))).expect("a boot id");
        };
        start_anew();
        must("mount", &["--bind", boot.to_str().expect("text"), "/proc/sys/kernel/random/boot_id"]);
        let mut stage = Stage::start_with("unsynced", BTreeMap::new(), &["flush.mode=async"]);
        for partition in 0..3 {
            let leader = stage.cluster.leader(TOPIC, partition);
            let from = stage.cut_power(&[leader]);
            stage.resumed("a power cut of one machine", from, RESUME);
            start_anew();
            stage.restart(&[leader]);
            stage.converge();
            wait(0.5);
            let log = stage.cluster.dir().join(format!("node-{leader}.log"));
            let log = std::fs::read_to_string(log).expect("a log");
            assert!(
                log.contains("entries acknowledged before they were synced may be lost"),
                "no doubt: {log}"
            );
        }
        stage.verify();
    });
}

/// Below the reserve a broker takes no more records, and says so in a way that makes clients come back; everything else goes
/// on. The reserve is 64 MiB.
#[test]
fn disk_full_produce_is_sent_back_and_all_else_goes_on() {
    apart(module_path!(), "disk_full_produce_is_sent_back_and_all_else_goes_on", || {
        let mut stage = Stage::start("full", BTreeMap::new());
        let full = stage.cluster.leader(TOPIC, 0);
        stage.fill(full, 32 << 20);
        await_refusal(&mut stage);
        // Its health is looked at now and then.
        let deadline = Instant::now() + RESUME;
        while health(&stage, full).1["disk_full"] != true {
            assert!(Instant::now() < deadline, "{}", health(&stage, full).1);
            wait(0.05);
        }
        // Topics are made and removed, and with another broker dead every partition finds a leader.
        kontiki(&stage, &["topic", "create", "meanwhile", "-p", "2", "-r", "3"]);
        stage.cluster.await_in_sync("meanwhile", Duration::from_secs(20));
        kontiki(&stage, &["topic", "delete", "meanwhile"]);
        let [dead, _] = Stage::others(full);
        stage.kill(&[dead]);
        await_leaders(&stage, dead);
        stage.restart(&[dead]);
        stage.relieve(full);
        stage.converge();
        // Every disk, and then to the last byte: somebody else's file took it all.
        for id in BROKERS {
            stage.fill(id, 32 << 20);
        }
        // What a segment has in hand is still used; then nothing is taken in any partition.
        let deadline = Instant::now() + CONVERGE;
        while stage.writer.next_ack(Duration::from_secs(1), |_| true).is_some() {
            assert!(Instant::now() < deadline, "records are still taken");
        }
        await_refusal(&mut stage);
        let from = now_us();
        for id in BROKERS {
            stage.fill(id, 0);
        }
        wait(1.0);
        stage.was_silent(false, from);
        stage.cluster.assert_running();
        stage.verify();
    });
}

fn kontiki(stage: &Stage, args: &[&str]) {
    let bootstrap = stage.cluster.bootstrap();
    let args: Vec<&str> = args.iter().copied().chain(["-B", &bootstrap]).collect();
    attempt(env!("CARGO_BIN_EXE_kontiki"), &args).unwrap_or_else(|e| panic!("{e}"));
}

/// Until a record for partition 0 is refused with an error that clients retry.
fn await_refusal(stage: &mut Stage) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let said = stage.probe(0, false);
        if said == "KAFKA_STORAGE_ERROR retriable" {
            return stage.say(format_args!("refused: {said}"));
        }
        assert!(said.starts_with("ok "), "a full disk answered {said}");
        assert!(Instant::now() < deadline, "records are still taken");
    }
}

/// Until every partition is led by a living broker.
fn await_leaders(stage: &Stage, dead: u32) {
    let deadline = Instant::now() + RESUME;
    let alive = Stage::others(dead);
    loop {
        let led =
            |view: Vec<crate::kafka::Partition>| view.iter().all(|p| p.leader > 0 && p.leader != dead as i32);
        if stage.cluster.partitions(TOPIC, &alive).is_some_and(led) {
            return stage.say(format_args!("every partition is led without {dead}"));
        }
        assert!(Instant::now() < deadline, "no leaders: {:?}", stage.cluster.partitions(TOPIC, &alive));
        wait(0.02);
    }
}

/// One failed fsync is the end of that directory: nothing is tried again, leadership goes elsewhere, the process lives and
/// says why. With two of three gone nothing is acknowledged. A restart takes up what the kernel still had, once it is safe.
#[test]
fn fsync_fails_leadership_goes_elsewhere_and_nothing_more_is_acknowledged_there() {
    apart(
        module_path!(),
        "fsync_fails_leadership_goes_elsewhere_and_nothing_more_is_acknowledged_there",
        || {
            let mut stage = Stage::start("fsync", BTreeMap::new());
            let failed = stage.cluster.leader(TOPIC, 0);
            let from = stage.tamper(failed, Tampering::FailSync);
            stage.resumed("a failing fsync", from, RESUME);
            let calls = stage.tampered(failed);
            assert!(calls > 0, "no fsync was tampered with");
            stage.leave_alone(failed);
            wait(1.0);
            let (code, body) = health(&stage, failed);
            let said = body["storage_failure"].as_str().unwrap_or_default();
            assert!(code == 503 && said.contains("Input/output error"), "{code} {body}");
            stage.say(format_args!("{calls} calls failed; {said}"));
            // The second of three: no majority is left that can make anything durable.
            let [second, _] = Stage::others(failed);
            let log_before = stage.tampered(second);
            stage.tamper(second, Tampering::FailSync);
            let deadline = Instant::now() + RESUME;
            while health(&stage, second).0 != 503 {
                assert!(Instant::now() < deadline, "the second failure went unnoticed");
                wait(0.05);
            }
            let from = now_us();
            wait(2.0);
            stage.was_silent(false, from);
            assert!(stage.tampered(second) > log_before);
            stage.cluster.assert_running();
            stage.kill(&[failed, second]);
            stage.restart(&[failed, second]);
            stage.verify();
        },
    );
}
