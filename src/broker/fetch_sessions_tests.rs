//! Fetch sessions: Kafka's rules one by one, and random readers held against what a full fetch would have said.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn name(topic: &str) -> TopicKey {
    TopicKey::Name(topic.into())
}

fn key(topic: &str, partition: i32) -> PartitionKey {
    PartitionKey { topic: name(topic), partition }
}

fn ask(key: &PartitionKey, offset: i64) -> Asked {
    Asked { key: key.clone(), offset, max_bytes: 1 << 20, current_leader_epoch: -1, last_fetched_epoch: -1 }
}

fn asks(count: i32) -> Vec<Asked> {
    (0..count).map(|partition| ask(&key("t", partition), 0)).collect()
}

fn at(high_watermark: i64) -> Told {
    Told { high_watermark, ..Told::default() }
}

fn full(session_id: i32, epoch: i32, asked: Vec<Asked>) -> Opening {
    Opening { session_id, epoch, asked, ..Opening::default() }
}

/// Ids 1, 2, 3 ...
fn counting(from: i32) -> impl FnMut() -> i32 {
    let mut last = from - 1;
    move || {
        last += 1;
        last
    }
}

/// A full fetch of so many partitions that asks for a session; its id.
fn begin(cache: &mut Cache, now: u64, count: i32) -> i32 {
    let opened = cache.open(now, full(0, 0, asks(count))).unwrap();
    let told = vec![at(5); opened.asked.len()];
    settle(cache, now, &opened, &told, rand::random).unwrap().session_id
}

/// Settles as `NodeHandle` does.
fn settle(
    cache: &mut Cache,
    now: u64,
    opened: &Opened,
    told: &[Told],
    draw: impl FnMut() -> i32,
) -> Result<Settled, SessionError> {
    let begun = prepare(opened, told);
    cache.settle(now, opened, told, begun, draw)
}

fn go_on(cache: &mut Cache, now: u64, id: i32, epoch: i32) -> Result<Settled, SessionError> {
    let opened = cache.open(now, full(id, epoch, Vec::new()))?;
    let told = vec![at(5); opened.asked.len()];
    settle(cache, now, &opened, &told, counting(1))
}

#[test]
fn session_goes_on_by_its_epochs_and_leaves_out_what_is_known() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 3);
    assert_ne!(id, 0);
    for epoch in 1..4 {
        let settled = go_on(&mut cache, 1, id, epoch).unwrap();
        assert_eq!(settled, Settled { session_id: id, kept: Some(vec![false; 3]) });
    }
    assert_eq!(go_on(&mut cache, 1, id, 3), Err(SessionError::InvalidEpoch), "it came before");
    assert_eq!(go_on(&mut cache, 1, id, 5), Err(SessionError::InvalidEpoch), "one is missing");
    assert_eq!(go_on(&mut cache, 1, id + 1, 1), Err(SessionError::UnknownId));
    assert_eq!(go_on(&mut cache, 1, 0, 1), Err(SessionError::UnknownId));
    assert!(go_on(&mut cache, 1, id, 4).is_ok(), "errors change nothing");
    let stats = cache.stats();
    assert_eq!((stats.sessions, stats.partitions, stats.evictions, stats.continued), (1, 3, 0, 4));
}

#[test]
fn epoch_after_the_last_number_is_one() {
    assert_eq!((next_epoch(0), next_epoch(7), next_epoch(i32::MAX)), (1, 8, 1));
}

#[test]
fn each_reason_to_tell_of_a_partition_is_one() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 1);
    let mut epoch = 0;
    let mut is_told = |told: Told| {
        epoch += 1;
        let opened = cache.open(0, full(id, epoch, Vec::new())).unwrap();
        settle(&mut cache, 0, &opened, &[told], counting(1)).unwrap().kept.unwrap()[0]
    };
    assert!(!is_told(at(5)), "nothing new");
    assert!(is_told(at(6)), "the high watermark moved");
    assert!(!is_told(at(6)));
    assert!(is_told(Told { log_start: 2, ..at(6) }), "the log start moved");
    assert!(!is_told(Told { log_start: 2, ..at(6) }));
    let same = Told { log_start: 2, ..at(6) };
    for told in [
        Told { has_records: true, ..same },
        Told { has_hint: true, ..same },
        Told { has_records: true, ..same },
    ] {
        assert!(is_told(told) && is_told(told), "every time: {told:?}");
        assert!(!is_told(same));
    }
    let failed = Told { has_error: true, ..same };
    assert!(is_told(failed) && is_told(failed), "errors are told every time");
    assert!(is_told(same), "and their end is");
    assert!(!is_told(same));
}

#[test]
fn first_answer_with_an_error_makes_its_end_be_told() {
    let mut cache = Cache::new(10);
    let opened = cache.open(0, full(0, 0, asks(2))).unwrap();
    let told = [at(5), Told { has_error: true, ..at(5) }];
    let id = settle(&mut cache, 0, &opened, &told, counting(9)).unwrap().session_id;
    assert_eq!(go_on(&mut cache, 0, id, 1).unwrap().kept, Some(vec![false, true]));
}

#[test]
fn partitions_are_added_changed_and_forgotten() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 3);
    let request = Opening {
        asked: vec![ask(&key("t", 1), 77), ask(&key("u", 0), 8)],
        forgotten: vec![key("t", 0), key("nobody", 4)],
        ..full(id, 1, Vec::new())
    };
    let opened = cache.open(0, request).unwrap();
    let asked: Vec<_> = opened.asked.iter().map(|one| (one.key.clone(), one.offset)).collect();
    assert_eq!(asked, [(key("t", 1), 77), (key("t", 2), 0), (key("u", 0), 8)]);
    let settled = settle(&mut cache, 0, &opened, &[at(5); 3], counting(1)).unwrap();
    assert_eq!(settled.kept, Some(vec![false, false, true]), "of the new one all is news");
    assert_eq!(cache.stats().partitions, 3);
    let forgotten = vec![key("t", 1), key("t", 2), key("u", 0)];
    let opened = cache.open(0, Opening { forgotten, ..full(id, 2, Vec::new()) }).unwrap();
    assert!(opened.is_sessionless(), "nothing is left of it");
    assert_eq!(cache.stats(), Stats { continued: 1, ..Stats::default() });
}

#[test]
fn full_fetch_closes_the_session_it_names() {
    for epoch in [INITIAL_EPOCH, FINAL_EPOCH] {
        let mut cache = Cache::new(10);
        let id = begin(&mut cache, 0, 3);
        let opened = cache.open(0, full(id, epoch, Vec::new())).unwrap();
        assert_eq!(opened.is_sessionless(), epoch == FINAL_EPOCH);
        assert_eq!(
            settle(&mut cache, 0, &opened, &[], counting(1)),
            Ok(Settled::default()),
            "there is nothing in it"
        );
        assert_eq!(cache.stats(), Stats::default());
        assert_eq!(go_on(&mut cache, 0, id, 1), Err(SessionError::UnknownId));
    }
}

#[test]
fn request_that_wants_no_session_gets_none() {
    let mut cache = Cache::new(10);
    let opened = cache.open(0, full(0, FINAL_EPOCH, asks(2))).unwrap();
    assert_eq!(opened.asked.len(), 2);
    assert_eq!(settle(&mut cache, 0, &opened, &[at(5); 2], counting(1)), Ok(Settled::default()));
    let twice = cache.open(0, full(0, 0, vec![ask(&key("t", 0), 1), ask(&key("t", 0), 2)])).unwrap();
    let settled = settle(&mut cache, 0, &twice, &[at(5); 2], counting(1));
    assert_eq!(settled, Ok(Settled::default()), "a partition that stands in a request twice has no state");
    assert_eq!(cache.stats(), Stats::default());
}

#[test]
fn session_by_id_is_not_gone_on_with_by_name() {
    let mut cache = Cache::new(10);
    let by_id = PartitionKey { topic: TopicKey::Id(Uuid::from_u128(4)), partition: 0 };
    let opened = cache.open(0, Opening { by_id: true, ..full(0, 0, vec![ask(&by_id, 0)]) }).unwrap();
    let id = settle(&mut cache, 0, &opened, &[at(5)], counting(6)).unwrap().session_id;
    assert_eq!(cache.open(0, full(id, 1, Vec::new())).err(), Some(SessionError::TopicIds));
    assert!(cache.open(0, Opening { by_id: true, ..full(id, 1, Vec::new()) }).is_ok());
    let by_name = begin(&mut cache, 0, 1);
    let request = Opening { by_id: true, ..full(by_name, 1, Vec::new()) };
    assert_eq!(cache.open(0, request).err(), Some(SessionError::TopicIds));
}

#[tokio::test]
async fn later_request_ends_the_one_before_whichever_connection_it_came_by() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 2);
    let first = cache.open(0, full(id, 1, Vec::new())).unwrap();
    let second = cache.open(0, full(id, 2, Vec::new())).unwrap();
    first.overtaken().await;
    assert_eq!(settle(&mut cache, 0, &first, &[at(6); 2], counting(1)), Err(SessionError::InvalidEpoch));
    let kept = settle(&mut cache, 0, &second, &[at(6); 2], counting(1)).unwrap().kept;
    assert_eq!(kept, Some(vec![true, true]), "what the first would have told is told by the second");
    let third = cache.open(0, full(id, 3, Vec::new())).unwrap();
    let _anew = cache.open(0, full(id, 0, asks(2))).unwrap();
    third.overtaken().await;
    assert_eq!(settle(&mut cache, 0, &third, &[at(6); 2], counting(1)), Err(SessionError::InvalidEpoch));
}

#[test]
fn session_evicted_under_a_request_is_answered_in_full_and_the_next_one_told() {
    let mut cache = Cache::new(1);
    let id = begin(&mut cache, 0, 2);
    let opened = cache.open(1, full(id, 1, Vec::new())).unwrap();
    assert_ne!(begin(&mut cache, EVICTION_MS + 2, 1), 0, "the old one is stale");
    let settled = settle(&mut cache, EVICTION_MS + 2, &opened, &[at(5); 2], counting(1));
    assert_eq!(settled, Ok(Settled { session_id: id, kept: None }));
    assert_eq!(go_on(&mut cache, EVICTION_MS + 2, id, 2), Err(SessionError::UnknownId));
}

#[test]
fn full_cache_gives_up_what_is_stale_or_old_and_smaller_and_nothing_else() {
    let mut cache = Cache::new(2);
    assert_eq!(begin(&mut Cache::new(0), 0, 1), 0, "no slots, no sessions");
    let (small, large) = (begin(&mut cache, 0, 2), begin(&mut cache, 0, 5));
    assert_eq!(begin(&mut cache, EVICTION_MS, 9), 0, "neither is stale, and neither is old");
    let late = EVICTION_MS + 1;
    go_on(&mut cache, late, small, 1).unwrap();
    go_on(&mut cache, late, large, 1).unwrap();
    assert_eq!(begin(&mut cache, late, 2), 0, "the smallest of the old ones is as large");
    let newer = begin(&mut cache, late, 3);
    assert_ne!(newer, 0);
    assert_eq!(go_on(&mut cache, late, small, 2), Err(SessionError::UnknownId));
    assert_eq!(begin(&mut cache, late, 4), 0, "the new one is not old, the other one larger");
    go_on(&mut cache, late + EVICTION_MS, newer, 1).unwrap();
    assert_eq!(begin(&mut cache, late + EVICTION_MS, 1), 0, "it has to be more than that");
    assert_ne!(begin(&mut cache, late + EVICTION_MS + 1, 1), 0, "the large one is stale");
    assert_eq!(go_on(&mut cache, late + EVICTION_MS + 1, large, 2), Err(SessionError::UnknownId));
    let stats = cache.stats();
    assert_eq!((stats.sessions, stats.partitions, stats.evictions), (2, 4, 2));
}

#[test]
fn bytes_of_all_sessions_are_bounded_however_they_come() {
    let mut cache = Cache::new(1_000_000);
    let long: Arc<str> = "x".repeat(30_000).into();
    let one = |partition: i32| {
        let key = PartitionKey { topic: TopicKey::Name(long.clone()), partition };
        ask(&key, 0)
    };
    let many = |from: i32, count: i32| (from..from + count).map(one).collect::<Vec<_>>();
    let open = |cache: &mut Cache, asked: Vec<Asked>| {
        let opened = cache.open(0, full(0, 0, asked)).unwrap();
        let told = vec![at(1); opened.asked.len()];
        settle(cache, 0, &opened, &told, rand::random).unwrap().session_id
    };
    assert_eq!(open(&mut cache, many(0, 3_000)), 0, "too much for itself");
    assert_eq!(cache.stats().evictions, 0);
    let first = open(&mut cache, many(0, 1_000));
    let second = open(&mut cache, many(0, 1_000));
    assert!(first != 0 && second != 0);
    assert_eq!(open(&mut cache, many(0, 1_000)), 0, "there is no room for a third");
    assert!(cache.stats().bytes <= CACHE_BYTES);
    let grown = cache.open(0, full(second, 1, many(1_000, 1_000)));
    assert_eq!(grown.err(), Some(SessionError::UnknownId), "nor for one that grows");
    assert_eq!(cache.stats().evictions, 1);
    assert_ne!(open(&mut cache, many(0, 1_000)), 0, "and what it took is free again");
    assert!(cache.open(0, full(first, 1, many(500, 600))).is_ok(), "others go on");
    assert!(cache.stats().bytes <= CACHE_BYTES);
}

/// A small session of somebody was given up for one that then found no room all the same.
#[test]
fn nobody_is_given_up_for_a_session_that_has_no_room_even_then() {
    let mut cache = Cache::new(1_000);
    let long: Arc<str> = "x".repeat(30_000).into();
    let many = |count: i32| {
        let key = |partition| PartitionKey { topic: TopicKey::Name(long.clone()), partition };
        (0..count).map(|partition| ask(&key(partition), 0)).collect::<Vec<_>>()
    };
    let open = |cache: &mut Cache, now, asked: Vec<Asked>| {
        let opened = cache.open(now, full(0, 0, asked)).unwrap();
        let told = vec![at(1); opened.asked.len()];
        settle(cache, now, &opened, &told, rand::random).unwrap().session_id
    };
    let small = begin(&mut cache, 0, 1);
    let late = EVICTION_MS + 1;
    go_on(&mut cache, late, small, 1).unwrap();
    // As large as can be, and new.
    assert_ne!(open(&mut cache, late, many(1_500)), 0);
    assert_eq!(open(&mut cache, late, many(1_400)), 0, "it would need more than the small one has");
    assert_eq!(cache.stats().evictions, 0);
    assert!(go_on(&mut cache, late, small, 2).is_ok(), "the small one is still there");
    assert_ne!(open(&mut cache, late, many(700)), 0, "where there is room, nobody goes");
    assert_eq!(cache.stats().evictions, 0);
}

/// Requests of one session may overtake each other on two connections; sessions of others are opened, closed and given up meanwhile.
#[test]
fn two_requests_of_one_session_in_flight_the_later_stays_and_the_books_stay_right() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 3);
    let first = cache.open(0, full(id, 1, Vec::new())).unwrap();
    let second = cache.open(0, full(id, 2, vec![ask(&key("t", 1), 9)])).unwrap();
    assert_eq!(settle(&mut cache, 0, &first, &[at(6); 3], counting(1)), Err(SessionError::InvalidEpoch));
    let settled = settle(&mut cache, 0, &second, &[at(6); 3], counting(1)).unwrap();
    assert_eq!(settled.kept, Some(vec![true; 3]), "what the first was not told the second is");

    let cache = Cache::new(3);
    let accepted = std::sync::atomic::AtomicUsize::new(0);
    let client = |seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        for now in 0..2_000 {
            // Four clients that all believe in the same few sessions.
            let (id, epoch) = (rng.random_range(0..6), rng.random_range(0..4));
            let Ok(opened) = cache.open(now * EVICTION_MS / 8, full(id, epoch, asks(rng.random_range(0..9))))
            else {
                continue;
            };
            let told = vec![at(5); opened.asked.len()];
            let begun = prepare(&opened, &told);
            let draw = || rng.random_range(1..6);
            let settled = cache.settle(now * EVICTION_MS / 8, &opened, &told, begun, draw);
            accepted
                .fetch_add(usize::from(settled.is_ok() && epoch > 0), std::sync::atomic::Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|seed| drop(scope.spawn(move || client(seed))));
    });
    assert!(accepted.into_inner() > 0, "no session ever went on");
    let books = locked(&cache.books);
    let sessions = books.sessions.values().map(|booked| booked.session.clone()).collect::<Vec<_>>();
    let sum = |of: fn(&Session) -> usize| sessions.iter().map(|session| of(&locked(session))).sum::<usize>();
    assert_eq!(books.partitions, sum(|session| session.partitions.len()));
    assert_eq!(books.bytes, sum(|session| session.bytes));
    assert_eq!((books.by_use.len(), books.sessions.len() <= 3), (sessions.len(), true));
}

/// Tables keep their room when entries go: a session that forgot nearly everything once counted 288 bytes and held 5 MB.
#[test]
fn what_was_forgotten_takes_no_room() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 50_000);
    let forgotten = (1..50_000).map(|partition| key("t", partition)).collect();
    let opened = cache.open(0, Opening { forgotten, ..full(id, 1, Vec::new()) }).unwrap();
    assert_eq!(opened.asked.len(), 1);
    let session = locked(&cache.books).session(id).unwrap();
    let session = locked(&session);
    assert_eq!(cache.stats().bytes, session.bytes);
    let room = session.places.capacity() * (size_of::<PartitionKey>() + 8);
    assert!(room <= 100 * ENTRY_BYTES, "{room} bytes for one partition");
}

#[test]
fn topic_made_anew_under_its_name_is_another_one_by_id() {
    let mut cache = Cache::new(10);
    let by_id = |id| PartitionKey { topic: TopicKey::Id(Uuid::from_u128(id)), partition: 0 };
    let opened = cache.open(0, Opening { by_id: true, ..full(0, 0, vec![ask(&by_id(1), 7)]) }).unwrap();
    let id = settle(&mut cache, 0, &opened, &[at(5)], counting(1)).unwrap().session_id;
    // It was deleted: told each time, until the client forgets it and asks for the new one in one request.
    let gone = Told { has_error: true, ..at(-1) };
    for epoch in 1..3 {
        let opened = cache.open(0, Opening { by_id: true, ..full(id, epoch, Vec::new()) }).unwrap();
        let settled = settle(&mut cache, 0, &opened, &[gone], counting(1)).unwrap();
        assert_eq!(settled.kept, Some(vec![true]));
    }
    let request = Opening {
        by_id: true,
        asked: vec![ask(&by_id(2), 0)],
        forgotten: vec![by_id(1)],
        ..full(id, 3, Vec::new())
    };
    let opened = cache.open(0, request).unwrap();
    assert_eq!(opened.asked, [ask(&by_id(2), 0)]);
    let settled = settle(&mut cache, 0, &opened, &[at(0)], counting(1)).unwrap();
    assert_eq!(settled.kept, Some(vec![true]), "of the new one nothing was told yet");
}

#[test]
fn session_outlives_its_last_epoch() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 1);
    let session = locked(&cache.books).session(id).unwrap();
    locked(&session).epoch = i32::MAX;
    assert!(go_on(&mut cache, 0, id, i32::MAX).is_ok());
    assert!(go_on(&mut cache, 0, id, 1).is_ok());
}

#[test]
fn partitions_of_a_session_are_bounded() {
    let mut cache = Cache::new(10);
    let most = SESSION_PARTITIONS as i32;
    assert_eq!(begin(&mut cache, 0, most + 1), 0);
    let id = begin(&mut cache, 0, most);
    assert_ne!(id, 0);
    let grown = cache.open(0, full(id, 1, vec![ask(&key("u", 0), 0)]));
    assert_eq!(grown.err(), Some(SessionError::UnknownId));
    assert_eq!(cache.stats(), Stats { evictions: 1, ..Stats::default() });
}

#[test]
fn whoever_got_records_waits_for_all_others() {
    let mut cache = Cache::new(10);
    let id = begin(&mut cache, 0, 4);
    let mut served = Vec::new();
    for epoch in 1..=8 {
        let opened = cache.open(0, full(id, epoch, Vec::new())).unwrap();
        let first = opened.asked[0].key.partition;
        served.push(first);
        // There is room for the first alone.
        let told: Vec<Told> = (0..4).map(|place| Told { has_records: place == 0, ..at(5) }).collect();
        settle(&mut cache, 0, &opened, &told, counting(1)).unwrap();
    }
    assert_eq!(served, [0, 1, 2, 3, 0, 1, 2, 3]);
}

/// A partition of the random world.
#[derive(Clone, Debug, Default, PartialEq)]
struct Log {
    high_watermark: i64,
    start: i64,
    has_error: bool,
}

/// What a reader knows of a partition, and how far it has read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    position: i64,
    log: Log,
    /// Position in the last request that named it.
    asked: Option<i64>,
}

/// A client that follows Kafka's `FetchSessionHandler`, the cache, and the logs it reads.
struct World {
    cache: Cache,
    now: u64,
    rng: StdRng,
    logs: BTreeMap<i32, Log>,
    /// By id: which incarnation of its topic each partition is of.
    ids: Option<BTreeMap<i32, u128>>,
    reader: BTreeMap<i32, Known>,
    /// Partitions that the session still knows and the reader does not want.
    to_forget: Vec<PartitionKey>,
    session: (i32, i32),
    incremental: usize,
    left_out: usize,
}

const PARTITIONS: i32 = 8;
const SEEDS: u64 = 200;

impl World {
    fn new(seed: u64) -> Self {
        Self {
            cache: Cache::new(2),
            now: 0,
            rng: StdRng::seed_from_u64(seed),
            logs: (0..PARTITIONS).map(|partition| (partition, Log::default())).collect(),
            ids: (seed % 2 == 1).then(|| (0..PARTITIONS).map(|partition| (partition, 1)).collect()),
            reader: [(0, Known::default())].into(),
            to_forget: Vec::new(),
            session: (0, 0),
            incremental: 0,
            left_out: 0,
        }
    }

    fn key(&self, partition: i32) -> PartitionKey {
        match &self.ids {
            Some(ids) => PartitionKey { topic: TopicKey::Id(Uuid::from_u128(ids[&partition])), partition },
            None => key("t", partition),
        }
    }

    /// The topic of a partition is deleted and made anew. By its id it is another one, and the client asks for that instead; by its name nobody
    /// can tell, and such a client is a case of its own.
    fn make_anew(&mut self, partition: i32) {
        let old = self.key(partition);
        let Some(id) = self.ids.as_mut().and_then(|ids| ids.get_mut(&partition)) else { return };
        *id += 1;
        self.logs.insert(partition, Log::default());
        if let Some(known) = self.reader.get_mut(&partition)
            && std::mem::take(known).asked.is_some()
        {
            self.to_forget.push(old);
        }
    }

    /// Something happens that no fetch asked for.
    fn happen(&mut self) {
        let partition = self.rng.random_range(0..PARTITIONS);
        let log = self.logs.get_mut(&partition).unwrap();
        match self.rng.random_range(0..11) {
            0..=3 => log.high_watermark += self.rng.random_range(1..4),
            4 => log.start = self.rng.random_range(log.start..=log.high_watermark),
            5 => log.has_error = !log.has_error,
            6 => {
                let key = self.key(partition);
                self.reader.entry(partition).or_default();
                self.to_forget.retain(|other| *other != key);
            }
            7 if self.reader.len() > 1 => {
                if self.reader.remove(&partition).is_some_and(|known| known.asked.is_some()) {
                    self.to_forget.push(self.key(partition));
                }
            }
            8 => self.now += self.rng.random_range(1..EVICTION_MS),
            9 => self.make_anew(partition),
            _ => {
                // Others want a slot.
                let count = self.rng.random_range(1..12);
                begin(&mut self.cache, self.now, count);
            }
        }
    }

    /// The request that `FetchSessionHandler` would send: everything, or what is new, asked otherwise, and to be forgotten.
    fn request(&mut self) -> Opening {
        let is_full = self.session.1 <= 0;
        let mut request = full(self.session.0, self.session.1, Vec::new());
        request.by_id = self.ids.is_some();
        let keys: BTreeMap<i32, PartitionKey> =
            self.reader.keys().map(|partition| (*partition, self.key(*partition))).collect();
        for (partition, known) in &mut self.reader {
            if is_full || known.asked != Some(known.position) {
                request.asked.push(ask(&keys[partition], known.position));
                known.asked = Some(known.position);
            }
        }
        let forgotten = std::mem::take(&mut self.to_forget);
        if !is_full {
            request.forgotten = forgotten;
        }
        request
    }

    /// What a broker says of a partition in full, while there is room for records.
    fn read(&self, asked: &Asked, room: &mut i64) -> (Told, i64) {
        let log = &self.logs[&asked.key.partition];
        let mut told = at(log.high_watermark);
        told.log_start = log.start;
        told.has_error = log.has_error || asked.offset < log.start;
        let there = (log.high_watermark - asked.offset).max(0);
        let records = if told.has_error { 0 } else { there.min(*room) };
        *room -= records;
        told.has_records = records > 0;
        (told, records)
    }

    fn exchange(&mut self, seed: u64) {
        let request = self.request();
        let is_full = self.session.1 <= 0;
        let id = self.session.0;
        let opened = match self.cache.open(self.now, request) {
            Ok(opened) => opened,
            Err(error) => {
                // An evicted session is the one thing that this client can meet.
                assert_eq!(error, SessionError::UnknownId, "seed {seed}");
                self.begin_anew((0, 0));
                return;
            }
        };
        if !is_full {
            self.incremental += 1;
            let wanted: BTreeSet<i32> = self.reader.keys().copied().collect();
            let asked: BTreeSet<i32> = opened.asked.iter().map(|one| one.key.partition).collect();
            assert_eq!(asked, wanted, "seed {seed}: the session is what the reader wants");
            assert_eq!(opened.asked.len(), wanted.len(), "seed {seed}: once");
            for one in &opened.asked {
                assert_eq!(
                    one.offset, self.reader[&one.key.partition].position,
                    "seed {seed}: where it stands"
                );
            }
        }
        // The fetch waits, and the world does not.
        (0..self.rng.random_range(0..3)).for_each(|_| {
            if self.rng.random_bool(0.7) {
                let partition = self.rng.random_range(0..PARTITIONS);
                self.logs.get_mut(&partition).unwrap().high_watermark += 1;
            } else {
                self.now += EVICTION_MS / 3;
                begin(&mut self.cache, self.now, 9);
            }
        });
        let mut room = self.rng.random_range(0..6);
        let rows: Vec<_> = opened.asked.iter().map(|asked| self.read(asked, &mut room)).collect();
        let told: Vec<Told> = rows.iter().map(|(told, _)| *told).collect();
        let draw = self.rng.random_range(1..1 << 30);
        let settled = settle(&mut self.cache, self.now, &opened, &told, counting(draw));
        let settled = settled.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if self.rng.random_bool(0.1) {
            // The answer is lost: the client closes the session and begins anew.
            self.begin_anew((id, 0));
            return;
        }
        self.take(seed, &opened, &rows, &settled);
        self.session = match (settled.session_id, self.session.1) {
            (0, _) => (0, 0),
            (id, epoch) => (id, next_epoch(epoch.max(0))),
        };
        if self.session.0 == 0 {
            self.begin_anew((0, 0));
        }
    }

    fn begin_anew(&mut self, session: (i32, i32)) {
        self.session = session;
        self.to_forget.clear();
        self.reader.values_mut().for_each(|known| known.asked = None);
    }

    /// Takes an answer in; then the reader knows all that a full answer of that moment says.
    fn take(&mut self, seed: u64, opened: &Opened, rows: &[(Told, i64)], settled: &Settled) {
        for (place, (asked, (told, records))) in opened.asked.iter().zip(rows).enumerate() {
            let known = self.reader.get_mut(&asked.key.partition).expect("it was asked for");
            if settled.kept.as_ref().is_some_and(|kept| !kept[place]) {
                assert_eq!(*records, 0, "seed {seed}: records are never left out");
                self.left_out += 1;
            } else {
                let (high_watermark, start) = (told.high_watermark, told.log_start);
                known.log = Log { high_watermark, start, has_error: told.has_error };
                known.position += records;
            }
            let full = (told.high_watermark, told.log_start, told.has_error);
            let log = &known.log;
            let partition = asked.key.partition;
            assert_eq!(
                (log.high_watermark, log.start, log.has_error),
                full,
                "seed {seed}: of partition {partition} an incremental reader knows another end than a full one"
            );
            if told.has_error && known.position < told.log_start {
                known.position = told.log_start;
            }
        }
    }
}

/// Whatever happens between and during its fetches, answers that are lost and sessions that are evicted included, a reader with a session
/// knows after each answer what a full answer would have told it, and reads every record once. `FETCH_SESSIONS_SEED=n cargo test
/// --release --lib incremental_reader` replays one.
#[test]
pub(crate) fn incremental_reader_knows_what_a_full_reader_is_told() {
    let only = std::env::var("FETCH_SESSIONS_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = only.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let (mut incremental, mut left_out, mut evictions) = (0, 0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..300 {
            (0..world.rng.random_range(0..4)).for_each(|_| world.happen());
            world.exchange(seed);
        }
        world.logs.values_mut().for_each(|log| log.has_error = false);
        (0..400).for_each(|_| world.exchange(seed));
        for (partition, known) in &world.reader {
            let behind = world.logs[partition].high_watermark - known.position;
            assert!(
                behind < 40,
                "seed {seed}: partition {partition} gets no turn, {behind} records are unread"
            );
        }
        (incremental, left_out) = (incremental + world.incremental, left_out + world.left_out);
        evictions += world.cache.stats().evictions;
    }
    assert!(incremental > 0 && left_out > 0 && evictions > 0, "{incremental} {left_out} {evictions}");
}
