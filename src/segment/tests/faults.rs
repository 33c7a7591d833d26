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
