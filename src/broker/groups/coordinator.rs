//! All groups of one partition of `__consumer_offsets`: requests in, effects out, appends in their order, timers, loading.
//!
//! Not here: what a request does to its group (`group`, `sessions`, `offsets`). Called by `shard::groups`.
//! Invariants: appends are decided in the order they were made, so memory changes in the order of the log; an append that is neither
//! stored nor refused before anything entered the log ends the coordinator ([`Coordinator::end`]): the log alone knows then.

use super::group::{Group, State};
use super::memory::{self, PENDING_BYTES};
use super::records::{self, Key, Record, RecordError};
use super::{
    AppendId, Ask, Committed, Effect, GroupError, Joined, Listed, OffsetKey, Reply, Settings, Time, Token,
};
use crate::raftlog::core::Millis;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Groups whose offsets are looked at for what is over, in one turn.
const EXPIRED_AT_ONCE: usize = 256;
/// Appends under way; beyond that requests that need one are sent back.
const PENDING_MAX: usize = 10_000;
/// Between two warnings that there is no room.
const WARN_MS: Millis = 10_000;

/// What happens once records are committed.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Offsets are there; rows of the answer.
    Commit { offsets: Vec<(OffsetKey, Committed)>, rows: Vec<Option<GroupError>> },
    /// A generation has its assignment.
    Assign { generation: i32, assignments: BTreeMap<String, Bytes> },
    /// A static member has a new id, and goes on without a rebalance.
    Replace { joined: Joined, instance: String },
    /// A static member has a new id, and waits for the next generation with it.
    Return { member: String, instance: String },
    /// The group is without members.
    Emptied,
    /// Members that asked to leave are out; rows of the answer.
    Left { rows: Vec<Option<GroupError>> },
    /// Offsets are gone, and the group with them, if so.
    Remove { offsets: Vec<OffsetKey>, ends: bool, reply: Reply },
}

struct Pending {
    group: String,
    action: Action,
    token: Option<Token>,
    deadline: Millis,
    bytes: usize,
}

/// Appends under way, in their order.
#[derive(Default)]
pub(super) struct Appends {
    next: AppendId,
    by_id: BTreeMap<AppendId, Pending>,
    bytes: usize,
    /// By how much memory may grow once they are committed, in bytes.
    pub(super) room: usize,
    /// Of all below this the answers were given, if only that it took too long.
    told: AppendId,
}

impl Appends {
    pub(super) fn are_full(&self) -> bool {
        self.by_id.len() >= PENDING_MAX || self.bytes >= PENDING_BYTES
    }

    /// What was appended last says that this group has no members: its request is answered with that, and not by a record of its own.
    pub(super) fn answer_with_emptied(
        &mut self,
        group: &str,
        token: Token,
        rows: &[Option<GroupError>],
    ) -> bool {
        let last = self.by_id.values_mut().next_back();
        let is_it = |p: &&mut Pending| p.group == group && matches!(p.action, Action::Emptied);
        let Some(pending) = last.filter(is_it) else { return false };
        (pending.action, pending.token) = (Action::Left { rows: rows.to_vec() }, Some(token));
        true
    }

    fn deadline(&self) -> Millis {
        self.by_id.range(self.told..).next().map_or(Millis::MAX, |(_, p)| p.deadline)
    }
}

/// What one step works with besides its group.
pub(super) struct Turn<'a> {
    pub(super) time: Time,
    pub(super) settings: &'a Settings,
    pub(super) appends: &'a mut Appends,
    pub(super) effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    pub(super) fn answer(&mut self, token: Token, reply: Reply) {
        self.effects.push(Effect::Answer { token, reply });
    }

    pub(super) fn refuse(&mut self, token: Token, error: GroupError) {
        self.answer(token, Reply::Refused(error));
    }

    /// Appends records; `action` follows when they are committed, and the answer to `token` with it.
    pub(super) fn append(&mut self, group: &str, records: Vec<Record>, action: Action, token: Option<Token>) {
        let id = self.appends.next;
        self.appends.next += 1;
        let deadline = self.time.mono + self.settings.commit_timeout_ms;
        let size = |record: &Record| record.key.len() + record.value.as_ref().map_or(0, Bytes::len);
        let bytes = records.iter().map(|record| memory::RECORD_BASE + 2 * size(record)).sum();
        self.appends.bytes += bytes;
        self.appends.by_id.insert(id, Pending { group: group.to_owned(), action, token, deadline, bytes });
        self.effects.push(Effect::Append { id, records });
    }
}

/// The coordinator of one partition.
pub struct Coordinator {
    settings: Settings,
    groups: BTreeMap<String, Group>,
    appends: Appends,
    /// When each group is looked at next, at the earliest.
    timers: BTreeSet<(Millis, String)>,
    next_check: Millis,
    /// The last group that a check which is under way has looked at.
    checked: Option<String>,
    /// What all groups take.
    bytes: usize,
    warn_at: Millis,
}

impl Coordinator {
    /// Of an empty log.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            groups: BTreeMap::new(),
            appends: Appends { room: usize::MAX, ..Appends::default() },
            timers: BTreeSet::new(),
            next_check: Millis::MAX,
            checked: None,
            bytes: 0,
            warn_at: 0,
        }
    }

    /// A committed record, while loading.
    ///
    /// # Errors
    /// It cannot be read: what the group is can then not be known.
    pub fn load(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), RecordError> {
        let Some(key) = key.map(records::read_key).transpose()?.flatten() else { return Ok(()) };
        match (key, value) {
            (Key::Offset { group, topic, partition }, Some(value)) => {
                let committed = records::read_offset(value)?;
                self.group(&group).offsets.insert((topic, partition), committed);
            }
            (Key::Offset { group, topic, partition }, None) => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.offsets.remove(&(topic, partition));
                }
            }
            (Key::Group(group), Some(value)) => {
                let stored = records::read_group(value)?;
                self.group(&group).adopt(stored);
            }
            (Key::Group(name), None) => {
                if let Some(group) = self.groups.get_mut(&name) {
                    group.forget();
                }
            }
        }
        Ok(())
    }

    /// Everything is loaded: sessions begin anew.
    pub fn loaded(&mut self, time: Time) {
        self.groups.retain(|_, group| group.is_stored || !group.offsets.is_empty());
        self.bytes = 0;
        for group in self.groups.values_mut() {
            group.begin_sessions(time.mono);
            group.counted = 0;
        }
        for name in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.schedule(&name);
        }
        self.next_check = time.mono + self.settings.check_ms;
    }

    fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_insert_with(|| Group::new(name))
    }

    /// A request about one group.
    pub fn request(&mut self, time: Time, token: Token, group: &str, ask: Ask, effects: &mut Vec<Effect>) {
        if let Some(refusal) = self.refusal(group, &ask) {
            effects.push(Effect::Answer { token, reply: Reply::Refused(refusal) });
            return;
        }
        let creates = match &ask {
            Ask::Join(join) => join.member.is_empty(),
            Ask::Commit { caller, .. } => caller.generation < 0,
            _ => false,
        };
        if creates {
            self.group(group);
        }
        let Self { groups, appends, settings, .. } = self;
        let mut turn = Turn { time, settings, appends, effects };
        // These make nothing due earlier: the most frequent ones need not look at every member's session.
        let is_sooner = !matches!(
            ask,
            Ask::Heartbeat(_) | Ask::Commit { .. } | Ask::Offsets(_) | Ask::DeleteOffsets(_) | Ask::Describe
        );
        match groups.get_mut(group) {
            Some(group) => group.request(&mut turn, token, ask),
            None => turn.answer(token, Group::unknown(ask)),
        }
        self.warn_of(time, group, effects);
        if is_sooner || self.groups.get(group).is_some_and(|g| g.scheduled == Millis::MAX || g.is_over()) {
            self.schedule(group);
        }
    }

    fn refusal(&self, group: &str, ask: &Ask) -> Option<GroupError> {
        // Offsets may stand under the empty id, since the oldest clients; no group may.
        let takes_any = matches!(
            ask,
            Ask::Commit { .. } | Ask::Offsets(_) | Ask::Describe | Ask::Delete | Ask::DeleteOffsets(_)
        );
        if group.is_empty() && !takes_any {
            return Some(GroupError::InvalidGroup);
        }
        let appends = !matches!(ask, Ask::Heartbeat(_) | Ask::Offsets(_) | Ask::Describe);
        (appends && self.appends.are_full()).then_some(GroupError::NotAvailable)
    }

    /// Says now and then that requests are refused for want of memory.
    fn warn_of(&mut self, time: Time, group: &str, effects: &[Effect]) {
        let is_refusal = |effect: &Effect| {
            matches!(effect, Effect::Answer { reply: Reply::Refused(GroupError::NoRoom), .. })
        };
        if effects.last().is_some_and(is_refusal) && time.mono >= self.warn_at {
            self.warn_at = time.mono + WARN_MS;
            tracing::warn!(group, room = self.appends.room, "no memory for more of a consumer group");
        }
    }

    /// By how much its groups may grow from now on.
    pub fn allow(&mut self, room: usize) {
        self.appends.room = room;
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes + self.appends.bytes
    }

    /// Counts a group again whose offsets alone have changed.
    fn count(&mut self, name: &str) {
        if let Some(group) = self.groups.get_mut(name) {
            let now = group.members_bytes + group.offsets.bytes();
            self.bytes = self.bytes + now - std::mem::replace(&mut group.counted, now);
        }
    }

    /// The records of this append are committed.
    pub fn stored(&mut self, time: Time, id: AppendId, effects: &mut Vec<Effect>) {
        self.decided(time, id, Ok(()), effects);
    }

    /// Nothing of this append entered the log.
    pub fn refused(&mut self, time: Time, id: AppendId, error: GroupError, effects: &mut Vec<Effect>) {
        self.decided(time, id, Err(error), effects);
    }

    fn decided(
        &mut self,
        time: Time,
        id: AppendId,
        result: Result<(), GroupError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Pending { group: name, action, token, bytes, .. }) = self.appends.by_id.remove(&id) else {
            return;
        };
        self.appends.bytes -= bytes;
        let is_sooner = !matches!(action, Action::Commit { .. });
        let Self { groups, appends, settings, .. } = self;
        let mut turn = Turn { time, settings, appends, effects };
        match groups.get_mut(&name) {
            Some(group) => group.decided(&mut turn, action, token, result),
            None => {
                if let Some(token) = token {
                    turn.refuse(token, GroupError::NotAvailable);
                }
            }
        }
        if is_sooner || self.groups.get(&name).is_some_and(Group::is_over) {
            self.schedule(&name);
        } else {
            self.count(&name);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, time: Time, effects: &mut Vec<Effect>) {
        self.tell_late(time, effects);
        while let Some((at, _)) = self.timers.first()
            && *at <= time.mono
        {
            let Some((_, name)) = self.timers.pop_first() else { break };
            let Self { groups, appends, settings, .. } = self;
            if let Some(group) = groups.get_mut(&name) {
                group.scheduled = Millis::MAX;
                group.tick(&mut Turn { time, settings, appends, effects });
            }
            self.schedule(&name);
        }
        if time.mono >= self.next_check {
            self.expire(time, effects);
        }
    }

    /// Whoever waited too long for an append hears so; it may be committed later. Needs no right to serve.
    pub fn tell_late(&mut self, time: Time, effects: &mut Vec<Effect>) {
        let mut assigning = Vec::new();
        for (id, pending) in self.appends.by_id.range_mut(self.appends.told..) {
            if pending.deadline > time.mono {
                break;
            }
            self.appends.told = id + 1;
            if let Some(token) = pending.token.take() {
                effects.push(Effect::Answer { token, reply: Reply::Refused(GroupError::NotAvailable) });
            }
            if let Action::Assign { generation, .. } = pending.action {
                assigning.push((pending.group.clone(), generation));
            }
        }
        for (name, generation) in assigning {
            let Self { groups, appends, settings, .. } = self;
            if let Some(group) = groups.get_mut(&name) {
                group.assigned_late(&mut Turn { time, settings, appends, effects }, generation);
            }
        }
    }

    /// Looks at some groups for what is over; at the rest in the turns that follow.
    fn expire(&mut self, time: Time, effects: &mut Vec<Effect>) {
        let after = self.checked.take().map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.groups.range((after, Bound::Unbounded)).map(|(name, _)| name.clone());
        let names: Vec<String> = names.take(EXPIRED_AT_ONCE).collect();
        if names.len() == EXPIRED_AT_ONCE {
            self.checked = names.last().cloned();
            self.next_check = time.mono + 1;
        } else {
            self.next_check = time.mono + self.settings.check_ms.max(1);
        }
        for name in names {
            let Self { groups, appends, settings, .. } = self;
            if appends.are_full() {
                break;
            }
            if let Some(group) = groups.get_mut(&name) {
                group.expire_offsets(&mut Turn { time, settings, appends, effects });
            }
            self.schedule(&name);
        }
    }

    /// A topic is deleted: so is what was committed in it.
    pub fn forget_topic(&mut self, time: Time, topic: &str, effects: &mut Vec<Effect>) {
        for group in self.groups.values_mut() {
            let mut turn = Turn { time, settings: &self.settings, appends: &mut self.appends, effects };
            group.forget_topic(&mut turn, topic);
        }
    }

    /// When `tick` is due.
    pub fn deadline(&self) -> Millis {
        let timer = self.timers.first().map_or(Millis::MAX, |(at, _)| *at);
        timer.min(self.appends.deadline()).min(self.next_check)
    }

    /// Leadership is over, or what became of an append is not known: whoever waits is told to look for the coordinator again.
    pub fn end(mut self, effects: &mut Vec<Effect>) {
        let waiting = self.groups.values_mut().flat_map(Group::take_tokens);
        let pending = self.appends.by_id.values_mut().filter_map(|pending| pending.token.take());
        for token in waiting.chain(pending) {
            effects.push(Effect::Answer { token, reply: Reply::Refused(GroupError::NotCoordinator) });
        }
    }

    /// All groups.
    pub fn list(&self) -> Vec<Listed> {
        let groups = self.groups.values().filter(|group| group.state != State::Dead);
        groups.map(Group::listed).collect()
    }

    fn schedule(&mut self, name: &str) {
        let Some(group) = self.groups.get_mut(name) else { return };
        if group.is_over() {
            if group.scheduled != Millis::MAX {
                self.timers.remove(&(group.scheduled, name.to_owned()));
            }
            self.bytes -= group.counted;
            self.groups.remove(name);
            return;
        }
        group.members_bytes = group.weigh_members();
        let next = group.deadline();
        // One that is looked at too early is looked at again.
        if next < group.scheduled {
            if group.scheduled != Millis::MAX {
                self.timers.remove(&(group.scheduled, name.to_owned()));
            }
            group.scheduled = next;
            self.timers.insert((next, name.to_owned()));
        }
        self.count(name);
    }

    /// What it takes, counted from nothing.
    #[cfg(test)]
    pub(super) fn weighed(&self) -> usize {
        let offsets = |group: &Group| {
            let mut anew = memory::Offsets::default();
            group.offsets.iter().for_each(|(key, committed)| anew.insert(key.clone(), committed.clone()));
            anew.bytes()
        };
        let groups = self.groups.values().map(|group| group.weigh_members() + offsets(group)).sum::<usize>();
        groups + self.appends.by_id.values().map(|pending| pending.bytes).sum::<usize>()
    }

    /// What memory holds of each group that the log must give back.
    #[cfg(test)]
    pub(super) fn groups(&self) -> &BTreeMap<String, Group> {
        &self.groups
    }
}
