//! The shard controller: pure decisions over the metadata image. (contract stub)
pub mod command;
pub mod image;
pub mod record;
