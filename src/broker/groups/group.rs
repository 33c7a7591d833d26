//! One group: members join, a generation begins, its leader's assignment is stored, everybody gets a share.
//!
//! Empty -> PreparingRebalance (members come) -> CompletingRebalance (the leader's assignment is waited for and stored) -> Stable. The rules are
//! those of Kafka's classic protocol: static members (KIP-345), ids before membership (KIP-394), skipped assignments (KIP-814).
//! What members assign to each other is their business; cooperative rebalancing is theirs alone.
//! Not here: sessions and leaving (`sessions`), offsets (`offsets`). Called by `coordinator`.

use super::coordinator::{Action, Turn};
use super::memory::Offsets;
use super::records::Record;
use super::subscription::{self, CONSUMER};
use super::{Ask, DescribedMember, Description, GroupError, Join, Joined, Listed, OffsetKey, Reply, Token};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes of metadata that a member may bring, all its protocols together.
pub(super) const METADATA_BYTES: usize = 1 << 20;
/// Most protocols that a member may bring, each once.
const PROTOCOLS_MAX: usize = 100;
/// Most members, whatever `group.max.size` says, and as many ids given to members that did not come back yet.
const MEMBERS_MAX: usize = 10_000;
/// How long a new member may wait for its first generation.
const NEW_MEMBER_MS: Millis = 300_000;

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No members; offsets, perhaps.
    Empty,
    /// Members are waited for.
    Preparing,
    /// The assignment is waited for.
    Completing,
    /// Everybody has a share.
    Stable,
    /// It is being deleted.
    Dead,
}

impl State {
    /// Kafka's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_ms: u64,
    pub(super) rebalance_ms: u64,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// When its session ends.
    pub(super) expires: Millis,
    /// A dynamic member that has not been in a generation yet.
    pub(super) is_new: bool,
    /// A JoinGroup that waits.
    pub(super) join: Option<Token>,
    /// A SyncGroup that waits.
    pub(super) sync: Option<Token>,
}

impl Member {
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map_or_else(Bytes::new, |(_, metadata)| metadata.clone())
    }
}

/// Members are being waited for.
#[derive(Clone, Debug)]
pub(super) struct Rebalance {
    pub(super) deadline: Millis,
    /// The first one of a group: more members may be about to start (`group.initial.rebalance.delay.ms`).
    pub(super) initial: Option<Initial>,
}

/// How long a first rebalance may still be put off, and whether somebody came since it was last.
#[derive(Clone, Debug)]
pub(super) struct Initial {
    pub(super) remaining: u64,
    pub(super) joined: bool,
}

/// The group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) generation: i32,
    pub(super) protocol_type: String,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    pub(super) instances: BTreeMap<String, String>,
    /// Ids given to members that have not come back with them, and until when they may.
    pub(super) promised: BTreeMap<String, Millis>,
    pub(super) rebalance: Option<Rebalance>,
    /// Members of this generation that did not ask for their share yet, and until when they may.
    pub(super) unsynced: BTreeSet<String>,
    pub(super) sync_deadline: Millis,
    /// The last generation whose assignment is in the log.
    pub(super) settled: i32,
    /// The generation's assignment is being stored.
    pub(super) storing: bool,
    /// Storing it takes too long: nobody waits for it any longer, and it may come all the same.
    pub(super) is_late: bool,
    pub(super) offsets: Offsets,
    /// Commits under way, by what they are of.
    pub(super) in_flight: BTreeMap<OffsetKey, u32>,
    /// Appends under way.
    pub(super) appending: usize,
    /// When it came to its state, by the wall clock; -1: not known.
    pub(super) since_ms: i64,
    /// A record of it is in the log.
    pub(super) is_stored: bool,
    /// That it has no members could not be written: it is tried again.
    pub(super) is_unwritten: bool,
    /// Deleted, and the log says so.
    pub(super) is_gone: bool,
    /// When it is looked at next.
    pub(super) scheduled: Millis,
    /// What it takes without its offsets, in bytes, and with them, as it was counted last (`memory`).
    pub(super) members_bytes: usize,
    pub(super) counted: usize,
}

impl Group {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            promised: BTreeMap::new(),
            rebalance: None,
            unsynced: BTreeSet::new(),
            sync_deadline: Millis::MAX,
            settled: 0,
            storing: false,
            is_late: false,
            offsets: Offsets::default(),
            in_flight: BTreeMap::new(),
            appending: 0,
            since_ms: -1,
            is_stored: false,
            is_unwritten: false,
            is_gone: false,
            scheduled: Millis::MAX,
            members_bytes: 0,
            counted: 0,
        }
    }

    /// A request about a group that does not exist.
    pub(super) fn unknown(ask: Ask) -> Reply {
        match ask {
            Ask::Offsets(None) => Reply::Offsets(Vec::new()),
            Ask::Offsets(Some(keys)) => Reply::Offsets(keys.into_iter().map(|key| (key, None)).collect()),
            Ask::Commit { .. } => Reply::Refused(GroupError::IllegalGeneration),
            Ask::Leave(members) => Reply::Rows(vec![Some(GroupError::UnknownMember); members.len()]),
            Ask::Describe | Ask::Delete | Ask::DeleteOffsets(_) => Reply::Refused(GroupError::UnknownGroup),
            Ask::Join(_) | Ask::Sync { .. } | Ask::Heartbeat(_) => Reply::Refused(GroupError::UnknownMember),
        }
    }

    pub(super) fn request(&mut self, turn: &mut Turn<'_>, token: Token, ask: Ask) {
        if self.state == State::Dead {
            let reply = match ask {
                // Not gone before the log says so.
                Ask::Offsets(keys) => self.fetch(keys),
                Ask::Describe => Self::unknown(ask),
                _ => Reply::Refused(GroupError::NotAvailable),
            };
            return turn.answer(token, reply);
        }
        match ask {
            Ask::Join(join) => self.join(turn, token, join),
            Ask::Sync { caller, protocol_type, protocol, assignments } => {
                let is_other = protocol_type.is_some_and(|given| given != self.protocol_type)
                    || (protocol.is_some() && protocol != self.protocol);
                match self.check_caller(&caller) {
                    Err(error) => turn.refuse(token, error),
                    Ok(()) if is_other => turn.refuse(token, GroupError::InconsistentProtocol),
                    Ok(()) => self.sync(turn, token, &caller.member, &assignments),
                }
            }
            Ask::Heartbeat(caller) => self.heartbeat(turn, token, &caller),
            Ask::Leave(members) => self.leave(turn, token, members),
            Ask::Commit { caller, offsets, retention_ms } => {
                self.commit(turn, token, &caller, offsets, retention_ms);
            }
            Ask::Offsets(keys) => turn.answer(token, self.fetch(keys)),
            Ask::DeleteOffsets(keys) => self.delete_offsets(turn, token, keys),
            Ask::Describe => turn.answer(token, Reply::Described(self.describe())),
            Ask::Delete => self.delete(turn, token),
        }
    }

    /// What came of an append.
    pub(super) fn decided(
        &mut self,
        turn: &mut Turn<'_>,
        action: Action,
        token: Option<Token>,
        result: Result<(), GroupError>,
    ) {
        self.appending -= 1;
        let error = result.err();
        let answer = match action {
            Action::Commit { offsets, rows } => self.commit_decided(offsets, rows, error),
            Action::Remove { offsets, ends, reply } => self.remove_decided(offsets, ends, reply, error),
            Action::Emptied => {
                self.emptied(error.as_ref());
                Reply::Done
            }
            Action::Left { rows } => {
                self.emptied(error.as_ref());
                error.map_or(Reply::Rows(rows), Reply::Refused)
            }
            Action::Assign { generation, assignments } => {
                self.assigned(turn, generation, assignments, error);
                Reply::Done
            }
            Action::Replace { joined, instance } => self.replaced(turn, joined, &instance, error),
            Action::Return { member, instance } => {
                self.is_stored |= error.is_none();
                return self.returned(turn, token, &member, &instance, error);
            }
        };
        if let Some(token) = token {
            turn.answer(token, answer);
        }
    }

    /// The log says that members are gone, or does not; if those were the last ones it is tried again.
    fn emptied(&mut self, error: Option<&GroupError>) {
        self.is_stored |= error.is_none();
        self.is_unwritten |= error.is_some() && self.state == State::Empty;
    }

    // -- Joining ----------------------------------------------------------------------------------------------------

    fn join(&mut self, turn: &mut Turn<'_>, token: Token, join: Join) {
        if let Err(error) = self.check_join(turn, &join) {
            return turn.refuse(token, error);
        }
        if !self.has_room(turn, &join.member) {
            let member = join.member.clone();
            if self.members.contains_key(&member) {
                self.remove(turn, &member);
                self.after_removal(turn);
            }
            return turn.refuse(token, GroupError::Full);
        }
        if self.is_full_for(&join, turn.appends.room) {
            return turn.refuse(token, GroupError::NoRoom);
        }
        if join.member.is_empty() {
            self.join_new(turn, token, join)
        } else {
            self.join_again(turn, token, join)
        }
    }

    fn check_join(&self, turn: &Turn<'_>, join: &Join) -> Result<(), GroupError> {
        let session = turn.settings.min_session_ms..=turn.settings.max_session_ms;
        if !session.contains(&join.session_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        if join.protocols.iter().map(|(name, bytes)| name.len() + bytes.len()).sum::<usize>() > METADATA_BYTES
        {
            return Err(GroupError::InvalidMetadata);
        }
        let names: BTreeSet<&str> = join.protocols.iter().map(|(name, _)| name.as_str()).collect();
        if names.len() > PROTOCOLS_MAX || names.len() < join.protocols.len() {
            return Err(GroupError::InvalidMetadata);
        }
        let names_any = !join.protocol_type.is_empty() && !join.protocols.is_empty();
        let suits = self.members.is_empty()
            || (join.protocol_type == self.protocol_type && self.has_common(&join.protocols));
        if names_any && suits { Ok(()) } else { Err(GroupError::InconsistentProtocol) }
    }

    /// Protocols that every member knows.
    fn common(&self) -> BTreeSet<&str> {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, _) in self.members.values().flat_map(|member| &member.protocols) {
            *known.entry(name).or_default() += 1;
        }
        let all = known.into_iter().filter(|(_, count)| *count == self.members.len());
        all.map(|(name, _)| name).collect()
    }

    /// Whether everybody knows one of these protocols.
    fn has_common(&self, protocols: &[(String, Bytes)]) -> bool {
        let common = self.common();
        protocols.iter().any(|(name, _)| common.contains(name.as_str()))
    }

    fn has_room(&self, turn: &Turn<'_>, member: &str) -> bool {
        let most = turn.settings.max_size.min(MEMBERS_MAX);
        let known = self.members.get(member);
        match self.state {
            State::Empty | State::Dead => self.promised.len() < most || self.promised.contains_key(member),
            State::Preparing => {
                let waiting = self.members.values().filter(|member| member.join.is_some()).count();
                known.is_some_and(|member| member.join.is_some()) || waiting < most
            }
            State::Completing | State::Stable => known.is_some() || self.members.len() < most,
        }
    }

    fn join_new(&mut self, turn: &mut Turn<'_>, token: Token, join: Join) {
        let id = join.fresh_id.clone();
        match join.instance.as_ref().map(|instance| self.instances.get(instance).cloned()) {
            Some(Some(old)) => self.replace(turn, token, join, &old),
            Some(None) => self.add(turn, token, id, join),
            None if join.needs_id => {
                if self.promised.len() >= MEMBERS_MAX {
                    return turn.refuse(token, GroupError::Full);
                }
                self.promised.insert(id.clone(), turn.time.mono + join.session_ms);
                turn.refuse(token, GroupError::MemberIdRequired(id));
            }
            None => self.add(turn, token, id, join),
        }
    }

    fn join_again(&mut self, turn: &mut Turn<'_>, token: Token, join: Join) {
        let id = join.member.clone();
        if join.instance.is_none() && self.promised.contains_key(&id) {
            return self.add(turn, token, id, join);
        }
        if let Err(error) = self.check_member(&id, join.instance.as_deref()) {
            return turn.refuse(token, error);
        }
        let same = self.members[&id].protocols == join.protocols;
        let leads = self.leader.as_deref() == Some(&id);
        match self.state {
            State::Preparing => self.update(turn, token, &id, join),
            // The answer to its last JoinGroup may not have reached it.
            State::Completing if same => self.joined_already(turn, token, &id),
            State::Stable if same && !leads => self.joined_already(turn, token, &id),
            State::Completing | State::Stable => self.update(turn, token, &id, join),
            State::Empty | State::Dead => turn.refuse(token, GroupError::UnknownMember),
        }
    }

    fn joined_already(&mut self, turn: &mut Turn<'_>, token: Token, id: &str) {
        self.touch(turn.time.mono, id);
        turn.answer(token, Reply::Joined(self.answer_to(id)));
    }

    fn answer_to(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone().unwrap_or_default(),
            member: id.to_owned(),
            skip_assignment: false,
            members: if leader == id { self.everybody() } else { Vec::new() },
            leader,
        }
    }

    fn everybody(&self) -> Vec<(String, Option<String>, Bytes)> {
        let protocol = self.protocol.as_deref();
        let row = |(id, m): (&String, &Member)| (id.clone(), m.instance.clone(), m.metadata(protocol));
        self.members.iter().map(row).collect()
    }

    fn add(&mut self, turn: &mut Turn<'_>, token: Token, id: String, join: Join) {
        self.promised.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type;
        }
        self.leader.get_or_insert_with(|| id.clone());
        let instance = join.instance.clone();
        if let Some(instance) = &instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let is_new = instance.is_none();
        let member = Member {
            instance: join.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            session_ms: join.session_ms,
            rebalance_ms: join.rebalance_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            expires: turn.time.mono + if is_new { NEW_MEMBER_MS } else { join.session_ms },
            is_new,
            join: is_new.then_some(token),
            sync: None,
        };
        self.members.insert(id.clone(), member);
        if let Some(initial) = self.rebalance.as_mut().and_then(|r| r.initial.as_mut()) {
            initial.joined = true;
        }
        match instance {
            Some(instance) => self.let_in(turn, token, id, instance),
            None => self.rebalance_or_complete(turn),
        }
    }

    fn update(&mut self, turn: &mut Turn<'_>, token: Token, id: &str, join: Join) {
        if let Some(member) = self.members.get_mut(id) {
            member.protocols = join.protocols;
            (member.session_ms, member.rebalance_ms) = (join.session_ms, join.rebalance_ms);
            if let Some(old) = member.join.replace(token) {
                // Asked again, on another connection: one answer is enough for the client, and each gets one.
                turn.refuse(old, GroupError::Rebalancing);
            }
        }
        self.rebalance_or_complete(turn);
    }

    /// A static member is back without its id (KIP-345): it gets a new one, and whoever had the old one is fenced.
    fn replace(&mut self, turn: &mut Turn<'_>, token: Token, join: Join, old: &str) {
        let id = join.fresh_id.clone();
        let Some(mut member) = self.members.remove(old) else {
            return turn.refuse(token, GroupError::UnknownMember);
        };
        for waiting in [member.join.take(), member.sync.take()].into_iter().flatten() {
            turn.refuse(waiting, GroupError::FencedInstance);
        }
        let reads = |m: &Member, p: Option<&str>| subscription::topics(&m.metadata(p));
        let read = reads(&member, self.protocol.as_deref());
        let leader = self.leader.clone().unwrap_or_default();
        if leader == old {
            self.leader = Some(id.clone());
        }
        if self.unsynced.remove(old) {
            self.unsynced.insert(id.clone());
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let same = member.protocols == join.protocols;
        member.protocols = join.protocols;
        (member.session_ms, member.rebalance_ms) = (join.session_ms, join.rebalance_ms);
        (member.client_id, member.client_host) = (join.client_id, join.client_host);
        member.is_new = false;
        member.expires = turn.time.mono + member.session_ms;
        // Sticky assignors put what they hold into the metadata: it differs at every start, and means nothing to the group.
        let same = same || (read.is_some() && read == reads(&member, self.protocol.as_deref()));
        self.members.insert(id.clone(), member);
        let instance = join.instance.unwrap_or_default();
        if self.state == State::Stable && same && self.choose_protocol() == self.protocol {
            let mut joined = self.answer_to(&id);
            if leader == old && join.may_skip {
                joined.skip_assignment = true;
            } else if leader == old {
                // It must not take itself for the leader and assign anew: the others would not hear of it.
                (joined.leader, joined.members) = (leader, Vec::new());
            }
            let records = self.records(&BTreeMap::new());
            return self.append(turn, records, Action::Replace { joined, instance }, Some(token));
        }
        self.let_in(turn, token, id, instance);
    }

    /// A static member with a new id waits for the next generation, and before that for the log to have its id: where that has an older one, a
    /// coordinator that took over would fence the new one, and the client end itself.
    fn let_in(&mut self, turn: &mut Turn<'_>, token: Token, id: String, instance: String) {
        self.rebalance_or_complete(turn);
        let is_in_log = self.is_stored || self.appending > 0;
        if !is_in_log || on(Mutation::ReturnUnstored) {
            return self.returned(turn, Some(token), &id, &instance, None);
        }
        let records = self.departure(turn.time.wall_ms);
        self.append(turn, records, Action::Return { member: id, instance }, Some(token));
    }

    /// The log has a static member's new id, or needs none: it waits for the next generation.
    fn returned(
        &mut self,
        turn: &mut Turn<'_>,
        token: Option<Token>,
        id: &str,
        instance: &str,
        error: Option<GroupError>,
    ) {
        let checked = self.check_member(id, Some(instance));
        match (checked.err().or(error), token, self.members.get_mut(id)) {
            (None, Some(token), Some(member)) => member.join = Some(token),
            (Some(error), Some(token), _) => turn.refuse(token, error),
            _ => {}
        }
        if self.members.contains_key(id) {
            self.rebalance_or_complete(turn);
        }
    }

    fn replaced(
        &mut self,
        turn: &mut Turn<'_>,
        joined: Joined,
        instance: &str,
        error: Option<GroupError>,
    ) -> Reply {
        // A second process with its instance came meanwhile, and has it: this one must not come back and take it again.
        if self.instances.get(instance).is_some_and(|now| *now != joined.member) {
            return Reply::Refused(GroupError::FencedInstance);
        }
        let is_current = self.state == State::Stable
            && self.generation == joined.generation
            && self.members.contains_key(&joined.member);
        match error {
            Some(error) => {
                // The log still has the old id: the next generation puts that right.
                if is_current {
                    self.rebalance_or_complete(turn);
                }
                Reply::Refused(error)
            }
            None if is_current => Reply::Joined(joined),
            None => Reply::Refused(GroupError::Rebalancing),
        }
    }

    // -- Generations ------------------------------------------------------------------------------------------------

    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::Empty | State::Completing | State::Stable => self.prepare(turn),
            State::Preparing => self.complete_if_all_joined(turn),
            State::Dead => {}
        }
    }

    fn prepare(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::Completing {
            for member in self.members.values_mut() {
                member.assignment = Bytes::new();
                if let Some(token) = member.sync.take() {
                    turn.refuse(token, GroupError::Rebalancing);
                }
            }
        }
        (self.storing, self.is_late) = (false, false);
        self.unsynced.clear();
        self.sync_deadline = Millis::MAX;
        let was_empty = std::mem::replace(&mut self.state, State::Preparing) == State::Empty;
        let longest = self.longest_rebalance();
        let delay = turn.settings.initial_delay_ms;
        if was_empty && delay > 0 {
            let initial = Some(Initial { remaining: longest.saturating_sub(delay), joined: false });
            self.rebalance = Some(Rebalance { deadline: turn.time.mono + delay, initial });
        } else {
            self.rebalance = Some(Rebalance { deadline: turn.time.mono + longest, initial: None });
            self.complete_if_all_joined(turn);
        }
    }

    pub(super) fn longest_rebalance(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_ms).max().unwrap_or(0)
    }

    pub(super) fn complete_if_all_joined(&mut self, turn: &mut Turn<'_>) {
        let is_initial = self.rebalance.as_ref().is_some_and(|rebalance| rebalance.initial.is_some());
        let all = self.members.values().all(|member| member.join.is_some()) && self.promised.is_empty();
        if self.state == State::Preparing && all && !is_initial {
            self.complete(turn);
        }
    }

    /// Nobody is waited for any longer: the next generation begins.
    pub(super) fn complete(&mut self, turn: &mut Turn<'_>) {
        let is_out = |member: &Member| member.join.is_none() && member.instance.is_none();
        let out: Vec<String> =
            self.members.iter().filter(|(_, m)| is_out(m)).map(|(id, _)| id.clone()).collect();
        for id in out {
            self.remove(turn, &id);
        }
        let joined = |id: &String| self.members.get(id).is_some_and(|member| member.join.is_some());
        if !self.leader.as_ref().is_some_and(joined) {
            let next =
                self.members.iter().find(|(_, member)| member.join.is_some()).map(|(id, _)| id.clone());
            if next.is_none() && !self.members.is_empty() {
                // Static members alone, and none of them is back: their sessions decide.
                let deadline = turn.time.mono + self.longest_rebalance().max(1);
                self.rebalance = Some(Rebalance { deadline, initial: None });
                return;
            }
            self.leader = next;
        }
        self.rebalance = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.since_ms = turn.time.wall_ms;
        if self.members.is_empty() {
            (self.state, self.protocol, self.leader) = (State::Empty, None, None);
            return self.write_empty(turn);
        }
        self.state = State::Completing;
        self.protocol = self.choose_protocol();
        self.answer_joins(turn);
    }

    pub(super) fn write_empty(&mut self, turn: &mut Turn<'_>) {
        self.is_unwritten = false;
        let records = self.records(&BTreeMap::new());
        self.append(turn, records, Action::Emptied, None);
    }

    fn answer_joins(&mut self, turn: &mut Turn<'_>) {
        self.sync_deadline = turn.time.mono + self.longest_rebalance();
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let joined = self.answer_to(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.assignment = Bytes::new();
            if let Some(token) = member.join.take() {
                member.is_new = false;
                member.expires = turn.time.mono + member.session_ms;
                self.unsynced.insert(id);
                turn.answer(token, Reply::Joined(joined));
            }
        }
    }

    /// The protocol that everybody knows and most prefer.
    pub(super) fn choose_protocol(&self) -> Option<String> {
        let common = self.common();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| common.contains(name.as_str()))
            {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
        most.map(|(name, _)| name.to_owned())
    }

    fn sync(&mut self, turn: &mut Turn<'_>, token: Token, id: &str, assignments: &BTreeMap<String, Bytes>) {
        match self.state {
            State::Empty | State::Dead => turn.refuse(token, GroupError::UnknownMember),
            State::Preparing => turn.refuse(token, GroupError::Rebalancing),
            State::Stable => {
                self.unsynced.remove(id);
                self.touch(turn.time.mono, id);
                turn.answer(token, self.share_of(id));
            }
            State::Completing if self.is_late => turn.refuse(token, GroupError::NotAvailable),
            State::Completing => {
                self.unsynced.remove(id);
                self.touch(turn.time.mono, id);
                let waiting = self.members.get_mut(id).and_then(|member| member.sync.replace(token));
                if let Some(old) = waiting {
                    turn.refuse(old, GroupError::Rebalancing);
                }
                let is_first = !self.storing || on(Mutation::AssignTwice);
                if self.leader.as_deref() == Some(id) && is_first {
                    self.storing = true;
                    let shares: BTreeMap<String, Bytes> = self
                        .members
                        .keys()
                        .map(|id| (id.clone(), assignments.get(id).cloned().unwrap_or_default()))
                        .collect();
                    let records = self.records(&shares);
                    let early = on(Mutation::ShareBeforeStored).then(|| shares.clone());
                    let action = Action::Assign { generation: self.generation, assignments: shares };
                    self.append(turn, records, action, None);
                    if let Some(shares) = early {
                        self.assigned(turn, self.generation, shares, None);
                    }
                }
            }
        }
    }

    /// The generation's assignment takes too long to be stored: whoever waits for a share is told, as those are who wait for a commit.
    pub(super) fn assigned_late(&mut self, turn: &mut Turn<'_>, generation: i32) {
        if self.state == State::Completing && self.generation == generation && self.storing {
            self.is_late = true;
            self.refuse_syncs(turn, &GroupError::NotAvailable);
        }
    }

    fn refuse_syncs(&mut self, turn: &mut Turn<'_>, error: &GroupError) {
        for token in self.members.values_mut().filter_map(|member| member.sync.take()) {
            turn.refuse(token, error.clone());
        }
    }

    fn share_of(&self, id: &str) -> Reply {
        Reply::Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    fn assigned(
        &mut self,
        turn: &mut Turn<'_>,
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
        error: Option<GroupError>,
    ) {
        self.is_stored |= error.is_none();
        if self.state != State::Completing || self.generation != generation || !self.storing {
            return;
        }
        (self.storing, self.is_late) = (false, false);
        if let Some(error) = error {
            self.refuse_syncs(turn, &error);
            return self.prepare(turn);
        }
        self.state = State::Stable;
        self.settled = generation;
        self.since_ms = turn.time.wall_ms;
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let share = self.share_of(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(token) = member.sync.take() {
                member.expires = turn.time.mono + member.session_ms;
                turn.answer(token, share);
            }
        }
    }

    pub(super) fn append(
        &mut self,
        turn: &mut Turn<'_>,
        records: Vec<Record>,
        action: Action,
        token: Option<Token>,
    ) {
        self.appending += 1;
        turn.append(&self.name, records, action, token);
    }

    // -- Shown ------------------------------------------------------------------------------------------------------

    pub(super) fn listed(&self) -> Listed {
        let (group, protocol_type) = (self.name.clone(), self.protocol_type.clone());
        Listed { group, protocol_type, state: self.state.name() }
    }

    fn describe(&self) -> Description {
        let is_stable = self.state == State::Stable;
        let protocol = self.protocol.as_deref().filter(|_| is_stable);
        let row = |(id, m): (&String, &Member)| DescribedMember {
            id: id.clone(),
            instance: m.instance.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: m.metadata(protocol),
            assignment: if is_stable { m.assignment.clone() } else { Bytes::new() },
        };
        Description {
            state: self.state.name(),
            protocol_type: self.protocol_type.clone(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: self.members.iter().map(row).collect(),
        }
    }

    /// Topics that its consumers read; none: it cannot be told, or they are no consumers.
    pub(super) fn subscribed(&self) -> Option<BTreeSet<String>> {
        let protocol = self.protocol.as_deref().filter(|_| self.protocol_type == CONSUMER)?;
        let mut all = BTreeSet::new();
        for member in self.members.values() {
            all.extend(subscription::topics(&member.metadata(Some(protocol)))?);
        }
        Some(all)
    }
}
