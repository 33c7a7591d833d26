//! The built binary from the outside: help, usage errors, exit codes, streams, and produce against a broker that
//! only acknowledges. What needs a real cluster is tested elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

fn kontiki() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.env_remove("KONTIKI_BROKERS").env_remove("KONTIKI_CONFIG").env_remove("KONTIKI_LOG");
    command
}

fn run(args: &[&str]) -> Output {
    kontiki().args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed by a signal")
}

/// A port that nobody listens on.
fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A broker that acknowledges at once; stopped when dropped.
struct Null {
    child: Child,
    bootstrap: String,
}

impl Drop for Null {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Null {
    fn start(more: &[&str]) -> Self {
        let mut child = kontiki()
            .args(["bench", "null", "--port", "0"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let bootstrap = line.trim().strip_prefix("READY bootstrap=").expect("the ready line").to_owned();
        Self { child, bootstrap }
    }

    fn produce(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = kontiki()
            .args(["produce", "t", "-B", &self.bootstrap])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses its input may end before it has read it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
}

#[test]
fn help_every_top_level_command_prints_to_stdout() {
    for command in [
        "start",
        "dev",
        "topic",
        "produce",
        "consume",
        "cluster",
        "partition",
        "controller",
        "ready",
        "config",
        "generate",
        "dump",
        "bench",
        "version",
    ] {
        let output = run(&[command, "--help"]);
        assert_eq!(code(&output), 0, "{command}");
        assert!(stdout(&output).contains("Usage: kontiki"), "{command}");
        assert!(stderr(&output).is_empty(), "{command}");
    }
}

#[test]
fn help_daily_commands_have_examples() {
    let cases: [&[&str]; 10] = [
        &["produce"],
        &["consume"],
        &["topic", "create"],
        &["topic", "alter"],
        &["cluster", "health"],
        &["controller", "recover"],
        &["start"],
        &["dev"],
        &["ready"],
        &["bench", "produce"],
    ];
    for case in cases {
        let output = kontiki().args(case).arg("--help").output().unwrap();
        assert!(stdout(&output).contains("Example"), "{case:?}");
    }
}

#[test]
fn controller_recover_says_what_it_does_not_do() {
    let recover =
        |args: &[&str]| run(&[&["controller", "recover", "--data-dir", "/nowhere/at/all"], args].concat());
    let output = recover(&[]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("/nowhere/at/all is no directory"), "{}", stderr(&output));
    let output = recover(&["--accept-loss"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("/nowhere/at/all is no directory"), "{}", stderr(&output));
    assert_eq!(code(&recover(&["--gone", "3"])), 2, "gone only with a loss that is accepted");
    assert_eq!(
        code(&recover(&["--accept-loss", "--execute", "--plan", "1", "--heir-gone"])),
        2,
        "one or the other"
    );
    assert_eq!(code(&recover(&["--execute"])), 2, "no plan was approved");
    assert_eq!(code(&recover(&["--heir-gone"])), 2, "a word for nothing");
}

#[test]
fn usage_errors_exit_with_2_and_leave_stdout_empty() {
    let cases: [&[&str]; 10] = [
        &[],
        &["nonsense"],
        &["consume"],
        &["consume", "t", "-o", "yesterday"],
        &["produce", "t", "--acks", "2"],
        &["produce", "t", "-z", "brotli"],
        &["topic", "create", "t", "-p", "0"],
        &["dev", "--topic", "t"],
        &["start"],
        &["topic", "alter", "t"],
    ];
    for case in cases {
        let output = run(case);
        assert_eq!(code(&output), 2, "{case:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{case:?}");
        assert!(!stderr(&output).is_empty(), "{case:?}");
    }
}

#[test]
fn usage_error_with_json_output_is_an_object_too() {
    for case in [&["consume", "--output", "json"][..], &["start", "--output", "json"]] {
        let output = run(case);
        assert_eq!(code(&output), 2);
        let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!((&object["ok"], &object["error"]["code"]), (&false.into(), &"USAGE".into()), "{object}");
    }
}

#[test]
fn unreachable_broker_exits_with_1_and_says_where_and_what_next() {
    let address = dead_address();
    let cases: [&[&str]; 8] = [
        &["topic", "list"],
        &["topic", "create", "t"],
        &["topic", "describe", "t"],
        &["produce", "t"],
        &["consume", "t"],
        &["cluster", "health"],
        &["ready", "--timeout", "300ms"],
        &["bench", "consume"],
    ];
    for case in cases {
        let mut limited = kontiki();
        limited.args(case).args(["-B", &address]).stdin(Stdio::null());
        let output = limited.output().unwrap();
        assert_eq!(code(&output), 1, "{case:?}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("error[BROKER_UNREACHABLE]") && text.contains(&address), "{case:?}: {text}");
        assert!(text.contains("kontiki dev"), "{case:?}: {text}");
        assert!(stdout(&output).is_empty(), "{case:?}");
    }
}

#[test]
fn unreachable_broker_with_json_output_is_one_object() {
    let output = run(&["cluster", "health", "-B", &dead_address(), "--output", "json"]);
    assert_eq!(code(&output), 1);
    let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(object["ok"], false);
    assert_eq!(object["error"]["code"], "BROKER_UNREACHABLE");
    assert_eq!(object["items"], serde_json::json!([]));
}

const VERSION: &str = match cfg!(feature = "mutations") {
    true => concat!(env!("CARGO_PKG_VERSION"), "+mutations"),
    false => env!("CARGO_PKG_VERSION"),
};

/// Switches that break rules are in the build that is made for them and in no other; that one says so.
#[test]
fn binary_has_switches_that_break_rules_only_if_it_says_so() {
    let binary = std::fs::read(env!("CARGO_BIN_EXE_kontiki")).expect("it was built");
    let has = |text: &[u8]| binary.windows(text.len()).any(|window| window == text);
    for name in ["KONTIKI_MUTATION", "SkipJournalSync"] {
        assert_eq!(has(name.as_bytes()), VERSION.ends_with("+mutations"), "{name}");
    }
}

#[test]
fn version_text_and_json_agree() {
    assert_eq!(stdout(&run(&["version"])), format!("kontiki {VERSION}\n"));
    let object: serde_json::Value =
        serde_json::from_str(&stdout(&run(&["version", "--output", "json"]))).unwrap();
    assert_eq!(object["items"][0]["version"], VERSION);
}

#[test]
fn config_print_origin_tells_flag_environment_file_and_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k.toml");
    std::fs::write(&file, "rack = 'r1'\n[kafka]\nnum.partitions = 6\n").unwrap();
    let output = kontiki()
        .args(["config", "print", "--origin", "--node-id", "4", "--config"])
        .arg(&file)
        .env("KONTIKI_DATA_DIR", "/d")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let row = |key: &str| -> Vec<String> {
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(key)).expect("the key's row");
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("node-id")[1..], ["4", "flag", "--node-id"]);
    assert_eq!(row("data-dir")[1..], ["/d", "env", "KONTIKI_DATA_DIR"]);
    assert_eq!(row("rack")[1..3], ["r1", "file"]);
    assert_eq!(row("num.partitions")[1..3], ["6", "file"]);
    assert_eq!(row("raft.beat-ms")[1..], ["100", "default"]);
    assert_eq!(row("listen")[1..], ["-", "default"]);
}

#[test]
fn config_file_with_unknown_key_is_refused_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k.toml");
    std::fs::write(&file, "nod-id = 1\n").unwrap();
    let output = kontiki().args(["start", "--config"]).arg(&file).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("unknown key `nod-id`") && stderr(&output).contains("try: node-id"));
}

#[test]
fn dev_kill_without_cluster_says_which_address() {
    let port = dead_address().rsplit(':').next().unwrap().to_owned();
    let output = run(&["dev", "kill", "1", "--admin-port", &port]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains(&format!("http://127.0.0.1:{port}/dev/kill/1")), "{}", stderr(&output));
}

#[test]
fn dump_of_no_directory_is_a_usage_error() {
    assert_eq!(code(&run(&["dump", "/nonexistent/kontiki"])), 2);
}

#[test]
fn produce_counts_go_to_stderr_and_nothing_to_stdout() {
    let null = Null::start(&["--brokers", "2", "--partitions", "4"]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let output = null.produce(&["-z", codec, "-K", ":"], b"a:1\nb:2\nc:3");
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).is_empty());
        assert!(stderr(&output).contains("produced 3 records to t (0 failed)"), "{}", stderr(&output));
    }
    for acks in ["0", "1", "all"] {
        assert_eq!(code(&null.produce(&["--acks", acks], b"x\n")), 0, "acks {acks}");
    }
}

#[test]
fn produce_json_output_counts_every_record() {
    let null = Null::start(&["--partitions", "3"]);
    let input: String = (0..10_000).map(|i| format!("{{\"key\":\"{i}\",\"value\":\"v{i}\"}}\n")).collect();
    let output = null.produce(&["--input", "jsonl", "--output", "json"], input.as_bytes());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let items = object["items"].as_array().unwrap();
    assert_eq!(items.len(), 3, "keys spread over all partitions: {object}");
    assert_eq!(items.iter().map(|i| i["count"].as_u64().unwrap()).sum::<u64>(), 10_000);
    // The null broker numbers what it gets: the last offset proves that nothing was sent twice or dropped.
    for item in items {
        assert_eq!(item["last_offset"].as_u64().unwrap() + 1, item["count"].as_u64().unwrap(), "{item}");
    }
}

#[test]
fn produce_bad_line_exits_with_1_and_names_it() {
    let null = Null::start(&[]);
    let output = null.produce(&["--input", "jsonl"], b"{\"value\":\"a\"}\n{\"vlaue\":\"b\"}\n");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("line 2") && stderr(&output).contains("vlaue"), "{}", stderr(&output));
    let output = null.produce(&["-p", "99"], b"x\n");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("no partition 99"), "{}", stderr(&output));
}

#[test]
fn bench_produce_both_ways_counts_what_was_asked_for() {
    let null = Null::start(&["--brokers", "3"]);
    for (mode, expected) in
        [(&["--prebuilt"][..], 10_028), (&["--prebuilt", "--idempotent"], 10_028), (&[], 10_000)]
    {
        let output = kontiki()
            .args(["bench", "produce", "-B", &null.bootstrap, "--num-records", "10000", "--output", "json"])
            .args(mode)
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{mode:?}: {}", stderr(&output));
        let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let item = &object["items"][0];
        // Prebuilt runs send whole batches.
        let records = item["records"].as_u64().unwrap();
        assert!((10_000..=expected + 64).contains(&records), "{mode:?}: {records}");
        assert!(item["latency_ms"]["p50"].as_f64().unwrap() > 0.0, "{item}");
    }
}

#[test]
fn bench_produce_open_loop_holds_its_rate() {
    let null = Null::start(&[]);
    for mode in [&["--prebuilt"][..], &[]] {
        let output = kontiki()
            .args([
                "bench",
                "produce",
                "-B",
                &null.bootstrap,
                "--rate",
                "20k",
                "--duration",
                "1s",
                "--output",
                "json",
            ])
            .args(mode)
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{mode:?}: {}", stderr(&output));
        let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let rate = object["items"][0]["records_per_s"].as_f64().unwrap();
        assert!((10_000.0..22_000.0).contains(&rate), "{mode:?}: {rate}");
    }
}

#[test]
fn bench_text_line_has_kafkas_words() {
    let null = Null::start(&[]);
    let output =
        kontiki().args(["bench", "produce", "-B", &null.bootstrap, "--num-records", "100"]).output().unwrap();
    let text = stdout(&output);
    let line = text.lines().next().unwrap();
    assert!(line.starts_with("100 records sent, ") && line.contains(" records/sec ("), "{line}");
    assert!(line.contains(" ms avg latency, ") && line.ends_with(" ms 99.9th."), "{line}");
    assert!(text.contains("device flushes:") && text.contains("generator: CPU"), "{text}");
}

#[test]
fn bench_limits_every_figure_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let output = kontiki()
        .args(["bench", "limits", "--duration", "60ms", "--output", "json", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let item = &object["items"][0];
    for path in [
        "/loopback/bytes_per_s",
        "/loopback/cpu_s_per_gb",
        "/round_trip/p50_us",
        "/sequential_write_bytes_per_s",
        "/fdatasync/1024/p50_us",
        "/fdatasync/65536/p50_us",
        "/fdatasync/1048576/p50_us",
        "/append/bytes_per_s",
        "/ceilings/large_bytes_per_s",
        "/ceilings/small_bytes_per_s",
        "/ceilings/latency_floor_us",
    ] {
        let value = item.pointer(path).and_then(serde_json::Value::as_f64);
        assert!(value.is_some_and(|v| v > 0.0), "{path}: {item}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch files are left behind");
}

#[test]
fn ready_and_health_of_a_live_broker_succeed() {
    let null = Null::start(&["--brokers", "3"]);
    let output = run(&["ready", "--timeout", "5s", "--brokers", "3", "-B", &null.bootstrap]);
    assert_eq!((code(&output), stdout(&output)), (0, "ready\n".to_owned()), "{}", stderr(&output));
    let output = run(&["ready", "--timeout", "300ms", "--brokers", "4", "-B", &null.bootstrap]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("3 of 4 brokers are up"), "{}", stderr(&output));
    let output = run(&["cluster", "health", "-B", &null.bootstrap]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("HEALTHY "), "{}", stdout(&output));
}

/// Every command has its page, and a page says what the help says.
#[test]
fn generate_man_writes_a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = kontiki().args(["generate", "man", "-d"]).arg(dir.path().join("man1")).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let page = |name: &str| std::fs::read_to_string(dir.path().join("man1").join(name)).unwrap();
    for name in ["kontiki.1", "kontiki-consume.1", "kontiki-group-seek.1", "kontiki-controller-recover.1"] {
        assert!(page(name).starts_with(".ie") || page(name).contains(".TH"), "{name}");
    }
    assert!(page("kontiki-topic-create.1").contains("\\-\\-if\\-not\\-exists"), "flags are in it");
    assert!(page("kontiki-start.1").contains("kontiki.toml"), "examples are in it");
    let first = stdout(&run(&["generate", "man"]));
    assert_eq!(first, page("kontiki.1"));
    let output = run(&["generate", "man", "-d", "/dev/null/man"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("/dev/null/man"), "{}", stderr(&output));
}

#[test]
fn generate_completions_and_unit_name_what_they_run() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&["generate", "completions", shell]));
        assert!(script.contains("COMPLETE") && script.contains("kontiki"), "{shell}: {script}");
    }
    assert_eq!(code(&run(&["generate", "completions", "tcsh"])), 2);
    let hidden = run(&["generate", "systemd", "--binary", "/home/me/.cargo/bin/kontiki"]);
    assert_eq!(code(&hidden), 2);
    assert!(stderr(&hidden).contains("home directories"), "{}", stderr(&hidden));
    let unit = stdout(&run(&["generate", "systemd", "--binary", "/opt/a b/100%/kontiki"]));
    assert!(unit.contains("ExecStart=\"/opt/a b/100%%/kontiki\" start"), "{unit}");
}
