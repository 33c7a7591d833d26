//! Round trips of the peer protocol, and what is refused.

use super::*;

fn replica(node: i32) -> ReplicaId {
    ReplicaId { node: NodeId(node), assignment: 7, directory: 0xfeed << 100 }
}

fn meta(index: u64, payload_len: u32) -> EntryMeta {
    EntryMeta {
        id: LogId::new(1, 4, index),
        prev: Epoch::new(1, 3),
        kind: EntryKind::Records,
        base_offset: Offset(90),
        offset_span: 3,
        payload_len,
    }
}

fn bodies() -> Vec<Body> {
    let last = LogId::new(1, 2, 3);
    let start = LogStart {
        prev: last,
        base_offset: Offset(5),
        start_offset: Offset(6),
        configuration: Bytes::from_static(b"conf"),
        configuration_id: LogId::new(0, 1, 1),
        producers: Bytes::from_static(b"pids"),
        producers_at: Index(9),
    };
    vec![
        Body::PreVote { last, round: 8 },
        Body::PreVoteReply { granted: true, round: 8 },
        Body::Vote { last, transfer: true },
        Body::VoteReply { granted: false },
        Body::Append {
            prev: last,
            entries: vec![meta(4, 5), meta(5, 0)],
            commit: Index(2),
            cleaned: Some(Cleaned { clean: Offset(99), dropped: Offset(93) }),
        },
        Body::AppendAccepted { last },
        Body::Written { last },
        Body::AppendRejected { probed: Index(7), hint: last, last },
        Body::Beat { commit: Index(1), sequence: 2 },
        Body::BeatReply { sequence: 2, matched: last, last },
        Body::InstallLogStart { start },
        Body::LogStartInstalled { prev: last },
        Body::TimeoutNow,
        Body::Sealed,
        Body::Fenced,
        Body::Removed { configuration: last },
        Body::PreVoteIfAll { round: 9, vote: true },
        Body::VoteIfAll { vote: true },
        Body::InDoubt { matched: last, last, sequence: 4 },
        Body::AskEnd { nonce: 6, vote: true },
        Body::End { nonce: 6, last },
        Body::Fetch { from: Index(4), to: Index(9), needs: Some(Offset(77)), end: last },
        Body::Fetch { from: Index(4), to: Index(9), needs: None, end: last },
        Body::Fetched {
            entries: vec![meta(4, 5), meta(5, 0)],
            cleaned: Cleaned { clean: Offset(80), dropped: Offset(60) },
            of: last,
        },
    ]
}

fn envelope(body: Body) -> Envelope {
    let payloads = match &body {
        Body::Append { .. } | Body::Fetched { .. } => vec![Bytes::from_static(b"hello"), Bytes::new()],
        _ => Vec::new(),
    };
    Envelope {
        group: GroupId(12),
        from: replica(1),
        to: replica(2),
        from_incarnation: 3,
        to_incarnation: 1 << 90,
        message: Message { epoch: Epoch::new(1, 4), body },
        payloads,
    }
}

fn flat(chunks: Vec<Bytes>) -> Bytes {
    let all: Vec<u8> = chunks.iter().flat_map(|c| c.iter().copied()).collect();
    let length = u32::from_le_bytes(all[..4].try_into().expect("4 bytes")) as usize;
    assert_eq!(length, all.len() - 4);
    Bytes::from(all).slice(4..)
}

#[test]
fn every_message_survives_the_round_trip() {
    let sent: Vec<Envelope> = bodies().into_iter().map(envelope).collect();
    let mut frame = RaftFrame::default();
    for e in &sent {
        frame.push(e.clone());
    }
    assert_eq!(decode(flat(frame.take())), Ok(Frame::Raft(sent)));
    assert!(frame.is_empty());
}

#[test]
fn other_frames_survive_the_round_trip() {
    let hello = Hello {
        cluster: "c".into(),
        node: NodeId(4),
        directory: 1 << 99,
        boot: 77,
        address: "127.0.0.1:1".into(),
    };
    assert_eq!(decode(flat(encode_hello(&hello))), Ok(Frame::Hello(hello)));
    let hint = Hint {
        group: GroupId(3),
        epoch: Epoch::new(0, 9),
        leader: NodeId(2),
        in_sync: vec![NodeId(2), NodeId(1)],
    };
    assert_eq!(decode(flat(encode_hints(std::slice::from_ref(&hint)))), Ok(Frame::Hints(vec![hint])));
    let body = Bytes::from_static(b"{}");
    assert_eq!(decode(flat(encode_request(5, b"{}"))), Ok(Frame::Request { id: 5, body: body.clone() }));
    assert_eq!(decode(flat(encode_response(6, b"{}"))), Ok(Frame::Response { id: 6, body }));
}

#[test]
fn every_flipped_or_missing_byte_is_refused() {
    let mut frame = RaftFrame::default();
    for body in bodies() {
        frame.push(envelope(body));
    }
    let good = flat(frame.take());
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 0x40;
        assert!(decode(Bytes::from(bad)).is_err(), "flip at {at}");
        assert!(decode(good.slice(..at)).is_err(), "cut at {at}");
    }
}

#[test]
fn small_and_empty_payloads_do_not_hold_their_frame() {
    let mut frame = RaftFrame::default();
    frame.push(envelope(bodies()[4].clone()));
    let bytes = flat(frame.take());
    let (from, to) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
    let Ok(Frame::Raft(envelopes)) = decode(bytes) else { panic!("not a Raft frame") };
    assert_eq!(envelopes[0].payloads.len(), 2);
    for payload in &envelopes[0].payloads {
        let at = payload.as_ptr() as usize;
        assert!(payload.is_unique() || payload.is_empty());
        assert!(at < from || at >= to, "{payload:?} lies in its frame");
    }
}

#[test]
fn counts_larger_than_the_frame_are_refused_without_allocating() {
    let frames = [
        (RAFT, vec![0xff; 8]),
        (HINTS, vec![0xff; 4]),
        (HELLO, vec![0xff; 4]),
        (BEATS, vec![0xff; 24]),
        (BEAT_ANSWER, vec![0xff; 24]),
    ];
    for (kind, body) in frames {
        let mut b = start();
        b.extend_from_slice(&body);
        assert!(decode(flat(seal(b, kind, Vec::new()))).is_err());
    }
}
