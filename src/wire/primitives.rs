//! The protocol's primitive types: a checked reader over a slice and writers into a growing buffer.
//!
//! Not a codec of messages. Called by `frame`, `bounds`, `produce`, `fetch`, `batch` and `record`.
//!
//! Invariants:
//! - A reader never reads beyond its slice and never panics; every refusal names what was being read.
//! - Varints are read strictly: at most 5 (10) bytes, no bits beyond 32 (64). The codec crate is laxer and wraps, so
//!   whatever passes here means the same there.
use super::frame::FrameError;
use bytes::{BufMut, BytesMut};

/// Longest string the protocol allows, compact or not.
pub(crate) const MAX_STRING: usize = i16::MAX as usize;

/// Reads primitives off a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(FrameError::Malformed("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FrameError::Malformed("ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn int16(&mut self) -> Result<i16, FrameError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn int32(&mut self) -> Result<i32, FrameError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, FrameError> {
        let (value, used) = unsigned_varint(self.rest).ok_or(FrameError::Malformed("bad varint"))?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    /// Length of a string: `None` = null.
    pub(crate) fn string_length(&mut self, flexible: bool) -> Result<Option<usize>, FrameError> {
        let length = if flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(self.int16()?) };
        match length {
            -1 => Ok(None),
            0.. if length <= MAX_STRING as i64 => Ok(Some(length as usize)),
            _ => Err(FrameError::Malformed("string length out of range")),
        }
    }

    /// Length of a byte string: `None` = null.
    pub(crate) fn bytes_length(&mut self, flexible: bool) -> Result<Option<usize>, FrameError> {
        let length = if flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(self.int32()?) };
        match length {
            -1 => Ok(None),
            0.. => Ok(Some(length as usize)),
            _ => Err(FrameError::Malformed("negative length")),
        }
    }

    /// Element count of an array, refused if `count` elements of `min_size` bytes cannot fit in what is left.
    pub(crate) fn count(&mut self, flexible: bool, min_size: usize) -> Result<Option<usize>, FrameError> {
        let count = if flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(self.int32()?) };
        let remaining = self.remaining();
        match count {
            -1 => Ok(None),
            0.. if (count as usize).saturating_mul(min_size.max(1)) <= remaining => Ok(Some(count as usize)),
            _ => Err(FrameError::Count { count, remaining }),
        }
    }

    /// A string, UTF-8 checked: `None` = null.
    pub(crate) fn string(&mut self, flexible: bool) -> Result<Option<&'a str>, FrameError> {
        let Some(length) = self.string_length(flexible)? else { return Ok(None) };
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| FrameError::Malformed("string is not utf-8"))
    }

    /// Skips a tag buffer without looking into it.
    pub(crate) fn skip_tags(&mut self) -> Result<(), FrameError> {
        let count = self.tag_count()?;
        for _ in 0..count {
            self.unsigned_varint()?;
            let size = self.unsigned_varint()?;
            self.take(size as usize)?;
        }
        Ok(())
    }

    /// Number of tagged fields; each takes two bytes at least.
    pub(crate) fn tag_count(&mut self) -> Result<usize, FrameError> {
        let count = self.unsigned_varint()?;
        let remaining = self.remaining();
        if count as usize > remaining / 2 {
            return Err(FrameError::Count { count: i64::from(count), remaining });
        }
        Ok(count as usize)
    }
}

/// Value and bytes used of an unsigned varint at the start of `bytes`; `None` if cut short or beyond 32 bits.
pub(crate) fn unsigned_varint(bytes: &[u8]) -> Option<(u32, usize)> {
    let (value, used) = unsigned_varlong(&bytes[..bytes.len().min(5)])?;
    Some((u32::try_from(value).ok()?, used))
}

/// Value and bytes used of an unsigned varlong at the start of `bytes`; `None` if cut short or beyond 64 bits.
pub(crate) fn unsigned_varlong(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        if at == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (at * 7);
        if byte < 0x80 {
            return Some((value, at + 1));
        }
    }
    None
}

pub(crate) fn put_unsigned_varint(out: &mut BytesMut, value: u32) {
    put_unsigned_varlong(out, u64::from(value));
}

pub(crate) fn put_unsigned_varlong(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Bytes an unsigned varint or varlong takes.
pub(crate) fn unsigned_varlong_size(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Zigzag: small absolute values become small unsigned ones.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Back from [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A string, cut at a character boundary where the protocol could not carry it.
pub(crate) fn put_string(out: &mut BytesMut, value: Option<&str>, flexible: bool) {
    let value = value.map(cut_to_max);
    match (value, flexible) {
        (Some(text), true) => put_unsigned_varint(out, text.len() as u32 + 1),
        (Some(text), false) => out.put_i16(text.len() as i16),
        (None, true) => out.put_u8(0),
        (None, false) => out.put_i16(-1),
    }
    out.put_slice(value.unwrap_or_default().as_bytes());
}

fn cut_to_max(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Element count of an array that is not null.
pub(crate) fn put_count(out: &mut BytesMut, count: usize, flexible: bool) {
    let count = u32::try_from(count)
        .expect("an array in memory that is written to one frame has fewer than 2^31 elements");
    if flexible {
        put_unsigned_varint(out, count + 1);
    } else {
        out.put_i32(count as i32);
    }
}

/// The empty tag buffer that ends every flexible struct.
pub(crate) fn put_no_tags(out: &mut BytesMut, flexible: bool) {
    if flexible {
        out.put_u8(0);
    }
}

/// One tagged field whose size is known.
pub(crate) fn put_tag(out: &mut BytesMut, tag: u32, size: usize) {
    put_unsigned_varint(out, tag);
    put_unsigned_varint(out, size as u32);
}

/// Node endpoints of KIP-951 as tagged field 0: (node id, host, port, rack).
pub(crate) fn put_endpoints(out: &mut BytesMut, endpoints: &[(i32, String, i32, Option<String>)]) {
    let mut field = BytesMut::new();
    put_count(&mut field, endpoints.len(), true);
    for (node_id, host, port, rack) in endpoints {
        field.put_i32(*node_id);
        put_string(&mut field, Some(host), true);
        field.put_i32(*port);
        put_string(&mut field, rack.as_deref(), true);
        put_no_tags(&mut field, true);
    }
    put_tag(out, 0, field.len());
    out.put_slice(&field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_round_trips_at_every_width() {
        for value in (0..32).flat_map(|bit| [(1u32 << bit) - 1, 1 << bit]).chain([u32::MAX]) {
            let mut out = BytesMut::new();
            put_unsigned_varint(&mut out, value);
            assert_eq!(unsigned_varint(&out), Some((value, out.len())));
        }
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut out = BytesMut::new();
            put_unsigned_varlong(&mut out, value);
            assert_eq!(unsigned_varlong(&out), Some((value, out.len())));
            assert_eq!(unsigned_varlong_size(value), out.len(), "{value}");
        }
        for value in [0, -1, 1, -2, 300, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!((zigzag(0), zigzag(-1), zigzag(1), zigzag(i64::MIN)), (0, 1, 2, u64::MAX));
    }

    #[test]
    fn varint_cut_short_or_overlong_is_refused() {
        assert_eq!(unsigned_varint(&[]), None);
        assert_eq!(unsigned_varint(&[0x80; 4]), None);
        assert_eq!(unsigned_varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
        assert_eq!(unsigned_varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), None);
        assert_eq!(unsigned_varlong(&[0xff; 10]), None);
        assert_eq!(unsigned_varlong(&[0x80; 11]), None);
    }

    #[test]
    fn long_string_is_cut_at_a_character_boundary() {
        let text = "ä".repeat(20_000);
        for flexible in [false, true] {
            let mut out = BytesMut::new();
            put_string(&mut out, Some(&text), flexible);
            let read = Reader::new(&out).string(flexible).unwrap().unwrap();
            assert_eq!(read.len(), MAX_STRING - 1);
        }
    }
}
