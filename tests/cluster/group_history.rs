//! What the members of a consumer group saw, and what its coordinators told, against what a group promises: the checker. Pure.
//!
//! Called by `groups` and `group_faults` with the logs of members (`tests/foreign/confluent/member.py` says what is in them; those of the other
//! clients are the same) and of one who asked all the while (`tests/foreign/franz/watch`). Every event has the moments between which it happened, for a process
//! may stand still between an answer and its line: of two events one came first only if it was over before the other began.
//!
//! Violations:
//! - back: an offset that was committed, or told as committed, and later one below it;
//! - invented: an offset told as committed whose record before it nobody had processed;
//! - skip, again: a member that went on above, or below, where its assignment and what it read of it had left it;
//! - shared: a partition of two members in one generation;
//! - fenced: commits acknowledged to two members for one partition and generation, or to an earlier generation after a later one's;
//! - unread: an acknowledged record that nobody processed.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a member says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A partition is its own; it goes on at `offset`, -1 if nothing is committed.
    Assigned,
    /// It is its own no longer.
    Revoked,
    /// It processed the record at `offset`.
    Read,
    /// It is about to commit.
    Committing,
    /// The commit was acknowledged.
    Committed,
}

/// A line of a member's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// Partition.
    pub partition: i64,
    /// Offset, where there is one.
    pub offset: i64,
    /// Generation the member was in; -1 if it did not say, or was in none.
    pub generation: i64,
    /// When it began, microseconds since the epoch.
    pub start: i64,
    /// When it was over.
    pub at: i64,
}

/// One process that was a member, in the order in which it wrote.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Who it was to the group: processes that come back as one static member have one name.
    pub member: String,
    /// What it says.
    pub events: Vec<Event>,
}

/// A committed offset as somebody was told it; -1 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Partition.
    pub partition: i64,
    /// Offset.
    pub offset: i64,
    /// When it was asked for.
    pub start: i64,
    /// When the answer was there.
    pub at: i64,
}

/// Everything about one group.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its members' logs.
    pub logs: Vec<Log>,
    /// Partition and offset of what was processed by members that keep no such log.
    pub untimed: BTreeSet<(i64, i64)>,
    /// What an onlooker was told.
    pub polls: Vec<Told>,
    /// Partitions of each member, each time an onlooker asked.
    pub described: Vec<Vec<(String, Vec<i64>)>>,
}

/// How much there was to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged commits.
    pub commits: usize,
    /// Assignments of a partition.
    pub assignments: usize,
    /// Last generation that a member was in.
    pub generation: i64,
    /// Records processed at least once, in logs with times.
    pub read: usize,
    /// How often one was processed once more.
    pub again: usize,
}

fn number(value: &Value, key: &str) -> Option<i64> {
    value[key].as_i64()
}

fn parse_event(line: &str) -> Event {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let kind = match value["t"].as_str() {
        Some("assigned") => Kind::Assigned,
        Some("revoked") => Kind::Revoked,
        Some("read") => Kind::Read,
        Some("committing") => Kind::Committing,
        Some("committed") => Kind::Committed,
        other => panic!("{line}: unknown kind {other:?}"),
    };
    let at = number(&value, "at").expect("a time");
    Event {
        kind,
        partition: number(&value, "p").expect("a partition"),
        offset: number(&value, "o").unwrap_or(-1).max(-1),
        generation: number(&value, "g").unwrap_or(-1),
        start: number(&value, "s").unwrap_or(at),
        at,
    }
}

/// The lines of a log that are whole.
fn whole(text: &str) -> impl Iterator<Item = &str> {
    text.rfind('\n').map_or("", |end| &text[..end]).lines()
}

/// A member's log, whose last line may be cut.
pub fn parse_events(text: &str) -> Vec<Event> {
    whole(text).map(parse_event).collect()
}

/// What an onlooker's log says of each group.
pub fn parse_watch(text: &str, seen: &mut BTreeMap<String, Seen>) {
    for line in whole(text) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let seen = seen.entry(value["group"].as_str().expect("a group").to_owned()).or_default();
        let time = |key: &str| number(&value, key).expect("a time");
        match value["t"].as_str() {
            Some("polled") => seen.polls.push(Told {
                partition: number(&value, "p").expect("a partition"),
                offset: number(&value, "o").expect("an offset").max(-1),
                start: time("s"),
                at: time("at"),
            }),
            Some("described") => {
                let members = value["members"].as_array().expect("members").iter().map(|member| {
                    let places = member["partitions"].as_array().expect("partitions");
                    let id = member["id"].as_str().expect("an id").to_owned();
                    (id, places.iter().filter_map(Value::as_i64).collect())
                });
                seen.described.push(members.collect());
            }
            other => panic!("{line}: unknown kind {other:?}"),
        }
    }
}

impl Seen {
    /// Everything of one kind, with who it was.
    fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &Event)> {
        let logs = self.logs.iter().map(|log| (log.member.as_str(), &log.events));
        logs.flat_map(move |(member, events)| {
            events.iter().filter(move |event| event.kind == kind).map(move |event| (member, event))
        })
    }

    /// Every word of a coordinator on what is committed.
    fn told(&self) -> Vec<Told> {
        let assigned = self.of(Kind::Assigned).map(|(_, event)| Told {
            partition: event.partition,
            offset: event.offset,
            start: event.start,
            at: event.at,
        });
        assigned.chain(self.polls.iter().copied()).collect()
    }

    /// Every record that was processed.
    pub fn processed(&self) -> BTreeSet<(i64, i64)> {
        let read = self.of(Kind::Read).map(|(_, event)| (event.partition, event.offset));
        read.chain(self.untimed.iter().copied()).collect()
    }
}

/// All violations, and how much was looked at. `written` has the last acknowledged offset of each partition.
pub fn check(seen: &Seen, written: &BTreeMap<i64, i64>) -> (Counts, Vec<String>) {
    let mut wrong = Vec::new();
    find_back(seen, &mut wrong);
    find_invented(seen, &mut wrong);
    seen.logs.iter().for_each(|log| find_skips(log, &mut wrong));
    find_shared(seen, &mut wrong);
    find_unfenced(seen, &mut wrong);
    let processed = seen.processed();
    for (partition, last) in written {
        let missing: Vec<i64> = (0..=*last).filter(|o| !processed.contains(&(*partition, *o))).collect();
        if let Some(first) = missing.first() {
            wrong.push(format!("unread: {} of partition {partition}, {first} the first", missing.len()));
        }
    }
    let timed: BTreeSet<(i64, i64)> =
        seen.of(Kind::Read).map(|(_, event)| (event.partition, event.offset)).collect();
    let all = seen.logs.iter().flat_map(|log| &log.events);
    let counts = Counts {
        commits: seen.of(Kind::Committed).count(),
        assignments: seen.of(Kind::Assigned).count(),
        generation: all.map(|event| event.generation).max().unwrap_or(-1),
        read: timed.len(),
        again: seen.of(Kind::Read).count() - timed.len(),
    };
    (counts, wrong)
}

/// The highest offset that was certain before each moment.
fn floors(certain: impl Iterator<Item = Told>) -> BTreeMap<i64, Vec<(i64, i64)>> {
    let mut floors: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    for told in certain {
        floors.entry(told.partition).or_default().push((told.at, told.offset));
    }
    for rows in floors.values_mut() {
        rows.sort_unstable();
        let mut highest = i64::MIN;
        for (_, offset) in rows {
            highest = highest.max(*offset);
            *offset = highest;
        }
    }
    floors
}

fn find_back(seen: &Seen, wrong: &mut Vec<String>) {
    let commits = seen.of(Kind::Committed).map(|(_, event)| Told {
        partition: event.partition,
        offset: event.offset,
        start: event.start,
        at: event.at,
    });
    let mut all = seen.told();
    all.extend(commits);
    let floors = floors(all.iter().copied());
    for told in &all {
        let Some(rows) = floors.get(&told.partition) else { continue };
        let before = rows.partition_point(|(at, _)| *at < told.start);
        if let Some((_, floor)) = before.checked_sub(1).map(|last| rows[last])
            && told.offset < floor
        {
            wrong.push(format!("back: {told:?}, and {floor} had been committed"));
        }
    }
}

fn find_invented(seen: &Seen, wrong: &mut Vec<String>) {
    let mut first_read: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for (_, event) in seen.of(Kind::Read) {
        let at = first_read.entry((event.partition, event.offset)).or_insert(event.at);
        *at = event.at.min(*at);
    }
    for told in seen.told().into_iter().filter(|told| told.offset > 0) {
        let last = (told.partition, told.offset - 1);
        if !seen.untimed.contains(&last) && first_read.get(&last).is_none_or(|at| *at > told.at) {
            wrong.push(format!("invented: {told:?}, and nobody had processed the record before it"));
        }
    }
}

fn find_skips(log: &Log, wrong: &mut Vec<String>) {
    let mut next: BTreeMap<i64, i64> = BTreeMap::new();
    for event in &log.events {
        match event.kind {
            Kind::Assigned => _ = next.insert(event.partition, event.offset.max(0)),
            Kind::Revoked => _ = next.remove(&event.partition),
            Kind::Read => {
                let Some(wanted) = next.insert(event.partition, event.offset + 1) else {
                    wrong.push(format!("shared: {} read {event:?}, which it did not have", log.member));
                    continue;
                };
                if wanted != event.offset {
                    let kind = if event.offset > wanted { "skip" } else { "again" };
                    wrong.push(format!("{kind}: {} read {event:?}, not {wanted}", log.member));
                }
            }
            Kind::Committing | Kind::Committed => {}
        }
    }
}

/// A partition of a member, from this generation on to before that one.
struct Hold<'a> {
    member: &'a str,
    from: i64,
    to: i64,
}

/// What each process says it held. Who was not told any more that it lost a partition held it in the last generation in which it says so.
fn holds(seen: &Seen) -> BTreeMap<i64, Vec<Hold<'_>>> {
    let mut all: BTreeMap<i64, Vec<Hold>> = BTreeMap::new();
    for log in &seen.logs {
        let mut open: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut close = |partition: i64, from: i64, to: i64| {
            all.entry(partition).or_default().push(Hold { member: &log.member, from, to });
        };
        for event in log.events.iter().filter(|event| event.kind != Kind::Read) {
            let known = open.get_mut(&event.partition);
            match (event.kind, known) {
                (Kind::Assigned, None) if event.generation >= 0 => {
                    open.insert(event.partition, (event.generation, event.generation));
                }
                (Kind::Committing, Some((_, last))) => *last = event.generation.max(*last),
                (Kind::Revoked, Some((from, last))) => {
                    // Cooperative members hear of it in the generation that no longer gives it to them; the others before there is one.
                    let (from, end) =
                        (*from, if event.generation > *from { event.generation } else { *last + 1 });
                    open.remove(&event.partition);
                    close(event.partition, from, end);
                }
                _ => {}
            }
        }
        open.into_iter().for_each(|(partition, (from, last))| close(partition, from, last + 1));
    }
    all
}

fn find_shared(seen: &Seen, wrong: &mut Vec<String>) {
    for (partition, mut holds) in holds(seen) {
        holds.sort_by_key(|hold| hold.from);
        for (at, one) in holds.iter().enumerate() {
            let others = holds[at + 1..].iter().take_while(|other| other.from < one.to);
            for other in others.filter(|other| other.member != one.member) {
                wrong.push(format!(
                    "shared: partition {partition} is {}'s from generation {} to before {}, and {}'s in {}",
                    one.member, one.from, one.to, other.member, other.from
                ));
            }
        }
    }
    for members in &seen.described {
        let mut owner: BTreeMap<i64, &str> = BTreeMap::new();
        for (member, partition) in members.iter().flat_map(|(id, places)| places.iter().map(move |p| (id, p)))
        {
            if let Some(other) = owner.insert(*partition, member) {
                wrong.push(format!("shared: partition {partition} is told to be {other}'s and {member}'s"));
            }
        }
    }
}

fn find_unfenced(seen: &Seen, wrong: &mut Vec<String>) {
    let mut by: BTreeMap<(i64, i64), &str> = BTreeMap::new();
    let commits: Vec<(&str, &Event)> = seen.of(Kind::Committed).filter(|(_, e)| e.generation >= 0).collect();
    for (member, event) in &commits {
        let first = *by.entry((event.partition, event.generation)).or_insert(member);
        if first != *member {
            wrong.push(format!("fenced: {event:?} of {member}, and {first} committed in it too"));
        }
    }
    let generations = floors(commits.iter().map(|(_, event)| Told {
        partition: event.partition,
        offset: event.generation,
        start: event.start,
        at: event.at,
    }));
    for (member, event) in &commits {
        let rows = &generations[&event.partition];
        let before = rows.partition_point(|(at, _)| *at < event.start);
        if let Some((_, newest)) = before.checked_sub(1).map(|last| rows[last])
            && event.generation < newest
        {
            wrong.push(format!("fenced: {event:?} of {member}, and generation {newest} had committed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two members of one partition of six records: `a` has it in generation 1 and commits 3, `b` in generation 2.
    fn sound() -> Seen {
        let a = [
            r#"{"t":"assigned","p":0,"o":-1001,"g":1,"s":1,"at":2}"#,
            r#"{"t":"read","p":0,"o":0,"at":3}"#,
            r#"{"t":"read","p":0,"o":1,"at":4}"#,
            r#"{"t":"read","p":0,"o":2,"at":5}"#,
            r#"{"t":"committing","p":0,"o":3,"g":1,"at":6}"#,
            r#"{"t":"committed","p":0,"o":3,"g":1,"s":6,"at":8}"#,
            r#"{"t":"revoked","p":0,"g":1,"at":9}"#,
            "",
        ];
        let b = [
            r#"{"t":"assigned","p":0,"o":3,"g":2,"s":11,"at":12}"#,
            r#"{"t":"read","p":0,"o":3,"at":13}"#,
            r#"{"t":"read","p":0,"o":4,"at":14}"#,
            r#"{"t":"committing","p":0,"o":5,"g":2,"at":15}"#,
            r#"{"t":"committed","p":0,"o":5,"g":2,"s":15,"at":16}"#,
            r#"{"t":"read","p":0,"o":5,"at":17}"#,
            r#"{"t":"read","p":0,"o":"#,
        ];
        let log = |member: &str, lines: &[&str]| Log {
            member: member.into(),
            events: parse_events(&lines.join("\n")),
        };
        let watch = [
            r#"{"t":"polled","group":"g","p":0,"o":-1001,"s":1,"at":7}"#,
            r#"{"t":"polled","group":"g","p":0,"o":3,"s":9,"at":10}"#,
            r#"{"t":"described","group":"g","members":[{"id":"b","partitions":[0]},{"id":"a","partitions":[]}],"s":13,"at":14}"#,
            "",
        ];
        let mut seen = BTreeMap::new();
        parse_watch(&watch.join("\n"), &mut seen);
        Seen { logs: vec![log("a", &a), log("b", &b)], ..seen.remove("g").expect("what was watched") }
    }

    fn written() -> BTreeMap<i64, i64> {
        BTreeMap::from([(0, 5)])
    }

    #[test]
    fn sound_history_is_found_sound() {
        let (counts, wrong) = check(&sound(), &written());
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(counts, Counts { commits: 2, assignments: 2, generation: 2, read: 6, again: 0 });
    }

    /// Breaks the sound history, and returns the names of what is found.
    fn broken(break_it: impl FnOnce(&mut Seen)) -> BTreeSet<String> {
        let mut seen = sound();
        break_it(&mut seen);
        let (_, wrong) = check(&seen, &written());
        wrong.iter().map(|text| text.split(':').next().expect("a name").to_owned()).collect()
    }

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn commit_that_is_forgotten_is_found() {
        let forgotten = |seen: &mut Seen| {
            seen.logs[1].events[0].offset = 2;
            let read = Event { offset: 2, ..seen.logs[1].events[1] };
            seen.logs[1].events.insert(1, read);
        };
        assert_eq!(broken(forgotten), names(&["back"]), "by the next owner");
        assert_eq!(broken(|seen| seen.polls[1].offset = 2), names(&["back"]), "by an onlooker");
        let late = |seen: &mut Seen| (seen.polls[0].start, seen.polls[0].at) = (9, 10);
        assert_eq!(broken(late), names(&["back"]), "nothing is committed, it said");
        let told_twice = |seen: &mut Seen| {
            seen.polls[0] = Told { offset: 5, start: 17, at: 18, ..seen.polls[0] };
            seen.polls[1] = Told { offset: 4, start: 19, at: 20, ..seen.polls[1] };
        };
        assert_eq!(broken(told_twice), names(&["back"]), "by two answers");
    }

    #[test]
    fn commit_below_another_is_found_and_a_line_written_late_is_none() {
        let below = |seen: &mut Seen| {
            seen.logs[1].events[3].offset = 2;
            seen.logs[1].events[4].offset = 2;
        };
        assert_eq!(broken(below), names(&["back"]));
        let late = |seen: &mut Seen| seen.logs[0].events[5].at = 30;
        assert_eq!(broken(late), BTreeSet::new(), "it was stopped before it wrote that");
    }

    #[test]
    fn records_passed_over_are_found() {
        let skipped = |seen: &mut Seen| _ = seen.logs[1].events.remove(2);
        assert_eq!(broken(skipped), names(&["skip", "unread"]));
        let above = |seen: &mut Seen| {
            seen.logs[1].events[0].offset = 4;
            seen.logs[1].events.remove(1);
        };
        assert_eq!(
            broken(above),
            names(&["invented", "unread"]),
            "the group went on above what was processed"
        );
        assert_eq!(broken(|seen| _ = seen.logs[1].events.pop()), names(&["unread"]));
        let in_the_end = |seen: &mut Seen| {
            seen.logs[1].events.pop();
            seen.untimed.insert((0, 5));
        };
        assert_eq!(broken(in_the_end), BTreeSet::new(), "another one read it");
        let again = |seen: &mut Seen| {
            let read = seen.logs[1].events[1];
            seen.logs[1].events.push(read);
        };
        assert_eq!(broken(again), names(&["again"]));
    }

    #[test]
    fn offset_nobody_came_to_is_found() {
        assert_eq!(broken(|seen| seen.polls[1].offset = 4), names(&["invented", "back"]));
        let soon = |seen: &mut Seen| seen.polls[1] = Told { offset: 5, start: 12, at: 13, ..seen.polls[1] };
        assert_eq!(broken(soon), names(&["invented"]), "told before it was processed");
    }

    #[test]
    fn two_owners_in_one_generation_are_found() {
        let same = |seen: &mut Seen| {
            seen.logs[1].events.iter_mut().filter(|e| e.generation == 2).for_each(|e| e.generation = 1);
        };
        assert_eq!(broken(same), names(&["shared", "fenced"]));
        let kept = |seen: &mut Seen| {
            // Cooperative: still its own in generation 2, as it says itself.
            seen.logs[0].events[6].generation = 3;
        };
        assert_eq!(broken(kept), names(&["shared"]));
        let one = |seen: &mut Seen| {
            same(seen);
            seen.logs[1].member = "a".into();
        };
        assert_eq!(broken(one), BTreeSet::new(), "a static member that came back");
        assert_eq!(broken(|seen| seen.described[0][1].1.push(0)), names(&["shared"]));
        let unowned = |seen: &mut Seen| _ = seen.logs[1].events.remove(0);
        assert_eq!(broken(unowned), names(&["shared"]), "read by one whose it is not");
    }

    #[test]
    fn commit_of_a_generation_that_is_over_is_found() {
        let zombie = |seen: &mut Seen| {
            seen.logs[0].events[5] = Event { offset: 6, start: 18, at: 19, ..seen.logs[0].events[5] };
        };
        assert_eq!(broken(zombie), names(&["fenced"]));
    }
}
