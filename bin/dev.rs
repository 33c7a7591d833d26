//! `kontiki dev`: a whole cluster in this process; `dev kill` and `dev restart` talk to a running one.

use crate::cli::{DevAction, DevArgs};
use crate::http;
use crate::output::{Failure, Outcome, Ui};
use kontiki::broker::dev;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Longest wait for a broker to go or come back.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the command.
pub async fn run(args: DevArgs, ui: &Ui) -> Outcome {
    let (verb, target) = match args.action {
        Some(DevAction::Kill(target)) => ("kill", target),
        Some(DevAction::Restart(target)) => ("restart", target),
        None => {
            let options = dev::DevOptions {
                brokers: args.brokers,
                port: args.port,
                data_dir: args.data_dir,
                admin_port: args.admin_port,
                topics: args.topics,
                ports_file: args.ports_file,
            };
            return match dev::run_dev(options).await {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(e) => Err(Failure::new("START_FAILED", e.to_string())),
            };
        }
    };
    let address = format!("127.0.0.1:{}", target.admin_port);
    let (status, body) =
        http::request("POST", &address, &format!("/dev/{verb}/{}", target.broker), LIMIT).await?;
    if !(200..300).contains(&status) {
        let why =
            if body.trim().is_empty() { format!("HTTP status {status}") } else { body.trim().to_owned() };
        return Err(Failure::new("DEV_REFUSED", format!("cannot {verb} broker {}: {why}", target.broker)));
    }
    let done = if verb == "kill" { "killed" } else { "restarted" };
    if ui.is_json() {
        ui.json_items(vec![json!({ "broker": target.broker, "state": done })])?;
    } else {
        ui.out(&format!("broker {} {done}\n", target.broker))?;
    }
    Ok(ExitCode::SUCCESS)
}
