//! The scrub: reads every valid byte of every segment now and then, so that damage is found while other replicas are sound.
//! Not here: what follows from damage (`store::repair`), when a pass begins (the broker's upkeep).
//!
//! * The front half hands out files and takes findings; reading is done by whoever owns the [`Scrubber`], off the engine thread, by
//!   `pread` (a map would turn a bad sector into SIGBUS), in steps of about 1 MiB.
//! * A header repeats what journal and manifest say, for good: one that differs is written again here, and no peer is asked.
//! * A finding is a claim about a file as it was handed out: the front half believes it only if that file still holds the entry.
//! * No clock: the shell (`io_thread`) sleeps between steps, so that the rate is bounded.

use super::fs::{Fs, OpenMode};
use super::image::FileImage;
use super::segment_file::{self, Expect, SEGMENT_HEADER};
use super::types::*;
use super::{error, frame};
use crate::mutation::{Mutation, on};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes read in one step, or one frame if it is larger.
const STEP: u64 = 1 << 20;

/// What has been scrubbed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// Bytes of frames read and verified.
    pub bytes: u64,
    /// Files read to their end (or to the first damage).
    pub files: u64,
    /// Files in which damage was found.
    pub damaged: u64,
    /// Times everything was handed out.
    pub passes: u64,
}

/// A file to read, as it was when it was handed out.
pub(crate) struct ScrubFile {
    pub group: GroupId,
    pub path: PathBuf,
    pub file: FileImage,
    /// Valid and written up to here.
    pub end: u64,
}

/// The first bad entry of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub group: GroupId,
    pub file: u64,
    pub index: Index,
}

/// Between the front half and the scrubber.
#[derive(Default)]
pub(crate) struct Shared {
    queue: Mutex<VecDeque<ScrubFile>>,
    findings: Mutex<Vec<Finding>>,
    has_findings: AtomicBool,
    is_closed: AtomicBool,
    bytes: AtomicU64,
    files: AtomicU64,
    damaged: AtomicU64,
    passes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.queue).len()
    }
    pub(crate) fn push(&self, file: ScrubFile) {
        lock(&self.queue).push_back(file);
    }
    pub(crate) fn note_pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
    pub(crate) fn take_findings(&self) -> Vec<Finding> {
        match self.has_findings.swap(false, Ordering::AcqRel) {
            true => std::mem::take(&mut *lock(&self.findings)),
            false => Vec::new(),
        }
    }
    pub(crate) fn stats(&self) -> ScrubStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScrubStats {
            bytes: read(&self.bytes),
            files: read(&self.files),
            damaged: read(&self.damaged),
            passes: read(&self.passes),
        }
    }
}

/// Reads what it is handed.
pub struct Scrubber {
    fs: Arc<dyn Fs>,
    shared: Arc<Shared>,
    current: Option<(ScrubFile, u64, LogId, Offset)>,
}

impl Scrubber {
    pub(crate) fn new(fs: Arc<dyn Fs>, shared: Arc<Shared>) -> Self {
        Self { fs, shared, current: None }
    }

    /// Reads and verifies about 1 MiB; answers how much it was, 0 if nothing waits.
    pub fn step(&mut self) -> u64 {
        let begun = self.current.take().or_else(|| {
            let file = lock(&self.shared.queue).pop_front()?;
            self.mend_header(&file);
            let (last, next) = (file.file.prev, file.file.base_offset);
            Some((file, SEGMENT_HEADER, last, next))
        });
        let Some((file, at, last, next_offset)) = begun else { return 0 };
        let (to, last, next_offset, is_bad) = self.read(&file, at, last, next_offset);
        self.shared.bytes.fetch_add(to - at, Ordering::Relaxed);
        if is_bad {
            let finding = Finding { group: file.group, file: file.file.number, index: last.index.next() };
            lock(&self.shared.findings).push(finding);
            self.shared.has_findings.store(true, Ordering::Release);
        }
        if is_bad || to >= file.end {
            self.shared.files.fetch_add(1, Ordering::Relaxed);
            self.shared.damaged.fetch_add(u64::from(is_bad), Ordering::Relaxed);
        } else {
            self.current = Some((file, to, last, next_offset));
        }
        (to - at).max(1)
    }

    /// Writes the header of a file again if it is not sound: flipped bits, that is; where the disk cannot read, it cannot write a part either. No sync: a mend that a power cut takes is made again by the
    /// next pass, and a failed sync here would be one that the writer of the file does not hear of.
    fn mend_header(&self, file: &ScrubFile) {
        let right = segment_file::encode_header(file.group, &file.file);
        let mut header = vec![0; right.len()];
        let Ok(handle) = self.fs.open(&file.path, OpenMode::Read) else { return };
        let is_sound = match handle.pread(&mut header, 0) {
            Ok(_) => {
                let right = (file.group, file.file.number, file.file.prev);
                segment_file::decode_header(&header) == Some(right)
            }
            Err(e) => error::is_busy(&e),
        };
        if is_sound || on(Mutation::ScrubWithoutCheck) {
            return;
        }
        self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        let mended = self.fs.open(&file.path, OpenMode::Write).and_then(|file| file.pwrite(&right, 0));
        let (group, path) = (file.group, file.path.display());
        match mended {
            Ok(_) => tracing::warn!(%group, %path, "damaged header of a segment was written again"),
            Err(error) => {
                tracing::warn!(%group, %path, %error, "the header of a segment is damaged and cannot be written; the next pass tries again");
            }
        }
    }

    /// How far a step came, and whether a bad frame stands there. A file that is gone, or cannot be opened for now, is passed over:
    /// whether it should be there is for its reader to say.
    fn read(
        &self,
        file: &ScrubFile,
        at: u64,
        mut last: LogId,
        mut next: Offset,
    ) -> (u64, LogId, Offset, bool) {
        let Ok(handle) = self.fs.open(&file.path, OpenMode::Read) else {
            return (file.end.max(at), last, next, false);
        };
        let mut header = [0; frame::FRAME_HEADER];
        let first = match handle.pread(&mut header, at) {
            Ok(n) => frame::decode_head(&header[..n], file.group).map(|head| head.len()),
            Err(e) if error::is_busy(&e) => return (file.end.max(at), last, next, false),
            Err(_) => Err("unreadable"),
        };
        let Some(first) = first.ok().filter(|len| at + len <= file.end) else {
            return (at, last, next, at < file.end);
        };
        let to = file.end.min((at + STEP).max(at + first));
        let expect = Expect::After(last, next);
        let verify = !on(Mutation::ScrubWithoutCheck);
        let read = segment_file::read_frames(&*handle, file.group, (at, to), expect, verify, |meta, _, _| {
            last = meta.id;
            next = meta.next_offset();
        });
        match read {
            Ok((reached, _)) => (reached, last, next, reached == at),
            Err(e) if error::is_busy(&e) => (file.end, last, next, false),
            Err(_) => (at, last, next, true),
        }
    }

    /// Whether the store is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }
}
