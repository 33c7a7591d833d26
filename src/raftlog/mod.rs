//! Raft, one group per partition (Ongaro & Ousterhout; Ongaro's thesis), and the engine that drives many groups.
//!
//! How an entry travels: `Engine::propose` asks the leader's [`core`] for index, epoch and offset, appends to storage and
//! sends to every follower in parallel (thesis §10.2.1); followers answer when their fsync is done; `Core` counts durable
//! copies, its own included, and commits; `GroupEvent::Committed` tells the layer above.
//! - `core`: the pure state machine of one group: no IO, no clock, no payload bytes.
//! - `engine`: all groups of a node over `Net`, `Disk` and a passed-in clock.
//! - `generation`: the rule by which a group that lost its quorum goes on. `heir`: the same where nobody is above the group,
//!   `offline`: the same by an operator's hand, over directories of stopped nodes.
//! - `codec`: bytes of the peer protocol. `wheel`: deadlines. `message`: what replicas say.
//!
//! It does not know Kafka's APIs, topics or sockets. Called by `broker::shard`.
pub mod codec;
pub mod core;
pub mod engine;
pub mod generation;
pub mod heir;
pub mod message;
pub mod offline;
pub mod wheel;
