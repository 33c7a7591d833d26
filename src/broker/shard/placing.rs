//! Taking replicas up little by little: a topic of ten thousand partitions, or a restart with as many, must not stop the node.
//!
//! What the log places here waits in line; every turn takes a bounded part: so many replicas, so many bytes of log read for
//! producer state. Beats, votes and requests of groups that are here already are served in between. Not here: what taking up
//! means (`metadata::place_replica`). Invariants:
//! - replicas are taken up in the order of the controller log;
//! - a replica is in `partitions` and in the engine only when it is whole: until then nobody hears of it.

use super::{Now, Shard};
use crate::broker::partition::Partition;
use crate::segment::{GroupId, Index, RecoveredGroup, ReplicaId};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// Replicas taken up in one turn: a new one costs a directory and a file.
const GROUPS_PER_TURN: usize = 64;

/// A recovered replica whose log is being read.
struct Replaying {
    found: RecoveredGroup,
    partition: Partition,
    next: Index,
}

/// The line.
#[derive(Default)]
pub struct Placing {
    waiting: VecDeque<(GroupId, Uuid, i32)>,
    replaying: Option<Replaying>,
    /// To be made when this broker is registered (`metadata`).
    deferred: BTreeMap<GroupId, (Uuid, i32)>,
}

impl Placing {
    pub(super) fn push(&mut self, group: GroupId, topic: Uuid, partition: i32) {
        self.waiting.push_back((group, topic, partition));
    }

    pub(super) fn is_waiting(&self, group: GroupId) -> bool {
        self.waiting.iter().any(|(waiting, ..)| *waiting == group)
            || self.replaying.as_ref().is_some_and(|r| r.found.group == group)
    }

    /// Not before the registration.
    pub(super) fn defer(&mut self, group: GroupId, topic: Uuid, partition: i32) {
        self.deferred.insert(group, (topic, partition));
    }

    /// What was deferred stands in line again.
    pub(super) fn resume(&mut self) {
        for (group, (topic, partition)) in std::mem::take(&mut self.deferred) {
            if !self.is_waiting(group) {
                self.push(group, topic, partition);
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.replaying.is_none()
    }

    /// The replica of this group whose log is being read.
    pub(super) fn replaying(&self, group: GroupId) -> Option<ReplicaId> {
        self.replaying.as_ref().filter(|r| r.found.group == group).map(|r| r.found.replica)
    }

    /// The group was deleted while its log was read: true if that was so.
    pub(super) fn forget(&mut self, group: GroupId) -> bool {
        self.waiting.retain(|(waiting, ..)| *waiting != group);
        self.deferred.remove(&group);
        self.replaying.take_if(|r| r.found.group == group).is_some()
    }
}

impl Shard {
    /// One turn's part of the line.
    pub(super) fn place_some(&mut self, now: Now) {
        for _ in 0..GROUPS_PER_TURN {
            if !self.replay_some(now) {
                return;
            }
            let Some((group, topic, partition)) = self.placing.waiting.pop_front() else { return };
            self.place_replica(now, group, topic, partition);
        }
    }

    /// A recovered replica: taken up once its log was read, here or in later turns.
    pub(super) fn begin_replay(&mut self, found: RecoveredGroup, partition: Partition, next: Index) {
        self.placing.replaying = Some(Replaying { found, partition, next });
    }

    /// Reads on; false if there is more to read in another turn.
    fn replay_some(&mut self, now: Now) -> bool {
        let Some(Replaying { found, mut partition, next }) = self.placing.replaying.take() else {
            return true;
        };
        match partition.replay_step(next, self.engine.store()) {
            Ok(Some(next)) => {
                self.placing.replaying = Some(Replaying { found, partition, next });
                return false;
            }
            Ok(None) => {}
            Err(error) => partition.out_of_service = Some(error.to_string()),
        }
        let group = found.group;
        if let Some((topic, ..)) = self.image.group(group) {
            // Changed perhaps since the reading began.
            partition.config = self.image.topic_config(topic, &self.config.node.defaults);
        }
        let damaged = partition.out_of_service.is_some();
        self.partitions.insert(group, partition);
        self.engine.adopt(now.mono, found);
        self.set_flush(now, group);
        if damaged {
            self.engine.damaged(now.mono, group);
        }
        self.tell_generation(now, group);
        true
    }
}
