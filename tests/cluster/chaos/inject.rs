//! System calls of a running node that fail or take long: strace attached to it, with its tampering.
//!
//! Not here: which, and when. Called by `stage`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What every call of a kind meets from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// fsync and fdatasync are not carried out and answer EIO.
    FailSync,
    /// fsync and fdatasync take this many milliseconds longer.
    SlowSync(u32),
}

/// An attached strace; it lets go when stopped or dropped.
pub struct Injection {
    child: Child,
    log: PathBuf,
}

impl Injection {
    /// Attaches to all threads of a process and returns once they are under control.
    pub fn start(pid: u32, what: Tampering, log: &Path) -> Injection {
        let rule = match what {
            Tampering::FailSync => "inject=fsync,fdatasync:error=EIO".to_string(),
            Tampering::SlowSync(ms) => format!("inject=fsync,fdatasync:delay_enter={}", u64::from(ms) * 1000),
        };
        let child = Command::new("strace")
            .args(["-f", "-qq", "-tt", "-e", "trace=fsync,fdatasync", "-e", &rule, "-o"])
            .arg(log)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("strace");
        let mut injection = Injection { child, log: log.to_path_buf() };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_traced(pid) {
            assert!(Instant::now() < deadline, "strace does not attach to {pid}");
            if let Some(status) = injection.child.try_wait().expect("our own child") {
                panic!("strace ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        injection
    }

    /// How many calls were tampered with so far.
    pub fn count(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("INJECTED") || line.contains("DELAYED")).count()
    }

    /// Lets go.
    pub fn stop(mut self) {
        self.detach();
    }

    fn detach(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        if self.child.try_wait().expect("our own child").is_none() {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            self.child.wait().expect("our own child");
        }
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        self.detach();
    }
}

fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|v| v.trim() != "0"))
            || status.is_empty()
    })
}
