//! The table of all keys of a node's configuration.
//!
//! Keys of the broker that Kafka has too keep Kafka's names, units and defaults, and stand in the file's `[kafka]`
//! table: they are the very table that docs/configuration.md and DescribeConfigs are made from, so that what is shown can be set.
//! The rest are Kontiki's own. A default of None means "not set".

use crate::text;
use kontiki::broker::config::{BROKER_KEYS, BrokerKey, listeners};
use std::borrow::Cow;
use std::sync::LazyLock;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name; of Kafka's keys, Kafka's.
    pub name: &'static str,
    /// Whether it stands in `[kafka]`.
    pub kafka: bool,
    /// Value when nobody sets it.
    pub default: Option<&'static str>,
    /// What it may be.
    pub kind: Kind,
    /// What it does.
    pub help: Cow<'static, str>,
}

/// What a value may be.
#[derive(Debug)]
pub enum Kind {
    /// A whole number from, to.
    Int(i64, i64),
    /// host:port.
    Address,
    /// host:port, or NAME://host:port, comma-separated.
    Listeners,
    /// id@host:port, comma-separated.
    Controllers,
    /// broker, controller.
    Roles,
    /// Any text that is not empty.
    Text,
    /// What the broker's own table says.
    Broker(&'static BrokerKey),
}

const MAX: i64 = i64::MAX;
const INT: i64 = i32::MAX as i64;

/// Kafka's keys that are set by a key of ours, under which name they are shown all the same.
pub const NAMED_OTHERWISE: &[(&str, &str)] = &[
    ("node.id", "node-id"),
    ("broker.id", "node-id"),
    ("broker.rack", "rack"),
    ("log.dirs", "data-dir"),
    ("process.roles", "roles"),
    ("listeners", "listen"),
    ("advertised.listeners", "advertise"),
];

const fn own(name: &'static str, default: Option<&'static str>, kind: Kind, help: &'static str) -> Key {
    Key { name, kafka: false, default, kind, help: Cow::Borrowed(help) }
}

fn kafka(key: &'static BrokerKey) -> Key {
    let help = Cow::Owned(key.documentation());
    Key { name: key.name, kafka: true, default: key.default, kind: Kind::Broker(key), help }
}

/// Every key, in the order they are printed.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let is_named_otherwise = |key: &&BrokerKey| NAMED_OTHERWISE.iter().any(|(shown, _)| *shown == key.name);
    OWN.into_iter().chain(BROKER_KEYS.iter().filter(|key| !is_named_otherwise(key)).map(kafka)).collect()
});

const OWN: [Key; 16] = [
    own("node-id", None, Kind::Int(0, INT), "this node's id, unique in the cluster"),
    own("roles", None, Kind::Roles, "broker, controller, or both"),
    own("controllers", None, Kind::Controllers, "every controller as id@host:port of its peer listener"),
    own(
        "listen",
        None,
        Kind::Listeners,
        "where Kafka clients connect (role broker); several have names: NAME://HOST:PORT,...",
    ),
    own(
        "advertise",
        None,
        Kind::Listeners,
        "the address clients are told, if another than listen; of each listener by its name",
    ),
    own("peer-listen", None, Kind::Address, "where other nodes connect; connections to them start there too"),
    own(
        "peer-advertise",
        None,
        Kind::Address,
        "the address other nodes are told, if another than peer-listen",
    ),
    own("admin-listen", None, Kind::Address, "where /health, /ready and /metrics are served over HTTP"),
    own(
        "ports-file",
        None,
        Kind::Text,
        "file that says where the node listens, as JSON, from when it does until it stops in order",
    ),
    own("data-dir", None, Kind::Text, "where the data lives"),
    own("rack", None, Kind::Text, "failure domain: replicas are spread over racks"),
    own("shutdown-timeout-ms", Some("30000"), Kind::Int(0, MAX), "how long a stop may hand over leadership"),
    own(
        "first-byte-timeout-ms",
        Some("30000"),
        Kind::Int(1, MAX),
        "how long a new connection may stay silent",
    ),
    own("raft.beat-ms", Some("100"), Kind::Int(1, 60_000), "interval of a leader's heartbeats"),
    own("raft.election-min-ms", Some("600"), Kind::Int(10, 600_000), "shortest election timeout"),
    own("raft.election-max-ms", Some("1200"), Kind::Int(10, 600_000), "longest election timeout"),
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

impl Key {
    /// Its environment variable: KONTIKI_NODE_ID, KONTIKI_KAFKA_LOG_RETENTION_MS.
    pub fn variable(&self) -> String {
        let section = if self.kafka { "KAFKA_" } else { "" };
        format!("KONTIKI_{section}{}", self.name.replace(['.', '-'], "_").to_ascii_uppercase())
    }

    /// The value as it is kept, if it is allowed, else why not.
    pub fn check(&self, value: &str) -> Result<String, String> {
        let checked = match &self.kind {
            Kind::Int(min, max) => match value.parse::<i64>() {
                Ok(n) if (*min..=*max).contains(&n) => Ok(()),
                _ => Err(format!("`{value}` is not a whole number from {min} to {max}")),
            },
            Kind::Address => text::host_port(value).map(drop),
            Kind::Listeners => listeners::parse(value).map(drop),
            Kind::Controllers => controllers(value).map(drop),
            Kind::Roles => roles(value).map(drop),
            Kind::Text if value.is_empty() => Err("is empty".into()),
            Kind::Text => Ok(()),
            Kind::Broker(key) => return key.check(value),
        };
        checked.map(|()| value.to_owned())
    }
}

/// Reads `1@host:port,2@host:port`.
pub fn controllers(value: &str) -> Result<Vec<(i32, String)>, String> {
    let mut found: Vec<(i32, String)> = Vec::new();
    for item in value.split(',').map(str::trim) {
        let wrong = || format!("`{item}` is not ID@HOST:PORT");
        let (id, address) = item.split_once('@').ok_or_else(wrong)?;
        let id = id.parse::<i32>().ok().filter(|id| *id >= 0).ok_or_else(wrong)?;
        text::host_port(address).map_err(|_| wrong())?;
        if found.iter().any(|(other, _)| *other == id) {
            return Err(format!("controller {id} is named twice"));
        }
        found.push((id, address.to_owned()));
    }
    Ok(found)
}

/// Reads `broker,controller`; answers whether each is there.
pub fn roles(value: &str) -> Result<(bool, bool), String> {
    let (mut broker, mut controller) = (false, false);
    for role in value.split(',').map(str::trim) {
        match role {
            "broker" => broker = true,
            "controller" => controller = true,
            _ => return Err(format!("`{role}` is not broker or controller")),
        }
    }
    Ok((broker, controller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_documented_and_their_defaults_allowed() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[..i].iter().all(|k| k.name != key.name && k.variable() != key.variable()),
                "{}",
                key.name
            );
            assert!(!key.help.is_empty(), "{}", key.name);
            if let Some(default) = key.default {
                assert_eq!(key.check(default).as_deref(), Ok(default), "{}", key.name);
            }
        }
        assert_eq!(find("node-id").unwrap().variable(), "KONTIKI_NODE_ID");
        assert_eq!(find("log.retention.ms").unwrap().variable(), "KONTIKI_KAFKA_LOG_RETENTION_MS");
    }

    #[test]
    fn check_what_is_not_built_is_refused() {
        assert!(find("compression.type").unwrap().check("zstd").unwrap_err().contains("not built yet"));
        assert!(find("log.cleanup.policy").unwrap().check("compact,delete").is_ok());
    }

    #[test]
    fn controllers_list_parses_and_refuses_doubles() {
        assert_eq!(controllers("1@a:1, 2@[::1]:2").unwrap(), [(1, "a:1".into()), (2, "[::1]:2".into())]);
        for bad in ["", "a:1", "1@a", "x@a:1", "1@a:1,1@b:2", "-1@a:1"] {
            assert!(controllers(bad).is_err(), "{bad}");
        }
    }
}
