//! Regression tests of what goes wrong beside a crash: checkpoints beside rounds, shortages, full disks,
//! damage met by readers.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;

#[test]
fn round_by_reference_beside_a_checkpoint_makes_its_name_durable_itself() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let big = GroupOptions { segment_bytes: 1 << 20, ..group_options() };
    store.create_group(GroupSpec { options: big, ..spec(1) }).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    for _ in 0..40 {
        store.append(GroupId(1), records(&store, 1, 1, 1, 3000)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    store.create_group(spec(2)).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    let manifests = files_of(&fs, ".a");
    // This begins a checkpoint; only the next call takes note of its end.
    writer.idle();
    assert_ne!(files_of(&fs, ".a"), manifests, "a checkpoint began");
    let before = fs.counts().dir_syncs;
    store.append(GroupId(2), records(&store, 2, 1, 1, 5000)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    assert_eq!(fs.counts().dir_syncs - before, 2);
    writer.idle();
    let before = fs.counts().dir_syncs;
    store.append(GroupId(2), records(&store, 2, 1, 1, 5000)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    assert_eq!(fs.counts().dir_syncs, before, "its name is durable by now");
}

#[test]
pub(crate) fn granted_append_meets_no_full_disk_even_where_it_rolls() {
    let mut refused = 0;
    for room in (0..60).map(|n| n * 4096) {
        let fs = SimFs::new(1);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        let g = GroupId(1);
        store.create_group(spec(1)).expect("created");
        store.append(g, records(&store, 1, 1, 3, 5000)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        fs.set_capacity(Some(fs.used() + room));
        // More than a segment holds, in the smallest batches there are.
        let entries = records(&store, 1, 1, 500, 61);
        let (last, files) = (store.last(g).expect("known"), store.segments(g).expect("known").len());
        match store.can_append(g, 500 * 61) {
            Ok(()) => {
                fs.set_capacity(Some(fs.used()));
                store.append(g, entries).expect("it was granted");
                commit(&mut store, &mut writer).expect("what was taken has its space");
                fs.set_capacity(None);
                assert_eq!(read_all(&mut store, 1).expect("readable").len(), 503);
            }
            Err(Error::DiskFull) => {
                refused += 1;
                assert!(store.is_full() && !store.has_work());
                assert_eq!(store.last(g).expect("known"), last);
                assert_eq!(store.segments(g).expect("known").len(), files);
                fs.set_capacity(None);
                store.can_append(g, 500 * 61).expect("space is back");
                store.append(g, entries).expect("taken");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 5 && refused < 55, "{refused}");
}

#[test]
fn latched_store_grants_nothing() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    fs.fail_sync_after(0);
    commit(&mut store, &mut writer).expect_err("sync fails");
    assert!(matches!(store.can_append(GroupId(1), 10), Err(Error::Failed(_))));
}

#[test]
fn damage_met_by_readers_is_told_once_and_again_after_the_log_was_replaced() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    store.append(g, records(&store, 1, 1, 15, 700)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    drop(store);
    let (path, _) = files_of(&fs, ".segment")[0].clone();
    fs.flip(&path, 64 + 2 * 780 + 300, 4);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let fetched = store.fetch(g, Offset(4), Offset(30), 1, true).expect("fetched");
    assert!(store.take_damaged().is_empty(), "not looked at yet");
    let check = fetched[0].check.as_ref().expect("from a map");
    check.verify().expect_err("damaged");
    assert_eq!(store.take_damaged(), [g]);
    check.verify().expect_err("damaged");
    store.read(g, Index(3), 1).expect_err("damaged");
    assert!(store.take_damaged().is_empty());
    commit(&mut store, &mut writer).expect("durable");
    store.read(g, Index(3), 1).expect_err("damaged");
    assert!(store.take_damaged().is_empty());
    drop((store, writer));
    fs.crash(1);
    let Opened { mut store, .. } = boot(&fs);
    store.read(g, Index(3), 1).expect_err("damaged");
    assert!(store.take_damaged().is_empty(), "known since the open");
    let start = LogStart { prev: LogId::new(0, 9, 500), base_offset: Offset(900), ..LogStart::default() };
    store.install_log_start(g, start).expect("taken");
    assert_eq!(store.needs_repair(g), None);
}

#[test]
fn creation_that_fails_leaves_the_suspicion_to_the_next() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    assert_eq!(store.create_group(spec(1)).expect("created"), HardState::default());
    store.create_group(spec(2)).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    drop((store, writer));
    fs.kill();
    // The batch that created both is gone: they may have voted.
    files_of(&fs, ".journal").iter().for_each(|(path, _)| fs.flip(path, 300, 1));
    let Opened { mut store, groups, .. } = boot(&fs);
    assert!(groups.is_empty());
    fs.set_capacity(Some(fs.used()));
    store.create_group(spec(1)).expect_err("no room");
    fs.set_capacity(None);
    assert_eq!(store.create_group(spec(1)).expect("created").doubt, Doubt::Vote);
}

#[test]
fn header_that_does_not_check_out_decides_no_truncation() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    store.append(g, records(&store, 1, 1, 15, 700)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    drop(store);
    let (path, _) = files_of(&fs, ".segment")[0].clone();
    // The predecessor's term in the header of entry 3, which a slot of the index points at.
    fs.flip(&path, 64 + 2 * 780 + 56, 4);
    let Opened { mut store, .. } = boot(&fs);
    assert!(matches!(store.truncate(g, Index(3)), Err(Error::Damaged(_))));
    assert_eq!(store.last(g).expect("known").0, LogId::new(0, 1, 15));
    store.truncate(g, Index(5)).expect("a sound one");
    assert_eq!(store.last(g).expect("known").0, LogId::new(0, 1, 4));
}

#[test]
fn full_disk_while_a_spare_journal_file_is_made_fails_nothing() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    // One block each: through the first file and the spare left by the open, past the middle of it.
    for _ in 0..26 {
        store.append(GroupId(1), records(&store, 1, 1, 1, 1000)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    fs.set_capacity(Some(fs.used()));
    for _ in 0..5 {
        assert!(writer.idle().is_some(), "it tries again later");
    }
    assert!(matches!(store.can_append(GroupId(1), 60_000), Err(Error::DiskFull)));
    store.save_hard_state(GroupId(1), HardState::default()).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    fs.set_capacity(None);
    assert!(!store.is_full());
    store.append(GroupId(1), records(&store, 1, 1, 10, 9000)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
}

/// What the index file of the group covers, as the dump tells it; 0 without a file.
fn covered(fs: &SimFs) -> u64 {
    let mut out = Vec::new();
    let options = crate::segment::dump::DumpOptions { json: true, entries: false };
    crate::segment::dump::dump_on(fs, std::path::Path::new(DIR), &mut out, options).expect("dumped");
    let text = String::from_utf8(out).expect("text");
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON lines"));
    let indexes = lines.filter(|v| v["kind"] == "index" && v["group"] == 1);
    indexes.filter_map(|v| v["covers"].as_u64()).max().unwrap_or(0)
}

/// An index knows what checkpoints wrote; what a kill left out of it was scanned again at every cold read for ever, up to a whole
/// segment on the engine's thread.
#[test]
fn index_that_a_kill_left_short_is_made_whole_by_its_first_reader() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    for _ in 0..15 {
        store.append(GroupId(1), records(&store, 1, 1, 1, 900)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    drop((store, writer));
    fs.kill();
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let short = covered(&fs);
    assert!(short < 14_000, "nothing wrote the index yet: {short}");
    let found = store.fetch(GroupId(1), Offset(20), Offset(30), 1000, true).expect("read from the file");
    assert_eq!(found[0].meta.base_offset, Offset(20));
    assert!(covered(&fs) > 14_000, "the scan is kept: {}", covered(&fs));
    store.append(GroupId(1), records(&store, 1, 1, 1, 900)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    drop(store);
    let Opened { mut store, .. } = boot(&fs);
    for offset in [0, 20, 28, 30] {
        let found = store.fetch(GroupId(1), Offset(offset), Offset(32), 900, true).expect("read");
        assert_eq!(found[0].meta.base_offset, Offset(offset));
    }
}
