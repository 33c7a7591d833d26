//! The cluster simulator: whole clusters in one thread from one seed, on the product's own code.
//!
//! `short` runs some hundred seeds and is part of every test run. `KONTIKI_SEED=n` runs that one alone and leaves its trace;
//! `KONTIKI_SEEDS=n` changes how many. `long` runs for `KONTIKI_SIM` seconds and demands that every rare event was met. See
//! docs/testing.md.

mod autos;
mod check;
mod clerk;
mod client;
mod compacted;
mod faults;
mod heirs;
mod history;
mod labs;
mod lost;
mod marks;
mod master;
mod moves;
#[cfg(feature = "mutations")]
mod mutations;
mod net;
mod node;
mod plan;
mod producer;
mod reader;
mod reads;
mod restarts;
mod rng;
mod run;
mod scenarios;
mod seeds;
mod trace;
mod world;

use plan::Plan;
use run::run_plan;
use seeds::{Budget, number, over_seeds};
use std::time::Duration;
use trace::Trace;

/// Seeds of the default run; fewer where the compiler was not asked for speed.
const SHORT: u64 = if cfg!(debug_assertions) { 20 } else { 1_000 };

#[test]
fn same_seed_twice_is_the_same_run() {
    for seed in 1..=3 {
        for plan in [Plan::calm(seed), Plan::random(seed)] {
            let run = || {
                let plan = plan.clone();
                run_plan(plan, &Trace::new(false)).unwrap_or_else(|why| panic!("seed {seed}: {why}"))
            };
            let (one, two) = (run(), run());
            assert_eq!((one.hash, one.events, one.steps), (two.hash, two.events, two.steps), "seed {seed}");
        }
    }
}

#[test]
fn calm_cluster_takes_everything_and_agrees() {
    let name = "calm_cluster_takes_everything_and_agrees";
    let report = over_seeds(name, Budget::Seeds(3), Plan::calm, run::whole);
    assert!(report.acks >= report.runs * 200, "{report:?}");
}

#[test]
fn short() {
    let report = over_seeds("short", Budget::Seeds(SHORT), Plan::random, run::whole);
    println!("{}", report.text());
}

#[test]
#[ignore = "runs for KONTIKI_SIM seconds"]
fn long() {
    let seconds = number("KONTIKI_SIM").unwrap_or(600);
    let report = over_seeds("long", Budget::Time(Duration::from_secs(seconds)), Plan::random, run::whole);
    println!("{}", report.text());
    let missing = report.marks.missing();
    assert!(missing.is_empty() || number("KONTIKI_SEED").is_some(), "rare events never met: {missing:?}");
}
