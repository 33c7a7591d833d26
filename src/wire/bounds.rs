//! Walks a request body once against a compact shape table before the codec sees it.
//!
//! Not a decoder: nothing is kept. The codec crate reserves memory for as many array elements as the wire claims, before
//! it reads one; so no body may reach it unless this walk has passed. Called once per request by the dispatch.
//!
//! What a body that passes is worth:
//! - every count fits the bytes that were left, every length too, nulls stand only where the schema allows them, strings
//!   are UTF-8 and at most 32,767 bytes, tagged fields known to us have exactly their size;
//! - decoding it succeeds and allocates at most [`memory_limit`] bytes; bytes after the body's end are never looked at;
//! - the walk itself allocates nothing, and is linear in the number of elements (records are skipped, not read).
use super::frame::FrameError;
use super::primitives::Reader;
use super::shapes::{self, Field, Kind, Shape, Tagged};
use super::versions;
use std::mem::size_of;

/// A codec string: a slice of the frame's buffer, no allocation of its own.
const STRING_MEMORY: usize = size_of::<kafka_protocol::protocol::StrBytes>();
/// First unknown tagged field of a struct: one B-tree leaf for eleven of them.
const FIRST_TAG_MEMORY: usize = 512;
/// Each further one: leaves are at least half full.
const TAG_MEMORY: usize = 96;

/// What decoding a body of `length` bytes may allocate: 4 bytes for each, and 12 more for each while that is below
/// 64 MiB, plus 64 KiB. The largest honest requests (thousands of partitions in a Fetch) need less than 3 for each.
pub fn memory_limit(length: usize) -> usize {
    (64 << 10) + length.saturating_mul(4) + length.saturating_mul(12).min(64 << 20)
}

/// Checks every count and length of a body of this key and version against the bytes that remain.
/// Guarantees: decoding it afterwards allocates at most a small multiple of its length. Bytes after the end of the body are allowed.
///
/// # Errors
/// `Unsupported` for what [`versions`] does not serve (an unknown ApiVersions version has to be answered before), else
/// `Malformed`, `Count` or `Memory`.
pub fn check(api_key: i16, api_version: i16, body: &[u8]) -> Result<(), FrameError> {
    let unsupported = FrameError::Unsupported(api_key, api_version);
    if !versions::is_served(api_key, api_version) {
        return Err(unsupported);
    }
    let shape = shapes::of(api_key).ok_or(unsupported)?;
    let mut walk = Walk {
        reader: Reader::new(body),
        version: api_version,
        flexible: versions::is_flexible(api_key, api_version),
        memory: 0,
        limit: memory_limit(body.len()),
    };
    // Bytes after the end are left alone, as in Kafka: librdkafka's Metadata for all topics carries some.
    walk.structure(shape)
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    /// Memory the codec will have allocated when it gets here.
    memory: usize,
    limit: usize,
}

impl Walk<'_> {
    fn structure(&mut self, shape: &Shape) -> Result<(), FrameError> {
        for field in shape.fields {
            if has(field, self.version) {
                self.value(field.kind)?;
            }
        }
        if self.flexible { self.tags(shape.tagged) } else { Ok(()) }
    }

    fn value(&mut self, kind: Kind) -> Result<(), FrameError> {
        match kind {
            Kind::Fixed(size) => self.reader.take(size).map(drop),
            Kind::Str(null_from) => self.string(null_from),
            Kind::Bytes(null_from) => match self.reader.bytes_length(self.flexible)? {
                Some(length) => self.reader.take(length).map(drop),
                None => self.null(null_from),
            },
            Kind::Plain(size, null_from) => match self.reader.count(self.flexible, size)? {
                Some(count) => {
                    self.charge(count, size)?;
                    self.reader.take(count * size).map(drop)
                }
                None => self.null(null_from),
            },
            Kind::Strs(null_from) => {
                let min_size = self.min_size(Kind::Str(null_from));
                let Some(count) = self.reader.count(self.flexible, min_size)? else {
                    return self.null(null_from);
                };
                self.charge(count, STRING_MEMORY)?;
                (0..count).try_for_each(|_| self.string(shapes::NEVER))
            }
            Kind::Structs(shape, null_from) => {
                let min_size = self.min_size(Kind::Struct(shape));
                let Some(count) = self.reader.count(self.flexible, min_size)? else {
                    return self.null(null_from);
                };
                self.charge(count, shape.memory)?;
                (0..count).try_for_each(|_| self.structure(shape))
            }
            Kind::Struct(shape) => self.structure(shape),
            Kind::MaybeStruct(shape) => match self.reader.take(1)? {
                [1] => self.structure(shape),
                [255] => Ok(()),
                _ => Err(FrameError::Malformed("a struct that is neither there nor null")),
            },
        }
    }

    fn string(&mut self, null_from: i16) -> Result<(), FrameError> {
        match self.reader.string(self.flexible)? {
            Some(_) => Ok(()),
            None => self.null(null_from),
        }
    }

    fn null(&self, null_from: i16) -> Result<(), FrameError> {
        if self.version >= null_from {
            Ok(())
        } else {
            Err(FrameError::Malformed("null where none is allowed"))
        }
    }

    fn tags(&mut self, known: &[Tagged]) -> Result<(), FrameError> {
        let count = self.reader.tag_count()?;
        let mut first_unknown = true;
        for _ in 0..count {
            let tag = self.reader.unsigned_varint()?;
            let size = self.reader.unsigned_varint()? as usize;
            let Some(field) = known.iter().find(|field| field.tag == tag) else {
                self.reader.take(size)?;
                self.charge(1, if first_unknown { FIRST_TAG_MEMORY } else { TAG_MEMORY })?;
                first_unknown = false;
                continue;
            };
            if self.version < field.from {
                return Err(FrameError::Malformed("tagged field of a later version"));
            }
            let before = self.reader.remaining();
            self.value(field.kind)?;
            if before - self.reader.remaining() != size {
                return Err(FrameError::Malformed("tagged field has another size than it says"));
            }
        }
        Ok(())
    }

    fn charge(&mut self, count: usize, each: usize) -> Result<(), FrameError> {
        self.memory = self.memory.saturating_add(count.saturating_mul(each));
        if self.memory > self.limit {
            return Err(FrameError::Memory { needed: self.memory, limit: self.limit });
        }
        Ok(())
    }

    /// Fewest bytes a value can take in this version. Recursion is as deep as the table.
    fn min_size(&self, kind: Kind) -> usize {
        match (kind, self.flexible) {
            (Kind::Fixed(size), _) => size,
            (Kind::Struct(shape), flexible) => {
                let fields = shape.fields.iter().filter(|field| has(field, self.version));
                fields.map(|field| self.min_size(field.kind)).sum::<usize>() + usize::from(flexible)
            }
            (_, true) | (Kind::MaybeStruct(_), _) => 1,
            (Kind::Str(_), false) => 2,
            (_, false) => 4,
        }
    }
}

fn has(field: &Field, version: i16) -> bool {
    (field.from..=field.to).contains(&version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{self as samples, body, decode_all};
    use crate::wire::versions::{
        API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, FETCH, METADATA, PRODUCE, supported,
    };
    use bytes::{BufMut, Bytes, BytesMut};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn every_version() -> impl Iterator<Item = (i16, i16)> {
        supported().iter().flat_map(|row| (row.served_min..=row.max).map(|version| (row.key, version)))
    }

    #[test]
    fn requests_made_by_the_codec_pass_in_every_version() {
        let mut rng = StdRng::seed_from_u64(1);
        for (key, version) in every_version() {
            for round in 0..40 {
                let bytes = body(key, version, &mut rng);
                let result = check(key, version, &bytes);
                assert_eq!(result, Ok(()), "key {key} v{version} round {round}: {bytes:?}");
                decode_all(key, version, bytes).unwrap();
            }
        }
    }

    #[test]
    fn request_cut_at_every_byte_is_refused_and_a_longer_one_passes() {
        let mut rng = StdRng::seed_from_u64(2);
        for (key, version) in every_version() {
            for _ in 0..4 {
                let bytes = body(key, version, &mut rng);
                for cut in 0..bytes.len() {
                    assert!(check(key, version, &bytes[..cut]).is_err(), "key {key} v{version} cut at {cut}");
                }
                let mut longer = bytes.to_vec();
                longer.push(0);
                assert!(check(key, version, &longer).is_ok(), "key {key} v{version} with one byte more");
            }
        }
    }

    /// Whatever passes the walk must decode, completely, and without the codec asking for more than the walk reckoned.
    #[test]
    fn mutated_request_that_passes_decodes_completely() {
        let mut rng = StdRng::seed_from_u64(3);
        let (mut passed, mut refused) = (0, 0);
        for (key, version) in every_version() {
            for _ in 0..300 {
                let mut bytes = BytesMut::from(&body(key, version, &mut rng)[..]);
                samples::mutate(&mut bytes, &mut rng);
                if check(key, version, &bytes).is_ok() {
                    passed += 1;
                    decode_all(key, version, bytes.freeze())
                        .unwrap_or_else(|error| panic!("key {key} v{version} passed but: {error}"));
                } else {
                    refused += 1;
                }
            }
        }
        assert!(passed > 1000 && refused > 1000, "{passed} passed, {refused} refused");
    }

    #[test]
    fn random_bytes_never_panic_and_decode_if_they_pass() {
        let mut rng = StdRng::seed_from_u64(4);
        for (key, version) in every_version() {
            for _ in 0..300 {
                let length = rng.random_range(0..64);
                let bytes: Bytes = (0..length).map(|_| samples::nasty_byte(&mut rng)).collect();
                if check(key, version, &bytes).is_ok() {
                    decode_all(key, version, bytes).unwrap();
                }
            }
        }
    }

    #[test]
    fn count_bomb_is_refused() {
        let mut old = BytesMut::new();
        old.put_i32(i32::MAX);
        assert_eq!(
            check(METADATA, 1, &old),
            Err(FrameError::Count { count: i64::from(i32::MAX), remaining: 0 })
        );
        let mut flexible = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0x0f][..]);
        flexible.put_bytes(0, 40);
        assert!(matches!(check(METADATA, 12, &flexible), Err(FrameError::Count { .. })));
        let mut produce = BytesMut::new();
        produce.put_i16(-1);
        produce.put_i16(1);
        produce.put_i32(1000);
        produce.put_i32(1_000_000);
        produce.put_bytes(0, 5_999_999);
        assert!(matches!(check(PRODUCE, 3, &produce), Err(FrameError::Count { .. })));
        let mut negative = BytesMut::new();
        negative.put_i32(-2);
        assert!(matches!(check(METADATA, 1, &negative), Err(FrameError::Count { count: -2, .. })));
    }

    #[test]
    fn count_that_fits_by_elements_but_not_by_minimal_size_is_refused() {
        let mut bytes = BytesMut::new();
        bytes.put_i32(3);
        bytes.put_bytes(0, 5);
        assert_eq!(check(METADATA, 0, &bytes), Err(FrameError::Count { count: 3, remaining: 5 }));
    }

    #[test]
    fn millions_of_tiny_elements_are_refused_by_memory() {
        const COUNT: u32 = 8_000_000;
        let mut bytes = BytesMut::new();
        bytes.put_i32(COUNT as i32);
        bytes.put_bytes(0, COUNT as usize * 2);
        assert!(matches!(check(METADATA, 0, &bytes), Err(FrameError::Memory { .. })));
        let mut names = BytesMut::new();
        names.put_i32(COUNT as i32);
        names.put_bytes(0, COUNT as usize * 2);
        names.put_i32(1000);
        assert!(matches!(check(DELETE_TOPICS, 1, &names), Err(FrameError::Memory { .. })));
    }

    /// The worst body that still passes: what the codec really reserves for it stays within the limit.
    #[test]
    fn largest_request_that_passes_reserves_no_more_than_the_limit() {
        use kafka_protocol::messages::MetadataRequest;
        use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
        use kafka_protocol::protocol::Decodable;
        let bomb = |count: usize| {
            let mut bytes = BytesMut::new();
            bytes.put_i32(count as i32);
            bytes.put_bytes(0, count * 2);
            bytes.freeze()
        };
        let (mut passes, mut fails) = (1, 1 << 22);
        while fails - passes > 1 {
            let count = (passes + fails) / 2;
            if check(METADATA, 0, &bomb(count)).is_ok() { passes = count } else { fails = count }
        }
        let mut bytes = bomb(passes);
        let length = bytes.len();
        let topics = MetadataRequest::decode(&mut bytes, 0).unwrap().topics.unwrap();
        let reserved = topics.capacity() * size_of::<MetadataRequestTopic>();
        assert_eq!(topics.len(), passes);
        assert!(reserved <= memory_limit(length), "{reserved} bytes for {length}");
        assert!(reserved > memory_limit(length) / 2, "the limit is the one that stopped it");
    }

    #[test]
    fn unknown_tags_pass_in_small_numbers_and_are_refused_in_large() {
        let tagged = |topics: u8| {
            let mut bytes = BytesMut::from(&[0x81 + topics, 7][..]);
            bytes.truncate(0);
            bytes.put_u8(topics + 1);
            for _ in 0..topics {
                bytes.put_slice(&[2, b't', 1, 9, 0]);
            }
            bytes.put_slice(&[0, 0, 0, 1, 70, 3, 1, 2, 3]);
            bytes
        };
        let bytes = tagged(3);
        assert_eq!(check(METADATA, 9, &bytes), Ok(()));
        decode_all(METADATA, 9, bytes.freeze()).unwrap();
        let mut many = BytesMut::new();
        crate::wire::primitives::put_unsigned_varint(&mut many, 100_001);
        for _ in 0..100_000 {
            many.put_slice(&[2, b't', 1, 9, 0]);
        }
        many.put_slice(&[0, 0, 0, 0]);
        assert!(matches!(check(METADATA, 9, &many), Err(FrameError::Memory { .. })));
    }

    #[test]
    fn null_is_refused_where_the_schema_has_none() {
        let null = (-1i32).to_be_bytes();
        assert_eq!(check(METADATA, 1, &null), Ok(()));
        assert!(matches!(check(METADATA, 0, &null), Err(FrameError::Malformed(_))));
        assert!(check(CREATE_TOPICS, 2, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0]).is_err());
        assert!(check(API_VERSIONS, 3, &[0, 1, 0]).is_err());
    }

    #[test]
    fn string_that_is_not_utf8_or_too_long_is_refused() {
        assert!(check(API_VERSIONS, 3, &[2, 0xff, 1, 0]).is_err());
        let mut bytes = BytesMut::new();
        crate::wire::primitives::put_unsigned_varint(&mut bytes, 0x8001);
        bytes.put_bytes(b'x', 0x8000);
        bytes.put_slice(&[1, 0]);
        assert!(check(API_VERSIONS, 3, &bytes).is_err());
    }

    #[test]
    fn tagged_field_of_another_size_or_version_is_refused() {
        // Fetch body without topics; the tag buffer follows.
        let head = |version: i16| {
            let mut bytes = BytesMut::new();
            if version <= 14 {
                bytes.put_i32(-1);
            }
            bytes.put_bytes(0, 21);
            bytes.put_slice(&[1, 1, 1]);
            bytes
        };
        let with = |version: i16, tags: &[u8]| {
            let mut bytes = head(version);
            bytes.put_slice(tags);
            check(FETCH, version, &bytes)
        };
        assert_eq!(with(12, &[0]), Ok(()));
        assert_eq!(with(12, &[1, 0, 2, 2, b'c']), Ok(()));
        assert!(with(12, &[1, 0, 3, 2, b'c', 0]).is_err());
        let state = [1, 1, 13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        assert_eq!(with(15, &state), Ok(()));
        assert!(with(14, &state).is_err());
    }

    #[test]
    fn version_not_served_is_unsupported() {
        assert_eq!(check(PRODUCE, 2, &[]), Err(FrameError::Unsupported(PRODUCE, 2)));
        assert_eq!(check(API_VERSIONS, 9, &[]), Err(FrameError::Unsupported(API_VERSIONS, 9)));
        assert_eq!(check(17, 0, &[]), Err(FrameError::Unsupported(17, 0)));
    }
}
