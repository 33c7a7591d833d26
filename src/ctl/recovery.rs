//! Partitions whose majority is lost: what a plan says, whether it still holds once its replicas are sealed, and what is kept of it for
//! ever (safety.md P4, F2, F18).
//!
//! Nobody can prove what the lost majority had committed, so nothing here is done by itself: a plan is made of what the replicas that can
//! be reached hold ([`plan`]), an operator approves exactly that plan by its number, and it is carried out by the path that loses
//! nothing: intent, seal, decide, take-over ([`super::generations`]). Pure. Not here: asking replicas what they hold and how long others
//! were silent (`broker::shard::recovery`), the rule who survives (`raftlog::generation`). Invariants:
//! - a generation that may lose something is decided only while an approval that names its survivor and its very last entry is in the
//!   image, and by seals that say the same: anything else is drift, and asks for a new plan;
//! - it is neither planned nor decided while a broker that is not fenced has not said what its replica holds;
//! - what the seals prove to lose nothing is decided as such, approved or not; of a partition that is not confirmed since the controllers
//!   lost something they prove nothing, and a plan for it is one that may lose records (`offline`);
//! - the record of an approval, and of what came of it, never goes.

use super::image::{Change, Image, Partition, Topic};
use super::record::GroupOpening;
use crate::raftlog::core::Millis;
use crate::raftlog::generation::{SealReport, Undecidable};
use crate::segment::{Generation, GroupId, LogId, NodeId, Opening, ReplicaId};
use serde::{Deserialize, Serialize};

/// Groups in one plan: each takes some hundred bytes of the controller log, for ever.
pub const GROUPS_PER_PLAN: usize = 500;
/// How long drift is not told while seals of replicas that live may come, which may prove that nothing is lost.
const PATIENCE_MS: Millis = 3_000;
/// Longest reason that an operator may give.
pub const REASON_MAX: usize = 500;

/// What one replica holds, told without being sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// As it would report its seal; number of the plan that it is sealed by, or 0.
    pub report: SealReport,
    /// Why it is not sound, if it is not.
    pub unsound: Option<String>,
    /// It leads, and has committed in its term.
    pub leads: bool,
    /// The leader that it follows, if it knows one.
    #[serde(default)]
    pub follows: Option<NodeId>,
    /// First offset that consumers may read, high watermark, offset after the last record.
    pub offsets: (i64, i64, i64),
}

/// A replica that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silent {
    /// Its broker.
    pub node: NodeId,
    /// It votes in the newest configuration that the survivor knows.
    pub votes: bool,
    /// Milliseconds since the controller last heard its broker; none: not since that one leads.
    pub silent_ms: Option<u64>,
    /// The broker is there, with another disk: the replica that voted is gone for good.
    pub is_wiped: bool,
}

/// How one partition would go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPlan {
    /// Its group.
    pub group: GroupId,
    /// Its topic's name.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The generation that ends.
    pub from: u64,
    /// Broker of the replica that goes on, alone at first. (Which id that has is in the image, as in `GroupOpening`.)
    pub survivor: NodeId,
    /// Where its log ends.
    pub base: LogId,
    /// First offset that is kept.
    pub start: i64,
    /// First offset at risk: up to here somebody who answered knows the records to be committed. What lies from here to `end` is kept,
    /// and may not be what was acknowledged there.
    pub at_risk: i64,
    /// Whose word that is.
    pub known_by: NodeId,
    /// First offset that is not kept. What was acknowledged from here on is lost; how far that went nobody can tell.
    pub end: i64,
    /// Brokers that vote in the newest configuration the survivor knows (of both halves if it is joint). None if it has learnt a generation
    /// that it never joined.
    pub voters: Vec<NodeId>,
    /// Brokers whose replicas answered, with the last entry of each; all but the survivor rejoin as learners.
    pub answered: Vec<(NodeId, LogId)>,
    /// Replicas that did not, or not with the disk that voted.
    pub silent: Vec<Silent>,
}

/// How a partition stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// It has a leader: nothing is to be done.
    Served {
        /// Which broker.
        leader: NodeId,
    },
    /// Those who answered meet every majority: the controllers go on without anybody's approval, or a leader is about to be elected.
    Provable,
    /// It can go on, and may lose records.
    Recoverable {
        /// How.
        plan: Box<GroupPlan>,
    },
    /// A plan is approved, and being carried out.
    UnderWay {
        /// Its number.
        recovery: u64,
        /// The plan that was approved.
        id: String,
        /// Brokers whose seal is missing.
        waits_for: Vec<NodeId>,
        /// What was approved, if nobody did but the controllers, which wait for leases: an operator who knows that the others serve
        /// nobody any more may approve the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Box<GroupPlan>>,
    },
    /// A generation was decided, and its survivor does not lead yet.
    Opening {
        /// Which.
        generation: u64,
        /// Who.
        survivor: NodeId,
    },
    /// `recovery.policy=never`, or nobody holds anything to go on with.
    Stuck {
        /// Why.
        reason: String,
    },
}

/// One partition of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Its topic's name.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Its generation.
    pub generation: u64,
    /// How it stands.
    pub standing: Standing,
}

/// An approval, as the partition keeps it until the generation is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Number of its record.
    pub recovery: u64,
    /// What was approved.
    pub id: String,
    /// Who goes on.
    pub survivor: ReplicaId,
    /// From where.
    pub base: LogId,
    /// The controllers approved it themselves: leases have to be over before it is carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
}

/// Who approved what, as its record says.
pub(super) struct Approved<'a> {
    pub id: &'a str,
    pub reason: &'a str,
    pub at_ms: i64,
    pub auto: bool,
}

/// What came of an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[serde(deny_unknown_fields)]
pub enum Outcome {
    /// Replicas are being sealed.
    // With braces serde refuses unknown fields here too; written it is the same.
    Approved {},
    /// The seals did not say what the plan did: nothing was decided, the partition waits for another plan.
    Refused {
        /// What differs.
        reason: String,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// Another plan was approved in its stead before anything was decided.
    Replaced {
        /// Number of its record.
        by: u64,
    },
    /// The generation was decided; its survivor has not been seen to lead yet.
    Decided {
        /// Number of the record that decides.
        number: u64,
        /// The seals proved that nothing is lost after all.
        lossless: bool,
    },
    /// The survivor leads and has committed everything it had.
    Verified {
        /// Whether something may be lost.
        lossless: bool,
        /// High watermark that it was seen with.
        high_watermark: i64,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
}

/// The audit record of one partition's recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Number of the record that approved it.
    pub recovery: u64,
    /// The plan as approved.
    pub id: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Nobody was asked: the topic's `recovery.policy` is `auto`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
    /// When: milliseconds since 1970, by the clock of the node that was asked.
    pub at_ms: i64,
    /// What was approved.
    pub plan: GroupPlan,
    /// What came of it.
    pub outcome: Outcome,
}

/// What is written of a recovery after its approval, by the controllers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Whose.
    pub group: GroupId,
    /// Number of the approval.
    pub recovery: u64,
    /// `Refused` or `Verified`.
    pub outcome: Outcome,
}

/// The number by which a plan is approved: the same for everybody who sees the same replicas with the same logs.
pub fn plan_id(plans: &[GroupPlan]) -> String {
    // FNV-1a: tells plans apart that differ by chance; nobody gains anything by making two alike.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |text: String| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for p in plans {
        add(format!("{} {} {} {} {} {} {}", p.group, p.from, p.survivor, p.base, p.start, p.at_risk, p.end));
        p.voters.iter().for_each(|node| add(format!("v{node}")));
        p.answered.iter().for_each(|(node, last)| add(format!("a{node} {last}")));
        p.silent.iter().for_each(|s| add(format!("s{}", s.node)));
    }
    format!("{hash:016x}")
}

/// How a partition stands, from what its replicas hold that answered. `silent_ms`: how long a broker was not heard.
pub fn plan(
    image: &Image,
    group: GroupId,
    holdings: &[Holding],
    silent_ms: &dyn Fn(NodeId) -> Option<u64>,
) -> Option<PartitionReport> {
    let (topic, partition, placed) = image.group(group)?;
    let standing = standing(image, (topic, partition, placed), holdings, silent_ms);
    Some(PartitionReport { topic: topic.name.clone(), partition, generation: placed.generation, standing })
}

fn standing(
    image: &Image,
    (topic, partition, placed): (&Topic, i32, &Partition),
    holdings: &[Holding],
    silent_ms: &dyn Fn(NodeId) -> Option<u64>,
) -> Standing {
    let from = Generation(placed.generation);
    let mine: Vec<&Holding> = holdings
        .iter()
        .filter(|h| placed.replicas.contains(&h.report.replica) && !image.is_given_up(&h.report.replica))
        .collect();
    let current = || mine.iter().filter(|h| h.report.generation == from);
    if let Some(leader) = current().find(|h| h.leads) {
        return Standing::Served { leader: leader.report.replica.node };
    }
    if let Some(ahead) = mine.iter().find(|h| h.report.generation > from) {
        let reason = format!(
            "broker {} is in generation {} already: the metadata is behind, ask again",
            ahead.report.replica.node, ahead.report.generation
        );
        return Standing::Stuck { reason };
    }
    let reached = |r: ReplicaId| current().any(|h| h.report.replica == r);
    // One whose survivor is lost on the way waits for nothing any more: others may take its place.
    if let Some(approval) = placed.recovery.as_ref().filter(|a| reached(a.survivor) || !is_lost(image, a)) {
        let sealed = |r: &&ReplicaId| current().any(|h| h.report.replica == **r && h.report.plan != 0);
        let live = |r: &&ReplicaId| {
            **r == approval.survivor
                || image.brokers.get(&r.node).is_some_and(|b| !b.fenced && image.holds(r))
        };
        let missing = placed.replicas.iter().filter(live).filter(|r| !sealed(r));
        let waits_for = missing.map(|r| r.node).collect();
        let known = image.recovery(placed.group, approval.recovery).filter(|known| known.auto);
        let plan = known.map(|known| Box::new(known.plan.clone()));
        return Standing::UnderWay { recovery: approval.recovery, id: approval.id.clone(), waits_for, plan };
    }
    // Its survivor may still be on its way; if it is there and has not moved, or is gone, a new plan is all that helps.
    if let Some(decision) = &placed.opening {
        let survivor = decision.opening.survivor;
        let on_its_way = mine.iter().any(|h| h.report.replica == survivor && h.report.generation < from);
        if on_its_way {
            return Standing::Opening { generation: placed.generation, survivor: survivor.node };
        }
    }
    // One that came for a reassignment and has heard no leader yet is empty, and sound. (Without a configuration is also whoever learned of
    // a generation and does not have its first entry yet (F3), whatever it holds: perhaps all that is left.)
    let has_begun =
        |h: &&&Holding| !h.report.configuration.voters.is_empty() || h.report.last > LogId::default();
    let reports: Vec<SealReport> = current().filter(has_begun).map(|h| h.report.clone()).collect();
    let decision = match placed.decide(&reports) {
        Ok(decision) if decision.opening.lossless => return Standing::Provable,
        Ok(decision) => decision,
        Err(Undecidable::NoSoundReplica) => return Standing::Stuck { reason: why_unsound(&mine, from) },
        Err(error) => return Standing::Stuck { reason: error.to_string() },
    };
    if topic.configs.get("recovery.policy").is_some_and(|policy| policy == "never") {
        return Standing::Stuck { reason: "recovery.policy of the topic is never".to_owned() };
    }
    if let Some(reason) = still_to_come(image, placed, &mine, from) {
        return Standing::Stuck { reason };
    }
    let plan = make_plan(image, (topic, partition, placed), &mine, decision.opening, silent_ms);
    Standing::Recoverable { plan: Box::new(plan) }
}

/// Who may still serve, or say that it holds what a plan would give up.
fn still_to_come(image: &Image, placed: &Partition, mine: &[&Holding], from: Generation) -> Option<String> {
    let lives = |node: NodeId| image.brokers.get(&node).is_some_and(|broker| !broker.fenced);
    let answers = |node: NodeId| mine.iter().any(|h| h.report.replica.node == node);
    let silent = placed.replicas.iter().find(|r| lives(r.node) && image.holds(r) && !answers(r.node));
    if let Some(silent) = silent {
        return Some(format!(
            "broker {} is alive and has not said what its replica holds; ask again, or stop it",
            silent.node
        ));
    }
    // One that answers itself that it does not lead, or is fenced, was followed before.
    let current = mine.iter().filter(|h| h.report.generation == from);
    let led = current.filter_map(|h| Some((h.report.replica.node, h.follows?)));
    let (by, leader) = led.into_iter().find(|(_, leader)| lives(*leader) && !answers(*leader))?;
    Some(format!("broker {by} follows broker {leader}, which is alive: ask again, or stop it"))
}

fn why_unsound(mine: &[&Holding], from: Generation) -> String {
    let current = mine.iter().filter(|h| h.report.generation == from);
    let unsound = current.filter_map(|h| Some((h.report.replica.node, h.unsound.as_ref()?)));
    let list: Vec<String> = unsound.map(|(node, why)| format!("broker {node}: {why}")).collect();
    match list.is_empty() {
        true => "no broker that answers holds a replica of this generation".to_owned(),
        false => format!("no replica that can be reached is sound: {}", list.join("; ")),
    }
}

/// The plan by which this survivor goes on; `mine`: what the replicas hold that answered.
fn make_plan(
    image: &Image,
    (topic, partition, placed): (&Topic, i32, &Partition),
    mine: &[&Holding],
    opening: Opening,
    silent_ms: &dyn Fn(NodeId) -> Option<u64>,
) -> GroupPlan {
    let (from, Opening { survivor, base, .. }) = (Generation(placed.generation), opening);
    let current = || mine.iter().filter(|h| h.report.generation == from);
    let best = current().find(|h| h.report.replica == survivor).expect("the decision names who reported");
    // The best log holds whatever a sound replica of its generation knows to be committed. One that has not joined the generation yet
    // knows nothing of it.
    let joined = |h: &&&Holding| h.report.last.epoch.generation == from || h.report.replica == survivor;
    let sound = current().filter(|h| h.report.sound).filter(joined);
    let known = sound.max_by_key(|h| (h.offsets.1, h.report.replica == survivor)).unwrap_or(best);
    let configuration = &best.report.configuration;
    let mut voters: Vec<NodeId> =
        configuration.members().filter(|r| configuration.is_voter(*r)).map(|r| r.node).collect();
    voters.sort_unstable();
    voters.dedup();
    let answers = |r: ReplicaId| mine.iter().any(|h| h.report.replica == r);
    let mut answered: Vec<(NodeId, LogId)> =
        current().map(|h| (h.report.replica.node, h.report.last)).collect();
    answered.sort_unstable();
    let members = configuration.members().chain(placed.replicas.iter().copied());
    let mut gone: Vec<ReplicaId> = members.filter(|r| !answers(*r)).collect();
    gone.sort_unstable();
    gone.dedup_by_key(|r| r.node);
    let silent = gone.into_iter().map(|r| Silent {
        node: r.node,
        votes: configuration.is_voter(r),
        silent_ms: silent_ms(r.node),
        is_wiped: !image.holds(&r),
    });
    GroupPlan {
        group: placed.group,
        topic: topic.name.clone(),
        partition,
        from: placed.generation,
        survivor: survivor.node,
        base,
        start: best.offsets.0,
        at_risk: known.offsets.1.clamp(best.offsets.0, best.offsets.2),
        known_by: known.report.replica.node,
        end: best.offsets.2,
        voters,
        answered,
        silent: silent.collect(),
    }
}

/// Whether the survivor of an approved plan is gone before anything was decided.
pub(super) fn is_lost(image: &Image, approval: &Approval) -> bool {
    let survivor = &approval.survivor;
    !image.holds(survivor) || image.brokers.get(&survivor.node).is_none_or(|broker| broker.dead)
}

/// Whether this plan can be approved as things are in the image; what the replicas hold by now their seals will say. `auto`: by the
/// controllers themselves, who do not take an operator's place.
///
/// # Errors
/// What stands against it.
pub fn check_plan(image: &Image, plan: &GroupPlan, auto: bool) -> Result<(), String> {
    let (topic, number, placed) =
        image.group(plan.group).ok_or_else(|| format!("group {} is not known", plan.group))?;
    let name = format!("{}-{}", topic.name, number);
    if (topic.name.as_str(), number) != (plan.topic.as_str(), plan.partition) {
        return Err(format!("group {} is {name}, not {}-{}", plan.group, plan.topic, plan.partition));
    }
    if placed.generation != plan.from {
        return Err(format!("{name} is in generation {}, the plan ends {}", placed.generation, plan.from));
    }
    if topic.configs.get("recovery.policy").is_some_and(|policy| policy == "never") {
        return Err(format!("recovery.policy of {} is never", topic.name));
    }
    if placed.replicas.iter().all(|r| r.node != plan.survivor) {
        return Err(format!("broker {} has no replica of {name}", plan.survivor));
    }
    if auto && !placed.is_confirmed() {
        return Err(format!(
            "the controllers were recovered with a loss, and {name} had no leader since: only an operator may decide"
        ));
    }
    // An operator's word for what the controllers approved says more: it waits for no leases.
    let same = |a: &Approval| !a.auto && (a.survivor.node, a.base) == (plan.survivor, plan.base);
    let stands = |a: &&Approval| !is_lost(image, a) && (auto || same(a));
    match placed.recovery.as_deref().filter(stands) {
        Some(approval) => Err(format!("a plan of {name} is approved already, as {}", approval.recovery)),
        None => Ok(()),
    }
}

/// Why a decision that may lose something does not fit what was approved.
pub(super) fn check_opening(partition: &Partition, opening: &GroupOpening) -> Result<(), String> {
    if opening.lossless {
        return match partition.is_confirmed() {
            true => Ok(()),
            false => {
                Err("the controllers may not know its newest generation: nothing proves that nothing is lost"
                    .to_owned())
            }
        };
    }
    let Some(approval) = &partition.recovery else {
        return Err("it may lose records, and nobody approved that".to_owned());
    };
    match (approval.survivor.node, approval.base) == (opening.survivor, opening.base) {
        true => Ok(()),
        false => Err(format!(
            "broker {} at {} survives, approved was broker {} at {}",
            opening.survivor, opening.base, approval.survivor.node, approval.base
        )),
    }
}

/// What seals say to an approved plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// As it was approved: the generation may be decided.
    Open(GroupOpening),
    /// Something else: it must not.
    Drift(String),
}

/// Judges an approval by seals that do not prove that nothing is lost; none while the survivor's, or those of others that live, may
/// still come. `waited`: since the first of them.
pub fn judge(
    partition: &Partition,
    reports: &[SealReport],
    waited: Millis,
    all_are_in: bool,
) -> Option<Judged> {
    let approval = partition.recovery.as_ref()?;
    let survivor = reports.iter().find(|r| r.replica == approval.survivor)?;
    if !all_are_in && waited < PATIENCE_MS {
        return None;
    }
    let approved = format!("broker {} at {}", approval.survivor.node, approval.base);
    if !survivor.sound {
        return Some(Judged::Drift(format!("{approved} was to survive and may have lost entries since")));
    }
    if survivor.last != approval.base {
        return Some(Judged::Drift(format!("{approved} was to survive and is sealed at {}", survivor.last)));
    }
    let decision = match partition.decide(reports) {
        Ok(decision) => decision,
        Err(error) => return Some(Judged::Drift(error.to_string())),
    };
    let Opening { survivor, base, first_term, lossless } = decision.opening;
    if survivor != approval.survivor {
        let better = format!("broker {} at {base} has the better log", survivor.node);
        return Some(Judged::Drift(format!("{approved} was to survive, but {better}")));
    }
    // Whoever lives may hold more, however long it takes to say so; only one that is fenced is waited for no longer.
    if !all_are_in {
        return None;
    }
    Some(Judged::Open(GroupOpening {
        group: partition.group,
        generation: decision.generation.0,
        survivor: survivor.node,
        base,
        first_term,
        lossless,
        learners: decision.learners.iter().map(|r| r.node).collect(),
    }))
}

impl Image {
    /// Whether these plans can be approved together. Asked before they are written and when they are applied.
    pub(super) fn check_recovery(&self, plans: &[GroupPlan], auto: bool) -> Result<(), String> {
        Self::distinct(plans.iter().map(|plan| plan.group))?;
        let is_asked =
            |plan: &&GroupPlan| self.group(plan.group).is_some_and(|(t, ..)| t.auto_since.is_none());
        if let Some(plan) = plans.iter().find(is_asked).filter(|_| auto) {
            return Err(format!("recovery.policy of {} is not auto", plan.topic));
        }
        plans.iter().try_for_each(|plan| check_plan(self, plan, auto))
    }

    pub(super) fn apply_recovery(
        &mut self,
        number: u64,
        approved: Approved<'_>,
        plans: &[GroupPlan],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        let Approved { id, reason, at_ms, auto } = approved;
        self.check_recovery(plans, auto)?;
        for plan in plans {
            let partition = self.partition_mut(plan.group)?;
            let survivor = partition.replicas.iter().find(|r| r.node == plan.survivor).copied();
            let survivor = survivor.expect("checked above");
            let approval = Approval { recovery: number, id: id.to_owned(), survivor, base: plan.base, auto };
            // Sealed once, it stays so: another plan goes on from the same seals.
            partition.sealing.get_or_insert(number);
            let before = partition.recovery.replace(Box::new(approval)).map(|approval| approval.recovery);
            self.sealing.insert(plan.group);
            if let Some(before) = before {
                self.note_outcome(plan.group, before, Outcome::Replaced { by: number });
            }
            self.recoveries.push(Recovery {
                recovery: number,
                id: id.to_owned(),
                reason: reason.to_owned(),
                auto,
                at_ms,
                plan: plan.clone(),
                outcome: Outcome::Approved {},
            });
            changes.push(Change::GroupChanged { group: plan.group });
        }
        Ok(())
    }

    /// A generation was decided: whatever was approved for the group is done with.
    pub(super) fn end_approval(&mut self, group: GroupId, number: u64, lossless: bool) {
        let approval = self.partition_mut(group).ok().and_then(|partition| partition.recovery.take());
        if let Some(approval) = approval {
            self.note_outcome(group, approval.recovery, Outcome::Decided { number, lossless });
        }
    }

    pub(super) fn apply_progress(
        &mut self,
        progress: &[Progress],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        for step in progress {
            self.check_progress(step)?;
        }
        for step in progress {
            if matches!(step.outcome, Outcome::Refused { .. })
                && let Ok(partition) = self.partition_mut(step.group)
            {
                partition.recovery = None;
                changes.push(Change::GroupChanged { group: step.group });
            }
            self.note_outcome(step.group, step.recovery, step.outcome.clone());
        }
        Ok(())
    }

    fn check_progress(&self, step: &Progress) -> Result<(), String> {
        let known = self.recovery(step.group, step.recovery);
        let fits = match (known.map(|r| &r.outcome), &step.outcome) {
            (Some(Outcome::Approved {}), Outcome::Refused { .. }) => true,
            (Some(Outcome::Decided { lossless: decided, .. }), Outcome::Verified { lossless, .. }) => {
                decided == lossless
            }
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(format!("recovery {} of group {}: {:?}", step.recovery, step.group, step.outcome)),
        }
    }

    /// The audit record of an approval.
    pub fn recovery(&self, group: GroupId, recovery: u64) -> Option<&Recovery> {
        self.recoveries.iter().rev().find(|r| r.recovery == recovery && r.plan.group == group)
    }

    pub(super) fn note_outcome(&mut self, group: GroupId, recovery: u64, outcome: Outcome) {
        let mut all = self.recoveries.iter_mut().rev();
        if let Some(known) = all.find(|r| r.recovery == recovery && r.plan.group == group) {
            known.outcome = outcome;
        }
    }

    /// Those of these steps that still fit.
    pub fn fitting(&self, progress: &[Progress]) -> Vec<Progress> {
        progress.iter().filter(|step| self.check_progress(step).is_ok()).cloned().collect()
    }

    /// Generations that were decided by an approval, have not ended since, and whose survivor was not seen to lead yet.
    pub fn unverified(&self) -> impl Iterator<Item = (&Recovery, bool)> {
        let generation =
            |r: &Recovery| self.group(r.plan.group).map(|(_, _, partition)| partition.generation);
        self.recoveries.iter().filter(move |r| generation(r) == Some(r.plan.from + 1)).filter_map(|r| match r
            .outcome
        {
            Outcome::Decided { lossless, .. } => Some((r, lossless)),
            _ => None,
        })
    }
}
