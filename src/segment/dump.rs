//! `kontiki dump`: prints everything a data directory holds, of a stopped or a running node, and verifies
//! every checksum on the way. Read-only, takes no lock, repairs nothing. Not here: recovery, command line.
//!
//! * One line per thing, as text (`kind key=value ...`) or as a JSON object.
//! * What cannot be vouched for yet (the tail of the journal, frames behind the checkpoint's mark) is shown
//!   but is no problem; what a checkpoint or a complete batch vouches for and is bad, is.
//! * A running node may take a checkpoint meanwhile: then the dump begins again.

use super::fs::posix::PosixFs;
use super::fs::{Fs, OpenMode};
use super::image::{FileImage, GroupImage, Image};
use super::index::{decode_chunk, read_whole};
use super::journal::{self, BLOCK, Found};
use super::manifest::{self, Bad, Manifest};
use super::record::Record;
use super::replay::{Replay, decode_records};
use super::segment_file::{self, Expect, SEGMENT_HEADER};
use super::types::*;
use super::{Error, Result, error, frame, identity};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// JSON lines instead of text.
    pub json: bool,
    /// One line per entry of every segment, not only a summary per file.
    pub entries: bool,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpReport {
    /// Everything that does not check out; empty if all is sound.
    pub problems: Vec<String>,
    /// Groups seen.
    pub groups: usize,
    /// Entries whose checksum was verified, in segments.
    pub entries: u64,
    /// Batches of the journal that were verified.
    pub batches: u64,
}

impl DumpReport {
    /// Whether all is sound.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Prints and verifies a data directory.
///
/// # Errors
/// `Refused` if it is no data directory, or one of a newer format; `Failed` if it cannot be read or the
/// output cannot be written. Damage is no error: it is in the report.
pub fn dump(dir: &Path, out: &mut impl Write, options: DumpOptions) -> Result<DumpReport> {
    dump_on(&PosixFs, dir, out, options)
}

/// [`dump`] on any file system.
///
/// # Errors
/// As [`dump`].
pub fn dump_on(fs: &dyn Fs, dir: &Path, out: &mut impl Write, options: DumpOptions) -> Result<DumpReport> {
    const TRIES: usize = 5;
    let mut tries = 0;
    loop {
        tries += 1;
        let before = newest(fs, dir)?;
        let mut dump = Dump { fs, dir, out: &mut *out, options, report: DumpReport::default() };
        dump.run()?;
        let report = dump.report;
        if report.is_sound() || tries == TRIES || newest(fs, dir)? == before {
            return Ok(report);
        }
        let mut again = Dump { fs, dir, out: &mut *out, options, report: DumpReport::default() };
        again.line("again", json!({"why": "a checkpoint was taken meanwhile"}))?;
    }
}

/// Newest manifest by name: it changes with every checkpoint.
fn newest(fs: &dyn Fs, dir: &Path) -> Result<Option<u64>> {
    let names = fs.list(dir).map_err(|e| error::failed("list", dir, &e))?;
    Ok(names.iter().filter_map(|n| manifest::sequence_of(n)).max())
}

struct Dump<'a, W: Write> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    out: &'a mut W,
    options: DumpOptions,
    report: DumpReport,
}

impl<W: Write> Dump<'_, W> {
    fn line(&mut self, kind: &str, fields: Value) -> Result<()> {
        let Value::Object(fields) = fields else {
            unreachable!("every line is an object");
        };
        let text = if self.options.json {
            let mut object = serde_json::Map::new();
            object.insert("kind".into(), kind.into());
            object.extend(fields);
            Value::Object(object).to_string()
        } else {
            let plain = |v: Value| match v {
                Value::String(text) => text,
                other => other.to_string(),
            };
            fields.into_iter().fold(kind.to_owned(), |text, (key, v)| format!("{text} {key}={}", plain(v)))
        };
        writeln!(self.out, "{text}").map_err(|e| Error::Failed(format!("cannot write the dump: {e}")))
    }

    fn problem(&mut self, text: String) -> Result<()> {
        self.line("problem", json!({"what": text}))?;
        self.report.problems.push(text);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let Some(manifest) = self.manifests()? else {
            return Ok(());
        };
        let image = self.journal(&manifest)?;
        self.report.groups = image.groups.len();
        for group in image.groups.values() {
            self.group(group)?;
            let marked = manifest.image.groups.get(&group.group);
            for file in &group.files {
                let mark = marked.and_then(|g| g.files.iter().find(|f| f.number == file.number));
                let mark = mark.map_or(SEGMENT_HEADER, |m| m.end).min(file.end);
                self.segment(group, file, mark)?;
                self.index(group, file)?;
            }
        }
        Ok(())
    }

    /// Every copy of every manifest; answers the one a restart would take.
    fn manifests(&mut self) -> Result<Option<Manifest>> {
        let mut names = self.fs.list(self.dir).map_err(|e| error::failed("list", self.dir, &e))?;
        names.retain(|n| manifest::sequence_of(n).is_some());
        names.sort_by(|a, b| b.cmp(a));
        if names.is_empty() {
            let text = format!("{} is no data directory: it has no manifest", self.dir.display());
            return Err(Error::Refused(text));
        }
        let mut chosen: Option<Manifest> = None;
        for name in names {
            let read = read_whole(self.fs, &self.dir.join(&name));
            match read.map(|bytes| Manifest::decode(&bytes)) {
                Ok(Ok(manifest)) => {
                    self.line("manifest", manifest_line(&name, &manifest))?;
                    chosen = chosen.or(Some(manifest));
                }
                Ok(Err(Bad::Newer(version))) => {
                    let text = format!("{name} has format {version}, which is newer than this program");
                    return Err(Error::Refused(text));
                }
                Ok(Err(Bad::Damaged(why))) => self.problem(format!("{name}: {why}"))?,
                Err(e) => self.problem(format!("{name}: {e}"))?,
            }
        }
        Ok(chosen)
    }

    /// Every batch a restart would read; answers the directory as it is after them.
    fn journal(&mut self, manifest: &Manifest) -> Result<Image> {
        let path = identity::journal_dir(self.dir);
        let mut names = self.fs.list(&path).map_err(|e| error::failed("list", &path, &e))?;
        names.sort();
        let mut found = BTreeMap::new();
        let mut files = BTreeMap::new();
        let mut again = BTreeMap::new();
        for number in names.iter().filter_map(|n| journal::file_number(n)) {
            let name = path.join(journal::file_name(number));
            // A file freed meanwhile is none of a restart's business.
            let Ok(file) = self.fs.open(&name, OpenMode::Read) else { continue };
            let salt = journal::salt(manifest.image.directory, manifest.era, number);
            let len = journal::scan(&*file, number, salt, &mut found);
            let len = len.map_err(|e| error::failed("read", &name, &e))?;
            self.line(
                "journal",
                json!({"file": number, "bytes": len, "needed": number >= manifest.position.file}),
            )?;
            if number >= manifest.position.file && len < manifest.journal_file_bytes {
                let short = format!("{}: {len} bytes, not {}", name.display(), manifest.journal_file_bytes);
                self.problem(short)?;
            }
            files.insert(number, file);
        }
        if !files.contains_key(&manifest.position.file) {
            self.problem(format!("journal file {} is missing", manifest.position.file))?;
        }
        // The mark of a first look, the batches of a second: what was complete when the mark was written is
        // seen by the second look even if a running node wrote it during the first.
        let marks = found.split_off(&manifest.position.sequence).into_values().map(|b| b.durable_through);
        let durable = marks.max().unwrap_or(0).max(manifest.position.sequence - 1);
        for (number, file) in &files {
            let salt = journal::salt(manifest.image.directory, manifest.era, *number);
            let name = path.join(journal::file_name(*number));
            let file: &std::sync::Arc<dyn super::fs::File> = file;
            journal::scan(&**file, *number, salt, &mut again)
                .map_err(|e| error::failed("read", &name, &e))?;
        }
        let found = again.split_off(&manifest.position.sequence);
        let mut replay = Replay::new(self.fs, self.dir, manifest.image.clone(), None);
        for sequence in manifest.position.sequence..=durable.max(found.keys().max().copied().unwrap_or(0)) {
            let batch = found.get(&sequence);
            let file = batch.map(|b| &files[&b.file]);
            if !self.batch(sequence, batch.zip(file), durable, &mut replay)? {
                // Whatever stands behind a batch that is not whole never happened.
                break;
            }
        }
        let _doubtful = replay.finish();
        Ok(replay.image)
    }

    fn batch(
        &mut self,
        sequence: u64,
        found: Option<(&Found, &std::sync::Arc<dyn super::fs::File>)>,
        durable: u64,
        replay: &mut Replay<'_>,
    ) -> Result<bool> {
        let payload = found.and_then(|(batch, file)| journal::read_batch(&**file, batch).ok());
        let is_whole = found.is_some_and(|(batch, _)| batch.is_complete());
        let records = payload.as_ref().filter(|_| is_whole).and_then(decode_records);
        let state = match (&records, sequence <= durable) {
            (Some(_), _) => "good",
            (None, true) => "damaged",
            (None, false) => "incomplete",
        };
        let (file, block, blocks) = found.map_or((0, 0, 0), |(b, _)| (b.file, b.start, b.blocks));
        self.line(
            "batch",
            json!({"sequence": sequence, "file": file, "byte": u64::from(block) * BLOCK as u64, "blocks": blocks,
                "durable_through": found.map_or(0, |(b, _)| b.durable_through), "state": state,
                "records": records.as_ref().map_or(0, Vec::len)}),
        )?;
        let Some(records) = records else {
            if sequence <= durable {
                replay.bad_batch(sequence, None);
                self.problem(format!("journal batch {sequence} is damaged"))?;
            }
            return Ok(sequence <= durable);
        };
        self.report.batches += 1;
        for record in &records {
            self.line("record", record_line(sequence, record))?;
            // Files a later record drops may be gone; whether a restart needs them is decided there.
            if let Record::Reference { group, extent, count, header_crc, loose: false, .. } = record {
                let dir = replay.image.groups.get(group).map(|g| g.dir.clone()).unwrap_or_default();
                let path = segment_file::path(self.dir, &dir, extent.file);
                let is_there = self.fs.open(&path, OpenMode::Read).is_ok();
                let read = replay.read_extent(&path, *group, extent, *count, *header_crc);
                if is_there && read.is_none() && sequence <= durable {
                    let (first, last) = (extent.first, extent.last.index);
                    self.problem(format!(
                        "group {group}: entries {first}..={last} by reference are damaged"
                    ))?;
                }
            }
            let notes = replay.notes.len();
            replay.batch(sequence, std::slice::from_ref(record), None)?;
            for note in replay.notes.split_off(notes) {
                self.problem(note)?;
            }
        }
        Ok(true)
    }

    fn group(&mut self, g: &GroupImage) -> Result<()> {
        let h = &g.hard_state;
        let opening = h.opening.map(|o| {
            json!({"survivor": o.survivor.to_string(), "base": o.base.to_string(), "first_term": o.first_term.0,
                "lossless": o.lossless})
        });
        self.line(
            "group",
            json!({"group": g.group.0, "name": g.name, "directory": g.dir, "replica": g.replica.to_string(),
                "files": g.files.len(), "last": g.last().to_string(), "next_offset": g.next_offset().0,
                "clean": g.cleaned.clean.0, "dropped": g.cleaned.dropped.0,
                "segment_bytes": g.options.segment_bytes, "index_interval_bytes": g.options.index_interval_bytes}),
        )?;
        self.line(
            "hard_state",
            json!({"group": g.group.0, "epoch": h.epoch.to_string(), "vote": h.vote.map(|v| v.to_string()),
                "sealed": h.sealed, "dirty": h.dirty, "doubt": format!("{:?}", h.doubt), "opening": opening}),
        )?;
        let start = &g.log_start;
        self.line(
            "log_start",
            json!({"group": g.group.0, "prev": start.prev.to_string(), "base_offset": start.base_offset.0,
                "start_offset": start.start_offset.0, "configuration": start.configuration_id.to_string(),
                "configuration_bytes": start.configuration.len(), "producers_bytes": start.producers.len(),
                "producers_at": start.producers_at.0}),
        )?;
        for span in &g.terms.0 {
            let fields = json!({"group": g.group.0, "epoch": span.epoch.to_string(), "first": span.first.0,
                "end_offset": span.end.0, "has_records": span.records.is_some()});
            self.line("term", fields)?;
        }
        for (id, payload) in &g.configurations {
            let fields = json!({"group": g.group.0, "id": id.to_string(), "bytes": payload.len()});
            self.line("configuration", fields)?;
        }
        if let Some((first, last)) = g.needs_repair {
            self.problem(format!("group {}: entries {first}..={last} need repair", g.group))?;
        }
        Ok(())
    }

    /// Verifies a segment: every frame up to the mark must be sound; what follows is shown as far as it is.
    fn segment(&mut self, group: &GroupImage, file: &FileImage, mark: u64) -> Result<()> {
        let path = segment_file::path(self.dir, &group.dir, file.number);
        let name = path.display().to_string();
        let handle = match self.fs.open(&path, OpenMode::Read) {
            Ok(handle) => handle,
            Err(_) if mark <= SEGMENT_HEADER => {
                return self.line(
                    "segment",
                    json!({"group": group.group.0, "file": file.number, "state": "absent"}),
                );
            }
            Err(e) => return self.problem(format!("{name}: {e}")),
        };
        let failed = |e: std::io::Error| error::failed("read", &path, &e);
        let len = handle.len().map_err(failed)?;
        let mut header = vec![0; SEGMENT_HEADER as usize];
        handle.pread(&mut header, 0).map_err(failed)?;
        let right = Some((group.group, file.number, file.prev));
        if mark > SEGMENT_HEADER && segment_file::decode_header(&header) != right {
            self.problem(format!("{name}: header does not match"))?;
        }
        let mut lines = Vec::new();
        let (mut entries, want) = (0u64, self.options.entries);
        let mut end = (file.prev, file.base_offset);
        let mut each = |meta: &EntryMeta, byte: u64, payload: &[u8]| {
            entries += 1;
            end = (meta.id, meta.next_offset());
            if want {
                lines.push(entry_line(group.group, file.number, byte, meta, payload));
            }
        };
        let start = Expect::After(file.prev, file.base_offset);
        let span = (SEGMENT_HEADER, mark);
        let marked = segment_file::read_frames(&*handle, group.group, span, start, true, &mut each);
        let (at, why) = marked.map_err(failed)?;
        let mut reached = at;
        if why.is_none() {
            let from = entries;
            let expect = if from == 0 { start } else { Expect::After(end.0, end.1) };
            let span = (mark, file.end);
            let mut each = |meta: &EntryMeta, byte: u64, payload: &[u8]| {
                entries += 1;
                if want {
                    lines.push(entry_line(group.group, file.number, byte, meta, payload));
                }
            };
            let rest = segment_file::read_frames(&*handle, group.group, span, expect, true, &mut each);
            reached = rest.map_err(failed)?.0;
        }
        self.report.entries += entries;
        self.line(
            "segment",
            json!({"group": group.group.0, "file": file.number, "first": file.first().0,
                "base_offset": file.base_offset.0, "last": file.last.to_string(), "next_offset": file.next_offset.0,
                "bytes": len, "checkpointed": mark, "end": file.end, "verified": reached, "entries": entries,
                "max_timestamp": file.max_timestamp, "age_timestamp": file.age_timestamp, "compacted": file.is_compacted}),
        )?;
        for line in lines {
            self.line("entry", line)?;
        }
        match why {
            Some(why) => self.problem(format!("{name}: byte {at}: {why}")),
            None => Ok(()),
        }
    }

    /// Verifies an index file. It is a cache: what is bad in it is made again, but it is said.
    fn index(&mut self, group: &GroupImage, file: &FileImage) -> Result<()> {
        let path = segment_file::index_path(self.dir, &group.dir, file.number);
        let Ok(bytes) = read_whole(self.fs, &path) else {
            return Ok(());
        };
        let mut input = &bytes[..];
        let (mut slots, mut covered) = (0, SEGMENT_HEADER);
        while !input.is_empty() {
            match decode_chunk(&mut input, file.number) {
                Some(run) => {
                    slots += run.slots.len();
                    covered = run.to;
                }
                None => {
                    let at = bytes.len() - input.len();
                    // A cache: its first reader makes it again, and nothing is lost by it.
                    let text = format!("{}: bad chunk at byte {at}; it will be made again", path.display());
                    self.line("note", json!({"what": text}))?;
                    break;
                }
            }
        }
        self.line(
            "index",
            json!({"group": group.group.0, "file": file.number, "slots": slots, "covers": covered}),
        )
    }
}

fn manifest_line(name: &str, m: &Manifest) -> Value {
    json!({"name": name, "sequence": m.sequence, "version": m.image.format, "node": m.image.node.0,
        "directory": uuid::Uuid::from_u128(m.image.directory).to_string(), "cluster": m.image.cluster,
        "era": m.era, "journal_file": m.position.file, "journal_block": m.position.block,
        "next_batch": m.position.sequence, "journal_file_bytes": m.journal_file_bytes, "clean": m.clean,
        "boot": uuid::Uuid::from_u128(m.boot).to_string(),
        "next_file": m.image.next_file, "groups": m.image.groups.len(),
        "suspects": m.image.suspects.iter().cloned().collect::<Vec<_>>().join(",")})
}

fn entry_line(group: GroupId, file: u64, byte: u64, meta: &EntryMeta, payload: &[u8]) -> Value {
    json!({"group": group.0, "file": file, "byte": byte, "id": meta.id.to_string(), "prev": meta.prev.to_string(),
        "type": format!("{:?}", meta.kind), "base_offset": meta.base_offset.0, "offset_span": meta.offset_span,
        "payload": meta.payload_len, "max_timestamp": frame::max_timestamp(meta.kind, payload)})
}

fn record_line(batch: u64, record: &Record) -> Value {
    let mut line = json!({"batch": batch, "type": record.name()});
    if record.group() != super::record::NO_GROUP {
        line["group"] = record.group().0.into();
    }
    let fields = match record {
        Record::Cluster(id) => json!({"cluster": id}),
        Record::Create(_, c) => json!({"name": c.name, "directory": c.dir, "replica": c.replica.to_string(),
            "file": c.file, "prev": c.log_start.prev.to_string(), "epoch": c.hard_state.epoch.to_string()}),
        Record::Remove(_) => json!({}),
        Record::Options(_, o) => {
            json!({"segment_bytes": o.segment_bytes, "index_interval_bytes": o.index_interval_bytes})
        }
        Record::HardState(_, h) => {
            json!({"epoch": h.epoch.to_string(), "vote": h.vote.map(|v| v.to_string()),
            "sealed": h.sealed, "dirty": h.dirty, "doubt": format!("{:?}", h.doubt)})
        }
        Record::Inline { file, byte, frames, loose, .. } => {
            json!({"file": file, "byte": byte, "bytes": frames.len(), "loose": loose})
        }
        Record::Reference { extent: e, count, loose, .. } => {
            json!({"file": e.file, "byte": e.byte, "bytes": e.len,
            "first": e.first.0, "last": e.last.to_string(), "entries": count, "loose": loose})
        }
        Record::Open { file, prev, base_offset, .. } => {
            json!({"file": file, "prev": prev.to_string(), "base_offset": base_offset.0})
        }
        Record::Cut { cut, new_file, .. } => json!({"last": cut.last.to_string(), "file": cut.file,
            "end": cut.end, "next_offset": cut.next_offset.0, "new_file": new_file}),
        Record::LogStart(_, s) => json!({"prev": s.prev.to_string(), "base_offset": s.base_offset.0,
            "start_offset": s.start_offset.0}),
        Record::Install { start, file, .. } => json!({"prev": start.prev.to_string(), "file": file}),
        Record::Replace { old, new, shortened, left, .. } => {
            json!({"old": old, "new": new, "prev": shortened.map(|s| s.prev.to_string()),
            "end": shortened.map(|s| s.end), "first": left.map(|l| l.0.0), "last": left.map(|l| l.1.0)})
        }
        Record::Rewrite(_, r) => json!({"old": r.old, "new": r.new.number, "prev": r.new.prev.to_string(),
            "last": r.new.last.to_string(), "end": r.new.end, "compacted": r.new.is_compacted}),
        Record::Cleaned(_, c) => json!({"clean": c.clean.0, "dropped": c.dropped.0}),
        Record::Damage { first, last, .. } => json!({"first": first.0, "last": last.0}),
        Record::Synced { last, .. } => json!({"last": last.to_string()}),
    };
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    line
}
