//! Repair of damaged entries (docs/decisions/0007): each damaged file is copied, frame by verified frame, to a new file; what is bad comes
//! from peers, whose frames are the same bytes; then one journal record puts the new file in the old one's place.
//! Not here: which peer is asked (`raftlog::engine`), what damage means for votes (`raftlog::core`).
//!
//! * An entry is taken from a peer only if it is the very one that was here: its index and epoch stand in the term index, its
//!   predecessor and offset continue the copy, and the file ends as the image says.
//! * No byte of the old file is touched. Where the peer's frames are as long as the damaged ones, frames keep their places and only the
//!   number of the file changes. But if the log start has moved into the file, the copy begins there: what stands before it may be damaged,
//!   and nobody has it any more.
//! * Compaction is each replica's own: a peer may hold less of an entry than was here, or more. Then nothing of the old file is where it
//!   would have to be, so the rest comes from peers, and the copy is recorded as a rewritten file.
//! * Two copies that were compacted at different times are mixed only where what one of them misses does not matter in the other
//!   (docs/decisions/0022): every answer is judged by the numbers of its source and ours, and the copy's numbers go with its record.
//! * The copy is complete, synced and named durably before the record that names it is queued.
//! * Reading and writing happen on a helper thread (inline on a simulated disk).
//! * Copies at a time are bounded; one that no peer can help makes room for others ([`Store::yield_repair`]).

use super::Store;
use crate::mutation::{Mutation, on};
use crate::segment::fs::{File, Fs, OpenMode, patiently, sync_names};
use crate::segment::group::{Segment, Skips};
use crate::segment::image::{FileImage, Rewritten, Shortened};
use crate::segment::index::SparseIndex;
use crate::segment::record::Record;
use crate::segment::round::{Change, Op};
use crate::segment::segment_file::{self, Expect, SEGMENT_HEADER, Span};
use crate::segment::tombstones::Cleaned;
use crate::segment::types::*;
use crate::segment::{Error, Result, error, frame, frame::Head, gap};
use std::io;
use std::ops::Range;
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
    /// These entries are needed, the first to the last: [`Store::mend`]. And up to where their source has to be clean, if that matters.
    Needs(Index, Index, Option<Offset>),
}

/// What became of an answer of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The repair goes on with it, as far as its entries are the ones that were here.
    Taken,
    /// Nothing was taken: the peer misses what would be missed here, or brings what is missing here (docs/decisions/0022).
    Refused,
    /// It does not go with what others gave, which was thrown away: asked for all of it, this peer may do.
    Again,
}

/// One damaged file on its way to a new one.
pub(super) struct Session {
    old: FileImage,
    new: u64,
    state: State,
    /// Offset at which the copy begins.
    from: Offset,
    /// All copies that gave entries, joined.
    source: Option<Cleaned>,
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
    /// Where in the damaged file the next entry stands, if it is what it was; None if that is not known, and all comes from peers.
    own: Option<u64>,
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

    /// Whether this is what was here next: an entry, or a gap.
    fn is_next(&self, head: &Head) -> bool {
        let (first, last) = (head.first(), head.last().index);
        let is_of =
            |index| self.epoch_of(index) == Some(head.meta.id.epoch) || on(Mutation::MendWithAnything);
        segment_file::check_chain(Expect::After(self.last, self.next_offset), &head.meta).is_ok()
            && is_of(first)
            && is_of(last)
            && last <= self.file.last.index
    }

    /// Takes a frame that is next.
    fn take(&mut self, head: &Head, header: &[u8], payload: &[u8]) -> io::Result<()> {
        self.piece.extend_from_slice(header);
        self.piece.extend_from_slice(payload);
        self.at += head.len();
        self.own = self.own.map(|own| own + head.len());
        self.last = head.last();
        self.next_offset = head.next_offset();
        if !head.is_gap {
            self.max_timestamp = frame::max_timestamp(head.meta.kind, payload).max(self.max_timestamp);
        }
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
            let head = Head { meta: entry.meta, entries: 1, is_gap: false };
            if !self.is_next(&head) {
                break;
            }
            let header = frame::encode_header(self.group, &entry.meta, &entry.payload);
            self.take(&head, &header, &entry.payload)?;
            self.is_mended = true;
        }
        self.copy_sound()?;
        self.flush()?;
        if (self.last, self.next_offset) != (self.file.last, self.file.next_offset) {
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

    /// The copy as a file that took another's place, if its frames stand elsewhere.
    fn rewritten(&self, new: u64) -> Option<Rewritten> {
        // Frames of other lengths may add up to the same.
        let is_alike = self.at == self.file.end && self.max_timestamp == self.file.max_timestamp;
        if self.begin.is_some() || is_alike {
            return None;
        }
        let (end, max_timestamp, age_timestamp) = (self.at, self.max_timestamp, self.file.newest());
        // What a compaction may rely on is what it has seen itself.
        let is_compacted = false;
        let new =
            FileImage { number: new, end, max_timestamp, age_timestamp, is_compacted, ..self.file.clone() };
        Some(Rewritten { old: vec![self.file.number], new })
    }

    fn shortened(&self) -> Option<Shortened> {
        let (end, max_timestamp) = (self.at, self.max_timestamp);
        self.begin.map(|(prev, base_offset)| Shortened { prev, base_offset, end, max_timestamp })
    }

    /// Copies from the old file up to the first frame that is not what it must be.
    fn copy_sound(&mut self) -> io::Result<()> {
        let Some(from) = self.own.filter(|own| *own < self.file.end) else { return Ok(()) };
        let Ok(old) = self.fs.open(&self.from, OpenMode::Read) else { return Ok(()) };
        let expect = Expect::After(self.last, self.next_offset);
        let mut result = Ok(());
        let span = Span { from, stop: self.file.end, end: self.file.end };
        let read = segment_file::read_raw(&*old, self.group, span, expect, true, |head, _, bytes| {
            if !self.is_next(head) {
                return Err("not what was here");
            }
            if head.is_gap {
                gap::Entries::parse(head, bytes)?;
            }
            let (header, payload) = bytes.split_at(frame::FRAME_HEADER);
            result = self.take(head, header, payload);
            result.as_ref().map_err(|_| "the copy cannot be written").copied()
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
    fn range(&self) -> Range<Offset> {
        self.from..self.old.next_offset
    }

    /// What it comes from if this source gives something, too.
    fn with(&self, source: Cleaned) -> Cleaned {
        self.source.map_or(source, |known| known.joined(source))
    }

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
                let (index, is_blind) = (*index, copy.own.is_none());
                let end = session.old.last.index;
                let needs = self.cleaned(group)?.needs_of_source(session.range());
                self.repairs.insert(group, session);
                // Before what is known to be damaged one entry at a time: the next may be sound. Behind it frames are not where they would
                // have to be.
                let to = match index < first {
                    _ if is_blind || index > last => end,
                    true => index,
                    false => last.min(end),
                };
                Ok(Repair::Needs(index, to, needs))
            }
            State::Running(_) => Ok(Repair::Working),
            State::Failed => {
                self.discard(group, session.new);
                Ok(Repair::Working)
            }
        }
    }

    /// Gives a repair the entries it needs; those that are not the ones that were here are left out. `source`: the numbers of the copy that
    /// they come from, as of when they were read there, and as far as they speak of this log ([`Cleaned::of_another_log`]).
    pub fn mend(&mut self, group: GroupId, entries: Vec<Entry>, source: Cleaned) -> Mended {
        let is_threaded = self.fs.is_threaded();
        let Ok(cleaned) = self.cleaned(group) else { return Mended::Taken };
        let Some(mut session) = self.repairs.remove(&group) else { return Mended::Taken };
        let joined = session.with(source);
        let may_mend = cleaned.may_mend(session.range(), joined);
        let is_waiting = matches!(session.state, State::Waiting(..));
        if is_waiting && !may_mend && cleaned.may_mend(session.range(), source) {
            // What another one gave is why: the copy is begun again, for whoever may give all of it.
            self.discard(group, session.new);
            return Mended::Again;
        }
        session.state = match session.state {
            State::Waiting(copy, _) if may_mend => {
                session.source = Some(joined);
                Session::start(copy, entries, is_threaded)
            }
            other => other,
        };
        self.repairs.insert(group, session);
        if may_mend { Mended::Taken } else { Mended::Refused }
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
        if !self.is_written_through(group, old.number)? {
            // In a directory where nothing else happens (every replica is held out) no round would come to tell.
            self.wants_written = true;
            return Ok(());
        }
        let start = (g.image.log_start.prev, g.image.log_start.base_offset);
        let begin = (start.0.index > old.prev.index).then_some(start);
        let (last, next_offset) = begin.unwrap_or((old.prev, old.base_offset));
        let own = match begin {
            None => Some(SEGMENT_HEADER),
            Some(start) => match self.cut_point_behind(group, start.0.index) {
                // Within a gap no frame begins.
                Ok((cut, rest)) => {
                    (rest.is_empty() && (cut.last, cut.next_offset) == start).then_some(cut.end)
                }
                Err(Error::Damaged(_)) => None,
                Err(other) => return Err(other),
            },
        };
        let g = self.group(group)?;
        let dir = g.image.dir.clone();
        let epochs = g.image.terms.epochs(g.image.last().index);
        let most = old.end - (own.unwrap_or(SEGMENT_HEADER) - SEGMENT_HEADER);
        self.check_space(most, false)?;
        let new = self.next_file;
        let to = segment_file::path(&self.options.dir, &dir, new);
        let failed = |e: io::Error| error::failed("create", &to, &e);
        let handle = self.fs.open(&to, OpenMode::CreateNew).map_err(failed)?;
        self.next_file += 1;
        let header = segment_file::encode_copy_header(group, &FileImage::new(new, last, next_offset));
        handle.preallocate(0, most).and_then(|()| handle.pwrite(&header, 0)).map_err(failed)?;
        let copy = Box::new(Copy {
            fs: self.fs.clone(),
            group,
            from: segment_file::path(&self.options.dir, &dir, old.number),
            to: to.clone(),
            epochs,
            handle,
            at: SEGMENT_HEADER,
            own,
            begin,
            last,
            next_offset,
            piece: Vec::new(),
            max_timestamp: -1,
            is_mended: false,
            file: old.clone(),
        });
        let state = Session::start(copy, Vec::new(), self.fs.is_threaded());
        self.repairs.insert(group, Session { old, new, state, from: next_offset, source: None });
        Ok(())
    }

    /// Puts the copy in the old file's place, or finds that nothing was wrong with it.
    fn finish_repair(&mut self, group: GroupId, session: Session) -> Result<()> {
        let mut cleaned = self.cleaned(group)?;
        let (range, source) = (session.range(), session.source);
        let State::Done(copy) = session.state else { return Ok(()) };
        if let Some(source) = source {
            if !cleaned.may_mend(range.clone(), source) {
                // Our numbers have changed since: it is begun again.
                self.discard(group, session.new);
                return Ok(());
            }
            cleaned.mended(range, source);
        }
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
        tracing::info!(%group, from = %session.old.first(), to = %last, "damaged file replaced by a sound copy");
        g.changes += 1;
        // Before the record that puts the copy in place, in the same round.
        self.keep(group, cleaned)?;
        let g = self.group_mut(group)?;
        if let Some(rewritten) = copy.rewritten(session.new) {
            g.image.needs_repair = left;
            self.swap(group, rewritten, copy.handle.clone(), SparseIndex::starting_at(copy.at))?;
            self.queue(
                group,
                Change::plain(Record::Replace { group, old: 0, new: 0, shortened: None, left }),
            );
            return self.note_whole(group);
        }
        let (old, new, shortened) = (session.old.number, session.new, copy.shortened());
        g.image.replace((old, new), shortened, left);
        let found =
            Segment { handle: Some(copy.handle.clone()), allocated: copy.at, ..Segment::found(new, copy.at) };
        g.skips = Skips::default();
        let gone = std::mem::replace(&mut g.segments[at], found);
        self.lru.forget(std::slice::from_ref(&gone));
        let g = self.groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        self.lru.opened(group, &mut g.segments[at]);
        // Where they stand now is for the file to say.
        self.tail_bytes -= g.tail.evict(last, |_, _| true);
        let dir = g.image.dir.clone();
        let unlink = self.paths(&dir, &[old]);
        let record = Record::Replace { group, old, new, shortened, left };
        let op = Change { record, new: None, trim: None, unlink, remove_dir: None, is_aside: false };
        self.queue(group, Op::Change(Box::new(op)));
        self.note_whole(group)
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
