//! Journal records: every change of a directory, as one line of the one ordered stream. Encoded by the
//! writer, decoded by recovery and dump. Not here: blocks and batches (`journal`), their effect (`image`).
//!
//! * Every record carries its own kind and version, and the group it speaks of.
//! * Frames of an inline record are the very bytes that go to the segment.

use super::GroupOptions;
use super::codec::*;
use super::image::{CutPoint, Extent, FileImage, Rewritten, Shortened};
use super::tombstones::Cleaned;
use super::types::*;
use bytes::{BufMut, Bytes};

const RECORD_VERSION: u8 = 1;
/// Flag of entries that were acknowledged before they were synced.
const LOOSE: u16 = 1;
/// Length, kind, version, flags, group.
const RECORD_HEADER: usize = 16;
/// Group of records that speak of no group.
pub(crate) const NO_GROUP: GroupId = GroupId(u64::MAX);

/// What a new group is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Creation {
    pub name: String,
    pub dir: String,
    pub replica: ReplicaId,
    pub options: GroupOptions,
    pub hard_state: HardState,
    pub log_start: LogStart,
    pub file: u64,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// The cluster id is known.
    Cluster(String),
    /// A group and its first file.
    Create(GroupId, Box<Creation>),
    /// A group is gone.
    Remove(GroupId),
    /// Its knobs changed.
    Options(GroupId, GroupOptions),
    /// Generation, term, vote, seal, dirty, doubt.
    HardState(GroupId, HardState),
    /// Entries by value: place and frames. `loose`: acknowledged before they were synced (`flush.mode=async`).
    Inline { group: GroupId, file: u64, byte: u64, frames: Bytes, loose: bool },
    /// Entries by reference: where they are, what they are, CRC of their frame headers (each of which holds
    /// the CRC of its frame, so that the one vouches for the whole extent). `loose`: the batch being whole does not
    /// say that they are.
    Reference {
        group: GroupId,
        extent: Extent,
        count: u32,
        header_crc: u32,
        terms: Vec<(Epoch, Index)>,
        loose: bool,
    },
    /// The log goes on in a new file (roll).
    Open { group: GroupId, file: u64, prev: LogId, base_offset: Offset },
    /// The log ends early and goes on in a new file (truncation).
    Cut { group: GroupId, cut: CutPoint, new_file: u64 },
    /// The log start moved.
    LogStart(GroupId, Box<LogStart>),
    /// The log was replaced by an empty one.
    Install { group: GroupId, start: Box<LogStart>, file: u64 },
    /// Entries were found damaged.
    Damage { group: GroupId, first: Index, last: Index },
    /// A sound copy took the place of a damaged file (0: nothing was wrong with it); what is still damaged. `shortened`: it leaves out what
    /// the log start has passed.
    Replace { group: GroupId, old: u64, new: u64, shortened: Option<Shortened>, left: Option<(Index, Index)> },
    /// A file with fewer payloads took the place of others. Only in a directory of format 3.
    Rewrite(GroupId, Box<Rewritten>),
    /// How clean the copy is, and what is missing in it (docs/decisions/0022). Only in a directory of format 4.
    Cleaned(GroupId, Cleaned),
    /// Loose entries up to this one have been synced. Says something of what stands before it in the journal, and changes nothing.
    Synced { group: GroupId, last: LogId },
}

impl Record {
    /// Whom it speaks of.
    pub(crate) fn group(&self) -> GroupId {
        match self {
            Self::Cluster(_) => NO_GROUP,
            Self::Create(group, _)
            | Self::Remove(group)
            | Self::Options(group, _)
            | Self::HardState(group, _)
            | Self::LogStart(group, _)
            | Self::Cleaned(group, _)
            | Self::Inline { group, .. }
            | Self::Reference { group, .. }
            | Self::Open { group, .. }
            | Self::Cut { group, .. }
            | Self::Install { group, .. }
            | Self::Damage { group, .. }
            | Self::Replace { group, .. }
            | Self::Rewrite(group, _)
            | Self::Synced { group, .. } => *group,
        }
    }

    /// Whether it was acknowledged before it was synced.
    pub(crate) fn is_loose(&self) -> bool {
        matches!(self, Self::Inline { loose: true, .. } | Self::Reference { loose: true, .. })
    }

    /// Its name, as dump prints it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "Cluster",
            Self::Create(..) => "Create",
            Self::Remove(_) => "Remove",
            Self::Options(..) => "Options",
            Self::HardState(..) => "HardState",
            Self::Inline { .. } => "Inline",
            Self::Reference { .. } => "Reference",
            Self::Open { .. } => "Open",
            Self::Cut { .. } => "Cut",
            Self::LogStart(..) => "LogStart",
            Self::Install { .. } => "Install",
            Self::Damage { .. } => "Damage",
            Self::Replace { .. } => "Replace",
            Self::Rewrite(..) => "Rewrite",
            Self::Cleaned(..) => "Cleaned",
            Self::Synced { .. } => "Synced",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Cluster(_) => 1,
            Self::Create(..) => 2,
            Self::Remove(_) => 3,
            Self::Options(..) => 4,
            Self::HardState(..) => 5,
            Self::Inline { .. } => 6,
            Self::Reference { .. } => 7,
            Self::Open { .. } => 8,
            Self::Cut { .. } => 9,
            Self::LogStart(..) => 10,
            Self::Install { .. } => 11,
            Self::Damage { .. } => 12,
            Self::Replace { shortened: None, .. } => 13,
            Self::Replace { shortened: Some(_), .. } => 15,
            Self::Synced { .. } => 14,
            Self::Rewrite(..) => 16,
            Self::Cleaned(..) => 17,
        }
    }

    /// Appends the record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.code(), self.group(), self.is_loose());
        match self {
            Self::Cluster(id) => put_str(out, id),
            Self::Create(_, creation) => put_creation(out, creation),
            Self::Remove(_) => {}
            Self::Options(_, options) => put_options(out, options),
            Self::HardState(_, state) => put_hard_state(out, state),
            Self::Inline { file, byte, frames, .. } => {
                out.put_u64_le(*file);
                out.put_u64_le(*byte);
                out.put_slice(frames);
            }
            Self::Reference { extent, count, header_crc, terms, .. } => {
                put_extent(out, extent);
                out.put_u32_le(*count);
                out.put_u32_le(*header_crc);
                out.put_u32_le(u32::try_from(terms.len()).expect("terms of one extent fit"));
                for (epoch, first) in terms {
                    put_epoch(out, *epoch);
                    out.put_u64_le(first.0);
                }
            }
            Self::Open { file, prev, base_offset, .. } => {
                out.put_u64_le(*file);
                put_log_id(out, *prev);
                out.put_i64_le(base_offset.0);
            }
            Self::Cut { cut, new_file, .. } => {
                put_log_id(out, cut.last);
                out.put_i64_le(cut.next_offset.0);
                out.put_u64_le(cut.file);
                out.put_u64_le(cut.end);
                out.put_i64_le(cut.max_timestamp);
                out.put_u64_le(*new_file);
            }
            Self::LogStart(_, start) => put_log_start(out, start),
            Self::Install { start, file, .. } => {
                put_log_start(out, start);
                out.put_u64_le(*file);
            }
            Self::Damage { first, last, .. } => {
                out.put_u64_le(first.0);
                out.put_u64_le(last.0);
            }
            Self::Replace { old, new, shortened, left, .. } => {
                let (first, last) = left.unwrap_or_default();
                for number in [*old, *new, first.0, last.0] {
                    out.put_u64_le(number);
                }
                if let Some(Shortened { prev, base_offset, end, max_timestamp }) = shortened {
                    put_log_id(out, *prev);
                    out.put_i64_le(base_offset.0);
                    out.put_u64_le(*end);
                    out.put_i64_le(*max_timestamp);
                }
            }
            Self::Rewrite(_, rewritten) => {
                out.put_u32_le(u32::try_from(rewritten.old.len()).expect("files of a group fit"));
                rewritten.old.iter().for_each(|number| out.put_u64_le(*number));
                put_file(out, &rewritten.new);
                put_origin(out, &rewritten.new);
            }
            Self::Cleaned(_, cleaned) => put_cleaned(out, cleaned),
            Self::Synced { last, .. } => put_log_id(out, *last),
        }
        finish(out, start);
    }

    /// Reads one record; None if it is bad or newer than this code.
    pub(crate) fn decode(input: &mut &[u8], whole: &Bytes) -> Option<Self> {
        let len = get_u32(input)? as usize;
        let mut body = get_slice(input, len)?;
        let b = &mut body;
        let (code, version) = (get_u8(b)?, get_u8(b)?);
        let loose = get_u16(b)? & LOOSE != 0;
        let group = GroupId(get_u64(b)?);
        if version != RECORD_VERSION {
            return None;
        }
        let record = Self::decode_body(code, group, loose, b, whole)?;
        b.is_empty().then_some(record)
    }

    fn decode_body(code: u8, group: GroupId, loose: bool, b: &mut &[u8], whole: &Bytes) -> Option<Self> {
        Some(match code {
            1 => Self::Cluster(get_str(b)?),
            2 => Self::Create(group, Box::new(get_creation(b)?)),
            3 => Self::Remove(group),
            4 => Self::Options(group, get_options(b)?),
            5 => Self::HardState(group, get_hard_state(b)?),
            6 => {
                let (file, byte) = (get_u64(b)?, get_u64(b)?);
                let frames = whole.slice_ref(std::mem::take(b));
                Self::Inline { group, file, byte, frames, loose }
            }
            7 => {
                let extent = get_extent(b)?;
                let (count, header_crc, n) = (get_u32(b)?, get_u32(b)?, get_u32(b)?);
                let mut terms = Vec::new();
                for _ in 0..n {
                    terms.push((get_epoch(b)?, Index(get_u64(b)?)));
                }
                Self::Reference { group, extent, count, header_crc, terms, loose }
            }
            8 => Self::Open {
                group,
                file: get_u64(b)?,
                prev: get_log_id(b)?,
                base_offset: Offset(get_i64(b)?),
            },
            9 => Self::Cut {
                group,
                cut: CutPoint {
                    last: get_log_id(b)?,
                    next_offset: Offset(get_i64(b)?),
                    file: get_u64(b)?,
                    end: get_u64(b)?,
                    max_timestamp: get_i64(b)?,
                },
                new_file: get_u64(b)?,
            },
            10 => Self::LogStart(group, Box::new(get_log_start(b)?)),
            11 => Self::Install { group, start: Box::new(get_log_start(b)?), file: get_u64(b)? },
            13 | 15 => {
                let (old, new) = (get_u64(b)?, get_u64(b)?);
                let left = (Index(get_u64(b)?), Index(get_u64(b)?));
                let shortened = match code {
                    13 => None,
                    _ => Some(Shortened {
                        prev: get_log_id(b)?,
                        base_offset: Offset(get_i64(b)?),
                        end: get_u64(b)?,
                        max_timestamp: get_i64(b)?,
                    }),
                };
                Self::Replace { group, old, new, shortened, left: (left.0 > Index(0)).then_some(left) }
            }
            12 => Self::Damage { group, first: Index(get_u64(b)?), last: Index(get_u64(b)?) },
            14 => Self::Synced { group, last: get_log_id(b)? },
            16 => {
                let mut old = Vec::new();
                for _ in 0..get_u32(b)? {
                    old.push(get_u64(b)?);
                }
                let new = get_file(b)?;
                let new = get_origin(b, new)?;
                Self::Rewrite(group, Box::new(Rewritten { old, new }))
            }
            17 => Self::Cleaned(group, get_cleaned(b)?),
            _ => return None,
        })
    }
}

fn begin(out: &mut Vec<u8>, code: u8, group: GroupId, loose: bool) -> usize {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(code);
    out.put_u8(RECORD_VERSION);
    out.put_u16_le(if loose { LOOSE } else { 0 });
    out.put_u64_le(group.0);
    debug_assert_eq!(out.len() - start, RECORD_HEADER);
    start
}

fn finish(out: &mut [u8], start: usize) {
    let len = u32::try_from(out.len() - start - 4).expect("a record is below 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Starts an inline record whose frames the caller appends; end it with [`finish_inline`].
pub(crate) fn begin_inline(out: &mut Vec<u8>, group: GroupId, file: u64, byte: u64, loose: bool) -> usize {
    let start = begin(out, 6, group, loose);
    out.put_u64_le(file);
    out.put_u64_le(byte);
    start
}

/// Ends what [`begin_inline`] started.
pub(crate) fn finish_inline(out: &mut [u8], start: usize) {
    finish(out, start);
}

pub(crate) fn put_options(out: &mut Vec<u8>, options: &GroupOptions) {
    out.put_u64_le(options.segment_bytes);
    out.put_u32_le(options.index_interval_bytes);
}
pub(crate) fn get_options(b: &mut &[u8]) -> Option<GroupOptions> {
    Some(GroupOptions { segment_bytes: get_u64(b)?, index_interval_bytes: get_u32(b)? })
}

/// A file, as manifests of every format have it.
pub(crate) fn put_file(out: &mut Vec<u8>, file: &FileImage) {
    out.put_u64_le(file.number);
    put_log_id(out, file.prev);
    out.put_i64_le(file.base_offset.0);
    out.put_u64_le(file.end);
    put_log_id(out, file.last);
    out.put_i64_le(file.next_offset.0);
    out.put_i64_le(file.max_timestamp);
}
pub(crate) fn get_file(b: &mut &[u8]) -> Option<FileImage> {
    let (number, prev, base_offset) = (get_u64(b)?, get_log_id(b)?, Offset(get_i64(b)?));
    let (end, last) = (get_u64(b)?, get_log_id(b)?);
    let (next_offset, max_timestamp) = (Offset(get_i64(b)?), get_i64(b)?);
    let file = FileImage::new(number, prev, base_offset);
    Some(FileImage { end, last, next_offset, max_timestamp, ..file })
}

/// What format 3 says of a file besides.
pub(crate) fn put_origin(out: &mut Vec<u8>, file: &FileImage) {
    out.put_u8(u8::from(file.is_compacted));
    out.put_i64_le(file.age_timestamp);
}
pub(crate) fn get_origin(b: &mut &[u8], file: FileImage) -> Option<FileImage> {
    let is_compacted = match get_u8(b)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(FileImage { is_compacted, age_timestamp: get_i64(b)?, ..file })
}

/// What format 4 says of a group besides.
pub(crate) fn put_cleaned(out: &mut Vec<u8>, cleaned: &Cleaned) {
    out.put_i64_le(cleaned.clean.0);
    out.put_i64_le(cleaned.dropped.0);
}
pub(crate) fn get_cleaned(b: &mut &[u8]) -> Option<Cleaned> {
    let (clean, dropped) = (get_i64(b)?, get_i64(b)?);
    (clean >= 0 && dropped >= 0).then_some(Cleaned { clean: Offset(clean), dropped: Offset(dropped) })
}

fn put_creation(out: &mut Vec<u8>, c: &Creation) {
    put_str(out, &c.name);
    put_str(out, &c.dir);
    put_replica(out, c.replica);
    put_options(out, &c.options);
    put_hard_state(out, &c.hard_state);
    put_log_start(out, &c.log_start);
    out.put_u64_le(c.file);
}
fn get_creation(b: &mut &[u8]) -> Option<Creation> {
    Some(Creation {
        name: get_str(b)?,
        dir: get_str(b)?,
        replica: get_replica(b)?,
        options: get_options(b)?,
        hard_state: get_hard_state(b)?,
        log_start: get_log_start(b)?,
        file: get_u64(b)?,
    })
}

fn put_extent(out: &mut Vec<u8>, e: &Extent) {
    out.put_u64_le(e.file);
    out.put_u64_le(e.byte);
    out.put_u64_le(e.len);
    out.put_u64_le(e.first.0);
    put_epoch(out, e.prev);
    put_log_id(out, e.last);
    out.put_i64_le(e.next_offset.0);
    out.put_i64_le(e.max_timestamp);
}
fn get_extent(b: &mut &[u8]) -> Option<Extent> {
    Some(Extent {
        file: get_u64(b)?,
        byte: get_u64(b)?,
        len: get_u64(b)?,
        first: Index(get_u64(b)?),
        prev: get_epoch(b)?,
        last: get_log_id(b)?,
        next_offset: Offset(get_i64(b)?),
        max_timestamp: get_i64(b)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_record_round_trips() {
        let g = GroupId(4);
        let start = LogStart {
            prev: LogId::new(1, 2, 3),
            base_offset: Offset(9),
            start_offset: Offset(10),
            configuration: Bytes::from_static(b"conf"),
            configuration_id: LogId::new(0, 1, 1),
            producers: Bytes::from_static(b"producers"),
            producers_at: Index(5),
        };
        let options = GroupOptions { segment_bytes: 1 << 30, index_interval_bytes: 4096 };
        let replica = ReplicaId { node: NodeId(1), assignment: 2, directory: 3 };
        let hard_state = HardState { epoch: Epoch::new(1, 7), vote: Some(replica), ..HardState::default() };
        let creation = Creation {
            name: "t-0".into(),
            dir: "t-0.2".into(),
            replica,
            options: options.clone(),
            hard_state,
            log_start: start.clone(),
            file: 12,
        };
        let extent = Extent {
            file: 3,
            byte: 64,
            len: 100_000,
            first: Index(4),
            prev: Epoch::new(1, 2),
            last: LogId::new(1, 3, 9),
            next_offset: Offset(99),
            max_timestamp: 1234,
        };
        let cut = CutPoint {
            last: LogId::new(1, 3, 9),
            next_offset: Offset(5),
            file: 3,
            end: 777,
            max_timestamp: -1,
        };
        let frames = Bytes::from_static(b"frames");
        let inline = |loose| Record::Inline { group: g, file: 3, byte: 64, frames: frames.clone(), loose };
        let terms = vec![(Epoch::new(1, 3), Index(4))];
        let reference = |loose| {
            let (extent, terms) = (extent.clone(), terms.clone());
            Record::Reference { group: g, extent, count: 6, header_crc: 55, terms, loose }
        };
        let records = [
            Record::Cluster("abc".into()),
            Record::Create(g, Box::new(creation)),
            Record::Remove(g),
            Record::Options(g, options),
            Record::HardState(g, hard_state),
            inline(false),
            inline(true),
            reference(false),
            reference(true),
            Record::Synced { group: g, last: LogId::new(1, 3, 9) },
            Record::Open { group: g, file: 5, prev: LogId::new(1, 3, 9), base_offset: Offset(77) },
            Record::Cut { group: g, cut, new_file: 6 },
            Record::LogStart(g, Box::new(start.clone())),
            Record::Install { group: g, start: Box::new(start), file: 8 },
            Record::Damage { group: g, first: Index(3), last: Index(u64::MAX) },
            Record::Replace { group: g, old: 3, new: 9, shortened: None, left: Some((Index(7), Index(8))) },
            Record::Replace { group: g, old: 0, new: 0, shortened: None, left: None },
            Record::Cleaned(g, Cleaned { clean: Offset(70), dropped: Offset(90) }),
            Record::Replace {
                group: g,
                old: 3,
                new: 9,
                shortened: Some(Shortened {
                    prev: LogId::new(1, 3, 9),
                    base_offset: Offset(5),
                    end: 777,
                    max_timestamp: 11,
                }),
                left: None,
            },
        ];
        let mut out = Vec::new();
        records.iter().for_each(|r| r.encode(&mut out));
        let whole = Bytes::from(out);
        let mut input = &whole[..];
        for record in &records {
            assert_eq!(Record::decode(&mut input, &whole).as_ref(), Some(record));
        }
        assert!(input.is_empty());
    }
}
