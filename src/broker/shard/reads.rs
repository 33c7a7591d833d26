//! ListOffsets, OffsetForLeaderEpoch and DeleteRecords: negative and end-of-log answers come only after a confirmed
//! leadership round (ReadIndex, Raft §8, safety.md F17).

use super::produce::produce_error;
use super::{Now, Shard, leader_epoch};
use crate::broker::api::{ListedOffset, OffsetSpec, PartitionError};
use crate::broker::groups;
use crate::broker::partition::encode_log_start;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::raftlog::engine::{Proposal, ProposeError};
use crate::segment::{Entry, EntryKind, GroupId, Offset, Term};
use crate::wire::record;
use bytes::BytesMut;
use tokio::sync::oneshot;

/// How long a confirmation may take.
const READ_MS: u64 = 5_000;
/// A batch is decompressed to at most this to find a record's timestamp.
const LOOKUP_BYTES: usize = 256 << 20;

/// What is answered after the confirmation.
pub enum Ask {
    /// ListOffsets.
    Offset {
        /// Which.
        spec: OffsetSpec,
        /// To whom.
        reply: oneshot::Sender<Result<ListedOffset, PartitionError>>,
    },
    /// OffsetForLeaderEpoch.
    EpochEnd {
        /// Asked epoch.
        asked: i32,
        /// To whom.
        reply: oneshot::Sender<Result<(i32, i64), PartitionError>>,
    },
    /// OffsetFetch of a consumer group.
    Group {
        /// Which group.
        name: String,
        /// Which offsets; none: all.
        keys: Option<Vec<groups::OffsetKey>>,
        /// To whom.
        reply: oneshot::Sender<groups::Reply>,
    },
    /// A waiting fetch beyond the end.
    Fetch {
        /// Its number.
        id: u64,
    },
}

impl Ask {
    fn fail(self, error: PartitionError) {
        match self {
            Self::Offset { reply, .. } => drop(reply.send(Err(error))),
            Self::EpochEnd { reply, .. } => drop(reply.send(Err(error))),
            Self::Group { reply, .. } => {
                let error = match error {
                    PartitionError::NotLeader { .. } => groups::GroupError::NotCoordinator,
                    _ => groups::GroupError::NotAvailable,
                };
                drop(reply.send(groups::Reply::Refused(error)));
            }
            Self::Fetch { .. } => {}
        }
    }
}

/// A read that waits for its round.
pub struct PendingRead {
    group: GroupId,
    ask: Ask,
    deadline: Millis,
}

impl Shard {
    pub(super) fn on_read(&mut self, now: Now, group: GroupId, given: i32, ask: Ask) {
        let allowed = self.check_leader(group).and_then(|()| {
            let p = self.partitions.get(&group).ok_or(PartitionError::Unknown)?;
            self.check_readable(p, given)
        });
        match allowed {
            Ok(()) => self.confirm(now, group, ask),
            Err(error) => ask.fail(error),
        }
    }

    pub(super) fn confirm_for_fetch(&mut self, now: Now, group: GroupId, id: u64) {
        let waiting =
            |r: &PendingRead| r.group == group && matches!(r.ask, Ask::Fetch { id: other } if other == id);
        if !self.reads.values().any(waiting) {
            self.confirm(now, group, Ask::Fetch { id });
        }
    }

    fn confirm(&mut self, now: Now, group: GroupId, ask: Ask) {
        let token = self.next_id();
        self.reads.insert(token, PendingRead { group, ask, deadline: now.mono + READ_MS });
        if on(Mutation::AnswerUnconfirmed) {
            return self.on_read_confirmed(now, group, token, true);
        }
        self.engine.read_index(now.mono, group, token);
    }

    pub(super) fn on_read_confirmed(&mut self, now: Now, group: GroupId, token: u64, ok: bool) {
        let Some(read) = self.reads.remove(&token) else { return };
        let may_tell = self.partitions.get(&group).is_none_or(|p| self.check_lease(p).is_ok());
        if !ok || !may_tell {
            let leader = self.hint_of(group);
            if let Ask::Fetch { id } = read.ask {
                self.fetch_confirmed(now, id, group, false);
            } else {
                read.ask.fail(PartitionError::NotLeader { leader });
            }
            return;
        }
        match read.ask {
            Ask::Offset { spec, reply } => {
                let _gone_client = reply.send(self.list_offset(group, spec));
            }
            Ask::EpochEnd { asked, reply } => {
                let _gone_client = reply.send(self.epoch_end(group, asked));
            }
            Ask::Group { name, keys, reply } => {
                self.ask_group(now, group, &name, groups::Ask::Offsets(keys), reply);
            }
            Ask::Fetch { id } => self.fetch_confirmed(now, id, group, true),
        }
    }

    pub(super) fn expire_reads(&mut self, now: Now) {
        let late: Vec<u64> =
            self.reads.iter().filter(|(_, r)| r.deadline <= now.mono).map(|(token, _)| *token).collect();
        for token in late {
            if let Some(read) = self.reads.remove(&token) {
                read.ask.fail(PartitionError::NotEstablished);
            }
        }
        let partitions = &mut self.partitions;
        self.deleting.retain(|group| {
            partitions.get_mut(group).is_some_and(|p| {
                p.expire_deletes(now.mono, false);
                p.waits_for_delete()
            })
        });
    }

    fn list_offset(&mut self, group: GroupId, spec: OffsetSpec) -> Result<ListedOffset, PartitionError> {
        let p = self.partitions.get(&group).ok_or(PartitionError::Unknown)?;
        let (start, high) = (p.start, p.high_watermark);
        let epoch = leader_epoch(p.epoch);
        let at = |offset: i64, timestamp: i64| ListedOffset { offset, timestamp, leader_epoch: epoch };
        let none = ListedOffset { offset: -1, timestamp: -1, leader_epoch: -1 };
        let storage = |e: crate::segment::Error| PartitionError::Storage(e.to_string());
        match spec {
            OffsetSpec::Latest => Ok(at(high.0, -1)),
            OffsetSpec::Earliest | OffsetSpec::EarliestLocal => Ok(at(start.0, -1)),
            // Nothing is tiered: everything is local, nothing waits for upload.
            OffsetSpec::LatestTiered | OffsetSpec::EarliestPendingUpload => Ok(none),
            OffsetSpec::Timestamp(timestamp) => {
                let mut from = start;
                // The batch in which the log start falls may hold the timestamp only before that start.
                while let Some(entry) =
                    self.engine.store().find_timestamp(group, timestamp, from, high).map_err(storage)?
                {
                    if let Some(found) = first_at(&entry, timestamp, start) {
                        return Ok(found);
                    }
                    from = entry.meta.next_offset();
                }
                Ok(none)
            }
            OffsetSpec::MaxTimestamp => {
                let found = self.engine.store().find_max_timestamp(group, start, high).map_err(storage)?;
                Ok(found.and_then(|e| largest_in(&e)).unwrap_or(none))
            }
        }
    }

    fn epoch_end(&mut self, group: GroupId, asked: i32) -> Result<(i32, i64), PartitionError> {
        let Ok(term) = u64::try_from(asked) else { return Ok((-1, -1)) };
        let p = self.partitions.get(&group).ok_or(PartitionError::Unknown)?;
        if term == p.epoch.term.0 {
            // The current epoch ends at the log's end, whether or not it holds records yet (KIP-320).
            return Ok((asked, p.end.0));
        }
        if term > p.epoch.term.0 {
            return Ok((-1, -1));
        }
        let found = self.engine.store().epoch_end(group, Term(term));
        let found = found.map_err(|e| PartitionError::Storage(e.to_string()))?;
        Ok(found.map_or((-1, -1), |(epoch, end)| (leader_epoch(epoch), end.0)))
    }

    pub(super) fn on_delete_records(
        &mut self,
        now: Now,
        group: GroupId,
        offset: i64,
        timeout_ms: u64,
        reply: oneshot::Sender<Result<i64, PartitionError>>,
    ) {
        if let Err(error) = self.check_leader(group).and_then(|()| self.check_lease_to_write(group)) {
            return drop(reply.send(Err(error)));
        }
        if !self.engine.core(group).is_some_and(|core| core.is_established()) {
            return drop(reply.send(Err(PartitionError::NotEstablished)));
        }
        let Some(p) = self.partitions.get(&group) else { return };
        let (start, high) = (p.start, p.high_watermark);
        let target = if offset == -1 { high.0 } else { offset };
        if target > high.0 || target < 0 {
            let error = PartitionError::OutOfRange { offset, start: start.0, end: high.0 };
            return drop(reply.send(Err(error)));
        }
        if target <= start.0 {
            return drop(reply.send(Ok(start.0)));
        }
        match self.propose_log_start(now, group, Offset(target)) {
            Ok(meta) => {
                if let Some(p) = self.partitions.get_mut(&group) {
                    p.wait_delete(&meta, now.mono + timeout_ms, reply);
                    self.deleting.insert(group);
                }
            }
            Err(error) => {
                let leader = self.hint_of(group);
                let _gone_client = reply.send(Err(produce_error(error, leader)));
            }
        }
    }

    /// Proposes the control entry that moves the log start (safety.md F23).
    pub(super) fn propose_log_start(
        &mut self,
        now: Now,
        group: GroupId,
        offset: Offset,
    ) -> Result<crate::segment::EntryMeta, ProposeError> {
        let proposal = Proposal {
            kind: EntryKind::LogStart,
            offset_span: 0,
            payload: BytesMut::from(&encode_log_start(offset)[..]),
        };
        let metas = self.engine.propose(now.mono, group, vec![proposal], &mut |_, _| {})?;
        Ok(*metas.last().expect("an accepted proposal has its header"))
    }
}

/// The first record of the batch with at least this timestamp.
fn first_at(entry: &Entry, timestamp: i64, start: Offset) -> Option<ListedOffset> {
    let batch = record::Batch::open(&entry.payload, LOOKUP_BYTES).ok()?;
    let wanted = |r: &record::Record<'_>| r.timestamp >= timestamp && r.offset >= start.0;
    let found = batch.records().map_while(Result::ok).find(wanted)?;
    let leader_epoch = leader_epoch(entry.meta.id.epoch);
    Some(ListedOffset { offset: found.offset, timestamp: found.timestamp, leader_epoch })
}

/// The first record of the batch with its largest timestamp (KIP-734).
fn largest_in(entry: &Entry) -> Option<ListedOffset> {
    let batch = record::Batch::open(&entry.payload, LOOKUP_BYTES).ok()?;
    let (offset, timestamp) = batch.max_timestamp().ok()??;
    let leader_epoch = leader_epoch(entry.meta.id.epoch);
    Some(ListedOffset { offset, timestamp, leader_epoch })
}
