//! A world of its own for a test: network, mounts and processes that nothing else on the machine sees, and that end with it.
//!
//! The test binary runs itself again in fresh namespaces (`unshare`) for one test. Not here: the faults. Called by every test
//! of this folder. Invariants: nothing leaks, since the last process of the pid namespace takes mounts, loop devices, rules
//! and processes with it; a missing tool or privilege fails the test, it never skips it.

use crate::shared;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const INSIDE: &str = "KONTIKI_CHAOS_INSIDE";
const TOOLS: &[&str] = &[
    "ip",
    "losetup",
    "mkfs.ext4",
    "mount",
    "nft",
    "prlimit",
    "setpriv",
    "strace",
    "umount",
    "unshare",
    "xfs_io",
];

/// Runs `body` in a world of its own. `module` is `module_path!()` and `test` the name of the calling test.
pub fn apart(module: &str, test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        must("ip", &["link", "set", "lo", "up"]);
        return body();
    }
    let _few_at_a_time = shared();
    check_requirements();
    let (_crate_name, module) = module.split_once("::").expect("a module below the test crate");
    let name = format!("{module}::{test}");
    let (output, input) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare"]);
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(std::env::current_exe().expect("our own path"));
    command.args(["--exact", &name, "--nocapture", "--test-threads", "1"]).env(INSIDE, "1");
    command.stdin(Stdio::null()).stdout(input.try_clone().expect("a second handle")).stderr(input);
    let mut child = command.spawn().expect("setpriv");
    // Holds the writing ends of the pipe.
    drop(command);
    let mut passed = false;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        passed |= line.starts_with("test result: ok. 1 passed");
        // Told apart from the lines by which tests are counted.
        eprintln!("| {line}");
    }
    let status = child.wait().expect("our own child");
    assert!(status.success() && passed, "{name} failed in its own namespaces: {status}");
}

fn check_requirements() {
    let found = |tool: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
    };
    let missing: Vec<_> = TOOLS.iter().filter(|tool| !found(tool)).collect();
    assert!(
        missing.is_empty(),
        "missing {missing:?}: run tests/cluster/chaos/install.sh (tests/run.sh does)"
    );
    assert!(
        rustix::process::geteuid().is_root(),
        "the chaos tests make network and mount namespaces and loop devices, which takes root"
    );
}

/// Runs a tool that must succeed, and gives its output.
pub fn must(tool: &str, args: &[&str]) -> String {
    attempt(tool, args).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs a tool; its complaint if it fails.
pub fn attempt(tool: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(tool).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{tool}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{tool} {args:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Runs a tool that reads `input` and must succeed.
pub fn feed(tool: &str, args: &[&str], input: &str) {
    let child = Command::new(tool).args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{tool}: {e}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("our own child");
    assert!(output.status.success(), "{tool}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
}
