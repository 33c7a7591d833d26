//! Which partition is worth a pass of the cleaner, and how far it may go (Kafka's `LogCleanerManager`).
//!
//! Pure: files, offsets, settings and the time in, a [`Look`] out.
use crate::segment::Offset;

/// What a topic says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// `min.cleanable.dirty.ratio`.
    pub min_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_lag_ms: i64,
}

/// One file of a replica, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Base offset of its first entry.
    pub base_offset: Offset,
    /// Offset after its last entry.
    pub next_offset: Offset,
    /// Bytes of frames.
    pub bytes: u64,
    /// Time of its first batch, ms; none: there is none, or it is not known.
    pub first_timestamp: Option<i64>,
    /// Largest record timestamp, ms; -1: none.
    pub max_timestamp: i64,
    /// It is the one appended to.
    pub is_active: bool,
}

/// How a partition stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Everything before is clean.
    pub first_dirty: Offset,
    /// Where the files end that may be cleaned.
    pub until: Offset,
    /// Bytes of the dirty ones among these.
    pub dirty_bytes: u64,
    /// Bytes of all of these.
    pub bytes: u64,
    /// By how much the oldest dirty record is older than `max.compaction.lag.ms`, ms; 0: it is not.
    pub overdue_ms: i64,
    /// Another replica waits for this one to be clean.
    pub is_wanted: bool,
}

impl Look {
    /// Share of dirty bytes, 0 to 1.
    pub fn dirty_ratio(&self) -> f64 {
        if self.bytes == 0 { 0.0 } else { self.dirty_bytes as f64 / self.bytes as f64 }
    }

    /// Whether a pass is worth it.
    pub fn is_due(&self, policy: &Policy) -> bool {
        self.dirty_bytes > 0 && (self.is_urgent() || self.dirty_ratio() > policy.min_dirty_ratio)
    }

    /// Whether it is, whatever the ratio.
    fn is_urgent(&self) -> bool {
        self.overdue_ms > 0 || self.is_wanted
    }
}

/// Looks at one partition. `first_dirty` = up to where it is clean (decisions/0022); `committed` = its high watermark.
pub fn look(files: &[File], first_dirty: Offset, committed: Offset, policy: &Policy, now_ms: i64) -> Look {
    let start = files.first().map_or(Offset(0), |file| file.base_offset);
    let end = files.last().map_or(start, |file| file.next_offset);
    // Who was brought up is clean as far as those that did it, which may be in the file that is appended to.
    let first_dirty = first_dirty.min(end).max(start);
    let young = now_ms.saturating_sub(policy.min_lag_ms.max(0));
    let (mut until, mut dirty_bytes, mut bytes) = (start, 0, 0);
    let mut oldest: Option<i64> = None;
    for file in files {
        let is_dirty = file.next_offset > first_dirty;
        let is_young = is_dirty && policy.min_lag_ms > 0 && file.max_timestamp > young;
        if file.is_active || file.next_offset > committed || is_young {
            break;
        }
        until = file.next_offset;
        bytes += file.bytes;
        if is_dirty {
            dirty_bytes += file.bytes;
        }
    }
    for file in files.iter().filter(|file| !file.is_active && file.next_offset > first_dirty) {
        let time = file.first_timestamp.filter(|time| *time > 0);
        oldest = [oldest, time].into_iter().flatten().min();
    }
    let latest = now_ms.saturating_sub(policy.max_lag_ms.max(0));
    let overdue_ms = oldest.map_or(0, |time| latest.saturating_sub(time).max(0));
    Look { first_dirty, until, dirty_bytes, bytes, overdue_ms, is_wanted: false }
}

/// The dirtiest of those that are due.
pub fn choose<T: Copy + Ord>(looks: impl Iterator<Item = (T, Look, Policy)>) -> Option<(T, Look)> {
    let due = looks.filter(|(_, look, policy)| look.is_due(policy));
    let chosen = due.max_by(|a, b| {
        let by_ratio = a.1.dirty_ratio().total_cmp(&b.1.dirty_ratio());
        // What is urgent comes first; equals in a fixed order.
        let urgent = a.1.is_urgent().cmp(&b.1.is_urgent());
        urgent.then(by_ratio).then(b.0.cmp(&a.0))
    });
    chosen.map(|(what, look, _)| (what, look))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Policy = Policy { min_dirty_ratio: 0.5, min_lag_ms: 0, max_lag_ms: i64::MAX };

    /// Files of ten offsets and 100 bytes each; times are those of their first offsets.
    fn files(closed: i64) -> Vec<File> {
        let file = |at: i64| File {
            base_offset: Offset(at * 10),
            next_offset: Offset(at * 10 + 10),
            bytes: 100,
            first_timestamp: Some(at * 10),
            max_timestamp: at * 10 + 9,
            is_active: at == closed,
        };
        (0..=closed).map(file).collect()
    }

    #[test]
    fn active_file_and_what_is_not_committed_are_never_cleaned() {
        let files = files(4);
        let until = |committed| look(&files, Offset(0), Offset(committed), &ANY, 1_000).until;
        assert_eq!(
            [until(0), until(9), until(10), until(39), until(40), until(50)].map(|o| o.0),
            [0, 0, 10, 30, 40, 40]
        );
        assert_eq!(look(&[], Offset(7), Offset(9), &ANY, 0).bytes, 0);
    }

    #[test]
    fn ratio_is_of_the_dirty_bytes_and_has_to_be_passed() {
        let files = files(4);
        let look = |first| look(&files, Offset(first), Offset(50), &ANY, 1_000);
        assert_eq!((look(0).dirty_ratio(), look(0).is_due(&ANY)), (1.0, true));
        assert_eq!(
            (look(20).dirty_ratio(), look(20).is_due(&ANY)),
            (0.5, false),
            "exactly the ratio is not above it"
        );
        assert_eq!(
            (look(19).dirty_bytes, look(19).is_due(&ANY)),
            (300, true),
            "a file clean in part is dirty"
        );
        assert_eq!(
            (look(40).dirty_bytes, look(40).is_due(&Policy { min_dirty_ratio: 0.0, ..ANY })),
            (0, false)
        );
        assert_eq!(
            (look(51).first_dirty, look(51).dirty_bytes),
            (Offset(50), 0),
            "clean into what is appended to"
        );
        assert_eq!(
            super::look(&files[2..], Offset(3), Offset(50), &ANY, 0).first_dirty,
            Offset(20),
            "retention went on"
        );
    }

    #[test]
    fn young_records_stay_out_and_old_ones_are_due_whatever_the_ratio() {
        let files = files(4);
        let young = Policy { min_lag_ms: 100, ..ANY };
        let until = |now| look(&files, Offset(0), Offset(50), &young, now).until.0;
        assert_eq!([until(108), until(109), until(118), until(119), until(500)], [0, 10, 10, 20, 40]);
        assert_eq!(
            look(&files, Offset(40), Offset(50), &young, 0).until,
            Offset(40),
            "clean files are old enough"
        );
        let old = Policy { max_lag_ms: 100, min_dirty_ratio: 1.0, ..ANY };
        let overdue = |now| look(&files, Offset(20), Offset(50), &old, now);
        assert_eq!((overdue(120).overdue_ms, overdue(120).is_due(&old)), (0, false));
        assert_eq!((overdue(125).overdue_ms, overdue(125).is_due(&old)), (5, true));
    }

    #[test]
    fn dirtiest_is_chosen_and_what_is_overdue_before_it() {
        let look = |dirty_bytes, overdue_ms| Look {
            first_dirty: Offset(0),
            until: Offset(9),
            dirty_bytes,
            bytes: 100,
            overdue_ms,
            is_wanted: false,
        };
        let of = |looks: &[Look]| {
            choose(looks.iter().enumerate().map(|(at, look)| (at, *look, ANY))).map(|(at, _)| at)
        };
        assert_eq!(of(&[look(10, 0), look(50, 0)]), None);
        assert_eq!(of(&[look(60, 0), look(90, 0), look(90, 0), look(80, 0)]), Some(1));
        assert_eq!(of(&[look(60, 0), look(90, 0), look(1, 5), look(0, 9)]), Some(2));
        let wanted = |dirty_bytes| Look { is_wanted: true, ..look(dirty_bytes, 0) };
        assert_eq!(of(&[look(90, 0), wanted(1), wanted(0)]), Some(1));
    }
}
