//! Completion by the shell: what `KONTIKI_COMPLETE=SHELL kontiki -- WORDS` answers, topic and group names included.
//!
//! The shell's own script (`kontiki generate completions`) asks with the words typed so far. Names come from the cluster that those words or
//! the environment name. Invariants: nothing is written but candidates, a cluster that does not answer costs `PATIENCE`, no error shows.

use crate::cli::Cli;
use clap::CommandFactory;
use clap_complete::CompletionCandidate;
use clap_complete::engine::ArgValueCompleter;
use kontiki::client::{Client, ClientOptions};
use std::ffi::OsStr;
use std::time::Duration;

/// For the whole answer: somebody waits with a finger on the key.
const PATIENCE: Duration = Duration::from_millis(300);

/// The variable by which a shell says that it asks.
pub const VARIABLE: &str = "KONTIKI_COMPLETE";

/// Answers a shell that asks, and ends the process; does nothing otherwise. Before anything else: it writes to stdout.
pub fn answer_shell() {
    clap_complete::CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// Names of topics.
pub fn topics() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        candidates(current, async |client| {
            let metadata = client.fresh_metadata().await.ok()?;
            Some(
                metadata
                    .topics
                    .into_values()
                    .filter(|topic| !topic.internal)
                    .map(|topic| topic.name)
                    .collect(),
            )
        })
    })
}

/// Names of consumer groups.
pub fn groups() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        candidates(current, async |client| {
            Some(client.list_groups().await.ok()?.into_iter().map(|group| group.group).collect())
        })
    })
}

fn candidates(
    current: &OsStr,
    ask: impl AsyncFnOnce(Client) -> Option<Vec<String>>,
) -> Vec<CompletionCandidate> {
    let typed: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    let bootstrap = bootstrap(&typed, std::env::var("KONTIKI_BROKERS").ok());
    let client = Client::new(ClientOptions {
        bootstrap: bootstrap.split(',').map(|broker| crate::cluster::with_port(broker.trim())).collect(),
        connect_timeout: PATIENCE,
        request_timeout: PATIENCE,
        call_timeout: PATIENCE,
        ..ClientOptions::default()
    });
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(client)).await });
    // A name server that does not answer must not hold up the shell.
    runtime.shutdown_background();
    let names = found.ok().flatten().unwrap_or_default();
    let begin = current.to_string_lossy();
    names.into_iter().filter(|name| name.starts_with(&*begin)).map(CompletionCandidate::new).collect()
}

/// The brokers that the words name, else the environment, else the default.
fn bootstrap(typed: &[String], variable: Option<String>) -> String {
    const LONG: [&str; 2] = ["--bootstrap-server", "--bootstrap-servers"];
    let named = typed.iter().enumerate().find_map(|(at, word)| {
        if word == "-B" || LONG.contains(&word.as_str()) {
            return typed.get(at + 1).cloned();
        }
        let long = LONG.iter().find_map(|flag| word.strip_prefix(flag)?.strip_prefix('='));
        long.or_else(|| word.strip_prefix("-B")).map(|value| value.trim_start_matches('=').to_owned())
    });
    named.or(variable).filter(|brokers| !brokers.is_empty()).unwrap_or_else(|| "localhost:9092".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_of_the_words_beat_the_environment() {
        let of = |typed: &[&str], variable: Option<&str>| {
            let typed: Vec<String> = typed.iter().map(|word| (*word).to_owned()).collect();
            bootstrap(&typed, variable.map(str::to_owned))
        };
        assert_eq!(of(&["kontiki", "consume", "-B", "a:1,b:2", ""], Some("c:3")), "a:1,b:2");
        assert_eq!(of(&["kontiki", "-Ba:1", "consume", ""], None), "a:1");
        assert_eq!(of(&["kontiki", "--bootstrap-server=a:1", "consume", ""], None), "a:1");
        assert_eq!(of(&["kontiki", "consume", "--bootstrap-servers", "a:1", ""], None), "a:1");
        assert_eq!(of(&["kontiki", "consume", ""], Some("c:3")), "c:3");
        assert_eq!(of(&["kontiki", "consume", "-B"], None), "localhost:9092");
    }
}
