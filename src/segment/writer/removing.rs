//! What the back half takes away: files that nobody needs any more, directories of groups that are gone, and what stays of those. Driven by
//! `writer`, never before the record that says so is durable, or a manifest names what took a file's place.

use super::super::fs::sync_names;
use super::super::round::Remains;
use super::super::{Result, error, segment_file};
use super::Writer;
use std::io;
use std::path::{Path, PathBuf};

impl Writer {
    /// Before a checkpoint: a file that neither a manifest nor a record behind it names looks like what no log ever held, and a start unlinks
    /// that. So what is to be kept has its other name by then.
    pub(super) fn settle_aside(&mut self) -> Result<()> {
        if self.syncing.has_aside() {
            self.finish_syncs()?;
        }
        let keeps = self.remove_dirs.iter().any(|(_, remains)| *remains != Remains::Nothing);
        if keeps || !self.aside.is_empty() { self.remove_files() } else { Ok(()) }
    }

    pub(super) fn remove_files(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.aside) {
            let aside = segment_file::fenced_path(&path);
            gone(self.fs.rename(&path, &aside)).map_err(|e| error::failed("set aside", &path, &e))?;
        }
        for path in std::mem::take(&mut self.unlink) {
            gone(self.fs.unlink(&path)).map_err(|e| error::failed("unlink", &path, &e))?;
        }
        for (dir, remains) in std::mem::take(&mut self.remove_dirs) {
            if remains == Remains::Nothing {
                self.remove_dir(&dir)?;
            } else {
                self.leave(&dir, remains).map_err(|e| error::failed("clear", &dir, &e))?;
            }
        }
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        let mut removed = dir.to_owned().into_os_string();
        removed.push(".removed");
        let removed = PathBuf::from(removed);
        gone(self.fs.rename(dir, &removed)).map_err(|e| error::failed("rename", dir, &e))?;
        for name in self.fs.list(&removed).unwrap_or_default() {
            let path = removed.join(name);
            gone(self.fs.unlink(&path)).map_err(|e| error::failed("unlink", &path, &e))?;
        }
        gone(self.fs.remove_dir(&removed)).map_err(|e| error::failed("remove", &removed, &e))
    }

    /// Takes a directory out of use. What stays keeps its place: operators know it by that.
    fn leave(&self, dir: &Path, remains: Remains) -> io::Result<()> {
        let names = self.fs.list(dir).unwrap_or_default();
        for name in names.iter().filter(|name| *name != segment_file::KEPT) {
            let path = dir.join(name);
            match remains {
                _ if name.ends_with(segment_file::FENCED) => {}
                Remains::Log if name.ends_with(".segment") => {
                    self.fs.rename(&path, &segment_file::fenced_path(&path))?;
                }
                _ => gone(self.fs.unlink(&path))?,
            }
        }
        if names.iter().any(|name| name == segment_file::KEPT) {
            error::patiently(|| sync_names(&*self.fs, dir))?;
            gone(self.fs.unlink(&dir.join(segment_file::KEPT)))?;
        }
        match self.fs.list(dir) {
            Ok(left) if left.is_empty() => gone(self.fs.remove_dir(dir)),
            _ => Ok(()),
        }
    }
}

/// What is to go may be gone already: a crash came between.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
