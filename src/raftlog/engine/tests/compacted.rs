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

    fn node(&self, id: i32) -> &Node {
        self.nodes.iter().find(|node| node.id == NodeId(id)).unwrap()
    }

    /// Flips bits in the first closed file of a replica, which finds them after a restart.
    fn damage(&mut self, id: i32, seed: u64) {
        self.engine(id).store().roll(GROUP).unwrap();
        self.run(50);
        let number = self.engine(id).store().closed_files(GROUP).unwrap()[0].number;
        self.crash(id);
        let fs = self.node(id).fs.clone();
        let used =
            |path: &PathBuf| fs.read(path).unwrap().iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        let name = format!("{number:016x}.segment");
        let path = fs.files().into_iter().map(|(path, _)| path).find(|path| path.ends_with(&name)).unwrap();
        let len = used(&path);
        fs.flip(&path, 64 + 300 + seed * 17, 4);
        fs.flip(&path, len / 2, 4);
        self.start(id);
        self.engine(id).store().begin_scrub();
        let mut scrubber = self.engine(id).store().scrubber();
        while self.engine(id).store().tend_scrub() {
            while scrubber.step() > 0 {}
        }
        self.engine(id).store().tend_scrub();
        // As the layer above does when storage has news.
        let now = self.now;
        self.engine(id).damaged(now, GROUP);
    }

    /// As passes would leave it.
    fn cleaned_to(&mut self, id: i32, clean: i64, dropped: i64) {
        let store = self.engine(id).store();
        store.note_dropped(GROUP, Offset(dropped)).unwrap();
        store.note_cleaned(GROUP, Offset(clean)).unwrap();
    }

    fn cleaned(&mut self, id: i32) -> (i64, i64) {
        let cleaned = self.engine(id).store().cleaned(GROUP).unwrap();
        (cleaned.clean.0, cleaned.dropped.0)
    }

    fn last(&mut self, id: i32) -> Index {
        self.engine(id).core(GROUP).unwrap().last().index
    }

    /// Waits until it is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..400 {
            if is_so(self) {
                return;
            }
            self.run(50);
        }
        panic!("not within 20 s: {what}");
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
        rig.damage(2, seed);
        rig.run(5_000);
        let leader = rig.leader();
        rig.produce(leader, 3);
        rig.run(1_000);
        assert_eq!(rig.engine(2).store().needs_repair(GROUP), None, "{compacted:?}");
        let repaired = |e: &GroupEvent| matches!(e, GroupEvent::Repaired { .. });
        assert!(rig.node(2).events.iter().any(repaired), "{compacted:?}: nothing was damaged");
        let logs: Vec<Vec<EntryMeta>> = (1..=3).map(|id| places(&rig.whole_log(id))).collect();
        assert_eq!(logs[0], logs[1], "{compacted:?}");
        assert_eq!(logs[1], logs[2], "{compacted:?}");
        assert_eq!(logs[0][..all.len()], places(&all), "{compacted:?}");
        assert!(payloads(&rig.whole_log(2)) > 50, "{compacted:?}");
    }
}

#[test]
fn new_replica_is_as_clean_as_who_brought_it_up_and_misses_as_much() {
    let mut rig = Rig::new(&[1, 2], &[3]);
    let leader = rig.leader();
    rig.produce(leader, 50);
    rig.run(300);
    rig.cleaned_to(leader, 80, 60);
    rig.change(&[1, 2], &[3]).unwrap();
    let end = rig.last(leader);
    rig.until("it is brought up", |rig| rig.last(3) >= end);
    rig.run(300);
    assert_eq!(rig.cleaned(3), (80, 60));
    // Both are durable with the entries.
    rig.crash(3);
    rig.start(3);
    assert_eq!(rig.cleaned(3), (80, 60));
    // Who was there before heeds what it takes, no more.
    rig.produce(leader, 50);
    rig.run(300);
    assert_eq!(rig.cleaned(3 - leader), (0, 0));
}

#[test]
fn follower_that_lacks_what_tombstones_deleted_that_are_gone_takes_nothing_until_another_leads() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    let (behind, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    rig.produce(leader, 20);
    rig.run(300);
    rig.cut = [(leader, behind), (behind, leader), (other, behind), (behind, other)].into();
    rig.produce(leader, 20);
    rig.run(300);
    rig.cleaned_to(leader, 70, 66);
    let (end, was) = (rig.last(leader), rig.last(behind));
    rig.cut.clear();
    rig.until("it is told", |rig| rig.engine(behind).core(GROUP).unwrap().apart().is_some());
    rig.sent = Sent::default();
    rig.run(3_000);
    assert_eq!((rig.last(behind), rig.cleaned(behind)), (was, (0, 0)), "{end}");
    assert!(rig.sent.bytes < 100_000, "the same entries are sent again and again: {:?}", rig.sent);
    // The other one misses nothing.
    let now = rig.now;
    rig.engine(leader).transfer(now, GROUP, Some(replica(other)));
    rig.until("the other one's log is taken", |rig| rig.last(behind) > end);
    // Unless it has asked to begin anew.
    rig.engine(behind).forsake(GROUP, true);
    let was = rig.last(behind);
    rig.produce(other, 5);
    rig.run(1_000);
    assert_eq!((rig.last(behind), rig.last(other) > was), (was, true));
}

/// Rule B: the file comes from nobody who is less clean than this replica's tombstones are gone.
#[test]
fn repair_waits_for_a_peer_that_is_clean_to_where_tombstones_are_gone_here() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    rig.produce(leader, 300);
    rig.run(300);
    let damaged = if leader == 2 { 3 } else { 2 };
    rig.cleaned_to(damaged, 590, 580);
    rig.damage(damaged, 3);
    rig.run(30_000);
    assert!(
        rig.engine(damaged).store().needs_repair(GROUP).is_some(),
        "it was made whole by one that is not clean"
    );
    let wanted = |event: &GroupEvent| matches!(event, GroupEvent::WantsClean { until: Offset(580), .. });
    assert!((1..=3).filter(|id| *id != damaged).all(|id| rig.node(id).events.iter().any(wanted)));
    let now = rig.now;
    assert!(!rig.engine(damaged).is_refused(now, GROUP), "it has not waited for long");
    rig.run(300_000);
    let now = rig.now;
    assert!(rig.engine(damaged).is_refused(now, GROUP));
    // One of them has had its pass. What comes from it is as clean as it is.
    let peer = rig.leader();
    rig.cleaned_to(peer, 585, 0);
    rig.until("it is made whole", |rig| rig.engine(damaged).store().needs_repair(GROUP).is_none());
    assert_eq!(rig.cleaned(damaged), (585, 580));
    let now = rig.now;
    assert!(!rig.engine(damaged).is_refused(now, GROUP));
}

/// A peer has cleaned beyond the end of a replica that is damaged and behind: their logs are the same as far as the shorter one goes.
#[test]
fn replica_that_is_behind_is_mended_by_one_that_is_clean_beyond_its_end() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    rig.produce(leader, 100);
    rig.run(300);
    let damaged = if leader == 2 { 3 } else { 2 };
    rig.cleaned_to(damaged, 190, 180);
    // Nothing new reaches it, but what it asks for.
    rig.cut = (1..=3).flat_map(|id| [(id, damaged), (damaged, id)]).collect();
    rig.produce(leader, 100);
    rig.run(300);
    (1..=3).filter(|id| *id != damaged).for_each(|id| rig.cleaned_to(id, 390, 0));
    rig.damage(damaged, 3);
    rig.cut.clear();
    let end = rig.engine(damaged).store().last(GROUP).unwrap().1.0;
    assert!(rig.engine(damaged).store().needs_repair(GROUP).is_some() && end < 390, "it is behind: {end}");
    rig.until("it is made whole", |rig| rig.engine(damaged).store().needs_repair(GROUP).is_none());
    assert_eq!(rig.cleaned(damaged).0, 190);
}

/// One peer has only the begin of what is damaged, and may not be put together with the other one, which has all: that one was asked for
/// the rest for ever.
#[test]
fn repair_is_begun_again_with_the_peer_that_has_all_of_it() {
    // Whoever is asked first: questions that nobody hears make it the next one's turn.
    for unheard in [0, 1_000] {
        let mut rig = Rig::new(&[1, 2, 3], &[]);
        let whole = rig.leader();
        let (damaged, part) = (whole % 3 + 1, (whole + 1) % 3 + 1);
        rig.produce(whole, 100);
        rig.run(300);
        rig.cut = (1..=3).flat_map(|id| [(id, part), (part, id)]).collect();
        rig.produce(whole, 200);
        rig.run(300);
        rig.cleaned_to(damaged, 590, 0);
        rig.cleaned_to(whole, 590, 500);
        rig.cut = (1..=3).flat_map(|id| (1..=3).map(move |other| (id, other))).collect();
        rig.damage(damaged, 3);
        rig.run(unheard);
        rig.cut.clear();
        rig.until("it is made whole", |rig| rig.engine(damaged).store().needs_repair(GROUP).is_none());
        assert!(rig.last(part) < rig.last(damaged), "it has all by now");
        assert_eq!(rig.cleaned(damaged), (590, 500));
    }
}
