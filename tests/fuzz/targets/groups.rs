//! Records of `__consumer_offsets`: read one by one, loaded by a coordinator, and asked about afterwards. Clients choose most of what stands
//! in them (ids, metadata, subscriptions, assignments).

use super::Input;
use kontiki::broker::groups::records::{self, Key};
use kontiki::broker::groups::{Ask, Coordinator, Effect, Reply, Settings, Time};

/// Records read of one input.
const RECORDS_MAX: usize = 64;
/// An offset under one of the shortest keys of a group of its own takes a group, and a leaf of a tree.
const RECORD: usize = 16 << 10;

pub fn memory(length: usize) -> usize {
    96 * length + 2 * RECORD * RECORDS_MAX + (64 << 10)
}

/// Records, each: length of the key and of the value (65535: none), key, value.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut machine = Coordinator::new(settings());
    let mut names = Vec::new();
    for _ in 0..RECORDS_MAX {
        let (Some(key), Some(value)) = (input.number(), input.number()) else { break };
        let key = (key != usize::from(u16::MAX)).then(|| input.take(key));
        let value = (value != usize::from(u16::MAX)).then(|| input.take(value));
        if let Some(key) = key {
            names.extend(one(key, value));
        }
        // A record that cannot be read ends the loading, and the partition has no coordinator.
        if machine.load(key, value).is_err() {
            return;
        }
    }
    let mut time = Time { mono: 1_000, wall_ms: 1_700_000_000_000 };
    machine.loaded(time);
    let mut effects = Vec::new();
    let mut token = 0;
    for name in &names {
        let topics = vec![("t".to_owned(), 0), (name.clone(), i32::MAX)];
        for ask in [Ask::Describe, Ask::Offsets(None), Ask::DeleteOffsets(topics), Ask::Delete] {
            token += 1;
            machine.request(time, token, name, ask, &mut effects);
        }
    }
    settle(&mut machine, time, effects);
    // Through every session, rebalance and retention that a record can ask for.
    for _ in 0..8 {
        let mut effects = Vec::new();
        time.mono = machine.deadline().clamp(time.mono + 1, time.mono + (1 << 40));
        time.wall_ms += 1 << 33;
        machine.tick(time, &mut effects);
        settle(&mut machine, time, effects);
    }
    assert!(machine.list().len() <= names.len(), "there are no other groups");
    machine.end(&mut Vec::new());
}

/// What reads is written and reads again as the same; the group it is about.
fn one(key: &[u8], value: Option<&[u8]>) -> Option<String> {
    let key = records::read_key(key).ok()??;
    match key {
        Key::Offset { group, topic, partition } => {
            let again = records::offset_key(&group, &topic, partition);
            let same = Key::Offset { group: group.clone(), topic, partition };
            assert_eq!(records::read_key(&again), Ok(Some(same)));
            if let Some(Ok(committed)) = value.map(records::read_offset) {
                assert_eq!(records::read_offset(&records::write_offset(&committed)), Ok(committed));
            }
            Some(group)
        }
        Key::Group(group) => {
            assert_eq!(records::read_key(&records::group_key(&group)), Ok(Some(Key::Group(group.clone()))));
            if let Some(Ok(stored)) = value.map(records::read_group) {
                assert_eq!(records::read_group(&records::write_group(&stored)), Ok(stored));
            }
            Some(group)
        }
    }
}

/// Commits what the coordinator appends; another one could load it.
fn settle(machine: &mut Coordinator, time: Time, mut effects: Vec<Effect>) {
    let mut successor = Coordinator::new(settings());
    let mut rounds = 0;
    while !effects.is_empty() {
        rounds += 1;
        assert!(rounds < 1_000, "it never comes to rest");
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Append { id, records } => {
                    for record in records {
                        successor
                            .load(Some(&record.key), record.value.as_deref())
                            .unwrap_or_else(|e| panic!("it appended what cannot be loaded: {e}"));
                    }
                    machine.stored(time, id, &mut effects);
                }
                Effect::Answer { reply: Reply::Described(group), .. } => assert!(!group.state.is_empty()),
                Effect::Answer { .. } => {}
            }
        }
    }
}

fn settings() -> Settings {
    Settings {
        initial_delay_ms: 3_000,
        min_session_ms: 6_000,
        max_session_ms: 1_800_000,
        max_size: usize::MAX,
        metadata_bytes: 4096,
        retention_ms: 604_800_000,
        check_ms: 600_000,
        commit_timeout_ms: 5_000,
    }
}
