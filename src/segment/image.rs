//! What a directory holds, as plain data: per group its hard state, log start, files and last entry.
//! Front half, back half and recovery each own one and move it by the very same methods, so that what a
//! running node believes and what a restart reconstructs cannot drift apart. The manifest is an encoded
//! [`Image`]. Not here: IO, bytes of entries, tails and indexes of positions.
//!
//! * A group always has at least one file; the last one is appended to.
//! * Files follow each other without gaps in index: the next one's predecessor is the last entry before.

use super::index::TermIndex;
use super::record::{Creation, Record};
use super::tombstones::Cleaned;
use super::types::*;
use super::{GroupOptions, segment_file};
use crate::mutation::{Mutation, on};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// One segment file of a group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FileImage {
    /// Number, unique in the directory, never reused.
    pub number: u64,
    /// Entry before its first one.
    pub prev: LogId,
    /// Base offset of its first entry.
    pub base_offset: Offset,
    /// Byte behind its last valid entry.
    pub end: u64,
    /// Last valid entry, or the predecessor while empty.
    pub last: LogId,
    /// Offset after the last valid entry.
    pub next_offset: Offset,
    /// Largest record timestamp, -1 if none.
    pub max_timestamp: i64,
    /// What that was before anything was removed from it, -1 if nothing was: by it the file grows old.
    pub age_timestamp: i64,
    /// A compaction made it, and nothing in it has come from elsewhere since.
    pub is_compacted: bool,
}

impl FileImage {
    pub(crate) fn new(number: u64, prev: LogId, base_offset: Offset) -> Self {
        Self {
            number,
            prev,
            base_offset,
            end: segment_file::SEGMENT_HEADER,
            last: prev,
            next_offset: base_offset,
            max_timestamp: -1,
            age_timestamp: -1,
            is_compacted: false,
        }
    }
    /// Largest timestamp of what was written to it, for retention.
    pub(crate) fn newest(&self) -> i64 {
        self.max_timestamp.max(self.age_timestamp)
    }
    pub(crate) fn first(&self) -> Index {
        self.prev.index.next()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.end == segment_file::SEGMENT_HEADER
    }
}

/// Where a truncation leaves the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CutPoint {
    /// Last entry that stays.
    pub last: LogId,
    /// Offset after it.
    pub next_offset: Offset,
    /// File that ends early (0: none, the cut is at the start of a file).
    pub file: u64,
    /// Where it ends now.
    pub end: u64,
    /// Largest timestamp of what stays in it.
    pub max_timestamp: i64,
}

impl CutPoint {
    /// Right before a file, which goes as a whole.
    pub(crate) fn at_start_of(file: &FileImage) -> Self {
        Self { last: file.prev, next_offset: file.base_offset, file: 0, end: 0, max_timestamp: -1 }
    }
}

/// How the copy of a file begins that leaves out what the log start has passed, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shortened {
    /// Entry before its first one: the log start when the copy began.
    pub prev: LogId,
    /// Base offset of its first entry.
    pub base_offset: Offset,
    /// Byte behind its last entry.
    pub end: u64,
    /// Largest record timestamp in it, -1 if none.
    pub max_timestamp: i64,
}

/// Files that were rewritten, and the one that took their place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rewritten {
    /// Consecutive files of the group, oldest first.
    pub old: Vec<u64>,
    /// Begins and ends with the same entries as they did.
    pub new: FileImage,
}

/// A contiguous piece of log in one file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Extent {
    pub file: u64,
    pub byte: u64,
    pub len: u64,
    pub first: Index,
    pub prev: Epoch,
    pub last: LogId,
    pub next_offset: Offset,
    pub max_timestamp: i64,
}

/// One group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupImage {
    pub group: GroupId,
    pub name: String,
    /// Directory under `groups/`.
    pub dir: String,
    pub replica: ReplicaId,
    pub options: GroupOptions,
    pub hard_state: HardState,
    pub log_start: LogStart,
    pub files: Vec<FileImage>,
    pub terms: TermIndex,
    pub configurations: Vec<(LogId, Bytes)>,
    pub needs_repair: Option<(Index, Index)>,
    /// How clean the copy is, and what is missing in it. A directory of a format before 4 does not hold it: after a start nothing is clean.
    pub cleaned: Cleaned,
}

impl GroupImage {
    pub(crate) fn active(&self) -> &FileImage {
        self.files.last().expect("a group has an active file")
    }
    fn active_mut(&mut self) -> &mut FileImage {
        self.files.last_mut().expect("a group has an active file")
    }
    pub(crate) fn last(&self) -> LogId {
        self.active().last
    }
    pub(crate) fn next_offset(&self) -> Offset {
        self.active().next_offset
    }
    /// First index that may be read.
    pub(crate) fn first(&self) -> Index {
        self.log_start.prev.index.next()
    }
    /// Whether an entry continues the log.
    pub(crate) fn fits(&self, meta: &EntryMeta) -> bool {
        meta.predecessor() == self.last()
            && meta.id.epoch >= meta.prev
            && meta.base_offset == self.next_offset()
    }
    /// Whether an extent continues the log at the end of the active file.
    pub(crate) fn fits_extent(&self, extent: &Extent) -> bool {
        let active = self.active();
        extent.file == active.number
            && extent.byte == active.end
            && extent.first == active.last.index.next()
            && extent.prev == active.last.epoch
            && extent.last.index >= extent.first
    }

    /// Takes an entry at the end of the active file. The caller has checked that it fits.
    pub(crate) fn push(&mut self, meta: &EntryMeta, frame_len: u64, max_timestamp: i64, payload: &Bytes) {
        let active = self.active_mut();
        active.end += frame_len;
        active.last = meta.id;
        active.next_offset = meta.next_offset();
        active.max_timestamp = active.max_timestamp.max(max_timestamp);
        self.terms.push(meta);
        if meta.kind == EntryKind::Configuration {
            // A copy: the payload may be a slice of a big receive buffer that must not live as long.
            self.configurations.push((meta.id, Bytes::copy_from_slice(payload)));
        }
    }

    /// Takes an extent on trust of its journal record (its entries cannot be read, or need not be).
    pub(crate) fn push_extent(&mut self, extent: &Extent, terms: &[(Epoch, Index)]) {
        let before = self.next_offset();
        let active = self.active_mut();
        active.end += extent.len;
        active.last = extent.last;
        active.next_offset = extent.next_offset;
        active.max_timestamp = active.max_timestamp.max(extent.max_timestamp);
        self.terms.push_extent(terms, extent.last.index, before, extent.next_offset);
    }

    /// The log goes on in a new file.
    pub(crate) fn open(&mut self, number: u64) {
        let file = FileImage::new(number, self.last(), self.next_offset());
        self.files.push(file);
    }

    /// Removes every entry behind the cut and goes on in a new file; answers the files that fell away.
    pub(crate) fn cut(&mut self, cut: &CutPoint, new_file: u64) -> Vec<u64> {
        let is_in_place = self.is_cut_in_place(cut);
        let mut dropped = Vec::new();
        self.files.retain(|file| {
            let stays = file.prev.index < cut.last.index;
            if !stays {
                dropped.push(file.number);
            }
            stays
        });
        if let Some(file) = self.files.last_mut().filter(|f| f.number == cut.file) {
            file.end = cut.end;
            file.last = cut.last;
            file.next_offset = cut.next_offset;
            file.max_timestamp = cut.max_timestamp;
        }
        self.terms.truncate(cut.last.index.next(), cut.next_offset);
        self.cleaned.cut(cut.next_offset);
        self.needs_repair = self.needs_repair.filter(|(first, _)| *first <= cut.last.index);
        if let Some((_, last)) = &mut self.needs_repair {
            *last = (*last).min(cut.last.index);
        }
        self.configurations.retain(|(id, _)| id.index <= cut.last.index);
        if !is_in_place {
            self.files.push(FileImage::new(new_file, cut.last, cut.next_offset));
        }
        dropped
    }

    /// Never: bytes of a segment are written once (safety.md F7).
    pub(crate) fn is_cut_in_place(&self, cut: &CutPoint) -> bool {
        on(Mutation::CutInPlace) && cut.file == self.active().number
    }

    /// Moves the log start forward; answers the files that fell away.
    pub(crate) fn set_log_start(&mut self, start: &LogStart) -> Vec<u64> {
        let active = self.active().number;
        let mut dropped = Vec::new();
        self.files.retain(|file| {
            let stays = file.number == active || file.last.index > start.prev.index;
            if !stays {
                dropped.push(file.number);
            }
            stays
        });
        self.terms.advance(start.prev.index.next());
        self.needs_repair = self.needs_repair.filter(|(_, last)| *last > start.prev.index);
        self.configurations.retain(|(id, _)| id.index > start.prev.index);
        self.log_start = start.clone();
        dropped
    }

    /// Replaces the log by an empty one; answers the files that fell away.
    pub(crate) fn install(&mut self, start: &LogStart, new_file: u64) -> Vec<u64> {
        let dropped = self.files.iter().map(|f| f.number).collect();
        self.files = vec![FileImage::new(new_file, start.prev, start.base_offset)];
        self.terms = TermIndex::default();
        self.configurations.clear();
        self.log_start = start.clone();
        self.needs_repair = None;
        self.cleaned = Cleaned::starting_at(start.base_offset);
        dropped
    }

    /// A sound copy takes the place of a file; `left` is what is still damaged. Old 0: no file was replaced.
    pub(crate) fn replace(
        &mut self,
        (old, new): (u64, u64),
        shortened: Option<Shortened>,
        left: Option<(Index, Index)>,
    ) {
        if let Some(file) = self.files.iter_mut().find(|f| f.number == old) {
            file.number = new;
            // What came from peers may be more than a compaction had left.
            file.is_compacted = false;
            if let Some(Shortened { prev, base_offset, end, max_timestamp }) = shortened {
                (file.prev, file.base_offset, file.end) = (prev, base_offset, end);
                file.max_timestamp = max_timestamp;
            }
        }
        self.needs_repair = left;
    }

    /// Where the files stand that a rewrite replaces, if the new file is the same entries. Nothing else of the group changes: not what is
    /// damaged elsewhere, not what entries there were.
    fn replaced(&self, rewritten: &Rewritten) -> Option<std::ops::Range<usize>> {
        let (old, new) = (&rewritten.old, &rewritten.new);
        let at = self.files.iter().position(|f| Some(&f.number) == old.first())?;
        let files = self.files.get(at..at.checked_add(old.len())?)?;
        let (first, last) = (files.first()?, files.last()?);
        let is_closed = last.number != self.active().number;
        let fits = files.iter().map(|f| f.number).eq(old.iter().copied())
            && (first.prev, first.base_offset) == (new.prev, new.base_offset)
            && (last.last, last.next_offset) == (new.last, new.next_offset);
        (is_closed && fits).then_some(at..at + old.len())
    }

    /// Puts a rewritten file in the place of others; answers where they were.
    pub(crate) fn rewrite(&mut self, rewritten: &Rewritten) -> Result<std::ops::Range<usize>, &'static str> {
        let at = self.replaced(rewritten).ok_or("a rewrite of files that are not there")?;
        self.files.splice(at.clone(), [rewritten.new.clone()]);
        Ok(at)
    }

    /// Does what a record of this group says; answers the lowest file number still free after it.
    fn apply(&mut self, record: &Record) -> Result<u64, &'static str> {
        match record {
            Record::Options(_, options) => self.options = options.clone(),
            Record::HardState(_, state) => self.hard_state = *state,
            Record::Open { file, prev, base_offset, .. } => {
                if *prev != self.last() || *base_offset != self.next_offset() {
                    return Err("a file that does not continue the log");
                }
                self.open(*file);
                return Ok(file + 1);
            }
            Record::Cut { cut, new_file, .. } => {
                let is_inside =
                    cut.last.index < self.last().index && cut.last.index >= self.log_start.prev.index;
                if !is_inside || (cut.file != 0 && self.files.iter().all(|f| f.number != cut.file)) {
                    return Err("a cut that is not in the log");
                }
                self.cut(cut, *new_file);
                return Ok(new_file + 1);
            }
            Record::LogStart(_, start) => {
                if start.prev.index > self.last().index || start.prev.index < self.log_start.prev.index {
                    return Err("a log start that is not in the log");
                }
                self.set_log_start(start);
            }
            Record::Install { start, file, .. } => {
                self.install(start, *file);
                return Ok(file + 1);
            }
            Record::Replace { old, new, shortened, left, .. } => {
                let file = self.files.iter().find(|f| f.number == *old);
                if *old != 0 && file.is_none() {
                    return Err("a replacement of a file that is not there");
                }
                if let (Some(file), Some(from)) = (file, shortened)
                    && (from.prev.index < file.prev.index || from.prev.index > self.log_start.prev.index)
                {
                    return Err("a shortened file that begins behind the log start");
                }
                self.replace((*old, *new), *shortened, *left);
                return Ok(new + 1);
            }
            Record::Rewrite(_, rewritten) => {
                self.rewrite(rewritten)?;
                return Ok(rewritten.new.number + 1);
            }
            Record::Cleaned(_, cleaned) => self.cleaned = *cleaned,
            Record::Damage { first, last, .. } => {
                self.damage(*first, *last);
                self.doubt(Doubt::Entries);
            }
            Record::Cluster(_) | Record::Create(..) | Record::Remove(_) => {}
            Record::Inline { .. } | Record::Reference { .. } | Record::Synced { .. } => {}
        }
        Ok(0)
    }

    /// Records of the group are lost: they may have put files in place that a later one calls clean. Nothing that is here counts as clean,
    /// and what was ever removed may be missing.
    pub(crate) fn doubt_cleaned(&mut self) {
        let (clean, start) = (self.cleaned.clean, self.log_start.base_offset);
        let rewritten = self.files.iter().filter(|file| file.is_compacted || file.age_timestamp >= 0);
        let end = rewritten.map(|file| file.next_offset).max();
        if (clean > start || end.is_some()) && !on(Mutation::BelieveCleanAfterLoss) {
            self.cleaned.drops_to(end.map_or(clean, |end| end.max(clean)));
            self.cleaned.clean = clean.min(start);
        }
    }

    /// Remembers that entries in a range are damaged or missing.
    pub(crate) fn damage(&mut self, first: Index, last: Index) {
        let (first, last) = (first, last.max(first));
        self.needs_repair = Some(match self.needs_repair {
            Some((a, b)) => (a.min(first), b.max(last)),
            None => (first, last),
        });
    }

    /// Raises the doubt; it never sinks here (the consensus layer lowers it).
    pub(crate) fn doubt(&mut self, at_least: Doubt) {
        let rank = |d: Doubt| match d {
            Doubt::None => 0,
            Doubt::Entries => 1,
            Doubt::Vote => 2,
        };
        if rank(at_least) > rank(self.hard_state.doubt) {
            self.hard_state.doubt = at_least;
        }
    }
}

/// A whole directory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub node: NodeId,
    pub directory: u128,
    pub cluster: Option<String>,
    /// Format of the directory: 4 once a file of it has been rewritten, so that an older program does not open it.
    pub format: u16,
    /// Number the next segment file gets.
    pub next_file: u64,
    pub groups: BTreeMap<GroupId, GroupImage>,
    /// Names of group directories whose creation may have been lost to damage: a group created under
    /// such a name may have voted before (safety.md F8).
    pub suspects: BTreeSet<String>,
}

impl Image {
    pub(crate) fn new(node: NodeId, directory: u128) -> Self {
        Self {
            node,
            directory,
            cluster: None,
            format: super::manifest::FORMAT_UNCOMPACTED,
            next_file: 1,
            groups: BTreeMap::new(),
            suspects: BTreeSet::new(),
        }
    }

    /// Does what a record says, entries aside (they are pushed by whoever has them). Refuses what does not
    /// fit, which only a damaged journal can hold.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Cluster(id) => self.cluster = Some(id.clone()),
            Record::Create(group, creation) => self.create(*group, creation)?,
            Record::Remove(group) => {
                self.groups.remove(group).ok_or("removal of an unknown group")?;
            }
            other => {
                let files =
                    self.groups.get_mut(&other.group()).ok_or("record of an unknown group")?.apply(other)?;
                self.next_file = self.next_file.max(files);
            }
        }
        Ok(())
    }

    fn create(&mut self, group: GroupId, creation: &Creation) -> Result<(), &'static str> {
        if self.groups.contains_key(&group) {
            return Err("creation of a group that exists");
        }
        let start = &creation.log_start;
        let image = GroupImage {
            group,
            name: creation.name.clone(),
            dir: creation.dir.clone(),
            replica: creation.replica,
            options: creation.options.clone(),
            hard_state: creation.hard_state,
            log_start: start.clone(),
            files: vec![FileImage::new(creation.file, start.prev, start.base_offset)],
            terms: TermIndex::default(),
            configurations: Vec::new(),
            needs_repair: None,
            cleaned: Cleaned::starting_at(start.base_offset),
        };
        self.groups.insert(group, image);
        self.suspects.remove(&creation.name);
        self.next_file = self.next_file.max(creation.file + 1);
        Ok(())
    }

    /// Numbers of every file the directory is made of.
    pub(crate) fn files(&self) -> BTreeSet<u64> {
        self.groups.values().flat_map(|g| g.files.iter().map(|f| f.number)).collect()
    }
}
