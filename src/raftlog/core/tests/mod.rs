//! Tests of the core: golden scripts, a seeded cluster simulation, and properties against naive models.
//! `harness` is the miniature engine, disk and network under the first two; nothing outside the tests uses it.

pub(crate) mod doubt;
mod harness;
mod properties;
pub(crate) mod scripts;
pub(crate) mod simulation;
