//! What groups take in memory, in bytes, so that no number of members, offsets or long names is without a bound.
//!
//! Counted: metadata and assignments of members, committed offsets, ids given out, appends under way; each with a fixed part for the tables that hold
//! it, rather too much than too little. Not here: the bound of a node, and its sum (`shard::groups`).
//! Called by `coordinator` and `group`. Invariant: what is counted as it changes is what a count from nothing gives (tests).

use super::group::{Group, Member};
use super::{Committed, Join, Offset, OffsetKey};
use std::collections::BTreeMap;
use std::ops::Deref;

/// Most bytes of one group's members.
const GROUP_BYTES: usize = 64 << 20;
/// Most bytes of appends under way in one coordinator.
pub(super) const PENDING_BYTES: usize = 64 << 20;
/// A group, beside its name, which stands there three times.
const GROUP_BASE: usize = 512;
/// A member, beside its texts and bytes.
const MEMBER_BASE: usize = 384;
/// A protocol of a member, beside its name and metadata.
const PROTOCOL_BASE: usize = 64;
/// A committed offset, beside the topic and the metadata.
const OFFSET_BASE: usize = 192;
/// An id given to a member that did not come back yet, beside itself.
const PROMISE_BASE: usize = 64;
/// A record of an append under way, beside its bytes, which its action holds a second time.
pub(super) const RECORD_BASE: usize = 256;

/// Committed offsets, and what they take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    by_key: BTreeMap<OffsetKey, Committed>,
    bytes: usize,
}

impl Deref for Offsets {
    type Target = BTreeMap<OffsetKey, Committed>;

    fn deref(&self) -> &Self::Target {
        &self.by_key
    }
}

impl Offsets {
    pub(super) fn insert(&mut self, key: OffsetKey, committed: Committed) {
        self.bytes += of_offset(&key, &committed.metadata);
        let topic = key.0.len();
        if let Some(old) = self.by_key.insert(key, committed) {
            self.bytes -= OFFSET_BASE + topic + old.metadata.len();
        }
    }

    pub(super) fn remove(&mut self, key: &OffsetKey) {
        if let Some(old) = self.by_key.remove(key) {
            self.bytes -= of_offset(key, &old.metadata);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn of_offset(key: &OffsetKey, metadata: &str) -> usize {
    OFFSET_BASE + key.0.len() + metadata.len()
}

fn of_member(id: &str, m: &Member) -> usize {
    let protocols: usize = m.protocols.iter().map(|(name, bytes)| of_protocol(name, bytes)).sum();
    let texts = m.client_id.len() + m.client_host.len() + 2 * m.instance.as_ref().map_or(0, String::len);
    MEMBER_BASE + 2 * id.len() + texts + protocols + m.assignment.len()
}

fn of_protocol(name: &str, metadata: &[u8]) -> usize {
    PROTOCOL_BASE + name.len() + metadata.len()
}

fn of_join(join: &Join) -> usize {
    let id = join.member.len().max(join.fresh_id.len());
    let texts =
        join.client_id.len() + join.client_host.len() + 2 * join.instance.as_ref().map_or(0, String::len);
    let protocols: usize = join.protocols.iter().map(|(name, bytes)| of_protocol(name, bytes)).sum();
    MEMBER_BASE + 2 * id + texts + protocols
}

impl Group {
    /// All of it but its offsets, counted anew.
    pub(super) fn weigh_members(&self) -> usize {
        let members: usize = self.members.iter().map(|(id, member)| of_member(id, member)).sum();
        let promised: usize = self.promised.keys().map(|id| PROMISE_BASE + id.len()).sum();
        GROUP_BASE + 3 * self.name.len() + members + promised
    }

    /// Whether there is no room for somebody who joins. A member that is there already may always join again: its assignor notes what it has.
    pub(super) fn is_full_for(&self, join: &Join, room: usize) -> bool {
        let instance = join.instance.as_ref().and_then(|instance| self.instances.get(instance));
        let known = instance.or(Some(&join.member)).and_then(|id| self.members.get_key_value(id));
        let growth = of_join(join).saturating_sub(known.map_or(0, |(id, member)| of_member(id, member)));
        (known.is_none() && growth > room) || (growth > 0 && self.members_bytes + growth > GROUP_BYTES)
    }

    /// What these offsets would take that the group has not committed before.
    pub(super) fn growth(&self, offsets: &[(OffsetKey, Offset)]) -> usize {
        let new = offsets.iter().filter(|(key, _)| !self.offsets.contains_key(key));
        new.map(|(key, offset)| of_offset(key, &offset.metadata)).sum()
    }
}
