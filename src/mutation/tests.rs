//! Every switch that the library's own suites can show is caught within its seeds, as what it is, and the very seed that catches it
//! holds without it. `tests/mutations.sh` runs this; `KONTIKI_ONLY=Name` runs one.

/// Tests of the core from outside, here within reach of switches.
#[path = "../../tests/raft_paper.rs"]
mod raft_paper;

use super::{Mutation, Part, on, violation, with};
use crate::raftlog::core::tests::{doubt, scripts, simulation};
use crate::segment::tests::crash;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Tests of the library, by their paths.
macro_rules! tests {
    ($($first:ident $(:: $rest:ident)*),+ $(,)?) => {
        &[$((concat!(stringify!($first) $(, "::", stringify!($rest))*), crate::$first $(::$rest)* as fn())),+]
    };
}

const TESTS: &[(&str, fn())] = tests![
    segment::tests::crash::failed_sync_then_restart_in_the_same_boot_then_power_cut_keeps_what_the_restart_showed,
    segment::tests::crash::failed_sync_then_power_cut_loses_nothing_completed,
    segment::tests::faults::granted_append_meets_no_full_disk_even_where_it_rolls,
    segment::tests::sweep::damaged_journal_never_lies,
    segment::tests::sweep::damaged_segment_never_lies,
    segment::tests::basics::leftovers_of_a_torn_round_are_never_written_over,
    segment::tests::scrubbing::flipped_bit_is_found_without_a_reader,
    segment::tests::repairs::entry_of_another_epoch_is_not_taken,
    segment::tests::rewriting::power_cut_at_any_change_of_a_rewrite_leaves_the_old_or_the_new,
    segment::tombstones::tests::schedules::member_that_comes_back_from_outside_behind_what_was_dropped_begins_anew,
    segment::tombstones::tests::schedules::repair_from_a_copy_that_misses_tombstones_is_refused_where_their_records_are,
    segment::tombstones::tests::schedules::pass_ends_when_a_file_was_repaired_meanwhile,
    segment::tombstones::tests::schedules::replica_brought_up_by_a_second_leader_that_misses_tombstones_begins_anew,
    segment::tombstones::tests::schedules::leader_that_drops_while_it_brings_a_replica_up_is_not_followed_further,
    segment::tombstones::tests::schedules::repair_from_a_less_clean_copy_lowers_clean_and_is_refused_where_tombstones_are_missing,
    segment::tombstones::tests::schedules::two_sources_of_one_file_are_judged_together,
    segment::tombstones::tests::schedules::copy_that_was_cut_below_what_it_had_cleaned_says_what_it_misses,
    segment::tests::told_once::round_is_not_durable_because_the_checkpoint_was_told_of_its_failure,
    segment::tests::loose::power_cuts_and_kills_at_random_moments_lose_nothing_but_what_is_in_doubt,
    segment::tests::loose::strict_changes_take_all_entries_before_them_along,
    segment::tests::loose::round_from_before_a_cut_does_not_vouch_for_the_same_entries_after_it,
    segment::tests::loose::sync_from_before_a_cut_does_not_vouch_for_the_same_entries_after_it,
    raftlog::engine::tests::unsynced::leader_whose_topic_says_sync_again_counts_what_is_durable_whatever_its_followers_know,
    raftlog::engine::tests::unsynced::group_of_one_always_syncs_and_so_does_one_that_shrinks_to_it,
    ctl::tests::members::dead_voter_ceases_to_vote_at_once_and_stays_a_learner,
    ctl::tests::members::learner_that_is_behind_or_not_heard_does_not_vote,
    ctl::tests::members::intent_is_written_once_per_generation_and_only_for_groups_of_the_asker,
    ctl::tests::generations::nothing_is_decided_that_the_seals_do_not_prove,
    ctl::tests::generations::seal_of_a_replica_that_is_not_placed_counts_for_nothing,
    raftlog::core::tests::simulation::bad_links_terms_stay_bounded_and_commits_go_on,
    mutation::tests::raft_paper::candidate_meeting_the_leader_of_its_term_returns_to_follower,
    mutation::tests::raft_paper::survivor_that_is_not_exactly_what_was_decided_on_refuses,
    raftlog::generation::tests::cases_of_the_shrink_table_are_judged_as_it_says,
    raftlog::offline::tests::copies_are_judged_by_the_table_of_decision_0018,
    raftlog::offline::tests::copy_ended_by_another_plan_proves_nothing,
    raftlog::offline::tests::generation_opened_without_the_heir_is_not_the_heirs_own,
    raftlog::offline::tests::heir_that_an_operators_plan_ended_does_not_go_on_by_itself,
    broker::groups::tests::random::random_sequences_keep_every_promise,
    broker::fetch_sessions::tests::incremental_reader_knows_what_a_full_reader_is_told,
    broker::offline::tests::second_recovery_from_other_copies_is_refused,
    broker::offline::accepting_tests::entries_that_only_a_brokers_copy_holds_are_taken_over,
    ctl::tests::offline::partition_that_nobody_leads_goes_on_only_as_an_operator_says,
    ctl::tests::offline::disk_that_was_given_up_never_registers_again,
    raftlog::engine::tests::power_cut_at_any_write_of_a_take_over_leaves_all_or_nothing_of_it,
    raftlog::engine::tests::seal_is_reported_only_when_all_before_it_is_durable,
    raftlog::engine::tests::message_of_a_former_process_is_dropped,
    raftlog::engine::tests::quiet::group_removed_from_a_follower_counts_as_silent,
    ctl::tests::liveness::new_controller_leader_grants_every_broker_a_full_session,
    broker::shard::anew::tests::replica_begins_anew_only_where_two_others_vote_that_are_there,
    broker::shard::alone_tests::controller_log_is_kept_where_a_snapshot_holds_other_metadata,
    broker::shard::alone_tests::retry_of_a_batch_that_was_lost_is_new,
    broker::compaction::tests::random_logs_keep_what_a_naive_model_keeps_pass_after_pass,
    broker::shard::alone_tests::cleaning::tombstone_goes_when_its_time_is_over_in_a_later_pass_than_what_it_deletes,
    broker::shard::alone_tests::cleaning::compaction_ends_when_its_log_is_another,
    segment::tests::rewriting::damaged_record_of_a_rewrite_costs_nothing_that_the_old_files_hold,
    broker::shard::alone_tests::replica_that_moved_away_is_not_made_again_while_the_log_is_read_again,
    ctl::tests::reassign::arrival_of_another_target_or_generation_lets_nobody_go,
    broker::shard::alone_tests::decommissioned_broker_that_runs_is_unregistered_when_it_says_that_it_holds_nothing,
    ctl::tests::members::voter_that_is_to_leave_stays_while_one_of_the_target_is_missing,
    ctl::tests::members::replica_that_is_to_leave_and_keeps_up_votes_until_the_newcomers_are_there,
    ctl::tests::drain::unregistering_twice_does_not_forget_that_a_broker_was_decommissioned,
    ctl::tests::decide::producer_ids_come_in_blocks_and_never_twice,
    ctl::tests::lease::no_lease_is_believed_in_when_the_controllers_take_it_for_over,
    ctl::tests::lease::answer_to_an_earlier_process_is_no_lease,
    ctl::tests::lease::answers_from_before_the_policy_changed_certify_nothing,
    ctl::tests::lease::earlier_process_is_waited_for_though_the_present_one_has_said,
    ctl::tests::auto::broker_that_stopped_in_order_is_waited_for_until_its_grace_is_over,
    ctl::tests::image::number_of_an_entry_orders_by_generation_then_index,
    broker::groups::tests::worlds::random_worlds_have_one_owner_and_no_offset_that_goes_back,
    broker::groups::tests::rules::only_members_of_the_generation_commit_and_others_only_where_there_are_none,
    broker::groups::tests::rules::generation_outlives_its_coordinator_and_members_have_a_session_to_find_the_next,
    broker::groups::tests::rules::static_member_is_back_without_a_rebalance_and_its_old_self_is_fenced,
    broker::groups::tests::rules::offsets_end_when_kafka_ends_them,
    broker::shard::alone_tests::groups::coordinator_serves_once_its_log_is_read_and_one_part_of_one_log_is_read_in_a_turn,
];

fn run(part: Part, seed: u64) {
    match part {
        Part::Cores => simulation::run_seed(seed),
        Part::Amnesia => doubt::run_seed(seed),
        Part::Script(name) => scripts::check(name),
        Part::PowerCuts => crash::power_cuts(seed, 6),
        Part::Test(name) => {
            let (_, test) = TESTS.iter().find(|(known, _)| *known == name).expect("a test of the list");
            test();
        }
        Part::Clusters | Part::CutOffLeader | Part::Autos | Part::Pairs => {
            unreachable!("tests/sim/mutations.rs")
        }
    }
}

/// The first seed in which the switch is noticed.
fn first(mutation: Mutation) -> Result<u64, String> {
    let case = mutation.case();
    for seed in 0..case.seeds {
        let Some(why) = violation(|| with(mutation, || run(case.part, seed))) else { continue };
        if !case.says.iter().any(|word| why.contains(word)) {
            return Err(format!("seed {seed} fails by accident: {why}"));
        }
        return match violation(|| run(case.part, seed)) {
            None => Ok(seed),
            Some(why) => Err(format!("seed {seed} fails without it too: {why}")),
        };
    }
    Err(format!("survives {} seeds", case.seeds))
}

#[test]
fn every_switch_of_the_library_is_caught() {
    let only = std::env::var("KONTIKI_ONLY").ok().filter(|name| !name.is_empty());
    let named = |m: &&Mutation| only.as_ref().is_none_or(|name| *name == format!("{m:?}"));
    let cases = Mutation::ALL.iter().filter(|m| !m.case().part.is_of_clusters()).filter(named);
    let cases: Vec<Mutation> = cases.copied().collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(mutation) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            match first(*mutation) {
                Ok(seed) => println!(
                    "{mutation:?}: seed {seed} of {} ({} ms)",
                    mutation.case().seeds,
                    begun.elapsed().as_millis()
                ),
                Err(why) => wrong.lock().expect("nobody panics here").push(format!("{mutation:?} {why}")),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(worker))));
    let wrong = wrong.into_inner().expect("nobody panics here");
    assert!(wrong.is_empty(), "{} of {} switches:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// docs/testing.md lists every switch, as it is here; the seeds that noticed first are the page's own.
#[test]
fn table_of_the_documentation_is_this_one() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/testing.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let row = |m: &Mutation| {
        let case = m.case();
        format!("| `{m:?}` | {} ({}) | {} | {} |", case.breaks, case.rule, case.part, case.seeds)
    };
    let missing: Vec<String> = Mutation::ALL.iter().map(row).filter(|row| !page.contains(row)).collect();
    assert!(missing.is_empty(), "missing in docs/testing.md:\n{}", missing.join("\n"));
    let listed = page.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 4);
    let known = |line: &&str| Mutation::ALL.iter().any(|m| line.starts_with(&row(m)));
    let unknown: Vec<&str> = listed.filter(|line| !known(line)).filter(|l| l.contains("| *")).collect();
    assert!(unknown.is_empty(), "docs/testing.md lists what is no switch: {unknown:#?}");
}

#[test]
fn switch_is_on_inside_its_run_alone_and_in_its_thread_alone() {
    let mutation = Mutation::SkipJournalSync;
    with(mutation, || {
        assert!(on(mutation) && !on(Mutation::CommitOldTerm));
        let elsewhere = std::thread::spawn(move || on(mutation)).join().expect("it only looks");
        assert!(!elsewhere);
    });
    assert!(!on(mutation));
    let said = violation(|| with(mutation, || panic!("on: {}", on(mutation))));
    assert!(said.is_some_and(|why| why.starts_with("on: true (at src/mutation/tests.rs")));
    assert!(!on(mutation), "off again after a panic");
    assert_eq!(violation(|| {}), None);
}
