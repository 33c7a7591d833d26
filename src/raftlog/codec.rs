//! Bytes of the peer protocol: what brokers and controllers say to each other.
//!
//! Not here: sockets (`broker::peer`), what the messages mean (`core`, `engine`).
//! A frame is `length u32 | crc32 u32 | version u8 | kind u8 | body`, little-endian; the length counts
//! everything after itself, the CRC covers everything after the CRC. Entry payloads stand at the end of a Raft frame, so
//! that they are written from, and read into, shared buffers without a copy.
//! Invariant: decoding never allocates more than a small multiple of the frame and never panics.

mod beats;
#[cfg(test)]
mod tests;

pub use beats::{BeatAnswer, Beats, SLOTS_MAX, encode_answer, encode_beats};

use super::message::{Body, Message};
use crate::segment::{
    Cleaned, EntryKind, EntryMeta, Epoch, GroupId, Index, LogId, LogStart, NodeId, Offset, ReplicaId,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Version of the peer protocol spoken and understood. From 5 on a Records entry may come without a payload (decisions/0020), which an
/// older version would take for a batch; from 6 on a broker registers with all of its listeners (decisions/0023), which an older one would drop; from 7 on
/// leaders and sources of repairs say which tombstones they miss (decisions/0022), which an older one would not heed.
pub const VERSION: u8 = 7;
/// Largest frame accepted.
pub const MAX_FRAME: usize = 256 << 20;
const PREFIX: usize = 10;
/// Bytes of the shortest message: group, two replicas, two incarnations, epoch, kind.
const ENVELOPE_MIN: usize = 8 + 56 + 32 + 16 + 1;
/// Payloads up to this size are copied out of their frame.
const SMALL_PAYLOAD: usize = 512;

/// A frame that cannot be read; the connection is closed with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad peer frame: {0}")]
pub struct CodecError(pub &'static str);

type Result<T> = std::result::Result<T, CodecError>;

/// First frame on every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Cluster the sender belongs to; empty if it does not know yet.
    pub cluster: String,
    /// Who is talking.
    pub node: NodeId,
    /// Its data directory.
    pub directory: u128,
    /// Random number of its process start.
    pub boot: u128,
    /// Where it can be dialled.
    pub address: String,
}

/// One message of one group with everything that fences it (safety.md F6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which group.
    pub group: GroupId,
    /// Sending replica.
    pub from: ReplicaId,
    /// Receiving replica.
    pub to: ReplicaId,
    /// Sender's registration number (its boot id for group 0).
    pub from_incarnation: u128,
    /// Receiver's registration number as the sender knows it.
    pub to_incarnation: u128,
    /// What is said.
    pub message: Message,
    /// Payload of each entry of an Append.
    pub payloads: Vec<Bytes>,
}

/// Who leads a group: soft state, ordered by epoch (safety.md F19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Which group.
    pub group: GroupId,
    /// Epoch of the leader.
    pub epoch: Epoch,
    /// The leader.
    pub leader: NodeId,
    /// In-sync replicas, leader included.
    pub in_sync: Vec<NodeId>,
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Introduction.
    Hello(Hello),
    /// Raft messages of many groups.
    Raft(Vec<Envelope>),
    /// The leaders of many quiet groups live.
    Beats(Beats),
    /// What came of such a frame.
    BeatAnswer(BeatAnswer),
    /// Leadership news.
    Hints(Vec<Hint>),
    /// A question of one node to another, JSON.
    Request {
        /// Echoed by the answer.
        id: u64,
        /// JSON.
        body: Bytes,
    },
    /// The answer.
    Response {
        /// Of the request.
        id: u64,
        /// JSON.
        body: Bytes,
    },
}

const HELLO: u8 = 1;
const RAFT: u8 = 2;
const HINTS: u8 = 3;
const REQUEST: u8 = 4;
const RESPONSE: u8 = 5;
const BEATS: u8 = 6;
const BEAT_ANSWER: u8 = 7;

/// Collects the Raft messages of one turn for one peer.
#[derive(Debug, Default)]
pub struct RaftFrame {
    header: BytesMut,
    payloads: Vec<Bytes>,
    payload_bytes: usize,
    count: u32,
}

impl RaftFrame {
    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes gathered so far.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload_bytes
    }

    /// Adds one message; payload bytes are shared, not copied.
    pub fn push(&mut self, envelope: Envelope) {
        put_envelope(&mut self.header, &envelope);
        self.count += 1;
        for payload in envelope.payloads {
            self.payload_bytes += payload.len();
            if !payload.is_empty() {
                self.payloads.push(payload);
            }
        }
    }

    /// The finished frame as slices to write in order; leaves `self` empty.
    pub fn take(&mut self) -> Vec<Bytes> {
        let mut head = BytesMut::with_capacity(PREFIX + 8 + self.header.len());
        head.put_bytes(0, PREFIX);
        head.put_u32_le(self.header.len() as u32);
        head.put_u32_le(self.count);
        head.extend_from_slice(&self.header);
        self.header.clear();
        self.count = 0;
        self.payload_bytes = 0;
        seal(head, RAFT, std::mem::take(&mut self.payloads))
    }
}

/// Fills in length, CRC, version and kind of a frame whose body follows the reserved prefix.
fn seal(mut head: BytesMut, kind: u8, payloads: Vec<Bytes>) -> Vec<Bytes> {
    head[8] = VERSION;
    head[9] = kind;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[8..]);
    let mut length = head.len() - 4;
    for payload in &payloads {
        crc.update(payload);
        length += payload.len();
    }
    head[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    let mut chunks = Vec::with_capacity(1 + payloads.len());
    chunks.push(head.freeze());
    chunks.extend(payloads);
    chunks
}

fn start() -> BytesMut {
    let mut head = BytesMut::with_capacity(256);
    head.put_bytes(0, PREFIX);
    head
}

/// Bytes of an introduction.
pub fn encode_hello(hello: &Hello) -> Vec<Bytes> {
    let mut b = start();
    put_string(&mut b, &hello.cluster);
    b.put_i32_le(hello.node.0);
    b.put_u128_le(hello.directory);
    b.put_u128_le(hello.boot);
    put_string(&mut b, &hello.address);
    seal(b, HELLO, Vec::new())
}

/// Bytes of leadership news.
pub fn encode_hints(hints: &[Hint]) -> Vec<Bytes> {
    let mut b = start();
    b.put_u32_le(hints.len() as u32);
    for hint in hints {
        b.put_u64_le(hint.group.0);
        put_epoch(&mut b, hint.epoch);
        b.put_i32_le(hint.leader.0);
        b.put_u16_le(hint.in_sync.len() as u16);
        for node in &hint.in_sync {
            b.put_i32_le(node.0);
        }
    }
    seal(b, HINTS, Vec::new())
}

/// Bytes of a question.
pub fn encode_request(id: u64, body: &[u8]) -> Vec<Bytes> {
    encode_rpc(REQUEST, id, body)
}

/// Bytes of an answer.
pub fn encode_response(id: u64, body: &[u8]) -> Vec<Bytes> {
    encode_rpc(RESPONSE, id, body)
}

fn encode_rpc(kind: u8, id: u64, body: &[u8]) -> Vec<Bytes> {
    let mut b = start();
    b.put_u64_le(id);
    b.extend_from_slice(body);
    seal(b, kind, Vec::new())
}

/// Reads a frame whose length prefix was already taken off (`bytes` starts at the CRC).
pub fn decode(mut bytes: Bytes) -> Result<Frame> {
    if bytes.len() < PREFIX - 4 {
        return Err(CodecError("too short"));
    }
    let crc = bytes.get_u32_le();
    if crc32fast::hash(&bytes) != crc {
        return Err(CodecError("checksum mismatch"));
    }
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(CodecError("unknown protocol version"));
    }
    let kind = bytes.get_u8();
    match kind {
        HELLO => Ok(Frame::Hello(Hello {
            cluster: get_string(&mut bytes)?,
            node: NodeId(get_i32(&mut bytes)?),
            directory: get_u128(&mut bytes)?,
            boot: get_u128(&mut bytes)?,
            address: get_string(&mut bytes)?,
        })),
        RAFT => decode_raft(bytes).map(Frame::Raft),
        HINTS => decode_hints(bytes).map(Frame::Hints),
        BEATS => beats::decode_beats(bytes).map(Frame::Beats),
        BEAT_ANSWER => beats::decode_answer(bytes).map(Frame::BeatAnswer),
        REQUEST => Ok(Frame::Request { id: get_u64(&mut bytes)?, body: bytes }),
        RESPONSE => Ok(Frame::Response { id: get_u64(&mut bytes)?, body: bytes }),
        _ => Err(CodecError("unknown frame kind")),
    }
}

fn decode_raft(mut bytes: Bytes) -> Result<Vec<Envelope>> {
    let header_len = get_u32(&mut bytes)? as usize;
    let count = get_u32(&mut bytes)? as usize;
    need(&bytes, header_len)?;
    if count > header_len / ENVELOPE_MIN {
        return Err(CodecError("message count exceeds frame"));
    }
    let mut header = bytes.split_to(header_len);
    let mut envelopes = Vec::with_capacity(count);
    for _ in 0..count {
        envelopes.push(get_envelope(&mut header, &mut bytes)?);
    }
    Ok(envelopes)
}

fn decode_hints(mut bytes: Bytes) -> Result<Vec<Hint>> {
    let count = get_u32(&mut bytes)? as usize;
    let mut hints = Vec::with_capacity(count.min(bytes.len() / 30));
    for _ in 0..count {
        let group = GroupId(get_u64(&mut bytes)?);
        let epoch = get_epoch(&mut bytes)?;
        let leader = NodeId(get_i32(&mut bytes)?);
        need(&bytes, 2)?;
        let nodes = bytes.get_u16_le() as usize;
        let mut in_sync = Vec::with_capacity(nodes.min(bytes.len() / 4));
        for _ in 0..nodes {
            in_sync.push(NodeId(get_i32(&mut bytes)?));
        }
        hints.push(Hint { group, epoch, leader, in_sync });
    }
    Ok(hints)
}

fn put_envelope(b: &mut BytesMut, e: &Envelope) {
    b.put_u64_le(e.group.0);
    put_replica(b, e.from);
    put_replica(b, e.to);
    b.put_u128_le(e.from_incarnation);
    b.put_u128_le(e.to_incarnation);
    put_epoch(b, e.message.epoch);
    put_body(b, &e.message.body);
}

fn get_envelope(h: &mut Bytes, payload: &mut Bytes) -> Result<Envelope> {
    let group = GroupId(get_u64(h)?);
    let from = get_replica(h)?;
    let to = get_replica(h)?;
    let from_incarnation = get_u128(h)?;
    let to_incarnation = get_u128(h)?;
    let epoch = get_epoch(h)?;
    let body = get_body(h)?;
    let mut payloads = Vec::new();
    if let Body::Append { entries, .. } | Body::Fetched { entries, .. } = &body {
        payloads.reserve(entries.len());
        for meta in entries {
            need(payload, meta.payload_len as usize)?;
            payloads.push(take_payload(payload, meta.payload_len as usize));
        }
    }
    let message = Message { epoch, body };
    Ok(Envelope { group, from, to, from_incarnation, to_incarnation, message, payloads })
}

/// Payloads share the frame they came in. A small one would hold a whole frame of other groups' messages in memory for as long as
/// its entry is in a tail, so it is copied; an empty one at the end of the frame holds it too unless it is made anew.
fn take_payload(frame: &mut Bytes, len: usize) -> Bytes {
    if len > SMALL_PAYLOAD {
        return frame.split_to(len);
    }
    let copy = Bytes::copy_from_slice(&frame[..len]);
    frame.advance(len);
    copy
}

fn put_body(b: &mut BytesMut, body: &Body) {
    match body {
        Body::PreVote { last, round } => {
            b.put_u8(1);
            put_log_id(b, *last);
            b.put_u64_le(*round);
        }
        Body::PreVoteReply { granted, round } => {
            b.put_u8(2);
            b.put_u8(*granted as u8);
            b.put_u64_le(*round);
        }
        Body::Vote { last, transfer } => {
            b.put_u8(3);
            put_log_id(b, *last);
            b.put_u8(*transfer as u8);
        }
        Body::VoteReply { granted } => {
            b.put_u8(4);
            b.put_u8(*granted as u8);
        }
        Body::Append { prev, entries, commit, cleaned } => {
            b.put_u8(5);
            put_log_id(b, *prev);
            b.put_u64_le(commit.0);
            b.put_u8(u8::from(cleaned.is_some()));
            if let Some(cleaned) = cleaned {
                put_cleaned(b, *cleaned);
            }
            put_metas(b, entries);
        }
        Body::AppendAccepted { last } => {
            b.put_u8(6);
            put_log_id(b, *last);
        }
        Body::Written { last } => {
            b.put_u8(16);
            put_log_id(b, *last);
        }
        Body::AppendRejected { probed, hint, last } => {
            b.put_u8(7);
            b.put_u64_le(probed.0);
            put_log_id(b, *hint);
            put_log_id(b, *last);
        }
        Body::Beat { commit, sequence } => {
            b.put_u8(8);
            b.put_u64_le(commit.0);
            b.put_u64_le(*sequence);
        }
        Body::BeatReply { sequence, matched, last } => {
            b.put_u8(9);
            b.put_u64_le(*sequence);
            put_log_id(b, *matched);
            put_log_id(b, *last);
        }
        Body::InstallLogStart { start } => {
            b.put_u8(10);
            put_log_start(b, start);
        }
        Body::LogStartInstalled { prev } => {
            b.put_u8(11);
            put_log_id(b, *prev);
        }
        Body::TimeoutNow => b.put_u8(12),
        Body::Sealed => b.put_u8(13),
        Body::Fenced => b.put_u8(14),
        Body::Removed { configuration } => {
            b.put_u8(15);
            put_log_id(b, *configuration);
        }
        Body::PreVoteIfAll { round, vote } => {
            b.put_u8(40);
            b.put_u64_le(*round);
            b.put_u8(*vote as u8);
        }
        Body::VoteIfAll { vote } => {
            b.put_u8(41);
            b.put_u8(u8::from(*vote));
        }
        Body::InDoubt { matched, last, sequence } => {
            b.put_u8(42);
            put_log_id(b, *matched);
            put_log_id(b, *last);
            b.put_u64_le(*sequence);
        }
        Body::AskEnd { nonce, vote } => {
            b.put_u8(43);
            b.put_u64_le(*nonce);
            b.put_u8(*vote as u8);
        }
        Body::Fetch { from, to, needs, end } => {
            b.put_u8(45);
            b.put_u64_le(from.0);
            b.put_u64_le(to.0);
            put_offset_if(b, *needs);
            put_log_id(b, *end);
        }
        Body::Fetched { entries, cleaned, of } => {
            b.put_u8(46);
            put_cleaned(b, *cleaned);
            put_log_id(b, *of);
            put_metas(b, entries);
        }
        Body::End { nonce, last } => {
            b.put_u8(44);
            b.put_u64_le(*nonce);
            put_log_id(b, *last);
        }
    }
}

fn get_body(b: &mut Bytes) -> Result<Body> {
    Ok(match get_u8(b)? {
        1 => Body::PreVote { last: get_log_id(b)?, round: get_u64(b)? },
        2 => Body::PreVoteReply { granted: get_bool(b)?, round: get_u64(b)? },
        3 => Body::Vote { last: get_log_id(b)?, transfer: get_bool(b)? },
        4 => Body::VoteReply { granted: get_bool(b)? },
        5 => {
            let prev = get_log_id(b)?;
            let commit = Index(get_u64(b)?);
            let cleaned = if get_bool(b)? { Some(get_cleaned(b)?) } else { None };
            Body::Append { prev, entries: get_metas(b)?, commit, cleaned }
        }
        6 => Body::AppendAccepted { last: get_log_id(b)? },
        7 => Body::AppendRejected { probed: Index(get_u64(b)?), hint: get_log_id(b)?, last: get_log_id(b)? },
        8 => Body::Beat { commit: Index(get_u64(b)?), sequence: get_u64(b)? },
        9 => Body::BeatReply { sequence: get_u64(b)?, matched: get_log_id(b)?, last: get_log_id(b)? },
        10 => Body::InstallLogStart { start: get_log_start(b)? },
        11 => Body::LogStartInstalled { prev: get_log_id(b)? },
        12 => Body::TimeoutNow,
        13 => Body::Sealed,
        14 => Body::Fenced,
        15 => Body::Removed { configuration: get_log_id(b)? },
        16 => Body::Written { last: get_log_id(b)? },
        40 => Body::PreVoteIfAll { round: get_u64(b)?, vote: get_bool(b)? },
        41 => Body::VoteIfAll { vote: get_bool(b)? },
        42 => Body::InDoubt { matched: get_log_id(b)?, last: get_log_id(b)?, sequence: get_u64(b)? },
        43 => Body::AskEnd { nonce: get_u64(b)?, vote: get_bool(b)? },
        45 => {
            let (from, to) = (Index(get_u64(b)?), Index(get_u64(b)?));
            Body::Fetch { from, to, needs: get_offset_if(b)?, end: get_log_id(b)? }
        }
        46 => {
            let cleaned = get_cleaned(b)?;
            let of = get_log_id(b)?;
            Body::Fetched { entries: get_metas(b)?, cleaned, of }
        }
        44 => Body::End { nonce: get_u64(b)?, last: get_log_id(b)? },
        _ => return Err(CodecError("unknown message")),
    })
}

/// Encoded bytes of one entry header in an append.
const META_LEN: usize = 24 + 16 + 1 + 8 + 4 + 4;

fn put_metas(b: &mut BytesMut, entries: &[EntryMeta]) {
    b.put_u32_le(entries.len() as u32);
    for meta in entries {
        put_meta(b, meta);
    }
}

fn get_metas(b: &mut Bytes) -> Result<Vec<EntryMeta>> {
    let count = get_u32(b)? as usize;
    if count > b.len() / META_LEN {
        return Err(CodecError("entry count exceeds frame"));
    }
    (0..count).map(|_| get_meta(b)).collect()
}

fn put_meta(b: &mut BytesMut, m: &EntryMeta) {
    put_log_id(b, m.id);
    put_epoch(b, m.prev);
    b.put_u8(m.kind as u8);
    b.put_i64_le(m.base_offset.0);
    b.put_u32_le(m.offset_span);
    b.put_u32_le(m.payload_len);
}

fn get_meta(b: &mut Bytes) -> Result<EntryMeta> {
    Ok(EntryMeta {
        id: get_log_id(b)?,
        prev: get_epoch(b)?,
        kind: EntryKind::from_code(get_u8(b)?).ok_or(CodecError("unknown entry kind"))?,
        base_offset: Offset(get_u64(b)? as i64),
        offset_span: get_u32(b)?,
        payload_len: get_u32(b)?,
    })
}

fn put_log_start(b: &mut BytesMut, s: &LogStart) {
    put_log_id(b, s.prev);
    b.put_i64_le(s.base_offset.0);
    b.put_i64_le(s.start_offset.0);
    put_bytes(b, &s.configuration);
    put_log_id(b, s.configuration_id);
    put_bytes(b, &s.producers);
    b.put_u64_le(s.producers_at.0);
}

fn get_log_start(b: &mut Bytes) -> Result<LogStart> {
    Ok(LogStart {
        prev: get_log_id(b)?,
        base_offset: Offset(get_u64(b)? as i64),
        start_offset: Offset(get_u64(b)? as i64),
        configuration: get_bytes(b)?,
        configuration_id: get_log_id(b)?,
        producers: get_bytes(b)?,
        producers_at: Index(get_u64(b)?),
    })
}

fn put_epoch(b: &mut BytesMut, e: Epoch) {
    b.put_u64_le(e.generation.0);
    b.put_u64_le(e.term.0);
}

fn get_epoch(b: &mut Bytes) -> Result<Epoch> {
    Ok(Epoch::new(get_u64(b)?, get_u64(b)?))
}

fn put_log_id(b: &mut BytesMut, id: LogId) {
    put_epoch(b, id.epoch);
    b.put_u64_le(id.index.0);
}

fn get_log_id(b: &mut Bytes) -> Result<LogId> {
    Ok(LogId { epoch: get_epoch(b)?, index: Index(get_u64(b)?) })
}

fn put_replica(b: &mut BytesMut, r: ReplicaId) {
    b.put_i32_le(r.node.0);
    b.put_u64_le(r.assignment);
    b.put_u128_le(r.directory);
}

fn get_replica(b: &mut Bytes) -> Result<ReplicaId> {
    Ok(ReplicaId { node: NodeId(get_i32(b)?), assignment: get_u64(b)?, directory: get_u128(b)? })
}

fn put_string(b: &mut BytesMut, s: &str) {
    put_bytes(b, s.as_bytes());
}

fn put_bytes(b: &mut BytesMut, s: &[u8]) {
    b.put_u32_le(s.len() as u32);
    b.extend_from_slice(s);
}

fn get_bytes(b: &mut Bytes) -> Result<Bytes> {
    let length = get_u32(b)? as usize;
    need(b, length)?;
    Ok(b.split_to(length))
}

fn get_string(b: &mut Bytes) -> Result<String> {
    String::from_utf8(get_bytes(b)?.to_vec()).map_err(|_| CodecError("text is not UTF-8"))
}

fn need(b: &Bytes, n: usize) -> Result<()> {
    if b.len() < n { Err(CodecError("truncated")) } else { Ok(()) }
}

fn get_u8(b: &mut Bytes) -> Result<u8> {
    need(b, 1)?;
    Ok(b.get_u8())
}

fn get_bool(b: &mut Bytes) -> Result<bool> {
    Ok(get_u8(b)? != 0)
}

fn get_i32(b: &mut Bytes) -> Result<i32> {
    need(b, 4)?;
    Ok(b.get_i32_le())
}

fn get_u32(b: &mut Bytes) -> Result<u32> {
    need(b, 4)?;
    Ok(b.get_u32_le())
}

fn get_u64(b: &mut Bytes) -> Result<u64> {
    need(b, 8)?;
    Ok(b.get_u64_le())
}

fn put_cleaned(b: &mut BytesMut, cleaned: Cleaned) {
    b.put_i64_le(cleaned.clean.0);
    b.put_i64_le(cleaned.dropped.0);
}

fn get_cleaned(b: &mut Bytes) -> Result<Cleaned> {
    Ok(Cleaned { clean: get_offset(b)?, dropped: get_offset(b)? })
}

fn put_offset_if(b: &mut BytesMut, offset: Option<Offset>) {
    b.put_u8(u8::from(offset.is_some()));
    b.put_i64_le(offset.unwrap_or_default().0);
}

fn get_offset_if(b: &mut Bytes) -> Result<Option<Offset>> {
    let is_there = get_bool(b)?;
    Ok(Some(get_offset(b)?).filter(|_| is_there))
}

/// An offset that counts what is there, so never below 0.
fn get_offset(b: &mut Bytes) -> Result<Offset> {
    let offset = get_u64(b)? as i64;
    if offset < 0 { Err(CodecError("negative offset")) } else { Ok(Offset(offset)) }
}

fn get_u128(b: &mut Bytes) -> Result<u128> {
    need(b, 16)?;
    Ok(b.get_u128_le())
}
