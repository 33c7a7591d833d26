//! The shard controller: pure decisions over the metadata image.
//!
//! One log (group 0), one state ([`image::Image`]), three kinds of question:
//! - *What does this request do?* [`command::decide`]: image + request -> records or refusal.
//! - *What does this entry change?* [`image::Image::apply`]: the same log gives the same image on every node.
//! - *What should happen next?* [`liveness::Sessions`] (who is dead), [`balance`] (which leaders go home), [`members`] (who votes in a
//!   group, asked by its leader), [`generations`] (how a group that lost its quorum goes on), [`recovery`] (the same, where an operator
//!   has to approve what may be lost, or [`auto`] does once [`lease`]s are over), [`reassign`] (where replicas move), [`replace`] (where those of dead and decommissioned brokers
//!   go, by [`relocate`], the planner), [`drain`] (which brokers are taken out).
//!
//! [`listeners`]: where clients reach brokers. [`offline`]: what is kept of a recovery of the controllers' own group. [`snapshot`]: the state written into its own log, so that the log need not be kept whole.
//!
//! Not here: consensus and replication of the log (`raftlog`), sockets, Kafka messages and error codes (`broker`).
//! Nothing in this module reads a clock, draws a random number or does IO: time and seeds are arguments.
pub mod anew;
pub mod auto;
pub mod balance;
pub mod command;
pub mod configs;
pub mod decide;
pub mod drain;
pub mod generations;
pub mod image;
pub mod lease;
pub mod listeners;
pub mod liveness;
pub mod members;
pub mod names;
pub mod offline;
pub mod placement;
pub mod reassign;
pub mod record;
pub mod recovery;
pub mod relocate;
pub mod replace;
pub mod snapshot;

#[cfg(test)]
pub(crate) mod tests;
