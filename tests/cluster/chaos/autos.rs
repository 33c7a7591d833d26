//! `recovery.policy=auto` where the old majority is alive: it is cut off from the controller and from the third broker, and not from its
//! clients. It goes on until its leases are over, then nobody is answered, then the third broker goes on alone; of what the old majority
//! acknowledged and the survivor lacks, nothing was acknowledged after the survivor's first word. Prints the silence between.

use super::net::{CAPTIVE, Net};
use super::world::apart;
use crate::faults::{PARTITIONS, TOPIC, now_us};
use crate::foreign::{Client, Writer};
use crate::history::Ack;
use crate::recover::{Held, items, kontiki};
use crate::shrink::gaps_within;
use crate::system::{BROKERS, CONTROLLER, Cluster, Layout};
use std::time::{Duration, Instant};

/// Leases, the delay, and what a loaded machine adds.
const LIMIT: Duration = Duration::from_secs(60);

/// Until the audit says of every partition that its survivor leads.
fn await_recovered(cluster: &Cluster, survivor: u32) {
    let begun = Instant::now();
    loop {
        let audit = items(&kontiki(cluster, CONTROLLER, &["recoveries"]));
        let is_done = |entry: &serde_json::Value| {
            let (outcome, plan) = (&entry["outcome"]["outcome"], &entry["plan"]);
            *outcome == "verified" && entry["auto"] == true && plan["survivor"] == survivor
        };
        if audit.len() == PARTITIONS && audit.values().all(is_done) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not gone on by itself: {audit:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn old_majority_cut_off_with_its_clients_acknowledges_nothing_once_the_survivor_does() {
    let test = "old_majority_cut_off_with_its_clients_acknowledges_nothing_once_the_survivor_does";
    apart(module_path!(), test, || {
        let mut net = Net::default();
        net.apply();
        let layout = Layout { spread: true, ..Layout::default() };
        let mut cluster = Cluster::start_in("autos-cut-off", layout);
        let client = Client {
            topic: TOPIC,
            partitions: PARTITIONS,
            config: &["min.insync.replicas=1", "recovery.policy=auto", "recovery.auto.delay.ms=1000"],
            properties: &["enable.idempotence=false"],
            rate: Some(300),
            ..Client::default()
        };
        let writer = Writer::start_as(&cluster, Client { name: "free", ..client });
        // On the survivor's side: a client that reaches both may stay with brokers that answer it, whatever they say (librdkafka asks the
        // one it used last for metadata).
        let captive = Client { name: "captive", group: Some(CAPTIVE), ..client };
        let mut captive = Writer::start_as(&cluster, captive);
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        std::thread::sleep(Duration::from_secs(2));
        let (survivor, old) = (BROKERS[0], &BROKERS[1..]);
        for inside in old {
            let inside = cluster.layout.host(*inside);
            net.cut_captives(inside);
            for outside in [survivor, CONTROLLER] {
                let outside = cluster.layout.host(outside);
                net.cut(inside, outside);
                net.cut(outside, inside);
            }
        }
        net.apply();
        let from = now_us();
        await_recovered(&cluster, survivor);
        let alone = now_us();
        gaps_within(&mut captive, alone, LIMIT);
        std::thread::sleep(Duration::from_secs(3));
        net.clear();
        net.apply();
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        let free = writer.run.clone();
        let (old_side, new_side) = (writer.finish(), captive.finish());
        BROKERS.into_iter().chain([CONTROLLER]).for_each(|id| cluster.stop(id));
        // The journal of each run is told by its values.
        let held = Held::of(&cluster, survivor, &free);
        for partition in 0..PARTITIONS as i32 {
            let is_later = |ack: &&Ack| ack.partition == partition && ack.sent_us > from;
            let lost = old_side.acks.iter().filter(is_later).filter(|ack| !held.has(&free, ack));
            let last = lost.clone().map(|ack| ack.acked_us).max().unwrap_or(from);
            let first = new_side.acks.iter().filter(is_later).map(|ack| ack.acked_us).min();
            let first = first.expect("it went on");
            assert!(
                last < first,
                "partition {partition}: the old majority acknowledged {} ms after the survivor",
                last.saturating_sub(first) / 1000
            );
            eprintln!(
                "partition {partition}: {} acknowledged by the old majority for {} ms, then nothing for {} ms",
                lost.count(),
                (last - from) / 1000,
                (first - last) / 1000
            );
        }
    });
}
