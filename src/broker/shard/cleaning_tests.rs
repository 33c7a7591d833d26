//! Compacted topics on one node: what is left, what it frees, and what happens where it fails or is cut short.
use super::*;
use crate::broker::shard::cleaning::RESTS_MS;
use crate::segment::Cleaned;
use crate::wire::compression::Compression;
use crate::wire::record::{Batch as Records, RecordBatchBuilder};

const SETTINGS: &[(&str, &str)] = &[("log.cleaner.backoff.ms", "200")];

fn started(fs: SimFs) -> Alone {
    let settings: Vec<(&str, String)> =
        SETTINGS.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    let mut alone = Alone::start_with(fs, None, &settings);
    alone.run(5_000);
    assert!(alone.shard.status().registered, "{:?}", alone.shard.status());
    alone
}

/// A node with a compacted topic of small segments.
fn with_compacted(policy: &str) -> (Alone, GroupId) {
    let mut alone = started(SimFs::new(1));
    let configs = [
        ("cleanup.policy", policy),
        ("internal.segment.bytes", "8192"),
        ("min.cleanable.dirty.ratio", "0.2"),
        ("delete.retention.ms", "1000"),
        ("retention.ms", "50000"),
    ];
    let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
    alone.ask_for_topic_with("t", &[], configs);
    alone.run(200);
    let group = alone.shard.image.topics["t"].partitions[0].group;
    (alone, group)
}

fn put(alone: &mut Alone, group: GroupId, key: u32, value: Option<u32>) {
    try_put(alone, group, key, value).unwrap();
}

fn try_put(alone: &mut Alone, group: GroupId, key: u32, value: Option<u32>) -> Result<(), PartitionError> {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    let value = value.map(|value| value.to_string().repeat(40));
    builder.append(alone.wall_ms, Some(&key.to_be_bytes()), value.as_deref().map(str::as_bytes), &[]);
    alone.send(group, builder.build().unwrap())
}

/// Offset, key and value of every record, as they stand in the log.
fn records(alone: &mut Alone, group: GroupId) -> Vec<(i64, u32, Option<String>)> {
    let (mut next, mut found) = (Index(1), Vec::new());
    let store = alone.shard.engine.store();
    let last = store.last(group).unwrap().0.index;
    while next <= last {
        for entry in store.read(group, next, 1 << 16).unwrap() {
            next = entry.meta.id.index.next();
            if entry.meta.kind != EntryKind::Records || entry.payload.is_empty() {
                continue;
            }
            for record in Records::open(&entry.payload, 1 << 20).unwrap().records() {
                let record = record.unwrap();
                let key = u32::from_be_bytes(record.key.unwrap().try_into().unwrap());
                let value = record.value.map(|value| String::from_utf8(value.to_vec()).unwrap());
                found.push((record.offset, key, value));
            }
        }
    }
    assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    found
}

fn latest(records: &[(i64, u32, Option<String>)]) -> BTreeMap<u32, Option<String>> {
    records.iter().map(|(_, key, value)| (*key, value.clone())).collect()
}

fn again(alone: Alone) -> Alone {
    let wall_ms = alone.wall_ms;
    let mut alone = started(reopen(alone));
    alone.wall_ms = wall_ms;
    alone
}

#[test]
fn last_value_of_every_key_stays_and_the_space_of_the_others_comes_back() {
    let (mut alone, group) = with_compacted("compact");
    for n in 0..300 {
        put(&mut alone, group, n % 10, Some(n));
    }
    alone.run(5_000);
    let (before, left) = (300, records(&mut alone, group));
    let status = alone.shard.status().cleaner.clone();
    assert!(status.passes > 0 && status.bytes_freed > 0 && status.uncleanable.is_empty(), "{status:?}");
    assert!(left.len() < before / 3, "{} records are left", left.len());
    let expected: BTreeMap<u32, Option<String>> =
        (290..300).map(|n: u32| (n % 10, Some(n.to_string().repeat(40)))).collect();
    assert_eq!(latest(&left), expected);
    assert_eq!(alone.shard.partitions[&group].start, Offset(0), "compaction moves no log start");
    assert_eq!(alone.shard.partitions[&group].end, Offset(300));
    let bytes = alone.shard.engine.store().size_bytes(group).unwrap();
    assert!(bytes < 300 * 200 / 2, "{bytes} bytes");
    // A start finds the same, knows what is clean, and what is written next is compacted with it.
    let mut alone = again(alone);
    assert_eq!(records(&mut alone, group), left);
    alone.run(3_000);
    assert_eq!(alone.shard.status().cleaner.passes, 0, "nothing is dirty");
    // Files that a start opens and nobody writes to are in nobody's way.
    for _ in 0..3 {
        alone = again(alone);
    }
    for n in 300..500 {
        put(&mut alone, group, n % 10, Some(n));
    }
    alone.run(5_000);
    let left = records(&mut alone, group);
    assert!(left.len() < 100 && left[0].0 > 300, "{left:?}");
    assert_eq!(latest(&left).len(), 10);
}

/// What a key holds, as far as it is left.
fn of_key(alone: &mut Alone, group: GroupId, key: u32) -> Vec<Option<String>> {
    records(alone, group).into_iter().filter(|r| r.1 == key).map(|r| r.2).collect()
}

fn cleaned(alone: &Alone, group: GroupId) -> Cleaned {
    alone.shard.engine.store_ref().cleaned(group).unwrap()
}

#[test]
pub(crate) fn tombstone_goes_when_its_time_is_over_in_a_later_pass_than_what_it_deletes() {
    let (mut alone, group) = with_compacted("compact");
    put(&mut alone, group, 77, Some(1));
    put(&mut alone, group, 77, None);
    let fill = |alone: &mut Alone| {
        (0..120).for_each(|n| put(alone, group, n % 4, Some(n)));
        alone.run(3_000);
    };
    fill(&mut alone);
    assert_eq!(of_key(&mut alone, group, 77), [None]);
    assert!(cleaned(&alone, group).clean > Offset(100), "{:?}", cleaned(&alone, group));
    // No compaction comes for a tombstone alone.
    let passes = alone.shard.status().cleaner.passes;
    alone.wall_ms += 999;
    alone.run(3_000);
    assert_eq!(alone.shard.status().cleaner.passes, passes);
    fill(&mut alone);
    assert_eq!(
        (of_key(&mut alone, group, 77).len(), cleaned(&alone, group).dropped),
        (1, Offset(0)),
        "too early"
    );
    alone.wall_ms += 1;
    fill(&mut alone);
    assert_eq!(of_key(&mut alone, group, 77), []);
    let numbers = cleaned(&alone, group);
    assert_eq!(numbers.dropped, Offset(2), "as high as the tombstone's end, and no higher");
    assert_eq!(alone.shard.status().cleaner.tombstones_removed, 1);
    // A start knows as much.
    let alone = again(alone);
    assert_eq!(cleaned(&alone, group), numbers);
}

/// Another replica cannot be repaired before this one is as clean as it.
#[test]
fn partition_that_is_asked_to_be_clean_is_compacted_whatever_the_ratio() {
    let (mut alone, group) = with_compacted("compact");
    (0..300).for_each(|n| put(&mut alone, group, n, Some(n)));
    alone.run(5_000);
    put(&mut alone, group, 1, Some(7));
    put(&mut alone, group, 1, Some(8));
    alone.run(3_000);
    let (passes, end) = (alone.shard.status().cleaner.passes, alone.shard.partitions[&group].end);
    assert!(cleaned(&alone, group).clean < end);
    alone.shard.want_clean(group, end);
    alone.shard.want_clean(group, Offset(1));
    // There is no more than that.
    alone.shard.want_clean(group, Offset(1_000_000));
    alone.run(5_000);
    assert_eq!(cleaned(&alone, group).clean, end, "what was appended to is closed for it");
    assert_eq!(of_key(&mut alone, group, 1).len(), 1);
    let status = alone.shard.status().cleaner.clone();
    assert_eq!(status.passes, passes + 1);
    put(&mut alone, group, 1, Some(9));
    alone.run(5_000);
    assert_eq!(alone.shard.status().cleaner.passes, passes + 1, "once");
}

/// A log start that moved ended it, and what had been learned for hours was lost.
#[test]
fn compaction_goes_on_when_retention_takes_the_oldest_files() {
    let settings = [("log.cleaner.backoff.ms", "200"), ("log.retention.check.interval.ms", "100")];
    let settings = settings.map(|(key, value)| (key, value.to_owned()));
    let mut alone = Alone::start_with(SimFs::new(1), None, &settings);
    alone.run(5_000);
    alone.wall_ms = 1_000_000;
    let rate = ("log.cleaner.io.max.bytes.per.second".to_owned(), "1".to_owned());
    Arc::make_mut(&mut alone.shard.image).configs.extend([rate]);
    let configs = [
        ("cleanup.policy", "compact,delete"),
        ("internal.segment.bytes", "8192"),
        ("min.cleanable.dirty.ratio", "0.2"),
        ("retention.ms", "50000"),
    ];
    let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
    alone.ask_for_topic_with("t", &[], configs);
    alone.run(200);
    let group = alone.shard.image.topics["t"].partitions[0].group;
    (0..150).for_each(|n| put(&mut alone, group, n % 5, Some(n)));
    alone.wall_ms += 30_000;
    (0..150).for_each(|n| put(&mut alone, group, n % 5, Some(n)));
    alone.run(1_000);
    assert!(alone.shard.cleaning.running.is_some(), "all has been read");
    let files = alone.shard.engine.store().closed_files(group).unwrap();
    assert!(files.len() > 3);
    // The older half is too old by now.
    alone.wall_ms += 30_000;
    alone.run(1_000);
    let left = alone.shard.engine.store().closed_files(group).unwrap();
    assert!(left.len() < files.len() && !left.is_empty(), "{} of {}", left.len(), files.len());
    Arc::make_mut(&mut alone.shard.image).configs.remove("log.cleaner.io.max.bytes.per.second");
    // The step that waited takes its turn; nobody who has given up comes back so soon.
    alone.run(62_000);
    assert!(alone.shard.status().cleaner.passes > 0);
    let end = left.last().unwrap().next_offset;
    assert!(cleaned(&alone, group).clean >= end, "{end}: {:?}", cleaned(&alone, group));
}

/// It was learned to its end, but only what is in place counts: the rest still holds what the keys behind replace.
#[test]
fn partition_is_clean_as_far_as_its_files_are_in_place() {
    let (mut alone, group) = with_compacted("compact");
    let rate = ("log.cleaner.io.max.bytes.per.second".to_owned(), "1".to_owned());
    Arc::make_mut(&mut alone.shard.image).configs.extend([rate]);
    alone.run(1_000);
    // It begins when all is there.
    let now = alone.now();
    alone.shard.abandon(now, group, None);
    (0..150).for_each(|n| put(&mut alone, group, n, Some(n)));
    let closed = alone.shard.engine.store().closed_files(group).unwrap();
    assert!(closed.len() > 2 && cleaned(&alone, group) == Cleaned::default());
    alone.run(RESTS_MS + 1_000);
    let (mut now, mut seen) = (alone.now(), Vec::new());
    while seen.len() < 2 {
        now.mono += 61_000;
        alone.shard.tick_cleaning(now);
        let mut step = alone.shard.take_cleaning(now).expect("one is due");
        step.run();
        alone.shard.handle(now, Input::Cleaned(Box::new(step)));
        let clean = cleaned(&alone, group).clean;
        seen.extend(Some(clean).filter(|clean| *clean > Offset(0)));
    }
    assert_eq!(seen, [closed[0].next_offset, closed[1].next_offset]);
    // It ends here: nothing else counts.
    alone.shard.abandon(now, group, None);
    assert_eq!(cleaned(&alone, group).clean, closed[1].next_offset);
}

/// What it has written says nothing of the log that it is handed back to: not even a file that is whole is put in its place.
#[test]
fn file_that_is_whole_is_not_put_in_its_place_once_the_log_has_changed() {
    let (mut alone, group) = with_compacted("compact");
    let rate = ("log.cleaner.io.max.bytes.per.second".to_owned(), "1".to_owned());
    Arc::make_mut(&mut alone.shard.image).configs.extend([rate]);
    (0..60).for_each(|n| put(&mut alone, group, 1, Some(n)));
    alone.run(1_000);
    let files = alone.fs.files().len();
    // What is dirty has been read by now.
    let mut now = alone.now();
    now.mono += 61_000;
    alone.shard.tick_cleaning(now);
    let mut step = alone.shard.take_cleaning(now).expect("one is due");
    step.run();
    assert!(alone.fs.files().len() > files, "it is whole");
    alone.shard.cleaning.running.as_mut().expect("slow").log.2 += 1;
    alone.shard.handle(now, Input::Cleaned(Box::new(step)));
    assert!(alone.shard.cleaning.running.is_none());
    assert_eq!((alone.fs.files().len(), records(&mut alone, group).len()), (files, 60));
    assert_eq!(cleaned(&alone, group), Cleaned::default());
}

/// One whose compactions always ended early was the dirtiest for ever, and nobody else had a turn.
#[test]
fn compaction_that_ends_early_costs_its_partition_a_turn() {
    let (mut alone, group) = with_compacted("compact");
    let configs = [("cleanup.policy", "compact"), ("internal.segment.bytes", "8192")];
    let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
    alone.ask_for_topic_with("other", &[], configs);
    alone.run(1_000);
    let other = alone.shard.image.topics["other"].partitions[0].group;
    let now = alone.now();
    alone.shard.abandon(now, group, None);
    for n in 0..60 {
        put(&mut alone, group, 1, Some(n));
        put(&mut alone, other, n % 3, Some(n));
    }
    alone.run(1_000);
    assert_eq!(records(&mut alone, group).len(), 60, "it rests");
    assert!(records(&mut alone, other).len() < 60, "and another one has its turn");
    alone.run(RESTS_MS);
    assert!(records(&mut alone, group).len() < 60);
}

/// Keys that were learned of records that a new generation took back would remove older ones that are the last again.
#[test]
pub(crate) fn compaction_ends_when_its_log_is_another() {
    for change in 0..3 {
        let (mut alone, group) = with_compacted("compact");
        let rate = ("log.cleaner.io.max.bytes.per.second".to_owned(), "1".to_owned());
        Arc::make_mut(&mut alone.shard.image).configs.extend([rate]);
        (0..60).for_each(|n| put(&mut alone, group, 1, Some(n)));
        alone.run(1_000);
        let running = alone.shard.cleaning.running.as_mut().expect("slow");
        match change {
            0 => running.log.0 = Generation(7),
            1 => running.log.1 = Index(1_000),
            _ => running.log.2 += 1,
        }
        alone.run(61_000);
        let left = (records(&mut alone, group).len(), alone.shard.status().cleaner.passes);
        assert_eq!(left, (60, 0), "it went on, change {change}");
    }
}

#[test]
fn producers_are_known_after_compaction_and_a_restart() {
    let (mut alone, group) = with_compacted("compact");
    let batch = |sequence: i32| {
        let mut builder = RecordBatchBuilder::new(Compression::None);
        builder.producer(9, 0, sequence);
        builder.append(0, Some(&1u32.to_be_bytes()), Some(b"x"), &[]);
        builder.build().unwrap()
    };
    for sequence in 0..7 {
        alone.send(group, batch(sequence)).unwrap();
    }
    for n in 0..150 {
        put(&mut alone, group, n % 3, Some(n));
    }
    alone.run(5_000);
    assert!(alone.shard.status().cleaner.passes > 0);
    let mut alone = again(alone);
    assert!(records(&mut alone, group).iter().all(|r| r.0 >= 7), "its records are gone");
    let verdict = |alone: &Alone, sequence| {
        let header = BatchHeader::read(&batch(sequence)).unwrap();
        alone.shard.partitions[&group].check_producer(&header, 0, 1_000_000)
    };
    assert_eq!(verdict(&alone, 7), Ok(Verdict::Append));
    assert!(matches!(verdict(&alone, 2), Ok(Verdict::Duplicate { base_offset: Offset(2), .. })));
    assert!(verdict(&alone, 9).is_err());
}

#[test]
fn retention_by_time_is_only_for_topics_that_say_delete() {
    for (policy, goes) in [("compact", false), ("compact,delete", true)] {
        let (mut alone, group) = with_compacted(policy);
        for n in 0..100 {
            put(&mut alone, group, n, Some(n));
        }
        alone.wall_ms += 60_000;
        alone.run(310_000);
        assert_eq!(alone.shard.partitions[&group].start > Offset(0), goes, "{policy}");
    }
}

#[test]
fn old_records_of_a_quiet_topic_are_compacted_in_time() {
    let (mut alone, _) = with_compacted("compact");
    let configs = [
        ("cleanup.policy", "compact"),
        ("max.compaction.lag.ms", "2000"),
        ("min.cleanable.dirty.ratio", "1"),
    ];
    let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
    alone.wall_ms = 1_000_000;
    alone.ask_for_topic_with("quiet", &[], configs);
    alone.run(200);
    let group = alone.shard.image.topics["quiet"].partitions[0].group;
    for n in 0..20 {
        put(&mut alone, group, 1, Some(n));
    }
    alone.run(2_000);
    assert_eq!(records(&mut alone, group).len(), 20, "the segment is nowhere near full");
    alone.wall_ms += 2_001;
    alone.run(2_000);
    assert_eq!(records(&mut alone, group).len(), 1);
}

#[test]
fn damage_that_the_cleaner_meets_is_told_and_others_are_compacted() {
    let settings = [("log.cleaner.backoff.ms", "20000".to_owned())];
    let mut alone = Alone::start_with(SimFs::new(1), None, &settings);
    alone.run(5_000);
    let segments = |alone: &Alone| -> BTreeSet<std::path::PathBuf> {
        let files = alone.fs.files().into_iter().map(|file| file.0);
        files.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).collect()
    };
    let mut groups = Vec::new();
    for name in ["bad", "good"] {
        let configs = [("cleanup.policy", "compact"), ("internal.segment.bytes", "8192")];
        let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
        let before = segments(&alone);
        alone.ask_for_topic_with(name, &[], configs);
        alone.run(200);
        let group = alone.shard.image.topics[name].partitions[0].group;
        let made = segments(&alone).difference(&before).next().cloned().unwrap();
        groups.push((group, made));
    }
    for n in 0..45 {
        groups.iter().for_each(|(group, _)| put(&mut alone, *group, n % 3, Some(n)));
    }
    assert_eq!(alone.shard.status().cleaner.passes, 0, "the first look is still to come");
    let (bad, path) = groups[0].clone();
    alone.fs.flip(&path, 5_000, 1);
    alone.run(60_000);
    let status = alone.shard.status().clone();
    assert!(
        status.cleaner.uncleanable.iter().any(|(group, why)| *group == bad && why.contains("entry")),
        "{status:?}"
    );
    assert_eq!((status.cleaner.uncleanable.len(), status.cleaner.passes), (1, 1));
    assert_eq!((status.damaged, status.storage_failure), (vec![bad], None));
}

#[test]
fn cleaner_that_is_turned_off_or_slowed_down_is() {
    let fill = |settings: &[(&str, String)]| {
        let settings = [&[("log.cleaner.backoff.ms", "200".to_owned())], settings].concat();
        let mut alone = Alone::start_with(SimFs::new(1), None, &settings);
        alone.run(5_000);
        let configs = [("cleanup.policy", "compact"), ("internal.segment.bytes", "8192")];
        let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
        alone.ask_for_topic_with("t", &[], configs);
        alone.run(200);
        let group = alone.shard.image.topics["t"].partitions[0].group;
        for n in 0..60 {
            put(&mut alone, group, 1, Some(n));
        }
        alone.run(5_000);
        alone.shard.status().cleaner.passes
    };
    assert!(fill(&[]) > 0);
    assert_eq!(fill(&[("log.cleaner.enable", "false".to_owned())]), 0);
    // One step of it is four mebibytes and takes as long as the rate says.
    assert_eq!(fill(&[("log.cleaner.io.max.bytes.per.second", "100".to_owned())]), 0);
}

/// A step that panicked never came back, and nothing was compacted on that broker any more.
#[test]
fn step_that_panics_is_told_and_others_are_compacted() {
    let (mut alone, group) = with_compacted("compact");
    let rate = ("log.cleaner.io.max.bytes.per.second".to_owned(), "1".to_owned());
    Arc::make_mut(&mut alone.shard.image).configs.extend([rate]);
    (0..60).for_each(|n| put(&mut alone, group, 1, Some(n)));
    alone.run(1_000);
    // The next one waits for its time.
    let mut now = alone.now();
    now.mono += 61_000;
    alone.shard.tick_cleaning(now);
    let mut step = alone.shard.take_cleaning(now).expect("one is due");
    step.guard(|_| panic!("on purpose"));
    alone.shard.handle(now, Input::Cleaned(Box::new(step)));
    let status = alone.shard.status().clone();
    let told = &status.cleaner.uncleanable;
    assert!(told.iter().any(|(of, why)| *of == group && why.contains("on purpose")), "{status:?}");
    assert_eq!(status.storage_failure, None);
    Arc::make_mut(&mut alone.shard.image).configs.remove("log.cleaner.io.max.bytes.per.second");
    alone.run(130_000);
    assert!(alone.shard.status().cleaner.passes > 0 && records(&mut alone, group).len() < 60);
    assert!(alone.shard.status().cleaner.uncleanable.is_empty());
}

/// It counted from the newest record, and a segment that was written to slowly never closed.
#[test]
fn segment_ms_counts_from_the_first_record_of_the_segment() {
    let settings = [("log.retention.check.interval.ms", "100".to_owned())];
    let mut alone = Alone::start_with(SimFs::new(1), None, &settings);
    alone.run(5_000);
    alone.wall_ms = 1_000_000;
    let configs = [("segment.ms".to_owned(), Some("10000".to_owned()))].into();
    alone.ask_for_topic_with("t", &[], configs);
    alone.run(200);
    let group = alone.shard.image.topics["t"].partitions[0].group;
    let mut segments = Vec::new();
    for n in 0..6 {
        put(&mut alone, group, n, Some(n));
        alone.run(500);
        segments.push(alone.shard.engine.store().segments(group).unwrap().len());
        alone.wall_ms += 4_000;
    }
    // After twelve seconds; the next one has begun four later.
    assert_eq!(segments, [1, 1, 1, 2, 2, 2]);
}

/// It waited for the next look at retention, five minutes later.
#[test]
fn short_segment_ms_does_not_wait_for_the_next_look_at_retention() {
    let mut alone = Alone::new();
    alone.run(15_000);
    let configs = [("segment.ms".to_owned(), Some("1000".to_owned()))].into();
    alone.ask_for_topic_with("t", &[], configs);
    alone.run(200);
    let group = alone.shard.image.topics["t"].partitions[0].group;
    for n in 0..3 {
        alone.wall_ms += 2_500;
        put(&mut alone, group, n, Some(n));
        alone.wall_ms += 2_500;
        alone.run(2_500);
    }
    assert_eq!(alone.shard.engine.store().segments(group).unwrap().len(), 4);
}

#[test]
fn power_cut_anywhere_in_a_compaction_loses_nothing_and_the_next_one_goes_on() {
    let (mut cut, mut compacted) = (0, 0);
    for at in 0..60 {
        // The first look comes ten seconds after the start.
        let settings = [("log.cleaner.backoff.ms", "20000".to_owned())];
        let mut alone = Alone::start_with(SimFs::new(at), None, &settings);
        alone.run(4_000);
        let configs = [("cleanup.policy", "compact"), ("internal.segment.bytes", "8192")];
        let configs = configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
        alone.ask_for_topic_with("t", &[], configs);
        alone.run(200);
        let group = alone.shard.image.topics["t"].partitions[0].group;
        (0..100).for_each(|n| put(&mut alone, group, n % 7, Some(n)));
        assert_eq!(alone.shard.status().cleaner.passes, 0);
        let expected = latest(&records(&mut alone, group));
        alone.run(10_900 - alone.now);
        alone.fs.power_off_after(at);
        for _ in 0..60 {
            if !alone.fs.is_off() {
                alone.run(50);
            }
        }
        cut += usize::from(alone.fs.is_off());
        let Alone { fs, shard, writer, .. } = alone;
        drop((shard, writer));
        fs.crash(at);
        let mut alone = started(fs);
        let left = records(&mut alone, group);
        assert_eq!(
            (latest(&left), alone.shard.partitions[&group].end),
            (expected.clone(), Offset(100)),
            "cut at {at}"
        );
        compacted += usize::from(left.len() < 100);
        assert!(alone.shard.status().damaged.is_empty(), "cut at {at}: {:?}", alone.shard.status());
        alone.run(3_000);
        let left = records(&mut alone, group);
        assert!(latest(&left) == expected && left.len() < 60, "cut at {at}: {} left", left.len());
    }
    assert!(cut > 10 && compacted > 5, "{cut} cut, {compacted} had been compacted");
}
