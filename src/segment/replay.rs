//! Applies journal batches to the image of the last checkpoint, and writes again what it takes over.
//! Run twice by `recovery`: once dry, to learn which files survive, then in earnest on those alone (files
//! that a later record drops may be gone already, and nobody needs them).
//!
//! * Records of a group apply in order and only as long as its chain holds; other groups go on.
//! * At or below the durable mark, what is bad is damage, what is missing a log that ends early: with a doubt, never in silence.
//! * A group's log ends before the first extent that may fail and does (`ends`): above the mark any, below it loose ones.
//! * What is taken over is written again with the same bytes: after a failed fsync a clean-looking page is
//!   on no disk (safety.md F9).

use super::ends::Ends;
use super::fs::{File, Fs, OpenMode};
use super::image::{Extent, FileImage, GroupImage, Image};
use super::journal;
use super::manifest::FORMAT_CLEANED;
use super::record::Record;
use super::segment_file::{self, Expect, SEGMENT_HEADER};
use super::types::*;
use super::{Result, error, frame};
use crate::mutation::{Mutation, on};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was written to.
pub(crate) struct Touched {
    pub group: GroupId,
    pub handle: Arc<dyn File>,
    pub dir: PathBuf,
}

/// One pass over the journal.
pub(crate) struct Replay<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    pub image: Image,
    /// Files that will be there in the end; None: a dry run, nothing is read or written.
    survivors: Option<BTreeSet<u64>>,
    pub touched: BTreeMap<u64, Touched>,
    /// Files that took a damaged one's place: whole, synced and named before the journal said so.
    pub copies: BTreeSet<u64>,
    /// Files that others took the place of: they may be there still, and no `Cut` opened them.
    pub replaced: BTreeSet<u64>,
    doubts: BTreeMap<GroupId, Doubt>,
    /// Extents that this pass found damaged, by file. A record of a repair that follows speaks of what was known when it was written.
    found: Vec<(GroupId, u64, Index, Index)>,
    pub is_damaged: bool,
    pub notes: Vec<String>,
}

/// Records of a complete batch; None if they do not parse (damage that happens to fit every CRC, or a
/// record newer than this program).
pub(crate) fn decode_records(payload: &Bytes) -> Option<Vec<Record>> {
    let (head, at) = journal::parse_head(payload)?;
    let whole = payload.slice(..head.len as usize);
    let mut input = whole.get(at..)?;
    let mut records = Vec::new();
    for _ in 0..head.records {
        records.push(Record::decode(&mut input, &whole)?);
    }
    input.is_empty().then_some(records)
}

impl<'a> Replay<'a> {
    pub(crate) fn new(fs: &'a dyn Fs, dir: &'a Path, image: Image, survivors: Option<BTreeSet<u64>>) -> Self {
        Self {
            fs,
            dir,
            image,
            survivors,
            touched: BTreeMap::new(),
            copies: BTreeSet::new(),
            replaced: BTreeSet::new(),
            doubts: BTreeMap::new(),
            found: Vec::new(),
            is_damaged: false,
            notes: Vec::new(),
        }
    }

    /// Applies a complete batch, as far as the logs of its groups go.
    pub(crate) fn batch(&mut self, sequence: u64, records: &[Record], ends: Option<&Ends>) -> Result<()> {
        for (at, record) in records.iter().enumerate() {
            let end = ends.and_then(|ends| ends.get(&record.group()));
            if end.is_none_or(|end| (sequence, at) < end.at) {
                self.record(record)?;
            }
        }
        Ok(())
    }

    /// Which groups may have lost entries that were acknowledged before they were synced: those with an extent that never reached
    /// the disk, and every dirty one if it is not certain that all that was written is there.
    pub(crate) fn doubt_loose(&mut self, ends: &Ends, is_lossy: bool) {
        for (group, image) in &mut self.image.groups {
            let is_short = ends.get(group).is_some_and(|end| end.is_loose);
            if is_short || (image.hard_state.dirty && is_lossy) {
                self.notes
                    .push(format!("group {group}: entries acknowledged before they were synced may be lost"));
                image.doubt(Doubt::Entries);
            }
            // What was recovered is synced before it counts.
            image.hard_state.dirty = false;
        }
    }

    /// A batch that was durable and is not what was written. `groups`: whom it spoke of, if that can be read.
    pub(crate) fn bad_batch(&mut self, sequence: u64, groups: Option<&[GroupId]>) {
        self.is_damaged = true;
        let groups: Vec<GroupId> = match groups {
            Some(groups) => groups.to_vec(),
            None => self.image.groups.keys().copied().collect(),
        };
        self.notes.push(format!("journal batch {sequence} is damaged; in doubt: {} groups", groups.len()));
        for group in groups {
            self.doubts.insert(group, Doubt::Vote);
        }
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Inline { group, file, byte, frames, .. } => self.inline(*group, *file, *byte, frames),
            Record::Reference { group, extent, count, header_crc, terms, .. } => {
                self.reference(*group, extent, (*count, *header_crc), terms)
            }
            // Its group may be gone by now.
            Record::Synced { .. } => Ok(()),
            other => self.change(other),
        }
    }

    fn change(&mut self, record: &Record) -> Result<()> {
        let group = record.group();
        if let Err(why) = self.image.apply(record) {
            self.misfit(group, why);
            return Ok(());
        }
        let new = match record {
            Record::Create(_, creation) => creation.file,
            Record::Open { file, .. } | Record::Install { file, .. } => *file,
            Record::Cut { new_file, .. } => *new_file,
            Record::Replace { old, new, .. } => {
                self.copies.insert(*new);
                self.replaced.insert(*old);
                return Ok(());
            }
            Record::Rewrite(_, rewritten) => {
                self.copies.insert(rewritten.new.number);
                self.replaced.extend(&rewritten.old);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if self.survives(new) {
            self.open(group, new)?;
        }
        Ok(())
    }

    /// Up to where a file was durable before this start without its journal: as the manifest has the group, and all of a copy.
    pub(crate) fn vouched(&self, marked: Option<&GroupImage>, file: &FileImage) -> u64 {
        let mark = marked.and_then(|group| group.files.iter().find(|marked| marked.number == file.number));
        match mark {
            Some(mark) => mark.end.min(file.end),
            None if self.copies.contains(&file.number) => file.end,
            None => SEGMENT_HEADER,
        }
    }

    /// Whether a file is worth reading and writing in this pass.
    fn survives(&self, file: u64) -> bool {
        self.survivors.as_ref().is_some_and(|s| s.contains(&file))
    }

    /// A record that does not continue its group's log: something before it is missing.
    fn misfit(&mut self, group: GroupId, why: &str) {
        self.is_damaged = true;
        self.notes.push(format!("group {group}: {why}"));
        self.raise(group, Doubt::Entries);
    }

    fn raise(&mut self, group: GroupId, doubt: Doubt) {
        let known = self.doubts.entry(group).or_insert(doubt);
        if doubt == Doubt::Vote {
            *known = doubt;
        }
    }

    fn inline(&mut self, group: GroupId, file: u64, byte: u64, frames: &Bytes) -> Result<()> {
        let survives = self.survives(file);
        let Some(g) = self.image.groups.get_mut(&group) else {
            self.misfit(group, "entries of an unknown group");
            return Ok(());
        };
        let mut at = 0;
        let is_in_place = g.active().number == file && g.active().end == byte;
        while at < frames.len() {
            let meta = match frame::decode(&frames[at..], group) {
                Ok(meta) if is_in_place && g.fits(&meta) => meta,
                Ok(_) => {
                    self.misfit(group, "entries that do not continue the log");
                    return Ok(());
                }
                Err(why) => {
                    self.misfit(group, why);
                    return Ok(());
                }
            };
            let len = frame::frame_len(meta.payload_len) as usize;
            let payload = frames.slice(at + frame::FRAME_HEADER..at + len);
            g.push(&meta, len as u64, frame::max_timestamp(meta.kind, &payload), &payload);
            at += len;
        }
        if survives {
            let path = self.path(group, file);
            let handle = self.open(group, file)?;
            handle.pwrite(frames, byte).map_err(|e| error::failed("write", &path, &e))?;
        }
        Ok(())
    }

    fn reference(
        &mut self,
        group: GroupId,
        extent: &Extent,
        (count, header_crc): (u32, u32),
        terms: &[(Epoch, Index)],
    ) -> Result<()> {
        let survives = self.survives(extent.file);
        let path = self.path(group, extent.file);
        let Some(g) = self.image.groups.get_mut(&group) else {
            self.misfit(group, "entries of an unknown group");
            return Ok(());
        };
        if !g.fits_extent(extent) {
            self.misfit(group, "an extent that does not continue the log");
            return Ok(());
        }
        if !survives {
            g.push_extent(extent, terms);
            return Ok(());
        }
        let (last, next_offset) = (g.last(), g.next_offset());
        let read = self.read_extent(&path, group, extent, count, header_crc);
        let read = read.filter(|read| read.chains_from(last, next_offset));
        let Some(g) = self.image.groups.get_mut(&group) else { return Ok(()) };
        let Some(read) = read else {
            g.push_extent(extent, terms);
            g.damage(extent.first, extent.last.index);
            self.is_damaged = true;
            self.found.push((group, extent.file, extent.first, extent.last.index));
            self.notes
                .push(format!("group {group}: entries {}..={} are damaged", extent.first, extent.last.index));
            self.raise(group, Doubt::Entries);
            return Ok(());
        };
        for (meta, payload) in &read.entries {
            let max_timestamp = frame::max_timestamp(meta.kind, payload);
            g.push(meta, frame::frame_len(meta.payload_len), max_timestamp, payload);
        }
        let handle = self.open(group, extent.file)?;
        if on(Mutation::TakeOverWithoutWriting) {
            return Ok(());
        }
        handle.pwrite(&read.bytes, extent.byte).map_err(|e| error::failed("write", &path, &e))
    }

    /// Reads an extent and checks everything its record says of it.
    pub(crate) fn read_extent(
        &self,
        path: &Path,
        group: GroupId,
        extent: &Extent,
        count: u32,
        header_crc: u32,
    ) -> Option<ReadExtent> {
        let handle = self.fs.open(path, OpenMode::Read).ok()?;
        // The length is believed only as far as there is a file.
        if extent.byte.checked_add(extent.len)? > handle.len().ok()? {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(extent.len).ok()?];
        if handle.pread(&mut bytes, extent.byte).ok()? < bytes.len() {
            return None;
        }
        let bytes = Bytes::from(bytes);
        let mut headers = crc32fast::Hasher::new();
        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let meta = frame::decode(&bytes[at..], group).ok()?;
            headers.update(&bytes[at..at + frame::FRAME_HEADER]);
            let len = frame::frame_len(meta.payload_len) as usize;
            entries.push((meta, bytes.slice(at + frame::FRAME_HEADER..at + len)));
            at += len;
        }
        let last = entries.last()?.0;
        let fits = headers.finalize() == header_crc
            && entries.len() == count as usize
            && last.id == extent.last
            && last.next_offset() == extent.next_offset;
        fits.then_some(ReadExtent { bytes, entries })
    }

    fn path(&self, group: GroupId, file: u64) -> PathBuf {
        let dir = self.image.groups.get(&group).map_or("", |g| g.dir.as_str());
        segment_file::path(self.dir, dir, file)
    }

    /// A file to write to; made again if its name was lost (nothing by reference can be in it then).
    pub(crate) fn open(&mut self, group: GroupId, file: u64) -> Result<Arc<dyn File>> {
        if let Some(touched) = self.touched.get(&file) {
            return Ok(touched.handle.clone());
        }
        let path = self.path(group, file);
        let failed = |e: io::Error| error::failed("open", &path, &e);
        let dir = path.parent().unwrap_or(self.dir).to_owned();
        let handle = match self.fs.open(&path, OpenMode::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.fs.create_dir(&dir).map_err(failed)?;
                self.fs.open(&path, OpenMode::CreateNew).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        self.touched.insert(file, Touched { group, handle: handle.clone(), dir });
        Ok(handle)
    }

    /// Ends the pass. Entries that may be missing at the end of a log are no range to repair: the log ends, in doubt.
    /// Answers the groups in doubt.
    pub(crate) fn finish(&mut self) -> BTreeSet<GroupId> {
        for (group, file, first, last) in std::mem::take(&mut self.found) {
            let Some(g) = self.image.groups.get_mut(&group) else { continue };
            let Some(file) = g.files.iter().find(|f| f.number == file) else { continue };
            let (first, last) = (first.max(g.first()), last.min(file.last.index));
            if first <= last {
                g.damage(first, last);
            }
        }
        for (group, doubt) in &self.doubts {
            if let Some(g) = self.image.groups.get_mut(group) {
                g.doubt(*doubt);
                if self.image.format >= FORMAT_CLEANED {
                    // Before, nothing was ever called clean, and nothing is missing.
                    g.doubt_cleaned();
                }
            }
        }
        self.doubts.keys().copied().collect()
    }

    /// Marks entries of a file as damaged.
    pub(crate) fn damage(&mut self, group: GroupId, first: Index, last: Index, why: String) {
        self.is_damaged = true;
        self.notes.push(format!("group {group}: entries {first}..={last} are damaged: {why}"));
        if let Some(g) = self.image.groups.get_mut(&group) {
            g.damage(first, last);
            g.doubt(Doubt::Entries);
        }
    }
}

pub(crate) struct ReadExtent {
    bytes: Bytes,
    pub entries: Vec<(EntryMeta, Bytes)>,
}

impl ReadExtent {
    fn chains_from(&self, last: LogId, next_offset: Offset) -> bool {
        let mut expect = Expect::After(last, next_offset);
        self.entries.iter().all(|(meta, _)| {
            let fits = segment_file::check_chain(expect, meta).is_ok();
            expect = Expect::After(meta.id, meta.next_offset());
            fits
        })
    }
}
