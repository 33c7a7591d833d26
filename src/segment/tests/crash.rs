//! Random work against a naive model, with power cuts at every kind of moment: no completed round is ever
//! lost, nothing that was not queued appears, no chain breaks, and nobody is falsely in doubt.

use super::rig::*;
use crate::segment::fs::sim::SimFs;
use crate::segment::*;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// What one group should be.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    entries: Vec<Entry>,
    hard_state: HardState,
    log_start: LogStart,
    cleaned: Cleaned,
}

impl Model {
    fn last(&self) -> (LogId, Offset) {
        let start = (self.log_start.prev, self.log_start.base_offset);
        self.entries.last().map_or(start, |e| (e.meta.id, e.meta.next_offset()))
    }
}

type States = BTreeMap<u64, Option<Model>>;

struct Run {
    fs: SimFs,
    store: Store,
    writer: Writer,
    /// State after everything completed.
    durable: States,
    /// States each group went through in the round that is out.
    in_flight: BTreeMap<u64, Vec<Option<Model>>>,
    /// The same for what is queued.
    queued: BTreeMap<u64, Vec<Option<Model>>>,
    random: StdRng,
    seed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new(seed);
        let Opened { mut store, mut writer, .. } = boot(&fs);
        // From the first record of it on the directory holds how clean a log is.
        store.create_group(spec(9)).expect("created");
        store.note_dropped(GroupId(9), Offset(1)).expect("taken");
        commit(&mut store, &mut writer).expect("durable");
        let random = StdRng::seed_from_u64(seed);
        Self {
            fs,
            store,
            writer,
            durable: States::new(),
            in_flight: BTreeMap::new(),
            queued: BTreeMap::new(),
            random,
            seed,
        }
    }

    fn now(&self, group: u64) -> Option<Model> {
        let latest = |states: &BTreeMap<u64, Vec<Option<Model>>>| states.get(&group)?.last().cloned();
        latest(&self.queued)
            .or_else(|| latest(&self.in_flight))
            .or_else(|| self.durable.get(&group).cloned())
            .flatten()
    }

    fn note(&mut self, group: u64, state: Option<Model>) {
        self.queued.entry(group).or_default().push(state);
    }

    /// One random change; false if storage has failed.
    fn act(&mut self) -> bool {
        let group = self.random.random_range(1..5u64);
        let Some(mut model) = self.now(group) else {
            let mut spec = spec(group);
            spec.hard_state.epoch = Epoch::new(0, self.random.random_range(0..3));
            let state = Model {
                entries: Vec::new(),
                hard_state: spec.hard_state,
                log_start: spec.log_start.clone(),
                cleaned: Cleaned::default(),
            };
            let done = self.store.create_group(spec).is_ok();
            if done {
                self.note(group, Some(state));
            }
            return done;
        };
        let id = GroupId(group);
        let first = model.log_start.prev.index.0 + 1;
        let last = model.last().0.index.0;
        let done = match self.random.random_range(0..23) {
            0..12 => return self.append(group, model),
            12..14 if last >= first => {
                let from = self.random.random_range(first..=last);
                model.entries.truncate((from - first) as usize);
                model.cleaned.cut(model.last().1);
                self.store.truncate(id, Index(from))
            }
            14 if last >= first => {
                let at = self.random.random_range(first - 1..=last);
                let gone = (at + 1 - first) as usize;
                if gone > 0 {
                    let meta = model.entries[gone - 1].meta;
                    model.log_start.prev = meta.id;
                    model.log_start.base_offset = meta.next_offset();
                }
                model.log_start.producers = Bytes::from(vec![at as u8; 40]);
                model.entries.drain(..gone);
                self.store.set_log_start(id, model.log_start.clone())
            }
            15 => {
                let epoch = Epoch::new(0, model.last().0.epoch.term.0 + 1);
                model.log_start = LogStart {
                    prev: LogId { epoch, index: Index(last + 10) },
                    base_offset: Offset(model.last().1.0 + 100),
                    ..LogStart::default()
                };
                model.entries.clear();
                model.cleaned = Cleaned::starting_at(model.log_start.base_offset);
                self.store.install_log_start(id, model.log_start.clone())
            }
            16 => self.store.roll(id),
            20 => {
                let m = Offset(self.random.random_range(0..model.last().1.0 + 9));
                model.cleaned.cleaned_to(m.min(model.last().1));
                self.store.note_cleaned(id, m)
            }
            21 => {
                let d = Offset(self.random.random_range(0..model.last().1.0 + 9));
                model.cleaned.drops_to(d.min(model.last().1));
                self.store.note_dropped(id, d)
            }
            22 => {
                let mut offset = || Offset(self.random.random_range(0..model.last().1.0 + 9));
                let from = Cleaned { clean: offset(), dropped: offset() };
                let (before, end) = (model.cleaned, model.last().1);
                model.cleaned.appended(from, end);
                if model.cleaned.dropped == before.dropped && from.clean >= end {
                    let segments = self.store.segments(id).expect("there");
                    let active = segments.last().expect("one").base_offset;
                    model.cleaned.clean = before.clean.max(active);
                }
                self.store.appended_from(id, from)
            }
            17 if self.random.random_bool(0.3) => {
                let done = self.store.remove_group(id).is_ok();
                if done {
                    self.note(group, None);
                }
                return done;
            }
            _ => {
                let term = model.hard_state.epoch.term.0 + 1;
                let vote = self.random.random_bool(0.5).then(replica);
                model.hard_state = HardState { epoch: Epoch::new(0, term), vote, ..HardState::default() };
                self.store.save_hard_state(id, model.hard_state)
            }
        };
        if done.is_ok() {
            self.note(group, Some(model));
        }
        done.is_ok()
    }

    fn append(&mut self, group: u64, mut model: Model) -> bool {
        let mut entries = Vec::new();
        let is_large = self.random.random_bool(0.25);
        for _ in 0..self.random.random_range(1..5) {
            let last = entries.last().map_or(model.last(), |e: &Entry| (e.meta.id, e.meta.next_offset()));
            let term = (last.0.epoch.term.0 + u64::from(self.random.random_bool(0.1))).max(1);
            let fill = self.random.random();
            let e = if self.random.random_bool(0.1) {
                entry(last, term, EntryKind::Configuration, 0, Bytes::from(vec![fill; 30]))
            } else {
                let len = if is_large { 1500..6000 } else { 61..400 };
                let len = self.random.random_range(len);
                entry(last, term, EntryKind::Records, 3, batch(len, fill, i64::from(fill)))
            };
            entries.push(e);
        }
        if self.store.append(GroupId(group), entries.clone()).is_err() {
            return false;
        }
        // A round may end a group's log between any two extents, and entries of one append may roll.
        for e in entries {
            model.entries.push(e);
            self.note(group, Some(model.clone()));
        }
        true
    }

    /// Takes a round and commits it; false if storage has failed.
    fn commit(&mut self) -> bool {
        let Some(round) = self.store.take_round() else {
            return self.store.failure().is_none();
        };
        self.in_flight = std::mem::take(&mut self.queued);
        let done = self.writer.commit(round);
        // Sometimes more is queued while the round is out.
        if done.failure().is_none() && self.random.random_bool(0.3) {
            self.act();
        }
        let mut out = Vec::new();
        if self.store.complete(done, &mut out).is_err() {
            return false;
        }
        for (group, mut states) in std::mem::take(&mut self.in_flight) {
            self.durable.insert(group, states.pop().expect("a noted group has a state"));
        }
        for progress in out {
            let state = self.durable.get(&progress.group.0).cloned().flatten();
            if let Some(state) = state {
                // What was cut while the round was out is not vouched for.
                let is_cut = self.queued.contains_key(&progress.group.0);
                let last = state.last().0;
                assert!(
                    progress.last == last || (is_cut && progress.last.index < last.index),
                    "seed {}: {} of {last}",
                    self.seed,
                    progress.last
                );
            }
        }
        true
    }

    /// Opens again and checks what is there against what may be.
    fn reopen(&mut self) {
        let seed = self.seed;
        let opened = try_open(&self.fs).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        (self.store, self.writer) = (opened.store, opened.writer);
        let mut found = States::new();
        for group in &opened.groups {
            assert_eq!(group.needs_repair, None, "seed {seed}: group {} is sound", group.group);
            let entries = read_all(&mut self.store, group.group.0);
            let entries =
                entries.unwrap_or_else(|e| panic!("seed {seed}: group {} is sound: {e}", group.group));
            let configurations: Vec<_> = entries
                .iter()
                .filter(|e| e.meta.kind == EntryKind::Configuration)
                .map(|e| (e.meta.id, e.payload.clone()))
                .collect();
            assert_eq!(group.configurations, configurations, "seed {seed}");
            let mut epochs: Vec<(Epoch, Index)> = Vec::new();
            for e in &entries {
                if epochs.last().is_none_or(|l| l.0 != e.meta.id.epoch) {
                    epochs.push((e.meta.id.epoch, e.meta.id.index));
                }
            }
            assert_eq!(group.epochs, epochs, "seed {seed}");
            let cleaned = self.store.cleaned(group.group).expect("there");
            let (hard_state, log_start) = (group.hard_state, group.log_start.clone());
            let model = Model { entries, hard_state, log_start, cleaned };
            assert_eq!((group.last, group.next_offset), model.last(), "seed {seed}");
            found.insert(group.group.0, Some(model));
        }
        // Below its start nothing is in a log: clean to there or to less is the same, and a directory in which nothing was ever removed does
        // not say it.
        let known = |model: &Option<Model>| {
            let mut model = model.clone();
            if let Some(model) = &mut model {
                model.cleaned.clean = model.cleaned.clean.max(model.log_start.base_offset);
            }
            model
        };
        for group in 1..5 {
            let got = found.get(&group).cloned().flatten();
            let durable = self.durable.get(&group).cloned().flatten();
            let is_got = |state: &Option<Model>| known(state) == known(&got);
            let may = self.in_flight.get(&group).is_some_and(|states| states.iter().any(is_got));
            assert!(
                is_got(&durable) || may,
                "seed {seed}: group {group} is {:?}, was durable {:?}",
                got.map(|m| (m.last(), m.hard_state, m.log_start.prev, m.cleaned)),
                durable.map(|m| (m.last(), m.hard_state, m.log_start.prev, m.cleaned)),
            );
        }
        self.durable = found;
        self.in_flight.clear();
        self.queued.clear();
    }

    /// Works until storage fails or the steps are done.
    fn work(&mut self, steps: usize) -> bool {
        for _ in 0..steps {
            let fine = match self.random.random_range(0..10) {
                0..5 => self.act() || self.store.failure().is_none() && !self.fs.is_off(),
                5..8 => self.commit(),
                8 => {
                    self.writer.idle();
                    !self.fs.is_off()
                }
                _ => {
                    self.check_reads();
                    true
                }
            };
            if !fine || self.fs.is_off() {
                return false;
            }
        }
        true
    }

    /// Reads at random places, against the model. A reader may keep what it scanned in an index, so the power may go off under it.
    fn check_reads(&mut self) {
        if let Err(error) = self.try_reads() {
            assert!(self.fs.is_off(), "seed {}: what is there is sound: {error}", self.seed);
        }
    }

    fn try_reads(&mut self) -> Result<()> {
        let group = self.random.random_range(1..5);
        let Some(model) = self.now(group).filter(|m| !m.entries.is_empty()) else {
            return Ok(());
        };
        let (id, seed) = (GroupId(group), self.seed);
        assert_eq!(self.store.cleaned(id)?, model.cleaned, "seed {seed}");
        let at = self.random.random_range(0..model.entries.len());
        let want = &model.entries[at];
        let got = self.store.read(id, want.meta.id.index, 2000)?;
        assert_eq!(got[..], model.entries[at..at + got.len()], "seed {seed}");
        assert_eq!(self.store.meta_at(id, want.meta.id.index)?, want.meta, "seed {seed}");
        let end = model.last().1;
        if want.meta.base_offset < end {
            let offset = Offset(self.random.random_range(want.meta.base_offset.0..end.0));
            let got = self.store.fetch(id, offset, end, 2000, true)?;
            let first = model.entries.iter().find(|e| e.meta.next_offset() > offset).expect("below the end");
            assert_eq!((got[0].meta, &got[0].payload), (first.meta, &first.payload), "seed {seed}");
            got.iter().filter_map(|b| b.check.as_ref()).try_for_each(FrameCheck::verify)?;
        }
        let timestamp = self.random.random_range(0..256);
        let is_it = |e: &&Entry| {
            e.meta.kind == EntryKind::Records
                && i64::from_be_bytes(e.payload[35..43].try_into().expect("eight")) >= timestamp
        };
        let got = self.store.find_timestamp(id, timestamp, Offset(0), end)?;
        assert_eq!(got.as_ref(), model.entries.iter().find(is_it), "seed {seed}");
        Ok(())
    }
}

pub(crate) fn power_cuts(seed: u64, rounds: usize) {
    let mut run = Run::new(seed);
    for _ in 0..rounds {
        // Long enough, now and then, for checkpoints beside the rounds.
        let (changes, steps) = if run.random.random_bool(0.2) { (1500, 1200) } else { (150, 120) };
        let cut = run.random.random_range(1..changes);
        run.fs.power_off_after(cut);
        run.work(steps);
        let crash_seed = run.random.random();
        run.fs.crash(crash_seed);
        run.reopen();
    }
}

#[test]
fn power_cut_at_random_moments_loses_nothing_completed() {
    let seeds = std::env::var("KONTIKI_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        power_cuts(seed, 6);
    }
}

#[test]
fn power_cut_at_every_single_change_loses_nothing_completed() {
    for n in 0..400 {
        let mut run = Run::new(7);
        run.fs.power_off_after(n);
        if run.work(150) {
            assert!(n > 100, "the run is long enough");
        }
        run.fs.crash(n);
        run.reopen();
        run.work(20);
    }
}

#[test]
fn power_cut_during_recovery_loses_nothing_either() {
    for seed in 100..140 {
        let mut run = Run::new(seed);
        run.fs.power_off_after(200);
        run.work(400);
        run.fs.crash(seed);
        for n in 0..40 {
            run.fs.power_off_after(n * 3);
            if try_open(&run.fs).is_ok() {
                break;
            }
            run.fs.crash(seed * 1000 + n);
        }
        run.fs.crash(seed);
        run.reopen();
    }
}

#[test]
fn killed_process_leaves_everything_it_was_told_is_durable() {
    for seed in 200..220 {
        let mut run = Run::new(seed);
        for _ in 0..5 {
            run.work(60);
            run.fs.kill();
            run.reopen();
        }
    }
}

#[test]
fn orderly_end_keeps_everything_completed() {
    for seed in 300..310 {
        let mut run = Run::new(seed);
        for _ in 0..5 {
            run.work(60);
            let fs = run.fs.clone();
            let Opened { store, writer, .. } = boot(&SimFs::new(0));
            let old = std::mem::replace(&mut run.writer, writer);
            run.store = store;
            old.close().expect("closed");
            fs.crash(seed);
            run.reopen();
        }
    }
}

/// The trap of safety.md F9: after a failed sync the process restarts in the same boot, finds the bytes in
/// the page cache, and must not take them for durable without writing them again.
#[test]
pub(crate) fn failed_sync_then_restart_in_the_same_boot_then_power_cut_keeps_what_the_restart_showed() {
    for seed in 400..440 {
        let mut run = Run::new(seed);
        run.work(80);
        let nth = run.random.random_range(0..6);
        run.fs.fail_sync_after(nth);
        run.work(120);
        run.fs.kill();
        run.reopen();
        let shown = run.durable.clone();
        run.fs.crash(seed);
        run.reopen();
        assert_eq!(run.durable, shown, "seed {seed}");
    }
}

/// A failed sync is final: what it should have made durable is on no disk, whatever later syncs say.
#[test]
pub(crate) fn failed_sync_then_power_cut_loses_nothing_completed() {
    for seed in 440..480 {
        let mut run = Run::new(seed);
        run.work(60);
        let nth = run.random.random_range(0..6);
        run.fs.fail_sync_after(nth);
        run.work(40);
        run.fs.crash(seed);
        run.reopen();
    }
}

#[test]
fn failed_write_latches_and_a_restart_is_sound() {
    for seed in 500..530 {
        let mut run = Run::new(seed);
        run.work(60);
        let nth = run.random.random_range(0..10);
        run.fs.fail_write_after(nth);
        run.work(100);
        run.fs.crash(seed);
        run.reopen();
    }
}

#[test]
fn disk_that_fills_up_at_any_moment_loses_nothing() {
    for seed in 600..620 {
        let mut run = Run::new(seed);
        run.work(30);
        let room = run.random.random_range(0..400) << 10;
        run.fs.set_capacity(Some(run.fs.used() + room));
        for _ in 0..150 {
            run.act();
            if run.random.random_bool(0.4) {
                run.commit();
            }
        }
        run.fs.set_capacity(None);
        run.fs.crash(seed);
        run.reopen();
    }
}
