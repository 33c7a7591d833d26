//! Stand-ins with the signatures of the node, the dev cluster and the dump, for builds without them.
//!
//! Replaced at assembly by `kontiki::broker::server`, `kontiki::broker::dev` and `kontiki::segment::dump`.

use kontiki::broker::config::NodeConfig;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Why a node could not start, or stopped in disorder.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This build has no broker.
    #[error("this build cannot run {0}: the broker is not part of it")]
    Absent(String),
}

/// What `dev` runs.
#[derive(Debug)]
pub struct DevOptions {
    /// Brokers.
    pub brokers: u16,
    /// Kafka port of the first.
    pub port: u16,
    /// None: temporary.
    pub data_dir: Option<PathBuf>,
    /// HTTP admin port.
    pub admin_port: u16,
    /// Name, partitions, replicas.
    pub topics: Vec<(String, i32, Option<i16>)>,
}

/// What `dump` prints.
#[derive(Clone, Copy, Debug, Default)]
pub struct DumpOptions {
    /// Also entries and batches.
    pub records: bool,
    /// JSON lines.
    pub json: bool,
}

/// Runs a node until SIGTERM has been served.
pub async fn run_node(config: NodeConfig) -> Result<(), StartError> {
    Err(StartError::Absent(format!("node {}", config.node_id)))
}

/// Runs a cluster in this process; prints the READY line itself.
pub async fn run_dev(options: DevOptions) -> Result<(), StartError> {
    let DevOptions { brokers, port, data_dir, admin_port, topics } = options;
    let place = data_dir.map_or_else(|| "temporary data".into(), |d| d.display().to_string());
    let what =
        format!("{brokers} brokers from port {port}, admin {admin_port}, {place}, {} topics", topics.len());
    Err(StartError::Absent(what))
}

/// Prints a data directory; false if a checksum does not match.
pub fn dump(dir: &Path, _out: &mut dyn Write, options: DumpOptions) -> std::io::Result<bool> {
    let DumpOptions { records, json } = options;
    Err(std::io::Error::other(format!(
        "this build cannot read {} (records {records}, json {json})",
        dir.display()
    )))
}
