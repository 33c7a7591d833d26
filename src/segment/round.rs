//! What front and back half exchange: a round of work, and what became of it. Plain data, both `Send`.
//! Not here: how rounds are made (`store`) and carried out (`writer`).

use super::fs::File;
use super::image::Extent;
use super::index::Slot;
use super::record::Record;
use super::types::*;
use std::path::PathBuf;
use std::sync::Arc;

/// Work for the writer: one group commit.
pub struct Round {
    pub(crate) number: u64,
    pub(crate) ops: Vec<Op>,
    /// Begin to sync what is written and not synced yet.
    pub(crate) flush: bool,
    /// Number that the next new file gets: those below it are taken, some by files that no record names yet.
    pub(crate) next_file: u64,
}

impl Round {
    /// Number of the round; rounds are committed in this order.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// A file and its number.
#[derive(Clone)]
pub(crate) struct FileRef {
    pub number: u64,
    pub handle: Arc<dyn File>,
}

/// One change, in order.
pub(crate) enum Op {
    /// Entries at their fixed place.
    Entries(Box<Entries>),
    /// Anything else.
    Change(Box<Change>),
}

/// Contiguous entries of one group in one file.
pub(crate) struct Entries {
    pub group: GroupId,
    pub file: FileRef,
    pub byte: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    pub entries: Vec<Entry>,
    /// Index slots that fall on them.
    pub slots: Vec<Slot>,
    /// Acknowledged once they are written (`flush.mode=async`).
    pub loose: bool,
}

impl Op {
    /// Whether nobody waits for its sync.
    pub(crate) fn is_loose(&self) -> bool {
        matches!(self, Self::Entries(entries) if entries.loose)
    }
    /// Whether files that it drops are kept under other names.
    pub(crate) fn keeps_files(&self) -> bool {
        matches!(self, Self::Change(change) if change.is_aside)
    }
    /// Whether a program that knows only older formats would not understand it.
    pub(crate) fn needs_format(&self) -> bool {
        matches!(self, Self::Change(change) if matches!(change.record, Record::Rewrite(..) | Record::Cleaned(..)))
    }
    /// Whether it removes a group whose log stays on the disk.
    pub(crate) fn keeps_log(&self) -> bool {
        matches!(self, Self::Change(change) if matches!(change.remove_dir, Some((_, Remains::Log))))
    }
}

/// A record and the work on files that goes with it.
pub(crate) struct Change {
    pub record: Record,
    /// The file it opens, and its directory.
    pub new: Option<(FileRef, PathBuf)>,
    /// To cut to this length once everything before is written to it.
    pub trim: Option<(FileRef, u64)>,
    /// Files to unlink once the record is durable.
    pub unlink: Vec<PathBuf>,
    /// Segments among them are renamed instead: they hold what the group's new generation does not.
    pub is_aside: bool,
    /// Directory to remove once the record is durable, and what stays of it.
    pub remove_dir: Option<(PathBuf, Remains)>,
}

/// What stays in the directory of a group that is removed. Only an operator removes it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Nothing: its topic is deleted.
    Nothing,
    /// What had been set aside: the group goes on here in another directory.
    Aside,
    /// That, and its log, which may hold what the group's new generation does not.
    Log,
}

impl Change {
    pub(crate) fn plain(record: Record) -> Op {
        Op::Change(Box::new(Self {
            record,
            new: None,
            trim: None,
            unlink: Vec::new(),
            is_aside: false,
            remove_dir: None,
        }))
    }
}

/// Recovery has to know it whatever becomes of the file that it stands in.
pub(crate) fn is_configuration(entry: &Entry) -> bool {
    entry.meta.kind == EntryKind::Configuration
}

impl Entries {
    /// Whether they are a configuration, which stands alone: a look at the first tells.
    pub(crate) fn is_configuration(&self) -> bool {
        self.entries.first().is_some_and(is_configuration)
    }

    /// What a reference record says of them.
    pub(crate) fn extent(&self, max_timestamp: i64) -> Extent {
        let first = &self.entries.first().expect("an entries op is never empty").meta;
        let last = &self.entries.last().expect("an entries op is never empty").meta;
        Extent {
            file: self.file.number,
            byte: self.byte,
            len: self.bytes,
            first: first.id.index,
            prev: first.prev,
            last: last.id,
            next_offset: last.next_offset(),
            max_timestamp,
        }
    }
}

/// Everything of `group`'s file before `end` is in the file by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub group: GroupId,
    pub file: u64,
    pub end: u64,
}

/// What became of a round, or of an earlier one whose sync took longer.
pub struct RoundDone {
    pub(crate) number: u64,
    /// It answers the round that is out; if not, it is news of the syncs of earlier ones.
    pub(crate) is_answer: bool,
    /// Everything but loose entries is durable up to this round.
    pub(crate) durable_round: u64,
    /// Every loose entry is, up to this one.
    pub(crate) flushed_round: u64,
    /// Bytes of loose entries that no sync has covered.
    pub(crate) unsynced: u64,
    /// Why storage is offline, if it failed.
    pub(crate) failure: Option<String>,
    pub(crate) progress: Vec<Durable>,
    pub(crate) written: Vec<Written>,
}

impl RoundDone {
    /// The answer to a round that could not be carried out.
    pub(crate) fn failed(number: u64, why: String) -> Self {
        Self {
            number,
            is_answer: true,
            durable_round: 0,
            flushed_round: 0,
            unsynced: 0,
            failure: Some(why),
            progress: Vec::new(),
            written: Vec::new(),
        }
    }
    /// Whether it answers the round that is out, so that the next one may come.
    pub fn is_answer(&self) -> bool {
        self.is_answer
    }
    /// Number of the round; of news, of the last one written.
    pub fn number(&self) -> u64 {
        self.number
    }
    /// Whether the round, and with it the directory, failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// Progress of one group after a completed round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Which group.
    pub group: GroupId,
    /// Last entry of it that is as safe as its kind and the group's mode ask.
    pub last: LogId,
    /// It is durable, and everything before it. Otherwise loose entries are written, which outlives the process but not the machine;
    /// all others are durable even then.
    pub is_synced: bool,
}
