//! Keeping what a group's new generation does not hold: entries that are about to be cut get a copy, files that are about
//! to be dropped another name (safety.md F24: never silently deleted).
//!
//! Not here: when that is called for (`raftlog`). Called right before the cut or the install that drops them. Invariants:
//! a copy is durable before the cut is queued; a file gets its name when the record that drops it is durable, and after a
//! crash before that at the next start. `kontiki dump` reads either as any segment; nothing else does, and only an
//! operator removes them.

use super::Store;
use crate::segment::fs::{OpenMode, sync_names};
use crate::segment::image::FileImage;
use crate::segment::types::*;
use crate::segment::{Error, Result, error, frame, segment_file};
use std::io::IoSlice;
use std::path::Path;

/// Payload read at a time.
const CHUNK: usize = 1 << 20;

impl Store {
    /// Entries from `from` on are about to be cut, or the log replaced. Blocks while the rest of one segment is copied.
    pub fn set_aside(&mut self, group: GroupId, from: Index) -> Result<()> {
        self.ready()?;
        let g = self.group_mut(group)?;
        if from > g.image.last().index {
            return Ok(());
        }
        let from = from.max(g.image.first());
        g.is_aside = true;
        let file = g.image.files[g.file_of(from)].clone();
        if from <= file.first() {
            // Whole files only: they keep their bytes under another name.
            return Ok(());
        }
        let copied = self.copy_aside(group, &file, from);
        copied.map_err(|e| self.latch(e))
    }

    /// Copies a file's entries from `from` on to a file that begins with them.
    fn copy_aside(&mut self, group: GroupId, file: &FileImage, from: Index) -> Result<()> {
        let g = self.group(group)?;
        let segment = segment_file::path(&self.options.dir, &g.image.dir, file.number);
        let name = segment.with_extension(format!("{from}.segment"));
        let path = segment_file::fenced_path(&name);
        let failed = |e: std::io::Error| error::failed("set aside", &path, &e);
        let before = self.meta_at(group, from)?;
        let image = FileImage::new(file.number, before.predecessor(), before.base_offset);
        let fs = self.fs.clone();
        // Under another name until it is whole: a crash may have left half a copy.
        let unfinished = path.with_extension("new");
        match fs.unlink(&unfinished) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let copy = fs.open(&unfinished, OpenMode::CreateNew).map_err(failed)?;
        copy.pwritev(&[IoSlice::new(&segment_file::encode_header(group, &image))], 0).map_err(failed)?;
        let (mut at, mut next) = (segment_file::SEGMENT_HEADER, from);
        while next <= file.last.index {
            let entries = match self.read(group, next, CHUNK) {
                Err(Error::Damaged(why)) => {
                    tracing::error!(%group, %next, why, "entries to be set aside are damaged; their file is copied as it is");
                    self.copy_as_it_is(&segment, &segment.with_extension(format!("{from}.damaged")))?;
                    break;
                }
                read => read?,
            };
            let Some(last) = entries.last().map(|entry| entry.meta.id.index) else {
                return Err(Error::OutOfRange);
            };
            for Entry { meta, payload } in entries.iter().filter(|e| e.meta.id.index <= file.last.index) {
                let header = frame::encode_header(group, meta, payload);
                copy.pwritev(&[IoSlice::new(&header), IoSlice::new(payload)], at).map_err(failed)?;
                at += frame::frame_len(meta.payload_len);
            }
            next = last.next();
        }
        copy.fdatasync().map_err(failed)?;
        fs.rename(&unfinished, &path).map_err(failed)?;
        sync_names(&*fs, path.parent().unwrap_or(&self.options.dir)).map_err(failed)
    }

    /// Bytes of a file that cannot be read entry by entry, for whoever may make something of them.
    fn copy_as_it_is(&mut self, segment: &Path, name: &Path) -> Result<()> {
        let path = segment_file::fenced_path(name);
        let failed = |e: std::io::Error| error::failed("set aside", &path, &e);
        let fs = self.fs.clone();
        match fs.unlink(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let copy = fs.open(&path, OpenMode::CreateNew).map_err(failed)?;
        let Ok(from) = fs.open(segment, OpenMode::Read) else { return Ok(()) };
        let (mut at, mut bytes) = (0, vec![0; CHUNK]);
        // A sector that is gone ends it: nothing more is to be had.
        while let Ok(read @ 1..) = from.pread(&mut bytes, at) {
            copy.pwritev(&[IoSlice::new(&bytes[..read])], at).map_err(failed)?;
            at += read as u64;
        }
        copy.fdatasync().map_err(failed)
    }
}
