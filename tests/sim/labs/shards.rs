//! Lab 4B: a shard is a partition, a replica group of the lab is three brokers, and Join, Leave and Move are reassignments, carried out by
//! the product's own controllers, leaders and brokers. A clerk appends to and reads each shard all the while; every history is judged as
//! in 3A.
//!
//! What differs from the lab: a move ends when all of its new replicas have arrived, so one that waits for a dead broker is not over
//! before that is back, while the shard is served where it was.

use super::kv::{PLAIN, Shape, judge, last_reads, stop_clerks, trim_all};
use super::{Lab, lab, servers, trimmed, unreliable};
use crate::clerk::Clerk;
use crate::client::{Ask, Reply, Work};
use crate::plan::{Plan, calm_weather};
use crate::world::{MS, SECOND, World};
use kontiki::ctl::command::{Command as CtlCommand, Reply as CtlReply};
use kontiki::ctl::reassign::Reassignment;
use kontiki::segment::NodeId;
use std::collections::BTreeSet;

/// Brokers of one replica group.
const GROUP: usize = 3;
const SHARDS: usize = 6;

fn plan(seed: u64, groups: usize) -> Plan {
    Plan { shrink: true, replication: GROUP as i16, ..servers(seed, groups * GROUP, SHARDS as i32) }
}

fn members(group: usize) -> std::ops::Range<usize> {
    group * GROUP..(group + 1) * GROUP
}

/// A story with shards: who holds the strings, and a clerk for each shard.
struct Shards {
    lab: Lab,
    clerks: Vec<usize>,
}

impl Shards {
    /// All shards on group 0, and `per_shard` clerks at work on each.
    fn begin(world: &mut World, per_shard: u64) -> Self {
        let lab = world.lab();
        let mut shards = Self { lab, clerks: Vec::new() };
        shards.place(world, &[0; SHARDS]);
        shards.arrive(world, &[0; SHARDS]);
        for clerk in 0..SHARDS as u64 * per_shard {
            let work = Clerk::new(1 + clerk, vec![clerk as usize % SHARDS], 300, u64::MAX);
            shards.clerks.push(world.add_client(Work::Clerk(Box::new(work))));
        }
        world.run_for(SECOND);
        shards
    }

    /// Asks for each shard to be on this group, until somebody has taken it.
    fn place(&self, world: &mut World, at: &[usize]) {
        let row = |(partition, group): (usize, &usize)| Reassignment {
            topic: "t".to_owned(),
            partition: partition as i32,
            target: Some(members(*group).map(|n| NodeId(n as i32 + 1)).collect()),
        };
        let rows: Vec<Reassignment> = at.iter().enumerate().map(row).collect();
        for _ in 0..100 {
            let up: Vec<usize> =
                world.plan.brokers().into_iter().filter(|n| world.nodes[*n].is_up()).collect();
            let Some(node) = world.rng.pick(&up) else { panic!("nobody is up") };
            let command = CtlCommand::Reassign { rows: rows.clone(), allow_factor_change: true };
            let reply = world.call(self.lab.clerk, node, Ask::Controller(command), 5 * SECOND);
            if let Some(Reply::Controller(Ok((CtlReply::Reassigned { refusals }, _)))) = reply {
                assert!(refusals.iter().all(Option::is_none), "refused: {refusals:?}");
                return;
            }
            world.run_for(100 * MS);
        }
        panic!("no controller took the moves");
    }

    fn is_there(world: &World, shard: usize, group: usize) -> bool {
        let image = world.check.metadata_now();
        let Some(placed) = image.partition("t", shard as i32) else { return false };
        let nodes: BTreeSet<NodeId> = placed.replicas.iter().map(|replica| replica.node).collect();
        placed.moving.is_none() && nodes == members(group).map(|n| NodeId(n as i32 + 1)).collect()
    }

    fn arrive(&self, world: &mut World, at: &[usize]) {
        world.run_until("shards arrive", 60 * SECOND, |world| {
            at.iter().enumerate().all(|(shard, group)| Self::is_there(world, shard, *group))
        });
    }

    /// Operations that each clerk has had answered.
    fn done(&self, world: &World) -> Vec<usize> {
        let count = |client: &usize| match &world.clients[*client].work {
            Work::Clerk(clerk) => clerk.history.len(),
            _ => 0,
        };
        self.clerks.iter().map(count).collect()
    }

    /// The clerks of these shards have something answered, begun from now on; those of the others stand still for `still`.
    fn only(&self, world: &mut World, served: impl Fn(usize) -> bool) {
        let before = self.done(world);
        world.run_until("shards that are not concerned are served", 20 * SECOND, |world| {
            let now = self.done(world);
            (0..SHARDS).filter(|shard| served(*shard)).all(|shard| now[shard] > before[shard] + 2)
        });
        world.run_for(2 * SECOND);
        let now = self.done(world);
        for shard in (0..SHARDS).filter(|shard| !served(*shard)) {
            // What had been answered and not been heard.
            assert!(now[shard] <= before[shard] + 1, "shard {shard} is served by nobody that is up");
        }
    }

    fn crash(world: &mut World, group: usize) {
        for n in members(group).filter(|n| world.nodes[*n].is_up()).collect::<Vec<_>>() {
            let power = world.rng.chance(300);
            world.crash(n, power);
        }
    }

    fn revive(world: &mut World, group: usize) {
        for n in members(group).filter(|n| !world.nodes[*n].is_up()).collect::<Vec<_>>() {
            world.revive(n);
        }
    }

    /// Anywhere.
    fn anywhere(world: &mut World) -> Vec<usize> {
        let groups = world.plan.brokers_count as u64 / GROUP as u64;
        (0..SHARDS).map(|_| world.rng.below(groups) as usize).collect()
    }

    /// Everything is up and where it belongs, nothing is anywhere else, and every history is right.
    fn end(self, world: &mut World, at: &[usize]) {
        world.net.weather = calm_weather();
        self.arrive(world, at);
        stop_clerks(world);
        world.run_until("clerks finish", 60 * SECOND, |world| {
            world.clients.iter().all(|c| !matches!(&c.work, Work::Clerk(clerk) if !clerk.is_done()))
        });
        world.run_until("replicas converge", 60 * SECOND, World::converged);
        world.run_until("replicas that moved away are gone", 60 * SECOND, World::moves_are_over);
        let shape = Shape { clerks: self.clerks.len() as u64, keys: SHARDS, ..PLAIN };
        last_reads(world, shape);
        judge(world, shape);
        world.run_until("replicas converge again", 30 * SECOND, World::converged);
        world.compare_replicas();
    }
}

/// Even shards here, odd ones there.
fn halves(even: usize, odd: usize) -> Vec<usize> {
    (0..SHARDS).map(|shard| if shard % 2 == 0 { even } else { odd }).collect()
}

fn story(name: &str, groups: usize, tell: impl Fn(&mut World, &Shards) -> Vec<usize> + Sync) {
    tell_with(name, move |seed| plan(seed, groups), 1, tell);
}

fn tell_with(
    name: &str,
    plan: impl Fn(u64) -> Plan + Sync,
    per_shard: u64,
    tell: impl Fn(&mut World, &Shards) -> Vec<usize> + Sync,
) {
    lab(name, plan, |world| {
        let shards = Shards::begin(world, per_shard);
        let at = tell(world, &shards);
        shards.end(world, &at);
    });
}

#[test]
fn static_shards_4b() {
    story("shards::static_shards_4b", 2, |world, shards| {
        let at = halves(0, 1);
        shards.place(world, &at);
        shards.arrive(world, &at);
        Shards::crash(world, 1);
        world.run_for(100 * MS);
        shards.only(world, |shard| shard % 2 == 0);
        Shards::revive(world, 1);
        at
    });
}

#[test]
fn join_leave_4b() {
    story("shards::join_leave_4b", 2, |world, shards| {
        for at in [halves(0, 1), halves(1, 1)] {
            shards.place(world, &at);
            shards.arrive(world, &at);
            world.run_for(500 * MS);
        }
        // Who has left is not needed.
        Shards::crash(world, 0);
        shards.only(world, |_| true);
        Shards::revive(world, 0);
        halves(1, 1)
    });
}

#[test]
fn snapshot_4b() {
    tell_with(
        "shards::snapshot_4b",
        |seed| trimmed(plan(seed, 3)),
        1,
        |world, shards| {
            let mut at = halves(0, 0);
            for _ in 0..3 {
                at = Shards::anywhere(world);
                shards.place(world, &at);
                trim_all(world, &shards.lab);
                shards.arrive(world, &at);
                trim_all(world, &shards.lab);
                world.run_for(300 * MS);
                (0..3).for_each(|group| Shards::crash(world, group));
                world.run_for(200 * MS);
                (0..3).for_each(|group| Shards::revive(world, group));
                world.run_for(SECOND);
            }
            at
        },
    );
}

#[test]
fn miss_change_4b() {
    story("shards::miss_change_4b", 3, |world, shards| {
        let mut at = halves(0, 0);
        for turn in 0..2 {
            // One of each group misses all that comes.
            let down: Vec<usize> = (0..3).map(|group| group * GROUP + turn).collect();
            down.iter().for_each(|n| world.crash(*n, false));
            for _ in 0..3 {
                at = Shards::anywhere(world);
                shards.place(world, &at);
                world.run_for(700 * MS);
            }
            down.iter().for_each(|n| world.revive(*n));
            shards.arrive(world, &at);
        }
        at
    });
}

#[test]
fn concurrent_1_4b() {
    story("shards::concurrent_1_4b", 3, |world, shards| {
        let mut at = halves(0, 0);
        for group in [0, 1, 2] {
            at = Shards::anywhere(world);
            shards.place(world, &at);
            world.run_for(700 * MS);
            Shards::crash(world, group);
            let wait = world.rng.range(50 * MS, 900 * MS);
            world.run_for(wait);
            Shards::revive(world, group);
            world.run_for(500 * MS);
        }
        at
    });
}

/// Those that others fetch from end in the middle of it.
#[test]
fn concurrent_2_4b() {
    story("shards::concurrent_2_4b", 3, |world, shards| {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            shards.place(world, &[to; SHARDS]);
            let wait = world.rng.range(MS, 60 * MS);
            world.run_for(wait);
            Shards::crash(world, from);
            world.run_for(SECOND);
            Shards::revive(world, from);
            shards.arrive(world, &[to; SHARDS]);
        }
        vec![0; SHARDS]
    });
}

/// All of them end and come back with every change.
#[test]
fn concurrent_3_4b() {
    story("shards::concurrent_3_4b", 2, |world, shards| {
        let mut at = halves(0, 0);
        for _ in 0..6 {
            at = Shards::anywhere(world);
            shards.place(world, &at);
            let wait = world.rng.range(0, 900 * MS);
            world.run_for(wait);
            (0..2).for_each(|group| Shards::crash(world, group));
            (0..2).for_each(|group| Shards::revive(world, group));
            world.run_for(500 * MS);
        }
        at
    });
}

fn on_a_bad_network(name: &str, per_shard: u64) {
    tell_with(
        name,
        |seed| unreliable(plan(seed, 3)),
        per_shard,
        |world, shards| {
            let mut at = halves(0, 0);
            for _ in 0..4 {
                at = Shards::anywhere(world);
                shards.place(world, &at);
                world.run_for(SECOND);
            }
            at
        },
    );
}

#[test]
fn unreliable_1_4b() {
    on_a_bad_network("shards::unreliable_1_4b", 1);
}

/// Several clerks at each shard.
#[test]
fn unreliable_2_4b() {
    on_a_bad_network("shards::unreliable_2_4b", 2);
}

/// The same, and linearizable (here all of them are).
#[test]
fn unreliable_3_4b() {
    on_a_bad_network("shards::unreliable_3_4b", 3);
}

/// What has moved away takes no room: of the shards' files there are those of their replicas, and no others.
#[test]
fn challenge_1_delete_4b() {
    story("shards::challenge_1_delete_4b", 3, |world, shards| {
        for to in [1, 2, 0, 2, 1] {
            shards.place(world, &[to; SHARDS]);
            shards.arrive(world, &[to; SHARDS]);
        }
        world.run_until("replicas that moved away are gone", 60 * SECOND, World::moves_are_over);
        world.run_until("their files too", 20 * SECOND, |world| {
            let topic = world.check.metadata_now().topics["t"].id.to_string();
            (0..3).all(|group| {
                members(group).all(|n| {
                    let files = world.nodes[n].fs.files();
                    let is_theirs = |path: &std::path::Path| path.to_string_lossy().contains(&topic);
                    let dirs: BTreeSet<_> = files
                        .iter()
                        .filter(|(path, _)| is_theirs(path))
                        .filter_map(|(path, _)| path.parent())
                        .collect();
                    dirs.len() == if group == 1 { SHARDS } else { 0 }
                })
            })
        });
        vec![1; SHARDS]
    });
}

/// Shards that do not move are served while those of a dead group wait to.
#[test]
fn challenge_2_unaffected_4b() {
    story("shards::challenge_2_unaffected_4b", 2, |world, shards| {
        let at = halves(0, 1);
        shards.place(world, &at);
        shards.arrive(world, &at);
        Shards::crash(world, 1);
        shards.place(world, &halves(0, 0));
        world.run_for(100 * MS);
        shards.only(world, |shard| shard % 2 == 0);
        Shards::revive(world, 1);
        halves(0, 0)
    });
}

/// Those that have come are served before the others have, which cannot come at all: their group is dead.
#[test]
fn challenge_2_partial_4b() {
    story("shards::challenge_2_partial_4b", 3, |world, shards| {
        let at = halves(0, 1);
        shards.place(world, &at);
        shards.arrive(world, &at);
        Shards::crash(world, 1);
        shards.place(world, &halves(2, 2));
        world.run_until("half of them arrive", 60 * SECOND, |world| {
            (0..SHARDS).step_by(2).all(|shard| Shards::is_there(world, shard, 2))
        });
        shards.only(world, |shard| shard % 2 == 0);
        Shards::revive(world, 1);
        halves(2, 2)
    });
}
