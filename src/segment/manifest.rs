//! The manifest: a checkpoint of the whole directory, in two checksummed copies of the same bytes.
//! Written by `checkpoint`, read by `recovery` and `dump`. Byte by byte in docs/disk-format.md.
//!
//! * Both copies and their names are durable before an older manifest goes, and that one is durably gone
//!   before any journal file is freed: whichever manifest is found, its journal is still there.
//! * Both copies of the newest bad and no older one left: refuse, never start from nothing.

use super::codec::*;
use super::fs::{Fs, OpenMode};
use super::image::{GroupImage, Image};
use super::index::{TermIndex, TermSpan, read_whole};
use super::journal::Position;
use super::record::{get_cleaned, get_file, get_options, get_origin};
use super::record::{put_cleaned, put_file, put_options, put_origin};
use super::tombstones::Cleaned;
use super::types::*;
use super::{Error, error};
use bytes::BufMut;
use std::path::Path;

/// First bytes of a manifest.
pub(crate) const MANIFEST_MAGIC: [u8; 8] = *b"KONTIKIM";
/// Newest format this code reads. One number for the whole directory.
pub(crate) const FORMAT_VERSION: u16 = 4;
/// The one it writes of a directory in which nothing has been rewritten yet: the version of the program before reads it.
pub(crate) const FORMAT_UNCOMPACTED: u16 = 2;
/// From this one on it says of each group how clean it is. Format 3 knows of rewritten files alone.
pub(crate) const FORMAT_CLEANED: u16 = 4;
const HEADER: usize = 32;
const COPIES: [&str; 2] = ["a", "b"];

/// Everything a restart begins with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    /// Counts checkpoints.
    pub sequence: u64,
    /// Run of the journal (part of its salt).
    pub era: u64,
    /// Where to read on.
    pub position: Position,
    /// Length of a journal file.
    pub journal_file_bytes: u64,
    /// Written by an orderly end: nothing follows in the journal.
    pub clean: bool,
    /// Run of the machine it was written in (0: not known, format 1).
    pub boot: u128,
    pub image: Image,
}

/// Names of the two copies.
pub(crate) fn names(sequence: u64) -> [String; 2] {
    COPIES.map(|copy| format!("manifest-{sequence:016x}.{copy}"))
}

/// Sequence in the name of a copy.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let (number, copy) = name.strip_prefix("manifest-")?.split_once('.')?;
    if !COPIES.contains(&copy) {
        return None;
    }
    u64::from_str_radix(number, 16).ok()
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.image.groups.len() * 400);
        out.put_slice(&MANIFEST_MAGIC);
        out.put_u16_le(self.image.format);
        out.put_u16_le(0);
        out.put_u32_le(0);
        out.put_u64_le(0);
        out.put_u64_le(self.sequence);
        debug_assert_eq!(out.len(), HEADER);
        out.put_u64_le(self.era);
        out.put_u64_le(self.position.file);
        out.put_u32_le(self.position.block);
        out.put_u64_le(self.position.sequence);
        out.put_u64_le(self.journal_file_bytes);
        out.put_u8(u8::from(self.clean));
        out.put_u128_le(self.boot);
        put_image(&mut out, &self.image);
        let len = out.len() as u64;
        out[16..24].copy_from_slice(&len.to_le_bytes());
        let crc = crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a copy. Damage and "newer" are told apart; the CRC comes first and covers the version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        if bytes.len() < HEADER || bytes[..8] != MANIFEST_MAGIC {
            return Err(Bad::Damaged("no manifest magic"));
        }
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if field(16) != bytes.len() as u64 {
            return Err(Bad::Damaged("manifest length does not match"));
        }
        if u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) != crc(bytes) {
            return Err(Bad::Damaged("manifest CRC does not match"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > FORMAT_VERSION {
            return Err(Bad::Newer(version));
        }
        let mut body = &bytes[HEADER..];
        let read = Self::decode_body(version, field(24), &mut body).filter(|_| body.is_empty());
        read.ok_or(Bad::Damaged("manifest content does not parse"))
    }

    fn decode_body(version: u16, sequence: u64, b: &mut &[u8]) -> Option<Self> {
        let era = get_u64(b)?;
        let position = Position { file: get_u64(b)?, block: get_u32(b)?, sequence: get_u64(b)? };
        let journal_file_bytes = get_u64(b)?;
        let clean = get_u8(b)? != 0;
        let boot = if version >= 2 { get_u128(b)? } else { 0 };
        Some(Self { sequence, era, position, journal_file_bytes, clean, boot, image: get_image(version, b)? })
    }
}

/// Why a copy is no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Damaged(&'static str),
    Newer(u16),
}

fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// Writes both copies durably; only then is the checkpoint there.
pub(crate) fn write(fs: &dyn Fs, dir: &Path, sequence: u64, bytes: &[u8]) -> super::Result<()> {
    let io = |e: std::io::Error| error::failed("write the manifest in", dir, &e);
    for name in names(sequence) {
        let path = dir.join(&name);
        let new = dir.join(format!("{name}.new"));
        super::fs::remove_leftover(fs, dir, &new).map_err(io)?;
        let handle = super::error::patiently(|| fs.open(&new, OpenMode::CreateNew)).map_err(io)?;
        handle.pwrite(bytes, 0).map_err(io)?;
        handle.fdatasync().map_err(io)?;
        fs.rename(&new, &path).map_err(io)?;
    }
    fs.sync_dir(dir).map_err(io)
}

/// Removes every manifest but `keep`, durably.
pub(crate) fn remove_others(fs: &dyn Fs, dir: &Path, keep: u64) -> super::Result<()> {
    let io = |e: std::io::Error| error::failed("remove old manifests of", dir, &e);
    for name in fs.list(dir).map_err(io)? {
        let base = name.strip_suffix(".new").unwrap_or(&name);
        if sequence_of(base).is_some_and(|sequence| sequence != keep || base != name) {
            fs.unlink(&dir.join(&name)).map_err(io)?;
        }
    }
    fs.sync_dir(dir).map_err(io)
}

/// Finds the newest manifest of a directory; None if there is no manifest at all.
pub(crate) fn load(fs: &dyn Fs, dir: &Path) -> super::Result<Option<Manifest>> {
    let names = fs.list(dir).map_err(|e| error::failed("list", dir, &e))?;
    let mut copies: Vec<(u64, &String)> = names.iter().filter_map(|n| Some((sequence_of(n)?, n))).collect();
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.0));
    let mut reasons = Vec::new();
    for (_, name) in &copies {
        let path = dir.join(name);
        let bytes = match read_whole(fs, &path) {
            Ok(bytes) => bytes,
            Err(e) => {
                reasons.push(format!("{name}: {e}"));
                continue;
            }
        };
        match Manifest::decode(&bytes) {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(Bad::Damaged(why)) => reasons.push(format!("{name}: {why}")),
            Err(Bad::Newer(version)) => {
                return Err(Error::Refused(format!(
                    "data directory {} has format {version}, this program reads up to {FORMAT_VERSION}: \
                     start it with the newer version it was last used with",
                    dir.display()
                )));
            }
        }
    }
    if copies.is_empty() {
        return Ok(None);
    }
    Err(Error::Refused(format!(
        "no sound manifest in data directory {} ({}): what it holds cannot be known, so it is not started; \
         keep the directory for examination, and start this node with an empty one so that its replicas \
         are placed anew",
        dir.display(),
        reasons.join("; ")
    )))
}

fn put_image(out: &mut Vec<u8>, image: &Image) {
    out.put_i32_le(image.node.0);
    out.put_u128_le(image.directory);
    out.put_u8(u8::from(image.cluster.is_some()));
    put_str(out, image.cluster.as_deref().unwrap_or_default());
    out.put_u64_le(image.next_file);
    out.put_u32_le(image.suspects.len() as u32);
    image.suspects.iter().for_each(|name| put_str(out, name));
    out.put_u32_le(u32::try_from(image.groups.len()).expect("groups of a directory fit"));
    image.groups.values().for_each(|group| put_group(out, group, image.format));
}

fn get_image(version: u16, b: &mut &[u8]) -> Option<Image> {
    let mut image = Image::new(NodeId(get_i32(b)?), get_u128(b)?);
    image.format = version.max(FORMAT_UNCOMPACTED);
    let has_cluster = get_u8(b)? != 0;
    let cluster = get_str(b)?;
    image.cluster = has_cluster.then_some(cluster);
    image.next_file = get_u64(b)?;
    for _ in 0..get_u32(b)? {
        image.suspects.insert(get_str(b)?);
    }
    for _ in 0..get_u32(b)? {
        let group = get_group(version, b)?;
        image.groups.insert(group.group, group);
    }
    Some(image)
}

fn put_group(out: &mut Vec<u8>, g: &GroupImage, format: u16) {
    out.put_u64_le(g.group.0);
    put_str(out, &g.name);
    put_str(out, &g.dir);
    put_replica(out, g.replica);
    put_options(out, &g.options);
    put_hard_state(out, &g.hard_state);
    put_log_start(out, &g.log_start);
    out.put_u8(u8::from(g.needs_repair.is_some()));
    let (first, last) = g.needs_repair.unwrap_or_default();
    out.put_u64_le(first.0);
    out.put_u64_le(last.0);
    out.put_u32_le(g.files.len() as u32);
    for file in &g.files {
        put_file(out, file);
        if format > FORMAT_UNCOMPACTED {
            put_origin(out, file);
        }
    }
    out.put_u32_le(g.terms.0.len() as u32);
    for span in &g.terms.0 {
        put_epoch(out, span.epoch);
        out.put_u64_le(span.first.0);
        let (first, last) = span.records.unwrap_or_default();
        out.put_u64_le(first.0);
        out.put_u64_le(last.0);
        out.put_i64_le(span.end.0);
    }
    out.put_u32_le(g.configurations.len() as u32);
    for (id, payload) in &g.configurations {
        put_log_id(out, *id);
        put_bytes(out, payload);
    }
    if format >= FORMAT_CLEANED {
        put_cleaned(out, &g.cleaned);
    }
}

fn get_group(version: u16, b: &mut &[u8]) -> Option<GroupImage> {
    let group = GroupId(get_u64(b)?);
    let (name, dir) = (get_str(b)?, get_str(b)?);
    let replica = get_replica(b)?;
    let options = get_options(b)?;
    let hard_state = get_hard_state(b)?;
    let log_start = get_log_start(b)?;
    let damaged = get_u8(b)? != 0;
    let range = (Index(get_u64(b)?), Index(get_u64(b)?));
    let needs_repair = damaged.then_some(range);
    let mut files = Vec::new();
    for _ in 0..get_u32(b)? {
        let file = get_file(b)?;
        files.push(if version > FORMAT_UNCOMPACTED { get_origin(b, file)? } else { file });
    }
    if files.is_empty() {
        return None;
    }
    let mut spans = Vec::new();
    for _ in 0..get_u32(b)? {
        let (epoch, first) = (get_epoch(b)?, Index(get_u64(b)?));
        // Index 0 is "before the log", so a zero pair says "no records".
        let records = (Index(get_u64(b)?), Index(get_u64(b)?));
        let records = (records.0 > Index(0)).then_some(records);
        spans.push(TermSpan { epoch, first, records, end: Offset(get_i64(b)?) });
    }
    let mut configurations = Vec::new();
    for _ in 0..get_u32(b)? {
        configurations.push((get_log_id(b)?, get_bytes(b)?));
    }
    let terms = TermIndex(spans);
    let cleaned = if version >= FORMAT_CLEANED { get_cleaned(b)? } else { Cleaned::default() };
    Some(GroupImage {
        group,
        name,
        dir,
        replica,
        options,
        hard_state,
        log_start,
        files,
        terms,
        configurations,
        needs_repair,
        cleaned,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a directory of the format before held says nothing of how clean it is: a compaction learns it anew.
    #[test]
    fn numbers_of_a_group_are_in_format_4_and_none_in_format_3() {
        let mut image = Image::new(NodeId(4), 77);
        let creation = crate::segment::record::Creation {
            name: "t-0".into(),
            dir: "t-0".into(),
            replica: ReplicaId { node: NodeId(4), assignment: 1, directory: 77 },
            options: super::super::GroupOptions::default(),
            hard_state: HardState::default(),
            log_start: LogStart::default(),
            file: 1,
        };
        let group = GroupId(1);
        image.apply(&crate::segment::record::Record::Create(group, Box::new(creation))).expect("created");
        let cleaned = Cleaned { clean: Offset(30), dropped: Offset(20) };
        image.apply(&crate::segment::record::Record::Cleaned(group, cleaned)).expect("taken");
        let position = Position { file: 3, block: 7, sequence: 9 };
        for (format, expected) in [(2, Cleaned::default()), (3, Cleaned::default()), (4, cleaned)] {
            let image = Image { format, ..image.clone() };
            let manifest = Manifest {
                sequence: 5,
                era: 2,
                position,
                journal_file_bytes: 1 << 20,
                clean: true,
                boot: 1,
                image,
            };
            let read = Manifest::decode(&manifest.encode()).expect("sound");
            assert_eq!((read.image.format, read.image.groups[&group].cleaned), (format, expected));
        }
    }

    #[test]
    fn manifest_of_format_1_is_read_and_knows_no_boot() {
        let position = Position { file: 3, block: 7, sequence: 9 };
        let image = Image { cluster: Some("c".into()), ..Image::new(NodeId(4), 77) };
        let (sequence, era, boot) = (5, 2, 0x1234);
        let now = Manifest { sequence, era, position, journal_file_bytes: 1 << 20, clean: true, boot, image };
        let bytes = now.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(now.clone()));
        let mut old = bytes;
        old.drain(HEADER + 37..HEADER + 53);
        old[8..10].copy_from_slice(&1u16.to_le_bytes());
        let len = old.len() as u64;
        old[16..24].copy_from_slice(&len.to_le_bytes());
        let crc = crc(&old);
        old[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Manifest::decode(&old), Ok(Manifest { boot: 0, ..now }));
    }
}
