//! Real processes: three brokers and a separate controller on free loopback ports, killed, stopped and restarted.
//!
//! The system under test is `kontiki start`, or with `KONTIKI_TEST_SYSTEM=kafka` Apache Kafka itself, which proves the
//! harness and gives the figures Kontiki is compared with. Every process is ended, by its own handle, on drop.

use super::kafka::{self, Partition};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Brokers are nodes 1 to 3, the controller is node 4.
pub const BROKERS: [u32; 3] = [1, 2, 3];
/// The separate controller.
pub const CONTROLLER: u32 = 4;
/// A broker that some tests add.
pub const FOURTH: u32 = 5;
/// The separate controllers where there are three.
pub const CONTROLLERS: [u32; 3] = [CONTROLLER, 6, 7];

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// This project's binary.
    Kontiki,
    /// Apache Kafka from `target/foreign/kafka`.
    Kafka,
}

impl System {
    /// As the environment says.
    pub fn chosen() -> System {
        match std::env::var("KONTIKI_TEST_SYSTEM").as_deref() {
            Ok("kafka") => System::Kafka,
            Ok(other) if other != "kontiki" => panic!("KONTIKI_TEST_SYSTEM is kontiki or kafka, not {other}"),
            _ => System::Kontiki,
        }
    }
}

/// Root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Which processes the controllers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// One that is no broker.
    #[default]
    One,
    /// Three that are no brokers.
    Three,
    /// The brokers are the controllers too, all three; there is no other one.
    Combined,
    /// `kontiki dev`: everything in one process, whose brokers die and start by its own commands.
    Dev,
}

/// Where the processes of a cluster listen, keep their data, and what starts them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Every node on an address of its own, 127.0.0.(10 + id), so that one can be cut off from another.
    pub spread: bool,
    /// Data of node `id` in `node-{id}` below this instead of below the cluster's own directory.
    pub data: Option<PathBuf>,
    /// What a node's command is put behind, e.g. `prlimit`.
    pub prefix: BTreeMap<u32, Vec<String>>,
    /// Who decides.
    pub control: Control,
    /// Environment of nodes started from now on.
    pub environment: Vec<(&'static str, &'static str)>,
}

impl Layout {
    /// The controllers' ids; none where they have no process of their own to be named.
    fn controllers(&self) -> &'static [u32] {
        match self.control {
            Control::One => &CONTROLLERS[..1],
            Control::Three => &CONTROLLERS,
            Control::Combined => &BROKERS,
            Control::Dev => &[],
        }
    }

    /// The address of a node.
    pub fn host(&self, id: u32) -> Ipv4Addr {
        if self.spread { Ipv4Addr::new(127, 0, 0, 10 + id as u8) } else { Ipv4Addr::LOCALHOST }
    }
}

/// A running cluster of four processes.
pub struct Cluster {
    /// What runs.
    pub system: System,
    /// Where.
    pub layout: Layout,
    dir: PathBuf,
    base_port: u16,
    nodes: Vec<(u32, Option<Child>)>,
}

impl Cluster {
    /// Starts all four nodes in a fresh directory and waits until every broker answers.
    pub fn start(name: &str) -> Cluster {
        Cluster::start_in(name, Layout::default())
    }

    /// As `start`, in a layout of one's own (Kontiki only).
    pub fn start_in(name: &str, layout: Layout) -> Cluster {
        let system = System::chosen();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{name}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory for the cluster");
        let apart = layout.controllers().iter().copied().filter(|id| !BROKERS.contains(id));
        let all: Vec<u32> = apart.chain(BROKERS).collect();
        let nodes = all.iter().map(|id| (*id, None)).collect();
        let mut cluster = Cluster { system, layout, dir, base_port: free_ports(), nodes };
        if system == System::Kafka {
            let port = cluster.base_port.to_string();
            let status = cluster.peer_script().arg("prepare").arg(&cluster.dir).arg(port).status();
            assert!(status.expect("kafka-cluster.sh").success(), "kafka directories could not be prepared");
        }
        if cluster.layout.control == Control::Dev {
            cluster.start_dev();
        } else {
            all.into_iter().for_each(|id| cluster.spawn(id));
        }
        cluster.await_answers();
        cluster
    }

    fn peer_script(&self) -> Command {
        let mut command = Command::new(root().join("tests/long/peer/kafka-cluster.sh"));
        command.env("KAFKA_LAYOUT", "separate").env("KAFKA_HEAP", "-Xms256m -Xmx512m");
        command
    }

    /// Client address of a broker.
    pub fn address(&self, broker: u32) -> SocketAddr {
        (self.layout.host(broker), self.base_port + broker as u16 - 1).into()
    }

    /// Address where a node's peers connect.
    pub fn peer_address(&self, id: u32) -> SocketAddr {
        (self.layout.host(id), self.base_port + 10 + id as u16).into()
    }

    /// HTTP address of a node.
    pub fn admin_address(&self, id: u32) -> SocketAddr {
        // The last two of the twenty belong to the two controllers whose peer ports come before them.
        let offset = if id <= FOURTH { 4 + id } else { 12 + id };
        (self.layout.host(id), self.base_port + offset as u16).into()
    }

    /// Two of the cluster's ports that no node listens on, for clients that listen themselves.
    pub fn spare_ports(&self) -> [u16; 2] {
        [self.base_port + 3, self.base_port + 10]
    }

    /// All client addresses, comma separated.
    pub fn bootstrap(&self) -> String {
        BROKERS.map(|b| self.address(b).to_string()).join(",")
    }

    /// Where a node keeps its data.
    pub fn data_dir(&self, id: u32) -> PathBuf {
        let below = self.layout.data.as_ref().unwrap_or(&self.dir);
        match self.layout.control {
            Control::Dev => below.join(format!("dev/broker-{id}")),
            _ => below.join(format!("node-{id}/data")),
        }
    }

    /// The body of a node's /health, if it answers.
    pub fn health(&self, id: u32) -> Option<serde_json::Value> {
        serde_json::from_str(&self.http(id, "/health")?).ok()
    }

    /// What a node's admin address answers to a GET.
    pub fn http(&self, id: u32, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin_address(id)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.split_once("\r\n\r\n")?.1.to_owned())
    }

    /// The cluster's own directory, for logs and histories.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn command(&self, id: u32) -> Command {
        if self.system == System::Kafka {
            let mut command = self.peer_script();
            command.arg("run").arg(&self.dir).arg(id.to_string());
            return command;
        }
        let mut command = match self.layout.prefix.get(&id).map(Vec::as_slice) {
            Some([first, rest @ ..]) => {
                let mut command = Command::new(first);
                command.args(rest).arg(env!("CARGO_BIN_EXE_kontiki"));
                command
            }
            _ => Command::new(env!("CARGO_BIN_EXE_kontiki")),
        };
        command.envs(self.layout.environment.iter().copied());
        // Shorter than `stop` waits: a last node whose only peer is damaged has nobody to hand over to.
        command.env("KONTIKI_SHUTDOWN_TIMEOUT_MS", "8000");
        command.args(["start", "--node-id", &id.to_string()]);
        let named = self.layout.controllers().iter().map(|c| format!("{c}@{}", self.peer_address(*c)));
        command.args(["--controllers", &named.collect::<Vec<_>>().join(",")]);
        command.args(["--peer-listen", &self.peer_address(id).to_string()]);
        command.args(["--admin-listen", &self.admin_address(id).to_string()]);
        command.arg("--data-dir").arg(self.data_dir(id));
        if CONTROLLERS.contains(&id) {
            command.args(["--roles", "controller"]);
        } else {
            let is_both = self.layout.control == Control::Combined;
            let roles = if is_both { "broker,controller" } else { "broker" };
            command.args(["--roles", roles, "--listen", &self.address(id).to_string()]);
        }
        command
    }

    /// Every node there is, brokers first.
    pub fn all(&self) -> Vec<u32> {
        let apart = self.layout.controllers().iter().copied().filter(|id| !BROKERS.contains(id));
        BROKERS.into_iter().chain(apart).collect()
    }

    fn slot(&mut self, id: u32) -> &mut Option<Child> {
        &mut self.nodes.iter_mut().find(|(node, _)| *node == id).expect("a known node").1
    }

    /// Starts a node that is not running.
    pub fn spawn(&mut self, id: u32) {
        if self.layout.control == Control::Dev {
            return self.tell_dev("restart", id);
        }
        let child = self.run(self.command(id), &format!("node-{id}"));
        let slot = self.slot(id);
        assert!(slot.is_none(), "node {id} runs already");
        *slot = Some(child);
    }

    /// Starts a process with a log of its own.
    fn run(&self, mut command: Command, name: &str) -> Child {
        let log_path = self.dir.join(format!("{name}.log"));
        let log = File::options().append(true).create(true).open(log_path).expect("a log file");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"))
    }

    /// Everything in one process, the first slot's.
    fn start_dev(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
        command.envs(self.layout.environment.iter().copied());
        command.args(["dev", "--port", &self.base_port.to_string()]);
        command.args(["--admin-port", &self.admin_address(BROKERS[0]).port().to_string()]);
        command.arg("--data-dir").arg(self.dir.join("dev"));
        self.nodes[0].1 = Some(self.run(command, "dev"));
    }

    fn tell_dev(&self, verb: &str, id: u32) {
        let port = self.admin_address(BROKERS[0]).port().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
        let output = command.args(["dev", verb, &id.to_string(), "--admin-port", &port]).output();
        let output = output.expect("kontiki dev");
        assert!(output.status.success(), "dev {verb} {id}: {output:?}");
    }

    /// Adds a broker to the cluster, and waits until it answers (Kontiki only).
    pub fn add_broker(&mut self, id: u32) {
        self.nodes.push((id, None));
        self.spawn(id);
        self.await_answer(id);
    }

    /// `kill -9`, and waits for the process to be gone.
    pub fn kill(&mut self, id: u32) {
        if self.layout.control == Control::Dev {
            return self.tell_dev("kill", id);
        }
        if let Some(mut child) = self.slot(id).take() {
            child.kill().expect("a signal to our own child");
            child.wait().expect("our own child");
        }
    }

    /// The process of a node that was started and not yet killed or stopped.
    pub fn pid(&mut self, id: u32) -> Option<u32> {
        self.slot(id).as_ref().map(Child::id)
    }

    /// Sends a signal to a running node.
    pub fn signal(&mut self, id: u32, signal: rustix::process::Signal) {
        let child = self.slot(id).as_ref().expect("a running node");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("a signal to our own child");
    }

    /// SIGTERM, and waits for an orderly end; kills and fails after 30 s. In `kontiki dev` the first one's ends all.
    pub fn stop(&mut self, id: u32) {
        if self.layout.control == Control::Dev && id != BROKERS[0] {
            return;
        }
        self.signal(id, rustix::process::Signal::TERM);
        let mut child = self.slot(id).take().expect("a running node");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match child.try_wait().expect("our own child") {
                Some(_) => return,
                None if Instant::now() > deadline => {
                    child.kill().expect("a signal to our own child");
                    child.wait().expect("our own child");
                    panic!("node {id} did not stop within 30 s of SIGTERM");
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Resident bytes of a running node.
    pub fn resident_bytes(&mut self, id: u32) -> u64 {
        let pid = self.slot(id).as_ref().expect("a running node").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("kB") * 1024
    }

    /// Fails if a node that should run has ended by itself.
    pub fn assert_running(&mut self) {
        let all: Vec<u32> = self.nodes.iter().map(|(id, _)| *id).collect();
        self.assert_these_run(&all);
    }

    fn assert_these_run(&mut self, nodes: &[u32]) {
        for (id, slot) in self.nodes.iter_mut().filter(|(id, _)| nodes.contains(id)) {
            if let Some(status) = slot.as_mut().and_then(|c| c.try_wait().expect("our own child")) {
                let log = fs::read_to_string(self.dir.join(format!("node-{id}.log"))).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                panic!(
                    "node {id} ended by itself: {status}; its last words, latest first:\n{}",
                    last.join("\n")
                );
            }
        }
    }

    /// Waits until every broker answers Metadata.
    pub fn await_answers(&mut self) {
        BROKERS.into_iter().for_each(|broker| self.await_answer(broker));
    }

    /// Waits until a broker answers Metadata.
    pub fn await_answer(&mut self, broker: u32) {
        let deadline = Instant::now() + Duration::from_secs(60);
        // An unknown topic is an answer too; a refused or silent connection is none.
        while let Err(error) = kafka::partitions(self.address(broker), "no-such-topic") {
            if error.to_string().starts_with("topic error") {
                break;
            }
            self.assert_running();
            assert!(Instant::now() < deadline, "broker {broker} does not answer: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the first broker that answers says of a topic.
    pub fn partitions(&self, topic: &str, ask: &[u32]) -> Option<Vec<Partition>> {
        ask.iter().find_map(|&b| kafka::partitions(self.address(b), topic).ok())
    }

    /// The leader of a partition; waits up to 60 s for one.
    pub fn leader(&self, topic: &str, partition: usize) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let found = self.partitions(topic, &BROKERS).and_then(|p| p.get(partition).map(|p| p.leader));
            match found.and_then(|l| u32::try_from(l).ok()).filter(|l| BROKERS.contains(l)) {
                Some(leader) => return leader,
                None => assert!(Instant::now() < deadline, "no leader of {topic}/{partition} within 60 s"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every broker sees every partition led and in sync on all three.
    pub fn await_in_sync(&mut self, topic: &str, limit: Duration) {
        self.await_level(topic, &BROKERS, limit);
    }

    /// Waits until each of these brokers sees every partition led, and in sync on as many as these are.
    pub fn await_level(&mut self, topic: &str, brokers: &[u32], limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let views: Vec<_> = brokers.iter().map(|&b| kafka::partitions(self.address(b), topic)).collect();
            let is_level = |p: &Partition| p.leader > 0 && p.in_sync.len() >= brokers.len();
            let whole = |v: &std::io::Result<Vec<Partition>>| {
                v.as_ref().is_ok_and(|ps| !ps.is_empty() && ps.iter().all(is_level))
            };
            if views.iter().all(whole) {
                return;
            }
            self.assert_these_run(brokers);
            assert!(
                Instant::now() < deadline,
                "{topic} not in sync on brokers {brokers:?} within {limit:?}: {views:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|(_, slot)| slot.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("logs and data of the failed cluster are in {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// First of twenty consecutive free ports below the range the kernel takes outgoing ports from. No two clusters of a process get the same: one
/// that begins while another has not bound its own yet, or has nodes that are dead just then, would find them free.
fn free_ports() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 500) as u16;
    (0..500u16)
        .map(|_| 20_000 + (start + TAKEN.fetch_add(1, Ordering::Relaxed)) % 500 * 20)
        .find(|&base| (base..base + 20).all(|p| TcpListener::bind((Ipv4Addr::LOCALHOST, p)).is_ok()))
        .expect("twenty free ports in a row")
}
