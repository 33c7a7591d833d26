//! What a stopped node's directory holds of one group, without changing anything: for whoever has to decide before a node is started.
//!
//! The steps of `recovery`, dry: the lock is taken, manifest, journal and every segment of the group are read. Not here: what
//! recovery writes again; so what is found here is what a start would find, or more of it (an end that recovery cuts off). Invariants:
//! - nothing is written, but for a lock file where there is none;
//! - what is damaged or in doubt here is so for a start too.

use super::fs::posix::PosixFs;
use super::fs::{Fs, OpenMode};
use super::image::{FileImage, GroupImage, Image};
use super::manifest::{self, Manifest};
use super::record::Record;
use super::recovery::{self, Judged, start_of};
use super::replay::Replay;
use super::segment_file::{self, SEGMENT_HEADER};
use super::types::*;
use super::{Error, RecoveredGroup, Result, ends, error, frame, identity};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory as it was found. It stays locked as long as this lives.
pub struct Looked {
    /// Whose it is.
    pub node: NodeId,
    /// Its uuid.
    pub directory: u128,
    /// The cluster it belongs to, if that is known in it.
    pub cluster: Option<String>,
    /// The group, if it is here.
    pub group: Option<RecoveredGroup>,
    /// What is wrong with the directory.
    pub notes: Vec<String>,
    at: PathBuf,
    _lock: Arc<Box<dyn Send + Sync>>,
}

/// Looks at one group of a stopped node's directory, and reads all of its log.
///
/// # Errors
/// `Refused` if it is no data directory, one that is in use, one of a newer format or without a sound manifest; `Failed` if it
/// cannot be read. Damage is no error: the group says so.
pub fn look(dir: &Path, group: GroupId) -> Result<Looked> {
    look_on(&PosixFs, dir, group)
}

/// [`look`] on any file system.
///
/// # Errors
/// As [`look`].
pub fn look_on(fs: &dyn Fs, dir: &Path, group: GroupId) -> Result<Looked> {
    let none = || Error::Refused(format!("{} is no data directory: it has no manifest", dir.display()));
    // Locking would make a directory, or a file in one that is something else.
    if fs.list(dir).is_err() {
        return Err(Error::Refused(format!("{} is no directory that can be read", dir.display())));
    }
    manifest::load(fs, dir)?.ok_or_else(none)?;
    let lock = identity::lock(fs, dir)?;
    let (image, notes) = read(fs, dir, group, None)?;
    Ok(Looked {
        node: image.node,
        directory: image.directory,
        cluster: image.cluster.clone(),
        group: image.groups.get(&group).map(recovery::recovered),
        notes,
        at: dir.to_owned(),
        _lock: lock,
    })
}

impl Looked {
    /// The group's whole log, read once more; what is damaged is not among it.
    ///
    /// # Errors
    /// As of [`look`].
    pub fn log_on(&self, fs: &dyn Fs) -> Result<Vec<Entry>> {
        let Some(found) = &self.group else { return Ok(Vec::new()) };
        let mut log = Log::default();
        read(fs, &self.at, found.group, Some(&mut log))?;
        Ok(log.of(found))
    }
}

/// All of a directory that a start would read, and every file of the group. The lock is held.
fn read(fs: &dyn Fs, dir: &Path, group: GroupId, mut log: Option<&mut Log>) -> Result<(Image, Vec<String>)> {
    let none = || Error::Refused(format!("{} is no data directory: it has no manifest", dir.display()));
    // Whoever held the lock until now may have taken a checkpoint.
    let manifest = manifest::load(fs, dir)?.ok_or_else(none)?;
    let scanned = recovery::scan(fs, dir, &manifest)?;
    let durable = recovery::durable_through(&scanned, &manifest);
    let judged = recovery::judge(&scanned, &manifest, durable)?;
    let ends = ends::find(fs, dir, &manifest.image, &judged, durable)?;
    let dry = Replay::new(fs, dir, manifest.image.clone(), None);
    let mut replay = recovery::replay_all(dry, &judged, Some(&ends))?;
    if scanned.is_short && !manifest.clean {
        replay.bad_batch(durable + 1, None);
    }
    replay.finish();
    verify_journaled(dir, &judged, group, (&mut replay, log.as_deref_mut()));
    verify(fs, dir, &manifest, group, (&mut replay, log))?;
    recovery::clamp_damage(&mut replay);
    Ok((replay.image, replay.notes))
}

/// Entries by place, as they were met; a later one may have taken an earlier one's place.
#[derive(Default)]
struct Log(BTreeMap<LogId, Entry>);

impl Log {
    fn push(&mut self, meta: &EntryMeta, payload: Bytes) {
        self.0.insert(meta.id, Entry { meta: *meta, payload });
    }

    /// Those that the log holds in the end.
    fn of(self, found: &RecoveredGroup) -> Vec<Entry> {
        let is_in = |id: LogId| {
            let at = found.epochs.partition_point(|(_, first)| *first <= id.index);
            let epoch = at.checked_sub(1).map(|at| found.epochs[at].0);
            epoch == Some(id.epoch) && found.log_start.prev.index < id.index && id.index <= found.last.index
        };
        let mut entries: Vec<Entry> = self.0.into_values().filter(|entry| is_in(entry.meta.id)).collect();
        entries.sort_unstable_by_key(|entry| entry.meta.id.index);
        entries
    }
}

/// Reads what the journal only refers to, and the log still holds: behind the manifest's mark nothing else vouches for it.
fn verify_journaled(
    dir: &Path,
    judged: &BTreeMap<u64, Judged>,
    group: GroupId,
    (replay, mut log): (&mut Replay<'_>, Option<&mut Log>),
) {
    let records = judged.values().flat_map(|batch| match batch {
        Judged::Good(records) => &records[..],
        Judged::Bad(_) => &[],
    });
    for record in records {
        if let (Record::Inline { group: of, frames, .. }, Some(log)) = (record, &mut log)
            && *of == group
        {
            take_frames(frames, group, log);
        }
        let Record::Reference { group: of, extent, count, header_crc, .. } = record else { continue };
        let Some(image) = replay.image.groups.get(&group).filter(|_| *of == group) else { continue };
        let end = extent.byte.saturating_add(extent.len);
        if !image.files.iter().any(|file| file.number == extent.file && end <= file.end) {
            continue;
        }
        let (first, path) =
            (extent.first.max(image.first()), segment_file::path(dir, &image.dir, extent.file));
        let read = replay.read_extent(&path, group, extent, *count, *header_crc);
        if let (Some(read), Some(log)) = (&read, &mut log) {
            read.entries.iter().for_each(|(meta, payload)| log.push(meta, payload.clone()));
        }
        if read.is_none() && first <= extent.last.index {
            replay.damage(
                group,
                first,
                extent.last.index,
                format!("{}: not what was written", path.display()),
            );
        }
    }
}

/// Entries by value.
fn take_frames(frames: &Bytes, group: GroupId, log: &mut Log) {
    let mut at = 0;
    while let Some(Ok(meta)) =
        frames.get(at..).filter(|rest| !rest.is_empty()).map(|b| frame::decode(b, group))
    {
        let end = at + frame::frame_len(meta.payload_len) as usize;
        log.push(&meta, frames.slice(at + frame::FRAME_HEADER..end));
        at = end;
    }
}

/// Reads every file of the group as far as the manifest vouches for it.
fn verify(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    group: GroupId,
    (replay, mut log): (&mut Replay<'_>, Option<&mut Log>),
) -> Result<()> {
    let Some(image) = replay.image.groups.get(&group).cloned() else { return Ok(()) };
    let marked = manifest.image.groups.get(&group);
    for file in &image.files {
        let mark = replay.vouched(marked, file);
        if mark > SEGMENT_HEADER
            && let Some((first, why)) = damage_in(fs, dir, &image, (file, mark), log.as_deref_mut())?
        {
            let first = first.max(image.first());
            if first <= file.last.index {
                replay.damage(group, first, file.last.index, why);
            }
        }
    }
    Ok(())
}

/// The first entry of a file that is not what was written, and why.
fn damage_in(
    fs: &dyn Fs,
    dir: &Path,
    group: &GroupImage,
    (file, mark): (&FileImage, u64),
    mut log: Option<&mut Log>,
) -> Result<Option<(Index, String)>> {
    let path = segment_file::path(dir, &group.dir, file.number);
    let handle = match fs.open(&path, OpenMode::Read) {
        Ok(handle) => handle,
        // A shortage says nothing of the file.
        Err(e) if error::is_busy(&e) => return Err(error::failed("open", &path, &e)),
        Err(e) => return Ok(Some((file.first(), format!("{}: {e}", path.display())))),
    };
    let (from, expect, mut next) = start_of(file);
    let span = (from, mark);
    let read = segment_file::read_frames(&*handle, group.group, span, expect, true, |meta, _, payload| {
        if let Some(log) = &mut log {
            log.push(meta, Bytes::copy_from_slice(payload));
        }
        next = meta.id.index.next();
    });
    Ok(match read {
        Ok((_, None)) => None,
        Ok((_, Some(why))) => Some((next, format!("{}: {why}", path.display()))),
        Err(e) => Some((next, format!("{}: {e}", path.display()))),
    })
}
