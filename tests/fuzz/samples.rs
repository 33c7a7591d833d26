//! The corpus, made by the product's own encoders: `UPDATE_GOLDEN=1 cargo test --release --test fuzz samples` writes it (the bodies of
//! requests, which the frames are made of: `UPDATE_GOLDEN=1 cargo test --release --lib wire::tests::corpus`, before). Inputs that once
//! failed stand beside these under names of their own.

use super::{corpus, inputs};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable, StrBytes};
use kontiki::broker::groups::Committed;
use kontiki::broker::groups::records::{
    StoredGroup, StoredMember, group_key, offset_key, write_group, write_offset,
};
use kontiki::raftlog::codec::{self, BeatAnswer, Beats, Envelope, Hello, Hint, RaftFrame};
use kontiki::raftlog::message::{Body, Message};
use kontiki::segment::{
    Cleaned, EntryKind, EntryMeta, Epoch, GroupId, Index, LogId, LogStart, NodeId, Offset, ReplicaId,
};
use kontiki::wire::record::RecordBatchBuilder;
use kontiki::wire::{Compression, bounds, versions};

type Samples = Vec<(String, Vec<u8>)>;

/// A body of the corpus of requests, by the name its file has.
fn body(name: &str, version: i16) -> Vec<u8> {
    let path = corpus("request").join(format!("{name}-v{version}"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))[2..].to_vec()
}

fn frame(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("rdkafka")));
    let mut bytes = BytesMut::new();
    header.encode(&mut bytes, if versions::is_flexible(key, version) { 2 } else { 1 }).expect("valid");
    bytes.put_slice(body);
    [&(bytes.len() as i32).to_be_bytes()[..], &bytes].concat()
}

/// Lowest and highest version of each API, as two requests on one connection.
fn frames() -> Samples {
    let of = |row: &versions::ApiRange| {
        let one = |version| frame(row.key, version, &body(row.name, version));
        (row.name.to_owned(), [one(row.served_min), one(row.max)].concat())
    };
    let mut samples: Samples = versions::supported().iter().map(of).collect();
    // KIP-511: a version that nobody knows.
    let unknown = [0, 18, 0, 99, 0, 0, 0, 1, 0xff, 0xff];
    samples.push(("ApiVersions-unknown".to_owned(), [&10i32.to_be_bytes()[..], &unknown].concat()));
    samples
}

fn batches() -> Samples {
    let mut samples = Samples::new();
    for codec in Compression::ALL {
        let mut builder = RecordBatchBuilder::new(codec);
        builder.producer(9, 0, 4);
        for i in 0..5i64 {
            let value = format!("value {i} ").repeat(1 + 6 * i as usize);
            let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(b"1")), (b"h", None)];
            let key = (i != 2).then_some(&b"key"[..]);
            builder.append(
                1_699_999_999_000 + i * 300,
                key,
                Some(value.as_bytes()),
                &headers[..i as usize % 3],
            );
        }
        builder.append(1_700_000_000_500, None, None, &[]);
        let batch = builder.build().expect("six records");
        samples.push((codec.name().to_owned(), [&[1], &batch[..]].concat()));
        samples.push((format!("{codec}-append-time"), [&[2], &batch[..]].concat()));
    }
    samples
}

fn recovery() -> Samples {
    let sample = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    vec![
        sample("killed", &[0]),
        sample("stopped", &[1]),
        sample("power", &[2]),
        sample("flips", &[0, 0, 1, 0x40, 0x01, 0x10, 0, 3, 0x20, 0x01, 0x80]),
        sample("cuts", &[1, 1, 2, 0x30, 0x01, 1, 4, 0x10, 0x01]),
        sample("lost", &[0, 2, 5, 0, 0]),
        sample("bytes", &[2, 3, 0, 0x01, 0x00, 4, 0, 0, 0, 0]),
        sample("moved", &[0, 4, 1, 0x20, 0x00, 0x08, 0x00, 0x02, 0x00]),
    ]
}

fn record(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let length = value.map_or(u16::MAX, |value| value.len() as u16);
    [&(key.len() as u16).to_be_bytes()[..], &length.to_be_bytes(), key, value.unwrap_or_default()].concat()
}

fn groups() -> Samples {
    // ConsumerProtocolSubscription v1 of one topic.
    let subscription = Bytes::from_static(&[0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0]);
    let member = |id: &str| StoredMember {
        id: id.to_owned(),
        instance: (id == "b").then(|| "static".to_owned()),
        client_id: "consumer".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        rebalance_ms: 300_000,
        session_ms: 45_000,
        subscription: subscription.clone(),
        assignment: subscription.clone(),
    };
    let stable = StoredGroup {
        protocol_type: "consumer".to_owned(),
        generation: 4,
        protocol: Some("range".to_owned()),
        leader: Some("a".to_owned()),
        since_ms: 1_699_999_000_000,
        members: vec![member("a"), member("b")],
    };
    let empty = StoredGroup { protocol_type: "consumer".to_owned(), generation: 5, ..StoredGroup::default() };
    let offset = |until_ms: Option<i64>| Committed {
        offset: 42,
        leader_epoch: if until_ms.is_some() { -1 } else { 3 },
        metadata: "m".to_owned(),
        at_ms: 1_699_999_500_000,
        until_ms,
    };
    let group = |group: &StoredGroup| record(&group_key("g"), Some(&write_group(group)));
    let committed = |until| record(&offset_key("g", "t", 0), Some(&write_offset(&offset(until))));
    vec![
        ("stable".to_owned(), [group(&stable), committed(None)].concat()),
        ("empty".to_owned(), [committed(None), group(&empty)].concat()),
        ("simple".to_owned(), [committed(Some(1_700_000_100_000)), committed(None)].concat()),
        (
            "ended".to_owned(),
            [
                committed(None),
                group(&stable),
                record(&offset_key("g", "t", 0), None),
                record(&group_key("g"), None),
            ]
            .concat(),
        ),
    ]
}

fn bodies() -> Vec<(Body, Vec<Bytes>)> {
    let last = LogId::new(1, 2, 3);
    let meta = |index, payload_len| EntryMeta {
        id: LogId::new(1, 4, index),
        prev: Epoch::new(1, 3),
        kind: EntryKind::Records,
        base_offset: Offset(90),
        offset_span: 3,
        payload_len,
    };
    let start = LogStart {
        prev: last,
        base_offset: Offset(5),
        start_offset: Offset(6),
        configuration: Bytes::from_static(b"conf"),
        producers: Bytes::from_static(b"pids"),
        ..LogStart::default()
    };
    let payloads = vec![Bytes::from_static(b"hello"), Bytes::new()];
    vec![
        (Body::PreVote { last, round: 8 }, Vec::new()),
        (Body::VoteReply { granted: true }, Vec::new()),
        (
            Body::Append {
                prev: last,
                entries: vec![meta(4, 5), meta(5, 0)],
                commit: Index(2),
                cleaned: Some(Cleaned { clean: Offset(99), dropped: Offset(93) }),
            },
            payloads.clone(),
        ),
        (Body::AppendRejected { probed: Index(7), hint: last, last }, Vec::new()),
        (Body::BeatReply { sequence: 2, matched: last, last }, Vec::new()),
        (Body::InstallLogStart { start }, Vec::new()),
        (Body::Fetch { from: Index(4), to: Index(9), needs: Some(Offset(77)), end: last }, Vec::new()),
        (
            Body::Fetched {
                entries: vec![meta(4, 5), meta(5, 0)],
                cleaned: Cleaned { clean: Offset(80), dropped: Offset(60) },
                of: last,
            },
            payloads,
        ),
    ]
}

fn peers() -> Samples {
    let replica = |node| ReplicaId { node: NodeId(node), assignment: 7, directory: 9 };
    let envelope = |(body, payloads): (Body, Vec<Bytes>)| Envelope {
        group: GroupId(12),
        from: replica(1),
        to: replica(2),
        from_incarnation: 3,
        to_incarnation: 1 << 90,
        message: Message { epoch: Epoch::new(1, 4), body },
        payloads,
    };
    let mut raft = RaftFrame::default();
    bodies().into_iter().for_each(|body| raft.push(envelope(body)));
    let beat = envelope((Body::Beat { commit: Index(4), sequence: 2 }, Vec::new()));
    let beats = Beats { session: 1, number: 2, defined: vec![(3, beat)], named: vec![5, 6] };
    let hello = Hello { cluster: "c".into(), node: NodeId(1), directory: 9, boot: 8, address: "h:1".into() };
    let hint =
        Hint { group: GroupId(3), epoch: Epoch::new(0, 4), leader: NodeId(1), in_sync: vec![NodeId(1)] };
    let answer = BeatAnswer { session: 1, number: 2, exceptions: vec![3] };
    // Length and CRC are not part of the input.
    let sample = |name: &str, chunks: Vec<Bytes>| (name.to_owned(), chunks.concat()[8..].to_vec());
    vec![
        sample("hello", codec::encode_hello(&hello)),
        sample("raft", raft.take()),
        sample("beats", codec::encode_beats(&beats)),
        sample("beat-answer", codec::encode_answer(&answer)),
        sample("hints", codec::encode_hints(&[hint])),
        sample("request", codec::encode_request(5, b"{}")),
        sample("response", codec::encode_response(5, b"{}")),
    ]
}

#[test]
fn samples_of_every_target_are_checked_in() {
    let all = [
        ("frame", frames()),
        ("batch", batches()),
        ("recovery", recovery()),
        ("groups", groups()),
        ("peer", peers()),
    ];
    for (target, samples) in all {
        for (name, bytes) in samples {
            let path = corpus(target).join(name);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::create_dir_all(corpus(target)).expect("writable");
                std::fs::write(&path, bytes).expect("writable");
            } else {
                // Not the same bytes: codecs compress a little differently from version to version.
                assert!(path.is_file(), "{} is missing", path.display());
            }
        }
    }
}

#[test]
fn corpus_of_requests_has_every_version_and_each_is_valid() {
    for row in versions::supported() {
        for version in row.served_min..=row.max {
            let result = bounds::check(row.key, version, &body(row.name, version));
            assert_eq!(result, Ok(()), "{} v{version}", row.name);
        }
    }
    let count: usize = versions::supported().iter().map(|r| (r.max - r.served_min) as usize + 1).sum();
    assert!(inputs("request").len() >= count);
}
