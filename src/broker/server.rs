//! Assembly of one node: storage, engine, shard, sockets, and their orderly end. The only place that wires all parts.
//!
//! Start: open storage (recovery) -> bind sockets -> spawn the node loop -> accept peers, clients, HTTP.
//! Orderly stop: stop accepting -> hand leadership over -> let storage finish -> checkpoint and mark clean.
//! Kill (`dev kill`): everything is dropped where it stands and sockets are reset, as `kill -9` would.

use super::api::NodeHandle;
use super::config::{Listener, NodeConfig};
use super::http;
use super::net::crowd::Door;
use super::net::listener;
use super::node::{Cleaner, Clock, NodeLoop, Published};
use super::peer::{Inbox, KillSwitch, Peers};
use super::ports::{NodePorts, PortsFile};
use super::shard::{Shard, ShardConfig};
use crate::ctl::image::Image;
use crate::ctl::record::Endpoint;
use crate::raftlog::core::CoreConfig;
use crate::raftlog::engine::{Engine, EngineConfig};
use crate::segment::io_thread::{self, IoHandle};
use crate::segment::{self, Identity, Opened, StoreOptions};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const COMMANDS: usize = 4_096;
const COMPLETIONS: usize = 16;
/// Connections of the HTTP admin address.
const ADMIN_CONNECTIONS: usize = 16;

/// Why a node does not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be opened.
    #[error("data directory: {0}")]
    Storage(#[from] segment::Error),
    /// A listener cannot be bound.
    #[error("cannot listen on {address} for {what}: {source}; is another process using it?")]
    Listen {
        /// Which address.
        address: String,
        /// What for.
        what: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// The configuration does not make a node.
    #[error("{0}")]
    Config(String),
    /// The node's own task ended: a broken invariant. What was acknowledged is on disk; a restart recovers it.
    #[error("the node ended by itself: {0}")]
    Died(String),
    /// Signals or threads cannot be set up.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A node that runs.
pub struct RunningNode {
    /// For requests.
    pub handle: NodeHandle,
    /// Bound addresses for Kafka clients, by the names of their listeners.
    pub kafka: Vec<(String, SocketAddr)>,
    /// Bound peer address.
    pub peer: SocketAddr,
    /// Bound admin address.
    pub admin: Option<SocketAddr>,
    drain: CancellationToken,
    clients: CancellationToken,
    rest: CancellationToken,
    node_loop: JoinHandle<IoHandle>,
    killed: KillSwitch,
}

/// Starts a node on the current runtime.
pub async fn start_node(config: NodeConfig) -> Result<RunningNode, StartError> {
    let config = Arc::new(config);
    let killed: KillSwitch = Arc::new(AtomicBool::new(false));
    let opened = segment::open(store_options(&config))?;
    let sockets = Sockets::bind(&config).await?;
    let (drain, clients, rest) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (kafka, peer, admin) = sockets.addresses()?;
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (inbox, inputs) = Inbox::new();
    let (images, images_out) = watch::channel(Arc::new(Image::default()));
    let (published, published_out) = watch::channel(Published::default());
    let clock = Clock::start();
    let (io, completions, shard) = build_shard(&config, opened, &kafka, peer, clock)?;
    let peers = Peers::new(shard.hello(), inbox, rest.clone(), killed.clone()).dialling_from(peer);
    let acceptor = peers.acceptor(sockets.peer);
    tokio::spawn({
        let rest = rest.clone();
        async move { rest.run_until_cancelled(acceptor.run()).await }
    });
    let handle = NodeHandle::new(config.clone(), commands_in, images_out, published_out, killed.clone());
    let cleaner = Cleaner::default();
    let node =
        NodeLoop { shard, peers, io, completions, cleaner, commands, inputs, images, published, clock };
    let node_loop = tokio::spawn(node.run(rest.clone()));
    if !sockets.kafka.is_empty() {
        let listeners = sockets.kafka;
        let serving = handle.clone();
        let (drain, clients) = (drain.clone(), clients.clone());
        tokio::spawn(async move {
            // Until it is registered this node could only tell clients of an empty cluster; they wait in the backlog.
            if clients.run_until_cancelled(serving.registered()).await.is_some() {
                listener::serve_until(listeners, serving, drain, clients).await;
            }
        });
    }
    if let Some(listener) = sockets.admin {
        let router = http::router(handle.clone());
        let stop = rest.clone();
        tokio::spawn(async move {
            let served = axum::serve(Door::new(listener, ADMIN_CONNECTIONS), router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await;
            if let Err(error) = served {
                tracing::warn!(%error, "admin address ended");
            }
        });
    }
    Ok(RunningNode { handle, kafka, peer, admin, drain, clients, rest, node_loop, killed })
}

impl RunningNode {
    /// Where it listens.
    pub fn ports(&self) -> NodePorts {
        NodePorts {
            node: self.handle.node_id(),
            kafka: self.kafka.clone(),
            peer: self.peer,
            admin: self.admin,
        }
    }

    /// Orderly stop: leadership is handed over, storage finishes and is marked clean.
    pub async fn stop(self) -> Result<(), String> {
        let patience = self.handle.config().shutdown_timeout;
        if tokio::time::timeout(patience, self.handle.drain()).await.is_err() {
            tracing::warn!("leadership not handed over in time; stopping all the same");
        }
        // Clients learn the new leaders from the answers of a moment more.
        self.drain.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.clients.cancel();
        self.rest.cancel();
        let io =
            self.node_loop.await.map_err(|error| format!("the node's loop did not end in order: {error}"))?;
        let ended = tokio::task::spawn_blocking(move || io.stop_clean()).await;
        let ended =
            ended.map_err(|error| error.to_string()).and_then(|ended| ended.map_err(|e| e.to_string()));
        ended.map_err(|error| format!("storage did not end in order: {error}"))
    }

    /// Waits until the node's own task ends unasked; the process must not go on without it.
    pub async fn died(&mut self) -> String {
        match (&mut self.node_loop).await {
            Ok(_) => "its loop returned".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Drops everything where it stands, without flush or hand-over, and resets the sockets.
    pub async fn kill(self) {
        self.killed.store(true, Ordering::Relaxed);
        self.rest.cancel();
        self.clients.cancel();
        if let Ok(io) = self.node_loop.await {
            io.kill();
        }
    }
}

/// Raises the soft limit of open files to the hard one: segments, connections and peers all need descriptors.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// Runs one node until SIGTERM or SIGINT, then stops it in order; a second signal stops at once.
pub async fn run_node(config: NodeConfig) -> Result<(), StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    raise_descriptor_limit();
    let ports_file = config.ports_file.clone();
    ports_file.as_deref().map(PortsFile::prepare).transpose()?;
    let mut node = start_node(config).await?;
    let _ports = ports_file.map(|path| PortsFile::write(&path, &[node.ports()], node.admin)).transpose()?;
    tracing::info!(
        node = %node.handle.node_id(),
        kafka = ?node.kafka,
        peer = %node.peer,
        admin = ?node.admin,
        "node runs; acks=all means fsynced by a majority"
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        reason = node.died() => return Err(StartError::Died(reason)),
    }
    tracing::info!("stopping: handing leadership over");
    tokio::select! {
        ended = node.stop() => {
            ended.map_err(StartError::Died)?;
            tracing::info!("stopped");
        }
        _ = terminate.recv() => tracing::warn!("second signal: stopped at once"),
        _ = interrupt.recv() => tracing::warn!("second signal: stopped at once"),
    }
    Ok(())
}

struct Sockets {
    kafka: Vec<(String, TcpListener)>,
    peer: TcpListener,
    admin: Option<TcpListener>,
}

type Addresses = (Vec<(String, SocketAddr)>, SocketAddr, Option<SocketAddr>);

impl Sockets {
    async fn bind(config: &NodeConfig) -> Result<Self, StartError> {
        if !config.is_broker && !config.is_controller {
            return Err(StartError::Config("a node needs role broker, controller or both".to_owned()));
        }
        if config.is_controller && !config.controllers.contains_key(&config.node_id) {
            let text =
                format!("node {} has role controller but --controllers does not name it", config.node_id);
            return Err(StartError::Config(text));
        }
        if config.is_broker && config.listeners.is_empty() {
            return Err(StartError::Config("role broker needs --listen host:port".to_owned()));
        }
        let mut kafka = Vec::new();
        for listener in config.listeners.iter().filter(|_| config.is_broker) {
            kafka.push((listener.name.clone(), bind(&listener.bind.to_string(), "Kafka clients").await?));
        }
        let peer = bind(&config.peer_listen, "peers").await?;
        let admin = match &config.admin_listen {
            Some(address) => Some(bind(address, "HTTP admin").await?),
            None => None,
        };
        Ok(Self { kafka, peer, admin })
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        let bound = |(name, listener): &(String, TcpListener)| Ok((name.clone(), listener.local_addr()?));
        let kafka = self.kafka.iter().map(bound).collect::<std::io::Result<_>>()?;
        let admin = self.admin.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok((kafka, self.peer.local_addr()?, admin))
    }
}

async fn bind(address: &str, what: &'static str) -> Result<TcpListener, StartError> {
    let listen = |source| StartError::Listen { address: address.to_owned(), what, source };
    TcpListener::bind(address).await.map_err(listen)
}

fn build_shard(
    config: &Arc<NodeConfig>,
    opened: Opened,
    kafka: &[(String, SocketAddr)],
    peer: SocketAddr,
    clock: Clock,
) -> Result<(IoHandle, mpsc::Receiver<segment::RoundDone>, Shard), StartError> {
    let boot = uuid::Uuid::new_v4().as_u128();
    let seed = boot as u64;
    let now = clock.now();
    let engine_config = EngineConfig { node: config.node_id, boot, core: core_config(config), seed };
    if config.scrub_bytes_per_second > 0 {
        io_thread::spawn_scrub(opened.store.scrubber(), config.scrub_bytes_per_second)?;
    }
    let engine = Engine::new(engine_config, opened.store, now.mono);
    let shard_config = ShardConfig {
        node: config.clone(),
        directory: opened.directory,
        boot,
        kafka: config.listeners.iter().zip(kafka).map(told).collect(),
        peer: advertised(&config.peer_advertise, host_of(&config.peer_listen), peer),
        cluster: opened.cluster,
        seed,
    };
    let shard = Shard::new(shard_config, engine, opened.groups, now);
    let (done_in, completions) = mpsc::channel(COMPLETIONS);
    let io = io_thread::spawn(opened.writer, move |done| {
        // The loop is gone when the node was killed: nobody waits for this round any more.
        let _killed = done_in.blocking_send(done);
    })?;
    Ok((io, completions, shard))
}

/// What a listener's clients are told.
fn told((listener, (name, bound)): (&Listener, &(String, SocketAddr))) -> (String, Endpoint) {
    (name.clone(), advertised(&listener.advertise, &listener.bind.host, *bound))
}

/// The host of an address as configured, without brackets.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']'])
}

/// The configured address (with the bound port if it names none), else the host as configured with the bound port.
fn advertised(explicit: &Option<Endpoint>, host: &str, bound: SocketAddr) -> Endpoint {
    if let Some(endpoint) = explicit {
        let port = if endpoint.port == 0 { bound.port() } else { endpoint.port };
        return Endpoint { host: endpoint.host.clone(), port };
    }
    let host = if bound.ip().is_unspecified() {
        tracing::warn!("listening on every interface but advertising 127.0.0.1; set an advertised address");
        "127.0.0.1".to_owned()
    } else if host.is_empty() {
        bound.ip().to_string()
    } else {
        host.to_owned()
    };
    Endpoint { host, port: bound.port() }
}

fn store_options(config: &NodeConfig) -> StoreOptions {
    let identity = Identity { node: config.node_id, cluster: None };
    StoreOptions::new(config.data_dir.clone(), identity)
}

/// Raft timing and windows of a node.
pub fn core_config(config: &NodeConfig) -> CoreConfig {
    let ms = |d: Duration| d.as_millis() as u64;
    CoreConfig {
        beat_ms: ms(config.beat),
        election_min_ms: ms(config.election_min),
        election_max_ms: ms(config.election_max).max(ms(config.election_min) + 1),
        check_quorum_ms: ms(config.election_max),
        stickiness_ms: ms(config.election_min),
        window_bytes: 8 << 20,
        append_bytes: 1 << 20,
        uncommitted_bytes: 64 << 20,
        reset_jitter_ms: 50,
    }
}
