//! Controllers that go on with a loss, on simulated disks: who has to be named, what is taken over, what is sealed, and that any power cut leaves
//! what the same command goes on from. Not here: whole processes (`tests/cluster/controllers.rs`), the rules (`raftlog::offline::loss`,
//! `ctl::offline`).

use super::tests::{REASON, commit, controller_with_brokers, dir, dirs, options, replica, start, three};
use super::*;
use crate::ctl::offline::Lost;
use crate::raftlog::core::Role;
use crate::segment::fs::sim::SimFs;
use crate::segment::{Epoch, Index};
use uuid::Uuid;

fn accept(fs: &Arc<dyn Fs>, nodes: &[i32], gone: &[i32]) -> Result<Loss, Trouble> {
    gather_on(fs, &dirs(nodes))?.accept(&gone.iter().copied().map(NodeId).collect::<Vec<_>>())
}

fn recover(fs: &Arc<dyn Fs>, nodes: &[i32], gone: &[i32]) -> Result<Done, Trouble> {
    let plan = accept(fs, nodes, gone)?.plan();
    let gone: Vec<NodeId> = gone.iter().copied().map(NodeId).collect();
    gather_on(fs, &dirs(nodes))?.execute_with_loss(&plan, &gone, REASON, 12)
}

/// Controllers 1 to 3; 7 is a broker, and so are 1 and 2. Where their copies of the log end.
fn with_brokers(fs: &Arc<dyn Fs>, ends: &[(i32, u64)]) {
    let disk = |node: i32| match ends.iter().any(|(given, _)| *given == node) {
        true => segment::open_on(fs.clone(), options(node)).unwrap().directory,
        false => replica(node).directory,
    };
    let brokers = [1, 2, 7].map(|node| (node, disk(node)));
    for (node, last) in ends {
        controller_with_brokers(fs, *node, &[1, 2, 3], *last, &brokers);
    }
}

fn disks() -> (SimFs, Arc<dyn Fs>) {
    let disk = SimFs::new(7);
    (disk.clone(), Arc::new(disk))
}

#[test]
fn last_of_three_goes_on_and_the_others_disks_are_given_up() {
    let fs = three([5, 9, 7]);
    let text = accept(&fs, &[2], &[3]).unwrap_err().to_string();
    assert!(text.contains("controller 1 is neither given"), "{text}");
    let text = accept(&fs, &[2], &[1, 2, 3]).unwrap_err().to_string();
    assert!(text.contains("node 2 is given, and said to be gone"), "{text}");
    let text = accept(&fs, &[2], &[1, 3, 44]).unwrap_err().to_string();
    assert!(text.contains("node 44 is no controller and no broker"), "{text}");
    assert!(accept(&fs, &[1, 2], &[3]).unwrap_err().to_string().contains("nothing is lost"));
    let loss = accept(&fs, &[2], &[1, 3]).unwrap();
    assert_eq!((loss.survivor, loss.takes_from(), loss.base.0), (NodeId(2), None, LogId::new(0, 1, 9)));
    let done = recover(&fs, &[2], &[1, 3]).unwrap();
    assert_eq!((done.survivor, done.generation), (NodeId(2), loss.generation));
    assert!(done.generation >= Generation(1_000) && done.ended.is_empty(), "{done:?}");
    let (role, epoch, image) = start(&fs, 2);
    assert_eq!((role, epoch.generation), (Role::Leader, done.generation));
    let given_up =
        |node: i32| Lost { node: NodeId(node), directory: Uuid::from_u128(replica(node).directory) };
    assert_eq!(image.controller_recoveries[0].lost, [given_up(1), given_up(3)]);
    assert_eq!(image.lost.len(), 2);
    // Done once, it has only to be started.
    assert!(recover(&fs, &[2], &[1, 3]).is_err());
    assert_eq!(gather_on(&fs, &dirs(&[2])).unwrap().judged.verdict, Verdict::Alone);
}

#[test]
fn every_broker_of_the_metadata_is_named() {
    let (_, fs) = disks();
    with_brokers(&fs, &[(2, 9), (7, 9)]);
    let text = accept(&fs, &[2], &[1, 3]).unwrap_err().to_string();
    assert!(text.contains("broker 7 is neither given"), "{text}");
    let loss = accept(&fs, &[2], &[1, 3, 7]).unwrap();
    assert_eq!(loss.lost.iter().map(|disk| disk.node.0).collect::<Vec<_>>(), [1, 3, 7]);
    assert!(loss.risks.is_empty() && loss.partitions == 0);
    assert!(accept(&fs, &[2, 7], &[1, 3]).is_ok());
    assert_ne!(accept(&fs, &[2, 7], &[1, 3]).unwrap().plan(), loss.plan());
}

#[test]
pub(crate) fn entries_that_only_a_brokers_copy_holds_are_taken_over() {
    let (_, fs) = disks();
    with_brokers(&fs, &[(2, 8), (7, 30)]);
    let loss = accept(&fs, &[2, 7], &[1, 3]).unwrap();
    assert_eq!((loss.base, loss.takes_from()), ((LogId::new(0, 1, 30), NodeId(7)), Some(Index(9))));
    let done = recover(&fs, &[2, 7], &[1, 3]).unwrap();
    assert_eq!((done.survivor, done.base), (NodeId(2), LogId::new(0, 1, 30)));
    assert_eq!(done.ended, [(NodeId(7), dir(7))], "the broker's copy is ended too");
    let (role, _, image) = start(&fs, 2);
    assert_eq!(role, Role::Leader);
    assert!(image.configs.contains_key("k30"), "{:?}", image.configs.keys());
    assert!(!image.brokers[&NodeId(2)].dead && image.brokers[&NodeId(1)].dead);
    // It takes no entry of the generation that ended any more, and votes for nobody.
    assert!(matches!(start(&fs, 7).0, Role::Follower | Role::Learner));
    let stopped = Stopped::open(&fs, dir(7), NodeId(7)).unwrap();
    assert!(stopped.engine.core(CONTROLLERS).unwrap().hard_state().sealed.is_some());
}

#[test]
fn tail_of_an_older_term_gives_way_to_what_the_best_copy_holds() {
    let (_, fs) = disks();
    with_brokers(&fs, &[(2, 8), (7, 8)]);
    // The controller stored ten more that never were committed; the broker heard of another leader.
    append(&fs, 2, Epoch::new(0, 1), 10);
    append(&fs, 7, Epoch::new(0, 2), 3);
    let loss = accept(&fs, &[2, 7], &[1, 3]).unwrap();
    assert_eq!((loss.base, loss.takes_from()), ((LogId::new(0, 2, 11), NodeId(7)), Some(Index(9))));
    recover(&fs, &[2, 7], &[1, 3]).unwrap();
    let (role, _, image) = start(&fs, 2);
    assert_eq!(role, Role::Leader);
    assert!(image.configs.contains_key("term 2, 11") && !image.configs.contains_key("term 1, 9"));
}

fn append(fs: &Arc<dyn Fs>, node: i32, epoch: Epoch, count: u64) {
    let segment::Opened { mut store, mut writer, groups, .. } =
        segment::open_on(fs.clone(), options(node)).unwrap();
    let mut last = groups[0].last;
    for _ in 0..count {
        let index = last.index.next();
        let changes = [(format!("term {}, {index}", epoch.term), Some("v".into()))].into();
        let payload = Bytes::from(Batch::new(vec![Record::ClusterConfig { changes }]).encode());
        let meta = segment::EntryMeta {
            id: LogId { epoch, index },
            prev: last.epoch,
            kind: EntryKind::Metadata,
            base_offset: segment::Offset(0),
            offset_span: 0,
            payload_len: payload.len() as u32,
        };
        store.append(CONTROLLERS, vec![segment::Entry { meta, payload }]).unwrap();
        last = meta.id;
    }
    commit(&mut store, &mut writer);
}

#[test]
fn plan_that_was_not_approved_is_not_carried_out() {
    let fs = three([5, 9, 7]);
    let gone = [NodeId(1), NodeId(3)];
    let drifted = gather_on(&fs, &dirs(&[2])).unwrap().execute_with_loss("12", &gone, "", 0);
    assert!(matches!(drifted, Err(Trouble::Drifted { .. })));
    assert_eq!(start(&fs, 2).0, Role::PreCandidate, "nothing was changed");
    // What was begun without a loss is not ended with one.
    let judged = gather_on(&fs, &dirs(&[1, 2])).unwrap().judged.clone();
    Stopped::open(&fs, dir(2), NodeId(2)).unwrap().seal(judged.from, judged.plan).unwrap();
    assert!(accept(&fs, &[2], &[1, 3]).unwrap_err().to_string().contains("ended by plan"));
}

#[test]
fn power_cut_at_any_write_leaves_what_the_same_command_goes_on_from() {
    let (mut undone, mut done) = (0, 0);
    let gone = [NodeId(1), NodeId(3)];
    for writes in (0..600).step_by(7) {
        let disk = SimFs::new(writes);
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        with_brokers(&fs, &[(2, 8), (7, 30)]);
        let gathered = gather_on(&fs, &dirs(&[2, 7])).unwrap();
        let plan = gathered.accept(&gone).unwrap().plan();
        disk.power_off_after(writes);
        let ended = gathered.execute_with_loss(&plan, &gone, REASON, 12);
        let was_cut = disk.is_off();
        disk.crash(writes);
        disk.disarm();
        let again = gather_on(&fs, &dirs(&[2, 7])).unwrap();
        if again.judged.verdict == Verdict::Alone {
            done += 1;
            drop(again);
        } else {
            undone += 1;
            assert!(ended.is_err(), "it was said to be done after {writes} writes");
            assert_eq!(again.accept(&gone).unwrap().plan(), plan, "after {writes} writes");
            again.execute_with_loss(&plan, &gone, REASON, 12).unwrap();
        }
        let (role, epoch, image) = start(&fs, 2);
        assert_eq!(role, Role::Leader, "after {writes} writes");
        assert!(
            epoch.generation >= Generation(1_000) && image.configs.contains_key("k30"),
            "after {writes} writes"
        );
        assert_eq!(image.controller_recoveries.len(), 1, "after {writes} writes");
        if !was_cut {
            break;
        }
    }
    assert!(undone > 5 && done > 0, "{undone} before, {done} after");
}

/// The log is read from a directory as it lies there: by value, by reference, and from segments.
#[test]
fn look_reads_the_whole_log() {
    let (_, fs) = disks();
    with_brokers(&fs, &[(2, 40)]);
    let read = |fs: &Arc<dyn Fs>| {
        let looked = segment::look_on(&**fs, &dir(2), CONTROLLERS).unwrap();
        looked.log_on(&**fs).unwrap().iter().map(|entry| entry.meta.id.index.0).collect::<Vec<_>>()
    };
    assert_eq!(read(&fs), (1..=40).collect::<Vec<_>>(), "from the journal");
    Stopped::open(&fs, dir(2), NodeId(2)).unwrap().close().unwrap();
    assert_eq!(read(&fs), (1..=40).collect::<Vec<_>>(), "from segments");
    append(&fs, 2, Epoch::new(0, 1), 3);
    assert_eq!(read(&fs), (1..=43).collect::<Vec<_>>(), "from both");
}
