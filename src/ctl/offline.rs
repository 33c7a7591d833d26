//! What is kept for ever of a generation of the controllers' own group that an operator had opened over stopped nodes' directories
//! (decision 0018).
//!
//! Pure. Not here: who goes on and why (`raftlog::offline`), writing directories (`broker::offline`). Invariants:
//! - the record stands in the very generation that it tells of, right behind the entry that opens it;
//! - it never goes: snapshots carry it on.

use super::image::{INDEX_BITS, Image};
use crate::segment::{LogId, NodeId};
use serde::{Deserialize, Serialize};

/// One such recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerRecovery {
    /// Number of the plan that was approved.
    pub id: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// When, by the clock of the machine that did it.
    pub at_ms: i64,
    /// The generation that ended.
    pub from: u64,
    /// The one that began.
    pub generation: u64,
    /// Node of the copy that went on.
    pub survivor: NodeId,
    /// Where it ended. All of it counts.
    pub base: LogId,
    /// The copies that proved it: node and last entry of each.
    pub copies: Vec<(NodeId, LogId)>,
    /// Voters whose copies were not at hand.
    pub missing: Vec<NodeId>,
    /// Of those: heirs that, on the operator's word, never went on alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heirs_gone: Vec<NodeId>,
}

impl Image {
    pub(super) fn apply_controller_recovery(
        &mut self,
        number: u64,
        recovery: &ControllerRecovery,
    ) -> Result<(), String> {
        let generation = number >> INDEX_BITS;
        if recovery.generation != generation || recovery.from >= generation {
            return Err(format!(
                "recovery of the controllers from generation {} to {} stands in generation {generation}",
                recovery.from, recovery.generation
            ));
        }
        self.controller_recoveries.push(recovery.clone());
        Ok(())
    }
}
