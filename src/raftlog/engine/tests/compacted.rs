//! Replicas that have compacted for themselves, each at another time: what one sends the other, and what they repair each other with.

use super::*;
use crate::segment::{Ended, Keep, Step};

impl Rig {
    /// Closes the active file, and removes what `keep` does not want from all closed ones.
    fn compact(&mut self, id: i32, keep: impl Fn(&EntryMeta) -> bool) {
        self.engine(id).store().roll(GROUP).unwrap();
        for _ in 0..10 {
            self.run(10);
            let committed = self.engine(id).core(GROUP).unwrap().commit();
            let store = self.engine(id).store();
            let files: Vec<u64> = store.closed_files(GROUP).unwrap().iter().map(|file| file.number).collect();
            let Some(mut job) = store.begin_rewrite(GROUP, &files, committed).unwrap() else {
                continue;
            };
            let mut decide =
                |meta: &EntryMeta, _: &[u8]| if keep(meta) { Keep::Whole } else { Keep::Nothing };
            while job.step(10_000, &mut decide).unwrap() != Step::Done {}
            assert_eq!(store.end_rewrite(job).unwrap(), Ended::Replaced);
            self.run(10);
            return;
        }
        panic!("no job within ten turns");
    }

    /// All entries of a log, whatever their number.
    fn whole_log(&mut self, at: i32) -> Vec<Entry> {
        let engine = self.engine(at);
        let last = engine.core(GROUP).unwrap().commit();
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let first = engine.store().log_start(GROUP).unwrap().prev.index;
            let next = entries.last().map_or(first, |entry| entry.meta.id.index).next();
            if next > last {
                return entries;
            }
            entries.extend(engine.store().read(GROUP, next, 1 << 20).unwrap());
        }
    }
}

fn places(log: &[Entry]) -> Vec<EntryMeta> {
    log.iter().map(|entry| EntryMeta { payload_len: 0, ..entry.meta }).collect()
}

fn payloads(log: &[Entry]) -> usize {
    log.iter().filter(|entry| entry.meta.kind == EntryKind::Records && !entry.payload.is_empty()).count()
}

#[test]
fn new_replica_of_a_compacted_log_has_every_entry_in_its_place() {
    let mut rig = Rig::new(&[1], &[2]);
    rig.leader();
    for _ in 0..60 {
        rig.produce(1, 500);
        rig.run(5);
    }
    rig.run(50);
    let before = places(&rig.whole_log(1));
    rig.compact(1, |meta| meta.id.index.0 % 5_000 == 0);
    rig.produce(1, 10);
    rig.run(50);
    let log = rig.whole_log(1);
    assert_eq!(places(&log)[..before.len()], before);
    assert_eq!(payloads(&log), 6 + 10);
    rig.sent = Sent::default();
    rig.change(&[1], &[2]).unwrap();
    rig.run(2_000);
    assert!(rig.engine(1).progress(GROUP).iter().all(|peer| peer.is_caught_up));
    rig.change(&[1, 2], &[]).unwrap();
    rig.run(500);
    assert_eq!(rig.voters(2), [1, 2]);
    assert_eq!(rig.whole_log(1), rig.whole_log(2), "what the leader had left, and nothing else");
    // Both lose what they had not synced, and the new one leads when the other is gone.
    (1..=2).for_each(|id| rig.crash(id));
    (1..=2).for_each(|id| rig.start(id));
    let leader = rig.leader();
    rig.produce(leader, 5);
    rig.run(300);
    assert_eq!(rig.whole_log(1), rig.whole_log(2));
    rig.compact(2, |_| false);
    let (first, second) = (rig.whole_log(1), rig.whole_log(2));
    assert_eq!(places(&first), places(&second));
    assert!(payloads(&first) > payloads(&second));
}

#[test]
fn replicas_in_different_states_of_compaction_repair_each_other() {
    for (seed, compacted) in
        [(0, vec![]), (1, vec![1]), (2, vec![2]), (3, vec![1, 2]), (4, vec![3]), (5, vec![2, 3])]
    {
        let mut rig = Rig::new(&[1, 2, 3], &[]);
        let leader = rig.leader();
        rig.produce(leader, 300);
        rig.run(300);
        for id in &compacted {
            rig.compact(*id, |meta| meta.id.index.0 % (3 + *id as u64) == 0);
        }
        rig.run(300);
        let all = rig.whole_log(leader);
        // A closed file of the second replica, which had some of it removed or not.
        let second = rig.nodes.iter().position(|node| node.id == NodeId(2)).unwrap();
        rig.engine(2).store().roll(GROUP).unwrap();
        rig.run(50);
        let number = rig.engine(2).store().closed_files(GROUP).unwrap()[0].number;
        rig.crash(2);
        let fs = rig.nodes[second].fs.clone();
        let used =
            |path: &PathBuf| fs.read(path).unwrap().iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        let name = format!("{number:016x}.segment");
        let path = fs.files().into_iter().map(|(path, _)| path).find(|path| path.ends_with(&name)).unwrap();
        let len = used(&path);
        fs.flip(&path, 64 + 300 + seed * 17, 4);
        fs.flip(&path, len / 2, 4);
        rig.start(2);
        rig.engine(2).store().begin_scrub();
        let mut scrubber = rig.engine(2).store().scrubber();
        while rig.engine(2).store().tend_scrub() {
            while scrubber.step() > 0 {}
        }
        rig.engine(2).store().tend_scrub();
        // As the layer above does when storage has news.
        let now = rig.now;
        rig.engine(2).damaged(now, GROUP);
        rig.run(5_000);
        let leader = rig.leader();
        rig.produce(leader, 3);
        rig.run(1_000);
        assert_eq!(rig.engine(2).store().needs_repair(GROUP), None, "{compacted:?}");
        let repaired = |e: &GroupEvent| matches!(e, GroupEvent::Repaired { .. });
        assert!(rig.nodes[second].events.iter().any(repaired), "{compacted:?}: nothing was damaged");
        let logs: Vec<Vec<EntryMeta>> = (1..=3).map(|id| places(&rig.whole_log(id))).collect();
        assert_eq!(logs[0], logs[1], "{compacted:?}");
        assert_eq!(logs[1], logs[2], "{compacted:?}");
        assert_eq!(logs[0][..all.len()], places(&all), "{compacted:?}");
        assert!(payloads(&rig.whole_log(2)) > 50, "{compacted:?}");
    }
}
