//! How fast replicas that are far behind are brought up: bytes a second, for all groups of a node together, so that a
//! broker that comes back does not take the disk and the network from those that serve (Kafka's
//! `leader.replication.throttled.rate`).
//!
//! Not here: windows of one follower (`core::progress`). Called where entries are read for a peer. Invariant: only
//! entries that are committed already are held back, and only from replicas that are not caught up: nobody's write ever
//! waits for this limit. What is held back is asked for again with the second beat after.

use crate::raftlog::core::Millis;

/// A request that was held back comes again within this time, so this much may be saved up.
const SAVED_MS: u64 = 200;

/// Bytes that may go to replicas far behind.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Bytes a second; 0: no limit.
    rate: u64,
    /// What is left; below zero after an entry larger than that.
    left: i64,
    at: Millis,
}

impl Recovery {
    pub fn set_rate(&mut self, bytes_per_second: u64) {
        self.rate = bytes_per_second;
    }

    pub fn is_limited(&self) -> bool {
        self.rate > 0
    }

    /// How much may go now.
    pub fn allowed(&mut self, now: Millis) -> usize {
        let passed = now.saturating_sub(self.at).min(SAVED_MS);
        let saved = self.rate.saturating_mul(SAVED_MS) / 1_000;
        let gained = self.rate.saturating_mul(passed) / 1_000;
        if gained > 0 {
            self.at = now;
            self.left =
                self.left.saturating_add_unsigned(gained).min(i64::try_from(saved).unwrap_or(i64::MAX));
        }
        usize::try_from(self.left).unwrap_or(0)
    }

    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub_unsigned(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_ten_seconds_stay_within_the_rate_and_its_savings() {
        let mut recovery = Recovery::default();
        recovery.set_rate(1_000_000);
        let mut sent = 0;
        for now in 1..=10_000 {
            let allowed = recovery.allowed(now);
            // One entry is larger than everything saved up: it goes, and is paid for.
            let bytes = if now == 5_000 { 600_000 } else { allowed };
            if allowed > 0 {
                recovery.spend(bytes);
                sent += bytes;
            }
        }
        assert!((9_900_000..=10_200_000 + 600_000).contains(&sent), "{sent}");
        assert_eq!(recovery.allowed(60_000), 200_000, "no more is saved up than comes again at once");
    }

    #[test]
    fn small_rates_are_not_rounded_away() {
        let mut recovery = Recovery::default();
        recovery.set_rate(10);
        let sent: usize = (1..=60_000)
            .map(|now| {
                let allowed = recovery.allowed(now);
                recovery.spend(allowed);
                allowed
            })
            .sum();
        assert!((500..=610).contains(&sent), "{sent}");
    }
}
