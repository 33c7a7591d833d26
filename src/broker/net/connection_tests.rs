//! One connection over in-memory and loopback sockets: order, overlap, limits, deadlines.

use super::*;
use bytes::{BufMut, BytesMut};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const METADATA: i16 = 3;

fn limits() -> Limits {
    Limits {
        max_request_bytes: 4 * 1024 * 1024,
        first_byte: Duration::from_secs(10),
        idle: Duration::from_secs(10),
    }
}

/// A frame with its length prefix: key, version, correlation id, then `payload`.
fn frame(api_key: i16, correlation_id: i32, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_i32((MIN_FRAME + payload.len()) as i32);
    bytes.put_i16(api_key);
    bytes.put_i16(0);
    bytes.put_i32(correlation_id);
    bytes.put_slice(payload);
    bytes
}

fn correlation(frame: &[u8]) -> i32 {
    i32::from_be_bytes(frame[4..8].try_into().unwrap())
}

fn answer(id: i32) -> Answer {
    Answer::Frame(Bytes::copy_from_slice(&id.to_be_bytes()))
}

/// Runs a connection; the answer to every frame is what `start` makes of it.
fn open<H>(limits: Limits, drain: &CancellationToken, start: H) -> (DuplexStream, JoinHandle<CloseReason>)
where
    H: FnMut(BytesMut) -> Result<Work, CloseReason> + Send + 'static,
{
    open_through(Turnstile::default(), limits, drain, start)
}

fn open_through<H>(
    turnstile: Turnstile,
    limits: Limits,
    drain: &CancellationToken,
    start: H,
) -> (DuplexStream, JoinHandle<CloseReason>)
where
    H: FnMut(BytesMut) -> Result<Work, CloseReason> + Send + 'static,
{
    let (client, server) = duplex(64 * 1024);
    let connection = Connection::new(server, limits, Arc::default(), drain.clone(), turnstile, start);
    (client, tokio::spawn(connection.run()))
}

/// Answers at once with the correlation id.
fn echo(frame: BytesMut) -> Result<Work, CloseReason> {
    let id = correlation(&frame);
    Ok(Box::pin(async move { Ok(answer(id)) }))
}

type Gate = (i32, oneshot::Sender<()>);

/// Work that a test finishes when it likes; notes the order in which requests were started.
#[derive(Clone, Default)]
struct Gates {
    started: Arc<Mutex<Vec<i32>>>,
    open: Arc<Mutex<Vec<Gate>>>,
}

impl Gates {
    fn start(&self, frame: &[u8]) -> Result<Work, CloseReason> {
        let id = correlation(frame);
        let (sender, receiver) = oneshot::channel();
        self.started.lock().unwrap().push(id);
        self.open.lock().unwrap().push((id, sender));
        Ok(Box::pin(async move {
            let _ = receiver.await;
            Ok(answer(id))
        }))
    }

    fn finish(&self, id: i32) {
        let mut open = self.open.lock().unwrap();
        let place = open.iter().position(|(gate, _)| *gate == id).expect("the request was started");
        let _ = open.remove(place).1.send(());
    }

    fn started(&self) -> Vec<i32> {
        self.started.lock().unwrap().clone()
    }

    async fn started_are(&self, expected: &[i32]) {
        for _ in 0..200 {
            if self.started() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(self.started(), expected);
    }
}

async fn ids(client: &mut DuplexStream, count: usize) -> Vec<i32> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(client.read_i32().await.unwrap());
    }
    ids
}

#[tokio::test]
async fn frames_in_any_pieces_are_answered_in_order() {
    let sizes = [0, 1, 3000, LARGE_FRAME, LARGE_FRAME + 17, 5, TRUSTED_BYTES + 12_345, 2, 70_000, 1];
    for piece in [1_usize, 7, 4096, 1 << 20] {
        let sums = Arc::new(Mutex::new(Vec::new()));
        let seen = sums.clone();
        let (mut client, task) = open(limits(), &CancellationToken::new(), move |frame| {
            seen.lock().unwrap().push(frame[MIN_FRAME..].iter().map(|byte| u64::from(*byte)).sum::<u64>());
            echo(frame)
        });
        let mut bytes = BytesMut::new();
        let mut expected = Vec::new();
        // The byte-wise round leaves the largest out: it would take millions of turns.
        let sizes = sizes.iter().filter(|size| piece > 1 || **size < TRUSTED_BYTES);
        for (id, size) in sizes.enumerate() {
            let payload: Vec<u8> = (0..*size).map(|place| (place * 31 + id) as u8).collect();
            expected.push(payload.iter().map(|byte| u64::from(*byte)).sum::<u64>());
            bytes.put(frame(PRODUCE, id as i32, &payload));
        }
        let count = expected.len();
        let (mut reader, mut writer) = tokio::io::split(client);
        let write = tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                writer.write_all(piece).await.unwrap();
            }
            writer
        });
        for id in 0..count {
            assert_eq!(reader.read_i32().await.unwrap(), id as i32, "pieces of {piece}");
        }
        client = reader.unsplit(write.await.unwrap());
        drop(client);
        assert!(matches!(task.await.unwrap(), CloseReason::Eof));
        assert_eq!(*sums.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn produce_requests_overlap_and_are_answered_in_order() {
    let gates = Gates::default();
    let seen = gates.clone();
    let (mut client, _task) = open(limits(), &CancellationToken::new(), move |frame| seen.start(&frame));
    for id in 1..=3 {
        client.write_all(&frame(PRODUCE, id, b"x")).await.unwrap();
    }
    gates.started_are(&[1, 2, 3]).await;
    gates.finish(3);
    gates.finish(2);
    let early = tokio::time::timeout(Duration::from_millis(30), client.read_i32()).await;
    assert!(early.is_err(), "an answer overtook the first request's");
    gates.finish(1);
    assert_eq!(ids(&mut client, 3).await, [1, 2, 3]);
}

#[tokio::test]
async fn parked_fetch_lets_a_produce_start_but_holds_other_requests_back() {
    let gates = Gates::default();
    let seen = gates.clone();
    let (mut client, _task) = open(limits(), &CancellationToken::new(), move |frame| seen.start(&frame));
    for (key, id) in [(FETCH, 1), (PRODUCE, 2), (METADATA, 3), (PRODUCE, 4)] {
        client.write_all(&frame(key, id, b"")).await.unwrap();
    }
    gates.started_are(&[1, 2]).await;
    gates.finish(2);
    gates.finish(1);
    assert_eq!(ids(&mut client, 2).await, [1, 2]);
    gates.started_are(&[1, 2, 3]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(gates.started(), [1, 2, 3], "nothing runs beside a Metadata request");
    gates.finish(3);
    gates.started_are(&[1, 2, 3, 4]).await;
    gates.finish(4);
    assert_eq!(ids(&mut client, 2).await, [3, 4]);
}

/// Once 64 frames of 65 bytes, each of them the next epoch of one large fetch session, were 64 whole answers in memory.
#[tokio::test]
async fn fetch_behind_an_unanswered_fetch_waits_for_its_answer() {
    let gates = Gates::default();
    let starting = gates.clone();
    let (mut client, _task) = open(limits(), &CancellationToken::new(), move |frame| starting.start(&frame));
    for (key, id) in [(FETCH, 1), (PRODUCE, 2), (FETCH, 3), (FETCH, 4)] {
        client.write_all(&frame(key, id, b"")).await.unwrap();
    }
    gates.started_are(&[1, 2]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    gates.started_are(&[1, 2]).await;
    gates.finish(2);
    tokio::time::sleep(Duration::from_millis(20)).await;
    gates.started_are(&[1, 2]).await;
    gates.finish(1);
    gates.started_are(&[1, 2, 3]).await;
    gates.finish(3);
    gates.started_are(&[1, 2, 3, 4]).await;
    gates.finish(4);
    assert_eq!(ids(&mut client, 4).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn request_behind_the_turnstile_holds_later_ones_back_even_behind_a_parked_fetch() {
    let (gates, passes) = (Gates::default(), Gates::default());
    let turnstile = Turnstile::default();
    let (seen, pass, entrance) = (gates.clone(), passes.clone(), turnstile.clone());
    // A Produce passes the turnstile when its pass is finished, and is done when its gate is.
    let start = move |frame: BytesMut| {
        let work = seen.start(&frame)?;
        if api_key(&frame) == FETCH {
            return Ok(work);
        }
        let (passing, turn) = (pass.start(&frame)?, entrance.enter());
        let work: Work = Box::pin(async move {
            passing.await?;
            drop(turn);
            work.await
        });
        Ok(work)
    };
    let (mut client, _task) = open_through(turnstile, limits(), &CancellationToken::new(), start);
    for (key, id) in [(FETCH, 1), (PRODUCE, 2), (PRODUCE, 3)] {
        client.write_all(&frame(key, id, b"")).await.unwrap();
    }
    gates.started_are(&[1, 2]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(gates.started(), [1, 2], "an append could have been overtaken");
    passes.finish(2);
    gates.started_are(&[1, 2, 3]).await;
    passes.finish(3);
    for id in [3, 2, 1] {
        gates.finish(id);
    }
    assert_eq!(ids(&mut client, 3).await, [1, 2, 3]);
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let gates = Gates::default();
    let seen = gates.clone();
    let (mut client, _task) = open(limits(), &CancellationToken::new(), move |frame| seen.start(&frame));
    let count = MAX_QUEUED as i32 + 10;
    for id in 0..count {
        client.write_all(&frame(PRODUCE, id, b"")).await.unwrap();
    }
    let first: Vec<i32> = (0..MAX_QUEUED as i32).collect();
    gates.started_are(&first).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(gates.started().len(), MAX_QUEUED);
    for id in 0..count {
        gates.started_are(&(0..count.min(id + MAX_QUEUED as i32)).collect::<Vec<_>>()).await;
        gates.finish(id);
        assert_eq!(client.read_i32().await.unwrap(), id);
    }
}

#[tokio::test]
async fn sliced_and_silent_answers_keep_bytes_and_order() {
    let (mut client, _task) = open(limits(), &CancellationToken::new(), |frame| {
        let id = correlation(&frame);
        let answer = match id {
            1 => Answer::Silent,
            _ => {
                Answer::Slices((0..500u32).map(|n| Bytes::from(vec![n as u8; 1 + n as usize * 13])).collect())
            }
        };
        Ok(Box::pin(async move { Ok(answer) }))
    });
    let expected: Vec<u8> = (0..500u32).flat_map(|n| vec![n as u8; 1 + n as usize * 13]).collect();
    for id in 1..=3 {
        client.write_all(&frame(PRODUCE, id, b"")).await.unwrap();
    }
    for _ in 0..2 {
        let mut bytes = vec![0; expected.len()];
        client.read_exact(&mut bytes).await.unwrap();
        assert!(bytes == expected);
    }
}

#[tokio::test]
async fn frame_size_out_of_bounds_closes_the_connection() {
    for size in [-1, 0, 7, limits().max_request_bytes as i32 + 1, i32::MAX, i32::MIN] {
        let (mut client, task) = open(limits(), &CancellationToken::new(), echo);
        client.write_i32(size).await.unwrap();
        let reason = task.await.unwrap();
        assert!(
            matches!(reason, CloseReason::Frame(FrameError::Size(claimed, _)) if claimed == i64::from(size))
        );
    }
}

#[tokio::test]
async fn refused_frame_closes_the_connection_with_its_reason() {
    let (mut client, task) =
        open(limits(), &CancellationToken::new(), |_| Err(FrameError::Unsupported(999, 1).into()));
    client.write_all(&frame(999, 1, b"")).await.unwrap();
    assert_eq!(task.await.unwrap().to_string(), "api key 999 version 1 is not supported");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn claimed_length_alone_takes_no_memory() {
    let mut input = Input::default();
    input.buffer.put_i32(64 << 20);
    assert!(input.next_frame(100 << 20).unwrap().is_none());
    let mut source: &[u8] = &[1; 10_000];
    poll_fn(|cx| input.poll_read(&mut source, cx)).await.unwrap();
    assert!(input.buffer.capacity() <= 2 * TRUSTED_BYTES, "{} bytes", input.buffer.capacity());
}

/// Reads what one small frame takes, and takes it.
async fn read_small(input: &mut Input) -> BytesMut {
    let bytes = frame(METADATA, 1, &[7; 1000]);
    let mut source: &[u8] = &bytes;
    loop {
        if let Some(frame) = input.next_frame(1 << 20).unwrap() {
            return frame;
        }
        poll_fn(|cx| input.poll_read(&mut source, cx)).await.unwrap();
    }
}

#[tokio::test]
async fn connection_whose_requests_are_forgotten_keeps_a_small_buffer() {
    let mut input = Input::default();
    for _ in 0..1000 {
        drop(read_small(&mut input).await);
    }
    assert!(input.buffer.capacity() <= 2 * FIRST_READ_BYTES, "{} bytes", input.buffer.capacity());
}

#[tokio::test]
async fn connection_whose_requests_are_kept_gets_large_buffers() {
    let (mut input, mut kept, mut most) = (Input::default(), Vec::new(), 0);
    for _ in 0..200 {
        kept.push(read_small(&mut input).await);
        most = most.max(input.buffer.capacity());
    }
    assert!((READ_BYTES / 2..=READ_BYTES).contains(&most), "{most} bytes");
    assert!(kept.iter().all(|frame| frame.len() > 1000));
}

#[tokio::test]
async fn silent_client_is_closed_at_the_first_byte_deadline() {
    let limits = Limits { first_byte: Duration::from_millis(30), ..limits() };
    let (_client, task) = open(limits, &CancellationToken::new(), echo);
    assert!(matches!(task.await.unwrap(), CloseReason::FirstByte(_)));
}

#[tokio::test]
async fn begun_frame_that_stalls_is_closed_and_an_idle_connection_too() {
    let limits = Limits { idle: Duration::from_millis(40), ..limits() };
    let (mut client, task) = open(limits, &CancellationToken::new(), echo);
    client.write_all(&[0, 0, 0]).await.unwrap();
    assert!(matches!(task.await.unwrap(), CloseReason::Stalled(_)));
    let (mut client, task) = open(limits, &CancellationToken::new(), echo);
    client.write_all(&frame(METADATA, 1, b"")).await.unwrap();
    assert_eq!(client.read_i32().await.unwrap(), 1);
    assert!(matches!(task.await.unwrap(), CloseReason::Idle(_)));
}

#[tokio::test]
async fn work_under_way_is_not_idleness() {
    let gates = Gates::default();
    let seen = gates.clone();
    let limits = Limits { idle: Duration::from_millis(20), ..limits() };
    let (mut client, _task) = open(limits, &CancellationToken::new(), move |frame| seen.start(&frame));
    client.write_all(&frame(FETCH, 1, b"")).await.unwrap();
    gates.started_are(&[1]).await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    gates.finish(1);
    assert_eq!(client.read_i32().await.unwrap(), 1);
}

#[tokio::test]
async fn client_that_does_not_read_is_closed() {
    let limits = Limits { idle: Duration::from_millis(40), ..limits() };
    let (mut client, task) = open(limits, &CancellationToken::new(), |_| {
        Ok(Box::pin(async { Ok(Answer::Frame(Bytes::from(vec![0; 1 << 20]))) }))
    });
    client.write_all(&frame(FETCH, 1, b"")).await.unwrap();
    assert!(matches!(task.await.unwrap(), CloseReason::SlowReader(_)));
}

#[tokio::test]
async fn client_that_leaves_ends_a_parked_fetch_but_not_an_append() {
    let gates = Gates::default();
    let seen = gates.clone();
    let (mut client, task) = open(limits(), &CancellationToken::new(), move |frame| seen.start(&frame));
    client.write_all(&frame(FETCH, 1, b"")).await.unwrap();
    gates.started_are(&[1]).await;
    drop(client);
    assert!(matches!(task.await.unwrap(), CloseReason::Eof));

    let gates = Gates::default();
    let seen = gates.clone();
    let (mut client, task) = open(limits(), &CancellationToken::new(), move |frame| seen.start(&frame));
    client.write_all(&frame(PRODUCE, 1, b"")).await.unwrap();
    client.write_all(&frame(PRODUCE, 2, b"")).await.unwrap();
    client.shutdown().await.unwrap();
    gates.started_are(&[1, 2]).await;
    gates.finish(2);
    gates.finish(1);
    assert_eq!(ids(&mut client, 2).await, [1, 2]);
    assert!(matches!(task.await.unwrap(), CloseReason::Eof));
}

#[tokio::test]
async fn draining_connection_answers_what_it_has_read_and_closes() {
    let gates = Gates::default();
    let seen = gates.clone();
    let drain = CancellationToken::new();
    let (mut client, task) = open(limits(), &drain, move |frame| seen.start(&frame));
    client.write_all(&frame(PRODUCE, 1, b"")).await.unwrap();
    gates.started_are(&[1]).await;
    drain.cancel();
    gates.finish(1);
    assert_eq!(ids(&mut client, 1).await, [1]);
    assert!(matches!(task.await.unwrap(), CloseReason::Drained));
}

#[tokio::test]
async fn failed_work_closes_the_connection_after_earlier_answers() {
    let (mut client, task) = open(limits(), &CancellationToken::new(), |frame| match correlation(&frame) {
        2 => Ok(Box::pin(async { Err(CloseReason::SilentProduce(6)) })),
        id => Ok(Box::pin(async move { Ok(answer(id)) })),
    });
    client.write_all(&frame(PRODUCE, 1, b"")).await.unwrap();
    assert_eq!(client.read_i32().await.unwrap(), 1);
    client.write_all(&frame(PRODUCE, 2, b"")).await.unwrap();
    assert!(matches!(task.await.unwrap(), CloseReason::SilentProduce(6)));
}
