//! `recovery.policy=auto`: two of three brokers are killed at once, and nobody is asked. The partition goes on with the third one once the
//! leases of the two are over and the delay too; the audit says so; the lost ones come back and all replicas are equal. Without controllers
//! such a topic stops after one lease, and goes on by itself when they are back. Prints what each took.

use super::faults::{PARTITIONS, TOPIC, now_us, pause};
use super::foreign::{Client, Writer};
use super::recover::{check_replicas, items, kontiki};
use super::shrink::gaps_within;
use super::system::{BROKERS, CONTROLLER, Cluster, System};
use super::{exclusive, rounds, seeded};
use std::time::Duration;

/// `broker.session.timeout.ms`, and so the lease, by default; with what the controllers add for clocks.
pub const LEASE_MS: u64 = 9_000;
const WAITED_MS: u64 = LEASE_MS + LEASE_MS / 16;
const DELAY_MS: u64 = 2_000;
/// What elections, seals and a client's own pauses may add on a machine that others load.
const SLACK_MS: u64 = 20_000;

fn writer(cluster: &Cluster) -> Writer {
    let config = &["min.insync.replicas=1", "recovery.policy=auto", "recovery.auto.delay.ms=2000"];
    // What an idempotent client does behind a loss is its own story (F21).
    let properties = &["enable.idempotence=false"];
    let client =
        Client { name: TOPIC, topic: TOPIC, partitions: PARTITIONS, config, properties, ..Client::default() };
    Writer::start_as(cluster, client)
}

#[test]
fn two_of_three_brokers_lost_at_once_the_partition_goes_on_by_itself_when_leases_are_over() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // an unclean election is all it could offer
    }
    let (seed, mut rng) = seeded();
    eprintln!(
        "seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster goes_on_by_itself_when"
    );
    for round in 0..rounds(1) {
        let mut cluster = Cluster::start(&format!("autos-{round}"));
        let mut writer = writer(&cluster);
        cluster.await_in_sync(TOPIC, Duration::from_secs(90));
        pause(&mut rng, 200..1500);
        let survivor = BROKERS[round % BROKERS.len()];
        let gone: Vec<u32> = BROKERS.into_iter().filter(|b| *b != survivor).collect();
        let from = now_us();
        gone.iter().for_each(|node| cluster.kill(*node));
        let killed = now_us();
        let limit = WAITED_MS + DELAY_MS + SLACK_MS;
        let (soonest, last) = gaps_within(&mut writer, killed, Duration::from_millis(limit));
        eprintln!("round {round}: {gone:?} killed: acknowledged again after {soonest} to {last} ms");
        assert!(soonest > DELAY_MS, "the delay was waited for");
        let audit = items(&kontiki(&cluster, CONTROLLER, &["recoveries"]));
        assert_eq!(audit.len(), PARTITIONS);
        for entry in audit.values() {
            assert_eq!((&entry["auto"], &entry["reason"]), (&true.into(), &"recovery.policy=auto".into()));
            assert_eq!(entry["plan"]["survivor"], survivor, "{entry}");
            assert_eq!(entry["outcome"]["lossless"], false, "{entry}");
        }
        for node in &gone {
            pause(&mut rng, 0..2000);
            cluster.spawn(*node);
        }
        cluster.await_in_sync(TOPIC, Duration::from_secs(60));
        let run = writer.run.clone();
        let history = writer.finish();
        BROKERS.into_iter().chain([CONTROLLER]).for_each(|id| cluster.stop(id));
        let later = history.acks.iter().filter(|ack| ack.sent_us > from).count();
        assert!(later > 0);
        check_replicas(&cluster, &run, &history.acks, killed);
    }
}

#[test]
fn topic_that_recovers_by_itself_stops_after_one_lease_without_controllers_and_goes_on_with_them() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return;
    }
    let mut cluster = Cluster::start("autos-controller");
    let mut writer = writer(&cluster);
    cluster.await_in_sync(TOPIC, Duration::from_secs(90));
    cluster.kill(CONTROLLER);
    let killed = now_us();
    let mut last = killed;
    while let Some(ack) = writer.next_ack(Duration::from_secs(4), |ack| ack.acked_us > killed) {
        last = last.max(ack.acked_us);
        assert!(last - killed < 2 * LEASE_MS * 1000, "it is served without a lease");
    }
    let served = (last - killed) / 1000;
    assert!(served <= LEASE_MS, "served for {served} ms without controllers");
    let health = cluster.health(BROKERS[0]).expect("it answers");
    assert_eq!(health["leased"], false, "{health}");
    let back = now_us();
    cluster.spawn(CONTROLLER);
    let (soonest, all) = gaps_within(&mut writer, back, Duration::from_secs(30));
    eprintln!(
        "served {served} ms without controllers; acknowledged {soonest} to {all} ms after they were started again"
    );
    cluster.await_in_sync(TOPIC, Duration::from_secs(60));
    let run = writer.run.clone();
    let history = writer.finish();
    BROKERS.into_iter().chain([CONTROLLER]).for_each(|id| cluster.stop(id));
    check_replicas(&cluster, &run, &history.acks, 0);
}
