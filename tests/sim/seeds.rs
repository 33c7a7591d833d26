//! Many seeds on all cores, and what is said of one that fails: the command that repeats it, and its trace.

use crate::plan::Plan;
use crate::run::{Report, run_with};
use crate::trace::Trace;
use crate::world::{Time, World};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lines of the trace that are shown; all of them are in the file.
const SHOWN: usize = 60;

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    Seeds(u64),
    Time(Duration),
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a story over seeds.
///
/// # Panics
/// With the first seed that fails, and how to repeat it.
pub fn over_seeds(
    test: &str,
    budget: Budget,
    plan: impl Fn(u64) -> Plan + Sync,
    story: impl Fn(&mut World) -> Time + Sync,
) -> Report {
    if let Some(seed) = number("KONTIKI_SEED") {
        return replay(test, plan(seed), &story).unwrap_or_else(|why| panic!("{why}"));
    }
    let (count, time) = match budget {
        Budget::Seeds(count) => (number("KONTIKI_SEEDS").unwrap_or(count), Duration::MAX),
        Budget::Time(time) => (u64::MAX, time),
    };
    let first = number("KONTIKI_FROM").unwrap_or(1);
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let total = Mutex::new(Report::default());
    let failure: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let worker = || {
        while !failed.load(Ordering::Relaxed) && begun.elapsed() < time {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                break;
            }
            match run_with(plan(seed), &Trace::new(false), &story) {
                Ok(report) => total.lock().expect("no worker panics here").add(&report),
                Err(why) => {
                    failed.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock().expect("no worker panics here");
                    if failure.as_ref().is_none_or(|(other, _)| seed < *other) {
                        *failure = Some((seed, why));
                    }
                }
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
    if let Some((seed, why)) = failure.into_inner().expect("no worker panics here") {
        match replay(test, plan(seed), &story) {
            Err(text) => panic!("{text}"),
            Ok(_) => {
                panic!("seed {seed} failed and then did not: the run is not a function of its seed\n{why}")
            }
        }
    }
    let mut total = total.into_inner().expect("no worker panics here");
    total.wall = begun.elapsed();
    total
}

/// Runs one seed with its trace.
fn replay(test: &str, plan: Plan, story: &(impl Fn(&mut World) -> Time + Sync)) -> Result<Report, String> {
    let seed = plan.seed;
    let trace = Trace::new(true);
    let text = format!("{plan:#?}");
    let done = run_with(plan, &trace, story);
    let lines = trace.lines();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sim-{test}-{seed}.trace"));
    let written = std::fs::write(&path, format!("{text}\n{}\n", lines.join("\n")));
    let place = written.map_or_else(|e| format!("not written: {e}"), |()| path.display().to_string());
    match done {
        Ok(report) => {
            println!("seed {seed} holds; trace: {place}");
            Ok(report)
        }
        Err(why) => {
            let from = lines.len().saturating_sub(SHOWN);
            let shown: Vec<String> = lines[from..].iter().map(|l| l.chars().take(300).collect()).collect();
            Err(format!(
                "{}\nVIOLATION, seed {seed}: {why}\n\ntrace: {place}\nrepeat: KONTIKI_SEED={seed} cargo test \
                 --release --test sim -- --exact {test} --nocapture --include-ignored\n",
                shown.join("\n")
            ))
        }
    }
}
