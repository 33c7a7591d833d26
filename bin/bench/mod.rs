//! `kontiki bench produce|consume|limits|null`: measuring, honestly.
//!
//! | file | what it holds |
//! |---|---|
//! | `report` | latencies, the result line in the words of Kafka's perf-test, JSON |
//! | `usage` | CPU time, memory and device flushes from /proc and /sys |
//! | `pace` | the schedule of an open loop |
//! | `produce` | set-up, and records through our own producer |
//! | `prebuilt` | batches built once, over plain sockets |
//! | `consume` | through our own consumer, or bytes of one partition |
//! | `limits`, `loopback` | what this machine can do |
//! | `null` | a broker that acknowledges at once |
//!
//! With a rate, latencies count from the moment a record should have left, whether or not the generator was able
//! to send it then: a stall shows in every record it delayed, not in one. Not here: comparisons and charts.

mod consume;
mod limits;
mod loopback;
mod null;
mod pace;
mod prebuilt;
mod produce;
mod report;
mod usage;

use crate::cli::{BenchCommand, BenchCommon, Global};
use crate::output::{Failure, Outcome, Ui};
use std::time::Duration;

/// Runs the command.
pub async fn run(command: BenchCommand, global: &Global, ui: &Ui) -> Outcome {
    match command {
        BenchCommand::Produce(args) => produce::run(&args, global, ui).await,
        BenchCommand::Consume(args) => consume::run(&args, global, ui).await,
        BenchCommand::Limits(args) => limits::run(&args, ui).await,
        BenchCommand::Null(args) => null::run(&args, ui).await,
        BenchCommand::LoopbackPeer => loopback::peer(),
    }
}

/// When a run ends: the time, the records, or both; ten seconds if neither is given.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Whole run with its warm-up.
    time: Option<Duration>,
    records: Option<u64>,
}

impl Limits {
    fn of(common: &BenchCommon) -> Result<Self, Failure> {
        let time = match (common.duration, common.num_records) {
            (None, None) => Some(Duration::from_secs(10)),
            (time, _) => time,
        };
        if common.num_records.is_some() && !common.warmup.is_zero() {
            return Err(Failure::usage(
                "--warmup needs --duration: a number of records has no time to leave out",
            ));
        }
        Ok(Self { time: time.map(|t| t + common.warmup), records: common.num_records })
    }
}
