//! The ports file: where the listeners of this process are, for whoever started it with port 0.
//!
//! One JSON object, the same for `kontiki start` and `kontiki dev`:
//! `{"pid", "bootstrap": "HOST:PORT,...", "admin": "HOST:PORT" or null, "nodes": [{"node", "kafka", "listeners": {NAME: "HOST:PORT"}, "peer",
//! "admin"}]}`; `kafka` is a broker's first listener, and `bootstrap` all of these.
//! Invariants: it is there whole or not at all (written aside, then renamed); an orderly end takes it away, a kill leaves it, and its
//! `pid` tells.
//! Not here: whether anything is ready (`kontiki ready`): the sockets listen, and clients that connect wait.

use crate::segment::NodeId;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Bound addresses of one node.
#[derive(Clone, Debug)]
pub struct NodePorts {
    /// Which.
    pub node: NodeId,
    /// For Kafka clients, of brokers, by the names of the listeners.
    pub kafka: Vec<(String, SocketAddr)>,
    /// For other nodes.
    pub peer: SocketAddr,
    /// HTTP, if it has one of its own.
    pub admin: Option<SocketAddr>,
}

impl NodePorts {
    /// Its first listener for Kafka clients.
    pub fn bootstrap(&self) -> Option<SocketAddr> {
        self.kafka.first().map(|(_, address)| *address)
    }
}

/// A file that was written, and goes when this does.
#[derive(Debug)]
pub struct PortsFile(PathBuf);

impl PortsFile {
    /// Takes away what an earlier process left, before anything is bound: a file that is there is this process's.
    pub fn prepare(path: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(std::io::Error::new(error.kind(), format!("ports file {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Writes it. `admin` is the address that speaks for the whole process.
    pub fn write(path: &Path, nodes: &[NodePorts], admin: Option<SocketAddr>) -> std::io::Result<Self> {
        let named = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("ports file {}: {error}", path.display()))
        };
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        std::fs::write(&aside, format!("{}\n", content(nodes, admin))).map_err(named)?;
        std::fs::rename(&aside, path).map_err(named)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        // Somebody may have taken it away already.
        let _gone = std::fs::remove_file(&self.0);
    }
}

fn content(nodes: &[NodePorts], admin: Option<SocketAddr>) -> Value {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let bootstrap: Vec<String> = nodes.iter().filter_map(|node| text(node.bootstrap())).collect();
    let nodes = nodes.iter().map(|ports| {
        let listeners = ports.kafka.iter().map(|(name, address)| (name.clone(), address.to_string().into()));
        json!({
            "node": ports.node.0, "kafka": text(ports.bootstrap()), "listeners": listeners.collect::<Map<_, Value>>(),
            "peer": ports.peer.to_string(), "admin": text(ports.admin),
        })
    });
    json!({
        "pid": std::process::id(),
        "bootstrap": bootstrap.join(","),
        "admin": text(admin),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_file_is_whole_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let nodes = [
            NodePorts {
                node: NodeId(1),
                kafka: vec![("INTERNAL".into(), address(1)), ("EXTERNAL".into(), address(5))],
                peer: address(2),
                admin: Some(address(3)),
            },
            NodePorts { node: NodeId(9), kafka: Vec::new(), peer: address(4), admin: None },
        ];
        std::fs::write(&path, "stale").unwrap();
        PortsFile::prepare(&path).unwrap();
        assert!(!path.exists() && PortsFile::prepare(&path).is_ok());
        let file = PortsFile::write(&path, &nodes, Some(address(3))).unwrap();
        let read: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((&read["bootstrap"], &read["admin"]), (&"127.0.0.1:1".into(), &"127.0.0.1:3".into()));
        assert_eq!(
            (&read["nodes"][1]["peer"], &read["nodes"][1]["kafka"]),
            (&"127.0.0.1:4".into(), &Value::Null)
        );
        assert_eq!(
            (&read["nodes"][0]["kafka"], &read["nodes"][0]["listeners"]["EXTERNAL"]),
            (&"127.0.0.1:1".into(), &"127.0.0.1:5".into())
        );
        assert_eq!(read["pid"], std::process::id());
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let nowhere = dir.path().join("no/such/ports.json");
        let error = PortsFile::write(&nowhere, &nodes, None).unwrap_err();
        assert!(error.to_string().contains("no/such/ports.json"), "{error}");
    }
}
