//! What replicas tell each other, and what they must still know after a restart: votes, terms, entries called durable.

use super::{CONTROLLER, Check};
use crate::marks::Marks;
use crate::node::{Node, Process};
use kontiki::raftlog::codec::Envelope;
use kontiki::raftlog::message::Body;
use kontiki::segment::{EntryKind, Epoch, GroupId, Index, LogId, NodeId, Opened, ReplicaId};
use kontiki::wire::batch;
use std::collections::{BTreeMap, BTreeSet};

impl Check {
    /// Messages leave a node: what they promise.
    pub fn sent(&mut self, node: &Node, envelopes: &[Envelope], marks: &mut Marks) {
        let compacts = self.compacts;
        for e in envelopes {
            let (group, from, epoch) = (e.group, e.from, e.message.epoch);
            let request = matches!(
                e.message.body,
                Body::PreVote { .. } | Body::Vote { .. } | Body::Append { .. } | Body::Beat { .. }
            );
            *self.messages.entry(group).or_default() += u64::from(request);
            // What others build on. Refusals and answers to beats promise nothing, and may leave before their term is durable.
            let promise = matches!(
                e.message.body,
                Body::Vote { .. }
                    | Body::VoteReply { granted: true }
                    | Body::Append { .. }
                    | Body::AppendAccepted { .. }
                    | Body::Beat { .. }
                    | Body::InstallLogStart { .. }
                    | Body::LogStartInstalled { .. }
                    | Body::TimeoutNow
            );
            self.not_sealed(group, from, epoch, &e.message.body);
            self.says(group, from, epoch, &e.message.body);
            let told = self.told.entry((group, from)).or_default();
            if promise {
                // A message that waited for storage may leave after one of a later epoch; it is old news then, as if
                // the network had kept it.
                if epoch > told.epoch {
                    told.epoch = epoch;
                    let text =
                        format!("{from} of group {group} speaks in {epoch} first with {:?}", e.message.body);
                    self.trace.note("speaks", group.0, epoch.term.0, || text);
                }
            }
            match &e.message.body {
                Body::Vote { transfer, .. } => {
                    self.admitted(node, group, epoch);
                    self.voted(group, from, epoch, from);
                    if *transfer {
                        marks.hit("leadership transfer campaigned");
                    }
                }
                Body::VoteIfAll { .. } => {
                    self.granted_all.insert((group, from, epoch));
                }
                Body::VoteReply { granted: true } => {
                    self.admitted(node, group, epoch);
                    self.voted(group, from, epoch, e.to);
                    self.not_after_failure(node, group, None);
                }
                Body::VoteReply { granted: false } => marks.hit("vote refused"),
                Body::AppendAccepted { last } => {
                    told.accepted = (epoch, *last);
                    self.not_after_failure(node, group, Some(*last));
                }
                Body::AppendRejected { .. } => marks.hit("append refused, log backed up"),
                Body::LogStartInstalled { prev } => {
                    marks.hit("log start installed");
                    if e.group == CONTROLLER && prev.index > Index(0) {
                        marks.hit("controller log began at a snapshot");
                    }
                }
                Body::TimeoutNow => marks.hit("leadership handed over"),
                Body::Append { entries, .. } => {
                    for (meta, payload) in entries.iter().zip(&e.payloads) {
                        // Nothing is left of some batches where topics are compacted.
                        let is_hollow = compacts && payload.is_empty();
                        let bad = meta.kind == EntryKind::Records && !is_hollow && !batch::crc_ok(payload);
                        assert!(
                            !bad,
                            "I10: {from} replicates a damaged batch of group {group} at {}",
                            meta.id
                        );
                    }
                }
                Body::PreVoteReply { granted: false, .. } => marks.hit("pre-vote refused"),
                Body::Fenced => marks.hit("stale epoch told"),
                Body::Removed { .. } => marks.hit("replica told that it is no member"),
                _ => {}
            }
        }
    }

    fn voted(&mut self, group: GroupId, voter: ReplicaId, epoch: Epoch, candidate: ReplicaId) {
        let known = *self.votes.entry((group, voter, epoch)).or_insert(candidate);
        assert!(
            known == candidate,
            "Vote: {voter} of group {group} voted for {known} and {candidate} in {epoch}"
        );
    }

    /// I9: whoever has failed storage promises nothing more.
    fn not_after_failure(&self, node: &Node, group: GroupId, last: Option<LogId>) {
        let Some((life, ends)) = self.failed.get(&node.index) else { return };
        if *life != node.life {
            return;
        }
        match last {
            None => {
                panic!("I9: node {} grants a vote in group {group} after its storage failed", node.index + 1)
            }
            Some(last) => {
                let end = ends.get(&group).copied().unwrap_or_default();
                assert!(
                    last.index <= end.index,
                    "I9: node {} acknowledges {last} of group {group} after its storage failed at {end}",
                    node.index + 1
                );
            }
        }
    }

    /// The shard says that its storage failed.
    pub fn storage_failed(&mut self, n: usize, p: &mut Process) {
        let life = p.life;
        if self.failed.get(&n).is_some_and(|(known, _)| *known == life) {
            return;
        }
        let engine = p.shard.engine();
        let groups = engine.group_ids();
        let end = |g: &GroupId| {
            let core = engine.core(*g)?;
            Some((*g, LogId { epoch: core.epoch(), index: core.durable() }))
        };
        let ends = groups.iter().filter_map(end).collect();
        self.failed.insert(n, (life, ends));
    }

    /// A process ends: where its logs ended.
    pub fn ended(&mut self, n: usize, p: &mut Process) -> BTreeMap<GroupId, LogId> {
        self.aside_in_time(n);
        let engine = p.shard.engine();
        engine.group_ids().into_iter().filter_map(|g| Some((g, engine.core(g)?.last()))).collect()
    }

    /// A process starts with what recovery found: everything it promised must be there.
    pub fn recovered(&mut self, node: &Node, opened: &Opened, marks: &mut Marks) {
        self.seals_kept(node, opened, marks);
        for group in &opened.groups {
            if group.needs_repair.is_some() {
                let has_left = node.was_damaged && self.has_left(group.group, group.replica);
                assert!(
                    node.damaged || has_left,
                    "node {} finds damage in group {} of a sound disk",
                    node.index + 1,
                    group.group
                );
                marks.hit("corruption held out");
                continue;
            }
            if node.ends.get(&group.group).is_some_and(|end| *end != group.last) {
                marks.hit("torn tail cut at recovery");
            }
            let Some(told) = self.told.get(&(group.group, group.replica)) else { continue };
            if node.damaged {
                continue;
            }
            assert!(
                group.hard_state.epoch >= told.epoch || group.last.epoch >= told.epoch,
                "I6: node {} spoke in {} of group {} and recovers {}",
                node.index + 1,
                told.epoch,
                group.group,
                group.hard_state.epoch
            );
            let (said_in, last) = told.accepted;
            let kept = last.index <= group.log_start.prev.index
                || (last.index <= group.last.index
                    && epoch_at(&group.epochs, last.index) == Some(last.epoch));
            assert!(
                kept || group.hard_state.epoch > said_in,
                "I1: node {} acknowledged {last} of group {} and recovers up to {}",
                node.index + 1,
                group.group,
                group.last
            );
        }
        if node.damaged || node.life == 1 {
            return;
        }
        let found: BTreeSet<GroupId> = opened.groups.iter().map(|g| g.group).collect();
        for ((group, replica), told) in &self.told {
            let mine = replica.node == NodeId(node.index as i32 + 1) && replica.directory == opened.directory;
            let gone = mine && told.accepted.1.index > Index(0) && !found.contains(group);
            assert!(
                !gone || self.is_deleted(*group) || self.has_moved(*group, *replica),
                "I13: node {} held group {group} and recovers without it",
                node.index + 1
            );
        }
    }
}

fn epoch_at(epochs: &[(Epoch, Index)], index: Index) -> Option<Epoch> {
    epochs.iter().rev().find(|(_, first)| *first <= index).map(|(epoch, _)| *epoch)
}
