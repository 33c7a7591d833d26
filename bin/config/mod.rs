//! A node's configuration from flags, environment and file, each value with its origin.
//!
//! | file | what it holds |
//! |---|---|
//! | `keys` | every key: name, default, what is allowed, help |
//! | here | merging: flags over environment over file over defaults; unknown keys of flags and file refused |
//! | `node` | the merged settings as a `NodeConfig`, with the checks that need more than one key |
//! | `print` | `kontiki config print`, `kontiki config default` |
//!
//! Not here: topic and dynamic broker configuration, which live in the cluster. Everything is text until `node`,
//! so that `print` shows just what was written.

pub mod keys;
pub mod node;
pub mod print;

use crate::output::Failure;
use crate::text;
use keys::{KEYS, Key};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Flags of `start` and `config print`. All optional: the environment and the file may say it too.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NodeFlags {
    /// This node's id
    #[arg(long, value_name = "N")]
    pub node_id: Option<String>,
    /// What it is: broker, controller, or both
    #[arg(long, value_name = "ROLE,...")]
    pub roles: Option<String>,
    /// All controllers: id@host:port of their peer listeners
    #[arg(long, value_name = "N@HOST:PORT,...")]
    pub controllers: Option<String>,
    /// Where Kafka clients connect; several listeners have names
    #[arg(long, value_name = "[NAME://]HOST:PORT,...")]
    pub listen: Option<String>,
    /// The address clients are told, if it is another than --listen; of each listener by its name
    #[arg(long, value_name = "[NAME://]HOST:PORT,...")]
    pub advertise: Option<String>,
    /// Where other nodes connect
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// The address other nodes are told, if it is another than --peer-listen
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,
    /// Where the HTTP admin address listens; none if not given
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_listen: Option<String>,
    /// Write where the node listens here, as JSON
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<String>,
    /// Where the data lives
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Failure domain, for placement
    #[arg(long, value_name = "RACK")]
    pub rack: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "KONTIKI_CONFIG")]
    pub config: Option<PathBuf>,
    /// Any other key, such as log.retention.ms=86400000
    #[arg(short = 'c', long = "set", value_name = "KEY=VALUE", value_parser = text::key_value)]
    pub set: Vec<(String, String)>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value and its origin; None where nothing is set and nothing is built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As it was written.
    pub value: Option<String>,
    /// By whom.
    pub origin: Origin,
}

/// All keys with their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, Setting>);

impl Settings {
    /// Merges flags, environment (as name and value) and the file that the flags name.
    pub fn load(
        flags: &NodeFlags,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Failure> {
        let mut settings = Self(
            KEYS.iter()
                .map(|k| (k.name, Setting { value: k.default.map(str::to_owned), origin: Origin::Default }))
                .collect(),
        );
        if let Some(path) = &flags.config {
            settings.read_file(path)?;
        }
        settings.read_environment(environment)?;
        settings.read_flags(flags)?;
        Ok(settings)
    }

    /// A value by name, if there is one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|s| s.value.as_deref())
    }

    /// All of them, in the order of the table of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        KEYS.iter().map(|k| (k, &self.0[k.name]))
    }

    fn set(&mut self, key: &'static Key, value: String, origin: Origin) -> Result<(), Failure> {
        let value =
            key.check(&value).map_err(|why| Failure::usage(format!("{}: {why} ({origin})", key.name)))?;
        self.0.insert(key.name, Setting { value: Some(value), origin });
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        let mut flat = Vec::new();
        flatten("", &toml::Value::Table(table), &mut flat)
            .map_err(|why| Failure::usage(format!("{}: {why}", path.display())))?;
        for (name, value) in flat {
            // [kafka] only groups: its keys have Kafka's own names.
            let bare = name.strip_prefix("kafka.").unwrap_or(&name);
            let in_kafka = bare.len() != name.len();
            let found = keys::find(bare).filter(|k| k.kafka == in_kafka);
            let key = found.ok_or_else(|| unknown(&name, &path.display().to_string()))?;
            self.set(key, value, Origin::File(path.to_owned()))?;
        }
        Ok(())
    }

    fn read_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(), Failure> {
        let variables: BTreeMap<String, String> =
            environment.filter(|(n, _)| n.starts_with("KONTIKI_")).collect();
        for key in KEYS.iter() {
            let name = key.variable();
            if let Some(value) = variables.get(&name) {
                self.set(key, value.clone(), Origin::Environment(name))?;
            }
        }
        // Unknown ones are not refused: the commands have their own, and orchestrators add variables named after
        // a service (KONTIKI_SERVICE_HOST) that nobody asked for.
        Ok(())
    }

    fn read_flags(&mut self, flags: &NodeFlags) -> Result<(), Failure> {
        for (name, value) in &flags.set {
            let key = keys::find(name).ok_or_else(|| unknown(name, "-c"))?;
            self.set(key, value.clone(), Origin::Flag(format!("-c {name}")))?;
        }
        let named = [
            ("node-id", &flags.node_id),
            ("roles", &flags.roles),
            ("controllers", &flags.controllers),
            ("listen", &flags.listen),
            ("advertise", &flags.advertise),
            ("peer-listen", &flags.peer_listen),
            ("peer-advertise", &flags.peer_advertise),
            ("admin-listen", &flags.admin_listen),
            ("ports-file", &flags.ports_file),
            ("data-dir", &flags.data_dir),
            ("rack", &flags.rack),
        ];
        for (name, value) in named {
            if let (Some(value), Some(key)) = (value, keys::find(name)) {
                self.set(key, value.clone(), Origin::Flag(format!("--{name}")))?;
            }
        }
        Ok(())
    }
}

/// Nested tables become dotted names, which is also what a bare dotted key of TOML means; lists become
/// comma-separated text, as on the command line.
fn flatten(prefix: &str, value: &toml::Value, out: &mut Vec<(String, String)>) -> Result<(), String> {
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(s) => Ok(s.clone()),
        toml::Value::Integer(n) => Ok(n.to_string()),
        toml::Value::Boolean(b) => Ok(b.to_string()),
        toml::Value::Float(f) => Ok(f.to_string()),
        _ => Err(format!("{prefix}: a {} is not a value", value.type_str())),
    };
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                // node_id and node-id are both usual in TOML.
                let name = name.replace('_', "-");
                let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(&name, value, out)?;
            }
            Ok(())
        }
        toml::Value::Array(items) => {
            let items = items.iter().map(scalar).collect::<Result<Vec<_>, _>>()?;
            out.push((prefix.to_owned(), items.join(",")));
            Ok(())
        }
        value => {
            out.push((prefix.to_owned(), scalar(value)?));
            Ok(())
        }
    }
}

fn unknown(name: &str, place: &str) -> Failure {
    let failure = Failure::usage(format!("unknown key `{name}` in {place}"));
    let bare = name.strip_prefix("kafka.").unwrap_or(name);
    let near = KEYS.iter().map(|k| (distance(bare, k.name), k)).min_by_key(|(d, _)| *d);
    match near {
        Some((d, key)) if d <= 3 && key.kafka => failure.with_hint(format!("[kafka] {}", key.name)),
        Some((d, key)) if d <= 3 => failure.with_hint(key.name),
        _ => failure.with_hint("`kontiki config default` prints every key"),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &NodeFlags, env: &[(&str, &str)]) -> Result<Settings, Failure> {
        Settings::load(flags, env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    fn file(text: &str) -> (tempfile::TempDir, NodeFlags) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.toml");
        std::fs::write(&path, text).unwrap();
        let flags = NodeFlags { config: Some(path), ..NodeFlags::default() };
        (dir, flags)
    }

    #[test]
    fn load_flag_beats_environment_beats_file_beats_default() {
        let (_dir, mut flags) =
            file("node_id = 1\nrack = 'a'\ndata-dir = '/f'\n[kafka]\nnum.partitions = 3\n");
        flags.node_id = Some("3".into());
        let env = [("KONTIKI_NODE_ID", "2"), ("KONTIKI_RACK", "b"), ("KONTIKI_SERVICE_HOST", "x")];
        let settings = load(&flags, &env).unwrap();
        let origin = |name| settings.0[name].origin.to_string();
        assert_eq!((settings.value("node-id"), origin("node-id")), (Some("3"), "flag --node-id".into()));
        assert_eq!((settings.value("rack"), origin("rack")), (Some("b"), "env KONTIKI_RACK".into()));
        assert_eq!(settings.value("data-dir"), Some("/f"));
        assert!(origin("data-dir").starts_with("file "));
        assert_eq!(settings.value("num.partitions"), Some("3"));
        assert_eq!(
            (settings.value("max.connections.per.ip"), origin("max.connections.per.ip")),
            (Some("1000"), "default".into())
        );
    }

    #[test]
    fn load_kafka_keys_dotted_quoted_and_from_environment() {
        let (_dir, flags) = file(
            "[kafka]\n\"log.retention.ms\" = 5000\nlog.segment.bytes = 2097152\nauto.create.topics.enable = false\n",
        );
        let settings = load(&flags, &[("KONTIKI_KAFKA_MAX_CONNECTIONS", "7")]).unwrap();
        assert_eq!(settings.value("log.retention.ms"), Some("5000"));
        assert_eq!(settings.value("log.segment.bytes"), Some("2097152"));
        assert_eq!(settings.value("auto.create.topics.enable"), Some("false"));
        assert_eq!(settings.value("max.connections"), Some("7"));
    }

    #[test]
    fn load_unknown_key_is_refused_with_the_nearest_name() {
        for (text, hint) in
            [("nod-id = 1", "node-id"), ("[kafka]\nlog.retention.mss = 1", "log.retention.ms")]
        {
            let (_dir, flags) = file(text);
            let failure = load(&flags, &[]).unwrap_err();
            assert!(failure.message().contains("unknown key"), "{failure:?}");
            assert!(format!("{failure:?}").contains(hint), "{failure:?}");
        }
        // A Kafka key outside [kafka] is unknown, too, and so is one of ours within it.
        for text in ["log.retention.ms = 1", "[kafka]\nnode-id = 1"] {
            let (_dir, flags) = file(text);
            assert!(load(&flags, &[]).is_err(), "{text}");
        }
        let flags = NodeFlags { set: vec![("nonsense".into(), "1".into())], ..NodeFlags::default() };
        assert!(load(&flags, &[]).unwrap_err().message().contains("nonsense"));
    }

    #[test]
    fn load_bad_value_names_key_and_origin() {
        let flags = NodeFlags { node_id: Some("x".into()), ..NodeFlags::default() };
        let failure = load(&flags, &[]).unwrap_err();
        assert!(
            failure.message().contains("node-id") && failure.message().contains("--node-id"),
            "{failure:?}"
        );
    }

    #[test]
    fn load_lists_join_with_commas() {
        let (_dir, flags) = file("roles = ['broker', 'controller']\ncontrollers = ['1@a:1', '2@b:2']");
        let settings = load(&flags, &[]).unwrap();
        assert_eq!(settings.value("roles"), Some("broker,controller"));
        assert_eq!(settings.value("controllers"), Some("1@a:1,2@b:2"));
    }

    #[test]
    fn default_file_with_every_line_uncommented_loads() {
        let text: String = print::default_file()
            .lines()
            .filter_map(|l| match l.strip_prefix("#= ") {
                Some(setting) if setting.ends_with("= \"\"") => None,
                Some(setting) => Some(setting.to_owned()),
                None => (!l.starts_with('#')).then(|| l.to_owned()),
            })
            .collect::<Vec<_>>()
            .join("\n");
        let (_dir, flags) = file(&text);
        let settings = load(&flags, &[]).unwrap();
        assert_eq!(settings.value("log.retention.hours"), Some("168"));
    }
}
