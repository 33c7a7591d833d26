//! Counters of one node's Kafka listener, as cheap atomics, and their Prometheus text.
//!
//! Not here: figures that are read from the node when asked (`http`).
//! Called by `net` and `dispatch` (which keep the `Arc`), rendered by `http`.
//! Invariants: counting never allocates, locks or waits; all counters only grow, but for the gauge of open connections.

use crate::segment::NodeId;
use crate::wire::versions;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// API keys below this have a row of counters of their own.
const API_SLOTS: usize = 96;
/// Upper bounds of the latency buckets, in microseconds; the last bucket is open.
const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// What is counted per API.
#[derive(Debug, Default)]
struct ApiMetrics {
    count: AtomicU64,
    sum_us: AtomicU64,
    /// One per bound; what is slower is in `count` alone.
    buckets: [AtomicU64; BUCKETS_US.len()],
}

/// Counters of one node.
#[derive(Debug)]
pub struct Metrics {
    /// Connections open now.
    pub connections_open: AtomicU64,
    /// Connections accepted since the start.
    pub connections_accepted: AtomicU64,
    /// Connections refused by a limit.
    pub connections_refused: AtomicU64,
    /// Connections closed for a reason that is the client's fault.
    pub connections_faulted: AtomicU64,
    /// Bytes read from clients.
    pub bytes_in: AtomicU64,
    /// Bytes written to clients.
    pub bytes_out: AtomicU64,
    /// Bytes written to each other node.
    peers: Mutex<BTreeMap<NodeId, Arc<AtomicU64>>>,
    apis: Box<[ApiMetrics]>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connections_open: AtomicU64::new(0),
            connections_accepted: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_faulted: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            peers: Mutex::default(),
            apis: (0..API_SLOTS).map(|_| ApiMetrics::default()).collect(),
        }
    }
}

/// The counters of a node of this process: one set per node id, for as long as the process lives (`dev` runs several).
pub fn of(node: NodeId) -> Arc<Metrics> {
    static NODES: Mutex<BTreeMap<NodeId, Arc<Metrics>>> = Mutex::new(BTreeMap::new());
    // A panic elsewhere cannot leave a map of counters half-changed.
    NODES.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default().clone()
}

impl Metrics {
    /// Counts one answered request and the time from its last byte to its answer.
    pub fn answered(&self, api_key: i16, took: Duration) {
        let Some(api) = usize::try_from(api_key).ok().and_then(|key| self.apis.get(key)) else { return };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        api.count.fetch_add(1, Relaxed);
        api.sum_us.fetch_add(us, Relaxed);
        if let Some(bucket) = api.buckets.get(BUCKETS_US.partition_point(|&bound| bound < us)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// The counter of bytes written to another node, for whoever writes them.
    pub fn peer_bytes(&self, peer: NodeId) -> Arc<AtomicU64> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).entry(peer).or_default().clone()
    }

    /// Requests of this API answered so far.
    pub fn requests(&self, api_key: i16) -> u64 {
        usize::try_from(api_key)
            .ok()
            .and_then(|key| self.apis.get(key))
            .map_or(0, |api| api.count.load(Relaxed))
    }

    /// Appends the counters as Prometheus text (version 0.0.4).
    pub fn render(&self, out: &mut String) {
        let open = self.connections_open.load(Relaxed);
        metric(out, "kontiki_connections", "gauge", "Open connections of Kafka clients", open);
        for (name, help, value) in [
            ("kontiki_connections_accepted_total", "Connections accepted", &self.connections_accepted),
            (
                "kontiki_connections_refused_total",
                "Connections refused by a limit",
                &self.connections_refused,
            ),
            (
                "kontiki_connections_faulted_total",
                "Connections closed for a malformed or unsupported request",
                &self.connections_faulted,
            ),
            ("kontiki_bytes_in_total", "Bytes read from Kafka clients", &self.bytes_in),
            ("kontiki_bytes_out_total", "Bytes written to Kafka clients", &self.bytes_out),
        ] {
            metric(out, name, "counter", help, value.load(Relaxed));
        }
        const PEERS: &str = "kontiki_peer_bytes_out_total";
        let _ = writeln!(out, "# HELP {PEERS} Bytes written to other nodes, by node");
        let _ = writeln!(out, "# TYPE {PEERS} counter");
        for (peer, bytes) in &*self.peers.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(out, "{PEERS}{{peer=\"{}\"}} {}", peer.0, bytes.load(Relaxed));
        }
        self.render_apis(out);
    }

    fn render_apis(&self, out: &mut String) {
        const NAME: &str = "kontiki_request_duration_seconds";
        let _ = writeln!(out, "# HELP {NAME} Time from the last byte of a request to its answer, by API");
        let _ = writeln!(out, "# TYPE {NAME} histogram");
        for (key, api) in self.apis.iter().enumerate() {
            let count = api.count.load(Relaxed);
            if count == 0 {
                continue;
            }
            let name =
                i16::try_from(key).ok().and_then(versions::range).map_or("Unknown", |range| range.name);
            let mut below = 0;
            for (bound, bucket) in BUCKETS_US.iter().zip(&api.buckets) {
                below += bucket.load(Relaxed);
                let seconds = *bound as f64 / 1e6;
                let _ = writeln!(out, "{NAME}_bucket{{api=\"{name}\",le=\"{seconds}\"}} {below}");
            }
            // The buckets may have been read a moment after the count; a histogram must not decrease.
            let count = count.max(below);
            let sum = api.sum_us.load(Relaxed) as f64 / 1e6;
            let _ = writeln!(out, "{NAME}_bucket{{api=\"{name}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{NAME}_sum{{api=\"{name}\"}} {sum}");
            let _ = writeln!(out, "{NAME}_count{{api=\"{name}\"}} {count}");
        }
    }
}

/// Appends one metric without labels.
pub fn metric(out: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answered_request_falls_into_its_bucket() {
        let metrics = Metrics::default();
        metrics.answered(3, Duration::from_micros(100));
        metrics.answered(3, Duration::from_micros(101));
        metrics.answered(3, Duration::from_secs(60));
        metrics.answered(-1, Duration::from_secs(1));
        metrics.answered(9_999, Duration::from_secs(1));
        let api = &metrics.apis[3];
        assert_eq!(metrics.requests(3), 3);
        assert_eq!(api.buckets[0].load(Relaxed), 1);
        assert_eq!(api.buckets[1].load(Relaxed), 1);
        assert_eq!(api.buckets.iter().map(|b| b.load(Relaxed)).sum::<u64>(), 2);
        assert_eq!(metrics.requests(-1), 0);
    }

    #[test]
    fn node_asked_twice_has_the_same_counters() {
        let first = of(NodeId(-77));
        first.bytes_in.fetch_add(5, Relaxed);
        assert_eq!(of(NodeId(-77)).bytes_in.load(Relaxed), 5);
        assert_eq!(of(NodeId(-78)).bytes_in.load(Relaxed), 0);
        first.peer_bytes(NodeId(3)).fetch_add(7, Relaxed);
        let mut text = String::new();
        of(NodeId(-77)).render(&mut text);
        assert!(text.contains("kontiki_peer_bytes_out_total{peer=\"3\"} 7\n"), "{text}");
    }
}
