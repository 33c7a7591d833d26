//! Small inputs that ask for gigabytes: records that inflate, counts that claim billions. They are answered with an error, in memory that is
//! bounded by what they are and by the limit of whoever asks, never by what they say.

use super::targets::{BATCH, DECOMPRESSED_MAX, PEER, REQUEST, Target};
use super::{inputs, meter, must_pass};
use kontiki::wire::Compression;
use kontiki::wire::compression::CompressionError;

/// What the records of each bomb are when decompressed, but for snappy's, which makes 22 bytes of one at most.
const INFLATED: usize = 4 << 30;
/// A limit such as a reader sets.
const LIMIT: usize = 16 << 20;

/// Gigabytes of zeros, as each codec packs them: its streams may follow one another, so one is packed and repeated.
fn inflating(codec: Compression) -> Vec<u8> {
    const PART: usize = 64 << 20;
    let mut packed = Vec::new();
    match codec {
        Compression::None => unreachable!("it packs nothing"),
        Compression::Gzip | Compression::Zstd => {
            codec.compress(&vec![0; PART], &mut packed).expect("memory");
            packed.repeat(INFLATED / PART)
        }
        // One frame: magic, descriptor and its checksum, blocks of 64 KiB, end mark of four bytes.
        Compression::Lz4 => {
            codec.compress(&[0; 64 << 10], &mut packed).expect("memory");
            let (head, block) = (packed[..7].to_vec(), packed[7..packed.len() - 4].to_vec());
            [head, block.repeat(INFLATED / (64 << 10)), vec![0; 4]].concat()
        }
        // A header of 16 bytes, then blocks of 32 KiB.
        Compression::Snappy => {
            codec.compress(&[0; 32 << 10], &mut packed).expect("memory");
            let (head, block) = (packed[..16].to_vec(), packed[16..].to_vec());
            [head, block.repeat(2 * LIMIT / (32 << 10))].concat()
        }
    }
}

#[test]
fn decompression_bomb_of_every_codec_is_refused_in_bounded_memory() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let bomb = inflating(codec);
        let (result, peak) = meter::peak_of(|| codec.decompress(&bomb, LIMIT));
        assert!(
            matches!(result, Err(CompressionError::TooLarge(LIMIT))),
            "{codec}: {:?}",
            result.map(|v| v.len())
        );
        println!("{codec}: {} bytes, peak {peak}", bomb.len());
        // The output's buffer, full and about to double, and the decoder's own.
        assert!(peak <= 3 * LIMIT + (9 << 20), "{codec}: {peak} bytes");
    }
}

#[test]
fn snappy_block_that_claims_gigabytes_is_refused_without_them() {
    // A varint of 4 GiB - 1, then next to nothing.
    let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    let (result, peak) = meter::peak_of(|| Compression::Snappy.decompress(&block, usize::MAX));
    assert!(matches!(result, Err(CompressionError::Io { .. })), "{:?}", result.map(|v| v.len()));
    assert!(peak < 4096, "{peak} bytes");
}

#[test]
fn batch_whose_records_inflate_keeps_the_batch_targets_bound() {
    let samples = inputs(BATCH.name);
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let is_its = |path: &std::path::Path| path.file_name().is_some_and(|name| *name == *codec.name());
        let (_, sample) = samples.iter().find(|(path, _)| is_its(path)).expect("one of each codec");
        // Its header, with length and CRC put right by the target; within max.message.bytes.
        let mut packed = Vec::new();
        codec.compress(&vec![0; 8 * DECOMPRESSED_MAX], &mut packed).expect("memory");
        let input = [&sample[..62], &packed].concat();
        must_pass(&BATCH, &input, codec.name());
    }
}

/// Every request of the corpus with a count of billions written over each of its places, in either encoding.
#[test]
fn count_bomb_at_any_place_of_any_request_keeps_the_request_targets_bound() {
    const COUNTS: [&[u8]; 4] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x3b, 0x9a, 0xca, 0],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x94, 0xeb, 0xdc, 3],
    ];
    let target: Target = REQUEST;
    let mut bombs = 0;
    for (path, input) in inputs(target.name) {
        for at in 2..input.len() {
            for count in COUNTS {
                let mut bomb = input[..at].to_vec();
                bomb.extend(count);
                bomb.extend(input.get(at + count.len()..).unwrap_or_default());
                must_pass(&target, &bomb, &format!("{} with a count at {at}", path.display()));
                bombs += 1;
            }
        }
    }
    assert!(bombs > 10_000, "{bombs}");
}

/// As many messages as there are bytes for them: each takes at least 113, and three times as much in memory.
#[test]
fn message_count_beyond_the_bytes_of_a_peer_frame_keeps_the_peer_targets_bound() {
    const LENGTH: u32 = 64 << 10;
    let raft = [kontiki::raftlog::codec::VERSION, 2];
    for count in [LENGTH, u32::MAX, LENGTH / 113] {
        let input = [&raft[..], &LENGTH.to_le_bytes(), &count.to_le_bytes(), &[0; LENGTH as usize]].concat();
        must_pass(&PEER, &input, &format!("{count} messages"));
    }
}
