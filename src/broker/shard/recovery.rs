//! What is asked before a partition is recovered: what its replicas hold, gathered by the controller leader, and whether a recovery
//! came to its end.
//!
//! Questions alone: nothing is sealed, written or promised by them, and an answer is old when it arrives. Not here: what follows from
//! the answers (`ctl::recovery`), sealing and deciding (`members`, `control`). Invariants:
//! - a report names each group once, whoever answered; who does not answer in time is silent;
//! - a bounded number of reports is gathered at a time;
//! - what one leadership of the controllers asked, no later one makes anything of.

use super::rpc::{Answer, Ask};
use super::{Now, Shard};
use crate::ctl::auto;
use crate::ctl::command::Command as CtlCommand;
use crate::ctl::recovery::{self, GROUPS_PER_PLAN, Holding, Outcome, PartitionReport, Progress, plan_id};
use crate::raftlog::core::Millis;
use crate::segment::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// How long brokers are waited for.
const ANSWER_MS: Millis = 1_500;
/// How long the controller leader is.
const REPORT_MS: Millis = 4_000;
/// Reports gathered at a time.
const AT_A_TIME: usize = 16;
/// How often partitions are looked for that go on without anybody's approval.
const AUTO_MS: Millis = 500;
/// How often the leaders of partitions are asked about which the controllers may have lost something.
const CONFIRM_MS: Millis = 500;
/// How often the survivors of decided recoveries are asked whether they lead.
const VERIFY_MS: Millis = 500;

/// A report, if the controller leader could be asked.
type Reported = Option<Vec<PartitionReport>>;

/// Where a report goes.
pub enum Asker {
    /// A handle of this node.
    Local(oneshot::Sender<Reported>),
    /// Another node.
    Node {
        /// Which.
        node: NodeId,
        /// Number of its question.
        rpc: u64,
    },
    /// The controller leader itself: are these recoveries done?
    Controller,
    /// The same: may these go on without anybody's approval?
    Auto,
    /// The same: who votes in these, whose replicas all know of their policy, as of this record?
    Leasing(BTreeMap<GroupId, u64>),
    /// The same: who leads these, about which the controllers may have lost something?
    Confirming,
}

struct Gathering {
    groups: Vec<GroupId>,
    holdings: BTreeMap<GroupId, Vec<Holding>>,
    missing: BTreeSet<NodeId>,
    until: Millis,
    asker: Asker,
}

/// Reports under way.
#[derive(Default)]
pub struct Reports {
    gathering: BTreeMap<u64, Gathering>,
    /// Questions put to brokers, and the report each is for.
    asked: BTreeMap<u64, u64>,
    /// Reports asked of the controller leader.
    forwarded: BTreeMap<u64, (Millis, oneshot::Sender<Reported>)>,
    next_verification: Millis,
    next_auto: Millis,
    /// Where the last look for those stopped.
    auto_cursor: GroupId,
    /// And that for those who know.
    leasing_cursor: GroupId,
    next_confirmation: Millis,
    confirming_cursor: GroupId,
}

/// As many of these as are asked for at a time, from where the last look stopped: those at the front may wait for long.
fn next_turn(mut groups: Vec<GroupId>, cursor: &mut GroupId) -> Vec<GroupId> {
    groups.sort_unstable();
    let at = groups.partition_point(|group| *group <= *cursor);
    groups.rotate_left(at);
    groups.truncate(GROUPS_PER_PLAN);
    if let Some(last) = groups.last() {
        *cursor = *last;
    }
    groups
}

impl Reports {
    pub(super) fn deadline(&self) -> Millis {
        let gathering = self.gathering.values().map(|g| g.until);
        gathering.chain(self.forwarded.values().map(|(until, _)| *until)).min().unwrap_or(Millis::MAX)
    }
}

impl Shard {
    /// Brings the question to the controller leader.
    pub(super) fn ask_report(&mut self, now: Now, groups: Vec<GroupId>, reply: oneshot::Sender<Reported>) {
        match self.controller_to_ask() {
            Some(leader) if leader == self.node() => self.begin_report(now, groups, Asker::Local(reply)),
            Some(leader) => {
                let rpc = self.next_id();
                self.recovery.forwarded.insert(rpc, (now.mono + REPORT_MS, reply));
                self.send_rpc(now, leader, rpc, &Ask::Report { groups });
            }
            None => drop(reply.send(None)),
        }
    }

    /// The controller leader has answered, or it is not the one that was asked.
    pub(super) fn on_report(&mut self, rpc: u64, partitions: Reported) {
        if let Some((_, reply)) = self.recovery.forwarded.remove(&rpc) {
            drop(reply.send(partitions));
        }
    }

    /// As controller leader: asks the brokers of these groups what they hold.
    pub(super) fn begin_report(&mut self, now: Now, mut groups: Vec<GroupId>, asker: Asker) {
        if self.recovery.gathering.len() >= AT_A_TIME || !self.leads_established() {
            return self.tell_report(now, asker, None);
        }
        let image = self.image.clone();
        if groups.is_empty() {
            groups = image.groups.keys().copied().filter(|group| self.may_wait(*group)).collect();
        }
        groups.retain(|group| image.groups.contains_key(group));
        groups.sort_unstable();
        groups.dedup();
        groups.truncate(GROUPS_PER_PLAN);
        let mut of: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
        for group in &groups {
            let placed = image.group(*group).map(|(_, _, placed)| placed);
            for replica in placed.iter().flat_map(|placed| &placed.replicas) {
                of.entry(replica.node).or_default().push(*group);
            }
        }
        let id = self.next_id();
        let mut gathering = Gathering {
            groups,
            holdings: BTreeMap::new(),
            missing: BTreeSet::new(),
            until: now.mono + ANSWER_MS,
            asker,
        };
        for (node, groups) in of {
            if node == self.node() {
                for (group, holding) in self.holdings(&groups) {
                    gathering.holdings.entry(group).or_default().push(holding);
                }
            } else if self.engine.is_connected(node) {
                let rpc = self.next_id();
                self.recovery.asked.insert(rpc, id);
                gathering.missing.insert(node);
                self.send_rpc(now, node, rpc, &Ask::Holdings { groups });
            }
        }
        self.recovery.gathering.insert(id, gathering);
        self.end_reports(now);
    }

    /// Nobody is known to lead the group, or most of its brokers are gone: a leader that stepped down for want of them is not forgotten.
    fn may_wait(&self, group: GroupId) -> bool {
        let lives = |node: &NodeId| self.image.brokers.get(node).is_some_and(|broker| !broker.fenced);
        let most_are_gone = self
            .image
            .group(group)
            .is_some_and(|(_, _, placed)| placed.most(|node| lives(&node)).contains(&false));
        most_are_gone || self.hint_of(group).is_none()
    }

    /// What replicas here hold.
    pub(super) fn holdings(&mut self, groups: &[GroupId]) -> Vec<(GroupId, Holding)> {
        groups.iter().filter_map(|group| Some((*group, self.holding(*group)?))).collect()
    }

    fn holding(&self, group: GroupId) -> Option<Holding> {
        let (core, p) = (self.engine.core(group)?, self.partitions.get(&group)?);
        // Exactly what its seal would say, or the plan would not hold.
        let report = core.report(core.hard_state().sealed.unwrap_or(0));
        let doubt = core.doubt();
        let why = || match &p.out_of_service {
            Some(why) => {
                let anew = self.status.anew.iter().find(|(known, _)| *known == group);
                anew.map_or(why.clone(), |(_, anew)| format!("{why}; {anew}"))
            }
            None => format!("it may have lost acknowledged entries ({doubt:?})"),
        };
        let unsound = (!report.sound).then(why);
        let leads = core.is_established() && core.role() == crate::raftlog::core::Role::Leader;
        let follows = core.leader().filter(|l| *l != core.replica()).map(|l| l.node);
        let offsets = (p.start.0, p.high_watermark.0.max(p.start.0), p.end.0);
        Some(Holding { report, unsound, leads, follows, offsets })
    }

    pub(super) fn on_holdings(
        &mut self,
        now: Now,
        from: NodeId,
        rpc: u64,
        holdings: Vec<(GroupId, Holding)>,
    ) {
        let Some(id) = self.recovery.asked.remove(&rpc) else { return };
        let Some(gathering) = self.recovery.gathering.get_mut(&id) else { return };
        gathering.missing.remove(&from);
        for (group, holding) in holdings.into_iter().filter(|(_, h)| h.report.replica.node == from) {
            gathering.holdings.entry(group).or_default().push(holding);
        }
        self.end_reports(now);
    }

    /// Time has passed.
    pub(super) fn tick_reports(&mut self, now: Now) {
        self.end_reports(now);
        let forwarded = std::mem::take(&mut self.recovery.forwarded);
        let (late, waiting) = forwarded.into_iter().partition(|(_, (until, _))| *until <= now.mono);
        self.recovery.forwarded = waiting;
        BTreeMap::into_values(late).for_each(|(_, reply)| drop(reply.send(None)));
    }

    fn end_reports(&mut self, now: Now) {
        let is_over = |g: &Gathering| g.missing.is_empty() || g.until <= now.mono;
        let gathering = std::mem::take(&mut self.recovery.gathering);
        let (over, waiting): (BTreeMap<u64, Gathering>, _) =
            gathering.into_iter().partition(|(_, gathering)| is_over(gathering));
        self.recovery.gathering = waiting;
        for (id, gathering) in over {
            self.recovery.asked.retain(|_, report| *report != id);
            if matches!(gathering.asker, Asker::Controller) {
                self.note_recovered(now, &gathering);
                continue;
            }
            if matches!(gathering.asker, Asker::Auto) {
                self.approve_autos(now, &gathering);
                continue;
            }
            if matches!(gathering.asker, Asker::Confirming) {
                self.note_confirmed(now, &gathering.holdings);
                continue;
            }
            if let Asker::Leasing(policies) = &gathering.asker {
                self.note_leased(now, policies, &gathering.holdings);
                continue;
            }
            let image = self.image.clone();
            let silent = |node: NodeId| self.silent_ms(now, node);
            let of = |group: &GroupId| gathering.holdings.get(group).map_or(&[][..], Vec::as_slice);
            let plans = gathering.groups.iter().filter_map(|g| recovery::plan(&image, *g, of(g), &silent));
            let partitions = plans.collect();
            self.tell_report(now, gathering.asker, Some(partitions));
        }
    }

    fn tell_report(&mut self, now: Now, asker: Asker, report: Reported) {
        match (asker, report) {
            (Asker::Local(reply), report) => drop(reply.send(report)),
            (Asker::Node { node, rpc }, Some(partitions)) => {
                self.answer_rpc(now, node, rpc, &Answer::Report { partitions });
            }
            (Asker::Node { node, rpc }, None) => {
                self.answer_rpc(now, node, rpc, &Answer::NotLeader { leader: None });
            }
            (Asker::Controller | Asker::Auto | Asker::Leasing(_) | Asker::Confirming, _) => {}
        }
    }

    /// As controller leader: asks the survivors of decided recoveries whether they lead with all they had.
    pub(super) fn verify_recoveries(&mut self, now: Now) {
        if now.mono < self.recovery.next_verification {
            return;
        }
        self.recovery.next_verification = now.mono + VERIFY_MS;
        let groups: Vec<GroupId> =
            self.image.unverified().map(|(r, _)| r.plan.group).take(GROUPS_PER_PLAN).collect();
        let is_asking = |g: &Gathering| matches!(g.asker, Asker::Controller);
        if !groups.is_empty() && !self.recovery.gathering.values().any(is_asking) {
            self.begin_report(now, groups, Asker::Controller);
        }
    }

    fn note_recovered(&mut self, now: Now, gathering: &Gathering) {
        let mut steps = Vec::new();
        for (known, lossless) in self.image.unverified() {
            let all = gathering.holdings.get(&known.plan.group);
            let leads = all.into_iter().flatten().find(|h| {
                h.leads
                    && h.report.generation.0 == known.plan.from + 1
                    && h.report.commit >= known.plan.base.index
            });
            if let Some(leader) = leads {
                let outcome =
                    Outcome::Verified { lossless, high_watermark: leader.offsets.1, at_ms: now.wall_ms };
                steps.push(Progress { group: known.plan.group, recovery: known.recovery, outcome });
            }
        }
        if !steps.is_empty() {
            tracing::warn!(partitions = steps.len(), "recovered partitions are led by their survivors");
            self.decide_internally(now, CtlCommand::RecoveryProgress { steps });
        }
    }

    /// As controller leader: asks who leads partitions of which the metadata may not know the newest generation. Those with a leader that
    /// commits are no question any more.
    pub(super) fn confirm_partitions(&mut self, now: Now) {
        if now.mono < self.recovery.next_confirmation {
            return;
        }
        self.recovery.next_confirmation = now.mono + CONFIRM_MS;
        let groups: Vec<GroupId> = match self.image.lost.is_empty() {
            true => Vec::new(),
            false => self.image.unconfirmed().collect(),
        };
        let is_asking = |g: &Gathering| matches!(g.asker, Asker::Confirming);
        let groups = next_turn(groups, &mut self.recovery.confirming_cursor);
        if !groups.is_empty() && !self.recovery.gathering.values().any(is_asking) {
            self.begin_report(now, groups, Asker::Confirming);
        }
    }

    fn note_confirmed(&mut self, now: Now, holdings: &BTreeMap<GroupId, Vec<Holding>>) {
        let groups = self.image.confirmable(holdings);
        if !groups.is_empty() {
            tracing::info!(
                partitions = groups.len(),
                "they have leaders that commit: what the controllers lost does not concern them"
            );
            self.decide_internally(now, CtlCommand::Confirm { groups });
            self.pump(now);
        }
    }

    /// As controller leader: looks after partitions with `recovery.policy=auto` that have no leader.
    pub(super) fn watch_autos(&mut self, now: Now) {
        if now.mono < self.recovery.next_auto || !self.leases.is_used() {
            return;
        }
        self.recovery.next_auto = now.mono + AUTO_MS;
        self.ask_who_knows(now);
        let is_asking = |g: &Gathering| matches!(g.asker, Asker::Auto);
        if self.recovery.gathering.values().any(is_asking) {
            return;
        }
        let image = self.image.clone();
        let mut groups: Vec<GroupId> =
            auto::candidates(&image).filter(|group| self.may_wait(*group)).collect();
        let waiting: BTreeSet<GroupId> = groups.iter().copied().collect();
        self.control.watch.retain(|group| waiting.contains(&group));
        groups = next_turn(groups, &mut self.recovery.auto_cursor);
        if groups.is_empty() {
            return self.tell_autos();
        }
        self.begin_report(now, groups, Asker::Auto);
    }

    /// Partitions that were made under another policy: once all their brokers know of it, their leaders say who they are.
    fn ask_who_knows(&mut self, now: Now) {
        let is_asking = |g: &Gathering| matches!(g.asker, Asker::Leasing(_));
        if self.recovery.gathering.values().any(is_asking) {
            return;
        }
        let mut policies = self.control.sealed.leases.informed(&self.image);
        policies.retain(|group, _| self.hint_of(*group).is_some());
        let groups = next_turn(policies.keys().copied().collect(), &mut self.recovery.leasing_cursor);
        if !groups.is_empty() {
            self.begin_report(now, groups, Asker::Leasing(policies));
        }
    }

    fn note_leased(
        &mut self,
        now: Now,
        policies: &BTreeMap<GroupId, u64>,
        holdings: &BTreeMap<GroupId, Vec<Holding>>,
    ) {
        let groups = self.control.sealed.leases.told(&self.image, policies, holdings);
        if !groups.is_empty() {
            let partitions = groups.len();
            tracing::info!(
                partitions,
                "recovery.policy=auto: all brokers know of it, and partitions go on by themselves from now on"
            );
            self.decide_internally(now, CtlCommand::Leased { groups });
            self.pump(now);
        }
    }

    fn approve_autos(&mut self, now: Now, gathering: &Gathering) {
        let image = self.image.clone();
        let silent = |node: NodeId| self.silent_ms(now, node);
        let of = |group: &GroupId| gathering.holdings.get(group).map_or(&[][..], Vec::as_slice);
        let report = |group: &GroupId| {
            let report = recovery::plan(&image, *group, of(group), &silent)?;
            Some((*group, report, of(group)))
        };
        let found: Vec<_> = gathering.groups.iter().filter_map(report).collect();
        let (defaults, leases) = (&self.config.node.defaults, &self.control.sealed.leases);
        let plans = self.control.watch.look(&image, defaults, leases, &found, now.mono);
        self.tell_autos();
        if plans.is_empty() || !self.leads_established() {
            return;
        }
        let partitions = plans.len();
        tracing::error!(
            partitions,
            "partitions go on without their majorities, as recovery.policy=auto says; records may be lost"
        );
        let (id, reason) = (plan_id(&plans), auto::REASON.to_owned());
        self.decide_internally(
            now,
            CtlCommand::Recover { id, reason, at_ms: now.wall_ms, plans, auto: true },
        );
        self.pump(now);
    }

    fn tell_autos(&mut self) {
        let waiting = self.control.watch.said().iter().map(|(group, said)| (*group, said.as_str()));
        let approved = self.control.sealed.said();
        let all: BTreeMap<GroupId, String> =
            waiting.chain(approved).map(|(group, said)| (group, said.to_owned())).collect();
        self.status.autos = all.into_iter().collect();
    }

    /// This node leads the controllers no more: what it asked as their leader is nobody's question any more.
    pub(super) fn forget_reports(&mut self, now: Now) {
        self.recovery.asked.clear();
        for gathering in std::mem::take(&mut self.recovery.gathering).into_values() {
            self.tell_report(now, gathering.asker, None);
        }
        self.tell_autos();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that never get anywhere stood before all others, for ever.
    #[test]
    fn everybody_has_a_turn_however_many_wait_at_the_front() {
        let all: Vec<GroupId> = (1..=3 * GROUPS_PER_PLAN as u64 / 2).map(GroupId).collect();
        let mut cursor = GroupId::default();
        let mut seen = BTreeSet::new();
        for _ in 0..2 {
            let turn = next_turn(all.clone(), &mut cursor);
            assert_eq!(turn.len(), GROUPS_PER_PLAN);
            seen.extend(turn);
        }
        assert_eq!(seen.len(), all.len());
        assert!(next_turn(Vec::new(), &mut cursor).is_empty());
    }
}
