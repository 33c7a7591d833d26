//! The front half's side of a rewrite (`rewrite`): which files may be rewritten, and the record that puts the new one in their place.
//! Not here: reading and writing them, what stays of an entry.
//!
//! * One job at a time per group. It is void if one of its files is not what it was when it is handed back, or while the group is damaged.
//! * The new file is whole, synced and durably named before the record that names it is queued; the old ones go once that is durable.
//!   Whoever has a map of them keeps it.
//! * A number that was given to a job is not used again while a file of that number may be there: the next round carries it to the
//!   manifest, recovery looks at the names, and what is called off is removed durably.

use super::Store;
use crate::segment::fs::{File, OpenMode};
use crate::segment::group::{Segment, Skips};
use crate::segment::image::{FileImage, Rewritten};
use crate::segment::index::SparseIndex;
use crate::segment::record::Record;
use crate::segment::rewrite::{ClosedFile, ClosedReader, Ended, Parts, Report, Rewrite};
use crate::segment::round::{Change, Op};
use crate::segment::segment_file::{self, SEGMENT_HEADER};
use crate::segment::types::*;
use crate::segment::{Error, Result, error};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A job that is out.
struct Job {
    new: u64,
    cancelled: Arc<AtomicBool>,
}

/// All jobs that are out. Dropping it calls them off: nothing may write to the directory once its store is gone.
#[derive(Default)]
pub(super) struct Rewriting(BTreeMap<GroupId, Job>);

impl Drop for Rewriting {
    fn drop(&mut self) {
        self.0.values().for_each(|job| job.cancelled.store(true, Ordering::Release));
    }
}

impl Store {
    /// The files of a group that a compaction may read and rewrite, oldest first: all but the one appended to. None while the group is
    /// damaged.
    ///
    /// # Errors
    /// `UnknownGroup`.
    pub fn closed_files(&self, group: GroupId) -> Result<Vec<ClosedFile>> {
        let image = &self.group(group)?.image;
        if self.needs_repair(group).is_some() {
            return Ok(Vec::new());
        }
        let closed = &image.files[..image.files.len() - 1];
        // What lies before the log start goes with the next move of it.
        let files = closed.iter().filter(|file| file.last.index >= image.first() && !file.is_empty());
        let of = |file: &FileImage| ClosedFile {
            number: file.number,
            first: file.first(),
            last: file.last,
            base_offset: file.base_offset,
            next_offset: file.next_offset,
            bytes: file.end - SEGMENT_HEADER,
            max_timestamp: file.max_timestamp,
        };
        Ok(files.map(of).collect())
    }

    /// Reads closed files, on any thread. None: not now. Not all of their entries have reached the files, and what has not been written yet
    /// would look like damage.
    ///
    /// # Errors
    /// `OutOfRange`: not all of them are closed files of the group, one after the other.
    pub fn read_closed(&mut self, group: GroupId, files: &[u64]) -> Result<Option<ClosedReader>> {
        let sources = self.consecutive(group, files)?;
        if let Some(last) = sources.last()
            && !self.is_written_through(group, last.number)?
        {
            self.wants_written = true;
            return Ok(None);
        }
        let files = self.with_paths(group, &sources)?;
        Ok(Some(ClosedReader::new(self.fs.clone(), group, files, self.report(group))))
    }

    /// Begins to rewrite closed files into one. `committed`: the group's commit index; nothing above it may be compacted.
    /// None: not now. Something is damaged, another job of the group is out, or not all of their entries have reached the files.
    ///
    /// # Errors
    /// `OutOfRange`: not all of them are closed files of the group, one after the other and committed. `DiskFull`, `Busy`: later. `Failed`
    /// if latched.
    pub fn begin_rewrite(
        &mut self,
        group: GroupId,
        files: &[u64],
        committed: Index,
    ) -> Result<Option<Rewrite>> {
        self.ready()?;
        let sources = self.consecutive(group, files)?;
        if sources.last().is_none_or(|file| file.last.index > committed) {
            return Err(Error::OutOfRange);
        }
        let is_busy = self.needs_repair(group).is_some()
            || self.repairs.contains_key(&group)
            || self.rewriting.0.contains_key(&group);
        if is_busy {
            return Ok(None);
        }
        if !self.is_written_through(group, sources[sources.len() - 1].number)? {
            self.wants_written = true;
            return Ok(None);
        }
        // Not `check_space`: that a large file does not fit says nothing of appends.
        let space = self.fs.space(&self.options.dir);
        let space = space.map_err(|e| error::failed("ask the space of", &self.options.dir, &e))?;
        let reserve = self.needed(0);
        if space.free < reserve.saturating_add(sources.iter().map(|file| file.end).sum()) {
            return Err(Error::DiskFull);
        }
        let g = self.group(group)?;
        let (dir, interval, new) =
            (g.image.dir.clone(), g.image.options.index_interval_bytes, self.next_file);
        let root = &self.options.dir;
        let paths = (
            segment_file::unfinished_path(root, &dir, new),
            segment_file::path(root, &dir, new),
            segment_file::index_path(root, &dir, new),
        );
        let failed = |e: std::io::Error| error::failed("create", &paths.0, &e);
        let header = FileImage::new(new, sources[0].prev, sources[0].base_offset);
        let header = segment_file::encode_copy_header(group, &header);
        let handle = self.fs.open(&paths.0, OpenMode::CreateNew).map_err(failed)?;
        self.next_file += 1;
        // The number becomes known with the next round, whether anything else happens or not.
        self.wants_written = true;
        let cancelled = Arc::new(AtomicBool::new(false));
        self.rewriting.0.insert(group, Job { new, cancelled: cancelled.clone() });
        if let Err(e) = handle.pwrite(&header, 0) {
            self.cancel_rewrite(group);
            return Err(error::failed("write", &paths.0, &e));
        }
        let (fs, files, report) = (self.fs.clone(), self.with_paths(group, &sources)?, self.report(group));
        Ok(Some(Rewrite::new(Parts {
            fs,
            group,
            files,
            new,
            handle,
            paths,
            interval,
            reserve,
            cancelled,
            report,
        })))
    }

    /// Takes a job back, finished or not: if it is, and its files are what they were, the new one takes their place.
    ///
    /// # Errors
    /// `Failed` if latched.
    pub fn end_rewrite(&mut self, job: Rewrite) -> Result<Ended> {
        self.ready()?;
        let (group, number) = (job.group(), job.number());
        if self.rewriting.0.get(&group).is_none_or(|known| known.new != number) {
            return Ok(Ended::Void);
        }
        self.absorb_damage();
        let is_same = self.groups.get(&group).is_some_and(|g| {
            let sources = job.sources();
            let at = g.image.files.iter().position(|file| Some(file) == sources.first());
            let files = at.and_then(|at| g.image.files.get(at..at + sources.len()));
            g.image.needs_repair.is_none() && files == Some(sources)
        });
        if !job.is_done() || !is_same {
            self.cancel_rewrite(group);
            return Ok(Ended::Void);
        }
        if !job.is_changed() {
            self.cancel_rewrite(group);
            return Ok(Ended::Unchanged);
        }
        self.rewriting.0.remove(&group);
        let (rewritten, handle, index) = job.into_result();
        self.swap(group, rewritten, handle, index)?;
        Ok(Ended::Replaced)
    }

    /// Calls off the group's job, if one is out: it writes nothing more, and its file goes.
    pub fn cancel_rewrite(&mut self, group: GroupId) {
        let Some(job) = self.rewriting.0.remove(&group) else { return };
        job.cancelled.store(true, Ordering::Release);
        let Ok(g) = self.group(group) else { return };
        let (root, dir) = (&self.options.dir, &g.image.dir);
        // The first name first: while it is there the job may give the file the second. Nobody knows of either; recovery removes them too.
        let unfinished = segment_file::unfinished_path(root, dir, job.new);
        let names = [
            unfinished,
            segment_file::path(root, dir, job.new),
            segment_file::index_path(root, dir, job.new),
        ];
        let gone = names.iter().filter(|path| self.fs.unlink(path).is_ok()).count();
        if gone > 0 {
            let _ = self.fs.sync_dir(&segment_file::groups_dir(root).join(dir));
        }
    }

    /// Puts a file in the place of others, in the image and in a record.
    pub(super) fn swap(
        &mut self,
        group: GroupId,
        rewritten: Rewritten,
        handle: Arc<dyn File>,
        index: SparseIndex,
    ) -> Result<()> {
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        let (new, last) = (rewritten.new.clone(), rewritten.new.last.index);
        let at = g.image.rewrite(&rewritten).map_err(|why| Error::Failed(why.into()))?;
        let found = Segment {
            handle: Some(handle),
            allocated: new.end,
            index,
            ..Segment::found(new.number, new.end)
        };
        let gone: Vec<Segment> = g.segments.splice(at.clone(), [found]).collect();
        g.skips = Skips::default();
        // What is left of the entries is in the file.
        self.tail_bytes -= g.tail.evict(last, |_, _| true);
        let dir = g.image.dir.clone();
        self.lru.forget(&gone);
        self.lru.opened(group, &mut g.segments[at.start]);
        self.close_idle(new.number);
        let unlink = self.paths(&dir, &rewritten.old);
        let record = Record::Rewrite(group, Box::new(rewritten));
        let op = Change { record, new: None, trim: None, unlink, remove_dir: None, is_aside: false };
        self.queue(group, Op::Change(Box::new(op)));
        Ok(())
    }

    /// Whether all entries of a file, and of those before it, are in their files: the tail lets them go together.
    pub(super) fn is_written_through(&self, group: GroupId, number: u64) -> Result<bool> {
        let g = self.group(group)?;
        let at = g.segments.iter().position(|segment| segment.number == number).ok_or(Error::OutOfRange)?;
        Ok(g.image
            .files
            .iter()
            .zip(&g.segments)
            .take(at + 1)
            .all(|(file, segment)| segment.written >= file.end))
    }

    /// Closed files of a group by number, which follow each other; with those among and beside them that hold nothing (a crash came between a
    /// roll and the first entry): they go along.
    fn consecutive(&self, group: GroupId, numbers: &[u64]) -> Result<Vec<FileImage>> {
        let files = &self.group(group)?.image.files;
        let closed = &files[..files.len() - 1];
        let place = |number: Option<&u64>| closed.iter().position(|file| Some(&file.number) == number);
        let ends = place(numbers.first()).zip(place(numbers.last()));
        let (mut from, mut to) = ends.filter(|(from, to)| from <= to).ok_or(Error::OutOfRange)?;
        let full = closed[from..=to].iter().filter(|file| !file.is_empty()).map(|file| file.number);
        if !full.eq(numbers.iter().copied()) {
            return Err(Error::OutOfRange);
        }
        while from > 0 && closed[from - 1].is_empty() {
            from -= 1;
        }
        while closed.get(to + 1).is_some_and(FileImage::is_empty) {
            to += 1;
        }
        Ok(closed[from..=to].to_vec())
    }

    fn with_paths(&self, group: GroupId, files: &[FileImage]) -> Result<Vec<(PathBuf, FileImage)>> {
        let dir = &self.group(group)?.image.dir;
        let path = |file: &FileImage| segment_file::path(&self.options.dir, dir, file.number);
        Ok(files.iter().map(|file| (path(file), file.clone())).collect())
    }

    fn report(&self, group: GroupId) -> Report {
        let damage = self.damage.clone();
        Box::new(move |index| damage.note(group, index, index))
    }
}
