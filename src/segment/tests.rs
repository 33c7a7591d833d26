//! Tests of the segment layer as a whole, on the simulated disk and on a real one. Tests of one file stand
//! in that file.

mod basics;
mod crash;
mod dumping;
mod faults;
mod loose;
mod real;
mod repairs;
mod rig;
mod scrubbing;
mod sweep;
