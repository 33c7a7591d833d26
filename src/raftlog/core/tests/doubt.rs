//! Amnesia under faults: replicas lose the end of their logs, and sometimes their vote, when they crash; nothing committed may be
//! lost but what an unclean election said it may lose, and everyone must be sound again once the faults end (safety.md F11).
//!
//! Every other run loses what `flush.mode=async` loses, by the modes themselves: records are told once written, syncs come later, a
//! power cut takes what was not synced. The rest loses anything.
//!
//! `KONTIKI_SEED=n` runs one seed (`KONTIKI_TRACE=1` says everything that happens), `KONTIKI_SEEDS=n` that many. A failure names its seed.

use super::harness::{Cluster, Disk, default_config, disk_with, replica};
use crate::raftlog::core::{Event, Role};
use crate::raftlog::message::Configuration;
use crate::segment::{Doubt, EntryKind, Epoch};

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a run met, so that a run without any of it is no proof.
#[derive(Default, Debug)]
struct Met {
    committed: u64,
    lost_entries: u64,
    lost_votes: u64,
    unanimous: u64,
    power_cuts: u64,
}

struct Amnesia {
    cluster: Cluster,
    dice: Dice,
    beats: Vec<u64>,
    /// Cut off from everyone until this time.
    cut: Vec<u64>,
    /// Of each node, whether its next start has lost something.
    loses: Vec<bool>,
    /// `flush.mode=async`: what is lost is what a power cut takes, and nothing else.
    is_async: bool,
    loss: u64,
    met: Met,
}

impl Amnesia {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let voters = [3, 3, 2, 5, 4][dice.below(5) as usize];
        let members: Vec<_> = (1..=voters).map(replica).collect();
        let old_voters = match voters > 2 && dice.one_in(5) {
            true => members[..members.len() - 1].to_vec(),
            false => Vec::new(),
        };
        let configuration =
            Configuration { voters: members, old_voters, learners: Vec::new(), ..Configuration::default() };
        let mut cluster = Cluster::new(default_config(), seed);
        for node in 1..=voters {
            cluster.add(replica(node), disk_with(&configuration, 0, &[]));
        }
        cluster.checker.forgives = true;
        let count = voters as usize;
        let loss = [0, 30, 8][dice.below(3) as usize];
        let is_async = seed % 2 == 1;
        cluster.nodes.iter_mut().for_each(|node| node.is_async = is_async);
        let mut run = Self {
            cluster,
            dice,
            beats: vec![0; count],
            cut: vec![0; count],
            loses: vec![false; count],
            is_async,
            loss,
            met: Met::default(),
        };
        for at in 0..count {
            run.start(at);
        }
        run
    }

    fn start(&mut self, at: usize) {
        if std::mem::take(&mut self.loses[at]) {
            self.forget(at);
        }
        self.cluster.start(at, |_| {});
        if self.is_async {
            self.cluster.feed(at, Event::FlushMode { is_async: true });
        }
        self.cluster.nodes[at].core.as_mut().expect("just started").allow_unclean(true);
    }

    /// The process ends, or its machine.
    fn end(&mut self, at: usize, kept: usize, loses: bool) {
        match self.is_async && loses {
            true => {
                let written = self.cluster.nodes[at].loose.len() as u64;
                let kept = self.dice.below(written + 1) as usize;
                self.cluster.cut_power(at, kept);
                self.met.power_cuts += 1;
            }
            false => {
                self.cluster.crash(at, kept);
                self.loses[at] = loses;
            }
        }
    }

    /// The end of the log is gone, and perhaps the newest terms and votes.
    fn forget(&mut self, at: usize) {
        // Mostly a few entries, sometimes anything.
        let held = self.cluster.nodes[at].disk.metas.len() as u64;
        let lost = if self.dice.one_in(8) { held } else { held.min(3) };
        let keep = (held - self.dice.below(lost + 1)) as usize;
        let vote_too = self.dice.one_in(4);
        let id = self.cluster.nodes[at].id;
        let disk: &mut Disk = &mut self.cluster.nodes[at].disk;
        let before = disk.hard.doubt;
        disk.metas.truncate(keep);
        let last = disk.last().index;
        disk.configurations.retain(|(id, _)| id.index <= last);
        self.met.lost_entries += 1;
        if disk.hard.doubt == Doubt::None {
            disk.hard.doubt = Doubt::Entries;
        }
        if vote_too {
            let least = disk.last().epoch.term.0;
            let term = least + self.dice.below(disk.hard.epoch.term.0 - least + 1);
            disk.hard.epoch = Epoch::new(0, term);
            disk.hard.vote = None;
            disk.hard.doubt = Doubt::Vote;
            self.met.lost_votes += 1;
            self.cluster.checker.forget_votes(id);
        }
        assert!(before != Doubt::Vote || disk.hard.doubt == Doubt::Vote, "doubt never sinks by a loss");
    }

    fn up(&self) -> impl Iterator<Item = usize> + use<> {
        let up: Vec<usize> =
            (0..self.cluster.nodes.len()).filter(|at| self.cluster.nodes[*at].core.is_some()).collect();
        up.into_iter()
    }

    fn advance(&mut self, faults: bool) {
        self.cluster.now += self.dice.below(12);
        let now = self.cluster.now;
        for _ in 0..self.cluster.network.len() {
            let envelope = self.cluster.network.pop_front().expect("counted");
            let (from, to) = (self.cluster.position(envelope.from), self.cluster.position(envelope.to));
            if faults && self.dice.one_in(6) {
                // Later, and so behind others.
                self.cluster.network.push_back(envelope);
            } else if self.cut[from].max(self.cut[to]) <= now
                && !(faults && self.loss > 0 && self.dice.one_in(self.loss))
            {
                self.cluster.deliver(envelope);
            }
        }
        for at in self.up() {
            if !faults || self.dice.one_in(2) {
                self.cluster.take_round(at);
            }
            if !faults || self.dice.one_in(2) {
                self.cluster.complete_round(at);
            }
            if self.is_async && self.dice.one_in(40) {
                self.cluster.flush(at, true);
            }
            if self.cluster.core(at).deadline().is_some_and(|deadline| deadline <= now) {
                self.cluster.feed(at, Event::Tick);
            }
            if self.beats[at] <= now {
                self.beats[at] = now + self.cluster.config.beat_ms;
                self.cluster.beat(at);
            }
            if faults && self.dice.one_in(12) {
                self.cluster.feed(at, Event::Propose { entries: vec![(EntryKind::Records, 1, 9)] });
            }
        }
    }

    fn harm(&mut self) {
        let at = self.dice.below(self.cluster.nodes.len() as u64) as usize;
        match self.dice.below(800) {
            0..=8 if self.cluster.nodes[at].core.is_none() => self.start(at),
            0..=2 => {
                let kept = self.dice.below(4) as usize;
                let loses = self.dice.one_in(2);
                self.end(at, kept, loses);
            }
            3 | 4 => self.cut[at] = self.cluster.now + self.dice.below(2_000),
            5 if self.dice.one_in(2) => {
                // Everyone loses power.
                for at in self.up() {
                    let loses = self.dice.one_in(2);
                    self.end(at, 0, loses);
                }
            }
            _ => {}
        }
    }

    fn run(mut self, steps: u64) -> Met {
        for _ in 0..steps {
            self.advance(true);
            self.harm();
        }
        self.cut.fill(0);
        for at in 0..self.cluster.nodes.len() {
            if self.cluster.nodes[at].core.is_none() {
                self.start(at);
            }
        }
        self.converge();
        self.met.committed = self.cluster.checker.committed.len() as u64;
        self.met.unanimous = self.cluster.checker.unclean;
        self.met
    }

    /// A leader emerges, everyone holds its log, nobody is in doubt any more.
    fn converge(&mut self) {
        let until = self.cluster.now + 60_000;
        let mut proposed = None;
        let mut moved = 0;
        while self.cluster.now < until {
            self.advance(false);
            let leads = |at: &usize| {
                let core = self.cluster.core(*at);
                core.role() == Role::Leader && core.is_established()
            };
            let Some(leader) = self.up().find(leads) else { continue };
            let epoch = self.cluster.core(leader).epoch();
            if proposed.is_none_or(|(known, _)| known != epoch) {
                self.cluster.feed(leader, Event::Propose { entries: vec![(EntryKind::Records, 1, 5)] });
                proposed = Some((epoch, self.cluster.core(leader).last()));
                moved = self.cluster.now;
            }
            let (_, last) = proposed.expect("just set");
            let sound = self.up().all(|at| self.cluster.core(at).doubt() == Doubt::None);
            let same = self.cluster.nodes.iter().all(|node| {
                let core = node.core.as_ref().expect("all are up");
                let end = node.loose.last().map_or(node.disk.last(), |_| core.last());
                end == last && core.commit() == last.index
            });
            if sound && same {
                return;
            }
            if same && self.cluster.now > moved + 3_000 {
                // A lost vote among many voters waits for the next election.
                moved = self.cluster.now;
                self.cluster.feed(leader, Event::Transfer { to: None });
            }
        }
        for at in self.up() {
            let core = self.cluster.core(at);
            eprintln!(
                "{} {:?} {:?} {:?} {}",
                core.replica(),
                core.role(),
                core.epoch(),
                core.doubt(),
                core.last()
            );
        }
        panic!("not whole within 60 s of healing");
    }
}

struct Named(u64);
impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with KONTIKI_SEED={}", self.0);
        }
    }
}

/// One run, to its verdict.
#[cfg(feature = "mutations")]
pub(crate) fn run_seed(seed: u64) {
    Amnesia::new(seed).run(3_000);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn replicas_with_amnesia_lose_nothing_committed_and_become_sound_again() {
    if let Some(seed) = number("KONTIKI_SEED") {
        let _named = Named(seed);
        let mut run = Amnesia::new(seed);
        run.cluster.echo = std::env::var_os("KONTIKI_TRACE").is_some();
        println!("{:?}", run.run(3_000));
        return;
    }
    let mut met = Met::default();
    let seeds = number("KONTIKI_SEEDS").unwrap_or(if cfg!(debug_assertions) { 30 } else { 2_000 });
    for seed in 0..seeds {
        let _named = Named(seed);
        let run = Amnesia::new(seed).run(3_000);
        met.committed += run.committed;
        met.lost_entries += run.lost_entries;
        met.lost_votes += run.lost_votes;
        met.unanimous += run.unanimous;
        met.power_cuts += run.power_cuts;
    }
    println!("{seeds} seeds: {met:?}");
    assert!(met.committed > 20 * seeds && met.power_cuts > seeds, "{met:?}");
    assert!(met.lost_entries > 2 * seeds && met.lost_votes > seeds / 2, "{met:?}");
    assert!(met.unanimous > seeds / 10, "hardly an unclean election: {met:?}");
}
