//! The Dockerfile and the compose file, where no container engine runs: each instruction and key read, and the very cluster they describe started as plain
//! processes, with the image's command and settings on loopback addresses, asked by the image's own health check, and stopped by its signal.
//! Not here: building the image.

use super::foreign::python;
use super::system::root;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The network of the compose file.
const NETWORK: &str = "172.28.92.";

/// The loopback addresses that stand for it: other ones in every process, as the ports are given.
fn loopback() -> String {
    let id = std::process::id();
    format!("127.{}.{}.", 28 + id % 200, id / 200 % 250)
}

/// What an image does, of the last stage of its file.
#[derive(Debug, Default)]
struct Image {
    user: String,
    environment: BTreeMap<String, String>,
    command: Vec<String>,
    health: Vec<String>,
    exposed: Vec<String>,
}

fn list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json} is no list: {e}"))
}

/// Reads a Dockerfile, and refuses what is none of the instructions that this one needs.
fn read_dockerfile(text: &str) -> Image {
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut image = Image::default();
    let mut entry = Vec::new();
    let mut stages = Vec::new();
    for line in text.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()) {
        let (instruction, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        let rest = rest.trim();
        match instruction {
            "FROM" => {
                let words: Vec<&str> = rest.split(' ').collect();
                assert!(matches!(words[..], [_] | [_, "AS", _]), "{line}");
                stages.extend(words.get(2).map(|name| (*name).to_owned()));
                (image, entry) = Default::default();
            }
            "COPY" => {
                let from = rest.split(' ').find_map(|word| word.strip_prefix("--from="));
                assert!(from.is_none_or(|stage| stages.iter().any(|known| known == stage)), "{line}");
            }
            "USER" => image.user = rest.to_owned(),
            "ENV" => {
                let pairs = rest.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=VALUE"));
                image.environment.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            "EXPOSE" => image.exposed = rest.split(' ').map(str::to_owned).collect(),
            "HEALTHCHECK" => {
                let (flags, command) = rest.split_once("CMD").expect("a command");
                assert!(
                    flags.split_whitespace().all(|flag| flag.starts_with("--") && flag.contains('=')),
                    "{line}"
                );
                image.health = list(command.trim());
            }
            "ENTRYPOINT" => entry = list(rest),
            "CMD" => image.command = [entry.clone(), list(rest)].concat(),
            "VOLUME" => assert_eq!(list(rest).len(), 1),
            "STOPSIGNAL" => assert_eq!(rest, "SIGTERM"),
            "WORKDIR" | "RUN" => {}
            _ => panic!("{line}: unknown instruction"),
        }
    }
    image
}

fn read_compose(path: &Path) -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = python().args(["-c", script]).arg(path).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A node as its container would run it; killed with its test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service's settings over the image's, on the loopback address that stands for its own.
fn settings(image: &Image, service: &Value, address: &str, data: &Path) -> BTreeMap<String, String> {
    let mut settings = image.environment.clone();
    for (name, value) in service["environment"].as_object().expect("settings") {
        settings.insert(name.clone(), value.as_str().unwrap_or_else(|| panic!("{name} is text")).to_owned());
    }
    for value in settings.values_mut() {
        *value = local(value, address);
    }
    settings.insert("KONTIKI_DATA_DIR".into(), data.to_str().expect("UTF-8").into());
    settings
}

/// Every address of a container, as one of this machine.
fn local(text: &str, address: &str) -> String {
    // The host's published ports lead to the container.
    text.replace("0.0.0.0:", &format!("{address}:"))
        .replace("localhost:", &format!("{address}:"))
        .replace("127.0.0.1:", &format!("{address}:"))
        .replace(NETWORK, &loopback())
}

fn kontiki(command: &[String], environment: &BTreeMap<String, String>) -> Command {
    assert_eq!(command[0], "/usr/local/bin/kontiki");
    let mut process = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    process.args(&command[1..]).env_clear().envs(environment).stdin(Stdio::null());
    process
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn image_and_compose_file_describe_a_cluster_that_starts_is_healthy_and_stops() {
    let _shared = super::shared();
    let image = read_dockerfile(&fs::read_to_string(root().join("Dockerfile")).expect("a Dockerfile"));
    assert_eq!(image.user, "65532:65532", "not root");
    assert_eq!(image.exposed, ["9092", "9093", "8080"]);
    let compose = read_compose(&root().join("compose.yaml"));
    let services = compose["services"].as_object().expect("services");
    assert_eq!(services.len(), 3);
    let data = tempfile::tempdir().expect("a directory");
    let mut nodes = Vec::new();
    for (name, service) in services {
        let given = service["networks"]["kontiki"]["ipv4_address"].as_str().expect("an address");
        let volume = service["volumes"][0].as_str().and_then(|v| v.split_once(':')).expect("a volume");
        assert!(
            compose["volumes"].get(volume.0).is_some() && volume.1 == image.environment["KONTIKI_DATA_DIR"]
        );
        let address = given.replace(NETWORK, &loopback());
        let settings = settings(&image, service, &address, &data.path().join(name));
        check_settings(&settings);
        check_published(service);
        let health: Vec<String> = image.health.iter().map(|word| local(word, &address)).collect();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.image.log"));
        let log = fs::File::create(path).expect("a log file");
        let child = kontiki(&image.command, &settings).stderr(log).spawn().expect("kontiki");
        nodes.push((Node(child), health, settings));
    }
    for (_, health, settings) in &nodes {
        until("healthy", || kontiki(health, settings).output().expect("kontiki").status.success());
    }
    let bootstrap = format!("{}11:9092", loopback());
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kontiki")).args(args).output().expect("kontiki");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&["ready", "--brokers", "3", "--timeout", "60s", "-B", &bootstrap]);
    for (listener, base, step) in
        [(bootstrap.clone(), 9092, 0), (format!("{}12:19093", loopback()), 19091, 1)]
    {
        let listed = run(&["broker", "list", "--output", "json", "-B", &listener]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let told = listed["items"].as_array().expect("brokers").iter().map(|item| item["address"].clone());
        let all: Vec<Value> =
            (1..=3).map(|n: u16| format!("{}1{n}:{}", loopback(), base + step * n).into()).collect();
        assert_eq!(told.collect::<Vec<_>>(), all, "by {listener}");
    }
    for (node, ..) in &mut nodes {
        let pid = rustix::process::Pid::from_child(&node.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
    }
    for (node, health, settings) in &mut nodes {
        until("it stops", || {
            node.0.try_wait().expect("our own child").is_some_and(|status| status.success())
        });
        assert!(
            !kontiki(health, settings).output().expect("kontiki").status.success(),
            "healthy after its end"
        );
    }
}

/// The host reaches the external listener under the port that it is told.
fn check_published(service: &Value) {
    let ports: Vec<&str> =
        service["ports"].as_array().expect("ports").iter().filter_map(Value::as_str).collect();
    let [port] = ports[..] else { panic!("{ports:?}") };
    let setting = |name: &str| service["environment"][name].as_str().expect("a setting");
    let external = |name: &str| {
        setting(name).split(',').find_map(|item| item.strip_prefix("EXTERNAL://")?.rsplit_once(':'))
    };
    let (_, bound) = external("KONTIKI_LISTEN").expect("an external listener");
    let (host, told) = external("KONTIKI_ADVERTISE").expect("an external listener");
    assert_eq!((host, port), ("localhost", &*format!("127.0.0.1:{told}:{bound}")));
}

/// The node takes every one of these settings, from the variable that names it.
fn check_settings(settings: &BTreeMap<String, String>) {
    let print: Vec<String> =
        ["/usr/local/bin/kontiki", "config", "print", "--output", "json"].map(Into::into).into();
    let output = kontiki(&print, settings).output().expect("kontiki");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let taken: Vec<&str> = printed["items"]
        .as_array()
        .expect("keys")
        .iter()
        .filter_map(|item| item["origin"].as_str()?.strip_prefix("env "))
        .collect();
    let ignored: Vec<&String> = settings.keys().filter(|name| !taken.contains(&name.as_str())).collect();
    assert!(ignored.is_empty(), "nobody knows {ignored:?}");
}

#[test]
#[should_panic(expected = "unknown instruction")]
fn dockerfile_with_a_slip_is_refused() {
    read_dockerfile("FROM a\nENTRYPIONT [\"b\"]\n");
}
