//! How far tombstones may go (decisions/0022): up to where every copy of the partition is clean, and which copy has to become cleaner because
//! another one needs what it has.
//!
//! Followers tell their leaders how clean they are whenever that has changed, or the leader has, and are answered with the least of all
//! members; before a pass they ask again. Not here: what a pass leaves out (`compaction`), when one is due (`cleaning`), what may be put
//! together (`segment::tombstones`): safety does not hang on any of this. Invariants:
//! - who has said nothing in this epoch, since its process started, is not clean at all;
//! - an answer counts in its generation.

use super::rpc::{Answer, Ask};
use super::{Now, Shard};
use crate::raftlog::core::{Millis, Role};
use crate::segment::{Epoch, GroupId, NodeId, Offset, ReplicaId};
use std::collections::BTreeMap;

/// Groups in one message.
const BATCH: usize = 1_000;
/// Before a pass the leader's word may be this old, and is waited for this long.
const FRESH_MS: Millis = 10_000;
const WAIT_MS: Millis = 2_000;

/// What leaders and followers know of each other.
#[derive(Default)]
pub(super) struct Floors {
    next: Millis,
    /// Of groups led here.
    words: BTreeMap<GroupId, Words>,
    /// Of groups followed here.
    told: BTreeMap<GroupId, Told>,
}

/// What followers said.
struct Words {
    epoch: Epoch,
    /// To where each is clean, with the registration of its process.
    said: BTreeMap<ReplicaId, (u64, Offset)>,
}

/// What a follower said last.
struct Told {
    epoch: Epoch,
    clean: Offset,
    asked: Millis,
    /// The answer and when it came.
    floor: Option<(Millis, Offset)>,
}

/// A replica says to the leader of this epoch to where it is clean.
pub(super) type Word = (GroupId, ReplicaId, Epoch, Offset);

impl Shard {
    /// Up to where every replica of a group is clean, as far as this one knows. 0: nobody has said.
    pub(super) fn floor_of(&self, group: GroupId) -> Offset {
        let Some(core) = self.engine.core(group) else { return Offset(0) };
        let (epoch, own) = (core.epoch(), core.replica());
        if core.role() != Role::Leader {
            let told = self.floors.told.get(&group).filter(|told| told.epoch.generation == epoch.generation);
            return told.and_then(|told| told.floor).map_or(Offset(0), |(_, floor)| floor);
        }
        let words = self.floors.words.get(&group).filter(|words| words.epoch == epoch);
        let clean = |replica: ReplicaId| {
            if replica == own {
                return self.clean_of(group);
            }
            let Some((incarnation, clean)) = words.and_then(|words| words.said.get(&replica)) else {
                return Offset(0);
            };
            let is_alive =
                self.image.brokers.get(&replica.node).is_some_and(|b| b.incarnation == *incarnation);
            if is_alive { *clean } else { Offset(0) }
        };
        core.configuration().0.members().map(clean).min().unwrap_or(Offset(0))
    }

    /// Another replica cannot be repaired before this one is clean up to here: a pass is due whatever the dirty ratio.
    pub(super) fn want_clean(&mut self, group: GroupId, until: Offset) {
        // What is missing may lie behind the end of every log: more than all of it cannot be clean.
        let end = self.engine.store_ref().last(group).map_or(Offset(0), |(_, end)| end);
        self.cleaning.want(group, until.min(end));
    }

    /// Whether a pass of the group should wait a moment: its leader is asked how clean the others are.
    pub(super) fn asks_for_floor(&mut self, now: Now, group: GroupId) -> bool {
        let Some((leader, word)) = self.word_of(group) else { return false };
        let told = self.floors.told.get(&group).filter(|told| (told.epoch, told.clean) == (word.2, word.3));
        let is_fresh =
            |told: &Told| told.floor.is_some_and(|(at, _)| now.mono < at + FRESH_MS && at >= told.asked);
        let is_out = |told: &Told| now.mono < told.asked + FRESH_MS;
        match told {
            Some(told) if is_fresh(told) => false,
            // Not answered in time: the pass goes by what was known before.
            Some(told) if is_out(told) => now.mono < told.asked + WAIT_MS,
            _ => {
                self.send_words(now, leader, vec![word]);
                true
            }
        }
    }

    /// Tells leaders what has changed.
    pub(super) fn tell_floors(&mut self, now: Now) {
        if now.mono < self.floors.next {
            return;
        }
        self.floors.next = now.mono + self.cleaning.backoff();
        let partitions = &self.partitions;
        self.floors.told.retain(|group, _| partitions.contains_key(group));
        self.floors.words.retain(|group, _| partitions.get(group).is_some_and(|p| p.role == Role::Leader));
        let mut compacted: Vec<GroupId> =
            partitions.values().filter(|p| p.config.compacts).map(|p| p.group).collect();
        compacted.sort_unstable();
        let mut words: BTreeMap<NodeId, Vec<Word>> = BTreeMap::new();
        for (leader, word) in compacted.into_iter().filter_map(|group| self.word_of(group)) {
            let is_known = |told: &Told| (told.epoch, told.clean) == (word.2, word.3) && told.floor.is_some();
            if !self.floors.told.get(&word.0).is_some_and(is_known) {
                words.entry(leader).or_default().push(word);
            }
        }
        for (leader, mut words) in words {
            while !words.is_empty() {
                let batch = words.split_off(words.len().saturating_sub(BATCH));
                self.send_words(now, leader, batch);
            }
        }
    }

    /// What this replica has to say, and to whom; none if it leads, or nobody does.
    fn word_of(&self, group: GroupId) -> Option<(NodeId, Word)> {
        let core = self.engine.core(group)?;
        let leader = core.leader().filter(|leader| *leader != core.replica())?;
        Some((leader.node, (group, core.replica(), core.epoch(), self.clean_of(group))))
    }

    fn send_words(&mut self, now: Now, leader: NodeId, words: Vec<Word>) {
        let Some(incarnation) = self.registered_as() else { return };
        for (group, _, epoch, clean) in &words {
            let (told, asked) = (&mut self.floors.told, now.mono);
            // An answer of before counts until there is another, as long as the generation is the same.
            let before = told.get(group).filter(|told| told.epoch.generation == epoch.generation);
            let floor = before.and_then(|told| told.floor);
            told.insert(*group, Told { epoch: *epoch, clean: *clean, asked, floor });
        }
        let rpc = self.next_id();
        self.send_rpc(now, leader, rpc, &Ask::Clean { incarnation, words });
    }

    /// As leader: replicas of a node say how clean they are.
    pub(super) fn on_words(&mut self, now: Now, from: NodeId, rpc: u64, incarnation: u64, words: Vec<Word>) {
        let mut floors = Vec::new();
        for (group, replica, epoch, clean) in words.into_iter().take(BATCH) {
            let leads = |core: &crate::raftlog::core::Core| {
                core.role() == Role::Leader
                    && core.epoch() == epoch
                    && core.configuration().0.is_member(replica)
            };
            if replica.node != from || !self.engine.core(group).is_some_and(leads) {
                continue;
            }
            let fresh = || Words { epoch, said: BTreeMap::new() };
            let known = self.floors.words.entry(group).or_insert_with(fresh);
            if known.epoch != epoch {
                *known = fresh();
            }
            known.said.insert(replica, (incarnation, clean));
            floors.push((group, epoch, self.floor_of(group)));
        }
        self.answer_rpc(now, from, rpc, &Answer::Clean { floors });
    }

    /// As follower: the least of all members.
    pub(super) fn on_floors(&mut self, now: Now, from: NodeId, floors: Vec<(GroupId, Epoch, Offset)>) {
        for (group, epoch, floor) in floors {
            let is_leader =
                self.partitions.get(&group).is_some_and(|p| p.leader.is_some_and(|l| l.node == from));
            let told = self.floors.told.get_mut(&group).filter(|told| told.epoch == epoch && is_leader);
            if let Some(told) = told {
                told.floor = Some((now.mono, floor));
            }
        }
    }

    fn clean_of(&self, group: GroupId) -> Offset {
        self.engine.store_ref().cleaned(group).map_or(Offset(0), |cleaned| cleaned.clean)
    }
}
