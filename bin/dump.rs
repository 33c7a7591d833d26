//! `kontiki dump PATH`: prints journals, segments, indexes, manifest and hard state, and verifies every checksum.

use crate::cli::DumpArgs;
use crate::output::{Failure, Outcome, Ui};
use crate::pending as dump;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

/// Runs the command; exit code 1 if anything is damaged.
pub fn run(args: DumpArgs, ui: &Ui) -> Outcome {
    if !args.path.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", args.path.display())));
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let options = dump::DumpOptions { records: args.records, json: ui.is_json() };
    let sound = dump::dump(&args.path, &mut out, options)?;
    out.flush()?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
