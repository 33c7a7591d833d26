//! `kontiki broker list|drain|undrain|decommission|remove`: which brokers take part; `broker advertise`: where clients reach them.
//!
//! What is to leave a broker is its configuration `broker.drain` (IncrementalAlterConfigs); the controllers see to it. These commands set
//! it and watch; they remember nothing, so each may be repeated. `remove` is UnregisterBroker.

use crate::cli::Global;
use crate::cli_operate::{AdvertiseArgs, BrokerCommand, DrainArgs, Wait};
use crate::moves::{Move, Picture, Progress, label, plan, summary};
use crate::output::{Failure, Outcome, Ui, list, table};
use kontiki::broker::planning::{self, NodeId, Row};
use kontiki::client::admin::{Drain, ResourceType};
use kontiki::client::{Client, PartitionName, Reassignment};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DRAIN: &str = "broker.drain";
const LOOK: Duration = Duration::from_millis(500);
const TELL: Duration = Duration::from_secs(5);
/// Partitions named at once.
const NAMED: usize = 5;

/// Runs the command.
pub async fn run(command: BrokerCommand, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    match command {
        BrokerCommand::List => list_brokers(&client, ui).await,
        BrokerCommand::Drain(args) => drain(&client, &args, ui).await,
        BrokerCommand::Undrain(args) => undrain(&client, args.broker, ui).await,
        BrokerCommand::Decommission(args) => decommission(&client, &args, ui).await,
        BrokerCommand::Remove(args) => remove(&client, args.broker, ui).await,
        BrokerCommand::Advertise(args) => advertise(&client, &args, ui).await,
    }
}

/// State of an id that nobody registers with before it is taken back.
const GONE: &str = "decommissioned";

/// What a broker is, in a word.
fn state(picture: &Picture, broker: i32, fenced: bool) -> &'static str {
    match (picture.cluster.drains.get(&broker), fenced) {
        (Some(Drain::Replicas), false) => "decommissioning",
        (Some(Drain::Replicas), true) => "decommissioning,down",
        (Some(Drain::Leaders), false) => "drained",
        (Some(Drain::Leaders), true) => "drained,down",
        (None, false) => "up",
        (None, true) => "down",
    }
}

async fn list_brokers(client: &Client, ui: &Ui) -> Outcome {
    let picture = Picture::of(client).await?;
    let places = picture.places();
    let (mut rows, mut items) = (Vec::new(), Vec::new());
    for (broker, fenced) in &picture.cluster.brokers {
        // One that is on its way elsewhere is still there.
        let leaves =
            |name| picture.moving.get(name).is_some_and(|moving| moving.removing.contains(&broker.id));
        let holds = |(name, place): &(_, &Vec<i32>)| place.contains(&broker.id) || leaves(*name);
        let replicas = places.iter().filter(holds).count();
        let (leads, preferred) = (
            led(&picture, broker.id).len(),
            places.values().filter(|place| place.first() == Some(&broker.id)).count(),
        );
        let state = state(&picture, broker.id, *fenced);
        rows.push(vec![
            broker.id.to_string(),
            broker.address(),
            broker.rack.clone().unwrap_or_default(),
            state.to_owned(),
            replicas.to_string(),
            leads.to_string(),
            preferred.to_string(),
        ]);
        items.push(
            json!({ "broker": broker.id, "address": broker.address(), "rack": broker.rack, "up": !fenced,
            "state": state, "replicas": replicas, "leads": leads, "preferred": preferred }),
        );
    }
    for broker in &picture.cluster.gone {
        let empty = ["", "", GONE, "0", "0", "0"].map(str::to_owned);
        rows.push([vec![broker.to_string()], empty.to_vec()].concat());
        items.push(json!({ "broker": broker, "address": null, "rack": null, "up": false, "state": GONE,
            "replicas": 0, "leads": 0, "preferred": 0 }));
    }
    match ui.is_json() {
        true => ui.json_items(items)?,
        false => {
            ui.out(&table(&["BROKER", "ADDRESS", "RACK", "STATE", "REPLICAS", "LEADS", "PREFERRED"], &rows))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Partitions that a broker leads, and who else is in sync of each.
fn led(picture: &Picture, broker: i32) -> Vec<(PartitionName, Vec<i32>)> {
    let topics = picture.metadata.topics.values();
    let all = topics.flat_map(|topic| topic.partitions.iter().map(move |p| (topic.name.clone(), p)));
    let here = all.filter(|(_, p)| p.leader == broker);
    here.map(|(topic, p)| {
        let others = p.in_sync.iter().copied().filter(|node| *node != broker).collect();
        ((topic, p.index), others)
    })
    .collect()
}

fn find(picture: &Picture, broker: i32) -> Result<bool, Failure> {
    let known = picture.cluster.brokers.iter().find(|(known, _)| known.id == broker);
    known.map(|(_, fenced)| *fenced).ok_or_else(|| {
        Failure::new("BROKER_ID_NOT_REGISTERED", format!("broker {broker} is not registered"))
            .with_hint("`kontiki broker list` shows which are")
    })
}

async fn set(client: &Client, broker: i32, value: Option<&str>, dry_run: bool) -> Result<(), Failure> {
    let changes = [(DRAIN.to_owned(), value.map(str::to_owned))];
    Ok(client.alter_configs(ResourceType::Broker, &broker.to_string(), &changes, dry_run).await?)
}

fn report(ui: &Ui, broker: i32, state: &str, text: &str) -> Outcome {
    match ui.is_json() {
        true => ui.json_items(vec![json!({ "broker": broker, "state": state, "message": text })])?,
        false => ui.out(&format!("broker {broker}: {text}\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(client: &Client, args: &DrainArgs, ui: &Ui) -> Outcome {
    let (broker, picture) = (args.broker, Picture::of(client).await?);
    find(&picture, broker)?;
    if picture.cluster.drains.get(&broker) == Some(&Drain::Replicas) {
        let why = format!("broker {broker} is being decommissioned, which is more");
        return Err(Failure::new("BROKER_DECOMMISSIONED", why)
            .with_hint(format!("kontiki broker undrain {broker} takes it back")));
    }
    set(client, broker, Some("leaders"), args.dry_run).await?;
    let leads = led(&picture, broker);
    if args.dry_run {
        let stay = leads.iter().filter(|(_, others)| others.is_empty()).count();
        let text = format!(
            "{} leaderships would leave, {stay} could not: nobody else is in sync. Nothing was changed",
            leads.len() - stay
        );
        return report(ui, broker, "checked", &text);
    }
    let words =
        Words { going: "leaderships are leaving", done: "drained: leads nothing, and gets no new replicas" };
    wait(client, broker, &args.wait, ui, &words, Goal::LeadsNothing).await
}

/// Has a broker take part again.
pub async fn undrain(client: &Client, broker: i32, ui: &Ui) -> Outcome {
    take_back(client, broker).await?;
    let is_known = client.describe_cluster().await?.brokers.iter().any(|(known, _)| known.id == broker);
    let text = match is_known {
        true => "takes leaderships and replicas again",
        false => "may register again, and does within seconds if its process runs",
    };
    report(ui, broker, "undrained", text)
}

/// Nothing is to leave a broker any more.
pub async fn take_back(client: &Client, broker: i32) -> Result<(), Failure> {
    set(client, broker, None, false).await
}

async fn decommission(client: &Client, args: &DrainArgs, ui: &Ui) -> Outcome {
    let (broker, picture) = (args.broker, Picture::of(client).await?);
    let words = Words {
        going: "replicas are made anew on others",
        done: "holds nothing, and is unregistered: stop its process",
    };
    if picture.cluster.gone.contains(&broker) {
        return report(ui, broker, "done", words.done);
    }
    find(&picture, broker)?;
    let hint = "`kontiki broker list` shows which brokers are up and not drained";
    set(client, broker, Some("replicas"), true).await.map_err(|refused| refused.with_hint(hint))?;
    let moves = plan(client, &picture, leaving(&picture, broker)).await;
    if !moves.is_empty() {
        ui.note(&summary(&moves));
    }
    if args.dry_run {
        let text = format!("{} partitions would move elsewhere. Nothing was changed", moves.len());
        return report(ui, broker, "checked", &text);
    }
    set(client, broker, Some("replicas"), false).await?;
    if let Ok(controllers) = client.describe_controllers().await
        && controllers.voters.iter().any(|voter| voter.node == broker)
    {
        ui.note(&format!(
            "node {broker} is also a controller, and stays one: its process has a vote among them"
        ));
    }
    wait(client, broker, &args.wait, ui, &words, Goal::IsGone(moves)).await
}

/// Where a broker's replicas would go, all at once; the controllers plan the same way, a part at a time.
fn leaving(picture: &Picture, broker: i32) -> BTreeMap<PartitionName, Vec<i32>> {
    let places: Vec<(PartitionName, Vec<i32>)> = picture.places().into_iter().collect();
    let mut topics: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for (name, place) in &places {
        let next = topics.len();
        let topic = *topics.entry(&name.0).or_insert(next);
        rows.push(Row { topic, nodes: place.iter().copied().map(NodeId).collect(), stays: false });
    }
    let plan = planning::vacate(&picture.sites(), &rows, &BTreeSet::from([NodeId(broker)]), usize::MAX);
    plan.into_iter()
        .map(|(at, nodes)| (places[at].0.clone(), nodes.into_iter().map(|node| node.0).collect()))
        .collect()
}

async fn remove(client: &Client, broker: i32, ui: &Ui) -> Outcome {
    match client.unregister_broker(broker).await {
        Ok(()) => report(ui, broker, "removed", "not registered any more"),
        Err(e) => {
            let holds = format!("kontiki broker decommission {broker} --dry-run says what it holds");
            let gone = format!("if it was decommissioned, `kontiki broker undrain {broker}` frees its id");
            Err(match e.kafka_code() {
                Some(POLICY_VIOLATION) => Failure::from(e).with_hint(holds),
                Some(BROKER_ID_NOT_REGISTERED) => Failure::from(e).with_hint(gone),
                _ => e.into(),
            })
        }
    }
}

/// Changes what clients are told, from the next metadata that they ask for.
async fn advertise(client: &Client, args: &AdvertiseArgs, ui: &Ui) -> Outcome {
    let addresses = args.addresses.as_deref().filter(|_| !args.reset);
    client.advertise(args.broker, addresses).await?;
    let text = addresses.map_or_else(
        || "advertises what it started with".to_owned(),
        |addresses| format!("advertises {addresses}, whatever it started with"),
    );
    report(ui, args.broker, "advertised", &text)
}

const POLICY_VIOLATION: i16 = 44;
const BROKER_ID_NOT_REGISTERED: i16 = 102;

/// What is said about it.
struct Words {
    going: &'static str,
    done: &'static str,
}

/// What is waited for.
enum Goal {
    LeadsNothing,
    /// Registered no longer; with what is expected to be copied until then.
    IsGone(Vec<Move>),
}

/// Leaderships that a drained broker still has, or may get in an election, and what keeps them there, if anything does.
pub fn leaderships_left(picture: &Picture, broker: i32) -> (usize, Option<String>) {
    let leads = led(picture, broker);
    let first = |names: Vec<String>| list(&names[..names.len().min(NAMED)]);
    let stuck: Vec<String> =
        leads.iter().filter(|(_, others)| others.is_empty()).map(|(name, _)| label(name)).collect();
    let open = leaderless(picture, broker);
    let left = leads.len() + open.len();
    let mut said = Vec::new();
    if !stuck.is_empty() {
        said.push(format!("of {} nobody else is in sync: {}", stuck.len(), first(stuck)));
    }
    if !open.is_empty() {
        said.push(format!("{} have no leader, and it may become that: {}", open.len(), first(open)));
    }
    (left, (!said.is_empty()).then(|| said.join("; ")))
}

/// Partitions with a replica there and no leader.
fn leaderless(picture: &Picture, broker: i32) -> Vec<String> {
    let topics = picture.metadata.topics.values();
    let all = topics.flat_map(|topic| topic.partitions.iter().map(move |p| (topic.name.clone(), p)));
    let open = all.filter(|(_, p)| p.leader < 0 && p.replicas.contains(&broker));
    open.map(|(topic, p)| label(&(topic, p.index))).collect()
}

/// Replicas that a decommissioned broker has and that are not on their way yet, and what keeps them there, if anything does.
pub fn replicas_left(picture: &Picture, broker: i32) -> (usize, Option<String>) {
    let held = |place: &&Vec<i32>| place.contains(&broker);
    let places = picture.places();
    let plan = leaving(picture, broker);
    let stuck: Vec<String> = places
        .iter()
        .filter(|(name, place)| held(place) && plan.get(*name).is_none_or(|place| held(&place)))
        .map(|(name, _)| label(name))
        .collect();
    let first = |names: Vec<String>| list(&names[..names.len().min(NAMED)]);
    let open = leaderless(picture, broker);
    let mut said = Vec::new();
    if !stuck.is_empty() {
        said.push(format!("no broker that is up and not drained could take {}", first(stuck)));
    }
    if !open.is_empty() {
        let help = "start the broker, or see `kontiki partition recover`";
        said.push(format!("{} have no leader to copy from ({help}): {}", open.len(), first(open)));
    }
    (places.values().filter(held).count(), (!said.is_empty()).then(|| said.join("; ")))
}

/// What a broker still has to be rid of, and why it is not.
fn remains(picture: &Picture, broker: i32, goal: &Goal) -> Option<String> {
    let ((left, said), what, moving) = match goal {
        Goal::LeadsNothing => (leaderships_left(picture, broker), "leaderships", 0),
        Goal::IsGone(_) => {
            picture.cluster.brokers.iter().find(|(known, _)| known.id == broker)?;
            let leaves = |moving: &&Reassignment| moving.removing.contains(&broker);
            let down = picture.moving.values().filter(leaves).flat_map(|moving| moving.target());
            let down: BTreeSet<i32> = down.filter(|node| !picture.is_up(*node)).collect();
            let (left, said) = replicas_left(picture, broker);
            let waits =
                || format!("waits for broker {}, which is down", list(&down.iter().collect::<Vec<_>>()));
            let said = said.or_else(|| (!down.is_empty()).then(waits));
            ((left, said), "replicas", picture.moving.values().filter(leaves).count())
        }
    };
    if left == 0 && moving == 0 && matches!(goal, Goal::LeadsNothing) {
        return None;
    }
    let on_their_way = if moving > 0 { format!(", {moving} on their way") } else { String::new() };
    let said = said.map_or(String::new(), |said| format!("; {said}"));
    Some(format!("{left} {what} are left{on_their_way}{said}"))
}

/// So many looks in a row have to say that something was taken back.
const LOOKS: u32 = 20;

/// Whether what is waited for is still to be.
fn is_wanted(picture: &Picture, broker: i32, goal: &Goal) -> bool {
    match (picture.cluster.drains.get(&broker), goal) {
        (None, _) | (Some(Drain::Leaders), Goal::IsGone(_)) => false,
        (Some(_), _) => true,
    }
}

async fn wait(client: &Client, broker: i32, wait: &Wait, ui: &Ui, words: &Words, goal: Goal) -> Outcome {
    if wait.no_wait {
        return report(ui, broker, "under-way", words.going);
    }
    let begun = Instant::now();
    let (mut told, mut left) = (Instant::now(), Some(words.going.to_owned()));
    let mut unwanted = 0;
    let mut progress = match &goal {
        Goal::IsGone(moves) if !moves.is_empty() => Some(Progress::new(moves)),
        _ => None,
    };
    let code = loop {
        // Whoever was asked may be the one that is just being restarted.
        if let Ok(picture) = Picture::of(client).await {
            left = remains(&picture, broker, &goal);
            if left.is_none() {
                return report(ui, broker, "done", words.done);
            }
            // Whoever is asked may be behind.
            unwanted = if is_wanted(&picture, broker, &goal) { 0 } else { unwanted + 1 };
            if unwanted == LOOKS {
                let why = format!("broker {broker}: somebody took that back meanwhile");
                return Err(
                    Failure::new("TAKEN_BACK", why).with_hint("`kontiki broker list` says how it stands")
                );
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let mut text = left.clone().unwrap_or_default();
                if let (Some(progress), Goal::IsGone(moves)) = (&mut progress, &goal) {
                    text.push_str(&copied(client, &picture, progress, moves).await);
                }
                ui.note(&text);
            }
        }
        if wait.timeout.is_some_and(|limit| begun.elapsed() >= limit) {
            break 1;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => break 130,
        }
    };
    let text = format!("broker {broker}: {}", left.unwrap_or_default());
    let failure =
        Failure::new("STILL_UNDER_WAY", text).with_hint("it goes on by itself; the same command waits again");
    Ok(match code {
        130 => {
            ui.fail(&failure);
            ExitCode::from(130)
        }
        _ => return Err(failure),
    })
}

/// How much of what was expected is there: a partition that is not listed any more and is off the broker counts whole.
async fn copied(client: &Client, picture: &Picture, progress: &mut Progress, moves: &[Move]) -> String {
    let places = picture.places();
    let is_there = |one: &&Move| {
        !picture.moving.contains_key(&one.name)
            && places.get(&one.name).is_none_or(|place| one.from.iter().any(|node| !place.contains(node)))
    };
    let there: BTreeSet<&PartitionName> = moves.iter().filter(is_there).map(|one| &one.name).collect();
    let left = moves.iter().filter(|one| !there.contains(&one.name));
    let left = left.map(|one| (one.name.clone(), String::new())).collect();
    progress.look(client, picture, &left).await;
    let (copied, total, eta) = progress.numbers();
    let eta = eta.map_or(String::new(), |seconds| format!(", {seconds} s to go"));
    format!("; {} of {} copied{eta}", crate::text::bytes(copied), crate::text::bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::tests::picture;

    /// It was said to be drained in the middle of an election, which it won.
    #[test]
    fn partition_without_a_leader_may_be_led_by_any_of_its_brokers() {
        let mut now = picture(&[&[1, 2, 3], &[2, 3, 1]], 4);
        assert_eq!(leaderships_left(&now, 3), (0, None));
        now.metadata.topics.get_mut("t").unwrap().partitions[0].leader = -1;
        let (left, said) = leaderships_left(&now, 3);
        assert_eq!((left, said.as_deref()), (1, Some("1 have no leader, and it may become that: t-0")));
        assert_eq!(leaderships_left(&now, 4), (0, None));
    }
}
