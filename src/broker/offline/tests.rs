//! Directories of stopped controllers on simulated disks, looked at and recovered; what a node that starts with one finds. Not here: whole
//! processes (`tests/cluster/controllers.rs`), the rule (`raftlog::offline`).

use super::*;
use crate::ctl::image::Image;
use crate::ctl::record::Endpoint;
use crate::raftlog::core::Role;
use crate::segment::fs::OpenMode;
use crate::segment::fs::sim::SimFs;
use crate::segment::{
    Entry, EntryMeta, Epoch, GroupOptions, GroupSpec, HardState, Index, LogStart, Offset, ReplicaId,
};
use uuid::Uuid;

pub(super) const REASON: &str = "two machines burnt down";

pub(super) fn dir(node: i32) -> PathBuf {
    PathBuf::from(format!("/node-{node}"))
}

pub(super) fn dirs(nodes: &[i32]) -> Vec<PathBuf> {
    nodes.iter().copied().map(dir).collect()
}

pub(super) fn replica(node: i32) -> ReplicaId {
    ReplicaId { node: NodeId(node), assignment: 0, directory: 40 + node as u128 }
}

pub(super) fn options(node: i32) -> StoreOptions {
    let identity = Identity { node: NodeId(node), cluster: Some("c".into()) };
    let mut options = StoreOptions::new(dir(node), identity);
    (options.journal_file_bytes, options.reserve_bytes) = (64 << 10, 0);
    options
}

pub(super) fn commit(store: &mut segment::Store, writer: &mut Writer) {
    while let Some(round) = store.take_round() {
        let done = writer.commit(round);
        assert_eq!(done.failure(), None);
        store.complete(done, &mut Vec::new()).unwrap();
    }
}

/// A controller among these voters, whose log holds the cluster's birth and a setting more per entry up to `last`.
pub(super) fn controller(fs: &Arc<dyn Fs>, node: i32, voters: &[i32], last: u64) {
    controller_with(fs, node, voters, last, "v");
}

/// The same, and these brokers register with these disks, before the settings.
pub(super) fn controller_with_brokers(
    fs: &Arc<dyn Fs>,
    node: i32,
    voters: &[i32],
    last: u64,
    brokers: &[(i32, u128)],
) {
    let endpoint = || Endpoint { host: "localhost".into(), port: 9 };
    let registers = |(node, directory): &(i32, u128)| Record::Broker {
        node: NodeId(*node),
        directory: Uuid::from_u128(*directory),
        kafka: endpoint(),
        listeners: [].into(),
        peer: endpoint(),
        rack: None,
    };
    let mut records: Vec<Record> = vec![Record::Cluster { id: "c".into() }];
    records.extend(brokers.iter().map(registers));
    let settings = (records.len() as u64 + 1..=last).map(|index| setting(index, "v"));
    records.extend(settings);
    log_of(fs, node, voters, records);
}

fn setting(index: u64, value: &str) -> Record {
    Record::ClusterConfig { changes: [(format!("k{index}"), Some(value.into()))].into() }
}

/// With settings of this value; all but the last entry go to the disk together.
fn controller_with(fs: &Arc<dyn Fs>, node: i32, voters: &[i32], last: u64, value: &str) {
    let born = Record::Cluster { id: "c".into() };
    let settings = (2..=last).map(|index| setting(index, value));
    log_of(fs, node, voters, std::iter::once(born).chain(settings).collect());
}

/// The only controller of another cluster.
fn controller_of(fs: &Arc<dyn Fs>, node: i32, cluster: &str) {
    let mut options = options(node);
    options.identity.cluster = Some(cluster.into());
    log_with(fs, options, &[node], vec![Record::Cluster { id: cluster.into() }]);
}

/// A copy of the controllers' log with these records, one per entry.
fn log_of(fs: &Arc<dyn Fs>, node: i32, voters: &[i32], records: Vec<Record>) {
    log_with(fs, options(node), voters, records);
}

fn log_with(fs: &Arc<dyn Fs>, options: StoreOptions, voters: &[i32], records: Vec<Record>) {
    let node = options.identity.node.0;
    let segment::Opened { mut store, mut writer, .. } = segment::open_on(fs.clone(), options).unwrap();
    let voters = voters.iter().copied().map(replica).collect();
    let configuration = Configuration { voters, ..Configuration::default() };
    let epoch = Epoch::new(0, 1);
    let spec = GroupSpec {
        group: CONTROLLERS,
        name: "controller".into(),
        replica: replica(node),
        log_start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
        hard_state: HardState { epoch, ..HardState::default() },
        options: GroupOptions::default(),
    };
    store.create_group(spec).unwrap();
    let entries = (1..).zip(records).map(|(index, record)| {
        let payload = Bytes::from(Batch::new(vec![record]).encode());
        let prev = if index == 1 { Epoch::default() } else { epoch };
        let meta = EntryMeta {
            id: LogId { epoch, index: Index(index) },
            prev,
            kind: EntryKind::Metadata,
            base_offset: Offset(0),
            offset_span: 0,
            payload_len: payload.len() as u32,
        };
        Entry { meta, payload }
    });
    let mut entries: Vec<Entry> = entries.collect();
    let end = entries.split_off(entries.len() - 1);
    for entries in [entries, end] {
        store.append(CONTROLLERS, entries).unwrap();
        commit(&mut store, &mut writer);
    }
}

pub(super) fn three(ends: [u64; 3]) -> Arc<dyn Fs> {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new(7));
    (1..=3).zip(ends).for_each(|(node, last)| controller(&fs, node, &[1, 2, 3], last));
    fs
}

fn recover(fs: &Arc<dyn Fs>, nodes: &[i32]) -> Result<Done, Trouble> {
    let gathered = gather_on(fs, &dirs(nodes))?;
    let plan = gathered.plan().unwrap_or_default();
    gathered.execute(&plan, false, REASON, 12)
}

/// A node starts with the directory, alone: who leads, what is committed, and what the metadata says then.
pub(super) fn start(fs: &Arc<dyn Fs>, node: i32) -> (Role, Epoch, Image) {
    let mut stopped = Stopped::open(fs, dir(node), NodeId(node)).unwrap();
    for now in (0..3_000).step_by(50) {
        stopped.engine.tick(now);
        let mut disk = OneRound(None);
        stopped.engine.flush(now, &mut Nobody, &mut disk);
        if let Some(round) = disk.0 {
            stopped.engine.on_round_done(now, stopped.writer.commit(round));
        }
    }
    let core = stopped.engine.core(CONTROLLERS).unwrap();
    let (role, epoch, last) = (core.role(), core.epoch(), core.commit());
    let mut image = Image::default();
    let mut next = Index(1);
    while next <= last {
        for entry in stopped.engine.store().read(CONTROLLERS, next, 1 << 20).unwrap() {
            next = entry.meta.id.index.next();
            if entry.meta.kind == EntryKind::Metadata && entry.meta.id.index <= last {
                let LogId { epoch, index } = entry.meta.id;
                let number = Image::number(epoch.generation.0, index.0);
                image.apply(number, &Batch::decode(&entry.payload).unwrap()).unwrap();
            }
        }
    }
    stopped.close().unwrap();
    (role, epoch, image)
}

#[test]
fn two_of_three_directories_recover_and_the_one_that_holds_more_goes_on() {
    let fs = three([5, 9, 7]);
    let gathered = gather_on(&fs, &dirs(&[1, 2])).unwrap();
    assert_eq!(gathered.judged.verdict, Verdict::Empty);
    assert_eq!(gathered.judged.alone_from, Some(Index(6)), "only one copy holds what came last");
    drop(gathered);
    let done = recover(&fs, &[1, 2]).unwrap();
    assert_eq!((done.survivor, done.generation, done.base), (NodeId(2), Generation(1), LogId::new(0, 1, 9)));
    let (role, epoch, image) = start(&fs, 2);
    assert_eq!((role, epoch.generation), (Role::Leader, Generation(1)), "it leads, alone");
    assert!(image.configs.contains_key("k9"), "everything it held counts: {:?}", image.configs);
    let audit = &image.controller_recoveries[..];
    assert_eq!(audit.len(), 1);
    assert_eq!((audit[0].survivor, audit[0].reason.as_str(), audit[0].at_ms), (NodeId(2), REASON, 12));
    assert_eq!(audit[0].copies, [(NodeId(1), LogId::new(0, 1, 5)), (NodeId(2), LogId::new(0, 1, 9))]);
    assert_eq!((&audit[0].missing[..], &audit[0].heirs_gone[..]), (&[NodeId(3)][..], &[][..]));
}

#[test]
fn look_changes_nothing_and_what_is_done_once_is_not_done_again() {
    let disk = SimFs::new(7);
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    (1..=3).zip([5, 9, 7]).for_each(|(node, last)| controller(&fs, node, &[1, 2, 3], last));
    let held = |path: &PathBuf| disk.read(path);
    let all = || disk.files().into_iter().map(|(path, _)| (held(&path), path)).collect::<Vec<_>>();
    let before = all();
    let gathered = gather_on(&fs, &dirs(&[1, 2, 3])).unwrap();
    assert!(all() == before, "a look wrote to the disk");
    let plan = gathered.plan().unwrap();
    // A node cannot start meanwhile.
    assert!(matches!(segment::open_on(fs.clone(), options(1)), Err(segment::Error::Refused(_))));
    drop(gathered);
    assert_eq!(gather_on(&fs, &dirs(&[1, 2, 3])).unwrap().plan(), Some(plan.clone()));
    let drifted = gather_on(&fs, &dirs(&[1, 2])).unwrap().execute(&plan, false, "", 0);
    assert!(matches!(drifted, Err(Trouble::Drifted { .. })), "{drifted:?}");
    assert_eq!(start(&fs, 1).0, Role::PreCandidate, "nothing was sealed");
    let plan = gather_on(&fs, &dirs(&[1, 2])).unwrap().plan().unwrap();
    gather_on(&fs, &dirs(&[1, 2])).unwrap().execute(&plan, false, "", 0).unwrap();
    let again = gather_on(&fs, &dirs(&[1, 2])).unwrap();
    assert_eq!((again.judged.verdict, again.plan()), (Verdict::Alone, None));
    assert_eq!(again.judged.standings, [Standing::Ended, Standing::Best]);
    assert!(matches!(again.execute(&plan, false, "", 0), Err(Trouble::Refused(_))));
    // What was ended stands still, whatever it is started with.
    assert!(matches!(start(&fs, 1).0, Role::Follower));
}

#[test]
pub(crate) fn second_recovery_from_other_copies_is_refused() {
    let fs = three([5, 9, 7]);
    recover(&fs, &[1, 2]).unwrap();
    let second = recover(&fs, &[1, 3]);
    assert!(matches!(second, Err(Trouble::Refused(_))), "two survivors: {second:?}");
    let text = second.unwrap_err().to_string();
    assert!(text.contains("ended by plan"), "{text}");
}

#[test]
fn one_of_three_is_refused_and_so_is_a_directory_twice_or_of_another_kind() {
    let fs = three([5, 9, 7]);
    let text = recover(&fs, &[2]).unwrap_err().to_string();
    assert!(text.contains("not provably empty: nodes 1, 3"), "{text}");
    assert_eq!(start(&fs, 2).0, Role::PreCandidate, "nothing was changed");
    assert!(
        matches!(gather_on(&fs, &dirs(&[2, 2])), Err(Trouble::Directory(_))),
        "it is locked by ourselves"
    );
    assert!(matches!(gather_on(&fs, &dirs(&[9])), Err(Trouble::Directory(_))));
    drop(segment::open_on(fs.clone(), options(9)).unwrap());
    assert!(matches!(gather_on(&fs, &dirs(&[1, 9])), Err(Trouble::NoCopy(_))));
}

/// As `cp -a` does, with the node stopped.
fn copy(disk: &SimFs, from: &Path, to: &Path) {
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    for (path, _) in disk.files().into_iter().filter(|(path, _)| path.starts_with(from)) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs.create_dir(target.parent().unwrap()).unwrap();
        let file = fs.open(&target, OpenMode::CreateNew).unwrap();
        file.pwrite(&disk.read(&path).unwrap(), 0).unwrap();
    }
}

#[test]
fn copied_directory_is_the_same_replica_and_another_clusters_is_none_of_ours() {
    let disk = SimFs::new(7);
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    (1..=3).for_each(|node| controller(&fs, node, &[1, 2, 3], 9));
    let backup = PathBuf::from("/backup");
    copy(&disk, &dir(1), &backup);
    let twice = gather_on(&fs, &[dir(1), backup.clone()]).map(drop);
    assert!(matches!(&twice, Err(Trouble::Twice(_, _, NodeId(1)))), "{twice:?}");
    assert_eq!(gather_on(&fs, &[backup, dir(2)]).unwrap().judged.verdict, Verdict::Empty);
    controller_of(&fs, 4, "d");
    let foreign = gather_on(&fs, &dirs(&[1, 4])).map(drop);
    assert!(
        matches!(&foreign, Err(Trouble::Clusters(_, ours, _, theirs)) if ours == "c" && theirs == "d"),
        "{foreign:?}"
    );
}

#[test]
fn heir_whose_copy_is_damaged_is_said_to_be_here() {
    let disk = SimFs::new(7);
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    (1..=2).for_each(|node| controller_with(&fs, node, &[2, 1], 9, &"v".repeat(9_000)));
    flipped(&disk, 2);
    let gathered = gather_on(&fs, &dirs(&[1, 2])).unwrap();
    assert_eq!(gathered.judged.verdict, Verdict::UnlessHeir);
    assert!(gathered.why_not().contains("cannot be counted on (/node-2)"), "{}", gathered.why_not());
}

#[test]
fn damaged_copy_does_not_count() {
    let fs = SimFs::new(7);
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    (1..=3).for_each(|node| controller(&shared, node, &[1, 2, 3], 9));
    // Checkpointed, as by an orderly end.
    for node in 1..=2 {
        Stopped::open(&shared, dir(node), NodeId(node)).unwrap().close().unwrap();
    }
    let is_segment = |path: &Path| path.starts_with(dir(2)) && path.to_string_lossy().ends_with(".segment");
    let (path, _) = fs.files().into_iter().find(|(path, _)| is_segment(path)).unwrap();
    fs.flip(&path, 200, 1);
    let gathered = gather_on(&shared, &dirs(&[1, 2])).unwrap();
    assert_eq!(gathered.judged.standings, [Standing::Best, Standing::Unsound]);
    assert_eq!(gathered.judged.verdict, Verdict::Open);
    assert!(offline::unsound(&gathered.copies[1].held).unwrap().contains("damaged"), "it says why");
    drop(gathered);
    assert_eq!(gather_on(&shared, &dirs(&[1, 2, 3])).unwrap().judged.verdict, Verdict::Empty);
}

/// Three controllers whose entries are large enough for the journal to only refer to them; the segment of one has a bit flipped.
fn flipped(disk: &SimFs, node: i32) {
    let is_segment =
        |path: &Path| path.starts_with(dir(node)) && path.to_string_lossy().ends_with(".segment");
    let (path, _) = disk.files().into_iter().find(|(path, _)| is_segment(path)).unwrap();
    disk.flip(&path, 10_000, 1);
}

#[test]
fn entry_that_the_journal_only_refers_to_is_read_before_its_copy_counts() {
    let disk = SimFs::new(7);
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    (1..=3).for_each(|node| controller_with(&fs, node, &[1, 2, 3], 9, &"v".repeat(9_000)));
    assert_eq!(gather_on(&fs, &dirs(&[1, 2])).unwrap().judged.verdict, Verdict::Empty);
    flipped(&disk, 2);
    let gathered = gather_on(&fs, &dirs(&[1, 2])).unwrap();
    assert_eq!(gathered.judged.standings, [Standing::Best, Standing::Unsound]);
    assert_eq!(gathered.judged.verdict, Verdict::Open);
}

#[test]
fn nothing_is_sealed_where_a_copy_turns_out_to_be_another() {
    let disk = SimFs::new(7);
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    (1..=3).for_each(|node| controller_with(&fs, node, &[1, 2, 3], 9, &"v".repeat(9_000)));
    let gathered = gather_on(&fs, &dirs(&[1, 2])).unwrap();
    let plan = gathered.plan().unwrap();
    flipped(&disk, 2);
    let ended = gathered.execute(&plan, false, REASON, 12);
    assert!(matches!(ended, Err(Trouble::Failed { .. })), "{ended:?}");
    assert_eq!(start(&fs, 1).0, Role::PreCandidate, "it was sealed all the same");
    recover(&fs, &[1, 3]).unwrap();
}

#[test]
fn seal_of_another_plan_is_not_taken_for_ones_own() {
    let fs = three([5, 9, 7]);
    let judged = gather_on(&fs, &dirs(&[1, 2])).unwrap().judged.clone();
    let mut stopped = Stopped::open(&fs, dir(1), NodeId(1)).unwrap();
    assert!(stopped.seal(judged.from, judged.plan ^ 1).is_ok());
    assert!(matches!(stopped.seal(judged.from, judged.plan), Err(Trouble::Failed { .. })));
}

#[test]
fn halves_of_four_are_not_recovered_both() {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new(7));
    (1..=4).for_each(|node| controller(&fs, node, &[1, 2, 3, 4], 9));
    let text = recover(&fs, &[3, 4]).unwrap_err().to_string();
    assert!(text.contains("not provably empty"), "{text}");
    recover(&fs, &[1, 2]).unwrap();
    assert!(recover(&fs, &[3, 4]).is_err());
    // Of all of them two are out; what is left is no better than it was.
    assert!(recover(&fs, &[2, 3, 4]).is_err());
}

#[test]
fn power_cut_at_any_write_leaves_what_the_same_command_goes_on_from() {
    let (mut undone, mut done) = (0, 0);
    for writes in (0..400).step_by(3) {
        let fs = SimFs::new(writes);
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        (1..=3).zip([5, 9, 7]).for_each(|(node, last)| controller(&shared, node, &[1, 2, 3], last));
        let gathered = gather_on(&shared, &dirs(&[1, 2])).unwrap();
        let plan = gathered.plan().unwrap();
        fs.power_off_after(writes);
        let ended = gathered.execute(&plan, false, REASON, 12);
        let was_cut = fs.is_off();
        fs.crash(writes);
        fs.disarm();
        let again = gather_on(&shared, &dirs(&[1, 2])).unwrap();
        match again.judged.verdict {
            Verdict::Empty => {
                undone += 1;
                assert!(ended.is_err(), "it was said to be done after {writes} writes");
                assert_eq!(again.plan(), Some(plan.clone()), "after {writes} writes");
                again.execute(&plan, false, REASON, 12).unwrap();
            }
            Verdict::Alone => {
                done += 1;
                drop(again);
            }
            other => panic!("{other:?} after {writes} writes"),
        }
        let (role, epoch, image) = start(&shared, 2);
        assert_eq!((role, epoch.generation), (Role::Leader, Generation(1)), "after {writes} writes");
        assert_eq!(image.controller_recoveries.len(), 1, "after {writes} writes");
        assert!(recover(&shared, &[1, 3]).is_err(), "after {writes} writes");
        if !was_cut {
            break;
        }
    }
    assert!(undone > 5 && done > 0, "{undone} before, {done} after");
}

#[test]
fn copy_that_went_on_has_only_to_be_started() {
    let fs = three([5, 9, 7]);
    recover(&fs, &[1, 2]).unwrap();
    assert_eq!(start(&fs, 2).1.generation, Generation(1));
    // Alone it has only to be started, however often.
    let text = recover(&fs, &[2]).unwrap_err().to_string();
    assert!(text.contains("nothing is to be done: node 2"), "{text}");
    let (_, _, image) = start(&fs, 2);
    assert_eq!(image.controller_recoveries.len(), 1);
}
