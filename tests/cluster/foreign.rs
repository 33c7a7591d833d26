//! Running the stock clients of `tests/foreign`: the check of all of them, the writer that never stops, the reader.
//! Not a client itself. Called by the tests of this folder; needs what `tests/foreign/install.sh` installs.

use super::history::{self, Ack, History, Record};
use super::system::{Cluster, root};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
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

/// A running `writer.py`.
pub struct Writer {
    child: Child,
    path: PathBuf,
    tail: BufReader<File>,
    line: String,
    /// Name in every record's value.
    pub run: String,
}

impl Writer {
    /// Starts writing to `topic`, which is created; `properties` go to the client as they are.
    pub fn start(cluster: &Cluster, topic: &str, partitions: usize, properties: &[&str]) -> Writer {
        let path = cluster.dir().join(format!("{topic}.history"));
        File::create(&path).expect("a history file");
        let run = format!("w{}", std::process::id());
        let mut command = python();
        command.arg(root().join("tests/foreign/confluent/writer.py"));
        command.args([&cluster.bootstrap(), topic, &partitions.to_string()]).arg(&path).args(["--run", &run]);
        for property in properties {
            command.args(["-X", property]);
        }
        let log = File::create(cluster.dir().join(format!("{topic}.writer.log"))).expect("a log file");
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("writer.py");
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
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(150);
        let status = loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "the writer does not end"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "the writer failed: {status}");
        history::parse_history(&fs::read_to_string(&self.path).expect("the history file"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
