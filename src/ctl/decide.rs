//! The pure decision: image + request -> records and answer, or the reason why not.
//!
//! Not here: proposing and committing (`broker` assembly and `raftlog`), Kafka error codes. Called by the controller
//! leader only, one command after another. Invariants:
//! - the image it sees has every earlier entry of the log applied, so what it decides fits when it is applied;
//! - an empty batch means there is nothing to write: the answer can be given at once;
//! - what a request asks is checked as Kafka checks it, before anything is placed.
use super::anew;
use super::command::{Command, ConfigChange, ConfigOp, CreateTopic, Defaults, Error, Reply};
use super::configs::describe::default_replication_factor;
use super::configs::{self, Kind};
use super::drain;
use super::generations::{self, GROUPS_PER_RECORD};
use super::image::{DRAIN, Drain, INDEX_BITS, Image, Standing, Topic};
use super::lease;
use super::listeners::{ADVERTISED, LISTENERS_MAX, check_advertised};
use super::names;
use super::offline;
use super::placement::{self, SplitMix64};
use super::reassign;
use super::record::{Batch, Endpoint, Record};
use super::recovery::{GROUPS_PER_PLAN, GroupPlan, REASON_MAX, plan_id};
use super::replace;
use crate::mutation::{Mutation, on};
use crate::segment::{GroupId, LogId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Most partitions of one topic: one entry must hold them all.
pub const PARTITIONS_MAX: i32 = 100_000;

/// Producer ids handed out at a time, as in Kafka.
pub const PRODUCER_ID_BLOCK: i32 = 1000;

type Decision = Result<(Batch, Reply), Error>;

/// Decides a command on the image. `number` = number the entry will get; `seed` = randomness for placement's start and
/// topic ids. An empty batch = nothing to write, answer at once.
///
/// # Errors
/// The refusal to give to whoever asked; nothing is to be written then.
pub fn decide(image: &Image, defaults: &Defaults, command: &Command, number: u64, seed: u64) -> Decision {
    match command {
        Command::RegisterBroker { node, directory, kafka, listeners, peer, rack, cluster, oldest } => {
            check_addresses(*node, listeners.values().chain([kafka]), peer)?;
            check_registration(image, (*node, *directory, *oldest), cluster.as_deref())?;
            let (node, directory, rack) = (*node, *directory, rack.clone());
            let (kafka, listeners, peer) = (kafka.clone(), listeners.clone(), peer.clone());
            let record = Record::Broker { node, directory, kafka, listeners, peer, rack };
            Ok((Batch::new(vec![record]), Reply::Registered { incarnation: number }))
        }
        Command::Fence { node, incarnation } => set_standing(image, *node, *incarnation, Standing::Fenced),
        Command::Stopping { node, incarnation } => {
            set_standing(image, *node, *incarnation, Standing::Stopping)
        }
        Command::Dead { node, incarnation } => set_standing(image, *node, *incarnation, Standing::Dead),
        Command::Unfence { node, incarnation } => set_standing(image, *node, *incarnation, Standing::Live),
        Command::CreateTopic(create) => create_topic(image, defaults, create, number, seed),
        Command::DeleteTopic { name, id } => delete_topic(image, defaults, name.as_deref(), *id),
        Command::CreatePartitions { topic, count, assignments, validate_only } => {
            let replicas = more_partitions(image, topic, *count, assignments.as_deref(), seed)?;
            let id = image.topics[topic].id;
            Ok((unless(*validate_only, Record::Partitions { id, replicas }), Reply::Done))
        }
        Command::AlterConfigs { topic: Some(topic), changes, validate_only } => {
            let topic = find_topic(image, topic)?;
            let changes = alter_topic(image, defaults, topic, changes)?;
            let batch =
                unless(*validate_only || changes.is_empty(), Record::TopicConfig { id: topic.id, changes });
            Ok((batch, Reply::Done))
        }
        Command::AlterConfigs { topic: None, changes, validate_only } => {
            let changes = alter_cluster(image, defaults, changes)?;
            let batch = unless(*validate_only || changes.is_empty(), Record::ClusterConfig { changes });
            Ok((batch, Reply::Done))
        }
        Command::AlterBroker { node, changes, validate_only } => {
            let changes = alter_broker(image, *node, changes)?;
            let nothing = *validate_only || changes.is_empty();
            Ok((unless(nothing, Record::BrokerConfig { node: *node, changes }), Reply::Done))
        }
        Command::AllocateProducerIds { node } => producer_ids(image, *node, number),
        Command::Confirm { groups } => {
            let due =
                |group: &&GroupId| image.group(**group).is_some_and(|(_, _, placed)| placed.unconfirmed);
            let groups: BTreeSet<GroupId> = groups.iter().filter(due).copied().collect();
            let groups: Vec<GroupId> = groups.into_iter().take(GROUPS_PER_RECORD).collect();
            Ok((unless(groups.is_empty(), Record::Confirmed { groups }), Reply::Done))
        }
        Command::Leased { groups } => {
            let groups = lease::still_due(image, groups);
            Ok((unless(groups.is_empty(), Record::Leased { groups }), Reply::Done))
        }
        Command::Seal { node, groups } => {
            let known = image.brokers.contains_key(node) || on(Mutation::SealForAnybody);
            let groups = if known { generations::to_seal(image, *node, groups) } else { Vec::new() };
            Ok((unless(groups.is_empty(), Record::Seal { groups }), Reply::Done))
        }
        Command::OpenGenerations { openings } => {
            let openings = generations::still_due(image, openings);
            Ok((unless(openings.is_empty(), Record::Generation { openings }), Reply::Done))
        }
        Command::Recover { id, reason, at_ms, plans, auto } => {
            recover(image, id, reason, *at_ms, plans, *auto)
        }
        Command::RecoveryProgress { steps } => {
            let steps = image.fitting(steps);
            Ok((unless(steps.is_empty(), Record::RecoveryProgress { steps }), Reply::Done))
        }
        Command::Place { node } => {
            let groups = generations::to_place(image, *node);
            Ok((unless(groups.is_empty(), Record::Place { node: *node, groups }), Reply::Done))
        }
        Command::Anew { replicas } => {
            let replicas = anew::due(image, replicas);
            Ok((unless(replicas.is_empty(), Record::Anew { replicas }), Reply::Done))
        }
        Command::Reassign { rows, allow_factor_change } => {
            let (moves, refusals) = reassign::to_reassign(image, rows, *allow_factor_change);
            let nothing = moves.is_empty();
            let record = Record::Reassign { moves, by_controllers: false };
            Ok((unless(nothing, record), Reply::Reassigned { refusals }))
        }
        Command::Replace { nodes } => {
            let moves = replace::due(image, nodes);
            let nothing = moves.is_empty();
            Ok((unless(nothing, Record::Reassign { moves, by_controllers: true }), Reply::Done))
        }
        Command::Unregister { node, incarnation: Some(incarnation) } => {
            let is_it = drain::left(image).contains(&(*node, *incarnation));
            let is_left = is_it || (on(Mutation::UnregisterAnybody) && image.brokers.contains_key(node));
            Ok((unless(!is_left, Record::Unregister { node: *node }), Reply::Done))
        }
        Command::Unregister { node, incarnation: None } => {
            drain::check_removal(image, *node)?;
            Ok((Batch::new(vec![Record::Unregister { node: *node }]), Reply::Done))
        }
        Command::Arrived { arrivals } => {
            let arrivals = reassign::arrived(image, arrivals);
            Ok((unless(arrivals.is_empty(), Record::Reassigned { arrivals }), Reply::Done))
        }
    }
}

fn recover(image: &Image, id: &str, reason: &str, at_ms: i64, plans: &[GroupPlan], auto: bool) -> Decision {
    if plans.is_empty() || plans.len() > GROUPS_PER_PLAN {
        let text = format!("a plan is for 1 to {GROUPS_PER_PLAN} partitions, not {}", plans.len());
        return Err(Error::InvalidRequest(text));
    }
    if id != plan_id(plans) {
        return Err(Error::Refused(format!(
            "what was approved as {id} is not this plan: {}",
            plan_id(plans)
        )));
    }
    if reason.len() > REASON_MAX {
        return Err(Error::InvalidRequest(format!("the reason is longer than {REASON_MAX} bytes")));
    }
    // Not asked again when it is applied: an older version may have written one.
    if let Some(plan) = plans.iter().find(|plan| plan.voters.is_empty() && plan.base == LogId::default()) {
        let (node, topic, partition) = (plan.survivor, &plan.topic, plan.partition);
        return Err(Error::Refused(format!("broker {node} holds nothing of {topic}-{partition}")));
    }
    image.check_recovery(plans, auto).map_err(Error::Refused)?;
    let (id, reason, plans) = (id.to_owned(), reason.to_owned(), plans.to_vec());
    Ok((Batch::new(vec![Record::Recover { id, reason, at_ms, plans, auto }]), Reply::Done))
}

fn unless(nothing: bool, record: Record) -> Batch {
    if nothing { Batch::empty() } else { Batch::new(vec![record]) }
}

fn find_topic<'a>(image: &'a Image, name: &str) -> Result<&'a Topic, Error> {
    image.topics.get(name).ok_or_else(|| Error::UnknownTopic(name.to_owned()))
}

fn check_addresses<'a>(
    node: NodeId,
    clients: impl Iterator<Item = &'a Endpoint>,
    peer: &Endpoint,
) -> Result<(), Error> {
    let clients: Vec<&Endpoint> = clients.collect();
    if clients.len() > LISTENERS_MAX + 1 {
        return Err(Error::InvalidRequest(format!("broker {node} has more than {LISTENERS_MAX} listeners")));
    }
    for (what, endpoint) in clients.into_iter().map(|one| ("client", one)).chain([("peer", peer)]) {
        if endpoint.host.is_empty() || endpoint.port == 0 {
            return Err(Error::InvalidRequest(format!(
                "broker {node} has no {what} address: host `{}`, port {}",
                endpoint.host, endpoint.port
            )));
        }
    }
    Ok(())
}

/// A changed directory uuid is accepted: the disk was replaced. What was placed on the old one keeps its replica ids
/// and so is no longer this broker's (safety.md F6).
fn check_registration(
    image: &Image,
    (node, directory, oldest): (NodeId, Uuid, Option<u64>),
    cluster: Option<&str>,
) -> Result<(), Error> {
    if node.0 < 0 {
        return Err(Error::InvalidRequest(format!("broker id {node} is negative")));
    }
    if directory.is_nil() {
        return Err(Error::InvalidRequest(format!("broker {node} names no data directory")));
    }
    if image.cluster_id.is_empty() {
        return Err(Error::Refused("the cluster has no id yet".into()));
    }
    drain::check_registration(image, node)?;
    offline::check_registration(image, node, directory, oldest).map_err(Error::Refused)?;
    if let Some(cluster) = cluster.filter(|c| *c != image.cluster_id) {
        return Err(Error::Refused(format!(
            "broker {node} belongs to cluster {cluster}, this is cluster {}",
            image.cluster_id
        )));
    }
    if let Some(other) = image.brokers.values().find(|b| b.node != node && b.directory == directory) {
        return Err(Error::Refused(format!(
            "data directory {directory} is registered by broker {} already, broker {node} must have its own",
            other.node
        )));
    }
    Ok(())
}

fn set_standing(image: &Image, node: NodeId, incarnation: u64, standing: Standing) -> Decision {
    let broker =
        image.brokers.get(&node).filter(|b| b.incarnation == incarnation).ok_or(Error::StaleBroker(node))?;
    let (record, nothing) = match standing {
        Standing::Fenced => (Record::Fence { node, incarnation }, broker.fenced),
        Standing::Stopping => (Record::Stopping { node, incarnation }, broker.stopping || broker.dead),
        Standing::Dead => (Record::Dead { node, incarnation }, broker.dead),
        Standing::Live => (Record::Unfence { node, incarnation }, !broker.fenced),
    };
    Ok((unless(nothing, record), Reply::Done))
}

fn create_topic(
    image: &Image,
    defaults: &Defaults,
    create: &CreateTopic,
    number: u64,
    seed: u64,
) -> Decision {
    check_new_name(image, &create.name)?;
    let configs = new_configs(image, defaults, &create.configs)?;
    let replicas = match create.assignments.as_deref() {
        Some(assignments) if !assignments.is_empty() => {
            if create.partitions != -1 || create.replication_factor != -1 {
                return Err(Error::InvalidRequest(
                    "with a manual replica assignment, partitions and replication factor must be -1".into(),
                ));
            }
            if assignments.len() > PARTITIONS_MAX as usize {
                return Err(too_many(assignments.len()));
            }
            check_assignments(image, assignments, 0, None)?;
            assignments.to_vec()
        }
        _ => {
            let partitions = partition_count(create.partitions, defaults)?;
            let factor = replication_factor(image, defaults, create.replication_factor)?;
            place(image, None, partitions, factor, seed)?
        }
    };
    let (partitions, replication_factor) = (replicas.len() as i32, replicas[0].len() as i16);
    let id = if create.validate_only { Uuid::nil() } else { new_topic_id(image, number, seed) };
    let record = Record::Topic { name: create.name.clone(), id, replicas, configs };
    Ok((unless(create.validate_only, record), Reply::TopicCreated { id, partitions, replication_factor }))
}

fn check_new_name(image: &Image, name: &str) -> Result<(), Error> {
    names::validate(name).map_err(Error::InvalidTopic)?;
    if image.topics.contains_key(name) {
        return Err(Error::TopicExists(name.to_owned()));
    }
    let collision =
        image.topics.keys().filter(|_| names::may_collide(name)).find(|t| names::collides(t, name));
    match collision {
        Some(other) => Err(Error::InvalidTopic(format!(
            "`{name}` collides with the existing topic `{other}`: `.` and `_` count as the same"
        ))),
        None => Ok(()),
    }
}

fn new_configs(
    image: &Image,
    defaults: &Defaults,
    given: &BTreeMap<String, Option<String>>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut configs = BTreeMap::new();
    for (name, value) in given {
        let value =
            value.as_deref().ok_or_else(|| Error::InvalidConfig(format!("{name} has a null value")))?;
        configs.insert(name.clone(), configs::check_topic_value(name, value)?);
    }
    configs::check_together(&configs, &image.configs, defaults)?;
    Ok(configs)
}

fn too_many(count: impl std::fmt::Display) -> Error {
    Error::InvalidPartitions(format!("{count} partitions exceed the maximum of {PARTITIONS_MAX}"))
}

fn partition_count(asked: i32, defaults: &Defaults) -> Result<usize, Error> {
    let count = if asked == -1 { defaults.num_partitions } else { asked };
    match usize::try_from(count) {
        Ok(count) if count > PARTITIONS_MAX as usize => Err(too_many(count)),
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::InvalidPartitions(format!(
            "the number of partitions must be at least 1, or -1 for the default, got {count}"
        ))),
    }
}

fn replication_factor(image: &Image, defaults: &Defaults, asked: i16) -> Result<usize, Error> {
    let factor = match asked {
        -1 => defaults.replication_factor.unwrap_or_else(|| default_replication_factor(image)),
        asked => asked,
    };
    usize::try_from(factor).ok().filter(|&f| f > 0).ok_or_else(|| {
        Error::InvalidReplicationFactor(format!("must be at least 1, or -1 for the default, got {factor}"))
    })
}

fn place(
    image: &Image,
    topic: Option<&Topic>,
    partitions: usize,
    factor: usize,
    seed: u64,
) -> Result<Vec<Vec<NodeId>>, Error> {
    let candidates = placement::candidates(image, topic);
    placement::place(&candidates, partitions, factor, seed).map_err(|short| {
        Error::InvalidReplicationFactor(format!(
            "{} is larger than the number of live brokers, {} (of {} registered)",
            short.wanted,
            short.live,
            image.brokers.len()
        ))
    })
}

/// Checks manual assignments of partitions from `first` on. `factor`: what the topic has already.
fn check_assignments(
    image: &Image,
    assignments: &[Vec<NodeId>],
    first: usize,
    factor: Option<usize>,
) -> Result<(), Error> {
    let factor = factor.unwrap_or(assignments[0].len());
    for (at, nodes) in assignments.iter().enumerate() {
        let refuse = |why: String| Err(Error::InvalidAssignment(format!("partition {}: {why}", first + at)));
        if nodes.is_empty() {
            return refuse("no replicas".into());
        }
        if nodes.len() != factor {
            return refuse(format!("{} replicas where the other partitions have {factor}", nodes.len()));
        }
        let mut seen = BTreeSet::new();
        for node in nodes {
            if !seen.insert(node) {
                return refuse(format!("broker {node} twice"));
            }
            if !image.brokers.contains_key(node) {
                return refuse(format!("broker {node} is not registered"));
            }
            if image.drain(*node) != Drain::None {
                return refuse(format!("broker {node} is drained"));
            }
        }
        // Raft needs a majority to elect the first leader.
        let live = nodes.iter().filter(|n| !image.brokers[n].fenced).count();
        if live <= nodes.len() / 2 {
            return refuse(format!(
                "only {live} of {} brokers are live, no leader could be elected",
                nodes.len()
            ));
        }
    }
    Ok(())
}

/// A version 4 uuid out of the seed that no topic has. Kafka's tools cannot take an id whose text form begins with
/// `-`, so that is left out as Kafka leaves it out.
fn new_topic_id(image: &Image, number: u64, seed: u64) -> Uuid {
    let mut random = SplitMix64::new(seed ^ number.rotate_left(32));
    loop {
        let (high, low) = (random.next(), random.next());
        let bytes = ((u128::from(high) << 64) | u128::from(low)).to_be_bytes();
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let begins_with_dash = id.as_bytes()[0] >> 2 == 62;
        if !begins_with_dash && !image.topic_names.contains_key(&id) {
            return id;
        }
    }
}

fn delete_topic(image: &Image, defaults: &Defaults, name: Option<&str>, id: Option<Uuid>) -> Decision {
    let id = match (name, id.filter(|id| !id.is_nil())) {
        (Some(name), None) => find_topic(image, name)?.id,
        (None, Some(id)) => image.topic_by_id(id).ok_or(Error::UnknownTopicId(id))?.id,
        (Some(_), Some(_)) => {
            return Err(Error::InvalidRequest("a topic is named by its name or by its id, not both".into()));
        }
        (None, None) => return Err(Error::InvalidRequest("neither topic name nor topic id given".into())),
    };
    let enabled = defaults.broker.get("delete.topic.enable").map_or("true", |v| v.trim());
    if enabled.eq_ignore_ascii_case("false") {
        return Err(Error::Refused("topics cannot be deleted: delete.topic.enable is false".into()));
    }
    Ok((Batch::new(vec![Record::DeleteTopic { id }]), Reply::Done))
}

/// Replicas of the partitions that bring the topic to `count`.
fn more_partitions(
    image: &Image,
    name: &str,
    count: i32,
    assignments: Option<&[Vec<NodeId>]>,
    seed: u64,
) -> Result<Vec<Vec<NodeId>>, Error> {
    let topic = find_topic(image, name)?;
    let have = topic.partitions.len();
    if count > PARTITIONS_MAX {
        return Err(too_many(count));
    }
    let more = match usize::try_from(count) {
        Ok(count) if count > have => count - have,
        _ => {
            return Err(Error::InvalidPartitions(format!(
                "topic `{name}` has {have} partitions, {count} would not be an increase"
            )));
        }
    };
    let factor = topic.partitions.first().map_or(1, |p| p.target().len());
    match assignments {
        Some(assignments) if !assignments.is_empty() => {
            if assignments.len() != more {
                return Err(Error::InvalidAssignment(format!(
                    "{more} partitions are to be added, but {} assignments are given",
                    assignments.len()
                )));
            }
            check_assignments(image, assignments, have, Some(factor))?;
            Ok(assignments.to_vec())
        }
        _ => place(image, Some(topic), more, factor, seed),
    }
}

fn check_unique(changes: &[ConfigChange]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    match changes.iter().find(|c| !seen.insert(&c.name)) {
        Some(twice) => Err(Error::InvalidRequest(format!("config `{}` is changed twice", twice.name))),
        None => Ok(()),
    }
}

/// What the change makes of a key: Some(text) or None for "back to default". `base` is what a list is edited from.
fn altered(
    change: &ConfigChange,
    kind: Option<Kind>,
    base: impl FnOnce() -> String,
) -> Result<Option<String>, Error> {
    let given = || {
        change
            .value
            .as_deref()
            .ok_or_else(|| Error::InvalidRequest(format!("config `{}` has a null value", change.name)))
    };
    let edited = |append: bool| {
        if kind.is_some_and(|k| k != Kind::List) {
            let op = if append { "append to" } else { "subtract from" };
            return Err(Error::InvalidConfig(format!("cannot {op} {}: it is not a list", change.name)));
        }
        let given: Vec<&str> = configs::list_items(given()?).collect();
        let base = base();
        let mut items: Vec<&str> = configs::list_items(&base).collect();
        if append {
            for item in given {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        } else {
            items.retain(|item| !given.contains(item));
        }
        Ok(Some(items.join(",")))
    };
    match change.op {
        ConfigOp::Set => Ok(Some(given()?.to_owned())),
        ConfigOp::Delete => Ok(None),
        ConfigOp::Append => edited(true),
        ConfigOp::Subtract => edited(false),
    }
}

/// What really changes on a topic, checked.
fn alter_topic(
    image: &Image,
    defaults: &Defaults,
    topic: &Topic,
    changes: &[ConfigChange],
) -> Result<BTreeMap<String, Option<String>>, Error> {
    check_unique(changes)?;
    let mut merged = topic.configs.clone();
    let mut changed = BTreeMap::new();
    for change in changes {
        let key = configs::topic_key(&change.name);
        let base = || {
            key.map(|k| configs::effective(k, &topic.configs, &image.configs, &defaults.broker).value)
                .unwrap_or_default()
                .into_owned()
        };
        let value = match altered(change, key.map(|k| k.kind), base)? {
            Some(value) => Some(configs::check_topic_value(&change.name, &value)?),
            // What an image holds can always be taken back, even a key this version does not know.
            None if key.is_some() || topic.configs.contains_key(&change.name) => None,
            None => return Err(Error::InvalidConfig(format!("unknown topic config name `{}`", change.name))),
        };
        note(&mut merged, &mut changed, &change.name, value);
    }
    configs::check_together(&merged, &image.configs, defaults)?;
    Ok(changed)
}

/// What really changes in the cluster-wide dynamic broker configuration, checked.
fn alter_cluster(
    image: &Image,
    defaults: &Defaults,
    changes: &[ConfigChange],
) -> Result<BTreeMap<String, Option<String>>, Error> {
    check_unique(changes)?;
    let mut merged = image.configs.clone();
    let mut changed = BTreeMap::new();
    for change in changes {
        let name = &change.name;
        let key = configs::broker_key(name);
        let base = || {
            let set = image.configs.get(name).or_else(|| defaults.broker.get(name)).map(String::as_str);
            set.or_else(|| key.and_then(|k| k.default)).unwrap_or_default().to_owned()
        };
        let value = match altered(change, key.map(|k| k.kind), base)? {
            Some(value) => Some(configs::check_dynamic_value(name, &value)?),
            None if image.configs.contains_key(name) || key.is_some_and(|k| k.dynamic || k.own) => None,
            None if key.is_some() => {
                return Err(Error::InvalidConfig(format!("{name} cannot be changed at run time")));
            }
            None => return Err(Error::InvalidConfig(format!("unknown broker config name `{name}`"))),
        };
        note(&mut merged, &mut changed, name, value);
    }
    Ok(changed)
}

/// What really changes in the dynamic configuration of one broker, checked.
fn alter_broker(
    image: &Image,
    node: NodeId,
    changes: &[ConfigChange],
) -> Result<BTreeMap<String, Option<String>>, Error> {
    let is_left = image.drain(node) == Drain::Replicas && changes.iter().all(|change| change.name == DRAIN);
    if !image.brokers.contains_key(&node) && !is_left {
        return Err(Error::InvalidRequest(format!("broker {node} is not registered")));
    }
    check_unique(changes)?;
    let mut merged = image.broker_configs.get(&node).cloned().unwrap_or_default();
    let mut changed = BTreeMap::new();
    for change in changes {
        let (name, key) = (&change.name, configs::broker_key(&change.name));
        let base = || merged.get(name).cloned().unwrap_or_default();
        let value = match altered(change, key.map(|k| k.kind), base)? {
            Some(value) => {
                let value = configs::check_own_value(name, &value)?;
                // What is so already is not asked for anew: there may be less room meanwhile.
                if name == DRAIN && merged.get(name) != Some(&value) {
                    drain::check(image, node, Drain::named(&value))?;
                }
                if name == ADVERTISED {
                    check_advertised(image, node, &value)?;
                }
                Some(value)
            }
            // Tools take back more than they set.
            None if merged.contains_key(name) || key.is_some() => None,
            None => return Err(Error::InvalidConfig(format!("unknown broker config name `{name}`"))),
        };
        note(&mut merged, &mut changed, name, value);
    }
    Ok(changed)
}

/// Takes over a change if it makes a difference.
fn note(
    merged: &mut BTreeMap<String, String>,
    changed: &mut BTreeMap<String, Option<String>>,
    name: &str,
    value: Option<String>,
) {
    if merged.get(name) == value.as_ref() {
        return;
    }
    match &value {
        Some(value) => merged.insert(name.to_owned(), value.clone()),
        None => merged.remove(name),
    };
    changed.insert(name.to_owned(), value);
}

/// The next block. Like group ids, producer ids count on from the generation of group 0, so that a recovered group 0
/// that lost its last records starts above every id it ever gave out (safety.md F20).
fn producer_ids(image: &Image, node: NodeId, number: u64) -> Decision {
    if !image.brokers.contains_key(&node) {
        return Err(Error::StaleBroker(node));
    }
    let generation = i64::try_from((number >> INDEX_BITS) << INDEX_BITS).unwrap_or(i64::MAX);
    let next = if on(Mutation::RepeatProducerIds) { 0 } else { image.next_producer_id };
    let first = next.max(generation);
    if first.checked_add(i64::from(PRODUCER_ID_BLOCK)).is_none() {
        return Err(Error::Refused("producer ids are used up".into()));
    }
    let record = Record::ProducerIds { node, first, count: PRODUCER_ID_BLOCK };
    Ok((Batch::new(vec![record]), Reply::ProducerIds { first, count: PRODUCER_ID_BLOCK }))
}
