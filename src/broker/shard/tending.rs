//! What the controller leader does by itself about brokers that stay dead, are drained, or are decommissioned.
//!
//! Looked at once a second, decided like any request on the image of that moment, and written by the same records: so a new controller
//! leader goes on where the last one stopped, but for the time that the dead are waited for, which begins anew; and what decommissioned
//! brokers say, which they repeat. Not here: what is to be done (`ctl::{replace, drain, balance}`), who is dead (`ctl::liveness`).
//! Invariant: a broker that is there is unregistered only when it says itself that no replica is left on it. The log may say that before:
//! one that was let go may have been given its vote back, and stays until its group's own log says otherwise (`leaving`).

use super::rpc::Ask;
use super::{Now, Shard};
use crate::ctl::balance;
use crate::ctl::command::Command as CtlCommand;
use crate::ctl::drain;
use crate::ctl::image::Drain;
use crate::ctl::replace;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::segment::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

const LOOK_MS: Millis = 1_000;

/// What is kept between looks.
#[derive(Default)]
pub struct Tending {
    next: Millis,
    /// Since when this controller leader knows brokers for dead.
    dead: BTreeMap<NodeId, Millis>,
    /// Decommissioned brokers that said that they hold nothing any longer, by their registrations.
    emptied: BTreeMap<NodeId, u64>,
}

impl Shard {
    pub(super) fn tend_brokers(&mut self, now: Now) {
        if now.mono < self.control.tending.next {
            return;
        }
        self.control.tending.next = now.mono + LOOK_MS;
        self.replace_lost(now);
        self.unregister_left(now);
        self.pump(now);
        if self.image.live_brokers().any(|broker| self.image.drain(broker.node) != Drain::None) {
            self.drain_leaders(now);
        }
    }

    fn unregister_left(&mut self, now: Now) {
        let left = drain::left(&self.image);
        let emptied = &mut self.control.tending.emptied;
        emptied.retain(|node, incarnation| left.contains(&(*node, *incarnation)));
        for (node, incarnation) in left {
            let is_live = self.image.brokers.get(&node).is_some_and(|broker| !broker.fenced);
            let said = self.control.tending.emptied.contains_key(&node);
            if is_live && !said && !on(Mutation::UnregisterUnheard) {
                continue;
            }
            tracing::info!(%node, "decommissioned broker has no replicas left; it is unregistered");
            self.decide_internally(now, CtlCommand::Unregister { node, incarnation: Some(incarnation) });
        }
    }

    /// A broker says that it is decommissioned and holds nothing.
    pub(super) fn note_emptied(&mut self, node: NodeId, incarnation: u64) {
        self.control.tending.emptied.insert(node, incarnation);
    }

    /// Says so of this one, as long as it is registered: by the log nothing is here, and nothing is.
    pub(super) fn tell_emptied(&mut self, now: Now) {
        let (me, image) = (self.node(), &self.image);
        let Some(incarnation) = self.registered_as().filter(|_| image.drain(me) == Drain::Replicas) else {
            return;
        };
        // What nobody knows (any more) is nobody's voter.
        let is_known = |group: &GroupId| image.groups.contains_key(group);
        let is_here = self.engine.group_ids().iter().any(is_known) || self.orphans.keys().any(is_known);
        if is_here || !self.leaving.is_empty() || !drain::left(image).contains(&(me, incarnation)) {
            return;
        }
        match self.controller_to_ask() {
            Some(leader) if leader == me => self.note_emptied(me, incarnation),
            Some(leader) => {
                let rpc = self.next_id();
                self.send_rpc(now, leader, rpc, &Ask::Emptied { incarnation });
            }
            None => {}
        }
    }

    /// Brokers that stay dead, and those that are decommissioned: their replicas go elsewhere.
    fn replace_lost(&mut self, now: Now) {
        let brokers = self.image.brokers.values();
        let dead: BTreeSet<NodeId> = brokers.filter(|broker| broker.dead).map(|broker| broker.node).collect();
        let since = &mut self.control.tending.dead;
        since.retain(|node, _| dead.contains(node));
        for node in dead {
            since.entry(node).or_insert(now.mono);
        }
        let grace = self.config.node.replace_grace.map_or(Millis::MAX, |grace| grace.as_millis() as u64);
        let lost = since.iter().filter(|(_, since)| now.mono >= since.saturating_add(grace));
        let nodes: BTreeSet<NodeId> = lost.map(|(node, _)| *node).collect();
        let moves = replace::due(&self.image, &nodes);
        if !moves.is_empty() {
            let partitions = moves.len();
            tracing::warn!(dead = ?nodes, partitions, "replicas of dead or decommissioned brokers are made anew on others");
            self.decide_internally(now, CtlCommand::Replace { nodes });
        }
    }

    /// Leaderships leave drained brokers.
    fn drain_leaders(&mut self, now: Now) {
        let leaders: BTreeMap<GroupId, NodeId> =
            self.image.groups.keys().filter_map(|g| Some((*g, self.leader_of(*g)?.node))).collect();
        let in_sync = |group: GroupId| self.in_sync_of(group);
        for (group, from, to) in balance::plan_drained(&self.image, &leaders, &in_sync) {
            tracing::debug!(%group, %from, %to, "leadership leaves a drained broker");
            self.ask_to_hand_over(now, group, from, to);
        }
    }
}
