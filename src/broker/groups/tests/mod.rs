//! Tests of the coordinator: scripts of single rules, and random sequences against what must always hold.
mod golden;
pub(crate) mod random;
pub(crate) mod rules;
pub(crate) mod worlds;

use super::*;
use std::collections::BTreeSet;

pub(super) const GROUP: &str = "g";

pub(super) fn settings() -> Settings {
    Settings {
        initial_delay_ms: 0,
        min_session_ms: 6_000,
        max_session_ms: 60_000,
        max_size: 8,
        metadata_bytes: 64,
        retention_ms: 1_000_000,
        check_ms: 50_000,
        commit_timeout_ms: 5_000,
    }
}

/// Metadata of a consumer of these topics.
pub(super) fn subscription(topics: &[&str], data: &[u8]) -> Bytes {
    let mut out = vec![0, 1];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend((data.len() as i32).to_be_bytes());
    out.extend(data);
    out.into()
}

/// A coordinator over a log of its own.
pub(super) struct World {
    pub(super) machine: Coordinator,
    pub(super) time: Time,
    /// Committed records, in order.
    pub(super) log: Vec<Record>,
    /// Appended and not committed.
    pub(super) tail: Vec<(AppendId, Vec<Record>)>,
    pub(super) tokens: Token,
    pub(super) waiting: BTreeSet<Token>,
    /// Not looked at yet.
    pub(super) answers: BTreeMap<Token, Reply>,
    /// Appends are committed at once.
    pub(super) is_prompt: bool,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let time = Time { mono: 1_000, wall_ms: 1_000_000 };
        let mut machine = Coordinator::new(settings);
        machine.loaded(time);
        Self {
            machine,
            time,
            log: Vec::new(),
            tail: Vec::new(),
            tokens: 0,
            waiting: BTreeSet::new(),
            answers: BTreeMap::new(),
            is_prompt: true,
        }
    }

    pub(super) fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { token, reply } => {
                    assert!(self.waiting.remove(&token), "request {token} is answered twice: {reply:?}");
                    self.answers.insert(token, reply);
                }
                Effect::Append { id, records } => self.tail.push((id, records)),
            }
        }
        while self.is_prompt && self.commit_one() {}
    }

    /// Commits the first append under way.
    pub(super) fn commit_one(&mut self) -> bool {
        if self.tail.is_empty() {
            return false;
        }
        let (id, records) = self.tail.remove(0);
        self.log.extend(records);
        let mut effects = Vec::new();
        self.machine.stored(self.time, id, &mut effects);
        self.take(effects);
        true
    }

    pub(super) fn send(&mut self, ask: Ask) -> Token {
        self.tokens += 1;
        let token = self.tokens;
        self.waiting.insert(token);
        let mut effects = Vec::new();
        self.machine.request(self.time, token, GROUP, ask, &mut effects);
        self.take(effects);
        token
    }

    /// The answer, which is there by now.
    pub(super) fn answer(&mut self, token: Token) -> Reply {
        self.answers.remove(&token).unwrap_or_else(|| panic!("request {token} has no answer yet"))
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Reply {
        let token = self.send(ask);
        self.answer(token)
    }

    /// Time passes, and the machine is woken whenever it asked to be.
    pub(super) fn pass(&mut self, ms: u64) {
        let until = self.time.mono + ms;
        loop {
            let next = self.machine.deadline().clamp(self.time.mono + 1, until);
            self.time.wall_ms += (next - self.time.mono) as i64;
            self.time.mono = next;
            let mut effects = Vec::new();
            self.machine.tick(self.time, &mut effects);
            self.take(effects);
            if next == until {
                return;
            }
        }
    }

    /// What another coordinator makes of the committed log.
    pub(super) fn reloaded(&self, settings: Settings) -> Coordinator {
        let mut machine = Coordinator::new(settings);
        for record in &self.log {
            machine.load(Some(&record.key), record.value.as_deref()).expect("our own record");
        }
        machine.loaded(self.time);
        machine
    }

    /// The coordinator moves: what is not committed is lost.
    pub(super) fn fail_over(&mut self, settings: Settings) {
        self.tail.clear();
        let next = self.reloaded(settings);
        let mut effects = Vec::new();
        std::mem::replace(&mut self.machine, next).end(&mut effects);
        self.take(effects);
        assert!(self.waiting.is_empty(), "requests {:?} are never answered", self.waiting);
    }
}

/// A JoinGroup of a consumer of topic `t`.
pub(super) fn join(member: &str, fresh: &str, instance: Option<&str>) -> Join {
    Join {
        member: member.to_owned(),
        instance: instance.map(str::to_owned),
        fresh_id: fresh.to_owned(),
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_ms: 10_000,
        rebalance_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription(&["t"], b""))],
        needs_id: false,
        may_skip: false,
    }
}

pub(super) fn caller(member: &str, generation: i32) -> Caller {
    Caller { member: member.to_owned(), instance: None, generation }
}

pub(super) fn sync(member: &str, generation: i32, shares: &[(&str, &str)]) -> Ask {
    let share = |(id, share): &(&str, &str)| ((*id).to_owned(), Bytes::copy_from_slice(share.as_bytes()));
    let assignments = shares.iter().map(share).collect();
    Ask::Sync { caller: caller(member, generation), protocol_type: None, protocol: None, assignments }
}

pub(super) fn commit(caller: Caller, partition: i32, offset: i64) -> Ask {
    let (leader_epoch, metadata) = (3, format!("at {offset}"));
    let offsets = vec![(("t".to_owned(), partition), Offset { offset, leader_epoch, metadata })];
    Ask::Commit { caller, offsets, retention_ms: None }
}
