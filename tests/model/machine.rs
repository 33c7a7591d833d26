//! What may happen in the model's world, and what it does: one Raft group, its generations, the controller's shrink.
//!
//! Votes are atomic over a quorum (a late grant commutes). An append is any prefix of a leader's log, delivered at any
//! later time, any number of times or never; an acknowledgement counts later or never. A crash loses role and commit
//! index; a disk may lose any suffix. The controller is atomic (it is a consensus group), what it has heard may be old.
//! Not modelled: snapshots, compaction, the layout of disks, reads.

use super::rules::{Broken, FirstTerm, Scenario, Weakening};
use super::state::{
    Entry, Epoch, GENERATIONS, InFlight, Log, REPLICAS, Replica, Report, Set, State, TERMS, Violation,
    contains, is_majority, members,
};
use stateright::Property;

#[derive(Clone, Debug)]
pub struct Machine {
    pub scenario: Scenario,
    pub broken: Broken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The first wins the votes of the second in a new term.
    Elect(usize, Set),
    /// A prefix of this length of the appends of an epoch arrives at a replica.
    Deliver(Epoch, usize, usize),
    /// A leader counts acknowledgements.
    Commit(usize),
    /// A client writes.
    Write(usize),
    /// A leader begins a change to these voters.
    Change(usize, Set),
    /// A leader ends a joint configuration.
    Finish(usize),
    /// A leader restarts, or hears of a higher term.
    Resign(usize),
    /// A disk keeps only this many entries.
    Lose(usize, usize),
    /// A replica leaves doubt (F11).
    Clear(usize),
    /// A replica seals itself and reports (F2 step 2).
    Seal(usize),
    /// The controller, by the reports of the set, chooses the survivor (F2 step 3).
    Decide(Set, usize),
    /// An operator chooses the only one that answers.
    DecideUnclean(usize),
    /// The survivor carries out this decision (F2 step 4).
    TakeOver(usize, usize),
    /// A replica learns of the new generation (F3).
    Learn(usize),
    /// The survivor carries out its decision a second time.
    TakeOverAgain(usize),
    Crash(usize),
    Restart(usize),
}

impl Machine {
    fn breaks(&self, weakening: Weakening) -> bool {
        self.broken.has(weakening)
    }

    fn all(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.scenario.replicas
    }

    /// The set of those replicas that satisfy `is`.
    fn those(&self, is: impl Fn(usize) -> bool) -> Set {
        self.all().filter(|&i| is(i)).fold(0, |set, i| set | 1 << i)
    }

    /// `set` meets every majority of the configuration; of a joint one, every majority of both halves (F2).
    fn blocks(&self, configuration: Entry, set: Set) -> bool {
        let met = |half: Set| !is_majority(half, !set);
        let (new, old) = (met(configuration.new_half()), met(configuration.old_half()));
        match configuration.is_joint() {
            true if self.breaks(Weakening::JointNewHalfOnly) => new,
            true if self.breaks(Weakening::JointOldHalfOnly) => old,
            true => new && old,
            false => new,
        }
    }

    /// The configuration a replica acts by: the newest in its log, if it is of the replica's own generation (F3).
    fn in_force(&self, replica: &Replica) -> Option<(usize, Entry)> {
        replica.log.configuration().filter(|(_, entry)| {
            entry.epoch().generation == replica.epoch.generation
                || self.breaks(Weakening::OldConfigurationKept)
        })
    }

    /// Whether a replica may go on alone: it is heir of every half of the newest configuration in its log, or of the old half of one that
    /// it appended itself, as leader, and let nobody lead since (F1).
    fn is_heir(&self, replica: &Replica, i: usize) -> bool {
        let log = &replica.log;
        let heir = |configuration: Entry| {
            let anyone = configuration.new_half().count_ones() == 2 && contains(configuration.new_half(), i);
            configuration.heir() == Some(i) || (anyone && self.breaks(Weakening::AnyoneOfAPair))
        };
        let Some((length, newest)) = log.configuration() else { return false };
        let old = !newest.is_joint() || log.before(length - 1).is_some_and(heir);
        let unfinished = newest.is_joint() && (replica.sole || self.breaks(Weakening::HeirOfTheOldHalf));
        (heir(newest) || unfinished) && (old || self.breaks(Weakening::JointNewHalfOnly))
    }

    /// A configuration entry that leads from one to other voters, with its heir.
    fn named(&self, entry: Entry, before: Entry, leader: usize) -> Entry {
        let new = entry.new_half();
        if !self.scenario.heirs || new.count_ones() != 2 {
            return entry;
        }
        let stays = before.heir().filter(|heir| before.new_half().count_ones() == 2 && contains(new, *heir));
        let leader = Some(leader).filter(|leader| contains(new, *leader));
        entry.naming(stays.or(leader).or(members(new).next()).expect("two"))
    }

    fn shared(&self, a: &Log, b: &Log) -> usize {
        if self.breaks(Weakening::MatchByTerm) { a.shared_by_term(b) } else { a.shared(b) }
    }

    fn is_up_to_date(&self, candidate: &Log, voter: &Log) -> bool {
        let (mut a, mut b) = (candidate.end(), voter.end());
        if self.breaks(Weakening::UpToDateByTerm) {
            (a.0.generation, b.0.generation) = (0, 0);
        }
        a >= b
    }

    fn grants(&self, state: &State, voter: usize, candidate: usize, unanimous: bool) -> bool {
        let (v, c) = (&state.replicas[voter], &state.replicas[candidate]);
        let sealed = v.sealed && v.epoch.generation == c.epoch.generation;
        let trusted =
            !v.in_doubt || self.breaks(Weakening::InDoubtVotes) || (self.scenario.unanimity && unanimous);
        !v.down
            && !sealed
            && trusted
            && v.epoch.generation <= c.epoch.generation
            && self.is_up_to_date(&c.log, &v.log)
    }

    /// The term an election among `set` for a leader of `generation` takes.
    fn next_term(state: &State, generation: u8, set: Set) -> u8 {
        let same = members(set).map(|i| state.replicas[i].epoch).filter(|e| e.generation == generation);
        same.map(|e| e.term).max().unwrap_or(0) + 1
    }

    fn elections(&self, state: &State, i: usize, steps: &mut Vec<Step>) {
        let replica = &state.replicas[i];
        let Some((_, configuration)) = self.in_force(replica) else { return };
        let voters = configuration.voters();
        if replica.leads || replica.sealed || !contains(voters, i) {
            return;
        }
        let generation = replica.epoch.generation;
        for set in (1..1 << REPLICAS).filter(|&set| set & !voters == 0 && contains(set, i)) {
            if configuration.is_quorum(set)
                && members(set).all(|voter| self.grants(state, voter, i, set == voters))
                && Self::next_term(state, generation, set) <= self.scenario.terms[usize::from(generation)]
            {
                steps.push(Step::Elect(i, set));
            }
        }
    }

    fn deliveries(&self, state: &State, i: usize, steps: &mut Vec<Step>) {
        let replica = &state.replicas[i];
        for (epoch, sent) in in_flight(state) {
            let sealed = replica.sealed && epoch.generation == replica.epoch.generation;
            if usize::from(sent.leader) == i || epoch < replica.epoch || sealed {
                continue;
            }
            let shared = self.shared(&replica.log, &sent.log);
            for length in shared..=sent.log.length() {
                let counted = usize::from(state.acknowledged(epoch)[i]) >= length || replica.in_doubt;
                if length > shared || epoch != replica.epoch || !counted {
                    steps.push(Step::Deliver(epoch, i, length));
                }
            }
        }
    }

    fn leaders_steps(&self, state: &State, i: usize, steps: &mut Vec<Step>) {
        let replica = &state.replicas[i];
        steps.push(Step::Commit(i));
        if state.values < self.scenario.values {
            steps.push(Step::Write(i));
        }
        steps.push(Step::Resign(i));
        let Some((at, configuration)) = self.in_force(replica) else { return };
        // One change at a time, and only after an entry of the own term has committed (R28).
        if usize::from(replica.commit) < at {
            return;
        }
        let generation = usize::from(replica.epoch.generation);
        let committed = replica.log.entries()[..usize::from(replica.commit)].last();
        let own = committed.is_some_and(|entry| entry.epoch() == replica.epoch);
        if configuration.is_joint() {
            steps.push(Step::Finish(i));
        } else if own && state.changes[generation] < self.scenario.changes[generation] {
            let from = configuration.new_half();
            let moves = self.scenario.moves[generation].iter().filter(|(old, _)| *old == from);
            steps.extend(moves.map(|&(_, new)| Step::Change(i, new)));
        }
    }

    fn generation_steps(&self, state: &State, i: usize, steps: &mut Vec<Step>) {
        let replica = &state.replicas[i];
        let old = replica.epoch.generation == 0;
        let unsealed = !replica.sealed || self.breaks(Weakening::ReportWithoutSeal);
        let may_seal = match self.scenario.heirs {
            true => !replica.in_doubt && self.is_heir(replica, i),
            false => state.decisions[0].is_none(),
        };
        if may_seal && old && unsealed {
            steps.push(Step::Seal(i));
        }
        for (order, decided) in state.decisions.iter().enumerate() {
            if *decided == Some(i as u8) && old {
                steps.push(Step::TakeOver(i, order));
            }
        }
        if old && state.decisions[0].is_some() && !state.decisions.contains(&Some(i as u8)) {
            steps.push(Step::Learn(i));
        }
        if self.breaks(Weakening::OldOrderReplayed)
            && state.decisions[0] == Some(i as u8)
            && !old
            && replica.epoch.term < self.scenario.terms[1]
        {
            steps.push(Step::TakeOverAgain(i));
        }
    }

    fn decisions(&self, state: &State, steps: &mut Vec<Step>) {
        if self.scenario.heirs {
            let decides = |i: &usize| {
                let report = state.reports[*i];
                report.is_some_and(|r| r.is_heir && r.sound) && !state.decisions.contains(&Some(*i as u8))
            };
            if state.decisions.contains(&None) {
                steps.extend(self.all().filter(decides).map(|i| Step::Decide(1 << i, i)));
            }
            return;
        }
        let open = state.decisions[0].is_none()
            || (state.decisions[1].is_none() && self.breaks(Weakening::TwoDecisions));
        if !open {
            return;
        }
        for set in 1..1 << self.scenario.replicas {
            let Some(reports) =
                members(set).map(|i| state.reports[i].map(|r| (i, r))).collect::<Option<Vec<_>>>()
            else {
                continue;
            };
            let sound = |report: &Report| report.sound || self.breaks(Weakening::SurvivorInDoubt);
            let sound: Vec<_> = reports.into_iter().filter(|(_, report)| sound(report)).collect();
            let sound_set = sound.iter().fold(0, |all, (i, _)| all | 1 << i);
            let best = sound.iter().max_by_key(|(i, report)| (report.end, REPLICAS - i)).map(|&(i, _)| i);
            for (survivor, report) in sound {
                if Some(survivor) != best && !self.breaks(Weakening::SurvivorNotBest) {
                    continue;
                }
                let configuration = if self.breaks(Weakening::ControllersOwnConfiguration) {
                    Some(Entry::simple(Epoch::default(), self.scenario.voters))
                } else {
                    report.configuration
                };
                if configuration.is_some_and(|c| self.blocks(c, sound_set))
                    && state.decisions[0] != Some(survivor as u8)
                {
                    steps.push(Step::Decide(set, survivor));
                }
            }
        }
        if self.scenario.crashes && state.decisions[0].is_none() {
            let alone = |i: usize| self.all().all(|j| state.replicas[j].down != (j == i));
            steps.extend(
                self.all().filter(|&i| state.reports[i].is_some() && alone(i)).map(Step::DecideUnclean),
            );
        }
    }

    fn elect(&self, state: &mut State, i: usize, set: Set) {
        let generation = state.replicas[i].epoch.generation;
        let epoch = Epoch { generation, term: Self::next_term(state, generation, set) };
        let sound = members(set).filter(|&j| !state.replicas[j].in_doubt).fold(0, |all, j| all | 1 << j);
        for j in members(set) {
            let voter = &mut state.replicas[j];
            voter.sealed &= voter.epoch.generation == generation;
            voter.sole &= j == i;
            (voter.epoch, voter.leads, voter.commit) = (epoch, false, 0);
        }
        if self.scenario.unanimity {
            // F11: lossless while the sound voters meet every majority, else recorded as a loss.
            let log = state.replicas[i].log;
            let configuration = self.in_force(&state.replicas[i]).expect("a candidate has one").1;
            if !self.blocks(configuration, sound) {
                state.accept_loss(&log);
            }
            for j in members(set).filter(|&j| state.replicas[j].log == log).collect::<Vec<_>>() {
                state.replicas[j].in_doubt = false;
            }
        }
        self.lead(state, i, epoch);
    }

    fn lead(&self, state: &mut State, i: usize, epoch: Epoch) {
        let led = &mut state.led[usize::from(epoch.generation)];
        if *led >> epoch.term & 1 == 1 {
            state.violations |= Violation::TwoLeadersInOneEpoch as u8;
        }
        *led |= 1 << epoch.term;
        let replica = &mut state.replicas[i];
        replica.sealed &= replica.epoch.generation == epoch.generation;
        (replica.epoch, replica.leads, replica.commit) = (epoch, true, 0);
        let log = replica.log;
        *state.in_flight_mut(epoch) = Some(InFlight { leader: i as u8, log });
        *state.acknowledged_mut(epoch) = [0; REPLICAS];
        if !state.acked.is_prefix_of(&log) {
            state.note(Violation::LeaderLacksAcked);
        }
    }

    fn append(state: &mut State, i: usize, entry: Entry) {
        let replica = &mut state.replicas[i];
        replica.log.push(entry);
        let (epoch, log) = (replica.epoch, replica.log);
        *state.in_flight_mut(epoch) = Some(InFlight { leader: i as u8, log });
    }

    fn deliver(&self, state: &mut State, epoch: Epoch, i: usize, length: usize) {
        let sent = state.in_flight_mut(epoch).expect("offered because it is in flight").log.prefix(length);
        let replica = &mut state.replicas[i];
        replica.sealed &= replica.epoch.generation == epoch.generation;
        if replica.epoch != epoch {
            (replica.epoch, replica.leads, replica.commit, replica.sole) = (epoch, false, 0, false);
        }
        // Entries are cut only at a real conflict: a shorter append leaves the rest alone (Raft §5.3).
        let shared = self.shared(&replica.log, &sent);
        if shared < length {
            replica.log = replica.log.replaced_after(shared, &sent);
        }
        if !replica.in_doubt || self.breaks(Weakening::InDoubtCounted) {
            let counted = &mut state.acknowledged_mut(epoch)[i];
            *counted = (*counted).max(length as u8);
        }
    }

    fn commit(&self, state: &mut State, i: usize) {
        let replica = state.replicas[i];
        let Some((_, configuration)) = self.in_force(&replica) else { return };
        let acknowledged = state.acknowledged(replica.epoch);
        let held = |length: usize| {
            configuration.is_quorum(self.those(|j| j == i || usize::from(acknowledged[j]) >= length))
        };
        // Only entries of the own epoch by counting (Raft §5.4.2).
        let own = |length: &usize| replica.log.entries()[length - 1].epoch() == replica.epoch;
        let beyond = usize::from(replica.commit) + 1..=replica.log.length();
        let Some(length) = beyond.filter(own).rfind(|&length| held(length)) else { return };
        let committed = replica.log.prefix(length);
        if committed.shared(&state.acked) < committed.length().min(state.acked.length()) {
            state.note(Violation::TwoValuesAtOneIndex);
        }
        if committed.length() > state.acked.length() {
            state.acked = committed;
        }
        let replica = &mut state.replicas[i];
        replica.commit = length as u8;
        let (at, configuration) = replica.log.configuration().expect("it commits by one");
        if at <= length && !configuration.is_joint() && !contains(configuration.new_half(), i) {
            // A leader that its own change has removed leaves once that change is committed.
            (replica.leads, replica.commit) = (false, 0);
        }
    }

    /// F11: holds all that a leader of its own epoch has and, where its vote may be lost, that leader was confirmed since
    /// by a quorum not in doubt.
    fn may_clear(&self, state: &State, i: usize) -> bool {
        let replica = &state.replicas[i];
        self.all().filter(|&l| l != i).any(|l| {
            let leader = &state.replicas[l];
            let same = leader.epoch == replica.epoch || self.breaks(Weakening::ClearedByAnyLeader);
            let confirmed = || {
                let answers = self.those(|j| {
                    let peer = &state.replicas[j];
                    !peer.in_doubt && !peer.down && peer.epoch == leader.epoch
                });
                self.in_force(leader).is_some_and(|(_, configuration)| configuration.is_quorum(answers))
            };
            leader.leads
                && !leader.down
                && same
                && leader.log.is_prefix_of(&replica.log)
                && (!self.scenario.loses_term || self.breaks(Weakening::ClearedUnconfirmed) || confirmed())
        })
    }

    fn seal(&self, state: &mut State, i: usize) {
        let is_heir = self.scenario.heirs && self.is_heir(&state.replicas[i], i);
        let replica = &mut state.replicas[i];
        if !self.breaks(Weakening::ReportWithoutSeal) {
            (replica.sealed, replica.leads, replica.commit) = (true, false, 0);
        }
        state.reports[i] = Some(Report {
            end: replica.log.end(),
            configuration: replica.log.configuration().map(|(_, entry)| entry),
            sound: !replica.in_doubt,
            is_heir,
            // Part of the state only where it matters.
            term: if self.scenario.first_term == FirstTerm::AboveSealed { replica.epoch.term } else { 0 },
        });
    }

    fn decide(&self, state: &mut State, sealed: Set, survivor: usize) {
        if self.scenario.first_term == FirstTerm::AboveSealed {
            let terms = members(sealed).filter_map(|i| state.reports[i]).map(|report| report.term);
            state.first_term = terms.max().unwrap_or(0) + 1;
        }
        let order = usize::from(state.decisions[0].is_some());
        state.decisions[order] = Some(survivor as u8);
    }

    /// F2 step 4: the survivor checks that it is what it reported, then takes over in one durable step.
    fn take_over(&self, state: &mut State, i: usize, order: usize) {
        let replica = state.replicas[i];
        let Some(report) = state.reports[i] else { return };
        let as_reported = replica.sealed
            && replica.log.end() == report.end
            && (!replica.in_doubt || self.breaks(Weakening::SurvivorInDoubt));
        let unchecked =
            self.breaks(Weakening::NoCheckAtSurvivor) || self.breaks(Weakening::ReportWithoutSeal);
        if !as_reported && !unchecked {
            return;
        }
        let term = match self.scenario.first_term {
            FirstTerm::Anew => 1 + order as u8,
            FirstTerm::AboveSealed => state.first_term,
            FirstTerm::AboveOwn => replica.epoch.term + 1,
        };
        let epoch = Epoch { generation: 1, term };
        state.replicas[i].log.push(Entry::simple(epoch, 1 << i));
        state.replicas[i].in_doubt = false;
        self.lead(state, i, epoch);
    }

    /// Forgets what can have no effect any more, so that equal situations are equal states.
    fn forget(&self, state: &mut State) {
        for generation in 0..GENERATIONS {
            for term in 0..TERMS {
                let Some(sent) = state.in_flight[generation][term] else { continue };
                let epoch = Epoch { generation: generation as u8, term: term as u8 };
                let leader = &state.replicas[usize::from(sent.leader)];
                if !leader.leads || leader.epoch != epoch {
                    state.acknowledged[generation][term] = [0; REPLICAS];
                }
                let deaf = |j: usize| j == usize::from(sent.leader) || state.replicas[j].epoch > epoch;
                if self.all().all(deaf) {
                    state.in_flight[generation][term] = None;
                }
            }
        }
    }
}

fn in_flight(state: &State) -> impl Iterator<Item = (Epoch, InFlight)> + '_ {
    (0..GENERATIONS).flat_map(move |generation| {
        (0..TERMS).filter_map(move |term| {
            let epoch = Epoch { generation: generation as u8, term: term as u8 };
            state.in_flight[generation][term].map(|sent| (epoch, sent))
        })
    })
}

impl stateright::Model for Machine {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut log = Log::default();
        log.push(Entry::simple(Epoch::default(), self.scenario.voters));
        let replica = |i: usize| Replica {
            down: i >= self.scenario.replicas,
            log: if contains(self.scenario.voters, i) { log } else { Log::default() },
            ..Replica::default()
        };
        vec![State {
            replicas: std::array::from_fn(replica),
            in_flight: [[None; TERMS]; GENERATIONS],
            acknowledged: [[[0; REPLICAS]; TERMS]; GENERATIONS],
            led: [0; GENERATIONS],
            acked: log,
            reports: [None; REPLICAS],
            decisions: [None; 2],
            first_term: 0,
            values: 0,
            changes: [0; GENERATIONS],
            losses: 0,
            violations: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.violations != 0 {
            return;
        }
        for i in self.all() {
            let replica = &state.replicas[i];
            if replica.down {
                steps.push(Step::Restart(i));
                continue;
            }
            if self.scenario.crashes && state.decisions[0].is_none() {
                steps.push(Step::Crash(i));
            }
            self.elections(state, i, steps);
            self.deliveries(state, i, steps);
            if replica.leads {
                self.leaders_steps(state, i, steps);
            } else if replica.sealed && self.breaks(Weakening::SealForgottenOnRestart) {
                steps.push(Step::Resign(i));
            }
            // A sealed log is durable (F2); so is everything the next generation writes in these scenarios.
            let durable = replica.sealed && !self.breaks(Weakening::SealWithoutFsync);
            if state.losses < self.scenario.losses && !durable && replica.epoch.generation == 0 {
                steps.extend((1..replica.log.length()).map(|kept| Step::Lose(i, kept)));
            }
            if replica.in_doubt {
                steps.push(Step::Clear(i));
            }
            if self.scenario.shrink {
                self.generation_steps(state, i, steps);
            }
        }
        if self.scenario.shrink {
            self.decisions(state, steps);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = *before;
        let s = &mut state;
        match step {
            Step::Elect(i, set) => self.elect(s, i, set),
            Step::Deliver(epoch, i, length) => self.deliver(s, epoch, i, length),
            Step::Commit(i) => self.commit(s, i),
            Step::Write(i) => {
                s.values += 1;
                Self::append(s, i, Entry::value(s.replicas[i].epoch));
            }
            Step::Change(i, new) => {
                let Replica { epoch, log, .. } = s.replicas[i];
                s.changes[usize::from(epoch.generation)] += 1;
                let before = log.configuration().map_or(Entry::default(), |(_, entry)| entry);
                let single = self.breaks(Weakening::SingleStepChange);
                let joint = Entry::joint(epoch, before.new_half(), new);
                let entry = if single { Entry::simple(epoch, new) } else { joint };
                Self::append(s, i, self.named(entry, before, i));
                s.replicas[i].sole = self.scenario.heirs;
            }
            Step::Finish(i) => {
                let Replica { epoch, log, .. } = s.replicas[i];
                let joint = log.configuration().map_or(Entry::default(), |(_, entry)| entry);
                let entry = Entry::simple(epoch, joint.new_half());
                let heir = joint.heir().filter(|_| self.scenario.heirs);
                Self::append(s, i, heir.map_or(entry, |heir| entry.naming(heir)));
                s.replicas[i].sole = false;
            }
            Step::Resign(i) => {
                let replica = &mut s.replicas[i];
                (replica.leads, replica.commit) = (false, 0);
                replica.sealed &= !self.breaks(Weakening::SealForgottenOnRestart);
            }
            Step::Lose(i, kept) => {
                s.losses += 1;
                let replica = &mut s.replicas[i];
                replica.log = replica.log.prefix(kept);
                (replica.in_doubt, replica.leads, replica.commit, replica.sole) = (true, false, 0, false);
                if self.scenario.loses_term {
                    replica.epoch.term = 0;
                }
            }
            Step::Clear(i) if self.may_clear(s, i) => {
                let Replica { epoch, log, .. } = s.replicas[i];
                s.replicas[i].in_doubt = false;
                if s.in_flight_mut(epoch).is_some() {
                    s.acknowledged_mut(epoch)[i] = log.length() as u8;
                }
            }
            Step::Clear(_) => {}
            Step::Seal(i) => self.seal(s, i),
            Step::Decide(sealed, survivor) => self.decide(s, sealed, survivor),
            Step::DecideUnclean(survivor) => {
                self.decide(s, 1 << survivor, survivor);
                s.accept_loss(&before.replicas[survivor].log);
            }
            Step::TakeOver(i, order) => self.take_over(s, i, order),
            Step::Learn(i) => {
                let replica = &mut s.replicas[i];
                replica.epoch = Epoch { generation: 1, term: 0 };
                (replica.sealed, replica.leads, replica.commit) = (false, false, 0);
            }
            Step::TakeOverAgain(i) => {
                let epoch = Epoch { generation: 1, term: s.replicas[i].epoch.term + 1 };
                s.replicas[i].log.push(Entry::simple(epoch, 1 << i));
                self.lead(s, i, epoch);
            }
            Step::Crash(i) => {
                let replica = &mut s.replicas[i];
                (replica.down, replica.leads, replica.commit) = (true, false, 0);
            }
            Step::Restart(i) => {
                let replica = &mut s.replicas[i];
                replica.down = false;
                let decided = s.decisions[0].is_some_and(|survivor| survivor != i as u8);
                // F16: it hears of the decision before it may vote.
                if decided && replica.epoch.generation == 0 && !self.breaks(Weakening::NoBootGate) {
                    replica.epoch = Epoch { generation: 1, term: 0 };
                    replica.sealed = false;
                }
            }
        }
        self.forget(s);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("one value at one committed index", |_, state: &State| {
                !state.has(Violation::TwoValuesAtOneIndex)
            }),
            Property::always("a new leader holds everything acked", |_, state: &State| {
                !state.has(Violation::LeaderLacksAcked)
            }),
            Property::always("one leader in an epoch", |_, state: &State| {
                !state.has(Violation::TwoLeadersInOneEpoch)
            }),
        ];
        let s = &self.scenario;
        if s.values > 0 {
            properties.push(Property::sometimes("a value is committed", |_, state: &State| {
                state.acked.entries().iter().any(|entry| entry.is_value())
            }));
        }
        if s.shrink {
            properties.push(Property::sometimes("generation 1 commits", |_, state: &State| {
                state.acked.entries().iter().any(|entry| entry.epoch().generation == 1)
            }));
        }
        if s.shrink && s.values > 0 {
            properties.push(Property::sometimes("it commits over an acked value", |_, state: &State| {
                let acked = state.acked.entries();
                acked.iter().any(|entry| entry.is_value() && entry.epoch().generation == 0)
                    && acked.iter().any(|entry| entry.epoch().generation == 1)
            }));
        }
        if s.heirs {
            properties.push(Property::sometimes(
                "an heir went on in the middle of growing",
                |_, state: &State| {
                    let acked = state.acked.entries();
                    let old = acked.iter().rev().find(|e| e.is_configuration() && e.epoch().generation == 0);
                    let grows = old.is_some_and(|e| e.is_joint() && e.new_half().count_ones() == 3);
                    grows && acked.iter().any(|entry| entry.epoch().generation == 1)
                },
            ));
        }
        if s.changes[0] > 0 {
            properties.push(Property::sometimes("members changed", |_, state: &State| {
                let changed = |entry: &Entry| entry.epoch().generation == 0 && entry.epoch().term > 0;
                state.acked.entries().iter().any(|e| changed(e) && e.is_configuration() && !e.is_joint())
            }));
        }
        if s.changes[1] > 0 {
            properties.push(Property::sometimes("the group regrew", |_, state: &State| {
                let grown = |e: &Entry| e.is_configuration() && !e.is_joint() && e.voters().count_ones() > 1;
                state.acked.entries().iter().any(|e| e.epoch().generation == 1 && grown(e))
            }));
        }
        properties
    }
}
