//! The rule by which a group that lost its quorum goes on: who survives, from where, in which term, and whether anything
//! can be lost (safety.md F2 to F4).
//!
//! Pure functions over what sealed replicas reported. Not here: sealing and taking over (`core::takeover`), when to try and
//! who approves (`ctl`). Called by the controllers, and by the stand-in for them in the core's simulation. Invariants:
//! - the survivor has the best log among the sound sealed replicas, and its own log names the configuration that decides,
//!   whatever else was heard of it;
//! - a plan is lossless exactly if the sound sealed replicas meet every majority of that configuration, of *both* halves if it
//!   is joint: the joint entry may have been overtaken by C_new or cut back to C_old elsewhere;
//! - terms only grow: the first term of a generation is above every term any sealed replica has seen, and in an unclean
//!   plan beyond everything a majority that nobody heard could have used.

use super::core::quorum::majority;
use super::message::Configuration;
use crate::mutation::{Mutation, on};
use crate::segment::{Generation, Index, LogId, Opening, ReplicaId, Term};
use serde::{Deserialize, Serialize};

/// A replica does not campaign this many terms above its generation's first one: it asks for a new generation.
pub const TERMS_PER_GENERATION: u64 = 900_000;
/// An unclean generation begins at least so far above every term known of: more than anyone may have used unheard.
pub const UNCLEAN_STEP: u64 = 1_000_000;
/// Kafka's leader epoch is an int32.
const LAST_TERM: u64 = i32::MAX as u64 - UNCLEAN_STEP;

/// What a replica answers when its seal and its whole log are durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// Who.
    pub replica: ReplicaId,
    /// The generation it is sealed in.
    pub generation: Generation,
    /// The plan that was asked for.
    pub plan: u64,
    /// It holds all it ever acknowledged: not damaged, not in doubt.
    pub sound: bool,
    /// Last entry.
    pub last: LogId,
    /// Highest term it has seen.
    pub highest_term: Term,
    /// Newest configuration in its log or log start, of that generation (without voters: it has none of it).
    pub configuration: Configuration,
    /// Its entry.
    pub configuration_id: LogId,
    /// Whether it knows that to be committed.
    pub is_committed: bool,
    /// How far it knows the log to be committed.
    pub commit: Index,
}

/// What the controllers decided, once per generation. A replica takes it from its own copy of their log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The new generation.
    pub generation: Generation,
    /// How it begins; the survivor is its only voter.
    pub opening: Opening,
    /// The other sealed replicas: they rejoin at once.
    pub learners: Vec<ReplicaId>,
}

/// Why nothing can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecidable {
    /// Nobody who answered is sure to hold what it acknowledged.
    #[error("no sound replica is sealed")]
    NoSoundReplica,
    /// Kafka's leader epoch would run out.
    #[error("the terms of this group are used up")]
    TermsExhausted,
}

/// Whether no majority is left without a replica for which `sealed` holds, in either half: then nothing can be committed
/// or elected without them any more, nor was anything that none of them holds.
pub fn meets_every_majority(configuration: &Configuration, sealed: impl Fn(ReplicaId) -> bool) -> bool {
    let blocked = |half: &[ReplicaId]| {
        let free = half.iter().filter(|r| !sealed(**r)).count();
        free < majority(half.len()) || (on(Mutation::CallEverythingLossless) && free < half.len())
    };
    !configuration.voters.is_empty()
        && blocked(&configuration.voters)
        && (configuration.old_voters.is_empty()
            || blocked(&configuration.old_voters)
            || on(Mutation::JudgeByOneHalf))
}

/// What follows from these reports of generation `from`; others are not looked at. `recorded`: the highest leader epoch the
/// controllers ever recorded for the group. Whether a plan that is not lossless may be carried out is for others to say.
///
/// # Errors
/// `Undecidable` if no report is of a sound replica, or the terms are used up.
pub fn decide(from: Generation, reports: &[SealReport], recorded: Term) -> Result<Decision, Undecidable> {
    decide_by(from, reports, recorded, true)
}

/// The same where whoever decides may not know that `from` is the newest generation: the reports prove nothing then, whatever they meet.
///
/// # Errors
/// As [`decide`].
pub fn decide_unproven(
    from: Generation,
    reports: &[SealReport],
    recorded: Term,
) -> Result<Decision, Undecidable> {
    decide_by(from, reports, recorded, false)
}

fn decide_by(
    from: Generation,
    reports: &[SealReport],
    recorded: Term,
    may_prove: bool,
) -> Result<Decision, Undecidable> {
    let sealed = || reports.iter().filter(|report| report.generation == from);
    let sound = || sealed().filter(|report| report.sound || on(Mutation::UnsoundSurvives));
    // Among equal logs a voter goes first, then the lowest id, so that every controller decides alike.
    let rank = |r: &&SealReport| (r.last, r.configuration.is_voter(r.replica), std::cmp::Reverse(r.replica));
    let worst = sound().min_by_key(rank).filter(|_| on(Mutation::WorstSurvives));
    let best = worst.or(sound().max_by_key(rank)).ok_or(Undecidable::NoSoundReplica)?;
    let is_sealed = |replica| sound().any(|report| report.replica == replica);
    let lossless = may_prove && meets_every_majority(&best.configuration, is_sealed);
    let seen = sealed().map(|report| report.highest_term.0).max().unwrap_or(0);
    let first_term = match lossless {
        // Above every leader of `from`: their votes needed the same quorums.
        true if on(Mutation::LowFirstTerm) => best.highest_term.0 + 1,
        true => seen + 1,
        false => seen.max(recorded.0) + UNCLEAN_STEP,
    };
    if first_term > LAST_TERM {
        return Err(Undecidable::TermsExhausted);
    }
    let mut learners: Vec<ReplicaId> =
        sealed().map(|report| report.replica).filter(|replica| *replica != best.replica).collect();
    learners.sort_unstable();
    learners.dedup();
    let opening = Opening { survivor: best.replica, base: best.last, first_term: Term(first_term), lossless };
    Ok(Decision { generation: from.next(), opening, learners })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::segment::NodeId;
    use proptest::prelude::*;

    fn replica(node: i32) -> ReplicaId {
        ReplicaId { node: NodeId(node), assignment: 0, directory: 0 }
    }

    fn half() -> impl Strategy<Value = Vec<ReplicaId>> {
        proptest::collection::btree_set(1..7i32, 1..6)
            .prop_map(|nodes| nodes.into_iter().map(replica).collect())
    }

    fn configuration() -> impl Strategy<Value = Configuration> {
        (half(), prop_oneof![Just(Vec::new()), half()]).prop_map(|(voters, old_voters)| Configuration {
            voters,
            old_voters,
            ..Configuration::default()
        })
    }

    fn report() -> impl Strategy<Value = SealReport> {
        (1..7i32, 0..2u64, any::<bool>(), (0..4u64, 0..6u64), 0..9u64, configuration()).prop_map(
            |(node, generation, sound, (term, index), seen, configuration)| SealReport {
                replica: replica(node),
                generation: Generation(generation),
                plan: 1,
                sound,
                last: LogId::new(generation, term, index),
                highest_term: Term(seen.max(term)),
                configuration,
                configuration_id: LogId::default(),
                is_committed: false,
                commit: Index(0),
            },
        )
    }

    fn sealed(node: i32, last: LogId, voters: &[i32]) -> SealReport {
        SealReport {
            replica: replica(node),
            generation: Generation(0),
            plan: 1,
            sound: true,
            last,
            highest_term: last.epoch.term,
            configuration: Configuration {
                voters: voters.iter().map(|n| replica(*n)).collect(),
                ..Configuration::default()
            },
            configuration_id: LogId::default(),
            is_committed: true,
            commit: Index(0),
        }
    }

    proptest! {
        /// By the definition: every subset of a half that is a majority of it contains a sealed one.
        #[test]
        fn blocking_set_meets_every_majority_of_both_halves(configuration in configuration(), sealed in 0..128u32) {
            let is_sealed = |r: &ReplicaId| sealed & (1 << r.node.0) != 0;
            let meets = |half: &[ReplicaId]| (0..1u32 << half.len()).all(|set| {
                let chosen: Vec<_> = half.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0).collect();
                2 * chosen.len() <= half.len() || chosen.iter().any(|(_, r)| is_sealed(r))
            });
            let expected = meets(&configuration.voters) && meets(&configuration.old_voters);
            prop_assert_eq!(meets_every_majority(&configuration, |r| is_sealed(&r)), expected);
        }

        #[test]
        fn decision_keeps_every_rule_of_f2_and_f4(reports in proptest::collection::vec(report(), 0..7), recorded in 0..20u64) {
            let from = Generation(1);
            let of = || reports.iter().filter(|r| r.generation == from);
            match decide(from, &reports, Term(recorded)) {
                Err(why) => {
                    prop_assert_eq!(why, Undecidable::NoSoundReplica);
                    prop_assert!(of().all(|r| !r.sound));
                }
                Ok(Decision { generation, opening, learners }) => {
                    prop_assert_eq!(generation, Generation(2));
                    let best = of().filter(|r| r.sound).map(|r| r.last).max();
                    prop_assert_eq!(Some(opening.base), best, "the best log of the sound ones");
                    let survivor = |r: &&SealReport| r.replica == opening.survivor && r.sound && r.last == opening.base;
                    prop_assert!(of().any(|r| survivor(&r)));
                    prop_assert!(of().all(|r| r.highest_term < opening.first_term), "of the unsound ones too");
                    prop_assert!(opening.lossless || opening.first_term.0 >= recorded + UNCLEAN_STEP);
                    prop_assert!(!learners.contains(&opening.survivor));
                    prop_assert!(of().all(|r| r.replica == opening.survivor || learners.contains(&r.replica)));
                    if opening.lossless {
                        let named = of().filter(survivor).any(|best| {
                            meets_every_majority(&best.configuration, |id| of().any(|r| r.replica == id && r.sound))
                        });
                        prop_assert!(named, "judged by the survivor's own log");
                    }
                }
            }
        }

        /// Whoever decides, from whatever order of the same reports, decides alike.
        #[test]
        fn order_of_the_reports_does_not_matter(mut reports in proptest::collection::vec(report(), 1..6)) {
            reports.sort_by_key(|r| r.replica);
            reports.dedup_by_key(|r| r.replica);
            let forward = decide(Generation(0), &reports, Term(3));
            reports.reverse();
            prop_assert_eq!(decide(Generation(0), &reports, Term(3)), forward);
        }
    }

    #[test]
    pub(crate) fn cases_of_the_shrink_table_are_judged_as_it_says() {
        let last = LogId::new(0, 2, 5);
        let lossless = |reports: &[SealReport]| {
            decide(Generation(0), reports, Term(2)).expect("somebody is sound").opening.lossless
        };
        assert!(lossless(&[sealed(1, last, &[1, 2])]), "one of two");
        assert!(lossless(&[sealed(1, last, &[1, 2, 3]), sealed(2, last, &[1, 2, 3])]), "two of three");
        assert!(!lossless(&[sealed(1, last, &[1, 2, 3])]), "one of three");
        assert!(lossless(&[sealed(1, last, &[1, 2, 3, 4]), sealed(2, last, &[1, 2, 3, 4])]), "two of four");
        let joint = |new: &[i32]| {
            let mut report = sealed(1, last, new);
            report.configuration.old_voters = vec![replica(1), replica(2)];
            report
        };
        assert!(!lossless(&[joint(&[1, 2, 4])]), "{{A,B}} -> {{A,B,D}}");
        assert!(lossless(&[joint(&[1, 4])]), "{{A,B}} -> {{A,D}}");
        let mut shrunk = sealed(1, last, &[1, 4]);
        shrunk.configuration.old_voters = vec![replica(1), replica(2), replica(3)];
        assert!(!lossless(&[shrunk]), "{{A,B,C}} -> {{A,D}}: B and C may have committed without A");
        let mut doubtful = sealed(1, last, &[1, 2]);
        doubtful.sound = false;
        let other = sealed(2, LogId::new(0, 1, 3), &[1, 2]);
        let decision = decide(Generation(0), &[doubtful, other], Term(2)).expect("one is sound");
        assert_eq!(decision.opening.survivor, replica(2), "whoever is in doubt does not survive");
        // A replica that lacks this generation's entry names no voters.
        assert!(!lossless(&[sealed(1, last, &[])]));
    }

    #[test]
    fn terms_end_before_kafkas_leader_epoch_does() {
        let mut report = sealed(1, LogId::new(0, 2, 5), &[1, 2, 3]);
        report.highest_term = Term(i32::MAX as u64 - 5);
        assert_eq!(decide(Generation(0), &[report], Term(0)), Err(Undecidable::TermsExhausted));
    }
}
