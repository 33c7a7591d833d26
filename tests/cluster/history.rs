//! What a producer was promised against what consumers read: the checker of the kill tests. Pure; not a driver.
//!
//! Called by `faults` with the writer's log (`tests/foreign/confluent/writer.py`) and the reader's output. A record
//! that was never acknowledged ("info") may be in the log or not; everything else has exactly one lawful place.
//!
//! Violations, by the names of Jepsen's Kafka checker:
//! - lost: an acknowledged record is not at its acknowledged offset;
//! - inconsistent: two values at one offset, or two acknowledgements of one offset;
//! - duplicate: one record at two offsets (the producer is idempotent);
//! - phantom: a record nobody wrote; damaged: right name, wrong content;
//! - order: a producer's records of one partition out of order; gap: an offset skipped.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Partition.
    pub partition: i32,
    /// Number of the record within its partition, counted by the writer.
    pub number: u64,
    /// Acknowledged offset.
    pub offset: i64,
    /// When it was handed to the client, microseconds since the epoch.
    pub sent_us: u64,
    /// When its acknowledgement arrived.
    pub acked_us: u64,
}

/// Everything a writer logged.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Acknowledged records, in the order of their acknowledgements.
    pub acks: Vec<Ack>,
    /// Records that ended without an acknowledgement.
    pub infos: BTreeSet<(i32, u64)>,
    /// How many records of each partition were handed to the client; empty until the writer has ended.
    pub sent: Vec<u64>,
}

/// One record as read by a consumer or from a replica's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Value as text.
    pub value: String,
}

/// The content of record `number` of `partition`, as the writer makes it.
pub fn content(run: &str, partition: i32, number: u64) -> String {
    let filler = (number * 7919 + partition as u64 * 104_729) % 900;
    let letter = char::from(b'a' + (number % 26) as u8);
    format!("{run}:{partition}:{number}:{}", letter.to_string().repeat(filler as usize))
}

/// The acknowledgement on one line of a writer's log, if it is one.
pub fn parse_ack(line: &str) -> Option<Ack> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["t"] == "ack").then(|| Ack {
        partition: value["p"].as_i64().expect("partition") as i32,
        number: value["n"].as_u64().expect("number"),
        offset: value["o"].as_i64().expect("offset"),
        sent_us: value["s"].as_u64().expect("sent"),
        acked_us: value["a"].as_u64().expect("acked"),
    })
}

/// A writer's whole log.
pub fn parse_history(text: &str) -> History {
    let mut history = History::default();
    for line in text.lines() {
        if let Some(ack) = parse_ack(line) {
            history.acks.push(ack);
            continue;
        }
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("line {line:?}: {e}"));
        match value["t"].as_str() {
            Some("info") => {
                let partition = value["p"].as_i64().expect("partition") as i32;
                history.infos.insert((partition, value["n"].as_u64().expect("number")));
            }
            Some("end") => {
                let sent = value["sent"].as_array().expect("counts");
                history.sent = sent.iter().map(|n| n.as_u64().expect("a count")).collect();
            }
            other => panic!("unknown line {other:?}: {line}"),
        }
    }
    history
}

/// A reader's output: records, and the end offset of each partition.
pub fn parse_records(text: &str) -> (Vec<Record>, Vec<i64>) {
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("line {line:?}: {e}"));
        if let Some(end) = value["end"].as_array() {
            ends = end.iter().map(|n| n.as_i64().expect("an offset")).collect();
            continue;
        }
        records.push(Record {
            partition: value["p"].as_i64().expect("partition") as i32,
            offset: value["o"].as_i64().expect("offset"),
            value: value["v"].as_str().unwrap_or("").to_string(),
        });
    }
    (records, ends)
}

/// The record's number if its content is exactly what `run` wrote to `partition`.
fn number_of(run: &str, partition: i32, value: &str) -> Result<u64, &'static str> {
    let mut parts = value.split(':');
    if parts.next() != Some(run) || parts.next() != Some(partition.to_string().as_str()) {
        return Err("phantom");
    }
    let number = parts.next().and_then(|n| n.parse().ok()).ok_or("damaged")?;
    if value == content(run, partition, number) { Ok(number) } else { Err("damaged") }
}

/// Every violation found, worst first by kind of check; empty when all promises were kept.
pub fn check(run: &str, history: &History, records: &[Record]) -> Vec<String> {
    let mut wrong = Vec::new();
    assert!(!history.sent.is_empty(), "the writer has not ended");
    let mut at_offset: BTreeMap<(i32, i64), u64> = BTreeMap::new();
    let mut offset_of: BTreeMap<(i32, u64), i64> = BTreeMap::new();
    for record in records {
        let place = (record.partition, record.offset);
        let number = match number_of(run, record.partition, &record.value) {
            Ok(number) => number,
            Err(kind) => {
                let start: String = record.value.chars().take(40).collect();
                wrong.push(format!("{kind}: {start:?} at {place:?}"));
                continue;
            }
        };
        if number >= history.sent.get(record.partition as usize).copied().unwrap_or(0) {
            wrong.push(format!("phantom: record {number} at {place:?} was never sent"));
        }
        if let Some(other) = at_offset.insert(place, number) {
            wrong.push(format!("inconsistent: records {other} and {number} both read at {place:?}"));
        }
        if let Some(other) =
            offset_of.insert((record.partition, number), record.offset).filter(|&o| o != record.offset)
        {
            wrong.push(format!(
                "duplicate: record {number} of partition {} at {other} and {}",
                place.0, place.1
            ));
        }
    }
    check_acks(history, &at_offset, &mut wrong);
    check_order(history, &at_offset, &mut wrong);
    wrong
}

fn check_acks(history: &History, at_offset: &BTreeMap<(i32, i64), u64>, wrong: &mut Vec<String>) {
    let mut acked = BTreeMap::new();
    for ack in &history.acks {
        let place = (ack.partition, ack.offset);
        if let Some(other) = acked.insert(place, ack.number).filter(|&n| n != ack.number) {
            wrong.push(format!(
                "inconsistent: records {other} and {} both acknowledged at {place:?}",
                ack.number
            ));
        }
        match at_offset.get(&place) {
            Some(number) if *number == ack.number => {}
            Some(number) => {
                wrong.push(format!(
                    "lost: record {} acknowledged at {place:?}, where {number} is",
                    ack.number
                ));
            }
            None => {
                wrong.push(format!("lost: record {} acknowledged at {place:?}, where nothing is", ack.number))
            }
        }
    }
}

fn check_order(history: &History, at_offset: &BTreeMap<(i32, i64), u64>, wrong: &mut Vec<String>) {
    let mut last: Option<((i32, i64), u64)> = None;
    for (&place, &number) in at_offset {
        match last.filter(|((partition, _), _)| *partition == place.0) {
            Some((before, _)) if place.1 != before.1 + 1 => {
                wrong.push(format!("gap: offset {} follows {} in partition {}", place.1, before.1, place.0));
            }
            None if place.1 != 0 => wrong.push(format!("gap: partition {} starts at {}", place.0, place.1)),
            _ => {}
        }
        // An unacknowledged record may land late, after its producer was replaced.
        if history.infos.contains(&(place.0, number)) {
            continue;
        }
        if let Some((before, earlier)) = last.filter(|(b, n)| b.0 == place.0 && *n > number) {
            wrong.push(format!("order: record {number} at {place:?} after {earlier} at {before:?}"));
        }
        last = Some((place, number));
    }
}

#[cfg(test)]
mod checker {
    use super::*;

    /// Ten records in each of two partitions, all acknowledged and read.
    fn sound() -> (History, Vec<Record>) {
        let (mut history, mut records) = (History { sent: vec![10, 10], ..History::default() }, Vec::new());
        for partition in 0..2 {
            for number in 0..10u64 {
                let offset = number as i64;
                history.acks.push(Ack { partition, number, offset, sent_us: 1, acked_us: 2 });
                records.push(Record { partition, offset, value: content("w", partition, number) });
            }
        }
        (history, records)
    }

    #[track_caller]
    fn finds(kind: &str, spoil: impl FnOnce(&mut History, &mut Vec<Record>)) {
        let (mut history, mut records) = sound();
        spoil(&mut history, &mut records);
        let wrong = check("w", &history, &records);
        assert!(wrong.iter().any(|w| w.starts_with(kind)), "{kind} not found in {wrong:?}");
    }

    #[test]
    fn sound_history_passes() {
        let (history, records) = sound();
        assert_eq!(check("w", &history, &records), Vec::<String>::new());
    }

    #[test]
    fn unacknowledged_record_may_be_there_or_not() {
        let (mut history, mut records) = sound();
        history.acks.retain(|a| (a.partition, a.number) != (0, 9));
        history.infos.insert((0, 9));
        assert_eq!(check("w", &history, &records), Vec::<String>::new());
        records.retain(|r| (r.partition, r.offset) != (0, 9));
        assert_eq!(check("w", &history, &records), Vec::<String>::new());
    }

    #[test]
    fn lost_record_is_found() {
        finds("lost", |_, records| records.retain(|r| (r.partition, r.offset) != (1, 9)));
        finds("lost", |_, records| records.clear());
    }

    #[test]
    fn record_at_another_offset_than_acknowledged_is_found() {
        finds("lost", |history, _| history.acks[3].offset = 4);
        finds("lost", |_, records| {
            records[3].value = content("w", 0, 4);
            records[4].value = content("w", 0, 3);
        });
    }

    #[test]
    fn duplicate_is_found() {
        finds("duplicate", |_, records| {
            records.push(Record { partition: 0, offset: 10, value: content("w", 0, 5) });
        });
    }

    #[test]
    fn duplicate_of_an_unacknowledged_record_is_found() {
        finds("duplicate", |history, records| {
            history.sent[0] = 11;
            history.infos.insert((0, 10));
            records.push(Record { partition: 0, offset: 10, value: content("w", 0, 10) });
            records.push(Record { partition: 0, offset: 11, value: content("w", 0, 10) });
        });
    }

    #[test]
    fn two_values_at_one_offset_are_found() {
        finds("inconsistent", |_, records| {
            records.push(Record { partition: 0, offset: 9, value: content("w", 0, 8) });
        });
        finds("inconsistent", |history, _| {
            history.acks.push(Ack { partition: 0, number: 4, offset: 5, sent_us: 1, acked_us: 2 });
        });
    }

    #[test]
    fn phantom_and_damage_are_found() {
        finds("phantom", |_, records| {
            records.push(Record { partition: 0, offset: 10, value: content("w", 0, 99) });
        });
        finds("phantom", |_, records| records[0].value = content("other", 0, 0));
        finds("phantom", |_, records| records[0].value = content("w", 1, 0));
        finds("damaged", |_, records| records[5].value.push('x'));
    }

    #[test]
    fn gap_and_disorder_are_found() {
        finds("gap", |history, records| {
            history.acks.retain(|a| a.number != 5);
            records.retain(|r| r.offset != 5);
        });
        finds("gap", |history, records| {
            history.acks.retain(|a| a.number != 0);
            records.retain(|r| r.offset != 0);
        });
        finds("order", |history, records| {
            records.swap(2, 3);
            (records[2].offset, records[3].offset) = (2, 3);
            (history.acks[2].offset, history.acks[3].offset) = (3, 2);
        });
    }

    #[test]
    fn logs_parse() {
        let history = parse_history(
            "{\"t\":\"ack\",\"p\":1,\"n\":2,\"o\":3,\"s\":4,\"a\":5}\n{\"t\":\"info\",\"p\":0,\"n\":7,\"e\":\"x\"}\n{\"t\":\"end\",\"sent\":[8,3]}\n",
        );
        assert_eq!(history.acks, [Ack { partition: 1, number: 2, offset: 3, sent_us: 4, acked_us: 5 }]);
        assert_eq!((history.infos.len(), history.sent), (1, vec![8, 3]));
        let (records, ends) =
            parse_records("{\"p\":0,\"o\":1,\"v\":\"w:0:1:\",\"k\":null}\n{\"end\":[2,0]}\n");
        assert_eq!((records[0].offset, ends), (1, vec![2, 0]));
    }
}
