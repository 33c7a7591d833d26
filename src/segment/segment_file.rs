//! A segment file: its header, its place in the directory, and the walk over its frames. Not here: which
//! files a group has (`image`), caching of handles and maps (`group`).
//!
//! * The header repeats what journal or manifest say of the file; it is written once at creation, names a
//!   file found on its own, and decides nothing.
//! * A walk checks that frames chain: index, predecessor and base offset continue the entry before.
//! * A walk shows entries: those of a gap one by one, without payloads, the gap itself having been checked as a whole.

use super::frame::{self, FRAME_HEADER, Head};
use super::fs::File;
use super::gap;
use super::image::FileImage;
use super::types::*;
use bytes::{BufMut, Bytes};
use std::path::{Path, PathBuf};

/// Bytes before the first frame.
pub(crate) const SEGMENT_HEADER: u64 = 64;
/// First bytes of a segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"KONTIKIS";
const SEGMENT_VERSION: u16 = 1;

/// Directory of all groups.
pub(crate) fn groups_dir(dir: &Path) -> PathBuf {
    dir.join("groups")
}
/// Path of a segment.
pub(crate) fn path(dir: &Path, group_dir: &str, number: u64) -> PathBuf {
    groups_dir(dir).join(group_dir).join(format!("{number:016x}.segment"))
}
/// Path of a segment that is being made of others.
pub(crate) fn unfinished_path(dir: &Path, group_dir: &str, number: u64) -> PathBuf {
    path(dir, group_dir, number).with_extension("segment.new")
}
/// Path of its index.
pub(crate) fn index_path(dir: &Path, group_dir: &str, number: u64) -> PathBuf {
    groups_dir(dir).join(group_dir).join(format!("{number:016x}.index"))
}
/// Marks a directory whose log is kept when its group is removed: made durable before the removal is, gone when the files have their
/// other names.
pub(crate) const KEPT: &str = "kept";
/// Ends the names of files that were set aside.
pub(crate) const FENCED: &str = ".fenced";

/// Name of a segment that was set aside; nothing reads or removes it but an operator.
pub(crate) fn fenced_path(segment: &Path) -> PathBuf {
    let mut name = segment.to_owned().into_os_string();
    name.push(FENCED);
    PathBuf::from(name)
}
/// Number in the name of a segment or index, or of an index on its way to its name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let (number, kind) = name.split_once('.')?;
    matches!(kind, "segment" | "segment.new" | "index" | "index.new")
        .then(|| u64::from_str_radix(number, 16).ok())?
}

/// Flag of a file that was made of others: its entries were there before it, so no `Cut` can have opened it.
const COPY: u16 = 1;

/// The header of a file.
pub(crate) fn encode_header(group: GroupId, file: &FileImage) -> Vec<u8> {
    encode_flagged(group, file, if file.is_compacted { COPY } else { 0 })
}

/// The header of a file that is made of others.
pub(crate) fn encode_copy_header(group: GroupId, file: &FileImage) -> Vec<u8> {
    encode_flagged(group, file, COPY)
}

fn encode_flagged(group: GroupId, file: &FileImage, flags: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER as usize);
    out.put_slice(&SEGMENT_MAGIC);
    out.put_u16_le(SEGMENT_VERSION);
    out.put_u16_le(flags);
    out.put_u32_le(0);
    out.put_u64_le(group.0);
    out.put_u64_le(file.number);
    out.put_u64_le(file.prev.epoch.generation.0);
    out.put_u64_le(file.prev.epoch.term.0);
    out.put_u64_le(file.prev.index.0);
    out.put_i64_le(file.base_offset.0);
    debug_assert_eq!(out.len() as u64, SEGMENT_HEADER);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&out[..12]);
    hasher.update(&out[16..]);
    let crc = hasher.finalize();
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a header: group, number, entry before the first; None if it is not sound.
pub(crate) fn decode_header(bytes: &[u8]) -> Option<(GroupId, u64, LogId)> {
    let header = bytes.get(..SEGMENT_HEADER as usize)?;
    let at = |i: usize| u64::from_le_bytes(header[i..i + 8].try_into().expect("eight bytes"));
    let (group, number) = (GroupId(at(16)), at(24));
    let prev = LogId::new(at(32), at(40), at(48));
    let base_offset = Offset(at(56) as i64);
    let file = FileImage::new(number, prev, base_offset);
    let is_sound = [0, COPY].iter().any(|flags| encode_flagged(group, &file, *flags) == header);
    is_sound.then_some((group, number, prev))
}

/// Whether a sound header says that its file was made of others.
pub(crate) fn is_copy(header: &[u8]) -> bool {
    header.get(10..12) == Some(&COPY.to_le_bytes())
}

/// One entry met on a walk.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    pub meta: EntryMeta,
    /// Where its frame begins in the file.
    pub byte: u64,
    /// Header and payload. Of an entry of a gap: the whole gap, checked already.
    pub frame: Bytes,
    /// Whether it is one of a gap, and if so whether the last one.
    pub gap: Option<bool>,
}

impl Met {
    pub(crate) fn payload(&self) -> Bytes {
        if self.gap.is_some() { Bytes::new() } else { self.frame.slice(FRAME_HEADER..) }
    }
    pub(crate) fn max_timestamp(&self) -> i64 {
        if self.gap.is_some() {
            return -1;
        }
        frame::max_timestamp(self.meta.kind, &self.frame[FRAME_HEADER..])
    }
}

/// What a walk expects next: exact once an entry has been met, a bare index at a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Index(Index),
    After(LogId, Offset),
}

/// Walks entries in a view of a file, checking headers and the chain, and CRCs of gaps alone.
pub(crate) struct Walk {
    group: GroupId,
    view: Bytes,
    /// Byte of the file the view begins at.
    base: u64,
    at: usize,
    expect: Expect,
    /// The gap it stands in: entries left, its byte, its frame.
    gap: Option<(gap::Entries, u64, Bytes)>,
}

impl Walk {
    pub(crate) fn new(group: GroupId, view: Bytes, base: u64, expect: Expect) -> Self {
        Self { group, view, base, at: 0, expect, gap: None }
    }

    /// Index of the next entry.
    pub(crate) fn index(&self) -> Index {
        if let Some(index) = self.gap.as_ref().and_then(|(entries, ..)| entries.peek()) {
            return index;
        }
        match self.expect {
            Expect::Index(index) => index,
            Expect::After(id, _) => id.index.next(),
        }
    }

    /// The next entry; None at the end of the view.
    pub(crate) fn next(&mut self) -> Option<Result<Met, &'static str>> {
        if let Some((entries, byte, frame)) = &mut self.gap {
            if let Some(meta) = entries.next() {
                let is_last = entries.left() == 0;
                return Some(Ok(Met { meta, byte: *byte, frame: frame.clone(), gap: Some(is_last) }));
            }
            self.gap = None;
        }
        if self.at == self.view.len() {
            return None;
        }
        match self.step() {
            Ok(Some(met)) => Some(Ok(met)),
            // A gap has an entry at least.
            Ok(None) => self.next(),
            Err(why) => Some(Err(why)),
        }
    }

    /// Leaves out what is left of the gap it stands in; answers the last entry of it and the offset after it.
    pub(crate) fn leave_gap(&mut self) -> Option<(LogId, Offset)> {
        self.gap.take().filter(|(entries, ..)| entries.left() > 0)?;
        match self.expect {
            Expect::After(last, next_offset) => Some((last, next_offset)),
            Expect::Index(_) => None,
        }
    }

    fn step(&mut self) -> Result<Option<Met>, &'static str> {
        let rest = &self.view[self.at..];
        let head = frame::decode_head(rest, self.group)?;
        let len = head.len() as usize;
        if len > rest.len() {
            return Err("frame runs beyond the end");
        }
        check_chain(self.expect, &head.meta)?;
        let (byte, frame) = (self.base + self.at as u64, self.view.slice(self.at..self.at + len));
        let entries = if head.is_gap { Some(gap::Entries::parse(&head, &frame)?) } else { None };
        self.at += len;
        self.expect = Expect::After(head.last(), head.next_offset());
        self.gap = entries.map(|entries| (entries, byte, frame.clone()));
        Ok(self.gap.is_none().then_some(Met { meta: head.meta, byte, frame, gap: None }))
    }
}

/// Whether a header is the one expected.
pub(crate) fn check_chain(expect: Expect, meta: &EntryMeta) -> Result<(), &'static str> {
    match expect {
        Expect::Index(index) if meta.id.index != index => Err("not the expected index"),
        Expect::Index(_) => Ok(()),
        Expect::After(id, offset) => {
            if meta.predecessor() != id {
                return Err("predecessor does not match");
            }
            if meta.base_offset != offset {
                return Err("base offset does not continue");
            }
            Ok(())
        }
    }
}

/// Part of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Where the first frame begins.
    pub from: u64,
    /// No frame is read that begins here or later.
    pub stop: u64,
    /// No frame reaches beyond this.
    pub end: u64,
}

/// Reads entries by pread from `from` to `end`, calling `each` with meta, byte of its frame and payload of every sound one;
/// stops at the first frame that is not, and answers how far it came. `verify` includes CRCs.
pub(crate) fn read_frames(
    file: &dyn File,
    group: GroupId,
    (from, end): (u64, u64),
    expect: Expect,
    verify: bool,
    mut each: impl FnMut(&EntryMeta, u64, &[u8]),
) -> std::io::Result<(u64, Option<&'static str>)> {
    let span = Span { from, stop: end, end };
    read_raw(file, group, span, expect, verify, |head, byte, bytes| {
        if !head.is_gap {
            each(&head.meta, byte, &bytes[FRAME_HEADER..]);
            return Ok(());
        }
        gap::Entries::parse(head, bytes)?.for_each(|meta| each(&meta, byte, &[]));
        Ok(())
    })
}

/// Reads frames as they stand: `each` gets a header, the byte where it begins, and the whole frame, and may say that it is not sound after all.
pub(crate) fn read_raw(
    file: &dyn File,
    group: GroupId,
    Span { from, stop, end }: Span,
    mut expect: Expect,
    verify: bool,
    mut each: impl FnMut(&Head, u64, &[u8]) -> Result<(), &'static str>,
) -> std::io::Result<(u64, Option<&'static str>)> {
    let mut reader = Reader { file, buffer: vec![0; 1 << 20], start: 0, filled: 0 };
    let mut at = from;
    while at < end && at < stop {
        let header = reader.get(at, FRAME_HEADER.min((end - at) as usize))?;
        let head = match frame::decode_head(header, group) {
            Ok(head) => head,
            Err(why) => return Ok((at, Some(why))),
        };
        let len = head.len();
        if at + len > end {
            return Ok((at, Some("frame runs beyond the end")));
        }
        if let Err(why) = check_chain(expect, &head.meta) {
            return Ok((at, Some(why)));
        }
        let bytes = reader.get(at, len as usize)?;
        if (bytes.len() as u64) < len {
            return Ok((at, Some("file is cut short")));
        }
        if verify && !frame::check(bytes) {
            return Ok((at, Some("frame CRC does not match")));
        }
        if let Err(why) = each(&head, at, bytes) {
            return Ok((at, Some(why)));
        }
        expect = Expect::After(head.last(), head.next_offset());
        at += len;
    }
    Ok((at, None))
}

struct Reader<'a> {
    file: &'a dyn File,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Reader<'_> {
    /// Bytes at a place, fewer at the end of the file.
    fn get(&mut self, at: u64, len: usize) -> std::io::Result<&[u8]> {
        let inside = at >= self.start && at + len as u64 <= self.start + self.filled as u64;
        if !inside {
            if self.buffer.len() < len {
                self.buffer.resize(len, 0);
            }
            self.filled = self.file.pread(&mut self.buffer, at)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(&self.buffer[from..self.filled.min(from + len)])
    }
}
