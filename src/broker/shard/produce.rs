//! Produce: admission, idempotence, append, and the answer when enough voters hold it.

use super::{Now, PendingProduce, Shard};
use crate::broker::api::{PartitionError, ProduceItem, Produced};
use crate::broker::partition::Ticket;
use crate::broker::partition::producer_state::Verdict;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Refusal, Role};
use crate::raftlog::engine::{Proposal, ProposeError};
use crate::segment::{EntryKind, EntryMeta, GroupId};
use crate::wire::batch;
use bytes::BytesMut;
use std::collections::BTreeSet;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Longest wait of a produce, whatever the client says.
const MAX_TIMEOUT_MS: u64 = 600_000;

impl Shard {
    pub(super) fn on_produce(
        &mut self,
        now: Now,
        items: Vec<ProduceItem>,
        acks: i16,
        timeout_ms: u64,
        permit: Option<OwnedSemaphorePermit>,
        reply: oneshot::Sender<Vec<Result<Produced, PartitionError>>>,
    ) {
        let request = self.next_id();
        let deadline = now.mono + timeout_ms.min(MAX_TIMEOUT_MS);
        let pending = PendingProduce {
            results: items.iter().map(|_| None).collect(),
            groups: items.iter().map(|item| item.group).collect(),
            missing: items.len(),
            deadline,
            _permit: permit,
            reply,
        };
        self.produces.insert(request, pending);
        self.produce_deadlines.insert((deadline, request));
        let empty = items.is_empty();
        for (item, produce) in items.into_iter().enumerate() {
            let ticket = Ticket { request, item };
            let (group, header) = (produce.group, produce.header);
            let appended = self.append_batch(now, produce, acks, ticket);
            if let Some(p) = self.partitions.get_mut(&group) {
                p.note_attempt(&header, appended.as_ref().err(), now.mono);
            }
            if let Err(error) = appended {
                self.done.push((ticket, Err(error)));
            }
        }
        if empty {
            self.finish_produce(request);
        }
    }

    /// Appends one batch and registers who waits for it, or says why not.
    fn append_batch(
        &mut self,
        now: Now,
        item: ProduceItem,
        acks: i16,
        ticket: Ticket,
    ) -> Result<(), PartitionError> {
        let group = item.group;
        self.check_leader(group)?;
        self.check_lease_to_write(group)?;
        let leader = self.hint_of(group);
        let expiration_ms = self.upkeep.expiration_ms();
        let p = self.partitions.get_mut(&group).ok_or(PartitionError::Unknown)?;
        if let Some(reason) = &p.unsettled {
            return Err(PartitionError::Storage(reason.clone()));
        }
        let verdict = match p.check_producer(&item.header, now.wall_ms, expiration_ms) {
            Err(PartitionError::OutOfOrderSequence(_))
                if p.may_be_missing_earlier(&item.header, now.mono) =>
            {
                return Err(PartitionError::NotLeader { leader });
            }
            Ok(Verdict::Append) if p.is_early(&item.header, now.mono) => {
                return Err(PartitionError::NotLeader { leader });
            }
            verdict => verdict?,
        };
        match verdict {
            Verdict::Append => {}
            Verdict::Duplicate { base_offset, index } => {
                if on(Mutation::AnswerDuplicateEarly) {
                    let produced = Produced { base_offset: base_offset.0, log_start_offset: p.start.0 };
                    self.done.push((ticket, Ok(produced)));
                    return Ok(());
                }
                // Answered only when the original is committed (safety.md F21).
                p.wait(index, base_offset, ticket, if acks == 0 { 1 } else { acks }, item.min_insync);
                self.release_waiters(group);
                return Ok(());
            }
        }
        if acks == -1 && p.in_sync.len() < item.min_insync.max(1) as usize {
            return Err(PartitionError::NotEnoughReplicas);
        }
        let proposal = Proposal {
            kind: EntryKind::Records,
            offset_span: item.header.last_offset_delta as u32 + 1,
            payload: item.batch,
        };
        let metas = self
            .engine
            .propose(now.mono, group, vec![proposal], &mut assign)
            .map_err(|error| produce_error(error, leader))?;
        let meta = metas.last().expect("an accepted proposal has its header");
        let p = self.partitions.get_mut(&group).ok_or(PartitionError::Unknown)?;
        if acks == 0 || on(Mutation::AcknowledgeAtAppend) {
            let produced = Produced { base_offset: meta.base_offset.0, log_start_offset: p.start.0 };
            self.done.push((ticket, Ok(produced)));
        } else {
            p.wait(meta.id.index, meta.base_offset, ticket, acks, item.min_insync);
        }
        Ok(())
    }

    /// Duplicates may be committed or stored already.
    pub(super) fn release_waiters(&mut self, group: GroupId) {
        if !self.may_acknowledge(group) {
            return;
        }
        let core = self.engine.core(group);
        if let Some(p) = self.partitions.get_mut(&group) {
            p.release_committed(&|index| core.map_or(0, |c| c.holders(index)), &mut self.done);
            if let Some(core) = core {
                p.on_stored(core.stored(), &mut self.done);
            }
        }
        self.answer_deletes(group);
    }

    /// Whether this node leads the group and may write to it.
    pub(super) fn check_leader(&self, group: GroupId) -> Result<(), PartitionError> {
        let Some(p) = self.partitions.get(&group) else {
            return Err(if self.image.groups.contains_key(&group) {
                PartitionError::NotLeader { leader: self.hint_of(group) }
            } else {
                PartitionError::Unknown
            });
        };
        if let Some(reason) = &p.out_of_service {
            return Err(PartitionError::Storage(reason.clone()));
        }
        if p.role != Role::Leader {
            return Err(PartitionError::NotLeader { leader: self.hint_of(group) });
        }
        Ok(())
    }

    /// Hands finished items to their requests.
    pub(super) fn answer_produces(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        for (ticket, mut result) in done.drain(..) {
            if self.groups.take_outcome(ticket.request, &result) {
                continue;
            }
            let Some(pending) = self.produces.get(&ticket.request) else { continue };
            if let Err(PartitionError::NotLeader { leader: None }) = result {
                let leader = self.hint_of(pending.groups[ticket.item]);
                result = Err(PartitionError::NotLeader { leader });
            }
            let Some(pending) = self.produces.get_mut(&ticket.request) else { continue };
            let slot = &mut pending.results[ticket.item];
            if slot.is_none() {
                *slot = Some(result);
                pending.missing -= 1;
            }
            if pending.missing == 0 {
                self.finish_produce(ticket.request);
            }
        }
        self.done = done;
    }

    fn finish_produce(&mut self, request: u64) {
        if let Some(pending) = self.produces.remove(&request) {
            self.produce_deadlines.remove(&(pending.deadline, request));
            let results = pending.results.into_iter().zip(&pending.groups).map(|(result, group)| {
                let result = result.unwrap_or(Err(PartitionError::TimedOut))?;
                // It may have waited for other items of its request, and the lease ends with this very tick.
                self.check_lease_to_write(*group).map(|()| result)
            });
            let results = results.collect();
            let _gone_client = pending.reply.send(results);
        }
    }

    /// The lease ended: what was acknowledged under it and still waits for other items of its request was never told, and is not any more.
    pub(super) fn take_back_acknowledgements(&mut self, groups: &BTreeSet<GroupId>) {
        for pending in self.produces.values_mut() {
            for (result, group) in pending.results.iter_mut().zip(&pending.groups) {
                if matches!(result, Some(Ok(_))) && groups.contains(group) {
                    *result = Some(Err(PartitionError::NotLeader { leader: None }));
                }
            }
        }
    }

    /// Answers produces that waited too long; the batches may still be committed later.
    pub(super) fn expire_produces(&mut self, now: Now) {
        while let Some((at, request)) = self.produce_deadlines.first() {
            if *at > now.mono {
                break;
            }
            let request = *request;
            let Some(pending) = self.produces.get_mut(&request) else { break };
            for item in 0..pending.results.len() {
                if pending.results[item].is_none() {
                    let partition = self.partitions.get_mut(&pending.groups[item]);
                    let error = partition.and_then(|p| p.forget(Ticket { request, item }));
                    pending.results[item] = Some(Err(error.unwrap_or(PartitionError::TimedOut)));
                }
            }
            self.finish_produce(request);
        }
    }
}

/// Base offset and leader epoch into the batch, outside its CRC.
pub(super) fn assign(meta: &EntryMeta, payload: &mut BytesMut) {
    batch::assign(payload, meta.base_offset.0, super::leader_epoch(meta.id.epoch));
}

pub(super) fn produce_error(
    error: ProposeError,
    leader: Option<crate::broker::api::LeaderHint>,
) -> PartitionError {
    match error {
        ProposeError::Refused(Refusal::NotLeader | Refusal::Transferring) => {
            PartitionError::NotLeader { leader }
        }
        ProposeError::Refused(Refusal::Busy) => PartitionError::Busy,
        ProposeError::DiskFull => PartitionError::DiskFull,
        ProposeError::Failed(reason) => PartitionError::Storage(reason),
        ProposeError::Unknown => PartitionError::Unknown,
    }
}
