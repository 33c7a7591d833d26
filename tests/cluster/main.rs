//! Real processes, other people's clients, real kills: three `kontiki start` brokers and a separate controller.
//!
//! Not unit tests: everything here goes through sockets, files and signals. Needs `tests/foreign/install.sh` to have
//! run once (`tests/run.sh` does both). See docs/testing.md for the long forms.
//!
//! - `KONTIKI_ROUNDS=20` repeats every kill that often (a few times without it); `KONTIKI_SEED` replays its moments;
//! - `KONTIKI_TEST_SYSTEM=kafka` runs the same tests against Apache Kafka: the proof of the harness, and the figures
//!   to compare with.

#![cfg(target_os = "linux")]

mod autos;
mod chaos;
mod compaction;
mod controllers;
mod failover;
mod faults;
mod foreign;
mod frames;
mod group_faults;
mod group_history;
mod groups;
mod heir;
mod history;
mod image;
mod jobs;
mod kafka;
mod losses;
mod members;
mod operate;
mod racks;
mod reassign;
mod records;
mod recover;
mod replica;
mod sessions;
mod shrink;
mod system;

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::{Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// The machine to oneself: clusters that measure run one at a time.
fn exclusive() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Clusters that measure nothing, in namespaces of their own, that run at a time: they mostly wait.
const AT_ONCE: usize = 2;
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run beside others that have it.
struct Shared {
    _machine: RwLockReadGuard<'static, ()>,
}

fn shared() -> Shared {
    let machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut running =
        ENDED.wait_while(running, |running| *running >= AT_ONCE).unwrap_or_else(PoisonError::into_inner);
    *running += 1;
    Shared { _machine: machine }
}

impl Drop for Shared {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
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

/// A part of the matrix of docs/compatibility.md, by the clients that are installed for other tests anyway. Codecs and idempotence are in the test above;
/// what hangs on how soon each client notices a death or a rebalance is left to `tests/matrix/run.sh`.
#[test]
fn stock_clients_do_what_the_compatibility_page_says() {
    let _one_at_a_time = exclusive();
    let jobs = "headers,timestamps,from-end,group,commit-resume,admin";
    println!("{}", foreign::check_matrix("aiokafka,confluent,franz-go,java,kafkajs,kcat", jobs));
}
