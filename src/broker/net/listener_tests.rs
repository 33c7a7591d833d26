//! The accept loop over loopback sockets: limits, cancellation, drain.

use super::super::super::config::NodeConfig;
use super::super::super::dispatch::Answer;
use super::super::super::node::Published;
use super::*;
use crate::segment::NodeId;
use bytes::Bytes;
use std::sync::atomic::AtomicBool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);
/// A frame of the smallest size.
const FRAME: [u8; 12] = [0, 0, 0, 8, 0, 3, 0, 0, 0, 0, 0, 1];

struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    cancel: CancellationToken,
    killed: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// A listener that answers every frame with one byte.
async fn server(max_connections: usize, max_connections_per_ip: usize) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let connection = Limits {
        max_request_bytes: 1024,
        first_byte: Duration::from_secs(10),
        idle: Duration::from_secs(10),
    };
    let limits = ListenerLimits { max_connections, max_connections_per_ip, connection };
    let (drain, cancel) = (CancellationToken::new(), CancellationToken::new());
    let metrics = Arc::<Metrics>::default();
    let open = |_turnstile: Turnstile, _host: IpAddr| {
        |_frame: BytesMut| -> Result<Work, CloseReason> {
            Ok(Box::pin(async { Ok(Answer::Frame(Bytes::from_static(b"!"))) }))
        }
    };
    let killed = Arc::new(AtomicBool::new(false));
    let reset = {
        let killed = killed.clone();
        Arc::new(move || killed.load(Relaxed))
    };
    let (_, hang_up) = watch::channel(drain.clone());
    let stop = Stop { drain: drain.clone(), hang_up, cancel: cancel.clone(), reset };
    let task = tokio::spawn(accept_loop(listener, Slots::new(limits, metrics.clone()), open, stop));
    Server { address, metrics, drain, cancel, killed, task }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Whether a request on this connection is answered; false if it is closed.
async fn is_served(stream: &mut TcpStream) -> bool {
    if stream.write_all(&FRAME).await.is_err() {
        return false;
    }
    matches!(timeout(PATIENCE, stream.read(&mut [0])).await.expect("neither answered nor closed"), Ok(1))
}

/// Whether the other side closes without another byte.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(PATIENCE, stream.read(&mut [0])).await.expect("not closed"), Ok(0) | Err(_))
}

#[tokio::test]
async fn connection_beyond_the_limit_of_its_address_is_closed_until_another_leaves() {
    let server = server(100, 2).await;
    let (mut first, mut second, mut third) =
        (connect(&server).await, connect(&server).await, connect(&server).await);
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    assert!(is_closed(&mut third).await);
    assert_eq!(server.metrics.connections_refused.load(Relaxed), 1);
    assert_eq!(server.metrics.connections_open.load(Relaxed), 2);
    drop(first);
    let started = std::time::Instant::now();
    while !is_served(&mut connect(&server).await).await {
        assert!(started.elapsed() < PATIENCE, "the slot was not given back");
    }
}

#[tokio::test]
async fn connection_beyond_the_limit_of_the_listener_is_closed() {
    let server = server(1, 10).await;
    let mut first = connect(&server).await;
    assert!(is_served(&mut first).await);
    assert!(is_closed(&mut connect(&server).await).await);
    assert!(is_served(&mut first).await);
}

#[tokio::test]
async fn cancel_drops_every_connection_and_returns() {
    let server = server(10, 10).await;
    let mut clients = [connect(&server).await, connect(&server).await];
    for client in &mut clients {
        assert!(is_served(client).await);
    }
    server.cancel.cancel();
    timeout(PATIENCE, server.task).await.expect("serve returns").unwrap();
    for client in &mut clients {
        assert!(is_closed(client).await);
    }
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn killed_node_resets_its_connections() {
    let server = server(10, 10).await;
    let mut client = connect(&server).await;
    assert!(is_served(&mut client).await);
    server.killed.store(true, Relaxed);
    server.cancel.cancel();
    let ended = timeout(PATIENCE, client.read(&mut [0])).await.expect("not closed");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropping_the_listener_drops_its_connections() {
    let server = server(10, 10).await;
    let mut client = connect(&server).await;
    assert!(is_served(&mut client).await);
    server.task.abort();
    assert!(is_closed(&mut client).await);
}

#[tokio::test]
async fn drain_closes_idle_connections_and_returns() {
    let server = server(10, 10).await;
    let mut client = connect(&server).await;
    assert!(is_served(&mut client).await);
    server.drain.cancel();
    timeout(PATIENCE, server.task).await.expect("serve returns").unwrap();
    assert!(is_closed(&mut client).await);
}

#[tokio::test]
async fn garbage_closes_its_own_connection_and_no_other() {
    let server = server(10, 10).await;
    let (mut good, mut bad) = (connect(&server).await, connect(&server).await);
    assert!(is_served(&mut good).await);
    bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut bad).await);
    assert!(is_served(&mut good).await);
    let started = std::time::Instant::now();
    while server.metrics.connections_faulted.load(Relaxed) == 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.metrics.connections_open.load(Relaxed), 1);
}

#[tokio::test]
async fn accepted_socket_has_its_options() {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (_client, (accepted, _)) = (client.unwrap(), accepted.unwrap());
    prepare(&accepted).unwrap();
    assert!(accepted.nodelay().unwrap());
    assert!(SockRef::from(&accepted).keepalive().unwrap());
}

#[tokio::test]
async fn served_node_answers_pipelined_requests_and_survives_garbage() {
    use super::super::super::dispatch::tests::{frame, node};
    let node = node();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(serve(listener, node.handle.clone(), cancel.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    // ApiVersions v0, Metadata v1 (all topics), ApiVersions v0.
    let frames = [frame(18, 0, &[]), frame(3, 1, &[0xff; 4]), frame(18, 0, &[])];
    let mut bytes = Vec::new();
    for frame in &frames {
        bytes.extend_from_slice(&(frame.len() as i32).to_be_bytes());
        bytes.extend_from_slice(frame);
    }
    client.write_all(&bytes).await.unwrap();
    let mut sizes = Vec::new();
    for _ in &frames {
        let size = timeout(PATIENCE, client.read_i32()).await.expect("answered").unwrap();
        client.read_exact(&mut vec![0; size as usize]).await.unwrap();
        sizes.push(size);
    }
    assert_eq!(sizes[0], sizes[2]);
    assert_ne!(sizes[0], sizes[1]);
    let counted = metrics::of(node.handle.node_id());
    assert!(counted.requests(18) >= 2 && counted.requests(3) >= 1);
    // An array count that cannot fit its frame.
    let bomb = frame(3, 1, &[0x7f, 0xff, 0xff, 0xff]);
    let mut other = TcpStream::connect(address).await.unwrap();
    other.write_i32(bomb.len() as i32).await.unwrap();
    other.write_all(&bomb).await.unwrap();
    assert!(is_closed(&mut other).await);
    client.write_all(&bytes).await.unwrap();
    assert_eq!(timeout(PATIENCE, client.read_i32()).await.expect("answered").unwrap(), sizes[0]);
    cancel.cancel();
    timeout(PATIENCE, task).await.expect("serve returns").unwrap();
}

/// A broker that hears nobody would tell its clients of old leaders for as long as that lasts; and once is enough: it may be all they have.
#[tokio::test]
async fn broker_that_is_cut_off_closes_its_connections_once() {
    let config = Arc::new(NodeConfig::new(NodeId(1), "/nowhere"));
    let (commands, _shard) = mpsc::channel(1);
    let (_images, image) = watch::channel(Arc::default());
    let whole = Published { controller: Some(NodeId(9)), ..Published::default() };
    let (published, news) = watch::channel(whole.clone());
    let node = NodeHandle::new(config, commands, image, news, Arc::new(AtomicBool::new(false)));
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = tokio::spawn(serve(listener, node, CancellationToken::new()));
    // ApiVersions v0, no client id; the whole answer is read.
    let is_answered = async |stream: &mut TcpStream| {
        let frame = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
        let mut length = [0; 4];
        if stream.write_all(&frame).await.is_err() || stream.read_exact(&mut length).await.is_err() {
            return false;
        }
        stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).await.is_ok()
    };
    let mut first = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut first).await);
    // It leads something: whoever reaches it is right here.
    let mut leads = Published { controller: None, ..whole.clone() };
    (leads.status.led, leads.status.leaderless) = (1, 1);
    published.send_replace(leads.clone());
    assert!(timeout(Duration::from_millis(1_500), first.read(&mut [0])).await.is_err(), "a leader hangs up");
    let mut cut_off = leads;
    cut_off.status.led = 0;
    published.send_replace(cut_off.clone());
    assert!(is_closed(&mut first).await);
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut second).await);
    published.send_replace(cut_off.clone());
    assert!(timeout(Duration::from_millis(1_500), second.read(&mut [0])).await.is_err(), "more than once");
    published.send_replace(whole);
    assert!(is_answered(&mut second).await);
    tokio::task::yield_now().await;
    published.send_replace(cut_off);
    assert!(is_closed(&mut second).await, "it is cut off again");
}
