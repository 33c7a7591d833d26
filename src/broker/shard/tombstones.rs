//! How far tombstones may go (decisions/0022): up to where every copy of the partition is clean, and which copy has to become cleaner because
//! another one needs what it has.
//!
//! Not here: what a pass leaves out (`compaction`), when one is due (`cleaning`).

use super::Shard;
use crate::raftlog::core::Role;
use crate::segment::{GroupId, Offset};

impl Shard {
    /// Up to where every replica of a group is clean, as far as this one knows. 0: nobody has said.
    pub(super) fn floor_of(&self, group: GroupId) -> Offset {
        let alone = self.engine.core(group).filter(|core| {
            let members: Vec<_> = core.configuration().0.members().collect();
            core.role() == Role::Leader && members == [core.replica()]
        });
        let clean = || self.engine.store_ref().cleaned(group).map(|cleaned| cleaned.clean);
        alone.and_then(|_| clean().ok()).unwrap_or(Offset(0))
    }

    /// Another replica cannot be repaired before this one is clean up to here: a pass is due whatever the dirty ratio.
    #[cfg_attr(not(test), expect(dead_code, reason = "the peer protocol has no such question yet"))]
    pub(super) fn want_clean(&mut self, group: GroupId, until: Offset) {
        self.cleaning.want(group, until);
    }
}
