//! One connection to one broker: requests leave in the order they were queued, answers come back in that order
//! (Kafka's rule), any number may be under way.
//!
//! Two tasks own the socket: the writer takes frames from a bounded queue, the reader hands each answer to whoever
//! asked. A caller that goes away spoils nothing. Not here: which broker to talk to (`cluster`).
//! Invariant: after any error, time-out or correlation mismatch the connection is closed and every waiter is told why.

use super::error::{Error, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Frames queued before the socket, and answers awaited after it.
const QUEUE: usize = 256;
/// Largest answer accepted; far above any fetch we ask for.
const MAX_RESPONSE: usize = 512 << 20;
/// Kafka's UNSUPPORTED_VERSION.
const UNSUPPORTED_VERSION: i16 = 35;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Sent with every request; shows up in the broker's logs.
    pub client_id: String,
    /// Limit for TCP's handshake.
    pub connect_timeout: Duration,
    /// Limit for an answer.
    pub request_timeout: Duration,
}

/// One frame on its way, and who waits for the answer (None: acks=0).
struct Job {
    frame: Bytes,
    reply: Option<Waiter>,
}

struct Waiter {
    correlation_id: i32,
    tx: oneshot::Sender<Bytes>,
}

/// State both tasks and all callers share.
struct Shared {
    address: String,
    closed: CancellationToken,
    reason: OnceLock<String>,
}

impl Shared {
    fn close(&self, reason: impl ToString) {
        self.reason.get_or_init(|| reason.to_string());
        self.closed.cancel();
    }

    fn lost(&self) -> Error {
        let reason = self.reason.get().cloned().unwrap_or_else(|| "closed".into());
        Error::Disconnected { address: self.address.clone(), reason }
    }
}

/// A connection; cheap to share behind an `Arc`.
pub struct Connection {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    options: ConnectOptions,
    correlation: AtomicI32,
    versions: HashMap<i16, (i16, i16)>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close("closed by us");
    }
}

/// An answer under way.
#[must_use = "an answer nobody waits for is lost"]
pub struct Reply<R: Request> {
    rx: oneshot::Receiver<Bytes>,
    shared: Arc<Shared>,
    version: i16,
    correlation_id: i32,
    limit: Duration,
    _request: std::marker::PhantomData<fn() -> R>,
}

impl<R: Request> Reply<R> {
    /// Waits for the answer, decoded.
    pub async fn wait(self) -> Result<R::Response> {
        let address = || self.shared.address.clone();
        let mut frame = match tokio::time::timeout(self.limit, self.rx).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) => return Err(self.shared.lost()),
            Err(_) => {
                // Answers come in order: nothing behind this one can arrive before it. Kafka's clients close too.
                let what = format!("{} at {}", api_name(R::KEY), self.shared.address);
                self.shared.close(format!("no answer within {:?}", self.limit));
                return Err(Error::TimedOut { what, limit: self.limit });
            }
        };
        let malformed = |reason: String| Error::Malformed { address: address(), reason };
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(self.version))
            .map_err(|e| malformed(e.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(malformed(format!(
                "correlation id {} is not {}",
                header.correlation_id, self.correlation_id
            )));
        }
        R::Response::decode(&mut frame, self.version)
            .map_err(|e| malformed(format!("{} v{}: {e}", api_name(R::KEY), self.version)))
    }
}

/// Kafka's name of an API key, for messages.
pub fn api_name(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| format!("API {key}"), |key| format!("{key:?}"))
}

impl Connection {
    /// Connects and learns which versions the broker speaks.
    pub async fn open(address: &str, options: ConnectOptions) -> Result<Self> {
        let failed = |reason: String| Error::Connect { address: address.into(), reason, advertised_by: None };
        let stream = tokio::time::timeout(options.connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| failed(format!("no answer within {:?}", options.connect_timeout)))?
            .map_err(|e| failed(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        let shared = Arc::new(Shared {
            address: address.into(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        });
        let (read, write) = stream.into_split();
        let (jobs, jobs_rx) = mpsc::channel(QUEUE);
        let (waiting_tx, waiting_rx) = mpsc::channel(QUEUE);
        tokio::spawn(run_writer(shared.clone(), write, jobs_rx, waiting_tx));
        tokio::spawn(run_reader(shared.clone(), read, waiting_rx));
        let mut connection =
            Self { shared, jobs, options, correlation: AtomicI32::new(1), versions: HashMap::new() };
        connection.versions = connection.negotiate().await?;
        Ok(connection)
    }

    /// ApiVersions with KIP-511's fall-back: an old broker answers version 0 with error 35.
    async fn negotiate(&self) -> Result<HashMap<i16, (i16, i16)>> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("kontiki"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let (correlation_id, frame) = self.frame(&request, 3)?;
        let (tx, rx) = oneshot::channel();
        self.enqueue(Job { frame, reply: Some(Waiter { correlation_id, tx }) }).await?;
        let mut body = tokio::time::timeout(self.options.request_timeout, rx)
            .await
            .map_err(|_| Error::TimedOut {
                what: format!("ApiVersions at {}", self.shared.address),
                limit: self.options.request_timeout,
            })?
            .map_err(|_| self.shared.lost())?;
        let malformed = |reason: String| Error::Malformed { address: self.shared.address.clone(), reason };
        if body.remaining() < 6 {
            return Err(malformed("short ApiVersions answer".into()));
        }
        body.advance(4);
        let code = i16::from_be_bytes([body[0], body[1]]);
        if code == UNSUPPORTED_VERSION {
            let answer = self.call_version(&ApiVersionsRequest::default(), 0).await?;
            return Ok(ranges(&answer));
        }
        let answer = ApiVersionsResponse::decode(&mut body, 3).map_err(|e| malformed(e.to_string()))?;
        Error::check(answer.error_code, None, || format!("ApiVersions at {}", self.shared.address))?;
        Ok(ranges(&answer))
    }

    /// Where it goes.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Whether it can no longer be used.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// The version to use: the highest that both sides and `cap` allow.
    pub fn version<R: Request>(&self, cap: i16) -> Result<i16> {
        let (min, max) = (R::VERSIONS.min, R::VERSIONS.max.min(cap));
        let offered = self.versions.get(&R::KEY).copied();
        offered
            .map(|(low, high)| (low.max(min), high.min(max)))
            .filter(|(low, high)| low <= high)
            .map(|(_, high)| high)
            .ok_or_else(|| Error::Unsupported { address: self.shared.address.clone(), api: R::KEY, min, max })
    }

    /// Asks in the highest common version and waits for the answer.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response> {
        self.call_version(request, self.version::<R>(i16::MAX)?).await
    }

    /// Asks in this version and waits for the answer.
    pub async fn call_version<R: Request>(&self, request: &R, version: i16) -> Result<R::Response> {
        self.call_within(request, version, Duration::ZERO).await
    }

    /// The same, of a request whose answer may take so much longer.
    pub async fn call_within<R: Request>(
        &self,
        request: &R,
        version: i16,
        extra: Duration,
    ) -> Result<R::Response> {
        let (job, reply) = self.prepare(request, version, self.options.request_timeout + extra)?;
        self.enqueue(job).await?;
        reply.wait().await
    }

    /// Queues a request if there is room, without waiting; None if the queue is full.
    pub fn try_send<R: Request>(
        &self,
        request: &R,
        version: i16,
        extra: Duration,
    ) -> Result<Option<Reply<R>>> {
        let (job, reply) = self.prepare(request, version, self.options.request_timeout + extra)?;
        match self.jobs.try_send(job) {
            Ok(()) => Ok(Some(reply)),
            Err(TrySendError::Full(_)) => Ok(None),
            Err(TrySendError::Closed(_)) => Err(self.shared.lost()),
        }
    }

    /// Queues a request that is never answered (Produce with acks=0); false if the queue is full.
    pub fn try_send_unanswered<R: Request>(&self, request: &R, version: i16) -> Result<bool> {
        let (_, frame) = self.frame(request, version)?;
        match self.jobs.try_send(Job { frame, reply: None }) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Closed(_)) => Err(self.shared.lost()),
        }
    }

    async fn enqueue(&self, job: Job) -> Result<()> {
        self.jobs.send(job).await.map_err(|_| self.shared.lost())
    }

    fn prepare<R: Request>(&self, request: &R, version: i16, limit: Duration) -> Result<(Job, Reply<R>)> {
        let (correlation_id, frame) = self.frame(request, version)?;
        let (tx, rx) = oneshot::channel();
        let reply = Reply {
            rx,
            shared: self.shared.clone(),
            version,
            correlation_id,
            limit,
            _request: std::marker::PhantomData,
        };
        Ok((Job { frame, reply: Some(Waiter { correlation_id, tx }) }, reply))
    }

    fn frame<R: Request>(&self, request: &R, version: i16) -> Result<(i32, Bytes)> {
        if self.is_closed() {
            return Err(self.shared.lost());
        }
        let correlation_id = self.correlation.fetch_add(1, Ordering::Relaxed);
        encode_frame(request, version, correlation_id, &self.options.client_id)
            .map(|frame| (correlation_id, frame))
    }
}

/// A whole request frame: length, header, body.
pub fn encode_frame<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) -> Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let size = request.compute_size(version).map_err(|e| cannot_encode(R::KEY, version, &e))?;
    let mut frame = BytesMut::with_capacity(size + 64 + client_id.len());
    frame.put_i32(0);
    header.encode(&mut frame, R::header_version(version)).map_err(|e| cannot_encode(R::KEY, version, &e))?;
    request.encode(&mut frame, version).map_err(|e| cannot_encode(R::KEY, version, &e))?;
    let length =
        i32::try_from(frame.len() - 4).map_err(|_| Error::Invalid("request of more than 2 GiB".into()))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// A field is set that this version does not have.
fn cannot_encode(key: i16, version: i16, e: &dyn std::fmt::Display) -> Error {
    Error::Invalid(format!("{} v{version}: {e}", api_name(key)))
}

fn ranges(answer: &ApiVersionsResponse) -> HashMap<i16, (i16, i16)> {
    answer.api_keys.iter().map(|k| (k.api_key, (k.min_version, k.max_version))).collect()
}

async fn run_writer(
    shared: Arc<Shared>,
    mut socket: OwnedWriteHalf,
    mut jobs: mpsc::Receiver<Job>,
    waiting: mpsc::Sender<Waiter>,
) {
    let work = async {
        while let Some(job) = jobs.recv().await {
            if let Some(waiter) = job.reply
                && waiting.send(waiter).await.is_err()
            {
                return Ok(());
            }
            socket.write_all(&job.frame).await?;
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        () = shared.closed.cancelled() => {}
        done = work => match done {
            Ok(()) => shared.close("closed by us"),
            Err(e) => shared.close(e),
        },
    }
}

async fn run_reader(shared: Arc<Shared>, socket: OwnedReadHalf, mut waiting: mpsc::Receiver<Waiter>) {
    let mut socket = BufReader::with_capacity(64 * 1024, socket);
    let work = async {
        loop {
            let frame = read_frame(&mut socket).await?;
            let Some(waiter) = waiting.recv().await else { return Ok(()) };
            let id = frame.get(..4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
            if id != Some(waiter.correlation_id) {
                return Err(std::io::Error::other(format!(
                    "answer {id:?} to request {}",
                    waiter.correlation_id
                )));
            }
            // The caller may have gone; its answer is dropped.
            let _ = waiter.tx.send(frame);
        }
    };
    tokio::select! {
        () = shared.closed.cancelled() => {}
        done = work => match done {
            Ok(()) => shared.close("closed by us"),
            Err(e) => shared.close(describe(&e)),
        },
    }
}

async fn read_frame(socket: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Bytes> {
    let length = socket.read_i32().await?;
    if length < 4 || length as usize > MAX_RESPONSE {
        return Err(std::io::Error::other(format!("answer of {length} bytes (limit {MAX_RESPONSE})")));
    }
    // Grows as bytes arrive: a bogus length allocates nothing up front.
    let mut frame = BytesMut::with_capacity((length as usize).min(1 << 20));
    let mut limited = socket.take(length as u64);
    while frame.len() < length as usize {
        frame.reserve(1);
        if limited.read_buf(&mut frame).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}

fn describe(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => "the broker closed it".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::MetadataRequest;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use tokio::net::TcpListener;

    fn options() -> ConnectOptions {
        ConnectOptions {
            client_id: "test".into(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_millis(300),
        }
    }

    async fn read_request(socket: &mut TcpStream) -> (i16, i16, i32) {
        let length = socket.read_i32().await.unwrap();
        let mut body = vec![0; length as usize];
        socket.read_exact(&mut body).await.unwrap();
        let i16_at = |at: usize| i16::from_be_bytes([body[at], body[at + 1]]);
        (i16_at(0), i16_at(2), i32::from_be_bytes([body[4], body[5], body[6], body[7]]))
    }

    async fn answer_versions(socket: &mut TcpStream, version: i16, code: i16, id: i32) {
        let keys = [(18, 0, 0), (3, 0, 1)].map(|(key, min, max)| {
            ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
        });
        let body = ApiVersionsResponse::default().with_error_code(code).with_api_keys(keys.to_vec());
        let mut out = BytesMut::new();
        out.put_i32(id);
        body.encode(&mut out, version).unwrap();
        socket.write_i32(out.len() as i32).await.unwrap();
        socket.write_all(&out).await.unwrap();
    }

    #[tokio::test]
    async fn open_broker_without_api_versions_3_falls_back_to_0() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (key, version, id) = read_request(&mut socket).await;
            assert_eq!((key, version), (18, 3));
            answer_versions(&mut socket, 0, UNSUPPORTED_VERSION, id).await;
            let (key, version, id) = read_request(&mut socket).await;
            assert_eq!((key, version), (18, 0));
            answer_versions(&mut socket, 0, 0, id).await;
            socket
        });
        let connection = Connection::open(&address, options()).await.unwrap();
        assert_eq!(connection.version::<MetadataRequest>(i16::MAX).unwrap(), 1);
        assert!(matches!(
            connection.version::<kafka_protocol::messages::FetchRequest>(i16::MAX),
            Err(Error::Unsupported { api: 1, .. })
        ));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn call_without_answer_times_out_and_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (_, _, id) = read_request(&mut socket).await;
            answer_versions(&mut socket, 3, 0, id).await;
            socket
        });
        let connection = Connection::open(&address, options()).await.unwrap();
        let error = connection.call(&MetadataRequest::default()).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(connection.is_closed());
        let error = connection.call(&MetadataRequest::default()).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected { .. }), "{error}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn open_nobody_listens_says_where() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Connection::open(&address, options()).await.err().unwrap();
        assert!(error.to_string().contains(&address), "{error}");
    }
}
