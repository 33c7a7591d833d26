//! Wires that fail: a leader cut off together with its clients, wires that carry one way only, wires that flap.
//! Each test is one cluster; the seeded mixture of all faults is in `mixed`.

use super::stage::{RESUME, Stage, TOPIC};
use super::world::apart;
use crate::faults::now_us;
use crate::rounds;
use std::collections::BTreeMap;
use std::time::Duration;

/// Elections a wire that fails once may cost a group: one for the fault, one to give leadership back, one for a split vote.
const TERMS_PER_FAULT: i32 = 4;

fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

fn assert_few_terms(before: &[i32], stage: &Stage, faults: i32) {
    let after = stage.epochs();
    let most = before.iter().zip(&after).map(|(b, a)| a - b).max().unwrap_or(0);
    assert!(most <= faults * TERMS_PER_FAULT, "terms ran from {before:?} to {after:?} in {faults} faults");
    stage.say(format_args!("at most {most} terms used in {faults} faults"));
}

/// Clients on both sides: those who reach the majority go on, those who are shut in with the old leader get no answer that
/// is not true; what it took meanwhile is cut when it is back, and no reader ever saw it.
#[test]
fn leader_isolated_with_its_clients_only_the_majority_acknowledges() {
    apart(module_path!(), "leader_isolated_with_its_clients_only_the_majority_acknowledges", || {
        let mut stage = Stage::start("isolated", BTreeMap::new());
        for round in 0..rounds(1) {
            let leader = stage.cluster.leader(TOPIC, round);
            stage.shut_in_with(&[leader]);
            let from = stage.isolate(&[leader]);
            stage.resumed("isolating a leader with its clients", from, RESUME);
            let said = stage.probe(round, true);
            assert!(!said.starts_with("ok"), "an isolated leader acknowledged: {said}");
            stage.say(format_args!("a record to the isolated leader: {said}"));
            stage.was_silent(true, from);
            stage.mend();
            stage.converge();
        }
        stage.verify();
    });
}

/// A leader that is not heard is replaced; one that does not hear steps down by itself (check quorum); a follower that
/// does not hear, or is not heard, deposes nobody (pre-vote). The same holds for one that comes and goes.
#[test]
fn wires_carry_one_way_then_flap_writing_goes_on_and_terms_stay_few() {
    apart(module_path!(), "wires_carry_one_way_then_flap_writing_goes_on_and_terms_stay_few", || {
        let mut stage = Stage::start("one-way", BTreeMap::new());
        for (round, deaf) in [true, false].into_iter().enumerate() {
            let before = stage.epochs();
            let node = stage.cluster.leader(TOPIC, round);
            let from = stage.one_way(node, deaf);
            stage.resumed(if deaf { "a node went deaf" } else { "a node went mute" }, from, RESUME);
            wait(1.5);
            let meanwhile = now_us();
            stage.resumed("a node stayed so", meanwhile, RESUME);
            stage.mend();
            stage.converge();
            assert_few_terms(&before, &stage, 1);
        }
        // Half a second off, half a second on, between a leader and everyone else.
        let before = stage.epochs();
        let node = stage.cluster.leader(TOPIC, 0);
        let from = now_us();
        for _ in 0..4 {
            stage.isolate(&[node]);
            wait(0.5);
            stage.mend();
            wait(0.5);
        }
        stage.resumed("a node flapped", from, RESUME);
        stage.converge();
        assert_few_terms(&before, &stage, 4);
        stage.verify();
    });
}
