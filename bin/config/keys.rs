//! The table of all keys of a node's configuration.
//!
//! Keys of the broker that Kafka has too keep Kafka's names, units and defaults, and stand in the file's `[kafka]`
//! table; the rest are Kontiki's own. A default of None means "not set".

use crate::text;

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
    pub help: &'static str,
}

/// What a value may be.
#[derive(Debug)]
pub enum Kind {
    /// A whole number from, to.
    Int(i64, i64),
    /// true or false.
    Bool,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// host:port.
    Address,
    /// id@host:port, comma-separated.
    Controllers,
    /// broker, controller.
    Roles,
    /// Any text that is not empty.
    Text,
}

const MAX: i64 = i64::MAX;
const INT: i64 = i32::MAX as i64;

const fn own(name: &'static str, default: Option<&'static str>, kind: Kind, help: &'static str) -> Key {
    Key { name, kafka: false, default, kind, help }
}

const fn kafka(name: &'static str, default: Option<&'static str>, kind: Kind, help: &'static str) -> Key {
    Key { name, kafka: true, default, kind, help }
}

/// Every key, in the order they are printed.
pub const KEYS: &[Key] = &[
    own("node-id", None, Kind::Int(0, INT), "this node's id, unique in the cluster"),
    own("roles", None, Kind::Roles, "broker, controller, or both"),
    own("controllers", None, Kind::Controllers, "every controller as id@host:port of its peer listener"),
    own("listen", None, Kind::Address, "where Kafka clients connect (role broker)"),
    own("advertise", None, Kind::Address, "the address clients are told, if another than listen"),
    own("peer-listen", None, Kind::Address, "where other nodes connect; connections to them start there too"),
    own(
        "peer-advertise",
        None,
        Kind::Address,
        "the address other nodes are told, if another than peer-listen",
    ),
    own("admin-listen", None, Kind::Address, "where /health, /ready and /metrics are served over HTTP"),
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
    kafka("num.partitions", Some("1"), Kind::Int(1, 100_000), "partitions of a topic that does not say"),
    kafka(
        "default.replication.factor",
        None,
        Kind::Int(1, 32_767),
        "replicas of a topic that does not say; min(3, brokers)",
    ),
    kafka(
        "min.insync.replicas",
        None,
        Kind::Int(1, INT),
        "replicas that must hold a record before acks=all is answered",
    ),
    kafka("auto.create.topics.enable", Some("true"), Kind::Bool, "make topics that clients ask about"),
    kafka("auto.leader.rebalance.enable", None, Kind::Bool, "give leadership back to preferred leaders"),
    kafka("delete.topic.enable", None, Kind::Bool, "whether topics may be deleted"),
    kafka(
        "max.connections",
        None,
        Kind::Int(1, INT),
        "connections accepted at once; not set: 60 % of the file descriptors, at most 65,536",
    ),
    kafka(
        "max.connections.per.ip",
        Some("1000"),
        Kind::Int(1, INT),
        "connections accepted at once from one address",
    ),
    kafka(
        "connections.max.idle.ms",
        Some("600000"),
        Kind::Int(1, MAX),
        "idle connections are closed after this",
    ),
    kafka("socket.request.max.bytes", Some("104857600"), Kind::Int(1024, INT), "largest request accepted"),
    kafka("message.max.bytes", None, Kind::Int(0, INT), "largest record batch accepted"),
    kafka(
        "replica.lag.time.max.ms",
        Some("30000"),
        Kind::Int(1, MAX),
        "a follower behind for longer is not in sync",
    ),
    kafka(
        "broker.heartbeat.interval.ms",
        None,
        Kind::Int(1, INT),
        "how often a broker renews its session; not set: 2000, or a quarter of the session if that is less",
    ),
    kafka(
        "broker.reconnect.timeout.ms",
        Some("1000"),
        Kind::Int(1, INT),
        "a broker whose connections ended and that is not back by then is dead: its partitions go on without it",
    ),
    kafka(
        "broker.session.timeout.ms",
        Some("9000"),
        Kind::Int(1, INT),
        "a broker silent for longer is fenced",
    ),
    kafka(
        "log.scrub.bytes.per.second",
        Some("20971520"),
        Kind::Int(0, MAX),
        "how fast segments are read to find damage; 0: never",
    ),
    kafka(
        "log.scrub.interval.ms",
        Some("86400000"),
        Kind::Int(1000, MAX),
        "from the begin of one pass over all segments to the next",
    ),
    kafka("log.retention.ms", None, Kind::Int(-1, MAX), "records older than this may go; -1: never"),
    kafka(
        "log.retention.minutes",
        None,
        Kind::Int(-1, INT),
        "the same in minutes, if log.retention.ms is not set",
    ),
    kafka(
        "log.retention.hours",
        Some("168"),
        Kind::Int(-1, INT),
        "the same in hours, if neither of the others is set",
    ),
    kafka("log.retention.bytes", None, Kind::Int(-1, MAX), "bytes kept per partition; -1: no limit"),
    kafka("log.retention.check.interval.ms", None, Kind::Int(1, MAX), "how often retention is looked at"),
    kafka(
        "producer.id.expiration.ms",
        None,
        Kind::Int(1, INT),
        "age of an idempotent producer's newest record at which it is forgotten",
    ),
    kafka(
        "producer.id.expiration.check.interval.ms",
        None,
        Kind::Int(1, INT),
        "how often such producers are looked for",
    ),
    kafka(
        "shrink.grace.ms",
        Some("300000"),
        Kind::Int(0, MAX),
        "a broker that stopped in order is waited for so long before its partitions go on without it",
    ),
    kafka(
        "replace.grace.ms",
        Some("900000"),
        Kind::Int(-1, MAX),
        "a dead broker is waited for so long before its replicas are copied to others; -1: for ever",
    ),
    kafka(
        "shrink.min.voters",
        Some("1"),
        Kind::Int(1, INT),
        "no partition goes on with fewer voting replicas than these; as many as it has: it never shrinks",
    ),
    kafka(
        "controller.quorum.heir.timeout.ms",
        Some("10000"),
        Kind::Int(0, INT),
        "of two voting controllers the heir goes on without the other after so long a silence; 0: never",
    ),
    kafka(
        "metadata.log.max.record.bytes.between.snapshots",
        None,
        Kind::Int(1, MAX),
        "bytes of changes after which the controllers write the metadata anew and drop what lies before",
    ),
    kafka("log.segment.bytes", None, Kind::Int(1 << 20, INT), "size of a segment file"),
    kafka("log.roll.ms", None, Kind::Int(1, MAX), "age at which a segment is closed"),
    kafka("log.roll.hours", None, Kind::Int(1, INT), "the same in hours, if log.roll.ms is not set"),
    kafka("log.index.interval.bytes", None, Kind::Int(0, INT), "bytes between two index entries"),
    kafka("log.cleanup.policy", None, Kind::OneOf(&["delete"]), "what happens to old records"),
    kafka("compression.type", None, Kind::OneOf(&["producer"]), "batches are kept as they were sent"),
    kafka(
        "log.message.timestamp.type",
        None,
        Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        "whose clock counts",
    ),
    kafka(
        "log.message.timestamp.before.max.ms",
        None,
        Kind::Int(0, MAX),
        "how far in the past timestamps may lie",
    ),
    kafka(
        "log.message.timestamp.after.max.ms",
        None,
        Kind::Int(0, MAX),
        "how far in the future timestamps may lie",
    ),
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

    /// Whether the value is allowed, else why not.
    pub fn check(&self, value: &str) -> Result<(), String> {
        match &self.kind {
            Kind::Int(min, max) => match value.parse::<i64>() {
                Ok(n) if (*min..=*max).contains(&n) => Ok(()),
                _ => Err(format!("`{value}` is not a whole number from {min} to {max}")),
            },
            Kind::Bool if matches!(value, "true" | "false") => Ok(()),
            Kind::Bool => Err(format!("`{value}` is not true or false")),
            Kind::OneOf(allowed) if allowed.contains(&value) => Ok(()),
            Kind::OneOf(allowed) => Err(format!("`{value}` is not available, only {}", allowed.join(", "))),
            Kind::Address => text::host_port(value).map(drop),
            Kind::Controllers => controllers(value).map(drop),
            Kind::Roles => roles(value).map(drop),
            Kind::Text if value.is_empty() => Err("is empty".into()),
            Kind::Text => Ok(()),
        }
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
                assert_eq!(key.check(default), Ok(()), "{}", key.name);
            }
        }
        assert_eq!(find("node-id").unwrap().variable(), "KONTIKI_NODE_ID");
        assert_eq!(find("log.retention.ms").unwrap().variable(), "KONTIKI_KAFKA_LOG_RETENTION_MS");
    }

    #[test]
    fn check_what_is_not_built_is_refused() {
        assert!(find("log.cleanup.policy").unwrap().check("compact").unwrap_err().contains("not available"));
        assert!(find("compression.type").unwrap().check("zstd").is_err());
    }

    #[test]
    fn controllers_list_parses_and_refuses_doubles() {
        assert_eq!(controllers("1@a:1, 2@[::1]:2").unwrap(), [(1, "a:1".into()), (2, "[::1]:2".into())]);
        for bad in ["", "a:1", "1@a", "x@a:1", "1@a:1,1@b:2", "-1@a:1"] {
            assert!(controllers(bad).is_err(), "{bad}");
        }
    }
}
