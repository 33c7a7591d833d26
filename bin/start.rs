//! `kontiki start`: loads the configuration and runs one node until it is told to stop.
//!
//! SIGTERM and Ctrl-C are the node's business: it hands leadership over, then returns.

use crate::cli::StartArgs;
use crate::config::Settings;
use crate::output::{Failure, Outcome};
use kontiki::broker::server;
use std::process::ExitCode;

/// Runs the command.
pub async fn run(args: StartArgs) -> Outcome {
    let config = Settings::load(&args.node, std::env::vars())?.node_config()?;
    match server::run_node(config).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => Err(Failure::new("START_FAILED", e.to_string())),
    }
}
