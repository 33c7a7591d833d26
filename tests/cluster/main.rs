//! Real processes, other people's clients, real kills: three `kontiki start` brokers and a separate controller.
//!
//! Not unit tests: everything here goes through sockets, files and signals. Needs `tests/foreign/install.sh` to have
//! run once (`tests/run.sh` does both). See docs/testing.md for the long forms.
//!
//! - `KONTIKI_ROUNDS=20` repeats every kill that often (a few times without it); `KONTIKI_SEED` replays its moments;
//! - `KONTIKI_TEST_SYSTEM=kafka` runs the same tests against Apache Kafka: the proof of the harness, and the figures
//!   to compare with.

#![cfg(target_os = "linux")]

mod chaos;
mod failover;
mod faults;
mod foreign;
mod frames;
mod history;
mod kafka;
mod replica;
mod system;

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Clusters run one at a time: they measure, and the machine may be small.
fn exclusive() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number_from(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Rounds of a repeated test, `short` unless the environment says otherwise.
fn rounds(short: usize) -> usize {
    number_from("KONTIKI_ROUNDS").map_or(short, |n| n as usize)
}

/// A generator and the seed that makes it again.
fn seeded() -> (u64, StdRng) {
    let seed = number_from("KONTIKI_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    (seed, StdRng::seed_from_u64(seed))
}

/// kcat, confluent-kafka, kafka-python, franz-go, the Java clients, Kafka's own tools, and the examples.
#[test]
fn foreign_clients_read_back_exactly_what_they_wrote() {
    let _one_at_a_time = exclusive();
    let cluster = system::Cluster::start("foreign");
    println!("{}", foreign::check_all(&cluster.bootstrap()));
}
