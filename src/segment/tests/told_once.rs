//! A failed write-back that one thread is told of while another syncs the same file (safety.md F9): a real checkpoint thread over a
//! simulated disk, held at the one moment that matters.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::fs::{File, Fs, Limits, OpenMode, Space};
use crate::segment::*;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Moments of a checkpoint's first sync of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Unarmed,
    Armed,
    Waits,
    MayGo,
    Done,
}

/// A simulated disk whose syncs run on threads; the first one of a checkpoint waits until it may go.
#[derive(Clone)]
struct Staged {
    fs: SimFs,
    moment: Arc<(Mutex<Moment>, Condvar)>,
    /// A write to a segment lets the checkpoint go, its write-back failing, and waits for it.
    fails_at_write: bool,
}

struct StagedFile {
    file: Arc<dyn File>,
    stage: Staged,
    is_segment: bool,
}

impl Staged {
    fn new(fs: &SimFs, fails_at_write: bool) -> Self {
        let moment = Arc::new((Mutex::new(Moment::Unarmed), Condvar::new()));
        Self { fs: fs.clone(), moment, fails_at_write }
    }

    fn is(&self, moment: Moment) -> bool {
        *self.moment.0.lock().unwrap_or_else(PoisonError::into_inner) == moment
    }

    fn set(&self, moment: Moment) {
        *self.moment.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        self.moment.1.notify_all();
    }

    fn wait(&self, moment: Moment) {
        let now = self.moment.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, late) = self
            .moment
            .1
            .wait_timeout_while(now, std::time::Duration::from_secs(60), |now| *now < moment)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!late.timed_out(), "stuck at {now:?}");
    }
}

impl Fs for Staged {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.create_dir(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let is_segment = path.extension().is_some_and(|e| e == "segment");
        Ok(Arc::new(StagedFile { file: self.fs.open(path, mode)?, stage: self.clone(), is_segment }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.fs.unlink(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.fs.list(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.fs.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.fs.lock(path)
    }
    fn entropy(&self) -> u128 {
        self.fs.entropy()
    }
    fn boot_id(&self) -> u128 {
        self.fs.boot_id()
    }
    fn limits(&self) -> Limits {
        self.fs.limits()
    }
    fn is_threaded(&self) -> bool {
        true
    }
}

impl File for StagedFile {
    fn pwritev(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.file.pwritev(bufs, at)?;
        let stage = &self.stage;
        if self.is_segment && stage.fails_at_write && stage.is(Moment::Waits) {
            stage.fs.fail_write_back("topic-1");
            stage.set(Moment::MayGo);
            stage.wait(Moment::Done);
        }
        Ok(())
    }
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.pread(buf, at)
    }
    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.preallocate(at, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn fdatasync(&self) -> io::Result<()> {
        let is_checkpoint = std::thread::current().name() == Some("segment-checkpoint");
        if !self.is_segment || !is_checkpoint || !self.stage.is(Moment::Armed) {
            return self.file.fdatasync();
        }
        self.stage.set(Moment::Waits);
        self.stage.wait(Moment::MayGo);
        let result = self.file.fdatasync();
        self.stage.set(Moment::Done);
        result
    }
    fn map(&self, len: usize) -> io::Result<SegmentMap> {
        self.file.map(len)
    }
}

/// Two groups with small entries in their segments, and a checkpoint that has come to its first sync of one.
fn checkpoint_under_way(stage: &Staged) -> (Store, Writer) {
    let opened = open_on(Arc::new(stage.clone()), options()).expect("opens");
    let (mut store, mut writer) = (opened.store, opened.writer);
    for group in [1, 2] {
        let big = GroupOptions { segment_bytes: 1 << 20, ..group_options() };
        store.create_group(GroupSpec { options: big, ..spec(group) }).expect("created");
    }
    for _ in 0..40 {
        store.append(GroupId(2), records(&store, 2, 1, 1, 3000)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    store.append(GroupId(1), records(&store, 1, 1, 1, 300)).expect("taken");
    store.append(GroupId(2), records(&store, 2, 1, 1, 300)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    stage.set(Moment::Armed);
    writer.idle();
    stage.wait(Moment::Waits);
    (store, writer)
}

/// What a round wrote failed to reach the disk; the checkpoint that was syncing the same file was told, and the round was acknowledged.
#[test]
pub(crate) fn round_is_not_durable_because_the_checkpoint_was_told_of_its_failure() {
    let fs = SimFs::new(1);
    let stage = Staged::new(&fs, true);
    let (mut store, mut writer) = checkpoint_under_way(&stage);
    store.append(GroupId(1), records(&store, 1, 1, 1, 9000)).expect("taken");
    let round = store.take_round().expect("a round");
    let done = writer.commit(round);
    assert!(stage.is(Moment::Done), "the checkpoint was told before the round synced");
    assert!(done.failure().is_some(), "its bytes are on no disk");
}

/// The other way round: a round is told, and the checkpoint of the same file made a manifest that calls everything in it durable, so
/// that a restart in the same boot wrote none of it again.
#[test]
fn checkpoint_names_no_segment_whose_failure_a_round_was_told_of() {
    let fs = SimFs::new(1);
    let stage = Staged::new(&fs, false);
    let (mut store, mut writer) = checkpoint_under_way(&stage);
    let manifests = |fs: &SimFs| -> Vec<PathBuf> { files_of(fs, ".a").into_iter().map(|(p, _)| p).collect() };
    let before = manifests(&fs);
    // The checkpoint is at the first group's file; of the second's failure this round is told.
    fs.fail_write_back("topic-2");
    store.append(GroupId(2), records(&store, 2, 1, 1, 9000)).expect("taken");
    let round = store.take_round().expect("a round");
    assert!(writer.commit(round).failure().is_some());
    stage.set(Moment::MayGo);
    stage.wait(Moment::Done);
    // Time for a manifest, if there is to be one.
    for _ in 0..40 {
        if manifests(&fs) != before {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(manifests(&fs), before, "nothing names what is on no disk");
    drop((store, writer));
    fs.kill();
    drop(boot(&fs));
    fs.crash(1);
    let Opened { mut store, groups, .. } = boot(&fs);
    let group = groups.iter().find(|group| group.group == GroupId(2)).expect("still there");
    assert_eq!(group.needs_repair, None, "what was acknowledged was written again");
    assert!(read_all(&mut store, 2).expect("readable").len() >= 41);
}
