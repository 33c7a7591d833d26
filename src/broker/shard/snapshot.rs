//! Snapshots of the controller log: the leader writes them, every node cuts its log behind them, and one whose log begins after the
//! beginning takes its image from one.
//!
//! Not here: their format (`ctl::snapshot`), applying entries (`metadata`), deciding (`control`). Invariants:
//! - a log is cut only behind a snapshot that was read back and that gives, with the entries after it, exactly this node's image;
//! - an image taken from a snapshot deletes only what the snapshot says was deleted;
//! - as long as the image is not known, nothing of the log is acted on.

use super::{CONTROLLER, Now, Shard};
use crate::ctl::image::{Change, Image};
use crate::ctl::record::{Batch, Record};
use crate::ctl::snapshot::{self, Piece, Pieces, Whole};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::segment::{self, Entry, EntryKind, GroupId, Index, LogId, LogStart};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// `metadata.log.max.record.bytes.between.snapshots`.
const BYTES_BETWEEN: u64 = 20 << 20;
/// From a comparison for which something could not be read to the next: each reads all that came after the snapshot.
const RETRY_MS: Millis = 5_000;
/// Entries read at once.
const READ_BYTES: usize = 4 << 20;

/// Where this node stands with the snapshots of the controller log.
#[derive(Default)]
pub struct Snapshots {
    /// The log begins after this entry, and the image is to be that of the first snapshot in it; last entry looked through for it.
    missing: Option<(LogId, Index)>,
    pieces: Pieces,
    /// Whole, and the log is still to be cut; its first entry.
    whole: Option<(Whole, Index)>,
    /// It could not be compared, and is not looked at again before.
    retry_at: Millis,
    /// First entry of the last one that was begun.
    begun: Index,
    /// Bytes applied since the last whole one began.
    since: u64,
    /// Bytes applied since the last one, whole or not, began.
    since_begun: u64,
    /// Size of the last one.
    size: u64,
    /// As controller leader: what is to be written of the one that was begun.
    pub(super) writing: std::collections::VecDeque<Piece>,
    /// A request's turn, if there is one: the last piece was written since the last one.
    yields: bool,
}

impl Snapshots {
    /// The log begins after this entry.
    pub(super) fn begin_at(&mut self, prev: LogId) {
        self.missing = (prev.index > Index(0)).then_some((prev, prev.index));
        self.pieces = Pieces::default();
        self.whole = None;
    }

    /// Last entry looked through for a snapshot, while the image waits for one.
    pub(super) fn looked_through(&self) -> Option<Index> {
        self.missing.map(|(_, seen)| seen)
    }

    /// As controller leader: the piece to write now. Whoever asks for something has his turn between two pieces.
    pub(super) fn next_piece(&mut self, is_asked: bool) -> Option<Piece> {
        let is_begun = self.writing.front()?.piece > 0;
        if std::mem::take(&mut self.yields) && is_asked && is_begun {
            return None;
        }
        self.yields = true;
        self.writing.pop_front()
    }

    /// An entry was applied.
    pub(super) fn on_applied(&mut self, entry: &Entry, batch: &Batch) {
        match &batch.records[..] {
            [Record::Snapshot(piece)] => {
                if piece.piece == 0 {
                    (self.begun, self.since_begun) = (entry.meta.id.index, 0);
                }
                if let Some(whole) = self.pieces.take(piece) {
                    (self.since, self.size) = (self.since_begun, whole.bytes());
                    self.whole = Some((whole, self.begun));
                }
            }
            _ => {
                self.since += entry.payload.len() as u64;
                self.since_begun += entry.payload.len() as u64;
            }
        }
    }
}

/// Why the log is not cut behind a snapshot.
enum NotCut {
    /// It could not be compared now.
    Unread(String),
    /// It holds something else than this node knows.
    Differs(String),
}

impl From<segment::Error> for NotCut {
    fn from(error: segment::Error) -> Self {
        Self::Unread(error.to_string())
    }
}

impl Shard {
    /// The controller log may begin behind what is applied: its leader had dropped what was needed next, or what was damaged here.
    pub(super) fn look_where_controller_log_begins(&mut self) {
        let Ok(start) = self.engine.store_ref().log_start(CONTROLLER).map(|start| start.prev) else { return };
        let seen = self.membership.snapshots.looked_through().unwrap_or(self.membership.applied());
        if start.index > seen {
            tracing::info!(at = %start, "controller log begins anew; the metadata comes from a snapshot");
            self.membership.snapshots.begin_at(start);
        }
    }

    /// Looks at an entry behind the log's start for the snapshot that the image is to be. True if it is whole now.
    pub(super) fn look_for_snapshot(
        &mut self,
        entry: &Entry,
        changes: &mut Vec<Change>,
        removed: &mut BTreeSet<GroupId>,
    ) -> Result<bool, String> {
        let snapshots = &mut self.membership.snapshots;
        let Some((start, seen)) = &mut snapshots.missing else { return Ok(false) };
        *seen = entry.meta.id.index;
        if !matches!(entry.meta.kind, EntryKind::Metadata | EntryKind::Snapshot) {
            return Ok(false);
        }
        let batch = Batch::decode(&entry.payload)?;
        let [Record::Snapshot(piece)] = &batch.records[..] else { return Ok(false) };
        // One that reflects less lacks what was between it and the start.
        if piece.at.index < start.index {
            return Ok(false);
        }
        let Some(whole) = snapshots.pieces.take(piece) else { return Ok(false) };
        let at = whole.at;
        let image = match whole.read() {
            Ok(image) => image,
            // A later one may be whole: nothing is acted on until then.
            Err(why) => {
                tracing::error!(%at, why, "a snapshot of the metadata cannot be read; a later one may be");
                self.status.metadata_differs = Some(format!("snapshot at {at}: {why}"));
                return Ok(false);
            }
        };
        self.status.metadata_differs = None;
        self.membership.snapshots.missing = None;
        self.take_image_of(image, at, changes, removed)?;
        Ok(true)
    }

    pub(super) fn take_image_of(
        &mut self,
        image: Image,
        at: LogId,
        changes: &mut Vec<Change>,
        removed: &mut BTreeSet<GroupId>,
    ) -> Result<(), String> {
        if self.membership.cluster().is_some_and(|own| own != image.cluster_id) {
            return Err(format!("the snapshot at {at} is of another cluster, {}", image.cluster_id));
        }
        let held = self.partitions.keys().chain(self.orphans.keys());
        let unknown: Vec<GroupId> = held
            .copied()
            .filter(|group| !image.groups.contains_key(group) && !image.is_deleted(*group))
            .collect();
        if !unknown.is_empty() {
            tracing::error!(
                ?unknown,
                "the metadata knows nothing of groups that were not deleted; their replicas stay"
            );
        }
        let news = snapshot::changes(&self.image, &image);
        // Deleted while this node was away.
        removed.extend(self.orphans.keys().copied().filter(|group| image.is_deleted(*group)));
        tracing::info!(%at, topics = image.topics.len(), "metadata taken from a snapshot");
        changes.extend(news);
        self.image = Arc::new(image);
        self.image_changed = true;
        self.membership.set_applied(at.index);
        Ok(())
    }

    /// Cuts the log behind the newest snapshot if there is a whole one, and it holds what was applied.
    pub(super) fn cut_controller_log(&mut self, now: Now) {
        if now.mono < self.membership.snapshots.retry_at {
            return;
        }
        let Some((whole, begun)) = self.membership.snapshots.whole.take() else { return };
        let at = whole.at;
        if at.index.next() != begun {
            // A log that began with it would begin after entries that it does not reflect.
            tracing::error!(%at, %begun, "a snapshot of the metadata stands elsewhere than behind what it reflects");
            return;
        }
        let start = self.engine.store_ref().log_start(CONTROLLER).map(|start| start.prev.index);
        if start.is_ok_and(|start| start >= begun.prev()) {
            // A start reads the one that its log begins with again.
            return;
        }
        let checked = if on(Mutation::CutUnchecked) { Ok(()) } else { self.check_snapshot(&whole) };
        match checked {
            Ok(()) => self.status.metadata_differs = None,
            Err(NotCut::Unread(why)) => {
                tracing::warn!(%at, why, "a snapshot of the metadata cannot be compared now; it is tried again");
                self.membership.snapshots.whole = Some((whole, begun));
                self.membership.snapshots.retry_at = now.mono + RETRY_MS;
                return;
            }
            Err(NotCut::Differs(why)) => {
                tracing::error!(%at, why, "a snapshot of the metadata is not what this node knows; its log is kept");
                self.status.metadata_differs = Some(format!("snapshot at {at}: {why}"));
                return;
            }
        }
        if let Err(error) = self.move_controller_start(now, begun) {
            tracing::warn!(%at, %error, "controller log not cut; it will be behind the next snapshot");
        }
    }

    /// Reads the snapshot back and applies what came after it: the result must be this node's image.
    fn check_snapshot(&mut self, whole: &Whole) -> Result<(), NotCut> {
        let mut image = whole.read().map_err(NotCut::Differs)?;
        let mut next = whole.at.index.next();
        let applied = self.membership.applied();
        while next <= applied {
            let read = self.engine.store().read(CONTROLLER, next, READ_BYTES)?;
            for entry in read.into_iter().take_while(|e| e.meta.id.index <= applied) {
                next = entry.meta.id.index.next();
                if !matches!(entry.meta.kind, EntryKind::Metadata | EntryKind::Snapshot) {
                    continue;
                }
                let batch = Batch::decode(&entry.payload).map_err(NotCut::Differs)?;
                let number = Image::number(entry.meta.id.epoch.generation.0, entry.meta.id.index.0);
                image.apply(number, &batch).map_err(NotCut::Differs)?;
            }
        }
        match image == *self.image {
            true => Ok(()),
            false => Err(NotCut::Differs(
                "with what came after it, it gives other metadata than this node has".into(),
            )),
        }
    }

    /// Drops the segments before the one that begins with this entry, the snapshot's first: the same ones on every replica.
    fn move_controller_start(&mut self, now: Now, first: Index) -> crate::segment::Result<()> {
        let old = self.engine.store().log_start(CONTROLLER)?.clone();
        let segments = self.engine.store_ref().segments(CONTROLLER)?;
        let kept = segments.iter().find(|segment| segment.first == first);
        let Some(kept) = kept.filter(|segment| segment.first.prev() > old.prev.index) else { return Ok(()) };
        let first = self.engine.store().meta_at(CONTROLLER, kept.first)?;
        let Some(core) = self.engine.core(CONTROLLER) else { return Ok(()) };
        let prev = first.predecessor();
        let (configuration, configuration_id) = core.configuration_at(prev.index);
        let start = LogStart {
            prev,
            base_offset: first.base_offset,
            configuration: configuration.encode(),
            configuration_id,
            producers: Bytes::new(),
            producers_at: prev.index,
            ..old
        };
        tracing::info!(%prev, "controller log begins later");
        self.engine.move_log_start(now.mono, CONTROLLER, start)
    }

    /// As controller leader, with an image that has applied the whole log: begins a snapshot if one is due.
    pub(super) fn begin_snapshot(&mut self) {
        let applied = self.membership.applied();
        let snapshots = &mut self.membership.snapshots;
        if snapshots.writing.front().is_some_and(|first| first.piece == 0 && first.at.index != applied) {
            // The first was not taken, and something else was since: what begins behind that must reflect it.
            snapshots.writing.clear();
        }
        let configured =
            self.config.node.defaults.broker.get("metadata.log.max.record.bytes.between.snapshots");
        let between = configured.and_then(|v| v.parse().ok()).unwrap_or(BYTES_BETWEEN);
        if !snapshots.writing.is_empty() || snapshots.since < between.max(snapshots.size) {
            return;
        }
        let Ok(at) = self.engine.store().meta_at(CONTROLLER, applied).map(|meta| meta.id) else { return };
        // Several even where little lies between two snapshots, so that none is one entry's luck.
        let most = usize::try_from(between / 8).unwrap_or(usize::MAX);
        let pieces = snapshot::write(&self.image, at, most);
        tracing::info!(%at, pieces = pieces.len(), "writing a snapshot of the metadata");
        self.membership.snapshots.writing = pieces.into();
    }
}
