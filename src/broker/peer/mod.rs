//! Sockets between nodes: one connection per direction and pair, dialled by the sender.
//!
//! A thin tokio shell around `raftlog::codec`: it frames, queues in bounded queues, and reports connects and resets as
//! [`Input`]s. Not here: what the frames mean. Invariants: a queue to a peer never holds more than [`QUEUE_BYTES`]; what does not
//! fit, or meets no connection, is dropped, since Raft and the RPCs above repair loss. What was read and waits for the shard is at most
//! [`INPUT_BYTES`]; beyond it the sockets wait.

mod dial;

use super::metrics;
use super::net::crowd::{Crowd, Seat};
use super::shard::Input;
use crate::raftlog::codec::{self, Frame, Hello};
use crate::raftlog::engine::Net;
use crate::segment::NodeId;
use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

/// Bytes queued towards one peer.
pub const QUEUE_BYTES: usize = 64 << 20;
const QUEUE_FRAMES: usize = 8_192;
const SLICES: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const UNACKED_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
const SOCKET_BUFFER: usize = 1 << 20;
/// Connections that have not said yet which node they come from.
const STRANGERS: usize = 24;

/// Bytes of frames that were read and not yet handled, all peers together; a larger frame goes alone.
pub const INPUT_BYTES: usize = 64 << 20;
/// What was read beside frames: connects, resets.
const INPUTS: usize = 1_024;

/// Something for the shard, with the memory it holds until it was handled.
pub struct Arrived {
    /// What.
    pub input: Input,
    /// Its share of [`INPUT_BYTES`].
    _held: Option<OwnedSemaphorePermit>,
}

impl From<Input> for Arrived {
    fn from(input: Input) -> Self {
        Self { input, _held: None }
    }
}

/// The way from sockets to the shard; bounded in bytes.
#[derive(Clone)]
pub struct Inbox {
    arrived: mpsc::Sender<Arrived>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Both ends.
    pub fn new() -> (Self, mpsc::Receiver<Arrived>) {
        let (arrived, receiver) = mpsc::channel(INPUTS);
        (Self { arrived, room: Arc::new(Semaphore::new(INPUT_BYTES)) }, receiver)
    }

    /// Waits for room; false when the node is stopping.
    async fn send_frame(&self, bytes: usize, input: Input) -> bool {
        let share = u32::try_from(bytes.min(INPUT_BYTES)).expect("at most INPUT_BYTES");
        let Ok(held) = self.room.clone().acquire_many_owned(share).await else { return false };
        self.arrived.send(Arrived { input, _held: Some(held) }).await.is_ok()
    }

    async fn send(&self, input: Input) {
        let _stopping = self.arrived.send(input.into()).await;
    }
}

/// Whether the node was killed: its sockets are then reset, as the kernel does for a dead process.
pub type KillSwitch = Arc<AtomicBool>;

/// A socket that is reset instead of closed when its node was killed.
pub struct Resettable {
    stream: TcpStream,
    killed: KillSwitch,
}

impl Resettable {
    /// Wraps a connected socket.
    pub fn new(stream: TcpStream, killed: KillSwitch) -> Self {
        Self { stream, killed }
    }

    /// The socket.
    pub fn get_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.killed.load(Ordering::Relaxed) {
            // Linger 0 turns the close into a reset (what a client of a dead process sees under load).
            if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "socket not reset");
            }
        }
    }
}

struct Peer {
    address: watch::Sender<String>,
    frames: mpsc::Sender<Vec<Bytes>>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    connected: AtomicBool,
}

/// The node's connections to its peers.
pub struct Peers {
    me: NodeId,
    peers: HashMap<NodeId, Peer>,
    hello: watch::Sender<Hello>,
    inputs: Inbox,
    cancel: CancellationToken,
    killed: KillSwitch,
    source: Option<IpAddr>,
}

impl Peers {
    /// No connections yet.
    pub fn new(hello: Hello, inputs: Inbox, cancel: CancellationToken, killed: KillSwitch) -> Self {
        let me = hello.node;
        let hello = watch::Sender::new(hello);
        Self { me, peers: HashMap::new(), hello, inputs, cancel, killed, source: None }
    }

    /// Connections start at the address this node listens on for its peers, if that is one address.
    pub fn dialling_from(self, bound: SocketAddr) -> Self {
        Self { source: dial::source_of(bound), ..self }
    }

    /// Changes how new connections introduce themselves (the cluster became known).
    pub fn set_hello(&self, hello: Hello) {
        self.hello.send_if_modified(|old| {
            let changed = *old != hello;
            if changed {
                *old = hello;
            }
            changed
        });
    }

    /// Keeps a connection to this peer at this address from now on.
    pub fn connect(&mut self, node: NodeId, address: String) {
        if node == self.me {
            return;
        }
        if let Some(peer) = self.peers.get(&node) {
            // A peer that was heard while we wait to dial it again is dialled at once.
            let waits = !peer.queue.connected.load(Ordering::Relaxed);
            peer.address.send_if_modified(|old| {
                let changed = *old != address;
                if changed {
                    *old = address;
                }
                changed || waits
            });
            return;
        }
        let (frames, receiver) = mpsc::channel(QUEUE_FRAMES);
        let queue = Arc::new(Queue::default());
        let (address, addresses) = watch::channel(address);
        let dialer = Dialer {
            node,
            addresses,
            frames: receiver,
            queue: queue.clone(),
            hello: self.hello.subscribe(),
            inputs: self.inputs.clone(),
            killed: self.killed.clone(),
            source: self.source,
            written: metrics::of(self.me).peer_bytes(node),
        };
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(dialer.run()).await });
        self.peers.insert(node, Peer { address, frames, queue });
    }
}

impl Net for Peers {
    fn send(&mut self, to: NodeId, frame: Vec<Bytes>) -> bool {
        let Some(peer) = self.peers.get(&to) else { return false };
        let bytes: usize = frame.iter().map(Bytes::len).sum();
        let queued = peer.queue.bytes.load(Ordering::Relaxed);
        // A frame larger than the whole queue goes alone, or its entry would never arrive.
        if !peer.queue.connected.load(Ordering::Relaxed) || (queued > 0 && queued + bytes > QUEUE_BYTES) {
            return false;
        }
        peer.queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = peer.frames.try_send(frame).is_ok();
        if !sent {
            peer.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    fn queued_bytes(&self, to: NodeId) -> usize {
        self.peers.get(&to).map_or(0, |peer| peer.queue.bytes.load(Ordering::Relaxed))
    }
}

/// Keeps one outgoing connection up.
struct Dialer {
    node: NodeId,
    addresses: watch::Receiver<String>,
    frames: mpsc::Receiver<Vec<Bytes>>,
    queue: Arc<Queue>,
    hello: watch::Receiver<Hello>,
    inputs: Inbox,
    killed: KillSwitch,
    source: Option<IpAddr>,
    written: Arc<AtomicU64>,
}

impl Dialer {
    async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let address = self.addresses.borrow_and_update().clone();
            match tokio::time::timeout(CONNECT_TIMEOUT, dial::connect(&address, self.source)).await {
                Ok(Ok(stream)) => {
                    let since = Instant::now();
                    let mut stream = Resettable::new(stream, self.killed.clone());
                    if let Err(error) = self.serve(stream.get_mut()).await {
                        tracing::debug!(peer = %self.node, %error, "connection to peer ended");
                    }
                    self.disconnected().await;
                    // One that accepts and closes at once (another cluster, a wrong port) is not worth hurrying for.
                    if since.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                }
                Ok(Err(error)) => tracing::trace!(peer = %self.node, address, %error, "peer not reached"),
                Err(_) => tracing::trace!(peer = %self.node, address, "peer not reached in time"),
            }
            // A new address is tried at once.
            let _woken = tokio::time::timeout(backoff, self.addresses.changed()).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn serve(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        tune(stream)?;
        let hello = codec::encode_hello(&self.hello.borrow_and_update());
        write_all(stream, hello).await?;
        self.queue.connected.store(true, Ordering::Relaxed);
        self.inputs.send(Input::Dialled { node: self.node, up: true }).await;
        let (mut read, mut write) = stream.split();
        let mut nothing = [0u8; 1];
        let mut chunks: Vec<Bytes> = Vec::new();
        loop {
            tokio::select! {
                // Cancel safe: `recv` loses nothing, and one byte of a direction that never carries any is no loss.
                frame = self.frames.recv() => match frame {
                    Some(frame) => chunks.extend(frame),
                    None => return Ok(()),
                },
                n = read.read(&mut nothing) => {
                    n?;
                    return Ok(());
                }
                changed = self.hello.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let hello = codec::encode_hello(&self.hello.borrow_and_update());
                    chunks.extend(hello);
                }
            }
            while chunks.len() < SLICES
                && let Ok(frame) = self.frames.try_recv()
            {
                chunks.extend(frame);
            }
            let bytes: usize = chunks.iter().map(Bytes::len).sum();
            write_all(&mut write, std::mem::take(&mut chunks)).await?;
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
            let queued = self.queue.bytes.load(Ordering::Relaxed);
            self.queue.bytes.fetch_sub(bytes.min(queued), Ordering::Relaxed);
        }
    }

    async fn disconnected(&mut self) {
        self.queue.connected.store(false, Ordering::Relaxed);
        while self.frames.try_recv().is_ok() {}
        self.queue.bytes.store(0, Ordering::Relaxed);
        self.inputs.send(Input::Dialled { node: self.node, up: false }).await;
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // A host that vanished, or a partition that healed, must not be waited for as long as TCP would.
    socket.set_tcp_user_timeout(Some(UNACKED_TIMEOUT))?;
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKED_TIMEOUT).with_interval(UNACKED_TIMEOUT))?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)
}

/// Writes all slices with as few system calls as possible.
async fn write_all(write: &mut (impl AsyncWriteExt + Unpin), chunks: Vec<Bytes>) -> std::io::Result<()> {
    let (mut at, mut within) = (0, 0);
    while at < chunks.len() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (i, chunk) in chunks[at..].iter().take(SLICES).enumerate() {
            slices[i] = IoSlice::new(if i == 0 { &chunk[within..] } else { chunk });
            count += 1;
        }
        let mut written = write.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while at < chunks.len() && written >= chunks[at].len() - within {
            written -= chunks[at].len() - within;
            within = 0;
            at += 1;
        }
        within += written;
    }
    Ok(())
}

/// Takes connections of peers until cancelled.
pub struct Acceptor {
    /// Where they connect.
    pub listener: TcpListener,
    /// Where their frames go.
    pub inputs: Inbox,
    /// Our cluster, once known: others are refused.
    pub hello: watch::Receiver<Hello>,
    /// Reset on drop.
    pub killed: KillSwitch,
}

impl Peers {
    /// The other half: takes what peers send.
    pub fn acceptor(&self, listener: TcpListener) -> Acceptor {
        Acceptor {
            listener,
            inputs: self.inputs.clone(),
            hello: self.hello.subscribe(),
            killed: self.killed.clone(),
        }
    }
}

/// Newest connection of every peer: only its end means that the process is gone.
type Newest = Arc<Mutex<HashMap<NodeId, u64>>>;

impl Acceptor {
    /// Runs until dropped.
    pub async fn run(self) {
        let newest = Newest::default();
        let serial = AtomicU64::new(1);
        let strangers = Crowd::new(STRANGERS);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let incoming = Incoming {
                        inputs: self.inputs.clone(),
                        hello: self.hello.clone(),
                        newest: newest.clone(),
                        serial: serial.fetch_add(1, Ordering::Relaxed),
                    };
                    let stream = Resettable::new(stream, self.killed.clone());
                    let seat = strangers.enter();
                    tokio::spawn(async move { incoming.run(stream, seat).await });
                }
                Err(error) => {
                    // Out of descriptors, mostly: do not spin.
                    tracing::warn!(%error, "peer connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

struct Incoming {
    inputs: Inbox,
    hello: watch::Receiver<Hello>,
    newest: Newest,
    serial: u64,
}

impl Incoming {
    async fn run(self, mut stream: Resettable, seat: Seat) {
        let mut node = None;
        if let Err(error) = self.read(stream.get_mut(), &mut node, seat).await {
            tracing::debug!(peer = ?node, %error, "peer connection ended");
        }
        let Some(node) = node else { return };
        let newest = self.newest.lock().map(|map| map.get(&node) == Some(&self.serial));
        if newest.unwrap_or(false) {
            self.inputs.send(Input::PeerReset { node }).await;
        }
    }

    async fn read(
        &self,
        stream: &mut TcpStream,
        node: &mut Option<NodeId>,
        seat: Seat,
    ) -> std::io::Result<()> {
        tune(stream)?;
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .length_field_type::<u32>()
            .max_frame_length(codec::MAX_FRAME)
            .new_codec();
        let mut frames = FramedRead::with_capacity(stream, codec, 256 << 10);
        let first = tokio::select! {
            first = tokio::time::timeout(HELLO_TIMEOUT, next(&mut frames)) => first,
            () = seat.lost() => return Err(invalid("too many strangers")),
        };
        let Some(first) = first.map_err(|_| invalid("no introduction in time"))?? else { return Ok(()) };
        let Frame::Hello(hello) = decode(first)? else { return Err(invalid("no introduction")) };
        self.check(&hello)?;
        drop(seat);
        let from = hello.node;
        *node = Some(from);
        if let Ok(mut newest) = self.newest.lock() {
            newest.insert(from, self.serial);
        }
        self.inputs.send(Input::Hello(hello)).await;
        while let Some(frame) = next(&mut frames).await? {
            let bytes = frame.len();
            let input = match decode(frame)? {
                Frame::Hello(hello) => {
                    self.check(&hello)?;
                    continue;
                }
                Frame::Raft(envelopes) => Input::Raft { from, envelopes },
                Frame::Beats(beats) => Input::Beats { from, beats },
                Frame::BeatAnswer(answer) => Input::BeatAnswer { from, answer },
                Frame::Hints(hints) => Input::Hints(hints),
                Frame::Request { id, body } => Input::Request { from, id, body },
                Frame::Response { id, body } => Input::Response { from, id, body },
            };
            if !self.inputs.send_frame(bytes, input).await {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, hello: &Hello) -> std::io::Result<()> {
        let ours = self.hello.borrow().cluster.clone();
        if !ours.is_empty() && !hello.cluster.is_empty() && ours != hello.cluster {
            tracing::warn!(peer = %hello.node, theirs = hello.cluster, ours, "peer of another cluster refused");
            return Err(invalid("another cluster"));
        }
        Ok(())
    }
}

fn decode(frame: BytesMut) -> std::io::Result<Frame> {
    codec::decode(frame.freeze()).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
}

fn invalid(text: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, text)
}

/// The next frame, without pulling in a stream combinator crate.
async fn next(
    frames: &mut FramedRead<&mut TcpStream, LengthDelimitedCodec>,
) -> std::io::Result<Option<BytesMut>> {
    use futures_core::Stream;
    let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *frames).poll_next(cx)).await;
    frame.transpose()
}
