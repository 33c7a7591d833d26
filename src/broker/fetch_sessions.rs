//! Incremental fetch sessions (KIP-227): what a consumer asked for and was told last, so that neither is said again.
//!
//! Pure: the time and new ids are arguments. A node has one [`Cache`] (`NodeHandle` keeps it); the Fetch handler opens a session before it
//! reads and settles it before it answers, and nothing is held in between, however long the fetch waits. Which connection a request came by
//! does not matter. Not here: reading, and what a row of an answer says.
//!
//! Two kinds of locks: one for the books of all sessions, held for look-ups and sums alone, and one of each session, held while that is gone through,
//! which takes as long as it has partitions. A session's is taken before that of the books, never the other way round.
//!
//! Invariants
//! - A session's epoch goes up with every request that opens it. Who was overtaken by a later epoch changes nothing more and is answered
//!   INVALID_FETCH_SESSION_EPOCH: what a session knows was told to its client in this order.
//! - An incremental answer leaves out only what has no records, no error, no hint where to read, and the high watermark and log start
//!   that were told last.
//! - Bounded: sessions ([`Cache::new`]), partitions of one ([`SESSION_PARTITIONS`]), bytes of all ([`CACHE_BYTES`]). A later request of a
//!   session ends the one before, and a connection has one Fetch under way (`net::connection`): what a session expands to is not held many
//!   times over.
//! - No session belongs to a replica (those use the peer protocol), so of Kafka's rules of eviction only those of consumers are here.

use crate::mutation::{Mutation, on};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Most partitions of one session.
pub const SESSION_PARTITIONS: usize = 100_000;
/// Most bytes of all sessions, as `weight` counts them: some 230,000 partitions.
pub const CACHE_BYTES: usize = 64 << 20;
/// A session that was not used for so long may go whoever comes, and only one as old goes for a larger one; Kafka's
/// `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`, a constant there too.
pub const EVICTION_MS: u64 = 120_000;
/// Epoch of a full fetch that would have a session.
const INITIAL_EPOCH: i32 = 0;
/// Epoch of a full fetch that ends its session, or wants none.
const FINAL_EPOCH: i32 = -1;
/// What a partition takes, its topic's name aside: itself, its key twice, and the room that trees and tables leave free.
const ENTRY_BYTES: usize = 288;
const _: () = assert!(2 * (size_of::<Cached>() + 8) + 3 * (size_of::<PartitionKey>() + 8) <= ENTRY_BYTES);

/// How a request names a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicKey {
    /// Before v13.
    Name(Arc<str>),
    /// From v13 on.
    Id(Uuid),
}

/// A partition of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct PartitionKey {
    pub topic: TopicKey,
    pub partition: i32,
}

/// What a request asks of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Asked {
    pub key: PartitionKey,
    pub offset: i64,
    pub max_bytes: i32,
    pub current_leader_epoch: i32,
    pub last_fetched_epoch: i32,
}

/// What a request says of sessions.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// 0: none.
    pub session_id: i32,
    /// 0: a full fetch, and a new session if there is room; -1: a full fetch without one; else that of the session.
    pub epoch: i32,
    /// Whether it names topics by id.
    pub by_id: bool,
    /// All partitions, or of a session those that are new or asked otherwise.
    pub asked: Vec<Asked>,
    /// Partitions that leave the session.
    pub forgotten: Vec<PartitionKey>,
}

/// What a request is to read, and how its answer is to be settled.
#[derive(Debug)]
pub struct Opened {
    /// In the order in which room is given.
    pub asked: Vec<Asked>,
    context: Context,
}

#[derive(Debug)]
enum Context {
    Sessionless,
    /// The answer may begin a session.
    Full {
        by_id: bool,
    },
    /// `epoch` is the one after the request's; `places` those of `asked` in the session.
    Incremental {
        id: i32,
        epoch: i32,
        places: Vec<u64>,
        overtaken: CancellationToken,
    },
}

impl Opened {
    /// Whether the answer can be sent without being settled.
    pub fn is_sessionless(&self) -> bool {
        matches!(self.context, Context::Sessionless)
    }

    /// Resolves once a later request has opened or closed the session: this one's answer will be an error. Never, without one.
    pub async fn overtaken(&self) {
        match &self.context {
            Context::Incremental { overtaken, .. } => overtaken.cancelled().await,
            _ => std::future::pending().await,
        }
    }
}

/// What a full answer says of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Told {
    pub high_watermark: i64,
    pub log_start: i64,
    pub has_records: bool,
    pub has_error: bool,
    /// Another replica to read from, or an epoch that diverged.
    pub has_hint: bool,
}

/// How an answer goes out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// 0: there is no session.
    pub session_id: i32,
    /// Which rows are in it; None: all.
    pub kept: Option<Vec<bool>>,
}

/// Why a request has no session to go on with; each makes a client begin anew with a full fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Closed, evicted, grown too large, or of another broker.
    #[error("no such fetch session")]
    UnknownId,
    /// A request is missing, came twice, or was overtaken.
    #[error("not the epoch of the fetch session")]
    InvalidEpoch,
    /// The session names topics by id and the request by name, or the other way round.
    #[error("the fetch session names topics otherwise")]
    TopicIds,
}

/// Figures for /metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions there are.
    pub sessions: usize,
    /// Partitions in them.
    pub partitions: usize,
    /// What they take, in bytes.
    pub bytes: usize,
    /// Sessions given up for others, or for having grown too large.
    pub evictions: u64,
    /// Requests that went on with a session.
    pub continued: u64,
}

/// One partition of a session.
#[derive(Debug)]
struct Cached {
    asked: Asked,
    /// Told last; -1 after an error, so that its end is told.
    high_watermark: i64,
    log_start: i64,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    /// Of the next request.
    epoch: i32,
    /// By place: who got records goes to the end, so that all get their turn.
    partitions: BTreeMap<u64, Cached>,
    places: HashMap<PartitionKey, u64>,
    next_place: u64,
    bytes: usize,
    /// Of the request that opened it last.
    overtaken: CancellationToken,
}

/// A new session; made outside the lock of the books, for it may be large.
#[derive(Debug)]
pub struct Begun(Session);

/// The session that the answer of a full fetch begins, if it may.
pub fn prepare(opened: &Opened, told: &[Told]) -> Option<Begun> {
    match opened.context {
        Context::Full { by_id } => Session::of(by_id, &opened.asked, told).map(Begun),
        _ => None,
    }
}

/// Bytes a partition counts for. Each has its topic's name for itself, as far as anyone knows.
fn weight(key: &PartitionKey) -> usize {
    match &key.topic {
        TopicKey::Name(name) => ENTRY_BYTES + name.len(),
        TopicKey::Id(_) => ENTRY_BYTES,
    }
}

fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

impl Session {
    fn new(by_id: bool) -> Self {
        Self {
            by_id,
            epoch: next_epoch(INITIAL_EPOCH),
            partitions: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
            bytes: 0,
            overtaken: CancellationToken::new(),
        }
    }

    /// A session of what a full fetch asked and was told; None if there is nothing in it, too much, or a partition twice.
    fn of(by_id: bool, asked: &[Asked], told: &[Told]) -> Option<Self> {
        if !(1..=SESSION_PARTITIONS).contains(&asked.len()) {
            return None;
        }
        let mut session = Self::new(by_id);
        for (asked, told) in asked.iter().zip(told) {
            if session.places.contains_key(&asked.key) {
                return None;
            }
            let place = session.ask(asked.clone());
            let cached = session.partitions.get_mut(&place)?;
            cached.high_watermark = if told.has_error { -1 } else { told.high_watermark };
            cached.log_start = told.log_start;
        }
        Some(session)
    }

    /// Asks for a partition, or otherwise for one that is there; its place.
    fn ask(&mut self, asked: Asked) -> u64 {
        if let Some(place) = self.places.get(&asked.key)
            && let Some(cached) = self.partitions.get_mut(place)
        {
            // The name stays the one that is counted.
            cached.asked = Asked { key: cached.asked.key.clone(), ..asked };
            return *place;
        }
        self.bytes += weight(&asked.key);
        let place = self.take_place();
        self.places.insert(asked.key.clone(), place);
        self.partitions.insert(place, Cached { asked, high_watermark: -1, log_start: -1 });
        place
    }

    fn forget(&mut self, key: &PartitionKey) {
        if let Some(place) = self.places.remove(key) {
            self.partitions.remove(&place);
            self.bytes -= weight(key);
        }
    }

    /// Gives back the room of partitions that were forgotten; tables do not do so by themselves.
    fn shrink(&mut self) {
        if self.places.capacity() > 4 * self.places.len() + 64 {
            self.places.shrink_to(2 * self.places.len());
        }
    }

    fn take_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    /// Whether a row belongs into the answer, which then has been told.
    fn tell(&mut self, place: u64, told: &Told) -> bool {
        let Some(cached) = self.partitions.get_mut(&place) else { return true };
        let is_moved = cached.high_watermark != told.high_watermark && !on(Mutation::OmitMovedWatermark);
        let is_news = told.has_records || told.has_error || told.has_hint || is_moved;
        let is_news = is_news || cached.log_start != told.log_start;
        cached.high_watermark = if told.has_error { -1 } else { told.high_watermark };
        cached.log_start = told.log_start;
        if told.has_records
            && let Some(cached) = self.partitions.remove(&place)
        {
            let last = self.take_place();
            self.places.insert(cached.asked.key.clone(), last);
            self.partitions.insert(last, cached);
        }
        is_news
    }
}

/// A session in the books.
#[derive(Debug)]
struct Booked {
    session: Arc<Mutex<Session>>,
    created: u64,
    used: u64,
    /// Partitions when it was used last: its rank among those that may be evicted.
    rank: usize,
    /// Bytes then.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Books {
    sessions: HashMap<i32, Booked>,
    /// By when they were used last.
    by_use: BTreeSet<(u64, i32)>,
    /// By partitions: those that were old enough to be evicted when they were used last.
    by_rank: BTreeSet<(usize, i32)>,
    partitions: usize,
    bytes: usize,
    evictions: u64,
    continued: u64,
}

/// All sessions of a node.
#[derive(Debug)]
pub struct Cache {
    slots: usize,
    books: Mutex<Books>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic elsewhere left half-changed would be one client's session, and that client notices.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// A cache of at most so many sessions (`max.incremental.fetch.session.cache.slots`; 0: none).
    pub fn new(slots: usize) -> Self {
        Self { slots, books: Mutex::default() }
    }

    /// Takes a request; says what is to be read for it.
    ///
    /// # Errors
    /// It goes on with a session that is not there, or not as it thinks.
    pub fn open(&self, now: u64, request: Opening) -> Result<Opened, SessionError> {
        let (id, epoch) = (request.session_id, request.epoch);
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            let closed = locked(&self.books).remove(id);
            if let Some(closed) = closed {
                locked(&closed.session).overtaken.cancel();
            }
            let by_id = request.by_id;
            let context = if epoch == FINAL_EPOCH { Context::Sessionless } else { Context::Full { by_id } };
            return Ok(Opened { asked: request.asked, context });
        }
        let shared = locked(&self.books).session(id).ok_or(SessionError::UnknownId)?;
        let mut session = locked(&shared);
        self.go_on(now, &shared, &mut session, request)
    }

    fn go_on(
        &self,
        now: u64,
        shared: &Arc<Mutex<Session>>,
        session: &mut Session,
        request: Opening,
    ) -> Result<Opened, SessionError> {
        let Opening { session_id: id, epoch, by_id, asked, forgotten } = request;
        if session.epoch != epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.by_id != by_id {
            return Err(SessionError::TopicIds);
        }
        session.overtaken.cancel();
        for one in &asked {
            session.ask(one.clone());
        }
        forgotten.iter().for_each(|key| session.forget(key));
        session.shrink();
        if session.partitions.is_empty() {
            locked(&self.books).remove_this(id, shared);
            return Ok(Opened { asked, context: Context::Sessionless });
        }
        locked(&self.books).book(now, id, shared, (session.partitions.len(), session.bytes))?;
        session.epoch = next_epoch(epoch);
        session.overtaken = CancellationToken::new();
        let context = Context::Incremental {
            id,
            epoch: session.epoch,
            places: session.partitions.keys().copied().collect(),
            overtaken: session.overtaken.clone(),
        };
        let asked = session.partitions.values().map(|cached| cached.asked.clone()).collect();
        Ok(Opened { asked, context })
    }

    /// Says how the answer of an opened request goes out; `told` = what it would say in full, in the order of `asked`; `begun` = what
    /// [`prepare`] made of it. `draw` gives random numbers for the id of a new session.
    ///
    /// # Errors
    /// A later request of the session has come meanwhile.
    pub fn settle(
        &self,
        now: u64,
        opened: &Opened,
        told: &[Told],
        begun: Option<Begun>,
        draw: impl FnMut() -> i32,
    ) -> Result<Settled, SessionError> {
        debug_assert_eq!(opened.asked.len(), told.len(), "one row per partition");
        match &opened.context {
            Context::Sessionless => Ok(Settled::default()),
            Context::Full { .. } => {
                let session_id = begun.map_or(0, |Begun(session)| self.admit(now, session, draw));
                Ok(Settled { session_id, kept: None })
            }
            Context::Incremental { id, epoch, places, overtaken } => {
                // Evicted meanwhile: all that there is to say. The next request is told that there is no such session; told so by the
                // id 0 in an answer, franz-go would never ask this broker for a session again.
                let all = Settled { session_id: *id, kept: None };
                let shared = locked(&self.books).session(*id);
                let mut session = shared.as_ref().map(|shared| locked(shared));
                if overtaken.is_cancelled() {
                    return Err(SessionError::InvalidEpoch);
                }
                let Some(session) = session.as_mut().filter(|session| session.epoch == *epoch) else {
                    return Ok(all);
                };
                let kept = places.iter().zip(told).map(|(place, told)| session.tell(*place, told));
                Ok(Settled { kept: Some(kept.collect()), ..all })
            }
        }
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let books = locked(&self.books);
        Stats {
            sessions: books.sessions.len(),
            partitions: books.partitions,
            bytes: books.bytes,
            evictions: books.evictions,
            continued: books.continued,
        }
    }

    /// Takes a new session in if there is room for it, or can be made; its id, else 0.
    fn admit(&self, now: u64, session: Session, mut draw: impl FnMut() -> i32) -> i32 {
        let (rank, bytes) = (session.partitions.len(), session.bytes);
        let session = Arc::new(Mutex::new(session));
        let mut books = locked(&self.books);
        let Some(victims) = books.victims(now, self.slots, rank, bytes) else { return 0 };
        books.evictions += victims.len() as u64;
        let evicted: Vec<_> = victims.into_iter().map(|id| books.remove(id)).collect();
        let id = loop {
            let id = draw() & i32::MAX;
            if id != 0 && !books.sessions.contains_key(&id) {
                break id;
            }
        };
        books.insert(id, Booked { session, created: now, used: now, rank, bytes });
        drop(books);
        // They may be large: not under the lock.
        drop(evicted);
        id
    }
}

impl Books {
    fn session(&self, id: i32) -> Option<Arc<Mutex<Session>>> {
        self.sessions.get(&id).map(|booked| booked.session.clone())
    }

    /// The session was used, and is of this size now.
    fn book(
        &mut self,
        now: u64,
        id: i32,
        session: &Arc<Mutex<Session>>,
        (rank, bytes): (usize, usize),
    ) -> Result<(), SessionError> {
        let booked = self.remove_this(id, session).ok_or(SessionError::UnknownId)?;
        if rank > SESSION_PARTITIONS || self.bytes + bytes > CACHE_BYTES {
            self.evictions += 1;
            return Err(SessionError::UnknownId);
        }
        self.continued += 1;
        self.insert(id, Booked { used: now, rank, bytes, ..booked });
        Ok(())
    }

    /// Whom to give up for a new session of so many partitions and bytes: those unused for longest that are stale, then the smallest of the old ones
    /// that are smaller. None: all that might go are not enough, and nobody goes.
    fn victims(&self, now: u64, slots: usize, rank: usize, bytes: usize) -> Option<Vec<i32>> {
        let is_stale = |used: u64| now.saturating_sub(used) > EVICTION_MS;
        let stale = self.by_use.iter().take_while(|(used, _)| is_stale(*used)).map(|(_, id)| *id);
        let smaller = self.by_rank.iter().take_while(|(other, _)| *other < rank).map(|(_, id)| *id);
        let smaller = smaller.filter(|id| !is_stale(self.sessions[id].used));
        let mut candidates = stale.chain(smaller);
        let (mut count, mut held, mut victims) = (self.sessions.len(), self.bytes, Vec::new());
        while count >= slots || held + bytes > CACHE_BYTES {
            let id = candidates.next()?;
            (count, held) = (count - 1, held - self.sessions[&id].bytes);
            victims.push(id);
        }
        Some(victims)
    }

    fn insert(&mut self, id: i32, booked: Booked) {
        self.by_use.insert((booked.used, id));
        if booked.used.saturating_sub(booked.created) > EVICTION_MS {
            self.by_rank.insert((booked.rank, id));
        }
        self.partitions += booked.rank;
        self.bytes += booked.bytes;
        self.sessions.insert(id, booked);
    }

    fn remove(&mut self, id: i32) -> Option<Booked> {
        let booked = self.sessions.remove(&id)?;
        self.by_use.remove(&(booked.used, id));
        self.by_rank.remove(&(booked.rank, id));
        self.partitions -= booked.rank;
        self.bytes -= booked.bytes;
        Some(booked)
    }

    /// Likewise, if it is still this one.
    fn remove_this(&mut self, id: i32, session: &Arc<Mutex<Session>>) -> Option<Booked> {
        let is_this = self.sessions.get(&id).is_some_and(|booked| Arc::ptr_eq(&booked.session, session));
        if is_this { self.remove(id) } else { None }
    }
}

#[cfg(test)]
#[path = "fetch_sessions_tests.rs"]
pub(crate) mod tests;
