//! `kontiki partition move|reassign|rebalance`: where replicas are to be.
//!
//! Makes a plan of what the cluster says of itself, prints it, asks for it by AlterPartitionReassignments, and watches. The cluster does
//! the rest by itself and remembers it; this command remembers nothing. The plan of `rebalance` is the controllers' own planner's
//! (`broker::planning`).

use crate::cli::Global;
use crate::cli_operate::{MoveArgs, ReassignArgs, RebalanceArgs, Wait};
use crate::output::{Failure, Item, Outcome, Ui, list};
use crate::text::bytes;
use kontiki::broker::planning::{self, NodeId, Row, Site};
use kontiki::client::admin::ClusterInfo;
use kontiki::client::{Client, Error, Metadata, PartitionName, Reassignment};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(500);
/// How often progress is told where nobody looks at a terminal.
const TELL: Duration = Duration::from_secs(5);
/// Refusals told one by one.
const NAMED: usize = 5;
/// Partitions in one request.
const ROWS: usize = 1_000;

/// What a cluster says of itself.
pub struct Picture {
    /// Brokers, topics, leaders.
    pub metadata: Metadata,
    /// Every registered broker.
    pub cluster: ClusterInfo,
    /// What moves already.
    pub moving: BTreeMap<PartitionName, Reassignment>,
    /// What moved just before the rest was asked for: of these the metadata may tell of replicas that have left, or are about to.
    pub moved: BTreeMap<PartitionName, Reassignment>,
}

impl Picture {
    /// Asks for it.
    pub async fn of(client: &Client) -> Result<Self, Failure> {
        let moved = client.reassignments().await?;
        let metadata = client.fresh_metadata().await?;
        let cluster = client.describe_cluster().await?;
        let moving = client.reassignments().await?;
        Ok(Self { metadata, cluster, moving, moved })
    }

    /// Where the replicas of each partition are, or are to be.
    pub fn places(&self) -> BTreeMap<PartitionName, Vec<i32>> {
        let mut places = BTreeMap::new();
        for topic in self.metadata.topics.values() {
            for p in &topic.partitions {
                let name = (topic.name.clone(), p.index);
                let moves = self.moving.get(&name).or_else(|| self.moved.get(&name));
                let target = moves.map_or_else(|| p.replicas.clone(), Reassignment::target);
                places.insert(name, target);
            }
        }
        places
    }

    /// Whether it is on its way, or was a moment ago: nothing is planned of such a one.
    pub fn is_moving(&self, name: &PartitionName) -> bool {
        self.moving.contains_key(name) || self.moved.contains_key(name)
    }

    /// Brokers that answer.
    pub fn is_up(&self, broker: i32) -> bool {
        self.metadata.brokers.contains_key(&broker)
    }

    /// The brokers as the planner sees them.
    pub fn sites(&self) -> BTreeMap<NodeId, Site> {
        let site = |(broker, fenced): &(kontiki::client::Broker, bool)| {
            let takes = !fenced && !self.cluster.drains.contains_key(&broker.id);
            (NodeId(broker.id), Site { rack: broker.rack.clone(), takes })
        };
        self.cluster.brokers.iter().map(site).collect()
    }
}

/// Bytes of each partition: those of its largest replica, as far as brokers tell.
pub async fn sizes(client: &Client, picture: &Picture) -> BTreeMap<PartitionName, u64> {
    let mut sizes: BTreeMap<PartitionName, u64> = BTreeMap::new();
    for broker in picture.metadata.brokers.keys() {
        // One that does not answer is counted by the others' replicas.
        for (name, size) in client.replica_sizes(*broker).await.unwrap_or_default() {
            let known = sizes.entry(name).or_default();
            *known = size.max(*known);
        }
    }
    sizes
}

/// A partition that is to be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub name: PartitionName,
    /// Its replicas now.
    pub from: Vec<i32>,
    /// And then.
    pub to: Vec<i32>,
    /// Bytes to be copied; None if no broker told.
    pub bytes: Option<u64>,
}

impl Move {
    fn new(name: PartitionName, from: Vec<i32>, to: Vec<i32>, sizes: &BTreeMap<PartitionName, u64>) -> Self {
        let copies = to.iter().filter(|node| !from.contains(node)).count() as u64;
        let bytes = if copies == 0 { Some(0) } else { sizes.get(&name).map(|size| size * copies) };
        Self { name, from, to, bytes }
    }

    fn copies(&self) -> usize {
        self.to.iter().filter(|node| !self.from.contains(node)).count()
    }

    fn label(&self) -> String {
        label(&self.name)
    }

    fn cells(&self, state: &str) -> Vec<String> {
        vec![
            self.label(),
            list(&self.from),
            list(&self.to),
            self.bytes.map_or(String::new(), bytes),
            state.into(),
        ]
    }

    fn json(&self, state: &str) -> Value {
        json!({ "topic": self.name.0, "partition": self.name.1, "from": self.from, "to": self.to,
            "bytes": self.bytes, "state": state })
    }
}

/// `topic-0`.
pub fn label((topic, partition): &PartitionName) -> String {
    format!("{topic}-{partition}")
}

const ROW: [&str; 5] = ["PARTITION", "FROM", "TO", "COPY", "STATE"];

/// `kontiki partition move`.
pub async fn move_replicas(args: &MoveArgs, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    let picture = Picture::of(&client).await?;
    if args.from == args.to {
        return Err(Failure::usage("--from and --to are the same broker"));
    }
    if !picture.is_up(args.to) {
        let why = format!("broker {} is not up", args.to);
        return Err(
            Failure::new("BROKER_NOT_AVAILABLE", why).with_hint("`kontiki broker list` shows which are")
        );
    }
    let wanted = wanted(&picture, args.topic.as_deref(), &args.partitions)?;
    let (mut targets, mut held, mut busy) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (name, place) in wanted.into_iter().filter(|(_, place)| place.contains(&args.from)) {
        if place.contains(&args.to) {
            held.push(label(&name));
            continue;
        }
        if picture.is_moving(&name) {
            busy.push(label(&name));
            continue;
        }
        let swap = |node: i32| if node == args.from { args.to } else { node };
        targets.insert(name, place.into_iter().map(swap).collect());
    }
    if !held.is_empty() {
        ui.note(&format!("left out, broker {} holds them already: {}", args.to, held.join(" ")));
    }
    if !busy.is_empty() {
        ui.note(&format!("left out, they are on their way already: {}", busy.join(" ")));
    }
    carry_out(&client, &picture, targets, false, args.dry_run, &args.wait, ui).await
}

/// The partitions that a topic and numbers name.
fn wanted(
    picture: &Picture,
    topic: Option<&str>,
    partitions: &[i32],
) -> Result<BTreeMap<PartitionName, Vec<i32>>, Failure> {
    let mut places = picture.places();
    let Some(topic) = topic else { return Ok(places) };
    let Some(known) = picture.metadata.topics.get(topic) else {
        return Err(Failure::new("UNKNOWN_TOPIC_OR_PARTITION", format!("unknown topic `{topic}`"))
            .with_hint("kontiki topic list"));
    };
    if let Some(unknown) = partitions.iter().find(|p| !known.partitions.iter().any(|k| k.index == **p)) {
        let why =
            format!("topic `{topic}` has no partition {unknown}, only 0 to {}", known.partitions.len() - 1);
        return Err(Failure::new("UNKNOWN_TOPIC_OR_PARTITION", why));
    }
    places.retain(|name, _| name.0 == topic && (partitions.is_empty() || partitions.contains(&name.1)));
    Ok(places)
}

/// `kontiki partition reassign`.
pub async fn reassign(args: &ReassignArgs, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    let picture = Picture::of(&client).await?;
    if args.cancel {
        let asked = wanted(&picture, args.topic.as_deref(), &args.partitions)?;
        let names: Vec<PartitionName> =
            picture.moving.keys().filter(|name| asked.contains_key(*name)).cloned().collect();
        return cancel(&client, &names, args.dry_run, ui).await;
    }
    let targets = match &args.file {
        Some(path) => read_plan(path)?,
        None => {
            let asked = wanted(&picture, args.topic.as_deref(), &args.partitions)?;
            asked.into_keys().map(|name| (name, args.replicas.clone())).collect()
        }
    };
    let places = picture.places();
    if let Some(unknown) = targets.keys().find(|name| !places.contains_key(*name)) {
        let why = format!("unknown partition {}", label(unknown));
        return Err(Failure::new("UNKNOWN_TOPIC_OR_PARTITION", why));
    }
    carry_out(&client, &picture, targets, true, args.dry_run, &args.wait, ui).await
}

/// A plan in the JSON of Kafka's tool.
fn read_plan(path: &Path) -> Result<BTreeMap<PartitionName, Vec<i32>>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::new("IO", format!("cannot read {}: {e}", path.display())))?;
    parse_plan(&text).map_err(|why| {
        Failure::usage(format!("{}: {why}", path.display()))
            .with_hint(r#"{"version":1,"partitions":[{"topic":"orders","partition":0,"replicas":[4,2,3]}]}"#)
    })
}

fn parse_plan(text: &str) -> Result<BTreeMap<PartitionName, Vec<i32>>, String> {
    let plan: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    if plan["version"].as_i64() != Some(1) {
        return Err("not a plan of version 1".into());
    }
    let rows = plan["partitions"].as_array().ok_or("it names no partitions")?;
    let mut targets = BTreeMap::new();
    for row in rows {
        let number = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok());
        let name = row["topic"].as_str().map(str::to_owned).zip(number(&row["partition"]));
        let nodes =
            row["replicas"].as_array().and_then(|all| all.iter().map(number).collect::<Option<Vec<_>>>());
        let (Some(name), Some(nodes)) = (name, nodes) else {
            return Err(format!("not a partition's row: {row}"));
        };
        if targets.insert(name.clone(), nodes).is_some() {
            return Err(format!("{} stands in it twice", label(&name)));
        }
    }
    Ok(targets)
}

/// `kontiki partition rebalance`.
pub async fn rebalance(args: &RebalanceArgs, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    let picture = Picture::of(&client).await?;
    for topic in &args.topics {
        wanted(&picture, Some(topic), &[])?;
    }
    let targets = level(&picture, &args.topics);
    carry_out(&client, &picture, targets, false, args.dry_run, &args.wait, ui).await
}

/// What the planner would have elsewhere; `only` these topics, if any are named.
pub fn level(picture: &Picture, only: &[String]) -> BTreeMap<PartitionName, Vec<i32>> {
    let mut topics: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = Vec::new();
    let mut rows = Vec::new();
    for (name, place) in picture.places() {
        let next = topics.len();
        let topic = *topics.entry(name.0.clone()).or_insert(next);
        let stays = picture.is_moving(&name) || !(only.is_empty() || only.contains(&name.0));
        rows.push(Row { topic, nodes: place.into_iter().map(NodeId).collect(), stays });
        names.push(name);
    }
    let plan = planning::rebalance(&picture.sites(), &rows);
    let target = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    plan.into_iter().map(|(at, nodes)| (names[at].clone(), target(nodes))).collect()
}

/// What targets mean for the partitions that are not there already.
pub async fn plan(
    client: &Client,
    picture: &Picture,
    targets: BTreeMap<PartitionName, Vec<i32>>,
) -> Vec<Move> {
    let places = picture.places();
    let from = |name: &PartitionName| places.get(name).cloned().unwrap_or_default();
    let changes: Vec<(PartitionName, Vec<i32>, Vec<i32>)> = targets
        .into_iter()
        .map(|(name, to)| (name.clone(), from(&name), to))
        .filter(|(_, from, to)| from != to)
        .collect();
    let is_copied = |(_, from, to): &(_, Vec<i32>, Vec<i32>)| to.iter().any(|node| !from.contains(node));
    let sizes = if changes.iter().any(is_copied) { sizes(client, picture).await } else { BTreeMap::new() };
    changes.into_iter().map(|(name, from, to)| Move::new(name, from, to, &sizes)).collect()
}

/// One line on a plan.
pub fn summary(moves: &[Move]) -> String {
    let copies: usize = moves.iter().map(Move::copies).sum();
    let known: u64 = moves.iter().filter_map(|one| one.bytes).sum();
    let more = if moves.iter().any(|one| one.bytes.is_none()) { " or more" } else { "" };
    let order = moves.iter().filter(|one| one.copies() == 0 && one.from.len() == one.to.len()).count();
    let rest = moves.len() - order;
    let mut said = Vec::new();
    if rest > 0 {
        let (p, c) = (plural(rest, "partition"), plural(copies, "replica"));
        said.push(format!("{p} to move, {c} to copy, {}{more}", bytes(known)));
    }
    if order > 0 {
        said.push(format!("{} with another preferred leader only", plural(order, "partition")));
    }
    said.join("; ")
}

fn plural(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

async fn carry_out(
    client: &Client,
    picture: &Picture,
    targets: BTreeMap<PartitionName, Vec<i32>>,
    allow_factor_change: bool,
    dry_run: bool,
    wait: &Wait,
    ui: &Ui,
) -> Outcome {
    let moves = plan(client, picture, targets).await;
    if moves.is_empty() {
        if ui.is_json() {
            ui.json_items(Vec::new())?;
        } else {
            ui.out("nothing to move\n")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let planned = |moves: &[Move]| {
        moves.iter().map(|one| Item::ok(one.cells("planned"), one.json("planned"))).collect()
    };
    if dry_run {
        let outcome = ui.results(&ROW, planned(&moves));
        ui.note(&format!("{}. Nothing was changed.", summary(&moves)));
        return outcome;
    }
    if !ui.is_json() {
        ui.results(&ROW, planned(&moves))?;
    }
    ui.note(&summary(&moves));
    let mut refused: BTreeMap<PartitionName, Error> = BTreeMap::new();
    let mut asked = 0;
    for part in moves.chunks(ROWS) {
        let rows = part.iter().map(|one| (one.name.clone(), Some(one.to.clone()))).collect();
        for (name, done) in client.reassign(&rows, allow_factor_change).await.map_err(|e| partly(e, asked))? {
            if let Err(why) = done {
                refused.insert(name, why);
            }
        }
        asked += part.len();
    }
    if !ui.is_json() {
        refused.values().take(NAMED).for_each(|why| ui.note(&why.to_string()));
    }
    let taken: Vec<Move> = moves.iter().filter(|one| !refused.contains_key(&one.name)).cloned().collect();
    let is_over = match wait.no_wait || taken.is_empty() {
        true => None,
        false => Some(follow(client, &taken, wait, ui).await?),
    };
    let item = |one: &Move| match (refused.remove(&one.name), &is_over) {
        (Some(why), _) => Item::failed(one.cells("refused"), one.json("refused"), why.into()),
        (None, None) => Item::ok(one.cells("under-way"), one.json("under-way")),
        (None, Some(Over::Done)) => Item::ok(one.cells("done"), one.json("done")),
        (None, Some(Over::Late(left))) | (None, Some(Over::Left(left))) => match left.get(&one.name) {
            None => Item::ok(one.cells("done"), one.json("done")),
            Some(why) => not_there(one, why),
        },
    };
    let items: Vec<Item> = moves
        .iter()
        .map({
            let mut item = item;
            move |one| item(one)
        })
        .collect();
    let outcome = ui.results(&ROW, items)?;
    Ok(if matches!(is_over, Some(Over::Left(_))) { ExitCode::from(130) } else { outcome })
}

/// A request failed behind others: what these asked for is not undone by that.
fn partly(why: Error, asked: usize) -> Failure {
    let failure = Failure::from(why);
    match asked {
        0 => failure,
        asked => {
            let said =
                format!("{}; {} had been asked for before", failure.message(), plural(asked, "partition"));
            Failure::new("PARTLY_DONE", said)
                .with_hint("`kontiki op list` says what is under way; the same command asks for the rest")
        }
    }
}

fn not_there(one: &Move, why: &str) -> Item {
    let said = format!("{}: {why}", one.label());
    let (state, failure) = match why == ELSEWHERE {
        true => (
            "elsewhere",
            Failure::new("WENT_ELSEWHERE", said).with_hint("`kontiki op list` says what is under way"),
        ),
        false => (
            "under-way",
            Failure::new("STILL_UNDER_WAY", said)
                .with_hint("it goes on by itself; `kontiki op list` says how far it has come"),
        ),
    };
    Item::failed(one.cells(state), one.json(state), failure)
}

/// How the waiting ended: done, at the time limit, or by Ctrl-C; with what is left and why.
pub enum Over {
    /// Everything is where it was to be.
    Done,
    /// The time limit came first.
    Late(BTreeMap<PartitionName, String>),
    /// The user went away.
    Left(BTreeMap<PartitionName, String>),
}

/// Waits until everything has arrived, and says how far it is.
pub async fn follow(client: &Client, moves: &[Move], wait: &Wait, ui: &Ui) -> Result<Over, Failure> {
    let begun = Instant::now();
    let mut progress = Progress::new(moves);
    let mut left: BTreeMap<PartitionName, String> =
        moves.iter().map(|one| (one.name.clone(), "not looked at yet".to_owned())).collect();
    let mut told = Instant::now();
    let mut elsewhere: BTreeMap<PartitionName, u32> = BTreeMap::new();
    loop {
        // Whoever was asked may be the one that is just being restarted.
        if let Ok(picture) = Picture::of(client).await {
            left = pending(&picture, moves);
            count_elsewhere(&picture, moves, &mut left, &mut elsewhere);
            match (left.is_empty(), left.values().all(|why| why == ELSEWHERE)) {
                (true, _) => return Ok(Over::Done),
                (false, true) => return Ok(Over::Late(left)),
                (false, false) => {}
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                progress.look(client, &picture, &left).await;
                ui.note(&progress.text(&left));
            }
        }
        if wait.timeout.is_some_and(|limit| begun.elapsed() >= limit) {
            return Ok(Over::Late(left));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Over::Left(left)),
        }
    }
}

/// What is to become of it was changed by somebody else: it is no use to wait.
const ELSEWHERE: &str = "somebody else, or the controllers, had it go elsewhere or back meanwhile";
/// So many looks in a row have to say so: whoever is asked may be behind.
const LOOKS: u32 = 20;

/// Counts in how many looks each of what is left is neither there nor on its way there.
fn count_elsewhere(
    picture: &Picture,
    moves: &[Move],
    left: &mut BTreeMap<PartitionName, String>,
    counts: &mut BTreeMap<PartitionName, u32>,
) {
    for one in moves {
        let goes_there = picture.moving.get(&one.name).is_some_and(|moving| moving.target() == one.to);
        match left.get_mut(&one.name).filter(|_| !goes_there) {
            None => drop(counts.remove(&one.name)),
            Some(why) => {
                let count = counts.entry(one.name.clone()).or_default();
                *count = LOOKS.min(*count + 1);
                if *count == LOOKS {
                    ELSEWHERE.clone_into(why);
                }
            }
        }
    }
}

/// What has not arrived yet, and why.
fn pending(picture: &Picture, moves: &[Move]) -> BTreeMap<PartitionName, String> {
    let mut left = BTreeMap::new();
    for one in moves {
        let topic = picture.metadata.topics.get(&one.name.0);
        let Some(now) = topic.and_then(|t| t.partitions.iter().find(|p| p.index == one.name.1)) else {
            // Deleted meanwhile: there is nothing to wait for.
            continue;
        };
        match picture.moving.get(&one.name) {
            Some(moving) => drop(left.insert(one.name.clone(), why_not(picture, now.leader, moving))),
            None if now.replicas != one.to => {
                left.insert(one.name.clone(), "its controllers have not said so yet".to_owned());
            }
            None => {}
        }
    }
    left
}

/// Why a partition has not arrived.
pub fn why_not(picture: &Picture, leader: i32, moving: &Reassignment) -> String {
    let down: Vec<i32> = moving.target().into_iter().filter(|node| !picture.is_up(*node)).collect();
    if leader < 0 {
        return "it has no leader".to_owned();
    }
    match (&down[..], &moving.adding[..]) {
        ([], []) => "its old replicas are leaving".to_owned(),
        ([], adding) => format!("broker {} copies", list(adding)),
        (down, _) => format!("waits for broker {}, which is down", list(down)),
    }
}

/// How much was copied, and how fast.
pub struct Progress {
    total: u64,
    copied: u64,
    /// When what was copied.
    seen: Vec<(Instant, u64)>,
    targets: BTreeMap<PartitionName, (BTreeSet<i32>, u64)>,
}

impl Progress {
    /// Of these moves.
    pub fn new(moves: &[Move]) -> Self {
        let target = |one: &Move| {
            let added = one.to.iter().copied().filter(|node| !one.from.contains(node)).collect();
            (one.name.clone(), (added, one.bytes.unwrap_or(0)))
        };
        let total = moves.iter().filter_map(|one| one.bytes).sum();
        Self { total, copied: 0, seen: Vec::new(), targets: moves.iter().map(target).collect() }
    }

    /// Looks at what the newcomers hold.
    pub async fn look(&mut self, client: &Client, picture: &Picture, left: &BTreeMap<PartitionName, String>) {
        let nodes: BTreeSet<i32> = self.targets.values().flat_map(|(added, _)| added).copied().collect();
        let mut held: BTreeMap<(i32, PartitionName), u64> = BTreeMap::new();
        for node in nodes.into_iter().filter(|node| picture.is_up(*node)) {
            let sizes = client.replica_sizes(node).await.unwrap_or_default();
            held.extend(sizes.into_iter().map(|(name, size)| ((node, name), size)));
        }
        self.copied = 0;
        for (name, (added, bytes)) in &self.targets {
            let each = bytes / added.len().max(1) as u64;
            self.copied += match left.contains_key(name) {
                false => *bytes,
                true => {
                    let of = |node: &i32| held.get(&(*node, name.clone())).copied().unwrap_or(0).min(each);
                    added.iter().map(of).sum()
                }
            };
        }
        self.seen.push((Instant::now(), self.copied));
        if self.seen.len() > 12 {
            self.seen.remove(0);
        }
    }

    /// Bytes that are there, of how many, and the seconds that the rest may take, if that can be told.
    pub fn numbers(&self) -> (u64, u64, Option<u64>) {
        let rate = self.seen.first().zip(self.seen.last()).and_then(|(first, last)| {
            let seconds = last.0.duration_since(first.0).as_secs_f64();
            (seconds > 0.0 && last.1 > first.1).then(|| (last.1 - first.1) as f64 / seconds)
        });
        let left = self.total.saturating_sub(self.copied);
        (self.copied, self.total, rate.map(|rate| (left as f64 / rate).ceil() as u64))
    }

    fn text(&self, left: &BTreeMap<PartitionName, String>) -> String {
        let (copied, total, eta) = self.numbers();
        let eta = eta.map_or(String::new(), |s| format!(", {s} s to go"));
        let done = self.targets.len() - left.len();
        let mut text = format!(
            "{done} of {} there, {} of {} copied{eta}",
            self.targets.len(),
            bytes(copied),
            bytes(total)
        );
        if let Some((name, why)) =
            left.iter().find(|(_, why)| why.contains("down") || why.contains("no leader"))
        {
            text.push_str(&format!("; {}: {why}", label(name)));
        }
        text
    }
}

/// Takes back what is under way.
pub async fn cancel(client: &Client, names: &[PartitionName], dry_run: bool, ui: &Ui) -> Outcome {
    let cells = |name: &PartitionName, state: &str| vec![label(name), state.to_owned()];
    let json =
        |name: &PartitionName, state: &str| json!({ "topic": name.0, "partition": name.1, "state": state });
    let mut items = Vec::new();
    if dry_run {
        items.extend(names.iter().map(|name| Item::ok(cells(name, "under-way"), json(name, "under-way"))));
        return ui.results(&["PARTITION", "STATE"], items);
    }
    for part in names.chunks(ROWS) {
        let rows = part.iter().map(|name| (name.clone(), None)).collect();
        let done = client.reassign(&rows, true).await.map_err(|e| partly(e, items.len()))?;
        for (name, done) in done {
            items.push(match done {
                Ok(()) => Item::ok(cells(&name, "cancelled"), json(&name, "cancelled")),
                Err(why) => Item::failed(cells(&name, "refused"), json(&name, "refused"), why.into()),
            });
        }
    }
    ui.results(&["PARTITION", "STATE"], items)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kontiki::client::{Broker, PartitionInfo, TopicInfo};

    pub(crate) fn picture(replicas: &[&[i32]], brokers: i32) -> Picture {
        let partition = |(index, replicas): (i32, &&[i32])| PartitionInfo {
            index,
            leader: replicas[0],
            epoch: 1,
            replicas: replicas.to_vec(),
            in_sync: replicas.to_vec(),
            offline: vec![],
        };
        let partitions = (0..).zip(replicas).map(partition).collect();
        let topic = TopicInfo { name: "t".into(), id: uuid::Uuid::nil(), internal: false, partitions };
        let broker = |id: i32| Broker { id, host: "h".into(), port: 1, rack: None };
        Picture {
            metadata: Metadata {
                cluster_id: None,
                controller: 1,
                brokers: (1..=brokers).map(|id| (id, broker(id))).collect(),
                topics: [("t".to_owned(), topic)].into(),
            },
            cluster: ClusterInfo {
                id: "c".into(),
                controller: 1,
                brokers: (1..=brokers).map(|id| (broker(id), false)).collect(),
                drains: BTreeMap::new(),
                gone: Vec::new(),
            },
            moving: BTreeMap::new(),
            moved: BTreeMap::new(),
        }
    }

    #[test]
    fn level_onto_a_fourth_broker_takes_a_quarter_and_leaves_drained_and_moving_ones_alone() {
        let rows: Vec<&[i32]> = vec![&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 3, 2]];
        let mut four = picture(&rows, 4);
        let targets = level(&four, &[]);
        let copies =
            |targets: &BTreeMap<PartitionName, Vec<i32>>| targets.values().filter(|t| t.contains(&4)).count();
        assert_eq!(copies(&targets), 3);
        assert!(level(&four, &["other".to_owned()]).is_empty());
        let moving = Reassignment {
            replicas: vec![4, 2, 3, 1],
            adding: vec![4],
            removing: vec![1],
            ..Reassignment::default()
        };
        assert_eq!(moving.target(), [4, 2, 3]);
        four.moving.insert(("t".to_owned(), 0), moving);
        let targets = level(&four, &[]);
        assert_eq!((copies(&targets), targets.contains_key(&("t".to_owned(), 0))), (2, false));
        four.cluster.drains.insert(4, kontiki::client::admin::Drain::Leaders);
        assert_eq!(copies(&level(&four, &[])), 0);
    }

    #[test]
    fn pending_says_what_a_partition_waits_for() {
        let mut now = picture(&[&[4, 2, 3, 1]], 3);
        let one = Move::new(("t".into(), 0), vec![1, 2, 3], vec![4, 2, 3], &BTreeMap::new());
        let moving = Reassignment {
            replicas: vec![4, 2, 3, 1],
            adding: vec![4],
            removing: vec![1],
            ..Reassignment::default()
        };
        now.moving.insert(one.name.clone(), moving);
        let said = |now: &Picture| pending(now, std::slice::from_ref(&one)).into_values().next();
        assert_eq!(said(&now).as_deref(), Some("waits for broker 4, which is down"));
        let broker = now.metadata.brokers[&1].clone();
        now.metadata.brokers.insert(4, Broker { id: 4, ..broker });
        assert_eq!(said(&now).as_deref(), Some("broker 4 copies"));
        now.moving.clear();
        assert_eq!(said(&now).as_deref(), Some("its controllers have not said so yet"));
        now.metadata.topics.get_mut("t").unwrap().partitions[0].replicas = vec![4, 2, 3];
        assert_eq!(said(&now), None);
    }

    /// The metadata was asked for while a move was listed, and the list when it had arrived: a plan of four replicas.
    #[test]
    fn move_that_ends_between_two_answers_does_not_change_the_factor() {
        let mut now = picture(&[&[4, 2, 3, 1], &[1, 2, 3], &[1, 2, 3]], 5);
        let moving = Reassignment {
            replicas: vec![4, 2, 3, 1],
            adding: vec![4],
            removing: vec![1],
            ..Reassignment::default()
        };
        now.moved.insert(("t".to_owned(), 0), moving);
        assert_eq!(now.places()[&("t".to_owned(), 0)], [4, 2, 3]);
        let targets = level(&now, &[]);
        assert!(!targets.is_empty() && !targets.contains_key(&("t".to_owned(), 0)), "{targets:?}");
    }

    #[test]
    fn move_that_somebody_else_redirects_or_takes_back_is_not_waited_for_for_ever() {
        let one = Move::new(("t".into(), 0), vec![1, 2, 3], vec![4, 2, 3], &BTreeMap::new());
        let moves = std::slice::from_ref(&one);
        let mut counts = BTreeMap::new();
        let mut looks = |now: &Picture, times: u32| {
            (0..times).fold(BTreeMap::new(), |_, _| {
                let mut left = pending(now, moves);
                count_elsewhere(now, moves, &mut left, &mut counts);
                left
            })
        };
        let is_given_up = |left: BTreeMap<PartitionName, String>| left.values().all(|why| why == ELSEWHERE);
        let mut now = picture(&[&[1, 2, 3]], 5);
        assert!(!is_given_up(looks(&now, LOOKS - 1)));
        now.moving.insert(
            one.name.clone(),
            Reassignment {
                replicas: vec![4, 2, 3, 1],
                adding: vec![4],
                removing: vec![1],
                ..Reassignment::default()
            },
        );
        assert!(!is_given_up(looks(&now, LOOKS + 1)), "it goes there");
        now.moving.insert(
            one.name.clone(),
            Reassignment {
                replicas: vec![5, 2, 3, 1, 4],
                adding: vec![5],
                removing: vec![1, 4],
                ..Reassignment::default()
            },
        );
        assert!(!is_given_up(looks(&now, LOOKS - 1)));
        assert!(is_given_up(looks(&now, 1)));
    }

    #[test]
    fn summary_counts_copies_and_changes_of_order() {
        let sizes = BTreeMap::from([(("t".to_owned(), 0), 2048)]);
        let moves = [
            Move::new(("t".into(), 0), vec![1, 2], vec![3, 4], &sizes),
            Move::new(("t".into(), 1), vec![1, 2], vec![2, 1], &sizes),
        ];
        assert_eq!(moves[0].bytes, Some(4096));
        assert_eq!(
            summary(&moves),
            "1 partition to move, 2 replicas to copy, 4.0 KiB; 1 partition with another preferred leader only"
        );
        let unknown = Move::new(("u".into(), 0), vec![1], vec![2], &sizes);
        assert!(summary(&[unknown]).ends_with("0 B or more"));
    }

    #[test]
    fn request_that_fails_behind_others_says_what_is_under_way() {
        let why = || Error::Invalid("no answer".into());
        let first = partly(why(), 0);
        assert_eq!(first.message(), Failure::from(why()).message());
        assert!(partly(why(), 2_000).message().ends_with("; 2000 partitions had been asked for before"));
    }

    #[test]
    fn plan_file_is_kafkas() {
        let text = r#"{"version":1,"partitions":[{"topic":"o","partition":2,"replicas":[4,1],"log_dirs":["any","any"]}]}"#;
        assert_eq!(parse_plan(text), Ok(BTreeMap::from([(("o".to_owned(), 2), vec![4, 1])])));
        for wrong in ["", "{}", r#"{"version":1}"#, r#"{"version":1,"partitions":[{"topic":"o"}]}"#] {
            assert!(parse_plan(wrong).is_err(), "{wrong}");
        }
    }
}
