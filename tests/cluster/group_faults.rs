//! Groups whose members are different people's clients, at work while leaders, coordinators and members die, stand still and come back, and
//! partitions move: nothing is skipped, no commit goes back, no partition is two members', and the groups come to rest.
//!
//! For as long as one likes by `tests/long/groups.sh`. A seed gives the same faults again, not the same moments. The judgement is
//! `group_history`'s; the log's own is `history`'s.

use super::faults::pause;
use super::foreign::{Client, Writer, python, read_all};
use super::group_history::{self, Log, Seen};
use super::groups::{group, until};
use super::history;
use super::system::{BROKERS, CONTROLLER, Cluster, FOURTH, Layout, System, root};
use super::{exclusive, number_from};
use kontiki::broker::groups::partition_of;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TOPIC: &str = "shared-out";
const OFFSETS: &str = "__consumer_offsets";
const PARTITIONS: usize = 8;
/// All members at once give their partitions up in it before each rebalance.
const EAGER: &str = "eager";
/// They keep what stays theirs.
const COOPERATIVE: &str = "cooperative";
const GROUPS: [&str; 2] = [EAGER, COOPERATIVE];
/// From the end of the last fault: a session (6 s) and a rebalance, on a machine that is slow.
const REST: Duration = Duration::from_secs(120);
/// Until everything written is processed.
const CAUGHT_UP: Duration = Duration::from_secs(300);

/// Whose client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Make {
    /// confluent-kafka (librdkafka).
    Confluent,
    /// franz-go.
    Franz,
    /// Kafka's own.
    Java,
    /// `kontiki consume -g`.
    Own,
}

/// Name, client, group, and whether it is a static member.
const CAST: [(&str, Make, &str, bool); 8] = [
    ("confluent", Make::Confluent, EAGER, false),
    ("confluent-static", Make::Confluent, EAGER, true),
    ("franz", Make::Franz, EAGER, false),
    ("java", Make::Java, EAGER, false),
    ("own", Make::Own, EAGER, false),
    ("confluent-coop", Make::Confluent, COOPERATIVE, false),
    ("franz-coop", Make::Franz, COOPERATIVE, false),
    ("java-coop", Make::Java, COOPERATIVE, false),
];

/// A member and all processes that it was.
struct Member {
    name: &'static str,
    make: Make,
    group: &'static str,
    is_static: bool,
    child: Option<Child>,
    logs: Vec<PathBuf>,
}

/// `java` with Kafka's clients.
fn java() -> Command {
    let installed = root().join("target/foreign/java");
    assert!(installed.exists(), "{} is missing: run tests/foreign/install.sh", installed.display());
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(format!("{0}/classes:{0}/lib/*", installed.display())).arg("Member");
    command
}

impl Member {
    /// What starts it; the standard output of ours is its log.
    fn command(&self, cluster: &Cluster, log: &Path) -> Command {
        let is_eager = self.group == EAGER;
        let strategy = if is_eager { "range" } else { "cooperative-sticky" };
        let common = [cluster.bootstrap(), TOPIC.to_owned(), self.group.to_owned()];
        let mut command = match self.make {
            Make::Confluent => {
                let mut command = python();
                command.arg(root().join("tests/foreign/confluent/member.py")).args(common).arg(log);
                command.arg("-X").arg(format!("partition.assignment.strategy={strategy}"));
                if self.is_static {
                    command.arg("-X").arg(format!("group.instance.id={}", self.name));
                    // librdkafka forgets its id when it has not heard from a coordinator for a session, and a commit that waits then is sent
                    // without one: FENCED_INSTANCE_ID, as by Kafka, and the client ends. No fault here lasts as long as this.
                    command.args(["-X", "session.timeout.ms=30000"]);
                }
                command
            }
            Make::Franz => {
                let mut command = Command::new(root().join("target/foreign/franz-member"));
                command.args(common).arg(log).arg(strategy);
                command
            }
            Make::Java => {
                let mut command = java();
                let class = if is_eager { "RangeAssignor" } else { "CooperativeStickyAssignor" };
                command
                    .args(common)
                    .arg(log)
                    .arg(format!("partition.assignment.strategy=org.apache.kafka.clients.consumer.{class}"));
                command
            }
            Make::Own => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
                command.args(["consume", TOPIC, "-g", self.group, "-o", "start", "--output", "json"]);
                command.args(["--session-timeout", "6s", "-B", &cluster.bootstrap()]);
                command
            }
        };
        command.stdin(Stdio::piped());
        command
    }

    fn start(&mut self, cluster: &Cluster) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = cluster.dir().join(format!("{}-{}.member", self.name, self.logs.len()));
        let out = match self.make {
            Make::Own => Stdio::from(File::create(&log).expect("a log")),
            _ => Stdio::null(),
        };
        let said = cluster.dir().join(format!("{}.client.log", self.name));
        let said = File::options().append(true).create(true).open(said).expect("a log file");
        let mut command = self.command(cluster, &log);
        let child = command.stdout(out).stderr(said).spawn();
        self.child = Some(child.unwrap_or_else(|e| panic!("{} does not start: {e}", self.name)));
        self.logs.push(log);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("a running member"));
        kill_process(pid, signal).expect("a signal to our own child");
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Asks it to commit, leave and end.
    fn ask_to_end(&mut self) {
        if self.make == Make::Own {
            self.signal(Signal::INT);
        }
        drop(self.child.as_mut().expect("a running member").stdin.take());
    }

    fn await_end(&mut self) {
        let mut child = self.child.take().expect("a running member");
        let deadline = Instant::now() + Duration::from_secs(150);
        while child.try_wait().expect("our own child").is_none() {
            if Instant::now() > deadline {
                self.child = Some(child);
                panic!("member {} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn assert_running(&mut self) {
        let status = self.child.as_mut().and_then(|child| child.try_wait().expect("our own child"));
        assert!(status.is_none(), "member {} ended by itself: {status:?}", self.name);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Partition and offset of every record that `kontiki consume` printed.
fn printed(text: &str) -> impl Iterator<Item = (i64, i64)> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        (record["partition"].as_i64().expect("a number"), record["offset"].as_i64().expect("a number"))
    })
}

/// What happens to nodes.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillLeader,
    KillCoordinator,
    FreezeLeader,
    FreezeCoordinator,
    StopCoordinator,
    KillController,
    MoveRecords,
    MoveOffsets,
}

const FAULTS: [Fault; 8] = [
    Fault::KillLeader,
    Fault::KillCoordinator,
    Fault::FreezeLeader,
    Fault::FreezeCoordinator,
    Fault::StopCoordinator,
    Fault::KillController,
    Fault::MoveRecords,
    Fault::MoveOffsets,
];

/// What happens to a member.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    Freeze,
    Leave,
}

const BLOWS: [Blow; 3] = [Blow::Kill, Blow::Freeze, Blow::Leave];

/// What is to be undone.
enum Undo {
    Nothing,
    Spawn(u32),
    Continue(u32),
    StartMember(usize),
    ContinueMember(usize),
}

struct Play {
    cluster: Cluster,
    members: Vec<Member>,
    onlooker: Child,
    watched: PathBuf,
    injected: BTreeMap<String, usize>,
}

impl Play {
    fn start() -> Play {
        let environment = vec![
            ("KONTIKI_KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
            ("KONTIKI_KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "3"),
        ];
        let mut cluster = Cluster::start_in("group-faults", Layout { environment, ..Layout::default() });
        cluster.add_broker(FOURTH);
        let watched = cluster.dir().join("onlooker.watch");
        let said = File::create(cluster.dir().join("onlooker.client.log")).expect("a log file");
        let onlooker = Command::new(root().join("target/foreign/franz-watch"))
            .args([&cluster.bootstrap(), TOPIC])
            .arg(&watched)
            .args(GROUPS)
            .stdin(Stdio::piped())
            .stderr(said)
            .spawn()
            .expect("the onlooker: run tests/foreign/install.sh");
        let members = CAST.map(|(name, make, group, is_static)| Member {
            name,
            make,
            group,
            is_static,
            child: None,
            logs: Vec::new(),
        });
        Play { cluster, members: members.into(), onlooker, watched, injected: BTreeMap::new() }
    }

    /// A broker that leads this partition, if one says so.
    fn leader(&self, topic: &str, partition: usize) -> Option<u32> {
        let partitions = self.cluster.partitions(topic, &BROKERS)?;
        u32::try_from(partitions.get(partition)?.leader).ok().filter(|leader| *leader > 0)
    }

    fn coordinator(&self, rng: &mut StdRng) -> Option<u32> {
        let group = GROUPS.choose(rng).expect("groups");
        self.leader(OFFSETS, partition_of(group, 50))
    }

    /// Gives a partition other replicas, whose first is to lead it.
    fn reassign(&self, topic: &str, partition: usize, rng: &mut StdRng) -> bool {
        let all: Vec<u32> = BROKERS.into_iter().chain([FOURTH]).collect();
        let chosen: Vec<String> = all.choose_multiple(rng, 3).map(u32::to_string).collect();
        let moved = Command::new(env!("CARGO_BIN_EXE_kontiki"))
            .args(["partition", "reassign", topic, "-p", &partition.to_string(), "--no-wait"])
            .args(["--replicas", &chosen.join(","), "-B", &self.cluster.bootstrap()])
            .output()
            .expect("kontiki");
        moved.status.success()
    }

    fn inject(&mut self, fault: Fault, rng: &mut StdRng) -> Undo {
        let place = rng.random_range(0..PARTITIONS);
        let node = match fault {
            Fault::KillLeader | Fault::FreezeLeader => self.leader(TOPIC, place),
            Fault::KillCoordinator | Fault::FreezeCoordinator | Fault::StopCoordinator => {
                self.coordinator(rng)
            }
            Fault::KillController => Some(CONTROLLER),
            Fault::MoveRecords | Fault::MoveOffsets => Some(0),
        };
        let Some(node) = node else { return Undo::Nothing };
        let undo = match fault {
            Fault::KillLeader | Fault::KillCoordinator | Fault::KillController => {
                self.cluster.kill(node);
                Undo::Spawn(node)
            }
            Fault::StopCoordinator => {
                self.cluster.stop(node);
                Undo::Spawn(node)
            }
            Fault::FreezeLeader | Fault::FreezeCoordinator => {
                self.cluster.signal(node, Signal::STOP);
                Undo::Continue(node)
            }
            Fault::MoveRecords | Fault::MoveOffsets => {
                let group = GROUPS.choose(rng).expect("groups");
                let (topic, partition) = match fault {
                    Fault::MoveRecords => (TOPIC, place),
                    _ => (OFFSETS, partition_of(group, 50)),
                };
                if !self.reassign(topic, partition, rng) {
                    return Undo::Nothing;
                }
                Undo::Nothing
            }
        };
        eprintln!("{fault:?} {node}");
        *self.injected.entry(format!("{fault:?}")).or_default() += 1;
        undo
    }

    fn strike(&mut self, blow: Blow, rng: &mut StdRng) -> Undo {
        let at = rng.random_range(0..self.members.len());
        let member = &mut self.members[at];
        let undo = match blow {
            Blow::Kill => {
                member.kill();
                Undo::StartMember(at)
            }
            Blow::Freeze => {
                member.signal(Signal::STOP);
                Undo::ContinueMember(at)
            }
            Blow::Leave => {
                member.ask_to_end();
                Undo::StartMember(at)
            }
        };
        eprintln!("{blow:?} {}", member.name);
        *self.injected.entry(format!("{blow:?}Member")).or_default() += 1;
        undo
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Spawn(node) => {
                self.cluster.spawn(node);
                if node != CONTROLLER {
                    self.cluster.await_answer(node);
                }
            }
            Undo::Continue(node) => self.cluster.signal(node, Signal::CONT),
            Undo::StartMember(at) => {
                if self.members[at].child.is_some() {
                    self.members[at].await_end();
                }
                self.members[at].start(&self.cluster);
            }
            Undo::ContinueMember(at) => self.members[at].signal(Signal::CONT),
        }
    }

    /// A fault of a node, of a member, or one of each; and its end.
    fn round(&mut self, rng: &mut StdRng) {
        let mut undo = Vec::new();
        let of = rng.random_range(0..3);
        if of != 0 {
            let fault = *FAULTS.choose(rng).expect("faults");
            undo.push(self.inject(fault, rng));
        }
        if of != 1 {
            pause(rng, 0..1000);
            let blow = *BLOWS.choose(rng).expect("blows");
            undo.push(self.strike(blow, rng));
        }
        let longest = if rng.random_bool(0.3) { 9000 } else { 3000 };
        pause(rng, 0..longest);
        undo.into_iter().for_each(|undo| self.undo(undo));
        self.members.iter_mut().for_each(Member::assert_running);
    }

    /// Whether a group is stable, with all of its members in it, who have all partitions.
    fn rests(&self, name: &str) -> bool {
        let wanted = self.members.iter().filter(|member| member.group == name).count();
        let described = &group(&self.cluster, &["describe", name]).1["items"][0];
        let rows = described["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let owners: BTreeSet<&str> = rows.iter().filter_map(|row| row["member"]["id"].as_str()).collect();
        let has_all = rows.iter().filter(|row| row["member"]["id"].is_string()).count() == PARTITIONS;
        let members = described["members"].as_array().map_or(0, Vec::len);
        described["state"] == "Stable" && members == wanted && owners.len() == wanted && has_all
    }

    fn come_to_rest(&mut self) -> Duration {
        let begun = Instant::now();
        for name in GROUPS {
            until(&format!("group {name} comes to rest"), REST, || self.rests(name));
        }
        self.members.iter_mut().for_each(Member::assert_running);
        begun.elapsed()
    }

    /// What is known of each group by now.
    fn seen(&self) -> BTreeMap<String, Seen> {
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        for member in &self.members {
            let seen = all.entry(member.group.to_owned()).or_default();
            for (at, path) in member.logs.iter().enumerate() {
                let text = fs::read_to_string(path).unwrap_or_default();
                if member.make == Make::Own {
                    seen.untimed.extend(printed(&text));
                    continue;
                }
                // A member that comes back is another one, unless it is static.
                let name =
                    if member.is_static { member.name.into() } else { format!("{}-{at}", member.name) };
                seen.logs.push(Log { member: name, events: group_history::parse_events(&text) });
            }
        }
        group_history::parse_watch(&fs::read_to_string(&self.watched).unwrap_or_default(), &mut all);
        all
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        let _ = self.onlooker.kill();
        let _ = self.onlooker.wait();
    }
}

/// Whether everything up to these offsets was processed in each group.
fn is_caught_up(play: &Play, written: &BTreeMap<i64, i64>) -> bool {
    let all = play.seen();
    all.values().map(Seen::processed).all(|processed| {
        written.iter().all(|(partition, last)| (0..=*last).all(|o| processed.contains(&(*partition, o))))
    })
}

/// Ends everything and judges it.
fn verify(mut play: Play, written: &BTreeMap<i64, i64>) {
    play.members.iter_mut().for_each(Member::ask_to_end);
    play.members.iter_mut().for_each(Member::await_end);
    drop(play.onlooker.stdin.take());
    assert!(play.onlooker.wait().expect("our own child").success(), "the onlooker failed");
    let mut wrong = Vec::new();
    for (name, seen) in play.seen() {
        let (counts, found) = group_history::check(&seen, written);
        eprintln!(
            "{name}: {counts:?}, {} read by our own, {} answers on offsets, {} on members",
            seen.untimed.len(),
            seen.polls.len(),
            seen.described.len()
        );
        assert!(counts.commits > 0 && !seen.polls.is_empty() && !seen.described.is_empty(), "{name}");
        wrong.extend(found.into_iter().map(|text| format!("{name}: {text}")));
    }
    let shown = wrong.iter().take(30).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} violations:\n{shown}", wrong.len());
}

#[test]
#[ignore = "minutes of faults: tests/long/groups.sh"]
fn groups_of_all_clients_under_faults_nothing_is_skipped_and_no_commit_goes_back() {
    let _one_at_a_time = exclusive();
    if System::chosen() == System::Kafka {
        return; // the layout has a fourth broker
    }
    // Unless told otherwise the same faults each time: a move, coordinators that die, members that do.
    let seed = number_from("KONTIKI_SEED").unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    let seconds = number_from("KONTIKI_GROUP_SECONDS").unwrap_or(12);
    eprintln!(
        "seed {seed}; replay: KONTIKI_SEED={seed} KONTIKI_GROUP_SECONDS={seconds} cargo test --release --test cluster -- --ignored --nocapture groups_of_all"
    );
    let mut play = Play::start();
    let client =
        Client { name: TOPIC, topic: TOPIC, partitions: PARTITIONS, rate: Some(300), ..Client::default() };
    let writer = Writer::start_as(&play.cluster, client);
    for member in &mut play.members {
        member.start(&play.cluster);
    }
    let begun = play.come_to_rest();
    eprintln!("all members have their partitions after {} ms", begun.as_millis());
    let (deadline, mut slowest) = (Instant::now() + Duration::from_secs(seconds), Duration::ZERO);
    while Instant::now() < deadline {
        play.round(&mut rng);
        // Often the next one comes while the last one is still being made up for.
        if rng.random_bool(0.3) {
            slowest = slowest.max(play.come_to_rest());
        }
    }
    slowest = slowest.max(play.come_to_rest());
    assert!(!play.injected.is_empty(), "nothing was injected");
    eprintln!("injected: {:?}; slowest to come to rest: {} ms", play.injected, slowest.as_millis());
    let run = writer.run.clone();
    let history = writer.finish();
    let mut written: BTreeMap<i64, i64> = BTreeMap::new();
    for ack in &history.acks {
        let last = written.entry(i64::from(ack.partition)).or_insert(-1);
        *last = (*last).max(ack.offset);
    }
    let deadline = Instant::now() + CAUGHT_UP;
    while !is_caught_up(&play, &written) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
    }
    let (records, _) = read_all(&play.cluster, TOPIC, PARTITIONS);
    let wrong = history::check(&[(&run, &history)], &[], &records);
    assert!(wrong.is_empty(), "{} violations of the log:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{} records acknowledged, each in its place", history.acks.len());
    play.cluster.assert_running();
    verify(play, &written);
}
