//! Rare events that a long run must meet ("sometimes" marks): a fault that never led anywhere has tested nothing.

use std::collections::BTreeMap;

/// How often each was met.
#[derive(Clone, Debug, Default)]
pub struct Marks(pub BTreeMap<&'static str, u64>);

/// Every mark a long run must hit.
pub const ALL: &[&str] = &[
    "append refused, log backed up",
    "connection timed out",
    "controller leader changed",
    "corruption held out",
    "damaged directory refused",
    "damaged frame closed its connection",
    "datagram doubled",
    "datagram lost",
    "duplicate answered with its first offset",
    "election lost",
    "frame of a connection that is gone",
    "group went on in a new generation",
    "group went on with fewer voters",
    "group took a voter back",
    "leader deposed",
    "leader stepped down by itself",
    "leadership handed over",
    "leadership transfer campaigned",
    "log start installed",
    "log start moved",
    "orderly stop finished",
    "partition leader changed",
    "power cut during recovery",
    "power cut inside a round",
    "power cut inside idle work",
    "pre-vote given up",
    "pre-vote refused",
    "produce refused by a full disk",
    "reader fell behind the log start",
    "replica stood down",
    "restart in the same boot after failed storage",
    "stale epoch told",
    "storage failed",
    "storage failed on a leader",
    "too few replicas in sync",
    "topic deleted",
    "torn tail cut at recovery",
    "uncommitted tail truncated",
    "vote refused",
    "wiped node registered again",
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
