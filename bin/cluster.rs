//! `kontiki cluster health` and `kontiki ready`; also the client that all commands share.
//!
//! Health is what Metadata and DescribeCluster say, so it works with any Kafka; damaged replicas come from the
//! nodes' own `/health` where --admin names them. Unhealthy is exit code 1.

use crate::cli::{ClusterCommand, Global, HealthArgs, ReadyArgs};
use crate::http;
use crate::output::{Failure, Outcome, Ui, list, pairs};
use kontiki::client::admin::ClusterInfo;
use kontiki::client::{Client, ClientOptions, Error, Member, Metadata, Quorum};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const ADMIN_LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);

/// The client that the global flags describe.
pub fn client(global: &Global) -> Result<Client, Failure> {
    client_with(global, Duration::from_secs(30))
}

fn client_with(global: &Global, limit: Duration) -> Result<Client, Failure> {
    let bootstrap: Vec<String> =
        global.bootstrap.iter().map(|b| with_port(b.trim())).filter(|b| !b.is_empty()).collect();
    if bootstrap.is_empty() {
        return Err(Failure::usage("no bootstrap server").with_hint("-B host:port"));
    }
    let defaults = ClientOptions::default();
    Ok(Client::new(ClientOptions {
        bootstrap,
        connect_timeout: defaults.connect_timeout.min(limit),
        request_timeout: defaults.request_timeout.min(limit),
        call_timeout: limit,
        ..defaults
    }))
}

/// Kafka's port where none is given.
pub fn with_port(broker: &str) -> String {
    let has_port = broker.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    match (broker.is_empty(), has_port) {
        (true, _) => String::new(),
        (_, true) => broker.to_owned(),
        (_, false) if broker.contains(':') && !broker.starts_with('[') => format!("[{broker}]:9092"),
        _ => format!("{broker}:9092"),
    }
}

/// Runs the command.
pub async fn run(command: ClusterCommand, global: &Global, ui: &Ui) -> Outcome {
    let ClusterCommand::Health(args) = command;
    let client = client_with(global, Duration::from_secs(5))?;
    let mut last = None;
    loop {
        let looked = look(&client, &args).await;
        let healthy = matches!(&looked, Ok(health) if health.reasons.is_empty());
        let finished = !args.watch && !args.exit_when_healthy || args.exit_when_healthy && healthy;
        if finished {
            let health = looked?;
            print(&health, ui)?;
            return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if args.watch {
            // Only changes: a watched log should not fill with repetitions.
            let shown = looked.map_or_else(|f| Err(f.message().to_owned()), Ok);
            if last.as_ref() != Some(&shown) {
                match &shown {
                    Ok(health) => print(health, ui)?,
                    Err(message) => ui.note(message),
                }
                last = Some(shown);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        }
    }
}

/// The verdict and what it rests on.
#[derive(Debug, Default, PartialEq)]
struct Health {
    reasons: Vec<String>,
    up: Vec<i32>,
    down: Vec<i32>,
    controller: i32,
    under_replicated: Vec<String>,
    leaderless: Vec<String>,
    /// None: nobody was asked.
    damaged: Option<Vec<String>>,
    /// Partitions without a quorum, by what nodes that hold a replica say.
    waiting: BTreeSet<String>,
    /// What partitions with `recovery.policy=auto` that lost their majority wait for, as the controllers' leader says.
    autos: BTreeSet<String>,
    /// What replicas held that their partitions went on without: partition, node, offsets.
    set_aside: Vec<String>,
    cluster: Option<String>,
    /// Controllers that vote, and whether they were heard lately. None: the brokers cannot tell.
    controllers: Option<Vec<(i32, bool)>>,
    /// Of two controllers: who alone may go on without the other.
    heir: Option<i32>,
    /// Deaths that lose nothing, as things are now.
    survives: Option<Survives>,
    /// What is healthy and will not bear much.
    warnings: Vec<String>,
}

/// How many may die, from now on and before anything comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Survives {
    /// Of the brokers, each after the partitions have shrunk by the one before; None without partitions.
    in_turn: Option<usize>,
    /// Of the brokers, at once.
    at_once: Option<usize>,
    /// Of the controllers.
    controllers: usize,
}

/// A controller silent for longer is not counted.
const SILENT_MS: i64 = 5_000;

async fn look(client: &Client, args: &HealthArgs) -> Result<Health, Failure> {
    let metadata = client.fresh_metadata().await?;
    let cluster = match client.describe_cluster().await {
        Ok(cluster) => Some(cluster),
        // Older brokers: Metadata says enough.
        Err(Error::Unsupported { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    let mut nodes = Vec::new();
    for address in &args.admin {
        nodes.push((address.clone(), node_health(address).await));
    }
    let mut health = judge(&metadata, cluster.as_ref(), &nodes);
    match client.describe_controllers().await {
        Ok(quorum) => judge_controllers(&mut health, &metadata, &quorum),
        // Older brokers do not answer, which says nothing.
        Err(Error::Unsupported { .. }) => {}
        // The broker says for whom they wait, if it knows.
        Err(Error::Kafka { message: Some(message), .. }) => {
            health.reasons.push(format!("no controller answers ({message})"));
        }
        Err(e) => health.reasons.push(format!("no controller answers ({})", e.name())),
    }
    Ok(health)
}

async fn node_health(address: &str) -> Result<Value, String> {
    // Unhealthy nodes answer with an error status and the same object.
    let (_, body) =
        http::request("GET", address, "/health", ADMIN_LIMIT).await.map_err(|f| f.message().to_owned())?;
    serde_json::from_str(&body).map_err(|e| format!("http://{address}/health: {e}"))
}

fn judge(
    metadata: &Metadata,
    cluster: Option<&ClusterInfo>,
    nodes: &[(String, Result<Value, String>)],
) -> Health {
    let mut known: BTreeSet<i32> = metadata.brokers.keys().copied().collect();
    let mut down: BTreeSet<i32> = BTreeSet::new();
    let mut health =
        Health { controller: metadata.controller, cluster: metadata.cluster_id.clone(), ..Health::default() };
    for (broker, fenced) in cluster.map_or(&[][..], |c| &c.brokers[..]) {
        known.insert(broker.id);
        if *fenced {
            down.insert(broker.id);
        }
    }
    for topic in metadata.topics.values() {
        for p in &topic.partitions {
            known.extend(&p.replicas);
            let name = format!("{}/{}", topic.name, p.index);
            if p.leader < 0 {
                health.leaderless.push(name.clone());
            }
            if p.in_sync.len() < p.replicas.len() {
                health.under_replicated.push(name);
            }
        }
    }
    down.extend(known.iter().filter(|id| !metadata.brokers.contains_key(id)));
    health.up = known.difference(&down).copied().collect();
    health.down = down.into_iter().collect();
    if !health.down.is_empty() {
        health.reasons.push(counted(health.down.len(), "broker", "down"));
    }
    if health.controller < 0 {
        health.reasons.push("no controller".into());
    }
    if !health.leaderless.is_empty() {
        health.reasons.push(counted(health.leaderless.len(), "partition", "without leader"));
    }
    if !health.under_replicated.is_empty() {
        health.reasons.push(counted(health.under_replicated.len(), "partition", "under-replicated"));
    }
    judge_nodes(&mut health, nodes);
    health
}

/// What is wrong with the controllers, and what may still die. Deaths in turn need the controllers' majority: a broker that is one of them costs both.
fn judge_controllers(health: &mut Health, metadata: &Metadata, quorum: &Quorum) {
    let latest = quorum.voters.iter().map(|voter| voter.heard_ms).max().unwrap_or(-1);
    // Version 0 of the answer has no times at all.
    let heard = |ms: i64| latest < 0 || ms >= 0 && latest - ms <= SILENT_MS;
    let absent = quorum.absent.as_deref().unwrap_or_default();
    let is_there = |v: &Member| heard(v.heard_ms) && !absent.contains(&v.node);
    let voters: Vec<(i32, bool)> = quorum.voters.iter().map(|v| (v.node, is_there(v))).collect();
    let live = voters.iter().filter(|voter| voter.1).count();
    let controllers = live.saturating_sub(voters.len() / 2 + 1);
    let silent: Vec<i32> = voters.iter().filter(|voter| !voter.1).map(|voter| voter.0).collect();
    if !silent.is_empty() {
        health.reasons.push(counted(silent.len(), "controller", &format!("silent: {}", list(&silent))));
    }
    let is_broker = |node: &i32| health.up.contains(node) || health.down.contains(node);
    let is_voter = |node: &i32| voters.iter().any(|voter| voter.0 == *node);
    let voteless: Vec<i32> = match &quorum.absent {
        // Up and in sync it may be a while before it votes: whoever restarts the next one by then may take the majority away.
        Some(absent) => absent.iter().copied().filter(|node| !is_voter(node)).collect(),
        // Brokers follow the controllers' log too, and who is both is not told apart.
        None => quorum.learners.iter().map(|l| l.node).filter(|node| !is_broker(node)).collect(),
    };
    if !voteless.is_empty() {
        let what = format!("without a vote: {}", list(&voteless));
        health.reasons.push(counted(voteless.len(), "controller", &what));
    }
    if quorum.is_joint {
        health.reasons.push("who of the controllers votes is being changed".to_owned());
    }
    let combined = voters.iter().filter(|voter| is_broker(&voter.0)).count();
    let in_sync = metadata.topics.values().flat_map(|t| &t.partitions).map(|p| p.in_sync.len());
    let least = in_sync.min();
    let bound = |n: usize| if combined > 0 { n.min(controllers) } else { n };
    health.survives = Some(Survives {
        in_turn: least.map(|n| bound(n.saturating_sub(1))),
        at_once: least.map(|n| bound(n.saturating_sub(1) / 2)),
        controllers,
    });
    health.heir = quorum.heir.filter(|_| !quorum.is_joint && voters.len() == 2);
    if let Some(heir) = health.heir {
        let other = voters.iter().map(|voter| voter.0).find(|node| *node != heir);
        health.warnings.push(format!(
            "two controllers vote: without node {} node {heir}, the heir, goes on alone; without node {heir} nothing goes on before it is back",
            other.unwrap_or(-1),
        ));
    } else if combined == voters.len() && voters.len() == 3 {
        health.warnings.push(
            "3 nodes are brokers and all the controllers there are: any one may die, and then one more if it is not the heir of the two \
             controllers left; have five, or controllers of their own"
                .to_owned(),
        );
    }
    if voters.len() == 1 {
        health
            .warnings
            .push("one controller: while it is down nothing is created, moved or shrunk".to_owned());
    }
    health.controllers = Some(voters);
}

impl Survives {
    fn text(self) -> String {
        let brokers = match (self.in_turn, self.at_once) {
            (Some(in_turn), Some(at_once)) => {
                format!("brokers: {in_turn} one after another, {at_once} at once; ")
            }
            _ => String::new(),
        };
        format!("{brokers}controllers: {}", self.controllers)
    }
}

fn judge_nodes(health: &mut Health, nodes: &[(String, Result<Value, String>)]) {
    if nodes.is_empty() {
        return;
    }
    let mut damaged = BTreeSet::new();
    for (address, answer) in nodes {
        let node = match answer {
            Ok(node) => node,
            Err(why) => {
                health.reasons.push(why.clone());
                continue;
            }
        };
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let found =
            node["damaged"].as_array().map(|a| a.iter().map(text).collect::<Vec<_>>()).unwrap_or_default();
        damaged.extend(found.into_iter().map(|replica| format!("{replica}@{address}")));
        health.waiting.extend(node["waiting"].as_array().into_iter().flatten().map(text));
        let autos = node["auto"].as_object().into_iter().flatten();
        health.autos.extend(autos.map(|(partition, said)| format!("{partition} {}", text(said))));
        if node["leased"] == Value::Bool(false) {
            let why =
                format!("{address}: no lease from the controllers, topics with recovery.policy=auto stop");
            health.reasons.push(why);
        }
        let aside = node["set_aside"].as_array().into_iter().flatten().map(|aside| {
            let (partition, offsets) = (text(&aside["partition"]), &aside["offsets"]);
            format!("{partition}@{address}[{}..{})", offsets[0], offsets[1])
        });
        health.set_aside.extend(aside);
        if let Some(failure) = node["storage_failure"].as_str() {
            health.reasons.push(format!("{address}: storage failed: {failure}"));
        }
        if let Some(heir) = node["controllers"]["waits_for_heir"].as_i64() {
            let why = format!("{address}: the controllers wait for node {heir}, the heir of the pair");
            health.reasons.push(why);
        }
        let missed: Vec<String> =
            node["controllers"]["waits_for"].as_array().into_iter().flatten().map(text).collect();
        if !missed.is_empty() {
            let which = missed.join(" and ");
            health.reasons.push(format!(
                "{address}: the controllers wait for node {which}, to finish a change of who votes"
            ));
        }
        if node["disk_full"] == Value::Bool(true) {
            health.reasons.push(format!("{address}: disk full"));
        }
    }
    if !damaged.is_empty() {
        health.reasons.push(counted(damaged.len(), "replica", "damaged"));
    }
    if !health.waiting.is_empty() {
        health.reasons.push(counted(health.waiting.len(), "partition", "waiting for replicas"));
    }
    health.damaged = Some(damaged.into_iter().collect());
}

fn counted(n: usize, noun: &str, what: &str) -> String {
    format!("{n} {noun}{} {what}", if n == 1 { "" } else { "s" })
}

fn print(health: &Health, ui: &Ui) -> Result<(), Failure> {
    let healthy = health.reasons.is_empty();
    if ui.is_json() {
        return ui.json_items(vec![json!({
            "healthy": healthy, "reasons": health.reasons, "cluster_id": health.cluster,
            "brokers_up": health.up, "brokers_down": health.down, "controller": health.controller,
            "under_replicated": health.under_replicated, "leaderless": health.leaderless, "damaged": health.damaged,
            "waiting": health.waiting, "auto": health.autos, "set_aside": health.set_aside, "warnings": health.warnings,
            "heir": health.heir,
            "controllers": health.controllers.as_ref().map(|all| all.iter().map(|c| c.0).collect::<Vec<_>>()),
            "survives": health.survives.map(|s| json!({
                "brokers_one_after_another": s.in_turn, "brokers_at_once": s.at_once, "controllers": s.controllers,
            })),
        })]);
    }
    let names = |items: &[String]| items.join(" ");
    let mut brokers = format!("{} (up {})", health.up.len() + health.down.len(), health.up.len());
    if !health.down.is_empty() {
        brokers.push_str(&format!("  DOWN {}", list(&health.down)));
    }
    let (under, leaderless) = (
        format!("UNDER-REPLICATED ({})", health.under_replicated.len()),
        format!("LEADERLESS ({})", health.leaderless.len()),
    );
    let damaged =
        format!("DAMAGED ({})", health.damaged.as_ref().map_or("?".into(), |d| d.len().to_string()));
    let unknown = "not asked; --admin HOST:PORT names nodes to ask".to_owned();
    let waiting: Vec<String> = health.waiting.iter().cloned().collect();
    let waits = format!("WAITING ({})", waiting.len());
    let mut rows = vec![
        ("HEALTHY", if healthy { "yes" } else { "no" }.to_owned()),
        ("REASONS", health.reasons.join("; ")),
        ("CLUSTER", health.cluster.clone().unwrap_or_default()),
        ("BROKERS", brokers),
        ("CONTROLLER", if health.controller < 0 { String::new() } else { health.controller.to_string() }),
        (&under, names(&health.under_replicated)),
        (&leaderless, names(&health.leaderless)),
        (&damaged, health.damaged.as_ref().map_or(unknown, |d| names(d))),
    ];
    if let Some(survives) = health.survives {
        rows.push(("SURVIVES", survives.text()));
    }
    if !health.warnings.is_empty() {
        rows.push(("WARNINGS", health.warnings.join("; ")));
    }
    if !waiting.is_empty() {
        rows.push((&waits, names(&waiting)));
    }
    if !health.autos.is_empty() {
        rows.push(("AUTO", health.autos.iter().cloned().collect::<Vec<_>>().join("; ")));
    }
    if !health.set_aside.is_empty() {
        rows.push(("SET ASIDE", names(&health.set_aside)));
    }
    ui.out(&pairs(&rows))
}

/// Runs `kontiki ready`.
pub async fn ready(args: ReadyArgs, global: &Global, ui: &Ui) -> Outcome {
    let started = Instant::now();
    // Short limits inside, so that a broker that is just starting is asked again soon.
    let client = client_with(global, Duration::from_secs(2).min(args.timeout.max(POLL)))?;
    let failure = loop {
        let left = args.timeout.saturating_sub(started.elapsed());
        let missing = match tokio::time::timeout(left.max(POLL), missing(&client, &args)).await {
            Ok(Ok(None)) => break None,
            Ok(Ok(Some(what))) => Failure::new("NOT_READY", what),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new("NOT_READY", "no answer from the cluster"),
        };
        if started.elapsed() + POLL > args.timeout {
            break Some(missing);
        }
        tokio::time::sleep(POLL).await;
    };
    match failure {
        Some(failure) => Err(failure),
        None if ui.is_json() => {
            ui.json_items(vec![json!({ "ready": true, "waited_ms": started.elapsed().as_millis() as u64 })])?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            ui.out("ready\n")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What the cluster still lacks. Partitions count only if their topic is named: one partition without leader must
/// not make an orchestrator restart healthy nodes.
async fn missing(client: &Client, args: &ReadyArgs) -> Result<Option<String>, Failure> {
    for address in &args.admin {
        let (status, body) = http::request("GET", address, "/ready", ADMIN_LIMIT).await?;
        if status != 200 {
            return Ok(Some(format!("http://{address}/ready: {status} {}", body.trim())));
        }
    }
    if !args.admin.is_empty() {
        return Ok(None);
    }
    let names: &[String] = &args.topics;
    match client.refresh(Some(names), false).await {
        Err(e) if e.kafka_code() == Some(3) => return Ok(Some(e.to_string())),
        other => other?,
    }
    let metadata = client.metadata();
    if metadata.brokers.len() < args.brokers {
        return Ok(Some(format!("{} of {} brokers are up", metadata.brokers.len(), args.brokers)));
    }
    if metadata.controller < 0 {
        return Ok(Some("the cluster has no controller yet".into()));
    }
    for name in names {
        let Some(topic) = metadata.topics.get(name) else {
            return Ok(Some(format!("topic `{name}` does not exist")));
        };
        if let Some(p) = topic.partitions.iter().find(|p| p.leader < 0) {
            return Ok(Some(format!("{name}/{} has no leader", p.index)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki::client::{Broker, Member, PartitionInfo, TopicInfo};

    fn metadata(live: &[i32], leader: i32, in_sync: &[i32]) -> Metadata {
        let partition = PartitionInfo {
            index: 0,
            leader,
            epoch: 1,
            replicas: vec![1, 2, 3],
            in_sync: in_sync.to_vec(),
            offline: vec![],
        };
        let topic = TopicInfo {
            name: "t".into(),
            id: uuid::Uuid::nil(),
            internal: false,
            partitions: vec![partition],
        };
        Metadata {
            cluster_id: Some("c".into()),
            controller: 1,
            brokers: live
                .iter()
                .map(|id| (*id, Broker { id: *id, host: "h".into(), port: 1, rack: None }))
                .collect(),
            topics: [("t".to_owned(), topic)].into(),
        }
    }

    #[test]
    fn judge_all_up_and_in_sync_is_healthy() {
        let health = judge(&metadata(&[1, 2, 3], 1, &[1, 2, 3]), None, &[]);
        assert_eq!(health.reasons, Vec::<String>::new());
        assert_eq!((health.up.len(), health.damaged), (3, None));
    }

    #[test]
    fn judge_dead_broker_is_found_through_replicas() {
        let health = judge(&metadata(&[1, 2], 1, &[1, 2]), None, &[]);
        assert_eq!(health.down, [3]);
        assert_eq!(health.reasons, ["1 broker down", "1 partition under-replicated"]);
        let health = judge(&metadata(&[1, 2, 3], -1, &[1]), None, &[]);
        assert_eq!(health.leaderless, ["t/0"]);
    }

    #[test]
    fn judge_nodes_damage_and_disk_are_reasons() {
        let nodes = [
            ("a:1".to_owned(), Ok(json!({ "damaged": ["t/0"], "disk_full": true, "storage_failure": null }))),
            ("b:1".to_owned(), Err("cannot reach b".to_owned())),
        ];
        let health = judge(&metadata(&[1, 2, 3], 1, &[1, 2, 3]), None, &nodes);
        assert_eq!(health.damaged, Some(vec!["t/0@a:1".to_owned()]));
        assert_eq!(health.reasons, ["a:1: disk full", "cannot reach b", "1 replica damaged"]);
    }

    #[test]
    fn judge_nodes_waiting_partitions_are_a_reason_and_what_is_set_aside_is_named() {
        let aside = json!([{ "partition": "t-0", "entries": ["5@0.1", "6@0.1"], "offsets": [40, 42] }]);
        let nodes = [
            ("a:1".to_owned(), Ok(json!({ "damaged": [], "waiting": ["t-0"], "set_aside": aside }))),
            ("b:1".to_owned(), Ok(json!({ "damaged": [], "waiting": ["t-0"] }))),
        ];
        let health = judge(&metadata(&[1, 2, 3], 1, &[1, 2, 3]), None, &nodes);
        assert_eq!(health.reasons, ["1 partition waiting for replicas"]);
        assert_eq!(health.set_aside, ["t-0@a:1[40..42)"]);
    }

    #[test]
    fn judge_nodes_missing_lease_is_a_reason_and_what_goes_on_by_itself_is_named() {
        let auto = json!({ "t-0": "goes on by itself in 900 ms, unless brokers come back" });
        let nodes = [
            ("a:1".to_owned(), Ok(json!({ "damaged": [], "leased": true, "auto": auto }))),
            ("b:1".to_owned(), Ok(json!({ "damaged": [], "leased": false, "auto": {} }))),
        ];
        let health = judge(&metadata(&[1, 2, 3], 1, &[1, 2, 3]), None, &nodes);
        let why = "b:1: no lease from the controllers, topics with recovery.policy=auto stop";
        assert_eq!(health.reasons, [why]);
        let said: Vec<&String> = health.autos.iter().collect();
        assert_eq!(said, ["t-0 goes on by itself in 900 ms, unless brokers come back"]);
    }

    fn controllers(heard: &[(i32, i64)]) -> Quorum {
        let voter = |(node, heard_ms): &(i32, i64)| Member {
            node: *node,
            end: 1,
            heard_ms: *heard_ms,
            caught_up_ms: *heard_ms,
        };
        Quorum {
            leader: heard[0].0,
            epoch: 1,
            generation: Some(0),
            is_joint: false,
            high_watermark: 1,
            voters: heard.iter().map(voter).collect(),
            learners: Vec::new(),
            heir: (heard.len() == 2).then(|| heard[0].0),
            absent: None,
        }
    }

    #[test]
    fn survives_counts_what_is_in_sync_and_controllers_that_are_heard() {
        let survives = |in_sync: &[i32], heard: &[(i32, i64)]| {
            let metadata = metadata(in_sync, 1, in_sync);
            let mut health = judge(&metadata, None, &[]);
            judge_controllers(&mut health, &metadata, &controllers(heard));
            let survives = health.survives.unwrap();
            (
                survives.in_turn.unwrap(),
                survives.at_once.unwrap(),
                survives.controllers,
                health.warnings.len(),
            )
        };
        let apart = [(11, 90_000), (12, 89_900), (13, 89_900)];
        assert_eq!(survives(&[1, 2, 3], &apart), (2, 1, 1, 0));
        assert_eq!(survives(&[1, 2], &apart), (1, 0, 1, 0));
        assert_eq!(survives(&[1, 2, 3], &[(11, 90_000), (12, 80_000), (13, 89_900)]), (2, 1, 0, 0));
        // Three combined nodes: the second death takes the controllers' majority.
        assert_eq!(survives(&[1, 2, 3], &[(1, 90_000), (2, 89_900), (3, 89_900)]), (1, 1, 1, 1));
        // One of them dead: the warning stays.
        assert_eq!(survives(&[1, 2], &[(1, 90_000), (2, 89_900), (3, 80_000)]), (0, 0, 0, 1));
        assert_eq!(survives(&[1, 2, 3], &[(11, 90_000)]), (2, 1, 0, 1));
    }

    #[test]
    fn two_controllers_are_said_to_hang_on_their_heir_and_one_apart_without_a_vote_is_a_reason() {
        let metadata = metadata(&[1, 2], 1, &[1, 2]);
        let mut health = judge(&metadata, None, &[]);
        let mut quorum = controllers(&[(2, 90_000), (1, 89_900)]);
        quorum.learners =
            vec![Member { node: 3, ..quorum.voters[0] }, Member { node: 11, ..quorum.voters[0] }];
        judge_controllers(&mut health, &metadata, &quorum);
        assert_eq!((health.heir, health.survives.unwrap().controllers), (Some(2), 0));
        assert!(health.warnings[0].contains("without node 1 node 2, the heir, goes on alone"), "{health:?}");
        assert_eq!(health.reasons.last().map(String::as_str), Some("1 controller without a vote: 11"));
        quorum.is_joint = true;
        let mut health = judge(&metadata, None, &[]);
        judge_controllers(&mut health, &metadata, &quorum);
        assert_eq!(health.heir, None, "not before that is settled");
    }

    #[test]
    fn judge_nodes_node_that_waits_for_the_heir_is_a_reason() {
        let node = json!({ "controllers": { "waits_for_heir": 2 } });
        let health = judge(&metadata(&[1, 2, 3], 1, &[1, 2, 3]), None, &[("a:1".to_owned(), Ok(node))]);
        assert_eq!(health.reasons, ["a:1: the controllers wait for node 2, the heir of the pair"]);
    }

    #[test]
    fn combined_controller_that_is_up_and_does_not_vote_yet_is_a_reason() {
        let metadata = metadata(&[1, 2, 3], 1, &[1, 2, 3]);
        let reasons = |absent: &[i32], is_joint: bool| {
            let mut health = judge(&metadata, None, &[]);
            let mut quorum = controllers(&[(1, 90_000), (2, 89_900)]);
            (quorum.absent, quorum.is_joint) = (Some(absent.to_vec()), is_joint);
            judge_controllers(&mut health, &metadata, &quorum);
            (health.reasons, health.survives.unwrap().controllers)
        };
        // Node 3 is up, its partitions are in sync: nothing else says that it has no vote.
        assert_eq!(reasons(&[3], false), (vec!["1 controller without a vote: 3".to_owned()], 0));
        assert_eq!(reasons(&[], true), (vec!["who of the controllers votes is being changed".to_owned()], 0));
        assert_eq!(reasons(&[], false).0, Vec::<String>::new());
        // It stopped in order a moment ago, and was heard until then.
        assert_eq!(reasons(&[2], false).0, ["1 controller silent: 2"]);
    }

    #[test]
    fn silent_controller_is_a_reason() {
        let metadata = metadata(&[1, 2, 3], 1, &[1, 2, 3]);
        let mut health = judge(&metadata, None, &[]);
        judge_controllers(&mut health, &metadata, &controllers(&[(11, 90_000), (12, 80_000), (13, 89_900)]));
        assert_eq!(health.reasons, ["1 controller silent: 12"]);
        let mut health = judge(&metadata, None, &[]);
        judge_controllers(&mut health, &metadata, &controllers(&[(11, -1), (12, -1), (13, -1)]));
        assert_eq!(
            (health.reasons.len(), health.survives.unwrap().controllers),
            (0, 1),
            "no times, no verdict"
        );
    }

    #[test]
    fn with_port_kafkas_is_added_where_missing() {
        for (given, full) in [
            ("h", "h:9092"),
            ("h:1", "h:1"),
            ("::1", "[::1]:9092"),
            ("[::1]", "[::1]:9092"),
            ("[::1]:5", "[::1]:5"),
            ("", ""),
        ] {
            assert_eq!(with_port(given), full);
        }
    }
}
