//! Members and generations: who may count, who may speak, what a new generation may lose, and what becomes of the rest.
//!
//! The stand-in for the controllers (`master`) says what it was told and what it decided; everything else is taken from the product's
//! state and from what leaves a node. Names: F of docs/safety.md.

use super::{Check, Committed, describe};
use crate::marks::Marks;
use crate::node::{Node, Process};
use crate::world::{SECOND, Time};
use bytes::Bytes;
use kontiki::raftlog::core::{Core, Role};
use kontiki::raftlog::engine::Engine;
use kontiki::raftlog::generation::{Decision, SealReport};
use kontiki::raftlog::message::{Body, Configuration};
use kontiki::segment::{
    Entry, EntryKind, Epoch, Generation, GroupId, Index, LogId, Opened, ReplicaId, Store, Term,
};
use std::collections::BTreeMap;

/// What is known of the generations of one group.
#[derive(Default)]
pub struct Generations {
    /// Term of every leader there was, and its generation (F4).
    terms: BTreeMap<Term, Generation>,
    /// Generation, where it began, whether it lost nothing.
    decided: Vec<(Generation, LogId, bool)>,
    /// What each unclean generation lost of what was committed before.
    lost: Vec<Lost>,
    /// The last generation in which a client was answered.
    answered: Generation,
    /// Committed configurations, by the index of their entry.
    configurations: BTreeMap<u64, (LogId, Configuration)>,
}

/// What an unclean generation lost.
struct Lost {
    generation: Generation,
    entries: BTreeMap<u64, Committed>,
    /// Offset and records of the batches among them, by producer and sequence.
    batches: BTreeMap<(i64, i32), (i64, i32)>,
}

/// Entries that a replica cut and must have kept aside.
pub struct Aside {
    node: usize,
    directory: u128,
    group: GroupId,
    replica: ReplicaId,
    id: LogId,
    payload: Bytes,
    at: Time,
}

impl Aside {
    pub fn is_of(&self, n: usize, group: GroupId) -> bool {
        self.node == n && self.group == group
    }
}

/// A configuration as a replica was last seen with it.
#[derive(Clone, Debug)]
pub struct InForce {
    id: LogId,
    configuration: Configuration,
    /// When it was first seen, and what was in force before that turn.
    since: Time,
    before: Configuration,
}

impl Generations {
    /// Entries that were committed once and were lost in a generation after this one: a replica that has not come so far may still
    /// show them.
    pub fn lost_after(&self, generation: Generation) -> impl Iterator<Item = &Committed> {
        self.lost
            .iter()
            .filter(move |lost| lost.generation > generation)
            .flat_map(|lost| lost.entries.values())
    }

    /// Whether a replica comes from one generation to the other knowing that nothing was lost: not if it skipped one.
    pub fn is_lossless(&self, from: Generation, to: Generation) -> bool {
        to.0 <= from.0 + 1 && self.decided.iter().all(|(g, _, lossless)| *lossless || *g <= from || *g > to)
    }

    /// Whether any generation up to this one was opened without proof.
    pub fn may_have_lost(&self, up_to: Generation) -> bool {
        self.decided.iter().any(|(generation, _, lossless)| !lossless && *generation <= up_to)
    }

    /// How often something may have been lost.
    pub fn losses(&self) -> usize {
        self.lost.len()
    }
}

impl Check {
    /// A client was answered by a replica in this generation, where leases are needed for that: nobody has answered in a later one that
    /// may have lost something.
    pub fn answered_in(&mut self, n: usize, group: GroupId, generation: Generation) {
        let known = self.generations.entry(group).or_default();
        known.answered = known.answered.max(generation);
        let newest = known.answered;
        let is_between =
            |(g, _, lossless): &(Generation, LogId, bool)| !lossless && *g > generation && *g <= newest;
        assert!(
            !known.decided.iter().any(is_between),
            "Auto: node {} answers for group {group} in generation {generation:?}, and somebody answered in {newest:?} before",
            n + 1
        );
    }

    /// A replica with this id was placed in the stead of whatever the node held of the group.
    pub fn placed(&mut self, group: GroupId, n: usize, replica: ReplicaId) {
        self.seen.remove(&(n, group));
        self.tails.remove(&(n, group));
        self.in_force.remove(&(n, group));
        self.aside.retain(|a| a.node != n || a.group != group);
        let home = *self.homes.entry((group, replica)).or_insert(n);
        assert!(home == n, "F6: replica {replica} of group {group} was placed on two nodes");
    }

    /// Acknowledged or not, what a sealed replica said stays so.
    pub fn reported(&mut self, group: GroupId, report: &SealReport) {
        self.sealed.insert((group, report.replica, report.generation), report.last);
        // What damage took from it is why it is not sound.
        if let Some(told) = self.told.get(&(group, report.replica)).filter(|_| report.sound) {
            let (said_in, last) = told.accepted;
            assert!(
                last.index <= report.last.index || said_in.generation < report.generation,
                "F2: {} of group {group} acknowledged {last} in {said_in} and seals its log at {}",
                report.replica,
                report.last
            );
        }
    }

    /// Whether a message may still come from a replica that reported its seal.
    pub(super) fn not_sealed(&self, group: GroupId, from: ReplicaId, epoch: Epoch, body: &Body) {
        if !self.sealed.contains_key(&(group, from, epoch.generation)) {
            return;
        }
        let silent = matches!(
            body,
            Body::Sealed
                | Body::Fenced
                | Body::Removed { .. }
                | Body::PreVoteReply { granted: false, .. }
                | Body::VoteReply { granted: false }
                | Body::Fetch { .. }
                | Body::Fetched { .. }
        );
        assert!(silent, "F2: {from} of group {group} reported its seal and says {body:?} in {epoch}");
    }

    /// A process starts: a seal that was reported is still there, or a later generation is.
    pub(super) fn seals_kept(&mut self, node: &Node, opened: &Opened, marks: &mut Marks) {
        for found in &opened.groups {
            let hard = &found.hard_state;
            let sealed = self
                .sealed
                .range((found.group, found.replica, Generation(0))..)
                .take_while(|((group, replica, _), _)| (*group, *replica) == (found.group, found.replica))
                .last();
            let Some(((.., generation), last)) = sealed else { continue };
            if node.damaged
                || hard.epoch.generation > *generation
                || found.last.epoch.generation > *generation
            {
                continue;
            }
            assert!(
                hard.sealed.is_some() && found.last == *last,
                "F2: node {} sealed group {} in {generation:?} at {last} and recovers {hard:?} with {}",
                node.index + 1,
                found.group,
                found.last
            );
            marks.hit("seal survived a restart");
        }
    }

    /// The next generation of a group was decided. One that is lossless loses nothing; of one that is not, exactly what its survivor
    /// does not hold is lost.
    pub fn decided(&mut self, group: GroupId, decision: &Decision, nodes: &mut [Node], marks: &mut Marks) {
        let opening = decision.opening;
        let known = self.generations.entry(group).or_default();
        let next = known.decided.last().map_or(Generation(1), |(g, ..)| g.next());
        assert!(decision.generation == next, "F2: generation {:?} decided twice", decision.generation);
        known.decided.push((decision.generation, opening.base, opening.lossless));
        let survivor = &mut nodes[crate::net::index_of(opening.survivor.node)];
        // It may have just been started, and not taken its replicas up yet.
        let holds = |e: &&mut Engine| match e.core(group) {
            Some(core) => core.replica() == opening.survivor,
            None => e.store_ref().last(group).is_ok(),
        };
        let Some(engine) = survivor.process.as_mut().map(|p| p.shard.engine()).filter(holds) else { return };
        let lost = self.beyond(group, engine.store());
        if survivor.fs.is_off() {
            // Its power is gone, perhaps since a file was opened just now: nothing can be read there. Whoever leads the generation is
            // looked at then (leader completeness).
            return;
        }
        if let Some((first, _)) = lost.first_key_value() {
            assert!(
                !opening.lossless,
                "F2: a lossless generation of group {group} loses what is committed from {first} on: {decision:?}"
            );
            marks.hit("unclean generation lost committed entries");
            self.forget(group, decision.generation, lost, marks);
        }
        self.bring_back(group, engine.store());
    }

    /// A survivor that had not joined the generation before still holds what that one had lost: it counts again, where it stood.
    fn bring_back(&mut self, group: GroupId, store: &mut Store) {
        let log = self.logs.entry(group).or_default();
        let Some(known) = self.generations.get(&group) else { return };
        for lost in &known.lost {
            for (index, entry) in &lost.entries {
                let follows = log.entries.last_key_value().is_none_or(|(last, _)| last + 1 == *index);
                if !follows || !holds(store, group, *index, entry) {
                    continue;
                }
                log.entries.insert(*index, entry.clone());
                if entry.next > entry.base {
                    log.by_offset.insert(entry.base, *index);
                }
                for ((producer, sequence), place) in
                    lost.batches.iter().filter(|(_, place)| place.0 == entry.base)
                {
                    log.batches.insert((*producer, *sequence), *place);
                    log.sequences.insert(*producer, sequence + place.1);
                }
            }
        }
    }

    /// Committed entries that this log does not hold.
    fn beyond(&mut self, group: GroupId, store: &mut Store) -> BTreeMap<u64, Committed> {
        let log = self.logs.entry(group).or_default();
        let is_held = |(index, entry): &(&u64, &Committed)| holds(store, group, **index, entry);
        // Log matching makes the last common one stand for all before it.
        let kept = log.entries.iter().rev().find(is_held).map_or(0, |(index, _)| *index);
        log.entries.range(kept + 1..).map(|(index, entry)| (*index, entry.clone())).collect()
    }

    /// What an unclean generation loses was never committed, as far as anyone asks from now on.
    fn forget(
        &mut self,
        group: GroupId,
        generation: Generation,
        lost: BTreeMap<u64, Committed>,
        marks: &mut Marks,
    ) {
        let log = self.logs.entry(group).or_default();
        let first = *lost.keys().next().expect("something is lost");
        let offset = lost[&first].base;
        log.entries.split_off(&first);
        log.known_in.split_off(&first);
        log.by_offset.split_off(&offset);
        let (kept, gone) =
            std::mem::take(&mut log.batches).into_iter().partition(|(_, (base, _))| *base < offset);
        log.batches = kept;
        log.sequences.clear();
        for ((producer, sequence), (_, count)) in &log.batches {
            let next = log.sequences.entry(*producer).or_insert(0);
            *next = (*next).max(sequence + count);
        }
        if log.acked_end > offset {
            marks.hit("unclean generation lost acknowledged records");
        }
        log.acked_end = log.acked_end.min(offset);
        for (_, end) in &mut log.acked {
            *end = (*end).min(offset);
        }
        self.owed.retain(|(owed, at, _)| *owed != group || *at < offset);
        let known = self.generations.entry(group).or_default();
        known.configurations.split_off(&first);
        known.lost.push(Lost { generation, entries: lost, batches: gone });
    }

    /// Sequence that a producer has come to in what is committed of this group.
    pub fn next_sequence(&self, group: GroupId, producer: i64) -> i32 {
        self.logs.get(&group).and_then(|log| log.sequences.get(&producer)).copied().unwrap_or(0)
    }

    /// Where a reader that stood here goes on after the last loss.
    pub fn first_lost(&self, group: GroupId, position: i64) -> i64 {
        let lost = self.generations.get(&group).and_then(|g| g.lost.last());
        let first = lost.and_then(|lost| lost.entries.values().next());
        first.map_or(position, |entry| position.min(entry.base))
    }

    /// The last generation of this group that was decided, as far as anybody said.
    pub fn generations_decided(&self, group: GroupId) -> u64 {
        self.generations.get(&group).and_then(|g| g.decided.last()).map_or(0, |(generation, ..)| generation.0)
    }

    /// How often this group lost something by an unclean generation.
    pub fn losses(&self, group: GroupId) -> usize {
        self.generations.get(&group).map_or(0, Generations::losses)
    }

    /// A replica leads: nobody led in its term in another generation (F4), nor is it sealed.
    pub(super) fn leads_in(&mut self, group: GroupId, replica: ReplicaId, epoch: Epoch) {
        let known = self.generations.entry(group).or_default();
        let generation = *known.terms.entry(epoch.term).or_insert(epoch.generation);
        assert!(
            generation == epoch.generation,
            "F4: term {} of group {group} was led in generations {generation:?} and {:?}",
            epoch.term,
            epoch.generation
        );
        assert!(
            !self.sealed.contains_key(&(group, replica, epoch.generation)),
            "F2: {replica} of group {group} reported its seal and leads in {epoch}"
        );
    }

    /// An entry is called committed for the first time: it belongs to no generation that has ended without it.
    pub(super) fn belongs(&mut self, n: usize, group: GroupId, entry: &Entry, marks: &mut Marks) {
        let id = entry.meta.id;
        let known = self.generations.entry(group).or_default();
        for (at, (generation, base, _)) in known.decided.iter().enumerate() {
            if id.epoch.generation >= *generation || id.index <= base.index {
                continue;
            }
            // A later unclean generation may have a survivor that never got rid of what this one did without.
            let back =
                known.decided[at + 1..].iter().any(|(_, b, lossless)| !lossless && b.index >= id.index);
            assert!(
                back,
                "F2: node {} commits {id} of group {group} after generation {generation:?} was decided at {base}",
                n + 1
            );
        }
        if entry.meta.kind != EntryKind::Configuration {
            return;
        }
        let after = Configuration::decode(&entry.payload).expect("a committed configuration is readable");
        let log = self.logs.entry(group).or_default();
        let before = known.configurations.range(..id.index.0).next_back().map(|(_, c)| c.clone());
        if let Some((before_id, before)) = before {
            let between = id.index.0 - before_id.index.0;
            if log.entries.range(before_id.index.0..id.index.0).count() as u64 == between {
                follows(group, (before_id, &before), (id, &after), marks);
            }
        }
        known.configurations.insert(id.index.0, (id, after));
    }

    /// What a replica's configuration did since it was last looked at, and whether its id is one it may bear.
    pub(super) fn look_at_members(
        &mut self,
        n: usize,
        group: GroupId,
        directory: u128,
        core: &Core,
        marks: &mut Marks,
    ) {
        let replica = core.replica();
        assert!(
            replica.directory == directory,
            "F6: node {} bears {replica} of group {group} on the disk {directory:032x}",
            n + 1
        );
        let (configuration, id) = core.configuration();
        let known = self.generations.get(&group);
        let newest = known.and_then(|k| k.configurations.range(..=core.commit().0).next_back());
        // In an unclean generation a log start is not known to be the survivor's before the log has joined (F2, as built).
        let unclean = core.hard_state().opening.is_some_and(|opening| !opening.lossless);
        let has_joined = !unclean || core.last().epoch.generation == core.epoch().generation;
        if let Some((_, (committed, _))) = newest
            && committed.epoch.generation <= core.epoch().generation
            && has_joined
        {
            assert!(
                id.index >= committed.index,
                "Raft §6: node {} forgot the configuration of {committed} in group {group}, it has that of {id}",
                n + 1
            );
        }
        let before = self.in_force.get(&(n, group));
        if before.is_some_and(|before| before.id == id && before.configuration == *configuration) {
            return;
        }
        if configuration.is_joint() {
            marks.hit("joint configuration in force");
        }
        if before.is_some_and(|before| before.configuration.is_joint() && id < before.id) {
            marks.hit("uncommitted joint change rolled back");
        }
        let before = before.map_or_else(Configuration::default, |before| before.configuration.clone());
        let (since, configuration) = (self.trace.time(), configuration.clone());
        self.in_force.insert((n, group), InForce { id, configuration, since, before });
    }

    /// Whether voters elsewhere are a majority of every configuration that anybody was last seen with.
    pub fn can_do_without(&self, n: usize) -> bool {
        let is_minority = |half: &Vec<ReplicaId>| {
            let here = half.iter().any(|r| crate::net::index_of(r.node) == n);
            !here || half.len() - 1 > half.len() / 2
        };
        self.in_force.iter().filter(|((_, group), _)| !self.is_deleted(*group)).all(|(_, known)| {
            is_minority(&known.configuration.voters) && is_minority(&known.configuration.old_voters)
        })
    }

    /// Whether the newest committed configuration is without this replica: nobody repairs it any more.
    pub(super) fn has_left(&self, group: GroupId, replica: ReplicaId) -> bool {
        let newest = self.generations.get(&group).and_then(|known| known.configurations.last_key_value());
        newest.is_some_and(|(_, (_, configuration))| !configuration.is_member(replica))
    }

    /// Repairs that begin and end.
    pub(super) fn look_at_repair(
        &mut self,
        n: usize,
        life: u64,
        group: GroupId,
        engine: &Engine,
        marks: &mut Marks,
    ) {
        if engine.is_repairing(group) {
            if self.repairing.insert((n, life, group)) {
                marks.hit("repair began");
            }
        } else if self.repairing.remove(&(n, life, group)) && engine.store_ref().needs_repair(group).is_none()
        {
            marks.hit("repair ended");
        }
    }

    /// A leader's commit index has moved: a majority of the voters of each half said that they hold it; learners count for nothing.
    pub(super) fn counted(&self, n: usize, group: GroupId, core: &Core) {
        if core.role() != Role::Leader {
            return;
        }
        self.held_by(n, group, core, core.commit(), None, "commit");
    }

    /// An acknowledgement was given: `least` voters of each half hold the entry (F15), whichever configuration committed it. One is no more
    /// than the commit says, which was counted when it was made; a voter that is new since, or restarted, need not have said it again.
    pub fn counted_for(&self, n: usize, group: GroupId, core: &Core, index: Index, least: usize) {
        if least > 1 && core.role() == Role::Leader && core.commit() >= index {
            self.held_by(n, group, core, index, Some(least), "acknowledgement");
        }
    }

    fn held_by(&self, n: usize, group: GroupId, core: &Core, index: Index, least: Option<usize>, what: &str) {
        // A commit or an acknowledgement of this turn may have come before the members changed in it (seed 692 of `heirs`, 343 of `moves`).
        // What stands at or behind their entry came after it.
        let is_earlier = |known: &&InForce| known.since == self.trace.time() && index < known.id.index;
        let known = self.in_force.get(&(n, group)).filter(is_earlier);
        let before = known.map(|known| &known.before).filter(|before| !before.voters.is_empty());
        let is_held = |configuration: &Configuration| {
            [&configuration.voters, &configuration.old_voters].into_iter().all(|half| {
                let (count, needed) =
                    self.count_held(group, core, (index, core.is_async_with(configuration)), half, least);
                half.is_empty() || count >= needed
            })
        };
        if before.is_some_and(is_held) {
            return;
        }
        let configuration = core.configuration().0;
        for half in [&configuration.voters, &configuration.old_voters] {
            if half.is_empty() {
                continue;
            }
            let (count, needed) = self.count_held(group, core, (index, core.is_async()), half, least);
            assert!(
                count >= needed,
                "F15: node {} leads group {group}, {what} of {index}: {count} of {} voters said that they hold it, in {configuration:?} of {:?}",
                n + 1,
                half.len(),
                core.configuration().1
            );
        }
    }

    /// How many of these voters said that they hold it, and how many are needed.
    fn count_held(
        &self,
        group: GroupId,
        core: &Core,
        (index, is_async): (Index, bool),
        half: &[ReplicaId],
        least: Option<usize>,
    ) -> (usize, usize) {
        // What is merely written counts where the topic asks for no more, and its voters are several (decision 0008; seed 6779 of `long`
        // went on to one in the turn of a commit).
        let said = if is_async { &self.wrote } else { &self.said };
        let holds = |r: &&ReplicaId| match **r == core.replica() {
            true => core.stored_if(is_async) >= index,
            false => said.get(&(group, **r)).is_some_and(|said| *said >= index),
        };
        (half.iter().filter(holds).count(), least.unwrap_or(half.len() / 2 + 1))
    }

    /// What a replica tells its leader that it holds.
    pub(super) fn says(&mut self, group: GroupId, from: ReplicaId, epoch: Epoch, body: &Body) {
        let held = match body {
            // Of one whose vote may be lost it counts only where it granted the very election that every voter granted (F11).
            Body::InDoubt { matched, .. } if self.granted_all.contains(&(group, from, epoch)) => {
                matched.index
            }
            Body::AppendAccepted { last } | Body::LogStartInstalled { prev: last } => last.index,
            Body::BeatReply { matched, .. } => matched.index,
            Body::Written { last } => {
                let wrote = self.wrote.entry((group, from)).or_default();
                *wrote = (*wrote).max(last.index);
                return;
            }
            _ => return,
        };
        for kind in [&mut self.said, &mut self.wrote] {
            let said = kind.entry((group, from)).or_default();
            *said = (*said).max(held);
        }
    }

    /// Entries of an earlier generation were cut from this log: they must be found aside.
    pub(super) fn note_cut(
        &mut self,
        (n, directory): (usize, u128),
        group: GroupId,
        (replica, epoch): (ReplicaId, Epoch),
        cut: Vec<Entry>,
        marks: &mut Marks,
    ) {
        for entry in cut {
            let id = entry.meta.id;
            let is_old = id.epoch.generation < epoch.generation;
            if is_old && entry.meta.kind == EntryKind::Records {
                marks.hit("entries of an earlier generation set aside");
                let (payload, at) = (entry.payload, self.trace.time());
                self.aside.push(Aside { node: n, directory, group, replica, id, payload, at });
            }
        }
    }

    /// A process ended: what it was about to set aside may not have come to that.
    pub(super) fn aside_in_time(&mut self, n: usize) {
        let now = self.trace.time();
        self.aside.retain(|a| a.node != n || a.at + 2 * SECOND < now);
    }

    /// Everything that was cut in a new generation lies beside the log it was cut from.
    pub fn settle_aside(&mut self, nodes: &[Node]) {
        for (n, node) in nodes.iter().enumerate() {
            let fenced: Vec<Vec<u8>> = match self.aside.iter().any(|a| a.node == n) {
                true => node
                    .fs
                    .files()
                    .into_iter()
                    .filter(|(path, _)| path.extension().is_some_and(|e| e == "fenced"))
                    .filter_map(|(path, _)| node.fs.read(&path))
                    .collect(),
                false => Vec::new(),
            };
            for a in self.aside.iter().filter(|a| a.node == n) {
                if node.directory != Some(a.directory) || node.was_damaged {
                    continue;
                }
                let found = fenced.iter().any(|bytes| contains(bytes, &a.payload));
                assert!(
                    found,
                    "F24: node {} cut {} of group {} as {} and kept no copy of it",
                    n + 1,
                    a.id,
                    a.group,
                    a.replica
                );
            }
        }
    }

    /// Reads again what a replica holds above its commit index, which a new generation took back.
    pub(super) fn tail_again(&mut self, n: usize, life: u64, group: GroupId, commit: Index, p: &mut Process) {
        let store = p.shard.engine().store();
        let Ok((last, _)) = store.last(group) else { return };
        let mut tail = BTreeMap::new();
        let mut next = commit.next();
        while next <= last.index {
            let Ok(entries) = store.read(group, next, 1 << 20) else { break };
            let Some(end) = entries.last().map(|e| e.meta.id.index) else { break };
            tail.extend(entries.into_iter().map(|e| (e.meta.id.index.0, e)));
            next = end.next();
        }
        self.tails.insert((n, group), (life, tail));
    }

    /// The entry at an offset as a replica of this generation may show it.
    pub(super) fn shown(&self, group: GroupId, generation: Generation, base: i64, crc: u32) -> bool {
        let is_it = |e: &Committed| e.base == base && e.next > base && e.crc == crc;
        self.logs.get(&group).and_then(|log| log.at(base)).is_some_and(is_it)
            || self.generations.get(&group).is_some_and(|g| g.lost_after(generation).any(is_it))
    }

    /// Where the log ended at most for a replica of this generation.
    pub(super) fn end_for(&self, group: GroupId, generation: Generation) -> i64 {
        let end = self.logs.get(&group).and_then(|log| log.last()).map_or(0, |e| e.next);
        let lost = self.generations.get(&group).into_iter().flat_map(|g| g.lost_after(generation));
        lost.map(|e| e.next).max().unwrap_or(0).max(end)
    }

    /// An entry that a replica in an earlier generation calls committed, and an unclean one lost.
    pub(super) fn is_lost(&self, group: GroupId, generation: Generation, entry: &Entry) -> bool {
        let seen = describe(entry);
        self.generations.get(&group).is_some_and(|g| g.lost_after(generation).any(|e| *e == seen))
    }
}

/// Committed configurations follow each other as Raft §6 has it, and no id comes back (F6).
fn follows(
    group: GroupId,
    (before_id, before): (LogId, &Configuration),
    (id, after): (LogId, &Configuration),
    marks: &mut Marks,
) {
    let same = |a: &[ReplicaId], b: &[ReplicaId]| a.len() == b.len() && a.iter().all(|r| b.contains(r));
    let fits = match (before_id.epoch.generation < id.epoch.generation, before.is_joint(), after.is_joint()) {
        (true, ..) => after.voters.len() == 1 && !after.is_joint(),
        (false, true, true) => false,
        (false, true, false) => after.voters == before.voters && after.learners == before.learners,
        (false, false, true) => after.old_voters == before.voters,
        (false, false, false) => same(&after.voters, &before.voters),
    };
    assert!(fits, "Raft §6: in group {group} {after:?} at {id} follows {before:?} at {before_id}");
    if before_id.epoch.generation < id.epoch.generation {
        return;
    }
    let back = after.members().find(|r| before.is_retired(*r));
    assert!(back.is_none(), "F6: in group {group} former replica {back:?} is a member again at {id}");
    if before.is_joint() && before_id.epoch != id.epoch {
        marks.hit("joint configuration finished by another leader");
    }
    if !after.is_joint() {
        return;
    }
    let (old, new) = (&before.voters, &after.voters);
    let come = new.iter().filter(|r| !old.contains(r)).count();
    let gone = old.iter().filter(|r| !new.contains(r)).count();
    if come > 0 {
        marks.hit("learner promoted");
    }
    if gone > 0 {
        marks.hit("voter removed");
    }
    if come > 0 && gone > 0 {
        marks.hit("voter replaced in one change");
    }
    if new.len() == 1 && old.len() > 1 {
        marks.hit("group shrunk to one");
    }
    if old.len() == 1 && new.len() > 2 {
        marks.hit("group of one grown to three at once");
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else { return true };
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|b| b == first) {
        if bytes[at + found..].starts_with(part) {
            return true;
        }
        at += found + 1;
    }
    false
}

/// Whether a log holds a committed entry, or held it before its start.
fn holds(store: &mut Store, group: GroupId, index: u64, entry: &Committed) -> bool {
    let start = store.log_start(group).map_or(LogId::default(), |s| s.prev);
    match index <= start.index.0 {
        // Epochs only rise along a log.
        true => entry.id.epoch <= start.epoch,
        false => store.meta_at(group, Index(index)).is_ok_and(|meta| meta.id == entry.id),
    }
}
