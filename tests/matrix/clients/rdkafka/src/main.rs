//! Does the jobs of the client matrix with rust-rdkafka (librdkafka), polled by one thread.
//!
//! Usage: JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...], or `version`. The last line of stdout is `ok`; any failure is said on stderr.

mod admin;
mod groups;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub type Done<T = ()> = Result<T, Box<dyn Error>>;

/// As pinned in Cargo.toml: a crate does not say its own.
const VERSION: &str = "0.39.0";
const VALUE_BYTES: usize = 200;
/// First timestamp of jobs that write or read by time, in ms.
const BASE_MILLIS: i64 = 1_700_000_000_000;
/// A job ends by itself before the driver ends it: at 90 s, or 150 s where a coordinator is killed.
const LIMIT: Duration = Duration::from_secs(85);
pub const CALL: Duration = Duration::from_secs(30);

/// A record as it was read.
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    key: Vec<u8>,
    pub value: Vec<u8>,
    millis: Option<i64>,
    headers: Vec<(String, Vec<u8>)>,
}

fn record(message: &BorrowedMessage) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let headers = headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()));
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().unwrap_or_default().to_vec(),
        millis: message.timestamp().to_millis(),
        headers: headers.collect(),
    }
}

/// What a member was told of its partitions.
#[derive(Default)]
pub struct State {
    pub held: BTreeSet<i32>,
    pub revoked: HashSet<i32>,
    pub changes: usize,
}

/// Hears of rebalances.
#[derive(Default)]
pub struct Told(pub Mutex<State>);

impl ClientContext for Told {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        eprintln!("{facility}: {message}");
    }
}

impl ConsumerContext for Told {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(gone) = rebalance {
            let mut state = self.0.lock().unwrap();
            for row in gone.elements() {
                state.held.remove(&row.partition());
                state.revoked.insert(row.partition());
            }
            state.changes += 1;
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(come) = rebalance {
            let mut state = self.0.lock().unwrap();
            state.held.extend(come.elements().iter().map(|row| row.partition()));
            state.changes += 1;
        }
    }
}

/// Counts what the brokers took.
#[derive(Default)]
struct Delivered(Mutex<(usize, Option<KafkaError>)>);

impl ClientContext for Delivered {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        eprintln!("{facility}: {message}");
    }
}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = self.0.lock().unwrap();
        match result {
            Ok(_) => delivered.0 += 1,
            Err((error, _)) => delivered.1 = Some(error.clone()),
        }
    }
}

/// One job: its arguments and its end.
pub struct Run {
    job: String,
    bootstrap: String,
    pub topic: String,
    pub group: String,
    pub n: usize,
    pub partitions: usize,
    until: Instant,
}

/// What else stands in record i.
type More<'a> = &'a dyn Fn(usize) -> (Option<i64>, Option<OwnedHeaders>);

impl Run {
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Polls a condition until it holds or the job's time is over.
    pub fn await_that(&self, what: &str, mut holds: impl FnMut() -> Done<bool>) -> Done {
        while !holds()? {
            if Instant::now() > self.until {
                return Err(format!("{what}: not within the job's time").into());
            }
        }
        Ok(())
    }

    fn value(&self, i: usize) -> Vec<u8> {
        let mut value = format!("{}-{i} ", self.job).into_bytes();
        value.extend("kontiki ".bytes().cycle().take(VALUE_BYTES - value.len()));
        value
    }

    /// The number of the record in which this value came.
    pub fn number(&self, value: &[u8]) -> Done<usize> {
        let text = std::str::from_utf8(value)?;
        let rest = text.strip_prefix(&format!("{}-", self.job)).and_then(|rest| rest.split(' ').next());
        Ok(rest.ok_or_else(|| format!("a foreign value {text:.40}"))?.parse()?)
    }

    pub fn write(&self, records: std::ops::Range<usize>) -> Done {
        self.write_as("none", false, records, &|_| (None, None))
    }

    /// Produces with acks=all by the default partitioner, and waits for every acknowledgement.
    fn write_as(&self, codec: &str, idempotent: bool, records: std::ops::Range<usize>, more: More) -> Done {
        let mut config = self.config();
        config.set("acks", "all").set("compression.codec", codec).set("linger.ms", "5");
        config.set("enable.idempotence", idempotent.to_string());
        if !idempotent {
            // Retries must not change the order.
            config.set("max.in.flight.requests.per.connection", "1");
        }
        let producer = BaseProducer::from_config_and_context(&config, Delivered::default())?;
        let count = records.len();
        for i in records {
            let (value, key) = (self.value(i), format!("k{}", i % 50));
            let mut record = BaseRecord::to(&self.topic).key(&key).payload(&value);
            (record.timestamp, record.headers) = more(i);
            producer.send(record).map_err(|(error, _)| error)?;
            producer.poll(Duration::ZERO);
        }
        producer.flush(CALL)?;
        let delivered = producer.context().0.lock().unwrap();
        match &delivered.1 {
            Some(error) => Err(format!("not every record was taken: {error}").into()),
            None if delivered.0 != count => {
                Err(format!("{} of {count} records were taken", delivered.0).into())
            }
            None => Ok(()),
        }
    }

    /// A consumer of all partitions, without a group.
    fn reader(&self, start: Offset) -> Done<BaseConsumer<Told>> {
        let mut config = self.config();
        config.set("group.id", "unused").set("enable.auto.commit", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, Told::default())?;
        let mut places = TopicPartitionList::new();
        for p in 0..self.partitions as i32 {
            places.add_partition_offset(&self.topic, p, start)?;
        }
        if let Offset::Offset(_) = start {
            places = consumer.offsets_for_times(places, CALL)?;
        }
        consumer.assign(&places)?;
        Ok(consumer)
    }

    /// Reads these records, each exactly once and no other, and shows each.
    fn read_all(
        &self,
        records: std::ops::Range<usize>,
        start: Offset,
        mut look: impl FnMut(usize, &Record) -> Done,
    ) -> Done {
        let consumer = self.reader(start)?;
        let mut seen = HashSet::new();
        self.await_that("every record", || {
            if let Some(record) = poll(&consumer, 50)? {
                let i = self.number(&record.value)?;
                if !records.contains(&i) || !seen.insert(i) {
                    return Err(format!("record {i} came, twice or not to be read (of {records:?})").into());
                }
                look(i, &record)?;
            }
            Ok(seen.len() == records.len())
        })
    }

    fn keyed_order(&self) -> Done {
        self.write(0..self.n)?;
        let mut last: HashMap<Vec<u8>, (usize, i32)> = HashMap::new();
        self.read_all(0..self.n, Offset::Beginning, |i, record| {
            if record.key != format!("k{}", i % 50).into_bytes() {
                return Err(format!("record {i} has the key {:?}", record.key).into());
            }
            match last.insert(record.key.clone(), (i, record.partition)) {
                Some((before, _)) if before >= i => {
                    Err(format!("record {i} of its key came after {before}").into())
                }
                Some((_, home)) if home != record.partition => {
                    Err(format!("the key of record {i} is in two partitions").into())
                }
                _ => Ok(()),
            }
        })
    }

    fn headers(&self) -> Done {
        let wanted = |i: usize| {
            [("n", i.to_string().into_bytes()), ("empty", vec![]), ("binary", vec![0, 255, 254, i as u8, 10])]
        };
        let headers = |i| {
            let insert = |all: OwnedHeaders, (key, value): (_, Vec<u8>)| {
                all.insert(Header { key, value: Some(&value) })
            };
            (None, Some(wanted(i).into_iter().fold(OwnedHeaders::new(), insert)))
        };
        self.write_as("none", false, 0..self.n, &headers)?;
        self.read_all(0..self.n, Offset::Beginning, |i, record| {
            let same = record.headers.iter().map(|(key, value)| (key.as_str(), value.clone())).eq(wanted(i));
            same.then_some(())
                .ok_or_else(|| format!("record {i} came with the headers {:?}", record.headers).into())
        })
    }

    fn of_its_time(i: usize, record: &Record) -> Done {
        let is = record.millis == Some(BASE_MILLIS + i as i64);
        is.then_some(()).ok_or_else(|| format!("record {i} came with the time {:?}", record.millis).into())
    }

    fn timestamps(&self) -> Done {
        self.write_as("none", false, 0..self.n, &|i| (Some(BASE_MILLIS + i as i64), None))?;
        self.read_all(0..self.n, Offset::Beginning, Self::of_its_time)
    }

    /// A reader learns where the end is some time after it was made: see `fromEnd` in tests/matrix/go/jobs/jobs.go.
    fn from_end(&self) -> Done {
        let consumer = self.reader(Offset::End)?;
        let (mut seen, mut begun, mut next) = (HashSet::new(), HashSet::new(), self.n);
        let mut take = |seen: &mut HashSet<usize>, wait: u64| -> Done<usize> {
            let until = Instant::now() + Duration::from_millis(wait);
            while Instant::now() < until {
                if let Some(record) = poll(&consumer, 50)? {
                    let i = self.number(&record.value)?;
                    if i < self.n || !seen.insert(i) {
                        return Err(format!("record {i} came, twice or from before the end").into());
                    }
                    begun.insert(record.partition);
                }
            }
            Ok(begun.len())
        };
        self.await_that("one record of each partition", || {
            self.write(next..next + 50)?;
            next += 50;
            Ok(take(&mut seen, 500)? == self.partitions)
        })?;
        self.write(next..next + 100)?;
        self.await_that("the last records", || {
            take(&mut seen, 100)?;
            Ok((next..next + 100).all(|i| seen.contains(&i)))
        })
    }

    fn perform(&self) -> Done {
        if let Some(codec) = self.job.strip_prefix("produce-") {
            return self.write_as(codec, false, 0..self.n, &|_| (None, None));
        }
        match self.job.as_str() {
            "idempotent" => self.write_as("none", true, 0..self.n, &|_| (None, None)),
            "keyed-order" => self.keyed_order(),
            "headers" => self.headers(),
            "timestamps" => self.timestamps(),
            "from-start" => self.read_all(0..self.n, Offset::Beginning, |_, _| Ok(())),
            "from-end" => self.from_end(),
            "from-time" => self.read_all(500..self.n, Offset::Offset(BASE_MILLIS + 500), Self::of_its_time),
            "group" => self.shared_group(),
            "static" => self.static_members(),
            "cooperative" => self.cooperative(),
            "commit-resume" => self.commit_resume(),
            "coordinator-killed" => self.coordinator_killed(),
            "admin" => self.admin(),
            other => Err(format!("unknown job {other}").into()),
        }
    }
}

/// The next record, if there is one soon. Errors that librdkafka gets over by itself are only told.
pub fn poll(consumer: &BaseConsumer<Told>, millis: u64) -> Done<Option<Record>> {
    match consumer.poll(Duration::from_millis(millis)) {
        Some(Ok(message)) => Ok(Some(record(&message))),
        Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Err(error.into()),
        Some(Err(error)) => {
            eprintln!("poll: {error}");
            Ok(None)
        }
        None => Ok(None),
    }
}

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["version"] {
        println!("rust-rdkafka {VERSION} (librdkafka {})", rdkafka::util::get_rdkafka_version().1);
        return Ok(());
    }
    let [job, bootstrap, topic, group, pairs @ ..] = arguments.as_slice() else {
        return Err("usage: JOB BOOTSTRAP TOPIC GROUP [KEY=VALUE...]".into());
    };
    let number = |key: &str, default| {
        let value = pairs.iter().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        value.map_or(Ok(default), str::parse)
    };
    let limit = if job == "coordinator-killed" { LIMIT + Duration::from_secs(60) } else { LIMIT };
    let run = Run {
        job: job.clone(),
        bootstrap: bootstrap.clone(),
        topic: topic.clone(),
        group: group.clone(),
        n: number("n", 1000)?,
        partitions: number("partitions", 4)?,
        until: Instant::now() + limit,
    };
    if let Err(error) = run.perform() {
        eprintln!("{job}: {error}");
        std::process::exit(1);
    }
    println!("ok");
    Ok(())
}
