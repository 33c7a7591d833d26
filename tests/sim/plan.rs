//! What a seed stands for: the shape of the cluster, its workload, and which faults there are ("swarm": each run leaves most kinds
//! out, so that they do not hide each other).

use crate::net::Weather;
use crate::node::Node;
use crate::producer::Style;
use crate::rng::Rng;
use crate::world::{MS, SECOND, Time};
use kontiki::broker::config::NodeConfig;
use kontiki::segment::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds of fault, each on or off in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Menu {
    pub kills: bool,
    pub power: bool,
    pub pauses: bool,
    pub partitions: bool,
    pub one_way: bool,
    pub flapping: bool,
    pub resets: bool,
    pub datagrams: bool,
    pub loss: bool,
    pub garble: bool,
    pub clocks: bool,
    pub slow_disks: bool,
    pub io_errors: bool,
    pub full_disks: bool,
    /// Bits flip, writes go astray, a disk is wiped: of one node in a run at most.
    pub damage: bool,
    pub stops: bool,
    /// Topics come and go, records are deleted, leaders are asked to move.
    pub admin: bool,
    /// Members of partitions' groups change.
    pub members: bool,
    /// Generations of partitions' groups end and begin.
    pub generations: bool,
    /// Partitions move between brokers, by the product's own controllers.
    pub moves: bool,
}

impl Menu {
    /// Each kind with this chance in a thousand.
    pub fn draw(rng: &mut Rng, permille: u64) -> Self {
        let mut on = || rng.chance(permille);
        Self {
            kills: on(),
            power: on(),
            pauses: on(),
            partitions: on(),
            one_way: on(),
            flapping: on(),
            resets: on(),
            datagrams: on(),
            loss: on(),
            garble: on(),
            clocks: on(),
            slow_disks: on(),
            io_errors: on(),
            full_disks: on(),
            damage: on(),
            stops: on(),
            admin: on(),
            members: false,
            generations: false,
            moves: false,
        }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub brokers_count: usize,
    /// Voters of the controller group; combined with brokers, or apart.
    pub controllers_count: usize,
    pub combined: bool,
    pub partitions: i32,
    pub replication: i16,
    pub min_insync: i32,
    /// Groups go on without brokers that the controllers hold for dead.
    pub shrink: bool,
    /// Silence after which the heir of two controllers goes on alone.
    pub heir_timeout_ms: u64,
    /// An operator recovers what lost its majority: what decisions lose is taken from the controllers.
    pub recovers: bool,
    pub topic_configs: BTreeMap<String, Option<String>>,
    /// Topics are compacted: records have keys, and cleaners work all the time.
    pub compacts: bool,
    /// `flush.mode=async`: at most one machine loses its power, everything else is what that survives (P7).
    pub is_async: bool,
    pub producers: Vec<Style>,
    pub readers: usize,
    pub menu: Menu,
    /// Generations that may lose something are decided too, now and then.
    pub unclean: bool,
    pub weather: Weather,
    /// Length of the part with faults.
    pub chaos: Time,
    /// Usual time between two faults.
    pub fault_every: Time,
    pub journal_file_bytes: u64,
    pub checkpoint_bytes: u64,
    pub reference_bytes: usize,
    pub reserve_bytes: u64,
    pub tail_bytes: usize,
}

impl Plan {
    /// Three brokers and a controller, no faults.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            brokers_count: 3,
            controllers_count: 1,
            combined: false,
            partitions: 2,
            replication: 3,
            min_insync: 1,
            shrink: false,
            heir_timeout_ms: 3_000,
            recovers: false,
            topic_configs: BTreeMap::new(),
            compacts: false,
            is_async: false,
            producers: vec![style(60), style(60)],
            readers: 2,
            menu: Menu::default(),
            unclean: false,
            weather: calm_weather(),
            chaos: 6 * SECOND,
            fault_every: SECOND,
            journal_file_bytes: 256 << 10,
            checkpoint_bytes: 512 << 10,
            reference_bytes: 4 << 10,
            reserve_bytes: 512 << 10,
            tail_bytes: 64 << 10,
        }
    }

    /// Everything from the seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x51ab_0000);
        let mut plan = Self::calm(seed);
        (plan.brokers_count, plan.controllers_count, plan.combined) = match rng.below(10) {
            0..4 => (3, 1, false),
            4..6 => (3, 3, true),
            6..8 => (3, 3, false),
            8 => (5, 3, true),
            _ => (5, 5, true),
        };
        plan.partitions = rng.range(1, 4) as i32;
        plan.replication = if plan.brokers_count == 5 && rng.chance(500) { 5 } else { 3 };
        plan.min_insync = rng.range(1, 3) as i32;
        plan.producers = (0..rng.range(1, 4)).map(|_| random_style(&mut rng)).collect();
        plan.readers = rng.range(1, 4) as usize;
        let share = rng.pick(&[150, 300, 500]).expect("not empty");
        plan.menu = Menu::draw(&mut rng, share);
        if rng.chance(700) {
            let text = |n: u64| Some(n.to_string());
            let segment = rng.range(2 << 10, 24 << 10);
            plan.topic_configs.insert("internal.segment.bytes".to_owned(), text(segment));
            plan.topic_configs.insert("index.interval.bytes".to_owned(), text(rng.range(0, 2000)));
            if rng.chance(500) {
                plan.topic_configs.insert("retention.bytes".to_owned(), text(segment * rng.range(1, 4)));
            }
        }
        let slow = rng.range(200, 20 * MS);
        plan.weather.delay = (100, 100 + slow);
        plan.weather.loss = if plan.menu.loss { rng.range(1, 60) } else { 0 };
        plan.weather.garble = if plan.menu.garble { rng.range(20, 400) } else { 0 };
        plan.weather.datagram = plan.menu.datagrams;
        plan.chaos = rng.range(6, 16) * SECOND;
        plan.fault_every = rng.range(150, 1500) * MS;
        plan.journal_file_bytes = rng.range(16, 65) << 12;
        plan.checkpoint_bytes = rng.range(64, 512) << 10;
        plan.reference_bytes = (rng.range(1, 16) << 10) as usize;
        plan.tail_bytes = (rng.range(4, 128) << 10) as usize;
        // A stream of its own: a seed of before these kinds means what it meant.
        let mut rng = Rng::new(seed ^ 0x6e6e_0000_0000);
        plan.menu.members = rng.chance(450);
        plan.menu.generations = rng.chance(350);
        plan.unclean = plan.menu.generations && rng.chance(400);
        // A disk that lies is a minority only as long as others vote: what is lost with the last one is nobody's promise.
        let lies = plan.menu.damage || plan.menu.io_errors || plan.menu.full_disks;
        let has_master = plan.menu.members || plan.menu.generations;
        // One master of a group at a time: the product's controllers, or the stand-in that gives every order that is allowed.
        plan.shrink = !lies && !has_master && Rng::new(seed ^ 0x54a1_0000).chance(600);
        // Nodes are back soon: what takes longer than an election is silence.
        plan.heir_timeout_ms = Rng::new(seed ^ 0x4e14_0001).range(1_300, 3_000);
        plan.menu.moves = plan.shrink && Rng::new(seed ^ 0x30e5_0000).chance(600);
        if plan.menu.moves && !plan.combined {
            // Somewhere to move to, and so many that all of a group's replicas can.
            let brokers = Rng::new(seed ^ 0x30e5_0001).range(4, 7) as usize;
            plan.brokers_count = plan.brokers_count.max(brokers);
        }
        // All of three, where no disk is lost for good.
        if !plan.menu.damage && Rng::new(seed ^ 0xf15).chance(250) {
            plan.min_insync = 3;
        }
        // Not drawn, so that the other seeds are what they were.
        plan.is_async = seed % 7 == 3;
        if plan.is_async {
            // A disk that is lost for good beside a replica in doubt leaves no quorum, as it must (safety.md F11).
            plan.menu.damage = false;
            // Sealed with a majority in doubt a group waits for an operator: nothing may be decided, and nobody votes any more (seed 948).
            plan.menu.generations = false;
            plan.unclean = false;
            plan.topic_configs.insert("flush.mode".to_owned(), Some("async".to_owned()));
        }
        plan
    }

    /// Whether power cuts of this node take what was not synced; the others' are ends of the process.
    pub fn loses_power(&self, n: usize) -> bool {
        !self.is_async || n == 0
    }

    /// In two of three seeds the controllers write snapshots of the metadata, after so many bytes of changes. Says nothing that is drawn
    /// from the seed: what it draws else stays as it was.
    fn snapshot_bytes(&self) -> Option<u64> {
        [None, Some(600), Some(4_000)][(self.seed % 3) as usize]
    }

    /// In half of the runs in which partitions move, the controllers replace brokers that stay dead, while those come back.
    fn replaces(&self) -> bool {
        self.menu.moves && self.seed.is_multiple_of(2)
    }

    /// Whether partitions are answered for under leases alone.
    pub fn is_auto(&self) -> bool {
        self.topic_configs.get("recovery.policy").is_some_and(|policy| policy.as_deref() == Some("auto"))
    }

    /// Places of the brokers.
    pub fn brokers(&self) -> Vec<usize> {
        (0..self.brokers_count).collect()
    }

    /// Places of the voters of the controller group.
    pub fn controllers(&self) -> Vec<usize> {
        let first = if self.combined { 0 } else { self.brokers_count };
        (first..first + self.controllers_count).collect()
    }

    pub fn nodes(&self, rng: &mut Rng) -> Vec<Node> {
        let controllers = self.controllers();
        let count = self.brokers_count.max(controllers.iter().max().map_or(0, |last| last + 1));
        let address = |n: &usize| (NodeId(*n as i32 + 1), format!("node-{}:9093", n + 1));
        let build = |n: usize| {
            let mut config = NodeConfig::new(NodeId(n as i32 + 1), "/data");
            config.is_broker = n < self.brokers_count;
            config.is_controller = controllers.contains(&n);
            config.controllers = controllers.iter().map(address).collect();
            config.broker_session_timeout = Duration::from_secs(3);
            config.max_connections = 1000;
            config.heir_timeout = Duration::from_millis(self.heir_timeout_ms);
            config.shrink_min_voters = if self.shrink { 1 } else { usize::MAX };
            // Else where replicas are is the master's business.
            config.replace_grace = self.replaces().then(|| Duration::from_secs(5));
            let broker = &mut config.defaults.broker;
            broker.insert("log.retention.check.interval.ms".to_owned(), "1000".to_owned());
            if self.compacts {
                broker.insert("log.cleaner.backoff.ms".to_owned(), "200".to_owned());
            }
            if let Some(bytes) = self.snapshot_bytes() {
                let between = "metadata.log.max.record.bytes.between.snapshots";
                broker.insert(between.to_owned(), bytes.to_string());
            }
            let seed = rng.next();
            let mut node = Node::new(n, config, self, seed);
            if self.menu.clocks {
                node.rate = rng.range(950_000, 1_050_000);
                node.wall_offset_ms = rng.range(0, 120_000) as i64 - 60_000;
            }
            node
        };
        let mut build = build;
        (0..count).map(&mut build).collect()
    }
}

pub fn calm_weather() -> Weather {
    Weather { delay: (100, 600), loss: 0, garble: 0, datagram: false }
}

/// A usual producer.
pub fn style(limit: u64) -> Style {
    Style {
        topic: "t".to_owned(),
        acks: -1,
        idempotent: true,
        in_flight: 5,
        think: (MS, 60 * MS),
        value: (0, 300),
        records: (1, 4),
        limit,
        timeout_ms: 1_500,
        keys: None,
    }
}

fn random_style(rng: &mut Rng) -> Style {
    let loose = rng.chance(150);
    let slow = rng.range(5, 300) * MS;
    let big = if rng.chance(150) { 12_000 } else { 600 };
    Style {
        acks: if loose { 1 } else { -1 },
        idempotent: !loose,
        in_flight: rng.range(1, 6) as usize,
        think: (MS, slow),
        value: (0, rng.range(10, big)),
        records: (1, rng.range(1, 8)),
        limit: u64::MAX,
        timeout_ms: rng.range(300, 3_000),
        ..style(0)
    }
}
