//! What a run cost: CPU time and memory of processes, flushes of block devices, from /proc and /sys.
//!
//! Where a file is missing (another system, a process that ended) its figures are left out.

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CPU time of this process so far, all threads.
pub fn own_cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Figures at the start of a run.
#[derive(Debug)]
pub struct Meter {
    at: Instant,
    own: Duration,
    pids: Vec<(u32, Option<Duration>)>,
    flushes: BTreeMap<String, u64>,
}

/// Figures over a run.
#[derive(Debug)]
pub struct Usage {
    elapsed: Duration,
    /// This process.
    own: Duration,
    own_rss: Option<u64>,
    /// The processes that were named: CPU time and resident bytes.
    pids: Vec<(u32, Option<Duration>, Option<u64>)>,
    flushes: BTreeMap<String, u64>,
}

impl Meter {
    /// Starts measuring this process and those named.
    pub fn start(pids: &[u32]) -> Self {
        Self {
            at: Instant::now(),
            own: own_cpu(),
            pids: pids.iter().map(|p| (*p, process_cpu(*p))).collect(),
            flushes: device_flushes(),
        }
    }

    /// Ends the measurement.
    pub fn stop(self) -> Usage {
        let since = |(pid, before): (u32, Option<Duration>)| {
            let cpu = process_cpu(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
            (pid, cpu, rss(&pid.to_string()))
        };
        let before = self.flushes;
        let flushes = device_flushes()
            .into_iter()
            .map(|(device, n)| {
                let earlier = before.get(&device).copied().unwrap_or(0);
                (device, n.saturating_sub(earlier))
            })
            .filter(|(_, n)| *n > 0)
            .collect();
        Usage {
            elapsed: self.at.elapsed(),
            own: own_cpu().saturating_sub(self.own),
            own_rss: rss("self"),
            pids: self.pids.into_iter().map(since).collect(),
            flushes,
        }
    }
}

impl Usage {
    /// Lines for people.
    pub fn to_text(&self, bytes: u64) -> String {
        let mut out = String::from("device flushes:");
        if self.flushes.is_empty() {
            out.push_str(" none");
        }
        for (device, n) in &self.flushes {
            let rate = *n as f64 / self.elapsed.as_secs_f64().max(1e-9);
            out.push_str(&format!(" {device} {n} ({rate:.1}/s)"));
        }
        out.push_str(&format!("\ngenerator: {}\n", cost(Some(self.own), self.own_rss, bytes)));
        for (pid, cpu, rss) in &self.pids {
            out.push_str(&format!("pid {pid}: {}\n", cost(*cpu, *rss, bytes)));
        }
        out
    }

    /// The same for programs.
    pub fn to_json(&self, bytes: u64) -> Value {
        let process = |cpu: Option<Duration>, rss: Option<u64>| json!({ "cpu_s": cpu.map(|c| c.as_secs_f64()), "cpu_s_per_gb": cpu.map(|c| per_gb(c, bytes)), "rss_bytes": rss });
        let pids: BTreeMap<String, Value> =
            self.pids.iter().map(|(pid, cpu, rss)| (pid.to_string(), process(*cpu, *rss))).collect();
        json!({ "generator": process(Some(self.own), self.own_rss), "pids": pids, "device_flushes": self.flushes })
    }
}

/// CPU seconds per 10^9 bytes.
pub fn per_gb(cpu: Duration, bytes: u64) -> f64 {
    if bytes == 0 { 0.0 } else { cpu.as_secs_f64() / (bytes as f64 / 1e9) }
}

fn cost(cpu: Option<Duration>, rss: Option<u64>, bytes: u64) -> String {
    let cpu = cpu.map_or("CPU unknown".into(), |c| {
        format!("CPU {:.2} s ({:.3} s/GB)", c.as_secs_f64(), per_gb(c, bytes))
    });
    let rss = rss.map_or("RSS unknown".into(), |r| format!("RSS {:.1} MB", r as f64 / f64::from(1 << 20)));
    format!("{cpu}, {rss}")
}

/// User and system time of a process with all its threads, dead ones too (proc(5), fields 14 and 15).
fn process_cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat, rustix::param::clock_ticks_per_second())
}

fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The name in parentheses may hold anything, also blanks and parentheses.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
}

fn rss(pid: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Flush requests completed per block device (block/stat.rst, field 16).
fn device_flushes() -> BTreeMap<String, u64> {
    let Ok(devices) = std::fs::read_dir("/sys/block") else { return BTreeMap::new() };
    devices
        .flatten()
        .filter_map(|device| {
            let stat = std::fs::read_to_string(device.path().join("stat")).ok()?;
            let flushes = stat.split_whitespace().nth(15)?.parse().ok()?;
            Some((device.file_name().to_string_lossy().into_owned(), flushes))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_stat_name_with_parentheses_is_skipped() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(parse_stat(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(parse_stat("7 (a", 100), None);
    }

    #[test]
    fn meter_busy_process_shows_cpu_time() {
        let meter = Meter::start(&[std::process::id()]);
        let started = Instant::now();
        let mut n = 1u64;
        while started.elapsed() < Duration::from_millis(50) {
            n = std::hint::black_box(n.wrapping_mul(31));
        }
        let usage = meter.stop();
        assert!(usage.own > Duration::ZERO && usage.own_rss.is_some_and(|r| r > 1 << 20), "{usage:?}");
        assert!(usage.to_text(1_000_000_000).contains("generator: CPU"));
    }
}
