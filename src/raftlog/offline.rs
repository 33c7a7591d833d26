//! The controllers' group when it lost its quorum for good and no heir may go on: what stopped copies of its log prove, which of them
//! goes on, and the order by which it does (safety.md F1, F2; decision 0018); what is not proven and accepted all the same is `loss`.
//!
//! Nobody is above this group, so an operator brings the directories of stopped nodes together, and the rule by which controllers decide
//! for partitions is applied to them. Pure. Not here: reading and writing directories (`broker::offline`), the rule itself
//! (`generation`), who goes on alone without an operator (`heir`). Invariants:
//! - a copy counts only if it is sound, of the newest generation at hand, and a member by its own log;
//! - the loss is provably empty exactly if the copies that count meet every majority of the newest configuration in the best one's log, and,
//!   where they are just half of a half, have its tie-breaker among them ([`tie_breaker`]): any two sets of copies that prove it share one;
//! - a copy that was ended by another plan proves nothing: the survivor of that plan may have gone on;
//! - a generation opened on an operator's word for a missing heir has a number that the heir does not give to its own.

pub mod loss;

use super::core::{Core, CoreConfig, Restored};
use super::generation::{self, Decision, SealReport};
use super::heir::{APART, WITH_LOSS};
use super::message::Configuration;
use super::{heir, message};
use crate::mutation::{Mutation, on};
use crate::segment::{
    Doubt, Epoch, Generation, HardState, Index, LogId, NodeId, RecoveredGroup, ReplicaId, Term,
};

/// Timing of a core that nobody lets run: the defaults.
pub fn core_config() -> CoreConfig {
    CoreConfig {
        beat_ms: 100,
        election_min_ms: 600,
        election_max_ms: 1_200,
        check_quorum_ms: 1_200,
        stickiness_ms: 600,
        window_bytes: 8 << 20,
        append_bytes: 1 << 20,
        uncommitted_bytes: 64 << 20,
        reset_jitter_ms: 50,
    }
}

/// What a core starts from, of a group that was found on a disk.
pub fn restored(found: RecoveredGroup, gate_open: bool, seed: u64) -> Restored {
    let decode =
        |(id, bytes): &(LogId, bytes::Bytes)| message::Configuration::decode(bytes).map(|c| (*id, c));
    Restored {
        replica: found.replica,
        hard_state: found.hard_state,
        log_start: found.log_start,
        configurations: found.configurations.iter().filter_map(decode).collect(),
        epochs: found.epochs,
        last: found.last,
        next_offset: found.next_offset,
        gate_open,
        needs_repair: found.needs_repair.is_some(),
        campaign_at_once: false,
        seed,
    }
}

/// A stopped copy of the group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What its seal would say.
    pub report: SealReport,
    /// Its persisted state: seal, doubt, how its generation began.
    pub hard: HardState,
    /// The entry before its first.
    pub start: LogId,
    /// First index of every epoch in it, ascending.
    pub epochs: Vec<(Epoch, Index)>,
    /// Entries that are damaged.
    pub damaged: Option<(Index, Index)>,
}

impl Held {
    /// As a node that starts with it would see it.
    pub fn of(found: &RecoveredGroup) -> Self {
        let (start, epochs, damaged) = (found.log_start.prev, found.epochs.clone(), found.needs_repair);
        let mut core = Core::new(core_config(), restored(found.clone(), true, 0), 0, &mut Vec::new());
        core.become_controllers();
        Self { report: core.report(0), hard: core.hard_state(), start, epochs, damaged }
    }

    /// The entry of this index, or the one before the first; none outside.
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        if index == self.start.index {
            return Some(self.start);
        }
        let at = self.epochs.partition_point(|(_, first)| *first <= index);
        let is_in = self.start.index < index && index <= self.report.last.index;
        at.checked_sub(1).filter(|_| is_in).map(|at| LogId { epoch: self.epochs[at].0, index })
    }

    /// Last entry that both logs hold.
    pub fn common(&self, other: &Held) -> Index {
        let runs = |held: &Held| {
            let ends = held.epochs.iter().skip(1).map(|(_, first)| first.prev());
            let ends: Vec<Index> = ends.chain([held.report.last.index]).collect();
            held.epochs
                .iter()
                .zip(ends)
                .map(|((epoch, first), end)| (*epoch, *first, end))
                .collect::<Vec<_>>()
        };
        let (ours, theirs) = (runs(self), runs(other));
        let overlap = |(epoch, first, end): &(Epoch, Index, Index)| {
            let same = theirs.iter().find(|(other, ..)| other == epoch)?;
            (*first.max(&same.1) <= *end.min(&same.2)).then_some(*end.min(&same.2))
        };
        // Entries of one epoch are the same ones in every log, and so is all that lies before them; and so is what a log begins behind.
        let begins = [self.start, other.start].into_iter().filter(|start| {
            self.id_at(start.index) == Some(*start) && other.id_at(start.index) == Some(*start)
        });
        ours.iter().filter_map(overlap).chain(begins.map(|start| start.index)).max().unwrap_or(Index(0))
    }

    /// The plan by which somebody else than itself ended its generation.
    fn ended_by(&self) -> Option<u64> {
        self.hard.sealed.filter(|plan| !heir::is_own(*plan))
    }
}

impl Judgement {
    fn nothing(from: Generation, standings: Vec<Standing>) -> Self {
        Self {
            from,
            standings,
            verdict: Verdict::Nothing,
            best: None,
            plan: 0,
            alone_from: None,
            missing: Vec::new(),
            heirs: Vec::new(),
            is_quorum: false,
        }
    }
}

/// How one copy stands to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The best of those that count: the survivor.
    Best,
    /// It counts.
    Counts,
    /// Another plan ended it, whatever became of that.
    Sealed,
    /// Not sure of what it holds: damaged, or in doubt.
    Unsound,
    /// Its generation ended, as another copy shows.
    Ended,
    /// It has heard of its generation and holds nothing of it.
    NeverJoined,
    /// It was a member, and was taken out.
    Removed,
    /// It never was one: a broker's copy.
    Observer,
}

/// What the copies prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None counts.
    Nothing,
    /// The best one is the only voter: its node has only to be started.
    Alone,
    /// Copies were ended by this plan, which is another one.
    Ended {
        /// Its number.
        plan: u64,
    },
    /// Nothing that was ever committed is lost.
    Empty,
    /// The same, unless a missing heir went on alone.
    UnlessHeir,
    /// Others may have committed what none of these holds.
    Open,
}

/// The copies, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The newest generation at hand.
    pub from: Generation,
    /// Of each copy, in the order given.
    pub standings: Vec<Standing>,
    /// What they prove.
    pub verdict: Verdict,
    /// The best copy.
    pub best: Option<usize>,
    /// Number of the plan that follows from them: of the same copies, whoever looks.
    pub plan: u64,
    /// First entry of the best copy that no other sound one holds, if there is one.
    pub alone_from: Option<Index>,
    /// Voters of either half of its newest configuration that do not count here.
    pub missing: Vec<ReplicaId>,
    /// Of those: who could have gone on alone.
    pub heirs: Vec<ReplicaId>,
    /// Those that count elect a leader when their nodes are started, or the heir among them goes on alone.
    pub is_quorum: bool,
}

/// Whoever has to be among exactly half of these voters. An heir goes on without asking anybody. Of more than two nobody does; but without
/// one that is in both, two halves would prove the same to two operators, and nobody is above them.
pub fn tie_breaker(half: &[ReplicaId]) -> Option<ReplicaId> {
    heir::of(half).or(half.iter().min().copied())
}

/// Judges copies of one cluster's controller log, of different replicas.
pub fn judge(copies: &[Held]) -> Judgement {
    let judged = judge_but(copies, &[]);
    let Verdict::Ended { .. } = judged.verdict else { return judged };
    // Those that were ended by another plan prove nothing. What the others prove alone no other plan can have proven: it would share one of them.
    let ended: Vec<usize> = (0..copies.len()).filter(|at| copies[*at].ended_by().is_some()).collect();
    let rest = judge_but(copies, &ended);
    if rest.verdict == Verdict::Empty { rest } else { judged }
}

fn judge_but(copies: &[Held], ended: &[usize]) -> Judgement {
    let from = copies.iter().map(|held| held.report.generation).max().unwrap_or_default();
    let stand = |(at, held)| if ended.contains(&at) { Standing::Sealed } else { stand(held, from) };
    let mut standings: Vec<Standing> = copies.iter().enumerate().map(stand).collect();
    let at_hand: Vec<usize> = (0..copies.len()).filter(|at| standings[*at] == Standing::Counts).collect();
    let reports: Vec<SealReport> = at_hand.iter().map(|at| copies[*at].report.clone()).collect();
    let position =
        |replica: ReplicaId| at_hand.iter().find(|at| copies[**at].report.replica == replica).copied();
    let decided = generation::decide(from, &reports, Term(0)).ok();
    let best = decided.as_ref().and_then(|decided| position(decided.opening.survivor));
    let Some((mut at, decided)) = best.zip(decided) else { return Judgement::nothing(from, standings) };
    let configuration = copies[at].report.configuration.clone();
    let counts = |replica: ReplicaId| position(replica).is_some();
    let only =
        Some(&configuration.voters[..]).filter(|voters| voters.len() == 1 && !configuration.is_joint());
    let only = only.and_then(|voters| position(voters[0]));
    // The only voter goes on by itself, whoever else holds what it has not stored yet.
    at = only.unwrap_or(at);
    standings[at] = Standing::Best;
    let missing: Vec<ReplicaId> = voters(&configuration).into_iter().filter(|r| !counts(*r)).collect();
    let plan = plan_of(copies, &at_hand, at);
    let foreign = at_hand.iter().filter_map(|at| copies[*at].ended_by()).find(|known| *known != plan);
    let (undecided, is_open) = undecided(&configuration, &counts);
    // A log begins behind what is committed: then something is missing here that was.
    let last = copies[at].report.last;
    let is_behind = copies.iter().any(|held| held.report.generation == from && held.start.index > last.index);
    let is_open = is_open || is_behind || !decided.opening.lossless;
    let verdict = match foreign.filter(|_| !on(Mutation::RecoverPastASeal)) {
        Some(plan) => Verdict::Ended { plan },
        None if only.is_some() => Verdict::Alone,
        None if is_open && !on(Mutation::RecoverControllersUnproven) => Verdict::Open,
        None if undecided.is_empty() => Verdict::Empty,
        None => Verdict::UnlessHeir,
    };
    let sound = |held: &&Held| held.report.sound && held.report.replica != copies[at].report.replica;
    let shared = copies.iter().filter(sound).map(|held| copies[at].common(held)).max().unwrap_or(Index(0));
    let alone_from = (shared < last.index).then(|| shared.next().max(copies[at].start.index.next()));
    let is_quorum = configuration.is_quorum(counts) || heir::of(&configuration.voters).is_some_and(counts);
    Judgement {
        from,
        standings,
        verdict,
        best: Some(at),
        plan,
        alone_from,
        missing,
        heirs: undecided,
        is_quorum,
    }
}

/// Missing heirs of halves of two, of which just one voter is here; and whether half of a larger one is here without its tie-breaker.
fn undecided(configuration: &Configuration, counts: &dyn Fn(ReplicaId) -> bool) -> (Vec<ReplicaId>, bool) {
    let (mut heirs, mut is_open) = (Vec::new(), false);
    for half in [&configuration.voters, &configuration.old_voters] {
        let absent = half.iter().filter(|replica| !counts(**replica)).count();
        let Some(needed) = tie_breaker(half).filter(|needed| 2 * absent == half.len() && !counts(*needed))
        else {
            continue;
        };
        match half.len() {
            2 if on(Mutation::ForgetMissingHeir) => {}
            2 => heirs.push(needed),
            _ => is_open = !on(Mutation::HalvesProveEach) || is_open,
        }
    }
    (heirs, is_open)
}

fn stand(held: &Held, from: Generation) -> Standing {
    let report = &held.report;
    if report.generation < from {
        return Standing::Ended;
    }
    if !report.sound {
        return Standing::Unsound;
    }
    match &report.configuration {
        configuration if configuration.voters.is_empty() => Standing::NeverJoined,
        configuration if configuration.is_member(report.replica) => Standing::Counts,
        configuration if configuration.is_retired(report.replica) => Standing::Removed,
        _ => Standing::Observer,
    }
}

/// Above the numbers by which heirs end their generation. FNV-1a: tells plans apart that differ by chance.
fn plan_of(copies: &[Held], counting: &[usize], best: usize) -> u64 {
    let mut told: Vec<String> = counting.iter().map(|at| describe(&copies[*at].report)).collect();
    told.sort_unstable();
    told.push(describe(&copies[best].report));
    (fnv(&told) | 1 << 63) & !WITH_LOSS
}

fn fnv(told: &[String]) -> u64 {
    let bytes = told.iter().flat_map(|text| text.bytes().chain([0]));
    bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn describe(report: &SealReport) -> String {
    let SealReport { replica, last, configuration_id, .. } = report;
    let ReplicaId { node, assignment, directory } = replica;
    format!("{node} {assignment} {directory:032x} {last} {configuration_id}")
}

/// What the survivor is told once all that count are sealed by `plan`, as `sealed` say; `heir_gone`: on the operator's word that no missing heir
/// went on alone. None: the seals do not say what `judged` does.
pub fn decide(
    copies: &[Held],
    judged: &Judgement,
    sealed: &[SealReport],
    heir_gone: bool,
) -> Option<Decision> {
    let survivor = &copies[judged.best?].report;
    let may = match judged.verdict {
        Verdict::Empty => true,
        Verdict::UnlessHeir => heir_gone,
        _ => false,
    };
    let decision = generation::decide(judged.from, sealed, Term(0)).ok()?;
    let opening = decision.opening;
    let is_it = opening.survivor == survivor.replica && opening.base == survivor.last;
    let proven = opening.lossless || on(Mutation::RecoverControllersUnproven);
    if !may || !is_it || !proven || sealed.iter().any(|report| report.plan != judged.plan) {
        return None;
    }
    // All others follow from its first entry on: nobody else could tell them of it.
    let others = survivor.configuration.members().filter(|member| *member != survivor.replica);
    Some(Decision { generation: next(judged), opening, learners: others.collect() })
}

/// The generation that would be opened.
pub fn next(judged: &Judgement) -> Generation {
    match judged.verdict {
        // The heir's own would be the next one: should it have gone on, or come back to do so, the two are told apart.
        Verdict::UnlessHeir if !on(Mutation::ShareTheHeirsGeneration) => apart(judged.from, judged.plan),
        _ => judged.from.next(),
    }
}

/// Told apart from those that the others would give to theirs, should they live.
fn apart(from: Generation, plan: u64) -> Generation {
    Generation(from.0 + APART + plan % APART)
}

/// Why a copy is not sound, in words.
pub fn unsound(held: &Held) -> Option<String> {
    if held.report.sound {
        return None;
    }
    Some(match (held.damaged, held.hard.doubt) {
        (Some((first, last)), _) if last == Index(u64::MAX) => format!("damaged from entry {first} on"),
        (Some((first, last)), _) => format!("entries {first} to {last} are damaged"),
        (None, Doubt::Vote) => {
            "its journal is damaged: it may have lost entries, its term and its vote".into()
        }
        (None, Doubt::Entries) => "it may have lost entries that it acknowledged".into(),
        (None, Doubt::None) => "its log contradicts itself".into(),
    })
}

/// The nodes of these replicas, each once.
pub fn nodes(replicas: &[ReplicaId]) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Voters of a configuration, of either half, without doubles.
pub fn voters(configuration: &Configuration) -> Vec<ReplicaId> {
    configuration.members().filter(|replica| configuration.is_voter(*replica)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::raftlog::core::{Effect, Event, GenerationEffect, Order};
    use crate::segment::{LogStart, Offset, Opening};
    use proptest::prelude::*;

    fn replica(node: i32) -> ReplicaId {
        ReplicaId { node: NodeId(node), assignment: 0, directory: 7 + node as u128 }
    }

    pub fn replicas(nodes: &[i32]) -> Vec<ReplicaId> {
        nodes.iter().copied().map(replica).collect()
    }

    pub fn joint(old: &[i32], new: &[i32]) -> Configuration {
        Configuration { old_voters: replicas(old), ..of(new) }
    }

    pub fn of(voters: &[i32]) -> Configuration {
        Configuration { voters: replicas(voters), ..Configuration::default() }
    }

    /// A copy whose log ends with entry `index` of term `term`, and holds this configuration.
    pub fn held(node: i32, (term, index): (u64, u64), configuration: Configuration) -> Held {
        let found = RecoveredGroup {
            group: crate::segment::GroupId(0),
            name: "controller".into(),
            replica: replica(node),
            hard_state: HardState { epoch: Epoch::new(0, term), ..HardState::default() },
            log_start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
            last: LogId::new(0, term, index),
            next_offset: Offset(0),
            epochs: (1..=term).map(|term| (Epoch::new(0, term), Index(term))).collect(),
            configurations: Vec::new(),
            needs_repair: None,
        };
        Held::of(&found)
    }

    pub fn sealed(held: &Held, plan: u64) -> Held {
        Held { hard: HardState { sealed: Some(plan), ..held.hard }, ..held.clone() }
    }

    fn reports(copies: &[Held], judged: &Judgement) -> Vec<SealReport> {
        let counts = |at: &usize| matches!(judged.standings[*at], Standing::Best | Standing::Counts);
        let at_hand = (0..copies.len()).filter(counts);
        at_hand.map(|at| SealReport { plan: judged.plan, ..copies[at].report.clone() }).collect()
    }

    #[test]
    pub(crate) fn copies_are_judged_by_the_table_of_decision_0018() {
        let at = (2, 9);
        let verdict = |copies: &[Held]| judge(copies).verdict;
        let three = |node: i32| held(node, at, of(&[1, 2, 3]));
        assert_eq!(verdict(&[three(1)]), Verdict::Open, "one of three proves nothing");
        assert_eq!(verdict(&[three(1), three(3)]), Verdict::Empty, "two of three");
        let four = |node: i32| held(node, at, of(&[1, 2, 3, 4]));
        assert_eq!(verdict(&[four(1), four(4)]), Verdict::Empty, "two of four, which elect nobody");
        assert_eq!(
            verdict(&[four(2), four(3)]),
            Verdict::Open,
            "two halves of four: the other one may be recovered too"
        );
        assert!(!judge(&[four(1), four(4)]).is_quorum && judge(&[three(1), three(3)]).is_quorum);
        let pair = |node: i32| held(node, at, of(&[2, 1]));
        assert_eq!(verdict(&[pair(1)]), Verdict::UnlessHeir, "the heir may have gone on");
        assert_eq!(judge(&[pair(1)]).heirs, replicas(&[2]));
        assert_eq!(verdict(&[pair(2)]), Verdict::Empty, "the heir itself");
        assert_eq!(verdict(&[pair(2), pair(1)]), Verdict::Empty, "both of two");
        let grows = |node: i32| held(node, at, joint(&[2, 1], &[2, 1, 3]));
        assert_eq!(verdict(&[grows(2)]), Verdict::Open, "a majority of the three needs none of it");
        assert_eq!(verdict(&[grows(1), grows(3)]), Verdict::UnlessHeir, "who began to grow may have gone on");
        assert_eq!(verdict(&[grows(2), grows(3)]), Verdict::Empty, "both halves are met");
        let leaves = |node: i32| held(node, at, joint(&[1, 2, 3], &[1, 3]));
        assert_eq!(verdict(&[leaves(1)]), Verdict::Open, "2 and 3 may have gone another way");
        assert_eq!(verdict(&[leaves(1), leaves(2)]), Verdict::Empty, "the heir of the new half is here");
        assert_eq!(verdict(&[held(1, at, of(&[1]))]), Verdict::Alone, "it has only to be started");
        assert_eq!(verdict(&[]), Verdict::Nothing);
    }

    #[test]
    fn best_copy_is_the_newest_sound_one_of_a_member() {
        let three = |node: i32, last| held(node, last, of(&[1, 2, 3]));
        let mut unsound = three(3, (4, 30));
        unsound.report.sound = false;
        let observer = held(9, (4, 40), of(&[1, 2, 3]));
        let mut removed = held(8, (4, 41), of(&[1, 2, 3]));
        removed.report.configuration.retired = replicas(&[8]);
        let copies = [three(1, (3, 12)), three(2, (4, 8)), unsound, observer, removed];
        let judged = judge(&copies);
        let expected =
            [Standing::Counts, Standing::Best, Standing::Unsound, Standing::Observer, Standing::Removed];
        assert_eq!(
            (judged.best, &judged.standings[..]),
            (Some(1), &expected[..]),
            "a later term beats more entries"
        );
        assert_eq!(judged.verdict, Verdict::Empty);
        assert_eq!(judged.missing, replicas(&[3]), "what is not sure of itself does not count");
        // The observer holds all of it.
        assert_eq!(judged.alone_from, None);
    }

    #[test]
    fn copy_of_an_earlier_generation_is_a_stray_and_a_heard_one_has_joined_nothing() {
        let old = held(1, (4, 50), of(&[1, 2, 3]));
        let mut new = held(2, (2, 9), of(&[2, 3]));
        new.report.generation = Generation(1);
        let mut heard = held(3, (2, 9), of(&[]));
        heard.report.generation = Generation(1);
        let judged = judge(&[old, new, heard]);
        assert_eq!(judged.standings, [Standing::Ended, Standing::Best, Standing::NeverJoined]);
        assert_eq!((judged.from, judged.verdict), (Generation(1), Verdict::Empty));
        assert_eq!(next(&judged), Generation(2));
    }

    #[test]
    fn last_entries_that_no_other_copy_holds_are_named() {
        let three = |node: i32, last| held(node, last, of(&[1, 2, 3]));
        assert_eq!(judge(&[three(1, (2, 9)), three(2, (2, 7))]).alone_from, Some(Index(8)));
        assert_eq!(
            judge(&[three(1, (3, 9)), three(2, (2, 20))]).alone_from,
            Some(Index(3)),
            "term 3 began there"
        );
        assert_eq!(judge(&[three(1, (2, 9)), three(2, (2, 9))]).alone_from, None);
        assert_eq!(judge(&[three(1, (2, 9))]).alone_from, Some(Index(1)));
    }

    #[test]
    pub(crate) fn copy_ended_by_another_plan_proves_nothing() {
        let three = |node: i32| held(node, (2, 9), of(&[1, 2, 3]));
        let first = judge(&[three(1), three(2)]);
        assert_eq!(first.verdict, Verdict::Empty);
        // Cut short between its seals and its take-over, it is the same plan.
        let again = judge(&[sealed(&three(1), first.plan), sealed(&three(2), first.plan)]);
        assert_eq!((again.verdict, again.plan), (Verdict::Empty, first.plan));
        let other = judge(&[sealed(&three(2), first.plan), three(3)]);
        assert_eq!(other.verdict, Verdict::Ended { plan: first.plan }, "another survivor may go on");
        let all = [three(3), sealed(&three(2), first.plan), sealed(&three(1), first.plan)];
        assert_eq!(
            judge(&all).verdict,
            Verdict::Ended { plan: first.plan },
            "not these three, the two of the plan"
        );
        // An heir that ended its generation to go on alone would have gone on in this very directory.
        let pair = |node: i32| held(node, (2, 9), of(&[1, 2]));
        assert_eq!(judge(&[sealed(&pair(1), heir::plan(false)), pair(2)]).verdict, Verdict::Empty);
    }

    #[test]
    fn plan_of_the_same_copies_is_the_same_in_any_order_and_of_others_another() {
        let three = |node: i32, index| held(node, (2, index), of(&[1, 2, 3]));
        let plan = judge(&[three(1, 9), three(2, 8)]).plan;
        assert_eq!(judge(&[three(2, 8), three(1, 9)]).plan, plan);
        assert!(!heir::is_own(plan), "{plan}");
        for other in [[three(1, 9), three(2, 9)], [three(1, 9), three(3, 8)], [three(1, 10), three(2, 8)]] {
            assert_ne!(judge(&other).plan, plan, "drift is noticed");
        }
    }

    #[test]
    pub(crate) fn generation_opened_without_the_heir_is_not_the_heirs_own() {
        let pair = |node: i32| held(node, (2, 9), of(&[2, 1]));
        let copies = [pair(1)];
        let judged = judge(&copies);
        let of_heir = heir::decide(&pair(2).report).expect("the heir of two goes on alone");
        assert_eq!(decide(&copies, &judged, &reports(&copies, &judged), false), None, "nobody gave his word");
        let ours =
            decide(&copies, &judged, &reports(&copies, &judged), true).expect("on the operator's word");
        assert!(ours.generation > of_heir.generation, "the two must be told apart: {ours:?} {of_heir:?}");
        assert!(
            ours.generation >= Generation(APART)
                && ours.generation < Generation(2 * APART)
                && ours.opening.lossless
        );
        assert_eq!((ours.opening.survivor, ours.learners), (replica(1), replicas(&[2])));
        // With the heir here there is nothing to tell apart.
        let copies = [pair(1), pair(2)];
        let judged = judge(&copies);
        let both = decide(&copies, &judged, &reports(&copies, &judged), false).expect("proven");
        assert_eq!(both.generation, Generation(1));
    }

    #[test]
    fn decision_needs_the_seals_of_exactly_this_plan() {
        let three = |node: i32| held(node, (2, 9), of(&[1, 2, 3]));
        let copies = [three(1), three(2)];
        let judged = judge(&copies);
        let sealed = reports(&copies, &judged);
        assert!(decide(&copies, &judged, &sealed, false).is_some());
        assert_eq!(decide(&copies, &judged, &sealed[..1], false), None, "a seal is missing");
        let other = |report: &SealReport| SealReport { plan: 3, ..report.clone() };
        let by_other: Vec<_> = sealed.iter().map(other).collect();
        assert_eq!(decide(&copies, &judged, &by_other, false), None);
        let mut grown = sealed.clone();
        grown[0].last.index = Index(11);
        assert_eq!(decide(&copies, &judged, &grown, false), None, "it is not what was looked at");
        let open = [three(1)];
        let judged = judge(&open);
        assert_eq!(decide(&open, &judged, &reports(&open, &judged), true), None, "no word proves a majority");
    }

    /// As the node of such a copy would, once it is started.
    fn core_of(held: &Held) -> Core {
        let mut core = Core::new(core_config(), restored_of(held), 0, &mut Vec::new());
        core.become_controllers();
        core
    }

    fn seal_of(core: &mut Core, plan: u64) -> SealReport {
        let (generation, mut out) = (core.epoch().generation, Vec::new());
        core.step(1, Event::Generation(Order::Seal { generation, plan }), &mut out);
        let report = out.into_iter().find_map(|effect| match effect {
            Effect::Generation(what) => match *what {
                GenerationEffect::Sealed(report) => Some(report),
                _ => None,
            },
            _ => None,
        });
        report.expect("sealed")
    }

    #[test]
    pub(crate) fn heir_that_an_operators_plan_ended_does_not_go_on_by_itself() {
        let copies = [held(1, (2, 9), of(&[1, 2])), held(2, (2, 12), of(&[1, 2]))];
        let judged = judge(&copies);
        assert_eq!(judged.best, Some(1), "the other one of the pair holds more");
        for own in [None, Some(heir::plan(false)), Some(heir::plan(true))] {
            let heir = Held { hard: HardState { sealed: own, ..copies[0].hard }, ..copies[0].clone() };
            let mut core = core_of(&heir);
            assert!(seal_of(&mut core, judged.plan).sound);
            let plan = core.hard_state().sealed.expect("sealed");
            let report = seal_of(&mut core, plan);
            assert_eq!(
                heir::decide(&report),
                None,
                "two survivors: the heir, sealed by {own:?} before, goes on too"
            );
        }
    }

    #[test]
    fn heir_that_went_on_after_all_fences_itself_off_and_one_that_did_not_follows() {
        let pair = |node: i32| held(node, (2, 9), of(&[2, 1]));
        let copies = [pair(1)];
        let judged = judge(&copies);
        let ours =
            decide(&copies, &judged, &reports(&copies, &judged), true).expect("on the operator's word");
        let meets = |core: &mut Core| {
            let mut out = Vec::new();
            core.step(9, Event::Generation(Order::Decided(ours.clone())), &mut out);
            out.iter().any(|effect| matches!(effect, Effect::Poisoned { .. }))
        };
        let mut back = core_of(&pair(2));
        assert!(!meets(&mut back) && back.epoch().generation == ours.generation, "it follows");
        // The operator was wrong.
        let mut alone = core_of(&pair(2));
        let own = heir::decide(&seal_of(&mut alone, heir::plan(false))).expect("it is the heir");
        alone.step(2, Event::Generation(Order::Decided(own)), &mut Vec::new());
        let last = alone.last();
        alone.step(3, Event::Durable { last }, &mut Vec::new());
        assert!(alone.commit() > ours.opening.base.index, "it has committed what the survivor does not hold");
        assert!(meets(&mut alone), "nothing of the two is ever merged");
    }

    #[test]
    fn survivor_of_the_controllers_may_skip_generations_and_a_partitions_may_not() {
        let pair = held(1, (2, 9), of(&[2, 1]));
        let opening =
            Opening { survivor: replica(1), base: pair.report.last, first_term: Term(5), lossless: true };
        let decision = Decision { generation: Generation(77), opening, learners: replicas(&[2]) };
        let begins = |core: &mut Core| {
            seal_of(core, 1 << 63);
            core.step(2, Event::Generation(Order::Decided(decision.clone())), &mut Vec::new());
            core.epoch().generation
        };
        assert_eq!(begins(&mut core_of(&pair)), Generation(77));
        let mut of_partition = Core::new(core_config(), restored_of(&pair), 0, &mut Vec::new());
        assert_eq!(begins(&mut of_partition), Generation(0));
    }

    fn restored_of(held: &Held) -> Restored {
        Restored {
            replica: held.report.replica,
            hard_state: held.hard,
            log_start: LogStart { configuration: held.report.configuration.encode(), ..LogStart::default() },
            epochs: held.epochs.clone(),
            last: held.report.last,
            next_offset: Offset(0),
            configurations: Vec::new(),
            gate_open: true,
            needs_repair: false,
            campaign_at_once: false,
            seed: 1,
        }
    }

    fn some_voters() -> impl Strategy<Value = Vec<i32>> {
        proptest::collection::btree_set(1..6i32, 1..5).prop_map(|nodes| nodes.into_iter().collect())
    }

    proptest! {
        /// Whatever is called empty: no majority of either half, and no heir, is without a copy that counts.
        #[test]
        fn nobody_without_a_copy_here_can_have_committed_what_is_called_empty(
            new in some_voters(), old in prop_oneof![Just(Vec::new()), some_voters()],
            nodes in proptest::collection::btree_set(1..7i32, 1..6), ends in proptest::collection::vec((1..4u64, 4..9u64), 6),
        ) {
            let configuration = joint(&old, &new);
            let copies: Vec<Held> = nodes.iter().zip(&ends).map(|(n, end)| held(*n, *end, configuration.clone())).collect();
            let judged = judge(&copies);
            let absent = |half: &[ReplicaId]| half.iter().filter(|r| !nodes.contains(&r.node.0)).count();
            let halves: Vec<&[ReplicaId]> = [&configuration.voters[..], &configuration.old_voters[..]]
                .into_iter().filter(|half| !half.is_empty()).collect();
            let meets = halves.iter().all(|half| {
                let first = if half.len() == 2 { half[0] } else { *half.iter().min().unwrap() };
                let is_tied = 2 * absent(half) == half.len() && half.len() > 2 && !nodes.contains(&first.node.0);
                2 * absent(half) <= half.len() && !is_tied
            });
            let heir_absent = halves.iter().any(|half| {
                half.len() == 2 && 2 * absent(half) == 2 && !nodes.contains(&half[0].node.0)
            });
            let members = configuration.members().any(|r| nodes.contains(&r.node.0));
            let alone = old.is_empty() && new.len() == 1 && nodes.contains(&new[0]);
            match judged.verdict {
                Verdict::Nothing => prop_assert!(!members),
                Verdict::Alone => prop_assert!(alone),
                Verdict::Empty => prop_assert!(meets && !heir_absent),
                Verdict::UnlessHeir => prop_assert!(meets && heir_absent),
                Verdict::Open => prop_assert!(!meets),
                Verdict::Ended { .. } => prop_assert!(false, "nothing was sealed"),
            }
            if let Some(best) = judged.best.filter(|_| !alone) {
                let of_members = copies.iter().filter(|held| configuration.is_member(held.report.replica));
                prop_assert_eq!(Some(copies[best].report.last), of_members.map(|held| held.report.last).max());
            }
        }

        /// Seals of one plan stop every other: there is no second one that does without all of them.
        #[test]
        fn two_sets_of_copies_that_share_none_never_both_prove_it(
            new in some_voters(), old in prop_oneof![Just(Vec::new()), some_voters()], mine in 0..64u32,
        ) {
            let all = joint(&old, &new);
            let proves = |is_here: &dyn Fn(i32) -> bool| {
                let copies: Vec<Held> = (1..6).filter(|n| is_here(*n)).map(|n| held(n, (2, 9), all.clone())).collect();
                matches!(judge(&copies).verdict, Verdict::Empty | Verdict::Alone)
            };
            prop_assert!(!(proves(&|n| mine & (1 << n) != 0) && proves(&|n| mine & (1 << n) == 0)));
        }
    }
}
