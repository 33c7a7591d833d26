//! The Kafka protocol as bytes: framing, version table, bounds, record batches, hand-written Produce and Fetch.
//!
//! It is not a codec of every message (that is the `kafka-protocol` crate) and knows no topics, no leaders and no
//! errors of the broker. Called by `broker` (server side), `client` (our own commands) and, for `batch` and `record`
//! only, by `segment`. Imports nothing of the crate.
//!
//! The way of a request: bytes -> [`frame::split`] -> [`bounds::check`] -> `kafka-protocol` decode (or
//! [`produce::decode`]); the way of a response: [`frame::respond`], [`produce::encode`] or [`fetch::encode`].
//!
//! Invariants:
//! - No input makes anything here panic; no input makes it allocate more than a small multiple of its length
//!   (decompression: more than the limit the caller names).
//! - Record bytes are never copied on the way in ([`produce`]) nor on the way out ([`fetch`], above 1 KiB).
pub mod batch;
pub mod bounds;
pub mod compression;
pub mod fetch;
pub mod frame;
pub mod murmur2;
pub(crate) mod primitives;
pub mod produce;
pub mod record;
mod shapes;
pub mod versions;

#[cfg(test)]
mod tests;

pub use compression::Compression;
pub use murmur2::murmur2;
