//! `kontiki config print [--origin]` and `kontiki config default`.

use super::Settings;
use super::keys::{KEYS, Key, Kind};
use crate::cli::ConfigCommand;
use crate::output::{Outcome, Ui, table};
use serde_json::json;
use std::process::ExitCode;

/// Runs the command.
pub fn run(command: ConfigCommand, ui: &Ui) -> Outcome {
    match command {
        ConfigCommand::Default => ui.out(&default_file())?,
        ConfigCommand::Print(args) => {
            let settings = Settings::load(&args.node, std::env::vars())?;
            if ui.is_json() {
                let items = settings
                    .iter()
                    .map(|(k, s)| json!({ "key": k.name, "value": s.value, "origin": s.origin.to_string() }));
                ui.json_items(items.collect())?;
            } else {
                ui.out(&text(&settings, args.origin))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(settings: &Settings, origin: bool) -> String {
    let rows: Vec<Vec<String>> = settings
        .iter()
        .map(|(key, setting)| {
            let mut row = vec![key.name.to_owned(), setting.value.clone().unwrap_or_default()];
            if origin {
                row.push(setting.origin.to_string());
            }
            row
        })
        .collect();
    let headers = ["KEY", "VALUE", "ORIGIN"];
    table(&headers[..if origin { 3 } else { 2 }], &rows)
}

/// A file with every key, commented out (`#= `) and explained.
pub fn default_file() -> String {
    let mut out = String::from(
        "# Configuration of a Kontiki node. Flags win over the environment, the environment over this file.\n\
         # Remove `#= ` from a line to set it.\n",
    );
    let (kafka, own): (Vec<&Key>, Vec<&Key>) = KEYS.iter().partition(|k| k.kafka);
    for key in own {
        entry(key, &mut out);
    }
    out.push_str("\n# Kafka's own names, units and meanings.\n[kafka]\n");
    for key in kafka {
        entry(key, &mut out);
    }
    out
}

fn entry(key: &Key, out: &mut String) {
    let is_bare = match &key.kind {
        Kind::Int(..) => true,
        Kind::Broker(key) => !key.is_text(),
        _ => false,
    };
    let value = match (is_bare, key.default) {
        (true, Some(value)) => value.to_owned(),
        (_, Some(value)) => format!("\"{value}\""),
        (_, None) => "\"\"".into(),
    };
    // Bare dotted names would make `max.connections` both a value and a table.
    let name = if key.kafka { format!("\"{}\"", key.name) } else { key.name.to_owned() };
    out.push_str(&format!("\n# {}\n#= {name} = {value}\n", key.help));
}
