//! Kafka Connect and a Kafka Streams job, unchanged, while a broker dies, a worker restarts, and a second instance joins.
//!
//! Lines of a file go through a source connector to a topic, from there through a sink connector to another file, and through the job
//! (`tests/foreign/streams`) to two more topics and their files. The source and the first sink run in a distributed worker, whose state
//! is in three compacted topics, the last two sinks in a standalone one. The source's producer is idempotent and its worker is stopped in
//! order, so the topic holds each line once; sinks and the job promise at least once.

use super::exclusive;
use super::foreign::read_all;
use super::rounds;
use super::system::{BROKERS, Cluster, root};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whatever is waited for comes within this, on a machine however loaded.
const LIMIT: Duration = Duration::from_secs(150);
const LINES: &str = "lines";
const OUTPUTS: [&str; 2] = ["even", "odd"];

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{what}: {} ms", (Instant::now() + LIMIT - deadline).as_millis());
}

/// A Java program that runs until it is told to end.
struct Java {
    child: Child,
    log: PathBuf,
}

impl Java {
    fn start(cluster: &Cluster, name: &str, class_path: &[&str], class: &str, arguments: &[&str]) -> Java {
        let log = cluster.dir().join(format!("{name}.log"));
        let path: Vec<PathBuf> =
            class_path.iter().map(|part| root().join("target/foreign").join(part)).collect();
        let is_there = |part: &Path| part.ends_with("*") || part.exists();
        assert!(path.iter().all(|part| is_there(part)), "run tests/foreign/install.sh: {path:?}");
        let path: Vec<&str> = path.iter().map(|part| part.to_str().expect("text")).collect();
        let said = File::create(&log).expect("a log file");
        let child = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx384m"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-cp", &path.join(":"), class])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a second handle"))
            .stderr(said)
            .spawn()
            .expect("java");
        Java { child, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits, and fails at once if the program ends meanwhile.
    fn until(&mut self, what: &str, mut condition: impl FnMut(&Java) -> bool) {
        until(what, || {
            let ended = self.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{} ended by itself", self.log.display());
            condition(self)
        });
    }

    /// SIGTERM, and its orderly end.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal to our own child");
        until("an orderly end", || self.child.try_wait().expect("our own child").is_some());
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request to a worker's REST interface; the body of the answer if that is a good one.
fn rest(port: u16, method: &str, path: &str, body: &Value) -> Option<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ')
        .nth(1)
        .is_some_and(|code| code.starts_with('2'))
        .then(|| serde_json::from_str(body).ok())?
}

/// What both kinds of worker are told.
fn common(cluster: &Cluster, port: u16) -> String {
    format!(
        "bootstrap.servers={}\nlisteners=http://127.0.0.1:{port}\noffset.flush.interval.ms=1000\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\n\
         producer.enable.idempotence=true\nplugin.discovery=service_load\n\
         task.shutdown.graceful.timeout.ms=60000\noffset.flush.timeout.ms=60000\n",
        cluster.bootstrap()
    )
}

fn distributed(cluster: &Cluster) -> Java {
    let mut text = common(cluster, cluster.spare_ports()[0]) + "group.id=workers\n";
    for topic in ["offset", "config", "status"] {
        text += &format!("{topic}.storage.topic=connect-{topic}\n{topic}.storage.replication.factor=3\n");
    }
    let properties = cluster.dir().join("distributed.properties");
    fs::write(&properties, text).expect("a properties file");
    let arguments = [properties.to_str().expect("text")];
    let class = "org.apache.kafka.connect.cli.ConnectDistributed";
    let mut worker = Java::start(cluster, "distributed", &["connect/lib/*"], class, &arguments);
    let port = cluster.spare_ports()[0];
    worker.until("the worker answers", |_| rest(port, "GET", "/connectors", &Value::Null).is_some());
    worker
}

/// A worker that writes each of the job's topics to a file of that name.
fn standalone(cluster: &Cluster) -> Java {
    let write = |name: &str, text: String| {
        let path = cluster.dir().join(name);
        fs::write(&path, text).expect("a properties file");
        path.to_str().expect("text").to_owned()
    };
    let offsets = cluster.dir().join("standalone.offsets");
    let more = format!("offset.storage.file.filename={}\n", offsets.display());
    let mut arguments =
        vec![write("standalone.properties", common(cluster, cluster.spare_ports()[1]) + &more)];
    for topic in OUTPUTS {
        let text = format!(
            "name={topic}\nconnector.class=FileStreamSink\ntasks.max=1\ntopics={topic}\nfile={}\n",
            file(cluster, topic).display()
        );
        arguments.push(write(&format!("{topic}.properties"), text));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let class = "org.apache.kafka.connect.cli.ConnectStandalone";
    Java::start(cluster, "standalone", &["connect/lib/*"], class, &arguments)
}

fn job(cluster: &Cluster, name: &str) -> Java {
    let state = cluster.dir().join(format!("{name}-state"));
    let bootstrap = cluster.bootstrap();
    let arguments = [&bootstrap, "job", state.to_str().expect("text"), LINES, OUTPUTS[0], OUTPUTS[1]];
    Java::start(cluster, name, &["streams/classes", "streams/lib/*"], "Job", &arguments)
}

/// Whether an instance of the job has tasks, by the last that it said of them.
fn has_tasks(job: &Java) -> bool {
    let said = job.said();
    let last = said.lines().rev().find_map(|line| line.strip_prefix("tasks "));
    last.is_some_and(|n| n != "0")
}

fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir().join(format!("{name}.txt"))
}

fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    text[..end].lines().map(str::to_owned).collect()
}

/// Appends a line to the source's file every few milliseconds until it is told to end.
struct Appender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Appender {
    fn start(path: PathBuf) -> Appender {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut out = File::create(path).expect("the source's file");
            let mut n = 0;
            while !told.load(Ordering::Relaxed) {
                out.write_all(format!("line {n}\n").as_bytes()).expect("the source's file");
                n += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            n
        });
        Appender { stop, thread: Some(thread) }
    }

    /// Ends, and says how many lines there are.
    fn finish(&mut self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().expect("the appender"))
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn created(cluster: &Cluster, topic: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args(["topic", "create", topic, "-p", "4", "-r", "3", "-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The source's topic is made by Connect, as the connector's configuration says.
fn connect(cluster: &Cluster) {
    let put = |name: &str, config: Value| {
        let body = json!({"name": name, "config": config});
        until("a connector is taken", || {
            rest(cluster.spare_ports()[0], "POST", "/connectors", &body).is_some()
                || rest(cluster.spare_ports()[0], "GET", &format!("/connectors/{name}"), &Value::Null)
                    .is_some()
        });
    };
    put(
        "source",
        json!({
            "connector.class": "FileStreamSource", "tasks.max": "1", "topic": LINES, "file": file(cluster, "in"),
            "topic.creation.default.replication.factor": "3", "topic.creation.default.partitions": "1",
            "topic.creation.default.cleanup.policy": "delete", "topic.creation.default.min.insync.replicas": "2",
            "topic.creation.default.retention.ms": "-1", "topic.creation.default.compression.type": "producer",
        }),
    );
    put(
        "sink",
        json!({
            "connector.class": "FileStreamSink", "tasks.max": "1", "topics": LINES, "file": file(cluster, "out"),
            "errors.tolerance": "all", "errors.deadletterqueue.topic.name": "dead-letters",
        }),
    );
}

/// All three files grow from here.
fn await_flow(cluster: &Cluster, what: &str) {
    let count = || ["out", OUTPUTS[0], OUTPUTS[1]].map(|name| whole_lines(&file(cluster, name)).len());
    let before = count();
    until(what, || count().iter().zip(before).all(|(now, before)| *now >= before + 100));
}

/// Number and name of every line an output of the job should have.
fn mapped(lines: u64, output: &str) -> Vec<(u64, String)> {
    let is_odd = u64::from(output == OUTPUTS[1]);
    (0..lines).filter(|n| n % 5 != 4 && n % 2 == is_odd).map(|n| (n, format!("LINE {n}"))).collect()
}

/// Every line at least once and nothing else, and those of a key in order as they came first. Returns repeats.
fn check(found: &[String], wanted: &[(u64, String)], key: impl Fn(u64) -> u64) -> usize {
    let names: BTreeMap<&str, u64> = wanted.iter().map(|(n, name)| (name.as_str(), *n)).collect();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for line in found {
        let n = *names.get(line.as_str()).unwrap_or_else(|| panic!("{line:?} was made from nothing"));
        if seen.insert(n) {
            let before = last.insert(key(n), n);
            assert!(before.is_none_or(|before| before < n), "{n} came behind {before:?} of its key");
        }
    }
    let missing: Vec<&str> = names.iter().filter(|(_, n)| !seen.contains(n)).map(|(l, _)| *l).collect();
    assert!(
        missing.is_empty(),
        "{} lines are missing: {:?}",
        missing.len(),
        &missing[..missing.len().min(5)]
    );
    found.len() - seen.len()
}

/// Waits until all of these lines are in a file, and checks it.
fn await_lines(cluster: &Cluster, name: &str, wanted: &[(u64, String)], key: impl Fn(u64) -> u64) -> usize {
    until(&format!("every line of {name}"), || {
        let found: BTreeSet<String> = whole_lines(&file(cluster, name)).into_iter().collect();
        found.len() >= wanted.len()
    });
    check(&whole_lines(&file(cluster, name)), wanted, key)
}

#[test]
fn connect_and_streams_lines_arrive_across_a_dead_broker_a_restarted_worker_and_a_second_instance() {
    let _one_at_a_time = exclusive();
    let mut cluster = Cluster::start("jobs");
    OUTPUTS.iter().for_each(|topic| created(&cluster, topic));
    let mut lines = Appender::start(file(&cluster, "in"));
    let _sinks = standalone(&cluster);
    let mut worker = distributed(&cluster);
    connect(&cluster);
    until("the source's topic", || cluster.partitions(LINES, &BROKERS).is_some_and(|p| p.len() == 1));
    let mut first = job(&cluster, "job-one");
    first.until("tasks of the first instance", has_tasks);
    await_flow(&cluster, "lines arrive");
    for _ in 0..rounds(1) {
        let leader = cluster.leader(LINES, 0);
        cluster.kill(leader);
        await_flow(&cluster, "lines arrive with a dead broker");
        worker.stop();
        cluster.spawn(leader);
        cluster.await_answers();
        let mut second = job(&cluster, "job-two");
        worker = distributed(&cluster);
        second.until("tasks of the second instance", has_tasks);
        await_flow(&cluster, "lines arrive with two instances and a new worker");
        second.stop();
    }
    let count = lines.finish().expect("not finished before");
    let all: Vec<(u64, String)> = (0..count).map(|n| (n, format!("line {n}"))).collect();
    let repeats = await_lines(&cluster, "out", &all, |_| 0);
    let mapped = OUTPUTS.map(|output| await_lines(&cluster, output, &mapped(count, output), |n| n % 16));
    worker.stop();
    first.stop();
    let (records, _) = read_all(&cluster, LINES, 1);
    let different = records.iter().zip(&all).find(|(record, (_, line))| record.value != *line);
    assert!(
        records.len() == all.len() && different.is_none(),
        "{} records of {} lines, first {different:?}",
        records.len(),
        all.len()
    );
    println!("{count} lines, each once in the topic; again at the sink: {repeats}, at the job's: {mapped:?}");
}
