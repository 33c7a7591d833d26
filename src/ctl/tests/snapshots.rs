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
