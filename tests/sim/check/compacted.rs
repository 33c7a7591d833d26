//! What compaction may have taken of a log: nothing but records that a later committed one of the same key replaces (decisions/0020), and
//! tombstones, where nothing is left that they deleted (decisions/0022).
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
    fn may_be_gone(&self, offset: i64) -> bool {
        let is_free = |(key, value): &Content| {
            value.is_none() || self.latest.get(key).is_some_and(|last| *last > offset)
        };
        self.records.get(&offset).is_none_or(is_free)
    }

    /// Tombstones below `end` that are each their key's last record, and not among what is left of a log.
    fn dropped<'a>(
        &'a self,
        left: &'a BTreeMap<i64, Content>,
        end: i64,
    ) -> impl Iterator<Item = (&'a Vec<u8>, i64)> {
        let last = self.latest.iter().map(|(key, offset)| (key, *offset));
        last.filter(move |(_, offset)| *offset < end && !left.contains_key(offset))
    }

    /// A key that is deleted, and shows all the same: a record of it is left, and not what deleted it.
    fn came_back<'a>(&'a self, left: &'a BTreeMap<i64, Content>, end: i64) -> Option<(&'a Vec<u8>, i64)> {
        let shows = |(key, at): &(&Vec<u8>, i64)| left.range(..at).any(|(_, (other, _))| other == *key);
        self.dropped(left, end).find(shows)
    }

    /// Of a batch with these offsets nothing is left but what was there, and nothing is gone but what was replaced.
    fn is_compaction(&self, offsets: Range<i64>, left: &BTreeMap<i64, Content>) -> bool {
        left.iter().all(|(offset, content)| self.records.get(offset) == Some(content))
            && offsets.filter(|offset| !left.contains_key(offset)).all(|offset| self.may_be_gone(offset))
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
            && self.keyed.get(&group).is_some_and(|keyed| offsets.all(|offset| keyed.may_be_gone(offset)))
    }

    /// A whole replica, at rest: of each batch what is left is a compaction of it, so each key's last record is here, but for tombstones; and no
    /// deleted key shows.
    pub fn compare_keyed(&mut self, n: usize, group: GroupId, store: &mut Store) {
        let Some(keyed) = self.keyed.get(&group).filter(|_| self.compacts) else { return };
        let (Ok(start), Ok((last, _))) = (store.log_start(group), store.last(group)) else { return };
        let mut next = start.prev.index.next();
        let (mut all, mut end) = (BTreeMap::new(), 0);
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
                end = entry.meta.next_offset().0;
                all.extend(left);
            }
        }
        if let Some((key, at)) = keyed.came_back(&all, end) {
            let key = String::from_utf8_lossy(key);
            panic!(
                "compaction: a deleted key came back on node {} in group {group}: {key}, deleted at {at}",
                n + 1
            );
        }
        self.dropped += keyed.dropped(&all, end).count() as u64;
    }
}

#[test]
fn last_record_that_is_gone_and_one_that_is_another_are_noticed() {
    let mut keyed = Keyed::default();
    for (offset, key, value) in
        [(0, b"a", Some(1)), (1, b"b", Some(2)), (2, b"a", Some(3)), (3, b"c", Some(4)), (4, b"c", None)]
    {
        keyed.records.insert(offset, (key.to_vec(), value));
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
    assert!(keyed.is_compaction(3..5, &left(&[])) && keyed.is_compaction(3..5, &left(&[3])));
    assert_eq!(keyed.came_back(&left(&[1, 2]), 5), None);
    assert_eq!(keyed.came_back(&left(&[1, 2, 3, 4]), 5), None);
    assert_eq!(keyed.came_back(&left(&[1, 2, 3]), 5), Some((&b"c".to_vec(), 4)));
    assert_eq!(keyed.came_back(&left(&[1, 2, 3]), 4), None, "its log ends before");
    assert_eq!(keyed.dropped(&left(&[1, 2]), 5).count(), 1);
}
