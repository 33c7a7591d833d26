//! `kontiki bench limits`: what this machine can do, and what a cluster on it therefore cannot exceed.
//!
//! Ceilings for replication factor 3 with all three brokers on this machine: a byte crosses loopback three times
//! (client to leader, leader to two followers) and is appended three times. Throughput is the lower of what the
//! device takes (a third of its bandwidth for large entries, which are written once; a sixth for small ones, which
//! go through the journal as well) and what the cores can do. Latency cannot be below two round trips (client,
//! follower) and one small fdatasync.

use super::loopback::{Copied, Peer, spawn_self};
use super::report::{Recorder, latencies};
use super::usage::{own_cpu, per_gb};
use super::{Limits, prebuilt};
use crate::cli::{BenchCommand, BenchLimits, BenchProduce, Cli, Command};
use crate::output::{Failure, Outcome, Ui, pairs};
use clap::Parser;
use hdrhistogram::Histogram;
use kontiki::client::{Client, ClientOptions};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// Preallocated bytes for the overwrites.
const PREALLOCATED: usize = 64 * MIB;
/// Most bytes appended without sync: little enough that no write-back starts.
const APPEND_MAX: u64 = 256 * MIB as u64;

/// A file that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about a directory that went away.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Scratch {
    fn create(dir: &Path, name: &str) -> Result<(Self, File), Failure> {
        let path = dir.join(format!(".kontiki-bench-{}-{name}", std::process::id()));
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).map_err(
                |e| {
                    Failure::new("IO", format!("cannot write {}: {e}", path.display()))
                        .with_hint("--dir names another directory")
                },
            )?;
        Ok((Self(path), file))
    }
}

/// Everything measured.
struct Measured {
    cores: usize,
    loopback: Copied,
    round_trip: Histogram<u64>,
    /// Bytes per second.
    device: f64,
    /// Size and latencies in nanoseconds.
    syncs: Vec<(usize, Histogram<u64>)>,
    /// Bytes per second, CPU seconds per GB.
    append: (f64, f64),
    /// CPU seconds per GB beyond its half of the loopback copy.
    generator: f64,
}

/// Bounds for RF 3 on this machine; bytes per second, seconds.
#[derive(Debug, PartialEq)]
struct Ceilings {
    device_large: f64,
    device_small: f64,
    cpu: f64,
    large: f64,
    small: f64,
    latency: f64,
}

/// Runs the command.
pub async fn run(args: &BenchLimits, ui: &Ui) -> Outcome {
    let measured = measure(args, ui).await?;
    let ceilings = measured.ceilings();
    if ui.is_json() {
        ui.json_items(vec![measured.to_json(&ceilings)])?;
    } else {
        ui.out(&measured.to_text(&ceilings))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &BenchLimits, ui: &Ui) -> Result<Measured, Failure> {
    let time = args.duration;
    ui.note("measuring loopback ...");
    let (loopback, round_trip) = {
        let peer = Peer::start()?;
        (peer.copy(time)?, peer.round_trips(time)?)
    };
    ui.note("measuring the disk ...");
    let append = append(&args.dir, time)?;
    let device = sequential(&args.dir, time * 3)?;
    let syncs = syncs(&args.dir, time)?;
    ui.note("measuring the generator ...");
    let generator = (generator(time).await? - loopback.sender_per_gb).max(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Measured { cores, loopback, round_trip, device, syncs, append, generator })
}

/// Large writes with a sync every 64 MiB: what the device takes, not what the page cache takes.
fn sequential(dir: &Path, time: Duration) -> Result<f64, Failure> {
    let (_scratch, file) = Scratch::create(dir, "sequential")?;
    let data = vec![0x5a; MIB];
    let started = Instant::now();
    let mut bytes = 0u64;
    while started.elapsed() < time && bytes < 8 << 30 {
        for _ in 0..64 {
            file.write_all_at(&data, bytes)?;
            bytes += MIB as u64;
        }
        file.sync_data()?;
    }
    Ok(bytes as f64 / started.elapsed().as_secs_f64())
}

/// Overwrites of a file whose blocks are there already: no allocation, no size change, as in our journal.
fn syncs(dir: &Path, time: Duration) -> Result<Vec<(usize, Histogram<u64>)>, Failure> {
    let (_scratch, file) = Scratch::create(dir, "sync")?;
    for at in (0..PREALLOCATED).step_by(MIB) {
        file.write_all_at(&vec![0; MIB], at as u64)?;
    }
    file.sync_all()?;
    let mut results = Vec::new();
    for size in [KIB, 64 * KIB, MIB] {
        let data = vec![0x5a; size];
        let mut histogram = latencies();
        let started = Instant::now();
        let mut at = 0;
        while started.elapsed() < time {
            let since = Instant::now();
            file.write_all_at(&data, at as u64)?;
            file.sync_data()?;
            histogram.saturating_record(since.elapsed().as_nanos() as u64);
            at = (at + size) % (PREALLOCATED - size + 1);
        }
        results.push((size, histogram));
    }
    Ok(results)
}

fn append(dir: &Path, time: Duration) -> Result<(f64, f64), Failure> {
    let (_scratch, file) = Scratch::create(dir, "append")?;
    let data = vec![0x5a; 64 * KIB];
    let (started, cpu) = (Instant::now(), own_cpu());
    let mut bytes = 0u64;
    while started.elapsed() < time && bytes < APPEND_MAX {
        file.write_all_at(&data, bytes)?;
        bytes += data.len() as u64;
    }
    let used = own_cpu().saturating_sub(cpu);
    Ok((bytes as f64 / started.elapsed().as_secs_f64(), per_gb(used, bytes)))
}

/// CPU seconds per GB of the prebuilt generator, against a broker that stores nothing.
async fn generator(time: Duration) -> Result<f64, Failure> {
    let (mut child, line) = spawn_self(&["bench", "null", "--port", "0"])?;
    let result = drive_null(&line, time).await;
    // It is ours and holds nothing.
    let _ = child.kill();
    let _ = child.wait();
    result
}

async fn drive_null(ready: &str, time: Duration) -> Result<f64, Failure> {
    let bootstrap = ready.split("bootstrap=").nth(1).and_then(|s| s.split_whitespace().next());
    let bootstrap = bootstrap.ok_or_else(|| Failure::new("BENCH", format!("unexpected line `{ready}`")))?;
    let client =
        Client::new(ClientOptions { bootstrap: vec![bootstrap.to_owned()], ..ClientOptions::default() });
    let args = produce_args()?;
    let topic = client.topic(&args.topic, true, Duration::from_secs(5)).await?;
    let limits = Limits { time: Some(time), records: None };
    let cpu = own_cpu();
    let figures =
        prebuilt::drive(&client, &topic, &args, limits, Recorder::new(Instant::now())).await?.finish();
    Ok(per_gb(own_cpu().saturating_sub(cpu), figures.bytes))
}

/// The settings of the run that the ceilings are compared with: 1 KiB records, prebuilt 64 KiB batches.
fn produce_args() -> Result<BenchProduce, Failure> {
    let cli = Cli::try_parse_from(["kontiki", "bench", "produce", "--prebuilt", "--topic", "limits"]);
    match cli.map(|cli| cli.command) {
        Ok(Command::Bench(BenchCommand::Produce(args))) => Ok(args),
        _ => Err(Failure::new("BENCH", "the produce bench has other flags than expected")),
    }
}

impl Measured {
    fn ceilings(&self) -> Ceilings {
        let per_gb = 3.0 * self.loopback.cpu_per_gb + 3.0 * self.append.1 + self.generator;
        let cpu = self.cores as f64 / per_gb.max(1e-9) * 1e9;
        let (device_large, device_small) = (self.device / 3.0, self.device / 6.0);
        let sync = self.syncs.first().map_or(0, |(_, h)| h.value_at_quantile(0.5));
        Ceilings {
            device_large,
            device_small,
            cpu,
            large: device_large.min(cpu),
            small: device_small.min(cpu),
            latency: (2 * self.round_trip.value_at_quantile(0.5) + sync) as f64 / 1e9,
        }
    }

    fn to_text(&self, c: &Ceilings) -> String {
        let us = |ns: u64| format!("{:.1} us", ns as f64 / 1e3);
        let quantiles = |h: &Histogram<u64>| {
            format!("median {}, 99th {}", us(h.value_at_quantile(0.5)), us(h.value_at_quantile(0.99)))
        };
        let mb = |rate: f64| format!("{:.0} MB/s", rate / 1e6);
        let mut rows = vec![
            ("CORES", self.cores.to_string()),
            (
                "LOOPBACK-COPY",
                format!("{}, {:.3} CPU s/GB", mb(self.loopback.rate), self.loopback.cpu_per_gb),
            ),
            ("LOOPBACK-ROUND-TRIP", quantiles(&self.round_trip)),
            ("SEQUENTIAL-WRITE", mb(self.device)),
        ];
        for ((_, histogram), name) in self.syncs.iter().zip(["FDATASYNC-1K", "FDATASYNC-64K", "FDATASYNC-1M"])
        {
            rows.push((name, quantiles(histogram)));
        }
        rows.extend([
            ("APPEND-PAGE-CACHE", format!("{}, {:.3} CPU s/GB", mb(self.append.0), self.append.1)),
            ("GENERATOR", format!("{:.3} CPU s/GB beyond its half of the copy", self.generator)),
            (
                "CEILING-LARGE-ENTRIES",
                format!("{} (device {}, cores {})", mb(c.large), mb(c.device_large), mb(c.cpu)),
            ),
            (
                "CEILING-SMALL-ENTRIES",
                format!("{} (device {}, cores {})", mb(c.small), mb(c.device_small), mb(c.cpu)),
            ),
            ("LATENCY-FLOOR", format!("{:.1} us", c.latency * 1e6)),
        ]);
        format!("{}replication factor 3, all brokers on this machine; MB = 10^6 bytes\n", pairs(&rows))
    }

    fn to_json(&self, c: &Ceilings) -> serde_json::Value {
        let quantiles = |h: &Histogram<u64>| json!({ "p50_us": h.value_at_quantile(0.5) as f64 / 1e3, "p99_us": h.value_at_quantile(0.99) as f64 / 1e3 });
        let syncs: serde_json::Map<String, serde_json::Value> =
            self.syncs.iter().map(|(size, h)| (size.to_string(), quantiles(h))).collect();
        json!({
            "cores": self.cores,
            "loopback": { "bytes_per_s": self.loopback.rate, "cpu_s_per_gb": self.loopback.cpu_per_gb, "sender_cpu_s_per_gb": self.loopback.sender_per_gb },
            "round_trip": quantiles(&self.round_trip),
            "sequential_write_bytes_per_s": self.device,
            "fdatasync": syncs,
            "append": { "bytes_per_s": self.append.0, "cpu_s_per_gb": self.append.1 },
            "generator_cpu_s_per_gb": self.generator,
            "ceilings": {
                "replication_factor": 3, "device_large_bytes_per_s": c.device_large, "device_small_bytes_per_s": c.device_small,
                "cpu_bytes_per_s": c.cpu, "large_bytes_per_s": c.large, "small_bytes_per_s": c.small,
                "latency_floor_us": c.latency * 1e6,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(ns: u64) -> Histogram<u64> {
        let mut h = latencies();
        h.record(ns).unwrap();
        h
    }

    fn measured(device: f64) -> Measured {
        Measured {
            cores: 2,
            loopback: Copied { rate: 3e9, cpu_per_gb: 0.5, sender_per_gb: 0.25 },
            round_trip: histogram(20_000),
            device,
            syncs: vec![(KIB, histogram(100_000))],
            append: (1e9, 0.4),
            generator: 0.3,
        }
    }

    #[test]
    fn ceilings_follow_the_stated_formula() {
        let c = measured(340e6).ceilings();
        assert!((c.large - 340e6 / 3.0).abs() < 1.0 && (c.small - 340e6 / 6.0).abs() < 1.0, "{c:?}");
        // 2 cores / (3 x 0.5 + 3 x 0.4 + 0.3) = 2/3 GB/s
        assert!((c.cpu - 2e9 / 3.0).abs() < 1e3, "{c:?}");
        assert!((measured(1e12).ceilings().large - c.cpu).abs() < 1e-3);
        assert!((c.latency - 140e-6).abs() < 1e-6, "{c:?}");
    }

    #[test]
    fn produce_args_are_those_of_the_comparison() {
        let args = produce_args().unwrap();
        assert!(args.prebuilt && args.acks == -1);
        assert_eq!((args.record_size, args.batch_size, args.partitions), (1024, 65536, 12));
    }

    #[test]
    fn scratch_file_goes_with_its_guard() {
        let dir = tempfile::tempdir().unwrap();
        let (scratch, _) = Scratch::create(dir.path(), "x").unwrap();
        let path = scratch.0.clone();
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }
}
