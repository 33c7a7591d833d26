//! Indexes: where in a file an offset, index or timestamp is found (sparse), and where each term begins.
//! Positions are caches: kept in memory, written beside the segment, rebuilt from it when bad or missing;
//! they never shorten the log. Not here: what is in the segment (`segment_file`), who looks (`group`).
//!
//! * A slot is a hint: whoever follows it checks the frame it finds there.
//! * `max_before` of a slot is the largest timestamp of all entries of the file before it, so the first
//!   entry at or above a timestamp lies behind the last slot whose `max_before` is below it.

use super::codec::*;
use super::fs::{Fs, OpenMode};
use super::types::*;
use bytes::BufMut;
use std::io;
use std::path::Path;

/// First bytes of an index chunk.
pub(crate) const INDEX_MAGIC: [u8; 4] = *b"KIDX";
const INDEX_VERSION: u16 = 1;
const CHUNK_HEADER: usize = 40;
const SLOT_LEN: usize = 32;

/// One entry of the sparse index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub index: Index,
    pub base_offset: Offset,
    pub byte: u64,
    pub max_before: i64,
}

/// Slots of a contiguous part of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotRun {
    /// First byte it speaks of.
    pub from: u64,
    /// Byte it ends before.
    pub to: u64,
    pub slots: Vec<Slot>,
}

/// Sparse index of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparseIndex {
    /// Bytes before this one are not covered (yet).
    pub from: u64,
    pub slots: Vec<Slot>,
    /// Where the last slot was set, to space them.
    last_byte: Option<u64>,
}

impl SparseIndex {
    pub(crate) fn starting_at(from: u64) -> Self {
        Self { from, slots: Vec::new(), last_byte: None }
    }

    /// Offers a position; it is taken if the interval has passed. Answers the slot taken.
    pub(crate) fn offer(&mut self, interval: u32, slot: Slot) -> Option<Slot> {
        let due = self.last_byte.is_none_or(|last| slot.byte - last >= u64::from(interval));
        if !due {
            return None;
        }
        self.last_byte = Some(slot.byte);
        self.slots.push(slot);
        Some(slot)
    }

    /// Forgets everything at or behind `end`.
    pub(crate) fn cut(&mut self, end: u64) {
        self.slots.retain(|s| s.byte < end);
        self.from = self.from.min(end);
        self.last_byte = self.slots.last().map(|s| s.byte);
    }

    /// Puts the missing first part in front.
    pub(crate) fn prepend(&mut self, mut slots: Vec<Slot>, from: u64) {
        slots.retain(|s| s.byte < self.from);
        slots.append(&mut self.slots);
        self.slots = slots;
        self.from = from;
    }

    /// Last slot at or before an index.
    pub(crate) fn by_index(&self, index: Index) -> Option<Slot> {
        let at = self.slots.partition_point(|s| s.index <= index);
        at.checked_sub(1).map(|i| self.slots[i])
    }
    /// Last slot at or before an offset.
    pub(crate) fn by_offset(&self, offset: Offset) -> Option<Slot> {
        let at = self.slots.partition_point(|s| s.base_offset <= offset);
        at.checked_sub(1).map(|i| self.slots[i])
    }
    /// Last slot before which every timestamp is below `timestamp`.
    pub(crate) fn by_timestamp(&self, timestamp: i64) -> Option<Slot> {
        let at = self.slots.partition_point(|s| s.max_before < timestamp);
        at.checked_sub(1).map(|i| self.slots[i])
    }
}

/// Appends a chunk to an index file, creating it if needed. Not synced: a cache that is lost is rebuilt.
pub(crate) fn append_chunk(fs: &dyn Fs, path: &Path, file: u64, run: &SlotRun) -> io::Result<()> {
    let handle = match fs.open(path, OpenMode::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs.open(path, OpenMode::CreateNew)?,
        other => other?,
    };
    handle.pwrite(&encode_chunk(file, run), handle.len()?)
}

/// Writes an index file anew: `run`, which covers the segment from its start, then what the old file held
/// behind it. Beside the old one and renamed, so that a reader never sees half of it; a chunk the back half
/// appends in this very moment may be lost, which costs the next reader a scan.
pub(crate) fn rewrite(fs: &dyn Fs, path: &Path, file: u64, run: &SlotRun) -> io::Result<()> {
    let mut out = encode_chunk(file, run);
    let old = read_whole(fs, path).unwrap_or_default();
    let mut input = &old[..];
    while let Some(chunk) = decode_chunk(&mut input, file) {
        if chunk.to > run.to {
            out.extend_from_slice(&encode_chunk(file, &chunk));
        }
    }
    let new = path.with_extension("index.new");
    match fs.unlink(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs.open(&new, OpenMode::CreateNew)?.pwrite(&out, 0)?;
    fs.rename(&new, path)
}

fn encode_chunk(file: u64, run: &SlotRun) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHUNK_HEADER + run.slots.len() * SLOT_LEN);
    out.put_slice(&INDEX_MAGIC);
    out.put_u16_le(INDEX_VERSION);
    out.put_u16_le(0);
    out.put_u64_le(file);
    out.put_u64_le(run.from);
    out.put_u64_le(run.to);
    out.put_u32_le(u32::try_from(run.slots.len()).expect("slots of one file fit"));
    out.put_u32_le(0);
    for slot in &run.slots {
        out.put_u64_le(slot.index.0);
        out.put_i64_le(slot.base_offset.0);
        out.put_u64_le(slot.byte);
        out.put_i64_le(slot.max_before);
    }
    let crc = chunk_crc(&out);
    out[36..40].copy_from_slice(&crc.to_le_bytes());
    out
}

fn chunk_crc(chunk: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chunk[..36]);
    hasher.update(&chunk[CHUNK_HEADER..]);
    hasher.finalize()
}

/// Reads one chunk; None if it is bad, of another file or newer.
pub(crate) fn decode_chunk(input: &mut &[u8], file: u64) -> Option<SlotRun> {
    let whole = *input;
    let mut at = whole;
    if get_slice(&mut at, 4)? != INDEX_MAGIC || get_u16(&mut at)? != INDEX_VERSION {
        return None;
    }
    get_u16(&mut at)?;
    let (number, from, to) = (get_u64(&mut at)?, get_u64(&mut at)?, get_u64(&mut at)?);
    let count = get_u32(&mut at)? as usize;
    let crc = get_u32(&mut at)?;
    let len = CHUNK_HEADER.checked_add(count.checked_mul(SLOT_LEN)?)?;
    if number != file || len > whole.len() || chunk_crc(&whole[..len]) != crc {
        return None;
    }
    let mut slots = Vec::with_capacity(count);
    for _ in 0..count {
        slots.push(Slot {
            index: Index(get_u64(&mut at)?),
            base_offset: Offset(get_i64(&mut at)?),
            byte: get_u64(&mut at)?,
            max_before: get_i64(&mut at)?,
        });
    }
    *input = &whole[len..];
    Some(SlotRun { from, to, slots })
}

/// Reads as much of an index file as is sound and without gaps, from the start of the segment on.
pub(crate) fn load(fs: &dyn Fs, path: &Path, file: u64, start: u64) -> SlotRun {
    let mut all = SlotRun { from: start, to: start, slots: Vec::new() };
    let Ok(bytes) = read_whole(fs, path) else {
        return all;
    };
    let mut input = &bytes[..];
    while let Some(run) = decode_chunk(&mut input, file) {
        let ordered = run.slots.windows(2).all(|w| w[0].byte < w[1].byte && w[0].index < w[1].index);
        if run.from > all.to || run.to < all.to || !ordered {
            break;
        }
        let covered = all.to;
        all.slots.extend(run.slots.into_iter().filter(|s| s.byte >= covered));
        all.to = run.to;
    }
    all
}

/// Reads a small file as a whole.
pub(crate) fn read_whole(fs: &dyn Fs, path: &Path) -> io::Result<Vec<u8>> {
    let handle = fs.open(path, OpenMode::Read)?;
    let len = usize::try_from(handle.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    let n = handle.pread(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// One epoch of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TermSpan {
    pub epoch: Epoch,
    /// Its first entry in the log.
    pub first: Index,
    /// First and last Records entry (bounds after a truncation or a moved log start), if any.
    pub records: Option<(Index, Index)>,
    /// Offset after its last entry.
    pub end: Offset,
}

/// The term (leader epoch) index of a group: one span per epoch, ascending. Small, kept in the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermIndex(pub Vec<TermSpan>);

impl TermIndex {
    pub(crate) fn push(&mut self, meta: &EntryMeta) {
        self.drop_hollow(meta.id.index);
        if self.0.last().is_none_or(|span| span.epoch != meta.id.epoch) {
            let end = meta.base_offset;
            self.0.push(TermSpan { epoch: meta.id.epoch, first: meta.id.index, records: None, end });
        }
        let span = self.0.last_mut().expect("just pushed");
        span.end = meta.next_offset();
        if meta.kind == EntryKind::Records {
            span.records = Some((span.records.map_or(meta.id.index, |r| r.0), meta.id.index));
        }
    }

    /// A span whose entries have all gone (a log start at the end of the log) gives way to the next one.
    fn drop_hollow(&mut self, next: Index) {
        if self.0.last().is_some_and(|span| span.first >= next) {
            self.0.pop();
        }
    }

    /// Takes an extent of which only the starts of its terms are known.
    pub(crate) fn push_extent(&mut self, terms: &[(Epoch, Index)], last: Index, before: Offset, end: Offset) {
        if let Some((_, first)) = terms.first() {
            self.drop_hollow(*first);
        }
        for (i, (epoch, first)) in terms.iter().enumerate() {
            if self.0.last().is_none_or(|span| span.epoch != *epoch) {
                self.0.push(TermSpan { epoch: *epoch, first: *first, records: None, end: before });
            }
            let span = self.0.last_mut().expect("just pushed");
            let until = terms.get(i + 1).map_or(last, |next| next.1.prev());
            span.records = Some((span.records.map_or(*first, |r| r.0), until));
            span.end = end;
        }
    }

    /// Forgets entries at or above `from`; the log ends at `next_offset` now.
    pub(crate) fn truncate(&mut self, from: Index, next_offset: Offset) {
        self.0.retain(|span| span.first < from);
        if let Some(span) = self.0.last_mut() {
            span.end = next_offset.min(span.end);
            span.records = match span.records {
                Some((first, last)) if first < from => Some((first, last.min(from.prev()))),
                _ => None,
            };
        }
    }

    /// Forgets entries before `first`.
    pub(crate) fn advance(&mut self, first: Index) {
        let gone = self.0.windows(2).take_while(|pair| pair[1].first <= first).count();
        self.0.drain(..gone);
        if let Some(span) = self.0.first_mut() {
            span.first = span.first.max(first);
            span.records = match span.records {
                Some((a, b)) if b >= first => Some((a.max(first), b)),
                _ => None,
            };
        }
    }

    /// Epoch of an entry of the log.
    pub(crate) fn epoch_at(&self, index: Index) -> Option<Epoch> {
        let after = self.0.partition_point(|span| span.first <= index);
        self.0.get(after.checked_sub(1)?).map(|span| span.epoch)
    }

    /// First index of every epoch; without those that hold no entry any more.
    pub(crate) fn epochs(&self, last: Index) -> Vec<(Epoch, Index)> {
        self.0.iter().filter(|s| s.first <= last).map(|s| (s.epoch, s.first)).collect()
    }

    /// Largest epoch with a term at or below `term` that has records, and the offset after them (KIP-101).
    pub(crate) fn end_of(&self, term: Term) -> Option<(Epoch, Offset)> {
        let found = self.0.iter().rev().find(|s| s.epoch.term <= term && s.records.is_some())?;
        Some((found.epoch, found.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::fs::sim::SimFs;
    use std::path::PathBuf;

    fn slot(n: u64) -> Slot {
        Slot { index: Index(n), base_offset: Offset(n as i64 * 10), byte: n * 100, max_before: n as i64 * 5 }
    }

    #[test]
    fn chunks_load_up_to_the_first_bad_byte() {
        let fs = SimFs::new(1);
        let path = PathBuf::from("/f.idx");
        for i in 0..3 {
            let run =
                SlotRun { from: i * 1000, to: i * 1000 + 1000, slots: vec![slot(i * 10), slot(i * 10 + 5)] };
            append_chunk(&fs, &path, 7, &run).expect("written");
        }
        assert_eq!(load(&fs, &path, 7, 0).slots.len(), 6);
        assert_eq!(load(&fs, &path, 7, 0).to, 3000);
        assert_eq!(load(&fs, &path, 8, 0).slots.len(), 0);
        let len = fs.read(&path).expect("there").len() as u64;
        for at in 0..len {
            fs.flip(&path, at, 1);
            let good = at / (len / 3);
            assert_eq!(load(&fs, &path, 7, 0).to, good * 1000, "byte {at}");
            fs.flip(&path, at, 1);
        }
    }

    #[test]
    fn lookup_finds_the_last_slot_at_or_before() {
        let mut index = SparseIndex::starting_at(64);
        for n in 1..50 {
            index.offer(200, slot(n));
        }
        assert_eq!(index.slots.len(), 25);
        assert_eq!(index.by_index(Index(6)).map(|s| s.index.0), Some(5));
        assert_eq!(index.by_offset(Offset(9)), None);
        assert_eq!(index.by_timestamp(16).map(|s| s.index.0), Some(3));
        index.cut(500);
        assert_eq!(index.slots.len(), 2);
    }

    fn meta(term: u64, index: u64, kind: EntryKind, base: i64, span: u32) -> EntryMeta {
        EntryMeta {
            id: LogId::new(0, term, index),
            prev: Epoch::default(),
            kind,
            base_offset: Offset(base),
            offset_span: span,
            payload_len: 0,
        }
    }

    #[test]
    fn epoch_end_skips_epochs_without_records() {
        let mut terms = TermIndex::default();
        terms.push(&meta(1, 1, EntryKind::Noop, 0, 0));
        terms.push(&meta(1, 2, EntryKind::Records, 0, 5));
        terms.push(&meta(2, 3, EntryKind::Noop, 5, 0));
        terms.push(&meta(4, 4, EntryKind::Noop, 5, 0));
        terms.push(&meta(4, 5, EntryKind::Records, 5, 2));
        assert_eq!(terms.end_of(Term(0)), None);
        assert_eq!(terms.end_of(Term(3)), Some((Epoch::new(0, 1), Offset(5))));
        assert_eq!(terms.end_of(Term(9)), Some((Epoch::new(0, 4), Offset(7))));
        terms.truncate(Index(5), Offset(5));
        assert_eq!(terms.end_of(Term(9)), Some((Epoch::new(0, 1), Offset(5))));
        terms.advance(Index(3));
        assert_eq!(terms.epochs(Index(4)), vec![(Epoch::new(0, 2), Index(3)), (Epoch::new(0, 4), Index(4))]);
        assert_eq!(terms.end_of(Term(9)), None);
    }
}
