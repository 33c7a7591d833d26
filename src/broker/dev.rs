//! `kontiki dev`: a whole cluster in one process, talking over real TCP.
//!
//! Every node runs on a thread and runtime of its own, assembled exactly as `kontiki start` does, so that killing one
//! (`POST /dev/kill/N`) drops its tasks without flush or hand-over and resets its sockets; restarting it recovers from
//! its files. One separate controller node keeps the metadata: any broker may die.
//! For trying things out: all nodes share one process and two of its cores at most; measure with `kontiki start`.

use super::api::NodeHandle;
use super::config::{Listener, NodeConfig};
use super::http;
use super::ports::{NodePorts, PortsFile};
use super::server::{self, StartError};
use crate::ctl::command::{Command, CreateTopic, Error as CtlError};
use crate::segment::NodeId;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};

/// The controller's node id; brokers count from 1.
pub const CONTROLLER_ID: NodeId = NodeId(1000);
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What `kontiki dev` was asked for.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// How many brokers.
    pub brokers: u16,
    /// Port of the first broker, the others follow; 0 = any free ones.
    pub port: u16,
    /// Where data is kept; None = a temporary directory, removed at the end.
    pub data_dir: Option<PathBuf>,
    /// HTTP port; 0 = any free one.
    pub admin_port: u16,
    /// Topics to create: name, partitions, replication factor.
    pub topics: Vec<(String, i32, Option<i16>)>,
    /// Where the bound addresses are written once all is ready.
    pub ports_file: Option<PathBuf>,
}

enum Order {
    Stop,
    Kill,
}

/// A node on its own thread.
struct DevNode {
    handle: NodeHandle,
    ports: NodePorts,
    orders: mpsc::Sender<Order>,
    thread: std::thread::JoinHandle<()>,
}

impl DevNode {
    async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let (started_in, started) = oneshot::channel();
        let (orders, inbox) = mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("node-{}", config.node_id))
            .spawn(move || run_thread(config, started_in, inbox))?;
        let died = || StartError::Config("the node's thread ended while it started".to_owned());
        let (handle, ports) = started.await.map_err(|_| died())??;
        Ok(Self { handle, ports, orders, thread })
    }

    async fn end(self, order: Order) {
        let _already_gone = self.orders.send(order).await;
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("a node's thread panicked");
        }
    }
}

type Started = Result<(NodeHandle, NodePorts), StartError>;

fn run_thread(config: NodeConfig, started: oneshot::Sender<Started>, mut orders: mpsc::Receiver<Order>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error.into()))),
    };
    runtime.block_on(async move {
        let node = match server::start_node(config).await {
            Ok(node) => node,
            Err(error) => return drop(started.send(Err(error))),
        };
        if started.send(Ok((node.handle.clone(), node.ports()))).is_err() {
            return;
        }
        let mut node = node;
        let order = tokio::select! {
            order = orders.recv() => order,
            reason = node.died() => {
                tracing::error!(reason, "a node ended by itself");
                return;
            }
        };
        match order {
            Some(Order::Stop) => {
                if let Err(error) = node.stop().await {
                    tracing::error!(%error, "a node did not end in order");
                }
            }
            Some(Order::Kill) | None => node.kill().await,
        }
    });
    // Whatever tasks are left go without being asked, sockets with them.
    runtime.shutdown_background();
}

struct Cluster {
    data: PathBuf,
    controller: Mutex<Option<DevNode>>,
    controller_handle: NodeHandle,
    controller_peer: SocketAddr,
    brokers: Mutex<BTreeMap<u16, Option<DevNode>>>,
    addresses: Vec<SocketAddr>,
    /// Where everybody listened at the start. A broker that is restarted has another peer address.
    ports: Vec<NodePorts>,
}

impl Cluster {
    fn config(data: &std::path::Path, id: NodeId, controller: Option<SocketAddr>) -> NodeConfig {
        let name = if controller.is_some() { format!("broker-{id}") } else { "controller".to_owned() };
        let mut config = NodeConfig::new(id, data.join(name));
        config.is_controller = controller.is_none();
        config.is_broker = controller.is_some();
        config.listeners.clear();
        config.peer_listen = "127.0.0.1:0".to_owned();
        let address = controller.map_or("127.0.0.1:0".to_owned(), |a| a.to_string());
        config.controllers = BTreeMap::from([(CONTROLLER_ID, address)]);
        config.defaults.num_partitions = 4;
        // As in the configuration that comes with Kafka: who tries things out does not wait three seconds for members that nobody starts.
        let no_delay = ("group.initial.rebalance.delay.ms".to_owned(), "0".to_owned());
        config.defaults.broker.extend([no_delay]);
        config.broker_session_timeout = Duration::from_secs(3);
        config.shutdown_timeout = Duration::from_secs(5);
        config
    }

    async fn start(options: &DevOptions, data: PathBuf) -> Result<Self, StartError> {
        let controller = DevNode::start(Self::config(&data, CONTROLLER_ID, None)).await?;
        let mut brokers = BTreeMap::new();
        let mut addresses = Vec::new();
        let mut ports = Vec::new();
        for n in 1..=options.brokers {
            let port = if options.port == 0 { 0 } else { options.port + n - 1 };
            let node = Self::start_broker(&data, controller.ports.peer, n, port, options.brokers).await?;
            addresses.extend(node.ports.bootstrap());
            ports.push(node.ports.clone());
            brokers.insert(n, Some(node));
        }
        ports.push(controller.ports.clone());
        let (controller_handle, controller_peer) = (controller.handle.clone(), controller.ports.peer);
        let (controller, brokers) = (Mutex::new(Some(controller)), Mutex::new(brokers));
        Ok(Self { data, controller, controller_handle, controller_peer, brokers, addresses, ports })
    }

    async fn start_broker(
        data: &std::path::Path,
        controller: SocketAddr,
        n: u16,
        port: u16,
        all: u16,
    ) -> Result<DevNode, StartError> {
        let mut config = Self::config(data, NodeId(i32::from(n)), Some(controller));
        // Brokers apart from their controller wait for three of them otherwise, and here it is known how many there are.
        let replicas = ("offsets.topic.replication.factor".to_owned(), all.min(3).to_string());
        config.defaults.broker.extend([replicas]);
        config.listeners = vec![Listener::local(port)];
        DevNode::start(config).await
    }

    async fn ready(&self) -> Result<(), StartError> {
        let registered = async {
            loop {
                let waiting =
                    self.brokers.lock().await.values().flatten().any(|n| !n.handle.status().registered);
                if !waiting {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let late = || StartError::Config("the brokers did not register in time".to_owned());
        tokio::time::timeout(READY_TIMEOUT, registered).await.map_err(|_| late())
    }

    async fn create_topics(&self, topics: &[(String, i32, Option<i16>)]) -> Result<(), StartError> {
        for (name, partitions, factor) in topics {
            let create = CreateTopic {
                name: name.clone(),
                partitions: *partitions,
                replication_factor: factor.unwrap_or(-1),
                assignments: None,
                configs: BTreeMap::new(),
                validate_only: false,
            };
            match self.controller_handle.controller(Command::CreateTopic(create), 10_000).await {
                Ok(_) | Err(CtlError::TopicExists(_)) => {}
                Err(error) => return Err(StartError::Config(format!("--topic {name}: {error}"))),
            }
        }
        Ok(())
    }

    async fn kill(&self, n: u16) -> Result<String, String> {
        let mut brokers = self.brokers.lock().await;
        let slot = brokers.get_mut(&n).ok_or_else(|| format!("there is no broker {n}"))?;
        let node = slot.take().ok_or_else(|| format!("broker {n} is not running"))?;
        node.end(Order::Kill).await;
        Ok(format!("broker {n} killed"))
    }

    async fn restart(&self, n: u16) -> Result<String, String> {
        let mut brokers = self.brokers.lock().await;
        let slot = brokers.get_mut(&n).ok_or_else(|| format!("there is no broker {n}"))?;
        if slot.is_some() {
            return Err(format!("broker {n} is running"));
        }
        let port = self.addresses[usize::from(n) - 1].port();
        let all = self.addresses.len() as u16;
        let node = Self::start_broker(&self.data, self.controller_peer, n, port, all).await;
        *slot = Some(node.map_err(|e| e.to_string())?);
        Ok(format!("broker {n} restarted"))
    }

    async fn stop(&self) {
        let brokers = std::mem::take(&mut *self.brokers.lock().await);
        let stops: Vec<_> =
            brokers.into_values().flatten().map(|node| tokio::spawn(node.end(Order::Stop))).collect();
        for stop in stops {
            if stop.await.is_err() {
                tracing::error!("a broker did not stop in order");
            }
        }
        if let Some(controller) = self.controller.lock().await.take() {
            controller.end(Order::Stop).await;
        }
    }
}

/// Runs a development cluster until SIGINT or SIGTERM.
pub async fn run_dev(options: DevOptions) -> Result<(), StartError> {
    if options.brokers == 0 {
        return Err(StartError::Config("--brokers must be at least 1".to_owned()));
    }
    let started = std::time::Instant::now();
    let temporary = options.data_dir.is_none();
    let name = format!("kontiki-dev-{}", uuid::Uuid::new_v4().simple());
    let data = options.data_dir.clone().unwrap_or_else(|| std::env::temp_dir().join(name));
    let ran = run(&options, data.clone(), started).await;
    if temporary && let Err(error) = std::fs::remove_dir_all(&data) {
        tracing::debug!(%error, "temporary data not removed");
    }
    ran
}

async fn run(options: &DevOptions, data: PathBuf, started: std::time::Instant) -> Result<(), StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    std::fs::create_dir_all(&data)?;
    server::raise_descriptor_limit();
    options.ports_file.as_deref().map(PortsFile::prepare).transpose()?;
    let cluster = Arc::new(Cluster::start(options, data).await?);
    cluster.ready().await?;
    cluster.create_topics(&options.topics).await?;
    let address = format!("127.0.0.1:{}", options.admin_port);
    let listen = |source| StartError::Listen { address: address.clone(), what: "HTTP admin", source };
    let admin = TcpListener::bind(&address).await.map_err(listen)?;
    let admin_address = admin.local_addr()?;
    let served = tokio::spawn(axum::serve(admin, router(cluster.clone())).into_future());
    let ports_file = options.ports_file.as_deref();
    let _ports =
        ports_file.map(|path| PortsFile::write(path, &cluster.ports, Some(admin_address))).transpose()?;
    announce(&cluster.addresses, admin_address, started)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    served.abort();
    let _aborted = served.await;
    cluster.stop().await;
    Ok(())
}

fn announce(
    brokers: &[SocketAddr],
    admin: SocketAddr,
    started: std::time::Instant,
) -> Result<(), StartError> {
    let bootstrap: Vec<String> = brokers.iter().map(SocketAddr::to_string).collect();
    let first = &bootstrap[0];
    let flag = if first == "127.0.0.1:9092" { String::new() } else { format!(" -B {first}") };
    let admin_flag =
        if admin.port() == 8080 { String::new() } else { format!(" --admin-port {}", admin.port()) };
    let text = format!(
        "READY bootstrap={} admin=http://{admin}\n  \
         echo hello | kontiki produce{flag} greetings\n  \
         kontiki consume{flag} greetings -o start -e\n  \
         kontiki dev kill 2{admin_flag}     # and: kontiki dev restart 2{admin_flag}\n",
        bootstrap.join(","),
    );
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A script may read the first line and go; the cluster stays.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    tracing::info!(ms = started.elapsed().as_millis() as u64, "development cluster is ready");
    Ok(())
}

fn router(cluster: Arc<Cluster>) -> Router {
    let orders = Router::new()
        .route("/dev/kill/{n}", post(on_kill))
        .route("/dev/restart/{n}", post(on_restart))
        .with_state(cluster.clone());
    http::router(cluster.controller_handle.clone()).merge(orders)
}

fn answer(result: Result<String, String>) -> (StatusCode, String) {
    match result {
        Ok(text) => (StatusCode::OK, text + "\n"),
        Err(text) => (StatusCode::CONFLICT, text + "\n"),
    }
}

async fn on_kill(State(cluster): State<Arc<Cluster>>, Path(n): Path<u16>) -> (StatusCode, String) {
    answer(cluster.kill(n).await)
}

async fn on_restart(State(cluster): State<Arc<Cluster>>, Path(n): Path<u16>) -> (StatusCode, String) {
    answer(cluster.restart(n).await)
}
