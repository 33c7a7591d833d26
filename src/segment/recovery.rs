//! Opening a data directory: lock, manifest, journal, then a fresh checkpoint and a fresh journal file
//! before anything counts. The rules are design section 4 and safety.md section 3; the order of events is
//! in docs/disk-format.md. Not here: applying records (`replay`).
//!
//! * Never panics on what it finds; never searches a segment for the last good frame.
//! * Torn (above every durable-through, some sector missing) is cut; damaged is reported, with the groups.
//! * Less than the manifest names is damage, never emptiness.

use super::checkpoint::{AT_OPEN, Job};
use super::ends::{self, Ends};
use super::fs::latch::LatchedFs;
use super::fs::{File, Fs, OpenMode, sync_names};
use super::image::{CutPoint, FileImage, GroupImage, Image};
use super::journal::{self, BLOCK, Found, Journal};
use super::manifest::{self, Manifest};
use super::record::Record;
use super::replay::{Replay, decode_records};
use super::segment_file::{self, Expect, SEGMENT_HEADER, Span};
use super::types::*;
use super::{
    Error, Opened, RecoveredGroup, Result, StoreOptions, error, frame, identity, index, store, writer,
};
use crate::mutation::{Mutation, on};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Without an index, an active segment up to this size is checked as a whole at open.
const CHECK_MAX: u64 = 1 << 20;

/// The journal as found.
pub(super) struct Scanned {
    batches: BTreeMap<u64, Found>,
    files: BTreeMap<u64, (Arc<dyn File>, u64)>,
    /// Every number that has a file, obsolete ones too.
    numbers: BTreeSet<u64>,
    /// A file is missing or cut short: batches may be gone without a trace.
    pub(super) is_short: bool,
}

/// One batch of the journal, judged.
pub(crate) enum Judged {
    Good(Vec<Record>),
    Bad(Option<Vec<GroupId>>),
}

/// Opens a data directory on any file system.
pub(crate) fn open_on(fs: Arc<dyn Fs>, mut options: StoreOptions) -> Result<Opened> {
    let fs: Arc<dyn Fs> = Arc::new(LatchedFs(fs));
    let lock = identity::lock(&*fs, &options.dir)?;
    let manifest = identity::load_or_format(&fs, &options)?;
    if options.reserve_bytes == StoreOptions::RESERVE_DEFAULT {
        let space =
            fs.space(&options.dir).map_err(|e| error::failed("ask the space of", &options.dir, &e))?;
        options.reserve_bytes = (space.total / 100).max(64 << 20);
    }
    let dir = options.dir.clone();
    let scanned = scan(&*fs, &dir, &manifest)?;
    let durable = durable_through(&scanned, &manifest);
    let judged = judge(&scanned, &manifest, durable)?;
    let ends = match on(Mutation::TornExtentIsDamage) {
        true => BTreeMap::new(),
        false => ends::find(&*fs, &dir, &manifest.image, &judged, durable)?,
    };
    let dry = Replay::new(&*fs, &dir, manifest.image.clone(), None);
    let survivors = replay_all(dry, &judged, Some(&ends))?.image.files();
    let real = Replay::new(&*fs, &dir, manifest.image.clone(), Some(survivors));
    let mut replay = replay_all(real, &judged, Some(&ends))?;
    if scanned.is_short && !manifest.clean {
        replay.bad_batch(durable + 1, None);
    }
    let doubtful = replay.finish();
    widen_doubt(&*fs, &dir, &mut replay, &doubtful, manifest.image.next_file)?;
    clamp_damage(&mut replay);
    // A log that ends early was cut.
    replay.image.groups.values_mut().for_each(|group| group.cleaned.cut(group.next_offset()));
    let is_lossy = may_have_lost(&*fs, &dir, &manifest, &scanned, &judged)?;
    replay.doubt_loose(&ends, is_lossy);
    identity::check_cluster(replay.image.cluster.as_deref(), &options)?;
    check_groups(&*fs, &dir, &manifest, &mut replay)?;
    let named = manifest.image.files();
    let dirs = tidy(&*fs, &dir, &named, &mut replay)?;
    for note in &replay.notes {
        tracing::warn!(dir = %dir.display(), "{note}");
    }
    let last = scanned.batches.keys().chain(judged.keys()).max().copied().unwrap_or(0);
    let next = last.max(durable).max(manifest.position.sequence) + 1;
    let journal = settle(&fs, &options, &manifest, &scanned, next, &mut replay)?;
    let image = replay.image;
    Ok(assemble(fs, options, image, journal, dirs, lock))
}

pub(super) fn scan(fs: &dyn Fs, dir: &Path, manifest: &Manifest) -> Result<Scanned> {
    let path = identity::journal_dir(dir);
    let failed = |e: io::Error| error::failed("read the journal in", &path, &e);
    let names = match fs.list(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(failed)?,
    };
    let numbers: BTreeSet<u64> = names.iter().filter_map(|n| journal::file_number(n)).collect();
    let first = manifest.position.file;
    let mut scanned = Scanned {
        batches: BTreeMap::new(),
        files: BTreeMap::new(),
        is_short: !numbers.contains(&first),
        numbers,
    };
    if manifest.clean {
        return Ok(scanned);
    }
    let mut expected = first;
    for number in scanned.numbers.range(first..) {
        // Names are made durable one by one, so a gap is a file that was lost.
        scanned.is_short |= *number != expected;
        expected = number + 1;
        let file = fs.open(&path.join(journal::file_name(*number)), OpenMode::Read).map_err(failed)?;
        let salt = journal::salt(manifest.image.directory, manifest.era, *number);
        let len = journal::scan(&*file, *number, salt, &mut scanned.batches).map_err(failed)?;
        scanned.is_short |= len < manifest.journal_file_bytes || !len.is_multiple_of(BLOCK as u64);
        scanned.files.insert(*number, (file, len));
    }
    // What the checkpoint covers is of no interest.
    scanned.batches = scanned.batches.split_off(&manifest.position.sequence);
    Ok(scanned)
}

/// D: the last batch known to have been complete.
pub(super) fn durable_through(scanned: &Scanned, manifest: &Manifest) -> u64 {
    let found = scanned.batches.values().map(|b| b.durable_through).max();
    found.unwrap_or(0).max(manifest.position.sequence - 1)
}

/// Whether writes that were not synced may be gone: the machine has run anew since, storage had failed, or the cache has lost something
/// in this run too (a page whose write-back failed is dropped without a word).
fn may_have_lost(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    scanned: &Scanned,
    judged: &BTreeMap<u64, Judged>,
) -> Result<bool> {
    // One batch may be torn by the end of the process that was writing it; nobody was told of it.
    let end = judged.keys().max().copied().unwrap_or(manifest.position.sequence - 1);
    let is_cut = scanned.batches.keys().max().is_some_and(|last| *last > end + 1);
    if manifest.clean || manifest.boot != fs.boot_id() || is_cut {
        return Ok(!manifest.clean);
    }
    let names = fs.list(dir).map_err(|e| error::failed("list", dir, &e))?;
    // A write-back that failed is told to whoever syncs next, whichever process that is.
    let has_failed = scanned.files.values().any(|(file, _)| file.fdatasync().is_err());
    if has_failed && !names.iter().any(|name| name == identity::FAILED) {
        // It is told once: should this start not come to its end, the next one has to know.
        let path = dir.join(identity::FAILED);
        let made = fs.open(&path, OpenMode::CreateNew).and_then(|_| fs.sync_dir(dir));
        made.map_err(|e| error::failed("create", &path, &e))?;
    }
    Ok(has_failed || names.iter().any(|name| name == identity::FAILED))
}

/// Reads every batch that counts. A batch above the mark is in the answer only if it is whole or damaged;
/// a torn one ends the journal.
pub(super) fn judge(scanned: &Scanned, manifest: &Manifest, durable: u64) -> Result<BTreeMap<u64, Judged>> {
    let mut judged = BTreeMap::new();
    for sequence in manifest.position.sequence.. {
        let verdict = match scanned.batches.get(&sequence) {
            Some(found) => judge_found(scanned, manifest, sequence, found, durable)?,
            // Not one good block: its head may still be readable right behind the batch before.
            None if sequence <= durable || is_lost_batch(scanned, manifest, sequence)? => {
                Some(Judged::Bad(groups_behind(scanned, manifest, sequence)?))
            }
            None => None,
        };
        if on(Mutation::DamageIsEndOfLog) && matches!(verdict, Some(Judged::Bad(_))) {
            break;
        }
        match verdict {
            Some(verdict) => judged.insert(sequence, verdict),
            // Whatever stands behind it was written before it was known to be there: nobody may have been told of it.
            None => break,
        };
    }
    Ok(judged)
}

fn judge_found(
    scanned: &Scanned,
    manifest: &Manifest,
    sequence: u64,
    found: &Found,
    durable: u64,
) -> Result<Option<Judged>> {
    let (file, len) = &scanned.files[&found.file];
    let failed = |e: io::Error| Error::Failed(format!("cannot read journal file {}: {e}", found.file));
    let payload = journal::read_batch(&**file, found).map_err(failed)?;
    let head = journal::parse_head(&payload);
    if found.is_complete() {
        if let Some(records) = decode_records(&payload) {
            let is_cut = head.as_ref().is_some_and(|(head, _)| head.file_bytes > *len);
            if !is_cut {
                return Ok(Some(Judged::Good(records)));
            }
        }
    } else if sequence > durable {
        let salt = journal::salt(manifest.image.directory, manifest.era, found.file);
        let start = found.start;
        if !journal::is_damage(&**file, salt, sequence, start, Some(found.blocks)).map_err(failed)? {
            return Ok(None);
        }
    }
    Ok(Some(Judged::Bad(head.map(|(head, _)| head.groups))))
}

/// Where the batch of a sequence can stand if none of its blocks is good: right behind the one before it,
/// or at the start of the next file.
fn places_of(scanned: &Scanned, manifest: &Manifest, sequence: u64) -> Vec<(u64, u32)> {
    let before = match scanned.batches.get(&(sequence - 1)) {
        Some(found) => (found.file, found.start.saturating_add(found.blocks)),
        None if sequence == manifest.position.sequence => (manifest.position.file, manifest.position.block),
        None => return Vec::new(),
    };
    vec![before, (before.0 + 1, 0)]
}

/// Whether a batch stood right behind the last one and not one block of it is good any more.
fn is_lost_batch(scanned: &Scanned, manifest: &Manifest, sequence: u64) -> Result<bool> {
    if scanned.is_short {
        return Ok(false);
    }
    let failed = |e: io::Error| Error::Failed(format!("cannot read the journal: {e}"));
    for (number, start) in places_of(scanned, manifest, sequence) {
        let salt = journal::salt(manifest.image.directory, manifest.era, number);
        if let Some((file, _)) = scanned.files.get(&number)
            && journal::is_damage(&**file, salt, sequence, start, None).map_err(failed)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The groups a batch without a good block spoke of, if its head can still be read.
fn groups_behind(scanned: &Scanned, manifest: &Manifest, sequence: u64) -> Result<Option<Vec<GroupId>>> {
    let failed = |e: io::Error| Error::Failed(format!("cannot read the journal: {e}"));
    for (number, start) in places_of(scanned, manifest, sequence) {
        let salt = journal::salt(manifest.image.directory, manifest.era, number);
        let Some((file, _)) = scanned.files.get(&number) else { continue };
        let payload = journal::peek_payload(&**file, salt, sequence, start).map_err(failed)?;
        if let Some((head, _)) = payload.as_deref().and_then(journal::parse_head) {
            return Ok(Some(head.groups));
        }
    }
    Ok(None)
}

/// Applies every batch, each group's records as far as its log goes.
pub(crate) fn replay_all<'a>(
    mut replay: Replay<'a>,
    judged: &BTreeMap<u64, Judged>,
    ends: Option<&Ends>,
) -> Result<Replay<'a>> {
    for (sequence, batch) in judged {
        match batch {
            Judged::Good(records) => replay.batch(*sequence, records, ends)?,
            Judged::Bad(groups) => replay.bad_batch(*sequence, groups.as_deref()),
        }
    }
    Ok(replay)
}

/// A lost record may have been a `Cut`. The file it opened is still there and says behind which entry its
/// log went on: from there on, what we have may be what was cut. Not so a file that was made of others, nor one that such a file took the
/// place of, nor one that the manifest knew of (`next_file`): its record stood before what is lost.
fn widen_doubt(
    fs: &dyn Fs,
    dir: &Path,
    replay: &mut Replay<'_>,
    groups: &BTreeSet<GroupId>,
    next_file: u64,
) -> Result<()> {
    let files = replay.image.files();
    for group in groups {
        let Some(image) = replay.image.groups.get(group) else { continue };
        let mut from: Option<Index> = None;
        let path = segment_file::groups_dir(dir).join(&image.dir);
        for name in list_or_none(fs, &path)? {
            let is_known = |n: u64| files.contains(&n) || replay.replaced.contains(&n) || n < next_file;
            if !name.ends_with(".segment") || segment_file::number_of(&name).is_none_or(is_known) {
                continue;
            }
            let mut header = vec![0; SEGMENT_HEADER as usize];
            let read = fs.open(&path.join(&name), OpenMode::Read).and_then(|f| f.pread(&mut header, 0));
            let prev = read.ok().and_then(|_| segment_file::decode_header(&header));
            let prev = prev.filter(|_| !segment_file::is_copy(&header));
            if let Some((_, _, prev)) = prev.filter(|(g, ..)| g == group)
                && prev.index < image.last().index
            {
                let first = prev.index.next().max(image.first());
                from = Some(from.map_or(first, |from| from.min(first)));
            }
        }
        if let Some(from) = from {
            cut_back(fs, dir, replay, *group, from)?;
        }
    }
    Ok(())
}

/// Ends a log before an entry that may have been cut away, or at the first bad frame before it: its replica is in doubt and
/// gets the rest from its leader.
fn cut_back(fs: &dyn Fs, dir: &Path, replay: &mut Replay<'_>, group: GroupId, from: Index) -> Result<()> {
    let number = replay.image.next_file.max(highest_file(fs, dir)? + 1);
    let Some(image) = replay.image.groups.get_mut(&group) else { return Ok(()) };
    let at = image.files.partition_point(|f| f.first() <= from).saturating_sub(1);
    let file = image.files[at].clone();
    let (last, next_offset) = (file.prev, file.base_offset);
    let mut cut = CutPoint { last, next_offset, file: 0, end: 0, max_timestamp: -1 };
    let path = segment_file::path(dir, &image.dir, file.number);
    if from > file.first()
        && let Ok(handle) = fs.open(&path, OpenMode::Read)
    {
        let expect = Expect::After(file.prev, file.base_offset);
        let all = Span { from: SEGMENT_HEADER, stop: file.end, end: file.end };
        // Where reading fails the log ends; and before a gap that it would end in.
        let _ = segment_file::read_raw(&*handle, group, all, expect, true, |head, byte, bytes| {
            if head.last().index >= from {
                return Err("behind the cut");
            }
            let payload = &bytes[frame::FRAME_HEADER..];
            let max_timestamp = match head.is_gap {
                true => cut.max_timestamp,
                false => frame::max_timestamp(head.meta.kind, payload).max(cut.max_timestamp),
            };
            let (last, next_offset, end) = (head.last(), head.next_offset(), byte + head.len());
            cut = CutPoint { last, next_offset, file: file.number, end, max_timestamp };
            Ok(())
        });
    }
    replay.notes.push(format!(
        "group {group}: entries from {from} on may have been cut; its log ends at {}",
        cut.last
    ));
    if cut.last.index < image.log_start.prev.index {
        let start = image.log_start.clone();
        image.install(&start, number);
    } else {
        image.cut(&cut, number);
    }
    replay.image.next_file = number + 1;
    replay.open(group, number).map(|_| ())
}

/// Damage reaches to the end of the log at most: what is missing behind it is the leader's to send.
pub(super) fn clamp_damage(replay: &mut Replay<'_>) {
    for image in replay.image.groups.values_mut() {
        let last = image.last().index;
        let clamp = |(first, to): (Index, Index)| (first <= last).then_some((first, to.min(last)));
        image.needs_repair = image.needs_repair.and_then(clamp);
    }
}

/// Checks that every file is there as far as the manifest vouches for it, and that appends have a place
/// where nothing was ever written.
fn check_groups(fs: &dyn Fs, dir: &Path, manifest: &Manifest, replay: &mut Replay<'_>) -> Result<()> {
    let groups: Vec<GroupImage> = replay.image.groups.values().cloned().collect();
    for group in groups {
        let marked = manifest.image.groups.get(&group.group);
        for file in &group.files {
            let mark = replay.vouched(marked, file);
            check_file(fs, dir, &group, file, mark, replay)?;
        }
        let is_soiled =
            !manifest.clean && !on(Mutation::OverwriteLeftovers) && has_leftovers(fs, dir, &group)?;
        let path = segment_file::path(dir, &group.dir, group.active().number);
        let is_short = match fs.open(&path, OpenMode::Read).and_then(|f| f.len()) {
            Ok(len) => len < group.active().end,
            Err(_) => true,
        };
        if is_soiled || (is_short && !group.active().is_empty()) {
            let number = replay.image.next_file.max(highest_file(fs, dir)? + 1);
            replay.image.next_file = number + 1;
            if let Some(g) = replay.image.groups.get_mut(&group.group) {
                g.open(number);
            }
            replay.open(group.group, number)?;
        } else if is_short {
            replay.open(group.group, group.active().number)?;
        }
    }
    Ok(())
}

/// Checks the part of a file that the manifest vouches for: that it is there, and its last frames.
fn check_file(
    fs: &dyn Fs,
    dir: &Path,
    group: &GroupImage,
    file: &FileImage,
    mark: u64,
    replay: &mut Replay<'_>,
) -> Result<()> {
    if mark <= SEGMENT_HEADER {
        return Ok(());
    }
    let path = segment_file::path(dir, &group.dir, file.number);
    let handle = match fs.open(&path, OpenMode::Read) {
        Ok(handle) => handle,
        // A shortage says nothing of the file.
        Err(e) if error::is_busy(&e) => return Err(error::failed("open", &path, &e)),
        Err(e) => {
            replay.damage(group.group, file.first(), file.last.index, format!("{}: {e}", path.display()));
            return Ok(());
        }
    };
    let len = handle.len().map_err(|e| error::failed("read", &path, &e))?;
    let is_active = file.number == group.active().number;
    let (from, expect, mut next) = if len < mark {
        start_of(file)
    } else if !is_active {
        return Ok(());
    } else {
        let index_path = segment_file::index_path(dir, &group.dir, file.number);
        let run = index::load(fs, &index_path, file.number, SEGMENT_HEADER);
        match run.slots.iter().rfind(|s| s.byte < mark) {
            Some(slot) => (slot.byte, Expect::Index(slot.index), slot.index),
            None if mark <= CHECK_MAX => start_of(file),
            None => return Ok(()),
        }
    };
    let read = |from, expect, next: &mut Index| {
        segment_file::read_frames(&*handle, group.group, (from, mark), expect, true, |meta, _, _| {
            *next = meta.id.index.next();
        })
    };
    let mut result = read(from, expect, &mut next);
    if !matches!(result, Ok((_, None))) && from != SEGMENT_HEADER {
        // It may be the index that is wrong; the segment itself decides.
        let (from, expect, first) = start_of(file);
        next = first;
        result = read(from, expect, &mut next);
    }
    let why = match result {
        Ok((_, None)) => return Ok(()),
        Ok((_, Some(why))) => why.to_owned(),
        Err(e) => e.to_string(),
    };
    let first = next.max(group.first());
    if first <= file.last.index {
        replay.damage(group.group, first, file.last.index, format!("{}: {why}", path.display()));
    }
    Ok(())
}

pub(super) fn start_of(file: &FileImage) -> (u64, Expect, Index) {
    (SEGMENT_HEADER, Expect::After(file.prev, file.base_offset), file.first())
}

/// Whether anything but zeros stands behind the end of the active file: extents of a round that never
/// completed. The log then goes on in a new file, so that no byte is ever written twice.
fn has_leftovers(fs: &dyn Fs, dir: &Path, group: &GroupImage) -> Result<bool> {
    let active = group.active();
    let path = segment_file::path(dir, &group.dir, active.number);
    let handle = match fs.open(&path, OpenMode::Read) {
        Ok(handle) => handle,
        Err(e) if error::is_busy(&e) => return Err(error::failed("open", &path, &e)),
        Err(_) => return Ok(false),
    };
    let mut buffer = vec![0; 256 << 10];
    let mut at = active.end;
    loop {
        let n = handle.pread(&mut buffer, at).map_err(|e| error::failed("read", &path, &e))?;
        if buffer[..n].iter().any(|b| *b != 0) {
            return Ok(true);
        }
        if n < buffer.len() {
            return Ok(false);
        }
        at += n as u64;
    }
}

fn highest_file(fs: &dyn Fs, dir: &Path) -> Result<u64> {
    let root = segment_file::groups_dir(dir);
    let mut highest = 0;
    for name in list_or_none(fs, &root)? {
        for file in list_or_none(fs, &root.join(name))? {
            highest = highest.max(segment_file::number_of(&file).unwrap_or(0));
        }
    }
    Ok(highest)
}

fn list_or_none(fs: &dyn Fs, path: &Path) -> Result<Vec<String>> {
    match fs.list(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        other => other.map_err(|e| error::failed("list", path, &e)),
    }
}

/// Removes files nothing vouches for, unless something was damaged: then both sides are kept, and groups
/// whose directories are left over are suspected to have existed. `named`: files of the manifest. Answers the directory names in use.
fn tidy(fs: &dyn Fs, dir: &Path, named: &BTreeSet<u64>, replay: &mut Replay<'_>) -> Result<HashSet<String>> {
    let root = segment_file::groups_dir(dir);
    let highest = highest_file(fs, dir)?;
    replay.image.next_file = replay.image.next_file.max(highest + 1);
    let files = replay.image.files();
    let claimed: BTreeSet<String> = replay.image.groups.values().map(|g| g.dir.clone()).collect();
    let is_reopened = |g: &&super::image::GroupImage| g.hard_state.opening.is_some();
    let reopened: BTreeSet<String> =
        replay.image.groups.values().filter(is_reopened).map(|g| g.dir.clone()).collect();
    let mut dirs = HashSet::new();
    for name in list_or_none(fs, &root)? {
        let path = root.join(&name);
        let is_claimed = claimed.contains(&name);
        if replay.is_damaged {
            if !is_claimed && !name.ends_with(".removed") {
                let base = name.rsplit_once('.').map_or(name.as_str(), |(base, _)| base);
                replay.image.suspects.insert(base.to_owned());
                replay.image.suspects.insert(name.clone());
            }
            dirs.insert(name);
            continue;
        }
        let names = list_or_none(fs, &path)?;
        let is_marked = names.iter().any(|file| file == segment_file::KEPT);
        let is_kept = reopened.contains(&name) || (is_marked && !is_claimed);
        for file in names {
            let is_ours = segment_file::number_of(&file).is_some_and(|n| !is_claimed || !files.contains(&n));
            // One that another took the place of holds nothing that this one does not.
            let is_replaced = segment_file::number_of(&file).is_some_and(|n| replay.replaced.contains(&n));
            let is_kept = is_kept && !is_replaced && file.ends_with(".segment");
            if is_ours && is_kept && !is_leftover(fs, &path.join(&file), named, replay) {
                // It may hold what the group's new generation does not: a crash came before it was set aside.
                let file = path.join(file);
                let aside = segment_file::fenced_path(&file);
                fs.rename(&file, &aside).map_err(|e| error::failed("set aside", &file, &e))?;
            } else if is_ours {
                let file = path.join(file);
                fs.unlink(&file).map_err(|e| error::failed("unlink", &file, &e))?;
            }
        }
        if is_marked {
            let mark = path.join(segment_file::KEPT);
            let done = sync_names(fs, &path).and_then(|()| fs.unlink(&mark));
            done.map_err(|e| error::failed("unlink", &mark, &e))?;
        }
        // What is not ours stays, and keeps its directory.
        if is_claimed || fs.remove_dir(&path).is_err() {
            dirs.insert(name);
        }
    }
    Ok(dirs)
}

/// Whether it is what a compaction or a repair wrote and no record or manifest ever named: no log held it.
fn is_leftover(fs: &dyn Fs, file: &Path, named: &BTreeSet<u64>, replay: &Replay<'_>) -> bool {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_named = |number: u64| named.contains(&number) || replay.copies.contains(&number);
    let mut header = vec![0; SEGMENT_HEADER as usize];
    let read = fs.open(file, OpenMode::Read).and_then(|file| file.pread(&mut header, 0));
    segment_file::number_of(&name).is_some_and(|number| !is_named(number))
        && read.is_ok()
        && segment_file::decode_header(&header).is_some()
        && segment_file::is_copy(&header)
}

/// Makes what was recovered durable: segments, a fresh journal file, a manifest that names both.
fn settle(
    fs: &Arc<dyn Fs>,
    options: &StoreOptions,
    manifest: &Manifest,
    scanned: &Scanned,
    next_sequence: u64,
    replay: &mut Replay<'_>,
) -> Result<(Journal, u64)> {
    let dir = &options.dir;
    let touched = std::mem::take(&mut replay.touched);
    let mut dirs: BTreeSet<_> = [segment_file::groups_dir(dir)].into();
    let mut files = Vec::new();
    for (number, touched) in touched {
        let group = replay.image.groups.get(&touched.group);
        let Some(file) = group.and_then(|g| g.files.iter().find(|f| f.number == number)) else { continue };
        let header = segment_file::encode_header(touched.group, file);
        let path = touched.dir.join(format!("{number:016x}.segment"));
        touched.handle.pwrite(&header, 0).map_err(|e| error::failed("write", &path, &e))?;
        if !on(Mutation::SkipSyncAtRecovery) {
            files.push(touched.handle);
        }
        dirs.insert(touched.dir);
    }
    let journals = identity::journal_dir(dir);
    fs.create_dir(&journals).map_err(|e| error::failed("create", &journals, &e))?;
    let number = scanned.numbers.last().copied().unwrap_or(0).max(manifest.position.file) + 1;
    let era = manifest.era + 1;
    let identity = (manifest.image.directory, era);
    let bytes = options.journal_file_bytes;
    let journal = Journal::create(fs.clone(), journals.clone(), identity, bytes, number, next_sequence);
    let mut journal = journal.map_err(|e| error::failed("create a journal file in", &journals, &e))?;
    let names = fs.list(dir).map_err(|e| error::failed("list", dir, &e))?;
    let newest = names.iter().filter_map(|n| manifest::sequence_of(n)).max();
    let sequence = newest.unwrap_or(0).max(manifest.sequence) + 1;
    let fresh = Manifest {
        sequence,
        era,
        position: journal.position(),
        journal_file_bytes: journal.file_bytes(),
        clean: false,
        boot: fs.boot_id(),
        image: replay.image.clone(),
    };
    dirs.insert(dir.clone());
    let (fs_of_job, manifest) = (fs.clone(), fresh.encode());
    let job = Job { fs: fs_of_job, dir: dir.clone(), files, dirs, sequence, manifest, side_by_side: AT_OPEN };
    job.run()?;
    match fs.unlink(&dir.join(identity::FAILED)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error::failed("tidy", dir, &e)),
        _ => {}
    }
    journal.adopt(scanned.numbers.iter().copied());
    journal.free_before(number).map_err(|e| error::failed("free journal files in", &journals, &e))?;
    Ok((journal, sequence))
}

fn assemble(
    fs: Arc<dyn Fs>,
    options: StoreOptions,
    image: Image,
    (journal, manifest_sequence): (Journal, u64),
    dirs: HashSet<String>,
    lock: Arc<Box<dyn Send + Sync>>,
) -> Opened {
    let groups = image.groups.values().map(recovered).collect();
    let journal_need = Arc::new(AtomicU64::new(journal.need()));
    let (directory, cluster) = (image.directory, image.cluster.clone());
    let store = store::Store::new(store::Parts {
        fs: fs.clone(),
        options: options.clone(),
        groups: image.groups.values().cloned().collect(),
        cluster: cluster.clone(),
        suspects: image.suspects.iter().cloned().collect(),
        dirs,
        next_file: image.next_file,
        journal_need: journal_need.clone(),
        lock: lock.clone(),
    });
    let parts = writer::Parts { fs, options, image, journal, manifest_sequence, journal_need, lock };
    let writer = writer::Writer::new(parts);
    Opened { store, writer, groups, directory, cluster }
}

pub(super) fn recovered(image: &GroupImage) -> RecoveredGroup {
    RecoveredGroup {
        group: image.group,
        name: image.name.clone(),
        replica: image.replica,
        hard_state: image.hard_state,
        log_start: image.log_start.clone(),
        last: image.last(),
        next_offset: image.next_offset(),
        epochs: image.terms.epochs(image.last().index),
        configurations: image.configurations.clone(),
        needs_repair: image.needs_repair,
    }
}
