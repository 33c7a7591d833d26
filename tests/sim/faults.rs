//! The nemesis: what goes wrong, when, and how it is taken back. It keeps within what the product promises to survive: damage of
//! disks on one node of a run, everything else anywhere and at any time.

use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;
use std::collections::BTreeMap;

/// The nemesis.
pub struct Faults {
    pub rng: Rng,
    pub is_on: bool,
    /// Faults injected, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub fn new(_plan: &Plan, rng: Rng) -> Self {
        Self { rng, is_on: false, counts: BTreeMap::new() }
    }
}

impl World {
    pub fn begin_faults(&mut self) {}

    pub fn heal(&mut self) {}

    pub fn on_nemesis(&mut self) {}

    pub fn on_undo(&mut self, _order: u64) {}

    pub fn probe_durability(&mut self, _group: kontiki::segment::GroupId, _offset: i64) {}
}
