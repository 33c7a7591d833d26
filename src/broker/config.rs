//! A node's configuration. (contract stub; owned by the handlers helper)
use crate::ctl::command::Defaults;
use crate::ctl::record::Endpoint;
use crate::segment::NodeId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything a node needs to start.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NodeConfig {
    pub node_id: NodeId,
    pub is_broker: bool,
    pub is_controller: bool,
    /// Voters of group 0: node id -> peer address.
    pub controllers: BTreeMap<NodeId, String>,
    /// Kafka listener; None without role broker. Port 0 = any.
    pub listen: Option<String>,
    /// Advertised to clients; None = the bound address.
    pub advertise: Option<Endpoint>,
    pub peer_listen: String,
    pub peer_advertise: Option<Endpoint>,
    pub admin_listen: Option<String>,
    pub data_dir: PathBuf,
    pub rack: Option<String>,
    pub defaults: Defaults,
    pub auto_create_topics: bool,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub connections_max_idle: Duration,
    pub first_byte_timeout: Duration,
    pub max_request_bytes: usize,
    pub replica_lag_time_max: Duration,
    pub broker_session_timeout: Duration,
    pub beat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    pub shutdown_timeout: Duration,
}
