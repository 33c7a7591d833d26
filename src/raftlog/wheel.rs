//! A hashed timing wheel: many keys, one coarse deadline each, no allocation per move.
//! Nothing is taken out: a key whose deadline moved fires all the same. The caller remembers when the one that counts fires, ends the
//! others when they do, and inserts it again if that was early. None fires late by more than one slot. Not a clock: time is an argument.

use super::core::Millis;

const SLOT_MS: u64 = 8;
const SLOTS: usize = 256;

/// Deadlines of keys, kept in slots of a few milliseconds.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<u64>>,
    /// First slot number that has not been fired.
    next: u64,
    len: usize,
}

impl Wheel {
    /// An empty wheel at `now`.
    pub fn new(now: Millis) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], next: now / SLOT_MS, len: 0 }
    }

    /// When a key with this deadline would fire, inserted now: those beyond the wheel's span fire early.
    pub fn fires_at(&self, deadline: Millis) -> Millis {
        deadline.div_ceil(SLOT_MS).clamp(self.next, self.next + SLOTS as u64 - 1) * SLOT_MS
    }

    /// Remembers `key` until `deadline`.
    pub fn insert(&mut self, key: u64, deadline: Millis) {
        let slot = self.fires_at(deadline) / SLOT_MS;
        self.slots[slot as usize % SLOTS].push(key);
        self.len += 1;
    }

    /// How many keys it holds.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.len
    }

    /// Moves every key that is due at `now` into `due`.
    pub fn fire(&mut self, now: Millis, due: &mut Vec<u64>) {
        let current = now / SLOT_MS;
        let last = current.min(self.next + SLOTS as u64 - 1);
        while self.next <= last {
            let slot = &mut self.slots[self.next as usize % SLOTS];
            self.len -= slot.len();
            due.append(slot);
            self.next += 1;
        }
        self.next = self.next.max(current + 1);
    }

    /// When something may be due next.
    pub fn deadline(&self) -> Option<Millis> {
        if self.len == 0 {
            return None;
        }
        (self.next..self.next + SLOTS as u64)
            .find(|slot| !self.slots[*slot as usize % SLOTS].is_empty())
            .map(|slot| slot * SLOT_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fire_once_within_one_slot_of_their_deadline() {
        let mut wheel = Wheel::new(1000);
        for key in 0..200 {
            wheel.insert(key, 1000 + key * 7);
        }
        let (mut seen, mut due) = (Vec::new(), Vec::new());
        for now in 1000..2500 {
            wheel.fire(now, &mut due);
            for key in due.drain(..) {
                let deadline = 1000 + key * 7;
                assert!(now >= deadline && now < deadline + 2 * SLOT_MS, "{key} due {deadline} fired {now}");
                seen.push(key);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert_eq!(wheel.deadline(), None);
    }

    #[test]
    fn a_deadline_beyond_the_span_fires_early_and_a_jump_fires_all() {
        let mut wheel = Wheel::new(0);
        wheel.insert(1, 1_000_000);
        wheel.insert(2, 10);
        let mut due = Vec::new();
        wheel.fire(5_000_000, &mut due);
        due.sort_unstable();
        assert_eq!(due, [1, 2]);
        wheel.insert(3, 0);
        assert!(wheel.deadline().is_some());
    }
}
