//! What a stopped node's directory holds of one group, without changing anything: for whoever has to decide before a node is started.
//!
//! The steps of `recovery`, dry: the lock is taken, manifest, journal and every segment of the group are read. Not here: what
//! recovery writes again; so what is found here is what a start would find, or more of it (an end that recovery cuts off). Invariants:
//! - nothing is written, but for a lock file where there is none;
//! - what is damaged or in doubt here is so for a start too.

use super::fs::posix::PosixFs;
use super::fs::{Fs, OpenMode};
use super::image::{FileImage, GroupImage};
use super::manifest::{self, Manifest};
use super::record::Record;
use super::recovery::{self, Judged, start_of};
use super::replay::Replay;
use super::segment_file::{self, SEGMENT_HEADER};
use super::types::*;
use super::{Error, RecoveredGroup, Result, ends, error, identity};
use std::collections::BTreeMap;
use std::path::Path;
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
    verify_journaled(dir, &judged, group, &mut replay);
    verify(fs, dir, &manifest, group, &mut replay)?;
    recovery::clamp_damage(&mut replay);
    let image = &replay.image;
    Ok(Looked {
        node: image.node,
        directory: image.directory,
        cluster: image.cluster.clone(),
        group: image.groups.get(&group).map(recovery::recovered),
        notes: replay.notes,
        _lock: lock,
    })
}

/// Reads what the journal only refers to, and the log still holds: behind the manifest's mark nothing else vouches for it.
fn verify_journaled(dir: &Path, judged: &BTreeMap<u64, Judged>, group: GroupId, replay: &mut Replay<'_>) {
    let records = judged.values().flat_map(|batch| match batch {
        Judged::Good(records) => &records[..],
        Judged::Bad(_) => &[],
    });
    for record in records {
        let Record::Reference { group: of, extent, count, header_crc, .. } = record else { continue };
        let Some(image) = replay.image.groups.get(&group).filter(|_| *of == group) else { continue };
        let end = extent.byte.saturating_add(extent.len);
        if !image.files.iter().any(|file| file.number == extent.file && end <= file.end) {
            continue;
        }
        let (first, path) =
            (extent.first.max(image.first()), segment_file::path(dir, &image.dir, extent.file));
        let is_bad = replay.read_extent(&path, group, extent, *count, *header_crc).is_none();
        if is_bad && first <= extent.last.index {
            replay.damage(
                group,
                first,
                extent.last.index,
                format!("{}: not what was written", path.display()),
            );
        }
    }
}

/// Reads every file of the group as far as the manifest vouches for it.
fn verify(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    group: GroupId,
    replay: &mut Replay<'_>,
) -> Result<()> {
    let Some(image) = replay.image.groups.get(&group).cloned() else { return Ok(()) };
    let marked = manifest.image.groups.get(&group);
    for file in &image.files {
        let mark = replay.vouched(marked, file);
        if mark > SEGMENT_HEADER
            && let Some((first, why)) = damage_in(fs, dir, &image, file, mark)?
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
    file: &FileImage,
    mark: u64,
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
    let read = segment_file::read_frames(&*handle, group.group, span, expect, true, |meta, _, _| {
        next = meta.id.index.next();
    });
    Ok(match read {
        Ok((_, None)) => None,
        Ok((_, Some(why))) => Some((next, format!("{}: {why}", path.display()))),
        Err(e) => Some((next, format!("{}: {e}", path.display()))),
    })
}
