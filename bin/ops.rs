//! `kontiki op list|show|cancel|wait`: what is under way in a cluster.
//!
//! An operation is what the metadata says is to be and is not yet (decision 0016): partitions on their way, brokers that are being left.
//! So every command sees the same, whoever asked for it, and it lasts as long as it is true, through restarts of brokers and
//! controllers. Recoveries are not among them: `kontiki partition recoveries`. This command remembers nothing.

use crate::brokers;
use crate::cli::Global;
use crate::cli_operate::OpCommand;
use crate::moves::{Picture, cancel as cancel_moves, label, why_not};
use crate::output::{Failure, Outcome, Ui, list, pairs, table};
use crate::text::bytes;
use kontiki::client::admin::Drain;
use kontiki::client::{Client, PartitionName, Reassignment};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(500);
const TELL: Duration = Duration::from_secs(5);
/// Looks in a row that have to show nothing.
const QUIET: u32 = 2;
/// Between the two looks that a rate is taken from.
const RATE: Duration = Duration::from_secs(1);

/// What is to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Leaderships leave a broker.
    Drain(i32),
    /// Everything does.
    Decommission(i32),
    /// The controllers make a dead broker's replicas anew.
    Replace(i32),
    /// Partitions of a topic go where somebody wants them.
    Move(String),
}

impl What {
    fn id(&self) -> String {
        match self {
            What::Drain(broker) => format!("drain:{broker}"),
            What::Decommission(broker) => format!("decommission:{broker}"),
            What::Replace(broker) => format!("replace:{broker}"),
            What::Move(topic) => format!("move:{topic}"),
        }
    }
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Op {
    what: What,
    /// Partitions on their way, and who leads each.
    moving: BTreeMap<PartitionName, (Reassignment, i32)>,
    /// What stands in its way or is going on beside that.
    said: Option<String>,
    /// Leaderships or replicas that are still to leave and not on their way.
    waiting: usize,
}

impl Op {
    fn new(what: What) -> Self {
        Self { what, moving: BTreeMap::new(), said: None, waiting: 0 }
    }

    /// Partitions that it has still to do with.
    fn left(&self) -> usize {
        self.moving.len() + self.waiting
    }

    /// Why it is not done, the worst first; and whether somebody has to do something about it.
    fn why(&self, picture: &Picture) -> (String, bool) {
        let whys = self.moving.iter().map(|(name, (moving, leader))| {
            let why = why_not(picture, *leader, moving);
            let is_stuck = *leader < 0 || moving.target().iter().any(|node| !picture.is_up(*node));
            (format!("{}: {why}", label(name)), is_stuck)
        });
        let mut whys: Vec<(String, bool)> = whys.collect();
        whys.sort_by_key(|(_, is_stuck)| !is_stuck);
        match (whys.into_iter().next(), &self.said) {
            (Some((why, true)), _) => (why, true),
            (_, Some(said)) => (said.clone(), self.moving.is_empty()),
            (Some((why, _)), None) => (why, false),
            (None, None) => ("the controllers have it in hand".to_owned(), false),
        }
    }
}

/// Everything under way.
fn ops(picture: &Picture) -> BTreeMap<String, Op> {
    let mut found: BTreeMap<What, Op> = BTreeMap::new();
    for (broker, drain) in &picture.cluster.drains {
        let (what, (waiting, said)) = match drain {
            Drain::Leaders => (What::Drain(*broker), brokers::leaderships_left(picture, *broker)),
            Drain::Replicas => (What::Decommission(*broker), brokers::replicas_left(picture, *broker)),
        };
        if waiting > 0 || *drain == Drain::Replicas {
            found.insert(what.clone(), Op { waiting, said, ..Op::new(what) });
        }
    }
    for (name, moving) in &picture.moving {
        let decommissioned = |node: &&i32| picture.cluster.drains.get(node) == Some(&Drain::Replicas);
        // What somebody moves off a dead broker is theirs.
        let dead = |node: &&i32| moving.by_controllers && !picture.is_up(**node);
        let what = match (moving.removing.iter().find(decommissioned), moving.removing.iter().find(dead)) {
            (Some(broker), _) => What::Decommission(*broker),
            (None, Some(broker)) => What::Replace(*broker),
            (None, None) => What::Move(name.0.clone()),
        };
        let topic = picture.metadata.topics.get(&name.0);
        let leader =
            topic.and_then(|t| t.partitions.iter().find(|p| p.index == name.1)).map_or(-1, |p| p.leader);
        let op = found.entry(what.clone()).or_insert_with(|| Op::new(what));
        op.moving.insert(name.clone(), (moving.clone(), leader));
    }
    found.into_values().map(|op| (op.what.id(), op)).collect()
}

/// What brokers hold of partitions, asked once.
struct Sizes(BTreeMap<i32, BTreeMap<PartitionName, u64>>);

impl Sizes {
    async fn of(client: &Client, picture: &Picture) -> Self {
        let mut sizes = BTreeMap::new();
        if !picture.moving.is_empty() {
            for broker in picture.metadata.brokers.keys() {
                // One that does not answer counts as empty.
                sizes.insert(*broker, client.replica_sizes(*broker).await.unwrap_or_default());
            }
        }
        Self(sizes)
    }

    fn at(&self, broker: i32, name: &PartitionName) -> u64 {
        self.0.get(&broker).and_then(|held| held.get(name)).copied().unwrap_or(0)
    }

    /// Bytes that a partition's newcomers hold, and those that they are to hold.
    fn partition(&self, name: &PartitionName, moving: &Reassignment) -> (u64, u64) {
        let old = moving.replicas.iter().filter(|node| !moving.adding.contains(node));
        let whole = old.map(|node| self.at(*node, name)).max().unwrap_or(0);
        let copied = moving.adding.iter().map(|node| self.at(*node, name).min(whole)).sum();
        (copied, whole * moving.adding.len() as u64)
    }

    fn op(&self, op: &Op) -> (u64, u64) {
        let all = op.moving.iter().map(|(name, (moving, _))| self.partition(name, moving));
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// How far one is.
struct Seen {
    op: Op,
    copied: u64,
    total: u64,
    eta: Option<u64>,
    why: String,
    is_stuck: bool,
}

/// Two looks, a second apart where anything is copied: what is left takes as long as it took in between.
async fn look(client: &Client) -> Result<Vec<Seen>, Failure> {
    let first = Picture::of(client).await?;
    if first.moving.is_empty() {
        return Ok(seen(&first, &Sizes(BTreeMap::new()), None));
    }
    let (sizes, begun) = (Sizes::of(client, &first).await, Instant::now());
    tokio::time::sleep(RATE).await;
    let second = Picture::of(client).await?;
    let now = Sizes::of(client, &second).await;
    Ok(seen(&second, &now, Some((&sizes, begun.elapsed()))))
}

fn seen(picture: &Picture, now: &Sizes, before: Option<(&Sizes, Duration)>) -> Vec<Seen> {
    let one = |op: Op| {
        let (copied, total) = now.op(&op);
        let eta = before.and_then(|(before, time)| {
            let more = copied.saturating_sub(before.op(&op).0);
            (more > 0).then(|| {
                ((total.saturating_sub(copied)) as f64 / more as f64 * time.as_secs_f64()).ceil() as u64
            })
        });
        let (why, is_stuck) = op.why(picture);
        Seen { op, copied, total, eta, why, is_stuck }
    };
    ops(picture).into_values().map(one).collect()
}

impl Seen {
    fn cells(&self) -> Vec<String> {
        let copying = self.total > 0;
        vec![
            self.op.what.id(),
            self.op.left().to_string(),
            if copying { bytes(self.copied) } else { String::new() },
            if copying { bytes(self.total) } else { String::new() },
            self.eta.map_or(String::new(), |s| format!("{s}s")),
            if self.is_stuck { "stuck" } else { "going-on" }.to_owned(),
            self.why.clone(),
        ]
    }

    fn json(&self) -> Value {
        let partitions: Vec<Value> = self
            .op
            .moving
            .iter()
            .map(|((topic, partition), (moving, leader))| {
                json!({ "topic": topic, "partition": partition, "leader": leader, "to": moving.target(),
                    "adding": moving.adding, "removing": moving.removing })
            })
            .collect();
        json!({ "operation": self.op.what.id(), "left": self.op.left(), "copied_bytes": self.copied,
            "total_bytes": self.total, "eta_s": self.eta, "stuck": self.is_stuck, "why": self.why,
            "partitions": partitions })
    }
}

const ROW: [&str; 7] = ["OPERATION", "LEFT", "COPIED", "OF", "ETA", "STATE", "WHY"];

/// Runs the command.
pub async fn run(command: OpCommand, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    match command {
        OpCommand::List => {
            let all = look(&client).await?;
            match ui.is_json() {
                true => ui.json_items(all.iter().map(Seen::json).collect())?,
                false => ui.out(&table(&ROW, &all.iter().map(Seen::cells).collect::<Vec<_>>()))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        OpCommand::Show(args) => show(&client, &args.operation, ui).await,
        OpCommand::Cancel(args) => cancel(&client, &args.operation, ui).await,
        OpCommand::Wait(args) => wait(&client, &args.operations, args.timeout, ui).await,
    }
}

fn unknown(id: &str) -> Failure {
    Failure::new("UNKNOWN_OPERATION", format!("no operation `{id}` is under way"))
        .with_hint("`kontiki op list` names all; one that is done is listed no more")
}

async fn show(client: &Client, id: &str, ui: &Ui) -> Outcome {
    let all = look(client).await?;
    let one = all.iter().find(|one| one.op.what.id() == id).ok_or_else(|| unknown(id))?;
    if ui.is_json() {
        ui.json_items(vec![one.json()])?;
        return Ok(ExitCode::SUCCESS);
    }
    let eta = one.eta.map_or(String::new(), |s| format!("{s} s"));
    ui.out(&pairs(&[
        ("OPERATION", id.to_owned()),
        ("LEFT", one.op.left().to_string()),
        ("COPIED", format!("{} of {}", bytes(one.copied), bytes(one.total))),
        ("ETA", eta),
        ("STATE", if one.is_stuck { "stuck" } else { "going on" }.to_owned()),
        ("WHY", one.why.clone()),
    ]))?;
    if !one.op.moving.is_empty() {
        let picture = Picture::of(client).await?;
        let sizes = Sizes::of(client, &picture).await;
        let row = |(name, (moving, leader)): (&PartitionName, &(Reassignment, i32))| {
            let (copied, total) = sizes.partition(name, moving);
            let (to, why) = (list(&moving.target()), why_not(&picture, *leader, moving));
            vec![
                label(name),
                to,
                list(&moving.adding),
                list(&moving.removing),
                bytes(copied),
                bytes(total),
                why,
            ]
        };
        let rows: Vec<Vec<String>> = one.op.moving.iter().map(row).collect();
        ui.out("\n")?;
        ui.out(&table(&["PARTITION", "TO", "ADDING", "REMOVING", "COPIED", "OF", "WHY"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn cancel(client: &Client, id: &str, ui: &Ui) -> Outcome {
    let picture = Picture::of(client).await?;
    let op = ops(&picture).remove(id).ok_or_else(|| unknown(id))?;
    match op.what {
        What::Move(_) => {
            let names: Vec<PartitionName> = op.moving.keys().cloned().collect();
            cancel_moves(client, &names, false, ui).await
        }
        What::Drain(broker) => brokers::undrain(client, broker, ui).await,
        What::Decommission(broker) => {
            brokers::take_back(client, broker).await?;
            ui.note(&format!(
                "broker {broker} is taken back; what is on its way from it, whoever asked for that, goes back"
            ));
            cancel_moves(client, &leaving_after(client, broker).await?, false, ui).await
        }
        What::Replace(broker) => {
            let why = format!("broker {broker} is dead, and the controllers would plan the same again");
            Err(Failure::new("NOT_CANCELLABLE", why)
                .with_hint("start it again, or set replace.grace.ms=-1 on the controllers"))
        }
    }
}

/// What is on its way from a broker that was taken back: the controllers may have planned more until then, and none after.
async fn leaving_after(client: &Client, broker: i32) -> Result<Vec<PartitionName>, Failure> {
    let begun = Instant::now();
    loop {
        let picture = Picture::of(client).await?;
        let is_behind = picture.cluster.drains.contains_key(&broker);
        if is_behind && begun.elapsed() < TELL {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let leaves = |(name, moving): (&PartitionName, &Reassignment)| {
            moving.removing.contains(&broker).then(|| name.clone())
        };
        return Ok(picture.moving.iter().filter_map(leaves).collect());
    }
}

/// Whether an id names an operation that there could be: one that is misspelt is not done.
///
/// A decommissioned broker is not registered any more when that is done, so its id may be any.
fn is_possible(picture: &Picture, id: &str) -> bool {
    let is_registered = |id: &str| {
        id.parse().is_ok_and(|id: i32| picture.cluster.brokers.iter().any(|(broker, _)| broker.id == id))
    };
    match id.split_once(':') {
        Some(("move", topic)) => picture.metadata.topics.contains_key(topic),
        Some(("drain", broker)) => is_registered(broker),
        Some(("decommission" | "replace", broker)) => broker.parse::<i32>().is_ok_and(|id| id >= 0),
        _ => false,
    }
}

/// Waits until none of these is under way, or nothing is.
async fn wait(client: &Client, ids: &[String], timeout: Option<Duration>, ui: &Ui) -> Outcome {
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    let is_asked = |id: &String| ids.is_empty() || ids.contains(id);
    let mut left: Vec<String> = Vec::new();
    let (mut is_checked, mut quiet) = (false, 0);
    loop {
        // Whoever was asked may be the one that is just being restarted.
        match Picture::of(client).await {
            Ok(picture) => {
                if let Some(id) = ids.iter().find(|id| !is_checked && !is_possible(&picture, id)) {
                    return Err(unknown(id));
                }
                is_checked = true;
                let open: Vec<Op> =
                    ops(&picture).into_iter().filter(|(id, _)| is_asked(id)).map(|(_, op)| op).collect();
                left = open.iter().map(|op| format!("{}: {}", op.what.id(), op.why(&picture).0)).collect();
                // Whoever is asked may not know yet of what was asked for a moment ago.
                quiet = if open.is_empty() { quiet + 1 } else { 0 };
                if quiet == QUIET {
                    return finish(ids, begun, ui);
                }
                if !open.is_empty() && told.is_none_or(|told| told.elapsed() >= TELL) {
                    told = Some(Instant::now());
                    let sizes = Sizes::of(client, &picture).await;
                    for (op, why) in open.iter().zip(&left) {
                        let (copied, total) = sizes.op(op);
                        ui.note(&format!(
                            "{why}; {} left, {} of {} copied",
                            op.left(),
                            bytes(copied),
                            bytes(total)
                        ));
                    }
                }
            }
            Err(failure) if left.is_empty() => left.push(failure.message().to_owned()),
            Err(_) => {}
        }
        let failure = || {
            Failure::new("STILL_UNDER_WAY", left.join("; "))
                .with_hint("it goes on by itself; the same command waits again")
        };
        if timeout.is_some_and(|limit| begun.elapsed() >= limit) {
            return Err(failure());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                ui.fail(&failure());
                return Ok(ExitCode::from(130));
            }
        }
    }
}

fn finish(ids: &[String], begun: Instant, ui: &Ui) -> Outcome {
    let waited = begun.elapsed().as_millis() as u64;
    match ui.is_json() {
        true => ui.json_items(vec![json!({ "operations": ids, "state": "done", "waited_ms": waited })])?,
        false => ui.out("done\n")?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::tests::picture;

    fn moving(replicas: &[i32], adding: &[i32], removing: &[i32]) -> Reassignment {
        Reassignment {
            replicas: replicas.to_vec(),
            adding: adding.to_vec(),
            removing: removing.to_vec(),
            ..Reassignment::default()
        }
    }

    #[test]
    fn ops_are_named_by_why_partitions_are_on_their_way() {
        let mut now = picture(&[&[4, 2, 3, 1], &[3, 2, 1], &[1, 2, 3], &[2, 1, 3]], 4);
        assert!(ops(&now).is_empty());
        now.moving.insert(("t".into(), 0), moving(&[4, 2, 3, 1], &[4], &[1]));
        assert_eq!(ops(&now).keys().collect::<Vec<_>>(), ["move:t"]);
        // Broker 1 is to be left: what is on its way is part of that, the rest waits.
        now.cluster.drains.insert(1, Drain::Replicas);
        let all = ops(&now);
        let one = &all["decommission:1"];
        assert_eq!((all.len(), one.moving.len(), one.left()), (1, 1, 4));
        assert!(!one.why(&now).1, "{:?}", one.why(&now));
        // It is dead, and somebody takes its replicas elsewhere; or nobody asked for it.
        now.cluster.drains.clear();
        now.metadata.brokers.remove(&1);
        assert_eq!(ops(&now).keys().collect::<Vec<_>>(), ["move:t"]);
        now.moving.get_mut(&("t".to_owned(), 0)).unwrap().by_controllers = true;
        assert_eq!(ops(&now).keys().collect::<Vec<_>>(), ["replace:1"]);
        // Drained while it leads something.
        now.cluster.drains.insert(2, Drain::Leaders);
        let all = ops(&now);
        assert_eq!((all["drain:2"].waiting, all.len()), (1, 2));
    }

    #[test]
    fn misspelt_operation_is_none() {
        let now = picture(&[&[1, 2, 3]], 3);
        for id in ["move:t", "drain:2", "decommission:7", "replace:1"] {
            assert!(is_possible(&now, id), "{id}");
        }
        for id in ["", "t", "move:u", "drain:7", "decomission:3", "decommission:x", "replace:-1"] {
            assert!(!is_possible(&now, id), "{id}");
        }
    }

    #[test]
    fn operation_whose_newcomer_is_down_is_stuck_and_says_so() {
        let mut now = picture(&[&[4, 2, 3, 1]], 3);
        now.moving.insert(("t".into(), 0), moving(&[4, 2, 3, 1], &[4], &[1]));
        now.metadata.topics.get_mut("t").unwrap().partitions[0].leader = 2;
        let why = ops(&now)["move:t"].why(&now);
        assert_eq!(why, ("t-0: waits for broker 4, which is down".to_owned(), true));
    }

    #[test]
    fn sizes_count_what_newcomers_hold_of_the_largest_old_replica() {
        let name = ("t".to_owned(), 0);
        let held = |size| BTreeMap::from([(name.clone(), size)]);
        let sizes = Sizes(BTreeMap::from([(1, held(100)), (2, held(90)), (4, held(40)), (5, held(130))]));
        assert_eq!(sizes.partition(&name, &moving(&[4, 5, 2, 1], &[4, 5], &[1])), (140, 200));
        assert_eq!(sizes.partition(&name, &moving(&[2, 1], &[], &[1])), (0, 0));
    }
}
