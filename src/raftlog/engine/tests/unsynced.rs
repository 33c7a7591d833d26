//! `flush.mode=async` through engines, storage and power cuts (P7): what is acknowledged without a sync, what outlives processes,
//! one machine, all machines, and what is told when something may be lost.

use super::*;
use crate::segment::Doubt;

impl Rig {
    fn set_flush(&mut self, ids: &[i32], flush: Flush) {
        self.flush = Some(flush);
        let now = self.now;
        for id in ids {
            self.engine(*id).set_flush(now, GROUP, flush);
        }
    }

    /// Three voters whose topic says async, with some records.
    fn unsynced() -> (Self, i32) {
        let mut rig = Self::new(&[1, 2, 3], &[]);
        let leader = rig.leader();
        rig.set_flush(&[1, 2, 3], ASYNC);
        rig.produce(leader, 5);
        rig.run(100);
        (rig, leader)
    }

    fn kill(&mut self, id: i32) {
        let node = self.nodes.iter_mut().find(|node| node.id == NodeId(id)).unwrap();
        node.up = None;
        node.fs.kill();
    }

    fn syncs(&self) -> u64 {
        self.nodes.iter().map(|node| node.fs.counts().syncs).sum()
    }

    fn committed(&mut self, at: i32) -> usize {
        self.log(at).iter().filter(|e| e.meta.kind == EntryKind::Records).count()
    }

    fn doubt(&mut self, id: i32) -> Doubt {
        self.engine(id).core(GROUP).unwrap().doubt()
    }

    fn unclean(&self) -> Vec<bool> {
        let waits = |event: &GroupEvent| match event {
            GroupEvent::UncleanRecovery { waits, .. } => Some(*waits),
            _ => None,
        };
        self.nodes.iter().flat_map(|node| node.events.iter().filter_map(waits)).collect()
    }

    fn assert_equal_logs(&mut self) {
        let logs: Vec<_> = [1, 2, 3].map(|id| self.log(id)).into();
        let told: Vec<_> = [1, 2, 3]
            .map(|id| {
                let core = self.engine(id).core(GROUP).unwrap();
                (core.role(), core.epoch(), core.last(), core.commit(), core.durable(), core.stored())
            })
            .into();
        assert!(logs.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
    }
}

const ASYNC: Flush = Flush { is_async: true, ms: 1_000, messages: u64::MAX };
const SYNC: Flush = Flush { is_async: false, ..ASYNC };

#[test]
fn records_are_committed_without_a_sync_and_synced_within_flush_ms() {
    let (mut rig, leader) = Rig::unsynced();
    rig.run(1_500);
    assert_eq!(rig.committed(leader), 5);
    // The beginning is dirty, and so synced; what comes after is not.
    rig.produce(leader, 1);
    rig.run(50);
    let before = rig.syncs();
    for n in 1..=10 {
        rig.produce(leader, 3);
        rig.run(30);
        assert_eq!(rig.committed(leader), 6 + 3 * n);
    }
    assert_eq!(rig.syncs(), before, "nobody waited for a disk");
    let durable = rig.engine(leader).core(GROUP).unwrap().durable();
    rig.run(1_100);
    let core = rig.engine(leader).core(GROUP).unwrap();
    assert!(durable < core.last().index && core.durable() == core.last().index);
    assert!(rig.syncs() > before);
}

#[test]
fn messages_and_time_begin_a_flush_as_the_topic_says() {
    let (mut rig, leader) = Rig::unsynced();
    rig.set_flush(&[1, 2, 3], Flush { ms: 100, ..ASYNC });
    rig.run(2_000);
    rig.produce(leader, 1);
    rig.run(50);
    let before = rig.syncs();
    rig.produce(leader, 1);
    rig.run(50);
    assert_eq!(rig.syncs(), before);
    rig.run(120);
    assert!(rig.syncs() > before);
    // Two records a batch.
    rig.set_flush(&[1, 2, 3], Flush { messages: 8, ..ASYNC });
    rig.produce(leader, 1);
    rig.run(50);
    let before = rig.syncs();
    rig.produce(leader, 2);
    rig.run(50);
    assert_eq!(rig.syncs(), before);
    rig.produce(leader, 2);
    rig.run(50);
    assert!(rig.syncs() > before);
}

#[test]
fn end_of_every_process_loses_nothing_and_nobody_doubts() {
    for seed in 0..5 {
        let (mut rig, leader) = Rig::unsynced();
        for _ in 0..10 {
            rig.produce(leader, 4);
            rig.run(20 + seed * 7);
        }
        let acked = rig.committed(leader);
        (1..=3).for_each(|id| rig.kill(id));
        (1..=3).for_each(|id| rig.start(id));
        assert!([1, 2, 3].iter().all(|id| rig.doubt(*id) == Doubt::None));
        let leader = rig.leader();
        rig.run(300);
        assert!(rig.committed(leader) >= acked);
        rig.assert_equal_logs();
        assert!(rig.unclean().is_empty());
    }
}

#[test]
fn machine_that_loses_power_is_in_doubt_until_it_has_caught_up_and_nothing_acknowledged_is_lost() {
    for seed in 0..12 {
        let (mut rig, leader) = Rig::unsynced();
        for _ in 0..8 {
            rig.produce(leader, 4);
            rig.run(20 + seed * 3);
        }
        let acked = rig.committed(leader);
        let victim = if seed % 2 == 0 { leader } else { leader % 3 + 1 };
        rig.crash(victim);
        rig.run(10 + seed * 100);
        rig.start(victim);
        assert_eq!(rig.doubt(victim), Doubt::Entries, "seed {seed}");
        let leader = rig.leader();
        assert_ne!(leader, victim, "in doubt it does not lead");
        assert!(rig.committed(leader) >= acked, "seed {seed}");
        rig.run(500);
        assert_eq!(rig.doubt(victim), Doubt::None, "seed {seed}");
        rig.produce(leader, 1);
        rig.run(200);
        rig.assert_equal_logs();
        assert!(rig.unclean().is_empty());
    }
}

#[test]
fn two_of_three_lose_power_group_waits_for_the_third_and_keeps_what_it_held() {
    let (mut rig, leader) = Rig::unsynced();
    for _ in 0..8 {
        rig.produce(leader, 4);
        rig.run(30);
    }
    let acked = rig.committed(leader);
    let others: Vec<i32> = (1..=3).filter(|id| *id != leader).collect();
    rig.kill(leader);
    others.iter().for_each(|id| rig.crash(*id));
    others.iter().for_each(|id| rig.start(*id));
    rig.run(5_000);
    let leads = |rig: &mut Rig, id: i32| rig.engine(id).core(GROUP).unwrap().role() == Role::Leader;
    assert!(!others.iter().any(|id| leads(&mut rig, *id)), "the third may hold what they lost");
    rig.start(leader);
    let new = rig.leader();
    rig.run(500);
    assert!(rig.committed(new) >= acked, "the process of the third ended, its machine did not");
    assert!([1, 2, 3].iter().all(|id| rig.doubt(*id) == Doubt::None));
    rig.assert_equal_logs();
    assert_eq!(rig.unclean(), [false], "a majority was in doubt: told, and gone on");
}

#[test]
fn all_lose_power_the_best_log_goes_on_and_what_may_be_lost_is_told() {
    for seed in 0..12 {
        let (mut rig, leader) = Rig::unsynced();
        rig.run(1_500);
        let flushed = rig.committed(leader);
        for _ in 0..6 {
            rig.produce(leader, 4);
            rig.run(30 + seed);
        }
        (1..=3).for_each(|id| rig.crash(id));
        (1..=3).for_each(|id| rig.start(id));
        let best = (1..=3).map(|id| rig.engine(id).core(GROUP).unwrap().last()).max().unwrap();
        let leader = rig.leader();
        rig.run(500);
        assert!(rig.committed(leader) >= flushed);
        let core = rig.engine(leader).core(GROUP).unwrap();
        assert!(core.last().index > best.index && core.commit() == core.last().index);
        rig.assert_equal_logs();
        assert_eq!(rig.unclean(), [false]);
        assert!([1, 2, 3].iter().all(|id| rig.doubt(*id) == Doubt::None));
    }
}

#[test]
fn group_that_rests_when_the_power_goes_is_not_in_doubt() {
    let (mut rig, leader) = Rig::unsynced();
    rig.produce(leader, 10);
    rig.run(4_000);
    (1..=3).for_each(|id| rig.crash(id));
    (1..=3).for_each(|id| rig.start(id));
    assert!([1, 2, 3].iter().all(|id| rig.doubt(*id) == Doubt::None));
    let leader = rig.leader();
    assert_eq!(rig.committed(leader), 15);
    assert!(rig.unclean().is_empty());
}

#[test]
pub(crate) fn group_of_one_always_syncs_and_so_does_one_that_shrinks_to_it() {
    let mut rig = Rig::new(&[1], &[]);
    rig.leader();
    rig.set_flush(&[1], ASYNC);
    rig.produce(1, 3);
    rig.run(20);
    assert_eq!(rig.committed(1), 3);
    rig.crash(1);
    rig.start(1);
    assert_eq!(rig.doubt(1), Doubt::None);
    rig.leader();
    assert_eq!(rig.committed(1), 3);

    let (mut rig, leader) = Rig::unsynced();
    rig.produce(leader, 7);
    rig.run(60);
    let second = leader % 3 + 1;
    rig.change(&[leader, second], &[]).unwrap();
    rig.run(300);
    rig.change(&[leader], &[]).unwrap();
    rig.run(300);
    assert_eq!((rig.leader(), rig.voters(leader)), (leader, vec![leader]));
    rig.produce(leader, 4);
    rig.run(20);
    let acked = rig.committed(leader);
    assert_eq!(acked, 16);
    rig.crash(leader);
    rig.start(leader);
    assert_eq!(rig.leader(), leader);
    assert_eq!(rig.committed(leader), acked);
}

#[test]
pub(crate) fn leader_whose_topic_says_sync_again_counts_what_is_durable_whatever_its_followers_know() {
    let (mut rig, leader) = Rig::unsynced();
    rig.run(3_000);
    rig.produce(leader, 1);
    rig.run(60);
    // The followers have not heard of it.
    rig.set_flush(&[leader], SYNC);
    rig.run(60);
    let before = rig.committed(leader);
    rig.produce(leader, 1);
    rig.run(60);
    let engine = rig.engine(leader);
    let core = engine.core(GROUP).unwrap();
    assert_eq!(core.durable(), core.last().index, "its own copy is synced at once");
    assert_eq!(rig.committed(leader), before, "theirs are written only");
    rig.run(1_100);
    assert_eq!(rig.committed(leader), before + 1);
    rig.set_flush(&[1, 2, 3], SYNC);
    rig.produce(leader, 1);
    rig.run(20);
    assert_eq!(rig.committed(leader), before + 2);
}

#[test]
fn failed_flush_hands_leadership_over() {
    let (mut rig, leader) = Rig::unsynced();
    rig.produce(leader, 3);
    rig.run(50);
    let node = rig.nodes.iter().find(|node| node.id == NodeId(leader)).unwrap();
    node.fs.fail_sync_after(0);
    rig.run(1_500);
    let new = rig.leader();
    assert_ne!(new, leader);
    assert_eq!(rig.committed(new), 8);
}
