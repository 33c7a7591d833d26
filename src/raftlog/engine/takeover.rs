//! Orders of the controllers about a group's generation, on their way to its core and to storage.
//!
//! Not here: the rules (`core::takeover`), the decision (`raftlog::generation`). Called by the layer above with what it
//! reads in its own copy of the controller log, never with what a message says. Invariants: a seal is reported only when it
//! and everything before it is durable; the hard state of a new generation and its first entry go into one round.

use super::{Engine, GroupEvent};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::{Effect, Event, GenerationEffect, Millis, Order};
use crate::raftlog::generation::Decision;
use crate::segment::{Entry, Generation, GroupId};

impl Engine {
    /// Ends this generation of the group here. Answered by `GroupEvent::Generation` with `Sealed` or `SealRefused`; asking
    /// again is harmless. False: no such group.
    pub fn seal(&mut self, now: Millis, group: GroupId, generation: Generation, plan: u64) -> bool {
        self.step_group(now, group, Event::Generation(Order::Seal { generation, plan }))
    }

    /// A generation of the group was decided. To be told to every replica, after every start too; asking again is harmless.
    /// False: no such group.
    pub fn decide(&mut self, now: Millis, group: GroupId, decision: Decision) -> bool {
        self.step_group(now, group, Event::Generation(Order::Decided(decision)))
    }

    pub(super) fn run_generation(
        &mut self,
        now: Millis,
        slot: usize,
        what: GenerationEffect,
        more: &mut Vec<Effect>,
    ) {
        let group = self.groups[slot].id;
        match what {
            GenerationEffect::TakeOver { hard_state, meta, configuration } => {
                let entry = Entry { meta, payload: configuration.encode() };
                let result = self.store.take_over(group, hard_state, entry.clone());
                if result.is_ok() {
                    tracing::warn!(%group, epoch = %hard_state.epoch, "this replica takes its group over");
                    self.events.push(GroupEvent::Appended { group, entries: vec![entry] });
                }
                self.stored(now, slot, result, more);
            }
            GenerationEffect::SetAside { from } => {
                let first = self.store.meta_at(group, from).map(|meta| (meta.id, meta.base_offset));
                let last = self.store.last(group);
                if let Err(error) = self.store.set_aside(group, from) {
                    tracing::error!(%group, %error, "entries beyond the survivor's log could not be kept aside");
                    self.stored(now, slot, Err(error), more);
                } else if let (Ok((first, begin)), Ok((last, end))) = (first, last) {
                    tracing::warn!(%group, %first, %last, offsets = %begin, before = %end, "entries that the new generation \
                        does not have are set aside");
                    let (entries, offsets) = ((first, last), (begin, end));
                    self.events.push(GroupEvent::SetAside { group, entries, offsets });
                }
            }
            GenerationEffect::Sealed(_) => {
                let round = self.groups[slot].stored_round;
                if round == u64::MAX {
                    return;
                }
                if on(Mutation::ReportSealEarly) {
                    return self.events.push(GroupEvent::Generation { group, what });
                }
                self.held_events.entry(round).or_default().push(GroupEvent::Generation { group, what });
                self.release_events();
            }
            what => self.events.push(GroupEvent::Generation { group, what }),
        }
    }

    /// Events whose round is complete.
    pub(super) fn release_events(&mut self) {
        let waiting = self.held_events.split_off(&(self.completed_round + 1));
        let ready = std::mem::replace(&mut self.held_events, waiting);
        self.events.extend(ready.into_values().flatten());
    }
}
