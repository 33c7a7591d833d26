//! Kontiki: a Kafka-compatible, replicated, append-only log broker. Every topic partition is its own Raft group.
//!
//! ```text
//! bin -> broker -> ctl -> raftlog -> segment        bin -> client
//!          \________________ wire ________________/
//! ```
//! Imports run one way only (`tests/tidy.rs`). ARCHITECTURE.md is the map, docs/design.md the decisions.
#![deny(missing_docs, unsafe_code)]

/// By this name the tests outside know it; some of them are run inside as well.
#[cfg(all(test, feature = "mutations"))]
extern crate self as kontiki;

pub mod broker;
pub mod client;
pub mod ctl;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod raftlog;
pub mod segment;
pub mod wire;
