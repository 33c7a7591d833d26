//! Compacted topics: every broker's cleaner works all the time, between elections, crashes, damage and moves. What is handed out and what is
//! left in the end is what was committed, but for records that a later one of the same key replaces, and tombstones of what is left nowhere.

use crate::plan::Plan;
use crate::rng::Rng;
use crate::run;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of the default run.
const SHORT: u64 = if cfg!(debug_assertions) { 5 } else { 12 };

/// As the seed says, with keys, small segments and cleaners; without unclean generations, which may take a newer record back (decisions/0020).
pub fn plan(seed: u64) -> Plan {
    let mut plan = Plan::random(seed);
    let mut rng = Rng::new(seed ^ 0xc0de_0000);
    plan.compacts = true;
    plan.menu.generations = false;
    plan.menu.admin = false;
    plan.unclean = false;
    plan.is_async = false;
    plan.topic_configs.clear();
    let mut set = |key: &str, value: String| plan.topic_configs.insert(key.to_owned(), Some(value));
    set("cleanup.policy", "compact".to_owned());
    set("internal.segment.bytes", rng.range(1 << 10, 8 << 10).to_string());
    set("min.cleanable.dirty.ratio", "0.01".to_owned());
    set("delete.retention.ms", "0".to_owned());
    for style in &mut plan.producers {
        style.keys = Some(rng.range(2, 30));
        style.think = (MS, rng.range(5, 100) * MS);
    }
    plan
}

/// Batches with less in them than was committed, and tombstones that are gone.
#[derive(Default)]
struct Counts {
    batches: AtomicU64,
    tombstones: AtomicU64,
}

/// Faults, and quiet in which tombstones go; then what comes meets copies that miss some.
fn twice(world: &mut World) -> Time {
    world.set_up();
    world.start_clients();
    world.begin_faults();
    world.run_for(world.plan.chaos);
    world.heal();
    world.run_for(3 * SECOND);
    if !world.plan.menu.members {
        world.begin_faults();
        world.run_for(world.plan.chaos / 2);
        world.heal();
    }
    world.stop_producers();
    if !world.plan.shrink {
        world.settle_orders();
    }
    world.verdict()
}

fn story(world: &mut World, counts: &Counts) -> Time {
    let healed = if world.plan.seed.is_multiple_of(4) { twice(world) } else { run::whole(world) };
    counts.batches.fetch_add(world.check.compacted, Ordering::Relaxed);
    counts.tombstones.fetch_add(world.check.dropped, Ordering::Relaxed);
    healed
}

#[test]
fn compacted() {
    let counts = Counts::default();
    let report =
        over_seeds("compacted::compacted", Budget::Seeds(SHORT), plan, |world| story(world, &counts));
    let (batches, tombstones) = (counts.batches.into_inner(), counts.tombstones.into_inner());
    println!(
        "{batches} batches with less in them than was committed, {tombstones} tombstones gone\n{}",
        report.text()
    );
    assert!(
        batches > report.runs * 10 || report.runs < 5,
        "{batches} compacted batches in {} runs",
        report.runs
    );
    assert!(
        tombstones > report.runs || report.runs < 5,
        "{tombstones} tombstones went in {} runs",
        report.runs
    );
}
