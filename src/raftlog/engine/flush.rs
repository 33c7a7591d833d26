//! When what is written is synced (`flush.mode=async`), and which groups need not be at once.
//!
//! Not here: what counts (`core::flush`), the syncs (`segment`). Called by the engine's ticks and turns. Invariants:
//! - storage holds a group's records back from their sync exactly while its core counts written ones;
//! - an entry is written for as long as the topic says, and the directory for as many bytes as are named here, before its sync begins;
//! - beyond [`UNSYNCED_BYTES`] nothing more is taken: the disk does not keep up.

use super::{Engine, Payloads};
use crate::raftlog::core::{Event, Millis};
use crate::segment::{EntryKind, EntryMeta, GroupId};

/// Bytes of a directory that begin a flush before its time.
const FLUSH_BYTES: u64 = 64 << 20;
/// Not more often than this for the sake of bytes or messages.
const FLUSH_PAUSE_MS: Millis = 50;
/// Bytes written and not synced, beyond which nothing is taken.
pub(super) const UNSYNCED_BYTES: u64 = 1 << 30;
/// A group without records for about so long is synced and marked clean.
const SETTLE_MS: Millis = 1_000;

/// `flush.mode`, `flush.ms` and `flush.messages` of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Records count once they are written.
    pub is_async: bool,
    /// Time from a record's write to the begin of its sync.
    pub ms: u64,
    /// Records after which one begins.
    pub messages: u64,
}

impl Default for Flush {
    fn default() -> Self {
        Self { is_async: false, ms: SETTLE_MS, messages: u64::MAX }
    }
}

/// What a group has to do with it.
#[derive(Debug, Default)]
pub(super) struct GroupFlush {
    flush: Flush,
    /// As storage knows it.
    is_async: bool,
    /// Records appended since the last flush began.
    messages: u64,
}

/// What the directory has.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    /// When the next flush begins.
    due: Option<Millis>,
    /// When groups that rest are looked for.
    settle: Option<Millis>,
    not_before: Millis,
    /// Some group has as many records as its topic allows.
    is_full: bool,
}

impl Flushing {
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.due.into_iter().chain(self.settle).min()
    }
}

impl Engine {
    /// How a group's records become durable, as its topic says.
    pub fn set_flush(&mut self, now: Millis, group: GroupId, flush: Flush) {
        let Some(slot) = self.by_id.get(&group).copied() else { return };
        let before = std::mem::replace(&mut self.groups[slot].flush.flush, flush);
        if before.is_async != flush.is_async {
            self.step(now, slot, Event::FlushMode { is_async: flush.is_async }, Payloads::None);
        }
    }

    /// As leader the group's replica calls nothing committed from then on.
    pub fn set_commit_until(&mut self, now: Millis, group: GroupId, until: Millis) {
        let Some(slot) = self.by_id.get(&group).copied() else { return };
        self.groups[slot].core.set_commit_until(until);
        // Told again, it counts again.
        let is_async = self.groups[slot].flush.flush.is_async;
        self.step(now, slot, Event::FlushMode { is_async }, Payloads::None);
    }

    /// After every step: storage does as the core counts. One that is alone from now on, or whose topic changed, is synced at once.
    pub(super) fn match_flush_mode(&mut self, slot: usize) {
        let g = &mut self.groups[slot];
        let is_async = g.flush.flush.is_async && g.core.is_async();
        if g.flush.is_async != is_async {
            g.flush.is_async = is_async;
            self.store.set_async(g.id, is_async);
            if !is_async {
                self.store.flush();
            }
        }
    }

    pub(super) fn note_unflushed(&mut self, now: Millis, slot: usize, metas: &[EntryMeta]) {
        let flush = &mut self.groups[slot].flush;
        if flush.is_async {
            // A first burst may be synced with the mark that it dirties the group: no flush follows that would look for it again.
            self.flushing.settle.get_or_insert(now + SETTLE_MS);
            let records = metas.iter().filter(|meta| meta.kind == EntryKind::Records);
            flush.messages += records.map(|meta| u64::from(meta.offset_span)).sum::<u64>();
            self.flushing.is_full |= flush.messages >= flush.flush.messages;
        }
    }

    /// Entries of a group are written and not synced.
    pub(super) fn note_unsynced(&mut self, now: Millis, group: GroupId) {
        let Some(slot) = self.by_id.get(&group) else { return };
        let due = now.saturating_add(self.groups[*slot].flush.flush.ms);
        self.flushing.due = Some(self.flushing.due.map_or(due, |known| known.min(due)));
    }

    /// Begins a flush, and looks for groups that rest, if it is time.
    pub(super) fn flush_if_due(&mut self, now: Millis) {
        if self.failed {
            self.flushing = Flushing::default();
            return;
        }
        let is_full = self.flushing.is_full || self.store.unsynced_bytes() >= FLUSH_BYTES;
        let is_due = self.flushing.due.is_some_and(|due| due <= now);
        if is_due || (is_full && self.flushing.not_before <= now) {
            self.store.flush();
            self.flushing.due = None;
            self.flushing.not_before = now + FLUSH_PAUSE_MS;
            if std::mem::take(&mut self.flushing.is_full) {
                self.groups.iter_mut().for_each(|(_, g)| g.flush.messages = 0);
            }
            self.flushing.settle.get_or_insert(now + SETTLE_MS);
        }
        if self.flushing.settle.is_some_and(|at| at <= now) {
            let is_more = self.store.settle_dirty();
            self.flushing.settle = is_more.then_some(now + SETTLE_MS);
        }
    }
}
