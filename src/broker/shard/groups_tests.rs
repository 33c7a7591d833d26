//! Coordinators of consumer groups on one node: when they begin to serve, what they read, and where they may not serve just now.
use super::*;
use crate::broker::groups::{
    self, Ask, Caller, GroupError, Offset as GroupOffset, Reply, TOPIC, partition_of,
};
use crate::broker::shard::groups::LOAD_BYTES;
use crate::raftlog::core::Role;

const PARTITIONS: usize = 2;

fn started(fs: SimFs) -> Alone {
    Alone::start_with(fs, None, &[("log.retention.check.interval.ms", "100".to_owned())])
}

/// A node with `__consumer_offsets` of two partitions; a group of each.
fn with_offsets() -> (Alone, [(GroupId, String); PARTITIONS]) {
    let mut alone = started(SimFs::new(1));
    alone.run(5_000);
    let create = CreateTopic {
        name: TOPIC.into(),
        partitions: -1,
        replication_factor: -1,
        assignments: Some(vec![vec![ME]; PARTITIONS]),
        configs: BTreeMap::from([("internal.segment.bytes".to_owned(), Some("1048576".to_owned()))]),
        validate_only: false,
    };
    let _created = alone.ask(CtlCommand::CreateTopic(create));
    alone.run(1_000);
    let groups = groups_of(&alone);
    (alone, groups)
}

fn groups_of(alone: &Alone) -> [(GroupId, String); PARTITIONS] {
    let partitions = &alone.shard.image.topics[TOPIC].partitions;
    std::array::from_fn(|place| {
        let name = (0..).map(|n| format!("g{n}")).find(|name| partition_of(name, PARTITIONS) == place);
        (partitions[place].group, name.expect("there is one"))
    })
}

fn send(alone: &mut Alone, (partition, name): &(GroupId, String), ask: Ask) -> oneshot::Receiver<Reply> {
    let (reply, answer) = oneshot::channel();
    let now = alone.now();
    let command = Command::Group { partition: *partition, name: name.clone(), ask, reply };
    alone.shard.handle(now, Input::Command(command));
    answer
}

/// Asks and waits.
fn ask(alone: &mut Alone, group: &(GroupId, String), ask: Ask) -> Reply {
    let mut answer = send(alone, group, ask);
    alone.run(50);
    answer.try_recv().expect("an answer within 50 ms")
}

/// Commits an offset in each of these partitions of topic `t`, each with 4,000 bytes of metadata.
fn commit(partitions: std::ops::Range<i32>) -> Ask {
    let offset = || GroupOffset { offset: 7, leader_epoch: -1, metadata: "x".repeat(4_000) };
    let offsets = partitions.map(|partition| (("t".to_owned(), partition), offset())).collect();
    let caller = Caller { generation: -1, ..Caller::default() };
    Ask::Commit { caller, offsets, retention_ms: None }
}

fn committed(reply: Reply) -> BTreeSet<i32> {
    match reply {
        Reply::Offsets(rows) => rows.into_iter().map(|((_, partition), _)| partition).collect(),
        other => panic!("no offsets: {other:?}"),
    }
}

/// The process ends and another one starts; until it leads the group's partitions.
fn restarted(Alone { fs, shard, writer, .. }: Alone) -> Alone {
    drop(shard);
    writer.close().unwrap();
    let mut alone = started(fs);
    for _ in 0..6_000 {
        let all = groups_of_if_there(&alone);
        let leads =
            |group: &GroupId| alone.shard.partitions.get(group).is_some_and(|p| p.role == Role::Leader);
        if all.len() == PARTITIONS && all.iter().all(leads) {
            return alone;
        }
        alone.run(10);
    }
    panic!("it leads nothing")
}

fn groups_of_if_there(alone: &Alone) -> Vec<GroupId> {
    let topic = alone.shard.image.topics.get(TOPIC);
    topic.map(|topic| topic.partitions.iter().map(|p| p.group).collect()).unwrap_or_default()
}

#[test]
pub(crate) fn coordinator_serves_once_its_log_is_read_and_one_part_of_one_log_is_read_in_a_turn() {
    let (mut alone, all) = with_offsets();
    const COMMITS: i32 = 20;
    for group in &all {
        for first in 0..COMMITS {
            let taken = ask(&mut alone, group, commit(first * 200..(first + 1) * 200));
            assert_eq!(taken, Reply::Rows(vec![None; 200]));
        }
    }
    let bytes = COMMITS as usize * 200 * 4_000;
    let mut alone = restarted(alone);
    let (mut waiting, mut first_answer, mut turn) = (Vec::new(), [None; PARTITIONS], 0);
    while first_answer.contains(&None) {
        turn += 1;
        assert!(turn < 5_000, "{first_answer:?}");
        for (place, group) in all.iter().enumerate() {
            waiting.push((place, turn, send(&mut alone, group, Ask::Offsets(None))));
        }
        alone.run(10);
        waiting.retain_mut(|(place, asked, answer)| {
            let Ok(reply) = answer.try_recv() else { return true };
            match reply {
                Reply::Refused(GroupError::Loading | GroupError::NotCoordinator) => {}
                reply => {
                    let told = committed(reply).len() as i32;
                    assert_eq!(told, COMMITS * 200, "partition {place} is told before the log is read");
                    first_answer[*place].get_or_insert(*asked);
                }
            }
            false
        });
    }
    let [first, second] = first_answer.map(|turn| turn.expect("looked for"));
    // One at a time would take half as many turns until the first is done, both in each turn half as many until the last is.
    let turns = 2 * bytes / LOAD_BYTES;
    assert!(first.min(second) + 4 >= turns && first.max(second) < 1_000, "{first} and {second} of {turns}");
    assert!(first.abs_diff(second) <= 8, "they take turns: {first} and {second}");
}

#[test]
fn coordinator_reads_on_where_its_log_begins_if_that_moved_meanwhile() {
    let (mut alone, all) = with_offsets();
    for first in 0..60 {
        ask(&mut alone, &all[0], commit(first * 200..(first + 1) * 200));
    }
    let mut alone = restarted(alone);
    // It has begun; then all but the last of it goes.
    let loading = |alone: &mut Alone| {
        let mut answer = send(alone, &all[0], Ask::Describe);
        matches!(answer.try_recv(), Ok(Reply::Refused(GroupError::Loading)))
    };
    for _ in 0..1_000 {
        if loading(&mut alone) {
            break;
        }
        alone.run(10);
    }
    assert!(loading(&mut alone));
    let (reply, mut deleted) = oneshot::channel();
    let command = Command::DeleteRecords { group: all[0].0, offset: 11_800, timeout_ms: 60_000, reply };
    let now = alone.now();
    alone.shard.handle(now, Input::Command(command));
    for _ in 0..500 {
        alone.run(10);
        if !loading(&mut alone) {
            break;
        }
    }
    assert_eq!(deleted.try_recv(), Ok(Ok(11_800)));
    let told = committed(ask(&mut alone, &all[0], Ask::Offsets(None)));
    assert!((11_800..12_000).all(|partition| told.contains(&partition)), "the end of the log is known");
    assert!(told.len() < 12_000, "what is gone is not");
}

/// It keeps what it knows, and serves again when it may.
#[test]
fn coordinator_that_may_not_serve_refuses_and_whoever_waits_hears_in_time() {
    let (mut alone, all) = with_offsets();
    assert_eq!(ask(&mut alone, &all[0], commit(0..3)), Reply::Rows(vec![None; 3]));
    let join = groups::Join {
        member: String::new(),
        instance: None,
        fresh_id: "m".into(),
        client_id: "c".into(),
        client_host: "/h".into(),
        session_ms: 10_000,
        rebalance_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"x"))],
        needs_id: false,
        may_skip: false,
    };
    // The first member waits for others; what it waits for does not come while nothing may be served.
    let mut waiting = send(&mut alone, &all[0], Ask::Join(join));
    let withhold = |alone: &mut Alone, why: Option<&str>| {
        let p = alone.shard.partitions.get_mut(&all[0].0).expect("it is there");
        p.unsettled = why.map(str::to_owned);
    };
    for _ in 0..600 {
        withhold(&mut alone, Some("not settled"));
        assert!(matches!(
            send(&mut alone, &all[0], Ask::Describe).try_recv(),
            Ok(Reply::Refused(GroupError::NotCoordinator))
        ));
        withhold(&mut alone, Some("not settled"));
        let now = alone.now();
        alone.now += 10;
        alone.shard.tick_groups(now);
    }
    assert!(waiting.try_recv().is_err(), "a generation began while nothing may be served");
    withhold(&mut alone, None);
    alone.run(5_000);
    assert!(matches!(waiting.try_recv(), Ok(Reply::Joined(joined)) if joined.generation == 1));
    assert_eq!(committed(ask(&mut alone, &all[0], Ask::Offsets(None))), BTreeSet::from([0, 1, 2]));
    assert_eq!(
        ask(&mut alone, &(all[1].0, all[1].1.clone()), Ask::Offsets(None)),
        Reply::Offsets(Vec::new())
    );
}

/// Whether it is committed the log alone knows: it is read anew, and nobody is told that it is not.
#[test]
fn append_whose_fate_is_not_known_ends_the_coordinator_and_the_next_one_reads_the_log() {
    let (mut alone, all) = with_offsets();
    let mut first = send(&mut alone, &all[0], commit(0..1));
    let mut second = send(&mut alone, &all[0], commit(1..2));
    // The lease is over before anybody is told what came of it.
    let now = alone.now;
    let Shard { partitions, done, .. } = &mut alone.shard;
    partitions.get_mut(&all[0].0).expect("it is there").on_lease_over(now, done);
    assert_eq!(done.len(), 2, "both are in the log");
    alone.run(10);
    for answer in [&mut first, &mut second] {
        assert_eq!(answer.try_recv(), Ok(Reply::Refused(GroupError::NotCoordinator)));
    }
    alone.run(1_000);
    assert_eq!(committed(ask(&mut alone, &all[0], Ask::Offsets(None))), BTreeSet::from([0, 1]));
}
