//! The switches of `kontiki::mutation` that only whole clusters can show: each is caught within its seeds, as what it is, and the
//! very seed that catches it holds without it. `tests/mutations.sh` runs this; `KONTIKI_ONLY=Name` runs one.

use crate::autos;
use crate::heirs;
use crate::plan::Plan;
use crate::reads;
use crate::run::{run_with, whole};
use crate::trace::Trace;
use kontiki::mutation::{Mutation, Part, with};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The first seed in which the switch is noticed.
fn first(mutation: Mutation) -> Result<u64, String> {
    let case = mutation.case();
    for seed in 1..=case.seeds {
        let trace = Trace::new(false);
        let run = || match case.part {
            Part::CutOffLeader => run_with(reads::plan(seed), &trace, reads::story),
            Part::Autos => run_with(autos::plan(seed), &trace, autos::story),
            Part::Pairs => run_with(heirs::plan(seed), &trace, heirs::story),
            _ => run_with(Plan::random(seed), &trace, whole),
        };
        let Err(why) = with(mutation, run) else { continue };
        if !case.says.iter().any(|word| why.contains(word)) {
            return Err(format!("seed {seed} fails by accident: {why}"));
        }
        return run().map(|_| seed).map_err(|why| format!("seed {seed} fails without it too: {why}"));
    }
    Err(format!("survives {} seeds", case.seeds))
}

#[test]
fn every_switch_of_clusters_is_caught() {
    let only = std::env::var("KONTIKI_ONLY").ok().filter(|name| !name.is_empty());
    let named = |m: &&Mutation| only.as_ref().is_none_or(|name| *name == format!("{m:?}"));
    let cases = Mutation::ALL.iter().filter(|m| m.case().part.is_of_clusters()).filter(named);
    let cases: Vec<Mutation> = cases.copied().collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(mutation) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            match first(*mutation) {
                Ok(seed) => println!("{mutation:?}: seed {seed} of {}", mutation.case().seeds),
                Err(why) => wrong.lock().expect("nobody panics here").push(format!("{mutation:?} {why}")),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        for n in 0..cores {
            let named = std::thread::Builder::new().name(format!("sim-{n}"));
            named.spawn_scoped(scope, worker).expect("a thread starts");
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics here");
    assert!(wrong.is_empty(), "{} of {} switches:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
