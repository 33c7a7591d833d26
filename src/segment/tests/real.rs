//! The same layer on a real file system and with its real thread.

use super::rig::{batch, entry, group_options, read_all, records, spec};
use crate::segment::io_thread::{self, IoHandle};
use crate::segment::*;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

fn options(dir: &Path) -> StoreOptions {
    let identity = Identity { node: NodeId(1), cluster: Some("c".into()) };
    StoreOptions {
        journal_file_bytes: 1 << 20,
        checkpoint_bytes: 2 << 20,
        tail_bytes: 256 << 10,
        reserve_bytes: 0,
        ..StoreOptions::new(dir.to_owned(), identity)
    }
}

fn start(dir: &Path) -> (Store, IoHandle, Receiver<RoundDone>, Vec<RecoveredGroup>) {
    let Opened { store, writer, groups, .. } = open(options(dir)).expect("opens");
    let (send, done) = sync_channel(1);
    let completions = move |round| send.send(round).expect("the test waits for it");
    let io = io_thread::spawn(writer, completions).expect("started");
    (store, io, done, groups)
}

fn round(store: &mut Store, io: &IoHandle, done: &Receiver<RoundDone>) {
    io.submit(store.take_round().expect("work"));
    store.complete(done.recv().expect("answered"), &mut Vec::new()).expect("durable");
}

fn fill(store: &mut Store, io: &IoHandle, done: &Receiver<RoundDone>, rounds: usize) {
    for n in 0..rounds {
        for group in 1..4 {
            let len = if n % 10 == 9 { 90_000 } else { 1000 };
            store.append(GroupId(group), records(store, group, 1, 2, len)).expect("taken");
        }
        round(store, io, done);
    }
}

#[test]
fn killed_and_restarted_directory_holds_every_completed_round() {
    let dir = tempfile::tempdir().expect("a directory");
    let big = GroupOptions { segment_bytes: 1 << 20, ..group_options() };
    let (mut store, io, done, _) = start(dir.path());
    for group in 1..4 {
        store.create_group(GroupSpec { options: big.clone(), ..spec(group) }).expect("created");
    }
    fill(&mut store, &io, &done, 60);
    let want: Vec<_> = (1..4).map(|g| read_all(&mut store, g).expect("readable")).collect();
    // What is submitted and not answered may or may not be there; what is queued is not.
    store.append(GroupId(1), records(&store, 1, 1, 1, 100)).expect("taken");
    io.kill();
    drop(store);
    let (mut store, io, done, groups) = start(dir.path());
    assert!(groups.iter().all(|g| g.needs_repair.is_none()));
    for group in 1..4 {
        assert_eq!(read_all(&mut store, group).expect("readable"), want[group as usize - 1]);
    }
    fill(&mut store, &io, &done, 10);
    io.stop_clean().expect("clean");
    drop(store);
    let mut out = Vec::new();
    let report = dump::dump(dir.path(), &mut out, dump::DumpOptions::default()).expect("dumped");
    assert!(report.is_sound(), "{:?}", report.problems);
    let (mut store, io, ..) = start(dir.path());
    let all = read_all(&mut store, 1).expect("readable");
    assert_eq!(all.len(), 140);
    assert_eq!(all[..120], want[0]);
    drop(io);
}

#[test]
fn second_process_is_kept_out_until_the_first_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, io, ..) = start(dir.path());
    assert!(matches!(open(options(dir.path())), Err(Error::Refused(text)) if text.contains("in use")));
    io.kill();
    assert!(open(options(dir.path())).is_err(), "the front half still holds it");
    drop(store);
    assert!(open(options(dir.path())).is_ok());
}

#[test]
fn bytes_fetched_from_a_map_outlive_their_segment() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, io, done, _) = start(dir.path());
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    for _ in 0..40 {
        store.append(g, records(&store, 1, 1, 4, 3000)).expect("taken");
        round(&mut store, &io, &done);
    }
    std::thread::sleep(std::time::Duration::from_millis(30));
    for _ in 0..4 {
        let last = store.last(g).expect("known");
        store.append(g, vec![entry(last, 1, EntryKind::Records, 1, batch(90_000, 3, 5))]).expect("taken");
        round(&mut store, &io, &done);
    }
    let got = store.fetch(g, Offset(0), Offset(100), 1 << 20, true).expect("fetched");
    let check = got[0].check.as_ref().expect("from a map");
    assert!(check.is_resident());
    check.verify().expect("sound");
    let start = LogStart { prev: LogId::new(0, 9, 500), base_offset: Offset(900), ..LogStart::default() };
    store.install_log_start(g, start).expect("taken");
    round(&mut store, &io, &done);
    drop(store);
    io.stop_clean().expect("clean");
    for b in &got {
        assert_eq!(b.payload[0], b.meta.id.index.0 as u8);
        b.check.as_ref().expect("from a map").verify().expect("still sound");
    }
}

/// Whoever has a map of a file that a rewrite replaces keeps it; the file goes, and a start finds the new one.
#[test]
fn rewritten_files_take_the_place_of_mapped_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, io, done, _) = start(dir.path());
    let big = GroupOptions { segment_bytes: 1 << 20, ..group_options() };
    for group in 1..4 {
        store.create_group(GroupSpec { options: big.clone(), ..spec(group) }).expect("created");
    }
    fill(&mut store, &io, &done, 80);
    let g = GroupId(1);
    store.roll(g).expect("rolled");
    round(&mut store, &io, &done);
    let want = read_all(&mut store, 1).expect("readable");
    let committed = store.last(g).expect("known").0.index;
    let files: Vec<u64> = store.closed_files(g).expect("known").iter().map(|file| file.number).collect();
    let mut begun = None;
    while begun.is_none() {
        begun = store.begin_rewrite(g, &files, committed).expect("begun");
        if store.has_work() {
            round(&mut store, &io, &done);
        }
    }
    let mapped = store.fetch(g, Offset(0), Offset(6), 1 << 20, true).expect("fetched");
    let mut job = begun.expect("a job");
    // Off the thread that owns the store, which goes on meanwhile.
    let work = std::thread::spawn(move || {
        let mut keep = |meta: &EntryMeta, _: &[u8]| match meta.id.index.0 % 4 {
            0 => Keep::Whole,
            _ => Keep::Nothing,
        };
        while job.step(1 << 20, &mut keep).expect("a step") != Step::Done {}
        job
    });
    fill(&mut store, &io, &done, 5);
    assert_eq!(store.end_rewrite(work.join().expect("done")).expect("ended"), Ended::Replaced);
    round(&mut store, &io, &done);
    let check = |store: &mut Store| {
        let got = read_all(store, 1).expect("readable");
        for (got, want) in got.iter().zip(&want) {
            let is_kept = want.meta.id.index.0 % 4 == 0;
            assert_eq!((got.meta.id, got.payload.is_empty()), (want.meta.id, !is_kept));
            assert!(!is_kept || got.payload == want.payload);
        }
        assert_eq!(got.len(), want.len() + 10);
    };
    check(&mut store);
    io.stop_clean().expect("closed");
    let names = std::fs::read_dir(dir.path().join("groups/topic-1")).expect("a directory");
    let names: Vec<String> =
        names.map(|e| e.expect("a name").file_name().to_string_lossy().into_owned()).collect();
    let segments = names.iter().filter(|name| name.ends_with(".segment")).count();
    assert_eq!(segments, store.segments(g).expect("known").len(), "{names:?}");
    for batch in &mapped {
        assert_eq!(batch.payload, want[batch.meta.id.index.0 as usize - 1].payload, "of a file that is gone");
    }
    drop((store, mapped));
    let (mut store, io, _done, groups) = start(dir.path());
    assert!(groups.iter().all(|group| group.needs_repair.is_none()));
    check(&mut store);
    io.stop_clean().expect("closed");
}
