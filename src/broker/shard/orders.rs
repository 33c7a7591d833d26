//! Orders about single replicas beside what the topics' records say: which id a node's replica of a group has from now on.
//!
//! Not here: who gives them, and when an older replica may go (only a committed configuration without it allows that). Called by
//! whoever plays the controllers for the groups' members: today the simulator. Invariants:
//! - an id is given once: the replica that bears it is made empty and waits to be told of its group by its leader;
//! - what an older id of this node held is dropped in the same storage round that makes the new one.

use super::{Now, Shard};
use crate::broker::partition::Partition;
use crate::raftlog::core::Role;
use crate::segment::{Epoch, Generation, GroupId, GroupSpec, HardState, LogStart, ReplicaId, Term};

impl Shard {
    /// This node's replica of the group is this one: takes up what recovery found of it, or makes it anew in the stead of an older
    /// one. `generation`: the group's, as last decided. Asking again is harmless. False: not now, or there is no such group.
    pub fn place(&mut self, now: Now, group: GroupId, replica: ReplicaId, generation: Generation) -> bool {
        if self.engine.core(group).is_some_and(|core| core.replica() == replica) {
            return true;
        }
        let image = self.image.clone();
        let Some((topic, number, _)) = image.group(group) else { return false };
        if replica.node != self.node()
            || replica.directory != self.config.directory
            || !self.placing.is_done()
        {
            return false;
        }
        let config = image.topic_config(topic, &self.config.node.defaults);
        let options = super::metadata::group_options(&config);
        match self.orphans.remove(&group) {
            Some(found) if found.replica == replica => {
                if let Err(error) = self.engine.store().set_options(group, options) {
                    tracing::warn!(%group, %error, "options of a recovered replica");
                }
                let (p, next) = Partition::recover(&found, config);
                self.begin_replay(found, p, next);
                self.place_some(now);
                self.process_events(now);
                return true;
            }
            Some(_) => self.drop_stored(group),
            None => self.drop_replica(group),
        }
        tracing::info!(%group, %replica, "a new replica takes the place of what was here");
        let spec = GroupSpec {
            group,
            name: format!("{}-{number}", topic.id),
            replica,
            log_start: LogStart::default(),
            hard_state: HardState { epoch: Epoch { generation, term: Term(0) }, ..HardState::default() },
            options,
        };
        self.partitions.insert(group, Partition::new(group, replica, config));
        if let Err(error) = self.engine.create(now.mono, spec, false) {
            tracing::error!(%group, %error, "replica cannot be created");
            if let Some(p) = self.partitions.get_mut(&group) {
                p.out_of_service = Some(error.to_string());
            }
        }
        self.process_events(now);
        true
    }

    /// Forgets the replica that is here, with its data; whoever waits for it hears that it does not lead.
    pub(super) fn drop_replica(&mut self, group: GroupId) {
        let Some(mut p) = self.partitions.remove(&group) else { return };
        let leader = Epoch { generation: p.epoch.generation, term: Term(u64::MAX) };
        self.led -= usize::from(p.role == Role::Leader);
        self.leadership_news = true;
        p.on_role(Role::Follower, leader, None, 0, &mut self.done);
        self.engine.remove(group);
    }

    pub(super) fn drop_stored(&mut self, group: GroupId) {
        if let Err(error) = self.engine.store().remove_group(group) {
            tracing::warn!(%group, %error, "replica that is no longer here could not be removed");
        }
    }
}
