//! `recovery.policy=auto` where the old majority is alive: two of three brokers are cut off from the controller and the third broker, and not
//! from their clients. They serve on until their leases are over and nobody after that; then the third broker goes on alone. What the two had
//! acknowledged until then and the survivor lacks is lost, as the policy says, and kept aside when they are back; whatever was acknowledged
//! later, to whomever, is on every replica in the end. Prints the silence between. The cut is silence, and the two are given up when their
//! sessions end; or resets, and they are given up within seconds, long before their leases end.

use super::net::{CAPTIVE, Net};
use super::world::apart;
use crate::autos::LEASE_MS;
use crate::faults::{PARTITIONS, TOPIC, now_us};
use crate::foreign::{Client, Writer};
use crate::history::Ack;
use crate::recover::{Held, check_replicas, items, kontiki};
use crate::rounds;
use crate::shrink::gaps_within;
use crate::system::{BROKERS, CONTROLLER, Cluster, Layout};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Sessions, leases, the delay, and what a loaded machine adds.
const LIMIT: Duration = Duration::from_secs(60);

/// Clients that notice a cut before their usual minute.
const HURRIED: &[&str] = &[
    "enable.idempotence=false", // what an idempotent client does behind a loss is its own story (F21)
    "socket.timeout.ms=2000",
    "topic.metadata.refresh.interval.ms=500",
    "reconnect.backoff.max.ms=500",
];

/// Until the audit says of every partition that its survivor leads.
fn await_recovered(cluster: &Cluster, survivor: u32) {
    let begun = Instant::now();
    loop {
        let audit = items(&kontiki(cluster, CONTROLLER, &["recoveries"]));
        let is_done = |entry: &serde_json::Value| {
            let (outcome, plan) = (&entry["outcome"], &entry["plan"]);
            outcome["outcome"] == "verified" && entry["auto"] == true && plan["survivor"] == survivor
        };
        if audit.len() == PARTITIONS && audit.values().all(is_done) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not gone on by itself: {audit:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Records kept aside by these nodes.
fn set_aside(cluster: &Cluster, nodes: &[u32]) -> i64 {
    let of = |node: &u32| {
        let health = cluster.health(*node).expect("it answers");
        let all = health["set_aside"].as_array().expect("a list").clone();
        all.iter().map(|a| a["offsets"][1].as_i64().unwrap() - a["offsets"][0].as_i64().unwrap()).sum::<i64>()
    };
    nodes.iter().map(of).sum()
}

#[test]
fn old_majority_cut_off_with_its_clients_acknowledges_nothing_once_its_leases_are_over() {
    let test = "old_majority_cut_off_with_its_clients_acknowledges_nothing_once_its_leases_are_over";
    apart(module_path!(), test, || {
        (0..rounds(1)).for_each(|round| old_majority_is_cut_off("silent", round, Net::cut))
    });
}

#[test]
fn old_majority_given_up_at_once_acknowledges_until_its_leases_are_over_and_is_waited_for() {
    let test = "old_majority_given_up_at_once_acknowledges_until_its_leases_are_over_and_is_waited_for";
    apart(module_path!(), test, || {
        (0..rounds(1)).for_each(|round| old_majority_is_cut_off("reset", round, Net::reset))
    });
}

fn old_majority_is_cut_off(how: &str, round: usize, cut: impl Fn(&mut Net, Ipv4Addr, Ipv4Addr)) {
    let mut net = Net::default();
    net.apply();
    let layout = Layout { spread: true, ..Layout::default() };
    let mut cluster = Cluster::start_in(&format!("autos-{how}-{round}"), layout);
    let client = Client {
        topic: TOPIC,
        partitions: PARTITIONS,
        config: &["min.insync.replicas=1", "recovery.policy=auto", "recovery.auto.delay.ms=1000"],
        properties: HURRIED,
        rate: Some(300),
        ..Client::default()
    };
    let mut free = Writer::start_as(&cluster, Client { name: "free", ..client });
    // On the survivor's side alone: a client that reaches both may stay with brokers that refuse it (librdkafka asks the one it used last
    // for metadata).
    let mut captive = Writer::start_as(&cluster, Client { name: "captive", group: Some(CAPTIVE), ..client });
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    let ready = now_us();
    for writer in [&mut free, &mut captive] {
        gaps_within(writer, ready, Duration::from_secs(30));
    }
    let survivor = BROKERS[round % BROKERS.len()];
    let old: Vec<u32> = BROKERS.into_iter().filter(|b| *b != survivor).collect();
    for inside in &old {
        let inside = cluster.layout.host(*inside);
        net.cut_captives(inside);
        for outside in [survivor, CONTROLLER] {
            let outside = cluster.layout.host(outside);
            cut(&mut net, inside, outside);
            cut(&mut net, outside, inside);
        }
    }
    net.apply();
    let from = now_us();
    await_recovered(&cluster, survivor);
    let alone = now_us();
    gaps_within(&mut captive, alone, LIMIT);
    // They are alive and do not know: nobody is served by them.
    for node in &old {
        let health = cluster.health(*node).expect("it answers");
        assert_eq!(health["leased"], false, "{health}");
    }
    net.clear();
    net.apply();
    let whole = now_us();
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    gaps_within(&mut free, whole, LIMIT);
    let aside = set_aside(&cluster, &old);
    let (free_run, captive_run) = (free.run.clone(), captive.run.clone());
    let (free, captive) = (free.finish(), captive.finish());
    BROKERS.into_iter().chain([CONTROLLER]).for_each(|id| cluster.stop(id));

    // The free one's last words from the old majority, and the captive one's first from the survivor.
    let held = Held::of(&cluster, survivor, &free_run);
    let mut lost = 0;
    for partition in 0..PARTITIONS as i32 {
        let is_gone = |ack: &&Ack| ack.partition == partition && !held.has(&free_run, ack);
        let gone: Vec<&Ack> = free.acks.iter().filter(is_gone).collect();
        let last = gone.iter().map(|ack| ack.acked_us).max().unwrap_or(from);
        let is_new = |ack: &&Ack| ack.partition == partition && ack.sent_us > from;
        let first = captive.acks.iter().filter(is_new).map(|ack| ack.acked_us).min().expect("it went on");
        eprintln!(
            "partition {partition}: {} acknowledged by the old majority for {} ms, then nothing for {} ms",
            gone.len(),
            last.saturating_sub(from) / 1000,
            first.saturating_sub(last) / 1000
        );
        assert!(last < first, "the old majority acknowledged when the survivor had");
        assert!(last <= from + LEASE_MS * 1000, "the old majority acknowledged after its leases");
        lost += gone.len();
    }
    assert!(lost > 0, "the old majority was never served from");
    assert!(aside >= lost as i64, "{lost} are lost, {aside} kept aside by two");
    check_replicas(&cluster, &free_run, &free.acks, alone);
    check_replicas(&cluster, &captive_run, &captive.acks, from);
}
