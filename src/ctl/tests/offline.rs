//! The audit of a recovery of the controllers' own group: in its own generation or nowhere, for ever, readable as JSON; and what follows for
//! the metadata where something may be lost by it.
use super::recovery::World;
use super::*;
use crate::ctl::generations::wiped;
use crate::ctl::offline::{ControllerRecovery, Lost, check_named, image_of};
use crate::ctl::recovery::{Holding, Outcome, Standing, check_plan};
use crate::ctl::snapshot;
use crate::raftlog::generation::UNCLEAN_STEP;
use crate::segment::{Entry, EntryKind, EntryMeta, Epoch, GroupId, Index, LogId, Offset, ReplicaId};

fn recovery(from: u64, generation: u64) -> ControllerRecovery {
    ControllerRecovery {
        id: "9f2e3d4c5b6a7988".into(),
        reason: "rack 2 burnt".into(),
        at_ms: 12,
        from,
        generation,
        survivor: NodeId(2),
        base: LogId::new(from, 3, 9),
        copies: vec![(NodeId(1), LogId::new(from, 3, 5)), (NodeId(2), LogId::new(from, 3, 9))],
        missing: vec![NodeId(3)],
        heirs_gone: Vec::new(),
        lost: Vec::new(),
    }
}

#[test]
fn audit_of_a_recovery_is_read_back_as_it_was_written() {
    let batch = Batch::new(vec![Record::ControllersRecovered(Box::new(recovery(0, 1)))]);
    let text = String::from_utf8(batch.encode()).unwrap();
    assert!(!text.contains("heirs_gone"), "nobody gave his word: {text}");
    assert_eq!(Batch::decode(text.as_bytes()).unwrap(), batch);
    let mut with_word = recovery(0, 300);
    with_word.heirs_gone = vec![NodeId(3)];
    let batch = Batch::new(vec![Record::ControllersRecovered(Box::new(with_word))]);
    assert_eq!(Batch::decode(&batch.encode()).unwrap(), batch);
}

#[test]
fn audit_stands_in_the_generation_that_it_tells_of_and_stays() {
    let mut image = Log::with_brokers(&[None; 3]).image;
    let apply = |image: &mut Image, number, recovery| {
        image.apply(number, &Batch::new(vec![Record::ControllersRecovered(Box::new(recovery))]))
    };
    let before = image.clone();
    for (wrong, generation) in [(recovery(0, 1), 2), (recovery(0, 2), 1), (recovery(1, 1), 1)] {
        let refused = apply(&mut image, Image::number(generation, 90), wrong).unwrap_err();
        assert!(refused.contains("stands in generation"), "{refused}");
        assert_eq!(image, before, "nothing was changed");
    }
    apply(&mut image, Image::number(1, 90), recovery(0, 1)).unwrap();
    apply(&mut image, Image::number(300, 95), recovery(1, 300)).unwrap();
    assert_eq!(image.controller_recoveries, [recovery(0, 1), recovery(1, 300)], "twice in a row");
    let snapshot = super::snapshots::snapshot_of(&image, 96);
    assert_eq!(snapshot.read().unwrap(), image);
}

fn disk(node: i32) -> Lost {
    Lost { node: NodeId(node), directory: directory(node, 0) }
}

/// The controllers go on in generation 1,007; the disks of these brokers are given up.
fn lose(log: &mut Log, nodes: &[NodeId]) {
    log.generation = 1_007;
    let lost = nodes.iter().map(|node| disk(node.0)).collect();
    let recovery = ControllerRecovery { lost, ..recovery(0, 1_007) };
    log.write(Batch::new(vec![Record::ControllersRecovered(Box::new(recovery))])).unwrap();
}

/// A partition, one of its three replicas on a disk that is given up, and what the other two hold.
fn one_lost() -> (World, [Holding; 2]) {
    let mut world = World::new();
    let third = world.replicas()[2].node;
    lose(&mut world.log, &[third]);
    let here = [world.holding(0, 9, 6), world.holding(1, 8, 6)];
    (world, here)
}

fn ask_to_seal(world: &mut World) -> bool {
    let (node, generation) = (world.replicas()[0].node, world.partition().generation);
    world.log.run(&Command::Seal { node, groups: vec![(world.group, generation)] }).unwrap();
    world.partition().sealing.is_some()
}

#[test]
pub(crate) fn partition_that_nobody_leads_goes_on_only_as_an_operator_says() {
    let (mut world, here) = one_lost();
    // Two of three, which prove that nothing is lost, as far as the metadata goes.
    assert!(!ask_to_seal(&mut world), "sealed without anybody's word");
    let Standing::Recoverable { plan } = world.stand(&here) else { panic!("{:?}", world.stand(&here)) };
    let refused = check_plan(&world.log.image, &plan, true).unwrap_err();
    assert!(refused.contains("only an operator"), "{refused}");
    world.approve(&plan).unwrap();
    here.iter().for_each(|holding| world.seal(holding));
    world.decide();
    assert_eq!(world.partition().generation, 1);
    assert!(matches!(world.outcome(), Outcome::Decided { lossless: false, .. }), "{:?}", world.outcome());
    let first = world.partition().opening.as_ref().unwrap().opening.first_term;
    assert!(first.0 >= UNCLEAN_STEP, "terms of a generation of that number may have been used: {first:?}");
    // What it holds now no other generation can contradict.
    assert!(!world.partition().unconfirmed && ask_to_seal(&mut world));
}

#[test]
fn seals_from_before_the_loss_decide_nothing_either() {
    let mut world = World::new();
    assert!(ask_to_seal(&mut world));
    let third = world.replicas()[2].node;
    lose(&mut world.log, &[third]);
    let here = [world.holding(0, 9, 6), world.holding(1, 8, 6)];
    here.iter().for_each(|holding| world.seal(holding));
    world.decide();
    assert_eq!(world.partition().generation, 0, "decided by the old seals");
    let plan = world.plan(&here);
    world.approve(&plan).unwrap();
    world.decide();
    assert_eq!(world.partition().generation, 1);
}

#[test]
fn partition_with_a_leader_that_commits_goes_on_as_before() {
    let (mut world, [first, _]) = one_lost();
    let confirmable = |world: &World, holding: &Holding| {
        world.log.image.confirmable(&[(world.group, vec![holding.clone()])].into())
    };
    assert_eq!(confirmable(&world, &first), [], "it follows");
    let leader = Holding { leads: true, ..first.clone() };
    assert_eq!(confirmable(&world, &leader), [world.group]);
    let mut of_lost = Holding { leads: true, ..world.holding(2, 9, 9) };
    assert_eq!(confirmable(&world, &of_lost), [], "that disk is given up");
    of_lost = leader.clone();
    of_lost.report.generation.0 = 1;
    assert_eq!(confirmable(&world, &of_lost), [], "a generation that the metadata does not know");
    let groups = vec![world.group, GroupId(99)];
    world.log.run(&Command::Confirm { groups: groups.clone() }).unwrap();
    assert!(!world.partition().unconfirmed);
    let entries = world.log.index;
    world.log.run(&Command::Confirm { groups }).unwrap();
    assert_eq!(world.log.index, entries, "there is nothing to write");
    assert!(ask_to_seal(&mut world), "seals count again");
}

#[test]
pub(crate) fn disk_that_was_given_up_never_registers_again() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 4, 3);
    let before = log.image.brokers[&NodeId(2)].incarnation;
    lose(&mut log, &[NodeId(2)]);
    let broker = &log.image.brokers[&NodeId(2)];
    assert!(broker.fenced && broker.dead && broker.incarnation > before, "{broker:?}");
    let old = Command::Unfence { node: NodeId(2), incarnation: before };
    assert_eq!(log.run(&old), Err(Error::StaleBroker(NodeId(2))), "its registration is void");
    let refused = log.run(&registration(2, 0, None)).unwrap_err().to_string();
    assert!(refused.contains("given up") && refused.contains("empty"), "{refused}");
    // Nor does one that registered by a record that is lost: what it holds was placed by such records.
    let with = |node, oldest| match registration(node, 0, None) {
        Command::RegisterBroker { node, directory, kafka, listeners, peer, rack, cluster, .. } => {
            let oldest = Some(oldest);
            Command::RegisterBroker { node, directory, kafka, listeners, peer, rack, cluster, oldest }
        }
        other => other,
    };
    let refused = log.run(&with(8, before)).unwrap_err().to_string();
    assert!(refused.contains("none that they knew"), "{refused}");
    assert!(log.run(&with(1, before)).is_ok() && log.run(&with(8, 1_007 << 40)).is_ok(), "others do");
    assert!(log.run(&registration(7, 0, None)).is_ok());
    // The node does, with an empty disk, and is placed anew.
    log.run(&registration(2, 1, None)).unwrap();
    assert_eq!(wiped(&log.image), [NodeId(2)].into());
    log.run(&Command::Place { node: NodeId(2) }).unwrap();
    let placed = log.image.topics["t"].partitions[0].replicas.clone();
    assert!(placed.iter().all(|replica: &ReplicaId| log.image.holds(replica)), "{placed:?}");
}

#[test]
fn loss_voids_approvals_and_skips_numbers_and_snapshots_carry_it_on() {
    let mut world = World::new();
    world.log.run(&Command::AllocateProducerIds { node: NodeId(0) }).unwrap();
    for place in [1, 2] {
        let node = world.replicas()[place].node;
        world.kill(node);
    }
    let holding = world.holding(0, 9, 6);
    let plan = world.plan(std::slice::from_ref(&holding));
    world.approve(&plan).unwrap();
    let third = world.replicas()[2].node;
    lose(&mut world.log, &[third]);
    assert!(world.partition().recovery.is_none() && world.partition().sealing.is_some());
    assert!(matches!(world.outcome(), Outcome::Refused { at_ms: 12, .. }), "{:?}", world.outcome());
    let ids = world.log.run(&Command::AllocateProducerIds { node: NodeId(0) }).unwrap();
    assert_eq!(ids, Reply::ProducerIds { first: 1_007 << 40, count: 1_000 }, "as of every generation");
    let image = world.log.image.clone();
    assert_eq!(super::snapshots::snapshot_of(&image, 96).read().unwrap(), image);
    let nothing = super::snapshots::snapshot_of(&World::new().log.image, 96).read().unwrap();
    assert!(nothing.lost.is_empty() && nothing.unconfirmed().count() == 0);
    lose_nothing(&mut world.log);
    assert_eq!(world.log.image.lost, image.lost, "a recovery that loses nothing takes nothing back");
}

fn lose_nothing(log: &mut Log) {
    log.generation = 1_008;
    let recovery = recovery(1_007, 1_008);
    log.write(Batch::new(vec![Record::ControllersRecovered(Box::new(recovery))])).unwrap();
}

#[test]
fn every_broker_is_given_with_the_disk_that_it_registered_or_gone() {
    let image = Log::with_brokers(&[None; 3]).image;
    let gone = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
    assert_eq!(check_named(&image, &[disk(0), disk(1)], &gone(&[2])), Ok(()));
    assert_eq!(check_named(&image, &[disk(0), disk(1), disk(2), disk(9)], &[]), Ok(()));
    let missing = check_named(&image, &[disk(0), disk(1)], &[]).unwrap_err();
    assert!(missing.contains("broker 2 is neither given"), "{missing}");
    let other = Lost { node: NodeId(2), directory: directory(2, 5) };
    let other = check_named(&image, &[disk(0), disk(1), other], &[]).unwrap_err();
    assert!(other.contains("not the one given"), "{other}");
    assert!(check_named(&image, &[disk(0), disk(1), disk(2)], &gone(&[2])).is_err());
}

fn end(log: &Log) -> LogId {
    LogId::new(0, 1, log.index)
}

fn entries(log: &Log) -> Vec<Entry> {
    let entry = |(number, batch): &(u64, Batch)| {
        let payload = bytes::Bytes::from(batch.encode());
        let id = LogId { epoch: Epoch::new(0, 1), index: Index(*number) };
        let meta = EntryMeta {
            id,
            prev: Epoch::new(0, 1),
            kind: EntryKind::Metadata,
            base_offset: Offset(0),
            offset_span: 0,
            payload_len: payload.len() as u32,
        };
        Entry { meta, payload }
    };
    log.entries.iter().map(entry).collect()
}

#[test]
fn metadata_is_what_the_whole_log_says_or_its_first_snapshot_and_what_follows() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("t", 4, 3);
    assert_eq!(image_of(LogId::default(), end(&log), &entries(&log)), Ok(log.image.clone()));
    // A snapshot in pieces, with something between them; then the log begins with it.
    let reflects = LogId::new(0, 1, log.index);
    let pieces = snapshot::write(&log.image, reflects, 200);
    assert!(pieces.len() > 1);
    for (at, piece) in pieces.into_iter().enumerate() {
        log.write(Batch::new(vec![Record::Snapshot(piece)])).unwrap();
        if at == 0 {
            log.create("between", 1, 1);
        }
    }
    log.create("behind", 1, 1);
    let all = entries(&log);
    let (_, begins) = all.split_at(usize::try_from(reflects.index.0).unwrap());
    assert_eq!(image_of(reflects, end(&log), begins), Ok(log.image.clone()));
    let short = LogId::new(0, 1, reflects.index.0 + 2);
    let cut = image_of(reflects, short, &begins[..2]).unwrap_err();
    assert!(cut.contains("no whole snapshot"), "{cut}");
    let hole = [&begins[..1], &begins[2..]].concat();
    assert!(image_of(reflects, end(&log), &hole).unwrap_err().contains("missing"));
    assert!(image_of(reflects, end(&log), &begins[..2]).unwrap_err().contains("missing"));
}
