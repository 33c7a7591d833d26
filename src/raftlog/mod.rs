//! Raft: pure core and the engine that drives many groups. (contract stub)
pub mod core;
pub mod message;
