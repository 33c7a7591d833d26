//! Rare events that a long run must meet ("sometimes" marks): a fault that never led anywhere has tested nothing.

use std::collections::BTreeMap;

/// How often each was met.
#[derive(Clone, Debug, Default)]
pub struct Marks(pub BTreeMap<&'static str, u64>);

/// Every mark a long run must hit.
pub const ALL: &[&str] = &[
    "append refused, log backed up",
    "change refused: a former id",
    "change refused: an earlier one is not finished",
    "change refused: another configuration is in force",
    "change refused: no group can have such members",
    "change refused: not caught up",
    "commit index taken back by an unclean generation",
    "connection timed out",
    "controller leader changed",
    "controller log began at a snapshot",
    "controller snapshot left half written",
    "controller snapshot written",
    "corruption held out",
    "damaged directory refused",
    "damaged frame closed its connection",
    "damaged node whole again",
    "datagram doubled",
    "datagram lost",
    "duplicate answered with its first offset",
    "election lost",
    "entries of an earlier generation set aside",
    "frame of a connection that is gone",
    "generation change after a voter's disk was lost",
    "generation decided that may lose something",
    "generation decided without loss",
    "generation learnt",
    "generation sealed",
    "group of one grown to three at once",
    "group shrunk to one",
    "joint configuration finished by another leader",
    "joint configuration in force",
    "group went on in a new generation",
    "group went on with fewer voters",
    "group took a voter back",
    "leader deposed",
    "leader stepped down by itself",
    "leadership handed over",
    "leadership transfer campaigned",
    "learner promoted",
    "log start installed",
    "log start installed over an uncommitted tail",
    "log start moved",
    "members of several groups changed at once",
    "move cancelled",
    "move while a voter was dead",
    "moved replica deleted",
    "moved replica back under another id",
    "old decision changed nothing",
    "orderly stop finished",
    "partition leader changed",
    "partition moved",
    "power cut during recovery",
    "power cut inside a round",
    "power cut inside idle work",
    "pre-vote given up",
    "pre-vote refused",
    "produce refused by a full disk",
    "reader fell behind the log start",
    "repair began",
    "repair ended",
    "replica stood down",
    "replica told that it is no member",
    "restart in the same boot after failed storage",
    "seal survived a restart",
    "sealed with a joint configuration",
    "stale epoch told",
    "storage failed",
    "storage failed on a leader",
    "survivor killed between decision and take-over",
    "survivor took over",
    "too few replicas in sync",
    "topic deleted",
    "torn tail cut at recovery",
    "unclean generation lost acknowledged records",
    "unclean generation lost committed entries",
    "uncommitted joint change rolled back",
    "uncommitted tail truncated",
    "vote refused",
    "voter removed",
    "voter replaced in one change",
    "wiped node registered again",
    "wiped replica replaced",
];

impl Marks {
    pub fn hit(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Those that were not met.
    pub fn missing(&self) -> Vec<&'static str> {
        ALL.iter().filter(|name| !self.0.contains_key(*name)).copied().collect()
    }
}
