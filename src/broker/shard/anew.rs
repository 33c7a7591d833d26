//! Replicas here that can neither follow their leader nor be made whole, since that would bring back what is deleted (docs/decisions/0022): they
//! ask their leader to be placed anew, and it asks the controllers.
//!
//! Not here: why a replica cannot go on (`raftlog::core::fresh`, `raftlog::engine::repair`), what the controllers heed (`ctl::anew`), how the
//! old replica goes (`orders`, `leaving`). Called by the look at members. Invariants:
//! - in two steps: the leader grants it, and from then on makes no voter of that replica; this takes, gives and mends nothing any more, and
//!   says so; then the leader asks the controllers. What it saw stays so;
//! - granted is it to who has no vote in a committed configuration of the leader's generation. One that stands apart is on its way, and one
//!   sound leader is enough; of one whose copy is whole but for what is damaged two others have to vote that are there;
//! - nothing is remembered that a restart would miss: who cannot go on finds out again.

use super::control::Target;
use super::members::HEARD_MS;
use super::rpc::{Answer, Ask};
use super::{Now, Shard};
use crate::ctl::anew::{Forsaken, LEFT};
use crate::ctl::command::Command as CtlCommand;
use crate::ctl::image::Partition as Placed;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Core, Millis, PeerProgress, Role};
use crate::raftlog::message::Configuration;
use crate::segment::{Doubt, GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
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
    /// Replicas of groups led here to which it was granted, and until when that is heeded.
    granted: BTreeMap<(GroupId, ReplicaId), Millis>,
    /// Replicas here to which their leaders have granted it, and until when that is heeded.
    forsaken: BTreeMap<GroupId, Millis>,
}

impl Anew {
    pub(super) fn was_granted(&self, now: Millis, group: GroupId, replica: ReplicaId) -> bool {
        self.granted.get(&(group, replica)).is_some_and(|until| *until > now)
    }
}

/// A replica asks to be placed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plea {
    group: GroupId,
    replica: ReplicaId,
    /// Its copy is whole but for what is damaged.
    is_whole: bool,
    /// It was granted, and takes nothing any more.
    is_forsaken: bool,
}

/// Replicas here that begin anew, as one look found them.
#[derive(Default)]
pub(super) struct Found {
    /// What each waits for.
    pub(super) waits: Vec<(GroupId, String)>,
    ready: BTreeMap<NodeId, Vec<Plea>>,
}

impl Shard {
    /// Why the replica of the group here cannot go on as it is.
    pub(super) fn begins_anew(&self, now: Now, group: GroupId) -> Option<String> {
        let core = self.engine.core(group)?;
        if core.is_forsaken() {
            return Some("the controllers are asked to place it anew".into());
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
        let Some(core) = self.engine.core(group) else { return };
        let (replica, is_forsaken) = (core.replica(), core.is_forsaken());
        let is_whole = self.engine.is_refused(now.mono, group);
        if !placed.target().contains(&replica) {
            // It has been, or it is to go anyhow.
            return;
        }
        let waits = match leader {
            _ if !placed.can_spare_one(is_whole) => {
                "too few others are left; add a replica, or move it to another broker"
            }
            None => "waits for a leader",
            Some(leader) => {
                found.ready.entry(leader).or_default().push(Plea { group, replica, is_whole, is_forsaken });
                "asks to be placed anew"
            }
        };
        found.waits.push((group, format!("{why}: {waits}")));
    }

    /// Asks the leaders, now and then.
    pub(super) fn tell_anew(&mut self, now: Now, found: Found) {
        self.status.anew = found.waits;
        let expired = |(group, until): (&GroupId, &Millis)| (*until <= now.mono).then_some(*group);
        for group in self.members.anew.forsaken.iter().filter_map(expired).collect::<Vec<_>>() {
            self.members.anew.forsaken.remove(&group);
            self.engine.forsake(group, false);
        }
        self.members.anew.granted.retain(|_, until| *until > now.mono);
        let is_failed = self.drain.is_some() || self.status.storage_failure.is_some();
        if found.ready.is_empty() || is_failed || now.mono < self.members.anew.told + REPEAT_MS {
            return;
        }
        let Some(incarnation) = self.registered_as() else { return };
        self.members.anew.told = now.mono;
        for (leader, mut pleas) in found.ready {
            while !pleas.is_empty() {
                let pleas = pleas.split_off(pleas.len().saturating_sub(BATCH));
                tracing::warn!(%leader, replicas = pleas.len(), "replicas here cannot go on and ask to be placed anew");
                let rpc = self.next_id();
                self.send_rpc(now, leader, rpc, &Ask::Anew { incarnation, pleas });
            }
        }
    }

    /// Replicas of another node ask for it; answered with those to which it is granted.
    pub(super) fn on_pleas(
        &mut self,
        now: Now,
        (from, rpc): (NodeId, u64),
        incarnation: u64,
        pleas: Vec<Plea>,
    ) {
        let is_now = self.image.brokers.get(&from).is_some_and(|broker| broker.incarnation == incarnation);
        let (mut forsaken, mut granted) = (Vec::new(), Vec::new());
        for plea in pleas.into_iter().take(BATCH).filter(|_| is_now) {
            let leads = self.partitions.get(&plea.group).is_some_and(|p| p.role == Role::Leader);
            if leads
                && plea.replica.node == from
                && let Some(one) = self.forsaken(now, &plea)
            {
                let (group, replica) = (plea.group, plea.replica);
                self.members.anew.granted.insert((group, replica), now.mono + ASKED_MS);
                granted.push((group, replica));
                forsaken.extend(plea.is_forsaken.then_some(one));
            }
        }
        self.answer_rpc(now, from, rpc, &Answer::Granted { replicas: granted });
        if !forsaken.is_empty() {
            let command = CtlCommand::Anew { replicas: forsaken };
            self.route(now, command, now.mono + ANSWER_MS, Target::Internal);
        }
    }

    /// Leaders grant it to these: they say so themselves at once.
    pub(super) fn on_granted(&mut self, now: Now, from: NodeId, replicas: Vec<(GroupId, ReplicaId)>) {
        for (group, replica) in replicas {
            let is_leader = |core: &Core| core.leader().is_some_and(|leader| leader.node == from);
            let is_it = |core: &&Core| core.replica() == replica && is_leader(core);
            if self.engine.core(group).filter(is_it).is_some() && self.begins_anew(now, group).is_some() {
                let is_news = self.members.anew.forsaken.insert(group, now.mono + ASKED_MS).is_none();
                self.engine.forsake(group, true);
                if is_news {
                    self.members.anew.told = 0;
                }
            }
        }
    }

    /// What the controllers are told, if the group does without this replica.
    fn forsaken(&mut self, now: Now, plea: &Plea) -> Option<Forsaken> {
        let Plea { group, replica, is_whole, .. } = *plea;
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
                    p.replica == voter
                        && p.counts
                        && p.is_caught_up
                        && now.mono.saturating_sub(p.heard_ms) < HEARD_MS
                };
                peers.iter().any(|p| heard(&p)) && !self.is_unfit(now, group, voter.node)
            }
        };
        let is_placed = placed.replicas.contains(&replica);
        let is_due = is_settled && is_placed && does_without(configuration, replica, is_whole, is_there);
        let (node, assignment, generation) = (replica.node, replica.assignment, placed.generation);
        is_due.then_some(Forsaken { group, node, assignment, generation, configuration: id, is_whole })
    }
}

/// Whether a group with these members goes on as before, and stays two copies, when this replica begins with nothing.
fn does_without(
    configuration: &Configuration,
    replica: ReplicaId,
    is_whole: bool,
    is_there: impl Fn(ReplicaId) -> bool,
) -> bool {
    let others = configuration.voters.iter().filter(|voter| **voter != replica && is_there(**voter)).count();
    let has_vote = configuration.is_voter(replica) && !on(Mutation::PlaceVotersAnew);
    !configuration.is_joint() && !has_vote && others >= if is_whole { LEFT } else { 1 }
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
            does_without(configuration, replica(3), true, |voter| there.contains(&voter.node.0))
        };
        assert!(may(&of(&[1, 2], &[3]), &[1, 2]));
        assert!(may(&of(&[1, 2, 4], &[]), &[1, 2]), "it is no member");
        assert!(!may(&of(&[1, 2, 3], &[]), &[1, 2, 3]), "it was asked for while it votes");
        assert!(!may(&of(&[1, 2, 3, 4], &[]), &[1, 2, 4]), "it was asked for while it votes");
        assert!(!may(&of(&[1], &[3]), &[1]), "one copy is left");
        assert!(!may(&of(&[1, 2], &[3]), &[1]), "one copy is left");
        let one = of(&[1], &[3]);
        assert!(does_without(&one, replica(3), false, |_| true), "it is on its way");
        assert!(!does_without(&one, replica(3), false, |_| false), "nothing is left");
        assert!(
            !does_without(&of(&[1, 3], &[]), replica(3), false, |_| true),
            "it was asked for while it votes"
        );
        let joint = Configuration { old_voters: vec![replica(3)], ..of(&[1, 2], &[3]) };
        assert!(!may(&joint, &[1, 2, 3]), "it votes in the old half");
    }
}
