//! Bytes of the beats of quiet groups: one bit per group and beat, a full message once per change.
//!
//! Not here: which groups are quiet and what a bit means (`engine::beats`).
//! `Beats` is `session u64 | number u64 | definitions u32 | words u32 | definition* | word u64*`, a definition `slot u32 | envelope`;
//! an answer is `session u64 | number u64 | exceptions u32 | slot u32*`. Invariants as in `codec`.

use super::{
    BEAT_ANSWER, BEATS, CodecError, ENVELOPE_MIN, Envelope, Result, get_envelope, get_u32, get_u64, need,
    put_envelope, seal, start,
};
use bytes::{BufMut, Bytes};

/// Bytes of the shortest definition: a slot and an envelope with an empty body.
const DEFINITION_MIN: usize = 4 + ENVELOPE_MIN;

/// Most slots of a table: a frame of bits cannot make its receiver allocate more.
pub const SLOTS_MAX: usize = 1 << 20;

/// One beat of a broker pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beats {
    /// Which table its slots are of: a new connection has a new one.
    pub session: u64,
    /// Number of this beat in its session, echoed by the answer.
    pub number: u64,
    /// Slots that stand for something else from the next beat on, each with the full beat of its group.
    pub defined: Vec<(u32, Envelope)>,
    /// Bit `s % 64` of word `s / 64`: the group of slot `s` has a leader that lives, and nothing new.
    pub named: Vec<u64>,
}

/// What came of one beat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeatAnswer {
    /// Echo.
    pub session: u64,
    /// Echo.
    pub number: u64,
    /// Named slots that stand for nothing here: their leaders did not reach their groups. All others did.
    pub exceptions: Vec<u32>,
}

/// Bytes of a beat.
pub fn encode_beats(beats: &Beats) -> Vec<Bytes> {
    let mut b = start();
    b.reserve(24 + 8 * beats.named.len() + 160 * beats.defined.len());
    b.put_u64_le(beats.session);
    b.put_u64_le(beats.number);
    b.put_u32_le(beats.defined.len() as u32);
    b.put_u32_le(beats.named.len() as u32);
    for (slot, envelope) in &beats.defined {
        debug_assert!(envelope.payloads.is_empty());
        b.put_u32_le(*slot);
        put_envelope(&mut b, envelope);
    }
    for word in &beats.named {
        b.put_u64_le(*word);
    }
    seal(b, BEATS, Vec::new())
}

/// Bytes of an answer.
pub fn encode_answer(answer: &BeatAnswer) -> Vec<Bytes> {
    let mut b = start();
    b.put_u64_le(answer.session);
    b.put_u64_le(answer.number);
    b.put_u32_le(answer.exceptions.len() as u32);
    for slot in &answer.exceptions {
        b.put_u32_le(*slot);
    }
    seal(b, BEAT_ANSWER, Vec::new())
}

pub(super) fn decode_beats(mut bytes: Bytes) -> Result<Beats> {
    let (session, number) = (get_u64(&mut bytes)?, get_u64(&mut bytes)?);
    let (count, words) = (get_u32(&mut bytes)? as usize, get_u32(&mut bytes)? as usize);
    if count > bytes.len() / DEFINITION_MIN {
        return Err(CodecError("definition count exceeds frame"));
    }
    let mut defined = Vec::with_capacity(count);
    for _ in 0..count {
        let slot = get_u32(&mut bytes)?;
        // A beat has no payload; whatever else is sent in its place gets none.
        defined.push((slot, get_envelope(&mut bytes, &mut Bytes::new())?));
    }
    if words > SLOTS_MAX / 64 || bytes.len() != words * 8 {
        return Err(CodecError("word count does not fit frame"));
    }
    let mut named = Vec::with_capacity(words);
    for _ in 0..words {
        named.push(get_u64(&mut bytes)?);
    }
    Ok(Beats { session, number, defined, named })
}

pub(super) fn decode_answer(mut bytes: Bytes) -> Result<BeatAnswer> {
    let (session, number) = (get_u64(&mut bytes)?, get_u64(&mut bytes)?);
    let count = get_u32(&mut bytes)? as usize;
    need(&bytes, count.saturating_mul(4))?;
    let mut exceptions = Vec::with_capacity(count);
    for _ in 0..count {
        exceptions.push(get_u32(&mut bytes)?);
    }
    Ok(BeatAnswer { session, number, exceptions })
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, decode};
    use super::*;
    use crate::raftlog::message::{Body, Message};
    use crate::segment::{Epoch, GroupId, Index, NodeId, ReplicaId};

    fn definition(slot: u32) -> (u32, Envelope) {
        let replica = |node| ReplicaId { node: NodeId(node), assignment: 7, directory: 9 };
        let body = Body::Beat { commit: Index(4), sequence: 2 };
        let envelope = Envelope {
            group: GroupId(u64::from(slot) + 10),
            from: replica(1),
            to: replica(2),
            from_incarnation: 3,
            to_incarnation: 4,
            message: Message { epoch: Epoch::new(1, 5), body },
            payloads: Vec::new(),
        };
        (slot, envelope)
    }

    fn body(chunks: &[Bytes]) -> Bytes {
        assert_eq!(chunks.len(), 1);
        chunks[0].slice(4..)
    }

    #[test]
    fn beats_and_answers_survive_the_round_trip() {
        let beats = Beats {
            session: 8,
            number: 77,
            defined: vec![definition(0), definition(65)],
            named: vec![u64::MAX, 0, 5],
        };
        assert_eq!(decode(body(&encode_beats(&beats))), Ok(Frame::Beats(beats)));
        let answer = BeatAnswer { session: 8, number: 77, exceptions: vec![3, 130] };
        assert_eq!(decode(body(&encode_answer(&answer))), Ok(Frame::BeatAnswer(answer)));
    }

    #[test]
    fn idle_beat_of_many_groups_takes_one_bit_each() {
        let beats = Beats { named: vec![u64::MAX; 10_000 / 64 + 1], ..Beats::default() };
        let bytes: usize = encode_beats(&beats).iter().map(Bytes::len).sum();
        assert!(bytes < 10_000 / 8 + 64, "{bytes} bytes");
    }

    #[test]
    fn every_cut_of_a_beat_is_refused() {
        let beats = Beats { session: 1, number: 2, defined: vec![definition(1)], named: vec![2] };
        let whole = body(&encode_beats(&beats));
        // Past the checksum: a frame that was built wrong rather than damaged.
        let inner = whole.slice(6..);
        for at in 0..inner.len() {
            assert!(decode_beats(inner.slice(..at)).is_err(), "cut at {at}");
        }
        assert!(decode_beats(inner).is_ok());
    }
}
