//! Random sequences of requests, lost coordinators and refused appends, from one seed, against what must always hold.
//!
//! Members behave as clients do, or as clients that come back from a long sleep do: with ids and generations of before.
//! `GROUPS_SEED=n cargo test --release --lib random_sequences` replays one.

use super::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 300;
const STEPS: usize = 400;

/// What a client believes.
#[derive(Clone, Default)]
struct Client {
    instance: Option<String>,
    member: String,
    generation: i32,
    members: Vec<String>,
    leads: bool,
}

struct Run {
    world: World,
    rng: StdRng,
    clients: Vec<Client>,
    /// Whose request it is.
    asked: BTreeMap<Token, usize>,
    /// Members that ask to leave, and those that were told that they have left.
    leaving: BTreeMap<Token, String>,
    left: BTreeSet<String>,
    /// JoinGroups of static members without an id, and the id that each static member was told and did not ask to be rid of.
    returning: BTreeMap<Token, usize>,
    told: BTreeMap<usize, String>,
    /// The id in each request that has one.
    named: BTreeMap<Token, String>,
    /// The generation of each commit under way, by the offset it sets: they are all different.
    generations: BTreeMap<i64, i32>,
    /// The assignment that each generation was seen to have, by the life of the group.
    seen: BTreeMap<(usize, i32), String>,
    life: usize,
    read: usize,
    /// What the committed log says, and the generation that said it.
    offsets: BTreeMap<i32, (i64, i32)>,
    count: i64,
    marks: BTreeSet<&'static str>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let client = |place: usize| Client {
            instance: (place < 2).then(|| format!("i{place}")),
            generation: -1,
            ..Client::default()
        };
        let mut world = World::new(settings());
        world.is_prompt = false;
        Self {
            world,
            rng: StdRng::seed_from_u64(seed),
            clients: (0..5).map(client).collect(),
            asked: BTreeMap::new(),
            leaving: BTreeMap::new(),
            left: BTreeSet::new(),
            returning: BTreeMap::new(),
            told: BTreeMap::new(),
            named: BTreeMap::new(),
            generations: BTreeMap::new(),
            seen: BTreeMap::new(),
            life: 0,
            read: 0,
            offsets: BTreeMap::new(),
            count: 0,
            marks: BTreeSet::new(),
        }
    }

    fn caller(&mut self, place: usize) -> Caller {
        let client = &self.clients[place];
        let late = if self.rng.random_bool(0.1) { 1 } else { 0 };
        let generation = client.generation - late;
        Caller { member: client.member.clone(), instance: client.instance.clone(), generation }
    }

    fn send(&mut self, place: usize, ask: Ask) -> Token {
        let named = match &ask {
            Ask::Join(join) => join.member.clone(),
            Ask::Sync { caller, .. } | Ask::Heartbeat(caller) | Ask::Commit { caller, .. } => {
                caller.member.clone()
            }
            _ => String::new(),
        };
        let returns = matches!(&ask, Ask::Join(join) if join.member.is_empty() && join.instance.is_some());
        let token = self.world.send(ask);
        self.asked.insert(token, place);
        self.named.insert(token, named);
        if returns {
            self.told.remove(&place);
            self.returning.insert(token, place);
        }
        token
    }

    fn step(&mut self) {
        let place = self.rng.random_range(0..self.clients.len());
        match self.rng.random_range(0..100) {
            0..=24 => self.join(place),
            25..=44 => self.sync(place),
            45..=54 => {
                let caller = self.caller(place);
                self.send(place, Ask::Heartbeat(caller));
            }
            55..=69 => self.commit(place),
            70..=73 => {
                let client = &self.clients[place];
                let member = (client.member.clone(), client.instance.clone());
                let id = member.0.clone();
                let token = self.send(place, Ask::Leave(vec![member]));
                self.leaving.insert(token, id);
            }
            74..=79 => drop(self.send(place, Ask::Offsets(None))),
            80..=84 => {
                let ms = *[10, 1_000, 7_000, 40_000].choose(&mut self.rng).unwrap();
                self.world.pass(ms);
            }
            85 if self.rng.random_bool(0.3) => drop(self.send(place, Ask::Delete)),
            86 => drop(self.send(place, Ask::DeleteOffsets(vec![("t".to_owned(), 0)]))),
            87..=88 => self.fail_over(),
            89 => self.refuse(),
            _ => {
                for _ in 0..self.rng.random_range(1..4) {
                    self.world.commit_one();
                }
            }
        }
        self.follow();
        assert_eq!(self.world.machine.bytes(), self.world.machine.weighed(), "memory is counted wrong");
    }

    fn join(&mut self, place: usize) {
        self.count += 1;
        let client = self.clients[place].clone();
        // One that stands in the log by its name may come without its id.
        let forgets = self.rng.random_bool(if client.instance.is_some() { 0.3 } else { 0.1 });
        let member = if forgets { "" } else { client.member.as_str() };
        let mut join = join(member, &format!("m{}", self.count), client.instance.as_deref());
        join.needs_id = self.rng.random_bool(0.5);
        join.may_skip = self.rng.random_bool(0.5);
        if self.rng.random_bool(0.2) {
            join.protocols = vec![("range".to_owned(), subscription(&["t", "u"], b"other"))];
        }
        self.send(place, Ask::Join(join));
    }

    fn sync(&mut self, place: usize) {
        self.count += 1;
        let (client, caller) = (self.clients[place].clone(), self.caller(place));
        let share = |id: &String| (id.clone(), Bytes::from(format!("{}:{id}", self.count)));
        let assignments =
            if client.leads { client.members.iter().map(share).collect() } else { BTreeMap::new() };
        let (protocol_type, protocol) = (None, None);
        self.send(place, Ask::Sync { caller, protocol_type, protocol, assignments });
    }

    fn commit(&mut self, place: usize) {
        self.count += 1;
        let caller = if self.rng.random_bool(0.05) { caller("", -1) } else { self.caller(place) };
        let before = self.world.machine.groups().get(GROUP).map(|group| {
            let is_member =
                group.members.contains_key(&caller.member) && group.generation == caller.generation;
            let is_free = group.members.is_empty() && caller.generation < 0;
            (is_member, is_free)
        });
        let appended = self.world.tail.len();
        self.generations.insert(self.count, caller.generation);
        let partition = self.rng.random_range(0..3);
        self.send(place, commit(caller.clone(), partition, self.count));
        if self.world.tail.len() > appended {
            let (is_member, is_free) = before.unwrap_or((false, caller.generation < 0));
            assert!(is_member || is_free, "{caller:?} commits and is no member of the generation");
        }
    }

    /// The last append enters no log.
    fn refuse(&mut self) {
        if let Some((id, _)) = self.world.tail.pop() {
            let mut effects = Vec::new();
            self.world.machine.refused(self.world.time, id, GroupError::NotAvailable, &mut effects);
            self.world.take(effects);
            self.marks.insert("refused");
        }
    }

    /// Some of what is under way is committed, the rest is lost with the coordinator.
    fn fail_over(&mut self) {
        let kept = self.rng.random_range(0..=self.world.tail.len());
        for (_, records) in self.world.tail.drain(..kept).collect::<Vec<_>>() {
            self.world.log.extend(records);
        }
        self.world.fail_over(settings());
        self.marks.insert("failed over");
    }

    /// Reads the log on, and what was answered.
    fn follow(&mut self) {
        let fresh = self.world.log[self.read..].to_vec();
        for record in fresh {
            match records::read_key(&record.key).unwrap().unwrap() {
                records::Key::Group(_) if record.value.is_none() => {
                    self.life += 1;
                    self.marks.insert("deleted");
                }
                records::Key::Group(_) => {}
                records::Key::Offset { partition, .. } => self.committed(partition, record.value.as_deref()),
            }
        }
        self.read = self.world.log.len();
        for (token, reply) in std::mem::take(&mut self.world.answers) {
            let place = self.asked.remove(&token).expect("a request of ours");
            if let (Some(id), Reply::Rows(rows)) = (self.leaving.remove(&token), &reply)
                && rows == &[None]
            {
                self.left.insert(id);
                self.marks.insert("left");
            }
            self.check_fencing(place, token, &reply);
            self.answered(place, reply);
        }
        let members = self.world.machine.groups().get(GROUP).map(|group| &group.members);
        let back = members.and_then(|members| members.keys().find(|id| self.left.contains(*id)));
        assert_eq!(back, None, "a member that has left is in the group");
        if self.world.tail.is_empty() {
            self.compare();
        }
    }

    fn committed(&mut self, partition: i32, value: Option<&[u8]>) {
        let Some(value) = value else {
            self.offsets.remove(&partition);
            return;
        };
        let offset = records::read_offset(value).unwrap().offset;
        let generation = self.generations[&offset];
        if let Some((_, by)) = self.offsets.get(&partition) {
            assert!(generation < 0 || generation >= *by, "generation {generation} commits after {by}");
        }
        self.offsets.insert(partition, (offset, generation));
    }

    /// Fenced is fatal to a client: nobody is who was told its id and is alone with its instance.
    fn check_fencing(&mut self, place: usize, token: Token, reply: &Reply) {
        self.returning.remove(&token);
        let named = self.named.remove(&token).expect("sent by us");
        match reply {
            Reply::Joined(joined)
                if self.clients[place].instance.is_some()
                    && !self.returning.values().any(|other| *other == place) =>
            {
                self.told.insert(place, joined.member.clone());
                self.marks.insert("told");
            }
            Reply::Refused(GroupError::FencedInstance) => {
                assert_ne!(self.told.get(&place), Some(&named), "a member is fenced by its own earlier self");
            }
            _ => {}
        }
    }

    fn answered(&mut self, place: usize, reply: Reply) {
        let client = &mut self.clients[place];
        match reply {
            Reply::Joined(joined) => {
                self.marks.insert(if joined.skip_assignment { "skipped" } else { "joined" });
                client.leads = joined.leader == joined.member && !joined.skip_assignment;
                client.members = joined.members.into_iter().map(|(id, ..)| id).collect();
                (client.member, client.generation) = (joined.member, joined.generation);
            }
            Reply::Refused(GroupError::MemberIdRequired(id)) => client.member = id,
            Reply::Refused(GroupError::UnknownMember | GroupError::FencedInstance) => {
                (client.member, client.generation) = (String::new(), -1);
            }
            Reply::Synced { assignment, .. } if !assignment.is_empty() => {
                self.marks.insert("synced");
                let text = String::from_utf8(assignment.to_vec()).unwrap();
                let round = text.split(':').next().unwrap().to_owned();
                let generation = self.world.machine.groups()[GROUP].generation;
                let first = self.seen.entry((self.life, generation)).or_insert_with(|| round.clone());
                assert_eq!(*first, round, "generation {generation} has two assignments");
            }
            Reply::Offsets(rows) => {
                let told: BTreeMap<i32, i64> =
                    rows.into_iter().filter_map(|(key, offset)| Some((key.1, offset?.offset))).collect();
                let known =
                    self.offsets.iter().map(|(partition, (offset, _))| (*partition, *offset)).collect();
                assert_eq!(told, known, "what is told is not what is committed");
            }
            _ => {}
        }
    }

    /// Nothing is under way: the log gives back what memory holds.
    fn compare(&mut self) {
        let reloaded = self.world.reloaded(settings());
        let (now, then) = (self.world.machine.groups().get(GROUP), reloaded.groups().get(GROUP));
        let offsets =
            |group: Option<&super::super::group::Group>| group.map(|g| g.offsets.clone()).unwrap_or_default();
        assert_eq!(offsets(now), offsets(then));
        let Some(now) = now else {
            return assert!(then.is_none(), "the log has a group that memory has not");
        };
        match now.state {
            super::super::group::State::Stable => {
                let then = then.expect("a stable group is in the log");
                let shares =
                    |group: &super::super::group::Group| -> BTreeMap<String, (Option<String>, Bytes)> {
                        let row = |(id, m): (&String, &super::super::group::Member)| {
                            (id.clone(), (m.instance.clone(), m.assignment.clone()))
                        };
                        group.members.iter().map(row).collect()
                    };
                assert_eq!(shares(now), shares(then));
                assert_eq!(
                    (now.generation, &now.leader, &now.instances),
                    (then.generation, &then.leader, &then.instances)
                );
                self.marks.insert("stable");
            }
            super::super::group::State::Empty if now.is_stored && !now.is_unwritten => {
                let then = then.expect("it is in the log");
                assert_eq!((now.generation, then.members.len()), (then.generation, 0));
            }
            _ => assert!(then.is_none_or(|then| then.generation <= now.generation)),
        }
    }
}

#[test]
pub(crate) fn random_sequences_keep_every_promise() {
    let only = std::env::var("GROUPS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let mut marks = BTreeSet::new();
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            (0..STEPS).for_each(|_| run.step());
            run.fail_over();
            run.follow();
            run.marks
        });
        match run {
            Ok(hit) => marks.extend(hit),
            Err(panic) => {
                eprintln!("GROUPS_SEED={seed} cargo test --release --lib random_sequences_keep");
                std::panic::resume_unwind(panic);
            }
        }
    }
    if only.is_none() {
        let wanted =
            ["deleted", "failed over", "joined", "left", "refused", "skipped", "stable", "synced", "told"];
        assert_eq!(marks, BTreeSet::from(wanted), "something never happened");
    }
}
