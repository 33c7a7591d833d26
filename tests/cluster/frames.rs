//! Frames no client would send: random, truncated, with lengths and counts that promise gigabytes.
//! The connection must be closed, memory bounded, and a client beside it undisturbed.

use super::foreign::Writer;
use super::kafka::{connect, frame, metadata_request, read_frame};
use super::system::{Cluster, System};
use super::{exclusive, seeded};
use bytes::{BufMut, BytesMut};
use rand::{Rng, RngCore};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

/// What all the abuse together may cost in resident memory. (A JVM takes its whole heap before it collects.)
fn growth_bytes_max(system: System) -> u64 {
    if system == System::Kafka { 700 << 20 } else { 96 << 20 }
}

/// Sends bytes and reads until the broker closes. `half_close` says that nothing more will come; without it the broker
/// must see from the bytes alone that they are no request.
fn must_be_closed(address: SocketAddr, bytes: &[u8], half_close: bool, what: &str) {
    let mut stream = connect(address).expect("a connection");
    let limit = Instant::now() + Duration::from_secs(10);
    // The broker may close while we still write.
    if stream.write_all(bytes).is_ok() && half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => panic!("{what}: {e}"),
        }
        assert!(Instant::now() < limit, "{what}: still open after 10 s");
    }
}

/// Requests whose arrays claim more elements than their bytes could hold: (name, frame).
fn count_bombs() -> Vec<(&'static str, bytes::Bytes)> {
    let varint_max = [0xff, 0xff, 0xff, 0xff, 0x07];
    let mut bombs = Vec::new();
    let old = |body: &mut BytesMut| body.put_i32(i32::MAX);
    let mut metadata = BytesMut::new();
    old(&mut metadata);
    bombs.push(("Metadata v4", frame(3, 4, 1, &metadata)));
    bombs.push(("Metadata v12", frame(3, 12, 2, &varint_max)));
    let mut produce = BytesMut::new();
    produce.put_i16(-1); // transactional id
    produce.put_i16(-1); // acks
    produce.put_i32(1000);
    old(&mut produce);
    bombs.push(("Produce v7", frame(0, 7, 1, &produce)));
    let mut produce = BytesMut::new();
    produce.put_u8(0);
    produce.put_i16(-1);
    produce.put_i32(1000);
    produce.put_slice(&varint_max);
    bombs.push(("Produce v9", frame(0, 9, 2, &produce)));
    let mut fetch = BytesMut::new();
    fetch.put_i32(-1);
    fetch.put_i32(10);
    fetch.put_i32(1);
    fetch.put_i32(1 << 20);
    fetch.put_u8(0);
    fetch.put_i32(0);
    fetch.put_i32(-1);
    fetch.put_slice(&varint_max);
    bombs.push(("Fetch v12", frame(1, 12, 2, &fetch)));
    let mut offsets = BytesMut::new();
    offsets.put_i32(-1);
    offsets.put_u8(0);
    offsets.put_slice(&varint_max);
    bombs.push(("ListOffsets v7", frame(2, 7, 2, &offsets)));
    bombs.push(("CreateTopics v5", frame(19, 5, 2, &varint_max)));
    bombs.push(("IncrementalAlterConfigs v1", frame(44, 1, 2, &varint_max)));
    bombs
}

/// A broker answers ordinary requests on a new connection.
fn still_serves(address: SocketAddr, topic: &str) {
    let mut stream = connect(address).expect("a connection");
    stream.write_all(&metadata_request(topic)).expect("a request");
    read_frame(&mut stream).expect("an answer");
}

#[test]
fn hostile_frames_close_their_connection_and_disturb_nobody() {
    let _one_at_a_time = exclusive();
    let (seed, mut rng) = seeded();
    eprintln!("seed {seed}; replay: KONTIKI_SEED={seed} cargo test --release --test cluster hostile");
    let mut cluster = Cluster::start("frames");
    let mut writer = Writer::start(&cluster, "undisturbed", 3, &[]);
    cluster.await_in_sync("undisturbed", Duration::from_secs(60));
    let address = cluster.address(1);
    let before = cluster.resident_bytes(1);
    for _ in 0..200 {
        let mut bytes = vec![0; rng.random_range(1..2000)];
        rng.fill_bytes(&mut bytes);
        must_be_closed(address, &bytes, true, "random bytes");
        // With a true length in front the garbage reaches the decoder.
        let mut framed = (bytes.len() as u32).to_be_bytes().to_vec();
        framed.extend(&bytes);
        must_be_closed(address, &framed, true, "random frame");
    }
    let whole = metadata_request("undisturbed");
    for cut in 0..whole.len() {
        must_be_closed(address, &whole[..cut], true, "truncated frame");
        // The same cut with a length that fits: a request that ends too early.
        if cut > 4 {
            let mut short = ((cut - 4) as u32).to_be_bytes().to_vec();
            short.extend(&whole[4..cut]);
            must_be_closed(address, &short, true, "request that ends early");
        }
    }
    for length in [i32::MAX, -1, i32::MIN, 1 << 30] {
        must_be_closed(address, &length.to_be_bytes(), false, "length bomb");
        let mut with_body = length.to_be_bytes().to_vec();
        with_body.extend(&whole[4..]);
        must_be_closed(address, &with_body, false, "length bomb with a request");
    }
    for (what, bomb) in count_bombs() {
        for _ in 0..20 {
            must_be_closed(address, &bomb, false, what);
        }
    }
    still_serves(address, "undisturbed");
    cluster.assert_running();
    let grown = cluster.resident_bytes(1).saturating_sub(before);
    assert!(grown < growth_bytes_max(cluster.system), "resident memory grew by {} MiB", grown >> 20);
    let mark = super::faults::now_us();
    assert!(
        writer.next_ack(Duration::from_secs(5), |a| a.sent_us > mark).is_some(),
        "the writer beside it stalled"
    );
    let history = writer.finish();
    let slowest =
        history.acks.iter().map(|a| (a.acked_us - a.sent_us) / 1000).max().expect("acknowledgements");
    assert!(history.infos.is_empty(), "{} records of the writer beside it failed", history.infos.len());
    assert!(slowest < 5000, "an acknowledgement beside it took {slowest} ms");
    println!("hostile frames: grown {} MiB, slowest ack beside them {slowest} ms", grown >> 20);
}
