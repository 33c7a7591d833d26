//! Switches that break the product on purpose, one rule each: a suite that does not fail then has a hole.
//!
//! Called by product code as `on(Mutation::X)` at the very place where a rule is kept. Without the feature `mutations` that is
//! `false` at compile time and nothing of this is left, names included (`tests/cli.rs` looks for them in the binary). With it a switch is on
//! for a thread inside `with`, or for a whole process by `KONTIKI_MUTATION=Name,Name`.
//!
//! Beside each switch stands who must notice, within how many seeds, and as a violation of what. `tests` holds that against the library's own suites,
//! `tests/sim/mutations.rs` against whole clusters; both: `tests/mutations.sh`. The table in docs/testing.md is held to this one.
//! Not here: faults of the world (disks, networks, crashes); those are the simulators'.
//! Invariant: a switch breaks one rule and nothing else, and only while it is on.

#[cfg(all(test, feature = "mutations"))]
mod tests;

/// Whether this rule is to be broken.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn on(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use switched::{on, violation, with};

/// Defines the switches, and with the feature what is known of each.
macro_rules! mutations {
    ($($(#[doc = $breaks:literal])+ $name:ident: $rule:literal, $part:expr, $seeds:literal, [$($says:literal),+];)+) => {
        /// A rule to break; each says what happens instead.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[doc = $breaks])+ $name,)+
        }

        #[cfg(feature = "mutations")]
        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What is known of it.
            pub fn case(self) -> Case {
                use Part::*;
                match self {
                    $(Self::$name => Case {
                        breaks: concat!($($breaks),+).trim(),
                        rule: $rule,
                        part: $part,
                        seeds: $seeds,
                        says: &[$($says),+],
                    },)+
                }
            }
        }
    };
}

/// A switch, and who must notice it.
#[cfg(feature = "mutations")]
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What happens instead of what should.
    pub breaks: &'static str,
    /// The rule's sources: sections of the Raft paper, of safety.md (F), of the design (P, section).
    pub rule: &'static str,
    /// Part of the suite that must fail.
    pub part: Part,
    /// Within so many seeds.
    pub seeds: u64,
    /// One of these must be in what it says: a failure for any other reason is an accident.
    pub says: &'static [&'static str],
}

/// Parts of the suite.
#[cfg(feature = "mutations")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `raftlog::core::tests::simulation`: clusters of cores under faults.
    Cores,
    /// `raftlog::core::tests::doubt`: the same with amnesia.
    Amnesia,
    /// A golden script of the core.
    Script(&'static str),
    /// `segment::tests::crash`: random work and power cuts.
    PowerCuts,
    /// A single test of the library.
    Test(&'static str),
    /// `tests/sim`: whole clusters.
    Clusters,
    /// `tests/sim`, `reads`: leaders cut off from the others, asked for their ends.
    CutOffLeader,
    /// `tests/sim`, `autos`: old majorities cut off from the controllers while their partitions go on without them.
    Autos,
    /// `tests/sim`, `heirs`: of three combined nodes one is dead and the other two are cut off from each other.
    Pairs,
}

#[cfg(feature = "mutations")]
impl Part {
    /// Whether `tests/sim` is to run it.
    pub fn is_of_clusters(self) -> bool {
        matches!(self, Self::Clusters | Self::CutOffLeader | Self::Autos | Self::Pairs)
    }
}

#[cfg(feature = "mutations")]
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cores => f.write_str("*cores*"),
            Self::Amnesia => f.write_str("*amnesia*"),
            Self::Script(name) => write!(f, "script `{name}`"),
            Self::PowerCuts => f.write_str("*power cuts*"),
            Self::Test(name) => write!(f, "`{name}`"),
            Self::Clusters => f.write_str("*clusters*"),
            Self::CutOffLeader => f.write_str("*cut-off leaders*"),
            Self::Autos => f.write_str("*autos*"),
            Self::Pairs => f.write_str("*pairs*"),
        }
    }
}

mutations! {
    // Storage.
    /// a round counts as durable without the journal's fsync
    SkipJournalSync: "P1, design 4", PowerCuts, 5, ["was durable", "is sound"];
    /// a round by reference counts without the fsync of its segments
    SkipExtentSync: "F12, safety 3", PowerCuts, 10, ["was durable", "is sound"];
    /// a checkpoint names segments that were not fsynced
    SkipCheckpointSync: "F8, design 4", PowerCuts, 10, ["was durable", "is sound"];
    /// names of new files are not made durable
    SkipDirectorySync: "design 4", PowerCuts, 10, ["was durable", "is sound"];
    /// the manifest is written before the segments it names are fsynced
    ManifestBeforeSegments: "F8, design 4", PowerCuts, 200, ["was durable", "is sound"];
    /// journal files are freed before the checkpoint that makes them obsolete
    FreeJournalEarly: "F8", PowerCuts, 20, ["was durable", "is sound", "no sound manifest"];
    /// a checkpoint leaves the votes out: an idle group's is nowhere then
    DropIdleVotes: "F8", PowerCuts, 10, ["was durable"];
    /// recovery fsyncs what it takes over, and does not write it again
    TakeOverWithoutWriting: "F9", Test("segment::tests::crash::failed_sync_then_restart_in_the_same_boot_then_power_cut_keeps_what_the_restart_showed"), 1, ["is sound", "was durable", "damaged: entry"];
    /// recovery does not fsync what it writes again
    SkipSyncAtRecovery: "F9", PowerCuts, 20, ["was durable", "is sound"];
    /// a failed fsync is made again, and believed
    RetryFailedSync: "design 4", Test("segment::tests::crash::failed_sync_then_power_cut_loses_nothing_completed"), 1, ["was durable", "is sound"];
    /// of those who sync a file, one is told that a write-back failed
    TellOnce: "F9", Test("segment::tests::told_once::round_is_not_durable_because_the_checkpoint_was_told_of_its_failure"), 1, ["its bytes are on no disk"];
    /// a damaged batch ends the journal like a torn one
    DamageIsEndOfLog: "F8, P5", Test("segment::tests::sweep::damaged_journal_never_lies"), 1, ["without a word", "forgot its vote", "a group is gone"];
    /// a torn batch is taken for a damaged one
    TearIsDamage: "F8", PowerCuts, 20, ["was durable", "is sound"];
    /// an extent that a torn round left unfinished is taken for a damaged one
    TornExtentIsDamage: "F12, safety 3", PowerCuts, 20, ["was durable", "is sound"];
    /// batches do not say that the one before is complete
    ForgetDurableThrough: "F8", Test("segment::tests::sweep::damaged_journal_never_lies"), 1, ["without a word", "forgot its vote", "a group is gone"];
    /// after a truncation the log goes on in place, over what was cut
    CutInPlace: "F7", PowerCuts, 20, ["was durable", "is sound", "assertion `left == right` failed: seed"];
    /// what a round that never completed left in a segment is written over
    OverwriteLeftovers: "F7", Test("segment::tests::basics::leftovers_of_a_torn_round_are_never_written_over"), 1, ["seed 0", "seed 1", "stays as it was"];
    /// bytes from a map are served without their CRC
    SkipReadCheck: "P5, design 4", Test("segment::tests::sweep::damaged_segment_never_lies"), 1, ["serves a wrong entry"];
    /// the scrub reads and does not check
    ScrubWithoutCheck: "design 4", Test("segment::tests::scrubbing::flipped_bit_is_found_without_a_reader"), 1, ["found"];
    /// a repair takes entries of any epoch
    MendWithAnything: "decisions/0007", Test("segment::tests::repairs::entry_of_another_epoch_is_not_taken"), 1, ["segment/tests/repairs.rs"];
    /// entries are taken before there is space for them
    SpaceAfterAppend: "F13", Test("segment::tests::faults::granted_append_meets_no_full_disk_even_where_it_rolls"), 1, ["what was taken has its space", "it was granted"];
    /// a rewritten file takes the place of others before it is fsynced
    SwapBeforeSync: "decisions/0020", Test("segment::tests::rewriting::power_cut_at_any_change_of_a_rewrite_leaves_the_old_or_the_new"), 1, ["is sound", "damaged"];
    /// a take-over stores its entry and not the state that goes with it
    TakeOverWithoutState: "F2", Test("raftlog::engine::tests::power_cut_at_any_write_of_a_take_over_leaves_all_or_nothing_of_it"), 1, ["raftlog/engine/tests.rs"];

    // Raft.
    /// the leader counts its own copy from the append on
    CountUnsyncedOwn: "P1", Cores, 10, ["voters hold it"];
    /// an append is acknowledged before it is durable
    AcknowledgeUnsynced: "P1, Raft fig. 2", Cores, 10, ["which is not durable"];
    /// answers to beats name entries that are not durable
    BeatUnsynced: "P1", Cores, 10, ["which is not durable"];
    /// votes and acknowledgements leave before what they promise is stored
    SpeakBeforeStored: "Raft fig. 2", Cores, 10, ["before it is durable", "which is not durable"];
    /// learners count for commit
    CountLearners: "P1, Raft §6", Cores, 50, ["voters hold it"];
    /// entries of older terms are committed by counting
    CommitOldTerm: "Raft §5.4.2", Cores, 20, ["of an older epoch"];
    /// a follower commits whatever its log ends with
    CommitUnverified: "Raft §5.3", Cores, 50, ["committed entry changed", "lacks committed"];
    /// a vote is forgotten when stepping down within its term
    ForgetVoteOnStepDown: "Raft §5.2", Test("mutation::tests::raft_paper::candidate_meeting_the_leader_of_its_term_returns_to_follower"), 1, ["raft_paper.rs"];
    /// a vote is forgotten with the process
    ForgetVoteOnRestart: "Raft fig. 2", Script("election/vote_survives_a_restart"), 1, ["another trace", "votes twice"];
    /// votes go to logs that end earlier
    VoteForShorterLog: "Raft §5.4.1", Cores, 50, ["lacks committed", "two leaders in"];
    /// entries are taken without their predecessor
    SkipLogMatching: "Raft §5.3", Cores, 10, ["does not continue the log", "committed entry changed", "poisoned"];
    /// committed entries are cut if a leader says so
    TruncateCommitted: "Raft §5.4.3", Script("append/cut_at_or_below_commit_is_poison"), 1, ["truncates committed entry"];
    /// elections begin without pre-votes
    SkipPreVote: "thesis §9.6", Test("raftlog::core::tests::simulation::bad_links_terms_stay_bounded_and_commits_go_on"), 1, ["deaf follower"];
    /// votes are given although the leader is heard
    DisturbLiveLeader: "thesis §4.2.3", Script("election/votes_are_refused_while_the_leader_is_heard"), 1, ["another trace"];
    /// a leader that hears nobody leads on
    SkipCheckQuorum: "thesis §6.2", Script("election/leader_without_answers_steps_down"), 1, ["another trace"];
    /// a leader confirms reads without asking anybody
    ReadWithoutRound: "Raft §8, F17", CutOffLeader, 10, ["F17"];
    /// answers to beats that were on their way confirm a read
    ReadByOldBeat: "Raft §8, F17", CutOffLeader, 10, ["F17"];
    /// reads are confirmed before an entry of the own term is committed
    ReadWithoutOwnCommit: "Raft §8, F17", Cores, 50, ["was committed before it"];

    // Membership.
    /// C_new is appended right behind C_old,new
    LeaveJointEarly: "Raft §6, F2", Cores, 100, ["does not follow", "lacks committed", "two leaders in", "committed entry changed", "the lossless base"];
    /// the new half alone decides in a joint configuration
    JointByNewHalf: "Raft §6", Cores, 50, ["voters hold it"];
    /// the old half alone decides in a joint configuration
    JointByOldHalf: "Raft §6", Cores, 50, ["voters hold it"];
    /// a learner becomes a voter before it has caught up
    PromoteLagging: "thesis §4.2.1", Script("configuration/learner_behind_is_not_promoted"), 1, ["another trace"];
    /// members change before an entry of the leader's term is committed
    ChangeBeforeOwnCommit: "Ongaro 2015, R28", Script("configuration/refusals"), 1, ["another trace"];
    /// a change begins before the one before it is committed
    OverlapChanges: "Raft §6", Cores, 50, ["does not follow", "lacks committed"];
    /// a configuration stays in force when its entry is cut
    KeepTruncatedConfiguration: "thesis §4.1", Cores, 400, ["is not the newest of the log"];
    /// the id of a former member is taken again
    ReuseReplicaId: "F6", Cores, 100, ["a retired id came back"];
    /// what a peer acknowledged in an earlier life still counts
    KeepMatchOfOldProcess: "F6", Amnesia, 50, ["voters hold it", "not whole within 60 s"];

    // Generations.
    /// messages of a higher generation are taken like those of a higher term
    IgnoreGeneration: "F2, F3", Cores, 50, ["is sealed and says", "lacks committed", "two leaders in", "a sealed log changes"];
    /// configurations of the generation before stay in force
    KeepOldConfiguration: "F3", Cores, 100, ["led in two generations", "two leaders in", "lacks committed", "the lossless base", "committed entry changed"];
    /// a seal is kept in memory alone
    VolatileSeal: "F2", Cores, 20, ["reports a seal that is not durable"];
    /// a sealed replica goes on answering
    IgnoreSeal: "F2", Cores, 20, ["is sealed and says", "a sealed log changes"];
    /// a seal is reported before the log behind it is durable
    ReportSealEarly: "F2", Test("raftlog::engine::tests::seal_is_reported_only_when_all_before_it_is_durable"), 1, ["before the seal was durable"];
    /// the survivor takes over wherever its log ends
    TakeOverAnywhere: "F2", Test("mutation::tests::raft_paper::survivor_that_is_not_exactly_what_was_decided_on_refuses"), 1, ["its log does not end at"];
    /// a lost quorum is judged by the new half of a joint configuration alone
    JudgeByOneHalf: "F2", Test("raftlog::generation::tests::cases_of_the_shrink_table_are_judged_as_it_says"), 1, ["may have committed without A"];
    /// any sealed voter makes a plan lossless
    CallEverythingLossless: "F2, P4", Cores, 200, ["the lossless base", "lacks committed", "committed entry changed", "two leaders in", "led in two generations"];
    /// the worst log survives
    WorstSurvives: "F2", Cores, 50, ["the lossless base", "lacks committed", "committed entry changed"];
    /// who may have lost entries survives
    UnsoundSurvives: "F2", Test("raftlog::generation::tests::cases_of_the_shrink_table_are_judged_as_it_says"), 1, ["whoever is in doubt does not survive"];
    /// what is kept with a log start outlives the entries it reflects
    KeepStateOfLostEntries: "F2, F21", Script("generation/state_kept_with_the_start_goes_with_the_whole_log"), 1, ["what is kept with the start reflects", "another trace"];
    /// a generation begins right above its survivor's own term
    LowFirstTerm: "F4", Script("generation/first_term_is_above_every_term_of_the_generation_before"), 1, ["another trace"];

    // Doubt.
    /// grants of replicas in doubt count like any others
    CountDoubtfulVotes: "F11", Amnesia, 50, ["lacks committed", "committed entry changed"];
    /// who may have lost its vote counts for commit and reads
    CountLostVotes: "F11", Script("doubt/leader_of_a_term_that_its_voter_forgot_commits_nothing"), 1, ["lacks a committed entry"];
    /// a lost vote is cleared without a round of the leader
    LeaveDoubtUnconfirmed: "F11", Script("doubt/leader_of_a_term_that_its_voter_forgot_commits_nothing"), 1, ["lacks a committed entry"];
    /// beyond three voters a lost vote is cleared by an election older than the loss
    ClearByOldElection: "F11", Script("doubt/lost_vote_among_five_waits_for_the_next_election"), 1, ["another trace"];
    /// a leader tells its end before it has committed in its term
    EndBeforeOwnCommit: "F11", Script("doubt/doubtful_grant_is_no_majority"), 1, ["another trace"];
    /// who finds entries damaged is not in doubt for it
    DamageWithoutDoubt: "F11", Script("doubt/damaged_follower_waits_for_its_repair"), 1, ["another trace"];

    // Unsynced topics.
    /// entries are told to be durable once they are written
    CallWrittenDurable: "F10, P7", Test("segment::tests::loose::power_cuts_and_kills_at_random_moments_lose_nothing_but_what_is_in_doubt"), 1, ["; durable"];
    /// a sync leaves out what the group has written before and not synced
    LeaveLooseBehind: "F10", Test("segment::tests::loose::strict_changes_take_all_entries_before_them_along"), 1, ["segment/tests/loose.rs"];
    /// a round that was out before a cut is believed of what stands there after it
    BelieveRoundBeforeCut: "F10", Test("segment::tests::loose::round_from_before_a_cut_does_not_vouch_for_the_same_entries_after_it"), 1, ["segment/tests/loose.rs"];
    /// a sync that began before a cut is believed of what stands there after it
    BelieveSyncBeforeCut: "F10", Test("segment::tests::loose::sync_from_before_a_cut_does_not_vouch_for_the_same_entries_after_it"), 1, ["segment/tests/loose.rs"];
    /// nothing says that a group has entries which are not synced
    NeverDirty: "F11", Test("segment::tests::loose::power_cuts_and_kills_at_random_moments_lose_nothing_but_what_is_in_doubt"), 1, ["and does not know"];
    /// what followers have only written counts in a topic that syncs
    CountWritten: "P1, P7", Test("raftlog::engine::tests::unsynced::leader_whose_topic_says_sync_again_counts_what_is_durable_whatever_its_followers_know"), 1, ["theirs are written only"];
    /// a voter that is alone counts what it has only written
    CountWrittenAlone: "P7", Test("raftlog::engine::tests::unsynced::group_of_one_always_syncs_and_so_does_one_that_shrinks_to_it"), 1, ["engine/tests"];
    /// doubt is forgotten with the process
    ForgetDoubtOnRestart: "F11", Amnesia, 50, ["lacks committed", "committed entry changed", "two leaders in"];
    /// whoever may have forgotten a term helps to elect a second leader in it
    CountForgottenTerms: "F11", Script("doubt/forgotten_term_is_not_led_twice"), 1, ["two leaders in"];
    /// grants of a majority, some of them in doubt, are as good as everyone's
    UnanimityOfSome: "F11", Amnesia, 100, ["lacks committed", "committed entry changed", "two leaders in"];
    /// a log that did not come from its leader alone goes on with what that one has left tombstones out of
    TakeWhatMissesTombstones: "decisions/0022", Cores, 40, ["takes", "without tombstones below"];
    /// a leader has voters placed anew
    PlaceVotersAnew: "decisions/0022", Test("broker::shard::anew::tests::replica_begins_anew_only_where_two_others_vote_that_are_there"), 1, ["while it votes"];
    /// a repair leaves a log fresh
    RepairKeepsFresh: "decisions/0022", Script("append/repaired_log_is_not_its_leaders_alone"), 1, ["another trace"];

    // Members.
    /// a group shrinks below `shrink.min.voters`
    ShrinkBelowMinimum: "decisions/0009", Test("ctl::tests::members::dead_voter_ceases_to_vote_at_once_and_stays_a_learner"), 1, ["shrink.min.voters"];
    /// of two controllers either one goes on without the other, not its heir alone
    AnyoneOfAPairGoesOn: "F1", Pairs, 5, ["F1:", "Election safety", "the other one says whom it waits for"];
    /// controllers go on offline though others may have committed what no copy at hand holds
    RecoverControllersUnproven: "F1, F2, decisions/0018", Test("raftlog::offline::tests::copies_are_judged_by_the_table_of_decision_0018"), 1, ["one of three proves nothing"];
    /// controllers go on offline without asking for an heir that may have gone on alone
    ForgetMissingHeir: "F1, decisions/0018", Test("raftlog::offline::tests::copies_are_judged_by_the_table_of_decision_0018"), 1, ["the heir may have gone on"];
    /// controllers go on offline from either half of an even group
    HalvesProveEach: "F2, decisions/0018", Test("raftlog::offline::tests::copies_are_judged_by_the_table_of_decision_0018"), 1, ["two halves of four"];
    /// controllers go on offline though copies were ended by another plan, whose survivor may have gone on
    RecoverPastASeal: "F2, decisions/0018", Test("raftlog::offline::tests::copy_ended_by_another_plan_proves_nothing"), 1, ["another survivor may go on"];
    /// a generation opened on the operator's word for a missing heir has the number that the heir gives to its own
    ShareTheHeirsGeneration: "F1, decisions/0018", Test("raftlog::offline::tests::generation_opened_without_the_heir_is_not_the_heirs_own"), 1, ["told apart"];
    /// an heir takes the seal of an operator's plan, which names another survivor, for its own
    HeirByAnySeal: "F1, decisions/0018", Test("raftlog::offline::tests::heir_that_an_operators_plan_ended_does_not_go_on_by_itself"), 1, ["two survivors"];
    /// of the copies that prove an offline recovery the survivor's alone is sealed
    SealSurvivorAlone: "F2, decisions/0018", Test("broker::offline::tests::second_recovery_from_other_copies_is_refused"), 1, ["two survivors"];
    /// a shrink takes the votes of those who are alive too
    ShrinkToTheLeader: "F2, F5", Test("ctl::tests::members::dead_voter_ceases_to_vote_at_once_and_stays_a_learner"), 1, ["ctl/tests/members.rs"];
    /// a learner is to vote before it has caught up
    PromoteBehind: "F24", Test("ctl::tests::members::learner_that_is_behind_or_not_heard_does_not_vote"), 1, ["it is behind"];
    /// a learner is to vote that nobody hears
    PromoteUnheard: "F24", Test("ctl::tests::members::learner_that_is_behind_or_not_heard_does_not_vote"), 1, ["nobody hears it"];

    // Nodes.
    /// replicas vote and stand before their broker is registered
    NoBootGate: "F16", Clusters, 50, ["F16"];
    /// a process that was stopped for its whole session goes on as if nothing had been
    NoFenceAfterStop: "F16", Clusters, 100, ["F16"];
    /// messages that wait for storage leave at once
    SendBeforeStored: "P1", Clusters, 200, ["I1", "I6", "Vote:"];
    /// slots that stand for nothing are not told to the leader
    ForgetBeatExceptions: "decisions/0005", Test("raftlog::engine::tests::quiet::group_removed_from_a_follower_counts_as_silent"), 1, ["answers of other groups are not its own"];
    /// messages of former processes are taken
    IgnoreIncarnations: "F6", Test("raftlog::engine::tests::message_of_a_former_process_is_dropped"), 1, ["a former process"];
    /// messages to another replica of the node are taken
    IgnoreReplicaIds: "F6", Test("raftlog::engine::tests::message_of_a_former_process_is_dropped"), 1, ["another replica"];
    /// a wiped disk takes up the replicas that were on the one before, under their ids
    AdoptOldIdentity: "F6", Clusters, 300, ["F6:", "Vote:", "I1", "Leader completeness", "Election safety", "I6"];
    /// the controller log is cut behind a snapshot that nobody compared
    CutUnchecked: "decisions/0013", Test("broker::shard::alone_tests::controller_log_is_kept_where_a_snapshot_holds_other_metadata"), 1, ["cut behind a snapshot that differs"];
    /// replicas are deleted because the metadata does not name them (yet)
    DeleteByAbsence: "F20, I13", Clusters, 20, ["I13", "Vote:", "is called out of range", "F6:"];

    // What clients see.
    /// produce with acks=all is answered at the append
    AcknowledgeAtAppend: "P1", Clusters, 5, ["I1"];
    /// produce is answered before min.insync.replicas hold it
    IgnoreMinInsync: "P1, F15", Clusters, 50, ["F15"];
    /// the high watermark is the end of the log
    ServeUncommitted: "P2", Clusters, 5, ["I7"];
    /// sequences of producers are not looked at
    SkipSequenceCheck: "F21, KIP-98", Clusters, 50, ["I5", "I4"];
    /// a duplicate is answered before its original is committed
    AnswerDuplicateEarly: "F21", Clusters, 50, ["I1", "F15"];
    /// compaction leaves nothing of the batches that producers are known by
    ForgetCompactedProducers: "F21, KIP-98", Test("broker::compaction::tests::random_logs_keep_what_a_naive_model_keeps_pass_after_pass"), 1, ["what producers are known by"];
    /// a tombstone goes before its delete horizon
    DropTombstonesEarly: "KIP-534", Test("broker::compaction::tests::random_logs_keep_what_a_naive_model_keeps_pass_after_pass"), 1, ["what stays"];
    /// a tombstone goes, and nothing says that it is missing
    DropUnrecorded: "decisions/0022", Test("broker::shard::alone_tests::cleaning::tombstone_goes_when_its_time_is_over_in_a_later_pass_than_what_it_deletes"), 1, ["as high as the tombstone's end"];
    /// a compaction goes on when its log was cut or repaired
    PassOutlivesItsLog: "decisions/0022", Test("broker::shard::alone_tests::cleaning::compaction_ends_when_its_log_is_another"), 1, ["it went on"];
    /// a replica counts as clean by a record, one before which is lost
    BelieveCleanAfterLoss: "decisions/0022", Test("segment::tests::rewriting::damaged_record_of_a_rewrite_costs_nothing_that_the_old_files_hold"), 1, ["what is here counts as clean"];
    /// entries are appended whatever tombstones are missing where they come from
    AppendWhateverIsMissing: "decisions/0022", Test("segment::tombstones::tests::schedules::member_that_comes_back_from_outside_behind_what_was_dropped_begins_anew"), 1, ["a deleted key came back"];
    /// a second leader may miss the same tombstones as the first
    AppendOfAnyLeader: "decisions/0022", Test("segment::tombstones::tests::schedules::replica_brought_up_by_a_second_leader_that_misses_tombstones_begins_anew"), 1, ["a deleted key came back"];
    /// a leader may drop more while it brings a replica up
    AppendOfLeaderThatDrops: "decisions/0022", Test("segment::tombstones::tests::schedules::leader_that_drops_while_it_brings_a_replica_up_is_not_followed_further"), 1, ["a deleted key came back"];
    /// a repair takes what misses tombstones of records that are here
    MendWhatIsNotClean: "decisions/0022", Test("segment::tombstones::tests::schedules::repair_from_a_copy_that_misses_tombstones_is_refused_where_their_records_are"), 1, ["a deleted key came back"];
    /// a repair takes records whose tombstones are missing here
    MendFromLessClean: "decisions/0022", Test("segment::tombstones::tests::schedules::repair_from_a_less_clean_copy_lowers_clean_and_is_refused_where_tombstones_are_missing"), 1, ["a deleted key came back"];
    /// copies that give entries of one file need not fit together
    MendFromSeveral: "decisions/0022", Test("segment::tombstones::tests::schedules::two_sources_of_one_file_are_judged_together"), 1, ["a deleted key came back"];
    /// a repair from a less clean copy leaves a replica as clean as it was
    StayCleanWhenMended: "decisions/0022", Test("segment::tombstones::tests::schedules::pass_ends_when_a_file_was_repaired_meanwhile"), 1, ["clean is too high"];
    /// a repair does not say what tombstones are missing in what it took
    ForgetWhatMendingMisses: "decisions/0022", Test("segment::tombstones::tests::schedules::repair_from_a_copy_that_misses_tombstones_is_refused_where_their_records_are"), 1, ["dropped is too low"];
    /// a cut does not say that tombstones are missing that later records had replaced
    ForgetWhatACutTookAlong: "decisions/0022", Test("segment::tombstones::tests::schedules::copy_that_was_cut_below_what_it_had_cleaned_says_what_it_misses"), 1, ["a deleted key came back"];
    /// a member is told that it has left before the log says so, and never does
    ForgetDepartures: "decisions/0019", Test("broker::groups::tests::random::random_sequences_keep_every_promise"), 1, ["a member that has left is in the group"];
    /// a static member that is back is told a new id that the log does not have
    ReturnUnstored: "decisions/0019", Test("broker::groups::tests::random::random_sequences_keep_every_promise"), 1, ["fenced by its own earlier self"];
    /// a leader knows batches of producers that its log does not hold
    RememberLostBatches: "F21", Test("broker::shard::alone_tests::retry_of_a_batch_that_was_lost_is_new"), 1, ["a lost batch is taken for one that is here"];
    /// a truncation does not roll the producer state back
    KeepProducersOfCutBatches: "F21", Clusters, 100, ["I1", "I4", "orderly"];
    /// ends of logs are told without a confirmed round
    AnswerUnconfirmed: "F17", CutOffLeader, 10, ["F17"];
    /// a follower calls offsets beyond its end out of range
    OutOfRangeOnFollower: "F17", Clusters, 50, ["F17"];
    /// a replica that has not seen an epoch's end tells readers where it ended
    SendReadersBack: "F17, KIP-595", Clusters, 50, ["I7"];

    // Controllers.
    /// a generation ends although its sealed replicas do not meet every majority of the survivor's configuration
    DecideWithoutMajority: "F2, P4", Test("ctl::tests::generations::nothing_is_decided_that_the_seals_do_not_prove"), 1, ["one of three proves nothing"];
    /// a generation is decided twice
    DecideTwice: "F2", Test("ctl::tests::members::intent_is_written_once_per_generation_and_only_for_groups_of_the_asker"), 1, ["one decision per generation"];
    /// a seal counts of whoever reports it
    CountForeignSeals: "F2, F6", Test("ctl::tests::generations::seal_of_a_replica_that_is_not_placed_counts_for_nothing"), 1, ["a stranger proves nothing"];
    /// whoever asks for it ends a group's generation
    SealForAnybody: "F2", Test("ctl::tests::members::intent_is_written_once_per_generation_and_only_for_groups_of_the_asker"), 1, ["it holds no replica", "it is not registered"];
    /// blocks of producer ids are given out twice
    RepeatProducerIds: "KIP-98", Test("ctl::tests::decide::producer_ids_come_in_blocks_and_never_twice"), 1, ["src/ctl/tests"];
    /// a new controller leader grants nobody a session
    NoFirstSession: "F19", Test("ctl::tests::liveness::new_controller_leader_grants_every_broker_a_full_session"), 1, ["ctl/tests/liveness.rs"];
    /// a replica is created by an image that may be older than its disk
    CreateBeforeRegistration: "F6, F16", Test("broker::shard::alone_tests::replica_that_moved_away_is_not_made_again_while_the_log_is_read_again"), 1, ["made anew"];
    /// a group has arrived whatever became of the generation in which its leader said so
    StaleArrival: "F2, decisions/0010", Test("ctl::tests::reassign::arrival_of_another_target_or_generation_lets_nobody_go"), 1, ["ctl/tests/reassign.rs"];
    /// replicas that are to leave do so before those that come in their stead hold everything
    LeaveBeforeArrival: "decisions/0010", Test("ctl::tests::members::voter_that_is_to_leave_stays_while_one_of_the_target_is_missing"), 1, ["ctl/tests/members.rs"];
    /// a replica that was given up gets its vote back before it has caught up
    TakeBackBehind: "F24, decisions/0015", Test("ctl::tests::members::replica_that_is_to_leave_and_keeps_up_votes_until_the_newcomers_are_there"), 1, ["ctl/tests/members.rs"];
    /// a broker is unregistered whatever became of the registration that was meant, and of its decommission
    UnregisterAnybody: "decisions/0015", Test("ctl::tests::drain::unregistering_twice_does_not_forget_that_a_broker_was_decommissioned"), 1, ["ctl/tests/drain.rs"];
    /// a decommissioned broker that runs is unregistered before it says that it holds nothing
    UnregisterUnheard: "decisions/0015", Test("broker::shard::alone_tests::decommissioned_broker_that_runs_is_unregistered_when_it_says_that_it_holds_nothing"), 1, ["it has not said so"];
    /// the controllers go on without a majority whose leases are not over
    IgnoreLeases: "P4, decisions/0017", Autos, 40, ["Auto:", "F2:", "I2:", "F17:", "readers reach the end"];
    /// a leader commits when its lease is over
    CommitWithoutLease: "P4, decisions/0017", Autos, 40, ["F2:", "I2:"];
    /// what is stored is acknowledged when the lease is over
    AcknowledgeWithoutLease: "P4, decisions/0017", Autos, 60, ["Auto:"];
    /// fetches are answered when the lease is over
    ServeWithoutLease: "P4, F17, decisions/0017", Autos, 20, ["Auto:"];
    /// a lease counts from when its answer came
    CountFromAnswer: "P4, decisions/0017", Test("ctl::tests::lease::no_lease_is_believed_in_when_the_controllers_take_it_for_over"), 1, ["ctl/tests/lease.rs"];
    /// a lease is taken whoever was asked for it, and for which registration
    TakeAnyGrant: "P4, decisions/0017", Test("ctl::tests::lease::answer_to_an_earlier_process_is_no_lease"), 1, ["ctl/tests/lease.rs"];
    /// what was said under an earlier policy certifies a later one
    CertifyStaleAnswers: "P4, decisions/0017", Test("ctl::tests::lease::answers_from_before_the_policy_changed_certify_nothing"), 1, ["ctl/tests/lease.rs"];
    /// earlier processes of a broker are not waited for once the present one has said what it holds
    ForgetEarlierProcesses: "P4, decisions/0017", Test("ctl::tests::lease::earlier_process_is_waited_for_though_the_present_one_has_said"), 1, ["ctl/tests/lease.rs"];
    /// the controllers go on by themselves without brokers that are expected back
    AwaitNobody: "decisions/0017", Test("ctl::tests::auto::broker_that_stopped_in_order_is_waited_for_until_its_grace_is_over"), 1, ["ctl/tests/auto.rs"];
    /// behind a loss of the controllers', seals decide about a partition that nobody was seen to lead
    DecideUnconfirmed: "P4, decisions/0021", Test("ctl::tests::offline::partition_that_nobody_leads_goes_on_only_as_an_operator_says"), 1, ["ctl/tests/offline.rs"];
    /// a disk that was given up registers again
    RegisterTheLost: "F6, decisions/0021", Test("ctl::tests::offline::disk_that_was_given_up_never_registers_again"), 1, ["ctl/tests/offline.rs"];
    /// controllers go on with a loss from another copy than the best
    AcceptWorse: "decisions/0021", Test("broker::offline::accepting_tests::entries_that_only_a_brokers_copy_holds_are_taken_over"), 1, ["broker/offline/accepting_tests.rs"];
    /// an incremental answer leaves out a partition of which the high watermark alone moved
    OmitMovedWatermark: "KIP-227", Test("broker::fetch_sessions::tests::incremental_reader_knows_what_a_full_reader_is_told"), 1, ["knows another end"];
    /// numbers of the controller log forget its generation
    NumberWithoutGeneration: "F20", Test("ctl::tests::image::number_of_an_entry_orders_by_generation_then_index"), 1, ["ctl/tests/image.rs"];

    // Consumer groups.
    /// members commit whatever generation they say they are in
    CommitForAnyGeneration: "decisions/0019", Test("broker::groups::tests::worlds::random_worlds_have_one_owner_and_no_offset_that_goes_back"), 1, ["commits after generation", "goes back", "is not the owner"];
    /// members of a generation whose assignment is not in the log commit
    CommitUnsettled: "decisions/0019", Test("broker::groups::tests::rules::only_members_of_the_generation_commit_and_others_only_where_there_are_none"), 1, ["not refused"];
    /// a commit is answered and told before it is committed
    TellBeforeStored: "decisions/0019", Test("broker::groups::tests::worlds::random_worlds_have_one_owner_and_no_offset_that_goes_back"), 1, ["is answered and the log has", "what is told is not what is committed"];
    /// members get shares of an assignment that is not in the log
    ShareBeforeStored: "decisions/0019", Test("broker::groups::tests::worlds::random_worlds_have_one_owner_and_no_offset_that_goes_back"), 1, ["is told and not in the log", "two owners of"];
    /// a generation takes another assignment while its first is being stored
    AssignTwice: "decisions/0019", Test("broker::groups::tests::worlds::random_worlds_have_one_owner_and_no_offset_that_goes_back"), 1, ["the log has another share", "two owners of", "is not the owner"];
    /// a coordinator serves before it has read the log to its end
    ServeWhileLoading: "decisions/0019", Test("broker::shard::alone_tests::groups::coordinator_serves_once_its_log_is_read_and_one_part_of_one_log_is_read_in_a_turn"), 1, ["before the log is read"];
    /// a coordinator that begins gives members no time to find it
    NoSessionToFindUs: "decisions/0019", Test("broker::groups::tests::rules::generation_outlives_its_coordinator_and_members_have_a_session_to_find_the_next"), 1, ["no time to find us"];
    /// who lost its instance to another process is not told so
    ForgetFencing: "KIP-345", Test("broker::groups::tests::rules::static_member_is_back_without_a_rebalance_and_its_old_self_is_fenced"), 1, ["it is told why"];
    /// what a group has committed of a topic that it reads ends by its age
    ExpireWhatIsRead: "KIP-211", Test("broker::groups::tests::rules::offsets_end_when_kafka_ends_them"), 1, ["the group reads the topic"];
}

/// The build in which there are switches.
#[cfg(feature = "mutations")]
mod switched {
    use super::Mutation;
    use std::cell::{Cell, RefCell};
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::{Once, OnceLock};

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
        /// Where the last panic of this thread came from, while somebody wants to know.
        static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    /// Whether this rule is to be broken: in this thread, or in the whole process.
    #[inline(always)]
    pub fn on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation) || everywhere().contains(&mutation)
    }

    /// Those that `KONTIKI_MUTATION` names.
    fn everywhere() -> &'static [Mutation] {
        static NAMED: OnceLock<Vec<Mutation>> = OnceLock::new();
        NAMED.get_or_init(|| {
            let names = std::env::var("KONTIKI_MUTATION").unwrap_or_default();
            let find = |name: &str| {
                let known = Mutation::ALL.iter().find(|m| format!("{m:?}") == name);
                *known.unwrap_or_else(|| panic!("KONTIKI_MUTATION: no switch is called {name:?}"))
            };
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(find).collect()
        })
    }

    /// Runs with a switch on in this thread.
    pub fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
        struct Off(Option<Mutation>);
        impl Drop for Off {
            fn drop(&mut self) {
                ON.set(self.0);
            }
        }
        let _off = Off(ON.replace(Some(mutation)));
        run()
    }

    /// What a run says if it panics, and where; it says it to nobody else.
    pub fn violation(run: impl FnOnce()) -> Option<String> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                let wanted =
                    PLACE.with_borrow_mut(|known| known.as_mut().map(|known| *known = place).is_some());
                if !wanted {
                    usual(info);
                }
            }));
        });
        PLACE.set(Some(String::new()));
        let done = panic::catch_unwind(AssertUnwindSafe(run));
        let place = PLACE.take().unwrap_or_default();
        let cause = done.err()?;
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Some(format!("{text} (at {place})"))
    }
}
