//! The end of a generation and the beginning of the next, as one replica lives it: seal, take-over, and what a replica that
//! is not the survivor makes of the news (safety.md F2 to F4, F6, F24).
//!
//! Not here: who decides and how (`raftlog::generation`, `ctl`). Orders reach a replica from its own copy of the controller
//! log, never by message, any number of times and in any order. Invariants:
//! - a sealed replica never appends, acknowledges, votes or campaigns in that generation again; the only way out is the
//!   next one;
//! - the survivor takes over only if it is exactly what was decided on: this id, sealed, sound, ending at the base, all
//!   of it durable; generation, term, vote for itself and the configuration entry become durable together;
//! - whoever learns of a generation loses the configurations of those before, in the same write;
//! - an order at or below the generation that is persisted changes nothing.

use super::{Core, Effect, Millis, Role};
use crate::mutation::{Mutation, on};
use crate::raftlog::generation::{Decision, SealReport, TERMS_PER_GENERATION};
use crate::raftlog::heir;
use crate::raftlog::message::{Body, Configuration};
use crate::segment::{
    Doubt, EntryKind, EntryMeta, Epoch, Generation, HardState, Index, LogId, LogStart, Offset, Opening,
    ReplicaId,
};

/// What the controllers want of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// End this generation here. Answered by `GenerationEffect::Sealed` once that is durable, or `SealRefused`.
    Seal {
        /// Which generation.
        generation: Generation,
        /// Number of the plan.
        plan: u64,
    },
    /// A generation was decided; every one is told to every replica of the group.
    Decided(Decision),
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GenerationEffect {
    /// Tell the controllers, but not before everything this group emitted earlier is durable.
    Sealed(SealReport),
    /// Tell the controllers: this replica is in another generation.
    SealRefused {
        /// Which.
        generation: Generation,
    },
    /// Persist both together, or neither: the hard state of the new generation and its first entry, of ours, whose payload is
    /// `configuration.encode()`.
    TakeOver {
        /// New hard state.
        hard_state: HardState,
        /// Header of the entry.
        meta: EntryMeta,
        /// What it says.
        configuration: Configuration,
    },
    /// Tell the controllers: the decision named this replica, and it is not what was decided on.
    TakeOverRefused {
        /// The decision's generation.
        generation: Generation,
        /// What does not fit.
        reason: &'static str,
    },
    /// This replica is in a new generation, or without a vote behind an unclean election (safety.md F11). Whatever lies above `commit`
    /// is not known to be committed any more.
    Reopened {
        /// Which.
        generation: Generation,
        /// Commit index: lower than before if the generation is unclean and the log may differ from the survivor's.
        commit: Index,
    },
    /// Keep a copy of the entries from here on before they go: what a replica holds beyond the survivor is never
    /// silently deleted.
    SetAside {
        /// First of them.
        from: Index,
    },
    /// A message came from this higher generation: our copy of the controller log is behind.
    Seen {
        /// Which.
        generation: Generation,
    },
    /// The terms of this generation are used up: only a new one lets this replica campaign.
    TermsUsedUp,
}

impl Core {
    pub(super) fn obey(&mut self, now: Millis, order: Order, out: &mut Vec<Effect>) {
        match order {
            Order::Seal { generation, plan } => self.seal(now, generation, plan, out),
            Order::Decided(decision) => self.on_decision(now, &decision, out),
        }
    }

    pub(super) fn seal(&mut self, now: Millis, generation: Generation, plan: u64, out: &mut Vec<Effect>) {
        let own = self.hard.epoch.generation;
        if generation != own {
            return out.push(Effect::generation(GenerationEffect::SealRefused { generation: own }));
        }
        // An heir's own seal lets it go on by itself; an operator's plan takes its place, and names who does (`offline`).
        let is_heirs = |own: u64| self.has_heirs && heir::is_own(own) && !heir::is_own(plan);
        if self.hard.sealed.is_none_or(is_heirs) {
            self.hard.sealed = Some(plan);
            self.hard_dirty = !on(Mutation::VolatileSeal);
            if !self.poisoned {
                self.become_follower(now, self.hard.epoch, None, out);
            }
        }
        // Storage is one ordered stream: when the seal is durable, so is the whole log. It never grows or shrinks after.
        self.persist(out);
        out.push(Effect::generation(GenerationEffect::Sealed(self.report(plan))));
    }

    /// What a seal of this plan would be answered with. Before there is one it proves nothing, and may change with the next message.
    pub fn report(&self, plan: u64) -> SealReport {
        let (configuration, configuration_id) = self.log.configuration();
        SealReport {
            replica: self.replica,
            generation: self.hard.epoch.generation,
            plan,
            sound: !self.poisoned && self.is_sound(),
            last: self.log.last(),
            highest_term: self.hard.epoch.term,
            configuration: configuration.clone(),
            configuration_id,
            is_committed: configuration_id.index <= self.log.commit(),
            commit: self.log.commit(),
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        !self.held_out && self.hard.doubt == Doubt::None
    }

    fn on_decision(&mut self, now: Millis, decision: &Decision, out: &mut Vec<Effect>) {
        let own = self.hard.epoch.generation;
        let survives = decision.opening.survivor == self.replica;
        if decision.generation == own {
            if self.hard.opening.is_none() {
                // Placed after the generation began: it has yet to know how.
                self.hard.opening = Some(decision.opening);
                self.hard_dirty = true;
            } else if survives && self.lost_its_entry(&decision.opening) {
                let term = self.hard.epoch.term.next();
                self.take_over(now, Epoch { generation: own, term }, decision, out);
            }
        } else if decision.generation > own && survives {
            match self.check_take_over(decision) {
                Ok(()) => {
                    let epoch = Epoch { generation: decision.generation, term: decision.opening.first_term };
                    self.take_over(now, epoch, decision, out);
                }
                Err(reason) => {
                    let generation = decision.generation;
                    out.push(Effect::generation(GenerationEffect::TakeOverRefused { generation, reason }));
                }
            }
        } else if decision.generation > own {
            self.learn(now, decision, out);
        }
    }

    /// The generation is here and its configuration entry is not: a crash came between, and nobody has led in it yet.
    fn lost_its_entry(&self, opening: &Opening) -> bool {
        self.leading.is_none()
            && self.log.configuration().0.voters.is_empty()
            && self.log.last() == opening.base
            && self.hard.vote == Some(self.replica)
            && self.is_sound()
            && self.hard.sealed.is_none()
    }

    fn check_take_over(&self, decision: &Decision) -> Result<(), &'static str> {
        let Opening { base, first_term, .. } = decision.opening;
        let checks = [
            // That of the controllers' group is what its survivor decides itself, or an operator (`offline`): it may skip some.
            (
                decision.generation == self.hard.epoch.generation.next()
                    || (self.has_heirs && decision.generation > self.hard.epoch.generation),
                "it is not in the generation before",
            ),
            (self.hard.sealed.is_some(), "it is not sealed"),
            (self.is_sound(), "it may have lost entries"),
            (self.log.last() == base || on(Mutation::TakeOverAnywhere), "its log ends elsewhere"),
            (self.log.durable() == self.log.last().index, "its log is not durable"),
            (first_term > self.hard.epoch.term, "it has seen a later term"),
        ];
        checks.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(*reason))
    }

    /// The survivor commits its whole log by an entry of the new generation, as its only voter.
    fn take_over(&mut self, now: Millis, epoch: Epoch, decision: &Decision, out: &mut Vec<Effect>) {
        // A former member with the best log comes back with it; no other does.
        let retired = self.log.retired().iter().copied().filter(|r| *r != self.replica).collect();
        let voters = vec![self.replica];
        let mut configuration = Configuration { voters, retired, ..Configuration::default() };
        let joins = |r: &ReplicaId| r.node != self.replica.node && !configuration.is_retired(*r);
        configuration.learners = decision.learners.iter().copied().filter(joins).collect();
        self.enter_generation(epoch, decision.opening);
        // Whatever our log is, it is this generation's from here on.
        self.start_unproven = false;
        self.hard.vote = Some(self.replica);
        let payload = configuration.encode();
        let meta = self.add_own(EntryKind::Configuration, 0, payload.len() as u32);
        self.log.activate(meta.id, configuration.clone());
        // Together with the entry, so not by `persist`.
        self.hard_dirty = false;
        self.saved_in_step = true;
        self.unproven = Some(meta.id.index);
        let hard_state = self.hard;
        out.push(Effect::generation(GenerationEffect::TakeOver { hard_state, meta, configuration }));
        self.reopened(out);
        self.start_leading(now, meta.id.index, false, out);
        self.pump_all(now, out);
    }

    /// Another replica survives: its log decides from now on.
    fn learn(&mut self, now: Millis, decision: &Decision, out: &mut Vec<Effect>) {
        let Opening { base, survivor, first_term, .. } = decision.opening;
        // Of generations between ours and this one, any may have lost something; and so may ours, as long as nobody has
        // shown that our log is part of it.
        // Those of the controllers' group are opened by heirs, and each heir held everything committed before it (F1); but for one that an
        // operator opened, far from all others (`offline`).
        let own = self.hard.epoch.generation;
        let is_apart = decision.generation.0 >= own.0 + heir::APART;
        let by_loss = self.hard.sealed.is_some_and(|plan| !heir::is_own(plan) && plan & heir::WITH_LOSS != 0);
        if self.has_heirs && by_loss && !is_apart {
            // Given to go on with that loss, it follows nobody whom it left behind.
            return;
        }
        let next = decision.generation == own.next() || (self.has_heirs && !is_apart);
        let lossless = decision.opening.lossless && next && !self.start_unproven;
        self.become_follower(now, self.hard.epoch, None, out);
        let opening = Opening { lossless, ..decision.opening };
        self.enter_generation(Epoch { generation: decision.generation, term: first_term }, opening);
        // The survivor alone leads in the first term.
        self.hard.vote = Some(survivor);
        self.persist(out);
        if (lossless || self.has_heirs) && self.log.commit() > base.index {
            let which = if lossless { "lossless" } else { "controllers'" };
            return self.poison(
                format!("the {which} base {base} is below the commit index {}", self.log.commit()),
                out,
            );
        }
        if !lossless {
            self.log.doubt_commit(base);
            self.note_mixed();
        }
        self.doubt_start();
        self.verified = self.log.commit();
        self.role = self.resting_role();
        self.reopened(out);
        self.announce(out);
    }

    fn enter_generation(&mut self, epoch: Epoch, opening: Opening) {
        self.hard = HardState { epoch, vote: None, sealed: None, opening: Some(opening), ..self.hard };
        self.hard_dirty = true;
        if !on(Mutation::KeepOldConfiguration) {
            self.log.void_before(epoch.generation);
        }
        self.removed = None;
        self.sole = false;
        self.verified = self.log.commit();
        self.acked = Index(0);
        self.told = Index(0);
    }

    /// A message of a higher generation: ours has ended, so nobody leads in it any more; worth a look at the controller
    /// log, once.
    pub(super) fn note_generation(&mut self, now: Millis, generation: Generation, out: &mut Vec<Effect>) {
        if !matches!(self.role, Role::Follower | Role::Learner) {
            self.become_follower(now, self.hard.epoch, None, out);
        }
        if generation > self.seen {
            self.seen = generation;
            out.push(Effect::generation(GenerationEffect::Seen { generation }));
        }
    }

    pub(super) fn reopened(&self, out: &mut Vec<Effect>) {
        let (generation, commit) = (self.hard.epoch.generation, self.log.commit());
        out.push(Effect::generation(GenerationEffect::Reopened { generation, commit }));
        self.announce_configuration(out);
    }

    /// Whether another candidacy stays below the terms that an unclean generation would skip (safety.md F4).
    pub fn has_terms_left(&self) -> bool {
        let generation = self.hard.epoch.generation;
        let first = match self.hard.opening {
            Some(opening) => opening.first_term.0,
            None if generation == Generation(0) => 0,
            // Not told yet when this generation began; whoever was is held to it.
            None => return true,
        };
        self.hard.epoch.term.0 < first + TERMS_PER_GENERATION
    }

    /// In an unclean generation a log start is not known to be the survivor's too, nor is what is kept with it (the producers' state
    /// as of a later entry, which cannot be taken back below that): not before a leader has shown that entry to be its own, or one of
    /// this generation is in the log, or the base is.
    pub(super) fn doubt_start(&mut self) {
        let unclean = self.hard.opening.filter(|opening| !opening.lossless);
        let fixed = self.log.fixed();
        self.start_unproven = unclean.is_some_and(|opening| {
            let is_shared = self.log.contains(opening.base) && fixed <= opening.base.index;
            fixed.0 > 0 && self.log.last().epoch.generation < self.hard.epoch.generation && !is_shared
        });
    }

    /// Whether the leader's log goes another way before our log start or what is kept with it reflects. `prev` is an entry of the leader's,
    /// `entries` those that follow it. One that begins below and shows less was made for a log that is not ours: none of ours was
    /// acknowledged, and what we refuse leads it below only where its log differs.
    pub(super) fn contradicts_start(&self, prev: LogId, entries: &[EntryMeta]) -> bool {
        let fixed = self.log.fixed();
        match self.log.id_at(fixed) {
            Some(own) if prev.index <= fixed => prev != own && entries.iter().all(|meta| meta.id != own),
            Some(_) => false,
            // Beyond our end: nobody can show what we do not hold.
            None => true,
        }
    }

    /// The leader's log goes another way before our log start, or before what is kept with it reflects: nothing here can be used.
    pub(super) fn start_over(&mut self, out: &mut Vec<Effect>) {
        self.keep(self.log.start().index.next(), out);
        let base = (LogId::default(), Configuration::default());
        self.log.install(LogId::default(), Offset(0), base);
        self.begin_afresh();
        self.start_unproven = false;
        self.verified = Index(0);
        self.acked = Index(0);
        self.told = Index(0);
        self.persist(out);
        out.push(Effect::Install { start: LogStart::default() });
        self.announce_configuration(out);
        self.role = self.resting_role();
    }

    /// Entries from here on are about to be cut: those of an earlier generation are kept aside.
    pub(super) fn set_aside(&self, from: Index, out: &mut Vec<Effect>) {
        let old = |epoch: Epoch| epoch.generation < self.hard.epoch.generation;
        if self.log.epoch_at(from).is_some_and(old) {
            self.keep(from, out);
        }
    }

    /// Entries from here on, if there are any, are about to be cut and kept aside.
    pub(super) fn keep(&self, from: Index, out: &mut Vec<Effect>) {
        if from <= self.log.last().index {
            out.push(Effect::generation(GenerationEffect::SetAside { from }));
        }
    }
}

/// Answers are never answered, or two sealed replicas would talk for ever.
pub(super) fn is_answer(body: &Body) -> bool {
    !matches!(
        body,
        Body::PreVote { .. }
            | Body::Vote { .. }
            | Body::Append { .. }
            | Body::Beat { .. }
            | Body::InstallLogStart { .. }
            | Body::TimeoutNow
    )
}
