//! Broker sessions over time: who lapses, who comes back, and whose silence is our own.
use super::*;
use crate::ctl::liveness::{Beat, Sessions};
use proptest::prelude::*;

const SESSION: u64 = 9000;

fn id(log: &Log, node: i32) -> (NodeId, u64) {
    (NodeId(node), log.image.brokers[&NodeId(node)].incarnation)
}

/// Lets time pass as a caller does that is never late: asks at every deadline.
fn pass(sessions: &mut Sessions, from: u64, to: u64) -> Vec<(u64, NodeId)> {
    let mut fenced = Vec::new();
    let mut now = from;
    while now < to {
        now = sessions.next_deadline().unwrap_or(to).clamp(now + 1, to);
        fenced.extend(sessions.expired(now).into_iter().map(|(node, _)| (now, node)));
    }
    fenced
}

#[test]
pub(crate) fn new_controller_leader_grants_every_broker_a_full_session() {
    let log = Log::with_brokers(&[None, None]);
    let mut sessions = Sessions::new(1_000, &log.image, SESSION);
    assert_eq!(pass(&mut sessions, 1_000, 1_000 + SESSION - 1), []);
    assert_eq!(sessions.expired(1_000 + SESSION), [id(&log, 0), id(&log, 1)]);
}

#[test]
fn broker_that_beats_lives_and_one_that_stops_lapses() {
    let mut log = Log::with_brokers(&[None, None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION);
    for now in (100..=20_000).step_by(100) {
        assert_eq!(sessions.on_heartbeat(NodeId(0), id(&log, 0).1, now), Beat::Alive);
        if now <= 5_000 {
            sessions.on_heartbeat(NodeId(1), id(&log, 1).1, now);
        }
        for (node, incarnation) in sessions.expired(now) {
            assert_eq!((node, now), (NodeId(1), 5_000 + SESSION));
            log.run(&Command::Fence { node, incarnation }).unwrap();
            sessions.on_image(&log.image, now);
        }
    }
    assert!(log.image.brokers[&NodeId(1)].fenced && !log.image.brokers[&NodeId(0)].fenced);
    assert!(sessions.is_alive(NodeId(0), 20_000) && !sessions.is_alive(NodeId(1), 20_000));
}

#[test]
fn fenced_broker_that_beats_again_is_unfenced_once() {
    let mut log = Log::with_brokers(&[None]);
    log.fence(0);
    let broker = id(&log, 0);
    let mut sessions = Sessions::new(0, &log.image, SESSION);
    assert_eq!(sessions.resumed(0), [], "it has not been heard yet");
    assert_eq!(sessions.on_heartbeat(NodeId(0), broker.1, 10), Beat::Fenced);
    assert_eq!(sessions.resumed(10), [broker]);
    assert_eq!(sessions.resumed(20), [], "the decision is under way");
    assert_eq!(sessions.resumed(10 + SESSION / 4), [broker], "it seems to be lost: again");
    log.unfence(0);
    sessions.on_image(&log.image, 3_000);
    assert_eq!(sessions.resumed(6_000), []);
    assert_eq!(sessions.on_heartbeat(NodeId(0), broker.1, 6_000), Beat::Alive);
}

#[test]
fn expiry_is_reported_once_until_it_seems_lost() {
    let log = Log::with_brokers(&[None]);
    let mut sessions = Sessions::new(0, &log.image, 1_000);
    let fenced = pass(&mut sessions, 0, 1_600);
    assert_eq!(fenced, [(1_000, NodeId(0)), (1_250, NodeId(0)), (1_500, NodeId(0))]);
}

#[test]
fn orderly_stop_is_fenced_at_once_and_stays_so_until_it_registers_again() {
    let mut log = Log::with_brokers(&[None, None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION);
    let broker = id(&log, 1);
    sessions.on_stop(NodeId(1), broker.1 + 100, 5);
    assert_eq!(sessions.expired(5), [], "another incarnation's stop is nobody's");
    sessions.on_stop(NodeId(1), broker.1, 10);
    assert!(sessions.next_deadline().unwrap() <= 10);
    assert_eq!(sessions.expired(10), [broker]);
    log.fence(1);
    sessions.on_image(&log.image, 11);
    assert_eq!(sessions.on_heartbeat(NodeId(1), broker.1, 12), Beat::Fenced);
    assert_eq!(sessions.resumed(12), []);

    log.run(&registration(1, 0, None)).unwrap();
    sessions.on_image(&log.image, 20);
    assert_eq!(sessions.on_heartbeat(NodeId(1), broker.1, 21), Beat::Unknown, "the old incarnation is gone");
    assert_eq!(sessions.on_heartbeat(NodeId(1), id(&log, 1).1, 21), Beat::Alive);
}

#[test]
fn beat_of_an_unknown_broker_asks_it_to_register() {
    let log = Log::with_brokers(&[None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION);
    assert_eq!(sessions.on_heartbeat(NodeId(5), 1, 1), Beat::Unknown);
    assert_eq!(sessions.on_heartbeat(NodeId(0), 1, 1), Beat::Unknown);
}

#[test]
fn stall_of_the_controller_itself_is_not_held_against_the_brokers() {
    let log = Log::with_brokers(&[None, None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION);
    sessions.on_heartbeat(NodeId(0), id(&log, 0).1, 1_000);
    // Stopped from 1 s to 60 s; the beats of the brokers wait unread.
    assert_eq!(sessions.expired(60_000), []);
    assert_eq!(pass(&mut sessions, 60_000, 60_000 + SESSION).len(), 2, "then one full session, no more");
}

#[test]
fn without_brokers_there_is_nothing_to_wait_for() {
    let mut sessions = Sessions::new(0, &Image::default(), SESSION);
    assert_eq!(sessions.next_deadline(), None);
    assert_eq!(sessions.expired(SESSION * 3), []);
}

#[test]
fn extreme_times_do_not_overflow() {
    let log = Log::with_brokers(&[None]);
    let mut sessions = Sessions::new(u64::MAX - 1, &log.image, u64::MAX);
    sessions.on_heartbeat(NodeId(0), id(&log, 0).1, u64::MAX);
    sessions.expired(u64::MAX);
    sessions.next_deadline();
}

/// Asks for the dead at every deadline, too.
fn deaths(sessions: &mut Sessions, log: &mut Log, from: u64, to: u64) -> Vec<(u64, NodeId)> {
    let mut found = Vec::new();
    let mut now = from;
    while now < to {
        now = sessions.next_deadline().unwrap_or(to).clamp(now + 1, to);
        for (node, incarnation) in sessions.dead(now) {
            found.push((now, node));
            log.run(&Command::Dead { node, incarnation }).unwrap();
        }
        for (node, incarnation) in sessions.expired(now) {
            let command = match sessions.is_stopping(node) {
                true => Command::Stopping { node, incarnation },
                false => Command::Fence { node, incarnation },
            };
            log.run(&command).unwrap();
        }
        sessions.on_image(&log.image, now);
    }
    found
}

#[test]
fn process_that_died_is_dead_a_moment_after_its_connections() {
    let mut log = Log::with_brokers(&[None, None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION).with_patience(1_000, 60_000);
    sessions.on_lost(NodeId(0), 100);
    sessions.on_lost(NodeId(0), 500);
    assert_eq!(deaths(&mut sessions, &mut log, 100, 3_000), [(1_100, NodeId(0))]);
    assert!(log.image.brokers[&NodeId(0)].dead && log.image.brokers[&NodeId(0)].fenced);
    assert_eq!(sessions.resumed(3_000), [], "what was left of its session says nothing");
    sessions.on_connected(NodeId(0));
    assert_eq!(sessions.resumed(3_001), [], "it has to be heard");
    sessions.on_heartbeat(NodeId(0), id(&log, 0).1, 3_002);
    assert_eq!(sessions.resumed(3_002), [id(&log, 0)], "it was cut off from us alone");
}

#[test]
fn broker_that_reconnects_in_time_is_not_dead() {
    let mut log = Log::with_brokers(&[None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION).with_patience(1_000, 60_000);
    sessions.on_lost(NodeId(0), 100);
    assert_eq!(deaths(&mut sessions, &mut log, 100, 1_099), []);
    sessions.on_connected(NodeId(0));
    assert_eq!(deaths(&mut sessions, &mut log, 1_099, SESSION - 1), []);
    assert_eq!(
        deaths(&mut sessions, &mut log, SESSION - 1, SESSION + 9).len(),
        1,
        "silent for its whole session"
    );
}

#[test]
fn broker_that_stopped_in_order_is_waited_for_by_whoever_leads() {
    let mut log = Log::with_brokers(&[None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION).with_patience(1_000, 60_000);
    sessions.on_stop(NodeId(0), id(&log, 0).1, 50);
    sessions.on_lost(NodeId(0), 200);
    assert_eq!(deaths(&mut sessions, &mut log, 50, 30_000), []);
    assert!(log.image.brokers[&NodeId(0)].stopping);
    // The next controller leader knows it from the log, and begins anew.
    let mut sessions = Sessions::new(30_000, &log.image, SESSION).with_patience(1_000, 60_000);
    sessions.on_lost(NodeId(0), 30_000);
    assert_eq!(deaths(&mut sessions, &mut log, 30_000, 100_000), [(90_000, NodeId(0))]);
    log.run(&registration(0, 0, None)).unwrap();
    let back = &log.image.brokers[&NodeId(0)];
    assert!(!back.stopping && !back.dead && !back.fenced);
}

/// The stop of a broker that was fenced already was in no record, so that the next controller leader called it dead after a session.
#[test]
fn stop_of_a_fenced_broker_is_recorded() {
    let mut log = Log::with_brokers(&[None]);
    let mut sessions = Sessions::new(0, &log.image, SESSION).with_patience(1_000, 60_000);
    let (node, incarnation) = id(&log, 0);
    log.run(&Command::Fence { node, incarnation }).unwrap();
    sessions.on_image(&log.image, 10);
    sessions.on_stop(node, incarnation, 50);
    assert_eq!(sessions.expired(50), [(node, incarnation)]);
    assert!(sessions.is_stopping(node));
    assert_eq!(sessions.expired(51), [], "it is under way");
    let again = sessions.next_deadline().unwrap();
    assert_eq!(sessions.expired(again), [(node, incarnation)], "and made again if that failed");
    log.run(&Command::Stopping { node, incarnation }).unwrap();
    sessions.on_image(&log.image, again + 1);
    assert_eq!(deaths(&mut sessions, &mut log, again + 1, 30_000), []);
    assert_eq!(sessions.expired(30_000), []);
    let mut sessions = Sessions::new(30_000, &log.image, SESSION).with_patience(1_000, 60_000);
    sessions.on_lost(node, 30_000);
    assert_eq!(deaths(&mut sessions, &mut log, 30_000, 100_000), [(90_000, node)]);
}

#[test]
fn new_controller_leader_grants_a_fenced_broker_a_session_before_it_is_dead() {
    let mut log = Log::with_brokers(&[None]);
    log.fence(0);
    let mut sessions = Sessions::new(0, &log.image, SESSION).with_patience(1_000, 60_000);
    assert_eq!(deaths(&mut sessions, &mut log, 0, 2 * SESSION), [(SESSION, NodeId(0))]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever was heard within the session is never reported, whatever happens around it; whoever was silent for two
    /// sessions of a caller that keeps asking has been.
    #[test]
    fn broker_heard_in_time_is_never_expired(
        beats in prop::collection::vec((0..3i32, 0..400u64), 1..200)
    ) {
        let log = Log::with_brokers(&[None, None, None]);
        let mut sessions = Sessions::new(0, &log.image, 1_000);
        let mut heard = [0u64; 3];
        let mut now = 0;
        for (node, wait) in beats {
            now += wait;
            for (gone, _) in sessions.expired(now) {
                prop_assert!(now - heard[gone.0 as usize] >= 1_000);
            }
            sessions.on_heartbeat(NodeId(node), id(&log, node).1, now);
            heard[node as usize] = now;
            prop_assert!(sessions.is_alive(NodeId(node), now));
        }
        let gone = pass(&mut sessions, now, now + 2_000);
        for node in 0..3 {
            prop_assert!(gone.iter().any(|(_, n)| n.0 == node));
        }
    }
}
