//! Whose a data directory is: lock, formatting, checks. Called by `recovery` before anything is read for
//! its content. The identity itself (uuid, node, cluster) stands in the manifest, twice and checksummed.
//!
//! * A directory without a sound manifest is formatted only if it is empty or if formatting it never
//!   finished: a lost manifest must not look like a new directory.

use super::error::failed;
use super::fs::{Fs, OpenMode};
use super::image::Image;
use super::journal::Journal;
use super::manifest::{self, Manifest};
use super::{Error, Result, StoreOptions, segment_file};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "lock";
const FORMATTING: &str = "formatting";
const JOURNAL: &str = "journal";
/// There since a write or a sync failed, until the next start.
pub(crate) const FAILED: &str = "failed";

/// Directory of the journal.
pub(crate) fn journal_dir(dir: &Path) -> PathBuf {
    dir.join(JOURNAL)
}

/// Takes the directory for this process.
pub(crate) fn lock(fs: &dyn Fs, dir: &Path) -> Result<Arc<Box<dyn Send + Sync>>> {
    fs.create_dir(dir).map_err(|e| refused_io("create", dir, &e))?;
    match fs.lock(&dir.join(LOCK)) {
        Ok(Some(guard)) => Ok(Arc::new(guard)),
        Ok(None) => Err(Error::Refused(format!(
            "data directory {} is in use by another process: stop it, or give this node a directory of its own",
            dir.display()
        ))),
        Err(e) => Err(refused_io("lock", dir, &e)),
    }
}

fn refused_io(what: &str, dir: &Path, e: &io::Error) -> Error {
    Error::Refused(format!("cannot {what} data directory {}: {e}", dir.display()))
}

/// The manifest of the directory; a new directory is formatted first.
pub(crate) fn load_or_format(fs: &Arc<dyn Fs>, options: &StoreOptions) -> Result<Manifest> {
    let dir = &options.dir;
    let names = fs.list(dir).map_err(|e| refused_io("list", dir, &e))?;
    let is_unfinished = names.iter().any(|n| n == FORMATTING);
    match manifest::load(&**fs, dir) {
        Ok(Some(manifest)) => {
            if is_unfinished {
                end_formatting(&**fs, dir)?;
            }
            check_node(&manifest, options)?;
            Ok(manifest)
        }
        Ok(None) if is_unfinished => format(fs, options),
        Err(Error::Refused(_)) if is_unfinished => format(fs, options),
        Ok(None) => {
            let ours = ["journal", "groups"];
            if names.iter().any(|n| ours.contains(&n.as_str())) {
                return Err(Error::Refused(format!(
                    "data directory {} holds data but no manifest, so what it holds cannot be known: restore \
                     the manifest files, or start this node with an empty directory so that its replicas are \
                     placed anew",
                    dir.display()
                )));
            }
            format(fs, options)
        }
        Err(error) => Err(error),
    }
}

fn check_node(manifest: &Manifest, options: &StoreOptions) -> Result<()> {
    let found = manifest.image.node;
    if found == options.identity.node {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "data directory {} belongs to node {found}, not to node {}: start it as node {found}, or give this node \
         a directory of its own",
        options.dir.display(),
        options.identity.node
    )))
}

/// Refuses a directory of another cluster. Asked once the journal has been read: the id may stand there.
pub(crate) fn check_cluster(found: Option<&str>, options: &StoreOptions) -> Result<()> {
    match (found, options.identity.cluster.as_deref()) {
        (Some(found), Some(wanted)) if found != wanted => Err(Error::Refused(format!(
            "data directory {} belongs to cluster {found}, not to {wanted}: start this node with another \
             directory",
            options.dir.display()
        ))),
        _ => Ok(()),
    }
}

/// Makes a new directory. The marker goes last: while it stands, nothing of value can be there.
fn format(fs: &Arc<dyn Fs>, options: &StoreOptions) -> Result<Manifest> {
    let dir = &options.dir;
    let io = |e: io::Error| failed("format", dir, &e);
    match fs.open(&dir.join(FORMATTING), OpenMode::CreateNew) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(refused_io("write to", dir, &e)),
        _ => {}
    }
    fs.sync_dir(dir).map_err(io)?;
    if let Some(parent) = dir.parent() {
        // The directory itself may be new; a parent that cannot be synced (a mount root) is no reason to stop.
        let _ = fs.sync_dir(parent);
    }
    for name in fs.list(dir).map_err(io)? {
        if manifest::sequence_of(name.strip_suffix(".new").unwrap_or(&name)).is_some() {
            fs.unlink(&dir.join(name)).map_err(io)?;
        }
    }
    let journals = journal_dir(dir);
    let groups = segment_file::groups_dir(dir);
    for path in [&journals, &groups] {
        fs.create_dir(path).map_err(io)?;
    }
    for name in fs.list(&journals).map_err(io)? {
        fs.unlink(&journals.join(name)).map_err(io)?;
    }
    fs.sync_dir(&journals).map_err(io)?;
    let directory = fs.entropy();
    let (era, number, sequence) = (1, 1, 1);
    let bytes = options.journal_file_bytes;
    let journal =
        Journal::create(fs.clone(), journals, (directory, era), bytes, number, sequence).map_err(io)?;
    let mut image = Image::new(options.identity.node, directory);
    image.cluster = options.identity.cluster.clone();
    let manifest = Manifest {
        sequence: 1,
        era,
        position: journal.position(),
        journal_file_bytes: journal.file_bytes(),
        clean: true,
        boot: fs.boot_id(),
        image,
    };
    manifest::write(&**fs, dir, manifest.sequence, &manifest.encode())?;
    end_formatting(&**fs, dir)?;
    Ok(manifest)
}

fn end_formatting(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.unlink(&dir.join(FORMATTING)).map_err(|e| failed("format", dir, &e))?;
    fs.sync_dir(dir).map_err(|e| failed("format", dir, &e))
}
