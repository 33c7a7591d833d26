//! Running the stock clients of `tests/foreign`: the check of all of them, the writer that never stops, the reader.
//! Not a client itself. Called by the tests of this folder; needs what `tests/foreign/install.sh` installs.

use super::history::{self, Ack, History, Polls, Record};
use super::system::{Cluster, root};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The Python with the stock clients; says how to get it if it is not there.
pub fn python() -> Command {
    let path = root().join("target/foreign/venv/bin/python");
    assert!(path.exists(), "{} is missing: run tests/foreign/install.sh (tests/run.sh does)", path.display());
    Command::new(path)
}

/// Runs every foreign client check against a cluster and returns its report; fails if one of them did.
pub fn check_all(bootstrap: &str) -> String {
    let output = Command::new(root().join("tests/foreign/run.sh"))
        .arg(bootstrap)
        .stdin(Stdio::null())
        .output()
        .expect("tests/foreign/run.sh");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    report
}

/// Runs these clients at these jobs of `tests/matrix` and returns its report; fails if one failed, or the page says otherwise.
pub fn check_matrix(clients: &str, jobs: &str) -> String {
    let output = Command::new(root().join("tests/matrix/run.sh"))
        .args(["--check", "--parallel", "4", "--clients", clients, "--jobs", jobs])
        .env("KONTIKI", env!("CARGO_BIN_EXE_kontiki"))
        // For loaded machines: a job takes some ten seconds.
        .env("MATRIX_LIMIT", "240")
        .stdin(Stdio::null())
        .output()
        .expect("tests/matrix/run.sh");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    report
}

/// One of Kafka's own tools against a cluster, ready to be run.
pub fn kafka_tool_command(cluster: &Cluster, class: &str, arguments: &[&str]) -> Command {
    let library = root().join("target/foreign/kafka/lib");
    assert!(library.exists(), "{} is missing: run tests/foreign/install.sh", library.display());
    let mut command = Command::new("java");
    command
        .args([
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ])
        .arg("-cp")
        .arg(library.join("*"))
        .arg(class)
        .args(["--bootstrap-server", &cluster.bootstrap()])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Runs one of Kafka's own tools against a cluster and returns all it says; fails if it does.
pub fn kafka_tool(cluster: &Cluster, class: &str, arguments: &[&str]) -> String {
    let output = kafka_tool_command(cluster, class, arguments).output().expect("java");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{class} {arguments:?} failed:\n{}\n{}", said[0], said[1]);
    said.concat()
}

/// A running `writer.py`.
pub struct Writer {
    child: Child,
    path: PathBuf,
    tail: BufReader<File>,
    line: String,
    /// Name in every record's value.
    pub run: String,
}

/// How a client of the tests is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'a> {
    /// Names its files, and stands in its records.
    pub name: &'a str,
    /// Topic, with this many partitions.
    pub topic: &'a str,
    /// Partitions of the topic.
    pub partitions: usize,
    /// Given to the client as they are.
    pub properties: &'a [&'a str],
    /// Configuration of the topic, if this writer is the first to create it.
    pub config: &'a [&'a str],
    /// Group of the process, by which the packets of some clients can be told from those of others.
    pub group: Option<u32>,
    /// Records per second (writers); 1,500 without.
    pub rate: Option<u32>,
    /// Seconds between records that no broker may take (writers).
    pub refuse_every: Option<u32>,
}

impl Client<'_> {
    /// Starts a script of `tests/foreign/confluent` whose standard input ends it, and whose log is at the path given back.
    fn spawn(&self, cluster: &Cluster, script: &str, more: &[&str]) -> (Child, PathBuf) {
        let path = cluster.dir().join(format!("{}.history", self.name));
        File::create(&path).expect("a history file");
        let mut command = python();
        command.arg(root().join("tests/foreign/confluent").join(script));
        command.args([&cluster.bootstrap(), self.topic, &self.partitions.to_string()]).arg(&path).args(more);
        for property in self.properties {
            command.args(["-X", property]);
        }
        if let Some(group) = self.group {
            command.gid(group);
        }
        let log = File::create(cluster.dir().join(format!("{}.client.log", self.name))).expect("a log file");
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{script} does not start: {e}"));
        (child, path)
    }
}

/// Waits for a client whose standard input was closed.
fn end_of(child: &mut Child, what: &str) {
    drop(child.stdin.take());
    let deadline = Instant::now() + Duration::from_secs(150);
    let status = loop {
        match child.try_wait().expect("our own child") {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "{what} does not end"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{what} failed: {status}");
}

impl Writer {
    /// Starts writing to `topic`, which is created; `properties` go to the client as they are.
    pub fn start(cluster: &Cluster, topic: &str, partitions: usize, properties: &[&str]) -> Writer {
        Writer::start_as(cluster, Client { name: topic, topic, partitions, properties, ..Client::default() })
    }

    /// Starts a writer of its own name.
    pub fn start_as(cluster: &Cluster, client: Client) -> Writer {
        let run = format!("{}{}", client.name, std::process::id());
        let every = client.refuse_every.unwrap_or(0).to_string();
        let rate = client.rate.unwrap_or(1500).to_string();
        let mut more = vec!["--run", &run, "--refuse-every", &every, "--rate", &rate];
        client.config.iter().for_each(|pair| more.extend(["--config", pair]));
        let (child, path) = client.spawn(cluster, "writer.py", &more);
        let tail = BufReader::new(File::open(&path).expect("the history file"));
        let mut writer = Writer { child, path, tail, line: String::new(), run };
        assert!(writer.next_ack(Duration::from_secs(60), |_| true).is_some(), "the first record within 60 s");
        writer
    }

    /// The next acknowledgement that satisfies `wanted`; None after `limit`.
    pub fn next_ack(&mut self, limit: Duration, wanted: impl Fn(&Ack) -> bool) -> Option<Ack> {
        let deadline = Instant::now() + limit;
        loop {
            if self.tail.read_line(&mut self.line).expect("the history file") > 0 && self.line.ends_with('\n')
            {
                let ack = history::parse_ack(&self.line);
                self.line.clear();
                if let Some(ack) = ack.filter(&wanted) {
                    return Some(ack);
                }
            } else {
                if let Some(status) = self.child.try_wait().expect("our own child") {
                    panic!("the writer ended by itself: {status}");
                }
                if Instant::now() > deadline {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Lets the writer deliver what is in flight and end, and returns its whole history.
    pub fn finish(mut self) -> History {
        end_of(&mut self.child, "the writer");
        history::parse_history(&fs::read_to_string(&self.path).expect("the history file"))
    }
}

/// A running `poller.py`.
pub struct Poller {
    child: Child,
    path: PathBuf,
    /// Its name in reports.
    pub name: String,
}

impl Poller {
    /// Starts reading every partition from the start.
    pub fn start(cluster: &Cluster, client: Client) -> Poller {
        let (child, path) = client.spawn(cluster, "poller.py", &[]);
        Poller { child, path, name: client.name.to_string() }
    }

    /// Lets it read to the ends, and returns all it saw.
    pub fn finish(mut self) -> Polls {
        end_of(&mut self.child, "the poller");
        history::parse_polls(&fs::read_to_string(&self.path).expect("the history file"))
    }
}

/// One that was not let finish must not go on: it would write its last lines into the log of the next of its name.
impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a broker answers to one record that is sent once, by a process of this group if one is given: `ok OFFSET`, or the
/// error's name and whether it may be retried.
pub fn produce_once(
    cluster: &Cluster,
    topic: &str,
    partition: usize,
    value: &str,
    group: Option<u32>,
) -> String {
    let mut command = python();
    if let Some(group) = group {
        command.gid(group);
    }
    let output = command
        .arg(root().join("tests/foreign/confluent/once.py"))
        .args([&cluster.bootstrap(), topic, &partition.to_string(), value])
        .stdin(Stdio::null())
        .output()
        .expect("once.py");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
    assert!(output.status.success(), "once.py: {}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Everything in a topic, and the end offset of each partition, through a stock consumer.
pub fn read_all(cluster: &Cluster, topic: &str, partitions: usize) -> (Vec<Record>, Vec<i64>) {
    let out = cluster.dir().join(format!("{topic}.records"));
    let output = python()
        .arg(root().join("tests/foreign/confluent/reader.py"))
        .args([&cluster.bootstrap(), topic, &partitions.to_string()])
        .arg(&out)
        .stdin(Stdio::null())
        .output()
        .expect("reader.py");
    assert!(output.status.success(), "reader: {}", String::from_utf8_lossy(&output.stderr));
    history::parse_records(&fs::read_to_string(&out).expect("the reader's output"))
}
