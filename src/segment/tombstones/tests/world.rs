//! One partition of several replicas as decision 0022 sees it: entries that are records of keys, files, the two numbers, messages that take
//! their time. The rules alone decide (`tombstones`); Raft is an oracle: a leader has every committed entry, unless the loss of some is declared.
//!
//! An entry is one record, so its index is its offset. `Rule`s that are no pure function (what is fresh, when a pass ends) are kept here as the
//! store, the core and the cleaner have to keep them, and can be left out.

use crate::segment::tombstones::{Brought, Cleaned, may_append, may_drop};
use crate::segment::types::{Epoch, Offset};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Rules of others than the pure functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Damage ends what is known of where a log came from: a repair brings entries of others.
    UnknownWhenDamaged,
    /// So does a loss.
    UnknownWhenLost,
    /// Numbers of a copy count if its last clean entry is known here.
    SameLog,
    /// Whoever asks names its last entry, so that copies that are clean beyond it may give.
    KnownEnd,
    /// A pass ends when something else has changed the files or the numbers.
    PassEnds,
    /// Sources of one file are judged together.
    Joined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub epoch: u64,
    pub key: u8,
    pub is_tombstone: bool,
    /// Nobody can look into it: it stays.
    pub is_opaque: bool,
}

/// What a replica holds of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub is_kept: bool,
    /// A batch with a delete horizon; it has passed as soon as anybody looks.
    pub has_horizon: bool,
    pub is_bad: bool,
}

const WHOLE: Slot = Slot { is_kept: true, has_horizon: false, is_bad: false };

#[derive(Clone, Debug)]
pub struct Pass {
    begun_at: Offset,
    floor: Offset,
    learned: usize,
    until: usize,
    keys: BTreeMap<u8, usize>,
    is_behind_unread: bool,
    stage: Stage,
    changes: u64,
    generation: u64,
}

#[derive(Clone, Debug)]
enum Stage {
    Learn,
    Rewrite(usize),
    /// The new file for these entries is written; up to where tombstones are left out.
    Written(Range<usize>, Vec<Slot>, usize),
    Said(Range<usize>, Vec<Slot>),
    Swapped(usize),
}

#[derive(Clone, Debug)]
pub struct Session {
    file: Range<usize>,
    taken: BTreeMap<usize, Slot>,
    source: Option<Cleaned>,
}

#[derive(Clone, Debug, Default)]
pub struct Replica {
    pub log: Vec<(Entry, Slot)>,
    /// Where closed files end.
    pub ends: Vec<usize>,
    pub numbers: Cleaned,
    pub epoch: u64,
    pub generation: u64,
    pub commit: usize,
    pub is_up: bool,
    pub is_gone: bool,
    pub is_leader: bool,
    pub brought: Option<Brought>,
    pub wants_anew: bool,
    pub pass: Option<Pass>,
    pub session: Option<Session>,
    changes: u64,
    process: u64,
    left_in: Option<u64>,
    /// Leader: its newest configuration, and what its members have said.
    config: Vec<usize>,
    words: BTreeMap<usize, Offset>,
    /// The generation it is of.
    pub floor: Option<(u64, Offset)>,
}

impl Replica {
    pub fn is_sound(&self) -> bool {
        self.log.iter().all(|(_, slot)| !slot.is_bad)
    }

    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// The file that an entry is in; the last one ends with the log.
    pub fn file(&self, index: usize) -> Range<usize> {
        let start = self.ends.iter().rev().find(|end| **end <= index).copied().unwrap_or(0);
        start..self.ends.iter().find(|end| **end > index).copied().unwrap_or(self.len())
    }

    fn ids(&self) -> impl Iterator<Item = Entry> {
        self.log.iter().map(|(entry, _)| *entry)
    }

    fn common(&self, other: impl Iterator<Item = Entry>) -> usize {
        self.ids().zip(other).take_while(|(a, b)| a.epoch == b.epoch).count()
    }

    fn cut(&mut self, at: usize) {
        self.log.truncate(at);
        self.ends.retain(|end| *end <= at);
        self.commit = self.commit.min(at);
        self.numbers.cut(offset(at));
        self.changes += 1;
        self.session = None;
    }

    fn enter(&mut self, generation: u64, base: usize, is_unknown: bool) {
        if generation > self.generation {
            self.generation = generation;
            self.commit = self.commit.min(base);
            if is_unknown {
                self.brought = None;
            }
        }
    }
}

pub fn offset(index: usize) -> Offset {
    Offset(index as i64)
}

fn offsets(range: &Range<usize>) -> Range<Offset> {
    offset(range.start)..offset(range.end)
}

#[derive(Clone, Debug)]
pub enum Message {
    Append {
        to: usize,
        epoch: u64,
        generation: u64,
        at: usize,
        prev: Option<u64>,
        entries: Vec<(Entry, Slot)>,
        numbers: Option<Cleaned>,
        commit: usize,
    },
    Fetched {
        to: usize,
        at: usize,
        entries: Vec<(Entry, Slot)>,
        numbers: Cleaned,
        /// Index and epoch of the source's last entry below `clean`, or of the last one of whoever asked.
        last: Option<(usize, u64)>,
    },
    Word {
        to: usize,
        from: usize,
        epoch: u64,
        process: u64,
        clean: Offset,
    },
}

pub struct World {
    pub replicas: Vec<Replica>,
    pub members: Vec<usize>,
    /// What is committed, and not lost by a loss that was declared.
    pub history: Vec<Entry>,
    pub epoch: u64,
    pub generation: u64,
    pub base: usize,
    pub messages: Vec<Message>,
    pub left_out: Option<Rule>,
    /// Every floor is beyond all.
    pub floor_lies: bool,
    pub trace: Vec<String>,
    /// Entries (epoch, index) that a later committed one of their key has replaced, if only in a history that was lost since.
    replaced: BTreeSet<(u64, usize)>,
}

impl World {
    /// So many members; the first leads.
    pub fn of(members: usize) -> Self {
        let mut world = Self {
            replicas: Vec::new(),
            members: Vec::new(),
            history: Vec::new(),
            epoch: 0,
            generation: 0,
            base: 0,
            messages: Vec::new(),
            left_out: None,
            floor_lies: false,
            trace: Vec::new(),
            replaced: BTreeSet::new(),
        };
        for _ in 0..members {
            world.add();
        }
        world.elect(0);
        (1..members).for_each(|member| world.hear(member));
        world
    }

    fn say(&mut self, what: String) {
        self.trace.push(what);
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }

    /// Who leads in the newest epoch.
    pub fn leader(&self) -> Option<usize> {
        (0..self.replicas.len()).find(|id| {
            let replica = &self.replicas[*id];
            replica.is_leader && replica.epoch == self.epoch && replica.is_up && !replica.is_gone
        })
    }

    /// Who leads in the epoch that this replica knows.
    fn leader_of(&self, member: usize) -> Option<usize> {
        let epoch = self.replicas[member].epoch;
        (0..self.replicas.len()).find(|id| {
            let replica = &self.replicas[*id];
            replica.is_leader && replica.epoch == epoch && replica.is_up && !replica.is_gone
        })
    }

    // ---- members and leaders

    /// A new member with an empty log.
    pub fn add(&mut self) -> usize {
        let id = self.replicas.len();
        let numbers = Cleaned::starting_at(Offset(0));
        self.replicas.push(Replica { is_up: true, numbers, ..Replica::default() });
        self.join(id);
        id
    }

    /// A member, new or as it was when it left; not in the epoch in which it left (safety.md F6: its id is used up).
    pub fn join(&mut self, id: usize) {
        if self.replicas[id].left_in.is_some_and(|epoch| epoch == self.epoch) {
            return;
        }
        self.members.push(id);
        self.configure();
        self.say(format!("{id} joins"));
    }

    pub fn leave(&mut self, id: usize) {
        self.members.retain(|member| *member != id);
        self.replicas[id].left_in = Some(self.epoch);
        self.configure();
        self.say(format!("{id} leaves"));
    }

    fn configure(&mut self) {
        if let Some(leader) = self.leader() {
            self.replicas[leader].config = self.members.clone();
        }
    }

    /// A replica that has to begin anew is placed anew.
    pub fn begin_anew(&mut self, id: usize) -> usize {
        self.leave(id);
        self.replicas[id].is_gone = true;
        self.add()
    }

    pub fn holds_all(&self, id: usize) -> bool {
        let replica = &self.replicas[id];
        replica.is_sound() && replica.common(self.history.iter().copied()) == self.history.len()
    }

    pub fn elect(&mut self, id: usize) {
        self.epoch += 1;
        let (epoch, generation, base) = (self.epoch, self.generation, self.base);
        let is_unknown = self.keeps(Rule::UnknownWhenLost);
        let replica = &mut self.replicas[id];
        replica.enter(generation, base, is_unknown);
        (replica.epoch, replica.is_leader) = (epoch, true);
        replica.words.clear();
        self.configure();
        self.say(format!("{id} leads in {epoch} of generation {generation}"));
    }

    /// Hears of the newest leader.
    pub fn hear(&mut self, id: usize) {
        let (epoch, generation, base) = (self.epoch, self.generation, self.base);
        let is_unknown = self.keeps(Rule::UnknownWhenLost);
        let replica = &mut self.replicas[id];
        replica.enter(generation, base, is_unknown);
        if replica.epoch < epoch {
            (replica.epoch, replica.is_leader) = (epoch, false);
        }
    }

    /// Goes on with what this one has: a generation that begins with loss, or (in an asynchronous topic) an election in which nobody has all.
    pub fn lose(&mut self, survivor: usize, is_generation: bool) {
        self.history = self.replicas[survivor].ids().collect();
        self.note_replaced(0);
        self.base = self.history.len();
        self.generation += u64::from(is_generation);
        self.say(format!("all behind {} is lost", self.base));
        self.elect(survivor);
        self.replicas[survivor].commit = self.base;
    }

    fn note_replaced(&mut self, from: usize) {
        for (index, entry) in self.history.iter().enumerate().skip(from) {
            let before = self.history[..index].iter().enumerate();
            let earlier = before.filter(|(_, earlier)| earlier.key == entry.key);
            self.replaced.extend(earlier.map(|(index, earlier)| (earlier.epoch, index)));
        }
    }

    /// A process ends and begins; of an asynchronous topic what is behind `keeps` is lost.
    pub fn restart(&mut self, id: usize, keeps: usize) {
        self.say(format!("{id} restarts with {keeps} of {}", self.replicas[id].len()));
        let replica = &mut self.replicas[id];
        if keeps < replica.len() {
            replica.cut(keeps);
        }
        (replica.is_leader, replica.brought, replica.pass) = (false, None, None);
        (replica.session, replica.floor) = (None, None);
        replica.process += 1;
        replica.words.clear();
        for other in &mut self.replicas {
            other.words.remove(&id);
        }
    }

    // ---- entries

    pub fn produce(&mut self, key: u8, is_tombstone: bool, is_opaque: bool) {
        let Some(leader) = self.leader() else { return };
        let replica = &mut self.replicas[leader];
        let entry = Entry { epoch: replica.epoch, key, is_tombstone, is_opaque };
        replica.log.push((entry, WHOLE));
        let at = replica.len() - 1;
        self.say(format!("{at}: key {key}{}", if is_tombstone { " deleted" } else { "" }));
    }

    pub fn roll(&mut self, id: usize) {
        let replica = &mut self.replicas[id];
        if replica.len() > replica.ends.last().copied().unwrap_or(0) && replica.is_sound() {
            replica.ends.push(replica.len());
        }
    }

    /// The leader counts who holds what.
    pub fn commit(&mut self) {
        let Some(leader) = self.leader() else { return };
        let quorum = self.members.len().min(2);
        let known: Vec<Entry> = self.replicas[leader].ids().collect();
        let held = |member: &usize| self.replicas[*member].common(known.iter().copied());
        let mut held: Vec<usize> = self.members.iter().map(held).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let Some(end) = held.get(quorum - 1).copied().filter(|end| *end > self.history.len()) else { return };
        let from = self.history.len();
        self.history.extend(&known[from..end]);
        self.note_replaced(from);
        self.replicas[leader].commit = end;
        self.say(format!("{end} committed"));
    }

    /// The leader of some epoch reads for a member, `back` entries that it has included.
    pub fn send(&mut self, from: usize, to: usize, back: usize, count: usize) {
        let leader = &self.replicas[from];
        if !leader.is_leader || !leader.is_sound() || !leader.config.contains(&to) {
            return;
        }
        let at = leader.common(self.replicas[to].ids()).saturating_sub(back);
        let entries = leader.log[at..].iter().take(count).copied().collect();
        let numbers = leader.numbers;
        let numbers = Some(numbers).filter(|of| offset(at) < of.clean.max(of.dropped));
        let prev = at.checked_sub(1).map(|prev| leader.log[prev].0.epoch);
        let (epoch, generation, commit) = (leader.epoch, leader.generation, leader.commit);
        self.messages.push(Message::Append { to, epoch, generation, at, prev, entries, numbers, commit });
    }

    pub fn deliver(&mut self, at: usize) {
        let message = self.messages.remove(at);
        let is_unknown = self.keeps(Rule::UnknownWhenLost);
        match message {
            Message::Append { to, epoch, generation, at, prev, entries, numbers, commit } => {
                let replica = &mut self.replicas[to];
                if !replica.is_up || replica.is_gone || epoch < replica.epoch {
                    return;
                }
                replica.enter(generation, self.base, is_unknown);
                replica.is_leader &= replica.epoch == epoch;
                replica.epoch = epoch;
                let fits = match prev {
                    Some(prev) => replica.log.get(at - 1).is_some_and(|(entry, _)| entry.epoch == prev),
                    None => true,
                };
                if fits && replica.is_sound() && !replica.is_leader {
                    self.append(to, at, &entries, numbers, commit);
                }
            }
            Message::Fetched { to, at, entries, numbers, last } => self.mend(to, at, &entries, numbers, last),
            Message::Word { to, from, epoch, process, clean } => {
                let is_of_now = process == self.replicas[from].process;
                let leader = &mut self.replicas[to];
                if leader.is_leader && leader.epoch == epoch && is_of_now {
                    leader.words.insert(from, clean);
                }
            }
        }
    }

    fn append(
        &mut self,
        to: usize,
        at: usize,
        entries: &[(Entry, Slot)],
        leader: Option<Cleaned>,
        commit: usize,
    ) {
        let replica = &mut self.replicas[to];
        let held = |(i, new): &(usize, &(Entry, Slot))| {
            replica.log.get(at + i).is_some_and(|(entry, _)| entry.epoch == new.0.epoch)
        };
        let skip = entries.iter().enumerate().take_while(held).count();
        let first = at + skip;
        if skip < entries.len() {
            let epoch = Epoch::new(0, replica.epoch);
            let dropped = leader.map_or(Offset(0), |leader| leader.dropped);
            if !may_append(offset(first), epoch, dropped, first == 0, replica.brought) {
                replica.wants_anew = true;
                let why = format!("{to} may not append at {first}: {dropped}");
                return self.say(why);
            }
            if first < replica.len() {
                replica.cut(first);
            }
            let is_known = first == 0 || replica.brought.is_some();
            let before = replica.brought.filter(|_| first > 0);
            replica.brought = is_known.then(|| Brought::after(before, epoch, offset(first), leader));
            replica.log.extend(&entries[skip..]);
            let end = offset(replica.len());
            let clean = replica.brought.map_or(Offset(0), |brought| brought.clean_to(end));
            let dropped = if offset(first) < dropped { dropped } else { Offset(0) };
            if leader.is_some() {
                replica.numbers.appended(Cleaned { clean, dropped }, end);
            }
        }
        replica.commit = replica.commit.max(commit.min(at + entries.len()));
        let (end, numbers) = (replica.len(), replica.numbers);
        self.say(format!("{to} has {end} ({numbers:?})"));
    }

    // ---- compaction

    pub fn tell(&mut self, from: usize) {
        let Some(to) = self.leader_of(from).filter(|leader| *leader != from) else { return };
        let replica = &self.replicas[from];
        let (epoch, process, clean) = (replica.epoch, replica.process, replica.numbers.clean);
        self.messages.push(Message::Word { to, from, epoch, process, clean });
    }

    fn floor_of(&self, leader: usize) -> Offset {
        let replica = &self.replicas[leader];
        if self.floor_lies {
            return Offset(i64::MAX);
        }
        let word = |member: &usize| match *member == leader {
            true => replica.numbers.clean,
            false => replica.words.get(member).copied().unwrap_or_default(),
        };
        replica.config.iter().map(word).min().unwrap_or_default()
    }

    pub fn ask_floor(&mut self, id: usize) {
        let Some(leader) = self.leader_of(id) else { return };
        let floor = self.floor_of(leader);
        let replica = &mut self.replicas[id];
        replica.floor = Some((replica.generation, floor));
    }

    pub fn begin_pass(&mut self, id: usize) {
        if self.replicas[id].is_leader {
            self.ask_floor(id);
        }
        let replica = &mut self.replicas[id];
        let (begun_at, generation) = (replica.numbers.clean, replica.generation);
        let until = replica.ends.iter().rev().find(|end| **end <= replica.commit).copied().unwrap_or(0);
        let floor = replica.floor.filter(|(of, _)| *of == generation).map_or(Offset(0), |(_, floor)| floor);
        if !replica.is_up || !replica.is_sound() || replica.pass.is_some() || begun_at >= offset(until) {
            return;
        }
        let learned = begun_at.0 as usize;
        let (changes, stage, keys) = (replica.changes, Stage::Learn, BTreeMap::new());
        let is_behind_unread = false;
        replica.pass = Some(Pass {
            begun_at,
            floor,
            learned,
            until,
            keys,
            is_behind_unread,
            stage,
            changes,
            generation,
        });
        self.say(format!("{id} begins a pass at {begun_at}, floor {floor}"));
    }

    /// One step of a pass; `many` files become one.
    pub fn step_pass(&mut self, id: usize, many: usize) {
        let must_end = self.keeps(Rule::PassEnds);
        let replica = &mut self.replicas[id];
        let Some(mut pass) = replica.pass.take() else { return };
        let has_changed = pass.changes != replica.changes || pass.generation != replica.generation;
        if !replica.is_sound() || must_end && has_changed || pass.until > replica.len() {
            return self.say(format!("{id} ends its pass"));
        }
        let mut said = None;
        pass.stage = match std::mem::replace(&mut pass.stage, Stage::Learn) {
            Stage::Learn if pass.learned < pass.until => {
                let end = replica.file(pass.learned).end;
                for index in pass.learned..end {
                    let (entry, slot) = replica.log[index];
                    if slot.is_kept && !entry.is_opaque {
                        pass.keys.insert(entry.key, index);
                    }
                }
                pass.learned = end;
                Stage::Learn
            }
            Stage::Learn => Stage::Rewrite(0),
            Stage::Rewrite(from) if from >= pass.learned => return,
            Stage::Rewrite(from) => {
                let ends = replica.ends.iter().filter(|end| **end > from && **end <= pass.learned);
                let Some(end) = ends.take(many).last().copied() else { return };
                let (slots, dropped) = rewrite(&mut pass, &replica.log, from..end);
                Stage::Written(from..end, slots, dropped)
            }
            Stage::Written(range, slots, dropped) => {
                replica.numbers.drops_to(offset(dropped));
                Stage::Said(range, slots)
            }
            Stage::Said(range, slots) => {
                let Range { start, end } = range;
                for (index, slot) in range.zip(slots) {
                    replica.log[index].1 = slot;
                }
                replica.ends.retain(|at| *at <= start || *at >= end);
                said = Some(format!("{id} has rewritten {start}..{end} ({:?})", replica.numbers));
                Stage::Swapped(end)
            }
            Stage::Swapped(end) => {
                replica.numbers.cleaned_to(offset(end));
                Stage::Rewrite(end)
            }
        };
        replica.pass = Some(pass);
        self.trace.extend(said);
    }

    /// Everything that is well does what it has to do: entries go to all, files are closed and cleaned, and all tell how far they are.
    pub fn go_round(&mut self, chunk: usize) {
        let Some(leader) = self.leader() else { return };
        let members: Vec<usize> =
            self.members.iter().copied().filter(|id| self.replicas[*id].is_up).collect();
        for _ in 0..2 {
            for id in members.iter().filter(|id| **id != leader) {
                self.hear(*id);
                self.send(leader, *id, 0, chunk);
                self.deliver_newest();
            }
            self.commit();
        }
        for id in &members {
            self.roll(*id);
            self.tell(*id);
            self.deliver_newest();
        }
        for id in &members {
            self.ask_floor(*id);
            self.clean(*id);
            self.tell(*id);
            self.deliver_newest();
        }
    }

    /// What was sent last, before all else.
    pub fn deliver_newest(&mut self) {
        if let Some(newest) = self.messages.len().checked_sub(1) {
            self.deliver(newest);
        }
    }

    /// A whole pass.
    pub fn clean(&mut self, id: usize) {
        self.begin_pass(id);
        while self.replicas[id].pass.is_some() {
            self.step_pass(id, 1);
        }
    }

    // ---- damage and repair

    pub fn damage(&mut self, id: usize, range: Range<usize>) {
        self.say(format!("{id} is damaged in {range:?}"));
        let is_unknown = self.keeps(Rule::UnknownWhenDamaged);
        let replica = &mut self.replicas[id];
        replica.log[range].iter_mut().for_each(|(_, slot)| slot.is_bad = true);
        replica.is_leader = false;
        if is_unknown {
            replica.brought = None;
        }
    }

    /// Asks a copy for what is next in a damaged file.
    pub fn ask(&mut self, id: usize, source: usize, count: usize) {
        let names_own = self.keeps(Rule::KnownEnd);
        let replica = &mut self.replicas[id];
        let Some(first) = replica.log.iter().position(|(_, slot)| slot.is_bad) else { return };
        let file = replica.file(first);
        let session = Session { file: file.clone(), taken: BTreeMap::new(), source: None };
        let session = replica.session.get_or_insert(session);
        let at =
            file.into_iter().find(|index| replica.log[*index].1.is_bad && !session.taken.contains_key(index));
        let Some(at) = at else { return };
        let asking = replica.log.last().map(|(entry, _)| (replica.log.len() - 1, entry.epoch));
        let asking = asking.filter(|_| names_own);
        let source = &self.replicas[source];
        // The last entry of the one that asks, if this one has it and is clean beyond.
        let asking = asking.filter(|(last, epoch)| {
            *last + 1 < source.numbers.clean.0 as usize
                && source.log.get(*last).is_some_and(|(entry, _)| entry.epoch == *epoch)
        });
        let readable = source.log.iter().skip(at).take_while(|(_, slot)| !slot.is_bad);
        let entries: Vec<(Entry, Slot)> = readable.take(count).copied().collect();
        let (numbers, clean) = (source.numbers, source.numbers.clean.0 as usize);
        let last = clean.checked_sub(1).map(|last| (last, source.log[last].0.epoch));
        let last = asking.or(last);
        self.messages.push(Message::Fetched { to: id, at, entries, numbers, last });
    }

    fn mend(
        &mut self,
        id: usize,
        at: usize,
        entries: &[(Entry, Slot)],
        numbers: Cleaned,
        last: Option<(usize, u64)>,
    ) {
        let (joins, of_same) = (self.keeps(Rule::Joined), self.keeps(Rule::SameLog));
        let replica = &mut self.replicas[id];
        let Some(mut session) = replica.session.take() else { return };
        let knows = |(index, epoch): (usize, u64)| {
            replica.log.get(index).is_some_and(|(entry, _)| entry.epoch == epoch)
        };
        let is_known = last.is_none_or(knows) || !of_same;
        let one = match last {
            _ if !is_known => numbers.of_another_log(),
            Some((last, _)) if of_same => numbers.known_to(offset(last + 1)),
            _ => numbers,
        };
        let all = session.source.map_or(one, |others| others.joined(one));
        let file = offsets(&session.file);
        if !replica.numbers.may_mend(file, if joins { all } else { one }) {
            // What another one gave may be why: the file is begun again.
            let why = format!("{id} may not take {at} from a copy of {one:?}");
            return self.say(why);
        }
        let mut took = false;
        for (index, (entry, slot)) in entries.iter().enumerate().map(|(i, new)| (at + i, new)) {
            let is_mine = replica.log.get(index).is_some_and(|(mine, _)| mine.epoch == entry.epoch);
            if !session.file.contains(&index) || !is_mine {
                break;
            }
            if replica.log[index].1.is_bad && !session.taken.contains_key(&index) {
                session.taken.insert(index, *slot);
                took = true;
            }
        }
        if took {
            session.source = Some(all);
        }
        replica.session = Some(session);
        self.say(format!("{id} takes from {at} on of a copy of {one:?}"));
    }

    /// Puts the copy of a file in place, once it is whole; or ends between the numbers and that.
    pub fn finish(&mut self, id: usize, is_cut_short: bool) {
        let joins = self.keeps(Rule::Joined);
        let replica = &mut self.replicas[id];
        let Some(session) = replica.session.take() else { return };
        let missing = |index: usize| replica.log[index].1.is_bad && !session.taken.contains_key(&index);
        let Some(source) = session.source.filter(|_| !session.file.clone().any(missing)) else {
            replica.session = Some(session);
            return;
        };
        let file = offsets(&session.file);
        if joins && !replica.numbers.may_mend(file.clone(), source) {
            return;
        }
        replica.numbers.mended(file, source);
        replica.changes += 1;
        let numbers = replica.numbers;
        if is_cut_short {
            let keeps = replica.len();
            return self.restart(id, keeps);
        }
        session.taken.into_iter().for_each(|(index, slot)| replica.log[index].1 = slot);
        self.say(format!("{id} has repaired {:?} ({numbers:?})", session.file));
    }

    // ---- what has to be true

    /// Whether a replica is one that consumers read.
    fn serves(&self, id: usize) -> bool {
        let replica = &self.replicas[id];
        self.members.contains(&id) && replica.is_sound() && replica.generation == self.generation
    }

    pub fn check(&self) {
        if let Some(what) = self.violation() {
            let from = self.trace.len().saturating_sub(60);
            panic!("{what}\n{}", self.trace[from..].join("\n"));
        }
    }

    /// What is not as it must be.
    pub fn violation(&self) -> Option<String> {
        let there = self.replicas.iter().enumerate().filter(|(_, replica)| !replica.is_gone);
        let mut wrong = there.filter_map(|(id, replica)| {
            let of_keys = || self.wrong_keys(id, replica).filter(|_| self.serves(id));
            self.wrong_numbers(id, replica).or_else(of_keys)
        });
        wrong.next()
    }

    fn was_replaced(&self, index: usize, entry: Entry) -> bool {
        self.replaced.contains(&(entry.epoch, index))
    }

    /// A deleted key shows, or something is lost that may not be.
    fn wrong_keys(&self, id: usize, replica: &Replica) -> Option<String> {
        let end = replica.common(self.history.iter().copied());
        for (index, (entry, slot)) in replica.log[..end].iter().enumerate() {
            let mut later = self.history.iter().enumerate().skip(index + 1);
            let last = later.rfind(|(_, later)| later.key == entry.key);
            if last.is_none() && !entry.is_tombstone && !slot.is_kept && !self.was_replaced(index, *entry) {
                return Some(format!("a record is lost: {index} in {id}"));
            }
            let deleted = last.filter(|(at, last)| slot.is_kept && last.is_tombstone && *at < end);
            if let Some((at, last)) = deleted
                && !replica.log[at].1.is_kept
                && !self.was_replaced(at, *last)
            {
                return Some(format!("a deleted key came back in {id}: {index}, deleted at {at}"));
            }
        }
        None
    }

    /// The numbers say of the log what is not so.
    fn wrong_numbers(&self, id: usize, replica: &Replica) -> Option<String> {
        let Cleaned { clean, dropped } = replica.numbers;
        if clean > offset(replica.len()) || dropped > offset(replica.len()) {
            return Some(format!("clean or dropped is beyond the end in {id}"));
        }
        let cleaned = &replica.log[..clean.0 as usize];
        for (index, (entry, slot)) in replica.log.iter().enumerate() {
            let is_here = slot.is_kept && !slot.is_bad && !entry.is_opaque;
            let mut later = cleaned.iter().enumerate().skip(index + 1);
            let last = later.rfind(|(_, (later, _))| later.key == entry.key);
            if let Some((at, (last, _))) = last.filter(|_| is_here)
                && last.is_tombstone
                && !self.was_replaced(at, *last)
            {
                return Some(format!("clean is too high in {id}: {index}, deleted at {at} of {clean}"));
            }
            let is_missing = entry.is_tombstone && !slot.is_kept && !slot.is_bad;
            if is_missing && offset(index) >= dropped && !self.was_replaced(index, *entry) {
                return Some(format!("dropped is too low in {id}: {index} of {dropped}"));
            }
        }
        None
    }

    /// Whether a replica has a record of a key that is deleted, and not what deleted it, be it by a loss or not.
    pub fn shows(&self, id: usize, key: char) -> bool {
        let key = key as u8;
        let of_key = |entry: &Entry| entry.key == key;
        let Some(last) = self.history.iter().rposition(of_key) else { return false };
        let log = &self.replicas[id].log;
        let has_value = |(entry, slot): &(Entry, Slot)| of_key(entry) && !entry.is_tombstone && slot.is_kept;
        let has_last = log.get(last).is_some_and(|(_, slot)| slot.is_kept);
        self.history[last].is_tombstone && log.len() > last && !has_last && log[..last].iter().any(has_value)
    }
}

/// What stays of entries, and up to where tombstones are left out.
fn rewrite(pass: &mut Pass, log: &[(Entry, Slot)], range: Range<usize>) -> (Vec<Slot>, usize) {
    let mut dropped = 0;
    let slots = range.map(|index| {
        let (entry, mut slot) = log[index];
        if !slot.is_kept {
            return slot;
        }
        if entry.is_opaque {
            pass.is_behind_unread = true;
            return slot;
        }
        if pass.keys.get(&entry.key).is_some_and(|last| *last > index) {
            slot.is_kept = false;
        } else if entry.is_tombstone {
            let end = offset(index + 1);
            if slot.has_horizon && may_drop(end, pass.begun_at, pass.floor, pass.is_behind_unread) {
                slot.is_kept = false;
                dropped = index + 1;
            }
            slot.has_horizon |= offset(index) >= pass.begun_at;
        }
        slot
    });
    (slots.collect(), dropped)
}
