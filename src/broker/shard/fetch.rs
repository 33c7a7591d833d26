//! Fetch: committed batches at once, or a wait for the high watermark to move (safety.md F17).

use super::{Now, Shard, leader_epoch};
use crate::broker::api::{FetchItem, FetchLimits, Fetched, PartitionError};
use crate::broker::partition::Partition;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Core, Millis, Role};
use crate::segment::{GroupId, Offset, Term};
use tokio::sync::oneshot;

/// How long a confirmation round may take before a fetch is answered without it.
const CONFIRM_MS: u64 = 1000;

/// Longest wait of a fetch, whatever the client says.
const MAX_WAIT_MS: u64 = 300_000;

/// A fetch that waits for more bytes.
pub struct PendingFetch {
    items: Vec<FetchItem>,
    limits: FetchLimits,
    deadline: Millis,
    /// Groups whose leadership was confirmed since the fetch came: of these "beyond the end" may be said.
    confirmed: Vec<GroupId>,
    /// The deadline was put off once for that.
    extended: bool,
    reply: oneshot::Sender<Vec<Fetched>>,
}

/// Outcome of one look at all items.
struct Look {
    results: Vec<Fetched>,
    bytes: usize,
    /// An error or a diverging epoch: answer now.
    urgent: bool,
    /// Groups that must confirm leadership before a negative answer.
    confirm: Vec<GroupId>,
}

impl Shard {
    pub(super) fn on_fetch(
        &mut self,
        now: Now,
        items: Vec<FetchItem>,
        limits: FetchLimits,
        reply: oneshot::Sender<Vec<Fetched>>,
    ) {
        let id = self.next_id();
        let deadline = now.mono + limits.max_wait_ms.min(MAX_WAIT_MS);
        self.fetches.insert(
            id,
            PendingFetch { items, limits, deadline, confirmed: Vec::new(), extended: false, reply },
        );
        self.retry_fetch(now, id, limits.max_wait_ms == 0);
    }

    /// Looks again at a waiting fetch; `last` answers whatever there is.
    pub(super) fn retry_fetch(&mut self, now: Now, id: u64, last: bool) {
        let Some(mut fetch) = self.fetches.remove(&id) else { return };
        if fetch.reply.is_closed() {
            // Its connection is gone, or a later request of its session has come.
            return self.forget_fetch(&fetch, id);
        }
        let look = self.look(&fetch);
        let enough = look.bytes >= fetch.limits.min_bytes || look.urgent || fetch.items.is_empty();
        let over = last && fetch.deadline <= now.mono;
        if over && !look.confirm.is_empty() && !fetch.extended {
            // "Out of range" needs a round of confirmation, whatever little time the client gave.
            fetch.extended = true;
            fetch.deadline = now.mono + CONFIRM_MS;
        } else if (enough && look.confirm.is_empty()) || over {
            self.forget_fetch(&fetch, id);
            let _gone_client = fetch.reply.send(look.results);
            return;
        }
        for item in &fetch.items {
            if let Some(p) = self.partitions.get_mut(&item.group) {
                p.fetch_waiters.insert(id);
            }
        }
        self.fetch_deadlines.insert((fetch.deadline, id));
        self.fetches.insert(id, fetch);
        for group in look.confirm {
            self.confirm_for_fetch(now, group, id);
        }
    }

    /// Forgets waiting fetches whose connection is gone.
    pub(super) fn sweep_fetches(&mut self) {
        let gone: Vec<u64> =
            self.fetches.iter().filter(|(_, f)| f.reply.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(fetch) = self.fetches.remove(&id) {
                self.forget_fetch(&fetch, id);
            }
        }
    }

    fn forget_fetch(&mut self, fetch: &PendingFetch, id: u64) {
        self.fetch_deadlines.remove(&(fetch.deadline, id));
        for item in &fetch.items {
            if let Some(p) = self.partitions.get_mut(&item.group) {
                p.fetch_waiters.remove(&id);
            }
        }
    }

    /// Leadership was confirmed: a waiting fetch may now be told "out of range".
    pub(super) fn fetch_confirmed(&mut self, now: Now, id: u64, group: GroupId, ok: bool) {
        if let Some(fetch) = self.fetches.get_mut(&id) {
            if ok {
                fetch.confirmed.push(group);
            }
            self.retry_fetch(now, id, false);
        }
    }

    fn look(&mut self, fetch: &PendingFetch) -> Look {
        let mut look = Look {
            results: Vec::with_capacity(fetch.items.len()),
            bytes: 0,
            urgent: false,
            confirm: Vec::new(),
        };
        let mut room = fetch.limits.max_bytes;
        for item in &fetch.items {
            let first = look.bytes == 0;
            let fetched =
                self.look_at(item, room, first, fetch.confirmed.contains(&item.group), &mut look.confirm);
            let bytes: usize = fetched.batches.iter().map(|b| b.len()).sum();
            look.bytes += bytes;
            room = room.saturating_sub(bytes);
            look.urgent |= fetched.error.is_some() || fetched.diverging_epoch.is_some() || fetched.goes_on;
            look.results.push(fetched);
        }
        look
    }

    fn look_at(
        &mut self,
        item: &FetchItem,
        room: usize,
        first: bool,
        confirmed: bool,
        confirm: &mut Vec<GroupId>,
    ) -> Fetched {
        let mut fetched = Fetched { high_watermark: -1, log_start_offset: -1, ..Fetched::default() };
        let Some(p) = self.partitions.get(&item.group) else {
            fetched.error = self.check_leader(item.group).err();
            return fetched;
        };
        if let Err(error) = self.check_lease(p) {
            fetched.error = Some(error);
            return fetched;
        }
        fetched.high_watermark = p.high_watermark.0;
        fetched.log_start_offset = p.start.0;
        if let Err(error) = self.check_readable(p, item.current_leader_epoch) {
            fetched.error = Some(error);
            return fetched;
        }
        if let Some(diverging) = self.diverging(item) {
            fetched.diverging_epoch = Some(diverging);
            return fetched;
        }
        let Some(p) = self.partitions.get(&item.group) else { return fetched };
        let (start, end, below) = (p.start, p.end, p.high_watermark);
        let leads = p.role == Role::Leader;
        let out_of_range =
            PartitionError::OutOfRange { offset: item.offset, start: start.0, end: below.0.max(start.0) };
        if item.offset < start.0 {
            fetched.error = Some(out_of_range);
        } else if (leads || on(Mutation::OutOfRangeOnFollower)) && item.offset > end.0 {
            if confirmed || !leads {
                fetched.error = Some(out_of_range);
            } else {
                confirm.push(item.group);
            }
        } else if item.offset < below.0 {
            let bytes = item.max_bytes.min(room);
            match self.engine.store().fetch(item.group, Offset(item.offset), below, bytes, first) {
                Ok(batches) => {
                    // Many compacted entries lie before the next batch: the client comes back at once, and the store goes on there.
                    fetched.goes_on = batches.is_empty()
                        && self.engine.store().has_more_to_skip(item.group, Offset(item.offset), below);
                    for batch in batches {
                        fetched.batches.push(batch.payload);
                        fetched.checks.push(batch.check);
                    }
                }
                Err(error) => fetched.error = Some(PartitionError::Storage(error.to_string())),
            }
        }
        fetched
    }

    /// Epoch fencing (KIP-320) and service state.
    pub(super) fn check_readable(&self, p: &Partition, given: i32) -> Result<(), PartitionError> {
        if let Some(reason) = &p.out_of_service {
            return Err(PartitionError::Storage(reason.clone()));
        }
        let leader = self.hint_of(p.group);
        let current = leader_epoch(p.epoch);
        if given >= 0 && given < current {
            return Err(PartitionError::FencedEpoch { given, current, leader });
        }
        if given > current {
            return Err(PartitionError::UnknownEpoch { given, current });
        }
        if p.role != Role::Leader && p.leader.is_none() {
            // Heard no leader: it cannot say how stale it is.
            return Err(PartitionError::NotLeader { leader });
        }
        if p.role == Role::Learner && !self.engine.core(p.group).is_some_and(Core::is_level) {
            // One that is being brought up shows nothing before it matches its leader's term (safety.md F24).
            return Err(PartitionError::NotLeader { leader });
        }
        Ok(())
    }

    /// KIP-595 / KIP-320: the client's last epoch ended earlier here than where it stands.
    fn diverging(&mut self, item: &FetchItem) -> Option<(i32, i64)> {
        let asked = u64::try_from(item.last_fetched_epoch).ok()?;
        // Only a log that went on in a later epoch knows where this one ended. A follower that lags, or a leader that was
        // deposed without noticing, would send a reader of committed records back.
        let is_over = self.engine.core(item.group)?.last().epoch.term.0 > asked;
        if !is_over && !on(Mutation::SendReadersBack) {
            return None;
        }
        let (epoch, end) = self.engine.store().epoch_end(item.group, Term(asked)).ok()??;
        (epoch.term.0 < asked || end.0 < item.offset).then_some((leader_epoch(epoch), end.0))
    }

    /// Answers fetches whose wait is over.
    pub(super) fn expire_fetches(&mut self, now: Now) {
        while let Some((at, id)) = self.fetch_deadlines.first() {
            if *at > now.mono {
                break;
            }
            let id = *id;
            let key = (*at, id);
            self.fetch_deadlines.remove(&key);
            self.retry_fetch(now, id, true);
        }
    }

    pub(super) fn expire_requests(&mut self, now: Now) {
        self.expire_produces(now);
        self.expire_fetches(now);
        self.expire_reads(now);
    }
}
