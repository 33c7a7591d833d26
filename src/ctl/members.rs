//! Who votes in a group: what its leader should ask for next, or what stands in the way of any leader (safety.md F2, F5, F24).
//!
//! The controllers say where a group's replicas are to be and which brokers are dead; that is one record per death, however many
//! groups it concerns. The leader of each group compares this with the configuration in its log and changes one step at a time
//! (decision 0009). Pure; called by `broker::shard` for every replica now and then. Not here: how members change
//! (`raftlog::core::membership`), how a generation ends (`generations`). Invariants:
//! - *shrink first*: a voter that is gone ceases to vote before anything else is waited for, as soon as the others can commit that;
//!   it stays as a learner, with the identity it has, unless its disk is another one;
//! - who becomes a voter is caught up; all that are go in one joint change where possible;
//! - a voter that is to leave leaves when all of the target is there and caught up, in the joint change that makes voters of the
//!   newcomers: nobody gives up a copy for one that is still to come. It stays a learner until the controllers have written down
//!   that the group has arrived: a reassignment may be cancelled until then;
//! - while the newcomers are still to come and a voter has been lost, whoever is to leave, keeps up and has no vote gets it (back), up to
//!   as many as there are to be: a whole copy without a vote is no help when the others fail;
//! - never fewer voters than `shrink.min.voters` by a shrink.

use crate::mutation::{Mutation, on};
use crate::raftlog::generation::meets_every_majority;
use crate::raftlog::message::Configuration;
use crate::segment::ReplicaId;

/// What a replica knows of its group.
pub struct View<'a> {
    /// In force at this replica, committed or not.
    pub configuration: &'a Configuration,
    /// This replica.
    pub me: ReplicaId,
    /// Replicas that the image knows, preferred leader first.
    pub assigned: &'a [ReplicaId],
    /// Those of them that are to stay, all of them unless the partition moves.
    pub target: &'a [ReplicaId],
    /// Those that are to leave may get a vote meanwhile. Not where a reassignment was cancelled: that is over as soon as none of them has one.
    pub takes_back: bool,
    /// It is to leave, and was there before all that: should its broker come back, it is worth replicating to meanwhile.
    pub was_there: &'a dyn Fn(ReplicaId) -> bool,
    /// Not to be counted on: the broker is dead and silent, or the replica is damaged, or not on its broker's disk.
    pub is_gone: &'a dyn Fn(ReplicaId) -> bool,
    /// As leader: it was heard a moment ago.
    pub is_heard: &'a dyn Fn(ReplicaId) -> bool,
    /// Its broker is in service.
    pub is_live: &'a dyn Fn(ReplicaId) -> bool,
    /// It holds the log durably and keeps up, as the leader sees it.
    pub is_caught_up: &'a dyn Fn(ReplicaId) -> bool,
    /// Number of the last entry of the controller log that all this is of.
    pub known: u64,
    /// Its answers count for commit, as the leader sees it.
    pub counts: &'a dyn Fn(ReplicaId) -> bool,
    /// `shrink.min.voters`.
    pub min_voters: usize,
    /// Learners that are on their way were waited for long enough.
    pub is_patience_over: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// All is as it should be, or under way, or cannot be helped from here.
    Nothing,
    /// Some learners could vote; the others are waited for, to take them in together.
    Wait,
    /// As leader: ask for these members.
    Change {
        /// Voters to be.
        voters: Vec<ReplicaId>,
        /// Learners to be.
        learners: Vec<ReplicaId>,
    },
    /// No quorum is left among those that are not gone.
    Stuck {
        /// Those that are not gone meet every majority: sealed, they prove that nothing can be lost, and the group may go on.
        provable: bool,
    },
}

/// Whether the group can have no leader, as far as this replica can tell.
pub fn is_stuck(view: &View<'_>) -> Option<Next> {
    let gone = view.is_gone;
    if !is_known(view) {
        return None;
    }
    if view.configuration.voters.is_empty() || view.configuration.is_quorum(|r| !gone(r)) {
        return None;
    }
    // A generation begins with one voter.
    let provable = view.min_voters <= 1 && meets_every_majority(view.configuration, |r| !gone(r));
    Some(Next::Stuck { provable })
}

/// Whether all members are those of an image that we have: one that was placed later is another leader's doing, who knew more. To us it
/// would be one that nobody wants, and its id would be used up.
fn is_known(view: &View<'_>) -> bool {
    view.configuration.members().all(|replica| replica.assignment <= view.known)
}

/// What the leader should do next.
pub fn next(view: &View<'_>) -> Next {
    let current = view.configuration;
    if !is_known(view) {
        return Next::Nothing;
    }
    // One that is unfit and keeps up all the same acknowledges what removes the others, and itself.
    let acknowledges = |r: ReplicaId| (view.is_heard)(r) && (view.is_caught_up)(r) && (view.counts)(r);
    if !current.is_quorum(|r| r == view.me || !(view.is_gone)(r) || acknowledges(r)) {
        return is_stuck(view).unwrap_or(Next::Nothing);
    }
    if current.is_joint() {
        return Next::Nothing;
    }
    // One that answers is not let go for its id alone (a disk that came back after its node had been given another): it is a copy, perhaps
    // one of few, and is treated as one that is to leave, for which its own successor is not waited for.
    let keeps = |r: &ReplicaId| view.assigned.contains(r) || (view.is_heard)(*r);
    let is_fine = |r: &ReplicaId| keeps(r) && !(view.is_gone)(*r) && !on(Mutation::ShrinkToTheLeader);
    let stays = |r: &ReplicaId| *r == view.me || is_fine(r);
    let ready: Vec<ReplicaId> = current.learners.iter().copied().filter(|r| may_vote(view, *r)).collect();
    let coming = |r: &&ReplicaId| !current.voters.contains(r) && !ready.contains(r) && is_coming(view, **r);
    let is_awaited = !view.is_patience_over && view.target.iter().any(|r| coming(&r));
    let mut voters: Vec<ReplicaId> = current.voters.iter().copied().filter(stays).collect();
    let has_leaving = view.assigned.iter().chain(&current.voters).any(|r| !view.target.contains(r));
    let is_there = |r: &ReplicaId| has_arrived(view, *r) || on(Mutation::LeaveBeforeArrival);
    let is_whole = has_leaving && view.target.iter().all(is_there);
    let least = if on(Mutation::ShrinkBelowMinimum) { 1 } else { view.min_voters };
    if is_whole {
        voters = view.target.to_vec();
    } else if let Some((older, arrived)) = making_room(view, &voters, least) {
        voters.retain(|r| !older.contains(r) && !arrived.contains(r));
        voters.extend(arrived);
    } else {
        // More voters than there are to be would have to agree, to no avail: beyond that the newcomers wait for one another.
        let room = |voters: &[ReplicaId]| view.target.len().saturating_sub(voters.len());
        if !is_awaited {
            let room = if has_leaving { room(&voters) } else { ready.len() };
            voters.extend(ready.iter().take(room));
        }
        let back = current.learners.iter().copied().filter(|r| may_return(view, *r));
        let room = room(&voters);
        voters.extend(back.take(room));
    }
    // Too few: some of those that are gone stay by order, first who acknowledges all the same.
    let mut gone: Vec<ReplicaId> =
        current.voters.iter().copied().filter(|r| !stays(r) && view.assigned.contains(r)).collect();
    gone.sort_by_key(|r| !acknowledges(*r));
    let missing = if is_whole { 0 } else { least.saturating_sub(voters.len()) };
    voters.extend(gone.into_iter().take(missing));
    let learners = learners(view, &voters);
    let place = |r: &ReplicaId| view.assigned.iter().position(|a| a == r).unwrap_or(usize::MAX);
    voters.sort_by_key(place);
    let same = |a: &[ReplicaId], b: &[ReplicaId]| a.len() == b.len() && a.iter().all(|r| b.contains(r));
    match same(&voters, &current.voters) && same(&learners, &current.learners) {
        true if is_awaited && !ready.is_empty() => Next::Wait,
        // What nobody is there to commit would only be one more configuration to be proved.
        false if is_committed_by(current, &voters, |r| r == view.me || (view.is_heard)(r)) => {
            Next::Change { voters, learners }
        }
        _ => Next::Nothing,
    }
}

/// It is to stay, and no copy is given up for it any more when another leaves.
fn has_arrived(view: &View<'_>, replica: ReplicaId) -> bool {
    let is_voter = view.configuration.voters.contains(&replica);
    match replica == view.me {
        true => is_voter && !(view.is_gone)(replica),
        false if is_voter => {
            !(view.is_gone)(replica) && (view.is_heard)(replica) && (view.is_caught_up)(replica)
        }
        false => view.configuration.learners.contains(&replica) && may_vote(view, replica),
    }
}

/// Voters in whose stead others are to come on the same nodes, if all the rest of the target is there, and that rest: a successor comes when
/// the older one has left, so the others have to do meanwhile.
///
/// Not down to a single copy, where there are two: then the older one stays until its node is away for other reasons.
fn making_room(
    view: &View<'_>,
    staying: &[ReplicaId],
    least: usize,
) -> Option<(Vec<ReplicaId>, Vec<ReplicaId>)> {
    let older = |to: &ReplicaId| {
        let is_older = |r: &&ReplicaId| r.node == to.node && *r != to;
        view.configuration.voters.iter().find(is_older).copied().filter(|_| is_coming(view, *to))
    };
    let (arrived, rest): (Vec<ReplicaId>, Vec<ReplicaId>) =
        view.target.iter().copied().partition(|r| has_arrived(view, *r));
    let leave: Vec<ReplicaId> = rest.iter().filter_map(older).collect();
    let is_all = !rest.is_empty() && leave.len() == rest.len();
    let copies =
        staying.iter().filter(|r| !leave.contains(r) && !arrived.contains(r)).count() + arrived.len();
    let is_enough = !arrived.is_empty() && copies >= least.max(staying.len().min(2));
    (is_all && is_enough).then_some((leave, arrived))
}

/// Whether these members can commit a change to those voters: both halves of the joint configuration have to.
fn is_committed_by(current: &Configuration, voters: &[ReplicaId], heard: impl Fn(ReplicaId) -> bool) -> bool {
    current.is_quorum(&heard) && 2 * voters.iter().filter(|r| heard(**r)).count() > voters.len()
}

fn may_vote(view: &View<'_>, replica: ReplicaId) -> bool {
    is_coming(view, replica)
        && ((view.is_heard)(replica) || on(Mutation::PromoteUnheard))
        && ((view.is_caught_up)(replica) || on(Mutation::PromoteBehind))
}

/// It is on its way out, and a copy as good as any: its broker was given up, and came back while others copy.
fn may_return(view: &View<'_>, replica: ReplicaId) -> bool {
    view.takes_back
        && view.assigned.contains(&replica)
        && !view.target.contains(&replica)
        && is_able(view, replica)
        && (view.is_heard)(replica)
        && ((view.is_caught_up)(replica) || on(Mutation::TakeBackBehind))
}

/// It may be a voter sooner or later.
fn is_coming(view: &View<'_>, replica: ReplicaId) -> bool {
    view.target.contains(&replica) && is_able(view, replica)
}

fn is_able(view: &View<'_>, replica: ReplicaId) -> bool {
    !view.configuration.is_retired(replica) && (view.is_live)(replica) && !(view.is_gone)(replica)
}

/// Who is to be replicated to without a vote: of the members all that are to be here, of the others those in service that are to stay or
/// were here before.
fn learners(view: &View<'_>, voters: &[ReplicaId]) -> Vec<ReplicaId> {
    let current = view.configuration;
    let joins = |r: &ReplicaId| {
        // Another replica of its node has to leave first.
        let replaces = current.members().any(|known| known.node == r.node && known != *r);
        // A generation began with one voter and those who were sealed: who returns to it is no member any more.
        let returns = view.takes_back && (view.was_there)(*r) && is_able(view, *r);
        current.is_member(*r) || ((is_coming(view, *r) || returns) && !replaces)
    };
    view.assigned.iter().copied().filter(|r| !voters.contains(r) && joins(r)).collect()
}
