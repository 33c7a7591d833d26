//! What a Kafka client can see, and the assembly of a node. (contract stub)
pub mod api;
pub mod config;
pub mod dev;
pub mod dispatch;
pub mod error;
pub mod handlers;
pub mod http;
pub mod metrics;
pub mod net;
mod node;
pub mod partition;
mod peer;
pub mod server;
mod shard;
