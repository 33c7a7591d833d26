//! The four codecs of record batches, both ways, with a bound on what decompression may produce.
//!
//! Not used by the broker's hot path: batches pass through it compressed. Called by our producer and consumer, by `record`
//! for reads by timestamp, for compaction, and by `dump`.
//!
//! Invariants:
//! - Decompression stops with [`CompressionError::TooLarge`] once it has produced more than the caller's limit; it never
//!   reserves memory by what the input says about itself, except snappy blocks, whose ratio is bounded by the format.
//! - What is written is what Java's client writes: gzip, xerial-framed snappy, LZ4 frames of independent blocks, zstd.
use snap::raw;
use std::io::{self, Read, Write};

/// Magic of snappy-java's framing, followed by two version numbers.
const XERIAL_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const XERIAL_HEADER_LEN: usize = 16;
/// Uncompressed bytes of one xerial block (snappy-java's default).
const XERIAL_BLOCK: usize = 32 << 10;
/// No snappy element makes more of one byte than this (64 bytes out of 3, rounded up).
const SNAPPY_MAX_RATIO: usize = 22;
/// Kafka's default level.
const ZSTD_LEVEL: i32 = 3;
/// 128 MiB, what level 22 uses. The window is virtual until it is written to, and output is limited anyway.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Codec of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Plain records.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy in xerial framing; raw blocks are read too.
    Snappy,
    /// LZ4 frame.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

/// Why bytes could not be (de)compressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// Codec id 5..=7.
    #[error("compression codec {0} is not known")]
    Codec(u8),
    /// The output limit is reached; the caller decides whether that is an attack.
    #[error("records are larger than {0} bytes when decompressed")]
    TooLarge(usize),
    /// The compressed bytes are damaged, or the codec failed.
    #[error("{codec}: {source}")]
    Io {
        /// Which codec.
        codec: Compression,
        /// Its own words.
        source: io::Error,
    },
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    /// Kafka's `compression.type` names.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| format!("compression type `{name}` is not one of none, gzip, snappy, lz4, zstd"))
    }
}

impl Compression {
    /// Every codec, by id.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Codec id as in bits 0-2 of a batch's attributes.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The codec of an id.
    ///
    /// # Errors
    /// `Codec` for ids nobody has given out.
    pub fn from_id(id: u8) -> Result<Self, CompressionError> {
        Self::ALL.get(usize::from(id)).copied().ok_or(CompressionError::Codec(id))
    }

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `plain`, compressed, to `out`.
    ///
    /// # Errors
    /// `Io` if the codec fails, which it does only for want of memory.
    pub fn compress(self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let result = match self {
            Self::None => {
                out.extend_from_slice(plain);
                Ok(())
            }
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish().map(drop))
            }
            Self::Snappy => compress_xerial(plain, out),
            Self::Lz4 => {
                // Java refuses linked blocks.
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
                encoder.write_all(plain).and_then(|()| encoder.finish().map(drop).map_err(io::Error::other))
            }
            Self::Zstd => zstd::stream::Encoder::new(out, ZSTD_LEVEL).and_then(|mut encoder| {
                encoder.set_pledged_src_size(Some(plain.len() as u64))?;
                encoder.write_all(plain)?;
                encoder.finish().map(drop)
            }),
        };
        result.map_err(|source| CompressionError::Io { codec: self, source })
    }

    /// Decompresses a batch's payload into at most `limit` bytes.
    ///
    /// # Errors
    /// `TooLarge` beyond the limit, `Io` for damaged input.
    pub fn decompress(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let result = match self {
            Self::None => read_bounded(packed, limit),
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(packed), limit),
            Self::Snappy => decompress_snappy(packed, limit),
            Self::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(packed), limit),
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(packed).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                read_bounded(decoder, limit)
            }),
        };
        match result {
            Ok(Some(plain)) => Ok(plain),
            Ok(None) => Err(CompressionError::TooLarge(limit)),
            Err(source) => Err(CompressionError::Io { codec: self, source }),
        }
    }
}

/// Reads to the end; `None` if there is more than `limit`. Memory grows with what is produced, not with what is promised.
fn read_bounded(reader: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut plain = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut plain)?;
    Ok((plain.len() <= limit).then_some(plain))
}

fn compress_xerial(plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK) {
        let at = out.len();
        out.resize(at + 4 + raw::max_compress_len(block.len()), 0);
        let length = encoder.compress(block, &mut out[at + 4..]).map_err(io::Error::other)?;
        out[at..at + 4].copy_from_slice(&(length as u32).to_be_bytes());
        out.truncate(at + 4 + length);
    }
    Ok(())
}

fn decompress_snappy(packed: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut plain = Vec::new();
    if !packed.starts_with(&XERIAL_MAGIC) {
        return Ok(decompress_block(packed, limit, &mut plain)?.then_some(plain));
    }
    let mut rest = packed.get(XERIAL_HEADER_LEN..).ok_or_else(|| damaged("framing header is cut short"))?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk().ok_or_else(|| damaged("block length is cut short"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = after.split_at_checked(length).ok_or_else(|| damaged("block is cut short"))?;
        if !decompress_block(block, limit, &mut plain)? {
            return Ok(None);
        }
        rest = after;
    }
    Ok(Some(plain))
}

/// Appends one raw block; false if that would pass the limit.
fn decompress_block(block: &[u8], limit: usize, plain: &mut Vec<u8>) -> io::Result<bool> {
    let length = raw::decompress_len(block).map_err(io::Error::other)?;
    if length > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(damaged("block claims more than its bytes can make"));
    }
    let at = plain.len();
    if length > limit - at {
        return Ok(false);
    }
    plain.resize(at + length, 0);
    raw::Decoder::new().decompress(block, &mut plain[at..]).map_err(io::Error::other)?;
    Ok(true)
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn payloads() -> Vec<Vec<u8>> {
        let mut rng = StdRng::seed_from_u64(31);
        let text = b"the same words again and again, ".repeat(5000);
        let noise: Vec<u8> = (0..100_000).map(|_| rng.random()).collect();
        vec![vec![], b"x".to_vec(), text, noise, vec![0; 1 << 20]]
    }

    #[test]
    fn payload_round_trips_through_every_codec() {
        for codec in Compression::ALL {
            for plain in payloads() {
                let mut packed = b"before".to_vec();
                codec.compress(&plain, &mut packed).unwrap();
                assert_eq!(&packed[..6], b"before");
                assert_eq!(codec.decompress(&packed[6..], plain.len()).unwrap(), plain, "{codec}");
            }
        }
    }

    #[test]
    fn output_beyond_the_limit_is_refused_by_every_codec() {
        let bomb = vec![0u8; 8 << 20];
        for codec in Compression::ALL {
            let mut packed = Vec::new();
            codec.compress(&bomb, &mut packed).unwrap();
            let result = codec.decompress(&packed, (8 << 20) - 1);
            assert!(matches!(result, Err(CompressionError::TooLarge(_))), "{codec}: {result:?}");
            assert!(codec.decompress(&packed, 8 << 20).is_ok());
        }
    }

    #[test]
    fn damaged_input_never_panics() {
        let mut rng = StdRng::seed_from_u64(32);
        let plain = b"the same words again and again, ".repeat(40);
        for codec in Compression::ALL {
            let mut packed = Vec::new();
            codec.compress(&plain, &mut packed).unwrap();
            for _ in 0..2000 {
                let mut bytes = packed.clone();
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
                bytes.truncate(rng.random_range(0..=bytes.len()));
                if let Ok(out) = codec.decompress(&bytes, 1 << 16) {
                    assert!(out.len() <= 1 << 16);
                }
            }
        }
    }

    #[test]
    fn raw_snappy_block_is_read() {
        let plain = b"hello hello hello hello".to_vec();
        let packed = raw::Encoder::new().compress_vec(&plain).unwrap();
        assert_eq!(Compression::Snappy.decompress(&packed, 100).unwrap(), plain);
    }

    #[test]
    fn snappy_block_that_claims_gigabytes_is_refused_before_any_is_reserved() {
        // A varint of 2^32 - 1 and nothing behind it.
        let result = Compression::Snappy.decompress(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], usize::MAX);
        assert!(matches!(result, Err(CompressionError::Io { .. })));
    }

    #[test]
    fn names_and_ids_are_those_of_kafka() {
        for (id, codec) in Compression::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(codec.id()), id);
            assert_eq!(Compression::from_id(codec.id()).unwrap(), codec);
            assert_eq!(codec.name().parse(), Ok(codec));
        }
        assert!(Compression::from_id(5).is_err());
        assert!("brotli".parse::<Compression>().is_err());
    }
}
