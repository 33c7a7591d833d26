//! Latencies and counts of a run, and how they are printed.
//!
//! The first line keeps the words and the order of `kafka-producer-perf-test`, because scripts and eyes parse it;
//! MB are 2^20 bytes there, as in Kafka. CPU is per 10^9 bytes.

use super::usage::Usage;
use crate::output::{Failure, Ui};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A histogram of nanoseconds up to ten minutes, three digits: about 300 KiB.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are valid")
}

/// What is being counted.
#[derive(Debug)]
pub struct Recorder {
    histogram: Histogram<u64>,
    records: u64,
    bytes: u64,
    begin: Instant,
    last: Instant,
}

impl Recorder {
    /// Counts what completes from `begin` on.
    pub fn new(begin: Instant) -> Self {
        Self { histogram: latencies(), records: 0, bytes: 0, begin, last: begin }
    }

    /// Takes note of `records` that completed together.
    pub fn done(&mut self, since: Instant, at: Instant, records: u64, bytes: u64) {
        if at < self.begin {
            return;
        }
        self.histogram.saturating_record_n(at.duration_since(since).as_nanos() as u64, records);
        self.records += records;
        self.bytes += bytes;
        self.last = self.last.max(at);
    }

    /// Takes note of `records` that came with one answer: one latency, whatever their number.
    pub fn answer(&mut self, since: Instant, at: Instant, records: u64, bytes: u64) {
        if at < self.begin {
            return;
        }
        self.histogram.saturating_record(at.duration_since(since).as_nanos() as u64);
        self.records += records;
        self.bytes += bytes;
        self.last = self.last.max(at);
    }

    /// The figures.
    pub fn finish(self) -> Figures {
        let ms = |ns: u64| ns as f64 / 1e6;
        let h = &self.histogram;
        let quantile = |q: f64| if h.is_empty() { 0.0 } else { ms(h.value_at_quantile(q)) };
        Figures {
            records: self.records,
            bytes: self.bytes,
            elapsed: self.last.duration_since(self.begin),
            mean: h.mean() / 1e6,
            max: ms(h.max()),
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
        }
    }
}

/// Figures of a run; latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Records that completed.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the end of the warm-up to the last completion.
    pub elapsed: Duration,
    /// Mean latency.
    pub mean: f64,
    /// Largest latency.
    pub max: f64,
    /// Median.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
}

impl Figures {
    /// Records per second.
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Bytes per second.
    pub fn byte_rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Kafka's line; `verb` is "sent" or "read".
    pub fn line(&self, verb: &str) -> String {
        format!(
            "{} records {verb}, {:.1} records/sec ({:.2} MB/sec), {:.2} ms avg latency, {:.2} ms max latency, \
             {:.3} ms 50th, {:.3} ms 95th, {:.3} ms 99th, {:.3} ms 99.9th.",
            self.records,
            self.rate(),
            self.byte_rate() / f64::from(1 << 20),
            self.mean,
            self.max,
            self.p50,
            self.p95,
            self.p99,
            self.p999,
        )
    }

    fn to_json(self) -> Value {
        json!({
            "records": self.records, "bytes": self.bytes, "elapsed_s": self.elapsed.as_secs_f64(),
            "records_per_s": self.rate(), "bytes_per_s": self.byte_rate(),
            "latency_ms": {
                "mean": self.mean, "max": self.max, "p50": self.p50, "p95": self.p95, "p99": self.p99, "p999": self.p999,
            },
        })
    }
}

/// Prints a run: the line, how it was driven, what it cost.
pub fn print(
    verb: &str,
    figures: &Figures,
    settings: &Value,
    how: &str,
    usage: &Usage,
    ui: &Ui,
) -> Result<(), Failure> {
    if ui.is_json() {
        let mut item = figures.to_json();
        item["settings"] = settings.clone();
        item["usage"] = usage.to_json(figures.bytes);
        return ui.json_items(vec![item]);
    }
    ui.out(&format!("{}\n{how}\n{}", figures.line(verb), usage.to_text(figures.bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_kafkas_words_and_order() {
        let begin = Instant::now();
        let mut recorder = Recorder::new(begin);
        for i in 1..=100 {
            let at = begin + Duration::from_millis(20 * i);
            recorder.done(at - Duration::from_millis(i), at, 10, 10 << 20);
        }
        let figures = recorder.finish();
        let line = figures.line("sent");
        assert!(line.starts_with("1000 records sent, 500.0 records/sec (500.00 MB/sec), 50.5"), "{line}");
        assert!(line.ends_with("ms 99.9th."), "{line}");
        assert!((figures.p50 - 50.0).abs() < 0.1 && (figures.max - 100.0).abs() < 0.2, "{figures:?}");
    }

    #[test]
    fn recorder_warm_up_is_left_out() {
        let now = Instant::now();
        let begin = now + Duration::from_secs(1);
        let mut recorder = Recorder::new(begin);
        recorder.done(now, now + Duration::from_millis(999), 5, 5);
        assert_eq!(recorder.finish().records, 0);
    }
}
