//! The image as entries of the controller log: what lies before them can be dropped, and a broker that was away for long need not
//! read it.
//!
//! The controller leader writes the image as of an entry in pieces behind it, as ordinary records. So a snapshot is replicated,
//! checksummed and committed like everything else, needs no transfer of its own, and a log that begins after the entry holds all
//! that is to be known of what came before. Pure. Not here: when one is written, and when the log is cut (`broker::shard::snapshot`).
//! Invariants:
//! - pieces of one snapshot are written in order, each after the one before was committed; other records may stand between them;
//! - a snapshot is whole, readable and of a known format, or it is an error: never an image with something missing;
//! - what a snapshot leaves out was deleted only if it says so (`Image::is_deleted`, `Partition::left`): absence never deletes data.

use super::image::{Change, Image};
use crate::segment::LogId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

/// Most compressed bytes in one piece: an entry of a comfortable size.
const PIECE_BYTES: usize = 512 << 10;
/// What a piece takes beside its data makes smaller ones pointless.
const PIECE_MIN: usize = 128;
/// The only format there is.
const FORMAT: u8 = 1;
/// Most pieces that a snapshot may claim to have: 32 GiB of it.
const PIECES: u32 = 1 << 16;

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The last entry that the image reflects.
    pub at: LogId,
    /// Which part, from 0.
    pub piece: u32,
    /// How many there are.
    pub of: u32,
    /// CRC-32 of all parts together.
    pub sum: u32,
    /// Base64 of this part of the compressed JSON.
    pub data: String,
}

#[derive(Serialize)]
struct Written<'a> {
    v: u8,
    image: &'a Image,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "v")]
    _v: u8,
    image: Image,
}

/// The image as of `at`, the last entry that it reflects, in pieces of at most about `most` bytes.
pub fn write(image: &Image, at: LogId, most: usize) -> Vec<Piece> {
    let json = serde_json::to_vec(&Written { v: FORMAT, image })
        .expect("maps have string keys and nothing in an image can refuse to serialise");
    let bytes = zstd::bulk::compress(&json, 0).expect("memory holds what is smaller than its source");
    let sum = crc32fast::hash(&bytes);
    let parts = bytes.chunks(most.clamp(PIECE_MIN, PIECE_BYTES).max(bytes.len().div_ceil(PIECES as usize)));
    let of = parts.len() as u32;
    let piece = |(piece, part): (usize, &[u8])| Piece {
        at,
        piece: piece as u32,
        of,
        sum,
        data: STANDARD_NO_PAD.encode(part),
    };
    parts.enumerate().map(piece).collect()
}

/// Pieces as they come in the log; a snapshot that was begun and not finished (its leader fell) is forgotten when another begins.
#[derive(Debug, Default)]
pub struct Pieces {
    of: Option<(LogId, u32, u32)>,
    parts: Vec<String>,
}

impl Pieces {
    /// The next piece of the log. Some if the snapshot is whole with it; it is handed over.
    pub fn take(&mut self, piece: &Piece) -> Option<Whole> {
        let of = (piece.at, piece.of, piece.sum);
        if piece.piece == 0 {
            (self.of, self.parts) = (Some(of), Vec::new());
        }
        if self.of != Some(of) || self.parts.len() != piece.piece as usize || piece.of > PIECES {
            *self = Self::default();
            return None;
        }
        self.parts.push(piece.data.clone());
        let is_whole = self.parts.len() == piece.of as usize;
        is_whole.then(|| Whole { at: piece.at, sum: piece.sum, parts: std::mem::take(self).parts })
    }
}

/// All pieces of one snapshot.
#[derive(Debug)]
pub struct Whole {
    /// The last entry that it reflects.
    pub at: LogId,
    sum: u32,
    parts: Vec<String>,
}

impl Whole {
    /// Bytes of the log that it takes, about.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// The image.
    ///
    /// # Errors
    /// What it holds is not what was written, or a later version wrote it.
    pub fn read(&self) -> Result<Image, String> {
        let mut bytes = Vec::new();
        for part in &self.parts {
            STANDARD_NO_PAD.decode_vec(part, &mut bytes).map_err(|e| format!("a piece is no base64: {e}"))?;
        }
        if crc32fast::hash(&bytes) != self.sum {
            return Err("its checksum is wrong".to_owned());
        }
        let json =
            zstd::stream::decode_all(&bytes[..]).map_err(|e| format!("it does not decompress: {e}"))?;
        #[derive(Deserialize)]
        struct Version {
            v: u8,
        }
        let version: Version =
            serde_json::from_slice(&json).map_err(|e| format!("it is no snapshot: {e}"))?;
        if version.v != FORMAT {
            return Err(format!("it has format {}, this node reads {FORMAT}", version.v));
        }
        let Read { image, .. } =
            serde_json::from_slice(&json).map_err(|e| format!("this version cannot read it: {e}"))?;
        Ok(image)
    }
}

/// What a node has to act on that goes from `old` to the image of a snapshot. Groups that it knows nothing of although they were never
/// deleted, and replicas that it does not place although none of its records said that they left, stay.
pub fn changes(old: &Image, new: &Image) -> Vec<Change> {
    let says = |change: &Change| match change {
        Change::GroupRemoved { group, .. } => new.is_deleted(*group),
        Change::ReplicaRemoved { .. } | Change::TopicRemoved { .. } => false,
        _ => true,
    };
    let changes = Image::diff(old, new).into_iter().filter(says);
    let partitions = new.topics.values().flat_map(|topic| &topic.partitions);
    let left = partitions.flat_map(|placed| placed.left.iter().map(|replica| (placed.group, *replica)));
    changes.chain(left.map(|(group, replica)| Change::ReplicaRemoved { group, replica })).collect()
}
