//! Labs 3A and 3B: clerks append and read while servers crash and the network splits; every append once and in its clerk's order,
//! and linearizable where the lab asks for it (here: everywhere).

use super::{lab, servers, trimmed, unreliable};
use crate::clerk::{Clerk, VALUES};
use crate::client::Work;
use crate::history::{Action, Operation, is_linearizable};
use crate::plan::calm_weather;
use crate::world::{MS, SECOND, Time, World};
use std::collections::BTreeMap;

/// The labs' generic test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) clerks: u64,
    pub(super) servers: usize,
    pub(super) keys: usize,
    pub(super) unreliable: bool,
    pub(super) crash: bool,
    pub(super) partitions: bool,
    /// Logs are trimmed while it runs, and must stay small.
    pub(super) trim: bool,
    pub(super) length: Time,
}

pub(super) const PLAIN: Shape = Shape {
    clerks: 1,
    servers: 5,
    keys: 1,
    unreliable: false,
    crash: false,
    partitions: false,
    trim: false,
    length: 5 * SECOND,
};

fn generic(name: &str, shape: Shape) {
    let plan = |seed| {
        let mut plan = servers(seed, shape.servers, shape.keys as i32);
        if shape.unreliable {
            plan = unreliable(plan);
        }
        if shape.trim {
            plan = trimmed(plan);
        }
        plan
    };
    lab(name, plan, |world| generic_story(world, shape));
}

fn generic_story(world: &mut World, shape: Shape) {
    let lab = world.lab();
    for rounds in 0..3 {
        for number in 0..shape.clerks {
            // A key of its own for each clerk while there are enough; with random keys all share them.
            let keys = if shape.keys as u64 >= shape.clerks {
                vec![number as usize]
            } else {
                (0..shape.keys).collect()
            };
            let clerk = Clerk::new(1 + rounds * 1000 + number, keys, 500, u64::MAX);
            world.add_client(Work::Clerk(Box::new(clerk)));
        }
        let end = world.time + shape.length / 3;
        while world.time < end {
            if shape.partitions {
                split(world);
            }
            let wait = world.rng.range(300 * MS, 1200 * MS).min(end - world.time.min(end));
            world.run_for(wait);
            if shape.trim {
                trim_all(world, &lab);
            }
        }
        world.net.blocked.clear();
        stop_clerks(world);
        world.run_until("clerks finish", 30 * SECOND, |world| {
            world.clients.iter().all(|c| !matches!(&c.work, Work::Clerk(clerk) if !clerk.is_done()))
        });
        if shape.crash {
            for n in 0..shape.servers {
                let power = world.rng.chance(500);
                world.crash(n, power);
            }
            world.run_for(SECOND);
            for n in 0..shape.servers {
                world.revive(n);
            }
        }
    }
    world.net.weather = calm_weather();
    world.run_until("replicas converge", 60 * SECOND, World::converged);
    last_reads(world, shape);
    judge(world, shape);
    world.run_until("replicas converge again", 30 * SECOND, World::converged);
    world.compare_replicas();
}

/// Any split of the servers; clients stay in touch with all of them.
fn split(world: &mut World) {
    world.net.blocked.clear();
    let count = world.plan.brokers_count;
    let side: Vec<bool> = (0..count).map(|_| world.rng.chance(500)).collect();
    for a in 0..count {
        for b in 0..count {
            if side[a] != side[b] {
                world.net.blocked.insert((a, b));
            }
        }
    }
}

pub(super) fn trim_all(world: &mut World, lab: &super::Lab) {
    let groups: Vec<_> = world.check.logs.keys().copied().filter(|g| g.0 > 0).collect();
    for group in groups {
        if let Some(leader) = world.leader_of(group) {
            let ask = crate::client::Ask::DeleteRecords { group, offset: -1 };
            world.ask(lab.clerk, leader, ask);
        }
    }
}

pub(super) fn stop_clerks(world: &mut World) {
    for client in &mut world.clients {
        if let Work::Clerk(clerk) = &mut client.work {
            clerk.stop();
        }
    }
}

/// One more read of every key.
pub(super) fn last_reads(world: &mut World, shape: Shape) {
    for key in 0..shape.keys {
        let clerk = Clerk::new(900_000 + key as u64, vec![key], 1000, 1);
        world.add_client(Work::Clerk(Box::new(clerk)));
    }
    world.run_until("last reads", 30 * SECOND, |world| {
        world.clients.iter().all(|c| !matches!(&c.work, Work::Clerk(clerk) if !clerk.is_done()))
    });
}

/// Every append once, in its clerk's order; every key's history linearizable.
pub(super) fn judge(world: &mut World, shape: Shape) {
    let mut histories: BTreeMap<usize, Vec<Operation>> = BTreeMap::new();
    let mut appended: BTreeMap<usize, Vec<Vec<u64>>> = BTreeMap::new();
    for client in &world.clients {
        if let Work::Clerk(clerk) = &client.work {
            for (key, operation) in &clerk.history {
                histories.entry(*key).or_default().push(operation.clone());
            }
            for (key, values) in &clerk.appended {
                appended.entry(*key).or_default().push(values.clone());
            }
        }
    }
    let mut operations = 0;
    for (key, history) in &histories {
        operations += history.len();
        let longest =
            history.iter().filter_map(|o| if let Action::Get(v) = &o.action { Some(v) } else { None });
        let log = longest.max_by_key(|v| v.len()).cloned().unwrap_or_default();
        for values in appended.get(key).into_iter().flatten() {
            let who = values.first().map_or(0, |v| v / VALUES);
            let found: Vec<u64> = log.iter().copied().filter(|v| v / VALUES == who).collect();
            assert_eq!(&found, values, "appends of clerk {who} to key {key}: read, and acknowledged");
        }
        assert!(is_linearizable(history), "history of key {key} is not linearizable: {history:?}");
    }
    let least = shape.clerks as usize;
    assert!(operations >= least, "only {operations} operations in all that time");
}

// 3A

#[test]
fn basic_3a() {
    generic("kv::basic_3a", PLAIN);
}

/// A thousand appends, one after the other, each within a third of a heartbeat.
fn speed(name: &str, trim: bool) {
    let plan = move |seed| if trim { trimmed(servers(seed, 3, 1)) } else { servers(seed, 3, 1) };
    lab(name, plan, |world| {
        let lab = world.lab();
        let clerk = world.add_client(Work::Clerk(Box::new(Clerk::new(1, vec![0], 0, 1000))));
        world.run_for(100 * MS);
        let begun = world.time;
        world.run_until("a thousand appends", 60 * SECOND, |world| {
            if trim && (world.time / (20 * MS)).is_multiple_of(25) {
                trim_all(world, &lab);
            }
            matches!(&world.clients[clerk].work, Work::Clerk(clerk) if clerk.is_done())
        });
        let each = (world.time - begun) / 1000;
        assert!(each * 3 <= 100 * MS, "an append took {each} us");
    });
}

#[test]
fn speed_3a() {
    speed("kv::speed_3a", false);
}

#[test]
fn concurrent_3a() {
    generic("kv::concurrent_3a", Shape { clerks: 5, keys: 5, ..PLAIN });
}

#[test]
fn unreliable_3a() {
    generic("kv::unreliable_3a", Shape { clerks: 5, keys: 5, unreliable: true, ..PLAIN });
}

#[test]
fn unreliable_one_key_3a() {
    generic("kv::unreliable_one_key_3a", Shape { clerks: 5, servers: 3, unreliable: true, ..PLAIN });
}

#[test]
fn one_partition_3a() {
    lab(
        "kv::one_partition_3a",
        |seed| servers(seed, 5, 1),
        |world| {
            let mut lab = world.lab();
            world.one(&mut lab, 5, 0);
            let leader = world.check_one_leader(&lab);
            // The leader and one more against the rest; the controllers are with the rest.
            let minority = [leader, (leader + 1) % 5];
            for a in 0..world.nodes.len() {
                for b in 0..world.nodes.len() {
                    if minority.contains(&a) != minority.contains(&b) {
                        world.net.blocked.insert((a, b));
                    }
                }
            }
            let id = world.start_on(&mut lab, leader);
            // No progress in the minority...
            world.run_for(SECOND);
            assert!(
                !matches!(world.answer(&lab, id), Some(crate::client::Reply::Produced(Ok(_)))),
                "minority went on"
            );
            // ... progress in the majority ...
            let end = world.committed_end(&lab);
            lab.cut.extend(minority);
            world.one(&mut lab, 3, 0);
            assert!(world.committed_end(&lab) > end, "the majority stood still");
            assert!(
                !matches!(world.answer(&lab, id), Some(crate::client::Reply::Produced(Ok(_)))),
                "minority went on"
            );
            // ... and all of it after healing.
            world.net.blocked.clear();
            lab.cut.clear();
            world.one(&mut lab, 5, 0);
            world.run_until("replicas converge", 30 * SECOND, World::converged);
            world.compare_replicas();
        },
    );
}

#[test]
fn many_partitions_one_client_3a() {
    generic("kv::many_partitions_one_client_3a", Shape { partitions: true, ..PLAIN });
}

#[test]
fn many_partitions_many_clients_3a() {
    generic("kv::many_partitions_many_clients_3a", Shape { clerks: 5, keys: 5, partitions: true, ..PLAIN });
}

#[test]
fn persist_one_client_3a() {
    generic("kv::persist_one_client_3a", Shape { crash: true, ..PLAIN });
}

#[test]
fn persist_concurrent_3a() {
    generic("kv::persist_concurrent_3a", Shape { clerks: 5, keys: 5, crash: true, ..PLAIN });
}

#[test]
fn persist_concurrent_unreliable_3a() {
    let shape = Shape { clerks: 5, keys: 5, crash: true, unreliable: true, ..PLAIN };
    generic("kv::persist_concurrent_unreliable_3a", shape);
}

#[test]
fn persist_partition_3a() {
    generic("kv::persist_partition_3a", Shape { clerks: 5, keys: 5, crash: true, partitions: true, ..PLAIN });
}

#[test]
fn persist_partition_unreliable_3a() {
    let shape = Shape { clerks: 5, keys: 5, crash: true, partitions: true, unreliable: true, ..PLAIN };
    generic("kv::persist_partition_unreliable_3a", shape);
}

#[test]
fn persist_partition_unreliable_linearizable_3a() {
    let shape =
        Shape { clerks: 15, servers: 7, keys: 3, crash: true, partitions: true, unreliable: true, ..PLAIN };
    generic("kv::persist_partition_unreliable_linearizable_3a", shape);
}

// 3B

#[test]
fn snapshot_rpc_3b() {
    lab(
        "kv::snapshot_rpc_3b",
        |seed| trimmed(servers(seed, 3, 1)),
        |world| {
            let mut lab = world.lab();
            world.one(&mut lab, 3, 0);
            // One server is away while the others write much and trim it.
            let away = (world.check_one_leader(&lab) + 1) % 3;
            world.disconnect(&mut lab, away);
            for _ in 0..50 {
                world.one(&mut lab, 2, 100);
            }
            world.trim(&lab);
            world.one(&mut lab, 2, 0);
            world.run_for(SECOND);
            let leader = world.check_leader_now(&lab);
            let kept = world.log_bytes(&lab, leader);
            assert!(kept <= 8 * 1000, "the log keeps {kept} bytes");
            // Now it must catch up and carry on with one of the others away.
            let gone = (away + 1) % 3;
            world.reconnect(&mut lab, away);
            world.run_for(3 * SECOND);
            world.disconnect(&mut lab, gone);
            for _ in 0..5 {
                world.one(&mut lab, 2, 0);
            }
            world.reconnect(&mut lab, gone);
            world.one(&mut lab, 3, 0);
            assert!(world.marks.0.contains_key("log start installed"), "nobody had to be given a log start");
            world.run_until("replicas converge", 30 * SECOND, World::converged);
            world.compare_replicas();
        },
    );
}

#[test]
fn snapshot_size_3b() {
    lab(
        "kv::snapshot_size_3b",
        |seed| trimmed(servers(seed, 3, 1)),
        |world| {
            let mut lab = world.lab();
            for round in 0..20 {
                for _ in 0..10 {
                    world.one(&mut lab, 3, 20);
                }
                if round % 2 == 1 {
                    world.trim(&lab);
                }
            }
            world.trim(&lab);
            world.one(&mut lab, 3, 0);
            world.run_for(SECOND);
            let leader = world.check_leader_now(&lab);
            let kept = world.log_bytes(&lab, leader);
            assert!(kept <= 8 * 1000, "the log keeps {kept} bytes");
            // What stands for the entries that are gone: configuration and producers, not data.
            let start = world.start_bytes(&lab, leader);
            assert!(start <= 1000, "the log start takes {start} bytes");
        },
    );
}

#[test]
fn speed_3b() {
    speed("kv::speed_3b", true);
}

#[test]
fn snapshot_recover_3b() {
    generic("kv::snapshot_recover_3b", Shape { crash: true, trim: true, ..PLAIN });
}

#[test]
fn snapshot_recover_many_clients_3b() {
    generic(
        "kv::snapshot_recover_many_clients_3b",
        Shape { clerks: 20, keys: 20, crash: true, trim: true, ..PLAIN },
    );
}

#[test]
fn snapshot_unreliable_3b() {
    generic(
        "kv::snapshot_unreliable_3b",
        Shape { clerks: 5, keys: 5, unreliable: true, trim: true, ..PLAIN },
    );
}

#[test]
fn snapshot_unreliable_recover_3b() {
    let shape = Shape { clerks: 5, keys: 5, unreliable: true, crash: true, trim: true, ..PLAIN };
    generic("kv::snapshot_unreliable_recover_3b", shape);
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition_3b() {
    let shape =
        Shape { clerks: 5, keys: 5, unreliable: true, crash: true, partitions: true, trim: true, ..PLAIN };
    generic("kv::snapshot_unreliable_recover_concurrent_partition_3b", shape);
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition_linearizable_3b() {
    let shape = Shape {
        clerks: 15,
        servers: 7,
        keys: 3,
        unreliable: true,
        crash: true,
        partitions: true,
        trim: true,
        ..PLAIN
    };
    generic("kv::snapshot_unreliable_recover_concurrent_partition_linearizable_3b", shape);
}
