//! Brokers that an operator takes out: drained, decommissioned, removed (decision 0015).
//!
//! What is to leave a broker is its dynamic configuration `broker.drain`, so it is kept, replicated and put into snapshots like any
//! other. Here: when that may be set, when a broker's registration may go, and what goes with it. Pure; called by `decide` and the image.
//! Not here: moving leaderships (`balance`), moving replicas (`replace`), who does it when (`broker::shard`). Invariants:
//! - a broker's registration goes only when no partition names a replica of it, those on their way out included;
//! - a live one's goes only when it is decommissioned, and `broker.drain` outlives it: it does not register again before that is taken
//!   back, and so gets nothing.

use super::command::Error;
use super::image::{Change, DRAIN, Drain, Image};
use crate::segment::NodeId;
use std::collections::BTreeMap;

/// Partitions named in a refusal.
const NAMED: usize = 3;

/// Whether a broker may be set to this.
///
/// # Errors
/// Its replicas are to leave, and there are partitions with more replicas than the other brokers could take.
pub fn check(image: &Image, node: NodeId, drain: Drain) -> Result<(), Error> {
    if drain != Drain::Replicas {
        return Ok(());
    }
    let others = image.live_brokers().filter(|broker| broker.node != node && image.is_open(broker)).count();
    let held = partitions_of(image, node).filter(|(.., replicas)| *replicas > others);
    let named = name(held.map(|(topic, number, _)| (topic, number)));
    match named {
        None => Ok(()),
        Some(named) => Err(Error::InvalidConfig(format!(
            "broker {node} cannot be left by its replicas: with {others} other brokers that are live and not drained there is no room \
             for all of {named}; add a broker, or lower their replication factor"
        ))),
    }
}

/// Whether an operator may have a broker's registration go. What is kept of a decommissioned one that is gone goes with its `broker.drain`
/// and in no other way: a request that is repeated, or meets the controllers' own, takes nothing back.
///
/// # Errors
/// Says what it still holds, or that it is alive.
pub fn check_removal(image: &Image, node: NodeId) -> Result<(), Error> {
    let broker = image.brokers.get(&node).ok_or(Error::UnknownBroker(node))?;
    if let Some(named) = name(partitions_of(image, node).map(|(topic, number, _)| (topic, number))) {
        return Err(Error::Refused(format!(
            "broker {node} holds replicas of {named}; decommission it first, which makes them anew on others"
        )));
    }
    if !broker.fenced && image.drain(node) != Drain::Replicas {
        return Err(Error::Refused(format!(
            "broker {node} is alive and would register again at once; stop it, or decommission it"
        )));
    }
    Ok(())
}

/// Whether this broker may register.
///
/// # Errors
/// It was decommissioned, and is gone.
pub fn check_registration(image: &Image, node: NodeId) -> Result<(), Error> {
    let is_gone = image.drain(node) == Drain::Replicas && !image.brokers.contains_key(&node);
    match is_gone {
        false => Ok(()),
        true => Err(Error::Refused(format!(
            "broker {node} was decommissioned; `kontiki broker undrain {node}` takes it back"
        ))),
    }
}

/// Registered brokers that are decommissioned and hold nothing any longer, with their incarnations.
pub fn left(image: &Image) -> Vec<(NodeId, u64)> {
    let registered = |node: NodeId| Some((node, image.brokers.get(&node)?.incarnation));
    let out = super::replace::decommissioned(image).filter_map(registered);
    out.filter(|(node, _)| partitions_of(image, *node).next().is_none()).collect()
}

/// Topic, number and count of wanted replicas of each partition that has one here.
fn partitions_of(image: &Image, node: NodeId) -> impl Iterator<Item = (&str, usize, usize)> {
    image.topics.values().flat_map(move |topic| {
        let all = topic.partitions.iter().enumerate();
        let held = all.filter(move |(_, partition)| partition.replicas.iter().any(|r| r.node == node));
        held.map(|(number, partition)| (topic.name.as_str(), number, partition.target().len()))
    })
}

fn name<'a>(partitions: impl Iterator<Item = (&'a str, usize)>) -> Option<String> {
    let all: Vec<String> = partitions.map(|(topic, number)| format!("{topic}-{number}")).collect();
    let rest = all.len().saturating_sub(NAMED);
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match (all.is_empty(), rest) {
        (true, _) => None,
        (false, 0) => Some(named),
        (false, rest) => Some(format!("{named} and {rest} more")),
    }
}

impl Image {
    /// The registration goes, and the configuration with it; of one that is decommissioned only `broker.drain` stays. Whether it may go is
    /// the decision's; here only what the image rests on: every broker that a partition names is registered.
    pub(super) fn apply_unregister(&mut self, node: NodeId, changes: &mut Vec<Change>) -> Result<(), String> {
        if !self.brokers.contains_key(&node) {
            return Err(format!("broker {node} is not registered"));
        }
        if let Some((topic, number, _)) = partitions_of(self, node).next() {
            return Err(format!("broker {node} holds a replica of {topic}-{number}"));
        }
        let kept = self.broker_configs.remove(&node).and_then(|mut own| own.remove_entry(DRAIN));
        self.brokers.remove(&node);
        if let Some((key, value)) = kept.filter(|(_, value)| Drain::named(value) == Drain::Replicas) {
            self.broker_configs.insert(node, BTreeMap::from([(key, value)]));
        }
        changes.extend([Change::ClusterConfigChanged, Change::BrokerRemoved { node }]);
        Ok(())
    }
}
