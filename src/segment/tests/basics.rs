//! Single behaviours of the layer, one by one, on the simulated disk.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use bytes::Bytes;
use std::sync::Arc;

#[test]
fn small_append_costs_one_write_and_one_sync() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    store.append(GroupId(1), records(&store, 1, 1, 1, 1000)).expect("taken");
    let before = fs.counts();
    let durable = commit(&mut store, &mut writer).expect("durable");
    let after = fs.counts();
    assert_eq!(durable, [Durable { group: GroupId(1), last: LogId::new(0, 1, 1), is_synced: true }]);
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
    assert_eq!(after.dir_syncs, before.dir_syncs);
    assert_eq!(after.bytes - before.bytes, 4096);
}

#[test]
fn many_groups_share_one_sync() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    for group in 0..50 {
        store.create_group(spec(group)).expect("created");
    }
    commit(&mut store, &mut writer).expect("durable");
    for group in 0..50 {
        store.append(GroupId(group), records(&store, group, 1, 3, 200)).expect("taken");
    }
    let before = fs.counts();
    assert_eq!(commit(&mut store, &mut writer).expect("durable").len(), 50);
    assert_eq!(fs.counts().syncs - before.syncs, 1);
}

#[test]
fn large_append_goes_by_reference_and_is_written_once() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    store.append(GroupId(1), records(&store, 1, 1, 2, 5000)).expect("taken");
    let before = fs.counts();
    commit(&mut store, &mut writer).expect("durable");
    let after = fs.counts();
    assert_eq!(after.bytes - before.bytes, 2 * 5080 + 4096);
    assert_eq!(after.syncs - before.syncs, 2);
    writer.idle();
    writer.idle();
    let written = fs.counts().bytes - after.bytes;
    assert!(written <= 4096, "only the mark is written later, not {written} bytes");
}

#[test]
fn restart_finds_everything_by_value_and_by_reference() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.set_cluster("c1").expect("new");
    let state = HardState { epoch: Epoch::new(0, 3), vote: Some(replica()), ..HardState::default() };
    let mut want = Vec::new();
    for group in 1..4 {
        store.create_group(spec(group)).expect("created");
        for round in 0..20 {
            let len = if round % 5 == 4 { 4500 } else { 300 };
            store.append(GroupId(group), records(&store, group, 1 + round / 7, 2, len)).expect("taken");
            commit(&mut store, &mut writer).expect("durable");
        }
        store.save_hard_state(GroupId(group), state).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        want.push(read_all(&mut store, group).expect("readable"));
    }
    for clean in [false, true] {
        if clean {
            let Opened { writer, .. } = boot(&fs);
            writer.close().expect("closed");
        } else {
            fs.crash(5);
        }
        let Opened { mut store, groups, cluster, writer, .. } = boot(&fs);
        assert_eq!(cluster.as_deref(), Some("c1"));
        assert_eq!(groups.len(), 3);
        for (group, want) in groups.iter().zip(&want) {
            assert_eq!(group.hard_state, state);
            assert_eq!(group.needs_repair, None);
            assert_eq!(group.epochs, [1, 2, 3].map(|t| (Epoch::new(0, t), Index((t - 1) * 14 + 1))));
            assert_eq!(read_all(&mut store, group.group.0).expect("readable"), *want);
        }
        writer.close().expect("closed");
    }
}

#[test]
fn truncation_goes_on_in_a_new_file_and_old_bytes_stay_as_they_were() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    store.append(g, records(&store, 1, 1, 10, 500)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.idle();
    writer.idle();
    let kept = store.read(g, Index(7), 1).expect("read").remove(0);
    store.truncate(g, Index(6)).expect("taken");
    store.append(g, records(&store, 1, 2, 3, 500)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let infos = store.segments(g).expect("known");
    assert_eq!(infos.iter().map(|i| i.first.0).collect::<Vec<_>>(), [1, 6]);
    assert_eq!(infos[0].max_timestamp, 1005);
    assert_eq!(kept.payload[0], 7);
    let all = read_all(&mut store, 1).expect("readable");
    let terms: Vec<u64> = all.iter().map(|e| e.meta.id.epoch.term.0).collect();
    assert_eq!(terms, [1, 1, 1, 1, 1, 2, 2, 2]);
    assert_eq!(store.epoch_end(g, Term(1)).expect("known"), Some((Epoch::new(0, 1), Offset(10))));
    fs.crash(1);
    let Opened { mut store, groups, .. } = boot(&fs);
    assert_eq!(groups[0].last, LogId::new(0, 2, 8));
    assert_eq!(read_all(&mut store, 1).expect("readable"), all);
}

#[test]
fn log_start_frees_whole_segments_and_reads_before_it_are_refused() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    for _ in 0..10 {
        store.append(g, records(&store, 1, 1, 8, 900)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
        writer.idle();
    }
    let files = store.segments(g).expect("known");
    assert!(files.len() > 3);
    let third = files[2].clone();
    let prev = LogId::new(0, 1, third.first.0 + 1);
    let base_offset = Offset(third.base_offset.0 + 4);
    let start =
        LogStart { prev, base_offset, start_offset: Offset(base_offset.0 + 1), ..LogStart::default() };
    let on_disk = files_of(&fs, ".segment").len();
    store.set_log_start(g, start.clone()).expect("taken");
    assert_eq!(store.segments(g).expect("known")[0].first, third.first);
    assert_eq!(files_of(&fs, ".segment").len(), on_disk, "nothing goes before it is durable");
    commit(&mut store, &mut writer).expect("durable");
    writer.idle();
    assert_eq!(files_of(&fs, ".segment").len(), on_disk - 2);
    assert!(matches!(store.read(g, prev.index, 1), Err(Error::OutOfRange)));
    assert_eq!(store.read(g, prev.index.next(), 1).expect("read")[0].meta.base_offset, base_offset);
    assert!(matches!(store.fetch(g, Offset(0), Offset(99), 10, true), Err(Error::OutOfRange)));
    fs.crash(3);
    let Opened { groups, .. } = boot(&fs);
    assert_eq!(groups[0].log_start, start);
    assert_eq!(groups[0].epochs, [(Epoch::new(0, 1), prev.index.next())]);
}

#[test]
fn installed_log_start_replaces_the_log() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    store.append(g, records(&store, 1, 1, 10, 900)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let start = LogStart {
        prev: LogId::new(0, 5, 100),
        base_offset: Offset(500),
        start_offset: Offset(500),
        producers: Bytes::from_static(b"state"),
        ..LogStart::default()
    };
    store.install_log_start(g, start.clone()).expect("taken");
    store.append(g, records(&store, 1, 5, 3, 900)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let want = read_all(&mut store, 1).expect("readable");
    assert_eq!(want[0].meta.id, LogId::new(0, 5, 101));
    writer.idle();
    assert_eq!(files_of(&fs, ".segment").len(), 1);
    fs.crash(7);
    let Opened { mut store, groups, .. } = boot(&fs);
    assert_eq!(groups[0].log_start, start);
    assert_eq!(read_all(&mut store, 1).expect("readable"), want);
}

#[test]
fn removed_group_is_gone_and_its_name_may_be_used_at_once() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    store.append(GroupId(1), records(&store, 1, 1, 5, 200)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    store.remove_group(GroupId(1)).expect("taken");
    store.create_group(GroupSpec { group: GroupId(2), ..spec(1) }).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    writer.idle();
    assert!(matches!(store.last(GroupId(1)), Err(Error::UnknownGroup(GroupId(1)))));
    assert_eq!(files_of(&fs, ".segment").len(), 1);
    fs.crash(2);
    let Opened { groups, .. } = boot(&fs);
    assert_eq!(groups.iter().map(|g| (g.group.0, g.last.index.0)).collect::<Vec<_>>(), [(2, 0)]);
    assert_eq!(groups[0].name, "topic-1");
}

#[test]
fn full_disk_refuses_records_before_taking_them_and_lets_control_entries_pass() {
    let fs = SimFs::new(1);
    let mut o = options();
    o.reserve_bytes = 300 << 10;
    let Opened { mut store, mut writer, .. } = open_on(Arc::new(fs.clone()), o).expect("opens");
    let g = GroupId(1);
    let big = GroupOptions { segment_bytes: 1 << 20, ..group_options() };
    store.create_group(GroupSpec { options: big, ..spec(1) }).expect("created");
    fs.set_capacity(Some(fs.used() + (600 << 10)));
    let mut taken = 0;
    let refused = loop {
        match store.append(g, records(&store, 1, 1, 1, 9000)) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        commit(&mut store, &mut writer).expect("durable");
        assert!(taken < 200);
    };
    assert!(matches!(refused, Error::DiskFull));
    assert!(store.is_full() && store.failure().is_none());
    assert_eq!(store.last(g).expect("known").0.index, Index(taken));
    let last = store.last(g).expect("known");
    store.append(g, vec![entry(last, 2, EntryKind::Noop, 0, Bytes::new())]).expect("control entries pass");
    store.save_hard_state(g, HardState { epoch: Epoch::new(0, 2), ..HardState::default() }).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    assert_eq!(read_all(&mut store, 1).expect("readable").len() as u64, taken + 1);
    fs.set_capacity(None);
    assert!(!store.is_full());
    store.append(g, records(&store, 1, 2, 1, 9000)).expect("space is back");
    commit(&mut store, &mut writer).expect("durable");
}

#[test]
fn failed_sync_latches_the_store_for_good() {
    for nth in 0..2 {
        let fs = SimFs::new(1);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        store.create_group(spec(1)).expect("created");
        commit(&mut store, &mut writer).expect("durable");
        store.append(GroupId(1), records(&store, 1, 1, 1, 5000)).expect("taken");
        fs.fail_sync_after(nth);
        assert!(matches!(commit(&mut store, &mut writer), Err(Error::Failed(_))));
        assert!(store.failure().is_some());
        assert!(matches!(store.append(GroupId(1), records(&store, 1, 1, 1, 10)), Err(Error::Failed(_))));
        assert!(matches!(store.save_hard_state(GroupId(1), HardState::default()), Err(Error::Failed(_))));
        assert!(!store.has_work() && store.take_round().is_none());
        assert_eq!(writer.idle(), None);
        assert!(writer.close().is_err());
    }
}

#[test]
fn fetch_finds_batches_by_offset_from_memory_and_from_files() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    for round in 0..40 {
        let last = store.last(g).expect("known");
        if round % 4 == 0 {
            store
                .append(g, vec![entry(last, 1 + round / 4, EntryKind::Noop, 0, Bytes::new())])
                .expect("taken");
        }
        store.append(g, records(&store, 1, 1 + round / 4, 3, 700)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    writer.idle();
    store.append(g, records(&store, 1, 11, 1, 700)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let end = store.last(g).expect("known").1;
    let mut mapped = 0;
    for offset in 0..end.0 {
        let got = store.fetch(g, Offset(offset), end, 2000, true).expect("fetched");
        assert_eq!(got[0].meta.base_offset.0, offset - offset % 2, "offset {offset}");
        let payloads: usize = got.iter().map(|b| b.payload.len()).sum();
        assert!(payloads <= 2000 && got.iter().all(|b| b.meta.kind == EntryKind::Records));
        for b in &got {
            assert_eq!(b.payload[0], b.meta.id.index.0 as u8);
            if let Some(check) = &b.check {
                mapped += 1;
                assert!(check.is_resident());
                check.verify().expect("sound");
            }
        }
    }
    assert!(mapped > 10, "old batches come from maps");
    assert!(store.fetch(g, end, end, 100, true).expect("at the end").is_empty());
    assert!(store.fetch(g, Offset(4), Offset(5), 100, true).expect("below the batch").is_empty());
    assert!(store.fetch(g, Offset(4), Offset(8), 100, false).expect("too large").is_empty());
    assert!(matches!(store.fetch(g, end.next(), end.next(), 1, true), Err(Error::OutOfRange)));
}

#[test]
fn timestamps_are_found_like_a_scan_would() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    let mut model: Vec<(Offset, i64)> = Vec::new();
    for i in 0..120i64 {
        let last = store.last(g).expect("known");
        let timestamp = (i * 37) % 101 + i;
        model.push((Offset(last.1.0 + 3), timestamp));
        let e = entry(last, 1, EntryKind::Records, 3, batch(600, 1, timestamp));
        store.append(g, vec![e]).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
        if i % 7 == 0 {
            writer.idle();
        }
    }
    for (from, below) in [(0, 0), (0, 3), (0, 150), (1, 240), (100, 240), (0, 360), (60, 360), (359, 360)] {
        let is_seen = |next: i64| from < next && next <= below;
        let visible: Vec<_> = model.iter().filter(|(next, _)| is_seen(next.0)).collect();
        for timestamp in 0..230 {
            let want = visible.iter().find(|(_, t)| *t >= timestamp).map(|(next, _)| *next);
            let got = store.find_timestamp(g, timestamp, Offset(from), Offset(below)).expect("looked");
            assert_eq!(got.map(|e| e.meta.next_offset()), want, "timestamp {timestamp} in {from}..{below}");
        }
        let max = visible.iter().map(|(_, t)| *t).max();
        let want = visible.iter().find(|(_, t)| Some(*t) == max).map(|(next, _)| *next);
        let got = store.find_max_timestamp(g, Offset(from), Offset(below)).expect("looked");
        assert_eq!(got.map(|e| e.meta.next_offset()), want, "max below {below}");
    }
}

#[test]
fn rolled_segment_is_sealed_and_an_empty_one_does_not_roll() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    store.roll(g).expect("nothing to do");
    store.append(g, records(&store, 1, 1, 2, 100)).expect("taken");
    store.roll(g).expect("rolled");
    store.roll(g).expect("nothing to do");
    commit(&mut store, &mut writer).expect("durable");
    writer.idle();
    writer.idle();
    let infos = store.segments(g).expect("known");
    let brief: Vec<_> = infos.iter().map(|i| (i.first.0, i.bytes, i.active)).collect();
    assert_eq!(brief, [(1, 360, false), (3, 0, true)]);
    assert_eq!(files_of(&fs, ".segment")[0].1, 64 + 360, "unused space went back");
}

#[test]
fn bad_or_missing_index_changes_nothing_but_speed() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    for _ in 0..30 {
        store.append(g, records(&store, 1, 1, 3, 700)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    let want = read_all(&mut store, 1).expect("readable");
    writer.close().expect("closed");
    let indexes = files_of(&fs, ".index");
    assert!(indexes.len() > 2);
    let damages: [&dyn Fn(&SimFs); 3] = [
        &|fs| indexes.iter().for_each(|(p, _)| fs.lose(p)),
        &|fs| indexes.iter().for_each(|(p, len)| fs.flip(p, len / 2, 0x10)),
        &|fs| indexes.iter().for_each(|(p, len)| fs.cut(p, len - 1)),
    ];
    for damage in damages {
        let fs = fs.fork();
        damage(&fs);
        let Opened { mut store, .. } = boot(&fs);
        for from in [1, 17, 44, 90] {
            assert_eq!(store.read(g, Index(from), 1).expect("read")[0], want[from as usize - 1]);
        }
        assert_eq!(read_all(&mut store, 1).expect("readable"), want);
        assert_eq!(store.needs_repair(g), None);
    }
}

#[test]
fn flipped_byte_in_a_segment_is_never_served_and_is_remembered() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    for _ in 0..12 {
        store.append(g, records(&store, 1, 1, 3, 700)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    writer.close().expect("closed");
    drop(store);
    let (path, _) = files_of(&fs, ".segment")[0].clone();
    // The payload of entry 3.
    fs.flip(&path, 64 + 2 * 780 + 300, 4);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    assert_eq!(store.read(g, Index(1), 1).expect("sound")[0].meta.id.index, Index(1));
    assert!(matches!(store.read(g, Index(3), 1), Err(Error::Damaged(_))));
    assert_eq!(store.read(g, Index(2), 1 << 20).expect("what is sound before it").len(), 1);
    assert_eq!(store.needs_repair(g), Some((Index(3), Index(3))));
    let fetched = store.fetch(g, Offset(6), Offset(72), 1 << 20, true).expect("behind it");
    assert!(fetched.iter().all(|b| b.check.as_ref().is_none_or(|c| c.verify().is_ok())));
    assert!(store.has_work());
    commit(&mut store, &mut writer).expect("durable");
    fs.crash(1);
    let Opened { groups, .. } = boot(&fs);
    assert_eq!(groups[0].needs_repair, Some((Index(3), Index(3))));
    assert_eq!(groups[0].hard_state.doubt, Doubt::Entries);
}

#[test]
fn unreadable_segment_is_an_error_of_its_group_alone() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    for group in 1..3 {
        store.create_group(spec(group)).expect("created");
        store.append(GroupId(group), records(&store, group, 1, 30, 700)).expect("taken");
    }
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    drop(store);
    let Opened { mut store, .. } = boot(&fs);
    fs.fail_reads_of(Some("topic-1"));
    assert!(store.read(GroupId(1), Index(1), 1).is_err());
    assert_eq!(read_all(&mut store, 2).expect("readable").len(), 30);
    assert!(store.failure().is_none());
}

#[test]
fn directory_of_somebody_else_is_refused_with_advice() {
    let fs = SimFs::new(1);
    let arc = || Arc::new(fs.clone());
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let refusal = |result: Result<Opened>| match result {
        Err(Error::Refused(text)) => text,
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    };
    assert!(refusal(try_open(&fs)).contains("in use by another process"));
    store.set_cluster("mine").expect("new");
    assert!(matches!(store.set_cluster("other"), Err(Error::Refused(_))));
    commit(&mut store, &mut writer).expect("durable");
    drop((store, writer));
    let mut o = options();
    o.identity.node = NodeId(2);
    assert!(refusal(open_on(arc(), o)).contains("belongs to node 1"));
    let mut o = options();
    o.identity.cluster = Some("other".into());
    assert!(refusal(open_on(arc(), o)).contains("belongs to cluster mine"));
    let mut o = options();
    o.identity.cluster = Some("mine".into());
    assert!(open_on(arc(), o).is_ok());
}

#[test]
fn crash_at_any_point_of_formatting_leaves_a_directory_that_opens() {
    for n in 0..200 {
        let fs = SimFs::new(1);
        fs.power_off_after(n);
        if try_open(&fs).is_ok() {
            assert!(n > 10);
            return;
        }
        fs.crash(n);
        let Opened { groups, .. } = try_open(&fs).unwrap_or_else(|e| panic!("power off at {n}: {e}"));
        assert!(groups.is_empty());
    }
    panic!("formatting never finished");
}

#[test]
fn misdirected_write_is_noticed() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let g = GroupId(1);
    store.create_group(spec(1)).expect("created");
    store.append(g, records(&store, 1, 1, 4, 700)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    fs.misdirect_next(".segment", 780);
    writer.idle();
    writer.close().expect("closed");
    drop(store);
    let Opened { mut store, groups, .. } = boot(&fs);
    let range = groups[0].needs_repair.expect("noticed");
    assert_eq!(range, (Index(1), Index(4)));
    assert!(matches!(store.read(g, Index(1), 1), Err(Error::Damaged(_))));
}

#[test]
fn tail_is_bounded_and_reads_go_on_from_files() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    for group in 1..4 {
        store.create_group(spec(group)).expect("created");
    }
    let mut want = vec![Vec::new(); 4];
    for round in 0..60 {
        let group = 1 + round % 3;
        let entries = records(&store, group, 1, 2, 800);
        want[group as usize].extend(entries.clone());
        store.append(GroupId(group), entries).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    for group in 1..4 {
        assert_eq!(read_all(&mut store, group).expect("readable"), want[group as usize]);
    }
}

#[test]
fn checkpoints_bound_the_journal() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    for _ in 0..400 {
        store.append(GroupId(1), records(&store, 1, 1, 1, 1500)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    let journals = files_of(&fs, ".journal");
    assert!(journals.len() <= 7, "{journals:?}");
    assert_eq!(files_of(&fs, ".a").len(), 1);
    fs.crash(9);
    let Opened { mut store, .. } = boot(&fs);
    assert_eq!(read_all(&mut store, 1).expect("readable").len(), 400);
}

#[test]
pub(crate) fn leftovers_of_a_torn_round_are_never_written_over() {
    let mut soiled = 0;
    for seed in 0..20 {
        let fs = SimFs::new(1);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        let g = GroupId(1);
        store.create_group(spec(1)).expect("created");
        store.append(g, records(&store, 1, 1, 2, 200)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        writer.close().expect("closed");
        drop(store);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        store.append(g, records(&store, 1, 1, 2, 5000)).expect("taken");
        // The extent is written, the power goes before it is synced.
        fs.power_off_after(1);
        commit(&mut store, &mut writer).expect_err("power is off");
        fs.crash(seed);
        let (path, _) = files_of(&fs, ".segment")[0].clone();
        let end = 64 + 2 * 280;
        let before = fs.read(&path).expect("there").split_off(end);
        let Opened { mut store, mut writer, groups, .. } = boot(&fs);
        assert_eq!((groups[0].last.index, groups[0].needs_repair), (Index(2), None));
        let is_soiled = before.iter().any(|b| *b != 0);
        soiled += usize::from(is_soiled);
        assert_eq!(store.segments(g).expect("known").len(), 1 + usize::from(is_soiled), "seed {seed}");
        store.append(g, records(&store, 1, 2, 2, 5000)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        if is_soiled {
            let after = fs.read(&path).expect("there").split_off(end);
            assert_eq!(after, before, "seed {seed}: what lies behind the end stays as it was");
        }
        assert_eq!(read_all(&mut store, 1).expect("readable").len(), 4);
    }
    assert!(soiled > 3, "{soiled}");
}
