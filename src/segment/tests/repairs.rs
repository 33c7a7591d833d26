//! Repair of damaged files: the same bytes again in a new file, whatever is damaged and wherever the power fails meanwhile.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::segment_file;
use crate::segment::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

const G: GroupId = GroupId(1);

/// A directory with a log of several files, its entries, and what its segments hold behind their headers.
fn written(seed: u64) -> (SimFs, Vec<Entry>, Vec<Vec<u8>>) {
    let fs = SimFs::new(seed);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    for term in 1..4 {
        for len in [700, 5000] {
            store.append(G, records(&store, 1, term, 6, len)).expect("taken");
            commit(&mut store, &mut writer).expect("durable");
        }
    }
    let entries = read_all(&mut store, 1).expect("sound");
    writer.close().expect("closed");
    drop(store);
    let bytes = contents(&fs);
    assert!(bytes.len() > 3, "several files");
    (fs, entries, bytes)
}

/// Frames of every segment, in the order of the log.
fn contents(fs: &SimFs) -> Vec<Vec<u8>> {
    let mut files = BTreeMap::new();
    for (path, _) in files_of(fs, ".segment") {
        let bytes = fs.read(&path).expect("there");
        let (_, _, prev) = segment_file::decode_header(&bytes).expect("a sound header");
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        if end > 64 {
            files.insert(prev.index, bytes[64..end].to_vec());
        }
    }
    files.into_values().collect()
}

/// Plays the peers: gives what is asked for until nothing is damaged. False if the disk failed first.
pub(super) fn repair(store: &mut Store, writer: &mut Writer, entries: &[Entry]) -> bool {
    for _ in 0..500 {
        match store.repair(G) {
            Ok(Repair::Whole) => return commit(store, writer).is_ok(),
            Ok(Repair::Working) => {}
            Ok(Repair::Needs(from, to, _)) => {
                // Two at a time, as an answer is bounded.
                let some =
                    entries.iter().filter(|e| e.meta.id.index >= from && e.meta.id.index <= to).take(2);
                store.mend(G, some.cloned().collect(), Cleaned::default());
            }
            Err(_) => return false,
        }
        if commit(store, writer).is_err() {
            return false;
        }
        writer.idle();
    }
    panic!("no end of repairing: {:?}", store.needs_repair(G));
}

/// Reads everything so that all damage is known.
pub(super) fn look(store: &mut Store, entries: &[Entry]) {
    for entry in entries {
        let _damaged_or_not = store.read(G, entry.meta.id.index, 1);
    }
}

#[test]
fn damaged_files_become_byte_equal_again() {
    let mut damaged = 0;
    for seed in 0..40 {
        let (fs, entries, bytes) = written(seed);
        let files = files_of(&fs, ".segment");
        for n in 0..=(seed % 3) {
            let (path, _): &(PathBuf, u64) = &files[((seed + n * 5) as usize) % files.len()];
            let at = 64 + (seed * 977 + n * 3333) % 9000;
            fs.flip(path, at, (seed % 8) as u8);
        }
        if seed % 7 == 0 {
            let (path, _) = &files[1];
            crate::segment::fs::Fs::unlink(&fs, path).expect("there");
        }
        let Opened { mut store, mut writer, .. } = boot(&fs);
        look(&mut store, &entries);
        damaged += u32::from(store.needs_repair(G).is_some());
        assert!(repair(&mut store, &mut writer, &entries), "seed {seed}");
        assert_eq!(read_all(&mut store, 1).expect("whole"), entries, "seed {seed}");
        assert_eq!(store.needs_repair(G), None);
        // It goes on as any log does.
        store.append(G, records(&store, 1, 9, 1, 100)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        fs.crash(seed);
        let Opened { mut store, groups, .. } = boot(&fs);
        assert_eq!(groups[0].needs_repair, None, "seed {seed}");
        let mut all = read_all(&mut store, 1).expect("whole");
        all.pop();
        assert_eq!(all, entries, "seed {seed}");
        let now = contents(&fs);
        assert_eq!(now.concat()[..bytes.concat().len()], bytes.concat(), "seed {seed}");
    }
    assert!(damaged > 25, "only {damaged} of 40 runs met damage");
}

#[test]
fn power_failing_at_any_point_of_a_repair_loses_nothing() {
    let mut finished = 0;
    for n in 0..120 {
        let (fs, entries, _) = written(n);
        let (path, _) = files_of(&fs, ".segment")[(n % 3) as usize].clone();
        fs.flip(&path, 64 + 300 + n * 7, 3);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        look(&mut store, &entries);
        commit(&mut store, &mut writer).expect("the damage is recorded");
        fs.power_off_after(n / 3);
        finished += u32::from(repair(&mut store, &mut writer, &entries));
        fs.crash(n);
        drop((store, writer));
        let Opened { mut store, mut writer, .. } = boot(&fs);
        look(&mut store, &entries);
        assert!(repair(&mut store, &mut writer, &entries), "power off at {n}");
        assert_eq!(read_all(&mut store, 1).expect("whole"), entries, "power off at {n}");
    }
    assert!(finished < 110, "the power failed too late to matter: {finished}");
}

#[test]
pub(crate) fn entry_of_another_epoch_is_not_taken() {
    let (fs, entries, _) = written(1);
    let (path, _) = files_of(&fs, ".segment")[0].clone();
    fs.flip(&path, 64 + 300, 3);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    look(&mut store, &entries);
    let mut wrong = entries.clone();
    wrong.iter_mut().for_each(|e| e.meta.id.epoch = Epoch::new(0, 7));
    for _ in 0..20 {
        if let Ok(Repair::Needs(from, ..)) = store.repair(G) {
            assert_eq!(from, Index(1));
            store.mend(G, wrong[..1].to_vec(), Cleaned::default());
        }
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    assert_eq!(store.needs_repair(G), Some((Index(1), Index(1))));
    assert!(store.read(G, Index(1), 1).is_err());
    assert!(repair(&mut store, &mut writer, &entries));
}

/// The log start moves into the first file, whose damage reaches from before it to behind it; peers have moved theirs too.
#[test]
fn a_file_damaged_on_both_sides_of_the_log_start_becomes_one_that_begins_there() {
    let (mut blind, mut guided, mut finished) = (0, 0, 0);
    for n in 0..200_u64 {
        let (fs, entries, _) = written(n);
        let Opened { store, writer, .. } = boot(&fs);
        let inside = store.segments(G).expect("there")[1].first.0 - 2;
        let start_at = entries[usize::try_from(1 + n % (inside - 1)).expect("small")].meta;
        writer.close().expect("closed");
        drop(store);
        let files = files_of(&fs, ".segment");
        let size = fs.read(&files[0].0).expect("there").iter().rposition(|b| *b != 0).expect("full") as u64;
        fs.flip(&files[0].0, 64 + n % 64, 3);
        fs.flip(&files[0].0, 64 + (n * 977) % (size - 64), 5);
        fs.flip(&files[0].0, size - 1 - n % 5, 3);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        look(&mut store, &entries);
        // A copy is waiting for what nobody has.
        let waits = (0..100).any(|_| {
            let state = store.repair(G).expect("works");
            commit(&mut store, &mut writer).expect("durable");
            writer.idle();
            matches!(state, Repair::Needs(..))
        });
        assert!(waits, "{n}: damage was not met");
        let start = LogStart {
            prev: start_at.id,
            base_offset: start_at.next_offset(),
            start_offset: start_at.next_offset(),
            ..store.log_start(G).expect("there").clone()
        };
        store.set_log_start(G, start).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let left: Vec<Entry> =
            entries.iter().filter(|e| e.meta.id.index > start_at.id.index).cloned().collect();
        match store.cut_point_behind(G, start_at.id.index) {
            Ok(_) => guided += 1,
            Err(_) => blind += 1,
        }
        if n % 2 == 1 {
            fs.power_off_after(n / 8);
        }
        finished += u32::from(repair(&mut store, &mut writer, &left));
        fs.crash(n);
        drop((store, writer));
        let Opened { mut store, mut writer, .. } = boot(&fs);
        look(&mut store, &left);
        assert!(repair(&mut store, &mut writer, &left), "power off at {n}");
        assert_eq!(read_all(&mut store, 1).expect("whole"), left, "{n}");
        let file = &store.segments(G).expect("there")[0];
        assert_eq!((file.first, file.base_offset), (left[0].meta.id.index, left[0].meta.base_offset), "{n}");
        // A cut in it, and an entry behind the cut: all places in it are right.
        let cut = left[usize::try_from(n).expect("small") % left.len()].meta;
        store.truncate(G, cut.id.index).expect("cut");
        store.append(G, records(&store, 1, 9, 1, 100)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        fs.crash(n);
        let Opened { mut store, groups, .. } = boot(&fs);
        assert_eq!(groups[0].needs_repair, None, "{n}");
        let mut all = read_all(&mut store, 1).expect("whole");
        all.pop();
        let kept: Vec<Entry> = left.into_iter().filter(|e| e.meta.id.index < cut.id.index).collect();
        assert_eq!(all, kept, "{n}");
    }
    assert!(blind > 5 && guided > 20 && (100..190).contains(&finished), "{blind} {guided} {finished}");
}

/// It had gone by reference with the records beside it, and recovery looked for it in the file of that number, which was gone: the replica
/// knew its former members after the crash.
#[test]
fn configuration_beside_large_records_outlives_the_repair_of_their_file() {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let mut large = spec(1);
    large.options.segment_bytes = 1 << 20;
    store.create_group(large).expect("created");
    commit(&mut store, &mut writer).expect("durable");
    let mut entries = records(&store, 1, 1, 2, 40_000);
    let last = entries.last().map(|e| (e.meta.id, e.meta.next_offset())).expect("two");
    entries.push(entry(last, 1, EntryKind::Configuration, 0, bytes::Bytes::from_static(b"members")));
    store.append(G, entries.clone()).expect("taken");
    store.append(G, records(&store, 1, 1, 1, 40_000)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let entries = read_all(&mut store, 1).expect("sound");
    assert_eq!(entries.len(), 4);
    let (path, _) = files_of(&fs, ".segment").into_iter().max_by_key(|(_, len)| *len).expect("one");
    fs.flip(&path, 9_000, 3);
    store.roll(G).expect("closed");
    commit(&mut store, &mut writer).expect("durable");
    let mut scrubber = store.scrubber();
    super::scrubbing::pass(&mut store, &mut scrubber);
    assert!(store.needs_repair(G).is_some());
    assert!(repair(&mut store, &mut writer, &entries));
    fs.crash(1);
    drop((store, writer));
    let Opened { groups, .. } = boot(&fs);
    let known: Vec<Index> = groups[0].configurations.iter().map(|(id, _)| id.index).collect();
    assert_eq!(known, [Index(3)]);
}

#[test]
fn cut_of_damaged_entries_ends_their_repair() {
    let (fs, entries, _) = written(2);
    let (path, _) = files_of(&fs, ".segment")[1].clone();
    fs.flip(&path, 64 + 6000, 3);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    look(&mut store, &entries);
    commit(&mut store, &mut writer).expect("durable");
    let (first, _) = store.needs_repair(G).expect("noticed");
    assert!(matches!(store.repair(G), Ok(Repair::Working)));
    store.truncate(G, first).expect("cut at the damage");
    commit(&mut store, &mut writer).expect("durable");
    assert_eq!(store.repair(G).expect("nothing to do"), Repair::Whole);
    assert_eq!(store.last(G).expect("there").0.index, first.prev());
    fs.crash(3);
    let Opened { mut store, groups, .. } = boot(&fs);
    assert_eq!((groups[0].last.index, groups[0].needs_repair), (first.prev(), None));
    assert_eq!(read_all(&mut store, 1).expect("sound"), entries[..first.0 as usize - 1]);
}

/// Every replica of a node held out: nobody appends, and the file that is still written lazily must reach its copy all the same.
#[test]
fn damage_in_a_directory_where_nothing_else_happens_is_repaired() {
    let fs = SimFs::new(7);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    for idle in [3, 3, 0] {
        store.append(G, records(&store, 1, 1, 4, 700)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        // Entries reach the file when the writer is idle, and the store hears of it with the round after: of the last ones only when
        // there is one more than the repair itself makes.
        for _ in 0..idle {
            writer.idle();
        }
    }
    let entries = read_all(&mut store, 1).expect("sound");
    let (path, _) = files_of(&fs, ".segment").pop().expect("a segment");
    fs.flip(&path, 64 + 80 + 30, 3);
    let mut scrubber = store.scrubber();
    store.begin_scrub();
    while store.tend_scrub() {
        scrubber.step();
    }
    let mut rounds = 0;
    let whole = (0..200).any(|_| {
        match store.repair(G).expect("works") {
            Repair::Whole => return true,
            Repair::Working => {}
            Repair::Needs(from, to, _) => {
                let some = entries.iter().filter(|e| e.meta.id.index >= from && e.meta.id.index <= to);
                store.mend(G, some.cloned().collect(), Cleaned::default());
            }
        }
        // As the engine does: a round only if there is work.
        if store.has_work() {
            commit(&mut store, &mut writer).expect("durable");
            rounds += 1;
        }
        writer.idle();
        false
    });
    assert!(whole, "still damaged: {:?}", store.needs_repair(G));
    assert!(rounds < 10, "{rounds} rounds for one repair");
    assert_eq!(read_all(&mut store, 1).expect("sound"), entries);
}

/// Copies at a time are bounded, and one whose peers have nothing makes room for those that can be helped.
#[test]
fn many_damaged_groups_wait_in_line_and_none_holds_it_up() {
    const GROUPS: u64 = 150;
    let lost = |group: u64| group <= 80;
    let fs = SimFs::new(11);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let mut entries = BTreeMap::new();
    for group in 1..=GROUPS {
        store.create_group(spec(group)).expect("created");
        store.append(GroupId(group), records(&store, group, 1, 2, 700)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        entries.insert(group, read_all(&mut store, group).expect("sound"));
    }
    writer.close().expect("closed");
    drop(store);
    for (path, len) in files_of(&fs, ".segment") {
        assert!(len > 400, "{path:?}");
        fs.flip(&path, 64 + 300, 3);
    }
    let Opened { mut store, mut writer, .. } = boot(&fs);
    for group in 1..=GROUPS {
        let _damaged = store.read(GroupId(group), Index(1), 1);
    }
    let mut most = 0;
    let mut turn = |store: &mut Store, writer: &mut Writer, is_lost: &dyn Fn(u64) -> bool| {
        for group in 1..=GROUPS {
            match store.repair(GroupId(group)).expect("works") {
                Repair::Needs(..) if is_lost(group) => store.yield_repair(GroupId(group)),
                Repair::Needs(from, to, _) => {
                    let all = entries[&group].iter();
                    let some = all.filter(|e| e.meta.id.index >= from && e.meta.id.index <= to);
                    store.mend(GroupId(group), some.cloned().collect(), Cleaned::default());
                }
                Repair::Working | Repair::Whole => {}
            }
        }
        commit(store, writer).expect("durable");
        writer.idle();
        let active = (1..=GROUPS).filter(|g| store.is_copying(GroupId(*g))).count();
        most = most.max(active);
    };
    let damaged = |store: &Store, group: u64| store.needs_repair(GroupId(group)).is_some();
    for _ in 0..100 {
        turn(&mut store, &mut writer, &lost);
    }
    for group in 1..=GROUPS {
        assert_eq!(damaged(&store, group), lost(group), "group {group}");
    }
    // Their peers come back.
    for _ in 0..100 {
        turn(&mut store, &mut writer, &|_| false);
    }
    for group in 1..=GROUPS {
        assert!(!damaged(&store, group), "group {group}");
        assert_eq!(read_all(&mut store, group).expect("whole"), entries[&group]);
    }
    assert!((60..=64).contains(&most), "{most} copies at a time");
}

/// Entries by value in three files of a group whose directory no checkpoint has named yet; the second file is damaged and found so.
fn damaged_and_unnamed(seed: u64) -> (SimFs, Store, Writer, Vec<Entry>) {
    let fs = SimFs::new(seed);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    store.create_group(spec(1)).expect("created");
    for _ in 0..4 {
        store.append(G, records(&store, 1, 1, 10, 900)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    while writer.idle().is_some() {}
    store.append(G, records(&store, 1, 1, 1, 100)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let entries = read_all(&mut store, 1).expect("sound");
    let (path, _) = files_of(&fs, ".segment")[1].clone();
    fs.flip(&path, 64 + 980 + seed % 900, 1);
    let mut scrubber = store.scrubber();
    super::scrubbing::pass(&mut store, &mut scrubber);
    assert!(store.needs_repair(G).is_some(), "found");
    (fs, store, writer, entries)
}

/// Seed 51218 of the long simulation. The copy's name was made durable in the group's directory, and the directory's own name was not:
/// a power cut took both. Recovery made the rest anew from the journal and did not miss the copy, which the journal only names.
#[test]
fn copy_in_a_directory_that_was_not_named_durably_outlives_a_power_cut() {
    for seed in 0..24 {
        let (fs, mut store, mut writer, entries) = damaged_and_unnamed(seed);
        assert!(repair(&mut store, &mut writer, &entries));
        drop((store, writer));
        fs.crash(seed);
        let Opened { mut store, groups, .. } = boot(&fs);
        assert_eq!(groups[0].needs_repair, None, "seed {seed}");
        assert_eq!(read_all(&mut store, 1).expect("whole"), entries, "seed {seed}");
    }
}

#[test]
fn copy_that_is_gone_at_the_start_is_missed_though_no_manifest_names_it() {
    let (fs, mut store, mut writer, entries) = damaged_and_unnamed(5);
    let before = files_of(&fs, ".segment");
    assert!(repair(&mut store, &mut writer, &entries));
    let of_second = store.segments(G).expect("there")[1].first;
    drop((store, writer));
    let after = files_of(&fs, ".segment");
    let (copy, _) = after.iter().find(|file| !before.contains(file)).expect("a copy");
    fs.kill();
    fs.lose(copy);
    let Opened { mut store, mut writer, groups, .. } = boot(&fs);
    assert_eq!(groups[0].needs_repair.expect("noticed").0, of_second);
    assert!(repair(&mut store, &mut writer, &entries));
    assert_eq!(read_all(&mut store, 1).expect("whole"), entries);
}

#[test]
fn file_that_goes_while_the_store_is_open_is_made_again() {
    for n in 0..3 {
        let (fs, entries, bytes) = written(7);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        fs.lose(&files_of(&fs, ".segment")[n].0);
        look(&mut store, &entries);
        assert!(store.needs_repair(G).is_some(), "file {n}: noticed");
        assert!(repair(&mut store, &mut writer, &entries));
        assert_eq!(read_all(&mut store, 1).expect("whole"), entries);
        assert_eq!(contents(&fs), bytes);
    }
}

/// Numbers of a copy beside entries of it, as [`Store::mend`] wants them.
fn source(clean: i64, dropped: i64) -> Cleaned {
    Cleaned { clean: Offset(clean), dropped: Offset(dropped) }
}

/// Copies that were compacted at different times may each miss what deletes something in the other (docs/decisions/0022).
#[test]
fn answer_of_a_copy_that_does_not_fit_to_this_one_is_refused() {
    let (fs, entries, _) = written(3);
    let end = entries.last().expect("one").meta.next_offset();
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let file = store.closed_files(G).expect("there")[1].clone();
    let r = file.base_offset.0;
    assert!(file.next_offset.0 > r + 4);
    store.note_dropped(G, Offset(r + 1)).expect("taken");
    store.note_cleaned(G, Offset(r + 3)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    drop(store);
    let (path, _) = files_of(&fs, ".segment")[1].clone();
    fs.flip(&path, 64 + 300, 3);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    look(&mut store, &entries);
    commit(&mut store, &mut writer).expect("the damage is recorded");
    let changes = store.changes(G);
    let at = |index: Index| entries.iter().position(|e| e.meta.id.index == index).expect("there");
    let mut refused = 0;
    loop {
        match store.repair(G).expect("repaired") {
            Repair::Whole => break,
            Repair::Working => {}
            Repair::Needs(from, to, needs) => {
                assert_eq!(needs, Some(Offset(r + 1)), "what is missing here must not come from there");
                let some = entries[at(from)..=at(to)].to_vec();
                for (clean, dropped) in [(r, 0), (100, r + 4), (0, 0)] {
                    // All that gave something count: what was taken first too.
                    assert_eq!(store.mend(G, some.clone(), source(clean, dropped)), Mended::Refused);
                    assert_eq!(store.repair(G).expect("asks"), Repair::Needs(from, to, needs));
                    refused += 1;
                }
                assert_eq!(store.mend(G, some, source(r + 2, r + 2)), Mended::Taken);
            }
        }
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    assert!(refused > 0 && store.changes(G) > changes);
    assert_eq!(store.cleaned(G).expect("there"), source(r + 2, r + 2));
    assert_eq!(read_all(&mut store, 1).expect("whole"), entries);
    fs.crash(1);
    drop((store, writer));
    let Opened { mut store, .. } = boot(&fs);
    assert_eq!(store.cleaned(G).expect("there"), source(r + 2, r + 2));
    // Of any entry, whether it is part of this log, and which is the last one below an offset.
    for entry in &entries {
        let EntryMeta { id, base_offset, .. } = entry.meta;
        assert!(store.holds(G, id) && !store.holds(G, LogId { epoch: Epoch::new(0, 99), ..id }));
        let below = entries.iter().rfind(|e| e.meta.base_offset < base_offset);
        if let Some(below) = below {
            assert_eq!(store.last_below(G, base_offset).expect("there"), below.meta.id);
        }
        assert_eq!(store.last_below(G, Offset(base_offset.0 + 1)).expect("there"), id);
    }
    let last = store.last(G).expect("there").0;
    assert_eq!(store.last_below(G, Offset(end.0 + 100)).expect("there"), last);
    assert!(!store.holds(G, LogId { index: last.index.next(), ..last }));
}

/// A manifest that no longer names it, and no record that does: a start took it for what no log ever held, and unlinked it.
#[test]
fn copy_that_an_install_drops_has_its_other_name_before_a_manifest_forgets_it() {
    let (fs, entries, _) = written(5);
    let (path, _) = files_of(&fs, ".segment")[1].clone();
    fs.flip(&path, 64 + 300, 3);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    look(&mut store, &entries);
    assert!(repair(&mut store, &mut writer, &entries));
    writer.close().expect("closed");
    drop(store);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let is_copy = |path: &PathBuf| segment_file::is_copy(&fs.read(path).expect("there"));
    let copy = files_of(&fs, ".segment").into_iter().find(|(path, _)| is_copy(path)).expect("a copy").0;
    let opening =
        Opening { survivor: replica(), base: LogId::new(0, 1, 1), first_term: Term(99), lossless: false };
    let state = HardState { epoch: Epoch::new(1, 99), opening: Some(opening), ..HardState::default() };
    store.save_hard_state(G, state).expect("taken");
    store.set_aside(G, Index(1)).expect("named");
    store.install_log_start(G, LogStart::default()).expect("installed");
    commit(&mut store, &mut writer).expect("durable");
    // The format rises: a checkpoint, before anybody was idle.
    store.note_dropped(G, Offset(1)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    fs.kill();
    drop((store, writer));
    let Opened { .. } = boot(&fs);
    let name = copy.file_name().expect("named").to_string_lossy().into_owned();
    let aside = files_of(&fs, ".fenced");
    assert!(aside.iter().any(|(path, _)| path.to_string_lossy().contains(&name)), "{name}: {aside:?}");
}

/// Whoever could mend all of it was refused for what another one had given, for ever.
#[test]
fn repair_is_begun_again_for_a_copy_that_does_not_fit_to_the_one_before() {
    let (fs, entries, _) = written(3);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let file = store.closed_files(G).expect("there")[1].clone();
    let (r, e) = (file.base_offset.0, file.next_offset.0);
    store.note_cleaned(G, file.next_offset).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    writer.close().expect("closed");
    drop(store);
    let (path, len) = files_of(&fs, ".segment")[1].clone();
    fs.flip(&path, 64 + 300, 3);
    fs.flip(&path, len.min(14_000) - 300, 3);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    look(&mut store, &entries);
    commit(&mut store, &mut writer).expect("the damage is recorded");
    let (mut given, mut refused) = (0, 0);
    for _ in 0..200 {
        match store.repair(G).expect("repaired") {
            Repair::Whole => break,
            Repair::Working => {}
            Repair::Needs(from, to, _) => {
                let some = entries.iter().filter(|e| e.meta.id.index >= from && e.meta.id.index <= to);
                // One that has never been cleaned, then one that has been, and misses something: each of them would do.
                let (count, from) = if given == 0 { (1, source(0, 0)) } else { (100, source(e, r + 2)) };
                given += 1;
                refused +=
                    u32::from(store.mend(G, some.take(count).cloned().collect(), from) == Mended::Again);
            }
        }
        commit(&mut store, &mut writer).expect("durable");
        writer.idle();
    }
    assert_eq!((store.needs_repair(G), refused), (None, 1), "{given}");
    assert_eq!(store.cleaned(G).expect("there"), source(e, r + 2));
    assert_eq!(read_all(&mut store, 1).expect("whole"), entries);
}
