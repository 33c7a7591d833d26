//! What commands print: aligned tables or one JSON object, errors with code and hint, exit codes.
//!
//! Tables have UPPER-HYPHEN headers and no spaces in cells that matter, so that awk works; `-` is an empty cell.
//! JSON is one object `{"ok", "error"?, "items"}`, also on failure. Data goes to stdout, the rest to stderr.
//! Invariant: a reader that went away (`| head`) is no failure.

use crate::cli::{Color, Global, OutputFormat};
use kontiki::client;
use serde_json::{Value, json};
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// Result of a command.
pub type Outcome = Result<ExitCode, Failure>;

/// Why a command ends before its work is done.
#[derive(Debug)]
pub struct Failure {
    code: String,
    message: String,
    hint: Option<String>,
    exit: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, exit: 1 }
    }

    /// A mistake in what was asked for: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: "USAGE".into(), message: message.into(), hint: None, exit: 2 }
    }

    /// Says what to try next.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The text, for tests and for wrapping.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<client::Error> for Failure {
    fn from(e: client::Error) -> Self {
        Self { code: e.name(), message: e.to_string(), hint: e.hint(), exit: 1 }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            // The reader of our output has what it wanted.
            ErrorKind::BrokenPipe => Self { exit: 0, ..Self::new("BROKEN_PIPE", String::new()) },
            _ => Self::new("IO", e.to_string()),
        }
    }
}

/// How to talk to the user.
#[derive(Clone, Debug)]
pub struct Ui {
    format: Option<OutputFormat>,
    /// No remarks on stderr.
    pub quiet: bool,
    color: bool,
}

impl Ui {
    /// As the flags say.
    pub fn new(global: &Global) -> Self {
        Self { format: global.output, quiet: global.quiet, color: color_on_stderr(global.color) }
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.format == Some(OutputFormat::Json)
    }

    /// The format, where the default depends on the command.
    pub fn format(&self) -> Option<OutputFormat> {
        self.format
    }

    /// Writes data.
    pub fn out(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// A remark for people.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // A closed stderr is nobody's concern.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// The JSON object of a success.
    pub fn json_items(&self, items: Vec<Value>) -> Result<(), Failure> {
        self.out(&format!("{}\n", json!({ "ok": true, "items": items })))
    }

    /// Items with one result each: a table, or one JSON object; exit code 1 if any failed.
    pub fn results(&self, headers: &[&str], items: Vec<Item>) -> Outcome {
        let first = items.iter().find_map(|i| i.error.as_ref());
        let code = if first.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        if self.is_json() {
            let mut object = json!({ "ok": first.is_none() });
            if let Some(e) = first {
                object["error"] = error_object(&e.code, &e.message, e.hint.as_deref());
            }
            object["items"] = items.iter().map(Item::to_json).collect();
            self.out(&format!("{object}\n"))?;
            return Ok(code);
        }
        let rows: Vec<Vec<String>> = items.iter().map(|i| i.cells.clone()).collect();
        self.out(&table(headers, &rows))?;
        if let Some(hint) = first.and_then(|e| e.hint.as_ref()) {
            self.note(&format!("  try: {hint}"));
        }
        Ok(code)
    }

    /// Prints a failure and answers its exit code.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        if failure.exit == 0 {
            return ExitCode::SUCCESS;
        }
        if self.is_json() {
            print_error_object(&failure.code, &failure.message, failure.hint.as_deref());
        }
        let (red, plain) = if self.color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let mut text = format!("{red}error[{}]{plain}: {}\n", failure.code, failure.message);
        if let Some(hint) = &failure.hint {
            text.push_str(&format!("  try: {hint}\n"));
        }
        // A closed stderr is nobody's concern.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(failure.exit)
    }
}

/// One item of many: its row, its JSON, and its error if it failed.
#[derive(Debug)]
pub struct Item {
    cells: Vec<String>,
    json: Value,
    error: Option<Failure>,
}

impl Item {
    /// An item that is as it should be.
    pub fn ok(cells: Vec<String>, json: Value) -> Self {
        Self { cells, json, error: None }
    }

    /// An item that failed.
    pub fn failed(cells: Vec<String>, json: Value, error: Failure) -> Self {
        Self { cells, json, error: Some(error) }
    }

    /// The same, whatever became of it.
    pub fn without_error(self) -> Self {
        Self { error: None, ..self }
    }

    fn to_json(&self) -> Value {
        let mut json = self.json.clone();
        if let Some(e) = &self.error {
            json["error"] = error_object(&e.code, &e.message, e.hint.as_deref());
        }
        json
    }
}

fn error_object(code: &str, message: &str, hint: Option<&str>) -> Value {
    json!({ "code": code, "message": message, "hint": hint })
}

/// The JSON object of a failure, on stdout.
pub fn print_error_object(code: &str, message: &str, hint: Option<&str>) {
    let object = json!({ "ok": false, "error": error_object(code, message, hint), "items": [] });
    // Where stdout is closed nobody reads it.
    let _ = writeln!(std::io::stdout(), "{object}");
}

/// Whether stderr gets colours (`--color`, then NO_COLOR and CLICOLOR_FORCE).
pub fn color_on_stderr(color: Color) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if set("NO_COLOR") => false,
        Color::Auto => set("CLICOLOR_FORCE") || std::io::stderr().is_terminal(),
    }
}

/// Aligned columns, two spaces apart; the last column is not padded.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let header: Vec<String> = headers.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let cell = if cell.is_empty() { "-" } else { cell };
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count().min(*width)));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Lines of `NAME  value`, aligned.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(k, v)| format!("{k:width$}  {}\n", if v.is_empty() { "-" } else { v })).collect()
}

/// A list in one cell: comma-separated, `-` if empty.
pub fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "-".into(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_columns_align_and_lines_have_no_trailing_blanks() {
        let rows = vec![
            vec!["orders".into(), "3".into(), String::new()],
            vec!["a".into(), "12".into(), "x y".into()],
        ];
        assert_eq!(
            table(&["TOPIC", "PARTITIONS", "ERROR"], &rows),
            "TOPIC   PARTITIONS  ERROR\norders  3           -\na       12          x y\n"
        );
    }

    #[test]
    fn table_without_rows_still_has_headers() {
        assert_eq!(table(&["A", "B"], &[]), "A  B\n");
    }

    #[test]
    fn pairs_align_and_empty_is_a_dash() {
        assert_eq!(pairs(&[("HEALTHY", "no".into()), ("X", String::new())]), "HEALTHY  no\nX        -\n");
    }

    #[test]
    fn failure_of_client_error_keeps_kafka_name_and_hint() {
        let failure = Failure::from(client::Error::kafka(3, "topic `a`"));
        assert_eq!(failure.code, "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(failure.exit, 1);
        assert!(failure.hint.unwrap().contains("topic create"));
    }

    #[test]
    fn failure_of_broken_pipe_is_silent_success() {
        assert_eq!(Failure::from(std::io::Error::from(ErrorKind::BrokenPipe)).exit, 0);
    }

    #[test]
    fn item_failed_carries_error_in_json() {
        let item = Item::failed(vec![], json!({ "topic": "a" }), Failure::new("X", "went wrong"));
        assert_eq!(item.to_json()["error"]["code"], "X");
    }
}
