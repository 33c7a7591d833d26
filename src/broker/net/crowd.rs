//! Connections nobody vouches for: however many come, a few are kept, the newest, so that storage never lacks descriptors.
//!
//! Kafka clients have limits of their own (`listener`). This is for the other two doors: peers that have not said who they are
//! yet, and the HTTP admin address. At the limit the *oldest* goes: a flood of silent connections then keeps nobody out,
//! since whoever has something to say says it at once.
//! Not here: what is said. Called by `peer` and the assembly. Invariant: never more than `limit` seats are taken.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A bounded set of connections.
#[derive(Clone)]
pub struct Crowd {
    limit: usize,
    seats: Arc<Mutex<VecDeque<CancellationToken>>>,
}

/// The place of one connection; given back when dropped.
pub struct Seat {
    crowd: Crowd,
    gone: CancellationToken,
}

impl Crowd {
    /// An empty one.
    pub fn new(limit: usize) -> Self {
        Self { limit, seats: Arc::default() }
    }

    /// A seat for one more; whoever has sat longest leaves if there are too many.
    pub fn enter(&self) -> Seat {
        let gone = CancellationToken::new();
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        while seats.len() >= self.limit {
            if let Some(oldest) = seats.pop_front() {
                oldest.cancel();
            }
        }
        seats.push_back(gone.clone());
        Seat { crowd: self.clone(), gone }
    }
}

impl Seat {
    /// Ends when the connection has to go.
    pub async fn lost(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gone.cancel();
        let mut seats = self.crowd.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|seat| !seat.is_cancelled());
    }
}

/// A listener whose connections share a crowd, for axum.
pub struct Door {
    listener: TcpListener,
    crowd: Crowd,
}

impl Door {
    /// Keeps at most `limit` connections of this listener.
    pub fn new(listener: TcpListener, limit: usize) -> Self {
        Self { listener, crowd: Crowd::new(limit) }
    }
}

impl axum::serve::Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        // Qualified: axum's own way of accepting waits when there are no descriptors.
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        let seat = self.crowd.enter();
        let lost = Box::pin(seat.gone.clone().cancelled_owned());
        (Guest { stream, lost, _seat: seat }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its seat is lost.
pub struct Guest {
    stream: TcpStream,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    _seat: Seat,
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // A reader that takes nothing must not hold its seat either.
        if self.lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn one_too_many_costs_the_oldest_its_seat() {
        let crowd = Crowd::new(2);
        let (first, second) = (crowd.enter(), crowd.enter());
        assert!(!first.gone.is_cancelled());
        let third = crowd.enter();
        assert!(first.gone.is_cancelled() && !second.gone.is_cancelled() && !third.gone.is_cancelled());
        // A seat given back, or lost before, makes no more room than there is.
        drop((first, second));
        let fourth = crowd.enter();
        assert!(!third.gone.is_cancelled());
        let _fifth = crowd.enter();
        assert!(third.gone.is_cancelled() && !fourth.gone.is_cancelled());
        assert_eq!(crowd.seats.lock().expect("no panic inside").len(), 2);
    }

    #[tokio::test]
    async fn flood_of_silent_connections_keeps_nobody_from_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
        let server = tokio::spawn(axum::serve(Door::new(listener, 4), router).into_future());
        let mut flood = Vec::new();
        for _ in 0..20 {
            flood.push(TcpStream::connect(address).await.expect("a connection"));
        }
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("a buffer");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.ends_with("here"), "{answer}");
        // The first ones were let go, the last one was not.
        assert_eq!(flood[0].read(&mut [0]).await.unwrap_or(0), 0);
        let last = tokio::time::timeout(std::time::Duration::from_millis(50), flood[19].read_u8()).await;
        assert!(last.is_err(), "the newest of the silent ones is still there");
        server.abort();
    }
}
