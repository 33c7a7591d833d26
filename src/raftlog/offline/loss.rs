//! The controllers' group goes on although its stopped copies do not prove that nothing is lost (decision 0021).
//!
//! Not what the controllers lost is the question, but which disks acted on what is lost. Every node keeps a copy of the controllers' log and
//! acts on nothing else, so a log that ends with the best of a set of copies holds all that any of their disks ever acted on: of logs of one
//! generation the best one holds whatever is committed and in any of them (Raft §5.4). The operator brings the directories of all nodes
//! that are to go on; whoever is not among them is gone, for good. Pure. Not here: reading and writing directories (`broker::offline`), what
//! follows for the metadata (`ctl::offline`). Invariants:
//! - every copy is sound, every member of the group at hand or gone;
//! - the log goes on behind the best copy, a broker's or not, or not at all;
//! - a copy of the newest generation that another plan ended does not take part: the survivor of that plan may have gone on;
//! - a copy of an earlier generation holds nothing that the base does not.

use super::{Held, Judgement, Standing, Verdict, apart, fnv, unsound};
use crate::mutation::{Mutation, on};
use crate::raftlog::generation::{Decision, SealReport};
use crate::raftlog::heir::WITH_LOSS;
use crate::raftlog::message::Configuration;
use crate::segment::{Generation, Index, NodeId, Opening, ReplicaId, Term};
use std::cmp::Reverse;

/// How the controllers go on although something may be lost by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The copy that goes on.
    pub survivor: usize,
    /// The copy that says where the log ends: the best of all, a broker's perhaps. The survivor takes over what it lacks of it.
    pub base: usize,
    /// Last entry that both hold.
    pub common: Index,
    /// Number of the plan.
    pub plan: u64,
    /// The term in which the survivor takes over what it lacks; above every one at hand.
    pub term: Term,
}

/// Whether and how the group goes on from these copies, `judged`, with a loss: all that their disks ever acted on is kept, what others did
/// beyond is not. `gone`: nodes that will never come back as they were.
///
/// # Errors
/// What stands against it.
pub fn accept(copies: &[Held], judged: &Judgement, gone: &[NodeId]) -> Result<Acceptance, String> {
    match judged.verdict {
        Verdict::Open | Verdict::UnlessHeir | Verdict::Ended { .. } => {}
        Verdict::Empty => return Err("nothing is lost: it goes on without --accept-loss".into()),
        Verdict::Alone => return Err("nothing is to be done: the only voter is here, start it".into()),
        Verdict::Nothing => return Err("no controller's copy here can go on".into()),
    }
    let node = |at: usize| copies[at].report.replica.node;
    if let Some(held) = copies.iter().find(|held| !held.report.sound) {
        let (node, why) = (held.report.replica.node, unsound(held).unwrap_or_default());
        return Err(format!(
            "node {node}: {why}; leave it out and say that it is gone (--gone {node}), for good"
        ));
    }
    let counts = |at: &usize| matches!(judged.standings[*at], Standing::Best | Standing::Counts);
    let rank = |at: &usize| (copies[*at].report.last, counts(at), Reverse(copies[*at].report.replica));
    let newest = || (0..copies.len()).filter(|at| copies[*at].report.generation == judged.from);
    let best = newest().max_by_key(rank).expect("a verdict has copies");
    let configuration = &copies[best].report.configuration;
    check_members(copies, configuration, gone)?;
    let goes_on = |at: &usize| counts(at) && configuration.is_member(copies[*at].report.replica);
    let survivor = newest()
        .filter(goes_on)
        .max_by_key(rank)
        .ok_or_else(|| format!("by node {}'s copy, the best, no controller given here is one", node(best)))?;
    let base = if on(Mutation::AcceptWorse) { survivor } else { best };
    let common = match copies[survivor].report.last == copies[base].report.last {
        true => copies[base].report.last.index,
        false => copies[survivor].common(&copies[base]),
    };
    if common < copies[base].start.index || common < copies[survivor].start.index {
        return Err(format!(
            "node {}'s copy is the best and begins behind what node {}'s holds: that controller cannot go on from it",
            node(base),
            node(survivor)
        ));
    }
    let acted_elsewhere = |at: &usize| {
        let last = copies[*at].report.last;
        last.epoch.generation < judged.from && copies[*at].common(&copies[base]) < last.index
    };
    if let Some(at) = (0..copies.len()).find(acted_elsewhere) {
        return Err(format!(
            "node {0}'s copy holds what its generation had and the best copy does not: say that it is gone (--gone {0}), for good",
            node(at)
        ));
    }
    let plan = plan_with_loss(copies, gone, (survivor, base));
    if let Some((at, other)) =
        newest().find_map(|at| Some((at, copies[at].ended_by().filter(|by| *by != plan)?)))
    {
        return Err(format!(
            "node {}'s copy was ended by plan {other:016x}, whose survivor may have gone on",
            node(at)
        ));
    }
    let highest = copies.iter().map(|held| held.report.highest_term).max().unwrap_or_default();
    Ok(Acceptance { survivor, base, common, plan, term: highest.next() })
}

/// Every member of the newest configuration is here with the disk that it is a member with, or gone.
fn check_members(copies: &[Held], configuration: &Configuration, gone: &[NodeId]) -> Result<(), String> {
    for member in configuration.members().filter(|member| !gone.contains(&member.node)) {
        let node = member.node;
        if copies.iter().any(|held| held.report.replica == member) {
            continue;
        }
        return Err(match copies.iter().any(|held| held.report.replica.node == node) {
            true => format!(
                "controller {node} is given with another disk than it is a controller with: leave that one out, and say that the other is gone \
                 (--gone {node})"
            ),
            false => {
                format!("controller {node} is neither given (--with) nor said to be gone for good (--gone)")
            }
        });
    }
    Ok(())
}

/// The same after each step that the plan takes: where the survivor's own log ends is not in it.
fn plan_with_loss(copies: &[Held], gone: &[NodeId], (survivor, base): (usize, usize)) -> u64 {
    let replica = |held: &Held| {
        let ReplicaId { node, assignment, directory } = held.report.replica;
        format!("{node} {assignment} {directory:032x}")
    };
    let mut told: Vec<String> = copies.iter().map(replica).collect();
    told.extend(gone.iter().map(|node| format!("gone {node}")));
    told.sort_unstable();
    told.push(format!("{} {}", replica(&copies[survivor]), copies[base].report.last));
    fnv(&told) | 1 << 63 | WITH_LOSS
}

/// What the survivor is told once every copy is sealed by the plan; `sealed`: what its own seal says. None: not what was accepted.
pub fn decide_with_loss(
    copies: &[Held],
    judged: &Judgement,
    accepted: &Acceptance,
    sealed: &SealReport,
) -> Option<Decision> {
    let (survivor, base) = (copies[accepted.survivor].report.replica, &copies[accepted.base].report);
    let first_term = accepted.term.next();
    let is_it = sealed.replica == survivor && sealed.last == base.last && sealed.plan == accepted.plan;
    if !is_it || !sealed.sound || sealed.highest_term >= first_term {
        return None;
    }
    let opening = Opening { survivor, base: base.last, first_term, lossless: false };
    let here = |replica: &ReplicaId| copies.iter().any(|held| held.report.replica == *replica);
    let learners =
        base.configuration.members().filter(|member| *member != survivor && here(member)).collect();
    Some(Decision { generation: apart(judged.from, accepted.plan), opening, learners })
}

/// The generation that would be opened with a loss.
pub fn next_with_loss(judged: &Judgement, accepted: &Acceptance) -> Generation {
    apart(judged.from, accepted.plan)
}

#[cfg(test)]
mod tests {
    use super::super::judge;
    use super::super::tests::{held, joint, of, replicas, sealed};
    use super::*;
    use crate::segment::LogId;

    fn judged(copies: &[Held], gone: &[i32]) -> Result<Acceptance, String> {
        let gone: Vec<NodeId> = gone.iter().copied().map(NodeId).collect();
        accept(copies, &judge(copies), &gone)
    }

    fn three(node: i32, last: (u64, u64)) -> Held {
        held(node, last, of(&[1, 2, 3]))
    }

    #[test]
    fn log_goes_on_behind_the_best_copy_and_a_controller_goes_on() {
        // Broker 7 has heard more of the last leader than the controller that is left.
        let copies = [three(2, (3, 9)), three(7, (3, 12)), three(8, (2, 40))];
        let accepted = judged(&copies, &[1, 3]).unwrap();
        assert_eq!((accepted.survivor, accepted.base, accepted.common), (0, 1, Index(9)));
        assert_eq!(accepted.term, copies[0].report.highest_term.next());
        let seal = SealReport { plan: accepted.plan, ..three(2, (3, 12)).report };
        let decision = decide_with_loss(&copies, &judge(&copies), &accepted, &seal).unwrap();
        assert_eq!(decision.opening.base, LogId::new(0, 3, 12));
        assert_eq!(decision.opening.survivor.node, NodeId(2));
        assert!(decision.generation >= Generation(1_000), "it is told apart from that of others");
        assert_eq!(decision.learners, [], "the others are gone");
        for other in [
            SealReport { plan: 3, ..seal.clone() },
            SealReport { sound: false, ..seal.clone() },
            SealReport { last: LogId::new(0, 3, 11), ..seal.clone() },
            SealReport { highest_term: accepted.term.next(), ..seal.clone() },
        ] {
            assert_eq!(decide_with_loss(&copies, &judge(&copies), &accepted, &other), None);
        }
    }

    #[test]
    fn everybody_is_given_or_gone_and_sure_of_what_it_holds() {
        let one = [three(2, (3, 9))];
        assert!(judged(&one, &[1]).unwrap_err().contains("controller 3 is neither given"));
        assert!(judged(&one, &[1, 3]).is_ok());
        let mut unsound = three(7, (3, 9));
        unsound.report.sound = false;
        assert!(judged(&[three(2, (3, 9)), unsound], &[1, 3]).unwrap_err().contains("--gone 7"));
        assert!(judged(&[three(7, (3, 9))], &[1, 2, 3]).is_err(), "a broker's copy does not go on");
        let two = [three(1, (3, 9)), three(2, (3, 9))];
        assert!(judged(&two, &[3]).unwrap_err().contains("nothing is lost"));
        // By the best copy the controller that is left was taken out.
        let without = held(7, (3, 12), of(&[1, 3]));
        assert!(judged(&[three(2, (3, 9)), without], &[1, 3]).is_err());
        let joins = held(7, (3, 12), joint(&[1, 3], &[1, 2, 3]));
        assert_eq!(judged(&[three(2, (3, 9)), joins], &[1, 3]).map(|a| a.survivor), Ok(0));
    }

    #[test]
    fn plan_stays_the_same_while_it_is_carried_out_and_other_copies_have_another() {
        let before = [three(2, (3, 9)), three(7, (3, 12))];
        let plan = judged(&before, &[1, 3]).unwrap().plan;
        // What the survivor lacked is taken over; then both are sealed, one after the other.
        let taken = [three(2, (3, 12)), three(7, (3, 12))];
        let half = [taken[0].clone(), sealed(&taken[1], plan)];
        let all = [sealed(&taken[0], plan), sealed(&taken[1], plan)];
        for copies in [taken, half, all] {
            assert_eq!(judged(&copies, &[3, 1]).map(|a| a.plan), Ok(plan));
        }
        for (copies, gone) in [
            (vec![three(2, (3, 9)), three(7, (3, 13))], vec![1, 3]),
            (vec![three(2, (3, 9)), three(7, (3, 12)), three(8, (3, 1))], vec![1, 3]),
            (before.to_vec(), vec![1, 3, 9]),
        ] {
            assert_ne!(judged(&copies, &gone).map(|a| a.plan), Ok(plan));
        }
    }

    #[test]
    fn copy_that_another_plan_ended_does_not_take_part() {
        let ended = sealed(&three(2, (3, 9)), 1 << 63);
        assert!(judged(&[ended], &[1, 3]).unwrap_err().contains("ended by plan"));
        let broker = sealed(&three(7, (3, 9)), 1 << 63);
        let why = judged(&[three(2, (3, 9)), broker], &[1, 3]).unwrap_err();
        assert!(why.contains("node 7's copy was ended by plan 8000000000000000"), "{why}");
    }

    #[test]
    fn copy_of_an_earlier_generation_holds_nothing_that_the_base_does_not() {
        let mut base = three(2, (2, 4));
        base.report.generation = Generation(1);
        base.report.last = LogId::new(1, 4, 12);
        base.epochs.push((base.report.last.epoch, Index(10)));
        let (behind, beyond) = (three(7, (2, 9)), three(7, (2, 10)));
        assert!(
            judged(&[base.clone(), sealed(&behind, 5)], &[1, 3]).is_ok(),
            "it was ended with its generation"
        );
        let why = judged(&[base.clone(), beyond], &[1, 3]).unwrap_err();
        assert!(why.contains("--gone 7"), "{why}");
        let other = three(7, (3, 9));
        assert!(judged(&[base, other], &[1, 3]).is_err(), "a term that the base knows nothing of");
    }

    #[test]
    fn controller_with_another_disk_is_not_the_one_that_voted() {
        let mut anew = three(3, (3, 9));
        anew.report.replica.directory = 77;
        let why = judged(&[three(2, (3, 9)), anew], &[1]).unwrap_err();
        assert!(why.contains("another disk") && why.contains("--gone 3"), "{why}");
    }

    #[test]
    fn equal_controllers_are_told_apart_whatever_comes_first() {
        let four = |node: i32| held(node, (3, 9), of(&[1, 2, 3, 4]));
        let plan = |copies: &[Held]| {
            judged(copies, &[1, 2]).map(|a| (copies[a.survivor].report.replica.node, a.plan))
        };
        assert_eq!(plan(&[four(3), four(4)]).map(|(node, _)| node), Ok(NodeId(3)));
        assert_eq!(plan(&[four(3), four(4)]), plan(&[four(4), four(3)]));
    }

    #[test]
    fn copy_that_begins_behind_what_the_survivor_holds_cannot_be_joined() {
        let mut base = three(7, (3, 40));
        base.start = LogId::new(0, 3, 20);
        base.epochs = vec![(base.report.last.epoch, Index(21))];
        assert!(judged(&[three(2, (3, 9)), base.clone()], &[1, 3]).unwrap_err().contains("begins behind"));
        assert_eq!(judged(&[three(2, (3, 30)), base.clone()], &[1, 3]).map(|a| a.common), Ok(Index(30)));
        assert_eq!(
            judged(&[three(2, (3, 20)), base], &[1, 3]).map(|a| a.common),
            Ok(Index(20)),
            "it begins there"
        );
    }

    /// The entries before [`replicas`] are nobody's here.
    #[test]
    fn learners_are_members_that_are_here() {
        let mut copies = [three(1, (3, 9)), held(4, (3, 9), of(&[1, 2, 3]))];
        for copy in &mut copies {
            copy.report.configuration.learners = replicas(&[4]);
        }
        let accepted = judged(&copies, &[2, 3]).unwrap();
        let seal = SealReport { plan: accepted.plan, ..copies[accepted.survivor].report.clone() };
        let decision = decide_with_loss(&copies, &judge(&copies), &accepted, &seal).unwrap();
        assert_eq!(decision.learners, replicas(&[4]), "survivor {:?}", accepted.survivor);
    }
}
