//! The `kontiki` binary: a broker, its tools, and a three-broker cluster for trying things out.
//!
//! | file | commands |
//! |---|---|
//! | `cli` | every command and flag, with help |
//! | `output` | tables, JSON envelopes, errors, exit codes |
//! | `topic`, `group`, `cluster`, `produce`, `consume` | what a user does with a cluster |
//! | `config`, `start`, `dev`, `dump` | what an operator does with a node |
//! | `recover`, `controller` | partitions, and controllers, that lost their majority |
//! | `moves`, `brokers`, `ops` | where replicas are, which brokers take part, what is under way (`cli_operate`: their flags) |
//! | `generate`, `complete` | completion by the shell, man pages, systemd unit, dashboard |
//! | `bench` | measuring |
//! | `jsonl`, `http`, `text` | the record envelope, a tiny HTTP client, small parsers |
//!
//! Exit codes: 0 done, 1 anything failed (one item of many is enough), 2 usage. Data goes to stdout, everything
//! else to stderr. Not here: anything the library should do.

mod bench;
mod brokers;
mod cli;
mod cli_generate;
mod cli_group;
mod cli_operate;
mod cluster;
mod complete;
mod config;
mod consume;
mod controller;
mod dev;
mod dump;
mod generate;
mod group;
mod http;
mod jsonl;
mod moves;
mod ops;
mod output;
mod produce;
mod recover;
mod start;
mod text;
mod topic;

use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Command, Global, PartitionCommand};
use output::{Outcome, Ui};
use std::process::ExitCode;

/// Receive buffers of 64 KiB and more are recycled, not unmapped and faulted in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    complete::answer_shell();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let ui = Ui::new(&cli.global);
    init_logs(&cli.global, matches!(cli.command, Command::Start(_) | Command::Dev(_)));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return ui.fail(&output::Failure::new("RUNTIME", format!("cannot start the runtime: {e}"))),
    };
    let outcome = runtime.block_on(run(cli, &ui));
    // A thread that waits for stdin or a name server must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(failure) => ui.fail(&failure),
    }
}

async fn run(cli: Cli, ui: &Ui) -> Outcome {
    let global = cli.global;
    match cli.command {
        Command::Start(args) => start::run(args).await,
        Command::Dev(args) => dev::run(args, ui).await,
        Command::Topic(command) => topic::run(command, &global, ui).await,
        Command::Group(command) => group::run(command, &global, ui).await,
        Command::Produce(args) => produce::run(args, &global, ui).await,
        Command::Consume(args) => consume::run(args, &global, ui).await,
        Command::Cluster(command) => cluster::run(command, &global, ui).await,
        Command::Partition(PartitionCommand::Move(args)) => moves::move_replicas(&args, &global, ui).await,
        Command::Partition(PartitionCommand::Reassign(args)) => moves::reassign(&args, &global, ui).await,
        Command::Partition(PartitionCommand::Rebalance(args)) => moves::rebalance(&args, &global, ui).await,
        Command::Partition(PartitionCommand::Recover(args)) => recover::recover(&args, ui).await,
        Command::Partition(PartitionCommand::Recoveries(args)) => recover::recoveries(&args, ui).await,
        Command::Controller(command) => controller::run(command, ui).await,
        Command::Broker(command) => brokers::run(command, &global, ui).await,
        Command::Op(command) => ops::run(command, &global, ui).await,
        Command::Ready(args) => cluster::ready(args, &global, ui).await,
        Command::Config(command) => config::print::run(command, ui),
        Command::Generate(command) => generate::run(command, ui),
        Command::Dump(args) => dump::run(args, ui),
        Command::Bench(command) => bench::run(command, &global, ui).await,
        Command::Version => version(ui),
    }
}

fn version(ui: &Ui) -> Outcome {
    // A build with switches that break rules must not be taken for a release.
    let version = match cfg!(feature = "mutations") {
        true => concat!(env!("CARGO_PKG_VERSION"), "+mutations"),
        false => env!("CARGO_PKG_VERSION"),
    };
    if ui.is_json() {
        ui.json_items(vec![serde_json::json!({ "version": version })])?;
    } else {
        ui.out(&format!("kontiki {version}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// clap's own messages; scripts that asked for JSON get an object as well.
fn usage(e: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _ = e.print();
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> = std::env::args().collect();
    let json = args.iter().any(|a| a == "--output=json")
        || args.windows(2).any(|w| w[0] == "--output" && w[1] == "json");
    if json {
        let message =
            e.to_string().lines().next().unwrap_or("usage").trim_start_matches("error: ").to_owned();
        output::print_error_object("USAGE", &message, None);
    }
    ExitCode::from(2)
}

fn init_logs(global: &Global, server: bool) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) if server => "info",
        (false, 0) => "warn",
        (false, 1) => "kontiki=debug,info",
        (false, _) => "kontiki=trace,debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("KONTIKI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        cli::LogFormat::Json => logs.json().init(),
        cli::LogFormat::Text => logs.with_ansi(output::color_on_stderr(global.color)).init(),
    }
}
