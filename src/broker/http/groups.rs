//! Consumer groups in /metrics, by kafka_exporter's names: members, committed offsets, and lag where this broker holds the partition.
//!
//! Every group is shown by the broker that coordinates it, so all brokers together show each once. Of a partition that is held elsewhere this broker does not
//! know the end: its committed offset is there, and whoever has both brokers' figures can subtract them.
//! Invariants: no more than [`GROUPS_SHOWN`] groups and [`ROWS_SHOWN`] offsets, the first ones by name, and the rest is counted; a group that cannot be
//! asked within [`PATIENCE`] is left out, so that the other metrics never wait for one.
//! Not here: what groups are (`broker::groups`).

use super::{Image, PartitionState, metric};
use crate::broker::api::NodeHandle;
use crate::broker::groups::{Ask, Reply};
use crate::broker::handlers::coordinator::ask_at_once;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Groups shown at most.
const GROUPS_SHOWN: usize = 200;
/// Of names of up to so many bytes.
const NAME_SHOWN: usize = 255;
/// Groups asked beside each other.
const ASKED_AT_ONCE: usize = 16;
/// Committed offsets shown at most.
const ROWS_SHOWN: usize = 5_000;
/// For all of them: a coordinator has to hear from a majority before it says what is committed.
const PATIENCE: Duration = Duration::from_secs(1);

/// A group as it is shown.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    group: String,
    members: usize,
    /// Topic, partition, committed offset.
    offsets: Vec<(String, i32, i64)>,
}

/// Appends them. `states` stand in the order of the image's topics and partitions.
pub(super) async fn render(out: &mut String, node: &NodeHandle, image: &Image, states: &[PartitionState]) {
    let (all, shown) = look(node).await;
    write(out, all, &shown, &ends(image, states));
}

/// How many there are, and those that can be shown.
async fn look(node: &NodeHandle) -> (usize, Vec<Shown>) {
    let (mut listed, _) = node.groups().await;
    let all = listed.len();
    listed.retain(|row| row.group.len() <= NAME_SHOWN);
    listed.sort_by(|a, b| a.group.cmp(&b.group));
    listed.truncate(GROUPS_SHOWN);
    let deadline = Instant::now() + PATIENCE;
    let mut shown: Vec<Shown> = Vec::new();
    for some in listed.chunks(ASKED_AT_ONCE) {
        let mut asking = JoinSet::new();
        for row in some {
            let (node, group) = (node.clone(), row.group.clone());
            asking.spawn(
                async move { tokio::time::timeout_at(deadline, one(&node, group)).await.ok().flatten() },
            );
        }
        shown.extend(asking.join_all().await.into_iter().flatten());
        let rows: usize = shown.iter().map(|shown| shown.offsets.len()).sum();
        if rows >= ROWS_SHOWN || Instant::now() >= deadline {
            break;
        }
    }
    shown.sort_by(|a, b| a.group.cmp(&b.group));
    (all, shown)
}

/// Asks one group's coordinator, which this node is.
async fn one(node: &NodeHandle, group: String) -> Option<Shown> {
    let Reply::Described(description) = ask_at_once(node, &group, Ask::Describe).await else { return None };
    let Reply::Offsets(rows) = ask_at_once(node, &group, Ask::Offsets(None)).await else { return None };
    let offsets =
        rows.into_iter().filter_map(|((topic, partition), row)| Some((topic, partition, row?.offset)));
    Some(Shown { group, members: description.members.len(), offsets: offsets.collect() })
}

type Ends<'a> = HashMap<(&'a str, i32), i64>;

/// Where the partitions end that this broker holds.
fn ends<'a>(image: &'a Image, states: &[PartitionState]) -> Ends<'a> {
    let mut states = states.iter();
    let mut ends = Ends::new();
    for topic in image.topics.values() {
        for (index, state) in (0..topic.partitions.len()).zip(states.by_ref()) {
            if let (true, Ok(index)) = (state.local, i32::try_from(index)) {
                ends.insert((topic.name.as_str(), index), state.high_watermark);
            }
        }
    }
    ends
}

// Writing to a `String` cannot fail, so its results are dropped below.

fn write(out: &mut String, all: usize, shown: &[Shown], ends: &Ends) {
    metric(out, "kontiki_consumergroups", "gauge", "Consumer groups this broker coordinates", all);
    let rows = || {
        let rows = shown.iter().flat_map(|shown| shown.offsets.iter().map(move |row| (&shown.group, row)));
        rows.take(ROWS_SHOWN).map(|(group, (topic, partition, offset))| {
            let labels =
                format!("consumergroup=\"{}\",topic=\"{topic}\",partition=\"{partition}\"", escaped(group));
            (labels, ends.get(&(topic.as_str(), *partition)), *offset)
        })
    };
    let more = shown.iter().map(|shown| shown.offsets.len()).sum::<usize>().saturating_sub(ROWS_SHOWN);
    let help =
        "Groups and committed offsets that are not shown: too many, too long a name, or not told in time";
    metric(out, "kontiki_consumergroups_left_out", "gauge", help, all.saturating_sub(shown.len()) + more);
    let mut head = |name: &str, help: &str, lines: &mut dyn Iterator<Item = String>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        lines.for_each(|line| {
            let _ = writeln!(out, "{name}{{{line}");
        });
    };
    let members = shown.iter().map(|s| format!("consumergroup=\"{}\"}} {}", escaped(&s.group), s.members));
    head("kafka_consumergroup_members", "Members of the group", &mut members.into_iter());
    let help = "Offset that the group has committed";
    let mut offsets = rows().map(|(labels, _, offset)| format!("{labels}}} {offset}"));
    head("kafka_consumergroup_current_offset", help, &mut offsets);
    let help = "Records between it and the end, of partitions that this broker holds alone: not to be summed";
    let mut lags =
        rows().filter_map(|(labels, end, offset)| Some(format!("{labels}}} {}", (end? - offset).max(0))));
    head("kafka_consumergroup_lag", help, &mut lags);
}

/// A label's value in Prometheus' text: groups may be called anything.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, rows: usize) -> Shown {
        let offsets = (0..rows).map(|n| ("t".to_owned(), n as i32, 40)).collect();
        Shown { group: name.to_owned(), members: 2, offsets }
    }

    #[test]
    fn lag_is_shown_where_the_end_is_known_and_names_are_escaped() {
        let mut out = String::new();
        let shown = [group("a", 3), group("b\"c\\d\ne", 1)];
        write(&mut out, 2, &shown, &Ends::from([(("t", 0), 42), (("t", 1), 39), (("u", 0), 99)]));
        for line in [
            "kontiki_consumergroups 2",
            "kontiki_consumergroups_left_out 0",
            "kafka_consumergroup_members{consumergroup=\"a\"} 2",
            "kafka_consumergroup_current_offset{consumergroup=\"a\",topic=\"t\",partition=\"2\"} 40",
            "kafka_consumergroup_lag{consumergroup=\"a\",topic=\"t\",partition=\"0\"} 2",
            // A follower may not know yet how far the leader is.
            "kafka_consumergroup_lag{consumergroup=\"a\",topic=\"t\",partition=\"1\"} 0",
            "kafka_consumergroup_lag{consumergroup=\"b\\\"c\\\\d\\ne\",topic=\"t\",partition=\"0\"} 2",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} not in\n{out}");
        }
        assert!(
            !out.contains("kafka_consumergroup_lag{consumergroup=\"a\",topic=\"t\",partition=\"2\"}"),
            "{out}"
        );
    }

    #[test]
    fn what_is_too_much_is_counted_and_not_shown() {
        let mut out = String::new();
        write(&mut out, 210, &[group("a", ROWS_SHOWN), group("b", 3)], &Ends::new());
        let rows = out.lines().filter(|line| line.starts_with("kafka_consumergroup_current_offset{")).count();
        assert_eq!(rows, ROWS_SHOWN);
        assert!(out.contains("\nkontiki_consumergroups_left_out 211\n"), "208 groups, 3 offsets: {out:.200}");
    }
}
