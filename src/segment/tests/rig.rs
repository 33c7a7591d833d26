//! What the tests share: options that make everything happen early, entries that look like record batches,
//! and a driver that plays engine and IO thread on one thread.

use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const DIR: &str = "/data";

pub fn options() -> StoreOptions {
    StoreOptions {
        dir: PathBuf::from(DIR),
        identity: Identity { node: NodeId(1), cluster: None },
        reference_bytes: 4096,
        journal_file_bytes: 64 << 10,
        checkpoint_bytes: 96 << 10,
        reserve_bytes: 0,
        tail_bytes: 24 << 10,
    }
}

pub fn group_options() -> GroupOptions {
    GroupOptions { segment_bytes: 16 << 10, index_interval_bytes: 700 }
}

pub fn replica() -> ReplicaId {
    ReplicaId { node: NodeId(1), assignment: 4, directory: 9 }
}

pub fn spec(group: u64) -> GroupSpec {
    GroupSpec {
        group: GroupId(group),
        name: format!("topic-{group}"),
        replica: replica(),
        log_start: LogStart::default(),
        hard_state: HardState::default(),
        options: group_options(),
    }
}

/// Bytes with the length of a batch header and the timestamp and a record count where a v2 batch has them.
pub fn batch(len: usize, fill: u8, timestamp: i64) -> Bytes {
    let mut bytes = vec![fill; len.max(61)];
    bytes[35..43].copy_from_slice(&timestamp.to_be_bytes());
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    Bytes::from(bytes)
}

/// The entry after `last`.
pub fn entry((last, next): (LogId, Offset), term: u64, kind: EntryKind, span: u32, payload: Bytes) -> Entry {
    let meta = EntryMeta {
        id: LogId { epoch: Epoch::new(last.epoch.generation.0, term), index: last.index.next() },
        prev: last.epoch,
        kind,
        base_offset: next,
        offset_span: span,
        payload_len: payload.len() as u32,
    };
    Entry { meta, payload }
}

/// `count` Records entries after the end of a group's log.
pub fn records(store: &Store, group: u64, term: u64, count: usize, len: usize) -> Vec<Entry> {
    let mut last = store.last(GroupId(group)).expect("group is there");
    let mut entries = Vec::new();
    for _ in 0..count {
        let index = last.0.index.0 + 1;
        let payload = batch(len, index as u8, 1000 + index as i64);
        let e = entry(last, term, EntryKind::Records, 2, payload);
        last = (e.meta.id, e.meta.next_offset());
        entries.push(e);
    }
    entries
}

pub fn boot(fs: &SimFs) -> Opened {
    open_on(Arc::new(fs.clone()), options()).expect("opens")
}

pub fn try_open(fs: &SimFs) -> Result<Opened> {
    open_on(Arc::new(fs.clone()), options())
}

/// Takes, commits and completes a round.
pub fn commit(store: &mut Store, writer: &mut Writer) -> Result<Vec<Durable>> {
    let mut out = Vec::new();
    if let Some(round) = store.take_round() {
        store.complete(writer.commit(round), &mut out)?;
    }
    Ok(out)
}

/// All entries of a group, read in small pieces.
pub fn read_all(store: &mut Store, group: u64) -> Result<Vec<Entry>> {
    let group = GroupId(group);
    let mut all = Vec::new();
    let mut next = store.log_start(group)?.prev.index.next();
    while next <= store.last(group)?.0.index {
        let some = store.read(group, next, 3000)?;
        assert!(!some.is_empty());
        next = some.last().expect("not empty").meta.id.index.next();
        all.extend(some);
    }
    Ok(all)
}

/// Path of the only file of a directory whose name ends so.
pub fn files_of(fs: &SimFs, suffix: &str) -> Vec<(PathBuf, u64)> {
    let is_it = |p: &Path| p.to_string_lossy().ends_with(suffix);
    fs.files().into_iter().filter(|(p, _)| is_it(p)).collect()
}
