//! Records of `__consumer_offsets` in Kafka's own formats, so that tools that read the topic understand it.
//!
//! Keys: version 0 or 1 = an offset (group, topic, partition), version 2 = a group. Values: OffsetCommitValue 0-4 and GroupMetadataValue 0-4 are
//! read, 3 is written (1 for an offset with an end of its own, which no later version can hold). Null is the end of a key.
//! Not here: what follows from a record. Invariants: what is written reads back the same; keys of other kinds are left alone.

use super::Committed;
use crate::wire::frame::FrameError;
use crate::wire::primitives::{Reader, put_string};
use bytes::{BufMut, Bytes, BytesMut};

const OFFSET_KEYS: std::ops::RangeInclusive<i16> = 0..=1;
const GROUP_KEY: i16 = 2;
const NEWEST: i16 = 4;
/// From this version of a value on it is in the flexible encoding.
const FLEXIBLE: i16 = 4;
const WRITTEN: i16 = 3;
const WITH_END: i16 = 1;

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Bytes,
    /// Its value; none: the key is no more.
    pub value: Option<Bytes>,
}

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Key {
    Offset { group: String, topic: String, partition: i32 },
    Group(String),
}

/// A group as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredGroup {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// When it came to its state; -1: not told.
    pub since_ms: i64,
    pub members: Vec<StoredMember>,
}

/// One of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredMember {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_ms: i32,
    pub session_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Newer than this version knows.
    #[error("value of version {0}, known are 0 to 4")]
    Version(i16),
    /// Not the format it says it is.
    #[error("{0}")]
    Malformed(FrameError),
}

impl From<FrameError> for RecordError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error)
    }
}

/// Key of an offset.
pub fn offset_key(group: &str, topic: &str, partition: i32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(*OFFSET_KEYS.end());
    put_string(&mut out, Some(group), false);
    put_string(&mut out, Some(topic), false);
    out.put_i32(partition);
    out.freeze()
}

/// Key of a group.
pub fn group_key(group: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(GROUP_KEY);
    put_string(&mut out, Some(group), false);
    out.freeze()
}

/// What a key names; none: a kind this version does not know.
///
/// # Errors
/// It ends too early.
pub fn read_key(key: &[u8]) -> Result<Option<Key>, RecordError> {
    let mut reader = Reader::new(key);
    let version = reader.int16()?;
    if version == GROUP_KEY {
        return Ok(Some(Key::Group(text(&mut reader, false)?)));
    }
    if !OFFSET_KEYS.contains(&version) {
        return Ok(None);
    }
    let group = text(&mut reader, false)?;
    let topic = text(&mut reader, false)?;
    Ok(Some(Key::Offset { group, topic, partition: reader.int32()? }))
}

/// Value of an offset.
pub fn write_offset(committed: &Committed) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(if committed.until_ms.is_some() { WITH_END } else { WRITTEN });
    out.put_i64(committed.offset);
    if committed.until_ms.is_none() {
        out.put_i32(committed.leader_epoch);
    }
    put_string(&mut out, Some(&committed.metadata), false);
    out.put_i64(committed.at_ms);
    if let Some(until) = committed.until_ms {
        out.put_i64(until);
    }
    out.freeze()
}

/// Reads the value of an offset.
///
/// # Errors
/// It is of a newer version, or not what it says.
pub fn read_offset(value: &[u8]) -> Result<Committed, RecordError> {
    let mut reader = Reader::new(value);
    let version = version(&mut reader)?;
    let offset = int64(&mut reader)?;
    let leader_epoch = if version >= 3 { reader.int32()? } else { -1 };
    let metadata = text(&mut reader, version >= FLEXIBLE)?;
    let at_ms = int64(&mut reader)?;
    let until = if version == WITH_END { int64(&mut reader)? } else { -1 };
    Ok(Committed { offset, leader_epoch, metadata, at_ms, until_ms: (until >= 0).then_some(until) })
}

/// Value of a group.
pub fn write_group(group: &StoredGroup) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(WRITTEN);
    put_string(&mut out, Some(&group.protocol_type), false);
    out.put_i32(group.generation);
    put_string(&mut out, group.protocol.as_deref(), false);
    put_string(&mut out, group.leader.as_deref(), false);
    out.put_i64(group.since_ms);
    out.put_i32(group.members.len() as i32);
    for member in &group.members {
        put_string(&mut out, Some(&member.id), false);
        put_string(&mut out, member.instance.as_deref(), false);
        put_string(&mut out, Some(&member.client_id), false);
        put_string(&mut out, Some(&member.client_host), false);
        out.put_i32(member.rebalance_ms);
        out.put_i32(member.session_ms);
        for bytes in [&member.subscription, &member.assignment] {
            out.put_i32(bytes.len() as i32);
            out.put_slice(bytes);
        }
    }
    out.freeze()
}

/// Reads the value of a group.
///
/// # Errors
/// It is of a newer version, or not what it says.
pub fn read_group(value: &[u8]) -> Result<StoredGroup, RecordError> {
    let mut reader = Reader::new(value);
    let version = version(&mut reader)?;
    let flexible = version >= FLEXIBLE;
    let mut group = StoredGroup {
        protocol_type: text(&mut reader, flexible)?,
        generation: reader.int32()?,
        protocol: reader.string(flexible)?.map(str::to_owned),
        leader: reader.string(flexible)?.map(str::to_owned),
        since_ms: if version >= 2 { int64(&mut reader)? } else { -1 },
        members: Vec::new(),
    };
    let count = reader.count(flexible, 8)?.unwrap_or(0);
    for _ in 0..count {
        group.members.push(read_member(&mut reader, version)?);
    }
    Ok(group)
}

fn read_member(reader: &mut Reader<'_>, version: i16) -> Result<StoredMember, RecordError> {
    let flexible = version >= FLEXIBLE;
    let id = text(reader, flexible)?;
    let instance = if version >= 3 { reader.string(flexible)?.map(str::to_owned) } else { None };
    let client_id = text(reader, flexible)?;
    let client_host = text(reader, flexible)?;
    let rebalance = if version >= 1 { Some(reader.int32()?) } else { None };
    let session_ms = reader.int32()?;
    let subscription = bytes(reader, flexible)?;
    let assignment = bytes(reader, flexible)?;
    if flexible {
        reader.skip_tags()?;
    }
    // Before version 1 members had as long to rejoin as to be silent.
    let rebalance_ms = rebalance.unwrap_or(session_ms);
    Ok(StoredMember {
        id,
        instance,
        client_id,
        client_host,
        rebalance_ms,
        session_ms,
        subscription,
        assignment,
    })
}

fn version(reader: &mut Reader<'_>) -> Result<i16, RecordError> {
    match reader.int16()? {
        version @ 0..=NEWEST => Ok(version),
        version => Err(RecordError::Version(version)),
    }
}

fn int64(reader: &mut Reader<'_>) -> Result<i64, FrameError> {
    let bytes = reader.take(8)?.try_into().map_err(|_| FrameError::Malformed("ends too early"))?;
    Ok(i64::from_be_bytes(bytes))
}

fn text(reader: &mut Reader<'_>, flexible: bool) -> Result<String, FrameError> {
    Ok(reader.string(flexible)?.ok_or(FrameError::Malformed("a string is null"))?.to_owned())
}

fn bytes(reader: &mut Reader<'_>, flexible: bool) -> Result<Bytes, FrameError> {
    let length = reader.bytes_length(flexible)?.unwrap_or(0);
    Ok(Bytes::copy_from_slice(reader.take(length)?))
}
