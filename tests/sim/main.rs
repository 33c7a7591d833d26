//! The cluster simulator: whole clusters in one thread from one seed, on the product's own code.
//!
//! `short` runs some hundred seeds and is part of every test run. `KONTIKI_SEED=n` runs that one alone and leaves its trace;
//! `KONTIKI_SEEDS=n` changes how many. `long` runs for `KONTIKI_SIM` seconds and demands that every rare event was met. See
//! docs/testing.md.

mod check;
mod client;
mod faults;
mod marks;
mod net;
mod node;
mod plan;
mod producer;
mod reader;
mod rng;
mod run;
mod trace;
mod world;

use plan::Plan;
use run::run_plan;
use trace::Trace;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn same_seed_twice_is_the_same_run() {
    for seed in 1..=3 {
        let run = || {
            let trace = Trace::new(false);
            run_plan(Plan::calm(seed), &trace).unwrap_or_else(|why| panic!("seed {seed}: {why}"))
        };
        let (one, two) = (run(), run());
        assert_eq!((one.hash, one.events, one.steps), (two.hash, two.events, two.steps), "seed {seed}");
    }
}

#[test]
fn calm_cluster_takes_everything_and_agrees() {
    let seed = number("KONTIKI_SEED").unwrap_or(7);
    let trace = Trace::new(true);
    match run_plan(Plan::calm(seed), &trace) {
        Ok(report) => {
            assert!(report.acks >= 200, "{report:?}");
            println!("{report:?}");
        }
        Err(why) => {
            let lines = trace.lines();
            let from = lines.len().saturating_sub(200);
            panic!("{}\n{why}", lines[from..].join("\n"));
        }
    }
}
