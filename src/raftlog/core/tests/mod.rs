//! Tests of the core: golden scripts, a seeded cluster simulation, and properties against naive models.
//! `harness` is the miniature engine, disk and network under the first two; nothing outside the tests uses it.

mod doubt;
mod harness;
mod properties;
mod scripts;
mod simulation;
