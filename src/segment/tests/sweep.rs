//! Issue point 7e: a directory with three groups, 200 entries, an Open, a Cut, an entry by reference, a
//! checkpoint and a term change. For every cut and every flipped byte of its journal, manifest and segments:
//! opening never panics, no damaged record is served, and no durable record is lost silently, except in the
//! last batch that no durable-through covers yet.
//!
//! The whole sweep takes minutes: `KONTIKI_SWEEP=1 cargo test --release sweep`. By default every 97th byte
//! of what is in use is tried.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;

/// What must be there, per group: all entries, and those of the last batch.
struct Truth {
    entries: BTreeMap<u64, Vec<Entry>>,
    hard_state: BTreeMap<u64, HardState>,
    /// Entries that only the last, uncovered batch holds.
    uncovered: usize,
}

fn build(fs: &SimFs) -> Truth {
    let Opened { mut store, mut writer, .. } = boot(fs);
    for group in 1..4 {
        store.create_group(spec(group)).expect("created");
    }
    commit(&mut store, &mut writer).expect("durable");
    let mut count = 0;
    let mut term = 1;
    for round in 0..33 {
        for group in 1..4 {
            let len = if round % 11 == 7 { 4300 } else { 150 + round * 3 };
            let term = if group == 2 && round > 24 { 3 } else { term };
            store.append(GroupId(group), records(&store, group, term, 2, len)).expect("taken");
            count += 2;
        }
        if round == 12 {
            store.roll(GroupId(1)).expect("rolled");
        }
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
        if round == 14 {
            // An orderly end is a checkpoint; the work goes on after a restart.
            writer.close().expect("closed");
            drop(store);
            Opened { store, writer, .. } = boot(fs);
        }
        if round == 20 {
            term = 2;
            for group in 1..4 {
                let state =
                    HardState { epoch: Epoch::new(0, 2), vote: Some(replica()), ..HardState::default() };
                store.save_hard_state(GroupId(group), state).expect("taken");
            }
            let last = store.last(GroupId(3)).expect("known");
            let e = entry(last, 2, EntryKind::Configuration, 0, Bytes::from_static(b"configuration"));
            store.append(GroupId(3), vec![e]).expect("taken");
            count += 1;
        }
        if round == 24 {
            let last = store.last(GroupId(2)).expect("known").0.index;
            store.truncate(GroupId(2), Index(last.0 - 2)).expect("taken");
            store.append(GroupId(2), records(&store, 2, 3, 3, 200)).expect("taken");
        }
    }
    writer.idle();
    // The last batch has nothing behind it that says it was complete.
    store.append(GroupId(1), records(&store, 1, 2, 1, 200)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    assert_eq!(count + 1, 200);
    let entries = (1..4).map(|g| (g, read_all(&mut store, g).expect("readable"))).collect();
    fs.kill();
    let state = HardState { epoch: Epoch::new(0, 2), vote: Some(replica()), ..HardState::default() };
    Truth { entries, hard_state: (1..4).map(|g| (g, state)).collect(), uncovered: 1 }
}

/// Opens a damaged copy and holds it against the truth.
fn examine(fs: &SimFs, truth: &Truth, what: &str) {
    let opened = match try_open(fs) {
        Ok(opened) => opened,
        Err(Error::Refused(_)) => return,
        Err(other) => panic!("{what}: {other}"),
    };
    let mut store = opened.store;
    let groups: BTreeMap<u64, RecoveredGroup> = opened.groups.into_iter().map(|g| (g.group.0, g)).collect();
    assert_eq!(groups.len(), 3, "{what}: a group is gone");
    for (group, want) in &truth.entries {
        let found = &groups[group];
        let may_miss = if *group == 1 { truth.uncovered } else { 0 };
        if found.hard_state.doubt != Doubt::Vote {
            let state = HardState { doubt: Doubt::None, ..found.hard_state };
            assert_eq!(state, truth.hard_state[group], "{what}: group {group} forgot its vote");
        }
        let is_whole = found.last.index.0 as usize + may_miss >= want.len();
        let is_loud = found.hard_state.doubt != Doubt::None;
        assert!(is_whole || is_loud, "{what}: group {group} ends at {} without a word", found.last);
        for (at, want) in want.iter().enumerate() {
            let index = Index(at as u64 + 1);
            if index > found.last.index {
                break;
            }
            match store.read(GroupId(*group), index, 1) {
                Ok(got) => assert_eq!(got[0], *want, "{what}: group {group} serves a wrong entry {index}"),
                Err(Error::Damaged(_)) => {
                    let range = store.needs_repair(GroupId(*group));
                    let is_named = range.is_some_and(|(a, b)| a <= index && index <= b);
                    assert!(is_named, "{what}: damage of {index} is not in {range:?}");
                }
                Err(other) => panic!("{what}: group {group} entry {index}: {other}"),
            }
        }
    }
}

/// The same directory after a compaction: files were swapped in the journal, and the old ones are gone.
fn build_compacted(fs: &SimFs) -> Truth {
    build(fs);
    let Opened { mut store, mut writer, .. } = boot(fs);
    for group in 1..4 {
        store.roll(GroupId(group)).expect("rolled");
    }
    commit(&mut store, &mut writer).expect("durable");
    for group in 1..4 {
        let committed = store.last(GroupId(group)).expect("known").0.index;
        let files = store.closed_files(GroupId(group)).expect("known");
        let files: Vec<u64> = files.iter().map(|file| file.number).collect();
        let begun = store.begin_rewrite(GroupId(group), &files, committed).expect("begun");
        let mut job = begun.expect("all is written");
        let mut keep = |meta: &EntryMeta, _: &[u8]| match meta.id.index.0 % 7 {
            0..3 => Keep::Whole,
            _ => Keep::Nothing,
        };
        while job.step(1 << 20, &mut keep).expect("a step") != Step::Done {}
        assert_eq!(store.end_rewrite(job).expect("ended"), Ended::Replaced);
        commit(&mut store, &mut writer).expect("durable");
    }
    while writer.idle().is_some() {}
    store.append(GroupId(1), records(&store, 1, 2, 1, 200)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let entries = (1..4).map(|g| (g, read_all(&mut store, g).expect("readable"))).collect();
    fs.kill();
    let state = HardState { epoch: Epoch::new(0, 2), vote: Some(replica()), ..HardState::default() };
    Truth { entries, hard_state: (1..4).map(|g| (g, state)).collect(), uncovered: 1 }
}

fn stride() -> u64 {
    if std::env::var_os("KONTIKI_SWEEP").is_some() { 1 } else { 97 }
}

/// Bytes of a file up to the last one that is not zero, and a little of what follows.
fn used(fs: &SimFs, path: &Path) -> u64 {
    let bytes = fs.read(path).expect("there");
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    (end as u64 + 64).min(bytes.len() as u64)
}

fn sweep(suffix: &str) {
    sweep_of(suffix, build);
}

fn sweep_of(suffix: &str, build: impl Fn(&SimFs) -> Truth) {
    let fs = SimFs::new(3);
    let truth = build(&fs);
    examine(&fs.fork(), &truth, "undamaged");
    let mut tried = 0;
    for (path, len) in files_of(&fs, suffix) {
        let end = used(&fs, &path);
        let mut at = 0;
        while at < end {
            let copy = fs.fork();
            copy.flip(&path, at, 1 << (at % 8));
            examine(&copy, &truth, &format!("flip of {} at {at}", path.display()));
            let copy = fs.fork();
            copy.cut(&path, at);
            examine(&copy, &truth, &format!("cut of {} at {at}", path.display()));
            at += stride();
            tried += 1;
        }
        let copy = fs.fork();
        copy.cut(&path, len - 1);
        examine(&copy, &truth, &format!("cut of the last byte of {}", path.display()));
        let copy = fs.fork();
        copy.lose(&path);
        examine(&copy, &truth, &format!("loss of {}", path.display()));
    }
    assert!(tried > 10, "{tried}");
}

#[test]
pub(crate) fn damaged_journal_never_lies() {
    sweep(".journal");
}

#[test]
pub(crate) fn damaged_segment_never_lies() {
    sweep(".segment");
}

#[test]
fn damaged_directory_that_was_compacted_never_lies() {
    sweep_of(".journal", build_compacted);
    sweep_of(".segment", build_compacted);
    sweep_of(".index", build_compacted);
    sweep_of(".a", build_compacted);
}

#[test]
fn one_damaged_manifest_copy_changes_nothing() {
    sweep(".a");
    sweep(".b");
}

#[test]
fn damaged_index_changes_nothing() {
    sweep(".index");
}

#[test]
fn both_manifest_copies_damaged_is_refused_with_advice() {
    let fs = SimFs::new(3);
    build(&fs);
    for suffix in [".a", ".b"] {
        let (path, len) = files_of(&fs, suffix)[0].clone();
        fs.flip(&path, len / 2, 1);
    }
    let Err(Error::Refused(text)) = try_open(&fs) else {
        panic!("not refused");
    };
    assert!(text.contains("no sound manifest") && text.contains("empty one"), "{text}");
    for suffix in [".a", ".b"] {
        let (path, _) = files_of(&fs, suffix)[0].clone();
        fs.lose(&path);
    }
    let Err(Error::Refused(text)) = try_open(&fs) else {
        panic!("not refused");
    };
    assert!(text.contains("no manifest"), "{text}");
}
