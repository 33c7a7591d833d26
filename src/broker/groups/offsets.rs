//! What a group has committed: kept, shown, deleted, expired.
//!
//! Not here: records' bytes (`records`), when they are committed (`coordinator`). Called by `group` and `coordinator`.
//! Invariants: only a member of the present generation commits, or, while there are no members, whoever claims none; what is shown is
//! committed; an offset with a commit under way is not expired; Kafka's rules say when one is (KIP-211).

use super::coordinator::{Action, Turn};
use super::group::{Group, State};
use super::records::{self, Record};
use super::subscription::CONSUMER;
use super::{Caller, Committed, GroupError, Offset, OffsetKey, Reply, Token};
use crate::mutation::{Mutation, on};

/// Bytes of the records with which offsets end, of one append; one offset if its record is larger. Names have up to 32 KiB each.
const ENDED_BYTES: usize = 128 << 10;

impl Group {
    /// Whether this caller may commit now.
    fn check_commit(&self, caller: &Caller) -> Result<(), GroupError> {
        let claims_none = caller.generation < 0 && caller.member.is_empty() && caller.instance.is_none();
        if self.state == State::Empty && caller.generation < 0 {
            return Ok(());
        }
        if claims_none {
            // An application that assigns partitions to itself, or an operator, while members own them.
            return Err(GroupError::UnknownMember);
        }
        match self.check_caller(caller) {
            Err(GroupError::IllegalGeneration) if on(Mutation::CommitForAnyGeneration) => {}
            checked => checked?,
        }
        // Its members have not got their shares of this generation. It may not be in the log either, and a coordinator that never heard of
        // it would take commits of the one before: they would come after those of this one.
        let is_settled = self.state != State::Completing && self.settled == self.generation;
        if !is_settled && !on(Mutation::CommitUnsettled) { Err(GroupError::Rebalancing) } else { Ok(()) }
    }

    pub(super) fn commit(
        &mut self,
        turn: &mut Turn<'_>,
        token: Token,
        caller: &Caller,
        offsets: Vec<(OffsetKey, Offset)>,
        retention_ms: Option<i64>,
    ) {
        if let Err(error) = self.check_commit(caller) {
            return turn.refuse(token, error);
        }
        if self.growth(&offsets) > turn.appends.room {
            return turn.refuse(token, GroupError::NoRoom);
        }
        self.touch(turn.time.mono, &caller.member);
        let at_ms = turn.time.wall_ms;
        let until_ms = retention_ms.map(|ms| at_ms.saturating_add(ms));
        let (mut rows, mut taken, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for (key, Offset { offset, leader_epoch, metadata }) in offsets {
            if metadata.len() > turn.settings.metadata_bytes {
                rows.push(Some(GroupError::MetadataTooLarge));
                continue;
            }
            rows.push(None);
            // The record with an end of its own has no room for the epoch; what is in memory is what the log says.
            let leader_epoch = if until_ms.is_some() { -1 } else { leader_epoch };
            let committed = Committed { offset, leader_epoch, metadata, at_ms, until_ms };
            let value = Some(records::write_offset(&committed));
            records.push(Record { key: records::offset_key(&self.name, &key.0, key.1), value });
            *self.in_flight.entry(key.clone()).or_default() += 1;
            taken.push((key, committed));
        }
        if records.is_empty() {
            return turn.answer(token, Reply::Rows(rows));
        }
        if on(Mutation::TellBeforeStored) {
            taken.iter().cloned().for_each(|(key, committed)| self.offsets.insert(key, committed));
            turn.answer(token, Reply::Rows(rows.clone()));
            return self.append(turn, records, Action::Commit { offsets: taken, rows }, None);
        }
        self.append(turn, records, Action::Commit { offsets: taken, rows }, Some(token));
    }

    pub(super) fn commit_decided(
        &mut self,
        offsets: Vec<(OffsetKey, Committed)>,
        rows: Vec<Option<GroupError>>,
        error: Option<GroupError>,
    ) -> Reply {
        for (key, committed) in offsets {
            if let Some(count) = self.in_flight.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.in_flight.remove(&key);
                }
            }
            if error.is_none() {
                self.offsets.insert(key, committed);
            }
        }
        error.map_or(Reply::Rows(rows), Reply::Refused)
    }

    pub(super) fn fetch(&self, keys: Option<Vec<OffsetKey>>) -> Reply {
        let all = || self.offsets.iter().map(|(key, offset)| (key.clone(), Some(offset.clone()))).collect();
        let asked = |keys: Vec<OffsetKey>| {
            keys.into_iter().map(|key| {
                let offset = self.offsets.get(&key).cloned();
                (key, offset)
            })
        };
        Reply::Offsets(keys.map_or_else(all, |keys| asked(keys).collect()))
    }

    /// OffsetDelete: of topics that no member reads.
    pub(super) fn delete_offsets(&mut self, turn: &mut Turn<'_>, token: Token, keys: Vec<OffsetKey>) {
        let read = match self.state {
            State::Empty => Some(Default::default()),
            _ if self.protocol_type == CONSUMER => self.subscribed(),
            _ => return turn.refuse(token, GroupError::NotEmpty),
        };
        let is_read = |topic: &String| read.as_ref().is_none_or(|topics| topics.contains(topic));
        let rows: Vec<_> =
            keys.iter().map(|(topic, _)| is_read(topic).then_some(GroupError::Subscribed)).collect();
        let is_known = |key: &OffsetKey| self.offsets.contains_key(key) || self.in_flight.contains_key(key);
        let gone: Vec<OffsetKey> = keys.into_iter().filter(|key| !is_read(&key.0) && is_known(key)).collect();
        if gone.is_empty() {
            return turn.answer(token, Reply::Rows(rows));
        }
        self.end_offsets(turn, gone, false, (Some(token), Reply::Rows(rows)));
    }

    /// DeleteGroups.
    pub(super) fn delete(&mut self, turn: &mut Turn<'_>, token: Token) {
        if self.state != State::Empty {
            return turn.refuse(token, GroupError::NotEmpty);
        }
        let all = self.offsets.keys().chain(self.in_flight.keys()).cloned().collect();
        self.end_offsets(turn, all, true, (Some(token), Reply::Done));
    }

    /// Ends offsets, and the group with them, if so, by appends of a bounded size; the last one brings the answer.
    fn end_offsets(
        &mut self,
        turn: &mut Turn<'_>,
        keys: Vec<OffsetKey>,
        ends: bool,
        (token, reply): (Option<Token>, Reply),
    ) {
        let mut chunks = self.in_chunks(keys);
        let last = chunks.pop().unwrap_or_default();
        for offsets in chunks {
            let records = self.tombstones(&offsets);
            self.append(turn, records, Action::Remove { offsets, ends: false, reply: Reply::Done }, None);
        }
        let mut records = self.tombstones(&last);
        if ends {
            self.state = State::Dead;
            self.promised.clear();
            records.push(Record { key: records::group_key(&self.name), value: None });
        }
        self.append(turn, records, Action::Remove { offsets: last, ends, reply }, token);
    }

    fn in_chunks(&self, keys: Vec<OffsetKey>) -> Vec<Vec<OffsetKey>> {
        let (mut chunks, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
        for key in keys {
            // Key, length fields and deltas of its record.
            let more = self.name.len() + key.0.len() + 32;
            if bytes + more > ENDED_BYTES && !chunk.is_empty() {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
            bytes += more;
            chunk.push(key);
        }
        chunks.push(chunk);
        chunks
    }

    fn tombstones(&self, keys: &[OffsetKey]) -> Vec<Record> {
        let key = |(topic, partition): &OffsetKey| records::offset_key(&self.name, topic, *partition);
        keys.iter().map(|k| Record { key: key(k), value: None }).collect()
    }

    pub(super) fn remove_decided(
        &mut self,
        offsets: Vec<OffsetKey>,
        ends: bool,
        reply: Reply,
        error: Option<GroupError>,
    ) -> Reply {
        if let Some(error) = error {
            if ends {
                self.state = State::Empty;
            }
            return Reply::Refused(error);
        }
        for key in offsets {
            self.offsets.remove(&key);
        }
        self.is_gone |= ends;
        reply
    }

    /// Ends what is kept long enough, and the group that nothing is left of.
    pub(super) fn expire_offsets(&mut self, turn: &mut Turn<'_>) {
        if self.is_unwritten && self.state == State::Empty {
            self.write_empty(turn);
        }
        let expired = self.expired(turn.time.wall_ms, turn.settings.retention_ms);
        let is_rest = expired.len() == self.offsets.len();
        let ends = self.state == State::Empty && self.promised.is_empty() && self.appending == 0 && is_rest;
        if ends || !expired.is_empty() {
            self.end_offsets(turn, expired, ends, (None, Reply::Done));
        }
    }

    fn expired(&self, now_ms: i64, retention_ms: i64) -> Vec<OffsetKey> {
        let read = match self.state {
            State::Empty => None,
            // Consumers keep what they have of the topics they read, however old.
            State::Stable => match self.subscribed() {
                Some(topics) => Some(topics),
                None => return Vec::new(),
            },
            State::Preparing | State::Completing | State::Dead => return Vec::new(),
        };
        let is_due = |(key, committed): &(&OffsetKey, &Committed)| {
            if self.in_flight.contains_key(*key) {
                return false;
            }
            let is_read = read.as_ref().is_some_and(|topics| topics.contains(&key.0));
            if is_read && !on(Mutation::ExpireWhatIsRead) {
                return false;
            }
            if let Some(until) = committed.until_ms {
                return now_ms >= until;
            }
            // What a group committed is kept from when it lost its last member; what was committed without one, from the commit.
            let of_group = self.state == State::Empty && !self.protocol_type.is_empty() && self.since_ms >= 0;
            let since_ms = if of_group { self.since_ms } else { committed.at_ms };
            now_ms.saturating_sub(since_ms) >= retention_ms
        };
        self.offsets.iter().filter(is_due).map(|(key, _)| key.clone()).collect()
    }

    /// What was committed in a topic that is deleted.
    pub(super) fn forget_topic(&mut self, turn: &mut Turn<'_>, topic: &str) {
        let of = (topic.to_owned(), i32::MIN)..=(topic.to_owned(), i32::MAX);
        let kept = self.offsets.range(of.clone()).map(|(key, _)| key);
        let gone: Vec<OffsetKey> =
            kept.chain(self.in_flight.range(of).map(|(key, _)| key)).cloned().collect();
        if !gone.is_empty() && self.state != State::Dead {
            self.end_offsets(turn, gone, false, (None, Reply::Done));
        }
    }
}
