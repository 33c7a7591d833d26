//! Golden scripts: `testscripts/<topic>/<case>` holds blocks of commands, `---`, and the exact trace they give.
//! `UPDATE_GOLDEN=1 cargo test scripts` rewrites them; read the difference before it is committed.
//!
//! Commands (nodes are numbers, messages arrive only when delivered, writes are durable only when synced):
//! `cluster N [learners=2,3] [joint=1,2] [term3=5] [log2=1x3,2x1] [window=B] [append=B] [uncommitted=B] [down=3] [fresh=4]
//!   [closed=2] [damaged=2] [sealed=2] [doubt=2] [lost=2] [eager=1] [strangers=3] [vote1=2] [conf1=INDEX:1,2]`, `tick N` (to its deadline), `wait MS`, `beat N`, `propose N BYTES...`,
//! `deliver [N]`, `drop [N]`, `duplicate`, `reverse`, `sync [N]`, `round N` (takes one without completing it), `stabilize`, `cut N`, `block FROM TO` (one way), `heal`, `crash N`, `forget N TERM` (a crashed node lost all later terms and its vote), `restart N`,
//! `reset N PEER`, `transfer N [TO]`, `change N VOTERS [learners=L] [at=INDEX@TERM]`, `configuration N`,
//! `seal NODES GENERATION`, `plan GENERATION` (decides over all reports), `decide NODES GENERATION`, `unclean` (the last decision may lose entries), `unclean N` (allows an election that may), `read N`, `gate N`, `fail N`, `damage N [FIRST]`, `repaired N`, `observe N WHO`, `start N INDEX`, `cleaned N CLEAN DROPPED` (by compaction, and what it left out),
//! `inject FROM TO TERM BODY...`, `status`, `forgives` (what an unclean election says may be lost is no violation), `quiet COMMAND...` (trace dropped), `poison` (expected from here on).

use super::harness::{Cluster, Disk, Envelope, default_config, disk_with, name, replica};
use crate::raftlog::core::{Apart, Effect, Event, GenerationEffect, Order};
use crate::raftlog::generation::{Decision, SealReport, decide};
use crate::raftlog::message::{Body, Configuration, Message};
use crate::segment::{
    Cleaned, Doubt, EntryKind, EntryMeta, Epoch, Generation, HardState, Index, LogId, LogStart, Offset,
    Opening, ReplicaId,
};
use std::fmt::Write as _;
use std::path::Path;

fn show_id(id: LogId) -> String {
    match id.epoch.generation.0 {
        0 => format!("{}@{}", id.index, id.epoch.term),
        _ => id.to_string(),
    }
}

fn show_epoch(epoch: Epoch) -> String {
    match epoch.generation.0 {
        0 => epoch.term.to_string(),
        _ => epoch.to_string(),
    }
}

fn show_metas(metas: &[EntryMeta]) -> String {
    let show = |meta: &EntryMeta| match meta.kind {
        EntryKind::Records => show_id(meta.id),
        kind => format!("{}({kind:?})", show_id(meta.id)),
    };
    match metas {
        [] => "nothing".into(),
        [one] => show(one),
        [first, .., last] => format!("{}..{}", show(first), show(last)),
    }
}

fn show_cleaned(cleaned: Cleaned) -> String {
    format!("clean to {}, dropped to {}", cleaned.clean, cleaned.dropped)
}

fn show_members(configuration: &Configuration) -> String {
    let list =
        |members: &[ReplicaId]| members.iter().map(|r| r.node.to_string()).collect::<Vec<_>>().join(",");
    let mut text = format!("voters={}", list(&configuration.voters));
    if !configuration.old_voters.is_empty() {
        let _ = write!(text, " old={}", list(&configuration.old_voters));
    }
    if !configuration.learners.is_empty() {
        let _ = write!(text, " learners={}", list(&configuration.learners));
    }
    text
}

fn show_hard(hard: &HardState) -> String {
    let vote = hard.vote.map_or("none".into(), name);
    let doubt = match hard.doubt {
        Doubt::None => "",
        Doubt::Entries => " in doubt",
        Doubt::Vote => " in doubt with its vote",
    };
    format!("term {} vote {vote}{doubt}", show_epoch(hard.epoch))
}

pub fn show_effect(effect: &Effect) -> String {
    match effect {
        Effect::Truncate { from } => format!("truncates from {from}"),
        Effect::Append { metas, own, cleaned } => {
            let what = if *own { "appends own" } else { "appends" };
            let says = cleaned.map_or(String::new(), |cleaned| format!(", {}", show_cleaned(cleaned)));
            format!("{what} {}{says}", show_metas(metas))
        }
        Effect::AppendConfiguration { meta, configuration } => {
            format!("appends own {}(Configuration) {}", show_id(meta.id), show_members(configuration))
        }
        Effect::Generation(what) => show_generation(what),
        Effect::ChangeRefused { reason } => format!("refuses the change: {reason}"),
        Effect::Removed { configuration } => format!("is removed by {}", show_id(*configuration)),
        Effect::SaveHardState(hard) => format!("saves {}", show_hard(hard)),
        Effect::Install { start } => format!("installs log start {}", show_id(start.prev)),
        Effect::SendLogStart { to } => format!("sends its log start to {}", name(*to)),
        Effect::Committed { index } => format!("commits {index}"),
        Effect::Role { epoch, role, leader } => {
            let leader = leader.map_or("nobody".into(), name);
            format!("is {role:?} in {}, leader {leader}", show_epoch(*epoch))
        }
        Effect::Configured { id, configuration } => {
            format!("is configured by {}: {}", show_id(*id), show_members(configuration))
        }
        Effect::ReadReady { token, index } => format!("read {token} ready at {index}"),
        Effect::ReadFailed { token } => format!("read {token} failed"),
        Effect::Refused { reason } => format!("refuses: {reason:?}"),
        Effect::Unclean { from, waits } => {
            format!("{} an unclean recovery from {from}", if *waits { "waits for" } else { "begins" })
        }
        Effect::Apart(Apart { from, dropped }) => {
            format!("stands apart at offset {from}: tombstones below {dropped} may be missing")
        }
        Effect::Poisoned { reason } => format!("is poisoned: {reason}"),
        Effect::Send { .. } | Effect::Replicate { .. } => unreachable!("shown when they leave"),
    }
}

fn show_generation(what: &GenerationEffect) -> String {
    match what {
        GenerationEffect::Sealed(report) => format!("ends generation {}", report.generation),
        GenerationEffect::SealRefused { generation } => {
            format!("refuses the seal: it is in generation {generation}")
        }
        GenerationEffect::TakeOver { hard_state, meta, configuration } => {
            let (id, members) = (show_id(meta.id), show_members(configuration));
            format!("takes over: {}, {id}(Configuration) {members}", show_hard(hard_state))
        }
        GenerationEffect::TakeOverRefused { generation, reason } => {
            format!("refuses to take over in generation {generation}: {reason}")
        }
        GenerationEffect::Reopened { generation, commit } => {
            format!("is in generation {generation}, commit {commit}")
        }
        GenerationEffect::SetAside { from } => format!("sets aside from {from}"),
        GenerationEffect::Seen { generation } => format!("hears of generation {generation}"),
        GenerationEffect::TermsUsedUp => "has used up the terms of its generation".into(),
    }
}

pub fn show_report(report: &SealReport) -> String {
    let sound = if report.sound { "sound" } else { "unsound" };
    let (last, members) = (show_id(report.last), show_members(&report.configuration));
    let term = report.highest_term;
    format!("{sound}, last {last}, term {term}, {} {members}", show_id(report.configuration_id))
}

pub fn show_envelope(envelope: &Envelope) -> String {
    let body = match &envelope.message.body {
        Body::PreVote { last, .. } => format!("PreVote last {}", show_id(*last)),
        Body::PreVoteReply { granted, .. } => format!("PreVoteReply {}", yes(*granted)),
        Body::Vote { last, transfer } => {
            format!("Vote last {}{}", show_id(*last), if *transfer { " transfer" } else { "" })
        }
        Body::VoteReply { granted } => format!("VoteReply {}", yes(*granted)),
        Body::Append { prev, entries, commit, cleaned } => {
            let says = cleaned.map_or(String::new(), |cleaned| format!(", {}", show_cleaned(cleaned)));
            format!("Append {} after {} commit {commit}{says}", show_metas(entries), show_id(*prev))
        }
        Body::Written { last } => format!("Written {}", show_id(*last)),
        Body::AppendAccepted { last } => format!("AppendAccepted {}", show_id(*last)),
        Body::AppendRejected { probed, hint, last } => {
            format!("AppendRejected at {probed}, hint {} last {}", show_id(*hint), show_id(*last))
        }
        Body::InDoubt { matched, last, sequence } => {
            format!("InDoubt {sequence} matched {} last {}", show_id(*matched), show_id(*last))
        }
        Body::PreVoteIfAll { vote, .. } => format!("PreVoteIfAll{}", if *vote { " vote" } else { "" }),
        Body::VoteIfAll { vote } => format!("VoteIfAll{}", if *vote { " vote" } else { "" }),
        Body::AskEnd { vote, .. } => format!("AskEnd{}", if *vote { " vote" } else { "" }),
        Body::End { last, .. } => format!("End {}", show_id(*last)),
        Body::Beat { commit, sequence } => format!("Beat {sequence} commit {commit}"),
        Body::BeatReply { sequence, matched, last } => {
            format!("BeatReply {sequence} matched {} last {}", show_id(*matched), show_id(*last))
        }
        Body::InstallLogStart { start } => format!("InstallLogStart {}", show_id(start.prev)),
        Body::Removed { configuration } => format!("Removed by {}", show_id(*configuration)),
        Body::LogStartInstalled { prev } => format!("LogStartInstalled {}", show_id(*prev)),
        body => format!("{body:?}"),
    };
    let epoch = show_epoch(envelope.message.epoch);
    format!("{} -> {} [{epoch}] {body}", name(envelope.from), name(envelope.to))
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

struct Script {
    cluster: Cluster,
    cut: Vec<ReplicaId>,
    /// One-way.
    blocked: Vec<(ReplicaId, ReplicaId)>,
    decisions: Vec<Decision>,
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn nodes(text: &str) -> Vec<ReplicaId> {
    text.split(',').map(|n| replica(number(n))).collect()
}

/// `1x3,2x1`: three entries of term 1, then one of term 2.
fn terms(text: &str) -> Vec<u64> {
    let run = |part: &str| {
        let (term, count) = part.split_once('x').expect("TERMxCOUNT");
        vec![number::<u64>(term); number(count)]
    };
    text.split(',').filter(|part| !part.is_empty()).flat_map(run).collect()
}

fn parse_id(text: &str) -> LogId {
    let (index, term) = text.split_once('@').expect("INDEX@TERM");
    match term.split_once('.') {
        Some((generation, term)) => LogId::new(number(generation), number(term), number(index)),
        None => LogId::new(0, number(term), number(index)),
    }
}

fn parse_body(words: &[&str]) -> Body {
    match words {
        ["prevote", last] => Body::PreVote { last: parse_id(last), round: 1 },
        ["prevotereply", granted] => Body::PreVoteReply { granted: *granted == "yes", round: 1 },
        ["vote", last] => Body::Vote { last: parse_id(last), transfer: false },
        ["votereply", granted] => Body::VoteReply { granted: *granted == "yes" },
        ["append", prev, commit, rest @ ..] => {
            let mut before = parse_id(prev);
            let mut entries = Vec::new();
            let says = |what: &str| rest.iter().find_map(|word| word.strip_prefix(what)).map(number);
            let cleaned = says("clean=")
                .zip(says("dropped="))
                .map(|(clean, dropped)| Cleaned { clean: Offset(clean), dropped: Offset(dropped) });
            let runs = rest.iter().filter(|word| !word.contains('='));
            for term in runs.flat_map(|run| terms(run)) {
                let id = LogId { epoch: Epoch::new(0, term), index: before.index.next() };
                entries.push(EntryMeta {
                    id,
                    prev: before.epoch,
                    kind: EntryKind::Records,
                    base_offset: Offset(before.index.0 as i64),
                    offset_span: 1,
                    payload_len: 10,
                });
                before = id;
            }
            Body::Append { prev: parse_id(prev), entries, commit: Index(number(commit)), cleaned }
        }
        ["accepted", last] => Body::AppendAccepted { last: parse_id(last) },
        ["rejected", probed, hint] => {
            Body::AppendRejected { probed: Index(number(probed)), hint: parse_id(hint), last: parse_id(hint) }
        }
        ["beat", commit, sequence] => {
            Body::Beat { commit: Index(number(commit)), sequence: number(sequence) }
        }
        ["beatreply", sequence, matched, last] => {
            Body::BeatReply { sequence: number(sequence), matched: parse_id(matched), last: parse_id(last) }
        }
        ["install", prev] => Body::InstallLogStart {
            start: LogStart { prev: parse_id(prev), base_offset: Offset(0), ..LogStart::default() },
        },
        ["timeoutnow"] => Body::TimeoutNow,
        ["sealed"] => Body::Sealed,
        ["fenced"] => Body::Fenced,
        ["removed", id] => Body::Removed { configuration: parse_id(id) },
        ["end", nonce, last] => Body::End { nonce: number(nonce), last: parse_id(last) },
        other => panic!("unknown body {other:?}"),
    }
}

impl Script {
    fn new() -> Self {
        let mut cluster = Cluster::new(default_config(), 1);
        cluster.trace = Some(Vec::new());
        Self { cluster, cut: Vec::new(), blocked: Vec::new(), decisions: Vec::new() }
    }

    fn at(&self, text: &str) -> usize {
        self.cluster.position(replica(number(text)))
    }

    fn build(&mut self, words: &[&str]) {
        let count: i32 = number(words[0]);
        let options: Vec<(&str, &str)> =
            words[1..].iter().map(|word| word.split_once('=').expect("option=value")).collect();
        let find = |key: &str| options.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let has = |key: &str, id: ReplicaId| find(key).is_some_and(|value| nodes(value).contains(&id));
        let learners = find("learners").map(nodes).unwrap_or_default();
        let strangers = find("strangers").map(nodes).unwrap_or_default();
        let voters = (1..=count)
            .map(replica)
            .filter(|r| !learners.contains(r) && !strangers.contains(r) && !has("fresh", *r))
            .collect();
        let configuration = Configuration {
            voters,
            old_voters: find("joint").map(nodes).unwrap_or_default(),
            learners,
            ..Configuration::default()
        };
        let config = &mut self.cluster.config;
        config.window_bytes = find("window").map_or(config.window_bytes, number);
        config.append_bytes = find("append").map_or(config.append_bytes, number);
        config.uncommitted_bytes = find("uncommitted").map_or(config.uncommitted_bytes, number);
        for node in 1..=count {
            let log = find(&format!("log{node}")).or(find("log")).map(terms).unwrap_or_default();
            let term = find(&format!("term{node}")).map_or(0, number);
            let mut disk = disk_with(&configuration, term, &log);
            if let Some((index, voters)) =
                find(&format!("conf{node}")).and_then(|value| value.split_once(':'))
            {
                let at = number::<usize>(index) - 1;
                disk.metas[at].kind = EntryKind::Configuration;
                let configuration = Configuration { voters: nodes(voters), ..Configuration::default() };
                disk.configurations.push((disk.metas[at].id, configuration));
            }
            if has("fresh", replica(node)) {
                disk = Disk::default();
            }
            disk.hard.sealed = has("sealed", replica(node)).then_some(1);
            if has("doubt", replica(node)) {
                disk.hard.doubt = Doubt::Entries;
            }
            if has("lost", replica(node)) {
                disk.hard.doubt = Doubt::Vote;
            }
            disk.hard.vote = find(&format!("vote{node}")).map(|vote| replica(number(vote)));
            self.cluster.add(replica(node), disk);
        }
        for at in 0..count as usize {
            let id = self.cluster.nodes[at].id;
            if has("down", id) {
                continue;
            }
            let (closed, damaged, eager) = (has("closed", id), has("damaged", id), has("eager", id));
            self.cluster.start(at, |restored| {
                restored.gate_open = !closed;
                restored.needs_repair = damaged;
                restored.campaign_at_once = eager;
            });
        }
    }

    /// Delivers what is in the network now (to one node), not what that gives rise to.
    fn deliver(&mut self, to: Option<ReplicaId>) -> bool {
        let count = self.cluster.network.len();
        let mut any = false;
        for _ in 0..count {
            let envelope = self.cluster.network.pop_front().expect("counted");
            if to.is_some_and(|to| to != envelope.to) {
                self.cluster.network.push_back(envelope);
            } else if !self.is_cut(envelope.from, envelope.to) {
                any = true;
                self.cluster.deliver(envelope);
            }
        }
        any
    }

    fn is_cut(&self, from: ReplicaId, to: ReplicaId) -> bool {
        self.cut.contains(&from) || self.cut.contains(&to) || self.blocked.contains(&(from, to))
    }

    fn sync(&mut self, at: usize) -> bool {
        let taken = self.cluster.take_round(at);
        self.cluster.complete_round(at) || taken
    }

    fn stabilize(&mut self) {
        for _ in 0..1_000 {
            let mut any = self.deliver(None);
            for at in 0..self.cluster.nodes.len() {
                any |= self.sync(at);
            }
            if !any {
                return;
            }
        }
        panic!("never quiet");
    }

    fn status(&mut self) {
        for at in 0..self.cluster.nodes.len() {
            let node = &self.cluster.nodes[at];
            let line = match &node.core {
                None => format!("{} is down, disk ends at {}", name(node.id), show_id(node.disk.last())),
                Some(core) => {
                    let matched: Vec<_> = core
                        .progress()
                        .iter()
                        .map(|peer| format!(" {}={}", name(peer.replica), peer.matched))
                        .collect();
                    format!(
                        "{} {:?} in {} last {} durable {} commit {}{}",
                        name(node.id),
                        core.role(),
                        show_epoch(core.epoch()),
                        show_id(core.last()),
                        core.durable(),
                        core.commit(),
                        matched.concat()
                    )
                }
            };
            self.cluster.say(|| line);
        }
    }

    fn run(&mut self, words: &[&str]) {
        match words {
            ["cluster", rest @ ..] => self.build(rest),
            ["tick", n] => {
                let at = self.at(n);
                let deadline = self.cluster.core(at).deadline().expect("it has a deadline");
                self.cluster.now = self.cluster.now.max(deadline);
                self.cluster.feed(at, Event::Tick);
            }
            ["wait", ms] => self.cluster.now += number::<u64>(ms),
            ["beat", n] => self.cluster.beat(self.at(n)),
            ["propose", n, sizes @ ..] => {
                let entries = sizes.iter().map(|size| (EntryKind::Records, 1, number(size))).collect();
                self.cluster.feed(self.at(n), Event::Propose { entries });
            }
            ["deliver"] => {
                self.deliver(None);
            }
            ["deliver", n] => {
                self.deliver(Some(replica(number(n))));
            }
            ["drop"] => self.cluster.network.clear(),
            ["drop", n] => self.cluster.network.retain(|envelope| envelope.to != replica(number(n))),
            ["duplicate"] => self.cluster.network.extend(self.cluster.network.clone()),
            ["reverse"] => self.cluster.network = self.cluster.network.drain(..).rev().collect(),
            ["sync"] => {
                for at in 0..self.cluster.nodes.len() {
                    self.sync(at);
                }
            }
            ["sync", n] => {
                self.sync(self.at(n));
            }
            ["round", n] => {
                let at = self.at(n);
                self.cluster.take_round(at);
            }
            ["stabilize"] => self.stabilize(),
            ["cut", n] => self.cut.push(replica(number(n))),
            ["block", from, to] => self.blocked.push((replica(number(from)), replica(number(to)))),
            ["heal"] => {
                self.cut.clear();
                self.blocked.clear();
            }
            ["async", list] => {
                for at in nodes(list).into_iter().map(|id| self.cluster.position(id)).collect::<Vec<_>>() {
                    self.cluster.nodes[at].is_async = true;
                    self.cluster.feed(at, Event::FlushMode { is_async: true });
                }
            }
            // The leader hears of the topic's new configuration before anybody else.
            ["counts", n, "durable"] => self.cluster.feed(self.at(n), Event::FlushMode { is_async: false }),
            ["flush", n] => self.cluster.flush(self.at(n), true),
            ["forgives"] => self.cluster.checker.forgives = true,
            ["power", n] => self.cluster.cut_power(self.at(n), 0),
            ["crash", n] => self.cluster.crash(self.at(n), 0),
            ["forget", n, term] => {
                let at = self.at(n);
                let hard = &mut self.cluster.nodes[at].disk.hard;
                (hard.epoch, hard.vote, hard.doubt) = (Epoch::new(0, number(term)), None, Doubt::Vote);
                self.cluster.checker.forget_votes(replica(number(n)));
            }
            ["restart", n] => self.cluster.start(self.at(n), |_| {}),
            ["reset", n, peer] => {
                let node = replica(number(peer)).node;
                self.cluster.feed(self.at(n), Event::PeerReset { node });
            }
            ["transfer", n] => self.cluster.feed(self.at(n), Event::Transfer { to: None }),
            ["transfer", n, to] => {
                let to = Some(replica(number(to)));
                self.cluster.feed(self.at(n), Event::Transfer { to });
            }
            ["seal", list, generation] => {
                for id in nodes(list) {
                    let (at, generation) = (self.cluster.position(id), Generation(number(generation)));
                    self.cluster.feed(at, Event::Generation(Order::Seal { generation, plan: 7 }));
                }
            }
            ["plan", generation] => {
                let (reports, from) = (&self.cluster.reports, Generation(number(generation)));
                let recorded = reports.iter().map(|report| report.highest_term).max().unwrap_or_default();
                let decision = decide(from, reports, recorded).expect("somebody is sealed");
                let Opening { survivor, base, first_term, lossless } = decision.opening;
                let (kind, base) = (if lossless { "lossless" } else { "unclean" }, show_id(base));
                let (generation, survivor) = (decision.generation, name(survivor));
                let line = format!(
                    "decided: generation {generation} is {survivor} at {base}, first term {first_term}, {kind}"
                );
                self.cluster.say(|| line);
                self.decisions.push(decision);
            }
            ["decide", list, generation] => {
                let generation = Generation(number(generation));
                let known = self.decisions.iter().find(|decision| decision.generation == generation);
                let decision = known.expect("it was decided").clone();
                for id in nodes(list) {
                    let order = Order::Decided(decision.clone());
                    self.cluster.feed(self.cluster.position(id), Event::Generation(order));
                }
            }
            ["unclean"] => {
                let survivor = self.decisions.last().expect("it was decided").opening.survivor;
                self.cluster.forget_beyond(survivor);
            }
            ["change", n, voters, rest @ ..] => {
                let at = self.at(n);
                let (_, current) = self.cluster.core(at).configuration();
                let find = |key: &str| rest.iter().find_map(|word| word.strip_prefix(key));
                let expected = find("at=").map_or(current, parse_id);
                let learners = find("learners=").map(nodes).unwrap_or_default();
                let event = Event::ChangeMembership { expected, voters: nodes(voters), learners };
                self.cluster.feed(at, event);
            }
            ["configuration", n] => {
                let (configuration, id) = self.cluster.core(self.at(n)).configuration();
                let line = format!("n{n} is configured by {}: {}", show_id(id), show_members(configuration));
                self.cluster.say(|| line);
            }
            ["read", n] => {
                self.cluster.read(self.at(n));
            }
            ["gate", n] => self.cluster.feed(self.at(n), Event::OpenGate),
            ["stopped", n] => self.cluster.feed(self.at(n), Event::CloseGate),
            ["fail", n] => self.cluster.feed(self.at(n), Event::StorageFailed),
            ["damage", n, first] => {
                let at = self.at(n);
                self.cluster.feed(at, Event::Damaged);
                let core = self.cluster.nodes[at].core.as_mut().expect("node is up");
                core.set_damaged_from(Index(number(first)));
            }
            ["repaired", n] => self.cluster.feed(self.at(n), Event::Repaired),
            ["damage", n] => self.cluster.feed(self.at(n), Event::Damaged),
            ["unclean", n] => {
                let at = self.at(n);
                self.cluster.nodes[at].core.as_mut().expect("node is up").allow_unclean(true);
            }
            ["observe", n, who] => {
                self.cluster.feed(self.at(n), Event::AddObserver { replica: replica(number(who)) });
            }
            ["cleaned", n, clean, dropped] => self.cluster.clean(self.at(n), number(clean), number(dropped)),
            ["start", n, index] => self.cluster.move_start(self.at(n), Index(number(index))),
            ["inject", from, to, epoch, body @ ..] => {
                let epoch = match epoch.split_once('.') {
                    Some((generation, term)) => Epoch::new(number(generation), number(term)),
                    None => Epoch::new(0, number(epoch)),
                };
                let message = Message { epoch, body: parse_body(body) };
                self.cluster.offer(self.at(to), &message);
                self.cluster.feed(self.at(to), Event::Receive { from: replica(number(from)), message });
            }
            ["status"] => self.status(),
            ["poison"] => self.cluster.poison_allowed = true,
            ["quiet", rest @ ..] => {
                let kept = self.cluster.trace.take();
                self.run(rest);
                self.cluster.trace = kept;
            }
            other => panic!("unknown command {other:?}"),
        }
    }

    fn block(&mut self, commands: &str) -> String {
        for line in commands.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            for command in line.split(';') {
                let words: Vec<&str> = command.split_whitespace().collect();
                self.run(&words);
            }
        }
        let lines = self.cluster.trace.replace(Vec::new()).unwrap_or_default();
        if lines.is_empty() { "(nothing)\n".into() } else { lines.join("\n") + "\n" }
    }
}

/// Runs one file; gives what it should say.
fn replay(text: &str) -> String {
    let mut script = Script::new();
    let mut result = String::new();
    let mut commands = String::new();
    let mut skipping = false;
    for line in text.lines() {
        if line == "---" {
            let trace = script.block(&commands);
            let _ = write!(result, "{commands}---\n{trace}\n");
            commands.clear();
            skipping = true;
        } else if skipping {
            skipping = !line.is_empty();
        } else {
            commands.push_str(line);
            commands.push('\n');
        }
    }
    assert!(commands.trim().is_empty(), "the last block has no ---");
    result.truncate(result.trim_end().len());
    result + "\n"
}

/// Runs one script, `topic/case`.
#[cfg(feature = "mutations")]
pub(crate) fn check(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raftlog/core/testscripts").join(name);
    let text = std::fs::read_to_string(file).unwrap();
    assert!(replay(&text) == text, "script {name} gives another trace");
}

#[test]
fn scripts_give_their_golden_traces() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raftlog/core/testscripts");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files = Vec::new();
    for topic in std::fs::read_dir(root).unwrap() {
        files.extend(std::fs::read_dir(topic.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files.sort();
    assert!(files.len() > 30, "scripts are missing");
    let mut different = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        eprintln!("{}", file.display());
        let result = replay(&text);
        if update {
            std::fs::write(&file, &result).unwrap();
        } else if result != text {
            let at = result.lines().zip(text.lines()).position(|(a, b)| a != b);
            different.push(format!("{} (line {:?})", file.display(), at.map(|at| at + 1)));
        }
    }
    assert!(different.is_empty(), "traces differ, see UPDATE_GOLDEN: {different:#?}");
}
