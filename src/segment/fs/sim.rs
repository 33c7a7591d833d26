//! A simulated disk in memory. It keeps what the running process sees apart from what would survive a
//! power cut, and can lose any subset of unsynced 512-byte sectors and names, flip bits, put a write in
//! the wrong place, fail or run full. Public: storage tests and the cluster simulator stand on it.
//!
//! * `crash` applies the seed's losses and makes every open handle stale; dropping all handles without it
//!   is kill -9 (the page cache stays).
//! * A failed `fdatasync` drops the dirty data and marks it clean, as Linux does: the process goes on
//!   reading it, but no later sync makes it durable; only writing it again does (safety.md F9).
//! * A failed write-back is told once per open file description, by its next sync; one that is opened later is told only if
//!   nobody was before.

use super::{File, Fs, Limits, OpenMode, Space};
use crate::segment::map::SegmentMap;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are written or lost as one.
pub const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

/// The simulated disk. Clones share it; [`SimFs::fork`] copies it.
#[derive(Clone)]
pub struct SimFs(Arc<Mutex<Disk>>);

#[derive(Clone)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Unsynced changes of names, per directory, in order.
    pending: BTreeMap<PathBuf, Vec<Change>>,
    locks: BTreeSet<PathBuf>,
    next: u64,
    era: u64,
    /// Power cuts so far.
    boots: u64,
    random: u64,
    faults: Faults,
    counts: Counts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(u64),
    Dir,
}

#[derive(Clone)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    /// Durable content of sectors written since the last sync.
    dirty: BTreeMap<u64, Sector>,
    /// Durable content of sectors whose write back failed: clean to the kernel, on no disk.
    lost: BTreeMap<u64, Sector>,
    durable_len: usize,
    /// Write-backs that failed, and whether anybody was told of the last one.
    errors: u64,
    is_told: bool,
}

#[derive(Clone, Default)]
struct Faults {
    power_off_at: Option<u64>,
    is_off: bool,
    fail_write_at: Option<u64>,
    fail_sync_at: Option<u64>,
    fail_reads_of: Option<String>,
    misdirect: Option<(String, i64)>,
    capacity: Option<u64>,
}

/// What was asked of the disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything that changes something.
    pub changes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
}

fn stale() -> io::Error {
    io::Error::other("handle from before the crash")
}
fn off() -> io::Error {
    io::Error::other("power is off")
}
fn injected() -> io::Error {
    io::Error::other("injected input/output error")
}
fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display()))
}

/// splitmix64: small, seedable, good enough to choose losses.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl SimFs {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let root = PathBuf::from("/");
        let names = BTreeMap::from([(root, Node::Dir)]);
        Self(Arc::new(Mutex::new(Disk {
            inodes: BTreeMap::new(),
            live: names.clone(),
            durable: names,
            pending: BTreeMap::new(),
            locks: BTreeSet::new(),
            next: 1,
            era: 0,
            boots: 0,
            random: seed,
            faults: Faults::default(),
            counts: Counts::default(),
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An independent copy, without anybody's locks.
    pub fn fork(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.locks.clear();
        Self(Arc::new(Mutex::new(disk)))
    }

    /// Cuts the power at the `n`-th change from now (0: the next): that change may still be torn into
    /// what survives, everything after it fails until [`SimFs::crash`].
    pub fn power_off_after(&self, n: u64) {
        let mut disk = self.disk();
        disk.faults.power_off_at = Some(disk.counts.changes + n);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.disk().faults.is_off
    }

    /// Power cut and restart: each unsynced sector, length and name survives or not as `seed` says.
    pub fn crash(&self, seed: u64) {
        self.disk().crash(seed);
    }

    /// The process is gone (kill -9) and its locks with it; the page cache stays.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.locks.clear();
        disk.era += 1;
        disk.faults = Faults { capacity: disk.faults.capacity, ..Faults::default() };
    }

    /// The machine starts anew, and everything happens to have been written back: nothing is lost, and nobody can know that.
    pub fn reboot(&self) {
        self.kill();
        self.disk().boots += 1;
    }

    /// The `n`-th write from now (0: the next) fails with nothing written.
    pub fn fail_write_after(&self, n: u64) {
        let mut disk = self.disk();
        disk.faults.fail_write_at = Some(disk.counts.writes + n);
    }

    /// The `n`-th file sync from now (0: the next) fails and loses what it should have made durable.
    pub fn fail_sync_after(&self, n: u64) {
        let mut disk = self.disk();
        disk.faults.fail_sync_at = Some(disk.counts.syncs + n);
    }

    /// The kernel writes back, on its own, what is dirty of files whose path contains `part`, and fails: it is on no disk, and syncs
    /// will be told.
    pub fn fail_write_back(&self, part: &str) {
        let mut disk = self.disk();
        let is_it = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(id) if path.to_string_lossy().contains(part) => Some(*id),
            _ => None,
        };
        let ids: Vec<u64> = disk.live.iter().filter_map(is_it).collect();
        for id in ids {
            if let Some(inode) = disk.inodes.get_mut(&id).filter(|inode| !inode.dirty.is_empty()) {
                inode.fail_write_back();
            }
        }
    }

    /// Reads of paths that contain `part` fail; None ends it.
    pub fn fail_reads_of(&self, part: Option<&str>) {
        self.disk().faults.fail_reads_of = part.map(str::to_owned);
    }

    /// The next write to a path that contains `part` lands `by` bytes away from where it should.
    pub fn misdirect_next(&self, part: &str, by: i64) {
        self.disk().faults.misdirect = Some((part.to_owned(), by));
    }

    /// Takes back every fault that was announced and has not happened yet, but for a full disk.
    pub fn disarm(&self) {
        let mut disk = self.disk();
        disk.faults = Faults {
            is_off: disk.faults.is_off,
            capacity: disk.faults.capacity,
            fail_reads_of: disk.faults.fail_reads_of.take(),
            ..Faults::default()
        };
    }

    /// Whether a misdirected write is still to come.
    pub fn is_misdirecting(&self) -> bool {
        self.disk().faults.misdirect.is_some()
    }

    /// Takes back a misdirected write that has not happened.
    pub fn cancel_misdirect(&self) {
        self.disk().faults.misdirect = None;
    }

    /// Bytes of all files together beyond which the disk is full; None: never.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().faults.capacity = bytes;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// What was asked of the disk so far.
    pub fn counts(&self) -> Counts {
        self.disk().counts
    }

    /// Every file, with its length.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(id) => Some((path.clone(), disk.inodes[id].live.len() as u64)),
            Node::Dir => None,
        };
        disk.live.iter().filter_map(file).collect()
    }

    /// Content of a file.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        match disk.live.get(path)? {
            Node::File(id) => Some(disk.inodes[id].live.clone()),
            Node::Dir => None,
        }
    }

    /// Flips bits of one byte, on the disk and in the cache alike.
    pub fn flip(&self, path: &Path, at: u64, mask: u8) {
        let mut disk = self.disk();
        if let Some(inode) = disk.inode(path) {
            inode.live[at as usize] ^= mask;
        }
    }

    /// Cuts a file short behind everybody's back.
    pub fn cut(&self, path: &Path, len: u64) {
        let mut disk = self.disk();
        if let Some(inode) = disk.inode(path) {
            inode.live.truncate(len as usize);
            inode.forget_beyond();
        }
    }

    /// Removes a file behind everybody's back.
    pub fn lose(&self, path: &Path) {
        let mut disk = self.disk();
        disk.live.remove(path);
        disk.durable.remove(path);
    }
}

impl Disk {
    fn used(&self) -> u64 {
        let ids = self.live.values().filter_map(|n| if let Node::File(id) = n { Some(id) } else { None });
        ids.map(|id| self.inodes[id].live.len() as u64).sum()
    }

    fn inode(&mut self, path: &Path) -> Option<&mut Inode> {
        match self.live.get(path)? {
            Node::File(id) => self.inodes.get_mut(id),
            Node::Dir => None,
        }
    }

    fn alive(&self, era: u64) -> io::Result<()> {
        if self.faults.is_off {
            return Err(off());
        }
        if era != self.era {
            return Err(stale());
        }
        Ok(())
    }

    /// Counts a change; answers whether the power goes off in the middle of it.
    fn change(&mut self) -> bool {
        let now = self.counts.changes;
        self.counts.changes += 1;
        if self.faults.power_off_at == Some(now) {
            self.faults.is_off = true;
        }
        self.faults.is_off
    }

    fn grow(&self, by: u64) -> io::Result<()> {
        match self.faults.capacity {
            Some(limit) if by > 0 && self.used() + by > limit => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn rename_live(&mut self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> = self.live.keys().filter(|p| p.starts_with(from)).cloned().collect();
        for old in moved {
            let node = self.live.remove(&old).expect("key was just listed");
            let rest = old.strip_prefix(from).expect("filtered by prefix");
            let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            self.live.insert(new, node);
        }
    }

    fn note(&mut self, dir: &Path, change: Change) {
        self.pending.entry(dir.to_owned()).or_default().push(change);
    }

    fn crash(&mut self, seed: u64) {
        let mut state = seed;
        let pending = std::mem::take(&mut self.pending);
        for (_, changes) in pending {
            for change in changes {
                if random(&mut state) & 1 == 0 {
                    apply(&mut self.durable, change);
                }
            }
        }
        // A name without its directory is nowhere.
        let names = self.durable.clone();
        self.durable.retain(|p, _| p.ancestors().skip(1).all(|a| names.get(a) == Some(&Node::Dir)));
        for inode in self.inodes.values_mut() {
            inode.crash(&mut state);
        }
        self.live = self.durable.clone();
        self.locks.clear();
        self.era += 1;
        self.boots += 1;
        self.faults = Faults { capacity: self.faults.capacity, ..Faults::default() };
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: Change) {
    match change {
        Change::Add(path, node) => {
            names.insert(path, node);
        }
        Change::Remove(path) => {
            names.remove(&path);
        }
        Change::Rename(from, to) => {
            let moved: Vec<PathBuf> = names.keys().filter(|p| p.starts_with(&from)).cloned().collect();
            for old in moved {
                let node = names.remove(&old).expect("key was just listed");
                let rest = old.strip_prefix(&from).expect("filtered by prefix");
                let new = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                names.insert(new, node);
            }
        }
    }
}

impl Inode {
    fn sector(&self, number: u64) -> Sector {
        let mut sector = [0; SECTOR];
        let from = number as usize * SECTOR;
        if from < self.live.len() {
            let to = (from + SECTOR).min(self.live.len());
            sector[..to - from].copy_from_slice(&self.live[from..to]);
        }
        sector
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at as usize + bytes.len();
        for number in at / SECTOR as u64..=(end as u64 - 1) / SECTOR as u64 {
            if !self.dirty.contains_key(&number) {
                let durable = self.lost.remove(&number).unwrap_or_else(|| self.sector(number));
                self.dirty.insert(number, durable);
            }
        }
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[at as usize..end].copy_from_slice(bytes);
    }

    fn fail_write_back(&mut self) {
        self.lost.append(&mut self.dirty);
        self.errors += 1;
        self.is_told = false;
    }

    /// Errors a description knows of that is opened now.
    fn known(&self) -> u64 {
        self.errors - u64::from(!self.is_told && self.errors > 0)
    }

    fn restore(&mut self, number: u64, sector: &Sector) {
        let from = number as usize * SECTOR;
        if from < self.live.len() {
            let to = (from + SECTOR).min(self.live.len());
            self.live[from..to].copy_from_slice(&sector[..to - from]);
        }
    }

    fn crash(&mut self, state: &mut u64) {
        (self.errors, self.is_told) = (0, false);
        for (number, sector) in std::mem::take(&mut self.lost) {
            self.restore(number, &sector);
        }
        for (number, sector) in std::mem::take(&mut self.dirty) {
            if random(state) & 1 == 0 {
                self.restore(number, &sector);
            }
        }
        if self.durable_len != self.live.len() && random(state) & 1 == 0 {
            self.live.resize(self.durable_len, 0);
        }
        self.durable_len = self.live.len();
    }

    /// Forgets unsynced sectors behind the end after a cut.
    fn forget_beyond(&mut self) {
        let end = self.live.len().div_ceil(SECTOR) as u64;
        self.dirty.split_off(&end);
        self.lost.split_off(&end);
        self.durable_len = self.durable_len.min(self.live.len());
    }
}

struct SimFile {
    fs: SimFs,
    path: PathBuf,
    id: u64,
    era: u64,
    writable: bool,
    /// Failed write-backs of the file that this description was told of.
    known: AtomicU64,
}

struct LockGuard {
    fs: SimFs,
    path: PathBuf,
    era: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut disk = self.fs.disk();
        if disk.era == self.era {
            disk.locks.remove(&self.path);
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

impl Fs for SimFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let mut missing: Vec<&Path> = path.ancestors().filter(|a| !disk.live.contains_key(*a)).collect();
        missing.reverse();
        for dir in missing {
            disk.change();
            disk.live.insert(dir.to_owned(), Node::Dir);
            disk.note(&parent(dir), Change::Add(dir.to_owned(), Node::Dir));
            if disk.faults.is_off {
                return Err(off());
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        let era = disk.era;
        disk.alive(era)?;
        let id = match (disk.live.get(path).copied(), mode) {
            (Some(Node::File(_)), OpenMode::CreateNew) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Some(Node::File(id)), _) => id,
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, OpenMode::CreateNew) => {
                if disk.live.get(&parent(path)) != Some(&Node::Dir) {
                    return Err(missing(&parent(path)));
                }
                let id = disk.next;
                disk.next += 1;
                disk.inodes.insert(id, Inode::default());
                disk.live.insert(path.to_owned(), Node::File(id));
                disk.note(&parent(path), Change::Add(path.to_owned(), Node::File(id)));
                if disk.change() {
                    return Err(off());
                }
                id
            }
            (None, _) => return Err(missing(path)),
        };
        let writable = mode != OpenMode::Read;
        let known = AtomicU64::new(disk.inodes[&id].known());
        Ok(Arc::new(SimFile { fs: self.clone(), path: path.to_owned(), id, era, writable, known }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let era = disk.era;
        disk.alive(era)?;
        assert_eq!(parent(from), parent(to), "renames stay within a directory");
        if !disk.live.contains_key(from) {
            return Err(missing(from));
        }
        disk.rename_live(from, to);
        disk.note(&parent(from), Change::Rename(from.to_owned(), to.to_owned()));
        if disk.change() { Err(off()) } else { Ok(()) }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let era = disk.era;
        disk.alive(era)?;
        match disk.live.remove(path) {
            Some(Node::File(_)) => {}
            Some(Node::Dir) => {
                disk.live.insert(path.to_owned(), Node::Dir);
                return Err(io::ErrorKind::IsADirectory.into());
            }
            None => return Err(missing(path)),
        }
        disk.note(&parent(path), Change::Remove(path.to_owned()));
        if disk.change() { Err(off()) } else { Ok(()) }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let era = disk.era;
        disk.alive(era)?;
        if disk.live.get(path) != Some(&Node::Dir) {
            return Err(missing(path));
        }
        if disk.live.keys().any(|p| p.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.live.remove(path);
        disk.note(&parent(path), Change::Remove(path.to_owned()));
        if disk.change() { Err(off()) } else { Ok(()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let era = disk.era;
        disk.alive(era)?;
        disk.counts.dir_syncs += 1;
        if disk.change() {
            return Err(off());
        }
        for change in disk.pending.remove(path).unwrap_or_default() {
            apply(&mut disk.durable, change);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.alive(disk.era)?;
        if disk.live.get(path) != Some(&Node::Dir) {
            return Err(missing(path));
        }
        let children = disk.live.keys().filter(|p| p.parent() == Some(path));
        Ok(children.filter_map(|p| p.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let disk = self.disk();
        disk.alive(disk.era)?;
        let total = disk.faults.capacity.unwrap_or(1 << 50);
        Ok(Space { free: total.saturating_sub(disk.used()), total })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut disk = self.disk();
        disk.alive(disk.era)?;
        if !disk.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(LockGuard { fs: self.clone(), path: path.to_owned(), era: disk.era })))
    }

    fn entropy(&self) -> u128 {
        let mut disk = self.disk();
        u128::from(random(&mut disk.random)) << 64 | u128::from(random(&mut disk.random))
    }

    fn boot_id(&self) -> u128 {
        u128::from(self.disk().boots) + 1
    }

    fn limits(&self) -> Limits {
        Limits { open_files: 8, maps: 4 }
    }

    fn is_threaded(&self) -> bool {
        false
    }
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.fs.disk();
        disk.alive(self.era)?;
        f(&mut disk)
    }
}

impl File for SimFile {
    fn pwritev(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.with(|disk| {
            assert!(self.writable, "{} is open for reading", self.path.display());
            let nth = disk.counts.writes;
            disk.counts.writes += 1;
            if disk.faults.fail_write_at == Some(nth) {
                return Err(injected());
            }
            let total: usize = bufs.iter().map(|b| b.len()).sum();
            let mut at = at;
            let path = self.path.to_string_lossy();
            if disk.faults.misdirect.as_ref().is_some_and(|(part, _)| path.contains(part.as_str())) {
                let (_, by) = disk.faults.misdirect.take().expect("just seen");
                at = at.saturating_add_signed(by);
            }
            let grown = (at + total as u64).saturating_sub(disk.inodes[&self.id].live.len() as u64);
            disk.grow(grown)?;
            disk.counts.bytes += total as u64;
            let is_off = disk.change();
            let inode = disk.inodes.get_mut(&self.id).expect("an open file has its inode");
            for buf in bufs {
                inode.write(at, buf);
                at += buf.len() as u64;
            }
            if is_off { Err(off()) } else { Ok(()) }
        })
    }

    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|disk| {
            let path = self.path.to_string_lossy();
            if disk.faults.fail_reads_of.as_ref().is_some_and(|part| path.contains(part.as_str())) {
                return Err(injected());
            }
            let live = &disk.inodes[&self.id].live;
            let from = (at as usize).min(live.len());
            let n = buf.len().min(live.len() - from);
            buf[..n].copy_from_slice(&live[from..from + n]);
            Ok(n)
        })
    }

    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.with(|disk| {
            let end = at + len;
            disk.grow(end.saturating_sub(disk.inodes[&self.id].live.len() as u64))?;
            let is_off = disk.change();
            let inode = disk.inodes.get_mut(&self.id).expect("an open file has its inode");
            if (inode.live.len() as u64) < end {
                inode.live.resize(end as usize, 0);
            }
            if is_off { Err(off()) } else { Ok(()) }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|disk| {
            disk.grow(len.saturating_sub(disk.inodes[&self.id].live.len() as u64))?;
            let is_off = disk.change();
            let inode = disk.inodes.get_mut(&self.id).expect("an open file has its inode");
            inode.live.resize(len as usize, 0);
            inode.forget_beyond();
            if is_off { Err(off()) } else { Ok(()) }
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(disk.inodes[&self.id].live.len() as u64))
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.with(|disk| {
            let nth = disk.counts.syncs;
            disk.counts.syncs += 1;
            let fails = disk.faults.fail_sync_at == Some(nth);
            if disk.change() {
                return Err(off());
            }
            let inode = disk.inodes.get_mut(&self.id).expect("an open file has its inode");
            match fails {
                true => inode.fail_write_back(),
                false => inode.dirty.clear(),
            }
            inode.durable_len = inode.live.len();
            if self.known.swap(inode.errors, Ordering::Relaxed) < inode.errors {
                inode.is_told = true;
                return Err(injected());
            }
            Ok(())
        })
    }

    fn map(&self, len: usize) -> io::Result<SegmentMap> {
        let mut bytes = vec![0; len];
        let n = self.pread(&mut bytes, 0)?;
        if n < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(SegmentMap::of_bytes(Bytes::from(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(fs: &SimFs) -> Arc<dyn File> {
        fs.create_dir(Path::new("/d")).expect("created");
        let file = fs.open(Path::new("/d/f"), OpenMode::CreateNew).expect("opened");
        fs.sync_dir(Path::new("/")).expect("synced");
        fs.sync_dir(Path::new("/d")).expect("synced");
        file
    }

    #[test]
    fn synced_bytes_survive_every_crash_and_unsynced_ones_some() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..50 {
            let fs = SimFs::new(1);
            let f = file(&fs);
            f.pwrite(&[1; 1024], 0).expect("written");
            f.fdatasync().expect("synced");
            f.pwrite(&[2; 1024], 512).expect("written");
            fs.crash(seed);
            assert!(f.len().is_err(), "old handles are stale");
            let bytes = fs.read(Path::new("/d/f")).expect("still there");
            assert!(bytes[..512].iter().all(|b| *b == 1));
            outcomes.insert((bytes[512], bytes.get(1024).copied()));
        }
        assert!(outcomes.len() > 2, "{outcomes:?}");
    }

    #[test]
    fn failed_sync_loses_the_data_for_good_unless_it_is_written_again() {
        for again in [false, true] {
            let fs = SimFs::new(1);
            let f = file(&fs);
            f.pwrite(&[1; 512], 0).expect("written");
            f.fdatasync().expect("synced");
            f.pwrite(&[2; 512], 0).expect("written");
            fs.fail_sync_after(0);
            assert!(f.fdatasync().is_err());
            assert_eq!(fs.read(Path::new("/d/f")).expect("there")[0], 2, "the cache still shows it");
            if again {
                f.pwrite(&[2; 512], 0).expect("written");
            }
            f.fdatasync().expect("synced");
            fs.crash(3);
            assert_eq!(fs.read(Path::new("/d/f")).expect("there")[0], if again { 2 } else { 1 });
        }
    }

    #[test]
    fn failed_write_back_is_told_once_to_every_description() {
        let fs = SimFs::new(1);
        let f = file(&fs);
        let g = fs.open(Path::new("/d/f"), OpenMode::Write).expect("opened");
        f.pwrite(&[1; 512], 0).expect("written");
        fs.fail_write_back("/d/f");
        let unseen = fs.open(Path::new("/d/f"), OpenMode::Write).expect("opened");
        assert!(f.fdatasync().is_err() && f.fdatasync().is_ok());
        assert!(g.fdatasync().is_err() && g.fdatasync().is_ok());
        assert!(unseen.fdatasync().is_err(), "nobody had been told when it was opened");
        let seen = fs.open(Path::new("/d/f"), OpenMode::Write).expect("opened");
        assert!(seen.fdatasync().is_ok());
        fs.crash(1);
        assert!(fs.read(Path::new("/d/f")).expect("there").iter().all(|b| *b == 0), "and it is on no disk");
    }

    #[test]
    fn unsynced_name_may_be_lost() {
        let lost = (0..20).filter(|seed| {
            let fs = SimFs::new(1);
            fs.create_dir(Path::new("/d")).expect("created");
            fs.sync_dir(Path::new("/")).expect("synced");
            fs.open(Path::new("/d/f"), OpenMode::CreateNew).expect("opened");
            fs.crash(*seed);
            fs.read(Path::new("/d/f")).is_none()
        });
        let lost = lost.count();
        assert!(lost > 0 && lost < 20, "{lost}");
    }
}
