//! Frames of the peer protocol. The CRC is put right, so that what it covers is read.

use bytes::{BufMut, Bytes, BytesMut};
use kontiki::raftlog::codec::{self, Frame, RaftFrame};

pub fn memory(length: usize) -> usize {
    // An empty message in its envelope takes 113 bytes here and some three times as many in memory, twice decoded and once encoded.
    32 * length + (256 << 10)
}

/// What follows the CRC: version, kind, body.
pub fn run(data: &[u8]) {
    let mut bytes = BytesMut::with_capacity(4 + data.len());
    bytes.put_u32_le(crc32fast::hash(data));
    bytes.put_slice(data);
    let Ok(frame) = codec::decode(bytes.freeze()) else { return };
    let chunks = match &frame {
        Frame::Hello(hello) => codec::encode_hello(hello),
        Frame::Hints(hints) => codec::encode_hints(hints),
        Frame::Request { id, body } => codec::encode_request(*id, body),
        Frame::Response { id, body } => codec::encode_response(*id, body),
        Frame::BeatAnswer(answer) => codec::encode_answer(answer),
        // A definition has no payloads; entries without bytes have empty ones.
        Frame::Beats(beats) if beats.defined.iter().any(|(_, e)| !e.payloads.is_empty()) => return,
        Frame::Beats(beats) => codec::encode_beats(beats),
        Frame::Raft(envelopes) => {
            let mut out = RaftFrame::default();
            envelopes.iter().cloned().for_each(|envelope| out.push(envelope));
            out.take()
        }
    };
    let again: Bytes = chunks.concat().into();
    let second = codec::decode(again.slice(4..)).unwrap_or_else(|e| panic!("encoded, but: {e}"));
    assert_eq!(second, frame);
}
