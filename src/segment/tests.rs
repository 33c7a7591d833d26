//! Tests of the segment layer as a whole, on the simulated disk and on a real one. Tests of one file stand
//! in that file.

mod aside;
pub(crate) mod basics;
pub(crate) mod crash;
mod dumping;
pub(crate) mod faults;
pub(crate) mod loose;
mod real;
pub(crate) mod repairs;
pub(crate) mod rewriting;
mod rig;
pub(crate) mod scrubbing;
pub(crate) mod sweep;
pub(crate) mod told_once;
