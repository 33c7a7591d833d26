//! What a Kafka client can see, and the assembly of a node. (contract stub)
pub mod api;
pub mod config;
pub mod partition;
