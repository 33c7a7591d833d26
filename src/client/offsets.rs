//! Where to start and where to stop reading: the grammar of offsets, and what it means for a partition.
//!
//! | text | meaning |
//! |---|---|
//! | `start`, `beginning`, `earliest` | first offset kept |
//! | `end`, `latest` | after the last record |
//! | `N` | offset N |
//! | `+N`, `-N` | N after the start, N before the end |
//! | `@T` | first record at or after T: 10 or 13 digits (s, ms since 1970), a date, RFC 3339, or `-1h` (ago) |
//! | `s@MS` | the same, as kcat spells it |
//! | `A:B`, `:B` | from A up to (not including) B |
//!
//! Parsing takes the present as an argument and touches no clock.

use super::cluster::{Client, topic_name};
use super::error::{Error, Result};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use kafka_protocol::messages::ListOffsetsRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use std::collections::BTreeMap;

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first offset kept.
    Start,
    /// After the last committed record.
    End,
    /// This offset.
    Offset(i64),
    /// So many after the start.
    AfterStart(i64),
    /// So many before the end.
    BeforeEnd(i64),
    /// The first record whose timestamp is at least this (ms); the end if there is none.
    Time(i64),
}

/// From where, and up to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First record.
    pub from: Position,
    /// First record not to read; None: never stop.
    pub until: Option<Position>,
}

impl Range {
    /// Reads the grammar above; `now_ms` is the present, `zone` what a date without one means.
    pub fn parse(text: &str, now_ms: i64, zone: &TimeZone) -> std::result::Result<Self, String> {
        if let Some(from) = position(text, now_ms, zone) {
            return Ok(Self { from, until: None });
        }
        // Times hold colons themselves: the first split that makes sense on both sides is meant.
        for (at, _) in text.match_indices(':') {
            let (left, right) = (&text[..at], &text[at + 1..]);
            let from = if left.is_empty() { Some(Position::Start) } else { position(left, now_ms, zone) };
            let until = position(right, now_ms, zone)
                .or_else(|| left.starts_with('@').then(|| time(right, now_ms, zone).map(Position::Time))?);
            if let (Some(from), Some(until)) = (from, until) {
                return Ok(Self { from, until: Some(until) });
            }
        }
        Err(format!("`{text}` is not an offset (start, end, N, -N, +N, @TIME, or FROM:TO)"))
    }
}

fn position(text: &str, now_ms: i64, zone: &TimeZone) -> Option<Position> {
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<i64>().ok()).flatten();
    match text {
        "start" | "beginning" | "earliest" => return Some(Position::Start),
        "end" | "latest" => return Some(Position::End),
        _ => {}
    }
    if let Some(t) = text.strip_prefix("s@").or_else(|| text.strip_prefix('@')) {
        return time(t, now_ms, zone).map(Position::Time);
    }
    if let Some(n) = text.strip_prefix('-') {
        return number(n).map(Position::BeforeEnd);
    }
    if let Some(n) = text.strip_prefix('+') {
        return number(n).map(Position::AfterStart);
    }
    number(text).map(Position::Offset)
}

fn time(text: &str, now_ms: i64, zone: &TimeZone) -> Option<i64> {
    if text == "now" {
        return Some(now_ms);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let n: i64 = text.parse().ok()?;
        // As rpk: ten digits are seconds, thirteen are milliseconds.
        return Some(if text.len() <= 10 { n * 1000 } else { n });
    }
    if let Some(ago) = text.strip_prefix('-') {
        return duration_ms(ago).map(|ms| now_ms - ms);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_millisecond());
    }
    let civil =
        text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|d| d.to_datetime(Default::default())));
    civil.ok()?.to_zoned(zone.clone()).ok().map(|z| z.timestamp().as_millisecond())
}

fn duration_ms(text: &str) -> Option<i64> {
    let span: Span = text.parse().ok()?;
    // Days are taken as 24 hours: "ago" should not depend on daylight saving.
    let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
    let clock = span.days(0).weeks(0).total(jiff::Unit::Millisecond).ok()?;
    Some(days * 86_400_000 + clock as i64)
}

/// Special timestamps of ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

impl Client {
    /// ListOffsets at one timestamp (-1 latest, -2 earliest) for these partitions. -1 where no record is that late.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: &[i32],
        timestamp: i64,
    ) -> Result<BTreeMap<i32, i64>> {
        let parts = partitions.iter().map(|p| (*p, ())).collect();
        self.per_leader(topic, parts, async |connection, parts| {
            let partitions = parts
                .iter()
                .map(|(p, ())| {
                    ListOffsetsPartition::default()
                        .with_partition_index(*p)
                        .with_current_leader_epoch(-1)
                        .with_timestamp(timestamp)
                })
                .collect();
            let request = ListOffsetsRequest::default()
                .with_replica_id((-1).into())
                .with_topics(vec![
                    ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions),
                ])
                .with_timeout_ms(self.options().request_timeout.as_millis() as i32);
            let answer = connection.call(&request).await?;
            let rows = answer.topics.into_iter().flat_map(|t| t.partitions);
            Ok(rows
                .map(|p| {
                    let what = || format!("offsets of {topic}/{}", p.partition_index);
                    (p.partition_index, Error::check(p.error_code, None, what).map(|()| p.offset))
                })
                .collect())
        })
        .await
    }

    /// First offsets kept.
    pub async fn start_offsets(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        self.list_offsets(topic, partitions, EARLIEST).await
    }

    /// Offsets after the last committed record.
    pub async fn end_offsets(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        self.list_offsets(topic, partitions, LATEST).await
    }

    /// What a position means now, per partition. Relative ones are kept within what the partition holds.
    pub async fn resolve(
        &self,
        topic: &str,
        partitions: &[i32],
        position: Position,
    ) -> Result<BTreeMap<i32, i64>> {
        match position {
            Position::Start => self.start_offsets(topic, partitions).await,
            Position::End => self.end_offsets(topic, partitions).await,
            Position::Offset(n) => Ok(partitions.iter().map(|p| (*p, n)).collect()),
            Position::AfterStart(n) => {
                let starts = self.start_offsets(topic, partitions).await?;
                let ends = self.end_offsets(topic, partitions).await?;
                Ok(starts
                    .into_iter()
                    .map(|(p, start)| (p, start.saturating_add(n).min(ends[&p].max(start))))
                    .collect())
            }
            Position::BeforeEnd(n) => {
                let starts = self.start_offsets(topic, partitions).await?;
                let ends = self.end_offsets(topic, partitions).await?;
                Ok(ends.into_iter().map(|(p, end)| (p, (end - n).max(starts[&p]))).collect())
            }
            Position::Time(t) => {
                let mut found = self.list_offsets(topic, partitions, t).await?;
                let late: Vec<i32> = found.iter().filter(|(_, o)| **o < 0).map(|(p, _)| *p).collect();
                if !late.is_empty() {
                    found.extend(self.end_offsets(topic, &late).await?);
                }
                Ok(found)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const NOW: i64 = 1_800_000_000_000;

    fn parse(text: &str) -> Range {
        Range::parse(text, NOW, &TimeZone::UTC).unwrap()
    }

    #[test]
    fn range_single_positions_parse() {
        for (text, from) in [
            ("start", Position::Start),
            ("beginning", Position::Start),
            ("end", Position::End),
            ("0", Position::Offset(0)),
            ("12345678901", Position::Offset(12_345_678_901)),
            ("+7", Position::AfterStart(7)),
            ("-3", Position::BeforeEnd(3)),
            ("@1700000000", Position::Time(1_700_000_000_000)),
            ("@1700000000123", Position::Time(1_700_000_000_123)),
            ("s@1700000000123", Position::Time(1_700_000_000_123)),
            ("@2026-01-01", Position::Time(1_767_225_600_000)),
            ("@2026-01-01T00:00:01Z", Position::Time(1_767_225_601_000)),
            ("@2026-01-01T01:00:00+01:00", Position::Time(1_767_225_600_000)),
            ("@-1h", Position::Time(NOW - 3_600_000)),
            ("@-1h30m", Position::Time(NOW - 5_400_000)),
            ("@-2d", Position::Time(NOW - 172_800_000)),
            ("@now", Position::Time(NOW)),
        ] {
            assert_eq!(parse(text), Range { from, until: None }, "{text}");
        }
    }

    #[test]
    fn range_two_positions_split_at_the_right_colon() {
        let r = |from, until| Range { from, until: Some(until) };
        assert_eq!(parse("5:10"), r(Position::Offset(5), Position::Offset(10)));
        assert_eq!(parse(":end"), r(Position::Start, Position::End));
        assert_eq!(parse("@-1h:end"), r(Position::Time(NOW - 3_600_000), Position::End));
        assert_eq!(
            parse("@2026-01-01T00:00:00Z:2026-01-02"),
            r(Position::Time(1_767_225_600_000), Position::Time(1_767_312_000_000))
        );
    }

    #[test]
    fn range_nonsense_is_refused_and_grammar_named() {
        for text in ["", "x", "--3", "5-", "@", "@yesterday", "1:x", "99999999999999999999", "1.5"] {
            let error = Range::parse(text, NOW, &TimeZone::UTC).unwrap_err();
            assert!(error.contains("start, end, N"), "{text}: {error}");
        }
    }
}
