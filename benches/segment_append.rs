//! How fast the segment layer makes rounds durable, beside what the device does with bare pwrite and
//! fdatasync of the same sizes in the same run. Question: what do journal, frames and checks cost on top?
//! Expected: one small round within a few microseconds of one 4 KiB overwrite + fdatasync; large rounds at
//! the speed of pwrite + fdatasync of the same bytes.
//!
//! `cargo bench --bench segment_append [-- DIR [SECONDS]]` (DIR on the device to measure; default `.`).
//! With `--test` every case runs for a moment only.

use bytes::Bytes;
use kontiki::segment::fs::posix::PosixFs;
use kontiki::segment::fs::{File, Fs, Limits, OpenMode, Space};
use kontiki::segment::{
    Entry, EntryKind, EntryMeta, GroupId, GroupOptions, GroupSpec, HardState, Identity, LogId, LogStart,
    NodeId, Opened, ReplicaId, SegmentMap, Store, StoreOptions, Writer, open_on,
};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

/// The real file system, counted.
#[derive(Clone, Default)]
struct Counted(PosixFs, Arc<Counts>);

struct CountedFile(Arc<dyn File>, Arc<Counts>);

impl Fs for Counted {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(CountedFile(self.0.open(path, mode)?, self.1.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.0.lock(path)
    }
    fn entropy(&self) -> u128 {
        self.0.entropy()
    }
    fn boot_id(&self) -> u128 {
        self.0.boot_id()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn is_threaded(&self) -> bool {
        self.0.is_threaded()
    }
}

impl File for CountedFile {
    fn pwritev(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let bytes: usize = bufs.iter().map(|b| b.len()).sum();
        self.1.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.0.pwritev(bufs, at)
    }
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.pread(buf, at)
    }
    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.0.preallocate(at, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn fdatasync(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::Relaxed);
        self.0.fdatasync()
    }
    fn map(&self, len: usize) -> io::Result<SegmentMap> {
        self.0.map(len)
    }
}

struct Case {
    groups: u64,
    batches: usize,
    bytes: usize,
}

fn options(dir: PathBuf) -> StoreOptions {
    let mut options = StoreOptions::new(dir, Identity { node: NodeId(1), cluster: None });
    options.reserve_bytes = 0;
    if let Some(kib) = std::env::var("REFERENCE_KIB").ok().and_then(|s| s.parse::<usize>().ok()) {
        options.reference_bytes = kib << 10;
    }
    options
}

fn entries(store: &Store, group: GroupId, count: usize, payload: &Bytes) -> Vec<Entry> {
    let (mut last, mut next) = store.last(group).expect("the group exists");
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let meta = EntryMeta {
            id: LogId::new(0, 1, last.index.0 + 1),
            prev: last.epoch,
            kind: EntryKind::Records,
            base_offset: next,
            offset_span: 1,
            payload_len: payload.len() as u32,
        };
        (last, next) = (meta.id, meta.next_offset());
        all.push(Entry { meta, payload: payload.clone() });
    }
    all
}

fn round(store: &mut Store, writer: &mut Writer) {
    let round = store.take_round().expect("something is queued");
    let done = writer.commit(round);
    store.complete(done, &mut Vec::new()).expect("durable");
    writer.idle();
}

/// Rounds of a case for a while; median microseconds of a round, rounds and bytes per second, syncs and
/// bytes written per round and payload.
fn run_case(dir: &Path, case: &Case, time: Duration) -> (f64, f64, f64, f64, f64) {
    let counted = Counted::default();
    let path = dir.join(format!("segment-{}-{}-{}", case.groups, case.batches, case.bytes));
    let Opened { mut store, mut writer, .. } =
        open_on(Arc::new(counted.clone()), options(path)).expect("opens");
    for group in 0..case.groups {
        let spec = GroupSpec {
            group: GroupId(group),
            name: format!("group-{group}"),
            replica: ReplicaId::default(),
            log_start: LogStart::default(),
            hard_state: HardState::default(),
            options: GroupOptions { segment_bytes: 256 << 20, ..GroupOptions::default() },
        };
        store.create_group(spec).expect("created");
    }
    round(&mut store, &mut writer);
    let payload = Bytes::from(vec![7u8; case.bytes]);
    let (mut laps, mut rounds) = (Vec::new(), 0u64);
    let (syncs, bytes) = (counted.1.syncs.load(Ordering::Relaxed), counted.1.bytes.load(Ordering::Relaxed));
    let begin = Instant::now();
    while begin.elapsed() < time {
        let lap = Instant::now();
        for group in (0..case.groups).map(GroupId) {
            let entries = entries(&store, group, case.batches, &payload);
            store.append(group, entries).expect("taken");
        }
        round(&mut store, &mut writer);
        laps.push(lap.elapsed());
        rounds += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    laps.sort();
    let total = (rounds * case.groups * case.batches as u64 * case.bytes as u64) as f64;
    let median = laps[laps.len() / 2].as_secs_f64() * 1e6;
    let syncs = (counted.1.syncs.load(Ordering::Relaxed) - syncs) as f64 / rounds as f64;
    let amplification = (counted.1.bytes.load(Ordering::Relaxed) - bytes) as f64 / total;
    (median, rounds as f64 / seconds, total / seconds / 1e6, syncs, amplification)
}

/// Bare overwrites of a zeroed file with an fdatasync each: what the device gives for this size.
fn run_raw(dir: &Path, bytes: usize, time: Duration) -> (f64, f64) {
    const FILE: u64 = 64 << 20;
    let path = dir.join(format!("raw-{bytes}"));
    let file = PosixFs.open(&path, OpenMode::CreateNew).expect("created");
    for at in 0..64 {
        file.pwrite(&vec![0; 1 << 20], at << 20).expect("written");
    }
    file.fdatasync().expect("synced");
    let block = vec![7u8; bytes.next_multiple_of(4096)];
    let (mut at, mut laps) = (0, Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < time {
        if at + block.len() as u64 > FILE {
            at = 0;
        }
        let lap = Instant::now();
        file.pwrite(&block, at).expect("written");
        file.fdatasync().expect("synced");
        laps.push(lap.elapsed());
        at += block.len() as u64;
    }
    let seconds = begin.elapsed().as_secs_f64();
    laps.sort();
    (laps[laps.len() / 2].as_secs_f64() * 1e6, laps.len() as f64 * bytes as f64 / seconds / 1e6)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let is_test = args.iter().any(|a| a == "--test");
    let mut plain = args.iter().filter(|a| !a.starts_with("--"));
    let base = PathBuf::from(plain.next().map_or(".", String::as_str));
    let seconds: f64 = plain.next().and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let time = if is_test { Duration::from_millis(30) } else { Duration::from_secs_f64(seconds) };
    let dir = base.join(format!("segment-append-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory is writable");
    println!(
        "{:>6} {:>8} {:>9} | {:>9} {:>9} {:>9} {:>11} {:>12} | {:>9} {:>9}",
        "groups",
        "batches",
        "bytes",
        "p50 us",
        "rounds/s",
        "MB/s",
        "syncs/round",
        "written/byte",
        "raw us",
        "raw MB/s"
    );
    let cases = [
        (1, 1, 1 << 10),
        (16, 1, 1 << 10),
        (256, 1, 1 << 10),
        (1, 1, 64 << 10),
        (12, 1, 64 << 10),
        (12, 4, 64 << 10),
        (12, 16, 64 << 10),
        (1, 16, 64 << 10),
    ];
    for (groups, batches, bytes) in cases {
        let case = Case { groups, batches, bytes };
        let raw = run_raw(&dir, groups as usize * batches * bytes, time);
        let (p50, rounds, mb, syncs, written) = run_case(&dir, &case, time);
        println!(
            "{groups:>6} {batches:>8} {bytes:>9} | {p50:>9.0} {rounds:>9.0} {mb:>9.1} {syncs:>11.2} {written:>12.2} | {:>9.0} {:>9.1}",
            raw.0, raw.1
        );
        for entry in std::fs::read_dir(&dir).expect("listed").flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}
