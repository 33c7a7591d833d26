//! `kontiki dump PATH`: prints journals, segments, indexes, manifest and hard state, and verifies every checksum.

use crate::cli::DumpArgs;
use crate::output::{Failure, Outcome, Ui};
use kontiki::segment::dump;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

/// Runs the command; exit code 1 if anything is damaged.
pub fn run(args: DumpArgs, ui: &Ui) -> Outcome {
    if !args.path.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", args.path.display())));
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let options = dump::DumpOptions { entries: args.records, json: ui.is_json() };
    let report = dump::dump(&args.path, &mut out, options)
        .map_err(|e| Failure::new("DUMP_FAILED", format!("{}: {e}", args.path.display())))?;
    out.flush()?;
    for problem in &report.problems {
        eprintln!("damaged: {problem}");
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
