//! Chaos: real nodes, stock clients, and every fault a machine can have, in namespaces of the test's own.
//!
//! - `world`: the namespaces; `net`, `disk`, `inject`: how wires, disks and system calls fail;
//! - `stage`: a cluster with all of that and clients that never stop, and the final judgement;
//! - `autos`: a majority that is cut off while its partitions go on without it (`recovery.policy=auto`);
//! - `partitions`, `storage`, `limits`: one kind of fault after another, short, in CI;
//! - `mixed`: a seeded mixture, short in CI, long by `tests/long/chaos.sh`.
//!
//! Needs root and what `install.sh` installs; without them a test fails. See docs/testing.md.

mod autos;
mod disk;
mod inject;
mod limits;
mod mixed;
mod net;
mod partitions;
mod stage;
mod storage;
mod world;
