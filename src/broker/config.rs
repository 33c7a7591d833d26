//! A node's configuration: every setting typed, with the default it has when nothing is said.
//!
//! Not here: reading flags, environment and files (`bin`), topic configuration (`ctl`), dynamic
//! cluster-wide configuration (the metadata image).
//! Called by whoever assembles a node; handlers only read it through `NodeHandle::config`.
//! Invariants: a `NodeConfig` never changes after the node has started; every limit is finite.

pub use crate::ctl::command::Defaults;
pub use crate::ctl::configs::BrokerKey;
pub use crate::ctl::configs::broker_keys::{BROKER_KEYS, RACK_AWARE_SELECTOR};
pub use crate::ctl::listeners::{self, PLAINTEXT};
pub use crate::ctl::record::Endpoint;
pub use crate::segment::NodeId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Kafka's usual port, on loopback: nothing is exposed before somebody says so.
pub const DEFAULT_PORT: u16 = 9092;
/// Where peers connect by default; port 0 = any free one.
pub const DEFAULT_PEER_LISTEN: &str = "127.0.0.1:0";
/// `socket.request.max.bytes`, as in Kafka.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 100 * 1024 * 1024;
/// Most connections of one address.
pub const DEFAULT_MAX_CONNECTIONS_PER_IP: usize = 1_000;
/// Upper end of the computed `max.connections`.
const MOST_CONNECTIONS: usize = 64 * 1024;

/// Where Kafka clients connect, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, in upper case.
    pub name: String,
    /// What is bound. Port 0 = any.
    pub bind: Endpoint,
    /// What its clients are told of this broker, port 0 = the bound one; None = the bound address.
    pub advertise: Option<Endpoint>,
}

impl Listener {
    /// One without a name of its own, on loopback, that advertises where it is.
    pub fn local(port: u16) -> Self {
        Self {
            name: PLAINTEXT.to_owned(),
            bind: Endpoint { host: "127.0.0.1".to_owned(), port },
            advertise: None,
        }
    }
}

/// Everything a node needs to start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node (Kafka's broker id).
    pub node_id: NodeId,
    /// Whether it serves Kafka clients and holds partitions.
    pub is_broker: bool,
    /// Whether it is a voter of the controller group.
    pub is_controller: bool,
    /// Voters of group 0: node id -> peer address.
    pub controllers: BTreeMap<NodeId, String>,
    /// Listeners of Kafka clients, names all different; none without role broker.
    pub listeners: Vec<Listener>,
    /// Where other nodes connect. Port 0 = any.
    pub peer_listen: String,
    /// Advertised to other nodes; None = the bound address.
    pub peer_advertise: Option<Endpoint>,
    /// HTTP admin address; None = no HTTP.
    pub admin_listen: Option<String>,
    /// Where a node that runs by itself writes the addresses it has bound (`ports`).
    pub ports_file: Option<PathBuf>,
    /// Journal, segments and identity of this node.
    pub data_dir: PathBuf,
    /// Failure domain, for placement (`broker.rack`).
    pub rack: Option<String>,
    /// Cluster defaults for topics, and static broker configuration by Kafka key.
    pub defaults: Defaults,
    /// `auto.create.topics.enable`: whether Metadata creates what it is asked for.
    pub auto_create_topics: bool,
    /// `max.connections` of all Kafka listeners together.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `connections.max.idle.ms`: a connection without traffic and without work is closed after this.
    pub connections_max_idle: Duration,
    /// A connection that has not sent its first byte by then is closed.
    pub first_byte_timeout: Duration,
    /// `socket.request.max.bytes`: a larger frame closes the connection.
    pub max_request_bytes: usize,
    /// `fetch.max.bytes`: no answer to a Fetch is larger, but by its first batch.
    pub fetch_max_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`: most fetch sessions of consumers; 0 = none.
    pub fetch_session_slots: usize,
    /// `replica.lag.time.max.ms`: who counts as in sync.
    pub replica_lag_time_max: Duration,
    /// `replica.selector.class`: whether consumers are sent to replicas in their own rack (KIP-392).
    pub is_rack_aware: bool,
    /// `broker.session.timeout.ms`: a broker silent for this long is fenced.
    pub broker_session_timeout: Duration,
    /// `broker.reconnect.timeout.ms`: a broker whose connections ended and that is not back by then is dead.
    pub broker_reconnect_timeout: Duration,
    /// `shrink.grace.ms`: a broker that stopped in order is dead after this.
    pub shrink_grace: Duration,
    /// `replace.grace.ms`: the replicas of a broker that is dead for this long go to others; None = never.
    pub replace_grace: Option<Duration>,
    /// `shrink.min.voters`: no group shrinks below; as many as there are replicas: none shrinks at all.
    pub shrink_min_voters: usize,
    /// `controller.quorum.heir.timeout.ms`: of two controllers the heir goes on without the other after this silence; 0: never.
    pub heir_timeout: Duration,
    /// `log.scrub.bytes.per.second`: how fast segments are read to find damage; 0 = never.
    pub scrub_bytes_per_second: u64,
    /// `log.scrub.interval.ms`: from the begin of one pass to the next.
    pub scrub_interval: Duration,
    /// Interval of a leader's heartbeats.
    pub beat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// How long an orderly stop may take before it becomes a hard one.
    pub shutdown_timeout: Duration,
}

impl NodeConfig {
    /// A combined broker and controller with every setting at its default (design section 6, Kafka's own otherwise).
    pub fn new(node_id: NodeId, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            is_broker: true,
            is_controller: true,
            controllers: BTreeMap::new(),
            listeners: vec![Listener::local(DEFAULT_PORT)],
            peer_listen: DEFAULT_PEER_LISTEN.to_owned(),
            peer_advertise: None,
            admin_listen: None,
            ports_file: None,
            data_dir: data_dir.into(),
            rack: None,
            defaults: Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() },
            auto_create_topics: true,
            max_connections: default_max_connections(),
            max_connections_per_ip: DEFAULT_MAX_CONNECTIONS_PER_IP,
            connections_max_idle: Duration::from_secs(600),
            first_byte_timeout: Duration::from_secs(30),
            max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
            fetch_max_bytes: 55 * 1024 * 1024,
            fetch_session_slots: 1_000,
            replica_lag_time_max: Duration::from_secs(30),
            is_rack_aware: false,
            broker_session_timeout: Duration::from_secs(9),
            broker_reconnect_timeout: Duration::from_secs(1),
            shrink_grace: Duration::from_secs(300),
            replace_grace: Some(Duration::from_secs(900)),
            shrink_min_voters: 1,
            heir_timeout: Duration::from_secs(10),
            scrub_bytes_per_second: 20 << 20,
            scrub_interval: Duration::from_secs(24 * 3600),
            beat: Duration::from_millis(100),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1_200),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// 60 % of the descriptors this process may open (the soft limit is raised at start), so that segments, journal and peers keep the rest.
pub fn default_max_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let allowed = limit.map_or(MOST_CONNECTIONS, |n| usize::try_from(n).unwrap_or(MOST_CONNECTIONS));
    (allowed.saturating_mul(6) / 10).clamp(16, MOST_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_config_has_kafkas_defaults_and_finite_limits() {
        let config = NodeConfig::new(NodeId(3), "/tmp/x");
        assert_eq!(config.defaults.num_partitions, 1);
        assert_eq!(config.defaults.replication_factor, None);
        assert!(config.auto_create_topics);
        assert_eq!(config.max_request_bytes, 104_857_600);
        assert!((16..=MOST_CONNECTIONS).contains(&config.max_connections));
        assert!(config.election_min < config.election_max);
        assert!(config.beat * 3 < config.election_min);
    }
}
