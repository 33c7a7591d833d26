//! The scrub finds what is damaged, and nothing else.

use super::rig::*;
use crate::segment::fs::Fs;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;

const G: GroupId = GroupId(1);

pub(super) fn pass(store: &mut Store, scrubber: &mut Scrubber) {
    let before = store.scrub_stats().passes;
    store.begin_scrub();
    while store.tend_scrub() {
        while scrubber.step() > 0 {}
    }
    store.tend_scrub();
    assert_eq!(store.scrub_stats().passes, before + 1);
}

fn written(fs: &SimFs) -> (Store, Writer) {
    let Opened { mut store, mut writer, .. } = boot(fs);
    store.create_group(spec(1)).expect("created");
    for _ in 0..4 {
        store.append(G, records(&store, 1, 1, 10, 900)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
    }
    while writer.idle().is_some() {}
    commit(&mut store, &mut writer).expect("nothing");
    (store, writer)
}

#[test]
fn sound_log_is_read_to_its_end_and_nothing_is_found() {
    let fs = SimFs::new(1);
    let (mut store, mut writer) = written(&fs);
    // What lags of the last round is told with the next.
    store.append(G, records(&store, 1, 1, 1, 100)).expect("taken");
    commit(&mut store, &mut writer).expect("durable");
    let mut scrubber = store.scrubber();
    pass(&mut store, &mut scrubber);
    let stats = store.scrub_stats();
    assert_eq!((stats.damaged, store.needs_repair(G)), (0, None));
    assert_eq!(stats.bytes, 40 * 980);
    pass(&mut store, &mut scrubber);
    assert!(store.scrub_stats().bytes >= 2 * 40 * 980);
}

#[test]
pub(crate) fn flipped_bit_is_found_without_a_reader() {
    for (n, index) in [(0, 2), (1, 18), (2, 34)] {
        let fs = SimFs::new(1);
        let (mut store, mut writer) = written(&fs);
        store.append(G, records(&store, 1, 1, 1, 100)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let (path, _) = files_of(&fs, ".segment")[n].clone();
        fs.flip(&path, 64 + 980 + 500, 1);
        assert_eq!(store.needs_repair(G), None);
        let mut scrubber = store.scrubber();
        pass(&mut store, &mut scrubber);
        let (first, last) = store.needs_repair(G).expect("found");
        assert_eq!((first, last, store.scrub_stats().damaged), (Index(index), Index(index), 1));
        assert_eq!(store.take_damaged(), [G]);
    }
}

/// What a header says is known without it: it is mended on the spot, in the file that is written to as well.
#[test]
fn damaged_header_is_written_again() {
    for n in 0..3 {
        let fs = SimFs::new(1);
        let (mut store, mut writer) = written(&fs);
        store.append(G, records(&store, 1, 1, 1, 100)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let (path, _) = files_of(&fs, ".segment")[n].clone();
        let header = || {
            let mut bytes = [0; 64];
            fs.open(&path, fs::OpenMode::Read).and_then(|f| f.pread(&mut bytes, 0)).expect("read");
            bytes
        };
        let sound = header();
        fs.flip(&path, 53, 1);
        assert_ne!(header(), sound);
        let mut scrubber = store.scrubber();
        pass(&mut store, &mut scrubber);
        assert_eq!((store.scrub_stats().damaged, store.needs_repair(G)), (1, None), "no peer is asked");
        assert_eq!(header(), sound);
        pass(&mut store, &mut scrubber);
        assert_eq!(store.scrub_stats().damaged, 1);
        assert_eq!(read_all(&mut store, 1).expect("sound").len(), 41);
    }
}

#[test]
fn file_cut_or_dropped_meanwhile_is_no_damage() {
    let fs = SimFs::new(1);
    let (mut store, mut writer) = written(&fs);
    let mut scrubber = store.scrubber();
    store.begin_scrub();
    assert!(store.tend_scrub(), "files are handed out");
    store.truncate(G, Index(5)).expect("cut");
    commit(&mut store, &mut writer).expect("durable");
    while writer.idle().is_some() {}
    while scrubber.step() > 0 {}
    store.tend_scrub();
    assert_eq!(store.needs_repair(G), None);
    assert_eq!(read_all(&mut store, 1).expect("sound").len(), 4);
}

#[test]
fn unreadable_file_is_damage_from_its_first_entry_on() {
    let fs = SimFs::new(1);
    let (mut store, _writer) = written(&fs);
    let (path, _) = files_of(&fs, ".segment")[0].clone();
    fs.fail_reads_of(Some(path.to_str().expect("text")));
    let mut scrubber = store.scrubber();
    pass(&mut store, &mut scrubber);
    assert_eq!(store.needs_repair(G), Some((Index(1), Index(1))));
}
