//! [`Consumer`]: reads assigned partitions, one fetch under way per leading broker.
//!
//! Fetches run on while the caller handles what it got, so at most one answer per broker is held ahead: that
//! bounds memory to brokers x `fetch_max_bytes`. Not here: groups, committed offsets.
//! Invariants: records of a partition come out in offset order, each once, none below the position; a position
//! moves past control batches and compaction gaps.

use super::cluster::{Backoff, Broker, Client, Purpose, topic_name};
use super::error::{Error, Result, is_stale_leader};
use super::records::{Positioned, next_batch};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Versions from 13 on name topics by id only; used where the topic has one.
const FETCH_BY_NAME: i16 = 12;
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// What to do when the position is no longer, or not yet, in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfRange {
    /// Fail.
    Error,
    /// Go on at the first offset kept.
    Start,
    /// Go on at the end.
    End,
}

/// How a consumer behaves.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// How long a broker may wait for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth answering for.
    pub min_bytes: i32,
    /// Most bytes of one answer.
    pub fetch_max_bytes: i32,
    /// Most bytes of one partition in one answer.
    pub partition_max_bytes: i32,
    /// Positions outside the log.
    pub out_of_range: OutOfRange,
    /// How long a partition may go without leader or connection before that is an error.
    pub patience: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            fetch_max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            out_of_range: OutOfRange::Error,
            patience: Duration::from_secs(60),
        }
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Partition it came from.
    pub partition: i32,
    /// Leader epoch of its batch.
    pub leader_epoch: i32,
    /// Whether the broker's clock made the timestamp.
    pub log_append_time: bool,
    /// Offset, timestamp and content.
    pub at: Positioned,
}

struct Assigned {
    position: i64,
    high_watermark: i64,
    paused_until: Instant,
    failing_since: Option<Instant>,
}

struct Fetched {
    broker: i32,
    asked: Vec<(i32, i64)>,
    result: Result<FetchResponse>,
}

/// Reads partitions of one topic.
pub struct Consumer {
    client: Client,
    topic: String,
    options: ConsumerOptions,
    partitions: BTreeMap<i32, Assigned>,
    under_way: JoinSet<Fetched>,
    busy: HashMap<i32, Vec<i32>>,
    ready: VecDeque<ConsumedRecord>,
    stale: bool,
    /// Order in which partitions are asked, rotated so that none starves.
    turn: usize,
}

impl Consumer {
    /// A consumer of `topic` starting at these offsets.
    pub fn new(client: Client, topic: &str, start: &BTreeMap<i32, i64>, options: ConsumerOptions) -> Self {
        let now = Instant::now();
        let partitions = start
            .iter()
            .map(|(p, o)| {
                (*p, Assigned { position: *o, high_watermark: -1, paused_until: now, failing_since: None })
            })
            .collect();
        Self {
            client,
            topic: topic.to_owned(),
            options,
            partitions,
            under_way: JoinSet::new(),
            busy: HashMap::new(),
            ready: VecDeque::new(),
            stale: false,
            turn: 0,
        }
    }

    /// Offset of the next record of a partition; None if it is not assigned.
    pub fn position(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).map(|p| p.position)
    }

    /// Last high watermark seen, -1 before the first answer.
    pub fn high_watermark(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).map(|p| p.high_watermark)
    }

    /// Partitions still read.
    pub fn assigned(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }

    /// Stops reading a partition.
    pub fn unassign(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.ready.retain(|r| r.partition != partition);
    }

    /// Waits up to `limit` for records; may come back empty when positions moved or the time is over.
    pub async fn poll(&mut self, limit: Duration) -> Result<Vec<ConsumedRecord>> {
        let deadline = Instant::now() + limit;
        loop {
            if !self.ready.is_empty() {
                return Ok(self.ready.drain(..).collect());
            }
            if self.stale {
                self.stale = false;
                // What goes wrong here shows as partitions without leader, which have their own time limit.
                let _ = self.client.refresh(Some(std::slice::from_ref(&self.topic)), false).await;
            }
            self.start_fetches()?;
            let wake = self.next_wake(deadline);
            tokio::select! {
                Some(done) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    match done {
                        Ok(fetched) => if self.take(fetched)? { return Ok(self.ready.drain(..).collect()) },
                        Err(e) if e.is_cancelled() => {}
                        Err(e) => return Err(Error::Invalid(format!("fetch task: {e}"))),
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if wake >= deadline { return Ok(Vec::new()) }
                }
            }
        }
    }

    /// The deadline, or the end of a partition's pause if that comes first.
    fn next_wake(&self, deadline: Instant) -> Instant {
        let now = Instant::now();
        self.partitions
            .values()
            .map(|p| p.paused_until)
            .filter(|t| *t > now)
            .min()
            .map_or(deadline, |t| t.min(deadline))
    }

    fn start_fetches(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut by_broker: BTreeMap<i32, Vec<(i32, i64, i32)>> = BTreeMap::new();
        let mut leaderless = Vec::new();
        for (index, assigned) in &self.partitions {
            if assigned.paused_until > now || self.busy.values().any(|b| b.contains(index)) {
                continue;
            }
            match self.client.leader(&self.topic, *index) {
                Some((id, epoch)) => {
                    by_broker.entry(id).or_default().push((*index, assigned.position, epoch))
                }
                None => leaderless.push(*index),
            }
        }
        for index in leaderless {
            self.pause(index, Error::kafka(5, format!("{}/{index}", self.topic)))?;
        }
        for (broker, mut parts) in by_broker {
            if self.busy.contains_key(&broker) {
                continue;
            }
            let shift = self.turn % parts.len();
            parts.rotate_left(shift);
            self.turn = self.turn.wrapping_add(1);
            self.busy.insert(broker, parts.iter().map(|p| p.0).collect());
            let (client, topic, options) = (self.client.clone(), self.topic.clone(), self.options.clone());
            self.under_way.spawn(async move {
                let asked = parts.iter().map(|p| (p.0, p.1)).collect();
                let result = fetch(&client, broker, &topic, &parts, &options).await;
                Fetched { broker, asked, result }
            });
        }
        Ok(())
    }

    /// Takes one answer in; true if it moved anything.
    fn take(&mut self, fetched: Fetched) -> Result<bool> {
        self.busy.remove(&fetched.broker);
        let answer = match fetched.result.and_then(|a| {
            Error::check(a.error_code, None, || format!("fetch from broker {}", fetched.broker)).map(|()| a)
        }) {
            Ok(answer) => answer,
            Err(e) if e.is_retriable() => {
                for (index, _) in fetched.asked {
                    self.pause(index, e.clone())?;
                }
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        let endpoints: HashMap<i32, Broker> = answer
            .node_endpoints
            .iter()
            .map(|e| {
                (e.node_id.0, Broker { id: e.node_id.0, host: e.host.to_string(), port: e.port, rack: None })
            })
            .collect();
        let mut moved = false;
        for partition in answer.responses.into_iter().flat_map(|t| t.partitions) {
            moved |= self.take_partition(partition, &fetched.asked, &endpoints)?;
        }
        Ok(moved)
    }

    fn take_partition(
        &mut self,
        data: PartitionData,
        asked: &[(i32, i64)],
        endpoints: &HashMap<i32, Broker>,
    ) -> Result<bool> {
        let index = data.partition_index;
        let Some(assigned) = self.partitions.get_mut(&index) else { return Ok(false) };
        if !asked.contains(&(index, assigned.position)) {
            return Ok(false);
        }
        match data.error_code {
            0 => {}
            OFFSET_OUT_OF_RANGE => return self.out_of_range(index, &data),
            code if is_stale_leader(code) || super::error::is_retriable(code) => {
                let (leader, epoch) = (data.current_leader.leader_id.0, data.current_leader.leader_epoch);
                let endpoint = endpoints.get(&leader).cloned();
                if self.client.hint_leader(&self.topic, index, leader, epoch, endpoint) {
                    return Ok(false);
                }
                self.pause(index, Error::kafka(code, format!("{}/{index}", self.topic)))?;
                return Ok(false);
            }
            code => return Err(Error::kafka(code, format!("{}/{index}", self.topic))),
        }
        assigned.high_watermark = data.high_watermark;
        assigned.failing_since = None;
        let before = assigned.position;
        read_batches(index, &mut assigned.position, data.records.unwrap_or_default(), &mut self.ready)
            .map_err(|e| Error::Records(format!("{}/{index} from offset {before}: {e}", self.topic)))?;
        Ok(assigned.position != before)
    }

    fn out_of_range(&mut self, index: i32, data: &PartitionData) -> Result<bool> {
        let error = || Error::Kafka {
            code: OFFSET_OUT_OF_RANGE,
            what: format!("{}/{index}", self.topic),
            message: self.partitions.get(&index).map(|p| {
                match (data.log_start_offset, data.high_watermark) {
                    (start, end) if start >= 0 && end >= 0 => {
                        format!("offset {}, the log has {start} to {end}", p.position)
                    }
                    _ => format!("offset {}", p.position),
                }
            }),
        };
        let position = match self.options.out_of_range {
            OutOfRange::Error => return Err(error()),
            OutOfRange::Start if data.log_start_offset >= 0 => data.log_start_offset,
            OutOfRange::End if data.high_watermark >= 0 => data.high_watermark,
            _ => return Err(error()),
        };
        tracing::warn!("{}; going on at {position}", error());
        if let Some(assigned) = self.partitions.get_mut(&index) {
            assigned.position = position;
        }
        Ok(true)
    }

    /// Leaves a partition alone for a moment and asks for fresh metadata; an error once patience is over.
    fn pause(&mut self, index: i32, error: Error) -> Result<()> {
        self.stale = true;
        let Some(assigned) = self.partitions.get_mut(&index) else { return Ok(()) };
        let now = Instant::now();
        let since = *assigned.failing_since.get_or_insert(now);
        if now.duration_since(since) > self.options.patience {
            return Err(error);
        }
        // Quick at first, for fail-overs; slower when it lasts.
        let pause =
            (now.duration_since(since) / 4).clamp(Duration::from_millis(20), Duration::from_millis(500));
        assigned.paused_until = now + pause;
        Ok(())
    }
}

/// Decodes what an answer holds from `position` on, and moves it.
fn read_batches(
    index: i32,
    position: &mut i64,
    mut bytes: Bytes,
    out: &mut VecDeque<ConsumedRecord>,
) -> Result<()> {
    while let Some((info, records)) = next_batch(&mut bytes)? {
        // The first batch may begin before the position: brokers never split one.
        for at in records.into_iter().filter(|r| r.offset >= *position) {
            let log_append_time = info.log_append_time();
            out.push_back(ConsumedRecord {
                partition: index,
                leader_epoch: info.partition_leader_epoch,
                log_append_time,
                at,
            });
        }
        *position = (*position).max(info.last_offset() + 1);
    }
    Ok(())
}

async fn fetch(
    client: &Client,
    broker: i32,
    topic: &str,
    parts: &[(i32, i64, i32)],
    options: &ConsumerOptions,
) -> Result<FetchResponse> {
    let connection = client.broker_connection(broker, Purpose::Fetch).await?;
    let id = client.topic_id(topic);
    let cap = if id.is_nil() { FETCH_BY_NAME } else { i16::MAX };
    let version = connection.version::<FetchRequest>(cap)?;
    let rows = parts
        .iter()
        .map(|(index, offset, epoch)| {
            FetchPartition::default()
                .with_partition(*index)
                .with_fetch_offset(*offset)
                .with_current_leader_epoch(*epoch)
                .with_partition_max_bytes(options.partition_max_bytes)
        })
        .collect();
    let mut row = FetchTopic::default().with_partitions(rows);
    if version > FETCH_BY_NAME {
        row.topic_id = id;
    } else {
        row.topic = topic_name(topic);
    }
    let request = FetchRequest::default()
        .with_max_wait_ms(options.max_wait.as_millis() as i32)
        .with_min_bytes(options.min_bytes)
        .with_max_bytes(options.fetch_max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![row]);
    // A full queue cannot last: this connection carries one fetch at a time.
    let mut backoff = Backoff::new(options.patience);
    loop {
        if let Some(reply) = connection.try_send(&request, version, options.max_wait)? {
            return reply.wait().await;
        }
        if !backoff.wait().await {
            return Err(Error::TimedOut {
                what: format!("fetch from broker {broker}"),
                limit: options.patience,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Codec;
    use crate::client::records::{BatchBuilder, ProducerStamp, Record};

    fn batch(base: i64, count: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        for _ in 0..count {
            builder.push(&Record::default(), 1);
        }
        let mut bytes = builder.finish(Codec::None, ProducerStamp::default()).unwrap().to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes
    }

    #[test]
    fn read_batches_position_inside_first_batch_skips_earlier_records() {
        let bytes = [batch(10, 5), batch(15, 2)].concat();
        let (mut position, mut out) = (12, VecDeque::new());
        read_batches(3, &mut position, bytes.into(), &mut out).unwrap();
        let offsets: Vec<i64> = out.iter().map(|r| r.at.offset).collect();
        assert_eq!(offsets, [12, 13, 14, 15, 16]);
        assert_eq!(position, 17);
    }

    #[test]
    fn read_batches_cut_last_batch_is_left_for_next_fetch() {
        let mut bytes = [batch(0, 3), batch(3, 3)].concat();
        bytes.truncate(bytes.len() - 1);
        let (mut position, mut out) = (0, VecDeque::new());
        read_batches(0, &mut position, bytes.into(), &mut out).unwrap();
        assert_eq!((position, out.len()), (3, 3));
    }
}
