//! docs/configuration.md, written from the tables; a test keeps the file fresh (`UPDATE_DOCS=1` rewrites it).
//!
//! Not here: the settings of a node that have no Kafka name.
use super::describe::documentation;
use super::{BROKER_KEYS, Rule, TOPIC_KEYS};
use std::fmt::Write;

const HEAD: &str = "\
# Configuration

Written from the tables in `src/ctl/configs`; do not edit by hand: `UPDATE_DOCS=1 cargo test configuration_page` rewrites it.

Names, types, defaults and precedence are Kafka's, so Kafka's own tools show and set them. A value is taken from the
topic, else from the cluster-wide dynamic broker configuration, else from the broker's static configuration (the first
broker key listed that is set), else from the default. A value that cannot be met is refused with `INVALID_CONFIG` and
the reason; what Kafka's clients set as a matter of course and Kontiki has no use for is stored and shown, and said here
to have no effect.

## Topics

Set with CreateTopics or IncrementalAlterConfigs (`kontiki topic create -c key=value`, `kontiki topic alter`,
`kafka-configs --entity-type topics`).

";

const BROKERS: &str = "
## Brokers

Static keys are read when a broker starts. Dynamic ones can be changed at run time for the whole cluster
(`kafka-configs --entity-type brokers --entity-default`); they are the defaults of topics that do not set the key
themselves. Those that are dynamic per broker can be set for one broker too (`--entity-name ID`), which comes first.

";

/// The page.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    page.push_str("| key | type | default | valid | broker keys | what it does |\n|--|--|--|--|--|--|\n");
    for key in TOPIC_KEYS.iter().filter(|key| !key.hidden) {
        let brokers: Vec<String> = key.synonyms.iter().map(|s| format!("`{}`", s.key)).collect();
        row(
            &mut page,
            &[
                format!("`{}`", key.name),
                key.kind.name().into(),
                default(Some(key.default)),
                valid(key.rule),
                brokers.join(", "),
                documentation(key.doc, key.effect),
            ],
        );
    }
    page.push_str(BROKERS);
    page.push_str("| key | type | default | valid | update | what it does |\n|--|--|--|--|--|--|\n");
    for key in BROKER_KEYS {
        row(
            &mut page,
            &[
                format!("`{}`", key.name),
                key.kind.name().into(),
                default(key.default),
                valid(key.rule),
                match (key.only_own, key.own, key.dynamic) {
                    (true, ..) => "dynamic, of one broker",
                    (false, true, _) => "dynamic, per broker",
                    (false, false, true) => "dynamic",
                    (false, false, false) => "static",
                }
                .into(),
                documentation(key.doc, key.effect),
            ],
        );
    }
    page
}

fn row(page: &mut String, cells: &[String]) {
    writeln!(page, "| {} |", cells.join(" | ")).expect("writing to a string cannot fail");
}

fn default(value: Option<&str>) -> String {
    match value {
        None => "not set".into(),
        Some("") => "empty".into(),
        Some(value) => format!("`{value}`"),
    }
}

fn valid(rule: Rule) -> String {
    let words = |words: &[&str]| words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    match rule {
        Rule::Any => String::new(),
        Rule::AtLeast(least) => format!("at least {least}"),
        Rule::Between(least, most) => format!("{least} to {most}"),
        Rule::Fraction => "0 to 1".into(),
        Rule::OneOf(all) => words(all),
        Rule::Built { now, later: [] } => words(now),
        Rule::Built { now, later } => format!("{} (not built yet: {})", words(now), words(later)),
        Rule::GzipLevel => "1 to 9, or -1".into(),
        Rule::Listeners => "`NAME://HOST:PORT`, ...".into(),
        Rule::ThrottledReplicas => "`*`, or `partition:broker` pairs".into(),
    }
}
