//! A small Kafka client library for our own commands and tests: it speaks the real protocol, so what it
//! can do, any Kafka client can.
//!
//! | file | what it holds |
//! |---|---|
//! | `error` | one error type, with Kafka's name of the error and a hint |
//! | `connection` | one socket: pipelined requests, version negotiation, time limits |
//! | `cluster` | [`Client`]: bootstrap, metadata cache, connections, routing to leaders |
//! | `admin` | topics, configurations, cluster description |
//! | `moves` | where replicas are to be: reassignments, sizes, brokers taken out |
//! | `groups` | consumer groups as an operator sees them |
//! | `member` | [`Membership`]: a member of a group |
//! | `quorum` | members of a partition's Raft group |
//! | `offsets` | [`Position`]: `start`, `end`, `N`, `-N`, `@time`, and ListOffsets |
//! | `producer` | [`Producer`]: idempotent, batching, ordered retries |
//! | `consumer` | [`Consumer`]: assigned partitions, one fetch under way per broker |
//! | `records` | records as commands hold them, over `wire`'s batches |
//!
//! Not here: transactions, TLS and SASL. Nothing of the broker is imported.
//! Called by `bin` and by tests. Every queue is bounded; no request waits longer than its time limit.

pub mod admin;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod groups;
pub mod member;
pub mod moves;
pub mod offsets;
pub mod producer;
pub mod quorum;
pub mod records;

pub use crate::wire::compression::Compression as Codec;
pub use cluster::{Broker, Client, ClientOptions, Metadata, PartitionInfo, TopicInfo};
pub use consumer::{ConsumedRecord, Consumer, ConsumerOptions, OutOfRange};
pub use error::{Error, Result};
pub use member::{MemberOptions, Membership, Standing};
pub use moves::{PartitionName, Reassignment};
pub use offsets::{Position, Range};
pub use producer::{Ack, Delivery, Producer, ProducerOptions};
pub use quorum::{Member, Quorum};
pub use records::{Header, Record};
