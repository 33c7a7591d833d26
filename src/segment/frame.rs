//! The entry frame: the 80-byte header in front of every entry, in a segment and inside a journal record
//! alike. Byte by byte in docs/disk-format.md. Not here: files, positions, recovery.
//!
//! * The CRC-32 covers the whole frame except itself, so it vouches for group, epoch, index, predecessor
//!   and offsets as much as for the payload: a misdirected but intact frame is still recognised.
//! * A frame never looks like zeros (magic), so preallocated space reads as the end of the log.
//! * A frame is one entry, or a gap (`gap`): several entries of which nothing but their places is left.

use super::gap;
use super::types::*;
use crc32fast::Hasher;

/// Bytes of the frame header.
pub const FRAME_HEADER: usize = 80;
/// First four bytes of every frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"KENT";
/// Version of the frame layout.
pub(crate) const FRAME_VERSION: u8 = 1;
/// Kind of a frame that stands for several entries; no entry has it.
const GAP_KIND: u8 = 8;

/// Bytes of the frame that holds this payload.
pub(crate) fn frame_len(payload_len: u32) -> u64 {
    FRAME_HEADER as u64 + u64::from(payload_len)
}

/// Header of the frame of `payload`, CRC included.
pub(crate) fn encode_header(group: GroupId, meta: &EntryMeta, payload: &[u8]) -> [u8; FRAME_HEADER] {
    encode(group, meta, (meta.kind as u8, 1), payload)
}

/// Header of a gap frame: `meta` is its first entry, but for the span, which is that of all, and the payload, which says the span of each.
pub(crate) fn encode_gap_header(
    group: GroupId,
    meta: &EntryMeta,
    entries: u32,
    payload: &[u8],
) -> [u8; FRAME_HEADER] {
    encode(group, meta, (GAP_KIND, entries), payload)
}

fn encode(
    group: GroupId,
    meta: &EntryMeta,
    (kind, entries): (u8, u32),
    payload: &[u8],
) -> [u8; FRAME_HEADER] {
    assert_eq!(meta.payload_len as usize, payload.len(), "payload length of entry {}", meta.id);
    let length = u32::try_from(frame_len(meta.payload_len)).expect("a frame is below 4 GiB");
    let mut h = [0u8; FRAME_HEADER];
    h[0..4].copy_from_slice(&FRAME_MAGIC);
    h[4] = FRAME_VERSION;
    h[5] = kind;
    h[8..12].copy_from_slice(&length.to_le_bytes());
    h[16..24].copy_from_slice(&group.0.to_le_bytes());
    h[24..32].copy_from_slice(&meta.id.epoch.generation.0.to_le_bytes());
    h[32..40].copy_from_slice(&meta.id.epoch.term.0.to_le_bytes());
    h[40..48].copy_from_slice(&meta.id.index.0.to_le_bytes());
    h[48..56].copy_from_slice(&meta.prev.generation.0.to_le_bytes());
    h[56..64].copy_from_slice(&meta.prev.term.0.to_le_bytes());
    h[64..72].copy_from_slice(&meta.base_offset.0.to_le_bytes());
    h[72..76].copy_from_slice(&meta.offset_span.to_le_bytes());
    h[76..80].copy_from_slice(&entries.to_le_bytes());
    let crc = frame_crc(&h, payload);
    h[12..16].copy_from_slice(&crc.to_le_bytes());
    h
}

fn frame_crc(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&header[0..12]);
    hasher.update(&header[16..FRAME_HEADER]);
    hasher.update(payload);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a frame header says: one entry, or the entries of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The entry. Of a gap the first one, but with the offset span of all, and the payload of the frame.
    pub meta: EntryMeta,
    /// Entries in the frame.
    pub entries: u32,
    /// Whether it is a gap, of one entry or more.
    pub is_gap: bool,
}

impl Head {
    /// Bytes of the frame.
    pub(crate) fn len(&self) -> u64 {
        frame_len(self.meta.payload_len)
    }
    /// Index of its first entry.
    pub(crate) fn first(&self) -> Index {
        self.meta.id.index
    }
    /// Its last entry: all are of one epoch.
    pub(crate) fn last(&self) -> LogId {
        let index = Index(self.meta.id.index.0 + u64::from(self.entries) - 1);
        LogId { index, ..self.meta.id }
    }
    /// Offset after its last entry.
    pub(crate) fn next_offset(&self) -> Offset {
        self.meta.next_offset()
    }
}

/// Reads the header of one entry that should be one of `group`. Says only what can be said without the payload: the
/// caller checks the CRC with [`check`] before it trusts or serves anything.
pub(crate) fn decode_header(bytes: &[u8], group: GroupId) -> Result<EntryMeta, &'static str> {
    let head = decode_head(bytes, group)?;
    if head.is_gap { Err("a gap where an entry must be") } else { Ok(head.meta) }
}

/// As [`decode_header`], of a frame in a segment, which may be a gap.
pub(crate) fn decode_head(bytes: &[u8], group: GroupId) -> Result<Head, &'static str> {
    if bytes.len() < FRAME_HEADER {
        return Err("frame header is cut short");
    }
    if bytes[0..4] != FRAME_MAGIC {
        return Err("no frame magic");
    }
    if bytes[4] != FRAME_VERSION {
        return Err("frame version is not 1");
    }
    let is_gap = bytes[5] == GAP_KIND;
    // What of a gap is which kind its entries say.
    let kind = if is_gap { Some(EntryKind::Records) } else { EntryKind::from_code(bytes[5]) };
    let kind = kind.ok_or("unknown entry kind")?;
    let length = u32_at(bytes, 8);
    if (length as usize) < FRAME_HEADER {
        return Err("frame length is below its header");
    }
    if u64_at(bytes, 16) != group.0 {
        return Err("frame of another group");
    }
    let (entries, payload_len) = (u32_at(bytes, 76), length - FRAME_HEADER as u32);
    if !is_gap && entries != 1 {
        return Err("index span is not 1");
    }
    let index = u64_at(bytes, 40);
    if is_gap && (!gap::is_plausible(entries, payload_len) || index.checked_add(u64::from(entries)).is_none())
    {
        return Err("a gap of an impossible size");
    }
    let offset_span = u32_at(bytes, 72);
    let base_offset = u64_at(bytes, 64) as i64;
    if base_offset < 0 || base_offset.checked_add(i64::from(offset_span)).is_none() {
        return Err("base offset out of range");
    }
    let meta = EntryMeta {
        id: LogId::new(u64_at(bytes, 24), u64_at(bytes, 32), index),
        prev: Epoch::new(u64_at(bytes, 48), u64_at(bytes, 56)),
        kind,
        base_offset: Offset(base_offset),
        offset_span,
        payload_len,
    };
    Ok(Head { meta, entries, is_gap })
}

/// Whether the CRC of a whole frame (header and payload, nothing behind it) holds.
pub(crate) fn check(frame: &[u8]) -> bool {
    frame.len() >= FRAME_HEADER
        && u32_at(frame, 8) as usize == frame.len()
        && frame_crc(&frame[..FRAME_HEADER], &frame[FRAME_HEADER..]) == u32_at(frame, 12)
}

/// Reads and fully checks the frame at the start of `bytes`.
pub(crate) fn decode(bytes: &[u8], group: GroupId) -> Result<EntryMeta, &'static str> {
    let meta = decode_header(bytes, group)?;
    let length = frame_len(meta.payload_len) as usize;
    if length > bytes.len() {
        return Err("frame is cut short");
    }
    if !check(&bytes[..length]) {
        return Err("frame CRC does not match");
    }
    Ok(meta)
}

/// Largest timestamp of a record batch, -1 for anything else and for a header of which compaction left no record. Peeks into the batch
/// header (`maxTimestamp` and the record count, big-endian at bytes 35 and 57 of a v2 batch, KIP-98) instead of decoding it.
pub(crate) fn max_timestamp(kind: EntryKind, payload: &[u8]) -> i64 {
    const AT: usize = 35;
    const COUNT_AT: usize = 57;
    const BATCH_HEADER: usize = 61;
    let is_batch = kind == EntryKind::Records && payload.len() >= BATCH_HEADER;
    if !is_batch || payload[COUNT_AT..COUNT_AT + 4] == [0; 4] {
        return -1;
    }
    i64::from_be_bytes(payload[AT..AT + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (EntryMeta, Vec<u8>) {
        let payload = vec![7u8; 100];
        let meta = EntryMeta {
            id: LogId::new(1, 4, 9),
            prev: Epoch::new(1, 3),
            kind: EntryKind::Records,
            base_offset: Offset(55),
            offset_span: 3,
            payload_len: 100,
        };
        (meta, payload)
    }

    #[test]
    fn frame_round_trips() {
        let (meta, payload) = sample();
        let mut frame = encode_header(GroupId(8), &meta, &payload).to_vec();
        frame.extend_from_slice(&payload);
        assert_eq!(decode(&frame, GroupId(8)), Ok(meta));
        assert_eq!(decode(&frame, GroupId(9)), Err("frame of another group"));
        assert_eq!(decode(&frame[..150], GroupId(8)), Err("frame is cut short"));
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let (meta, payload) = sample();
        let mut frame = encode_header(GroupId(8), &meta, &payload).to_vec();
        frame.extend_from_slice(&payload);
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&frame, GroupId(8)).is_err(), "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_eq!(decode(&[0; 4096], GroupId(0)), Err("no frame magic"));
    }
}
