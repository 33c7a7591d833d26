//! A segment file: its header, its place in the directory, and the walk over its frames. Not here: which
//! files a group has (`image`), caching of handles and maps (`group`).
//!
//! * The header repeats what journal or manifest say of the file; it is written once at creation, names a
//!   file found on its own, and decides nothing.
//! * A walk checks that frames chain: index, predecessor and base offset continue the entry before.

use super::frame::{self, FRAME_HEADER, frame_len};
use super::fs::File;
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
    matches!(kind, "segment" | "index" | "index.new").then(|| u64::from_str_radix(number, 16).ok())?
}

/// The header of a file.
pub(crate) fn encode_header(group: GroupId, file: &FileImage) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER as usize);
    out.put_slice(&SEGMENT_MAGIC);
    out.put_u16_le(SEGMENT_VERSION);
    out.put_u16_le(0);
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
    let is_sound = encode_header(group, &FileImage::new(number, prev, base_offset)) == header;
    is_sound.then_some((group, number, prev))
}

/// One frame met on a walk.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    pub meta: EntryMeta,
    /// Where it begins in the file.
    pub byte: u64,
    /// Header and payload.
    pub frame: Bytes,
}

impl Met {
    pub(crate) fn payload(&self) -> Bytes {
        self.frame.slice(FRAME_HEADER..)
    }
    pub(crate) fn max_timestamp(&self) -> i64 {
        frame::max_timestamp(self.meta.kind, &self.frame[FRAME_HEADER..])
    }
}

/// What a walk expects next: exact once an entry has been met, a bare index at a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Index(Index),
    After(LogId, Offset),
}

/// Walks frames in a view of a file, checking headers and the chain but not CRCs.
pub(crate) struct Walk {
    group: GroupId,
    view: Bytes,
    /// Byte of the file the view begins at.
    base: u64,
    at: usize,
    expect: Expect,
}

impl Walk {
    pub(crate) fn new(group: GroupId, view: Bytes, base: u64, expect: Expect) -> Self {
        Self { group, view, base, at: 0, expect }
    }

    /// Index of the next frame.
    pub(crate) fn index(&self) -> Index {
        match self.expect {
            Expect::Index(index) => index,
            Expect::After(id, _) => id.index.next(),
        }
    }

    /// The next frame; None at the end of the view.
    pub(crate) fn next(&mut self) -> Option<Result<Met, &'static str>> {
        if self.at == self.view.len() {
            return None;
        }
        Some(self.step())
    }

    fn step(&mut self) -> Result<Met, &'static str> {
        let rest = &self.view[self.at..];
        let meta = frame::decode_header(rest, self.group)?;
        let len = frame_len(meta.payload_len) as usize;
        if len > rest.len() {
            return Err("frame runs beyond the end");
        }
        check_chain(self.expect, &meta)?;
        let met =
            Met { meta, byte: self.base + self.at as u64, frame: self.view.slice(self.at..self.at + len) };
        self.at += len;
        self.expect = Expect::After(meta.id, meta.next_offset());
        Ok(met)
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

/// Reads frames by pread from `from` to `end`, calling `each` with meta and payload of every sound frame;
/// stops at the first one that is not, and answers how far it came. `verify` includes CRCs.
pub(crate) fn read_frames(
    file: &dyn File,
    group: GroupId,
    (from, end): (u64, u64),
    mut expect: Expect,
    verify: bool,
    mut each: impl FnMut(&EntryMeta, u64, &[u8]),
) -> std::io::Result<(u64, Option<&'static str>)> {
    let mut reader = Reader { file, buffer: vec![0; 1 << 20], start: 0, filled: 0 };
    let mut at = from;
    while at < end {
        let header = reader.get(at, FRAME_HEADER.min((end - at) as usize))?;
        let meta = match frame::decode_header(header, group) {
            Ok(meta) => meta,
            Err(why) => return Ok((at, Some(why))),
        };
        let len = frame_len(meta.payload_len);
        if at + len > end {
            return Ok((at, Some("frame runs beyond the end")));
        }
        if let Err(why) = check_chain(expect, &meta) {
            return Ok((at, Some(why)));
        }
        let bytes = reader.get(at, len as usize)?;
        if (bytes.len() as u64) < len {
            return Ok((at, Some("file is cut short")));
        }
        if verify && !frame::check(bytes) {
            return Ok((at, Some("frame CRC does not match")));
        }
        each(&meta, at, &bytes[FRAME_HEADER..]);
        expect = Expect::After(meta.id, meta.next_offset());
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
