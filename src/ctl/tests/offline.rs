//! The audit of a recovery of the controllers' own group: in its own generation or nowhere, for ever, readable as JSON.
use super::*;
use crate::ctl::offline::ControllerRecovery;
use crate::segment::LogId;

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
