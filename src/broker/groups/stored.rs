//! A group and its record: taken over while loading, written when it changes.
//!
//! Not here: the bytes (`records`), when it is written (`group`, `sessions`).
//! Invariant: what is written is what a coordinator that takes over is to go on from.

use super::group::{Group, Member, State};
use super::records::{self, Record, StoredGroup, StoredMember};
use crate::raftlog::core::Millis;
use bytes::Bytes;
use std::collections::BTreeMap;

impl Group {
    /// The log says that there is no such group, while loading.
    pub(super) fn forget(&mut self) {
        let offsets = std::mem::take(&mut self.offsets);
        *self = Self { offsets, ..Self::new(&self.name) };
    }

    /// Takes the group's record over, while loading.
    pub(super) fn adopt(&mut self, stored: StoredGroup) {
        self.forget();
        self.is_stored = true;
        (self.generation, self.settled) = (stored.generation, stored.generation);
        if stored.leader.is_none() && stored.members.iter().all(|member| member.assignment.is_empty()) {
            // Somebody came or went before this generation's assignment was stored: nobody has a share to commit for.
            self.settled = stored.generation.saturating_sub(1);
        }
        self.protocol_type = stored.protocol_type;
        self.leader = stored.leader;
        self.since_ms = stored.since_ms;
        self.state = if stored.members.is_empty() { State::Empty } else { State::Stable };
        let protocol = stored.protocol.clone().unwrap_or_default();
        self.protocol = stored.protocol;
        for m in stored.members {
            if let Some(instance) = &m.instance {
                self.instances.insert(instance.clone(), m.id.clone());
            }
            let member = Member {
                instance: m.instance,
                client_id: m.client_id,
                client_host: m.client_host,
                session_ms: m.session_ms.max(0) as u64,
                rebalance_ms: m.rebalance_ms.max(0) as u64,
                protocols: vec![(protocol.clone(), m.subscription)],
                assignment: m.assignment,
                expires: Millis::MAX,
                is_new: false,
                join: None,
                sync: None,
            };
            self.members.insert(m.id, member);
        }
    }

    /// The group's record, with the assignments given, else those in force.
    pub(super) fn records(&self, assignments: &BTreeMap<String, Bytes>) -> Vec<Record> {
        vec![self.record(&self.stored(assignments, self.protocol.as_deref()))]
    }

    /// Says who is there. Without a leader: a coordinator that takes over begins the rebalance that is under way here anew.
    pub(super) fn departure(&self, now_ms: i64) -> Vec<Record> {
        // Not the generation's own: a new member may not know it, and one that no member knows would let nobody join again.
        let protocol = self.choose_protocol();
        let mut stored = self.stored(&BTreeMap::new(), protocol.as_deref());
        // Those that were in no generation yet come again; static ones have names to be known by.
        stored.members.retain(|member| self.members.get(&member.id).is_some_and(|known| !known.is_new));
        stored.leader = None;
        if stored.members.is_empty() {
            (stored.protocol, stored.since_ms) = (None, now_ms);
        }
        vec![self.record(&stored)]
    }

    fn record(&self, stored: &StoredGroup) -> Record {
        Record { key: records::group_key(&self.name), value: Some(records::write_group(stored)) }
    }

    fn stored(&self, assignments: &BTreeMap<String, Bytes>, protocol: Option<&str>) -> StoredGroup {
        let millis = |ms: u64| i32::try_from(ms).unwrap_or(i32::MAX);
        let member = |(id, m): (&String, &Member)| StoredMember {
            id: id.clone(),
            instance: m.instance.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            rebalance_ms: millis(m.rebalance_ms),
            session_ms: millis(m.session_ms),
            subscription: m.metadata(protocol),
            assignment: assignments.get(id).unwrap_or(&m.assignment).clone(),
        };
        StoredGroup {
            protocol_type: self.protocol_type.clone(),
            generation: self.generation,
            protocol: protocol.map(str::to_owned),
            leader: self.leader.clone(),
            since_ms: self.since_ms,
            members: self.members.iter().map(member).collect(),
        }
    }
}
