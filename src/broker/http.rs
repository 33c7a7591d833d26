//! The HTTP admin address: /health, /ready, /metrics, and what has to be done by an operator (`recovery`); consumer groups' figures are in `groups`.
//!
//! Not here: binding the address and serving it (the assembly does; `dev` nests further routes into the same router),
//! counting (`metrics`).
//!
//! Invariants
//! - /health fails (503) only when the process can do nothing more by itself and had better be replaced: its data
//!   directory is offline. What a restart would not mend (no controller, leaderless groups, a full disk, damage) is
//!   reported as `degraded` with 200, or an orchestrator would kill brokers just when they are needed.
//! - /ready is 200 while the node is registered and serves.
//! - Figures per partition have kafka_exporter's names, so that existing dashboards work; offsets are given only by
//!   brokers that hold the partition.

mod groups;
mod recovery;

use super::api::{CleanerStatus, ControllersStatus, NodeHandle, NodeStatus, PartitionState};
use super::fetch_sessions::Stats;
use super::metrics::{self, Metrics, metric};
use super::shard::CONTROLLER;
use crate::ctl::image::{Image, Partition};
use crate::segment::{GroupId, NodeId};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Content type of Prometheus text.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Admin {
    node: NodeHandle,
    metrics: Arc<Metrics>,
}

/// The routes of one node.
pub fn router(node: NodeHandle) -> Router {
    let metrics = metrics::of(node.node_id());
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(prometheus))
        .route("/recovery/report", post(recovery::report))
        .route("/recovery/approve", post(recovery::approve))
        .route("/recoveries", get(recovery::recoveries))
        .with_state(Admin { node, metrics })
}

async fn health(State(admin): State<Admin>) -> (StatusCode, Json<Value>) {
    let node = &admin.node;
    let (code, body) = health_of(node.node_id(), &node.status(), node.controller_leader(), &node.image());
    (code, Json(body))
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, Json<Value>) {
    let status = admin.node.status();
    let ready = is_ready(&status);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "node": admin.node.node_id().0, "registered": status.registered })))
}

async fn prometheus(State(admin): State<Admin>) -> Response {
    let node = &admin.node;
    let image = node.image();
    let partitions = image.topics.values().flat_map(|topic| topic.partitions.iter());
    let partitions: Vec<GroupId> = partitions.map(|partition| partition.group).collect();
    let states = if partitions.is_empty() { Vec::new() } else { node.partition_states(&partitions).await };
    let mut out = String::with_capacity(4096 + 1024 * states.len());
    render_cluster(&mut out, &image);
    render_partitions(&mut out, &image, &states);
    groups::render(&mut out, node, &image, &states).await;
    render_node(&mut out, &node.status(), node.controller_leader());
    render_fetch_sessions(&mut out, node.fetch_session_stats());
    render_process(&mut out);
    admin.metrics.render(&mut out);
    ([(header::CONTENT_TYPE, PROMETHEUS)], out).into_response()
}

fn is_ready(status: &NodeStatus) -> bool {
    status.registered && status.storage_failure.is_none()
}

/// What is wrong with a node.
fn reasons_of(status: &NodeStatus, controller: Option<NodeId>) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut note = |wrong: bool, text: String| {
        if wrong {
            reasons.push(text);
        }
    };
    if let Some(failure) = &status.storage_failure {
        note(true, format!("storage failed: {failure}"));
    }
    note(!status.registered, "not registered with the controller".to_owned());
    let refused = status.registration_refused.as_deref().unwrap_or_default();
    note(!refused.is_empty(), format!("the controller refuses to register it: {refused}"));
    note(controller.is_none(), "no controller leads".to_owned());
    note(status.disk_full, "data directory is full".to_owned());
    let heir = status.controllers.waits_for_heir.map_or(-1, |heir| heir.0);
    note(heir >= 0, format!("the controllers wait for node {heir}, the heir of the pair"));
    let missed: Vec<String> = status.controllers.waits_for.iter().map(NodeId::to_string).collect();
    let which = missed.join(" and ");
    note(
        !missed.is_empty(),
        format!("the controllers wait for node {which}, to finish a change of who votes"),
    );
    let stuck = "this controller was to go on alone and may have lost entries since: the controllers cannot go on without an operator";
    note(status.controllers.is_stuck, stuck.to_owned());
    let plan = status.controllers.ended_by.unwrap_or_default();
    let ended = format!(
        "plan {plan:016x} of `kontiki controller recover` ended this copy: it waits for its survivor"
    );
    note(plan > 0, ended);
    note(status.unread, "controller log cannot be read".to_owned());
    let differs = status.metadata_differs.as_deref().unwrap_or_default();
    note(
        !differs.is_empty(),
        format!("metadata differs from the controller log's ({differs}): see docs/operations.md"),
    );
    note(status.leaderless > 0, format!("{} partitions without a leader", status.leaderless));
    note(!status.damaged.is_empty(), format!("{} damaged replicas", status.damaged.len()));
    note(!status.waiting.is_empty(), format!("{} partitions wait for replicas", status.waiting.len()));
    let lapsed =
        "no lease from the controllers: partitions with recovery.policy=auto are not served from here";
    note(!status.leased, lapsed.to_owned());
    let uncleanable = status.cleaner.uncleanable.len();
    note(uncleanable > 0, format!("{uncleanable} partitions cannot be compacted"));
    let anew = status.anew.len();
    note(anew > 0, format!("{anew} replicas cannot go on and have to begin anew"));
    let spent = status.out_of_terms.len();
    note(spent > 0, format!("{spent} partitions have used up the terms of their generation"));
    reasons
}

/// Code and body of /health.
fn health_of(
    node: NodeId,
    status: &NodeStatus,
    controller: Option<NodeId>,
    image: &Image,
) -> (StatusCode, Value) {
    let mut reasons = reasons_of(status, controller);
    let unconfirmed = if image.lost.is_empty() { 0 } else { image.unconfirmed().count() };
    if unconfirmed > 0 {
        reasons.push(format!(
            "{unconfirmed} partitions had no leader since the controllers were recovered with a loss: they go on by themselves with their \
             majorities, without only by an operator"
        ));
    }
    let (code, verdict) = match (&status.storage_failure, reasons.is_empty()) {
        (Some(_), _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (None, true) => (StatusCode::OK, "healthy"),
        (None, false) => (StatusCode::OK, "degraded"),
    };
    let damaged: Vec<String> = status.damaged.iter().map(|group| name_of(image, *group)).collect();
    let set_aside = status.set_aside.iter().map(|aside| {
        let (entries, offsets) = (aside.entries, aside.offsets);
        json!({"partition": name_of(image, aside.group), "entries": [entries.0.to_string(), entries.1.to_string()],
            "offsets": [offsets.0.0, offsets.1.0]})
    });
    let set_aside: Vec<Value> = set_aside.collect();
    let waiting: Vec<String> = status.waiting.iter().map(|group| name_of(image, *group)).collect();
    let autos: BTreeMap<String, &String> =
        status.autos.iter().map(|(group, said)| (name_of(image, *group), said)).collect();
    let uncleanable = status.cleaner.uncleanable.iter();
    let uncleanable: BTreeMap<String, &String> =
        uncleanable.map(|(group, why)| (name_of(image, *group), why)).collect();
    let anew: BTreeMap<String, &String> =
        status.anew.iter().map(|(group, why)| (name_of(image, *group), why)).collect();
    let body = json!({
        "status": verdict,
        "reasons": reasons,
        "node": node.0,
        "cluster": image.cluster_id,
        "registered": status.registered,
        "incarnation": status.incarnation,
        "controller": controller.map(|id| id.0),
        "controllers": controllers_of(&status.controllers),
        "brokers": image.brokers.values().filter(|broker| !broker.fenced).map(|b| b.node.0).collect::<Vec<_>>(),
        "fenced": image.brokers.values().filter(|broker| broker.fenced).map(|b| b.node.0).collect::<Vec<_>>(),
        "storage_failure": status.storage_failure,
        "disk_full": status.disk_full,
        "replicas": status.replicas,
        "led": status.led,
        "leaderless": status.leaderless,
        "damaged": damaged,
        "waiting": waiting,
        "anew": anew,
        "leased": status.leased,
        "auto": autos,
        "unconfirmed": unconfirmed,
        "set_aside": set_aside,
        "compacting": status.cleaner.running.map(|group| name_of(image, group)),
        "uncleanable": uncleanable,
    });
    (code, body)
}

fn controllers_of(status: &ControllersStatus) -> Value {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect::<Vec<_>>();
    json!({
        "voters": ids(&status.voters),
        "learners": ids(&status.learners),
        "generation": status.generation,
        "heir": status.heir.map(|id| id.0),
        "waits_for_heir": status.waits_for_heir.map(|id| id.0),
        "waits_for": ids(&status.waits_for),
        "stuck": status.is_stuck,
        "ended_by": status.ended_by.map(|plan| format!("{plan:016x}")),
    })
}

/// `topic-partition` of a group, as Kafka writes it.
fn name_of(image: &Image, group: GroupId) -> String {
    let named = image.groups.get(&group).and_then(|(id, partition)| {
        let topic = image.topic_names.get(id)?;
        Some(format!("{topic}-{partition}"))
    });
    let unnamed = || if group == CONTROLLER { "controllers".to_owned() } else { format!("group {group}") };
    named.unwrap_or_else(unnamed)
}

// Writing to a `String` cannot fail, so its results are dropped below.

fn render_cluster(out: &mut String, image: &Image) {
    let live = image.brokers.values().filter(|broker| !broker.fenced).count();
    metric(out, "kafka_brokers", "gauge", "Number of brokers that are alive", live);
    let _ = writeln!(out, "# HELP kafka_topic_partitions Number of partitions of the topic");
    let _ = writeln!(out, "# TYPE kafka_topic_partitions gauge");
    for topic in image.topics.values() {
        let (name, count) = (&topic.name, topic.partitions.len());
        let _ = writeln!(out, "kafka_topic_partitions{{topic=\"{name}\"}} {count}");
    }
}

/// One figure of a partition; None where this broker does not know it.
type Figure = fn(&Partition, &PartitionState) -> Option<i64>;

/// Figures per partition, by kafka_exporter's names.
const FIGURES: [(&str, &str, Figure); 11] = [
    ("kafka_topic_partition_current_offset", "High watermark of the partition", |_, state| {
        state.local.then_some(state.high_watermark)
    }),
    ("kafka_topic_partition_oldest_offset", "Log start offset of the partition", |_, state| {
        state.local.then_some(state.log_start)
    }),
    ("kafka_topic_partition_leader", "Broker that leads the partition", |_, state| {
        state.leader.map(|leader| i64::from(leader.node.0))
    }),
    ("kafka_topic_partition_leader_is_preferred", "1 if the preferred replica leads", |partition, state| {
        let preferred = partition.replicas.first()?;
        Some(i64::from(state.leader.is_some_and(|leader| leader.node == preferred.node)))
    }),
    ("kafka_topic_partition_replicas", "Number of replicas", |partition, _| count(partition.target().len())),
    ("kafka_topic_partition_in_sync_replica", "Number of in-sync replicas", |_, state| {
        count(state.in_sync.len())
    }),
    (
        "kafka_topic_partition_under_replicated_partition",
        "1 if not all replicas are in sync",
        |partition, state| Some(i64::from(state.in_sync.len() < partition.target().len())),
    ),
    ("kontiki_partition_size_bytes", "Bytes this broker holds of the partition", |_, state| {
        state.local.then(|| i64::try_from(state.size_bytes).unwrap_or(i64::MAX))
    }),
    ("kontiki_partition_voters", "Replicas that vote, as this broker's replica has it", |_, state| {
        state.local.then_some(state.voters.len() as i64)
    }),
    ("kontiki_partition_generation", "Recovery generation, as this broker's replica has it", |_, state| {
        state.local.then(|| i64::try_from(state.generation).unwrap_or(i64::MAX))
    }),
    ("kontiki_partition_needs_repair", "1 if this broker's replica is damaged", |_, state| {
        state.local.then_some(i64::from(state.needs_repair))
    }),
];

fn count(value: usize) -> Option<i64> {
    i64::try_from(value).ok()
}

/// `states` stand in the order of the image's topics and partitions; a node that is stopping gives none.
fn render_partitions(out: &mut String, image: &Image, states: &[PartitionState]) {
    for (name, help, figure) in FIGURES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        let mut states = states.iter();
        for topic in image.topics.values() {
            for ((index, partition), state) in topic.partitions.iter().enumerate().zip(states.by_ref()) {
                if let Some(value) = figure(partition, state) {
                    let topic = &topic.name;
                    let _ = writeln!(out, "{name}{{topic=\"{topic}\",partition=\"{index}\"}} {value}");
                }
            }
        }
    }
}

fn render_cleaner(out: &mut String, cleaner: &CleanerStatus) {
    for (name, help, value) in [
        ("kontiki_cleaner_passes_total", "Compactions, of one replica each", cleaner.passes),
        ("kontiki_cleaner_bytes_read_total", "Bytes read by compactions", cleaner.bytes_read),
        ("kontiki_cleaner_bytes_freed_total", "Bytes that compactions freed", cleaner.bytes_freed),
        (
            "kontiki_cleaner_records_superseded_total",
            "Records that compactions removed for a later one of the same key",
            cleaner.records_superseded,
        ),
        (
            "kontiki_cleaner_tombstones_removed_total",
            "Tombstones that compactions removed when their time was over",
            cleaner.tombstones_removed,
        ),
    ] {
        metric(out, name, "counter", help, value);
    }
    let help = "Share of uncompacted bytes of the dirtiest replica here, 0 to 1";
    metric(out, "kontiki_cleaner_dirty_ratio", "gauge", help, cleaner.dirty_ratio);
    let help = "Replicas here whose last compaction failed";
    metric(out, "kontiki_uncleanable_partitions", "gauge", help, cleaner.uncleanable.len());
}

fn render_node(out: &mut String, status: &NodeStatus, controller: Option<NodeId>) {
    let controller = controller.map_or(-1, |id| id.0);
    let registered = u8::from(status.registered);
    let storage_failed = u8::from(status.storage_failure.is_some());
    metric(
        out,
        "kontiki_controller",
        "gauge",
        "Node that leads the controller group, -1 if none",
        controller,
    );
    metric(out, "kontiki_registered", "gauge", "1 if this broker is registered", registered);
    metric(out, "kontiki_storage_failed", "gauge", "1 if the data directory is offline", storage_failed);
    metric(out, "kontiki_disk_full", "gauge", "1 if the disk reserve is reached", u8::from(status.disk_full));
    for (name, help, value) in [
        ("kontiki_replicas", "Replicas on this broker", status.replicas),
        ("kontiki_leaders", "Partitions this broker leads", status.led),
        (
            "kontiki_leaderless_partitions",
            "Partitions of the cluster without a known live leader",
            status.leaderless,
        ),
        ("kontiki_damaged_replicas", "Replicas here that need repair", status.damaged.len()),
        (
            "kontiki_metadata_differs",
            "1 if a snapshot in the controller log holds other metadata than this node has",
            usize::from(status.metadata_differs.is_some()),
        ),
        (
            "kontiki_lease_lapsed",
            "Whether partitions with recovery.policy=auto are not served from here for want of a lease",
            usize::from(!status.leased),
        ),
        (
            "kontiki_waiting_partitions",
            "Partitions with a replica here that cannot go on before others are back",
            status.waiting.len(),
        ),
    ] {
        metric(out, name, "gauge", help, value);
    }
    for (name, help, value) in [
        ("kontiki_scrub_bytes_total", "Bytes of segments read and verified by the scrub", status.scrub.bytes),
        ("kontiki_scrub_files_total", "Segments the scrub has been through", status.scrub.files),
        ("kontiki_scrub_damaged_total", "Segments in which the scrub found damage", status.scrub.damaged),
        ("kontiki_scrub_passes_total", "Passes of the scrub over all segments", status.scrub.passes),
        (
            "kontiki_unclean_recoveries_total",
            "Elections won here that may have lost acknowledged records",
            status.unclean_recoveries,
        ),
    ] {
        metric(out, name, "counter", help, value);
    }
    render_cleaner(out, &status.cleaner);
}

/// Incremental fetch sessions of consumers (KIP-227).
fn render_fetch_sessions(out: &mut String, stats: Stats) {
    let Stats { sessions, partitions, bytes, evictions, continued } = stats;
    metric(out, "kontiki_fetch_sessions", "gauge", "Incremental fetch sessions", sessions);
    metric(out, "kontiki_fetch_session_partitions", "gauge", "Partitions in fetch sessions", partitions);
    metric(out, "kontiki_fetch_session_bytes", "gauge", "Bytes that fetch sessions take", bytes);
    for (name, help, value) in [
        ("kontiki_fetch_session_evictions_total", "Fetch sessions given up for others", evictions),
        ("kontiki_incremental_fetches_total", "Fetches that went on with a session", continued),
    ] {
        metric(out, name, "counter", help, value);
    }
}

/// Memory, CPU and descriptors of the process, by Prometheus' usual names.
fn render_process(out: &mut String) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let pages = read("statm").split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    if let Some(pages) = pages {
        let bytes = pages * rustix::param::page_size() as u64;
        metric(out, "process_resident_memory_bytes", "gauge", "Resident memory size", bytes);
    }
    if let Some(ticks) = cpu_ticks(&read("stat")) {
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        metric(out, "process_cpu_seconds_total", "counter", "User and system CPU time", seconds);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metric(out, "process_open_fds", "gauge", "Open file descriptors", files.count());
    }
}

/// User plus system time of /proc/self/stat; the command before them may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::api::LeaderHint;
    use crate::broker::handlers::tests::image;

    fn state(leader: Option<i32>, in_sync: &[i32], local: bool) -> PartitionState {
        PartitionState {
            leader: leader.map(|node| LeaderHint { node: NodeId(node), epoch: 4 }),
            in_sync: in_sync.iter().copied().map(NodeId).collect(),
            high_watermark: 42,
            log_start: 7,
            log_end: 43,
            size_bytes: 1000,
            local,
            needs_repair: false,
            electing: false,
            epoch: -1,
            ..PartitionState::default()
        }
    }

    #[test]
    fn health_fails_only_when_storage_has_failed() {
        let image = image();
        let sound = NodeStatus { registered: true, leased: true, ..NodeStatus::default() };
        let (code, body) = health_of(NodeId(1), &sound, Some(NodeId(2)), &image);
        assert_eq!((code, body["status"].as_str()), (StatusCode::OK, Some("healthy")));
        let degraded = NodeStatus { leaderless: 2, damaged: vec![GroupId(11), GroupId(99)], ..sound.clone() };
        let (code, body) = health_of(NodeId(1), &degraded, None, &image);
        assert_eq!((code, body["status"].as_str()), (StatusCode::OK, Some("degraded")));
        assert_eq!(body["damaged"], json!(["orders-1", "group 99"]));
        assert_eq!(body["reasons"].as_array().map(Vec::len), Some(3));
        let failed = NodeStatus { storage_failure: Some("EIO".into()), ..sound };
        let (code, body) = health_of(NodeId(1), &failed, Some(NodeId(2)), &image);
        assert_eq!((code, body["status"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("unhealthy")));
    }

    #[test]
    fn node_is_ready_only_while_registered_with_sound_storage() {
        assert!(!is_ready(&NodeStatus::default()));
        let registered = NodeStatus { registered: true, leased: true, ..NodeStatus::default() };
        assert!(is_ready(&registered));
        assert!(!is_ready(&NodeStatus { storage_failure: Some("EIO".into()), ..registered }));
    }

    #[test]
    fn partition_figures_have_kafka_exporters_names() {
        let image = image();
        let states = [
            state(Some(2), &[2], false),
            state(Some(1), &[1, 2, 3], true),
            state(Some(2), &[2, 1], true),
            state(None, &[], true),
        ];
        let mut out = String::new();
        render_cluster(&mut out, &image);
        render_partitions(&mut out, &image, &states);
        for line in [
            "kafka_brokers 2",
            "kafka_topic_partitions{topic=\"orders\"} 3",
            "kafka_topic_partition_current_offset{topic=\"orders\",partition=\"0\"} 42",
            "kafka_topic_partition_oldest_offset{topic=\"orders\",partition=\"1\"} 7",
            "kafka_topic_partition_leader{topic=\"orders\",partition=\"1\"} 2",
            "kafka_topic_partition_leader_is_preferred{topic=\"orders\",partition=\"0\"} 1",
            "kafka_topic_partition_in_sync_replica{topic=\"orders\",partition=\"1\"} 2",
            "kafka_topic_partition_under_replicated_partition{topic=\"orders\",partition=\"0\"} 0",
            "kafka_topic_partition_under_replicated_partition{topic=\"orders\",partition=\"1\"} 1",
            "kafka_topic_partition_replicas{topic=\"__internal\",partition=\"0\"} 3",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} not in\n{out}");
        }
        assert!(!out.contains("kafka_topic_partition_current_offset{topic=\"__internal\""));
        assert!(!out.contains("kafka_topic_partition_leader{topic=\"orders\",partition=\"2\""));
    }

    #[tokio::test]
    async fn routes_answer_over_a_socket() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let node = crate::broker::dispatch::tests::node();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(axum::serve(listener, router(node.handle.clone())).into_future());
        let get = async |path: &str| {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            response
        };
        let health = get("/health").await;
        assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"status\":\"degraded\""), "{health}");
        let ready = get("/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("\"ready\":false"), "{ready}");
        let metrics = get("/metrics").await;
        for part in [
            "content-type: text/plain; version=0.0.4",
            "kafka_topic_partition_current_offset{topic=\"orders\",partition=\"2\"} 41",
            "\nkontiki_connections 0",
            "\nkontiki_fetch_sessions 0",
            "\nprocess_resident_memory_bytes ",
        ] {
            assert!(metrics.contains(part), "{part} not in\n{metrics}");
        }
        assert!(get("/nope").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }

    #[test]
    fn cpu_time_is_found_behind_an_awkward_command_name() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(cpu_ticks("nonsense"), None);
    }
}
