//! Leases: how long a broker may answer for topics with `recovery.policy=auto`, and how long the controllers wait for that to be over
//! (decision 0017).
//!
//! Both sides in one place, since what one believes the other has to wait out. Not here: asking, confirming and answering (`broker::shard::lease`),
//! what is answered without one and what is not (`broker::shard`). Pure: time is an argument, each side's own. Invariants:
//! - a broker's lease ends, by any clocks whose rates differ by no more than an eighth, before the controllers take it for ended: it counts from before
//!   the question was sent, they count from after it was heard, and a controller leader that granted nothing itself counts from after its election;
//! - a lease is of no use before the broker has applied the controller log as far as the granting leader's log went: whatever was decided by
//!   then it acts on first;
//! - a lease is never longer than [`LEASE_MAX_MS`], whoever granted it, and it is the registration's that asked, from whom it asked;
//! - what was said under one policy says nothing under a later one, though both are `auto`.

use super::image::{Broker, Change, Image, Partition, Topic};
use super::recovery::Holding;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::raftlog::generation::SealReport;
use crate::segment::{GroupId, Index, LogId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// No lease is longer, whatever the sessions are: a new controller leader waits for as long, knowing nothing of what was granted before.
pub const LEASE_MAX_MS: Millis = 10_000;
/// Each side gives one part in so many away: clocks of a broker and a controller may differ by an eighth in rate.
const DRIFT: Millis = 16;
/// Rounding of both clocks.
const TICK: Millis = 2;
/// Questions, and grants that wait for the log, that are remembered.
const KEPT: usize = 8;

/// What the controllers' leader grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// From the moment the question was sent.
    pub ms: Millis,
    /// Where the leader's log ended.
    pub through: Index,
    /// Whose log: who granted it.
    pub by: NodeId,
    /// For which registration. Every process counts its questions from the start: an answer to one of the process before must not be
    /// taken for one to the present process, which asked later.
    pub incarnation: u64,
}

/// A lease that was asked for.
#[derive(Clone, Copy, Debug)]
struct Question {
    sent: Millis,
    asked: NodeId,
    incarnation: u64,
}

/// Length of leases where broker sessions are this long.
pub fn length(session: Millis) -> Millis {
    session.clamp(1, LEASE_MAX_MS)
}

fn believed(ms: Millis) -> Millis {
    ms.saturating_sub(ms / DRIFT + TICK)
}

fn waited(ms: Millis) -> Millis {
    ms.saturating_add(ms / DRIFT + TICK)
}

/// The broker's side.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Not answered yet.
    asked: BTreeMap<u64, Question>,
    /// What was granted and is of no use yet: through where, and until when.
    coming: Vec<(Index, Millis)>,
    until: Millis,
}

impl Held {
    /// A lease is asked for under this number, of this controller, for this registration.
    pub fn ask(&mut self, question: u64, asked: NodeId, incarnation: u64, now: Millis) {
        if self.asked.len() == KEPT {
            self.asked.pop_first();
        }
        self.asked.insert(question, Question { sent: now, asked, incarnation });
    }

    /// It was granted.
    pub fn on_granted(&mut self, question: u64, lease: Lease, now: Millis) {
        let meant = |q: &Question| (q.asked, q.incarnation) == (lease.by, lease.incarnation);
        let is_answer = |q: &Question| meant(q) || on(Mutation::TakeAnyGrant);
        let Some(Question { sent, .. }) = self.asked.get(&question).copied().filter(is_answer) else {
            return;
        };
        self.asked.remove(&question);
        let sent = if on(Mutation::CountFromAnswer) { now } else { sent };
        self.coming.retain(|(_, end)| *end > now);
        if self.coming.len() == KEPT {
            // The first ones are of use soonest: where the log lags, the newest would give way to a newer one for ever.
            self.coming.pop();
        }
        self.coming.push((lease.through, sent.saturating_add(believed(lease.ms.min(LEASE_MAX_MS)))));
    }

    /// The controller log is applied, and acted on, up to here.
    pub fn advance(&mut self, applied: Index) {
        let until = &mut self.until;
        self.coming.retain(|(through, end)| {
            if *through <= applied {
                *until = (*until).max(*end);
            }
            *through > applied
        });
    }

    /// Until when answers may be given.
    pub fn until(&self) -> Millis {
        self.until
    }

    /// Whether the broker may answer now.
    pub fn is_valid(&self, now: Millis) -> bool {
        now < self.until
    }

    /// The registration that it was granted to is over, or the log is not acted on any more.
    pub fn give_up(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Grant {
    incarnation: u64,
    /// When the last lease of this process of the broker is over.
    until: Millis,
    /// When those of earlier processes are.
    earlier: Millis,
    /// How far the present one said that it has applied the controller log.
    applied: u64,
}

/// The controller leader's side: what it granted itself. Made anew with every leadership.
#[derive(Clone, Debug)]
pub struct Granted {
    /// When whatever earlier leaders granted is over.
    from: Millis,
    brokers: BTreeMap<NodeId, Grant>,
}

impl Default for Granted {
    /// Of one that does not lead: nothing is ever over.
    fn default() -> Self {
        Self { from: Millis::MAX, brokers: BTreeMap::new() }
    }
}

/// A partition that was made under another policy: whoever runs a replica of it knows of the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Its group.
    pub group: GroupId,
    /// Number of the record since which the policy stands that they know of.
    pub since: u64,
    /// From this committed configuration on.
    pub configuration: LogId,
}

/// Why a partition may not yet, or not at all, go on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Somebody may still answer for it, as far as is known until then.
    Until(Millis),
    /// This broker is expected back with its replica: `shrink.grace.ms`, or a session, is not over. It announced that it stops, or not.
    Awaited(NodeId, bool),
    /// Nothing but an operator helps.
    Lasting(String),
}

impl Hindrance {
    /// What is to be said of the partition.
    pub fn text(&self, now: Millis) -> String {
        match self {
            Self::Until(until) => format!("waits {} ms for leases to end", until.saturating_sub(now)),
            Self::Awaited(node, true) => {
                format!("waits for broker {node}, which stopped in order, until shrink.grace.ms is over")
            }
            Self::Awaited(node, false) => format!("waits for broker {node}, which is not given up yet"),
            Self::Lasting(why) => format!("does not go on by itself: {why}"),
        }
    }
}

impl Granted {
    /// Of a leader that was elected before `now`.
    pub fn new(now: Millis) -> Self {
        Self { from: now.saturating_add(waited(LEASE_MAX_MS)), brokers: BTreeMap::new() }
    }

    /// A lease of this length is about to be granted for a question that was heard at this time.
    pub fn grant(&mut self, node: NodeId, incarnation: u64, heard: Millis, ms: Millis) {
        let until = heard.saturating_add(waited(ms.min(LEASE_MAX_MS)));
        let grant = self.process(node, incarnation);
        grant.until = grant.until.max(until);
    }

    /// A broker says how far it has applied the controller log.
    pub fn on_applied(&mut self, node: NodeId, incarnation: u64, applied: u64) {
        let grant = self.process(node, incarnation);
        grant.applied = grant.applied.max(applied);
    }

    fn process(&mut self, node: NodeId, incarnation: u64) -> &mut Grant {
        let grant = self.brokers.entry(node).or_default();
        if grant.incarnation != incarnation {
            *grant = Grant { incarnation, until: 0, earlier: grant.earlier.max(grant.until), applied: 0 };
        }
        grant
    }

    /// Partitions that were made under another policy than `auto` and whose replicas are all run by processes that have applied the record
    /// of the policy, and every placement: none of them takes an older replica for a member any more. With the number of that record.
    pub fn informed(&self, image: &Image) -> BTreeMap<GroupId, u64> {
        let topics = image.topics.values().filter_map(|topic| Some((topic, topic.auto_since?)));
        let open = topics.flat_map(|(topic, since)| {
            let is_open = move |p: &&Partition| p.leased.is_none() && !is_made_under(p, since);
            topic.partitions.iter().filter(is_open).map(move |p| (p, since))
        });
        let knows = |replica: &ReplicaId, number: u64| {
            let broker = image.brokers.get(&replica.node).filter(|_| image.holds(replica));
            let grant = self.brokers.get(&replica.node);
            broker.zip(grant).is_some_and(|(b, g)| b.incarnation == g.incarnation && g.applied >= number)
        };
        let informed = open.filter(|(p, since)| {
            let newest = p.replicas.iter().map(|r| r.assignment).max().unwrap_or(0).max(*since);
            p.sealing.is_none() && p.replicas.iter().all(|replica| knows(replica, newest))
        });
        informed.map(|(p, since)| (p.group, since)).collect()
    }

    /// What is to be written of groups that were [`informed`](Self::informed) of the policies of these records when their replicas were
    /// asked, once those have answered. They have to be so still, of the same records: whoever answered may have been told of another
    /// policy since, and not of the one after that.
    pub fn told(
        &self,
        image: &Image,
        asked: &BTreeMap<GroupId, u64>,
        holdings: &BTreeMap<GroupId, Vec<Holding>>,
    ) -> Vec<Told> {
        let informed = self.informed(image);
        let is_still = |group: &GroupId, since: &u64| {
            informed.get(group) == Some(since) || on(Mutation::CertifyStaleAnswers)
        };
        let still = asked.iter().filter(|(group, since)| is_still(group, since));
        let told = still.filter_map(|(&group, &since)| {
            let placed = image.group(group)?.2;
            Some(Told { group, since, configuration: configuration(placed, holdings.get(&group)?)? })
        });
        told.collect()
    }

    /// Until when processes that run this replica may answer for it; `has_said`: the present one is not among them.
    fn may_answer_until(&self, image: &Image, replica: &ReplicaId, has_said: bool) -> Millis {
        let Some(grant) = self.brokers.get(&replica.node) else { return 0 };
        let broker = image.brokers.get(&replica.node);
        let is_present = broker.is_some_and(|broker| broker.incarnation == grant.incarnation);
        // The present process runs what is on its disk and nothing else, and has said of that; an earlier one that was cut off may still
        // run, with whatever it had.
        match is_present && (has_said || !image.holds(replica)) {
            true => grant.earlier,
            false => grant.earlier.max(grant.until),
        }
    }

    /// Whether this survivor may go on although nobody knows what the others acknowledged: none of them can answer for the partition any
    /// more, but those that `has_said` names, which are sealed or about to be. Nor is anybody expected back.
    ///
    /// # Errors
    /// What stands against it.
    pub fn check(
        &self,
        image: &Image,
        (topic, placed): (&Topic, &Partition),
        survivor: &SealReport,
        has_said: &dyn Fn(&ReplicaId) -> bool,
        now: Millis,
    ) -> Result<(), Hindrance> {
        check_policy(topic, placed, survivor)?;
        if survivor.configuration.voters.is_empty() {
            let text = "the survivor has not seen who votes in its generation";
            return Err(Hindrance::Lasting(text.to_owned()));
        }
        // Who left is in no configuration that the survivor does not know, and shows nothing that the survivor does not hold.
        if survivor.last < placed.configured {
            let text = "the survivor has not seen who left when the partition was last reassigned";
            return Err(Hindrance::Lasting(text.to_owned()));
        }
        if on(Mutation::IgnoreLeases) {
            return Ok(());
        }
        let mut silent = placed.replicas.iter().filter(|replica| !has_said(replica));
        if let Some(hindrance) = silent.find_map(|replica| awaited(image, replica)) {
            return Err(hindrance);
        }
        let members = survivor.configuration.members().chain(placed.replicas.iter().copied());
        let until = members.map(|replica| match has_said(&replica) {
            true if on(Mutation::ForgetEarlierProcesses) => 0,
            said => self.may_answer_until(image, &replica, said),
        });
        match until.max().unwrap_or(0).max(self.from) {
            until if until > now => Err(Hindrance::Until(until)),
            _ => Ok(()),
        }
    }
}

/// The broker of a silent replica, if it is expected back with it.
fn awaited(image: &Image, replica: &ReplicaId) -> Option<Hindrance> {
    // Dead is one that stopped, too, when its grace is over.
    let is_expected = |broker: &&Broker| !broker.dead && image.holds(replica) && !on(Mutation::AwaitNobody);
    let broker = image.brokers.get(&replica.node).filter(is_expected)?;
    Some(Hindrance::Awaited(broker.node, broker.stopping))
}

/// Whether every process that ever ran a replica of the partition knows that it needs a lease: it was made when the policy was `auto`
/// already, and so each met the policy with, or before, its replica.
///
/// Or it was made before, and all of them have said so since: those of a committed configuration that the survivor holds, and so of all
/// that followed it.
fn check_policy(topic: &Topic, placed: &Partition, survivor: &SealReport) -> Result<(), Hindrance> {
    let lasting = |text: &str| Err(Hindrance::Lasting(text.to_owned()));
    match (topic.auto_since, placed.leased) {
        (None, _) => lasting("recovery.policy of the topic is not auto"),
        (Some(since), _) if is_made_under(placed, since) => Ok(()),
        (Some(_), Some(configuration)) if survivor.last >= configuration => Ok(()),
        (Some(_), Some(_)) => {
            lasting("the survivor lacks the configuration since which all know of recovery.policy=auto")
        }
        (Some(_), None) => lasting(
            "recovery.policy was set to auto after the partition was made, and not all brokers said that they know",
        ),
    }
}

fn is_made_under(placed: &Partition, since: u64) -> bool {
    placed.founders().iter().all(|founder| founder.assignment >= since)
}

/// The committed configuration of its leader, if it names replicas that the image places and no others, and all of those are in the
/// leader's term. Asked for after they were known to be informed: so nobody led in a later term then, and whoever is elected from then on holds
/// this configuration and the leader's first entry, or has been given the votes of none of them.
pub fn configuration(placed: &Partition, holdings: &[Holding]) -> Option<LogId> {
    let leader = &holdings.iter().find(|h| h.leads && h.report.generation.0 == placed.generation)?.report;
    let SealReport { configuration, configuration_id, is_committed, .. } = leader;
    let is_in_term = |replica: &ReplicaId| {
        let mut reports = holdings.iter().map(|h| &h.report).filter(|report| report.replica == *replica);
        reports.any(|r| (r.generation, r.highest_term) == (leader.generation, leader.highest_term))
    };
    let is_placed = configuration.members().all(|member| placed.replicas.contains(&member));
    let is_sole = is_placed && placed.replicas.iter().all(is_in_term);
    (is_sole && *is_committed && !configuration.is_joint()).then_some(*configuration_id)
}

/// Of these groups, those of which that can still be said.
pub fn still_due(image: &Image, groups: &[Told]) -> Vec<Told> {
    let mut seen = BTreeSet::new();
    let due = |told: &&Told| image.check_leased(told).is_ok();
    groups.iter().filter(due).filter(|told| seen.insert(told.group)).copied().collect()
}

impl Image {
    fn check_leased(&self, told: &Told) -> Result<(), String> {
        let group = told.group;
        let (topic, _, placed) = self.group(group).ok_or_else(|| format!("unknown group {group}"))?;
        let since = if on(Mutation::CertifyStaleAnswers) { topic.auto_since } else { Some(told.since) };
        let is_policy = topic.auto_since.is_some() && topic.auto_since == since;
        match is_policy && placed.leased.is_none() && placed.sealing.is_none() {
            true => Ok(()),
            false => Err(format!("group {group} is not to be told of leases")),
        }
    }

    pub(super) fn apply_leased(&mut self, groups: &[Told], changes: &mut Vec<Change>) -> Result<(), String> {
        Self::distinct(groups.iter().map(|told| told.group))?;
        groups.iter().try_for_each(|told| self.check_leased(told))?;
        for Told { group, configuration, .. } in groups {
            self.partition_mut(*group)?.leased = Some(*configuration);
            changes.push(Change::GroupChanged { group: *group });
        }
        Ok(())
    }
}
