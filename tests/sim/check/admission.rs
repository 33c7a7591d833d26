//! F16: a replica votes and stands only in a process that is registered, and not after a stop longer than its session before it is
//! registered anew. The product's own gate is not asked; what counts is when a process started, stood still and got its number.

use super::{CONTROLLER, Check};
use crate::node::{Node, Process};
use crate::world::{MS, Time};
use kontiki::segment::{Epoch, GroupId};
use std::collections::BTreeMap;

/// Who may vote.
#[derive(Default)]
pub struct Admission {
    /// Since when a process stands still, by its own clock.
    stopped: BTreeMap<usize, (u64, u64)>,
    /// Life and registration in which a process was stopped for too long, and how far its replicas had come by then.
    lapsed: BTreeMap<usize, (u64, u64, BTreeMap<GroupId, Epoch>)>,
}

impl Check {
    /// The process stands still from now on.
    pub fn stopped(&mut self, node: &Node, time: Time) {
        self.admission.stopped.insert(node.index, (node.life, node.now(time).mono));
    }

    /// It goes on.
    pub fn resumed(&mut self, node: &mut Node, time: Time) {
        let now = node.now(time).mono;
        let Some((life, since)) = self.admission.stopped.remove(&node.index) else { return };
        let session = node.config.broker_session_timeout.as_micros() as u64 / MS;
        if life != node.life || now.saturating_sub(since) <= session {
            return;
        }
        let Some(p) = node.process.as_mut() else { return };
        let incarnation = p.shard.status().incarnation;
        let epochs = epochs(p);
        self.admission.lapsed.insert(node.index, (life, incarnation, epochs));
    }

    /// A replica on this node grants a vote in `epoch`, or asks for votes. One that was granted before a stop may leave after it.
    pub(super) fn admitted(&self, node: &Node, group: GroupId, epoch: Epoch) {
        let Some(p) = node.process.as_ref().filter(|_| group != CONTROLLER) else { return };
        let incarnation = p.shard.status().incarnation;
        let name = node.index + 1;
        assert!(incarnation > 0, "F16: node {name} votes in group {group} in {epoch} and is not registered");
        if let Some((life, lapsed, epochs)) = self.admission.lapsed.get(&node.index)
            && (*life, *lapsed) == (node.life, incarnation)
        {
            let before = epochs.get(&group).is_some_and(|known| epoch <= *known);
            assert!(
                before,
                "F16: node {name} votes in group {group} in {epoch} after a stop, and is not registered anew"
            );
        }
    }
}

fn epochs(p: &mut Process) -> BTreeMap<GroupId, Epoch> {
    let engine = p.shard.engine();
    let groups = engine.group_ids();
    groups.into_iter().filter_map(|g| Some((g, engine.core(g)?.epoch()))).collect()
}
