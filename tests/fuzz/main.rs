//! Fuzzing in an ordinary test run: every input of `fuzz/corpus`, and for each target a bounded number of seeded mutations of them. The
//! targets are those of the crate `fuzz`, which libFuzzer drives (`tests/long/fuzz.sh`).
//!
//! `KONTIKI_FUZZ=60 cargo test --release --test fuzz NAME` mutates for so many seconds; `KONTIKI_SEED=n` says where they begin;
//! `KONTIKI_INPUT=FILE cargo test --release --test fuzz NAME` runs one file. An input that fails is left in `target/tmp`.

mod bombs;
mod meter;
mod mutator;
mod samples;
mod targets;

use meter::Meter;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::Target;

#[global_allocator]
static METER: Meter = Meter;

/// Longest time for one input; they take microseconds, recovery a few milliseconds.
const TIME_MAX: Duration = Duration::from_secs(10);

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no input", folder.display());
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Runs one input. What is wrong, if anything is.
fn run(target: &Target, input: &[u8]) -> Result<(), String> {
    let started = Instant::now();
    let (result, peak) = meter::peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let allowed = (target.memory)(input.len());
    if result.is_err() {
        Err("it panicked (above)".to_owned())
    } else if peak > allowed {
        Err(format!("it took {peak} bytes of memory, allowed are {allowed}"))
    } else if started.elapsed() > TIME_MAX {
        Err(format!("it took {:?}", started.elapsed()))
    } else {
        Ok(())
    }
}

/// Runs one input, and keeps it if it fails.
fn must_pass(target: &Target, input: &[u8], what: &str) {
    if let Err(why) = run(target, input) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
        std::fs::write(&path, input).expect("writable");
        panic!(
            "{}, {what}: {why}\nreplay: KONTIKI_INPUT={} cargo test --release --test fuzz {}",
            target.name,
            path.display(),
            target.name
        );
    }
}

/// The corpus, then mutations: so many, or for as long as `KONTIKI_FUZZ` says.
fn drive(target: Target, mutations: u64) {
    // What a target makes once for all inputs is not of the first one.
    (target.run)(&[0]);
    if let Ok(path) = std::env::var("KONTIKI_INPUT") {
        let input = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        return must_pass(&target, &input, &path);
    }
    let inputs = inputs(target.name);
    for (path, input) in &inputs {
        must_pass(&target, input, &path.display().to_string());
    }
    let others: Vec<_> = inputs.into_iter().map(|(_, input)| input).collect();
    let until = number("KONTIKI_FUZZ").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = number("KONTIKI_SEED").unwrap_or(1);
    let last = seed + mutations;
    while until.map_or(seed < last, |until| Instant::now() < until) {
        let mut rng = StdRng::seed_from_u64(seed);
        let input = mutator::mutate(&others[seed as usize % others.len()], &others, &mut rng);
        must_pass(&target, &input, &format!("KONTIKI_SEED={seed}"));
        seed += 1;
    }
    println!("{}: {} inputs of the corpus, mutations up to seed {seed}", target.name, others.len());
}

#[test]
fn frame_corpus_and_mutations_keep_the_invariants() {
    drive(targets::FRAME, 100_000);
}

#[test]
fn request_corpus_and_mutations_keep_the_invariants() {
    drive(targets::REQUEST, 150_000);
}

#[test]
fn batch_corpus_and_mutations_keep_the_invariants() {
    drive(targets::BATCH, 20_000);
}

#[test]
fn recovery_corpus_and_mutations_keep_the_invariants() {
    drive(targets::RECOVERY, 300);
}

#[test]
fn groups_corpus_and_mutations_keep_the_invariants() {
    drive(targets::GROUPS, 50_000);
}

#[test]
fn peer_corpus_and_mutations_keep_the_invariants() {
    drive(targets::PEER, 100_000);
}

#[test]
fn every_target_has_a_fuzz_target_and_a_corpus() {
    for target in targets::ALL {
        let file = corpus("../fuzz_targets").join(format!("{}.rs", target.name));
        assert!(file.is_file(), "{} is missing", file.display());
        assert!(!inputs(target.name).is_empty());
    }
}

#[test]
fn panic_and_too_much_memory_are_noticed() {
    let panics = Target { name: "panics", run: |input| assert!(input.len() < 3), memory: |_| 1 << 20 };
    assert_eq!(run(&panics, &[0; 2]), Ok(()));
    assert!(run(&panics, &[0; 3]).is_err_and(|why| why.contains("panicked")));
    let greedy = Target {
        name: "greedy",
        run: |input| drop(std::hint::black_box(vec![0u8; usize::from(input[0]) << 16])),
        memory: |_| 1 << 20,
    };
    assert_eq!(run(&greedy, &[1]), Ok(()));
    assert!(run(&greedy, &[255]).is_err_and(|why| why.contains("memory")));
}
