//! Replicas here that can neither follow their leader nor be made whole, since that would bring back what is deleted (docs/decisions/0022): they
//! ask their leader to be placed anew, and it asks the controllers.
//!
//! Not here: why a replica cannot go on (`raftlog::core::fresh`, `raftlog::engine::repair`), what the controllers heed (`ctl::anew`), how the
//! old replica goes (`orders`, `leaving`). Called by the look at members. Invariants:
//! - who has asked takes, gives and mends nothing any more in this process: what its leader saw stays so;
//! - a leader asks for who has no vote in a committed configuration of its generation in which two others have one that are there, and makes
//!   no voter of it while that asks;
//! - nothing is remembered that a restart would miss: who cannot go on finds out again.

use super::control::Target;
use super::members::HEARD_MS;
use super::rpc::Ask;
use super::{Now, Shard};
use crate::ctl::anew::Forsaken;
use crate::ctl::command::Command as CtlCommand;
use crate::ctl::image::Partition as Placed;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Millis, PeerProgress, Role};
use crate::raftlog::message::Configuration;
use crate::segment::{Doubt, GroupId, NodeId, ReplicaId};
use std::collections::BTreeMap;

/// How often a replica asks, and for how long its leader heeds that.
const REPEAT_MS: Millis = 5_000;
const ASKED_MS: Millis = 60_000;
/// How long the controllers may take.
const ANSWER_MS: Millis = 3_000;
/// Replicas in one message.
const BATCH: usize = 1_000;

/// What is kept between looks.
#[derive(Default)]
pub(super) struct Anew {
    told: Millis,
    /// Replicas of groups led here that have asked, and until when that is heeded.
    asked: BTreeMap<(GroupId, ReplicaId), Millis>,
}

impl Anew {
    pub(super) fn has_asked(&self, now: Millis, group: GroupId, replica: ReplicaId) -> bool {
        self.asked.get(&(group, replica)).is_some_and(|until| *until > now)
    }
}

/// Replicas here that begin anew, as one look found them.
#[derive(Default)]
pub(super) struct Found {
    /// What each waits for.
    pub(super) waits: Vec<(GroupId, String)>,
    ready: BTreeMap<NodeId, Vec<(GroupId, ReplicaId)>>,
}

impl Shard {
    /// Why the replica of the group here cannot go on as it is.
    pub(super) fn begins_anew(&self, now: Now, group: GroupId) -> Option<String> {
        let core = self.engine.core(group)?;
        if core.is_forsaken() {
            return Some("it has asked to begin anew".into());
        }
        if let Some(apart) = core.apart() {
            return Some(format!(
                "its log ends at {}, and its leader may lack tombstones below {}",
                apart.from, apart.dropped
            ));
        }
        let refused = "no other replica is clean enough to replace what is damaged here";
        self.engine.is_refused(now.mono, group).then(|| refused.into())
    }

    /// One replica here that is not the leader, and whether it can go on.
    pub(super) fn look_at_anew(&self, now: Now, placed: &Placed, leader: Option<NodeId>, found: &mut Found) {
        let group = placed.group;
        let Some(why) = self.begins_anew(now, group) else { return };
        let own = self.engine.core(group).map(|core| core.replica());
        let waits = match (leader, own.filter(|own| placed.target().contains(own))) {
            // It has been, or it is to go anyhow.
            (_, None) => return,
            _ if placed.target().len() < 3 => {
                "too few others are left; move it to another broker, or add a replica"
            }
            (None, _) => "waits for a leader",
            (Some(leader), Some(own)) => {
                found.ready.entry(leader).or_default().push((group, own));
                "asks to be placed anew"
            }
        };
        found.waits.push((group, format!("{why}: {waits}")));
    }

    /// Asks the leaders, now and then.
    pub(super) fn tell_anew(&mut self, now: Now, found: Found) {
        self.status.anew = found.waits;
        self.members.anew.asked.retain(|_, until| *until > now.mono);
        let is_failed = self.drain.is_some() || self.status.storage_failure.is_some();
        if found.ready.is_empty() || is_failed || now.mono < self.members.anew.told + REPEAT_MS {
            return;
        }
        self.members.anew.told = now.mono;
        for (leader, mut replicas) in found.ready {
            replicas.iter().for_each(|(group, _)| self.engine.forsake(*group));
            while !replicas.is_empty() {
                let replicas = replicas.split_off(replicas.len().saturating_sub(BATCH));
                tracing::warn!(%leader, replicas = replicas.len(), "replicas here cannot go on and ask to be placed anew");
                let rpc = self.next_id();
                self.send_rpc(now, leader, rpc, &Ask::Anew { replicas });
            }
        }
    }

    /// Replicas of another node ask for it.
    pub(super) fn on_anew(&mut self, now: Now, from: NodeId, replicas: Vec<(GroupId, ReplicaId)>) {
        let mut forsaken = Vec::new();
        for (group, replica) in replicas.into_iter().take(BATCH) {
            let leads = self.partitions.get(&group).is_some_and(|p| p.role == Role::Leader);
            if leads && replica.node == from {
                self.members.anew.asked.insert((group, replica), now.mono + ASKED_MS);
                forsaken.extend(self.forsaken(now, group, replica));
            }
        }
        if !forsaken.is_empty() {
            let command = CtlCommand::Anew { replicas: forsaken };
            self.route(now, command, now.mono + ANSWER_MS, Target::Internal);
        }
    }

    /// What the controllers are told, if the group does without this replica.
    fn forsaken(&mut self, now: Now, group: GroupId, replica: ReplicaId) -> Option<Forsaken> {
        let peers = self.engine.progress(group);
        let core = self.engine.core(group)?;
        let (_, _, placed) = self.image.group(group)?;
        let (configuration, id) = core.configuration();
        let is_settled = core.is_established()
            && id.index <= core.commit()
            && core.epoch().generation.0 == placed.generation
            && placed.sealing.is_none();
        let is_served = self.partitions.get(&group).is_some_and(|p| p.out_of_service.is_none());
        let own = is_served && core.doubt() == Doubt::None;
        let is_there = |voter: ReplicaId| match voter == core.replica() {
            true => own,
            false => {
                let heard = |p: &&PeerProgress| {
                    p.replica == voter && p.counts && now.mono.saturating_sub(p.heard_ms) < HEARD_MS
                };
                peers.iter().any(|p| heard(&p)) && !self.is_unfit(now, group, voter.node)
            }
        };
        let is_placed = placed.replicas.contains(&replica);
        let is_due = is_settled && is_placed && does_without(configuration, replica, is_there);
        let (node, assignment, generation) = (replica.node, replica.assignment, placed.generation);
        is_due.then_some(Forsaken { group, node, assignment, generation, configuration: id })
    }
}

/// Whether a group with these members goes on as before, and stays two copies, when this replica begins with nothing.
fn does_without(
    configuration: &Configuration,
    replica: ReplicaId,
    is_there: impl Fn(ReplicaId) -> bool,
) -> bool {
    let others = configuration.voters.iter().filter(|voter| **voter != replica && is_there(**voter)).count();
    let has_vote = configuration.is_voter(replica) && !on(Mutation::PlaceVotersAnew);
    !configuration.is_joint() && !has_vote && others >= 2
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn replica(node: i32) -> ReplicaId {
        ReplicaId { node: NodeId(node), assignment: 1, directory: 9 }
    }

    #[test]
    pub(crate) fn replica_begins_anew_only_where_two_others_vote_that_are_there() {
        let of = |voters: &[i32], learners: &[i32]| Configuration {
            voters: voters.iter().copied().map(replica).collect(),
            learners: learners.iter().copied().map(replica).collect(),
            ..Configuration::default()
        };
        let may = |configuration: &Configuration, there: &[i32]| {
            does_without(configuration, replica(3), |voter| there.contains(&voter.node.0))
        };
        assert!(may(&of(&[1, 2], &[3]), &[1, 2]));
        assert!(may(&of(&[1, 2, 4], &[]), &[1, 2]), "it is no member");
        assert!(!may(&of(&[1, 2, 3], &[]), &[1, 2, 3]), "it was asked for while it votes");
        assert!(!may(&of(&[1, 2, 3, 4], &[]), &[1, 2, 4]), "it was asked for while it votes");
        assert!(!may(&of(&[1], &[3]), &[1]), "one copy is left");
        assert!(!may(&of(&[1, 2], &[3]), &[1]), "one copy is left");
        let joint = Configuration { old_voters: vec![replica(3)], ..of(&[1, 2], &[3]) };
        assert!(!may(&joint, &[1, 2, 3]), "it votes in the old half");
    }
}
