//! A consumer of one partition: from the leader or from any replica, from the first offset to whatever is committed.
//! What it is handed is compared with the committed log the moment it leaves a node (`check`); here it is made sure that the
//! consumer itself sees every offset once and in order.

use crate::client::{Ask, FetchedReply, Reply};
use crate::world::{MS, Time, World};
use kontiki::broker::api::{FetchItem, FetchLimits, PartitionError};
use kontiki::segment::GroupId;
use kontiki::wire::batch::BatchHeader;

/// A reader of one partition.
pub struct Reader {
    pub topic: String,
    pub partition: i32,
    /// Reads from any replica, not from the leader alone (KIP-392).
    pub anywhere: bool,
    /// Sometimes asks for the end instead.
    pub probes: bool,
    group: Option<GroupId>,
    leader: Option<usize>,
    pub position: i64,
    epoch: i32,
    out: Option<u64>,
    asking: Option<u64>,
    latest: i64,
    /// Losses of its group when it last asked.
    losses: usize,
}

impl Reader {
    pub fn new(topic: &str, partition: i32, anywhere: bool, probes: bool) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            anywhere,
            probes,
            group: None,
            leader: None,
            position: 0,
            epoch: -1,
            out: None,
            asking: None,
            latest: 0,
            losses: 0,
        }
    }

    pub fn describe(&self) -> String {
        format!("reader of {}/{} at {}", self.topic, self.partition, self.position)
    }

    /// Its group and position, for the end of a run.
    pub fn place(&self) -> Option<(GroupId, i64)> {
        Some((self.group?, self.position))
    }

    pub fn act(&mut self, world: &mut World, me: usize) -> Time {
        let brokers = world.plan.brokers();
        if (self.group.is_none() || self.leader.is_none()) && self.asking.is_none() {
            if let Some(node) = world.rng.pick(&brokers) {
                self.asking = Some(world.ask(me, node, Ask::Metadata { topic: self.topic.clone() }));
            }
            return 50 * MS;
        }
        let (Some(group), Some(leader), None) = (self.group, self.leader, self.out) else { return 50 * MS };
        let losses = world.check.losses(group);
        if losses != self.losses {
            // An unclean generation took some of what was read: the consumer goes back as its reset policy says.
            (self.losses, self.latest, self.epoch) = (losses, 0, -1);
            self.position = world.check.first_lost(group, self.position);
        }
        if self.probes && world.rng.chance(200) {
            self.out = Some(world.ask(me, leader, Ask::Latest { group }));
            return 50 * MS;
        }
        let node = if self.anywhere { world.rng.pick(&brokers).unwrap_or(leader) } else { leader };
        let item = FetchItem {
            group,
            offset: self.position,
            max_bytes: world.rng.range(100, 64 << 10) as usize,
            current_leader_epoch: -1,
            last_fetched_epoch: self.epoch,
        };
        let limits = FetchLimits { min_bytes: 1, max_bytes: 1 << 20, max_wait_ms: world.rng.below(400) };
        self.out = Some(world.ask(me, node, Ask::Fetch { item, limits }));
        50 * MS
    }

    pub fn on_reply(&mut self, world: &mut World, me: usize, _node: usize, id: u64, reply: Reply) {
        if self.asking == Some(id) {
            self.asking = None;
            if let Reply::Metadata(rows) = reply
                && let Some((_, group, leader)) = rows.into_iter().find(|(p, ..)| *p == self.partition)
            {
                (self.group, self.leader) = (Some(group), leader);
            }
            return;
        }
        if self.out != Some(id) {
            return;
        }
        self.out = None;
        if self.group.is_some_and(|group| world.check.losses(group) != self.losses) {
            return world.wake_client(me, MS);
        }
        match reply {
            Reply::Fetched(fetched) => self.on_fetched(world, *fetched),
            Reply::Listed(Ok(listed)) => {
                assert!(
                    listed.offset >= self.latest,
                    "I7: the end of {}/{} went back from {} to {} for one reader",
                    self.topic,
                    self.partition,
                    self.latest,
                    listed.offset
                );
                self.latest = listed.offset;
            }
            _ => self.leader = None,
        }
        let wait = world.rng.range(MS, 60 * MS);
        world.wake_client(me, wait);
    }

    fn on_fetched(&mut self, world: &mut World, fetched: FetchedReply) {
        match fetched.error {
            None => {}
            Some(PartitionError::OutOfRange { start, .. }) if self.position < start => {
                world.marks.hit("reader fell behind the log start");
                self.position = start;
                self.epoch = -1;
                return;
            }
            Some(_) => {
                self.leader = None;
                return;
            }
        }
        for batch in &fetched.batches {
            let header = BatchHeader::read(batch).expect("a fetched batch has its header");
            let (first, last) = (header.base_offset, header.last_offset());
            let is_gone = |group| world.check.may_be_gone(group, self.position..first);
            assert!(
                (first <= self.position || self.group.is_some_and(is_gone)) && last >= self.position,
                "I4: a reader at {} was handed {first}..={last}",
                self.position
            );
            self.position = last + 1;
            self.epoch = header.partition_leader_epoch;
        }
    }
}
