//! Whole processes driven by our own commands: `kontiki dev` with kill and restart, three combined nodes that found a cluster, controllers apart that are
//! restarted in order, hundreds of groups on three brokers, and what is generated held against a live node.
//!
//! Not here: kills under load and foreign clients (`tests/cluster`). Every process is ended by its handle, whatever happens.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KONTIKI: &str = env!("CARGO_BIN_EXE_kontiki");

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is as good.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Process {
    fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process lives");
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.0.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < deadline, "no orderly end within 20 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn kontiki(args: &[&str]) -> (bool, String, String) {
    let out = Command::new(KONTIKI).args(args).output().expect("the command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

fn must(args: &[&str]) -> String {
    let (ok, out, err) = kontiki(args);
    assert!(ok, "kontiki {args:?}: {err}{out}");
    out
}

fn produce(bootstrap: &str, topic: &str, lines: std::ops::Range<u32>) {
    let mut child = Command::new(KONTIKI)
        .args(["produce", topic, "-B", bootstrap, "-q"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut input = child.stdin.take().expect("piped");
    for n in lines {
        writeln!(input, "{n}").expect("the producer reads");
    }
    drop(input);
    assert!(child.wait().expect("our child").success(), "every record is acknowledged");
}

fn consume(bootstrap: &str, topic: &str) -> Vec<u32> {
    let out = must(&["consume", topic, "-B", bootstrap, "-o", "start", "-e", "--values"]);
    let mut values: Vec<u32> = out.lines().map(|l| l.parse().expect("a number")).collect();
    values.sort_unstable();
    values
}

/// Whether the newest manifest of a stopped node was written by an orderly end.
fn ended_in_order(dir: &Path) -> bool {
    let out = must(&["dump", dir.to_str().expect("UTF-8"), "--output", "json"]);
    let manifests = out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON lines"));
    let newest = manifests.filter(|v| v["kind"] == "manifest").max_by_key(|v| v["sequence"].as_u64());
    newest.expect("a manifest")["clean"].as_bool().expect("a flag")
}

#[test]
fn dev_broker_killed_leaves_files_as_kill_9_does_and_comes_back_with_all_of_them() {
    let data = tempfile::tempdir().expect("a directory");
    let dir = data.path().to_str().expect("UTF-8");
    let ports_file = format!("{dir}/ports.json");
    let mut child = Command::new(KONTIKI)
        .args(["dev", "--port", "0", "--admin-port", "0", "--data-dir", dir, "--topic", "t:4"])
        .args(["--ports-file", &ports_file])
        .stdout(Stdio::piped())
        .spawn()
        .expect("dev starts");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let mut dev = Process(child);
    let ready = out.lines().map_while(Result::ok).find(|l| l.starts_with("READY ")).expect("a READY line");
    let part = |name: &str| {
        let word = ready.split(' ').find_map(|w| w.strip_prefix(name)).expect("READY names it");
        word.to_owned()
    };
    let (bootstrap, admin) = (part("bootstrap="), part("admin=http://127.0.0.1:"));
    let ports = json(&std::fs::read_to_string(&ports_file).expect("there with the READY line"));
    assert_eq!(
        (&ports["bootstrap"], &ports["admin"]),
        (&bootstrap.as_str().into(), &format!("127.0.0.1:{admin}").into())
    );
    assert_eq!(
        ports["nodes"].as_array().map(Vec::len),
        Some(4),
        "three brokers and their controller: {ports}"
    );
    produce(&bootstrap, "t", 0..300);
    must(&["dev", "kill", "2", "--admin-port", &admin]);
    let broker = data.path().join("broker-2");
    assert!(!ended_in_order(&broker), "nothing was flushed or marked on the way out");
    let (again, ..) = kontiki(&["dev", "kill", "2", "--admin-port", &admin]);
    assert!(!again, "a dead broker cannot be killed");
    produce(&bootstrap, "t", 300..600);
    must(&["dev", "restart", "2", "--admin-port", &admin]);
    assert_eq!(consume(&bootstrap, "t"), (0..600).collect::<Vec<_>>());
    dev.terminate();
    assert!(ended_in_order(&broker), "SIGTERM ends in order");
    assert!(!Path::new(&ports_file).exists(), "nobody listens any more");
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What an admin address answers to a GET.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the admin address");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("a socket");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a socket");
    text
}

/// A combined node that chose every port itself.
struct Lone {
    process: Process,
    ports: serde_json::Value,
    data: tempfile::TempDir,
}

impl Lone {
    fn start() -> Self {
        Self::start_with(&["--advertise", "localhost:0"])
    }

    fn start_with(args: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", args)
    }

    fn start_on(listen: &str, args: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let file = data.path().join("ports.json");
        let child = Command::new(KONTIKI)
            .args([
                "start",
                "--node-id",
                "1",
                "--roles",
                "broker,controller",
                "--controllers",
                "1@127.0.0.1:0",
            ])
            .args(["--listen", listen, "--peer-listen", "127.0.0.1:0"])
            .args(args)
            .args([
                "--admin-listen",
                "127.0.0.1:0",
                "-c",
                "group.initial.rebalance.delay.ms=0",
                "-q",
                "--data-dir",
            ])
            .arg(data.path().join("data"))
            .arg("--ports-file")
            .arg(&file)
            .spawn()
            .expect("the command starts");
        let process = Process(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !file.exists() {
            assert!(Instant::now() < deadline, "no ports file within 20 s");
            std::thread::sleep(Duration::from_millis(10));
        }
        let ports = json(&std::fs::read_to_string(&file).expect("a whole file"));
        Self { process, ports, data }
    }

    fn bootstrap(&self) -> &str {
        self.ports["bootstrap"].as_str().expect("a broker")
    }

    fn admin(&self) -> &str {
        self.ports["admin"].as_str().expect("an admin address")
    }
}

/// Names of metrics in a text: words that begin as ours, Kafka's exporter's or a process's do.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| ["kafka_", "kontiki_", "process_"].iter().any(|begin| word.starts_with(begin)))
        .collect()
}

#[test]
fn node_on_ports_of_its_own_choice_is_found_by_its_file_and_fits_what_is_generated_for_it() {
    let mut node = Lone::start();
    assert_eq!(node.ports["pid"], node.process.0.id());
    must(&["ready", "--timeout", "20s", "--admin", node.admin()]);
    must(&["ready", "--timeout", "20s", "-B", node.bootstrap()]);
    let bootstrap = node.bootstrap().to_owned();
    // Told to clients with the port that was bound.
    produce(&bootstrap, "greetings", 0..10);
    assert_eq!(consume(&bootstrap, "greetings"), (0..10).collect::<Vec<_>>());

    must(&["group", "seek", "g", "--to", "4", "--topics", "greetings", "-B", &bootstrap]);

    let metrics = get(node.admin(), "/metrics");
    let lag = "kafka_consumergroup_lag{consumergroup=\"g\",topic=\"greetings\",partition=\"0\"} 6\n";
    assert!(metrics.contains(lag), "{metrics}");
    let given: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let dashboard = json(&must(&["generate", "grafana"]));
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> = targets.filter_map(|target| target["expr"].as_str()).collect();
    assert!(expressions.len() > 25, "{expressions:?}");
    for name in expressions.iter().flat_map(|expression| metric_names(expression)) {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(
            given.contains(name) || bare.is_some_and(|bare| given.contains(bare)),
            "no node gives {name}"
        );
        // Another node's: there is none here.
        let is_there = metrics.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
        assert!(is_there || name == "kontiki_peer_bytes_out_total", "{name} has no value");
    }
    for label in ["topic=\"greetings\"", "api=\"Produce\"", "le=\"+Inf\""] {
        assert!(metrics.contains(label), "{label}");
    }

    let file = node.data.path().join("ports.json");
    let admin = node.admin().to_owned();
    node.process.terminate();
    assert!(!file.exists(), "nobody listens any more");
    let (ready, _, said) = kontiki(&["ready", "--timeout", "300ms", "--admin", &admin]);
    assert!(!ready && said.contains("ADMIN_UNREACHABLE"), "{said}");
}

/// A reader of the group `g`, with its output.
fn group_reader(bootstrap: &str, args: &[&str]) -> (bool, Vec<u32>, String) {
    let (ok, out, err) = kontiki(&[&["consume", "t", "-g", "g", "--values", "-B", bootstrap], args].concat());
    (ok, out.lines().map(|line| line.parse().expect("a number")).collect(), err)
}

#[test]
fn group_readers_go_on_where_the_group_is_and_share_it() {
    let node = Lone::start();
    let bootstrap = node.bootstrap();
    must(&["ready", "--timeout", "20s", "-B", bootstrap]);
    must(&["topic", "create", "t", "-p", "2", "-B", bootstrap]);
    produce(bootstrap, "t", 0..10);
    // Where nothing is committed, -o says where to begin; what was begun is committed too.
    let (ok, read, said) = group_reader(bootstrap, &["-e"]);
    assert!(ok && read.is_empty() && said.contains("0 records printed; lag 0"), "{said}");
    produce(bootstrap, "t", 10..40);
    let (ok, read, said) = group_reader(bootstrap, &["-e", "-n", "7", "-o", "start"]);
    assert!(ok && read.len() == 7 && said.contains("7 records printed; lag 23"), "{read:?} {said}");
    let (ok, rest, said) = group_reader(bootstrap, &["-e", "-o", "start"]);
    let all: BTreeSet<u32> = read.iter().chain(&rest).copied().collect();
    assert!(ok && rest.len() == 23 && all == (10..40).collect(), "{rest:?} {said}");
    let (refused, _, said) = group_reader(bootstrap, &["-p", "0"]);
    assert!(!refused && said.contains("cannot be used with"), "{said}");

    // Two at once: every record once, and the one that stays takes over what the other one had.
    let spawn = || {
        let child = Command::new(KONTIKI)
            .args(["consume", "t", "-g", "g", "--values", "-q", "-B", bootstrap])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        Process(child)
    };
    let members = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let described = json(&must(&["group", "describe", "g", "--output", "json", "-B", bootstrap]));
            let item = &described["items"][0];
            let owners: BTreeSet<&str> = item["partitions"]
                .as_array()
                .expect("rows")
                .iter()
                .filter_map(|row| row["member"]["id"].as_str())
                .collect();
            if item["state"] == if count > 0 { "Stable" } else { "Empty" } && owners.len() == count {
                return;
            }
            assert!(Instant::now() < deadline, "{count} members: {described}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let (mut one, mut two) = (spawn(), spawn());
    members(2);
    produce(bootstrap, "t", 100..300);
    // Each prints what it has before it commits and leaves.
    std::thread::sleep(Duration::from_millis(700));
    let output = |process: &mut Process| {
        process.terminate();
        let mut text = String::new();
        process.0.stdout.take().expect("piped").read_to_string(&mut text).expect("its output");
        text.lines().map(|line| line.parse::<u32>().expect("a number")).collect::<Vec<_>>()
    };
    let mut read = output(&mut one);
    members(1);
    produce(bootstrap, "t", 300..400);
    std::thread::sleep(Duration::from_millis(700));
    read.extend(output(&mut two));
    members(0);
    let (_, rest, _) = group_reader(bootstrap, &["-e"]);
    read.extend(rest);
    read.sort_unstable();
    assert_eq!(read, (100..400).collect::<Vec<_>>(), "each once");
}

/// A reader may print again what another one had printed, and never leaves anything out: its output is closed in the middle, it is killed.
#[test]
fn group_reader_cut_off_leaves_nothing_out() {
    let node = Lone::start();
    let bootstrap = node.bootstrap();
    must(&["ready", "--timeout", "20s", "-B", bootstrap]);
    must(&["topic", "create", "t", "-p", "2", "-B", bootstrap]);
    produce(bootstrap, "t", 0..60_000);
    let reader = format!("{KONTIKI} consume t -g g -o start --values -q --session-timeout 6s -B {bootstrap}");
    let shell = |script: String| Command::new("bash").args(["-c", &script]).output().expect("bash").stdout;
    let numbers = |bytes: &[u8]| -> BTreeSet<u32> {
        let text = String::from_utf8_lossy(bytes);
        // The last line may be cut.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| line.parse().expect("a number")).collect()
    };
    let mut read = numbers(&shell(format!("{reader} | head -n 1000")));
    assert_eq!(read.len(), 1000);
    // Nobody takes more of the output than a pipe holds: what was not printed must not be committed. It beats all the while.
    let mut words = reader.split(' ');
    let child = Command::new(words.next().expect("a command")).args(words).stdout(Stdio::piped()).spawn();
    let mut stalled = Process(child.expect("the command starts"));
    std::thread::sleep(Duration::from_secs(8));
    let described = json(&must(&["group", "describe", "g", "--output", "json", "-B", bootstrap]));
    assert_eq!(described["items"][0]["members"].as_array().map(Vec::len), Some(1), "{described}");
    stalled.0.kill().expect("our child");
    let mut output = Vec::new();
    stalled.0.stdout.take().expect("piped").read_to_end(&mut output).expect("its output");
    read.extend(numbers(&output));
    assert!(read.len() < 60_000, "something is left");
    let (ok, rest, said) = group_reader(bootstrap, &["-e"]);
    assert!(ok, "{said}");
    read.extend(rest);
    assert_eq!(read.len(), 60_000);
}

/// The first thing that goes wrong with containers: what answers advertises what cannot be reached. Whoever waits is told, and why it failed in the end.
#[test]
fn advertised_address_that_nobody_reaches_is_named_while_waiting_and_at_the_end() {
    let node = Lone::start_with(&["--advertise", "127.0.0.1:1"]);
    must(&["ready", "--timeout", "20s", "--admin", node.admin()]);
    must(&["topic", "list", "-B", node.bootstrap()]);
    let cause = format!("{} answered, but broker 1 advertises 127.0.0.1:1, which", node.bootstrap());
    let mut child = Command::new(KONTIKI)
        .args(["produce", "t", "--timeout", "4s", "-B", node.bootstrap()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    writeln!(child.stdin.take().expect("piped"), "x").expect("the producer reads");
    let output = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let warned: Vec<&str> =
        said.lines().filter(|line| line.contains("WARN") && line.contains(&cause)).collect();
    assert_eq!(warned.len(), 1, "{said}");
    assert!(said.contains("error[BROKER_UNREACHABLE]: ") && said.matches(&cause).count() == 2, "{said}");
}

/// The one address of a cluster of one broker, as clients of a listener are told it.
fn told(bootstrap: &str) -> String {
    let listed = json(&must(&["broker", "list", "--output", "json", "-B", bootstrap]));
    listed["items"][0]["address"].as_str().expect("an address").to_owned()
}

/// Containers and the host, say: each is told addresses of its own, which can be changed while the broker runs, also by who cannot reach
/// what is advertised.
#[test]
fn clients_of_two_listeners_are_told_different_addresses_that_change_at_run_time() {
    let node = Lone::start_on(
        "internal://127.0.0.1:0,EXTERNAL://0.0.0.0:0",
        &["--advertise", "EXTERNAL://localhost:0"],
    );
    let listener =
        |name: &str| node.ports["nodes"][0]["listeners"][name].as_str().expect("a listener").to_owned();
    let internal = listener("INTERNAL");
    let port = listener("EXTERNAL").rsplit_once(':').expect("a port").1.to_owned();
    let at = |host: &str| format!("{host}:{port}");
    let external = at("127.0.0.1");
    must(&["ready", "--timeout", "60s", "-B", &internal]);
    assert_eq!((told(&internal), told(&external)), (internal.clone(), at("localhost")));
    produce(&external, "t", 0..10);
    assert_eq!(consume(&internal, "t"), (0..10).collect::<Vec<_>>());
    must(&["broker", "advertise", "1", &format!("external://{}", at("127.0.0.2")), "-B", &external]);
    assert_eq!((told(&internal), told(&external)), (internal.clone(), at("127.0.0.2")));
    produce(&external, "t", 10..20);
    must(&["broker", "advertise", "1", "EXTERNAL://127.0.0.1:1", "-B", &internal]);
    let (ok, _, said) = kontiki(&["broker", "advertise", "1", "OTHER://h:1", "-B", &external]);
    assert!(!ok && said.contains("broker 1 has no listener OTHER; it has EXTERNAL, INTERNAL"), "{said}");
    must(&["broker", "advertise", "1", "--reset", "-B", &external]);
    assert_eq!(told(&external), at("localhost"));
    assert_eq!(consume(&external, "t"), (0..20).collect::<Vec<_>>());
}

#[test]
fn shell_completes_commands_topics_and_groups_and_is_not_held_up() {
    let node = Lone::start();
    must(&["ready", "--timeout", "20s", "-B", node.bootstrap()]);
    produce(node.bootstrap(), "greetings", 0..1);
    produce(node.bootstrap(), "green", 0..1);
    must(&["group", "seek", "grinders", "--to", "start", "--topics", "green", "-B", node.bootstrap()]);
    let completed = |words: &[&str]| -> BTreeSet<String> {
        let script = "source <(kontiki generate completions bash)
            COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
            _clap_complete_kontiki kontiki \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let bin = Path::new(KONTIKI).parent().expect("a folder");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
        let output = Command::new("bash").args(["-c", script, "bash"]).args(words).env("PATH", path).output();
        let output = output.expect("bash");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(completed(&["kontiki", "gen"]), set(&["generate"]));
    let of = |words: &[&str]| completed(&[&["kontiki", "-B", node.bootstrap()], words].concat());
    assert_eq!(of(&["consume", "gr"]), set(&["green", "greetings"]));
    assert_eq!(of(&["topic", "describe", "greet"]), set(&["greetings"]));
    assert_eq!(of(&["group", "describe", "gr"]), set(&["grinders"]));
    assert_eq!(of(&["group", "seek", "grinders", "--topics", "gree"]), set(&["green", "greetings"]));
    // Nobody answers there: neither words nor an error nor a wait.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let started = Instant::now();
    assert_eq!(completed(&["kontiki", "-B", &address, "consume", "gr"]), set(&[]));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

fn free_ports<const N: usize>() -> [u16; N] {
    let sockets: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    std::array::from_fn(|i| sockets[i].local_addr().expect("bound").port())
}

/// Three combined nodes: each a broker and a controller.
struct Trio {
    data: tempfile::TempDir,
    ports: [u16; 6],
    settings: Vec<&'static str>,
}

impl Trio {
    fn new(settings: &[&'static str]) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        Self { data, ports: free_ports(), settings: settings.to_vec() }
    }

    fn bootstrap(&self) -> String {
        self.ports[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    fn log(&self, n: usize) -> String {
        std::fs::read_to_string(self.data.path().join(format!("{n}.log"))).expect("a log")
    }

    /// Starts node `n` of 1..=3.
    fn start(&self, n: usize) -> Process {
        let ports = &self.ports;
        let controllers =
            (1..=3).map(|n| format!("{n}@127.0.0.1:{}", ports[n + 2])).collect::<Vec<_>>().join(",");
        let log = self.data.path().join(format!("{n}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let child = Command::new(KONTIKI)
            .args(["start", "--node-id", &n.to_string(), "--roles", "broker,controller"])
            .args(["--controllers", &controllers, "--listen", &format!("127.0.0.1:{}", ports[n - 1])])
            .args(["--peer-listen", &format!("127.0.0.1:{}", ports[n + 2])])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .arg("--data-dir")
            .arg(self.data.path().join(n.to_string()))
            .stderr(log)
            .spawn();
        Process(child.expect("the node starts"))
    }

    fn start_all(&self) -> Vec<Process> {
        let nodes = (1..=3).map(|n| self.start(n)).collect();
        must(&["ready", "-B", &self.bootstrap(), "--brokers", "3", "--timeout", "30s"]);
        nodes
    }
}

#[test]
fn three_combined_nodes_found_one_cluster_and_survive_the_death_of_any_one() {
    let trio = Trio::new(&[]);
    let mut nodes = trio.start_all();
    let bootstrap = trio.bootstrap();
    must(&["topic", "create", "t", "-p", "3", "-r", "3", "-c", "min.insync.replicas=2", "-B", &bootstrap]);
    let mut written = 0;
    for (victim, node) in nodes.iter_mut().enumerate() {
        produce(&bootstrap, "t", written..written + 100);
        *node = {
            let dead = &mut *node;
            dead.0.kill().expect("it lives");
            dead.0.wait().expect("our child");
            // The two others go on: records, and a decision of the controllers.
            produce(&bootstrap, "t", written + 100..written + 200);
            must(&["topic", "create", &format!("t{victim}"), "-p", "1", "-r", "2", "-B", &bootstrap]);
            trio.start(victim + 1)
        };
        written += 200;
        must(&["cluster", "health", "-B", &bootstrap, "--exit-when-healthy", "--watch"]);
    }
    assert_eq!(consume(&bootstrap, "t"), (0..written).collect::<Vec<_>>());
}

/// Three controllers and a broker, each alone in its process.
struct Apart {
    data: tempfile::TempDir,
    ports: [u16; 9],
}

/// Their numbers.
const CONTROLLERS: [usize; 3] = [1, 2, 3];
const BROKER: usize = 4;

impl Apart {
    fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports[8])
    }

    fn start(&self, n: usize) -> Process {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let named = CONTROLLERS.map(|c| format!("{c}@{}", address(self.ports[c - 1]))).join(",");
        let mut command = Command::new(KONTIKI);
        command.args(["start", "--node-id", &n.to_string(), "--controllers", &named]);
        command.args(["--peer-listen", &address(self.ports[n - 1])]);
        command.args(["--admin-listen", &address(self.ports[n + 3])]);
        command.arg("--data-dir").arg(self.data.path().join(n.to_string()));
        match n {
            BROKER => command.args(["--roles", "broker", "--listen", &self.bootstrap()]),
            _ => command.args(["--roles", "controller"]),
        };
        Process(command.stderr(Stdio::null()).spawn().expect("the node starts"))
    }

    /// What a node's /health says, if it answers.
    fn health(&self, n: usize) -> Option<serde_json::Value> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.ports[n + 3])).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Who leads, once every controller says the same and names three voters.
    fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let all = CONTROLLERS.map(|n| self.health(n).unwrap_or_default());
            let leader = all[0]["controller"].as_u64();
            let is_whole = |said: &serde_json::Value| {
                said["controller"].as_u64() == leader && voters(said) == CONTROLLERS.map(|n| n as u64)
            };
            if let Some(leader) = leader.filter(|_| all.iter().all(is_whole)) {
                return leader as usize;
            }
            assert!(Instant::now() < deadline, "no leader of three controllers: {all:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn voters(health: &serde_json::Value) -> Vec<u64> {
    let all = health["controllers"]["voters"].as_array().into_iter().flatten();
    let mut voters: Vec<u64> = all.filter_map(serde_json::Value::as_u64).collect();
    voters.sort_unstable();
    voters
}

#[test]
fn leading_controller_apart_restarted_in_order_keeps_its_vote_and_health_waits_for_it() {
    let apart = Apart { data: tempfile::tempdir().expect("a directory"), ports: free_ports() };
    let mut nodes: Vec<Process> = (1..=BROKER).map(|n| apart.start(n)).collect();
    let bootstrap = apart.bootstrap();
    must(&["ready", "-B", &bootstrap, "--brokers", "1", "--timeout", "30s"]);
    for _ in 0..3 {
        let leader = apart.leader();
        nodes[leader - 1].terminate();
        let (is_healthy, said, _) = kontiki(&["cluster", "health", "-B", &bootstrap, "--output", "json"]);
        let why = format!("1 controller silent: {leader}");
        assert!(!is_healthy && said.contains(&why), "{leader} has just been stopped: {said}");
        // A dead one would lose its vote after a second.
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            for n in CONTROLLERS.into_iter().filter(|n| *n != leader) {
                let said = apart.health(n).expect("it answers");
                assert_eq!(voters(&said), [1, 2, 3], "{leader} was stopped in order: {said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        nodes[leader - 1] = apart.start(leader);
        must(&["cluster", "health", "-B", &bootstrap, "--exit-when-healthy", "--watch"]);
    }
}

/// safety.md F16: its groups may have been re-formed without it meanwhile.
#[test]
fn node_stopped_beyond_its_session_registers_anew_before_it_votes() {
    let trio = Trio::new(&["broker.session.timeout.ms=1500"]);
    let nodes = trio.start_all();
    let bootstrap = trio.bootstrap();
    must(&["topic", "create", "t", "-p", "3", "-r", "3", "-c", "min.insync.replicas=2", "-B", &bootstrap]);
    produce(&bootstrap, "t", 0..100);
    assert_eq!(trio.log(2).matches("registered with the controller").count(), 1);
    let pid = rustix::process::Pid::from_child(&nodes[1].0);
    let signal = |signal| rustix::process::kill_process(pid, signal).expect("the process lives");
    signal(rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_millis(2_500));
    produce(&bootstrap, "t", 100..200);
    signal(rustix::process::Signal::CONT);
    let deadline = Instant::now() + Duration::from_secs(20);
    while trio.log(2).matches("registered with the controller").count() != 2 {
        assert!(Instant::now() < deadline, "it did not register anew: {}", trio.log(2));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(trio.log(2).contains("stopped for longer than its session"), "{}", trio.log(2));
    must(&["cluster", "health", "-B", &bootstrap, "--exit-when-healthy", "--watch"]);
    produce(&bootstrap, "t", 200..300);
    assert_eq!(consume(&bootstrap, "t"), (0..300).collect::<Vec<_>>());
}

/// The smaller form of the long measurement: nothing about time, all that is exact.
#[test]
fn broker_of_many_groups_killed_all_are_led_again_and_idle_beats_stay_small() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/long/many-groups.sh");
    let directory = tempfile::tempdir().expect("a directory");
    // Twenty ports in a row, by the process so that two runs at once do not meet.
    let port = 21_000 + std::process::id() % 400 * 20;
    let out = Command::new("bash")
        .args([script, "--check", "300"])
        .arg(directory.path())
        .env("KONTIKI", KONTIKI)
        .env("PORT", port.to_string())
        .output()
        .expect("bash starts");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}");
    assert!(text.contains("many groups: all led again"), "{text}");
}
