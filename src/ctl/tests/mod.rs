//! Tests of the shard controller, one file per subject, and the small builders they share.
//!
//! Not here: replication of the controller log. A [`Log`] stands for it: decide, number, apply, keep.
pub(crate) mod auto;
mod balance;
mod configs;
pub(crate) mod decide;
pub(crate) mod drain;
pub(crate) mod generations;
pub(crate) mod image;
mod labs;
pub(crate) mod lease;
pub(crate) mod liveness;
pub(crate) mod members;
pub(crate) mod offline;
mod placement;
pub(crate) mod reassign;
mod recovery;
mod relocate;
mod replace;
mod sequences;
mod snapshots;

use super::command::{Command, CreateTopic, Defaults, Error, Reply, decide};
use super::image::Image;
use super::record::{Batch, Endpoint, Record};
use crate::segment::NodeId;
use std::collections::BTreeMap;
use uuid::Uuid;

const CLUSTER: &str = "kontiki-test";

fn defaults() -> Defaults {
    Defaults { num_partitions: 1, replication_factor: None, broker: BTreeMap::new() }
}

fn directory(node: i32, disk: u64) -> Uuid {
    Uuid::from_u64_pair(0xd15c_0000_0000_0000 | disk, (1000 + node) as u64)
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "localhost".into(), port }
}

fn registration(node: i32, disk: u64, rack: Option<&str>) -> Command {
    Command::RegisterBroker {
        node: NodeId(node),
        directory: directory(node, disk),
        kafka: endpoint(9092),
        listeners: BTreeMap::new(),
        peer: endpoint(9192),
        rack: rack.map(str::to_owned),
        cluster: Some(CLUSTER.into()),
        oldest: None,
    }
}

fn creation(name: &str, partitions: i32, replication_factor: i16) -> CreateTopic {
    CreateTopic {
        name: name.into(),
        partitions,
        replication_factor,
        assignments: None,
        configs: BTreeMap::new(),
        validate_only: false,
    }
}

/// A controller log of one node: every decision is written and applied at once.
struct Log {
    image: Image,
    defaults: Defaults,
    generation: u64,
    index: u64,
    entries: Vec<(u64, Batch)>,
}

impl Log {
    /// A log with its first entry.
    fn born() -> Self {
        let mut log = Self {
            image: Image::default(),
            defaults: defaults(),
            generation: 0,
            index: 0,
            entries: Vec::new(),
        };
        log.write(Batch::new(vec![Record::Cluster { id: CLUSTER.into() }])).unwrap();
        log
    }

    /// A log with brokers 0.. in these racks.
    fn with_brokers(racks: &[Option<&str>]) -> Self {
        let mut log = Self::born();
        for (node, rack) in racks.iter().enumerate() {
            log.run(&registration(node as i32, 0, *rack)).unwrap();
        }
        log
    }

    fn write(&mut self, batch: Batch) -> Result<u64, String> {
        let number = Image::number(self.generation, self.index + 1);
        self.image.apply(number, &batch)?;
        self.index += 1;
        self.entries.push((number, batch));
        Ok(number)
    }

    /// Decides, and writes what was decided.
    fn run(&mut self, command: &Command) -> Result<Reply, Error> {
        let number = Image::number(self.generation, self.index + 1);
        let (batch, reply) = decide(&self.image, &self.defaults, command, number, number ^ 0x5eed)?;
        if !batch.is_empty() {
            self.write(batch).expect("what is decided fits");
        }
        Ok(reply)
    }

    fn create(&mut self, name: &str, partitions: i32, factor: i16) -> Uuid {
        match self.run(&Command::CreateTopic(creation(name, partitions, factor))) {
            Ok(Reply::TopicCreated { id, .. }) => id,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn fence(&mut self, node: i32) {
        let incarnation = self.image.brokers[&NodeId(node)].incarnation;
        self.run(&Command::Fence { node: NodeId(node), incarnation }).unwrap();
    }

    fn unfence(&mut self, node: i32) {
        let incarnation = self.image.brokers[&NodeId(node)].incarnation;
        self.run(&Command::Unfence { node: NodeId(node), incarnation }).unwrap();
    }
}
