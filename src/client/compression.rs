//! The codecs of Kafka's record batches, as our own producer and consumer need them.
//!
//! Not here: the broker's path, which passes compressed batches through untouched. Called by `records`.
//! Invariant: decompression never yields more than `limit` bytes.

use super::error::{Error, Result};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

/// How the records of a batch are compressed; the number is what stands in the batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy blocks in the framing of snappy-java ("xerial"), as Kafka's Java clients write it.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Codec {
    /// The codec of a batch's attributes (bits 0 to 2).
    pub fn from_attributes(attributes: i16) -> Result<Self> {
        Ok(match attributes & 7 {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            other => return Err(Error::Records(format!("unknown compression codec {other}"))),
        })
    }

    /// Kafka's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|c| c.name() == s)
            .ok_or_else(|| format!("`{s}` is not a codec (none, gzip, snappy, lz4, zstd)"))
    }
}

/// First bytes of snappy-java's stream: magic, version 1, compatible with 1.
const XERIAL: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// snappy-java's default block, so that foreign readers need no larger buffer than they expect.
const XERIAL_BLOCK: usize = 32 * 1024;

fn failed(codec: Codec, e: impl fmt::Display) -> Error {
    Error::Records(format!("{codec}: {e}"))
}

/// Appends the compressed form of `data` to `out`.
pub fn compress(codec: Codec, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
    match codec {
        Codec::None => out.extend_from_slice(data),
        Codec::Gzip => {
            let mut encoder = GzEncoder::new(out, Compression::default());
            encoder.write_all(data).and_then(|()| encoder.try_finish()).map_err(|e| failed(codec, e))?;
        }
        Codec::Snappy => {
            out.extend_from_slice(&XERIAL);
            let mut encoder = snap::raw::Encoder::new();
            for block in data.chunks(XERIAL_BLOCK) {
                let packed = encoder.compress_vec(block).map_err(|e| failed(codec, e))?;
                let len = u32::try_from(packed.len()).map_err(|e| failed(codec, e))?;
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(&packed);
            }
        }
        Codec::Lz4 => {
            let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(data).map_err(|e| failed(codec, e))?;
            encoder.finish().map_err(|e| failed(codec, e))?;
        }
        Codec::Zstd => zstd::stream::copy_encode(data, out, 3).map_err(|e| failed(codec, e))?,
    }
    Ok(())
}

/// The plain form of `data`, at most `limit` bytes of it.
pub fn decompress(codec: Codec, data: &[u8], limit: usize) -> Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(data.to_vec()),
        Codec::Gzip => read_all(codec, GzDecoder::new(data), limit),
        Codec::Snappy => unsnap(data, limit),
        Codec::Lz4 => read_all(codec, FrameDecoder::new(data), limit),
        Codec::Zstd => {
            let decoder = zstd::stream::Decoder::new(data).map_err(|e| failed(codec, e))?;
            read_all(codec, decoder, limit)
        }
    }
}

fn read_all(codec: Codec, reader: impl Read, limit: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let read = reader.take(limit as u64 + 1).read_to_end(&mut plain).map_err(|e| failed(codec, e))?;
    if read > limit {
        return Err(too_large(codec, limit));
    }
    Ok(plain)
}

fn too_large(codec: Codec, limit: usize) -> Error {
    failed(codec, format_args!("more than {limit} bytes when decompressed"))
}

/// Xerial framing where its magic stands, else one raw block (librdkafka, older clients).
fn unsnap(data: &[u8], limit: usize) -> Result<Vec<u8>> {
    let codec = Codec::Snappy;
    let mut decoder = snap::raw::Decoder::new();
    let mut plain = Vec::new();
    let mut block = |packed: &[u8], plain: &mut Vec<u8>| -> Result<()> {
        let len = snap::raw::decompress_len(packed).map_err(|e| failed(codec, e))?;
        let start = plain.len();
        if len > limit - start {
            return Err(too_large(codec, limit));
        }
        plain.resize(start + len, 0);
        decoder.decompress(packed, &mut plain[start..]).map_err(|e| failed(codec, e))?;
        Ok(())
    };
    if !data.starts_with(&XERIAL[..8]) {
        block(data, &mut plain)?;
        return Ok(plain);
    }
    let mut rest = data.get(XERIAL.len()..).ok_or_else(|| failed(codec, "short header"))?;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        if len > tail.len() {
            return Err(failed(codec, "short block"));
        }
        block(&tail[..len], &mut plain)?;
        rest = &tail[len..];
    }
    if rest.is_empty() { Ok(plain) } else { Err(failed(codec, "bytes after the last block")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    #[test]
    fn compress_every_codec_round_trips() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i / 7 % 251) as u8).collect();
        for codec in ALL {
            for data in [&data[..], b"x", b""] {
                let mut packed = vec![0xAA];
                compress(codec, data, &mut packed).unwrap();
                assert_eq!(packed[0], 0xAA, "{codec} overwrote what was there");
                assert_eq!(decompress(codec, &packed[1..], 1 << 20).unwrap(), data, "{codec}");
            }
        }
    }

    #[test]
    fn decompress_beyond_limit_is_refused() {
        let data = vec![7; 100_000];
        for codec in &ALL[1..] {
            let mut packed = Vec::new();
            compress(*codec, &data, &mut packed).unwrap();
            assert!(decompress(*codec, &packed, 99_999).is_err(), "{codec}");
            assert!(decompress(*codec, &packed, 100_000).is_ok(), "{codec}");
        }
    }

    #[test]
    fn decompress_raw_snappy_is_accepted() {
        let packed = snap::raw::Encoder::new().compress_vec(b"raw block").unwrap();
        assert_eq!(decompress(Codec::Snappy, &packed, 100).unwrap(), b"raw block");
    }

    #[test]
    fn decompress_damaged_input_is_an_error() {
        for codec in &ALL[1..] {
            let mut packed = Vec::new();
            compress(*codec, &[9; 5000], &mut packed).unwrap();
            packed.truncate(packed.len() / 2);
            assert!(decompress(*codec, &packed, 10_000).is_err(), "{codec}");
        }
    }

    #[test]
    fn codec_unknown_name_is_refused() {
        assert_eq!("zstd".parse::<Codec>().unwrap(), Codec::Zstd);
        assert!("brotli".parse::<Codec>().unwrap_err().contains("gzip"));
    }
}
