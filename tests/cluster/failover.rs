//! How long a producer waits when its leader dies or freezes: measured through a stock client at its defaults.
//! Prints every figure; asserts only the outer limit, since a loaded machine has no say in the promise.

use super::exclusive;
use super::faults::now_us;
use super::foreign::Writer;
use super::rounds;
use super::system::{BROKERS, Cluster, System};
use rustix::process::Signal;
use std::time::Duration;

const TOPIC: &str = "failover";

fn report(what: &str, mut millis: Vec<f64>, limit_ms: f64) {
    let all: Vec<String> = millis.iter().map(|m| format!("{m:.0}")).collect();
    millis.sort_by(f64::total_cmp);
    let (median, worst) = (millis[millis.len() / 2], millis[millis.len() - 1]);
    println!("{what}: median {median:.0} ms, worst {worst:.0} ms of {} ({})", millis.len(), all.join(" "));
    assert!(worst < limit_ms, "{what}: worst {worst:.0} ms, limit {limit_ms:.0} ms");
}

/// From the signal to the first acknowledgement of a record that was sent after it. Every round has a client of its own: one that
/// met the failure before would carry its reconnect back-off (up to 10 s in librdkafka) into the next.
fn measure(name: &str, signal: Signal, properties: &[&str]) {
    let _one_at_a_time = exclusive();
    let mut cluster = Cluster::start(name);
    let limit = Duration::from_secs(if cluster.system == System::Kafka { 60 } else { 10 });
    let mut millis = Vec::new();
    for _ in 0..rounds(3) {
        let mut writer = Writer::start(&cluster, TOPIC, 1, properties);
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        std::thread::sleep(Duration::from_millis(1500));
        let leader = cluster.leader(TOPIC, 0);
        let from = now_us();
        if signal == Signal::KILL {
            cluster.kill(leader);
        } else {
            cluster.signal(leader, signal);
        }
        let ack = writer.next_ack(limit, |a| a.sent_us > from);
        let ack = ack
            .unwrap_or_else(|| panic!("no acknowledgement within {limit:?} of {signal:?} to node {leader}"));
        millis.push((ack.acked_us - from) as f64 / 1000.0);
        if signal == Signal::KILL {
            cluster.spawn(leader);
        } else {
            let others: Vec<u32> = BROKERS.into_iter().filter(|&b| b != leader).collect();
            let now = cluster.partitions(TOPIC, &others).expect("a broker that answers")[0].leader;
            assert_ne!(now, leader as i32, "a frozen leader still named while others acknowledge");
            cluster.signal(leader, Signal::CONT);
        }
    }
    report(
        &format!("{name} ({:?}) to the next acknowledged produce", cluster.system),
        millis,
        limit.as_millis() as f64,
    );
}

#[test]
fn leader_killed_produce_resumes_soon() {
    measure("leader-kill", Signal::KILL, &[]);
}

/// A frozen process keeps its sockets open, so a client only moves on when its own time limit ends: 300 ms here, and
/// metadata every 100 ms. The rest of the figure is the election timeout (600 to 1,200 ms) of the followers.
#[test]
fn leader_frozen_produce_resumes_within_the_election_timeout() {
    measure(
        "leader-freeze",
        Signal::STOP,
        &["socket.timeout.ms=300", "topic.metadata.refresh.interval.ms=100"],
    );
}
