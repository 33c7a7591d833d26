//! The Raft core against the words of the paper: one test per rule, each quoting it (Ongaro and Ousterhout, "In Search
//! of an Understandable Consensus Algorithm", extended version; "thesis" = Ongaro's dissertation).
//!
//! Each test drives cores by hand through the public interface; whole clusters are simulated inside the crate.

use kontiki::raftlog::core::{
    ChangeRefusal, Core, CoreConfig, Effect, Event, GenerationEffect, Order, Refusal, Restored, Role,
};
use kontiki::raftlog::generation::Decision;
use kontiki::raftlog::message::{Body, Configuration, Message};
use kontiki::segment::{
    Doubt, EntryKind, EntryMeta, Epoch, Generation, HardState, Index, LogId, LogStart, NodeId, Offset,
    Opening, ReplicaId, Term,
};

fn node(number: i32) -> ReplicaId {
    ReplicaId { node: NodeId(number), assignment: 0, directory: 0 }
}

fn config() -> CoreConfig {
    CoreConfig {
        beat_ms: 100,
        election_min_ms: 600,
        election_max_ms: 1_200,
        check_quorum_ms: 1_200,
        stickiness_ms: 600,
        window_bytes: 8 << 20,
        append_bytes: 1 << 20,
        uncommitted_bytes: 64 << 20,
        reset_jitter_ms: 50,
    }
}

fn epoch(term: u64) -> Epoch {
    Epoch::new(0, term)
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(0, term, index)
}

fn meta(prev: LogId, term: u64) -> EntryMeta {
    EntryMeta {
        id: id(term, prev.index.0 + 1),
        prev: prev.epoch,
        kind: EntryKind::Records,
        base_offset: Offset(prev.index.0 as i64),
        offset_span: 1,
        payload_len: 10,
    }
}

/// Entries of these terms after `prev`.
fn entries(prev: LogId, terms: &[u64]) -> Vec<EntryMeta> {
    let mut prev = prev;
    terms
        .iter()
        .map(|term| {
            let meta = meta(prev, *term);
            prev = meta.id;
            meta
        })
        .collect()
}

/// A replica under test: what it did is in `out`.
struct Replica {
    core: Core,
    now: u64,
    out: Vec<Effect>,
}

impl Replica {
    /// Node 1 of `voters`, in `term`, with a log of these terms.
    fn new(voters: i32, term: u64, log: &[u64]) -> Self {
        Self::restored(voters, term, log, |_| {})
    }

    fn restored(voters: i32, term: u64, log: &[u64], change: impl FnOnce(&mut Restored)) -> Self {
        let configuration =
            Configuration { voters: (1..=voters).map(node).collect(), ..Configuration::default() };
        let metas = entries(LogId::default(), log);
        let mut epochs: Vec<(Epoch, Index)> = Vec::new();
        for meta in &metas {
            if epochs.last().is_none_or(|(epoch, _)| *epoch != meta.id.epoch) {
                epochs.push((meta.id.epoch, meta.id.index));
            }
        }
        let mut restored = Restored {
            replica: node(1),
            hard_state: HardState { epoch: epoch(term), ..HardState::default() },
            log_start: LogStart { configuration: configuration.encode(), ..LogStart::default() },
            epochs,
            last: metas.last().map_or(LogId::default(), |meta| meta.id),
            next_offset: Offset(metas.len() as i64),
            configurations: Vec::new(),
            gate_open: true,
            needs_repair: false,
            campaign_at_once: false,
            seed: 7,
        };
        change(&mut restored);
        let mut out = Vec::new();
        let core = Core::new(config(), restored, 0, &mut out);
        Self { core, now: 0, out: Vec::new() }
    }

    fn step(&mut self, event: Event) -> &[Effect] {
        self.out.clear();
        self.core.step(self.now, event, &mut self.out);
        &self.out
    }

    fn receive(&mut self, from: i32, term: u64, body: Body) -> &[Effect] {
        self.step(Event::Receive { from: node(from), message: Message { epoch: epoch(term), body } })
    }

    fn append(&mut self, from: i32, term: u64, prev: LogId, terms: &[u64], commit: u64) -> &[Effect] {
        let entries = entries(prev, terms);
        self.receive(from, term, Body::Append { prev, entries, commit: Index(commit), cleaned: None })
    }

    fn time_out(&mut self) -> &[Effect] {
        self.now = self.core.deadline().expect("it has a deadline");
        self.step(Event::Tick)
    }

    /// Times out and wins the pre-vote: a candidate.
    fn campaign(&mut self) -> &[Effect] {
        self.time_out();
        let Some(Body::PreVote { round, .. }) = self.sent(2).first().map(|(body, _)| body.clone()) else {
            panic!("no pre-vote: {:?}", self.out)
        };
        let term = self.core.epoch().term.0 + 1;
        for voter in 2..=self.core.configuration().0.voters.len() as i32 {
            if self.core.role() == Role::PreCandidate {
                self.receive(voter, term, Body::PreVoteReply { granted: true, round });
            }
        }
        assert_eq!(self.core.role(), Role::Candidate);
        &self.out
    }

    fn lead(&mut self) -> u64 {
        self.campaign();
        let term = self.core.epoch().term.0;
        let mut voter = 2;
        while self.core.role() == Role::Candidate {
            self.receive(voter, term, Body::VoteReply { granted: true });
            voter += 1;
        }
        assert_eq!(self.core.role(), Role::Leader);
        term
    }

    /// Leads, and every voter holds the no-op.
    fn lead_established(&mut self) -> u64 {
        let term = self.lead();
        let last = self.core.last();
        self.step(Event::Durable { last });
        for voter in 2..=self.core.configuration().0.voters.len() as i32 {
            self.receive(voter, term, Body::AppendAccepted { last });
        }
        assert!(self.core.is_established());
        term
    }

    fn propose(&mut self, count: usize) -> &[Effect] {
        self.step(Event::Propose { entries: vec![(EntryKind::Records, 1, 10); count] })
    }

    /// What was sent to this node, and whether it waits for storage.
    fn sent(&self, to: i32) -> Vec<(Body, bool)> {
        let pick = |effect: &Effect| match effect {
            Effect::Send { to: whom, message, after_storage } if *whom == node(to) => {
                Some((message.body.clone(), *after_storage))
            }
            _ => None,
        };
        self.out.iter().filter_map(pick).collect()
    }

    fn saved(&self) -> Option<HardState> {
        self.out.iter().rev().find_map(|effect| match effect {
            Effect::SaveHardState(hard) => Some(*hard),
            _ => None,
        })
    }

    fn vote_of(&mut self, from: i32, term: u64, last: LogId) -> bool {
        self.receive(from, term, Body::Vote { last, transfer: false });
        match self.sent(from).as_slice() {
            [(Body::VoteReply { granted }, true)] => *granted,
            other => panic!("{other:?}"),
        }
    }

    fn committed(&self) -> Option<Index> {
        self.out.iter().rev().find_map(|effect| match effect {
            Effect::Committed { index } => Some(*index),
            _ => None,
        })
    }
}

/// §5.1: "if one server's current term is smaller than the other's, then it updates its current term to the larger
/// value" and "if a candidate or leader discovers that its term is out of date, it immediately reverts to follower".
#[test]
fn message_of_a_higher_term_any_role_follows_it() {
    let mut follower = Replica::new(3, 1, &[]);
    follower.append(2, 4, LogId::default(), &[], 0);
    assert_eq!((follower.core.epoch(), follower.core.leader()), (epoch(4), Some(node(2))));
    assert_eq!(follower.saved().map(|hard| (hard.epoch, hard.vote)), Some((epoch(4), None)));

    let mut candidate = Replica::new(3, 1, &[]);
    candidate.campaign();
    candidate.append(2, 4, LogId::default(), &[], 0);
    assert_eq!((candidate.core.role(), candidate.core.epoch()), (Role::Follower, epoch(4)));

    let mut leader = Replica::new(3, 1, &[]);
    leader.lead();
    leader.receive(2, 9, Body::Fenced);
    assert_eq!(
        (leader.core.role(), leader.core.epoch(), leader.core.leader()),
        (Role::Follower, epoch(9), None)
    );
}

/// §5.1: "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn request_of_a_stale_term_is_rejected_with_our_term() {
    let mut replica = Replica::new(3, 5, &[1]);
    replica.append(2, 4, id(1, 1), &[4], 1);
    assert_eq!(replica.sent(2), [(Body::Fenced, false)]);
    assert_eq!((replica.core.last(), replica.core.commit()), (id(1, 1), Index(0)));
    assert!(!replica.vote_of(3, 4, id(9, 9)));
    assert_eq!(replica.core.epoch(), epoch(5));
}

/// §5.2: "When servers start up, they begin as followers."
#[test]
fn start_always_begins_as_a_follower() {
    let replica = Replica::new(3, 8, &[1, 8]);
    assert_eq!((replica.core.role(), replica.core.leader()), (Role::Follower, None));
}

/// §5.2: "Leaders send periodic heartbeats [...] to all followers in order to maintain their authority."
#[test]
fn leader_beats_every_peer() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead();
    for peer in [2, 3] {
        let message = leader.core.beat(leader.now, node(peer), &mut Vec::new()).expect("a leader beats");
        assert_eq!(message.epoch, epoch(term));
        assert!(matches!(message.body, Body::Beat { commit: Index(0), .. }));
    }
    let mut follower = Replica::new(3, 0, &[]);
    assert_eq!(follower.core.beat(0, node(2), &mut Vec::new()), None);
    // A beat puts the election off.
    follower.now = 599;
    follower.receive(2, 1, Body::Beat { commit: Index(0), sequence: 1 });
    assert!(follower.core.deadline() >= Some(599 + 600));
}

/// §5.2: "If a follower receives no communication over a period of time called the election timeout, then it [...]
/// begins an election", with the thesis' §9.6 pre-vote before it increments its term.
#[test]
fn silence_starts_a_pre_vote_and_its_majority_an_election() {
    let mut replica = Replica::new(3, 1, &[1]);
    replica.time_out();
    assert_eq!((replica.core.role(), replica.core.epoch()), (Role::PreCandidate, epoch(1)));
    assert_eq!(replica.saved(), None);
    replica.campaign();
    // "increments its current term [...] votes for itself and issues RequestVote RPCs in parallel to each of the other
    // servers": and the vote is durable before they leave.
    let saved = replica.saved().expect("term and vote are saved");
    assert_eq!((saved.epoch, saved.vote), (epoch(2), Some(node(1))));
    for peer in [2, 3] {
        assert_eq!(replica.sent(peer), [(Body::Vote { last: id(1, 1), transfer: false }, true)]);
    }
}

/// §5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the
/// same term."
#[test]
fn votes_of_a_majority_make_a_leader_and_fewer_do_not() {
    for (voters, needed) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] {
        let mut replica = Replica::new(voters, 0, &[]);
        if voters == 1 {
            replica.time_out();
        } else {
            replica.campaign();
        }
        for voter in 0..needed {
            assert_eq!(replica.core.role(), Role::Candidate, "{voter} of {needed} votes");
            // A vote that comes twice is one vote.
            replica.receive(2 + voter, 1, Body::VoteReply { granted: true });
            replica.receive(2 + voter, 1, Body::VoteReply { granted: true });
        }
        assert_eq!(replica.core.role(), Role::Leader, "{voters} voters");
    }
}

/// §5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis."
#[test]
fn vote_is_given_once_per_term() {
    let mut replica = Replica::new(3, 0, &[]);
    assert!(replica.vote_of(2, 1, LogId::default()));
    assert!(!replica.vote_of(3, 1, LogId::default()));
    assert!(replica.vote_of(2, 1, LogId::default()));
    assert!(replica.vote_of(3, 2, LogId::default()));
}

/// §5.2: "If the leader's term [...] is at least as large as the candidate's current term, then the candidate
/// recognizes the leader as legitimate and returns to follower state."
#[test]
pub fn candidate_meeting_the_leader_of_its_term_returns_to_follower() {
    let mut replica = Replica::new(3, 0, &[]);
    replica.campaign();
    replica.append(3, 1, LogId::default(), &[1], 0);
    assert_eq!((replica.core.role(), replica.core.leader()), (Role::Follower, Some(node(3))));
    // Its own vote of that term is kept.
    assert_eq!(replica.core.hard_state().vote, Some(node(1)));
}

/// §5.2: "Raft uses randomized election timeouts to ensure that split votes are rare": from a fixed interval, and not
/// the same for all.
#[test]
fn election_timeouts_are_spread_over_their_interval() {
    let mut seen = Vec::new();
    for seed in 0..200 {
        let replica = Replica::restored(3, 0, &[], |restored| restored.seed = seed);
        seen.push(replica.core.deadline().expect("a follower waits"));
    }
    assert!(seen.iter().all(|at| (600..1_200).contains(at)));
    let (low, high) =
        (seen.iter().filter(|at| **at < 700).count(), seen.iter().filter(|at| **at >= 1_100).count());
    assert!(low > 10 && high > 10, "{low} early, {high} late of 200");
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 100);
}

/// §5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel to each
/// of the other servers" and §10.2.1 of the thesis: in parallel with its own disk.
#[test]
fn proposal_is_appended_and_replicated_in_parallel() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    leader.propose(2);
    let Some(Effect::Append { metas, own: true, .. }) = leader.out.first() else {
        panic!("{:?}", leader.out)
    };
    assert_eq!(metas.iter().map(|meta| meta.id).collect::<Vec<_>>(), [id(term, 2), id(term, 3)]);
    assert_eq!(metas.iter().map(|meta| meta.base_offset).collect::<Vec<_>>(), [Offset(0), Offset(1)]);
    let asked = |to_node| {
        leader.out.iter().any(|effect| {
            matches!(effect, Effect::Replicate { to, prev, .. } if *to == node(to_node) && *prev == id(term, 1))
        })
    };
    assert!(asked(2) && asked(3));
    assert_eq!(leader.committed(), None);
}

/// §5.3: "A log entry is committed once the leader that created the entry has replicated it on a majority of the
/// servers": where "replicated" means durable, at the leader too.
#[test]
fn entry_held_durably_by_a_majority_is_committed() {
    for own_first in [true, false] {
        let mut leader = Replica::new(3, 0, &[]);
        let term = leader.lead_established();
        leader.propose(1);
        let last = leader.core.last();
        let own = Event::Durable { last };
        let theirs = |replica: &mut Replica| {
            replica.receive(2, term, Body::AppendAccepted { last });
        };
        if own_first {
            leader.step(own);
            assert_eq!(leader.committed(), None);
            theirs(&mut leader);
        } else {
            theirs(&mut leader);
            assert_eq!(leader.committed(), None);
            leader.step(own);
        }
        assert_eq!(leader.committed(), Some(Index(2)));
        assert_eq!(leader.core.holders(Index(2)), 2);
    }
}

/// §5.3: followers alone can be the majority: the leader's own disk is one voice like any other.
#[test]
fn entry_on_two_followers_is_committed_before_the_leaders_own_sync() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    leader.propose(1);
    let last = leader.core.last();
    leader.receive(2, term, Body::AppendAccepted { last });
    leader.receive(3, term, Body::AppendAccepted { last });
    assert_eq!((leader.committed(), leader.core.durable()), (Some(Index(2)), Index(1)));
}

/// §5.3: "This also commits all preceding entries in the leader's log, including entries created by previous leaders."
#[test]
fn own_entry_commits_all_before_it() {
    let mut leader = Replica::new(3, 2, &[1, 2, 2]);
    let term = leader.lead();
    let last = leader.core.last();
    assert_eq!(last, id(term, 4));
    leader.step(Event::Durable { last });
    leader.receive(2, term, Body::AppendAccepted { last });
    assert_eq!(leader.committed(), Some(Index(4)));
}

/// §5.3: "Once a follower learns that a log entry is committed, it applies the entry": and figure 2: "set commitIndex =
/// min(leaderCommit, index of last new entry)".
#[test]
fn follower_commits_up_to_what_the_message_brought() {
    let mut follower = Replica::new(3, 1, &[1, 1, 1]);
    follower.append(2, 2, id(1, 1), &[], 9);
    assert_eq!(follower.committed(), Some(Index(1)));
    follower.append(2, 2, id(1, 1), &[1], 9);
    assert_eq!(follower.committed(), Some(Index(2)));
}

/// §5.3: "If the follower does not find an entry in its log with the same index and term, then it refuses the new
/// entries."
#[test]
fn append_without_its_predecessor_is_refused() {
    let mut follower = Replica::new(3, 2, &[1, 2]);
    for (prev, hint) in [(id(2, 3), id(2, 2)), (id(3, 2), id(2, 2)), (id(1, 2), id(1, 1))] {
        follower.append(2, 3, prev, &[3], 0);
        let refusal = Body::AppendRejected { probed: prev.index, hint, last: id(2, 2) };
        // The first one also saved the new term, so it waits for that.
        let (body, _) = follower.sent(2).remove(0);
        assert_eq!(body, refusal);
        assert_eq!(follower.core.last(), id(2, 2));
    }
    // A refusal is contact with the leader all the same.
    assert_eq!(follower.core.leader(), Some(node(2)));
}

/// §5.3: "conflicting entries in follower logs will be overwritten with entries from the leader's log", and figure 2:
/// only "if an existing entry conflicts with a new one".
#[test]
fn append_replaces_only_what_conflicts() {
    for (log, prev, new, cut, appended) in [
        (&[1, 2, 2][..], id(2, 3), &[3][..], None, 1),
        (&[1, 2, 2], id(1, 1), &[2, 2, 3], None, 1),
        (&[1, 2, 2], id(2, 2), &[3], Some(Index(3)), 1),
        (&[1, 2, 2], LogId::default(), &[3, 3], Some(Index(1)), 2),
        (&[1, 2, 2], LogId::default(), &[1], None, 0),
    ] {
        let mut follower = Replica::new(3, 2, log);
        follower.append(2, 3, prev, new, 0);
        let truncated = follower.out.iter().find_map(|effect| match effect {
            Effect::Truncate { from } => Some(*from),
            _ => None,
        });
        let taken: usize = follower
            .out
            .iter()
            .map(|effect| match effect {
                Effect::Append { metas, own: false, .. } => metas.len(),
                _ => 0,
            })
            .sum();
        assert_eq!((truncated, taken), (cut, appended), "{log:?} {prev} {new:?}");
    }
}

/// §5.3, end: "the follower can include the term of the conflicting entry and the first index it stores for that term":
/// one round per conflicting term, not per entry.
#[test]
fn leader_skips_a_conflicting_term_in_one_round() {
    let mut leader = Replica::new(2, 5, &[1, 1, 4, 4, 5, 5]);
    let term = leader.lead();
    leader.receive(2, term, Body::AppendRejected { probed: Index(6), hint: id(3, 6), last: id(3, 9) });
    let Some(Effect::Replicate { prev, max_bytes: 0, .. }) = leader.out.first() else {
        panic!("{:?}", leader.out)
    };
    assert_eq!(*prev, id(1, 2));
    // The exact entry named: nothing to guess, entries follow at once.
    leader.receive(2, term, Body::AppendRejected { probed: Index(2), hint: id(1, 1), last: id(1, 1) });
    assert!(
        matches!(leader.out.first(), Some(Effect::Replicate { prev, max_bytes: 1.., .. }) if *prev == id(1, 1))
    );
}

/// §5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate": later term first,
/// then length.
#[test]
fn vote_goes_only_to_a_log_as_good_as_the_own() {
    for (own, candidate, granted) in [
        (&[1][..], id(1, 1), true),
        (&[1], id(1, 2), true),
        (&[1, 1], id(1, 1), false),
        (&[1], id(2, 1), true),
        (&[1, 1], id(2, 1), true),
        (&[2], id(1, 1), false),
        (&[2], id(1, 9), false),
    ] {
        let mut replica = Replica::new(3, 2, own);
        assert_eq!(replica.vote_of(2, 3, candidate), granted, "{own:?} {candidate}");
        // The same for pre-votes.
        let mut replica = Replica::new(3, 2, own);
        replica.receive(2, 3, Body::PreVote { last: candidate, round: 1 });
        assert_eq!(replica.sent(2), [(Body::PreVoteReply { granted, round: 1 }, false)]);
    }
}

/// §5.4.2: "Raft never commits log entries from previous terms by counting replicas. Only log entries from the leader's
/// current term are committed by counting replicas" (figure 8).
#[test]
fn entry_of_an_older_term_is_not_committed_by_counting() {
    let mut leader = Replica::new(3, 2, &[1, 2]);
    let term = leader.lead();
    leader.step(Event::Durable { last: id(term, 3) });
    for voter in [2, 3] {
        leader.receive(voter, term, Body::AppendAccepted { last: id(2, 2) });
        assert_eq!(leader.committed(), None);
    }
    leader.receive(2, term, Body::AppendAccepted { last: id(term, 3) });
    assert_eq!(leader.committed(), Some(Index(3)));
}

/// §5.1, figure 2 (persistent state): "Updated on stable storage before responding to RPCs."
#[test]
fn answers_that_promise_wait_for_storage() {
    let mut replica = Replica::new(3, 0, &[]);
    replica.receive(2, 1, Body::Vote { last: LogId::default(), transfer: false });
    let save = replica.out.iter().position(|effect| matches!(effect, Effect::SaveHardState(_)));
    let send =
        replica.out.iter().position(|effect| matches!(effect, Effect::Send { after_storage: true, .. }));
    assert!(save.is_some() && save < send, "{:?}", replica.out);

    // An append is acknowledged when it is durable, not when it is taken.
    let mut replica = Replica::new(3, 1, &[]);
    replica.append(2, 1, LogId::default(), &[1, 1], 0);
    assert_eq!(replica.sent(2), []);
    replica.step(Event::Durable { last: id(1, 2) });
    assert_eq!(replica.sent(2), [(Body::AppendAccepted { last: id(1, 2) }, false)]);
    // Said once.
    replica.step(Event::Durable { last: id(1, 2) });
    assert_eq!(replica.sent(2), []);
    // What is durable already is acknowledged at once.
    replica.append(2, 1, LogId::default(), &[1], 0);
    assert_eq!(replica.sent(2), [(Body::AppendAccepted { last: id(1, 2) }, true)]);
}

/// §5.5: "if a server receives an AppendEntries request that includes log entries already present in its log, it ignores
/// those entries in the new request."
#[test]
fn append_repeated_changes_nothing() {
    let mut follower = Replica::new(3, 1, &[]);
    follower.append(2, 1, LogId::default(), &[1, 1], 0);
    follower.append(2, 1, LogId::default(), &[1, 1], 0);
    assert_eq!(follower.out, []);
}

/// §6 (joint consensus): "Agreement (for elections and entry commitment) requires separate majorities from both the old
/// and new configurations."
#[test]
fn joint_configuration_needs_both_majorities() {
    let joint = Configuration {
        voters: vec![node(1), node(4), node(5)],
        old_voters: vec![node(1), node(2), node(3)],
        learners: Vec::new(),
        retired: Vec::new(),
    };
    let mut leader =
        Replica::restored(1, 0, &[], |restored| restored.log_start.configuration = joint.encode());
    leader.time_out();
    for (voter, role) in [(4, Role::PreCandidate), (5, Role::PreCandidate), (2, Role::Candidate)] {
        leader.receive(voter, 1, Body::PreVoteReply { granted: true, round: 1 });
        assert_eq!(leader.core.role(), role, "pre-vote of {voter}");
    }
    for (voter, role) in [(2, Role::Candidate), (3, Role::Candidate), (5, Role::Leader)] {
        leader.receive(voter, 1, Body::VoteReply { granted: true });
        assert_eq!(leader.core.role(), role, "vote of {voter}");
    }
    leader.step(Event::Durable { last: id(1, 1) });
    for (voter, committed) in [(4, None), (5, None), (3, Some(Index(1)))] {
        leader.receive(voter, 1, Body::AppendAccepted { last: id(1, 1) });
        assert_eq!(leader.committed(), committed, "acknowledgement of {voter}");
    }
}

/// §6: "a server always uses the latest configuration in its log, regardless of whether the entry is committed", and
/// truncation takes it back.
#[test]
fn configuration_is_in_force_from_its_append_to_its_truncation() {
    let mut follower = Replica::new(3, 1, &[1]);
    let newer = Configuration { voters: vec![node(2), node(3)], ..Configuration::default() };
    follower.step(Event::Configurations { decoded: vec![newer.clone()] });
    let mut change = meta(id(1, 1), 1);
    (change.kind, change.offset_span) = (EntryKind::Configuration, 0);
    follower.receive(
        2,
        1,
        Body::Append { prev: id(1, 1), entries: vec![change], commit: Index(0), cleaned: None },
    );
    assert_eq!(follower.core.configuration(), (&newer, id(1, 2)));
    assert_eq!(follower.core.role(), Role::Learner);
    follower.append(3, 2, id(1, 1), &[2], 0);
    assert_eq!(follower.core.configuration().1, LogId::default());
    assert_eq!(follower.core.role(), Role::Follower);
}

/// §6: "servers disregard RequestVote RPCs when they believe a current leader exists": within the minimum election
/// timeout of hearing it, "and the server does not update its term".
#[test]
fn vote_request_while_the_leader_is_heard_is_disregarded() {
    let mut follower = Replica::new(3, 1, &[]);
    follower.append(2, 1, LogId::default(), &[], 0);
    follower.now = 599;
    follower.receive(3, 7, Body::Vote { last: id(6, 9), transfer: false });
    assert_eq!((follower.out.len(), follower.core.epoch()), (0, epoch(1)));
    follower.now = 600;
    assert!(follower.vote_of(3, 7, id(6, 9)));
}

/// §8: "each leader [commits] a blank no-op entry into the log at the start of its term."
#[test]
fn new_leaders_first_entry_is_a_no_op_of_its_term() {
    let mut leader = Replica::new(3, 1, &[1]);
    let term = leader.lead();
    let appended = leader.out.iter().find_map(|effect| match effect {
        Effect::Append { metas, own: true, .. } => Some(metas.clone()),
        _ => None,
    });
    let [no_op] = appended.expect("it appends").try_into().expect("one entry");
    assert_eq!((no_op.kind, no_op.id, no_op.offset_span), (EntryKind::Noop, id(term, 2), 0));
    assert!(!leader.core.is_established());
}

/// §8: "a leader must check whether it has been deposed before processing a read-only request [...] by having the leader
/// exchange heartbeat messages with a majority of the cluster".
#[test]
fn read_is_confirmed_by_a_majority_of_later_beats() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    let beat = |leader: &mut Replica| {
        let message = leader.core.beat(leader.now, node(2), &mut Vec::new()).expect("leads");
        let Body::Beat { sequence, .. } = message.body else { panic!("{message:?}") };
        sequence
    };
    let reply = |sequence| Body::BeatReply { sequence, matched: id(1, 1), last: id(1, 1) };
    let before = beat(&mut leader);
    leader.step(Event::ReadIndex { token: 7 });
    assert!(leader.core.wants_beat());
    leader.receive(2, term, reply(before));
    assert_eq!(leader.out, []);
    let after = beat(&mut leader);
    leader.receive(2, term, reply(after));
    assert_eq!(leader.out, [Effect::ReadReady { token: 7, index: Index(1) }]);
    assert!(!leader.core.wants_beat());
    // Deposed, it must not answer.
    leader.step(Event::ReadIndex { token: 8 });
    leader.receive(3, term + 1, Body::Fenced);
    assert!(leader.out.contains(&Effect::ReadFailed { token: 8 }));
}

/// thesis §3.10: "the prior leader stops accepting new client requests", brings the target up to date and "sends a
/// TimeoutNow request".
#[test]
fn transfer_stops_proposals_and_tells_an_up_to_date_target() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    leader.propose(1);
    leader.step(Event::Transfer { to: Some(node(3)) });
    assert_eq!(leader.sent(3), []);
    assert_eq!(leader.propose(1), [Effect::Refused { reason: Refusal::Transferring }]);
    leader.receive(3, term, Body::AppendAccepted { last: id(term, 2) });
    assert_eq!(leader.sent(3), [(Body::TimeoutNow, false)]);
    // "If leadership transfer does not complete after about an election timeout, the prior leader aborts".
    leader.receive(2, term, Body::AppendAccepted { last: id(term, 1) });
    leader.now += 1_200;
    leader.receive(2, term, Body::AppendAccepted { last: id(term, 1) });
    leader.step(Event::Tick);
    assert!(matches!(leader.propose(1).first(), Some(Effect::Append { .. })));
}

/// thesis §6.2: "a leader in Raft steps down if an election timeout elapses without a successful round of heartbeats to
/// a majority of its cluster".
#[test]
fn leader_that_hears_no_majority_steps_down() {
    let mut leader = Replica::new(5, 0, &[]);
    let term = leader.lead_established();
    leader.now += 1_000;
    leader.receive(2, term, Body::AppendAccepted { last: id(term, 1) });
    leader.receive(3, term, Body::AppendAccepted { last: id(term, 1) });
    leader.now += 1_000;
    leader.step(Event::Tick);
    assert_eq!(leader.core.role(), Role::Leader);
    leader.now += 200;
    leader.step(Event::Tick);
    assert_eq!((leader.core.role(), leader.core.epoch()), (Role::Follower, epoch(term)));
}

/// thesis §9.6 (pre-vote): it "solves the issue of a partitioned server disrupting the cluster when it rejoins": its term
/// does not grow while it is alone.
#[test]
fn partitioned_server_keeps_its_term() {
    let mut replica = Replica::new(3, 4, &[4]);
    for _ in 0..20 {
        replica.time_out();
        assert_eq!((replica.core.role(), replica.core.epoch()), (Role::PreCandidate, epoch(4)));
    }
}

/// Not in the paper, but under everything in it: what storage lost or damaged must not vote (safety.md F11, F16).
#[test]
fn replica_that_cannot_vouch_for_its_state_refuses_to_vote() {
    let cases: [fn(&mut Restored); 2] =
        [|restored| restored.gate_open = false, |restored| restored.needs_repair = true];
    for change in cases {
        let mut replica = Replica::restored(3, 1, &[1], change);
        assert!(!replica.vote_of(2, 2, id(9, 9)));
        replica.receive(2, 3, Body::PreVote { last: id(9, 9), round: 1 });
        assert_eq!(replica.sent(2), [(Body::PreVoteReply { granted: false, round: 1 }, false)]);
        replica.time_out();
        assert_eq!(replica.core.role(), Role::Follower);
        replica.receive(2, 9, Body::TimeoutNow);
        assert_eq!(replica.core.role(), Role::Follower);
    }
}

impl Replica {
    fn change(&mut self, expected: LogId, voters: &[i32], learners: &[i32]) -> &[Effect] {
        let of = |nodes: &[i32]| nodes.iter().map(|number| node(*number)).collect::<Vec<_>>();
        self.step(Event::ChangeMembership { expected, voters: of(voters), learners: of(learners) })
    }

    /// Configuration entries appended in the last step.
    fn configured(&self) -> Vec<Configuration> {
        let pick = |effect: &Effect| match effect {
            Effect::AppendConfiguration { configuration, .. } => Some(configuration.clone()),
            _ => None,
        };
        self.out.iter().filter_map(pick).collect()
    }

    fn refused(&self) -> Option<ChangeRefusal> {
        self.out.iter().find_map(|effect| match effect {
            Effect::ChangeRefused { reason } => Some(reason.clone()),
            _ => None,
        })
    }

    fn accept(&mut self, from: i32, term: u64, index: u64) -> &[Effect] {
        self.receive(from, term, Body::AppendAccepted { last: id(term, index) })
    }
}

/// §6: "Once Cold,new has been committed, [...] it is now safe for the leader to create a log entry describing Cnew": not
/// earlier, and by a majority of both.
#[test]
fn new_configuration_is_proposed_only_when_the_joint_one_is_committed() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    leader.change(LogId::default(), &[1, 2], &[]);
    let joint = leader.configured();
    assert_eq!(
        (joint.len(), joint[0].is_joint(), &joint[0].old_voters[..]),
        (1, true, &[node(1), node(2), node(3)][..])
    );
    assert_eq!(leader.core.configuration(), (&joint[0], id(term, 2)), "in force from its append on");
    leader.step(Event::Durable { last: id(term, 2) });
    // 1 and 3 are a majority of the old half, not of the new one.
    leader.accept(3, term, 2);
    assert_eq!((leader.configured(), leader.committed()), (vec![], None));
    leader.accept(2, term, 2);
    assert_eq!(leader.committed(), Some(Index(2)));
    assert_eq!(leader.configured()[0].voters, [node(1), node(2)]);
    assert!(!leader.core.configuration().0.is_joint());
}

/// §6: "the cluster leader may not be part of the new configuration. In this case, the leader steps down (returns to
/// follower state) once it has committed the Cnew log entry [...] it replicates log entries but does not count itself
/// in majorities."
#[test]
fn leader_left_out_does_not_count_itself_and_steps_down_when_that_is_committed() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    leader.change(LogId::default(), &[2, 3], &[]);
    leader.step(Event::Durable { last: id(term, 2) });
    leader.accept(2, term, 2);
    leader.accept(3, term, 2);
    leader.step(Event::Durable { last: id(term, 3) });
    leader.accept(2, term, 3);
    assert_eq!((leader.core.role(), leader.core.commit()), (Role::Leader, Index(2)));
    leader.accept(3, term, 3);
    assert_eq!((leader.core.role(), leader.core.commit()), (Role::Learner, Index(3)));
    // thesis §4.2.2: it hands over to one that holds everything.
    assert!(leader.sent(2).iter().chain(&leader.sent(3)).any(|(body, _)| *body == Body::TimeoutNow));
}

/// §6: "new servers join the cluster as non-voting members (the leader replicates log entries to them, but they are not
/// considered for majorities). Once the new servers have caught up with the rest of the cluster, the reconfiguration can
/// proceed as described above."
#[test]
fn new_server_joins_without_a_vote_and_votes_when_caught_up() {
    let mut leader = Replica::new(1, 0, &[]);
    leader.time_out();
    leader.now = 10;
    leader.step(Event::Durable { last: id(1, 1) });
    leader.change(LogId::default(), &[1, 2], &[]);
    assert!(matches!(leader.refused(), Some(ChangeRefusal::NotCaughtUp { .. })));
    leader.change(LogId::default(), &[1], &[2]);
    assert!(leader.out.iter().any(|effect| matches!(effect, Effect::Replicate { to, .. } if *to == node(2))));
    leader.step(Event::Durable { last: id(1, 2) });
    assert_eq!(leader.committed(), Some(Index(2)), "nobody waits for it");
    leader.change(id(1, 2), &[1, 2], &[]);
    assert!(matches!(leader.refused(), Some(ChangeRefusal::NotCaughtUp { .. })));
    leader.accept(2, 1, 2);
    leader.change(id(1, 2), &[1, 2], &[]);
    assert!(leader.configured()[0].is_joint());
}

/// §6 (third issue) and thesis §4.2.3: "removed servers (those not in Cnew) can disrupt the cluster [...] they will then
/// time out and start new elections". They are told, and their terms are not taken.
#[test]
fn removed_server_is_told_and_its_term_is_not_taken() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead_established();
    leader.change(LogId::default(), &[1, 2], &[]);
    leader.step(Event::Durable { last: id(term, 2) });
    leader.accept(2, term, 2);
    leader.step(Event::Durable { last: id(term, 3) });
    assert!(leader.sent(3).is_empty(), "not before it is committed");
    leader.accept(2, term, 3);
    let removed = Body::Removed { configuration: id(term, 3) };
    assert_eq!(leader.sent(3), [(removed.clone(), false)]);
    leader.receive(3, term + 5, Body::Vote { last: id(term, 2), transfer: true });
    assert_eq!(leader.sent(3), [(removed.clone(), false)]);
    assert_eq!((leader.core.role(), leader.core.epoch()), (Role::Leader, epoch(term)));

    let mut former = Replica::new(3, term, &[term, term]);
    former.receive(2, term, removed);
    former.time_out();
    assert_eq!(former.core.role(), Role::Follower, "it does not campaign any more");
}

/// thesis §4.1 and Ongaro on raft-dev (2015): "a leader may not append a new configuration entry until it has committed
/// an entry from its current term"; and one change at a time.
#[test]
fn change_waits_for_an_own_entry_and_for_the_change_before_it() {
    let mut leader = Replica::new(3, 0, &[]);
    let term = leader.lead();
    leader.change(LogId::default(), &[1, 2], &[]);
    assert_eq!(leader.refused(), Some(ChangeRefusal::Pending));
    leader.step(Event::Durable { last: id(term, 1) });
    leader.accept(2, term, 1);
    leader.change(id(term, 9), &[1, 2], &[]);
    assert_eq!(leader.refused(), Some(ChangeRefusal::Stale { current: LogId::default() }));
    leader.change(LogId::default(), &[1, 2], &[]);
    assert_eq!(leader.refused(), None);
    leader.change(id(term, 2), &[1, 2, 3], &[]);
    assert_eq!(leader.refused(), Some(ChangeRefusal::Pending));
}

/// thesis §4.2.2: "A server that is not part of its own latest configuration should still start new elections, as it might
/// still be needed until the Cnew entry is committed [...] It does not count its own vote in elections".
#[test]
fn server_left_out_by_an_uncommitted_entry_still_campaigns_without_counting_itself() {
    let log = |restored: &mut Restored| {
        let joint = Configuration {
            voters: vec![node(2)],
            old_voters: vec![node(1), node(2)],
            ..Configuration::default()
        };
        restored.configurations = vec![(id(1, 1), joint.clone()), (id(1, 2), joint.without_old())];
    };
    let mut former = Replica::restored(2, 1, &[1, 1], log);
    former.time_out();
    former.receive(2, 2, Body::PreVoteReply { granted: true, round: 1 });
    assert_eq!(former.core.role(), Role::Candidate);
    former.receive(2, 2, Body::VoteReply { granted: true });
    assert_eq!(former.core.role(), Role::Leader);
    former.step(Event::Durable { last: id(2, 3) });
    assert_eq!(former.committed(), None, "its own copy does not count");
}

/// Likewise: one in doubt grants only elections that every voter grants, says so, and does not win by a mere majority.
#[test]
fn replica_in_doubt_votes_and_stands_only_where_every_voter_grants() {
    for doubt in [Doubt::Entries, Doubt::Vote] {
        let mut replica = Replica::restored(3, 1, &[1], |restored| restored.hard_state.doubt = doubt);
        replica.receive(2, 3, Body::PreVote { last: id(9, 9), round: 1 });
        let vote = doubt == Doubt::Vote;
        assert_eq!(replica.sent(2), [(Body::PreVoteIfAll { round: 1, vote }, false)]);
        replica.receive(2, 3, Body::Vote { last: id(9, 9), transfer: false });
        assert_eq!(replica.sent(2), [(Body::VoteIfAll { vote }, true)]);
        let mut replica = Replica::restored(3, 1, &[1], |restored| restored.hard_state.doubt = doubt);
        replica.receive(2, 9, Body::TimeoutNow);
        assert_eq!(replica.core.role(), Role::Follower);
        let mut replica = Replica::restored(3, 1, &[1], |restored| restored.hard_state.doubt = doubt);
        replica.time_out();
        assert_eq!(replica.core.role(), Role::PreCandidate);
        let asked = replica.core.epoch().term.0 + 1;
        replica.receive(2, asked, Body::PreVoteReply { granted: true, round: 1 });
        assert_eq!(replica.core.role(), Role::PreCandidate, "two of three, itself in doubt");
    }
}

/// Not in the paper (safety.md F2, step 4): the survivor takes over only if it is exactly what was decided on.
#[test]
pub fn survivor_that_is_not_exactly_what_was_decided_on_refuses() {
    let opening = Opening { survivor: node(1), base: id(1, 2), first_term: Term(5), lossless: true };
    let decision = Decision { generation: Generation(1), opening, learners: Vec::new() };
    let sealed = |restored: &mut Restored| restored.hard_state.sealed = Some(7);
    let decide = |change: &dyn Fn(&mut Restored), decision: &Decision| {
        let mut replica = Replica::restored(2, 1, &[1, 1], change);
        replica.step(Event::Generation(Order::Decided(decision.clone())));
        let took = replica.out.iter().any(|effect| match effect {
            Effect::Generation(what) => matches!(**what, GenerationEffect::TakeOver { .. }),
            _ => false,
        });
        assert_eq!(took, replica.core.role() == Role::Leader);
        assert_eq!(took, replica.core.epoch() == Epoch::new(1, 5));
        let refused = replica.out.iter().any(|effect| match effect {
            Effect::Generation(what) => matches!(**what, GenerationEffect::TakeOverRefused { .. }),
            _ => false,
        });
        assert!(took != refused);
        took
    };
    assert!(decide(&sealed, &decision));
    assert!(!decide(&|_| {}, &decision), "not sealed");
    for base in [id(1, 1), id(1, 3), id(0, 2)] {
        let other = Decision { opening: Opening { base, ..opening }, ..decision.clone() };
        assert!(!decide(&sealed, &other), "its log does not end at {base}");
    }
    let early = Decision { opening: Opening { first_term: Term(1), ..opening }, ..decision.clone() };
    assert!(!decide(&sealed, &early), "it has seen that term");
    let later = Decision { generation: Generation(2), ..decision.clone() };
    assert!(!decide(&sealed, &later), "it is not sealed in the generation before");
    let spoilt: [fn(&mut Restored); 3] = [
        |restored| restored.needs_repair = true,
        |restored| restored.hard_state.doubt = Doubt::Entries,
        |restored| restored.hard_state.doubt = Doubt::Vote,
    ];
    for spoil in spoilt {
        let change = |restored: &mut Restored| {
            sealed(restored);
            spoil(restored);
        };
        assert!(!decide(&change, &decision), "it may have lost entries");
    }
}
