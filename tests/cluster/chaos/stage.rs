//! A cluster whose every part can be made to fail, with clients that never stop, and the final judgement over all of it.
//!
//! Three brokers and a controller, each on an address and a disk of its own; a writer and a reader that reach all of them, and
//! a captive pair of clients that can be shut in with some. Not here: which faults, and when (`partitions`, `storage`, `limits`,
//! `mixed`). Invariants: a fault is counted when it is injected; `verify` checks every operation of every client there was.

use super::disk::Disk;
use super::inject::{Injection, Tampering};
use super::net::{CAPTIVE, Net};
use crate::faults::{SCRUB_OFTEN, await_scrubbed, flip_a_bit, now_us};
use crate::foreign::{Client, Poller, Writer, produce_once, read_all};
use crate::history::{self, Ack, History};
use crate::replica;
use crate::system::{BROKERS, CONTROLLER, Cluster, Control, Layout};
use rand::rngs::StdRng;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the clients write to and read.
pub const TOPIC: &str = "chaos";
/// Its partitions.
pub const PARTITIONS: usize = 6;
const PROBE: &str = "probe";
/// All four nodes.
pub const NODES: [u32; 4] = [1, 2, 3, CONTROLLER];
/// How long a produce may stall while a majority is sound and connected (reliability: I11).
pub const RESUME: Duration = Duration::from_secs(10);
/// How long a cluster without faults may take until all replicas are level.
pub const CONVERGE: Duration = Duration::from_secs(90);

/// Clients that notice a cut before their usual minute, as one that must not stall is configured; and a reader says in its log what it
/// asked when its epoch changed.
const READER: &[&str] = &[
    "socket.timeout.ms=2000",
    "topic.metadata.refresh.interval.ms=500",
    "reconnect.backoff.max.ms=500",
    "debug=fetch",
];
/// The same; and a producer that starts a new epoch says in its log why.
const WRITER: &[&str] = &[READER[0], READER[1], READER[2], "debug=eos"];

/// No record sent after the first moment may be acknowledged before the second.
#[derive(Clone, Copy, Debug)]
struct Silence {
    captive: bool,
    from_us: u64,
    to_us: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Records acknowledged, refused for certain, without an answer, polled while faults went on, read at the end.
    pub operations: [u64; 5],
    /// From a fault to the first acknowledgement of a later record in the slowest partition, in milliseconds, by kind.
    pub stalls: BTreeMap<&'static str, Vec<u64>>,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: Report) {
        other.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
        other.stalls.into_iter().for_each(|(kind, ms)| self.stalls.entry(kind).or_default().extend(ms));
        self.operations.iter_mut().zip(other.operations).for_each(|(sum, n)| *sum += n);
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [acked, refused, unknown, polled, read] = self.operations;
        let faults: u64 = self.faults.values().sum();
        writeln!(f, "faults injected: {faults} {:?}", self.faults)?;
        for (kind, millis) in &self.stalls {
            let mut sorted = millis.clone();
            sorted.sort_unstable();
            let (median, worst) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            writeln!(
                f,
                "slowest partition written again after {kind}: median {median} ms, worst {worst} ms of {}",
                sorted.len()
            )?;
        }
        write!(
            f,
            "operations checked: {} ({acked} acknowledged, {refused} refused, {unknown} unknown, {polled} polled, {read} read)",
            self.operations.iter().sum::<u64>()
        )
    }
}

/// See the module.
pub struct Stage {
    /// Reaches every node.
    pub writer: Writer,
    /// Sees to it that it is only shut in with some when a test says so.
    captive: Writer,
    pollers: Vec<Poller>,
    /// Single records sent to hear what a broker answers.
    probes: History,
    injections: BTreeMap<u32, Injection>,
    /// The processes.
    pub cluster: Cluster,
    disks: BTreeMap<u32, Disk>,
    /// The wires; `apply` what was changed.
    pub net: Net,
    frozen: BTreeSet<u32>,
    down: BTreeSet<u32>,
    full: BTreeSet<u32>,
    /// Their fsync failed, or they were told to stop: healing restarts them.
    spoiled: BTreeSet<u32>,
    /// Bytes of its files were changed: it must find that and repair it before the end.
    damaged: Option<u32>,
    silences: Vec<Silence>,
    report: Report,
    started: Instant,
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{name}"))
}

impl Stage {
    /// Starts everything and waits until all replicas are in sync. `prefix` as in [`Layout`].
    pub fn start(name: &str, prefix: BTreeMap<u32, Vec<String>>) -> Stage {
        Stage::start_with(name, prefix, &[])
    }

    /// The same with more configuration for the topic.
    pub fn start_with(name: &str, prefix: BTreeMap<u32, Vec<String>>, more: &[&str]) -> Stage {
        let below = scratch(name);
        let _ = fs::remove_dir_all(&below);
        let disk = |id: u32| {
            let at = below.join(format!("node-{id}"));
            fs::create_dir_all(&at).expect("a directory");
            (id, Disk::make(below.join(format!("disk-{id}.img")), at))
        };
        let disks = NODES.into_iter().map(disk).collect();
        let net = Net::default();
        net.apply();
        // Small segments: rolling, and files that are whole, belong to what faults must meet.
        // "No majority, no acknowledgement" is what is judged here: groups keep all their votes. The shrink has tests of its own.
        let keeps_votes = ("KONTIKI_KAFKA_SHRINK_MIN_VOTERS", "3");
        let environment = SCRUB_OFTEN.into_iter().chain([keeps_votes]).collect();
        let layout = Layout { spread: true, data: Some(below), prefix, environment, control: Control::One };
        let mut cluster = Cluster::start_in(&format!("chaos-{name}"), layout);
        let config: Vec<&str> = ["segment.bytes=1048576"].iter().chain(more).copied().collect();
        let config = &config[..];
        let client = Client { topic: TOPIC, partitions: PARTITIONS, config, ..Client::default() };
        let writer =
            Client { name: "writer", properties: WRITER, rate: Some(900), refuse_every: Some(2), ..client };
        let writer = Writer::start_as(&cluster, writer);
        let captive =
            Client { name: "captive", properties: WRITER, rate: Some(300), group: Some(CAPTIVE), ..client };
        let captive = Writer::start_as(&cluster, captive);
        let reader = Client { name: "reader", properties: READER, ..client };
        let shut_in = Client { name: "captive-reader", properties: READER, group: Some(CAPTIVE), ..client };
        let pollers = vec![Poller::start(&cluster, reader), Poller::start(&cluster, shut_in)];
        cluster.await_in_sync(TOPIC, CONVERGE);
        Stage {
            writer,
            captive,
            pollers,
            probes: History { sent: vec![0; PARTITIONS], ..History::default() },
            injections: BTreeMap::new(),
            cluster,
            disks,
            net,
            frozen: BTreeSet::new(),
            down: BTreeSet::new(),
            full: BTreeSet::new(),
            spoiled: BTreeSet::new(),
            damaged: None,
            silences: Vec::new(),
            report: Report::default(),
            started: Instant::now(),
        }
    }

    /// Says what happens, with the time since the start.
    pub fn say(&self, what: std::fmt::Arguments<'_>) {
        eprintln!("{:7.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Counts a fault and says it; the moment it is in force.
    pub fn fault(&mut self, kind: &'static str, whom: &dyn std::fmt::Debug) -> u64 {
        *self.report.faults.entry(kind).or_default() += 1;
        self.say(format_args!("{kind} {whom:?}"));
        now_us()
    }

    /// Address of a node.
    pub fn host(&self, id: u32) -> Ipv4Addr {
        self.cluster.layout.host(id)
    }

    /// The other brokers.
    pub fn others(id: u32) -> [u32; 2] {
        let mut others = BROKERS.into_iter().filter(|&b| b != id);
        [others.next().expect("two others"), others.next().expect("two others")]
    }

    /// `kill -9`, as one.
    pub fn kill(&mut self, nodes: &[u32]) -> u64 {
        nodes.iter().for_each(|&id| self.end(id));
        self.fault("kill -9", &nodes)
    }

    fn end(&mut self, id: u32) {
        self.injections.remove(&id);
        self.cluster.kill(id);
        self.frozen.remove(&id);
        self.spoiled.remove(&id);
        self.down.insert(id);
    }

    /// The machines lose their power, all at the same moment; it is back, the processes are not.
    pub fn cut_power(&mut self, nodes: &[u32]) -> u64 {
        nodes.iter().for_each(|id| self.disks[id].cut_power());
        let at = self.fault("power cut", &nodes);
        nodes.iter().for_each(|&id| self.end(id));
        nodes.iter().for_each(|id| self.disks[id].restore_power());
        at
    }

    /// Starts nodes that are down.
    pub fn restart(&mut self, nodes: &[u32]) {
        for &id in nodes {
            assert!(self.down.remove(&id), "node {id} is not down");
            self.cluster.spawn(id);
        }
        self.say(format_args!("restarted {nodes:?}"));
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, node: u32) -> u64 {
        self.cluster.signal(node, Signal::STOP);
        self.frozen.insert(node);
        self.fault("SIGSTOP", &node)
    }

    /// SIGTERM; it hands its leadership over and ends.
    pub fn terminate(&mut self, node: u32) -> u64 {
        self.spoiled.insert(node);
        if !self.down.contains(&node) {
            self.cluster.signal(node, Signal::TERM);
        }
        self.fault("SIGTERM", &node)
    }

    /// Cuts all wires between these and the other nodes, both ways.
    pub fn isolate(&mut self, nodes: &[u32]) -> u64 {
        for &inside in nodes {
            for outside in NODES.into_iter().filter(|id| !nodes.contains(id)) {
                self.net.cut(self.host(inside), self.host(outside));
                self.net.cut(self.host(outside), self.host(inside));
            }
        }
        self.net.apply();
        self.fault("isolated", &nodes)
    }

    /// A node that no longer hears (`deaf`) or is no longer heard by the other nodes.
    pub fn one_way(&mut self, node: u32, deaf: bool) -> u64 {
        for other in NODES.into_iter().filter(|&id| id != node) {
            let (from, to) = if deaf { (other, node) } else { (node, other) };
            self.net.cut(self.host(from), self.host(to));
        }
        self.net.apply();
        self.fault(if deaf { "deaf" } else { "mute" }, &node)
    }

    /// Captive clients reach only these nodes from now on.
    pub fn shut_in_with(&mut self, nodes: &[u32]) {
        for outside in NODES.into_iter().filter(|id| !nodes.contains(id)) {
            self.net.cut_captives(self.host(outside));
        }
        self.net.apply();
    }

    /// All wires whole again.
    pub fn mend(&mut self) {
        self.net.clear();
        self.net.apply();
        self.say(format_args!("wires whole"));
    }

    /// Tampers with a node's system calls until healed.
    pub fn tamper(&mut self, node: u32, what: Tampering) -> u64 {
        let log = self.cluster.dir().join(format!("strace-{node}-{}.log", now_us()));
        let pid = self.cluster.pid(node).expect("a running node");
        self.injections.insert(node, Injection::start(pid, what, &log));
        let kind = if what == Tampering::FailSync {
            self.spoiled.insert(node);
            "failing fsync"
        } else {
            "slow fsync"
        };
        self.fault(kind, &node)
    }

    /// System calls of a node tampered with so far.
    pub fn tampered(&self, node: u32) -> usize {
        self.injections.get(&node).map_or(0, Injection::count)
    }

    /// Lets a node's system calls alone.
    pub fn leave_alone(&mut self, node: u32) {
        if let Some(injection) = self.injections.remove(&node) {
            injection.stop();
        }
    }

    /// Fills a node's disk but for `leave` bytes.
    pub fn fill(&mut self, node: u32, leave: u64) -> u64 {
        self.disks[&node].fill(leave);
        self.full.insert(node);
        self.fault("full disk", &node)
    }

    /// Frees a node's disk.
    pub fn relieve(&mut self, node: u32) {
        self.disks[&node].relieve();
        self.full.remove(&node);
        self.say(format_args!("space on {node} again"));
    }

    /// Flips some bits in the files of a node: in any of them if it is down, in its segments if it runs.
    pub fn flip_bits(&mut self, node: u32, rng: &mut StdRng) {
        self.damaged = Some(node);
        let ending = if self.down.contains(&node) { "" } else { ".segment" };
        for _ in 0..3 {
            let what = flip_a_bit(&self.cluster.data_dir(node), ending, rng);
            self.fault("flipped bit", &what);
        }
    }

    /// Nothing sent after `from_us` may have been acknowledged until now to the writer, or to the captive one.
    pub fn was_silent(&mut self, captive: bool, from_us: u64) {
        self.silences.push(Silence { captive, from_us, to_us: now_us() });
    }

    /// Waits until a record sent after `from_us` is acknowledged in each partition; the time that took the slowest.
    pub fn resumed(&mut self, kind: &'static str, from_us: u64, limit: Duration) {
        let mut waiting: BTreeSet<i32> = (0..PARTITIONS as i32).collect();
        let deadline = Instant::now() + limit;
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let ack = self.writer.next_ack(left, |a| a.sent_us > from_us && waiting.contains(&a.partition));
            let Some(ack) = ack else {
                let view = self.cluster.partitions(TOPIC, &BROKERS);
                panic!("{kind}: partitions {waiting:?} not written again within {limit:?}: {view:?}");
            };
            waiting.remove(&ack.partition);
            if waiting.is_empty() {
                let ms = (ack.acked_us - from_us) / 1000;
                self.say(format_args!("every partition acknowledges, {ms} ms after {kind}"));
                self.report.stalls.entry(kind).or_default().push(ms);
            }
        }
    }

    /// What the leader of a partition answers to one record, sent once: `ok OFFSET`, or an error and whether it may be retried.
    pub fn probe(&mut self, partition: usize, captive: bool) -> String {
        let number = self.probes.sent[partition];
        let value = history::content(PROBE, partition as i32, number);
        let from = now_us();
        let said = produce_once(&self.cluster, TOPIC, partition, &value, captive.then_some(CAPTIVE));
        self.probes.sent[partition] += 1;
        match said.strip_prefix("ok ").map(|offset| offset.parse().expect("an offset")) {
            Some(offset) => {
                let ack =
                    Ack { partition: partition as i32, number, offset, sent_us: from, acked_us: now_us() };
                self.probes.acks.push(ack);
            }
            None => _ = self.probes.infos.insert((partition as i32, number)),
        }
        said
    }

    /// Highest leader epoch of each partition as any broker knows it.
    pub fn epochs(&self) -> Vec<i32> {
        let mut epochs = vec![0; PARTITIONS];
        for broker in BROKERS {
            for p in self.cluster.partitions(TOPIC, &[broker]).unwrap_or_default() {
                let at = &mut epochs[p.index as usize];
                *at = p.epoch.max(*at);
            }
        }
        epochs
    }

    /// Ends every fault: wires, signals, system calls, space, and starts what is down.
    pub fn heal(&mut self) {
        self.net.clear();
        self.net.apply();
        for id in std::mem::take(&mut self.frozen) {
            self.cluster.signal(id, Signal::CONT);
        }
        std::mem::take(&mut self.injections).into_values().for_each(Injection::stop);
        for id in std::mem::take(&mut self.full) {
            self.disks[&id].relieve();
        }
        for id in std::mem::take(&mut self.spoiled) {
            self.cluster.kill(id);
            self.down.insert(id);
        }
        for id in std::mem::take(&mut self.down) {
            self.cluster.spawn(id);
        }
        self.say(format_args!("healed"));
    }

    /// Waits until every partition acknowledges again and all replicas are level.
    pub fn converge(&mut self) {
        let healed = now_us();
        self.resumed("healing", healed, CONVERGE);
        self.cluster.await_level(TOPIC, &BROKERS, CONVERGE);
        self.say(format_args!("all in sync"));
    }

    /// Heals, waits for all replicas to be whole and level, ends the clients, and holds every promise against what consumers and the
    /// files of all brokers show.
    pub fn verify(mut self) -> Report {
        self.heal();
        if let Some(node) = self.damaged {
            await_scrubbed(&self.cluster, node);
            self.say(format_args!("nothing on {node} is damaged any more"));
        }
        self.converge();
        let Stage {
            writer, captive, pollers, mut cluster, disks, silences, mut report, started, probes, ..
        } = self;
        let runs = [writer.run.clone(), captive.run.clone(), PROBE.to_string()];
        let histories = [writer.finish(), captive.finish(), probes];
        let mut polls: Vec<_> = pollers.into_iter().map(|p| (p.name.clone(), p.finish())).collect();
        for (name, polls) in &mut polls {
            let log = fs::read_to_string(cluster.dir().join(format!("{name}.client.log")))
                .expect("the reader's log");
            polls.complaints.retain(|complaint| !is_about_an_older_question(complaint, &log));
        }
        let (records, ends) = read_all(&cluster, TOPIC, PARTITIONS);
        let known: Vec<(&str, &History)> = runs.iter().map(String::as_str).zip(&histories).collect();
        let readers: Vec<_> = polls.iter().map(|(name, polls)| (name.as_str(), polls)).collect();
        let mut wrong = history::check(&known, &readers, &records);
        wrong.extend(broken_silences(&silences, &histories));
        wrong.extend(unhappy_clients(cluster.dir()));
        assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), first(&wrong));
        assert_eq!(
            ends.iter().sum::<i64>(),
            records.len() as i64,
            "records read against end offsets {ends:?}"
        );
        NODES.into_iter().for_each(|id| cluster.stop(id));
        compare_files(&cluster, &BROKERS, &known);
        let sum = |of: fn(&History) -> u64| histories.iter().map(of).sum();
        report.operations = [
            sum(|h| h.acks.len() as u64),
            sum(|h| h.refused),
            sum(|h| h.infos.len() as u64),
            polls.iter().map(|(_, polls)| polls.seen.len() as u64).sum(),
            records.len() as u64,
        ];
        eprintln!(
            "{report}\nviolations: none; {} replicas equal, byte for byte; {:.1} s",
            BROKERS.len(),
            started.elapsed().as_secs_f64()
        );
        let name = cluster.layout.data.clone();
        drop((cluster, disks));
        let _ = fs::remove_dir_all(name.expect("a directory of the stage's own"));
        report
    }
}

fn first(lines: &[String]) -> String {
    lines.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
}

fn broken_silences(silences: &[Silence], histories: &[History; 3]) -> Vec<String> {
    let broken = |s: &Silence| {
        let during = |a: &&history::Ack| a.sent_us > s.from_us && a.acked_us < s.to_us;
        histories[usize::from(s.captive)]
            .acks
            .iter()
            .find(during)
            .map(|ack| format!("acknowledged without a majority: {ack:?} in {s:?}"))
    };
    silences.iter().filter_map(broken).collect()
}

/// A client that gave up its producer, or said that something of its own is wrong.
fn unhappy_clients(dir: &Path) -> Vec<String> {
    let logs = ["writer", "captive", "reader", "captive-reader"];
    let logs = logs.map(|name| fs::read_to_string(dir.join(format!("{name}.client.log"))));
    logs.into_iter().flat_map(|log| complaints(&log.expect("the client's log"))).collect()
}

fn complaints(log: &str) -> Vec<String> {
    let is_bad =
        |line: &&str| ["producer replaced", "Traceback", "failed CRC"].iter().any(|word| line.contains(word));
    log.lines().filter(is_bad).map(str::to_string).collect()
}

/// Whether a reader took the answer to an earlier question for that to a later one. librdkafka notes the position that it is to validate
/// before it sees that a question is still out (`rd_kafka_toppar_leader_update`), asks nothing then, and holds the answer against the new
/// position (`rd_kafka_toppar_handle_OffsetForLeaderEpoch`): where epoch 1 ended says nothing of a position in epoch 2. Its log says
/// what was asked.
fn is_about_an_older_question(complaint: &str, log: &str) -> bool {
    let number = |text: &str, behind: &str| {
        let digits = text.split_once(behind)?.1;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let Some((_, told)) = complaint.split_once("log truncation detected at ") else { return false };
    let partition = number(complaint, "reset: partition ");
    let (Some(partition), Some(offset), Some(epoch)) =
        (partition, number(told, "offset "), number(told, "(leader epoch "))
    else {
        return false;
    };
    let reported = format!("log truncation detected at offset {offset} (leader epoch {epoch})");
    let question = format!("{TOPIC} [{partition}]: querying broker for epoch validation of ");
    let before = log.split(&reported).next().unwrap_or_default();
    let asked = before.lines().rev().find(|line| line.contains(&question));
    asked.and_then(|line| number(line, "(leader epoch ")).is_some_and(|asked| asked < epoch)
}

fn compare_files(cluster: &Cluster, replicas: &[u32], runs: &[(&str, &History)]) {
    let mut dumps = Vec::new();
    for &id in replicas {
        let dump = replica::dump(env!("CARGO_BIN_EXE_kontiki"), &cluster.data_dir(id))
            .unwrap_or_else(|e| panic!("{e}"));
        for (run, history) in runs {
            let held = replica::records(run, &dump).unwrap_or_else(|e| panic!("node {id}: {e}"));
            let lost = replica::missing(run, &history.acks, &held);
            assert!(
                lost.is_empty(),
                "node {id} lacks {} acknowledged records:\n{}",
                lost.len(),
                first(&lost)
            );
        }
        dumps.push((format!("node {id}"), dump));
    }
    let mut covers: BTreeMap<u64, i64> = BTreeMap::new();
    for (run, _) in runs {
        for (group, end) in replica::ends(run, &dumps[0].1).expect("decoded before") {
            let known = covers.entry(group).or_default();
            *known = end.max(*known);
        }
    }
    assert_eq!(covers.len(), PARTITIONS, "groups with records");
    let wrong = replica::compare(&dumps, &covers);
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), first(&wrong));
}

#[cfg(test)]
mod judgement {
    use super::*;

    fn history(sent_us: u64, acked_us: u64) -> History {
        let ack = Ack { partition: 0, number: 0, offset: 0, sent_us, acked_us };
        History { acks: vec![ack], ..History::default() }
    }

    #[test]
    fn acknowledgement_without_a_majority_is_found_in_its_own_client_alone() {
        let silence = Silence { captive: true, from_us: 100, to_us: 200 };
        let found = |sent, acked| {
            let histories = [History::default(), history(sent, acked), History::default()];
            broken_silences(&[silence], &histories).len()
        };
        assert_eq!(found(110, 190), 1);
        assert_eq!(found(90, 190), 0, "sent before, it may have been held by a majority");
        assert_eq!(found(110, 210), 0, "acknowledged when it was over");
        let other = [history(110, 190), History::default(), History::default()];
        assert!(broken_silences(&[silence], &other).is_empty());
    }

    #[test]
    fn client_that_gave_up_or_met_a_bad_checksum_is_found() {
        assert_eq!(
            complaints("fine CRC32C\nproducer replaced: FENCED\nMessageSet failed CRC32C check\n").len(),
            2
        );
    }

    #[test]
    fn truncation_is_excused_only_where_an_older_epoch_had_been_asked_for() {
        let complaint = "reset: partition 4: \"KafkaError{str=\\\"Partition log truncation detected at offset 1351 (leader epoch 2): \
            broker end offset is 1285 (offset leader epoch 1). Reset to INVALID.\\\"}\"";
        let asked = |partition: u32, epoch: u32| {
            format!(
                "%7|1|VALIDATE|rdkafka#consumer-1| [thrd:main]: 127.0.0.11:20020/1: chaos [{partition}]: querying broker for epoch \
                validation of offset 1351 (leader epoch {epoch}): epoch updated from metadata\n"
            )
        };
        let told = "KafkaError{str=\"Partition log truncation detected at offset 1351 (leader epoch 2): broker end offset is 1285\n";
        let is_excused = |log: String| is_about_an_older_question(complaint, &log);
        assert!(is_excused(asked(4, 1) + told));
        assert!(
            is_excused(asked(4, 1) + &asked(3, 2) + told + &asked(4, 2)),
            "another partition's, and a later one"
        );
        assert!(!is_excused(asked(4, 2) + told), "that is what was asked");
        assert!(!is_excused(asked(4, 1) + &asked(4, 2) + told), "asked again meanwhile");
        assert!(!is_excused(told.to_owned()), "nothing says what was asked");
        assert!(!is_about_an_older_question("unseen: partition 4: \"at 1 of 2\"", &asked(4, 1)));
    }

    #[test]
    fn reports_add_up() {
        let mut sum = Report::default();
        for stall in [30, 10, 20] {
            let stalls = BTreeMap::from([("x", vec![stall])]);
            sum.add(Report { faults: BTreeMap::from([("x", 2)]), operations: [1, 2, 3, 4, 5], stalls });
        }
        let text = sum.to_string();
        for part in
            ["faults injected: 6", "after x: median 20 ms, worst 30 ms of 3", "operations checked: 45 (3 ack"]
        {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
