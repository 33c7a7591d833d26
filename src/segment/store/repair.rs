//! Repair of damaged entries (docs/decisions/0007): each damaged file is copied, frame by verified frame, to a new file; what is bad comes
//! from peers, whose frames are the same bytes; then one journal record puts the new file in the old one's place.
//! Not here: which peer is asked (`raftlog::engine`), what damage means for votes (`raftlog::core`).
//!
//! * An entry is taken from a peer only if it is the very one that was here: its index and epoch stand in the term index, its
//!   predecessor and offset continue the copy, and the file ends as the image says.
//! * No byte of the old file is touched; frames keep their places, so only the number of the file changes. But if the log start has moved
//!   into the file, the copy begins there: what stands before it may be damaged, and nobody has it any more.
//! * The copy is complete, synced and named durably before the record that names it is queued.
//! * Reading and writing happen on a helper thread (inline on a simulated disk).
//! * Copies at a time are bounded; one that no peer can help makes room for others ([`Store::yield_repair`]).

use super::Store;
use crate::mutation::{Mutation, on};
use crate::segment::fs::{File, Fs, OpenMode, patiently, sync_names};
use crate::segment::group::Segment;
use crate::segment::image::{CutPoint, FileImage, Shortened};
use crate::segment::record::Record;
use crate::segment::round::{Change, Op};
use crate::segment::segment_file::{self, Expect, SEGMENT_HEADER};
use crate::segment::types::*;
use crate::segment::{Error, Result, error, frame};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Verified frames are written in pieces of about this size.
const PIECE: usize = 1 << 20;
/// Most copies at a time: each holds a descriptor, and while it runs a thread. Other damaged groups wait in line.
const SESSIONS: usize = 64;

/// Where a repair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing (more) to repair.
    Whole,
    /// Work is under way, or waits for entries to reach their file: ask again soon.
    Working,
    /// These entries are needed: [`Store::mend`].
    Needs(Index, Index),
}

/// One damaged file on its way to a new one.
pub(super) struct Session {
    old: FileImage,
    new: u64,
    state: State,
}

enum State {
    Running(JoinHandle<(Box<Copy>, io::Result<Outcome>)>),
    Waiting(Box<Copy>, Index),
    Done(Box<Copy>),
    Failed,
}

/// How far a copy came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Complete,
    Needs(Index),
}

/// The copy of one file; owned by the helper thread while it runs.
struct Copy {
    fs: Arc<dyn Fs>,
    group: GroupId,
    /// The damaged file and where its last valid entry ends.
    from: PathBuf,
    to: PathBuf,
    file: FileImage,
    /// Bytes of the damaged file that the copy leaves out; None if it is not known where in it the log starts, and all comes from peers.
    left_out: Option<u64>,
    /// The log start, if the copy begins there and not where the file does.
    begin: Option<(LogId, Offset)>,
    /// First index of every epoch of the log.
    epochs: Vec<(Epoch, Index)>,
    handle: Arc<dyn File>,
    /// What is copied so far.
    at: u64,
    last: LogId,
    next_offset: Offset,
    piece: Vec<u8>,
    max_timestamp: i64,
    /// Something came from a peer.
    is_mended: bool,
}

impl Copy {
    fn epoch_of(&self, index: Index) -> Option<Epoch> {
        let after = self.epochs.partition_point(|(_, first)| *first <= index);
        self.epochs.get(after.checked_sub(1)?).map(|(epoch, _)| *epoch)
    }

    /// Whether this is the entry that was here next.
    fn is_next(&self, meta: &EntryMeta) -> bool {
        segment_file::check_chain(Expect::After(self.last, self.next_offset), meta).is_ok()
            && (self.epoch_of(meta.id.index) == Some(meta.id.epoch) || on(Mutation::MendWithAnything))
            && self.at + frame::frame_len(meta.payload_len) <= self.file.end - self.left_out.unwrap_or(0)
            && meta.id.index <= self.file.last.index
    }

    fn take(&mut self, meta: &EntryMeta, payload: &[u8]) -> io::Result<()> {
        let header = frame::encode_header(self.group, meta, payload);
        self.piece.extend_from_slice(&header);
        self.piece.extend_from_slice(payload);
        self.at += frame::frame_len(meta.payload_len);
        self.last = meta.id;
        self.next_offset = meta.next_offset();
        self.max_timestamp = frame::max_timestamp(meta.kind, payload).max(self.max_timestamp);
        if self.piece.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.handle.pwrite(&piece, self.at - piece.len() as u64)
    }

    fn run(&mut self, entries: &[Entry]) -> io::Result<Outcome> {
        for entry in entries {
            if entry.meta.id.index <= self.last.index {
                continue;
            }
            if !self.is_next(&entry.meta) {
                break;
            }
            self.take(&entry.meta, &entry.payload)?;
            self.is_mended = true;
        }
        self.copy_sound()?;
        self.flush()?;
        let is_end = self.left_out.is_none_or(|left_out| self.at + left_out == self.file.end);
        if !is_end || (self.last, self.next_offset) != (self.file.last, self.file.next_offset) {
            return Ok(Outcome::Needs(self.last.index.next()));
        }
        if self.is_new() {
            self.handle.fdatasync()?;
            let dir = self.to.parent().unwrap_or(&self.to);
            patiently(|| sync_names(&*self.fs, dir))?;
        }
        Ok(Outcome::Complete)
    }

    /// Whether it differs from the file it was made of. One that begins later does: whoever looks for a place in the old file walks over
    /// what is damaged before it.
    fn is_new(&self) -> bool {
        self.is_mended || self.begin.is_some()
    }

    fn shortened(&self) -> Option<Shortened> {
        let (end, max_timestamp) = (self.at, self.max_timestamp);
        self.begin.map(|(prev, base_offset)| Shortened { prev, base_offset, end, max_timestamp })
    }

    /// Copies from the old file up to the first frame that is not what it must be.
    fn copy_sound(&mut self) -> io::Result<()> {
        let Some(left_out) = self.left_out else { return Ok(()) };
        let Ok(old) = self.fs.open(&self.from, OpenMode::Read) else { return Ok(()) };
        let (from, end) = (self.at + left_out, self.file.end);
        let expect = Expect::After(self.last, self.next_offset);
        let mut result = Ok(());
        let mut is_good = true;
        let group = self.group;
        let read = segment_file::read_frames(&*old, group, (from, end), expect, true, |meta, _, payload| {
            is_good = is_good && result.is_ok() && self.is_next(meta);
            if is_good {
                result = self.take(meta, payload);
            }
        });
        if let Err(error) = read
            && error::is_busy(&error)
        {
            return Err(error);
        }
        // A place that cannot be read is one more that a peer must fill.
        result
    }
}

impl Session {
    fn start(mut copy: Box<Copy>, entries: Vec<Entry>, is_threaded: bool) -> State {
        if !is_threaded {
            let result = copy.run(&entries);
            return Self::settle(copy, result);
        }
        let builder = std::thread::Builder::new().name("segment-repair".into());
        let work = move || {
            let result = copy.run(&entries);
            (copy, result)
        };
        builder.spawn(work).map_or(State::Failed, State::Running)
    }

    fn settle(copy: Box<Copy>, result: io::Result<Outcome>) -> State {
        match result {
            Ok(Outcome::Complete) => State::Done(copy),
            Ok(Outcome::Needs(index)) => State::Waiting(copy, index),
            Err(error) => {
                tracing::warn!(group = %copy.group, %error, "copy of a damaged file failed; it is begun again");
                State::Failed
            }
        }
    }
}

impl Store {
    /// Goes on with the repair of a group.
    ///
    /// # Errors
    /// `DiskFull`, `Busy`: later. `Failed` if latched.
    pub fn repair(&mut self, group: GroupId) -> Result<Repair> {
        self.ready()?;
        self.absorb_damage();
        let Some((first, last)) = self.group(group)?.image.needs_repair else {
            self.abandon_repair(group);
            return Ok(Repair::Whole);
        };
        let Some(mut session) = self.repairs.remove(&group) else {
            return self.begin_repair(group, first).map(|()| Repair::Working);
        };
        if let State::Running(thread) = session.state {
            if !thread.is_finished() {
                session.state = State::Running(thread);
                self.repairs.insert(group, session);
                return Ok(Repair::Working);
            }
            session.state =
                thread.join().map_or(State::Failed, |(copy, result)| Session::settle(copy, result));
        }
        match &session.state {
            State::Done(_) => {
                self.finish_repair(group, session)?;
                Ok(Repair::Working)
            }
            State::Waiting(_, index) if *index <= self.group(group)?.image.log_start.prev.index => {
                // The log start has moved: begun again, the copy begins behind it.
                self.discard(group, session.new);
                Ok(Repair::Working)
            }
            State::Waiting(copy, index) => {
                let (index, is_blind) = (*index, copy.left_out.is_none());
                let end = session.old.last.index;
                self.repairs.insert(group, session);
                // Beyond what is known to be damaged one entry at a time: the next may be sound.
                let to = match index < first {
                    _ if is_blind => end,
                    true => index,
                    false => last.min(end).max(index),
                };
                Ok(Repair::Needs(index, to))
            }
            State::Running(_) => Ok(Repair::Working),
            State::Failed => {
                self.discard(group, session.new);
                Ok(Repair::Working)
            }
        }
    }

    /// Gives a repair the entries it needs; those that are not the ones that were here are left out.
    pub fn mend(&mut self, group: GroupId, entries: Vec<Entry>) {
        let is_threaded = self.fs.is_threaded();
        let Some(mut session) = self.repairs.remove(&group) else { return };
        session.state = match session.state {
            State::Waiting(copy, _) => Session::start(copy, entries, is_threaded),
            other => other,
        };
        self.repairs.insert(group, session);
    }

    /// No peer has what a repair needs now. If others wait in line, it gives up its place and begins again when its turn comes.
    pub fn yield_repair(&mut self, group: GroupId) {
        if self.repairs.len() >= SESSIONS
            && self.repairs.get(&group).is_some_and(|session| matches!(session.state, State::Waiting(..)))
        {
            self.abandon_repair(group);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_copying(&self, group: GroupId) -> bool {
        self.repairs.contains_key(&group)
    }

    /// Begins with the first damaged file, once it is closed and all its entries are in it.
    fn begin_repair(&mut self, group: GroupId, first: Index) -> Result<()> {
        if self.repairs.len() >= SESSIONS {
            return Ok(());
        }
        let g = self.group(group)?;
        let at = g.file_of(first);
        if at + 1 == g.image.files.len() {
            if g.image.active().is_empty() {
                return Ok(());
            }
            self.roll(group)?;
        }
        let g = self.group(group)?;
        let old = g.image.files[at].clone();
        if g.segments[at].written < old.end {
            // In a directory where nothing else happens (every replica is held out) no round would come to tell.
            self.wants_written = true;
            return Ok(());
        }
        let start = (g.image.log_start.prev, g.image.log_start.base_offset);
        let begin = (start.0.index > old.prev.index).then_some(start);
        let (last, next_offset) = begin.unwrap_or((old.prev, old.base_offset));
        let left_out = match begin {
            None => Some(0),
            Some(start) => match self.cut_point_behind(group, start.0.index) {
                Ok(cut) => ((cut.last, cut.next_offset) == start).then(|| cut.end - SEGMENT_HEADER),
                Err(Error::Damaged(_)) => None,
                Err(other) => return Err(other),
            },
        };
        let g = self.group(group)?;
        let dir = g.image.dir.clone();
        let epochs = g.image.terms.epochs(g.image.last().index);
        let most = old.end - left_out.unwrap_or(0);
        self.check_space(most, false)?;
        let new = self.next_file;
        let to = segment_file::path(&self.options.dir, &dir, new);
        let failed = |e: io::Error| error::failed("create", &to, &e);
        let handle = self.fs.open(&to, OpenMode::CreateNew).map_err(failed)?;
        self.next_file += 1;
        let header = segment_file::encode_header(group, &FileImage::new(new, last, next_offset));
        handle.preallocate(0, most).and_then(|()| handle.pwrite(&header, 0)).map_err(failed)?;
        let copy = Box::new(Copy {
            fs: self.fs.clone(),
            group,
            from: segment_file::path(&self.options.dir, &dir, old.number),
            to: to.clone(),
            epochs,
            handle,
            at: SEGMENT_HEADER,
            left_out,
            begin,
            last,
            next_offset,
            piece: Vec::new(),
            max_timestamp: -1,
            is_mended: false,
            file: old.clone(),
        });
        let state = Session::start(copy, Vec::new(), self.fs.is_threaded());
        self.repairs.insert(group, Session { old, new, state });
        Ok(())
    }

    /// Puts the copy in the old file's place, or finds that nothing was wrong with it.
    fn finish_repair(&mut self, group: GroupId, session: Session) -> Result<()> {
        let State::Done(copy) = session.state else { return Ok(()) };
        let g = self.group_mut(group)?;
        let last = session.old.last.index;
        let left =
            g.image.needs_repair.filter(|(_, to)| *to > last).map(|(from, to)| (from.max(last.next()), to));
        let at = g.image.files.iter().position(|f| *f == session.old);
        let (Some(at), true) = (at, copy.is_new()) else {
            // Cut, dropped, or sound when it was read again.
            let left = if at.is_some() { left } else { g.image.needs_repair };
            g.image.needs_repair = left;
            self.queue(
                group,
                Change::plain(Record::Replace { group, old: 0, new: 0, shortened: None, left }),
            );
            self.discard(group, session.new);
            return self.note_whole(group);
        };
        let (old, new, shortened) = (session.old.number, session.new, copy.shortened());
        g.image.replace((old, new), shortened, left);
        let found = Segment {
            handle: Some(copy.handle.clone()),
            allocated: session.old.end - copy.left_out.unwrap_or(0),
            ..Segment::found(new, copy.at)
        };
        let gone = std::mem::replace(&mut g.segments[at], found);
        self.lru.forget(std::slice::from_ref(&gone));
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        self.lru.opened(group, &mut g.segments[at]);
        g.tail.renumber(old, new, session.old.end - copy.at);
        let dir = g.image.dir.clone();
        let unlink = self.paths(&dir, &[old]);
        let record = Record::Replace { group, old, new, shortened, left };
        let op = Change { record, new: None, trim: None, unlink, remove_dir: None, is_aside: false };
        self.queue(group, Op::Change(Box::new(op)));
        tracing::info!(%group, from = %session.old.first(), to = %last, "damaged file replaced by a sound copy");
        self.note_whole(group)
    }

    /// Where the log ends behind an entry when the one after it is damaged.
    pub(in crate::segment) fn cut_point_behind(&mut self, group: GroupId, last: Index) -> Result<CutPoint> {
        let max_timestamp =
            self.max_timestamp_before(group, self.file_number_of(group, last)?, last.next())?;
        let at = self.group(group)?.file_of(last);
        let number = self.group(group)?.image.files[at].number;
        if let Some((mut walk, _)) = self.open_walk(group, at, |index| index.by_index(last))? {
            while let Some(Ok(met)) = walk.next() {
                if met.meta.id.index == last && frame::check(&met.frame) {
                    let end = met.byte + met.frame.len() as u64;
                    let next_offset = met.meta.next_offset();
                    return Ok(CutPoint { last: met.meta.id, next_offset, file: number, end, max_timestamp });
                }
            }
        }
        Err(Error::Damaged(format!("entry {last} of group {group}, which a cut must end with")))
    }

    fn file_number_of(&self, group: GroupId, index: Index) -> Result<u64> {
        let g = self.group(group)?;
        Ok(g.image.files[g.file_of(index)].number)
    }

    fn note_whole(&mut self, group: GroupId) -> Result<()> {
        if self.group(group)?.image.needs_repair.is_none() {
            // Damage found from now on is news.
            self.damage.forget(group);
        }
        Ok(())
    }

    /// The log changed under a repair, or the group is gone.
    pub(super) fn abandon_repair(&mut self, group: GroupId) {
        if let Some(session) = self.repairs.remove(&group) {
            self.discard(group, session.new);
        }
    }

    fn discard(&mut self, group: GroupId, number: u64) {
        if let Ok(g) = self.group(group) {
            // Nobody knows of it; recovery would remove it too.
            let _ = self.fs.unlink(&segment_file::path(&self.options.dir, &g.image.dir, number));
        }
    }
}
