//! Entries that are acknowledged once they are written (`flush.mode=async`): when who is told what, what outlives the process, what
//! outlives the machine, and who is in doubt after it. Random work is checked against a naive model.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

const G: GroupId = GroupId(1);

/// Idle work, and what it has to tell.
fn idle(store: &mut Store, writer: &mut Writer) -> Vec<Durable> {
    let mut out = Vec::new();
    writer.idle();
    while let Some(news) = writer.take_news() {
        store.complete(news, &mut out).expect("fine");
    }
    out
}

fn settle(store: &mut Store, writer: &mut Writer) -> Vec<Durable> {
    let mut all = commit(store, writer).expect("fine");
    for _ in 0..4 {
        all.extend(idle(store, writer));
    }
    all
}

/// A group whose records are acknowledged once written, dirty by now, with three of them.
fn dirty() -> (SimFs, Store, Writer) {
    let fs = SimFs::new(1);
    let Opened { mut store, mut writer, .. } = boot(&fs);
    let options = GroupOptions { segment_bytes: 1 << 20, ..group_options() };
    store.create_group(GroupSpec { options, ..spec(1) }).expect("created");
    settle(&mut store, &mut writer);
    store.set_async(G, true);
    store.append(G, records(&store, 1, 1, 3, 200)).expect("taken");
    assert_eq!(commit(&mut store, &mut writer).expect("fine"), [], "dirty comes first, and is synced");
    let told = idle(&mut store, &mut writer);
    assert_eq!(told, [Durable { group: G, last: LogId::new(0, 1, 3), is_synced: true }]);
    (fs, store, writer)
}

fn write(store: &mut Store, writer: &mut Writer, count: usize, len: usize) -> Vec<Durable> {
    let term = store.last(G).expect("known").0.epoch.term.0;
    store.append(G, records(store, 1, term, count, len)).expect("taken");
    commit(store, writer).expect("fine")
}

fn reopened(fs: &SimFs) -> (Opened, Index, Doubt) {
    let opened = boot(fs);
    let group = opened.groups.iter().find(|g| g.group == G).expect("there");
    assert_eq!(group.needs_repair, None);
    assert!(!group.hard_state.dirty);
    let (last, doubt) = (group.last.index, group.hard_state.doubt);
    (opened, last, doubt)
}

#[test]
fn loose_entries_are_told_once_written_and_durable_once_flushed() {
    for len in [200, 9_000] {
        let (fs, mut store, mut writer) = dirty();
        let before = fs.counts().syncs;
        let told = write(&mut store, &mut writer, 2, len);
        assert_eq!(told, [Durable { group: G, last: LogId::new(0, 1, 5), is_synced: false }]);
        assert!(store.unsynced_bytes() > 2 * len as u64);
        assert_eq!(fs.counts().syncs, before, "nobody waited for a sync");
        store.flush();
        assert_eq!(commit(&mut store, &mut writer).expect("fine"), []);
        let told = idle(&mut store, &mut writer);
        assert_eq!(told, [Durable { group: G, last: LogId::new(0, 1, 5), is_synced: true }]);
        assert_eq!(store.unsynced_bytes(), 0);
        drop((store, writer));
        fs.crash(3);
        let (_, last, doubt) = reopened(&fs);
        assert_eq!((last, doubt), (Index(5), Doubt::Entries), "dirty, though nothing was lost");
    }
}

#[test]
fn end_of_the_process_loses_nothing_and_leaves_no_doubt() {
    let (fs, mut store, mut writer) = dirty();
    for _ in 0..10 {
        write(&mut store, &mut writer, 2, 3_000);
        write(&mut store, &mut writer, 1, 100);
    }
    drop((store, writer));
    fs.kill();
    let (opened, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(33), Doubt::None));
    drop(opened);
    fs.crash(9);
    let (_, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(33), Doubt::None), "what a start found is on the disk");
}

#[test]
fn group_that_rests_is_clean_and_out_of_doubt() {
    let (fs, mut store, mut writer) = dirty();
    write(&mut store, &mut writer, 2, 9_000);
    store.flush();
    settle(&mut store, &mut writer);
    assert!(store.settle_dirty(), "it was not idle for a whole while yet");
    assert!(!store.settle_dirty());
    assert!(store.has_work());
    settle(&mut store, &mut writer);
    drop((store, writer));
    fs.crash(5);
    let (_, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(5), Doubt::None));
}

#[test]
fn group_that_is_written_to_does_not_come_clean() {
    let (_, mut store, mut writer) = dirty();
    for _ in 0..5 {
        write(&mut store, &mut writer, 1, 500);
        assert!(store.settle_dirty());
        assert!(!store.has_work());
    }
    // Flushed and idle, but for what is queued.
    store.flush();
    settle(&mut store, &mut writer);
    store.settle_dirty();
    store.append(G, records(&store, 1, 1, 1, 100)).expect("taken");
    assert!(store.settle_dirty());
}

#[test]
fn orderly_end_is_clean() {
    let (fs, mut store, mut writer) = dirty();
    write(&mut store, &mut writer, 4, 9_000);
    store.append(G, records(&store, 1, 1, 1, 100)).expect("taken");
    commit(&mut store, &mut writer).expect("fine");
    store.flush();
    commit(&mut store, &mut writer).expect("fine");
    writer.close().expect("closed");
    drop(store);
    fs.crash(5);
    let (_, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(8), Doubt::None));
}

/// safety.md F10: what is synced of a group never stands on entries that are not.
#[test]
pub(crate) fn strict_changes_take_all_entries_before_them_along() {
    for seed in 0..30 {
        let (fs, mut store, mut writer) = dirty();
        write(&mut store, &mut writer, 2, 9_000);
        write(&mut store, &mut writer, 1, 100);
        if seed % 3 == 0 {
            // A flush that is under way and will not end.
            store.flush();
            commit(&mut store, &mut writer).expect("fine");
        }
        if seed % 2 == 0 {
            let state = HardState { epoch: Epoch::new(0, 5), ..HardState::default() };
            store.save_hard_state(G, state).expect("taken");
        } else {
            let last = store.last(G).expect("known");
            store.append(G, vec![entry(last, 5, EntryKind::Noop, 0, Bytes::new())]).expect("taken");
        }
        assert_eq!(commit(&mut store, &mut writer).expect("fine"), [], "not told before it is synced");
        let told = idle(&mut store, &mut writer);
        let least = Index(6 + seed % 2);
        assert!(told.iter().any(|d| d.is_synced && d.last.index == least), "{told:?}");
        write(&mut store, &mut writer, 3, 9_000);
        drop((store, writer));
        fs.crash(seed);
        let (_, last, doubt) = reopened(&fs);
        assert!(last >= least && doubt == Doubt::Entries, "seed {seed}: {last}");
    }
}

#[test]
fn votes_of_others_do_not_wait_for_loose_entries() {
    let (fs, mut store, mut writer) = dirty();
    store.create_group(spec(2)).expect("created");
    settle(&mut store, &mut writer);
    write(&mut store, &mut writer, 2, 9_000);
    store.append(G, records(&store, 1, 1, 1, 9_000)).expect("taken");
    let state = HardState { epoch: Epoch::new(0, 5), ..HardState::default() };
    store.save_hard_state(GroupId(2), state).expect("taken");
    let before = fs.counts().syncs;
    let told = commit(&mut store, &mut writer).expect("fine");
    assert_eq!(told, [Durable { group: G, last: LogId::new(0, 1, 6), is_synced: false }]);
    let told = idle(&mut store, &mut writer);
    assert_eq!(told, [Durable { group: GroupId(2), last: LogId::default(), is_synced: true }]);
    assert_eq!(fs.counts().syncs - before, 1, "the journal, and no segment");
}

#[test]
fn power_cut_leaves_a_prefix_in_doubt_and_every_vote() {
    let mut lost = 0;
    for seed in 0..60 {
        let (fs, mut store, mut writer) = dirty();
        let state = HardState { epoch: Epoch::new(0, 7), vote: Some(replica()), ..HardState::default() };
        store.save_hard_state(G, state).expect("taken");
        settle(&mut store, &mut writer);
        for n in 0..12 {
            write(&mut store, &mut writer, 1, if n % 3 == 0 { 200 } else { 5_000 });
        }
        drop((store, writer));
        fs.crash(seed);
        let (mut opened, last, doubt) = reopened(&fs);
        assert_eq!(doubt, Doubt::Entries);
        let found = opened.groups[0].hard_state;
        assert_eq!((found.epoch, found.vote), (state.epoch, state.vote));
        assert!(last >= Index(3), "{last}");
        lost += 15 - last.0;
        assert_eq!(read_all(&mut opened.store, 1).expect("readable").len() as u64, last.0);
    }
    assert!(lost > 60, "power cuts lose something: {lost}");
}

/// A copy that is called clean further than it is after a power cut would have to say that tombstones are missing.
#[test]
fn copy_is_called_clean_no_further_than_what_is_durable() {
    let (mut lost, mut known) = (0, 0);
    for seed in 0..30 {
        let (fs, mut store, mut writer) = dirty();
        for n in 0..12 {
            store.append(G, records(&store, 1, 1, 1, if n % 3 == 0 { 200 } else { 5_000 })).expect("taken");
            if n % 4 == seed % 4 {
                let end = store.last(G).expect("there").1;
                store.note_cleaned(G, end).expect("taken");
            }
            commit(&mut store, &mut writer).expect("fine");
        }
        idle(&mut store, &mut writer);
        drop((store, writer));
        fs.crash(seed);
        let (opened, last, _) = reopened(&fs);
        let cleaned = opened.store.cleaned(G).expect("there");
        assert!(
            cleaned.clean <= opened.groups[0].next_offset && cleaned.dropped == Offset(0),
            "seed {seed}: {cleaned:?}"
        );
        known += u32::from(cleaned.clean > Offset(0));
        lost += 15 - last.0;
    }
    assert!(lost > 5 && known > 5, "power cuts lose something, and not all: {lost}, {known}");
}

/// What was flushed is not lost: if it is not there it is damage, to be repaired from peers, and no log that ends early.
#[test]
fn flushed_entry_that_is_bad_is_damage() {
    let (fs, mut store, mut writer) = dirty();
    write(&mut store, &mut writer, 3, 9_000);
    store.flush();
    settle(&mut store, &mut writer);
    write(&mut store, &mut writer, 1, 100);
    drop((store, writer));
    fs.kill();
    let flipped = fs.fork();
    let (path, _) = files_of(&fs, ".segment").into_iter().max_by_key(|(_, len)| *len).expect("one");
    flipped.flip(&path, 15_000, 4);
    let opened = boot(&flipped);
    assert_eq!(opened.groups[0].needs_repair, Some((Index(4), Index(6))));
    assert_eq!(opened.groups[0].last.index, Index(7));
    // What was not flushed ends the log instead.
    let (fs, mut store, mut writer) = dirty();
    write(&mut store, &mut writer, 3, 9_000);
    write(&mut store, &mut writer, 1, 100);
    drop((store, writer));
    fs.kill();
    fs.flip(&path, 15_000, 4);
    let (_, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(3), Doubt::Entries));
}

#[test]
fn failed_flush_is_told_at_once_and_dirty_groups_are_in_doubt_in_the_same_run_too() {
    let (fs, mut store, mut writer) = dirty();
    write(&mut store, &mut writer, 3, 9_000);
    store.flush();
    commit(&mut store, &mut writer).expect("written");
    fs.fail_sync_after(0);
    writer.idle();
    let news = writer.take_news().expect("a failure is news");
    assert!(news.failure().is_some());
    store.complete(news, &mut Vec::new()).expect_err("latched");
    assert!(writer.take_news().is_none(), "told once");
    assert!(store.append(G, records(&store, 1, 1, 1, 100)).is_err());
    drop((store, writer));
    fs.kill();
    let (_, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(6), Doubt::Entries));
    let (_, _, doubt) = reopened(&{
        fs.kill();
        fs
    });
    assert_eq!(doubt, Doubt::Entries, "only the consensus layer ends it");
}

/// Rounds of another group that never leave the disk without a sync somebody waits for.
fn busy(store: &mut Store, writer: &mut Writer, rounds: usize) -> Vec<Durable> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        store.append(GroupId(2), records(store, 2, 1, 1, 100)).expect("taken");
        all.extend(commit(store, writer).expect("fine"));
        writer.poll();
        while let Some(news) = writer.take_news() {
            store.complete(news, &mut all).expect("fine");
        }
    }
    all
}

/// Under a steady load of syncs no moment came at which nothing was left to sync: groups that had been flushed long ago stayed dirty,
/// and in doubt after a power cut for nothing.
#[test]
fn group_that_rests_beside_a_steady_load_of_syncs_is_clean() {
    let (fs, mut store, mut writer) = dirty();
    store.create_group(spec(2)).expect("created");
    settle(&mut store, &mut writer);
    write(&mut store, &mut writer, 2, 9_000);
    // One sync is always waiting behind the one that is under way.
    store.append(GroupId(2), records(&store, 2, 1, 1, 100)).expect("taken");
    commit(&mut store, &mut writer).expect("fine");
    store.flush();
    busy(&mut store, &mut writer, 4);
    assert!(store.settle_dirty());
    busy(&mut store, &mut writer, 1);
    assert!(!store.settle_dirty());
    busy(&mut store, &mut writer, 3);
    drop((store, writer));
    fs.crash(5);
    let (_, last, doubt) = reopened(&fs);
    assert_eq!((last, doubt), (Index(5), Doubt::None));
}

/// And syncs were left to the lanes for ever.
#[test]
fn steady_load_of_syncs_is_synced_on_the_spot_again_after_a_while() {
    let (_, mut store, mut writer) = dirty();
    store.create_group(spec(2)).expect("created");
    settle(&mut store, &mut writer);
    write(&mut store, &mut writer, 2, 9_000);
    store.append(GroupId(2), records(&store, 2, 1, 1, 100)).expect("taken");
    commit(&mut store, &mut writer).expect("fine");
    store.flush();
    busy(&mut store, &mut writer, 300);
    store.append(GroupId(2), records(&store, 2, 1, 1, 100)).expect("taken");
    let last = store.last(GroupId(2)).expect("known").0;
    let told = commit(&mut store, &mut writer).expect("fine");
    assert_eq!(told, [Durable { group: GroupId(2), last, is_synced: true }], "with the answer to the round");
}

/// A flush was asked for (the topic became `flush.mode=sync`) while a sync of the group was under way that had begun before its last
/// records: they were left out, and nobody asked again before `flush.ms`.
#[test]
fn flush_asked_for_while_the_group_waits_for_a_sync_follows_it() {
    let (_, mut store, mut writer) = dirty();
    write(&mut store, &mut writer, 1, 9_000);
    let state = HardState { epoch: Epoch::new(0, 5), ..HardState::default() };
    store.save_hard_state(G, state).expect("taken");
    commit(&mut store, &mut writer).expect("fine");
    write(&mut store, &mut writer, 1, 9_000);
    store.flush();
    commit(&mut store, &mut writer).expect("fine");
    let told: Vec<Durable> = (0..3).flat_map(|_| idle(&mut store, &mut writer)).collect();
    let last = store.last(G).expect("known").0;
    assert!(told.contains(&Durable { group: G, last, is_synced: true }), "{told:?}");
}

/// Entries that were cut and came again are new bytes at new places: a sync that began before the cut says nothing of them.
#[test]
pub(crate) fn sync_from_before_a_cut_does_not_vouch_for_the_same_entries_after_it() {
    let (fs, mut store, mut writer) = dirty();
    store.create_group(spec(2)).expect("created");
    settle(&mut store, &mut writer);
    write(&mut store, &mut writer, 1, 300);
    let entries = records(&store, 2, 1, 4, 9_000);
    store.append(GroupId(2), entries.clone()).expect("taken");
    commit(&mut store, &mut writer).expect("fine");
    store.truncate(GroupId(2), Index(2)).expect("taken");
    store.append(GroupId(2), entries[1..].to_vec()).expect("taken");
    commit(&mut store, &mut writer).expect("fine");
    writer.poll();
    let mut told = Vec::new();
    store.complete(writer.take_news().expect("one sync has ended"), &mut told).expect("fine");
    let end = entries[3].meta.id;
    let is_told = |told: &[Durable]| told.iter().any(|d| d.group == GroupId(2) && d.last == end);
    assert!(!is_told(&told), "{told:?}");
    let later = fs.fork();
    assert!(is_told(&idle(&mut store, &mut writer)));
    later.crash(3);
    drop(boot(&later));
}

/// So does a round that was out when the log was cut, or the replica replaced by another (seed 30458 of `long`: a new replica acknowledged
/// what only the one before it had on its disk).
#[test]
pub(crate) fn round_from_before_a_cut_does_not_vouch_for_the_same_entries_after_it() {
    let group = GroupId(2);
    let told_of = |told: &[Durable]| told.iter().map(|d| d.last.index).max().unwrap_or_default();
    for changed in ["cut", "replaced", "installed"] {
        let Opened { mut store, mut writer, .. } = boot(&SimFs::new(1));
        store.create_group(spec(2)).expect("created");
        settle(&mut store, &mut writer);
        let entries = records(&store, 2, 1, 4, 100);
        store.append(group, entries.clone()).expect("taken");
        let round = store.take_round().expect("a round");
        let kept = match changed {
            "cut" => {
                store.truncate(group, Index(3)).expect("taken");
                store.append(group, entries[2..].to_vec()).expect("taken");
                Index(2)
            }
            "replaced" => {
                store.remove_group(group).expect("taken");
                store.create_group(spec(2)).expect("created");
                store.append(group, entries.clone()).expect("taken");
                Index(0)
            }
            _ => {
                store.install_log_start(group, LogStart::default()).expect("taken");
                store.append(group, entries.clone()).expect("taken");
                Index(0)
            }
        };
        let mut told = Vec::new();
        store.complete(writer.commit(round), &mut told).expect("fine");
        assert_eq!(told_of(&told), kept, "{changed}: {told:?}");
        let mut told = Vec::new();
        while let Some(round) = store.take_round() {
            store.complete(writer.commit(round), &mut told).expect("fine");
        }
        told.extend(idle(&mut store, &mut writer));
        assert_eq!(told_of(&told), Index(4), "{changed}: {told:?}");
    }
}

/// What one group went through.
struct States {
    all: Vec<State>,
    /// First state that may be found after a power cut, and after the end of the process.
    durable: usize,
    told: usize,
    was_async: bool,
    /// It was in doubt at the start, and the end of that may not have become durable.
    was_in_doubt: bool,
}

#[derive(Clone, Debug)]
struct State {
    entries: Vec<Entry>,
    epoch: Epoch,
    vote: Option<ReplicaId>,
    round: u64,
    strict: bool,
}

impl State {
    fn last(&self) -> (LogId, Offset) {
        self.entries.last().map_or((LogId::default(), Offset(0)), |e| (e.meta.id, e.meta.next_offset()))
    }
    fn is(&self, other: &Self) -> bool {
        (&self.entries, self.epoch, self.vote) == (&other.entries, other.epoch, other.vote)
    }
}

struct Run {
    fs: SimFs,
    store: Store,
    writer: Writer,
    groups: BTreeMap<u64, States>,
    random: StdRng,
    seed: u64,
    lost: u64,
    doubts: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new(seed);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        let mut groups = BTreeMap::new();
        for group in 1..5 {
            store.create_group(spec(group)).expect("created");
            let none =
                State { entries: Vec::new(), epoch: Epoch::default(), vote: None, round: 0, strict: true };
            groups.insert(
                group,
                States { all: vec![none], durable: 0, told: 0, was_async: false, was_in_doubt: false },
            );
        }
        settle(&mut store, &mut writer);
        let random = StdRng::seed_from_u64(seed);
        Self { fs, store, writer, groups, random, seed, lost: 0, doubts: 0 }
    }

    fn note(&mut self, group: u64, change: impl FnOnce(&mut State), strict: bool) {
        let round = self.store.next_round();
        let states = self.groups.get_mut(&group).expect("known");
        let mut next = states.all.last().expect("never empty").clone();
        change(&mut next);
        (next.round, next.strict) = (round, strict);
        states.all.push(next);
    }

    fn act(&mut self) -> Result<()> {
        let group = self.random.random_range(1..5u64);
        let id = GroupId(group);
        let now = self.groups[&group].all.last().expect("never empty").clone();
        match self.random.random_range(0..24) {
            0..15 => {
                let large = self.random.random_bool(0.4);
                for _ in 0..self.random.random_range(1..4) {
                    let now = self.groups[&group].all.last().expect("never empty").clone();
                    let term = now.last().0.epoch.term.0.max(1);
                    let control = self.random.random_bool(0.05);
                    let len = if large { 1500..6000 } else { 61..400 };
                    let len = self.random.random_range(len);
                    let e = match control {
                        true => entry(now.last(), term + 1, EntryKind::Noop, 0, Bytes::new()),
                        false => entry(
                            now.last(),
                            term,
                            EntryKind::Records,
                            3,
                            batch(len, self.random.random(), 5),
                        ),
                    };
                    self.store.append(id, vec![e.clone()])?;
                    let strict = control || !self.groups[&group].was_async;
                    self.note(group, |state| state.entries.push(e), strict);
                }
                Ok(())
            }
            15 | 16 if !now.entries.is_empty() => {
                let at = self.random.random_range(0..now.entries.len());
                self.store.truncate(id, now.entries[at].meta.id.index)?;
                self.note(group, |state| state.entries.truncate(at), true);
                Ok(())
            }
            17 | 18 => {
                let epoch = Epoch::new(0, now.epoch.term.0 + 1);
                let vote = self.random.random_bool(0.5).then(replica);
                self.store.save_hard_state(id, HardState { epoch, vote, ..HardState::default() })?;
                self.note(group, |state| (state.epoch, state.vote) = (epoch, vote), true);
                Ok(())
            }
            19 => {
                self.store.flush();
                Ok(())
            }
            20 => {
                self.store.settle_dirty();
                Ok(())
            }
            21 => self.store.roll(id),
            _ => {
                // Once a group was async its entries may be either; the model takes them for loose.
                let is_async = self.random.random_bool(0.7);
                self.store.set_async(id, is_async);
                self.groups.get_mut(&group).expect("known").was_async |= is_async;
                Ok(())
            }
        }
    }

    fn complete(&mut self, done: RoundDone) -> Result<()> {
        let mut out = Vec::new();
        let number = done.number();
        let round = self.store.complete(done, &mut out)?;
        for (group, states) in &mut self.groups {
            let told = |d: &&Durable| d.group.0 == *group;
            for (at, state) in states.all.iter().enumerate() {
                if state.strict && state.round <= round {
                    states.durable = states.durable.max(at);
                }
            }
            for d in out.iter().filter(told) {
                // Of states with the same end the first: what comes later changes no entries.
                let is_it = |state: &State| state.round <= number && state.last().0 == d.last;
                if let Some(at) = states.all.iter().position(is_it) {
                    states.told = states.told.max(at);
                    states.durable = states.durable.max(if d.is_synced { at } else { 0 });
                }
            }
            states.told = states.told.max(states.durable);
        }
        Ok(())
    }

    fn work(&mut self, steps: usize) {
        for _ in 0..steps {
            let fine = match self.random.random_range(0..10) {
                0..5 => self.act(),
                5..8 => match self.store.take_round() {
                    Some(round) => {
                        let done = self.writer.commit(round);
                        self.complete(done)
                    }
                    None => Ok(()),
                },
                _ => {
                    self.writer.idle();
                    match self.writer.take_news() {
                        Some(news) => self.complete(news),
                        None => Ok(()),
                    }
                }
            };
            if fine.is_err() || self.fs.is_off() || self.store.failure().is_some() {
                return;
            }
        }
    }

    fn reopen(&mut self, power: bool) {
        let seed = self.seed;
        let opened = try_open(&self.fs).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        (self.store, self.writer) = (opened.store, opened.writer);
        for group in opened.groups {
            let n = group.group.0;
            assert_eq!(group.needs_repair, None, "seed {seed}: group {n}");
            let entries =
                read_all(&mut self.store, n).unwrap_or_else(|e| panic!("seed {seed}: group {n}: {e}"));
            let (epoch, vote) = (group.hard_state.epoch, group.hard_state.vote);
            let found = State { entries, epoch, vote, round: 0, strict: true };
            let states = self.groups.get_mut(&n).expect("known");
            let at = states.all.iter().rposition(|state| state.is(&found));
            let is_doubtful = group.hard_state.doubt == Doubt::Entries;
            assert_ne!(group.hard_state.doubt, Doubt::Vote, "seed {seed}: group {n}");
            let least = if power { states.durable } else { states.told };
            assert!(
                at.is_some_and(|at| at >= least),
                "seed {seed}: group {n} is {} {epoch}, state {at:?} of {}; durable {} ({} {}), told {}",
                found.last().0,
                states.all.len(),
                states.durable,
                states.all[states.durable].last().0,
                states.all[states.durable].epoch,
                states.told,
            );
            if at < Some(states.told) {
                self.lost += 1;
                assert!(is_doubtful, "seed {seed}: group {n} lost what it had told, and does not know");
            }
            assert!(
                !is_doubtful || states.was_in_doubt || (power && states.was_async),
                "seed {seed}: group {n} is in doubt for nothing"
            );
            self.doubts += u64::from(is_doubtful);
            let is_async = self.random.random_bool(0.5);
            *states = States {
                all: vec![found],
                durable: 0,
                told: 0,
                was_async: is_async,
                was_in_doubt: is_doubtful,
            };
            self.store.set_async(group.group, is_async);
            // Whoever was in doubt has caught up.
            let state = HardState { doubt: Doubt::None, ..group.hard_state };
            self.store.save_hard_state(group.group, state).expect("taken");
        }
    }
}

fn seeds(default: u64) -> u64 {
    std::env::var("KONTIKI_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

#[test]
pub(crate) fn power_cuts_and_kills_at_random_moments_lose_nothing_but_what_is_in_doubt() {
    let (mut lost, mut doubts) = (0, 0);
    for seed in 0..seeds(120) {
        let mut run = Run::new(seed);
        for _ in 0..6 {
            let power = run.random.random_bool(0.7);
            if power && run.random.random_bool(0.7) {
                let cut = run.random.random_range(1..200);
                run.fs.power_off_after(cut);
            }
            run.work(150);
            if power || run.fs.is_off() {
                let crash_seed = run.random.random();
                run.fs.crash(crash_seed);
                run.reopen(true);
            } else {
                run.fs.kill();
                run.reopen(false);
            }
        }
        lost += run.lost;
        doubts += run.doubts;
    }
    assert!(lost > 30 && doubts > lost, "{lost} logs lost something, {doubts} were in doubt");
}
