//! The heir of two voters: how the controllers' group, which has nobody above it, goes on when the other one is silent (safety.md F1).
//!
//! A partition's group that lost its quorum asks the controllers, who decide once per generation. Of the two voters of the
//! controllers' group either one holds everything committed, and neither can tell a dead other one from a cut cable: so their
//! configuration names one of them, as the first, and only that one ever decides. Pure functions. Not here: when the other one has been silent for
//! long enough (`broker::shard::controllers`), sealing and taking over (`core::takeover`), the rule that nothing is lost
//! (`generation`). Invariants:
//! - in one generation at most one replica may go on alone, whatever configuration each of them last saw;
//! - who may has acknowledged everything that is committed, or ever will be, in that generation.
//!
//! Why. Call the voters of the i-th committed configuration V(i), and its heir H(i) (one voter is its own). What the changes of
//! members promise (`core::membership`): C_new follows a committed C_joint and says what that says, the next C_joint follows the
//! committed C_new, and entries that keep the voters keep the heir; so V and H are functions of i. A may go on if its newest
//! configuration, in a log that is sound and sealed, is i (or the joint one from i to i + 1) and A is H(i) (and H(i + 1)). A is then in every majority
//! of V(i). Let B be another, with j. If j > i, the joint configuration from i to i + 1 was committed, by a majority of V(i): A holds
//! it and whatever followed up to j likewise, against what is newest at A. If j = i, both are H(i).
//!
//! *In the middle of growing.* A = H(i), its newest is the joint one from i to i + 1, and it is not in every majority of V(i + 1): {A,B} to
//! {A,B,C}. It may go on all the same if it appended that entry itself, as leader of a term t, has led or stood by it since without a break
//! of its process (a leader sends before its own disk has it, and may forget what it sent), and has granted nobody else a vote (`sole`).
//! For C_new of i + 1 is appended by leaders of terms t or later that hold the joint entry, and those need a majority of V(i): A was each of them
//! itself, or there was none; it did not append it, or it would be newest. So there is no i + 1, nor will be: A is sealed. Then all that
//! is committed in this generation, ever, is so by a majority of V(i) too, and nobody else may go on with j > i. The seal remembers
//! how it was made (`plan`): a restart between seal and take-over changes nothing.

use super::generation::{self, Decision, SealReport};
use super::message::Configuration;
use crate::mutation::{Mutation, on};
use crate::segment::{ReplicaId, Term};

/// Number of the plan in a seal that nobody ordered.
const OWN_PLAN: u64 = 0;
/// The same, by a replica that was `sole` when it sealed itself.
const SOLE_PLAN: u64 = 1;

/// How far a generation that an operator opens without somebody who may have gone on is at least from those that this one may open, one
/// after another.
pub const APART: u64 = 1_000;

/// Set in the number of an operator's plan that may lose something.
pub const WITH_LOSS: u64 = 1 << 62;

/// The plan by which a replica seals itself; `sole`: `Core::is_sole_author`.
pub fn plan(sole: bool) -> u64 {
    if sole { SOLE_PLAN } else { OWN_PLAN }
}

/// Whether a replica sealed itself by this plan. Any other is an operator's (`offline`), which names who goes on: never whoever holds the seal
/// for being heir.
pub fn is_own(plan: u64) -> bool {
    matches!(plan, OWN_PLAN | SOLE_PLAN)
}

/// The heir of two voters.
pub fn of(voters: &[ReplicaId]) -> Option<ReplicaId> {
    match *voters {
        [heir, _] => Some(heir),
        _ => None,
    }
}

/// Names the heir in a configuration that `leader` is about to append after `before`: of two voters it stands first. A leader that may have
/// lost entries (all voters together elected it, F11) could not go on alone: then it is the other one.
pub fn name(
    mut next: Configuration,
    before: &Configuration,
    leader: ReplicaId,
    is_sound: bool,
) -> Configuration {
    // An heir stays heir as long as it is one of two; among the same voters it must.
    let stays = of(&before.voters).filter(|heir| next.voters.contains(heir));
    let other = next.voters.iter().copied().find(|voter| *voter != leader);
    let heir = stays.or(other.filter(|_| !is_sound)).unwrap_or(leader);
    if next.voters.len() == 2 && next.voters[1] == heir {
        next.voters.swap(0, 1);
    }
    next
}

/// Whether this replica is the only one that may go on without the others; `sole`: it knows that nothing followed its newest entry
/// of a configuration.
pub fn is_heir(configuration: &Configuration, replica: ReplicaId, sole: bool) -> bool {
    let half = |voters: &[ReplicaId]| match *voters {
        [one] => one == replica,
        [first, second] => first == replica || (second == replica && on(Mutation::AnyoneOfAPairGoesOn)),
        _ => false,
    };
    match configuration.is_joint() {
        true => half(&configuration.old_voters) && (sole || half(&configuration.voters)),
        false => half(&configuration.voters),
    }
}

/// What the heir decides for its group from what it is, sealed; None: it is not the heir, or not sure of what it holds.
pub fn decide(report: &SealReport) -> Option<Decision> {
    let (replica, sole) = (report.replica, report.plan == SOLE_PLAN);
    let is_ours = is_own(report.plan) || on(Mutation::HeirByAnySeal);
    if !report.sound || !is_ours || !is_heir(&report.configuration, replica, sole) {
        return None;
    }
    let mut judged = report.clone();
    if sole && judged.configuration.is_joint() {
        // Nothing is ever committed by the new half without the old one.
        judged.configuration.voters = std::mem::take(&mut judged.configuration.old_voters);
    }
    let decision = generation::decide(report.generation, &[judged], Term(0)).ok()?;
    // All others follow from its first entry on, without being asked: nobody else could tell them of it.
    let learners = report.configuration.members().filter(|member| *member != replica).collect();
    (decision.opening.lossless && decision.opening.survivor == replica)
        .then_some(Decision { learners, ..decision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Generation, Index, LogId, NodeId};
    use proptest::prelude::*;

    fn replica(node: i32) -> ReplicaId {
        ReplicaId { node: NodeId(node), assignment: 0, directory: node as u128 }
    }

    fn ids(nodes: &[i32]) -> Vec<ReplicaId> {
        nodes.iter().copied().map(replica).collect()
    }

    fn report(node: i32, configuration: Configuration) -> SealReport {
        SealReport {
            replica: replica(node),
            generation: Generation(0),
            plan: plan(false),
            sound: true,
            last: LogId::new(0, 3, 7),
            highest_term: Term(4),
            configuration,
            configuration_id: LogId::new(0, 3, 6),
            is_committed: false,
            commit: Index(5),
        }
    }

    fn change(before: &Configuration, voters: &[i32], leader: i32) -> Configuration {
        name(before.towards(ids(voters), Vec::new()), before, replica(leader), true)
    }

    fn founding(nodes: &[i32]) -> Configuration {
        Configuration { voters: ids(nodes), ..Configuration::default() }
    }

    #[test]
    fn leader_that_leaves_two_is_their_heir_until_another_voter_takes_its_place() {
        let three = founding(&[1, 2, 3]);
        assert_eq!(of(&three.voters), None);
        let joint = change(&three, &[1, 2], 2);
        assert!(!is_heir(&joint, replica(2), false), "of three anyone may be missing");
        let pair = joint.without_old();
        assert_eq!(of(&pair.voters), Some(replica(2)));
        assert!(is_heir(&pair, replica(2), false) && !is_heir(&pair, replica(1), false));
        let learner = name(pair.towards(ids(&[1, 2]), ids(&[3])), &pair, replica(1), true);
        assert!(!learner.is_joint());
        assert_eq!(of(&learner.voters), Some(replica(2)), "the same voters keep their heir, whoever leads");
        let joint = change(&pair, &[3, 2], 3);
        assert_eq!(
            (of(&joint.voters), of(&joint.old_voters)),
            (Some(replica(2)), Some(replica(2))),
            "who stays stays heir"
        );
        assert!(is_heir(&joint, replica(2), false) && !is_heir(&joint, replica(3), false));
        let left = change(&pair, &[1, 3], 1);
        assert!(
            !is_heir(&left, replica(1), false) && is_heir(&left.without_old(), replica(1), false),
            "{left:?}"
        );
        let doubtful = name(three.towards(ids(&[1, 2]), Vec::new()), &three, replica(2), false);
        assert_eq!(of(&doubtful.voters), Some(replica(1)), "who is in doubt could not go on alone");
        let alone = change(&founding(&[2]), &[1, 2], 2);
        assert!(is_heir(&alone, replica(2), false) && !is_heir(&alone, replica(1), false));
    }

    #[test]
    fn heir_decides_alone_and_nobody_else_does() {
        let pair = change(&founding(&[1, 2, 3]), &[1, 2], 1).without_old();
        let decision = decide(&report(1, pair.clone())).expect("the heir of two");
        assert_eq!((decision.generation, decision.opening.survivor), (Generation(1), replica(1)));
        assert_eq!((decision.opening.base, decision.opening.first_term), (LogId::new(0, 3, 7), Term(5)));
        assert!(decision.opening.lossless);
        assert_eq!(decision.learners, ids(&[2]));
        assert_eq!(decide(&report(2, pair.clone())), None);
        let doubtful = SealReport { sound: false, ..report(1, pair.clone()) };
        assert_eq!(decide(&doubtful), None, "it may have lost what it acknowledged");
        assert_eq!(decide(&report(1, founding(&[1, 2, 3]))), None);
    }

    #[test]
    fn heir_decides_in_the_middle_of_growing_if_it_knows_that_nothing_followed() {
        let pair = change(&founding(&[1, 2, 3]), &[1, 2], 1).without_old();
        let growing = change(&pair, &[1, 2, 3], 1);
        let by = |plan, node| decide(&SealReport { plan, ..report(node, growing.clone()) });
        assert_eq!(by(plan(false), 1), None, "the new three may have gone on without it");
        assert_eq!(by(plan(true), 2), None, "not the heir");
        let decision = by(plan(true), 1).expect("nobody can have led but itself");
        assert!(decision.opening.lossless && decision.opening.survivor == replica(1));
        assert_eq!(decision.learners, ids(&[2, 3]));
        // From three no heir leads anywhere, sole or not.
        let shrinking = change(&founding(&[1, 2, 3]), &[1, 2], 1);
        assert_eq!(decide(&SealReport { plan: plan(true), ..report(1, shrinking) }), None);
        let alone = change(&founding(&[1]), &[1, 2, 3], 1);
        assert!(decide(&SealReport { plan: plan(true), ..report(1, alone.clone()) }).is_some());
        assert_eq!(decide(&report(1, alone)), None);
    }

    /// A log of configurations as leaders of one group write it: each entry is held by whoever is told, at least by those who commit it.
    /// And whether it knows that nothing followed.
    fn logs(steps: &[(u8, u8, u8, u8)]) -> Vec<(i32, Configuration, bool)> {
        let mut committed = founding(&[1, 2, 3, 4]);
        let mut newest: Vec<Configuration> = (1..=4).map(|_| committed.clone()).collect();
        for (mask, leader, at_joint, at_new) in steps {
            let voters: Vec<i32> = (1..=4).filter(|n| mask & (1 << (n - 1)) != 0).collect();
            let leaders: Vec<i32> = committed.voters.iter().map(|r| r.node.0).collect();
            let leader = leaders[*leader as usize % leaders.len()];
            let same = voters.len() == committed.voters.len()
                && ids(&voters).iter().all(|r| committed.voters.contains(r));
            if voters.is_empty() || same {
                continue;
            }
            let joint = change(&committed, &voters, leader);
            for (configuration, told) in [(joint.clone(), at_joint), (joint.without_old(), at_new)] {
                let has = |n: i32| n == leader || told & (1 << (n - 1)) != 0;
                (1..=4).filter(|n| has(*n)).for_each(|n| newest[n as usize - 1] = configuration.clone());
                if !configuration.is_quorum(|r| has(r.node.0)) {
                    let is_sole = |n| n == leader && configuration.is_joint();
                    return (1..).zip(newest).map(|(n, newest)| (n, newest, is_sole(n))).collect();
                }
                committed = configuration;
            }
        }
        (1..).zip(newest).map(|(n, newest)| (n, newest, false)).collect()
    }

    proptest! {
        /// Whatever the changes, wherever they got stuck, whoever holds which of them: never two heirs.
        #[test]
        fn at_most_one_replica_is_heir(steps in proptest::collection::vec(any::<(u8, u8, u8, u8)>(), 0..8)) {
            let logs = logs(&steps);
            let is_heir = |(n, newest, sole): &&(i32, Configuration, bool)| is_heir(newest, replica(*n), *sole);
            let heirs: Vec<i32> = logs.iter().filter(is_heir).map(|(n, ..)| *n).collect();
            prop_assert!(heirs.len() <= 1, "{heirs:?} of {logs:?}");
        }
    }
}
