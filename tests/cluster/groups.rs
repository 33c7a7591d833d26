//! Consumer groups while their coordinators die: nothing is skipped, nothing that was committed is forgotten, no owner twice.
//! The members are stock clients (`tests/foreign/confluent/member.py`) that log what they are assigned, read and commit; and one of our own beside them.

use super::foreign::{Client, Writer, python};
use super::group_history::{self, Event, Kind, Log, Seen};
use super::rounds;
use super::system::{Cluster, Layout, root};
use kontiki::broker::groups::partition_of;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GROUP: &str = "survivors";
const TOPIC: &str = "grouped";
const OFFSETS: &str = "__consumer_offsets";
const PARTITIONS: usize = 4;

/// A `kontiki group` command's answer, and whether it did what it was told.
pub(super) fn group(cluster: &Cluster, args: &[&str]) -> (bool, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .arg("group")
        .args(args)
        .args(["--output", "json", "-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    (output.status.success(), answer)
}

/// The commands know both members and what each has, and let nobody set offsets under them.
fn check_members(cluster: &Cluster) {
    let (is_done, described) = group(cluster, &["describe", GROUP]);
    let described = &described["items"][0];
    assert!(is_done && described["state"] == "Stable", "{described}");
    assert_eq!(described["members"].as_array().map(Vec::len), Some(2), "{described}");
    let partitions = described["partitions"].as_array().expect("rows");
    let owners: BTreeSet<&str> = partitions.iter().filter_map(|row| row["member"]["id"].as_str()).collect();
    assert_eq!((partitions.len(), owners.len()), (PARTITIONS, 2), "{described}");
    let (is_done, refused) = group(cluster, &["seek", GROUP, "--to", "start"]);
    assert!(!is_done && refused["error"]["code"] == "NON_EMPTY_GROUP", "{refused}");
    let (is_done, refused) = group(cluster, &["delete", GROUP]);
    assert!(!is_done && refused["items"][0]["error"]["code"] == "NON_EMPTY_GROUP", "{refused}");
}

/// Without its members the group stands at the end, can be set anywhere, and goes when it is told to.
fn check_empty(cluster: &Cluster) {
    let offsets = |described: &Value| -> Vec<i64> {
        let rows = described["items"][0]["partitions"].as_array().expect("rows");
        rows.iter().map(|row| row["current_offset"].as_i64().expect("committed")).collect()
    };
    let (_, before) = group(cluster, &["describe", GROUP]);
    assert!(before["items"][0]["state"] == "Empty" && before["items"][0]["lag"] == 0, "{before}");
    let (_, planned) = group(cluster, &["seek", GROUP, "--to", "-10", "--dry-run"]);
    let back: Vec<i64> = offsets(&before).iter().map(|offset| offset - 10).collect();
    let rows = planned["items"].as_array().expect("rows");
    assert_eq!(rows.iter().filter_map(|row| row["new_offset"].as_i64()).collect::<Vec<_>>(), back);
    assert_eq!(offsets(&group(cluster, &["describe", GROUP]).1), offsets(&before), "a dry run");
    assert!(group(cluster, &["seek", GROUP, "--to", "start"]).0);
    assert_eq!(offsets(&group(cluster, &["describe", GROUP]).1), [0; PARTITIONS]);
    let listed =
        |answer: Value| answer["items"].as_array().expect("groups").iter().any(|g| g["group"] == GROUP);
    assert!(listed(group(cluster, &["list"]).1));
    assert!(group(cluster, &["delete", GROUP]).0);
    assert!(!listed(group(cluster, &["list"]).1));
}

/// A running `member.py`.
struct Member {
    child: Child,
    log: PathBuf,
}

impl Member {
    fn start(cluster: &Cluster, name: &str) -> Member {
        let log = cluster.dir().join(format!("{name}.member"));
        let said = File::create(cluster.dir().join(format!("{name}.client.log"))).expect("a log file");
        let child = python()
            .arg(root().join("tests/foreign/confluent/member.py"))
            .args([&cluster.bootstrap(), TOPIC, GROUP])
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("member.py");
        Member { child, log }
    }

    fn events(&self) -> Vec<Event> {
        group_history::parse_events(&fs::read_to_string(&self.log).unwrap_or_default())
    }

    fn count(&self, kind: Kind) -> usize {
        self.events().iter().filter(|event| event.kind == kind).count()
    }

    /// Lets it commit, leave and end.
    fn finish(mut self) -> Vec<Event> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().expect("our own child").is_none() {
            assert!(Instant::now() < deadline, "a member does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.events()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn coordinator_killed_in_the_middle_group_goes_on_and_no_commit_is_forgotten() {
    let _one_at_a_time = super::exclusive();
    let mut cluster = Cluster::start("groups");
    let client = Client {
        name: "grouped",
        topic: TOPIC,
        partitions: PARTITIONS,
        rate: Some(300),
        ..Client::default()
    };
    let writer = Writer::start_as(&cluster, client);
    let members = [Member::start(&cluster, "one"), Member::start(&cluster, "two")];
    until("both members read", Duration::from_secs(60), || members.iter().all(|m| m.count(Kind::Read) > 100));
    check_members(&cluster);
    for _ in 0..rounds(2) {
        let coordinator = cluster.leader(OFFSETS, partition_of(GROUP, 50));
        let before: Vec<usize> = members.iter().map(|member| member.count(Kind::Committed)).collect();
        cluster.kill(coordinator);
        until("both commit again", Duration::from_secs(60), || {
            members.iter().zip(&before).all(|(member, before)| member.count(Kind::Committed) > before + 5)
        });
        cluster.spawn(coordinator);
        cluster.await_in_sync(OFFSETS, Duration::from_secs(60));
    }
    let history = writer.finish();
    let mut written: BTreeMap<i64, i64> = BTreeMap::new();
    for ack in &history.acks {
        let last = written.entry(ack.partition as i64).or_insert(-1);
        *last = (*last).max(ack.offset);
    }
    until("everything acknowledged is read", Duration::from_secs(60), || {
        let events: Vec<Event> = members.iter().flat_map(Member::events).collect();
        let read: BTreeSet<(i64, i64)> =
            events.iter().filter(|e| e.kind == Kind::Read).map(|e| (e.partition, e.offset)).collect();
        written.iter().all(|(partition, last)| (0..=*last).all(|offset| read.contains(&(*partition, offset))))
    });
    let logs = members.into_iter().zip(["one", "two"]);
    let logs = logs.map(|(member, name)| Log { member: name.into(), events: member.finish() }).collect();
    let (counts, wrong) = group_history::check(&Seen { logs, ..Seen::default() }, &written);
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
    check_empty(&cluster);
    println!("coordinator killed: {counts:?}, nothing skipped, nothing forgotten");
}

/// `kontiki consume -g`, whose output goes to a file.
struct Own {
    child: Child,
    out: PathBuf,
}

impl Own {
    fn start(cluster: &Cluster, name: &str) -> Own {
        let out = cluster.dir().join(format!("{name}.out"));
        let child = Command::new(env!("CARGO_BIN_EXE_kontiki"))
            .args([
                "consume",
                TOPIC,
                "-g",
                GROUP,
                "-o",
                "start",
                "--output",
                "json",
                "-B",
                &cluster.bootstrap(),
            ])
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(cluster.dir().join(format!("{name}.err"))).expect("a file"))
            .spawn()
            .expect("kontiki");
        Own { child, out }
    }

    /// Partition and offset of every record printed.
    fn read(&self) -> Vec<(i64, i64)> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let number = |value: &Value, key: &str| value[key].as_i64().expect("a number");
        let records = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON lines"));
        records.map(|record| (number(&record, "partition"), number(&record, "offset"))).collect()
    }

    /// Ctrl-C: commits, leaves, and is pleased.
    fn interrupt(mut self) -> Vec<(i64, i64)> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("our own child");
        assert!(self.child.wait().expect("our own child").success());
        self.read()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ours is alone first and leads; then the other one was there before it. Both share the partitions, and between them everything is read, by each in order.
#[test]
fn own_member_shares_a_group_with_a_stock_client_whoever_leads() {
    let _shared = super::shared();
    let layout = Layout {
        environment: vec![("KONTIKI_KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")],
        ..Layout::default()
    };
    let mut cluster = Cluster::start_in("own-member", layout);
    let client =
        Client { name: TOPIC, topic: TOPIC, partitions: PARTITIONS, rate: Some(300), ..Client::default() };
    let writer = Writer::start_as(&cluster, client);
    let first = Own::start(&cluster, "first");
    until("ours reads all", Duration::from_secs(30), || {
        first.read().iter().map(|at| at.0).collect::<BTreeSet<_>>().len() == PARTITIONS
    });
    // The coordinator dies, and is out of the metadata when the group is next rebalanced: it is looked up, not remembered.
    let coordinator = cluster.leader(OFFSETS, partition_of(GROUP, 50));
    cluster.kill(coordinator);
    let before = first.read().len();
    until("ours goes on", Duration::from_secs(30), || first.read().len() > before + 600);
    let other = Member::start(&cluster, "other");
    until("the other one reads", Duration::from_secs(30), || other.count(Kind::Read) > 50);
    check_members(&cluster);
    cluster.spawn(coordinator);
    cluster.await_answer(coordinator);
    let before = first.read().len();
    until("ours reads on", Duration::from_secs(30), || first.read().len() > before + 50);
    let mut printed = first.interrupt();
    until("the other one has all", Duration::from_secs(30), || {
        let described = group(&cluster, &["describe", GROUP]).1;
        let rows = described["items"][0]["partitions"].as_array().cloned().unwrap_or_default();
        let owners: BTreeSet<String> = rows.iter().map(|row| row["member"]["id"].to_string()).collect();
        rows.len() == PARTITIONS && owners.len() == 1 && !owners.contains("null")
    });
    let second = Own::start(&cluster, "second");
    until("ours is back", Duration::from_secs(30), || second.read().len() > 50);
    let history = writer.finish();
    let mut written: BTreeMap<i64, i64> = BTreeMap::new();
    for ack in &history.acks {
        let last = written.entry(ack.partition as i64).or_insert(-1);
        *last = (*last).max(ack.offset);
    }
    let last: BTreeSet<(i64, i64)> = written.iter().map(|(partition, last)| (*partition, *last)).collect();
    until("all is read", Duration::from_secs(30), || {
        let of_the_other =
            other.events().into_iter().filter(|e| e.kind == Kind::Read).map(|e| (e.partition, e.offset));
        let read: BTreeSet<(i64, i64)> = second.read().into_iter().chain(of_the_other).collect();
        last.is_subset(&read)
    });
    let second = second.interrupt();
    for part in [&printed, &second] {
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        for (partition, offset) in part {
            // Moving back is possible only where a rebalance left something uncommitted; here nobody died.
            assert!(
                last.insert(*partition, *offset).is_none_or(|before| before < *offset),
                "{partition}@{offset}"
            );
        }
    }
    printed.extend(second);
    printed.extend(other.finish().iter().filter(|e| e.kind == Kind::Read).map(|e| (e.partition, e.offset)));
    let read: BTreeSet<(i64, i64)> = printed.iter().copied().collect();
    for (partition, last) in &written {
        let missing = (0..=*last).find(|offset| !read.contains(&(*partition, *offset)));
        assert_eq!(missing, None, "of partition {partition}, written up to {last}");
    }
    println!(
        "own member beside a stock one: {} read, {} of them twice",
        read.len(),
        printed.len() - read.len()
    );
}
