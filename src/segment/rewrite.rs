//! Rewriting closed segments with fewer payloads (`cleanup.policy=compact`, docs/decisions/0020): what reads the old files and writes the
//! new one. Not here: which entries keep what (the caller), which files, and the record that swaps them (`store::rewriting`).
//!
//! How an owner of a [`Store`](super::Store) compacts a group:
//!
//! ```text
//!  closed_files ---> which files, and where what is new begins
//!  read_closed  ---> ClosedReader: step() shows every entry, on any thread    (to learn the last offset of every key)
//!  begin_rewrite --> Rewrite: step() asks of every batch what of it stays, on any thread, as slowly as its caller likes
//!  end_rewrite  <--- Rewrite: one record swaps the files, if they are still what they were
//! ```
//!
//! * Entries keep index, epoch, base offset and offset span (safety.md F14): a batch gets another payload or none. Only Records are asked
//!   about; Noops have nothing to lose, and all other kinds stay as they are.
//! * What is read is checked, frame by frame. A frame that is not what it must be is reported as damage, and ends the job.
//! * No byte of an old file is touched. The new file has a name of its own (`.segment.new`) until it is whole and synced, and its number is
//!   never used again, whatever becomes of it.
//! * Memory is bounded: a mebibyte read, a mebibyte to be written, a gap, the sparse index of the new file.
//! * A job that is not to be finished is told by a flag, and writes nothing more once it has seen that.

use super::fs::{File, Fs, OpenMode, patiently, sync_names};
use super::gap::{self, Gap};
use super::image::{FileImage, Rewritten};
use super::index::{self, Slot, SlotRun, SparseIndex};
use super::segment_file::{self, Expect, SEGMENT_HEADER, Span};
use super::types::*;
use super::{Error, Result, error, frame};
use crate::mutation::{Mutation, on};
use crate::wire::batch::BatchHeader;
use bytes::Bytes;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Frames are written in pieces of about this size.
const PIECE: usize = 1 << 20;

/// A segment that is not appended to any more, as a compaction sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedFile {
    /// Its number, by which jobs name it.
    pub number: u64,
    /// Its first entry.
    pub first: Index,
    /// Its last entry.
    pub last: LogId,
    /// Base offset of the first entry.
    pub base_offset: Offset,
    /// Offset after the last entry.
    pub next_offset: Offset,
    /// Bytes of frames.
    pub bytes: u64,
    /// Largest timestamp (ms) of the records that are in it, -1 if there is none.
    pub max_timestamp: i64,
}

/// What stays of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of it.
    Whole,
    /// These bytes: a batch with the same base offset and last offset delta.
    Batch(Bytes),
    /// Nothing but its place in the log.
    Nothing,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes were read; there is more.
    More(u64),
    /// The new file is whole and durable: [`Store::end_rewrite`](super::Store::end_rewrite).
    Done,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The new file is in the old ones' place as soon as the next round is durable, and is read from now on.
    Replaced,
    /// There was nothing to remove.
    Unchanged,
    /// It was not finished, or the files are not what they were any more. Nothing has changed.
    Void,
}

/// Takes a frame; or says why it is not sound after all.
type EachFrame<'a> = dyn FnMut(&frame::Head, &[u8]) -> std::result::Result<(), &'static str> + 'a;

/// Where damage that a job meets is told.
pub(crate) type Report = Box<dyn Fn(Index) + Send>;

/// Reads closed files one after the other.
pub struct ClosedReader {
    fs: Arc<dyn Fs>,
    group: GroupId,
    /// Paths and files, the next one last.
    files: Vec<(PathBuf, FileImage)>,
    current: Option<Current>,
    report: Report,
}

struct Current {
    file: FileImage,
    handle: Arc<dyn File>,
    at: u64,
    last: LogId,
    next_offset: Offset,
}

impl ClosedReader {
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        group: GroupId,
        mut files: Vec<(PathBuf, FileImage)>,
        report: Report,
    ) -> Self {
        files.retain(|(_, file)| !file.is_empty());
        files.reverse();
        Self { fs, group, files, current: None, report }
    }

    /// Shows the entries of about so many bytes, in order; false when there are no more. Entries of which nothing is left come without a
    /// payload.
    ///
    /// # Errors
    /// `Damaged`: a frame is not what it must be, the group has been told. `OutOfRange`: a file is gone (retention, a cut). `Busy`.
    pub fn step(&mut self, bytes: u64, each: &mut dyn FnMut(&EntryMeta, &[u8])) -> Result<bool> {
        self.read(bytes, &mut |head, frame| {
            if !head.is_gap {
                each(&head.meta, &frame[frame::FRAME_HEADER..]);
                return Ok(());
            }
            gap::Entries::parse(head, frame)?.for_each(|meta| each(&meta, &[]));
            Ok(())
        })?;
        Ok(self.current.is_some() || !self.files.is_empty())
    }

    /// Frames of about so many bytes; answers how many those were.
    fn read(&mut self, bytes: u64, each: &mut EachFrame<'_>) -> Result<u64> {
        let Some(mut current) = self.begin()? else { return Ok(0) };
        let (from, end) = (current.at, current.file.end);
        let span = Span { from, stop: from.saturating_add(bytes.max(1)), end };
        let expect = Expect::After(current.last, current.next_offset);
        let read =
            segment_file::read_raw(&*current.handle, self.group, span, expect, true, |head, _, frame| {
                each(head, frame)?;
                (current.last, current.next_offset) = (head.last(), head.next_offset());
                Ok(())
            });
        let why = match read {
            Ok((at, None)) => {
                current.at = at;
                if at < end {
                    self.current = Some(current);
                    return Ok(at - from);
                }
                let (last, next_offset) = (current.file.last, current.file.next_offset);
                if (current.last, current.next_offset) == (last, next_offset) {
                    return Ok(at - from);
                }
                "the file ends before its entries do".to_owned()
            }
            Ok((_, Some(why))) => why.to_owned(),
            Err(e) if error::is_busy(&e) => return Err(Error::Busy(e.to_string())),
            Err(e) => e.to_string(),
        };
        let index = current.last.index.next();
        (self.report)(index);
        Err(Error::Damaged(format!("entry {index} of group {}: {why}", self.group)))
    }

    fn begin(&mut self) -> Result<Option<Current>> {
        if let Some(current) = self.current.take() {
            return Ok(Some(current));
        }
        let Some((path, file)) = self.files.pop() else { return Ok(None) };
        let handle = match self.fs.open(&path, OpenMode::Read) {
            Ok(handle) => handle,
            // Whether it should be there is for its reader to say.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::OutOfRange),
            Err(e) => return Err(error::failed("open", &path, &e)),
        };
        let (last, next_offset) = (file.prev, file.base_offset);
        Ok(Some(Current { file, handle, at: SEGMENT_HEADER, last, next_offset }))
    }
}

/// The file a job writes.
struct Output {
    fs: Arc<dyn Fs>,
    group: GroupId,
    handle: Arc<dyn File>,
    unfinished: PathBuf,
    path: PathBuf,
    index_path: PathBuf,
    interval: u32,
    /// Appends and the journal need it more.
    reserve: u64,
    file: FileImage,
    piece: Vec<u8>,
    gap: Option<Gap>,
    index: SparseIndex,
    /// Something is not as it was.
    is_changed: bool,
}

impl Output {
    fn take(
        &mut self,
        head: &frame::Head,
        bytes: &[u8],
        keep: &mut dyn FnMut(&EntryMeta, &[u8]) -> Keep,
    ) -> Result<()> {
        if head.is_gap {
            let entries = gap::Entries::parse(head, bytes).map_err(|why| Error::Damaged(why.into()))?;
            return entries.into_iter().try_for_each(|meta| self.leave_out(&meta));
        }
        let (meta, payload) = (&head.meta, &bytes[frame::FRAME_HEADER..]);
        if gap::is_hollow(meta) {
            self.is_changed = true;
            return self.leave_out(meta);
        }
        if meta.kind != EntryKind::Records {
            return self.write(meta, bytes, -1);
        }
        match keep(meta, payload) {
            Keep::Whole => self.write(meta, bytes, frame::max_timestamp(meta.kind, payload)),
            Keep::Nothing => {
                self.is_changed = true;
                self.leave_out(&EntryMeta { payload_len: 0, ..*meta })
            }
            Keep::Batch(payload) => {
                self.is_changed = true;
                check_batch(meta, &payload)?;
                let meta = EntryMeta { payload_len: payload.len() as u32, ..*meta };
                let mut frame = frame::encode_header(self.group, &meta, &payload).to_vec();
                frame.extend_from_slice(&payload);
                self.write(&meta, &frame, frame::max_timestamp(meta.kind, &payload))
            }
        }
    }

    fn leave_out(&mut self, meta: &EntryMeta) -> Result<()> {
        let is_taken = self.gap.as_mut().is_some_and(|gap| gap.take(meta));
        if !is_taken {
            self.end_gap()?;
            self.gap = Some(Gap::new(*meta));
        }
        (self.file.last, self.file.next_offset) = (meta.id, meta.next_offset());
        Ok(())
    }

    fn end_gap(&mut self) -> Result<()> {
        let Some(gap) = self.gap.take() else { return Ok(()) };
        let frame = gap.encode(self.group);
        self.put(gap.first(), &frame, -1)
    }

    fn write(&mut self, meta: &EntryMeta, frame: &[u8], timestamp: i64) -> Result<()> {
        self.end_gap()?;
        self.put(meta, frame, timestamp)?;
        (self.file.last, self.file.next_offset) = (meta.id, meta.next_offset());
        Ok(())
    }

    fn put(&mut self, first: &EntryMeta, frame: &[u8], timestamp: i64) -> Result<()> {
        let (byte, max_before) = (self.file.end, self.file.max_timestamp);
        let slot = Slot { index: first.id.index, base_offset: first.base_offset, byte, max_before };
        self.index.offer(self.interval, slot);
        self.piece.extend_from_slice(frame);
        self.file.end += frame.len() as u64;
        self.file.max_timestamp = max_before.max(timestamp);
        if self.piece.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let piece = std::mem::take(&mut self.piece);
        let space = self.fs.space(self.path.parent().unwrap_or(&self.path));
        if space.is_ok_and(|space| space.free < self.reserve.saturating_add(piece.len() as u64)) {
            return Err(Error::DiskFull);
        }
        let written = self.handle.pwrite(&piece, self.file.end - piece.len() as u64);
        written.map_err(|e| error::failed("write", &self.unfinished, &e))
    }

    /// Makes the file, and the name it is to have, durable.
    fn finish(&mut self) -> Result<()> {
        self.end_gap()?;
        self.flush()?;
        if !self.is_changed {
            self.remove();
            return Ok(());
        }
        let failed = |e: io::Error| error::failed("make durable", &self.unfinished, &e);
        if !on(Mutation::SwapBeforeSync) {
            self.handle.fdatasync().map_err(failed)?;
        }
        self.fs.rename(&self.unfinished, &self.path).map_err(failed)?;
        let dir = self.path.parent().unwrap_or(&self.path);
        patiently(|| sync_names(&*self.fs, dir)).map_err(failed)?;
        let run = SlotRun { from: SEGMENT_HEADER, to: self.file.end, slots: self.index.slots.clone() };
        // A cache: if it cannot be written, a reader makes it.
        let _ = index::rewrite(&*self.fs, &self.index_path, self.file.number, &run);
        Ok(())
    }
}

impl Output {
    /// Nobody needs the file; durably, since its number may come again if no manifest has heard of it.
    fn remove(&self) {
        if self.fs.unlink(&self.unfinished).is_ok() {
            // What a power cut leaves of it, recovery removes.
            let _ = self.fs.sync_dir(self.path.parent().unwrap_or(&self.path));
        }
    }
}

/// Refuses bytes that would give an entry other offsets than it has (safety.md F14).
fn check_batch(meta: &EntryMeta, payload: &[u8]) -> Result<()> {
    let header = BatchHeader::read(payload).filter(|header| {
        header.base_offset == meta.base_offset.0
            && i64::from(header.last_offset_delta) + 1 == i64::from(meta.offset_span)
    });
    let refused =
        || Error::Refused(format!("what is to stay of entry {} has other offsets than it", meta.id));
    header.map(|_| ()).ok_or_else(refused)
}

/// One job: closed files of a group on their way to one with fewer payloads. For any thread; nothing of it blocks the store.
pub struct Rewrite {
    group: GroupId,
    sources: Vec<FileImage>,
    input: ClosedReader,
    output: Output,
    cancelled: Arc<AtomicBool>,
    is_done: bool,
}

/// What a job is made of.
pub(crate) struct Parts {
    pub fs: Arc<dyn Fs>,
    pub group: GroupId,
    pub files: Vec<(PathBuf, FileImage)>,
    pub new: u64,
    pub handle: Arc<dyn File>,
    /// The new file's name until it is whole, and after; its index.
    pub paths: (PathBuf, PathBuf, PathBuf),
    pub interval: u32,
    /// Space that the job must leave free.
    pub reserve: u64,
    pub cancelled: Arc<AtomicBool>,
    pub report: Report,
}

impl Rewrite {
    /// # Panics
    /// If there are no files.
    pub(crate) fn new(parts: Parts) -> Self {
        let sources: Vec<FileImage> = parts.files.iter().map(|(_, file)| file.clone()).collect();
        let first = sources.first().expect("a job has a file");
        let age_timestamp = sources.iter().map(FileImage::newest).max().unwrap_or(-1);
        let file = FileImage {
            age_timestamp,
            is_compacted: true,
            ..FileImage::new(parts.new, first.prev, first.base_offset)
        };
        let (unfinished, path, index_path) = parts.paths;
        let output = Output {
            fs: parts.fs.clone(),
            group: parts.group,
            handle: parts.handle,
            unfinished,
            path,
            index_path,
            interval: parts.interval,
            reserve: parts.reserve,
            file,
            piece: Vec::new(),
            gap: None,
            index: SparseIndex::starting_at(SEGMENT_HEADER),
            is_changed: sources.len() > 1,
        };
        let input = ClosedReader::new(parts.fs, parts.group, parts.files, parts.report);
        let (group, cancelled) = (parts.group, parts.cancelled);
        Self { group, sources, input, output, cancelled, is_done: false }
    }

    /// Whose files.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Reads about so many bytes (less than a mebibyte at a time makes it read some of them again), asking `keep` of every record batch, in order, what of it stays.
    ///
    /// # Errors
    /// `OutOfRange`: cancelled, or a file is gone. `Damaged`: the group has been told. `Refused`: an answer of `keep` that would change
    /// offsets. `DiskFull`, `Failed`: the new file cannot be written; storage has not failed for that. The job is over in every case, and
    /// is handed back all the same.
    pub fn step(&mut self, bytes: u64, keep: &mut dyn FnMut(&EntryMeta, &[u8]) -> Keep) -> Result<Step> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Error::OutOfRange);
        }
        let (output, mut failure) = (&mut self.output, None);
        let read = self.input.read(bytes, &mut |head, frame| {
            if failure.is_none() {
                failure = output.take(head, frame, keep).err();
            }
            Ok(())
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let read = read?;
        if self.input.current.is_some() || !self.input.files.is_empty() {
            return Ok(Step::More(read));
        }
        self.output.finish()?;
        self.is_done = true;
        Ok(Step::Done)
    }

    pub(crate) fn sources(&self) -> &[FileImage] {
        &self.sources
    }

    pub(crate) fn number(&self) -> u64 {
        self.output.file.number
    }

    /// Whether it came to its end and nobody has called it off.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done && !self.cancelled.load(Ordering::Acquire)
    }

    /// Whether the new file is another one than the old.
    pub(crate) fn is_changed(&self) -> bool {
        self.output.is_changed
    }

    /// What took the old files' place, its handle, and its index.
    pub(crate) fn into_result(self) -> (Rewritten, Arc<dyn File>, SparseIndex) {
        let old = self.sources.iter().map(|file| file.number).collect();
        (Rewritten { old, new: self.output.file }, self.output.handle, self.output.index)
    }
}
