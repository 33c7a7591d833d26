//! The dump, on sound and damaged, stopped and running directories.

use super::rig::*;
use crate::segment::dump::{DumpOptions, dump_on};
use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use std::path::Path;

fn run(fs: &SimFs, json: bool) -> (dump::DumpReport, String) {
    let mut out = Vec::new();
    let options = DumpOptions { json, entries: true };
    let report = dump_on(fs, Path::new(DIR), &mut out, options).expect("dumped");
    (report, String::from_utf8(out).expect("text"))
}

fn busy(fs: &SimFs) -> (Store, Writer) {
    let Opened { mut store, mut writer, .. } = boot(fs);
    for group in 1..4 {
        store.create_group(spec(group)).expect("created");
        for round in 0..10 {
            let len = if round == 5 { 5000 } else { 300 };
            store.append(GroupId(group), records(&store, group, 1, 2, len)).expect("taken");
            commit(&mut store, &mut writer).expect("durable");
            writer.idle();
        }
    }
    store.truncate(GroupId(2), Index(9)).expect("taken");
    store.save_hard_state(GroupId(2), HardState::default()).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    (store, writer)
}

#[test]
fn dump_of_a_running_directory_is_sound_and_shows_every_kind_of_thing() {
    let fs = SimFs::new(1);
    let (mut store, mut writer) = busy(&fs);
    store.append(GroupId(1), records(&store, 1, 1, 2, 300)).expect("taken");
    let (report, text) = run(&fs, false);
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!(report.groups, 3);
    for kind in ["manifest ", "journal ", "batch ", "record ", "group ", "hard_state ", "segment ", "entry "]
    {
        assert!(text.lines().any(|l| l.starts_with(kind)), "no {kind}line");
    }
    for record in ["type=Create", "type=Inline", "type=Reference", "type=Cut", "type=HardState"] {
        assert!(text.contains(record), "no {record}");
    }
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    let (report, text) = run(&fs, true);
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!(report.entries, 22 + 8 + 20, "what was cut counts no more");
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
        assert!(value["kind"].is_string());
    }
}

#[test]
fn dump_names_what_is_damaged() {
    let fs = SimFs::new(1);
    let (store, writer) = busy(&fs);
    writer.close().expect("closed");
    drop(store);
    let (segment, _) = files_of(&fs, ".segment")[0].clone();
    fs.flip(&segment, 200, 1);
    let (manifest, _) = files_of(&fs, ".b")[0].clone();
    fs.flip(&manifest, 60, 1);
    let (report, _) = run(&fs, false);
    assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
    assert!(report.problems[0].contains("manifest"));
    assert!(report.problems[1].contains("segment"));
}

/// An index is a cache: a bad one is noted, and its data are sound.
#[test]
fn dump_of_a_directory_with_a_bad_index_is_sound_and_says_so() {
    let fs = SimFs::new(1);
    let (store, writer) = busy(&fs);
    writer.close().expect("closed");
    drop(store);
    let index = files_of(&fs, ".index").into_iter().find(|(_, len)| *len > 16).expect("an index");
    fs.flip(&index.0, 10, 1);
    let (report, text) = run(&fs, false);
    assert!(report.is_sound(), "{:?}", report.problems);
    assert!(text.lines().any(|line| line.starts_with("note ") && line.contains(".index")), "{text}");
}

#[test]
fn dump_of_something_else_is_refused() {
    let fs = SimFs::new(1);
    let mut out = Vec::new();
    let result = dump_on(&fs, Path::new("/"), &mut out, DumpOptions::default());
    assert!(matches!(result, Err(Error::Refused(_))));
}
