//! What lies in the files of each replica, compared without any broker's help: consumers cannot see a follower diverge.
//!
//! [`dump`] is the only place that knows how `kontiki dump --output json` looks. Called by `faults` on stopped nodes.

use super::history::{Ack, Record};
use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// The frames of one node's files that hold records: group and base offset to the frame's bytes as stored.
pub type Replica = BTreeMap<(u64, i64), Bytes>;

/// Bytes in front of the record batch in a frame (docs/disk-format.md).
const FRAME_HEADER: usize = 80;

/// Reads a stopped node's files. Every checksum is verified by the command itself, which fails on damage.
pub fn dump(kontiki: &str, data_dir: &Path) -> Result<Replica, String> {
    let output = Command::new(kontiki)
        .args(["dump", "--output", "json", "--records"])
        .arg(data_dir)
        .output()
        .map_err(|e| format!("dump does not start: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let problems: Vec<&str> = text.lines().filter(|l| l.contains("\"problem\"")).take(10).collect();
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("dump of {} failed: {errors}\n{}", data_dir.display(), problems.join("\n")));
    }
    parse_dump(&text, |directory, file, byte, length| {
        let path = data_dir.join("groups").join(directory).join(format!("{file:016x}.segment"));
        let mut bytes = vec![0; length];
        let read = File::open(&path).and_then(|f| f.read_exact_at(&mut bytes, byte));
        read.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(bytes.into())
    })
}

/// One JSON object a line: a `group` line names its directory, `entry` lines say where each frame lies; `read` gets the
/// frame's bytes by directory, file, position and length.
fn parse_dump(
    text: &str,
    read: impl Fn(&str, u64, u64, usize) -> Result<Bytes, String>,
) -> Result<Replica, String> {
    let mut directories = BTreeMap::new();
    let mut replica = Replica::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("dump line {line:?}: {e}"))?;
        let number = |field: &str| value[field].as_u64().ok_or_else(|| format!("no {field} in {line}"));
        if value["kind"] == "group" {
            let directory = value["directory"].as_str().ok_or("a group without its directory")?;
            directories.insert(number("group")?, directory.to_string());
        }
        if value["kind"] != "entry" || value["type"] != "Records" {
            continue;
        }
        let group = number("group")?;
        let base = value["base_offset"].as_i64().ok_or("an entry without its base offset")?;
        let length = FRAME_HEADER + number("payload")? as usize;
        let directory = directories.get(&group).ok_or_else(|| format!("entry of unknown group {group}"))?;
        let frame = match number("payload")? {
            // Compaction has left nothing of it; it may share a frame with others.
            0 => Bytes::new(),
            _ => read(directory, number("file")?, number("byte")?, length)?,
        };
        if replica.insert((group, base), frame.clone()).is_some_and(|other| other != frame) {
            return Err(format!("two contents at offset {base} of group {group}"));
        }
    }
    Ok(replica)
}

/// The records of `run` in a replica, with their partitions read from the records themselves.
pub fn records(run: &str, replica: &Replica) -> Result<Vec<Record>, String> {
    let mut found = Vec::new();
    for ((group, base), batch) in replica.iter().filter(|(_, batch)| !batch.is_empty()) {
        let set = RecordBatchDecoder::decode(&mut batch.slice(FRAME_HEADER..))
            .map_err(|e| format!("batch {base} of {group}: {e}"))?;
        for record in set.records {
            let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
            let mut parts = value.split(':');
            if parts.next() != Some(run) {
                continue;
            }
            if record.producer_epoch > 0 {
                // A client bumps its epoch when it is told of a gap that is not its doing; what it then writes again may be
                // in the log already.
                return Err(format!("offset {} of {group}: epoch {}", record.offset, record.producer_epoch));
            }
            let partition =
                parts.next().and_then(|p| p.parse().ok()).ok_or_else(|| format!("value {value:?}"))?;
            found.push(Record { partition, offset: record.offset, value });
        }
    }
    Ok(found)
}

/// The keys of all records in a replica, whatever wrote them.
pub fn keys(replica: &Replica) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for ((group, base), batch) in replica.iter().filter(|(_, batch)| !batch.is_empty()) {
        let set = RecordBatchDecoder::decode(&mut batch.slice(FRAME_HEADER..))
            .map_err(|e| format!("batch {base} of {group}: {e}"))?;
        let keys = set.records.into_iter().filter_map(|record| record.key);
        found.extend(keys.map(|key| String::from_utf8_lossy(&key).into_owned()));
    }
    Ok(found)
}

/// Whether two copies of a batch agree: the same bytes, or one has less of the same records, since each replica compacts for itself.
fn agree(a: &Bytes, b: &Bytes) -> bool {
    let records = |frame: &Bytes| {
        if frame.is_empty() {
            return Some(BTreeMap::new());
        }
        let mut batch = Bytes::copy_from_slice(frame.get(FRAME_HEADER..)?);
        let set = RecordBatchDecoder::decode(&mut batch).ok()?;
        Some(set.records.into_iter().map(|r| (r.offset, (r.key, r.value))).collect())
    };
    let is_less = |less: &BTreeMap<_, _>, more: &BTreeMap<_, _>| {
        less.len() < more.len() && less.iter().all(|(offset, record)| more.get(offset) == Some(record))
    };
    a == b || records(a).zip(records(b)).is_some_and(|(a, b)| is_less(&a, &b) || is_less(&b, &a))
}

/// What differs between replicas, below the end of the shortest: nothing may but by compaction, and no acknowledged offset may be
/// missing in any (`covers` says up to where each group must reach).
pub fn compare(replicas: &[(String, Replica)], covers: &BTreeMap<u64, i64>) -> Vec<String> {
    let mut wrong = Vec::new();
    let (first_name, first) = &replicas[0];
    for (name, replica) in &replicas[1..] {
        for (&group, &end) in covers {
            let slice = |r: &Replica| -> Vec<(i64, Bytes)> {
                r.range((group, i64::MIN)..(group, end)).map(|((_, o), b)| (*o, b.clone())).collect()
            };
            let (a, b) = (slice(first), slice(replica));
            let differ = a.iter().zip(&b).find(|(x, y)| x.0 != y.0 || !agree(&x.1, &y.1)).map(|(x, _)| x.0);
            if let Some(offset) = differ {
                wrong.push(format!("divergent: {group} at offset {offset} on {first_name} and {name}"));
            } else if a.len() != b.len() {
                wrong.push(format!(
                    "short: {group} has {} batches on {first_name}, {} on {name}",
                    a.len(),
                    b.len()
                ));
            }
        }
    }
    wrong
}

/// Where each group of `run` ends on a replica, for [`compare`].
pub fn ends(run: &str, replica: &Replica) -> Result<BTreeMap<u64, i64>, String> {
    let mut ends = BTreeMap::new();
    for (key, batch) in replica {
        let one = Replica::from([(*key, batch.clone())]);
        if let Some(last) = records(run, &one)?.iter().map(|r| r.offset).max() {
            let end = ends.entry(key.0).or_insert(0);
            *end = last.max(*end - 1) + 1;
        }
    }
    Ok(ends)
}

/// Acknowledged records that a replica does not hold at their offsets.
pub fn missing(run: &str, acks: &[Ack], records: &[Record]) -> Vec<String> {
    let held: BTreeMap<(i32, i64), &str> =
        records.iter().map(|r| ((r.partition, r.offset), r.value.as_str())).collect();
    acks.iter()
        .filter(|a| {
            held.get(&(a.partition, a.offset))
                != Some(&super::history::content(run, a.partition, a.number).as_str())
        })
        .map(|a| format!("lost: record {} of partition {} at offset {}", a.number, a.partition, a.offset))
        .collect()
}

#[cfg(test)]
mod comparison {
    use super::*;

    fn replica(batches: &[(i64, &'static [u8])]) -> Replica {
        batches.iter().map(|(base, bytes)| ((7, *base), Bytes::from_static(bytes))).collect()
    }

    fn compared(a: &[(i64, &'static [u8])], b: &[(i64, &'static [u8])]) -> Vec<String> {
        let replicas = [("1".to_string(), replica(a)), ("2".to_string(), replica(b))];
        compare(&replicas, &BTreeMap::from([(7, 3)]))
    }

    #[test]
    fn equal_replicas_pass_and_a_tail_beyond_the_end_may_differ() {
        assert!(compared(&[(0, b"a"), (2, b"b")], &[(0, b"a"), (2, b"b"), (3, b"c")]).is_empty());
    }

    #[test]
    fn divergent_replicas_are_found() {
        assert!(compared(&[(0, b"a"), (2, b"b")], &[(0, b"a"), (2, b"x")])[0].starts_with("divergent"));
        assert!(compared(&[(0, b"a"), (2, b"b")], &[(0, b"a"), (1, b"b")])[0].starts_with("divergent"));
        assert!(compared(&[(0, b"a"), (2, b"b")], &[(0, b"a")])[0].starts_with("short"));
    }

    /// A frame with records at these offsets from its base on.
    fn frame(records: &[(i64, &str)]) -> Bytes {
        use kafka_protocol::records::{
            Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
        };
        let record = |(offset, value): &(i64, &str)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: *offset,
            sequence: *offset as i32,
            timestamp: 0,
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Default::default(),
        };
        let records: Vec<Record> = records.iter().map(record).collect();
        let mut bytes = bytes::BytesMut::zeroed(FRAME_HEADER);
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("encoded");
        bytes.freeze()
    }

    #[test]
    fn copies_of_which_one_is_compacted_agree_and_other_records_do_not() {
        let whole = frame(&[(0, "a"), (1, "b"), (2, "c")]);
        let less = frame(&[(0, "a"), (1, "b")]);
        let compared = |a: &Bytes, b: &Bytes| {
            let of = |frame: &Bytes| Replica::from([((7, 0), frame.clone())]);
            let replicas = [("1".to_string(), of(a)), ("2".to_string(), of(b))];
            compare(&replicas, &BTreeMap::from([(7, 3)])).is_empty()
        };
        assert!(compared(&whole, &less) && compared(&less, &whole));
        assert!(compared(&whole, &Bytes::new()) && compared(&Bytes::new(), &less));
        assert!(!compared(&whole, &frame(&[(0, "a"), (1, "x")])), "another value");
        assert!(!compared(&less, &frame(&[(0, "a"), (2, "c")])), "neither is a compaction of the other");
    }

    #[test]
    fn acknowledged_record_missing_on_a_replica_is_found() {
        let ack = Ack { partition: 0, number: 3, offset: 3, sent_us: 0, acked_us: 0 };
        let held = Record { partition: 0, offset: 3, value: crate::history::content("w", 0, 3) };
        assert!(missing("w", &[ack], std::slice::from_ref(&held)).is_empty());
        assert_eq!(missing("w", &[ack], &[Record { offset: 4, ..held }]).len(), 1);
    }

    fn parsed(second_byte: u64) -> Result<Replica, String> {
        let entry = |byte: u64| {
            format!(
                "{{\"kind\":\"entry\",\"type\":\"Records\",\"group\":7,\"file\":1,\"byte\":{byte},\"base_offset\":0,\"payload\":4}}\n"
            )
        };
        let group = "{\"kind\":\"group\",\"group\":7,\"directory\":\"d\"}\n".to_string();
        let control = "{\"kind\":\"entry\",\"type\":\"Noop\",\"group\":7}\n";
        parse_dump(&(group + control + &entry(64) + &entry(second_byte)), |directory, file, byte, length| {
            assert_eq!((directory, file, length), ("d", 1, FRAME_HEADER + 4));
            Ok(vec![byte as u8; length].into())
        })
    }

    #[test]
    fn dump_with_two_contents_at_one_offset_is_refused() {
        assert_eq!(parsed(64).expect("the same twice").len(), 1);
        assert!(parsed(65).is_err());
    }
}
