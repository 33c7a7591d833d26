//! The controllers' planner, for commands that plan with what a cluster says of itself.
//!
//! Nothing of its own: commands may not reach below this layer.

pub use crate::ctl::relocate::{Plan, Row, Site, rebalance, vacate};
pub use crate::segment::NodeId;
