//! Sockets of Kafka clients: accepting them within limits, and one task per connection that turns frames into
//! requests and answers into writes.
//!
//! Not here: what a request means (`dispatch`, `handlers`), nor how a frame is taken apart (`wire`).
//! Called by whoever assembles a node.
pub mod connection;
pub mod crowd;
pub mod listener;
