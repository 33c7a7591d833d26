//! Where the log of a group ends because an extent of it never reached the disk. Used by `recovery` before it replays the journal:
//! a group's records behind such an extent never happened.
//!
//! * Above the durable mark any extent may be missing: nobody was told of it, or its group is dirty.
//! * At or below it only loose ones may (`flush.mode=async`), unless something vouches for them: a later `Synced` record, or a later
//!   record of the group that is not loose in a batch that was complete, since that one's sync included them (safety.md F10).
//! * An extent that is vouched for and fails is damage, which is for the replay to find.

use super::fs::Fs;
use super::image::Image;
use super::record::Record;
use super::recovery::{self, Judged};
use super::replay::Replay;
use super::types::*;
use super::{Result, segment_file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Place of a record: batch, and which of its records.
pub(crate) type Place = (u64, usize);

/// Where a group's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The first record that does not count.
    pub at: Place,
    /// It was acknowledged before it was synced: entries may be lost.
    pub is_loose: bool,
}

/// Ends of all logs that have one.
pub(crate) type Ends = BTreeMap<GroupId, End>;

/// Looks at every extent that nothing vouches for, in files that are there in the end. One in a file that a later record drops is not
/// missed, unless the log ends before that record: so again, until no log ends earlier than thought.
pub(crate) fn find(
    fs: &dyn Fs,
    dir: &Path,
    image: &Image,
    judged: &BTreeMap<u64, Judged>,
    durable: u64,
) -> Result<Ends> {
    let mut suspects = suspects(judged, durable);
    let mut ends = Ends::new();
    if suspects.is_empty() {
        return Ok(ends);
    }
    let reader = Replay::new(fs, dir, Image::new(image.node, image.directory), None);
    loop {
        let dry = Replay::new(fs, dir, image.clone(), None);
        let survivors = recovery::replay_all(dry, judged, Some(&ends))?.image.files();
        let mut is_news = false;
        let mut dirs: BTreeMap<GroupId, String> =
            image.groups.iter().map(|(group, image)| (*group, image.dir.clone())).collect();
        for (at, record) in places(judged) {
            let group = record.group();
            if ends.get(&group).is_some_and(|end| end.at <= at) {
                continue;
            }
            match record {
                Record::Create(group, creation) => {
                    dirs.insert(*group, creation.dir.clone());
                }
                Record::Reference { extent, count, header_crc, loose, .. }
                    if survivors.contains(&extent.file) && suspects.remove(&at) =>
                {
                    let path = dirs.get(&group).map(|d| segment_file::path(dir, d, extent.file));
                    let read = path.and_then(|p| reader.read_extent(&p, group, extent, *count, *header_crc));
                    if read.is_none() {
                        ends.insert(group, End { at, is_loose: *loose });
                        is_news = true;
                    }
                }
                _ => {}
            }
        }
        if !is_news {
            return Ok(ends);
        }
    }
}

/// Every record, in order.
fn places(judged: &BTreeMap<u64, Judged>) -> impl Iterator<Item = (Place, &Record)> {
    judged.iter().flat_map(|(sequence, batch)| {
        let records = match batch {
            Judged::Good(records) => &records[..],
            Judged::Bad(_) => &[],
        };
        records.iter().enumerate().map(|(at, record)| ((*sequence, at), record))
    })
}

/// Extents that nothing vouches for. From the last record back: what vouches comes later.
fn suspects(judged: &BTreeMap<u64, Judged>, durable: u64) -> BTreeSet<Place> {
    let mut suspects = BTreeSet::new();
    let mut marks: BTreeMap<GroupId, Index> = BTreeMap::new();
    for (sequence, batch) in judged.iter().rev() {
        let Judged::Good(records) = batch else { continue };
        for (at, record) in records.iter().enumerate().rev() {
            let group = record.group();
            let mark = marks.get(&group).copied().unwrap_or_default();
            match record {
                Record::Synced { last, .. } => {
                    marks.insert(group, mark.max(last.index));
                }
                Record::Reference { extent, loose: true, .. } if mark < extent.last.index => {
                    suspects.insert((*sequence, at));
                }
                Record::Reference { loose: false, .. } if *sequence > durable => {
                    suspects.insert((*sequence, at));
                }
                record if !record.is_loose() && *sequence <= durable => {
                    marks.insert(group, Index(u64::MAX));
                }
                _ => {}
            }
        }
    }
    suspects
}
