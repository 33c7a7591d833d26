//! The controllers go on with a loss that an operator accepted (decision 0021): who is missing, what is at risk, and the steps.
//!
//! The best copy at hand says where the log ends; the controller that goes on takes from it what it lacks, by the follower's own rules; every
//! copy is sealed; the survivor takes over, and behind its first entry stands what was given up. Not here: whether it may be done
//! (`raftlog::offline::loss`), what the metadata makes of it (`ctl::offline`). Invariants:
//! - every broker that the metadata knows is given by the directory it registered with, or gone by the operator's word;
//! - no copy is sealed before the survivor holds the whole log durably, and nothing is opened before all are sealed;
//! - a crash at any point leaves what the same command goes on from, with the same number of the plan.

use super::{CONTROLLERS, Done, Gathered, Held, Stopped, Trouble, done, open_all};
use crate::ctl::image::Image;
use crate::ctl::offline::{self as metadata, ControllerRecovery, Lost};
use crate::raftlog::codec::Envelope;
use crate::raftlog::message::{Body, Message};
use crate::raftlog::offline::loss::{self, Acceptance};
use crate::raftlog::offline::nodes;
use crate::segment::{Epoch, Generation, Index, LogId, NodeId};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Bytes of entries taken over at a time.
const TAKE_BYTES: usize = 1 << 20;
/// Boot by which the copy that is read speaks to the one that takes.
const READ: u128 = 1;

/// A partition with replicas on disks that are given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// Its topic and number, as `topic-number`.
    pub partition: String,
    /// Brokers of the replicas that are given up.
    pub lost: Vec<NodeId>,
    /// How many replicas it has in all.
    pub replicas: usize,
}

/// What would be done, and what may be lost by it.
#[derive(Clone, Debug)]
pub struct Loss {
    accepted: Acceptance,
    /// The node that goes on.
    pub survivor: NodeId,
    /// Where the log ends, and whose copy says so.
    pub base: (LogId, NodeId),
    /// The generation that would be opened.
    pub generation: Generation,
    /// Disks that are given up.
    pub lost: Vec<Lost>,
    /// How many partitions there are; no generation of any of them is decided by itself before a leader was seen.
    pub partitions: usize,
    /// Those with a replica on a disk that is given up.
    pub risks: Vec<Risk>,
    missing: Vec<NodeId>,
}

impl Loss {
    /// Number of the plan, as operators name it.
    pub fn plan(&self) -> String {
        format!("{:016x}", self.accepted.plan)
    }

    /// First entry that the survivor takes over from the base's copy, if it lacks any.
    pub fn takes_from(&self) -> Option<Index> {
        (self.accepted.common < self.base.0.index).then(|| self.accepted.common.next())
    }
}

impl Gathered {
    /// What going on with a loss would be, if these nodes are gone for good.
    ///
    /// # Errors
    /// What stands against it.
    pub fn accept(&self, gone: &[NodeId]) -> Result<Loss, Trouble> {
        let held = self.held();
        let refused = |why: String| Trouble::Refused(why);
        let given: Vec<Lost> = self
            .copies
            .iter()
            .map(|seen| Lost { node: seen.node, directory: Uuid::from_u128(seen.looked.directory) })
            .collect();
        let twice =
            given.iter().enumerate().find(|(at, copy)| given[..*at].iter().any(|c| c.node == copy.node));
        if let Some((_, Lost { node, .. })) = twice {
            return Err(refused(format!("node {node} is given twice: give the directory that it used last")));
        }
        if let Some(node) = gone.iter().find(|node| given.iter().any(|copy| copy.node == **node)) {
            return Err(refused(format!("node {node} is given, and said to be gone")));
        }
        let accepted = loss::accept(&held, &self.judged, gone).map_err(refused)?;
        let base = &self.copies[accepted.base];
        let log = base.looked.log_on(&*self.fs)?;
        let image = metadata::image_of(base.held.start, base.held.report.last, &log).map_err(|why| {
            refused(format!("the controllers' log in {} cannot be read: {why}", base.dir.display()))
        })?;
        metadata::check_named(&image, &given, gone).map_err(refused)?;
        let lost = lost_disks(&image, &base.held, gone).map_err(refused)?;
        let members = &base.held.report.configuration;
        let missing: Vec<_> = members.members().filter(|member| gone.contains(&member.node)).collect();
        Ok(Loss {
            survivor: held[accepted.survivor].report.replica.node,
            base: (base.held.report.last, base.node),
            generation: loss::next_with_loss(&self.judged, &accepted),
            risks: risks(&image, &lost),
            partitions: image.groups.len(),
            missing: nodes(&missing),
            lost,
            accepted,
        })
    }

    fn held(&self) -> Vec<Held> {
        self.copies.iter().map(|seen| seen.held.clone()).collect()
    }

    /// Carries out the plan of this number, which follows if these nodes are gone.
    ///
    /// # Errors
    /// Another plan follows from the directories, or it may not be carried out: nothing was changed. Or a step failed: the same
    /// command goes on from there.
    pub fn execute_with_loss(
        self,
        approved: &str,
        gone: &[NodeId],
        reason: &str,
        at_ms: i64,
    ) -> Result<Done, Trouble> {
        let loss = self.accept(gone)?;
        if approved != loss.plan() {
            return Err(Trouble::Drifted { approved: approved.to_owned(), now: loss.plan() });
        }
        let held = self.held();
        let Self { fs, copies, judged } = self;
        let audit = audit_of(&held, &loss, judged.from, reason, at_ms);
        let accepted = &loss.accepted;
        let mut opened = open_all(&fs, copies, &held, &|_| true)?;
        // The survivor last: as long as it is not sealed nothing can have been opened.
        opened.sort_by_key(|(at, _)| *at == accepted.survivor);
        let (survivor, others) = opened.split_last_mut().expect("somebody goes on");
        let survivor = &mut survivor.1;
        if let Some((at, base)) = others.iter_mut().find(|(at, _)| *at == accepted.base) {
            let prev = held[*at].id_at(accepted.common);
            let prev = prev.ok_or_else(|| base.failed("its log does not join the survivor's"))?;
            let epoch = Epoch { generation: judged.from, term: accepted.term };
            survivor.take_from(base, prev, epoch)?;
        }
        for (at, other) in others {
            let held = &held[*at];
            // Of an earlier generation, and ended with it: nobody follows it, and it follows nobody there.
            if held.report.generation == judged.from || held.hard.sealed.is_none() {
                other.seal(held.report.generation, accepted.plan)?;
            }
        }
        let sealed = survivor.seal(judged.from, accepted.plan)?;
        let decision = loss::decide_with_loss(&held, &judged, accepted, &sealed);
        let decision = decision.ok_or_else(|| survivor.failed("what was sealed is not what was judged"))?;
        survivor.take_over(&decision, audit)?;
        done(opened, &held, judged.from, &decision)
    }
}

/// Disks of these nodes, by the metadata and by the group's own configuration.
fn lost_disks(image: &Image, base: &Held, gone: &[NodeId]) -> Result<Vec<Lost>, String> {
    let brokers = image.brokers.values().map(|b| Lost { node: b.node, directory: b.directory });
    let members = base.report.configuration.members();
    let members = members.map(|r| Lost { node: r.node, directory: Uuid::from_u128(r.directory) });
    let all: BTreeSet<Lost> = brokers.chain(members).filter(|disk| gone.contains(&disk.node)).collect();
    match gone.iter().find(|node| all.iter().all(|disk| disk.node != **node)) {
        Some(node) => {
            Err(format!("node {node} is no controller and no broker that is known here: leave it out"))
        }
        None => Ok(all.into_iter().collect()),
    }
}

fn risks(image: &Image, lost: &[Lost]) -> Vec<Risk> {
    let is_lost = |directory: u128| lost.iter().any(|disk| disk.directory.as_u128() == directory);
    let partitions = image.topics.values().flat_map(|topic| {
        let numbered = topic.partitions.iter().enumerate();
        numbered.map(|(number, partition)| (format!("{}-{number}", topic.name), partition))
    });
    let risk = |(name, partition): (String, &crate::ctl::image::Partition)| {
        let lost = partition.replicas.iter().filter(|r| is_lost(r.directory)).map(|r| r.node);
        let lost: Vec<NodeId> = lost.collect();
        let replicas = partition.replicas.len();
        (!lost.is_empty()).then_some(Risk { partition: name, lost, replicas })
    };
    partitions.filter_map(risk).collect()
}

fn audit_of(held: &[Held], loss: &Loss, from: Generation, reason: &str, at_ms: i64) -> ControllerRecovery {
    ControllerRecovery {
        id: loss.plan(),
        reason: reason.to_owned(),
        at_ms,
        from: from.0,
        generation: loss.generation.0,
        survivor: loss.survivor,
        base: loss.base.0,
        copies: held.iter().map(|held| (held.report.replica.node, held.report.last)).collect(),
        missing: loss.missing.clone(),
        heirs_gone: Vec::new(),
        lost: loss.lost.clone(),
    }
}

impl Stopped {
    fn last(&self) -> LogId {
        self.engine.core(CONTROLLERS).map(|core| core.last()).unwrap_or_default()
    }

    /// Takes over what `base` holds behind `prev`, as if that one led in this epoch.
    fn take_from(&mut self, base: &mut Stopped, mut prev: LogId, epoch: Epoch) -> Result<(), Trouble> {
        let end = base.last();
        let replica = |stopped: &Stopped| stopped.engine.core(CONTROLLERS).map(|core| core.replica());
        let (Some(from), Some(to)) = (replica(base), replica(self)) else {
            return Err(self.failed("it holds no copy of the controllers' log"));
        };
        self.engine.set_peer_boot(0, from.node, READ);
        while prev.index < end.index {
            let read = base.engine.store().read(CONTROLLERS, prev.index.next(), TAKE_BYTES);
            let entries = read.map_err(|error| base.failed(error.to_string()))?;
            let (metas, payloads) = entries.into_iter().map(|entry| (entry.meta, entry.payload)).unzip();
            let body = Body::Append { prev, entries: metas, commit: Index(0), cleaned: None };
            let next = match &body {
                Body::Append { entries, .. } => entries.last().map(|meta| meta.id),
                _ => None,
            };
            prev = next.ok_or_else(|| base.failed(format!("entries behind {prev} cannot be read")))?;
            let message = Message { epoch, body };
            let (from_incarnation, to_incarnation) = (READ, 0);
            let group = CONTROLLERS;
            let envelope = Envelope { group, from, to, from_incarnation, to_incarnation, message, payloads };
            self.engine.receive(0, from.node, vec![envelope]);
            self.settle()?;
            if self.last() != prev {
                return Err(self.failed(format!("it did not take over entry {prev}")));
            }
        }
        Ok(())
    }
}
