//! The schedule of an open loop: when the n-th item should leave, and sleeping until then.
//!
//! tokio's timers tick in milliseconds, which is longer than some of the latencies measured, so waiting is done on
//! a blocking thread.

use std::time::{Duration, Instant};

/// Items closer together than this leave in groups: a sleep for each would cost more than the item. What that
/// delays them counts as their latency.
const GROUP: Duration = Duration::from_micros(100);

/// Items leave `interval` apart, from `begin` on.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    begin: Instant,
    per_second: f64,
}

impl Schedule {
    /// A schedule of so many items per second.
    pub fn new(begin: Instant, per_second: f64) -> Self {
        Self { begin, per_second }
    }

    /// When item `n` (from 0) should leave. Computed from the start, so that rounding does not add up.
    pub fn at(&self, n: u64) -> Instant {
        self.begin + Duration::from_secs_f64(n as f64 / self.per_second)
    }
}

impl Schedule {
    /// Waits until item `n` should leave; at once if that is past.
    pub async fn wait(&self, n: u64) {
        let at = self.at(n);
        if Instant::now() < at {
            let apart = Duration::from_secs_f64(1.0 / self.per_second);
            wait_until(if apart < GROUP { at + GROUP } else { at }).await;
        }
    }
}

async fn wait_until(at: Instant) {
    let left = at.saturating_duration_since(Instant::now());
    if left > Duration::from_millis(20) {
        tokio::time::sleep(left - Duration::from_millis(5)).await;
    }
    let left = at.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        // Fails only while the runtime shuts down, when nobody cares.
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_many_items_do_not_drift() {
        let begin = Instant::now();
        let schedule = Schedule::new(begin, 3.0);
        assert_eq!(schedule.at(3_000_000).duration_since(begin), Duration::from_secs(1_000_000));
    }

    #[tokio::test]
    async fn wait_until_does_not_come_early() {
        let at = Instant::now() + Duration::from_millis(3);
        wait_until(at).await;
        assert!(Instant::now() >= at);
    }
}
