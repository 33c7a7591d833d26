//! `kontiki group list|describe|seek|delete`: consumer groups, their members, how far behind they are.
//!
//! `seek` sets offsets of a group without members; one that has members would overwrite them, and is refused. Not here: reading with a group.

use crate::cli::Global;
use crate::cli_group::{DescribeArgs, GroupCommand, SeekArgs};
use crate::consume::parse_range;
use crate::output::{Failure, Item, Outcome, Ui, pairs, table};
use kontiki::client::groups::{GroupDescription, GroupMember};
use kontiki::client::{Client, Position};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

type Offsets = BTreeMap<(String, i32), i64>;

/// Runs the command.
pub async fn run(command: GroupCommand, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    match command {
        GroupCommand::List => list(&client, ui).await,
        GroupCommand::Describe(args) => describe(&client, &args, ui).await,
        GroupCommand::Seek(args) => seek(&client, &args, ui).await,
        GroupCommand::Delete(args) => delete(&client, &args.groups, ui).await,
    }
}

async fn list(client: &Client, ui: &Ui) -> Outcome {
    let groups = client.list_groups().await?;
    let items = groups.into_iter().map(|group| {
        let json = json!({ "group": group.group, "state": group.state, "protocol_type": group.protocol_type,
                           "coordinator": group.coordinator });
        let cells = vec![group.group, group.state, group.protocol_type, group.coordinator.to_string()];
        Item::ok(cells, json)
    });
    ui.results(&["GROUP", "STATE", "PROTOCOL-TYPE", "COORDINATOR"], items.collect())
}

/// A partition as a group stands in it.
struct Row {
    topic: String,
    partition: i32,
    /// None: nothing is committed.
    current: Option<i64>,
    /// None: the topic is gone.
    end: Option<i64>,
    owner: Option<GroupMember>,
}

impl Row {
    /// Records between what is committed and the end.
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.current?).max(0))
    }

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<i64>| number.map(|n| n.to_string()).unwrap_or_default();
        let of =
            |part: fn(&GroupMember) -> &String| self.owner.as_ref().map(part).cloned().unwrap_or_default();
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            number(self.current),
            number(self.end),
            number(self.lag()),
            of(|member| &member.id),
            of(|member| &member.client_id),
            of(|member| &member.host),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let member = self
            .owner
            .as_ref()
            .map(|m| json!({ "id": m.id, "instance": m.instance, "client_id": m.client_id, "host": m.host }));
        json!({ "topic": self.topic, "partition": self.partition, "current_offset": self.current,
                "end_offset": self.end, "lag": self.lag(), "member": member })
    }
}

async fn describe(client: &Client, args: &DescribeArgs, ui: &Ui) -> Outcome {
    let mut items = Vec::new();
    for (place, name) in args.groups.iter().enumerate() {
        let group = client.describe_group(name).await?;
        let mut rows = rows(client, name, &group).await?;
        let lag: i64 = rows.iter().filter_map(Row::lag).sum();
        rows.retain(|row| !args.only_with_lag || row.lag() != Some(0));
        if ui.is_json() {
            let members = group.members.iter().map(member_json).collect::<Vec<_>>();
            let rows = rows.iter().map(Row::json).collect::<Vec<_>>();
            items.push(json!({ "group": name, "state": group.state, "protocol_type": group.protocol_type,
                               "protocol": group.protocol, "coordinator": group.coordinator, "lag": lag,
                               "members": members, "partitions": rows }));
            continue;
        }
        let head = pairs(&[
            ("GROUP", name.clone()),
            ("STATE", group.state.clone()),
            ("PROTOCOL", group.protocol.clone()),
            ("COORDINATOR", group.coordinator.to_string()),
            ("MEMBERS", group.members.len().to_string()),
            ("LAG", lag.to_string()),
        ]);
        let headers =
            ["TOPIC", "PARTITION", "CURRENT-OFFSET", "END-OFFSET", "LAG", "MEMBER-ID", "CLIENT-ID", "HOST"];
        let body = table(&headers, &rows.iter().map(Row::cells).collect::<Vec<_>>());
        ui.out(&format!("{}{head}\n{body}", if place > 0 { "\n" } else { "" }))?;
        for member in group.members.iter().filter(|member| member.assigned.is_empty()) {
            ui.note(&format!("member {} of {} has no partition", member.id, member.host));
        }
    }
    if ui.is_json() {
        ui.json_items(items)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn member_json(member: &GroupMember) -> serde_json::Value {
    let assigned =
        member.assigned.iter().map(|(t, p)| json!({ "topic": t, "partition": p })).collect::<Vec<_>>();
    json!({ "id": member.id, "instance": member.instance, "client_id": member.client_id, "host": member.host,
            "assigned": assigned })
}

/// What is committed or assigned, with the partitions' ends.
async fn rows(client: &Client, name: &str, group: &GroupDescription) -> Result<Vec<Row>, Failure> {
    let committed = client.group_offsets(name).await?;
    let mut owners: BTreeMap<(String, i32), &GroupMember> = BTreeMap::new();
    for member in &group.members {
        owners.extend(member.assigned.iter().map(|key| (key.clone(), member)));
    }
    let keys: BTreeSet<(String, i32)> = committed.keys().chain(owners.keys()).cloned().collect();
    let ends = ends(client, &keys).await?;
    let row = |key: (String, i32)| Row {
        current: committed.get(&key).copied(),
        end: ends.get(&key).copied(),
        owner: owners.get(&key).copied().cloned(),
        topic: key.0,
        partition: key.1,
    };
    Ok(keys.into_iter().map(row).collect())
}

/// Ends of those partitions that there are.
async fn ends(client: &Client, keys: &BTreeSet<(String, i32)>) -> Result<Offsets, Failure> {
    let mut ends = Offsets::new();
    for (topic, partitions) in by_topic(keys) {
        client.refresh(Some(std::slice::from_ref(&topic)), false).await?;
        let count = client.partition_count(&topic);
        let there: Vec<i32> = partitions.into_iter().filter(|partition| *partition < count).collect();
        if there.is_empty() {
            continue;
        }
        let found = client.end_offsets(&topic, &there).await?;
        ends.extend(found.into_iter().map(|(partition, end)| ((topic.clone(), partition), end)));
    }
    Ok(ends)
}

fn by_topic(keys: &BTreeSet<(String, i32)>) -> BTreeMap<String, Vec<i32>> {
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in keys {
        topics.entry(topic.clone()).or_default().push(*partition);
    }
    topics
}

async fn seek(client: &Client, args: &SeekArgs, ui: &Ui) -> Outcome {
    let range = parse_range(&args.to)?;
    if range.until.is_some() {
        return Err(Failure::usage(format!("--to {} is a range; it takes one place", args.to)));
    }
    refuse_members(client, &args.group).await?;
    let before = client.group_offsets(&args.group).await?;
    let keys = wanted(client, args, &before).await?;
    let after = target(client, &keys, range.from).await?;
    if !args.dry_run {
        client.commit_group_offsets(&args.group, &after).await?;
    }
    let item = |(key, offset): (&(String, i32), &i64)| {
        let prior = before.get(key).copied();
        let json = json!({ "topic": key.0, "partition": key.1, "prior_offset": prior, "new_offset": offset });
        let prior = prior.map(|prior| prior.to_string()).unwrap_or_default();
        Item::ok(vec![key.0.clone(), key.1.to_string(), prior, offset.to_string()], json)
    };
    let outcome =
        ui.results(&["TOPIC", "PARTITION", "PRIOR-OFFSET", "NEW-OFFSET"], after.iter().map(item).collect())?;
    if args.dry_run {
        ui.note("nothing was changed (--dry-run)");
    }
    Ok(outcome)
}

/// A group with members sets its own offsets: it would undo what is set here, or skip what it has read.
async fn refuse_members(client: &Client, name: &str) -> Result<(), Failure> {
    let members = match client.describe_group(name).await {
        Ok(group) => group.members,
        Err(error) if error.name() == "GROUP_ID_NOT_FOUND" => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if members.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = members.iter().map(|m| format!("{} at {}", m.client_id, m.host)).collect();
    let text = format!(
        "group `{name}` has {} active members ({}); offsets can change only while it is empty",
        members.len(),
        names.join(", ")
    );
    let hint = format!("stop the members; `kontiki group describe {name}` shows them");
    Err(Failure::new("NON_EMPTY_GROUP", text).with_hint(hint))
}

/// The partitions to set: of the topics named, all; else those that the group has committed in.
async fn wanted(
    client: &Client,
    args: &SeekArgs,
    before: &Offsets,
) -> Result<BTreeSet<(String, i32)>, Failure> {
    if args.topics.is_empty() {
        if before.is_empty() {
            let text = format!("group `{}` has committed nothing", args.group);
            return Err(Failure::new("NO_OFFSETS", text).with_hint("name the topics: --topics a,b"));
        }
        return Ok(before.keys().cloned().collect());
    }
    let mut keys = BTreeSet::new();
    for topic in &args.topics {
        let info = client.topic(topic, false, client.options().call_timeout).await?;
        keys.extend(info.partitions.iter().map(|partition| (topic.clone(), partition.index)));
    }
    Ok(keys)
}

/// Where the position is in each partition, kept within what the partition holds.
async fn target(client: &Client, keys: &BTreeSet<(String, i32)>, to: Position) -> Result<Offsets, Failure> {
    let mut offsets = Offsets::new();
    for (topic, partitions) in by_topic(keys) {
        client.topic(&topic, false, client.options().call_timeout).await?;
        let starts = client.start_offsets(&topic, &partitions).await?;
        let ends = client.end_offsets(&topic, &partitions).await?;
        for (partition, offset) in client.resolve(&topic, &partitions, to).await? {
            let start = starts.get(&partition).copied().unwrap_or(0);
            let end = ends.get(&partition).copied().unwrap_or(offset).max(start);
            offsets.insert((topic.clone(), partition), offset.clamp(start, end));
        }
    }
    Ok(offsets)
}

async fn delete(client: &Client, groups: &[String], ui: &Ui) -> Outcome {
    let mut items = Vec::with_capacity(groups.len());
    for group in groups {
        let json = json!({ "group": group });
        items.push(match client.delete_group(group).await {
            Ok(()) => Item::ok(vec![group.clone(), "deleted".into()], json),
            Err(error) => Item::failed(vec![group.clone(), error.to_string()], json, error.into()),
        });
    }
    ui.results(&["GROUP", "RESULT"], items)
}
