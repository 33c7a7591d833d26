//! Kontiki: a Kafka-compatible, replicated, append-only log broker. Every partition is its own Raft group.
pub mod broker;
pub mod client;
pub mod ctl;
pub mod raftlog;
pub mod segment;
pub mod wire;
