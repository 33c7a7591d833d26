//! Every fault there is, in a seeded random order and combination: episodes of one cluster each.
//!
//! Short in CI; as long as one likes by `tests/long/chaos.sh`. A seed gives the same faults on the same nodes again, not the same
//! moments: threads, wires and disks are real. Not here: how a fault is made (`stage`).

use super::inject::Tampering;
use super::stage::{CONVERGE, NODES, RESUME, Report, Stage};
use super::world::apart;
use crate::faults::{now_us, pause};
use crate::system::{BROKERS, CONTROLLER};
use crate::{number_from, rounds, seeded};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What happens to one node while the others are sound: every partition must be written again within `RESUME`.
#[derive(Clone, Copy, Debug)]
enum One {
    Kill,
    Terminate,
    PowerCut,
    Freeze,
    Isolate,
    IsolateWithClients,
    Deaf,
    Mute,
    Flap,
    FailSync,
    SlowSync,
    Full,
}

const ONES: &[One] = &[
    One::Kill,
    One::Terminate,
    One::PowerCut,
    One::Freeze,
    One::Isolate,
    One::IsolateWithClients,
    One::Deaf,
    One::Mute,
    One::Flap,
    One::FailSync,
    One::SlowSync,
    One::Full,
];

/// What no quorum survives: nothing may be acknowledged that is not true, and all must go on when it is over.
#[derive(Clone, Copy, Debug)]
enum Many {
    KillAll,
    PowerCutAll,
    PowerCutTwo,
    FreezeTwo,
    /// No node reaches any other.
    Shatter,
    /// The others stand still while one loses its power and comes back alone (the script that split NATS JetStream).
    PowerCutWhileOthersFreeze,
    /// One fault on one node, another on another.
    TwoAtOnce,
}

const MANIES: &[Many] = &[
    Many::KillAll,
    Many::PowerCutAll,
    Many::PowerCutTwo,
    Many::FreezeTwo,
    Many::Shatter,
    Many::PowerCutWhileOthersFreeze,
    Many::TwoAtOnce,
    Many::TwoAtOnce,
];

/// Injects it; whether every partition must be writable meanwhile.
fn inject_one(stage: &mut Stage, one: One, node: u32, rng: &mut StdRng) -> bool {
    match one {
        One::Kill => _ = stage.kill(&[node]),
        One::Terminate => _ = stage.terminate(node),
        One::PowerCut => _ = stage.cut_power(&[node]),
        One::Freeze => _ = stage.freeze(node),
        One::Isolate => _ = stage.isolate(&[node]),
        One::IsolateWithClients => {
            stage.shut_in_with(&[node]);
            let from = stage.isolate(&[node]);
            pause(rng, 500..3000);
            stage.was_silent(true, from);
        }
        One::Deaf => _ = stage.one_way(node, true),
        One::Mute => _ = stage.one_way(node, false),
        One::Flap => {
            for _ in 0..rng.random_range(2..8) {
                stage.isolate(&[node]);
                pause(rng, 50..900);
                stage.mend();
                pause(rng, 50..900);
            }
        }
        One::FailSync => _ = stage.tamper(node, Tampering::FailSync),
        One::SlowSync => _ = stage.tamper(node, Tampering::SlowSync(rng.random_range(10..400))),
        One::Full => {
            let leave = if rng.random_bool(0.5) { 32 << 20 } else { 0 };
            stage.fill(node, leave);
        }
    }
    // A full leader sends its producers back until there is room; a slow one is slow.
    !matches!(one, One::Full | One::SlowSync)
}

fn inject_many(stage: &mut Stage, many: Many, rng: &mut StdRng) {
    let one = *BROKERS.choose(rng).expect("brokers");
    let others = Stage::others(one);
    match many {
        Many::KillAll => _ = stage.kill(&NODES),
        Many::PowerCutAll => _ = stage.cut_power(&NODES),
        Many::PowerCutTwo => _ = stage.cut_power(&others),
        Many::FreezeTwo => others.into_iter().for_each(|id| _ = stage.freeze(id)),
        Many::Shatter => {
            NODES.into_iter().for_each(|id| _ = stage.isolate(&[id]));
            let from = now_us();
            pause(rng, 500..3000);
            stage.was_silent(false, from);
            stage.was_silent(true, from);
        }
        Many::PowerCutWhileOthersFreeze => {
            others.into_iter().for_each(|id| _ = stage.freeze(id));
            stage.cut_power(&[one]);
            stage.restart(&[one]);
        }
        Many::TwoAtOnce => {
            for node in [one, *others.choose(rng).expect("two")] {
                let fault = *ONES.choose(rng).expect("faults");
                inject_one(stage, fault, node, rng);
            }
        }
    }
}

/// One cluster, some faults, and the judgement.
fn episode(seed: u64, faults: usize) -> Report {
    eprintln!(
        "episode: KONTIKI_SEED={seed} KONTIKI_ROUNDS=1 cargo test --release --test cluster -- --nocapture mixed"
    );
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut stage = Stage::start("mixed", BTreeMap::new());
    let mut is_level = true;
    for _ in 0..faults {
        pause(rng, 0..1000);
        let from = now_us();
        if rng.random_bool(0.7) {
            let one = *ONES.choose(rng).expect("faults");
            let node =
                if rng.random_bool(0.15) { CONTROLLER } else { *BROKERS.choose(rng).expect("brokers") };
            if inject_one(&mut stage, one, node, rng) && is_level {
                stage.resumed(kind(one), from, RESUME);
            }
        } else {
            let many = *MANIES.choose(rng).expect("faults");
            inject_many(&mut stage, many, rng);
        }
        pause(rng, 0..4000);
        stage.heal();
        // Often the next fault comes while the last one is still being made up for.
        is_level = rng.random_bool(0.6);
        if is_level {
            stage.converge();
        } else if rng.random_bool(0.5) {
            let healed = now_us();
            stage.resumed("healing", healed, CONVERGE);
        }
    }
    if rng.random_bool(0.5) {
        stage.heal();
        stage.converge();
        let node = *BROKERS.choose(rng).expect("brokers");
        stage.kill(&[node]);
        stage.flip_bits(node, rng);
        stage.restart(&[node]);
    }
    stage.verify()
}

fn kind(one: One) -> &'static str {
    match one {
        One::Kill => "kill -9 of one",
        One::Terminate => "an orderly stop of one",
        One::PowerCut => "a power cut of one",
        One::Freeze => "freezing one",
        One::Isolate | One::IsolateWithClients => "isolating one",
        One::Deaf => "one went deaf",
        One::Mute => "one went mute",
        One::Flap => "one flapped",
        One::FailSync => "a failing fsync",
        One::SlowSync => "a slow fsync",
        One::Full => "a full disk",
    }
}

#[test]
fn mixed_faults_every_promise_is_kept() {
    apart(module_path!(), "mixed_faults_every_promise_is_kept", || {
        let (seed, _) = seeded();
        let minutes = number_from("KONTIKI_CHAOS_MINUTES");
        let end = minutes.map(|m| Instant::now() + Duration::from_secs(m * 60));
        let faults = if end.is_some() { 12 } else { 3 };
        let mut total = Report::default();
        let mut episodes = 0;
        while end.map_or(episodes < rounds(1) as u64, |end| Instant::now() < end) {
            total.add(episode(seed.wrapping_add(episodes), faults));
            episodes += 1;
            eprintln!("-- {episodes} episodes from seed {seed} so far\n{total}\nviolations: none");
        }
    });
}
