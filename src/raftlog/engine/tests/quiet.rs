//! Quiet groups: beats by one bit must do all that full beats do (elections, check-quorum, commit, reads), hide no group that is
//! not well, and be rebuilt after every loss; elections of many groups are let in a few at a time.

use super::*;

fn settled(voters: &[i32]) -> (Rig, i32) {
    let mut rig = Rig::new(voters, &[]);
    let leader = rig.leader();
    rig.run(500);
    (rig, leader)
}

fn others(leader: i32) -> Vec<i32> {
    (1..=3).filter(|id| *id != leader).collect()
}

impl Rig {
    fn quiet(&mut self, leader: i32) -> Vec<usize> {
        others(leader).iter().map(|peer| self.engine(leader).quiet_groups(NodeId(*peer))).collect()
    }

    fn epoch(&mut self, at: i32) -> Epoch {
        self.engine(at).core(GROUP).unwrap().epoch()
    }

    fn role(&mut self, at: i32) -> Role {
        self.engine(at).core(GROUP).unwrap().role()
    }

    /// More groups of the same three voters; the first of each is another one in turn.
    fn add_groups(&mut self, count: u64) {
        for group in 0..count {
            let first = (group % 3) as i32;
            let voters: Vec<i32> = (0..3).map(|at| (first + at) % 3 + 1).collect();
            for id in &voters {
                let configuration = Configuration { voters: replicas(&voters), ..Configuration::default() };
                let log_start = LogStart { configuration: configuration.encode(), ..LogStart::default() };
                let spec = GroupSpec {
                    group: GroupId(100 + group),
                    name: format!("g-{group}"),
                    replica: replica(*id),
                    log_start,
                    hard_state: HardState::default(),
                    options: GroupOptions::default(),
                };
                let now = self.now;
                self.engine(*id).create(now, spec, voters[0] == *id).unwrap();
            }
        }
    }

    fn led(&mut self, at: i32) -> usize {
        let engine = self.engine(at);
        let ids = engine.group_ids();
        ids.into_iter().filter(|g| engine.core(*g).is_some_and(|c| c.role() == Role::Leader)).count()
    }
}

#[test]
fn idle_group_is_beaten_by_bits_alone_and_keeps_its_leader() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    assert_eq!(rig.quiet(leader), [1, 1]);
    let epoch = rig.epoch(leader);
    rig.sent = Sent::default();
    rig.run(20_000);
    let sent = rig.sent;
    assert_eq!(sent.raft, 0, "{sent:?}");
    // 200 beats to two peers, give or take the steps of the rig.
    assert!((360..=400).contains(&sent.beats) && sent.answers == sent.beats, "{sent:?}");
    assert_eq!((rig.epoch(leader), rig.role(leader)), (epoch, Role::Leader));
    let heard = rig.engine(leader).progress(GROUP);
    let now = rig.now;
    assert!(heard.iter().all(|peer| now - peer.heard_ms < 250 && now - peer.caught_up_ms < 250), "{heard:?}");
}

#[test]
fn many_idle_groups_cost_a_bit_each() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    rig.add_groups(300);
    rig.run(3_000);
    assert_eq!((1..=3).map(|id| rig.led(id)).sum::<usize>(), 301);
    rig.sent = Sent::default();
    rig.run(1_000);
    let beats = rig.sent.beats / 6;
    let per_pair = rig.sent.bytes / 3 / beats;
    // Both directions of a pair with their answers: 2 * 100 groups in bits, four headers.
    assert!(rig.sent.raft == 0 && per_pair < 2 * 301 / 8 + 4 * 40, "{:?}: {per_pair} bytes", rig.sent);
}

#[test]
fn leader_whose_answers_are_lost_steps_down() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    rig.cut = others(leader).iter().map(|other| (*other, leader)).collect();
    rig.run(CORE.check_quorum_ms + 300);
    assert_ne!(rig.role(leader), Role::Leader);
}

#[test]
fn leader_that_falls_silent_is_replaced() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    rig.crash(leader);
    rig.run(CORE.election_min_ms - 150);
    let [a, b] = others(leader)[..] else { panic!("two are left") };
    assert!(rig.role(a) == Role::Follower && rig.role(b) == Role::Follower, "it was heard a moment ago");
    rig.run(2_000);
    assert!(rig.role(a) == Role::Leader || rig.role(b) == Role::Leader);
}

#[test]
fn vote_is_refused_while_bits_say_that_the_leader_lives() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    let [lonely, other] = others(leader)[..] else { panic!("two are left") };
    // One follower does not hear the leader and asks the other, which hears it by bits alone.
    rig.cut = [(leader, lonely)].into();
    let epoch = rig.epoch(leader);
    rig.run(10_000);
    assert_eq!((rig.role(leader), rig.epoch(leader), rig.epoch(other)), (Role::Leader, epoch, epoch));
    rig.cut.clear();
    // Its slot was an exception; a second later it gets one again.
    rig.run(2_500);
    assert_eq!(rig.quiet(leader), [1, 1]);
}

#[test]
fn entries_commit_everywhere_and_the_group_is_quiet_again() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    for _ in 0..5 {
        rig.produce(leader, 3);
        assert_eq!(rig.quiet(leader), [0, 0]);
        rig.run(430);
        assert_eq!(rig.quiet(leader), [1, 1]);
        for id in 1..=3 {
            let core = rig.engine(id).core(GROUP).unwrap();
            assert_eq!(core.commit(), core.last().index);
        }
    }
    assert_eq!(rig.log(1), rig.log(3));
}

#[test]
fn read_index_of_a_quiet_group_is_confirmed_by_full_beats() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    let now = rig.now;
    rig.engine(leader).read_index(now, GROUP, 77);
    rig.run(30);
    let node = rig.nodes.iter().find(|node| node.id.0 == leader).unwrap();
    assert!(node.events.iter().any(|e| matches!(e, GroupEvent::Read { token: 77, ok: true, .. })));
    rig.run(300);
    assert_eq!(rig.quiet(leader), [1, 1]);
}

#[test]
fn read_index_without_answers_is_not_confirmed_by_bits() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    rig.cut = others(leader).iter().map(|other| (*other, leader)).collect();
    let now = rig.now;
    rig.engine(leader).read_index(now, GROUP, 78);
    rig.run(300);
    let node = rig.nodes.iter().find(|node| node.id.0 == leader).unwrap();
    assert!(!node.events.iter().any(|e| matches!(e, GroupEvent::Read { token: 78, .. })));
}

#[test]
fn damaged_follower_is_an_exception_and_gets_full_beats() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    let [a, b] = others(leader)[..] else { panic!("two are left") };
    let now = rig.now;
    rig.engine(a).damaged(now, GROUP);
    rig.run(400);
    assert_eq!(rig.quiet(leader).iter().sum::<usize>(), 1, "the damaged one gets full beats");
    let heard = rig.engine(leader).progress(GROUP);
    let sick = heard.iter().find(|peer| peer.replica.node.0 == a).unwrap();
    assert!(rig.now - sick.heard_ms < 250, "it answers full beats, with nothing it holds");
    // Nor does its vote count, so with the other one gone nothing commits, but it is no reason to depose the leader.
    rig.crash(b);
    rig.run(CORE.check_quorum_ms + 300);
    assert_eq!(rig.role(leader), Role::Leader);
}

#[test]
fn wedged_group_among_many_is_missed() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    rig.add_groups(100);
    let leader = rig.leader();
    rig.run(2_000);
    // As if the group alone were gone from the leader's node: its process and all other groups go on.
    rig.engine(leader).remove(GROUP);
    rig.run(3_000);
    let [a, b] = others(leader)[..] else { panic!("two are left") };
    assert!(rig.role(a) == Role::Leader || rig.role(b) == Role::Leader);
    assert_eq!((1..=3).map(|id| rig.led(id)).sum::<usize>(), 101);
}

#[test]
pub(crate) fn group_removed_from_a_follower_counts_as_silent() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    rig.add_groups(50);
    let leader = rig.leader();
    rig.run(2_000);
    let [a, b] = others(leader)[..] else { panic!("two are left") };
    rig.engine(a).remove(GROUP);
    rig.engine(b).remove(GROUP);
    rig.run(CORE.check_quorum_ms + 300);
    assert_ne!(rig.role(leader), Role::Leader, "answers of other groups are not its own");
}

#[test]
fn connection_lost_and_back_starts_the_table_over() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    let epoch = rig.epoch(leader);
    for other in others(leader) {
        let now = rig.now;
        rig.engine(leader).set_connected(now, NodeId(other), false);
        assert_eq!(rig.engine(leader).quiet_groups(NodeId(other)), 0);
        rig.engine(leader).set_connected(now, NodeId(other), true);
    }
    rig.run(500);
    assert_eq!(rig.quiet(leader), [1, 1]);
    assert_eq!(rig.epoch(leader), epoch);
}

#[test]
fn lost_definitions_are_found_out_and_made_again() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    let leader = rig.leader();
    // Whatever defines the slots goes down the drain while the leader believes that it was sent.
    rig.cut = others(leader).iter().map(|other| (leader, *other)).collect();
    rig.run(200);
    rig.cut.clear();
    rig.run(2_500);
    assert_eq!(rig.quiet(leader), [1, 1]);
    rig.sent = Sent::default();
    rig.run(5_000);
    assert_eq!(rig.sent.raft, 0);
}

#[test]
fn restarted_follower_is_beaten_in_full_until_it_is_known_anew() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    let other = others(leader)[0];
    rig.crash(other);
    rig.run(300);
    rig.start(other);
    rig.run(1_000);
    assert_eq!(rig.quiet(leader), [1, 1]);
    rig.produce(leader, 3);
    rig.run(300);
    assert_eq!(rig.log(other), rig.log(leader));
}

#[test]
fn same_run_twice_sends_the_same_frames() {
    let run = || {
        let mut rig = Rig::new(&[1, 2, 3], &[]);
        rig.add_groups(60);
        rig.run(2_000);
        rig.crash(1);
        rig.run(3_000);
        rig.start(1);
        rig.run(2_000);
        rig.sent
    };
    assert_eq!(run(), run());
}

#[test]
fn many_groups_of_a_dead_broker_are_led_again_a_few_campaigns_at_a_time() {
    let mut rig = Rig::new(&[1, 2, 3], &[]);
    rig.add_groups(900);
    rig.run(4_000);
    assert!(rig.led(1) >= 250, "{}", rig.led(1));
    rig.crash(1);
    let now = rig.now;
    for id in [2, 3] {
        rig.engine(id).peer_reset(now, NodeId(1));
    }
    let mut most = 0;
    for _ in 0..100 {
        rig.run(10);
        for id in [2, 3] {
            let engine = rig.engine(id);
            let ids = engine.group_ids();
            let candidate =
                |g: &GroupId| matches!(engine.core(*g).unwrap().role(), Role::PreCandidate | Role::Candidate);
            most = most.max(ids.iter().filter(|g| candidate(g)).count());
        }
    }
    assert!(most > 0 && most <= 300, "{most} candidates at once");
    assert_eq!(rig.led(2) + rig.led(3), 901, "all are led again after a second");
}

#[test]
fn silent_voters_are_asked_again_without_a_place() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    let [left, other] = others(leader)[..] else { panic!("two are left") };
    rig.crash(leader);
    rig.crash(other);
    while rig.role(left) != Role::PreCandidate {
        rig.run(10);
    }
    assert_eq!(rig.engine(left).campaigns.places(), 1);
    rig.run(150);
    let before = rig.sent.raft;
    for _ in 0..40 {
        rig.run(10);
        assert_eq!(rig.role(left), Role::PreCandidate);
        assert_eq!(rig.engine(left).campaigns.places(), 0);
    }
    assert!(rig.sent.raft > before, "nobody was asked again");
}

/// Every message of a leader moves its followers' deadlines, often to an earlier moment than the one before.
#[test]
fn timers_that_move_with_every_message_do_not_pile_up() {
    let (mut rig, leader) = settled(&[1, 2, 3]);
    for _ in 0..600 {
        rig.produce(leader, 1);
        rig.run(50);
    }
    for id in 1..=3 {
        let engine = rig.engine(id);
        let (keys, groups) = (engine.wheel.held(), engine.group_ids().len());
        assert!(keys <= 10 * groups, "{keys} timers of {groups} groups");
    }
}

#[test]
fn lone_group_fails_over_within_a_tenth_of_a_second() {
    for seed in 0..5 {
        let (mut rig, leader) = settled(&[1, 2, 3]);
        rig.run(seed * 37);
        rig.crash(leader);
        let now = rig.now;
        let [a, b] = others(leader)[..] else { panic!("two are left") };
        for id in [a, b] {
            rig.engine(id).peer_reset(now, NodeId(leader));
        }
        rig.run(100);
        assert!(rig.role(a) == Role::Leader || rig.role(b) == Role::Leader);
    }
}
