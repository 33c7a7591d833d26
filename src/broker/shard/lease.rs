//! Leases for topics with `recovery.policy=auto`: asked for with the heartbeat, granted by the controllers' leader, and what changes on a
//! broker when its lease ends or is back (decision 0017).
//!
//! Every replica of such a topic, leader or follower, answers clients only while its broker's lease is valid: acknowledgements, fetches,
//! and whatever is confirmed by a round; and no leader calls anything committed without one. Not here: lengths, drift and who waits how long (`ctl::lease`), when a partition then goes on
//! without its majority (`ctl::auto`). Invariants:
//! - a lease is granted only after the question was heard and a quorum of the controllers has confirmed since that this leader leads;
//! - what it is worth is looked at between inputs, never in the middle of acting on the controller log: whoever is sealed by what was just
//!   applied knows before anything is answered under the new lease;
//! - topics with another policy ask nothing of it.

use super::control::NO_SESSION;
use super::rpc::Answer;
use super::{CONTROLLER, Now, Shard};
use crate::broker::api::PartitionError;
use crate::broker::partition::Partition;
use crate::ctl::image::Change;
use crate::ctl::lease::{self, Held, Lease};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Millis, Role};
use crate::segment::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Whom a lease is for.
#[derive(Clone, Copy)]
pub(super) enum Holder {
    /// This node's own broker, under this number.
    Local(u64),
    /// Another node, as the answer to this question.
    Node {
        /// Which.
        node: NodeId,
        /// Number of its question.
        rpc: u64,
    },
}

/// A lease that waits for the controllers' quorum to confirm their leader.
struct Confirming {
    holder: Holder,
    incarnation: u64,
    heard: Millis,
}

/// Both sides of it on this node.
#[derive(Default)]
pub struct Leases {
    pub(super) held: Held,
    /// There are topics for which it is needed.
    is_used: bool,
    was_valid: bool,
    /// Until when the groups here were told to commit.
    told: Millis,
    /// Groups in which an answer was held back.
    withheld: BTreeSet<GroupId>,
    /// As the controllers' leader: by the number of the round.
    confirming: BTreeMap<u64, Confirming>,
}

impl Leases {
    /// Something is due when the lease ends.
    pub(super) fn deadline(&self) -> Millis {
        if self.was_valid { self.held.until() } else { Millis::MAX }
    }

    /// Whether this broker asks for one.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// What was to be confirmed for others will not be.
    pub(super) fn lead_no_more(&mut self) {
        self.confirming.clear();
    }
}

impl Shard {
    /// Whether clients may be answered for this partition now, as far as leases go.
    pub(super) fn is_leased(&self, p: &Partition) -> bool {
        // A process that may not know the policy yet, since its image has not come to its registration, leads nothing and hears no leader
        // (safety.md F6, F16): none of its replicas answers anyhow, whatever the policy.
        !p.config.recovery_auto || self.leases.held.is_valid(self.ran)
    }

    /// Whether what waits in this group may be acknowledged now; if not, it is looked at again when the lease is back.
    pub(super) fn may_acknowledge(&mut self, group: GroupId) -> bool {
        if !self.leases.is_used {
            return true;
        }
        let is_leased = self.partitions.get(&group).is_none_or(|p| self.is_leased(p));
        if !is_leased && !on(Mutation::AcknowledgeWithoutLease) {
            self.leases.withheld.insert(group);
            return false;
        }
        true
    }

    /// Whether the partition may be read now.
    pub(super) fn check_lease(&self, p: &Partition) -> Result<(), PartitionError> {
        match self.is_leased(p) || on(Mutation::ServeWithoutLease) {
            true => Ok(()),
            // Clients look for another leader then, and there may be one.
            false => Err(PartitionError::NotLeader { leader: None }),
        }
    }

    /// Whether this leader may take anything for the partition now.
    pub(super) fn check_lease_to_write(&self, group: GroupId) -> Result<(), PartitionError> {
        let is_leased = self.partitions.get(&group).is_none_or(|p| self.is_leased(p));
        match is_leased || on(Mutation::AcknowledgeWithoutLease) {
            true => Ok(()),
            false => Err(PartitionError::NotLeader { leader: None }),
        }
    }

    /// Before an input or a tick: whatever was applied is acted on by now.
    pub(super) fn look_at_lease(&mut self, now: Now) {
        self.leases.held.advance(self.membership.applied());
        let until = self.leases.held.until();
        if until == self.leases.told {
            return;
        }
        self.leases.told = until;
        let auto = self.partitions.values().filter(|p| p.config.recovery_auto);
        let mut groups: Vec<GroupId> = auto.map(|p| p.group).collect();
        groups.sort_unstable();
        for group in groups {
            self.engine.set_commit_until(now.mono, group, until);
        }
        if self.leases.held.is_valid(now.mono) {
            for group in std::mem::take(&mut self.leases.withheld) {
                self.release_waiters(group);
            }
        }
    }

    /// How long this group's leader may commit, if it is here.
    pub(super) fn set_lease(&mut self, now: Now, group: GroupId) {
        let Some(p) = self.partitions.get(&group) else { return };
        let until = if p.config.recovery_auto { self.leases.told } else { Millis::MAX };
        self.engine.set_commit_until(now.mono, group, until);
    }

    /// Topics, or their policies, may have changed.
    pub(super) fn note_policies(&mut self, changes: &[Change]) {
        let concerns = |change: &Change| {
            let is_topic = matches!(change, Change::GroupAdded { .. } | Change::GroupRemoved { .. });
            is_topic || matches!(change, Change::TopicConfigChanged { .. })
        };
        if !changes.iter().any(concerns) {
            return;
        }
        let was_used = self.leases.is_used;
        self.leases.is_used = self.image.topics.values().any(|topic| topic.auto_since.is_some());
        if self.leases.is_used && !was_used {
            self.renew_now();
        }
    }

    /// The lease ended, or is back: acted on once.
    pub(super) fn tick_lease(&mut self, now: Now) {
        let is_valid = self.leases.held.is_valid(now.mono);
        let was_valid = std::mem::replace(&mut self.leases.was_valid, is_valid);
        self.status.leased = is_valid || !self.leases.is_used || !self.config.node.is_broker;
        if was_valid && !is_valid {
            self.on_lease_over(now);
        }
    }

    /// Whoever waits hears that this is no leader, and looks for another; leadership is handed to whoever takes it, since that one may have a
    /// lease. Asked once, or groups would be handed around while the controllers are away.
    pub(super) fn on_lease_over(&mut self, now: Now) {
        self.leases.withheld.clear();
        let auto = self.partitions.values().filter(|p| p.config.recovery_auto);
        let mut groups: Vec<(GroupId, bool)> = auto.map(|p| (p.group, p.role == Role::Leader)).collect();
        groups.sort_unstable();
        if groups.is_empty() {
            return;
        }
        tracing::warn!(
            partitions = groups.len(),
            "no lease from the controllers: partitions with recovery.policy=auto are not served from here"
        );
        if !on(Mutation::AcknowledgeWithoutLease) {
            self.take_back_acknowledgements(&groups.iter().map(|(group, _)| *group).collect());
        }
        for (group, leads) in groups {
            let Some(p) = self.partitions.get_mut(&group) else { continue };
            let waiting = std::mem::take(&mut p.fetch_waiters);
            if leads && !on(Mutation::AcknowledgeWithoutLease) {
                p.on_lease_over(now.mono, &mut self.done);
                self.engine.transfer(now.mono, group, None);
            }
            for id in waiting {
                self.retry_fetch(now, id, false);
            }
        }
        self.answer_produces();
    }

    /// As the controllers' leader: a broker that was just heard asks for a lease. False if it gets none.
    pub(super) fn confirm_lease(&mut self, now: Now, holder: Holder, incarnation: u64) -> bool {
        if incarnation == NO_SESSION || !self.control.grants_leases() || !self.leads_established() {
            return false;
        }
        let round = self.next_id();
        self.leases.confirming.insert(round, Confirming { holder, incarnation, heard: now.mono });
        if self.engine.read_index(now.mono, CONTROLLER, round) {
            return true;
        }
        self.leases.confirming.remove(&round);
        false
    }

    /// A quorum of the controllers has answered since the question was heard, or will not.
    pub(super) fn on_leader_confirmed(&mut self, now: Now, round: u64, ok: bool) {
        let Some(Confirming { holder, incarnation, heard }) = self.leases.confirming.remove(&round) else {
            return;
        };
        let node = match holder {
            Holder::Local(_) => self.node(),
            Holder::Node { node, .. } => node,
        };
        let is_registered = self.image.brokers.get(&node).is_some_and(|b| b.incarnation == incarnation);
        let last = self.engine.core(CONTROLLER).map(|core| core.last().index);
        let granted = last.filter(|_| ok && is_registered && self.leads_established()).map(|through| {
            let session = self.config.node.broker_session_timeout.as_millis() as u64;
            let lease = Lease { ms: lease::length(session), through, by: self.node(), incarnation };
            self.control.sealed.leases.grant(node, incarnation, heard, lease.ms);
            lease
        });
        match holder {
            Holder::Local(question) => {
                if let Some(lease) = granted {
                    self.leases.held.on_granted(question, lease, now.mono);
                }
            }
            Holder::Node { node, rpc } => {
                self.answer_rpc(now, node, rpc, &Answer::Session { known: true, lease: granted });
            }
        }
    }
}
