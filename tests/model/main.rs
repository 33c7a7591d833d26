//! The explicit-state model of one Raft group's generations, its shrink and its doubt (docs/safety.md section 4),
//! explored breadth first by stateright: every state within bounds, not a sample.
//!
//! It checks the rules F1, F2, F3, F4, F11 and F16, not the product: what the product does with them is the simulators' part.
//! With all rules kept nothing may be violated and every "sometimes" mark must be reached; with one rule broken a
//! violation must be found within a bounded number of states, or the model would not show that the rule is needed.
//!
//! The default run holds the small scenarios and every broken rule. The whole, some minutes and about 2 GB:
//!
//! ```sh
//! cargo test --release --test model -- --include-ignored --nocapture --test-threads 1
//! ```

mod machine;
mod rules;
mod state;

use machine::Machine;
use rules::Weakening::*;
use rules::*;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::num::NonZeroUsize;
use std::time::Instant;

/// Within so many generated states a broken rule must show itself.
const STATES_MAX: usize = 5_000_000;

/// What an exploration found.
struct Found {
    states: usize,
    /// The violated property with the schedule that leads there.
    violated: Option<(&'static str, String)>,
    /// Marks that no state reached.
    unreached: Vec<&'static str>,
}

/// Explores up to `limit` states (counted as generated), all of them unless a property is violated first.
fn explore(scenario: Scenario, broken: &[Weakening], limit: usize) -> Found {
    let started = Instant::now();
    let machine = Machine { scenario, broken: Broken::of(broken) };
    let checker = machine
        .checker()
        .threads(std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(4))
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(limit)
        .spawn_bfs()
        .join();
    let mut found = Found { states: checker.unique_state_count(), violated: None, unreached: Vec::new() };
    let mut discoveries = checker.discoveries();
    for property in checker.model().properties() {
        match (property.expectation, discoveries.remove(property.name)) {
            (Expectation::Always, Some(path)) => {
                let end = *path.last_state();
                let steps: Vec<_> = path.into_actions();
                let schedule = format!("{} steps: {steps:?}\n{:#?}", steps.len(), end.replicas);
                found.violated.get_or_insert((property.name, schedule));
            }
            (Expectation::Sometimes, None) => found.unreached.push(property.name),
            _ => {}
        }
    }
    let generated = checker.state_count();
    println!(
        "{:>10} states {generated:>11} generated {:>6.1} s  {}",
        found.states,
        started.elapsed().as_secs_f64(),
        found.violated.as_ref().map_or("holds".into(), |(name, schedule)| {
            format!("violated after {}: {name}", schedule.split(':').next().unwrap_or_default())
        }),
    );
    assert!(
        found.violated.is_some() || generated < limit,
        "no answer within {limit} generated states: the bounds are too wide"
    );
    found
}

/// All rules kept: no violation anywhere, and the marks are reached, so the bounds are wide enough to mean something.
#[track_caller]
fn holds(scenario: Scenario, broken: &[Weakening]) {
    let found = explore(scenario, broken, usize::MAX >> 1);
    if let Some((property, schedule)) = found.violated {
        panic!("violated: {property}, after {schedule}");
    }
    assert!(found.unreached.is_empty(), "never reached: {:?}", found.unreached);
}

/// One rule broken: a violation within `STATES_MAX` generated states.
#[track_caller]
fn violated(scenario: Scenario, broken: &[Weakening]) {
    let found = explore(scenario, broken, STATES_MAX);
    assert!(
        found.violated.is_some(),
        "{} states hold without {broken:?}: the rule is not shown",
        found.states
    );
}

macro_rules! cases {
    ($($(#[$attribute:meta])* $name:ident: $check:ident($($argument:expr),*);)*) => {
        $(
            $(#[$attribute])*
            #[cfg_attr(debug_assertions, ignore = "millions of states: release builds only")]
            #[test]
            fn $name() {
                $check($($argument),*);
            }
        )*
    };
}

// All rules kept, small bounds.
cases! {
    plain_raft_with_a_change_holds: holds(PLAIN, &[]);
    pair_that_shrinks_holds: holds(Scenario { terms: [2, 1], values: 1, ..PAIR }, &[]);
    trio_that_shrinks_twice_holds: holds(Scenario { values: 1, ..TRIO }, &[]);
    two_of_four_holds: holds(Scenario { terms: [1, 1], ..FOUR }, &[]);
    regrown_group_holds: holds(Scenario { values: 1, ..REGROW }, &[]);
    unclean_survivor_and_returned_majority_hold: holds(Scenario { terms: [1, 2], values: 1, ..UNCLEAN }, &[]);
    lost_suffix_with_doubt_holds: holds(Scenario { values: 1, ..ASYNC }, &[]);
    all_lose_their_suffix_unanimity_holds:
        holds(Scenario { values: 1, losses: 3, unanimity: true, ..ASYNC }, &[]);
    pair_loses_suffixes_and_shrinks_holds: holds(ASYNC_PAIR, &[]);
    lost_vote_cleared_by_a_confirmed_leader_holds:
        holds(Scenario { values: 1, loses_term: true, ..ASYNC }, &[]);
    heir_of_a_pair_goes_on_alone_holds: holds(HEIRS, &[]);
    heir_of_those_that_three_leave_holds: holds(Scenario { terms: [1, 1], ..HEIRS_OF_THREE }, &[]);
    // The two restrictions that the model showed to be needless.
    in_doubt_counted_with_its_vote_intact_holds: holds(Scenario { values: 1, ..ASYNC }, &[InDoubtCounted]);
    up_to_date_by_term_with_f3_kept_holds:
        holds(Scenario { terms: [1, 2], ..UNCLEAN_REGROW }, &[UpToDateByTerm]);
}

// Every rule broken once: safety.md section 4, second table.
cases! {
    controllers_own_configuration_loses_acked:
        violated(Scenario { values: 1, ..PAIR }, &[ControllersOwnConfiguration]);
    joint_old_half_only_loses_acked: violated(Scenario { values: 1, ..PAIR }, &[JointOldHalfOnly]);
    joint_new_half_only_loses_acked: violated(TRIO, &[JointNewHalfOnly]);
    single_step_change_loses_acked: violated(TRIO, &[SingleStepChange]);
    report_without_seal_loses_acked: violated(PAIR, &[ReportWithoutSeal]);
    seal_forgotten_on_restart_loses_acked: violated(PAIR, &[SealForgottenOnRestart]);
    seal_without_fsync_and_check_loses_acked: violated(ASYNC_CHANGE, &[SealWithoutFsync, NoCheckAtSurvivor]);
    survivor_in_doubt_loses_acked: violated(ASYNC_CHANGE, &[SurvivorInDoubt]);
    survivor_not_best_loses_acked: violated(TRIO, &[SurvivorNotBest]);
    two_decisions_lose_acked: violated(PAIR, &[TwoDecisions]);
    old_order_replayed_makes_two_leaders: violated(Scenario { values: 0, ..REGROW }, &[OldOrderReplayed]);
    old_configuration_kept_makes_two_leaders: violated(FOUR, &[OldConfigurationKept]);
    anyone_of_a_pair_loses_acked: violated(HEIRS, &[AnyoneOfAPair]);
    heir_of_the_new_half_only_loses_acked: violated(HEIRS, &[JointNewHalfOnly]);
    heir_that_does_not_know_what_followed_loses_acked: violated(HEIRS, &[HeirOfTheOldHalf]);
    no_boot_gate_loses_acked: violated(UNCLEAN, &[NoBootGate]);
    match_by_term_above_own_loses_acked:
        violated(Scenario { first_term: FirstTerm::AboveOwn, ..REGROW_ALL }, &[MatchByTerm]);
    match_by_term_above_sealed_unclean_loses_acked:
        violated(Scenario { first_term: FirstTerm::AboveSealed, ..UNCLEAN_REGROW }, &[MatchByTerm]);
    in_doubt_votes_loses_acked: violated(ASYNC, &[InDoubtVotes]);
    cleared_by_any_leader_loses_acked: violated(ASYNC, &[ClearedByAnyLeader]);
    lost_vote_cleared_unconfirmed_makes_two_leaders:
        violated(Scenario { loses_term: true, ..ASYNC }, &[ClearedUnconfirmed]);
    lost_vote_counted_makes_two_values: violated(Scenario { loses_term: true, ..ASYNC }, &[InDoubtCounted]);
}

// The whole: safety.md section 4, first table, and the weakenings that hold at full size.
cases! {
    #[ignore = "whole"] whole_pair_holds: holds(PAIR, &[]);
    #[ignore = "whole"] whole_pair_three_terms_holds:
        holds(Scenario { terms: [3, 1], values: 1, ..PAIR }, &[]);
    #[ignore = "whole"] whole_trio_holds: holds(TRIO, &[]);
    #[ignore = "whole"] whole_trio_three_terms_holds:
        holds(Scenario { terms: [3, 1], values: 1, ..TRIO }, &[]);
    #[ignore = "whole"] whole_heirs_of_three_holds:
        holds(Scenario { terms: [3, 1], values: 2, ..HEIRS_OF_THREE }, &[]);
    #[ignore = "whole"] whole_two_of_four_holds: holds(FOUR, &[]);
    #[ignore = "whole"] whole_regrow_holds: holds(REGROW, &[]);
    #[ignore = "whole"] whole_regrow_by_term_above_sealed_holds:
        holds(Scenario { first_term: FirstTerm::AboveSealed, ..REGROW }, &[MatchByTerm]);
    #[ignore = "whole"] whole_unclean_holds: holds(Scenario { values: 1, ..UNCLEAN }, &[]);
    #[ignore = "whole"] whole_unclean_regrow_holds: holds(UNCLEAN_REGROW, &[]);
    #[ignore = "whole"] whole_async_holds: holds(ASYNC, &[]);
    #[ignore = "whole"] whole_async_change_holds: holds(ASYNC_CHANGE, &[]);
    #[ignore = "whole"] whole_async_two_losses_unanimity_holds:
        holds(Scenario { losses: 2, unanimity: true, ..ASYNC }, &[]);
    #[ignore = "whole"] whole_async_change_unanimity_counted_holds:
        holds(Scenario { unanimity: true, ..ASYNC_CHANGE }, &[InDoubtCounted]);
    #[ignore = "whole"] whole_lost_vote_holds: holds(Scenario { loses_term: true, ..ASYNC }, &[]);
    #[ignore = "whole"] whole_in_doubt_counted_holds: holds(ASYNC, &[InDoubtCounted]);
    #[ignore = "whole"] whole_in_doubt_counted_two_losses_holds:
        holds(Scenario { losses: 2, unanimity: true, ..ASYNC }, &[InDoubtCounted]);
    #[ignore = "whole"] whole_up_to_date_by_term_holds: holds(UNCLEAN_REGROW, &[UpToDateByTerm]);
    #[ignore = "whole"] whole_seal_without_fsync_checked_at_survivor_holds:
        holds(ASYNC_CHANGE, &[SealWithoutFsync]);
}
