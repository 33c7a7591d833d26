//! How the controllers bring a group past a lost quorum: intent, seal, decide (safety.md F2 to F4, F20).
//!
//! The rule itself (who survives, from where, in which term, whether anything can be lost) is `raftlog::generation`; carrying
//! orders out is each replica's own part, from its own copy of the controller log. Here: which intents are written, what is
//! collected of the seals, which decisions follow. Pure; [`Sealed`] belongs to the controller leader and is made anew with every
//! leadership: brokers repeat their reports until they see the decision. Invariants:
//! - one decision per group and generation, after its intent, and only one that is lossless by the survivor's own log or approved by an
//!   operator, as it was approved (`recovery`);
//! - survivor and learners are replicas that the image names;
//! - of a partition that is not confirmed since the controllers lost something, seals prove nothing (`offline`);
//! - what is written is bounded per entry, however many groups a broker takes with it.

use super::image::{Change, Image, Partition, Topic};
use super::lease::{Granted, Hindrance};
use super::record::GroupOpening;
use super::recovery::{self, Judged, Outcome, Progress};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::raftlog::generation::{Decision, SealReport};
use crate::segment::{Generation, GroupId, NodeId, Opening, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// Groups in one record: some hundred bytes each at most.
pub const GROUPS_PER_RECORD: usize = 2_000;
/// How long live replicas that have not reported yet are waited for: each that is sealed saves a detour later.
const PATIENCE_MS: Millis = 500;
/// A decision that was handed out and is not in the image by then is made again.
const RETRY_MS: Millis = 1_000;

/// Of the groups that a broker says cannot go on, those whose generation is still the one it speaks of and is not to end yet.
pub fn to_seal(image: &Image, node: NodeId, asked: &[(GroupId, u64)]) -> Vec<GroupId> {
    let due = |(group, generation): &&(GroupId, u64)| {
        image.group(*group).is_some_and(|(_, _, partition)| {
            partition.generation == *generation
                && partition.sealing.is_none()
                && partition.is_confirmed()
                && (partition.replicas.iter().any(|r| r.node == node) || on(Mutation::SealForAnybody))
        })
    };
    let groups: BTreeSet<GroupId> = asked.iter().filter(due).map(|(group, _)| *group).collect();
    groups.into_iter().take(GROUPS_PER_RECORD).collect()
}

/// Of these decisions, those that nothing has come before.
pub fn still_due(image: &Image, openings: &[GroupOpening]) -> Vec<GroupOpening> {
    let mut seen = BTreeSet::new();
    let due = |opening: &&GroupOpening| {
        image.group(opening.group).is_some_and(|(_, _, partition)| check(partition, opening).is_ok())
    };
    openings.iter().filter(due).filter(|o| seen.insert(o.group)).cloned().collect()
}

/// Groups with a replica that the present disk of this broker does not hold. Not while one is sealed: who survives is named by broker, and
/// has to be the replica that reported.
pub fn to_place(image: &Image, node: NodeId) -> Vec<GroupId> {
    let lost = |partition: &&Partition| {
        partition.replicas.iter().any(|replica| replica.node == node && !image.holds(replica))
    };
    placeable(image).filter(lost).map(|partition| partition.group).take(GROUPS_PER_RECORD).collect()
}

/// Live brokers with such groups.
pub fn wiped(image: &Image) -> BTreeSet<NodeId> {
    let replicas = placeable(image).flat_map(|p| p.replicas.iter());
    let live = |node: &NodeId| image.brokers.get(node).is_some_and(|b| !b.fenced);
    replicas.filter(|r| !image.holds(r)).map(|r| r.node).filter(live).collect()
}

fn placeable(image: &Image) -> impl Iterator<Item = &Partition> {
    let partitions = image.topics.values().flat_map(|topic| topic.partitions.iter());
    partitions.filter(|partition| partition.sealing.is_none())
}

fn check(partition: &Partition, opening: &GroupOpening) -> Result<(), String> {
    if on(Mutation::DecideTwice) && opening.generation == partition.generation {
        return Ok(());
    }
    if partition.sealing.is_none() {
        return Err("no seal was ordered".to_owned());
    }
    if opening.generation != partition.generation + 1 {
        return Err(format!("generation {} after {}", opening.generation, partition.generation));
    }
    let mut nodes = BTreeSet::from([opening.survivor]);
    if !opening.learners.iter().all(|node| nodes.insert(*node)) {
        return Err("a broker is named twice".to_owned());
    }
    match nodes.iter().find(|node| partition.replicas.iter().all(|r| r.node != **node)) {
        Some(node) => Err(format!("broker {node} has no replica")),
        None => recovery::check_opening(partition, opening),
    }
}

impl Image {
    /// Partition of a group, to change.
    pub(super) fn partition_mut(&mut self, group: GroupId) -> Result<&mut Partition, String> {
        let (id, number) = *self.groups.get(&group).ok_or_else(|| format!("unknown group {group}"))?;
        let topic = self.topic_names.get(&id).and_then(|name| self.topics.get_mut(name));
        let topic = topic.expect("every group in the index is a partition of a topic");
        Ok(&mut topic.partitions[usize::try_from(number).expect("partitions are counted from 0")])
    }

    pub(super) fn distinct(groups: impl Iterator<Item = GroupId>) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        match groups.into_iter().find(|group| !seen.insert(*group)) {
            Some(twice) => Err(format!("group {twice} twice")),
            None => Ok(()),
        }
    }

    pub(super) fn apply_seal(
        &mut self,
        number: u64,
        groups: &[GroupId],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(groups.iter().copied())?;
        for group in groups {
            if self.partition_mut(*group)?.sealing.is_some() {
                return Err(format!("group {group} is sealed already"));
            }
        }
        for &group in groups {
            self.partition_mut(group)?.sealing = Some(number);
            self.sealing.insert(group);
            changes.push(Change::GroupChanged { group });
        }
        Ok(())
    }

    pub(super) fn apply_generation(
        &mut self,
        number: u64,
        openings: &[GroupOpening],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(openings.iter().map(|opening| opening.group))?;
        for opening in openings {
            check(self.partition_mut(opening.group)?, opening)
                .map_err(|why| format!("group {}: {why}", opening.group))?;
        }
        for opening in openings {
            let partition = self.partition_mut(opening.group)?;
            let id = |node: NodeId| partition.replicas.iter().find(|r| r.node == node).copied();
            let decision = Decision {
                generation: Generation(opening.generation),
                opening: Opening {
                    survivor: id(opening.survivor).expect("checked above"),
                    base: opening.base,
                    first_term: opening.first_term,
                    lossless: opening.lossless,
                },
                learners: opening.learners.iter().filter_map(|node| id(*node)).collect(),
            };
            partition.generation = opening.generation;
            partition.sealing = None;
            partition.unconfirmed = false;
            partition.opening = Some(Box::new(decision));
            self.sealing.remove(&opening.group);
            self.end_approval(opening.group, number, opening.lossless);
            changes.push(Change::GroupChanged { group: opening.group });
        }
        Ok(())
    }

    pub(super) fn apply_place(
        &mut self,
        number: u64,
        node: NodeId,
        groups: &[GroupId],
        changes: &mut Vec<Change>,
    ) -> Result<(), String> {
        Self::distinct(groups.iter().copied())?;
        let broker = self.brokers.get(&node).ok_or_else(|| format!("broker {node} is not registered"))?;
        let anew = ReplicaId { node, assignment: number, directory: broker.directory.as_u128() };
        for group in groups {
            let partition = self.partition_mut(*group)?;
            let old = partition.replicas.iter().find(|r| r.node == node);
            match old.map(|r| r.directory == anew.directory) {
                None => return Err(format!("broker {node} has no replica of group {group}")),
                Some(true) => return Err(format!("broker {node} holds its replica of group {group}")),
                Some(false) => {}
            }
        }
        for &group in groups {
            let partition = self.partition_mut(group)?;
            let lost = partition.replicas.iter().find(|r| r.node == node).copied();
            lost.into_iter().for_each(|lost| partition.change_id(lost, anew, number));
            changes.push(Change::GroupChanged { group });
        }
        Ok(())
    }
}

/// Reports of one group.
#[derive(Clone, Debug)]
struct Collected {
    /// When the first one came.
    since: Millis,
    /// A decision was handed out; not again before this.
    quiet_until: Millis,
    reports: Vec<SealReport>,
    /// Why what the controllers approved themselves is not decided yet.
    waits: Option<String>,
}

/// What the controller leader has heard of sealed replicas. A report never goes stale: a sealed replica does not change.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    groups: BTreeMap<GroupId, Collected>,
    /// What was granted to those that are not sealed.
    pub leases: Granted,
}

impl Sealed {
    /// A replica says that it is sealed, all of its log durable.
    pub fn on_report(&mut self, image: &Image, group: GroupId, report: SealReport, now: Millis) {
        let wanted = image.group(group).is_some_and(|(_, _, partition)| {
            partition.sealing.is_some()
                && partition.generation == report.generation.0
                && (partition.replicas.contains(&report.replica) || on(Mutation::CountForeignSeals))
                && !image.is_given_up(&report.replica)
        });
        if !wanted {
            return;
        }
        let fresh = || Collected { since: now, quiet_until: 0, reports: Vec::new(), waits: None };
        let collected = self.groups.entry(group).or_insert_with(fresh);
        collected.reports.retain(|known| known.replica != report.replica);
        collected.reports.push(report);
    }

    /// Decisions that can be made now, each handed out once in a while; [`still_due`] leaves out those that were taken. `drift`: of
    /// approved plans that the seals contradict, why; `wall_ms` is noted with it.
    pub fn decide(
        &mut self,
        image: &Image,
        now: Millis,
        wall_ms: i64,
        drift: &mut Vec<Progress>,
    ) -> Vec<GroupOpening> {
        self.groups.retain(|group, _| image.sealing.contains(group));
        let mut openings = Vec::new();
        for (&group, collected) in &mut self.groups {
            if openings.len() + drift.len() == GROUPS_PER_RECORD {
                break;
            }
            if collected.quiet_until > now {
                continue;
            }
            let Some((topic, _, partition)) = image.group(group) else { continue };
            let judged = collected.decide(image, (topic, partition), &self.leases, now);
            if judged.is_some() {
                collected.quiet_until = now + RETRY_MS;
            }
            match (judged, &partition.recovery) {
                (Some(Judged::Open(opening)), _) => openings.push(opening),
                (Some(Judged::Drift(reason)), Some(approval)) => {
                    let outcome = Outcome::Refused { reason, at_ms: wall_ms };
                    drift.push(Progress { group, recovery: approval.recovery, outcome });
                }
                _ => {}
            }
        }
        openings
    }

    /// What plans wait for that nobody approved but the controllers, though their survivors are sealed.
    pub fn said(&self) -> impl Iterator<Item = (GroupId, &str)> {
        self.groups.iter().filter_map(|(group, collected)| Some((*group, collected.waits.as_deref()?)))
    }

    /// Whether a decision may follow from time alone.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

impl Collected {
    fn decide(
        &mut self,
        image: &Image,
        (topic, partition): (&Topic, &Partition),
        leases: &Granted,
        now: Millis,
    ) -> Option<Judged> {
        self.waits = None;
        let reported = |replica: &ReplicaId| self.reports.iter().any(|r| r.replica == *replica);
        let expected = |replica: &&ReplicaId| {
            image.holds(replica) && image.brokers.get(&replica.node).is_some_and(|b| !b.fenced)
        };
        let all_are_in = partition.replicas.iter().filter(expected).all(reported);
        if now < self.since + PATIENCE_MS && !all_are_in {
            return None;
        }
        let is_named = |r: &&SealReport| partition.replicas.contains(&r.replica);
        let named = self.reports.iter().filter(|r| is_named(r) || on(Mutation::CountForeignSeals));
        let all: Vec<SealReport> = named.cloned().collect();
        let here: Vec<SealReport> = all.iter().filter(|r| expected(&&r.replica)).cloned().collect();
        // What is not provably lossless is not for the controllers to decide by themselves (P4), but as an operator approved. One that reported and went away
        // again survives only if the others prove nothing: nobody else may open the generation then, and the group would wait for it.
        let decision = [&here, &all].into_iter().find_map(|reports| {
            let decision = partition.decide(reports).ok();
            decision.filter(|d| d.opening.lossless || on(Mutation::DecideWithoutMajority))
        });
        let Some(decision) = decision else {
            let judged = recovery::judge(partition, &all, now - self.since, all_are_in)?;
            return match &partition.recovery {
                Some(approval) if approval.auto => {
                    let judged = wait_for_leases(judged, image, (topic, partition), &all, leases, now);
                    self.waits = judged.as_ref().err().map(|hindrance| hindrance.text(now));
                    judged.ok()
                }
                _ => Some(judged),
            };
        };
        Some(Judged::Open(GroupOpening {
            group: partition.group,
            generation: decision.generation.0,
            survivor: decision.opening.survivor.node,
            base: decision.opening.base,
            first_term: decision.opening.first_term,
            lossless: true,
            learners: decision.learners.iter().map(|r| r.node).collect(),
        }))
    }
}

/// Nobody was asked whether the old majority is gone: it must be unable to answer, whether or not it is.
fn wait_for_leases(
    judged: Judged,
    image: &Image,
    of: (&Topic, &Partition),
    reports: &[SealReport],
    leases: &Granted,
    now: Millis,
) -> Result<Judged, Hindrance> {
    let Judged::Open(opening) = &judged else { return Ok(judged) };
    let survivor = reports.iter().find(|r| r.replica.node == opening.survivor);
    let survivor = survivor.expect("who survives is one of those who reported");
    let is_sealed = |replica: &ReplicaId| reports.iter().any(|r| r.replica == *replica);
    match leases.check(image, of, survivor, &is_sealed, now) {
        Ok(()) => Ok(judged),
        Err(Hindrance::Lasting(why)) => Ok(Judged::Drift(why)),
        Err(hindrance) => Err(hindrance),
    }
}
