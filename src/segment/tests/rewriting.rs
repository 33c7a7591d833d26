//! Compaction of closed files: every walk of the log sees the entries that were there, whatever is left of them, and whenever the power
//! fails there is the old log or the new one.

use super::rig::*;
use crate::segment::fs::Fs;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use crate::wire::batch::BatchHeader;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

const G: GroupId = GroupId(1);
const SPAN: u32 = 3;

/// How many seeds: `KONTIKI_SEEDS`, or so many.
fn seeds(default: u64) -> u64 {
    std::env::var("KONTIKI_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// A batch with the header that its place in the log asks for.
fn batch_at(base: i64, span: u32, len: usize, timestamp: i64) -> Bytes {
    let mut bytes = vec![base as u8; len.max(61)];
    let header = BatchHeader {
        base_offset: base,
        batch_length: (bytes.len() - 12) as i32,
        magic: 2,
        last_offset_delta: span as i32 - 1,
        max_timestamp: timestamp,
        producer_id: -1,
        record_count: span as i32,
        ..BatchHeader::default()
    };
    header.write(&mut bytes);
    Bytes::from(bytes)
}

/// What stays of a batch for its producer's sake: no record has its largest timestamp any more.
fn header_alone(base: i64, span: u32, timestamp: i64) -> Bytes {
    let mut bytes = batch_at(base, span, 61, timestamp).to_vec();
    bytes[57..61].fill(0);
    Bytes::from(bytes)
}

/// Entries behind the end of a log: batches, and now and then a control entry or a new term.
fn some(store: &Store, random: &mut StdRng, count: usize) -> Vec<Entry> {
    let mut last = store.last(G).expect("group is there");
    let mut entries = Vec::new();
    for _ in 0..count {
        let term = last.0.epoch.term.0.max(1) + u64::from(random.random_bool(0.05));
        let span = if random.random_bool(0.8) { SPAN } else { random.random_range(1..400) };
        let len = if random.random_bool(0.05) { 5000 } else { random.random_range(61..500) };
        let e = match random.random_range(0..12) {
            0 => entry(last, term, EntryKind::Noop, 0, Bytes::new()),
            1 => entry(last, term, EntryKind::Configuration, 0, Bytes::from_static(b"members")),
            2 => entry(last, term, EntryKind::LogStart, 0, Bytes::from_static(b"12345678")),
            _ => {
                let timestamp = random.random_range(0..1000);
                let payload = batch_at(last.1.0, span, len, timestamp);
                entry(last, term, EntryKind::Records, span, payload)
            }
        };
        last = (e.meta.id, e.meta.next_offset());
        entries.push(e);
    }
    entries
}

fn records_of(store: &Store, count: usize, len: usize) -> Vec<Entry> {
    let mut last = store.last(G).expect("group is there");
    let mut entries = Vec::new();
    for _ in 0..count {
        let payload = batch_at(last.1.0, SPAN, len, last.0.index.0 as i64 % 1000);
        let e = entry(last, last.0.epoch.term.0.max(1), EntryKind::Records, SPAN, payload);
        last = (e.meta.id, e.meta.next_offset());
        entries.push(e);
    }
    entries
}

/// What stays of an entry, by a rule that a seed chooses.
fn keep(meta: &EntryMeta, payload: &[u8], salt: u64) -> Keep {
    let dice = (meta.id.index.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt)
        .wrapping_mul(0xBF58_476D_1CE4_E5B9)
        >> 40;
    // Whole stretches of it, so that there are gaps of more than one.
    let stretch = (meta.id.index.0 / 7 + salt) % 3;
    match (stretch, dice % 8) {
        (0, _) | (_, 0..3) => Keep::Nothing,
        (_, 3) => Keep::Batch(header_alone(meta.base_offset.0, meta.offset_span, 5_000)),
        (_, 4) if payload.len() > 80 => {
            let timestamp = i64::from_be_bytes(payload[35..43].try_into().expect("eight"));
            Keep::Batch(batch_at(meta.base_offset.0, meta.offset_span, payload.len() - 19, timestamp / 2))
        }
        _ => Keep::Whole,
    }
}

/// The same done to a copy of the log.
fn compacted(entry: &Entry, salt: u64) -> Entry {
    let is_asked = entry.meta.kind == EntryKind::Records && !entry.payload.is_empty();
    let payload = match is_asked.then(|| keep(&entry.meta, &entry.payload, salt)) {
        Some(Keep::Nothing) => Bytes::new(),
        Some(Keep::Batch(payload)) => payload,
        Some(Keep::Whole) | None => entry.payload.clone(),
    };
    Entry { meta: EntryMeta { payload_len: payload.len() as u32, ..entry.meta }, payload }
}

fn settle(store: &mut Store, writer: &mut Writer) -> Result<()> {
    for _ in 0..4 {
        writer.idle();
        writer.idle();
        // A round, whether anything else happens or not: it tells what has reached its file.
        store.flush();
        commit(store, writer)?;
    }
    Ok(())
}

/// Runs a job to its end.
fn run(store: &mut Store, files: &[u64], salt: u64, step: u64) -> Result<Ended> {
    let committed = store.last(G)?.0.index;
    let Some(mut job) = store.begin_rewrite(G, files, committed)? else { return Ok(Ended::Void) };
    let mut result = Ok(Step::More(0));
    while matches!(result, Ok(Step::More(_))) {
        result = job.step(step, &mut |meta, payload| keep(meta, payload, salt));
    }
    let ended = store.end_rewrite(job)?;
    result.map(|_| ended)
}

fn numbers(store: &Store) -> Vec<u64> {
    store.closed_files(G).expect("there").iter().map(|file| file.number).collect()
}

/// A log of several files, all written.
fn log(fs: &SimFs, random: &mut StdRng, count: usize) -> (Store, Writer, Vec<Entry>) {
    let Opened { mut store, mut writer, .. } = boot(fs);
    store.create_group(spec(1)).expect("created");
    let mut entries = Vec::new();
    while entries.len() < count {
        let more = random.random_range(1..9);
        let more = some(&store, random, more);
        store.append(G, more.clone()).expect("taken");
        entries.extend(more);
        commit(&mut store, &mut writer).expect("durable");
        if random.random_bool(0.2) {
            writer.idle();
        }
    }
    store.roll(G).expect("rolled");
    settle(&mut store, &mut writer).expect("durable");
    assert!(numbers(&store).len() > 1, "several files");
    (store, writer, entries)
}

/// Rewrites random consecutive files; the entries as they are then.
fn compact(store: &mut Store, entries: &mut [Entry], random: &mut StdRng) -> Result<Ended> {
    let files = numbers(store);
    let from = random.random_range(0..files.len());
    let to = (from + random.random_range(1..4)).min(files.len());
    let (salt, step) = (random.random(), random.random_range(1..40_000));
    let closed = store.closed_files(G)?;
    let range = closed[from].first..=closed[to - 1].last.index;
    let ended = run(store, &files[from..to], salt, step)?;
    if ended != Ended::Void {
        for entry in entries.iter_mut().filter(|e| range.contains(&e.meta.id.index)) {
            *entry = compacted(entry, salt);
        }
    }
    Ok(ended)
}

fn first_batch(entries: &[Entry], offset: Offset) -> Option<&Entry> {
    let is_it = |e: &&Entry| !e.payload.is_empty() && e.meta.kind == EntryKind::Records;
    entries.iter().filter(is_it).find(|e| e.meta.next_offset() > offset)
}

fn timestamp(entry: &Entry) -> i64 {
    let is_full = entry.payload.len() >= 61 && entry.payload[57..61] != [0; 4];
    match entry.meta.kind == EntryKind::Records && is_full {
        true => i64::from_be_bytes(entry.payload[35..43].try_into().expect("eight")),
        false => -1,
    }
}

/// Every way of reading a log, against its entries.
fn check(store: &mut Store, entries: &[Entry], random: &mut StdRng, what: &str) {
    assert_eq!(store.needs_repair(G), None, "{what}");
    let all = read_all(store, 1).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(all, entries, "{what}");
    let end = entries.last().map(|e| e.meta.next_offset()).expect("some");
    for _ in 0..20 {
        let at = random.random_range(0..entries.len());
        let want = &entries[at];
        let got = store.read(G, want.meta.id.index, random.random_range(1..4000)).expect("read");
        assert_eq!(got[..], entries[at..at + got.len()], "{what}");
        assert_eq!(store.meta_at(G, want.meta.id.index).expect("there"), want.meta, "{what}");
        let start = entries[0].meta.base_offset;
        let offset = Offset(random.random_range(start.0..end.0));
        let below = Offset(random.random_range(offset.0..=end.0));
        let got = store.fetch(G, offset, below, 3000, true).expect("fetched");
        let want = first_batch(entries, offset).filter(|e| e.meta.next_offset() <= below);
        assert_eq!(got.first().map(|b| b.meta), want.map(|e| e.meta), "{what}: {offset} below {below}");
        for batch in &got {
            batch.check.as_ref().map_or(Ok(()), FrameCheck::verify).expect("sound");
            assert!(!batch.payload.is_empty(), "{what}");
        }
        let wanted = random.random_range(0..1000);
        let at_least = entries.iter().find(|e| timestamp(e) >= wanted && e.meta.next_offset() > offset);
        let got = store.find_timestamp(G, wanted, offset, end).expect("looked");
        assert_eq!(got.as_ref(), at_least, "{what}: {wanted} from {offset}");
        let most = entries.iter().filter(|e| e.meta.next_offset() > offset).map(timestamp).max();
        let got = store.find_max_timestamp(G, offset, end).expect("looked");
        assert_eq!(got.as_ref().map(timestamp), most.filter(|t| *t >= 0), "{what}: from {offset}");
    }
    for term in 0..20 {
        let of = |e: &&Entry| e.meta.kind == EntryKind::Records && e.meta.id.epoch.term.0 <= term;
        let epoch = entries.iter().rfind(of).map(|e| e.meta.id.epoch);
        let last = entries.iter().rfind(|e| Some(e.meta.id.epoch) == epoch).map(|e| e.meta.next_offset());
        assert_eq!(store.epoch_end(G, Term(term)).expect("known"), epoch.zip(last), "{what}");
    }
    for (file, info) in store.closed_files(G).expect("there").iter().zip(store.segments(G).expect("there")) {
        assert!(file.max_timestamp <= info.max_timestamp, "{what}: {file:?} {info:?}");
    }
}

/// Nothing lies about that is not of the log.
fn check_files(fs: &SimFs, store: &Store, what: &str) {
    assert_eq!(files_of(fs, ".segment.new"), [], "{what}");
    assert_eq!(files_of(fs, ".segment").len(), store.segments(G).expect("there").len(), "{what}");
}

#[test]
fn every_walk_of_a_compacted_log_sees_the_entries_that_were_there() {
    let mut in_gaps = 0;
    for seed in 0..seeds(60) {
        let mut random = StdRng::seed_from_u64(seed);
        let fs = SimFs::new(seed);
        let (mut store, mut writer, mut entries) = log(&fs, &mut random, 150);
        let mut cleaned = Cleaned::default();
        for round in 0..6 {
            let what = format!("seed {seed}, round {round}");
            if random.random_bool(0.3) {
                // Some files are not written yet, and not always the last ones.
                for len in [200, 6000] {
                    let more: Vec<Entry> = records_of(&store, 3, len);
                    store.append(G, more.clone()).expect("taken");
                    entries.extend(more);
                    store.roll(G).expect("rolled");
                    commit(&mut store, &mut writer).expect("durable");
                }
                commit(&mut store, &mut writer).expect("durable");
            }
            let _ = compact(&mut store, &mut entries, &mut random).expect("compacted");
            check(&mut store, &entries, &mut random, &what);
            match random.random_range(0..5) {
                0 => {
                    let gone = random.random_range(0..entries.len() / 4);
                    let meta = entries[gone].meta;
                    let start = LogStart {
                        prev: meta.id,
                        base_offset: meta.next_offset(),
                        start_offset: meta.next_offset(),
                        ..LogStart::default()
                    };
                    store.set_log_start(G, start).expect("moved");
                    entries.drain(..=gone);
                }
                1 | 2 => {
                    let from = random.random_range(entries.len() / 2..entries.len());
                    let index = entries[from].meta.id.index;
                    if random.random_bool(0.3) {
                        store.set_aside(G, index).expect("copied");
                    }
                    let clean = Offset(random.random_range(0..=store.last(G).expect("there").1.0));
                    store.note_cleaned(G, clean).expect("taken");
                    cleaned.cleaned_to(clean);
                    store.truncate(G, index).expect("cut");
                    // Wherever in a gap: what is gone is gone from there on.
                    cleaned.cut(entries[from].meta.base_offset);
                    assert_eq!(store.cleaned(G).expect("there"), cleaned, "{what}");
                    in_gaps +=
                        u32::from(entries[from].payload.is_empty() && entries[from - 1].payload.is_empty());
                    entries.truncate(from);
                }
                _ => {}
            }
            let more = some(&store, &mut random, 20);
            store.append(G, more.clone()).expect("taken");
            entries.extend(more);
            check(&mut store, &entries, &mut random, &what);
            commit(&mut store, &mut writer).expect("durable");
            check(&mut store, &entries, &mut random, &what);
            store.roll(G).expect("rolled");
            settle(&mut store, &mut writer).expect("durable");
            match random.random_range(0..3) {
                0 => {
                    drop((store, writer));
                    fs.crash(seed + round);
                    let Opened { store: s, writer: w, groups, .. } = boot(&fs);
                    assert_eq!(groups[0].hard_state.doubt, Doubt::None, "{what}");
                    (store, writer) = (s, w);
                }
                1 => {
                    writer.close().expect("closed");
                    drop(store);
                    Opened { store, writer, .. } = boot(&fs);
                }
                _ => {}
            }
            settle(&mut store, &mut writer).expect("durable");
            check(&mut store, &entries, &mut random, &what);
            assert_eq!(store.cleaned(G).expect("there"), cleaned, "{what}");
            check_files(&fs, &store, &what);
            let mut scrubber = store.scrubber();
            super::scrubbing::pass(&mut store, &mut scrubber);
            assert_eq!(store.needs_repair(G), None, "{what}");
            let report = dump::dump_on(&fs, Path::new(DIR), &mut Vec::new(), dump::DumpOptions::default());
            assert_eq!(report.expect("dumped").problems, Vec::<String>::new(), "{what}");
        }
    }
    assert!(in_gaps > 20, "{in_gaps}");
}

/// The entries of a log before and after a rewrite, and the directory right before the job begins.
struct Prepared {
    fs: SimFs,
    store: Store,
    writer: Writer,
    old: Vec<Entry>,
    files: Vec<u64>,
}

fn prepared(seed: u64) -> Prepared {
    let mut random = StdRng::seed_from_u64(seed);
    let fs = SimFs::new(seed);
    let (mut store, mut writer, mut entries) = log(&fs, &mut random, 120);
    if seed % 2 == 1 {
        // Not the first rewrite of the directory.
        let _ = compact(&mut store, &mut entries, &mut random).expect("compacted");
        settle(&mut store, &mut writer).expect("durable");
    }
    let files = numbers(&store);
    Prepared { fs, store, writer, old: entries, files }
}

fn is_old_or_new(got: &[Entry], old: &[Entry], salt: u64) -> Option<bool> {
    let new: Vec<Entry> = old.iter().map(|e| compacted(e, salt)).collect();
    match (got == old, got == new) {
        (true, _) => Some(false),
        (_, true) => Some(true),
        _ => None,
    }
}

#[test]
pub(crate) fn power_cut_at_any_change_of_a_rewrite_leaves_the_old_or_the_new() {
    let (mut olds, mut news) = (0, 0);
    for seed in 0..seeds(10) {
        for at in 0..45 {
            let Prepared { fs, mut store, mut writer, old, files } = prepared(seed);
            fs.power_off_after(at);
            let _ = run(&mut store, &files, seed, 3000)
                .and_then(|_| commit(&mut store, &mut writer).map(|_| ()))
                .map(|()| while writer.idle().is_some() && !fs.is_off() {});
            drop((store, writer));
            fs.crash(seed * 100 + at);
            let what = format!("seed {seed}, power off at {at}");
            for again in 0..2 {
                let Opened { mut store, mut writer, groups, .. } = boot(&fs);
                assert_eq!(groups[0].needs_repair, None, "{what}: is sound");
                assert_eq!(groups[0].hard_state.doubt, Doubt::None, "{what}");
                let got = read_all(&mut store, 1).unwrap_or_else(|e| panic!("{what}: {e}"));
                match is_old_or_new(&got, &old, seed) {
                    Some(true) => news += 1,
                    Some(false) => olds += 1,
                    None => panic!("{what}: neither the old log nor the new one"),
                }
                check_files(&fs, &store, &what);
                // It goes on, also through what the next power cut takes.
                store.append(G, records(&store, 1, 90, 2, 100)).expect("taken");
                commit(&mut store, &mut writer).expect("durable");
                let last = store.last(G).expect("there").0.index;
                store.truncate(G, Index(last.0 - 1)).expect("cut");
                commit(&mut store, &mut writer).expect("durable");
                drop((store, writer));
                fs.crash(seed * 1000 + at + again);
            }
        }
    }
    assert!(olds > 100 && news > 100, "{olds} {news}");
}

#[test]
fn rewrite_that_cannot_be_written_changes_nothing_and_fails_nothing() {
    let mut failed = 0;
    for seed in 0..6 {
        for nth in 0..6 {
            for fault in 0..3 {
                let Prepared { fs, mut store, mut writer, old, files } = prepared(seed);
                match fault {
                    0 => fs.set_capacity(Some(fs.used() + nth * 4096)),
                    1 => fs.fail_write_after(nth),
                    _ => fs.fail_sync_after(nth),
                }
                let what = format!("seed {seed}, fault {fault} at {nth}");
                let result = run(&mut store, &files, seed, 3000);
                failed += u32::from(result.is_err());
                let is_new = matches!(result, Ok(Ended::Replaced));
                assert!(store.failure().is_none(), "{what}");
                let got = read_all(&mut store, 1).expect("readable");
                assert_eq!(is_old_or_new(&got, &old, seed), Some(is_new), "{what}");
                fs.set_capacity(None);
                if settle(&mut store, &mut writer).is_ok() {
                    if result.is_err() {
                        // Another one does.
                        assert_eq!(
                            run(&mut store, &files, seed, 3000).expect("rewritten"),
                            Ended::Replaced,
                            "{what}"
                        );
                        settle(&mut store, &mut writer).expect("durable");
                    }
                    check_files(&fs, &store, &what);
                }
                drop((store, writer));
                fs.crash(seed);
                let Opened { mut store, groups, .. } = boot(&fs);
                assert_eq!(groups[0].needs_repair, None, "{what}");
                let got = read_all(&mut store, 1).expect("readable");
                assert!(is_old_or_new(&got, &old, seed).is_some(), "{what}");
            }
        }
    }
    assert!(failed > 30, "{failed}");
}

/// Whatever changes the files while a job is out makes it void.
#[test]
fn job_whose_files_have_changed_is_void() {
    for change in 0..5 {
        let Prepared { fs, mut store, mut writer, old, files } = prepared(2);
        let committed = store.last(G).expect("there").0.index;
        let mut job = store.begin_rewrite(G, &files, committed).expect("begun").expect("now");
        assert!(store.begin_rewrite(G, &files, committed).expect("asked").is_none(), "one at a time");
        job.step(2000, &mut |meta, payload| keep(meta, payload, 1)).expect("a step");
        match change {
            0 => store.truncate(G, old[old.len() / 2].meta.id.index).expect("cut"),
            1 => store.install_log_start(G, LogStart::default()).expect("installed"),
            2 => store.remove_group(G).expect("removed"),
            3 => {
                let meta = old[old.len() / 2].meta;
                let start =
                    LogStart { prev: meta.id, base_offset: meta.next_offset(), ..LogStart::default() };
                store.set_log_start(G, start).expect("moved");
            }
            _ => store.cancel_rewrite(G),
        }
        let mut result = Ok(Step::More(0));
        while matches!(result, Ok(Step::More(_))) {
            result = job.step(2000, &mut |meta, payload| keep(meta, payload, 1));
        }
        assert_eq!(store.end_rewrite(job).expect("taken back"), Ended::Void, "change {change}");
        settle(&mut store, &mut writer).expect("durable");
        match change {
            2 => assert_eq!(files_of(&fs, ".segment"), []),
            _ => check_files(&fs, &store, &format!("change {change}")),
        }
    }
}

/// The number of a job that came to nothing had been known to this process alone.
#[test]
fn number_of_a_job_is_never_used_again() {
    for end in 0..2 {
        let Prepared { fs, mut store, mut writer, files, .. } = prepared(4);
        let committed = store.last(G).expect("there").0.index;
        let job = store.begin_rewrite(G, &files, committed).expect("begun").expect("now");
        let taken = files_of(&fs, ".segment.new")[0].0.clone();
        let taken = taken.file_name().expect("a name").to_string_lossy()[..16].to_owned();
        let taken = u64::from_str_radix(&taken, 16).expect("a number");
        commit(&mut store, &mut writer).expect("a round");
        if end > 0 {
            assert_eq!(store.end_rewrite(job).expect("given up"), Ended::Void);
        }
        writer.close().expect("closed");
        drop(store);
        let Opened { mut store, .. } = boot(&fs);
        store.append(G, records(&store, 1, 50, 1, 100)).expect("taken");
        store.roll(G).expect("rolled");
        let highest = numbers(&store).into_iter().max().expect("some");
        store.append(G, records(&store, 1, 50, 1, 100)).expect("taken");
        store.roll(G).expect("rolled");
        let next = numbers(&store).into_iter().max().expect("some");
        assert!(next > taken && next > highest, "end {end}: {next} after {taken}");
        assert!(!numbers(&store).contains(&taken), "end {end}");
    }
}

/// A file of which nothing is left grew no older: retention by time stopped at it.
#[test]
fn emptied_file_is_as_old_as_what_was_in_it() {
    let Prepared { fs, mut store, mut writer, .. } = prepared(6);
    let before = store.segments(G).expect("there");
    let files = numbers(&store);
    let committed = store.last(G).expect("there").0.index;
    let mut job = store.begin_rewrite(G, &files[..1], committed).expect("begun").expect("now");
    while job.step(5000, &mut |_, _| Keep::Nothing).expect("a step") != Step::Done {}
    assert_eq!(store.end_rewrite(job).expect("ended"), Ended::Replaced);
    settle(&mut store, &mut writer).expect("durable");
    let old = |store: &Store| {
        let (info, file) = (&store.segments(G).expect("there")[0], &store.closed_files(G).expect("there")[0]);
        assert_eq!((file.max_timestamp, file.number != files[0]), (-1, true));
        assert!(info.bytes < before[0].bytes / 4, "{} of {}", info.bytes, before[0].bytes);
        info.max_timestamp
    };
    assert_eq!(old(&store), before[0].max_timestamp);
    drop((store, writer));
    fs.crash(1);
    let Opened { store, .. } = boot(&fs);
    assert_eq!(old(&store), before[0].max_timestamp);
}

/// Where the last batch of the journal stands that holds a record.
fn last_batch(fs: &SimFs) -> (std::path::PathBuf, u64) {
    let mut out = Vec::new();
    let options = dump::DumpOptions { json: true, entries: false };
    dump::dump_on(fs, Path::new(DIR), &mut out, options).expect("dumped");
    let text = String::from_utf8(out).expect("text");
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON lines"));
    let mut batches = lines.filter(|v| v["kind"] == "batch" && v["records"].as_u64() > Some(0));
    let last = batches.next_back().expect("a batch");
    let name = format!("{DIR}/journal/{:016x}.journal", last["file"].as_u64().expect("a number"));
    (name.into(), last["byte"].as_u64().expect("a place"))
}

/// Old files that are still there looked like files that a lost `Cut` had opened, once a batch of the journal was damaged: the log was cut
/// back to where the first of them begins.
#[test]
fn old_files_beside_a_damaged_batch_are_no_lost_cut() {
    for seed in 0..20 {
        let Prepared { fs, mut store, mut writer, old, files } = prepared(seed);
        let kept: Vec<_> = files_of(&fs, ".segment")
            .into_iter()
            .map(|(path, _)| (fs.read(&path).expect("there"), path))
            .collect();
        assert_eq!(run(&mut store, &files, seed, 3000).expect("rewritten"), Ended::Replaced);
        settle(&mut store, &mut writer).expect("durable");
        if seed % 4 == 3 {
            // The record is behind a manifest by now.
            writer.close().expect("closed");
            drop(store);
            Opened { store, writer, .. } = boot(&fs);
        }
        store.save_hard_state(G, HardState::default()).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let last = store.last(G).expect("there").0;
        while writer.idle().is_some() {}
        drop((store, writer));
        fs.kill();
        for (bytes, path) in kept {
            if let Ok(file) = fs.open(&path, fs::OpenMode::CreateNew) {
                file.pwrite(&bytes, 0).expect("back again");
            }
        }
        let (journal, byte) = last_batch(&fs);
        fs.flip(&journal, byte + 60, 2);
        let Opened { mut store, groups, .. } = boot(&fs);
        assert_eq!(groups[0].hard_state.doubt, Doubt::Vote, "seed {seed}: the batch was damaged");
        assert_eq!((groups[0].last, groups[0].needs_repair), (last, None), "seed {seed}");
        let got = read_all(&mut store, 1).expect("readable");
        assert_eq!(is_old_or_new(&got, &old, seed), Some(true), "seed {seed}");
    }
}

/// The record of a rewrite had made the group whole, and wiped out what the same start had found damaged elsewhere.
#[test]
fn rewrite_in_the_journal_hides_no_damage_elsewhere() {
    for seed in 0..10 {
        let Prepared { fs, mut store, mut writer, files, .. } = prepared(seed);
        // By reference, in the file that stays.
        let last = store.last(G).expect("there");
        let e = entry(last, 80, EntryKind::Records, SPAN, batch_at(last.1.0, SPAN, 6000, 5));
        store.append(G, vec![e]).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let index = store.last(G).expect("there").0.index;
        store.roll(G).expect("rolled");
        settle(&mut store, &mut writer).expect("durable");
        assert_eq!(run(&mut store, &files[..1], seed, 3000).expect("rewritten"), Ended::Replaced);
        settle(&mut store, &mut writer).expect("durable");
        drop((store, writer));
        fs.kill();
        let mut hit = 0;
        for (path, _) in files_of(&fs, ".segment") {
            let bytes = fs.read(&path).expect("there");
            if bytes.windows(8).any(|w| w == index.0.to_le_bytes()) && bytes.len() > 6000 {
                let at = bytes.len() as u64 - 500;
                fs.flip(&path, at, 1);
                hit += 1;
            }
        }
        assert!(hit > 0, "seed {seed}");
        let Opened { mut store, groups, .. } = boot(&fs);
        let _ = store.read(G, index, 1);
        let found = store.needs_repair(G).or(groups[0].needs_repair);
        assert!(found.is_some_and(|(a, b)| a <= index && index <= b), "seed {seed}: {found:?} of {index}");
    }
}

/// A group that goes on in a newer generation keeps what its log no longer holds: recovery unlinked files that a compaction had made.
#[test]
fn compacted_file_that_an_install_drops_is_set_aside_by_the_next_start_too() {
    let Prepared { fs, mut store, mut writer, files, .. } = prepared(8);
    assert_eq!(run(&mut store, &files, 8, 3000).expect("rewritten"), Ended::Replaced);
    settle(&mut store, &mut writer).expect("durable");
    let compacted = numbers(&store)[0];
    let opening =
        Opening { survivor: replica(), base: LogId::new(0, 1, 1), first_term: Term(99), lossless: false };
    let state = HardState { epoch: Epoch::new(1, 99), opening: Some(opening), ..HardState::default() };
    store.save_hard_state(G, state).expect("taken");
    store.set_aside(G, Index(1)).expect("named");
    store.install_log_start(G, LogStart::default()).expect("installed");
    // The record is durable, and the power fails before anything is renamed.
    commit(&mut store, &mut writer).expect("durable");
    drop((store, writer));
    fs.kill();
    let Opened { store, .. } = boot(&fs);
    assert_eq!(store.segments(G).expect("there").len(), 1);
    let aside: Vec<String> =
        files_of(&fs, ".fenced").iter().map(|(path, _)| path.to_string_lossy().into_owned()).collect();
    assert!(aside.iter().any(|name| name.contains(&format!("{compacted:016x}.segment"))), "{aside:?}");
}

/// Recovery set it aside as something that the group's newer generation does not hold.
#[test]
fn file_of_a_job_that_no_record_names_is_no_part_of_what_was_lost() {
    let Prepared { fs, mut store, mut writer, files, .. } = prepared(8);
    let opening =
        Opening { survivor: replica(), base: LogId::new(0, 1, 1), first_term: Term(99), lossless: false };
    let state = HardState { epoch: Epoch::new(1, 99), opening: Some(opening), ..HardState::default() };
    store.save_hard_state(G, state).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let before = files_of(&fs, ".segment").len();
    let committed = store.last(G).expect("there").0.index;
    let mut job = store.begin_rewrite(G, &files, committed).expect("begun").expect("now");
    while job.step(3_000, &mut |meta, payload| keep(meta, payload, 8)).expect("written") != Step::Done {}
    assert_eq!(files_of(&fs, ".segment").len(), before + 1, "whole, and named by nothing");
    // The job is never handed back.
    fs.kill();
    drop((store, writer));
    let Opened { .. } = boot(&fs);
    assert_eq!((files_of(&fs, ".fenced"), files_of(&fs, ".segment").len()), (Vec::new(), before));
}

/// A directory that never compacted is one that the version before can open; the manifest says otherwise before the first record does.
#[test]
fn format_is_raised_by_the_first_rewrite_and_before_its_record() {
    let version = |fs: &SimFs| {
        let (path, _) = files_of(fs, ".a").into_iter().max().expect("a manifest");
        let bytes = fs.read(&path).expect("there");
        u16::from_le_bytes([bytes[8], bytes[9]])
    };
    for at in 0..40 {
        let Prepared { fs, mut store, mut writer, files, .. } = prepared(2);
        assert_eq!(version(&fs), 2);
        // As the cleaner does it: numbers and files are one batch.
        store.note_dropped(G, Offset(7)).expect("taken");
        assert_eq!(run(&mut store, &files, 2, 3000).expect("rewritten"), Ended::Replaced);
        store.note_cleaned(G, Offset(9)).expect("taken");
        let cleaned = Cleaned { clean: Offset(9), dropped: Offset(7) };
        assert_eq!(store.cleaned(G).expect("there"), cleaned);
        assert_eq!(version(&fs), 2, "nothing is recorded yet");
        fs.power_off_after(at);
        let done = commit(&mut store, &mut writer).is_ok();
        assert!(!done || version(&fs) == 4);
        drop((store, writer));
        fs.crash(at);
        let Opened { store, writer, .. } = boot(&fs);
        let is_new = numbers(&store)[0] != files[0];
        assert!(!is_new || version(&fs) == 4, "power off at {at}");
        let expected = if is_new { cleaned } else { Cleaned::default() };
        assert_eq!(store.cleaned(G).expect("there"), expected, "power off at {at}");
        writer.close().expect("closed");
        drop(store);
        let Opened { store, .. } = boot(&fs);
        assert_eq!((numbers(&store)[0] != files[0], store.cleaned(G).expect("there")), (is_new, expected));
    }
}

/// What is to stay of a batch under other offsets than its entry has would give an offset two values (safety.md F14).
#[test]
fn batch_with_other_offsets_is_refused() {
    let Prepared { mut store, files, fs, .. } = prepared(2);
    for (base, span) in [(1, 0), (0, 1), (0, -1)] {
        let committed = store.last(G).expect("there").0.index;
        let mut job = store.begin_rewrite(G, &files, committed).expect("begun").expect("now");
        let other = |meta: &EntryMeta, _: &[u8]| {
            let span = i64::from(meta.offset_span) + span;
            Keep::Batch(batch_at(meta.base_offset.0 + base, span as u32, 70, 1))
        };
        let mut result = Ok(Step::More(0));
        while matches!(result, Ok(Step::More(_))) {
            result = job.step(4000, &mut { other });
        }
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
        assert_eq!(store.end_rewrite(job).expect("taken back"), Ended::Void);
    }
    assert_eq!(files_of(&fs, ".new"), []);
}

#[test]
fn what_is_not_committed_or_not_closed_is_not_rewritten() {
    let Prepared { mut store, files, .. } = prepared(2);
    let last = store.closed_files(G).expect("there").last().expect("some").last.index;
    assert!(matches!(store.begin_rewrite(G, &files, last.prev()), Err(Error::OutOfRange)));
    assert!(matches!(store.begin_rewrite(G, &[], last), Err(Error::OutOfRange)));
    assert!(matches!(store.begin_rewrite(G, &[files[0], files[0]], last), Err(Error::OutOfRange)));
    let mut all = files.clone();
    all.push(files.last().expect("some") + 1);
    assert!(matches!(store.begin_rewrite(G, &all, last), Err(Error::OutOfRange)));
    assert!(store.begin_rewrite(G, &files, last).expect("begun").is_some());
}

/// Found by `tests/cluster`: small entries lie in the journal first, and a cleaner that read their file before they were in it took the
/// hole for damage and had the replica held out.
#[test]
fn closed_file_is_read_once_its_entries_are_in_it() {
    let Prepared { mut store, mut writer, .. } = prepared(2);
    let last = store.last(G).expect("there").0.index;
    store.roll(G).expect("closed");
    let entries = records_of(&store, 6, 200);
    store.append(G, entries).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    store.roll(G).expect("closed");
    let file = store.closed_files(G).expect("there").last().expect("some").clone();
    assert_eq!((file.first, file.last.index.0), (last.next(), last.0 + 6));
    assert!(store.read_closed(G, &[file.number]).expect("asked").is_none());
    settle(&mut store, &mut writer).expect("durable");
    let mut reader = store.read_closed(G, &[file.number]).expect("asked").expect("now");
    let mut read = 0;
    while reader.step(500, &mut |_, payload| read += usize::from(!payload.is_empty())).expect("sound") {}
    assert_eq!((read, store.needs_repair(G)), (6, None));
}

/// Twice the same: there is nothing to remove any more.
#[test]
fn rewrite_of_one_file_that_keeps_all_changes_nothing() {
    let Prepared { fs, mut store, mut writer, old, .. } = prepared(2);
    let files = numbers(&store);
    let keep_all = |store: &mut Store| {
        let committed = store.last(G).expect("there").0.index;
        let file = store.closed_files(G).expect("there")[0].number;
        let mut job = store.begin_rewrite(G, &[file], committed).expect("begun").expect("now");
        while job.step(9000, &mut |_, _| Keep::Whole).expect("a step") != Step::Done {}
        store.end_rewrite(job).expect("ended")
    };
    let has_noop = {
        let first = &store.closed_files(G).expect("there")[0];
        old.iter().any(|e| e.meta.id.index <= first.last.index && e.meta.kind == EntryKind::Noop)
    };
    assert!(files.len() > 1);
    assert_eq!(keep_all(&mut store), if has_noop { Ended::Replaced } else { Ended::Unchanged });
    settle(&mut store, &mut writer).expect("durable");
    assert_eq!(keep_all(&mut store), Ended::Unchanged);
    settle(&mut store, &mut writer).expect("durable");
    assert_eq!(read_all(&mut store, 1).expect("readable"), old);
    check_files(&fs, &store, "unchanged");
}

/// Which entries differ in more than their payload.
fn same_places(a: &[Entry], b: &[Entry]) -> bool {
    let place = |e: &Entry| EntryMeta { payload_len: 0, ..e.meta };
    a.iter().map(place).eq(b.iter().map(place))
}

/// Compaction is each replica's own: what a damaged file needs may be more at a peer than was here, or less.
#[test]
fn damaged_file_is_made_whole_by_a_peer_that_compacted_differently() {
    let (mut damaged, mut elsewhere) = (0, 0);
    for seed in 0..seeds(60) {
        let mut random = StdRng::seed_from_u64(seed);
        let fs = SimFs::new(seed);
        let (mut store, mut writer, entries) = log(&fs, &mut random, 150);
        let mut mine = entries.clone();
        if seed % 3 > 0 {
            let _ = compact(&mut store, &mut mine, &mut random).expect("compacted");
            settle(&mut store, &mut writer).expect("durable");
        }
        let salt = random.random();
        let peer: Vec<Entry> = match seed % 2 {
            0 => entries.clone(),
            _ => entries.iter().map(|e| compacted(e, salt)).collect(),
        };
        writer.close().expect("closed");
        drop(store);
        let files = files_of(&fs, ".segment");
        for _ in 0..random.random_range(1..4) {
            let (path, len) = &files[random.random_range(0..files.len())];
            fs.flip(path, random.random_range(64..(*len).max(65)), 1 << random.random_range(0..8));
        }
        let Opened { mut store, mut writer, .. } = boot(&fs);
        super::repairs::look(&mut store, &entries);
        damaged += u32::from(store.needs_repair(G).is_some());
        let what = format!("seed {seed}");
        if seed % 4 == 3 {
            fs.power_off_after(random.random_range(0..40));
            let _ = super::repairs::repair(&mut store, &mut writer, &peer);
            drop((store, writer));
            fs.crash(seed);
            Opened { store, writer, .. } = boot(&fs);
            super::repairs::look(&mut store, &entries);
        }
        assert!(super::repairs::repair(&mut store, &mut writer, &peer), "{what}");
        let check = |store: &mut Store| {
            let got = read_all(store, 1).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(same_places(&got, &entries), "{what}");
            for ((got, mine), peer) in got.iter().zip(&mine).zip(&peer) {
                assert!(
                    got.payload == mine.payload || got.payload == peer.payload,
                    "{what}: {}",
                    got.meta.id
                );
            }
            got
        };
        let got = check(&mut store);
        elsewhere += u32::from(got != mine);
        settle(&mut store, &mut writer).expect("durable");
        // A rewrite, a cut and a restart of what came of it.
        let from = entries[entries.len() - 2].meta.id.index;
        store.truncate(G, from).expect("cut");
        commit(&mut store, &mut writer).expect("durable");
        drop((store, writer));
        fs.crash(seed);
        let Opened { mut store, mut writer, groups, .. } = boot(&fs);
        assert_eq!(groups[0].needs_repair, None, "{what}");
        let left = &got[..entries.len() - 2];
        assert_eq!(read_all(&mut store, 1).expect("whole"), left, "{what}");
        settle(&mut store, &mut writer).expect("durable");
        let files = numbers(&store);
        let _ = run(&mut store, &files, salt, 3000).expect("rewritten");
        assert!(same_places(&read_all(&mut store, 1).expect("whole"), left), "{what}");
        assert_eq!(store.needs_repair(G), None, "{what}");
    }
    assert!(damaged > 30 && elsewhere > 15, "{damaged} {elsewhere}");
}

/// A crash between a roll and the batch of the first entry leaves a closed file that holds nothing. It stood between two others, which could
/// not be named together for it.
#[test]
fn empty_closed_file_goes_along_with_its_neighbours() {
    let mut met = 0;
    for at in 0..40 {
        let Prepared { fs, mut store, mut writer, .. } = prepared(2);
        store.append(G, records_of(&store, 2, 300)).expect("taken");
        store.roll(G).expect("rolled");
        settle(&mut store, &mut writer).expect("durable");
        fs.power_off_after(at);
        let _ = store.append(G, records_of(&store, 1, 6000));
        let _ = commit(&mut store, &mut writer);
        drop((store, writer));
        fs.kill();
        let Opened { mut store, mut writer, .. } = boot(&fs);
        store.append(G, records_of(&store, 3, 300)).expect("taken");
        store.roll(G).expect("rolled");
        settle(&mut store, &mut writer).expect("durable");
        let is_empty = |info: &SegmentInfo| info.bytes == 0 && !info.active;
        met += u32::from(store.segments(G).expect("there").iter().any(is_empty));
        let old = read_all(&mut store, 1).expect("readable");
        let files = numbers(&store);
        let mut reader = store.read_closed(G, &files).expect("neighbours").expect("now");
        while reader.step(3000, &mut |_, _| {}).expect("sound") {}
        assert_eq!(run(&mut store, &files, 2, 3000).expect("rewritten"), Ended::Replaced, "{at}");
        settle(&mut store, &mut writer).expect("durable");
        assert!(!store.segments(G).expect("there").iter().any(is_empty), "{at}");
        check_files(&fs, &store, &format!("{at}"));
        drop((store, writer));
        fs.crash(at);
        let Opened { mut store, .. } = boot(&fs);
        let got = read_all(&mut store, 1).expect("readable");
        assert_eq!(is_old_or_new(&got, &old, 2), Some(true), "{at}");
    }
    assert!(met > 0, "no empty file was met");
}

/// The old files were unlinked as soon as the record was durable: one bad sector of the journal then cost all that was in them.
#[test]
pub(crate) fn damaged_record_of_a_rewrite_costs_nothing_that_the_old_files_hold() {
    for seed in 0..10 {
        let Prepared { fs, mut store, mut writer, old, files } = prepared(seed);
        writer.close().expect("closed");
        drop(store);
        Opened { store, writer, .. } = boot(&fs);
        if seed % 2 == 0 {
            // The first one takes a checkpoint of its own.
            assert_eq!(run(&mut store, &files[..1], seed, 3000).expect("rewritten"), Ended::Replaced);
            settle(&mut store, &mut writer).expect("durable");
        }
        let before = read_all(&mut store, 1).expect("readable");
        let files = numbers(&store);
        let end = |store: &Store| store.closed_files(G).expect("there").last().expect("one").next_offset;
        store.note_dropped(G, Offset(3)).expect("taken");
        assert_eq!(run(&mut store, &files, seed, 3000).expect("rewritten"), Ended::Replaced);
        store.note_cleaned(G, Offset(9)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let (journal, byte) = last_batch(&fs);
        // A later batch is whole, and says that all is clean: not of the files that are here.
        let clean = end(&store);
        store.note_cleaned(G, clean).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        drop((store, writer));
        fs.kill();
        fs.flip(&journal, byte + 60, 2);
        let Opened { mut store, groups, .. } = boot(&fs);
        assert_eq!(
            store.cleaned(G).expect("there"),
            Cleaned { clean: Offset(0), dropped: clean },
            "what is here counts as clean, seed {seed}"
        );
        assert_eq!(groups[0].needs_repair, None, "seed {seed}");
        assert_eq!(read_all(&mut store, 1).expect("readable"), before, "seed {seed}");
        assert_eq!(old.len(), before.len());
    }
}

/// A follower that is sent hollow entries has files without a timestamp, and retention by time stopped at the first of them.
#[test]
fn file_of_hollow_entries_is_as_old_as_what_follows() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    let last = store.last(G).expect("there");
    let hollow = entry(last, 1, EntryKind::Records, 2, Bytes::new());
    store.append(G, vec![hollow]).expect("taken");
    assert_eq!(store.segments(G).expect("there")[0].max_timestamp, -1, "the active one has no age yet");
    store.roll(G).expect("rolled");
    let last = store.last(G).expect("there");
    let dated = entry(last, 1, EntryKind::Records, SPAN, batch_at(last.1.0, SPAN, 100, 777));
    store.append(G, vec![dated]).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let ages: Vec<i64> = store.segments(G).expect("there").iter().map(|info| info.max_timestamp).collect();
    assert_eq!(ages, [777, 777]);
}

/// A fetch had walked over any number of removed entries in one turn.
#[test]
fn fetch_walks_over_many_hollow_entries_in_bounded_turns_and_never_sticks() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let large = GroupOptions { segment_bytes: 64 << 20, ..group_options() };
    store.create_group(GroupSpec { options: large, ..spec(1) }).expect("created");
    // As a follower stores them.
    for _ in 0..20 {
        let mut last = store.last(G).expect("there");
        let mut hollow = Vec::new();
        for _ in 0..5000 {
            let e = entry(last, 1, EntryKind::Records, 2, Bytes::new());
            last = (e.meta.id, e.meta.next_offset());
            hollow.push(e);
        }
        store.append(G, hollow).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    let last = store.last(G).expect("there");
    let batch = entry(last, 1, EntryKind::Records, SPAN, batch_at(last.1.0, SPAN, 100, 7));
    store.append(G, vec![batch.clone()]).expect("taken");
    settle(&mut store, &mut writer).expect("durable");
    let end = batch.meta.next_offset();
    let turns = |store: &mut Store, from: Offset, below: Offset| {
        let mut turns = 1;
        loop {
            let got = store.fetch(G, from, below, 1000, true).expect("fetched");
            if !got.is_empty() || !store.has_more_to_skip(G, from, below) {
                return (turns, got.first().map(|b| b.meta));
            }
            turns += 1;
        }
    };
    assert_eq!(turns(&mut store, Offset(11), end), (4, Some(batch.meta)));
    assert_eq!(turns(&mut store, Offset(12), end), (1, Some(batch.meta)), "it is known by now");
    assert_eq!(turns(&mut store, Offset(13), last.1), (1, None), "nothing is left up to there");
    let some = store.read(G, Index(1), 64_000).expect("read");
    assert_eq!(some.len(), 1000, "many entries without payload are bounded too");
    // As a gap they cost next to nothing.
    store.roll(G).expect("rolled");
    settle(&mut store, &mut writer).expect("durable");
    let files = numbers(&store);
    assert_eq!(run(&mut store, &files, 0, 1 << 20).expect("rewritten"), Ended::Replaced);
    settle(&mut store, &mut writer).expect("durable");
    let bytes = store.segments(G).expect("there")[0].bytes;
    assert!(bytes < 110_000, "{bytes} bytes for 100,000 entries");
    assert_eq!(turns(&mut store, Offset(11), end).0, 1);
}

/// A pass of the cleaner that ended with every roll, and every move of the log start, would never come to its end.
#[test]
fn changes_count_what_a_pass_must_not_outlive_and_nothing_else() {
    let Prepared { mut store, mut writer, files, .. } = prepared(4);
    let before = store.changes(G);
    store.roll(G).expect("rolled");
    store.append(G, records_of(&store, 2, 100)).expect("taken");
    store.appended_from(G, Cleaned { clean: Offset(5), dropped: Offset(3) }).expect("taken");
    let first = store.closed_files(G).expect("there")[0].clone();
    let start = LogStart { prev: first.last, base_offset: first.next_offset, ..LogStart::default() };
    store.set_log_start(G, start).expect("moved");
    assert_eq!(run(&mut store, &files[1..2], 3, 3000).expect("rewritten"), Ended::Replaced);
    commit(&mut store, &mut writer).expect("durable");
    assert_eq!(store.changes(G), before);
    let last = store.last(G).expect("there").0.index;
    store.truncate(G, last).expect("cut");
    assert_eq!(store.changes(G), before + 1);
    store
        .install_log_start(G, LogStart { base_offset: Offset(9_000), ..LogStart::default() })
        .expect("installed");
    assert_eq!(store.changes(G), before + 2);
    assert_eq!(store.cleaned(G).expect("there"), Cleaned::starting_at(Offset(9_000)));
}
