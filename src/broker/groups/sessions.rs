//! Who is there: heartbeats, sessions that end, members that leave.
//!
//! Not here: what follows for the generation (`group`). Called by `group` and `coordinator`.
//! Invariants: a removed member's waiting requests are answered; a member that waits for the group is not taken for silent; a member is told
//! that it has left once the log says so.

use super::coordinator::{Action, Turn};
use super::group::{Group, Rebalance, State};
use super::{Caller, GroupError, Reply, Token};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;

impl Group {
    /// Whether this is a member, and its instance not somebody else's by now.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(now) if now != id && on(Mutation::ForgetFencing) => {}
                Some(now) if now != id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    /// Likewise, and of the present generation.
    pub(super) fn check_caller(&self, caller: &Caller) -> Result<(), GroupError> {
        self.check_member(&caller.member, caller.instance.as_deref())?;
        if caller.generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    pub(super) fn touch(&mut self, now: Millis, id: &str) {
        if let Some(member) = self.members.get_mut(id).filter(|member| !member.is_new) {
            member.expires = now + member.session_ms;
        }
    }

    /// A coordinator begins: everybody has a whole session to find it. Where somebody had left, the others join again.
    pub(super) fn begin_sessions(&mut self, now: Millis) {
        if self.state == State::Stable && self.leader.is_none() {
            self.state = State::Preparing;
            self.rebalance = Some(Rebalance { deadline: now + self.longest_rebalance(), initial: None });
        }
        for member in self.members.values_mut() {
            member.expires = if on(Mutation::NoSessionToFindUs) { now } else { now + member.session_ms };
        }
    }

    pub(super) fn heartbeat(&mut self, turn: &mut Turn<'_>, token: Token, caller: &Caller) {
        if let Err(error) = self.check_caller(caller) {
            return turn.refuse(token, error);
        }
        self.touch(turn.time.mono, &caller.member);
        match self.state {
            State::Completing | State::Stable => turn.answer(token, Reply::Done),
            State::Preparing => turn.refuse(token, GroupError::Rebalancing),
            State::Empty | State::Dead => turn.refuse(token, GroupError::UnknownMember),
        }
    }

    pub(super) fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        token: Token,
        members: Vec<(String, Option<String>)>,
    ) {
        let mut rows = Vec::with_capacity(members.len());
        let (mut left, mut is_in_log) = (false, false);
        for (id, instance) in members {
            if instance.is_none() && self.promised.remove(&id).is_some() {
                left = true;
                rows.push(None);
                continue;
            }
            // An operator may name a static member by its instance alone.
            let by_instance = instance.as_ref().filter(|_| id.is_empty()).and_then(|i| self.instances.get(i));
            let id = by_instance.cloned().unwrap_or(id);
            let checked = self.check_member(&id, instance.as_deref());
            if checked.is_ok() {
                is_in_log |= self.members.get(&id).is_some_and(|member| !member.is_new);
                self.remove(turn, &id);
                left = true;
            }
            rows.push(checked.err());
        }
        if left {
            self.after_removal(turn);
        }
        if !is_in_log || on(Mutation::ForgetDepartures) {
            turn.answer(token, Reply::Rows(rows));
        } else if self.state != State::Empty || !turn.appends.answer_with_emptied(&self.name, token, &rows) {
            // A coordinator that takes over must not wait for it: its partitions would rest for a session.
            let records = self.departure(turn.time.wall_ms);
            self.append(turn, records, Action::Left { rows }, Some(token));
        }
    }

    /// Takes a member out; the generation is looked at afterwards ([`Group::after_removal`]).
    pub(super) fn remove(&mut self, turn: &mut Turn<'_>, id: &str) {
        let Some(member) = self.members.remove(id) else { return };
        for token in [member.join, member.sync].into_iter().flatten() {
            turn.refuse(token, GroupError::UnknownMember);
        }
        if let Some(instance) = member.instance
            && self.instances.get(&instance).is_some_and(|now| now == id)
        {
            self.instances.remove(&instance);
        }
        self.unsynced.remove(id);
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Somebody is not in the group any more.
    pub(super) fn after_removal(&mut self, turn: &mut Turn<'_>) {
        if self.state != State::Empty {
            self.rebalance_or_complete(turn);
        }
    }

    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        let now = turn.time.mono;
        let promised = self.promised.len();
        self.promised.retain(|_, until| *until > now);
        let mut gone = promised > self.promised.len() && self.state == State::Preparing;
        let late = self.members.iter().filter(|(_, member)| member.expires <= now);
        for id in late.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if !member.is_new && (member.join.is_some() || member.sync.is_some()) {
                member.expires = now + member.session_ms.max(1);
            } else {
                tracing::info!(group = self.name, member = id, "session of a group's member is over");
                self.remove(turn, &id);
                gone = true;
            }
        }
        if self.sync_deadline <= now {
            self.sync_deadline = Millis::MAX;
            for id in std::mem::take(&mut self.unsynced) {
                tracing::info!(group = self.name, member = id, "member joined and never asked for its share");
                self.remove(turn, &id);
                gone = true;
            }
        }
        if gone {
            self.after_removal(turn);
        }
        self.end_rebalance(turn);
    }

    fn end_rebalance(&mut self, turn: &mut Turn<'_>) {
        let now = turn.time.mono;
        let delay = turn.settings.initial_delay_ms;
        let Some(rebalance) = self.rebalance.as_mut().filter(|rebalance| rebalance.deadline <= now) else {
            return;
        };
        match &mut rebalance.initial {
            Some(initial) if initial.joined && initial.remaining > 0 => {
                let more = delay.min(initial.remaining);
                initial.remaining -= more;
                initial.joined = false;
                rebalance.deadline = now + more;
            }
            _ => self.complete(turn),
        }
    }

    /// When it is to be looked at, at the latest.
    pub(super) fn deadline(&self) -> Millis {
        let sessions = self.members.values().map(|member| member.expires);
        let times = sessions.chain(self.promised.values().copied());
        let times = times.chain(self.rebalance.as_ref().map(|rebalance| rebalance.deadline));
        times.chain([self.sync_deadline]).min().unwrap_or(Millis::MAX)
    }

    /// Nothing is left of it that anybody could ask for.
    pub(super) fn is_over(&self) -> bool {
        let is_blank = self.state == State::Empty
            && !self.is_stored
            && self.promised.is_empty()
            && self.offsets.is_empty()
            && self.appending == 0;
        self.is_gone || is_blank
    }

    /// Everybody who waits.
    pub(super) fn take_tokens(&mut self) -> Vec<Token> {
        let tokens = |m: &mut super::group::Member| [m.join.take(), m.sync.take()].into_iter().flatten();
        self.members.values_mut().flat_map(tokens).collect()
    }
}
