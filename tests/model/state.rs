//! What the model's world consists of: entries, logs, replicas, reports, and the state of everything.
//!
//! Not here: what may happen (`machine`), bounds and broken rules (`rules`). Everything is small, `Copy` and of fixed
//! size, because millions of these are held, compared and hashed.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Most replicas in a scenario.
pub const REPLICAS: usize = 4;
/// Most entries in a log. No scenario fills it; appending beyond it panics, so it cannot hide a schedule.
pub const LOG_MAX: usize = 8;
/// Terms of a generation, from 0.
pub const TERMS: usize = 6;
/// Generations: the first and the one after a decision.
pub const GENERATIONS: usize = 2;

/// A set of replicas, one bit each.
pub type Set = u8;

/// Members of `set`.
pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..REPLICAS).filter(move |&i| contains(set, i))
}

pub fn contains(set: Set, replica: usize) -> bool {
    set >> replica & 1 == 1
}

pub fn is_majority(of: Set, set: Set) -> bool {
    2 * (of & set).count_ones() > of.count_ones()
}

/// Generation first, then term (F4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    pub generation: u8,
    pub term: u8,
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.term)
    }
}

/// One entry in 16 bits: which of two voters is heir 1, generation 1, term 4, kind 2, voters before a joint change 4, voters 4. Never
/// zero.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry(u16);

const VALUE: u16 = 1;
const SIMPLE: u16 = 2;
const JOINT: u16 = 3;

impl Entry {
    fn pack(epoch: Epoch, kind: u16, old: Set, new: Set) -> Self {
        Self(
            u16::from(epoch.generation) << 14
                | u16::from(epoch.term) << 10
                | kind << 8
                | u16::from(old) << 4
                | u16::from(new),
        )
    }
    pub fn value(epoch: Epoch) -> Self {
        Self::pack(epoch, VALUE, 0, 0)
    }
    pub fn simple(epoch: Epoch, voters: Set) -> Self {
        Self::pack(epoch, SIMPLE, 0, voters)
    }
    pub fn joint(epoch: Epoch, old: Set, new: Set) -> Self {
        Self::pack(epoch, JOINT, old, new)
    }
    pub fn epoch(self) -> Epoch {
        Epoch { generation: (self.0 >> 14 & 1) as u8, term: (self.0 >> 10 & 15) as u8 }
    }
    fn kind(self) -> u16 {
        self.0 >> 8 & 3
    }
    pub fn is_value(self) -> bool {
        self.kind() == VALUE
    }
    pub fn is_configuration(self) -> bool {
        self.kind() >= SIMPLE
    }
    pub fn is_joint(self) -> bool {
        self.kind() == JOINT
    }
    /// Voters of a simple configuration, or those a joint one leads to.
    pub fn new_half(self) -> Set {
        (self.0 & 15) as u8
    }
    pub fn old_half(self) -> Set {
        (self.0 >> 4 & 15) as u8
    }
    /// The same, with this one of two voters as their heir (F1).
    pub fn naming(self, heir: usize) -> Self {
        let is_higher = self.new_half() >> (heir + 1) == 0;
        Self(self.0 & 0x7fff | u16::from(is_higher) << 15)
    }
    /// Heir of the voters that this configuration has or leads to: of two the named one, one is its own.
    pub fn heir(self) -> Option<usize> {
        let new = self.new_half();
        match new.count_ones() {
            1 => members(new).next(),
            2 if self.0 >> 15 == 1 => members(new).nth(1),
            2 => members(new).next(),
            _ => None,
        }
    }
    /// Whoever votes in this configuration.
    pub fn voters(self) -> Set {
        self.new_half() | self.old_half()
    }
    /// A majority; of a joint configuration, of both halves (Raft §6).
    pub fn is_quorum(self, set: Set) -> bool {
        is_majority(self.new_half(), set) && (!self.is_joint() || is_majority(self.old_half(), set))
    }
}

fn names(set: Set) -> String {
    members(set).map(|i| char::from(b'A' + i as u8)).collect()
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            VALUE => write!(f, "v@{:?}", self.epoch()),
            SIMPLE => write!(f, "{{{}}}@{:?}", names(self.new_half()), self.epoch()),
            _ => write!(f, "{{{}->{}}}@{:?}", names(self.old_half()), names(self.new_half()), self.epoch()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    length: u8,
    entries: [Entry; LOG_MAX],
}

impl Hash for Log {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // Entries are never zero, so their bits say the length too.
        hasher.write_u128(self.entries.iter().fold(0, |bits, entry| bits << 16 | u128::from(entry.0)));
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl Log {
    pub fn length(&self) -> usize {
        usize::from(self.length)
    }
    pub fn entries(&self) -> &[Entry] {
        &self.entries[..self.length()]
    }
    pub fn push(&mut self, entry: Entry) {
        assert!(self.length() < LOG_MAX, "a scenario needs longer logs than {LOG_MAX}");
        self.entries[self.length()] = entry;
        self.length += 1;
    }
    /// The first `length` entries.
    pub fn prefix(mut self, length: usize) -> Self {
        self.entries[length..].fill(Entry::default());
        self.length = self.length.min(length as u8);
        self
    }
    /// What an up-to-date check compares (Raft §5.4.1), with the generation in front (F4).
    pub fn end(&self) -> (Epoch, u8) {
        (self.entries().last().map_or(Epoch::default(), |entry| entry.epoch()), self.length)
    }
    /// How many first entries are the same in both.
    pub fn shared(&self, other: &Self) -> usize {
        self.shared_by(other, |a, b| a == b)
    }
    /// The same for a system that tells entries apart by index and term alone.
    pub fn shared_by_term(&self, other: &Self) -> usize {
        self.shared_by(other, |a, b| a.epoch().term == b.epoch().term)
    }
    fn shared_by(&self, other: &Self, same: impl Fn(Entry, Entry) -> bool) -> usize {
        self.entries().iter().zip(other.entries()).take_while(|&(&a, &b)| same(a, b)).count()
    }
    pub fn is_prefix_of(&self, other: &Self) -> bool {
        self.shared(other) == self.length()
    }
    /// `other` by a receiver that believes the first `kept` entries to be its own already.
    pub fn replaced_after(&self, kept: usize, other: &Self) -> Self {
        let mut log = *other;
        log.entries[..kept].copy_from_slice(&self.entries[..kept]);
        log
    }
    /// The configuration before a joint one.
    pub fn before(&self, joint: usize) -> Option<Entry> {
        self.entries()[..joint]
            .iter()
            .rev()
            .copied()
            .find(|entry| entry.is_configuration() && !entry.is_joint())
    }
    /// The newest configuration entry and how long the log is up to it.
    pub fn configuration(&self) -> Option<(usize, Entry)> {
        let at = self.entries().iter().rposition(|entry| entry.is_configuration())?;
        Some((at + 1, self.entries[at]))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Replica {
    /// Persisted; whoever was voted for is the leader of the term, for votes are atomic here.
    pub epoch: Epoch,
    pub leads: bool,
    /// Will never append, acknowledge, vote or campaign in this generation again (F2).
    pub sealed: bool,
    /// May have lost acknowledged entries (F11).
    pub in_doubt: bool,
    pub down: bool,
    /// Nobody else has led since it appended the newest change of voters as leader: it knows what followed (F1).
    pub sole: bool,
    /// As leader: length of the log it knows committed.
    pub commit: u8,
    pub log: Log,
}

/// What a sealed replica tells the controller, once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Report {
    pub end: (Epoch, u8),
    pub configuration: Option<Entry>,
    pub sound: bool,
    pub term: u8,
    /// It may go on alone, by its own log (F1).
    pub is_heir: bool,
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u16(self.0);
    }
}

/// Appends of a leader of some epoch: its whole log. Any prefix may arrive at any time, any number of times, or never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InFlight {
    pub leader: u8,
    pub log: Log,
}

/// What went wrong, as bits of `State::violations`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    TwoValuesAtOneIndex = 1,
    LeaderLacksAcked = 2,
    TwoLeadersInOneEpoch = 4,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub replicas: [Replica; REPLICAS],
    pub in_flight: [[Option<InFlight>; TERMS]; GENERATIONS],
    /// How long a prefix each replica has acknowledged to the leader of an epoch.
    pub acknowledged: [[[u8; REPLICAS]; TERMS]; GENERATIONS],
    /// Terms of each generation that have had a leader.
    pub led: [u8; GENERATIONS],
    /// The longest log ever committed: what clients were told.
    pub acked: Log,
    pub reports: [Option<Report>; REPLICAS],
    /// Survivor chosen for generation 1; a second one only where that rule is broken.
    pub decisions: [Option<u8>; 2],
    /// First term of generation 1, where the decision names it.
    pub first_term: u8,
    pub values: u8,
    pub changes: [u8; GENERATIONS],
    pub losses: u8,
    pub violations: u8,
}

impl State {
    pub fn note(&mut self, violation: Violation) {
        self.violations |= violation as u8;
    }
    pub fn has(&self, violation: Violation) -> bool {
        self.violations & violation as u8 != 0
    }
    pub fn in_flight_mut(&mut self, epoch: Epoch) -> &mut Option<InFlight> {
        &mut self.in_flight[usize::from(epoch.generation)][usize::from(epoch.term)]
    }
    pub fn acknowledged(&self, epoch: Epoch) -> [u8; REPLICAS] {
        self.acknowledged[usize::from(epoch.generation)][usize::from(epoch.term)]
    }
    pub fn acknowledged_mut(&mut self, epoch: Epoch) -> &mut [u8; REPLICAS] {
        &mut self.acknowledged[usize::from(epoch.generation)][usize::from(epoch.term)]
    }
    /// What clients were told shrinks to what `log` still has of it: a loss that is accepted, recorded and audited.
    pub fn accept_loss(&mut self, log: &Log) {
        self.acked = self.acked.prefix(self.acked.shared(log));
    }
}
