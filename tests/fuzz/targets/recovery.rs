//! A data directory is damaged as the input says, then opened, on a simulated disk. Either it is refused, or what it serves are entries
//! that were once written there, and it can be written to, closed and opened again. That nothing durable is lost silently: `segment::tests`.

use super::Input;
use bytes::Bytes;
use kontiki::segment::fs::sim::SimFs;
use kontiki::segment::*;
use kontiki::wire::Compression;
use kontiki::wire::record::RecordBatchBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const DIR: &str = "/data";
const GROUPS: [u64; 2] = [3, 8];
/// Changes made by one input.
const CHANGES_MAX: usize = 32;

pub fn memory(length: usize) -> usize {
    // The disk, its files as they are read and mapped, tails.
    64 * length + (16 << 20)
}

/// Payloads ever written at an index of a group; an end that was cut off comes back if the record of the cut is damaged.
type Written = BTreeMap<(u64, Index), BTreeSet<Bytes>>;

/// Directories as they were left: of a process that was killed, of one that stopped in order, of one that lost power.
struct Base {
    disks: [SimFs; 3],
    written: Written,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut written = Written::new();
        let killed = SimFs::new(1);
        drop(fill(&killed, &mut written));
        let lost = killed.fork();
        lost.crash(5);
        let stopped = killed.fork();
        let opened = open(&stopped).expect("nothing is damaged");
        drop(opened.store);
        opened.writer.close().expect("the disk works");
        Base { disks: [killed, stopped, lost], written }
    })
}

/// Which directory, then changes: what to do, to which file, where, and how.
pub fn run(data: &[u8]) {
    let base = base();
    let mut input = Input(data);
    let Some(which) = input.byte() else { return };
    let disk = base.disks[usize::from(which) % base.disks.len()].fork();
    let mut changes = 0;
    while changes < CHANGES_MAX && change(&disk, &mut input).is_some() {
        changes += 1;
    }
    look(&disk);
    let Ok(mut opened) = open(&disk) else { return };
    let mut sound = Vec::new();
    for group in &opened.groups {
        if read(&mut opened.store, group, &base.written) {
            sound.push(group);
        }
    }
    if changes == 0 {
        assert!(sound.len() == GROUPS.len() && sound.iter().all(|g| g.needs_repair.is_none()));
    }
    for group in sound.into_iter().filter(|g| g.needs_repair.is_none()) {
        let last = opened.store.last(group.group).expect("it was found");
        if last.0.epoch <= Epoch::new(0, 9) {
            let next = entry(last, 9, payload(1, 40));
            opened.store.append(group.group, vec![next]).expect("a sound group takes entries");
        }
    }
    commit(&mut opened.store, &mut opened.writer).expect("the disk works");
    let ends: BTreeMap<_, _> =
        opened.groups.iter().map(|g| (g.group, opened.store.last(g.group).ok())).collect();
    drop(opened);
    let again = open(&disk).unwrap_or_else(|e| panic!("opened once, but not again: {e}"));
    for group in &again.groups {
        assert_eq!(Some((group.last, group.next_offset)), ends[&group.group], "group {}", group.group);
    }
    assert_eq!(again.groups.len(), ends.len());
}

/// One change behind everybody's back. None: the input has come to its end.
fn change(disk: &SimFs, input: &mut Input<'_>) -> Option<()> {
    let what = input.byte()?;
    let files = disk.files();
    let at = usize::from(input.byte()?) % files.len().max(1);
    let (path, length) = files.get(at)?;
    let place = input.number()?;
    // Most of a file is empty space: half of the places are near its beginning.
    let place = if place & 1 == 0 { place >> 1 } else { (place * *length as usize) >> 16 };
    let room = (*length as usize).saturating_sub(place);
    match what % 5 {
        0 => overwrite(disk, path, place, input.take(1).get(..room.min(1))?, |old, mask| old ^ mask),
        1 => disk.cut(path, (place as u64).min(*length)),
        2 => disk.lose(path),
        3 => {
            let count = usize::from(input.byte()?).min(room);
            let bytes = input.take(count);
            overwrite(disk, path, place, bytes, |_, new| new);
        }
        // Written to the wrong place.
        _ => {
            let (from, count) = (input.number()?, input.number()?);
            let content = disk.read(path)?;
            let from = from % content.len().max(1);
            let end = (from + count).min(content.len()).min(from + room);
            overwrite(disk, path, place, &content[from..end], |_, new| new);
        }
    }
    Some(())
}

fn overwrite(disk: &SimFs, path: &Path, at: usize, bytes: &[u8], value: fn(u8, u8) -> u8) {
    let Some(content) = disk.read(path) else { return };
    for (place, &byte) in (at..content.len()).zip(bytes) {
        disk.flip(path, place as u64, content[place] ^ value(content[place], byte));
    }
}

/// What commands read of a directory that nobody has opened.
fn look(disk: &SimFs) {
    let copy = disk.fork();
    for group in GROUPS {
        let _ = kontiki::segment::look_on(&copy, Path::new(DIR), GroupId(group));
    }
    let mut out = Vec::new();
    let options = dump::DumpOptions { json: true, entries: true };
    let _ = dump::dump_on(&copy, Path::new(DIR), &mut out, options);
}

/// Reads a group to its end; false: it is damaged.
fn read(store: &mut Store, group: &RecoveredGroup, written: &Written) -> bool {
    let mut next = group.log_start.prev.index.next();
    while next <= group.last.index {
        let Ok(entries) = store.read(group.group, next, 3000) else {
            // A segment that was complete is not read at the start; whoever reads it finds the damage, and the group is known for it.
            let is_known = group.needs_repair.is_some() || store.take_damaged().contains(&group.group);
            assert!(is_known, "group {}: {next} cannot be read, but it is sound", group.group);
            return false;
        };
        assert!(!entries.is_empty(), "group {}: nothing at {next}", group.group);
        for entry in entries {
            assert_eq!(entry.meta.id.index, next);
            let once = written.get(&(group.group.0, next)).is_some_and(|all| all.contains(&entry.payload));
            assert!(once, "group {}: what is served at {next} was never written there", group.group);
            next = next.next();
        }
    }
    true
}

fn open(disk: &SimFs) -> Result<Opened> {
    let options = StoreOptions {
        dir: PathBuf::from(DIR),
        identity: Identity { node: NodeId(1), cluster: None },
        reference_bytes: 4096,
        journal_file_bytes: 16 << 10,
        checkpoint_bytes: 24 << 10,
        reserve_bytes: 0,
        tail_bytes: 8 << 10,
    };
    open_on(Arc::new(disk.clone()), options)
}

fn payload(seed: u64, length: usize) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    // Not compressible and not all the same: moved bytes are noticed.
    let value: Vec<u8> = (0..length as u64).map(|i| (i.wrapping_mul(seed * 2 + 1) >> 3) as u8).collect();
    builder.append(1_700_000_000_000 + seed as i64, Some(b"key"), Some(&value), &[]);
    builder.build().expect("one record").freeze()
}

fn entry((last, next): (LogId, Offset), term: u64, payload: Bytes) -> Entry {
    let meta = EntryMeta {
        id: LogId { epoch: Epoch::new(last.epoch.generation.0, term), index: last.index.next() },
        prev: last.epoch,
        kind: EntryKind::Records,
        base_offset: next,
        offset_span: 1,
        payload_len: payload.len() as u32,
    };
    Entry { meta, payload }
}

fn commit(store: &mut Store, writer: &mut Writer) -> Result<()> {
    while let Some(round) = store.take_round() {
        store.complete(writer.commit(round), &mut Vec::new())?;
    }
    Ok(())
}

/// Small and large entries in rounds, a cut, a change of term, rolled segments, a log start.
fn fill(disk: &SimFs, written: &mut Written) -> Opened {
    let mut opened = open(disk).expect("a new directory");
    let Opened { store, writer, .. } = &mut opened;
    for group in GROUPS {
        let replica = ReplicaId { node: NodeId(1), assignment: 4, directory: 9 };
        let spec = GroupSpec {
            group: GroupId(group),
            name: format!("topic-{group}"),
            replica,
            log_start: LogStart::default(),
            hard_state: HardState::default(),
            options: GroupOptions { segment_bytes: 6 << 10, index_interval_bytes: 700 },
        };
        store.create_group(spec).expect("a new group");
    }
    for round in 0..16u64 {
        for group in GROUPS.map(GroupId) {
            if round == 7 {
                let last = store.last(group).expect("it is there").0.index;
                store.truncate(group, Index(last.0 - 2)).expect("not below the log's start");
            }
            let term = if round < 7 { 2 } else { 4 };
            let length = if round % 5 == 4 { 5000 } else { 200 + 40 * round as usize };
            let next =
                entry(store.last(group).expect("it is there"), term, payload(round * 7 + group.0, length));
            written.entry((group.0, next.meta.id.index)).or_default().insert(next.payload.clone());
            store.append(group, vec![next]).expect("in order");
            let state = HardState { epoch: Epoch::new(0, term), ..HardState::default() };
            store.save_hard_state(group, state).expect("terms rise");
        }
        commit(store, writer).expect("the disk works");
        writer.idle();
    }
    opened
}
