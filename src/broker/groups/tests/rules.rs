//! Single rules of the classic protocol, one script each.

use super::records::*;
use super::*;

fn refused(reply: Reply) -> GroupError {
    match reply {
        Reply::Refused(error) => error,
        other => panic!("not refused: {other:?}"),
    }
}

fn joined(reply: Reply) -> Joined {
    match reply {
        Reply::Joined(joined) => joined,
        other => panic!("not joined: {other:?}"),
    }
}

fn share(reply: Reply) -> Bytes {
    match reply {
        Reply::Synced { assignment, .. } => assignment,
        other => panic!("no share: {other:?}"),
    }
}

fn offset_of(world: &mut World, partition: i32) -> Option<i64> {
    match world.ask(Ask::Offsets(Some(vec![("t".to_owned(), partition)]))) {
        Reply::Offsets(rows) => rows[0].1.as_ref().map(|committed| committed.offset),
        other => panic!("no offsets: {other:?}"),
    }
}

/// Members `a` (the leader) and `b`, both stable in the generation given back.
fn two(world: &mut World) -> i32 {
    let a = joined(world.ask(Ask::Join(join("", "a", None))));
    assert_eq!((a.leader.as_str(), a.members.len()), ("a", 1));
    assert_eq!(share(world.ask(sync("a", a.generation, &[("a", "all")]))), "all");
    let b = world.send(Ask::Join(join("", "b", None)));
    let beat = world.ask(Ask::Heartbeat(caller("a", a.generation)));
    assert_eq!(refused(beat), GroupError::Rebalancing);
    let a = joined(world.ask(Ask::Join(join("a", "", None))));
    let b = joined(world.answer(b));
    assert_eq!((a.generation, a.members.len(), b.members.len()), (b.generation, 2, 0));
    let waiting = world.send(sync("b", b.generation, &[]));
    assert_eq!(share(world.ask(sync("a", a.generation, &[("a", "0"), ("b", "1")]))), "0");
    assert_eq!(share(world.answer(waiting)), "1");
    a.generation
}

fn statics(world: &mut World) -> i32 {
    let first = world.send(Ask::Join(join("", "a", Some("ia"))));
    let a = joined(world.answer(first));
    world.ask(Ask::Sync {
        caller: Caller { instance: Some("ia".to_owned()), ..caller("a", a.generation) },
        protocol_type: Some("consumer".to_owned()),
        protocol: Some("range".to_owned()),
        assignments: BTreeMap::from([("a".to_owned(), Bytes::from_static(b"all"))]),
    });
    a.generation
}

#[test]
fn hash_of_a_group_is_javas() {
    // "abc".hashCode() = 96354; "polygenelubricants".hashCode() = Integer.MIN_VALUE.
    assert_eq!(partition_of("abc", 50), 96_354 % 50);
    assert_eq!(partition_of("polygenelubricants", 50), 0);
    assert_eq!(partition_of("", 50), 0);
    // Two UTF-16 units, as in Java: 0xD83D * 31 + 0xDE00.
    assert_eq!(partition_of("\u{1F600}", 1_000_000), (0xD83D * 31 + 0xDE00) % 1_000_000);
}

#[test]
fn records_read_back_and_newer_ones_are_refused() {
    for until_ms in [None, Some(99)] {
        let leader_epoch = if until_ms.is_some() { -1 } else { 4 };
        let committed = Committed { offset: 7, leader_epoch, metadata: "ä".to_owned(), at_ms: 5, until_ms };
        assert_eq!(read_offset(&write_offset(&committed)), Ok(committed));
    }
    let member =
        StoredMember { id: "m".into(), instance: Some("i".into()), session_ms: 9, ..Default::default() };
    let members = vec![member, StoredMember { assignment: Bytes::from_static(b"x"), ..Default::default() }];
    let group =
        StoredGroup { generation: 3, leader: Some("m".into()), since_ms: 8, members, ..Default::default() };
    assert_eq!(read_group(&write_group(&group)), Ok(group.clone()));
    assert_eq!(read_key(&group_key("g")), Ok(Some(Key::Group("g".into()))));
    let key = Key::Offset { group: "g".into(), topic: "t".into(), partition: 3 };
    assert_eq!(read_key(&offset_key("g", "t", 3)), Ok(Some(key)));
    assert_eq!(read_key(&[0, 99]), Ok(None));
    assert_eq!(read_group(&[0, 5]), Err(RecordError::Version(5)));
    let whole = write_group(&group);
    for length in 0..whole.len() {
        assert!(read_group(&whole[..length]).is_err(), "cut to {length} bytes");
    }
    // Version 0 of a group, and of an offset, as Kafka's schemas have them.
    let old =
        [&[0, 0, 0, 1, b'c'][..], &7i32.to_be_bytes(), &[0, 1, b'p', 255, 255], &0i32.to_be_bytes()].concat();
    let read = read_group(&old).unwrap();
    assert_eq!(
        (read.generation, read.protocol.as_deref(), read.leader, read.since_ms),
        (7, Some("p"), None, -1)
    );
    let old = [&[0, 0][..], &7i64.to_be_bytes(), &[0, 1, b'm'], &9i64.to_be_bytes()].concat();
    assert_eq!(read_offset(&old).map(|o| (o.offset, o.leader_epoch, o.at_ms)), Ok((7, -1, 9)));
}

#[test]
fn member_without_id_is_told_one_first_and_may_come_with_it_once() {
    let mut world = World::new(settings());
    let first = Join { needs_id: true, ..join("", "a", None) };
    assert_eq!(refused(world.ask(Ask::Join(first))), GroupError::MemberIdRequired("a".into()));
    let beat = world.ask(Ask::Heartbeat(caller("a", 0)));
    assert_eq!(refused(beat), GroupError::UnknownMember);
    assert_eq!(joined(world.ask(Ask::Join(join("a", "", None)))).generation, 1);
    let stranger = world.ask(Ask::Join(join("x", "", None)));
    assert_eq!(refused(stranger), GroupError::UnknownMember);
    let mut world = World::new(settings());
    let first = Join { needs_id: true, ..join("", "a", None) };
    world.ask(Ask::Join(first));
    world.pass(10_000);
    assert!(world.machine.groups().is_empty(), "an id that nobody came back with leaves nothing");
}

#[test]
fn first_members_are_waited_for_as_long_as_more_come() {
    let mut world = World::new(Settings { initial_delay_ms: 3_000, ..settings() });
    let a = world.send(Ask::Join(join("", "a", None)));
    world.pass(2_000);
    let b = world.send(Ask::Join(join("", "b", None)));
    world.pass(2_000);
    assert_eq!(world.waiting.len(), 2, "somebody came meanwhile");
    world.pass(2_000);
    assert_eq!(joined(world.answer(a)).members.len(), 2);
    assert_eq!(joined(world.answer(b)).generation, 1);
}

#[test]
fn two_members_share_and_a_leaver_starts_the_next_generation() {
    let mut world = World::new(settings());
    let generation = two(&mut world);
    assert_eq!(world.ask(Ask::Heartbeat(caller("b", generation))), Reply::Done);
    // An unchanged follower that joins again is told the present generation; the leader starts the next one.
    let again = joined(world.ask(Ask::Join(join("b", "", None))));
    assert_eq!((again.generation, again.members.len()), (generation, 0));
    assert_eq!(
        world.ask(Ask::Leave(vec![("b".into(), None), ("x".into(), None)])),
        Reply::Rows(vec![None, Some(GroupError::UnknownMember)])
    );
    assert_eq!(refused(world.ask(Ask::Heartbeat(caller("a", generation)))), GroupError::Rebalancing);
    assert_eq!(refused(world.ask(sync("a", generation, &[]))), GroupError::Rebalancing);
    let a = joined(world.ask(Ask::Join(join("a", "", None))));
    assert_eq!((a.generation, a.members.len()), (generation + 1, 1));
}

#[test]
fn member_that_has_left_is_not_waited_for_by_the_next_coordinator() {
    let mut world = World::new(settings());
    let generation = two(&mut world);
    world.is_prompt = false;
    let leave = world.send(Ask::Leave(vec![("b".into(), None)]));
    assert!(world.waiting.contains(&leave), "told before it is in the log");
    world.commit_one();
    assert_eq!(world.answer(leave), Reply::Rows(vec![None]));
    world.fail_over(settings());
    // It owns what it had until it has joined again, which it is told at once.
    assert_eq!(refused(world.ask(Ask::Heartbeat(caller("a", generation)))), GroupError::Rebalancing);
    let owned = world.send(commit(caller("a", generation), 0, 7));
    world.commit_one();
    assert_eq!(world.answer(owned), Reply::Rows(vec![None]));
    let a = joined(world.ask(Ask::Join(join("a", "", None))));
    assert_eq!((a.generation, a.members.len(), a.leader.as_str()), (generation + 1, 1, "a"));
    // The last one writes one record, and is answered with it.
    let leave = world.send(Ask::Leave(vec![("a".into(), None)]));
    assert_eq!(world.tail.len(), 1);
    world.commit_one();
    assert_eq!(world.answer(leave), Reply::Rows(vec![None]));
    assert!(world.reloaded(settings()).groups()[GROUP].members.is_empty());
}

#[test]
fn leave_that_cannot_be_stored_is_refused_and_those_who_never_were_in_a_generation_need_no_record() {
    let mut world = World::new(settings());
    two(&mut world);
    world.is_prompt = false;
    let fresh = world.send(Ask::Join(join("", "c", None)));
    assert_eq!(world.ask(Ask::Leave(vec![("c".into(), None)])), Reply::Rows(vec![None]));
    assert_eq!(refused(world.answer(fresh)), GroupError::UnknownMember);
    assert!(world.tail.is_empty());
    let leave = world.send(Ask::Leave(vec![("b".into(), None)]));
    let (id, _) = world.tail.remove(0);
    let mut effects = Vec::new();
    world.machine.refused(world.time, id, GroupError::NotAvailable, &mut effects);
    world.take(effects);
    assert_eq!(refused(world.answer(leave)), GroupError::NotAvailable);
}

#[test]
fn group_that_is_left_while_others_come_keeps_its_offsets_and_lets_everybody_join_again() {
    let mut world = World::new(settings());
    let a = joined(world.ask(Ask::Join(join("", "a", None))));
    assert_eq!(share(world.ask(sync("a", a.generation, &[("a", "all")]))), "all");
    world.ask(commit(caller("a", a.generation), 0, 5));
    for _ in 0..300 {
        world.pass(5_000);
        assert_eq!(world.ask(Ask::Heartbeat(caller("a", a.generation))), Reply::Done);
    }
    // An id that was given away, and a member that no generation knows yet, put the end of the group off.
    world.ask(Ask::Join(Join { needs_id: true, ..join("", "p", None) }));
    world.send(Ask::Join(join("", "c", None)));
    assert_eq!(world.ask(Ask::Leave(vec![("a".into(), None)])), Reply::Rows(vec![None]));
    world.fail_over(settings());
    assert_eq!(world.machine.groups()[GROUP].members.len(), 0);
    world.pass(900_000);
    assert_eq!(offset_of(&mut world, 0), Some(5), "kept for as long as after its last member");
    // The first member of a group that the log knows as empty: the log names a protocol that it can come back with.
    let first = joined(world.ask(Ask::Join(join("", "s", Some("is")))));
    world.fail_over(settings());
    let commit =
        commit(Caller { instance: Some("is".to_owned()), ..caller("s", first.generation - 1) }, 0, 6);
    assert_eq!(refused(world.ask(commit)), GroupError::Rebalancing, "it was given no share");
    let again = joined(world.ask(Ask::Join(join("s", "", Some("is")))));
    assert_eq!((again.member.as_str(), again.generation), ("s", first.generation));
}

#[test]
fn silent_member_is_removed_and_one_that_beats_is_not() {
    let mut world = World::new(settings());
    let generation = two(&mut world);
    world.pass(6_000);
    assert_eq!(world.ask(Ask::Heartbeat(caller("a", generation))), Reply::Done);
    world.pass(6_000);
    let late = world.ask(Ask::Heartbeat(caller("b", generation)));
    assert_eq!(refused(late), GroupError::UnknownMember);
    // Nor while the assignment is waited for.
    let a = joined(world.ask(Ask::Join(join("a", "", None))));
    assert_eq!(a.generation, generation + 1);
    world.pass(9_000);
    world.ask(Ask::Heartbeat(caller("a", a.generation)));
    world.pass(9_000);
    assert_eq!(world.ask(Ask::Heartbeat(caller("a", a.generation))), Reply::Done);
}

#[test]
fn member_that_never_asks_for_its_share_is_removed() {
    let mut world = World::new(settings());
    let a = joined(world.ask(Ask::Join(join("", "a", None))));
    for _ in 0..3 {
        world.pass(9_000);
        assert_eq!(world.ask(Ask::Heartbeat(caller("a", a.generation))), Reply::Done);
    }
    world.pass(4_000);
    let beat = world.ask(Ask::Heartbeat(caller("a", a.generation)));
    assert_eq!(refused(beat), GroupError::UnknownMember);
}

#[test]
pub(crate) fn static_member_is_back_without_a_rebalance_and_its_old_self_is_fenced() {
    let mut world = World::new(settings());
    let generation = statics(&mut world);
    let mut again = join("", "a2", Some("ia"));
    // Only what the assignor noted for itself differs.
    again.protocols = vec![("range".to_owned(), subscription(&["t"], b"sticky"))];
    let back = joined(world.ask(Ask::Join(again)));
    assert_eq!((back.generation, back.member.as_str(), back.leader.as_str()), (generation, "a2", "a"));
    assert_eq!(share(world.ask(sync("a2", generation, &[]))), "all");
    let old = Caller { instance: Some("ia".to_owned()), ..caller("a", generation) };
    let beat = refused(world.ask(Ask::Heartbeat(old.clone())));
    assert_eq!(beat, GroupError::FencedInstance, "it is told why");
    assert_eq!(refused(world.ask(commit(old, 0, 5))), GroupError::FencedInstance);
    let reloaded = world.reloaded(settings());
    assert!(reloaded.groups()[GROUP].members.contains_key("a2"));
    // From version 9 on it may lead on and skip the assignment.
    let skipping = Join { may_skip: true, ..join("", "a3", Some("ia")) };
    let back = joined(world.ask(Ask::Join(skipping)));
    assert_eq!((back.leader.as_str(), back.skip_assignment, back.members.len()), ("a3", true, 1));
    // Another topic is another subscription.
    let mut other = join("", "a4", Some("ia"));
    other.protocols = vec![("range".to_owned(), subscription(&["u"], b""))];
    assert_eq!(joined(world.ask(Ask::Join(other))).generation, generation + 1);
    let by_instance = world.ask(Ask::Leave(vec![(String::new(), Some("ia".to_owned()))]));
    assert_eq!(by_instance, Reply::Rows(vec![None]));
}

#[test]
fn static_member_that_is_back_during_a_rebalance_is_known_to_the_next_coordinator() {
    let mut world = World::new(settings());
    let generation = statics(&mut world);
    let b = world.send(Ask::Join(join("", "b", None)));
    world.is_prompt = false;
    let back = world.send(Ask::Join(join("", "a2", Some("ia"))));
    assert!(world.waiting.contains(&back) && world.waiting.contains(&b), "told before its id is in the log");
    world.commit_one();
    assert_eq!(joined(world.answer(back)).member, "a2");
    assert_eq!(joined(world.answer(b)).generation, generation + 1);
    world.fail_over(settings());
    let caller = Caller { instance: Some("ia".to_owned()), ..caller("a2", generation + 1) };
    assert_eq!(refused(world.ask(Ask::Heartbeat(caller))), GroupError::IllegalGeneration);
    let again = world.send(Ask::Join(join("a2", "", Some("ia"))));
    assert_eq!(joined(world.answer(again)).generation, generation + 1);
}

#[test]
fn requests_that_do_not_suit_the_group_are_refused() {
    let mut world = World::new(settings());
    let short = Join { session_ms: 5_999, ..join("", "x", None) };
    assert_eq!(refused(world.ask(Ask::Join(short))), GroupError::InvalidSessionTimeout);
    let nameless = Join { protocols: Vec::new(), ..join("", "x", None) };
    assert_eq!(refused(world.ask(Ask::Join(nameless))), GroupError::InconsistentProtocol);
    assert!(world.machine.groups().is_empty());
    let generation = two(&mut world);
    let other = Join { protocol_type: "connect".into(), ..join("", "x", None) };
    assert_eq!(refused(world.ask(Ask::Join(other))), GroupError::InconsistentProtocol);
    assert_eq!(refused(world.ask(sync("a", generation - 1, &[]))), GroupError::IllegalGeneration);
    assert_eq!(refused(world.ask(Ask::Delete)), GroupError::NotEmpty);
    let subscribed = world.ask(Ask::DeleteOffsets(vec![("t".into(), 0)]));
    assert_eq!(subscribed, Reply::Rows(vec![Some(GroupError::Subscribed)]));
    for id in 0..6 {
        world.send(Ask::Join(join("", &format!("m{id}"), None)));
    }
    world.send(Ask::Join(join("", "m6", None)));
    world.send(Ask::Join(join("a", "", None)));
    let late = world.send(Ask::Join(join("", "one-too-many", None)));
    assert_eq!(refused(world.answer(late)), GroupError::Full);
}

#[test]
fn commit_is_answered_and_shown_only_once_it_is_committed() {
    let mut world = World::new(settings());
    let generation = two(&mut world);
    world.is_prompt = false;
    let token = world.send(commit(caller("a", generation), 0, 5));
    assert!(world.waiting.contains(&token));
    assert_eq!(offset_of(&mut world, 0), None);
    world.commit_one();
    assert_eq!(world.answer(token), Reply::Rows(vec![None]));
    assert_eq!(offset_of(&mut world, 0), Some(5));
    // One that takes too long is told so, and is there all the same when it comes through.
    let late = world.send(commit(caller("a", generation), 0, 6));
    world.pass(5_000);
    assert_eq!(refused(world.answer(late)), GroupError::NotAvailable);
    world.commit_one();
    assert_eq!(offset_of(&mut world, 0), Some(6));
}

#[test]
pub(crate) fn only_members_of_the_generation_commit_and_others_only_where_there_are_none() {
    let mut world = World::new(settings());
    assert_eq!(world.ask(commit(caller("", -1), 0, 1)), Reply::Rows(vec![None]));
    assert_eq!(refused(world.ask(commit(caller("a", 3), 0, 1))), GroupError::UnknownMember);
    let generation = two(&mut world);
    assert_eq!(refused(world.ask(commit(caller("", -1), 0, 2))), GroupError::UnknownMember);
    assert_eq!(refused(world.ask(commit(caller("a", generation - 1), 0, 2))), GroupError::IllegalGeneration);
    let long = Offset { offset: 1, leader_epoch: -1, metadata: "x".repeat(65) };
    let offsets = vec![(("t".to_owned(), 0), long)];
    let too_long = Ask::Commit { caller: caller("a", generation), offsets, retention_ms: None };
    assert_eq!(world.ask(too_long), Reply::Rows(vec![Some(GroupError::MetadataTooLarge)]));
    // While members are waited for, the old generation may still say how far it came; then no more.
    let newcomer = world.send(Ask::Join(join("", "c", None)));
    assert_eq!(world.ask(commit(caller("a", generation), 0, 9)), Reply::Rows(vec![None]));
    for id in ["a", "b"] {
        world.send(Ask::Join(join(id, "", None)));
    }
    assert_eq!(joined(world.answer(newcomer)).generation, generation + 1);
    assert_eq!(refused(world.ask(commit(caller("a", generation), 0, 7))), GroupError::IllegalGeneration);
    assert_eq!(refused(world.ask(commit(caller("a", generation + 1), 0, 7))), GroupError::Rebalancing);
    assert_eq!(offset_of(&mut world, 0), Some(9));
}

#[test]
pub(crate) fn generation_outlives_its_coordinator_and_members_have_a_session_to_find_the_next() {
    let mut world = World::new(settings());
    let generation = two(&mut world);
    world.ask(commit(caller("b", generation), 1, 70));
    world.is_prompt = false;
    let lost = world.send(commit(caller("b", generation), 1, 80));
    world.fail_over(settings());
    assert_eq!(refused(world.answer(lost)), GroupError::NotCoordinator);
    world.is_prompt = true;
    assert_eq!(offset_of(&mut world, 1), Some(70));
    world.pass(9_999);
    for id in ["a", "b"] {
        let beat = world.ask(Ask::Heartbeat(caller(id, generation)));
        assert_eq!(beat, Reply::Done, "it has had no time to find us");
    }
    assert_eq!(share(world.ask(sync("b", generation, &[]))), "1");
}

#[test]
fn assignment_that_was_not_stored_is_known_to_nobody() {
    let mut world = World::new(settings());
    let generation = two(&mut world);
    for id in ["a", "b"] {
        world.send(Ask::Join(join(id, "", None)));
    }
    let members = world.machine.groups()[GROUP].generation;
    assert_eq!(members, generation + 1);
    world.is_prompt = false;
    let waiting = world.send(sync("a", generation + 1, &[("a", "new"), ("b", "newer")]));
    world.fail_over(settings());
    assert_eq!(refused(world.answer(waiting)), GroupError::NotCoordinator);
    world.is_prompt = true;
    let beat = world.ask(Ask::Heartbeat(caller("a", generation + 1)));
    assert_eq!(refused(beat), GroupError::IllegalGeneration);
    assert_eq!(share(world.ask(sync("a", generation, &[]))), "0");
}

#[test]
pub(crate) fn offsets_end_when_kafka_ends_them() {
    let mut world = World::new(settings());
    // Without a group: so long after the commit.
    world.ask(commit(caller("", -1), 7, 1));
    world.pass(900_000);
    assert_eq!(offset_of(&mut world, 7), Some(1));
    world.pass(200_000);
    assert_eq!(offset_of(&mut world, 7), None);
    assert!(world.machine.groups().is_empty() && world.reloaded(settings()).groups().is_empty());
    // Of a group: so long after its last member left, however old the commit.
    let generation = two(&mut world);
    world.ask(commit(caller("a", generation), 0, 5));
    for _ in 0..300 {
        world.pass(5_000);
        for id in ["a", "b"] {
            assert_eq!(world.ask(Ask::Heartbeat(caller(id, generation))), Reply::Done);
        }
    }
    assert_eq!(offset_of(&mut world, 0), Some(5), "the group reads the topic");
    world.ask(Ask::Leave(vec![("a".into(), None), ("b".into(), None)]));
    world.pass(900_000);
    assert_eq!(offset_of(&mut world, 0), Some(5));
    world.pass(200_000);
    assert_eq!(offset_of(&mut world, 0), None);
    assert!(world.machine.groups().is_empty() && world.reloaded(settings()).groups().is_empty());
}

#[test]
fn deleted_group_is_gone_and_deleted_topics_leave_nothing() {
    let mut world = World::new(settings());
    assert_eq!(refused(world.ask(Ask::Delete)), GroupError::UnknownGroup);
    world.ask(commit(caller("", -1), 0, 1));
    let mut effects = Vec::new();
    world.machine.forget_topic(world.time, "t", &mut effects);
    world.take(effects);
    assert_eq!(offset_of(&mut world, 0), None);
    world.ask(commit(caller("", -1), 0, 2));
    // A commit under way goes with the group it is of.
    world.is_prompt = false;
    let under_way = world.send(commit(caller("", -1), 1, 3));
    let deleted = world.send(Ask::Delete);
    let meanwhile = world.ask(commit(caller("", -1), 1, 4));
    assert_eq!(refused(meanwhile), GroupError::NotAvailable);
    while world.commit_one() {}
    assert_eq!(world.answer(under_way), Reply::Rows(vec![None]));
    assert_eq!(world.answer(deleted), Reply::Done);
    assert!(world.machine.groups().is_empty() && world.reloaded(settings()).groups().is_empty());
}

#[test]
fn of_two_processes_with_one_instance_the_later_stays_and_the_earlier_is_fenced() {
    let mut world = World::new(settings());
    let generation = statics(&mut world);
    world.is_prompt = false;
    let earlier = world.send(Ask::Join(join("", "a2", Some("ia"))));
    let later = world.send(Ask::Join(join("", "a3", Some("ia"))));
    while world.commit_one() {}
    assert_eq!(refused(world.answer(earlier)), GroupError::FencedInstance);
    let later = joined(world.answer(later));
    assert_eq!((later.member.as_str(), later.generation), ("a3", generation));
    assert_eq!(world.reloaded(settings()).groups()[GROUP].instances["ia"], "a3");
}

#[test]
fn members_are_told_when_their_assignment_takes_too_long_to_be_stored_and_it_may_come_later() {
    let mut world = World::new(settings());
    let generation = two(&mut world) + 1;
    for id in ["a", "b"] {
        world.send(Ask::Join(join(id, "", None)));
    }
    world.is_prompt = false;
    let a = world.send(sync("a", generation, &[("a", "new"), ("b", "newer")]));
    let b = world.send(sync("b", generation, &[]));
    world.pass(4_999);
    assert!(world.waiting.contains(&a) && world.waiting.contains(&b));
    world.pass(1);
    for token in [a, b] {
        assert_eq!(refused(world.answer(token)), GroupError::NotAvailable);
    }
    // Asked again while it is still not there, nobody waits for another answer that may not come.
    assert_eq!(refused(world.ask(sync("b", generation, &[]))), GroupError::NotAvailable);
    while world.commit_one() {}
    assert_eq!(share(world.ask(sync("b", generation, &[]))), "newer");
    assert_eq!(share(world.ask(sync("a", generation, &[]))), "new");
}

#[test]
fn records_that_end_offsets_fit_into_batches_however_long_the_names() {
    let mut world = World::new(settings());
    let topic = "t".repeat(30_000);
    let offset = || Offset { offset: 1, leader_epoch: -1, metadata: String::new() };
    for partition in 0..40 {
        let offsets = vec![((topic.clone(), partition), offset())];
        world.ask(Ask::Commit { caller: caller("", -1), offsets, retention_ms: None });
    }
    world.is_prompt = false;
    let deleted = world.send(Ask::Delete);
    let bytes = |records: &Vec<Record>| records.iter().map(|record| record.key.len()).sum::<usize>();
    assert!(world.tail.len() > 1 && world.tail.iter().all(|(_, records)| bytes(records) <= 160 << 10));
    while world.commit_one() {}
    assert_eq!(world.answer(deleted), Reply::Done);
    assert!(world.machine.groups().is_empty() && world.reloaded(settings()).groups().is_empty());
}

#[test]
fn every_group_is_looked_at_for_what_is_over_a_part_of_them_in_a_turn() {
    let mut world = World::new(Settings { max_size: 1, ..settings() });
    let mut effects = Vec::new();
    for group in 0..1_000 {
        let offset = Offset { offset: 1, leader_epoch: -1, metadata: String::new() };
        let offsets = vec![(("t".to_owned(), 0), offset)];
        let ask = Ask::Commit { caller: caller("", -1), offsets, retention_ms: None };
        world.machine.request(world.time, 10_000 + group, &format!("g{group}"), ask, &mut effects);
    }
    world.waiting.extend(10_000..11_000);
    world.take(effects);
    assert_eq!(world.machine.groups().len(), 1_000);
    // One turn ends only some of them.
    world.time = Time { mono: 1_100_000, wall_ms: world.time.wall_ms + 1_100_000 };
    let mut effects = Vec::new();
    world.machine.tick(world.time, &mut effects);
    world.take(effects);
    assert!((1..1_000).contains(&world.machine.groups().len()), "{}", world.machine.groups().len());
    world.pass(10);
    assert!(world.machine.groups().is_empty() && world.reloaded(settings()).groups().is_empty());
}

#[test]
fn memory_is_bounded_and_who_needs_no_more_goes_on() {
    let mut world = World::new(Settings { max_size: 10_000, ..settings() });
    let generation = two(&mut world);
    assert_eq!(world.ask(commit(caller("a", generation), 0, 5)), Reply::Rows(vec![None]));
    world.machine.allow(0);
    assert_eq!(refused(world.ask(commit(caller("a", generation), 1, 5))), GroupError::NoRoom);
    assert_eq!(refused(world.ask(commit(caller("x", generation), 1, 5))), GroupError::UnknownMember);
    assert_eq!(refused(world.ask(Ask::Join(join("", "c", None)))), GroupError::NoRoom);
    // Partitions and members that are there go on, also where a coordinator that took over knows one of a member's protocols alone.
    assert_eq!(world.ask(commit(caller("a", generation), 0, 6)), Reply::Rows(vec![None]));
    assert_eq!(joined(world.ask(Ask::Join(join("b", "", None)))).generation, generation);
    assert_eq!(world.ask(Ask::Heartbeat(caller("b", generation))), Reply::Done);
    world.fail_over(settings());
    world.machine.allow(0);
    let larger = |id: &str| {
        let mut again = join(id, "", None);
        again.protocols.push(("cooperative-sticky".to_owned(), subscription(&["t"], b"what it owns")));
        again
    };
    let b = world.send(Ask::Join(larger("b")));
    assert_eq!(joined(world.ask(Ask::Join(larger("a")))).generation, generation + 1);
    assert_eq!(joined(world.answer(b)).generation, generation + 1);
    let other = caller("", -1);
    let mut effects = Vec::new();
    let offsets =
        vec![(("t".to_owned(), 0), Offset { offset: 1, leader_epoch: -1, metadata: String::new() })];
    let ask = Ask::Commit { caller: other, offsets, retention_ms: None };
    world.machine.request(world.time, 1_000, "another", ask, &mut effects);
    assert!(matches!(&effects[..], [Effect::Answer { reply: Reply::Refused(GroupError::NoRoom), .. }]));
    assert_eq!(world.machine.groups().len(), 1, "what was refused leaves nothing");
    // What ends makes room; nothing is left of a group that is gone.
    world.machine.allow(usize::MAX);
    let before = world.machine.bytes();
    world.ask(Ask::Leave(vec![("a".into(), None), ("b".into(), None)]));
    assert!(world.machine.bytes() < before);
    assert_eq!(world.ask(Ask::Delete), Reply::Done);
    assert_eq!((world.machine.bytes(), world.machine.weighed()), (0, 0));
}

#[test]
fn members_of_one_group_and_appends_under_way_are_bounded_in_bytes() {
    let mut world = World::new(Settings { max_size: 10_000, ..settings() });
    let mut members = 0;
    let refusal = loop {
        let mut large = join("", &format!("m{members}"), None);
        large.protocols = vec![("range".to_owned(), Bytes::from(vec![0; 900_000]))];
        let token = world.send(Ask::Join(large));
        if world.answers.contains_key(&token) && members > 0 {
            break refused(world.answer(token));
        }
        members += 1;
        assert!(members < 100, "{} bytes", world.machine.bytes());
    };
    assert_eq!((refusal, members), (GroupError::NoRoom, (64 << 20) / 900_000));
    let mut world = World::new(Settings { metadata_bytes: 32_000, ..settings() });
    world.is_prompt = false;
    let large = || {
        let offset = Offset { offset: 1, leader_epoch: -1, metadata: "x".repeat(32_000) };
        let offsets = vec![(("t".to_owned(), 0), offset)];
        Ask::Commit { caller: caller("", -1), offsets, retention_ms: None }
    };
    let waits = |world: &mut World| {
        let token = world.send(large());
        world.waiting.contains(&token)
    };
    let taken = (0..5_000).take_while(|_| waits(&mut world)).count();
    assert!((900..=1_100).contains(&taken), "{taken}");
    while world.commit_one() {}
    assert_eq!(world.machine.bytes(), world.machine.weighed());
    assert!(waits(&mut world), "there is room again");
}
