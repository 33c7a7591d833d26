//! Orders about single replicas beside what the topics' records say: which id a node's replica of a group has from now on.
//!
//! Not here: who gives them. Called when the group has gone on without an older replica of this node (`replace_superseded`), and by whoever
//! plays the controllers for the groups' members: the simulator. Invariants:
//! - an id is given once: the replica that bears it is made empty and waits to be told of its group by its leader;
//! - an older replica goes only when a committed configuration is without it, and in the same storage round that makes the new one;
//! - what it had set aside stays, and its log too if the generations between may not hold all of that.

use super::{Now, Shard};
use crate::broker::partition::Partition;
use crate::raftlog::core::Role;
use crate::segment::{
    Epoch, Generation, GroupId, GroupSpec, HardState, Index, LogId, LogStart, Remains, ReplicaId, Term,
};

/// Replicas made anew in one turn: each is a directory and files, and perhaps a mark that is synced.
const REPLACED_PER_TURN: usize = 16;

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
        if self.orphans.get(&group).is_some_and(|found| found.replica == replica)
            && let Some(found) = self.orphans.remove(&group)
        {
            if let Err(error) = self.engine.store().set_options(group, options) {
                tracing::warn!(%group, %error, "options of a recovered replica");
            }
            let (p, next) = Partition::recover(&found, config);
            self.begin_replay(found, p, next);
            self.place_some(now);
            self.process_events(now);
            return true;
        }
        if !self.make_room(group, generation) {
            return false;
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

    /// Others speak to this replica in this generation, while an older one of this node is here: its disk came back after the node had been
    /// given another.
    pub(super) fn note_superseded(&mut self, group: GroupId, by: ReplicaId, generation: Generation) {
        self.superseded.insert(group, (by, generation));
    }

    /// A committed configuration of this generation is without the replica here.
    pub(super) fn note_removed(&mut self, group: GroupId, generation: Generation) {
        let is_here = |r: &&ReplicaId| r.node == self.node() && r.directory == self.config.directory;
        let placed = self.image.group(group).and_then(|(_, _, placed)| placed.replicas.iter().find(is_here));
        if let Some(by) = placed.copied() {
            self.note_superseded(group, by, generation);
        }
    }

    /// Gives replicas the ids that others speak to, some in a turn. What the older one may hold alone is judged by the generations: word from
    /// one that the image does not know yet waits for being said again.
    pub(super) fn replace_superseded(&mut self, now: Now) {
        let mut noted = std::mem::take(&mut self.superseded).into_iter();
        // Where the simulator gives the orders, it places them too.
        if self.config.node.shrink_min_voters == usize::MAX {
            return;
        }
        for (group, (by, spoken)) in noted.by_ref().take(REPLACED_PER_TURN) {
            let placed = self.image.group(group).map(|(_, _, placed)| placed);
            let generation = placed.filter(|p| p.replicas.contains(&by)).map(|p| Generation(p.generation));
            let own = self.engine.core(group).map(|core| core.replica());
            let is_older = own.is_some_and(|own| own.assignment < by.assignment);
            if is_older && generation == Some(spoken) && self.place(now, group, by, spoken) {
                self.set_flush(now, group);
                self.tell_generation(now, group);
            }
        }
        for (group, word) in noted {
            self.superseded.entry(group).or_insert(word);
        }
    }

    /// What is to stay of the replica of the group that is here, once it is dropped; what needs it is marked. None: not now.
    pub(super) fn remains_of(&mut self, group: GroupId, generation: Generation) -> Option<Remains> {
        let found = self.orphans.get(&group).map(|found| (found.hard_state, found.last));
        let held = found.or_else(|| self.engine.core(group).map(|core| (core.hard_state(), core.last())));
        let remains = held.map_or(Remains::Aside, |(state, last)| remains(&state, last, generation));
        if remains == Remains::Log
            && let Err(error) = self.engine.store().keep_log(group)
        {
            tracing::warn!(%group, %error, "a log that is to be kept cannot be marked so; its replica stays for now");
            return None;
        }
        Some(remains)
    }

    /// Drops the older replica of the group, if there is one. False: not now.
    fn make_room(&mut self, group: GroupId, generation: Generation) -> bool {
        let Some(remains) = self.remains_of(group, generation) else { return false };
        // If it was to go because it had moved away, it has.
        self.leaving.remove(&group);
        match self.orphans.remove(&group) {
            Some(_) => self.drop_stored(group, remains),
            None => self.drop_replica(group, remains),
        }
        true
    }

    /// Forgets the replica that is here; whoever waits for it hears that it does not lead.
    pub(super) fn drop_replica(&mut self, group: GroupId, remains: Remains) {
        let Some(mut p) = self.partitions.remove(&group) else { return };
        let leader = Epoch { generation: p.epoch.generation, term: Term(u64::MAX) };
        self.led -= usize::from(p.role == Role::Leader);
        self.leadership_news = true;
        p.on_role(Role::Follower, leader, None, 0, &mut self.done);
        self.end_coordinator(group);
        self.engine.remove_but(group, remains);
    }

    pub(super) fn drop_stored(&mut self, group: GroupId, remains: Remains) {
        if let Err(error) = self.engine.store().remove_group_but(group, remains) {
            tracing::warn!(%group, %error, "replica that is no longer here could not be removed");
        }
    }
}

/// What stays of a replica that its group has gone on without, in this generation: its log too, unless every generation since is known
/// to hold all of it that may have been acknowledged (safety.md P6, F24).
fn remains(state: &HardState, last: LogId, generation: Generation) -> Remains {
    let own = state.epoch.generation;
    let is_lossless = state.opening.is_none_or(|opening| opening.lossless);
    let is_part = own == generation && (is_lossless || last.epoch.generation == own);
    match is_part || last.index == Index(0) {
        true => Remains::Aside,
        false => Remains::Log,
    }
}
