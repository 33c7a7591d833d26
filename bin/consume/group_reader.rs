//! `kontiki consume TOPIC -g GROUP`: reads as a member of a consumer group.
//!
//! One task does it all: polls, prints, beats, commits. Printing happens on a thread of its own, so that a reader of the output that is slow (`| less`) does
//! not look like a death, until it has been for as long as a rebalance may take. Ctrl-C and SIGTERM end in order: what is being printed is waited for and
//! committed, all of it within seconds; a second one ends at once.
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
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// `heartbeat.interval.ms`.
const BEAT: Duration = Duration::from_secs(3);
/// `auto.commit.interval.ms`.
const COMMIT: Duration = Duration::from_secs(5);

/// How long the output may still take when the end was asked for.
const LAST_PRINT: Duration = Duration::from_secs(3);
/// How long the last commit may take, and the leave-taking; and the remark about lag, which may be left out.
const LAST_COMMIT: Duration = Duration::from_secs(8);
const LEAVE: Duration = Duration::from_secs(5);
const LAG: Duration = Duration::from_secs(1);

/// What is to be read.
pub struct Reading<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Where to begin in partitions in which the group has committed nothing.
    pub from: Position,
    /// Partitions that there are when the command begins; later ones are read from their start.
    pub known: Vec<i32>,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// Where to stop, by partition.
    pub until: Option<BTreeMap<i32, i64>>,
    /// How many records at most.
    pub num: Option<u64>,
}

/// Reads until told to stop, or to the end of what was asked for; then commits and leaves.
pub async fn run(client: &Client, group: &str, reading: Reading<'_>, sink: Sink, ui: &Ui) -> Outcome {
    let stop = CancellationToken::new();
    tokio::spawn(watch_signals(
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        stop.clone(),
    ));
    let options = MemberOptions { session_timeout: reading.session_timeout, ..MemberOptions::default() };
    let mut reader = Reader {
        member: Membership::new(client.clone(), group, reading.topic, options),
        patience: options.rebalance_timeout,
        beat: BEAT.min(options.session_timeout / 3),
        stop,
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
    let read = reader.read().await;
    let ended = reader.end().await;
    // Why the reading ended says more than what came of it.
    read.and(ended)?;
    Ok(ExitCode::SUCCESS)
}

/// The first signal asks for the end, the second one is it.
async fn watch_signals(mut interrupt: Signal, mut terminate: Signal, stop: CancellationToken) {
    loop {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        if stop.is_cancelled() {
            std::process::exit(code);
        }
        stop.cancel();
    }
}

struct Reader<'a> {
    client: &'a Client,
    group: &'a str,
    reading: Reading<'a>,
    member: Membership,
    /// How long printing may take before the member no longer counts as alive.
    patience: Duration,
    /// `heartbeat.interval.ms`.
    beat: Duration,
    /// The end was asked for.
    stop: CancellationToken,
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
            // Nothing of the last assignment may be committed in the next one.
            self.positions.clear();
            self.committed.clear();
            let stop = self.stop.clone();
            let joined = async {
                let partitions = self.member.join().await?;
                self.next_beat = Instant::now() + self.beat;
                self.begin(&partitions).await
            };
            let Some(joined) = stop.run_until_cancelled(joined).await else { return Ok(()) };
            let mut consumer = joined?;
            if self.follow(&mut consumer).await? == Standing::Member {
                return Ok(());
            }
        }
    }

    /// A consumer of these partitions from where the group is.
    async fn begin(&mut self, partitions: &[i32]) -> Result<Consumer, Failure> {
        let topic = self.reading.topic;
        self.committed = self.member.committed(partitions).await?;
        let mut start = self.committed.clone();
        let fresh = partitions.iter().copied().filter(|p| !start.contains_key(p));
        let (fresh, new): (Vec<i32>, Vec<i32>) = fresh.partition(|p| self.reading.known.contains(p));
        if !new.is_empty() {
            start.extend(self.client.start_offsets(topic, &new).await?);
        }
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
        // What was committed is no longer held: everything that is, is new to the group.
        let options = ConsumerOptions { out_of_range: OutOfRange::Start, ..ConsumerOptions::default() };
        Ok(Consumer::new(self.client.clone(), topic, &start, options))
    }

    /// Reads and prints: `Member` once all that was asked for is done, `Outdated` when the group has to be joined again.
    async fn follow(&mut self, consumer: &mut Consumer) -> Result<Standing, Failure> {
        loop {
            stop_reached(consumer, self.reading.until.as_ref());
            let has_all = self.reading.until.is_some() && consumer.assigned().is_empty();
            if has_all || self.left == 0 || self.stop.is_cancelled() {
                return Ok(Standing::Member);
            }
            let due = self.next_beat.min(self.next_commit);
            let stop = self.stop.clone();
            let polled = consumer.poll(due.saturating_duration_since(Instant::now()));
            let Some(polled) = stop.run_until_cancelled(polled).await else { continue };
            let mut records = polled?;
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
        self.next_beat = Instant::now() + self.beat;
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
        let stop = self.stop.clone();
        let too_long = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_PRINT).await;
        };
        tokio::pin!(too_long);
        let (sink, records, printed) = loop {
            let is_member = standing == Standing::Member && begun.elapsed() < self.patience;
            tokio::select! {
                done = &mut printing => break done.map_err(|e| Failure::new("IO", format!("printing: {e}")))?,
                () = tokio::time::sleep_until(self.next_beat.into()), if is_member => standing = self.beat().await?,
                () = &mut too_long => {
                    self.ui.note(&format!("group {}: the output does not take the last records; they are not committed", self.group));
                    return Ok(standing);
                }
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

    /// Commits, leaves, and says where the group is; within seconds, whatever answers.
    async fn end(mut self) -> Result<(), Failure> {
        let late = || {
            let text = format!(
                "what was printed last could not be committed to group `{}` within {LAST_COMMIT:?}",
                self.group
            );
            Failure::new("REQUEST_TIMED_OUT", text)
        };
        let late = late();
        let is_in = !self.member.id().is_empty() && !self.positions.is_empty();
        let committed = match is_in {
            true => tokio::time::timeout(LAST_COMMIT, self.commit()).await.unwrap_or(Err(late)),
            false => Ok(Standing::Member),
        };
        let (client, group, topic, printed) = (self.client, self.group, self.reading.topic, self.printed);
        let (offsets, ui) = (self.committed, self.ui);
        let session = self.reading.session_timeout;
        if !matches!(tokio::time::timeout(LEAVE, self.member.leave()).await, Ok(Ok(()))) {
            ui.note(&format!("group {group}: leaving was not confirmed; others may get its partitions only after its session ({session:?})"));
        }
        if committed? == Standing::Outdated {
            let text =
                format!("what was printed last could not be committed to group `{group}`: it was rebalanced");
            return Err(Failure::new("REBALANCE_IN_PROGRESS", text));
        }
        if !ui.quiet && !offsets.is_empty() {
            let partitions: Vec<i32> = offsets.keys().copied().collect();
            let ends = tokio::time::timeout(LAG, client.end_offsets(topic, &partitions)).await;
            let behind = |(partition, end): (&i32, &i64)| {
                (end - offsets.get(partition).copied().unwrap_or(*end)).max(0)
            };
            let lag =
                ends.ok().and_then(Result::ok).map(|ends| ends.iter().map(behind).sum::<i64>().to_string());
            let lag = lag.unwrap_or_else(|| "unknown".to_owned());
            ui.note(&format!(
                "group {group}: {printed} records printed; lag {lag} in partitions {}",
                list(&partitions)
            ));
        }
        Ok(())
    }
}
