//! The map of a compaction pass: the last offset of each key, in bounded memory (Kafka's `SkimpyOffsetMap`).
//!
//! A key stands in it as a hash of 16 bytes, salted anew for every pass: two keys of one hash would make one of them look superseded,
//! and nobody can look for such keys without the salt. Memory grows with the keys that are put, up to the limit given.
use std::hash::Hasher;

/// Bytes of one entry: the hash and an offset.
const SLOT_BYTES: usize = 24;
/// Slots of the smallest table.
const SLOTS_MIN: usize = 64;
/// An offset that marks a free slot.
const FREE: i64 = -1;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: [u64; 2],
    offset: i64,
}

/// The map.
#[derive(Debug)]
pub(super) struct Keys {
    slots: Vec<Slot>,
    used: usize,
    /// Bytes that old and new table may take together.
    limit: usize,
    salt: [u64; 2],
}

impl Keys {
    /// An empty map of at most so many bytes (at least 3 KiB).
    pub(super) fn new(limit: usize, salt: [u64; 2]) -> Self {
        Self { slots: vec![FREE_SLOT; SLOTS_MIN], used: 0, limit, salt }
    }

    /// Notes that the key was seen at this offset; offsets of one key only ever rise. False: there is no room for another key.
    pub(super) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let hash = self.hash(key);
        let mut at = self.find(hash);
        if self.slots[at].offset == FREE {
            // Three quarters full at most: a longer search costs more than the memory is worth.
            if (self.used + 1) * 4 > self.slots.len() * 3 {
                if !self.grow() {
                    return false;
                }
                at = self.find(hash);
            }
            self.used += 1;
        }
        let before = self.slots[at].offset;
        self.slots[at] = Slot { hash, offset: before.max(offset) };
        true
    }

    /// Last offset of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<i64> {
        let slot = self.slots[self.find(self.hash(key))];
        (slot.offset != FREE).then_some(slot.offset)
    }

    /// Keys in it.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Bytes it takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * SLOT_BYTES
    }

    fn grow(&mut self) -> bool {
        let count = self.slots.len() * 2;
        if (count + self.slots.len()).saturating_mul(SLOT_BYTES) > self.limit {
            return false;
        }
        let old = std::mem::replace(&mut self.slots, vec![FREE_SLOT; count]);
        for slot in old.into_iter().filter(|slot| slot.offset != FREE) {
            let at = self.find(slot.hash);
            self.slots[at] = slot;
        }
        true
    }

    /// Where the hash stands, or the free slot where it would. There always is one: the table is never full.
    fn find(&self, hash: [u64; 2]) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash[0] as usize & mask;
        while self.slots[at].offset != FREE && self.slots[at].hash != hash {
            at = (at + 1) & mask;
        }
        at
    }

    /// Two keyed 64-bit hashes (SipHash), each with a salt of its own.
    fn hash(&self, key: &[u8]) -> [u64; 2] {
        self.salt.map(|salt| {
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u64(salt);
            hasher.write(key);
            hasher.finish()
        })
    }
}

const FREE_SLOT: Slot = Slot { hash: [0; 2], offset: FREE };

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::HashMap;

    #[test]
    fn last_offset_of_every_key_is_found_and_of_no_other() {
        let mut rng = StdRng::seed_from_u64(51);
        let mut keys = Keys::new(1 << 20, [rng.random(), rng.random()]);
        let mut model = HashMap::new();
        for offset in 0..40_000 {
            let key = rng.random_range(0..5_000u32).to_be_bytes();
            assert!(keys.put(&key, offset));
            model.insert(key, offset);
        }
        for key in 0..10_000u32 {
            assert_eq!(keys.get(&key.to_be_bytes()), model.get(&key.to_be_bytes()).copied());
        }
        assert_eq!(keys.len(), model.len());
    }

    #[test]
    fn memory_stays_within_the_limit_and_a_full_map_still_takes_known_keys() {
        for limit in [0, 10_000, 100_000, 1_000_000] {
            let mut keys = Keys::new(limit, [1, 2]);
            let taken = (0..200_000u64).take_while(|key| keys.put(&key.to_be_bytes(), *key as i64)).count();
            assert!(keys.bytes() <= limit.max(SLOTS_MIN * SLOT_BYTES), "{limit}: {}", keys.bytes());
            // Old and new table stand side by side while it grows: a quarter of the limit is used at least.
            assert!(taken * SLOT_BYTES * 4 >= limit || limit == 0, "{limit}: {taken} keys");
            assert!(!keys.put(b"another", 7));
            assert!(keys.put(&0u64.to_be_bytes(), 900));
            assert_eq!(keys.get(&0u64.to_be_bytes()), Some(900));
            assert_eq!(keys.len(), taken);
        }
    }

    #[test]
    fn salts_put_the_same_key_elsewhere() {
        let hash = |salt| Keys::new(0, salt).hash(b"key");
        assert_ne!(hash([1, 2]), hash([1, 3]));
        assert_ne!(hash([1, 1])[0], hash([2, 1])[0]);
    }
}
