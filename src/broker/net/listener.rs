//! Accepts Kafka clients within limits and runs one task per connection.
//!
//! Not here: what happens on a connection (`connection`), TLS. Called by whoever assembles a node, within that node's
//! runtime (a current_thread one will do).
//!
//! Invariants
//! - Never more than `max.connections` connections over all listeners, nor more than `max.connections.per.ip` of one address; one too many
//!   is closed at once, before a byte is read.
//! - Every connection task is tracked: `serve` returns only when the last one has ended, and dropping its future ends
//!   them all.
//! - When the broker is cut off from all others every connection is drained once: clients that know this one alone look for
//!   another, instead of being told about old leaders for as long as that lasts.
//! - An accept that fails for lack of descriptors or memory waits a moment instead of spinning.

use super::super::api::NodeHandle;
use super::super::config::PLAINTEXT;
use super::super::dispatch::{Client, Session, Turnstile, Work};
use super::super::error::CloseReason;
use super::super::metrics::{self, Metrics};
use super::connection::{Connection, Limits};
use bytes::BytesMut;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Socket buffers: 1 MiB per write costs half the CPU of 4 KiB.
const SOCKET_BUFFER: usize = 1024 * 1024;
/// Pause after an accept that failed for lack of descriptors or memory.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// Silence before the kernel asks whether the peer still lives, and between its questions.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));

/// Limits of a broker's listeners together.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// What each connection is allowed.
    pub connection: Limits,
}

/// Binds a listening socket that can be bound again right after a restart, with large buffers where the kernel's limits
/// let an explicit size beat its own tuning.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit the sizes; the window scale is settled at SYN, so it must happen before listening.
    size_buffers(&SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves Kafka clients until `cancel` is cancelled; then every connection is dropped where it stands (and reset, if
/// the node was killed).
pub async fn serve(listener: TcpListener, node: NodeHandle, cancel: CancellationToken) {
    serve_until(vec![(PLAINTEXT.to_owned(), listener)], node, CancellationToken::new(), cancel).await;
}

/// As `serve`, for listeners by their names, with an orderly end before the hard one: once `drain` is cancelled nothing more is accepted,
/// and each connection closes as soon as it has answered what it has read. Returns when the last one has closed.
pub async fn serve_until(
    listeners: Vec<(String, TcpListener)>,
    node: NodeHandle,
    drain: CancellationToken,
    cancel: CancellationToken,
) {
    let config = node.config();
    let limits = ListenerLimits {
        max_connections: config.max_connections,
        max_connections_per_ip: config.max_connections_per_ip,
        connection: Limits {
            max_request_bytes: config.max_request_bytes,
            first_byte: config.first_byte_timeout,
            idle: config.connections_max_idle,
        },
    };
    let slots = Slots::new(limits, metrics::of(node.node_id()));
    let (killed, watched) = (node.clone(), node.clone());
    let (turn, hang_up) = watch::channel(drain.child_token());
    let stop = Stop { drain: drain.clone(), hang_up, cancel, reset: Arc::new(move || killed.is_killed()) };
    let hanging_up = async {
        loop {
            watched.cut_off(true).await;
            tracing::info!(
                "cut off from the other brokers: connections are closed once, so that clients look for them"
            );
            turn.send_replace(drain.child_token()).cancel();
            watched.cut_off(false).await;
        }
    };
    // Dropping this ends them all.
    let mut loops = JoinSet::new();
    for (name, listener) in listeners {
        let (node, config, name) = (node.clone(), config.clone(), Arc::<str>::from(name));
        let open = move |turnstile, host| {
            let from = Client { host, listener: name.clone() };
            let mut session = Session::new(node.clone(), config.clone(), turnstile, from);
            move |frame| session.start(frame)
        };
        loops.spawn(accept_loop(listener, slots.clone(), open, stop.clone()));
    }
    let accepting = async {
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = hanging_up => {}
    }
}

/// The accept loop over whatever `open` makes of a new connection.
async fn accept_loop<F, H>(listener: TcpListener, slots: Arc<Slots>, open: F, ends: Stop)
where
    F: Fn(Turnstile, IpAddr) -> H,
    H: FnMut(BytesMut) -> Result<Work, CloseReason> + Send + 'static,
{
    let tasks = TaskTracker::new();
    // Dropping this future must end its connections as surely as cancelling it.
    let stop = Stop { cancel: ends.cancel.child_token(), ..ends };
    let _stop_on_drop = stop.cancel.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancel.cancelled() => break,
            () = stop.drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(slot) = slots.take(peer.ip()) {
                    let turnstile = Turnstile::default();
                    let start = open(turnstile.clone(), peer.ip());
                    let task = Task { stream, peer, slot, turnstile, stop: stop.clone() };
                    tasks.spawn(task.run(slots.limits.connection, slots.metrics.clone(), start));
                }
            }
            Err(error) => {
                if is_exhaustion(&error) {
                    tracing::warn!(%error, "cannot accept connections for now");
                    tokio::select! {
                        () = stop.cancel.cancelled() => {}
                        () = tokio::time::sleep(ACCEPT_BACK_OFF) => {}
                    }
                } else {
                    tracing::debug!(%error, "a connection failed before it was accepted");
                }
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// How a listener comes to its end.
#[derive(Clone)]
struct Stop {
    /// Accept no more; connections close as soon as they have answered what they have read.
    drain: CancellationToken,
    /// As `drain`, for the connections there are at a time.
    hang_up: watch::Receiver<CancellationToken>,
    /// Drop everything at once.
    cancel: CancellationToken,
    /// Whether dropped connections are reset rather than closed.
    reset: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// One accepted connection, not yet running.
struct Task {
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    turnstile: Turnstile,
    stop: Stop,
}

impl Task {
    async fn run<H>(self, limits: Limits, metrics: Arc<Metrics>, start: H)
    where
        H: FnMut(BytesMut) -> Result<Work, CloseReason> + Send + 'static,
    {
        let Self { mut stream, peer, slot, turnstile, stop } = self;
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "socket options not set");
        }
        let reason = {
            let drain = stop.hang_up.borrow().clone();
            let connection = Connection::new(&mut stream, limits, metrics.clone(), drain, turnstile, start);
            tokio::select! {
                biased;
                () = stop.cancel.cancelled() => CloseReason::Drained,
                reason = connection.run() => reason,
            }
        };
        if stop.cancel.is_cancelled() && (stop.reset)() {
            // A killed node says nothing more: closing with zero linger resets the connection.
            let _unset = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        if reason.is_ordinary() {
            tracing::debug!(%peer, %reason, "connection closed");
        } else {
            metrics.connections_faulted.fetch_add(1, Relaxed);
            tracing::warn!(%peer, %reason, "connection closed");
        }
        drop(slot);
    }
}

/// Options of an accepted socket.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let (time, interval) = KEEPALIVE;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval))?;
    size_buffers(&socket);
    Ok(())
}

/// Raises the socket buffers to 1 MiB where the kernel allows that much. Where it does not (its usual 208 KiB), an
/// explicit size would only switch off its own tuning, which goes further.
fn size_buffers(socket: &SockRef<'_>) {
    let allowed = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok();
        text.and_then(|text| text.trim().parse::<usize>().ok()).is_some_and(|limit| limit >= SOCKET_BUFFER)
    };
    if socket.recv_buffer_size().is_ok_and(|size| size < SOCKET_BUFFER) && allowed("rmem_max") {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if socket.send_buffer_size().is_ok_and(|size| size < SOCKET_BUFFER) && allowed("wmem_max") {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
}

/// Whether accepting failed because the process or the system has run out of something.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Counts open connections of all listeners, in all and per address.
struct Slots {
    limits: ListenerLimits,
    open: Mutex<Open>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Open {
    total: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// The right to one connection; given back when dropped.
struct Slot {
    slots: Arc<Slots>,
    ip: IpAddr,
}

impl Slots {
    fn new(limits: ListenerLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), metrics })
    }

    /// A slot for one more connection of this address, unless a limit forbids it.
    fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Slot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = open.per_ip.get(&ip).copied().unwrap_or(0);
        let limit = if open.total >= self.limits.max_connections {
            "max.connections"
        } else if of_ip >= self.limits.max_connections_per_ip {
            "max.connections.per.ip"
        } else {
            open.total += 1;
            open.per_ip.insert(ip, of_ip + 1);
            self.metrics.connections_accepted.fetch_add(1, Relaxed);
            self.metrics.connections_open.fetch_add(1, Relaxed);
            return Some(Slot { slots: self.clone(), ip });
        };
        let (total, refused) = (open.total, self.metrics.connections_refused.fetch_add(1, Relaxed) + 1);
        drop(open);
        // A flood of connections must not become a flood of lines.
        if refused.is_power_of_two() {
            tracing::warn!(%ip, limit, of_ip, total, refused, "connection refused");
        }
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(count) = open.per_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.per_ip.remove(&self.ip);
            }
        }
        self.slots.metrics.connections_open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
