//! What compaction may have taken of a log: nothing but records that a later committed one of the same key replaces (decisions/0020).
//!
//! Only of runs whose topics are compacted: there every record has a key, and what was committed is remembered record by record.

use super::Check;
use kontiki::segment::{Entry, EntryKind, GroupId, Index, Store};
use kontiki::wire::batch::BatchHeader;
use kontiki::wire::record::Batch;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a batch of the simulator, and far more.
const LIMIT: usize = 1 << 20;

/// A record: its key, and a checksum of its value; none: a tombstone.
type Content = (Vec<u8>, Option<u32>);

/// The committed records of a group.
#[derive(Default)]
pub struct Keyed {
    records: BTreeMap<i64, Content>,
    /// Last offset of every key.
    latest: BTreeMap<Vec<u8>, i64>,
}

impl Keyed {
    fn is_replaced(&self, offset: i64) -> bool {
        let later = |(key, _): &Content| self.latest.get(key).is_some_and(|last| *last > offset);
        self.records.get(&offset).is_none_or(later)
    }

    /// Of a batch with these offsets nothing is left but what was there, and nothing is gone but what was replaced.
    fn is_compaction(&self, offsets: Range<i64>, left: &BTreeMap<i64, Content>) -> bool {
        left.iter().all(|(offset, content)| self.records.get(offset) == Some(content))
            && offsets.filter(|offset| !left.contains_key(offset)).all(|offset| self.is_replaced(offset))
    }
}

fn contents(batch: &[u8]) -> BTreeMap<i64, Content> {
    if batch.is_empty() {
        return BTreeMap::new();
    }
    let batch = bytes::Bytes::copy_from_slice(batch);
    let batch = Batch::open(&batch, LIMIT).expect("a batch that can be read");
    let content = |record: kontiki::wire::record::Record<'_>| {
        (record.offset, (record.key.unwrap_or_default().to_vec(), record.value.map(crc32fast::hash)))
    };
    batch.records().map(|record| content(record.expect("a record that can be read"))).collect()
}

impl Check {
    /// A whole batch is committed.
    pub(super) fn note_keyed(&mut self, group: GroupId, entry: &Entry) {
        if !self.compacts {
            return;
        }
        let keyed = self.keyed.entry(group).or_default();
        for (offset, content) in contents(&entry.payload) {
            let latest = keyed.latest.entry(content.0.clone()).or_insert(offset);
            *latest = (*latest).max(offset);
            keyed.records.insert(offset, content);
        }
    }

    /// Whether a batch that was handed out, and is not what was committed, is a compaction of it.
    pub(super) fn is_compaction(&self, group: GroupId, header: &BatchHeader, batch: &[u8]) -> bool {
        let offsets = header.base_offset..header.last_offset() + 1;
        let keyed = self.keyed.get(&group);
        self.compacts && keyed.is_some_and(|keyed| keyed.is_compaction(offsets, &contents(batch)))
    }

    /// Whether nothing need be left at these offsets.
    pub fn may_be_gone(&self, group: GroupId, mut offsets: Range<i64>) -> bool {
        self.compacts
            && self.keyed.get(&group).is_some_and(|keyed| offsets.all(|offset| keyed.is_replaced(offset)))
    }

    /// A whole replica, at rest: of each batch what is left is a compaction of it, and so each key's last record is here.
    pub fn compare_keyed(&mut self, n: usize, group: GroupId, store: &mut Store) {
        let Some(keyed) = self.keyed.get(&group).filter(|_| self.compacts) else { return };
        let (Ok(start), Ok((last, _))) = (store.log_start(group), store.last(group)) else { return };
        let mut next = start.prev.index.next();
        while next <= last.index {
            let entries = store.read(group, next, 1 << 20).expect("a replica that can be read");
            next = entries.last().map_or(Index(u64::MAX), |entry| entry.meta.id.index.next());
            for entry in entries.iter().filter(|entry| entry.meta.kind == EntryKind::Records) {
                let (left, offsets) =
                    (contents(&entry.payload), entry.meta.base_offset.0..entry.meta.next_offset().0);
                assert!(
                    keyed.is_compaction(offsets, &left),
                    "compaction: node {} group {group} has {:?} left of entry {}",
                    n + 1,
                    left.keys(),
                    entry.meta.id
                );
                self.compacted += u64::from(left.len() < entry.meta.offset_span as usize);
            }
        }
    }
}

#[test]
fn last_record_that_is_gone_and_one_that_is_another_are_noticed() {
    let mut keyed = Keyed::default();
    for (offset, key, value) in [(0, b"a", 1), (1, b"b", 2), (2, b"a", 3)] {
        keyed.records.insert(offset, (key.to_vec(), Some(value)));
        keyed.latest.insert(key.to_vec(), offset);
    }
    let left = |offsets: &[i64]| -> BTreeMap<i64, Content> {
        offsets.iter().map(|offset| (*offset, keyed.records[offset].clone())).collect()
    };
    assert!(keyed.is_compaction(0..3, &left(&[0, 1, 2])) && keyed.is_compaction(0..3, &left(&[1, 2])));
    assert!(!keyed.is_compaction(0..3, &left(&[0, 1])), "the last of its key");
    let mut other = left(&[1, 2]);
    other.insert(1, (b"b".to_vec(), None));
    assert!(!keyed.is_compaction(0..3, &other), "what nobody wrote");
}
