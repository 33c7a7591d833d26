//! The gap frame: what stands in a segment for consecutive entries of one epoch of which compaction has left nothing. Byte by byte in
//! docs/disk-format.md. Not here: which entries those are (the caller of a rewrite), files (`segment_file`).
//!
//! * It says the offset span of each of its entries, so index and base offset of every one are exact (safety.md F14), and a log can be
//!   cut between any two of them.
//! * Whoever walks a log sees the entries themselves: Records without a payload, or Noops (those span no offset).
//! * A gap is parsed once per frame, CRC first: what it holds is what its walk goes on with.

use super::frame::{self, FRAME_HEADER, Head};
use super::types::*;
use bytes::BufMut;

/// Most entries in one gap frame: bounds what one frame expands to.
pub(crate) const GAP_ENTRIES: u32 = 4096;
/// Bytes of the longest span.
const SPAN_MAX: u32 = 5;

/// A gap on its way to a frame.
pub(crate) struct Gap {
    first: EntryMeta,
    last: LogId,
    spans: Vec<u32>,
    /// Offsets of all entries.
    offsets: u32,
}

impl Gap {
    /// One that begins with this entry.
    pub(crate) fn new(first: EntryMeta) -> Self {
        Self { first, last: first.id, spans: vec![first.offset_span], offsets: first.offset_span }
    }

    /// Takes the next entry; false if that has to begin another gap.
    pub(crate) fn take(&mut self, meta: &EntryMeta) -> bool {
        let Some(offsets) = self.offsets.checked_add(meta.offset_span) else { return false };
        let fits = meta.id.epoch == self.last.epoch
            && meta.predecessor() == self.last
            && (self.spans.len() as u32) < GAP_ENTRIES;
        if fits {
            self.offsets = offsets;
            self.last = meta.id;
            self.spans.push(meta.offset_span);
        }
        fits
    }

    /// The frame.
    pub(crate) fn encode(&self, group: GroupId) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.spans.len() * 2);
        self.spans.iter().for_each(|span| put_span(&mut payload, *span));
        let payload_len = u32::try_from(payload.len()).expect("a gap is bounded");
        let meta = EntryMeta { offset_span: self.offsets, payload_len, ..self.first };
        let mut out = frame::encode_gap_header(group, &meta, self.spans.len() as u32, &payload).to_vec();
        out.extend_from_slice(&payload);
        out
    }

    /// What the frame is found by.
    pub(crate) fn first(&self) -> &EntryMeta {
        &self.first
    }
}

/// Whether an entry can be part of a gap: nothing of it is left but its place.
pub(crate) fn is_hollow(meta: &EntryMeta) -> bool {
    meta.payload_len == 0
        && match meta.kind {
            EntryKind::Records => meta.offset_span > 0,
            EntryKind::Noop => meta.offset_span == 0,
            _ => false,
        }
}

/// The entries of a gap, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    next: EntryMeta,
    spans: Vec<u32>,
    at: usize,
}

impl Entries {
    /// Those of a whole frame; its CRC is checked here.
    pub(crate) fn parse(head: &Head, bytes: &[u8]) -> Result<Self, &'static str> {
        if !frame::check(bytes) {
            return Err("frame CRC does not match");
        }
        let mut payload = &bytes[FRAME_HEADER..];
        // Bounded by the payload: a span takes a byte at least.
        let mut spans = Vec::with_capacity((head.entries as usize).min(payload.len()));
        let mut offsets = 0u64;
        for _ in 0..head.entries {
            let span = get_span(&mut payload).ok_or("spans of a gap do not parse")?;
            offsets += u64::from(span);
            spans.push(span);
        }
        if !payload.is_empty() || offsets != u64::from(head.meta.offset_span) {
            return Err("spans of a gap do not add up");
        }
        Ok(Self { next: EntryMeta { payload_len: 0, ..head.meta }, spans, at: 0 })
    }

    /// Index of the next entry, if there is one.
    pub(crate) fn peek(&self) -> Option<Index> {
        (self.at < self.spans.len()).then_some(self.next.id.index)
    }

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.spans.len() - self.at
    }
}

impl Iterator for Entries {
    type Item = EntryMeta;

    fn next(&mut self) -> Option<EntryMeta> {
        let offset_span = *self.spans.get(self.at)?;
        self.at += 1;
        let kind = if offset_span == 0 { EntryKind::Noop } else { EntryKind::Records };
        let meta = EntryMeta { kind, offset_span, ..self.next };
        self.next = EntryMeta {
            id: LogId { epoch: meta.id.epoch, index: meta.id.index.next() },
            prev: meta.id.epoch,
            base_offset: meta.next_offset(),
            ..meta
        };
        Some(meta)
    }
}

/// Whether a payload of this length can hold the spans of so many entries.
pub(crate) fn is_plausible(entries: u32, payload_len: u32) -> bool {
    (1..=GAP_ENTRIES).contains(&entries) && (entries..=entries * SPAN_MAX).contains(&payload_len)
}

fn put_span(out: &mut Vec<u8>, mut span: u32) {
    while span >= 0x80 {
        out.put_u8(span as u8 | 0x80);
        span >>= 7;
    }
    out.put_u8(span as u8);
}

fn get_span(input: &mut &[u8]) -> Option<u32> {
    let mut span = 0u64;
    for shift in 0..SPAN_MAX {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        span |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return u32::try_from(span).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(3);

    fn hollow(index: u64, base: i64, span: u32) -> EntryMeta {
        EntryMeta {
            id: LogId::new(1, 4, index),
            prev: Epoch::new(1, if index == 9 { 2 } else { 4 }),
            kind: if span == 0 { EntryKind::Noop } else { EntryKind::Records },
            base_offset: Offset(base),
            offset_span: span,
            payload_len: 0,
        }
    }

    fn gap(spans: &[u32]) -> (Vec<EntryMeta>, Vec<u8>) {
        let mut metas: Vec<EntryMeta> = Vec::new();
        let mut gap: Option<Gap> = None;
        for (i, span) in spans.iter().enumerate() {
            let meta = hollow(9 + i as u64, metas.last().map_or(100, |m| m.next_offset().0), *span);
            match &mut gap {
                None => gap = Some(Gap::new(meta)),
                Some(gap) => assert!(gap.take(&meta)),
            }
            metas.push(meta);
        }
        (metas, gap.expect("spans").encode(G))
    }

    fn parse(frame: &[u8]) -> Result<Vec<EntryMeta>, &'static str> {
        let head = frame::decode_head(frame, G)?;
        if head.len() != frame.len() as u64 {
            return Err("another length");
        }
        Entries::parse(&head, frame).map(Iterator::collect)
    }

    #[test]
    fn gap_expands_to_the_entries_it_was_made_of() {
        for spans in [&[1u32][..], &[0, 1, 127, 128, 16_384, 0, 3], &[u32::MAX - 5, 5], &[7; 4096]] {
            let (metas, frame) = gap(spans);
            assert_eq!(parse(&frame), Ok(metas.clone()));
            let head = frame::decode_head(&frame, G).expect("sound");
            assert_eq!((head.first(), head.last()), (Index(9), metas.last().expect("some").id));
            assert_eq!(head.next_offset(), metas.last().expect("some").next_offset());
            assert!(frame::decode_header(&frame, G).is_err(), "a gap is no entry");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_gap_is_noticed() {
        let (_, mut frame) = gap(&[0, 1, 300, 2]);
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&frame).is_err(), "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn gap_takes_no_other_epoch_no_hole_no_overflow_and_no_more_than_its_bound() {
        let mut gap = Gap::new(hollow(9, 100, 1));
        assert!(!gap.take(&hollow(11, 101, 1)), "a hole");
        assert!(!gap.take(&hollow(10, 101, u32::MAX)), "offsets overflow");
        let other = EntryMeta { id: LogId::new(1, 5, 10), ..hollow(10, 101, 1) };
        assert!(!gap.take(&other), "an epoch");
        for i in 1..u64::from(GAP_ENTRIES) {
            assert!(gap.take(&hollow(9 + i, 100 + i as i64, 1)));
        }
        let next = 9 + u64::from(GAP_ENTRIES);
        assert!(!gap.take(&hollow(next, 91 + next as i64, 1)), "full");
    }

    /// A frame with a good CRC whose spans say something else than its header.
    #[test]
    fn gap_that_contradicts_itself_is_refused() {
        let first = hollow(9, 100, 1);
        let of = |meta: EntryMeta, entries: u32, payload: &[u8]| {
            let meta = EntryMeta { payload_len: payload.len() as u32, ..meta };
            let mut frame = frame::encode_gap_header(G, &meta, entries, payload).to_vec();
            frame.extend_from_slice(payload);
            frame
        };
        let three = EntryMeta { offset_span: 3, ..first };
        assert!(parse(&of(three, 2, &[1, 2])).is_ok());
        assert!(parse(&of(three, 2, &[1, 1])).is_err(), "the sum");
        assert!(parse(&of(three, 2, &[1, 2, 0])).is_err(), "too many");
        assert!(parse(&of(three, 3, &[1, 2])).is_err(), "too few");
        assert!(parse(&of(three, 0, &[])).is_err(), "none");
        assert!(parse(&of(three, 1, &[0x83, 0x80, 0x80, 0x80, 0x10])).is_err(), "beyond 32 bits");
        assert!(parse(&of(EntryMeta { base_offset: Offset(i64::MAX), ..three }, 2, &[1, 2])).is_err());
        let last = EntryMeta { id: LogId::new(1, 4, u64::MAX), ..three };
        assert!(parse(&of(last, 2, &[1, 2])).is_err(), "index");
    }
}
