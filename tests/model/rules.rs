//! Scenarios (how many replicas, terms, values, changes, losses) and the rules that a run can break, one by one.
//!
//! Not here: what the rules mean for a step (`machine`). Rule names are those of docs/safety.md.

use super::state::{GENERATIONS, Set};

pub const A: Set = 1;
pub const B: Set = 2;
pub const C: Set = 4;
pub const AB: Set = 3;
pub const AC: Set = 5;
pub const BC: Set = 6;
pub const ABC: Set = 7;
pub const ABCD: Set = 15;

/// Bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub replicas: usize,
    pub voters: Set,
    /// Highest term an election may reach, by generation.
    pub terms: [u8; GENERATIONS],
    pub values: u8,
    /// Membership changes that may be begun, by generation, and which (from, to) there are.
    pub changes: [u8; GENERATIONS],
    pub moves: [&'static [(Set, Set)]; GENERATIONS],
    /// The controller seals and decides (F2).
    pub shrink: bool,
    /// Processes stop and come back, and an operator may decide for the last one that answers (F16).
    pub crashes: bool,
    /// Disks that lose a suffix of their log (`flush.mode=async`, F11).
    pub losses: u8,
    /// A disk that loses its suffix loses its term and vote as well.
    pub loses_term: bool,
    /// Voters in doubt may take part where all voters grant (F11).
    pub unanimity: bool,
    pub first_term: FirstTerm,
    /// Nobody is above the group: only the heir of two seals itself, and decides (F1).
    pub heirs: bool,
}

/// Where terms of a new generation begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstTerm {
    /// At 1 again: the least that can work, for generations are compared before terms. F4 asks for more.
    Anew,
    /// Above every sealed replica's (F4).
    AboveSealed,
    /// Above the survivor's own, the others notwithstanding: what F4 (a) warns of.
    AboveOwn,
}

/// A rule not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weakening {
    /// F2 step 2: a report binds nobody.
    ReportWithoutSeal,
    /// F2 step 2: a restart forgets the seal.
    SealForgottenOnRestart,
    /// F2 step 2: the log of a sealed replica is not made durable first.
    SealWithoutFsync,
    /// F2 step 4: the survivor does not check that it ends where the decision says.
    NoCheckAtSurvivor,
    /// F2 step 3: a survivor in doubt will do.
    SurvivorInDoubt,
    /// F2 step 3: any sealed replica will do, not only the one with the best log.
    SurvivorNotBest,
    /// F2 step 3: two decisions for one generation.
    TwoDecisions,
    /// F2 step 4: a decision is carried out again after the group has regrown.
    OldOrderReplayed,
    /// F2, the last rule: the first configuration, as a controller may have it, decides instead of the survivor's log.
    ControllersOwnConfiguration,
    /// F2, the last rule: of a joint configuration only the new half counts.
    JointNewHalfOnly,
    /// F2, the last rule: of a joint configuration only the old half counts.
    JointOldHalfOnly,
    /// Members change in one step, without a joint configuration.
    SingleStepChange,
    /// F3: the old configuration goes on counting in the new generation.
    OldConfigurationKept,
    /// F4: up-to-date checks compare terms without generations.
    UpToDateByTerm,
    /// F4: logs match where terms do, without generations.
    MatchByTerm,
    /// F11: a replica in doubt votes like any other.
    InDoubtVotes,
    /// F11: it leaves doubt with the log of any leader, an old one too.
    ClearedByAnyLeader,
    /// F11: its vote may be lost, and it leaves doubt without a confirmed leader.
    ClearedUnconfirmed,
    /// F11: it is counted for commit all the same.
    InDoubtCounted,
    /// F1: either one of two goes on alone, not their heir only.
    AnyoneOfAPair,
    /// F1: the heir goes on in the middle of a change of which it does not know what followed.
    HeirOfTheOldHalf,
    /// F16: a broker that comes back votes before it has heard of the decision.
    NoBootGate,
}

/// Any number of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken(u32);

impl Broken {
    pub fn of(weakenings: &[Weakening]) -> Self {
        Self(weakenings.iter().fold(0, |bits, &weakening| bits | 1 << weakening as u32))
    }
    pub fn has(self, weakening: Weakening) -> bool {
        self.0 >> weakening as u32 & 1 == 1
    }
}

/// {A,B}; C joins or replaces B; shrink.
pub const PAIR: Scenario = Scenario {
    replicas: 3,
    voters: AB,
    terms: [2, 2],
    values: 2,
    changes: [1, 0],
    moves: [&[(AB, ABC), (AB, AC), (ABC, AB)], &[]],
    shrink: true,
    crashes: false,
    losses: 0,
    loses_term: false,
    unanimity: false,
    first_term: FirstTerm::Anew,
    heirs: false,
};
/// {A,B,C} -> {A,B} -> {A}.
pub const TRIO: Scenario = Scenario { voters: ABC, terms: [2, 1], ..PAIR };
/// Raft alone, with one membership change.
pub const PLAIN: Scenario = Scenario { voters: ABC, terms: [3, 0], shrink: false, ..PAIR };
/// Half of an even group.
pub const FOUR: Scenario = Scenario { replicas: 4, voters: ABCD, values: 1, changes: [0, 0], ..PAIR };
/// {A,B} -> {A} -> {A,B} or {A,B,C}, with old suffixes about.
pub const REGROW: Scenario = Scenario {
    terms: [1, 2],
    changes: [0, 1],
    moves: [&[], &[(A, AB), (A, ABC), (B, AB), (B, ABC)]],
    ..PAIR
};
/// {A,B,C} -> one of them -> {A,B,C}.
pub const REGROW_ALL: Scenario = Scenario {
    voters: ABC,
    terms: [2, 2],
    values: 1,
    moves: [&[], &[(A, ABC), (B, ABC), (C, ABC)]],
    ..REGROW
};
/// An operator re-forms the group around the last replica that answers; the dead come back.
pub const UNCLEAN: Scenario = Scenario { voters: ABC, terms: [2, 4], changes: [0, 0], crashes: true, ..PAIR };
/// The same, and the group grows again.
pub const UNCLEAN_REGROW: Scenario = Scenario { terms: [1, 3], crashes: true, ..REGROW_ALL };
/// Three voters, disks that lose what was not synced.
pub const ASYNC: Scenario =
    Scenario { voters: ABC, terms: [3, 0], changes: [0, 0], losses: 1, shrink: false, ..PAIR };
/// Two voters of the same kind, and the shrink.
pub const ASYNC_PAIR: Scenario =
    Scenario { replicas: 2, terms: [3, 1], changes: [0, 0], losses: 2, unanimity: true, ..PAIR };
/// A pair with a change of members, a shrink and one loss.
pub const ASYNC_CHANGE: Scenario = Scenario { terms: [2, 1], values: 1, losses: 1, ..PAIR };
/// The controllers' own group: {A,B}, C joins or replaces either; the heir goes on alone.
pub const HEIRS: Scenario = Scenario {
    terms: [2, 1],
    values: 1,
    moves: [&[(AB, ABC), (AB, AC), (AB, BC)], &[]],
    heirs: true,
    ..PAIR
};
/// The same from {A,B,C}, with changes in turn.
pub const HEIRS_OF_THREE: Scenario = Scenario {
    voters: ABC,
    changes: [2, 0],
    moves: [&[(ABC, AB), (ABC, BC), (AB, AC), (BC, AB), (AB, ABC)], &[]],
    ..HEIRS
};
