//! Snapshots of the image: whole or an error, and absence that deletes nothing.
use super::*;
use crate::ctl::image::Change;
use crate::ctl::snapshot::{self, Piece, Pieces, Whole};
use crate::segment::LogId;

fn at(index: u64) -> LogId {
    LogId::new(0, 1, index)
}

/// All pieces of a snapshot, one after the other.
pub(super) fn snapshot_of(image: &Image, index: u64) -> Whole {
    let pieces = snapshot::write(image, at(index), 200);
    assert!(pieces.iter().all(|piece| piece.data.len() < 300), "smaller pieces were asked for");
    let mut known = Pieces::default();
    let (last, before) = pieces.split_last().unwrap();
    assert!(before.iter().all(|piece| known.take(piece).is_none()), "whole before its last piece");
    known.take(last).expect("whole with its last piece")
}

/// Settings that do not compress: several pieces.
fn large() -> Image {
    let mut image = Log::with_brokers(&[None; 3]).image;
    let mut state = 7_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:08x}", state >> 32)
    };
    for note in 0..4 {
        let text: String = (0..100_000).map(|_| noise()).collect();
        image.configs.insert(format!("note-{note}"), text);
    }
    image
}

#[test]
fn pieces_of_a_large_image_come_in_order_between_others_or_not_at_all() {
    let image = large();
    let pieces = snapshot::write(&image, at(9), usize::MAX);
    assert!(pieces.len() > 2, "{} pieces", pieces.len());
    assert_eq!(snapshot_of(&image, 9).read().unwrap(), image);

    let mut known = Pieces::default();
    // One that was begun by a leader that fell is no part of the next.
    let other = snapshot::write(&image, at(5), usize::MAX);
    assert!(known.take(&other[0]).is_none() && known.take(&other[1]).is_none());
    for piece in &pieces[..pieces.len() - 1] {
        assert!(known.take(piece).is_none());
    }
    assert_eq!(known.take(&pieces[pieces.len() - 1]).unwrap().read().unwrap(), image);

    // A piece missing, out of order or of another one: never whole.
    let never = |order: &[&Piece]| {
        let mut known = Pieces::default();
        assert!(order.iter().all(|piece| known.take(piece).is_none()));
    };
    let all: Vec<&Piece> = pieces.iter().collect();
    never(&all[1..]);
    never(&[&[all[0]], &all[2..]].concat());
    never(&[&[all[0], &other[1]], &all[2..]].concat());
    never(&[&[all[1], all[0]], &all[2..]].concat());
}

#[test]
fn damaged_snapshot_and_one_of_a_later_version_are_errors() {
    let image = Log::with_brokers(&[None; 3]).image;
    let take = |piece: Piece| Pieces::default().take(&piece).unwrap().read();
    let piece = snapshot::write(&image, at(3), usize::MAX).remove(0);
    assert_eq!(take(piece.clone()), Ok(image));
    let damaged = piece.data.replacen(&piece.data[40..44], "AAAA", 1);
    let wrong = |data: String| take(Piece { data, ..piece.clone() }).unwrap_err();
    assert!(wrong(damaged).contains("checksum"));
    assert!(wrong("!".into()).contains("base64"));
    let of = |json: &str| {
        let bytes = zstd::bulk::compress(json.as_bytes(), 0).unwrap();
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, &bytes);
        take(Piece { sum: crc32fast::hash(&bytes), data, ..piece.clone() }).unwrap_err()
    };
    assert!(of("{\"v\":2}").contains("format 2"));
    assert!(of("{\"v\":1,\"image\":{\"later\":1}}").contains("this version cannot read it"));
}

#[test]
fn what_a_snapshot_does_not_know_is_kept_and_what_was_deleted_goes() {
    let mut log = Log::with_brokers(&[None; 3]);
    log.create("kept", 2, 3);
    log.create("gone", 2, 3);
    let before = log.image.clone();
    let (kept, gone) =
        (before.partition("kept", 0).unwrap().group, before.partition("gone", 0).unwrap().group);
    log.run(&Command::DeleteTopic { name: Some("gone".into()), id: None }).unwrap();
    let removed = |changes: &[Change]| -> Vec<_> {
        let removed = changes.iter().filter_map(|change| match change {
            Change::GroupRemoved { group, .. } => Some(*group),
            _ => None,
        });
        removed.collect()
    };
    let going = removed(&snapshot::changes(&before, &log.image));
    assert!(going.len() == 2 && going.contains(&gone) && !going.contains(&kept));
    // Of a log that never knew the topic: nobody deleted it.
    assert!(removed(&snapshot::changes(&before, &Log::with_brokers(&[None; 3]).image)).is_empty());
}

/// An image with something in every field of every type.
fn full() -> Image {
    use crate::ctl::image::{Partition, Topic};
    use crate::ctl::offline::Lost;
    use crate::ctl::reassign::Moving;
    use crate::ctl::recovery::{Approval, GroupPlan, Outcome, Recovery, Silent};
    use crate::raftlog::generation::Decision;
    use crate::segment::{Generation, GroupId, Opening, ReplicaId, Term};
    let replica = |node: i32| ReplicaId { node: NodeId(node), assignment: 7, directory: 9 << 96 | 3 };
    let mut image = Log::with_brokers(&[Some("a"), Some("b")]).image;
    let broker = image.brokers.get_mut(&NodeId(1)).unwrap();
    (broker.fenced, broker.stopping, broker.dead) = (true, true, true);
    let opening = Opening { survivor: replica(0), base: at(4), first_term: Term(5), lossless: true };
    let partition = Partition {
        group: GroupId(3),
        replicas: vec![replica(0), replica(1)],
        founders: vec![replica(1)],
        generation: 1,
        sealing: Some(8),
        recovery: Some(Box::new(Approval {
            recovery: 8,
            id: "ab12".into(),
            survivor: replica(0),
            base: at(4),
            auto: true,
        })),
        opening: Some(Box::new(Decision { generation: Generation(1), opening, learners: vec![replica(1)] })),
        moving: Some(Box::new(Moving {
            since: 7,
            target: vec![NodeId(0)],
            origin: vec![NodeId(1)],
            by_controllers: true,
        })),
        configured: at(2),
        leased: Some(at(3)),
        left: vec![replica(1)],
        unconfirmed: true,
    };
    let silent = Silent { node: NodeId(1), votes: true, silent_ms: Some(10), is_wiped: true };
    let plan = GroupPlan {
        group: GroupId(3),
        topic: "t".into(),
        partition: 0,
        from: 0,
        survivor: NodeId(0),
        base: at(4),
        start: 1,
        at_risk: 2,
        known_by: NodeId(0),
        end: 3,
        voters: vec![NodeId(0)],
        answered: vec![(NodeId(0), at(4))],
        silent: vec![silent],
    };
    let outcomes = [
        Outcome::Approved {},
        Outcome::Refused { reason: "differs".into(), at_ms: 1 },
        Outcome::Replaced { by: 9 },
        Outcome::Decided { number: 9, lossless: false },
        Outcome::Verified { lossless: true, high_watermark: 3, at_ms: 2 },
    ];
    let recovery = |outcome| Recovery {
        recovery: 8,
        id: "ab12".into(),
        reason: "why".into(),
        auto: true,
        at_ms: 1,
        plan: plan.clone(),
        outcome,
    };
    image.recoveries = outcomes.into_iter().map(recovery).collect();
    image.controller_recoveries = vec![crate::ctl::offline::ControllerRecovery {
        id: "9f2e".into(),
        reason: "why".into(),
        at_ms: 1,
        from: 0,
        generation: 1,
        survivor: NodeId(4),
        base: at(4),
        copies: vec![(NodeId(4), at(4))],
        missing: vec![NodeId(5)],
        heirs_gone: vec![NodeId(5)],
        lost: vec![Lost { node: NodeId(5), directory: uuid::Uuid::from_u128(6) }],
    }];
    image.lost.insert(uuid::Uuid::from_u128(6), NodeId(5));
    let id = uuid::Uuid::from_u128(5);
    let configs = BTreeMap::from([("retention.ms".into(), "1".into())]);
    let (partitions, auto_since) = (vec![partition], Some(6));
    let topic = Topic { name: "t".into(), id, partitions, configs, internal: true, auto_since };
    image.topics.insert("t".into(), topic);
    image.topic_names.insert(id, "t".into());
    image.groups.insert(GroupId(3), (id, 0));
    image.sealing.insert(GroupId(3));
    image.configs.insert("num.partitions".into(), "2".into());
    image.deleted.insert(1, 2);
    image.broker_configs.insert(NodeId(1), BTreeMap::from([("broker.drain".into(), "leaders".into())]));
    (image.next_group, image.next_producer_id) = (4, 1_000);
    image
}

/// Snapshots of format 1 stay readable: `UPDATE_GOLDEN=1` is for what is added to it, and an added field has a default.
#[test]
fn snapshot_of_format_1_is_read_and_written_as_ever() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ctl/tests/snapshot-1.json");
    let written = serde_json::to_string_pretty(&full()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &written).unwrap();
    }
    let text = std::fs::read_to_string(golden).unwrap();
    assert_eq!(serde_json::from_str::<Image>(&text).unwrap(), full());
    assert_eq!(written, text);
}

/// Nobody needed leases then: nothing is written of them where there are none, and read where nothing is.
#[test]
fn image_of_before_leases_is_one_without_them() {
    let mut then = full();
    let topic = then.topics.get_mut("t").unwrap();
    topic.auto_since = None;
    let partition = &mut topic.partitions[0];
    partition.leased = None;
    partition.recovery.as_mut().unwrap().auto = false;
    then.recoveries.iter_mut().for_each(|known| known.auto = false);
    let text = serde_json::to_string(&then).unwrap();
    assert!(["\"auto", "\"leased\""].iter().all(|field| !text.contains(field)), "{text}");
    assert_eq!(serde_json::from_str::<Image>(&text).unwrap(), then);
}

/// What is written of controllers that were never recovered offline is what versions that knew nothing of it read.
#[test]
fn image_of_controllers_never_recovered_is_one_without_a_word_of_it() {
    let mut then = Image { controller_recoveries: Vec::new(), lost: BTreeMap::new(), ..full() };
    then.topics.get_mut("t").unwrap().partitions[0].unconfirmed = false;
    let text = serde_json::to_string(&then).unwrap();
    assert!(
        ["controller_recoveries", "lost", "unconfirmed"].iter().all(|word| !text.contains(word)),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Image>(&text).unwrap(), then);
}

/// An older version that left something out would give it on, as a leader, to those who know it.
#[test]
fn field_of_a_later_version_is_refused_wherever_it_stands() {
    let text = serde_json::to_string(&full()).unwrap();
    let objects: Vec<usize> = text.match_indices('{').map(|(at, _)| at + 1).collect();
    assert!(objects.len() > 40 && !text.contains("{}"), "{text}");
    for at in objects {
        let later = format!("{}\"later\":1,{}", &text[..at], &text[at..]);
        let read = serde_json::from_str::<Image>(&later);
        assert!(read.is_err(), "taken without a word: a field at {}", &text[at..][..40.min(text.len() - at)]);
    }
}
