//! `kontiki consume TOPIC -g GROUP`: reads as a member of a consumer group.
//!
//! One task does it all: polls, prints, beats, commits. Printing happens on a thread of its own, so that a reader of the output that is slow (`| less`) does
//! not look like a death, until it has been for as long as a rebalance may take. Ctrl-C and SIGTERM end in order.
//! Invariant: an offset is committed only when every record before it, from where the member began, has been printed or (control records, compacted ones) is none.
//! What is printed and not yet committed when the group is rebalanced may be printed again, by whoever has the partition then; that is said.

use super::{Sink, clamp, keep_wanted, stop_reached};
use crate::output::{Failure, Outcome, Ui, list};
use kontiki::client::{
    Client, ConsumedRecord, Consumer, ConsumerOptions, MemberOptions, Membership, OutOfRange, Position,
    Standing,
};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// `heartbeat.interval.ms`.
const BEAT: Duration = Duration::from_secs(3);
/// `auto.commit.interval.ms`.
const COMMIT: Duration = Duration::from_secs(5);

/// What is to be read.
pub struct Reading<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Where to begin in partitions in which the group has committed nothing.
    pub from: Position,
    /// Where to stop, by partition.
    pub until: Option<BTreeMap<i32, i64>>,
    /// How many records at most.
    pub num: Option<u64>,
}

/// Reads until told to stop, or to the end of what was asked for; then commits and leaves.
pub async fn run(client: &Client, group: &str, reading: Reading<'_>, sink: Sink, ui: &Ui) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let options = MemberOptions::default();
    let mut reader = Reader {
        member: Membership::new(client.clone(), group, reading.topic, options),
        patience: options.rebalance_timeout,
        left: reading.num.unwrap_or(u64::MAX),
        client,
        group,
        reading,
        ui,
        sink: Some(sink),
        positions: BTreeMap::new(),
        committed: BTreeMap::new(),
        printed: 0,
        next_beat: Instant::now(),
        next_commit: Instant::now(),
    };
    let read = tokio::select! {
        read = reader.read() => read,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let ended = reader.end().await;
    // Why the reading ended says more than what came of it.
    read.and(ended)?;
    Ok(ExitCode::SUCCESS)
}

struct Reader<'a> {
    client: &'a Client,
    group: &'a str,
    reading: Reading<'a>,
    member: Membership,
    /// How long printing may take before the member no longer counts as alive.
    patience: Duration,
    ui: &'a Ui,
    /// Away while a thread prints.
    sink: Option<Sink>,
    left: u64,
    printed: u64,
    /// Of the partitions that this member has: next offset to print, and the leader epoch of what was printed last.
    positions: BTreeMap<i32, (i64, i32)>,
    committed: BTreeMap<i32, i64>,
    next_beat: Instant,
    next_commit: Instant,
}

impl Reader<'_> {
    async fn read(&mut self) -> Result<(), Failure> {
        loop {
            let partitions = self.member.join().await?;
            self.next_beat = Instant::now() + BEAT;
            let mut consumer = self.begin(&partitions).await?;
            if self.follow(&mut consumer).await? == Standing::Member {
                return Ok(());
            }
        }
    }

    /// A consumer of these partitions from where the group is.
    async fn begin(&mut self, partitions: &[i32]) -> Result<Consumer, Failure> {
        let topic = self.reading.topic;
        // Nothing of the last assignment may be committed in this one.
        self.positions.clear();
        self.committed = self.member.committed(partitions).await?;
        let mut start = self.committed.clone();
        let fresh: Vec<i32> = partitions.iter().copied().filter(|p| !start.contains_key(p)).collect();
        if !fresh.is_empty() {
            let mut begin = self.client.resolve(topic, &fresh, self.reading.from).await?;
            if let Position::Offset(_) = self.reading.from {
                clamp(self.client, topic, &fresh, &mut begin, self.ui).await?;
            }
            start.extend(begin);
        }
        let places: Vec<String> =
            start.iter().map(|(partition, offset)| format!("{partition}@{offset}")).collect();
        self.ui.note(&format!("group {}: reading {topic} {}", self.group, list(&places)));
        self.positions = start.iter().map(|(partition, offset)| (*partition, (*offset, -1))).collect();
        self.next_commit = Instant::now() + COMMIT;
        let out_of_range = match self.reading.from {
            Position::End => OutOfRange::End,
            _ => OutOfRange::Start,
        };
        let options = ConsumerOptions { out_of_range, ..ConsumerOptions::default() };
        Ok(Consumer::new(self.client.clone(), topic, &start, options))
    }

    /// Reads and prints: `Member` once all that was asked for is done, `Outdated` when the group has to be joined again.
    async fn follow(&mut self, consumer: &mut Consumer) -> Result<Standing, Failure> {
        loop {
            stop_reached(consumer, self.reading.until.as_ref());
            let has_all = self.reading.until.is_some() && consumer.assigned().is_empty();
            if has_all || self.left == 0 {
                return Ok(Standing::Member);
            }
            let due = self.next_beat.min(self.next_commit);
            let mut records = consumer.poll(due.saturating_duration_since(Instant::now())).await?;
            let read = records.len();
            keep_wanted(&mut records, self.reading.until.as_ref(), self.left);
            let is_cut = records.len() < read && self.left == records.len() as u64;
            let mut standing = self.print(records).await?;
            if !is_cut {
                self.pass_gaps(consumer);
            }
            if standing == Standing::Member && Instant::now() >= self.next_beat {
                standing = self.beat().await?;
            }
            if standing == Standing::Outdated || Instant::now() >= self.next_commit {
                // Of what was read before the others joined, the next owner is to know.
                let committed = self.commit().await?;
                standing = if committed == Standing::Member { standing } else { committed };
            }
            if standing == Standing::Outdated {
                return Ok(standing);
            }
        }
    }

    async fn beat(&mut self) -> Result<Standing, Failure> {
        let standing = self.member.heartbeat().await?;
        self.next_beat = Instant::now() + BEAT;
        Ok(standing)
    }

    /// Prints on another thread, and beats meanwhile.
    async fn print(&mut self, records: Vec<ConsumedRecord>) -> Result<Standing, Failure> {
        let mut standing = Standing::Member;
        if records.is_empty() {
            return Ok(standing);
        }
        let mut sink = self.sink.take().expect("it is put back after each batch");
        let begun = Instant::now();
        let mut printing = tokio::task::spawn_blocking(move || {
            let printed = sink.write(&records);
            (sink, records, printed)
        });
        let (sink, records, printed) = loop {
            let is_member = standing == Standing::Member && begun.elapsed() < self.patience;
            tokio::select! {
                done = &mut printing => break done.map_err(|e| Failure::new("IO", format!("printing: {e}")))?,
                () = tokio::time::sleep_until(self.next_beat.into()), if is_member => standing = self.beat().await?,
            }
        };
        self.sink = Some(sink);
        printed?;
        self.left -= records.len() as u64;
        self.printed += records.len() as u64;
        for record in &records {
            self.positions.insert(record.partition, (record.at.offset + 1, record.leader_epoch));
        }
        Ok(standing)
    }

    /// The consumer has moved past what is no record. Never past the end that was asked for.
    fn pass_gaps(&mut self, consumer: &Consumer) {
        for (partition, (next, _)) in &mut self.positions {
            let Some(position) = consumer.position(*partition) else { continue };
            let end = self.reading.until.as_ref().and_then(|until| until.get(partition));
            *next = (*next).max(end.map_or(position, |end| position.min(*end)));
        }
    }

    /// Commits what moved. `Outdated`: it was not taken.
    async fn commit(&mut self) -> Result<Standing, Failure> {
        self.next_commit = Instant::now() + COMMIT;
        let is_new =
            |(partition, place): &(&i32, &(i64, i32))| self.committed.get(partition) != Some(&place.0);
        let moved: BTreeMap<i32, (i64, i32)> =
            self.positions.iter().filter(is_new).map(|(partition, place)| (*partition, *place)).collect();
        if moved.is_empty() {
            return Ok(Standing::Member);
        }
        let standing = self.member.commit(&moved).await?;
        match standing {
            Standing::Member => self.committed.extend(moved.iter().map(|(partition, place)| (*partition, place.0))),
            Standing::Outdated => self.ui.note(&format!(
                "group {}: rebalanced before partitions {} were committed: what was printed of them last may be printed again",
                self.group,
                list(&moved.keys().collect::<Vec<_>>()),
            )),
        }
        Ok(standing)
    }

    /// Commits, leaves, and says where the group is.
    async fn end(mut self) -> Result<(), Failure> {
        let committed = if self.member.id().is_empty() { Ok(Standing::Member) } else { self.commit().await };
        let (client, group, topic, printed) = (self.client, self.group, self.reading.topic, self.printed);
        let (offsets, ui) = (self.committed, self.ui);
        // The session ends by itself if this fails.
        let _left = self.member.leave().await;
        if committed? == Standing::Outdated {
            let text =
                format!("what was printed last could not be committed to group `{group}`: it was rebalanced");
            return Err(Failure::new("REBALANCE_IN_PROGRESS", text));
        }
        if !ui.quiet && !offsets.is_empty() {
            let partitions: Vec<i32> = offsets.keys().copied().collect();
            let ends = client.end_offsets(topic, &partitions).await?;
            let behind = |(partition, end): (&i32, &i64)| {
                (end - offsets.get(partition).copied().unwrap_or(*end)).max(0)
            };
            let lag: i64 = ends.iter().map(behind).sum();
            ui.note(&format!(
                "group {group}: {printed} records printed; lag {lag} in partitions {}",
                list(&partitions)
            ));
        }
        Ok(())
    }
}
