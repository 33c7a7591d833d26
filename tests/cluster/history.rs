//! What producers were promised and what consumers saw against what the log holds: the checker. Pure; not a driver.
//!
//! Called by `faults` and `chaos` with the logs of writers (`tests/foreign/confluent/writer.py`), of readers that polled all
//! the while (`poller.py`), and with everything a last reader found. A record that was never acknowledged ("info") may be in
//! the log or not; everything else has exactly one lawful place.
//!
//! Violations, by the names of Jepsen's Kafka checker:
//! - lost: an acknowledged record is not at its acknowledged offset, or a record that was read is gone;
//! - inconsistent: two values at one offset, or two acknowledgements of one offset;
//! - duplicate: one record at two offsets (the producers are idempotent);
//! - phantom: a record nobody wrote; damaged: right name, wrong content;
//! - aborted: a record in the log, or acknowledged, whose producer was told for certain that it was refused;
//! - order: a producer's records of one partition out of order; gap: an offset skipped;
//! - poll-skip, nonmonotonic-poll: a reader passed over a record, or met an offset again or an earlier one;
//! - unseen: a reader did not come to the end; reset: it was told that its offset does not exist.

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
    /// Acknowledged without an offset: the client never saw the answer, and concluded it from that of a later batch.
    pub implied: BTreeSet<(i32, u64)>,
    /// Records that ended without an acknowledgement.
    pub infos: BTreeSet<(i32, u64)>,
    /// Records that were certain to be refused: how many were, and which were not.
    pub refused: u64,
    /// Numbers of such records that were acknowledged all the same.
    pub accepted: Vec<u64>,
    /// How many records of each partition were handed to the client; empty until the writer has ended.
    pub sent: Vec<u64>,
}

/// One record as a reader polled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// CRC-32 of the value.
    pub crc: u32,
}

/// Everything one reader saw, in order.
#[derive(Clone, Debug, Default)]
pub struct Polls {
    /// Records.
    pub seen: Vec<Poll>,
    /// Partitions it did not read to their ends, or was told a lie about, in its own words.
    pub complaints: Vec<String>,
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

/// The acknowledgement of an offset on one line of a writer's log, if it is one.
pub fn parse_ack(line: &str) -> Option<Ack> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["t"] == "ack" && !value["o"].is_null()).then(|| Ack {
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
        let which = || (value["p"].as_i64().expect("partition") as i32, value["n"].as_u64().expect("number"));
        match value["t"].as_str() {
            Some("ack") => _ = history.implied.insert(which()),
            Some("info") => _ = history.infos.insert(which()),
            Some("refused") => history.refused += 1,
            Some("accepted") => history.accepted.push(value["n"].as_u64().expect("number")),
            Some("end") => {
                let sent = value["sent"].as_array().expect("counts");
                history.sent = sent.iter().map(|n| n.as_u64().expect("a count")).collect();
            }
            other => panic!("unknown line {other:?}: {line}"),
        }
    }
    history
}

/// The log of a reader that polled all the while.
pub fn parse_polls(text: &str) -> Polls {
    let mut polls = Polls::default();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("line {line:?}: {e}"));
        let partition = value["p"].as_i64().expect("partition") as i32;
        match value["t"].as_str() {
            Some("poll") => polls.seen.push(Poll {
                partition,
                offset: value["o"].as_i64().expect("offset"),
                crc: value["c"].as_u64().expect("crc") as u32,
            }),
            Some(kind @ ("unseen" | "reset")) => {
                polls.complaints.push(format!("{kind}: partition {partition}: {}", value["e"]))
            }
            other => panic!("unknown line {other:?}: {line}"),
        }
    }
    polls
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

/// Whose record it is (a place in `runs`) and its number, if its content is exactly what that run wrote to `partition`.
fn identify(runs: &[(&str, &History)], partition: i32, value: &str) -> Result<(usize, u64), &'static str> {
    let mut parts = value.split(':');
    let run = parts.next();
    let (at, (name, _)) =
        runs.iter().enumerate().find(|(_, (name, _))| run == Some(*name)).ok_or("phantom")?;
    match parts.next() {
        Some("refused") => return Err("aborted"),
        Some(text) if text == partition.to_string() => {}
        _ => return Err("phantom"),
    }
    let number = parts.next().and_then(|n| n.parse().ok()).ok_or("damaged")?;
    if value == content(name, partition, number) { Ok((at, number)) } else { Err("damaged") }
}

/// Partition and offset.
type Place = (i32, i64);
/// Which run and which of its records.
type Who = (usize, u64);

/// Every violation found, worst first by kind of check; empty when all promises were kept. `runs` are the writers by the
/// names that stand in their records, `readers` those that polled all the while.
pub fn check(runs: &[(&str, &History)], readers: &[(&str, &Polls)], records: &[Record]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut at_offset: BTreeMap<Place, Who> = BTreeMap::new();
    let mut offset_of: BTreeMap<(i32, Who), i64> = BTreeMap::new();
    for record in records {
        let place = (record.partition, record.offset);
        let who = match identify(runs, record.partition, &record.value) {
            Ok(who) => who,
            Err(kind) => {
                let start: String = record.value.chars().take(40).collect();
                wrong.push(format!("{kind}: {start:?} at {place:?}"));
                continue;
            }
        };
        if who.1 >= runs[who.0].1.sent.get(record.partition as usize).copied().unwrap_or(0) {
            wrong.push(format!("phantom: record {who:?} at {place:?} was never sent"));
        }
        if let Some(other) = at_offset.insert(place, who) {
            wrong.push(format!("inconsistent: records {other:?} and {who:?} both read at {place:?}"));
        }
        if let Some(other) =
            offset_of.insert((record.partition, who), record.offset).filter(|&o| o != record.offset)
        {
            wrong.push(format!(
                "duplicate: record {who:?} of partition {} at {other} and {}",
                place.0, place.1
            ));
        }
    }
    check_acks(runs, &at_offset, &mut wrong);
    for (run, (name, history)) in runs.iter().enumerate() {
        let is_lost =
            |&&(partition, number): &&(i32, u64)| !offset_of.contains_key(&(partition, (run, number)));
        let lost = history.implied.iter().filter(is_lost);
        wrong.extend(
            lost.map(|r| format!("lost: record {r:?} of {name}, acknowledged without an offset, is nowhere")),
        );
    }
    check_order(runs, &at_offset, &mut wrong);
    let crcs =
        records.iter().map(|r| ((r.partition, r.offset), crc32fast::hash(r.value.as_bytes()))).collect();
    readers.iter().for_each(|(name, polls)| check_polls(name, polls, &crcs, &mut wrong));
    wrong
}

fn check_acks(runs: &[(&str, &History)], at_offset: &BTreeMap<Place, Who>, wrong: &mut Vec<String>) {
    let mut acked: BTreeMap<Place, Who> = BTreeMap::new();
    for (run, (name, history)) in runs.iter().enumerate() {
        assert!(!history.sent.is_empty(), "writer {name} has not ended");
        let accepted = history.accepted.iter();
        wrong.extend(
            accepted.map(|n| format!("aborted: record {n} of {name}, to be refused, was acknowledged")),
        );
        for ack in &history.acks {
            let (place, who) = ((ack.partition, ack.offset), (run, ack.number));
            if let Some(other) = acked.insert(place, who).filter(|&other| other != who) {
                wrong.push(format!(
                    "inconsistent: records {other:?} and {who:?} both acknowledged at {place:?}"
                ));
            }
            match at_offset.get(&place) {
                Some(found) if *found == who => {}
                Some(found) => {
                    wrong.push(format!("lost: record {who:?} acknowledged at {place:?}, where {found:?} is"));
                }
                None => {
                    wrong.push(format!("lost: record {who:?} acknowledged at {place:?}, where nothing is"))
                }
            }
        }
    }
}

fn check_order(runs: &[(&str, &History)], at_offset: &BTreeMap<Place, Who>, wrong: &mut Vec<String>) {
    let mut before: Option<Place> = None;
    let mut last: BTreeMap<(i32, usize), (Place, u64)> = BTreeMap::new();
    for (&place, &(run, number)) in at_offset {
        match before.filter(|b| b.0 == place.0) {
            Some(before) if place.1 != before.1 + 1 => {
                wrong.push(format!("gap: offset {} follows {} in partition {}", place.1, before.1, place.0));
            }
            None if place.1 != 0 => wrong.push(format!("gap: partition {} starts at {}", place.0, place.1)),
            _ => {}
        }
        before = Some(place);
        // An unacknowledged record may land late, after its producer was replaced.
        if runs[run].1.infos.contains(&(place.0, number)) {
            continue;
        }
        if let Some((earlier, n)) = last.insert((place.0, run), (place, number)).filter(|(_, n)| *n > number)
        {
            wrong.push(format!("order: record {number} at {place:?} after {n} at {earlier:?}"));
        }
    }
}

/// A reader that was assigned its partitions from the start sees every record once, in order, as it still is at the end.
fn check_polls(name: &str, polls: &Polls, crcs: &BTreeMap<Place, u32>, wrong: &mut Vec<String>) {
    wrong.extend(polls.complaints.iter().map(|c| format!("{c} ({name})")));
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for poll in &polls.seen {
        let place = (poll.partition, poll.offset);
        match crcs.get(&place) {
            Some(crc) if *crc == poll.crc => {}
            Some(_) => {
                wrong.push(format!("inconsistent: {name} read another value at {place:?} than is there now"))
            }
            None => wrong.push(format!("lost: {name} read {place:?}, where nothing is now")),
        }
        let due = next.insert(poll.partition, poll.offset + 1).unwrap_or(0);
        if poll.offset < due {
            wrong.push(format!("nonmonotonic-poll: {name} read {place:?} after {}", due - 1));
        } else if let Some((skipped, _)) = crcs.range((poll.partition, due)..place).next() {
            wrong.push(format!("poll-skip: {name} read {place:?} without {skipped:?}"));
        }
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

    fn violations(history: &History, records: &[Record]) -> Vec<String> {
        check(&[("w", history)], &[("r", &all_of(records))], records)
    }

    /// What a reader polls that sees all of these records.
    fn all_of(records: &[Record]) -> Polls {
        let poll = |r: &Record| Poll {
            partition: r.partition,
            offset: r.offset,
            crc: crc32fast::hash(r.value.as_bytes()),
        };
        Polls { seen: records.iter().map(poll).collect(), complaints: Vec::new() }
    }

    #[track_caller]
    fn finds(kind: &str, spoil: impl FnOnce(&mut History, &mut Vec<Record>)) {
        let (mut history, mut records) = sound();
        spoil(&mut history, &mut records);
        let wrong = violations(&history, &records);
        assert!(wrong.iter().any(|w| w.starts_with(kind)), "{kind} not found in {wrong:?}");
    }

    #[test]
    fn sound_history_passes() {
        let (history, records) = sound();
        assert_eq!(violations(&history, &records), Vec::<String>::new());
    }

    #[test]
    fn unacknowledged_record_may_be_there_or_not() {
        let (mut history, mut records) = sound();
        history.acks.retain(|a| (a.partition, a.number) != (0, 9));
        history.infos.insert((0, 9));
        assert_eq!(violations(&history, &records), Vec::<String>::new());
        records.retain(|r| (r.partition, r.offset) != (0, 9));
        assert_eq!(violations(&history, &records), Vec::<String>::new());
    }

    #[test]
    fn record_acknowledged_without_an_offset_must_be_somewhere() {
        let line = r#"{"t":"ack","p":1,"n":4,"o":null,"s":1,"a":2}"#;
        assert_eq!((parse_ack(line), parse_history(line).implied), (None, BTreeSet::from([(1, 4)])));
        let (mut history, mut records) = sound();
        history.acks.retain(|a| (a.partition, a.number) != (1, 9));
        history.implied.insert((1, 9));
        assert_eq!(violations(&history, &records), Vec::<String>::new());
        records.retain(|r| (r.partition, r.offset) != (1, 9));
        assert_eq!(violations(&history, &records).len(), 1);
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
    fn refused_record_that_is_there_or_was_acknowledged_is_found() {
        finds("aborted", |_, records| {
            records.push(Record { partition: 0, offset: 10, value: "w:refused:3:xxx".to_string() });
        });
        finds("aborted", |history, _| history.accepted.push(3));
    }

    #[test]
    fn two_writers_are_told_apart() {
        let (one, mut records) = sound();
        let two = History {
            sent: vec![1, 0],
            acks: vec![Ack { partition: 0, number: 0, offset: 10, sent_us: 1, acked_us: 2 }],
            ..History::default()
        };
        records.push(Record { partition: 0, offset: 10, value: content("v", 0, 0) });
        let runs = [("w", &one), ("v", &two)];
        assert_eq!(check(&runs, &[], &records), Vec::<String>::new());
        // The same offset promised to both.
        let mut greedy = two.clone();
        greedy.acks[0].offset = 9;
        let wrong = check(&[("w", &one), ("v", &greedy)], &[], &records);
        assert!(wrong.iter().any(|w| w.starts_with("inconsistent")), "{wrong:?}");
        // A run nobody knows.
        assert!(check(&runs[..1], &[], &records)[0].starts_with("phantom"));
    }

    #[track_caller]
    fn reader_finds(kind: &str, spoil: impl FnOnce(&mut Polls)) {
        let (history, records) = sound();
        let mut polls = all_of(&records);
        spoil(&mut polls);
        let wrong = check(&[("w", &history)], &[("r", &polls)], &records);
        assert!(wrong.iter().any(|w| w.starts_with(kind)), "{kind} not found in {wrong:?}");
    }

    #[test]
    fn reader_that_stops_early_is_lawful_unless_it_complains() {
        let (history, records) = sound();
        let mut polls = all_of(&records);
        polls.seen.truncate(4);
        assert_eq!(check(&[("w", &history)], &[("r", &polls)], &records), Vec::<String>::new());
        reader_finds("unseen", |polls| polls.complaints.push("unseen: partition 0".to_string()));
        reader_finds("reset", |polls| polls.complaints.push("reset: partition 0".to_string()));
    }

    #[test]
    fn reader_that_skips_or_steps_back_is_found() {
        reader_finds("poll-skip", |polls| _ = polls.seen.remove(5));
        reader_finds("poll-skip", |polls| _ = polls.seen.remove(0));
        reader_finds("nonmonotonic-poll", |polls| polls.seen.insert(5, polls.seen[4]));
        reader_finds("nonmonotonic-poll", |polls| polls.seen.swap(3, 4));
    }

    #[test]
    fn record_read_that_is_gone_or_changed_is_found() {
        reader_finds("inconsistent", |polls| polls.seen[7].crc ^= 1);
        reader_finds("lost", |polls| polls.seen.push(Poll { partition: 0, offset: 10, crc: 1 }));
    }

    #[test]
    fn logs_parse() {
        let history = parse_history(
            "{\"t\":\"ack\",\"p\":1,\"n\":2,\"o\":3,\"s\":4,\"a\":5}\n{\"t\":\"info\",\"p\":0,\"n\":7,\"e\":\"x\"}\n{\"t\":\"end\",\"sent\":[8,3]}\n",
        );
        assert_eq!(history.acks, [Ack { partition: 1, number: 2, offset: 3, sent_us: 4, acked_us: 5 }]);
        assert_eq!((history.infos.len(), history.sent), (1, vec![8, 3]));
        let history = parse_history("{\"t\":\"refused\",\"n\":0}\n{\"t\":\"accepted\",\"n\":1}\n");
        assert_eq!((history.refused, history.accepted), (1, vec![1]));
        let polls = parse_polls(
            "{\"t\":\"poll\",\"p\":1,\"o\":2,\"c\":3}\n{\"t\":\"unseen\",\"p\":0,\"e\":\"at 3 of 4\"}\n",
        );
        assert_eq!(polls.seen, [Poll { partition: 1, offset: 2, crc: 3 }]);
        assert_eq!(polls.complaints, ["unseen: partition 0: \"at 3 of 4\""]);
        let (records, ends) =
            parse_records("{\"p\":0,\"o\":1,\"v\":\"w:0:1:\",\"k\":null}\n{\"end\":[2,0]}\n");
        assert_eq!((records[0].offset, ends), (1, vec![2, 0]));
    }
}
