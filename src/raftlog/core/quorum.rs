//! Majority arithmetic over one configuration, joint or not (Raft §6).
//!
//! Pure functions, no state, no allocation: groups have a handful of voters, so the quadratic search is
//! cheaper than a sort buffer. Called by elections, commit, check-quorum and read index.
//! Invariants: a joint configuration needs a majority of *both* halves; learners and observers are in neither half
//! and so can never count; a configuration without voters has no quorum at all.

use crate::mutation::{Mutation, on};
use crate::raftlog::message::Configuration;
use crate::segment::ReplicaId;

/// How many of `voters` make a majority.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether those for which `yes` holds are a quorum of `configuration`.
pub fn is_quorum(configuration: &Configuration, yes: impl Fn(ReplicaId) -> bool) -> bool {
    let half = |voters: &[ReplicaId]| voters.iter().filter(|r| yes(**r)).count() >= majority(voters.len());
    if !configuration.old_voters.is_empty() && on(Mutation::JointByOldHalf) {
        return half(&configuration.old_voters);
    }
    half(&configuration.voters)
        && (configuration.old_voters.is_empty()
            || half(&configuration.old_voters)
            || on(Mutation::JointByNewHalf))
}

/// Whether a quorum is out of reach once those for which `no` holds have refused.
pub fn is_lost(configuration: &Configuration, no: impl Fn(ReplicaId) -> bool) -> bool {
    !is_quorum(configuration, |replica| !no(replica))
}

/// The largest value that a quorum has reached: the commit index if `value` is what each holds durably.
/// None without voters.
pub fn reached<T: Ord + Copy>(configuration: &Configuration, value: impl Fn(ReplicaId) -> T) -> Option<T> {
    let learners: &[ReplicaId] = if on(Mutation::CountLearners) { &configuration.learners } else { &[] };
    let new = reached_by(&configuration.voters, learners, &value)?;
    if configuration.old_voters.is_empty() || on(Mutation::JointByNewHalf) {
        return Some(new);
    }
    let old = reached_by(&configuration.old_voters, learners, &value)?;
    Some(if on(Mutation::JointByOldHalf) { old } else { new.min(old) })
}

fn reached_by<T: Ord + Copy>(
    voters: &[ReplicaId],
    others: &[ReplicaId],
    value: &impl Fn(ReplicaId) -> T,
) -> Option<T> {
    let needed = majority(voters.len());
    let mut best = None;
    let counted = || voters.iter().chain(others);
    for candidate in counted().map(|r| value(*r)) {
        let reached = counted().filter(|r| value(**r) >= candidate).count() >= needed;
        if reached && best.is_none_or(|b| candidate > b) {
            best = Some(candidate);
        }
    }
    best
}
