//! Little-endian encoding of the numbers and small records of `types`, shared by journal records and
//! the manifest. Not here: frames (`frame`), files and their headers.
//!
//! Every `get_*` answers None when the input is too short or says something impossible; nothing panics
//! on bytes from a disk, and no length is believed before it is checked against what is left.

use super::types::*;
use bytes::{Buf, BufMut, Bytes};

pub(crate) fn get_u8(input: &mut &[u8]) -> Option<u8> {
    input.try_get_u8().ok()
}
pub(crate) fn get_u16(input: &mut &[u8]) -> Option<u16> {
    input.try_get_u16_le().ok()
}
pub(crate) fn get_u32(input: &mut &[u8]) -> Option<u32> {
    input.try_get_u32_le().ok()
}
pub(crate) fn get_i32(input: &mut &[u8]) -> Option<i32> {
    input.try_get_i32_le().ok()
}
pub(crate) fn get_u64(input: &mut &[u8]) -> Option<u64> {
    input.try_get_u64_le().ok()
}
pub(crate) fn get_i64(input: &mut &[u8]) -> Option<i64> {
    input.try_get_i64_le().ok()
}
pub(crate) fn get_u128(input: &mut &[u8]) -> Option<u128> {
    input.try_get_u128_le().ok()
}

pub(crate) fn get_slice<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    if len > input.len() {
        return None;
    }
    let (head, rest) = input.split_at(len);
    *input = rest;
    Some(head)
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a stored field is below 4 GiB"));
    out.put_slice(bytes);
}
pub(crate) fn get_bytes(input: &mut &[u8]) -> Option<Bytes> {
    let len = get_u32(input)? as usize;
    get_slice(input, len).map(Bytes::copy_from_slice)
}

pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}
pub(crate) fn get_str(input: &mut &[u8]) -> Option<String> {
    let len = get_u32(input)? as usize;
    let bytes = get_slice(input, len)?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

pub(crate) fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.put_u64_le(epoch.generation.0);
    out.put_u64_le(epoch.term.0);
}
pub(crate) fn get_epoch(input: &mut &[u8]) -> Option<Epoch> {
    Some(Epoch::new(get_u64(input)?, get_u64(input)?))
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    put_epoch(out, id.epoch);
    out.put_u64_le(id.index.0);
}
pub(crate) fn get_log_id(input: &mut &[u8]) -> Option<LogId> {
    Some(LogId { epoch: get_epoch(input)?, index: Index(get_u64(input)?) })
}

pub(crate) fn put_replica(out: &mut Vec<u8>, id: ReplicaId) {
    out.put_i32_le(id.node.0);
    out.put_u64_le(id.assignment);
    out.put_u128_le(id.directory);
}
pub(crate) fn get_replica(input: &mut &[u8]) -> Option<ReplicaId> {
    Some(ReplicaId {
        node: NodeId(get_i32(input)?),
        assignment: get_u64(input)?,
        directory: get_u128(input)?,
    })
}

pub(crate) fn put_hard_state(out: &mut Vec<u8>, state: &HardState) {
    put_epoch(out, state.epoch);
    let flags = u8::from(state.vote.is_some())
        | u8::from(state.sealed.is_some()) << 1
        | u8::from(state.dirty) << 2
        | match state.doubt {
            Doubt::None => 0,
            Doubt::Entries => 1 << 3,
            Doubt::Vote => 2 << 3,
        }
        | u8::from(state.opening.is_some()) << 5;
    out.put_u8(flags);
    if let Some(vote) = state.vote {
        put_replica(out, vote);
    }
    if let Some(plan) = state.sealed {
        out.put_u64_le(plan);
    }
    if let Some(opening) = state.opening {
        put_replica(out, opening.survivor);
        put_log_id(out, opening.base);
        out.put_u64_le(opening.first_term.0);
        out.put_u8(u8::from(opening.lossless));
    }
}
pub(crate) fn get_hard_state(input: &mut &[u8]) -> Option<HardState> {
    let epoch = get_epoch(input)?;
    let flags = get_u8(input)?;
    let vote = if flags & 1 != 0 { Some(get_replica(input)?) } else { None };
    let sealed = if flags & 2 != 0 { Some(get_u64(input)?) } else { None };
    let doubt = match flags >> 3 & 3 {
        0 => Doubt::None,
        1 => Doubt::Entries,
        2 => Doubt::Vote,
        _ => return None,
    };
    let opening = match flags >> 5 {
        0 => None,
        1 => Some(Opening {
            survivor: get_replica(input)?,
            base: get_log_id(input)?,
            first_term: Term(get_u64(input)?),
            lossless: get_u8(input)? != 0,
        }),
        _ => return None,
    };
    Some(HardState { epoch, vote, sealed, dirty: flags & 4 != 0, doubt, opening })
}

pub(crate) fn put_log_start(out: &mut Vec<u8>, start: &LogStart) {
    put_log_id(out, start.prev);
    out.put_i64_le(start.base_offset.0);
    out.put_i64_le(start.start_offset.0);
    put_bytes(out, &start.configuration);
    put_log_id(out, start.configuration_id);
    put_bytes(out, &start.producers);
    out.put_u64_le(start.producers_at.0);
}
pub(crate) fn get_log_start(input: &mut &[u8]) -> Option<LogStart> {
    Some(LogStart {
        prev: get_log_id(input)?,
        base_offset: Offset(get_i64(input)?),
        start_offset: Offset(get_i64(input)?),
        configuration: get_bytes(input)?,
        configuration_id: get_log_id(input)?,
        producers: get_bytes(input)?,
        producers_at: Index(get_u64(input)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_state_round_trips_in_every_combination() {
        let vote = ReplicaId { node: NodeId(3), assignment: 9, directory: 77 };
        let opening =
            Opening { survivor: vote, base: LogId::new(1, 4, 99), first_term: Term(5), lossless: true };
        for bits in 0..48u32 {
            let state = HardState {
                epoch: Epoch::new(2, 5),
                vote: (bits & 1 != 0).then_some(vote),
                sealed: (bits & 2 != 0).then_some(11),
                dirty: bits & 4 != 0,
                doubt: [Doubt::None, Doubt::Entries, Doubt::Vote][(bits / 8 % 3) as usize],
                opening: (bits >= 24).then_some(Opening { lossless: bits % 2 == 0, ..opening }),
            };
            let mut out = Vec::new();
            put_hard_state(&mut out, &state);
            let mut input = &out[..];
            assert_eq!(get_hard_state(&mut input), Some(state));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn length_beyond_the_input_is_refused() {
        let mut input: &[u8] = &[255, 255, 255, 255, 1, 2];
        assert_eq!(get_bytes(&mut input), None);
    }
}
