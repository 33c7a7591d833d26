//! Kafka protocol: framing, version table, bounds, record batches. (contract stub)
pub mod batch;
pub mod bounds;
pub mod fetch;
pub mod frame;
pub mod produce;
pub mod versions;
