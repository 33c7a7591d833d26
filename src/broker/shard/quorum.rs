//! DescribeQuorum: what the leader of a group knows of its replicas (KIP-595, KIP-642).
//!
//! Kafka has the question for its controllers only. Here every partition is a Raft group, so it can be asked of every
//! leader. The controllers' group is asked about at any broker, which passes the question on.
//! Nothing is confirmed by a round: this is what a leader believes, for people and tools, not for decisions.

use super::rpc::{Answer, Ask};
use super::{CONTROLLER, Now, Shard, leader_epoch};
use crate::broker::api::{PartitionError, Quorum, QuorumReplica};
use crate::raftlog::core::{PeerProgress, Role};
use crate::raftlog::heir;
use crate::segment::{GroupId, Index, NodeId};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

type Reply = oneshot::Sender<Result<Quorum, PartitionError>>;

/// Questions about the controllers' group that were passed on.
#[derive(Default)]
pub struct Quorums(BTreeMap<u64, Reply>);

impl Shard {
    pub(super) fn on_describe_quorum(&mut self, now: Now, group: GroupId, reply: Reply) {
        let leader = match group {
            CONTROLLER => self.controller_leader().filter(|node| *node != self.node()),
            _ => None,
        };
        let answer = match leader {
            Some(leader) if self.engine.is_connected(leader) => {
                self.quorums.0.retain(|_, reply| !reply.is_closed());
                let rpc = self.next_id();
                self.quorums.0.insert(rpc, reply);
                return self.send_rpc(now, leader, rpc, &Ask::Quorum);
            }
            Some(_) => Err(PartitionError::NotLeader { leader: None }),
            None => self.describe_quorum(now, group),
        };
        let _gone_client = reply.send(answer);
    }

    /// Another node asks about the controllers' group.
    pub(super) fn answer_quorum(&mut self, now: Now, from: NodeId, rpc: u64) {
        let quorum = self.describe_quorum(now, CONTROLLER).ok();
        self.answer_rpc(now, from, rpc, &Answer::Quorum { quorum });
    }

    pub(super) fn on_quorum(&mut self, rpc: u64, quorum: Option<Quorum>) {
        if let Some(reply) = self.quorums.0.remove(&rpc) {
            let _gone_client = reply.send(quorum.ok_or(PartitionError::NotLeader { leader: None }));
        }
    }

    fn describe_quorum(&mut self, now: Now, group: GroupId) -> Result<Quorum, PartitionError> {
        if group != CONTROLLER {
            self.check_leader(group)?;
        }
        let core = self.engine.core(group).filter(|core| core.role() == Role::Leader);
        let core = core.ok_or(PartitionError::NotLeader { leader: None })?;
        let (own, epoch, last, commit) = (core.replica(), core.epoch(), core.last().index, core.commit());
        let (configuration, id) = core.configuration();
        let (configuration, peers) = (configuration.clone(), core.progress());
        let is_controllers = group == CONTROLLER;
        let absent = if is_controllers { self.absent_controllers(now, core, &peers) } else { Vec::new() };
        // Monotonic times as the wall clock has them; 0 is never.
        let wall = |ms: u64| if ms == 0 { -1 } else { now.wall_ms - now.mono.saturating_sub(ms) as i64 };
        let mut quorum = Quorum {
            leader: own.node,
            epoch: leader_epoch(epoch),
            generation: epoch.generation.0,
            is_joint: configuration.is_joint() || (is_controllers && id.index > commit),
            high_watermark: self.offset_after(group, commit, last),
            heir: heir::of(&configuration.voters).filter(|_| is_controllers).map(|heir| heir.node),
            absent,
            voters: Vec::new(),
            learners: Vec::new(),
        };
        let own = PeerProgress {
            replica: own,
            matched: last,
            heard_ms: now.mono,
            caught_up_ms: now.mono,
            voter: configuration.is_voter(own),
            is_caught_up: true,
            counts: true,
        };
        // Brokers follow the controllers' log without being members: Kafka's observers.
        let is_shown = |peer: &PeerProgress| {
            peer.voter || group == CONTROLLER || configuration.learners.contains(&peer.replica)
        };
        for peer in std::iter::once(own).chain(peers.into_iter().filter(is_shown)) {
            let row = QuorumReplica {
                node: peer.replica.node,
                end: self.offset_after(group, peer.matched, last),
                heard_ms: wall(peer.heard_ms),
                caught_up_ms: wall(peer.caught_up_ms),
            };
            if peer.voter { quorum.voters.push(row) } else { quorum.learners.push(row) }
        }
        quorum.voters.sort_unstable_by_key(|row| row.node);
        quorum.learners.sort_unstable_by_key(|row| row.node);
        Ok(quorum)
    }

    /// The offset of the first record after this entry; -1 if it cannot be known. The controllers' log counts entries.
    fn offset_after(&mut self, group: GroupId, index: Index, last: Index) -> i64 {
        if group == CONTROLLER {
            return index.0 as i64 + 1;
        }
        let store = self.engine.store();
        let found = match store.log_start(group) {
            Ok(start) if index < start.prev.index => return -1,
            Ok(start) if index == start.prev.index => Ok(start.base_offset),
            Ok(_) if index >= last => store.last(group).map(|(_, offset)| offset),
            Ok(_) => store.meta_at(group, index).map(|meta| meta.next_offset()),
            Err(error) => Err(error),
        };
        found.map_or(-1, |offset| offset.0)
    }
}
