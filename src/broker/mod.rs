//! What a Kafka client can see, and the assembly of a node.
//!
//! `net` reads frames, `dispatch` finds the handler, `handlers` decode, ask a [`api::NodeHandle`], and encode. Behind the handle
//! one `shard` per node owns all groups; `groups` is what it does for consumer groups, pure; `fetch_sessions` is what the node remembers between the fetches of a consumer, pure too; `node` drives it, `peer` connects it, `planning`
//! lends commands the controllers' planner, `ports` tells where listeners are, `offline` is what a command does to the directories of stopped controllers, `server` assembles everything, `dev` runs a
//! whole cluster in one process. Not here: Raft (`raftlog`), bytes on disk (`segment`), controller decisions (`ctl`).
pub mod api;
mod awaited;
pub mod compaction;
pub mod config;
pub mod dev;
pub mod dispatch;
pub mod error;
pub mod fetch_sessions;
pub mod groups;
pub mod handlers;
pub mod http;
pub mod metrics;
pub mod net;
pub mod node;
pub mod offline;
pub mod partition;
pub mod peer;
pub mod planning;
pub mod ports;
pub mod server;
pub mod shard;
